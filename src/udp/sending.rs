//! Sending datagrams. What the kernel does not take at once is waited for, and errors that concern earlier datagrams are kept
//! for whoever receives.

use std::fmt::Display;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::task::Poll;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, SendFlags, SocketAddrUnix, SocketType, sockopt};

use super::MAX_DATAGRAM_SIZE;
use super::core::{Core, REFUSALS, Start, inet};
use super::message::MessageSocket;
use super::waiting::{Deadline, For, Waiting};
use crate::address::{Endpoint, endpoint};
use crate::error::{Error, Operation, Result};
use crate::sys;

/// The kernel's share of a unix socket's send buffer, which no message can use.
const UNIX_OVERHEAD: usize = 32;

/// The address of a destination, in the form that the socket needs.
pub(super) enum Remote {
    Inet(SocketAddr),
    Unix(SocketAddrUnix),
}

impl Remote {
    pub(super) fn endpoint(&self) -> Endpoint {
        match self {
            Remote::Inet(address) => endpoint(*address),
            Remote::Unix(address) => endpoint(address.clone()),
        }
    }
}

impl Core {
    /// Passes one datagram to the kernel, to the peer unless an address is given.
    fn transmit(&self, data: &[u8], to: Option<&Remote>) -> Result<(), Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        self.transmit_by(|fd| match to {
            Some(Remote::Inet(to)) => sys::send_to(fd, data, flags, to),
            Some(Remote::Unix(to)) => sys::send_to(fd, data, flags, to),
            None => rustix::net::send(fd, data, flags),
        })
    }

    pub(super) fn transmit_by(&self, send: impl Fn(BorrowedFd<'_>) -> Result<usize, Errno>) -> Result<(), Errno> {
        let fd = self.open().map_err(|_| Errno::NOTCONN)?;
        let mut failed = Errno::AGAIN;
        for _ in 0..REFUSALS {
            match send(fd) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                // Longer than the path carries. The kernel has queued it as an error, like a refusal.
                Err(Errno::MSGSIZE) if self.keeps_refusals => {
                    self.refused_by();
                    return Err(Errno::MSGSIZE);
                }
                // The error may concern an earlier datagram to another address; this one has not been sent.
                Err(errno) if errno != Errno::AGAIN && self.keeps_refusals => {
                    let Some(peer) = self.refused_by() else { return Err(errno) };
                    self.note_refusal(peer, errno);
                    failed = errno;
                }
                Err(errno) => return Err(errno),
            }
        }
        Err(failed)
    }

    fn note_refusal(&self, peer: SocketAddr, errno: Errno) {
        let mut refused = self.refused.borrow_mut();
        if refused.len() == REFUSALS {
            refused.pop_front();
        }
        refused.push_back((Endpoint::Inet(peer), errno));
        drop(refused);
        self.wake(For::Input);
        self.requeue_reader();
    }

    /// Returns the destination of the datagram that the last error concerns.
    pub(super) fn refused_by(&self) -> Option<SocketAddr> {
        let mut data = [0u8; 1];
        let mut none = RecvAncillaryBuffer::default();
        let flags = RecvFlags::ERRQUEUE | RecvFlags::DONTWAIT;
        let fd = self.open().ok()?;
        let told = rustix::net::recvmsg(fd, &mut [io::IoSliceMut::new(&mut data)], &mut none, flags);
        told.ok()?.address.and_then(inet)
    }

    /// Sends; while there is no room, waits until the deadline.
    pub(super) fn send(self: &Rc<Self>, data: &[u8], to: Option<&Remote>, name: &dyn Display) -> Result {
        let deadline = self.deadline();
        loop {
            match self.transmit(data, to) {
                Ok(()) => return Ok(()),
                Err(Errno::AGAIN) => self.wait_for_room(to, name, &deadline)?,
                Err(errno) => return Err(self.not_sent(name, data.len(), errno)),
            }
        }
    }

    fn wait_for_room(self: &Rc<Self>, to: Option<&Remote>, name: &dyn Display, deadline: &Deadline) -> Result {
        self.may_wait(For::Room, deadline).map_err(|_| Error::NotReady { peer: name.to_string() })?;
        match self.full_receiver(to, name)? {
            Some(receiver) => receiver.core.wait(For::Room, deadline),
            None => self.wait(For::Room, deadline),
        }
    }

    /// Sends as soon as there is room.
    pub(super) async fn send_when_room(
        self: &Rc<Self>,
        data: &[u8],
        to: Option<&Remote>,
        name: &dyn Display,
    ) -> Result {
        // The receiver stays open as long as it is waited for.
        let mut waiting: Option<(Waiting, Option<MessageSocket>)> = None;
        poll_fn(|context| match self.transmit(data, to) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(Errno::AGAIN) => {
                let receiver = match self.full_receiver(to, name) {
                    Ok(receiver) => receiver,
                    Err(error) => return Poll::Ready(Err(error)),
                };
                let place = receiver.as_ref().map_or(self, |receiver| &receiver.core);
                let (place, _) = waiting.insert((Waiting::new(place, For::Room), receiver));
                place.wait(context.waker());
                Poll::Pending
            }
            Err(errno) => Poll::Ready(Err(self.not_sent(name, data.len(), errno))),
        })
        .await
    }

    /// If there is room in this socket and none at the destination, returns a socket that is connected to it, which the kernel
    /// tells of room there. It tells an unconnected one nothing.
    fn full_receiver(&self, to: Option<&Remote>, name: &dyn Display) -> Result<Option<MessageSocket>> {
        let Some(Remote::Unix(address)) = to else { return Ok(None) };
        let fd = self.open()?;
        let queued = sys::backlog(fd).map_or(0, |backlog| backlog.unacknowledged);
        if queued >= sockopt::socket_send_buffer_size(fd).unwrap_or(0) {
            return Ok(None);
        }
        let connected = sys::message_socket(SocketType::DGRAM).and_then(|fd| {
            sys::connect(&fd, address)?;
            Ok(fd)
        });
        let fd = connected.map_err(|errno| self.not_sent(name, 0, errno))?;
        let core = Core::start(self.engine(), fd, Start::default());
        let failed = |source| Error::Io { operation: Operation::Send, address: name.to_string(), source };
        Ok(Some(MessageSocket::from_core(core.map_err(failed)?)))
    }

    pub(super) fn fix_peer(&self, to: &Remote) -> Result<(), Errno> {
        let fd = self.open().map_err(|_| Errno::NOTCONN)?;
        match to {
            Remote::Inet(to) => sys::connect(fd, to)?,
            Remote::Unix(to) => sys::connect(fd, to)?,
        }
        let peer = match sys::peer_address(fd) {
            // Without a port, as raw sockets have none, the kernel does not tell the peer.
            Err(Errno::NOTCONN) => Some(to.endpoint()),
            peer => peer?.and_then(|peer| self.known(peer)),
        };
        self.peer.replace(peer);
        Ok(())
    }

    /// Returns the error of a datagram that has not been sent.
    pub(super) fn not_sent(&self, name: &dyn Display, size: usize, errno: Errno) -> Error {
        let peer = || name.to_string();
        match errno {
            _ if !self.is_open() => self.closed(),
            Errno::MSGSIZE => Error::DatagramTooLarge { peer: peer(), size, limit: self.size_limit() },
            Errno::ACCESS if self.is_udp && !self.is_broadcast() => Error::Io {
                operation: Operation::Send,
                address: peer(),
                source: io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "permission denied; broadcast addresses require set_broadcast(true)",
                ),
            },
            Errno::NOTCONN | Errno::DESTADDRREQ if !self.is_seqpacket => self.no_peer(),
            Errno::PIPE if self.was_reset.get() => Error::Reset { peer: peer() },
            Errno::CONNREFUSED | Errno::NOENT if !self.is_inet() => {
                Error::Refused { address: peer(), source: errno.into() }
            }
            errno => self.failed_with(Operation::Send, peer(), errno),
        }
    }

    pub(super) fn no_peer(&self) -> Error {
        let method = if self.is_udp { "connect" } else { "set_peer" };
        Error::Unsupported(format!("{} is not connected; call {method} first or use send_to", self.name()))
    }

    pub(super) fn is_broadcast(&self) -> bool {
        self.open().is_ok_and(|fd| sockopt::socket_broadcast(fd).unwrap_or(false))
    }

    /// Returns the most bytes that this socket can send at once.
    fn size_limit(&self) -> usize {
        if self.is_udp {
            return MAX_DATAGRAM_SIZE;
        }
        let buffer = self.open().map_or(0, |fd| sockopt::socket_send_buffer_size(fd).unwrap_or(0));
        buffer.saturating_sub(UNIX_OVERHEAD)
    }
}

/// Refuses datagrams larger than the maximum of UDP.
pub(super) fn check_size(size: usize, peer: &dyn Display) -> Result {
    if size > MAX_DATAGRAM_SIZE {
        return Err(Error::DatagramTooLarge { peer: peer.to_string(), size, limit: MAX_DATAGRAM_SIZE });
    }
    Ok(())
}
