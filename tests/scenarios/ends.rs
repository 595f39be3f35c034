//! One end, told alike by every face; and what the peer sees of ours.

use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::{AsyncReadExt, AsyncWriteExt};
use network::{Error, Reason, Socket};

use super::util::*;

/// More than the kernel's buffers take.
const MUCH: usize = 12 << 20;

/// A peer of plain TCP, on a thread.
fn peer(role: impl FnOnce(TcpStream) + Send + 'static) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://127.0.0.1:{}", listener.local_addr().unwrap().port());
    (address, std::thread::spawn(move || role(listener.accept().unwrap().0)))
}

/// Runs the loop until the thread is done.
fn until_done<T>(thread: JoinHandle<T>) -> T {
    // It tells the loop nothing.
    let tick = glib::source::timeout_source_new(Duration::from_millis(5), None, glib::Priority::DEFAULT, || {
        glib::ControlFlow::Continue
    });
    tick.attach(Some(&glib::MainContext::ref_thread_default()));
    until(|| thread.is_finished());
    tick.destroy();
    thread.join().unwrap()
}

/// Connects to a peer that reads a little, answers, and goes away with the rest unread: the kernel resets the connection,
/// as when a process crashes. The write under way is told so first.
fn connect_to_one_that_crashes() -> Socket {
    let (address, thread) = peer(|mut stream| {
        stream.read_exact(&mut [0; 1000]).unwrap();
        stream.write_all(b"thirty bytes of a reply, no mo").unwrap();
    });
    let socket = connect(&address);
    socket.send(vec![0; MUCH]).unwrap();
    thread.join().unwrap();
    // The write finds out.
    until(|| socket.send("x").is_err());
    socket
}

fn assert_reset<T: std::fmt::Debug>(result: network::Result<T>) {
    assert!(matches!(result, Err(Error::Reset { .. })), "{result:?}");
}

fn assert_io_reset<T: std::fmt::Debug>(result: std::io::Result<T>) {
    assert_eq!(result.map_err(|error| error.kind()).unwrap_err(), ErrorKind::ConnectionReset);
}

#[test]
fn a_reset_that_a_write_found_is_told_to_every_blocking_call() {
    on_own_context(|| {
        assert_reset(connect_to_one_that_crashes().recv_to_end(1 << 20));
        let socket = connect_to_one_that_crashes();
        assert_eq!(socket.recv(100).unwrap().len(), 30, "what came before it is data");
        assert_reset(socket.recv(100));
        assert_reset(socket.recv_line());
        assert_reset(socket.recv_exact(1));
        assert_reset(socket.recv_until("."));
        assert_reset(socket.send("x"));
        assert_reset(socket.send_some("x"));
        assert_reset(socket.flush());
        assert_io_reset(Read::read(&mut &socket, &mut [0; 10]));
        assert_io_reset(Write::write(&mut &socket, b"x"));
        assert_io_reset(socket.reader().fill_buf());
    });
}

#[test]
fn a_reset_that_a_write_found_is_told_to_every_future() {
    on_own_context(|| {
        let context = glib::MainContext::ref_thread_default();
        let socket = connect_to_one_that_crashes();
        context.block_on(async {
            assert_eq!(socket.recv_future(100).await.unwrap().len(), 30);
            assert_reset(socket.recv_future(100).await);
            assert_reset(socket.recv_line_future().await);
            assert_reset(socket.recv_exact_future(1).await);
            assert_reset(socket.send_future("x").await);
            assert_reset(socket.flush_future().await);
            assert!(matches!(socket.lines().next().await, Some(Err(Error::Reset { .. }))));
            assert!(matches!(socket.chunks(10).next().await, Some(Err(Error::Reset { .. }))));
            let mut stream = socket.clone().into_stream();
            assert_io_reset(stream.read(&mut [0; 10]).await);
            assert_io_reset(stream.write(b"x").await);
            assert_io_reset(stream.flush().await);
        });
    });
}

#[test]
fn a_reset_that_a_write_found_is_told_to_callbacks() {
    on_own_context(|| {
        let socket = connect_to_one_that_crashes();
        let ends = log_end(&socket);
        socket.read(|_, _| Ok(()));
        until(|| ends.len() == 1);
        assert!(ends.all()[0].0.contains("reset"), "{:?}", ends.all());
        assert_reset(socket.recv(1));
        assert_reset(socket.send("x"));
    });
}

#[test]
fn an_end_that_came_before_our_data_was_refused_is_an_end() {
    on_own_context(|| {
        let (address, thread) = peer(|mut stream| {
            stream.write_all(b"all there is").unwrap();
            // Closed with nothing unread: an end. What we send now is answered by a reset.
        });
        let socket = connect(&address);
        thread.join().unwrap();
        until(|| socket.send([0; 1000]).is_err());
        assert_eq!(socket.recv_to_end(100).unwrap(), b"all there is");
        assert!(matches!(socket.recv(1), Err(Error::Closed { .. })));
        assert_eq!(Read::read(&mut &socket, &mut [0; 1]).unwrap(), 0);
    });
}

#[test]
fn why_a_tls_server_rejected_us_is_told_to_those_who_send_as_well() {
    on_own_context(|| {
        let tls = network::ServerTls::new().directory(certificates()).require_client_certificate();
        let server = network::Server::builder().tls(tls).listen("0", |_| Ok(())).unwrap();
        let socket = connect(&format!("tls://localhost:{}", server.port()));
        let ends = log_end(&socket);
        until(|| ends.len() == 1);
        // TLS 1.3: the client is done before the server has judged.
        for error in [socket.recv(1).unwrap_err(), socket.send("x").unwrap_err(), socket.send_some("x").unwrap_err()] {
            assert!(matches!(error, Error::Rejected { .. }), "{error}");
        }
    });
}

#[test]
fn the_peer_of_a_line_over_the_limit_sees_a_reset_after_the_replies() {
    on_own_context(|| {
        let (server, address) = serve(Kind::Tcp, |socket| {
            socket.set_line_limit(100);
            socket.readlines(|socket, line| socket.sendline(line));
            Ok(())
        });
        let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
        for half_closes in [false, true] {
            let thread = std::thread::spawn(move || {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
                stream.write_all(b"first\n").unwrap();
                stream.write_all(&[b'x'; 200]).unwrap();
                if half_closes {
                    // It may have been reset by now.
                    let _ = stream.shutdown(std::net::Shutdown::Write);
                }
                let mut replies = Vec::new();
                let end = stream.read_to_end(&mut replies).map_err(|error| error.kind());
                (replies, end)
            });
            let (replies, end) = until_done(thread);
            assert_eq!(replies, b"first\n");
            assert_eq!(end.unwrap_err(), ErrorKind::ConnectionReset, "half-closes: {half_closes}");
        }
        drop(server);
    });
}

/// What a peer over plain TCP sees of one that goes away with data that it never read: `Err` is a reset.
fn end_seen_by_one_that_wakes_up_late(socket: Socket, mut stream: TcpStream) -> Result<usize, ErrorKind> {
    let ended = Log::<String>::new();
    let ends = ended.clone();
    socket.flush_async(move |result| ends.add(format!("{result:?}")));
    socket.close();
    // The linger time passes, and what is left is discarded.
    until(|| ended.len() == 1);
    assert!(ended.all()[0].contains("Err"), "{:?}", ended.all());
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map_err(|error| error.kind())
}

#[test]
fn what_is_lost_at_the_end_of_linger_ends_in_a_reset_over_tls_as_well() {
    on_own_context(|| {
        // One connection that keeps the cipher text where it is: a relay of raw bytes that reads nothing for a while.
        let place = std::rc::Rc::new(std::cell::RefCell::new(None));
        let seen = place.clone();
        let server = server(Kind::Tls)
            .linger(Duration::from_millis(50))
            .send_buffer(4 << 10)
            .listen("127.0.0.1:0", move |socket| {
                seen.replace(Some(socket));
                Ok(())
            })
            .unwrap();
        for size in [60_000, 4 << 20] {
            let relay = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = relay.local_addr().unwrap().port();
            let behind = server.port();
            let (raw, shaken) = (mpsc::channel(), mpsc::channel::<()>());
            let thread = std::thread::spawn(move || {
                let mut client = relay.accept().unwrap().0;
                let mut server = TcpStream::connect(("127.0.0.1", behind)).unwrap();
                for stream in [&client, &server] {
                    stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
                }
                let mut buffer = [0; 4096];
                while shaken.1.try_recv().is_err() {
                    if let Ok(count) = client.read(&mut buffer) {
                        server.write_all(&buffer[..count]).unwrap();
                    }
                    if let Ok(count) = server.read(&mut buffer) {
                        client.write_all(&buffer[..count]).unwrap();
                    }
                }
                server.set_read_timeout(None).unwrap();
                raw.0.send(server).unwrap();
            });
            let client = connect(&format!("tls://localhost:{port}"));
            until(|| place.borrow().is_some());
            shaken.0.send(()).unwrap();
            let stream = raw.1.recv().unwrap();
            thread.join().unwrap();
            let served: Socket = place.take().unwrap();
            served.send(vec![7; size]).unwrap();
            if served.queued() == 0 {
                // The kernel has taken all of it: nothing is lost then.
                continue;
            }
            assert_eq!(end_seen_by_one_that_wakes_up_late(served, stream), Err(ErrorKind::ConnectionReset), "{size}");
            drop(client);
        }
    });
}

#[test]
fn a_peer_that_reads_slowly_gets_all_of_it_however_long_that_takes() {
    on_own_context(|| {
        let linger = Duration::from_millis(300);
        let (address, thread) = peer(move |mut stream| {
            // Slower than linger in all, never in between.
            let mut left = MUCH;
            let mut buffer = vec![0; MUCH / 20];
            while left > 0 {
                let size = buffer.len().min(left);
                stream.read_exact(&mut buffer[..size]).expect("more of it");
                left -= size;
                std::thread::sleep(Duration::from_millis(40));
            }
            assert_eq!(stream.read(&mut buffer).unwrap(), 0);
        });
        let builder = Socket::builder().linger(linger);
        let socket = try_connect(builder, &address).unwrap();
        socket.send(vec![1; MUCH]).unwrap();
        socket.close();
        until_done(thread);
    });
}

#[test]
fn without_a_linger_time_only_what_the_kernel_has_is_sent() {
    on_own_context(|| {
        let (address, thread) = peer(|mut stream| {
            let mut bytes = Vec::new();
            let end = stream.read_to_end(&mut bytes).map_err(|error| error.kind());
            assert_eq!(end.unwrap_err(), ErrorKind::ConnectionReset);
            assert!(bytes.len() < MUCH, "all of it");
        });
        let socket = try_connect(Socket::builder().linger(Duration::ZERO).send_buffer(32 << 10), &address).unwrap();
        socket.send(vec![1; MUCH]).unwrap();
        socket.close();
        until_done(thread);
    });
}

#[test]
fn shutting_down_ends_when_sending_fails_also_if_unread_input_hides_the_end() {
    on_own_context(|| {
        let (tell, told) = mpsc::channel::<()>();
        let (address, thread) = peer(move |mut stream| {
            stream.write_all(b"unread").unwrap();
            told.recv().unwrap();
            // With our data unread, which resets the connection.
        });
        let socket = try_connect(Socket::builder(), &address).unwrap();
        socket.send(vec![1; MUCH]).unwrap();
        let ended = Log::<bool>::new();
        let (ends, writer) = (ended.clone(), socket.clone());
        glib::MainContext::ref_thread_default()
            .spawn_local(async move { ends.add(AsyncWriteExt::close(&mut &writer).await.is_err()) });
        settle();
        assert_eq!(ended.len(), 0);
        tell.send(()).unwrap();
        until(|| ended.len() == 1);
        assert!(ended.all()[0], "sending failed");
        until_done(thread);
    });
}

#[test]
fn what_is_thrown_away_after_closing_is_not_taken_for_all_there_was() {
    on_own_context(|| {
        let (tell, told) = mpsc::channel::<()>();
        let (address, thread) = peer(move |mut stream| {
            stream.write_all(b"part").unwrap();
            told.recv().unwrap();
            stream.write_all(b"rest").unwrap();
        });
        let socket = try_connect(Socket::builder(), &address).unwrap();
        let ended = Log::<Option<Vec<u8>>>::new();
        let (ends, reader) = (ended.clone(), socket.clone());
        glib::MainContext::ref_thread_default()
            .spawn_local(async move { ends.add(reader.recv_to_end_future(100).await.ok()) });
        settle();
        tell.send(()).unwrap();
        thread.join().unwrap();
        // The end has come by now, and the loop has not seen it.
        socket.close();
        until(|| ended.len() == 1);
        assert_eq!(ended.all(), [None]);
        assert!(matches!(socket.recv_to_end(100), Err(Error::Closed { .. })));
    });
}

#[test]
fn nor_is_anything_lost_where_no_loop_runs() {
    on_own_context(|| {
        let (address, thread) = peer(|mut stream| {
            let mut buffer = vec![0; MUCH / 20];
            for _ in 0..20 {
                stream.read_exact(&mut buffer).expect("more of it");
                std::thread::sleep(Duration::from_millis(40));
            }
        });
        let socket = try_connect(Socket::builder().linger(Duration::from_millis(300)), &address).unwrap();
        socket.send(vec![1; MUCH / 20 * 20]).unwrap();
        drop(socket);
        thread.join().unwrap();
    });
}

#[test]
fn one_socket_given_as_both_of_a_pair_is_half_closed_all_the_same() {
    on_own_context(|| {
        let (ours, mut peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let socket = Socket::wrap(ours.try_clone().unwrap(), ours).unwrap();
        socket.send("all").unwrap();
        socket.shutdown_write().unwrap();
        let mut got = String::new();
        peer.read_to_string(&mut got).unwrap();
        assert_eq!(got, "all");
        peer.write_all(b"reply").unwrap();
        assert_eq!(socket.recv(10).unwrap(), b"reply");
    });
}

#[test]
fn an_end_without_a_reason_is_remote() {
    for_each_kind(|kind| {
        let joined = join(kind);
        let reasons = Log::<String>::new();
        let log = reasons.clone();
        joined.client.disconnect_cb(move |_, end| {
            log.add(if matches!(end.reason, Reason::Remote) { "remote" } else { "other" })
        });
        joined.served.close();
        until(|| reasons.len() == 1);
        assert_eq!(reasons.all(), ["remote"]);
        assert!(matches!(joined.client.recv(1), Err(Error::Closed { .. })));
        assert!(matches!(joined.client.send("x"), Err(Error::Closed { .. })));
    });
}
