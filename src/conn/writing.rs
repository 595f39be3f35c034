//! The sending half. What is sent inside a turn of the loop is queued and goes out at its end, with everything else; outside of
//! one it goes out at once. What the kernel does not take waits in the queue.

use super::callbacks::Reason;
use super::handle::Socket;
use super::state::{Look, Manner, WriteHalf};
use super::{Conn, Flushed, Options};
use crate::engine::{Next, Ready, call};
use crate::error::{Error, Operation, Result};

/// From this many bytes on, gathering would cost more in copies than it saves in calls.
const GATHER: usize = 64 << 10;

/// The most that one call gives to the kernel, and so many calls in one turn: a queue of megabytes must not hold up the
/// others.
pub(super) const PORTION: usize = 256 << 10;
const PORTIONS: usize = 4;

impl Options {
    /// The water marks as they count: within the limit, and apart.
    fn marks(&self) -> (usize, usize) {
        let high = self.high_water_mark.min(self.send_limit).max(1);
        (high, self.low_water_mark.min(high - 1))
    }
}

impl Conn {
    // ---- into the queue ----

    #[inline]
    pub(crate) fn send(&self, bytes: &[u8], newline: bool) -> Result {
        let in_turn = self.engine.in_turn();
        if in_turn && self.queue_in_turn(bytes, newline) {
            return Ok(());
        }
        self.queue_or_write(bytes, newline, in_turn)
    }

    /// The way of most messages: queued until the turn ends. False if there is more to it than that; nothing is queued then.
    #[inline]
    pub(super) fn queue_in_turn(&self, bytes: &[u8], newline: bool) -> bool {
        if self.is(Look::NO_FAST_SEND) {
            return false;
        }
        let bound = self.options(|options| GATHER.min(options.send_limit).min(options.high_water_mark));
        let is_queued = self.io.push(bytes, newline, bound);
        if is_queued {
            self.cork();
        }
        is_queued
    }

    /// Queues all of it, or writes it if there is no turn whose end it could wait for.
    #[inline(never)]
    pub(super) fn queue_or_write(&self, bytes: &[u8], newline: bool, in_turn: bool) -> Result {
        if !self.state().may_send() {
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
            self.change(|state| state.write.set(WriteHalf::FULL, queued > 0));
            return Err(Error::QueueFull { peer: self.peer_name(), size, queued, limit });
        }
        let waits_for_turn = in_turn && queued + size < GATHER;
        let mut rest = bytes;
        if queued == 0 && !waits_for_turn && !newline {
            // Straight from the caller's memory.
            rest = self.write_directly(bytes)?;
            if rest.is_empty() {
                return Ok(());
            }
        }
        self.io.push(rest, newline, usize::MAX);
        if in_turn {
            self.cork();
            if !waits_for_turn {
                self.write_out();
            }
        } else if !self.state().write.contains(WriteHalf::ARMED) {
            self.write_or_requeue();
        }
        if queued + size >= high_water_mark.min(limit) {
            self.note_queued();
        }
        Ok(())
    }

    /// Writes past the queue. Returns what the kernel has not taken.
    fn write_directly<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8]> {
        let mut rest = bytes;
        match self.write_some(bytes) {
            Ok(count) => rest = &bytes[count..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(self.write_failed(error)),
        }
        if rest.is_empty() && self.channel().holds_output() {
            // The session has taken it, the kernel has not.
            self.arm_write(true);
        }
        Ok(rest)
    }

    // ---- out of the queue ----

    /// Gives bytes to the peer, as many as there is room for.
    #[inline]
    pub(super) fn write_some(&self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.channel().write(bytes);
        if written.is_ok() {
            self.touch();
        }
        written
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
        match self.channel().write_held() {
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
            // During the handshake it is the peer's turn, unless we have something to say.
            self.arm_write(!self.is_shaking() || self.channel().holds_output());
        } else {
            self.write_failed(error);
        }
    }

    /// Returns whether there is anything that the kernel has not taken yet.
    pub(super) fn is_sending(&self) -> bool {
        // What a session holds when sending has failed, or the descriptor is closed, stays there.
        let may_send = || {
            let state = self.state();
            state.phase != super::Phase::Closed && !state.write.contains(WriteHalf::FAILED)
        };
        self.io.has_output() || (self.is_tls() && may_send() && self.channel().holds_output())
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
        if self.state().write.contains(WriteHalf::ENDING) {
            self.end_writing();
        }
        self.tell_flushed(true);
    }

    /// Sending failed: nothing more can go out. What the peer sent before it left is still read, by whoever reads. Returns the
    /// error for whoever sent.
    pub(super) fn write_failed(&self, error: std::io::Error) -> Error {
        let error = Error::from_io(Operation::Send, self.peer_name(), error);
        self.io.drop_output();
        self.change(|state| state.write.insert(WriteHalf::LOST));
        self.cold(|cold| cold.end.note(&error));
        self.arm_write(false);
        self.tell_flushed(false);
        let is_lasting = matches!(error, Error::Reset { .. } | Error::Closed { .. });
        if !self.is_open() {
            self.let_go();
        } else if !is_lasting {
            // The system's fault, not the peer's: no end would follow.
            self.finish(Reason::Failed(error), Manner::AtOnce);
        } else {
            self.change(|state| state.write.insert(WriteHalf::FAILED));
            if !self.state().is_socket() {
                self.lose_output();
            }
            // Whoever reads will come to the end.
            self.becomes_ready(Ready::READ | Ready::HANGUP);
            self.wake();
        }
        self.closed()
    }

    /// The reader of our output has gone. What waits in the input is another matter, as the last words of a child are: it
    /// is read first, see [`Conn::finish_without_output`].
    pub(super) fn lose_output(&self) {
        self.change(|state| state.write.insert(WriteHalf::OUTPUT_GONE));
        // Until a read finds nothing.
        self.becomes_ready(Ready::READ | Ready::ERROR);
    }

    /// There is nothing to read just now, and nobody to write to.
    pub(super) fn finish_without_output(&self) {
        self.finish(Reason::Failed(self.closed()), Manner::AtOnce);
    }

    // ---- half-close ----

    /// Shuts the write half down once the queue is empty.
    pub(crate) fn shutdown_write(&self) -> Result {
        if !self.is_open() {
            return Err(self.closed());
        }
        if !self.state().write.contains(WriteHalf::ENDING) {
            self.change(|state| state.write.insert(WriteHalf::ENDING));
            self.wake_everybody();
            if !self.is_sending() {
                self.end_writing();
            }
        }
        Ok(())
    }

    pub(super) fn end_writing(&self) {
        if self.state().write.contains(WriteHalf::ENDED) {
            return;
        }
        self.change(|state| state.write.insert(WriteHalf::ENDING));
        let channel = self.channel();
        channel.close_notify();
        if matches!(channel.write_held(), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock) {
            // Once that is out this comes again. Any other error means a connection that is broken already.
            self.arm_write(true);
            return;
        }
        self.change(|state| state.write.insert(WriteHalf::ENDED));
        if !self.state().is_socket()
            && let Some(key) = self.key.get()
        {
            self.engine.deregister_output(key);
        }
        if !self.state().closes_with_shutdown() {
            let _ = self.transport.shutdown_write();
        }
        if self.state().read.contains(super::ReadHalf::HALF_OPEN) {
            // Both directions have ended.
            self.wake();
        }
    }

    // ---- flushing ----

    #[inline]
    pub(super) fn check_sent(&self) -> Result {
        if self.is(Look::WRITE_FAILED) { Err(self.closed()) } else { Ok(()) }
    }

    /// The queue is empty: did everything that was in it go out?
    pub(super) fn was_sent(&self) -> Result {
        let is_lost = self.state().write.intersects(WriteHalf::LOST | WriteHalf::FAILED);
        if is_lost { Err(self.closed()) } else { Ok(()) }
    }

    /// Calls on a later turn, when the kernel has everything or the connection has failed.
    pub(crate) fn when_flushed(&self, done: Flushed) {
        if !self.is_sending() {
            let result = self.was_sent();
            self.engine.defer(move |engine| done(engine, result));
        } else {
            self.await_flush();
            self.cold(|cold| cold.flushed.push(done));
        }
    }

    pub(super) fn await_flush(&self) {
        self.change(|state| state.write.insert(WriteHalf::FLUSH_AWAITED));
    }

    #[inline]
    pub(super) fn tell_flushed(&self, is_sent: bool) {
        if is_sent {
            self.wake_for_flushed();
        } else {
            self.wake_everybody();
        }
        if self.state().write.contains(WriteHalf::FLUSH_AWAITED) {
            self.call_flushed(is_sent);
        }
    }

    #[cold]
    fn call_flushed(&self, is_sent: bool) {
        self.change(|state| state.write.remove(WriteHalf::FLUSH_AWAITED));
        for done in self.if_cold(|cold| Some(std::mem::take(&mut cold.flushed))).unwrap_or_default() {
            let result = if is_sent { Ok(()) } else { Err(self.closed()) };
            self.engine.defer(move |engine| done(engine, result));
        }
    }

    // ---- back-pressure ----

    /// Returns whether the queue has reached its high-water mark, and not fallen to the low one since.
    pub(crate) fn is_full(&self) -> bool {
        self.is(Look::FULL)
    }

    /// So much more may be queued before the high-water mark.
    pub(super) fn room(&self) -> usize {
        let (high, _) = self.options(Options::marks);
        high.saturating_sub(self.queued())
    }

    /// The queue has grown.
    pub(super) fn note_queued(&self) {
        let (high, _) = self.options(Options::marks);
        if self.queued() >= high {
            self.change(|state| state.write.insert(WriteHalf::FULL));
        }
    }

    /// The queue has shrunk.
    #[inline]
    pub(super) fn note_sent(&self) {
        if self.is(Look::FULL) {
            self.note_drained();
        }
    }

    fn note_drained(&self) {
        let (_, low) = self.options(Options::marks);
        if self.queued() > low {
            return;
        }
        self.change(|state| state.write.remove(WriteHalf::FULL));
        self.wake_for_room();
        if self.is_open() && self.if_cold(|cold| cold.on_drain.as_ref().map(drop)).is_some() {
            self.change(|state| state.write.insert(WriteHalf::DRAIN_DUE));
            self.wake();
        }
    }

    /// Calls the drain callback, unless the room has been used up meanwhile; then this comes again.
    pub(super) fn call_drain(&self) {
        self.change(|state| state.write.remove(WriteHalf::DRAIN_DUE));
        if self.is_full() || !self.is_open() {
            return;
        }
        let (callback, epoch) = self.cold(|cold| (cold.on_drain.take(), cold.drain_epoch));
        let (Some(mut callback), Some(me)) = (callback, self.strong()) else { return };
        let socket = Socket::from_conn(me);
        self.mark(Look::IN_CALLBACK, true);
        let result = call(&self.engine, || callback(&socket));
        self.mark(Look::IN_CALLBACK, false);
        self.returned(result);
        let is_current = self.is_open() && self.cold(|cold| cold.drain_epoch == epoch);
        let rest = if is_current { self.cold(|cold| cold.on_drain.replace(callback)) } else { Some(callback) };
        drop(rest);
    }
}
