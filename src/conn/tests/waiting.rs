//! The futures that wait: in which order they are woken, and that none is forgotten.

use rustix::io::Errno;

use super::*;
use crate::conn::waiting::{AHEAD, Interest};

#[test]
fn the_first_to_wait_is_the_first_to_be_woken() {
    rig(|rig| {
        let wire = rig.tcp();
        let (one, two) = (Flag::new(), Flag::new());
        let (mut first, mut second) = (Ticket::New, Ticket::New);
        assert!(wire.poll_line(&one, &mut first).is_pending());
        assert!(wire.poll_line(&two, &mut second).is_pending());
        wire.comes("one\n");
        assert_eq!((one.woken(), two.woken()), (true, false));
        // One that comes late, or out of its turn, waits.
        assert!(wire.poll_line(&two, &mut second).is_pending());
        let (three, mut third) = (Flag::new(), Ticket::New);
        assert!(wire.poll_line(&three, &mut third).is_pending());
        assert!(matches!(wire.poll_line(&one, &mut first), Poll::Ready(Ok(line)) if line == "one"));
        assert!(two.woken(), "it is next");
        assert!(wire.poll_line(&two, &mut second).is_pending());
        wire.comes("two\nthree\n");
        assert!(matches!(wire.poll_line(&two, &mut second), Poll::Ready(Ok(line)) if line == "two"));
        assert!(three.woken());
        assert!(matches!(wire.poll_line(&three, &mut third), Poll::Ready(Ok(line)) if line == "three"));
    });
}

#[test]
fn one_that_was_woken_and_goes_passes_it_on() {
    rig(|rig| {
        let wire = rig.tcp();
        let (one, two) = (Flag::new(), Flag::new());
        let (mut first, mut second) = (Ticket::New, Ticket::New);
        assert!(wire.poll_recv(&one, &mut first, 10).is_pending());
        assert!(wire.poll_recv(&two, &mut second, 10).is_pending());
        wire.comes("data");
        assert!(one.woken());
        wire.conn.waiters().cancel(Interest::Input, &mut first);
        assert!(two.woken());
        assert!(matches!(wire.poll_recv(&two, &mut second, 10), Poll::Ready(Ok(data)) if data == b"data"));
        wire.conn.waiters().cancel(Interest::Input, &mut first);
    });
}

#[test]
fn the_last_that_goes_leaves_the_end_to_the_loop() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.hears_end();
        let (flag, mut ticket) = (Flag::new(), Ticket::New);
        assert!(wire.poll_recv(&flag, &mut ticket, 10).is_pending());
        wire.ends();
        assert!(wire.heard().is_empty() && flag.woken(), "it is for the future to find");
        wire.conn.waiters().cancel(Interest::Input, &mut ticket);
        rig.run();
        assert_eq!(wire.heard(), ["end: closed by the peer"]);
    });
}

#[test]
fn everybody_hears_of_the_end() {
    rig(|rig| {
        for reset in [false, true] {
            let wire = rig.tcp();
            let flags = [Flag::new(), Flag::new(), Flag::new()];
            let mut tickets = [Ticket::New, Ticket::New, Ticket::Unordered];
            for (flag, ticket) in flags.iter().zip(&mut tickets) {
                assert!(wire.poll_recv(flag, ticket, 10).is_pending());
            }
            if reset {
                wire.script.fails(Errno::CONNRESET);
                wire.is(Ready::READ | Ready::AT_END);
            } else {
                wire.ends();
            }
            for (flag, ticket) in flags.iter().zip(&mut tickets) {
                assert!(flag.woken(), "reset: {reset}");
                let Poll::Ready(Err(error)) = wire.poll_recv(flag, ticket, 10) else { panic!("it goes on") };
                assert_eq!(kind(&error), if reset { "Reset" } else { "Closed" });
                rig.run();
            }
        }
    });
}

#[test]
fn those_without_a_place_come_after_the_others() {
    rig(|rig| {
        let wire = rig.tcp();
        let (stream, future) = (Flag::new(), Flag::new());
        let (mut unordered, mut ticket) = (Ticket::Unordered, Ticket::New);
        assert!(wire.poll_recv(&stream, &mut unordered, 10).is_pending());
        assert!(wire.poll_recv(&future, &mut ticket, 10).is_pending());
        wire.comes("data");
        assert_eq!((stream.woken(), future.woken()), (false, true));
        assert!(wire.poll_recv(&future, &mut ticket, 2).is_ready());
        assert!(stream.woken());
        assert!(matches!(wire.poll_recv(&stream, &mut unordered, 10), Poll::Ready(Ok(data)) if data == b"ta"));
    });
}

#[test]
fn a_reader_that_is_set_wakes_everybody() {
    rig(|rig| {
        let wire = rig.tcp();
        let (flag, mut ticket) = (Flag::new(), Ticket::New);
        assert!(wire.poll_recv(&flag, &mut ticket, 10).is_pending());
        wire.reads();
        assert!(flag.woken());
        assert!(matches!(wire.poll_recv(&flag, &mut ticket, 10), Poll::Ready(Err(Error::Unsupported(_)))));
        wire.conn.waiters().cancel(Interest::Input, &mut ticket);
        wire.comes("data");
        assert_eq!(wire.heard(), ["data data"]);
    });
}

#[test]
fn senders_are_woken_one_after_the_other() {
    rig(|rig| {
        let wire = rig.tcp_with(|options| (options.high_water_mark, options.low_water_mark) = (4, 1));
        wire.script.has_room(0);
        wire.send("full").unwrap();
        let (one, two) = (Flag::new(), Flag::new());
        let (mut first, mut second) = (Ticket::New, Ticket::New);
        assert!(wire.poll_send(&one, &mut first, b"1").is_pending());
        assert!(wire.poll_send(&two, &mut second, b"2").is_pending());
        wire.script.has_room(100);
        wire.is(Ready::WRITE);
        assert_eq!((one.woken(), two.woken()), (true, false));
        wire.conn.waiters().cancel(Interest::Room, &mut first);
        assert!(two.woken(), "the first has lost interest");
        assert!(wire.poll_send(&two, &mut second, b"2").is_ready());
        assert_eq!(wire.written(), "full2");
    });
}

#[test]
fn little_is_received_ahead_and_much_stays_in_the_kernel() {
    rig(|rig| {
        let wire = rig.tcp();
        let (flag, mut ticket) = (Flag::new(), Ticket::New);
        assert!(wire.poll_recv(&flag, &mut ticket, READ_BUFFER).is_pending());
        wire.comes("small");
        assert!(flag.woken() && wire.script.is_read_out(), "by the engine");
        assert_eq!(wire.conn.io.received(), 5);
        assert!(wire.poll_recv(&flag, &mut ticket, READ_BUFFER).is_ready());
        assert!(wire.poll_recv(&flag, &mut ticket, READ_BUFFER).is_pending());
        wire.comes(vec![b'x'; 3 * AHEAD]);
        assert_eq!(wire.conn.io.received(), AHEAD);
        let mut got = 0;
        while let Poll::Ready(data) = wire.poll_recv(&flag, &mut ticket, READ_BUFFER) {
            got += data.unwrap().len();
        }
        assert_eq!(got, 3 * AHEAD);
        // There was more than that: the next is left to the future, which has the room.
        flag.woken();
        wire.script.brings(vec![b'x'; 3 * AHEAD]);
        wire.is(Ready::READ);
        assert!(flag.woken());
        assert!(matches!(wire.poll_recv(&flag, &mut ticket, READ_BUFFER), Poll::Ready(Ok(data)) if data.len() > AHEAD));
    });
}

#[test]
fn all_who_flush_are_woken_when_the_queue_is_empty() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.script.has_room(0);
        wire.send("data").unwrap();
        let (one, two) = (Flag::new(), Flag::new());
        for flag in [&one, &two, &two] {
            assert!(wire.conn.polling(&flag.context()).flush().is_pending());
        }
        wire.script.has_room(3);
        wire.is(Ready::WRITE);
        assert!(!one.woken() && !two.woken());
        wire.script.has_room(3);
        wire.is(Ready::WRITE);
        assert!(one.woken() && two.woken());
    });
}

#[test]
fn one_that_waits_makes_a_blocking_descriptor_be_watched() {
    rig(|rig| {
        let wire = rig.pair(true);
        let key = wire.conn.key.get().unwrap();
        assert!(!rig.engine.watches(key).0, "nobody waits");
        let (flag, mut ticket) = (Flag::new(), Ticket::New);
        assert!(wire.poll_recv(&flag, &mut ticket, 10).is_pending());
        assert!(rig.engine.watches(key).0);
        wire.comes("data");
        assert!(flag.woken());
        assert!(matches!(wire.poll_recv(&flag, &mut ticket, 10), Poll::Ready(Ok(data)) if data == b"data"));
    });
}
