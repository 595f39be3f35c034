//! The receiving half: from the descriptor through the inbox to the reader. Those who ask for input share it from there.

use std::io;
use std::rc::Rc;

use super::Conn;
use super::callbacks::Reason;
use super::framing::Refusal;
use super::handle::Socket;
use super::idle::Traffic;
use super::inbox::Inbox;
use super::space::Space;
use super::state::{Look, Manner, ReadHalf};
use super::transport::Peek;
use crate::engine::{READ_BUFFER, call};
use crate::error::{Error, Operation, Result, again};

/// The read half at work: from the descriptor, through TLS, into the inbox.
pub(super) struct Input<'a>(&'a Conn);

impl Conn {
    #[inline]
    pub(super) fn input(&self) -> Input<'_> {
        Input(self)
    }

    // ---- from the descriptor ----

    /// Nothing more comes, and all before it has been delivered.
    pub(super) fn end_of_stream(&self) {
        self.status.read_ended();
        let reason = self.if_cold(|cold| Some(cold.end.at_end_of_stream())).unwrap_or(Reason::Remote);
        if matches!(reason, Reason::Remote) && self.tell_half_close() {
            return;
        }
        self.finish(reason, Manner::Graceful);
    }

    /// Calls the callback for the peer's half-close, if there is one. Returns whether the connection goes on.
    fn tell_half_close(&self) -> bool {
        // One that comes later finds it told.
        let is_told = self.status.get().read.contains(ReadHalf::HALF_OPEN);
        let callback = self.if_cold(|cold| cold.on_end.take()).filter(|_| !is_told);
        if let (Some(callback), Some(me)) = (callback, self.strong()) {
            self.status.change(|state| state.read.insert(ReadHalf::HALF_OPEN));
            let socket = Socket::from_conn(me);
            self.returned(call(&self.engine, || callback(&socket)));
        }
        self.status.get().stays_half_open(self.status.ready())
    }

    /// Returns whether there is anything for a raw reader.
    pub(super) fn has_something(&self) -> bool {
        if self.io.has_input() {
            return true;
        }
        if !self.status.has_read_all() && !self.is_tls() {
            return self.status.may_read() && self.input().look_into_kernel();
        }
        while self.status.may_read() && !self.status.has_read_all() {
            let mut held = None;
            let something = self.input().fill_sealed(&mut held);
            self.input().give_back(&mut held);
            if self.io.has_input() {
                return true;
            }
            if !something {
                return false;
            }
        }
        if self.status.has_read_all() {
            self.end_of_stream();
        }
        false
    }

    // ---- for those who ask, blocking or not ----

    /// Takes everything that has been received and not been delivered.
    pub(crate) fn take_leftover(&self) -> Vec<u8> {
        let leftover = self.io.take_input();
        if !leftover.is_empty() {
            self.taken();
        }
        leftover
    }

    /// Data was taken that may have lain before the end.
    pub(super) fn taken(&self) {
        self.io.rest();
        if self.is_open() && (self.status.is_at_end() || self.status.is(Look::INPUT_AWAITED)) {
            self.wake();
        }
    }

    /// The end, for somebody who asks. The loop is told as well.
    pub(super) fn end_for_caller(&self) -> Error {
        self.status.change(|state| state.read.insert(ReadHalf::CALLER_KNOWS));
        self.wake();
        match self.closed() {
            Error::Closed { peer } if !self.is_tls() && ends_in_alert(self) => {
                Error::Tls { peer, problem: ALERT.into() }
            }
            error => error,
        }
    }

    /// Returns whether the peer has said all that it had to say. Not if the connection was cut off, nor if it was closed here
    /// first.
    pub(crate) fn has_ended_cleanly(&self) -> bool {
        let was_read = self.status.has_read_all() && !self.status.get().read.contains(ReadHalf::DISCARDED);
        was_read && self.if_cold(|cold| Some(cold.end.is_clean())).unwrap_or(true)
    }

    /// A line or frame that is refused is the end of the connection, and must not look to the peer as if all were well. Returns
    /// the error for whoever asked.
    pub(crate) fn refuse(&self, refusal: impl Into<Refusal>, limit: usize) -> Error {
        let refusal = refusal.into();
        let error = || {
            let peer = self.peer_name();
            match refusal {
                Refusal::LineTooLong => Error::LineTooLong { peer, limit },
                Refusal::TooLong(size) => Error::FrameTooLong { peer, size, limit },
                Refusal::Misused(_) => Error::InvalidOption(refusal.to_string()),
                _ => Error::Frame { peer, problem: refusal.to_string() },
            }
        };
        self.finish(Reason::Failed(error()), Manner::Reset);
        error()
    }
}

/// A server that expects TLS ends the handshake that never began with an alert.
const ALERT: &str = "it expects TLS, and this connection does not use it";

/// Returns whether all that lies unread is one alert of TLS, in the clear.
fn ends_in_alert(conn: &Conn) -> bool {
    let unread = conn.io.inbox(Inbox::lend).flatten();
    unread.is_some_and(|(piece, _)| matches!(piece.as_slice(), [0x15, 3, 0..=4, 0, 2, 1 | 2, _]))
}

impl Input<'_> {
    /// Reads once. This is the only read from the transport, beside those that the engine makes itself. `Ok(0)` is the end of
    /// what the kernel has.
    #[inline]
    pub(super) fn read_once(&self, space: &mut (impl Space + ?Sized), waits: bool) -> io::Result<usize> {
        let room = space.room();
        let read = if waits { self.0.transport.read_waiting(space) } else { self.0.transport.read(space) };
        match &read {
            Ok(0) => {}
            Ok(count) => self.note_read(*count == room),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.0.status.found_nothing(),
            Err(_) => {}
        }
        read
    }

    /// A read has brought as much as it had room for, or less.
    #[inline]
    pub(super) fn note_read(&self, is_full: bool) {
        self.0.touch(Traffic::Received);
        let left = self.0.status.get().after_read(self.0.status.ready(), is_full, self.0.transport.stopped_short());
        self.0.status.set_ready(left);
    }

    /// Reads once, into the inbox, of a plain connection up to `max` bytes. Of TLS, the count is of what was read, which may
    /// be no data.
    pub(super) fn fill(&self, max: usize, held: &mut Option<Rc<Vec<u8>>>, waits: bool) -> io::Result<usize> {
        let mut buffer = self.0.engine.take_buffer();
        let space = Rc::get_mut(&mut buffer).ok_or(io::ErrorKind::WouldBlock)?;
        if self.0.is_tls() {
            let read = self.read_once(&mut space[..], waits);
            let read = read.map(|count| self.decrypt(&buffer[..count], held));
            self.0.engine.give_buffer(buffer);
            return read;
        }
        let max = max.min(space.len());
        let read = self.read_once(&mut space[..max], waits);
        match read {
            Ok(0) => self.0.status.read_ended(),
            Ok(count) => self.0.io.receive(buffer.clone(), count),
            Err(_) => {}
        }
        *held = Some(buffer);
        read
    }

    /// Reads once over TLS, into the inbox. Returns whether anything came.
    pub(super) fn fill_sealed(&self, held: &mut Option<Rc<Vec<u8>>>) -> bool {
        match self.fill(READ_BUFFER, held, false) {
            Ok(_) => true,
            Err(error) => {
                self.failed(error);
                false
            }
        }
    }

    /// Decrypts what was read into the inbox. An error of TLS waits until what came before it is delivered; so does the end.
    /// During the handshake nothing waits, and 0 says that it has failed.
    fn decrypt(&self, cipher: &[u8], held: &mut Option<Rc<Vec<u8>>>) -> usize {
        let mut plain = self.0.engine.take_plain();
        let Some(space) = Rc::get_mut(&mut plain) else { return 0 };
        let Some(decrypted) = self.0.channel().decrypt(cipher, space) else { return 0 };
        let is_shaking = self.0.is_shaking();
        let has_failed = decrypted.outcome.is_err();
        if let Err(error) = decrypted.outcome {
            self.0.status.change(|state| state.read.set(ReadHalf::DAMAGED, !cipher.is_empty()));
            self.0.cold(|cold| match &mut cold.handshake {
                Some(handshake) if is_shaking => drop(handshake.failure.replace(error)),
                _ => cold.end.note(&error),
            });
        }
        if decrypted.has_ended && !is_shaking {
            self.0.status.read_ended();
        }
        let length = plain.len();
        self.0.io.receive(plain.clone(), length);
        *held = Some(plain);
        if decrypted.has_answers && !is_shaking {
            self.0.cork();
        }
        if has_failed && is_shaking { 0 } else { cipher.len() }
    }

    /// Returns the buffer of a read, of which the inbox keeps a copy if something is left in it.
    #[inline]
    pub(super) fn give_back(&self, buffer: &mut Option<Rc<Vec<u8>>>) {
        if let Some(buffer) = buffer.take() {
            self.0.io.inbox(Inbox::settle);
            self.0.engine.give_buffer(buffer);
        }
    }

    /// Looks into the kernel's buffer. Returns whether there is data. The end, or an error, ends the connection.
    pub(super) fn look_into_kernel(&self) -> bool {
        match self.0.transport.peek() {
            Ok(Peek::Data) => return true,
            Ok(Peek::Nothing) => self.0.status.found_nothing(),
            Ok(Peek::End) => self.0.end_of_stream(),
            Err(error) => {
                self.failed(error);
            }
        }
        false
    }

    /// Returns true if the read only found nothing. Any other error ends the connection.
    pub(super) fn failed(&self, error: io::Error) -> bool {
        if error.kind() == io::ErrorKind::WouldBlock {
            self.0.status.found_nothing();
            return true;
        }
        let error = Error::from_io(Operation::Read, self.0.peer_name(), error);
        self.0.finish(Reason::Failed(error), Manner::AtOnce);
        false
    }

    /// A read for somebody who asks has failed. Returns `Ok` if it only found nothing.
    pub(super) fn failed_for_caller(&self, error: io::Error) -> Result {
        let copy = again(&error);
        if self.failed(error) { Ok(()) } else { Err(Error::from_io(Operation::Read, self.0.peer_name(), copy)) }
    }
}
