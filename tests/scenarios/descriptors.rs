//! Sockets made of other things, and made into other things.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use gio::prelude::*;
use network::{Endpoint, Error, Socket};
use rustix::fs::OFlags;

use crate::util::*;

fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}

fn null() -> File {
    File::options().read(true).write(true).open("/dev/null").unwrap()
}

#[test]
fn two_pipes_make_a_socket() {
    on_own_context(|| {
        let (input, far_output) = pipe();
        let (far_input, output) = pipe();
        let socket = Socket::wrap(input, output).unwrap();
        assert_eq!(socket.remote(), Endpoint::Descriptor);
        let lines = log_lines(&socket);
        let ends = log_end(&socket);
        let mut far_output = File::from(far_output);
        far_output.write_all(b"one\ntwo\nrest").unwrap();
        until(|| lines.len() == 2);
        socket.sendline("hello").unwrap();
        let mut buffer = [0; 6];
        File::from(far_input.try_clone().unwrap()).read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"hello\n");
        drop(far_output);
        until(|| ends.len() == 1);
        assert_eq!(ends.all(), [("closed by the peer".into(), b"rest".to_vec())]);
        assert_eq!(File::from(far_input).read(&mut buffer).unwrap(), 0, "its own end is closed as well");
    });
}

#[test]
fn the_mode_of_descriptors_is_left_alone() {
    on_own_context(|| {
        let (input, far_output) = pipe();
        let (far_input, output) = pipe();
        let (shared_input, shared_output) = (input.try_clone().unwrap(), output.try_clone().unwrap());
        let socket = Socket::wrap(input, output).unwrap();
        socket.read(|_, _| Ok(()));
        socket.send("x").unwrap();
        settle();
        for fd in [&shared_input, &shared_output] {
            assert!(!rustix::fs::fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK));
        }
        drop((far_output, far_input));
    });
}

#[test]
fn a_slow_pipe_gets_everything() {
    for nonblocking in [false, true] {
        on_own_context(|| {
            let (far_input, output) = pipe();
            if nonblocking {
                rustix::fs::fcntl_setfl(&output, OFlags::NONBLOCK).unwrap();
            }
            let socket = Socket::wrap(null(), output).unwrap();
            let sent = pattern(3 << 20);
            socket.send(&sent).unwrap();
            let reader = std::thread::spawn(move || {
                let mut all = Vec::new();
                File::from(far_input).read_to_end(&mut all).unwrap();
                all
            });
            socket.shutdown_write().unwrap();
            until(|| socket.queued() == 0);
            assert!(reader.join().unwrap() == sent);
        });
    }
}

#[test]
fn a_broken_pipe_is_the_end_and_no_signal() {
    on_own_context(|| {
        let (input, far_output) = pipe();
        let (far_input, output) = pipe();
        let socket = Socket::wrap(input, output).unwrap();
        let ends = log_end(&socket);
        socket.read(|_, _| Ok(()));
        settle();
        drop(far_input);
        until(|| ends.len() == 1);
        assert!(matches!(socket.send("x"), Err(Error::Closed { .. })));
        drop(far_output);
    });
}

#[test]
fn regular_files_are_read_to_their_end() {
    on_own_context(|| {
        let (path, copy) = (fresh_path("file"), fresh_path("copy"));
        let content: Vec<u8> = (0..50_000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        std::fs::write(&path, &content).unwrap();
        let socket = Socket::wrap(File::open(&path).unwrap(), File::create(&copy).unwrap()).unwrap();
        let ends = log_end(&socket);
        let lines = Log::<()>::new();
        let count = lines.clone();
        socket.readlines(move |socket, line| {
            count.add(());
            socket.sendline(line)
        });
        until(|| ends.len() == 1);
        assert_eq!(lines.len(), 50_000);
        drop(socket);
        settle();
        assert!(std::fs::read(&copy).unwrap() == content);
        std::fs::remove_file(path).unwrap();
        std::fs::remove_file(copy).unwrap();
    });
}

#[test]
fn dev_null_is_at_its_end() {
    on_own_context(|| {
        let socket = Socket::wrap(null(), null()).unwrap();
        let ends = log_end(&socket);
        socket.readlines(|_, _| Ok(()));
        socket.sendline("into the void").unwrap();
        until(|| ends.len() == 1);
    });
}

#[test]
fn a_terminal_gives_line_after_line() {
    on_own_context(|| {
        let master = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
        rustix::pty::grantpt(&master).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
        let terminal = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let socket = Socket::from_fd(terminal).unwrap();
        let lines = log_lines(&socket);
        let ends = log_end(&socket);
        let mut master = File::from(master);
        // One read of a terminal gives one line, however many wait.
        master.write_all(b"one\ntwo\nthree\n").unwrap();
        until(|| lines.len() == 3);
        master.write_all(b"four\n").unwrap();
        until(|| lines.len() == 4);
        socket.sendline("hello").unwrap();
        let mut seen = String::new();
        while !seen.contains("hello") {
            let mut buffer = [0; 200];
            let count = master.read(&mut buffer).unwrap();
            seen.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }
        drop(master);
        until(|| ends.len() == 1);
    });
}

#[test]
fn sockets_of_std_come_and_go() {
    on_own_context(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        let socket = Socket::try_from(ours).unwrap();
        let lines = log_lines(&socket);
        theirs.write_all(b"one\nleft").unwrap();
        until(|| lines.len() == 1);
        assert!(matches!(socket.clone().into_unix(), Err(Error::Unsupported(_))));
        let other = socket.clone();
        let (mut stream, leftover) = socket.into_tcp().unwrap();
        assert_eq!(leftover, b"left");
        assert!(!other.is_open());
        theirs.write_all(b"more").unwrap();
        let mut buffer = [0; 4];
        stream.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"more");
    });
}

#[test]
fn sockets_of_gio_come_and_go() {
    on_own_context(|| {
        let (server, address) = serve(Kind::Unix, |socket| {
            socket.readlines(|socket, line| socket.sendline(line));
            Ok(())
        });
        let client = connect(&address);
        let (foreign, leftover) = client.into_gio().unwrap();
        assert!(leftover.is_empty() && foreign.is_connected());
        let client = Socket::from_gio(&foreign).unwrap();
        drop(foreign);
        let lines = log_lines(&client);
        client.sendline("round trip").unwrap();
        until(|| lines.len() == 1);
        drop(server);
    });
}

#[test]
fn a_datagram_socket_is_no_stream() {
    on_own_context(|| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let error = Socket::from_fd(socket).unwrap_err();
        assert!(error.to_string().contains("stream"), "{error}");
    });
}

#[test]
fn the_descriptor_is_there_to_look_at_even_after_the_end() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let number = client.as_raw_fd();
        assert!(rustix::net::getpeername(client.as_fd()).is_ok());
        let _ = client.abort();
        assert_eq!(client.as_raw_fd(), number);
        assert!(rustix::net::getpeername(client.as_fd()).is_err(), "what it was is closed");
        let ends = log_end(&served);
        until(|| ends.len() == 1);
    });
}
