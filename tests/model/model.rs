//! What the two sides of a connection may see, and what they must. The model is told what happens, in order, and objects.
//! It knows no socket: its own tests feed it by hand.

pub use crate::events::{Event, Face, SIDES, Side, Told, content};
use crate::program::Kind;

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// What was delivered is not what was sent, next in order.
    Content,
    /// Not all has arrived, and whoever missed it was told of a clean end.
    Lost,
    /// Callbacks: data, then the end once, then nothing; nothing within a call; nothing that was taken away.
    Grammar,
    /// An end was told that nobody had caused.
    Lie,
    /// A reset or a cut was told as another end.
    ResetAsEnd,
    /// Two faces told different ends of the same event.
    Difference,
    /// Something that must come never did.
    Hang,
    /// Something was left behind.
    Leak,
    /// A panic that no program wanted.
    Panic,
}

impl Rule {
    /// Is the place where it happened no good for further schedules?
    pub fn leaves_something(self) -> bool {
        matches!(self, Rule::Hang | Rule::Leak | Rule::Panic)
    }
}

/// What the model has to say against a schedule.
#[derive(Clone, Debug)]
pub struct Objection {
    pub rule: Rule,
    pub side: Side,
    pub face: Option<Face>,
    pub told: Option<Told>,
    pub text: String,
}

/// What is known of one side.
#[derive(Default)]
struct Party {
    accepted: usize,
    got: usize,
    /// Its peer may see a clean end.
    ends: bool,
    /// Its peer may see a reset, or a cut.
    breaks: bool,
    /// Its peer must see a reset, or a cut, unless it had ended before.
    must_break: bool,
    /// What is queued may be discarded.
    may_lose: bool,
    shut: bool,
    /// It was ended here.
    local: bool,
    failed: bool,
    panicked: bool,
    dropped: bool,
    raw: bool,
    paused: bool,
    disconnect_cb: bool,
    input_ended: bool,
    reader_after_end: bool,
    /// It was paused then.
    ended_paused: bool,
    /// Another end callback was set after that.
    end_cb_late: bool,
    disconnected: Option<Told>,
    told: Vec<(Face, Told)>,
    /// What the connection has ended with: nothing else may be told from then on.
    last_word: Option<(Face, Told)>,
}

/// How the connection was set up, as far as it changes what may be seen.
#[derive(Clone, Copy, Default, Debug)]
pub struct Terms {
    pub kind: Kind,
    /// Closing does not wait for what is queued.
    pub no_linger: bool,
    pub short_lines: bool,
    /// Is `B` no socket of ours?
    pub raw_b: bool,
}

#[derive(Default)]
pub struct Model {
    terms: Terms,
    parties: [Party; 2],
    pub objections: Vec<Objection>,
    /// What has happened, for whoever reads the failure.
    pub trace: Vec<String>,
    /// What was got since, by one face.
    merging: Option<(Side, Face, usize)>,
}

impl Model {
    pub fn new(terms: Terms) -> Model {
        let mut parties = [Party::default(), Party::default()];
        parties[1].raw = terms.raw_b;
        Model { terms, parties, ..Model::default() }
    }

    fn party(&mut self, side: Side) -> &mut Party {
        &mut self.parties[side as usize]
    }

    fn look(&self, side: Side) -> &Party {
        &self.parties[side as usize]
    }

    /// How much of the content this side has sent.
    pub fn accepted(&self, side: Side) -> usize {
        self.look(side).accepted
    }

    /// Has this side been told of the end by its callback?
    pub fn is_disconnected(&self, side: Side) -> bool {
        self.look(side).disconnected.is_some()
    }

    pub fn has_panicked(&self, side: Side) -> bool {
        self.look(side).panicked
    }

    pub fn object(&mut self, rule: Rule, side: Side, face: Option<Face>, told: Option<Told>, text: String) {
        self.end_merging();
        self.trace.push(format!("{side}: !! {rule:?}: {text}"));
        let objection = Objection { rule, side, face, told, text };
        self.objections.push(objection);
    }

    pub fn see(&mut self, side: Side, event: &Event<'_>) {
        self.note(side, event);
        match event {
            Event::Accepted(count) => self.party(side).accepted += count,
            Event::Got(face, bytes) => self.got_bytes(side, *face, bytes),
            Event::Told(face, told, open) => self.was_told(side, *face, told, *open),
            Event::Called { face, within_call, is_set } => self.called(side, *face, *within_call, *is_set),
            Event::Paused(paused) => self.party(side).paused = *paused,
            Event::DisconnectCb(set) => self.party(side).disconnect_cb = *set,
            Event::Reader => self.party(side).reader_after_end = true,
            Event::HalfOpen => {
                let party = self.party(side);
                party.end_cb_late = party.input_ended;
            }
            Event::ShutdownWrite => {
                let party = self.party(side);
                (party.shut, party.ends) = (true, true);
            }
            Event::Close => self.ends_here(side, false),
            Event::Abort { open: true, resets } => {
                let party = self.party(side);
                party.must_break |= *resets && !party.ends;
                self.ends_here(side, true);
            }
            Event::Abort { open: false, .. } => {
                let party = self.party(side);
                (party.may_lose, party.breaks) = (true, true);
            }
            Event::Drop { open, kept } => self.dropped(side, *open && !kept),
            Event::Failed => {
                self.ends_here(side, false);
                self.party(side).failed = true;
            }
            Event::Panicked => {
                self.ends_here(side, true);
                self.party(side).panicked = true;
            }
            Event::RawShutdown => self.party(side).ends = true,
            Event::RawClose { unread } => {
                let party = self.party(side);
                party.must_break |= *unread && !party.ends;
                // What comes for it from now on is answered by a reset.
                (party.breaks, party.local) = (true, true);
                party.ends |= !party.must_break;
            }
            Event::RawReset => self.breaks_off(side),
            Event::Cut => self.breaks_off(side),
        }
    }

    fn note(&mut self, side: Side, event: &Event<'_>) {
        if let Event::Got(face, bytes) = event {
            if let Some((who, by, count)) = &mut self.merging
                && (*who, *by) == (side, *face)
            {
                *count += bytes.len();
                return;
            }
            self.end_merging();
            self.merging = Some((side, *face, bytes.len()));
            return;
        }
        if matches!(event, Event::Called { face, .. } if face.reads()) {
            return;
        }
        self.end_merging();
        let text = match event {
            Event::Told(face, told, true) => format!("told {told:?} by {face:?}, still open"),
            Event::Told(face, told, false) => format!("told {told:?} by {face:?}"),
            Event::Called { face, .. } => format!("{face:?} is called"),
            other => format!("{other:?}"),
        };
        self.trace.push(format!("{side}: {text}"));
    }

    fn end_merging(&mut self) {
        if let Some((side, face, count)) = self.merging.take() {
            self.trace.push(format!("{side}: got {count} bytes by {face:?}"));
        }
    }

    /// Closed, or dropped, on this side. At once?
    fn ends_here(&mut self, side: Side, at_once: bool) {
        let hard = at_once || self.terms.no_linger;
        let party = self.party(side);
        (party.local, party.ends) = (true, true);
        party.may_lose |= hard;
        party.breaks |= hard;
    }

    /// If it goes on it may end at any time, without a word.
    fn dropped(&mut self, side: Side, ends: bool) {
        if ends {
            self.ends_here(side, false);
        }
        let no_linger = self.terms.no_linger;
        let party = self.party(side);
        (party.dropped, party.ends) = (true, true);
        party.may_lose |= no_linger;
        party.breaks |= no_linger;
    }

    fn breaks_off(&mut self, side: Side) {
        let party = self.party(side);
        party.must_break |= !party.ends;
        (party.breaks, party.local, party.raw) = (true, true, true);
    }

    fn got_bytes(&mut self, side: Side, face: Face, bytes: &[u8]) {
        let from = side.other();
        let at = self.look(side).got;
        let accepted = self.look(from).accepted;
        let expected = content(from).get(at..at + bytes.len());
        if at + bytes.len() > accepted {
            let text = format!("{} bytes after {at}, and only {accepted} were sent", bytes.len());
            self.object(Rule::Content, side, Some(face), None, text);
        } else if expected != Some(bytes) {
            let same = expected.map_or(0, |expected| expected.iter().zip(bytes).take_while(|(a, b)| a == b).count());
            let text = format!("other bytes than were sent, from {} on", at + same);
            self.object(Rule::Content, side, Some(face), None, text);
        }
        self.party(side).got += bytes.len();
    }

    fn called(&mut self, side: Side, face: Face, within_call: bool, is_set: bool) {
        let party = self.look(side);
        let fault = if within_call {
            Some("it was called within a method call")
        } else if !is_set {
            Some("it had been taken away")
        } else if face == Face::FlushAsync {
            None
        } else if party.disconnected.is_some() {
            Some("the end had been told")
        } else if party.panicked {
            Some("a callback had panicked")
        } else if face == Face::DisconnectCb {
            None
        } else if party.local {
            Some("it had been closed on this side")
        } else if party.input_ended && !party.reader_after_end && face != Face::DrainCb {
            Some("the end of the input had been told")
        } else if party.paused && !matches!(face, Face::EndCb | Face::DrainCb) {
            Some("it was paused")
        } else {
            None
        };
        let is_callback = face.is_callback();
        let party = self.look(side);
        if let Some(fault) = fault.filter(|_| is_callback && !party.raw) {
            self.object(Rule::Grammar, side, Some(face), None, format!("{face:?} was called: {fault}"));
        }
        if face == Face::EndCb {
            let party = self.party(side);
            (party.input_ended, party.reader_after_end) = (true, false);
            party.ended_paused = party.paused;
        }
    }

    fn was_told(&mut self, side: Side, face: Face, told: &Told, open: bool) {
        self.judge_truth(side, face, told);
        self.judge_agreement(side, face, told);
        let party = self.party(side);
        party.told.push((face, told.clone()));
        if face == Face::DisconnectCb {
            party.disconnected = Some(told.clone());
        }
        party.ends |= !open;
        if !open && party.last_word.is_none() && !(face.sends() && *told == Told::Closed) {
            party.last_word = Some((face, told.clone()));
        }
        if face == Face::Raw {
            // It may close right after.
            self.judge_completeness(side);
        }
    }

    /// Has anybody caused this end?
    fn judge_truth(&mut self, side: Side, face: Face, told: &Told) {
        let (here, there) = (self.look(side), self.look(side.other()));
        let may_be_own = here.local || here.panicked;
        // Without more ado a connection of ours answers an end by its own.
        let there_ends = there.ends || self.terms.short_lines || there.must_break || (!there.raw && here.ends);
        // A line over the limit breaks the connection off, when the replies are out.
        let there_refuses = self.terms.short_lines && !there.raw;
        let there_breaks = there.breaks || there_refuses || (self.terms.no_linger && there_ends);
        let tls = self.terms.kind == Kind::Tls;
        let caused = match told {
            Told::Remote => there_ends,
            // A line that is too long has ended it, and nobody was told yet.
            Told::Closed => there_ends || may_be_own || self.terms.short_lines || (face.sends() && here.shut),
            Told::Local => here.local,
            Told::Reset => there_breaks,
            Told::CutOff => tls && there_breaks,
            Told::Own => here.failed,
            Told::Broken => there_ends,
            Told::TooLong => self.terms.short_lines,
            Told::Other(_) => false,
        };
        let own = may_be_own && !matches!(told, Told::Remote);
        // That nobody takes its data any more is all that a write can know of a TLS connection that was cut.
        let is_cut = tls && face.sends() && *told == Told::Closed;
        let masked = there.must_break && !own && !is_cut && matches!(told, Told::Remote | Told::Closed | Told::Broken);
        if !caused {
            let text = format!("{face:?} told {told:?}, which nobody had caused");
            self.object(Rule::Lie, side, Some(face), Some(told.clone()), text);
        } else if masked && !(face.sends() && here.shut) && face != Face::ShutdownWrite {
            let text = format!("{face:?} told {told:?}, though the peer had broken the connection off");
            self.object(Rule::ResetAsEnd, side, Some(face), Some(told.clone()), text);
        }
    }

    /// Does it agree with what was told before?
    fn judge_agreement(&mut self, side: Side, face: Face, told: &Told) {
        let here = self.look(side);
        if here.disconnected.is_some() && face == Face::DisconnectCb {
            let text = "the end was told a second time".to_owned();
            return self.object(Rule::Grammar, side, Some(face), Some(told.clone()), text);
        }
        let own = here.local || here.failed || here.panicked || (face.sends() && here.shut);
        let broken = |told: &Told| matches!(told, Told::Reset | Told::CutOff);
        // What is left of a connection that was closed here may hold a line that is too long. That is not its end.
        let last_word = here.last_word.clone().filter(|(_, told)| *told != Told::TooLong || !own);
        let before = last_word.or_else(|| {
            // A reset that was told is not taken back, unless this side ends it meanwhile.
            here.told.iter().find(|(_, told)| broken(told)).cloned().filter(|_| !own)
        });
        // Of that one, "closed" is all that is promised. And a line may be too long whatever has ended since.
        let again = |told: &Told| broken(told) && here.told.iter().any(|(_, before)| before == told);
        let judged = face != Face::ShutdownWrite && *told != Told::TooLong && !again(told);
        let Some(before) = before.filter(|_| judged) else { return };
        if !agree(&before.1, told) {
            let text = format!("{face:?} told {told:?}, and {:?} had told {:?}", before.0, before.1);
            self.object(Rule::Difference, side, Some(face), Some(told.clone()), text);
        }
    }

    /// A call says that the system has everything.
    pub fn flushed(&mut self, side: Side, face: Face, queued: usize) {
        if queued > 0 {
            let text = format!("{face:?} says that everything is out, and {queued} bytes are queued");
            self.object(Rule::Lie, side, Some(face), None, text);
        }
    }

    /// Everything has come to its end.
    pub fn finish(&mut self) {
        self.end_merging();
        for side in [Side::A, Side::B] {
            self.judge_completeness(side);
            let party = self.look(side);
            if party.disconnect_cb && party.disconnected.is_none() && !party.dropped && !party.panicked && !party.raw {
                let text = "the end was never told to the callback".to_owned();
                self.object(Rule::Hang, side, Some(Face::DisconnectCb), None, text);
            }
        }
    }

    /// Whoever was told that the peer has ended, and did not end it, has everything.
    fn judge_completeness(&mut self, side: Side) {
        let (here, there) = (self.look(side), self.look(side.other()));
        let clean = |told: &Told| matches!(told, Told::Remote | Told::Closed);
        let (face, end) = match (&here.disconnected, &here.last_word) {
            (Some(told), _) => (Some(Face::DisconnectCb), Some(told)),
            (None, Some((face, told))) => (Some(*face), Some(told)),
            (None, None) => (None, None),
        };
        let is_clean = end.is_some_and(clean);
        let excused =
            (there.may_lose || self.terms.no_linger) && self.terms.kind != Kind::Tcp && self.terms.kind != Kind::Tls;
        if is_clean && !here.local && !here.panicked && !excused && here.got < there.accepted {
            let text = format!("it got {} of {} bytes, and a clean end", here.got, there.accepted);
            let told = end.cloned();
            if here.dropped {
                return;
            }
            self.object(Rule::Lost, side, face, told, text);
        }
    }
}

/// Can both be said of the same end?
fn agree(before: &Told, after: &Told) -> bool {
    let name = |told: &Told| match told {
        Told::Remote | Told::Local | Told::Closed | Told::Own | Told::Broken => 0,
        Told::Reset => 1,
        Told::CutOff => 2,
        Told::TooLong => 3,
        Told::Other(_) => 4,
    };
    // An error of the program's own is the reason whatever was known before, and what was known stays so.
    let covers = |one: &Told, other: &Told| *one == Told::Own && matches!(other, Told::Reset | Told::CutOff);
    let covered = covers(before, after) || covers(after, before);
    covered || name(before) == name(after)
}
