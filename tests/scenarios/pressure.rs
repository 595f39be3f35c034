//! Back-pressure: queues stay short whatever a peer does, and a pause loses nothing.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use network::{Error, Socket};
use rustix::net::sockopt;

use crate::util::*;

const FLOOD: usize = 6 << 20;

/// A pair between which the systems hold little.
fn join_small(kind: Kind) -> Joined {
    let joined = join(kind);
    for end in [&joined.client, &joined.served] {
        sockopt::set_socket_recv_buffer_size(end, 32 << 10).unwrap();
        sockopt::set_socket_send_buffer_size(end, 32 << 10).unwrap();
    }
    joined
}

/// Sends so much of the pattern as fast as the marks allow.
fn flood(socket: &Socket, total: usize) {
    let sent = Rc::new(Cell::new(0));
    let data = pattern(total);
    let fill = move |socket: &Socket| -> network::Result {
        while sent.get() < total && !socket.is_full() {
            let end = (sent.get() + 50_000).min(total);
            socket.send(&data[sent.get()..end])?;
            sent.set(end);
        }
        Ok(())
    };
    fill(socket).unwrap();
    socket.drain_cb(fill);
}

/// Reads all that comes into a buffer.
fn collect(socket: &Socket) -> Rc<RefCell<Vec<u8>>> {
    let all = Rc::new(RefCell::new(Vec::new()));
    let place = all.clone();
    socket.read(move |_, data| {
        place.borrow_mut().extend_from_slice(data);
        Ok(())
    });
    all
}

#[test]
fn a_slow_reader_does_not_grow_the_memory_of_a_proxy() {
    for_each_kind(|kind| {
        let Joined { client: source, served: from, server: _one } = join_small(kind);
        let Joined { client: to, served: sink, server: _other } = join_small(kind);
        let longest = Rc::new(Cell::new(0));
        let (max, destination) = (longest.clone(), to.clone());
        from.read(move |from, data| {
            destination.send(data)?;
            max.set(max.get().max(destination.queued()));
            if destination.is_full() {
                from.pause();
            }
            Ok(())
        });
        let resumed = from.downgrade();
        to.drain_cb(move |_| {
            resumed.upgrade().unwrap().resume();
            Ok(())
        });
        flood(&source, FLOOD);
        settle();
        assert!(
            to.is_full() && from.is_paused() && source.is_full(),
            "nobody reads at the end: all of it stands still"
        );
        let all = collect(&sink);
        until(|| all.borrow().len() == FLOOD);
        assert!(*all.borrow() == pattern(FLOOD));
        assert!(longest.get() >= 1 << 20, "the high mark was reached");
        assert!(longest.get() < (1 << 20) + (128 << 10), "{} bytes were queued", longest.get());
        until(|| !from.is_paused() && !to.is_full() && to.queued() == 0);
    });
}

#[test]
fn room_is_told_once_for_each_time_the_queue_was_full() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join_small(kind);
        client.set_high_water_mark(100_000);
        client.set_low_water_mark(10_000);
        let told = Log::<usize>::new();
        let tell = told.clone();
        client.drain_cb(move |socket| {
            assert!(!socket.is_full());
            tell.add(socket.queued());
            Ok(())
        });
        client.send([1; 1000]).unwrap();
        settle();
        assert_eq!(told.len(), 0, "it was never full");
        while !client.is_full() {
            client.send([1; 1000]).unwrap();
        }
        assert!(client.queued() >= 100_000);
        client.send([1; 50_000]).unwrap();
        settle();
        assert_eq!(told.len(), 0, "nobody has read");
        let all = collect(&served);
        until(|| told.len() == 1);
        assert!(told.all()[0] <= 10_000);
        settle();
        assert_eq!((told.len(), client.queued()), (1, 0));
        served.unread();
        drop(all);
        while !client.is_full() {
            client.send([1; 1000]).unwrap();
        }
        client.unset_drain_cb();
        let all = collect(&served);
        until(|| !client.is_full());
        settle();
        assert_eq!(told.len(), 1, "nobody wants to know any more");
        drop(all);
    });
}

#[test]
fn who_is_refused_hears_of_room() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join_small(kind);
        client.set_send_limit(8 << 20);
        client.set_high_water_mark(usize::MAX);
        while client.queued() < 1 << 20 {
            client.send([1; 1 << 16]).unwrap();
        }
        assert!(!client.is_full(), "the high mark lies at the limit");
        let error = client.send(vec![1; 8 << 20]).unwrap_err();
        assert!(matches!(error, Error::QueueFull { .. }), "{error}");
        assert!(client.is_full());
        let told = Log::<()>::new();
        let tell = told.clone();
        client.drain_cb(move |_| {
            tell.add(());
            Ok(())
        });
        let _all = collect(&served);
        until(|| told.len() == 1);
        client.abort();
    });
}

#[test]
fn an_error_of_the_callback_for_room_ends_the_connection() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join_small(kind);
        let ends = log_end(&client);
        client.drain_cb(|_| Err(Error::other("enough")));
        while !client.is_full() {
            client.send([1; 50_000]).unwrap();
        }
        let _all = collect(&served);
        until(|| ends.len() == 1);
        assert_eq!(ends.all()[0].0, "enough");
        client.abort();
    });
}

#[test]
fn a_callback_for_room_may_replace_itself_and_close() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join_small(kind);
        let log = Log::<&str>::new();
        let (first, second) = (log.clone(), log.clone());
        client.drain_cb(move |socket| {
            first.add("first");
            let second = second.clone();
            socket.drain_cb(move |socket| {
                second.add("second");
                socket.close();
                Ok(())
            });
            while !socket.is_full() {
                socket.send([1; 50_000])?;
            }
            Ok(())
        });
        let ends = log_end(&client);
        while !client.is_full() {
            client.send([1; 50_000]).unwrap();
        }
        let _all = collect(&served);
        until(|| ends.len() == 1);
        assert_eq!(log.all(), ["first", "second"]);
        client.abort();
    });
}

#[test]
fn a_pause_in_a_callback_keeps_the_rest_of_the_batch() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join_small(kind);
        let lines = Log::<String>::new();
        let log = lines.clone();
        served.readlines(move |socket, line| {
            log.add(line);
            socket.pause();
            Ok(())
        });
        client.send("one\ntwo\nthree\nfo").unwrap();
        until(|| lines.len() == 1);
        settle();
        client.send("ur\n").unwrap();
        settle();
        assert_eq!(lines.all(), ["one"]);
        served.resume();
        assert_eq!(lines.len(), 1, "not inside the call");
        until(|| lines.len() == 2);
        served.resume();
        until(|| lines.len() == 3);
        assert_eq!(served.unread(), b"fo", "what came during the pause is not read");
        assert_eq!(served.recv(10).unwrap(), b"ur\n", "who asks gets it");
        let again = log_lines(&served);
        client.sendline("five").unwrap();
        settle();
        assert_eq!(again.len(), 0, "the pause holds for the next one too");
        served.resume();
        until(|| again.len() == 1);
        assert_eq!(lines.all(), ["one", "two", "three"]);
        assert_eq!(again.all(), ["five"]);
    });
}

#[test]
fn the_end_is_noticed_during_a_pause_once_nothing_lies_before_it() {
    for_each_kind(|kind| {
        for with_data in [false, true] {
            let Joined { client, served, server: _server } = join_small(kind);
            let lines = log_lines(&served);
            let ends = log_end(&served);
            served.pause();
            if with_data {
                client.send("last\nwords").unwrap();
            }
            let _ = client.close();
            if with_data {
                settle();
                assert_eq!((lines.len(), ends.len()), (0, 0));
                served.resume();
            }
            until(|| ends.len() == 1);
            let (last, leftover): (&[&str], &[u8]) = if with_data { (&["last"], b"words") } else { (&[], b"") };
            assert_eq!(lines.all(), last);
            assert_eq!(ends.all(), [("closed by the peer".into(), leftover.to_vec())]);
        }
    });
}

#[test]
fn nothing_is_read_during_a_pause() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join_small(kind);
        served.pause();
        let all = collect(&served);
        client.set_send_limit(FLOOD);
        client.send(pattern(FLOOD)).unwrap();
        settle();
        assert!(client.queued() > FLOOD / 2, "the systems hold the rest");
        assert_eq!(all.borrow().len(), 0);
        served.resume();
        until(|| all.borrow().len() == FLOOD);
        assert!(*all.borrow() == pattern(FLOOD));
    });
}

#[test]
fn a_paused_reader_still_keeps_its_connection() {
    for_each_kind(|kind| {
        let (_server, address) = serve(kind, |socket| socket.sendline("Hello"));
        let socket = connect(&address);
        let lines = log_lines(&socket);
        socket.pause();
        let weak = socket.downgrade();
        drop(socket);
        settle();
        weak.upgrade().expect("it is kept").resume();
        until(|| lines.len() == 1);
    });
}

/// Sends as much as has to wait, and returns how many bytes do.
fn send_more_than_goes(socket: &Socket) -> network::Result<usize> {
    socket.send(vec![7; 1 << 20])?;
    Ok(socket.queued())
}

#[test]
fn the_queues_of_a_server_have_a_common_limit() {
    for_each_kind(|kind| {
        let served = Rc::new(RefCell::new(Vec::new()));
        let seen = served.clone();
        let builder = server(kind).total_send_limit(1500 << 10).send_buffer(32 << 10);
        let (_server, address) = serve_with(builder, kind, move |socket| {
            seen.borrow_mut().push(socket);
            Ok(())
        });
        let join = |count| {
            let builder = client(kind).recv_buffer(32 << 10);
            let client = try_connect(builder, &address).unwrap();
            until(|| served.borrow().len() == count);
            let served = served.borrow().last().unwrap().clone();
            (client, served)
        };
        let (one, to_one) = join(1);
        let (two, to_two) = join(2);

        assert!(send_more_than_goes(&to_one).unwrap() > 512 << 10);
        let error = send_more_than_goes(&to_two).unwrap_err();
        let Error::QueueFull { queued, limit, option: "total_send_limit", .. } = error else { panic!("{error}") };
        assert_eq!((queued, limit), (to_one.queued(), 1500 << 10));
        assert_eq!(to_two.queued(), 0, "nothing of it is queued");
        to_two.send("a short one goes").unwrap();
        assert!(to_one.send(vec![7; 1 << 20]).is_err(), "its own counts as well");

        // Room comes with what is read …
        let read = collect(&one);
        until(|| to_one.queued() == 0);
        assert!(send_more_than_goes(&to_two).unwrap() > 512 << 10);
        assert!(send_more_than_goes(&to_one).is_err());
        drop(read);

        // … and with the end of a connection, whoever ends it.
        drop(two);
        until(|| !to_two.is_open());
        one.unread();
        assert!(send_more_than_goes(&to_one).unwrap() > 512 << 10);
        let (_three, to_three) = join(3);
        assert!(send_more_than_goes(&to_three).is_err());
        to_one.abort();
        assert!(send_more_than_goes(&to_three).unwrap() > 512 << 10);
    });
}
