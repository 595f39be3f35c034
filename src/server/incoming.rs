//! Clients that are awaited: a future, and a stream.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_core::Stream;
use rustix::io::Errno;

use super::listener::{ACCEPTS, is_of_system};
use super::{Server, Shared};
use crate::conn::Socket;
use crate::engine::{Yielding, now};
use crate::error::{Error, Result};

/// The share of the loop that futures have used up since it last had its turn.
#[derive(Default)]
pub(super) struct Turn {
    taken: Cell<usize>,
    yielding: Cell<Yielding>,
}

impl Turn {
    fn yielding<R>(&self, change: impl FnOnce(&mut Yielding) -> R) -> R {
        let mut yielding = self.yielding.get();
        let result = change(&mut yielding);
        self.yielding.set(yielding);
        result
    }

    /// The tasks that wait for a client are woken.
    pub(super) fn begin(&self) {
        self.yielding(Yielding::resume);
    }

    fn end(&self) {
        self.taken.set(0);
        self.yielding(Yielding::end);
    }
}

impl Server {
    /// Waits for the next client of a server created by [`bind`](Server::bind). See [`accept`](Server::accept).
    ///
    /// Cancel-safe: dropping the future loses no client. Of several futures, each gets a client. While the process has no
    /// file descriptor left, or [`max_connections`](crate::server::ServerBuilder::max_connections) are open, the future
    /// waits.
    ///
    /// # Errors
    /// - [`Error::Closed`] when the server is closed.
    /// - [`Error::Unsupported`] if the server has a client callback.
    /// - [`Error::Io`] for any other failure.
    pub fn accept_future(&self) -> impl Future<Output = Result<Socket>> {
        poll_fn(|context| self.shared.poll_client(context))
    }

    /// Returns a stream of clients.
    ///
    /// For servers created by [`bind`](Server::bind). Each item is the result of [`accept_future`](Server::accept_future).
    /// The stream ends when the server closes, and keeps the server listening until it is dropped. Cancel-safe.
    ///
    /// One task can serve all clients (`for_each_concurrent` of futures-util), or each client can get a task
    /// (`glib::spawn_future_local`). Separate tasks isolate panics: a panic ends one task, not all clients. A single task
    /// is cheaper, because GLib wakes each task through a system call; `docs/performance.md` has figures.
    ///
    /// # Example
    /// ```
    /// use futures_util::StreamExt;
    ///
    /// async fn talk(socket: network::Socket) -> network::Result {
    ///     let mut lines = socket.lines();
    ///     while let Some(line) = lines.next().await {
    ///         socket.send_future(format!("You said: {}\n", line?)).await?;
    ///     }
    ///     Ok(())
    /// }
    ///
    /// # glib::MainContext::default().block_on(async {
    /// let server = network::Server::builder().tls(false).bind(0)?;
    /// # let port = server.port();
    /// glib::spawn_future_local(server.incoming().for_each_concurrent(None, async |client| {
    ///     if let Ok(socket) = client {
    ///         let _ = talk(socket).await;
    ///     }
    /// }));
    /// # let client = network::Socket::builder().tls(false).connect_future(("127.0.0.1", port)).await?;
    /// # client.send_future("Hello\n").await?;
    /// # assert_eq!(client.recv_line_future().await?, "You said: Hello");
    /// # Ok::<(), network::Error>(())
    /// # })?;
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn incoming(&self) -> Incoming {
        Incoming { server: self.clone() }
    }
}

/// A stream of a server's clients, returned by [`Server::incoming`]. It ends when the server closes. Dropping it loses no
/// client.
#[must_use = "no client is accepted unless it is awaited"]
#[derive(Debug)]
pub struct Incoming {
    server: Server,
}

impl Incoming {
    /// Waits for the next client. `None` when the server is closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Socket>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl Stream for Incoming {
    type Item = Result<Socket>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Socket>>> {
        self.server.shared.poll_client(context).map(|client| match client {
            Err(Error::Closed { .. }) => None,
            other => Some(other),
        })
    }
}

impl Shared {
    fn poll_client(self: &Rc<Self>, context: &Context<'_>) -> Poll<Result<Socket>> {
        if self.still_waits(context.waker()) {
            // The task was polled for another reason, and no client has arrived since.
            return Poll::Pending;
        }
        let client = match &self.asked {
            Some(asked) if self.makes_way(&asked.turn) => Ok(None),
            _ => self.next_client(),
        };
        let client = match client {
            Err(Error::Io { source, .. }) if self.has_no_room(&source) => Ok(None),
            other => other,
        };
        match (client, &self.asked) {
            (Ok(None), Some(asked)) => {
                asked.turn.end();
                self.when_acceptable(context.waker());
                Poll::Pending
            }
            (client, asked) => {
                if let Some(asked) = asked {
                    asked.turn.taken.set(asked.turn.taken.get() + 1);
                }
                Poll::Ready(client.and_then(|client| client.ok_or_else(|| self.closed())))
            }
        }
    }

    /// Returns whether the future has to yield: a flood of clients must not keep the loop.
    fn makes_way(&self, turn: &Turn) -> bool {
        let has_credit = turn.yielding.get().is_granted() || self.engine.futures_have_credit(now());
        if has_credit && turn.taken.get() < ACCEPTS {
            return false;
        }
        let listeners = self.listeners.borrow();
        let makes_way = listeners.first().is_some_and(|listener| listener.requeue_hot());
        if makes_way {
            turn.yielding(Yielding::yield_now);
        }
        makes_way
    }

    /// The process can accept no more clients for now. The tasks are woken when it is time to try again. Returns false for
    /// any other error.
    fn has_no_room(&self, why: &std::io::Error) -> bool {
        let Some(why) = Errno::from_io_error(why).filter(|why| is_of_system(*why)) else { return false };
        let Some(listener) = self.listeners.borrow().first().cloned() else { return false };
        listener.pause(why);
        true
    }
}
