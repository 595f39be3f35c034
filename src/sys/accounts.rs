//! Users and groups: lookup by name, and those of a unix socket's peer.

use std::ffi::{CString, c_char, c_int};
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

use super::sockopt::peer_credentials;
use crate::error::{Error, Operation, Result};

/// A user or a group of this machine. Converts from a number or a name: `1000`, `"www-data"`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Account {
    /// The user or group number.
    Id(u32),
    /// The name, looked up when the server starts.
    Name(String),
}

impl From<u32> for Account {
    fn from(id: u32) -> Self {
        Account::Id(id)
    }
}

impl From<&str> for Account {
    fn from(name: &str) -> Self {
        Account::Name(name.into())
    }
}

impl From<String> for Account {
    fn from(name: String) -> Self {
        Account::Name(name)
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Account::Id(id) => id.fmt(f),
            Account::Name(name) => name.fmt(f),
        }
    }
}

impl Account {
    pub(crate) fn group(&self) -> Result<u32> {
        self.number("group", group_id)
    }

    pub(crate) fn user(&self) -> Result<u32> {
        self.number("user", user_id)
    }

    fn number(&self, kind: &str, ask: fn(&str) -> io::Result<Option<u32>>) -> Result<u32> {
        match self {
            Account::Id(id) => Ok(*id),
            Account::Name(name) => match ask(name) {
                Ok(Some(id)) => Ok(id),
                Ok(None) => Err(Error::InvalidOption(format!("unknown {kind} {name:?}"))),
                Err(source) => Err(Error::Io { operation: Operation::Account, address: name.clone(), source }),
            },
        }
    }
}

/// The largest entry of the user and group databases, in bytes. A group's entry lists its members.
const ENTRY_MAX: usize = 16 << 20;

/// The user and groups of a unix socket's peer, as of when it connected.
pub(crate) struct PeerIds {
    pub(crate) user: u32,
    /// All groups, including supplementary ones.
    pub(crate) groups: Vec<u32>,
}

pub(crate) fn peer_ids(socket: impl AsFd) -> io::Result<PeerIds> {
    let socket = socket.as_fd();
    let (_, user, group) = peer_credentials(socket)?;
    let mut groups = peer_groups(socket)?;
    groups.push(group);
    Ok(PeerIds { user, groups })
}

fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0u32; 64];
    loop {
        let bytes = size_of_val(groups.as_slice());
        let mut length = bytes as libc::socklen_t;
        // SAFETY: a buffer with its size in bytes, which the kernel fills and never exceeds.
        let done = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<u32>();
        if done == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // With ERANGE, the length is the size that is needed.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// Returns the ID of a user, or `None` if the name is unknown.
fn user_id(name: &str) -> io::Result<Option<u32>> {
    look_up(name, |name, entry: *mut libc::passwd, buffer, size, found| {
        // SAFETY: a name that ends in a zero, space for the entry, a buffer and its size, space for the answer.
        let error = unsafe { libc::getpwnam_r(name, entry, buffer, size, found) };
        // SAFETY: libc has filled the entry if it has found one, and then `found` points to it.
        (error, unsafe { (*found).as_ref() }.map(|entry| entry.pw_uid))
    })
}

/// Returns the ID of a group, or `None` if the name is unknown.
fn group_id(name: &str) -> io::Result<Option<u32>> {
    look_up(name, |name, entry: *mut libc::group, buffer, size, found| {
        // SAFETY: as above.
        let error = unsafe { libc::getgrnam_r(name, entry, buffer, size, found) };
        // SAFETY: as above.
        (error, unsafe { (*found).as_ref() }.map(|entry| entry.gr_gid))
    })
}

type Ask<T> = fn(*const c_char, *mut T, *mut c_char, usize, *mut *mut T) -> (c_int, Option<u32>);

fn look_up<T>(name: &str, ask: Ask<T>) -> io::Result<Option<u32>> {
    let name = CString::new(name)?;
    let mut buffer: Vec<c_char> = vec![0; 1 << 10];
    loop {
        let mut entry = MaybeUninit::<T>::zeroed();
        let mut found = ptr::null_mut();
        match ask(name.as_ptr(), entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut found) {
            (0, id) => return Ok(id),
            // The manual lists these for "no such entry".
            (libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM, _) => return Ok(None),
            (libc::EINTR, _) => {}
            (libc::ERANGE, _) if buffer.len() < ENTRY_MAX => buffer.resize(buffer.len() * 4, 0),
            (error, _) => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_knows_root_and_not_everybody() {
        assert_eq!(user_id("root").unwrap(), Some(0));
        assert_eq!(group_id("root").unwrap(), Some(0));
        assert_eq!(user_id("nobody of that name").unwrap(), None);
        assert_eq!(group_id("no group of that name").unwrap(), None);
    }

    #[test]
    fn a_peer_is_known_by_its_numbers() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let ids = peer_ids(&ours).unwrap();
        assert_eq!(ids.user, rustix::process::geteuid().as_raw());
        assert!(ids.groups.contains(&rustix::process::getegid().as_raw()));
    }
}
