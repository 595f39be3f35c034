//! The engine: one for each main context, a custom GSource over one epoll descriptor, edge-triggered.
//!
//! This is the lowest floor with state, and the only place that names GSource or epoll or uses `unsafe`. It knows
//! descriptors and [`Handler`]s, and nothing of sockets, bytes or user code.

mod descriptor;
mod fairness;
mod poller;
mod process;
mod remote;
mod signals;
mod slab;
mod source;
mod timers;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::{BitOr, BitOrAssign};
use std::os::fd::{BorrowedFd, RawFd};
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) use descriptor::{Backlog, Descriptor, backlog};
use fairness::Fairness;
use poller::{BATCH, Poller, Watch};
pub(crate) use process::{Forked, exit_now, fork, other_threads};
pub(crate) use remote::Remote;
pub(crate) use signals::{Interrupts, without_sigpipe};
pub(crate) use slab::Key;
use slab::Slab;
use source::Sources;
pub(crate) use source::main_depth;
pub(crate) use timers::TimerKey;
use timers::Timers;

use crate::error::{Error, Result};

/// Size of the buffer that all reads of a context share, in bytes. Smaller ones cost more calls (16 KiB 1.3 times the
/// time), larger ones fall out of the cache (256 KiB 1.4 times).
pub(crate) const READ_BUFFER: usize = 64 << 10;

/// Hot connections wait for everything above this: GDK paints at 120, default idles run at 200.
const LOW_PRIORITY: glib::Priority = glib::Priority::DEFAULT_IDLE;

/// What a descriptor is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    /// Any of those.
    pub(crate) fn has(self, other: Ready) -> bool {
        self.0 & other.0 != 0
    }

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

/// What a handler says when it has served its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Next {
    /// Nothing left to do: the next event will say when.
    Idle,
    /// There is more to do, after the others.
    Again,
    /// It used up its budget, as a flood does: serve it when nothing more urgent waits.
    Hot,
}

/// Whoever holds a registered descriptor.
pub(crate) trait Handler {
    /// Serves what is ready. No engine state is borrowed meanwhile; anything may be called.
    fn ready(self: Rc<Self>, engine: &Rc<Engine>, ready: Ready) -> Next;

    /// The turn ends: writes what was gathered. Calls no user code.
    fn flush(&self, _engine: &Rc<Engine>) {}

    /// The main context is gone: lets go of the descriptor. Calls no user code.
    fn context_ended(self: Rc<Self>);
}

/// A call for later.
pub(crate) type Call = Box<dyn FnOnce(&Rc<Engine>)>;

/// One descriptor of a registration.
struct Side {
    fd: RawFd,
    watch: Watch,
    /// epoll refuses regular files and the like: they are always ready.
    always: bool,
}

struct Entry {
    handler: Rc<dyn Handler>,
    input: Side,
    /// Where output goes to another descriptor.
    output: Option<Side>,
    ready: Ready,
    /// In one of the two queues.
    queued: bool,
    /// To be queued with the hot ones.
    hot: bool,
    /// Hot, and its read interest dropped so that the flood wakes nobody.
    muted: bool,
}

/// What to watch for: a descriptor or two, and whether they block.
pub(crate) struct Registration<'a> {
    pub(crate) input: BorrowedFd<'a>,
    pub(crate) input_blocks: bool,
    /// Where output goes to another descriptor, that, and whether it blocks.
    pub(crate) output: Option<(BorrowedFd<'a>, bool)>,
    /// Watch for room to write from the start, as a connect in progress does.
    pub(crate) write: bool,
}

/// How long the loop may sleep, as far as the engine is concerned.
enum Wait {
    Not,
    Until(i64),
    Forever,
}

/// Marks the thread an engine lives on.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Home(usize);

thread_local! {
    static MARK: u8 = const { 0 };
    static ENGINES: Engines = const { Engines(RefCell::new(Vec::new())) };
}

/// Where each main context's engine lives, for all threads.
static HOMES: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

impl Home {
    fn here() -> Self {
        Home(MARK.with(|mark| std::ptr::from_ref(mark) as usize))
    }

    #[inline]
    fn is_here(self) -> bool {
        self == Home::here()
    }
}

/// The engines of a thread. They end with it.
struct Engines(RefCell<Vec<Weak<Engine>>>);

impl Drop for Engines {
    fn drop(&mut self) {
        for engine in self.0.take().iter().filter_map(Weak::upgrade) {
            engine.sources.destroy();
        }
    }
}

fn forget_home(context: usize) {
    HOMES.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| *known != context);
}

fn complain_of_thread() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        glib::g_critical!("network", "a main context is run by another thread than the one that made its sockets");
    });
}

pub(crate) struct Engine {
    me: Weak<Engine>,
    home: Home,
    sources: Sources,
    ended: Cell<bool>,
    poller: RefCell<Poller>,
    entries: RefCell<Slab<Entry>>,
    /// What is to be served next, each entry once.
    ready: RefCell<VecDeque<Key>>,
    hot: RefCell<VecDeque<Key>>,
    deferred: RefCell<VecDeque<Call>>,
    timers: RefCell<Timers<Call>>,
    dirty: RefCell<Vec<Key>>,
    buffer: Cell<Option<Rc<Vec<u8>>>>,
    plain: Cell<Option<Rc<Vec<u8>>>>,
    /// How many dispatches are on the stack.
    turns: Cell<u32>,
    low_armed: Cell<bool>,
    fairness: Fairness,
    inbound: Arc<remote::Inbound>,
    remote_calls: RefCell<HashMap<u64, Call>>,
    next_token: Cell<u64>,
    panic: Cell<Option<Box<dyn Any + Send>>>,
    /// How deep in dispatches our own loop was entered last.
    loop_depth: Cell<Option<i32>>,
}

impl Engine {
    /// The engine of the thread-default main context, made when there is none.
    ///
    /// # Errors
    /// `WrongThread` if another thread has that context, or its engine; `Io` if the system gives no epoll descriptor.
    pub(crate) fn current() -> Result<Rc<Engine>> {
        let context = glib::MainContext::ref_thread_default();
        if !context.is_owner() && context.acquire().is_err() {
            return Err(Error::WrongThread);
        }
        let sources = Sources::none(&context);
        let id = sources.context_id();
        let known = ENGINES.with(|engines| {
            let mut engines = engines.0.borrow_mut();
            engines.retain(|engine| engine.upgrade().is_some_and(|engine| !engine.ended.get()));
            engines.iter().filter_map(Weak::upgrade).find(|engine| engine.sources.context_id() == id)
        });
        if let Some(engine) = known {
            return Ok(engine);
        }
        let mut homes = HOMES.lock().unwrap_or_else(PoisonError::into_inner);
        if homes.iter().any(|(known, _)| *known == id) {
            return Err(Error::WrongThread);
        }
        let poller = Poller::new().map_err(|source| Error::Io {
            operation: "setting up",
            address: "the main loop".into(),
            source,
        })?;
        homes.push((id, Home::here().0));
        drop(homes);
        let epoll = poller.as_raw_fd();
        let engine = Rc::new_cyclic(|me| Engine {
            me: me.clone(),
            home: Home::here(),
            inbound: Arc::new(remote::Inbound::new(sources.wakeup())),
            sources,
            ended: Cell::new(false),
            poller: RefCell::new(poller),
            entries: RefCell::new(Slab::new()),
            ready: RefCell::default(),
            hot: RefCell::default(),
            deferred: RefCell::default(),
            timers: RefCell::new(Timers::new()),
            dirty: RefCell::default(),
            buffer: Cell::default(),
            plain: Cell::default(),
            turns: Cell::new(0),
            low_armed: Cell::new(false),
            fairness: Fairness::new(),
            remote_calls: RefCell::default(),
            next_token: Cell::new(0),
            panic: Cell::new(None),
            loop_depth: Cell::new(None),
        });
        Sources::attach(&engine, &context, epoll);
        ENGINES.with(|engines| engines.0.borrow_mut().push(Rc::downgrade(&engine)));
        Ok(engine)
    }

    /// The engines of this thread that are in use.
    pub(crate) fn all_here() -> Vec<Rc<Engine>> {
        let here = ENGINES.try_with(|engines| engines.0.borrow().iter().filter_map(Weak::upgrade).collect());
        here.unwrap_or_default()
    }

    fn priority(&self) -> glib::Priority {
        glib::Priority::DEFAULT
    }

    fn strong(&self) -> Option<Rc<Engine>> {
        self.me.upgrade()
    }

    // ---- registrations ----

    /// Watches descriptors for a handler. They must be deregistered before they are closed or handed on.
    pub(crate) fn register(&self, what: Registration<'_>, handler: Rc<dyn Handler>) -> io::Result<Key> {
        use std::os::fd::AsRawFd;
        let key = self.entries.borrow().next_key();
        let poller = self.poller.borrow();
        let add = |fd: BorrowedFd<'_>, output: bool, watch: Watch| -> io::Result<Side> {
            let always = match poller.add(fd, key.to_bits(output), watch) {
                Ok(()) => false,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => true,
                Err(error) => return Err(error),
            };
            Ok(Side { fd: fd.as_raw_fd(), watch, always })
        };
        // A blocking descriptor is armed by hand when somebody wants to read it.
        let read = !what.input_blocks;
        let single = what.output.is_none();
        let watch = Watch { read, write: what.write && single, one_shot: what.input_blocks };
        let input = add(what.input, false, watch)?;
        let output = match what.output {
            None => None,
            Some((fd, blocks)) => match add(fd, true, Watch { read: false, write: what.write, one_shot: blocks }) {
                Ok(side) => Some(side),
                Err(error) => {
                    let _ = poller.delete(what.input);
                    return Err(error);
                }
            },
        };
        let entry = Entry { handler, input, output, ready: Ready::NONE, queued: false, hot: false, muted: false };
        let inserted = self.entries.borrow_mut().insert(entry);
        debug_assert_eq!(key, inserted);
        Ok(key)
    }

    /// Must the handler ask for each readiness of the input, or of the output, because that descriptor blocks or because
    /// epoll does not know it?
    pub(crate) fn armed_by_hand(&self, key: Key) -> (bool, bool) {
        let by_hand = |side: &Side| side.always || side.watch.one_shot;
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(key) else { return (false, false) };
        (by_hand(&entry.input), by_hand(entry.output.as_ref().unwrap_or(&entry.input)))
    }

    /// Ends a registration. What was queued for it is dropped.
    pub(crate) fn deregister(&self, key: Key) {
        let Some(entry) = self.entries.borrow_mut().remove(key) else { return };
        let poller = self.poller.borrow();
        for side in [Some(&entry.input), entry.output.as_ref()].into_iter().flatten() {
            if !side.always {
                let _ = poller.delete(borrow(side.fd));
            }
        }
        drop(poller);
        drop(entry);
    }

    /// Ends the registration of the output alone, where that is a descriptor of its own.
    pub(crate) fn deregister_output(&self, key: Key) {
        let mut entries = self.entries.borrow_mut();
        let Some(output) = entries.get_mut(key).and_then(|entry| entry.output.take()) else { return };
        if !output.always {
            let _ = self.poller.borrow().delete(borrow(output.fd));
        }
    }

    /// Says what the handler waits for. Reading is watched for all the time on descriptors that do not block, so that the
    /// end is noticed; on those that do, this arms the next readiness.
    pub(crate) fn set_interest(&self, key: Key, read: bool, write: bool) {
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(key) else { return };
        let mut at_once = Ready::NONE;
        let poller = self.poller.borrow();
        let both = entry.output.is_none();
        let mut set = |side: &mut Side, output: bool, read: bool, write: bool, muted: bool| {
            if side.always {
                if read {
                    at_once |= Ready::READ;
                }
                if write {
                    at_once |= Ready::WRITE;
                }
                return;
            }
            let blocks = side.watch.one_shot;
            let read = if blocks || output { read } else { !muted };
            let watch = Watch { read, write, one_shot: blocks };
            if watch != side.watch || (blocks && (read || write)) {
                side.watch = watch;
                let _ = poller.modify(borrow(side.fd), key.to_bits(output), watch);
            }
        };
        set(&mut entry.input, false, read, write && both, entry.muted);
        if let Some(output) = &mut entry.output {
            set(output, true, false, write, false);
        }
        drop(poller);
        drop(entries);
        if at_once != Ready::NONE {
            self.enqueue(key, at_once);
        }
    }

    /// Has the handler called on the next turn, with nothing but what is ready besides.
    pub(crate) fn requeue(&self, key: Key) {
        self.enqueue(key, Ready::NONE);
    }

    /// Has the handler called on the next turn as if there were room to write.
    pub(crate) fn requeue_write(&self, key: Key) {
        self.enqueue(key, Ready::WRITE);
    }

    fn enqueue(&self, key: Key, ready: Ready) {
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(key) else { return };
        entry.ready |= ready;
        if entry.queued {
            return;
        }
        entry.queued = true;
        if entry.hot {
            drop(entries);
            self.push_hot(key);
        } else {
            self.ready.borrow_mut().push_back(key);
        }
    }

    fn push_hot(&self, key: Key) {
        let mut hot = self.hot.borrow_mut();
        if hot.is_empty() {
            self.fairness.start_guard();
        }
        hot.push_back(key);
        drop(hot);
        self.arm_low();
    }

    fn arm_low(&self) {
        self.low_armed.set(true);
    }

    /// Marks a registration as having gathered output, to be flushed when the turn ends.
    pub(crate) fn mark_dirty(&self, key: Key) {
        self.dirty.borrow_mut().push(key);
    }

    // ---- calls for later ----

    /// Calls on the next turn of the loop.
    pub(crate) fn defer(&self, call: impl FnOnce(&Rc<Engine>) + 'static) {
        self.deferred.borrow_mut().push_back(Box::new(call));
    }

    /// Calls when that time has passed.
    pub(crate) fn after(&self, delay: std::time::Duration, call: impl FnOnce(&Rc<Engine>) + 'static) -> TimerKey {
        let delay = i64::try_from(delay.as_micros()).unwrap_or(i64::MAX);
        self.timers.borrow_mut().add(fairness::now().saturating_add(delay), Box::new(call))
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
        Remote { inbound: self.inbound.clone(), token }
    }

    pub(crate) fn forget_remote(&self, token: u64) {
        let call = self.remote_calls.borrow_mut().remove(&token);
        drop(call);
    }

    // ---- the shared buffer ----

    /// The read buffer, of [`READ_BUFFER`] bytes. A nested loop finds it taken and gets another.
    pub(crate) fn take_buffer(&self) -> Rc<Vec<u8>> {
        self.buffer.take().unwrap_or_else(|| Rc::new(vec![0; READ_BUFFER]))
    }

    pub(crate) fn give_buffer(&self, buffer: Rc<Vec<u8>>) {
        if Rc::strong_count(&buffer) != 1 {
            return;
        }
        if buffer.len() == READ_BUFFER {
            self.buffer.set(Some(buffer));
        } else if buffer.capacity() <= 2 * READ_BUFFER {
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

    // ---- turns ----

    /// Is a dispatch of this engine on the stack? Then what is sent is gathered.
    pub(crate) fn in_turn(&self) -> bool {
        self.turns.get() > 0
    }

    /// One more unit of work is done (a line, an accept): is the time of this turn up?
    #[inline]
    pub(crate) fn spent(&self) -> bool {
        self.fairness.spent()
    }

    /// Writes out what was gathered. Before every sleep, nested iteration and blocking call, and at the end of a turn.
    pub(crate) fn flush(&self) {
        if self.dirty.borrow().is_empty() {
            return;
        }
        let Some(me) = self.strong() else { return };
        let mut dirty = self.dirty.take();
        for key in dirty.drain(..) {
            let handler = self.entries.borrow_mut().get_mut(key).map(|entry| entry.handler.clone());
            if let Some(handler) = handler {
                handler.flush(&me);
            }
        }
        let mut new = self.dirty.borrow_mut();
        if new.is_empty() {
            *new = dirty;
        }
    }

    fn prepare(&self) -> Wait {
        self.flush();
        let may_work = self.fairness.has_credit() && !self.is_panicking();
        if self.inbound.is_pending() {
            return Wait::Not;
        }
        if may_work && !(self.ready.borrow().is_empty() && self.deferred.borrow().is_empty()) {
            return Wait::Not;
        }
        let mut wait = self.timers.borrow().next_deadline();
        if !self.hot.borrow().is_empty() {
            let guard = self.fairness.guard();
            wait = Some(wait.map_or(guard, |wait| wait.min(guard)));
        }
        wait.map_or(Wait::Forever, Wait::Until)
    }

    fn dispatch(self: &Rc<Self>, has_events: bool) {
        let _default = self.sources.as_thread_default();
        self.turns.set(self.turns.get() + 1);
        self.gather_calls();
        if !self.hot.borrow().is_empty() && self.fairness.guard() <= fairness::now() {
            self.hot_slice();
        }
        let batch = if has_events { self.poll() } else { 0 };
        if self.fairness.has_credit() {
            self.cold_slice(batch);
        }
        self.turns.set(self.turns.get() - 1);
        if !self.fairness.has_credit() {
            self.all_hot();
        }
        if self.fairness.wants_refill() {
            self.arm_low();
        }
    }

    fn cold_slice(self: &Rc<Self>, mut batch: usize) {
        let outer = self.fairness.start_cold();
        let mut left = BATCH;
        // Only after a batch of several is another look worth a system call.
        while !self.work(&self.ready, &mut left) && batch >= 2 {
            batch = self.poll();
            if batch == 0 {
                break;
            }
        }
        self.flush();
        self.fairness.end_cold(outer);
    }

    fn dispatch_low(self: &Rc<Self>) {
        self.fairness.refill();
        if !self.hot.borrow().is_empty() || !self.deferred.borrow().is_empty() {
            let _default = self.sources.as_thread_default();
            self.turns.set(self.turns.get() + 1);
            self.hot_slice();
            self.turns.set(self.turns.get() - 1);
        }
        if self.hot.borrow().is_empty() && !self.fairness.wants_refill() {
            self.low_armed.set(false);
        }
    }

    fn hot_slice(self: &Rc<Self>) {
        let outer = self.fairness.start_hot();
        // Round robin: those that stay hot go to the back.
        let mut unlimited = usize::MAX;
        self.work(&self.hot, &mut unlimited);
        self.flush();
        self.fairness.end_hot(outer);
    }

    /// Takes the kernel's events into the queue.
    fn poll(&self) -> usize {
        let mut entries = self.entries.borrow_mut();
        let mut ready = self.ready.borrow_mut();
        let mut flooded = Vec::new();
        let count = self.poller.borrow_mut().poll(|bits, what| {
            let (key, output) = Key::from_bits(bits);
            let Some(entry) = entries.get_mut(key) else { return };
            entry.ready |= match (output, entry.output.is_some()) {
                // The reader of our output has gone.
                (true, _) if what.has(Ready::HANGUP) => what.without(Ready::HANGUP) | Ready::ERROR,
                // Of two descriptors the input's error is found by reading; `ERROR` is the output's.
                (false, true) if what.has(Ready::ERROR) => what.without(Ready::ERROR) | Ready::READ | Ready::HANGUP,
                _ => what,
            };
            if entry.hot && !entry.muted && what.has(Ready::READ) {
                flooded.push(key);
            }
            if !entry.queued {
                entry.queued = true;
                if entry.hot {
                    self.push_hot(key);
                } else {
                    ready.push_back(key);
                }
            }
        });
        for key in flooded {
            if let Some(entry) = entries.get_mut(key) {
                self.mute(key, entry, true);
            }
        }
        count
    }

    /// Drops or takes up the read interest of a hot entry. Taken up, epoll looks at the descriptor anew.
    fn mute(&self, key: Key, entry: &mut Entry, muted: bool) {
        let side = &mut entry.input;
        if side.always || side.watch.one_shot || entry.muted == muted {
            return;
        }
        entry.muted = muted;
        side.watch.read = !muted;
        let _ = self.poller.borrow().modify(borrow(side.fd), key.to_bits(false), side.watch);
    }

    /// Serves a queue and makes the calls that are due, in turns, so that neither holds up the other. True when the time
    /// of this dispatch, or the number it may serve, is used up.
    fn work(self: &Rc<Self>, queue: &RefCell<VecDeque<Key>>, left: &mut usize) -> bool {
        // Those that are there now: a call that defers another must not keep the loop here.
        let mut calls = self.deferred.borrow().len();
        while !self.is_panicking() {
            let call = if calls > 0 { self.deferred.borrow_mut().pop_front() } else { None };
            match call {
                Some(call) => {
                    calls -= 1;
                    call(self);
                    if self.fairness.spent() {
                        return true;
                    }
                }
                // A nested loop in one of them may have made the others.
                None => calls = 0,
            }
            let key = if *left > 0 { queue.borrow_mut().pop_front() } else { None };
            match key {
                Some(key) => {
                    self.serve(key);
                    *left -= 1;
                    if self.fairness.spent() {
                        return true;
                    }
                }
                None if calls > 0 => {}
                None => return *left == 0,
            }
        }
        true
    }

    fn serve(self: &Rc<Self>, key: Key) {
        let (handler, ready) = {
            let mut entries = self.entries.borrow_mut();
            let Some(entry) = entries.get_mut(key) else { return };
            entry.queued = false;
            (entry.handler.clone(), std::mem::replace(&mut entry.ready, Ready::NONE))
        };
        let next = handler.ready(self, ready);
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(key) else { return };
        entry.hot = next == Next::Hot;
        if !entry.hot {
            self.mute(key, entry, false);
        }
        let queue = next != Next::Idle;
        drop(entries);
        if queue {
            self.requeue(key);
        }
    }

    /// The credit is spent: whatever waits, waits for the low source. Those that get more input meanwhile are muted then:
    /// most are served before that.
    fn all_hot(&self) {
        let waiting = self.ready.take();
        for key in waiting {
            match self.entries.borrow_mut().get_mut(key) {
                Some(entry) => entry.hot = true,
                None => continue,
            }
            self.push_hot(key);
        }
        if !self.deferred.borrow().is_empty() {
            self.arm_low();
        }
    }

    /// Moves calls whose time has come, and those that other threads ask for, to the deferred ones.
    fn gather_calls(&self) {
        if self.inbound.is_pending() {
            for token in self.inbound.take() {
                if let Some(call) = self.remote_calls.borrow_mut().remove(&token) {
                    self.deferred.borrow_mut().push_back(call);
                }
            }
        }
        let mut timers = self.timers.borrow_mut();
        if timers.next_deadline().is_some() {
            let now = fairness::now();
            while let Some(call) = timers.pop_due(now) {
                self.deferred.borrow_mut().push_back(call);
            }
        }
    }

    // ---- panics ----

    /// Our own loop is entered on this thread at this depth of dispatches; gives back what was before.
    pub(crate) fn enter_loop(&self, depth: Option<i32>) -> Option<i32> {
        self.loop_depth.replace(depth)
    }

    /// A callback panicked. Under our own loop the panic is kept until that is back at its caller; no C code can let it
    /// through. Under another's the process ends, as it does for panics in any other GLib callback.
    pub(crate) fn panicked(&self, panic: Box<dyn Any + Send>) {
        if self.loop_depth.get() != Some(main_depth() - 1) {
            glib::g_critical!("network", "a callback panicked under a main loop that cannot pass the panic on");
            std::process::abort();
        }
        self.panic.set(Some(panic));
    }

    /// The panic that is to be resumed where our loop was entered.
    pub(crate) fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        self.panic.take()
    }

    fn is_panicking(&self) -> bool {
        let panic = self.panic.take();
        let panicking = panic.is_some();
        if panicking {
            self.panic.set(panic);
        }
        panicking
    }

    // ---- the end, and the fork ----

    /// The context is gone, or its thread. Everything registered lets go.
    fn end(&self) {
        if self.ended.replace(true) {
            return;
        }
        let keys = self.entries.borrow().keys();
        for key in keys {
            let handler = self.entries.borrow_mut().get_mut(key).map(|entry| entry.handler.clone());
            if let Some(handler) = handler {
                handler.context_ended();
            }
            self.deregister(key);
        }
        // Out of the cells first: what these calls own may call back as it is dropped.
        let timers = self.timers.borrow_mut().clear();
        let calls = (timers, self.deferred.take(), self.remote_calls.take());
        drop(calls);
    }

    /// In the child of a fork: a kernel queue of its own, with all that was registered. The parent's, which is shared
    /// until it exits, is left alone.
    pub(crate) fn after_fork(&self) -> io::Result<()> {
        let mut poller = self.poller.borrow_mut();
        poller.replace()?;
        let mut entries = self.entries.borrow_mut();
        for key in entries.keys() {
            let Some(entry) = entries.get_mut(key) else { continue };
            let sides = [(false, Some(&entry.input)), (true, entry.output.as_ref())];
            for (output, side) in sides.into_iter().filter_map(|(output, side)| Some((output, side?))) {
                if !side.always {
                    poller.add(borrow(side.fd), key.to_bits(output), side.watch)?;
                }
            }
        }
        Ok(())
    }
}

/// A descriptor of a registration, for a call to epoll.
fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: a handler deregisters before it closes or hands on its descriptor, so while the entry is there it is open.
    unsafe { BorrowedFd::borrow_raw(fd) }
}
