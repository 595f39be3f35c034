//! The body of a reply as hyper sends it.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};

use super::access::Access;
use super::reply::Content;
use super::visit::Visit;
use crate::engine::call;
use crate::error::Error;

/// A body, and the record of its request, which is told when it is done with.
pub(super) struct Outgoing {
    content: Content,
    visit: Rc<Visit>,
    /// So much of a stream has been sent.
    sent: u64,
    access: Option<Access>,
}

impl Outgoing {
    pub(super) fn new(content: Content, visit: Rc<Visit>, access: Option<Access>) -> Self {
        Outgoing { content, visit, sent: 0, access }
    }

    fn fail(&mut self, problem: &str) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.content = Content::Empty;
        let error = Error::Http { peer: self.visit.remote.to_string(), problem: problem.to_owned() };
        self.visit.core.failed(&self.visit.engine, &"the body of a reply", &error);
        Poll::Ready(Some(Err(error)))
    }

    fn poll_stream(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Content::Stream(length, stream) = &mut self.content else { return Poll::Ready(None) };
        let length = *length;
        let polled = match call(&self.visit.engine, || stream.as_mut().poll_next(context)) {
            None => return self.fail("the stream of a reply panicked"),
            Some(Poll::Pending) => return Poll::Pending,
            Some(Poll::Ready(polled)) => polled,
        };
        match polled {
            Some(Ok(chunk)) => {
                self.sent += chunk.len() as u64;
                if length.is_some_and(|length| self.sent > length) {
                    return self.fail("the stream of a reply is longer than its length");
                }
                Poll::Ready(Some(Ok(Frame::data(chunk.into()))))
            }
            Some(Err(error)) => self.fail(&format!("the stream of a reply failed: {error}")),
            None if length.is_some_and(|length| self.sent < length) => {
                self.fail("the stream of a reply is shorter than its length")
            }
            None => {
                self.content = Content::Empty;
                Poll::Ready(None)
            }
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let me = self.get_mut();
        let bytes = match &mut me.content {
            Content::Empty => return Poll::Ready(None),
            Content::Stream(..) => return me.poll_stream(context),
            Content::Bytes(bytes) => {
                let bytes = std::mem::take(bytes);
                me.content = Content::Empty;
                bytes
            }
            Content::File(part) => match part.read() {
                Ok(bytes) => {
                    if part.length() == 0 {
                        me.content = Content::Empty;
                    }
                    bytes
                }
                Err(error) => return me.fail(&format!("the file of a reply cannot be read: {error}")),
            },
        };
        me.sent += bytes.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.content, Content::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        match self.content.length() {
            Some(length) => SizeHint::with_exact(length.saturating_sub(match self.content {
                Content::Stream(..) => self.sent,
                _ => 0,
            })),
            None => SizeHint::default(),
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.visit.replied();
        if let Some(mut access) = self.access.take() {
            access.finish(self.sent, self.is_end_stream());
            self.visit.core.tell(&self.visit.engine, &access);
        }
    }
}
