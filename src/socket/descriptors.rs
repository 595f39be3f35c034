//! A [`Socket`] from descriptors, and back.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use super::Socket;
use crate::error::{Error, Operation, Result};

impl Socket {
    /// Makes a socket from two file descriptors, such as standard input and output.
    ///
    /// Takes ownership of them; to keep using them, pass duplicates. Their blocking mode is left as it is, because
    /// other processes may share them; the socket never blocks on them nevertheless. TLS is not used.
    ///
    /// # Errors
    /// - [`Error::WrongThread`] if another thread owns the main context.
    /// - [`Error::Io`] if the kernel cannot watch them.
    ///
    /// # Example: Talk to a terminal
    /// ```
    /// # use std::os::fd::AsFd;
    /// let input = std::io::stdin().as_fd().try_clone_to_owned()?;
    /// let output = std::io::stdout().as_fd().try_clone_to_owned()?;
    /// let terminal = network::Socket::wrap(input, output)?;
    /// terminal.sendline("What is your name?")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wrap(input: impl Into<OwnedFd>, output: impl Into<OwnedFd>) -> Result<Socket> {
        Socket::builder().wrap(input, output)
    }

    /// Makes a socket from one file descriptor: a connected stream socket, a terminal, a serial line.
    ///
    /// Takes ownership of it. TLS is not used.
    ///
    /// # Errors
    /// - [`Error::WrongThread`] if another thread owns the main context.
    /// - [`Error::Io`] if the kernel cannot watch it, or if it is a socket of another type than *stream*.
    pub fn from_fd(fd: impl Into<OwnedFd>) -> Result<Socket> {
        Socket::builder().from_fd(fd)
    }

    /// Makes a socket from a connected `gio::Socket`.
    ///
    /// The descriptor is duplicated: close or drop the `gio::Socket` afterwards.
    ///
    /// # Errors
    /// See [`from_fd`](Socket::from_fd).
    pub fn from_gio(socket: &gio::Socket) -> Result<Socket> {
        let fd = socket.as_fd().try_clone_to_owned();
        Socket::from_fd(fd.map_err(|source| Error::Io {
            operation: Operation::Wrap,
            address: "a gio socket".into(),
            source,
        })?)
    }

    /// Makes two sockets that are connected to each other: a pair of unix sockets.
    ///
    /// For tests, and to talk to another part of the program, or to a thread or child by way of
    /// [`into_fd`](Socket::into_fd).
    ///
    /// # Errors
    /// - [`Error::WrongThread`] if another thread owns the main context.
    /// - [`Error::Io`] if the process has run out of file descriptors.
    ///
    /// # Example: Test a handler without a server
    /// ```
    /// fn greet(client: network::Socket) -> network::Result {
    ///     client.sendline("Hello")
    /// }
    ///
    /// let (client, served) = network::Socket::pair()?;
    /// greet(served)?;
    /// assert_eq!(client.recv_line()?, "Hello");
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn pair() -> Result<(Socket, Socket)> {
        let pair = UnixStream::pair().map_err(|source| Error::Io {
            operation: Operation::Wrap,
            address: "a pair of sockets".into(),
            source,
        });
        let (one, other) = pair?;
        Ok((Socket::from_fd(one)?, Socket::from_fd(other)?))
    }

    /// Converts the connection into a plain file descriptor in blocking mode, and returns the undelivered data beside
    /// it.
    ///
    /// All handles are closed, and no callback is called.
    ///
    /// # Blocking
    /// Until the queued data is sent.
    ///
    /// # Errors
    /// - [`Error::Closed`] if the connection is closed or was made by [`wrap`](Socket::wrap).
    /// - [`Error::Unsupported`] if it uses TLS.
    /// - Otherwise see [`flush`](Socket::flush).
    pub fn into_fd(self) -> Result<(OwnedFd, Vec<u8>)> {
        self.conn.take_descriptor()
    }

    /// Converts the connection into a [`TcpStream`](std::net::TcpStream), as [`into_fd`](Socket::into_fd) does.
    ///
    /// # Errors
    /// See [`into_fd`](Socket::into_fd). [`Error::Unsupported`] if it is not a TCP connection.
    pub fn into_tcp(self) -> Result<(std::net::TcpStream, Vec<u8>)> {
        if self.remote().port().is_none() {
            return Err(Error::Unsupported(format!("the connection to {} is not TCP", self.remote())));
        }
        let (fd, leftover) = self.into_fd()?;
        Ok((fd.into(), leftover))
    }

    /// Converts the connection into a [`UnixStream`], as [`into_fd`](Socket::into_fd) does.
    ///
    /// # Errors
    /// See [`into_fd`](Socket::into_fd). [`Error::Unsupported`] if it is not a unix socket.
    pub fn into_unix(self) -> Result<(UnixStream, Vec<u8>)> {
        if !self.remote().is_unix() {
            return Err(Error::Unsupported(format!("the connection to {} is not a unix socket", self.remote())));
        }
        let (fd, leftover) = self.into_fd()?;
        Ok((fd.into(), leftover))
    }

    /// Converts the connection into a [`gio::Socket`], as [`into_fd`](Socket::into_fd) does.
    ///
    /// # Errors
    /// See [`into_fd`](Socket::into_fd). [`Error::Other`] with GLib's error.
    pub fn into_gio(self) -> Result<(gio::Socket, Vec<u8>)> {
        let (fd, leftover) = self.into_fd()?;
        Ok((gio::Socket::from_fd(fd)?, leftover))
    }
}

impl TryFrom<&gio::Socket> for Socket {
    type Error = Error;

    /// See [`Socket::from_gio`].
    fn try_from(socket: &gio::Socket) -> Result<Socket> {
        Socket::from_gio(socket)
    }
}

impl TryFrom<std::net::TcpStream> for Socket {
    type Error = Error;

    /// See [`Socket::from_fd`].
    fn try_from(stream: std::net::TcpStream) -> Result<Socket> {
        Socket::from_fd(stream)
    }
}

impl TryFrom<UnixStream> for Socket {
    type Error = Error;

    /// See [`Socket::from_fd`].
    fn try_from(stream: UnixStream) -> Result<Socket> {
        Socket::from_fd(stream)
    }
}

impl AsFd for Socket {
    /// Lends the file descriptor, the input one if there are two, or `/dev/null` once the connection is closed.
    ///
    /// Do not read from it or write to it: the connection would lose data. To take it out, use
    /// [`into_fd`](Socket::into_fd).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.conn.transport().lend()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
