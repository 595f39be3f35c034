//! What a selector asks a connection.

use rustix::io::Errno;

use super::*;

#[test]
fn one_is_readable_if_receiving_would_not_wait() {
    rig(|rig| {
        for wire in [rig.tcp(), rig.unix(), rig.pair(false)] {
            assert!(!wire.conn.is_readable());
            wire.script.brings("line\nmore");
            assert!(wire.conn.is_readable());
            assert_eq!(wire.conn.io.received(), 0, "nothing was taken");
            assert_eq!(wire.conn.blocking().recv_line().unwrap(), "line");
            assert!(wire.conn.is_readable(), "by what is left");
            assert_eq!(wire.conn.take_leftover(), b"more");
            assert!(!wire.conn.is_readable());
        }
    });
}

#[test]
fn one_is_readable_at_its_end_and_after_it() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.script.ends();
        assert!(wire.conn.is_readable());
        let wire = rig.tcp();
        wire.script.fails(Errno::CONNRESET);
        assert!(wire.conn.is_readable());
        assert_eq!(failure(wire.conn.blocking().recv(1)), "Reset", "the error is left for whoever receives");
        assert!(wire.conn.is_readable());
    });
}

#[test]
fn over_tls_only_plaintext_and_the_end_make_it_readable() {
    rig(|rig| {
        let (wire, mut tls) = rig.sealed(Side::Server);
        let sealed = tls.seals("data");
        wire.script.brings(&sealed[..6]);
        assert!(!wire.conn.is_readable() && wire.script.is_read_out());
        wire.script.brings(&sealed[6..]);
        assert!(wire.conn.is_readable());
        assert_eq!(wire.conn.blocking().recv(10).unwrap(), b"data");
        wire.script.brings(tls.ends());
        assert!(wire.conn.is_readable());
        assert_eq!(failure(wire.conn.blocking().recv(1)), "Closed");
        let (wire, _tls) = rig.sealed(Side::Server);
        wire.script.fails(Errno::CONNRESET);
        assert!(wire.conn.is_readable());
        assert_eq!(failure(wire.conn.blocking().recv(1)), "Reset");
        let (wire, _tls) = rig.sealed(Side::Server);
        wire.script.brings([0x17, 3, 3, 0, 1, 0]);
        assert!(wire.conn.is_readable(), "it is broken");
        assert_eq!(failure(wire.conn.blocking().recv(1)), "Tls");
    });
}

#[test]
fn what_was_taken_in_while_asking_reaches_the_reader() {
    rig(|rig| {
        let (wire, mut tls) = rig.sealed(Side::Server);
        wire.reads();
        rig.run();
        wire.script.brings(tls.seals("data"));
        assert!(wire.conn.is_readable());
        rig.run();
        assert_eq!(wire.heard(), ["data data"], "without an event");
    });
}

#[test]
fn room_is_watched_for_only_while_something_waits() {
    rig(|rig| {
        let wire = rig.tcp();
        let watched = || {
            let mut fds = Vec::new();
            wire.conn.watch(&mut fds).unwrap();
            fds.len()
        };
        assert_eq!(watched(), 1);
        wire.conn.send_on();
        wire.script.has_room(1);
        wire.send("ab").unwrap();
        assert_eq!(watched(), 2);
        wire.script.has_room(1);
        wire.conn.send_on();
        assert_eq!((watched(), wire.written()), (1, "ab".into()));
        wire.conn.abort();
        assert!(wire.conn.watch(&mut Vec::new()).is_err());
    });
}
