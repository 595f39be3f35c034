//! Options of sockets that no safe interface gives us.

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

/// Where that is 0, those who send descriptors get an error. Since Linux 6.16.
const SO_PASSRIGHTS: libc::c_int = if cfg!(any(target_arch = "sparc", target_arch = "sparc64")) { 0x5c } else { 83 };

/// Lets the peer of a unix socket send descriptors along, as it may by default, or has the system refuse them to it. What is
/// accepted from a listening socket takes that over. Older systems know of no such thing, and pass them.
pub(crate) fn pass_descriptors(fd: BorrowedFd<'_>, pass: bool) {
    let pass = libc::c_int::from(pass);
    // SAFETY: reads as many bytes as an int has.
    unsafe {
        let place = (&raw const pass).cast();
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, place, size_of_val(&pass) as libc::socklen_t);
    }
}

/// Can the peer of a unix socket send descriptors along?
pub(crate) fn passes_descriptors(fd: BorrowedFd<'_>) -> bool {
    let mut passes: libc::c_int = 1;
    let mut length = size_of_val(&passes) as libc::socklen_t;
    // SAFETY: writes at most `length` bytes into an int, for which any bits are valid.
    let result = unsafe {
        let place = (&raw mut passes).cast();
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, place, &raw mut length)
    };
    result != 0 || passes != 0
}
