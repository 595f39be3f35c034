//! A listening socket, and the options that it is created with.

use std::os::fd::OwnedFd;

use crate::sys::{FileSettings, OWN_SOCKET, Tuning};

/// A listening socket, and the name to pass it on under.
pub(super) struct Listening {
    pub(super) fd: OwnedFd,
    pub(super) name: String,
}

impl Listening {
    /// A socket that the program has created. Its path is not ours.
    pub(super) fn given(fd: OwnedFd) -> Self {
        Listening { fd, name: "network".into() }
    }
}

impl From<OwnedFd> for Listening {
    fn from(fd: OwnedFd) -> Self {
        Listening { fd, name: OWN_SOCKET.into() }
    }
}

/// Options of a new listening socket.
#[derive(Clone, Copy)]
pub(super) struct ListenOptions<'a> {
    pub(super) backlog: i32,
    pub(super) tuning: &'a Tuning,
    pub(super) file: FileSettings,
}
