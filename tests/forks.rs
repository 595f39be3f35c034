//! Forks that the program makes itself: what the child has inherited is the parent's, and stays so however the child ends.

// For `fork`, of which there is no safe one.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use network::udp::MessageSocket;
use network::{ClientTls, Server, ServerTls, Socket};

fn until(what: impl Fn() -> bool) {
    let late = Instant::now() + Duration::from_secs(20);
    while !what() {
        assert!(Instant::now() < late, "what was waited for did not happen");
        network::fgloop_for(Duration::from_millis(5));
    }
}

/// Forks; the child does that and ends by `exit`, which runs the destructors of its thread.
fn in_child(what: impl FnOnce()) {
    // SAFETY: the child uses nothing that another thread may have locked but what glibc itself takes care of.
    match unsafe { libc::fork() } {
        0 => {
            what();
            // SAFETY: ends the process.
            unsafe { libc::exit(0) }
        }
        child => {
            assert!(child > 0);
            let mut status = 0;
            // SAFETY: waits for that child, with a valid place for its status.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            assert_eq!(status, 0, "the child did not end well");
        }
    }
}

/// A server of each kind, a connection to each, and what is asked of them after the fork.
struct World {
    directory: tempfile::TempDir,
    plain: Server,
    secure: Server,
    local: Server,
    client: Socket,
    peers: (TcpStream, UnixStream),
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let echo = |socket: Socket| {
            socket.readlines(|socket, line| socket.sendline(line));
            Ok(())
        };
        let tls = ServerTls::new().directory(directory.path());
        let plain = Server::builder().tls(false).listen(0, echo).unwrap();
        let secure = Server::builder().tls(tls).listen(0, echo).unwrap();
        let local = Server::builder().listen(path.as_path(), echo).unwrap();
        let client = Rc::new(RefCell::new(None));
        let place = client.clone();
        let builder = Socket::builder().tls(ClientTls::new().directory(directory.path()));
        builder.connect_async(format!("localhost:{}", secure.port()).as_str(), gio::Cancellable::NONE, move |result| {
            place.replace(Some(result.unwrap()));
        });
        until(|| client.borrow().is_some());
        let peers = (TcpStream::connect(("127.0.0.1", plain.port())).unwrap(), UnixStream::connect(&path).unwrap());
        until(|| [&plain, &secure, &local].iter().all(|server| server.connections().len() == 1));
        let client = client.take().unwrap();
        World { directory, plain, secure, local, client, peers }
    }

    /// Those that were connected are served, and so is who comes now.
    fn check(&self) {
        let lines = Rc::new(Cell::new(0));
        let count = lines.clone();
        self.client.readlines(move |_, line| {
            assert_eq!(line, "still there?");
            count.set(count.get() + 1);
            Ok(())
        });
        self.client.sendline("still there?").unwrap();
        until(|| lines.get() == 1);
        let path = self.directory.path().join("socket");
        assert!(path.exists(), "the path is gone");
        for peer in [self.peers.0.try_clone().unwrap(), TcpStream::connect(("127.0.0.1", self.plain.port())).unwrap()] {
            echoes(peer);
        }
        for peer in [self.peers.1.try_clone().unwrap(), UnixStream::connect(&path).unwrap()] {
            echoes(peer);
        }
        let secure = Socket::builder().tls(ClientTls::new().directory(self.directory.path()));
        let again = Rc::new(Cell::new(false));
        let seen = again.clone();
        secure.connect_async(
            format!("localhost:{}", self.secure.port()).as_str(),
            gio::Cancellable::NONE,
            move |result| {
                result.unwrap();
                seen.set(true);
            },
        );
        until(|| again.get());
        assert!(self.local.is_open() && self.plain.is_open() && self.secure.is_open());
    }
}

/// The line comes back, served by the loop of this thread.
fn echoes(peer: impl Read + Write + Send + 'static) {
    let mut peer = BufReader::new(peer);
    peer.get_mut().write_all(b"hello\n").unwrap();
    let thread = std::thread::spawn(move || {
        let mut line = String::new();
        peer.read_line(&mut line).unwrap();
        line
    });
    until(|| thread.is_finished());
    assert_eq!(thread.join().unwrap(), "hello\n");
}

fn on_own_context(scenario: impl FnOnce()) {
    glib::MainContext::new().with_thread_default(scenario).unwrap();
}

#[test]
fn a_child_that_ends_takes_nothing_from_its_parent() {
    on_own_context(|| {
        let world = World::new();
        in_child(|| ());
        world.check();
    });
}

#[test]
fn a_child_that_closes_what_it_has_inherited_closes_its_own_copies_only() {
    on_own_context(|| {
        let world = World::new();
        in_child(|| {
            world.client.close();
            world.secure.connections().iter().for_each(|socket| drop(socket.abort()));
            world.plain.connections().iter().for_each(|socket| drop(socket.close()));
            for server in [&world.plain, &world.secure, &world.local] {
                server.close();
            }
        });
        world.check();
    });
}

#[test]
fn a_child_made_in_a_callback_sends_nothing_of_what_its_parent_had_gathered() {
    on_own_context(|| {
        let (mut peer, other) = UnixStream::pair().unwrap();
        let socket = Socket::from_fd(other).unwrap();
        let child = Rc::new(Cell::new(0));
        let made = child.clone();
        socket.readlines(move |socket, line| {
            socket.sendline(line)?;
            // SAFETY: as in `in_child`. The child goes on with the loop, and ends when it has no more sockets.
            made.set(unsafe { libc::fork() });
            if made.get() == 0 {
                let quit = glib::timeout_source_new(Duration::from_millis(50), None, glib::Priority::LOW, || {
                    // SAFETY: ends the process.
                    unsafe { libc::exit(0) }
                });
                quit.attach(Some(&glib::MainContext::ref_thread_default()));
            }
            Ok(())
        });
        peer.write_all(b"once\n").unwrap();
        let status = Cell::new(0);
        until(|| {
            // Those of other tests are theirs to ask for.
            // SAFETY: asks for that child, with a valid place for its status.
            child.get() > 0 && unsafe { libc::waitpid(child.get(), status.as_ptr(), libc::WNOHANG) > 0 }
        });
        assert_eq!(status.get(), 0, "the child did not end well");
        socket.close();
        let mut all = String::new();
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        let thread = std::thread::spawn(move || {
            peer.read_to_string(&mut all).unwrap();
            all
        });
        until(|| thread.is_finished());
        assert_eq!(thread.join().unwrap(), "once\n");
    });
}

#[test]
fn a_child_may_use_the_network_for_itself() {
    on_own_context(|| {
        let world = World::new();
        in_child(|| {
            let server = Server::builder().tls(false).listen(0, |socket| socket.sendline("of the child")).unwrap();
            let peer = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
            until(|| server.connections().len() == 1);
            let mut line = String::new();
            BufReader::new(peer).read_line(&mut line).unwrap();
            assert_eq!(line, "of the child\n");
        });
        world.check();
    });
}

#[test]
fn a_child_may_wait_for_its_parent() {
    on_own_context(|| {
        let world = World::new();
        let (path, ports) = (world.directory.path().join("socket"), [world.plain.port(), world.secure.port()]);
        // SAFETY: as in `in_child`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // The parent serves it, and this thread had the servers until the fork.
            let answers = |builder: network::socket::SocketBuilder, address: network::Address| {
                let socket = builder.connect(address)?;
                socket.sendline("hello")?;
                socket.recv_line()
            };
            let all = || -> network::Result<[String; 3]> {
                let tls = ClientTls::new().directory(world.directory.path());
                Ok([
                    answers(Socket::builder().tls(false), network::Address::from(([127, 0, 0, 1], ports[0])))?,
                    answers(Socket::builder().tls(tls), network::Address::from(([127, 0, 0, 1], ports[1])))?,
                    answers(Socket::builder(), path.as_path().try_into()?)?,
                ])
            };
            let result = all();
            let is_well = matches!(&result, Ok(lines) if lines == &["hello"; 3]);
            if !is_well {
                eprintln!("{result:?}");
            }
            // SAFETY: ends the process.
            unsafe { libc::_exit(i32::from(!is_well)) }
        }
        let status = Cell::new(0);
        until(|| {
            // SAFETY: asks for that child, with a valid place for its status.
            unsafe { libc::waitpid(child, status.as_ptr(), libc::WNOHANG) > 0 }
        });
        assert_eq!(status.get(), 0, "the child did not end well");
        world.check();
    });
}

#[test]
fn a_child_leaves_the_path_of_a_message_socket_alone() {
    on_own_context(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let socket = MessageSocket::bind(path.as_path()).unwrap();
        let lines = Rc::new(Cell::new(0));
        let count = lines.clone();
        socket.read(move |_, data, _| {
            assert_eq!(data, b"still there?");
            count.set(count.get() + 1);
            Ok(())
        });
        in_child(|| ());
        in_child(|| socket.close());
        assert!(path.exists(), "the path is gone");
        UnixDatagram::unbound().unwrap().send_to(b"still there?", &path).unwrap();
        until(|| lines.get() == 1);
        socket.close();
        assert!(!path.exists());
    });
}
