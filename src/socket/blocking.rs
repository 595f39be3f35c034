//! The blocking face of [`Socket`]: receiving, short writes, and std's traits.

use std::io::{self, BufRead, Read, Write};

use super::Socket;
use crate::conn::{Mark, Piece};
use crate::error::{Error, Result};

/// Blocking calls. The [timeout](Socket::set_timeout) covers each of them from its beginning to its end.
impl Socket {
    /// Receives data into `buffer` and returns the number of bytes.
    ///
    /// Returns 0 only if `buffer` is empty.
    ///
    /// # Blocking
    /// See [`recv`](Socket::recv).
    ///
    /// # Errors
    /// See [`recv`](Socket::recv).
    pub fn recv_into(&self, buffer: &mut [u8]) -> Result<usize> {
        self.conn.blocking().recv_into(buffer)
    }

    /// Receives exactly `count` bytes.
    ///
    /// All of them are kept in memory until then, so `count` must not come from the peer unchecked.
    ///
    /// # Blocking
    /// Until `count` bytes have arrived, the connection ends, or the [timeout](Socket::set_timeout) expires.
    ///
    /// # Errors
    /// See [`recv`](Socket::recv). No data is lost: what has arrived stays in the buffer for the next call.
    ///
    /// # Example: Read a message with a length in front
    /// ```
    /// # let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    /// # let socket = network::Socket::from_fd(ours)?;
    /// # std::io::Write::write_all(&mut &theirs, b"\0\x05Hello")?;
    /// let length = socket.recv_exact(2)?;
    /// let text = socket.recv_exact(u16::from_be_bytes([length[0], length[1]]).into())?;
    /// assert_eq!(text, b"Hello");
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn recv_exact(&self, count: usize) -> Result<Vec<u8>> {
        Ok(self.conn.blocking().recv_exact(count)?.into_vec())
    }

    /// Receives exactly as many bytes as fit into `buffer`.
    ///
    /// `buffer` is filled, or left unchanged if there is an error.
    ///
    /// # Blocking
    /// See [`recv_exact`](Socket::recv_exact).
    ///
    /// # Errors
    /// See [`recv_exact`](Socket::recv_exact).
    pub fn recv_exact_into(&self, buffer: &mut [u8]) -> Result {
        let piece = self.conn.blocking().recv_exact(buffer.len())?;
        buffer.copy_from_slice(piece.as_slice());
        Ok(())
    }

    /// Receives data up to `delimiter`, which is removed.
    ///
    /// Returns nothing, at once, if `delimiter` is empty.
    ///
    /// # Blocking
    /// Until the delimiter has arrived, the connection ends, or the [timeout](Socket::set_timeout) expires.
    ///
    /// # Errors
    /// See [`recv_line`](Socket::recv_line); the line limit applies.
    ///
    /// # Example: Read the head of an HTTP response
    /// ```
    /// # let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    /// # let socket = network::Socket::from_fd(ours)?;
    /// # std::io::Write::write_all(&mut &theirs, b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\nHello")?;
    /// let head = socket.recv_until("\r\n\r\n")?;
    /// assert!(head.ends_with(b"Server: x"));
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn recv_until(&self, delimiter: impl AsRef<[u8]>) -> Result<Vec<u8>> {
        self.conn.blocking().recv_until(delimiter.as_ref())
    }

    /// Receives everything up to the end of the stream.
    ///
    /// # Blocking
    /// Until the stream ends or the [timeout](Socket::set_timeout) expires, which covers the whole call.
    ///
    /// # Errors
    /// - [`Error::LimitExceeded`] if the peer sends more than `limit` bytes.
    /// - [`Error::Closed`] if the connection was closed on this side.
    /// - Otherwise see [`recv`](Socket::recv).
    ///
    /// With any error, what has arrived stays in the buffer for the next call.
    pub fn recv_to_end(&self, limit: usize) -> Result<Vec<u8>> {
        self.conn.blocking().recv_to_end(limit)
    }

    /// Sends as much of `data` as the kernel accepts, and returns the number of bytes.
    ///
    /// Data that was [queued](Socket::send) before is sent first.
    ///
    /// # Blocking
    /// Until the kernel has room, or the [timeout](Socket::set_timeout) expires.
    ///
    /// # Errors
    /// - [`Error::TimedOut`], or [`Error::NotReady`] if the timeout is zero. Nothing of `data` was sent.
    /// - [`Error::Closed`] or [`Error::Reset`] if the connection has ended or its write direction is shut down.
    pub fn send_some(&self, data: impl AsRef<[u8]>) -> Result<usize> {
        self.conn.blocking().send_some(data.as_ref())
    }

    /// Returns a [`BufRead`] over this socket.
    ///
    /// Data that it has not consumed stays in the socket's buffer, where other calls find it, before and after the
    /// reader is dropped.
    ///
    /// # Example: Mix std's lines with the socket's
    /// ```
    /// use std::io::BufRead;
    /// # let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    /// # let socket = network::Socket::from_fd(ours)?;
    /// # std::io::Write::write_all(&mut &theirs, b"one\ntwo\nthree")?;
    /// # drop(theirs);
    /// let mut lines = socket.reader().lines();
    /// assert_eq!(lines.next().unwrap()?, "one");
    /// assert_eq!(socket.recv_line()?, "two");
    /// assert_eq!(lines.next().unwrap()?, "three");
    /// assert!(lines.next().is_none());
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn reader(&self) -> Reader {
        Reader { socket: self.clone(), lent: None }
    }
}

/// Converts an error for std, whose loops repeat a call that was `Interrupted`: the signal that ends the main loop must get
/// through.
fn for_std(error: Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::Interrupted => io::Error::other(error),
        _ => error.into(),
    }
}

/// **Blocks** up to the [timeout](Socket::set_timeout). When it expires, the error is of the kind `TimedOut`, or
/// `WouldBlock` if it is zero. Returns 0 at the end of the stream. A reset or truncated connection is an error.
///
/// [`Socket::read`], which takes a callback, has the same name: call this method as `Read::read(&mut &socket, …)`.
impl Read for &Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.conn.blocking().recv_into(buf) {
            Err(_) if self.conn.has_ended_cleanly() => Ok(0),
            result => result.map_err(for_std),
        }
    }
}

/// See `impl Read for &Socket`.
impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Read::read(&mut &*self, buf)
    }
}

/// Writes as [`Socket::send_some`] does, and **blocks** as it does, where [`Socket::send`] would queue.
impl Write for &Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.conn.blocking().send_some(buf).map_err(for_std)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.conn.blocking().flush().map_err(for_std)
    }
}

/// See `impl Write for &Socket`.
impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Write::write(&mut &*self, buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Write::flush(&mut &*self)
    }
}

/// A [`BufRead`] over a [`Socket`], returned by [`Socket::reader`].
///
/// **Blocks** as the socket's `Read` does. It is a handle to the connection, which stays open while the reader exists.
pub struct Reader {
    socket: Socket,
    /// Data lent by the socket, how much of it is consumed, and its position in the stream.
    lent: Option<(Piece, usize, Mark)>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.lent = None;
        Read::read(&mut &self.socket, buf)
    }
}

impl BufRead for Reader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.lent = None;
        let lent = self.socket.conn.blocking().lend().map_err(for_std)?;
        self.lent = lent.map(|(piece, mark)| (piece, 0, mark));
        Ok(self.lent.as_ref().map_or(&[], |(piece, ..)| piece.as_slice()))
    }

    fn consume(&mut self, amount: usize) {
        if let Some((piece, consumed, mark)) = &mut self.lent {
            *consumed = consumed.saturating_add(amount).min(piece.as_slice().len());
            self.socket.conn.skip(*mark, *consumed);
            if *consumed == piece.as_slice().len() {
                self.lent = None;
            }
        }
    }
}
