//! Notifications to the service manager by systemd's protocol (`sd_notify`): ready, reloading, stopping, and the watchdog.
//! Without `NOTIFY_SOCKET` in the environment, none is sent.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::stand_in;
use crate::address::endpoint;
use crate::engine::{Engine, TimerKey};
use crate::error::{Error, Operation, Result};
use crate::log;
use crate::sys::{self, KEEPER, OWN_SOCKET, PID_FILE, READINESS, inherited, take_inherited, without_sigpipe};

/// The parent of a process that has daemonized, or 0.
static FORKED_FROM: AtomicI32 = AtomicI32::new(0);

/// Sends a notification to the service manager by systemd's protocol. Returns false if there is no service manager.
///
/// `READY=1`, `STOPPING=1`, `RELOADING=1` and `WATCHDOG=1` are sent automatically by [`fgloop`](crate::fgloop),
/// [`bgloop`](crate::bgloop) and [`on_reload`](crate::daemon::on_reload). A program that runs the main loop by other means
/// sends the first two itself.
///
/// # Blocking
/// Up to 0.1 s if the service manager does not read.
///
/// # Errors
/// [`Error::Io`] if `NOTIFY_SOCKET` is set and the notification cannot be sent. The socket must be a path or an abstract
/// name; `vsock:` is not supported.
///
/// # Example
/// ```
/// network::daemon::notify_systemd("STATUS=serving 3 clients")?;
/// # Ok::<(), network::Error>(())
/// ```
pub fn notify_systemd(state: &str) -> Result<bool> {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return Ok(false) };
    match send(socket.as_bytes(), state) {
        Ok(()) => Ok(true),
        Err(source) => {
            let address = String::from_utf8_lossy(&socket.into_vec()).into_owned();
            Err(Error::Io { operation: Operation::Notify, address, source })
        }
    }
}

/// Returns whether there is a service manager to notify.
pub(super) fn is_there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty())
}

/// Returns whether this process has gone into the background.
pub(super) fn is_background() -> bool {
    FORKED_FROM.load(Ordering::Relaxed) != 0
}

fn send(socket: &[u8], state: &str) -> io::Result<()> {
    let address = match socket {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        // Virtual machines have vsock:2:1234.
        other if !other.starts_with(b"/") => {
            let text = "expected an absolute path or @name; other kinds of sockets are not supported";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        path => SocketAddrUnix::new(path)?,
    };
    let flags = SocketFlags::CLOEXEC;
    let fd = sys::socket(AddressFamily::UNIX, SocketType::DGRAM, flags)?;
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = sys::send_to(&fd, state.as_bytes(), flags, &address);
    if sent == Err(Errno::AGAIN) {
        // Its queue is full. A service manager that does not read must not block the program.
        let moment = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&moment))?;
        sys::send_to(&fd, state.as_bytes(), flags, &address)?;
        return Ok(());
    }
    sent?;
    Ok(())
}

/// Sends a notification, and logs the first failure.
pub(crate) fn tell(state: &str) {
    if let Err(error) = notify_systemd(state) {
        static ONCE: AtomicBool = AtomicBool::new(false);
        if !ONCE.swap(true, Ordering::Relaxed) {
            log::warning("notify").error(&error).say(format_args!("failed to notify the service manager: {error}"));
        }
    }
}

/// Notes that this process has daemonized.
pub(crate) fn forked_from(parent: i32) {
    FORKED_FROM.store(parent, Ordering::Relaxed);
}

/// Reports, once, to all that wait for it that the loop runs and the servers accept. Warns of passed sockets without a use.
pub(crate) fn ready() {
    static ONCE: AtomicBool = AtomicBool::new(false);
    if ONCE.swap(true, Ordering::Relaxed) {
        return;
    }
    stand_in::report();
    if let Some(predecessor) = take_inherited(|inherited| inherited.name == READINESS) {
        // The predecessor may have exited.
        let _ = without_sigpipe(|| writeln!(File::from(predecessor.fd), "{}", std::process::id()));
    }
    let unclaimed: Vec<_> =
        inherited().iter().filter(|one| ![PID_FILE, KEEPER].contains(&one.name.as_str())).map(describe).collect();
    for socket in &unclaimed {
        log::warning("listen").peer(socket).say(format_args!("unused socket passed by the service manager: {socket}"));
    }
    tell("READY=1");
}

fn describe(inherited: &crate::sys::Inherited) -> String {
    let fd = &inherited.fd;
    let number = std::os::fd::AsRawFd::as_raw_fd(fd);
    let what = match sys::local_address(fd) {
        Ok(local) => endpoint(local).to_string(),
        Err(_) => "not a socket".into(),
    };
    match inherited.name.as_str() {
        OWN_SOCKET | "unknown" => format!("{what} (descriptor {number})"),
        name => format!("{what} (descriptor {number}, named {name:?})"),
    }
}

/// Notifies the service manager that settings are about to be reloaded.
pub(crate) fn reloading() {
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", glib::monotonic_time()));
}

/// Returns whether `WATCHDOG_PID` is this process, or the one from which it has daemonized.
pub(crate) fn watchdog_is_ours() -> bool {
    let pid = std::env::var("WATCHDOG_PID").ok().and_then(|pid| pid.parse::<i32>().ok());
    let own = rustix::process::getpid().as_raw_nonzero().get();
    pid.is_none_or(|pid| pid == own || pid == FORKED_FROM.load(Ordering::Relaxed))
}

/// Sends `WATCHDOG=1` from the main loop, at half the interval that the service manager allows, until it is dropped.
pub(crate) struct Watchdog {
    engine: Rc<Engine>,
    interval: Duration,
    timer: Cell<Option<TimerKey>>,
}

impl Watchdog {
    /// Returns `None` if the service manager does not use a watchdog.
    pub(crate) fn start(engine: &Rc<Engine>) -> Option<Rc<Watchdog>> {
        let limit = std::env::var("WATCHDOG_USEC").ok()?.parse::<u64>().ok().filter(|limit| *limit > 0)?;
        if !is_there() || !watchdog_is_ours() {
            return None;
        }
        let interval = Duration::from_micros((limit / 2).max(1000));
        let watchdog = Rc::new(Watchdog { engine: engine.clone(), interval, timer: Cell::new(None) });
        watchdog.ping();
        Some(watchdog)
    }

    fn ping(self: &Rc<Self>) {
        tell("WATCHDOG=1");
        let weak: Weak<Self> = Rc::downgrade(self);
        let timer = self.engine.after_exactly(self.interval, move |_| {
            if let Some(watchdog) = weak.upgrade() {
                watchdog.ping();
            }
        });
        self.timer.set(Some(timer));
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.engine.cancel_timer(timer);
        }
    }
}
