//! Options of the system's socket, and what unix sockets have besides bytes: credentials and descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt;

use super::Socket;
use crate::address::Endpoint;
use crate::error::{Error, Operation, Result};
use crate::sys::{self, Credentials, KeepAlive, peer_credentials};

/// Options of the system's socket. None of these calls blocks. All fail with [`Error::Closed`] once the descriptor is
/// closed, and with [`Error::Unsupported`] if the connection is not of a kind that has the option.
impl Socket {
    /// Has the system ask whether the peer is still there, or `None`, the default, not. TCP alone.
    ///
    /// # Errors
    /// [`Error::Io`] for values that the system does not take.
    pub fn set_keep_alive(&self, keep_alive: impl Into<Option<KeepAlive>>) -> Result {
        self.of_tcp("keep-alive", |fd| sys::set_keep_alive(fd, keep_alive.into()))
    }

    /// What [`set_keep_alive`](Socket::set_keep_alive) has set.
    ///
    /// # Errors
    /// As it has.
    pub fn keep_alive(&self) -> Result<Option<KeepAlive>> {
        self.of_tcp("keep-alive", |fd| sys::keep_alive(fd))
    }

    /// Whether small messages go out at once (`TCP_NODELAY`), which is the default here, or wait for the acknowledgement of
    /// those before. TCP alone.
    ///
    /// # Errors
    /// As all options.
    pub fn set_no_delay(&self, no_delay: bool) -> Result {
        self.of_tcp("no-delay", |fd| Ok(sockopt::set_tcp_nodelay(fd, no_delay)?))
    }

    /// What [`set_no_delay`](Socket::set_no_delay) has set.
    ///
    /// # Errors
    /// As all options.
    pub fn no_delay(&self) -> Result<bool> {
        self.of_tcp("no-delay", |fd| Ok(sockopt::tcp_nodelay(fd)?))
    }

    /// The value that goes out in every packet for routers to tell kinds of traffic apart: the traffic class of IPv6, the
    /// type of service of IPv4. 0 by default. TCP alone.
    ///
    /// # Errors
    /// As all options.
    pub fn set_tos(&self, class: u8) -> Result {
        self.of_tcp("a traffic class", |fd| sys::set_tos(fd, class))
    }

    /// What [`set_tos`](Socket::set_tos) has set.
    ///
    /// # Errors
    /// As all options.
    pub fn tos(&self) -> Result<u8> {
        self.of_tcp("a traffic class", |fd| sys::tos(fd))
    }

    /// Asks for a receive buffer of so many bytes in the system, which bounds what the peer can send before it is read.
    /// Linux doubles the number, for its own use of the space, and has an upper limit.
    ///
    /// # Errors
    /// As all options.
    pub fn set_recv_buffer(&self, bytes: usize) -> Result {
        self.of_any("a receive buffer", |fd| {
            Ok(sockopt::set_socket_recv_buffer_size(fd, bytes.min(i32::MAX as usize))?)
        })
    }

    /// The size of the system's receive buffer in bytes, as it is.
    ///
    /// # Errors
    /// As all options.
    pub fn recv_buffer(&self) -> Result<usize> {
        self.of_any("a receive buffer", |fd| Ok(sockopt::socket_recv_buffer_size(fd)?))
    }

    /// Asks for a send buffer of so many bytes in the system. Linux doubles the number, and has an upper limit.
    ///
    /// # Errors
    /// As all options.
    pub fn set_send_buffer(&self, bytes: usize) -> Result {
        self.of_any("a send buffer", |fd| Ok(sockopt::set_socket_send_buffer_size(fd, bytes.min(i32::MAX as usize))?))
    }

    /// The size of the system's send buffer in bytes, as it is.
    ///
    /// # Errors
    /// As all options.
    pub fn send_buffer(&self) -> Result<usize> {
        self.of_any("a send buffer", |fd| Ok(sockopt::socket_send_buffer_size(fd)?))
    }

    /// Changes the [idle time-out](crate::socket::SocketBuilder::idle_timeout) from now on.
    pub fn set_idle_timeout(&self, limit: impl Into<Option<Duration>>) {
        let limit = limit.into();
        self.conn.change_options(|options| options.idle_timeout = limit);
        self.conn.watch_idleness();
    }

    // ---- unix sockets ----

    /// Which process, of which user, is at the other end. Unix sockets alone.
    ///
    /// # Errors
    /// As all options.
    ///
    /// ```
    /// let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    /// let socket = network::Socket::from_fd(ours)?;
    /// assert_eq!(socket.peer_credentials()?.pid, Some(std::process::id()));
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn peer_credentials(&self) -> Result<Credentials> {
        self.of_unix("credentials", |fd| {
            let (pid, uid, gid) = peer_credentials(fd)?;
            Ok(Credentials { pid: u32::try_from(pid).ok().filter(|pid| *pid > 0), uid, gid })
        })
    }

    /// Sends bytes, at least one, and a descriptor along with the first of them: the peer gets one of its own for the same
    /// file. What was sent before goes out first. **Blocks** until the system has taken the descriptor, up to the
    /// [time-out](Socket::set_timeout); bytes that it does not take at once are queued. Unix sockets alone.
    ///
    /// # Errors
    /// As [`send_some`](Socket::send_some), and then nothing was sent; [`Error::QueueFull`]; [`Error::Unsupported`];
    /// [`Error::Io`] if `data` is empty, or, of the kind `PermissionDenied`, if the peer accepts none and says so.
    ///
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

    /// As [`send_fd`](Socket::send_fd), with several descriptors, at most 253.
    ///
    /// # Errors
    /// As there.
    pub fn send_fds(&self, data: impl AsRef<[u8]>, fds: &[BorrowedFd<'_>]) -> Result {
        self.of_unix("descriptors", |_| Ok(()))?;
        self.conn.blocking().send_fds(data.as_ref(), fds)
    }

    /// Waits for a descriptor that the peer sends along, and returns it; it is close-on-exec. **Blocks**, up to the
    /// [time-out](Socket::set_timeout). The bytes that came with it and before it are there for other calls. To be allowed
    /// first by [`accept_fds`](crate::socket::SocketBuilder::accept_fds).
    ///
    /// # Errors
    /// As [`recv`](Socket::recv); [`Error::Unsupported`] if none are accepted; [`Error::LimitExceeded`] if more bytes than the
    /// [line limit](crate::socket::SocketBuilder::line_limit) come before it.
    pub fn recv_fd(&self) -> Result<OwnedFd> {
        self.of_unix("descriptors", |_| Ok(()))?;
        self.conn.blocking().recv_fd()
    }

    /// Takes the descriptors that have come so far, the oldest first. Never blocks. When the bytes are handed over that a
    /// descriptor was sent along with, it is here; it may be here sooner, with bytes before those. Empty where none are
    /// accepted.
    pub fn take_fds(&self) -> Vec<OwnedFd> {
        self.conn.transport().take_fds()
    }

    fn of_any<R>(&self, what: &str, ask: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>) -> Result<R> {
        let transport = self.conn.transport();
        if !transport.is_socket() {
            return Err(Error::Unsupported(format!("the connection to {} has no {what}", self.remote())));
        }
        let fd = transport.socket_fd().ok_or_else(|| self.conn.closed())?;
        ask(fd).map_err(|source| Error::Io { operation: Operation::Option, address: self.remote().to_string(), source })
    }

    fn of_tcp<R>(&self, what: &str, ask: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>) -> Result<R> {
        self.of_kind(matches!(self.remote(), Endpoint::Inet(_)), what, "TCP", ask)
    }

    fn of_unix<R>(&self, what: &str, ask: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>) -> Result<R> {
        self.of_kind(matches!(self.remote(), Endpoint::Unix(_)), what, "a unix socket", ask)
    }

    fn of_kind<R>(
        &self,
        fits: bool,
        what: &str,
        kind: &str,
        ask: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>,
    ) -> Result<R> {
        if !fits {
            return Err(Error::Unsupported(format!("{what}: the connection to {} is not {kind}", self.remote())));
        }
        self.of_any(what, ask)
    }
}
