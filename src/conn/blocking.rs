//! Blocking calls: what they take from the inbox, and how they wait for input and for room to send. Whatever ends such a
//! call, what has come stays in the inbox for the next one.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

use super::Conn;
use super::flags::Flag;
use super::inbox::{Inbox, Mark, Piece, TooLong};
use crate::engine::{Engine, READ_BUFFER, Ready};
use crate::error::{Error, Result};
use crate::sys::interrupts_here;

/// When a blocking call gives up, and after how long that is.
pub(super) type Deadline = Option<(Instant, std::time::Duration)>;

impl Conn {
    /// Waits for data and takes up to `max` bytes of it.
    pub(crate) fn recv(&self, max: usize) -> Result<Vec<u8>> {
        let max = max.clamp(1, READ_BUFFER);
        let deadline = self.deadline();
        loop {
            if let Some(piece) = self.io.inbox(|inbox| inbox.next_chunk(max)).flatten() {
                self.taken();
                return Ok(piece.as_slice().to_vec());
            }
            self.receive(max, deadline)?;
        }
    }

    /// Waits for a whole line. What comes after it stays for the next call.
    pub(crate) fn recv_line(&self) -> Result<String> {
        let limit = self.options(|options| options.line_limit);
        let deadline = self.deadline();
        loop {
            let line = self.io.inbox(|inbox| inbox.next_line(limit)).unwrap_or(Ok(None));
            match line {
                Ok(Some(line)) => {
                    self.taken();
                    return Ok(String::from_utf8_lossy(line.as_slice()).into_owned());
                }
                Ok(None) => {}
                Err(TooLong) => {
                    return Err(self.refuse_line(limit));
                }
            }
            self.receive(READ_BUFFER, deadline)?;
        }
    }

    /// Waits for data and puts it where the caller wants it.
    pub(crate) fn recv_into(&self, buffer: &mut [u8]) -> Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let deadline = self.deadline();
        if !self.is_tls() && !self.io.has_input() {
            return self.receive_into(buffer, deadline);
        }
        loop {
            if let Some(piece) = self.io.inbox(|inbox| inbox.next_chunk(buffer.len())).flatten() {
                self.taken();
                let bytes = piece.as_slice();
                buffer[..bytes.len()].copy_from_slice(bytes);
                return Ok(bytes.len());
            }
            self.receive(READ_BUFFER, deadline)?;
        }
    }

    /// Waits for exactly so many bytes.
    pub(crate) fn recv_exact(&self, count: usize) -> Result<Piece> {
        let deadline = self.deadline();
        loop {
            let piece = self.io.open().inbox.take(count);
            if let Some(piece) = piece {
                self.taken();
                return Ok(piece);
            }
            self.receive(READ_BUFFER, deadline)?;
        }
    }

    /// Waits for these bytes and returns what is before them.
    pub(crate) fn recv_until(&self, what: &[u8]) -> Result<Vec<u8>> {
        let limit = self.options(|options| options.line_limit);
        let deadline = self.deadline();
        // So many bytes are known to be others. Nobody else takes any during this call.
        let mut searched = 0;
        loop {
            let mut io = self.io.open();
            let found = io.inbox.find(what, searched);
            let length = found.unwrap_or((io.inbox.len() + 1).saturating_sub(what.len()));
            if length > limit {
                drop(io);
                return Err(self.refuse_line(limit));
            }
            if found.is_some()
                && let Some(piece) = io.inbox.take(length + what.len())
            {
                drop(io);
                self.taken();
                let mut bytes = piece.into_vec();
                bytes.truncate(length);
                return Ok(bytes);
            }
            searched = length;
            drop(io);
            self.receive(READ_BUFFER, deadline)?;
        }
    }

    /// Waits for the peer's end and returns all that comes before it.
    pub(crate) fn recv_to_end(&self, limit: usize) -> Result<Vec<u8>> {
        let deadline = self.deadline();
        loop {
            if self.io.received() > limit {
                return Err(Error::LimitExceeded { peer: self.peer_name(), limit });
            }
            if let Err(error) = self.receive(READ_BUFFER, deadline) {
                return if self.has_ended_cleanly() { Ok(self.take_leftover()) } else { Err(error) };
            }
        }
    }

    /// Waits for data and lends it, to be taken by [`Conn::skip`]. `None` at the end.
    pub(crate) fn lend(&self) -> Result<Option<(Piece, Mark)>> {
        let deadline = self.deadline();
        loop {
            if let Some(lent) = self.io.inbox(Inbox::lend).flatten() {
                return Ok(Some(lent));
            }
            if let Err(error) = self.receive(READ_BUFFER, deadline) {
                return if self.has_ended_cleanly() { Ok(None) } else { Err(error) };
            }
        }
    }

    pub(crate) fn skip(&self, mark: Mark, count: usize) {
        self.io.inbox(|inbox| inbox.skip(mark, count));
        self.taken();
    }

    /// Waits for a descriptor. Bytes that come before it stay.
    pub(crate) fn recv_fd(&self) -> Result<OwnedFd> {
        let limit = self.options(|options| options.line_limit);
        let deadline = self.deadline();
        loop {
            if let Some(fd) = self.transport.next_descriptor() {
                return Ok(fd);
            }
            if !self.transport.accepts_descriptors() {
                let peer = self.peer_name();
                let text = format!("descriptors of {peer} are turned away; accept_fds lets them in");
                return Err(Error::Unsupported(text));
            }
            if self.io.received() > limit {
                return Err(Error::LimitExceeded { peer: self.peer_name(), limit });
            }
            self.receive(READ_BUFFER, deadline)?;
        }
    }

    /// Waits for room and gives the system what it takes, after all that was sent before.
    pub(crate) fn send_some(&self, bytes: &[u8]) -> Result<usize> {
        if bytes.is_empty() {
            return if self.is_open() && !self.flags.has(Flag::WRITE_ENDING) {
                self.check_sent().map(|()| 0)
            } else {
                Err(self.closed())
            };
        }
        self.send_when_empty(|| self.write_some(bytes), true)
    }

    /// Waits for room and gives the system descriptors and bytes, of which the rest is queued.
    pub(crate) fn send_fds(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result {
        let limit = self.options(|options| options.send_limit);
        if bytes.len() > limit {
            return Err(Error::QueueFull { peer: self.peer_name(), size: bytes.len(), queued: self.queued(), limit });
        }
        let count = self.send_when_empty(|| self.transport.write_with_descriptors(bytes, fds), false)?;
        self.touch();
        if count < bytes.len() { self.send(&bytes[count..], false) } else { Ok(()) }
    }

    /// Waits until all that was sent before has gone out and there is room. An error of the connection's own ends it; does
    /// every other?
    fn send_when_empty(&self, write: impl Fn() -> std::io::Result<usize>, ends: bool) -> Result<usize> {
        use std::io::ErrorKind as Kind;
        let deadline = self.deadline();
        loop {
            if !self.is_open() || self.flags.has(Flag::WRITE_ENDING) {
                return Err(self.closed());
            }
            self.check_sent()?;
            self.write_or_requeue();
            if self.queued() == 0 {
                match write() {
                    Ok(count) => {
                        if self.session_waits() {
                            // The session has taken it, the kernel has not.
                            self.arm_write(true);
                        }
                        return Ok(count);
                    }
                    Err(error) => match error.kind() {
                        Kind::WouldBlock => {}
                        Kind::ConnectionReset | Kind::BrokenPipe => return Err(self.write_failed(error)),
                        _ if ends => return Err(self.write_failed(error)),
                        _ => return Err(Error::from_io("sending to", self.peer_name(), error)),
                    },
                }
            }
            Engine::flush_here();
            self.wait_for_peer(false, true, deadline, "sending to")?;
        }
    }

    // ---- waiting ----

    /// Waits for something to come and puts it into the inbox, of a plain connection no more than `max` bytes.
    pub(super) fn receive(&self, max: usize, deadline: Deadline) -> Result {
        let mut held = None;
        loop {
            let waits = self.before_read(deadline)?;
            let read = match self.is_tls() {
                true => self.read_session(&mut held, waits),
                false => self.read_plain(max, &mut held, waits),
            };
            self.give_back(&mut held);
            // The connection stays open for sending until the loop's next turn, or for good where none runs. And TLS has
            // more to say than data.
            if self.has_read(read, deadline)?.is_some() && self.io.has_input() {
                return Ok(());
            }
        }
    }

    /// Waits for something to come and puts it where the caller wants it. For a plain connection with an empty inbox.
    pub(super) fn receive_into(&self, buffer: &mut [u8], deadline: Deadline) -> Result<usize> {
        loop {
            let waits = self.before_read(deadline)?;
            let read = if waits { self.transport.read_waiting(buffer) } else { self.transport.read(buffer) };
            match read {
                Ok(0) => self.flags.raise(Flag::READ_ENDED),
                Ok(count) => self.note_read(count == buffer.len()),
                Err(_) => {}
            }
            if let Some(count) = self.has_read(read, deadline)?.filter(|count| *count > 0) {
                return Ok(count);
            }
        }
    }

    /// What comes before the read of a blocking call. True if the read itself is to wait, which saves a call. Else it
    /// waits here, if nothing is known to be there.
    fn before_read(&self, deadline: Deadline) -> Result<bool> {
        if !self.is_open() || self.flags.has(Flag::READ_ENDED) {
            return Err(self.end_for_caller());
        }
        if self.sticky.get().has(Ready::READ | Ready::HANGUP | Ready::ERROR) {
            return Ok(false);
        }
        match deadline {
            Some((_, limit)) if limit.is_zero() => return Ok(false),
            Some(_) => {}
            None => {
                Engine::flush_here();
                if !self.is_sending() && self.transport.can_wait() && interrupts_here().is_none() {
                    return Ok(true);
                }
            }
        }
        self.wait_for_input(deadline)?;
        Ok(false)
    }

    /// What comes after it. `None` if it has found nothing, and the time is not up.
    fn has_read(&self, read: std::io::Result<usize>, deadline: Deadline) -> Result<Option<usize>> {
        match read {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                self.sticky.set(self.sticky.get().without(Ready::READ | Ready::HANGUP | Ready::ERROR));
                self.wait_for_input(deadline)?;
                Ok(None)
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(None),
            Err(error) => self.reading_failed(error).map(|()| None),
        }
    }

    /// Has the peer said all that it had to say? Not if it was cut off, nor if this end was closed first.
    pub(crate) fn has_ended_cleanly(&self) -> bool {
        self.flags.has(Flag::READ_ENDED) && self.if_rare(|rare| rare.read_error.as_ref().map(drop)).is_none()
    }

    /// When a blocking call that starts now gives up, and after how long that is.
    pub(super) fn deadline(&self) -> Deadline {
        let limit = self.options(|options| options.timeout);
        limit.map(|limit| (Instant::now() + limit, limit))
    }

    /// Waits until there is something to read. What is queued goes out meanwhile: the peer may wait for it.
    fn wait_for_input(&self, deadline: Deadline) -> Result {
        Engine::flush_here();
        let sending = self.is_sending();
        self.wait_for_peer(true, sending, deadline, "waiting for")?;
        if sending {
            self.write_out();
        }
        Ok(())
    }

    /// As [`Conn::wait`], for a call that a time-out of zero makes a non-blocking one.
    pub(super) fn wait_for_peer(&self, read: bool, write: bool, deadline: Deadline, operation: &'static str) -> Result {
        self.wait(read, write, deadline, operation).map_err(|error| match error {
            Error::TimedOut { limit, address, .. } if limit.is_zero() => Error::NotReady { peer: address },
            other => other,
        })
    }

    pub(super) fn wait(&self, read: bool, write: bool, deadline: Deadline, operation: &'static str) -> Result {
        let left = deadline.map(|(end, _)| end.saturating_duration_since(Instant::now()));
        let waited = self.transport.wait(read, write, left);
        if self.flags.has(Flag::WATCHES_IDLENESS) && matches!(waited, Ok(true)) {
            // The turn may have begun long ago.
            self.more().touched.set(glib::monotonic_time());
        }
        match (waited, deadline) {
            (Ok(true), _) | (Ok(false), None) => Ok(()),
            (Ok(false), Some((_, limit))) => Err(Error::TimedOut { operation, address: self.peer_name(), limit }),
            (Err(error), _) => Err(Error::from_io(operation, self.peer_name(), error)),
        }
    }
}
