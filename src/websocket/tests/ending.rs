//! How connections end.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn closing_awaits_the_peers_close_frame() {
    for is_server in [false, true] {
        rig(|rig| {
            let (ws, mut peer) = rig.pair(is_server);
            let heard = Heard::default();
            heard.listen(&ws);
            ws.send("last").unwrap();
            ws.close(Code::NORMAL, "bye").unwrap();
            ws.close(Code::POLICY, "twice").unwrap();
            assert!(!ws.is_open());
            rig.run();
            assert_eq!(peer.frames(), [(0x81, b"last".to_vec()), (0x88, closing(1000, "bye"))]);
            peer.send(0x81, b"too late");
            peer.send(0x89, b"not answered");
            rig.run();
            assert!(heard.take().is_empty());
            peer.send(0x88, &closing(1000, "yes"));
            rig.run();
            assert_eq!(heard.take(), ["local | 1000 yes"]);
            assert_eq!(ws.close_frame().unwrap().reason, "yes");
            assert!(peer.frames().is_empty());
            // The server ends the stream, the client waits for that.
            assert_eq!(peer.is_ended(), is_server);
            rig.pass(5 * SECOND);
            assert!(peer.is_ended());
        });
    }
}

#[test]
fn a_peer_that_does_not_answer_a_close_frame_is_given_up() {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(true);
        let heard = Heard::default();
        heard.listen(&ws);
        ws.close(Code::NORMAL, "").unwrap();
        rig.pass(4 * SECOND);
        assert!(heard.take().is_empty());
        rig.pass(SECOND);
        assert_eq!(heard.take(), ["local"]);
        assert!(peer.is_ended());
        let (ws, mut peer) = rig.pair(true);
        ws.set_linger(SECOND);
        heard.listen(&ws);
        ws.close(Code::NORMAL, "").unwrap();
        rig.pass(SECOND);
        assert_eq!(heard.take(), ["local"]);
        assert!(peer.is_ended());
    });
}

#[test]
fn a_peer_that_reads_what_was_sent_before_has_more_time() {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(true);
        let heard = Heard::default();
        heard.await_end(&ws);
        while ws.queued() < 1_500_000 {
            ws.send([0; 60_000]).unwrap();
        }
        ws.close(Code::NORMAL, "").unwrap();
        for _ in 0..3 {
            rig.pass(4 * SECOND);
            assert!(!peer.bytes().is_empty());
            rig.run();
            rig.pass(SECOND);
            assert!(heard.take().is_empty());
        }
        rig.pass(5 * SECOND);
        assert_eq!(heard.take(), ["local"]);
    });
}

#[test]
fn an_end_without_a_close_frame_is_a_failure_after_all_messages() {
    for is_server in [false, true] {
        rig(|rig| {
            let (ws, mut peer) = rig.pair(is_server);
            let heard = Heard::default();
            heard.listen(&ws);
            peer.send(0x81, b"a");
            peer.write(&frame(0x81, b"half", is_server)[..4]);
            drop(peer);
            rig.run();
            assert_eq!(heard.take(), ["text a", "failed 1006 the connection has ended without a close frame"]);
            assert!(matches!(ws.send("x"), Err(Error::WebSocket { code: 1006, .. })));
            assert!(matches!(ws.recv(), Err(Error::WebSocket { code: 1006, .. })));
        });
    }
}

#[test]
fn an_end_while_we_close_is_no_failure() {
    rig(|rig| {
        let (ws, peer) = rig.pair(false);
        let heard = Heard::default();
        heard.listen(&ws);
        ws.close(Code::NORMAL, "").unwrap();
        rig.run();
        drop(peer);
        rig.run();
        assert_eq!(heard.take(), ["local"]);
    });
}

#[test]
fn messages_before_the_end_are_received_first() {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(true);
        let heard = Heard::default();
        heard.await_end(&ws);
        for text in [b"a", b"b", b"c"] {
            peer.send(0x81, text);
        }
        peer.send(0x88, &closing(1000, ""));
        drop(peer);
        rig.run();
        assert!(heard.take().is_empty(), "nobody has read that far");
        for text in ["a", "b", "c"] {
            assert_eq!(ws.recv().unwrap().text(), Some(text));
        }
        assert!(matches!(ws.recv(), Err(Error::Closed { .. })));
        rig.run();
        assert_eq!(heard.take(), ["remote | 1000 "]);
    });
}

#[test]
fn a_callback_for_an_end_that_has_come_is_called_once() {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(true);
        peer.send(0x88, b"");
        rig.run();
        assert!(!ws.is_open());
        let heard = Heard::default();
        heard.await_end(&ws);
        assert!(heard.take().is_empty());
        rig.run();
        assert_eq!(heard.take(), ["remote | 1005 "]);
        heard.await_end(&ws);
        rig.run();
        assert!(heard.take().is_empty());
    });
}

#[test]
fn a_dropped_connection_says_so_and_calls_nobody() {
    for is_server in [false, true] {
        rig(|rig| {
            let (ws, mut peer) = rig.pair(is_server);
            let heard = Heard::default();
            heard.await_end(&ws);
            ws.send("last").unwrap();
            drop(ws);
            rig.run();
            assert_eq!(peer.frames(), [(0x81, b"last".to_vec()), (0x88, closing(1001, ""))]);
            assert!(peer.is_ended());
            assert!(heard.take().is_empty());
            assert_eq!(Rc::strong_count(&heard.0), 1, "the callback is gone");
        });
    }
}

#[test]
fn wrong_codes_and_reasons_are_refused() {
    rig(|rig| {
        let (ws, _peer) = rig.pair(true);
        assert!(matches!(ws.close(Code::ABNORMAL, ""), Err(Error::InvalidOption(_))));
        assert!(matches!(ws.close(Code::NORMAL, "x".repeat(124)), Err(Error::InvalidOption(_))));
        assert!(ws.is_open());
    });
}

#[test]
fn what_captured_the_connection_goes_with_its_end() {
    for is_server in [false, true] {
        rig(|rig| {
            let (ws, mut peer) = rig.pair(is_server);
            let weak = ws.downgrade();
            let (one, two, three) = (ws.clone(), ws.clone(), ws.clone());
            ws.read(move |_, _| one.flush());
            ws.drain_cb(move |_| two.flush());
            ws.disconnect_cb(move |_, _| drop(three));
            drop(ws);
            rig.run();
            assert!(weak.upgrade().is_some());
            peer.send(0x88, b"");
            drop(peer);
            rig.run();
            assert!(weak.upgrade().is_none());
        });
    }
}

#[test]
fn the_context_may_end_first() {
    let (mut kept, mut peer) = (None, None);
    rig(|rig| {
        let (ws, other) = rig.pair(true);
        ws.read(|_, _| Ok(()));
        (kept, peer) = (Some(ws), Some(other));
    });
    let ws = kept.unwrap();
    assert!(!ws.is_open());
    assert!(ws.send("x").is_err());
    drop(ws);
    assert!(peer.unwrap().is_ended());
}
