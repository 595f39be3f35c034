//! Messages and what comes beside them: the rest that does not fit into the buffer, the address that a datagram was sent to,
//! the end of a seqpacket connection. File descriptors that come along are closed.

use std::cell::{Cell, Ref, RefCell};
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, c_void, cmsghdr, msghdr};
use rustix::io::{Errno, Result};
use rustix::net::addr::SocketAddrArg;
use rustix::net::{AddressFamily, SocketAddrAny, SocketType, sockopt};

use super::sockets::{name, named};
use super::sockopt::set_number;

/// Space for the control messages that are asked for. Aligned as they must be.
#[repr(align(8))]
struct Control([MaybeUninit<u8>; 64]);

/// The error that stands for the end of a seqpacket connection. No receive call fails with it.
pub(crate) const ENDED: Errno = Errno::PIPE;

/// Space for everything that is received beside the bytes that fit into the buffer.
pub(crate) struct Beside {
    /// The room in `rest`.
    more: usize,
    /// The bytes of the last message that did not fit.
    rest: RefCell<Vec<u8>>,
    /// The local address of the last datagram, and the number of its interface.
    arrival: Cell<Option<(IpAddr, u32)>>,
    /// Bytes of control messages to accept. Zero where none is asked for, so that file descriptors find no room.
    control: usize,
    /// Each message has a timestamp. What has none is the end.
    marks_end: bool,
}

impl Beside {
    /// Prepares a socket to receive messages of any kind: up to `more` bytes longer than the buffer, and the end as [`ENDED`].
    ///
    /// # Errors
    /// Also if there is no memory for that many bytes. It is reserved here, where somebody hears of it.
    pub(crate) fn of_messages(fd: BorrowedFd<'_>, more: usize) -> io::Result<Beside> {
        let is_seqpacket = sockopt::socket_type(fd)? == SocketType::SEQPACKET;
        let is_unix = sockopt::socket_domain(fd)? == AddressFamily::UNIX;
        // An empty message and the end look the same, but only the message has a timestamp.
        let marks_end = is_seqpacket && is_unix;
        if marks_end {
            set_number(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMP, 1)?;
        }
        let control = if marks_end { space(size_of::<libc::timeval>()) } else { 0 };
        let mut rest = Vec::new();
        let no_memory = |_| io::Error::new(io::ErrorKind::OutOfMemory, "no memory for messages of that length");
        rest.try_reserve_exact(more).map_err(no_memory)?;
        Ok(Beside { more, rest: RefCell::new(rest), arrival: Cell::new(None), control, marks_end: is_seqpacket })
    }

    /// Prepares a UDP socket to tell the local address of each datagram.
    pub(crate) fn of_arrivals(fd: BorrowedFd<'_>) -> io::Result<Beside> {
        if sockopt::socket_domain(fd)? == AddressFamily::INET6 {
            set_number(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        } else {
            set_number(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        }
        let control = size_of::<Control>();
        Ok(Beside { more: 0, rest: RefCell::default(), arrival: Cell::new(None), control, marks_end: false })
    }

    /// Returns the bytes of the last message that did not fit into the buffer, as far as there was room for them.
    pub(crate) fn rest(&self) -> Ref<'_, [u8]> {
        Ref::map(self.rest.borrow(), Vec::as_slice)
    }

    pub(crate) fn arrival(&self) -> Option<(IpAddr, u32)> {
        self.arrival.get()
    }

    /// Receives a message, if there is one. Its length may exceed the space for it.
    pub(crate) fn receive(&self, fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, Option<SocketAddrAny>)> {
        let mut rest = self.rest.borrow_mut();
        rest.clear();
        let (first, space) = (buffer.len(), buffer.len() + self.more);
        // Pages that no message reaches are never touched.
        let mut parts = [part(buffer), libc::iovec { iov_base: rest.as_mut_ptr().cast(), iov_len: self.more }];
        let mut control = Control([MaybeUninit::uninit(); 64]);
        let mut flags = 0;
        let mut told = Told::default();
        let receive = |place: *mut libc::sockaddr, length: *mut libc::socklen_t| {
            // SAFETY: any bits are a valid header, whose members are set where they matter.
            let mut header: msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
            header.msg_name = place.cast();
            // SAFETY: `named` gives a place for the length, which says how large that for the address is.
            header.msg_namelen = unsafe { *length };
            header.msg_iov = parts.as_mut_ptr();
            header.msg_iovlen = parts.len() as _;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = self.control as _;
            let how = libc::MSG_DONTWAIT | libc::MSG_TRUNC | libc::MSG_CMSG_CLOEXEC;
            // SAFETY: a header with spaces and their sizes; the descriptor is open.
            let received = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, how) };
            if received >= 0 {
                // SAFETY: as above.
                unsafe { *length = header.msg_namelen };
                flags = header.msg_flags;
                told = read_control(&header);
            }
            // The length of a message at most.
            c_int::try_from(received).unwrap_or(c_int::MAX)
        };
        let (received, from) = named(receive)?;
        let received = usize::try_from(received).unwrap_or(0);
        // SAFETY: room for `more` bytes has been reserved, and the kernel has filled it this far.
        unsafe { rest.set_len(received.saturating_sub(first).min(self.more)) };
        self.arrival.set(told.arrival);
        if received == 0 && self.marks_end && !told.has_time {
            return Err(ENDED);
        }
        // Some families do not tell by how much it is longer.
        let is_cut = flags & libc::MSG_TRUNC != 0;
        Ok((if is_cut { received.max(space + 1) } else { received }, from))
    }
}

fn part(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
}

/// Returns the space that a control message takes up.
fn space(bytes: usize) -> usize {
    // SAFETY: computes a number.
    unsafe { libc::CMSG_SPACE(bytes as libc::c_uint) as usize }
}

#[derive(Default)]
struct Told {
    has_time: bool,
    arrival: Option<(IpAddr, u32)>,
}

fn read_control(header: &msghdr) -> Told {
    let mut told = Told::default();
    // SAFETY: as the kernel has filled it.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: null, or a message within the space.
    while let Some(message) = unsafe { next.as_ref() } {
        // SAFETY: the data of that message.
        let data = unsafe { libc::CMSG_DATA(message) }.cast::<c_void>().cast_const();
        let length = payload(message);
        read_message(message, data, length, &mut told);
        // SAFETY: as for the first one.
        next = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
    told
}

/// Returns the number of data bytes of a control message.
// On some systems the length is of another type.
#[allow(clippy::unnecessary_cast)]
fn payload(message: &cmsghdr) -> usize {
    // SAFETY: computes a number.
    let header = unsafe { libc::CMSG_LEN(0) } as usize;
    (message.cmsg_len as usize).saturating_sub(header)
}

fn read_message(message: &cmsghdr, data: *const c_void, length: usize, told: &mut Told) {
    match (message.cmsg_level, message.cmsg_type) {
        (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
            for place in 0..length / size_of::<RawFd>() {
                // SAFETY: within the data, which are descriptors that the kernel has made for this process.
                let fd = unsafe { data.cast::<RawFd>().add(place).read_unaligned() };
                // SAFETY: new, so nothing else owns it. Nobody has asked for it.
                drop(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        (libc::IPPROTO_IP, libc::IP_PKTINFO) if length >= size_of::<libc::in_pktinfo>() => {
            // SAFETY: as long as this type, for which any bits are valid.
            let info = unsafe { data.cast::<libc::in_pktinfo>().read_unaligned() };
            let ip = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
            told.arrival = Some((ip.into(), u32::try_from(info.ipi_ifindex).unwrap_or(0)));
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if length >= size_of::<libc::in6_pktinfo>() => {
            // SAFETY: as above.
            let info = unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() };
            let ip = IpAddr::from(Ipv6Addr::from(info.ipi6_addr.s6_addr)).to_canonical();
            // An int on some systems.
            told.arrival = Some((ip, info.ipi6_ifindex as _));
        }
        (libc::SOL_SOCKET, _) => told.has_time = true,
        _ => {}
    }
}

/// Sends a datagram to an IPv4 address through an interface, whatever the routes say.
pub(crate) fn send_through(
    fd: BorrowedFd<'_>,
    data: &[u8],
    address: &impl SocketAddrArg,
    interface: u32,
) -> Result<usize> {
    let mut part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let any = libc::in_addr { s_addr: 0 };
    let index = c_int::try_from(interface).map_err(|_| Errno::NODEV)?;
    let info = libc::in_pktinfo { ipi_ifindex: index, ipi_spec_dst: any, ipi_addr: any };
    let mut control = Control([MaybeUninit::zeroed(); 64]);
    let send = |place: *const libc::sockaddr, length: libc::socklen_t| {
        // SAFETY: any bits are a valid header, whose members are set where they matter.
        let mut header: msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        header.msg_name = place.cast_mut().cast();
        header.msg_namelen = length;
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = space(size_of_val(&info)) as _;
        // SAFETY: the control messages' space has room for one of this size, aligned as its type requires.
        unsafe {
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            (*first).cmsg_level = libc::IPPROTO_IP;
            (*first).cmsg_type = libc::IP_PKTINFO;
            (*first).cmsg_len = libc::CMSG_LEN(size_of_val(&info) as libc::c_uint) as _;
            libc::CMSG_DATA(first).cast::<libc::in_pktinfo>().write_unaligned(info);
        }
        let how = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: a header with data, an address of that length and a control message; the descriptor is open.
        let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, how) };
        // The length of a datagram at most.
        c_int::try_from(sent).unwrap_or(c_int::MAX)
    };
    name(address, send).map(|sent| usize::try_from(sent).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket_pair;
    use rustix::net::SendFlags;
    use std::io::Read;
    use std::os::fd::AsFd;

    #[test]
    fn what_comes_along_is_closed_and_an_empty_message_is_not_the_end() {
        for kind in [SocketType::DGRAM, SocketType::SEQPACKET] {
            let (ours, theirs) = socket_pair(kind).unwrap();
            let beside = Beside::of_messages(ours.as_fd(), 10).unwrap();
            let mut buffer = [0; 5];
            let (mut end, sent) = std::io::pipe().unwrap();
            send_fd(&theirs, b"with one", sent.as_fd());
            drop(sent);
            assert_eq!(beside.receive(ours.as_fd(), &mut buffer).unwrap().0, 8);
            assert_eq!((&buffer, &*beside.rest()), (b"with ", b"one".as_slice()));
            // The pipe's other end is gone: nobody has got it.
            assert_eq!(end.read(&mut [0]).unwrap(), 0);
            for (data, length) in [(b"".as_slice(), 0), (&[1; 40], 40)] {
                rustix::net::send(&theirs, data, SendFlags::empty()).unwrap();
                assert_eq!(beside.receive(ours.as_fd(), &mut buffer).unwrap().0, length);
            }
            drop(theirs);
            let end = beside.receive(ours.as_fd(), &mut buffer).map(|_| ());
            // A datagram socket has no end.
            assert_eq!(end, Err(if kind == SocketType::SEQPACKET { ENDED } else { Errno::AGAIN }));
        }
    }

    #[test]
    fn descriptors_that_find_room_are_closed_too() {
        let (ours, theirs) = socket_pair(SocketType::DGRAM).unwrap();
        let mut beside = Beside::of_messages(ours.as_fd(), 0).unwrap();
        beside.control = size_of::<Control>();
        let (mut end, sent) = std::io::pipe().unwrap();
        send_fd(&theirs, b"x", sent.as_fd());
        drop(sent);
        beside.receive(ours.as_fd(), &mut [0; 5]).unwrap();
        assert_eq!(end.read(&mut [0]).unwrap(), 0);
    }

    fn send_fd(socket: &OwnedFd, data: &[u8], fd: BorrowedFd<'_>) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = rustix::net::SendAncillaryBuffer::new(&mut space);
        let fds = [fd];
        beside.push(rustix::net::SendAncillaryMessage::ScmRights(&fds));
        let data = io::IoSlice::new(data);
        rustix::net::sendmsg(socket, &[data], &mut beside, SendFlags::empty()).unwrap();
    }
}
