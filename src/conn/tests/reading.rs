//! What one read after the other brings, and how the input ends.

use rustix::io::Errno;

use super::*;
use crate::sys::script::Input;

#[test]
fn a_read_that_brings_less_than_it_had_room_for_is_the_last() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.reads();
        wire.comes("hello");
        assert_eq!(wire.heard(), ["data hello"]);
        assert!(!wire.conn.status.may_read());
        // No event, no read.
        wire.script.brings("later");
        rig.run();
        assert!(wire.heard().is_empty() && !wire.script.is_read_out());
        wire.is(Ready::READ);
        assert_eq!(wire.heard(), ["data later"]);
    });
}

#[test]
fn after_a_full_read_there_may_be_more() {
    rig(|rig| {
        let wire = rig.tcp();
        let heard = wire.heard.clone();
        wire.reads_with(move |_, data| {
            heard.push(data.len());
            Ok(())
        });
        wire.script.brings(vec![b'x'; READ_BUFFER]);
        wire.comes("rest");
        assert_eq!(wire.heard(), [READ_BUFFER.to_string(), "4".into()]);
    });
}

#[test]
fn an_event_without_data_changes_nothing() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.reads();
        wire.is(Ready::READ);
        assert!(wire.heard().is_empty() && !wire.conn.status.may_read() && wire.conn.is_open());
        wire.comes("data");
        assert_eq!(wire.heard(), ["data data"]);
    });
}

#[test]
fn data_comes_before_the_end_and_the_end_once() {
    rig(|rig| {
        for (unix, lines) in [(false, false), (false, true), (true, false), (true, true)] {
            let wire = if unix { rig.unix() } else { rig.tcp() };
            wire.hears_end();
            if lines {
                wire.reads_lines()
            } else {
                wire.reads()
            };
            wire.script.brings("last\n");
            wire.ends();
            wire.is(Ready::READ | Ready::HANGUP);
            let data = if lines { "line last" } else { "data last\n" };
            assert_eq!(wire.heard(), [data, "end: closed by the peer"]);
            assert_eq!(wire.phase(), Phase::Closed);
        }
    });
}

#[test]
fn a_line_without_its_end_is_left_over() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.hears_end().reads_lines();
        wire.script.brings("whole\nhalf");
        wire.ends();
        assert_eq!(wire.heard(), ["line whole", "end: closed by the peer, left half"]);
    });
}

#[test]
fn an_error_comes_after_the_data_before_it() {
    let errors = [(Errno::CONNRESET, "Reset"), (Errno::TIMEDOUT, "Io TimedOut"), (Errno::IO, "Io Uncategorized")];
    rig(|rig| {
        for (error, name) in errors {
            let wire = rig.tcp();
            wire.hears_end().reads();
            wire.script.brings("data").fails(error);
            wire.is(Ready::READ | Ready::HANGUP | Ready::ERROR);
            assert_eq!(wire.heard(), ["data data".into(), format!("end: {name}")]);
            assert_eq!(wire.phase(), Phase::Closed, "{name}: nothing is left to linger for");
            assert_eq!(kind(&wire.conn.closed()), name);
            assert!(!wire.conn.has_ended_cleanly());
        }
    });
}

#[test]
fn a_unix_socket_goes_on_where_descriptors_cut_a_read() {
    rig(|rig| {
        let wire = rig.unix();
        wire.reads();
        wire.script.then(Input::Cut(b"one".to_vec()));
        wire.comes("two");
        assert_eq!(wire.heard(), ["data one", "data two"]);
    });
}

#[test]
fn a_pair_of_descriptors_is_read_until_its_end() {
    rig(|rig| {
        for blocks in [false, true] {
            let wire = rig.pair(blocks);
            wire.hears_end().reads();
            wire.comes("one");
            wire.script.fails(Errno::INTR);
            wire.comes("two");
            wire.ends();
            assert_eq!(wire.heard(), ["data one", "data two", "end: closed by the peer"], "blocks: {blocks}");
            assert_eq!((wire.script.calls(), wire.out.calls()), (vec!["close"], vec!["close"]));
        }
    });
}

// ---- raw readers ----

fn reads_raw<'a>(wire: &'a Wire<'a>) -> &'a Wire<'a> {
    let heard = wire.heard.clone();
    wire.conn.set_reader(Some(Box::new(OnReady(move |socket: &Socket| {
        let mut buffer = [0; 4];
        let count = socket.conn.blocking().recv_into(&mut buffer)?;
        heard.push(format!("ready {}", text(&buffer[..count])));
        Ok(())
    }))));
    wire
}

#[test]
fn a_raw_reader_is_called_as_long_as_something_is_there() {
    rig(|rig| {
        for wire in [rig.tcp(), rig.unix(), rig.pair(false)] {
            reads_raw(&wire).hears_end();
            wire.is(Ready::READ);
            assert!(wire.heard().is_empty(), "there is nothing");
            wire.comes("12345678ab");
            assert_eq!(wire.heard(), ["ready 1234", "ready 5678", "ready ab"]);
            wire.ends();
            assert_eq!(wire.heard(), ["end: closed by the peer"]);
        }
    });
}

#[test]
fn a_raw_reader_is_told_of_an_error_by_the_end() {
    rig(|rig| {
        let wire = rig.tcp();
        reads_raw(&wire).hears_end();
        wire.script.fails(Errno::CONNRESET);
        wire.is(Ready::READ | Ready::AT_END);
        assert_eq!(wire.heard(), ["end: Reset"]);
    });
}

#[test]
fn a_raw_reader_over_tls_is_called_for_plaintext_alone() {
    rig(|rig| {
        let (wire, mut tls) = rig.sealed(Side::Server);
        reads_raw(&wire).hears_end();
        let sealed = tls.seals("12345");
        let (first, rest) = sealed.split_at(7);
        wire.comes(first);
        assert!(wire.heard().is_empty(), "half a record is nothing to read");
        wire.comes(rest);
        assert_eq!(wire.heard(), ["ready 1234", "ready 5"]);
        wire.comes(tls.ends());
        assert_eq!(wire.heard(), ["end: closed by the peer"]);
    });
}

// ---- TLS ----

#[test]
fn a_tls_stream_without_its_end_is_truncated() {
    rig(|rig| {
        for side in [Side::Server, Side::Client] {
            let (wire, mut tls) = rig.sealed(side);
            wire.hears_end().reads();
            wire.script.brings(tls.seals("data"));
            wire.ends();
            assert_eq!(wire.heard(), ["data data", "end: Truncated"]);
            assert!(!wire.conn.has_ended_cleanly());
        }
    });
}

#[test]
fn a_tls_stream_with_its_end_is_whole_whatever_comes_then() {
    rig(|rig| {
        for error in [None, Some(Errno::CONNRESET)] {
            let (wire, mut tls) = rig.sealed(Side::Server);
            wire.hears_end().reads();
            wire.script.brings([tls.seals("data"), tls.ends()].concat());
            match error {
                None => wire.script.ends(),
                Some(error) => wire.script.fails(error),
            };
            wire.is(Ready::READ | Ready::HANGUP);
            assert_eq!(wire.heard(), ["data data", "end: closed by the peer"]);
        }
    });
}

#[test]
fn damaged_tls_ends_the_connection_after_what_was_sound() {
    rig(|rig| {
        let (wire, mut tls) = rig.sealed(Side::Server);
        wire.hears_end().reads();
        let first = tls.seals("sound");
        let mut second = tls.seals("damaged");
        *second.last_mut().unwrap() ^= 1;
        wire.comes([first, second].concat());
        assert_eq!(wire.heard(), ["data sound", "end: Tls"]);
        assert!(wire.conn.status.get().read.contains(ReadHalf::DAMAGED));
        assert_eq!(wire.phase(), Phase::Lingering, "the alert is to arrive before anything is closed");
        assert!(tls.session.receive(&wire.script.written(), &mut Vec::new()).is_err(), "it is told why");
    });
}

// ---- for those who ask ----

#[test]
fn leftovers_are_taken_once_and_can_be_put_back() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.reads();
        wire.conn.pause();
        wire.script.brings("one two");
        let got = wire.conn.blocking().recv(3).unwrap();
        assert_eq!((text(&got), wire.conn.take_leftover()), ("one".into(), Vec::new()), "the rest is in the kernel");
        wire.conn.give_back_input(b"one");
        wire.conn.resume();
        wire.is(Ready::READ);
        assert_eq!(wire.heard().concat().replace("data ", ""), "one two");
        wire.conn.give_back_input(b"");
        assert_eq!(wire.conn.take_leftover(), b"");
    });
}

#[test]
fn an_end_is_clean_only_if_the_peer_has_made_it() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.reads();
        assert!(!wire.conn.has_ended_cleanly());
        wire.ends();
        assert!(wire.conn.has_ended_cleanly());
        let closed = rig.tcp();
        closed.conn.close();
        closed.script.brings("thrown away");
        closed.ends();
        assert_eq!(closed.phase(), Phase::Closed);
        assert!(!closed.conn.has_ended_cleanly(), "it was closed here, with data unread");
    });
}

// ---- half-close ----

#[test]
fn a_half_close_is_told_once_and_the_other_half_goes_on() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.hears_end().hears_half_close().reads();
        wire.script.brings("all");
        wire.ends();
        assert_eq!(wire.heard(), ["data all", "half-close"]);
        wire.hears_half_close();
        wire.is(Ready::READ | Ready::HANGUP);
        assert!(wire.heard().is_empty(), "one that is set later finds it told");
        wire.send("answer").unwrap();
        assert_eq!(wire.written(), "answer");
        wire.conn.shutdown_write().unwrap();
        rig.run();
        assert_eq!(wire.heard(), ["end: closed by the peer"]);
        assert_eq!(wire.script.calls(), ["shutdown", "close"]);
    });
}

#[test]
fn an_error_of_the_half_close_callback_is_the_end() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.hears_end().reads();
        wire.conn.set_on_end(Some(Box::new(|_| Err(Error::other("no more")))));
        wire.ends();
        assert_eq!(wire.heard(), ["end: no more"]);
    });
}

#[test]
fn a_reset_is_no_half_close() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.hears_end().hears_half_close().reads();
        wire.script.fails(Errno::CONNRESET);
        wire.is(Ready::READ | Ready::HANGUP | Ready::ERROR);
        assert_eq!(wire.heard(), ["end: Reset"]);
    });
}

#[test]
fn a_line_over_the_limit_breaks_the_connection_off() {
    rig(|rig| {
        let wire = rig.tcp_with(|options| options.line_limit = 4);
        wire.hears_end().reads_lines();
        wire.comes("four\nfive5\nmore\n");
        let heard = wire.heard();
        assert_eq!(heard[..2], ["line four".to_string(), "end: LineTooLong, left five5\nmore\n".to_string()]);
        assert_eq!(wire.script.calls(), ["reset", "close"], "the peer must not take that for an end");
    });
}

// ---- nobody reads ----

#[test]
fn without_a_reader_nothing_is_read_but_the_end_is_noticed_behind_the_data() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.hears_end();
        wire.script.brings("unread");
        wire.ends();
        assert!(wire.heard().is_empty() && wire.conn.is_open());
        assert_eq!(text(&wire.conn.blocking().recv(100).unwrap()), "unread");
        rig.run();
        assert_eq!(wire.heard(), ["end: closed by the peer"]);
    });
}

#[test]
fn without_a_reader_an_end_alone_and_an_error_are_told() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.hears_end();
        wire.ends();
        assert_eq!(wire.heard(), ["end: closed by the peer"]);
        let wire = rig.tcp();
        wire.hears_end();
        wire.script.fails(Errno::CONNRESET);
        wire.is(Ready::READ | Ready::AT_END);
        assert_eq!(wire.heard(), ["end: Reset"]);
    });
}

#[test]
fn without_a_reader_tls_is_looked_into_for_its_end() {
    rig(|rig| {
        let (wire, mut tls) = rig.sealed(Side::Server);
        wire.hears_end();
        wire.script.brings(tls.ends());
        wire.ends();
        assert_eq!(wire.heard(), ["end: closed by the peer"]);
        let (wire, mut tls) = rig.sealed(Side::Server);
        wire.hears_end();
        wire.script.brings(tls.seals("unread"));
        wire.ends();
        assert!(wire.heard().is_empty(), "there is data before it");
        assert_eq!(text(&wire.conn.blocking().recv(100).unwrap()), "unread");
        rig.run();
        assert_eq!(wire.heard(), ["end: Truncated"]);
    });
}
