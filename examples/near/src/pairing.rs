//! One pairing, from the first question to the end, as a state machine: packets and the person's answers go in, packets and the
//! result come out. No socket and no clock is touched here.
//!
//! The strong way is a password-authenticated key exchange: the six digits are the password, and the fingerprints of both keys, as
//! each side sees them on this very connection, are the identities. Somebody in the middle has two connections, so the keys differ
//! on both sides even with the right digits, and has one guess for each code shown.

use std::time::{Duration, Instant};

use network::tls::Fingerprint;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac};
use spake2::{Ed25519Group, Identity, Password, Spake2};

use crate::near::PairingState;
use crate::packet::{Pair, Step};

/// For a request to be answered, and for a code to be typed.
pub const REQUEST: Duration = Duration::from_secs(30);
pub const TYPING: Duration = Duration::from_secs(60);
const TRIES: u8 = 3;
/// How far the clocks of two devices may be apart, in seconds.
const CLOCKS: u64 = 30 * 60;

/// What both sides know of the connection.
#[derive(Clone)]
pub struct Ends {
    pub ours: Fingerprint,
    pub theirs: Fingerprint,
    pub our_key: Vec<u8>,
    pub their_key: Vec<u8>,
    /// The version of the protocol.
    pub version: u64,
}

pub enum Act {
    Send(Pair),
    /// The state is another one.
    Changed,
    /// It is done, strong or not, or why it is not.
    Ended(Result<bool, String>),
}

enum Phase {
    /// Weak: who has said yes.
    Comparing {
        we: bool,
        they: bool,
    },
    /// Strong, asker.
    WaitsForShow,
    Entering {
        wrong: bool,
    },
    WaitsForB(Spake2<Ed25519Group>, Vec<u8>),
    WaitsForCb(hmac::Key, Vec<u8>),
    /// Strong, asked.
    Asked,
    Showing,
    WaitsForCa(hmac::Key, Vec<u8>),
    /// Both have proved that they know the digits.
    WaitsForConsent,
    Over,
}

pub struct Pairing {
    ends: Ends,
    asker: bool,
    strong: bool,
    phase: Phase,
    code: String,
    tries_left: u8,
    deadline: Instant,
}

impl Pairing {
    /// Asks. `now` is in seconds since 1970.
    pub fn ask(ends: Ends, strong: bool, now: u64) -> (Pairing, Vec<Act>) {
        let timestamp = (ends.version >= 8 || strong).then_some(now);
        let code = comparison(&ends, timestamp);
        let phase = if strong { Phase::WaitsForShow } else { Phase::Comparing { we: false, they: false } };
        let pairing = Pairing::new(ends, true, strong, phase, code);
        (pairing, vec![send(true, timestamp, strong.then_some(Step::Begin)), Act::Changed])
    }

    /// Is asked. Says what is wrong with the request.
    pub fn asked(ends: Ends, request: &Pair, now: u64) -> Result<Pairing, &'static str> {
        let strong = request.near == Some(Step::Begin);
        if !request.pair || request.near.is_some() && !strong {
            return Err("this is no request");
        }
        match request.timestamp {
            Some(then) if now.abs_diff(then) > CLOCKS => return Err("the clocks of the two devices differ too much"),
            None if ends.version >= 8 => return Err("a request without a time"),
            _ => {}
        }
        let timestamp = request.timestamp.filter(|_| ends.version >= 8);
        let code = comparison(&ends, timestamp);
        let phase = if strong { Phase::Asked } else { Phase::Comparing { we: false, they: true } };
        Ok(Pairing::new(ends, false, strong, phase, code))
    }

    fn new(ends: Ends, asker: bool, strong: bool, phase: Phase, code: String) -> Pairing {
        let deadline = Instant::now() + REQUEST;
        Pairing { ends, asker, strong, phase, code, tries_left: TRIES, deadline }
    }

    pub fn state(&self, now: Instant) -> PairingState {
        let seconds_left = self.deadline.saturating_duration_since(now).as_secs() as u32;
        let code = Some(self.code.clone());
        match self.phase {
            Phase::Comparing { they: true, .. } if !self.asker => {
                PairingState::AskedByThem { seconds_left, near: false, code }
            }
            Phase::Comparing { we, .. } => PairingState::WaitingForThem { code: code.filter(|_| !we) },
            Phase::Asked => PairingState::AskedByThem { seconds_left, near: true, code: None },
            Phase::WaitsForShow => PairingState::WaitingForThem { code: None },
            Phase::Entering { wrong } => PairingState::EnterCode { tries_left: self.tries_left, wrong },
            Phase::Showing => PairingState::ShowCode { digits: self.code.clone() },
            _ => PairingState::Checking,
        }
    }

    /// Ends the pairing if its time is over.
    pub fn tick(&mut self, now: Instant) -> Vec<Act> {
        if now < self.deadline { Vec::new() } else { self.refuse("The time for pairing is over") }
    }

    pub fn cancel(&mut self) -> Vec<Act> {
        self.refuse("Cancelled")
    }

    /// The answer of the person.
    pub fn answer(&mut self, yes: bool) -> Vec<Act> {
        if !yes {
            return self.refuse("Rejected");
        }
        match self.phase {
            Phase::Comparing { we: false, they } => {
                self.phase = Phase::Comparing { we: true, they };
                let mut acts = if self.asker { vec![Act::Changed] } else { vec![send(true, None, None)] };
                acts.extend(they.then(|| self.done()));
                acts
            }
            Phase::Asked => self.show(Step::Show),
            _ => Vec::new(),
        }
    }

    /// The digits that the person has typed.
    pub fn enter(&mut self, digits: &str) -> Vec<Act> {
        let digits: String = digits.chars().filter(|c| !c.is_whitespace()).collect();
        if !matches!(self.phase, Phase::Entering { .. }) {
            return Vec::new();
        }
        let (asker, asked) = self.identities();
        let (state, a) = Spake2::<Ed25519Group>::start_a(&Password::new(digits), &asker, &asked);
        self.phase = Phase::WaitsForB(state, a.clone());
        self.deadline = Instant::now() + REQUEST;
        vec![send(true, None, Some(Step::A(a))), Act::Changed]
    }

    /// A packet from the other side.
    pub fn packet(&mut self, packet: Pair) -> Vec<Act> {
        if !packet.pair {
            self.phase = Phase::Over;
            return vec![Act::Ended(Err("The other side has rejected it".into()))];
        }
        match (std::mem::replace(&mut self.phase, Phase::Over), packet.near) {
            (Phase::Comparing { we, they: false }, None) => {
                self.phase = Phase::Comparing { we, they: true };
                if we { vec![self.done()] } else { vec![Act::Changed] }
            }
            (Phase::WaitsForShow, Some(Step::Show)) => self.entering(false),
            (Phase::WaitsForB(state, a), Some(Step::B(b))) => {
                let Ok(key) = state.finish(&b) else { return self.refuse("A damaged message") };
                let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
                let both = [a, b].concat();
                let tag = hmac::sign(&key, &[b"asker", &both[..]].concat());
                self.phase = Phase::WaitsForCb(key, both);
                vec![send(true, None, Some(Step::Ca(tag.as_ref().into())))]
            }
            (Phase::WaitsForCb(key, both), Some(Step::Cb(tag))) => {
                if hmac::verify(&key, &[b"asked", &both[..]].concat(), &tag).is_err() {
                    return self.refuse("The other side does not know the code: somebody may be in between");
                }
                self.phase = Phase::WaitsForConsent;
                vec![send(true, None, None)]
            }
            (Phase::WaitsForCb(..), Some(Step::Wrong(_))) => {
                // What they say about it is not what counts.
                self.tries_left -= 1;
                if self.tries_left == 0 { self.refuse("The code was wrong three times") } else { self.entering(true) }
            }
            (Phase::Showing, Some(Step::A(a))) => {
                let (asker, asked) = self.identities();
                let (state, b) = Spake2::<Ed25519Group>::start_b(&Password::new(&self.code), &asker, &asked);
                let Ok(key) = state.finish(&a) else { return self.refuse("A damaged message") };
                let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
                self.phase = Phase::WaitsForCa(key, [a, b.clone()].concat());
                self.deadline = Instant::now() + REQUEST;
                vec![send(true, None, Some(Step::B(b))), Act::Changed]
            }
            (Phase::WaitsForCa(key, both), Some(Step::Ca(tag))) => {
                if hmac::verify(&key, &[b"asker", &both[..]].concat(), &tag).is_ok() {
                    // Only now: with an earlier tag, digits could be tried without being seen.
                    let tag = hmac::sign(&key, &[b"asked", &both[..]].concat());
                    self.phase = Phase::WaitsForConsent;
                    return vec![send(true, None, Some(Step::Cb(tag.as_ref().into())))];
                }
                self.tries_left -= 1;
                if self.tries_left > 0 {
                    return self.show(Step::Wrong(self.tries_left));
                }
                let mut acts = vec![send(true, None, Some(Step::Wrong(0)))];
                acts.extend(self.refuse("The code was wrong three times"));
                acts
            }
            (Phase::WaitsForConsent, None) => {
                let mut acts = if self.asker { Vec::new() } else { vec![send(true, None, None)] };
                acts.push(self.done());
                acts
            }
            _ => self.refuse(
                "The other side does not keep to the protocol: it may be another program, or somebody in between",
            ),
        }
    }

    fn entering(&mut self, wrong: bool) -> Vec<Act> {
        self.phase = Phase::Entering { wrong };
        self.deadline = Instant::now() + TYPING;
        vec![Act::Changed]
    }

    fn show(&mut self, step: Step) -> Vec<Act> {
        let Some(digits) = digits() else { return self.refuse("The system has no random numbers") };
        self.code = digits;
        self.phase = Phase::Showing;
        self.deadline = Instant::now() + TYPING;
        vec![send(true, None, Some(step)), Act::Changed]
    }

    fn done(&mut self) -> Act {
        self.phase = Phase::Over;
        Act::Ended(Ok(self.strong))
    }

    fn refuse(&mut self, why: &str) -> Vec<Act> {
        self.phase = Phase::Over;
        vec![send(false, None, None), Act::Ended(Err(why.into()))]
    }

    fn identities(&self) -> (Identity, Identity) {
        let (ours, theirs) = (Identity::new(self.ends.ours.as_bytes()), Identity::new(self.ends.theirs.as_bytes()));
        if self.asker { (ours, theirs) } else { (theirs, ours) }
    }
}

fn send(pair: bool, timestamp: Option<u64>, near: Option<Step>) -> Act {
    Act::Send(Pair { pair, timestamp, near })
}

/// The code of the weak way: eight hexadecimal digits of both keys, and of the request's time from version 8 on.
fn comparison(ends: &Ends, timestamp: Option<u64>) -> String {
    let (larger, smaller) =
        (ends.our_key.as_slice().max(&ends.their_key), ends.our_key.as_slice().min(&ends.their_key));
    let mut hashed = [larger, smaller].concat();
    if let Some(timestamp) = timestamp.filter(|_| ends.version >= 8) {
        hashed.extend(timestamp.to_string().bytes());
    }
    let hash = digest::digest(&digest::SHA256, &hashed);
    hash.as_ref()[..4].iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Six random digits, all equally likely.
fn digits() -> Option<String> {
    loop {
        let mut bytes = [0; 4];
        SystemRandom::new().fill(&mut bytes).ok()?;
        let number = u32::from_le_bytes(bytes);
        // The rest of the range would favour small numbers.
        if number < u32::MAX - u32::MAX % 1_000_000 {
            return Some(format!("{:06}", number % 1_000_000));
        }
    }
}
