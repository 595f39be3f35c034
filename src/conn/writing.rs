//! The sending half: what is sent inside a turn of the loop is gathered and goes out at its end, with everything else;
//! outside of one it goes out at once, and what the kernel does not take waits.

use super::handler::Reason;
use super::{Conn, Flushed, Phase};
use crate::engine::{Engine, Next, Ready};
use crate::error::{Error, Result};

/// From this many bytes on, gathering would cost more in copies than it saves in calls.
const GATHER: usize = 64 << 10;

/// The most that one call gives to the kernel, and so many calls in one turn: a queue of megabytes must not hold up the
/// others.
const PORTION: usize = 256 << 10;
const PORTIONS: usize = 4;

impl Conn {
    pub(crate) fn send(&self, bytes: &[u8], newline: bool) -> Result {
        if !self.is_open() || self.write_ending.get() {
            return Err(self.closed());
        }
        let size = bytes.len() + usize::from(newline);
        self.check_sent()?;
        let mut io = self.io.borrow_mut();
        let queued = io.outbox.len();
        let limit = self.options.borrow().send_limit;
        if size > limit.saturating_sub(queued) {
            return Err(Error::QueueFull { peer: self.peer_name(), size, queued, limit });
        }
        let gathers = self.engine.in_turn() && queued + size < GATHER;
        let mut rest = bytes;
        if queued == 0 && !gathers && !newline {
            // Straight from the caller's memory.
            match self.write_some(bytes) {
                Ok(count) => rest = &bytes[count..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    drop(io);
                    return Err(self.write_failed(error));
                }
            }
            if rest.is_empty() {
                drop(io);
                if self.session_waits() {
                    // The session has taken it, the kernel has not.
                    self.arm_write(true);
                }
                return Ok(());
            }
        }
        io.outbox.push(rest);
        if newline {
            io.outbox.push(b"\n");
        }
        drop(io);
        if self.engine.in_turn() {
            self.mark_dirty();
            if !gathers {
                self.write_out();
            }
        } else if !self.write_armed.get() {
            self.write_or_requeue();
        }
        Ok(())
    }

    pub(super) fn mark_dirty(&self) {
        if let Some(key) = self.key.get()
            && !self.dirty.replace(true)
        {
            self.engine.mark_dirty(key);
        }
    }

    /// Gives the kernel what it takes. `Again`: it takes more, but the share of this turn is used up.
    pub(super) fn write_out(&self) -> Next {
        let mut io = self.io.borrow_mut();
        for _ in 0..PORTIONS {
            let front = io.outbox.front();
            if front.is_empty() {
                break;
            }
            let portion = &front[..front.len().min(PORTION)];
            match self.write_some(portion) {
                Ok(count) => io.outbox.advance(count),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    drop(io);
                    // During the hand-shake it is the peer's turn, unless we have something to say.
                    self.arm_write(!self.shaking.get() || self.session_waits());
                    return Next::Idle;
                }
                Err(error) => {
                    drop(io);
                    self.write_failed(error);
                    return Next::Idle;
                }
            }
        }
        let more = !io.outbox.is_empty();
        drop(io);
        if more {
            return Next::Again;
        }
        match self.write_session() {
            Ok(()) => self.queue_is_empty(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => self.arm_write(true),
            Err(error) => {
                self.write_failed(error);
            }
        }
        Next::Idle
    }

    /// Is there anything that the kernel has not taken yet?
    pub(super) fn is_sending(&self) -> bool {
        // What a session holds when sending has failed stays there.
        !self.io.borrow().outbox.is_empty() || (self.session_waits() && !self.has_write_error())
    }

    fn has_write_error(&self) -> bool {
        self.rare.borrow().as_ref().is_some_and(|rare| rare.write_error.is_some())
    }

    /// Gives the kernel what it takes, on later turns too.
    pub(super) fn write_or_requeue(&self) {
        if self.write_out() == Next::Again
            && let Some(key) = self.key.get()
        {
            self.engine.requeue_write(key);
        }
    }

    fn queue_is_empty(&self) {
        self.arm_write(false);
        if self.write_ending.get() {
            self.end_writing();
        }
        self.tell_flushed(true);
    }

    fn arm_write(&self, armed: bool) {
        if self.write_armed.replace(armed) != armed {
            self.arm();
        }
    }

    /// Tells the engine what is waited for.
    pub(super) fn arm(&self) {
        if let Some(key) = self.key.get() {
            // A descriptor that is at its end tells so for ever.
            let discards = self.phase.get() == Phase::Lingering && self.transport.is_socket();
            let read = (self.has_reader.get() || discards) && !self.read_ended.get();
            self.engine.set_interest(key, read, self.write_armed.get());
        }
    }

    /// Sending failed: nothing more can go out. What the peer sent before it left is still read, by whoever reads.
    fn write_failed(&self, error: std::io::Error) -> Error {
        let peer = self.peer_name();
        let copy = match error.kind() {
            std::io::ErrorKind::ConnectionReset => Error::Reset { peer: peer.clone() },
            _ => Error::Closed { peer: peer.clone() },
        };
        let error = Error::from_io("sending to", peer, error);
        self.io.borrow_mut().outbox.clear();
        self.rare(|rare| rare.lost = true);
        self.arm_write(false);
        self.tell_flushed(false);
        let is_lasting = matches!(error, Error::Reset { .. } | Error::Closed { .. });
        if !self.is_open() {
            self.let_go();
        } else if !is_lasting {
            // The system's fault, not the peer's: no end would follow.
            self.finish(Reason::Failed(error), false);
        } else {
            self.rare(|rare| {
                rare.write_error.get_or_insert(error);
            });
            if !self.transport.is_socket() {
                self.lose_output();
            }
            self.expect_end();
        }
        copy
    }

    /// Whoever reads our output has gone. What waits in the input is another matter, as the last words of a child are: it
    /// is read first, see [`Conn::finish_without_output`].
    pub(super) fn lose_output(&self) {
        self.output_gone.set(true);
        // Until a read finds nothing.
        self.sticky.set(self.sticky.get() | Ready::READ | Ready::ERROR);
    }

    /// There is nothing to read just now, and nobody to write to.
    pub(super) fn finish_without_output(&self) {
        if self.is_open() {
            let error = self.rare(|rare| rare.write_error.take());
            self.finish(Reason::Failed(error.unwrap_or_else(|| self.closed())), false);
        }
    }

    // ---- half-close ----

    /// Closes the sending half once the queue is empty.
    pub(crate) fn shutdown_write(&self) -> Result {
        if !self.is_open() {
            return Err(self.closed());
        }
        if !self.write_ending.replace(true) && !self.is_sending() {
            self.end_writing();
        }
        Ok(())
    }

    pub(super) fn end_writing(&self) {
        if self.write_ended.replace(true) {
            return;
        }
        self.write_ending.set(true);
        self.close_notify();
        match self.write_session() {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                // Once that is out this comes again.
                self.write_ended.set(false);
                self.arm_write(true);
                return;
            }
            // It can only fail on a connection that is broken already, which reading will find.
            _ => {}
        }
        if !self.transport.is_socket()
            && let Some(key) = self.key.get()
        {
            self.engine.deregister_output(key);
        }
        let closes_at_once = self.phase.get() == Phase::Lingering && self.read_ended.get() && !self.damaged.get();
        if !closes_at_once {
            let _ = self.transport.shutdown_write();
        }
        if self.half_open.get() {
            // Both directions have ended.
            self.wake();
        }
    }

    // ---- flushing ----

    /// Waits until the kernel has everything.
    pub(crate) fn flush_blocking(&self) -> Result {
        for engine in Engine::all_here() {
            engine.flush();
        }
        let deadline = self.deadline();
        while self.is_sending() {
            self.wait(false, true, deadline, "sending to")?;
            self.write_out();
        }
        self.check_sent()
    }

    fn check_sent(&self) -> Result {
        match self.rare.borrow().as_ref().and_then(|rare| rare.write_error.as_ref()) {
            Some(Error::Reset { peer }) => Err(Error::Reset { peer: peer.clone() }),
            Some(_) => Err(self.closed()),
            None => Ok(()),
        }
    }

    /// Calls on a later turn, when the kernel has everything or the connection has failed. Gives a number for
    /// [`Conn::forget_flushed`].
    pub(crate) fn when_flushed(&self, done: Flushed) {
        if !self.is_sending() {
            let lost = self.rare.borrow().as_ref().is_some_and(|rare| rare.lost);
            let result = if lost { Err(self.closed()) } else { self.check_sent() };
            self.engine.defer(move |engine| done(engine, result));
        } else {
            self.rare(|rare| rare.flushed.push(done));
        }
    }

    pub(super) fn tell_flushed(&self, sent: bool) {
        if self.rare.borrow().is_none() {
            return;
        }
        for done in self.rare(|rare| std::mem::take(&mut rare.flushed)) {
            let result = if sent { Ok(()) } else { Err(self.closed()) };
            self.engine.defer(move |engine| done(engine, result));
        }
    }
}
