//! Descriptors that this process was started with: the listening sockets of systemd or of a predecessor (the protocol of
//! `sd_listen_fds`), and what a predecessor hands over besides.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use rustix::io::FdFlags;

/// The first descriptor that is passed, as the protocol has it.
pub(crate) const FIRST: RawFd = 3;

/// The name of a socket that a predecessor has made itself: with it its unix path is handed over as well.
pub(crate) const OWN_SOCKET: &str = "network-own";

/// The name of the pipe by which a predecessor waits until its successor is ready.
pub(crate) const READINESS: &str = "network-readiness";

/// The name of a locked pid file.
pub(crate) const PID_FILE: &str = "network-pid-file";

/// The name of the pipe by which the process that stands in for all successors learns of them.
pub(crate) const KEEPER: &str = "network-keeper";

/// One descriptor that was passed, and the name it came with.
pub(crate) struct Inherited {
    pub(crate) fd: OwnedFd,
    pub(crate) name: String,
}

static PASSED: Mutex<Vec<Inherited>> = Mutex::new(Vec::new());

/// Those that nobody has taken yet. From the first call on they belong to this library, and close at `exec`.
pub(crate) fn inherited() -> MutexGuard<'static, Vec<Inherited>> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        *PASSED.lock().unwrap_or_else(PoisonError::into_inner) = claim();
    });
    PASSED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the first that fits.
pub(crate) fn take_inherited(fits: impl Fn(&Inherited) -> bool) -> Option<Inherited> {
    let mut all = inherited();
    let place = all.iter().position(fits)?;
    Some(all.remove(place))
}

fn claim() -> Vec<Inherited> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<i32>().ok();
    // What was meant for another process, which has left its environment to this one.
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
        // Such a descriptor cannot have been passed: this process has opened it. Its environment is an earlier program's,
        // which has started this one by exec, or another library has taken what was passed.
        return Err(io::ErrorKind::NotFound.into());
    }
    rustix::io::fcntl_setfd(fd, flags | FdFlags::CLOEXEC)?;
    // SAFETY: open, and by the protocol the environment says that it is this process's to use. `Once` sees to it that it
    // is claimed once; that no other library has claimed it too is for the program to see to, as with every such protocol.
    Ok(unsafe { OwnedFd::from_raw_fd(fd.as_raw_fd()) })
}
