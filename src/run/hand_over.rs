//! Handing over: a successor process takes over the listening sockets while clients keep connecting, and this one finishes.

use std::cell::{Cell, RefCell};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::mainloop::{is_running, shut_down};
use super::pid_file::PidFile;
use super::stand_in::{self, Afterwards};
use super::systemd;
use crate::engine::{Engine, Handler, Key, Next, Ready, Registration, call};
use crate::error::{Error, Operation, Result};
use crate::log;
use crate::server;
use crate::sys::{self, KEEPER, PID_FILE, READINESS, start_successor};

thread_local! {
    static SUCCESSION: RefCell<Option<Rc<Succession>>> = const { RefCell::new(None) };
}

type Done = Box<dyn FnOnce(Result)>;

/// A successor that has been started and is not ready yet.
struct Succession {
    name: String,
    /// Taken when the successor is ready.
    child: RefCell<Option<Child>>,
    afterwards: Cell<Option<Afterwards>>,
    readiness: OwnedFd,
    key: Cell<Option<Key>>,
    report: RefCell<Vec<u8>>,
    /// The number of attempts left to get its exit status.
    looks: Cell<u32>,
    done: Cell<Option<Done>>,
}

/// The attempts to get the exit status of a failed successor, and the time between two of them: its pipe closes first.
const LOOKS: u32 = 100;
const LOOK: Duration = Duration::from_millis(10);

/// Starts a successor process that takes over the listening sockets.
///
/// The successor is a new version of the program, or the same with other settings. It receives the sockets of this
/// context's servers through systemd's protocol (`LISTEN_FDS`) and uses them when it listens on the same addresses; it logs
/// a warning for sockets that it does not use. It is ready when it enters [`fgloop`](crate::fgloop) or
/// [`bgloop`](crate::bgloop). Then `done` is called with `Ok`, and this process ends its loop as on SIGTERM, including the
/// [grace period](crate::daemon::set_grace_period). Clients wait in the backlog meanwhile, and none is refused. Unix socket
/// paths and a pid file pass to the successor. If the successor exits before it is ready, `done` gets the error and this
/// process continues.
///
/// Some process may be waiting for this one: a supervisor, a shell, or the kernel for the first process of a container. So
/// in the foreground without a service manager (`NOTIFY_SOCKET`), and always as process 1, the loop continues until the
/// successor has exited. Meanwhile SIGTERM, SIGINT and SIGHUP are passed on to it. If the successor hands over in turn,
/// this process waits for the last one. With a service manager, that is told the new process ID, and this process exits.
///
/// Under a main loop other than this crate's, such as GTK's, `done` must end the program. The successor inherits the
/// environment, working directory and standard streams. A `program` without a slash is searched in `PATH`.
///
/// # Errors
/// [`Error::Io`] if the program cannot be started. [`Error::Unsupported`] if another successor is still starting, if this
/// process has handed over already, or as process 1 under a main loop other than this crate's. [`Error::WrongThread`].
///
/// # Example: restart on SIGHUP
/// ```no_run
/// network::daemon::on_reload(|| {
///     let mut arguments = std::env::args_os();
///     let program = arguments.next().unwrap_or_default();
///     let started = network::daemon::hand_over_async(program, arguments, |result| match result {
///         Ok(()) => println!("the new process serves"),
///         Err(error) => eprintln!("{error}"),
///     });
///     if let Err(error) = started {
///         eprintln!("{error}");
///     }
/// })?;
/// # Ok::<(), network::Error>(())
/// ```
pub fn hand_over_async<A: Into<OsString>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = A>,
    done: impl FnOnce(Result) + 'static,
) -> Result {
    let engine = Engine::current()?;
    let program = program.as_ref();
    let name = program.to_string_lossy().into_owned();
    if SUCCESSION.with(|succession| succession.borrow().is_some()) {
        return Err(Error::Unsupported(format!("{name}: another successor is still starting")));
    }
    if stand_in::is_standing_in() {
        return Err(Error::Unsupported(format!("{name}: this process has handed over already")));
    }
    if stand_in::is_first_process() && !is_running() {
        let text = "the successor of process 1 would be killed with it; use fgloop, which waits for the successor";
        return Err(Error::Unsupported(format!("{name}: {text}")));
    }
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let failed = |source: io::Error| Error::Io { operation: Operation::HandOver, address: name.clone(), source };
    let (readiness, tell) = sys::pipe(PipeFlags::NONBLOCK).map_err(failed)?;
    let mut descriptors = server::listening(&engine).map_err(failed)?;
    descriptors.push((tell, READINESS.into()));
    let (afterwards, keeper) = Afterwards::choose().map_err(failed)?;
    descriptors.extend(keeper.map(|keeper| (keeper, KEEPER.into())));
    if let Some(pid_file) = PidFile::held() {
        descriptors.push((pid_file.copy().map_err(failed)?, PID_FILE.into()));
    }
    let ours: &[&str] = if systemd::watchdog_is_ours() { &["WATCHDOG_PID"] } else { &[] };
    let child = start_successor(program, &arguments, &descriptors, ours).map_err(failed)?;
    drop(descriptors);
    stand_in::set_starting(Some(child.id()));
    log::info("hand over").peer(&name).say(format_args!("started successor {name}, process {}", child.id()));
    let succession = Rc::new(Succession {
        name: name.clone(),
        child: RefCell::new(Some(child)),
        afterwards: Cell::new(Some(afterwards)),
        readiness,
        key: Cell::new(None),
        report: RefCell::default(),
        looks: Cell::new(LOOKS),
        done: Cell::new(Some(Box::new(done))),
    });
    let registration =
        Registration { input: succession.readiness.as_fd(), input_blocks: false, output: None, write: false };
    succession.key.set(Some(engine.register(registration, succession.clone()).map_err(failed)?));
    SUCCESSION.with(|place| place.replace(Some(succession)));
    Ok(())
}

impl Succession {
    /// Returns the process that serves, once it has reported that; `None` if it has exited without a report.
    fn outcome(&self) -> Option<u32> {
        std::str::from_utf8(&self.report.borrow()).ok()?.strip_suffix('\n')?.parse().ok()
    }

    /// Calls `done` and ends the loop if the successor serves. Its pipe is complete.
    fn conclude(self: Rc<Self>, engine: &Rc<Engine>) {
        let looks = self.looks.get();
        let ended = self.child.borrow_mut().as_mut().map_or(Ok(None), Child::try_wait);
        if self.outcome().is_none() && looks > 0 && matches!(ended, Ok(None)) {
            // It is exiting. Its status is available in a moment, and asking for it prevents a zombie.
            self.looks.set(looks - 1);
            engine.after(LOOK, move |engine| self.conclude(engine));
            return;
        }
        SUCCESSION.with(|place| drop(place.take()));
        stand_in::set_starting(None);
        let result = match self.outcome() {
            Some(pid) => {
                log::info("hand over").peer(&self.name).say(format_args!("handed over to process {pid}"));
                if let (Some(afterwards), Some(child)) = (self.afterwards.take(), self.child.take()) {
                    afterwards.begin(engine, pid, child);
                }
                server::give_paths(engine);
                if let Some(pid_file) = PidFile::held() {
                    pid_file.release();
                }
                Ok(())
            }
            None => {
                let how = ended.ok().flatten().map(|status| format!(" ({status})")).unwrap_or_default();
                let source = io::Error::other(format!("the successor exited before it was ready{how}"));
                Err(Error::Io { operation: Operation::HandOver, address: self.name.clone(), source })
            }
        };
        let is_over = result.is_ok();
        if let Some(done) = self.done.take() {
            call(engine, || done(result));
        }
        if is_over {
            shut_down();
        }
    }
}

impl Handler for Succession {
    fn ready(self: Rc<Self>, engine: &Rc<Engine>, _ready: Ready) -> Next {
        let mut buffer = [0; 64];
        if self.key.get().is_none() {
            return Next::Idle;
        }
        loop {
            match rustix::io::read(&self.readiness, &mut buffer) {
                Ok(count) if count > 0 && self.report.borrow().len() < buffer.len() => {
                    self.report.borrow_mut().extend_from_slice(&buffer[..count]);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if self.outcome().is_none() => return Next::Idle,
                _ => break,
            }
        }
        if let Some(key) = self.key.take() {
            engine.deregister(key);
        }
        self.conclude(engine);
        Next::Idle
    }

    fn context_ended(self: Rc<Self>) {
        self.key.set(None);
        // While the thread ends, the thread-local may be gone.
        let _ = SUCCESSION.try_with(|place| drop(place.take()));
        drop(self.done.take());
    }
}
