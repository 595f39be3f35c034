//! A client's connection as hyper reads and writes it: what it reads has passed the [gate](super::gate).

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures_io::AsyncWrite;
use hyper::rt::{Read, ReadBufCursor, Write};

use super::gate::{Passing, Refusal, check_beginning, check_head, find_end};
use super::visit::{Limit, Visit};
use crate::conn::Socket;
use crate::conn::Space;
use crate::error::{Error, Result};

/// Stands in for a request that is refused: hyper is given this one, and the reply is the refusal. So the reply comes in its turn,
/// after those to earlier requests.
const STAND_IN: [&[u8]; 2] = [
    b"GET / HTTP/1.1\r\nhost: -\r\nconnection: close\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nhost: -\r\nconnection: close\r\n\r\n",
];

pub(super) struct GuardedIo {
    visit: Rc<Visit>,
    socket: Socket,
    passing: Passing,
    /// A head that did not come in one piece.
    partial: Vec<u8>,
    /// So much of it has been looked through, and so much of it has been given to hyper.
    searched: usize,
    given: usize,
    /// The head is complete, and hyper gets the rest of it.
    is_whole: bool,
}

impl GuardedIo {
    pub(super) fn new(visit: Rc<Visit>) -> Self {
        let socket = visit.socket.clone();
        GuardedIo { visit, socket, passing: Passing::Head, partial: Vec::new(), searched: 0, given: 0, is_whole: false }
    }

    /// Returns whether a part of a head has come.
    fn has_begun(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Gives hyper what is left of a head.
    fn give(&mut self, buffer: &mut ReadBufCursor<'_>) {
        let rest = &self.partial[self.given..];
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        self.given += count;
        if self.given == self.partial.len() {
            self.partial = Vec::new();
            self.searched = 0;
            self.given = 0;
            self.is_whole = false;
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.visit.got_input();
        self.visit.is_overlong.set(true);
        self.visit.refusal.set(Some(refusal));
        self.passing = Passing::Nothing;
        self.partial = STAND_IN[usize::from(refusal.is_head)].to_vec();
        self.given = 0;
        self.is_whole = true;
    }

    /// Takes a part of a head out of what has come, or all of it. Returns how much it has taken.
    fn take_head(&mut self, piece: &[u8], buffer: &mut ReadBufCursor<'_>) -> Result<usize, Refusal> {
        let limits = self.visit.core.settings.head;
        let mut skipped = 0;
        if !self.has_begun() {
            // An empty line before the request (RFC 9112, section 2.2).
            while piece[skipped..].starts_with(b"\r\n") {
                skipped += 2;
            }
            let piece = &piece[skipped..];
            if let Some(end) = find_end(piece, 0)?
                && end <= buffer.remaining()
            {
                self.passing = Passing::after_head(check_head(&piece[..end], limits)?);
                buffer.put_slice(&piece[..end]);
                return Ok(skipped + end);
            }
        }
        let piece = &piece[skipped..];
        // One more than the limit, to see that it is exceeded.
        let room = limits.head.saturating_add(1).saturating_sub(self.partial.len());
        let before = self.partial.len();
        self.partial.extend_from_slice(&piece[..piece.len().min(room)]);
        match find_end(&self.partial, self.searched)? {
            Some(end) => {
                self.partial.truncate(end);
                self.passing = Passing::after_head(check_head(&self.partial, limits)?);
                self.is_whole = true;
            }
            None => {
                self.searched = self.partial.len();
                check_beginning(&self.partial, limits)?;
            }
        }
        Ok(skipped + self.partial.len() - before)
    }

    fn poll_head(&mut self, context: &mut Context<'_>, buffer: &mut ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        // Whoever asks and does not read the replies is not served any further.
        ready!(self.visit.poll_room(context));
        let before = buffer.remaining();
        loop {
            if self.is_whole {
                self.give(buffer);
                return Poll::Ready(Ok(()));
            }
            let mut refusal = None;
            let socket = self.socket.clone();
            let taken = socket.poll_recv_with(context, usize::MAX, |piece| match self.take_head(piece, buffer) {
                Ok(count) => count,
                Err(why) => {
                    refusal = Some(why);
                    piece.len()
                }
            });
            if let Some(refusal) = refusal {
                self.refuse(refusal);
                continue;
            }
            match taken {
                Poll::Ready(Ok(_)) if buffer.remaining() < before => {
                    self.visit.got_input();
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(_)) => {
                    if self.is_whole {
                        self.visit.got_input();
                    }
                }
                Poll::Ready(Err(Error::Closed { .. })) if self.has_begun() => {
                    let reason = "the connection was closed in the middle of the head";
                    self.refuse(Refusal { status: 400, reason, is_head: false });
                }
                Poll::Ready(Err(Error::Closed { .. })) => {
                    self.visit.got_input();
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                // No more requests, and none has begun.
                Poll::Pending if self.visit.is_over_when_idle() && !self.has_begun() => return Poll::Ready(Ok(())),
                Poll::Pending if self.is_late() => {
                    let reason = "the head did not come in time";
                    self.refuse(Refusal { status: 408, reason, is_head: false });
                }
                Poll::Pending => {
                    self.visit.await_input(if self.has_begun() { Limit::Head } else { Limit::Idle });
                    return Poll::Pending;
                }
            }
        }
    }

    /// Returns whether the time for the head is over.
    fn is_late(&self) -> bool {
        let deadline = self.visit.deadlines.read.get();
        deadline.is_some_and(|deadline| deadline.of == Limit::Head && deadline.at <= self.visit.engine.loop_time())
    }

    fn poll_body(&mut self, context: &mut Context<'_>, buffer: &mut ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let passing = &mut self.passing;
        let taken = self.socket.poll_recv_with(context, buffer.remaining(), |piece| {
            let count = passing.body(piece);
            buffer.put(&piece[..count]);
            count
        });
        match taken {
            Poll::Pending => {
                let of = if self.visit.discard.borrow().is_some() { Limit::Discard } else { Limit::Body };
                self.visit.await_input(of);
                Poll::Pending
            }
            Poll::Ready(taken) => {
                if self.visit.discard.borrow().is_none() {
                    self.visit.got_input();
                }
                Poll::Ready(match taken {
                    // Where the chunks break the rules, hyper sees the end.
                    Ok(_) | Err(Error::Closed { .. }) => Ok(()),
                    Err(error) => Err(error.into()),
                })
            }
        }
    }
}

impl Read for GuardedIo {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if me.is_whole {
            me.give(&mut buffer);
            return Poll::Ready(Ok(()));
        }
        match me.passing {
            Passing::Head => me.poll_head(context, &mut buffer),
            Passing::Length(_) | Passing::Chunked(_) => me.poll_body(context, &mut buffer),
            Passing::Nothing => Poll::Ready(Ok(())),
        }
    }
}

/// All that hyper writes is queued at once. hyper may end with bytes in its own buffer, which would be lost if they had to wait; so
/// bodies wait instead, before hyper gets them, and heads of further requests.
impl Write for GuardedIo {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.socket.send(bytes)?;
        Poll::Ready(Ok(bytes.len()))
    }

    /// One piece after the other: they go out together.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut written = 0;
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            self.socket.send(&**piece)?;
            written += piece.len();
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The send queue goes out by itself, at the end of the turn at the latest; hyper need not wait for that.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(context)
    }
}
