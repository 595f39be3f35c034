//! A listening socket, and the options it is made with.

use std::os::fd::OwnedFd;

use crate::sys::{OWN_SOCKET, Tuning};

/// A listening socket, and the name under which it would be passed on.
pub(super) struct Listening {
    pub(super) fd: OwnedFd,
    pub(super) name: String,
}

impl Listening {
    /// One that the program has made: its path is not ours.
    pub(super) fn given(fd: OwnedFd) -> Self {
        Listening { fd, name: "network".into() }
    }
}

impl From<OwnedFd> for Listening {
    fn from(fd: OwnedFd) -> Self {
        Listening { fd, name: OWN_SOCKET.into() }
    }
}

/// How to listen.
#[derive(Clone, Copy)]
pub(super) struct ListenOptions<'a> {
    pub(super) backlog: i32,
    pub(super) tuning: &'a Tuning,
    pub(super) file: FileSettings,
}

/// What the file of a unix socket is to be like.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FileSettings {
    pub(super) mode: Option<u32>,
    pub(super) group: Option<u32>,
    /// Replace what nobody listens on.
    pub(super) replace_stale: bool,
}

impl FileSettings {
    pub(super) fn restricts(&self) -> bool {
        self.mode.is_some() || self.group.is_some()
    }
}
