//! The send queues of a server's connections together.

use std::cell::Cell;

use super::writing::GATHER;

pub(super) struct Total {
    limit: usize,
    queued: Cell<usize>,
}

impl Total {
    pub(super) fn new(limit: usize) -> Self {
        Total { limit, queued: Cell::new(0) }
    }

    /// Checks that a connection may queue so many bytes more. `counted` is what it counts for, `queued` what it has. The
    /// error is what all have, and the limit.
    pub(super) fn check(&self, counted: usize, queued: usize, size: usize) -> Result<(), (usize, usize)> {
        let queued = self.queued.get() - counted + queued;
        if size > self.limit.saturating_sub(queued) { Err((queued, self.limit)) } else { Ok(()) }
    }

    /// A connection has so many bytes in its queue. Adjusts what it counts for, and returns whether that is anything: a short
    /// queue does not count.
    pub(super) fn recount(&self, counted: &mut usize, queued: usize) -> bool {
        let now = if queued < GATHER { 0 } else { queued };
        self.queued.set(self.queued.get() - *counted + now);
        *counted = now;
        now > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_queues_count_and_short_ones_do_not() {
        let total = Total::new(10 * GATHER);
        let (mut mine, mut short) = (0, 0);
        assert!(total.recount(&mut mine, 4 * GATHER));
        assert_eq!(mine, 4 * GATHER);
        assert!(!total.recount(&mut short, GATHER - 1));
        assert_eq!(short, 0);
        assert_eq!(total.check(mine, mine, 6 * GATHER), Ok(()));
        assert_eq!(total.check(mine, mine, 6 * GATHER + 1), Err((4 * GATHER, 10 * GATHER)));
        // Another's, which was short until now.
        assert_eq!(total.check(0, 100, 6 * GATHER), Err((4 * GATHER + 100, 10 * GATHER)));
        assert!(total.recount(&mut mine, 5 * GATHER));
        assert!(!total.recount(&mut mine, 1));
        assert_eq!(mine, 0);
        assert_eq!(total.check(0, 0, 10 * GATHER), Ok(()));
    }

    #[test]
    fn what_has_no_limit_is_never_too_much() {
        let total = Total::new(usize::MAX);
        let mut mine = 0;
        assert!(total.recount(&mut mine, usize::MAX - 1));
        assert_eq!(total.check(mine, mine, 1), Ok(()));
    }
}
