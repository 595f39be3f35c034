//! A TLS handshake that is going on, of a new connection or of one that has been open: whom it concerns. A value.

use std::rc::Rc;

use super::Conn;
use super::blocking::Deadline;
use super::handle::Socket;
use crate::engine::TimerKey;
use crate::error::{Error, Result};

/// Called once, from the loop, when the handshake is done or has failed. Not user code: that has a door of its own.
pub(crate) type Shaken = Box<dyn FnOnce(&Rc<Conn>, Result)>;

/// A handshake that is going on.
pub(super) struct Handshake {
    pub(super) done: Option<Shaken>,
    pub(super) timer: TimerKey,
    /// The same for blocking calls, during which no timer fires.
    pub(super) deadline: Deadline,
    /// The problem that TLS has found.
    pub(super) failure: Option<Error>,
    /// Of a connection that was open before, which it keeps open.
    pub(super) upgrade: Option<Socket>,
    /// Nothing is read: what the verdict on the peer needs is still being loaded.
    pub(super) is_held_up: bool,
}

impl Handshake {
    pub(super) fn is_upgrade(&self) -> bool {
        self.upgrade.is_some()
    }

    /// Nobody is to be told any more.
    pub(super) fn take_done(&mut self) -> Option<Shaken> {
        self.done.take()
    }

    /// The connection has ended meanwhile. Whoever upgraded it is told; those who wait for a new one know.
    pub(super) fn was_ended(mut self, conn: &Conn) {
        if let (Some(_), Some(done), Some(conn)) = (&self.upgrade, self.done.take(), conn.strong()) {
            conn.cold(|cold| cold.end.set_told(true));
            done(&conn, Err(conn.closed()));
        }
    }
}
