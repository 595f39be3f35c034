//! The knowledge and decisions of a connection, as a value: no descriptor, no main loop, no clock, no bytes. It is told
//! what happened and asked what to do next; the rest of the room makes the system calls and calls user code.
//!
//! [`State`] is small and `Copy`. It lies in a cell and is changed by [`Status::change`](super::status::Status::change)
//! alone, so that no borrow of it can outlive a call to user code, and so that [`Look`], the word that answers most
//! questions in one look, is derived from it each time.

mod delivery;
mod pass;
#[cfg(test)]
mod tests;

use crate::engine::Ready;
pub(super) use delivery::Delivery;
pub(crate) use delivery::Kind;
pub(super) use pass::{Delivered, Facts, Pass, Step};

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// The TLS handshake is going on: nothing is delivered, and nothing that is sent now goes out before its end.
    Handshaking,
    #[default]
    Open,
    /// Ended for the user. Queued data goes out and the peer's end is awaited, in the background.
    Lingering,
    /// The descriptor is closed.
    Closed,
}

bitflags::bitflags! {
    /// The facts about the peer's direction.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(super) struct ReadHalf: u8 {
        /// Nothing more comes.
        const ENDED = 1;
        /// The peer's half-close has been delivered, and the write half lives on.
        const HALF_OPEN = 1 << 1;
        /// The input was not valid TLS. That ends the connection, but it is not the peer's end.
        const DAMAGED = 1 << 2;
        /// A blocking call or a future has told its caller of the end, so leftover data no longer hides it.
        const CALLER_KNOWS = 1 << 3;
        /// The end came after it was closed here, behind whatever was thrown away.
        const DISCARDED = 1 << 4;
    }

    /// The facts about our own direction.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(super) struct WriteHalf: u16 {
        /// To be shut down once the queue is empty. Nothing more can be sent.
        const ENDING = 1;
        /// Shut down.
        const ENDED = 1 << 1;
        /// Sending failed; see [`End`](super::end::End).
        const FAILED = 1 << 2;
        /// There is no room, and the loop says when there is.
        const ARMED = 1 << 3;
        /// The queue has reached its high-water mark, and not fallen to the low one since.
        const FULL = 1 << 4;
        /// It has fallen to the low one, and the drain callback is due.
        const DRAIN_DUE = 1 << 5;
        /// Somebody waits for the queue to be empty.
        const FLUSH_AWAITED = 1 << 6;
        /// The reader of our output, which is not a socket, has gone. The end comes once there is nothing to read.
        const OUTPUT_GONE = 1 << 7;
        /// Some of what was sent never left.
        const LOST = 1 << 8;
        /// The connection is broken off for what the peer sent: once the queue is out, the peer sees a reset, not an
        /// end.
        const RESETS = 1 << 9;
        /// The queue is counted among those of the server.
        const COUNTED = 1 << 10;
    }

    /// The kinds of futures that wait. This changes with every message that one waits for, so it lies in the word, see
    /// [`Status::get`](super::status::Status::get).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(super) struct Waits: u8 {
        /// Some wait, or have waited.
        const EVER = 1;
        const INPUT = 1 << 1;
        const ROOM = 1 << 2;
    }

    /// The connection's make, which never changes.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(super) struct Wire: u8 {
        const TLS = 1;
        /// A pair of descriptors, or one that is no socket.
        const FILES = 1 << 1;
        /// The input tells its readiness only when asked.
        const INPUT_ONESHOT = 1 << 2;
        /// The input or the output does.
        const ONESHOT = 1 << 3;
    }

    /// The other things to look after.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(super) struct Duties: u8 {
        /// The disconnect callback is due.
        const DISCONNECT = 1;
        /// The end is told to the callback that the server has for all of its connections.
        const TELLS_SERVER = 1 << 1;
        const WATCHES_IDLENESS = 1 << 2;
        /// The connection has options of its own.
        const OWN_OPTIONS = 1 << 3;
        /// The callback for the end of a handshake on an open connection is due.
        const UPGRADED = 1 << 4;
    }

    /// Most of what is asked about a connection with every message, in one word.
    ///
    /// The bits of [`Look::BY_HAND`] change with every message and are set where that happens. All others are derived
    /// from the [`State`] by [`State::look`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(super) struct Look: u32 {
        /// Some futures wait, or have waited. The three are [`Waits`], at the same places.
        const AWAITED = 1;
        const INPUT_AWAITED = 1 << 1;
        const ROOM_AWAITED = 1 << 2;
        /// A callback of this connection is on the stack, and further ones wait.
        const IN_CALLBACK = 1 << 3;
        /// Something happened meanwhile.
        const REQUEUE = 1 << 4;
        /// The reader has been replaced since the one that is on the stack was called.
        const READER_REPLACED = 1 << 5;
        /// Queued data goes out before the turn ends.
        const CORKED = 1 << 6;
        const BY_HAND = 0b111_1111;
        const WAITS = 0b111;

        const ENDED = 1 << 7;
        const HAS_READER = 1 << 8;
        const READS_DATA = 1 << 9;
        const PAUSED = 1 << 10;
        const TLS = 1 << 11;
        const WATCHES_IDLENESS = 1 << 12;
        const OWN_OPTIONS = 1 << 13;
        const FULL = 1 << 14;
        const READ_ENDED = 1 << 15;
        const WRITE_FAILED = 1 << 16;
        const ONESHOT = 1 << 17;

        /// There is more to do with a message than to hand it to the reader.
        const NO_FAST_READ = 1 << 18;
        /// There is more to do when input comes than to wake the future that waits for it.
        const NO_FAST_WAKE = 1 << 19;
        /// A future that asks for input does not just get what has come.
        const NO_FAST_TAKE = 1 << 20;
        /// Data that is sent does not just go into the queue.
        const NO_FAST_SEND = 1 << 21;
        /// Queued data does not just go out.
        const NO_FAST_FLUSH = 1 << 22;

        const READS_LINES = 1 << 23;

        /// A message goes the long way.
        const SLOW_READ = Self::NO_FAST_READ.bits() | Self::IN_CALLBACK.bits() | Self::AWAITED.bits();
        /// So does waking a future. And one must wait: [`Look::INPUT_AWAITED`].
        const SLOW_WAKE = Self::NO_FAST_WAKE.bits() | Self::IN_CALLBACK.bits() | Self::REQUEUE.bits();
    }
}

/// The manner in which a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Queued data goes out first, and the peer sees an end.
    Graceful,
    /// Queued data goes out first, and the peer sees a reset: it must not take this for an end.
    Reset,
    /// At once. Queued data is lost.
    AtOnce,
}

/// The next step of a connection that lingers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Linger {
    /// Send what is queued.
    Send,
    /// Shut the write half down.
    EndWriting,
    /// Read and discard: a peer that sends as well gets rid of its data only if we take it, and closing with unread
    /// input would make the kernel send a reset and lose what it had accepted.
    Discard,
    /// Break the connection off, once the peer has what was sent.
    Reset,
    Close,
    Wait,
}

/// The facts that decide about the next step of lingering, beside the state.
#[derive(Clone, Copy, Debug)]
pub(super) struct LingerFacts {
    pub(super) ready: Ready,
    /// Something is queued.
    pub(super) is_sending: bool,
    /// It was tried already in this turn to send, or to shut down.
    pub(super) has_written: bool,
    pub(super) has_ended: bool,
    /// The linger time is zero.
    pub(super) is_impatient: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) read: ReadHalf,
    pub(super) write: WriteHalf,
    pub(super) delivery: Delivery,
    pub(super) waits: Waits,
    pub(super) wire: Wire,
    pub(super) duties: Duties,
}

/// Readiness that a read answers: data, the end, or an error.
pub(super) const READABLE: Ready = Ready::READ.with(Ready::AT_END);

impl State {
    /// Open for the user.
    pub(super) fn is_open(&self) -> bool {
        self.phase < Phase::Lingering
    }

    pub(super) fn is_socket(&self) -> bool {
        !self.wire.contains(Wire::FILES)
    }

    pub(super) fn has_read_all(&self) -> bool {
        self.read.contains(ReadHalf::ENDED)
    }

    /// Returns whether a callback is to be given what comes.
    pub(super) fn delivers(&self) -> bool {
        self.is_open() && self.delivery.delivers()
    }

    /// Returns whether anything can be sent, room provided.
    pub(super) fn may_send(&self) -> bool {
        self.is_open() && !self.write.contains(WriteHalf::ENDING)
    }

    /// Returns whether the end is known to have come, or to be near.
    pub(super) fn is_at_end(&self, ready: Ready) -> bool {
        ready.has(Ready::AT_END) || self.has_read_all()
    }

    /// Returns what the engine watches for: input, and room.
    pub(super) fn interest(&self) -> (bool, bool) {
        // A descriptor that is at its end tells so for ever.
        let discards = self.phase == Phase::Lingering && self.is_socket();
        let is_read = self.delivers() || self.waits.contains(Waits::INPUT) || self.phase == Phase::Handshaking;
        let read = (is_read || discards) && !self.has_read_all();
        (read, self.write.contains(WriteHalf::ARMED))
    }

    /// The readiness that is left after a read, which brought as much as it had room for, or less. Less means that
    /// nothing is left, unless the end is known to have come, which is not told again, or the kernel stopped for
    /// another reason.
    pub(super) fn after_read(&self, ready: Ready, is_full: bool, stopped_early: bool) -> Ready {
        let asks = self.wire.contains(Wire::INPUT_ONESHOT) && !self.write.contains(WriteHalf::OUTPUT_GONE);
        if asks || (!is_full && !stopped_early && !ready.has(Ready::AT_END)) {
            ready.without(Ready::READ)
        } else {
            ready
        }
    }

    /// The user's end of the connection. Returns false if it had one already.
    pub(super) fn end(&mut self, manner: Manner) -> bool {
        if !self.is_open() {
            return false;
        }
        self.phase = Phase::Lingering;
        self.duties.insert(Duties::DISCONNECT);
        self.write.set(WriteHalf::RESETS, manner == Manner::Reset);
        self.delivery.remove_reader();
        true
    }

    /// Returns whether the write half lives on after the peer's end, which has just come.
    pub(super) fn stays_half_open(&self, ready: Ready) -> bool {
        !self.is_open()
            || (self.read.contains(ReadHalf::HALF_OPEN)
                && !self.write.contains(WriteHalf::ENDED)
                && !ready.has(Ready::ERROR))
    }

    /// The next step towards the end: send, half-close, discard, close.
    pub(super) fn lingering(&self, facts: LingerFacts) -> Linger {
        let may_discard = self.is_socket() && !self.has_read_all();
        if self.phase != Phase::Lingering {
            return Linger::Wait;
        }
        if facts.is_sending {
            return match (facts.has_written, may_discard) {
                (false, _) => Linger::Send,
                (true, true) => Linger::Discard,
                (true, false) => Linger::Wait,
            };
        }
        if self.write.contains(WriteHalf::RESETS) && self.is_socket() {
            return Linger::Reset;
        }
        // After damage in what came the peer's end is still to come; closing before it could destroy the alert.
        let peer_has_ended = self.has_read_all() && !self.read.contains(ReadHalf::DAMAGED);
        let closes = peer_has_ended || !self.is_socket() || facts.is_impatient;
        // TLS's close_notify goes out whoever closed first.
        if (!closes || self.wire.contains(Wire::TLS)) && !self.write.contains(WriteHalf::ENDED) {
            return if facts.has_ended { Linger::Wait } else { Linger::EndWriting };
        }
        match (closes, facts.ready.has(READABLE)) {
            (true, _) => Linger::Close,
            (false, true) => Linger::Discard,
            (false, false) => Linger::Wait,
        }
    }

    /// Returns whether the descriptor is closed right after the write half was shut down: then the shutdown is spared.
    pub(super) fn closes_with_shutdown(&self) -> bool {
        self.phase == Phase::Lingering && self.has_read_all() && !self.read.contains(ReadHalf::DAMAGED)
    }

    // ---- the word ----

    /// The derived bits of the word.
    #[inline]
    pub(super) fn look(&self) -> Look {
        let bit = |look: Look, is_set: bool| look.bits() * u32::from(is_set);
        let bits = bit(Look::ENDED, !self.is_open())
            | bit(Look::HAS_READER, self.delivery.has_reader())
            | bit(Look::READS_DATA, self.delivery.reader == Some(Kind::Data))
            | bit(Look::READS_LINES, matches!(self.delivery.reader, Some(Kind::Lines | Kind::ByteLines)))
            | bit(Look::PAUSED, self.delivery.is_paused())
            | bit(Look::TLS, self.wire.contains(Wire::TLS))
            | bit(Look::WATCHES_IDLENESS, self.duties.contains(Duties::WATCHES_IDLENESS))
            | bit(Look::OWN_OPTIONS, self.duties.contains(Duties::OWN_OPTIONS))
            | bit(Look::FULL, self.write.contains(WriteHalf::FULL))
            | bit(Look::READ_ENDED, self.has_read_all())
            | bit(Look::WRITE_FAILED, self.write.contains(WriteHalf::FAILED))
            | bit(Look::ONESHOT, self.wire.contains(Wire::ONESHOT))
            | bit(Look::NO_FAST_READ, !self.reads_fast())
            | bit(Look::NO_FAST_WAKE, !self.wakes_fast())
            | bit(Look::NO_FAST_TAKE, !self.takes_fast())
            | bit(Look::NO_FAST_SEND, !self.sends_fast())
            | bit(Look::NO_FAST_FLUSH, !self.flushes_fast());
        Look::from_bits_retain(bits)
    }

    /// There is nothing to do but to read, and a reader that is given what comes, provided that no future waits.
    fn reads_fast(&self) -> bool {
        self.phase == Phase::Open
            && self.read.is_empty()
            && self.delivery.delivers()
            && self.delivery.reader != Some(Kind::Raw)
            && !self.wire.intersects(Wire::TLS | Wire::FILES)
            && !self.write.intersects(WriteHalf::DRAIN_DUE | WriteHalf::OUTPUT_GONE)
            && !self.duties.contains(Duties::UPGRADED)
    }

    /// There is nothing to do but to wake the future that waits for input, provided that one does.
    fn wakes_fast(&self) -> bool {
        self.phase == Phase::Open
            && !self.has_read_all()
            && !self.delivery.has_reader()
            && !self.wire.intersects(Wire::FILES | Wire::ONESHOT)
            && !self.write.intersects(WriteHalf::DRAIN_DUE | WriteHalf::OUTPUT_GONE)
            && !self.duties.contains(Duties::UPGRADED)
    }

    /// A future gets what has come.
    fn takes_fast(&self) -> bool {
        self.is_open() && !self.has_read_all() && !self.delivery.has_reader()
    }

    /// Returns whether data that is sent just goes into the queue.
    fn sends_fast(&self) -> bool {
        self.may_send() && !self.write.contains(WriteHalf::FAILED)
    }

    /// Returns whether queued data goes out without anybody to notify.
    fn flushes_fast(&self) -> bool {
        let special = WriteHalf::ENDING
            | WriteHalf::ARMED
            | WriteHalf::FULL
            | WriteHalf::FLUSH_AWAITED
            | WriteHalf::FAILED
            | WriteHalf::COUNTED;
        self.is_open()
            && !self.wire.contains(Wire::TLS)
            && !self.write.intersects(special)
            && !self.duties.contains(Duties::WATCHES_IDLENESS)
    }
}
