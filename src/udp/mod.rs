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
    /// The most bytes that one datagram can hold over IPv4, and what is accepted here for IPv6 too. Those over some 1200
    /// bytes travel in pieces, of which each may be lost; some networks let none of these pass.
    pub const MAX_DATAGRAM_SIZE: usize = MAX_DATAGRAM_SIZE;

    /// Binds to a port, of all addresses of this machine (IPv6 and IPv4) or of the one that is named; see [`Address`] for
    /// what may be given. Port 0 picks a free one. Never blocks.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::InUse`], [`Error::WrongThread`], or [`Error::Io`].
    pub fn bind<A>(address: A) -> Result<UdpSocket>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        UdpSocket::builder().bind(address)
    }

    /// Sets options before binding.
    pub fn builder() -> UdpBuilder {
        UdpBuilder::default()
    }

    /// Makes a socket of a descriptor, which it owns from then on. The descriptor's blocking mode is left as it is.
    ///
    /// # Errors
    /// [`Error::WrongThread`], or [`Error::Io`] if it is no UDP socket.
    pub fn from_fd(fd: impl Into<OwnedFd>) -> Result<UdpSocket> {
        UdpSocket::builder().from_fd(fd)
    }

    /// Fixes the peer: [`send`](UdpSocket::send) goes there, and what comes from anybody else is dropped, what waits
    /// already included. A second call fixes another. No traffic; **blocks** for a host name, which is looked up.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::Lookup`], [`Error::Unreachable`] if no route leads there, [`Error::Closed`].
    pub fn connect(&self, to: impl Destination) -> Result {
        let addresses = self.addresses(place(to)?)?;
        self.try_each(addresses, 0, |to| self.core.fix_peer(to))
    }

    // ---- sending ----

    /// Sends one datagram, which may be empty. Waits only if the system has no room, up to the
    /// [time-out](UdpSocket::set_timeout), and inside a callback not even then; **blocks** for a host name, which is
    /// looked up.
    ///
    /// That the datagram was sent does not mean that it came, nor that anybody listens there; see
    /// [`icmp_errors`](UdpBuilder::icmp_errors).
    ///
    /// # Errors
    /// Nothing was sent with any of them. [`Error::DatagramTooLarge`] over
    /// [`MAX_DATAGRAM_SIZE`](UdpSocket::MAX_DATAGRAM_SIZE), [`Error::NotReady`] without room (the time-out is zero, or this
    /// is a callback), [`Error::TimedOut`], [`Error::Unreachable`] if no route leads there, [`Error::Io`] with
    /// `PermissionDenied` to a broadcast address without [`set_broadcast`](UdpSocket::set_broadcast), [`Error::Address`],
    /// [`Error::Lookup`], [`Error::Closed`].
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

    /// Sends one datagram to the peer that [`connect`](UdpSocket::connect) has fixed. Waits as
    /// [`send_to`](UdpSocket::send_to) does; no name is looked up.
    ///
    /// # Errors
    /// As there. [`Error::Refused`] tells that an *earlier* datagram was refused, as when nobody listens there; this one
    /// was not sent, and the socket is as good as before. [`Error::Unsupported`] if no peer is fixed.
    pub fn send(&self, data: impl AsRef<[u8]>) -> Result {
        let data = data.as_ref();
        let peer = self.needed_peer()?;
        check_size(data.len(), peer)?;
        self.until_room(peer, data.len(), || self.core.transmit(data, None))
    }

    fn needed_peer(&self) -> Result<SocketAddr> {
        self.core.open()?;
        self.core.peer().ok_or_else(|| {
            Error::Unsupported(format!("{} has no peer to send to: connect it first, or use send_to", self.core.name()))
        })
    }

    /// Tries addresses in turn, until one has a route.
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

    /// **Blocks** for a name.
    fn addresses(&self, place: Place) -> Result<Vec<SocketAddr>> {
        self.core.open()?;
        let address = match place {
            Place::Known(to) => return clothed(to, self.core.is_v6).map(|_| vec![to]),
            Place::Address(address) => address,
        };
        let limit = self.core.timeout.get().unwrap_or(resolve::LIMIT);
        if limit.is_zero() && resolve::needs_look_up(&address) {
            return Err(address.unfit("a name must be looked up, and this socket is not to wait; look it up before"));
        }
        order(resolve::blocking(&address, limit)?, self.core.is_v6, &address)
    }

    /// Tries, and waits for room for as long as there is none and there is time.
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
                    "permission denied; a broadcast address must be allowed first, see set_broadcast",
                ),
            },
            _ => self.core.failed(Operation::Send, Some(to), errno),
        }
    }

    // ---- receiving by callback ----

    /// Calls `callback` with each datagram as it comes, whole, and where it came from; empty ones too. Replaces any other
    /// read callback. At most 64 are delivered in one turn of the loop, then others are served; a flood is served when
    /// nothing more urgent waits.
    ///
    /// An error that it returns goes to [`error_cb`](UdpSocket::error_cb), or to the log; the socket stays open.
    pub fn read(&self, callback: impl FnMut(&UdpSocket, &[u8], SocketAddr) -> Result + 'static) {
        self.core.set_reader(Some(Box::new(callback)));
    }

    /// Takes the read callback away. What comes after that waits with the system, as much as the
    /// [receive buffer](UdpSocket::set_recv_buffer) holds.
    pub fn unread(&self) {
        self.core.set_reader(None);
    }

    /// Sets who is told of errors while there is a read callback: what that returned, and that the fixed peer refuses
    /// what is sent ([`Error::Refused`]). None of them closes the socket. Replaces the one before. Without one, they are
    /// logged.
    pub fn error_cb(&self, callback: impl FnMut(&UdpSocket, Error) + 'static) {
        self.core.set_on_error(Some(Box::new(callback)));
    }

    /// Takes the error callback away.
    pub fn unset_error_cb(&self) {
        self.core.set_on_error(None);
    }

    // ---- receiving by asking ----

    /// Waits for a datagram and returns it, and where it came from. **Blocks**, up to the
    /// [time-out](UdpSocket::set_timeout).
    ///
    /// # Errors
    /// [`Error::DatagramTruncated`] if it has more than `max` bytes: the error has the first of them, the rest is lost.
    /// [`Error::TimedOut`], or [`Error::NotReady`] if the time-out is zero. [`Error::Refused`] and [`Error::Unreachable`]
    /// tell what became of a datagram that was sent before, and the socket is as good as it was. [`Error::Closed`],
    /// [`Error::Io`].
    pub fn recv_from(&self, max: usize) -> Result<(Vec<u8>, SocketAddr)> {
        self.until_input(|| self.try_recv_from(max))
    }

    /// As [`recv_from`](UdpSocket::recv_from), into the caller's buffer. **Blocks**. Gives the number of bytes.
    ///
    /// # Errors
    /// As there. The buffer is filled when it is [`Error::DatagramTruncated`], whose `data` is empty then.
    pub fn recv_from_into(&self, buffer: &mut [u8]) -> Result<(usize, SocketAddr)> {
        self.until_input(|| {
            let Some((size, from)) = self.received(self.core.receive(buffer))? else { return Ok(None) };
            if size > buffer.len() {
                return Err(Error::DatagramTruncated { from, size, limit: buffer.len(), data: Box::default() });
            }
            Ok(Some((size, from)))
        })
    }

    /// As [`recv_from`](UdpSocket::recv_from), for sockets with a fixed peer. **Blocks**.
    ///
    /// # Errors
    /// As there.
    pub fn recv(&self, max: usize) -> Result<Vec<u8>> {
        Ok(self.recv_from(max)?.0)
    }

    /// As [`recv_from_into`](UdpSocket::recv_from_into), for sockets with a fixed peer. **Blocks**.
    ///
    /// # Errors
    /// As there.
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

    /// One datagram, if one is there.
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

    /// Closes the socket: the port is free again, callbacks are dropped, and futures that wait end with
    /// [`Error::Closed`]. What was sent is with the system already and goes out. Never blocks.
    #[doc(alias = "unbind")]
    pub fn close(&self) {
        self.core.close();
    }

    /// Has it not been closed?
    pub fn is_open(&self) -> bool {
        self.core.is_open()
    }

    /// Hands the socket over to std, in blocking mode. All handles are closed.
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

    /// Our own address: the unspecified one if it is bound to all and has no fixed peer. Once closed, that which it had.
    pub fn local(&self) -> SocketAddr {
        self.core.local().unwrap_or(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))
    }

    /// The port that it is bound to.
    pub fn port(&self) -> u16 {
        self.local().port()
    }

    /// The peer that [`connect`](UdpSocket::connect) has fixed.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.core.peer()
    }

    /// How long a blocking call waits, from now on: `None`, the default, without end; zero not at all, then calls that
    /// would have to wait fail with [`Error::NotReady`].
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
