//! The engine's calls to a connection: the short way of a message, and the long way, in which [`Pass`] says what to do
//! next.

use std::cell::Ref;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use super::callbacks::Reason;
use super::idle::Traffic;
use super::inbox::Inbox;
use super::state::{Delivered, Facts, Look, Manner, Pass, Phase, Step};
use super::{Conn, far_end, waiting, writing};
use crate::engine::{Engine, FarEnd, Handler, Incoming, Next, READ_BUFFER, Ready, Received, Served};
use crate::sys::Ends;

impl Handler for Conn {
    fn ready(self: Rc<Self>, _engine: &Rc<Engine>, ready: Ready) -> Next {
        if ready == Ready::READ && self.waiters().wake_reader() {
            return Next::Idle;
        }
        self.serve(ready, 0)
    }

    fn incoming(&self, ready: Ready) -> Option<Incoming<'_>> {
        // Or it was not all read in its last turn.
        if ready != Ready::READ && (ready != Ready::NONE || !self.status.ready().has(Ready::READ)) {
            None
        } else if self.expects_a_message() {
            self.transport.incoming(READ_BUFFER)
        } else if self.waiters().reads_ahead() {
            self.transport.incoming(waiting::AHEAD)
        } else {
            None
        }
    }

    fn received(self: Rc<Self>, read: Received, buffer: &mut Option<Rc<Vec<u8>>>) -> Served {
        let read = self.transport.received(read);
        if self.status.is(Look::HAS_READER) {
            self.serve_message(read, buffer)
        } else {
            self.waiters().keep_for_reader(read, buffer);
            Served::Done(Next::Idle)
        }
    }

    fn outgoing(&self) -> Option<(BorrowedFd<'_>, Ref<'_, [u8]>)> {
        if self.status.is(Look::NO_FAST_FLUSH) {
            return None;
        }
        let answer = self.io.outgoing(writing::PORTION)?;
        let fd = self.transport.outgoing()?;
        self.status.mark(Look::CORKED, false);
        Some((fd, answer))
    }

    fn sent(&self, sent: rustix::io::Result<usize>) {
        self.output().was_sent_by_engine(sent);
    }

    fn flush(&self) {
        self.status.mark(Look::CORKED, false);
        self.output().flush();
    }

    fn far_end(&self, ends: &Ends) -> FarEnd {
        far_end::look(self, ends)
    }

    fn context_ended(self: Rc<Self>) {
        if self.status.get().phase == Phase::Open {
            if self.is_sending() {
                self.finish(Reason::Local, Manner::Graceful);
            } else if self.is_tls() {
                // With close_notify, or the peer would have to think that something is missing.
                self.finish(Reason::Local, Manner::Graceful);
                self.close_without_peer();
            }
        }
        self.lingering().drain_without_loop();
        self.abort_silently();
    }
}

impl Conn {
    // ---- the short way ----

    /// Returns whether there is nothing to look out for but input, and a reader that is given it.
    #[inline]
    fn expects_a_message(&self) -> bool {
        !self.status.is(Look::SLOW_READ)
            && !self.status.ready().has(Ready::AT_END)
            && if self.status.is(Look::READS_LINES) { self.io.has_no_line() } else { !self.io.has_input() }
    }

    /// The way of most messages: one read, one call, one write, of which the engine does the first and the last.
    #[inline]
    fn serve_message(self: &Rc<Self>, read: rustix::io::Result<usize>, held: &mut Option<Rc<Vec<u8>>>) -> Served {
        self.status.set_ready(Ready::READ);
        self.status.mark(Look::IN_CALLBACK, true);
        let delivered = match (read, held.as_ref()) {
            // Of what `fits_one_call` and `note_read` look at, the rest is known from `expects_a_message`.
            (Ok(count), Some(buffer))
                if count > 0
                    && self.status.is(Look::READS_DATA)
                    && count <= self.options(|options| options.read_size) =>
            {
                self.touch(Traffic::Received);
                if count < READ_BUFFER && !self.transport.stopped_short() {
                    self.status.set_ready(Ready::NONE);
                }
                self.deliver_directly(&buffer[..count])
            }
            (read, buffer) => self.deliver_read(read, buffer),
        };
        self.status.mark(Look::IN_CALLBACK, false);
        let is_all = !self.status.ready().has(Ready::READ);
        let next = match delivered {
            Delivered::All if is_all && !self.status.is(Look::ENDED | Look::REQUEUE) => Next::Idle,
            Delivered::TimeUp if !self.status.is(Look::ENDED | Look::REQUEUE) => Next::Hot,
            Delivered::All if !self.status.is(Look::CORKED | Look::REQUEUE) && self.expects_a_message() => {
                return Served::More;
            }
            _ => {
                // It has become more than a message.
                self.engine.return_buffer(held);
                self.output().flush_own();
                self.serve(Ready::NONE, 1)
            }
        };
        Served::Done(next)
    }

    /// The same where it goes through the inbox, or is no data.
    #[inline(never)]
    fn deliver_read(self: &Rc<Self>, read: rustix::io::Result<usize>, buffer: Option<&Rc<Vec<u8>>>) -> Delivered {
        match (read, buffer) {
            (Err(error), _) => match self.input().failed(error.into()) {
                true => Delivered::All,
                false => Delivered::Stop,
            },
            (Ok(count), Some(buffer)) if count > 0 => {
                self.input().note_read(count == READ_BUFFER);
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
}

impl Conn {
    // ---- the long way ----

    /// Serves the connection: everything that it is ready for, and everything else there is to do, after so many reads
    /// in this turn.
    #[inline(never)]
    pub(super) fn serve(self: &Rc<Self>, event: Ready, reads: usize) -> Next {
        self.status.becomes_ready(event.without(Ready::WRITE));
        Serving { conn: self, pass: Pass::new(event, reads), held: None }.run()
    }
}

/// A pass over a connection that is being made.
struct Serving<'a> {
    conn: &'a Rc<Conn>,
    pass: Pass,
    /// The buffer of the last read, which is returned before the next one.
    held: Option<Rc<Vec<u8>>>,
}

impl Serving<'_> {
    fn run(mut self) -> Next {
        let conn = self.conn;
        let next = loop {
            match self.pass.step(&conn.status.get(), self.facts()) {
                Step::ResumeYielded => conn.waiters().resume_yielded(),
                Step::LoseOutput => conn.output().lose_reader(),
                Step::Write => conn.output().send_or_requeue(),
                Step::Requeue => {
                    conn.status.mark(Look::REQUEUE, true);
                    return Next::Idle;
                }
                Step::Drain => conn.output().call_drain(),
                Step::Handshake => self.pass.did(conn.handshaking().advance()),
                Step::TellUpgraded => conn.handshaking().tell(),
                Step::Enter => drop(conn.status.mark(Look::IN_CALLBACK, true)),
                Step::Deliver => self.pass.delivered(conn.deliver()),
                Step::Read if self.pass.minds_time() && conn.engine.spent() => self.pass.time_is_up(),
                Step::Read => self.read(),
                Step::WakeReader => {
                    conn.waiters().wake_for_input();
                    self.pass.woke(&conn.status.get(), conn.status.ready());
                }
                Step::EndOfStream => conn.end_of_stream(),
                Step::ReadForEnd => self.read_for_end(),
                Step::Peek => drop(conn.input().look_into_kernel()),
                Step::Leave => self.leave(),
                Step::EndWithoutOutput => conn.output().finish_without_reader(),
                Step::Disconnect => conn.ending().tell(),
                Step::Linger => self.pass.did(conn.lingering().go_on()),
                Step::Rest(next) => break next,
            }
        };
        let next = if conn.status.mark(Look::REQUEUE, false) { next.max(Next::Again) } else { next };
        if conn.status.is(Look::ONESHOT) && next == Next::Idle {
            conn.arm();
        }
        next
    }

    #[inline]
    fn facts(&self) -> Facts {
        Facts {
            ready: self.conn.status.ready(),
            has_input: self.conn.io.has_input(),
            in_callback: self.conn.status.is(Look::IN_CALLBACK),
        }
    }

    /// Reads once, into the inbox, or past it if the reader takes it all.
    fn read(&mut self) {
        let conn = self.conn;
        conn.input().give_back(&mut self.held);
        if conn.is_tls() {
            return self.pass.has_read(conn.input().fill_sealed(&mut self.held));
        }
        let mut buffer = conn.engine.take_buffer();
        let Some(space) = Rc::get_mut(&mut buffer) else { return self.pass.has_read(false) };
        match conn.input().read_once(&mut space[..], false) {
            Ok(0) => conn.end_of_stream(),
            Ok(count) if conn.fits_one_call(count) => {
                self.pass.delivered(conn.deliver_directly(&buffer[..count]));
                return conn.engine.give_buffer(buffer);
            }
            Ok(count) => {
                conn.io.receive(buffer.clone(), count);
                self.held = Some(buffer);
                return self.pass.has_read(true);
            }
            Err(error) => drop(conn.input().failed(error)),
        }
        conn.engine.give_buffer(buffer);
        self.pass.has_read(false);
    }

    /// Lets TLS look at input that may be its end.
    fn read_for_end(&mut self) {
        self.pass.has_read(self.conn.input().fill_sealed(&mut self.held));
        self.conn.input().give_back(&mut self.held);
    }

    /// Deliveries are over: others may be called, and what was sent meanwhile goes out.
    fn leave(&mut self) {
        self.conn.input().give_back(&mut self.held);
        self.conn.status.mark(Look::IN_CALLBACK, false);
        self.conn.output().flush_own();
        self.conn.io.rest();
    }
}
