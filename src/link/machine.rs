//! The state of a link, as a value: no descriptor, no main loop, no clock. It is told what happened and when, and says what to do.
//!
//! ```text
//!            ┌─────────────── no address, nobody has the name ──────────────┐
//!            ▼                                                             │
//!   Offline / Searching ── an address, the name ──▶ Connecting ── up ──▶ Up │
//!            ▲                                       ▲    │              │ │
//!            │                                timer, │    │ fails        │ ends
//!            └──── no address, nobody has the name ──┤    ▼              ▼ │
//!                                               kick └─ Waiting ◀────────┴─┘
//!
//!   close, the last handle, fails for good, a limit: Over
//! ```

use std::time::{Duration, Instant};

use super::backoff::Backoff;

/// Kicks shorten a wait to a random time up to this one: the others on the network have been kicked as well.
const AFTER_KICK: Duration = Duration::from_millis(250);

/// The least time between two kicks.
const BETWEEN_KICKS: Duration = Duration::from_secs(1);

/// The longest first wait for a service that was seen to move while its connection stood.
const AFTER_MOVE: Duration = Duration::from_millis(100);

/// The options that matter here.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) stable_after: Duration,
    pub(super) give_up_after: Option<Duration>,
    pub(super) attempts: Option<u32>,
    pub(super) heartbeat: Option<Duration>,
    /// The target is reached by the network.
    pub(super) is_remote: bool,
    /// Avahi says whether the target is there.
    pub(super) is_service: bool,
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The loop runs.
    Start,
    /// The connection stands: the program is about to be called.
    Connected,
    /// The program has taken it over.
    Taken,
    /// The try has failed, or the program has refused the connection.
    Failed {
        for_good: bool,
    },
    /// Nobody has the name of the service.
    Missing,
    /// The connection that was up has ended.
    Ended,
    Kick(Kick),
    Timer,
    Close,
}

/// Something that makes another try, or a look at the connection, worthwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kick {
    /// The addresses or the routes have changed. There is an address that others can reach, or none.
    Network { has_address: bool },
    /// The machine has slept.
    Resumed,
    /// A service of that name has appeared.
    Seen,
    /// It has another host or port.
    Moved,
    /// The last service of that name has gone.
    Gone,
    /// The program asks for a try.
    Retry,
}

/// Something to do, in the order in which it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Start a try.
    Connect,
    /// Cancel the one that goes on.
    Cancel,
    /// Tell the program that a try has failed, or that the connection has ended.
    Down(Fall),
    /// Tell the program that there will be no more.
    GiveUp,
    /// See whether the connection is alive.
    Check,
    /// Call the heartbeat.
    Beat,
}

/// A try that has failed, or a connection that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fall {
    pub(super) was_up: Option<Duration>,
    pub(super) attempt: u32,
    pub(super) next: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The loop has not run yet.
    Ready,
    Connecting,
    /// The program is being called.
    Introducing,
    Up {
        since: Instant,
    },
    Waiting {
        until: Instant,
    },
    Offline,
    Searching,
    Over,
}

pub(super) struct Machine {
    settings: Settings,
    phase: Phase,
    backoff: Backoff,
    /// Failed tries in a row.
    tries: u32,
    /// Since when there has been no connection that lasted.
    down_since: Instant,
    /// When the last connection ended that was up.
    ended: Option<Instant>,
    has_address: bool,
    /// Somebody has the name of the service.
    is_there: bool,
    /// The service has moved or gone while the connection stood.
    has_moved: bool,
    /// When the heartbeat is due.
    beat: Option<Instant>,
    kicked: Option<Instant>,
}

impl Machine {
    pub(super) fn new(settings: Settings, backoff: Backoff, has_address: bool, now: Instant) -> Machine {
        Machine {
            settings,
            phase: Phase::Ready,
            backoff,
            tries: 0,
            down_since: now,
            ended: None,
            has_address,
            is_there: false,
            has_moved: false,
            beat: None,
            kicked: None,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase {
            Phase::Ready => self.obstacle().unwrap_or(Phase::Connecting),
            phase => phase,
        }
    }

    /// When [`Event::Timer`] is due.
    pub(super) fn timer(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting { until } => Some(self.limit().map_or(until, |limit| limit.min(until))),
            Phase::Connecting | Phase::Offline | Phase::Searching => self.limit(),
            Phase::Up { .. } => self.beat,
            Phase::Ready | Phase::Introducing | Phase::Over => None,
        }
    }

    pub(super) fn give_up_after(&self) -> Option<Duration> {
        self.settings.give_up_after
    }

    /// Something has happened. What is to be done about it is appended to `out`.
    pub(super) fn handle(&mut self, event: Event, now: Instant, out: &mut Vec<Action>) {
        use Phase::*;
        match (event, self.phase) {
            (_, Over) => {}
            (Event::Close, phase) => {
                if phase == Connecting {
                    out.push(Action::Cancel);
                }
                self.phase = Over;
            }
            (Event::Start, Ready) => {
                self.down_since = now;
                self.go(out);
            }
            (Event::Connected, Connecting) => self.phase = Introducing,
            (Event::Taken, Introducing) => {
                self.phase = Up { since: now };
                self.has_moved = false;
                self.beat = self.settings.heartbeat.and_then(|every| now.checked_add(every));
            }
            (Event::Failed { for_good }, Connecting) => self.failed(None, for_good, now, out),
            (Event::Failed { .. }, Introducing) => self.failed(None, false, now, out),
            (Event::Missing, Connecting) if !self.is_there && self.settings.is_service => {
                self.phase = self.obstacle().unwrap_or(Searching);
            }
            (Event::Missing, Connecting) => self.failed(None, false, now, out),
            (Event::Ended, Up { since }) => self.failed(Some(now - since), false, now, out),
            (Event::Kick(kick), _) => self.kick(kick, now, out),
            (Event::Timer, _) => self.time_passed(now, out),
            _ => {}
        }
    }

    /// The first obstacle to a try that lies here, if there is any.
    fn obstacle(&self) -> Option<Phase> {
        if self.settings.is_service && self.is_there {
            // Wherever it is, this machine can see it.
            None
        } else if self.settings.is_remote && !self.has_address {
            Some(Phase::Offline)
        } else {
            self.settings.is_service.then_some(Phase::Searching)
        }
    }

    /// Tries to connect, if that makes any sense.
    fn go(&mut self, out: &mut Vec<Action>) {
        self.phase = self.obstacle().unwrap_or(Phase::Connecting);
        if self.phase == Phase::Connecting {
            out.push(Action::Connect);
        }
    }

    fn limit(&self) -> Option<Instant> {
        self.down_since.checked_add(self.settings.give_up_after?)
    }

    fn is_late(&self, now: Instant) -> bool {
        self.limit().is_some_and(|limit| limit <= now)
    }

    fn failed(&mut self, was_up: Option<Duration>, for_good: bool, now: Instant, out: &mut Vec<Action>) {
        if was_up.is_some_and(|time| time >= self.settings.stable_after) {
            self.backoff.restart();
            self.tries = 0;
            self.down_since = now;
        } else {
            self.tries = self.tries.saturating_add(1);
        }
        if was_up.is_some() {
            self.ended = Some(now);
        } else if self.ended.is_some_and(|ended| self.backoff.is_restart(now - ended)) {
            self.backoff.hold();
        }
        self.beat = None;
        let has_moved = std::mem::take(&mut self.has_moved);
        let is_last = self.settings.attempts.is_some_and(|most| self.tries >= most) || self.is_late(now);
        let fall = Fall { was_up, attempt: self.tries, next: None };
        if for_good || is_last {
            self.phase = Phase::Over;
            out.extend([Action::Down(fall), Action::GiveUp]);
            return;
        }
        let wait = self.backoff.draw();
        let wait = if has_moved { wait.min(self.backoff.up_to(AFTER_MOVE)) } else { wait };
        if let Some(obstacle) = self.obstacle() {
            self.phase = obstacle;
            out.push(Action::Down(fall));
        } else {
            let until = later(now, wait);
            self.phase = Phase::Waiting { until };
            let next = Some(wait).filter(|_| self.limit().is_none_or(|limit| until < limit));
            out.push(Action::Down(Fall { next, ..fall }));
        }
    }

    fn kick(&mut self, kick: Kick, now: Instant, out: &mut Vec<Action>) {
        match kick {
            Kick::Network { has_address } => self.has_address = has_address,
            Kick::Seen => self.is_there = true,
            Kick::Gone => self.is_there = false,
            Kick::Resumed | Kick::Moved | Kick::Retry => {}
        }
        let of_service = matches!(kick, Kick::Seen | Kick::Moved | Kick::Gone);
        match self.phase {
            Phase::Up { .. } if of_service => self.has_moved = true,
            Phase::Up { .. } if kick != Kick::Retry => {
                out.push(Action::Check);
                if self.beat.is_some() {
                    self.beat = Some(now);
                }
            }
            Phase::Connecting => {
                let is_seen_by_the_try = matches!(kick, Kick::Seen | Kick::Gone);
                if !is_seen_by_the_try && (kick == Kick::Retry || self.is_kick(now)) {
                    self.backoff.restart();
                    out.push(Action::Cancel);
                    self.go(out);
                }
            }
            Phase::Waiting { until } if kick != Kick::Gone => {
                let soon = self.backoff.up_to(AFTER_KICK);
                let earliest = match self.kicked.filter(|_| kick != Kick::Retry) {
                    Some(before) => now.max(later(before, BETWEEN_KICKS)),
                    None => now,
                };
                let sooner = later(earliest, soon);
                if sooner < until || earliest == now {
                    self.backoff.restart();
                    self.kicked = Some(earliest);
                    self.phase = Phase::Waiting { until: until.min(sooner) };
                }
            }
            Phase::Offline if kick == Kick::Retry => {
                self.phase = Phase::Connecting;
                out.push(Action::Connect);
            }
            Phase::Offline | Phase::Searching => {
                self.backoff.restart();
                self.go(out);
            }
            _ => {}
        }
    }

    /// Returns whether enough time has passed since the last kick.
    fn is_kick(&mut self, now: Instant) -> bool {
        let counts = self.kicked.is_none_or(|before| later(before, BETWEEN_KICKS) <= now);
        if counts {
            self.kicked = Some(now);
        }
        counts
    }

    fn time_passed(&mut self, now: Instant, out: &mut Vec<Action>) {
        let waits = matches!(self.phase, Phase::Waiting { .. } | Phase::Offline | Phase::Searching);
        match self.phase {
            Phase::Connecting if self.is_late(now) => {
                self.tries = self.tries.saturating_add(1);
                let fall = Fall { was_up: None, attempt: self.tries, next: None };
                self.phase = Phase::Over;
                out.extend([Action::Cancel, Action::Down(fall), Action::GiveUp]);
            }
            _ if waits && self.is_late(now) => {
                self.phase = Phase::Over;
                out.push(Action::GiveUp);
            }
            Phase::Waiting { until } if until <= now => self.go(out),
            Phase::Up { .. } if self.beat.is_some_and(|due| due <= now) => {
                self.beat = self.settings.heartbeat.and_then(|every| now.checked_add(every));
                out.push(Action::Beat);
            }
            _ => {}
        }
    }
}

/// A time that lies too far ahead is never reached: a century will do.
fn later(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or_else(|| now + Duration::from_secs(100 * 365 * 24 * 3600))
}

#[cfg(test)]
mod tests;
