//! Who takes the body of a response: one at a time, and once.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use hyper::body::Bytes;

use super::response::{Inner, Response};
use crate::conn::copying::append;
use crate::error::{Error, Result};

/// The way in which the body is being taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taking {
    /// By whoever asks next.
    Open,
    /// The read callback gets it.
    Callback,
    /// A call is receiving the whole of it.
    Whole,
    /// Somebody was told its end.
    Ended,
    /// A call has received the whole of it, or was dropped while it did.
    Gone,
}

impl Response {
    /// Fails if the body is not there for this caller: one who wants the whole, or one who takes it by pieces, who may hear of the
    /// end again.
    pub(super) fn check_taking(&self, whole: bool) -> Result {
        let problem = match self.inner.taking.get() {
            Taking::Open => return Ok(()),
            Taking::Ended if !whole => return Ok(()),
            Taking::Callback => "the callback of read() receives the body, and no other call can",
            Taking::Whole => "another call is receiving the whole body",
            Taking::Ended | Taking::Gone => "the body has been taken already; keep what the first call returns",
        };
        Err(Error::Unsupported(format!("{}: {problem}", self.url())))
    }

    /// Returns the next piece for those who take the body by pieces.
    pub(super) fn poll_piece(&self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        if let Err(error) = self.check_taking(false) {
            return Poll::Ready(Some(Err(error)));
        }
        let piece = ready!(self.poll_chunk(context));
        if piece.is_none() {
            self.inner.taking.set(Taking::Ended);
        }
        Poll::Ready(piece)
    }

    pub(super) async fn whole(&self) -> Result<Vec<u8>> {
        self.check_taking(true)?;
        let mut taking = TakingWhole::start(&self.inner);
        let received = self.receive_whole(&mut taking.has_some).await;
        taking.end = if received.is_ok() { Taking::Gone } else { Taking::Open };
        received
    }

    async fn receive_whole(&self, has_some: &mut bool) -> Result<Vec<u8>> {
        let limit = self.inner.body_limit;
        let exceeded = || Error::LimitExceeded { peer: self.url().into(), limit };
        if self.content_length().is_some_and(|length| length > limit as u64) {
            // What is left on the connection is of no use.
            self.give_up();
            return Err(exceeded());
        }
        if let Some(stream) = &mut *self.inner.stream.borrow_mut() {
            stream.set_limit(None);
        }
        let mut all = Vec::new();
        while let Some(piece) = poll_fn(|context| self.poll_chunk(context)).await {
            let piece = piece?;
            *has_some = true;
            if piece.len() > limit - all.len() {
                self.give_up();
                return Err(exceeded());
            }
            if all.is_empty() && self.inner.stream.borrow().is_none() {
                // All of it in one piece.
                return Ok(piece.into());
            }
            append(&mut all, &piece);
        }
        Ok(all)
    }
}

/// A call receives the whole body.
struct TakingWhole<'a> {
    inner: &'a Inner,
    has_some: bool,
    end: Taking,
}

impl<'a> TakingWhole<'a> {
    fn start(inner: &'a Inner) -> Self {
        inner.taking.set(Taking::Whole);
        // Those who wait for a piece hear that they wait in vain.
        inner.waiting.take().wake();
        TakingWhole { inner, has_some: false, end: Taking::Whole }
    }
}

impl Drop for TakingWhole<'_> {
    fn drop(&mut self) {
        let end = match self.end {
            // Dropped in the middle. What it has received is lost, and the rest must not pass for the whole.
            Taking::Whole if self.has_some => Taking::Gone,
            Taking::Whole => Taking::Open,
            end => end,
        };
        self.inner.taking.set(end);
    }
}
