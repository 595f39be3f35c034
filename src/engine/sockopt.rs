//! What of sockets no safe interface gives us, or not at this price.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Receives what is there, and tells whether descriptors came along, which are turned away: for lack of a place to put them.
/// As rustix would, but without asking for the sender's address, which a stream does not tell, and that takes a while.
#[inline]
pub(crate) fn receive_bytes(fd: BorrowedFd<'_>, buffer: &mut [u8], waits: bool) -> io::Result<(usize, bool)> {
    let mut piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a header of zeros is one that has nothing.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    let flags = if waits { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: the header names one piece of memory, that of `buffer`, which is writable.
    let count = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    Ok((count, message.msg_flags & libc::MSG_CTRUNC != 0))
}

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
