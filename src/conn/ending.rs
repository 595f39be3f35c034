//! The end of a connection: told once, and nothing lost. What is queued goes out in the background, then the write half is
//! shut down, then the peer's end is awaited with its data discarded: closing with unread input would make the kernel send a
//! reset and throw away what it had accepted.

use std::rc::Weak;
use std::time::{Duration, Instant};

use super::Conn;
use super::callbacks::{Disconnect, OnDisconnect, Reason};
use super::handle::Socket;
use super::state::{Duties, Linger, LingerFacts, Look, Manner, Phase, WriteHalf};
use crate::engine::{Next, call, main_depth};
use crate::error::{Result, count};
use crate::log::{self, Level};

/// Reads of a lingering connection in one turn.
const DISCARDS: usize = 4;

/// How often a connection that is to be reset looks whether the peer has what was sent: no event tells of that.
const ACKNOWLEDGED: Duration = Duration::from_millis(20);

impl Conn {
    /// Closes and returns what had been received and not delivered, unless a disconnect callback will get it.
    pub(crate) fn close(&self) -> Vec<u8> {
        self.finish(Reason::Local, Manner::Graceful);
        self.leftover_of_close()
    }

    /// Closes at once, discarding what is queued.
    pub(crate) fn abort(&self) -> Vec<u8> {
        self.finish(Reason::Local, Manner::AtOnce);
        if self.state().phase == Phase::Lingering {
            self.let_go();
        }
        self.leftover_of_close()
    }

    fn leftover_of_close(&self) -> Vec<u8> {
        if self.is_told_to_somebody() { Vec::new() } else { self.io.take_input() }
    }

    // ---- the disconnect callback ----

    /// Returns whether anybody wants to hear of the end.
    fn is_told_to_somebody(&self) -> bool {
        let own = || self.extras.get().is_some_and(|extras| extras.on_disconnect.borrow().is_some());
        self.state().duties.contains(Duties::TELLS_SERVER) || own()
    }

    fn take_on_disconnect(&self) -> Option<OnDisconnect> {
        if self.state().duties.contains(Duties::TELLS_SERVER) {
            self.change(|state| state.duties.remove(Duties::TELLS_SERVER));
            let callback = self.common.on_disconnect.borrow().clone();
            self.common.leave();
            return callback.map(OnDisconnect::Shared);
        }
        self.extras.get()?.on_disconnect.take().map(OnDisconnect::Own)
    }

    /// Calls the disconnect callback, or logs what it would have been told.
    pub(super) fn deliver_disconnect(&self) {
        self.change(|state| state.duties.remove(Duties::DISCONNECT));
        self.leave_roster();
        let callback = self.take_on_disconnect();
        let Some(callback) = callback else { return self.log_end() };
        let Some(reason) = self.cold(|cold| cold.end.take_reason()) else { return };
        let Some(me) = self.strong() else { return };
        let end = Disconnect { leftover: self.io.take_input(), reason };
        let socket = Socket::from_conn(me);
        self.mark(Look::IN_CALLBACK, true);
        call(&self.engine, || match callback {
            OnDisconnect::Own(user) => user(&socket, end),
            OnDisconnect::Shared(user) => user(&socket, end),
        });
        self.mark(Look::IN_CALLBACK, false);
    }

    fn log_end(&self) {
        // Of those that ended well, `finish` has told.
        let failed = self.if_cold(|cold| match cold.end.reason() {
            Some(Reason::Failed(error)) => Some((error.to_string(), error.names_peer())),
            _ => None,
        });
        // Nothing is borrowed: whoever listens to the log may call anything.
        if let Some((reason, names_peer)) = failed {
            let peer = self.peer_name();
            let event = log::warning("end").peer(&peer).error(&reason);
            match names_peer {
                true => event.say(format_args!("connection closed: {reason}")),
                false => event.say(format_args!("connection to {peer} closed: {reason}")),
            }
        }
    }

    fn leave_roster(&self) {
        let roster = self.common.roster.as_ref().and_then(Weak::upgrade);
        if let (Some(number), Some(roster)) = (self.number.take(), roster) {
            roster.leave(number);
        }
    }

    // ---- ending ----

    /// The connection is at its end, for this reason unless it had one already. It is told on this turn if the loop is
    /// serving this connection just now, otherwise on the next.
    pub(super) fn finish(&self, reason: Reason, manner: Manner) {
        if !self.is_open() {
            return;
        }
        let traced = log::is_wanted(Level::Debug).then(|| reason.to_string());
        let handshake = self.cold(|cold| {
            cold.end.finish(reason);
            cold.handshake.take()
        });
        self.change(|state| state.end(manner));
        if let Some(handshake) = &handshake {
            self.engine.cancel_timer(handshake.timer);
        }
        if manner == Manner::AtOnce {
            self.let_go();
        } else if !self.is(Look::CORKED) {
            self.linger_on();
        }
        if self.state().phase == Phase::Lingering {
            self.start_linger_timer();
            self.wake();
        }
        let reader = self.reader.take();
        let others = self.cold(|cold| (cold.on_end.take(), cold.on_drain.take()));
        self.keep(false);
        drop((reader, others, handshake));
        self.wake_everybody();
        if let Some(reason) = traced {
            let peer = self.peer_name();
            log::debug("end").peer(&peer).say(format_args!("connection to {peer} closed: {reason}"));
        }
    }

    /// A callback has returned this, or panicked: an error closes the connection, a panic aborts it.
    pub(super) fn returned(&self, result: Option<Result>) {
        match result {
            None => self.abort_silently(),
            Some(Err(error)) => self.finish(Reason::Failed(error), Manner::Graceful),
            Some(Ok(())) => {}
        }
    }

    /// The end without a word: the context is gone, or a callback has panicked.
    pub(crate) fn abort_silently(&self) {
        self.finish(Reason::Local, Manner::AtOnce);
        self.let_go();
        self.change(|state| state.duties.remove(Duties::DISCONNECT));
        self.cold(|cold| cold.end.take_reason());
        self.leave_roster();
        let callback = self.take_on_disconnect();
        drop(callback);
    }

    /// Closes the descriptor. Deregistered first, always.
    pub(super) fn let_go(&self) {
        if self.state().phase == Phase::Closed {
            return;
        }
        let queued = self.io.queued();
        // Of what a session holds, close_notify alone is no loss.
        let is_lost = queued > 0 || (!self.state().write.contains(WriteHalf::ENDED) && self.channel().holds_output());
        self.change(|state| {
            state.phase = Phase::Closed;
            if is_lost {
                state.write.insert(WriteHalf::LOST);
            }
        });
        if is_lost {
            // Or the peer would take what it got for all there is.
            self.transport.break_off();
        }
        // For the messages that are still to come.
        let peer = self.remote();
        if queued > 0 {
            let queued = count(queued, "byte");
            log::info("end").peer(&peer).say(format_args!("connection to {peer} closed with {queued} unsent"));
        }
        if let Some(key) = self.key.take() {
            self.engine.deregister(key);
        }
        self.transport.close();
        self.io.drop_output();
        self.cancel_timer(|cold| cold.idle_timer.take());
        self.cancel_timer(|cold| cold.linger_timer.take());
        self.cancel_timer(|cold| cold.reset_timer.take());
        self.tell_flushed(!self.state().write.contains(WriteHalf::LOST));
        if self.state().duties.contains(Duties::DISCONNECT) {
            // Without a registration it takes a call of its own.
            self.wake();
        }
    }

    // ---- lingering ----

    /// Goes on towards the end, as far as that goes without waiting.
    pub(super) fn linger_on(&self) -> Next {
        let (mut has_written, mut has_ended, mut next) = (false, false, Next::Idle);
        loop {
            let facts = LingerFacts {
                ready: self.ready.get(),
                is_sending: self.is_sending(),
                has_written,
                has_ended,
                is_impatient: self.linger().is_zero(),
            };
            match self.state().lingering(facts) {
                Linger::Send => {
                    next = self.write_out();
                    has_written = true;
                }
                Linger::EndWriting => {
                    self.end_writing();
                    has_ended = true;
                }
                Linger::Discard => return next.max(self.discard(&mut false)),
                Linger::Reset if self.awaits_acknowledgement() => return Next::Idle,
                Linger::Reset => {
                    self.transport.break_off();
                    self.let_go();
                    return Next::Idle;
                }
                Linger::Close => {
                    self.let_go();
                    return Next::Idle;
                }
                Linger::Wait => return next,
            }
        }
    }

    /// A reset makes the kernel forget what the peer has not acknowledged yet. Looks again later if there is any.
    fn awaits_acknowledgement(&self) -> bool {
        let waits = self.transport.is_tcp()
            && !self.linger().is_zero()
            && self.transport.backlog().is_some_and(|backlog| backlog.unacknowledged > 0);
        if waits && self.if_cold(|cold| cold.reset_timer).is_none() {
            let me = self.me.clone();
            let timer = self.engine.after(ACKNOWLEDGED, move |_| {
                if let Some(me) = me.upgrade() {
                    me.cold(|cold| cold.reset_timer = None);
                    me.linger_on();
                }
            });
            self.cold(|cold| cold.reset_timer = Some(timer));
        }
        waits
    }

    pub(super) fn flush_at_end(&self) {
        if self.state().phase == Phase::Lingering
            && !self.state().write.contains(WriteHalf::RESETS)
            && self.queued() == 0
        {
            // It goes with what the session still holds.
            self.channel().close_notify();
        }
        self.write_or_requeue();
        self.linger_on();
    }

    /// Reads and throws away. Notes if there was anything.
    fn discard(&self, talks: &mut bool) -> Next {
        let mut buffer = self.engine.take_buffer();
        let mut next = Next::Hot;
        for _ in 0..DISCARDS {
            let Some(space) = std::rc::Rc::get_mut(&mut buffer) else { break };
            match self.read_once(space, false) {
                Ok(count) if count > 0 => *talks = true,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    next = Next::Idle;
                    break;
                }
                read => {
                    self.read_ended();
                    // After its end it may still listen.
                    if read.is_err() || !self.is_sending() {
                        self.let_go();
                    }
                    next = Next::Idle;
                    break;
                }
            }
        }
        self.engine.give_buffer(buffer);
        next
    }

    fn linger(&self) -> Duration {
        self.options(|options| options.linger)
    }

    /// Bytes that the peer's system does not have yet.
    fn on_the_way(&self) -> usize {
        let unacknowledged = self.transport.backlog().map_or(0, |backlog| backlog.unacknowledged);
        self.queued() + unacknowledged + usize::from(self.channel().holds_output())
    }

    /// Closes when nothing has gone out for the linger time. As long as the peer takes what was sent, that begins anew.
    fn start_linger_timer(&self) {
        let (me, before) = (self.me.clone(), self.on_the_way());
        let timer = self.engine.after(self.linger(), move |_| {
            let Some(me) = me.upgrade() else { return };
            me.cold(|cold| cold.linger_timer = None);
            if me.on_the_way() < before {
                me.start_linger_timer();
            } else {
                me.let_go();
            }
        });
        self.cold(|cold| cold.linger_timer = Some(timer));
    }

    // ---- handles ----

    #[inline]
    pub(crate) fn add_handle(&self) {
        self.handles.set(self.handles.get() + 1);
    }

    #[inline]
    pub(crate) fn drop_handle(&self) {
        let left = self.handles.get() - 1;
        self.handles.set(left);
        if left == 0 {
            self.last_drop();
        }
    }

    pub(crate) fn has_handles(&self) -> bool {
        self.handles.get() > 0
    }

    /// The loop keeps what it calls: a connection with a reader stays open without any handle.
    pub(super) fn keep(&self, keep: bool) {
        if self.change(|state| state.delivery.set_kept(keep)) != keep {
            if keep {
                self.add_handle();
            } else {
                self.drop_handle();
            }
        }
    }

    /// Nobody holds the connection any more: it closes, in the background while a loop runs, else within this call.
    pub(super) fn last_drop(&self) {
        if self.is_open() {
            let callback = self.take_on_disconnect();
            self.finish(Reason::Local, Manner::Graceful);
            self.change(|state| state.duties.remove(Duties::DISCONNECT));
            self.leave_roster();
            drop(callback);
        }
        self.drain_if_lingering();
    }

    pub(super) fn drain_if_lingering(&self) {
        if self.state().phase == Phase::Lingering && main_depth() == 0 && !std::thread::panicking() {
            self.drain();
        }
    }

    /// Closes without waiting for the peer's end, where no loop runs that would.
    pub(crate) fn part(&self) {
        if self.state().phase == Phase::Lingering && main_depth() == 0 {
            self.linger_on();
            self.discard(&mut false);
            self.let_go();
        }
    }

    /// Without a loop there is no background: waits until the peer's system has everything, as long as it takes some of it
    /// within each linger time. Several that end together have one linger time in all.
    fn drain(&self) {
        let mut patience = Patience::new(self);
        while self.is_sending() && patience.lasts(self) {
            if self.transport.wait_regardless(false, true, patience.left()).is_err() {
                break;
            }
            self.write_out();
        }
        let resets = self.state().write.contains(WriteHalf::RESETS);
        if self.state().phase == Phase::Lingering && !self.is_sending() {
            if !resets {
                self.end_writing();
            }
            self.await_acknowledgement(patience);
        }
        if resets {
            self.transport.break_off();
        }
        self.let_go();
    }

    fn await_acknowledgement(&self, mut patience: Patience) {
        let mut pause = Duration::from_micros(50);
        let mut talks = false;
        while let Some(backlog) = self.transport.backlog() {
            self.discard(&mut talks);
            // Once closed, the system resets the connection when the peer sends anything more, and forgets what it
            // still has. If the peer does not talk, it is enough that everything is on its way.
            let waits_for = if talks { backlog.unacknowledged } else { backlog.unsent };
            if waits_for == 0 || !patience.lasts(self) {
                break;
            }
            // Acknowledgements are no event to wait for.
            let _ = self.transport.wait_regardless(true, false, pause.min(patience.left()));
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }
}

/// How long a drain waits: a linger time from when the peer last took something.
struct Patience {
    on_the_way: usize,
    deadline: Option<Instant>,
}

impl Patience {
    fn new(conn: &Conn) -> Self {
        Patience { on_the_way: conn.on_the_way(), deadline: Patience::deadline(conn) }
    }

    fn deadline(conn: &Conn) -> Option<Instant> {
        // While connections end together this stays the same.
        conn.engine.draining_since().checked_add(conn.linger())
    }

    fn lasts(&mut self, conn: &Conn) -> bool {
        let on_the_way = conn.on_the_way();
        if on_the_way < self.on_the_way {
            *self = Patience { on_the_way, deadline: Patience::deadline(conn) };
        }
        !self.left().is_zero()
    }

    fn left(&self) -> Duration {
        self.deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()))
    }
}
