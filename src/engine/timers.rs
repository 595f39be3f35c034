//! Calls for later, and the clock they go by. A pure value: it is told the time, in microseconds of GLib's monotonic clock.
//!
//! Most timers limit a peer's silence, and what a peer has said is only known once the loop has looked. So they go by the
//! *loop's clock*, which all but stands still while the loop is held up: by a slow callback, another source that blocks, SIGSTOP,
//! a paused virtual machine. Timers that measure time for its own sake go by the real clock.

use std::cell::Cell;
use std::collections::BTreeMap;

/// Names one timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimerKey {
    /// By the clock that the timer goes by.
    deadline: i64,
    /// Odd for timers that go by the real clock.
    serial: u64,
}

impl TimerKey {
    fn is_exact(self) -> bool {
        self.serial % 2 == 1
    }
}

/// The longest stretch without a look at the loop that still counts as time in which it ran. Of a longer one only so much
/// counts, and not nothing: in a program that never looks more often, time must go on as well.
const STRETCH: i64 = 100_000;

pub(super) struct Timers<T> {
    /// Timers by the loop's clock.
    fair: BTreeMap<TimerKey, T>,
    /// Timers by the real clock.
    exact: BTreeMap<TimerKey, T>,
    serial: u64,
    /// The time by which the loop's clock is behind the real one.
    held_up: Cell<i64>,
    /// When the loop was to look again, at the latest, if nothing held it up. Only kept while there are timers.
    expected: Cell<i64>,
    /// The loop's clock at the last look.
    looked: Cell<i64>,
    /// The timers that are due have been found, and wait for what came meanwhile to be served.
    waits: Cell<bool>,
}

impl<T> Timers<T> {
    pub(super) fn new() -> Self {
        Timers {
            fair: BTreeMap::new(),
            exact: BTreeMap::new(),
            serial: 0,
            held_up: Cell::new(0),
            expected: Cell::new(i64::MAX),
            looked: Cell::new(0),
            waits: Cell::new(false),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fair.is_empty() && self.exact.is_empty()
    }

    /// Adds a timer by the loop's clock.
    pub(super) fn add(&mut self, now: i64, delay: i64, call: T) -> TimerKey {
        self.look_anew(now);
        let key = self.next_key(self.looked.get().saturating_add(delay), false);
        self.fair.insert(key, call);
        key
    }

    /// Adds a timer by the real clock.
    pub(super) fn add_exact(&mut self, now: i64, delay: i64, call: T) -> TimerKey {
        self.look_anew(now);
        let key = self.next_key(now.saturating_add(delay), true);
        self.exact.insert(key, call);
        key
    }

    /// As [`Timers::look`], where nobody may have looked for long because there were no timers.
    pub(super) fn look_anew(&self, now: i64) {
        if self.is_empty() {
            self.expected.set(now);
        }
        self.look(now);
    }

    fn next_key(&mut self, deadline: i64, is_exact: bool) -> TimerKey {
        self.serial += 2;
        TimerKey { deadline, serial: self.serial + u64::from(is_exact) }
    }

    pub(super) fn cancel(&mut self, key: TimerKey) -> Option<T> {
        if key.is_exact() { self.exact.remove(&key) } else { self.fair.remove(&key) }
    }

    /// The loop looks at what there is to do: how long it was kept from that is not the time of any peer.
    #[inline]
    pub(super) fn look(&self, now: i64) {
        let late = now - self.expected.get();
        if late > STRETCH {
            self.held_up.set(self.held_up.get() + (late - STRETCH));
        }
        self.expected.set(now);
        self.looked.set(now - self.held_up.get());
    }

    /// The loop's clock at the last look.
    #[inline]
    pub(super) fn looked(&self) -> i64 {
        self.looked.get()
    }

    /// The loop is about to sleep, and looks again when something happens, but at the next deadline at the latest. That is
    /// returned, by the real clock.
    pub(super) fn look_before_sleep(&self, now: i64) -> Option<i64> {
        self.look(now);
        let next = self.next_deadline();
        if let Some(next) = next {
            self.expected.set(next.max(now));
        }
        next
    }

    fn next_deadline(&self) -> Option<i64> {
        let fair = self.fair.first_key_value().filter(|_| !self.waits.get());
        let fair = fair.map(|(key, _)| key.deadline.saturating_add(self.held_up.get()));
        let exact = self.exact.first_key_value().map(|(key, _)| key.deadline);
        match (fair, exact) {
            (Some(fair), Some(exact)) => Some(fair.min(exact)),
            (fair, exact) => fair.or(exact),
        }
    }

    /// Takes a timer by the real clock whose time has come.
    pub(super) fn pop_exact(&mut self, now: i64) -> Option<T> {
        pop(&mut self.exact, now)
    }

    /// Returns whether a timer by the loop's clock has become due. Until [`Timers::pop_due`] takes it, it no longer keeps the
    /// loop from sleeping.
    pub(super) fn start_waiting(&self) -> bool {
        let is_due = self.fair.first_key_value().is_some_and(|(key, _)| key.deadline <= self.looked.get());
        is_due && !self.waits.replace(true)
    }

    /// Takes a timer by the loop's clock whose time had come then.
    pub(super) fn pop_due(&mut self, looked: i64) -> Option<T> {
        self.waits.set(false);
        pop(&mut self.fair, looked)
    }

    pub(super) fn clear(&mut self) -> Vec<T> {
        let all = (std::mem::take(&mut self.fair), std::mem::take(&mut self.exact));
        all.0.into_values().chain(all.1.into_values()).collect()
    }
}

fn pop<T>(waiting: &mut BTreeMap<TimerKey, T>, until: i64) -> Option<T> {
    let first = waiting.first_entry()?;
    (first.key().deadline <= until).then(|| first.remove())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1000;

    /// The timers that are due by the loop's clock, at that real time.
    fn due(timers: &mut Timers<&'static str>, now: i64) -> Vec<&'static str> {
        timers.look(now);
        let time = timers.looked();
        std::iter::from_fn(|| timers.pop_due(time)).collect()
    }

    #[test]
    fn fire_in_order_and_only_when_due() {
        let mut timers = Timers::new();
        let late = timers.add(0, 20, "late");
        timers.add(0, 10, "early");
        timers.add(5, 5, "early too");
        assert_eq!(timers.look_before_sleep(5), Some(10));
        assert_eq!(timers.pop_due(9), None);
        assert_eq!(timers.pop_due(10), Some("early"));
        assert_eq!(timers.pop_due(10), Some("early too"));
        assert_eq!(timers.pop_due(19), None);
        assert_eq!(timers.cancel(late), Some("late"));
        assert_eq!(timers.cancel(late), None);
        assert_eq!(timers.pop_due(i64::MAX), None);
        assert!(timers.is_empty());
    }

    #[test]
    fn one_that_is_due_keeps_no_loop_awake_while_it_waits_for_events() {
        let mut timers = Timers::new();
        timers.add(0, 10, "first");
        timers.add(0, 20, "second");
        timers.look(9);
        assert!(!timers.start_waiting());
        assert_eq!(timers.look_before_sleep(10), Some(10));
        assert!(timers.start_waiting() && !timers.start_waiting(), "told once");
        assert_eq!(timers.look_before_sleep(30), None);
        assert_eq!((timers.pop_due(10), timers.pop_due(10)), (Some("first"), None));
        assert_eq!(timers.look_before_sleep(30), Some(20));
    }

    #[test]
    fn time_in_which_the_loop_did_not_look_hardly_counts() {
        let mut timers = Timers::new();
        timers.add(0, 1500 * MS, "silent");
        timers.add_exact(0, 1500 * MS, "exact");
        assert_eq!(timers.look_before_sleep(0), Some(1500 * MS));
        // Something happens, and the callback for it takes 2.5 s.
        timers.look(400 * MS);
        assert_eq!(due(&mut timers, 2900 * MS), [""; 0]);
        assert_eq!(timers.pop_exact(2900 * MS), Some("exact"));
        // 400 ms are gone, and so much of that stretch as counts.
        assert_eq!(timers.look_before_sleep(2900 * MS), Some(2900 * MS + 1000 * MS));
        assert_eq!(due(&mut timers, 3899 * MS), [""; 0]);
        assert_eq!(due(&mut timers, 3900 * MS), ["silent"]);
    }

    #[test]
    fn a_sleep_up_to_the_deadline_counts_whole_and_one_beyond_it_does_not() {
        let mut timers = Timers::new();
        timers.add(0, 10_000 * MS, "asleep");
        timers.look_before_sleep(0);
        assert_eq!(due(&mut timers, 10_000 * MS), ["asleep"]);
        // Stopped in its sleep for a minute: what is due in the moment after it is not due yet.
        timers.add(10_000 * MS, 1000 * MS, "first");
        timers.add(10_000 * MS, 1101 * MS, "second");
        timers.look_before_sleep(10_000 * MS);
        assert_eq!(due(&mut timers, 71_000 * MS), ["first"]);
        assert_eq!(due(&mut timers, 71_000 * MS + MS), ["second"]);
    }

    #[test]
    fn one_that_is_always_held_up_gets_on_as_well() {
        let mut timers = Timers::new();
        timers.add(0, 1000 * MS, "at last");
        let fired = (1..).map(|turn| turn * 500 * MS).find(|now| !due(&mut timers, *now).is_empty());
        assert_eq!(fired, Some(5000 * MS));
    }

    #[test]
    fn what_was_before_a_timer_was_set_is_not_its_time() {
        let mut timers = Timers::new();
        timers.add(0, 100 * MS, "gone");
        assert_eq!(due(&mut timers, 100 * MS), ["gone"]);
        // Without any timers nobody looks.
        timers.add(90_000 * MS, 200 * MS, "set");
        // Held up before the second was set.
        timers.add(95_000 * MS, 200 * MS, "set later");
        assert_eq!(due(&mut timers, 95_100 * MS), ["set"]);
        assert_eq!(due(&mut timers, 95_199 * MS), [""; 0]);
        assert_eq!(due(&mut timers, 95_200 * MS), ["set later"]);
    }

    #[test]
    fn a_timer_without_end_neither_fires_nor_overflows() {
        let mut timers = Timers::new();
        let fair = timers.add(5000, i64::MAX, "never");
        let exact = timers.add_exact(5000, i64::MAX, "never");
        timers.look(900 * MS);
        assert_eq!(timers.look_before_sleep(900 * MS), Some(i64::MAX));
        assert_eq!(due(&mut timers, i64::MAX / 2), [""; 0]);
        assert_eq!(timers.pop_exact(i64::MAX - 1), None);
        assert_eq!((timers.cancel(exact), timers.cancel(fair)), (Some("never"), Some("never")));
    }
}
