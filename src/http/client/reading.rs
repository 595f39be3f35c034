//! The body of a response by the traits of std and futures-io, and by lines.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_io::{AsyncBufRead, AsyncRead};
use hyper::body::Buf;

use super::response::Response;
use crate::conn::copying::copy;
use crate::error::{Error, Result};

/// The longest line, in bytes, as for sockets.
const LINE_LIMIT: usize = 1 << 20;

impl Response {
    /// Sees to it that something lies there. `false` at the end.
    fn poll_current(&self, context: &mut Context<'_>) -> Poll<Result<bool>> {
        self.check_taking(false)?;
        while self.current().is_empty() {
            match ready!(self.poll_piece(context)).transpose()? {
                None => return Poll::Ready(Ok(false)),
                Some(piece) => self.set_current(piece),
            }
        }
        Poll::Ready(Ok(true))
    }

    fn take_into(&self, buffer: &mut [u8]) -> usize {
        let current = self.current();
        let count = buffer.len().min(current.len());
        copy(buffer, &current[..count]);
        self.consume_current(count);
        count
    }
}

/// [`Response::read`], which takes a callback, goes before `AsyncReadExt::read` of futures-util: call that as
/// `AsyncReadExt::read(&mut response, …)`.
impl AsyncRead for Response {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.check_context()?;
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let has_some = ready!(self.poll_current(context))?;
        Poll::Ready(Ok(if has_some { self.take_into(buffer) } else { 0 }))
    }
}

impl AsyncBufRead for Response {
    fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let me = self.get_mut();
        me.check_context()?;
        ready!(me.poll_current(context))?;
        me.lent = me.current();
        Poll::Ready(Ok(&me.lent))
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        let count = count.min(self.lent.len());
        self.lent.advance(count);
        self.consume_current(count);
    }
}

/// **Blocks**, for the responses of blocking calls.
///
/// [`Response::read`], which takes a callback, has the same name: call this method as `std::io::Read::read(&mut response, …)`.
impl io::Read for Response {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.check_taking(false)?;
        if self.current().is_empty() && !self.block_on(|| poll_fn(|context| self.poll_current(context)))? {
            return Ok(0);
        }
        Ok(self.take_into(buffer))
    }
}

/// The lines of a body, as [`Response::lines`] returns them.
///
/// Lines end with `\n` or `\r\n`, which are removed; the last one need not end. Invalid UTF-8 is replaced with U+FFFD. A line of
/// more than 1 MiB is [`Error::LineTooLong`], and an error is the last item.
#[derive(Debug)]
pub struct Lines {
    response: Response,
    kept: Vec<u8>,
    has_ended: bool,
}

impl Lines {
    pub(super) fn new(response: Response) -> Self {
        Lines { response, kept: Vec::new(), has_ended: false }
    }

    /// Receives the next line. `None` at the end.
    ///
    /// # Example
    /// ```no_run
    /// # async fn show(response: network::http::Response) -> network::Result {
    /// let mut lines = response.lines();
    /// while let Some(line) = lines.next().await {
    ///     println!("{}", line?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> impl Future<Output = Option<Result<String>>> {
        poll_fn(|context| self.poll_line(context))
    }

    fn poll_line(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<String>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let end = |me: &mut Self, error| {
            me.has_ended = true;
            Poll::Ready(Some(Err(error)))
        };
        if let Err(error) = self.response.check_context() {
            return end(self, error);
        }
        loop {
            match ready!(self.response.poll_current(context)) {
                Err(error) => return end(self, error),
                Ok(false) => {
                    self.has_ended = true;
                    let rest = std::mem::take(&mut self.kept);
                    return Poll::Ready((!rest.is_empty()).then(|| Ok(line(&rest))));
                }
                Ok(true) => {}
            }
            let current = self.response.current();
            let at = memchr::memchr(b'\n', &current);
            self.kept.extend_from_slice(&current[..at.unwrap_or(current.len())]);
            self.response.consume_current(at.map_or(current.len(), |at| at + 1));
            if self.kept.len() > LINE_LIMIT {
                self.response.give_up();
                let peer = self.response.url().to_owned();
                return end(self, Error::LineTooLong { peer, limit: LINE_LIMIT });
            }
            if at.is_some() {
                return Poll::Ready(Some(Ok(line(&std::mem::take(&mut self.kept)))));
            }
        }
    }
}

impl Stream for Lines {
    type Item = Result<String>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<String>>> {
        self.poll_line(context)
    }
}

fn line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(b"\r").unwrap_or(bytes)).into_owned()
}
