//! Handing over: another process takes the listening sockets while clients go on connecting, and this one finishes.

use std::cell::{Cell, RefCell};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::mainloop::retire;
use super::pid_file::PidFile;
use super::systemd;
use crate::engine::{Engine, Handler, Key, Next, Ready, Registration, call};
use crate::error::{Error, Operation, Result};
use crate::log;
use crate::server;
use crate::sys::{PID_FILE, READINESS, start_successor};

thread_local! {
    static SUCCESSION: RefCell<Option<Rc<Succession>>> = const { RefCell::new(None) };
}

type Done = Box<dyn FnOnce(Result)>;

/// A successor that was started and is not ready yet.
struct Succession {
    name: String,
    child: RefCell<Child>,
    readiness: OwnedFd,
    key: Cell<Option<Key>>,
    word: RefCell<Vec<u8>>,
    /// How often its end is looked for.
    looks: Cell<u32>,
    done: Cell<Option<Done>>,
}

/// How often, and after which time each, a successor that has failed is asked for its status.
const LOOKS: u32 = 100;
const LOOK: Duration = Duration::from_millis(10);

/// Starts a process that takes the place of this one, without a moment in which clients are refused: a new version of the
/// program, or the same with other settings.
///
/// It is given the sockets on which the servers of this main context listen, by systemd's protocol (`LISTEN_FDS`), and
/// takes them when it listens on the same addresses; what it does not ask for, it warns of. Once it is ready, which is when
/// it enters [`fgloop`](crate::fgloop) or [`bgloop`](crate::bgloop), `done` is called with `Ok`, from the main loop; then
/// this process ends its loop as it would at SIGTERM, with the time of
/// [`set_grace_period`](crate::daemon::set_grace_period) for its connections. The paths of unix sockets stay, and a pid
/// file goes over. (Under another's loop, as GTK's, `done` has to end the program.) If the successor ends before it is
/// ready, `done` gets the error and all goes on as before.
///
/// The environment, the working directory, and standard input, output and error are this process's. `program` is looked
/// for in `PATH` if it has no slash.
///
/// # Errors
/// [`Error::Io`] if the program cannot be started, [`Error::Unsupported`] while an earlier successor is waited for, and
/// [`Error::WrongThread`].
///
/// ```no_run
/// // At SIGHUP the program is started anew, as it was started before.
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
        return Err(Error::Unsupported(format!("{name}: a successor has been started, and is not ready yet")));
    }
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let failed = |source: io::Error| Error::Io { operation: Operation::HandOver, address: name.clone(), source };
    let (readiness, tell) =
        pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(|error| failed(error.into()))?;
    let mut descriptors = server::listening(&engine).map_err(failed)?;
    descriptors.push((tell, READINESS.into()));
    if let Some(pid_file) = PidFile::held() {
        descriptors.push((pid_file.copy().map_err(failed)?, PID_FILE.into()));
    }
    let ours: &[&str] = if systemd::watchdog_is_ours() { &["WATCHDOG_PID"] } else { &[] };
    let child = start_successor(program, &arguments, &descriptors, ours).map_err(failed)?;
    drop(descriptors);
    log::info("hand over").peer(&name).say(format_args!("process {} of {name} is to take over", child.id()));
    let succession = Rc::new(Succession {
        name: name.clone(),
        child: RefCell::new(child),
        readiness,
        key: Cell::new(None),
        word: RefCell::default(),
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
    /// The process that serves, once it has said so; `None` if it has ended without that.
    fn outcome(&self) -> Option<u32> {
        std::str::from_utf8(&self.word.borrow()).ok()?.strip_suffix('\n')?.parse().ok()
    }

    /// It has said all that it will say.
    fn conclude(self: Rc<Self>, engine: &Rc<Engine>) {
        let looks = self.looks.get();
        let ended = self.child.borrow_mut().try_wait();
        if self.outcome().is_none() && looks > 0 && matches!(ended, Ok(None)) {
            // It is ending: how is known in a moment, and then it is no zombie either.
            self.looks.set(looks - 1);
            engine.after(LOOK, move |engine| self.conclude(engine));
            return;
        }
        SUCCESSION.with(|place| drop(place.take()));
        let result = match self.outcome() {
            Some(pid) => {
                log::info("hand over").peer(&self.name).say(format_args!("process {pid} serves from now on"));
                systemd::tell(&format!("MAINPID={pid}"));
                server::give_paths(engine);
                if let Some(pid_file) = PidFile::held() {
                    pid_file.give();
                }
                Ok(())
            }
            None => {
                let how = ended.ok().flatten().map(|status| format!(" ({status})")).unwrap_or_default();
                let source = io::Error::other(format!("it ended before it was ready{how}"));
                Err(Error::Io { operation: Operation::HandOver, address: self.name.clone(), source })
            }
        };
        let is_over = result.is_ok();
        if let Some(done) = self.done.take() {
            call(engine, || done(result));
        }
        if is_over {
            retire();
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
                Ok(count) if count > 0 && self.word.borrow().len() < buffer.len() => {
                    self.word.borrow_mut().extend_from_slice(&buffer[..count]);
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
        // At the end of the thread there is no such place any more.
        let _ = SUCCESSION.try_with(|place| drop(place.take()));
        drop(self.done.take());
    }
}
