//! A socket as a byte stream for futures-io: two independent directions, with a buffer to look into.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_io::{AsyncBufRead, AsyncRead, AsyncWrite};

use super::Socket;
use crate::error::Error;

/// The most that is read into the buffer at once.
const BUFFER: usize = 64 << 10;

/// The memory that an empty buffer keeps.
const KEEP: usize = 16 << 10;

/// A byte stream over a [`Socket`] for futures-io: [`AsyncRead`], [`AsyncBufRead`] and [`AsyncWrite`].
///
/// Returned by [`Socket::into_stream`].
#[derive(Debug)]
pub struct ByteStream {
    socket: Socket,
    /// Taken from the socket, and not consumed from `start` on.
    buffer: Vec<u8>,
    start: usize,
    /// It was encrypted when it came.
    was_tls: bool,
}

impl Socket {
    /// Converts this handle into a byte stream for futures-io.
    ///
    /// The stream implements `AsyncRead`, `AsyncBufRead` and `AsyncWrite`. The two directions end independently: after
    /// the peer's half-close, reading returns `Ok(0)` and writing continues until the stream is closed or dropped. This
    /// replaces any [`half_close_cb`](Socket::half_close_cb). When the stream is dropped, data that it has read and not
    /// consumed returns to the connection.
    ///
    /// # Example: Use futures-io's extension traits
    /// ```
    /// # use futures_util::io::{AsyncBufReadExt, AsyncWriteExt};
    /// # let server = network::Server::builder().tls(false).listen(0, |socket| socket.sendline("Hello"))?;
    /// # let address = ("127.0.0.1", server.port());
    /// # glib::MainContext::default().block_on(async move {
    /// # let socket = network::Socket::builder().tls(false).connect_future(address).await?;
    /// let mut stream = socket.into_stream();
    /// let mut line = String::new();
    /// stream.read_line(&mut line).await?;
    /// stream.write_all(b"Goodbye\n").await?;
    /// stream.close().await?;
    /// # assert_eq!(line, "Hello\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_stream(self) -> ByteStream {
        self.conn.set_on_end(Some(Box::new(|_| Ok(()))));
        ByteStream { socket: self, buffer: Vec::new(), start: 0, was_tls: false }
    }
}

impl ByteStream {
    /// Returns the socket. Data that the stream has read and not consumed is not in the socket's buffer.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Converts the stream back into a socket, including data that was read and not consumed.
    pub fn into_socket(self) -> Socket {
        self.socket.clone()
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Fails if anything is left that came in plaintext before TLS started: it must not be taken for something that TLS protects.
    fn check_rest(&mut self) -> io::Result<()> {
        let conn = &self.socket.conn;
        if self.rest().is_empty() || self.was_tls == conn.is_tls() {
            return Ok(());
        }
        let error = conn.handshaking().refuse_plaintext();
        self.buffer.clear();
        self.start = 0;
        Err(error.into())
    }
}

impl Drop for ByteStream {
    fn drop(&mut self) {
        if self.check_rest().is_ok() {
            self.socket.conn.give_back_input(self.rest());
        }
    }
}

impl AsyncRead for ByteStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.check_rest()?;
        if self.rest().is_empty() {
            return Pin::new(&mut self.socket).poll_read(context, into);
        }
        let count = into.len().min(self.rest().len());
        into[..count].copy_from_slice(&self.rest()[..count]);
        self.as_mut().consume(count);
        Poll::Ready(Ok(count))
    }
}

impl AsyncBufRead for ByteStream {
    fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let me = self.get_mut();
        me.check_rest()?;
        if me.rest().is_empty() {
            me.start = 0;
            me.buffer.clear();
            let ByteStream { socket, buffer, .. } = &mut *me;
            let taken = socket.poll_recv_with(context, BUFFER, |piece| {
                buffer.extend_from_slice(piece);
                piece.len()
            });
            if taken.is_pending() {
                buffer.shrink_to(KEEP);
            }
            me.was_tls = me.socket.conn.is_tls();
            match ready!(taken) {
                Ok(_) | Err(Error::Closed { .. }) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        Poll::Ready(Ok(me.rest()))
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        self.start = (self.start + count).min(self.buffer.len());
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(context)
    }
}
