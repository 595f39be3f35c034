//! Sessions over pairs of sockets, without a handshake: the test writes the peer's bytes. The clock stands still until it is moved.

mod callbacks;
mod codec;
mod ending;
mod futures;
mod keeping_alive;
mod limits;
mod table;

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use super::{Code, Disconnect, OwnedMessage, WebSocket};
use crate::conn::Socket;
use crate::conn::callbacks::Reason;
use crate::engine::{Engine, turn};
use crate::error::Error;
use crate::sys::script;

/// A loop with a clock that stands still.
pub(super) struct Rig {
    engine: Rc<Engine>,
    context: glib::MainContext,
}

pub(super) fn rig(test: impl FnOnce(&Rig)) {
    script::stop_clock();
    let context = glib::MainContext::new();
    let run = || test(&Rig { engine: Engine::current().unwrap(), context: context.clone() });
    context.with_thread_default(run).unwrap();
}

impl Rig {
    /// Runs the loop until nothing is left to do.
    pub(super) fn run(&self) {
        turn(&self.engine, || while self.context.iteration(false) {});
    }

    /// Lets time pass, in which the loop runs.
    pub(super) fn pass(&self, time: Duration) {
        script::pass_running(time, || self.run());
    }

    /// A connection and its peer.
    pub(super) fn pair(&self, is_server: bool) -> (WebSocket, Peer) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let socket = Socket::from_fd(ours).unwrap();
        (WebSocket::over(socket, is_server, None), Peer { stream: theirs, masks: is_server })
    }
}

/// The other end, by hand.
pub(super) struct Peer {
    stream: UnixStream,
    /// It is a client.
    masks: bool,
}

impl Peer {
    /// Sends a frame: the first byte of its head, and its payload.
    pub(super) fn send(&mut self, first: u8, payload: &[u8]) {
        let frame = frame(first, payload, self.masks);
        self.write(&frame);
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Returns what has come. Its mask is taken off.
    pub(super) fn frames(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut rest = self.bytes();
        let mut frames = Vec::new();
        while !rest.is_empty() {
            let (found, used) = unframe(&rest, !self.masks);
            frames.push(found);
            rest.drain(..used);
        }
        frames
    }

    pub(super) fn bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("{error}"),
            _ => bytes,
        }
    }

    /// Returns whether our side has ended the stream. What has come is dropped.
    pub(super) fn is_ended(&mut self) -> bool {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => true,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }
}

pub(super) fn frame(first: u8, payload: &[u8], is_masked: bool) -> Vec<u8> {
    let mask = if is_masked { 0x80 } else { 0 };
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(mask | u8::try_from(short).unwrap()),
        middle @ 126..0x10000 => {
            frame.push(mask | 126);
            frame.extend(u16::try_from(middle).unwrap().to_be_bytes());
        }
        long => {
            frame.push(mask | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    let key = [1, 2, 3, 4];
    if is_masked {
        frame.extend(key);
    }
    frame.extend(payload.iter().enumerate().map(|(at, byte)| if is_masked { byte ^ key[at % 4] } else { *byte }));
    frame
}

/// Returns the first frame, and its length.
fn unframe(bytes: &[u8], is_masked: bool) -> ((u8, Vec<u8>), usize) {
    assert_eq!(bytes[1] & 0x80 != 0, is_masked, "only clients mask");
    let (length, mut at) = match bytes[1] & 0x7f {
        126 => (usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), 4),
        127 => (usize::try_from(u64::from_be_bytes(bytes[2..10].try_into().unwrap())).unwrap(), 10),
        short => (usize::from(short), 2),
    };
    let mut key = [0; 4];
    if is_masked {
        key.copy_from_slice(&bytes[at..at + 4]);
        at += 4;
    }
    let payload = bytes[at..at + length].iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]).collect();
    ((bytes[0], payload), at + length)
}

/// Notes of the callbacks of a connection.
#[derive(Clone, Default)]
pub(super) struct Heard(Rc<RefCell<Vec<String>>>);

impl Heard {
    pub(super) fn note(&self, text: impl Into<String>) {
        self.0.borrow_mut().push(text.into());
    }

    pub(super) fn take(&self) -> Vec<String> {
        self.0.take()
    }

    /// Notes messages and the end.
    pub(super) fn listen(&self, ws: &WebSocket) {
        let heard = self.clone();
        ws.read(move |_, message| {
            heard.note(shown(&message.to_owned()));
            Ok(())
        });
        self.await_end(ws);
    }

    pub(super) fn await_end(&self, ws: &WebSocket) {
        let heard = self.clone();
        ws.disconnect_cb(move |_, end| heard.note(ended(&end)));
    }
}

pub(super) fn shown(message: &OwnedMessage) -> String {
    match message {
        OwnedMessage::Text(text) => format!("text {text}"),
        OwnedMessage::Binary(bytes) => format!("bytes {bytes:?}"),
    }
}

pub(super) fn ended(end: &Disconnect) -> String {
    let reason = match &end.reason {
        Reason::Local => "local".to_owned(),
        Reason::Remote => "remote".to_owned(),
        Reason::Failed(Error::WebSocket { code, reason, .. }) => format!("failed {code} {reason}"),
        Reason::Failed(error) => format!("failed {error}"),
    };
    match &end.close {
        Some(close) => format!("{reason} | {} {}", u16::from(close.code), close.reason),
        None => reason,
    }
}

/// The payload of a close frame.
pub(super) fn closing(code: impl Into<Code>, reason: &str) -> Vec<u8> {
    [&u16::from(code.into()).to_be_bytes(), reason.as_bytes()].concat()
}
