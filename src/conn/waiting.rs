//! The futures that wait on a connection: for input, for room to send, for the queue to be empty. The loop only wakes
//! them; what they do then is in [`polling`](super::polling).

use std::rc::Rc;
use std::task::{Poll, Waker};

use super::Conn;
use super::state::{Look, Waits};
use crate::engine::{Engine, READ_BUFFER, READS, Ready, Ticket, WaitQueue, Wakers, Yielding, now};

/// So much a connection's futures may read, and for so many microseconds, as long as they find something to do. Then
/// the others get their turn.
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

    /// Returns whether the share is used up. Reading the clock costs as much as taking a short line, so that is done
    /// once for a while, for all connections of the loop together.
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
pub(crate) enum Interest {
    Input,
    Room,
}

impl Waiting {
    fn queue(&mut self, what: Interest) -> &mut WaitQueue {
        match what {
            Interest::Input => &mut self.input,
            Interest::Room => &mut self.room,
        }
    }
}

/// The futures that wait on a connection.
pub(crate) struct Waiters<'a>(&'a Conn);

impl Conn {
    #[inline]
    pub(crate) fn waiters(&self) -> Waiters<'_> {
        Waiters(self)
    }
}

impl Waiters<'_> {
    /// Lends the queues, and notes in the state who waits.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut Waiting) -> R) -> R {
        let mut waiting = self.0.extras().waiting.borrow_mut();
        let waiting = waiting.get_or_insert_default();
        let result = change(waiting);
        self.note(waiting);
        result
    }

    /// The same if anybody ever has waited.
    fn if_any<R>(&self, change: impl FnOnce(&mut Waiting) -> R) -> Option<R> {
        if !self.0.status.is(Look::AWAITED) {
            return None;
        }
        let mut waiting = self.0.extras.get()?.waiting.borrow_mut();
        let waiting = waiting.as_deref_mut()?;
        let result = change(waiting);
        self.note(waiting);
        Some(result)
    }

    #[inline]
    fn note(&self, waiting: &Waiting) {
        let mut waits = Waits::EVER;
        waits.set(Waits::INPUT, !waiting.input.is_empty());
        waits.set(Waits::ROOM, !waiting.room.is_empty());
        self.0.status.set_waits(waits);
    }

    #[inline]
    fn wake_those(&self, choose: impl FnOnce(&mut Waiting, &mut Wakers)) {
        let mut awake = Wakers::default();
        self.if_any(|waiting| choose(waiting, &mut awake));
        awake.wake();
    }

    // ---- for the loop ----

    /// The way of most where futures read: there is input, and nothing else to do. False if there is more to it, or if
    /// nobody waits.
    pub(super) fn wake_reader(&self) -> bool {
        let is_awaited = self.is_awaited(|_| true);
        if is_awaited {
            self.0.status.set_ready(Ready::READ);
            self.wake_for_input();
        }
        is_awaited
    }

    /// Returns whether input is to be received before those who wait for it are woken. That is cheap where the engine
    /// does it, but then there is little room.
    pub(super) fn reads_ahead(&self) -> bool {
        !self.0.is_tls() && self.is_awaited(|waiting| !waiting.overflows) && !self.0.io.has_input()
    }

    /// Keeps what was received ahead for those who wait for it.
    pub(super) fn keep_for_reader(&self, read: rustix::io::Result<usize>, buffer: &Option<Rc<Vec<u8>>>) {
        self.0.status.set_ready(Ready::READ);
        let count = match (read, buffer) {
            (Ok(count), Some(buffer)) if count > 0 => {
                self.0.io.open().inbox.push(&buffer[..count]);
                count
            }
            // It is told the same again.
            (Ok(_), _) => AHEAD,
            (Err(error), _) => {
                self.0.input().failed(error.into());
                return;
            }
        };
        self.0.input().note_read(count == AHEAD);
        self.wake_those(|waiting, awake| {
            waiting.overflows = count == AHEAD;
            waiting.input.wake_next(awake);
        });
    }

    /// A future is dropped. If it was woken, another has to know, or the loop.
    #[inline]
    pub(crate) fn cancel(&self, what: Interest, ticket: &mut Ticket) {
        if !ticket.is_queued() {
            return;
        }
        self.leave(what, ticket);
        if matches!(what, Interest::Input) {
            self.0.taken();
        }
    }

    // ---- waking ----

    /// Returns whether a future waits for input, and there is nothing else to do if it comes.
    fn is_awaited(&self, and: impl FnOnce(&Waiting) -> bool) -> bool {
        !self.0.status.is(Look::SLOW_WAKE)
            && self.0.status.is(Look::INPUT_AWAITED)
            && !self.0.status.ready().has(Ready::AT_END)
            && self.if_any(|waiting| !waiting.yielding.has_yielded() && and(waiting)) == Some(true)
    }

    pub(super) fn wake_for_input(&self) {
        self.wake_those(|waiting, awake| waiting.input.wake_next(awake));
    }

    /// The loop has had its turn: whoever has yielded goes on.
    pub(super) fn resume_yielded(&self) {
        self.wake_those(|waiting, awake| {
            if waiting.yielding.resume() {
                waiting.input.wake_next(awake);
                waiting.room.wake_next(awake);
            }
        });
    }

    pub(super) fn wake_for_room(&self) {
        self.wake_those(|waiting, awake| waiting.room.wake_next(awake));
    }

    /// The queue is empty, or will never be.
    pub(super) fn wake_for_flushed(&self) {
        self.wake_those(|waiting, awake| awake.append(&mut waiting.flushed));
    }

    /// Everybody has to look anew: the connection is at its end, or somebody else reads from now on.
    pub(super) fn wake_all(&self) {
        self.wake_those(|waiting, awake| {
            waiting.input.wake_all(awake);
            waiting.room.wake_all(awake);
            awake.append(&mut waiting.flushed);
        });
    }

    // ---- waiting ----

    /// A future has what it waited for.
    #[inline]
    pub(super) fn leave(&self, what: Interest, ticket: &mut Ticket) {
        if !ticket.is_queued() {
            return;
        }
        let mut awake = Wakers::default();
        let left = self.if_any(|waiting| waiting.queue(what).leave(ticket, &mut awake));
        awake.wake();
        drop(left);
    }

    pub(super) fn is_turn_of(&self, what: Interest, ticket: &Ticket) -> bool {
        self.if_any(|waiting| waiting.queue(what).is_first(ticket)).unwrap_or(true)
    }

    /// A future that always finds something to do must not keep the loop: returns whether it has used up its share, and
    /// then has the connection served when nothing more urgent waits.
    pub(super) fn yields(&self) -> bool {
        let Some(key) = self.0.key.get() else { return false };
        let yields = self.change(|waiting| waiting.is_done(&self.0.engine));
        if yields {
            self.0.engine.requeue_hot(key);
        }
        yields
    }

    /// So many bytes were read for a future.
    pub(super) fn note_bytes(&self, count: usize) {
        self.change(|waiting| {
            waiting.read += count;
            waiting.overflows &= count >= AHEAD;
        });
    }

    /// Waits. The loop gets its turn in any case, so unless the future has yielded its share begins anew.
    pub(super) fn wait<R>(&self, what: Interest, ticket: &mut Ticket, waker: &Waker, has_yielded: bool) -> Poll<R> {
        let old = self.change(|waiting| {
            if !has_yielded {
                waiting.start_anew();
            }
            waiting.queue(what).wait(ticket, waker)
        });
        drop(old);
        if self.0.status.is(Look::ONESHOT) {
            self.0.arm();
        }
        Poll::Pending
    }
}
