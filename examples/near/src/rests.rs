//! Endpoints that could not be connected to, or have hung up, rest: a datagram is cheap to send, and an attempt is not cheap.
//!
//! An attacker has as many ids as it wants, but few addresses, and each has few ports. So it is the endpoint that rests.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// After the first failure. It doubles with each further one.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
/// After this long without a failure, the next one is the first again.
const FORGOTTEN: Duration = Duration::from_secs(120);
/// Endpoints that are remembered.
const ENDPOINTS: usize = 256;
/// An attempt that has not ended after this long never does.
const ATTEMPT: Duration = Duration::from_secs(60);

struct Rest {
    /// The end of the rest, or of an attempt.
    until: Instant,
    pause: Duration,
    failed: Instant,
    /// Whoever is heard until then is ignored: this is an attempt, or there is one after it.
    is_due: bool,
}

/// What to do with an endpoint that was heard.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// There is no other attempt until `failed` or `end` is called.
    Connect,
    /// The first time that it is heard in this rest: connect after it. It may not announce itself again.
    Later(Duration),
    Ignore,
}

#[derive(Default)]
pub struct Rests(HashMap<SocketAddr, Rest>);

impl Rests {
    pub fn heard(&mut self, endpoint: SocketAddr, now: Instant) -> Verdict {
        // All are resting: a flood. Those that are remembered have their turn first.
        let Some(rest) = self.rest(endpoint, now) else { return Verdict::Ignore };
        if rest.until <= now {
            (rest.until, rest.is_due) = (now + ATTEMPT, true);
            return Verdict::Connect;
        }
        match std::mem::replace(&mut rest.is_due, true) {
            true => Verdict::Ignore,
            false => Verdict::Later(rest.until - now),
        }
    }

    pub fn failed(&mut self, endpoint: SocketAddr, now: Instant) {
        let Some(rest) = self.rest(endpoint, now) else { return };
        let is_first = now > rest.failed + rest.pause + FORGOTTEN;
        let pause = if is_first { SHORTEST } else { (rest.pause * 2).clamp(SHORTEST, LONGEST) };
        *rest = Rest { until: now + pause, pause, failed: now, is_due: false };
    }

    /// The attempt has succeeded or was not made, or the person wants another one at once.
    pub fn end(&mut self, endpoint: SocketAddr, now: Instant) {
        if let Some(rest) = self.0.get_mut(&endpoint) {
            rest.until = now;
        }
    }

    /// The network is another one.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    fn rest(&mut self, endpoint: SocketAddr, now: Instant) -> Option<&mut Rest> {
        if !self.0.contains_key(&endpoint) && self.is_full(now) {
            return None;
        }
        Some(self.0.entry(endpoint).or_insert(Rest { until: now, pause: Duration::ZERO, failed: now, is_due: false }))
    }

    /// Whether there is no room for another endpoint, also after those have gone that do not rest any more.
    fn is_full(&mut self, now: Instant) -> bool {
        if self.0.len() >= ENDPOINTS {
            self.0.retain(|_, rest| now < rest.until);
        }
        self.0.len() >= ENDPOINTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(n: u16) -> SocketAddr {
        SocketAddr::from(([10, 9, 1, (n >> 8) as u8], n))
    }

    #[test]
    fn rests_grow_and_end() {
        let (mut rests, begun) = (Rests::default(), Instant::now());
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let one = endpoint(1716);
        assert_eq!(rests.heard(one, at(0)), Verdict::Connect);
        assert_eq!(rests.heard(one, at(0)), Verdict::Ignore, "two attempts at a time");
        rests.failed(one, at(0));
        assert_eq!(rests.heard(one, at(0)), Verdict::Later(Duration::from_secs(1)));
        assert_eq!(rests.heard(one, at(0)), Verdict::Ignore);
        assert_eq!(rests.heard(endpoint(1717), at(0)), Verdict::Connect);
        let mut now = 1;
        for pause in [2, 4, 8, 16, 30, 30] {
            assert_eq!(rests.heard(one, at(now)), Verdict::Connect);
            rests.failed(one, at(now));
            assert_eq!(rests.heard(one, at(now)), Verdict::Later(Duration::from_secs(pause)));
            now += pause;
        }
        rests.failed(one, at(now + 121));
        assert_eq!(rests.heard(one, at(now + 121)), Verdict::Later(SHORTEST));
        rests.end(one, at(now + 121));
        assert_eq!(rests.heard(one, at(now + 121)), Verdict::Connect);
    }

    #[test]
    fn a_flood_is_not_remembered() {
        let (mut rests, now) = (Rests::default(), Instant::now());
        for n in 0..1000 {
            rests.failed(endpoint(n), now);
        }
        assert_eq!(rests.0.len(), ENDPOINTS);
        assert_eq!(rests.heard(endpoint(2000), now), Verdict::Ignore);
        assert_eq!(rests.heard(endpoint(2000), now + SHORTEST), Verdict::Connect);
        rests.clear();
        assert_eq!(rests.heard(endpoint(2000), now), Verdict::Connect);
    }
}
