//! The idle time-out: one timer for each connection that has one. Traffic only notes the time; the timer looks at that when
//! it fires, and is set again for the rest.

use std::time::Duration;

use super::Conn;
use super::flags::Flag;
use super::handler::Reason;
use crate::error::Error;

impl Conn {
    /// Something came or went.
    #[inline]
    pub(super) fn touch(&self) {
        if self.flags.has(Flag::WATCHES_IDLENESS) {
            self.more().touched.set(self.engine.turn_time());
        }
    }

    /// Starts to watch, or stops, as the options say.
    pub(crate) fn watch_idleness(&self) {
        let limit = self.options(|options| options.idle_timeout);
        if self.flags.replace(Flag::WATCHES_IDLENESS, limit.is_some()) || limit.is_some() {
            self.forget_idleness();
        }
        if let (Some(limit), true) = (limit, self.is_open()) {
            self.touch();
            self.look_after(limit);
        }
    }

    fn look_after(&self, delay: Duration) {
        let me = self.me.clone();
        let timer = self.engine.after(delay, move |_| {
            if let Some(me) = me.upgrade() {
                me.rare(|rare| rare.idle_timer = None);
                me.look_for_traffic();
            }
        });
        self.rare(|rare| rare.idle_timer = Some(timer));
    }

    fn look_for_traffic(&self) {
        let Some(limit) = self.options(|options| options.idle_timeout) else { return };
        if !self.is_open() {
            return;
        }
        let since = u64::try_from(self.engine.turn_time() - self.more().touched.get()).unwrap_or(0);
        let left = limit.saturating_sub(Duration::from_micros(since));
        if !left.is_zero() {
            self.look_after(left);
        } else if self.flags.has(Flag::SHAKING) {
            // That has a limit of its own.
            self.look_after(limit);
        } else {
            let error = Error::TimedOut { operation: "waiting for traffic with", address: self.peer_name(), limit };
            self.finish(Reason::Failed(error), true);
        }
    }

    pub(super) fn forget_idleness(&self) {
        let timer = self.if_rare(|rare| rare.idle_timer.take());
        if let Some(timer) = timer {
            self.engine.cancel_timer(timer);
        }
    }
}
