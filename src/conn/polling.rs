//! Futures being polled: they read and write by themselves, as blocking calls do, and wait if they cannot, see
//! [`waiting`](super::waiting). To drop one cancels it: nothing is taken before it is handed over, nothing is queued
//! before it is done, unless it is too much to be queued at once.

use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::inbox::{Inbox, Taken, TooLong};
use super::line_ending::LineRule;
use super::space::Space;
use super::state::{Look, WriteHalf};
use super::waiting::Interest;
use super::{Conn, Options};
use crate::engine::{READ_BUFFER, Ready, Ticket, main_depth};
use crate::error::{Error, Result};

/// The work that a system call counts as; a line is one unit.
const CALL: u32 = 8;

impl Conn {
    /// The way of most lines: they have come already, nobody else waits for them, and neither the end nor a look at the
    /// clock is due. `None` if there is more to it.
    #[inline]
    pub(crate) fn take_at_once<R>(&self, take: &mut impl FnMut(&mut Inbox, LineRule) -> Taken<R>) -> Option<R> {
        if self.status.is(Look::NO_FAST_TAKE | Look::INPUT_AWAITED)
            || self.status.ready().has(Ready::AT_END)
            || !self.engine.futures_in_stride()
        {
            return None;
        }
        let rule = self.options(Options::line_rule);
        let taken = self.io.inbox(|inbox| take(inbox, rule).ok().flatten()).flatten()?;
        self.engine.futures_worked(1);
        Some(taken)
    }

    /// Gives bytes back that were taken: they come first again.
    pub(crate) fn give_back_input(&self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.io.open().inbox.push_front(bytes);
            self.wake();
        }
    }

    /// Polls for the future whose context this is.
    #[inline]
    pub(crate) fn polling<'a>(&'a self, context: &'a Context<'_>) -> Polling<'a> {
        Polling { conn: self, waker: context.waker() }
    }
}

/// A future that is being polled.
pub(crate) struct Polling<'a> {
    conn: &'a Conn,
    waker: &'a Waker,
}

impl Polling<'_> {
    /// Waits, after the future has yielded.
    fn yielded<R>(&self, what: Interest, ticket: &mut Ticket) -> Poll<R> {
        self.conn.waiters().wait(what, ticket, self.waker, true)
    }

    /// Waits for something to come, or for room.
    fn wait<R>(&self, what: Interest, ticket: &mut Ticket) -> Poll<R> {
        self.conn.waiters().wait(what, ticket, self.waker, false)
    }

    // ---- input ----

    /// Takes something out of what has come, and reads until there is enough for that; of a plain connection no more
    /// than `max` bytes at a time.
    #[inline]
    pub(crate) fn take<R>(
        &self,
        ticket: &mut Ticket,
        max: usize,
        mut take: impl FnMut(&mut Inbox, LineRule) -> Taken<R>,
    ) -> Poll<Result<R>> {
        match self.conn.take_at_once(&mut take) {
            Some(taken) => Poll::Ready(Ok(taken)),
            None => self.read_and_take(ticket, max, take),
        }
    }

    #[inline(never)]
    fn read_and_take<R>(
        &self,
        ticket: &mut Ticket,
        max: usize,
        mut take: impl FnMut(&mut Inbox, LineRule) -> Taken<R>,
    ) -> Poll<Result<R>> {
        let conn = self.conn;
        if conn.status.delivers() {
            return Poll::Ready(Err(self.refuse_beside_reader()));
        }
        if !conn.waiters().is_turn_of(Interest::Input, ticket) {
            return self.yielded(Interest::Input, ticket);
        }
        let rule = conn.options(Options::line_rule);
        let mut held = None;
        let outcome = loop {
            let finds_something = conn.io.has_input() || conn.status.may_read();
            if finds_something && held.is_none() && conn.waiters().yields() {
                return self.yielded(Interest::Input, ticket);
            }
            let taken = take(&mut conn.io.open().inbox, rule);
            match taken {
                Ok(Some(taken)) => break Poll::Ready(Ok(taken)),
                Ok(None) => {}
                Err(TooLong) => break Poll::Ready(Err(conn.refuse(TooLong, rule.limit))),
            }
            conn.input().give_back(&mut held);
            if !conn.is_open() || conn.status.has_read_all() {
                break Poll::Ready(Err(conn.end_for_caller()));
            }
            if !conn.status.may_read() || conn.is_shaking() {
                break Poll::Pending;
            }
            if let Err(error) = self.read_once(max, &mut held) {
                break Poll::Ready(Err(error));
            }
        };
        conn.input().give_back(&mut held);
        if outcome.is_pending() {
            conn.io.rest();
            return self.wait(Interest::Input, ticket);
        }
        conn.waiters().leave(Interest::Input, ticket);
        conn.engine.futures_worked(1);
        conn.taken();
        outcome
    }

    /// Only the callback reads.
    #[cold]
    fn refuse_beside_reader(&self) -> Error {
        let peer = self.conn.peer_name();
        Error::Unsupported(format!(
            "a read callback is set on the connection to {peer}; remove it with unread(), or pause() it, to receive otherwise"
        ))
    }

    /// One read into the inbox, which may find nothing.
    fn read_once(&self, max: usize, held: &mut Option<Rc<Vec<u8>>>) -> Result {
        self.conn.engine.futures_worked(CALL);
        match self.conn.input().fill(max, held, false) {
            Ok(count) => {
                self.conn.waiters().note_bytes(count);
                Ok(())
            }
            Err(error) => self.conn.input().failed_for_caller(error),
        }
    }

    /// Reads into the caller's memory.
    pub(crate) fn read(&self, space: &mut (impl Space + ?Sized)) -> Poll<Result<usize>> {
        let conn = self.conn;
        let is_direct = !conn.is_tls()
            && (space.initialized().is_some() || conn.transport.is_plain_socket())
            && conn.status.may_read()
            && !conn.status.has_read_all()
            && conn.is_open();
        let mut ticket = Ticket::Unordered;
        if !is_direct
            || conn.io.has_input()
            || conn.status.delivers()
            || !conn.waiters().is_turn_of(Interest::Input, &ticket)
        {
            let max = space.room();
            let mut take = |inbox: &mut Inbox, _: LineRule| {
                Ok(inbox.next_chunk(max).map(|piece| {
                    let piece = piece.as_slice();
                    space.put(piece);
                    piece.len()
                }))
            };
            return match conn.take_at_once(&mut take) {
                Some(count) => Poll::Ready(Ok(count)),
                None => self.read_and_take(&mut ticket, READ_BUFFER, take),
            };
        }
        if conn.waiters().yields() {
            return self.yielded(Interest::Input, &mut ticket);
        }
        conn.engine.futures_worked(CALL);
        match conn.input().read_once(space, false) {
            Ok(0) => {
                conn.status.read_ended();
                Poll::Ready(Err(conn.end_for_caller()))
            }
            Ok(count) => {
                conn.waiters().note_bytes(count);
                conn.taken();
                Poll::Ready(Ok(count))
            }
            Err(error) => match conn.input().failed_for_caller(error) {
                Ok(()) => self.wait(Interest::Input, &mut ticket),
                Err(error) => Poll::Ready(Err(error)),
            },
        }
    }

    // ---- output ----

    /// The way of most messages: queued until the loop sleeps. False if there is more to it; nothing is queued then.
    #[inline]
    fn send_at_once(&self, bytes: &[u8]) -> bool {
        let is_queued = !self.conn.status.is(Look::FULL | Look::NO_FAST_SEND | Look::ROOM_AWAITED)
            && self.conn.engine.futures_in_stride()
            && self.sends_in_turn()
            && self.conn.queue_in_turn(bytes, false);
        if is_queued {
            self.conn.engine.futures_worked(1);
        }
        is_queued
    }

    /// Returns whether data that a future sends goes out with everything else before the loop sleeps, if there is a
    /// loop.
    #[inline]
    fn sends_in_turn(&self) -> bool {
        self.conn.engine.in_turn() || main_depth() > 0
    }

    /// Queues all of it once there is room, or piece by piece if it exceeds the send limit. `sent` counts what is queued.
    #[inline]
    pub(crate) fn send(&self, ticket: &mut Ticket, bytes: &[u8], sent: &mut usize) -> Poll<Result> {
        if *sent == 0 && self.send_at_once(bytes) {
            Poll::Ready(Ok(()))
        } else {
            self.send_or_wait(ticket, bytes, sent)
        }
    }

    #[inline(never)]
    fn send_or_wait(&self, ticket: &mut Ticket, bytes: &[u8], sent: &mut usize) -> Poll<Result> {
        let conn = self.conn;
        loop {
            let rest = bytes.get(*sent..).unwrap_or_default();
            let mut piece = rest;
            if conn.status.get().may_send() {
                if !conn.waiters().is_turn_of(Interest::Room, ticket) || conn.waiters().yields() {
                    return self.yielded(Interest::Room, ticket);
                }
                let limit = conn.options(|options| options.send_limit);
                let in_pieces = *sent > 0 || rest.len() > limit;
                let room = if in_pieces { conn.output().room_for_piece() } else { limit.saturating_sub(conn.queued()) };
                let Some(count) = portion(rest.len(), room, in_pieces).filter(|_| !conn.is_full()) else {
                    conn.status.change(|state| state.write.insert(WriteHalf::FULL));
                    return self.wait(Interest::Room, ticket);
                };
                piece = &rest[..count];
            }
            let queued = conn.queue_or_write(piece, false, self.sends_in_turn());
            conn.engine.futures_worked(CALL);
            *sent += piece.len();
            if queued.is_err() || piece.len() == rest.len() {
                conn.waiters().leave(Interest::Room, ticket);
                return Poll::Ready(queued);
            }
        }
    }

    /// Queues as much as there is room for.
    pub(crate) fn write(&self, bytes: &[u8]) -> Poll<Result<usize>> {
        if self.send_at_once(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let conn = self.conn;
        let mut ticket = Ticket::Unordered;
        let mut count = bytes.len();
        if conn.status.get().may_send() {
            if !conn.waiters().is_turn_of(Interest::Room, &ticket) || conn.waiters().yields() {
                return self.yielded(Interest::Room, &mut ticket);
            }
            if conn.is_full() {
                return self.wait(Interest::Room, &mut ticket);
            }
            count = count.min(conn.output().room());
        }
        let sent = conn.queue_or_write(&bytes[..count], false, self.sends_in_turn());
        conn.engine.futures_worked(CALL);
        Poll::Ready(sent.map(|()| count))
    }

    /// Waits until the kernel has taken everything.
    pub(crate) fn flush(&self) -> Poll<Result> {
        let conn = self.conn;
        if conn.is_sending() && !conn.status.get().write.contains(WriteHalf::ARMED) {
            conn.output().send_or_requeue();
        }
        if conn.is_sending() { self.wait_flushed() } else { Poll::Ready(conn.was_sent()) }
    }

    fn wait_flushed(&self) -> Poll<Result> {
        self.conn.output().await_flush();
        self.conn.waiters().change(|waiting| waiting.add_flushed(self.waker));
        Poll::Pending
    }

    /// Waits until the kernel has taken everything, and the end of it.
    pub(crate) fn shut(&self) -> Poll<Result> {
        let conn = self.conn;
        if conn.is_open() {
            conn.shutdown_write()?;
        }
        let is_shut = !conn.is_open() || conn.status.get().write.intersects(WriteHalf::ENDED | WriteHalf::FAILED);
        if conn.is_sending() || !is_shut { self.wait_flushed() } else { Poll::Ready(conn.was_sent()) }
    }
}

/// Returns how much of so many bytes to queue where there is so much room: all, or else, if they go in pieces, what fits.
fn portion(bytes: usize, room: usize, in_pieces: bool) -> Option<usize> {
    if bytes <= room { Some(bytes) } else { Some(room).filter(|room| in_pieces && *room > 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_queued_whole_and_what_goes_in_pieces_as_far_as_it_fits() {
        for in_pieces in [false, true] {
            assert_eq!(portion(5, 5, in_pieces), Some(5));
            assert_eq!(portion(0, 0, in_pieces), Some(0), "nothing needs no room");
            assert_eq!(portion(5, 0, in_pieces), None);
        }
        assert_eq!(portion(5, 4, false), None, "all or nothing");
        assert_eq!(portion(5, 4, true), Some(4));
    }
}
