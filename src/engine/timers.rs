//! Calls for later, in the order of their deadlines. Deadlines are microseconds of GLib's monotonic clock.

use std::collections::BTreeMap;

/// Names one timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimerKey {
    deadline: i64,
    serial: u64,
}

pub(super) struct Timers<T> {
    waiting: BTreeMap<TimerKey, T>,
    serial: u64,
}

impl<T> Timers<T> {
    pub(super) fn new() -> Self {
        Timers { waiting: BTreeMap::new(), serial: 0 }
    }

    pub(super) fn add(&mut self, deadline: i64, call: T) -> TimerKey {
        self.serial += 1;
        let key = TimerKey { deadline, serial: self.serial };
        self.waiting.insert(key, call);
        key
    }

    pub(super) fn cancel(&mut self, key: TimerKey) -> Option<T> {
        self.waiting.remove(&key)
    }

    pub(super) fn next_deadline(&self) -> Option<i64> {
        self.waiting.first_key_value().map(|(key, _)| key.deadline)
    }

    pub(super) fn pop_due(&mut self, now: i64) -> Option<T> {
        let first = self.waiting.first_entry()?;
        (first.key().deadline <= now).then(|| first.remove())
    }

    pub(super) fn clear(&mut self) -> Vec<T> {
        std::mem::take(&mut self.waiting).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fire_in_order_and_only_when_due() {
        let mut timers = Timers::new();
        let late = timers.add(20, "late");
        timers.add(10, "early");
        timers.add(10, "early too");
        assert_eq!(timers.next_deadline(), Some(10));
        assert_eq!(timers.pop_due(9), None);
        assert_eq!(timers.pop_due(10), Some("early"));
        assert_eq!(timers.pop_due(10), Some("early too"));
        assert_eq!(timers.pop_due(19), None);
        assert_eq!(timers.cancel(late), Some("late"));
        assert_eq!(timers.cancel(late), None);
        assert_eq!(timers.pop_due(i64::MAX), None);
    }
}
