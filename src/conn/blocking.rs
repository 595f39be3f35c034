//! Blocking calls: what they take from the inbox, and how they wait for input and for room to send. Whatever ends such
//! a call, what has come stays in the inbox for the next one.

use std::os::fd::{BorrowedFd, OwnedFd};
#[cfg(feature = "http")]
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::copying::copy;
use super::framing::Framing;
use super::idle::Traffic;
use super::inbox::{Inbox, Mark, Piece, Search, Taken, TooLong};
use super::line_ending::LineRule;
#[cfg(feature = "http")]
use super::{Common, Transport};
use super::{Conn, Options, far_end, probing};
use crate::engine::{Engine, READ_BUFFER};
use crate::error::{Error, Operation, Result};
use crate::sys::{self, interrupts_here};

/// When a blocking call gives up.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    /// The timeout. `None`: no timeout.
    limit: Option<Duration>,
    end: Option<Instant>,
}

impl Deadline {
    /// After that time from now on, or never.
    pub(super) fn after(limit: Option<Duration>) -> Self {
        // One that lies further away than time goes is none.
        let end = limit.and_then(|limit| sys::now().checked_add(limit));
        Deadline { limit: limit.filter(|_| end.is_some()), end }
    }

    fn is_endless(self) -> bool {
        self.end.is_none()
    }

    /// The call is not to wait at all.
    fn forbids_waiting(self) -> bool {
        self.limit == Some(Duration::ZERO)
    }

    fn left(self) -> Option<Duration> {
        self.end.map(|end| end.saturating_duration_since(sys::now()))
    }
}

impl Conn {
    /// Begins a blocking call.
    pub(crate) fn blocking(&self) -> Blocking<'_> {
        Blocking { conn: self, deadline: Deadline::after(self.options(|options| options.timeout)) }
    }

    /// Takes so many of the bytes that were lent at that mark.
    pub(crate) fn skip(&self, mark: Mark, count: usize) {
        self.io.inbox(|inbox| inbox.skip(mark, count));
        self.taken();
    }

    /// Hands the descriptor over to somebody else. What was received and not delivered comes with it.
    pub(crate) fn take_descriptor(&self) -> Result<(OwnedFd, Vec<u8>)> {
        if !self.is_open() || !self.transport.is_socket() {
            return Err(self.closed());
        }
        if self.is_tls() {
            let peer = self.peer_name();
            return Err(Error::Unsupported(format!("cannot convert a TLS connection ({peer}) into a file descriptor")));
        }
        self.blocking().flush()?;
        let (fd, leftover) = self.blocking().take_apart()?;
        let _ = rustix::io::ioctl_fionbio(&fd, false);
        Ok((fd, leftover))
    }

    /// Waits for something to read, or for room to write, whichever of the two is asked for.
    pub(super) fn wait(&self, read: bool, write: bool, deadline: Deadline, operation: Operation) -> Result {
        let waited = self.transport.wait(read, write, deadline.left());
        match (waited, deadline.limit) {
            (Ok(true), _) | (Ok(false), None) => Ok(()),
            (Ok(false), Some(limit)) => Err(Error::TimedOut { operation, address: self.peer_name(), limit }),
            (Err(error), _) => Err(Error::from_io(operation, self.peer_name(), error)),
        }
    }
}

/// A blocking call that goes on.
pub(crate) struct Blocking<'a> {
    conn: &'a Conn,
    deadline: Deadline,
}

impl Blocking<'_> {
    // ---- to other hands ----

    /// Lets go of the descriptor, and of what was received and not delivered. Nobody hears of that.
    fn take_apart(&self) -> Result<(OwnedFd, Vec<u8>)> {
        let conn = self.conn;
        conn.remote();
        if let Some(key) = conn.key.take() {
            conn.engine.deregister(key);
        }
        if let Some(fd) = conn.transport.socket_fd() {
            let _ = probing::stop(conn, fd);
        }
        let leftover = conn.io.take_input();
        let fd = conn.transport.take().ok_or_else(|| conn.closed())?;
        conn.abort_silently();
        Ok((fd, leftover))
    }

    /// Moves the connection, with its session and what was received and not delivered, to another main context of this thread:
    /// from the private one on which a blocking call has made it to the caller's. The callbacks stay behind, and are dropped.
    ///
    /// # Errors
    /// The error of a connection that has ended or has no socket, or of registering it there.
    #[cfg(feature = "http")]
    pub(crate) fn move_to(&self, engine: &Rc<Engine>) -> Result<Rc<Conn>> {
        let conn = self.conn;
        if !conn.is_open() || !conn.transport.is_socket() {
            return Err(conn.closed());
        }
        self.flush()?;
        let (remote, options) = (conn.remote(), conn.options(Clone::clone));
        let session = conn.extras.get().and_then(|extras| extras.session.take());
        let (fd, leftover) = self.take_apart()?;
        let common = Rc::<Common>::from(options);
        conn.common.peer.get().into_iter().for_each(|peer| common.set_peer(peer.clone()));
        let moved = Conn::new(engine, Transport::socket(fd, Some(&remote)), common, Some(remote))?;
        match session {
            Some(sealed) => moved.handshaking().take_over(sealed.session, leftover),
            None => moved.give_back_input(&leftover),
        }
        Ok(moved)
    }

    // ---- receiving ----

    /// Takes what `take` finds in the inbox once there is enough for that.
    fn take<R>(&self, max: usize, mut take: impl FnMut(&mut Inbox, LineRule) -> Taken<R>) -> Result<R> {
        let rule = self.conn.options(Options::line_rule);
        loop {
            let taken = self.conn.io.inbox(|inbox| take(inbox, rule)).unwrap_or(Ok(None));
            match taken {
                Ok(Some(taken)) => {
                    self.conn.taken();
                    return Ok(taken);
                }
                Ok(None) => self.receive(max)?,
                Err(TooLong) => return Err(self.conn.refuse(TooLong, rule.limit)),
            }
        }
    }

    /// Waits for data and takes up to `max` bytes of it.
    pub(crate) fn recv(&self, max: usize) -> Result<Vec<u8>> {
        let max = max.clamp(1, READ_BUFFER);
        self.take(max, |inbox, _| Ok(inbox.next_chunk(max).map(Piece::into_vec)))
    }

    /// Waits for a whole line. What comes after it stays for the next call.
    pub(crate) fn recv_line(&self) -> Result<String> {
        let line = self.take(READ_BUFFER, |inbox, rule| inbox.next_line(rule))?;
        Ok(String::from_utf8_lossy(line.as_slice()).into_owned())
    }

    /// Waits for a whole frame and returns its message.
    pub(crate) fn recv_frame(&self, framing: Framing) -> Result<Vec<u8>> {
        framing.check()?;
        let take = |inbox: &mut Inbox, rule: LineRule| {
            Ok(inbox.next_frame(framing, rule.limit).map_err(|refusal| (refusal, rule.limit)).transpose())
        };
        let message = self.take(READ_BUFFER, take)?;
        Ok(message.map_err(|(refusal, limit)| self.conn.refuse(refusal, limit))?.into_vec())
    }

    /// Waits for data and puts it where the caller wants it.
    pub(crate) fn recv_into(&self, buffer: &mut [u8]) -> Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if !self.conn.is_tls() && !self.conn.io.has_input() {
            return self.receive_into(buffer);
        }
        let piece = self.take(READ_BUFFER, |inbox, _| Ok(inbox.next_chunk(buffer.len())))?;
        let bytes = piece.as_slice();
        copy(buffer, bytes);
        Ok(bytes.len())
    }

    /// Waits for exactly so many bytes.
    pub(crate) fn recv_exact(&self, count: usize) -> Result<Piece> {
        if count == 0 {
            return Ok(Piece::Owned(Vec::new()));
        }
        self.take(READ_BUFFER, |inbox, _| Ok(inbox.take(count)))
    }

    /// Waits for these bytes and returns what is before them.
    pub(crate) fn recv_until(&self, what: &[u8]) -> Result<Vec<u8>> {
        let mut search = Search::default();
        if what.is_empty() {
            return Ok(Vec::new());
        }
        self.take(READ_BUFFER, |inbox, rule| inbox.take_until(what, rule.limit, &mut search))
    }

    /// Waits for the peer's end and returns all that comes before it.
    pub(crate) fn recv_to_end(&self, limit: usize) -> Result<Vec<u8>> {
        loop {
            if self.conn.io.received() > limit {
                return Err(Error::LimitExceeded { peer: self.conn.peer_name(), limit });
            }
            if let Err(error) = self.receive(READ_BUFFER) {
                return if self.conn.has_ended_cleanly() { Ok(self.conn.take_leftover()) } else { Err(error) };
            }
        }
    }

    /// Waits for data and lends it, to be taken by [`Conn::skip`]. `None` at the end.
    pub(crate) fn lend(&self) -> Result<Option<(Piece, Mark)>> {
        loop {
            if let Some(lent) = self.conn.io.inbox(Inbox::lend).flatten() {
                return Ok(Some(lent));
            }
            if let Err(error) = self.receive(READ_BUFFER) {
                return if self.conn.has_ended_cleanly() { Ok(None) } else { Err(error) };
            }
        }
    }

    /// Waits for a descriptor. Bytes that come before it stay.
    pub(crate) fn recv_fd(&self) -> Result<OwnedFd> {
        let limit = self.conn.options(|options| options.line_limit);
        loop {
            if let Some(fd) = self.conn.transport.next_descriptor() {
                return Ok(fd);
            }
            let peer = || self.conn.peer_name();
            if !self.conn.transport.accepts_descriptors() {
                let text = format!("file descriptors from {} are not accepted; enable them with accept_fds", peer());
                return Err(Error::Unsupported(text));
            }
            if self.conn.io.received() > limit {
                return Err(Error::LimitExceeded { peer: peer(), limit });
            }
            self.receive(READ_BUFFER)?;
        }
    }

    /// Waits for something to come and puts it into the inbox, of a plain connection no more than `max` bytes.
    fn receive(&self, max: usize) -> Result {
        let mut held = None;
        loop {
            let waits = self.before_read()?;
            let read = self.conn.input().fill(max, &mut held, waits);
            self.conn.input().give_back(&mut held);
            // The connection stays open for sending until the loop's next turn, or for good where none runs. And TLS has
            // more to say than data.
            if self.after_read(read)?.is_some() && self.conn.io.has_input() {
                return Ok(());
            }
        }
    }

    /// Waits for something to come and puts it where the caller wants it. For a plain connection with an empty inbox.
    fn receive_into(&self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            let waits = self.before_read()?;
            let read = self.conn.input().read_once(buffer, waits);
            if matches!(read, Ok(0)) {
                self.conn.status.read_ended();
            }
            if let Some(count) = self.after_read(read)?.filter(|count| *count > 0) {
                return Ok(count);
            }
        }
    }

    /// Prepares a read. True if the read itself is to wait, which saves a call. Else it waits here, if nothing is
    /// known to be there.
    fn before_read(&self) -> Result<bool> {
        let conn = self.conn;
        self.complete_handshake()?;
        if !conn.is_open() || conn.status.has_read_all() {
            return Err(conn.end_for_caller());
        }
        if conn.status.may_read() || self.deadline.forbids_waiting() {
            return Ok(false);
        }
        if self.deadline.is_endless() {
            Engine::flush_here();
            if !conn.is_sending() && conn.transport.can_wait() && interrupts_here().is_none() {
                far_end::check(conn, true, false)?;
                return Ok(true);
            }
        }
        self.wait_for_input()?;
        Ok(false)
    }

    /// Handles the result of a read. `None` if it has found nothing, and the time is not up.
    fn after_read(&self, read: std::io::Result<usize>) -> Result<Option<usize>> {
        match read {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                self.wait_for_input()?;
                Ok(None)
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(None),
            Err(error) => self.conn.input().failed_for_caller(error).map(|()| None),
        }
    }

    // ---- sending ----

    /// Waits until the kernel has everything.
    pub(crate) fn flush(&self) -> Result {
        Engine::flush_here();
        self.complete_handshake()?;
        while self.conn.is_sending() {
            self.wait_for_peer(false, true, Operation::Send)?;
            self.conn.output().send();
        }
        self.conn.was_sent()
    }

    /// Waits for room and gives the kernel what it takes, after all that was sent before.
    pub(crate) fn send_some(&self, bytes: &[u8]) -> Result<usize> {
        if bytes.is_empty() {
            return if self.conn.status.get().may_send() {
                self.conn.check_sent().map(|()| 0)
            } else {
                Err(self.conn.closed())
            };
        }
        self.send_when_empty(|| self.conn.output().write(bytes), |_| true)
    }

    /// Waits for room and gives the kernel descriptors and bytes, of which the rest is queued.
    pub(crate) fn send_fds(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result {
        let conn = self.conn;
        let limit = conn.options(|options| options.send_limit);
        if bytes.len() > limit {
            let (peer, queued) = (conn.peer_name(), conn.queued());
            return Err(Error::QueueFull { peer, size: bytes.len(), queued, limit, option: "send_limit" });
        }
        if conn.is_tls() {
            let text = format!(
                "cannot pass file descriptors to {}: TLS would not protect what goes with them",
                conn.peer_name()
            );
            return Err(Error::Unsupported(text));
        }
        let send = || conn.transport.write_with_descriptors(bytes, fds);
        // An error of the descriptors is not one of the connection.
        let is_lasting = |kind| matches!(kind, std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe);
        let count = self.send_when_empty(send, is_lasting)?;
        conn.touch(Traffic::Sent);
        if count < bytes.len() { conn.send(&bytes[count..], false) } else { Ok(()) }
    }

    /// Waits until all that was sent before has gone out and there is room. An error that `ends` the connection does
    /// so.
    fn send_when_empty(
        &self,
        write: impl Fn() -> std::io::Result<usize>,
        ends: impl Fn(std::io::ErrorKind) -> bool,
    ) -> Result<usize> {
        let conn = self.conn;
        self.complete_handshake()?;
        loop {
            if !conn.status.get().may_send() {
                return Err(conn.closed());
            }
            conn.check_sent()?;
            conn.output().send_or_requeue();
            if conn.queued() == 0 {
                match write() {
                    Ok(count) => {
                        if conn.channel().holds_output() {
                            // The session has taken it, the kernel has not.
                            conn.arm_write(true);
                        }
                        return Ok(count);
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) if ends(error.kind()) => return Err(conn.output().failed(error)),
                    Err(error) => return Err(Error::from_io(Operation::Send, conn.peer_name(), error)),
                }
            }
            Engine::flush_here();
            self.wait_for_peer(false, true, Operation::Send)?;
        }
    }

    // ---- waiting ----

    /// Waits for the end of a handshake that goes on in the background: before, nothing can be received, and nothing that
    /// is sent goes out.
    fn complete_handshake(&self) -> Result {
        let Some(conn) = self.conn.strong().filter(|conn| conn.is_shaking()) else { return Ok(()) };
        let comes_first = |own: &Deadline| match (own.left(), self.deadline.left()) {
            (Some(own), Some(limit)) => own < limit,
            (own, _) => own.is_some(),
        };
        let own = conn.handshaking().deadline().filter(comes_first);
        loop {
            Engine::flush_here();
            // What has come in time counts, however late this is called.
            conn.shake_on();
            if !conn.is_shaking() {
                return Ok(());
            }
            let holds_output = conn.channel().holds_output();
            let Some(own) = own else {
                self.wait_for_peer(true, holds_output, Operation::Handshake)?;
                continue;
            };
            match conn.wait(true, holds_output, own, Operation::Handshake) {
                Err(Error::TimedOut { limit, .. }) => conn.handshake_is_late(limit),
                waited => waited?,
            }
        }
    }

    /// Waits until there is something to read. What is queued goes out meanwhile: the peer may wait for it.
    fn wait_for_input(&self) -> Result {
        Engine::flush_here();
        let is_sending = self.conn.is_sending();
        self.wait_for_peer(true, is_sending, Operation::Wait)?;
        if is_sending {
            self.conn.output().send();
        }
        Ok(())
    }

    /// As [`Conn::wait`], for a call that a timeout of zero makes a non-blocking one.
    fn wait_for_peer(&self, read: bool, write: bool, operation: Operation) -> Result {
        if self.deadline.is_endless() {
            far_end::check(self.conn, read, write)?;
        }
        self.conn.wait(read, write, self.deadline, operation).map_err(|error| match error {
            Error::TimedOut { limit, address, .. } if limit.is_zero() => Error::NotReady { peer: address },
            other => other,
        })
    }
}
