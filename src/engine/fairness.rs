//! The time budget of the network: slices of time, and the credit that is counted across dispatches. Times are microseconds
//! of GLib's monotonic clock.

use std::cell::Cell;
use std::time::Duration;

#[cfg(test)]
use crate::sys::script;

/// The way connections share the main context with the rest of the program. Set by
/// [`set_fairness`](crate::mainloop::set_fairness).
///
/// Quiet connections are dispatched at `priority` while they stay within a time budget of `credit`, which is refilled
/// whenever nothing more urgent is pending. Flooding connections, and all connections once the budget is spent, are
/// dispatched at `flood_priority`, in slices of `slice`. If that priority is starved, one slice runs every `guard`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fairness {
    /// Priority of quiet connections. Default: `glib::Priority::DEFAULT` (0).
    pub priority: glib::Priority,
    /// Priority of flooding connections. Default: `glib::Priority::DEFAULT_IDLE` (200), below the redraw of a GTK window
    /// (120). A value between 120 and 200 puts idle callbacks behind the network.
    pub flood_priority: glib::Priority,
    /// Time budget at `priority`, counted across dispatches. Default: 2 ms.
    pub credit: Duration,
    /// Longest dispatch at `flood_priority`. Default: 1 ms.
    pub slice: Duration,
    /// Longest delay of flooding connections while more urgent sources keep the loop busy. Default: 20 ms.
    pub guard: Duration,
}

impl Default for Fairness {
    fn default() -> Self {
        Fairness {
            priority: glib::Priority::DEFAULT,
            flood_priority: glib::Priority::DEFAULT_IDLE,
            credit: Duration::from_millis(2),
            slice: Duration::from_millis(1),
            guard: Duration::from_millis(20),
        }
    }
}

/// The times of [`Fairness`] in microseconds.
#[derive(Clone, Copy)]
struct Times {
    credit: i64,
    slice: i64,
    guard: i64,
}

impl From<&Fairness> for Times {
    fn from(fairness: &Fairness) -> Self {
        // With a time of zero nothing would ever be served.
        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 4).clamp(1, i64::MAX / 4);
        Times { credit: micros(fairness.credit), slice: micros(fairness.slice), guard: micros(fairness.guard) }
    }
}

/// The clock is read after this many units of work (a line, a datagram, an event) at most.
const STRIDE: u32 = 16;

/// The same for futures, whose units are smaller: a line taken, a message queued. A call of the system is several.
const FUTURES_STRIDE: u32 = 64;

/// A stride that took longer than this was too long: then the clock is read after every unit.
const STRIDE_TIME: i64 = 100;

/// Microseconds of GLib's monotonic clock.
pub(crate) fn now() -> i64 {
    #[cfg(test)]
    if let Some(passed) = script::passed() {
        return super::micros(passed);
    }
    glib::monotonic_time()
}

/// A stretch of work with an end. Reading the clock costs as much as delivering a short line, so it is read after every
/// unit only while units are slow.
#[derive(Clone, Copy)]
struct Slice {
    started: i64,
    end: i64,
    looked: i64,
    /// While it is not the current one. Then [`Budget::left`] is.
    left: u32,
}

pub(super) struct Budget {
    times: Cell<Times>,
    credit: Cell<i64>,
    slice: Cell<Slice>,
    /// Units of work before the clock is read again.
    left: Cell<u32>,
    stride: Cell<u32>,
    guard: Cell<i64>,
    /// Since when futures have been at work, between two turns of the loop. 0: they have not.
    futures: Cell<i64>,
    /// Units of their work before the clock is read again, of how many, and when it was.
    futures_left: Cell<u32>,
    futures_stride: Cell<u32>,
    futures_looked: Cell<i64>,
}

/// The slice of the outer dispatch, restored when a nested one ends.
pub(super) struct Outer(Slice);

impl Budget {
    pub(super) fn new() -> Self {
        let none = Slice { started: 0, end: 0, looked: 0, left: 0 };
        let times = Times::from(&Fairness::default());
        Budget {
            times: Cell::new(times),
            credit: Cell::new(times.credit),
            slice: Cell::new(none),
            left: Cell::new(0),
            stride: Cell::new(1),
            guard: Cell::new(0),
            futures: Cell::new(0),
            futures_left: Cell::new(0),
            futures_stride: Cell::new(1),
            futures_looked: Cell::new(0),
        }
    }

    pub(super) fn set(&self, fairness: &Fairness) {
        self.times.set(Times::from(fairness));
        self.refill();
    }

    /// Returns whether quiet connections may be served at the engine's own priority.
    pub(super) fn has_credit(&self) -> bool {
        self.credit.get() > 0
    }

    pub(super) fn wants_refill(&self) -> bool {
        self.credit.get() <= self.times.get().credit / 2
    }

    /// Nothing more urgent waits: the low source runs.
    pub(super) fn refill(&self) {
        self.credit.set(self.times.get().credit);
    }

    /// Starts a stretch that ends when the credit is spent.
    pub(super) fn start_cold(&self) -> Outer {
        let now = now();
        self.start(now, now + self.credit.get())
    }

    /// Ends it and charges what it took.
    pub(super) fn end_cold(&self, outer: Outer) {
        let spent = now() - self.slice.get().started;
        self.credit.set(self.credit.get() - spent);
        self.end(outer);
    }

    /// Returns whether the current slice has time left.
    pub(super) fn lasts(&self, now: i64) -> bool {
        now < self.slice.get().end
    }

    /// Futures work outside of our dispatches, out of the same credit. Is there any left?
    pub(super) fn futures_have_credit(&self, now: i64) -> bool {
        if self.futures.get() == 0 {
            self.futures.set(now);
            self.futures_looked.set(now);
        }
        now - self.futures.get() < self.credit.get()
    }

    /// Returns whether futures may go on without reading the clock. False at the beginning of an iteration.
    #[inline]
    pub(super) fn futures_in_stride(&self) -> bool {
        self.futures_left.get() > 0
    }

    /// They may go on, and the clock need not be read again for a while. What they do is not ours to count, so that while
    /// is short when it took long before.
    pub(super) fn start_futures_stride(&self, now: i64) {
        let quick = now - self.futures_looked.replace(now) < STRIDE_TIME;
        let stride = if quick { (self.futures_stride.get() * 2).min(FUTURES_STRIDE) } else { 1 };
        self.futures_stride.set(stride);
        self.futures_left.set(stride);
    }

    /// They have done so many units of work.
    #[inline]
    pub(super) fn futures_worked(&self, units: u32) {
        self.futures_left.set(self.futures_left.get().saturating_sub(units));
    }

    /// The loop begins another turn: charges what futures took in the last one.
    #[inline]
    pub(super) fn charge_futures(&self) -> bool {
        let started = self.futures.take();
        if started == 0 {
            return false;
        }
        let now = now();
        self.futures_left.set(0);
        if now - self.futures_looked.get() >= STRIDE_TIME {
            self.futures_stride.set(1);
        }
        self.credit.set(self.credit.get() - (now - started));
        self.wants_refill()
    }

    pub(super) fn start_hot(&self) -> Outer {
        let now = now();
        self.start(now, now + self.times.get().slice)
    }

    /// Ends it; the guard's time runs from here.
    pub(super) fn end_hot(&self, outer: Outer) {
        self.guard.set(now() + self.times.get().guard);
        self.end(outer);
    }

    /// When the hot connections must be served even though drawing has kept the low source from running.
    pub(super) fn guard(&self) -> i64 {
        self.guard.get()
    }

    /// The first hot connection: its wait begins.
    pub(super) fn start_guard(&self) {
        self.guard.set(now() + self.times.get().guard);
    }

    fn start(&self, now: i64, end: i64) -> Outer {
        let left = self.left.replace(self.stride.get());
        let outer = self.slice.replace(Slice { started: now, end, looked: now, left: 0 });
        Outer(Slice { left, ..outer })
    }

    fn end(&self, outer: Outer) {
        self.left.set(outer.0.left);
        self.slice.set(outer.0);
    }

    /// Counts one more unit of work, and returns whether the time is up.
    #[inline]
    pub(super) fn spent(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.wrapping_sub(1));
        left <= 1 && self.look()
    }

    /// Reads the clock, and says when to read it again.
    #[cold]
    fn look(&self) -> bool {
        let now = now();
        let slice = self.slice.get();
        let quick = now - slice.looked < STRIDE_TIME;
        let stride = if quick { (self.stride.get() * 2).min(STRIDE) } else { 1 };
        self.stride.set(stride);
        self.slice.set(Slice { looked: now, ..slice });
        let time_up = now >= slice.end;
        self.left.set(if time_up { 1 } else { stride });
        time_up
    }
}
