//! Log records that strangers can cause: a number of them per second, the others only counted. Else anybody who can connect
//! fills the disk.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Engine;

const WINDOW: Duration = Duration::from_secs(1);

/// Lets the first records of each second pass and counts the others.
#[derive(Default)]
struct Quota {
    started: Option<Instant>,
    passed: u32,
    suppressed: usize,
}

/// The answer to one record.
#[derive(Debug, PartialEq)]
struct Verdict {
    passes: bool,
    /// Records that the window before has suppressed.
    missed: usize,
    /// The end of the window, if this is the first record that it suppresses.
    ends_in: Option<Duration>,
}

impl Quota {
    fn take(&mut self, now: Instant, per_second: u32) -> Verdict {
        let age = self.started.map(|started| now.saturating_duration_since(started));
        let mut missed = 0;
        if age.is_none_or(|age| age >= WINDOW) {
            missed = std::mem::take(&mut self.suppressed);
            (self.started, self.passed) = (Some(now), 0);
        }
        if self.passed < per_second {
            self.passed += 1;
            return Verdict { passes: true, missed, ends_in: None };
        }
        self.suppressed += 1;
        let left = WINDOW.saturating_sub(age.filter(|age| *age < WINDOW).unwrap_or_default());
        Verdict { passes: false, missed, ends_in: (self.suppressed == 1).then_some(left) }
    }
}

pub(crate) struct LogQuota {
    per_second: u32,
    quota: RefCell<Quota>,
    summary: Box<dyn Fn(usize)>,
}

impl LogQuota {
    /// `summary` logs how many records were suppressed.
    pub(crate) fn new(per_second: u32, summary: impl Fn(usize) + 'static) -> Rc<Self> {
        Rc::new(LogQuota { per_second, quota: RefCell::default(), summary: Box::new(summary) })
    }

    /// Calls `record`, which logs one, unless there have been too many. The number of those that were suppressed is logged
    /// at the end of their second, or where no loop runs, before the next record. Nothing may be borrowed.
    pub(crate) fn log(self: &Rc<Self>, engine: &Engine, record: impl FnOnce()) {
        let Verdict { passes, missed, ends_in } = self.quota.borrow_mut().take(Instant::now(), self.per_second);
        self.sum_up(missed);
        if passes {
            record();
        }
        if let Some(left) = ends_in {
            let me = Rc::downgrade(self);
            engine.after(left, move |_| {
                if let Some(me) = me.upgrade() {
                    me.flush();
                }
            });
        }
    }

    /// Logs what has been suppressed until now.
    pub(crate) fn flush(&self) {
        let missed = std::mem::take(&mut self.quota.borrow_mut().suppressed);
        self.sum_up(missed);
    }

    fn sum_up(&self, missed: usize) {
        if missed > 0 {
            (self.summary)(missed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_pass_in_a_second_and_the_others_are_counted() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut quota = Quota::default();
        let passes = Verdict { passes: true, missed: 0, ends_in: None };
        assert_eq!(quota.take(at(0), 2), passes);
        assert_eq!(quota.take(at(100), 2), passes);
        let left = Some(Duration::from_millis(600));
        assert_eq!(quota.take(at(400), 2), Verdict { passes: false, missed: 0, ends_in: left });
        assert_eq!(quota.take(at(999), 2), Verdict { passes: false, missed: 0, ends_in: None }, "one timer is enough");
        assert_eq!(quota.take(at(1000), 2), Verdict { missed: 2, ..passes }, "the next second tells it");
        assert_eq!(quota.take(at(1500), 2), Verdict { passes: true, missed: 0, ends_in: None });
    }

    #[test]
    fn with_none_allowed_all_are_counted() {
        let start = Instant::now();
        let mut quota = Quota::default();
        let first = Verdict { passes: false, missed: 0, ends_in: Some(WINDOW) };
        assert_eq!(quota.take(start, 0), first);
        assert_eq!(quota.take(start + WINDOW, 0), Verdict { missed: 1, ..first });
    }
}
