//! Servers whose clients are asked for.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread::JoinHandle;
use std::time::Duration;

use network::{Error, Server, Socket};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::util::*;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

fn bound(kind: Kind) -> (Server, String) {
    let server = server(kind).timeout(LONG).bind(listen_address(kind).as_str()).unwrap();
    server.set_accept_timeout(LONG);
    let address = address_of(&server, kind);
    (server, address)
}

/// A client with a thread, and a context, of its own.
fn beside<R: Send + 'static>(
    kind: Kind,
    address: &str,
    then: impl FnOnce(Socket) -> R + Send + 'static,
) -> JoinHandle<R> {
    let address = address.to_owned();
    std::thread::spawn(move || on_own_context(|| then(client(kind).timeout(LONG).connect(address.as_str()).unwrap())))
}

#[test]
fn clients_are_accepted_one_by_one_without_a_loop() {
    for_each_kind(|kind| {
        let (server, address) = bound(kind);
        for round in 0..3 {
            let client = beside(kind, &address, move |socket| {
                socket.sendline(format!("question {round}")).unwrap();
                socket.recv_line().unwrap()
            });
            let socket = server.accept().unwrap();
            assert_eq!(socket.is_tls(), kind == Kind::Tls);
            assert_eq!(server.connections(), std::slice::from_ref(&socket));
            assert_eq!(socket.recv_line().unwrap(), format!("question {round}"));
            socket.sendline("answer").unwrap();
            assert_eq!(client.join().unwrap(), "answer");
        }
    });
}

#[test]
fn what_is_accepted_closes_with_its_last_handle_and_not_with_the_server() {
    for_each_kind(|kind| {
        let (server, address) = bound(kind);
        let client = beside(kind, &address, |socket| socket.recv(1));
        drop(server.accept().unwrap());
        assert!(matches!(client.join().unwrap(), Err(Error::Closed { .. })));
        assert!(server.connections().is_empty());

        let client = beside(kind, &address, |socket| socket.recv_line());
        let socket = server.accept().unwrap();
        server.close();
        drop(server);
        socket.sendline("still here").unwrap();
        assert_eq!(client.join().unwrap().unwrap(), "still here");
    });
}

#[test]
fn the_time_out_bounds_the_wait_and_zero_does_not_wait() {
    for_each_kind(|kind| {
        let (server, _) = bound(kind);
        server.set_accept_timeout(Duration::from_millis(20));
        assert!(matches!(server.accept(), Err(Error::TimedOut { .. })));
        server.set_accept_timeout(Duration::ZERO);
        let error = server.accept().unwrap_err();
        assert!(matches!(error, Error::NotReady { .. }), "{error}");
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::WouldBlock);
    });
}

#[test]
fn a_time_out_longer_than_all_time_is_without_end() {
    for_each_kind(|kind| {
        let server = server(kind).handshake_timeout(Duration::MAX).bind(listen_address(kind).as_str()).unwrap();
        server.set_accept_timeout(Duration::MAX);
        let address = address_of(&server, kind);
        let client = beside(kind, &address, |socket| socket.sendline("hello").unwrap());
        let socket = server.accept().unwrap();
        assert_eq!(socket.recv_line().unwrap(), "hello");
        client.join().unwrap();
        // The time in which nobody served handshakes is added to what they have left.
        server.set_accept_timeout(Duration::ZERO);
        for _ in 0..3 {
            assert!(matches!(server.accept(), Err(Error::NotReady { .. })));
        }
    });
}

#[test]
fn a_closed_server_says_so() {
    on_own_context(|| {
        let (server, _) = bound(Kind::Tcp);
        server.close();
        assert!(matches!(server.accept(), Err(Error::Closed { .. })));
    });
}

#[test]
fn a_server_with_a_callback_is_not_asked() {
    on_own_context(|| {
        let (server, _) = serve(Kind::Tcp, |_| Ok(()));
        let error = server.accept().unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)) && error.to_string().contains("Server::bind"), "{error}");
    });
}

#[test]
fn a_silent_client_holds_up_nobody() {
    on_own_context(|| {
        let (server, address) = bound(Kind::Tls);
        let mut silent = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        let client = beside(Kind::Tls, &address, |socket| socket.recv_line().unwrap());
        let socket = server.accept().unwrap();
        socket.sendline("you first").unwrap();
        assert_eq!(client.join().unwrap(), "you first");
        // It is still welcome, if it comes round.
        silent.write_all(b"this is no handshake\n").unwrap();
        let client = beside(Kind::Tls, &address, |socket| socket.recv_line().unwrap());
        server.accept().unwrap().sendline("you next").unwrap();
        assert_eq!(client.join().unwrap(), "you next");
        // The alert that says what was wrong, then the end.
        silent.read_to_end(&mut Vec::new()).unwrap();
    });
}

#[test]
fn a_hand_shake_that_takes_too_long_is_given_up() {
    on_own_context(|| {
        let limit = Duration::from_millis(50);
        let server = server(Kind::Tls).handshake_timeout(limit).bind(0).unwrap();
        let mut silent = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        silent.set_read_timeout(Some(LONG)).unwrap();
        server.set_accept_timeout(Duration::from_millis(500));
        assert!(matches!(server.accept(), Err(Error::TimedOut { .. })));
        let mut word = Vec::new();
        silent.read_to_end(&mut word).unwrap();
        assert!(word.len() < 64, "more than an alert came: {word:?}");
        // A half-closed connection would swallow this until its buffer is full.
        silent.set_write_timeout(Some(LONG)).unwrap();
        let refused = (0..1000).map(|_| silent.write_all(&[0; 1 << 16])).find_map(Result::err).expect("a closed peer");
        assert!(matches!(refused.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{refused}");
    });
}

#[test]
fn nobody_is_accepted_who_was_not_asked_for() {
    on_own_context(|| {
        let path = fresh_path("backlog");
        let server = Server::builder().backlog(1).bind(path.as_path()).unwrap();
        let address = SocketAddrUnix::new(&path).unwrap();
        let knock = || {
            let flags = SocketFlags::NONBLOCK;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
            rustix::net::connect(&socket, &address).map(|()| socket).ok()
        };
        let mut clients = Vec::new();
        while let Some(client) = knock() {
            clients.push(client);
            assert!(clients.len() < 10, "the backlog has no end");
        }
        settle();
        assert!(knock().is_none(), "the loop has accepted somebody");
        assert!(server.connections().is_empty());
        let _one = server.accept().unwrap();
        clients.push(knock().expect("there is room for one more"));
        assert!(knock().is_none());
    });
}

#[test]
fn more_connections_than_allowed_are_an_error_and_wait() {
    for_each_kind(|kind| {
        let server = server(kind).max_connections(1).bind(listen_address(kind).as_str()).unwrap();
        server.set_accept_timeout(LONG);
        let address = match kind {
            Kind::Unix => server.local()[0].to_string(),
            _ => format!("{}://localhost:{}", if kind == Kind::Tls { "tls" } else { "tcp" }, server.port()),
        };
        let clients = [0, 1].map(|_| beside(kind, &address, |socket| socket.recv_line().unwrap()));
        let one = server.accept().unwrap();
        let error = server.accept().unwrap_err();
        assert!(error.to_string().contains("1 connection is open, which is the maximum"), "{error}");
        one.sendline("first").unwrap();
        drop(one);
        server.accept().unwrap().sendline("second").unwrap();
        let mut answers = clients.map(|client| client.join().unwrap());
        answers.sort();
        assert_eq!(answers, ["first", "second"]);
    });
}

#[test]
fn accepting_within_a_callback_waits_and_calls_nobody() {
    for_each_kind(|kind| {
        let (server, address) = bound(kind);
        let Joined { client: asker, served, .. } = join(Kind::Unix);
        let log = log_lines(&asker);
        let done = Log::<String>::new();
        let seen = done.clone();
        served.readlines(move |_, line| {
            let client = beside(kind, &address, |socket| socket.sendline("hello").unwrap());
            let socket = server.accept()?;
            seen.add(format!("{line}: {}", socket.recv_line()?));
            client.join().unwrap();
            Ok(())
        });
        served.sendline("meanwhile").unwrap();
        asker.sendline("asked").unwrap();
        until(|| done.len() == 1 && log.len() == 1);
        assert_eq!(done.all(), ["asked: hello"]);
    });
}
