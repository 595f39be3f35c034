//! Bytes through the session and the transport, when there is room and when there is none.

use std::io::ErrorKind;

use rustix::io::Errno;

use super::*;

#[test]
fn without_a_session_bytes_go_straight_to_the_transport() {
    rig(|rig| {
        let wire = rig.tcp();
        let channel = wire.conn.channel();
        assert_eq!(channel.write(b"plain").unwrap(), 5);
        assert!(!channel.holds_output());
        channel.write_held().unwrap();
        channel.close_notify();
        assert!(channel.decrypt(b"x", &mut Vec::new()).is_none());
        assert_eq!(wire.written(), "plain");
    });
}

#[test]
fn what_the_session_took_counts_as_written_and_what_it_holds_goes_first() {
    rig(|rig| {
        let (wire, mut tls) = rig.sealed(Side::Server);
        wire.script.has_room(0);
        let channel = wire.conn.channel();
        assert_eq!(channel.write(b"one ").unwrap(), 4);
        assert!(channel.holds_output());
        assert_eq!(channel.write(b"two").unwrap_err().kind(), ErrorKind::WouldBlock, "nothing of it was taken");
        assert_eq!(channel.write_held().unwrap_err().kind(), ErrorKind::WouldBlock);
        wire.script.has_room(usize::MAX);
        assert_eq!(channel.write(b"two").unwrap(), 3);
        assert_eq!(tls.got(&wire), "one two");
    });
}

#[test]
fn after_its_end_a_session_takes_nothing() {
    rig(|rig| {
        let (wire, mut tls) = rig.sealed(Side::Server);
        let channel = wire.conn.channel();
        channel.close_notify();
        assert!(channel.holds_output());
        assert_eq!(channel.write(b"late").unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert_eq!(tls.got(&wire), "");
        assert!(tls.session.peer_closed());
    });
}

#[test]
fn an_error_of_the_transport_comes_through() {
    rig(|rig| {
        let (wire, _tls) = rig.sealed(Side::Client);
        wire.script.refuses(Errno::CONNRESET);
        assert_eq!(wire.conn.channel().write(b"lost").unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn during_the_handshake_nothing_is_taken() {
    rig(|rig| {
        let (wire, _tls) = rig.tls(Side::Client, |_| ());
        assert!(!wire.script.written().is_empty(), "a client speaks first");
        assert_eq!(wire.conn.channel().write(b"early").unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(wire.script.written().is_empty());
    });
}

#[test]
fn decrypting_tells_what_came_of_it() {
    rig(|rig| {
        let (wire, mut tls) = rig.sealed(Side::Server);
        let channel = wire.conn.channel();
        let mut plain = Vec::new();
        let sealed = tls.seals("data");
        let half = channel.decrypt(&sealed[..8], &mut plain).unwrap();
        assert!(half.outcome.is_ok() && !half.has_ended && plain.is_empty());
        let whole = channel.decrypt(&sealed[8..], &mut plain).unwrap();
        assert!(whole.outcome.is_ok() && !whole.has_ended && !whole.has_answers);
        assert_eq!(plain, b"data");
        let cut = channel.decrypt(b"", &mut plain).unwrap();
        assert_eq!((failure(cut.outcome), cut.has_ended), ("Truncated".into(), true));
        let end = channel.decrypt(&tls.ends(), &mut plain).unwrap();
        assert!(end.outcome.is_ok() && end.has_ended);
        assert!(channel.decrypt(b"", &mut plain).unwrap().outcome.is_ok(), "nothing is missing");
    });
}
