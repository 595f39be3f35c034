//! The idle timeout: one timer for each connection that has one. Traffic only notes the time; the timer looks at that
//! when it fires, and is set again for the rest.

use std::time::Duration;

use super::Conn;
use super::callbacks::Reason;
use super::state::{Duties, Look, Manner};
use crate::error::{Error, Operation};

impl Conn {
    /// Something came or went.
    #[inline]
    pub(super) fn touch(&self) {
        if self.status.is(Look::WATCHES_IDLENESS) {
            self.touched_at(self.engine.turn_time());
        }
    }

    #[inline(never)]
    pub(super) fn touched_at(&self, time: i64) {
        self.extras().touched.set(time);
    }

    /// Starts to watch, or stops, as the options say.
    pub(crate) fn watch_idleness(&self) {
        let limit = self.options(|options| options.idle_timeout);
        self.status.change(|state| state.duties.set(Duties::WATCHES_IDLENESS, limit.is_some()));
        self.cancel_timer(|cold| cold.idle_timer.take());
        if let (Some(limit), true) = (limit, self.is_open()) {
            self.touch();
            look_after(self, limit);
        }
    }
}

/// Schedules a check of the traffic after that time.
fn look_after(conn: &Conn, delay: Duration) {
    let me = conn.me.clone();
    let timer = conn.engine.after(delay, move |_| {
        if let Some(me) = me.upgrade() {
            me.cold(|cold| cold.idle_timer = None);
            look_for_traffic(&me);
        }
    });
    conn.cold(|cold| cold.idle_timer = Some(timer));
}

fn look_for_traffic(conn: &Conn) {
    let Some(limit) = conn.options(|options| options.idle_timeout) else { return };
    if !conn.is_open() {
        return;
    }
    let since = u64::try_from(conn.engine.turn_time() - conn.extras().touched.get()).unwrap_or(0);
    let left = limit.saturating_sub(Duration::from_micros(since));
    if !left.is_zero() {
        look_after(conn, left);
    } else if conn.is_shaking() {
        // That has a timeout of its own.
        look_after(conn, limit);
    } else {
        let error = Error::TimedOut { operation: Operation::Traffic, address: conn.peer_name(), limit };
        conn.finish(Reason::Failed(error), Manner::Graceful);
    }
}
