//! Waiting for file descriptors in blocking calls.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::interrupts_here;
#[cfg(test)]
use super::script;

/// The error text of a wait that a signal has ended.
pub(crate) const INTERRUPTED: &str = "interrupted by SIGINT or SIGTERM";

/// Waits until one of the descriptors is ready. Returns false if the limit expires. `None`: no limit.
///
/// # Errors
/// `Interrupted` if a signal ends the loop in which this is called, for example from a callback.
pub(crate) fn wait_for(fds: Vec<PollFd<'_>>, limit: Option<Duration>) -> io::Result<bool> {
    let interrupts = interrupts_here();
    // Shortens the lifetime to that of `interrupts`.
    let mut fds = fds;
    fds.extend(interrupts.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
    let ready = poll_for(&mut fds, limit)?;
    match fds.last() {
        Some(last) if interrupts.is_some() && !last.revents().is_empty() => {
            Err(io::Error::new(io::ErrorKind::Interrupted, INTERRUPTED))
        }
        _ => Ok(ready),
    }
}

/// Waits until there is something to read from the one descriptor, or room in the other, whichever are given. Returns false
/// if the limit expires. With `heeds_signals`, it fails as [`wait_for`].
pub(crate) fn wait_for_either(
    input: Option<BorrowedFd<'_>>,
    output: Option<BorrowedFd<'_>>,
    limit: Option<Duration>,
    heeds_signals: bool,
) -> io::Result<bool> {
    #[cfg(test)]
    if let Some(is_ready) = script::wait(input, output, limit) {
        return Ok(is_ready);
    }
    let readable = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
    let writable = |fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT);
    // As in most scripts, nothing else is to be watched: no memory is taken.
    let fds: &mut [PollFd<'_>] = match (input, output) {
        (Some(input), Some(output)) => &mut [readable(input), writable(output)],
        (Some(input), None) => &mut [readable(input)],
        (None, Some(output)) => &mut [writable(output)],
        (None, None) => &mut [],
    };
    if heeds_signals && interrupts_here().is_some() {
        return wait_for(fds.to_vec(), limit);
    }
    poll_for(fds, limit)
}

/// Waits like [`wait_for`], but not for signals: for short waits with a limit.
pub(crate) fn poll_for(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> io::Result<bool> {
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    match poll(fds, limit.as_ref()) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}
