//! New sockets.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// A stream socket that does not block and is closed on exec.
pub(crate) fn stream_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(family, SocketType::STREAM, flags, None).map_err(|errno| refused(family, errno))
}

/// A datagram socket that is closed on exec.
pub(crate) fn datagram_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socket_with(family, SocketType::DGRAM, flags, None).map_err(|errno| refused(family, errno))
}

/// Sandboxes refuse IPv6 with errors that else have other meanings: here they say that the family is missing.
fn refused(family: AddressFamily, errno: Errno) -> io::Error {
    match errno {
        Errno::ACCESS | Errno::PERM if family == AddressFamily::INET6 => io::Error::new(
            io::ErrorKind::Unsupported,
            format!("IPv6 sockets are not permitted: {}", io::Error::from(errno)),
        ),
        errno => errno.into(),
    }
}

/// Returns whether an error of `socket` or `bind` means that this machine lacks the address family.
pub(crate) fn is_missing_family(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    let is_refused = code.is_none() && error.kind() == io::ErrorKind::Unsupported;
    is_refused || [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].iter().any(|known| code == Some(known.raw_os_error()))
}
