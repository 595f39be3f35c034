//! Sockets: create, bind, listen, accept, connect, and ask for addresses, by libc's functions.
//!
//! These calls decide which peer a program talks to. Preloaded libraries such as torsocks and proxychains replace libc's
//! functions, and rustix would bypass them, because it makes the system calls itself. Calls that move bytes on a connected
//! socket name no peer; for them rustix is used.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, sockaddr, socklen_t};
use rustix::io::{Errno, Result};
use rustix::net::addr::{SocketAddrArg, SocketAddrStorage};
use rustix::net::{AddressFamily, SendFlags, SocketAddrAny, SocketFlags, SocketType};

use super::above_standard;

/// Creates a stream socket that does not block and is closed on exec.
pub(crate) fn stream_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket(family, SocketType::STREAM, flags).map_err(|errno| refused(family, errno))
}

/// Creates a datagram socket that is closed on exec.
pub(crate) fn datagram_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    socket(family, SocketType::DGRAM, SocketFlags::CLOEXEC).map_err(|errno| refused(family, errno))
}

/// Creates a unix socket for messages of this type. It does not block and is closed on exec.
pub(crate) fn message_socket(kind: SocketType) -> Result<OwnedFd> {
    socket(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
}

/// Creates two unix sockets that are connected to each other. They do not block and are closed on exec.
pub(crate) fn socket_pair(kind: SocketType) -> Result<(OwnedFd, OwnedFd)> {
    let kind = kind.as_raw() | (SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).bits();
    let mut pair = [-1; 2];
    // SAFETY: a place for two descriptors.
    done(unsafe { libc::socketpair(libc::AF_UNIX, kind.cast_signed(), 0, pair.as_mut_ptr()) })?;
    // Each is owned before the other may fail to be moved.
    let (one, other) = (own(pair[0]), own(pair[1]));
    Ok((one?, other?))
}

/// Sandboxes refuse IPv6 with errors that have other meanings elsewhere: here they say that the family is missing.
fn refused(family: AddressFamily, errno: Errno) -> io::Error {
    match errno {
        Errno::ACCESS | Errno::PERM if family == AddressFamily::INET6 => io::Error::new(
            io::ErrorKind::Unsupported,
            format!("IPv6 sockets are not permitted: {}", io::Error::from(errno)),
        ),
        errno => errno.into(),
    }
}

pub(crate) fn socket(family: AddressFamily, kind: SocketType, flags: SocketFlags) -> Result<OwnedFd> {
    let kind = kind.as_raw() | flags.bits();
    // SAFETY: takes numbers only.
    own(unsafe { libc::socket(family.as_raw().into(), kind.cast_signed(), 0) })
}

/// Creates a socket that asks the kernel about others.
pub(super) fn diagnosis_socket() -> Result<OwnedFd> {
    // SAFETY: takes numbers only.
    own(unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_SOCK_DIAG) })
}

/// Creates a socket that the kernel sends the changes of links, addresses and routes to. It does not block and is closed on
/// exec.
pub(super) fn route_socket() -> Result<OwnedFd> {
    const GROUPS: c_int = libc::RTMGRP_LINK
        | libc::RTMGRP_IPV4_IFADDR
        | libc::RTMGRP_IPV6_IFADDR
        | libc::RTMGRP_IPV4_ROUTE
        | libc::RTMGRP_IPV6_ROUTE;
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes numbers only.
    let socket = own(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) })?;
    // SAFETY: numbers only, of which zeros are valid.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address.nl_groups = GROUPS.cast_unsigned();
    let length = size_of_val(&address) as socklen_t;
    // SAFETY: an address of that length, and the descriptor is open.
    done(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
    Ok(socket)
}

pub(crate) fn bind(fd: impl AsFd, address: &impl SocketAddrArg) -> Result<()> {
    // SAFETY: `name` gives an address of that length, and the descriptor is open.
    name(address, |place, length| unsafe { libc::bind(fd.as_fd().as_raw_fd(), place, length) }).map(drop)
}

pub(crate) fn listen(fd: impl AsFd, backlog: i32) -> Result<()> {
    // SAFETY: takes numbers only; the descriptor is open.
    done(unsafe { libc::listen(fd.as_fd().as_raw_fd(), backlog) }).map(drop)
}

/// Accepts a connection, and returns the peer's address if it has one.
pub(crate) fn accept(fd: impl AsFd, flags: SocketFlags) -> Result<(OwnedFd, Option<SocketAddrAny>)> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: `named` gives a place for an address and one for its length, which says how large it is.
    let (accepted, address) =
        named(|place, length| unsafe { libc::accept4(fd, place, length, flags.bits().cast_signed()) })?;
    Ok((own(accepted)?, address))
}

pub(crate) fn connect(fd: impl AsFd, address: &impl SocketAddrArg) -> Result<()> {
    // SAFETY: `name` gives an address of that length, and the descriptor is open.
    name(address, |place, length| unsafe { libc::connect(fd.as_fd().as_raw_fd(), place, length) }).map(drop)
}

pub(crate) fn send_to(fd: impl AsFd, data: &[u8], flags: SendFlags, address: &impl SocketAddrArg) -> Result<usize> {
    let (fd, flags) = (fd.as_fd().as_raw_fd(), flags.bits().cast_signed());
    let send = |place, length| {
        // SAFETY: reads as many bytes as there are; `name` gives an address of that length; the descriptor is open.
        let sent = unsafe { libc::sendto(fd, data.as_ptr().cast(), data.len(), flags, place, length) };
        // The length of a datagram at most.
        c_int::try_from(sent).unwrap_or(c_int::MAX)
    };
    name(address, send).map(|sent| usize::try_from(sent).unwrap_or(0))
}

/// Returns the address that a socket is bound to.
pub(crate) fn local_address(fd: impl AsFd) -> Result<SocketAddrAny> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: as for `accept`.
    let (_, address) = named(|place, length| unsafe { libc::getsockname(fd, place, length) })?;
    address.ok_or(Errno::INVAL)
}

/// Returns the address of a socket's peer, or `None` if it has none.
pub(crate) fn peer_address(fd: impl AsFd) -> Result<Option<SocketAddrAny>> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: as for `accept`.
    Ok(named(|place, length| unsafe { libc::getpeername(fd, place, length) })?.1)
}

/// Returns whether an error of `socket` or `bind` means that this machine lacks the address family, or that a sandbox forbids
/// it. A privileged port fails with the same error, but in every family.
pub(crate) fn is_missing_family(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    let is_refused = code.is_none() && error.kind() == io::ErrorKind::Unsupported;
    is_refused || [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].iter().any(|known| code == Some(known.raw_os_error()))
}

/// Calls a function that reads an address.
pub(super) fn name(
    address: &impl SocketAddrArg,
    call: impl FnOnce(*const sockaddr, socklen_t) -> c_int,
) -> Result<c_int> {
    // SAFETY: the call reads an address of that length.
    done(unsafe { address.with_sockaddr(|place, length| call(place.cast(), length)) })
}

/// Calls a function that writes an address. Returns its result and the address.
pub(super) fn named(
    call: impl FnOnce(*mut sockaddr, *mut socklen_t) -> c_int,
) -> Result<(c_int, Option<SocketAddrAny>)> {
    let mut storage = MaybeUninit::<SocketAddrStorage>::zeroed();
    let size = size_of::<SocketAddrStorage>() as socklen_t;
    let mut length = size;
    let result = done(call(storage.as_mut_ptr().cast(), &raw mut length))?;
    // SAFETY: any bits are a valid family, and those of the storage were zeros before the call.
    let family = unsafe { storage.as_ptr().cast::<libc::sa_family_t>().read() };
    let is_named = c_int::from(family) != libc::AF_UNSPEC && length as usize >= size_of_val(&family);
    // SAFETY: an address, written by the kernel or a preloaded library; all of the storage is initialized.
    Ok((result, is_named.then(|| unsafe { SocketAddrAny::new(storage, length.min(size)) })))
}

fn done(result: c_int) -> Result<c_int> {
    if result < 0 { Err(last_error()) } else { Ok(result) }
}

fn own(fd: RawFd) -> Result<OwnedFd> {
    let fd = done(fd)?;
    // SAFETY: new, so nothing else owns it.
    above_standard(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}
