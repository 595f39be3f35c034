//! The sending half: what is sent inside a turn of the loop is gathered and goes out at its end, with everything else;
//! outside of one it goes out at once, and what the kernel does not take waits.

use super::flags::Flag;
use super::handler::Reason;
use super::{Conn, Flushed};
use crate::engine::{Engine, Next, Ready};
use crate::error::{Error, Result};

/// From this many bytes on, gathering would cost more in copies than it saves in calls.
const GATHER: usize = 64 << 10;

/// The most that one call gives to the kernel, and so many calls in one turn: a queue of megabytes must not hold up the
/// others.
pub(super) const PORTION: usize = 256 << 10;
const PORTIONS: usize = 4;

impl Conn {
    #[inline]
    pub(crate) fn send(&self, bytes: &[u8], newline: bool) -> Result {
        if self.engine.in_turn() && self.gather(bytes, newline) {
            return Ok(());
        }
        self.send_gathered(bytes, newline, self.engine.in_turn())
    }

    /// The way of most messages: queued until the turn ends. False if there is more to it than that; nothing is queued then.
    #[inline]
    pub(super) fn gather(&self, bytes: &[u8], newline: bool) -> bool {
        if self.flags.has(Flag::NOT_JUST_QUEUED) {
            return false;
        }
        let bound = self.options(|options| GATHER.min(options.send_limit).min(options.high_water_mark));
        let gathered = self.io.push(bytes, newline, bound);
        if gathered {
            self.mark_dirty();
        }
        gathered
    }

    /// What is gathered goes out before the loop sleeps.
    #[inline(never)]
    pub(super) fn send_gathered(&self, bytes: &[u8], newline: bool, gathered: bool) -> Result {
        if !self.is_open() || self.flags.has(Flag::WRITE_ENDING) {
            return Err(self.closed());
        }
        let size = bytes.len() + usize::from(newline);
        self.check_sent()?;
        if size == 0 {
            // A session that takes nothing is taken for broken.
            return Ok(());
        }
        let queued = self.io.queued();
        let (limit, high_water_mark) = self.options(|options| (options.send_limit, options.high_water_mark));
        if size > limit.saturating_sub(queued) {
            // Whoever waits for room now is to hear of it.
            self.flags.put(Flag::FULL, queued > 0);
            return Err(Error::QueueFull { peer: self.peer_name(), size, queued, limit });
        }
        let gathers = gathered && queued + size < GATHER;
        let mut rest = bytes;
        if queued == 0 && !gathers && !newline {
            // Straight from the caller's memory.
            match self.write_some(bytes) {
                Ok(count) => rest = &bytes[count..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(self.write_failed(error)),
            }
            if rest.is_empty() {
                if self.session_waits() {
                    // The session has taken it, the kernel has not.
                    self.arm_write(true);
                }
                return Ok(());
            }
        }
        self.io.push(rest, newline, usize::MAX);
        if gathered {
            self.mark_dirty();
            if !gathers {
                self.write_out();
            }
        } else if !self.flags.has(Flag::WRITE_ARMED) {
            self.write_or_requeue();
        }
        if queued + size >= high_water_mark.min(limit) {
            self.note_queued();
        }
        Ok(())
    }

    #[inline]
    pub(super) fn mark_dirty(&self) {
        if let Some(key) = self.key.get()
            && !self.flags.replace(Flag::DIRTY, true)
        {
            self.engine.mark_dirty(key);
        }
    }

    /// The engine has given the kernel what is queued, and it took so much of it.
    #[inline]
    pub(super) fn message_sent(&self, sent: rustix::io::Result<usize>) {
        match sent {
            Ok(count) if self.io.sent(count) => {}
            Ok(_) => self.write_or_requeue(),
            Err(error) => self.not_written(error.into()),
        }
    }

    /// Gives the kernel what it takes. `Again`: it takes more, but the share of this turn is used up.
    #[inline]
    pub(super) fn write_out(&self) -> Next {
        let next = self.write_queue();
        self.note_sent();
        next
    }

    fn write_queue(&self) -> Next {
        for _ in 0..PORTIONS {
            match self.io.write(|front| self.write_some(&front[..front.len().min(PORTION)])) {
                None | Some(Ok(true)) => break,
                Some(Ok(false)) => {}
                Some(Err(error)) => {
                    self.not_written(error);
                    return Next::Idle;
                }
            }
        }
        if self.io.has_output() {
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

    /// The kernel has taken nothing of what is queued.
    #[cold]
    fn not_written(&self, error: std::io::Error) {
        if error.kind() == std::io::ErrorKind::WouldBlock {
            // During the hand-shake it is the peer's turn, unless we have something to say.
            self.arm_write(!self.flags.has(Flag::SHAKING) || self.session_waits());
        } else {
            self.write_failed(error);
        }
    }

    /// Is there anything that the kernel has not taken yet?
    pub(super) fn is_sending(&self) -> bool {
        // What a session holds when sending has failed, or the descriptor is closed, stays there.
        let may_send = || !self.flags.has(Flag::GONE | Flag::WRITE_FAILED);
        self.io.has_output() || (self.session_waits() && may_send())
    }

    /// Gives the kernel what it takes, on later turns too.
    pub(super) fn write_or_requeue(&self) {
        if self.write_out() == Next::Again
            && let Some(key) = self.key.get()
        {
            self.engine.requeue_write(key);
        }
    }

    #[inline]
    fn queue_is_empty(&self) {
        self.arm_write(false);
        if self.flags.has(Flag::WRITE_ENDING) {
            self.end_writing();
        }
        self.tell_flushed(true);
    }

    #[inline]
    pub(super) fn arm_write(&self, armed: bool) {
        if self.flags.replace(Flag::WRITE_ARMED, armed) != armed {
            self.arm();
        }
    }

    /// Tells the engine what is waited for.
    pub(super) fn arm(&self) {
        if let Some(key) = self.key.get() {
            // A descriptor that is at its end tells so for ever.
            let discards = self.flags.has(Flag::LINGERING) && self.transport.is_socket();
            let read = (self.delivers() || self.awaits_input() || discards) && !self.flags.has(Flag::READ_ENDED);
            self.engine.set_interest(key, read, self.flags.has(Flag::WRITE_ARMED));
        }
    }

    /// Sending failed: nothing more can go out. What the peer sent before it left is still read, by whoever reads.
    pub(super) fn write_failed(&self, error: std::io::Error) -> Error {
        let peer = self.peer_name();
        let copy = match error.kind() {
            std::io::ErrorKind::ConnectionReset => Error::Reset { peer: peer.clone() },
            _ => Error::Closed { peer: peer.clone() },
        };
        let error = Error::from_io("sending to", peer, error);
        self.io.drop_output();
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
            self.flags.raise(Flag::WRITE_FAILED);
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
        self.flags.raise(Flag::OUTPUT_GONE);
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
        if !self.flags.replace(Flag::WRITE_ENDING, true) {
            self.wake_everybody();
            if !self.is_sending() {
                self.end_writing();
            }
        }
        Ok(())
    }

    pub(super) fn end_writing(&self) {
        if self.flags.replace(Flag::WRITE_ENDED, true) {
            return;
        }
        self.flags.raise(Flag::WRITE_ENDING);
        self.close_notify();
        match self.write_session() {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                // Once that is out this comes again.
                self.flags.lower(Flag::WRITE_ENDED);
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
        let closes_at_once =
            self.flags.has(Flag::LINGERING) && self.flags.has(Flag::READ_ENDED) && !self.flags.has(Flag::DAMAGED);
        if !closes_at_once {
            let _ = self.transport.shutdown_write();
        }
        if self.flags.has(Flag::HALF_OPEN) {
            // Both directions have ended.
            self.wake();
        }
    }

    // ---- flushing ----

    /// Waits until the kernel has everything.
    pub(crate) fn flush_blocking(&self) -> Result {
        Engine::flush_here();
        let deadline = self.deadline();
        while self.is_sending() {
            self.wait_for_peer(false, true, deadline, "sending to")?;
            self.write_out();
        }
        self.check_sent()
    }

    #[inline]
    pub(super) fn check_sent(&self) -> Result {
        if self.flags.has(Flag::WRITE_FAILED) { self.check_write_error() } else { Ok(()) }
    }

    #[cold]
    fn check_write_error(&self) -> Result {
        let error = self.if_rare(|rare| rare.write_error.as_ref().map(Error::again));
        error.map_or(Ok(()), |error| Err(error.unwrap_or_else(|| self.closed())))
    }

    /// Has some of what was sent never left?
    pub(super) fn has_lost(&self) -> bool {
        self.if_rare(|rare| rare.lost.then_some(())).is_some()
    }

    /// The queue is empty: did everything that was in it go out?
    pub(super) fn was_sent(&self) -> Result {
        if self.has_lost() { Err(self.closed()) } else { self.check_sent() }
    }

    /// Calls on a later turn, when the kernel has everything or the connection has failed.
    pub(crate) fn when_flushed(&self, done: Flushed) {
        if !self.is_sending() {
            let result = self.was_sent();
            self.engine.defer(move |engine| done(engine, result));
        } else {
            self.flags.raise(Flag::FLUSH_AWAITED);
            self.rare(|rare| rare.flushed.push(done));
        }
    }

    #[inline]
    pub(super) fn tell_flushed(&self, sent: bool) {
        if sent {
            self.wake_for_flushed();
        } else {
            self.wake_everybody();
        }
        if self.flags.take(Flag::FLUSH_AWAITED) {
            self.tell_those_who_wait(sent);
        }
    }

    #[cold]
    fn tell_those_who_wait(&self, sent: bool) {
        for done in self.if_rare(|rare| Some(std::mem::take(&mut rare.flushed))).unwrap_or_default() {
            let result = if sent { Ok(()) } else { Err(self.closed()) };
            self.engine.defer(move |engine| done(engine, result));
        }
    }
}
