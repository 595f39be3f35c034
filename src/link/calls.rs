//! Requests that wait for their answers, each under a number. No format: how the numbers travel is the program's business.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::engine::{Engine, TimerKey, call};
use crate::error::{Error, Operation, Result};

/// The most calls that may be pending.
const LIMIT: usize = 1024;

/// The calls of a program that wait for their answers, each under a number that the protocol carries: for JSON-RPC, or any
/// other protocol whose answers may come in another order than the requests.
///
/// [`begin`](Calls::begin) gives a number and an [`Answer`]; the program sends the number with its request. When a reply with that
/// number arrives, it calls [`finish`](Calls::finish), and when the connection ends [`fail_all`](Calls::fail_all). So each answer
/// has exactly one result: the reply, the timeout, or the reason why there will be no reply.
///
/// Cloning gives another handle to the same calls. When the last handle is dropped, the calls that are pending fail with
/// [`Error::Cancelled`]. A callback of [`Answer::then`] that captures a handle keeps it until the answer comes or its timeout
/// expires.
///
/// # Example: A request over lines
/// ```
/// use std::time::Duration;
///
/// use network::{Error, Reason, link::Calls};
///
/// # let (ours, theirs) = network::Socket::pair()?;
/// # theirs.readlines(|socket, line| socket.sendline(format!("{line}!")));
/// let calls = Calls::new()?;
/// let (replies, socket) = (calls.clone(), ours);
/// // A reply is the number of its request, a space, and text.
/// socket.readlines(move |_, line| {
///     let (number, text) = line.split_once(' ').unwrap_or((line, ""));
///     replies.finish(number.parse()?, text.to_owned());
///     Ok(())
/// });
/// # network::block_on(async {
/// let (number, answer) = calls.begin(Duration::from_secs(10))?;
/// socket.sendline(format!("{number} hello"))?;
/// assert_eq!(answer.await?, "hello!");
/// # Ok::<(), Error>(())
/// # })??;
/// # Ok::<(), Error>(())
/// ```
pub struct Calls<R: 'static> {
    table: Rc<Table<R>>,
}

impl<R> Calls<R> {
    /// Returns a handle to an empty table of calls. It belongs to the thread's main context, whose loop runs callbacks and
    /// timeouts.
    ///
    /// # Errors
    /// [`Error::WrongThread`], or [`Error::Io`] if the system lacks file descriptors.
    pub fn new() -> Result<Self> {
        let engine = Engine::current()?;
        let table = Table { engine, most: Cell::new(LIMIT), pending: RefCell::default() };
        Ok(Calls { table: Rc::new(table) })
    }

    /// Begins a call and returns its number and its answer.
    ///
    /// Numbers count from 1 on and are never used again. `timeout` is the time for the answer to come; `None` means no timeout.
    /// Time in which the main loop is held up does not count.
    ///
    /// # Errors
    /// [`Error::QueueFull`] if as many calls are pending as the [limit](Calls::set_limit) allows.
    pub fn begin(&self, timeout: impl Into<Option<Duration>>) -> Result<(u64, Answer<R>)> {
        let table = &self.table;
        let (queued, limit) = (self.len(), self.limit());
        if queued >= limit {
            let peer = String::new();
            return Err(Error::QueueFull { peer, size: 1, queued, limit, option: LIMIT_OPTION });
        }
        let limit = timeout.into();
        // One that lies further away than time goes is none.
        let deadline = limit.and_then(|limit| table.engine.loop_time().checked_add(limit).filter(is_ever));
        let slot = Rc::<Slot<R>>::default();
        let number = table.pending.borrow_mut().add(Call { slot: slot.clone(), deadline, limit });
        table.set_timer();
        let engine = table.engine.clone();
        Ok((number, Answer { number, slot, engine, table: Rc::downgrade(table) }))
    }

    /// Passes a reply to the answer of this number. Returns whether there is one: false if the number is unknown, or its call was
    /// answered before, has timed out or failed, or its [`Answer`] was dropped. Then the reply is dropped.
    pub fn finish(&self, number: u64, reply: R) -> bool {
        self.table.end(number, Ok(reply))
    }

    /// Fails all pending calls, for the reason why no answers will come, in the order in which they began. More can be begun
    /// afterwards.
    ///
    /// Each gets a copy of the error. Of [`Error::Other`], and of errors with which no connection ends, the copy is an
    /// `Error::Other` with the same text.
    ///
    /// # Example: When the connection ends
    /// ```
    /// # use network::{Error, Reason, Socket, link::Calls};
    /// # fn watch(socket: &Socket, calls: Calls<String>) {
    /// socket.disconnect_cb(move |socket, end| match end.reason {
    ///     Reason::Failed(error) => calls.fail_all(&error),
    ///     _ => calls.fail_all(&Error::Closed { peer: socket.remote().to_string() }),
    /// });
    /// # }
    /// ```
    pub fn fail_all(&self, error: &Error) {
        self.table.fail_all(|_| error.copy());
    }

    /// Returns the number of pending calls.
    pub fn len(&self) -> usize {
        self.table.pending.borrow().calls.len()
    }

    /// Returns whether no call is pending.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sets how many calls may be pending. Default: 1024. Calls that are pending stay.
    pub fn set_limit(&self, most: usize) {
        self.table.most.set(most);
    }

    /// Returns how many calls may be pending.
    pub fn limit(&self) -> usize {
        self.table.most.get()
    }
}

/// The name of the limit, for the error.
pub(crate) const LIMIT_OPTION: &str = "Calls::set_limit";

impl<R> Clone for Calls<R> {
    fn clone(&self) -> Self {
        Calls { table: self.table.clone() }
    }
}

impl<R> fmt::Debug for Calls<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls").field("pending", &self.table.pending.borrow().calls.len()).finish_non_exhaustive()
    }
}

/// The answer to a call, returned by [`Calls::begin`]: a future of the reply. To get it by callback, see
/// [`then`](Answer::then).
///
/// Dropping it forgets the call: a reply that still comes is dropped.
///
/// # Errors
/// [`Error::TimedOut`] if no reply came in time, [`Error::Cancelled`] if all handles to the calls were dropped, or the error that
/// was passed to [`fail_all`](Calls::fail_all).
#[must_use = "dropping it forgets the call"]
pub struct Answer<R: 'static> {
    number: u64,
    slot: Rc<Slot<R>>,
    engine: Rc<Engine>,
    /// It cannot be told that nobody waits any more if it has none.
    table: Weak<Table<R>>,
}

impl<R> Answer<R> {
    /// Returns the number of the call.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Passes the result to a callback, which runs once, in a later loop iteration.
    pub fn then(mut self, callback: impl FnOnce(Result<R>) + 'static) {
        let callback: Then<R> = Box::new(callback);
        self.table = Weak::new();
        match self.slot.0.replace(State::Ended) {
            State::Here(result) => call_later(&self.engine, callback, result),
            State::Ended => {}
            State::Awaited(_) => {
                self.slot.0.set(State::Then(callback));
            }
            then @ State::Then(_) => self.slot.0.set(then),
        }
    }
}

impl<R> Future for Answer<R> {
    type Output = Result<R>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<R>> {
        match self.slot.0.replace(State::Ended) {
            State::Here(result) => Poll::Ready(result),
            State::Awaited(old) => {
                let waker = old.filter(|old| old.will_wake(context.waker()));
                self.slot.0.set(State::Awaited(Some(waker.unwrap_or_else(|| context.waker().clone()))));
                Poll::Pending
            }
            // Its result was taken before.
            State::Then(_) | State::Ended => Poll::Ready(Err(cancelled(self.number))),
        }
    }
}

impl<R> Drop for Answer<R> {
    fn drop(&mut self) {
        if let Some(table) = self.table.upgrade() {
            table.forget(self.number);
        }
    }
}

impl<R> fmt::Debug for Answer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("number", &self.number).finish_non_exhaustive()
    }
}

fn cancelled(number: u64) -> Error {
    Error::Cancelled { operation: Operation::Wait, address: name(number) }
}

/// A call, for messages.
fn name(number: u64) -> String {
    format!("the answer to call {number}")
}

/// The clock of the loop counts microseconds in 64 bits.
fn is_ever(deadline: &Duration) -> bool {
    i64::try_from(deadline.as_micros()).is_ok()
}

type Then<R> = Box<dyn FnOnce(Result<R>)>;

/// The state that a call shares with its answer.
struct Slot<R>(Cell<State<R>>);

impl<R> Default for Slot<R> {
    fn default() -> Self {
        Slot(Cell::new(State::Awaited(None)))
    }
}

enum State<R> {
    /// There is no result yet, and this waits for it.
    Awaited(Option<Waker>),
    Then(Then<R>),
    Here(Result<R>),
    /// The result was taken.
    Ended,
}

fn call_later<R: 'static>(engine: &Engine, callback: Then<R>, result: Result<R>) {
    engine.defer(move |engine| {
        call(engine, || callback(result));
    });
}

impl<R: 'static> Slot<R> {
    fn end(&self, engine: &Engine, result: Result<R>) {
        match self.0.replace(State::Ended) {
            State::Awaited(waker) => {
                self.0.set(State::Here(result));
                waker.into_iter().for_each(Waker::wake);
            }
            State::Then(callback) => call_later(engine, callback, result),
            State::Here(_) | State::Ended => {}
        }
    }
}

struct Call<R: 'static> {
    slot: Rc<Slot<R>>,
    /// By the clock of the loop.
    deadline: Option<Duration>,
    limit: Option<Duration>,
}

/// The calls that are pending, with their deadlines. Nothing of the program's is called or dropped while this is borrowed.
struct Pending<R: 'static> {
    calls: BTreeMap<u64, Call<R>>,
    deadlines: BTreeSet<(Duration, u64)>,
    last: u64,
    /// The one timer, for the first deadline, or for an earlier one that was met.
    timer: Option<(Duration, TimerKey)>,
}

impl<R> Default for Pending<R> {
    fn default() -> Self {
        Pending { calls: BTreeMap::new(), deadlines: BTreeSet::new(), last: 0, timer: None }
    }
}

impl<R> Pending<R> {
    fn add(&mut self, call: Call<R>) -> u64 {
        self.last += 1;
        self.deadlines.extend(call.deadline.map(|deadline| (deadline, self.last)));
        self.calls.insert(self.last, call);
        self.last
    }

    fn take(&mut self, number: u64) -> Option<Call<R>> {
        let call = self.calls.remove(&number)?;
        if let Some(deadline) = call.deadline {
            self.deadlines.remove(&(deadline, number));
        }
        Some(call)
    }

    /// Takes one whose deadline has come.
    fn take_late(&mut self, now: Duration) -> Option<(u64, Call<R>)> {
        let (_, number) = *self.deadlines.first().filter(|(deadline, _)| *deadline <= now)?;
        Some((number, self.take(number)?))
    }

    fn take_all(&mut self) -> BTreeMap<u64, Call<R>> {
        self.deadlines.clear();
        std::mem::take(&mut self.calls)
    }
}

struct Table<R: 'static> {
    engine: Rc<Engine>,
    most: Cell<usize>,
    pending: RefCell<Pending<R>>,
}

impl<R> Table<R> {
    /// Ends a call. Returns whether it was pending.
    fn end(self: &Rc<Self>, number: u64, result: Result<R>) -> bool {
        let call = self.pending.borrow_mut().take(number);
        let Some(call) = call else { return false };
        self.set_timer();
        call.slot.end(&self.engine, result);
        true
    }

    fn fail_all(&self, error: impl Fn(u64) -> Error) {
        let (calls, timer) = {
            let mut pending = self.pending.borrow_mut();
            (pending.take_all(), pending.timer.take())
        };
        self.cancel(timer);
        for (number, call) in calls {
            call.slot.end(&self.engine, Err(error(number)));
        }
    }

    /// Nobody waits for that answer any more.
    fn forget(self: &Rc<Self>, number: u64) {
        let call = self.pending.borrow_mut().take(number);
        if call.is_some() {
            self.set_timer();
        }
        drop(call);
    }

    /// Sees to it that there is a timer if there is a deadline, and none later than that.
    fn set_timer(self: &Rc<Self>) {
        let (first, timer) = {
            let pending = self.pending.borrow();
            (pending.deadlines.first().map(|(deadline, _)| *deadline), pending.timer)
        };
        let is_early_enough = |first| timer.is_some_and(|(due, _)| due <= first);
        if first.is_some_and(is_early_enough) || (first, timer) == (None, None) {
            return;
        }
        self.cancel(timer);
        let me = Rc::downgrade(self);
        let timer = first.map(|first| {
            let left = first.saturating_sub(self.engine.loop_time());
            let due = self.engine.after(left, move |_| me.upgrade().into_iter().for_each(|table| table.timer_is_due()));
            (first, due)
        });
        self.pending.borrow_mut().timer = timer;
    }

    fn cancel(&self, timer: Option<(Duration, TimerKey)>) {
        if let Some((_, timer)) = timer {
            self.engine.cancel_timer(timer);
        }
    }

    /// Fails the calls whose deadlines have come.
    fn timer_is_due(self: Rc<Self>) {
        self.pending.borrow_mut().timer = None;
        let now = self.engine.loop_time();
        loop {
            let late = self.pending.borrow_mut().take_late(now);
            let Some((number, Call { slot, limit, .. })) = late else { break };
            let limit = limit.unwrap_or_default();
            let error = Error::TimedOut { operation: Operation::Wait, address: name(number), limit };
            slot.end(&self.engine, Err(error));
        }
        self.set_timer();
    }
}

impl<R> Drop for Table<R> {
    fn drop(&mut self) {
        self.fail_all(cancelled);
    }
}

#[cfg(test)]
mod tests;
