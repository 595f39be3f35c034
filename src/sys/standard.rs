//! Descriptors 0, 1 and 2: they are the standard streams, and nothing of ours may have their numbers.
//!
//! A daemon puts `/dev/null` there, and other code writes its errors to 2. A process may have been started, or may have
//! closed its own, so that a new descriptor would get one of these numbers.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Once;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::pipe::{PipeFlags, pipe_with};

use super::resident::stay_loaded;

const FIRST_OTHER: RawFd = 3;

/// Moves a new descriptor away from the standard streams' numbers. It is closed on exec then.
pub(crate) fn above_standard(fd: OwnedFd) -> Result<OwnedFd> {
    if fd.as_raw_fd() < FIRST_OTHER {
        return rustix::io::fcntl_dupfd_cloexec(fd, FIRST_OTHER);
    }
    Ok(fd)
}

/// Creates a counter that does not block and is closed on exec.
pub(crate) fn counter() -> io::Result<OwnedFd> {
    Ok(above_standard(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)?)
}

/// Creates a pipe that is closed on exec: the end to read from, the end to write to.
pub(crate) fn pipe(flags: PipeFlags) -> io::Result<(OwnedFd, OwnedFd)> {
    let (output, input) = pipe_with(flags | PipeFlags::CLOEXEC)?;
    Ok((above_standard(output)?, above_standard(input)?))
}

/// Prepares a host that may not be a Rust program for this library, once: standard streams are open, and the code stays.
pub(crate) fn prepare_process() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        occupy_standard();
        stay_loaded();
    });
}

/// Opens `/dev/null` for each standard stream that is closed, so that what others create does not get its number: GLib's
/// wakeup would be lost when a daemon gets its own standard streams. Rust's runtime does the same for its programs.
fn occupy_standard() {
    for number in 0..FIRST_OTHER {
        // SAFETY: only asked whether it is open.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        if rustix::io::fcntl_getfd(fd) == Err(Errno::BADF) {
            // It gets the lowest number, which is this one.
            let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()) else { return };
            std::mem::forget(null);
        }
    }
}
