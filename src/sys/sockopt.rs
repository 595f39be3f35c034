//! Socket options without a safe interface elsewhere.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Returns process, user and group ID of a unix socket's peer. The process ID is 0 if this process cannot see the peer,
/// which rustix's type excludes.
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

/// Restricts a socket to one network interface.
pub(crate) fn bind_to_interface(fd: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let length = name.len() as libc::socklen_t;
    // SAFETY: reads `length` bytes of the name, which need no end mark.
    let result = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, name.as_ptr().cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// If this option is 0, sending file descriptors to the socket fails. Since Linux 6.16.
const SO_PASSRIGHTS: libc::c_int = if cfg!(any(target_arch = "sparc", target_arch = "sparc64")) { 0x5c } else { 83 };

/// Sets whether the peer of a unix socket can send file descriptors (default: yes). Accepted sockets inherit the option from
/// the listening one. Older kernels do not have it, and always pass them.
pub(crate) fn pass_descriptors(fd: BorrowedFd<'_>, pass: bool) {
    let pass = libc::c_int::from(pass);
    // SAFETY: reads as many bytes as an int has.
    unsafe {
        let place = (&raw const pass).cast();
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, place, size_of_val(&pass) as libc::socklen_t);
    }
}

/// Returns whether the peer of a unix socket can send file descriptors.
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
