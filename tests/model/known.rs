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

pub const KNOWN: &[Known] = &[];

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
