//! Two sessions in memory shake hands through the script.

use rustix::io::Errno;

use super::*;
use crate::tls::Fingerprint;

#[test]
fn both_sides_succeed_and_talk() {
    rig(|rig| {
        for side in [Side::Server, Side::Client] {
            let (wire, mut tls) = rig.tls(side, |_| ());
            assert!(wire.conn.is_shaking() && wire.conn.is_open());
            tls.talk(&wire);
            assert_eq!((wire.heard(), wire.conn.is_shaking()), (vec!["shaken".into()], false));
            assert_eq!(wire.conn.session(Session::version).flatten(), Some("TLSv1.3"));
            assert_eq!(wire.conn.session(Session::peer_fingerprint).flatten().is_some(), matches!(side, Side::Client));
            wire.reads();
            wire.comes(tls.seals("question"));
            wire.send("answer").unwrap();
            assert_eq!((wire.heard(), tls.got(&wire)), (vec!["data question".into()], "answer".into()));
        }
    });
}

#[test]
fn a_handshake_that_trickles_in_succeeds() {
    rig(|rig| {
        let (wire, mut tls) = rig.tls(Side::Server, |_| ());
        for _ in 0..3 {
            for byte in tls.output() {
                wire.comes([byte]);
            }
            tls.session.receive(&wire.script.written(), &mut Vec::new()).unwrap();
        }
        assert_eq!(wire.heard(), ["shaken"]);
    });
}

/// Up to where the client has the last word.
fn before_the_last(rig: &Rig) -> (Wire<'_>, Tls) {
    let (wire, mut tls) = rig.tls(Side::Server, |_| ());
    wire.comes(tls.output());
    tls.session.receive(&wire.script.written(), &mut Vec::new()).unwrap();
    assert!(wire.heard().is_empty());
    (wire, tls)
}

#[test]
fn what_comes_with_the_last_of_the_handshake_is_delivered_after_it() {
    rig(|rig| {
        let (wire, mut tls) = before_the_last(rig);
        wire.reads();
        wire.comes([tls.output(), tls.seals("early")].concat());
        assert_eq!(wire.heard(), ["shaken", "data early"]);
    });
}

#[test]
fn an_end_that_comes_with_the_last_of_the_handshake_is_an_end() {
    rig(|rig| {
        let (wire, mut tls) = before_the_last(rig);
        wire.hears_end().reads();
        wire.comes([tls.output(), tls.ends()].concat());
        assert_eq!(wire.heard(), ["shaken", "end: closed by the peer"]);
    });
}

#[test]
fn what_is_sent_before_goes_out_after() {
    rig(|rig| {
        for side in [Side::Server, Side::Client] {
            let (wire, mut tls) = rig.tls(side, |_| ());
            wire.send("early ").unwrap();
            wire.send("words").unwrap();
            assert!(wire.conn.queued() > 0);
            tls.talk(&wire);
            assert_eq!((text(&tls.got), wire.conn.queued()), ("early words".into(), 0));
        }
    });
}

#[test]
fn nothing_is_delivered_before_it_is_done() {
    rig(|rig| {
        let (wire, mut tls) = rig.tls(Side::Server, |_| ());
        wire.reads().hears_end();
        wire.comes(tls.output());
        let flag = Flag::new();
        assert!(wire.poll_recv(&flag, &mut Ticket::New, 10).is_ready(), "refused beside a reader");
        assert!(wire.heard().is_empty());
    });
}

#[test]
fn plaintext_fails_and_nobody_but_the_handshake_is_told() {
    rig(|rig| {
        for (side, words) in [(Side::Server, "GET / HTTP/1.1\r\n\r\n"), (Side::Client, "220 welcome\r\n")] {
            let (wire, _) = rig.tls(side, |_| ());
            wire.hears_end();
            wire.comes(words);
            assert_eq!(wire.heard(), ["not shaken: Plaintext"]);
            assert!(!wire.conn.is_open());
            wire.ends();
            assert_eq!((wire.phase(), wire.heard()), (Phase::Closed, vec![]));
        }
    });
}

fn distrustful() -> Session {
    let other = Fingerprint::from([7; 32]);
    client_session(&ClientTls::pinned(other).directory(KEYS._store.path()))
}

#[test]
fn a_certificate_that_is_not_trusted_fails_both_sides() {
    rig(|rig| {
        let wire = rig.shaking(distrustful(), usize::MAX, |_| ());
        let mut tls = Tls::new(server_session());
        tls.talk(&wire);
        let heard = wire.heard();
        assert!(heard[0].starts_with("not shaken: ") && heard[0] != "not shaken: Tls" && heard.len() == 1, "{heard:?}");
        assert!(tls.session.is_handshaking());
        let (wire, _) = rig.tls(Side::Server, |_| ());
        let mut tls = Tls::new(distrustful());
        tls.talk(&wire);
        assert_eq!(wire.heard(), ["not shaken: Rejected"]);
    });
}

#[test]
fn an_end_or_a_reset_before_it_is_done_fails() {
    rig(|rig| {
        for side in [Side::Server, Side::Client] {
            let (wire, _) = rig.tls(side, |_| ());
            wire.ends();
            assert_eq!(wire.heard(), ["not shaken: Io UnexpectedEof"]);
            let (wire, _) = rig.tls(side, |_| ());
            wire.script.fails(Errno::CONNRESET);
            wire.is(Ready::READ | Ready::AT_END);
            assert_eq!(wire.heard(), ["not shaken: Reset"]);
        }
    });
}

#[test]
fn it_has_its_time_and_no_more() {
    rig(|rig| {
        for limit in [1, 10] {
            let limit = Duration::from_secs(limit);
            let (wire, _) = rig.tls(Side::Server, |options| options.handshake_timeout = limit);
            rig.pass(limit - Duration::from_millis(50));
            assert!(wire.heard().is_empty());
            rig.pass(Duration::from_millis(50));
            assert_eq!((wire.heard(), wire.conn.is_open()), (vec!["not shaken: TimedOut".into()], false));
        }
        let (wire, _tls) = rig.sealed(Side::Server);
        rig.pass(Duration::from_secs(11));
        assert!(wire.heard().is_empty() && wire.conn.is_open(), "that is over");
    });
}

#[test]
fn a_peer_that_never_answers_and_one_that_stops_are_told_apart() {
    rig(|rig| {
        let operation = |result: Result| match result {
            Err(Error::TimedOut { operation, .. }) => operation,
            other => panic!("{other:?}"),
        };
        for answers in [false, true] {
            let heard = Rc::new(Cell::new(None));
            let told = heard.clone();
            let (fd, script) = scripted(false);
            let transport = Transport::socket(fd, Some(&peer()));
            let done = Box::new(move |_: &Rc<Conn>, result| told.set(Some(operation(result))));
            let session = client_session(&KEYS.client);
            let common = Options::default().into();
            let conn = Conn::with_session(&rig.engine, transport, common, Some(peer()), session, done).unwrap();
            let _socket = Socket::from_conn(conn.clone());
            if answers {
                script.brings([0x16, 3]);
                rig.engine.tell(conn.key.get().unwrap(), Ready::READ);
                rig.run();
            }
            conn.handshake_is_late(Duration::from_secs(1));
            let expected = if answers { Operation::Handshake } else { Operation::UnansweredHandshake };
            assert_eq!(heard.get(), Some(expected));
        }
    });
}

#[test]
fn little_room_makes_it_take_longer() {
    rig(|rig| {
        for side in [Side::Server, Side::Client] {
            let (ours, theirs) = match side {
                Side::Server => (server_session(), client_session(&KEYS.client)),
                Side::Client => (client_session(&KEYS.client), server_session()),
            };
            let mut tls = Tls::new(theirs);
            let wire = rig.shaking(ours, 10, |_| ());
            let mut rounds = 0;
            while wire.heard.0.borrow().is_empty() {
                tls.talk(&wire);
                wire.script.has_room(10);
                if wire.awaits_room() {
                    wire.is(Ready::WRITE);
                }
                rounds += 1;
                assert!(rounds < 1000);
            }
            assert_eq!(wire.heard(), ["shaken"]);
            assert!(rounds > 10, "{rounds}");
        }
    });
}

#[test]
fn one_that_is_closed_meanwhile_is_not_told() {
    rig(|rig| {
        let (wire, _) = rig.tls(Side::Server, |_| ());
        wire.conn.close();
        rig.pass(Duration::from_secs(20));
        assert_eq!((wire.heard(), wire.phase()), (vec![], Phase::Closed));
        let (wire, _) = rig.tls(Side::Client, |_| ());
        wire.conn.abort();
        rig.pass(Duration::from_secs(20));
        assert_eq!((wire.heard(), wire.phase()), (vec![], Phase::Closed));
    });
}

#[test]
fn one_that_nobody_wants_any_more_closes_when_it_is_done() {
    rig(|rig| {
        let (wire, tls) = rig.tls(Side::Server, |_| ());
        wire.conn.handles.set(0);
        let mut wire = wire;
        std::mem::forget(wire.socket.take());
        let mut tls = tls;
        tls.talk(&wire);
        assert_eq!((wire.heard(), wire.conn.is_open()), (vec!["shaken".into()], false));
        tls.talk(&wire);
        assert!(tls.session.peer_closed());
    });
}

// ---- where no loop runs ----

#[test]
fn it_can_be_advanced_by_hand() {
    rig(|rig| {
        let (wire, mut tls) = rig.tls(Side::Server, |_| ());
        for _ in 0..2 {
            let mut fds = Vec::new();
            wire.conn.watch_handshake(&mut fds).unwrap();
            assert_eq!(fds.len(), 1, "nothing is held back");
            wire.script.brings(tls.output());
            wire.conn.shake_on();
            tls.session.receive(&wire.script.written(), &mut Vec::new()).unwrap();
        }
        assert_eq!(wire.heard(), ["shaken"]);
        let (wire, mut tls) = rig.tls(Side::Server, |_| ());
        wire.script.has_room(10);
        wire.script.brings(tls.output());
        wire.conn.shake_on();
        let mut fds = Vec::new();
        wire.conn.watch_handshake(&mut fds).unwrap();
        assert_eq!(fds.len(), 2, "there is no room for the answer");
        wire.script.has_room(usize::MAX);
        wire.conn.shake_on();
        tls.session.receive(&wire.script.written(), &mut Vec::new()).unwrap();
        wire.script.brings(tls.output());
        wire.conn.shake_on();
        assert_eq!(wire.heard(), ["shaken"]);
    });
}

#[test]
fn it_can_be_waited_for() {
    rig(|rig| {
        let (wire, tls) = rig.tls(Side::Server, |_| ());
        let tls = Rc::new(RefCell::new(tls));
        for _ in 0..2 {
            let tls = tls.clone();
            wire.script.meanwhile(move |script| {
                tls.borrow_mut().session.receive(&script.written(), &mut Vec::new()).unwrap();
                script.brings(tls.borrow_mut().output());
            });
        }
        wire.conn.shake_blocking();
        assert_eq!(wire.heard(), ["shaken"]);
        let (wire, _) = rig.tls(Side::Server, |_| ());
        wire.conn.shake_blocking();
        assert_eq!(
            (wire.heard(), script::passed() >= Some(Duration::from_secs(10))),
            (vec!["not shaken: TimedOut".into()], true)
        );
        let (wire, _) = rig.tls(Side::Server, |_| ());
        wire.script.meanwhile(|script| _ = script.fails(Errno::CONNRESET));
        wire.conn.shake_blocking();
        assert_eq!(wire.heard(), ["not shaken: Reset"]);
    });
}

// ---- TLS that ends at a proxy ----

/// A connection over a session that is agreed on already, with what has come over it, and the other side.
fn taken_over<'a>(rig: &'a Rig, plain: &[u8], ends: bool) -> (Wire<'a>, Tls) {
    let (mut ours, mut tls) =
        (client_session(&KEYS.client).of_proxy("https://proxy.test:443"), Tls::new(server_session()));
    for _ in 0..3 {
        let mut output = Vec::new();
        ours.take_output(&mut output);
        tls.session.receive(&output, &mut tls.got).unwrap();
        ours.receive(&tls.output(), &mut Vec::new()).unwrap();
    }
    assert!(!ours.is_handshaking() && !tls.session.is_handshaking());
    if ends {
        ours.receive(&tls.ends(), &mut Vec::new()).unwrap();
    }
    let wire = rig.tcp();
    wire.conn.handshaking().take_over(ours, plain.to_vec());
    (wire, tls)
}

#[test]
fn a_session_with_a_proxy_is_gone_on_with() {
    rig(|rig| {
        let (wire, mut tls) = taken_over(rig, b"early", false);
        assert!(wire.conn.is_tls() && wire.conn.is_open() && !wire.conn.is_shaking());
        assert!(!wire.conn.handshaking().reaches_peer(), "the proxy is not the peer");
        wire.reads().hears_end();
        rig.run();
        wire.comes(tls.seals("more"));
        wire.send("answer").unwrap();
        assert_eq!((wire.heard(), tls.got(&wire)), (vec!["data early".into(), "data more".into()], "answer".into()));
        let problem = wire.conn.handshaking().check_start().unwrap_err().to_string();
        assert!(problem.contains("TLS within the TLS of the proxy"), "{problem}");
        wire.ends();
        assert_eq!(wire.heard(), ["end: Truncated"]);
    });
}

#[test]
fn what_came_before_the_end_of_a_session_with_a_proxy_is_delivered() {
    rig(|rig| {
        let (wire, _tls) = taken_over(rig, b"all", true);
        wire.reads().hears_end();
        rig.run();
        assert_eq!(wire.heard(), ["data all", "end: closed by the peer"]);
    });
}
