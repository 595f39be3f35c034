//! Bodies on their way out, as hyper asks for them.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use hyper::body::{Body, Bytes, Frame, SizeHint};

use crate::error::{Error, Operation, Result};

/// The most that is read of a file at once. The loop is held up for that long: longer pieces are not faster.
const PIECE: usize = 64 << 10;

/// A stream of pieces.
pub(super) type Pieces = Pin<Box<dyn Stream<Item = Result<Vec<u8>>>>>;

/// The content of a body.
pub(super) enum Content {
    Bytes(Bytes),
    Stream(Pieces),
    File(OpenFile),
}

/// A file that is read as it is sent.
pub(super) struct OpenFile {
    pub(super) file: File,
    /// For errors.
    pub(super) path: PathBuf,
}

/// Takes part in the sending of a body.
pub(super) trait Sending {
    /// Ready once the body may go out.
    fn poll_start(&self, context: &mut Context<'_>) -> Poll<()>;

    /// That much more was handed over.
    fn sent(&self, count: usize);

    /// The body cannot be read. hyper's errors do not tell why.
    fn failed(&self, error: Error);

    /// All of it was handed over.
    fn ended(&self);
}

/// A body that is being sent.
pub(super) struct Outgoing {
    content: Content,
    /// `None` if the length is not known.
    left: Option<u64>,
    sending: Option<Rc<dyn Sending>>,
    has_ended: bool,
}

impl Outgoing {
    /// Makes one of a content with that length.
    pub(super) fn new(content: Content, length: Option<u64>, sending: Option<Rc<dyn Sending>>) -> Self {
        let length = match &content {
            Content::Bytes(bytes) => Some(bytes.len() as u64),
            Content::Stream(_) | Content::File(_) => length,
        };
        let mut body = Outgoing { content, left: length, sending, has_ended: false };
        if length == Some(0) && matches!(body.content, Content::Bytes(_)) {
            body.end();
        }
        body
    }

    /// Makes an empty one.
    #[allow(dead_code, reason = "for the server, which is still to come")]
    pub(super) fn empty() -> Self {
        Outgoing::new(Content::Bytes(Bytes::new()), None, None)
    }

    /// Returns the content and its length, of one of which nothing was sent.
    pub(super) fn into_content(self) -> (Content, Option<u64>) {
        (self.content, self.left)
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.has_ended, true)
            && let Some(sending) = &self.sending
        {
            sending.ended();
        }
    }

    fn fail(&mut self, error: Error) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.has_ended = true;
        let kind = error.kind();
        if let Some(sending) = &self.sending {
            sending.failed(error);
        }
        Poll::Ready(Some(Err(kind.into())))
    }

    /// Reads the next piece. An empty one is the end.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes>> {
        match &mut self.content {
            Content::Bytes(bytes) => Poll::Ready(Ok(std::mem::take(bytes))),
            Content::Stream(stream) => loop {
                match ready!(stream.as_mut().poll_next(context)).transpose()? {
                    Some(piece) if piece.is_empty() => {}
                    piece => return Poll::Ready(Ok(piece.unwrap_or_default().into())),
                }
            },
            Content::File(open) => Poll::Ready(read_piece(open, self.left.unwrap_or(u64::MAX)).map(Bytes::from)),
        }
    }
}

/// Reads the next piece of a file, of which so much is left.
pub(super) fn read_piece(open: &mut OpenFile, left: u64) -> Result<Vec<u8>> {
    let mut piece = vec![0; usize::try_from(left).unwrap_or(PIECE).min(PIECE)];
    let mut count = 0;
    while count < piece.len() {
        match open.file.read(&mut piece[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                let address = open.path.display().to_string();
                return Err(Error::Io { operation: Operation::ReadFile, address, source });
            }
        }
    }
    piece.truncate(count);
    Ok(piece)
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let me = &mut *self;
        if me.has_ended {
            return Poll::Ready(None);
        }
        if let Some(sending) = &me.sending {
            ready!(sending.poll_start(context));
        }
        let piece = match ready!(me.poll_piece(context)) {
            Ok(piece) => piece,
            Err(error) => return me.fail(error),
        };
        let count = piece.len() as u64;
        match &mut me.left {
            Some(left) if count > *left => {
                return me.fail(Error::InvalidOption("the body is longer than the length that was given".into()));
            }
            Some(left) if piece.is_empty() && *left > 0 => {
                let problem = format!("the body is shorter than the length that was given: {left} bytes are missing");
                return me.fail(Error::InvalidOption(problem));
            }
            Some(left) => *left -= count,
            None => {}
        }
        if let Some(sending) = &me.sending {
            sending.sent(piece.len());
        }
        // A stream has to say itself that it is over, since one that goes on is too long.
        let is_last = piece.is_empty() || me.left == Some(0) && !matches!(me.content, Content::Stream(_));
        if is_last {
            me.end();
        }
        if piece.is_empty() { Poll::Ready(None) } else { Poll::Ready(Some(Ok(Frame::data(piece)))) }
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
