//! TLS that starts on an open connection: in both roles, by each face, and what must not get in on the way.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gio::Cancellable;
use gio::prelude::*;
use network::{ClientTls, Error, Selector, Server, ServerTls, Socket, tls::StartTls};

use crate::util::*;

fn serves() -> ServerTls {
    ServerTls::new().directory(certificates())
}

/// The two roles with settings that fit each other, whatever the connection.
fn roles() -> (StartTls, StartTls) {
    (ClientTls::danger_accept_any().server_name("localhost").into(), serves().into())
}

/// The connections that differ: the address is known, or it is a unix socket, or a pair of pipes.
fn pairs() -> Vec<(&'static str, Socket, Socket)> {
    let tcp = join(Kind::Tcp);
    tcp.server.detach();
    let (one, other) = UnixStream::pair().unwrap();
    let unix = (Socket::from_fd(one).unwrap(), Socket::from_fd(other).unwrap());
    let ((there, here), (back, forth)) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
    let pipes = (Socket::wrap(there, forth).unwrap(), Socket::wrap(back, here).unwrap());
    vec![("TCP", tcp.client, tcp.served), ("unix", unix.0, unix.1), ("pipes", pipes.0, pipes.1)]
}

type Outcome = Rc<RefCell<Option<network::Result>>>;

fn start(socket: &Socket, role: impl Into<StartTls>) -> Outcome {
    let outcome = Outcome::default();
    let place = outcome.clone();
    socket.start_tls_async(role, Cancellable::NONE, move |_, result| {
        assert!(place.replace(Some(result)).is_none(), "it is told once");
    });
    assert!(outcome.borrow().is_none(), "not from inside the call");
    outcome
}

#[track_caller]
fn result(outcome: &Outcome) -> network::Result {
    until(|| outcome.borrow().is_some());
    outcome.take().unwrap()
}

/// A plain connection to a peer that is not ours, and the peer.
fn to_a_stranger() -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = connect(&format!("tcp://{}", listener.local_addr().unwrap()));
    (socket, listener.accept().unwrap().0)
}

#[test]
fn the_connection_goes_on_with_its_callbacks() {
    on_own_context(|| {
        for (kind, client, served) in pairs() {
            eprintln!("{kind}");
            let (heard, replies) = (log_lines(&served), log_lines(&client));
            client.sendline("in plaintext").unwrap();
            until(|| heard.len() == 1);
            served.sendline("go ahead").unwrap();
            until(|| replies.len() == 1);
            let (ours, theirs) = roles();
            let (one, other) = (start(&client, ours), start(&served, theirs));
            client.sendline("sent during the handshake").unwrap();
            served.sendline("so is this").unwrap();
            result(&one).unwrap();
            result(&other).unwrap();
            until(|| heard.len() == 2 && replies.len() == 2);
            assert_eq!(heard.all()[1], "sent during the handshake");
            assert_eq!(replies.all()[1], "so is this");
            assert!(client.is_tls() && served.is_tls() && client.peer_fingerprint().is_some());
            let end = log_end(&served);
            client.sendline("last").unwrap();
            client.close();
            until(|| end.len() == 1);
            assert_eq!((end.all()[0].0.as_str(), heard.len()), ("closed by the peer", 3), "{kind}");
        }
    });
}

#[test]
fn the_side_that_connected_may_be_the_tls_server() {
    on_own_context(|| {
        let joined = join(Kind::Tcp);
        let (ours, theirs) = roles();
        let (one, other) = (start(&joined.client, theirs), start(&joined.served, ours));
        result(&one).unwrap();
        result(&other).unwrap();
        let lines = log_lines(&joined.client);
        joined.served.sendline("hello").unwrap();
        until(|| lines.len() == 1);
    });
}

#[test]
fn a_client_verifies_whom_it_connected_to() {
    on_own_context(|| {
        // The user's own certificate, for the name of the address: as `connect` does.
        let joined = join(Kind::Tcp);
        let (one, other) = (start(&joined.client, trust()), start(&joined.served, serves()));
        result(&one).unwrap();
        result(&other).unwrap();

        // A stranger's.
        let joined = join(Kind::Tcp);
        let (end, gone) = (log_end(&joined.client), log_end(&joined.served));
        let elsewhere = tempfile::tempdir().unwrap();
        let stranger = ServerTls::new().directory(elsewhere.path());
        let (one, other) = (start(&joined.client, trust()), start(&joined.served, stranger));
        joined.client.sendline("for the right one alone").unwrap();
        let error = result(&one).unwrap_err();
        assert!(matches!(&error, Error::UnknownCertificate { .. }), "{error}");
        until(|| end.len() == 1 && gone.len() == 1);
        assert_eq!(end.all()[0].0, error.to_string(), "the same reason");
        assert!(!joined.client.is_open());
        let error = result(&other);
        assert!(
            matches!(&error, Err(Error::Rejected { .. })) || error.is_ok(),
            "TLS 1.3 tells a server late: {error:?}"
        );
        assert!(gone.all()[0].1.is_empty(), "nothing of it was sent");
    });
}

#[test]
fn what_was_queued_goes_out_first_and_in_plaintext() {
    on_own_context(|| {
        let (socket, peer) = to_a_stranger();
        let identity = network::tls::Identity::named_in(certificates(), "queue").unwrap();
        // More than the kernel takes.
        let plain = pattern(8 << 20);
        socket.send(&plain).unwrap();
        let outcome = start(&socket, identity);
        socket.sendline("encrypted").unwrap();
        assert!(socket.queued() > "encrypted\n".len());
        let (expected, context) = (plain.clone(), glib::MainContext::ref_thread_default());
        let is_done = Arc::new(AtomicBool::new(false));
        let done = is_done.clone();
        let peer = std::thread::spawn(move || {
            let mut received = vec![0; expected.len()];
            (&peer).read_exact(&mut received).unwrap();
            assert!(received == expected);
            let line = glib::MainContext::new()
                .with_thread_default(|| {
                    let socket = Socket::from_fd(peer).unwrap();
                    socket.start_tls(ClientTls::danger_accept_any()).unwrap();
                    socket.recv_line().unwrap()
                })
                .unwrap();
            done.store(true, Ordering::Relaxed);
            context.invoke(|| {});
            line
        });
        result(&outcome).unwrap();
        until(|| is_done.load(Ordering::Relaxed));
        assert_eq!(peer.join().unwrap(), "encrypted");
    });
}

/// CVE-2011-0411: what an attacker adds in plaintext must not be taken for something that came over TLS.
#[test]
fn what_comes_with_the_request_is_refused_in_both_roles() {
    on_own_context(|| {
        let (ours, theirs) = roles();
        for role in [ours, theirs] {
            for more in ["QUIT\n", "half a line", "\n"] {
                let (socket, mut peer) = to_a_stranger();
                let (end, heard, outcome) = (log_end(&socket), Log::<String>::new(), Outcome::default());
                let (lines, place, tls) = (heard.clone(), outcome.clone(), role.clone());
                socket.readlines(move |socket, line| {
                    lines.add(line);
                    let place = place.clone();
                    socket.sendline("go ahead")?;
                    socket.start_tls_async(tls.clone(), Cancellable::NONE, move |_, result| {
                        place.replace(Some(result));
                    });
                    Ok(())
                });
                write!(peer, "STARTTLS\n{more}").unwrap();
                let error = result(&outcome).unwrap_err();
                assert!(matches!(&error, Error::Plaintext { .. }), "{error}");
                until(|| end.len() == 1);
                assert_eq!(end.all(), [(error.to_string(), Vec::new())]);
                assert_eq!(heard.all(), ["STARTTLS"]);
            }
        }
    });
}

#[test]
fn what_was_received_and_not_taken_is_refused() {
    on_own_context(|| {
        // By a blocking call, by a future, and in a buffer of std's.
        let (socket, mut peer) = to_a_stranger();
        peer.write_all(b"one\ntwo\n").unwrap();
        assert_eq!(socket.recv_line().unwrap(), "one");
        let error = socket.start_tls(serves()).unwrap_err();
        assert!(matches!(error, Error::Plaintext { .. }), "{error}");
        assert!(!socket.is_open());

        let (socket, mut peer) = to_a_stranger();
        peer.write_all(b"one\ntwo\n").unwrap();
        let error = glib::MainContext::ref_thread_default().block_on(async {
            let mut lines = socket.lines();
            assert_eq!(lines.next().await.unwrap().unwrap(), "one");
            socket.start_tls_future(serves()).await.unwrap_err()
        });
        assert!(matches!(error, Error::Plaintext { .. }), "{error}");

        let (socket, mut peer) = to_a_stranger();
        peer.write_all(b"one\ntwo\n").unwrap();
        let mut line = String::new();
        let mut reader = socket.reader();
        std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
        assert!(matches!(socket.start_tls(serves()).unwrap_err(), Error::Plaintext { .. }));
    });
}

#[test]
fn what_a_byte_stream_has_read_ahead_is_refused_when_it_is_asked_for() {
    use futures_util::io::{AsyncBufReadExt, AsyncReadExt};

    on_own_context(|| {
        let joined = join(Kind::Tcp);
        joined.served.send("one\ninjected\n").unwrap();
        let (_, theirs) = roles();
        let peer = start(&joined.served, theirs);
        let client = joined.client.clone();
        let error = glib::MainContext::ref_thread_default().block_on(async move {
            let mut stream = client.into_stream();
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            assert_eq!(line, "one\n");
            let handle = stream.socket().clone();
            handle.start_tls_future(ClientTls::danger_accept_any()).await.unwrap();
            stream.read(&mut [0; 100]).await.unwrap_err()
        });
        assert!(error.to_string().contains("in plaintext"), "{error}");
        assert!(!joined.client.is_open());
        let _ = result(&peer);
    });
}

#[test]
fn a_refusal_leaves_the_connection_as_it_was() {
    on_own_context(|| {
        let joined = join(Kind::Tcp);
        // Whom to trust is unknown where nobody named the peer.
        let error = joined.served.start_tls(ClientTls::new()).unwrap_err();
        assert!(matches!(&error, Error::TlsSettings(_)), "{error}");
        assert!(matches!(joined.served.start_tls(ClientTls::system()), Err(Error::TlsSettings(_))));
        assert!(matches!(joined.client.start_tls(ClientTls::pinned("zz")), Err(Error::TlsSettings(_))));
        let error = result(&start(&joined.client, ServerTls::pem("/none", "/none"))).unwrap_err();
        assert!(matches!(&error, Error::Identity { .. }), "{error}");
        let (unix, _other) = UnixStream::pair().unwrap();
        let unix = Socket::from_fd(unix).unwrap();
        let error = unix.start_tls(ClientTls::danger_accept_any()).unwrap_err();
        assert!(matches!(&error, Error::Unsupported(_)), "{error}");
        let lines = log_lines(&joined.client);
        joined.served.sendline("still in plaintext").unwrap();
        until(|| lines.len() == 1);
        assert!(!joined.client.is_tls() && unix.is_open());

        // Twice, while one is going on and after it.
        let (ours, theirs) = roles();
        let first = start(&joined.client, ours.clone());
        let error = result(&start(&joined.client, ours.clone())).unwrap_err();
        assert!(matches!(&error, Error::Unsupported(_)), "{error}");
        let other = start(&joined.served, theirs);
        result(&first).unwrap();
        result(&other).unwrap();
        assert!(matches!(joined.client.start_tls(ours.clone()), Err(Error::Unsupported(_))));

        let closed = join(Kind::Tcp);
        closed.client.close();
        assert!(matches!(closed.client.start_tls(ours), Err(Error::Closed { .. })));
    });
}

#[test]
fn a_blocking_handshake_within_one_thread_is_refused() {
    on_own_context(|| {
        let joined = join(Kind::Tcp);
        for error in [joined.client.start_tls(trust()).unwrap_err(), joined.served.start_tls(serves()).unwrap_err()] {
            assert!(error.to_string().contains("belongs to this thread"), "{error}");
        }
    });
}

#[test]
fn the_callback_comes_before_what_comes_after_the_handshake() {
    on_own_context(|| {
        for _ in 0..50 {
            let joined = join(Kind::Tcp);
            let (ours, theirs) = roles();
            let log = Log::<String>::new();
            let (lines, done) = (log.clone(), log.clone());
            joined.client.readlines(move |_, line| {
                lines.add(line);
                Ok(())
            });
            joined.client.start_tls_async(ours, Cancellable::NONE, move |socket, result| {
                result.unwrap();
                assert!(socket.is_tls());
                done.add("done");
            });
            joined.served.start_tls_async(theirs, Cancellable::NONE, |socket, _| socket.sendline("first").unwrap());
            until(|| log.len() == 2);
            assert_eq!(log.all(), ["done", "first"]);
        }
    });
}

#[test]
fn blocking_calls_and_selectors_complete_a_handshake_that_goes_on() {
    on_own_context(|| {
        let (one, other) = UnixStream::pair().unwrap();
        let (ours, _) = roles();
        let peer = std::thread::spawn(move || {
            glib::MainContext::new()
                .with_thread_default(|| {
                    let socket = Socket::from_fd(other).unwrap();
                    let tls = serves().prepared().unwrap();
                    socket.start_tls(tls).unwrap();
                    socket.sendline("hello").unwrap();
                    socket.flush().unwrap();
                    socket.recv_line().unwrap()
                })
                .unwrap()
        });
        let socket = Socket::from_fd(one).unwrap();
        let outcome = start(&socket, ours);
        let selector = Selector::new();
        selector.add(&socket);
        assert!(selector.wait(Duration::from_secs(20)).unwrap());
        assert_eq!(socket.recv_line().unwrap(), "hello");
        assert!(outcome.borrow().is_none(), "no callback runs inside a method call");
        socket.sendline("bye").unwrap();
        socket.flush().unwrap();
        assert_eq!(peer.join().unwrap(), "bye");
        result(&outcome).unwrap();
    });
}

#[test]
fn what_ends_the_connection_during_the_handshake_is_told_once() {
    on_own_context(|| {
        for how in ["close", "abort", "cancel", "future", "silence", "end", "reset"] {
            let (socket, peer) = to_a_stranger();
            let log = Log::<String>::new();
            let (end, done) = (log.clone(), log.clone());
            socket.disconnect_cb(move |_, gone| end.add(format!("end: {}", gone.reason)));
            let cancellable = Cancellable::new();
            if how == "silence" {
                drop(socket);
                let (one, other) = UnixStream::pair().unwrap();
                let builder = Socket::builder().handshake_timeout(Duration::from_millis(50));
                let socket = builder.from_fd(one).unwrap();
                let error = result(&start(&socket, roles().0)).unwrap_err();
                assert!(matches!(&error, Error::TimedOut { .. }), "{error}");
                assert!(!socket.is_open());
                drop(other);
                continue;
            }
            if how == "future" {
                let task = glib::MainContext::ref_thread_default().spawn_local(socket.start_tls_future(roles().0));
                until(|| socket.is_tls());
                task.abort();
                drop(task);
                until(|| log.len() == 1);
                assert!(log.all()[0].contains("cancelled"), "{:?}", log.all());
                continue;
            }
            socket.start_tls_async(roles().0, Some(&cancellable), move |_, result| {
                done.add(format!("done: {}", result.unwrap_err()));
            });
            socket.sendline("never sent").unwrap();
            match how {
                "close" => drop(socket.close()),
                "abort" => drop(socket.abort()),
                "cancel" => cancellable.cancel(),
                "end" => peer.shutdown(Shutdown::Write).unwrap(),
                _ => {
                    rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
                    drop(peer);
                }
            }
            until(|| log.len() == 2);
            settle();
            let log = log.all();
            assert!(log[0].starts_with("done: ") && log[1].starts_with("end: "), "{how}: {log:?}");
            assert!(!socket.is_open() && log.len() == 2, "{how}: {log:?}");
        }
    });
}

#[test]
fn a_handshake_that_is_cut_short_fails_wherever_it_is_cut() {
    on_own_context(|| {
        for count in 1..=20 {
            // A real server's first bytes, and no more.
            let (front, back) = UnixStream::pair().unwrap();
            let (relay, inner) = UnixStream::pair().unwrap();
            let client = Socket::from_fd(front).unwrap();
            let server = Socket::from_fd(inner).unwrap();
            let outcome = start(&client, roles().0);
            let _other = start(&server, roles().1);
            let cut = std::thread::spawn(move || {
                let mut hello = [0; 4096];
                let length = (&back).read(&mut hello).unwrap();
                (&relay).write_all(&hello[..length]).unwrap();
                let mut first = vec![0; count];
                (&relay).read_exact(&mut first).unwrap();
                (&back).write_all(&first).unwrap();
                drop(back);
            });
            let error = result(&outcome).unwrap_err();
            assert!(error.is_temporary(), "{count}: {error}");
            assert!(!client.is_open());
            cut.join().unwrap();
        }
    });
}

#[test]
fn a_server_by_futures_reads_nothing_ahead_of_the_handshake() {
    on_own_context(|| {
        let tls = serves().prepared().unwrap();
        let server = Server::builder().tls(false).address("127.0.0.1").listen(0, move |socket| {
            let tls = tls.clone();
            glib::spawn_future_local(async move {
                assert_eq!(socket.recv_line_future().await?, "STARTTLS");
                socket.sendline("go ahead")?;
                // By then the client's hello is there.
                socket.flush_future().await?;
                glib::timeout_future(Duration::ZERO).await;
                socket.start_tls_future(tls).await?;
                let line = socket.recv_line_future().await?;
                socket.sendline(line)
            });
            Ok(())
        });
        let server = server.unwrap();
        let address = format!("tcp://127.0.0.1:{}", server.port());
        let done = Rc::new(Cell::new(0));
        let count = done.clone();
        glib::MainContext::ref_thread_default().spawn_local(async move {
            for _ in 0..1000 {
                let socket = Socket::connect_future(&*address).await.unwrap();
                socket.sendline("STARTTLS").unwrap();
                assert_eq!(socket.recv_line_future().await.unwrap(), "go ahead");
                socket.start_tls_future(ClientTls::danger_accept_any()).await.unwrap();
                socket.sendline("hello").unwrap();
                assert_eq!(socket.recv_line_future().await.unwrap(), "hello");
                count.set(count.get() + 1);
            }
        });
        for hundred in 1..=10 {
            until(|| done.get() >= hundred * 100);
        }
        assert!(server.is_open());
    });
}

#[test]
fn a_half_close_waits_for_the_handshake() {
    on_own_context(|| {
        for (kind, client, served) in pairs() {
            let (ours, theirs) = roles();
            let heard = log_lines(&served);
            let end = log_end(&served);
            let one = start(&client, ours);
            client.sendline("all I have to say").unwrap();
            client.shutdown_write().unwrap();
            let other = start(&served, theirs);
            result(&one).unwrap();
            result(&other).unwrap();
            until(|| end.len() == 1);
            assert_eq!(
                (heard.all(), end.all()[0].0.as_str()),
                (vec!["all I have to say".into()], "closed by the peer"),
                "{kind}"
            );
        }
    });
}

#[test]
fn the_handshake_keeps_the_connection_open() {
    on_own_context(|| {
        let (one, other) = UnixStream::pair().unwrap();
        let (ours, theirs) = roles();
        let served = Socket::from_fd(other).unwrap();
        let heard = log_lines(&served);
        let client = Socket::from_fd(one).unwrap();
        client.start_tls_async(ours, Cancellable::NONE, |socket, result| {
            result.unwrap();
            socket.sendline("hello").unwrap();
        });
        drop(client);
        let end = log_end(&served);
        result(&start(&served, theirs)).unwrap();
        until(|| heard.len() == 1 && end.len() == 1);
    });
}

#[test]
fn a_panic_in_the_callback_aborts_the_connection() {
    on_own_context(|| {
        let joined = join(Kind::Tcp);
        let (ours, theirs) = roles();
        joined.client.start_tls_async(ours, Cancellable::NONE, |_, _| panic!("of the program"));
        let other = start(&joined.served, theirs);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| until(|| !joined.client.is_open())));
        assert!(panicked.is_err());
        let _ = result(&other);
    });
}

#[test]
fn the_builders_tls_holds_for_descriptors_too() {
    on_own_context(|| {
        let (one, other) = UnixStream::pair().unwrap();
        let trust = ClientTls::danger_accept_any().server_name("localhost");
        let client = Socket::builder().tls(trust).from_fd(one).unwrap();
        client.sendline("hello").unwrap();
        let served = Socket::from_fd(other).unwrap();
        let heard = log_lines(&served);
        result(&start(&served, serves())).unwrap();
        until(|| heard.len() == 1);

        let (one, _other) = UnixStream::pair().unwrap();
        assert!(matches!(Socket::builder().tls(true).from_fd(one), Err(Error::Unsupported(_))));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(matches!(Socket::builder().tls(true).from_fd(stream), Err(Error::TlsSettings(_))));
    });
}

#[test]
fn connections_of_one_prepared_value_resume_sessions() {
    on_own_context(|| {
        let tls = serves().prepared().unwrap();
        let resumed = [(); 2].map(|()| {
            let (one, other) = UnixStream::pair().unwrap();
            let (client, served) = (Socket::from_fd(one).unwrap(), Socket::from_fd(other).unwrap());
            let (one, other) = (start(&client, roles().0), start(&served, tls.clone()));
            result(&one).unwrap();
            result(&other).unwrap();
            // The tickets come after the handshake.
            let lines = log_lines(&client);
            served.sendline("hello").unwrap();
            until(|| lines.len() == 1);
            client.is_tls_resumed()
        });
        assert_eq!(resumed, [false, true]);
    });
}

#[test]
fn nothing_goes_past_tls_with_a_descriptor() {
    on_own_context(|| {
        let (one, other) = UnixStream::pair().unwrap();
        let (client, served) = (Socket::from_fd(one).unwrap(), Socket::builder().accept_fds(1).from_fd(other).unwrap());
        let (one, other) = (start(&client, roles().0), start(&served, roles().1));
        let during = client.send_fd("in the clear", std::io::stdin()).unwrap_err();
        result(&one).unwrap();
        result(&other).unwrap();
        let after = client.send_fd("in the clear", std::io::stdin()).unwrap_err();
        for error in [during, after] {
            assert!(matches!(&error, Error::Unsupported(_)), "{error}");
        }
        assert!(client.is_open() && served.take_fds().is_empty());
    });
}

#[test]
fn one_that_is_closed_in_a_callback_is_told_and_let_go_of() {
    on_own_context(|| {
        for raw in [true, false] {
            let (one, other) = UnixStream::pair().unwrap();
            // Descriptors may come, so nothing goes the short way.
            let socket = Socket::builder().accept_fds(1).from_fd(one).unwrap();
            let log = Log::<String>::new();
            let (end, done) = (log.clone(), log.clone());
            socket.disconnect_cb(move |_, _| end.add("end"));
            let begin = move |socket: &Socket| {
                let done = done.clone();
                socket.start_tls_async(roles().1, Cancellable::NONE, move |_, result| {
                    assert!(matches!(result, Err(Error::Closed { .. })), "{result:?}");
                    done.add("done");
                });
                socket.close();
            };
            if raw {
                let _none = socket.rawread(move |socket| {
                    socket.recv(10)?;
                    begin(socket);
                    Ok(())
                });
            } else {
                socket.readlines(move |socket, _| {
                    begin(socket);
                    Ok(())
                });
            }
            let weak = socket.downgrade();
            drop(socket);
            (&other).write_all(b"go\n").unwrap();
            until(|| log.len() == 2);
            assert_eq!(log.all(), ["done", "end"], "raw: {raw}");
            until(|| weak.upgrade().is_none());
        }
    });
}

#[test]
fn what_a_failed_handshake_has_lost_was_not_flushed() {
    on_own_context(|| {
        let (socket, peer) = to_a_stranger();
        let outcome = start(&socket, roles().0);
        socket.sendline("secret").unwrap();
        let flushed = Log::<bool>::new();
        let log = flushed.clone();
        socket.flush_async(move |result| log.add(result.is_ok()));
        (&peer).write_all(b"no such command\r\n").unwrap();
        let error = result(&outcome).unwrap_err();
        assert!(error.to_string().ends_with("sent plaintext where the TLS handshake was to begin"), "{error}");
        until(|| flushed.len() == 1);
        assert_eq!(flushed.all(), [false]);
    });
}

#[test]
fn a_handler_of_the_cancellable_may_end_the_connection() {
    on_own_context(|| {
        let (socket, _peer) = to_a_stranger();
        let (cancellable, log) = (Cancellable::new(), Log::<String>::new());
        let ended = socket.clone();
        cancellable.connect_cancelled_local(move |_| drop(ended.abort()));
        let done = log.clone();
        socket
            .start_tls_async(roles().0, Some(&cancellable), move |_, result| done.add(result.unwrap_err().to_string()));
        cancellable.cancel();
        until(|| log.len() == 1);
        assert!(log.all()[0].contains("closed"), "{:?}", log.all());
    });
}

#[test]
fn a_blocking_call_waits_no_longer_than_the_handshake_may_take() {
    on_own_context(|| {
        let (one, _other) = UnixStream::pair().unwrap();
        let trust = ClientTls::danger_accept_any().server_name("localhost");
        let builder = Socket::builder().tls(trust).handshake_timeout(Duration::from_millis(50));
        let socket = builder.from_fd(one).unwrap();
        let error = socket.recv_line().unwrap_err();
        assert!(matches!(&error, Error::TimedOut { .. }), "{error}");
        assert!(!socket.is_open());
    });
}
