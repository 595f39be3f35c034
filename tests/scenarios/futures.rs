//! The futures face, over the same connections: what is awaited comes, in order, and to drop a future loses nothing.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{join, select};
use futures_util::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use futures_util::stream::StreamExt;
use network::{Error, Server, Socket};
use rustix::net::sockopt;

use crate::util::join as joined;
use crate::util::*;

/// Nothing here takes this long; whatever does hangs.
const HANGS: Duration = Duration::from_secs(20);

/// Awaits something on the context of the test, with a limit.
#[track_caller]
pub fn await_it<T>(future: impl Future<Output = T>) -> T {
    let limited = glib::future_with_timeout(HANGS, future);
    glib::MainContext::ref_thread_default().block_on(limited).expect("what is awaited does not come")
}

/// Runs on while the test goes on.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    glib::MainContext::ref_thread_default().spawn_local(future);
}

/// What it has for now.
pub async fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// A connection with a task that serves it, and one to it that was awaited.
fn served_by<F: Future<Output = network::Result> + 'static>(
    kind: Kind,
    serve_it: impl Fn(Socket) -> F + 'static,
) -> (Server, Socket) {
    let (server, address) = serve(kind, move |socket| {
        let task = serve_it(socket);
        spawn(async move { task.await.unwrap() });
        Ok(())
    });
    let builder = if kind == Kind::Tls { client(kind) } else { Socket::builder() };
    let socket = await_it(builder.connect_future(address.as_str())).unwrap();
    (server, socket)
}

fn is_closed<T>(result: network::Result<T>) -> bool {
    matches!(result, Err(Error::Closed { .. }))
}

#[test]
fn an_echo_by_futures_on_both_sides() {
    for_each_kind(|kind| {
        let ended = Rc::new(Cell::new(false));
        let end = ended.clone();
        let (_server, client) = served_by(kind, move |socket| {
            let end = end.clone();
            async move {
                loop {
                    match socket.recv_future(1000).await {
                        Ok(data) => socket.send_future(data).await?,
                        Err(Error::Closed { .. }) => break,
                        Err(error) => return Err(error),
                    }
                }
                end.set(true);
                Ok(())
            }
        });
        await_it(async {
            for round in 0..200 {
                let sent = pattern(round * 7 + 1);
                client.send_future(&sent).await.unwrap();
                let mut back = Vec::new();
                while back.len() < sent.len() {
                    back.extend(client.recv_future(5000).await.unwrap());
                }
                assert_eq!(back, sent);
            }
        });
        let _ = client.close();
        assert!(is_closed(await_it(client.recv_future(1))));
        until(|| ended.get());
    });
}

#[test]
fn lines_come_as_a_stream_and_the_rest_stays() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = joined(kind);
        client.send("one\ntwo\n\ngr\u{fc}\u{df}e\nthr").unwrap();
        let mut lines = served.lines();
        await_it(async {
            for expected in ["one", "two", "", "gr\u{fc}\u{df}e"] {
                assert_eq!(lines.next().await.unwrap().unwrap(), expected);
            }
            assert!(now(lines.next()).await.is_none());
            client.send(b"ee\nf\xffur\nfi").unwrap();
            assert_eq!(lines.next().await.unwrap().unwrap(), "three");
        });
        drop(lines);
        assert_eq!(await_it(served.recv_line_future()).unwrap(), "f\u{fffd}ur");
        let _ = client.close();
        let mut lines = served.lines();
        assert!(await_it(lines.next()).is_none(), "half a line is none");
        assert!(await_it(lines.next()).is_none());
        assert_eq!(await_it(served.recv_future(10)).unwrap(), b"fi");
        assert!(is_closed(await_it(served.recv_future(10))));
        assert!(is_closed(await_it(served.recv_line_future())));
    });
}

#[test]
fn lines_are_lent_between_others_that_are_taken() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = joined(kind);
        let total = 3000;
        let expected: Vec<String> =
            (0..total).map(|n| format!("line {n} gr\u{fc}\u{df}t {}", "x".repeat(n % 90))).collect();
        let sent: String = expected.iter().map(|line| format!("{line}\n")).collect();
        spawn(async move {
            for piece in sent.as_bytes().chunks(20_001) {
                client.send_future(piece).await.unwrap();
            }
            client.send_future("b\u{fc}\n").await.unwrap();
            client.send_future(b"f\xffur\nno line").await.unwrap();
            let _ = client.close();
        });
        await_it(async {
            let (mut lines, mut others) = (served.lines(), served.lines());
            for (n, expected) in expected.iter().enumerate() {
                match n % 11 {
                    3 => assert_eq!(&served.recv_line_future().await.unwrap(), expected),
                    5 => assert_eq!(&lines.next().await.unwrap().unwrap(), expected),
                    7 => assert_eq!(others.next_str().await.unwrap().unwrap(), expected),
                    // One that is looked at in bytes, and given back.
                    9 => {
                        let mut stream = served.clone().into_stream();
                        let mut line = String::new();
                        stream.read_line(&mut line).await.unwrap();
                        drop(stream);
                        assert_eq!(line.trim_end_matches('\n'), expected);
                    }
                    _ => assert_eq!(lines.next_str().await.unwrap().unwrap(), expected),
                }
            }
            assert_eq!(lines.next_str().await.unwrap().unwrap(), "b\u{fc}");
            assert_eq!(lines.next_str().await.unwrap().unwrap(), "f\u{fffd}ur");
            assert!(lines.next_str().await.is_none());
            assert!(lines.next_str().await.is_none());
            assert_eq!(served.recv_future(100).await.unwrap(), b"no line");
        });
    });
}

#[test]
fn a_lent_line_that_is_no_longer_awaited_is_lost_to_nobody() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = joined(kind);
        await_it(async {
            let mut lines = served.lines();
            assert!(now(lines.next_str()).await.is_none());
            client.send("one\ntwo\nthree\nfour\nfi").unwrap();
            assert_eq!(lines.next_str().await.unwrap().unwrap(), "one");
            drop(lines);
            assert_eq!(served.recv_line_future().await.unwrap(), "two");
            let mut lines = served.lines();
            assert_eq!(lines.next_str().await.unwrap().unwrap(), "three");
            // Somebody closes it, and gets what has come.
            assert_eq!(served.close(), b"four\nfi");
            assert!(lines.next_str().await.is_none());
        });
    });
}

#[test]
fn a_line_over_the_limit_ends_the_lines_that_come_fast() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = joined(kind);
        served.set_line_limit(10);
        client.send("short\nten bytes!\nfar too long for it\nshort\n").unwrap();
        await_it(async {
            let mut lines = served.lines();
            assert_eq!(lines.next_str().await.unwrap().unwrap(), "short");
            assert_eq!(lines.next_str().await.unwrap().unwrap(), "ten bytes!");
            let error = lines.next_str().await.unwrap().unwrap_err();
            assert!(matches!(error, Error::LineTooLong { limit: 10, .. }), "{error}");
            assert!(lines.next_str().await.is_none());
        });
    });
}

#[test]
fn a_stream_that_is_dropped_leaves_the_rest_to_callbacks() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = joined(kind);
        client.send("one\ntwo\nthree\nfo").unwrap();
        await_it(async {
            let lines: Vec<_> = served.lines().take(2).map(Result::unwrap).collect().await;
            assert_eq!(lines, ["one", "two"]);
        });
        let log = log_lines(&served);
        until(|| log.len() == 1);
        client.send("ur\n").unwrap();
        until(|| log.len() == 2);
        assert_eq!(log.all(), ["three", "four"]);
        drop(served.unread());
        client.send("12345").unwrap();
        await_it(async {
            let mut chunks = served.chunks(2);
            assert_eq!(chunks.next().await.unwrap().unwrap(), b"12");
        });
        assert_eq!(served.recv(10).unwrap(), b"345");
    });
}

#[test]
fn exactly_so_many_bytes_come_together() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = joined(kind);
        let sent = pattern(300_000);
        let all = sent.clone();
        await_it(async {
            assert_eq!(served.recv_exact_future(0).await.unwrap(), b"");
            let writing = async {
                for part in all.chunks(7001) {
                    client.send_future(part).await.unwrap();
                }
            };
            let reading = async {
                assert!(served.recv_exact_future(5).await.unwrap() == sent[..5]);
                assert!(served.recv_exact_future(250_000).await.unwrap() == sent[5..250_005]);
            };
            join(writing, reading).await;
            let _ = client.close();
            assert!(is_closed(served.recv_exact_future(50_000).await), "there are not so many");
            assert!(served.recv_exact_future(49_995).await.unwrap() == sent[250_005..], "they are still there");
        });
    });
}

#[test]
fn sending_waits_for_a_slow_reader() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = joined(kind);
        client.set_high_water_mark(200_000);
        client.set_low_water_mark(50_000);
        let sent = pattern(8 << 20);
        let longest = Rc::new(Cell::new(0));
        let (data, max, sender) = (sent.clone(), longest.clone(), client.clone());
        spawn(async move {
            for part in data.chunks(30_000) {
                sender.send_future(part).await.unwrap();
                max.set(max.get().max(sender.queued()));
            }
            sender.flush_future().await.unwrap();
            assert_eq!(sender.queued(), 0);
            let _ = sender.close();
        });
        settle();
        assert!(client.is_full());
        let mut all = Vec::new();
        await_it(async {
            let mut chunks = served.chunks(10_000);
            while let Some(chunk) = chunks.next().await {
                all.extend(chunk.unwrap());
            }
        });
        assert!(all == sent);
        assert!(longest.get() <= 200_000 + 30_000, "{}", longest.get());
    });
}

#[test]
fn what_fits_beside_nothing_waits_for_that() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = joined(kind);
        sockopt::set_socket_send_buffer_size(&client, 32 << 10).unwrap();
        client.set_send_limit(1 << 20);
        while client.queued() < 100_000 {
            client.send([1; 50_000]).unwrap();
        }
        assert!(!client.is_full());
        await_it(async {
            let big = client.send_future(vec![2; 1 << 20]);
            let reading = async {
                let mut chunks = served.chunks(100_000);
                while chunks.next().await.unwrap().unwrap().last() != Some(&2) {}
            };
            assert!(join(big, reading).await.0.is_ok());
        });
        client.abort();
    });
}

#[test]
fn futures_are_served_in_the_order_of_their_first_poll() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = joined(kind);
        await_it(async {
            let (mut first, mut second) = (Box::pin(served.recv_line_future()), Box::pin(served.recv_line_future()));
            let mut third = Box::pin(served.recv_future(100));
            let mut beside = served.lines();
            assert!(now(beside.next()).await.is_none());
            assert!(now(first.as_mut()).await.is_none());
            assert!(now(second.as_mut()).await.is_none());
            assert!(now(third.as_mut()).await.is_none());
            client.send("1\n2\n3\n4\n").unwrap();
            // The last is asked first.
            let (three, (two, one)) = join(third, join(second, first)).await;
            assert_eq!((one.unwrap(), two.unwrap(), three.unwrap()), ("1".into(), "2".into(), b"3\n4\n".to_vec()));
            client.send("5\n").unwrap();
            assert_eq!(beside.next().await.unwrap().unwrap(), "5");
        });
    });
}

#[test]
fn who_is_dropped_holds_up_nobody() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = joined(kind);
        await_it(async {
            let mut first = Box::pin(served.recv_line_future());
            let mut second = Box::pin(served.recv_line_future());
            assert!(now(first.as_mut()).await.is_none());
            assert!(now(second.as_mut()).await.is_none());
            client.send("one\ntwo\n").unwrap();
            // It was woken, or soon would be.
            for _ in 0..3 {
                glib::timeout_future(Duration::ZERO).await;
            }
            drop(first);
            assert_eq!(second.await.unwrap(), "one");
            assert_eq!(served.recv_line_future().await.unwrap(), "two");
        });
        // And those who wait to send.
        sockopt::set_socket_send_buffer_size(&client, 32 << 10).unwrap();
        await_it(async {
            while !client.is_full() {
                client.send([b'x'; 50_000]).unwrap();
            }
            let mut first = Box::pin(client.send_future("never\n"));
            let mut second = Box::pin(client.send_future("\nsecond\n"));
            let mut third = Box::pin(client.send_future("third\n"));
            assert!(now(first.as_mut()).await.is_none());
            assert!(now(second.as_mut()).await.is_none());
            assert!(now(third.as_mut()).await.is_none());
            drop(first);
            let reading = async {
                served.set_line_limit(usize::MAX);
                assert!(served.recv_line_future().await.unwrap().bytes().all(|byte| byte == b'x'));
                assert_eq!(served.recv_line_future().await.unwrap(), "second");
                assert_eq!(served.recv_line_future().await.unwrap(), "third");
            };
            let (three, (two, ())) = join(third, join(second, reading)).await;
            assert!(two.is_ok() && three.is_ok());
        });
    });
}

#[test]
fn beside_a_callback_nothing_is_received() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = joined(kind);
        let refused = |result: network::Result<Vec<u8>>| {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Unsupported(_)) && error.to_string().contains("unread"), "{error}");
        };
        await_it(async {
            let mut waiting = Box::pin(served.recv_future(10));
            assert!(now(waiting.as_mut()).await.is_none());
            let log = log_lines(&served);
            refused(waiting.await);
            refused(served.recv_future(10).await);
            client.send("for the callback\n").unwrap();
            while log.len() == 0 {
                glib::timeout_future(Duration::from_millis(1)).await;
            }
            served.pause();
            client.send("asked for\n").unwrap();
            assert_eq!(served.recv_line_future().await.unwrap(), "asked for");
            let mut waiting = Box::pin(served.recv_future(10));
            assert!(now(waiting.as_mut()).await.is_none());
            served.resume();
            refused(waiting.await);
            drop(served.unread());
            client.send("free again\n").unwrap();
            assert_eq!(served.recv_line_future().await.unwrap(), "free again");
            assert_eq!(log.all(), ["for the callback"]);
        });
    });
}

#[test]
fn an_end_wakes_all_who_wait() {
    for_each_kind(|kind| {
        for local in [true, false] {
            let Joined { client, served, server: _server } = joined(kind);
            sockopt::set_socket_send_buffer_size(&served, 32 << 10).unwrap();
            while !served.is_full() {
                served.send([1; 50_000]).unwrap();
            }
            let log = Log::<&str>::new();
            for what in ["recv", "line", "exact", "send", "flush", "lines", "read", "write"] {
                let (mut socket, log) = (served.clone(), log.clone());
                spawn(async move {
                    let ended = match what {
                        "recv" => socket.recv_future(10).await.is_err(),
                        "line" => socket.recv_line_future().await.is_err(),
                        "exact" => socket.recv_exact_future(10).await.is_err(),
                        "send" => socket.send_future("x").await.is_err(),
                        "flush" => socket.flush_future().await.is_err(),
                        "lines" => socket.lines().next().await.is_none_or(|line| line.is_err()),
                        "read" => AsyncReadExt::read(&mut socket, &mut [0; 10]).await.map_or(true, |count| count == 0),
                        _ => socket.write_all(b"x").await.is_err(),
                    };
                    assert!(ended, "{what}");
                    log.add(what);
                });
            }
            settle();
            assert_eq!(log.len(), 0);
            if local {
                served.abort();
            } else {
                client.abort();
            }
            until(|| log.len() == 8);
        }
    });
}

#[test]
fn the_end_of_the_context_wakes_whoever_waits_elsewhere() {
    let outer = glib::MainContext::new();
    outer
        .with_thread_default(|| {
            let told = Rc::new(Cell::new(false));
            let tell = told.clone();
            on_own_context(|| {
                let Joined { served, server, client } = joined(Kind::Tcp);
                outer.spawn_local(async move {
                    assert!(is_closed(served.recv_future(10).await));
                    tell.set(true);
                });
                while outer.iteration(false) {}
                drop((client, server));
            });
            while !told.get() {
                assert!(outer.iteration(false), "it was not woken");
            }
        })
        .unwrap();
}

#[test]
fn why_a_connection_failed_is_an_item_of_its_streams() {
    on_own_context(|| {
        let Joined { client, served, server: _server } = joined(Kind::Tls);
        client.send("whole\nhalf").unwrap();
        client.flush().unwrap();
        // Without the end mark of TLS.
        rustix::net::shutdown(&client, rustix::net::Shutdown::Write).unwrap();
        await_it(async {
            let mut lines = served.lines();
            assert_eq!(lines.next().await.unwrap().unwrap(), "whole");
            let error = lines.next().await.unwrap().unwrap_err();
            assert!(matches!(error, Error::Truncated { .. }), "{error}");
            assert!(lines.next().await.is_none());
            assert_eq!(served.recv_future(10).await.unwrap(), b"half");
            assert!(matches!(served.recv_future(10).await, Err(Error::Truncated { .. })));
        });
        settle();
        let error = await_it(served.recv_future(10)).unwrap_err();
        assert!(matches!(error, Error::Truncated { .. }), "told again: {error}");
    });
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = joined(kind);
        served.set_line_limit(5);
        client.send("12345\n123456\n").unwrap();
        await_it(async {
            let mut lines = served.lines();
            assert_eq!(lines.next().await.unwrap().unwrap(), "12345");
            assert!(matches!(lines.next().await, Some(Err(Error::LineTooLong { limit: 5, .. }))));
            assert!(lines.next().await.is_none());
        });
    });
}

#[test]
fn the_end_is_told_to_callbacks_too_when_futures_have_read() {
    for_each_kind(|kind| {
        for waits in [true, false] {
            let Joined { client, served, server: _server } = joined(kind);
            let ends = log_end(&served);
            client.send("one\ntwo").unwrap();
            assert_eq!(await_it(served.recv_line_future()).unwrap(), "one");
            if waits {
                // Polled once, then forgotten: they have no place in line.
                let mut lines = served.lines();
                await_it(async {
                    assert!(now(lines.next()).await.is_none());
                    assert!(now(served.recv_line_future()).await.is_none());
                });
                let _ = client.close();
                // The rest of a line is still to be taken.
                settle();
                assert_eq!(await_it(served.recv_future(10)).unwrap(), b"two");
            } else {
                assert_eq!(await_it(served.recv_future(10)).unwrap(), b"two");
                let _ = client.close();
            }
            until(|| ends.len() == 1);
            assert_eq!(ends.all(), [("closed by the peer".into(), vec![])]);
        }
    });
}

#[test]
fn a_stream_of_bytes_ends_each_way_by_itself() {
    for_each_kind(|kind| {
        let (_server, client) = served_by(kind, |socket| async move {
            let mut stream = socket.into_stream();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await?;
            // Some turns of the loop later.
            glib::timeout_future(Duration::from_millis(20)).await;
            stream.write_all(format!("{} bytes\n", all.len()).as_bytes()).await?;
            stream.close().await?;
            assert_eq!(stream.read(&mut [0; 1]).await?, 0);
            Ok(())
        });
        await_it(async {
            let mut stream = client.into_stream();
            stream.write_all(&pattern(3_000_000)).await.unwrap();
            stream.close().await.unwrap();
            assert!(stream.write_all(b"more").await.is_err());
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "3000000 bytes\n");
        });
    });
}

#[test]
fn a_stream_of_bytes_gives_back_what_is_left() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = joined(kind);
        client.send("one\ntwo\nthree").unwrap();
        await_it(async {
            let mut stream = served.into_stream();
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            assert_eq!(line, "one\n");
            let mut two = [0; 3];
            stream.read_exact(&mut two).await.unwrap();
            assert_eq!(&two, b"two");
            let served = stream.into_socket();
            client.send("\nfour").unwrap();
            assert_eq!(served.recv_line_future().await.unwrap(), "");
            assert_eq!(served.recv_line_future().await.unwrap(), "three");
            let mut stream = served.clone().into_stream();
            assert_eq!(stream.fill_buf().await.unwrap(), b"four");
            drop(stream);
            let log = log_lines(&served);
            client.send("\n").unwrap();
            while log.len() == 0 {
                glib::timeout_future(Duration::from_millis(1)).await;
            }
            assert_eq!(log.all(), ["four"]);
        });
    });
}

#[test]
fn the_traits_of_futures_io_copy_both_ways_at_once() {
    for_each_kind(|kind| {
        let (_server, client) = served_by(kind, |socket| async move {
            let (read, mut write) = (&socket, &socket);
            futures_util::io::copy(read, &mut write).await?;
            AsyncWriteExt::close(&mut write).await?;
            Ok(())
        });
        let sent = pattern(5_000_000);
        await_it(async {
            client.half_close_cb(|_| Ok(()));
            let (mut read, mut write) = (&client, &client);
            let writing = async {
                write.write_all(&sent).await.unwrap();
                AsyncWriteExt::flush(&mut write).await.unwrap();
            };
            let mut back = vec![0; sent.len()];
            let reading = read.read_exact(&mut back);
            join(writing, reading).await.1.unwrap();
            assert!(back == sent);
            assert_eq!(client.queued(), 0);
        });
    });
}

#[test]
fn descriptors_that_block_are_awaited_too() {
    on_own_context(|| {
        let (input, theirs) = rustix::pipe::pipe().unwrap();
        let (others, output) = rustix::pipe::pipe().unwrap();
        let socket = Socket::wrap(input, output).unwrap();
        let peer = Socket::wrap(others, theirs).unwrap();
        await_it(async {
            let mut waiting = Box::pin(socket.recv_line_future());
            assert!(now(waiting.as_mut()).await.is_none());
            peer.send_future("Hello\nand ").await.unwrap();
            assert_eq!(waiting.await.unwrap(), "Hello");
            let sent = pattern(500_000);
            let all = join(socket.send_future(&sent), peer.recv_exact_future(sent.len())).await.1.unwrap();
            assert!(all == sent);
            peer.send_future("more\n").await.unwrap();
            assert_eq!(socket.recv_line_future().await.unwrap(), "and more");
            drop(peer);
            assert!(is_closed(socket.recv_future(1).await));
        });
    });
}

#[test]
fn a_future_beside_another_event_is_dropped_and_begun_again() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = joined(kind);
        let total = 500;
        spawn(async move {
            for n in 0..total {
                client.send_future(format!("line {n}\n")).await.unwrap();
                if n % 3 == 0 {
                    glib::timeout_future(Duration::ZERO).await;
                }
            }
            client.flush_future().await.unwrap();
            let _ = client.close();
        });
        let seen = RefCell::new(Vec::new());
        await_it(async {
            loop {
                let line = pin!(served.recv_line_future());
                let tick = pin!(glib::timeout_future(Duration::ZERO));
                match select(line, tick).await {
                    futures_util::future::Either::Left((Ok(line), _)) => seen.borrow_mut().push(line),
                    futures_util::future::Either::Left((Err(error), _)) => {
                        assert!(matches!(error, Error::Closed { .. }), "{error}");
                        break;
                    }
                    futures_util::future::Either::Right(_) => {}
                }
            }
        });
        let expected: Vec<_> = (0..total).map(|n| format!("line {n}")).collect();
        assert_eq!(*seen.borrow(), expected);
    });
}

#[test]
fn calls_are_made_in_a_busy_program_although_futures_have_spent_the_credit() {
    on_own_context(|| {
        let context = glib::MainContext::ref_thread_default();
        let Joined { client, served, server: _server } = joined(Kind::Unix);
        // More urgent than what refills the credit, and always there.
        let busy = glib::idle_source_new(None, glib::Priority::DEFAULT, || glib::ControlFlow::Continue);
        busy.attach(Some(&context));
        let told = Rc::new(Cell::new(0));
        for round in 1..=5 {
            client.send(vec![b'x'; 1 << 20]).unwrap();
            let (reader, all) = (served.clone(), Rc::new(Cell::new(false)));
            let done = all.clone();
            drop(context.spawn_local(async move {
                let mut left = 1 << 20;
                while left > 0 {
                    left -= reader.recv_future(1000).await.unwrap().len();
                }
                done.set(true);
            }));
            until(|| all.get());
            let tell = told.clone();
            served.flush_async(move |result| {
                result.unwrap();
                tell.set(tell.get() + 1);
            });
            until(|| told.get() == round);
        }
        busy.destroy();
    });
}
