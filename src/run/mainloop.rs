//! The main loop: run until it is ended, for a time, or one iteration at a time. Panics of callbacks propagate from here, and
//! SIGINT and SIGTERM end the loop.

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use super::stand_in;
use super::systemd::{self, Watchdog};
use crate::engine::{Engine, Fairness, Handler, Iterations, Key, Next, Ready, Registration, TimerKey, turn};
use crate::error::{Result, count, os_text};
use crate::link;
use crate::log;
use crate::server::{self, Draining};
use crate::sys::Interrupts;

static CATCH_SIGNALS: AtomicBool = AtomicBool::new(true);

/// The time that connections get after a signal, in milliseconds.
static GRACE_PERIOD: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The loops that are running on this thread, the innermost last.
    static LOOPS: RefCell<Vec<Rc<Running>>> = const { RefCell::new(Vec::new()) };
}

/// A loop that is running, or has ended.
#[derive(Default)]
pub(super) struct Running {
    ended: Cell<bool>,
    timed_out: Cell<bool>,
    /// The number of signals received.
    interrupts: Cell<u32>,
    /// A successor serves.
    handed_over: Cell<bool>,
}

impl Running {
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupts.get() > 0
    }

    pub(super) fn is_handed_over(&self) -> bool {
        self.handed_over.get()
    }
}

/// Runs the main loop until [`endloop`] is called or SIGINT or SIGTERM arrives.
///
/// A signal also closes the servers and the [links](crate::Link) of this context, which removes the paths of unix sockets. The
/// connections of servers get the [grace period](crate::daemon::set_grace_period) first, if one is set. A second signal ends the loop at once and aborts
/// the remaining connections. Signals that the program handles or ignores are left alone, see [`set_signal_handling`]; one
/// that is blocked in every thread causes a warning. A signal to a forked child ends the child only. Loops may be nested.
///
/// Under systemd, the outermost loop sends `READY=1` when it starts, `STOPPING=1` on a signal, and `WATCHDOG=1` regularly.
///
/// # Blocking
/// Until the loop ends.
///
/// # Panics
/// Propagates a panic of a callback. The loop can be run again.
pub fn fgloop() {
    run(None);
}

/// Runs the main loop for at most `limit`. Returns true if the time limit ended it, and false otherwise. See [`fgloop`].
///
/// # Blocking
/// Until the loop ends.
///
/// # Panics
/// See [`fgloop`].
///
/// # Example
/// ```
/// use std::time::Duration;
///
/// assert!(network::fgloop_for(Duration::from_millis(1)));
/// ```
pub fn fgloop_for(limit: Duration) -> bool {
    run(Some(limit))
}

/// Ends the innermost [`fgloop`], [`fgloop_for`], [`block_on`](crate::block_on) or [`bgloop`](crate::bgloop) of this thread.
/// Without one, it has no effect.
pub fn endloop() {
    let innermost = LOOPS.with(|loops| loops.borrow().last().cloned());
    if let Some(running) = innermost {
        running.ended.set(true);
    }
}

/// Runs one iteration of the thread-default main context. Returns true if anything was dispatched.
///
/// # Blocking
/// If `may_block`, until a source is ready. Otherwise it returns at once.
///
/// # Panics
/// See [`fgloop`].
pub fn iteration(may_block: bool) -> bool {
    let engine = match Engine::current() {
        Ok(engine) => engine,
        Err(error) => {
            log::critical("iterate").error(&error).say(format_args!("iteration: {error}"));
            return false;
        }
    };
    let context = glib::MainContext::ref_thread_default();
    step(&context, &engine, may_block)
}

/// Sets whether [`fgloop`], [`fgloop_for`], [`block_on`](crate::block_on) and [`bgloop`](crate::bgloop) end on SIGINT and
/// SIGTERM. Default: true.
///
/// Applies to the whole process, from the next loop on. A signal that the program handles or ignores is left alone.
pub fn set_signal_handling(catch: bool) {
    CATCH_SIGNALS.store(catch, Ordering::Relaxed);
}

/// Sets how long connections may continue after SIGINT or SIGTERM. Default: zero, which ends the loop at once.
///
/// With a grace period, the first signal stops the servers from accepting. The loop ends when the last connection of a
/// server has ended, or when the period expires. The remaining connections are then closed as by
/// [`close`](crate::Socket::close), and their disconnect callbacks run. A second signal aborts them. Applies to the whole
/// process, from the next signal on.
///
/// # Example: give clients thirty seconds
/// ```
/// network::daemon::set_grace_period(std::time::Duration::from_secs(30));
/// ```
pub fn set_grace_period(limit: Duration) {
    GRACE_PERIOD.store(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Sets how connections share the thread-default main context with the rest of the program.
///
/// The defaults keep a GTK window drawing at full speed under any network load, and cost a program without a window next to
/// nothing.
///
/// # Errors
/// [`Error::WrongThread`](crate::Error::WrongThread) if another thread owns the main context.
/// [`Error::Io`](crate::Error::Io) if no file descriptors are left.
///
/// # Example
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

/// Runs one iteration by GLib's own means.
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

/// Runs a loop that has been entered before, and has received signals since then.
pub(crate) fn run_entered(entered: Entered) -> bool {
    run_for(entered, || Work::Goes).is_some_and(|ended| ended.timed_out.get())
}

/// The state of the work for which a loop runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// The program is not ready yet.
    Starting,
    Goes,
    Done,
}

/// Runs a loop until it is ended or its work is done. `None` if another thread runs the context.
pub(super) fn run_for(mut entered: Entered, work: impl Fn() -> Work) -> Option<Rc<Running>> {
    let context = glib::MainContext::ref_thread_default();
    let engine = entered.engine.clone();
    let mut turns = Iterations::new(&engine, &context)?;
    let mut watchdog = None;
    loop {
        let work = work();
        if entered.is_outermost && watchdog.is_none() && work != Work::Starting {
            systemd::ready();
            watchdog = Some(Watchdog::start(&engine));
        }
        entered.attend();
        // After a signal, the connections have the rest of their time.
        let is_done = work == Work::Done && !entered.is_interrupted();
        // Where a callback has destroyed the source of the network, nothing could end the loop any more.
        if is_done || entered.running.ended.get() || engine.has_ended() {
            break;
        }
        turn(&engine, || turns.next());
    }
    drop(watchdog);
    let running = entered.running.clone();
    let is_outermost = entered.is_outermost;
    drop(entered);
    if is_outermost && running.is_interrupted() {
        server::close_all(&engine);
        link::close_all(&engine);
    }
    Some(running)
}

/// Ends the outermost loop of this thread as on a signal, because a successor serves.
pub(crate) fn shut_down() {
    LOOPS.with(|loops| {
        if let Some(outermost) = loops.borrow().first() {
            outermost.handed_over.set(true);
        }
    });
    // After a signal it is ending already, and a second one would abort the connections.
    if !LOOPS.with(|loops| loops.borrow().iter().any(|running| running.is_interrupted())) {
        interrupt();
    }
}

/// Returns whether a loop of ours runs on this thread.
pub(crate) fn is_running() -> bool {
    LOOPS.with(|loops| !loops.borrow().is_empty())
}

fn interrupt() {
    LOOPS.with(|loops| {
        for (depth, running) in loops.borrow().iter().enumerate() {
            running.interrupts.set(running.interrupts.get() + 1);
            // The outermost one does the rest.
            if depth > 0 {
                running.ended.set(true);
            }
        }
    });
}

/// A loop that has been entered. Dropping it, also by a panic, removes its timers and its signal watch.
pub(crate) struct Entered {
    engine: Rc<Engine>,
    running: Rc<Running>,
    timer: Option<TimerKey>,
    signals: Option<Rc<Signals>>,
    is_outermost: bool,
    /// Set from a signal until the connections have ended.
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
        self.running.is_interrupted()
    }

    /// Acts on signals that have arrived.
    fn attend(&mut self) {
        if !self.is_outermost || self.running.ended.get() {
            return;
        }
        let done = match (self.running.interrupts.get(), &self.drain) {
            (0, _) => return,
            (1, None) => self.stop(),
            (1, Some((draining, _))) => draining.is_done() && !stand_in::is_standing_in(),
            (_, drain) => {
                log::info("stop").say(format_args!("second signal: aborting the remaining connections"));
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

    /// Stops accepting. Returns true if the loop can end at once.
    fn stop(&mut self) -> bool {
        if !self.running.is_handed_over() {
            systemd::tell("STOPPING=1");
        }
        let draining = Rc::new(server::drain_all(&self.engine));
        let limit = Duration::from_millis(GRACE_PERIOD.load(Ordering::Relaxed));
        let connections = count(draining.connections(), "connection");
        let stays = stand_in::is_standing_in();
        if (limit.is_zero() || draining.is_done()) && !stays {
            log::info("stop").say(format_args!("stopping; closing {connections}"));
            return true;
        }
        let until = if stays { ", and then for the successor to exit" } else { "" };
        let seconds = limit.as_secs_f64();
        log::info("stop").say(format_args!("stopping; waiting up to {seconds} s for {connections}{until}"));
        let late = draining.clone();
        let timer = self.engine.after_exactly(limit, move |_| {
            let left = late.connections();
            if left > 0 {
                log::info("stop").say(format_args!("grace period expired; closing {}", count(left, "connection")));
            }
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

/// Ends all loops of this thread on a signal.
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
            warn_of_blocked();
            Ok(Some(signals))
        });
        caught.unwrap_or_else(|error| {
            log::warning("signals")
                .error(&error)
                .say(format_args!("cannot handle SIGINT and SIGTERM, they will end the process: {}", os_text(&error)));
            None
        })
    }

    fn stop(&self, engine: &Rc<Engine>) {
        if let Some(key) = self.key.take() {
            engine.deregister(key);
        }
    }
}

/// Warns once if a signal cannot end the loop because every thread blocks it. Blocked signals are inherited.
fn warn_of_blocked() {
    static ONCE: AtomicBool = AtomicBool::new(false);
    let blocked = Interrupts::blocked();
    if !blocked.is_empty() && !ONCE.swap(true, Ordering::Relaxed) {
        let names = blocked.join(" and ");
        log::warning("signals").say(format_args!(
            "{names} blocked in every thread, perhaps by the parent process; the loop will not end on it"
        ));
    }
}

impl Handler for Signals {
    fn ready(self: Rc<Self>, _engine: &Rc<Engine>, _ready: Ready) -> Next {
        let mut count = [0; 8];
        if stand_in::is_standing_in() {
            if matches!(rustix::io::read(&self.interrupts, &mut count), Ok(8)) {
                for _ in 0..u64::from_ne_bytes(count).min(2) {
                    stand_in::forward(Signal::TERM);
                }
            }
            return Next::Idle;
        }
        stand_in::end_starting();
        if GRACE_PERIOD.load(Ordering::Relaxed) == 0 {
            // The descriptor stays readable, so that blocking calls in callbacks on the stack fail too.
            interrupt();
        } else if matches!(rustix::io::read(&self.interrupts, &mut count), Ok(8)) {
            // The loop and such calls continue until the next signal.
            for _ in 0..u64::from_ne_bytes(count).min(2) {
                interrupt();
            }
        }
        Next::Idle
    }

    fn context_ended(self: Rc<Self>) {}
}
