//! The blocking face: receiving by asking, short writes, and std's traits.

use std::io::{self, BufRead, Read, Write};

use super::Socket;
use crate::conn::{Mark, Piece};
use crate::error::{Error, Result};

/// What [`Socket::set_timeout`] says holds for each of these calls, from its beginning to its end.
impl Socket {
    /// Waits until data is there and puts as much of it into `buffer` as fits; returns how much. **Blocks**, up to the
    /// [time-out](Socket::set_timeout). 0 only if `buffer` is empty.
    ///
    /// # Errors
    /// As [`recv`](Socket::recv).
    pub fn recv_into(&self, buffer: &mut [u8]) -> Result<usize> {
        self.conn.blocking().recv_into(buffer)
    }

    /// Waits for exactly `count` bytes and returns them. **Blocks**, up to the [time-out](Socket::set_timeout). They are
    /// all kept in memory.
    ///
    /// # Errors
    /// As [`recv`](Socket::recv). Nothing is lost: if the time is up, or the end comes first, what has come stays for the
    /// next call.
    ///
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

    /// As [`recv_exact`](Socket::recv_exact), into memory of the caller's, which is filled or, with an error, left as it is.
    ///
    /// # Errors
    /// As there.
    pub fn recv_exact_into(&self, buffer: &mut [u8]) -> Result {
        let piece = self.conn.blocking().recv_exact(buffer.len())?;
        buffer.copy_from_slice(piece.as_slice());
        Ok(())
    }

    /// Waits for `delimiter` and returns what is before it; the delimiter itself is taken away. **Blocks**, up to the
    /// [time-out](Socket::set_timeout). Without a single byte to wait for it returns nothing, at once.
    ///
    /// # Errors
    /// As [`recv_line`](Socket::recv_line), with the same limit.
    ///
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

    /// Waits for the peer's end and returns all that it sent before. **Blocks**, up to the
    /// [time-out](Socket::set_timeout), which holds for the whole.
    ///
    /// # Errors
    /// As [`recv`](Socket::recv); [`Error::LimitExceeded`] if more than `limit` bytes come. [`Error::Closed`] means that it
    /// was closed on this side: the peer's end is what this waits for. What has come stays for the next call.
    pub fn recv_to_end(&self, limit: usize) -> Result<Vec<u8>> {
        self.conn.blocking().recv_to_end(limit)
    }

    /// Waits until the system has room and gives it what it takes of `data`; returns how much that is. **Blocks**, up to
    /// the [time-out](Socket::set_timeout). What was [sent](Socket::send) before goes out first.
    ///
    /// # Errors
    /// [`Error::TimedOut`], or [`Error::NotReady`] with a time-out of zero: nothing of `data` was taken then.
    /// [`Error::Closed`] or [`Error::Reset`] if the connection has ended or is shut down for sending.
    pub fn send_some(&self, data: impl AsRef<[u8]>) -> Result<usize> {
        self.conn.blocking().send_some(data.as_ref())
    }

    /// A [`BufRead`] of this socket, for what takes one. What it has not consumed stays with the socket, where other calls
    /// find it, before and after it is dropped.
    ///
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

/// What std's own loops must not take for a reason to try again: the signal that ends the loop stays.
fn for_std(error: Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::Interrupted => io::Error::other(error),
        _ => error.into(),
    }
}

/// **Blocks**, up to the [time-out](Socket::set_timeout); when that is up the error is of the kind `TimedOut`, with a
/// time-out of zero `WouldBlock`. 0 is the peer's end. A TLS connection that was cut off is an error.
///
/// [`Socket::read`], which takes a callback, has the same name: call this one as `Read::read(&mut &socket, …)`.
impl Read for &Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.conn.blocking().recv_into(buf) {
            Err(_) if self.conn.has_ended_cleanly() => Ok(0),
            result => result.map_err(for_std),
        }
    }
}

/// As for `&Socket`.
impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Read::read(&mut &*self, buf)
    }
}

/// Writes as [`Socket::send_some`] does and **blocks** as that does, where [`Socket::send`] would queue.
impl Write for &Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.conn.blocking().send_some(buf).map_err(for_std)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.conn.blocking().flush().map_err(for_std)
    }
}

/// As for `&Socket`.
impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Write::write(&mut &*self, buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Write::flush(&mut &*self)
    }
}

/// Reads a [`Socket`] as [`BufRead`], see [`Socket::reader`]. **Blocks** as its `Read` does. It is a handle: the
/// connection stays open for it.
pub struct Reader {
    socket: Socket,
    /// Lent by the socket, how much of it is consumed, and where it lies there.
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
