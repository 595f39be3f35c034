//! Servers whose callback awaits.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::{AsyncReadExt, AsyncWriteExt, StreamExt};
use network::{Error, Reason, Server, Socket};

use crate::callbacks::panic_of_loop;
use crate::futures::spawn;
use crate::incoming::{draw, draws_beside_a_flood, drink};
use crate::util::*;

/// A server that awaits, and the address to reach it.
fn served<F: Future<Output = network::Result> + 'static>(
    builder: network::server::ServerBuilder,
    kind: Kind,
    obj: impl FnMut(Socket) -> F + 'static,
) -> (Server, String) {
    let path = listen_address(kind);
    let server = builder.serve(path.as_str(), obj).unwrap();
    let address = match kind {
        Kind::Unix => path,
        Kind::Tcp => format!("tcp://localhost:{}", server.port()),
        Kind::Tls => format!("tls://localhost:{}", server.port()),
    };
    (server, address)
}

/// What comes over a connection, line by line, and at last how it ended.
fn log_of(socket: &Socket) -> Rc<RefCell<Vec<String>>> {
    let log = Rc::new(RefCell::new(Vec::new()));
    let (lines, end) = (log.clone(), log.clone());
    socket.readlines(move |_, line| {
        lines.borrow_mut().push(line.to_owned());
        Ok(())
    });
    socket.disconnect_cb(move |_, ended| end.borrow_mut().push(ended.reason.to_string()));
    log
}

async fn answer(socket: Socket) -> network::Result {
    let mut lines = socket.lines();
    while let Some(line) = lines.next_str().await {
        socket.send_future(format!("You said: {}\n", line?)).await?;
    }
    Ok(())
}

#[test]
fn every_client_is_answered() {
    for_each_kind(|kind| {
        let (server, address) = served(server(kind), kind, answer);
        let clients: Vec<Socket> = (0..5).map(|_| connect(&address)).collect();
        let logs: Vec<_> = clients.iter().map(log_of).collect();
        until(|| server.connections().len() == 5);
        for round in 0..3 {
            for (number, client) in clients.iter().enumerate() {
                client.sendline(format!("{number}.{round}")).unwrap();
            }
        }
        let all = |number| (0..3).map(move |round| format!("You said: {number}.{round}"));
        until(|| logs.iter().enumerate().all(|(number, log)| all(number).eq(log.borrow().iter().cloned())));
        drop(clients);
        for log in &logs {
            log.borrow_mut().clear();
        }
    });
}

#[test]
fn the_connection_closes_when_it_returns() {
    for_each_kind(|kind| {
        let told = Rc::new(RefCell::new(Vec::new()));
        let tell = told.clone();
        let builder = server(kind).disconnect_cb(move |_, end| tell.borrow_mut().push(end.reason.to_string()));
        let (server, address) = served(builder, kind, async |socket: Socket| socket.send_future("Bye\n").await);
        let log = log_of(&connect(&address));
        until(|| log.borrow().len() == 2);
        assert_eq!(*log.borrow(), ["Bye", "closed by the peer"]);
        until(|| server.connections().is_empty());
        assert_eq!(*told.borrow(), ["closed here"]);
    });
}

#[test]
fn what_it_left_unread_holds_up_no_end() {
    for_each_kind(|kind| {
        let leftover = Rc::new(RefCell::new(Vec::new()));
        let left = leftover.clone();
        let builder = server(kind).disconnect_cb(move |_, end| left.borrow_mut().push(end.leftover));
        let reads_one = async |socket: Socket| {
            let line = socket.recv_line_future().await?;
            // Until the end is there as well.
            glib::timeout_future(Duration::from_millis(5)).await;
            assert_eq!(line, "one");
            Ok(())
        };
        let (server, address) = served(builder, kind, reads_one);
        for end in [Socket::close, |socket: &Socket| socket.shutdown_write().map(|()| Vec::new()).unwrap()] {
            let client = connect(&address);
            client.send(b"one\ntwo\nthree").unwrap();
            end(&client);
            until(|| server.connections().len() == 1 || !leftover.borrow().is_empty());
            until(|| server.connections().is_empty());
            leftover.take();
        }
    });
}

#[test]
fn a_half_open_connection_closes_when_it_returns() {
    for_each_kind(|kind| {
        let (server, address) = served(server(kind), kind, async |socket: Socket| {
            // The peer's end is not that of the connection.
            let mut stream = socket.into_stream();
            let mut question = String::new();
            stream.read_to_string(&mut question).await?;
            stream.write_all(format!("{question}!\n").as_bytes()).await?;
            match question.as_str() {
                "wrong" => Err(Error::other("a wrong question")),
                _ => Ok(()),
            }
        });
        for question in ["right", "wrong"] {
            let client = connect(&address);
            let log = log_of(&client);
            client.send(question).unwrap();
            client.shutdown_write().unwrap();
            until(|| log.borrow().len() == 2);
            assert_eq!(*log.borrow(), [format!("{question}!").as_str(), "closed by the peer"]);
            until(|| server.connections().is_empty());
        }
    });
}

#[test]
fn it_stays_open_for_whoever_else_has_it_or_reads_from_it() {
    for_each_kind(|kind| {
        let kept = Rc::new(RefCell::new(Vec::new()));
        let keep = kept.clone();
        let (server, address) = served(server(kind), kind, move |socket| {
            let keep = keep.clone();
            async move {
                match socket.recv_line_future().await?.as_str() {
                    "keep" => keep.borrow_mut().push(socket.clone()),
                    _ => socket.readlines(|socket, line| socket.sendline(format!("called with {line}"))),
                }
                socket.send_future("done\n").await
            }
        });
        let (kept_one, called) = (connect(&address), connect(&address));
        let (kept_log, called_log) = (log_of(&kept_one), log_of(&called));
        kept_one.sendline("keep").unwrap();
        called.sendline("call").unwrap();
        until(|| !kept_log.borrow().is_empty() && !called_log.borrow().is_empty());
        called.sendline("more").unwrap();
        until(|| called_log.borrow().len() == 2);
        assert_eq!(*called_log.borrow(), ["done", "called with more"]);
        assert_eq!(server.connections().len(), 2);
        kept.take();
        until(|| kept_log.borrow().len() == 2);
        assert_eq!(*kept_log.borrow(), ["done", "closed by the peer"]);
    });
}

#[test]
fn an_error_closes_that_connection_and_is_told() {
    for_each_kind(|kind| {
        let told = Rc::new(RefCell::new(Vec::new()));
        let tell = told.clone();
        let builder = server(kind).disconnect_cb(move |_, end| {
            let failed = matches!(end.reason, Reason::Failed(_));
            tell.borrow_mut().push((failed, end.reason.to_string()));
        });
        let (_server, address) = served(builder, kind, async |socket: Socket| {
            let number = socket.recv_line_future().await?;
            number.parse::<u32>().map_err(Error::other)?;
            socket.recv_line_future().await.map(drop)
        });
        let (wrong, gone) = (connect(&address), connect(&address));
        let log = log_of(&wrong);
        wrong.sendline("none").unwrap();
        until(|| log.borrow().len() == 1 && told.borrow().len() == 1);
        assert_eq!(*told.borrow(), [(true, "invalid digit found in string".to_owned())]);
        // Of the end of the connection it has only heard: that is no failure.
        gone.sendline("1").unwrap();
        gone.close();
        until(|| told.borrow().len() == 2);
        assert_eq!(told.borrow()[1], (false, "closed by the peer".to_owned()));
    });
}

#[test]
fn a_panic_comes_out_of_the_loop_and_the_others_go_on() {
    on_own_context(|| {
        let (_server, address) = served(server(Kind::Tcp), Kind::Tcp, async |socket: Socket| {
            let mut lines = socket.lines();
            while let Some(line) = lines.next().await {
                let line = line?;
                assert!(line != "panic", "asked to");
                socket.send_future(line + "\n").await?;
            }
            Ok(())
        });
        let (first, second) = (connect(&address), connect(&address));
        let (first_log, second_log) = (log_of(&first), log_of(&second));
        first.sendline("panic").unwrap();
        assert_eq!(panic_of_loop(), "asked to");
        second.sendline("still there").unwrap();
        until(|| !second_log.borrow().is_empty() && !first_log.borrow().is_empty());
        assert_eq!(*second_log.borrow(), ["still there"]);
    });
}

#[test]
fn it_awaits_whatever_there_is() {
    for_each_kind(|kind| {
        let (_server, address) = served(server(kind), kind, async |socket: Socket| {
            // A timer of glib's, a task of glib's, another thread, and other sockets.
            glib::timeout_future(Duration::from_millis(1)).await;
            socket.send_future("timer\n").await?;
            let task = glib::MainContext::ref_thread_default().spawn_local(async { "task\n" });
            socket.send_future(task.await.unwrap()).await?;
            let (tell, told) = futures_channel::oneshot::channel();
            let thread = std::thread::spawn(move || tell.send("thread\n").unwrap());
            socket.send_future(told.await.unwrap()).await?;
            thread.join().unwrap();
            let pair = crate::util::join(Kind::Unix);
            pair.client.sendline("socket")?;
            socket.send_future(pair.served.recv_line_future().await? + "\n").await
        });
        let log = log_of(&connect(&address));
        until(|| log.borrow().len() == 5);
        assert_eq!(*log.borrow(), ["timer", "task", "thread", "socket", "closed by the peer"]);
    });
}

#[test]
fn woken_from_another_thread_while_the_loop_sleeps() {
    on_own_context(|| {
        let (server, address) = served(server(Kind::Tcp), Kind::Tcp, async |socket: Socket| {
            for round in 0..200 {
                let (tell, told) = futures_channel::oneshot::channel();
                let thread = std::thread::spawn(move || tell.send(round).unwrap());
                let round = told.await.unwrap();
                socket.send_future(format!("{round}\n")).await?;
                thread.join().unwrap();
            }
            Ok(())
        });
        let log = log_of(&connect(&address));
        until(|| log.borrow().len() == 201);
        until(|| server.connections().is_empty());
    });
}

#[test]
fn a_nested_loop_in_it_keeps_the_others_alive_and_loses_no_wake() {
    for_each_kind(|kind| {
        let (_server, address) = served(server(kind), kind, async |socket: Socket| {
            let mut lines = socket.lines();
            while let Some(line) = lines.next().await {
                let line = line?;
                if line == "wait" {
                    let (other, done) = (connect(&socket.recv_line_future().await?), Rc::new(Cell::new(false)));
                    let seen = done.clone();
                    other.sendline("hello")?;
                    other.readlines(move |_, _| {
                        seen.set(true);
                        Ok(())
                    });
                    // What comes for this one meanwhile wakes it while it is on the stack.
                    until(|| done.get());
                }
                socket.send_future(line + "\n").await?;
            }
            Ok(())
        });
        let client = connect(&address);
        let log = log_of(&client);
        client.sendline("wait").unwrap();
        client.sendline(&address).unwrap();
        client.sendline("after").unwrap();
        until(|| log.borrow().len() == 2);
        assert_eq!(*log.borrow(), ["wait", "after"]);
    });
}

#[test]
fn what_is_awaited_when_the_context_ends_is_dropped() {
    struct Dropped(Rc<Cell<u32>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    for kind in KINDS {
        let count = Rc::new(Cell::new(0));
        on_own_context(|| {
            let guard = count.clone();
            let (server, address) = served(server(kind), kind, move |socket: Socket| {
                let guard = Dropped(guard.clone());
                async move {
                    let line = socket.recv_line_future().await;
                    drop(guard);
                    line.map(drop)
                }
            });
            let clients = [connect(&address), connect(&address)];
            until(|| server.connections().len() == 2);
            clients[0].sendline("enough").unwrap();
            until(|| count.get() == 1);
        });
        assert_eq!(count.get(), 2, "over {kind:?}");
    }
}

#[test]
fn without_a_server_its_connections_go_on() {
    for_each_kind(|kind| {
        let (server, address) = served(server(kind), kind, answer);
        let client = connect(&address);
        let log = log_of(&client);
        until(|| server.connections().len() == 1);
        drop(server);
        client.sendline("still there?").unwrap();
        until(|| log.borrow().len() == 1);
        assert_eq!(*log.borrow(), ["You said: still there?"]);
    });
}

#[test]
fn so_many_at_a_time_and_the_next_when_one_returns() {
    for_each_kind(|kind| {
        let (server, address) = served(server(kind).max_connections(2), kind, answer);
        let clients: Vec<Socket> = (0..2).map(|_| connect(&address)).collect();
        until(|| server.connections().len() == 2);
        clients[0].close();
        let next = connect(&address);
        let log = log_of(&next);
        next.sendline("third").unwrap();
        until(|| log.borrow().len() == 1);
    });
}

// ---- fairness ----

#[test]
fn a_flood_leaves_time_to_draw() {
    draws_beside_a_flood(|way, count| {
        let (server, _) = served(server(Kind::Tcp), Kind::Tcp, move |socket| {
            let count = count.clone();
            async move {
                drink(socket, way, &count).await;
                Ok(())
            }
        });
        server
    });
}

#[test]
fn one_that_never_waits_leaves_time_to_draw_and_to_the_others() {
    on_own_context(|| {
        let stop = Rc::new(Cell::new(false));
        let until_stopped = stop.clone();
        let (_server, address) = served(server(Kind::Tcp), Kind::Tcp, move |socket: Socket| {
            let stop = until_stopped.clone();
            async move {
                if socket.recv_line_future().await? == "spin" {
                    // Each poll finds it woken already.
                    while !stop.get() {
                        let mut first = true;
                        poll_fn(|context| {
                            context.waker().wake_by_ref();
                            if std::mem::take(&mut first) { Poll::Pending } else { Poll::Ready(()) }
                        })
                        .await;
                    }
                }
                answer(socket).await
            }
        });
        let (spins, asks) = (connect(&address), connect(&address));
        let log = log_of(&asks);
        spins.sendline("spin").unwrap();
        asks.sendline("ask").unwrap();
        let (drawn, source) = draw(Some(Duration::from_millis(2)));
        let mut number = 0;
        while drawn.get() < 20 || number < 20 {
            number += 1;
            asks.sendline(number.to_string()).unwrap();
            until(|| log.borrow().len() == number);
        }
        source.destroy();
        stop.set(true);
        let log = log_of(&spins);
        spins.sendline("over").unwrap();
        until(|| log.borrow().len() == 1);
    });
}

#[test]
fn streams_are_awaited_beside_each_other() {
    // Several wakers for one connection: lines come in, and an answer goes out when a channel says so.
    for_each_kind(|kind| {
        let (_server, address) = served(server(kind), kind, async |socket: Socket| {
            let (tell, mut told) = futures_channel::mpsc::unbounded::<String>();
            let read = async {
                let mut lines = socket.lines();
                while let Some(line) = lines.next().await {
                    tell.unbounded_send(line?).map_err(Error::other)?;
                }
                tell.close_channel();
                Ok::<(), Error>(())
            };
            let write = async {
                while let Some(line) = told.next().await {
                    socket.send_future(line + "\n").await?;
                }
                Ok::<(), Error>(())
            };
            let (read, written) = futures_util::future::join(read, write).await;
            read.and(written)
        });
        let client = connect(&address);
        let log = log_of(&client);
        for number in 0..100 {
            client.sendline(number.to_string()).unwrap();
        }
        until(|| log.borrow().len() == 100);
        assert!(log.borrow().iter().enumerate().all(|(number, line)| *line == number.to_string()));
    });
}

#[test]
fn an_error_is_told_after_the_server_has_gone_too() {
    for_each_kind(|kind| {
        let told = Rc::new(RefCell::new(Vec::new()));
        let tell = told.clone();
        let builder = server(kind).disconnect_cb(move |_, end| tell.borrow_mut().push(end.reason.to_string()));
        let (server, address) = served(builder, kind, async |socket: Socket| {
            socket.recv_line_future().await?;
            Err(Error::other("no more of this"))
        });
        let client = connect(&address);
        until(|| server.connections().len() == 1);
        drop(server);
        client.sendline("go on").unwrap();
        let log = log_of(&client);
        until(|| log.borrow().len() == 1);
        settle();
        assert_eq!(*told.borrow(), ["no more of this"]);
    });
}

#[test]
fn the_peers_end_is_told_after_the_server_has_gone_too() {
    for_each_kind(|kind| {
        let told = Rc::new(RefCell::new(Vec::new()));
        let tell = told.clone();
        let builder = server(kind).disconnect_cb(move |_, end| tell.borrow_mut().push(end.reason.to_string()));
        let (server, address) = served(builder, kind, async |socket: Socket| {
            loop {
                socket.recv_line_future().await?;
            }
        });
        let client = connect(&address);
        until(|| server.connections().len() == 1);
        drop(server);
        client.close();
        drop(client);
        until(|| !told.borrow().is_empty());
        assert_eq!(*told.borrow(), ["closed by the peer"]);
    });
}

#[test]
fn a_wake_beside_a_poll_is_not_lost() {
    const ROUNDS: usize = 50_000;
    on_own_context(|| {
        let (asked, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (its_asked, its_seen) = (asked.clone(), seen.clone());
        let place = Rc::new(RefCell::new(None::<Waker>));
        let its_place = place.clone();
        let (_server, address) = served(server(Kind::Tcp), Kind::Tcp, move |_: Socket| {
            let (asked, seen, place) = (its_asked.clone(), its_seen.clone(), its_place.clone());
            let mut last = 0;
            poll_fn(move |context| {
                let now = asked.load(Ordering::Acquire);
                place.borrow_mut().get_or_insert_with(|| context.waker().clone());
                if now != last {
                    last = now;
                    // Once more, at about the time of the next wake.
                    context.waker().wake_by_ref();
                    seen.store(now, Ordering::Release);
                }
                Poll::Pending
            })
        });
        let _client = connect(&address);
        until(|| place.borrow().is_some());
        let waker = place.take().unwrap();
        let context = glib::MainContext::ref_thread_default();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let is_lost = (1..=ROUNDS).find(|round| {
                asked.store(*round, Ordering::Release);
                waker.wake_by_ref();
                let start = Instant::now();
                while seen.load(Ordering::Acquire) < *round && start.elapsed() < Duration::from_secs(5) {
                    std::hint::spin_loop();
                }
                seen.load(Ordering::Acquire) < *round
            });
            tell.send(is_lost).unwrap();
            context.wakeup();
        });
        let is_lost = Cell::new(None);
        until(|| {
            is_lost.set(told.try_recv().ok());
            is_lost.get().is_some()
        });
        assert_eq!(is_lost.get(), Some(None));
        thread.join().unwrap();
    });
}

#[test]
fn in_a_nested_loop_futures_have_their_priority_as_ever() {
    on_own_context(|| {
        // So much that the answers do not use it up, whoever else wants the machine.
        let mut fairness = network::mainloop::Fairness::default();
        fairness.credit = Duration::from_millis(200);
        network::mainloop::set_fairness(&fairness).unwrap();
        let pair = crate::util::join(Kind::Tcp);
        let echo = pair.served.clone();
        spawn(async move {
            while let Ok(data) = echo.recv_future(1000).await {
                echo.send_future(data).await.unwrap();
            }
        });
        let drawn_meanwhile = Rc::new(Cell::new(None));
        let result = drawn_meanwhile.clone();
        let client = pair.client.clone();
        let (_keeps, address) = serve(Kind::Tcp, move |_| {
            // Whatever takes its time here: the slice of the turn is over.
            std::thread::sleep(Duration::from_millis(250));
            let log = log_of(&client);
            let (drawn, source) = draw(None);
            for number in 1..=50 {
                client.sendline("ping").unwrap();
                until(|| log.borrow().len() == number);
            }
            source.destroy();
            result.set(Some(drawn.get()));
            Ok(())
        });
        let _other = connect(&address);
        until(|| drawn_meanwhile.get().is_some());
        // With the priority of what is drawn, each answer would take as long as a guard.
        assert!(drawn_meanwhile.get().unwrap() < 5000);
    });
}

#[test]
fn whoever_wakes_late_or_after_the_end_does_no_harm() {
    let (tell, told) = std::sync::mpsc::channel::<Waker>();
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stop = over.clone();
    let thread = std::thread::spawn(move || {
        let mut wakers = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            wakers.extend(told.try_iter());
            for waker in &wakers {
                waker.wake_by_ref();
            }
            std::thread::yield_now();
        }
        wakers.extend(told.try_iter());
        wakers.len()
    });
    for _ in 0..20 {
        on_own_context(|| {
            let (tell, polled) = (tell.clone(), Rc::new(Cell::new(0)));
            let count = polled.clone();
            let (server, address) = served(server(Kind::Tcp), Kind::Tcp, move |socket| {
                let (tell, count) = (tell.clone(), count.clone());
                async move {
                    poll_fn(|context| {
                        count.set(count.get() + 1);
                        tell.send(context.waker().clone()).unwrap();
                        Poll::Ready(())
                    })
                    .await;
                    answer(socket).await
                }
            });
            let clients: Vec<Socket> = (0..6).map(|_| connect(&address)).collect();
            let logs: Vec<_> = clients.iter().map(log_of).collect();
            for client in &clients {
                client.sendline("there?").unwrap();
            }
            until(|| logs.iter().all(|log| log.borrow().len() == 1));
            // Some have gone, and others take their slots.
            for client in &clients[..3] {
                client.close();
            }
            until(|| server.connections().len() == 3);
            let more: Vec<Socket> = (0..2).map(|_| connect(&address)).collect();
            until(|| server.connections().len() == 5 && polled.get() == 8);
            drop(more);
        });
    }
    over.store(true, Ordering::Relaxed);
    assert_eq!(thread.join().unwrap(), 20 * 8);
}
