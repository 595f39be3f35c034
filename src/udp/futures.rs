//! The same for those who await it, on the thread's main context. No second reactor: the engine wakes them.

use std::net::SocketAddr;
use std::task::Poll;

use rustix::io::Errno;

use super::core::{For, Waiting, check_size};
use super::destination::{Destination, Place, clothed, order, place};
use super::{UdpSocket, check_place};
use crate::error::{Error, Result};
use crate::resolve;

impl UdpSocket {
    /// As [`recv_from`](UdpSocket::recv_from), for whoever awaits it on the thread's main context. Never blocks, and
    /// knows no time-out: race it with a timer. The future keeps the socket open. Dropping it loses nothing: a datagram
    /// is taken only to be given out.
    ///
    /// # Errors
    /// As there, but for those of time.
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

    /// As [`recv`](UdpSocket::recv), for whoever awaits it; see [`recv_from_future`](UdpSocket::recv_from_future).
    ///
    /// # Errors
    /// As there.
    pub fn recv_future(&self, max: usize) -> impl Future<Output = Result<Vec<u8>>> + use<> {
        let received = self.recv_from_future(max);
        async move { Ok(received.await?.0) }
    }

    /// As [`send_to`](UdpSocket::send_to), for whoever awaits it on the thread's main context. Never blocks: it awaits the
    /// look-up of a name, and room if the system has none. Dropped before its end, it has sent nothing.
    ///
    /// # Errors
    /// As there, but for those of time.
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

    /// As [`send`](UdpSocket::send), for whoever awaits it; see [`send_to_future`](UdpSocket::send_to_future).
    ///
    /// # Errors
    /// As [`send`](UdpSocket::send), but for those of time.
    pub async fn send_future(&self, data: impl AsRef<[u8]>) -> Result {
        let data = data.as_ref();
        let peer = self.needed_peer()?;
        check_size(data.len(), peer)?;
        self.room_for(peer, data.len(), || self.core.transmit(data, None)).await
    }

    /// As [`connect`](UdpSocket::connect), without blocking: the look-up of a name is awaited.
    ///
    /// # Errors
    /// As there.
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
