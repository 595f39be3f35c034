//! Inherited descriptors: listening sockets passed by systemd or a predecessor (the protocol of `sd_listen_fds`), and what
//! else a predecessor hands over.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use rustix::io::FdFlags;

/// The first descriptor that is passed, by the protocol.
pub(crate) const FIRST: RawFd = 3;

/// The name of a socket that a predecessor has created itself: its unix path is handed over too.
pub(crate) const OWN_SOCKET: &str = "network-own";

/// The name of the pipe into which a successor reports that it is ready.
pub(crate) const READINESS: &str = "network-readiness";

/// The name of a locked pid file.
pub(crate) const PID_FILE: &str = "network-pid-file";

/// The name of the pipe into which successors report to the process that stands in for them.
pub(crate) const KEEPER: &str = "network-keeper";

/// A passed descriptor and its name.
pub(crate) struct Inherited {
    pub(crate) fd: OwnedFd,
    pub(crate) name: String,
}

static PASSED: Mutex<Vec<Inherited>> = Mutex::new(Vec::new());

/// Returns the passed descriptors that have not been taken. From the first call on, they belong to this library and close
/// on exec.
pub(crate) fn inherited() -> MutexGuard<'static, Vec<Inherited>> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        *PASSED.lock().unwrap_or_else(PoisonError::into_inner) = claim();
    });
    PASSED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the first passed descriptor for which `fits` returns true.
pub(crate) fn take_inherited(fits: impl Fn(&Inherited) -> bool) -> Option<Inherited> {
    let mut all = inherited();
    let place = all.iter().position(fits)?;
    Some(all.remove(place))
}

fn claim() -> Vec<Inherited> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<i32>().ok();
    // They were meant for another process, from which this one has inherited its environment.
    if number("LISTEN_PID") != Some(rustix::process::getpid().as_raw_nonzero().get()) {
        return Vec::new();
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let count = number("LISTEN_FDS").unwrap_or(0).clamp(0, 4096);
    let claimed = (FIRST..FIRST + count).filter_map(|number| {
        let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unknown").to_owned();
        Some(Inherited { fd: own(number).ok()?, name })
    });
    claimed.collect()
}

fn own(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: only asked whether it is open.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = rustix::io::fcntl_getfd(fd)?;
    if flags.contains(FdFlags::CLOEXEC) {
        // It was opened by this process, so it was not passed. The environment is that of an earlier program, which has
        // executed this one, or another library has taken what was passed.
        return Err(io::ErrorKind::NotFound.into());
    }
    rustix::io::fcntl_setfd(fd, flags | FdFlags::CLOEXEC)?;
    // SAFETY: open, and by the protocol the environment gives it to this process. `Once` ensures that it is claimed once. That
    // no other library has claimed it is up to the program, as with every such protocol.
    Ok(unsafe { OwnedFd::from_raw_fd(fd.as_raw_fd()) })
}
