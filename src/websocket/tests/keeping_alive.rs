//! Pings that find out whether the peer is still there.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn listening(rig: &Rig) -> (WebSocket, Peer, Heard) {
    let (ws, peer) = rig.pair(false);
    let heard = Heard::default();
    heard.listen(&ws);
    (ws, peer, heard)
}

#[test]
fn a_silent_peer_is_asked_and_given_up() {
    rig(|rig| {
        let (_ws, mut peer, heard) = listening(rig);
        rig.pass(29 * SECOND);
        assert!(peer.frames().is_empty());
        rig.pass(SECOND);
        assert_eq!(peer.frames(), [(0x89, vec![])]);
        rig.pass(19 * SECOND);
        assert!(heard.take().is_empty());
        rig.pass(SECOND);
        let told = heard.take();
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("timed out after 20 s while waiting to receive anything from"), "{told:?}");
        assert!(peer.is_ended());
    });
}

#[test]
fn a_peer_that_answers_is_asked_again_and_one_that_sends_is_not_asked() {
    rig(|rig| {
        let (ws, mut peer, heard) = listening(rig);
        for _ in 0..3 {
            rig.pass(30 * SECOND);
            assert_eq!(peer.frames(), [(0x89, vec![])]);
            peer.send(0x8a, b"");
            rig.run();
            rig.pass(20 * SECOND);
        }
        // That is within half a minute of the last one.
        for _ in 0..4 {
            peer.send(0x81, b"x");
            rig.run();
            rig.pass(29 * SECOND);
            assert_eq!(heard.take(), ["text x"]);
            assert!(peer.frames().is_empty());
        }
        assert!(ws.is_open());
    });
}

#[test]
fn without_an_interval_nothing_is_asked_and_no_timer_runs() {
    rig(|rig| {
        let (ws, mut peer, heard) = listening(rig);
        ws.set_ping_interval(None).unwrap();
        rig.pass(1000 * SECOND);
        assert!(peer.frames().is_empty() && heard.take().is_empty() && ws.is_open());
        ws.set_ping_interval(5 * SECOND).unwrap();
        ws.set_pong_timeout(2 * SECOND).unwrap();
        rig.pass(5 * SECOND);
        assert_eq!(peer.frames(), [(0x89, vec![])]);
        rig.pass(2 * SECOND);
        assert_eq!(heard.take().len(), 1);
    });
}

#[test]
fn a_peer_that_is_not_read_is_not_given_up() {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(true);
        // One is held, and the other is behind it.
        peer.send(0x81, b"one");
        peer.send(0x81, b"two");
        rig.run();
        rig.pass(200 * SECOND);
        assert!(ws.is_open() && peer.frames().is_empty());
        assert_eq!(ws.recv().unwrap().text(), Some("one"));
        assert_eq!(ws.recv().unwrap().text(), Some("two"));
        rig.pass(60 * SECOND);
        assert!(!ws.is_open());
        assert!(matches!(ws.recv(), Err(Error::TimedOut { .. })));
    });
}

#[test]
fn a_peer_that_takes_what_waits_before_the_ping_is_not_given_up() {
    rig(|rig| {
        let (ws, mut peer, heard) = listening(rig);
        while ws.queued() < 1_500_000 {
            ws.send([0; 60_000]).unwrap();
        }
        for _ in 0..3 {
            rig.pass(31 * SECOND);
            assert!(ws.queued() > 0);
            assert!(!peer.bytes().is_empty());
            rig.run();
            rig.pass(19 * SECOND);
            assert!(heard.take().is_empty());
        }
        rig.pass(60 * SECOND);
        assert_eq!(heard.take().len(), 1, "it takes nothing more");
    });
}

#[test]
fn an_end_leaves_no_timer() {
    for is_server in [false, true] {
        rig(|rig| {
            let (ws, mut peer) = rig.pair(is_server);
            let weak = ws.downgrade();
            peer.send(0x88, b"");
            rig.run();
            drop(peer);
            rig.run();
            drop(ws);
            rig.run();
            assert!(weak.upgrade().is_none());
        });
    }
}
