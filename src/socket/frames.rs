//! Frames: the callback, futures and blocking calls of [`Socket`] for messages of other forms than lines.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use super::Socket;
use super::futures::{CHUNK, item, receive};
use crate::conn::{Framing, Inbox, LineRule, Piece, Refusal, Taken};
use crate::engine::Ticket;
use crate::error::Result;

/// # Frames
///
/// Messages of another form than lines: with a length in front, with a delimiter, or as netstrings. Each call names the
/// [`Framing`], so lines, frames of several kinds and plain data may follow one another on one connection, and no byte is lost in
/// between.
///
/// A message that exceeds the [line limit](crate::socket::SocketBuilder::line_limit) ends the connection with
/// [`Error::FrameTooLong`](crate::Error::FrameTooLong), anything else that is not a frame with
/// [`Error::Frame`](crate::Error::Frame), after the preceding frames have been delivered. For the peer, that is a reset.
impl Socket {
    /// Sets a callback that receives the message of each frame.
    ///
    /// Replaces any other read callback. Undelivered data goes to the new callback. If the callback returns an error, the
    /// connection closes with that error as the reason.
    ///
    /// # Example: Answer each message
    /// ```
    /// use network::socket::Framing;
    ///
    /// # fn serve(socket: &network::Socket) {
    /// let framing = Framing::length32();
    /// socket.readframes(framing, move |socket, message| {
    ///     println!("{} bytes", message.len());
    ///     socket.sendframe(framing, message)
    /// });
    /// # }
    /// ```
    pub fn readframes(&self, framing: Framing, callback: impl FnMut(&Socket, &[u8]) -> Result + 'static) {
        framing.set_reader(&self.conn, callback);
    }

    /// Queues a message for sending as one frame, and returns at once.
    ///
    /// See [`send`](Socket::send).
    ///
    /// # Errors
    /// - [`Error::Frame`](crate::Error::Frame) if the framing cannot carry the message: it is too long for the length in front,
    ///   or it contains the delimiter. Nothing was queued, and the connection stays open.
    /// - [`Error::InvalidOption`](crate::Error::InvalidOption) if the framing has a setting that does not apply to it.
    /// - Otherwise see [`send`](Socket::send).
    pub fn sendframe(&self, framing: Framing, message: impl AsRef<[u8]>) -> Result {
        framing.send(&self.conn, message.as_ref())
    }

    /// Receives a frame and returns its message.
    ///
    /// # Blocking
    /// Until a whole frame has arrived, the connection ends, or the [timeout](Socket::set_timeout) expires.
    ///
    /// # Errors
    /// - [`Error::FrameTooLong`](crate::Error::FrameTooLong) or [`Error::Frame`](crate::Error::Frame) if the peer does not keep
    ///   to the limit or to the framing. The connection ends.
    /// - [`Error::InvalidOption`](crate::Error::InvalidOption) if the framing has a setting that does not apply to it.
    /// - Otherwise see [`recv`](Socket::recv). At the end of the stream, an incomplete frame can be received with `recv`.
    pub fn recv_frame(&self, framing: Framing) -> Result<Vec<u8>> {
        self.conn.blocking().recv_frame(framing)
    }

    /// Receives a frame and returns its message.
    ///
    /// # Errors
    /// See [`recv_frame`](Socket::recv_frame) and [`recv_future`](Socket::recv_future).
    pub fn recv_frame_future(&self, framing: Framing) -> impl Future<Output = Result<Vec<u8>>> {
        let received = receive(&self.conn, CHUNK, move |inbox, rule| next_frame(framing, inbox, rule));
        async move {
            framing.check()?;
            let message = received.await?;
            message.map(Piece::into_vec).map_err(|(refusal, limit)| self.conn.refuse(refusal, limit))
        }
    }

    /// Waits until the connection is not [full](Socket::is_full), then queues a message as one frame.
    ///
    /// # Errors
    /// See [`sendframe`](Socket::sendframe) and [`send_future`](Socket::send_future).
    pub fn sendframe_future(&self, framing: Framing, message: impl AsRef<[u8]>) -> impl Future<Output = Result> {
        let frame = framing.frame(&self.conn, message.as_ref());
        async move { self.send_future(frame?).await }
    }

    /// Returns a stream of the messages that the peer sends as frames.
    ///
    /// Each item is the result of [`recv_frame_future`](Socket::recv_frame_future). The stream ends with the connection. An
    /// incomplete last frame is not an item: [`unread`](Socket::unread) returns it when the stream has ended.
    ///
    /// # Example: Print the length of each message
    /// ```
    /// use network::socket::Framing;
    ///
    /// # async fn show(socket: network::Socket) -> network::Result {
    /// let mut frames = socket.frames(Framing::varint());
    /// while let Some(message) = frames.next().await {
    ///     println!("{}", message?.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn frames(&self, framing: Framing) -> Frames {
        Frames { socket: self.clone(), framing, ended: false, message: None }
    }
}

/// The next message, or why it is refused at this limit.
type Next = Result<Piece, (Refusal, usize)>;

fn next_frame(framing: Framing, inbox: &mut Inbox, rule: LineRule) -> Taken<Next> {
    Ok(inbox.next_frame(framing, rule.limit).map_err(|refusal| (refusal, rule.limit)).transpose())
}

/// A stream of messages, returned by [`Socket::frames`].
///
/// See [`Lines`](super::Lines) for its end and for what dropping it means.
#[must_use = "nothing is received unless it is awaited"]
pub struct Frames {
    socket: Socket,
    framing: Framing,
    ended: bool,
    /// The one that is lent.
    message: Option<Piece>,
}

impl std::fmt::Debug for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frames").field("socket", &self.socket).field("framing", &self.framing).finish_non_exhaustive()
    }
}

impl Frames {
    /// Receives the next message. Returns `None` at the end. Cancel-safe.
    #[expect(clippy::should_implement_trait, reason = "it is awaited, as that of streams is")]
    pub fn next(&mut self) -> impl Future<Output = Option<Result<Vec<u8>>>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context))
    }

    /// Receives the next message and lends it until the next call. Returns `None` at the end. Cancel-safe.
    ///
    /// Faster than [`next`](Frames::next) where many messages arrive, because none is copied.
    ///
    /// # Example: Count bytes
    /// ```
    /// # async fn count(socket: network::Socket) -> network::Result<usize> {
    /// let mut frames = socket.frames(network::socket::Framing::netstring());
    /// let mut sum = 0;
    /// while let Some(message) = frames.next_slice().await {
    ///     sum += message?.len();
    /// }
    /// # Ok(sum)
    /// # }
    /// ```
    pub async fn next_slice(&mut self) -> Option<Result<&[u8]>> {
        match poll_fn(|context| self.poll_frame(context)).await? {
            Ok(message) => Some(Ok(self.message.insert(message).as_slice())),
            Err(error) => Some(Err(error)),
        }
    }

    fn poll_frame(&mut self, context: &Context<'_>) -> Poll<Option<Result<Piece>>> {
        self.message = None;
        if self.ended {
            return Poll::Ready(None);
        }
        let Frames { socket, framing, ended, .. } = self;
        if let Err(error) = framing.check() {
            return Poll::Ready(item(Err(error), ended));
        }
        let take = |inbox: &mut Inbox, rule: LineRule| next_frame(*framing, inbox, rule);
        let taken = ready!(socket.conn.polling(context).take(&mut Ticket::Unordered, CHUNK, take));
        let message = taken.and_then(|next| next.map_err(|(refusal, limit)| socket.conn.refuse(refusal, limit)));
        Poll::Ready(item(message, ended))
    }
}

impl Stream for Frames {
    type Item = Result<Vec<u8>>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Vec<u8>>>> {
        let frame = ready!(self.get_mut().poll_frame(context));
        Poll::Ready(frame.map(|frame| frame.map(Piece::into_vec)))
    }
}
