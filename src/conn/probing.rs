//! Probes: the peer's kernel is asked for a sign of life, by keep-alive with other settings for some seconds. They are put back
//! once something has come, or when the time is over.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::Conn;
use crate::engine::TimerKey;
use crate::sys::{self, KeepAlive, Probe};

/// Time for the probes, after which the settings are put back in any case. A dead peer is found in half of it.
const LONGEST: Duration = Duration::from_secs(10);

/// The interval at which is checked whether anything has come: no event tells of an answer.
const CHECK: Duration = Duration::from_millis(500);

/// A probe that goes on.
pub(super) struct Probing {
    probe: Probe,
    end: Instant,
    pub(super) timer: TimerKey,
}

/// Asks the peer, unless a question is open already.
pub(crate) fn start(conn: &Conn, fd: BorrowedFd<'_>) -> std::io::Result<()> {
    match conn.if_cold(|cold| cold.probing.as_ref().map(|probing| probing.probe.is_answered(fd))) {
        None => {}
        Some(false) => return Ok(()),
        // What has come may be older than the reason to ask now.
        Some(true) => stop(conn, fd)?,
    }
    if let Some(probe) = Probe::start(fd)? {
        let (end, timer) = (sys::now() + LONGEST, check_after(conn));
        conn.cold(|cold| cold.probing = Some(Box::new(Probing { probe, end, timer })));
    }
    Ok(())
}

/// Ends a probe, if one goes on, and puts the settings back.
pub(crate) fn stop(conn: &Conn, fd: BorrowedFd<'_>) -> std::io::Result<()> {
    let Some(probing) = conn.if_cold(|cold| cold.probing.take()) else { return Ok(()) };
    conn.engine.cancel_timer(probing.timer);
    probing.probe.end(fd)
}

/// Returns the keep-alive that holds again after the probe, if one goes on.
pub(crate) fn keep_alive(conn: &Conn) -> Option<Option<KeepAlive>> {
    conn.if_cold(|cold| cold.probing.as_ref().map(|probing| probing.probe.keep_alive()))
}

/// Returns the user timeout that holds again after the probe, if one goes on.
pub(crate) fn user_timeout(conn: &Conn) -> Option<Option<Duration>> {
    conn.if_cold(|cold| cold.probing.as_ref().map(|probing| probing.probe.user_timeout()))
}

fn check_after(conn: &Conn) -> TimerKey {
    let me = conn.me.clone();
    conn.engine.after_exactly(CHECK, move |_| {
        if let Some(me) = me.upgrade() {
            check(&me);
        }
    })
}

fn check(conn: &Conn) {
    let Some(fd) = conn.transport.socket_fd() else { return };
    let is_over = |probing: &Probing| sys::now() >= probing.end || probing.probe.is_answered(fd);
    match conn.if_cold(|cold| cold.probing.as_deref().map(is_over)) {
        None => {}
        Some(true) => {
            // Nobody is there to be told, and keep-alive at a quick pace harms no living peer.
            let _ = stop(conn, fd);
        }
        Some(false) => {
            let timer = check_after(conn);
            conn.if_cold(|cold| cold.probing.as_mut().map(|probing| probing.timer = timer));
        }
    }
}
