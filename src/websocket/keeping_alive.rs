//! Pings, both ways: those that find out whether the peer is still there, and how many of its own are answered.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::close::Code;
use super::session::{Core, Phase};
use crate::engine::TimerKey;

/// The defaults.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(20);
const PINGS: u32 = 100;

/// The shortest interval: one of zero would keep the loop busy.
const SHORTEST: Duration = Duration::from_millis(1);

/// The time in which so many pings are answered.
const WINDOW: Duration = Duration::from_secs(10);

pub(super) struct Pulse {
    interval: Cell<Option<Duration>>,
    timeout: Cell<Duration>,
    timer: Cell<Option<TimerKey>>,
    /// Something has come since this was last looked at.
    heard: Cell<bool>,
    /// The bytes that were queued since the beginning.
    sent: Cell<u64>,
    /// So many of them the kernel had taken when a ping was queued behind others.
    taken: Cell<Option<u64>>,
    /// Pings that may still be answered.
    asked: Cell<u32>,
    /// The most pings of the peer in each window.
    limit: Cell<u32>,
    window: Cell<Duration>,
    count: Cell<u32>,
}

impl Default for Pulse {
    fn default() -> Self {
        Pulse {
            interval: Cell::new(Some(INTERVAL)),
            timeout: Cell::new(TIMEOUT),
            timer: Cell::default(),
            heard: Cell::new(false),
            sent: Cell::new(0),
            taken: Cell::new(None),
            asked: Cell::new(0),
            limit: Cell::new(PINGS),
            window: Cell::default(),
            count: Cell::new(0),
        }
    }
}

impl Pulse {
    #[inline]
    pub(super) fn hear(&self) {
        self.heard.set(true);
    }

    #[inline]
    pub(super) fn sent(&self, bytes: usize) {
        self.sent.set(self.sent.get().wrapping_add(bytes as u64));
    }

    pub(super) fn asked(&self) {
        self.asked.set(self.asked.get().saturating_add(1));
    }

    pub(super) fn set_limit(&self, pings: u32) {
        self.limit.set(pings);
    }
}

impl Core {
    pub(super) fn set_ping_interval(&self, interval: Option<Duration>) {
        self.pulse.interval.set(interval);
        self.beat();
    }

    pub(super) fn set_pong_timeout(&self, limit: Duration) {
        self.pulse.timeout.set(limit);
    }

    /// Sets the timer for the next look, if any is wanted.
    pub(super) fn beat(&self) {
        self.stop_beating();
        if let Some(interval) = self.pulse.interval.get().filter(|_| self.phase.get() == Phase::Open) {
            self.pulse.heard.set(false);
            self.look_after(interval.max(SHORTEST), |me| me.look());
        }
    }

    fn look_after(&self, time: Duration, look: impl FnOnce(&Rc<Core>) + 'static) {
        let weak = self.downgrade();
        let timer = self.engine.after(time, move |_| {
            if let Some(me) = weak.upgrade() {
                me.pulse.timer.set(None);
                look(&me);
            }
        });
        self.pulse.timer.set(Some(timer));
    }

    pub(super) fn stop_beating(&self) {
        self.pulse.timer.take().into_iter().for_each(|timer| self.engine.cancel_timer(timer));
    }

    /// The interval has passed.
    fn look(self: &Rc<Self>) {
        // A peer that is not read cannot be heard.
        if self.pulse.heard.replace(false) || !self.listens() {
            return self.beat();
        }
        let waits = self.socket.queued() > 0;
        // If there is no room for it, the peer is judged by what it takes.
        let _ = self.ping(&[]);
        self.pulse.taken.set(waits.then(|| self.taken()));
        self.look_after(self.pulse.timeout.get(), |me| me.judge());
    }

    /// So many bytes has the kernel taken.
    fn taken(&self) -> u64 {
        self.pulse.sent.get().wrapping_sub(self.socket.queued() as u64)
    }

    /// The time to answer has passed.
    fn judge(&self) {
        // One that takes what was sent before the ping may not have come to it.
        let takes = self.pulse.taken.take().is_some_and(|before| self.taken() != before);
        if self.pulse.heard.replace(false) || takes || !self.listens() {
            return self.beat();
        }
        self.peer_is_silent(self.pulse.timeout.get());
    }

    /// The peer has sent a ping, and this is the pong.
    pub(super) fn answer_ping(&self, pong: Vec<u8>) {
        if self.count_control_frame() {
            self.send_pong(pong);
        }
    }

    /// The peer has sent a pong. Nobody needs to have asked for it (RFC 6455, section 5.5.3), but then it is traffic as pings are.
    pub(super) fn take_pong(&self) {
        match self.pulse.asked.get() {
            0 => drop(self.count_control_frame()),
            asked => self.pulse.asked.set(asked - 1),
        }
    }

    /// False if there have been too many.
    fn count_control_frame(&self) -> bool {
        let (pulse, now) = (&self.pulse, self.engine.loop_time());
        if pulse.count.get() == 0 || now.saturating_sub(pulse.window.get()) >= WINDOW {
            pulse.window.set(now);
            pulse.count.set(0);
        }
        pulse.count.set(pulse.count.get() + 1);
        let limit = pulse.limit.get();
        let is_within = pulse.count.get() <= limit;
        if !is_within {
            self.refuse(Code::POLICY, format!("more than {limit} pings in {} seconds", WINDOW.as_secs()));
        }
        is_within
    }
}
