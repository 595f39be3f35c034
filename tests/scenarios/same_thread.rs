//! Blocking calls without a timeout on connections whose other end is in the same thread: what is on its way comes, and what
//! only the thread itself could send is an error, not a wait without end.

use std::os::unix::net::UnixStream;
use std::sync::mpsc;

use network::{Error, Server, Socket};

use crate::util::*;

/// Runs a scenario that would never end if the fault were there.
fn ends(scenario: impl FnOnce() + Send + 'static) {
    let (done, result) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        on_own_context(scenario);
        done.send(()).unwrap();
    });
    match result.recv_timeout(crate::common::LIMIT) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("a blocking call waits for its own thread"),
        _ => thread.join().unwrap(),
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: network::Result<T>) {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Unsupported(_)), "{error:?}");
    assert!(error.to_string().contains("in this thread") && error.to_string().contains("timeout"), "{error}");
}

/// Every call that waits for input.
fn receives(socket: &Socket) {
    refused(socket.recv(10));
    refused(socket.recv_line());
    refused(socket.recv_exact(1));
    refused(socket.recv_until(b"x"));
    refused(socket.recv_to_end(10));
    refused(socket.recv_into(&mut [0; 1]));
    let error = std::io::Read::read(&mut &*socket, &mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
}

/// Two sockets of this thread that are joined.
fn pair() -> (Socket, Socket) {
    let (one, other) = UnixStream::pair().unwrap();
    (Socket::from_fd(one).unwrap(), Socket::from_fd(other).unwrap())
}

/// The same over TCP.
fn tcp_pair() -> (Socket, Socket) {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let one = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (Socket::from_fd(one).unwrap(), Socket::from_fd(listener.accept().unwrap().0).unwrap())
}

const PAIRS: [fn() -> (Socket, Socket); 2] = [pair, tcp_pair];

#[test]
fn a_server_of_this_thread_is_not_waited_for() {
    ends(|| {
        for kind in [Kind::Tcp, Kind::Unix] {
            let (server, address) = serve(kind, |socket| {
                socket.readlines(|socket, line| socket.sendline(line));
                Ok(())
            });
            let client = client(kind).connect(address.as_str()).unwrap();
            client.sendline("hello").unwrap();
            assert_eq!(server.connections().len(), 0, "it waits to be accepted");
            receives(&client);
            until(|| server.connections().len() == 1);
            refused(client.recv_exact(100));
            let lines = log_lines(&client);
            until(|| lines.len() == 1);
            assert_eq!(lines.all(), ["hello"], "the connection goes on");
        }
    });
}

#[test]
fn a_socket_of_this_thread_is_not_waited_for() {
    ends(|| {
        for kind in KINDS {
            let Joined { client, served, server: _server } = join(kind);
            receives(&client);
            receives(&served);
            client.sendline("one").unwrap();
            assert_eq!(served.recv_line().unwrap(), "one");
            refused(served.recv_line());
        }
    });
}

#[test]
fn one_of_another_context_of_this_thread_is_not_waited_for_either() {
    ends(|| {
        let (one, other) = UnixStream::pair().unwrap();
        let one = Socket::from_fd(one).unwrap();
        on_own_context(|| {
            let other = Socket::from_fd(other).unwrap();
            refused(one.recv_line());
            refused(other.recv_line());
        });
    });
}

#[test]
fn one_that_comes_into_this_thread_later_is_found() {
    ends(|| {
        let (one, mut other) = UnixStream::pair().unwrap();
        let one = Socket::from_fd(one).unwrap();
        std::io::Write::write_all(&mut other, b"first\n").unwrap();
        assert_eq!(one.recv_line().unwrap(), "first");
        let _other = Socket::from_fd(other).unwrap();
        refused(one.recv_line());
    });
}

#[test]
fn all_that_a_socket_of_this_thread_has_sent_comes() {
    const SIZE: usize = 12 << 20;
    ends(|| {
        for pair in PAIRS {
            let (one, other) = pair();
            let sent = pattern(SIZE);
            one.send(&sent).unwrap();
            assert!(one.queued() > 0, "no loop runs that would send it");
            assert!(other.recv_exact(SIZE).unwrap() == sent);
            refused(other.recv(1));
            one.send(&sent).unwrap();
            one.shutdown_write().unwrap();
            assert!(other.recv_to_end(SIZE).unwrap() == sent);
            other.send(&sent).unwrap();
            other.close();
            assert!(one.recv_to_end(SIZE).unwrap() == sent);
        }
        let Joined { client, served, server: _server } = join(Kind::Tls);
        let sent = pattern(SIZE);
        client.send(&sent).unwrap();
        client.close();
        assert!(served.recv_to_end(SIZE).unwrap() == sent);
    });
}

#[test]
fn room_that_a_socket_of_this_thread_does_not_make_is_not_waited_for() {
    ends(|| {
        for pair in PAIRS {
            let (one, other) = pair();
            let sent = pattern(12 << 20);
            one.send(&sent).unwrap();
            refused(one.flush());
            refused(one.send_some("more"));
            refused(one.recv_line());
            // And with both directions full.
            other.send(&sent).unwrap();
            refused(other.flush());
            assert!(one.recv_exact(sent.len()).unwrap() == sent);
            assert!(other.recv_exact(sent.len()).unwrap() == sent);
            one.flush().unwrap();
        }
    });
}

#[test]
fn a_timeout_counts_as_ever() {
    ends(|| {
        let (one, _other) = pair();
        one.set_timeout(std::time::Duration::from_millis(20));
        assert!(matches!(one.recv_line(), Err(Error::TimedOut { .. })));
        one.set_timeout(std::time::Duration::ZERO);
        assert!(matches!(one.recv_line(), Err(Error::NotReady { .. })));
    });
}

#[test]
fn a_callback_may_wait_for_other_threads_and_not_for_its_own() {
    ends(|| {
        let threads = Server::builder().tls(false).threads(2, || {
            |socket: Socket| {
                socket.readlines(|socket, line| socket.sendline(format!("{line} of a thread")));
                Ok(())
            }
        });
        let threads = threads.listen(("127.0.0.1", 0)).unwrap();
        let port = threads.port();
        let own = Server::builder().tls(false).listen(0, |socket| socket.sendline("of this thread")).unwrap();
        let own_port = own.port();
        let (one, other) = pair();
        let answers = Log::<String>::new();
        let told = answers.clone();
        one.readlines(move |_, line| {
            let plain = || Socket::builder().tls(false);
            let elsewhere = plain().connect(("127.0.0.1", port))?;
            elsewhere.sendline(line)?;
            told.add(elsewhere.recv_line()?);
            refused(plain().connect(own_port)?.recv_line());
            network::endloop();
            Ok(())
        });
        other.sendline("hello").unwrap();
        network::fgloop();
        assert_eq!(answers.all(), ["hello of a thread"]);
    });
}

#[test]
fn a_server_of_another_thread_at_the_same_path_or_port_is_waited_for() {
    ends(|| {
        let path = fresh_path("socket");
        let old = Server::new(path.as_path(), |_| Ok(())).unwrap();
        let _client = Socket::connect(path.as_path()).unwrap();
        until(|| old.connections().len() == 1);
        // What it has accepted lives on, and a client waits at a socket that nobody finds any more.
        std::fs::remove_file(&path).unwrap();
        let (ready, is_ready) = mpsc::channel();
        let (quit, quits) = mpsc::channel::<()>();
        let place = path.clone();
        let thread = std::thread::spawn(move || {
            on_own_context(|| {
                let _server = Server::new(place.as_path(), |socket| socket.sendline("of the new one")).unwrap();
                ready.send(()).unwrap();
                until(|| quits.try_recv().is_ok());
            });
        });
        is_ready.recv().unwrap();
        let client = Socket::connect(path.as_path()).unwrap();
        let line = client.recv_line();
        drop((client, quit.send(())));
        thread.join().unwrap();
        assert_eq!(line.unwrap(), "of the new one");
    });
}
