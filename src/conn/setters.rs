//! Callbacks set and removed, and the introduction of a new connection to the program. What is replaced is dropped when
//! nothing is borrowed: it captured who knows what.

use std::num::NonZeroU64;
use std::rc::{Rc, Weak};

use super::callbacks::{OnDrain, OnEnd, OwnDisconnect, ReadCallback, Reason};
use super::handle::Socket;
use super::idle::Traffic;
use super::state::{Duties, Look, Manner, ReadHalf};
use super::{Conn, Options};
use crate::engine::{Next, Ready, call};
use crate::error::Result;

impl Conn {
    /// Sets the callback that gets the input.
    pub(crate) fn set_reader(&self, reader: Option<Box<dyn ReadCallback>>) {
        if !self.is_open() {
            return;
        }
        let kind = reader.as_ref().map(|reader| reader.kind());
        self.status.mark(Look::READER_REPLACED, true);
        self.status.change(|state| state.delivery.reader = kind);
        let old = self.reader.replace(reader);
        if kind.is_some() {
            self.wake();
            self.waiters().wake_all();
        }
        self.keep(kind.is_some());
        drop(old);
    }

    /// `None`: the peer's half-close is the end of the connection again.
    pub(crate) fn set_on_end(&self, callback: Option<OnEnd>) {
        if self.is_open() {
            let old = self.cold(|cold| std::mem::replace(&mut cold.on_end, callback));
            drop(old);
        }
    }

    pub(crate) fn set_on_drain(&self, callback: Option<OnDrain>) {
        if self.is_open() {
            let old = self.cold(|cold| {
                cold.drain_epoch = cold.drain_epoch.wrapping_add(1);
                std::mem::replace(&mut cold.on_drain, callback)
            });
            drop(old);
        }
    }

    /// Sets the callback for the end, in place of the server's, if there is one.
    pub(crate) fn set_on_disconnect(&self, callback: Option<OwnDisconnect>) {
        let some = callback.is_some();
        let told_server = self.status.change(|state| {
            let told_server = state.duties.contains(Duties::TELLS_SERVER);
            state.duties.remove(Duties::TELLS_SERVER);
            told_server
        });
        let old = self.extras().on_disconnect.replace(callback);
        if some {
            self.tell_late();
        }
        if told_server {
            self.common.leave();
        }
        drop(old);
    }

    /// The end may have come before its callback, and then nobody was told.
    fn tell_late(&self) {
        let is_told = self.is_open() || self.status.get().duties.contains(Duties::DISCONNECT);
        if !is_told && self.if_cold(|cold| cold.end.reason().map(drop)).is_some() {
            self.status.change(|state| state.duties.insert(Duties::DISCONNECT));
            self.wake();
        }
    }

    pub(crate) fn set_marks(&self, change: impl FnOnce(&mut Options)) {
        self.change_options(change);
        self.output().note_queued();
        self.output().note_sent();
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.status.is(Look::PAUSED)
    }

    pub(crate) fn pause(&self) {
        self.status.change(|state| state.delivery.set_paused(true));
    }

    pub(crate) fn resume(&self) {
        let was_paused = self.status.change(|state| state.delivery.set_paused(false));
        if was_paused && self.is_open() {
            self.touch(Traffic::Resumed);
            self.wake();
            self.waiters().wake_all();
        }
    }

    // ---- the introduction ----

    /// The server lists it under this number until its end, which is told to the server's callback.
    pub(crate) fn join_roster(&self, number: NonZeroU64) {
        self.number.set(Some(number));
        self.common.join();
        self.status.change(|state| state.duties.insert(Duties::TELLS_SERVER));
        if self.common.has_on_disconnect() {
            self.tell_late();
        }
    }

    /// Delivers nothing, the end included, before [`Conn::introduce`] or [`Conn::release`].
    pub(crate) fn hold(&self) {
        self.status.mark(Look::IN_CALLBACK, true);
        // There may be something to serve already: what came with the last of a handshake.
        self.status.mark(Look::REQUEUE, true);
    }

    /// Ends what [`Conn::hold`] began, where no callback is to be introduced.
    pub(crate) fn release(&self) {
        self.status.mark(Look::IN_CALLBACK, false);
        if self.status.mark(Look::REQUEUE, false) {
            self.wake();
        }
    }

    /// Runs `user` as the callback for the new connection: nothing else is delivered meanwhile.
    pub(crate) fn introduce(self: &Rc<Self>, user: impl FnOnce(Socket) -> Result) {
        self.status.mark(Look::IN_CALLBACK, true);
        let socket = Socket::from_conn(self.clone());
        let result = call(&self.engine, || user(socket));
        self.status.mark(Look::IN_CALLBACK, false);
        self.returned(result);
        if self.status.mark(Look::REQUEUE, false) {
            self.wake();
        }
    }

    /// Whoever serves it, by a handle, has nothing more to do with it, or has failed. If its end has come, that is told first, and
    /// not as a failure of those who have heard of it.
    pub(crate) fn was_served(&self, result: Result) {
        if self.status.has_read_all() && !self.status.get().read.contains(ReadHalf::HALF_OPEN) {
            // What is unread is left over. Not on a later turn: the last handle may be about to go, and then nobody is told.
            self.status.change(|state| state.read.insert(ReadHalf::CALLER_KNOWS));
            if self.strong().is_some_and(|me| me.serve(Ready::NONE, 0) != Next::Idle) {
                self.wake();
            }
        }
        // It has not ended, or only for one direction.
        match result {
            Ok(()) => {
                self.give_up();
                // But for the caller's handle nobody has it: it would end without a word.
                if self.handles.get() == 1 {
                    self.finish(Reason::Local, Manner::Graceful);
                }
            }
            Err(error) => self.finish(Reason::Failed(error), Manner::Graceful),
        }
    }

    /// Its server no longer keeps it open.
    fn give_up(&self) {
        let roster = self.common.roster.as_ref().and_then(Weak::upgrade);
        if let (Some(number), Some(roster)) = (self.number.get(), roster) {
            roster.give_up(number);
        }
    }
}
