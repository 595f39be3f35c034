//! Back-pressure, both ways: the marks of the queue of what is to be sent, and the pause of what is delivered.

use super::flags::Flag;
use super::handle::Socket;
use super::handler::{OnDrain, Reason};
use super::{Conn, Options};
use crate::engine::call;

impl Options {
    /// The marks as they count: within the limit, and apart.
    fn marks(&self) -> (usize, usize) {
        let high = self.high_water_mark.min(self.send_limit).max(1);
        (high, self.low_water_mark.min(high - 1))
    }
}

impl Conn {
    // ---- sending ----

    /// Has the queue reached its high mark, and not fallen to the low one since?
    pub(crate) fn is_full(&self) -> bool {
        self.flags.has(Flag::FULL)
    }

    /// So much more may be queued before the high mark.
    pub(super) fn room(&self) -> usize {
        let (high, _) = self.options(Options::marks);
        high.saturating_sub(self.queued())
    }

    pub(crate) fn set_marks(&self, change: impl FnOnce(&mut Options)) {
        self.change_options(change);
        self.note_queued();
        self.note_sent();
    }

    /// The queue has grown.
    pub(super) fn note_queued(&self) {
        let (high, _) = self.options(Options::marks);
        if self.queued() >= high {
            self.flags.raise(Flag::FULL);
        }
    }

    /// The queue has shrunk.
    #[inline]
    pub(super) fn note_sent(&self) {
        if self.flags.has(Flag::FULL) {
            self.note_drained();
        }
    }

    fn note_drained(&self) {
        let (_, low) = self.options(Options::marks);
        if self.queued() > low {
            return;
        }
        self.flags.lower(Flag::FULL);
        self.wake_for_room();
        if self.is_open() && self.if_rare(|rare| rare.on_drain.as_ref().map(drop)).is_some() {
            self.flags.raise(Flag::DRAINED);
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
        if !self.flags.take(Flag::DRAINED) || self.flags.has(Flag::FULL) || !self.is_open() {
            return;
        }
        let (callback, epoch) = self.rare(|rare| (rare.on_drain.take(), rare.drain_epoch));
        let (Some(mut callback), Some(me)) = (callback, self.strong()) else { return };
        let socket = Socket::from_conn(me);
        self.flags.raise(Flag::BUSY);
        let result = call(&self.engine, || callback(&socket));
        self.flags.lower(Flag::BUSY);
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
        self.flags.has(Flag::HAS_READER) && !self.flags.has(Flag::PAUSED)
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.flags.has(Flag::PAUSED)
    }

    pub(crate) fn pause(&self) {
        self.flags.raise(Flag::PAUSED);
    }

    pub(crate) fn resume(&self) {
        if self.flags.replace(Flag::PAUSED, false) && self.is_open() {
            self.wake();
            self.wake_everybody();
        }
    }
}
