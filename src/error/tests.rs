//! Errors: their texts, their kinds, and their ways through others.

use super::*;

#[test]
fn survives_the_way_through_io_error() {
    let own = Error::LineTooLong { peer: "x".into(), limit: 3 };
    let back = Error::from(io::Error::from(own));
    assert!(matches!(back, Error::LineTooLong { limit: 3, .. }), "{back}");
}

#[test]
fn foreign_errors_keep_their_words() {
    let foreign = Error::from(io::Error::new(io::ErrorKind::StorageFull, "no room"));
    assert_eq!(foreign.to_string(), "no room");
    assert_eq!(foreign.kind(), io::ErrorKind::StorageFull);
    let foreign = Error::from(glib::Error::new(gio::IOErrorEnum::Busy, "not now"));
    assert_eq!(foreign.to_string(), "not now");
}

#[test]
fn a_failure_has_one_wording_whatever_the_cause() {
    let cause = |kind: io::ErrorKind| io::Error::from(kind);
    for kind in [io::ErrorKind::AddrInUse, io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied] {
        let error = Error::from_listen("/x", cause(kind)).to_string();
        assert!(error.starts_with("cannot listen on /x: "), "{error}");
    }
    for kind in [io::ErrorKind::ConnectionRefused, io::ErrorKind::PermissionDenied] {
        let error = Error::from_connect("/x", cause(kind)).to_string();
        assert!(error.starts_with("cannot connect to /x: "), "{error}");
    }
}

#[test]
fn the_next_try_is_told_in_whole_seconds() {
    let down = |next| Error::Down { address: "host:1".into(), next }.to_string();
    assert_eq!(down(Some(Duration::from_millis(2100))), "not connected to host:1 (next try in 3 s)");
    assert_eq!(down(Some(Duration::from_secs(2))), "not connected to host:1 (next try in 2 s)");
    assert_eq!(down(None), "not connected to host:1");
}

#[test]
fn one_is_not_many() {
    let line = |limit| Error::LineTooLong { peer: "x".into(), limit }.to_string();
    assert_eq!(line(1), "line from x exceeds the limit of 1 byte");
    assert_eq!(line(2), "line from x exceeds the limit of 2 bytes");
    let threads = |others| Error::OtherThreads { others, names: "gmain".into() }.to_string();
    assert!(threads(1).contains(" 1 other thread (gmain)"), "{}", threads(1));
    assert!(threads(2).contains(" 2 other threads (gmain)"), "{}", threads(2));
}

#[test]
fn text_for_people_has_no_numbers_of_the_system_and_no_debug_forms() {
    let source = || io::Error::from(rustix::io::Errno::CONNREFUSED);
    let text = Error::from_connect("host:1", source()).to_string();
    assert_eq!(text, "cannot connect to host:1: Connection refused");
    let text = Error::from_io(Operation::Read, "host:1", io::Error::from(rustix::io::Errno::IO)).to_string();
    assert_eq!(text, "cannot read from host:1: Input/output error");
    for (limit, words) in [(30_000, "30 s"), (1_500, "1.5 s"), (50, "50 ms")] {
        let limit = Duration::from_millis(limit);
        let late = Error::TimedOut { operation: Operation::Connect, address: "host:1".into(), limit };
        assert_eq!(late.to_string(), format!("timed out after {words} while connecting to host:1"));
    }
    assert_eq!(in_words(Duration::from_micros(20)), "20 µs");
    assert_eq!(in_words(Duration::ZERO), "0 s");
}

#[test]
fn debug_shows_the_variant_and_the_text() {
    let error = Error::Closed { peer: "host:1".into() };
    assert_eq!(format!("{error:?}"), "Closed: the connection to host:1 is closed");
}

#[test]
fn errors_of_parsers_pass_through_a_question_mark() {
    fn number(bytes: &[u8]) -> Result<u8> {
        Ok(std::str::from_utf8(bytes)?.parse()?)
    }
    fn address(bytes: Vec<u8>) -> Result<std::net::IpAddr> {
        Ok(String::from_utf8(bytes)?.parse()?)
    }
    assert_eq!(number(b"7").unwrap(), 7);
    for bytes in [b"\xff".as_slice(), b"x"] {
        assert!(matches!(number(bytes), Err(Error::Other(_))));
        assert!(matches!(address(bytes.to_vec()), Err(Error::Other(_))));
    }
}

#[test]
fn text_of_peers_is_one_line_of_visible_characters() {
    let text = "Büro 1\\ \n\r\t\u{1b}[2J\u{85}\u{2028}\u{202e}\u{2066}\0ende";
    let shown = Printable(text).to_string();
    assert_eq!(shown, "Büro 1\\ \\n\\r\\t\\u{1b}[2J\\u{85}\\u{2028}\\u{202e}\\u{2066}\\u{0}ende");
    assert_eq!(Printable(&shown).to_string(), shown);
}

#[test]
fn becomes_a_glib_error() {
    let error = glib::Error::from(Error::Closed { peer: "host:1".into() });
    assert!(error.matches(gio::IOErrorEnum::Closed));
    assert_eq!(error.message(), "the connection to host:1 is closed");
}

#[test]
fn stays_small_enough_to_return_by_value() {
    assert!(size_of::<Error>() <= 72, "{}", size_of::<Error>());
}
