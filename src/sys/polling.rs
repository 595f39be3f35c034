//! Waiting for descriptors in a blocking call.

use std::io;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::interrupts_here;

/// Why a wait within a loop was given up.
pub(crate) const INTERRUPTED: &str = "interrupted by the signal that ends the loop";

/// Waits until one of these is ready. `None` waits without end. False when the time is up.
///
/// # Errors
/// `Interrupted` if the loop that this is called from, be it in a callback, is to end because of a signal.
pub(crate) fn wait_for(fds: Vec<PollFd<'_>>, limit: Option<std::time::Duration>) -> io::Result<bool> {
    let interrupts = interrupts_here();
    // For as long as both live.
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

/// As [`wait_for`], whatever signals have come: for waits that are bounded and short.
pub(crate) fn poll_for(fds: &mut [PollFd<'_>], limit: Option<std::time::Duration>) -> io::Result<bool> {
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    match poll(fds, limit.as_ref()) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}
