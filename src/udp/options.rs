//! Options of an open socket.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::net::sockopt;

use super::UdpSocket;
use crate::error::{Error, Operation, Result};
use crate::resolve::unknown_interface;
use crate::sys::{bound_interface, interface_number};

/// Sets an IPv4 option and its IPv6 counterpart, if the socket has both.
macro_rules! both {
    ($socket:expr, $v4:expr, $v6:expr) => {
        $socket.core.set(|fd| {
            $v4(fd)?;
            if $socket.core.is_v6() { $v6(fd) } else { Ok(()) }
        })
    };
}

impl UdpSocket {
    /// Allows sending to broadcast addresses (`SO_BROADCAST`). Default: off.
    ///
    /// Linux sends a datagram to 255.255.255.255 by one interface only, that of the default route. To reach several
    /// networks, send to the broadcast address of each, such as 198.51.100.255 for 198.51.100.0/24.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Io`].
    pub fn set_broadcast(&self, on: bool) -> Result {
        self.core.set(|fd| sockopt::set_socket_broadcast(fd, on))
    }

    /// Returns whether the socket may send to broadcast addresses.
    pub fn is_broadcast(&self) -> bool {
        self.core.is_broadcast()
    }

    /// Sets the number of routers that a datagram may pass, 1 to 255 (`IP_TTL`, `IPV6_UNICAST_HOPS`). The kernel's default
    /// is 64.
    ///
    /// # Errors
    /// See [`set_broadcast`](UdpSocket::set_broadcast).
    pub fn set_ttl(&self, hops: u8) -> Result {
        both!(self, |fd| sockopt::set_ip_ttl(fd, hops.into()), |fd| sockopt::set_ipv6_unicast_hops(fd, Some(hops)))
    }

    /// Sets the traffic class (`IP_TOS`, `IPV6_TCLASS`). The upper six bits are the DSCP. Default: 0.
    ///
    /// # Errors
    /// See [`set_broadcast`](UdpSocket::set_broadcast).
    pub fn set_tos(&self, tos: u8) -> Result {
        both!(self, |fd| sockopt::set_ip_tos(fd, tos), |fd| sockopt::set_ipv6_tclass(fd, tos.into()))
    }

    // ---- multicast ----

    /// Joins a multicast group on an interface, given by name (`eth0`) or number. `None` means the interface that the
    /// socket is [restricted to](super::UdpBuilder::interface), or else lets the kernel choose one.
    ///
    /// A socket bound to all addresses can join groups of both families. If several programs listen on the group's port,
    /// each must set [`reuse_address`](super::UdpBuilder::reuse_address).
    ///
    /// # Errors
    /// - [`Error::Address`] if the address is not a multicast group, or not of a family of this socket.
    /// - [`Error::InvalidOption`] if there is no such interface.
    /// - [`Error::Closed`].
    /// - [`Error::Io`] for any other failure, for example if the socket has already joined the group.
    ///
    /// # Example
    /// ```no_run
    /// let socket = network::UdpSocket::builder().reuse_address(true).bind(5353)?;
    /// socket.join_multicast([224, 0, 0, 251], None)?;
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn join_multicast(&self, group: impl Into<IpAddr>, interface: Option<&str>) -> Result {
        let (group, number) = self.group(group.into(), interface)?;
        self.membership(Operation::Join, group, |fd| match group {
            IpAddr::V4(group) => {
                sockopt::set_ip_add_membership_with_ifindex(fd, &group, &Ipv4Addr::UNSPECIFIED, number)
            }
            IpAddr::V6(group) => sockopt::set_ipv6_add_membership(fd, &group, number),
        })
    }

    /// Leaves a multicast group that was joined on this interface. Closing the socket leaves all groups.
    ///
    /// # Errors
    /// See [`join_multicast`](UdpSocket::join_multicast). [`Error::Io`] also if the socket has not joined the group.
    pub fn leave_multicast(&self, group: impl Into<IpAddr>, interface: Option<&str>) -> Result {
        let (group, number) = self.group(group.into(), interface)?;
        self.membership(Operation::Leave, group, |fd| match group {
            IpAddr::V4(group) => {
                sockopt::set_ip_drop_membership_with_ifindex(fd, &group, &Ipv4Addr::UNSPECIFIED, number)
            }
            IpAddr::V6(group) => sockopt::set_ipv6_drop_membership(fd, &group, number),
        })
    }

    /// Sets the interface for sending to groups, by name (`eth0`) or number. By default the kernel chooses one.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if there is no such interface; [`Error::Closed`], [`Error::Io`].
    pub fn set_multicast_interface(&self, name: &str) -> Result {
        let number = number_of(name)?;
        both!(
            self,
            |fd| sockopt::set_ip_multicast_if_with_ifindex(fd, &Ipv4Addr::UNSPECIFIED, &Ipv4Addr::UNSPECIFIED, number),
            |fd| sockopt::set_ipv6_multicast_if(fd, number)
        )
    }

    /// Sets whether members on this machine receive what this socket sends to a group. Default: true.
    ///
    /// # Errors
    /// See [`set_broadcast`](UdpSocket::set_broadcast).
    pub fn set_multicast_loop(&self, on: bool) -> Result {
        both!(self, |fd| sockopt::set_ip_multicast_loop(fd, on), |fd| sockopt::set_ipv6_multicast_loop(fd, on))
    }

    /// Sets the number of routers that a datagram to a group may pass. 0: it stays on this machine. 1, the default: it
    /// stays on this network.
    ///
    /// # Errors
    /// See [`set_broadcast`](UdpSocket::set_broadcast).
    pub fn set_multicast_ttl(&self, hops: u8) -> Result {
        both!(self, |fd| sockopt::set_ip_multicast_ttl(fd, hops.into()), |fd| sockopt::set_ipv6_multicast_hops(
            fd,
            hops.into()
        ))
    }

    fn group(&self, group: IpAddr, interface: Option<&str>) -> Result<(IpAddr, u32)> {
        let unfit = |problem: &str| Error::Address { address: group.to_string(), problem: problem.into() };
        if !group.is_multicast() {
            return Err(unfit("expected a multicast group: 224.0.0.0 to 239.255.255.255, or ff00::/8"));
        }
        if group.is_ipv6() && !self.core.is_v6() {
            return Err(unfit("the socket is bound to IPv4 only"));
        }
        let own = || Ok(bound_interface(self.core.open()?).unwrap_or(0));
        Ok((group, interface.map_or_else(own, number_of)?))
    }

    fn membership(
        &self,
        operation: Operation,
        group: IpAddr,
        change: impl FnOnce(BorrowedFd<'_>) -> Result<(), Errno>,
    ) -> Result {
        change(self.core.open()?).map_err(|errno| Error::Io {
            operation,
            address: format!("the group {group}"),
            source: errno.into(),
        })
    }
}

fn number_of(name: &str) -> Result<u32> {
    let known = name.parse().ok().or_else(|| interface_number(name));
    known.filter(|number| i32::try_from(*number).is_ok_and(|number| number > 0)).ok_or_else(|| unknown_interface(name))
}
