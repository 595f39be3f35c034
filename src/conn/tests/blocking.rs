//! Blocking calls: things happen while they wait, or the clock moves to the limit.

use std::os::fd::AsFd;

use rustix::io::Errno;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn limited(rig: &Rig, limit: Duration) -> Wire<'_> {
    rig.tcp_with(|options| options.timeout = Some(limit))
}

#[test]
fn it_waits_for_what_comes_meanwhile() {
    rig(|rig| {
        for wire in [rig.tcp(), rig.unix(), rig.pair(false), limited(rig, SECOND)] {
            wire.script.meanwhile(|script| _ = script.brings("da"));
            assert_eq!(text(&wire.conn.blocking().recv(10).unwrap()), "da");
            for piece in ["one\nt", "wo", "\nthr"] {
                wire.script.meanwhile(move |script| _ = script.brings(piece));
            }
            assert_eq!(wire.conn.blocking().recv_line().unwrap(), "one");
            assert_eq!(wire.conn.blocking().recv_line().unwrap(), "two");
            wire.script.meanwhile(|script| _ = script.brings("ee, four.five"));
            assert_eq!(wire.conn.blocking().recv_exact(5).unwrap().as_slice(), b"three");
            assert_eq!(wire.conn.blocking().recv_until(b"four.").unwrap(), b", ");
            let mut buffer = [0; 10];
            assert_eq!(wire.conn.blocking().recv_into(&mut buffer).unwrap(), 4);
            wire.script.meanwhile(|script| _ = script.brings("direct"));
            assert_eq!(wire.conn.blocking().recv_into(&mut buffer).unwrap(), 6);
            assert_eq!(&buffer[..6], b"direct");
        }
    });
}

#[test]
fn what_is_nothing_needs_no_waiting() {
    rig(|rig| {
        let wire = limited(rig, Duration::ZERO);
        let calls = wire.conn.blocking();
        assert_eq!(calls.recv_into(&mut []).unwrap(), 0);
        assert!(calls.recv_exact(0).unwrap().as_slice().is_empty() && calls.recv_until(b"").unwrap().is_empty());
        assert_eq!(calls.send_some(b"").unwrap(), 0);
    });
}

#[test]
fn it_gives_up_after_its_time_and_loses_nothing() {
    rig(|rig| {
        let wire = limited(rig, SECOND);
        wire.script.brings("half a li");
        let start = script::passed().unwrap();
        match wire.conn.blocking().recv_line() {
            Err(Error::TimedOut { operation: Operation::Wait, limit, .. }) => assert_eq!(limit, SECOND),
            other => panic!("{other:?}"),
        }
        assert_eq!(script::passed().unwrap() - start, SECOND);
        wire.script.brings("ne\n");
        assert_eq!(wire.conn.blocking().recv_line().unwrap(), "half a line");
        assert!(wire.conn.is_open());
    });
}

#[test]
fn the_time_is_one_for_the_whole_call() {
    rig(|rig| {
        let wire = limited(rig, SECOND);
        for _ in 0..5 {
            wire.script.meanwhile(|script| {
                script::pass(Duration::from_millis(300));
                script.brings("x");
            });
        }
        let start = script::passed().unwrap();
        assert_eq!(failure(wire.conn.blocking().recv_line()), "TimedOut");
        assert!(script::passed().unwrap() - start <= SECOND + Duration::from_millis(300));
    });
}

#[test]
fn a_timeout_of_zero_never_waits() {
    rig(|rig| {
        let wire = limited(rig, Duration::ZERO);
        wire.script.meanwhile(|_| panic!("it waits"));
        assert_eq!(failure(wire.conn.blocking().recv(1)), "NotReady");
        wire.script.brings("ready");
        assert_eq!(wire.conn.blocking().recv(10).unwrap(), b"ready");
        wire.script.has_room(2);
        assert_eq!(wire.conn.blocking().send_some(b"abc").unwrap(), 2);
        assert_eq!(failure(wire.conn.blocking().send_some(b"c")), "NotReady");
        wire.send("c").unwrap();
        assert_eq!(failure(wire.conn.blocking().flush()), "NotReady");
        wire.script.has_room(100);
    });
}

#[test]
fn a_question_goes_out_while_the_answer_is_awaited() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.script.has_room(3);
        wire.send("question").unwrap();
        wire.script.meanwhile(|script| _ = script.has_room(100));
        wire.script.meanwhile(|script| {
            assert_eq!(script.written(), b"question");
            script.brings("answer");
        });
        assert_eq!(wire.conn.blocking().recv(10).unwrap(), b"answer");
    });
}

#[test]
fn an_interrupted_read_is_made_again() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.script.fails(Errno::INTR).brings("data");
        assert_eq!(wire.conn.blocking().recv(10).unwrap(), b"data");
        wire.script.fails(Errno::INTR).brings("data");
        assert_eq!(wire.conn.blocking().recv_into(&mut [0; 10]).unwrap(), 4);
    });
}

#[test]
fn what_came_before_the_end_is_left_for_the_next_call() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.script.brings("short").ends();
        assert_eq!(failure(wire.conn.blocking().recv_exact(10).map(drop)), "Closed");
        assert_eq!(failure(wire.conn.blocking().recv_line()), "Closed");
        assert_eq!(wire.conn.blocking().recv(10).unwrap(), b"short");
        assert_eq!(failure(wire.conn.blocking().recv(10)), "Closed");
    });
}

#[test]
fn all_up_to_the_end_has_a_limit() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.script.brings("all ").brings("of it").ends();
        assert_eq!(wire.conn.blocking().recv_to_end(100).unwrap(), b"all of it");
        let wire = rig.tcp();
        wire.script.brings("too much");
        assert_eq!(failure(wire.conn.blocking().recv_to_end(5)), "LimitExceeded");
        assert_eq!(wire.conn.take_leftover(), b"too much");
        let wire = rig.tcp();
        wire.script.brings("cut").fails(Errno::CONNRESET);
        assert_eq!(failure(wire.conn.blocking().recv_to_end(100)), "Reset");
    });
}

#[test]
fn a_line_over_the_limit_ends_the_connection() {
    rig(|rig| {
        let wire = rig.tcp_with(|options| options.line_limit = 4);
        wire.hears_end();
        wire.script.brings("five5");
        assert_eq!(failure(wire.conn.blocking().recv_line()), "LineTooLong");
        rig.run();
        assert_eq!(wire.heard(), ["end: LineTooLong, left five5"]);
    });
}

#[test]
fn what_is_lent_is_taken_piece_by_piece() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.script.brings("abcdef").ends();
        let (piece, mark) = wire.conn.blocking().lend().unwrap().unwrap();
        assert_eq!(piece.as_slice(), b"abcdef");
        wire.conn.skip(mark, 4);
        let (piece, mark) = wire.conn.blocking().lend().unwrap().unwrap();
        assert_eq!(piece.as_slice(), b"ef");
        wire.conn.skip(mark, 2);
        assert!(wire.conn.blocking().lend().unwrap().is_none());
    });
}

#[test]
fn over_tls_it_waits_for_plaintext() {
    rig(|rig| {
        let (wire, mut tls) = rig.sealed(Side::Server);
        let sealed = tls.seals("secret");
        let (first, rest) = (sealed[..9].to_vec(), sealed[9..].to_vec());
        wire.script.meanwhile(move |script| _ = script.brings(first));
        wire.script.meanwhile(move |script| _ = script.brings(rest));
        let mut buffer = [0; 4];
        assert_eq!(wire.conn.blocking().recv_into(&mut buffer).unwrap(), 4);
        assert_eq!(wire.conn.blocking().recv(10).unwrap(), b"et");
        wire.script.ends();
        assert_eq!(failure(wire.conn.blocking().recv(10)), "Truncated");
    });
}

// ---- sending ----

#[test]
fn a_flush_waits_for_room_or_fails() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.conn.blocking().flush().unwrap();
        wire.script.has_room(1);
        wire.send("abc").unwrap();
        for _ in 0..2 {
            wire.script.meanwhile(|script| _ = script.has_room(1));
        }
        wire.conn.blocking().flush().unwrap();
        assert_eq!(wire.written(), "abc");
        wire.script.has_room(0);
        wire.send("lost").unwrap();
        wire.script.meanwhile(|script| _ = script.refuses(Errno::CONNRESET));
        assert_eq!(failure(wire.conn.blocking().flush()), "Reset");
    });
}

#[test]
fn some_is_sent_after_all_that_was_queued() {
    rig(|rig| {
        let wire = limited(rig, SECOND);
        wire.script.has_room(1);
        wire.send("ab").unwrap();
        wire.script.meanwhile(|script| _ = script.has_room(3));
        assert_eq!(wire.conn.blocking().send_some(b"cdef").unwrap(), 2);
        assert_eq!(wire.written(), "abcd");
        assert_eq!(failure(wire.conn.blocking().send_some(b"ef")), "TimedOut");
        assert_eq!(wire.conn.queued(), 0, "nothing of it is queued");
        wire.script.refuses(Errno::PIPE);
        assert_eq!(failure(wire.conn.blocking().send_some(b"ef")), "Closed");
        assert_eq!(failure(wire.conn.blocking().send_some(b"")), "Closed");
        wire.conn.abort();
        assert_eq!(failure(wire.conn.blocking().send_some(b"")), "Closed");
        assert_eq!(failure(wire.conn.blocking().send_some(b"x")), "Closed");
    });
}

#[test]
fn over_tls_what_the_session_took_goes_out_later() {
    rig(|rig| {
        let (wire, mut tls) = rig.sealed(Side::Server);
        wire.script.has_room(4);
        assert_eq!(wire.conn.blocking().send_some(b"data").unwrap(), 4);
        assert!(wire.awaits_room());
        wire.script.has_room(usize::MAX);
        wire.is(Ready::WRITE);
        assert_eq!(tls.got(&wire), "data");
    });
}

// ---- descriptors ----

#[test]
fn descriptors_are_received_only_where_they_are_accepted() {
    rig(|rig| {
        let wire = rig.unix();
        assert_eq!(failure(wire.conn.blocking().recv_fd()), "Unsupported");
    });
}

#[test]
fn an_error_of_descriptors_is_none_of_the_connection() {
    rig(|rig| {
        let wire = rig.unix();
        let (input, _output) = std::io::pipe().unwrap();
        let sent = wire.conn.blocking().send_fds(b"", &[input.as_fd()]);
        assert_eq!(failure(sent), "Io InvalidInput");
        wire.conn.change_options(|options| options.send_limit = 2);
        assert_eq!(failure(wire.conn.blocking().send_fds(b"abc", &[input.as_fd()])), "QueueFull");
        wire.send("ok").unwrap();
        assert_eq!(wire.written(), "ok");
    });
}

#[test]
fn a_descriptor_is_handed_over_with_what_was_received() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.script.brings("line\nrest");
        assert_eq!(wire.conn.blocking().recv_line().unwrap(), "line");
        wire.script.has_room(1);
        wire.send("ab").unwrap();
        wire.script.meanwhile(|script| _ = script.has_room(1));
        let (fd, leftover) = wire.conn.take_descriptor().unwrap();
        assert_eq!((text(&leftover), wire.written()), ("rest".into(), "ab".into()));
        assert!(wire.script.calls().is_empty(), "it was not closed");
        assert!(!wire.conn.is_open());
        assert_eq!(failure(wire.conn.take_descriptor()), "Closed");
        drop(fd);
        let (wire, _tls) = rig.sealed(Side::Server);
        assert_eq!(failure(wire.conn.take_descriptor()), "Unsupported");
        assert_eq!(failure(rig.pair(false).conn.take_descriptor()), "Closed");
    });
}

#[cfg(feature = "http")]
#[test]
fn a_connection_moves_to_another_context_with_what_it_has_received() {
    let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let private = glib::MainContext::new();
    let made = private.with_thread_default(|| Socket::from_fd(ours).unwrap()).unwrap();
    made.set_send_limit(77);
    std::io::Write::write_all(&mut theirs, b"hello, world").unwrap();
    assert_eq!(made.recv(5).unwrap(), b"hello");
    made.send("queued").unwrap();
    let own = glib::MainContext::new();
    let moved = own.with_thread_default(|| {
        let engine = Engine::current().unwrap();
        let moved = Socket::from_conn(made.conn().blocking().move_to(&engine).unwrap());
        assert!(Rc::ptr_eq(moved.conn().engine(), &engine));
        moved
    });
    let moved = moved.unwrap();
    assert!(!made.is_open());
    assert!(made.conn().blocking().move_to(moved.conn().engine()).is_err(), "it is closed");
    drop((made, private));
    assert_eq!(moved.recv_exact(7).unwrap(), b", world");
    moved.send("sent").unwrap();
    assert!(matches!(moved.send([0; 100]), Err(Error::QueueFull { limit: 77, .. })));
    let mut got = [0; 10];
    std::io::Read::read_exact(&mut theirs, &mut got).unwrap();
    assert_eq!(&got, b"queuedsent");
}
