//! What has been received and not yet handed over: cut into lines or chunks, never losing a byte. Pure: no descriptor,
//! no main loop.

use std::ops::Range;
use std::rc::Rc;

/// Up to this many bytes are copied out of the shared buffer rather than keeping it.
const COPY: usize = 16 << 10;

/// Received bytes: first those carried over from earlier, then the batch that the last read brought.
///
/// The batch is shared, so that a line can be lent to a callback while that very callback takes the rest away.
#[derive(Default)]
pub(crate) struct Inbox {
    carry: Vec<u8>,
    /// So many bytes of `carry` are known to hold no newline.
    searched: usize,
    batch: Option<Batch>,
}

struct Batch {
    bytes: Rc<Vec<u8>>,
    start: usize,
    end: usize,
}

/// A piece handed out.
pub(crate) enum Piece {
    Shared(Rc<Vec<u8>>, Range<usize>),
    Owned(Vec<u8>),
}

impl Piece {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Piece::Shared(bytes, range) => &bytes[range.clone()],
            Piece::Owned(bytes) => bytes,
        }
    }
}

/// A line is longer than the limit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Inbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.carry.is_empty() && self.batch.is_none()
    }

    pub(crate) fn len(&self) -> usize {
        self.carry.len() + self.batch.as_ref().map_or(0, |batch| batch.end - batch.start)
    }

    /// Adds what a read brought: the first `len` bytes of the buffer. The batch before must be used up or settled.
    #[inline]
    pub(crate) fn push_batch(&mut self, bytes: Rc<Vec<u8>>, len: usize) {
        self.settle();
        if self.batch.is_some() {
            self.carry_batch();
        }
        if len > 0 {
            self.batch = Some(Batch { bytes, start: 0, end: len });
        }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.carry_batch();
        self.carry.extend_from_slice(bytes);
    }

    /// The next line, without its newline.
    #[inline]
    pub(crate) fn next_line(&mut self, limit: usize) -> Result<Option<Piece>, TooLong> {
        if !self.carry.is_empty() {
            return self.next_line_from_carry(limit);
        }
        let Some(batch) = &mut self.batch else { return Ok(None) };
        match memchr::memchr(b'\n', &batch.bytes[batch.start..batch.end]) {
            Some(length) if length > limit => Err(TooLong),
            Some(length) => {
                let line = batch.start..batch.start + length;
                batch.start = line.end + 1;
                if batch.start == batch.end {
                    let batch = self.batch.take().map(|batch| batch.bytes);
                    return Ok(batch.map(|bytes| Piece::Shared(bytes, line)));
                }
                Ok(Some(Piece::Shared(batch.bytes.clone(), line)))
            }
            None if batch.end - batch.start > limit => Err(TooLong),
            None => {
                self.carry_batch();
                self.searched = self.carry.len();
                Ok(None)
            }
        }
    }

    fn next_line_from_carry(&mut self, limit: usize) -> Result<Option<Piece>, TooLong> {
        if let Some(at) = memchr::memchr(b'\n', &self.carry[self.searched..]) {
            let length = self.searched + at;
            if length + 1 < self.carry.len() {
                // More than one line has been carried over: make it a batch, whose lines cost no moving about.
                self.carry_batch();
                let bytes = std::mem::take(&mut self.carry);
                self.searched = 0;
                let end = bytes.len();
                self.batch = Some(Batch { bytes: Rc::new(bytes), start: 0, end });
                return self.next_line(limit);
            }
            self.searched = 0;
            let mut line = std::mem::take(&mut self.carry);
            line.truncate(length);
            return if length > limit { Err(TooLong) } else { Ok(Some(Piece::Owned(line))) };
        }
        self.searched = self.carry.len();
        let Some(batch) = &mut self.batch else {
            return if self.carry.len() > limit { Err(TooLong) } else { Ok(None) };
        };
        let fresh = &batch.bytes[batch.start..batch.end];
        match memchr::memchr(b'\n', fresh) {
            Some(length) if self.carry.len() + length > limit => Err(TooLong),
            Some(length) => {
                let mut line = std::mem::take(&mut self.carry);
                self.searched = 0;
                line.extend_from_slice(&fresh[..length]);
                batch.start += length + 1;
                if batch.start == batch.end {
                    self.batch = None;
                }
                Ok(Some(Piece::Owned(line)))
            }
            None if self.len() > limit => Err(TooLong),
            None => {
                self.carry_batch();
                self.searched = self.carry.len();
                Ok(None)
            }
        }
    }

    /// Up to `max` bytes, as they come.
    #[inline]
    pub(crate) fn next_chunk(&mut self, max: usize) -> Option<Piece> {
        let max = max.max(1);
        if !self.carry.is_empty() {
            self.searched = 0;
            if self.carry.len() <= max {
                return Some(Piece::Owned(std::mem::take(&mut self.carry)));
            }
            let rest = self.carry.split_off(max);
            return Some(Piece::Owned(std::mem::replace(&mut self.carry, rest)));
        }
        let batch = self.batch.as_mut()?;
        let end = batch.end.min(batch.start + max);
        let range = batch.start..end;
        batch.start = end;
        if end == batch.end {
            let bytes = self.batch.take()?.bytes;
            return Some(Piece::Shared(bytes, range));
        }
        Some(Piece::Shared(batch.bytes.clone(), range))
    }

    /// Everything there is.
    pub(crate) fn take_all(&mut self) -> Vec<u8> {
        self.carry_batch();
        self.searched = 0;
        std::mem::take(&mut self.carry)
    }

    /// The turn ends: lets go of the shared buffer, unless so much of it is left that copying would cost more than
    /// another buffer.
    pub(crate) fn settle(&mut self) {
        if self.batch.as_ref().is_some_and(|batch| batch.end - batch.start <= COPY) {
            self.carry_batch();
        }
    }

    fn carry_batch(&mut self) {
        if let Some(batch) = self.batch.take() {
            self.carry.extend_from_slice(&batch.bytes[batch.start..batch.end]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feed(inbox: &mut Inbox, bytes: &[u8]) {
        inbox.push_batch(Rc::new(bytes.to_vec()), bytes.len());
    }

    fn line(inbox: &mut Inbox) -> Option<String> {
        let line = inbox.next_line(1000).unwrap()?;
        Some(String::from_utf8(line.as_slice().to_vec()).unwrap())
    }

    #[test]
    fn lines_across_reads() {
        let mut inbox = Inbox::default();
        feed(&mut inbox, b"on");
        assert_eq!(line(&mut inbox), None);
        feed(&mut inbox, b"e\ntwo\n\nth");
        assert_eq!(line(&mut inbox).unwrap(), "one");
        assert_eq!(line(&mut inbox).unwrap(), "two");
        assert_eq!(line(&mut inbox).unwrap(), "");
        assert_eq!(line(&mut inbox), None);
        assert_eq!(inbox.take_all(), b"th");
        assert!(inbox.is_empty());
    }

    #[test]
    fn what_is_taken_inside_a_batch_is_gone_from_it() {
        let mut inbox = Inbox::default();
        feed(&mut inbox, b"one\ntwo\nthree");
        let lent = inbox.next_line(1000).unwrap().unwrap();
        assert_eq!(inbox.take_all(), b"two\nthree");
        assert_eq!(lent.as_slice(), b"one", "the line that is lent out stays whole");
        assert_eq!(line(&mut inbox), None);
    }

    #[test]
    fn a_line_of_the_limit_passes_and_one_more_byte_does_not() {
        for split in 0..8 {
            assert_eq!(
                lines_of(b"ok\nabcd\n", split, 4),
                (vec!["ok".into(), "abcd".into()], false),
                "split at {split}"
            );
            assert_eq!(lines_of(b"ok\nabcde\n", split, 4), (vec!["ok".into()], true), "split at {split}");
            assert_eq!(lines_of(b"ok\nabcde", split, 4), (vec!["ok".into()], true), "split at {split}");
        }
    }

    /// Feeds the bytes in two parts; the lines that come out, and whether one was too long.
    fn lines_of(bytes: &[u8], split: usize, limit: usize) -> (Vec<String>, bool) {
        let mut inbox = Inbox::default();
        let mut lines = Vec::new();
        for part in [&bytes[..split], &bytes[split..]] {
            feed(&mut inbox, part);
            loop {
                match inbox.next_line(limit) {
                    Ok(Some(line)) => lines.push(String::from_utf8(line.as_slice().to_vec()).unwrap()),
                    Ok(None) => break,
                    Err(TooLong) => return (lines, true),
                }
            }
        }
        (lines, false)
    }

    #[test]
    fn chunks_respect_their_size() {
        let mut inbox = Inbox::default();
        inbox.push(b"abc");
        feed(&mut inbox, b"defgh");
        let mut chunks = Vec::new();
        while let Some(chunk) = inbox.next_chunk(2) {
            chunks.push(chunk.as_slice().to_vec());
        }
        assert_eq!(chunks.concat(), b"abcdefgh");
        assert!(chunks.iter().all(|chunk| chunk.len() <= 2));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Feed(Vec<u8>),
        Line,
        Chunk(usize),
        TakeAndGiveBack,
        Settle,
    }

    fn step() -> impl Strategy<Value = Step> {
        let bytes = proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'a'), any::<u8>()], 0..40);
        prop_oneof![
            bytes.prop_map(Step::Feed),
            Just(Step::Line),
            (1usize..20).prop_map(Step::Chunk),
            Just(Step::TakeAndGiveBack),
            Just(Step::Settle),
        ]
    }

    proptest! {
        /// Whatever is done in whatever order: every byte comes out once, in order.
        #[test]
        fn no_byte_is_lost_or_changes_place(steps in proptest::collection::vec(step(), 0..60)) {
            let mut inbox = Inbox::default();
            let (mut fed, mut seen) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Feed(bytes) => {
                        fed.extend_from_slice(&bytes);
                        feed(&mut inbox, &bytes);
                    }
                    Step::Line => {
                        if let Some(line) = inbox.next_line(usize::MAX).unwrap() {
                            prop_assert!(!line.as_slice().contains(&b'\n'));
                            seen.extend_from_slice(line.as_slice());
                            seen.push(b'\n');
                        }
                    }
                    Step::Chunk(max) => {
                        if let Some(chunk) = inbox.next_chunk(max) {
                            prop_assert!(chunk.as_slice().len() <= max);
                            seen.extend_from_slice(chunk.as_slice());
                        }
                    }
                    Step::TakeAndGiveBack => {
                        let all = inbox.take_all();
                        inbox.push(&all);
                    }
                    Step::Settle => inbox.settle(),
                }
                prop_assert_eq!(inbox.len() + seen.len(), fed.len());
            }
            seen.extend(inbox.take_all());
            prop_assert_eq!(seen, fed);
        }
    }
}
