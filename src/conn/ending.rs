//! The end of a connection: told once, and nothing lost. What is queued goes out in the background, then the write half is
//! shut down, then the peer's end is awaited with its data discarded: closing with unread input would make the kernel send a
//! reset and throw away what it had accepted.

use std::rc::{Rc, Weak};

use super::callbacks::{Disconnect, OnDisconnect, Reason};
use super::handle::Socket;
use super::handshake::Handshake;
use super::state::{Duties, Look, Manner, Phase, WriteHalf};
use super::{Conn, Roster};
use crate::engine::call;
use crate::error::{Result, count};
use crate::log::{self, Level};

/// The end at work: whoever is told, and the descriptor.
pub(super) struct Ending<'a>(&'a Conn);

impl Conn {
    #[inline]
    pub(super) fn ending(&self) -> Ending<'_> {
        Ending(self)
    }

    /// Closes and returns what had been received and not delivered, unless a disconnect callback will get it.
    pub(crate) fn close(&self) -> Vec<u8> {
        self.finish(Reason::Local, Manner::Graceful);
        self.ending().leftover()
    }

    /// Closes at once, discarding what is queued.
    pub(crate) fn abort(&self) -> Vec<u8> {
        self.finish(Reason::Local, Manner::AtOnce);
        if self.status.is_lingering() {
            self.ending().close_descriptor();
        }
        self.ending().leftover()
    }

    // ---- ending ----

    /// The connection is at its end, for this reason unless it had one already. It is told on this turn if the loop is
    /// serving this connection just now, otherwise on the next.
    pub(super) fn finish(&self, reason: Reason, manner: Manner) {
        if !self.is_open() {
            return;
        }
        self.engine.disown();
        let traced = log::is_wanted(Level::Debug).then(|| reason.to_string());
        let handshake = self.cold(|cold| {
            cold.end.finish(reason);
            cold.handshake.take()
        });
        // What is queued behind a handshake can go out no more.
        let is_upgrade = handshake.as_ref().is_some_and(Handshake::is_upgrade);
        let manner = if is_upgrade { Manner::AtOnce } else { manner };
        self.status.change(|state| state.end(manner));
        if let Some(handshake) = &handshake {
            self.engine.cancel_timer(handshake.timer);
        }
        if manner == Manner::AtOnce {
            self.ending().close_descriptor();
        } else if !self.status.is(Look::CORKED) {
            self.lingering().go_on();
        }
        if self.status.is_lingering() {
            self.lingering().start_timer();
            self.wake();
        }
        let reader = self.reader.take();
        let others = self.cold(|cold| (cold.on_end.take(), cold.on_drain.take()));
        self.keep(false);
        drop((reader, others));
        if let Some(handshake) = handshake {
            handshake.was_ended(self);
        }
        self.waiters().wake_all();
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
        let untold = self
            .if_cold(|cold| Some((cold.handshake.as_mut().and_then(Handshake::take_done), cold.on_upgraded.take())));
        drop(untold);
        self.finish(Reason::Local, Manner::AtOnce);
        self.ending().close_descriptor();
        self.status.change(|state| state.duties.remove(Duties::DISCONNECT | Duties::UPGRADED));
        self.cold(|cold| cold.end.take_reason());
        self.ending().leave_roster();
        let callback = self.ending().take_callback();
        drop(callback);
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
        if self.status.change(|state| state.delivery.set_kept(keep)) != keep {
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
            let callback = self.ending().take_callback();
            self.finish(Reason::Local, Manner::Graceful);
            self.status.change(|state| state.duties.remove(Duties::DISCONNECT));
            self.ending().leave_roster();
            drop(callback);
        }
        self.lingering().drain_without_loop();
    }
}

impl Ending<'_> {
    fn leftover(&self) -> Vec<u8> {
        if self.is_told_to_somebody() { Vec::new() } else { self.0.io.take_input() }
    }

    /// Returns whether anybody wants to hear of the end.
    fn is_told_to_somebody(&self) -> bool {
        let own = || self.0.extras.get().is_some_and(|extras| extras.on_disconnect.borrow().is_some());
        (self.0.status.get().duties.contains(Duties::TELLS_SERVER) && self.0.common.has_on_disconnect()) || own()
    }

    fn take_callback(&self) -> Option<OnDisconnect> {
        if self.0.status.get().duties.contains(Duties::TELLS_SERVER) {
            self.0.status.change(|state| state.duties.remove(Duties::TELLS_SERVER));
            let callback = self.0.common.on_disconnect.borrow().clone();
            self.0.common.leave();
            return callback.map(OnDisconnect::Shared);
        }
        self.0.extras.get()?.on_disconnect.take().map(OnDisconnect::Own)
    }

    /// Calls the disconnect callback, or logs what it would have been told.
    pub(super) fn tell(&self) {
        self.0.status.change(|state| state.duties.remove(Duties::DISCONNECT));
        let hears = self.roster().filter(|roster| roster.hears_ends()).zip(self.0.number.get());
        if hears.is_some() {
            self.0.number.take();
        }
        self.leave_roster();
        let callback = self.take_callback();
        if callback.is_none() && hears.is_none() {
            return self.log();
        }
        let Some(reason) = self.0.cold(|cold| cold.end.take_reason()) else { return };
        let Some(me) = self.0.strong() else { return };
        let unsent = self.0.cold(|cold| cold.end.lost()) + self.0.output().unsent();
        let mut end = Disconnect { leftover: self.0.io.take_input(), reason, unsent };
        if let Some(callback) = callback {
            let copy = hears.is_some().then(|| end.again());
            let socket = Socket::from_conn(me);
            self.0.status.mark(Look::IN_CALLBACK, true);
            call(&self.0.engine, || match callback {
                OnDisconnect::Own(user) => user(&socket, end),
                OnDisconnect::Shared(user) => user(&socket, end),
            });
            self.0.status.mark(Look::IN_CALLBACK, false);
            let Some(copy) = copy else { return };
            end = copy;
        }
        if let Some((roster, number)) = hears {
            roster.ended(number, end);
        }
    }

    fn log(&self) {
        // Of those that ended well, `finish` has told. Nothing is borrowed meanwhile: an error of the program's, or whoever
        // listens to the log, may call anything.
        let Some(reason) = self.0.if_cold(|cold| cold.end.take_reason()) else { return };
        let is_told = self.0.cold(|cold| cold.end.is_told());
        let failed = match &reason {
            Reason::Failed(error) if !is_told => Some((error.to_string(), error.names_peer())),
            _ => None,
        };
        self.0.cold(|cold| cold.end.put_back(reason));
        if let Some((reason, names_peer)) = failed {
            let peer = self.0.peer_name();
            let record = || {
                let whose = if names_peer { String::new() } else { format!(" to {peer}") };
                // Never a warning: what the peer sends may be what a callback fails on.
                let event = log::message("end").peer(&peer).error(&reason);
                event.say(format_args!("connection{whose} closed: {reason}"));
            };
            match self.roster() {
                Some(roster) => roster.log_end(&record),
                None => record(),
            }
        }
    }

    fn roster(&self) -> Option<Rc<dyn Roster>> {
        self.0.common.roster.as_ref().and_then(Weak::upgrade)
    }

    fn leave_roster(&self) {
        if let (Some(number), Some(roster)) = (self.0.number.take(), self.roster()) {
            roster.leave(number);
        }
    }

    /// Closes the descriptor. Deregistered first, always.
    pub(super) fn close_descriptor(&self) {
        if self.0.status.get().phase == Phase::Closed {
            return;
        }
        let queued = self.0.io.queued();
        // Of what a session holds, close_notify alone is no loss.
        let is_lost =
            queued > 0 || (!self.0.status.get().write.contains(WriteHalf::ENDED) && self.0.channel().holds_output());
        self.0.status.change(|state| {
            state.phase = Phase::Closed;
            if is_lost {
                state.write.insert(WriteHalf::LOST);
            }
        });
        if is_lost || self.0.status.get().write.contains(WriteHalf::RESETS) {
            // Or the peer would take what it got for all there is.
            self.0.transport.break_off();
        }
        // For the messages that are still to come.
        let peer = self.0.remote();
        if queued > 0 {
            let queued = count(queued, "byte");
            log::info("end").peer(&peer).say(format_args!("connection to {peer} closed with {queued} unsent"));
        }
        if let Some(key) = self.0.key.take() {
            self.0.engine.deregister(key);
        }
        self.0.transport.close();
        self.0.output().drop_queue();
        self.0.cancel_timer(|cold| cold.idle_timer.take());
        self.0.cancel_timer(|cold| cold.linger_timer.take());
        self.0.cancel_timer(|cold| cold.probing.take().map(|probing| probing.timer));
        self.0.cancel_timer(|cold| cold.reset_timer.take());
        self.0.output().tell_flushed(!self.0.status.get().write.contains(WriteHalf::LOST));
        if self.0.status.get().duties.contains(Duties::DISCONNECT) {
            // Without a registration it takes a call of its own.
            self.0.wake();
        }
    }
}
