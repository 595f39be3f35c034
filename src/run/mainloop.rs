//! Running the main loop: in the foreground, in the background, or one step at a time. Here panics of callbacks come out,
//! and SIGINT and SIGTERM end the loop.

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::systemd::{self, Watchdog};
use crate::engine::{Engine, Fairness, Handler, Iterations, Key, Next, Ready, Registration, TimerKey, turn};
use crate::error::{Result, count};
use crate::log;
use crate::server::{self, Draining};
use crate::sys::Interrupts;

static CATCH_SIGNALS: AtomicBool = AtomicBool::new(true);

/// How long connections may go on after a signal, in milliseconds.
static DRAIN: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The loops that are running on this thread, the innermost last.
    static LOOPS: RefCell<Vec<Rc<Running>>> = const { RefCell::new(Vec::new()) };
}

#[derive(Default)]
struct Running {
    ended: Cell<bool>,
    timed_out: Cell<bool>,
    /// How many signals there were that ask for the end.
    interrupts: Cell<u32>,
    /// The end was asked for because another process serves in our place.
    handed_over: Cell<bool>,
}

/// Runs the thread-default main context until [`endloop`] is called, or the process gets SIGINT or SIGTERM. **Blocks**
/// until then.
///
/// A signal closes the servers of this context as well, which removes the paths of unix sockets; [`set_grace_period`] gives
/// their connections time to finish first. A second one ends the loop at once, and breaks off what is left. Signals are
/// only caught if the program has left them at their default, see [`set_signal_handling`]. Loops may be nested: this may be
/// called from a callback.
///
/// The outermost loop tells systemd, where that has started the process as a service which wants to know: `READY=1` when
/// the first such loop starts, `STOPPING=1` at a signal, and `WATCHDOG=1` from its turns.
///
/// # Panics
/// With the panic of a callback, if one panics. The loop can be run again after that.
pub fn fgloop() {
    run(None);
}

/// As [`fgloop`], for at most that long. True if the time was up, false if something else ended it.
///
/// # Panics
/// As [`fgloop`].
///
/// ```
/// use std::time::Duration;
///
/// assert!(network::fgloop_for(Duration::from_millis(1)));
/// ```
pub fn fgloop_for(limit: Duration) -> bool {
    run(Some(limit))
}

/// Ends the innermost [`fgloop`], [`fgloop_for`] or [`bgloop`](crate::bgloop) of this thread. Without one it does nothing.
pub fn endloop() {
    let innermost = LOOPS.with(|loops| loops.borrow().last().cloned());
    if let Some(running) = innermost {
        running.ended.set(true);
    }
}

/// Runs one step of the thread-default main context: what is ready, or, if `may_block`, what is ready next. True if
/// anything was done.
///
/// # Panics
/// As [`fgloop`].
pub fn iteration(may_block: bool) -> bool {
    let context = glib::MainContext::ref_thread_default();
    let engine = match Engine::current() {
        Ok(engine) => engine,
        Err(error) => {
            log::critical("iterate").error(&error).say(format_args!("iteration: {error}"));
            return false;
        }
    };
    step(&context, &engine, may_block)
}

/// Whether [`fgloop`] and its kin end at SIGINT and SIGTERM, as they do by default. For the whole process, from the next
/// loop on. A signal for which the program has a handler of its own, or which it ignores, is never touched.
pub fn set_signal_handling(catch: bool) {
    CATCH_SIGNALS.store(catch, Ordering::Relaxed);
}

/// How long the connections of servers may go on after SIGINT or SIGTERM, at most. Zero by default: the loop ends at once.
/// For the whole process, from the next signal on.
///
/// With a limit the signal first stops the servers from accepting; the loop goes on until the last connection that they
/// list has ended. When the time is up, those that are left are closed, which still sends what was queued, and their
/// disconnect callbacks are told. A second signal breaks them off at once.
pub fn set_grace_period(limit: Duration) {
    DRAIN.store(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Sets how the network shares the thread-default main context with the rest of the program.
///
/// The defaults keep a GTK window drawing at full speed whatever the network does, and cost a program without a window
/// next to nothing.
///
/// # Errors
/// [`Error::WrongThread`](crate::Error::WrongThread) if another thread has that context;
/// [`Error::Io`](crate::Error::Io) if the system gives no descriptors.
///
/// ```
/// let mut fairness = network::mainloop::Fairness::default();
/// fairness.slice = std::time::Duration::from_micros(500);
/// network::mainloop::set_fairness(&fairness)?;
/// # Ok::<(), network::Error>(())
/// ```
pub fn set_fairness(fairness: &Fairness) -> Result {
    Engine::current()?.set_fairness(fairness);
    Ok(())
}

/// A turn by GLib's own means.
pub(crate) fn step(context: &glib::MainContext, engine: &Rc<Engine>, may_block: bool) -> bool {
    turn(engine, || context.iteration(may_block))
}

fn run(limit: Option<Duration>) -> bool {
    let engine = match Engine::current() {
        Ok(engine) => engine,
        Err(error) => {
            log::critical("iterate").error(&error).say(format_args!("fgloop: {error}"));
            return false;
        }
    };
    run_entered(Entered::new(&engine, limit))
}

/// Runs a loop that is on the stack already, and has heard of signals since.
pub(crate) fn run_entered(mut entered: Entered) -> bool {
    let context = glib::MainContext::ref_thread_default();
    let engine = entered.engine.clone();
    let Some(mut turns) = Iterations::new(&engine, &context) else { return false };
    let _watchdog = entered.is_outermost.then(|| {
        systemd::ready();
        Watchdog::start(&engine)
    });
    loop {
        entered.attend();
        // Where a callback has destroyed the source of the network, nothing could end the loop any more.
        if entered.running.ended.get() || engine.has_ended() {
            break;
        }
        turn(&engine, || turns.next());
    }
    let running = entered.running.clone();
    let is_outermost = entered.is_outermost;
    drop(entered);
    if is_outermost && running.interrupts.get() > 0 {
        server::close_all(&engine);
    }
    running.timed_out.get()
}

/// The outermost loop of this thread is to end as at a signal, because another process serves in our place.
pub(crate) fn retire() {
    LOOPS.with(|loops| {
        if let Some(outermost) = loops.borrow().first() {
            outermost.handed_over.set(true);
        }
    });
    interrupt();
}

fn interrupt() {
    LOOPS.with(|loops| {
        for (depth, running) in loops.borrow().iter().enumerate() {
            running.interrupts.set(running.interrupts.get() + 1);
            // The outermost attends to the rest.
            if depth > 0 {
                running.ended.set(true);
            }
        }
    });
}

/// A loop on the stack. Leaving it, by whatever way, takes its timers and its signals with it.
pub(crate) struct Entered {
    engine: Rc<Engine>,
    running: Rc<Running>,
    timer: Option<TimerKey>,
    signals: Option<Rc<Signals>>,
    is_outermost: bool,
    /// From a signal on, until the connections have ended.
    drain: Option<(Rc<Draining>, TimerKey)>,
}

impl Entered {
    pub(crate) fn new(engine: &Rc<Engine>, limit: Option<Duration>) -> Self {
        let running = Rc::new(Running::default());
        let timer = limit.map(|limit| {
            let running = running.clone();
            engine.after_exactly(limit, move |_| {
                if !running.ended.replace(true) {
                    running.timed_out.set(true);
                }
            })
        });
        let is_outermost = LOOPS.with(|loops| {
            let mut loops = loops.borrow_mut();
            loops.push(running.clone());
            loops.len() == 1
        });
        let signals = if is_outermost && CATCH_SIGNALS.load(Ordering::Relaxed) { Signals::watch(engine) } else { None };
        Entered { engine: engine.clone(), running, timer, signals, is_outermost, drain: None }
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.running.interrupts.get() > 0
    }

    /// Does what a signal asks for.
    fn attend(&mut self) {
        if !self.is_outermost || self.running.ended.get() {
            return;
        }
        let done = match (self.running.interrupts.get(), &self.drain) {
            (0, _) => return,
            (1, None) => self.stop(),
            (1, Some((draining, _))) => draining.is_done(),
            (_, drain) => {
                log::info("stop").say(format_args!("told to end twice: what is left is broken off"));
                match drain {
                    Some((draining, _)) => draining.abort(),
                    None => server::drain_all(&self.engine).abort(),
                }
                true
            }
        };
        if done {
            self.running.ended.set(true);
        }
    }

    /// Stops accepting. True if that is all.
    fn stop(&mut self) -> bool {
        if !self.running.handed_over.get() {
            systemd::tell("STOPPING=1");
        }
        let draining = Rc::new(server::drain_all(&self.engine));
        let limit = Duration::from_millis(DRAIN.load(Ordering::Relaxed));
        let connections = count(draining.connections(), "connection");
        if limit.is_zero() || draining.is_done() {
            log::info("stop").say(format_args!("ending with {connections}"));
            return true;
        }
        log::info("stop").say(format_args!("{connections} may finish within {limit:?}"));
        let late = draining.clone();
        let timer = self.engine.after_exactly(limit, move |_| {
            log::info("stop").say(format_args!("not finished in time: {}", count(late.connections(), "connection")));
            late.close();
        });
        self.drain = Some((draining, timer));
        false
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let drain = self.drain.take();
        for timer in [self.timer.take(), drain.as_ref().map(|(_, timer)| *timer)].into_iter().flatten() {
            self.engine.cancel_timer(timer);
        }
        if let Some(signals) = self.signals.take() {
            signals.stop(&self.engine);
        }
        LOOPS.with(|loops| loops.borrow_mut().retain(|running| !Rc::ptr_eq(running, &self.running)));
        drop(drain);
    }
}

/// Ends all loops of this thread at a signal.
struct Signals {
    interrupts: Interrupts,
    key: Cell<Option<Key>>,
}

impl Signals {
    fn watch(engine: &Rc<Engine>) -> Option<Rc<Self>> {
        let caught = Interrupts::catch().and_then(|interrupts| {
            let Some(interrupts) = interrupts else { return Ok(None) };
            let signals = Rc::new(Signals { interrupts, key: Cell::new(None) });
            let fd = signals.interrupts.as_fd();
            let registration = Registration { input: fd, input_blocks: false, output: None, write: false };
            signals.key.set(Some(engine.register(registration, signals.clone())?));
            Ok(Some(signals))
        });
        caught.unwrap_or_else(|error| {
            log::warning("signals")
                .error(&error)
                .say(format_args!("SIGINT and SIGTERM will not end the loop cleanly: {error}"));
            None
        })
    }

    fn stop(&self, engine: &Rc<Engine>) {
        if let Some(key) = self.key.take() {
            engine.deregister(key);
        }
    }
}

impl Handler for Signals {
    fn ready(self: Rc<Self>, _engine: &Rc<Engine>, _ready: Ready) -> Next {
        let mut count = [0; 8];
        if DRAIN.load(Ordering::Relaxed) == 0 {
            // It stays readable, so that blocking calls of callbacks that are on the stack end as well.
            interrupt();
        } else if matches!(rustix::io::read(&self.interrupts, &mut count), Ok(8)) {
            // The loop goes on, and those calls with it, until the next one.
            for _ in 0..u64::from_ne_bytes(count).min(2) {
                interrupt();
            }
        }
        Next::Idle
    }

    fn context_ended(self: Rc<Self>) {}
}
