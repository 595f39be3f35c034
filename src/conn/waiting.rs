//! Who waits on a connection: futures, for input, for room to send, for the queue to be empty. They read and write by
//! themselves when they are polled, as blocking calls do, and the loop only wakes them. To drop one cancels it: nothing
//! is taken before it is handed over, nothing is queued before it is done.

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::Conn;
use super::flags::Flag;
use super::inbox::{Inbox, TooLong};
use super::reading::READS;
use crate::engine::{Next, READ_BUFFER, Ready, main_depth, now};
use crate::error::{Error, Result};

/// So much a connection's futures may read, and for so many microseconds, as long as they find something to do. Then the
/// others get their turn.
const BYTES: usize = READS * READ_BUFFER;
const SLICE: i64 = 1000;

/// The clock is read after so much work, of which a line is one and a call of the system several.
const STRIDE: u32 = 16;
const CALL: u32 = 8;

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
        for waker in self.one.into_iter().chain(self.more) {
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
}

impl Line {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.beside.is_empty()
    }

    /// May this one try?
    fn is_turn_of(&self, place: &Place) -> bool {
        self.waiting.front().is_none_or(|first| place.0 == Some(first.ticket))
    }

    fn enter(&mut self, place: &mut Place, waker: &Waker) {
        let Some(ticket) = &mut place.0 else {
            self.beside.add_once(waker);
            return;
        };
        if *ticket == 0 {
            self.tickets = self.tickets.wrapping_add(1).max(1);
            *ticket = self.tickets;
            self.waiting.push_back(Waiter { ticket: self.tickets, waker: Some(waker.clone()) });
        } else if let Some(own) = self.waiting.iter_mut().find(|waiter| waiter.ticket == *ticket) {
            match &mut own.waker {
                Some(known) => known.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
    }

    /// True if it was first.
    fn leave(&mut self, ticket: u32) -> bool {
        let Some(at) = self.waiting.iter().position(|waiter| waiter.ticket == ticket) else { return false };
        self.waiting.remove(at);
        at == 0
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
    /// Bytes.
    read: usize,
    left: u32,
    started: Option<i64>,
}

impl Waiting {
    fn start_anew(&mut self) {
        self.granted = false;
        self.read = 0;
        self.left = 0;
        self.started = None;
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
    fn waiting<R>(&self, change: impl FnOnce(&mut Waiting) -> R) -> R {
        self.flags.raise(Flag::AWAITED);
        change(self.waiting.borrow_mut().get_or_insert_default())
    }

    /// The same where there is nothing to do unless somebody waits.
    #[inline]
    fn if_waiting(&self, change: impl FnOnce(&mut Waiting, &mut Wakers)) {
        if self.waiting.borrow().is_none() {
            return;
        }
        let mut awake = Wakers::default();
        if let Some(waiting) = self.waiting.borrow_mut().as_deref_mut() {
            change(waiting, &mut awake);
        }
        awake.wake();
    }

    // ---- waking ----

    /// Does anybody wait for input?
    pub(super) fn awaits_input(&self) -> bool {
        self.waiting.borrow().as_ref().is_some_and(|waiting| !waiting.input.is_empty())
    }

    /// There may be input: it is for those who wait for it. `None` if nobody does.
    pub(super) fn wake_for_input(&self) -> Option<Next> {
        if !self.awaits_input() {
            return None;
        }
        if !self.may_read() && !self.flags.has(Flag::READ_ENDED) && self.io.borrow().inbox.is_empty() {
            return Some(Next::Idle);
        }
        self.if_waiting(|waiting, awake| waiting.input.next(awake));
        // Whoever has no place in line may have lost interest. Then the end is still to be noticed.
        Some(if self.awaits_input() { Next::Idle } else { Next::Again })
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
    fn leave(&self, what: For, place: &mut Place) {
        let Some(ticket) = place.0.as_mut().map(std::mem::take).filter(|ticket| *ticket > 0) else { return };
        self.if_waiting(|waiting, awake| {
            let line = waiting.line(what);
            if line.leave(ticket) {
                line.next(awake);
            }
        });
    }

    /// A future is dropped. If it was woken, another has to know, or the loop.
    pub(crate) fn forget(&self, what: For, place: &mut Place) {
        self.leave(what, place);
        if matches!(what, For::Input) {
            self.taken();
        }
    }

    // ---- making way ----

    /// Who always finds something to do must not keep the loop: after its share it waits until nothing more urgent does.
    fn makes_way(&self) -> bool {
        let Some(key) = self.key.get() else { return false };
        let makes_way = self.waiting(|waiting| {
            if waiting.read < BYTES {
                if waiting.left > 0 {
                    return false;
                }
                let now = now();
                waiting.left = STRIDE;
                let started = *waiting.started.get_or_insert(now);
                let has_credit = self.engine.futures_have_credit(now) || waiting.granted;
                if has_credit && now - started < SLICE {
                    return false;
                }
            }
            waiting.start_anew();
            waiting.made_way = true;
            true
        });
        if makes_way {
            self.engine.requeue_hot(key);
        }
        makes_way
    }

    fn note_work(&self, work: u32) {
        self.waiting(|waiting| waiting.left = waiting.left.saturating_sub(work));
    }

    /// The loop gets its turn in any case.
    fn wait_in<R>(&self, what: For, place: &mut Place, context: &Context<'_>, made_way: bool) -> Poll<R> {
        self.waiting(|waiting| {
            if !made_way {
                waiting.start_anew();
            }
            waiting.line(what).enter(place, context.waker());
        });
        if self.flags.has(Flag::ARMED_BY_HAND) {
            self.arm();
        }
        Poll::Pending
    }

    fn is_turn_of(&self, what: For, place: &Place) -> bool {
        self.waiting.borrow_mut().as_deref_mut().is_none_or(|waiting| waiting.line(what).is_turn_of(place))
    }

    // ---- input ----

    /// May a read find something? If not, the loop will say when.
    fn may_read(&self) -> bool {
        self.sticky.get().has(Ready::READ | Ready::HANGUP | Ready::ERROR)
    }

    /// Who reads by callback gets everything.
    fn check_reader(&self) -> Result {
        if self.delivers() {
            let peer = self.peer_name();
            return Err(Error::Unsupported(format!(
                "a callback reads from the connection to {peer}: take it away by unread(), or pause() it, to read otherwise"
            )));
        }
        Ok(())
    }

    /// One read. False if there was nothing.
    fn read_now(&self, max: usize, held: &mut Option<Rc<Vec<u8>>>) -> Result<bool> {
        self.note_work(CALL);
        let read = if self.is_tls() { self.read_session(held, false) } else { self.read_plain(max, held, false) };
        match read {
            Ok(count) => {
                self.waiting(|waiting| waiting.read += count);
                Ok(true)
            }
            Err(error) => self.reading_failed(error).map(|()| false),
        }
    }

    /// Takes something out of what has come, and reads until there is enough for that; of a plain connection no more than
    /// `max` bytes at a time.
    pub(crate) fn poll_take<R>(
        &self,
        context: &Context<'_>,
        place: &mut Place,
        max: usize,
        mut take: impl FnMut(&mut Inbox, usize) -> std::result::Result<Option<R>, TooLong>,
    ) -> Poll<Result<R>> {
        if let Err(error) = self.check_reader() {
            return Poll::Ready(Err(error));
        }
        if !self.is_turn_of(For::Input, place) {
            return self.wait_in(For::Input, place, context, true);
        }
        let limit = self.options(|options| options.line_limit);
        let mut held = None;
        let outcome = loop {
            let waits = !self.io.borrow().inbox.is_empty();
            if (waits || self.may_read()) && held.is_none() && self.makes_way() {
                return self.wait_in(For::Input, place, context, true);
            }
            let taken = take(&mut self.io.borrow_mut().inbox, limit);
            match taken {
                Ok(Some(taken)) => break Poll::Ready(Ok(taken)),
                Ok(None) => {}
                Err(TooLong) => {
                    break Poll::Ready(Err(self.refuse_line(limit)));
                }
            }
            self.give_back(&mut held);
            if !self.is_open() || self.flags.has(Flag::READ_ENDED) {
                break Poll::Ready(Err(self.end_for_caller()));
            }
            if !self.may_read() {
                break Poll::Pending;
            }
            if let Err(error) = self.read_now(max, &mut held) {
                break Poll::Ready(Err(error));
            }
        };
        self.give_back(&mut held);
        if outcome.is_pending() {
            return self.wait_in(For::Input, place, context, false);
        }
        self.leave(For::Input, place);
        self.note_work(1);
        self.taken();
        outcome
    }

    /// Reads into the caller's memory.
    pub(crate) fn poll_read(&self, context: &Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize>> {
        let is_direct = !self.is_tls() && self.may_read() && !self.flags.has(Flag::READ_ENDED) && self.is_open();
        let mut place = Place::beside();
        if !is_direct || !self.io.borrow().inbox.is_empty() || self.delivers() || !self.is_turn_of(For::Input, &place) {
            let max = buffer.len();
            return self.poll_take(context, &mut place, READ_BUFFER, |inbox, _| {
                Ok(inbox.next_chunk(max).map(|piece| {
                    let piece = piece.as_slice();
                    buffer[..piece.len()].copy_from_slice(piece);
                    piece.len()
                }))
            });
        }
        if self.makes_way() {
            return self.wait_in(For::Input, &mut place, context, true);
        }
        self.note_work(CALL);
        match self.transport.read(buffer) {
            Ok(0) => {
                self.flags.raise(Flag::READ_ENDED);
                Poll::Ready(Err(self.end_for_caller()))
            }
            Ok(count) => {
                self.waiting(|waiting| waiting.read += count);
                self.note_read(count == buffer.len());
                self.taken();
                Poll::Ready(Ok(count))
            }
            Err(error) => match self.reading_failed(error) {
                Ok(()) => self.wait_in(For::Input, &mut place, context, false),
                Err(error) => Poll::Ready(Err(error)),
            },
        }
    }

    /// Gives bytes back that were taken: they come first again.
    pub(crate) fn give_back_input(&self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.io.borrow_mut().inbox.push_front(bytes);
            self.wake();
        }
    }

    // ---- output ----

    /// What a future sends goes out with everything else before the loop sleeps, if there is a loop.
    fn gathers(&self) -> bool {
        main_depth() > 0
    }

    /// Queues all of it once there is room.
    pub(crate) fn poll_send(&self, context: &Context<'_>, place: &mut Place, bytes: &[u8]) -> Poll<Result> {
        if self.is_sendable() {
            if !self.is_turn_of(For::Room, place) {
                return self.wait_in(For::Room, place, context, true);
            }
            if self.makes_way() {
                return self.wait_in(For::Room, place, context, true);
            }
            let limit = self.options(|options| options.send_limit);
            let fits = bytes.len() <= limit.saturating_sub(self.queued());
            if self.is_full() || (!fits && bytes.len() <= limit) {
                self.flags.raise(Flag::FULL);
                return self.wait_in(For::Room, place, context, false);
            }
        }
        let sent = self.send_gathered(bytes, false, self.gathers());
        self.note_work(CALL);
        self.leave(For::Room, place);
        Poll::Ready(sent)
    }

    /// Queues as much as there is room for.
    pub(crate) fn poll_write(&self, context: &Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let mut place = Place::beside();
        let mut count = bytes.len();
        if self.is_sendable() {
            if !self.is_turn_of(For::Room, &place) || self.makes_way() {
                return self.wait_in(For::Room, &mut place, context, true);
            }
            if self.is_full() {
                return self.wait_in(For::Room, &mut place, context, false);
            }
            count = count.min(self.room());
        }
        let sent = self.send_gathered(&bytes[..count], false, self.gathers());
        self.note_work(CALL);
        Poll::Ready(sent.map(|()| count))
    }

    /// Could anything be sent, if there is room?
    fn is_sendable(&self) -> bool {
        self.is_open() && !self.flags.has(Flag::WRITE_ENDING)
    }

    /// Waits until the system has taken everything.
    pub(crate) fn poll_flush(&self, context: &Context<'_>) -> Poll<Result> {
        if self.is_sending() && !self.flags.has(Flag::WRITE_ARMED) {
            self.write_or_requeue();
        }
        if !self.is_sending() {
            return Poll::Ready(self.was_sent());
        }
        self.wait_flushed(context)
    }

    fn wait_flushed(&self, context: &Context<'_>) -> Poll<Result> {
        self.flags.raise(Flag::FLUSH_AWAITED);
        self.waiting(|waiting| waiting.flushed.add_once(context.waker()));
        Poll::Pending
    }

    /// Waits until the system has taken everything, and the end of it.
    pub(crate) fn poll_shut(&self, context: &Context<'_>) -> Poll<Result> {
        if self.is_open() {
            self.shutdown_write()?;
        }
        if self.is_sending() || (self.is_open() && !self.flags.has(Flag::WRITE_ENDED)) {
            return self.wait_flushed(context);
        }
        Poll::Ready(self.was_sent())
    }
}
