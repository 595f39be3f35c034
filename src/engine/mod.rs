//! The engine: one for each main context, a custom GSource over one epoll descriptor, edge-triggered.
//!
//! The only place that names GSource or epoll. It knows descriptors and [`Handler`]s and makes their system calls, and nothing
//! of addresses, protocols or connections. User code is called through [`call`].

mod callback;
mod direct;
mod fairness;
mod far_end;
#[cfg(any(feature = "ftp", feature = "http"))]
pub(crate) mod files;
mod future;
mod incoming;
mod log_quota;
mod poller;
mod private;
mod registry;
mod remote;
mod slab;
mod sleep;
mod source;
#[cfg(any(feature = "ftp", feature = "http"))]
mod syncing;
mod tasks;
mod timers;
mod turn;
mod waiters;

use std::any::Any;
use std::cell::{Cell, Ref, RefCell};
use std::collections::{HashMap, VecDeque};
use std::ops::{BitOr, BitOrAssign};
use std::os::fd::{BorrowedFd, RawFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use callback::{CallbackSlot, Called, Lent, call};
pub(crate) use direct::{Iterations, turn};
use fairness::Budget;
pub use fairness::Fairness;
pub(crate) use fairness::now;
pub(crate) use far_end::FarEnd;
pub(crate) use future::{before, in_background, within};
pub(crate) use incoming::{Datagram, DatagramSource, Incoming, Received};
pub(crate) use log_quota::LogQuota;
use poller::Poller;
#[cfg(feature = "http")]
pub(crate) use private::block_on_context;
pub(crate) use private::{block_on, private_context};
pub(crate) use registry::Registration;
use registry::{Entry, borrow};
pub(crate) use remote::Remote;
pub(crate) use slab::Key;
use slab::Slab;
use sleep::Alarm;
pub(crate) use sleep::Sleep;
pub(crate) use source::main_depth;
use source::{Link, Sources};
#[cfg(any(feature = "ftp", feature = "http"))]
pub(crate) use syncing::{end_sync_threads, sync};
use tasks::Tasks;
pub(crate) use tasks::{Task, UserFuture};
pub(crate) use timers::TimerKey;
use timers::Timers;
pub(crate) use waiters::{Ticket, WaitQueue, Wakers, Yielding};

use crate::error::{Error, Operation, Result};
use crate::log;
use crate::sys::{self, Ends, Origin, prepare_process};

/// Size of the buffer that all reads of a context share, in bytes. Smaller ones cost more calls (16 KiB 1.3 times the
/// time), larger ones fall out of the cache (256 KiB 1.4 times).
pub(crate) const READ_BUFFER: usize = 64 << 10;

/// Reads of one connection in one turn, before others are served.
pub(crate) const READS: usize = 4;

/// Datagrams of one socket in one turn: one at a time costs three times as much and loses two thirds of a flood, and
/// without an end a flood would have the loop to itself.
const DATAGRAMS: usize = 64;

/// The readiness of a descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ready(u8);

impl Ready {
    pub(crate) const NONE: Ready = Ready(0);
    /// There may be something to read.
    pub(crate) const READ: Ready = Ready(1);
    /// There may be room to write.
    pub(crate) const WRITE: Ready = Ready(2);
    /// The peer has closed at least its sending half. Kept by the handler: it is told once, and a short read after it
    /// does not mean that nothing more comes.
    pub(crate) const HANGUP: Ready = Ready(4);
    /// The descriptor has an error to report.
    pub(crate) const ERROR: Ready = Ready(8);
    /// The end has come, or something like it.
    pub(crate) const AT_END: Ready = Ready::HANGUP.with(Ready::ERROR);

    pub(crate) const fn with(self, other: Ready) -> Ready {
        Ready(self.0 | other.0)
    }

    /// Any of those.
    #[inline]
    pub(crate) fn has(self, other: Ready) -> bool {
        self.0 & other.0 != 0
    }

    #[inline]
    pub(crate) fn without(self, other: Ready) -> Ready {
        Ready(self.0 & !other.0)
    }
}

impl BitOr for Ready {
    type Output = Ready;
    fn bitor(self, other: Ready) -> Ready {
        Ready(self.0 | other.0)
    }
}

impl BitOrAssign for Ready {
    fn bitor_assign(&mut self, other: Ready) {
        self.0 |= other.0;
    }
}

/// A handler's answer when it has served its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Next {
    /// Nothing left to do: the next event will say when.
    Idle,
    /// There is more to do, after the others.
    Again,
    /// The budget is used up, as by a flood: serve it when nothing more urgent waits.
    Hot,
}

/// A handler's answer to data that the engine has received for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    Done(Next),
    /// There may be more to receive.
    More,
}

/// Whoever holds a registered descriptor.
///
/// Most of what happens are messages, and perhaps answers to them, on stream sockets, and datagrams. For those the engine
/// makes the system calls itself, see [`Engine::serve`].
pub(crate) trait Handler {
    /// Serves what is ready. No engine state is borrowed meanwhile; anything may be called.
    fn ready(self: Rc<Self>, engine: &Rc<Engine>, ready: Ready) -> Next;

    /// Returns the stream socket to receive from, if for this readiness there is nothing else to do. The engine then receives.
    fn incoming(&self, _ready: Ready) -> Option<Incoming<'_>> {
        None
    }

    /// Serves what the engine has received into the beginning of this buffer, of [`READ_BUFFER`] bytes. As [`Handler::ready`].
    /// Whoever reads on gives the buffer back first.
    fn received(self: Rc<Self>, _: Received, _buffer: &mut Option<Rc<Vec<u8>>>) -> Served {
        Served::Done(Next::Idle)
    }

    /// Returns the stream socket and the bytes to send, if that is all there is to do for corked output. The engine then sends.
    fn outgoing(&self) -> Option<(BorrowedFd<'_>, Ref<'_, [u8]>)> {
        None
    }

    /// The engine has sent so much of it. Calls no user code.
    fn sent(&self, _: rustix::io::Result<usize>) {}

    /// Writes what was gathered, if [`Handler::outgoing`] gives nothing. Calls no user code.
    fn flush(&self) {}

    /// Returns the socket to receive datagrams from, if any are wanted. The engine then receives them, one by one.
    fn datagrams(&self) -> Option<DatagramSource<'_>> {
        None
    }

    /// Serves a datagram, as [`Handler::received`].
    fn datagram(self: Rc<Self>, _: Datagram, _buffer: &mut Option<Rc<Vec<u8>>>) -> Served {
        Served::Done(Next::Idle)
    }

    /// Asked for a blocking call that would wait for the far end of this connection. Whoever holds that sends what it still
    /// has for it. Calls no user code.
    fn far_end(&self, _: &Ends) -> FarEnd {
        FarEnd::Elsewhere
    }

    /// The main context is gone: lets go of the descriptor. Calls no user code.
    fn context_ended(self: Rc<Self>);
}

/// A call for later.
pub(crate) type Call = Box<dyn FnOnce(&Rc<Engine>)>;

/// Work that is pending besides descriptors.
enum Pending {
    Call(Call),
    Task(Key),
    Alarm(Rc<Alarm>),
}

/// Marks the thread an engine lives on.
#[derive(Clone, Copy, PartialEq, Eq)]
struct ThreadId(usize);

thread_local! {
    static MARK: u8 = const { 0 };
    static ENGINES: Engines = const { Engines(RefCell::new(Vec::new())) };
}

/// Where each main context's engine lives, for all threads.
static OWNERS: Mutex<Vec<(usize, ThreadId)>> = Mutex::new(Vec::new());

impl ThreadId {
    fn here() -> Self {
        ThreadId(MARK.with(|mark| std::ptr::from_ref(mark) as usize))
    }

    #[inline]
    fn is_here(self) -> bool {
        self == ThreadId::here()
    }
}

/// The engines of a thread. They end with it. Their contexts may live on or be gone, which only another thread may know, so
/// nothing of GLib is touched.
struct Engines(RefCell<Vec<Arc<Link>>>);

impl Engines {
    /// Returns the engines in use. One whose context was freed on another thread ends here, and in a forked child all do.
    fn living(&self) -> Vec<Rc<Engine>> {
        let mut orphans = Vec::new();
        let mut links = self.0.borrow_mut();
        links.retain(|link| {
            if link.is_orphaned() || link.is_elsewhere() {
                orphans.extend(link.take());
            }
            link.engine().is_some()
        });
        let living = links.iter().filter_map(|link| link.engine()).collect();
        drop(links);
        for engine in orphans {
            engine.end();
        }
        living
    }
}

impl Drop for Engines {
    fn drop(&mut self) {
        for engine in self.0.take().iter().filter_map(|link| link.take()) {
            engine.end();
        }
    }
}

/// A time in microseconds. What is longer than that can say, is without end.
fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

fn forget_owner(context: usize, thread: ThreadId) {
    OWNERS.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| *known != (context, thread));
}

fn complain_of_thread() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        log::critical("iterate")
            .say(format_args!("main context runs on a different thread than the one that created its sockets"));
    });
}

pub(crate) struct Engine {
    thread: ThreadId,
    origin: Origin,
    sources: Sources,
    /// Since when the context is gone.
    ended: Cell<Option<Instant>>,
    /// Since when several connections are being ended together.
    ending: Cell<Option<Instant>>,
    poller: RefCell<Poller>,
    /// Its descriptor.
    epoll: RawFd,
    entries: RefCell<Slab<Entry>>,
    /// The entries to serve next, each at most once.
    ready: RefCell<VecDeque<Key>>,
    hot: RefCell<VecDeque<Key>>,
    deferred: RefCell<VecDeque<Pending>>,
    tasks: Tasks,
    /// The dispatch depth at which a task is being polled, or -1.
    polls_at: Cell<i32>,
    timers: RefCell<Timers<Pending>>,
    /// Of those that are due, how many marks in the queues they still wait for, and when they were found, by the loop's clock.
    judgement: Cell<(u32, i64)>,
    /// The entries with corked output.
    dirty: RefCell<Vec<Key>>,
    buffer: Cell<Option<Rc<Vec<u8>>>>,
    plain: Cell<Option<Rc<Vec<u8>>>>,
    /// The number of this engine's dispatches on the stack.
    turns: Cell<u32>,
    low_armed: Cell<bool>,
    fairness: Budget,
    mailbox: Arc<remote::Mailbox>,
    remote_calls: RefCell<HashMap<u64, Call>>,
    next_token: Cell<u64>,
    panic: RefCell<Option<Box<dyn Any + Send>>>,
    /// The dispatch depth at which our own loop was entered last.
    loop_depth: Cell<Option<i32>>,
}

impl Engine {
    /// The engine of the thread-default main context, made when there is none.
    ///
    /// # Errors
    /// `WrongThread` if another thread has that context, or its engine; `Io` if the system gives no epoll descriptor.
    pub(crate) fn current() -> Result<Rc<Engine>> {
        prepare_process();
        let failed = |source| Error::Io { operation: Operation::SetUp, address: "the main loop".into(), source };
        private::check_default_context().map_err(failed)?;
        let context = glib::MainContext::ref_thread_default();
        if !context.is_owner() && context.acquire().is_err() {
            return Err(Error::WrongThread);
        }
        let sources = Sources::none(&context);
        let id = sources.context_id();
        let known = Engine::all_here().into_iter().find(|engine| engine.sources.context_id() == id);
        if let Some(engine) = known {
            return Ok(engine);
        }
        let mut homes = OWNERS.lock().unwrap_or_else(PoisonError::into_inner);
        if homes.iter().any(|(known, _)| *known == id) {
            return Err(Error::WrongThread);
        }
        let poller = Poller::new().map_err(failed)?;
        homes.push((id, ThreadId::here()));
        drop(homes);
        let epoll = poller.as_raw_fd();
        let engine = Rc::new(Engine {
            thread: ThreadId::here(),
            origin: Origin::here(),
            mailbox: Arc::new(remote::Mailbox::new(sources.wakeup())),
            sources,
            ended: Cell::new(None),
            ending: Cell::new(None),
            poller: RefCell::new(poller),
            epoll,
            entries: RefCell::new(Slab::new()),
            ready: RefCell::default(),
            hot: RefCell::default(),
            deferred: RefCell::default(),
            tasks: Tasks::default(),
            polls_at: Cell::new(-1),
            timers: RefCell::new(Timers::new()),
            judgement: Cell::new((0, 0)),
            dirty: RefCell::default(),
            buffer: Cell::default(),
            plain: Cell::default(),
            turns: Cell::new(0),
            low_armed: Cell::new(false),
            fairness: Budget::new(),
            remote_calls: RefCell::default(),
            next_token: Cell::new(0),
            panic: RefCell::default(),
            loop_depth: Cell::new(None),
        });
        let link = Sources::attach(&engine, &context, epoll);
        ENGINES.with(|engines| engines.0.borrow_mut().push(link));
        Ok(engine)
    }

    /// The engine of this context on this thread, if there is one in use.
    fn known(context: &glib::MainContext) -> Option<Rc<Engine>> {
        ENGINES.try_with(|engines| engines.0.borrow().iter().find_map(|link| link.engine_for(context))).ok()?
    }

    /// The engines of this thread that are in use.
    pub(crate) fn all_here() -> Vec<Rc<Engine>> {
        ENGINES.try_with(Engines::living).unwrap_or_default()
    }

    /// Writes out what was gathered on this thread: a blocking call is about to wait, perhaps for the answer to it.
    pub(crate) fn flush_here() {
        let gathered = |engines: &Engines| {
            engines.0.borrow().iter().filter_map(|link| link.engine()).any(|engine| engine.has_corked())
        };
        if ENGINES.try_with(gathered).unwrap_or(false) {
            for engine in Engine::all_here() {
                engine.flush();
            }
        }
    }

    /// Shares the context differently from now on.
    pub(crate) fn set_fairness(&self, fairness: &Fairness) {
        self.fairness.set(fairness);
        self.sources.set_priorities(fairness.priority, fairness.flood_priority);
    }

    // ---- calls for later ----

    /// Calls on the next turn of the loop.
    pub(crate) fn defer(&self, call: impl FnOnce(&Rc<Engine>) + 'static) {
        if self.has_ended() {
            // There are no more turns.
            return;
        }
        self.deferred.borrow_mut().push_back(Pending::Call(Box::new(call)));
    }

    /// Calls when that time has passed, for limits to what others do: time in which the loop was held up does not count, and
    /// what has come by then is served first.
    pub(crate) fn after(&self, delay: Duration, call: impl FnOnce(&Rc<Engine>) + 'static) -> TimerKey {
        self.timers.borrow_mut().add(fairness::now(), micros(delay), Pending::Call(Box::new(call)))
    }

    /// Calls when that time has passed, held up or not, before anything else of that turn.
    pub(crate) fn after_exactly(&self, delay: Duration, call: impl FnOnce(&Rc<Engine>) + 'static) -> TimerKey {
        self.timers.borrow_mut().add_exact(fairness::now(), micros(delay), Pending::Call(Box::new(call)))
    }

    /// Returns the time by the loop's clock, which the timers of [`Engine::after`] go by.
    pub(crate) fn loop_time(&self) -> Duration {
        let timers = self.timers.borrow();
        timers.look_anew(fairness::now());
        Duration::from_micros(timers.looked().try_into().unwrap_or(0))
    }

    pub(crate) fn cancel_timer(&self, key: TimerKey) {
        let call = self.timers.borrow_mut().cancel(key);
        drop(call);
    }

    /// Prepares a call that any thread may ask for.
    pub(crate) fn remote(&self, call: impl FnOnce(&Rc<Engine>) + 'static) -> Remote {
        let token = self.next_token.get();
        self.next_token.set(token + 1);
        self.remote_calls.borrow_mut().insert(token, Box::new(call));
        Remote { mailbox: self.mailbox.clone(), token }
    }

    pub(crate) fn forget_remote(&self, token: u64) {
        let call = self.remote_calls.borrow_mut().remove(&token);
        drop(call);
    }

    // ---- the shared buffer ----

    /// A read buffer that nobody else has: this one if it still is, or another.
    #[inline(always)]
    fn usable<'a>(&self, buffer: &'a mut Option<Rc<Vec<u8>>>) -> &'a mut [u8] {
        if buffer.as_mut().is_none_or(|buffer| Rc::get_mut(buffer).is_none()) {
            *buffer = Some(self.take_buffer());
        }
        buffer.as_mut().and_then(Rc::get_mut).map_or(&mut [], Vec::as_mut_slice)
    }

    pub(crate) fn return_buffer(&self, buffer: &mut Option<Rc<Vec<u8>>>) {
        if let Some(buffer) = buffer.take() {
            self.give_buffer(buffer);
        }
    }

    /// The read buffer, of [`READ_BUFFER`] bytes, which nobody else has. A nested loop finds it taken and gets another.
    #[inline]
    pub(crate) fn take_buffer(&self) -> Rc<Vec<u8>> {
        let free = self.buffer.take().filter(|buffer| Rc::strong_count(buffer) == 1);
        free.unwrap_or_else(|| Rc::new(vec![0; READ_BUFFER]))
    }

    /// Some of it may still be in use: mostly that is over when it is taken again.
    #[inline]
    pub(crate) fn give_buffer(&self, buffer: Rc<Vec<u8>>) {
        if buffer.len() == READ_BUFFER {
            self.buffer.set(Some(buffer));
        } else if Rc::strong_count(&buffer) == 1 && buffer.capacity() <= 2 * READ_BUFFER {
            self.plain.set(Some(buffer));
        }
    }

    /// An empty buffer for what is decrypted, to be given back as the other.
    pub(crate) fn take_plain(&self) -> Rc<Vec<u8>> {
        let mut plain = self.plain.take().unwrap_or_default();
        match Rc::get_mut(&mut plain) {
            Some(bytes) => bytes.clear(),
            None => plain = Rc::default(),
        }
        plain
    }

    // ---- panics ----

    /// Our own loop is entered on this thread at this depth of dispatches; gives back what was before.
    pub(crate) fn enter_loop(&self, depth: Option<i32>) -> Option<i32> {
        self.loop_depth.replace(depth)
    }

    /// Returns whether a loop runs here, and finishes what is left to it.
    pub(crate) fn has_loop(&self) -> bool {
        main_depth() > 0 || self.loop_depth.get().is_some() || self.sources.may_be_iterated()
    }

    /// A callback panicked. Under our own loop the panic is kept until that is back at its caller; no C code can let it
    /// through. Under another's the process ends, as it does for panics in any other GLib callback.
    pub(crate) fn panicked(&self, panic: Box<dyn Any + Send>) {
        if self.loop_depth.get() != Some(main_depth() - 1) {
            log::critical("call").say(format_args!("callback panicked under a foreign main loop; aborting"));
            std::process::abort();
        }
        // Of several the first is the cause.
        self.panic.borrow_mut().get_or_insert(panic);
    }

    /// The panic that is to be resumed where our loop was entered.
    pub(crate) fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        self.panic.take()
    }

    #[inline]
    pub(crate) fn is_panicking(&self) -> bool {
        self.panic.borrow().is_some()
    }

    // ---- the end, and the fork ----

    /// The context is gone, or its thread. Everything registered lets go.
    fn end(&self) {
        if self.has_ended() {
            return;
        }
        self.disown();
        self.ended.set(Some(sys::now()));
        forget_owner(self.sources.context_id(), self.thread);
        let keys = self.entries.borrow().keys();
        for key in keys {
            let handler = self.entries.borrow_mut().get_mut(key).map(|entry| entry.handler.clone());
            if let Some(handler) = handler {
                handler.context_ended();
            }
            self.deregister(key);
        }
        // Out of the cells first: what these calls own may call back as it is dropped.
        let (timers, deferred) = (self.timers.borrow_mut().clear(), self.deferred.take());
        for pending in timers.iter().chain(&deferred) {
            // Whoever sleeps may be polled by another context.
            if let Pending::Alarm(alarm) = pending {
                alarm.wake();
            }
        }
        let calls = (timers, deferred, self.remote_calls.take());
        drop(calls);
        self.drop_tasks();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.get().is_some()
    }

    /// The start of the time that a connection has to send its rest: the end of the context, or that of all
    /// connections that end together with this one. Else now.
    pub(crate) fn draining_since(&self) -> Instant {
        self.ended.get().or(self.ending.get()).unwrap_or_else(sys::now)
    }

    /// Within `end` connections are ended, and the time they have to send their rest counts for all of them together.
    pub(crate) fn end_together(&self, end: impl FnOnce()) {
        let before = self.ending.get();
        self.ending.set(before.or_else(|| Some(sys::now())));
        end();
        self.ending.set(before);
    }
}
