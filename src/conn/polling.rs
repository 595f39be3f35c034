//! What futures do when they are polled: they read and write by themselves, as blocking calls do, and wait if they cannot,
//! see [`waiting`](super::waiting). To drop one cancels it: nothing is taken before it is handed over, nothing is queued
//! before it is done.

use std::rc::Rc;
use std::task::{Context, Poll};

use super::Conn;
use super::flags::Flag;
use super::inbox::{Inbox, Taken, TooLong};
use super::waiting::For;
use crate::engine::{READ_BUFFER, Ready, Ticket, main_depth};
use crate::error::{Error, Result};

/// What a call of the system counts as work, of which a line is one unit.
const CALL: u32 = 8;

impl Conn {
    // ---- input ----

    /// May a read find something? If not, the loop will say when.
    pub(super) fn may_read(&self) -> bool {
        self.sticky.get().has(Ready::READ | Ready::HANGUP | Ready::ERROR)
    }

    /// Who reads by callback gets everything.
    #[cold]
    fn refuse_beside_reader(&self) -> Error {
        let peer = self.peer_name();
        Error::Unsupported(format!(
            "a callback reads from the connection to {peer}: take it away by unread(), or pause() it, to read otherwise"
        ))
    }

    /// One read. False if there was nothing.
    fn read_now(&self, max: usize, held: &mut Option<Rc<Vec<u8>>>) -> Result<bool> {
        self.engine.futures_worked(CALL);
        let read = if self.is_tls() { self.read_session(held, false) } else { self.read_plain(max, held, false) };
        match read {
            Ok(count) => {
                self.note_bytes(count);
                Ok(true)
            }
            Err(error) => self.reading_failed(error).map(|()| false),
        }
    }

    /// Takes something out of what has come, and reads until there is enough for that; of a plain connection no more than
    /// `max` bytes at a time.
    #[inline]
    pub(crate) fn poll_take<R>(
        &self,
        context: &Context<'_>,
        ticket: &mut Ticket,
        max: usize,
        mut take: impl FnMut(&mut Inbox, usize) -> Taken<R>,
    ) -> Poll<Result<R>> {
        match self.take_at_once(&mut take) {
            Some(taken) => Poll::Ready(Ok(taken)),
            None => self.read_and_take(context, ticket, max, take),
        }
    }

    /// The way of most lines: they have come already, nobody else waits for them, and neither the end nor a look at the
    /// clock is due. `None` if there is more to it.
    #[inline]
    pub(crate) fn take_at_once<R>(&self, take: &mut impl FnMut(&mut Inbox, usize) -> Taken<R>) -> Option<R> {
        if self.flags.has(Flag::NOT_JUST_TAKEN)
            || self.sticky.get().has(Ready::HANGUP | Ready::ERROR)
            || !self.engine.futures_in_stride()
            || self.awaits_input()
        {
            return None;
        }
        let limit = self.options(|options| options.line_limit);
        let taken = self.io.inbox(|inbox| take(inbox, limit).ok().flatten()).flatten()?;
        self.engine.futures_worked(1);
        Some(taken)
    }

    #[inline(never)]
    fn read_and_take<R>(
        &self,
        context: &Context<'_>,
        ticket: &mut Ticket,
        max: usize,
        mut take: impl FnMut(&mut Inbox, usize) -> Taken<R>,
    ) -> Poll<Result<R>> {
        if self.delivers() {
            return Poll::Ready(Err(self.refuse_beside_reader()));
        }
        if !self.is_turn_of(For::Input, ticket) {
            return self.wait_in(For::Input, ticket, context, true);
        }
        let limit = self.options(|options| options.line_limit);
        let mut held = None;
        let outcome = loop {
            let waits = self.io.has_input();
            if (waits || self.may_read()) && held.is_none() && self.makes_way() {
                return self.wait_in(For::Input, ticket, context, true);
            }
            let taken = take(&mut self.io.open().inbox, limit);
            match taken {
                Ok(Some(taken)) => break Poll::Ready(Ok(taken)),
                Ok(None) => {}
                Err(TooLong) => {
                    break Poll::Ready(Err(self.refuse_line(limit)));
                }
            }
            self.give_back(&mut held);
            if !self.is_open() || self.flags.has(Flag::READ_ENDED) {
                break Poll::Ready(Err(self.end_for_caller()));
            }
            if !self.may_read() {
                break Poll::Pending;
            }
            if let Err(error) = self.read_now(max, &mut held) {
                break Poll::Ready(Err(error));
            }
        };
        self.give_back(&mut held);
        if outcome.is_pending() {
            self.io.rest();
            return self.wait_in(For::Input, ticket, context, false);
        }
        self.leave(For::Input, ticket);
        self.engine.futures_worked(1);
        self.taken();
        outcome
    }

    /// Reads into the caller's memory.
    pub(crate) fn poll_read(&self, context: &Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize>> {
        let is_direct = !self.is_tls() && self.may_read() && !self.flags.has(Flag::READ_ENDED) && self.is_open();
        let mut ticket = Ticket::Unordered;
        if !is_direct || self.io.has_input() || self.delivers() || !self.is_turn_of(For::Input, &ticket) {
            let max = buffer.len();
            return self.poll_take(context, &mut ticket, READ_BUFFER, |inbox, _| {
                Ok(inbox.next_chunk(max).map(|piece| {
                    let piece = piece.as_slice();
                    buffer[..piece.len()].copy_from_slice(piece);
                    piece.len()
                }))
            });
        }
        if self.makes_way() {
            return self.wait_in(For::Input, &mut ticket, context, true);
        }
        self.engine.futures_worked(CALL);
        match self.transport.read(buffer) {
            Ok(0) => {
                self.flags.raise(Flag::READ_ENDED);
                Poll::Ready(Err(self.end_for_caller()))
            }
            Ok(count) => {
                self.note_bytes(count);
                self.note_read(count == buffer.len());
                self.taken();
                Poll::Ready(Ok(count))
            }
            Err(error) => match self.reading_failed(error) {
                Ok(()) => self.wait_in(For::Input, &mut ticket, context, false),
                Err(error) => Poll::Ready(Err(error)),
            },
        }
    }

    /// Gives bytes back that were taken: they come first again.
    pub(crate) fn give_back_input(&self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.io.open().inbox.push_front(bytes);
            self.wake();
        }
    }

    // ---- output ----

    /// What a future sends goes out with everything else before the loop sleeps, if there is a loop.
    #[inline]
    fn gathers(&self) -> bool {
        self.engine.in_turn() || main_depth() > 0
    }

    /// The way of most messages: queued until the loop sleeps. False if there is more to it; nothing is queued then.
    #[inline]
    fn send_at_once(&self, bytes: &[u8]) -> bool {
        let queued = !self.flags.has(Flag::FULL | Flag::NOT_JUST_QUEUED)
            && self.engine.futures_in_stride()
            && !self.awaits_room()
            && self.gathers()
            && self.gather(bytes, false);
        if queued {
            self.engine.futures_worked(1);
        }
        queued
    }

    /// Queues all of it once there is room.
    #[inline]
    pub(crate) fn poll_send(&self, context: &Context<'_>, ticket: &mut Ticket, bytes: &[u8]) -> Poll<Result> {
        if self.send_at_once(bytes) { Poll::Ready(Ok(())) } else { self.send_or_wait(context, ticket, bytes) }
    }

    #[inline(never)]
    fn send_or_wait(&self, context: &Context<'_>, ticket: &mut Ticket, bytes: &[u8]) -> Poll<Result> {
        if self.is_sendable() {
            if !self.is_turn_of(For::Room, ticket) {
                return self.wait_in(For::Room, ticket, context, true);
            }
            if self.makes_way() {
                return self.wait_in(For::Room, ticket, context, true);
            }
            let limit = self.options(|options| options.send_limit);
            let fits = bytes.len() <= limit.saturating_sub(self.queued());
            if self.is_full() || (!fits && bytes.len() <= limit) {
                self.flags.raise(Flag::FULL);
                return self.wait_in(For::Room, ticket, context, false);
            }
        }
        let sent = self.send_gathered(bytes, false, self.gathers());
        self.engine.futures_worked(CALL);
        self.leave(For::Room, ticket);
        Poll::Ready(sent)
    }

    /// Queues as much as there is room for.
    pub(crate) fn poll_write(&self, context: &Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        if self.send_at_once(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let mut ticket = Ticket::Unordered;
        let mut count = bytes.len();
        if self.is_sendable() {
            if !self.is_turn_of(For::Room, &ticket) || self.makes_way() {
                return self.wait_in(For::Room, &mut ticket, context, true);
            }
            if self.is_full() {
                return self.wait_in(For::Room, &mut ticket, context, false);
            }
            count = count.min(self.room());
        }
        let sent = self.send_gathered(&bytes[..count], false, self.gathers());
        self.engine.futures_worked(CALL);
        Poll::Ready(sent.map(|()| count))
    }

    /// Could anything be sent, if there is room?
    fn is_sendable(&self) -> bool {
        self.is_open() && !self.flags.has(Flag::WRITE_ENDING)
    }

    /// Waits until the system has taken everything.
    pub(crate) fn poll_flush(&self, context: &Context<'_>) -> Poll<Result> {
        if self.is_sending() && !self.flags.has(Flag::WRITE_ARMED) {
            self.write_or_requeue();
        }
        if !self.is_sending() {
            return Poll::Ready(self.was_sent());
        }
        self.wait_flushed(context)
    }

    fn wait_flushed(&self, context: &Context<'_>) -> Poll<Result> {
        self.flags.raise(Flag::FLUSH_AWAITED);
        self.waiting(|waiting| waiting.add_flushed(context.waker()));
        Poll::Pending
    }

    /// Waits until the system has taken everything, and the end of it.
    pub(crate) fn poll_shut(&self, context: &Context<'_>) -> Poll<Result> {
        if self.is_open() {
            self.shutdown_write()?;
        }
        if self.is_sending() || (self.is_open() && !self.flags.has(Flag::WRITE_ENDED)) {
            return self.wait_flushed(context);
        }
        Poll::Ready(self.was_sent())
    }
}
