//! The questions of a [`Selector`](crate::Selector) to a connection: whether receiving would wait, and what to poll
//! until then.

use std::io;

use rustix::event::{PollFd, PollFlags};

use super::Conn;
use super::state::Look;
use crate::engine::READ_BUFFER;

impl Conn {
    /// Returns whether a receiving call would return at once, with data, the end, or an error. Of TLS, what has come is
    /// taken in for that: half a record, or a message of TLS itself, is nothing to receive.
    pub(crate) fn is_readable(&self) -> bool {
        let mut taken = false;
        let readable = loop {
            if self.io.has_input() || !self.is_open() || self.status.has_read_all() {
                break true;
            }
            if let (true, Some(me)) = (self.is_shaking(), self.strong()) {
                me.shake_on();
                if self.is_shaking() {
                    break false;
                }
                continue;
            }
            match self.transport.readiness() {
                Ok(flags) if flags.is_empty() => break false,
                // An error is left for whoever receives.
                Ok(flags) if self.is_tls() && !flags.intersects(PollFlags::ERR) => {}
                _ => break true,
            }
            let mut held = None;
            let read = self.input().fill(READ_BUFFER, &mut held, false);
            self.input().give_back(&mut held);
            taken = true;
            match read {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
                Err(error) => {
                    self.input().failed(error);
                    break true;
                }
            }
        };
        if taken && (self.status.is(Look::HAS_READER) || self.status.has_read_all()) {
            // It gives no further event to the loop.
            self.wake();
        }
        readable
    }

    /// Adds what a poll has to watch until there is something to receive; and for room, if something waits to be sent.
    pub(crate) fn watch<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) -> io::Result<()> {
        // During a handshake, what is queued waits for its end.
        let is_sending = if self.is_shaking() { self.channel().holds_output() } else { self.is_sending() };
        self.transport.watch(true, is_sending, fds)
    }

    /// Sends what waits, as far as there is room.
    pub(crate) fn send_on(&self) {
        if self.is_sending() {
            self.output().send();
        }
    }
}
