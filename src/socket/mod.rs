// The faces of [`Socket`]: callbacks here; futures, blocking calls, options, back-pressure and TLS in the files beside this one.

mod blocking;
mod builder;
mod descriptors;
mod frames;
mod futures;
mod options;
mod pressure;
mod selectable;
mod start_tls;
mod stream;
mod tls;

use std::time::Duration;

use gio::prelude::*;

use crate::address::{Address, Endpoint};
use crate::conn::Socket;
use crate::conn::callbacks::{Disconnect, OnByteLine, OnData, OnLine, OnReady};
pub use crate::conn::{Framing, LineEnding, WeakSocket};
pub use crate::connect::progress::ConnectProgress;
pub use crate::connect::proxy::Proxy;
use crate::engine::call;
pub use crate::error::Operation;
use crate::error::{Error, Result};
pub use crate::sys::{Credentials, KeepAlive};
pub use blocking::Reader;
pub use builder::SocketBuilder;
pub use frames::Frames;
pub use futures::{Chunks, Lines};
pub use selectable::Selectable;
pub(crate) use selectable::sealed::Sealed;
pub(crate) use selectable::{Polled, WeakPolled};
pub use stream::ByteStream;

impl Socket {
    /// Connects to an address.
    ///
    /// The timeout is 30 seconds, including name lookup; a TLS handshake gets another 10 seconds. Both are options of
    /// [`Socket::builder`]. TLS is used for TCP unless the address is a URL whose scheme says otherwise. The peer's
    /// half-close ends the connection unless a [`half_close_cb`](Socket::half_close_cb) is set.
    ///
    /// # Blocking
    /// Until connected. No callback runs meanwhile.
    ///
    /// # Errors
    /// - [`Error::Address`] if the address is invalid.
    /// - [`Error::Lookup`] if the host name cannot be resolved, [`Error::ServiceNotFound`] or
    ///   [`Error::AvahiUnavailable`] if a service cannot be found.
    /// - [`Error::Refused`], [`Error::Unreachable`] or [`Error::TimedOut`] if no connection is established.
    /// - [`Error::UnknownCertificate`] or [`Error::CertificateChanged`] if the server is not trusted.
    /// - [`Error::Rejected`] if the server ends the handshake with an alert, [`Error::Plaintext`] or [`Error::Tls`] if
    ///   it does not speak TLS correctly.
    /// - [`Error::Identity`] or [`Error::TlsSettings`] if the client's own TLS configuration is unusable.
    /// - [`Error::Unsupported`] if the server runs in the same thread and could not complete the TLS handshake.
    /// - [`Error::WrongThread`] if another thread owns the main context.
    /// - [`Error::Io`] for any other failure.
    ///
    /// # Example: Send a line and print the reply
    /// ```no_run
    /// let socket = network::Socket::connect("localhost:1234")?;
    /// socket.sendline("Hello")?;
    /// println!("{}", socket.recv_line()?);
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn connect<A>(address: A) -> Result<Socket>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        Socket::builder().connect(address)
    }

    /// Connects in the background and passes the result to a callback.
    ///
    /// The callback runs once, in a later loop iteration, also if the address is invalid. Cancelling `cancellable`
    /// completes it with [`Error::Cancelled`]. For the other errors see [`connect`](Socket::connect).
    ///
    /// # Example: Connect, report, leave the loop
    /// ```
    /// # let server = network::Server::new("0", |_| Ok(()))?;
    /// # let port = server.port();
    /// network::Socket::connect_async(("localhost", port), gio::Cancellable::NONE, |result| {
    ///     match result {
    ///         Ok(socket) => println!("connected to {}", socket.remote()),
    ///         Err(error) => eprintln!("{error}"),
    ///     }
    ///     network::endloop();
    /// });
    /// network::fgloop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn connect_async<A, F>(address: A, cancellable: Option<&impl IsA<gio::Cancellable>>, callback: F)
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
        F: FnOnce(Result<Socket>) + 'static,
    {
        Socket::builder().connect_async(address, cancellable, callback);
    }

    /// Connects in the background.
    ///
    /// Must be awaited on the thread's main context, for example with `glib::spawn_future_local`. Dropping the future
    /// cancels the attempt.
    ///
    /// # Errors
    /// See [`connect`](Socket::connect).
    ///
    /// # Example: Connect in a task
    /// ```
    /// # let server = network::Server::new("0", |_| Ok(()))?;
    /// # let port = server.port();
    /// glib::spawn_future_local(async move {
    ///     match network::Socket::connect_future(("localhost", port)).await {
    ///         Ok(socket) => println!("connected to {}", socket.remote()),
    ///         Err(error) => eprintln!("{error}"),
    ///     }
    ///     network::endloop();
    /// });
    /// network::fgloop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn connect_future<A>(address: A) -> impl Future<Output = Result<Socket>>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        Socket::builder().connect_future(address)
    }

    /// Returns a builder, which sets limits, timeouts and TLS before it connects.
    pub fn builder() -> SocketBuilder {
        SocketBuilder::new()
    }

    // ---- sending ----

    /// Queues bytes for sending and returns at once.
    ///
    /// The bytes are accepted completely or not at all, and are sent in order. Data sent from a callback goes out at
    /// the end of the loop iteration, together with everything else. Without a main loop, queued data goes out during
    /// blocking calls on this socket and when the last handle is dropped.
    ///
    /// # Errors
    /// - [`Error::QueueFull`] if the send queue would exceed the [send limit](SocketBuilder::send_limit) (16 MiB), or those
    ///   of the server's connections together [their total](crate::server::ServerBuilder::total_send_limit) (1 GiB).
    ///   Nothing of this call is queued.
    /// - [`Error::Closed`], [`Error::Reset`], or another error that ended the connection. `Closed` also after
    ///   [`shutdown_write`](Socket::shutdown_write).
    ///
    /// # Example: Send a request
    /// ```
    /// # let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    /// # let socket = network::Socket::from_fd(ours)?;
    /// socket.send("GET / HTTP/1.0\r\n\r\n")?;
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn send(&self, data: impl AsRef<[u8]>) -> Result {
        self.conn.send(data.as_ref(), false)
    }

    /// Queues a line of text for sending, adding `\n`, or `\r\n` if the [line ending](Socket::set_line_ending) is `CrLf`.
    ///
    /// The text is sent as it is; a newline inside it makes two lines. See [`send`](Socket::send).
    ///
    /// # Errors
    /// See [`send`](Socket::send).
    pub fn sendline(&self, line: impl AsRef<str>) -> Result {
        self.conn.send(line.as_ref().as_bytes(), true)
    }

    /// Waits until the kernel has accepted all queued data.
    ///
    /// This does not mean that the peer has received or read it.
    ///
    /// # Blocking
    /// Until the send queue is empty or the [timeout](Socket::set_timeout) expires.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::NotReady`] if the timeout is zero, or the error that ended the connection, such as
    /// [`Error::Reset`]. [`Error::Unsupported`] as from [`recv`](Socket::recv).
    ///
    /// # Example: Send a file, then exit
    /// ```no_run
    /// # fn send(socket: &network::Socket) -> Result<(), Box<dyn std::error::Error>> {
    /// socket.send(std::fs::read("report.txt")?)?;
    /// socket.flush()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn flush(&self) -> Result {
        self.conn.blocking().flush()
    }

    /// Calls `callback` when the kernel has accepted all data that was queued before, or when sending has failed.
    ///
    /// The callback runs once, in a later loop iteration.
    pub fn flush_async(&self, callback: impl FnOnce(Result) + 'static) {
        self.conn.when_flushed(Box::new(move |engine, result| {
            call(engine, || callback(result));
        }));
    }

    /// Returns the length of the send queue, in bytes.
    pub fn queued(&self) -> usize {
        self.conn.queued()
    }

    /// Shuts down the write direction after sending all queued data.
    ///
    /// The peer reads the data, then the end of the stream, and can still reply. Further calls to
    /// [`send`](Socket::send) fail with [`Error::Closed`]. Returns at once.
    ///
    /// # Errors
    /// [`Error::Closed`] if the connection has ended.
    ///
    /// # Example: Send a request, read the whole reply
    /// ```no_run
    /// let socket = network::Socket::builder().tls(false).connect("localhost:79")?;
    /// socket.send("user\r\n")?;
    /// socket.shutdown_write()?;
    /// let reply = socket.recv_to_end(64 << 10)?;
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn shutdown_write(&self) -> Result {
        self.conn.shutdown_write()
    }

    // ---- receiving by callback ----

    /// Sets a callback that receives data as it arrives.
    ///
    /// Each call gets at most [`read_size`](SocketBuilder::read_size) bytes (64 KiB). Replaces any other read callback.
    /// Undelivered data goes to the new callback. If the callback returns an error, the connection closes with that
    /// error as the reason.
    ///
    /// # Example: Count received bytes
    /// ```
    /// # fn count(socket: &network::Socket) {
    /// let mut total = 0;
    /// socket.read(move |_, data| {
    ///     total += data.len();
    ///     println!("{total} bytes");
    ///     Ok(())
    /// });
    /// # }
    /// ```
    pub fn read(&self, callback: impl FnMut(&Socket, &[u8]) -> Result + 'static) {
        self.conn.set_reader(Some(Box::new(OnData(callback))));
    }

    /// Sets a callback that receives each line of text.
    ///
    /// Lines end with `\n`, which is removed; a preceding `\r` is kept unless the [line ending](Socket::set_line_ending) is
    /// `CrLf`. Invalid UTF-8 is replaced with U+FFFD; use
    /// [`readlines_bytes`](Socket::readlines_bytes) for the original bytes. Replaces any other read callback.
    /// Undelivered data goes to the new callback.
    ///
    /// A line longer than the [line limit](SocketBuilder::line_limit) (1 MiB) ends the connection with
    /// [`Error::LineTooLong`], after the preceding lines have been delivered.
    ///
    /// # Example: Answer each line
    /// ```
    /// # fn serve(socket: &network::Socket) {
    /// socket.readlines(|socket, line| match line.parse::<i64>() {
    ///     Ok(number) => socket.sendline(format!("{}", number.saturating_mul(2))),
    ///     Err(error) => socket.sendline(format!("{line:?}: {error}")),
    /// });
    /// # }
    /// ```
    pub fn readlines(&self, callback: impl FnMut(&Socket, &str) -> Result + 'static) {
        self.conn.set_reader(Some(Box::new(OnLine(callback))));
    }

    /// Sets a callback that receives each line as bytes.
    ///
    /// For protocols whose lines are not UTF-8. Otherwise see [`readlines`](Socket::readlines).
    pub fn readlines_bytes(&self, callback: impl FnMut(&Socket, &[u8]) -> Result + 'static) {
        self.conn.set_reader(Some(Box::new(OnByteLine(callback))));
    }

    /// Sets a callback that runs while unread data is available.
    ///
    /// The callback does not consume the data: it should call [`recv`](Socket::recv), which does not block then. It
    /// runs again in each loop iteration until the data is consumed. Replaces any other read callback.
    ///
    /// Returns the data that had been received and not delivered; the callback is not called for it.
    #[must_use = "the bytes that were received already are not told again"]
    pub fn rawread(&self, callback: impl FnMut(&Socket) -> Result + 'static) -> Vec<u8> {
        let leftover = self.conn.take_leftover();
        self.conn.set_reader(Some(Box::new(OnReady(callback))));
        leftover
    }

    /// Removes the read callback and returns the undelivered data.
    ///
    /// Called from a line callback, it also returns the lines after the current one.
    ///
    /// # Example: Switch from lines to binary data
    /// ```
    /// # fn serve(socket: &network::Socket) {
    /// socket.readlines(|socket, line| {
    ///     if line == "DATA" {
    ///         let mut data = socket.unread();
    ///         socket.read(move |_, more| {
    ///             data.extend_from_slice(more);
    ///             Ok(())
    ///         });
    ///     }
    ///     Ok(())
    /// });
    /// # }
    /// ```
    pub fn unread(&self) -> Vec<u8> {
        self.conn.set_reader(None);
        self.conn.take_leftover()
    }

    /// Sets a callback for the peer's half-close.
    ///
    /// The callback is called once, after all data has been delivered. The connection stays open for sending until
    /// [`shutdown_write`](Socket::shutdown_write) or [`close`](Socket::close) is called. Without this callback, the
    /// default, a half-close closes the connection after queued data has been sent.
    ///
    /// If the callback returns an error, the connection closes. Replaces any previous callback. A callback that is set after the
    /// half-close has been told is not called.
    ///
    /// # Example: Read everything, then reply
    /// ```
    /// # fn count(socket: &network::Socket) {
    /// let lines = std::rc::Rc::new(std::cell::Cell::new(0));
    /// let total = lines.clone();
    /// socket.readlines(move |_, _| {
    ///     lines.set(lines.get() + 1);
    ///     Ok(())
    /// });
    /// socket.half_close_cb(move |socket| {
    ///     socket.sendline(format!("{} lines", total.get()))?;
    ///     socket.shutdown_write()
    /// });
    /// # }
    /// ```
    pub fn half_close_cb(&self, callback: impl FnOnce(&Socket) -> Result + 'static) {
        self.conn.set_on_end(Some(Box::new(callback)));
    }

    /// Sets a callback for the end of the connection.
    ///
    /// It is called once, in a later loop iteration, whichever side ended the connection: also after this side's
    /// [`close`](Socket::close) and [`abort`](Socket::abort), so a program that reconnects must look at the
    /// [reason](crate::Reason). [`Disconnect`] contains the reason and the undelivered data. It is not called if the
    /// last handle is dropped. Without this callback, an error that ends the connection is logged. Replaces any
    /// previous callback.
    ///
    /// # Example: Report how the connection ended
    /// ```
    /// # use network::Reason;
    /// # fn watch(socket: &network::Socket) {
    /// socket.disconnect_cb(|socket, end| match end.reason {
    ///     Reason::Local => {}
    ///     reason => eprintln!("{}: {reason}", socket.remote()),
    /// });
    /// # }
    /// ```
    pub fn disconnect_cb(&self, callback: impl FnOnce(&Socket, Disconnect) + 'static) {
        self.conn.set_on_disconnect(Some(Box::new(callback)));
    }

    /// Removes the disconnect callback. An error that ends the connection is logged instead.
    pub fn unset_disconnect_cb(&self) {
        self.conn.set_on_disconnect(None);
    }

    // ---- receiving by asking ----

    /// Receives up to `max` bytes (at most 64 KiB).
    ///
    /// Data that the peer sent before it closed is returned first.
    ///
    /// # Blocking
    /// Until data arrives, the connection ends, or the [timeout](Socket::set_timeout) expires.
    ///
    /// # Errors
    /// - [`Error::Closed`] at the end of the stream.
    /// - [`Error::Reset`] if the peer reset the connection, [`Error::Truncated`] if a TLS connection was cut.
    /// - [`Error::TimedOut`], or [`Error::NotReady`] if the timeout is zero. No data is lost.
    /// - [`Error::Unsupported`] if there is no timeout, nothing is on its way, and the other end of the connection
    ///   belongs to this thread, as a [`Server`](crate::Server) or [`Socket`] of its own: the call would wait for itself.
    /// - [`Error::Io`] for any other failure.
    ///
    /// # Example: Copy a connection to standard output
    /// ```no_run
    /// # use std::io::Write;
    /// let socket = network::Socket::connect("localhost:1234")?;
    /// loop {
    ///     match socket.recv(64 << 10) {
    ///         Ok(data) => std::io::stdout().write_all(&data)?,
    ///         Err(network::Error::Closed { .. }) => break,
    ///         Err(error) => return Err(error),
    ///     }
    /// }
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn recv(&self, max: usize) -> Result<Vec<u8>> {
        self.conn.blocking().recv(max)
    }

    /// Receives a line of text, without its [ending](Socket::set_line_ending).
    ///
    /// Invalid UTF-8 is replaced with U+FFFD.
    ///
    /// # Blocking
    /// Until a whole line has arrived, the connection ends, or the [timeout](Socket::set_timeout) expires.
    ///
    /// # Errors
    /// - [`Error::LineTooLong`] if the line exceeds the [line limit](SocketBuilder::line_limit). The connection ends.
    /// - Otherwise see [`recv`](Socket::recv). At the end of the stream, an incomplete line can be received with
    ///   `recv`.
    pub fn recv_line(&self) -> Result<String> {
        self.conn.blocking().recv_line()
    }

    // ---- the end ----

    /// Closes the connection after sending all queued data.
    ///
    /// Sending continues in the background for up to the [linger time](SocketBuilder::linger) (5 s) without progress.
    /// The disconnect callback runs in a later loop iteration. Returns the undelivered data, unless a disconnect
    /// callback is set, which gets it instead.
    ///
    /// Without a main loop, queued data is sent when the last handle is dropped, which may then block for up to the
    /// linger time. In a script, call [`flush`](Socket::flush) first or drop the socket.
    ///
    /// With futures' `AsyncWriteExt` in scope, this inherent method wins over `AsyncWriteExt::close`; call that one by
    /// its full path.
    pub fn close(&self) -> Vec<u8> {
        self.conn.close()
    }

    /// Closes the connection at once and discards queued data.
    ///
    /// A TCP peer sees a reset if data was discarded. Returns the undelivered data as [`close`](Socket::close) does.
    pub fn abort(&self) -> Vec<u8> {
        self.conn.abort()
    }

    /// Returns whether the connection is open: neither closed on this side nor ended.
    pub fn is_open(&self) -> bool {
        self.conn.is_open()
    }

    // ---- about the connection ----

    /// Returns the peer's address.
    ///
    /// Through a proxy, it is the target that the proxy was asked for ([`Endpoint::Proxied`]), not the proxy.
    pub fn remote(&self) -> Endpoint {
        self.conn.remote()
    }

    /// Returns the local address.
    pub fn local(&self) -> Endpoint {
        self.conn.transport().local()
    }

    /// Sets the timeout of blocking calls on this socket.
    ///
    /// `None`, the default, means no timeout. Zero means non-blocking: calls that would block fail with
    /// [`Error::NotReady`]. The timeout covers one call from beginning to end. It does not apply to futures or
    /// callbacks.
    pub fn set_timeout(&self, limit: impl Into<Option<Duration>>) {
        let limit = limit.into();
        self.conn.change_options(|options| options.timeout = limit);
    }

    /// Returns the timeout of blocking calls. `None` means no timeout.
    pub fn timeout(&self) -> Option<Duration> {
        self.conn.options(|options| options.timeout)
    }

    /// Sets the [line limit](SocketBuilder::line_limit), in bytes.
    pub fn set_line_limit(&self, bytes: usize) {
        self.conn.change_options(|options| options.line_limit = bytes);
    }

    /// Sets the ending of lines, for sending and receiving. Default: [`LineEnding::Lf`].
    ///
    /// With [`LineEnding::CrLf`], [`sendline`](Socket::sendline) and [`sendline_future`](Socket::sendline_future) add
    /// `\r\n`, and received lines end at `\n`, without one `\r` before it. That applies to
    /// [`readlines`](Socket::readlines), [`readlines_bytes`](Socket::readlines_bytes), [`recv_line`](Socket::recv_line),
    /// [`recv_line_future`](Socket::recv_line_future) and [`lines`](Socket::lines), from the next line on, also inside a
    /// callback. [`reader`](Socket::reader) is std's `BufRead` and knows no line endings: its `read_line` keeps `\r\n`, its
    /// `lines` removes either ending.
    ///
    /// # Example
    /// ```
    /// use network::socket::LineEnding;
    ///
    /// let (ours, mut theirs) = std::os::unix::net::UnixStream::pair()?;
    /// let socket = network::Socket::from_fd(ours)?;
    /// socket.set_line_ending(LineEnding::CrLf);
    /// std::io::Write::write_all(&mut theirs, b"220 ready\r\n")?;
    /// assert_eq!(socket.recv_line()?, "220 ready");
    /// socket.sendline("EHLO localhost")?;
    /// socket.flush()?;
    /// let mut sent = [0; 16];
    /// std::io::Read::read_exact(&mut theirs, &mut sent)?;
    /// assert_eq!(&sent, b"EHLO localhost\r\n");
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn set_line_ending(&self, ending: LineEnding) {
        self.conn.change_options(|options| options.line_ending = ending);
    }

    /// Returns the ending of lines.
    pub fn line_ending(&self) -> LineEnding {
        self.conn.options(|options| options.line_ending)
    }

    /// Sets the [send limit](SocketBuilder::send_limit), in bytes.
    pub fn set_send_limit(&self, bytes: usize) {
        self.conn.set_marks(|options| options.send_limit = bytes);
    }

    /// Sets the [read size](SocketBuilder::read_size), in bytes.
    pub fn set_read_size(&self, bytes: usize) {
        self.conn.change_options(|options| options.read_size = bytes.max(1));
    }

    /// Sets the [linger time](SocketBuilder::linger).
    pub fn set_linger(&self, limit: Duration) {
        self.conn.change_options(|options| options.linger = limit);
    }
}
