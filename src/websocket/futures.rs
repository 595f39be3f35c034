//! Futures and the stream of messages.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::handle::WebSocket;
use super::message::{OwnedMessage, ToMessage};
use super::session::{Core, Phase, Waiting};
use crate::engine::{Ticket, WaitQueue, Wakers};
use crate::error::Result;

/// # Futures
///
/// They run on the connection's main context, for example in [`spawn`](crate::spawn), and are cancel-safe: dropping one loses no
/// message. Several receiving futures are served in the order in which they were first polled; the same holds for sending. There
/// is no timeout; use [`timeout`](crate::timeout).
impl WebSocket {
    /// Receives the next message. `None`: the connection has ended.
    ///
    /// # Errors
    /// The failure that ended the connection, once: [`Error::WebSocket`](crate::Error::WebSocket) for a close code that is not
    /// [normal](super::Code::is_normal), or any other [reason](super::Disconnect::reason).
    /// [`Error::Unsupported`](crate::Error::Unsupported) while a read callback is set and not paused.
    ///
    /// # Example
    /// ```no_run
    /// # async fn example(ws: network::websocket::WebSocket) -> network::Result {
    /// while let Some(message) = ws.next_future().await {
    ///     println!("{}", message?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn next_future(&self) -> impl Future<Output = Option<Result<OwnedMessage>>> {
        Next { core: &self.core, ticket: Ticket::New }
    }

    /// Returns a stream of the messages. Each item is the result of [`next_future`](Self::next_future). It is served after all
    /// futures.
    pub fn messages(&self) -> Messages {
        Messages { ws: self.clone() }
    }

    /// Waits until the connection is not [full](Self::is_full), then queues a message.
    ///
    /// # Errors
    /// As [`send`](Self::send): [`Error::QueueFull`](crate::Error::QueueFull) if the message alone exceeds the send limit.
    pub fn send_future(&self, message: impl ToMessage) -> impl Future<Output = Result> {
        Sending { core: &self.core, ticket: Ticket::New, message }
    }

    /// Waits until the kernel has accepted all queued data.
    ///
    /// # Errors
    /// The error that ended the connection before.
    pub fn flush_future(&self) -> impl Future<Output = Result> {
        self.core.socket.flush_future()
    }
}

impl Core {
    fn wait(&self, ticket: &mut Ticket, context: &Context<'_>, queue: impl FnOnce(&mut Waiting) -> &mut WaitQueue) {
        let old = queue(&mut self.waiting.borrow_mut()).wait(ticket, context.waker());
        drop(old);
    }

    fn leave(&self, ticket: &mut Ticket, queue: impl FnOnce(&mut Waiting) -> &mut WaitQueue) {
        let mut awake = Wakers::default();
        let left = queue(&mut self.waiting.borrow_mut()).leave(ticket, &mut awake);
        drop(left);
        awake.wake();
    }

    fn poll_next(&self, ticket: &mut Ticket, context: &Context<'_>) -> Poll<Option<Result<OwnedMessage>>> {
        if let Err(error) = self.check_reader() {
            return Poll::Ready(Some(Err(error)));
        }
        let is_first = self.waiting.borrow().messages.is_first(ticket);
        if is_first && let Some(message) = self.take_held() {
            self.leave(ticket, |waiting| &mut waiting.messages);
            return Poll::Ready(Some(Ok(message)));
        }
        if self.phase.get() != Phase::Open {
            self.leave(ticket, |waiting| &mut waiting.messages);
            return Poll::Ready(self.take_failure().map(Err));
        }
        self.wait(ticket, context, |waiting| &mut waiting.messages);
        Poll::Pending
    }
}

struct Next<'a> {
    core: &'a Core,
    ticket: Ticket,
}

impl Future for Next<'_> {
    type Output = Option<Result<OwnedMessage>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let me = self.get_mut();
        me.core.poll_next(&mut me.ticket, context)
    }
}

impl Drop for Next<'_> {
    fn drop(&mut self) {
        self.core.leave(&mut self.ticket, |waiting| &mut waiting.messages);
    }
}

struct Sending<'a, M> {
    core: &'a Core,
    ticket: Ticket,
    message: M,
}

impl<M> Unpin for Sending<'_, M> {}

impl<M: ToMessage> Future for Sending<'_, M> {
    type Output = Result;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result> {
        let me = self.get_mut();
        let core = me.core;
        let is_first = core.waiting.borrow().room.is_first(&me.ticket);
        if core.phase.get() == Phase::Open && (!is_first || core.socket.is_full()) {
            core.wait(&mut me.ticket, context, |waiting| &mut waiting.room);
            return Poll::Pending;
        }
        let sent = core.send(me.message.to_message());
        core.leave(&mut me.ticket, |waiting| &mut waiting.room);
        Poll::Ready(sent)
    }
}

impl<M> Drop for Sending<'_, M> {
    fn drop(&mut self) {
        self.core.leave(&mut self.ticket, |waiting| &mut waiting.room);
    }
}

/// A stream of messages, returned by [`WebSocket::messages`].
///
/// It ends with the connection, after the error if the connection failed. It is a handle to the connection, which stays open
/// while the stream exists. Dropping it loses no message.
#[must_use = "nothing is received unless it is awaited"]
#[derive(Debug)]
pub struct Messages {
    ws: WebSocket,
}

impl Messages {
    /// Receives the next message. Returns `None` at the end. Cancel-safe.
    #[expect(clippy::should_implement_trait, reason = "it is awaited, as that of streams is")]
    pub fn next(&mut self) -> impl Future<Output = Option<Result<OwnedMessage>>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context))
    }
}

impl Stream for Messages {
    type Item = Result<OwnedMessage>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<OwnedMessage>>> {
        self.ws.core.poll_next(&mut Ticket::Unordered, context)
    }
}
