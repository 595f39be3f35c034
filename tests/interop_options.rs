//! Descriptors and credentials over unix sockets, and options that the other end can see, with Python's socket module as
//! the peer.

mod common;

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use common::{LIMIT, Process, TempDir, Watch, command, on_own_context, run, tool};
use network::{Server, Socket, socket::KeepAlive};

/// Passes a descriptor with five bytes, reads through the one that it is given, and says who it is and whom it sees.
const CLIENT: &str = r#"
import os, socket, struct, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
print("I am", os.getpid(), os.getuid(), os.getgid(), flush = True)
print("I see", *struct.unpack("3i", s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)), flush = True)
r, w = os.pipe()
os.write(w, b"through Python's pipe")
os.close(w)
socket.send_fds(s, [b"take\n"], [r])
data, fds, flags, address = socket.recv_fds(s, 100, 10)
print("got", data.decode().strip(), len(fds), *[os.read(fd, 100).decode() for fd in fds], flush = True)
"#;

/// Serves one client, and prints what it hears.
const SERVER: &str = r#"
import socket
s = socket.socket()
s.bind(("127.0.0.1", 0))
s.listen()
print("port", s.getsockname()[1], flush = True)
c, address = s.accept()
print("from", address[0], flush = True)
print("said", c.recv(100).decode().strip(), flush = True)
c.sendall(b"first\n\x00\x03abcrest")
c.shutdown(socket.SHUT_WR)
print("then", c.makefile("rb").read(), flush = True)
"#;

fn python(program: &str, arguments: &[&str]) -> Process {
    Process::start(tool("/usr/bin/python3").args(["-c", program]).args(arguments), Watch::Stdout)
}

#[test]
fn descriptors_and_credentials_go_both_ways() {
    on_own_context(|| {
        let directory = TempDir::new();
        let path = directory.address("socket");
        let server = Server::builder().accept_fds(4).timeout(LIMIT).bind(path.as_str()).unwrap();
        server.set_accept_timeout(LIMIT);
        let mut client = python(CLIENT, &[&path]);
        let socket = server.accept().unwrap();
        let seen = socket.peer_credentials().unwrap();
        assert_eq!(client.line(), format!("I am {} {} {}", seen.pid.unwrap(), seen.uid, seen.gid));
        assert_eq!(seen.pid, u32::try_from(client.id()).ok());
        assert_eq!(client.line(), format!("I see {} {} {}", std::process::id(), seen.uid, seen.gid));

        let file = File::from(socket.recv_fd().unwrap());
        assert_eq!(socket.recv_line().unwrap(), "take");
        assert_eq!(std::io::read_to_string(file).unwrap(), "through Python's pipe");

        let (one, mut first) = std::io::pipe().unwrap();
        let (two, mut second) = std::io::pipe().unwrap();
        first.write_all(b"Rust's").unwrap();
        second.write_all(b"too").unwrap();
        use std::os::fd::AsFd;
        socket.send_fds("two\n", &[one.as_fd(), two.as_fd()]).unwrap();
        assert_eq!(client.line(), "got two 2 Rust's too");
        client.await_end().assert_clean();
    });
}

#[test]
fn a_script_in_python_is_spoken_to_by_blocking_calls() {
    on_own_context(|| {
        let mut server = python(SERVER, &[]);
        let port = server.port("port");
        let socket = Socket::builder()
            .tls(false)
            .timeout(LIMIT)
            .source(std::net::Ipv4Addr::new(127, 9, 8, 7))
            .keep_alive(KeepAlive { idle: Duration::from_secs(30), ..KeepAlive::default() })
            .connect(("127.0.0.1", port))
            .unwrap();
        assert_eq!(server.line(), "from 127.9.8.7");
        assert_eq!(socket.send_some("hello\n").unwrap(), 6);
        assert_eq!(server.line(), "said hello");
        assert_eq!(socket.recv_line().unwrap(), "first");
        let length = socket.recv_exact(2).unwrap();
        assert_eq!(socket.recv_exact(length[1].into()).unwrap(), b"abc");
        assert_eq!(socket.recv_to_end(100).unwrap(), b"rest");
        socket.send("the last words").unwrap();
        socket.shutdown_write().unwrap();
        assert_eq!(server.line(), "then b'the last words'");
        server.await_end().assert_clean();
    });
}

/// `ss` tells what the system has set, whatever our own calls say.
#[test]
fn the_system_has_what_was_set() {
    on_own_context(|| {
        let keep_alive = KeepAlive { idle: Duration::from_secs(100), ..KeepAlive::default() };
        let server = Server::builder().tls(false).address("127.0.0.1").keep_alive(keep_alive).bind(0).unwrap();
        let client = Socket::builder().tls(false).connect(("127.0.0.1", server.port())).unwrap();
        let _socket = server.accept().unwrap();
        let filter = format!("( sport = :{} )", server.port());
        let told = run(&mut command("ss", ["-tnoH", "state", "established", &filter]), "");
        assert!(told.text().contains("timer:(keepalive,1min"), "{}", told.text());
        drop(client);
    });
}
