//! Clients that are awaited, and what a flood of what is awaited leaves to the rest of the program.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join;
use futures_util::io::AsyncReadExt;
use futures_util::stream::StreamExt;
use network::{Error, Server, Socket};

use crate::futures::{await_it, now, spawn};
use crate::util::*;

fn bound(builder: network::server::ServerBuilder, kind: Kind) -> (Server, String) {
    let server = builder.bind(listen_address(kind).as_str()).unwrap();
    let address = address_of(&server, kind);
    (server, address)
}

async fn connect_to(kind: Kind, address: &str) -> Socket {
    let builder = if kind == Kind::Tls { client(kind) } else { Socket::builder() };
    builder.connect_future(address).await.unwrap()
}

#[test]
fn clients_are_awaited() {
    for_each_kind(|kind| {
        let (bound, address) = bound(server(kind), kind);
        let tasks = Rc::new(Cell::new(0));
        let (count, accepting) = (tasks.clone(), bound.clone());
        spawn(async move {
            let mut incoming = accepting.incoming();
            drop(accepting);
            while let Some(socket) = incoming.next().await {
                let (socket, count) = (socket.unwrap(), count.clone());
                spawn(async move {
                    let mut lines = socket.lines();
                    while let Some(line) = lines.next().await {
                        socket.send_future(format!("You said: {}\n", line.unwrap())).await.unwrap();
                    }
                    count.set(count.get() + 1);
                });
            }
            count.set(count.get() + 100);
        });
        await_it(async {
            let clients = [connect_to(kind, &address).await, connect_to(kind, &address).await];
            for round in 0..3 {
                for client in &clients {
                    client.send_future(format!("{round}\n")).await.unwrap();
                }
                for client in &clients {
                    assert_eq!(client.recv_line_future().await.unwrap(), format!("You said: {round}"));
                }
            }
        });
        until(|| tasks.get() == 2);
        bound.close();
        until(|| tasks.get() == 102);
        assert!(matches!(await_it(bound.accept_future()), Err(Error::Closed { .. })));
    });
}

#[test]
fn one_task_serves_all_clients() {
    for_each_kind(|kind| {
        let (bound, address) = bound(server(kind), kind);
        let (ended, serving) = (Rc::new(Cell::new(0)), bound.incoming());
        let count = ended.clone();
        spawn(async move {
            let serve_one = async |client: network::Result<Socket>| {
                let socket = client.unwrap();
                let mut lines = socket.lines();
                while let Some(line) = lines.next_str().await {
                    socket.send_future(format!("You said: {}\n", line.unwrap())).await.unwrap();
                }
                count.set(count.get() + 1);
            };
            serving.for_each_concurrent(None, serve_one).await;
            count.set(count.get() + 100);
        });
        await_it(async {
            let mut clients = Vec::new();
            for round in 0..20 {
                // New ones come while the others talk.
                clients.push(connect_to(kind, &address).await);
                for client in &clients {
                    client.send_future(format!("{round}\n")).await.unwrap();
                }
                for client in &clients {
                    assert_eq!(client.recv_line_future().await.unwrap(), format!("You said: {round}"));
                }
            }
        });
        until(|| ended.get() == 20);
        bound.close();
        until(|| ended.get() == 120);
    });
}

#[test]
fn several_who_await_clients_get_one_each_and_to_drop_one_loses_none() {
    for_each_kind(|kind| {
        let (bound, address) = bound(server(kind), kind);
        await_it(async {
            let mut dropped = Box::pin(bound.accept_future());
            assert!(now(dropped.as_mut()).await.is_none());
            let clients = join(connect_to(kind, &address), connect_to(kind, &address));
            let accepted = async {
                glib::timeout_future(Duration::from_millis(1)).await;
                drop(dropped);
                join(bound.accept_future(), bound.accept_future()).await
            };
            let (clients, served) = join(clients, accepted).await;
            let served = [served.0.unwrap(), served.1.unwrap()];
            assert_ne!(served[0], served[1]);
            for socket in &served {
                socket.send_future("Hello\n").await.unwrap();
            }
            for client in [clients.0, clients.1] {
                assert_eq!(client.recv_line_future().await.unwrap(), "Hello");
            }
        });
    });
}

#[test]
fn a_full_server_is_awaited_until_somebody_leaves() {
    for_each_kind(|kind| {
        let (bound, address) = bound(server(kind).max_connections(1), kind);
        await_it(async {
            let (_client, first) = join(connect_to(kind, &address), bound.accept_future()).await;
            let other = address.clone();
            spawn(async move {
                connect_to(kind, &other).await.send_future("second\n").await.unwrap();
            });
            let mut second = Box::pin(bound.accept_future());
            glib::timeout_future(Duration::from_millis(10)).await;
            assert!(now(second.as_mut()).await.is_none());
            drop(first);
            assert_eq!(second.await.unwrap().recv_line_future().await.unwrap(), "second");
        });
    });
}

#[test]
fn clients_of_a_callback_are_not_awaited() {
    on_own_context(|| {
        let (server, _) = serve(Kind::Tcp, |_| Ok(()));
        assert!(matches!(await_it(server.accept_future()), Err(Error::Unsupported(_))));
        assert!(matches!(await_it(server.incoming().next()), Some(Err(Error::Unsupported(_)))));
    });
}

// ---- fairness ----

/// The priority at which GTK draws.
const REDRAW: i32 = 120;

/// Something to draw, every so often or all the time. Counts.
pub fn draw(every: Option<Duration>) -> (Rc<Cell<u32>>, glib::Source) {
    let drawn = Rc::new(Cell::new(0));
    let count = glib::thread_guard::ThreadGuard::new(drawn.clone());
    let draw = move || {
        let count = count.get_ref();
        count.set(count.get() + 1);
        glib::ControlFlow::Continue
    };
    let priority = glib::Priority::from(REDRAW);
    let source = match every {
        Some(every) => glib::source::timeout_source_new(every, None, priority, draw),
        None => glib::source::idle_source_new(None, priority, draw),
    };
    source.attach(Some(&glib::MainContext::ref_thread_default()));
    (drawn, source)
}

/// The ways to receive a flood.
const WAYS: [&str; 5] = ["recv", "exact", "lines", "chunks", "read"];

/// Receives all that comes, and counts it.
pub async fn drink(mut socket: Socket, way: &str, count: &Cell<usize>) {
    let mut lines = socket.lines();
    let mut chunks = socket.chunks(1000);
    let mut buffer = vec![0; 1000];
    loop {
        let more = match way {
            "recv" => socket.recv_future(1000).await.unwrap().len(),
            "exact" => socket.recv_exact_future(100).await.unwrap().len(),
            "lines" => lines.next().await.unwrap().unwrap().len(),
            "chunks" => chunks.next().await.unwrap().unwrap().len(),
            _ => AsyncReadExt::read(&mut socket, &mut buffer).await.unwrap(),
        };
        count.set(count.get() + more);
    }
}

/// A peer that sends lines for as long as anybody takes them.
fn flooding(address: std::net::SocketAddr) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        use std::io::Write;
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let chunk = [[b'x'; 79].as_slice(), b"\n"].concat().repeat(1000);
        while stream.write_all(&chunk).is_ok() {}
    })
}

/// A flood, which a server receives in each of the ways and counts, leaves time to draw; and however much is drawn, it goes
/// on.
pub fn draws_beside_a_flood(receive: impl Fn(&'static str, Rc<Cell<usize>>) -> Server) {
    for way in WAYS {
        eprintln!("by {way}");
        let thread = on_own_context(|| {
            let count = Rc::new(Cell::new(0));
            let server = receive(way, count.clone());
            let thread = flooding(([127, 0, 0, 1], server.port()).into());
            until(|| count.get() > 0);
            let (drawn, source) = draw(Some(Duration::from_millis(2)));
            until(|| drawn.get() >= 50);
            source.destroy();
            let (drawn, source) = draw(None);
            let before = count.get();
            until(|| count.get() > before + (4 << 20));
            source.destroy();
            assert!(drawn.get() > 0);
            thread
        });
        // The context is gone, and the connection with it.
        thread.join().unwrap();
    }
}

#[test]
fn a_flood_that_is_awaited_leaves_time_to_draw() {
    draws_beside_a_flood(|way, count| {
        let (server, _) = bound(server(Kind::Tcp), Kind::Tcp);
        let accepting = server.clone();
        spawn(async move {
            let socket = accepting.accept_future().await.unwrap();
            drink(socket, way, &count).await;
        });
        server
    });
}

#[test]
fn slow_callbacks_of_a_flood_leave_time_to_draw() {
    use std::io::Write;
    let thread = on_own_context(|| {
        let (drawn, source) = draw(None);
        // How often it was called, and how often of those with something drawn since the last.
        let (calls, pictures) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let (count, after) = (calls.clone(), pictures.clone());
        let server = server(Kind::Tcp).listen("127.0.0.1:0", move |socket| {
            let (drawn, count, after) = (drawn.clone(), count.clone(), after.clone());
            let mut before = 0;
            socket.read(move |_, _| {
                // One call takes more than the network's share of the time.
                let end = std::time::Instant::now() + Duration::from_millis(4);
                while std::time::Instant::now() < end {}
                after.set(after.get() + u32::from(before != drawn.get()));
                before = drawn.get();
                count.set(count.get() + 1);
                Ok(())
            });
            Ok(())
        });
        let server = server.unwrap();
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        let thread = std::thread::spawn(move || while stream.write_all(&[b'x'; 1 << 20]).is_ok() {});
        until(|| calls.get() >= 60);
        source.destroy();
        assert!(3 * pictures.get() >= calls.get(), "drawn {} times in {} calls", pictures.get(), calls.get());
        thread
    });
    // The context is gone, and the connection with it.
    thread.join().unwrap();
}

#[test]
fn many_busy_connections_that_are_awaited_leave_time_to_draw() {
    use std::io::{Read, Write};
    let threads = on_own_context(|| {
        let (server, _) = bound(server(Kind::Tcp), Kind::Tcp);
        let port = server.port();
        let count = Rc::new(Cell::new(0));
        let counted = count.clone();
        spawn(async move {
            loop {
                let (socket, counted) = (server.accept_future().await.unwrap(), counted.clone());
                spawn(async move {
                    while let Ok(data) = socket.recv_future(1000).await {
                        counted.set(counted.get() + 1);
                        let _ = socket.send_future(data).await;
                    }
                });
            }
        });
        let talk = move || {
            // Several on one thread keep it busy.
            let connect = |_| std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            let mut streams: Vec<_> = (0..16).map(connect).collect();
            let ok = |result: std::io::Result<()>| result.is_ok();
            while streams.iter_mut().all(|stream| ok(stream.write_all(b"question")))
                && streams.iter_mut().all(|stream| ok(stream.read_exact(&mut [0; 8])))
            {}
        };
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(talk)).collect();
        until(|| count.get() > 1000);
        let (drawn, source) = draw(Some(Duration::from_millis(2)));
        until(|| drawn.get() >= 50);
        source.destroy();
        let (_, source) = draw(None);
        let before = count.get();
        until(|| count.get() > before + 2000);
        source.destroy();
        threads
    });
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn who_sends_without_end_leaves_time_to_draw() {
    let thread = on_own_context(|| {
        let (server, _) = bound(server(Kind::Tcp), Kind::Tcp);
        let port = server.port();
        let thread = std::thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        });
        let sent = Rc::new(Cell::new(0));
        let counted = sent.clone();
        spawn(async move {
            let socket = server.accept_future().await.unwrap();
            // The peer takes it all, so there is always room.
            while socket.send_future([0; 1000]).await.is_ok() {
                counted.set(counted.get() + 1000);
            }
        });
        until(|| sent.get() > 0);
        let (drawn, source) = draw(Some(Duration::from_millis(2)));
        until(|| drawn.get() >= 50);
        source.destroy();
        let (_, source) = draw(None);
        let before = sent.get();
        until(|| sent.get() > before + (1 << 20));
        source.destroy();
        thread
    });
    thread.join().unwrap();
}
