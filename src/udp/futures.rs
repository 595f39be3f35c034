//! Futures on the thread's main context. The engine wakes them; there is no second reactor.

use std::net::SocketAddr;

use super::destination::{Destination, Place, clothed, order, place};
use super::sending::check_size;
use super::{UdpSocket, check_place};
use crate::error::{Error, Result};
use crate::resolve;

impl UdpSocket {
    /// Sends one datagram. Waits while a host name is resolved or the send buffer is full. If the future is dropped before
    /// it completes, nothing has been sent.
    ///
    /// # Errors
    /// See [`send_to`](UdpSocket::send_to), except those of the timeout.
    pub async fn send_to_future(&self, data: impl AsRef<[u8]>, to: impl Destination) -> Result {
        let data = data.as_ref();
        let place = place(to)?;
        check_place(data.len(), &place)?;
        let mut failed = None;
        for to in self.found(place).await? {
            match self.core.send_when_room(data, Some(&self.remote_at(to)?), &to).await {
                Err(error @ Error::Unreachable { .. }) => drop(failed.get_or_insert(error)),
                outcome => return outcome,
            }
        }
        failed.map_or_else(|| Err(self.core.closed()), Err)
    }

    /// Sends one datagram to the connected peer. See [`send_to_future`](UdpSocket::send_to_future).
    ///
    /// # Errors
    /// See [`send`](UdpSocket::send), except those of the timeout.
    pub async fn send_future(&self, data: impl AsRef<[u8]>) -> Result {
        let data = data.as_ref();
        let peer = self.needed_peer()?;
        check_size(data.len(), &peer)?;
        self.core.send_when_room(data, None, &peer).await
    }

    /// Fixes the peer. Waits while a host name is resolved. See [`connect`](UdpSocket::connect).
    ///
    /// # Errors
    /// See [`connect`](UdpSocket::connect).
    pub async fn connect_future(&self, to: impl Destination) -> Result {
        let found = self.found(place(to)?).await?;
        self.try_each(found, |to| self.fix_peer(to))
    }

    async fn found(&self, place: Place) -> Result<Vec<SocketAddr>> {
        self.core.open()?;
        match place {
            Place::Known(to) => clothed(to, self.core.is_v6()).map(|_| vec![to]),
            Place::Address(address) => {
                order(resolve::look_up(&address, resolve::LIMIT).await?, self.core.is_v6(), &address)
            }
        }
    }
}
