//! Broadcast on all networks of this machine.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::UdpSocket;
use super::destination::clothed;
use super::sending::check_size;
use crate::error::{Error, Result};
use crate::resolve::{Interface, interfaces};
use crate::sys::{bound_interface, send_through};

impl UdpSocket {
    /// Sends one datagram to all machines of every IPv4 network that this machine is on, at this port: to the broadcast
    /// address of each interface that is up, out of that interface. Returns the number of networks. Never blocks: a network
    /// whose queue is full does not get it.
    ///
    /// Requires [`set_broadcast`](UdpSocket::set_broadcast). With [`interface`](super::UdpBuilder::interface), only that
    /// interface's networks count. IPv6 has no broadcast; use [multicast](UdpSocket::join_multicast).
    ///
    /// # Errors
    /// - [`Error::Unreachable`] if no interface has a broadcast address.
    /// - If no network got the datagram, the error of the first one; see [`send_to`](UdpSocket::send_to).
    ///
    /// # Example
    /// ```no_run
    /// let socket = network::UdpSocket::builder().broadcast(true).bind(0)?;
    /// let networks = socket.broadcast("who is there?", 4242)?;
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn broadcast(&self, data: impl AsRef<[u8]>, port: u16) -> Result<usize> {
        let data = data.as_ref();
        if port == 0 {
            return Err(Error::InvalidOption("port 0 cannot be sent to".into()));
        }
        let bound = bound_interface(self.core.open()?);
        let is_meant = |interface: &Interface| {
            interface.is_up && !interface.is_loopback && bound.is_none_or(|bound| interface.index == bound)
        };
        let (mut sent, mut failed) = (0, None);
        for interface in interfaces()?.into_iter().filter(is_meant) {
            // An interface may have several addresses in one network.
            let networks: BTreeSet<_> = interface.addresses.iter().filter_map(|address| address.broadcast).collect();
            for address in networks {
                let to = SocketAddr::from((address, port));
                check_size(data.len(), &to)?;
                let clothed = clothed(to, self.core.is_v6())?;
                match self.core.transmit_by(|fd| send_through(fd, data, &clothed, interface.index)) {
                    Ok(()) => sent += 1,
                    Err(errno) => drop(failed.get_or_insert_with(|| self.core.not_sent(&to, data.len(), errno))),
                }
            }
        }
        match failed {
            Some(error) if sent == 0 => Err(error),
            None if sent == 0 => {
                let source = std::io::ErrorKind::NetworkUnreachable.into();
                Err(Error::from_connect("any broadcast address", source))
            }
            _ => Ok(sent),
        }
    }
}
