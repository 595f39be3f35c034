//! SIGINT and SIGTERM while a callback waits in a blocking call: the call fails, and the loop ends as it does otherwise.

mod common;

use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;

use common::*;
use network::{Error, Result, Selector, Server, Socket, UdpSocket};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Signal;

/// Says in a child of the test which call it is to wait in.
const CALL: &str = "NETWORK_TEST_WAIT_IN";

/// A socket whose peer says nothing and reads nothing.
fn with_silent() -> (Socket, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Socket::from_fd(ours).unwrap(), theirs)
}

/// Waits, without end.
fn wait_in(call: &str) -> Result {
    let (socket, _theirs) = with_silent();
    match call {
        "recv" => drop(socket.recv(1)?),
        "recv_line" => drop(socket.recv_line()?),
        "flush" => {
            socket.send(vec![0; 8 << 20])?;
            socket.flush()?;
        }
        "accept" => drop(Server::builder().tls(false).bind(0)?.accept()?),
        "connect" => {
            let directory = TempDir::new();
            let path = directory.path("full");
            let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
            let address = SocketAddrUnix::new(&path).unwrap();
            rustix::net::bind(&listener, &address).unwrap();
            rustix::net::listen(&listener, 0).unwrap();
            let mut held = Vec::new();
            loop {
                let flags = SocketFlags::NONBLOCK;
                let client = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
                if rustix::net::connect(&client, &address).is_err() {
                    break;
                }
                held.push(client);
            }
            Socket::connect(path.as_path())?;
        }
        "handshake" => {
            let silent = TcpListener::bind("127.0.0.1:0")?;
            Socket::builder().connect_timeout(LIMIT).handshake_timeout(LIMIT).connect(silent.local_addr()?)?;
        }
        "recv_from" => drop(UdpSocket::bind(0)?.recv_from(1)?),
        "select" => {
            let selector = Selector::new();
            selector.add(&socket);
            selector.wait(None)?;
        }
        "public_address" => {
            let silent = std::net::UdpSocket::bind("127.0.0.1:0")?;
            network::names::public_address([format!("stun:{}", silent.local_addr()?)], LIMIT)?;
        }
        other => panic!("{other}?"),
    }
    Ok(())
}

fn child(call: String) {
    on_own_context(|| {
        let directory = TempDir::new();
        let path = directory.path("server");
        // Closed by the signal, as ever.
        let _server = Server::new(path.as_path(), |_| Ok(())).unwrap();
        let (waiting, theirs) = with_silent();
        let call_again = call.clone();
        waiting.readlines(move |_, _| {
            eprintln!("waiting in {call}");
            let error = wait_in(&call).unwrap_err();
            assert!(matches!(error, Error::Io { .. }) && error.kind() == ErrorKind::Interrupted, "{error}");
            // And so does every other, until the loop has ended.
            assert_eq!(wait_in(&call).unwrap_err().kind(), ErrorKind::Interrupted);
            eprintln!("interrupted: {error}");
            Ok(())
        });
        std::io::Write::write_all(&mut &theirs, b"go\n").unwrap();
        network::fgloop();
        assert!(!path.exists(), "the server is still there");
        eprintln!("the loop has ended");
        // Outside of a loop nobody has said that anything should end.
        let (socket, _theirs) = with_silent();
        socket.set_timeout(std::time::Duration::from_millis(1));
        assert!(matches!(socket.recv(1), Err(Error::TimedOut { .. })), "after {call_again}");
    });
}

#[track_caller]
fn check(name: &str, call: &str) {
    if let Ok(call) = std::env::var(CALL) {
        return child(call);
    }
    for signal in [Signal::TERM, Signal::INT] {
        let mut again = command(std::env::current_exe().unwrap(), ["--exact", name, "--nocapture"]);
        let mut again = Process::start(again.env(CALL, call), Watch::Stderr);
        again.line_with("waiting in");
        again.signal(signal);
        again.line_with("interrupted:");
        again.line_with("the loop has ended");
        let outcome = again.await_end();
        assert!(outcome.status.success(), "{outcome:?}");
    }
}

macro_rules! calls {
    ($($name:ident: $call:literal;)*) => {
        $(
            #[test]
            fn $name() {
                check(stringify!($name), $call);
            }
        )*
    };
}

calls! {
    a_signal_ends_recv: "recv";
    a_signal_ends_recv_line: "recv_line";
    a_signal_ends_flush: "flush";
    a_signal_ends_accept: "accept";
    a_signal_ends_connect: "connect";
    a_signal_ends_a_hand_shake: "handshake";
    a_signal_ends_recv_from: "recv_from";
    a_signal_ends_a_selector: "select";
    a_signal_ends_public_address: "public_address";
}
