//! The body of a reply as hyper sends it.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, SizeHint};

use super::access::Access;
use super::reply::Content;
use super::visit::Visit;
use crate::engine::call;
use crate::error::Error;

/// The most that is queued at once, in bytes.
const PIECE: usize = 64 << 10;

/// A body, and the record of its request, which is told when it is done with.
pub(super) struct Outgoing {
    content: Content,
    visit: Rc<Visit>,
    /// The rest of a long piece of a stream.
    rest: Bytes,
    /// The bytes that hyper has got.
    sent: u64,
    has_failed: bool,
    access: Option<Access>,
}

impl Outgoing {
    pub(super) fn new(content: Content, visit: Rc<Visit>, access: Option<Access>) -> Self {
        Outgoing { content, visit, rest: Bytes::new(), sent: 0, has_failed: false, access }
    }

    fn fail(&mut self, problem: &str) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.content = Content::Empty;
        self.has_failed = true;
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
                if length.is_some_and(|length| self.sent + chunk.len() as u64 > length) {
                    return self.fail("the stream of a reply is longer than its length");
                }
                self.rest = Bytes::from(chunk);
                let piece = self.rest.split_to(self.rest.len().min(PIECE));
                self.sent += piece.len() as u64;
                Poll::Ready(Some(Ok(Frame::data(piece))))
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
        if matches!(me.content, Content::Empty) {
            return Poll::Ready(None);
        }
        ready!(me.visit.poll_room(context));
        let bytes = match &mut me.content {
            Content::Empty => return Poll::Ready(None),
            Content::Stream(..) if me.rest.is_empty() => return me.poll_stream(context),
            Content::Stream(..) => me.rest.split_to(me.rest.len().min(PIECE)),
            Content::Bytes(bytes) => {
                let piece = bytes.split_to(bytes.len().min(PIECE));
                if bytes.is_empty() {
                    me.content = Content::Empty;
                }
                piece
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
            access.finish(self.sent, self.is_end_stream() && !self.has_failed);
            let core = self.visit.core.clone();
            if self.visit.is_held() {
                self.visit.engine.defer(move |engine| core.tell(engine, &access));
            } else {
                core.tell(&self.visit.engine, &access);
            }
        }
    }
}
