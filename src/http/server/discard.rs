//! A request's body that nobody wants: it is read away, so that the connection can be used again.

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Incoming};

use super::settings::DISCARD;

/// A body that is read away.
pub(super) struct Discard {
    body: Incoming,
    left: u64,
}

impl Discard {
    /// `None` if it is too much: the connection cannot be used again then.
    pub(super) fn start(body: Incoming) -> Option<Self> {
        let is_short = body.size_hint().lower() <= DISCARD;
        is_short.then_some(Discard { body, left: DISCARD })
    }

    /// Returns whether it turned out to be too much.
    pub(super) fn is_overlong(&self) -> bool {
        !self.body.is_end_stream()
    }

    /// Ready when there is nothing more to read, or it turns out to be too much.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    let count = frame.data_ref().map_or(0, |data| data.len() as u64);
                    match self.left.checked_sub(count) {
                        Some(left) => self.left = left,
                        None => return Poll::Ready(()),
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
