//! Running the main loop: in the foreground, in the background, or one step at a time. Here panics of callbacks come out,
//! and SIGINT and SIGTERM end the loop.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};

use crate::engine::{
    Engine, Fairness, Forked, Handler, Interrupts, Key, Next, Ready, Registration, exit_now, fork, main_depth,
    other_threads,
};
use crate::error::{Error, Result};
use crate::server;

static CATCH_SIGNALS: AtomicBool = AtomicBool::new(true);

thread_local! {
    /// The loops that are running on this thread, the innermost last.
    static LOOPS: RefCell<Vec<Rc<Running>>> = const { RefCell::new(Vec::new()) };
}

#[derive(Default)]
struct Running {
    ended: Cell<bool>,
    timed_out: Cell<bool>,
    interrupted: Cell<bool>,
}

/// Runs the thread-default main context until [`endloop`] is called, or the process gets SIGINT or SIGTERM. **Blocks**
/// until then.
///
/// A signal closes the servers of this context as well, which removes the paths of unix sockets. It is only caught if the
/// program has left it at its default, see [`catch_signals`]. Loops may be nested: this may be called from a callback.
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

/// Ends the innermost [`fgloop`], [`fgloop_for`] or [`bgloop`] of this thread. Without one it does nothing.
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
            glib::g_critical!("network", "iteration: {error}");
            return false;
        }
    };
    step(&context, &engine, may_block)
}

/// Whether [`fgloop`] and its kin end at SIGINT and SIGTERM, as they do by default. For the whole process, from the next
/// loop on. A signal for which the program has a handler of its own, or which it ignores, is never touched.
pub fn catch_signals(catch: bool) {
    CATCH_SIGNALS.store(catch, Ordering::Relaxed);
}

/// Sets how the network shares the thread-default main context with the rest of the program.
///
/// The defaults keep a GTK window drawing at full speed whatever the network does, and cost a program without a window
/// next to nothing.
///
/// # Errors
/// [`Error::WrongThread`] if another thread has that context; [`Error::Io`] if the system gives no descriptors.
///
/// ```
/// let mut fairness = network::Fairness::default();
/// fairness.slice = std::time::Duration::from_micros(500);
/// network::set_fairness(&fairness)?;
/// # Ok::<(), network::Error>(())
/// ```
pub fn set_fairness(fairness: &Fairness) -> Result {
    Engine::current()?.set_fairness(fairness);
    Ok(())
}

fn step(context: &glib::MainContext, engine: &Rc<Engine>, may_block: bool) -> bool {
    let outer = engine.enter_loop(Some(main_depth()));
    let done = context.iteration(may_block);
    engine.enter_loop(outer);
    if let Some(panic) = engine.take_panic() {
        resume_unwind(panic);
    }
    done
}

fn run(limit: Option<Duration>) -> bool {
    let context = glib::MainContext::ref_thread_default();
    let engine = match Engine::current() {
        Ok(engine) => engine,
        Err(error) => {
            glib::g_critical!("network", "fgloop: {error}");
            return false;
        }
    };
    let _own = context.acquire();
    let entered = Entered::new(&engine, limit);
    while !entered.running.ended.get() {
        step(&context, &engine, true);
    }
    let running = entered.running.clone();
    drop(entered);
    if running.interrupted.get() && LOOPS.with(|loops| loops.borrow().is_empty()) {
        server::close_all(&engine);
    }
    running.timed_out.get()
}

/// A loop on the stack. Leaving it, by whatever way, takes its timer and its signals with it.
struct Entered {
    engine: Rc<Engine>,
    running: Rc<Running>,
    timer: Option<crate::engine::TimerKey>,
    signals: Option<Rc<Signals>>,
}

impl Entered {
    fn new(engine: &Rc<Engine>, limit: Option<Duration>) -> Self {
        let running = Rc::new(Running::default());
        let timer = limit.map(|limit| {
            let running = running.clone();
            engine.after(limit, move |_| {
                if !running.ended.replace(true) {
                    running.timed_out.set(true);
                }
            })
        });
        let outermost = LOOPS.with(|loops| {
            let mut loops = loops.borrow_mut();
            loops.push(running.clone());
            loops.len() == 1
        });
        let signals = if outermost && CATCH_SIGNALS.load(Ordering::Relaxed) { Signals::watch(engine) } else { None };
        Entered { engine: engine.clone(), running, timer, signals }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.engine.cancel_timer(timer);
        }
        if let Some(signals) = self.signals.take() {
            signals.stop(&self.engine);
        }
        LOOPS.with(|loops| loops.borrow_mut().retain(|running| !Rc::ptr_eq(running, &self.running)));
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
            glib::g_warning!("network", "SIGINT and SIGTERM will not end the loop cleanly: {error}");
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
        LOOPS.with(|loops| {
            for running in loops.borrow().iter() {
                running.interrupted.set(true);
                running.ended.set(true);
            }
        });
        Next::Idle
    }

    fn context_ended(self: Rc<Self>) {}
}

// ---- the background ----

/// Goes into the background, then runs the loop as [`fgloop`] does.
///
/// The process forks. The parent returns control of the terminal, by ending with status 0, only once the child is ready:
/// servers that were made before accept connections from then on, and from before, and Avahi has published those that are
/// services; it prints why if Avahi has not. If the child fails, the parent prints
/// why and ends with status 1. The child leaves the terminal's session and has `/dev/null` as its standard input, output
/// and error; it keeps the working directory.
///
/// With `NETWORK_NO_FORK` set in the environment it stays in the foreground, and says so.
///
/// # Errors
/// [`Error::Threads`] if the process has other threads: they would not exist in the child, their locks would stay locked.
/// [`Error::Io`] if the system refuses to fork.
///
/// # Panics
/// As [`fgloop`].
pub fn bgloop() -> Result {
    if std::env::var_os("NETWORK_NO_FORK").is_some_and(|value| !value.is_empty()) {
        eprintln!("staying in the foreground, because NETWORK_NO_FORK is set");
        fgloop();
        return Ok(());
    }
    let failed =
        |source: std::io::Error| Error::Io { operation: "going into", address: "the background".into(), source };
    let others = other_threads().map_err(failed)?;
    if !others.is_empty() {
        return Err(Error::Threads { others: others.len(), names: others.join(", ") });
    }
    let (readiness, tell) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
    for engine in Engine::all_here() {
        engine.flush();
    }
    match fork().map_err(failed)? {
        Forked::Parent => {
            drop(tell);
            wait_for_child(readiness.into())
        }
        Forked::Child => {
            drop(readiness);
            let mut tell = std::fs::File::from(tell);
            if let Err(error) = settle() {
                let _ = tell.write_all(failed(error).to_string().as_bytes());
                exit_now(1);
            }
            let warning = wait_for_names();
            let _ = tell.write_all(READY).and_then(|()| tell.write_all(warning.as_bytes()));
            drop(tell);
            fgloop();
            Ok(())
        }
    }
}

/// Publishing takes Avahi about a second; some more if names are taken.
const PUBLISHING: Duration = Duration::from_secs(5);

/// What the child writes when it is ready, and warnings after it. Anything else is its error.
const READY: &[u8] = b"\0";

fn wait_for_child(mut readiness: std::fs::File) -> ! {
    let mut word = Vec::new();
    let _ = readiness.read_to_end(&mut word);
    if let Some(warning) = word.strip_prefix(READY) {
        let _ = std::io::stderr().write_all(warning);
        exit_now(0);
    }
    if word.is_empty() {
        word = b"the background process ended before it was ready".to_vec();
    }
    eprintln!("{}", String::from_utf8_lossy(&word));
    exit_now(1);
}

/// Runs the loop until what servers publish is known on the network, or it is clear that it will not be for now. What
/// there is to say of that, the parent says: this process has no terminal any more.
fn wait_for_names() -> String {
    let Ok(engine) = Engine::current() else { return String::new() };
    let late = Rc::new(Cell::new(false));
    let flag = late.clone();
    let timer = engine.after(PUBLISHING, move |_| flag.set(true));
    let context = glib::MainContext::ref_thread_default();
    let complaints = loop {
        match server::unpublished(&engine) {
            Some(complaints) => break complaints,
            None if late.get() => break vec!["Avahi has not published all services yet".into()],
            None => drop(step(&context, &engine, true)),
        }
    };
    engine.cancel_timer(timer);
    complaints.iter().map(|complaint| format!("{complaint}\n")).collect()
}

/// Makes the child a process of its own.
fn settle() -> std::io::Result<()> {
    rustix::process::setsid()?;
    for engine in Engine::all_here() {
        engine.after_fork()?;
    }
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}
