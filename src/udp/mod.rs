//! Sockets for datagrams: `UdpSocket`, and `MessageSocket` for all other kinds. They share the state (`core`) and what it
//! does (`receiving`, `sending`, `waiting`), and most methods (`faces`).

mod arrival;
mod broadcast;
mod builder;
mod core;
mod destination;
mod faces;
mod futures;
pub(crate) mod handle;
mod message;
mod message_builder;
mod options;
mod receiving;
mod selecting;
mod sending;
mod waiting;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::sockopt;

use crate::address::{Address, Endpoint};
use crate::error::{Error, Operation, Result};
use crate::resolve;
pub use arrival::Arrival;
pub use builder::UdpBuilder;
pub use destination::Destination;
use destination::{Place, clothed, order, place};
use faces::datagram_methods;
pub(crate) use handle::UdpSocket;
pub use handle::WeakUdpSocket;
pub use message::{MessageSocket, WeakMessageSocket};
pub use message_builder::{MessageBuilder, MessageKind};
use sending::{Remote, check_size};

const MAX_DATAGRAM_SIZE: usize = 65_507;

datagram_methods!(UdpSocket, SocketAddr, shown);

/// Returns the sender of a datagram. The kernel tells that of each, or the datagram is an error.
fn shown(from: Option<Endpoint>) -> SocketAddr {
    from.and_then(|from| from.inet()).unwrap_or(NOWHERE)
}

const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);

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
        self.try_each(addresses, |to| self.fix_peer(to))
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
        match place {
            Place::Known(to) => self.core.send(data, Some(&self.remote_at(to)?), &to),
            place => self.try_each(self.addresses(place)?, |to| self.core.send(data, Some(&self.remote_at(to)?), &to)),
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
        check_size(data.len(), &peer)?;
        self.core.send(data, None, &peer)
    }

    fn needed_peer(&self) -> Result<SocketAddr> {
        self.core.open()?;
        self.remote().ok_or_else(|| self.core.no_peer())
    }

    /// Returns the address in the form that this socket needs.
    fn remote_at(&self, to: SocketAddr) -> Result<Remote> {
        clothed(to, self.core.is_v6()).map(Remote::Inet)
    }

    fn fix_peer(&self, to: SocketAddr) -> Result {
        let fixed = self.core.fix_peer(&self.remote_at(to)?);
        fixed.map_err(|errno| match self.is_open() {
            true => self.core.failed_with(Operation::Connect, to.to_string(), errno),
            false => self.core.closed(),
        })
    }

    /// Tries addresses in order until one has a route.
    fn try_each(&self, addresses: Vec<SocketAddr>, try_one: impl Fn(SocketAddr) -> Result) -> Result {
        let mut failed = None;
        for to in addresses {
            match try_one(to) {
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
            Place::Known(to) => return clothed(to, self.core.is_v6()).map(|_| vec![to]),
            Place::Address(address) => address,
        };
        let limit = self.core.timeout.get().unwrap_or(resolve::LIMIT);
        if limit.is_zero() && resolve::needs_look_up(&address) {
            return Err(address.unfit(
                "resolving a host name would block, and the timeout is zero; resolve it first with names::lookup",
            ));
        }
        order(resolve::blocking(&address, limit)?, self.core.is_v6(), &address)
    }

    /// Converts the socket into std's, in blocking mode. All handles are closed.
    ///
    /// # Errors
    /// [`Error::Closed`], or [`Error::Io`].
    pub fn into_std(self) -> Result<std::net::UdpSocket> {
        Ok(self.core.take_fd()?.into())
    }

    // ---- about the socket ----

    /// Returns the local address: the wildcard address if the socket is bound to all addresses and not connected. Once
    /// closed, the address that it had.
    pub fn local(&self) -> SocketAddr {
        self.core.local().and_then(|local| local.inet()).unwrap_or(NOWHERE)
    }

    /// Returns the port that the socket is bound to.
    pub fn port(&self) -> u16 {
        self.local().port()
    }

    /// The peer that [`connect`](UdpSocket::connect) has fixed.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.core.peer().and_then(|peer| peer.inet())
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
