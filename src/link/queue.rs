//! Data that waits for a connection: whole calls, in order.

use std::collections::VecDeque;

use crate::error::{Error, Result};

#[derive(Default)]
pub(super) struct Queue {
    bytes: Vec<u8>,
    /// The length of each call.
    calls: VecDeque<usize>,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Keeps the data of a call, given in two parts, if it fits.
    pub(super) fn push(&mut self, data: &[u8], ending: &str, limit: usize, address: impl ToString) -> Result {
        let (size, queued) = (data.len() + ending.len(), self.bytes.len());
        if size > limit.saturating_sub(queued) {
            let peer = address.to_string();
            return Err(Error::QueueFull { peer, size, queued, limit, option: "queue" });
        }
        if size > 0 {
            self.bytes.extend_from_slice(data);
            self.bytes.extend_from_slice(ending.as_bytes());
            self.calls.push_back(size);
        }
        Ok(())
    }

    /// Puts what another one has behind the rest.
    pub(super) fn append(&mut self, mut other: Queue) {
        self.bytes.append(&mut other.bytes);
        self.calls.append(&mut other.calls);
    }

    /// Passes calls on until one is refused. What was refused stays.
    pub(super) fn pass_on(&mut self, mut send: impl FnMut(&[u8]) -> Result) -> Result {
        let mut sent = 0;
        let mut outcome = Ok(());
        while let Some(size) = self.calls.front() {
            outcome = send(&self.bytes[sent..sent + size]);
            if outcome.is_err() {
                break;
            }
            sent += size;
            self.calls.pop_front();
        }
        self.bytes.drain(..sent);
        if self.calls.is_empty() {
            *self = Queue::default();
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Result {
        Err(Error::Closed { peer: "x".into() })
    }

    #[test]
    fn keeps_whole_calls_in_order_up_to_the_limit() {
        let mut queue = Queue::default();
        queue.push(b"one", "\n", 10, "x").unwrap();
        queue.push(b"", "", 10, "x").unwrap();
        queue.push(b"two", "\r\n", 10, "x").unwrap();
        let error = queue.push(b"3", "\n", 10, "host:1").unwrap_err();
        assert_eq!(
            error.to_string(),
            "send queue to host:1 is full: 2 bytes do not fit beside 9 already queued (limit: 10 bytes); send less at a time \
             or raise queue"
        );
        queue.push(b"", "\n", 10, "x").unwrap();
        let mut sent = Vec::new();
        let mut send = |call: &[u8]| {
            sent.push(call.to_vec());
            Ok(())
        };
        queue.pass_on(&mut send).unwrap();
        assert_eq!(sent, [b"one\n".as_slice(), b"two\r\n", b"\n"]);
        assert!(queue.is_empty() && queue.bytes.capacity() == 0);
    }

    #[test]
    fn what_is_refused_stays_whole() {
        let mut queue = Queue::default();
        for call in ["one", "two", "three"] {
            queue.push(call.as_bytes(), "", 100, "x").unwrap();
        }
        let mut left = 1;
        let limited = queue.pass_on(|_| {
            left -= 1;
            if left < 0 { refused() } else { Ok(()) }
        });
        assert!(limited.is_err() && !queue.is_empty());
        assert!(queue.pass_on(|_| refused()).is_err());
        let mut sent = String::new();
        let mut send = |call: &[u8]| {
            sent.push_str(std::str::from_utf8(call).unwrap());
            Ok(())
        };
        queue.pass_on(&mut send).unwrap();
        assert_eq!(sent, "twothree");
    }
}
