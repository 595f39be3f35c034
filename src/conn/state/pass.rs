//! One pass over a connection: everything that may have to be done when it is ready for something, step by step.

use super::{Duties, Phase, READABLE, ReadHalf, State, Waits, Wire, WriteHalf};
use crate::engine::{Next, READS, Ready};

/// The result of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::conn) enum Delivered {
    /// Everything that makes a whole line or chunk has been delivered.
    All,
    /// The time of this turn is up, with more to deliver.
    TimeUp,
    /// Nobody reads any more, or somebody else does.
    Stop,
    /// The raw reader has had its call.
    Raw,
}

/// The facts that decide about the next step, beside the state.
#[derive(Clone, Copy, Debug)]
pub(in crate::conn) struct Facts {
    pub(in crate::conn) ready: Ready,
    /// Received data waits to be delivered.
    pub(in crate::conn) has_input: bool,
    pub(in crate::conn) in_callback: bool,
}

/// The next step. Each is done once and then answered by asking again, after the named method where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::conn) enum Step {
    /// Wake the futures that have yielded.
    ResumeYielded,
    /// The reader of our output has gone.
    LoseOutput,
    /// Give the kernel what is queued.
    Write,
    /// A callback is on the stack: look again when it has returned. The pass is over.
    Requeue,
    /// Call the drain callback.
    Drain,
    /// Advance the handshake: [`Pass::did`].
    Handshake,
    /// Call back whoever started TLS.
    TellUpgraded,
    /// Deliveries begin: no other callback may run until [`Step::Leave`].
    Enter,
    /// Deliver what the inbox holds: [`Pass::delivered`].
    Deliver,
    /// Read once: [`Pass::delivered`] or [`Pass::has_read`].
    Read,
    /// Wake the future that waits for input: [`Pass::woke`].
    WakeReader,
    /// The end has come and all before it has been delivered.
    EndOfStream,
    /// Nobody reads, and something came that may be the end: have TLS look at it: [`Pass::has_read`].
    ReadForEnd,
    /// The same where the kernel can be asked without taking anything.
    Peek,
    Leave,
    /// Nothing is left to read, and our output has lost its reader.
    EndWithoutOutput,
    /// Call the disconnect callback.
    Disconnect,
    /// Go on towards the end: [`Pass::did`] says what comes of it.
    Linger,
    /// That is all.
    Rest(Next),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Yielded,
    Output,
    Write,
    Callback,
    Drain,
    Handshake,
    Upgraded,
    Enter,
    Serve(Delivered),
    /// Something was read, to be delivered.
    Fresh,
    /// Whoever waits was woken, or the end was looked for.
    Noticed(Next),
    Left,
    Ended,
    Disconnect,
    Linger,
    Rest,
}

/// A pass that is going on.
#[derive(Debug)]
pub(in crate::conn) struct Pass {
    event: Ready,
    stage: Stage,
    /// Reads of this connection in this turn.
    reads: usize,
    next: Next,
}

impl Pass {
    /// Begins a pass for what the engine has told, after so many reads in this turn.
    pub(in crate::conn) fn new(event: Ready, reads: usize) -> Self {
        Pass { event, stage: Stage::Yielded, reads, next: Next::Idle }
    }

    pub(in crate::conn) fn step(&mut self, state: &State, facts: Facts) -> Step {
        loop {
            let (after, step, applies) = match self.stage {
                Stage::Yielded => (Stage::Output, Step::ResumeYielded, state.waits.contains(Waits::EVER)),
                Stage::Output => {
                    (Stage::Write, Step::LoseOutput, self.event.has(Ready::ERROR) && state.wire.contains(Wire::FILES))
                }
                Stage::Write => (Stage::Callback, Step::Write, self.event.has(Ready::WRITE)),
                Stage::Callback => (Stage::Drain, Step::Requeue, facts.in_callback),
                Stage::Drain => (Stage::Handshake, Step::Drain, state.write.contains(WriteHalf::DRAIN_DUE)),
                Stage::Handshake => (Stage::Upgraded, Step::Handshake, state.phase == Phase::Handshaking),
                Stage::Upgraded => (Stage::Enter, Step::TellUpgraded, state.duties.contains(Duties::UPGRADED)),
                Stage::Enter if state.phase == Phase::Open && !facts.in_callback => {
                    (Stage::Serve(Delivered::Stop), Step::Enter, true)
                }
                Stage::Enter => (Stage::Disconnect, Step::Enter, false),
                Stage::Serve(delivered) => return self.serve(delivered, state, facts),
                Stage::Fresh => return Step::Deliver,
                Stage::Noticed(next) => return self.leave(next),
                Stage::Left => {
                    let is_over = state.write.contains(WriteHalf::OUTPUT_GONE) && !facts.ready.has(Ready::READ);
                    (Stage::Ended, Step::EndWithoutOutput, is_over)
                }
                // It may have ended in a callback of this pass.
                Stage::Ended => (Stage::Disconnect, Step::TellUpgraded, state.duties.contains(Duties::UPGRADED)),
                Stage::Disconnect => (Stage::Linger, Step::Disconnect, state.duties.contains(Duties::DISCONNECT)),
                Stage::Linger => (Stage::Rest, Step::Linger, state.phase == Phase::Lingering),
                Stage::Rest => return Step::Rest(self.next),
            };
            self.stage = after;
            if applies {
                return step;
            }
        }
    }

    /// Reads and delivers until nothing is left, or this connection's share of the turn is used up.
    fn serve(&mut self, delivered: Delivered, state: &State, facts: Facts) -> Step {
        if state.phase == Phase::Handshaking {
            // A callback has started TLS: what the kernel has belongs to that.
            return self.leave(Next::Again);
        }
        match delivered {
            Delivered::All => {}
            Delivered::TimeUp => return self.leave(Next::Hot),
            Delivered::Stop if !state.is_open() => return self.leave(Next::Idle),
            Delivered::Stop if !state.delivers() => return self.notice(state, facts),
            // Another reader, or the first time here.
            Delivered::Stop => return Step::Deliver,
            Delivered::Raw => {
                let more = facts.ready.has(Ready::READ) && !state.has_read_all();
                return self.leave(if facts.has_input || more { Next::Again } else { Next::Idle });
            }
        }
        if state.has_read_all() {
            self.stage = Stage::Noticed(Next::Idle);
            Step::EndOfStream
        } else if !facts.ready.has(READABLE) {
            self.leave(Next::Idle)
        } else if self.reads >= READS {
            self.leave(Next::Hot)
        } else {
            self.reads += 1;
            Step::Read
        }
    }

    /// No callback reads: what there is, is for the futures that wait. Without any nothing is taken, but the end is
    /// noticed once nothing lies before it.
    fn notice(&mut self, state: &State, facts: Facts) -> Step {
        let is_at_end = state.is_at_end(facts.ready);
        if state.waits.contains(Waits::INPUT) {
            if !facts.ready.has(READABLE) && !state.has_read_all() && !facts.has_input {
                return self.leave(Next::Idle);
            }
            return Step::WakeReader;
        }
        // A reader that is paused gets what is left before the end, whoever else knows of that.
        let is_left_over = state.read.contains(ReadHalf::CALLER_KNOWS) && !state.delivery.has_reader();
        if !is_at_end || (facts.has_input && !is_left_over) {
            return self.leave(Next::Idle);
        }
        self.stage = Stage::Noticed(Next::Idle);
        if state.has_read_all() {
            Step::EndOfStream
        } else if state.wire.contains(Wire::TLS) {
            // Before the end of a TLS connection lies close_notify, which looks like data until it is decrypted.
            Step::ReadForEnd
        } else {
            Step::Peek
        }
    }

    fn leave(&mut self, next: Next) -> Step {
        self.stage = Stage::Left;
        self.next = self.next.max(next);
        Step::Leave
    }

    // ---- what came of a step ----

    /// Returns whether the clock is to be read before the read that was just asked for: the first is free.
    pub(in crate::conn) fn minds_time(&self) -> bool {
        self.reads > 1
    }

    /// The time of this turn is up.
    pub(in crate::conn) fn time_is_up(&mut self) {
        self.stage = Stage::Serve(Delivered::TimeUp);
    }

    pub(in crate::conn) fn delivered(&mut self, delivered: Delivered) {
        self.stage = Stage::Serve(delivered);
    }

    /// A read has brought something, or nothing, or the end.
    pub(in crate::conn) fn has_read(&mut self, something: bool) {
        self.stage = match (self.stage, something) {
            // Looks again: by now there is data, or the end is known, or more is to be read.
            (Stage::Noticed(_), true) => Stage::Noticed(Next::Again),
            (Stage::Noticed(next), false) => Stage::Noticed(next),
            (_, true) => Stage::Fresh,
            (_, false) => Stage::Noticed(Next::Idle),
        };
    }

    /// A reader was woken. One without a place in the queue may have lost interest: then the end is still to be
    /// noticed.
    pub(in crate::conn) fn woke(&mut self, state: &State, ready: Ready) {
        let again = state.is_at_end(ready) && !state.waits.contains(Waits::INPUT);
        self.stage = Stage::Noticed(if again { Next::Again } else { Next::Idle });
    }

    /// The handshake, or lingering, wants this. Lingering decides alone: nothing else is done with what has ended.
    pub(in crate::conn) fn did(&mut self, next: Next) {
        self.next = if self.stage == Stage::Rest { next } else { self.next.max(next) };
    }
}
