//! SIGHUP as a readable descriptor, for programs that load their settings anew at it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use libc::c_int;
use rustix::event::{EventfdFlags, eventfd};

use super::signals::{disposition, set_disposition};

/// One for each main context that wants to be told. As for interrupts.
static PLACES: [AtomicI32; 64] = [const { AtomicI32::new(-1) }; 64];

/// While this lives, its descriptor becomes readable at SIGHUP.
pub(crate) struct Hangups {
    fd: OwnedFd,
    place: usize,
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
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let taken =
            |place: &AtomicI32| place.compare_exchange(-1, fd.as_raw_fd(), Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let Some(place) = PLACES.iter().position(taken) else { return Ok(None) };
        set_disposition(libc::SIGHUP, ours);
        Ok(Some(Hangups { fd, place }))
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
        PLACES[self.place].store(-1, Ordering::Release);
    }
}

extern "C" fn on_hangup(_: c_int) {
    super::signals::tell(&PLACES);
}
