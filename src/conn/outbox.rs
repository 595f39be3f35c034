//! The send queue. Pure: no descriptor, no main loop.

use super::copying::append;

/// Memory that an empty queue may keep for the next round, in bytes. Enough for a connection that answers small
/// messages, little enough that ten thousand idle ones do not add up.
const KEEP: usize = 4 << 10;

#[derive(Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    /// So many of `bytes` are sent already.
    sent: usize,
}

impl Outbox {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes that wait.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    #[inline]
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        // Moved up before it would grow, and only when that frees half: each byte moves once on average.
        if self.sent > self.bytes.len() / 2 && self.bytes.len() + bytes.len() > self.bytes.capacity() {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        append(&mut self.bytes, bytes);
    }

    /// Returns the bytes to send next.
    #[inline]
    pub(crate) fn front(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// So much of it has gone out.
    #[inline]
    pub(crate) fn advance(&mut self, count: usize) {
        self.sent += count;
        if self.sent >= self.bytes.len() {
            self.clear();
        }
    }

    #[inline]
    pub(crate) fn clear(&mut self) {
        self.sent = 0;
        if self.bytes.capacity() > KEEP {
            self.bytes = Vec::new();
        } else {
            self.bytes.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_queue_keeps_little_memory() {
        let mut outbox = Outbox::default();
        outbox.push(&[0; 100]);
        outbox.advance(100);
        assert!(outbox.bytes.capacity() >= 100);
        outbox.push(&[0; 1 << 20]);
        outbox.advance(1 << 20);
        assert_eq!(outbox.bytes.capacity(), 0);
    }

    proptest! {
        #[test]
        fn bytes_go_out_in_order(steps in proptest::collection::vec((0usize..5000, 0usize..6000), 0..60)) {
            let mut outbox = Outbox::default();
            let (mut fed, mut seen, mut next) = (0usize, 0usize, 0u8);
            for (push, take) in steps {
                let bytes: Vec<u8> = (0..push).map(|n| (fed + n) as u8).collect();
                outbox.push(&bytes);
                fed += push;
                let take = take.min(outbox.len());
                for byte in &outbox.front()[..take] {
                    prop_assert_eq!(*byte, next);
                    next = next.wrapping_add(1);
                }
                outbox.advance(take);
                seen += take;
                prop_assert_eq!(outbox.len(), fed - seen);
                prop_assert_eq!(outbox.is_empty(), fed == seen);
            }
        }
    }
}
