//! Two options of sockets that no safe interface gives us.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Process, user and group of a unix socket's peer. A process that this one cannot see has the number 0, which rustix's type
/// for it excludes.
pub(crate) fn peer_credentials(fd: BorrowedFd<'_>) -> io::Result<(i32, u32, u32)> {
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: writes at most `length` bytes into a structure of that size, for which any bits are valid.
    let result = unsafe {
        let place = (&raw mut found).cast();
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, place, &raw mut length)
    };
    if result == 0 { Ok((found.pid, found.uid, found.gid)) } else { Err(io::Error::last_os_error()) }
}

/// Has a socket use that network interface alone.
pub(crate) fn bind_to_interface(fd: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let length = name.len() as libc::socklen_t;
    // SAFETY: reads `length` bytes of the name, which need no end mark.
    let result = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, name.as_ptr().cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
