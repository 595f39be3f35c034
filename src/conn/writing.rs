//! The sending half. What is sent inside a turn of the loop is queued and goes out at its end, with everything else; outside of
//! one it goes out at once. What the kernel does not take waits in the queue.

use super::callbacks::Reason;
use super::handle::Socket;
use super::idle::Traffic;
use super::state::{Look, Manner, Phase, ReadHalf, WriteHalf};
use super::{Conn, Flushed, Options};
use crate::engine::{Next, Ready, call};
use crate::error::{Error, Operation, Result};

/// From this many bytes on, gathering would cost more in copies than it saves in calls.
pub(super) const GATHER: usize = 64 << 10;

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

/// The write half at work: from the queue to the kernel, and whoever has to hear of it.
pub(super) struct Output<'a>(&'a Conn);

impl Conn {
    #[inline]
    pub(super) fn output(&self) -> Output<'_> {
        Output(self)
    }

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
        if self.status.is(Look::NO_FAST_SEND) {
            return false;
        }
        let (bound, ending) = self.options(|options| (options.most_in_turn(), newline.then_some(options.line_ending)));
        let is_queued = self.io.push(bytes, ending, bound);
        if is_queued {
            self.cork();
        }
        is_queued
    }

    /// Queues these, one after the other, as if they were one.
    pub(crate) fn send_parts(&self, parts: [&[u8]; 3]) -> Result {
        let in_turn = self.engine.in_turn();
        if in_turn && !self.status.is(Look::NO_FAST_SEND) {
            let bound = self.options(Options::most_in_turn);
            if self.io.push_parts(parts, bound) {
                self.cork();
                return Ok(());
            }
        }
        self.queue_or_write(&parts.concat(), false, in_turn)
    }

    /// Queues all of it, or writes it if there is no turn whose end it could wait for.
    #[inline(never)]
    pub(super) fn queue_or_write(&self, bytes: &[u8], newline: bool, in_turn: bool) -> Result {
        if !self.status.get().may_send() {
            return Err(self.closed());
        }
        let ending = newline.then(|| self.options(|options| options.line_ending));
        let size = bytes.len() + ending.map_or(0, |ending| ending.as_str().len());
        self.check_sent()?;
        if size == 0 {
            // A session that takes nothing is taken for broken.
            return Ok(());
        }
        let queued = self.io.queued();
        let (limit, high_water_mark) = self.options(|options| (options.send_limit, options.high_water_mark));
        if let Err(error) = self.output().check_room(size, limit) {
            // Whoever waits for room now is to hear of it.
            self.status.change(|state| state.write.set(WriteHalf::FULL, queued > 0));
            return Err(error);
        }
        let waits_for_turn = in_turn && queued + size < GATHER;
        let mut rest = bytes;
        if queued == 0 && !waits_for_turn && !newline {
            // Straight from the caller's memory.
            rest = self.output().write_directly(bytes)?;
            if rest.is_empty() {
                return Ok(());
            }
        }
        self.io.push(rest, ending, usize::MAX);
        if in_turn {
            self.cork();
            if !waits_for_turn {
                self.output().send();
            }
        } else if !self.status.get().write.contains(WriteHalf::ARMED) {
            self.output().send_or_requeue();
        }
        if queued + size >= high_water_mark.min(limit) {
            self.output().note_queued();
        }
        if queued + size >= GATHER && self.common.roster.is_some() {
            self.output().recount();
        }
        Ok(())
    }

    // ---- out of the queue ----

    /// Returns whether there is anything that the kernel has not taken yet.
    pub(super) fn is_sending(&self) -> bool {
        // What a session holds when sending has failed, or the descriptor is closed, stays there.
        let may_send = || {
            let state = self.status.get();
            state.phase != Phase::Closed && !state.write.contains(WriteHalf::FAILED)
        };
        self.io.has_output() || (self.is_tls() && may_send() && self.channel().holds_output())
    }

    // ---- half-close ----

    /// Shuts the write half down once the queue is empty.
    pub(crate) fn shutdown_write(&self) -> Result {
        if !self.is_open() {
            return Err(self.closed());
        }
        if !self.status.get().write.contains(WriteHalf::ENDING) {
            self.status.change(|state| state.write.insert(WriteHalf::ENDING));
            self.waiters().wake_all();
            if !self.is_sending() && !self.is_shaking() {
                self.output().shut_down();
            }
        }
        Ok(())
    }

    // ---- flushing ----

    #[inline]
    pub(super) fn check_sent(&self) -> Result {
        if self.status.is(Look::WRITE_FAILED) { Err(self.closed()) } else { Ok(()) }
    }

    /// Returns whether everything that was in the queue, which is empty now, has gone out.
    pub(super) fn was_sent(&self) -> Result {
        let is_lost = self.status.get().write.intersects(WriteHalf::LOST | WriteHalf::FAILED);
        if is_lost { Err(self.closed()) } else { Ok(()) }
    }

    /// Calls on a later turn, when the kernel has everything or the connection has failed.
    pub(crate) fn when_flushed(&self, done: Flushed) {
        if !self.is_sending() {
            let result = self.was_sent();
            self.engine.defer(move |engine| done(engine, result));
        } else {
            self.output().await_flush();
            self.cold(|cold| cold.flushed.push(done));
        }
    }

    // ---- back-pressure ----

    /// Returns whether the queue has reached its high-water mark, and not fallen to the low one since.
    pub(crate) fn is_full(&self) -> bool {
        self.status.is(Look::FULL)
    }
}

impl Output<'_> {
    /// Writes past the queue. Returns what the kernel has not taken.
    fn write_directly<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8]> {
        let mut rest = bytes;
        match self.write(bytes) {
            Ok(count) => rest = &bytes[count..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(self.failed(error)),
        }
        if rest.is_empty() && self.0.channel().holds_output() {
            // The session has taken it, the kernel has not.
            self.0.arm_write(true);
        }
        Ok(rest)
    }

    /// Gives bytes to the peer, as many as there is room for.
    #[inline]
    pub(super) fn write(&self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.0.channel().write(bytes);
        if written.is_ok() {
            self.0.touch(Traffic::Sent);
        }
        written
    }

    /// The engine has given the kernel what is queued, and it took so much of it.
    #[inline]
    pub(super) fn was_sent_by_engine(&self, sent: rustix::io::Result<usize>) {
        match sent {
            Ok(count) if self.0.io.sent(count) => {}
            Ok(_) => self.send_or_requeue(),
            Err(error) => self.not_written(error.into()),
        }
    }

    /// Gives the kernel what it takes. `Again`: it takes more, but the share of this turn is used up.
    #[inline]
    pub(super) fn send(&self) -> Next {
        let next = self.write_queue();
        self.note_sent();
        self.recount_if_counted();
        next
    }

    fn write_queue(&self) -> Next {
        for _ in 0..PORTIONS {
            match self.0.io.write(|front| self.write(&front[..front.len().min(PORTION)])) {
                None | Some(Ok(true)) => break,
                Some(Ok(false)) => {}
                Some(Err(error)) => {
                    self.not_written(error);
                    return Next::Idle;
                }
            }
        }
        if self.0.io.has_output() {
            return Next::Again;
        }
        match self.0.channel().write_held() {
            Ok(()) => self.queue_is_empty(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => self.0.arm_write(true),
            Err(error) => {
                self.failed(error);
            }
        }
        Next::Idle
    }

    /// The kernel has taken nothing of what is queued.
    #[cold]
    fn not_written(&self, error: std::io::Error) {
        if error.kind() == std::io::ErrorKind::WouldBlock {
            // During the handshake it is the peer's turn, unless we have something to say.
            self.0.arm_write(!self.0.is_shaking() || self.0.channel().holds_output());
        } else {
            self.failed(error);
        }
    }

    /// Gives the kernel what it takes, on later turns too.
    pub(super) fn send_or_requeue(&self) {
        if self.send() == Next::Again
            && let Some(key) = self.0.key.get()
        {
            self.0.engine.requeue_write(key);
        }
    }

    #[inline]
    fn queue_is_empty(&self) {
        self.0.arm_write(false);
        // During the handshake the end waits: it is encrypted.
        if self.0.status.get().write.contains(WriteHalf::ENDING) && !self.0.is_shaking() {
            self.shut_down();
        }
        self.tell_flushed(true);
    }

    /// Sending failed: nothing more can go out. What the peer sent before it left is still read, by whoever reads. Returns the
    /// error for whoever sent.
    pub(super) fn failed(&self, error: std::io::Error) -> Error {
        let error = self.0.transport.explain(error);
        let error = Error::from_io(Operation::Send, self.0.peer_name(), error);
        self.drop_queue();
        self.0.status.change(|state| state.write.insert(WriteHalf::LOST));
        self.0.cold(|cold| cold.end.note(&error));
        self.0.arm_write(false);
        self.tell_flushed(false);
        let is_lasting = matches!(error, Error::Reset { .. } | Error::Closed { .. });
        if !self.0.is_open() {
            self.0.ending().close_descriptor();
        } else if !is_lasting {
            // The system's fault, not the peer's: no end would follow.
            self.0.finish(Reason::Failed(error), Manner::AtOnce);
        } else {
            self.0.status.change(|state| state.write.insert(WriteHalf::FAILED));
            if !self.0.status.get().is_socket() {
                self.lose_reader();
            }
            // Whoever reads will come to the end.
            self.0.status.becomes_ready(Ready::READ | Ready::HANGUP);
            self.0.wake();
        }
        self.0.closed()
    }

    /// The reader of our output has gone. What waits in the input is another matter, as the last words of a child are: it
    /// is read first, see [`Output::finish_without_reader`].
    pub(super) fn lose_reader(&self) {
        self.0.status.change(|state| state.write.insert(WriteHalf::OUTPUT_GONE));
        // Until a read finds nothing.
        self.0.status.becomes_ready(Ready::READ | Ready::ERROR);
    }

    /// There is nothing to read just now, and nobody to write to.
    pub(super) fn finish_without_reader(&self) {
        self.0.finish(Reason::Failed(self.0.closed()), Manner::AtOnce);
    }

    pub(super) fn shut_down(&self) {
        if self.0.status.get().write.contains(WriteHalf::ENDED) {
            return;
        }
        self.0.status.change(|state| state.write.insert(WriteHalf::ENDING));
        let channel = self.0.channel();
        channel.close_notify();
        if matches!(channel.write_held(), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock) {
            // Once that is out this comes again. Any other error means a connection that is broken already.
            self.0.arm_write(true);
            return;
        }
        self.0.status.change(|state| state.write.insert(WriteHalf::ENDED));
        if !self.0.status.get().is_socket()
            && let Some(key) = self.0.key.get()
        {
            self.0.engine.deregister_output(key);
        }
        if !self.0.status.get().closes_with_shutdown() {
            let _ = self.0.transport.shutdown_write();
        }
        if self.0.status.get().read.contains(ReadHalf::HALF_OPEN) {
            // Both directions have ended.
            self.0.wake();
        }
    }

    pub(super) fn await_flush(&self) {
        self.0.status.change(|state| state.write.insert(WriteHalf::FLUSH_AWAITED));
    }

    #[inline]
    pub(super) fn tell_flushed(&self, is_sent: bool) {
        if is_sent {
            self.0.waiters().wake_for_flushed();
        } else {
            self.0.waiters().wake_all();
        }
        if self.0.status.get().write.contains(WriteHalf::FLUSH_AWAITED) {
            self.call_flushed(is_sent);
        }
    }

    #[cold]
    fn call_flushed(&self, is_sent: bool) {
        self.0.status.change(|state| state.write.remove(WriteHalf::FLUSH_AWAITED));
        let Some(conn) = self.0.strong() else { return };
        for done in self.0.if_cold(|cold| Some(std::mem::take(&mut cold.flushed))).unwrap_or_default() {
            let conn = conn.clone();
            self.0.engine.defer(move |engine| {
                // By then more may be known of why.
                let result = if is_sent { Ok(()) } else { Err(conn.closed()) };
                done(engine, result);
            });
        }
    }

    /// Checks that so much more may be queued, here and on the server's connections together.
    fn check_room(&self, size: usize, limit: usize) -> Result {
        let queued = self.0.queued();
        let full = |(queued, limit), option| {
            let peer = self.0.peer_name();
            Err(Error::QueueFull { peer, size, queued, limit, option })
        };
        if size > limit.saturating_sub(queued) {
            return full((queued, limit), "send_limit");
        }
        if queued + size < GATHER {
            return Ok(());
        }
        let counted = self.0.if_cold(|cold| Some(cold.counted)).unwrap_or(0);
        self.0.common.total.check(counted, queued, size).or_else(|all| full(all, "total_send_limit"))
    }

    pub(super) fn drop_queue(&self) {
        let lost = self.unsent();
        if lost > 0 {
            self.0.cold(|cold| cold.end.lose(lost));
        }
        self.0.io.drop_output();
        self.0.channel().forget_plain();
        self.recount_if_counted();
    }

    /// Returns the number of bytes that wait for the system to take them, with those whose records it has not taken.
    pub(super) fn unsent(&self) -> usize {
        self.0.queued() + self.0.channel().held()
    }

    #[inline]
    fn recount_if_counted(&self) {
        if self.0.status.get().write.contains(WriteHalf::COUNTED) {
            self.recount();
        }
    }

    /// Counts the queue among those of the server, unless it is short.
    fn recount(&self) {
        let is_counted = self.0.cold(|cold| self.0.common.total.recount(&mut cold.counted, self.0.queued()));
        self.0.status.change(|state| state.write.set(WriteHalf::COUNTED, is_counted));
    }

    /// So much more may be queued before the high-water mark.
    pub(super) fn room(&self) -> usize {
        let (high, _) = self.0.options(Options::marks);
        high.saturating_sub(self.0.queued())
    }

    /// So much of what is sent in pieces fits now. Where the server's connections together have reached their limit, that
    /// is little, so that it goes on all the same.
    pub(super) fn room_for_piece(&self) -> usize {
        let room = self.room();
        let limit = self.0.options(|options| options.send_limit);
        if self.check_room(room, limit).is_ok() { room } else { room.min((GATHER - 1).saturating_sub(self.0.queued())) }
    }

    /// The queue has grown.
    pub(super) fn note_queued(&self) {
        let (high, _) = self.0.options(Options::marks);
        if self.0.queued() >= high {
            self.0.status.change(|state| state.write.insert(WriteHalf::FULL));
        }
    }

    /// The queue has shrunk.
    #[inline]
    pub(super) fn note_sent(&self) {
        if self.0.status.is(Look::FULL) {
            self.note_drained();
        }
    }

    fn note_drained(&self) {
        let (_, low) = self.0.options(Options::marks);
        if self.0.queued() > low {
            return;
        }
        self.0.status.change(|state| state.write.remove(WriteHalf::FULL));
        self.0.waiters().wake_for_room();
        if self.0.is_open() && self.0.if_cold(|cold| cold.on_drain.as_ref().map(drop)).is_some() {
            self.0.status.change(|state| state.write.insert(WriteHalf::DRAIN_DUE));
            self.0.wake();
        }
    }

    /// Calls the drain callback, unless the room has been used up meanwhile; then this comes again.
    pub(super) fn call_drain(&self) {
        self.0.status.change(|state| state.write.remove(WriteHalf::DRAIN_DUE));
        if self.0.is_full() || !self.0.is_open() {
            return;
        }
        let (callback, epoch) = self.0.cold(|cold| (cold.on_drain.take(), cold.drain_epoch));
        let (Some(mut callback), Some(me)) = (callback, self.0.strong()) else { return };
        let socket = Socket::from_conn(me);
        self.0.status.mark(Look::IN_CALLBACK, true);
        let result = call(&self.0.engine, || callback(&socket));
        self.0.status.mark(Look::IN_CALLBACK, false);
        self.0.returned(result);
        let is_current = self.0.is_open() && self.0.cold(|cold| cold.drain_epoch == epoch);
        let rest = if is_current { self.0.cold(|cold| cold.on_drain.replace(callback)) } else { Some(callback) };
        drop(rest);
    }

    /// Sends what was sent to this connection itself while it was served: nothing more comes to it in this turn but what
    /// others send, and that is gathered as ever. If it is not the last of those that are corked, it is sent with them.
    pub(super) fn flush_own(&self) {
        let conn = self.0;
        if conn.status.is(Look::CORKED) && conn.key.get().is_some_and(|key| conn.engine.unmark_dirty(key)) {
            conn.status.mark(Look::CORKED, false);
            self.flush();
        }
    }

    /// Sends what was gathered in this turn.
    pub(super) fn flush(&self) {
        if self.0.is_open() { self.send_or_requeue() } else { self.0.lingering().flush() }
    }
}
