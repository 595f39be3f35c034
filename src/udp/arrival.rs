//! The local address of a datagram.

use std::net::IpAddr;

use super::UdpSocket;

/// The local end of a received datagram. Returned by [`UdpSocket::arrival`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Arrival {
    /// The address that the datagram was sent to: one of this machine, a broadcast address or a multicast group.
    pub to: IpAddr,
    /// The number of the interface that it came in by, see [`interfaces`](crate::names::interfaces).
    pub interface: u32,
}

impl UdpSocket {
    /// Returns the local end of the datagram that was received last. To be called in the read callback, or right after the
    /// receiving call or future has returned.
    ///
    /// `None` without [`UdpBuilder::arrivals`](super::UdpBuilder::arrivals), and before the first datagram.
    ///
    /// # Example
    /// ```
    /// let server = network::UdpSocket::builder().arrivals(true).bind(0)?;
    /// let client = network::UdpSocket::bind(0)?;
    /// client.send_to("hello", ("127.0.0.1", server.port()))?;
    /// let (data, from) = server.recv_from(100)?;
    /// assert_eq!(server.arrival().unwrap().to.to_string(), "127.0.0.1");
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn arrival(&self) -> Option<Arrival> {
        let (to, interface) = self.core.beside.as_ref()?.arrival()?;
        Some(Arrival { to, interface })
    }
}
