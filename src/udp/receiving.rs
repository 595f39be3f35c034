//! Receiving datagrams by asking, and what the outcome of a receive call means.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketAddrAny};

use super::core::{Core, inet};
use super::waiting::For;
use crate::address::Endpoint;
use crate::engine::Datagram;
use crate::error::{Error, Operation, Result};
use crate::sys::{ENDED, poll_for};

/// A datagram's length and sender, or an error and the address it concerns. The sender is `None` if its family is not ours.
pub(super) type Outcome = Result<(usize, Option<Endpoint>), (Option<Endpoint>, Errno)>;

/// A datagram and its sender.
pub(super) type Received = (Vec<u8>, Option<Endpoint>);

impl Core {
    /// Receives one datagram, from the peer if there is one. Its length may exceed the space for it.
    fn receive(&self, buffer: &mut [u8]) -> Outcome {
        if let Some((peer, errno)) = self.refused.borrow_mut().pop_front() {
            return Err((Some(peer), errno));
        }
        let source = self.source().ok_or((None, Errno::NOTCONN))?;
        loop {
            if let Some(outcome) = self.outcome(source.receive(buffer)) {
                return outcome;
            }
        }
    }

    /// Interprets the result of a receive call. `None` if the datagram is to be ignored and the next one received.
    pub(super) fn outcome(&self, received: Datagram) -> Option<Outcome> {
        let errno = match received {
            Ok((size, from)) => {
                let from = self.sender(from);
                // Sent by a stranger before the peer was fixed.
                return match from {
                    Some(from) if self.is_stranger(&from) => None,
                    None if self.is_inet() => Some(Err((None, Errno::AFNOSUPPORT))),
                    from => Some(Ok((size, from))),
                };
            }
            Err(Errno::INTR) => return None,
            Err(errno) => errno,
        };
        let concerned = match errno {
            Errno::AGAIN => None,
            _ if self.keeps_refusals => self.refused_by().map(Endpoint::Inet),
            _ => None,
        };
        // The kernel tells a reset once, and then an end.
        let is_reset = self.is_seqpacket && errno == Errno::CONNRESET;
        self.was_reset.set(self.was_reset.get() || is_reset);
        let errno = if errno == ENDED && self.was_reset.get() { Errno::CONNRESET } else { errno };
        Some(Err((concerned.or_else(|| self.peer()), errno)))
    }

    /// Returns the sender of a datagram.
    fn sender(&self, from: Option<SocketAddrAny>) -> Option<Endpoint> {
        match from {
            Some(from) => self.known(from),
            None if self.family == AddressFamily::UNIX => Some(Endpoint::Unix(None)),
            None => None,
        }
    }

    fn is_stranger(&self, from: &Endpoint) -> bool {
        let peer = self.peer.borrow();
        match (&*peer, from) {
            // A connection has one sender.
            _ if self.is_seqpacket => false,
            (Some(Endpoint::Inet(peer)), Endpoint::Inet(from)) => (peer.ip(), peer.port()) != (from.ip(), from.port()),
            (Some(peer), from) => peer != from,
            (None, _) => false,
        }
    }

    /// Returns the first `size` bytes of what has been received, as far as there was space for them.
    pub(super) fn whole<'a>(&self, buffer: &'a [u8], size: usize) -> Cow<'a, [u8]> {
        let size = size.min(self.max_message);
        match (&self.beside, size.checked_sub(buffer.len())) {
            (_, None | Some(0)) => Cow::Borrowed(&buffer[..size]),
            (None, _) => Cow::Borrowed(buffer),
            (Some(beside), Some(more)) => {
                let rest = beside.rest();
                Cow::Owned([buffer, &rest[..more.min(rest.len())]].concat())
            }
        }
    }

    pub(super) fn truncated(&self, from: Option<&Endpoint>, size: usize, limit: usize, data: &[u8]) -> Error {
        let peer = from.map_or_else(|| self.name(), Endpoint::to_string);
        Error::DatagramTruncated { peer, size, limit, data: data.into() }
    }

    pub(super) fn recv_from(&self, max: usize) -> Result<Received> {
        self.until_input(|| self.try_recv_from(max))
    }

    pub(super) fn recv_from_into(&self, buffer: &mut [u8]) -> Result<(usize, Option<Endpoint>)> {
        self.until_input(|| {
            let Some((size, from)) = self.taken(self.receive(buffer))? else { return Ok(None) };
            if size > buffer.len() {
                return Err(self.truncated(from.as_ref(), size, buffer.len(), &[]));
            }
            Ok(Some((size, from)))
        })
    }

    fn until_input<T>(&self, mut receive: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let deadline = self.deadline();
        loop {
            match receive()? {
                Some(received) => return Ok(received),
                None => self.wait(For::Input, &deadline)?,
            }
        }
    }

    /// Receives one datagram, if there is one.
    pub(super) fn try_recv_from(&self, max: usize) -> Result<Option<Received>> {
        let engine = self.engine();
        let mut buffer = engine.take_buffer();
        let Some(space) = Rc::get_mut(&mut buffer) else { return Ok(None) };
        let received = self.receive(space);
        let data = received.as_ref().ok().map(|(size, _)| self.whole(&buffer, max.min(*size)).into_owned());
        engine.give_buffer(buffer);
        let (Some((size, from)), Some(data)) = (self.taken(received)?, data) else { return Ok(None) };
        if size > data.len() {
            return Err(self.truncated(from.as_ref(), size, data.len(), &data));
        }
        Ok(Some((data, from)))
    }

    fn taken(&self, received: Outcome) -> Result<Option<(usize, Option<Endpoint>)>> {
        match received {
            Ok(received) => Ok(Some(received)),
            Err((_, Errno::AGAIN)) => Ok(None),
            Err(_) if !self.is_open() => Err(self.closed()),
            Err((peer, errno)) => Err(self.failed(Operation::Receive, peer.as_ref(), errno)),
        }
    }

    /// Returns whether a receiving call would return at once. Datagrams of strangers do not count.
    pub(super) fn is_readable(&self) -> bool {
        let Ok(fd) = self.open() else { return true };
        if !self.refused.borrow().is_empty() {
            return true;
        }
        loop {
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
            if poll_for(&mut fds, Some(Duration::ZERO)).is_ok() && fds[0].revents().is_empty() {
                return false;
            }
            if self.peer.borrow().is_none() || self.is_seqpacket || fds[0].revents().intersects(PollFlags::ERR) {
                return true;
            }
            match rustix::net::recvfrom(fd, &mut [0u8; 1], RecvFlags::DONTWAIT | RecvFlags::PEEK) {
                Ok((_, _, from)) if self.sender(from.clone()).is_some_and(|from| self.is_stranger(&from)) => {
                    let _ = rustix::net::recvfrom(fd, &mut [0u8; 1], RecvFlags::DONTWAIT);
                }
                Err(Errno::AGAIN) => return false,
                _ => return true,
            }
        }
    }
}

impl Core {
    /// Returns the endpoint of an address, if its family is one of ours.
    pub(super) fn known(&self, address: SocketAddrAny) -> Option<Endpoint> {
        match self.family {
            AddressFamily::UNIX => Some(crate::address::endpoint(address)),
            _ => inet(address).map(Endpoint::Inet),
        }
    }
}
