//! A socket for those who await: futures, streams of lines and chunks, and the traits of futures-io.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_io::{AsyncRead, AsyncWrite};

use super::Socket;
use crate::conn::callbacks::with_text;
use crate::conn::waiting::Interest;
use crate::conn::{Conn, Inbox, Piece, Taken, Window};
use crate::engine::Ticket;
use crate::error::{Error, Result};

/// The most that is taken at a time of what has come.
const CHUNK: usize = 64 << 10;

/// # Futures
///
/// To be awaited on the main context of the socket, as by `glib::spawn_future_local`. None of them blocks, and none has a
/// time-out of its own: [`set_timeout`](Socket::set_timeout) is for blocking calls, `glib::future_with_timeout` for these.
///
/// **Dropping one cancels it, and loses nothing.** What has come and was not handed over waits for whoever reads next; of a
/// [`send_future`](Socket::send_future) either everything has been queued or nothing.
///
/// Several at a time are served in the order in which they were first polled; one that is polled once and then left lying
/// holds up those behind it until it is dropped. Streams and the traits of futures-io come after all of them. A read
/// callback gets everything there is: beside one that is not [paused](Socket::pause), what receives fails with
/// [`Error::Unsupported`].
///
/// Who always finds something to do gives way to the rest of the program all the same, after 256 KiB or a millisecond:
/// connections that flood are served when nothing more urgent waits, as with callbacks.
///
/// ```
/// # let server = network::Server::builder().tls(false).listen(0, |socket| {
/// #     socket.readlines(|socket, line| socket.sendline(format!("You said: {line}")));
/// #     Ok(())
/// # })?;
/// # let address = ("127.0.0.1", server.port());
/// # glib::MainContext::default().block_on(async move {
/// let socket = network::Socket::builder().tls(false).connect_future(address).await?;
/// socket.send_future("Hello\n").await?;
/// println!("{}", socket.recv_line_future().await?);
/// # Ok::<(), network::Error>(())
/// # })?;
/// # Ok::<(), network::Error>(())
/// ```
impl Socket {
    /// Waits until data is there and gives up to `max` bytes of it (at most 64 KiB). What the peer had sent before it
    /// closed comes first. Does not block.
    ///
    /// # Errors
    /// [`Error::Closed`] at the end, [`Error::Reset`], [`Error::Truncated`], whatever else ended the connection, or
    /// [`Error::Unsupported`] if a callback reads.
    pub fn recv_future(&self, max: usize) -> impl Future<Output = Result<Vec<u8>>> {
        let max = max.clamp(1, CHUNK);
        receive(&self.conn, max, move |inbox, _| Ok(inbox.next_chunk(max).map(|piece| piece.into_vec())))
    }

    /// Waits until exactly so many bytes are there. Until then they wait in memory. Does not block.
    ///
    /// # Errors
    /// As [`recv_future`](Socket::recv_future). When the end comes first, what there is stays for whoever reads next.
    pub fn recv_exact_future(&self, count: usize) -> impl Future<Output = Result<Vec<u8>>> {
        // What comes after them stays in the system as far as that can be had.
        receive(&self.conn, CHUNK, move |inbox, _| Ok(inbox.take(count).map(Piece::into_vec)))
    }

    /// Waits for a line and gives it without its `\n`. Bytes that are not UTF-8 become U+FFFD. Does not block.
    ///
    /// # Errors
    /// As [`recv_future`](Socket::recv_future), and [`Error::LineTooLong`]. The beginning of a line that never ends stays
    /// for whoever reads next.
    pub fn recv_line_future(&self) -> impl Future<Output = Result<String>> {
        receive(&self.conn, CHUNK, next_line)
    }

    /// Waits until the connection [is not full](Socket::is_full), then queues all of `data`, as [`send`](Socket::send)
    /// does. A loop that awaits this keeps the queue short however slowly the peer reads. Does not block.
    ///
    /// # Errors
    /// [`Error::Closed`] or [`Error::Reset`] if the connection has ended or is shut down for sending;
    /// [`Error::QueueFull`] if `data` alone is more than the send limit.
    pub fn send_future(&self, data: impl AsRef<[u8]>) -> impl Future<Output = Result> {
        Sending { conn: &self.conn, ticket: Ticket::New, data }
    }

    /// Waits until the system has taken all that was sent before. Does not block.
    ///
    /// # Errors
    /// [`Error::Closed`] or [`Error::Reset`] if it never will.
    pub fn flush_future(&self) -> impl Future<Output = Result> {
        poll_fn(|context| self.conn.poll_flush(context))
    }

    /// The lines that come, as [`recv_line_future`](Socket::recv_line_future) gives them. Does not block. What comes after the
    /// last newline is no line: [`unread`](Socket::unread) returns it when the stream has ended.
    ///
    /// ```
    /// # async fn show(socket: network::Socket) -> network::Result {
    /// let mut lines = socket.lines();
    /// while let Some(line) = lines.next().await {
    ///     println!("{}", line?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn lines(&self) -> Lines {
        Lines { socket: self.clone(), ended: false, window: Window::default() }
    }

    /// What comes, in pieces of up to `max` bytes, as [`recv_future`](Socket::recv_future) gives them. Does not block.
    pub fn chunks(&self, max: usize) -> Chunks {
        Chunks { socket: self.clone(), max: max.clamp(1, CHUNK), ended: false }
    }
}

fn next_line(inbox: &mut Inbox, limit: usize) -> Taken<String> {
    inbox.read_line(limit, |line| with_text(line, str::to_owned))
}

/// Waits in line for input.
struct Receiving<'a, F> {
    conn: &'a Conn,
    ticket: Ticket,
    max: usize,
    take: F,
}

fn receive<R, F>(conn: &Conn, max: usize, take: F) -> Receiving<'_, F>
where
    F: FnMut(&mut Inbox, usize) -> Taken<R>,
{
    Receiving { conn, ticket: Ticket::New, max, take }
}

impl<F> Unpin for Receiving<'_, F> {}

impl<R, F> Future for Receiving<'_, F>
where
    F: FnMut(&mut Inbox, usize) -> Taken<R>,
{
    type Output = Result<R>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<R>> {
        let me = self.get_mut();
        me.conn.poll_take(context, &mut me.ticket, me.max, &mut me.take)
    }
}

impl<F> Drop for Receiving<'_, F> {
    fn drop(&mut self) {
        self.conn.cancel_wait(Interest::Input, &mut self.ticket);
    }
}

/// Waits in line for room.
struct Sending<'a, D> {
    conn: &'a Conn,
    ticket: Ticket,
    data: D,
}

impl<D> Unpin for Sending<'_, D> {}

impl<D: AsRef<[u8]>> Future for Sending<'_, D> {
    type Output = Result;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result> {
        let me = self.get_mut();
        me.conn.poll_send(context, &mut me.ticket, me.data.as_ref())
    }
}

impl<D> Drop for Sending<'_, D> {
    fn drop(&mut self) {
        self.conn.cancel_wait(Interest::Room, &mut self.ticket);
    }
}

/// What a stream gives for it: its end is no error, and comes once.
fn item<R>(received: Result<R>, ended: &mut bool) -> Option<Result<R>> {
    *ended = received.is_err();
    match received {
        Err(Error::Closed { .. }) => None,
        other => Some(other),
    }
}

/// The lines of a [`Socket`], see [`Socket::lines`]: a stream that ends with the connection, after its error if it ended by
/// one. It is a handle to the connection like any other.
///
/// Dropping it loses nothing: lines that were not taken wait for whoever reads next, and so does the beginning of a line
/// that never ended.
#[must_use = "nothing is received unless it is awaited"]
#[derive(Debug)]
pub struct Lines {
    socket: Socket,
    ended: bool,
    window: Window,
}

impl Lines {
    /// Waits for the next line. `None` at the end. To drop the future loses nothing.
    #[expect(clippy::should_implement_trait, reason = "it is awaited, as that of streams is")]
    pub fn next(&mut self) -> impl Future<Output = Option<Result<String>>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context))
    }

    /// Waits for the next line and lends it, until the next one is asked for. Where lines come fast that takes less time than
    /// [`next`](Lines::next): none of them gets memory of its own. `None` at the end. To drop the future loses nothing.
    ///
    /// ```
    /// # async fn add(socket: network::Socket) -> network::Result<u64> {
    /// let mut lines = socket.lines();
    /// let mut sum = 0;
    /// while let Some(line) = lines.next_str().await {
    ///     sum += line?.parse::<u64>().map_err(network::Error::other)?;
    /// }
    /// # Ok(sum)
    /// # }
    /// ```
    pub fn next_str(&mut self) -> impl Future<Output = Option<Result<&str>>> {
        Lending(Some(self))
    }

    /// A line is in the window then.
    #[inline]
    fn poll_line(&mut self, context: &Context<'_>) -> Poll<Option<Result>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Lines { socket, window, .. } = self;
        match socket.conn.take_at_once(&mut |inbox, limit| window.next(inbox, limit)) {
            Some(()) => Poll::Ready(Some(Ok(()))),
            None => self.wait_for_line(context),
        }
    }

    #[inline(never)]
    fn wait_for_line(&mut self, context: &Context<'_>) -> Poll<Option<Result>> {
        let Lines { socket, window, .. } = self;
        let take = |inbox: &mut Inbox, limit: usize| window.next(inbox, limit);
        let line = socket.conn.poll_take(context, &mut Ticket::Unordered, CHUNK, take);
        if line.is_pending() {
            self.window.clear();
        }
        line.map(|line| item(line, &mut self.ended))
    }
}

/// Waits for a line that is lent.
struct Lending<'a>(Option<&'a mut Lines>);

impl<'a> Future for Lending<'a> {
    type Output = Option<Result<&'a str>>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(lines) = self.0.take() else { return Poll::Ready(None) };
        match lines.poll_line(context) {
            Poll::Ready(Some(Ok(()))) => Poll::Ready(Some(Ok(lines.window.lent()))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                self.0 = Some(lines);
                Poll::Pending
            }
        }
    }
}

impl Stream for Lines {
    type Item = Result<String>;

    #[inline]
    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<String>>> {
        let lines = self.get_mut();
        match lines.poll_line(context) {
            Poll::Ready(Some(Ok(()))) => Poll::Ready(Some(Ok(lines.window.own()))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// What comes over a [`Socket`], in pieces, see [`Socket::chunks`]. Otherwise as [`Lines`].
#[must_use = "nothing is received unless it is awaited"]
#[derive(Debug)]
pub struct Chunks {
    socket: Socket,
    max: usize,
    ended: bool,
}

impl Chunks {
    /// Waits for the next piece. `None` at the end. To drop the future loses nothing.
    #[expect(clippy::should_implement_trait, reason = "it is awaited, as that of streams is")]
    pub fn next(&mut self) -> impl Future<Output = Option<Result<Vec<u8>>>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context))
    }
}

impl Stream for Chunks {
    type Item = Result<Vec<u8>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Vec<u8>>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let max = self.max;
        let chunk = self.socket.conn.poll_take(context, &mut Ticket::Unordered, max, |inbox, _| {
            Ok(inbox.next_chunk(max).map(|piece| piece.into_vec()))
        });
        chunk.map(|chunk| item(chunk, &mut self.ended))
    }
}

// ---- futures-io ----

/// The end is `Ok(0)`, as readers of the world have it.
fn read(socket: &Socket, context: &Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
    if buffer.is_empty() {
        return Poll::Ready(Ok(0));
    }
    socket.conn.poll_read(context, buffer).map(|read| match read {
        Err(Error::Closed { .. }) => Ok(0),
        other => Ok(other?),
    })
}

fn write(socket: &Socket, context: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    socket.conn.poll_write(context, bytes).map_err(io::Error::from)
}

fn flush(socket: &Socket, context: &Context<'_>) -> Poll<io::Result<()>> {
    socket.conn.poll_flush(context).map_err(io::Error::from)
}

fn close(socket: &Socket, context: &Context<'_>) -> Poll<io::Result<()>> {
    socket.conn.poll_shut(context).map_err(io::Error::from)
}

/// The end of what the peer sends is `Ok(0)`. It ends the connection, unless there is a
/// [`half_close_cb`](Socket::half_close_cb): for protocols whose directions end apart, [`into_stream`](Socket::into_stream)
/// is the better choice. Does not block.
impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        read(&self, context, buffer)
    }
}

/// The same by a reference, to read and write at the same time.
impl AsyncRead for &Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        read(&self, context, buffer)
    }
}

/// Writing waits while the connection [is full](Socket::is_full). Closing sends what was written and ends this direction,
/// as [`shutdown_write`](Socket::shutdown_write). Does not block.
impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        write(&self, context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        flush(&self, context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        close(&self, context)
    }
}

/// The same by a reference, to read and write at the same time.
impl AsyncWrite for &Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        write(&self, context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        flush(&self, context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        close(&self, context)
    }
}
