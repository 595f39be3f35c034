//! SIGHUP as a readable descriptor, for programs that reload their settings.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicI32;

use libc::c_int;

use super::signals::{Catcher, disposition, free_slot};
use super::{Origin, counter};

pub(super) static CATCHER: Catcher = Catcher::new();

/// A descriptor that becomes readable on SIGHUP, while this lives.
pub(crate) struct Hangups {
    fd: OwnedFd,
    slot: &'static AtomicI32,
    origin: Origin,
}

impl Hangups {
    /// Returns `None` if the program handles SIGHUP itself. If it is ignored, as under `nohup`, it is caught: ignoring is
    /// meant for programs that would exit.
    pub(crate) fn catch() -> io::Result<Option<Hangups>> {
        let ours = on_hangup as *const () as libc::sighandler_t;
        let now = disposition(libc::SIGHUP);
        if ![libc::SIG_DFL, libc::SIG_IGN, ours].contains(&now) {
            return Ok(None);
        }
        let fd = counter()?;
        CATCHER.belong_here();
        let slot = CATCHER.take_slot(fd.as_raw_fd());
        if now != ours {
            CATCHER.install(libc::SIGHUP, on_hangup);
        }
        Ok(Some(Hangups { fd, slot, origin: Origin::here() }))
    }

    /// Returns false in a forked copy of the process, which this tells nothing.
    pub(crate) fn is_here(&self) -> bool {
        self.origin.is_here()
    }
}

impl AsFd for Hangups {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Hangups {
    fn drop(&mut self) {
        // The handler stays: by default, a program that is asked to reload would exit.
        if self.origin.is_here() {
            free_slot(self.slot);
        }
    }
}

extern "C" fn on_hangup(signal: c_int) {
    CATCHER.handle(signal);
}
