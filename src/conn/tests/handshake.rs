//! A handshake on a connection that is open: what goes before it, what waits for it, and who is told.

use crate::engine::Handler;

use super::*;

/// Starts TLS, and hears of it.
fn starts(wire: &Wire<'_>, session: Session) -> Result {
    let heard = wire.heard.clone();
    let done: Shaken = Box::new(move |_, result| match result {
        Ok(()) => heard.push("upgraded"),
        Err(error) => heard.push(format!("not upgraded: {}", kind(&error))),
    });
    wire.conn.handshaking().start(session, Some(done))
}

#[test]
fn what_was_sent_before_goes_out_before_and_what_is_sent_then_goes_out_after() {
    rig(|rig| {
        for room in [0, 3, 9, 20, usize::MAX] {
            let wire = rig.tcp();
            wire.script.has_room(room);
            wire.send("STARTTLS\n").unwrap();
            starts(&wire, client_session(&KEYS.client)).unwrap();
            wire.send("secret").unwrap();
            wire.script.has_room(usize::MAX);
            wire.is(Ready::WRITE);
            let written = wire.script.written();
            let (plain, hello) = written.split_at(9);
            assert_eq!(text(plain), "STARTTLS\n");
            let mut tls = Tls::new(server_session());
            tls.session.receive(hello, &mut Vec::new()).unwrap();
            wire.comes(tls.output());
            tls.talk(&wire);
            assert_eq!((wire.heard(), text(&tls.got)), (vec!["upgraded".into()], "secret".into()), "room: {room}");
            assert_eq!((wire.conn.is_tls(), wire.conn.queued()), (true, 0));
        }
    });
}

/// One that has started TLS as a server, with a reader.
fn upgrading(rig: &Rig) -> (Wire<'_>, Tls) {
    let wire = rig.tcp();
    wire.reads().hears_end();
    wire.comes("go ahead");
    starts(&wire, server_session()).unwrap();
    assert_eq!(wire.heard(), ["data go ahead"]);
    (wire, Tls::new(client_session(&KEYS.client)))
}

#[test]
fn the_reader_stays_and_gets_what_was_encrypted() {
    rig(|rig| {
        let (wire, mut tls) = upgrading(rig);
        tls.talk(&wire);
        wire.comes(tls.seals("data"));
        wire.comes(tls.ends());
        assert_eq!(wire.heard(), ["upgraded", "data data", "end: closed by the peer"]);
    });
}

#[test]
fn a_blocking_call_and_a_future_wait_for_its_end() {
    rig(|rig| {
        let wire = rig.tcp();
        starts(&wire, server_session()).unwrap();
        let mut tls = Tls::new(client_session(&KEYS.client));
        let (flag, mut ticket) = (Flag::new(), Ticket::New);
        assert!(wire.poll_recv(&flag, &mut ticket, 10).is_pending());
        tls.talk(&wire);
        wire.comes(tls.seals("data"));
        assert!(flag.woken());
        assert!(matches!(wire.poll_recv(&flag, &mut ticket, 10), Poll::Ready(Ok(data)) if data == b"data"));
        assert_eq!(wire.heard(), ["upgraded"]);
    });
}

#[test]
fn plaintext_that_was_not_delivered_is_refused() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.hears_end();
        wire.script.brings("go ahead\nevil");
        assert_eq!(wire.conn.blocking().recv_line().unwrap(), "go ahead");
        assert_eq!(failure(starts(&wire, client_session(&KEYS.client))), "Plaintext");
        rig.run();
        assert_eq!((wire.heard(), wire.phase()), (vec!["end: Plaintext".into()], Phase::Closed));
        assert!(wire.script.written().is_empty());
    });
}

#[test]
fn it_starts_once_and_only_while_both_directions_are_open() {
    rig(|rig| {
        let (wire, mut tls) = upgrading(rig);
        assert_eq!(failure(wire.conn.handshaking().check_start()), "Unsupported");
        tls.talk(&wire);
        assert_eq!(failure(wire.conn.handshaking().check_start()), "Unsupported");
        let wire = rig.tcp();
        wire.conn.shutdown_write().unwrap();
        assert_eq!(failure(wire.conn.handshaking().check_start()), "Closed");
        let wire = rig.tcp();
        wire.ends();
        assert_eq!(failure(wire.conn.handshaking().check_start()), "Closed");
    });
}

#[test]
fn if_it_fails_the_connection_ends_and_what_was_to_be_encrypted_is_lost() {
    rig(|rig| {
        let (wire, _) = upgrading(rig);
        wire.send("secret").unwrap();
        wire.comes("not TLS at all\n");
        assert_eq!(wire.heard(), ["not upgraded: Plaintext", "end: Plaintext"]);
        assert!(!wire.written().contains("secret"));
        let (wire, _) = upgrading(rig);
        wire.ends();
        assert_eq!(wire.heard(), ["not upgraded: Io UnexpectedEof", "end: Io UnexpectedEof"]);
    });
}

#[test]
fn it_has_its_time() {
    rig(|rig| {
        let (wire, _) = upgrading(rig);
        rig.pass(Duration::from_millis(9900));
        assert!(wire.heard().is_empty());
        rig.pass(Duration::from_millis(200));
        assert_eq!(wire.heard(), ["not upgraded: TimedOut", "end: TimedOut"]);
    });
}

#[test]
fn whoever_started_it_is_told_if_the_connection_ends_meanwhile() {
    rig(|rig| {
        let (wire, _) = upgrading(rig);
        wire.send("secret").unwrap();
        wire.conn.close();
        rig.run();
        assert_eq!(wire.heard(), ["not upgraded: Closed", "end: closed here"]);
        assert_eq!((wire.phase(), wire.written()), (Phase::Closed, String::new()));
        let (wire, _) = upgrading(rig);
        wire.conn.handshaking().cancel();
        rig.run();
        let heard = wire.heard();
        assert!(heard[0].starts_with("not upgraded: ") && heard[1].starts_with("end: "), "{heard:?}");
        assert!(matches!(wire.conn.closed(), Error::Cancelled { operation: Operation::Handshake, .. }));
        let (wire, _) = upgrading(rig);
        Handler::context_ended(wire.conn.clone());
        rig.run();
        assert_eq!((wire.heard(), wire.phase()), (vec![], Phase::Closed), "with its context, nobody is told");
    });
}

#[test]
fn while_it_is_held_up_nothing_is_read() {
    rig(|rig| {
        let (wire, mut tls) = upgrading(rig);
        wire.conn.handshaking().hold_up();
        wire.comes(tls.output());
        assert!(!wire.script.is_read_out() && wire.script.written().is_empty());
        wire.conn.handshaking().go_on();
        tls.talk(&wire);
        assert_eq!(wire.heard(), ["upgraded"]);
        let (wire, _) = upgrading(rig);
        wire.conn.handshaking().hold_up();
        wire.conn.handshaking().give_up(Error::other("no roots"));
        rig.run();
        assert_eq!(wire.heard()[0], "not upgraded: no roots");
    });
}

#[test]
fn what_is_told_later_comes_before_data_and_before_the_end() {
    rig(|rig| {
        for ends in [false, true] {
            let wire = rig.tcp();
            wire.reads().hears_end();
            let heard = wire.heard.clone();
            wire.conn.handshaking().tell_later(Box::new(move |_| heard.push("told")));
            assert!(wire.heard().is_empty(), "not within the call");
            if ends {
                wire.conn.abort();
                rig.run();
                assert_eq!(wire.heard(), ["told", "end: closed here"]);
            } else {
                wire.comes("data");
                assert_eq!(wire.heard(), ["told", "data data"]);
            }
        }
    });
}

#[test]
fn a_future_that_gets_what_comes_at_once_does_not_hide_it() {
    rig(|rig| {
        let wire = rig.tcp();
        let mut tls = Tls::new(client_session(&KEYS.client));
        let (heard, engine, key) = (wire.heard.clone(), rig.engine.clone(), wire.conn.key.get().unwrap());
        let done: Shaken = Box::new(move |conn, result| {
            result.unwrap();
            conn.handshaking().tell_later(Box::new(move |_| heard.push("told")));
            // More comes before that is served.
            engine.tell(key, Ready::READ);
        });
        wire.conn.handshaking().start(server_session(), Some(done)).unwrap();
        let (flag, mut ticket) = (Flag::new(), Ticket::New);
        assert!(wire.poll_recv(&flag, &mut ticket, 10).is_pending());
        // Outside of the loop, as a selector does it.
        for _ in 0..2 {
            wire.script.brings(tls.output());
            wire.conn.shake_on();
            tls.session.receive(&wire.script.written(), &mut Vec::new()).unwrap();
        }
        rig.run();
        assert_eq!(wire.heard(), ["told"]);
    });
}
