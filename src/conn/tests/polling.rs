//! Futures being polled by hand.

use rustix::io::Errno;

use super::*;

fn ready<R>(poll: Poll<Result<R>>) -> R {
    match poll {
        Poll::Ready(result) => result.unwrap(),
        Poll::Pending => panic!("it is not ready"),
    }
}

fn failed<R: std::fmt::Debug>(poll: Poll<Result<R>>) -> String {
    match poll {
        Poll::Ready(result) => failure(result),
        Poll::Pending => panic!("it is not ready"),
    }
}

#[test]
fn one_that_waits_is_woken_and_gets_what_came() {
    rig(|rig| {
        for wire in [rig.tcp(), rig.unix(), rig.pair(false)] {
            let (flag, mut ticket) = (Flag::new(), Ticket::New);
            assert!(wire.poll_recv(&flag, &mut ticket, 10).is_pending());
            rig.run();
            assert!(!flag.woken());
            wire.comes("hello");
            assert!(flag.woken());
            assert_eq!(ready(wire.poll_recv(&flag, &mut ticket, 10)), b"hello");
            assert_eq!(ticket, Ticket::New, "it has left the queue");
        }
    });
}

#[test]
fn what_has_come_already_is_taken_without_waiting() {
    rig(|rig| {
        let wire = rig.tcp();
        let (flag, mut ticket) = (Flag::new(), Ticket::New);
        assert!(wire.poll_line(&flag, &mut ticket).is_pending());
        wire.comes("one\ntwo\nthr");
        assert_eq!(ready(wire.poll_line(&flag, &mut ticket)), "one");
        assert_eq!(ready(wire.poll_line(&flag, &mut ticket)), "two");
        flag.woken();
        assert!(wire.poll_line(&flag, &mut ticket).is_pending());
        wire.comes("ee\n");
        assert!(flag.woken());
        assert_eq!(ready(wire.poll_line(&flag, &mut ticket)), "three");
    });
}

#[test]
fn a_read_goes_straight_into_the_callers_memory() {
    rig(|rig| {
        let wire = rig.tcp();
        let (flag, mut buffer) = (Flag::new(), [0; 4]);
        assert!(wire.conn.polling(&flag.context()).read(&mut buffer[..]).is_pending());
        wire.comes("abcdef");
        assert!(flag.woken());
        let mut got = Vec::new();
        while got.len() < 6 {
            let count = ready(wire.conn.polling(&flag.context()).read(&mut buffer[..]));
            got.extend(&buffer[..count]);
        }
        assert_eq!(text(&got), "abcdef");
        wire.script.brings("x");
        wire.is(Ready::READ);
        assert_eq!(ready(wire.conn.polling(&flag.context()).read(&mut buffer[..])), 1);
        assert!(wire.conn.polling(&flag.context()).read(&mut buffer[..]).is_pending());
        wire.ends();
        assert!(flag.woken());
        assert_eq!(failed(wire.conn.polling(&flag.context()).read(&mut buffer[..])), "Closed");
    });
}

#[cfg(feature = "http")]
#[test]
fn a_read_goes_into_memory_that_is_not_initialized() {
    use std::mem::MaybeUninit;

    rig(|rig| {
        for wire in [rig.tcp(), rig.unix()] {
            let flag = Flag::new();
            let mut got = Vec::new();
            let mut read = |expected: Option<usize>| {
                let mut memory = [MaybeUninit::uninit(); 4];
                let mut space = hyper::rt::ReadBuf::uninit(&mut memory);
                let polled = wire.conn.polling(&flag.context()).read(&mut space.unfilled());
                match expected {
                    None => assert!(polled.is_pending()),
                    Some(count) => assert_eq!(ready(polled), count),
                }
                got.extend_from_slice(space.filled());
            };
            read(None);
            wire.comes("abcdef");
            read(Some(4));
            read(Some(2));
            wire.script.brings("ghi");
            wire.is(Ready::READ);
            read(Some(3));
            read(None);
            assert_eq!(text(&got), "abcdefghi");
        }
    });
}

#[test]
fn a_read_straight_into_memory_is_told_the_end_and_an_error() {
    rig(|rig| {
        let (flag, mut buffer) = (Flag::new(), [0; 4]);
        let wire = rig.tcp();
        wire.is(Ready::READ | Ready::HANGUP);
        wire.script.ends();
        wire.conn.status.becomes_ready(Ready::READ);
        assert_eq!(failed(wire.conn.polling(&flag.context()).read(&mut buffer[..])), "Closed");
        assert!(wire.conn.has_ended_cleanly());
        let wire = rig.tcp();
        wire.script.fails(Errno::CONNRESET);
        wire.conn.status.becomes_ready(Ready::READ);
        assert_eq!(failed(wire.conn.polling(&flag.context()).read(&mut buffer[..])), "Reset");
        let wire = rig.tcp();
        wire.conn.status.becomes_ready(Ready::READ);
        assert!(wire.conn.polling(&flag.context()).read(&mut buffer[..]).is_pending(), "there is nothing");
    });
}

#[test]
fn beside_a_reader_nothing_is_received_unless_it_is_paused() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.reads();
        let (flag, mut ticket) = (Flag::new(), Ticket::New);
        assert_eq!(failed(wire.poll_recv(&flag, &mut ticket, 10)), "Unsupported");
        assert_eq!(failed(wire.conn.polling(&flag.context()).read(&mut [0; 4][..])), "Unsupported");
        wire.conn.pause();
        assert!(wire.poll_recv(&flag, &mut ticket, 10).is_pending());
        wire.comes("data");
        assert_eq!(ready(wire.poll_recv(&flag, &mut ticket, 10)), b"data");
        assert!(wire.poll_recv(&flag, &mut ticket, 10).is_pending());
        wire.conn.resume();
        assert!(flag.woken(), "somebody else reads from now on");
    });
}

#[test]
fn data_comes_before_the_end_and_an_incomplete_line_is_left() {
    rig(|rig| {
        let wire = rig.tcp();
        let (flag, mut ticket) = (Flag::new(), Ticket::New);
        assert!(wire.poll_line(&flag, &mut ticket).is_pending());
        wire.script.brings("one\nhalf");
        wire.ends();
        assert_eq!(ready(wire.poll_line(&flag, &mut ticket)), "one");
        assert_eq!(failed(wire.poll_line(&flag, &mut ticket)), "Closed");
        assert_eq!(ready(wire.poll_recv(&flag, &mut Ticket::New, 10)), b"half");
        assert_eq!(failed(wire.poll_recv(&flag, &mut Ticket::New, 10)), "Closed");
    });
}

#[test]
fn a_line_over_the_limit_is_an_error_and_the_end() {
    rig(|rig| {
        let wire = rig.tcp_with(|options| options.line_limit = 4);
        wire.hears_end();
        let (flag, mut ticket) = (Flag::new(), Ticket::New);
        assert!(wire.poll_line(&flag, &mut ticket).is_pending());
        wire.comes("five5");
        assert_eq!(failed(wire.poll_line(&flag, &mut ticket)), "LineTooLong");
        rig.run();
        assert_eq!(wire.heard(), ["end: LineTooLong, left five5"]);
    });
}

#[test]
fn bytes_that_are_given_back_come_first() {
    rig(|rig| {
        let wire = rig.tcp();
        let (flag, mut ticket) = (Flag::new(), Ticket::New);
        assert!(wire.poll_recv(&flag, &mut ticket, 10).is_pending());
        wire.conn.give_back_input(b"first ");
        rig.run();
        assert!(flag.woken());
        wire.comes("then");
        let mut all = ready(wire.poll_recv(&flag, &mut ticket, 10));
        all.extend(ready(wire.poll_recv(&flag, &mut ticket, 10)));
        assert_eq!(text(&all), "first then");
    });
}

#[test]
fn one_that_always_finds_something_yields() {
    rig(|rig| {
        let wire = rig.tcp();
        for _ in 0..6 {
            wire.script.brings(vec![b'x'; READ_BUFFER]);
        }
        wire.is(Ready::READ);
        let (flag, mut ticket) = (Flag::new(), Ticket::New);
        let mut bytes = 0;
        let mut reads = 0;
        while let Poll::Ready(data) = wire.poll_recv(&flag, &mut ticket, READ_BUFFER) {
            bytes += data.unwrap().len();
            reads += 1;
        }
        assert_eq!((bytes, reads), (4 * READ_BUFFER, 4), "its share");
        assert!(!wire.script.is_read_out() && !flag.woken());
        rig.run();
        assert!(flag.woken(), "the loop has had its turn");
        assert_eq!(ready(wire.poll_recv(&flag, &mut ticket, READ_BUFFER)).len(), READ_BUFFER);
    });
}

#[test]
fn one_that_takes_too_long_yields() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.script.brings("line\n".repeat(10_000));
        wire.is(Ready::READ);
        let (flag, mut ticket) = (Flag::new(), Ticket::New);
        let mut lines = 0;
        while wire.poll_line(&flag, &mut ticket).is_ready() {
            script::pass(Duration::from_micros(100));
            lines += 1;
        }
        assert!((5..1000).contains(&lines), "{lines} lines of 100 us");
        rig.run();
        assert!(flag.woken());
        assert_eq!(ready(wire.poll_line(&flag, &mut ticket)), "line");
    });
}

// ---- TLS ----

#[test]
fn over_tls_half_a_record_is_nothing() {
    rig(|rig| {
        let (wire, mut tls) = rig.sealed(Side::Client);
        let (flag, mut ticket) = (Flag::new(), Ticket::New);
        assert!(wire.poll_recv(&flag, &mut ticket, 10).is_pending());
        let sealed = tls.seals("secret");
        wire.comes(&sealed[..5]);
        assert!(wire.poll_recv(&flag, &mut ticket, 10).is_pending());
        wire.comes(&sealed[5..]);
        assert!(flag.woken());
        assert_eq!(ready(wire.poll_recv(&flag, &mut ticket, 10)), b"secret");
        let mut buffer = [0; 3];
        wire.comes(tls.seals("more"));
        assert_eq!(ready(wire.conn.polling(&flag.context()).read(&mut buffer[..])), 3);
        assert_eq!(ready(wire.conn.polling(&flag.context()).read(&mut buffer[..])), 1);
    });
}

// ---- output ----

#[test]
fn a_send_waits_while_the_queue_is_full() {
    rig(|rig| {
        let wire = rig.tcp_with(|options| (options.high_water_mark, options.low_water_mark) = (10, 4));
        wire.script.has_room(0);
        let (flag, mut ticket) = (Flag::new(), Ticket::New);
        ready(wire.poll_send(&flag, &mut ticket, b"0123456789"));
        assert!(wire.conn.is_full());
        assert!(wire.poll_send(&flag, &mut ticket, b"more").is_pending());
        wire.script.has_room(5);
        wire.is(Ready::WRITE);
        assert!(!flag.woken(), "it has not drained");
        wire.script.has_room(1);
        wire.is(Ready::WRITE);
        assert!(flag.woken() && !wire.conn.is_full());
        ready(wire.poll_send(&flag, &mut ticket, b"more"));
        wire.script.has_room(100);
        wire.is(Ready::WRITE);
        assert_eq!(wire.written(), "0123456789more");
    });
}

#[test]
fn a_send_that_will_fit_waits_and_one_that_never_does_goes_in_pieces() {
    rig(|rig| {
        let wire = rig.tcp_with(|options| options.send_limit = 10);
        wire.script.has_room(0);
        let (flag, mut ticket) = (Flag::new(), Ticket::New);
        ready(wire.poll_send(&flag, &mut ticket, b"seven77"));
        assert!(wire.poll_send(&flag, &mut ticket, b"four").is_pending());
        wire.script.has_room(7);
        wire.is(Ready::WRITE);
        assert!(flag.woken());
        ready(wire.poll_send(&flag, &mut ticket, b"four"));
        wire.script.has_room(100);
        wire.is(Ready::WRITE);
        assert_eq!(wire.written(), "seven77four");
        let mut sent = 0;
        let more = b"more than ten and more than twenty";
        wire.script.has_room(0);
        while wire.conn.polling(&flag.context()).send(&mut ticket, more, &mut sent).is_pending() {
            assert!(wire.conn.queued() <= 10);
            wire.script.has_room(10);
            wire.is(Ready::WRITE);
            assert!(flag.woken(), "after {sent} bytes");
        }
        wire.script.has_room(100);
        wire.is(Ready::WRITE);
        assert_eq!((sent, wire.written().as_bytes()), (more.len(), &more[..]));
    });
}

#[test]
fn a_write_takes_what_there_is_room_for() {
    rig(|rig| {
        let wire = rig.tcp_with(|options| (options.high_water_mark, options.low_water_mark) = (10, 4));
        wire.script.has_room(0);
        let flag = Flag::new();
        assert_eq!(ready(wire.conn.polling(&flag.context()).write(&[b'x'; 20])), 10);
        assert!(wire.conn.polling(&flag.context()).write(&[b'x'; 20]).is_pending());
        wire.script.has_room(100);
        wire.is(Ready::WRITE);
        assert!(flag.woken());
        assert_eq!(ready(wire.conn.polling(&flag.context()).write(b"y")), 1);
        wire.conn.close();
        assert_eq!(failed(wire.conn.polling(&flag.context()).write(b"z")), "Closed");
        assert_eq!(failed(wire.poll_send(&flag, &mut Ticket::New, b"z")), "Closed");
    });
}

#[test]
fn in_a_turn_what_futures_send_goes_out_together() {
    rig(|rig| {
        let wire = rig.tcp();
        let conn = wire.conn.clone();
        rig.engine.defer(move |_| {
            let flag = Flag::new();
            for piece in ["one ", "two ", "three"] {
                ready(conn.polling(&flag.context()).send(&mut Ticket::New, piece.as_bytes(), &mut 0));
            }
            assert_eq!(ready(conn.polling(&flag.context()).write(b"!")), 1);
        });
        rig.run();
        assert_eq!((wire.written(), wire.script.writes()), ("one two three!".into(), 1));
    });
}

#[test]
fn a_flush_waits_for_the_kernel() {
    rig(|rig| {
        let wire = rig.tcp();
        let flag = Flag::new();
        ready(wire.conn.polling(&flag.context()).flush());
        wire.script.has_room(2);
        wire.send("abcd").unwrap();
        assert!(wire.conn.polling(&flag.context()).flush().is_pending());
        wire.script.has_room(100);
        wire.is(Ready::WRITE);
        assert!(flag.woken());
        ready(wire.conn.polling(&flag.context()).flush());
        wire.script.has_room(0);
        wire.send("lost").unwrap();
        assert!(wire.conn.polling(&flag.context()).flush().is_pending());
        wire.script.refuses(Errno::CONNRESET);
        wire.is(Ready::WRITE);
        assert!(flag.woken());
        assert_eq!(failed(wire.conn.polling(&flag.context()).flush()), "Reset");
    });
}

#[test]
fn shutting_waits_for_the_queue_and_the_end_of_it() {
    rig(|rig| {
        let wire = rig.tcp();
        let flag = Flag::new();
        wire.script.has_room(2);
        wire.send("abcd").unwrap();
        assert!(wire.conn.polling(&flag.context()).shut().is_pending());
        assert!(wire.script.calls().is_empty());
        wire.script.has_room(100);
        wire.is(Ready::WRITE);
        assert!(flag.woken());
        ready(wire.conn.polling(&flag.context()).shut());
        assert_eq!((wire.written(), wire.script.calls()), ("abcd".into(), vec!["shutdown"]));
        let lost = rig.tcp();
        lost.script.has_room(0);
        lost.send("lost").unwrap();
        assert!(lost.conn.polling(&flag.context()).shut().is_pending());
        lost.conn.abort();
        assert!(flag.woken());
        assert_eq!(failed(lost.conn.polling(&flag.context()).shut()), "Closed");
    });
}
