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

    /// A connection that counted for so much has so many bytes in its queue. Returns what it counts for now: nothing if the
    /// queue is short.
    pub(super) fn recount(&self, counted: usize, queued: usize) -> usize {
        let now = if queued < GATHER { 0 } else { queued };
        self.queued.set(self.queued.get() - counted + now);
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_queues_count_and_short_ones_do_not() {
        let total = Total::new(10 * GATHER);
        let mine = total.recount(0, 4 * GATHER);
        assert_eq!(mine, 4 * GATHER);
        assert_eq!(total.recount(0, GATHER - 1), 0);
        assert_eq!(total.check(mine, mine, 6 * GATHER), Ok(()));
        assert_eq!(total.check(mine, mine, 6 * GATHER + 1), Err((4 * GATHER, 10 * GATHER)));
        // Another's, which was short until now.
        assert_eq!(total.check(0, 100, 6 * GATHER), Err((4 * GATHER + 100, 10 * GATHER)));
        let mine = total.recount(mine, 5 * GATHER);
        assert_eq!(total.recount(mine, 1), 0);
        assert_eq!(total.check(0, 0, 10 * GATHER), Ok(()));
    }

    #[test]
    fn what_has_no_limit_is_never_too_much() {
        let total = Total::new(usize::MAX);
        let mine = total.recount(0, usize::MAX - 1);
        assert_eq!(total.check(mine, mine, 1), Ok(()));
    }
}
