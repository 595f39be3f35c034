//! What is sent: at once or at the end of the turn, within limits, and what becomes of it when that fails.

use rustix::io::Errno;

use super::*;
use crate::conn::writing::{GATHER, PORTION};

fn marked(rig: &Rig) -> Wire<'_> {
    rig.tcp_with(|options| (options.high_water_mark, options.low_water_mark) = (10, 4))
}

#[test]
fn outside_of_a_turn_it_goes_out_at_once() {
    rig(|rig| {
        for wire in [rig.tcp(), rig.unix(), rig.pair(false)] {
            wire.send("data").unwrap();
            wire.conn.send(b"line", true).unwrap();
            wire.send("").unwrap();
            assert_eq!((wire.written(), wire.out.writes()), ("dataline\n".into(), 2));
        }
    });
}

#[test]
fn in_a_turn_much_goes_out_at_once_and_little_at_its_end() {
    rig(|rig| {
        let wire = rig.tcp();
        let (conn, script) = (wire.conn.clone(), wire.script.clone());
        rig.engine.defer(move |_| {
            conn.send(b"little", false).unwrap();
            assert_eq!(script.writes(), 0);
            conn.send(&vec![b'x'; GATHER], false).unwrap();
            assert!(script.writes() > 0);
            conn.send(b"rest", true).unwrap();
            assert_eq!(script.writes(), 0);
        });
        rig.run();
        let written = wire.written();
        assert!(written.starts_with("littlexx") && written.ends_with("xxrest\n"));
        assert_eq!(written.len(), 6 + GATHER + 5);
    });
}

#[test]
fn what_the_kernel_does_not_take_waits_in_order() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.script.has_room(1);
        wire.send("abc").unwrap();
        wire.send("def").unwrap();
        assert_eq!((wire.written(), wire.conn.queued(), wire.awaits_room()), ("a".into(), 5, true));
        wire.script.has_room(3);
        wire.is(Ready::WRITE);
        assert_eq!((wire.written(), wire.awaits_room()), ("bcd".into(), true));
        wire.script.has_room(100);
        wire.is(Ready::WRITE);
        assert_eq!((wire.written(), wire.awaits_room(), wire.conn.queued()), ("ef".into(), false, 0));
    });
}

#[test]
fn a_long_queue_goes_out_in_portions() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.script.has_room(0);
        let size = 10 * PORTION + 1;
        wire.send(vec![b'x'; size]).unwrap();
        wire.script.writes();
        wire.script.has_room(usize::MAX);
        wire.is(Ready::WRITE);
        assert_eq!((wire.written().len(), wire.script.writes()), (size, 11));
    });
}

#[test]
fn a_blocking_descriptor_gets_what_it_surely_takes() {
    rig(|rig| {
        let wire = rig.pair(true);
        wire.out.has_room(0);
        wire.send(vec![b'x'; 10_000]).unwrap();
        wire.out.has_room(usize::MAX);
        wire.is(Ready::WRITE);
        assert_eq!((wire.written().len(), wire.out.writes()), (10_000, 3), "of 4096 bytes at most");
    });
}

// ---- limits ----

#[test]
fn over_the_limit_nothing_of_it_is_queued() {
    rig(|rig| {
        let wire = rig.tcp_with(|options| options.send_limit = 10);
        wire.script.has_room(0);
        wire.send("12345678").unwrap();
        match wire.send("abc") {
            Err(Error::QueueFull { size: 3, queued: 8, limit: 10, option: "send_limit", .. }) => {}
            other => panic!("{other:?}"),
        }
        wire.send("90").unwrap();
        wire.script.has_room(100);
        wire.is(Ready::WRITE);
        assert_eq!(wire.written(), "1234567890");
        assert_eq!(failure(wire.send("eleven bytes")), "QueueFull", "however much room there is");
    });
}

#[test]
fn one_that_failed_for_room_hears_of_room() {
    rig(|rig| {
        let wire = rig.tcp_with(|options| options.send_limit = 10);
        wire.hears_drain();
        wire.script.has_room(0);
        wire.send("123").unwrap();
        assert_eq!(failure(wire.send("12345678")), "QueueFull");
        assert!(wire.conn.is_full());
        wire.script.has_room(100);
        wire.is(Ready::WRITE);
        assert_eq!(wire.heard(), ["drained"]);
    });
}

struct Nobody;

impl Roster for Nobody {
    fn leave(&self, _: NonZeroU64) {}
    fn give_up(&self, _: NonZeroU64) {}
    fn log_end(&self, _: &dyn Fn()) {}
}

#[test]
fn the_queues_of_a_server_have_a_limit_together() {
    rig(|rig| {
        let roster: Rc<dyn Roster> = Rc::new(Nobody);
        let common = Common::new(Options::default(), 3 * GATHER, Rc::downgrade(&roster), None);
        let (one, two) = (rig.wire(Some(peer()), common.clone()), rig.wire(Some(peer()), common));
        for wire in [&one, &two] {
            wire.script.has_room(0);
        }
        one.send(vec![b'1'; 2 * GATHER]).unwrap();
        match two.send(vec![b'2'; 2 * GATHER]) {
            Err(Error::QueueFull { option: "total_send_limit", .. }) => {}
            other => panic!("{other:?}"),
        }
        two.send("a little is no matter").unwrap();
        one.script.has_room(usize::MAX);
        one.is(Ready::WRITE);
        two.send(vec![b'2'; 2 * GATHER]).unwrap();
        two.conn.abort();
        one.script.has_room(0);
        one.send(vec![b'1'; 2 * GATHER]).unwrap();
    });
}

// ---- back-pressure ----

#[test]
fn a_full_queue_has_drained_at_the_low_mark() {
    rig(|rig| {
        let wire = marked(rig);
        wire.hears_drain();
        wire.script.has_room(0);
        wire.send("123456789").unwrap();
        assert!(!wire.conn.is_full());
        wire.send("0").unwrap();
        assert!(wire.conn.is_full());
        wire.script.has_room(5);
        wire.is(Ready::WRITE);
        assert!(wire.conn.is_full() && wire.heard().is_empty());
        wire.script.has_room(1);
        wire.is(Ready::WRITE);
        assert_eq!((wire.conn.is_full(), wire.heard()), (false, vec!["drained".into()]));
        wire.script.has_room(100);
        wire.is(Ready::WRITE);
        assert!(wire.heard().is_empty(), "once");
    });
}

#[test]
fn a_drain_callback_may_fill_the_queue_again_and_may_fail() {
    rig(|rig| {
        let wire = marked(rig);
        let (heard, mut left) = (wire.heard.clone(), 3);
        wire.hears_end();
        wire.conn.set_on_drain(Some(Box::new(move |socket| {
            heard.push("drained");
            left -= 1;
            if left == 0 {
                return Err(Error::other("enough"));
            }
            socket.conn.send(b"0123456789", false)
        })));
        wire.script.has_room(0);
        wire.send("0123456789").unwrap();
        for _ in 0..3 {
            wire.script.has_room(10);
            wire.is(Ready::WRITE);
        }
        assert_eq!(wire.heard(), ["drained", "drained", "drained", "end: enough"]);
        assert_eq!(wire.written(), "0123456789".repeat(3));
    });
}

#[test]
fn room_that_is_used_up_before_the_call_is_no_room() {
    rig(|rig| {
        let wire = marked(rig);
        wire.hears_drain();
        wire.script.has_room(0);
        wire.send("0123456789").unwrap();
        wire.script.has_room(10);
        // Outside of the loop's turn, so that the callback is due, and not yet called.
        wire.conn.output().send();
        wire.script.has_room(0);
        wire.send("0123456789").unwrap();
        rig.run();
        assert!(wire.heard().is_empty());
        wire.script.has_room(100);
        wire.is(Ready::WRITE);
        assert_eq!(wire.heard(), ["drained"]);
    });
}

// ---- failures ----

#[test]
fn after_a_failure_what_the_peer_had_sent_is_still_read() {
    rig(|rig| {
        for (error, name) in [(Errno::PIPE, "Closed"), (Errno::CONNRESET, "Reset")] {
            for waits in [false, true] {
                let wire = rig.tcp();
                wire.hears_end().reads();
                rig.run();
                wire.script.brings("last words").ends();
                if waits {
                    wire.script.has_room(0);
                    wire.send("lost").unwrap();
                    wire.script.refuses(error);
                    wire.is(Ready::WRITE);
                } else {
                    wire.script.refuses(error);
                    assert_eq!(failure(wire.send("lost")), name);
                    assert_eq!(failure(wire.send("more")), name);
                    rig.run();
                }
                assert_eq!(wire.heard(), ["data last words".to_string(), format!("end: {name}")], "waits: {waits}");
            }
        }
    });
}

#[test]
fn a_failure_of_the_system_is_the_end_at_once() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.hears_end();
        wire.script.refuses(Errno::NOBUFS);
        assert_eq!(failure(wire.send("lost")), "Io Uncategorized");
        assert_eq!(wire.phase(), Phase::Closed);
        rig.run();
        assert_eq!(wire.heard(), ["end: Io Uncategorized"]);
    });
}

// ---- half-close ----

#[test]
fn the_write_half_ends_after_the_queue() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.hears_end().reads();
        wire.script.has_room(1);
        wire.send("ab").unwrap();
        wire.conn.shutdown_write().unwrap();
        wire.conn.shutdown_write().unwrap();
        assert!(wire.script.calls().is_empty());
        assert_eq!(failure(wire.send("late")), "Closed");
        wire.script.has_room(1);
        wire.is(Ready::WRITE);
        assert_eq!((wire.written(), wire.script.calls()), ("ab".into(), vec!["shutdown"]));
        wire.comes("still read");
        wire.ends();
        assert_eq!(wire.heard(), ["data still read", "end: closed by the peer"]);
        assert_eq!((wire.phase(), wire.script.calls()), (Phase::Closed, vec!["close"]));
    });
}

#[test]
fn over_tls_the_write_half_ends_after_its_last_record() {
    rig(|rig| {
        let (wire, mut tls) = rig.sealed(Side::Client);
        wire.script.has_room(0);
        wire.conn.shutdown_write().unwrap();
        rig.run();
        assert!(wire.script.calls().is_empty() && wire.awaits_room());
        wire.script.has_room(usize::MAX);
        wire.is(Ready::WRITE);
        tls.got(&wire);
        assert_eq!((wire.script.calls(), tls.session.peer_closed()), (vec!["shutdown"], true));
        wire.reads();
        wire.comes(tls.seals("still read"));
        assert_eq!(wire.heard(), ["data still read"]);
    });
}

#[test]
fn of_a_pair_the_output_is_closed_and_the_input_goes_on() {
    rig(|rig| {
        let wire = rig.pair(false);
        wire.reads();
        wire.send("all").unwrap();
        wire.conn.shutdown_write().unwrap();
        assert_eq!(wire.out.calls(), ["shutdown", "close"]);
        wire.comes("still read");
        assert_eq!((wire.heard(), wire.script.calls()), (vec!["data still read".into()], vec![]));
    });
}

// ---- flushing ----

#[test]
fn whoever_waits_for_the_queue_is_called_once_on_a_later_turn() {
    rig(|rig| {
        let wire = rig.tcp();
        let flushed = |wire: &Wire<'_>, name: &'static str| {
            let heard = wire.heard.clone();
            wire.conn.when_flushed(Box::new(move |_, result| {
                heard.push(format!("{name} {}", result.map_or_else(|error| kind(&error), |()| "done".into())));
            }));
        };
        flushed(&wire, "empty");
        assert!(wire.heard().is_empty());
        rig.run();
        assert_eq!(wire.heard(), ["empty done"]);
        wire.script.has_room(1);
        wire.send("ab").unwrap();
        flushed(&wire, "one");
        flushed(&wire, "two");
        rig.run();
        assert!(wire.heard().is_empty());
        wire.script.has_room(1);
        wire.is(Ready::WRITE);
        assert_eq!(wire.heard(), ["one done", "two done"]);
        wire.script.has_room(0);
        wire.send("lost").unwrap();
        flushed(&wire, "three");
        wire.script.refuses(Errno::CONNRESET);
        wire.is(Ready::WRITE);
        flushed(&wire, "four");
        rig.run();
        assert_eq!(wire.heard(), ["three Reset", "four Reset"]);
    });
}

// ---- TLS ----

#[test]
fn a_slow_peer_of_tls_gets_everything_in_order() {
    rig(|rig| {
        let (wire, mut tls) = rig.sealed(Side::Server);
        wire.script.has_room(1000);
        let sent: String = (0..40_000).map(|number| format!("{number} ")).collect();
        wire.send(&sent).unwrap();
        assert!(wire.conn.queued() > 0 && wire.awaits_room());
        let mut got = String::new();
        let mut rounds = 0;
        while got.len() < sent.len() {
            got += &tls.got(&wire);
            wire.script.has_room(50_000);
            wire.is(Ready::WRITE);
            rounds += 1;
            assert!(rounds < 100);
        }
        assert!(got == sent && !wire.conn.is_sending());
    });
}

#[test]
fn what_a_tls_session_still_holds_counts_as_not_sent() {
    rig(|rig| {
        let (wire, mut tls) = rig.sealed(Side::Server);
        wire.script.has_room(5);
        wire.send("small").unwrap();
        assert_eq!((wire.conn.queued(), wire.conn.is_sending(), wire.awaits_room()), (0, true, true));
        wire.script.has_room(usize::MAX);
        wire.is(Ready::WRITE);
        assert_eq!((tls.got(&wire), wire.conn.is_sending(), wire.awaits_room()), ("small".into(), false, false));
    });
}
