//! Who waits on a connection: futures, for input, for room to send, for the queue to be empty. The loop only wakes them;
//! what they do then is in [`polling`](super::polling).

use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::Conn;
use super::flags::Flag;
use crate::engine::{Engine, Next, READ_BUFFER, READS, Ready, Ticket, WaitQueue, Wakers, Yielding, now};

/// So much a connection's futures may read, and for so many microseconds, as long as they find something to do. Then the
/// others get their turn.
const BYTES: usize = READS * READ_BUFFER;
const SLICE: i64 = 1000;

/// So much is received before those who wait for it are woken.
pub(super) const AHEAD: usize = 2 << 10;

/// All who wait on a connection, and what they have done since the loop last had its turn.
#[derive(Default)]
pub(super) struct Waiting {
    input: WaitQueue,
    room: WaitQueue,
    /// For the queue to be empty.
    flushed: Wakers,
    yielding: Yielding,
    /// More has come than is received ahead.
    overflows: bool,
    /// Bytes.
    read: usize,
    started: Option<i64>,
}

impl Waiting {
    fn start_anew(&mut self) {
        self.yielding.end();
        self.read = 0;
        self.started = None;
    }

    /// Waits for the queue to be empty.
    pub(super) fn add_flushed(&mut self, waker: &Waker) {
        self.flushed.add_once(waker);
    }

    /// Is the share used up? Reading the clock costs as much as taking a short line, so that is done once for a while, for
    /// all connections of the loop together.
    fn is_done(&mut self, engine: &Engine) -> bool {
        if self.read < BYTES {
            if engine.futures_in_stride() {
                return false;
            }
            let now = now();
            let started = *self.started.get_or_insert(now);
            let has_credit = engine.futures_have_credit(now) || self.yielding.is_granted();
            if has_credit && now - started < SLICE {
                engine.start_futures_stride(now);
                return false;
            }
        }
        self.start_anew();
        self.yielding.yield_now();
        true
    }
}

#[derive(Clone, Copy)]
pub(crate) enum For {
    Input,
    Room,
}

impl Waiting {
    fn line(&mut self, what: For) -> &mut WaitQueue {
        match what {
            For::Input => &mut self.input,
            For::Room => &mut self.room,
        }
    }
}

impl Conn {
    pub(super) fn waiting<R>(&self, change: impl FnOnce(&mut Waiting) -> R) -> R {
        self.flags.raise(Flag::AWAITED);
        let mut waiting = self.more().waiting.borrow_mut();
        let waiting = waiting.get_or_insert_default();
        let result = change(waiting);
        self.note_lines(waiting);
        result
    }

    /// Those who wait, if anybody ever has.
    fn who_waits<R>(&self, change: impl FnOnce(&mut Waiting) -> R) -> Option<R> {
        if !self.flags.has(Flag::AWAITED) {
            return None;
        }
        let mut waiting = self.more.get()?.waiting.borrow_mut();
        let waiting = waiting.as_deref_mut()?;
        let result = change(waiting);
        self.note_lines(waiting);
        Some(result)
    }

    /// So that whether anybody waits is known at a glance.
    fn note_lines(&self, waiting: &Waiting) {
        self.flags.put(Flag::INPUT_AWAITED, !waiting.input.is_empty());
        self.flags.put(Flag::ROOM_AWAITED, !waiting.room.is_empty());
    }

    /// The same where there is nothing to do unless somebody waits.
    #[inline]
    fn if_waiting(&self, change: impl FnOnce(&mut Waiting, &mut Wakers)) {
        let mut awake = Wakers::default();
        self.who_waits(|waiting| change(waiting, &mut awake));
        awake.wake();
    }

    // ---- waking ----

    /// Does anybody wait for input?
    #[inline]
    pub(super) fn awaits_input(&self) -> bool {
        self.flags.has(Flag::INPUT_AWAITED)
    }

    /// Does anybody wait for room to send?
    #[inline]
    pub(super) fn awaits_room(&self) -> bool {
        self.flags.has(Flag::ROOM_AWAITED)
    }

    /// Does somebody wait for input, and there is nothing else to do if it comes?
    fn is_awaited(&self, and: impl FnOnce(&Waiting) -> bool) -> bool {
        !self.flags.has(Flag::BESIDES_WAKING)
            && !self.sticky.get().has(Ready::HANGUP | Ready::ERROR)
            && self.awaits_input()
            && self.who_waits(|waiting| !waiting.yielding.has_yielded() && and(waiting)) == Some(true)
    }

    /// The way of most where futures read: there is input, and nothing else to do. False if there is more to it, or if
    /// nobody waits.
    pub(super) fn wake_reader(&self) -> bool {
        let is_awaited = self.is_awaited(|_| true);
        if is_awaited {
            self.sticky.set(Ready::READ);
            self.if_waiting(|waiting, awake| waiting.input.wake_next(awake));
        }
        is_awaited
    }

    /// Is input to be received before those who wait for it are woken? That is cheap where the engine does it, but then there
    /// is little room.
    pub(super) fn reads_ahead(&self) -> bool {
        !self.flags.has(Flag::TLS) && self.is_awaited(|waiting| !waiting.overflows) && !self.io.has_input()
    }

    /// Received ahead: for those who wait for it.
    pub(super) fn keep_for_reader(&self, read: rustix::io::Result<usize>, buffer: &Option<Rc<Vec<u8>>>) {
        self.sticky.set(Ready::READ);
        let count = match (read, buffer) {
            (Ok(count), Some(buffer)) if count > 0 => {
                self.io.open().inbox.push(&buffer[..count]);
                count
            }
            // It is told the same again.
            (Ok(_), _) => AHEAD,
            (Err(error), _) => {
                self.read_failed(error.into());
                return;
            }
        };
        self.note_read(count == AHEAD);
        self.if_waiting(|waiting, awake| {
            waiting.overflows = count == AHEAD;
            waiting.input.wake_next(awake);
        });
    }

    /// There may be input: it is for those who wait for it. `None` if nobody does.
    pub(super) fn wake_for_input(&self) -> Option<Next> {
        if !self.awaits_input() {
            return None;
        }
        if !self.may_read() && !self.flags.has(Flag::READ_ENDED) && !self.io.has_input() {
            return Some(Next::Idle);
        }
        self.if_waiting(|waiting, awake| waiting.input.wake_next(awake));
        // Whoever has no place in line may have lost interest. Then the end is still to be noticed.
        let at_end = self.sticky.get().has(Ready::HANGUP | Ready::ERROR) || self.flags.has(Flag::READ_ENDED);
        Some(if at_end && !self.awaits_input() { Next::Again } else { Next::Idle })
    }

    /// The loop has got its turn: whoever has made way goes on.
    pub(super) fn wake_who_made_way(&self) {
        self.if_waiting(|waiting, awake| {
            if waiting.yielding.resume() {
                waiting.input.wake_next(awake);
                waiting.room.wake_next(awake);
            }
        });
    }

    pub(super) fn wake_for_room(&self) {
        self.if_waiting(|waiting, awake| waiting.room.wake_next(awake));
    }

    /// The queue is empty, or will never be.
    pub(super) fn wake_for_flushed(&self) {
        self.if_waiting(|waiting, awake| awake.append(&mut waiting.flushed));
    }

    /// Everybody has to look anew: the connection is at its end, or somebody else reads from now on.
    pub(super) fn wake_everybody(&self) {
        self.if_waiting(|waiting, awake| {
            waiting.input.wake_all(awake);
            waiting.room.wake_all(awake);
            awake.append(&mut waiting.flushed);
        });
    }

    /// A future has what it waited for.
    #[inline]
    pub(super) fn leave(&self, what: For, ticket: &mut Ticket) {
        if !ticket.is_queued() {
            return;
        }
        let mut awake = Wakers::default();
        let left = self.who_waits(|waiting| waiting.line(what).leave(ticket, &mut awake));
        awake.wake();
        drop(left);
    }

    /// A future is dropped. If it was woken, another has to know, or the loop.
    #[inline]
    pub(crate) fn forget(&self, what: For, ticket: &mut Ticket) {
        if !ticket.is_queued() {
            return;
        }
        self.leave(what, ticket);
        if matches!(what, For::Input) {
            self.taken();
        }
    }

    // ---- making way ----

    /// Who always finds something to do must not keep the loop: after its share it waits until nothing more urgent does.
    pub(super) fn makes_way(&self) -> bool {
        let Some(key) = self.key.get() else { return false };
        let makes_way = self.waiting(|waiting| waiting.is_done(&self.engine));
        if makes_way {
            self.engine.requeue_hot(key);
        }
        makes_way
    }

    /// So many bytes were read for a future.
    pub(super) fn note_bytes(&self, count: usize) {
        self.waiting(|waiting| {
            waiting.read += count;
            waiting.overflows &= count >= AHEAD;
        });
    }

    /// The loop gets its turn in any case.
    pub(super) fn wait_in<R>(&self, what: For, ticket: &mut Ticket, context: &Context<'_>, made_way: bool) -> Poll<R> {
        let old = self.waiting(|waiting| {
            if !made_way {
                waiting.start_anew();
            }
            waiting.line(what).wait(ticket, context.waker())
        });
        drop(old);
        if self.flags.has(Flag::ARMED_BY_HAND) {
            self.arm();
        }
        Poll::Pending
    }

    pub(super) fn is_turn_of(&self, what: For, ticket: &Ticket) -> bool {
        self.who_waits(|waiting| waiting.line(what).is_first(ticket)).unwrap_or(true)
    }
}
