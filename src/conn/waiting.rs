//! Who waits on a connection: futures, for input, for room to send, for the queue to be empty. The loop only wakes them;
//! what they do then is in [`polling`](super::polling).

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::Conn;
use super::flags::Flag;
use crate::engine::{Engine, Next, READ_BUFFER, READS, Ready, now};

/// So much a connection's futures may read, and for so many microseconds, as long as they find something to do. Then the
/// others get their turn.
const BYTES: usize = READS * READ_BUFFER;
const SLICE: i64 = 1000;

/// So much is received before those who wait for it are woken.
pub(super) const AHEAD: usize = 2 << 10;

/// Wakers to be woken when nothing is borrowed any more. Mostly there is one, which takes no memory.
#[derive(Default)]
pub(super) struct Wakers {
    one: Option<Waker>,
    more: Vec<Waker>,
}

impl Wakers {
    fn is_empty(&self) -> bool {
        self.one.is_none()
    }

    fn add(&mut self, waker: Waker) {
        if self.one.is_none() {
            self.one = Some(waker);
        } else {
            self.more.push(waker);
        }
    }

    fn add_once(&mut self, waker: &Waker) {
        if !self.one.iter().chain(&self.more).any(|known| known.will_wake(waker)) {
            self.add(waker.clone());
        }
    }

    fn append(&mut self, other: Wakers) {
        for waker in other.one.into_iter().chain(other.more) {
            self.add(waker);
        }
    }

    fn wake(self) {
        let Some(one) = self.one else { return };
        one.wake();
        for waker in self.more {
            waker.wake();
        }
    }
}

/// One who waits in line.
struct Waiter {
    ticket: u32,
    /// `None` once it was woken, until it is polled again.
    waker: Option<Waker>,
}

/// Those who wait for one thing.
#[derive(Default)]
struct Line {
    /// Futures, in the order in which they were first polled. The first is served.
    waiting: VecDeque<Waiter>,
    /// Streams and the like have no place in line: they never say that they have lost interest.
    beside: Wakers,
    tickets: u32,
}

/// A future's place in line, from when it has to wait.
pub(crate) struct Place(Option<u32>);

impl Place {
    /// None yet. The next one that waits in line gets it.
    pub(crate) const fn in_line() -> Self {
        Place(Some(0))
    }

    /// Behind all who wait in line.
    pub(crate) const fn beside() -> Self {
        Place(None)
    }

    /// Does a future wait here?
    fn is_taken(&self) -> bool {
        self.0.is_some_and(|ticket| ticket > 0)
    }
}

impl Line {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.beside.is_empty()
    }

    /// May this one try?
    fn is_turn_of(&self, place: &Place) -> bool {
        self.waiting.front().is_none_or(|first| place.0 == Some(first.ticket))
    }

    /// Gives back the waker that was known before, to be dropped when nothing is borrowed.
    fn enter(&mut self, place: &mut Place, waker: &Waker) -> Option<Waker> {
        let Some(ticket) = &mut place.0 else {
            self.beside.add_once(waker);
            return None;
        };
        if *ticket == 0 {
            self.tickets = self.tickets.wrapping_add(1).max(1);
            *ticket = self.tickets;
            self.waiting.push_back(Waiter { ticket: self.tickets, waker: Some(waker.clone()) });
        } else if let Some(own) = self.waiting.iter_mut().find(|waiter| waiter.ticket == *ticket)
            && own.waker.as_ref().is_none_or(|known| !known.will_wake(waker))
        {
            return own.waker.replace(waker.clone());
        }
        None
    }

    /// True if it was first.
    fn leave(&mut self, ticket: u32) -> bool {
        if self.waiting.front().is_some_and(|first| first.ticket == ticket) {
            self.waiting.pop_front();
            return true;
        }
        let Some(at) = self.waiting.iter().position(|waiter| waiter.ticket == ticket) else { return false };
        self.waiting.remove(at);
        false
    }

    /// Those whose turn it is, unless they know already.
    fn next(&mut self, awake: &mut Wakers) {
        match self.waiting.front_mut() {
            Some(first) => {
                if let Some(waker) = first.waker.take() {
                    awake.add(waker);
                }
            }
            None => awake.append(std::mem::take(&mut self.beside)),
        }
    }

    fn all(&mut self, awake: &mut Wakers) {
        for waiter in &mut self.waiting {
            if let Some(waker) = waiter.waker.take() {
                awake.add(waker);
            }
        }
        awake.append(std::mem::take(&mut self.beside));
    }
}

/// All who wait on a connection, and what they have done since the loop last had its turn.
#[derive(Default)]
pub(super) struct Waiting {
    input: Line,
    room: Line,
    /// For the queue to be empty.
    flushed: Wakers,
    /// Somebody could go on, and has only made way for others.
    made_way: bool,
    /// Made way, and is served now whatever the others do.
    granted: bool,
    /// More has come than is received ahead.
    overflows: bool,
    /// Bytes.
    read: usize,
    started: Option<i64>,
}

impl Waiting {
    fn start_anew(&mut self) {
        self.granted = false;
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
            let has_credit = engine.futures_have_credit(now) || self.granted;
            if has_credit && now - started < SLICE {
                engine.start_futures_stride(now);
                return false;
            }
        }
        self.start_anew();
        self.made_way = true;
        true
    }
}

#[derive(Clone, Copy)]
pub(crate) enum For {
    Input,
    Room,
}

impl Waiting {
    fn line(&mut self, what: For) -> &mut Line {
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
            && self.who_waits(|waiting| !waiting.made_way && and(waiting)) == Some(true)
    }

    /// The way of most where futures read: there is input, and nothing else to do. False if there is more to it, or if
    /// nobody waits.
    pub(super) fn wake_reader(&self) -> bool {
        let is_awaited = self.is_awaited(|_| true);
        if is_awaited {
            self.sticky.set(Ready::READ);
            self.if_waiting(|waiting, awake| waiting.input.next(awake));
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
            waiting.input.next(awake);
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
        self.if_waiting(|waiting, awake| waiting.input.next(awake));
        // Whoever has no place in line may have lost interest. Then the end is still to be noticed.
        let at_end = self.sticky.get().has(Ready::HANGUP | Ready::ERROR) || self.flags.has(Flag::READ_ENDED);
        Some(if at_end && !self.awaits_input() { Next::Again } else { Next::Idle })
    }

    /// The loop has got its turn: whoever has made way goes on.
    pub(super) fn wake_who_made_way(&self) {
        self.if_waiting(|waiting, awake| {
            if std::mem::take(&mut waiting.made_way) {
                waiting.granted = true;
                waiting.input.next(awake);
                waiting.room.next(awake);
            }
        });
    }

    pub(super) fn wake_for_room(&self) {
        self.if_waiting(|waiting, awake| waiting.room.next(awake));
    }

    /// The queue is empty, or will never be.
    pub(super) fn wake_for_flushed(&self) {
        self.if_waiting(|waiting, awake| awake.append(std::mem::take(&mut waiting.flushed)));
    }

    /// Everybody has to look anew: the connection is at its end, or somebody else reads from now on.
    pub(super) fn wake_everybody(&self) {
        self.if_waiting(|waiting, awake| {
            waiting.input.all(awake);
            waiting.room.all(awake);
            awake.append(std::mem::take(&mut waiting.flushed));
        });
    }

    /// A future has what it waited for.
    #[inline]
    pub(super) fn leave(&self, what: For, place: &mut Place) {
        let Some(ticket) = place.0.as_mut().map(std::mem::take).filter(|ticket| *ticket > 0) else { return };
        self.if_waiting(|waiting, awake| {
            let line = waiting.line(what);
            if line.leave(ticket) {
                line.next(awake);
            }
        });
    }

    /// A future is dropped. If it was woken, another has to know, or the loop.
    #[inline]
    pub(crate) fn forget(&self, what: For, place: &mut Place) {
        if !place.is_taken() {
            return;
        }
        self.leave(what, place);
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
    pub(super) fn wait_in<R>(&self, what: For, place: &mut Place, context: &Context<'_>, made_way: bool) -> Poll<R> {
        let old = self.waiting(|waiting| {
            if !made_way {
                waiting.start_anew();
            }
            waiting.line(what).enter(place, context.waker())
        });
        drop(old);
        if self.flags.has(Flag::ARMED_BY_HAND) {
            self.arm();
        }
        Poll::Pending
    }

    pub(super) fn is_turn_of(&self, what: For, place: &Place) -> bool {
        self.who_waits(|waiting| waiting.line(what).is_turn_of(place)).unwrap_or(true)
    }
}
