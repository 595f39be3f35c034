//! What is known to be wrong, and not mended yet. A schedule that shows nothing else passes. Each says as narrowly as it
//! can what it is, so that nothing hides behind it, and has a number, so that one that no longer occurs can go.

use std::cell::Cell;

use crate::model::{Face, Objection, Rule, Told};
use crate::program::Kind;

pub struct Known {
    pub what: &'static str,
    is_it: fn(&Objection) -> bool,
}

fn is_clean(told: &Option<Told>) -> bool {
    matches!(told, Some(Told::Closed | Told::Remote))
}

fn sends(objection: &Objection) -> bool {
    objection.face.is_some_and(|face| face.sends())
}

pub const KNOWN: &[Known] = &[
    Known {
        what: "after a reset or a cut that was told, sending says only that the connection is closed",
        is_it: |objection| {
            matches!(objection.rule, Rule::Difference | Rule::ResetAsEnd)
                && sends(objection)
                && objection.told == Some(Told::Closed)
        },
    },
    Known {
        what: "a reset of plain TCP is told as a clean end by whoever reads",
        is_it: |objection| {
            objection.rule == Rule::ResetAsEnd
                && objection.terms.kind == Kind::Tcp
                && !sends(objection)
                && is_clean(&objection.told)
        },
    },
    Known {
        what: "a reset of plain TCP that was told is told as a clean end by whoever reads after that",
        is_it: |objection| {
            objection.rule == Rule::Difference
                && objection.terms.kind == Kind::Tcp
                && !sends(objection)
                && is_clean(&objection.told)
                && objection.before.as_ref().is_some_and(|(_, told)| *told == Told::Reset)
        },
    },
    Known {
        what: "what a reset of plain TCP destroyed is missing, and whoever asked was told a clean end",
        is_it: |objection| {
            objection.rule == Rule::Lost
                && objection.terms.kind == Kind::Tcp
                && objection.told == Some(Told::Closed)
                && objection.peer_breaks
        },
    },
    Known {
        what: "a reset of plain TCP is told as such after a reader was told a clean end",
        is_it: |objection| {
            objection.rule == Rule::Difference
                && objection.terms.kind == Kind::Tcp
                && !sends(objection)
                && objection.told == Some(Told::Reset)
                && objection.before.as_ref().is_some_and(|(face, told)| !face.sends() && *told == Told::Closed)
        },
    },
    Known {
        what: "after a line that was too long recv_to_end and std's readers tell a clean end",
        is_it: |objection| {
            let reads = matches!(objection.face, Some(Face::RecvToEnd | Face::StdRead | Face::BufRead));
            let after = objection.before.as_ref().is_some_and(|(_, told)| *told == Told::TooLong);
            // Nobody may have been told of the line.
            let lost = matches!(objection.rule, Rule::Lost | Rule::ResetAsEnd) && objection.terms.short_lines;
            reads && objection.told == Some(Told::Closed) && ((objection.rule == Rule::Difference && after) || lost)
        },
    },
    Known {
        what: "a reset of TLS that sending has told is told as a missing end mark by whoever reads",
        is_it: |objection| {
            objection.rule == Rule::Difference
                && objection.terms.kind == Kind::Tls
                && !sends(objection)
                && objection.told == Some(Told::CutOff)
                && objection.before.as_ref().is_some_and(|(face, told)| face.sends() && *told == Told::Reset)
        },
    },
    Known {
        what: "an end callback that is set after the end was told is called when something else wakes the connection",
        is_it: |objection| objection.rule == Rule::Grammar && objection.face == Some(Face::EndCb) && objection.late,
    },
    Known {
        what: "the end is told to its callback before a paused reader has everything, if another has run into it",
        is_it: |objection| objection.rule == Rule::Grammar && objection.face != Some(Face::EndCb) && objection.late,
    },
    Known {
        what: "two wrapped ends that are closed with something queued wait for each other until linger is over",
        is_it: |objection| {
            objection.rule == Rule::Leak
                && matches!(objection.terms.kind, Kind::Pipes | Kind::Wrapped)
                && objection.both_local
        },
    },
];

/// The first objection that is none of them.
pub fn unknown(objections: &[Objection]) -> Option<&Objection> {
    objections.iter().find(|objection| !KNOWN.iter().any(|known| (known.is_it)(objection)))
}

/// In how many schedules each was seen.
pub struct Seen([Cell<u64>; KNOWN.len()]);

impl Seen {
    pub fn new() -> Seen {
        Seen(Default::default())
    }

    pub fn count(&self, objections: &[Objection]) {
        for (known, seen) in KNOWN.iter().zip(&self.0) {
            if objections.iter().any(known.is_it) {
                seen.set(seen.get() + 1);
            }
        }
    }

    pub fn report(&self) {
        for (known, seen) in KNOWN.iter().zip(&self.0) {
            match seen.get() {
                0 => println!("known, and not seen this time (if it is mended, take it away): {}", known.what),
                times => println!("known, seen in {times} schedules: {}", known.what),
            }
        }
    }
}
