//! What has been received and not yet handed over: cut into lines or chunks, never losing a byte. Pure: no descriptor,
//! no main loop.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

/// Up to this many bytes are copied out of the shared buffer rather than keeping it.
const COPY: usize = 16 << 10;

/// Memory that an empty one may keep.
const KEEP: usize = 4 << 10;

/// Received bytes: first those carried over from earlier, then the batch that the last read brought.
///
/// The batch is shared, so that a line can be lent to a callback while that very callback takes the rest away.
#[derive(Default)]
pub(crate) struct Inbox {
    carry: Vec<u8>,
    /// So many bytes of `carry` are known to hold no newline.
    searched: usize,
    batch: Option<Batch>,
    /// All bytes that there have ever been, round and round.
    pushed: usize,
    /// Somebody may have a mark.
    lent: bool,
    /// Somebody takes from the batch without asking here, and how far that has come.
    leased: bool,
    lease: Rc<Cell<usize>>,
}

struct Batch {
    bytes: Rc<Vec<u8>>,
    start: usize,
    end: usize,
    /// Which one it is, once that has been asked.
    serial: u64,
}

impl Batch {
    fn new(bytes: Rc<Vec<u8>>, end: usize) -> Self {
        Batch { bytes, start: 0, end, serial: 0 }
    }
}

thread_local! {
    /// Of batches that were asked for it. An inbox serves one connection after the other.
    static SERIAL: Cell<u64> = const { Cell::new(0) };
}

/// What a lease says that has been called back.
const RECALLED: usize = usize::MAX;

/// The batch, for one who takes many small pieces of it and does not want to ask the inbox for each. It is called back by
/// whoever else takes from the inbox or adds to it.
pub(crate) struct Lease {
    bytes: Rc<Vec<u8>>,
    batch: Range<usize>,
    taken: Rc<Cell<usize>>,
}

impl Lease {
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.batch.clone()]
    }

    /// Takes a piece. False if that is not what comes next any more.
    #[inline]
    pub(crate) fn take(&self, piece: Range<usize>) -> bool {
        let is_next = self.taken.get() == self.batch.start + piece.start;
        if is_next {
            self.taken.set(self.batch.start + piece.end);
        }
        is_next
    }
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

    pub(crate) fn into_vec(self) -> Vec<u8> {
        match self {
            Piece::Shared(bytes, range) => bytes[range].to_vec(),
            Piece::Owned(bytes) => bytes,
        }
    }
}

/// A place in the stream of bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mark(usize);

/// What comes next: as long as that is the same, so are the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Front {
    serial: u64,
    start: usize,
}

impl Front {
    /// After so many bytes more were taken.
    #[inline]
    pub(super) fn after(self, count: usize) -> Front {
        Front { start: self.start + count, ..self }
    }
}

/// A line is longer than the limit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Inbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Is there nothing in it, and nobody who knows it by its place? Then it keeps little memory.
    #[inline]
    pub(crate) fn is_at_rest(&mut self) -> bool {
        self.recall();
        if !self.is_empty() || self.lent {
            return false;
        }
        if self.carry.capacity() > KEEP {
            self.carry = Vec::new();
        }
        true
    }

    pub(crate) fn len(&self) -> usize {
        let start = |batch: &Batch| if self.leased { self.lease.get() } else { batch.start };
        self.carry.len() + self.batch.as_ref().map_or(0, |batch| batch.end - start(batch))
    }

    /// Adds what a read brought: the first `len` bytes of the buffer. What is left of the batch before is carried
    /// over.
    #[inline]
    pub(crate) fn push_batch(&mut self, bytes: Rc<Vec<u8>>, len: usize) {
        self.settle();
        if self.batch.is_some() {
            self.carry_batch();
        }
        self.pushed = self.pushed.wrapping_add(len);
        if len > 0 {
            self.batch = Some(Batch::new(bytes, len));
        }
    }

    /// The next line, without its newline.
    #[inline]
    pub(crate) fn next_line(&mut self, limit: usize) -> Result<Option<Piece>, TooLong> {
        self.recall();
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

    /// Shows the next line, without its newline, and takes it.
    #[inline]
    pub(crate) fn read_line<R>(&mut self, limit: usize, read: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, TooLong> {
        self.recall();
        if let Some(batch) = self.batch.as_mut().filter(|_| self.carry.is_empty())
            && let Some(length) = memchr::memchr(b'\n', &batch.bytes[batch.start..batch.end])
            && length <= limit
        {
            let given = read(&batch.bytes[batch.start..batch.start + length]);
            batch.start += length + 1;
            if batch.start == batch.end {
                self.batch = None;
            }
            return Ok(Some(given));
        }
        Ok(self.next_line(limit)?.map(|line| read(line.as_slice())))
    }

    fn next_line_from_carry(&mut self, limit: usize) -> Result<Option<Piece>, TooLong> {
        if let Some(at) = memchr::memchr(b'\n', &self.carry[self.searched..]) {
            let length = self.searched + at;
            if length > limit {
                return Err(TooLong);
            }
            if length + 1 < self.carry.len() {
                // More than one line has been carried over.
                self.unite();
                return self.next_line(limit);
            }
            self.searched = 0;
            let mut line = std::mem::take(&mut self.carry);
            line.truncate(length);
            return Ok(Some(Piece::Owned(line)));
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

    /// Leases the batch out, if nothing was carried over from before it.
    pub(crate) fn lease(&mut self) -> Option<Lease> {
        self.recall();
        let batch = self.batch.as_ref().filter(|_| self.carry.is_empty())?;
        if Rc::strong_count(&self.lease) > 1 {
            // Somebody holds one that has been called back, and must not take this for it.
            self.lease = Rc::default();
        }
        self.lease.set(batch.start);
        self.leased = true;
        Some(Lease { bytes: batch.bytes.clone(), batch: batch.start..batch.end, taken: self.lease.clone() })
    }

    /// Calls the lease back.
    #[inline]
    fn recall(&mut self) {
        if std::mem::take(&mut self.leased)
            && let Some(batch) = &mut self.batch
        {
            batch.start = self.lease.replace(RECALLED);
            if batch.start == batch.end {
                self.batch = None;
            }
        }
    }

    /// The batch, and which it is, if nothing was carried over from before it.
    #[inline]
    pub(super) fn front(&mut self) -> Option<(&[u8], Front)> {
        self.recall();
        let batch = self.batch.as_mut().filter(|_| self.carry.is_empty())?;
        if batch.serial == 0 {
            batch.serial = SERIAL.get() + 1;
            SERIAL.set(batch.serial);
        }
        let front = Front { serial: batch.serial, start: batch.start };
        Some((&batch.bytes[batch.start..batch.end], front))
    }

    /// Takes so many bytes, if this is still what comes next. False if it is not.
    #[inline]
    pub(super) fn take_front(&mut self, front: Front, count: usize) -> bool {
        self.recall();
        let Some(batch) = self.batch.as_mut().filter(|_| self.carry.is_empty()) else { return false };
        if batch.serial != front.serial || batch.start != front.start || count > batch.end - batch.start {
            return false;
        }
        batch.start += count;
        if batch.start == batch.end {
            self.batch = None;
        }
        true
    }

    /// Up to `max` bytes, as they come.
    #[inline]
    pub(crate) fn next_chunk(&mut self, max: usize) -> Option<Piece> {
        self.recall();
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

    /// Makes a batch of all there is: to take parts of it costs no moving about of the rest.
    fn unite(&mut self) {
        self.recall();
        if !self.carry.is_empty() {
            self.carry_batch();
            self.searched = 0;
            let bytes = std::mem::take(&mut self.carry);
            let end = bytes.len();
            self.batch = Some(Batch::new(Rc::new(bytes), end));
        }
    }

    /// Exactly so many bytes, if there are as many.
    pub(crate) fn take(&mut self, count: usize) -> Option<Piece> {
        if count > self.len() {
            return None;
        }
        if count == 0 {
            return Some(Piece::Owned(Vec::new()));
        }
        if count != self.carry.len() {
            self.unite();
        }
        self.next_chunk(count)
    }

    /// How far away these bytes are, which are not among the first `from`.
    pub(crate) fn find(&mut self, what: &[u8], from: usize) -> Option<usize> {
        self.recall();
        if !self.carry.is_empty() {
            self.carry_batch();
        }
        let bytes = match &self.batch {
            Some(batch) => &batch.bytes[batch.start..batch.end],
            None => &self.carry[..],
        };
        Some(from + memchr::memmem::find(bytes.get(from..)?, what)?)
    }

    /// All there is, lent, and left where it is. To be taken by [`Inbox::skip`].
    pub(crate) fn lend(&mut self) -> Option<(Piece, Mark)> {
        self.unite();
        let mark = self.mark();
        let batch = self.batch.as_ref()?;
        self.lent = true;
        Some((Piece::Shared(batch.bytes.clone(), batch.start..batch.end), mark))
    }

    fn mark(&self) -> Mark {
        Mark(self.pushed.wrapping_sub(self.len()))
    }

    /// Takes so many of the bytes that were lent at that mark, as far as nobody else has taken them meanwhile.
    pub(crate) fn skip(&mut self, mark: Mark, count: usize) {
        let gone = self.mark().0.wrapping_sub(mark.0);
        let count = count.saturating_sub(gone).min(self.len());
        if count > 0 {
            self.take(count);
        }
    }

    /// Puts bytes back before all others.
    pub(crate) fn push_front(&mut self, bytes: &[u8]) {
        self.recall();
        self.searched = 0;
        self.carry.splice(..0, bytes.iter().copied());
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
        self.recall();
        if self.batch.as_ref().is_some_and(|batch| batch.end - batch.start <= COPY) {
            self.carry_batch();
        }
    }

    fn carry_batch(&mut self) {
        self.recall();
        if let Some(batch) = self.batch.take() {
            self.carry.extend_from_slice(&batch.bytes[batch.start..batch.end]);
        }
    }
}

/// For fuzzing, and for the tests: whatever comes, in whatever pieces, the lines are those between the newlines, up to the
/// first that is too long; and what is not handed out as lines is what is left.
#[cfg(any(test, fuzzing))]
pub(crate) fn check_lines(data: &[u8]) {
    let Some((&[limit, size], data)) = data.split_first_chunk::<2>() else { return };
    let (limit, size) = (usize::from(limit), usize::from(size).max(1));
    let mut inbox = Inbox::default();
    let mut given = Vec::new();
    let mut too_long = false;
    for (number, piece) in data.chunks(size).enumerate() {
        inbox.push_batch(Rc::new(piece.to_vec()), piece.len());
        while !too_long {
            match inbox.next_line(limit) {
                Ok(Some(line)) => {
                    assert!(line.as_slice().len() <= limit && !line.as_slice().contains(&b'\n'));
                    given.extend_from_slice(line.as_slice());
                    given.push(b'\n');
                }
                Ok(None) => break,
                Err(TooLong) => too_long = true,
            }
        }
        if number % 2 == 0 {
            inbox.settle();
        }
    }
    let left = inbox.take_all();
    let first = memchr::memchr(b'\n', &left);
    if too_long {
        assert!(first.unwrap_or(left.len()) > limit);
    } else {
        assert!(first.is_none() && left.len() <= limit);
    }
    given.extend(left);
    assert_eq!(given, data);
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

    #[test]
    fn a_line_over_a_new_limit_stays_where_it_was_carried() {
        let mut inbox = Inbox::default();
        feed(&mut inbox, b"abcdef\n");
        inbox.settle();
        for _ in 0..2 {
            assert!(inbox.next_line(3).is_err());
        }
        assert_eq!(inbox.take_all(), b"abcdef\n");
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
        feed(&mut inbox, b"abc");
        feed(&mut inbox, b"defgh");
        let mut chunks = Vec::new();
        while let Some(chunk) = inbox.next_chunk(2) {
            chunks.push(chunk.as_slice().to_vec());
        }
        assert_eq!(chunks.concat(), b"abcdefgh");
        assert!(chunks.iter().all(|chunk| chunk.len() <= 2));
    }

    #[test]
    fn where_nothing_is_lent_there_is_no_mark() {
        let mut inbox = Inbox::default();
        assert!(inbox.lend().is_none());
        assert!(inbox.is_at_rest());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Feed(Vec<u8>),
        Line,
        Chunk(usize),
        TakeAndGiveBack,
        Settle,
        Take(usize),
        Until(Vec<u8>),
        Lend(usize),
        /// Lends, has others take some, then takes of what was lent.
        LendAndLose(usize, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let bytes = proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'a'), any::<u8>()], 0..40);
        prop_oneof![
            bytes.prop_map(Step::Feed),
            Just(Step::Line),
            (1usize..20).prop_map(Step::Chunk),
            Just(Step::TakeAndGiveBack),
            Just(Step::Settle),
            (0usize..30).prop_map(Step::Take),
            proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'a')], 1..3).prop_map(Step::Until),
            (0usize..30).prop_map(Step::Lend),
            (0usize..20, 0usize..20).prop_map(|(lose, skip)| Step::LendAndLose(lose, skip)),
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
                        feed(&mut inbox, &all);
                    }
                    Step::Settle => inbox.settle(),
                    Step::Take(count) => match inbox.take(count) {
                        Some(piece) => {
                            prop_assert_eq!(piece.as_slice().len(), count);
                            seen.extend(piece.into_vec());
                        }
                        None => prop_assert!(inbox.len() < count),
                    },
                    Step::Until(what) => {
                        let rest = &fed[seen.len()..];
                        let expected = rest.windows(what.len()).position(|window| window == what);
                        prop_assert_eq!(inbox.find(&what, 0), expected);
                        if let Some(at) = expected {
                            prop_assert_eq!(inbox.find(&what, at), expected);
                            seen.extend(inbox.take(at + what.len()).unwrap().as_slice());
                        }
                    }
                    Step::Lend(count) => {
                        if let Some((piece, mark)) = inbox.lend() {
                            prop_assert_eq!(piece.as_slice(), &fed[seen.len()..]);
                            let count = count.min(piece.as_slice().len());
                            inbox.skip(mark, count);
                            seen.extend(&piece.as_slice()[..count]);
                        }
                    }
                    Step::LendAndLose(lose, skip) => {
                        if let Some((piece, mark)) = inbox.lend() {
                            let total = piece.as_slice().len();
                            let lose = lose.min(total);
                            inbox.take(lose).unwrap();
                            inbox.skip(mark, skip.min(total));
                            seen.extend(&piece.as_slice()[..lose.max(skip.min(total))]);
                        }
                    }
                }
                prop_assert_eq!(inbox.len() + seen.len(), fed.len());
            }
            seen.extend(inbox.take_all());
            prop_assert_eq!(seen, fed);
        }
    }
}
