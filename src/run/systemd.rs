//! What a service manager is told, by systemd's protocol (`sd_notify`): ready, loading anew, stopping, and that the loop is
//! alive. Without `NOTIFY_SOCKET` in the environment none of it does anything.

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

use crate::address::endpoint;
use crate::engine::{Engine, TimerKey};
use crate::error::{Error, Operation, Result};
use crate::log;
use crate::sys::{OWN_SOCKET, PID_FILE, READINESS, inherited, take_inherited};

/// The process that this one was forked from to go into the background. 0: none.
static FORKED_FROM: AtomicI32 = AtomicI32::new(0);

/// Tells the service manager something by systemd's protocol, as `STATUS=serving 3 clients`. False if there is none: then
/// nothing is done. Does not block, but for a tenth of a second at most if the service manager
/// does not read.
///
/// `READY=1`, `STOPPING=1`, `RELOADING=1` and `WATCHDOG=1` go out by themselves, from [`fgloop`](crate::fgloop) and its kin
/// and from [`on_reload`](crate::daemon::on_reload); a program that runs the loop by other means tells the first two itself.
///
/// # Errors
/// [`Error::Io`] if `NOTIFY_SOCKET` is set, and leads nowhere.
///
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

fn send(socket: &[u8], state: &str) -> io::Result<()> {
    let address = match socket {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        path => SocketAddrUnix::new(path)?,
    };
    let flags = SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = rustix::net::sendto(&fd, state.as_bytes(), flags, &address);
    if sent == Err(Errno::AGAIN) {
        // Its queue is full. It gets a moment, but one that does not read must not stop us.
        let moment = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&moment))?;
        rustix::net::sendto(&fd, state.as_bytes(), flags, &address)?;
        return Ok(());
    }
    sent?;
    Ok(())
}

/// As [`notify_systemd`], where nobody is there to hear of a failure.
pub(crate) fn tell(state: &str) {
    if let Err(error) = notify_systemd(state) {
        static ONCE: AtomicBool = AtomicBool::new(false);
        if !ONCE.swap(true, Ordering::Relaxed) {
            log::warning("notify").error(&error).say(format_args!("the service manager is not told: {error}"));
        }
    }
}

/// This process goes on for the one that was started.
pub(crate) fn forked_from(parent: i32) {
    FORKED_FROM.store(parent, Ordering::Relaxed);
}

/// The loop runs and the servers accept: tells whoever waits for that, once, and names the sockets that nobody took.
pub(crate) fn ready() {
    static ONCE: AtomicBool = AtomicBool::new(false);
    if ONCE.swap(true, Ordering::Relaxed) {
        return;
    }
    if let Some(predecessor) = take_inherited(|inherited| inherited.name == READINESS) {
        // It may have gone.
        let _ = writeln!(File::from(predecessor.fd), "{}", std::process::id());
    }
    let unclaimed: Vec<_> = inherited().iter().filter(|one| one.name != PID_FILE).map(describe).collect();
    for socket in &unclaimed {
        log::warning("listen").peer(socket).say(format_args!("nothing here listens on what was passed in: {socket}"));
    }
    tell("READY=1");
}

fn describe(inherited: &crate::sys::Inherited) -> String {
    let fd = &inherited.fd;
    let number = std::os::fd::AsRawFd::as_raw_fd(fd);
    let what = match rustix::net::getsockname(fd) {
        Ok(local) => endpoint(local).to_string(),
        Err(_) => "no socket".into(),
    };
    match inherited.name.as_str() {
        OWN_SOCKET | "unknown" => format!("{what} (descriptor {number})"),
        name => format!("{what} (descriptor {number}, named {name:?})"),
    }
}

/// The settings are about to be loaded anew.
pub(crate) fn reloading() {
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", glib::monotonic_time()));
}

/// Is `WATCHDOG_PID` meant for this process?
pub(crate) fn watchdog_is_ours() -> bool {
    let pid = std::env::var("WATCHDOG_PID").ok().and_then(|pid| pid.parse::<i32>().ok());
    let own = rustix::process::getpid().as_raw_nonzero().get();
    pid.is_none_or(|pid| pid == own || pid == FORKED_FROM.load(Ordering::Relaxed))
}

/// Tells the service manager, twice in the time that it allows, that the loop goes round. While this lives.
pub(crate) struct Watchdog {
    engine: Rc<Engine>,
    interval: Duration,
    timer: Cell<Option<TimerKey>>,
}

impl Watchdog {
    /// `None` if the service manager does not ask for it.
    pub(crate) fn start(engine: &Rc<Engine>) -> Option<Rc<Watchdog>> {
        let limit = std::env::var("WATCHDOG_USEC").ok()?.parse::<u64>().ok().filter(|limit| *limit > 0)?;
        if std::env::var_os("NOTIFY_SOCKET").is_none() || !watchdog_is_ours() {
            return None;
        }
        let interval = Duration::from_micros((limit / 2).max(1000));
        let watchdog = Rc::new(Watchdog { engine: engine.clone(), interval, timer: Cell::new(None) });
        watchdog.ping();
        Some(watchdog)
    }

    fn ping(self: &Rc<Self>) {
        tell("WATCHDOG=1");
        let me: Weak<Self> = Rc::downgrade(self);
        let timer = self.engine.after(self.interval, move |_| {
            if let Some(me) = me.upgrade() {
                me.ping();
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
