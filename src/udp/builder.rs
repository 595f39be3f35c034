//! Options of a datagram socket; binding it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketType, sockopt};

use super::UdpSocket;
use super::core::{Core, Start};
use super::faces::common_setters;
use super::message_builder::CommonOptions;
use crate::address::{Address, Host, Target};
use crate::engine::Engine;
use crate::error::{Error, Operation, Result};
use crate::resolve::{local_addresses, port_number, unknown_interface};
use crate::sys::{
    self, Beside, bind_to_interface, datagram_socket, interface_number, is_missing_family, keep_refusals,
};

/// Options for a [`UdpSocket`], all with defaults. Created by [`UdpSocket::builder`]; most can be changed on an open
/// socket.
///
/// # Example
/// ```
/// let socket = network::UdpSocket::builder().broadcast(true).recv_buffer(1 << 20).bind(0)?;
/// # Ok::<(), network::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct UdpBuilder {
    reuse_address: bool,
    reuse_port: bool,
    only_v6: bool,
    icmp_errors: bool,
    broadcast: bool,
    arrivals: bool,
    interface: Option<String>,
    ttl: Option<u8>,
    tos: Option<u8>,
    common: CommonOptions,
}

impl UdpBuilder {
    common_setters!(UdpSocket);

    /// Allows other sockets to bind the same port, as all members of a multicast group do (`SO_REUSEADDR`). Default: off. A
    /// datagram to a group reaches all of them, a datagram to this machine reaches one of them.
    pub fn reuse_address(mut self, on: bool) -> Self {
        self.reuse_address = on;
        self
    }

    /// Allows several sockets of this user to share the port, each with a part of the peers (`SO_REUSEPORT`). Default: off.
    pub fn reuse_port(mut self, on: bool) -> Self {
        self.reuse_port = on;
        self
    }

    /// Restricts a socket bound to all IPv6 addresses to IPv6 (`IPV6_V6ONLY`). Default: off, it also serves IPv4.
    pub fn only_v6(mut self, on: bool) -> Self {
        self.only_v6 = on;
        self
    }

    /// Reports refusals to a socket that is not connected (`IP_RECVERR`): the next receiving call fails with
    /// [`Error::Refused`] or [`Error::Unreachable`], which name the refusing machine. Default: off, because a server should
    /// not be told of every client that has gone. A connected socket reports them in any case.
    pub fn icmp_errors(mut self, on: bool) -> Self {
        self.icmp_errors = on;
        self
    }

    /// Allows sending to broadcast addresses, see [`UdpSocket::set_broadcast`]. Default: off.
    pub fn broadcast(mut self, on: bool) -> Self {
        self.broadcast = on;
        self
    }

    /// Tells the local address of each datagram, see [`UdpSocket::arrival`]. Default: off, it costs a little for each one.
    pub fn arrivals(mut self, on: bool) -> Self {
        self.arrivals = on;
        self
    }

    /// Restricts the socket to one network interface, as in `eth0` (`SO_BINDTODEVICE`): it receives only what comes in by
    /// that interface, and sends everything out of it, whatever the routes say. Default: all interfaces. Since Linux 5.7, no
    /// privilege is required unless the socket is restricted already.
    pub fn interface(mut self, name: impl Into<String>) -> Self {
        self.interface = Some(name.into());
        self
    }

    /// Sets the number of routers that a datagram may pass, see [`UdpSocket::set_ttl`]. Default: the kernel's, 64.
    pub fn ttl(mut self, hops: u8) -> Self {
        self.ttl = Some(hops);
        self
    }

    /// Sets the traffic class, see [`UdpSocket::set_tos`]. Default: 0.
    pub fn tos(mut self, tos: u8) -> Self {
        self.tos = Some(tos);
        self
    }

    /// Binds to a port. See [`UdpSocket::bind`].
    ///
    /// # Errors
    /// See [`UdpSocket::bind`]; also [`Error::InvalidOption`] for an unknown interface, [`Error::Io`] if the kernel refuses an
    /// option.
    pub fn bind<A>(self, address: A) -> Result<UdpSocket>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        let engine = Engine::current()?;
        let address = address.try_into()?;
        self.check_interface()?;
        let fd = match places(&address)? {
            Some(places) => self.first_of(&places),
            None => match self.open(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port_of(&address)?))) {
                Err(error) if !self.only_v6 && is_missing_family(&error) => {
                    self.open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port_of(&address)?)))
                }
                opened => opened,
            },
        };
        let fd = fd.map_err(|source| Error::from_listen(&address, source))?;
        self.take(&engine, fd, &address.to_string())
    }

    /// Takes ownership of the file descriptor of a UDP socket. Options that only apply before binding are ignored:
    /// `reuse_address`, `reuse_port`, `only_v6`.
    ///
    /// # Errors
    /// See [`UdpSocket::from_fd`].
    #[allow(clippy::wrong_self_convention)]
    pub fn from_fd(self, fd: impl Into<OwnedFd>) -> Result<UdpSocket> {
        let engine = Engine::current()?;
        let fd = fd.into();
        self.check_interface()?;
        let name = "a file descriptor";
        let wrong = |source: io::Error| Error::Io { operation: Operation::Wrap, address: name.into(), source };
        let family = sockopt::socket_domain(&fd).map_err(|error| wrong(error.into()))?;
        let kind = sockopt::socket_type(&fd).map_err(|error| wrong(error.into()))?;
        if kind != SocketType::DGRAM || ![AddressFamily::INET, AddressFamily::INET6].contains(&family) {
            return Err(wrong(io::Error::new(io::ErrorKind::InvalidInput, "expected a UDP socket")));
        }
        self.take(&engine, fd, name)
    }

    fn take(&self, engine: &std::rc::Rc<Engine>, fd: OwnedFd, name: &str) -> Result<UdpSocket> {
        let failed = |source: io::Error| Error::Io { operation: Operation::SetUp, address: name.into(), source };
        if self.icmp_errors {
            let is_v6 = sockopt::socket_domain(&fd).map_err(io::Error::from).map_err(failed)? == AddressFamily::INET6;
            keep_refusals(fd.as_fd(), is_v6).map_err(failed)?;
        }
        if let Some(interface) = &self.interface {
            bind_to_interface(fd.as_fd(), interface).map_err(failed)?;
        }
        let beside = self.arrivals.then(|| Beside::of_arrivals(fd.as_fd())).transpose().map_err(failed)?;
        let (keeps_refusals, log_rate) = (self.icmp_errors, self.common.log_rate());
        let how = Start { is_udp: true, keeps_refusals, log_rate, beside, ..Start::default() };
        let socket = UdpSocket::from_core(Core::start(engine, fd, how).map_err(failed)?);
        self.common.apply(&socket.core)?;
        if self.broadcast {
            socket.set_broadcast(true)?;
        }
        if let Some(hops) = self.ttl {
            socket.set_ttl(hops)?;
        }
        if let Some(tos) = self.tos {
            socket.set_tos(tos)?;
        }
        Ok(socket)
    }

    fn check_interface(&self) -> Result {
        match &self.interface {
            Some(name) if interface_number(name).is_none() => Err(unknown_interface(name)),
            _ => Ok(()),
        }
    }

    /// Binds to the first of these addresses that this machine has.
    fn first_of(&self, places: &[SocketAddr]) -> io::Result<OwnedFd> {
        let mut missing = None;
        for place in places {
            match self.open(*place) {
                Err(error) if is_missing_family(&error) => missing = Some(error),
                opened => return opened,
            }
        }
        Err(missing.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
    }

    fn open(&self, place: SocketAddr) -> io::Result<OwnedFd> {
        let family = if place.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let fd = datagram_socket(family)?;
        if place.is_ipv6() {
            sockopt::set_ipv6_v6only(&fd, self.only_v6)?;
        }
        if self.reuse_address {
            sockopt::set_socket_reuseaddr(&fd, true)?;
        }
        if self.reuse_port {
            sockopt::set_socket_reuseport(&fd, true)?;
        }
        sys::bind(&fd, &place)?;
        Ok(fd)
    }
}

/// Returns the addresses to bind to, or `None` for all of this machine.
fn places(address: &Address) -> Result<Option<Vec<SocketAddr>>> {
    match address.target() {
        Target::Direct(places) => Ok(Some(places.clone())),
        Target::Inet { scheme: Some(_), .. } => Err(address.unfit("a URL cannot be bound; expected a port")),
        Target::Inet { host, .. } => {
            let mut places = local_addresses(address, host.as_ref(), port_of(address)?)?;
            if let (Some(places), Some(Host::Name(_))) = (&mut places, host) {
                // In the order in which senders try them.
                places.sort_by_key(SocketAddr::is_ipv6);
            }
            Ok(places)
        }
        Target::Unix(_) | Target::Service { .. } | Target::Srv { .. } => {
            Err(address.unfit("expected a port, or an address and a port"))
        }
    }
}

fn port_of(address: &Address) -> Result<u16> {
    match address.target() {
        Target::Inet { port, .. } => port_number(address, port),
        _ => Ok(0),
    }
}
