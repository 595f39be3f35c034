//! Descriptors 0, 1 and 2 are the standard streams, and no other descriptor of this crate may have these numbers.
//!
//! A daemon puts `/dev/null` there, and any code may write errors to 2. If a process was started without standard streams, or
//! has closed them, new descriptors would get these numbers.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Once;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::pipe::{PipeFlags, pipe_with};

use super::resident::stay_loaded;

const FIRST_OTHER: RawFd = 3;

/// Moves a new descriptor above the standard streams. A moved one is closed on exec.
pub(crate) fn above_standard(fd: OwnedFd) -> Result<OwnedFd> {
    if fd.as_raw_fd() < FIRST_OTHER {
        return duplicate(fd);
    }
    Ok(fd)
}

/// Duplicates a descriptor, above the standard streams. The copy is closed on exec.
pub(crate) fn duplicate(fd: impl AsFd) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, FIRST_OTHER)
}

/// Creates an eventfd that does not block and is closed on exec.
pub(crate) fn counter() -> io::Result<OwnedFd> {
    Ok(above_standard(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)?)
}

/// Creates a pipe that is closed on exec. Returns the reading end and the writing end.
pub(crate) fn pipe(flags: PipeFlags) -> io::Result<(OwnedFd, OwnedFd)> {
    let (output, input) = pipe_with(flags | PipeFlags::CLOEXEC)?;
    Ok((above_standard(output)?, above_standard(input)?))
}

/// Prepares a process for this library, once. The host may not be a Rust program: its standard streams may be closed, and it
/// may unload this code.
pub(crate) fn prepare_process() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        occupy_standard();
        stay_loaded();
    });
}

/// Opens `/dev/null` for each standard stream that is closed, so that no descriptor of GLib gets its number: a daemon would
/// lose the main loop's wakeup to its own standard streams. Rust's runtime does the same for Rust programs.
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
