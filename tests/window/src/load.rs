//! What keeps the network busy: a server on the window's main context, and threads that keep it at work.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use gio::prelude::*;
use network::http::Client;
use network::{ClientTls, Server, Socket, server::ServerBuilder};

use crate::common::{TempDir, black_hole};

const CHUNK: usize = 256 << 10;
const LINE: usize = 80;
const CONNECTIONS: u32 = 200;
const MESSAGE: usize = 64;
/// So many clients are let wait by each kind of peer that does not answer.
const WAITING: usize = 20;

/// Bytes, lines, messages, connections or lookups that have been dealt with.
type Done = Rc<Cell<u64>>;

#[derive(Default)]
pub struct Load {
    done: Done,
    server: Option<Server>,
    clients: Vec<TcpStream>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// So many clients wait for an answer that does not come, until this is cancelled.
    waiting: Rc<Cell<usize>>,
    cancel: gio::Cancellable,
    /// Listeners that do not accept.
    deaf: Vec<OwnedFd>,
}

fn plain() -> ServerBuilder {
    Server::builder().address("127.0.0.1").tls(false).backlog(CONNECTIONS)
}

fn add(done: &Done, more: usize) {
    done.set(done.get() + more as u64);
}

fn lines() -> Vec<u8> {
    let line: Vec<u8> = std::iter::repeat_n(b'l', LINE - 1).chain([b'\n']).collect();
    line.repeat(CHUNK / LINE)
}

impl Load {
    pub fn none() -> Load {
        Load::default()
    }

    pub fn bulk() -> Load {
        let mut load = Load::default();
        let done = load.done.clone();
        let server = plain().listen("0", move |socket| {
            let done = done.clone();
            socket.read(move |_, data| {
                add(&done, data.len());
                Ok(())
            });
            Ok(())
        });
        load.flood(server.unwrap(), vec![b'b'; CHUNK]);
        load
    }

    pub fn secret_bulk() -> Load {
        let mut load = Load::default();
        let done = load.done.clone();
        let server = Server::builder().address("127.0.0.1").tls(true).listen("0", move |socket| {
            let done = done.clone();
            socket.read(move |_, data| {
                add(&done, data.len());
                Ok(())
            });
            Ok(())
        });
        let server = server.unwrap();
        let (address, over) = (format!("tls://127.0.0.1:{}", server.port()), load.over.clone());
        load.threads.push(std::thread::spawn(move || {
            let context = glib::MainContext::new();
            let flood = || {
                let tls = ClientTls::danger_accept_any();
                let client = Socket::builder().tls(tls).timeout(Duration::from_millis(200));
                let client = client.connect(address.as_str()).unwrap();
                let chunk = vec![b's'; CHUNK];
                while !over.load(Ordering::Relaxed) {
                    // Out of time: once more.
                    let _ = client.send_some(&chunk);
                }
                client.abort();
            };
            context.with_thread_default(flood).unwrap();
        }));
        load.server = Some(server);
        load
    }

    pub fn lines() -> Load {
        let mut load = Load::default();
        let done = load.done.clone();
        let server = plain().listen("0", move |socket| {
            let done = done.clone();
            socket.readlines(move |_, _| {
                add(&done, 1);
                Ok(())
            });
            Ok(())
        });
        load.flood(server.unwrap(), lines());
        load
    }

    pub fn awaited_lines() -> Load {
        let mut load = Load::default();
        let done = load.done.clone();
        let server = plain().serve("0", move |socket| {
            let done = done.clone();
            async move {
                let mut lines = socket.lines();
                while let Some(line) = lines.next_str().await {
                    line?;
                    add(&done, 1);
                }
                Ok(())
            }
        });
        load.flood(server.unwrap(), lines());
        load
    }

    /// The same by a task of GLib's, which is none of the library's.
    pub fn lines_by_task() -> Load {
        let mut load = Load::default();
        let done = load.done.clone();
        let server = plain().listen("0", move |socket| {
            let done = done.clone();
            glib::spawn_future_local(async move {
                let mut lines = socket.lines();
                while let Some(Ok(_)) = lines.next_str().await {
                    add(&done, 1);
                }
            });
            Ok(())
        });
        load.flood(server.unwrap(), lines());
        load
    }

    pub fn connects() -> Load {
        let mut load = Load::default();
        let done = load.done.clone();
        // Not TCP: the ports of so many would be used up.
        let directory = TempDir::new();
        let (path, over) = (directory.path("socket"), load.over.clone());
        let server = Server::builder().listen(path.as_path(), move |_| {
            add(&done, 1);
            Ok(())
        });
        load.server = Some(server.unwrap());
        load.threads.push(std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) && UnixStream::connect(&path).is_ok() {}
            drop(directory);
        }));
        load
    }

    pub fn messages() -> Load {
        let mut load = Load::default();
        let done = load.done.clone();
        let server = plain().listen("0", move |socket| {
            let done = done.clone();
            socket.read(move |socket, data| {
                add(&done, data.len() / MESSAGE);
                socket.send(data)
            });
            Ok(())
        });
        let server = server.unwrap();
        load.connect(&server, CONNECTIONS);
        let peers: Vec<_> = load.clients.iter().map(|client| client.try_clone().unwrap()).collect();
        load.threads.push(std::thread::spawn(move || {
            let mut buffer = [b'm'; MESSAGE];
            loop {
                let sent = peers.iter().try_for_each(|mut peer| peer.write_all(&buffer));
                let echoed = peers.iter().try_for_each(|mut peer| peer.read_exact(&mut buffer));
                if sent.and(echoed).is_err() {
                    return;
                }
            }
        }));
        load.server = Some(server);
        load
    }

    /// Connects to a host that does not answer, handshakes with one that says nothing, and one lookup after another.
    pub fn unanswered() -> Load {
        let mut load = Load::default();
        let (full, held) = black_hole();
        let mute = TcpListener::bind("127.0.0.1:0").unwrap();
        let waits = [format!("tcp://{full}"), format!("tls://{}", mute.local_addr().unwrap())];
        for address in waits.iter().flat_map(|address| std::iter::repeat_n(address, WAITING)) {
            let (name, waiting) = (address.clone(), load.waiting.clone());
            waiting.set(waiting.get() + 1);
            Socket::connect_async(address.as_str(), Some(&load.cancel), move |result| match result {
                Err(network::Error::Cancelled { .. }) => waiting.set(waiting.get() - 1),
                result => panic!("{name} has answered: {:?}", result.err()),
            });
        }
        look_up(load.done.clone(), load.cancel.clone());
        load.deaf = held;
        load.deaf.push(mute.into());
        load
    }

    /// A download of HTTP that does not end, to a file.
    pub fn download() -> Load {
        let mut load = Load::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        load.threads.push(std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                peer.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            let chunk = vec![b'd'; CHUNK];
            let mut sent =
                peer.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1_u64 << 40).as_bytes());
            while sent.is_ok() {
                sent = peer.write_all(&chunk);
            }
        }));
        let (directory, done, waiting) = (TempDir::new(), load.done.clone(), load.waiting.clone());
        waiting.set(1);
        let request = Client::new().get(url).progress(move |progress| done.set(progress.received));
        request.download_async(directory.path("file"), Some(&load.cancel), move |result| {
            assert!(matches!(result, Err(network::Error::Cancelled { .. })), "{:?}", result.err());
            waiting.set(0);
            drop(directory);
        });
        load
    }

    fn connect(&mut self, server: &Server, count: u32) {
        let clients = (0..count).map(|_| TcpStream::connect(("127.0.0.1", server.port())).unwrap());
        self.clients = clients.collect();
    }

    fn flood(&mut self, server: Server, chunk: Vec<u8>) {
        self.connect(&server, 1);
        let mut peer = self.clients[0].try_clone().unwrap();
        self.threads.push(std::thread::spawn(move || while peer.write_all(&chunk).is_ok() {}));
        self.server = Some(server);
    }

    /// What has been done; nothing goes on when this returns.
    pub fn end(self) -> u64 {
        let done = self.done.get();
        self.over.store(true, Ordering::Relaxed);
        self.cancel.cancel();
        for client in &self.clients {
            let _ = client.shutdown(Shutdown::Both);
        }
        let connections = self.server.iter().flat_map(Server::connections);
        let connections: Vec<_> = connections.collect();
        // Who waits to be accepted waits no longer.
        self.server.iter().for_each(Server::close);
        for socket in &connections {
            socket.abort();
        }
        while self.waiting.get() > 0 || connections.iter().any(Socket::is_open) {
            glib::MainContext::default().iteration(true);
        }
        for thread in self.threads {
            thread.join().unwrap();
        }
        done
    }
}

fn look_up(done: Done, over: gio::Cancellable) {
    let cancellable = over.clone();
    network::names::lookup_async("localhost", 80, Some(&cancellable), move |result| {
        if result.is_ok() {
            add(&done, 1);
            look_up(done, over);
        }
    });
}
