//! Servers that do what a test says, on threads of their own.

// Each of the tests uses its own part of this.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::common::LIMIT;

/// A connection of such a server.
pub struct Peer {
    pub stream: TcpStream,
    /// The number of the connection, from 0.
    pub number: usize,
    rest: Vec<u8>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Peer {
    /// Receives a request with its body. `None` at the end.
    pub fn request(&mut self) -> Option<String> {
        let head = self.head()?;
        let lower = head.to_ascii_lowercase();
        let field =
            |name: &str| lower.lines().find_map(|line| line.strip_prefix(name).map(|value| value.trim().to_owned()));
        let mut body = Vec::new();
        if field("expect:").is_some() {
            self.say("HTTP/1.1 100 Continue\r\n\r\n");
        }
        if let Some(length) = field("content-length:") {
            body = self.exactly(length.parse().unwrap())?;
        } else if field("transfer-encoding:").is_some() {
            loop {
                let line = self.line()?;
                let size = usize::from_str_radix(line.trim(), 16).unwrap();
                body.extend(self.exactly(size)?);
                self.line()?;
                if size == 0 {
                    break;
                }
            }
        }
        let request = head + &String::from_utf8_lossy(&body);
        self.seen.lock().unwrap().push(request.clone());
        Some(request)
    }

    /// Receives the head of a request.
    pub fn head(&mut self) -> Option<String> {
        let mut head = String::new();
        loop {
            let line = self.line()?;
            head += &line;
            if line == "\r\n" {
                return Some(head);
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.rest.iter().position(|byte| *byte == b'\n') {
                return Some(String::from_utf8(self.rest.drain(..=at).collect()).unwrap());
            }
            self.more()?;
        }
    }

    pub fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.rest.len() < count {
            self.more()?;
        }
        Some(self.rest.drain(..count).collect())
    }

    fn more(&mut self) -> Option<()> {
        let mut buffer = [0; 65536];
        match self.stream.read(&mut buffer) {
            Ok(0) | Err(_) => None,
            Ok(count) => {
                self.rest.extend_from_slice(&buffer[..count]);
                Some(())
            }
        }
    }

    /// Says something. The client may be gone already.
    pub fn say(&mut self, what: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(what.as_ref()).is_ok()
    }

    /// Answers 200 with that body.
    pub fn ok(&mut self, body: &str) -> bool {
        self.say(response("200 OK", "", body))
    }

    /// Waits until the client has closed the connection.
    pub fn await_end(&mut self) {
        while self.more().is_some() {}
    }

    pub fn reset(self) {
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(std::time::Duration::ZERO)).unwrap();
    }

    pub fn end(self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Makes a response with a `Content-Length`. Further fields end in `\r\n` each.
pub fn response(status: &str, fields: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// A server whose connections are served by a function, each on a thread.
pub struct Server {
    pub port: u16,
    accepted: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub fn new(serve: impl Fn(Peer) + Send + Sync + 'static) -> Server {
        Server::on("127.0.0.1", serve)
    }

    /// One at another address.
    pub fn on(ip: &str, serve: impl Fn(Peer) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Server { port, accepted: Arc::default(), seen: Arc::default() };
        let (accepted, seen) = (server.accepted.clone(), server.seen.clone());
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                stream.set_read_timeout(Some(LIMIT)).unwrap();
                let number = accepted.fetch_add(1, Ordering::SeqCst);
                let peer = Peer { stream, number, rest: Vec::new(), seen: seen.clone() };
                let serve = serve.clone();
                std::thread::spawn(move || serve(peer));
            }
        });
        server
    }

    /// One that answers every request by what a function makes of it.
    pub fn answering(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Server {
        Server::new(move |mut peer| {
            while let Some(request) = peer.request() {
                if !peer.say(answer(&request)) {
                    break;
                }
            }
        })
    }

    pub fn url(&self, target: &str) -> String {
        format!("http://127.0.0.1:{}{target}", self.port)
    }

    /// The number of connections so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}
