//! What callbacks may do.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::engine::turn;

/// Sends three texts.
fn three(peer: &mut Peer) {
    for text in [b"a", b"b", b"c"] {
        peer.send(0x81, text);
    }
}

#[test]
fn what_was_sent_in_a_callback_goes_out_in_order() {
    for is_server in [false, true] {
        rig(|rig| {
            let (ws, mut peer) = rig.pair(is_server);
            ws.read(|ws, message| {
                ws.send(message)?;
                ws.send(message.bytes())
            });
            three(&mut peer);
            peer.send(0x89, b"p");
            rig.run();
            let firsts: Vec<u8> = peer.frames().into_iter().map(|(first, _)| first).collect();
            assert_eq!(firsts, [0x81, 0x82, 0x81, 0x82, 0x81, 0x82, 0x8a]);
        });
    }
}

#[test]
fn no_callback_runs_inside_a_method() {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(true);
        peer.send(0x81, b"early");
        rig.run();
        let heard = Heard::default();
        heard.listen(&ws);
        assert!(heard.take().is_empty());
        rig.run();
        assert_eq!(heard.take(), ["text early"], "what was held");
        ws.abort();
        assert!(heard.take().is_empty());
        rig.run();
        assert_eq!(heard.take(), ["local"]);
    });
}

#[test]
fn pausing_holds_messages_back_and_resuming_delivers_them_in_order() {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(true);
        let heard = Heard::default();
        let told = heard.clone();
        ws.read(move |ws, message| {
            told.note(message.to_string());
            ws.pause();
            Ok(())
        });
        three(&mut peer);
        peer.send(0x88, b"");
        for text in ["a", "b", "c"] {
            rig.run();
            assert_eq!(heard.take(), [text]);
            assert!(ws.is_paused());
            // Behind the last one there is the end, which is no message.
            assert_eq!(ws.is_open(), text != "c");
            ws.resume();
        }
        rig.run();
        assert!(!ws.is_open());
    });
}

#[test]
fn another_callback_takes_over_and_none_leaves_messages_for_later() {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(true);
        let heard = Heard::default();
        let (one, two) = (heard.clone(), heard.clone());
        ws.read(move |ws, message| {
            one.note(format!("one {message}"));
            let two = two.clone();
            ws.read(move |ws, message| {
                two.note(format!("two {message}"));
                ws.unread();
                Ok(())
            });
            Ok(())
        });
        three(&mut peer);
        peer.send(0x81, b"d");
        rig.run();
        assert_eq!(heard.take(), ["one a", "two b"]);
        assert_eq!(ws.recv().unwrap(), OwnedMessage::Text("c".into()));
        heard.listen(&ws);
        rig.run();
        assert_eq!(heard.take(), ["text d"]);
        assert!(matches!(ws.recv(), Err(Error::Unsupported(_))));
    });
}

#[test]
fn closing_in_a_callback_ends_delivery() {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(true);
        let heard = Heard::default();
        let told = heard.clone();
        ws.read(move |ws, message| {
            told.note(message.to_string());
            ws.close(Code::from(4000), "enough")?;
            assert!(matches!(ws.send("more"), Err(Error::Closed { .. })));
            Ok(())
        });
        heard.await_end(&ws);
        three(&mut peer);
        rig.run();
        assert_eq!(heard.take(), ["a"]);
        assert_eq!(peer.frames(), [(0x88, closing(4000, "enough"))]);
        peer.send(0x88, &closing(4000, "yes"));
        rig.run();
        assert_eq!(heard.take(), ["local | 4000 yes"]);
        assert!(peer.is_ended());
    });
}

#[test]
fn an_error_of_a_callback_ends_it_without_a_word_to_the_peer() {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(true);
        let heard = Heard::default();
        ws.read(|_, _| Err(Error::other("a secret")));
        heard.await_end(&ws);
        three(&mut peer);
        rig.run();
        assert_eq!(heard.take(), ["failed a secret"]);
        assert_eq!(peer.frames(), [(0x88, closing(1011, ""))]);
        assert!(peer.is_ended());
    });
}

#[test]
fn a_panic_aborts_the_connection_and_no_other() {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(true);
        let (other, mut second) = rig.pair(true);
        let heard = Heard::default();
        heard.listen(&other);
        let told = heard.clone();
        ws.disconnect_cb(move |_, _| told.note("told"));
        ws.read(|_, _| panic!("on purpose"));
        three(&mut peer);
        let run = || turn(&rig.engine, || while rig.context.iteration(false) {});
        let panic = catch_unwind(AssertUnwindSafe(|| {
            run();
            if let Some(panic) = rig.engine.take_panic() {
                std::panic::resume_unwind(panic);
            }
        }));
        assert!(panic.is_err());
        assert!(!ws.is_open() && peer.is_ended());
        second.send(0x81, b"still here");
        rig.run();
        assert_eq!(heard.take(), ["text still here"]);
    });
}

#[test]
fn a_nested_loop_in_a_callback_delivers_nothing_to_it() {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(true);
        let heard = Heard::default();
        let (told, context) = (heard.clone(), rig.context.clone());
        let depth = Rc::new(Cell::new(0));
        ws.read(move |_, message| {
            depth.set(depth.get() + 1);
            assert_eq!(depth.get(), 1, "within itself");
            told.note(message.to_string());
            while context.iteration(false) {}
            depth.set(0);
            Ok(())
        });
        three(&mut peer);
        rig.run();
        three(&mut peer);
        rig.run();
        assert_eq!(heard.take(), ["a", "b", "c", "a", "b", "c"]);
    });
}

#[test]
fn a_nested_loop_while_a_held_message_is_delivered_loses_nothing() {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(true);
        three(&mut peer);
        rig.run();
        let heard = Heard::default();
        let (told, context) = (heard.clone(), rig.context.clone());
        let mut more = Some(peer.stream.try_clone().unwrap());
        ws.read(move |_, message| {
            told.note(message.to_string());
            if let Some(mut more) = more.take() {
                more.write_all(&frame(0x81, b"d", true)).unwrap();
            }
            while context.iteration(false) {}
            Ok(())
        });
        rig.run();
        assert_eq!(heard.take(), ["a", "b", "c", "d"]);
    });
}

#[test]
fn a_connection_lives_as_long_as_a_handle_or_a_callback() {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(true);
        let heard = Heard::default();
        let told = heard.clone();
        ws.read(move |_, message| {
            told.note(message.to_string());
            Ok(())
        });
        let weak = ws.downgrade();
        drop(ws);
        three(&mut peer);
        rig.run();
        assert_eq!(heard.take(), ["a", "b", "c"]);
        let ws = weak.upgrade().unwrap();
        ws.unread();
        drop(ws);
        rig.run();
        assert_eq!(peer.frames(), [(0x88, closing(1001, ""))]);
        assert!(weak.upgrade().is_none() && peer.is_ended());
    });
}

#[test]
fn the_last_handle_may_go_in_a_callback() {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(true);
        let weak = ws.downgrade();
        let held = Rc::new(RefCell::new(Some(ws.clone())));
        let slot = held.clone();
        ws.read(move |ws, _| {
            ws.unread();
            let gone = slot.take();
            drop(gone);
            Ok(())
        });
        drop(ws);
        three(&mut peer);
        rig.run();
        assert!(weak.upgrade().is_none());
        assert_eq!(peer.frames(), [(0x88, closing(1001, ""))]);
    });
}

#[test]
fn a_full_queue_is_told_to_have_drained() {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(true);
        let heard = Heard::default();
        let told = heard.clone();
        ws.drain_cb(move |ws| {
            assert!(!ws.is_full());
            told.note("drained");
            Ok(())
        });
        while !ws.is_full() {
            ws.send([0; 60_000]).unwrap();
        }
        rig.run();
        assert!(heard.take().is_empty());
        while !peer.bytes().is_empty() {
            rig.run();
        }
        assert_eq!(heard.take(), ["drained"]);
        assert!(ws.queued() == 0 && ws.is_open());
    });
}
