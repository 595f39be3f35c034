//! The state driven by script, without sockets: each step, each transition, and that the short way and the long way agree.

use super::*;
use crate::engine::{Next, READS};

/// A pass driven by hand.
struct Script {
    state: State,
    ready: Ready,
    has_input: bool,
    in_callback: bool,
    pass: Pass,
}

impl Script {
    fn new(state: State, event: Ready) -> Self {
        Script {
            state,
            ready: event.without(Ready::WRITE),
            has_input: false,
            in_callback: false,
            pass: Pass::new(event, 0),
        }
    }

    fn step(&mut self) -> Step {
        let facts = Facts { ready: self.ready, has_input: self.has_input, in_callback: self.in_callback };
        self.pass.step(&self.state, facts)
    }

    #[track_caller]
    fn expect(&mut self, steps: &[Step]) -> &mut Self {
        for step in steps {
            assert_eq!(self.step(), *step);
        }
        self
    }
}

fn open() -> State {
    State::default()
}

fn reading(kind: Kind) -> State {
    let mut state = open();
    state.delivery.reader = Some(kind);
    state
}

fn with(change: impl FnOnce(&mut State)) -> State {
    let mut state = open();
    change(&mut state);
    state
}

// ---- passes ----

#[test]
fn a_message_is_read_delivered_and_that_is_all() {
    let mut script = Script::new(reading(Kind::Lines), Ready::READ);
    script.expect(&[Step::Enter, Step::Deliver]);
    script.pass.delivered(Delivered::All);
    script.expect(&[Step::Read]);
    script.has_input = true;
    script.pass.has_read(true);
    script.expect(&[Step::Deliver]);
    script.has_input = false;
    script.ready = Ready::NONE;
    script.pass.delivered(Delivered::All);
    script.expect(&[Step::Leave, Step::Rest(Next::Idle)]);
}

#[test]
fn a_share_of_reads_is_all_that_one_turn_gives() {
    let mut script = Script::new(reading(Kind::Data), Ready::READ);
    script.expect(&[Step::Enter, Step::Deliver]);
    script.pass.delivered(Delivered::All);
    for read in 0..READS {
        script.expect(&[Step::Read]);
        assert_eq!(script.pass.minds_time(), read > 0, "the first read is free");
        script.pass.delivered(Delivered::All);
    }
    script.expect(&[Step::Leave, Step::Rest(Next::Hot)]);
}

#[test]
fn when_the_time_is_up_the_rest_waits() {
    for up in [0, 1] {
        let mut script = Script::new(reading(Kind::Lines), Ready::READ);
        script.expect(&[Step::Enter, Step::Deliver]);
        if up == 0 {
            script.pass.delivered(Delivered::TimeUp);
        } else {
            script.pass.delivered(Delivered::All);
            script.expect(&[Step::Read]);
            script.pass.time_is_up();
        }
        script.expect(&[Step::Leave, Step::Rest(Next::Hot)]);
    }
}

#[test]
fn a_callback_on_the_stack_postpones_everything_but_writing() {
    let mut state = reading(Kind::Data);
    state.waits = Waits::EVER;
    let mut script = Script::new(state, Ready::READ | Ready::WRITE);
    script.in_callback = true;
    script.expect(&[Step::ResumeYielded, Step::Write, Step::Requeue]);
}

#[test]
fn a_raw_reader_is_called_once_a_turn_and_again_while_something_is_there() {
    let ends = [(false, Ready::NONE, Next::Idle), (true, Ready::NONE, Next::Again), (false, Ready::READ, Next::Again)];
    for (has_input, ready, next) in ends {
        let mut script = Script::new(reading(Kind::Raw), Ready::READ);
        script.expect(&[Step::Enter, Step::Deliver]);
        script.pass.delivered(Delivered::Raw);
        (script.has_input, script.ready) = (has_input, ready);
        script.expect(&[Step::Leave, Step::Rest(next)]);
    }
}

#[test]
fn the_end_is_told_after_all_before_it_has_been_delivered() {
    let mut script = Script::new(reading(Kind::Lines), Ready::READ | Ready::HANGUP);
    script.state.read.insert(ReadHalf::ENDED);
    script.has_input = true;
    script.expect(&[Step::Enter, Step::Deliver]);
    script.has_input = false;
    script.pass.delivered(Delivered::All);
    script.expect(&[Step::EndOfStream]);
    assert!(script.state.end(Manner::Graceful));
    script.expect(&[Step::Leave, Step::Disconnect]);
    script.state.duties.remove(Duties::DISCONNECT);
    script.expect(&[Step::Linger]);
    script.pass.did(Next::Again);
    script.expect(&[Step::Rest(Next::Again)]);
}

#[test]
fn a_reader_that_goes_in_its_own_callback_is_followed_by_another_or_by_nobody() {
    let mut script = Script::new(reading(Kind::Lines), Ready::READ);
    script.expect(&[Step::Enter, Step::Deliver]);
    script.pass.delivered(Delivered::Stop);
    // There is one still: it gets the rest.
    script.expect(&[Step::Deliver]);
    script.state.delivery.remove_reader();
    script.pass.delivered(Delivered::Stop);
    script.expect(&[Step::Leave, Step::Rest(Next::Idle)]);
}

#[test]
fn without_a_reader_nothing_is_taken_and_the_end_is_noticed_once_nothing_lies_before_it() {
    Script::new(open(), Ready::READ).expect(&[Step::Enter, Step::Leave, Step::Rest(Next::Idle)]);
    for end in [Ready::HANGUP, Ready::ERROR] {
        Script::new(open(), Ready::READ | end).expect(&[Step::Enter, Step::Peek, Step::Leave, Step::Rest(Next::Idle)]);
        let mut script = Script::new(open(), Ready::READ | end);
        script.has_input = true;
        script.expect(&[Step::Enter, Step::Leave, Step::Rest(Next::Idle)]);
        // Whoever asked knows already: then what is left over hides it no more.
        let mut script = Script::new(with(|state| state.read = ReadHalf::CALLER_KNOWS | ReadHalf::ENDED), end);
        script.has_input = true;
        script.expect(&[Step::Enter, Step::EndOfStream, Step::Leave, Step::Rest(Next::Idle)]);
    }
    // But a reader that is only paused gets it first.
    let mut paused = reading(Kind::Data);
    paused.delivery.set_paused(true);
    paused.read = ReadHalf::CALLER_KNOWS | ReadHalf::ENDED;
    let mut script = Script::new(paused, Ready::HANGUP);
    script.has_input = true;
    script.expect(&[Step::Enter, Step::Leave, Step::Rest(Next::Idle)]);
    let tls = with(|state| state.wire = Wire::TLS);
    for (something, next) in [(true, Next::Again), (false, Next::Idle)] {
        let mut script = Script::new(tls, Ready::READ | Ready::HANGUP);
        script.expect(&[Step::Enter, Step::ReadForEnd]);
        script.pass.has_read(something);
        script.expect(&[Step::Leave, Step::Rest(next)]);
    }
}

#[test]
fn a_paused_reader_is_given_nothing() {
    let mut state = reading(Kind::Data);
    assert!(!state.delivery.set_paused(true));
    Script::new(state, Ready::READ).expect(&[Step::Enter, Step::Leave, Step::Rest(Next::Idle)]);
    assert!(state.delivery.set_paused(false) && state.delivers());
}

#[test]
fn a_future_that_waits_for_input_is_woken() {
    let state = with(|state| state.waits = Waits::EVER | Waits::INPUT);
    let mut script = Script::new(state, Ready::READ);
    script.expect(&[Step::ResumeYielded, Step::Enter, Step::WakeReader]);
    script.pass.woke(&script.state, Ready::READ);
    script.expect(&[Step::Leave, Step::Rest(Next::Idle)]);
    // One that said nothing of losing interest may have gone: then the end is still to be noticed.
    let mut script = Script::new(state, Ready::HANGUP);
    script.expect(&[Step::ResumeYielded, Step::Enter, Step::WakeReader]);
    script.state.waits.remove(Waits::INPUT);
    script.pass.woke(&script.state, Ready::HANGUP);
    script.expect(&[Step::Leave, Step::Rest(Next::Again)]);
    // Nothing has come.
    Script::new(state, Ready::NONE).expect(&[Step::ResumeYielded, Step::Enter, Step::Leave, Step::Rest(Next::Idle)]);
}

#[test]
fn during_the_handshake_nothing_is_delivered() {
    let mut state = reading(Kind::Data);
    (state.phase, state.wire) = (Phase::Handshaking, Wire::TLS);
    let mut script = Script::new(state, Ready::READ);
    script.expect(&[Step::Handshake]);
    script.pass.did(Next::Idle);
    script.expect(&[Step::Rest(Next::Idle)]);
    // Done, and what came with the last of it is delivered in the same pass.
    let mut script = Script::new(state, Ready::READ);
    script.expect(&[Step::Handshake]);
    script.state.phase = Phase::Open;
    script.pass.did(Next::Idle);
    script.expect(&[Step::Enter, Step::Deliver]);
}

#[test]
fn an_output_that_lost_its_reader_ends_the_connection_when_nothing_is_left_to_read() {
    let state = with(|state| state.wire = Wire::FILES);
    let mut script = Script::new(state, Ready::ERROR);
    script.expect(&[Step::LoseOutput]);
    script.state.write.insert(WriteHalf::OUTPUT_GONE);
    script.ready = Ready::ERROR;
    script.expect(&[Step::Enter, Step::Peek, Step::Leave, Step::EndWithoutOutput, Step::Rest(Next::Idle)]);
    // A socket's error is found by reading.
    Script::new(open(), Ready::ERROR).expect(&[Step::Enter, Step::Peek]);
}

#[test]
fn a_drain_callback_comes_before_deliveries() {
    let mut state = reading(Kind::Data);
    state.write.insert(WriteHalf::DRAIN_DUE);
    Script::new(state, Ready::WRITE).expect(&[Step::Write, Step::Drain, Step::Enter, Step::Deliver]);
}

#[test]
fn one_that_has_ended_is_told_and_lingers_whatever_it_is_ready_for() {
    let mut state = reading(Kind::Data);
    assert!(state.end(Manner::Graceful));
    assert!(!state.end(Manner::AtOnce), "once");
    assert!(!state.delivers() && !state.may_send() && !state.is_open());
    Script::new(state, Ready::READ).expect(&[Step::Disconnect, Step::Linger]);
    state.phase = Phase::Closed;
    Script::new(state, Ready::READ).expect(&[Step::Disconnect, Step::Rest(Next::Idle)]);
}

// ---- lingering ----

fn lingering(change: impl FnOnce(&mut State)) -> State {
    with(|state| {
        state.end(Manner::Graceful);
        change(state);
    })
}

const FACTS: LingerFacts =
    LingerFacts { ready: Ready::NONE, is_sending: false, has_written: false, has_ended: false, is_impatient: false };

#[test]
fn lingering_sends_half_closes_discards_and_closes() {
    let state = lingering(|_| {});
    let sending = LingerFacts { is_sending: true, ..FACTS };
    assert_eq!(state.lingering(sending), Linger::Send);
    assert_eq!(state.lingering(LingerFacts { has_written: true, ..sending }), Linger::Discard);
    assert_eq!(state.lingering(FACTS), Linger::EndWriting);
    let ended = lingering(|state| state.write = WriteHalf::ENDED);
    assert_eq!(ended.lingering(FACTS), Linger::Wait);
    assert_eq!(ended.lingering(LingerFacts { ready: Ready::READ, ..FACTS }), Linger::Discard);
    let both = lingering(|state| (state.write, state.read) = (WriteHalf::ENDED, ReadHalf::ENDED));
    assert_eq!(both.lingering(FACTS), Linger::Close);
    assert_eq!(both.lingering(LingerFacts { is_sending: true, has_written: true, ..FACTS }), Linger::Wait);
}

#[test]
fn a_peer_that_has_ended_needs_no_half_close_but_tls_its_own_end() {
    let plain = lingering(|state| state.read = ReadHalf::ENDED);
    assert_eq!(plain.lingering(FACTS), Linger::Close);
    let tls = lingering(|state| (state.read, state.wire) = (ReadHalf::ENDED, Wire::TLS));
    assert_eq!(tls.lingering(FACTS), Linger::EndWriting);
    // There was no room for it: the loop says when there is.
    assert_eq!(tls.lingering(LingerFacts { has_ended: true, ..FACTS }), Linger::Wait);
}

#[test]
fn after_damage_the_alert_must_arrive_before_the_descriptor_closes() {
    let damaged = |state: &mut State| {
        (state.read, state.wire) = (ReadHalf::ENDED | ReadHalf::DAMAGED, Wire::TLS);
        state.write = WriteHalf::ENDED;
    };
    assert_eq!(lingering(damaged).lingering(FACTS), Linger::Wait);
    assert!(!lingering(damaged).closes_with_shutdown());
}

#[test]
fn what_is_broken_off_ends_in_a_reset_once_the_queue_is_out() {
    let state = with(|state| {
        state.end(Manner::Reset);
    });
    assert_eq!(state.lingering(LingerFacts { is_sending: true, ..FACTS }), Linger::Send);
    assert_eq!(state.lingering(FACTS), Linger::Reset);
    let files = with(|state| {
        state.end(Manner::Reset);
        state.wire = Wire::FILES;
        state.write.insert(WriteHalf::ENDED);
    });
    assert_eq!(files.lingering(FACTS), Linger::Close, "nothing else tells of it");
}

#[test]
fn files_and_the_impatient_close_at_once() {
    assert_eq!(lingering(|state| state.wire = Wire::FILES).lingering(FACTS), Linger::Close);
    assert_eq!(lingering(|_| {}).lingering(LingerFacts { is_impatient: true, ..FACTS }), Linger::Close);
    assert_eq!(open().lingering(FACTS), Linger::Wait, "it is open");
}

// ---- small decisions ----

#[test]
fn a_short_read_means_that_nothing_is_left_unless_the_end_has_come() {
    let state = open();
    assert_eq!(state.after_read(Ready::READ, false, false), Ready::NONE);
    assert_eq!(state.after_read(Ready::READ, true, false), Ready::READ);
    assert_eq!(state.after_read(Ready::READ, false, true), Ready::READ, "the kernel stopped early");
    let end = Ready::READ | Ready::HANGUP;
    assert_eq!(state.after_read(end, false, false), end);
    // One that tells its readiness only when asked is asked again.
    let asks = with(|state| state.wire = Wire::INPUT_ONESHOT | Wire::ONESHOT);
    assert_eq!(asks.after_read(end, true, false), Ready::HANGUP);
    let gone = with(|state| (state.wire, state.write) = (Wire::INPUT_ONESHOT, WriteHalf::OUTPUT_GONE));
    assert_eq!(gone.after_read(Ready::READ, true, false), Ready::READ);
}

#[test]
fn a_half_close_that_somebody_hears_of_is_no_end() {
    assert!(!open().stays_half_open(Ready::NONE));
    let half_open = with(|state| state.read = ReadHalf::ENDED | ReadHalf::HALF_OPEN);
    assert!(half_open.stays_half_open(Ready::HANGUP));
    assert!(!half_open.stays_half_open(Ready::ERROR), "it is broken");
    let both = with(|state| (state.read, state.write) = (ReadHalf::HALF_OPEN, WriteHalf::ENDED));
    assert!(!both.stays_half_open(Ready::NONE), "both directions have ended");
}

#[test]
fn input_is_watched_for_whoever_reads_and_to_be_discarded() {
    assert_eq!(open().interest(), (false, false));
    assert_eq!(reading(Kind::Raw).interest(), (true, false));
    assert_eq!(with(|state| state.waits = Waits::EVER | Waits::INPUT).interest(), (true, false));
    assert_eq!(with(|state| state.write = WriteHalf::ARMED).interest(), (false, true));
    assert_eq!(lingering(|_| {}).interest(), (true, false));
    assert_eq!(lingering(|state| state.wire = Wire::FILES).interest(), (false, false));
    assert_eq!(lingering(|state| state.read = ReadHalf::ENDED).interest(), (false, false));
}

// ---- the word ----

/// Every combination of what the word is derived from.
fn all_states() -> impl Iterator<Item = State> {
    let phases = [Phase::Handshaking, Phase::Open, Phase::Lingering, Phase::Closed];
    let kinds = [None, Some(Kind::Data), Some(Kind::Lines), Some(Kind::ByteLines), Some(Kind::Raw)];
    let reads = (0..16).map(ReadHalf::from_bits_retain);
    // Of the write half, those bits that any decision looks at.
    let writes = [
        WriteHalf::empty(),
        WriteHalf::ENDING,
        WriteHalf::ENDING | WriteHalf::ENDED,
        WriteHalf::FAILED | WriteHalf::LOST,
        WriteHalf::ARMED,
        WriteHalf::FULL,
        WriteHalf::DRAIN_DUE,
        WriteHalf::FLUSH_AWAITED,
        WriteHalf::OUTPUT_GONE,
        WriteHalf::COUNTED,
    ];
    let rest = move |phase, reader, read| {
        writes.into_iter().flat_map(move |write| {
            (0..8).flat_map(move |waits| {
                (0..16).flat_map(move |wire| {
                    [false, true].into_iter().flat_map(move |paused| {
                        [Duties::empty(), Duties::WATCHES_IDLENESS, Duties::UPGRADED].into_iter().map(move |duties| {
                            let mut state = State {
                                phase,
                                read,
                                write,
                                waits: Waits::from_bits_retain(waits),
                                wire: Wire::from_bits_retain(wire),
                                duties,
                                ..State::default()
                            };
                            state.delivery.reader = reader;
                            state.delivery.set_paused(paused);
                            state
                        })
                    })
                })
            })
        })
    };
    phases.into_iter().flat_map(move |phase| {
        let reads = reads.clone();
        kinds.into_iter().flat_map(move |kind| reads.clone().flat_map(move |read| rest(phase, kind, read)))
    })
}

/// The word as it lies beside the state.
fn word(state: &State) -> Look {
    state.look() | Look::from_bits_retain(state.waits.bits().into())
}

/// The steps of a pass before the first of these.
fn steps_until(state: State, event: Ready, has_input: bool, stop: impl Fn(Step) -> bool) -> (Vec<Step>, Step, Script) {
    let mut script = Script::new(state, event);
    script.has_input = has_input;
    let mut before = Vec::new();
    loop {
        let step = script.step();
        if stop(step) || matches!(step, Step::Rest(_) | Step::Requeue | Step::WakeReader) {
            return (before, step, script);
        }
        if step == Step::Deliver {
            script.pass.delivered(Delivered::All);
        }
        before.push(step);
    }
}

#[test]
fn the_short_way_of_a_message_is_what_the_long_way_would_do() {
    let mut fast = 0;
    for state in all_states().filter(|state| !word(state).intersects(Look::SLOW_READ)) {
        fast += 1;
        // Long: nothing but to find the inbox empty and to read.
        let (before, step, mut script) = steps_until(state, Ready::READ, false, |step| step == Step::Read);
        assert_eq!((before.as_slice(), step), (&[Step::Enter, Step::Deliver][..], Step::Read), "{state:?}");
        // And after a short read that was delivered, nothing.
        script.pass.delivered(Delivered::All);
        script.ready = state.after_read(Ready::READ, false, false);
        script.expect(&[Step::Leave, Step::Rest(Next::Idle)]);
        // Or, with more to come, another read: as `Served::More` has it.
        let (_, _, mut script) = steps_until(state, Ready::READ, false, |step| step == Step::Read);
        script.pass.delivered(Delivered::All);
        script.expect(&[Step::Read]);
    }
    assert!(fast > 100, "{fast}");
}

#[test]
fn the_short_way_of_waking_is_what_the_long_way_would_do() {
    let mut fast = 0;
    let is_fast = |word: Look| !word.intersects(Look::SLOW_WAKE) && word.contains(Look::INPUT_AWAITED);
    for state in all_states().filter(|state| is_fast(word(state))) {
        fast += 1;
        let (before, step, mut script) = steps_until(state, Ready::READ, false, |step| step == Step::WakeReader);
        assert!(before.iter().all(|step| matches!(step, Step::ResumeYielded | Step::Enter)), "{state:?}: {before:?}");
        assert_eq!(step, Step::WakeReader, "{state:?}");
        script.pass.woke(&state, Ready::READ);
        script.expect(&[Step::Leave, Step::Rest(Next::Idle)]);
    }
    assert!(fast > 100, "{fast}");
}

#[test]
fn whatever_the_long_way_would_do_besides_keeps_a_message_from_the_short_way() {
    for state in all_states() {
        let (before, step, _) = steps_until(state, Ready::READ, false, |step| step == Step::Read);
        let is_short = !word(&state).intersects(Look::SLOW_READ);
        // The other way round: where the long way does just that, only TLS, files and futures that have waited are left to it.
        let is_plain = before == [Step::Enter, Step::Deliver] && step == Step::Read;
        let is_special = state.wire.intersects(Wire::TLS | Wire::FILES)
            || state.write.contains(WriteHalf::OUTPUT_GONE)
            || state.delivery.reader == Some(Kind::Raw)
            || !state.read.is_empty();
        assert_eq!(is_short, is_plain && !is_special, "{state:?}: {before:?}, {step:?}");
    }
}

#[test]
fn what_goes_into_the_queue_may_be_sent_and_what_goes_out_of_it_concerns_nobody_else() {
    for state in all_states() {
        let look = state.look();
        let sends = state.may_send() && !state.write.contains(WriteHalf::FAILED);
        assert_eq!(!look.contains(Look::NO_FAST_SEND), sends, "{state:?}");
        if !look.contains(Look::NO_FAST_FLUSH) {
            let heard_of =
                WriteHalf::ENDING | WriteHalf::FULL | WriteHalf::FLUSH_AWAITED | WriteHalf::ARMED | WriteHalf::COUNTED;
            assert!(state.is_open() && !state.write.intersects(heard_of | WriteHalf::FAILED), "{state:?}");
            assert!(!state.wire.contains(Wire::TLS) && !state.duties.contains(Duties::WATCHES_IDLENESS), "{state:?}");
        }
        if !look.contains(Look::NO_FAST_TAKE) {
            assert!(state.is_open() && !state.has_read_all() && !state.delivery.has_reader(), "{state:?}");
        }
        assert_eq!(look.contains(Look::ENDED), !state.is_open(), "{state:?}");
        assert_eq!(look.contains(Look::HAS_READER), state.delivery.has_reader(), "{state:?}");
        assert!(!look.intersects(Look::BY_HAND), "{state:?}");
    }
}

#[test]
fn it_is_small() {
    assert!(size_of::<State>() <= 12, "{} bytes", size_of::<State>());
}

// ---- TLS on an open connection ----

#[test]
fn a_callback_that_starts_tls_is_given_nothing_more_and_nothing_is_read() {
    for delivered in [Delivered::All, Delivered::Stop, Delivered::Raw, Delivered::TimeUp] {
        let mut state = open();
        state.delivery.reader = Some(Kind::Lines);
        let mut script = Script::new(state, Ready::READ);
        script.expect(&[Step::Enter, Step::Deliver]);
        script.pass.delivered(delivered);
        script.state.wire.insert(Wire::TLS);
        script.state.phase = Phase::Handshaking;
        // The next pass is for the handshake.
        script.expect(&[Step::Leave, Step::Rest(Next::Again)]);
        script.pass = Pass::new(Ready::NONE, 0);
        script.expect(&[Step::Handshake, Step::Rest(Next::Idle)]);
    }
}

#[test]
fn the_callback_for_the_handshake_comes_before_data_and_before_the_end() {
    let mut state = open();
    state.wire.insert(Wire::TLS);
    state.delivery.reader = Some(Kind::Lines);
    state.duties.insert(Duties::UPGRADED);
    let mut script = Script::new(state, Ready::READ);
    script.expect(&[Step::TellUpgraded]);
    script.state.duties.remove(Duties::UPGRADED);
    script.expect(&[Step::Enter, Step::Deliver]);

    assert!(state.end(Manner::Graceful));
    let mut script = Script::new(state, Ready::NONE);
    script.expect(&[Step::TellUpgraded]);
    script.state.duties.remove(Duties::UPGRADED);
    script.expect(&[Step::Disconnect]);
}

#[test]
fn during_the_handshake_input_is_watched_without_a_reader() {
    let mut state = open();
    assert_eq!(state.interest(), (false, false));
    state.phase = Phase::Handshaking;
    assert_eq!(state.interest(), (true, false));
}
