//! The receive calls that the engine makes itself: messages from streams, and datagrams.

use std::os::fd::BorrowedFd;

use rustix::net::{RecvFlags, SocketAddrAny};

use crate::sys::{self, Beside};

/// A stream socket to receive from, and the most bytes to take.
#[derive(Clone, Copy)]
pub(crate) struct Incoming<'a> {
    pub(crate) fd: BorrowedFd<'a>,
    /// Descriptors may come along. They are turned away, for lack of a place to put them.
    pub(crate) is_unix: bool,
    pub(crate) most: usize,
}

/// The number of bytes received, and whether the call stopped at file descriptors: then there may be more.
pub(crate) type Received = rustix::io::Result<(usize, bool)>;

/// A datagram's length, which may exceed the buffer, and its sender.
pub(crate) type Datagram = rustix::io::Result<(usize, Option<SocketAddrAny>)>;

impl Incoming<'_> {
    /// Receives what there is. In the caller's own frame, see [`Engine::serve`](super::Engine::serve).
    #[inline(always)]
    pub(super) fn receive(self, buffer: &mut [u8]) -> Received {
        let most = self.most.min(buffer.len());
        let buffer = &mut buffer[..most];
        if !self.is_unix {
            return Ok((sys::receive(self.fd, buffer, RecvFlags::DONTWAIT)?, false));
        }
        sys::receive_alone(self.fd, buffer, RecvFlags::DONTWAIT)
    }
}

/// A socket to receive datagrams from.
#[derive(Clone, Copy)]
pub(crate) struct DatagramSource<'a> {
    pub(crate) fd: BorrowedFd<'a>,
    /// Takes what comes beside the bytes, if that is wanted.
    pub(crate) beside: Option<&'a Beside>,
}

impl DatagramSource<'_> {
    /// Receives a datagram, if there is one.
    #[inline(always)]
    pub(crate) fn receive(self, buffer: &mut [u8]) -> Datagram {
        if let Some(beside) = self.beside {
            return beside.receive(self.fd, buffer);
        }
        let (_, size, from) = rustix::net::recvfrom(self.fd, buffer, RecvFlags::DONTWAIT | RecvFlags::TRUNC)?;
        Ok((size, from))
    }
}
