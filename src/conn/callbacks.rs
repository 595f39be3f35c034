//! The callbacks of a connection, all of which are called through [`call`](crate::engine::call), and the description of its end.

use std::rc::Rc;

use super::framing::Framing;
use super::handle::Socket;
pub(crate) use super::state::Kind;
use crate::error::{Error, Result};

pub(crate) type OwnDisconnect = Box<dyn FnOnce(&Socket, Disconnect)>;
/// The half-close callback.
pub(crate) type OnEnd = Box<dyn FnOnce(&Socket) -> Result>;
/// The callback for the end of a handshake on an open connection.
pub(crate) type OnUpgraded = Box<dyn FnOnce(&Socket)>;
/// The drain callback.
pub(crate) type OnDrain = Box<dyn FnMut(&Socket) -> Result>;
pub(crate) type SharedDisconnect = Rc<dyn Fn(&Socket, Disconnect)>;

/// The read callback. Of `data`, `line` and `ready`, only the one of its [`Kind`] is called.
pub(crate) trait ReadCallback {
    fn kind(&self) -> Kind;

    fn framing(&self) -> Option<Framing> {
        None
    }

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

/// The disconnect callback.
pub(crate) enum OnDisconnect {
    Own(OwnDisconnect),
    /// The server's, for all of its connections.
    Shared(SharedDisconnect),
}

/// The end of a connection, as passed to its disconnect callback.
#[derive(Debug)]
#[non_exhaustive]
pub struct Disconnect {
    /// The undelivered data: an incomplete line or frame, one that was refused with all that came after it, or all unread data.
    pub leftover: Vec<u8>,
    /// The reason.
    pub reason: Reason,
    /// Number of sent bytes that had not reached the system.
    pub(crate) unsent: usize,
}

impl Disconnect {
    /// Returns a copy, for another callback. An error of the program, which only one can get, is told by its words.
    pub(crate) fn again(&self) -> Disconnect {
        let reason = match &self.reason {
            Reason::Remote => Reason::Remote,
            Reason::Local => Reason::Local,
            Reason::Failed(error) => Reason::Failed(error.copy()),
        };
        Disconnect { leftover: self.leftover.clone(), reason, unsent: self.unsent }
    }
}

/// The reason why a connection ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Reason {
    /// The peer closed the connection.
    Remote,
    /// The connection was closed on this side, by [`Socket::close`] or [`Socket::abort`].
    Local,
    /// The connection failed, or a callback returned this error.
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

/// Passes bytes as text. Valid UTF-8, by far the most frequent case, is not copied.
#[inline]
pub(crate) fn with_text<R>(bytes: &[u8], use_it: impl FnOnce(&str) -> R) -> R {
    match std::str::from_utf8(bytes) {
        Ok(text) => use_it(text),
        Err(_) => use_it(&String::from_utf8_lossy(bytes)),
    }
}
