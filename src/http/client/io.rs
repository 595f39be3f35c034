//! A socket as hyper reads and writes it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures_io::AsyncWrite;
use hyper::rt::{Read, ReadBufCursor, Write};

use crate::conn::Socket;
use crate::conn::Space;
use crate::error::{Error, Result};

/// Looks at what passes.
pub(super) trait Watch {
    /// That has come. Returns how much of it hyper gets now, at least one byte; the rest comes again.
    ///
    /// # Errors
    /// The connection is to end: [`failed`](Watch::failed) gets the error.
    fn received(&self, bytes: &[u8]) -> Result<usize>;

    /// Returns whether what comes next need not be looked at: hyper may read it by itself.
    fn looks_away(&self) -> bool;

    /// Something of that has come.
    fn received_unseen(&self);

    /// So many bytes were queued to be sent.
    fn sent(&self, count: usize);

    /// The connection has failed. hyper's errors do not tell by what.
    fn failed(&self, error: Error);
}

/// A connection for hyper: bytes are copied once, from the receive buffer to hyper's.
#[derive(Debug)]
pub(super) struct Io<W> {
    pub(super) socket: Socket,
    pub(super) watch: Rc<W>,
}

impl<W: Watch> Io<W> {
    fn fail(&self, error: Error) -> io::Error {
        let kind = error.kind();
        self.watch.failed(error);
        kind.into()
    }
}

impl<W: Watch> Read for Io<W> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buffer.remaining();
        if room == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut refused = None;
        let taken = if self.watch.looks_away() {
            let taken = self.socket.conn().polling(context).read(&mut buffer);
            taken.map_ok(|_| self.watch.received_unseen())
        } else {
            let taken = self.socket.poll_recv_with(context, room, |piece| match self.watch.received(piece) {
                Ok(count) => {
                    let piece = &piece[..count.clamp(1, piece.len())];
                    buffer.put(piece);
                    piece.len()
                }
                Err(error) => {
                    refused = Some(error);
                    0
                }
            });
            taken.map_ok(|_| ())
        };
        Poll::Ready(match (ready!(taken), refused) {
            (Ok(_), Some(error)) | (Err(error), _) if !matches!(error, Error::Closed { .. }) => Err(self.fail(error)),
            _ => Ok(()),
        })
    }
}

impl<W: Watch> Write for Io<W> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write(context, bytes));
        let written = written.map_err(|error| self.fail(error.into()))?;
        self.watch.sent(written);
        Poll::Ready(Ok(written))
    }

    /// One piece after the other: they are queued, and go out together.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut written = 0;
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            match self.as_mut().poll_write(context, piece) {
                Poll::Ready(Ok(count)) => {
                    written += count;
                    if count < piece.len() {
                        break;
                    }
                }
                // The next call tells what is the matter.
                _ if written > 0 => break,
                other => return other,
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context).map_err(|error| self.fail(error.into()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(context)
    }
}
