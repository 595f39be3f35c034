//! Options of the kernel's socket, and what unix sockets have besides data: credentials and file descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt;

use super::Socket;
use crate::conn::probing;
use crate::error::{Error, Operation, Result};
use crate::sys::{self, Credentials, KeepAlive, peer_credentials};

/// Socket options. All of these methods fail with [`Error::Closed`] once the connection is closed, and with
/// [`Error::Unsupported`] if this kind of connection does not have the option.
impl Socket {
    /// Enables TCP keep-alive, or disables it with `None` (the default). TCP only.
    ///
    /// It asks a silent peer. While sent data is on its way, the kernel sends that again instead, and no probe: then only a
    /// [user timeout](Self::set_user_timeout) ends a connection to a dead peer within minutes.
    ///
    /// # Errors
    /// [`Error::Io`] for values that the kernel rejects. Otherwise as all options.
    pub fn set_keep_alive(&self, keep_alive: impl Into<Option<KeepAlive>>) -> Result {
        self.of_tcp("keep-alive", |fd| {
            probing::stop(&self.conn, fd)?;
            sys::set_keep_alive(fd, keep_alive.into())
        })
    }

    /// Returns the keep-alive settings. `None` if it is disabled. TCP only.
    ///
    /// # Errors
    /// As all options.
    pub fn keep_alive(&self) -> Result<Option<KeepAlive>> {
        self.of_tcp("keep-alive", |fd| probing::keep_alive(&self.conn).map_or_else(|| sys::keep_alive(fd), Ok))
    }

    /// Limits the time that sent data may stay unacknowledged (`TCP_USER_TIMEOUT`, RFC 5482). Then the connection ends with
    /// [`Error::Io`] of the kind `TimedOut`, or of the last network error. `None`, the default: the kernel's own limit, about
    /// 15 minutes. Rounded up to whole milliseconds. TCP only.
    ///
    /// This notices a dead peer while data is on its way to it. [Keep-alive](Self::set_keep_alive) probes only while nothing
    /// is; with both, this limit applies to its probes as well, in place of their count.
    ///
    /// # Errors
    /// As all options.
    pub fn set_user_timeout(&self, limit: impl Into<Option<Duration>>) -> Result {
        self.of_tcp("a user timeout", |fd| {
            probing::stop(&self.conn, fd)?;
            sys::set_user_timeout(fd, limit.into())
        })
    }

    /// Returns the limit of the time that sent data may stay unacknowledged. `None` if it is the kernel's own. TCP only.
    ///
    /// # Errors
    /// As all options.
    pub fn user_timeout(&self) -> Result<Option<Duration>> {
        self.of_tcp("a user timeout", |fd| probing::user_timeout(&self.conn).map_or_else(|| sys::user_timeout(fd), Ok))
    }

    /// Asks the peer's kernel for a sign of life: if none comes, the connection ends after about five seconds with
    /// [`Error::Io`] of the kind `TimedOut`, or of the last network error. Returns at once. TCP only.
    ///
    /// For the moment when a connection is in doubt, as after a change of the network or a suspend. The peer's program does
    /// not notice. Uses keep-alive every second, five times. The [keep-alive](Self::set_keep_alive) and
    /// [user timeout](Self::set_user_timeout) of the socket are put back by the main loop within half a second after
    /// something has come, or after ten seconds; setting one of them ends the probe. Meanwhile both methods that read them
    /// return what was set.
    ///
    /// Has no effect while an earlier probe has no answer, nor while sent data is unacknowledged: the kernel then sends that again,
    /// which asks as well, and the user timeout holds.
    ///
    /// # Errors
    /// As all options.
    ///
    /// # Example
    /// ```
    /// # let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// # let address = listener.local_addr()?;
    /// let socket = network::Socket::builder().tls(false).connect(address)?;
    /// socket.probe()?;
    /// assert_eq!(socket.keep_alive()?, None);
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn probe(&self) -> Result {
        self.of_tcp("a probe", |fd| probing::start(&self.conn, fd))
    }

    /// Sets whether small messages are sent at once (`TCP_NODELAY`), instead of waiting for the acknowledgement of
    /// earlier ones. Default: true. TCP only.
    ///
    /// # Errors
    /// As all options.
    pub fn set_no_delay(&self, no_delay: bool) -> Result {
        self.of_tcp("TCP_NODELAY", |fd| Ok(sockopt::set_tcp_nodelay(fd, no_delay)?))
    }

    /// Returns whether small messages are sent at once (`TCP_NODELAY`). TCP only.
    ///
    /// # Errors
    /// As all options.
    pub fn no_delay(&self) -> Result<bool> {
        self.of_tcp("TCP_NODELAY", |fd| Ok(sockopt::tcp_nodelay(fd)?))
    }

    /// Sets the traffic class (`IP_TOS`, `IPV6_TCLASS`). Default: 0. TCP only.
    ///
    /// # Errors
    /// As all options.
    pub fn set_tos(&self, class: u8) -> Result {
        self.of_tcp("a traffic class", |fd| sys::set_tos(fd, class))
    }

    /// Returns the traffic class (`IP_TOS`, `IPV6_TCLASS`). TCP only.
    ///
    /// # Errors
    /// As all options.
    pub fn tos(&self) -> Result<u8> {
        self.of_tcp("a traffic class", |fd| sys::tos(fd))
    }

    /// Sets the size of the kernel's receive buffer (`SO_RCVBUF`) in bytes, which bounds what an unread peer can send.
    ///
    /// Linux doubles the number for its bookkeeping, and has an upper limit.
    ///
    /// # Errors
    /// As all options.
    pub fn set_recv_buffer(&self, bytes: usize) -> Result {
        self.of_any("a receive buffer", |fd| {
            Ok(sockopt::set_socket_recv_buffer_size(fd, bytes.min(i32::MAX as usize))?)
        })
    }

    /// Returns the size of the kernel's receive buffer, in bytes, as the kernel counts it.
    ///
    /// # Errors
    /// As all options.
    pub fn recv_buffer(&self) -> Result<usize> {
        self.of_any("a receive buffer", |fd| Ok(sockopt::socket_recv_buffer_size(fd)?))
    }

    /// Sets the size of the kernel's send buffer (`SO_SNDBUF`) in bytes. Linux doubles the number, and has an upper
    /// limit.
    ///
    /// # Errors
    /// As all options.
    pub fn set_send_buffer(&self, bytes: usize) -> Result {
        self.of_any("a send buffer", |fd| Ok(sockopt::set_socket_send_buffer_size(fd, bytes.min(i32::MAX as usize))?))
    }

    /// Returns the size of the kernel's send buffer, in bytes, as the kernel counts it.
    ///
    /// # Errors
    /// As all options.
    pub fn send_buffer(&self) -> Result<usize> {
        self.of_any("a send buffer", |fd| Ok(sockopt::socket_send_buffer_size(fd)?))
    }

    /// Sets the [idle timeout](crate::socket::SocketBuilder::idle_timeout), which starts anew.
    pub fn set_idle_timeout(&self, limit: impl Into<Option<Duration>>) {
        let limit = limit.into();
        self.conn.change_options(|options| options.idle_timeout = limit);
        self.conn.watch_idleness();
    }

    /// Returns the [idle timeout](crate::socket::SocketBuilder::idle_timeout). `None` means no timeout.
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.conn.options(|options| options.idle_timeout)
    }

    /// Sets the [receive timeout](crate::socket::SocketBuilder::receive_timeout), which starts anew.
    pub fn set_receive_timeout(&self, limit: impl Into<Option<Duration>>) {
        let limit = limit.into();
        self.conn.change_options(|options| options.receive_timeout = limit);
        self.conn.watch_idleness();
    }

    /// Returns the [receive timeout](crate::socket::SocketBuilder::receive_timeout). `None` means no timeout.
    pub fn receive_timeout(&self) -> Option<Duration> {
        self.conn.options(|options| options.receive_timeout)
    }

    // ---- unix sockets ----

    /// Returns the peer credentials (`SO_PEERCRED`): process, user and group. Unix sockets only.
    ///
    /// # Errors
    /// As all options.
    ///
    /// # Example: Identify the peer
    /// ```
    /// let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    /// let socket = network::Socket::from_fd(ours)?;
    /// assert_eq!(socket.peer_credentials()?.pid, Some(std::process::id()));
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn peer_credentials(&self) -> Result<Credentials> {
        self.of_unix("peer credentials", |fd| {
            let (pid, uid, gid) = peer_credentials(fd)?;
            Ok(Credentials { pid: u32::try_from(pid).ok().filter(|pid| *pid > 0), uid, gid })
        })
    }

    /// Sends at least one byte of data, and a file descriptor as ancillary data. Unix sockets only.
    ///
    /// The peer receives a descriptor for the same open file with the first byte. Data that was queued before is sent
    /// first. Bytes that the kernel does not accept at once are queued.
    ///
    /// # Blocking
    /// Until the kernel has accepted the descriptor, or the [timeout](Socket::set_timeout) expires.
    ///
    /// # Errors
    /// - See [`send_some`](Socket::send_some); nothing was sent then. [`Error::QueueFull`] if `data` exceeds the send
    ///   limit.
    /// - [`Error::Unsupported`] if this is not a unix socket, or if it uses TLS.
    /// - [`Error::Io`] if `data` is empty, or of the kind `PermissionDenied` if the peer's kernel socket refuses
    ///   descriptors.
    ///
    /// # Example: Pass an open file
    /// ```
    /// use network::Socket;
    ///
    /// let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    /// let (ours, theirs) = (Socket::from_fd(ours)?, Socket::builder().accept_fds(1).from_fd(theirs)?);
    /// ours.send_fd("here it comes\n", std::fs::File::open("/dev/null")?)?;
    /// let file = std::fs::File::from(theirs.recv_fd()?);
    /// assert_eq!(theirs.recv_line()?, "here it comes");
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn send_fd(&self, data: impl AsRef<[u8]>, fd: impl AsFd) -> Result {
        self.send_fds(data, &[fd.as_fd()])
    }

    /// Sends data and up to 253 file descriptors. See [`send_fd`](Socket::send_fd).
    ///
    /// # Blocking
    /// See [`send_fd`](Socket::send_fd).
    ///
    /// # Errors
    /// See [`send_fd`](Socket::send_fd).
    pub fn send_fds(&self, data: impl AsRef<[u8]>, fds: &[BorrowedFd<'_>]) -> Result {
        self.of_unix("passing file descriptors", |_| Ok(()))?;
        self.conn.blocking().send_fds(data.as_ref(), fds)
    }

    /// Receives a file descriptor that the peer has sent; it is close-on-exec. Unix sockets only.
    ///
    /// Must be enabled with [`accept_fds`](crate::socket::SocketBuilder::accept_fds). The data that was sent before and
    /// with the descriptor stays in the buffer for other calls.
    ///
    /// # Blocking
    /// Until a descriptor arrives, the connection ends, or the [timeout](Socket::set_timeout) expires.
    ///
    /// # Errors
    /// - [`Error::Unsupported`] if descriptors are not accepted.
    /// - [`Error::LimitExceeded`] if more bytes than the [line limit](crate::socket::SocketBuilder::line_limit) arrive
    ///   before it.
    /// - Otherwise see [`recv`](Socket::recv).
    pub fn recv_fd(&self) -> Result<OwnedFd> {
        self.of_unix("passing file descriptors", |_| Ok(()))?;
        self.conn.blocking().recv_fd()
    }

    /// Takes the file descriptors that have been received, oldest first. Empty if none are accepted.
    ///
    /// A descriptor is available when the data that it was sent with is delivered, and possibly earlier.
    pub fn take_fds(&self) -> Vec<OwnedFd> {
        self.conn.transport().take_fds()
    }

    fn of_any<R>(&self, what: &str, ask: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>) -> Result<R> {
        let transport = self.conn.transport();
        if !transport.is_socket() {
            return Err(Error::Unsupported(format!("{what} is not available: {} is not a socket", self.remote())));
        }
        let fd = transport.socket_fd().ok_or_else(|| self.conn.closed())?;
        ask(fd).map_err(|source| Error::Io { operation: Operation::Option, address: self.remote().to_string(), source })
    }

    fn of_tcp<R>(&self, what: &str, ask: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>) -> Result<R> {
        self.of_kind(self.remote().port().is_some(), what, "TCP", ask)
    }

    fn of_unix<R>(&self, what: &str, ask: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>) -> Result<R> {
        self.of_kind(self.remote().is_unix(), what, "a unix socket", ask)
    }

    fn of_kind<R>(
        &self,
        fits: bool,
        what: &str,
        kind: &str,
        ask: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>,
    ) -> Result<R> {
        if !fits {
            return Err(Error::Unsupported(format!("{what} requires {kind}, but {} is not", self.remote())));
        }
        self.of_any(what, ask)
    }
}
