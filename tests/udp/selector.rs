//! The selector: sockets, servers and datagrams, with no loop running.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use network::{ClientTls, Error, Selector, Server, ServerTls, Socket, UdpSocket};

use crate::common::{LIMIT, TempDir, on_own_context, until};
use crate::local;

/// Long enough for what has happened already to show, had it not been noticed.
const SHORT: Duration = Duration::from_millis(20);

/// A connection of plain TCP: ours, and the other end as std has it.
fn joined() -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = Socket::builder().tls(false).timeout(LIMIT).connect(address).unwrap();
    let peer = listener.accept().unwrap().0;
    peer.set_read_timeout(Some(LIMIT)).unwrap();
    (socket, peer)
}

fn server() -> Server {
    let server = Server::builder().tls(false).bind("127.0.0.1:0").unwrap();
    server.set_accept_timeout(LIMIT);
    server
}

#[test]
fn all_kinds_are_waited_for_together() {
    on_own_context(|| {
        let ((socket, mut peer), server, udp, sender) = (joined(), server(), local(), local());
        let selector = Selector::new();
        selector.add(&socket);
        selector.add(&server);
        selector.add(&udp);
        selector.add(&socket);
        let ready = || [selector.is_ready(&socket), selector.is_ready(&server), selector.is_ready(&udp)];
        assert!(!selector.wait(SHORT).unwrap());
        assert!(!selector.wait(Duration::ZERO).unwrap());
        assert_eq!(ready(), [false; 3]);

        peer.write_all(b"one\ntwo\n").unwrap();
        assert!(selector.wait(None).unwrap());
        assert_eq!(ready(), [true, false, false]);
        assert_eq!(socket.recv_line().unwrap(), "one");
        assert_eq!(ready(), [true, false, false], "until the next wait");
        // The second line has left the system, and lies in the socket.
        assert!(selector.wait(Duration::ZERO).unwrap() && selector.is_ready(&socket));
        assert_eq!(socket.recv_line().unwrap(), "two");

        let client = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        assert!(selector.wait(LIMIT).unwrap());
        assert_eq!(ready(), [false, true, false]);
        let accepted = server.accept().unwrap();
        assert_eq!(accepted.remote().inet(), Some(client.local_addr().unwrap()));

        sender.send_to("", udp.local()).unwrap();
        peer.write_all(b"x").unwrap();
        assert!(selector.wait(LIMIT).unwrap());
        assert_eq!(ready(), [true, false, true]);
        assert_eq!(udp.recv(1).unwrap(), b"");
        assert_eq!(socket.recv(1).unwrap(), b"x");
        assert!(!selector.wait(Duration::ZERO).unwrap());
        assert_eq!(ready(), [false; 3]);
    });
}

#[test]
fn the_end_is_something_to_receive() {
    on_own_context(|| {
        let ((ended, peer), (reset, gone), (closed, _still_there)) = (joined(), joined(), joined());
        let (udp, server) = (local(), server());
        let selector = Selector::new();
        peer.shutdown(Shutdown::Write).unwrap();
        selector.add(&ended);
        assert!(selector.wait(LIMIT).unwrap());
        assert!(matches!(ended.recv(1), Err(Error::Closed { .. })));
        assert!(selector.wait(Duration::ZERO).unwrap(), "and it stays so");
        selector.clear();

        reset.send("unread").unwrap();
        // Closing with unread input resets.
        gone.peek(&mut [0]).unwrap();
        drop(gone);
        selector.add(&reset);
        assert!(selector.wait(LIMIT).unwrap());
        assert!(matches!(reset.recv(1), Err(Error::Reset { .. })), "the error is left for whoever receives");
        selector.clear();

        for what in [0, 1, 2] {
            selector.add(&closed);
            selector.add(&udp);
            selector.add(&server);
            match what {
                0 => drop(closed.close()),
                1 => udp.close(),
                _ => server.close(),
            }
            assert!(selector.wait(LIMIT).unwrap());
            let ready = [selector.is_ready(&closed), selector.is_ready(&udp), selector.is_ready(&server)];
            assert_eq!(ready, [true, what >= 1, what >= 2]);
        }
    });
}

#[test]
fn what_is_removed_or_dropped_is_not_waited_for() {
    on_own_context(|| {
        let ((socket, mut peer), udp) = (joined(), local());
        let selector = Selector::new();
        let twin = selector.clone();
        selector.add(&socket);
        twin.add(&udp);
        peer.write_all(b"x").unwrap();
        assert!(selector.wait(LIMIT).unwrap() && twin.is_ready(&socket));
        twin.remove(&socket);
        assert!(!selector.is_ready(&socket));
        assert!(!selector.wait(SHORT).unwrap());
        let other = local();
        selector.remove(&other);
        drop(udp);
        assert!(matches!(selector.wait(None), Err(Error::Unsupported(_))), "nothing would ever end it");
        assert!(!selector.wait(SHORT).unwrap());
        selector.add(&socket);
        assert!(selector.wait(None).unwrap());
        selector.clear();
        assert!(!selector.wait(SHORT).unwrap());
        // It keeps nothing open.
        selector.add(&socket);
        drop(socket);
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).expect("the end, though the selector lives");
    });
}

#[test]
fn what_is_queued_goes_out_while_it_waits() {
    on_own_context(|| {
        let (socket, mut peer) = joined();
        // More than the system takes at once; the peer answers when it has all of it.
        let size = 10 << 20;
        socket.send(vec![1; size]).unwrap();
        assert!(socket.queued() > 0);
        let thread = std::thread::spawn(move || {
            let mut all = vec![0; size];
            peer.read_exact(&mut all).unwrap();
            peer.write_all(b"thanks").unwrap();
            peer
        });
        let selector = Selector::new();
        selector.add(&socket);
        assert!(selector.wait(LIMIT).unwrap());
        assert_eq!(socket.recv(100).unwrap(), b"thanks");
        thread.join().unwrap();
    });
}

#[test]
fn refusals_wake_it_and_strangers_do_not() {
    on_own_context(|| {
        let (udp, stranger, peer) = (local(), local(), local());
        stranger.send_to("waits already", udp.local()).unwrap();
        udp.connect(peer.local()).unwrap();
        let selector = Selector::new();
        selector.add(&udp);
        assert!(!selector.wait(SHORT).unwrap(), "nobody but the peer is heard");
        peer.send_to("", udp.local()).unwrap();
        assert!(selector.wait(LIMIT).unwrap());
        assert_eq!(udp.recv(1).unwrap(), b"");
        peer.close();
        udp.send("there?").unwrap();
        assert!(selector.wait(LIMIT).unwrap());
        assert!(matches!(udp.recv(1), Err(Error::Refused { .. })));
    });
}

#[test]
fn it_may_be_used_inside_a_callback() {
    on_own_context(|| {
        let (asker, server) = (local(), local());
        let backend = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        backend.set_read_timeout(Some(LIMIT)).unwrap();
        let place = backend.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (_, from) = backend.recv_from(&mut [0; 10]).unwrap();
            backend.send_to(b"42", from).unwrap();
        });
        let other = local();
        server.read(move |socket, _, from| {
            other.send_to("?", place)?;
            let selector = Selector::new();
            selector.add(&other);
            selector.add(socket);
            assert!(selector.wait(LIMIT)?);
            socket.send_to(other.recv(10)?, from)
        });
        let answers = Rc::new(RefCell::new(Vec::new()));
        let into = answers.clone();
        asker.read(move |_, data, _| {
            into.borrow_mut().push(data.to_vec());
            Ok(())
        });
        asker.send_to("what is the answer?", server.local()).unwrap();
        until(|| !answers.borrow().is_empty());
        assert_eq!(*answers.borrow(), [b"42"]);
        thread.join().unwrap();
    });
}

// ---- TLS ----

/// What to do with what the server sends next.
enum Pass {
    All,
    /// Only the first half, until it is told to go on.
    Half,
}

/// A TLS connection through a relay, which holds back what the server sends until it is told.
struct Relayed {
    _home: TempDir,
    socket: Socket,
    /// Lines for the server to send, in one record each.
    say: mpsc::Sender<&'static str>,
    pass: mpsc::Sender<Pass>,
    passed: mpsc::Receiver<()>,
    threads: Vec<JoinHandle<()>>,
}

fn relayed() -> Relayed {
    let home = TempDir::new();
    let directory = home.path("");
    let (say, said) = mpsc::channel();
    let (place, port) = mpsc::channel();
    let server = std::thread::spawn({
        let directory = directory.clone();
        move || {
            on_own_context(|| {
                let tls = ServerTls::new().directory(directory);
                let server = Server::builder().tls(tls).bind("127.0.0.1:0").unwrap();
                server.set_accept_timeout(LIMIT);
                place.send(server.port()).unwrap();
                let socket = server.accept().unwrap();
                while let Ok(text) = said.recv() {
                    socket.send(text).unwrap();
                }
            });
        }
    });
    let port = port.recv_timeout(LIMIT).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (pass, how) = mpsc::channel();
    let (done, passed) = mpsc::channel();
    let relay = std::thread::spawn(move || {
        let mut client = listener.accept().unwrap().0;
        let mut server = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let up = std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        let mut buffer = vec![0; 64 << 10];
        // The handshake passes as it comes, and so does all else until something is said of it.
        server.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        loop {
            match how.try_recv() {
                Ok(Pass::Half) => {
                    done.send(()).unwrap();
                    server.set_read_timeout(Some(LIMIT)).unwrap();
                    let count = server.read(&mut buffer).unwrap();
                    let (first, rest) = buffer[..count].split_at(count / 2);
                    client.write_all(first).unwrap();
                    done.send(()).unwrap();
                    assert!(matches!(how.recv(), Ok(Pass::All)));
                    client.write_all(rest).unwrap();
                    done.send(()).unwrap();
                    server.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
                }
                Ok(Pass::All) | Err(mpsc::TryRecvError::Empty) => match server.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => client.write_all(&buffer[..count]).unwrap(),
                    Err(_) => {}
                },
                Err(mpsc::TryRecvError::Disconnected) => break,
            }
        }
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
        let _ = up.join();
    });
    let tls = ClientTls::new().directory(&directory);
    let socket = Socket::builder().tls(tls).timeout(LIMIT).connect(address).unwrap();
    Relayed { _home: home, socket, say, pass, passed, threads: vec![server, relay] }
}

impl Relayed {
    /// Has the server say something of which only half comes.
    fn half(&self, text: &'static str) {
        self.pass.send(Pass::Half).unwrap();
        // All that came before has passed.
        self.passed.recv_timeout(LIMIT).unwrap();
        self.say.send(text).unwrap();
        self.passed.recv_timeout(LIMIT).unwrap();
    }

    fn rest(&self) {
        self.pass.send(Pass::All).unwrap();
        self.passed.recv_timeout(LIMIT).unwrap();
    }

    fn finish(self) {
        let Relayed { socket, say, pass, threads, .. } = self;
        drop((say, pass));
        socket.abort();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

#[test]
fn half_a_record_is_not_ready_and_decrypted_bytes_are() {
    on_own_context(|| {
        let relayed = relayed();
        let socket = &relayed.socket;
        let selector = Selector::new();
        selector.add(socket);
        // The tickets for resumption, which come after the handshake, are nothing to receive either.
        relayed.say.send("start\n").unwrap();
        assert!(selector.wait(LIMIT).unwrap());
        assert_eq!(socket.recv_line().unwrap(), "start");
        assert!(!selector.wait(SHORT).unwrap());

        relayed.half("one\ntwo\n");
        assert!(!selector.wait(SHORT).unwrap(), "half a record");
        relayed.rest();
        assert!(selector.wait(LIMIT).unwrap());
        assert_eq!(socket.recv_line().unwrap(), "one");
        assert!(selector.wait(Duration::ZERO).unwrap(), "decrypted, and nothing left in the system");
        assert_eq!(socket.recv_line().unwrap(), "two");
        assert!(!selector.wait(SHORT).unwrap());
        relayed.finish();
    });
}

#[test]
fn what_it_took_in_is_delivered_by_the_loop() {
    on_own_context(|| {
        let relayed = relayed();
        let lines = Rc::new(RefCell::new(Vec::new()));
        let into = lines.clone();
        relayed.socket.readlines(move |_, line| {
            into.borrow_mut().push(line.to_string());
            Ok(())
        });
        let selector = Selector::new();
        selector.add(&relayed.socket);
        relayed.say.send("for the loop\n").unwrap();
        assert!(selector.wait(LIMIT).unwrap());
        assert!(lines.borrow().is_empty(), "no callback from inside a blocking call");
        until(|| !lines.borrow().is_empty());
        assert_eq!(*lines.borrow(), ["for the loop"]);
        relayed.finish();
    });
}

#[test]
fn a_server_with_tls_is_ready_once_a_client_has_shaken_hands() {
    on_own_context(|| {
        let home = TempDir::new();
        let tls = ServerTls::new().directory(home.path(""));
        let server = Server::builder().tls(tls).bind("127.0.0.1:0").unwrap();
        let port = server.port();
        let selector = Selector::new();
        selector.add(&server);
        let silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert!(!selector.wait(SHORT).unwrap(), "who says nothing is no client yet");
        let directory = home.path("");
        let client = std::thread::spawn(move || {
            on_own_context(|| {
                let tls = ClientTls::new().directory(directory);
                let socket = Socket::builder().tls(tls).timeout(LIMIT).connect(("127.0.0.1", port)).unwrap();
                socket.recv_line().unwrap()
            })
        });
        assert!(selector.wait(LIMIT).unwrap());
        server.set_accept_timeout(Duration::ZERO);
        server.accept().unwrap().sendline("welcome").unwrap();
        assert_eq!(client.join().unwrap(), "welcome");
        drop(silent);
    });
}

#[test]
fn a_selector_of_nothing_but_closed_ones_never_waits() {
    on_own_context(|| {
        let udp: UdpSocket = local();
        udp.close();
        let selector = Selector::new();
        selector.add(&udp);
        assert!(selector.wait(None).unwrap());
    });
}
