//! The state of a connection in its cells, with the word and the readiness that change with every message.

use std::cell::Cell;

use super::state::{Look, Phase, READABLE, ReadHalf, State, Waits};
use crate::engine::Ready;

#[derive(Default)]
pub(super) struct Status {
    state: Cell<State>,
    look: Cell<Look>,
    /// The readiness that the descriptor was reported with, and has not been found unready for since.
    ready: Cell<Ready>,
}

impl Status {
    /// The only way to change the state. Nothing else can run meanwhile: neither the state nor a closure over it can
    /// reach user code.
    #[inline]
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.get();
        let result = change(&mut state);
        self.state.set(state);
        self.look.set(self.look.get() & Look::BY_HAND | state.look());
        result
    }

    #[inline]
    pub(super) fn get(&self) -> State {
        State { waits: self.waits(), ..self.state.get() }
    }

    #[inline]
    pub(super) fn waits(&self) -> Waits {
        Waits::from_bits_retain((self.look.get() & Look::WAITS).bits() as u8)
    }

    #[inline]
    pub(super) fn set_waits(&self, waits: Waits) {
        let others = self.look.get() - Look::WAITS;
        self.look.set(others | Look::from_bits_retain(waits.bits().into()));
    }

    /// Returns whether any of those is so.
    #[inline]
    pub(super) fn is(&self, any: Look) -> bool {
        self.look.get().intersects(any)
    }

    /// Sets a bit that changes with every message, and returns how it was.
    #[inline]
    pub(super) fn mark(&self, bit: Look, is_set: bool) -> bool {
        debug_assert!(Look::BY_HAND.contains(bit));
        let mut look = self.look.get();
        let was = look.intersects(bit);
        look.set(bit, is_set);
        self.look.set(look);
        was
    }

    #[inline]
    pub(super) fn is_open(&self) -> bool {
        !self.is(Look::ENDED)
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.get().phase == Phase::Handshaking
    }

    pub(super) fn is_lingering(&self) -> bool {
        self.get().phase == Phase::Lingering
    }

    /// Returns whether a callback is to be given what comes.
    #[inline]
    pub(super) fn delivers(&self) -> bool {
        self.is(Look::HAS_READER) && !self.is(Look::PAUSED)
    }

    // ---- readiness ----

    #[inline]
    pub(super) fn ready(&self) -> Ready {
        self.ready.get()
    }

    #[inline]
    pub(super) fn set_ready(&self, ready: Ready) {
        self.ready.set(ready);
    }

    #[inline]
    pub(super) fn becomes_ready(&self, ready: Ready) {
        self.ready.set(self.ready.get() | ready);
    }

    /// Returns whether a read may find something. If not, the loop will say when.
    #[inline]
    pub(super) fn may_read(&self) -> bool {
        self.ready.get().has(READABLE)
    }

    /// A read has found nothing: the loop will say when there is something.
    pub(super) fn found_nothing(&self) {
        self.ready.set(self.ready.get().without(READABLE));
    }

    #[inline]
    pub(super) fn has_read_all(&self) -> bool {
        self.is(Look::READ_ENDED)
    }

    /// Nothing more comes.
    pub(super) fn read_ended(&self) {
        self.change(|state| state.read.insert(ReadHalf::ENDED));
    }

    /// Returns whether the end is known to have come, or to be near.
    pub(super) fn is_at_end(&self) -> bool {
        self.ready.get().has(Ready::AT_END) || self.has_read_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::state::{Duties, Manner, Wire};

    #[test]
    fn the_word_follows_the_state_and_keeps_what_is_set_by_hand() {
        let status = Status::default();
        assert!(status.is_open());
        status.change(|state| state.wire.insert(Wire::TLS));
        assert!(status.is(Look::TLS) && !status.is(Look::IN_CALLBACK));
        assert!(!status.mark(Look::IN_CALLBACK, true));
        status.change(|state| state.duties.insert(Duties::OWN_OPTIONS));
        assert!(status.is(Look::IN_CALLBACK) && status.is(Look::OWN_OPTIONS));
        assert!(status.mark(Look::IN_CALLBACK, false) && !status.is(Look::IN_CALLBACK));
        assert!(status.change(|state| state.end(Manner::Graceful)));
        assert!(!status.is_open() && status.is_lingering());
        status.set_waits(Waits::EVER | Waits::ROOM);
        status.change(|state| state.duties.remove(Duties::OWN_OPTIONS));
        assert!(status.is(Look::AWAITED) && status.is(Look::ROOM_AWAITED) && !status.is(Look::INPUT_AWAITED));
        assert_eq!(status.get().waits, Waits::EVER | Waits::ROOM);
        status.set_waits(Waits::EVER);
        assert_eq!(status.waits(), Waits::EVER);
    }

    #[test]
    fn readiness_stays_until_a_read_finds_nothing() {
        let status = Status::default();
        assert!(!status.may_read() && !status.is_at_end());
        status.becomes_ready(Ready::READ);
        status.becomes_ready(Ready::HANGUP);
        assert!(status.may_read() && status.is_at_end());
        status.found_nothing();
        assert!(!status.may_read() && !status.is_at_end());
        status.read_ended();
        assert!(status.is_at_end() && status.has_read_all());
    }
}
