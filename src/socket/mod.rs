// The faces of [`Socket`]: callbacks here, futures, blocking calls and options in files of their own.

mod blocking;
mod builder;
mod futures;
mod options;
mod pressure;
mod selectable;
mod stream;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use gio::prelude::*;

use crate::address::{Address, Endpoint};
use crate::conn::Socket;
pub use crate::conn::WeakSocket;
use crate::conn::callbacks::{Disconnect, OnByteLine, OnData, OnLine, OnReady};
use crate::engine::call;
pub use crate::error::Operation;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
pub use crate::sys::{Credentials, KeepAlive};
use crate::tls::Session;
pub use blocking::Reader;
pub use builder::SocketBuilder;
pub use futures::{Chunks, Lines};
pub use selectable::Selectable;
pub(crate) use selectable::sealed::Sealed;
pub(crate) use selectable::{Polled, WeakPolled};
pub use stream::ByteStream;

impl Socket {
    /// Connects and waits until that is done, at most 30 seconds. **Blocks**; nothing of the main loop runs meanwhile.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::Lookup`], [`Error::Refused`], [`Error::Unreachable`], [`Error::TimedOut`],
    /// [`Error::WrongThread`], or [`Error::Io`]. With TLS also [`Error::UnknownCertificate`],
    /// [`Error::CertificateChanged`], [`Error::Rejected`], [`Error::Plaintext`], [`Error::Tls`], [`Error::Identity`],
    /// [`Error::TlsSettings`]; and [`Error::Unsupported`] if the server is one of this same thread, which could not
    /// answer the hand-shake while this call waits.
    ///
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

    /// Connects in the background and calls `callback` with the outcome, on a later turn of the main loop. Never blocks.
    ///
    /// Cancelling ends it with [`Error::Cancelled`]; so does everything that [`connect`](Socket::connect) lists, the
    /// address's own errors included.
    ///
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

    /// Connects in the background. Dropping the future cancels it. Never blocks; to be awaited on the thread's main
    /// context, as by `glib::spawn_future_local`.
    pub fn connect_future<A>(address: A) -> impl Future<Output = Result<Socket>>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        Socket::builder().connect_future(address)
    }

    /// Sets limits and time-outs before connecting.
    pub fn builder() -> SocketBuilder {
        SocketBuilder::new()
    }

    /// Makes a socket of two descriptors, such as the program's own standard input and output. They are owned by it: to
    /// go on using them, give it clones.
    ///
    /// Their blocking mode is left as it is, since others may share them; the socket never blocks on them all the same.
    ///
    /// ```
    /// # use std::os::fd::AsFd;
    /// let input = std::io::stdin().as_fd().try_clone_to_owned()?;
    /// let output = std::io::stdout().as_fd().try_clone_to_owned()?;
    /// let terminal = network::Socket::wrap(input, output)?;
    /// terminal.sendline("What is your name?")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::WrongThread`], or [`Error::Io`] if the system refuses to watch them.
    pub fn wrap(input: impl Into<OwnedFd>, output: impl Into<OwnedFd>) -> Result<Socket> {
        Socket::builder().wrap(input, output)
    }

    /// Makes a socket of one descriptor for both directions: a connected stream socket, a terminal, a serial line. It is
    /// owned by the socket.
    ///
    /// # Errors
    /// [`Error::WrongThread`], or [`Error::Io`] if it is not of a kind that can be watched, or not a *stream* socket.
    pub fn from_fd(fd: impl Into<OwnedFd>) -> Result<Socket> {
        Socket::builder().from_fd(fd)
    }

    /// Makes a socket of a connected socket of gio. That one is cloned: close or drop it afterwards.
    ///
    /// # Errors
    /// As [`from_fd`](Socket::from_fd).
    pub fn from_gio(socket: &gio::Socket) -> Result<Socket> {
        let fd = socket.as_fd().try_clone_to_owned();
        Socket::from_fd(fd.map_err(|source| Error::Io {
            operation: Operation::Wrap,
            address: "a gio socket".into(),
            source,
        })?)
    }

    // ---- sending ----

    /// Sends bytes, all or none: what the system does not take at once is queued, in order. Never blocks.
    ///
    /// What is sent from within a callback goes out when the turn of the loop ends, with everything else that was sent. In a
    /// script without a loop, what is queued goes out while a blocking call waits on this socket, as [`flush`](Socket::flush)
    /// does, and when the last handle is dropped.
    ///
    /// # Errors
    /// [`Error::QueueFull`] if more than the send limit (16 MiB) would wait: nothing of this call is queued then.
    /// [`Error::Closed`] or [`Error::Reset`] if the connection has ended or is shut down for sending.
    pub fn send(&self, data: impl AsRef<[u8]>) -> Result {
        self.conn.send(data.as_ref(), false)
    }

    /// Sends text and a newline, as [`send`](Socket::send) does.
    ///
    /// # Errors
    /// As [`send`](Socket::send).
    pub fn sendline(&self, line: impl AsRef<str>) -> Result {
        self.conn.send(line.as_ref().as_bytes(), true)
    }

    /// Waits until the system has taken all that was sent. **Blocks**, up to the [time-out](Socket::set_timeout).
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Closed`], [`Error::Reset`].
    pub fn flush(&self) -> Result {
        self.conn.blocking().flush()
    }

    /// Calls `callback` when the system has taken all that was sent before, or sending has failed. Never blocks.
    pub fn flush_async(&self, callback: impl FnOnce(Result) + 'static) {
        self.conn.when_flushed(Box::new(move |engine, result| {
            call(engine, || callback(result));
        }));
    }

    /// Bytes that were sent and have not been taken by the system yet.
    pub fn queued(&self) -> usize {
        self.conn.queued()
    }

    /// Closes the sending half once all that was sent has gone out: the peer reads to the end, and can still answer.
    /// Never blocks.
    ///
    /// # Errors
    /// [`Error::Closed`] if the connection has ended.
    pub fn shutdown_write(&self) -> Result {
        self.conn.shutdown_write()
    }

    // ---- receiving by callback ----

    /// Calls `callback` with data as it comes, at most [`read_size`](SocketBuilder::read_size) bytes at a time. Replaces
    /// any other read callback; what was received and not handed over goes to the new one.
    pub fn read(&self, callback: impl FnMut(&Socket, &[u8]) -> Result + 'static) {
        self.conn.set_reader(Some(Box::new(OnData(callback))));
    }

    /// Calls `callback` with each line as it comes, without its `\n`. Bytes that are not UTF-8 become U+FFFD. Replaces any
    /// other read callback; what was received and not handed over goes to the new one.
    ///
    /// A line over the [limit](SocketBuilder::line_limit) (1 MiB) ends the connection with [`Error::LineTooLong`], after
    /// the lines before it.
    pub fn readlines(&self, callback: impl FnMut(&Socket, &str) -> Result + 'static) {
        self.conn.set_reader(Some(Box::new(OnLine(callback))));
    }

    /// As [`readlines`](Socket::readlines), with the bytes of each line as they came: for protocols whose lines are not
    /// UTF-8, or to look at the text only where it is needed.
    pub fn readlines_bytes(&self, callback: impl FnMut(&Socket, &[u8]) -> Result + 'static) {
        self.conn.set_reader(Some(Box::new(OnByteLine(callback))));
    }

    /// Calls `callback` when data waits, again and again while it does and others have had their turn, without taking it:
    /// the callback calls [`recv`](Socket::recv), which does not block then. Replaces any other read callback.
    ///
    /// Returns what had been received and not handed over.
    #[must_use = "the bytes that were received already are not told again"]
    pub fn rawread(&self, callback: impl FnMut(&Socket) -> Result + 'static) -> Vec<u8> {
        let leftover = self.conn.take_leftover();
        self.conn.set_reader(Some(Box::new(OnReady(callback))));
        leftover
    }

    /// Takes the read callback away and returns what had been received and not handed over. Within a callback that
    /// includes the lines that came after the present one.
    pub fn unread(&self) -> Vec<u8> {
        self.conn.set_reader(None);
        self.conn.take_leftover()
    }

    /// Sets who is told, once, that the peer has ended its sending half: everything it sent has been handed over. With such
    /// a callback the peer's end is not the end of the connection: it can still be sent to, until
    /// [`shutdown_write`](Socket::shutdown_write) or [`close`](Socket::close) ends this direction too. Without one, the
    /// default, the peer's end closes the connection (after what was sent has gone out).
    ///
    /// ```
    /// # use network::{Result, Socket};
    /// # fn count(socket: &Socket) -> Result {
    /// // Reads to the end, then answers.
    /// let lines = std::rc::Rc::new(std::cell::Cell::new(0));
    /// let counted = lines.clone();
    /// socket.readlines(move |_, _| {
    ///     lines.set(lines.get() + 1);
    ///     Ok(())
    /// });
    /// socket.half_close_cb(move |socket| {
    ///     socket.sendline(format!("{} lines", counted.get()))?;
    ///     socket.shutdown_write()
    /// });
    /// # Ok(())
    /// # }
    /// ```
    pub fn half_close_cb(&self, callback: impl FnOnce(&Socket) -> Result + 'static) {
        self.conn.set_on_end(Box::new(callback));
    }

    /// Sets who is told of the end of the connection, whoever ended it: once, on a later turn of the main loop, with what
    /// had been received and not handed over. Replaces the one before. A socket that ends because its last handle was
    /// dropped tells nobody.
    pub fn disconnect_cb(&self, callback: impl FnOnce(&Socket, Disconnect) + 'static) {
        self.conn.set_on_disconnect(Some(Box::new(callback)));
    }

    /// Takes the disconnect callback away. Then an error that ends the connection is logged.
    pub fn unset_disconnect_cb(&self) {
        self.conn.set_on_disconnect(None);
    }

    // ---- receiving by asking ----

    /// Waits until data is there and returns up to `max` bytes of it (at most 64 KiB). **Blocks**, up to the
    /// [time-out](Socket::set_timeout). What the peer had sent before it closed comes first.
    ///
    /// # Errors
    /// [`Error::Closed`] at the end, [`Error::Reset`], [`Error::TimedOut`] (nothing is lost then), [`Error::Io`].
    pub fn recv(&self, max: usize) -> Result<Vec<u8>> {
        self.conn.blocking().recv(max)
    }

    /// Waits for a line and returns it without its `\n`. **Blocks**, up to the [time-out](Socket::set_timeout). Bytes that
    /// are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// As [`recv`](Socket::recv), and [`Error::LineTooLong`]. The beginning of a line that never ends stays for `recv`.
    pub fn recv_line(&self) -> Result<String> {
        self.conn.blocking().recv_line()
    }

    // ---- the end ----

    /// Closes the connection; what was sent still goes out, in the background, for at most the
    /// [linger time](SocketBuilder::linger) (5 s). Never blocks. The disconnect callback is called on a later turn.
    ///
    /// Without a main loop there is no background: what the system has not taken goes out when the last handle is
    /// dropped, which then waits for that, at most as long. A script drops the socket, or calls
    /// [`flush`](Socket::flush) before.
    ///
    /// Returns what had been received and not handed over, unless there is a disconnect callback, which gets it.
    ///
    /// It hides futures' `AsyncWriteExt::close`, which ends one direction and waits: call that by its full name.
    pub fn close(&self) -> Vec<u8> {
        self.conn.close()
    }

    /// Closes the connection at once and discards what has not gone out. Otherwise as [`close`](Socket::close).
    pub fn abort(&self) -> Vec<u8> {
        self.conn.abort()
    }

    /// Has the connection neither been closed here nor come to its end?
    pub fn is_open(&self) -> bool {
        self.conn.is_open()
    }

    // ---- about the connection ----

    /// Who is at the other end.
    pub fn remote(&self) -> Endpoint {
        self.conn.remote()
    }

    /// Our own end.
    pub fn local(&self) -> Endpoint {
        self.conn.transport().local()
    }

    /// Is the connection encrypted?
    pub fn is_tls(&self) -> bool {
        self.conn.is_tls()
    }

    /// SHA-256 of the public key that the peer has proven to hold. `None` without TLS, and of clients that showed no
    /// certificate.
    pub fn peer_fingerprint(&self) -> Option<Fingerprint> {
        self.conn.peer_fingerprint()
    }

    /// The version of TLS that was agreed on, as in `TLSv1.3`. `None` without TLS.
    pub fn tls_version(&self) -> Option<&'static str> {
        self.conn.session(Session::version).flatten()
    }

    /// The cipher suite that was agreed on, by its registered name. `None` without TLS.
    pub fn cipher_suite(&self) -> Option<String> {
        self.conn.session(Session::cipher_suite).flatten()
    }

    /// The application protocol that was agreed on. `None` without TLS, or if there was nothing to agree on.
    pub fn alpn(&self) -> Option<Vec<u8>> {
        self.conn.session(|session| session.alpn().map(Vec::from)).flatten()
    }

    /// Does this connection resume an earlier one to the same server, which costs less than a full hand-shake?
    pub fn is_tls_resumed(&self) -> bool {
        self.conn.session(Session::resumed).unwrap_or(false)
    }

    /// How long a blocking call waits for the peer, from now on. `None`, the default, is without end. With zero it does
    /// not wait: where it would have to, it fails with [`Error::NotReady`].
    pub fn set_timeout(&self, limit: impl Into<Option<Duration>>) {
        let limit = limit.into();
        self.conn.change_options(|options| options.timeout = limit);
    }

    /// Changes the [line limit](SocketBuilder::line_limit) from now on.
    pub fn set_line_limit(&self, bytes: usize) {
        self.conn.change_options(|options| options.line_limit = bytes);
    }

    /// Changes the [send limit](SocketBuilder::send_limit) from now on.
    pub fn set_send_limit(&self, bytes: usize) {
        self.conn.set_marks(|options| options.send_limit = bytes);
    }

    /// Changes the [read size](SocketBuilder::read_size) from now on.
    pub fn set_read_size(&self, bytes: usize) {
        self.conn.change_options(|options| options.read_size = bytes.max(1));
    }

    /// Changes the [linger time](SocketBuilder::linger) from now on.
    pub fn set_linger(&self, limit: Duration) {
        self.conn.change_options(|options| options.linger = limit);
    }

    /// Hands the connection over as a plain descriptor in blocking mode, with what had been received and not handed over.
    /// What was sent goes out first: **blocks** until then. All handles are closed; no callback is called.
    ///
    /// # Errors
    /// [`Error::Closed`] if it is closed already or was made by [`wrap`](Socket::wrap), else as [`flush`](Socket::flush).
    pub fn into_fd(self) -> Result<(OwnedFd, Vec<u8>)> {
        self.conn.take_descriptor()
    }

    /// As [`into_fd`](Socket::into_fd), to a TCP stream of std.
    ///
    /// # Errors
    /// As [`into_fd`](Socket::into_fd); [`Error::Unsupported`] if it is not TCP.
    pub fn into_tcp(self) -> Result<(std::net::TcpStream, Vec<u8>)> {
        if self.remote().inet().is_none() {
            return Err(Error::Unsupported(format!("the connection to {} is not TCP", self.remote())));
        }
        let (fd, leftover) = self.into_fd()?;
        Ok((fd.into(), leftover))
    }

    /// As [`into_fd`](Socket::into_fd), to a unix stream of std.
    ///
    /// # Errors
    /// As [`into_fd`](Socket::into_fd); [`Error::Unsupported`] if it is not a unix socket.
    pub fn into_unix(self) -> Result<(UnixStream, Vec<u8>)> {
        if !matches!(self.remote(), Endpoint::Unix(_) | Endpoint::Abstract(_)) {
            return Err(Error::Unsupported(format!("the connection to {} is not a unix socket", self.remote())));
        }
        let (fd, leftover) = self.into_fd()?;
        Ok((fd.into(), leftover))
    }

    /// As [`into_fd`](Socket::into_fd), to a socket of gio.
    ///
    /// # Errors
    /// As [`into_fd`](Socket::into_fd), and what gio says.
    pub fn into_gio(self) -> Result<(gio::Socket, Vec<u8>)> {
        let (fd, leftover) = self.into_fd()?;
        Ok((gio::Socket::from_fd(fd)?, leftover))
    }
}

impl TryFrom<std::net::TcpStream> for Socket {
    type Error = Error;
    fn try_from(stream: std::net::TcpStream) -> Result<Socket> {
        Socket::from_fd(stream)
    }
}

impl TryFrom<UnixStream> for Socket {
    type Error = Error;
    fn try_from(stream: UnixStream) -> Result<Socket> {
        Socket::from_fd(stream)
    }
}

impl AsFd for Socket {
    /// The descriptor, of the input if there are two; `/dev/null` once the connection is closed. To read from it or write
    /// to it oneself confuses the connection: use [`into_fd`](Socket::into_fd) for that.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.conn.transport().lend()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
