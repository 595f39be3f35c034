//! [`UdpSocket`]: datagrams. The builder, the options, the futures and the state have a file each.
// [`UdpSocket`]: datagrams. The builder, the options, the futures and what lies behind them have a file each.

mod builder;
mod core;
mod destination;
mod futures;
pub(crate) mod handle;
mod options;
mod selecting;

use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;

use crate::address::Address;
use crate::engine::READ_BUFFER;
use crate::error::{Error, Operation, Result};
use crate::resolve;
pub use builder::UdpBuilder;
use core::{For, check_size};
pub use destination::Destination;
use destination::{Place, clothed, order, place};
pub(crate) use handle::UdpSocket;
pub use handle::WeakUdpSocket;

const MAX_DATAGRAM_SIZE: usize = 65_507;

impl UdpSocket {
    /// The largest datagram over IPv4, in bytes; it is the limit here for IPv6 too. Datagrams of more than about 1200 bytes
    /// travel in fragments, any of which may be lost; some networks drop all of them.
    pub const MAX_DATAGRAM_SIZE: usize = MAX_DATAGRAM_SIZE;

    /// Binds to a port, on all addresses of this machine (IPv6 and IPv4) or on the given one. Port 0 selects a free port.
    /// See [`Address`] for all forms.
    ///
    /// # Errors
    /// - [`Error::Address`] if the address is invalid or cannot be bound.
    /// - [`Error::InUse`] if it is taken.
    /// - [`Error::WrongThread`] if another thread owns the main context.
    /// - [`Error::Io`] for any other failure.
    pub fn bind<A>(address: A) -> Result<UdpSocket>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        UdpSocket::builder().bind(address)
    }

    /// Returns a builder with all options.
    pub fn builder() -> UdpBuilder {
        UdpBuilder::default()
    }

    /// Takes ownership of the file descriptor of a UDP socket. Its blocking mode stays as it is.
    ///
    /// # Errors
    /// [`Error::WrongThread`], or [`Error::Io`] if the descriptor is not a UDP socket.
    pub fn from_fd(fd: impl Into<OwnedFd>) -> Result<UdpSocket> {
        UdpSocket::builder().from_fd(fd)
    }

    /// Fixes the peer. [`send`](UdpSocket::send) sends to it, and datagrams from all other addresses are dropped, including
    /// those already received. Further calls change the peer. Causes no traffic.
    ///
    /// # Blocking
    /// While a host name is resolved.
    ///
    /// # Errors
    /// - [`Error::Address`] if the address is invalid.
    /// - [`Error::Lookup`] if the host name cannot be resolved.
    /// - [`Error::Unreachable`] if there is no route.
    /// - [`Error::Closed`] if the socket is closed.
    pub fn connect(&self, to: impl Destination) -> Result {
        let addresses = self.addresses(place(to)?)?;
        self.try_each(addresses, 0, |to| self.core.fix_peer(to))
    }

    // ---- sending ----

    /// Sends one datagram, which may be empty.
    ///
    /// A successful call does not mean that the datagram arrived or that anybody listens there; see
    /// [`icmp_errors`](UdpBuilder::icmp_errors).
    ///
    /// # Blocking
    /// While the send buffer is full, until the [timeout](UdpSocket::set_timeout) expires, but never inside a callback; and
    /// while a host name is resolved.
    ///
    /// # Errors
    /// Nothing has been sent in any of these cases.
    /// - [`Error::DatagramTooLarge`] for more than [`MAX_DATAGRAM_SIZE`](UdpSocket::MAX_DATAGRAM_SIZE) bytes.
    /// - [`Error::NotReady`] if the send buffer is full and the timeout is zero, or inside a callback. [`Error::TimedOut`]
    ///   if the timeout expires.
    /// - [`Error::Unreachable`] if there is no route.
    /// - [`Error::Io`] of kind `PermissionDenied` for a broadcast address without
    ///   [`set_broadcast`](UdpSocket::set_broadcast).
    /// - [`Error::Address`], [`Error::Lookup`], [`Error::Closed`].
    pub fn send_to(&self, data: impl AsRef<[u8]>, to: impl Destination) -> Result {
        let data = data.as_ref();
        let place = place(to)?;
        check_place(data.len(), &place)?;
        let transmit = |to| {
            let to = clothed(to, self.core.is_v6).map_err(|_| Errno::AFNOSUPPORT)?;
            self.core.transmit(data, Some(to))
        };
        match place {
            Place::Known(to) => {
                clothed(to, self.core.is_v6)?;
                self.until_room(to, data.len(), || transmit(to))
            }
            place => self.try_each(self.addresses(place)?, data.len(), transmit),
        }
    }

    /// Sends one datagram to the peer set by [`connect`](UdpSocket::connect).
    ///
    /// # Blocking
    /// While the send buffer is full, see [`send_to`](UdpSocket::send_to).
    ///
    /// # Errors
    /// See [`send_to`](UdpSocket::send_to). [`Error::Refused`] means that an *earlier* datagram was refused, for example
    /// because nobody listens there; this one was not sent, and the socket remains usable. [`Error::Unsupported`] if the
    /// socket is not connected.
    pub fn send(&self, data: impl AsRef<[u8]>) -> Result {
        let data = data.as_ref();
        let peer = self.needed_peer()?;
        check_size(data.len(), peer)?;
        self.until_room(peer, data.len(), || self.core.transmit(data, None))
    }

    fn needed_peer(&self) -> Result<SocketAddr> {
        self.core.open()?;
        self.core.peer().ok_or_else(|| {
            Error::Unsupported(format!("{} is not connected; call connect first or use send_to", self.core.name()))
        })
    }

    /// Tries addresses in order until one has a route.
    fn try_each(
        &self,
        addresses: Vec<SocketAddr>,
        size: usize,
        try_one: impl Fn(SocketAddr) -> Result<(), Errno>,
    ) -> Result {
        let mut failed = None;
        for to in addresses {
            match self.until_room(to, size, || try_one(to)) {
                Err(error @ Error::Unreachable { .. }) => drop(failed.get_or_insert(error)),
                outcome => return outcome,
            }
        }
        failed.map_or_else(|| Err(self.core.closed()), Err)
    }

    /// Resolves the destination. **Blocks** for a host name.
    fn addresses(&self, place: Place) -> Result<Vec<SocketAddr>> {
        self.core.open()?;
        let address = match place {
            Place::Known(to) => return clothed(to, self.core.is_v6).map(|_| vec![to]),
            Place::Address(address) => address,
        };
        let limit = self.core.timeout.get().unwrap_or(resolve::LIMIT);
        if limit.is_zero() && resolve::needs_look_up(&address) {
            return Err(address.unfit(
                "resolving a host name would block, and the timeout is zero; resolve it first with names::lookup",
            ));
        }
        order(resolve::blocking(&address, limit)?, self.core.is_v6, &address)
    }

    /// Sends; while the send buffer is full, waits until the deadline.
    fn until_room(&self, to: SocketAddr, size: usize, send: impl Fn() -> Result<(), Errno>) -> Result {
        let deadline = self.core.deadline();
        loop {
            match send() {
                Ok(()) => return Ok(()),
                Err(Errno::AGAIN) => self.core.wait(For::Room, &deadline)?,
                Err(_) if !self.is_open() => return Err(self.core.closed()),
                Err(errno) => return Err(self.not_sent(to, size, errno)),
            }
        }
    }

    fn not_sent(&self, to: SocketAddr, size: usize, errno: Errno) -> Error {
        let peer = || to.to_string();
        match errno {
            Errno::MSGSIZE => Error::DatagramTooLarge { peer: peer(), size, limit: MAX_DATAGRAM_SIZE },
            Errno::ACCESS if !self.is_broadcast() => Error::Io {
                operation: Operation::Send,
                address: peer(),
                source: std::io::Error::new(
                    std::io::ErrorKind::PermissionDenied,
                    "permission denied; broadcast addresses require set_broadcast(true)",
                ),
            },
            _ => self.core.failed(Operation::Send, Some(to), errno),
        }
    }

    // ---- receiving by callback ----

    /// Sets a callback that receives each datagram and its sender, empty datagrams included.
    ///
    /// Replaces any previous read callback. At most 64 datagrams are delivered per loop iteration before others are served;
    /// a flood is served at low priority. If the callback returns an error, it goes to [`error_cb`](UdpSocket::error_cb) or
    /// to the log, and the socket stays open.
    pub fn read(&self, callback: impl FnMut(&UdpSocket, &[u8], SocketAddr) -> Result + 'static) {
        self.core.set_reader(Some(Box::new(callback)));
    }

    /// Removes the read callback. Further datagrams stay in the kernel's [receive buffer](UdpSocket::set_recv_buffer) as
    /// far as they fit.
    pub fn unread(&self) {
        self.core.set_reader(None);
    }

    /// Sets a callback for errors while there is a read callback: errors that the read callback returns, and refusals by
    /// the connected peer ([`Error::Refused`]). None of them closes the socket. Replaces any previous callback. Without it,
    /// errors are logged, at most [10 per second](UdpBuilder::error_log_rate).
    pub fn error_cb(&self, callback: impl FnMut(&UdpSocket, Error) + 'static) {
        self.core.set_on_error(Some(Box::new(callback)));
    }

    /// Removes the error callback.
    pub fn unset_error_cb(&self) {
        self.core.set_on_error(None);
    }

    // ---- receiving by asking ----

    /// Receives one datagram and its sender.
    ///
    /// # Blocking
    /// Until a datagram arrives or the [timeout](UdpSocket::set_timeout) expires.
    ///
    /// # Errors
    /// - [`Error::DatagramTruncated`] if the datagram has more than `max` bytes; the error contains the first `max` bytes,
    ///   the rest is lost.
    /// - [`Error::TimedOut`], or [`Error::NotReady`] if the timeout is zero.
    /// - [`Error::Refused`] and [`Error::Unreachable`] for a datagram that was sent earlier; the socket remains usable.
    /// - [`Error::Closed`], [`Error::Io`].
    pub fn recv_from(&self, max: usize) -> Result<(Vec<u8>, SocketAddr)> {
        self.until_input(|| self.try_recv_from(max))
    }

    /// Receives one datagram into `buffer`. Returns its length and sender. See [`recv_from`](UdpSocket::recv_from).
    ///
    /// # Blocking
    /// See [`recv_from`](UdpSocket::recv_from).
    ///
    /// # Errors
    /// See [`recv_from`](UdpSocket::recv_from). With [`Error::DatagramTruncated`], the buffer contains the first bytes and
    /// the error's `data` is empty.
    pub fn recv_from_into(&self, buffer: &mut [u8]) -> Result<(usize, SocketAddr)> {
        self.until_input(|| {
            let Some((size, from)) = self.received(self.core.receive(buffer))? else { return Ok(None) };
            if size > buffer.len() {
                return Err(Error::DatagramTruncated { from, size, limit: buffer.len(), data: Box::default() });
            }
            Ok(Some((size, from)))
        })
    }

    /// Receives one datagram, for connected sockets.
    ///
    /// # Blocking
    /// See [`recv_from`](UdpSocket::recv_from).
    ///
    /// # Errors
    /// See [`recv_from`](UdpSocket::recv_from).
    pub fn recv(&self, max: usize) -> Result<Vec<u8>> {
        Ok(self.recv_from(max)?.0)
    }

    /// Receives one datagram into `buffer`, for connected sockets. Returns its length.
    ///
    /// # Blocking
    /// See [`recv_from`](UdpSocket::recv_from).
    ///
    /// # Errors
    /// See [`recv_from_into`](UdpSocket::recv_from_into).
    pub fn recv_into(&self, buffer: &mut [u8]) -> Result<usize> {
        Ok(self.recv_from_into(buffer)?.0)
    }

    fn until_input<T>(&self, mut receive: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let deadline = self.core.deadline();
        loop {
            match receive()? {
                Some(received) => return Ok(received),
                None => self.core.wait(For::Input, &deadline)?,
            }
        }
    }

    /// Receives one datagram, if there is one.
    fn try_recv_from(&self, max: usize) -> Result<Option<(Vec<u8>, SocketAddr)>> {
        let engine = self.core.engine();
        let mut buffer = engine.take_buffer();
        let Some(space) = Rc::get_mut(&mut buffer) else { return Ok(None) };
        let received = self.core.receive(space);
        let data = received.as_ref().map(|(size, _)| buffer[..(*size).min(max).min(READ_BUFFER)].to_vec());
        engine.give_buffer(buffer);
        let (Some((size, from)), Ok(data)) = (self.received(received)?, data) else { return Ok(None) };
        if size > data.len() {
            return Err(Error::DatagramTruncated { from, size, limit: max, data: data.into() });
        }
        Ok(Some((data, from)))
    }

    fn received(
        &self,
        received: Result<(usize, SocketAddr), (Option<SocketAddr>, Errno)>,
    ) -> Result<Option<(usize, SocketAddr)>> {
        match received {
            Ok(received) => Ok(Some(received)),
            Err((_, Errno::AGAIN)) => Ok(None),
            Err(_) if !self.is_open() => Err(self.core.closed()),
            Err((peer, errno)) => Err(self.core.failed(Operation::Receive, peer, errno)),
        }
    }

    // ---- the end ----

    /// Closes the socket. The port is free again, callbacks are dropped, and pending futures fail with [`Error::Closed`].
    /// Datagrams already passed to the kernel are still sent.
    #[doc(alias = "unbind")]
    pub fn close(&self) {
        self.core.close();
    }

    /// Returns whether the socket is open.
    pub fn is_open(&self) -> bool {
        self.core.is_open()
    }

    /// Converts the socket into std's, in blocking mode. All handles are closed.
    ///
    /// # Errors
    /// [`Error::Closed`], or [`Error::Io`].
    pub fn into_std(self) -> Result<std::net::UdpSocket> {
        let fd = self.core.let_go().ok_or_else(|| self.core.closed())?;
        let set = rustix::io::ioctl_fionbio(&fd, false);
        set.map_err(|errno| self.core.failed(Operation::Option, None, errno))?;
        Ok(fd.into())
    }

    // ---- about the socket ----

    /// Returns the local address: the wildcard address if the socket is bound to all addresses and not connected. Once
    /// closed, the address that it had.
    pub fn local(&self) -> SocketAddr {
        self.core.local().unwrap_or(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))
    }

    /// Returns the port that the socket is bound to.
    pub fn port(&self) -> u16 {
        self.local().port()
    }

    /// The peer that [`connect`](UdpSocket::connect) has fixed.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.core.peer()
    }

    /// Sets the timeout of blocking calls on this socket.
    ///
    /// `None`, the default, means no timeout. Zero means non-blocking: calls that would block fail with
    /// [`Error::NotReady`]. Futures have no timeout.
    pub fn set_timeout(&self, limit: impl Into<Option<Duration>>) {
        self.core.timeout.set(limit.into());
    }
}

fn check_place(size: usize, place: &Place) -> Result {
    match place {
        Place::Known(to) => check_size(size, to),
        Place::Address(to) => check_size(size, to),
    }
}

/// Compiles the examples of that page.
#[cfg(doctest)]
#[doc = include_str!("../../docs/udp.md")]
struct Guide;
