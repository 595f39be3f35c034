//! What the engine asks of a connection: the short way of a message, and the long way, in which [`Pass`] says what to do next.

use std::cell::Ref;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use super::callbacks::Reason;
use super::inbox::Inbox;
use super::state::{Delivered, Facts, Look, Manner, Pass, Phase, Step};
use super::{Conn, waiting, writing};
use crate::engine::{Engine, Handler, Incoming, Next, READ_BUFFER, Ready, Received, Served};

impl Handler for Conn {
    fn ready(self: Rc<Self>, _engine: &Rc<Engine>, ready: Ready) -> Next {
        if ready == Ready::READ && self.wake_reader() {
            return Next::Idle;
        }
        self.serve(ready, 0)
    }

    fn incoming(&self, ready: Ready) -> Option<Incoming<'_>> {
        // Or it was not all read in its last turn.
        if ready != Ready::READ && (ready != Ready::NONE || !self.ready.get().has(Ready::READ)) {
            None
        } else if self.expects_a_message() {
            self.transport.incoming(READ_BUFFER)
        } else if self.reads_ahead() {
            self.transport.incoming(waiting::AHEAD)
        } else {
            None
        }
    }

    fn received(self: Rc<Self>, read: Received, buffer: &mut Option<Rc<Vec<u8>>>) -> Served {
        let read = self.transport.received(read);
        if self.is(Look::HAS_READER) {
            self.serve_message(read, buffer)
        } else {
            self.keep_for_reader(read, buffer);
            Served::Done(Next::Idle)
        }
    }

    fn outgoing(&self) -> Option<(BorrowedFd<'_>, Ref<'_, [u8]>)> {
        if self.is(Look::NO_FAST_FLUSH) {
            return None;
        }
        let answer = self.io.outgoing(writing::PORTION)?;
        let fd = self.transport.outgoing()?;
        self.mark(Look::CORKED, false);
        Some((fd, answer))
    }

    fn sent(&self, sent: rustix::io::Result<usize>) {
        self.message_sent(sent);
    }

    fn flush(&self) {
        self.mark(Look::CORKED, false);
        self.flush_now();
    }

    fn context_ended(self: Rc<Self>) {
        if self.state().phase == Phase::Open {
            if self.is_sending() {
                self.finish(Reason::Local, Manner::Graceful);
            } else if self.is_tls() {
                // With close_notify, or the peer would have to think that something is missing.
                self.finish(Reason::Local, Manner::Graceful);
                self.part();
            }
        }
        self.drain_if_lingering();
        self.abort_silently();
    }
}

impl Conn {
    // ---- the short way ----

    /// Returns whether there is nothing to look out for but input, and a reader that is given it.
    #[inline]
    fn expects_a_message(&self) -> bool {
        !self.is(Look::NO_FAST_READ | Look::IN_CALLBACK)
            && !self.ready.get().has(Ready::AT_END)
            && if self.is(Look::READS_DATA) { !self.io.has_input() } else { self.io.has_no_line() }
    }

    /// The way of most messages: one read, one call, one write, of which the engine does the first and the last.
    #[inline]
    fn serve_message(self: &Rc<Self>, read: rustix::io::Result<usize>, held: &mut Option<Rc<Vec<u8>>>) -> Served {
        self.ready.set(Ready::READ);
        self.mark(Look::IN_CALLBACK, true);
        let delivered = match (read, held.as_ref()) {
            // Of what `fits_one_call` and `note_read` look at, the rest is known from `expects_a_message`.
            (Ok(count), Some(buffer))
                if count > 0 && self.is(Look::READS_DATA) && count <= self.options(|options| options.read_size) =>
            {
                self.touch();
                if count < READ_BUFFER && !self.transport.stopped_short() {
                    self.ready.set(Ready::NONE);
                }
                self.deliver_directly(&buffer[..count])
            }
            (read, buffer) => self.deliver_read(read, buffer),
        };
        self.mark(Look::IN_CALLBACK, false);
        let is_all = !self.ready.get().has(Ready::READ);
        let next = match delivered {
            Delivered::All if is_all && !self.is(Look::ENDED | Look::REQUEUE) => Next::Idle,
            Delivered::TimeUp if !self.is(Look::ENDED | Look::REQUEUE) => Next::Hot,
            Delivered::All if !self.is(Look::CORKED | Look::REQUEUE) && self.expects_a_message() => {
                return Served::More;
            }
            _ => {
                self.engine.return_buffer(held);
                self.serve_rest()
            }
        };
        Served::Done(next)
    }

    /// The same where it goes through the inbox, or is no data.
    #[inline(never)]
    fn deliver_read(self: &Rc<Self>, read: rustix::io::Result<usize>, buffer: Option<&Rc<Vec<u8>>>) -> Delivered {
        match (read, buffer) {
            (Err(error), _) => match self.read_failed(error.into()) {
                true => Delivered::All,
                false => Delivered::Stop,
            },
            (Ok(count), Some(buffer)) if count > 0 => {
                self.note_read(count == READ_BUFFER);
                self.io.receive(buffer.clone(), count);
                let delivered = self.deliver();
                self.io.inbox(Inbox::settle);
                self.io.rest();
                delivered
            }
            _ => {
                self.end_of_stream();
                Delivered::Stop
            }
        }
    }

    /// It has become more than a message.
    #[inline(never)]
    fn serve_rest(self: &Rc<Self>) -> Next {
        self.flush_own();
        self.serve(Ready::NONE, 1)
    }

    // ---- the long way ----

    /// Does whatever it is ready for, and whatever else there is to do, after so many reads in this turn.
    #[inline(never)]
    pub(super) fn serve(self: &Rc<Self>, event: Ready, reads: usize) -> Next {
        self.becomes_ready(event.without(Ready::WRITE));
        let mut pass = Pass::new(event, reads);
        let mut held = None;
        let next = loop {
            match pass.step(&self.state(), self.facts()) {
                Step::ResumeYielded => self.resume_yielded(),
                Step::LoseOutput => self.lose_output(),
                Step::Write => self.write_or_requeue(),
                Step::Requeue => {
                    self.mark(Look::REQUEUE, true);
                    return Next::Idle;
                }
                Step::Drain => self.call_drain(),
                Step::Handshake => pass.did(self.advance_handshake()),
                Step::Enter => {
                    self.mark(Look::IN_CALLBACK, true);
                }
                Step::Deliver => pass.delivered(self.deliver()),
                Step::Read if pass.minds_time() && self.engine.spent() => pass.time_is_up(),
                Step::Read => {
                    self.give_back(&mut held);
                    self.read_and_deliver(&mut pass, &mut held);
                }
                Step::WakeReader => {
                    self.wake_next_reader();
                    pass.woke(&self.state(), self.ready.get());
                }
                Step::EndOfStream => self.end_of_stream(),
                Step::ReadForEnd => {
                    pass.has_read(self.fill_sealed(&mut held));
                    self.give_back(&mut held);
                }
                Step::Peek => {
                    self.look_into_kernel();
                }
                Step::Leave => self.leave(&mut held),
                Step::EndWithoutOutput => self.finish_without_output(),
                Step::Disconnect => self.deliver_disconnect(),
                Step::Linger => pass.did(self.linger_on()),
                Step::Rest(next) => break next,
            }
        };
        let next = if self.mark(Look::REQUEUE, false) { next.max(Next::Again) } else { next };
        if self.is(Look::ONESHOT) && next == Next::Idle {
            self.arm();
        }
        next
    }

    #[inline]
    fn facts(&self) -> Facts {
        Facts { ready: self.ready.get(), has_input: self.io.has_input(), in_callback: self.is(Look::IN_CALLBACK) }
    }

    /// Deliveries are over: others may be called, and what was sent meanwhile goes out.
    fn leave(&self, held: &mut Option<Rc<Vec<u8>>>) {
        self.give_back(held);
        self.mark(Look::IN_CALLBACK, false);
        self.flush_own();
        self.io.rest();
    }

    /// Sends what was sent to this connection itself while it was served: nothing more comes to it in this turn but what
    /// others send, and that is gathered as ever. If it is not the last of those that are corked, it is sent with them.
    fn flush_own(&self) {
        if self.is(Look::CORKED) && self.key.get().is_some_and(|key| self.engine.unmark_dirty(key)) {
            self.mark(Look::CORKED, false);
            self.flush_now();
        }
    }

    fn flush_now(&self) {
        if self.is_open() { self.write_or_requeue() } else { self.flush_at_end() }
    }
}
