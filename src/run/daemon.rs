//! Daemonizing: the fork into the background, with a pid file and a log file.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use rustix::pipe::PipeFlags;

use super::log_file::{LogFile, use_for_output};
use super::mainloop::{Entered, fgloop, run_entered, step};
use super::pid_file::PidFile;
use super::{reload, systemd};
use crate::avahi::{end_threads, unpublished};
use crate::engine::Engine;
use crate::error::{Error, Operation, Result};
use crate::log;
use crate::resolve::{LOOKUP_THREAD, wait_for_lookups};
use crate::server;
use crate::sys::{self, Forked, exit_now, fork, inherited, other_threads, without_sigpipe};

/// Forks into the background, then runs the main loop.
///
/// The parent exits with status 0 once the child is ready: servers accept connections and services are published, or it has
/// printed why they are not. If the child fails, the parent prints the error and exits with status 1. If the parent is
/// interrupted while it waits, the child exits too. The child starts a new session and uses `/dev/null` for its standard
/// streams; it keeps the working directory, umask and environment.
///
/// If `NETWORK_NO_FORK` is set in the environment, the process stays in the foreground and says so. Create servers before
/// this call, and threads after it. [`Daemon`] adds a pid file and a log file.
///
/// # Blocking
/// Until the loop ends, in the child.
///
/// # Errors
/// [`Error::OtherThreads`] if the process has other threads, which would not survive the fork. [`Error::Io`] if the fork
/// fails, or if `/proc` is missing, where threads are counted.
///
/// # Panics
/// See [`fgloop`].
///
/// # Example: a daemon that a shell script can wait for
/// ```no_run
/// let server = network::Server::new("1234", |socket| socket.sendline("Welcome!"))?;
/// network::bgloop()?;
/// # Ok::<(), network::Error>(())
/// ```
pub fn bgloop() -> Result {
    Daemon::new().run()
}

/// Options for a process that forks into the background.
///
/// Both files are opened when they are set, so set them before creating servers: then their errors are reported first.
///
/// # Example
/// ```no_run
/// let daemon = network::daemon::Daemon::new().pid_file("/run/chat.pid")?.log_file("/var/log/chat.log")?;
/// let server = network::Server::new("1234", |socket| socket.sendline("Welcome!"))?;
/// daemon.run()?;
/// # Ok::<(), network::Error>(())
/// ```
#[derive(Debug, Default)]
#[must_use = "it does nothing before run()"]
pub struct Daemon {
    pid_file: Option<PidFile>,
    log_file: Option<LogFile>,
}

impl Daemon {
    /// Creates a daemon without a pid file and without a log file.
    pub fn new() -> Self {
        Daemon::default()
    }

    /// Locks this file and writes the process ID into it. The file is removed at the end.
    ///
    /// The lock ends with the process, so a file left by a killed process does no harm. The file gets mode 0600: whoever
    /// can open it can lock it, and would keep the next daemon from starting. If the file system has no locks, a warning
    /// is logged, and a second instance is not noticed. A failure to remove the file, for example after `setuid`, is
    /// logged too. A forked child leaves the file alone, other than that of [`run`](Daemon::run).
    ///
    /// # Errors
    /// [`Error::AlreadyRunning`] if another process holds the lock. [`Error::Io`] if the file cannot be created or
    /// written, or if it cannot be a pid file: an existing file must be a regular file of this user with one name, empty
    /// or containing a number. Anything else is left as it is.
    pub fn pid_file(mut self, path: impl AsRef<Path>) -> Result<Self> {
        sys::prepare_process();
        self.pid_file = Some(PidFile::lock(path.as_ref())?);
        Ok(self)
    }

    /// Appends the child's standard output and standard error, and so GLib's log, to this file.
    ///
    /// The file is created with mode 0640 if it does not exist, and reopened on each SIGHUP, so that it can be rotated. It
    /// can be a terminal, a device, or a FIFO that is being read. A symbolic link is followed only if it belongs to this
    /// user or to root. The file is not used in the foreground.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be created or opened for appending, or if it is a FIFO that no process reads.
    pub fn log_file(mut self, path: impl AsRef<Path>) -> Result<Self> {
        sys::prepare_process();
        self.log_file = Some(LogFile::open(path.as_ref())?);
        Ok(self)
    }

    /// Forks into the background, then runs the main loop. See [`bgloop`].
    ///
    /// # Blocking
    /// Until the loop ends, in the child.
    ///
    /// # Errors
    /// See [`bgloop`]. [`Error::Io`] if the pid file cannot be written.
    ///
    /// # Panics
    /// See [`fgloop`].
    pub fn run(self) -> Result {
        let Daemon { pid_file, log_file } = self;
        // Held until the end of this call.
        let pid_file = pid_file.map(PidFile::hold);
        if std::env::var_os("NETWORK_NO_FORK").is_some_and(|value| !value.is_empty()) {
            eprintln!("staying in the foreground, because NETWORK_NO_FORK is set");
            if let Some(pid_file) = &pid_file {
                pid_file.write()?;
            }
            fgloop();
            return Ok(());
        }
        end_threads();
        #[cfg(any(feature = "ftp", feature = "http"))]
        crate::engine::end_sync_threads();
        let lookups = wait_for_lookups(LOOKUPS);
        let others = other_threads().map_err(failed)?;
        if !others.is_empty() {
            let lookups = lookups.iter().map(|host| format!("looking up {host}"));
            let names: Vec<_> = others.iter().filter(|name| *name != LOOKUP_THREAD).cloned().chain(lookups).collect();
            return Err(Error::OtherThreads { others: others.len(), names: names.join(", ") });
        }
        let parent = rustix::process::getpid().as_raw_nonzero().get();
        let (readiness, tell) = sys::pipe(PipeFlags::empty()).map_err(failed)?;
        Engine::flush_here();
        // Sockets passed by a service manager were passed to this process ID, not to the child's.
        drop(inherited());
        match fork().map_err(failed)? {
            Forked::Parent(child) => {
                drop(tell);
                wait_for_child(readiness.into(), child)
            }
            Forked::Child => {
                drop(readiness);
                systemd::forked_from(parent);
                let mut tell = File::from(tell);
                let (entered, warning) = begin(log_file, pid_file.as_deref()).unwrap_or_else(|error| {
                    let _ = without_sigpipe(|| tell.write_all(error.to_string().as_bytes()));
                    give_up(pid_file.as_deref())
                });
                if without_sigpipe(|| tell.write_all(&[READY, warning.as_bytes()].concat())).is_err() {
                    // The parent was interrupted, so nobody expects a daemon any more.
                    give_up(pid_file.as_deref());
                }
                drop(tell);
                run_entered(entered);
                Ok(())
            }
        }
    }
}

/// A lookup that has just been given up, or whose other answer is still awaited, mostly ends within this time.
const LOOKUPS: Duration = Duration::from_secs(1);

fn failed(source: io::Error) -> Error {
    Error::Io { operation: Operation::Background, address: "the background".into(), source }
}

/// Detaches the child from its parent and makes it ready. Returns warnings for the parent to print.
fn begin(log_file: Option<LogFile>, pid_file: Option<&PidFile>) -> Result<(Entered, String)> {
    let engine = Engine::current()?;
    let settled = settle(log_file.as_ref()).map_err(failed);
    // From here on a signal is handled as in any loop.
    let entered = Entered::new(&engine, None);
    settled?;
    if let Some(log_file) = log_file {
        let reopened = reload::set_own(move || log_file.reopen());
        if let Err(error) = reopened {
            log::warning("log file")
                .error(&error)
                .say(format_args!("log file will not be reopened on SIGHUP: {error}"));
        }
    }
    if let Some(pid_file) = pid_file {
        pid_file.write()?;
    }
    let warning = wait_for_names(&engine, &entered);
    if entered.is_interrupted() {
        return Err(failed(io::Error::new(io::ErrorKind::Interrupted, "interrupted before it was ready")));
    }
    Ok((entered, warning))
}

/// Exits from a child that has failed or is not expected any more, and removes what it has created.
fn give_up(pid_file: Option<&PidFile>) -> ! {
    if let Ok(engine) = Engine::current() {
        server::close_all(&engine);
    }
    if let Some(pid_file) = pid_file {
        pid_file.remove();
    }
    exit_now(1)
}

/// The time limit for publishing services. Avahi needs about one second, and more if names are taken.
const PUBLISHING: Duration = Duration::from_secs(5);

/// The first byte that a ready child writes; warnings follow. Anything else is an error message.
const READY: &[u8] = b"\0";

fn wait_for_child(mut readiness: File, child: i32) -> ! {
    let mut word = Vec::new();
    let _ = readiness.read_to_end(&mut word);
    if let Some(warning) = word.strip_prefix(READY) {
        let _ = io::stderr().write_all(warning);
        // The service manager accepts messages only from its main process, which is still this one.
        systemd::tell(&format!("MAINPID={child}\nREADY=1"));
        exit_now(0);
    }
    if word.is_empty() {
        word = b"the background process exited before it was ready".to_vec();
    }
    eprintln!("{}", String::from_utf8_lossy(&word));
    exit_now(1);
}

/// Runs the loop until all services are published or have failed to be, and returns the failures. The parent prints them,
/// because this process has no terminal any more.
fn wait_for_names(engine: &Rc<Engine>, entered: &Entered) -> String {
    let late = Rc::new(Cell::new(false));
    let flag = late.clone();
    let timer = engine.after(PUBLISHING, move |_| flag.set(true));
    let context = glib::MainContext::ref_thread_default();
    let complaints = loop {
        match unpublished(engine) {
            Some(complaints) => break complaints,
            None if late.get() => break vec!["some services are not published yet".into()],
            None if entered.is_interrupted() => break Vec::new(),
            None => drop(step(&context, engine, true)),
        }
    };
    engine.cancel_timer(timer);
    complaints.iter().map(|complaint| format!("{complaint}\n")).collect()
}

fn settle(log_file: Option<&LogFile>) -> io::Result<()> {
    rustix::process::setsid()?;
    for engine in Engine::all_here() {
        engine.after_fork()?;
    }
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    match log_file {
        Some(log_file) => log_file.use_it(),
        None => use_for_output(&null),
    }
}
