//! SIGHUP as a readable descriptor, for programs that load their settings anew at it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicI32;

use libc::c_int;

use super::signals::{Catcher, disposition, free_slot};
use super::{Origin, counter};

pub(super) static CATCHER: Catcher = Catcher::new();

/// While this lives, its descriptor becomes readable at SIGHUP.
pub(crate) struct Hangups {
    fd: OwnedFd,
    slot: &'static AtomicI32,
    origin: Origin,
}

impl Hangups {
    /// `None` if the program has a handler of its own. That it is ignored, as under `nohup`, is meant for programs that
    /// would end.
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

    /// Returns false in a forked copy of the process, which is told nothing by this.
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
        // The handler stays: the default would end a program whose settings somebody asks it to load.
        if self.origin.is_here() {
            free_slot(self.slot);
        }
    }
}

extern "C" fn on_hangup(signal: c_int) {
    CATCHER.handle(signal);
}
