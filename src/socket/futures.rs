//! The asynchronous face of [`Socket`]: futures, streams of lines and chunks, and the traits of futures-io.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_io::{AsyncRead, AsyncWrite};

use super::Socket;
use crate::conn::callbacks::with_text;
use crate::conn::waiting::Interest;
use crate::conn::{Conn, Inbox, LineRule, Piece, Search, Taken, Window};
use crate::engine::Ticket;
use crate::error::{Error, Result};

/// The most that one future takes of the received data, and the most that it reads at a time.
pub(super) const CHUNK: usize = 64 << 10;

/// # Futures
///
/// Methods ending in `_future` run on the socket's main context, for example in [`spawn`](crate::spawn) or
/// `glib::spawn_future_local`. They have no timeout: [`set_timeout`](Socket::set_timeout) is for blocking calls; use
/// [`timeout`](crate::timeout) for these.
///
/// **All of them are cancel-safe.** Dropping a receiving future loses no data: what it has not returned is received by the
/// next call. A dropped [`send_future`](Socket::send_future) has queued all of its data or nothing, unless the data exceeds the
/// send limit.
///
/// Several receiving futures of one socket are served in the order in which they were first polled; the same holds for
/// sending. A future that was polled and is then neither polled again nor dropped blocks those queued behind it. Streams and
/// the futures-io traits are served after all futures. While a read callback is set and not [paused](Socket::pause),
/// receiving futures fail with [`Error::Unsupported`].
///
/// A future that never has to wait still yields after 256 KiB or one millisecond, so a flood on one connection cannot starve
/// the rest of the program.
///
/// Run a program whose `main` is a future with [`block_on`](crate::block_on). `MainContext::block_on` handles neither SIGINT
/// nor SIGTERM: the signal kills the process, and the path of a unix socket stays behind.
///
/// # Example: Send a line and await the reply
/// ```
/// # let server = network::Server::builder().tls(false).listen(0, |socket| {
/// #     socket.readlines(|socket, line| socket.sendline(format!("You said: {line}")));
/// #     Ok(())
/// # })?;
/// # let address = ("127.0.0.1", server.port());
/// network::block_on(async {
///     let socket = network::Socket::builder().tls(false).connect_future(address).await?;
///     socket.sendline_future("Hello").await?;
///     assert_eq!(socket.recv_line_future().await?, "You said: Hello");
///     Ok::<(), network::Error>(())
/// })??;
/// # Ok::<(), network::Error>(())
/// ```
impl Socket {
    /// Receives up to `max` bytes (at most 64 KiB) as soon as data is available.
    ///
    /// Data that the peer sent before it closed is returned first.
    ///
    /// # Errors
    /// - [`Error::Closed`] at the end of the stream.
    /// - [`Error::Reset`], [`Error::Truncated`], or any other error that ended the connection.
    /// - [`Error::Unsupported`] if a read callback is set and not paused.
    pub fn recv_future(&self, max: usize) -> impl Future<Output = Result<Vec<u8>>> {
        let max = max.clamp(1, CHUNK);
        receive(&self.conn, max, move |inbox, _| Ok(inbox.next_chunk(max).map(|piece| piece.into_vec())))
    }

    /// Receives data into `buffer` as soon as data is available, and returns the number of bytes.
    ///
    /// Returns 0 only if `buffer` is empty.
    ///
    /// # Errors
    /// See [`recv_future`](Socket::recv_future).
    pub fn recv_into_future(&self, buffer: &mut [u8]) -> impl Future<Output = Result<usize>> {
        let max = buffer.len().min(CHUNK);
        receive(&self.conn, max, move |inbox, _| {
            if buffer.is_empty() {
                return Ok(Some(0));
            }
            Ok(inbox.next_chunk(max).map(|piece| {
                let piece = piece.as_slice();
                buffer[..piece.len()].copy_from_slice(piece);
                piece.len()
            }))
        })
    }

    /// Receives exactly `count` bytes.
    ///
    /// All of them are kept in memory until then, so `count` must not come from the peer unchecked.
    ///
    /// # Errors
    /// See [`recv_future`](Socket::recv_future). If the stream ends first, the data that there is can still be received.
    pub fn recv_exact_future(&self, count: usize) -> impl Future<Output = Result<Vec<u8>>> {
        // What comes after them stays in the kernel as far as possible.
        receive(&self.conn, CHUNK, move |inbox, _| Ok(inbox.take(count).map(Piece::into_vec)))
    }

    /// Receives exactly as many bytes as fit into `buffer`.
    ///
    /// `buffer` is filled all at once, or left unchanged.
    ///
    /// # Errors
    /// See [`recv_exact_future`](Socket::recv_exact_future).
    pub fn recv_exact_into_future(&self, buffer: &mut [u8]) -> impl Future<Output = Result> {
        receive(&self.conn, CHUNK, move |inbox, _| {
            Ok(inbox.take(buffer.len()).map(|piece| buffer.copy_from_slice(piece.as_slice())))
        })
    }

    /// Receives a line of text, without its [ending](Socket::set_line_ending).
    ///
    /// Invalid UTF-8 is replaced with U+FFFD.
    ///
    /// # Errors
    /// - [`Error::LineTooLong`] if the line exceeds the [line limit](crate::socket::SocketBuilder::line_limit). The
    ///   connection ends.
    /// - Otherwise see [`recv_future`](Socket::recv_future). At the end of the stream, an incomplete line can be received with
    ///   `recv_future`.
    pub fn recv_line_future(&self) -> impl Future<Output = Result<String>> {
        receive(&self.conn, CHUNK, next_line)
    }

    /// Receives data up to `delimiter`, which is removed.
    ///
    /// Returns nothing, at once, if `delimiter` is empty.
    ///
    /// # Errors
    /// See [`recv_line_future`](Socket::recv_line_future); the line limit applies.
    ///
    /// # Example: Read the head of an HTTP request
    /// ```
    /// # let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    /// # let socket = network::Socket::from_fd(ours)?;
    /// # std::io::Write::write_all(&mut &theirs, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
    /// # glib::MainContext::default().block_on(async move {
    /// let head = socket.recv_until_future("\r\n\r\n").await?;
    /// assert!(head.starts_with(b"GET / "));
    /// # Ok::<(), network::Error>(())
    /// # })?;
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn recv_until_future(&self, delimiter: impl AsRef<[u8]>) -> impl Future<Output = Result<Vec<u8>>> {
        let mut search = Search::default();
        receive(&self.conn, CHUNK, move |inbox, rule| match delimiter.as_ref() {
            [] => Ok(Some(Vec::new())),
            delimiter => inbox.take_until(delimiter, rule.limit, &mut search),
        })
    }

    /// Receives everything up to the end of the stream.
    ///
    /// # Errors
    /// - [`Error::LimitExceeded`] if the peer sends more than `limit` bytes.
    /// - [`Error::Closed`] if the connection was closed on this side.
    /// - Otherwise see [`recv_future`](Socket::recv_future).
    ///
    /// With any error, the data that there is can still be received.
    pub fn recv_to_end_future(&self, limit: usize) -> impl Future<Output = Result<Vec<u8>>> {
        let conn = &self.conn;
        let exceeded = receive(conn, CHUNK, move |inbox, _| Ok((inbox.len() > limit).then_some(())));
        async move {
            match exceeded.await {
                Ok(()) => Err(Error::LimitExceeded { peer: self.remote().to_string(), limit }),
                Err(_) if conn.has_ended_cleanly() => Ok(conn.take_leftover()),
                Err(error) => Err(error),
            }
        }
    }

    /// Lends up to `max` bytes of received data to `read` as soon as data is available, and takes as many of them as `read` returns.
    ///
    /// For adapters to other libraries' traits: the data is copied once, from the receive buffer to where it is needed. What
    /// `read` does not take is received by the next call. `read` is called at most once, and not if this returns `Pending` or an
    /// error. Returns how many bytes were taken. Like the futures-io traits, it is served after all receiving futures. A `max` of 0
    /// counts as 1.
    ///
    /// # Errors
    /// See [`recv_future`](Socket::recv_future).
    ///
    /// # Example: Read into memory of a foreign type
    /// ```
    /// # let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    /// # let socket = network::Socket::from_fd(ours)?;
    /// # std::io::Write::write_all(&mut &theirs, b"Hello, world")?;
    /// # glib::MainContext::default().block_on(async move {
    /// let mut word = Vec::with_capacity(5);
    /// let taken = std::future::poll_fn(|context| {
    ///     socket.poll_recv_with(context, word.capacity(), |piece| {
    ///         word.extend_from_slice(piece);
    ///         piece.len()
    ///     })
    /// });
    /// assert_eq!(taken.await?, 5);
    /// assert_eq!(word, b"Hello");
    /// # Ok::<(), network::Error>(())
    /// # })?;
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn poll_recv_with(
        &self,
        context: &mut Context<'_>,
        max: usize,
        read: impl FnOnce(&[u8]) -> usize,
    ) -> Poll<Result<usize>> {
        let max = max.clamp(1, CHUNK);
        let mut read = Some(read);
        let lend = |inbox: &mut Inbox, _: LineRule| {
            Ok(inbox.lend_next(max, |piece| read.take().map_or(0, |read| read(piece))))
        };
        self.conn.polling(context).take(&mut Ticket::Unordered, max, lend)
    }

    /// Waits until the connection is not [full](Socket::is_full), then queues all of `data` as [`send`](Socket::send) does.
    ///
    /// A loop that awaits this keeps the send queue short, however slowly the peer reads.
    ///
    /// # Errors
    /// - [`Error::Closed`] or [`Error::Reset`] if the connection has ended or its write direction is shut down.
    /// - [`Error::QueueFull`] if the queues of a server exceed
    ///   [their total](crate::server::ServerBuilder::total_send_limit): that is not waited for. Nothing was queued.
    ///
    /// # More than the send limit
    /// Data that alone exceeds the [send limit](crate::socket::SocketBuilder::send_limit) (16 MiB) is queued in pieces, as the
    /// peer takes them, and never fails with [`Error::QueueFull`]. Other sending futures wait until it is done, but what
    /// [`send`](Socket::send) queues meanwhile goes out between two pieces. If this future is dropped or fails
    /// before it is done, a part of the data has been queued, each byte of it once: close the connection then, since the peer cannot
    /// know that the rest is missing.
    pub fn send_future(&self, data: impl AsRef<[u8]>) -> impl Future<Output = Result> {
        Sending { conn: &self.conn, ticket: Ticket::New, data, sent: 0 }
    }

    /// Waits until the connection is not [full](Socket::is_full), then queues a line of text, adding `\n`, or
    /// `\r\n` if the [line ending](Socket::set_line_ending) is `CrLf`.
    ///
    /// # Errors
    /// See [`send_future`](Socket::send_future).
    pub fn sendline_future(&self, line: impl AsRef<str>) -> impl Future<Output = Result> {
        let line = line.as_ref();
        let ending = self.line_ending().as_str();
        let mut data = Vec::with_capacity(line.len() + ending.len());
        data.extend_from_slice(line.as_bytes());
        data.extend_from_slice(ending.as_bytes());
        self.send_future(data)
    }

    /// Waits until the kernel has accepted all queued data.
    ///
    /// This does not mean that the peer has received or read it.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Reset`], or any other error that ended the connection before.
    pub fn flush_future(&self) -> impl Future<Output = Result> {
        poll_fn(|context| self.conn.polling(context).flush())
    }

    /// Returns a stream of the lines that the peer sends.
    ///
    /// Each item is the result of [`recv_line_future`](Socket::recv_line_future). The stream ends with the connection. An
    /// incomplete last line is not an item: [`unread`](Socket::unread) returns it when the stream has ended.
    ///
    /// # Example: Print all lines
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

    /// Returns a stream of the data that the peer sends, in pieces of up to `max` bytes (at most 64 KiB).
    ///
    /// Each item is the result of [`recv_future`](Socket::recv_future). The stream ends with the connection.
    pub fn chunks(&self, max: usize) -> Chunks {
        Chunks { socket: self.clone(), max: max.clamp(1, CHUNK), ended: false }
    }
}

fn next_line(inbox: &mut Inbox, rule: LineRule) -> Taken<String> {
    inbox.read_line(rule, |line| with_text(line, str::to_owned))
}

/// A future that waits for input.
pub(super) struct Receiving<'a, F> {
    conn: &'a Conn,
    ticket: Ticket,
    max: usize,
    take: F,
}

pub(super) fn receive<R, F>(conn: &Conn, max: usize, take: F) -> Receiving<'_, F>
where
    F: FnMut(&mut Inbox, LineRule) -> Taken<R>,
{
    Receiving { conn, ticket: Ticket::New, max, take }
}

impl<F> Unpin for Receiving<'_, F> {}

impl<R, F> Future for Receiving<'_, F>
where
    F: FnMut(&mut Inbox, LineRule) -> Taken<R>,
{
    type Output = Result<R>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<R>> {
        let me = self.get_mut();
        me.conn.polling(context).take(&mut me.ticket, me.max, &mut me.take)
    }
}

impl<F> Drop for Receiving<'_, F> {
    fn drop(&mut self) {
        self.conn.waiters().cancel(Interest::Input, &mut self.ticket);
    }
}

/// A future that waits for room in the send queue.
struct Sending<'a, D> {
    conn: &'a Conn,
    ticket: Ticket,
    data: D,
    /// So much of it is queued, if it goes in pieces.
    sent: usize,
}

impl<D> Unpin for Sending<'_, D> {}

impl<D: AsRef<[u8]>> Future for Sending<'_, D> {
    type Output = Result;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result> {
        let me = self.get_mut();
        me.conn.polling(context).send(&mut me.ticket, me.data.as_ref(), &mut me.sent)
    }
}

impl<D> Drop for Sending<'_, D> {
    fn drop(&mut self) {
        self.conn.waiters().cancel(Interest::Room, &mut self.ticket);
    }
}

/// Converts a result into an item of a stream, which ends once, without an error for the end of the connection.
pub(super) fn item<R>(received: Result<R>, ended: &mut bool) -> Option<Result<R>> {
    *ended = received.is_err();
    match received {
        Err(Error::Closed { .. }) => None,
        other => Some(other),
    }
}

/// A stream of lines, returned by [`Socket::lines`].
///
/// It ends with the connection, after the error if the connection failed. It is a handle to the connection, which stays open
/// while the stream exists.
///
/// Dropping it loses no data: lines that were not taken, and an incomplete line, are received by the next call.
#[must_use = "nothing is received unless it is awaited"]
#[derive(Debug)]
pub struct Lines {
    socket: Socket,
    ended: bool,
    window: Window,
}

impl Lines {
    /// Receives the next line. Returns `None` at the end. Cancel-safe.
    #[expect(clippy::should_implement_trait, reason = "it is awaited, as that of streams is")]
    pub fn next(&mut self) -> impl Future<Output = Option<Result<String>>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context))
    }

    /// Receives the next line and lends it until the next call. Returns `None` at the end. Cancel-safe.
    ///
    /// Faster than [`next`](Lines::next) where many lines arrive, because no line is allocated.
    ///
    /// # Example: Add numbers
    /// ```
    /// # async fn add(socket: network::Socket) -> network::Result<u64> {
    /// let mut lines = socket.lines();
    /// let mut sum = 0;
    /// while let Some(line) = lines.next_str().await {
    ///     sum += line?.parse::<u64>()?;
    /// }
    /// # Ok(sum)
    /// # }
    /// ```
    pub fn next_str(&mut self) -> impl Future<Output = Option<Result<&str>>> {
        Lending(Some(self))
    }

    /// If it returns a line, that is in the window.
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
        let take = |inbox: &mut Inbox, rule: LineRule| window.next(inbox, rule);
        let line = socket.conn.polling(context).take(&mut Ticket::Unordered, CHUNK, take);
        if line.is_pending() {
            self.window.clear();
        }
        line.map(|line| item(line, &mut self.ended))
    }
}

/// A future that waits for a line, which it lends.
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

/// A stream of received data in pieces, returned by [`Socket::chunks`].
///
/// See [`Lines`] for its end and for what dropping it means.
#[must_use = "nothing is received unless it is awaited"]
#[derive(Debug)]
pub struct Chunks {
    socket: Socket,
    max: usize,
    ended: bool,
}

impl Chunks {
    /// Receives the next piece. Returns `None` at the end. Cancel-safe.
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
        let chunk = self
            .socket
            .conn
            .polling(context)
            .take(&mut Ticket::Unordered, max, |inbox, _| Ok(inbox.next_chunk(max).map(|piece| piece.into_vec())));
        chunk.map(|chunk| item(chunk, &mut self.ended))
    }
}

// ---- futures-io ----

/// The end of the stream is `Ok(0)`, as std defines it.
fn read(socket: &Socket, context: &Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
    if buffer.is_empty() {
        return Poll::Ready(Ok(0));
    }
    socket.conn.polling(context).read(buffer).map(|read| match read {
        Err(Error::Closed { .. }) => Ok(0),
        other => Ok(other?),
    })
}

fn write(socket: &Socket, context: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    socket.conn.polling(context).write(bytes).map_err(io::Error::from)
}

fn flush(socket: &Socket, context: &Context<'_>) -> Poll<io::Result<()>> {
    socket.conn.polling(context).flush().map_err(io::Error::from)
}

fn close(socket: &Socket, context: &Context<'_>) -> Poll<io::Result<()>> {
    socket.conn.polling(context).shut().map_err(io::Error::from)
}

/// Reading returns `Ok(0)` at the end of the stream. The peer's half-close ends the connection unless a
/// [`half_close_cb`](Socket::half_close_cb) is set; for protocols whose directions end independently, use
/// [`into_stream`](Socket::into_stream).
impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        read(&self, context, buffer)
    }
}

/// The same through a reference, to read and write at the same time.
impl AsyncRead for &Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        read(&self, context, buffer)
    }
}

/// Writing waits while the connection is [full](Socket::is_full). Closing sends the queued data and shuts down the write
/// direction, as [`shutdown_write`](Socket::shutdown_write) does.
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

/// The same through a reference, to read and write at the same time.
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
