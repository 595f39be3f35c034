//! Waits between tries: they grow, and are drawn at random, so that the clients of a server that has restarted do not all come at
//! once. A value.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// So many times the first wait a server takes to restart.
const RESTART: u32 = 5;

/// The waits between tries to connect, as [`Link`](crate::Link) draws them. Endless.
///
/// The first is random between zero and `first`. The n-th is random between half and all of `first` · 2ⁿ⁻¹, or of `most` if that is
/// shorter. No wait is longer than `most`.
///
/// For programs that reconnect by themselves. Make a new one once a connection has lasted.
///
/// # Example
/// ```
/// use std::time::Duration;
/// use network::link::Backoff;
///
/// let waits: Vec<Duration> = Backoff::new(Duration::from_secs(1), Duration::from_secs(30)).take(10).collect();
/// assert!(waits[0] <= Duration::from_secs(1));
/// assert!(waits[1] >= Duration::from_secs(1) && waits[1] <= Duration::from_secs(2));
/// assert!(waits[9] >= Duration::from_secs(15) && waits[9] <= Duration::from_secs(30));
/// ```
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    /// The longest that the next one may be, but for `most`. `None`: it is the first.
    next: Option<Duration>,
    dice: Dice,
}

impl Backoff {
    /// Creates the waits. The defaults of a [`Link`](crate::Link) are 1 s and 30 s.
    pub fn new(first: Duration, most: Duration) -> Backoff {
        Backoff::with(first, most, Dice::new())
    }

    pub(super) fn with(first: Duration, most: Duration, dice: Dice) -> Backoff {
        Backoff { first, most, next: None, dice }
    }

    /// Begins with the first wait again.
    pub(super) fn restart(&mut self) {
        self.next = None;
    }

    /// Returns whether a connection that ended so long ago may just be that of a server that restarts.
    pub(super) fn is_restart(&self, ended: Duration) -> bool {
        ended < self.first.saturating_mul(RESTART)
    }

    /// Keeps the next wait as short as the second.
    pub(super) fn hold(&mut self) {
        self.next = self.next.map(|next| next.min(self.first.saturating_mul(2)));
    }

    /// Returns the next wait.
    pub(super) fn draw(&mut self) -> Duration {
        let longest = self.next.unwrap_or(self.first).min(self.most);
        let shortest = if self.next.is_none() { Duration::ZERO } else { longest / 2 };
        self.next = Some(longest.saturating_mul(2));
        self.dice.between(shortest, longest)
    }

    /// Returns a random time up to this one.
    pub(super) fn up_to(&mut self, most: Duration) -> Duration {
        self.dice.between(Duration::ZERO, most)
    }
}

impl Iterator for Backoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.draw())
    }
}

/// Random numbers: SplitMix64. They spread clients over time, and guard nothing.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new() -> Dice {
        // The keys of each are random.
        Dice(RandomState::new().build_hasher().finish())
    }

    #[cfg(test)]
    pub(super) fn seeded(seed: u64) -> Dice {
        Dice(seed)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let nanos = ((most - least).as_nanos() * u128::from(self.roll() >> 40)) >> 24;
        least + Duration::new((nanos / 1_000_000_000) as u64, (nanos % 1_000_000_000) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_double_up_to_the_longest_and_are_random_in_their_upper_half() {
        for seed in 0..1000 {
            let waits: Vec<Duration> = Backoff::with(SECOND, 30 * SECOND, Dice::seeded(seed)).take(40).collect();
            assert!(waits[0] <= SECOND);
            for (index, longest) in [2, 4, 8, 16, 30, 30, 30].into_iter().enumerate() {
                let wait = waits[index + 1];
                assert!(wait >= longest * SECOND / 2 && wait <= longest * SECOND, "{index}: {wait:?}");
            }
            assert!(waits[39] >= 15 * SECOND && waits[39] <= 30 * SECOND);
        }
    }

    #[test]
    fn two_hundred_clients_do_not_come_at_once() {
        for round in 0..8 {
            let mut clients: Vec<Backoff> =
                (0..200).map(|seed| Backoff::with(SECOND, 30 * SECOND, Dice::seeded(seed))).collect();
            let mut waits: Vec<u128> = Vec::new();
            for client in &mut clients {
                waits.push(client.nth(round).unwrap().as_millis());
            }
            for wait in &waits {
                let together = waits.iter().filter(|other| (*wait..wait + 100).contains(*other)).count();
                assert!(together <= 40, "{together} within 100 ms, in round {round}");
            }
        }
    }

    #[test]
    fn odd_times_are_no_trouble() {
        assert_eq!(Backoff::new(Duration::ZERO, SECOND).nth(100), Some(Duration::ZERO));
        assert!(Backoff::new(30 * SECOND, SECOND).take(10).all(|wait| wait <= SECOND));
        let mut endless = Backoff::new(Duration::MAX, Duration::MAX);
        assert!(endless.next() <= Some(Duration::MAX) && endless.next() >= Some(Duration::MAX / 2));
    }

    #[test]
    fn clients_of_one_process_draw_differently() {
        let first = |_| Backoff::new(SECOND, SECOND).next().unwrap();
        let waits: std::collections::BTreeSet<Duration> = (0..50).map(first).collect();
        assert!(waits.len() > 40, "{waits:?}");
    }
}
