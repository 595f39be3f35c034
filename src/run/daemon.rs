//! Going into the background, with a pid file and a log file, and handing over to a successor.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};

use super::mainloop::{Entered, fgloop, run_entered, step};
use super::pid_file::PidFile;
use super::{reload, systemd};
use crate::avahi::end_threads;
use crate::engine::Engine;
use crate::error::{Error, Operation, Result};
use crate::log;
use crate::server;
use crate::sys::{Forked, exit_now, fork, inherited, other_threads, without_sigpipe};

/// Goes into the background, then runs the loop as [`fgloop`] does.
///
/// The process forks. The parent returns control of the terminal, by ending with status 0, only once the child is ready:
/// servers that were made before accept connections from then on, and from before, and Avahi has published those that are
/// services; it prints why if Avahi has not. If the child fails, the parent prints
/// why and ends with status 1. The child leaves the terminal's session and has `/dev/null` as its standard input, output
/// and error; it keeps the working directory and the umask. If the parent is stopped while it waits, so is the child.
///
/// With `NETWORK_NO_FORK` set in the environment it stays in the foreground, and says so.
///
/// [`Daemon`] does the same with a pid file and a log file.
///
/// # Errors
/// [`Error::OtherThreads`] if the process has other threads: they would not exist in the child, their locks would stay locked.
/// [`Error::Io`] if the system refuses to fork.
///
/// # Panics
/// As [`fgloop`].
pub fn bgloop() -> Result {
    Daemon::new().run()
}

/// A process that goes into the background as by [`bgloop`], with a pid file and a log file if it is to have them.
///
/// Both are opened when they are named, so that what is wrong with them is known first: do that before making servers.
///
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
    /// Neither a pid file nor a log file yet.
    pub fn new() -> Self {
        Daemon::default()
    }

    /// Locks this file, writes the number of the process that serves into it, and removes it at the end. The lock goes with
    /// the process, however that ends, so a file that a killed one has left is in nobody's way.
    ///
    /// # Errors
    /// [`Error::AlreadyRunning`] if another process has it locked; [`Error::Io`] if it cannot be made or written.
    pub fn pid_file(mut self, path: impl AsRef<Path>) -> Result<Self> {
        self.pid_file = Some(PidFile::lock(path.as_ref())?);
        Ok(self)
    }

    /// Appends what the child writes to its standard output and error to this file, GLib's log among it. It is made with
    /// mode 0640 if there is none, and opened anew at each SIGHUP, for those who rotate it away. In the foreground it is
    /// not used.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be made or written.
    pub fn log_file(mut self, path: impl AsRef<Path>) -> Result<Self> {
        self.log_file = Some(LogFile::open(path.as_ref())?);
        Ok(self)
    }

    /// Goes into the background and runs the loop there, as [`bgloop`] says.
    ///
    /// # Errors
    /// As [`bgloop`].
    ///
    /// # Panics
    /// As [`fgloop`].
    pub fn run(self) -> Result {
        let Daemon { pid_file, log_file } = self;
        // Until the end of this call.
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
        let others = other_threads().map_err(failed)?;
        if !others.is_empty() {
            return Err(Error::OtherThreads { others: others.len(), names: others.join(", ") });
        }
        let parent = rustix::process::getpid().as_raw_nonzero().get();
        let (readiness, tell) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        Engine::flush_here();
        // What was passed in was passed to this process, not to the next.
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
                    // Whoever started us has been stopped meanwhile, and does not expect a daemon any more.
                    give_up(pid_file.as_deref());
                }
                drop(tell);
                run_entered(entered);
                Ok(())
            }
        }
    }
}

fn failed(source: io::Error) -> Error {
    Error::Io { operation: Operation::Background, address: "the background".into(), source }
}

/// Makes the child a process of its own, and has it ready. Gives back what there is to say of that.
fn begin(log_file: Option<LogFile>, pid_file: Option<&PidFile>) -> Result<(Entered, String)> {
    let engine = Engine::current()?;
    let settled = settle(log_file.as_ref()).map_err(failed);
    // From here on a signal is an end like any other.
    let entered = Entered::new(&engine, None);
    settled?;
    if let Some(log_file) = log_file {
        let reopened = reload::first(move || log_file.reopen());
        if let Err(error) = reopened {
            log::warning("log file").error(&error).say(format_args!("the log file will not be opened anew: {error}"));
        }
    }
    if let Some(pid_file) = pid_file {
        pid_file.write()?;
    }
    let warning = wait_for_names(&engine, &entered);
    if entered.is_interrupted() {
        return Err(failed(io::Error::new(io::ErrorKind::Interrupted, "told to end before it was ready")));
    }
    Ok((entered, warning))
}

/// Ends a child that is not wanted or has failed, without a trace of it.
fn give_up(pid_file: Option<&PidFile>) -> ! {
    if let Ok(engine) = Engine::current() {
        server::close_all(&engine);
    }
    if let Some(pid_file) = pid_file {
        pid_file.remove();
    }
    exit_now(1)
}

/// Publishing takes Avahi about a second; some more if names are taken.
const PUBLISHING: Duration = Duration::from_secs(5);

/// What the child writes when it is ready, and warnings after it. Anything else is its error.
const READY: &[u8] = b"\0";

fn wait_for_child(mut readiness: File, child: i32) -> ! {
    let mut word = Vec::new();
    let _ = readiness.read_to_end(&mut word);
    if let Some(warning) = word.strip_prefix(READY) {
        let _ = io::stderr().write_all(warning);
        // Whoever supervises us believes nobody else yet.
        systemd::tell(&format!("MAINPID={child}\nREADY=1"));
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
fn wait_for_names(engine: &Rc<Engine>, entered: &Entered) -> String {
    let late = Rc::new(Cell::new(false));
    let flag = late.clone();
    let timer = engine.after(PUBLISHING, move |_| flag.set(true));
    let context = glib::MainContext::ref_thread_default();
    let complaints = loop {
        match server::unpublished(engine) {
            Some(complaints) => break complaints,
            None if late.get() => break vec!["Avahi has not published all services yet".into()],
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

fn use_for_output(file: &File) -> io::Result<()> {
    rustix::stdio::dup2_stdout(file)?;
    rustix::stdio::dup2_stderr(file)?;
    Ok(())
}

/// Where the standard output and error of the child go.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    fn open(path: &Path) -> Result<Self> {
        let failed =
            |source| Error::Io { operation: Operation::OpenLogFile, address: path.display().to_string(), source };
        // The working directory may be another one when it is opened again.
        let path = std::path::absolute(path).map_err(failed)?;
        let file = open_log(&path).map_err(failed)?;
        Ok(LogFile { path, file })
    }

    fn use_it(&self) -> io::Result<()> {
        use_for_output(&self.file)
    }

    /// Goes on in the file that has the name now.
    fn reopen(&self) {
        let _ = io::stdout().flush();
        if let Err(error) = open_log(&self.path).and_then(|file| use_for_output(&file)) {
            let path = self.path.display();
            let event = log::warning("log file").error(&error);
            event.say(format_args!("{path} cannot be opened anew, the one before is used on: {error}"));
        }
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}
