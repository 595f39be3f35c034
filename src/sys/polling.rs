//! Waiting for file descriptors in blocking calls.

use std::io;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::interrupts_here;

/// The error text of a wait that a signal has ended.
pub(crate) const INTERRUPTED: &str = "interrupted by SIGINT or SIGTERM";

/// Waits until one of the descriptors is ready. Returns false if the limit expires. `None`: no limit.
///
/// # Errors
/// `Interrupted` if a signal ends the loop in which this is called, for example from a callback.
pub(crate) fn wait_for(fds: Vec<PollFd<'_>>, limit: Option<std::time::Duration>) -> io::Result<bool> {
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

/// Waits like [`wait_for`], but not for signals: for short waits with a limit.
pub(crate) fn poll_for(fds: &mut [PollFd<'_>], limit: Option<std::time::Duration>) -> io::Result<bool> {
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    match poll(fds, limit.as_ref()) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}
