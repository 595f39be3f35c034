//! How much work may be done before the rest of the program gets its turn: slices of time, and the credit that adds up
//! across dispatches. Times are microseconds of GLib's monotonic clock.

use std::cell::Cell;

/// What quiet connections may spend, in all dispatches together, before they too wait for the low source. It adds up
/// across dispatches: with a budget for each dispatch alone a flood starves the window's redraw all the same.
const CREDIT: i64 = 2_000;

/// How long the busy ("hot") connections are served in one go.
const HOT_SLICE: i64 = 1_000;

/// When drawing or other work never lets the low source run, the hot connections get one slice this often.
const GUARD: i64 = 20_000;

/// The clock is read after this many units of work (a line, a datagram, an event) at most.
const STRIDE: u32 = 16;

/// A stride that took longer than this was too long: then the clock is read after every unit.
const STRIDE_TIME: i64 = 100;

pub(super) fn now() -> i64 {
    glib::monotonic_time()
}

/// A stretch of work with an end. Reading the clock costs as much as delivering a short line, so it is read after every
/// unit only while units are slow.
#[derive(Clone, Copy)]
struct Slice {
    started: i64,
    end: i64,
    looked: i64,
    left: u32,
}

pub(super) struct Fairness {
    credit: Cell<i64>,
    slice: Cell<Slice>,
    stride: Cell<u32>,
    guard: Cell<i64>,
}

/// What is put back when a nested dispatch ends.
pub(super) struct Outer(Slice);

impl Fairness {
    pub(super) fn new() -> Self {
        let none = Slice { started: 0, end: 0, looked: 0, left: 0 };
        Fairness { credit: Cell::new(CREDIT), slice: Cell::new(none), stride: Cell::new(1), guard: Cell::new(0) }
    }

    /// May quiet connections be served at the engine's own priority?
    pub(super) fn has_credit(&self) -> bool {
        self.credit.get() > 0
    }

    pub(super) fn wants_refill(&self) -> bool {
        self.credit.get() <= CREDIT / 2
    }

    /// Nothing more urgent waits: the low source runs.
    pub(super) fn refill(&self) {
        self.credit.set(CREDIT);
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
        self.slice.set(outer.0);
    }

    pub(super) fn start_hot(&self) -> Outer {
        let now = now();
        self.start(now, now + HOT_SLICE)
    }

    /// Ends it; the guard's time runs from here.
    pub(super) fn end_hot(&self, outer: Outer) {
        self.guard.set(now() + GUARD);
        self.slice.set(outer.0);
    }

    /// When the hot connections must be served even though drawing has kept the low source from running.
    pub(super) fn guard(&self) -> i64 {
        self.guard.get()
    }

    /// The first hot connection: its wait begins.
    pub(super) fn start_guard(&self) {
        self.guard.set(now() + GUARD);
    }

    fn start(&self, now: i64, end: i64) -> Outer {
        let outer = self.slice.replace(Slice { started: now, end, looked: now, left: self.stride.get() });
        Outer(outer)
    }

    /// One more unit of work is done: is the time up?
    #[inline]
    pub(super) fn spent(&self) -> bool {
        let mut slice = self.slice.get();
        slice.left = slice.left.saturating_sub(1);
        if slice.left == 0 {
            let now = now();
            let quick = now - slice.looked < STRIDE_TIME;
            let stride = if quick { (self.stride.get() * 2).min(STRIDE) } else { 1 };
            self.stride.set(stride);
            slice.looked = now;
            slice.left = stride;
            if now >= slice.end {
                slice.left = 1;
                self.slice.set(slice);
                return true;
            }
        }
        self.slice.set(slice);
        false
    }
}
