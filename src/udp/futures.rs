//! Futures on the thread's main context. The engine wakes them; there is no second reactor.

use std::net::SocketAddr;
use std::task::Poll;

use rustix::io::Errno;

use super::core::{For, Waiting, check_size};
use super::destination::{Destination, Place, clothed, order, place};
use super::{UdpSocket, check_place};
use crate::error::{Error, Result};
use crate::resolve;

impl UdpSocket {
    /// Receives one datagram and its sender. See [`recv_from`](UdpSocket::recv_from).
    ///
    /// The future has no timeout; race it with a timer. It keeps the socket open. Cancel-safe: dropping it loses no datagram.
    ///
    /// # Errors
    /// See [`recv_from`](UdpSocket::recv_from), except those of the timeout.
    pub fn recv_from_future(&self, max: usize) -> impl Future<Output = Result<(Vec<u8>, SocketAddr)>> + use<> {
        let socket = self.clone();
        let mut waiting = Waiting::new(&socket.core, For::Input);
        std::future::poll_fn(move |context| match socket.try_recv_from(max).transpose() {
            Some(outcome) => {
                waiting.leave();
                Poll::Ready(outcome)
            }
            None => {
                waiting.wait(context.waker());
                Poll::Pending
            }
        })
    }

    /// Receives one datagram, for connected sockets. See [`recv_from_future`](UdpSocket::recv_from_future).
    ///
    /// # Errors
    /// See [`recv_from_future`](UdpSocket::recv_from_future).
    pub fn recv_future(&self, max: usize) -> impl Future<Output = Result<Vec<u8>>> + use<> {
        let received = self.recv_from_future(max);
        async move { Ok(received.await?.0) }
    }

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
            let clothed = clothed(to, self.core.is_v6)?;
            match self.room_for(to, data.len(), || self.core.transmit(data, Some(clothed))).await {
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
        check_size(data.len(), peer)?;
        self.room_for(peer, data.len(), || self.core.transmit(data, None)).await
    }

    /// Fixes the peer. Waits while a host name is resolved. See [`connect`](UdpSocket::connect).
    ///
    /// # Errors
    /// See [`connect`](UdpSocket::connect).
    pub async fn connect_future(&self, to: impl Destination) -> Result {
        let found = self.found(place(to)?).await?;
        self.try_each(found, 0, |to| self.core.fix_peer(to))
    }

    async fn found(&self, place: Place) -> Result<Vec<SocketAddr>> {
        self.core.open()?;
        match place {
            Place::Known(to) => clothed(to, self.core.is_v6).map(|_| vec![to]),
            Place::Address(address) => {
                order(resolve::look_up(&address, resolve::LIMIT).await?, self.core.is_v6, &address)
            }
        }
    }

    async fn room_for(&self, to: SocketAddr, size: usize, mut send: impl FnMut() -> Result<(), Errno>) -> Result {
        let mut waiting = Waiting::new(&self.core, For::Room);
        std::future::poll_fn(|context| match send() {
            Ok(()) => Poll::Ready(Ok(())),
            Err(Errno::AGAIN) => {
                waiting.wait(context.waker());
                Poll::Pending
            }
            Err(_) if !self.is_open() => Poll::Ready(Err(self.core.closed())),
            Err(errno) => Poll::Ready(Err(self.not_sent(to, size, errno))),
        })
        .await
    }
}
