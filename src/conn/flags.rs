//! What is true of a connection just now: one word, so that most messages find in one look that nothing is special.

use std::cell::Cell;

bitflags::bitflags! {
    #[derive(Clone, Copy, Debug, Default)]
    pub(super) struct Flag: u64 {
        /// Ended for the user; the rest of the queue goes out, and the peer's end is awaited, in the background.
        const LINGERING = 1;
        /// The descriptor is closed.
        const GONE = 1 << 1;
        /// A callback of this connection is on the stack, and further ones wait.
        const BUSY = 1 << 2;
        /// Something happened meanwhile.
        const AGAIN = 1 << 3;
        /// The disconnect callback is due.
        const TELL = 1 << 4;
        /// The end of it is told to the callback that its server has for all.
        const TELLS_SERVER = 1 << 5;
        const READ_ENDED = 1 << 6;
        /// The peer's end has been told, and the sending half lives on.
        const HALF_OPEN = 1 << 7;
        /// What came was no TLS any more. That ends the connection, but it is not the peer's end.
        const DAMAGED = 1 << 8;
        /// A blocking call has told its caller of the end.
        const CALLER_KNOWS = 1 << 9;
        /// The sending half is to be closed once the queue is empty.
        const WRITE_ENDING = 1 << 10;
        const WRITE_ENDED = 1 << 11;
        /// What is queued goes out when the turn ends.
        const DIRTY = 1 << 12;
        /// There is no room, and the loop will say when there is.
        const WRITE_ARMED = 1 << 13;
        /// Sending failed, see [`Rare::write_error`](super::Rare::write_error).
        const WRITE_FAILED = 1 << 14;
        /// The input tells its readiness only when asked.
        const INPUT_BY_HAND = 1 << 15;
        /// The input or the output does.
        const ARMED_BY_HAND = 1 << 16;
        /// It is a pair of descriptors, or one that is no socket.
        const FILES = 1 << 17;
        /// Whoever reads our output has gone, which is not a socket. The end comes once there is nothing to read.
        const OUTPUT_GONE = 1 << 18;
        const TLS = 1 << 19;
        /// The hand-shake of TLS is going on.
        const SHAKING = 1 << 20;
        const HAS_READER = 1 << 21;
        /// The reader takes data as it comes.
        const READS_DATA = 1 << 22;
        /// The reader is told of data and left to take it.
        const READS_RAW = 1 << 23;
        /// There is another reader, or none, since the one that is on the stack was called.
        const CHANGED = 1 << 34;
        /// The reader is given nothing for now.
        const PAUSED = 1 << 24;
        const WATCHES_IDLENESS = 1 << 25;
        /// The queue has reached its high mark, and not fallen to the low one since.
        const FULL = 1 << 26;
        /// It has fallen to the low one, and that is to be told.
        const DRAINED = 1 << 27;
        /// Somebody waits for the queue to be empty.
        const FLUSH_AWAITED = 1 << 28;
        /// Futures wait for something, or have.
        const AWAITED = 1 << 29;
        /// The loop keeps the connection for its reader.
        const KEPT = 1 << 30;
        /// It has options of its own.
        const OWN_OPTIONS = 1 << 31;
        /// Some of the futures wait for input just now.
        const INPUT_AWAITED = 1 << 32;
        /// Some wait for room.
        const ROOM_AWAITED = 1 << 33;

        /// It has ended for the user.
        const ENDED = Self::LINGERING.bits() | Self::GONE.bits();
        /// Something else is to be looked after than input for the reader, who is given it.
        const BESIDES_INPUT = Self::ENDED.bits() | Self::BUSY.bits() | Self::READ_ENDED.bits() | Self::FILES.bits()
            | Self::TLS.bits() | Self::DRAINED.bits() | Self::AWAITED.bits() | Self::PAUSED.bits()
            | Self::READS_RAW.bits();
        /// Something else is to be done than to wake those who wait for input.
        const BESIDES_WAKING = Self::ENDED.bits() | Self::BUSY.bits() | Self::AGAIN.bits() | Self::TELL.bits()
            | Self::READ_ENDED.bits() | Self::ARMED_BY_HAND.bits() | Self::FILES.bits() | Self::OUTPUT_GONE.bits()
            | Self::SHAKING.bits() | Self::HAS_READER.bits() | Self::DRAINED.bits();
        /// Whoever asks for input does not just get what has come.
        const NOT_JUST_TAKEN = Self::ENDED.bits() | Self::READ_ENDED.bits() | Self::HAS_READER.bits();
        /// What is sent does not just go into the queue.
        const NOT_JUST_QUEUED = Self::ENDED.bits() | Self::WRITE_ENDING.bits() | Self::WRITE_FAILED.bits();
        /// What is queued does not just go out.
        const NOT_JUST_WRITTEN = Self::ENDED.bits() | Self::TLS.bits() | Self::WRITE_ENDING.bits()
            | Self::WRITE_ARMED.bits() | Self::FULL.bits() | Self::FLUSH_AWAITED.bits() | Self::WRITE_FAILED.bits()
            | Self::WATCHES_IDLENESS.bits();
    }
}

#[derive(Default)]
pub(super) struct Flags(Cell<Flag>);

impl Flags {
    /// Any of those?
    #[inline]
    pub(super) fn has(&self, any: Flag) -> bool {
        self.0.get().intersects(any)
    }

    #[inline]
    pub(super) fn raise(&self, flag: Flag) {
        self.0.set(self.0.get() | flag);
    }

    #[inline]
    pub(super) fn lower(&self, flag: Flag) {
        self.0.set(self.0.get() - flag);
    }

    #[inline]
    pub(super) fn put(&self, flag: Flag, raised: bool) {
        if raised { self.raise(flag) } else { self.lower(flag) }
    }

    /// Puts it so, and says how it was.
    #[inline]
    pub(super) fn replace(&self, flag: Flag, raised: bool) -> bool {
        let was = self.has(flag);
        self.put(flag, raised);
        was
    }

    #[inline]
    pub(super) fn take(&self, flag: Flag) -> bool {
        self.replace(flag, false)
    }
}
