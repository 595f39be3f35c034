//! Makes a failing program smaller while it fails in the same way.

use std::time::{Duration, Instant};

use crate::program::{Act, Answer, Ending, Program, Settings, Step, Where};

/// Whatever it is by then is small enough.
const LIMIT: Duration = Duration::from_secs(60);

/// The smallest program that was found, for which `fails` holds as it does for the given one.
pub fn shrink(program: &Program, fails: impl Fn(&Program) -> bool) -> Program {
    let started = Instant::now();
    let mut best = program.clone();
    'again: loop {
        for candidate in candidates(&best) {
            if started.elapsed() > LIMIT {
                return best;
            }
            if fails(&candidate) {
                best = candidate;
                continue 'again;
            }
        }
        return best;
    }
}

/// Simpler ones, those with much taken away first.
fn candidates(program: &Program) -> Vec<Program> {
    let mut all = Vec::new();
    let mut add = |change: &dyn Fn(&mut Program)| {
        let mut candidate = program.clone();
        change(&mut candidate);
        if candidate != *program {
            all.push(candidate);
        }
    };
    for side in 0..2 {
        add(&|program| program.answers[side].clear());
    }
    let mut length = program.steps.len() / 2;
    while length > 0 {
        for start in (0..program.steps.len()).step_by(length) {
            let end = (start + length).min(program.steps.len());
            add(&|program| drop(program.steps.drain(start..end)));
        }
        length /= 2;
    }
    for side in 0..2 {
        for at in 0..program.answers[side].len() {
            add(&|program| {
                program.answers[side].remove(at);
            });
            add(&|program| program.answers[side][at] = Answer::Nothing);
            if let Answer::Do(who, act) = program.answers[side][at] {
                for smaller in smaller(act) {
                    add(&|program| program.answers[side][at] = Answer::Do(who, smaller));
                }
            }
        }
    }
    for settings in plainer(program.settings) {
        add(&|program| program.settings = settings);
    }
    add(&|program| program.ending = Ending::Shut);
    for at in 0..program.steps.len() {
        match program.steps[at] {
            Step::Turns(count) => {
                add(&|program| program.steps[at] = Step::Turns(count / 2 + count % 2));
                add(&|program| program.steps[at] = Step::Turns(count - count / 2));
            }
            Step::Do(side, act, place) => {
                add(&|program| program.steps[at] = Step::Do(side, act, Where::Outside));
                for smaller in smaller(act) {
                    add(&|program| program.steps[at] = Step::Do(side, smaller, place));
                }
            }
        }
    }
    all
}

fn plainer(settings: Settings) -> [Settings; 6] {
    [
        Settings { small_buffers: false, ..settings },
        Settings { no_linger: false, ..settings },
        Settings { short_lines: false, ..settings },
        Settings { read_size: None, ..settings },
        Settings { small_queue: false, ..settings },
        Settings { starts_later: false, ..settings },
    ]
}

/// The same with less, or the plainest of its family.
fn smaller(act: Act) -> Vec<Act> {
    let less = |count: usize, act: &dyn Fn(usize) -> Act| -> Vec<Act> {
        [1, count / 10, count / 2].into_iter().filter(|less| (1..count).contains(less)).map(act).collect()
    };
    match act {
        Act::Send(count) => less(count, &Act::Send),
        Act::Sendline | Act::Sendframe => vec![Act::Send(1)],
        Act::SendSome(count) => less(count, &Act::SendSome),
        Act::StdWrite(count) => less(count, &Act::StdWrite),
        Act::SendFuture(count) => less(count, &Act::SendFuture),
        Act::AsyncWrite(count) => less(count, &Act::AsyncWrite),
        Act::Readlines | Act::ReadlinesBytes | Act::Readframes | Act::Rawread(_) => vec![Act::Read],
        Act::Recv(count) => less(count, &Act::Recv),
        Act::RecvInto(_) | Act::RecvLine | Act::RecvFrame | Act::RecvUntil => vec![Act::Recv(1)],
        Act::StdRead(_) | Act::BufRead(_) => vec![Act::Recv(1)],
        Act::RecvExact(count) => less(count, &Act::RecvExact),
        Act::RecvFuture(count) => less(count, &Act::RecvFuture),
        Act::RecvExactFuture(count) => less(count, &Act::RecvExactFuture),
        Act::RawWrite(count) => less(count, &Act::RawWrite),
        Act::RawRead(count) => less(count, &Act::RawRead),
        _ => Vec::new(),
    }
}
