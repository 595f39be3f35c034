//! Each limit: one within it, and one beyond it.

use super::*;

#[test]
fn a_message_of_the_limit_passes_and_one_byte_more_does_not() {
    for is_server in [false, true] {
        for (limit, set) in [(1 << 20, false), (1000, true)] {
            rig(|rig| {
                let (ws, mut peer) = rig.pair(is_server);
                if set {
                    ws.set_message_limit(limit).unwrap();
                }
                assert_eq!(ws.message_limit(), limit);
                let heard = Heard::default();
                let lengths = heard.clone();
                ws.read(move |_, message| {
                    lengths.note(message.bytes().len().to_string());
                    Ok(())
                });
                heard.await_end(&ws);
                let feed = |peer: &mut Peer, bytes: &[u8]| {
                    for chunk in bytes.chunks(32 << 10) {
                        peer.write(chunk);
                        rig.run();
                    }
                };
                feed(&mut peer, &frame(0x82, &vec![1; limit], is_server));
                assert_eq!(heard.take(), [limit.to_string()]);
                // In fragments as well.
                feed(&mut peer, &frame(2, &vec![1; limit - 1], is_server));
                feed(&mut peer, &frame(0x80, &[1], is_server));
                assert_eq!(heard.take(), [limit.to_string()]);
                // The head is enough to tell.
                feed(&mut peer, &frame(0x82, &vec![1; limit + 1], is_server)[..14]);
                let problem = format!("a message of {} bytes exceeds the limit of {limit} bytes", limit + 1);
                assert_eq!(heard.take(), [format!("failed 1009 {problem}")]);
                assert_eq!(peer.frames(), [(0x88, closing(1009, &problem))]);
            });
        }
    }
}

#[test]
fn fragments_of_more_than_the_limit_are_refused() {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(true);
        ws.set_message_limit(10).unwrap();
        let heard = Heard::default();
        heard.listen(&ws);
        peer.send(2, &[1; 10]);
        rig.run();
        assert!(heard.take().is_empty());
        peer.send(0x80, &[1]);
        rig.run();
        assert_eq!(heard.take(), ["failed 1009 a message of 11 bytes exceeds the limit of 10 bytes"]);
    });
}

#[test]
fn so_many_pings_are_answered_and_one_more_is_not() {
    for first in [0x89, 0x8a] {
        rig(|rig| {
            let (ws, mut peer) = rig.pair(true);
            let heard = Heard::default();
            heard.listen(&ws);
            for _ in 0..3 {
                for _ in 0..100 {
                    peer.send(first, b"");
                }
                rig.run();
                assert!(heard.take().is_empty());
                rig.pass(Duration::from_secs(10));
                peer.bytes();
            }
            for _ in 0..101 {
                peer.send(first, b"");
            }
            rig.run();
            let problem = "more than 100 pings in 10 seconds";
            assert_eq!(heard.take(), [format!("failed 1008 {problem}")]);
            assert_eq!(peer.frames().last().unwrap(), &(0x88, closing(1008, problem)));
        });
    }
}

#[test]
fn pongs_that_were_asked_for_do_not_count() {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(true);
        ws.set_ping_limit(1);
        let heard = Heard::default();
        heard.listen(&ws);
        for _ in 0..5 {
            ws.ping("x").unwrap();
        }
        for (first, payload) in peer.frames() {
            assert_eq!((first, payload.as_slice()), (0x89, &b"x"[..]));
            peer.send(0x8a, &payload);
        }
        peer.send(0x8a, b"");
        rig.run();
        assert!(heard.take().is_empty());
        peer.send(0x8a, b"");
        rig.run();
        assert_eq!(heard.take(), ["failed 1008 more than 1 pings in 10 seconds"]);
        assert!(matches!(ws.ping([0; 126]), Err(Error::InvalidOption(_))));
    });
}

#[test]
fn of_the_pongs_for_which_there_is_no_room_the_newest_is_sent() {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(true);
        ws.set_send_limit(4 << 20).unwrap();
        ws.read(|_, _| Ok(()));
        // Beyond what the kernel takes, and the high-water mark.
        while !ws.is_full() {
            ws.send([0; 60_000]).unwrap();
        }
        for number in 0..10 {
            peer.send(0x89, &[number]);
        }
        rig.run();
        let mut got = Vec::new();
        loop {
            let more = peer.bytes();
            if more.is_empty() {
                break;
            }
            got.extend(more);
            rig.run();
        }
        let mut pongs = Vec::new();
        let mut rest = got.as_slice();
        while !rest.is_empty() {
            let (found, used) = unframe(rest, false);
            pongs.extend(Some(found).filter(|(first, _)| *first == 0x8a));
            rest = &rest[used..];
        }
        assert_eq!(pongs, [(0x8a, vec![9])]);
    });
}

#[test]
fn a_full_queue_takes_nothing_of_a_message() {
    for is_server in [false, true] {
        rig(|rig| {
            let (ws, mut peer) = rig.pair(is_server);
            ws.set_send_limit(1000).unwrap();
            // The kernel's share is not known; what it does not take is queued.
            let mut sent = 0;
            while ws.queued() == 0 {
                ws.send([7; 900]).unwrap();
                sent += 1;
            }
            let queued = ws.queued();
            let refused = loop {
                match ws.send([7; 900]) {
                    Ok(()) => sent += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(refused, Error::QueueFull { .. }), "{refused}");
            assert!(ws.queued() >= queued && ws.queued() <= 1000);
            let mut got = 0;
            loop {
                rig.run();
                let frames = peer.bytes();
                if frames.is_empty() {
                    break;
                }
                got += frames.len();
            }
            assert_eq!(got, sent * (900 + if is_server { 4 } else { 8 }), "whole frames");
            ws.send("there is room again").unwrap();
        });
    }
}

#[test]
fn limits_of_zero_that_cannot_be_kept_are_refused() {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(true);
        let heard = Heard::default();
        heard.listen(&ws);
        for result in [
            ws.set_message_limit(0),
            ws.set_ping_interval(Duration::ZERO),
            ws.set_pong_timeout(Duration::ZERO),
            ws.set_send_limit(0),
        ] {
            assert!(matches!(result, Err(Error::InvalidOption(_))), "{result:?}");
        }
        assert_eq!(ws.message_limit(), 1 << 20);
        ws.send("x").unwrap();
        // No ping is accepted.
        ws.set_ping_limit(0);
        rig.run();
        assert!(heard.take().is_empty());
        peer.send(0x89, b"");
        rig.run();
        assert_eq!(heard.take(), ["failed 1008 more than 0 pings in 10 seconds"]);
    });
}

#[test]
fn with_a_linger_time_of_zero_no_answer_is_awaited() {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(true);
        let heard = Heard::default();
        heard.listen(&ws);
        ws.set_linger(Duration::ZERO);
        ws.close(Code::NORMAL, "").unwrap();
        rig.run();
        assert_eq!(heard.take(), ["local"]);
        assert_eq!(peer.bytes()[..2], [0x88, 2]);
    });
}
