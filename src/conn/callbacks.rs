//! The callbacks of a connection, each kind of which is called through [`call`](crate::engine::call), and how its end is told.

use std::rc::Rc;

use super::handle::Socket;
pub(crate) use super::state::Kind;
use crate::error::{Error, Result};

pub(crate) type OwnDisconnect = Box<dyn FnOnce(&Socket, Disconnect)>;
/// The callback for the end of what the peer sends.
pub(crate) type OnEnd = Box<dyn FnOnce(&Socket) -> Result>;
/// The callback for room in the queue.
pub(crate) type OnDrain = Box<dyn FnMut(&Socket) -> Result>;
pub(crate) type SharedDisconnect = Rc<dyn Fn(&Socket, Disconnect)>;

/// The callback that a connection's input goes to. Of the three calls it is given that of its kind.
pub(crate) trait ReadCallback {
    fn kind(&self) -> Kind;

    fn data(&mut self, _: &Socket, _: &[u8]) -> Result {
        Ok(())
    }

    fn line(&mut self, _: &Socket, _: &str) -> Result {
        Ok(())
    }

    fn ready(&mut self, _: &Socket) -> Result {
        Ok(())
    }
}

pub(crate) struct OnData<F>(pub(crate) F);
pub(crate) struct OnLine<F>(pub(crate) F);
pub(crate) struct OnByteLine<F>(pub(crate) F);
pub(crate) struct OnReady<F>(pub(crate) F);

impl<F: FnMut(&Socket, &[u8]) -> Result> ReadCallback for OnData<F> {
    fn kind(&self) -> Kind {
        Kind::Data
    }

    fn data(&mut self, socket: &Socket, data: &[u8]) -> Result {
        self.0(socket, data)
    }
}

impl<F: FnMut(&Socket, &str) -> Result> ReadCallback for OnLine<F> {
    fn kind(&self) -> Kind {
        Kind::Lines
    }

    fn line(&mut self, socket: &Socket, line: &str) -> Result {
        self.0(socket, line)
    }
}

impl<F: FnMut(&Socket, &[u8]) -> Result> ReadCallback for OnByteLine<F> {
    fn kind(&self) -> Kind {
        Kind::ByteLines
    }

    fn data(&mut self, socket: &Socket, line: &[u8]) -> Result {
        self.0(socket, line)
    }
}

impl<F: FnMut(&Socket) -> Result> ReadCallback for OnReady<F> {
    fn kind(&self) -> Kind {
        Kind::Raw
    }

    fn ready(&mut self, socket: &Socket) -> Result {
        self.0(socket)
    }
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
