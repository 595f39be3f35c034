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

/// Sets an option that is an int.
pub(super) fn set_number(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: reads as many bytes as an int has, and the descriptor is open.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// If this option is 0, sending file descriptors to the socket fails. Since Linux 6.16.
const SO_PASSRIGHTS: libc::c_int = if cfg!(any(target_arch = "sparc", target_arch = "sparc64")) { 0x5c } else { 83 };

/// Sets whether the peer of a unix socket can send file descriptors (default: yes). Accepted sockets inherit the option from
/// the listening one. Older kernels do not have it, and always pass them.
pub(crate) fn pass_descriptors(fd: BorrowedFd<'_>, pass: bool) {
    let _ = set_number(fd, libc::SOL_SOCKET, SO_PASSRIGHTS, pass.into());
}

/// Returns an option that is an int.
fn number(fd: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: writes at most `length` bytes into an int, for which any bits are valid.
    let result = unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut length) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// Returns the number of segments that a TCP connection has received. `None` before Linux 4.2, which does not tell.
pub(super) fn segments_received(fd: BorrowedFd<'_>) -> Option<u32> {
    /// The place of `tcpi_segs_in` in `struct tcp_info` of `linux/tcp.h`, counted in words of four bytes. The libc crate
    /// does not have it for all systems.
    const PLACE: usize = 35;
    let mut info = [0_u32; PLACE + 1];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: writes at most `length` bytes into numbers, for which any bits are valid.
    let result = unsafe {
        let place = info.as_mut_ptr().cast();
        libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, place, &raw mut length)
    };
    (result == 0 && length as usize == size_of_val(&info)).then(|| info[PLACE])
}

/// Returns whether the peer of a unix socket can send file descriptors.
pub(crate) fn passes_descriptors(fd: BorrowedFd<'_>) -> bool {
    number(fd, libc::SOL_SOCKET, SO_PASSRIGHTS).map_or(true, |passes| passes != 0)
}

/// Returns the number of the interface that a socket is restricted to.
pub(crate) fn bound_interface(fd: BorrowedFd<'_>) -> Option<u32> {
    /// The libc crate does not have it for all systems.
    const SO_BINDTOIFINDEX: libc::c_int =
        if cfg!(any(target_arch = "sparc", target_arch = "sparc64")) { 0x41 } else { 62 };
    let bound = number(fd, libc::SOL_SOCKET, SO_BINDTOIFINDEX).ok()?;
    u32::try_from(bound).ok().filter(|bound| *bound != 0)
}
