//! Frames between a connection and its inbox: the inner loop of their delivery, the read callback, and sending.

use super::Conn;
use super::callbacks::{Kind, ReadCallback};
use super::framing::{Framing, Refusal};
use super::handle::Socket;
use super::inbox::Inbox;
use super::queues::Queues;
use crate::error::{Error, Result};

/// Calls `each` with the whole messages that lie in the batch until it says that this is enough. As
/// [`each_line`](super::lines::each_line).
///
/// `None`: what comes next, if anything, is for `Inbox::next_frame` to decide.
#[inline]
pub(super) fn each_frame<R>(
    io: &Queues,
    framing: Framing,
    limit: usize,
    mut each: impl FnMut(&[u8]) -> Option<R>,
) -> Option<R> {
    let lease = io.inbox(Inbox::lease).flatten()?;
    let mut rest = lease.bytes();
    let mut start = 0;
    loop {
        let cut = framing.cut_whole(limit, rest)?;
        if !lease.take(start..start + cut.whole) {
            return None;
        }
        if let Some(enough) = each(&rest[cut.start..cut.end]) {
            return Some(enough);
        }
        rest = &rest[cut.whole..];
        start += cut.whole;
    }
}

struct OnFrame<F>(Framing, F);

impl<F: FnMut(&Socket, &[u8]) -> Result> ReadCallback for OnFrame<F> {
    fn kind(&self) -> Kind {
        Kind::Frames
    }

    fn framing(&self) -> Option<Framing> {
        Some(self.0)
    }

    fn data(&mut self, socket: &Socket, message: &[u8]) -> Result {
        self.1(socket, message)
    }
}

impl Framing {
    /// Fails if it has a setting that does not apply to it.
    pub(crate) fn check(self) -> Result {
        match self.misused() {
            Some(setting) => Err(Error::InvalidOption(Refusal::Misused(setting).to_string())),
            None => Ok(()),
        }
    }

    /// Sets the read callback. A framing that cannot be ends the connection.
    pub(crate) fn set_reader(self, conn: &Conn, callback: impl FnMut(&Socket, &[u8]) -> Result + 'static) {
        conn.set_reader(Some(Box::new(OnFrame(self, callback))));
        conn.returned(Some(self.check()));
    }

    /// Queues a message, framed.
    pub(crate) fn send(self, conn: &Conn, message: &[u8]) -> Result {
        let framed = self.check().and_then(|()| self.wrap(message).map_err(|problem| refused(conn, problem)))?;
        conn.send_parts(framed.parts())
    }

    /// Returns a message, framed.
    pub(crate) fn frame(self, conn: &Conn, message: &[u8]) -> Result<Vec<u8>> {
        self.check()?;
        let framed = self.wrap(message).map_err(|problem| refused(conn, problem))?;
        Ok(framed.parts().concat())
    }
}

fn refused(conn: &Conn, problem: String) -> Error {
    Error::Frame { peer: conn.peer_name(), problem }
}
