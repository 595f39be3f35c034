//! Back-pressure, both ways: the marks of the queue of what is to be sent, and the pause of what is delivered.

use super::handler::{OnDrain, Reason, call};
use super::{Conn, Options};
use crate::socket::Socket;

impl Options {
    /// The marks as they count: within the limit, and apart.
    fn marks(&self) -> (usize, usize) {
        let high = self.high_mark.min(self.send_limit).max(1);
        (high, self.low_mark.min(high - 1))
    }
}

impl Conn {
    // ---- sending ----

    /// Has the queue reached its high mark, and not fallen to the low one since?
    pub(crate) fn is_full(&self) -> bool {
        self.full.get()
    }

    /// So much more may be queued before the high mark.
    pub(super) fn room(&self) -> usize {
        let (high, _) = self.options.borrow().marks();
        high.saturating_sub(self.queued())
    }

    pub(crate) fn set_marks(&self, change: impl FnOnce(&mut Options)) {
        self.change_options(change);
        self.note_queued();
        self.note_sent();
    }

    /// The queue has grown.
    pub(super) fn note_queued(&self) {
        let (high, _) = self.options.borrow().marks();
        if self.queued() >= high {
            self.full.set(true);
        }
    }

    /// The queue has shrunk.
    #[inline]
    pub(super) fn note_sent(&self) {
        if self.full.get() {
            self.note_drained();
        }
    }

    fn note_drained(&self) {
        let (_, low) = self.options.borrow().marks();
        if self.queued() > low {
            return;
        }
        self.full.set(false);
        self.wake_for_room();
        if self.is_open() && self.rare.borrow().as_ref().is_some_and(|rare| rare.on_drain.is_some()) {
            self.drained.set(true);
            self.wake();
        }
    }

    pub(crate) fn set_on_drain(&self, callback: Option<OnDrain>) {
        if self.is_open() {
            let old = self.rare(|rare| {
                rare.drain_epoch = rare.drain_epoch.wrapping_add(1);
                std::mem::replace(&mut rare.on_drain, callback)
            });
            drop(old);
        }
    }

    /// Calls back: there is room again. Unless it has been used up meanwhile; then this comes again.
    pub(super) fn tell_drained(&self) {
        if !self.drained.take() || self.full.get() || !self.is_open() {
            return;
        }
        let (callback, epoch) = self.rare(|rare| (rare.on_drain.take(), rare.drain_epoch));
        let (Some(mut callback), Some(me)) = (callback, self.strong()) else { return };
        let socket = Socket::from_conn(me);
        self.busy.set(true);
        let result = call(&self.engine, || callback(&socket));
        self.busy.set(false);
        match result {
            None => self.abort_silently(),
            Some(Err(error)) => self.finish(Reason::Failed(error), true),
            Some(Ok(())) => {}
        }
        let is_current = self.is_open() && self.rare(|rare| rare.drain_epoch == epoch);
        let rest = if is_current { self.rare(|rare| rare.on_drain.replace(callback)) } else { Some(callback) };
        drop(rest);
    }

    // ---- receiving ----

    /// Is there a callback that is to be given what comes?
    pub(super) fn delivers(&self) -> bool {
        self.has_reader.get() && !self.paused.get()
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.get()
    }

    pub(crate) fn pause(&self) {
        self.paused.set(true);
    }

    pub(crate) fn resume(&self) {
        if self.paused.replace(false) && self.is_open() {
            self.wake();
            self.wake_everybody();
        }
    }
}
