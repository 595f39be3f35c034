//! The idle timeout and the receive timeout: one timer for each connection that has either. Traffic only notes the time; the
//! timer looks at that when it fires, and is set again for the rest.

use std::time::Duration;

use super::callbacks::Reason;
use super::state::{Duties, Look, Manner};
use super::transport::Peek;
use super::{Conn, Options};
use crate::error::{Error, Operation};

/// Signs of life, ours and the peer's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Traffic {
    Received,
    Sent,
    /// None, but the program reads again, or is to. Before that the peer's silence means nothing.
    Resumed,
}

/// When something came or went last, on the loop's clock: that stands still while the loop is held up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Touched {
    any: i64,
    received: i64,
}

impl Touched {
    fn note(&mut self, what: Traffic, time: i64) {
        if what != Traffic::Resumed {
            self.any = self.any.max(time);
        }
        if what != Traffic::Sent {
            self.received = self.received.max(time);
        }
    }

    /// Returns the timeout that expires next, and the time that is left of it.
    fn next(self, limits: Limits, now: i64) -> Option<(Operation, Duration, Duration)> {
        let left = |limit: Duration, since: i64| {
            let passed = u64::try_from(now - since).unwrap_or(0);
            limit.saturating_sub(Duration::from_micros(passed))
        };
        let idle = limits.idle.map(|limit| (Operation::Traffic, limit, left(limit, self.any)));
        let receive = limits.receive.map(|limit| (Operation::Incoming, limit, left(limit, self.received)));
        idle.into_iter().chain(receive).min_by_key(|(_, _, left)| *left)
    }
}

/// The timeouts, as the options have them.
#[derive(Clone, Copy)]
struct Limits {
    idle: Option<Duration>,
    receive: Option<Duration>,
}

impl Limits {
    fn of(options: &Options) -> Self {
        Limits { idle: options.idle_timeout, receive: options.receive_timeout }
    }
}

impl Conn {
    /// Something came or went.
    #[inline]
    pub(super) fn touch(&self, what: Traffic) {
        if self.status.is(Look::WATCHES_IDLENESS) {
            note(self, what, self.engine.turn_time());
        }
    }

    /// Starts to watch, or stops, as the options say.
    pub(crate) fn watch_idleness(&self) {
        let Limits { idle, receive } = self.options(Limits::of);
        let watches = idle.is_some() || receive.is_some();
        self.status.change(|state| state.duties.set(Duties::WATCHES_IDLENESS, watches));
        self.cancel_timer(|cold| cold.idle_timer.take());
        if let (Some(first), true) = (idle.into_iter().chain(receive).min(), self.is_open()) {
            self.touch(Traffic::Received);
            look_after(self, first);
        }
    }
}

#[inline(never)]
fn note(conn: &Conn, what: Traffic, time: i64) {
    let touched = &conn.extras().touched;
    let mut times = touched.get();
    times.note(what, time);
    touched.set(times);
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
    if !conn.is_open() {
        return;
    }
    let mut limits = conn.options(Limits::of);
    if conn.status.has_read_all() {
        // After the peer's half-close nothing more comes.
        limits.receive = None;
    }
    if conn.is_shaking() {
        // That has a timeout of its own.
        conn.touch(Traffic::Received);
    } else if limits.receive.is_some() && is_not_heard(conn) {
        conn.touch(Traffic::Resumed);
    }
    let next = conn.extras().touched.get().next(limits, conn.engine.turn_time());
    let Some((operation, limit, left)) = next else { return };
    if !left.is_zero() {
        return look_after(conn, left);
    }
    let error = Error::TimedOut { operation, address: conn.peer_name(), limit };
    conn.finish(Reason::Failed(error), Manner::Graceful);
}

/// Returns whether the program does not read just now, or has left something unread.
fn is_not_heard(conn: &Conn) -> bool {
    // What has come, and nobody asks for.
    let is_left = || conn.io.has_input() && !conn.status.delivers() && !conn.status.is(Look::INPUT_AWAITED);
    conn.is_paused() || is_left() || matches!(conn.transport.peek(), Ok(Peek::Data))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn limits(idle: u64, receive: u64) -> Limits {
        let limit = |seconds| Some(Duration::from_secs(seconds)).filter(|limit| !limit.is_zero());
        Limits { idle: limit(idle), receive: limit(receive) }
    }

    fn left(touched: Touched, limits: Limits, now: i64) -> Option<(Operation, u64)> {
        touched.next(limits, now * SECOND).map(|(operation, _, left)| (operation, left.as_secs()))
    }

    #[test]
    fn own_sends_are_traffic_and_no_answer() {
        let mut touched = Touched::default();
        touched.note(Traffic::Received, SECOND);
        touched.note(Traffic::Sent, 3 * SECOND);
        assert_eq!(left(touched, limits(0, 0), 4), None);
        assert_eq!(left(touched, limits(5, 0), 4), Some((Operation::Traffic, 4)));
        assert_eq!(left(touched, limits(0, 5), 4), Some((Operation::Incoming, 2)));
        assert_eq!(left(touched, limits(5, 5), 7), Some((Operation::Incoming, 0)));
        assert_eq!(left(touched, limits(5, 9), 9), Some((Operation::Traffic, 0)));
    }

    #[test]
    fn a_pause_excuses_the_peer_and_is_no_traffic() {
        let mut touched = Touched::default();
        touched.note(Traffic::Resumed, 3 * SECOND);
        assert_eq!(left(touched, limits(5, 0), 4), Some((Operation::Traffic, 1)));
        assert_eq!(left(touched, limits(0, 5), 4), Some((Operation::Incoming, 4)));
        // A turn that has begun before.
        touched.note(Traffic::Received, SECOND);
        assert_eq!(left(touched, limits(0, 5), 4), Some((Operation::Incoming, 4)));
    }
}
