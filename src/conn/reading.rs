//! The receiving half: from the descriptor through the inbox to the reader. Those who ask for input share it from there.

use std::io;
use std::rc::Rc;

use super::Conn;
use super::callbacks::{Kind, ReadCallback, Reason, with_text};
use super::handle::Socket;
use super::inbox::{Inbox, TooLong};
use super::lines::each_line;
use super::state::{Delivered, Look, Manner, Pass, ReadHalf};
use super::transport::Peek;
use crate::engine::{READ_BUFFER, Ready, call};
use crate::error::{Error, Operation, Result, again};

impl Conn {
    // ---- from the descriptor ----

    /// Reads once. This is the only read from the transport, beside those that the engine makes itself. `Ok(0)` is the end of
    /// what the kernel has.
    #[inline]
    pub(super) fn read_once(&self, space: &mut [u8], waits: bool) -> io::Result<usize> {
        let read = if waits { self.transport.read_waiting(space) } else { self.transport.read(space) };
        match &read {
            Ok(0) => {}
            Ok(count) => self.note_read(*count == space.len()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.found_nothing(),
            Err(_) => {}
        }
        read
    }

    /// A read has brought as much as it had room for, or less.
    #[inline]
    pub(super) fn note_read(&self, is_full: bool) {
        self.touch();
        let left = self.state().after_read(self.ready.get(), is_full, self.transport.stopped_short());
        self.ready.set(left);
    }

    /// Reads once, into the inbox, or past it if the reader takes it all.
    pub(super) fn read_and_deliver(self: &Rc<Self>, pass: &mut Pass, held: &mut Option<Rc<Vec<u8>>>) {
        if self.is_tls() {
            return pass.has_read(self.fill_sealed(held));
        }
        let mut buffer = self.engine.take_buffer();
        let Some(space) = Rc::get_mut(&mut buffer) else { return pass.has_read(false) };
        match self.read_once(space, false) {
            Ok(0) => self.end_of_stream(),
            Ok(count) if self.fits_one_call(count) => {
                let delivered = self.deliver_directly(&buffer[..count]);
                self.engine.give_buffer(buffer);
                return pass.delivered(delivered);
            }
            Ok(count) => {
                self.io.receive(buffer.clone(), count);
                *held = Some(buffer);
                return pass.has_read(true);
            }
            Err(error) => {
                self.read_failed(error);
            }
        }
        self.engine.give_buffer(buffer);
        pass.has_read(false);
    }

    /// Reads once, into the inbox, of a plain connection up to `max` bytes. Of TLS, the count is of what was read, which may
    /// be no data.
    pub(super) fn fill(&self, max: usize, held: &mut Option<Rc<Vec<u8>>>, waits: bool) -> io::Result<usize> {
        let mut buffer = self.engine.take_buffer();
        let space = Rc::get_mut(&mut buffer).ok_or(io::ErrorKind::WouldBlock)?;
        if self.is_tls() {
            let read = self.read_once(space, waits);
            let read = read.map(|count| self.decrypt(&buffer[..count], held));
            self.engine.give_buffer(buffer);
            return read;
        }
        let max = max.min(space.len());
        let read = self.read_once(&mut space[..max], waits);
        match read {
            Ok(0) => self.read_ended(),
            Ok(count) => self.io.receive(buffer.clone(), count),
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
                self.read_failed(error);
                false
            }
        }
    }

    /// Decrypts what was read into the inbox. An error of TLS waits until what came before it is delivered; so does the end.
    /// During the handshake nothing waits, and 0 says that it has failed.
    fn decrypt(&self, cipher: &[u8], held: &mut Option<Rc<Vec<u8>>>) -> usize {
        let mut plain = self.engine.take_plain();
        let Some(space) = Rc::get_mut(&mut plain) else { return 0 };
        let Some(decrypted) = self.channel().decrypt(cipher, space) else { return 0 };
        let is_shaking = self.is_shaking();
        let has_failed = decrypted.outcome.is_err();
        if let Err(error) = decrypted.outcome {
            self.change(|state| state.read.set(ReadHalf::DAMAGED, !cipher.is_empty()));
            self.cold(|cold| match &mut cold.handshake {
                Some(handshake) if is_shaking => drop(handshake.failure.replace(error)),
                _ => cold.end.note(&error),
            });
        }
        if decrypted.has_ended && !is_shaking {
            self.read_ended();
        }
        let length = plain.len();
        self.io.receive(plain.clone(), length);
        *held = Some(plain);
        if decrypted.has_answers && !is_shaking {
            self.cork();
        }
        if has_failed && is_shaking { 0 } else { cipher.len() }
    }

    /// Returns the buffer of a read, of which the inbox keeps a copy if something is left in it.
    #[inline]
    pub(super) fn give_back(&self, buffer: &mut Option<Rc<Vec<u8>>>) {
        if let Some(buffer) = buffer.take() {
            self.io.inbox(Inbox::settle);
            self.engine.give_buffer(buffer);
        }
    }

    /// Returns true if the read only found nothing. Any other error ends the connection.
    pub(super) fn read_failed(&self, error: io::Error) -> bool {
        if error.kind() == io::ErrorKind::WouldBlock {
            self.found_nothing();
            return true;
        }
        let error = Error::from_io(Operation::Read, self.peer_name(), error);
        self.finish(Reason::Failed(error), Manner::AtOnce);
        false
    }

    /// Nothing more comes, and all before it has been delivered.
    pub(super) fn end_of_stream(&self) {
        self.read_ended();
        let reason = self.if_cold(|cold| Some(cold.end.at_end_of_stream())).unwrap_or(Reason::Remote);
        if matches!(reason, Reason::Remote) && self.tell_half_close() {
            return;
        }
        self.finish(reason, Manner::Graceful);
    }

    /// Calls the callback for the peer's half-close, if there is one. Returns whether the connection goes on.
    fn tell_half_close(&self) -> bool {
        let callback = self.if_cold(|cold| cold.on_end.take());
        if let (Some(callback), Some(me)) = (callback, self.strong()) {
            self.change(|state| state.read.insert(ReadHalf::HALF_OPEN));
            let socket = Socket::from_conn(me);
            self.returned(call(&self.engine, || callback(&socket)));
        }
        self.state().stays_half_open(self.ready.get())
    }

    /// Looks into the kernel's buffer. Returns whether there is data. The end, or an error, ends the connection.
    pub(super) fn look_into_kernel(&self) -> bool {
        match self.transport.peek() {
            Ok(Peek::Data) => return true,
            Ok(Peek::Nothing) => self.found_nothing(),
            Ok(Peek::End) => self.end_of_stream(),
            Err(error) => {
                self.read_failed(error);
            }
        }
        false
    }

    // ---- to the reader ----

    /// Returns whether what was just read goes to the reader in one call, past the inbox.
    #[inline]
    fn fits_one_call(&self, count: usize) -> bool {
        !self.is(Look::PAUSED)
            && self.is(Look::READS_DATA)
            && !self.io.has_input()
            && count <= self.options(|options| options.read_size)
    }

    /// Delivers what was just read.
    #[inline(always)]
    pub(super) fn deliver_directly(self: &Rc<Self>, data: &[u8]) -> Delivered {
        self.mark(Look::READER_REPLACED, false);
        let mut reader = self.reader.take();
        let Some(user) = &mut reader else { return Delivered::Stop };
        let socket = Socket::from_conn(self.clone());
        // The clock is looked at by the caller, before the next read: this is all there is just now.
        let delivered = match call(&self.engine, || self.goes_on(user.data(&socket, data))) {
            Some(true) => Delivered::All,
            Some(false) => Delivered::Stop,
            None => {
                self.abort_silently();
                Delivered::Stop
            }
        };
        self.put_back(reader);
        delivered
    }

    /// Delivers what the inbox holds. After every call the state is looked at anew: the callback may have closed the
    /// connection, set another reader, or taken the rest away.
    pub(super) fn deliver(self: &Rc<Self>) -> Delivered {
        let kind = self.state().delivery.reader;
        if !self.io.has_input() && kind != Some(Kind::Raw) {
            return Delivered::All;
        }
        self.mark(Look::READER_REPLACED, false);
        let mut reader = self.reader.take();
        let (Some(user), Some(kind)) = (reader.as_deref_mut(), kind) else { return Delivered::Stop };
        let socket = Socket::from_conn(self.clone());
        let delivered = match kind {
            Kind::Raw => self.deliver_ready(user, &socket),
            _ => loop {
                if let Some(enough) = self.deliver_piece(kind, user, &socket) {
                    break enough;
                }
            },
        };
        self.put_back(reader);
        delivered
    }

    /// Tells a raw reader that there is something: once in each turn.
    fn deliver_ready(self: &Rc<Self>, user: &mut dyn ReadCallback, socket: &Socket) -> Delivered {
        if !self.has_something() {
            return Delivered::Raw;
        }
        let result = call(&self.engine, || user.ready(socket));
        let Some(result) = result else {
            self.abort_silently();
            return Delivered::Stop;
        };
        let enough = self.enough(result);
        // Also if it has set itself anew.
        if self.is_open() { Delivered::Raw } else { enough.unwrap_or(Delivered::Stop) }
    }

    /// Delivers many short lines, or one piece. Returns how far that came, if it is to be all for now.
    fn deliver_piece(self: &Rc<Self>, kind: Kind, user: &mut dyn ReadCallback, socket: &Socket) -> Option<Delivered> {
        let (line_limit, read_size) = self.options(|options| (options.line_limit, options.read_size));
        // Most lines go this way, with one passage through the door for all of a batch.
        let lines = call(&self.engine, || match kind {
            Kind::Lines => each_line(&self.io, line_limit, |line: &str| self.enough(user.line(socket, line))),
            Kind::ByteLines => each_line(&self.io, line_limit, |line: &[u8]| self.enough(user.data(socket, line))),
            Kind::Data | Kind::Raw => None,
        });
        match lines {
            Some(None) => {}
            Some(enough) => return enough,
            None => return Some(self.panicked()),
        }
        let piece = match kind {
            Kind::Data => self.io.inbox(|inbox| Ok(inbox.next_chunk(read_size))),
            _ => self.io.inbox(|inbox| inbox.next_line(line_limit)),
        };
        let piece = match piece.unwrap_or(Ok(None)) {
            Ok(Some(piece)) => piece,
            Ok(None) => return Some(Delivered::All),
            Err(TooLong) => {
                self.refuse_line(line_limit);
                return Some(Delivered::Stop);
            }
        };
        let result = call(&self.engine, || match kind {
            Kind::Lines => with_text(piece.as_slice(), |text| user.line(socket, text)),
            _ => user.data(socket, piece.as_slice()),
        });
        match result {
            Some(result) => self.enough(result),
            None => Some(self.panicked()),
        }
    }

    fn panicked(&self) -> Delivered {
        self.abort_silently();
        Delivered::Stop
    }

    /// The reader is back from its calls. It stays, unless there is another by now.
    #[inline(always)]
    fn put_back(&self, reader: Option<Box<dyn ReadCallback>>) {
        if !self.is(Look::READER_REPLACED | Look::ENDED) {
            let none = self.reader.replace(reader);
            // Dropping it would take a call for nothing.
            if none.is_none() {
                std::mem::forget(none);
            }
        } else {
            // It captured who knows what: nothing is borrowed here.
            drop(reader);
        }
    }

    /// A callback has returned this. Returns how far delivery came if nothing more is to be delivered just now.
    #[inline]
    fn enough(&self, result: Result) -> Option<Delivered> {
        let goes_on = self.goes_on(result);
        let time_up = self.engine.spent();
        if time_up && self.is_open() {
            Some(Delivered::TimeUp)
        } else if goes_on {
            None
        } else {
            Some(Delivered::Stop)
        }
    }

    /// The same, but for the time.
    #[inline]
    fn goes_on(&self, result: Result) -> bool {
        if let Err(error) = result {
            self.finish(Reason::Failed(error), Manner::Graceful);
        }
        !self.is(Look::ENDED | Look::PAUSED | Look::READER_REPLACED)
    }

    /// Returns whether there is anything for a raw reader.
    fn has_something(&self) -> bool {
        if self.io.has_input() {
            return true;
        }
        if !self.has_read_all() && !self.is_tls() {
            return self.may_read() && self.look_into_kernel();
        }
        while self.may_read() && !self.has_read_all() {
            let mut held = None;
            let something = self.fill_sealed(&mut held);
            self.give_back(&mut held);
            if self.io.has_input() {
                return true;
            }
            if !something {
                return false;
            }
        }
        if self.has_read_all() {
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
        let at_end = self.ready.get().has(Ready::AT_END) || self.has_read_all();
        if self.is_open() && (at_end || self.is(Look::INPUT_AWAITED)) {
            self.wake();
        }
    }

    /// A read for somebody who asks has failed. Returns `Ok` if it only found nothing.
    pub(super) fn reading_failed(&self, error: io::Error) -> Result {
        let copy = again(&error);
        if self.read_failed(error) { Ok(()) } else { Err(Error::from_io(Operation::Read, self.peer_name(), copy)) }
    }

    /// The end, for somebody who asks. The loop is told as well.
    pub(super) fn end_for_caller(&self) -> Error {
        self.change(|state| state.read.insert(ReadHalf::CALLER_KNOWS));
        self.wake();
        self.closed()
    }

    /// Returns whether the peer has said all that it had to say. Not if the connection was cut off, nor if it was closed here
    /// first.
    pub(crate) fn has_ended_cleanly(&self) -> bool {
        self.has_read_all() && self.if_cold(|cold| Some(cold.end.is_clean())).unwrap_or(true)
    }

    /// A line over the limit is the end of the connection, and must not look to the peer as if all were well. Returns the error
    /// for whoever asked.
    pub(super) fn refuse_line(&self, limit: usize) -> Error {
        let error = || Error::LineTooLong { peer: self.peer_name(), limit };
        self.finish(Reason::Failed(error()), Manner::Reset);
        error()
    }
}
