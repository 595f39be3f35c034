//! The one door to user code: every callback of every kind is called through [`call`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::socket::Socket;

/// Calls user code. A panic goes to the engine, which sees that it comes out where our loop was entered; then the answer
/// is `None`. No state may be borrowed during the call: user code may call anything.
#[inline]
pub(crate) fn call<R>(engine: &Engine, user: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(user)) {
        Ok(result) => Some(result),
        Err(panic) => {
            engine.panicked(panic);
            None
        }
    }
}

type OnData = Box<dyn FnMut(&Socket, &[u8]) -> Result>;
type OnLine = Box<dyn FnMut(&Socket, &str) -> Result>;
type OnReady = Box<dyn FnMut(&Socket) -> Result>;
pub(crate) type OwnDisconnect = Box<dyn FnOnce(&Socket, Disconnect)>;
/// The callback for the end of what the peer sends.
pub(crate) type OnEnd = Box<dyn FnOnce(&Socket) -> Result>;
/// The callback for room in the queue.
pub(crate) type OnDrain = Box<dyn FnMut(&Socket) -> Result>;
pub(crate) type SharedDisconnect = Rc<dyn Fn(&Socket, Disconnect)>;

/// The callback that a connection's input goes to.
#[derive(Default)]
pub(crate) enum Reader {
    #[default]
    None,
    Data(OnData),
    Lines(OnLine),
    ByteLines(OnData),
    Raw(OnReady),
}

/// The callback for the end of a connection.
pub(crate) enum OnDisconnect {
    Own(OwnDisconnect),
    /// A server's, for all its connections.
    Shared(SharedDisconnect),
}

/// How a connection ended, as its disconnect callback is told.
#[derive(Debug)]
#[non_exhaustive]
pub struct Disconnect {
    /// What had been received and not been handed to any callback: the beginning of a line that never ended, or all
    /// that was unread.
    pub leftover: Vec<u8>,
    /// Why.
    pub reason: Reason,
}

/// Why a connection ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Reason {
    /// The peer closed it.
    Remote,
    /// It was closed here, by [`Socket::close`] or [`Socket::abort`].
    Local,
    /// It failed, or a callback returned this error.
    Failed(Error),
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reason::Remote => f.write_str("closed by the peer"),
            Reason::Local => f.write_str("closed here"),
            Reason::Failed(error) => error.fmt(f),
        }
    }
}

/// Lends bytes as text. Valid UTF-8, which is nearly all there is, is not copied.
#[inline]
pub(crate) fn with_text<R>(bytes: &[u8], use_it: impl FnOnce(&str) -> R) -> R {
    match std::str::from_utf8(bytes) {
        Ok(text) => use_it(text),
        Err(_) => use_it(&String::from_utf8_lossy(bytes)),
    }
}
