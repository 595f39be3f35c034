//! The two ways to wait: blocking calls, and futures on the main loop. Everything above is written once, as futures; with blocking calls they
//! never wait.

use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::conn::Socket;
use crate::engine::{Sleep, before, sync};
use crate::error::{Error, Operation, Result};
use crate::server::handle::Server;
use crate::socket::SocketBuilder;
use crate::tls::StartTls;

/// The way to wait. Each limit is one for silence; `None` waits for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Blocks,
    Polls,
}

/// Runs a future whose [`Manner`] blocks, so that it never waits.
pub(super) fn now<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(Error::other("a blocking call of the FTP client had to wait for the main loop")),
    }
}

impl Manner {
    pub(super) async fn connect(self, builder: SocketBuilder, address: Address) -> Result<Socket> {
        match self {
            Manner::Blocks => builder.connect(address),
            Manner::Polls => builder.connect_future(address).await,
        }
    }

    pub(super) async fn start_tls(self, socket: &Socket, role: StartTls) -> Result {
        match self {
            Manner::Blocks => socket.start_tls(role),
            Manner::Polls => socket.start_tls_future(role).await,
        }
    }

    /// Receives a line, without its `\n`.
    pub(super) async fn line(self, socket: &Socket, limit: Option<Duration>) -> Result<Vec<u8>> {
        match self {
            Manner::Blocks => {
                socket.set_timeout(limit);
                socket.recv_until("\n")
            }
            Manner::Polls => limited(socket, Operation::Read, limit, socket.recv_until_future("\n")).await,
        }
    }

    /// Receives into a buffer. `None` at the end.
    pub(super) async fn receive(
        self,
        socket: &Socket,
        buffer: &mut [u8],
        limit: Option<Duration>,
    ) -> Result<Option<usize>> {
        let received = match self {
            Manner::Blocks => {
                socket.set_timeout(limit);
                socket.recv_into(buffer)
            }
            Manner::Polls => limited(socket, Operation::Read, limit, socket.recv_into_future(buffer)).await,
        };
        match received {
            Ok(count) => Ok(Some(count)),
            Err(Error::Closed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends, and waits as long as the peer takes some of what was queued before within each limit.
    pub(super) async fn send(self, socket: &Socket, bytes: &[u8], limit: Option<Duration>) -> Result {
        match self {
            Manner::Blocks => {
                socket.set_timeout(limit);
                let mut rest = bytes;
                while !rest.is_empty() {
                    let count = socket.send_some(rest)?;
                    rest = rest.get(count..).unwrap_or_default();
                }
                Ok(())
            }
            Manner::Polls => loop {
                let before = socket.queued();
                match limited(socket, Operation::Send, limit, socket.send_future(bytes)).await {
                    Err(Error::TimedOut { .. }) if socket.queued() < before => {}
                    other => return other,
                }
            },
        }
    }

    /// Waits until the kernel has everything.
    pub(super) async fn flush(self, socket: &Socket, limit: Option<Duration>) -> Result {
        loop {
            let before = socket.queued();
            let flushed = match self {
                Manner::Blocks => {
                    socket.set_timeout(limit);
                    socket.flush()
                }
                Manner::Polls => limited(socket, Operation::Send, limit, socket.flush_future()).await,
            };
            match flushed {
                Err(Error::TimedOut { .. }) if socket.queued() < before => {}
                other => return other,
            }
        }
    }

    /// Waits for that peer to connect. Whoever else does is dropped.
    pub(super) async fn accept(self, server: &Server, peer: IpAddr, limit: Duration) -> Result<Socket> {
        let begun = Instant::now();
        loop {
            let left = limit.saturating_sub(begun.elapsed());
            let late = || Error::TimedOut {
                operation: Operation::Accept,
                address: "the data connection of FTP in active mode".into(),
                limit,
            };
            if left.is_zero() {
                return Err(late());
            }
            let accepted = match self {
                Manner::Blocks => {
                    server.set_accept_timeout(left);
                    server.accept()
                }
                Manner::Polls => {
                    before(Sleep::limit(left), server.accept_future()).await.unwrap_or_else(|| Err(late()))
                }
            };
            let socket = match accepted {
                Err(Error::TimedOut { .. } | Error::NotReady { .. }) => return Err(late()),
                other => other?,
            };
            if socket.remote().inet().is_some_and(|found| found.ip() == peer) {
                return Ok(socket);
            }
            socket.abort();
        }
    }

    /// Waits until the disk has everything of a file. On the main loop, another thread waits for that.
    pub(super) async fn sync(self, file: std::fs::File) -> io::Result<()> {
        match self {
            Manner::Blocks => file.sync_all(),
            Manner::Polls => sync(file).await,
        }
    }
}

async fn limited<T>(
    socket: &Socket,
    operation: Operation,
    limit: Option<Duration>,
    future: impl Future<Output = Result<T>>,
) -> Result<T> {
    let Some(limit) = limit else { return future.await };
    let late = || Err(Error::TimedOut { operation, address: socket.remote().to_string(), limit });
    before(Sleep::limit(limit), future).await.unwrap_or_else(late)
}
