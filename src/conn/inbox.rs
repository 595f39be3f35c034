//! The received and undelivered data: cut into lines, frames or chunks, never losing a byte. Pure: no descriptor,
//! no main loop.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use super::copying::append;
use super::cutting::{Cut, Halves};
use super::framing::{Framing, Refusal};
use super::line_ending::LineRule;

/// Up to this many bytes are copied out of the shared buffer rather than keeping it.
const COPY: usize = 16 << 10;

/// Up to so many bytes are a message rather than a stream.
const SMALL: usize = 256;

/// Memory that an empty one may keep.
const KEEP: usize = 4 << 10;

/// Received bytes: first those carried over from earlier, then the batch that the last read brought.
///
/// The batch is shared, so that a line can be lent to a callback while that very callback takes the rest away.
#[derive(Default)]
pub(crate) struct Inbox {
    carry: Vec<u8>,
    /// So many bytes of `carry` are known not to hold the end of what was sought.
    searched: usize,
    /// That was frames. `None`: lines.
    sought: Option<Framing>,
    batch: Option<Batch>,
    /// All bytes that there have ever been, round and round.
    pushed: usize,
    /// Somebody may have a mark.
    lent: bool,
    /// Somebody takes from the batch without asking here, and how far that has come.
    leased: bool,
    lease: Rc<Cell<usize>>,
    /// Its number, once that has been asked, until bytes are put back.
    serial: u64,
}

struct Batch {
    bytes: Rc<Vec<u8>>,
    start: usize,
    end: usize,
    /// Its number, once that has been asked.
    serial: u64,
}

impl Batch {
    fn new(bytes: Rc<Vec<u8>>, end: usize) -> Self {
        Batch { bytes, start: 0, end, serial: 0 }
    }
}

thread_local! {
    /// Of batches and inboxes that were asked for it. An inbox serves one connection after the other.
    static SERIAL: Cell<u64> = const { Cell::new(0) };
}

/// The value of a lease that has been revoked.
const RECALLED: usize = usize::MAX;

/// The batch, for one who takes many small pieces of it and does not want to ask the inbox for each. It is called back
/// by whoever else takes from the inbox or adds to it.
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
            Piece::Shared(bytes, range) => match Rc::try_unwrap(bytes) {
                // It is nobody else's, and most of it is asked for: a long message that was carried over.
                Ok(mut own) if range.len() > own.capacity() / 2 => {
                    own.truncate(range.end);
                    own.drain(..range.start);
                    own
                }
                Ok(own) => own[range].to_vec(),
                Err(shared) => shared[range].to_vec(),
            },
            Piece::Owned(bytes) => bytes,
        }
    }
}

/// A place in the stream of bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mark(usize);

/// The progress of a search for a delimiter. It holds as long as nobody takes bytes or puts them back meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Search {
    serial: u64,
    mark: usize,
    searched: usize,
}

/// The position of the next bytes: as long as that is the same, so are the bytes.
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

impl From<TooLong> for Refusal {
    fn from(_: TooLong) -> Self {
        Refusal::LineTooLong
    }
}

/// The bytes that were taken. `None`: not all of it has come yet.
pub(crate) type Taken<R> = Result<Option<R>, TooLong>;

impl Inbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether it is empty and nobody has a mark in it. Then it keeps little memory.
    #[inline]
    pub(crate) fn is_at_rest(&mut self) -> bool {
        if self.batch.is_none() && self.carry.capacity() == 0 && !self.lent && !self.leased {
            return true;
        }
        self.recall();
        if !self.is_empty() || self.lent {
            return false;
        }
        if self.carry.capacity() > KEEP {
            self.carry = Vec::new();
        }
        true
    }

    /// Returns whether it contains only the beginning of a line, which has been searched.
    #[inline]
    pub(crate) fn is_partial_line(&self) -> bool {
        self.batch.is_none() && self.searched == self.carry.len() && self.sought.is_none()
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

    /// Adds some bytes that are someone else's memory: a few are copied to those carried over, where they can be had
    /// without another copy; of more, many pieces may be taken.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if bytes.len() <= SMALL && self.batch.is_none() && !self.leased {
            self.pushed = self.pushed.wrapping_add(bytes.len());
            append(&mut self.carry, bytes);
        } else {
            self.push_batch(Rc::new(bytes.to_vec()), bytes.len());
        }
    }

    /// The next line, without its ending.
    #[inline(never)]
    pub(crate) fn next_line(&mut self, rule: LineRule) -> Taken<Piece> {
        self.recall();
        if self.batch.is_none() && self.carry.is_empty() {
            return Ok(None);
        }
        match rule.cut(self.halves(), self.searched_for(None))? {
            Some(cut) => Ok(Some(self.take_cut(cut))),
            None => {
                self.carry_unfinished(None, None);
                Ok(None)
            }
        }
    }

    /// The next message, without what frames it.
    #[inline(never)]
    pub(crate) fn next_frame(&mut self, framing: Framing, limit: usize) -> Result<Option<Piece>, Refusal> {
        self.recall();
        if self.batch.is_none() && self.carry.is_empty() {
            return Ok(None);
        }
        match framing.cut(limit, self.halves(), self.searched_for(Some(framing)))? {
            Some(cut) => Ok(Some(self.take_cut(cut))),
            None => {
                self.carry_unfinished(Some(framing), framing.expected(limit, self.halves()));
                Ok(None)
            }
        }
    }

    /// Shows the next line, without its ending, and takes it.
    #[inline]
    pub(crate) fn read_line<R>(&mut self, rule: LineRule, read: impl FnOnce(&[u8]) -> R) -> Taken<R> {
        self.recall();
        if let Some(batch) = self.batch.as_ref().filter(|_| self.carry.is_empty())
            && let Some(end) = memchr::memchr(b'\n', &batch.bytes[batch.start..batch.end])
            && let Ok(length) = rule.check_bytes(&batch.bytes[batch.start..batch.start + end])
        {
            let given = read(&batch.bytes[batch.start..batch.start + length]);
            self.advance(end + 1);
            return Ok(Some(given));
        }
        Ok(self.next_line(rule)?.map(|line| read(line.as_slice())))
    }

    #[inline]
    fn halves(&self) -> Halves<'_> {
        let fresh = self.batch.as_ref().map_or(&[][..], |batch| &batch.bytes[batch.start..batch.end]);
        Halves { carried: &self.carry, fresh }
    }

    /// Returns how many bytes are known not to hold the end of such a frame, or of a line.
    #[inline]
    fn searched_for(&self, sought: Option<Framing>) -> usize {
        if self.sought == sought { self.searched } else { 0 }
    }

    /// Other bytes come first now.
    fn search_anew(&mut self) {
        self.searched = 0;
        self.sought = None;
    }

    /// Carries all there is over: it has been searched, and is the beginning of a line or frame. Of how many bytes, where that is
    /// known: memory is taken for no more.
    fn carry_unfinished(&mut self, sought: Option<Framing>, expected: Option<usize>) {
        if let (Some(expected), Some(batch)) = (expected, &self.batch) {
            let (length, fresh) = (self.carry.len(), batch.end - batch.start);
            if self.carry.capacity() < length + fresh {
                self.carry.reserve_exact(expected.saturating_sub(length).min(length.max(fresh)).max(fresh));
            }
        }
        self.carry_batch();
        self.searched = self.carry.len();
        self.sought = sought;
    }

    /// Takes what was cut.
    #[inline]
    fn take_cut(&mut self, cut: Cut) -> Piece {
        if self.carry.is_empty() {
            return self.take_cut_of_batch(cut);
        }
        if cut.whole < self.carry.len() {
            // More than one has been carried over.
            self.unite();
            return self.take_cut_of_batch(cut);
        }
        let mut bytes = std::mem::take(&mut self.carry);
        self.search_anew();
        let missing = cut.whole - bytes.len();
        if let Some(batch) = self.batch.as_ref().filter(|_| missing > 0) {
            bytes.reserve_exact(missing);
            append(&mut bytes, &batch.bytes[batch.start..batch.start + missing]);
            self.advance(missing);
        }
        bytes.truncate(cut.end);
        if cut.start == 0 { Piece::Owned(bytes) } else { Piece::Shared(Rc::new(bytes), cut.start..cut.end) }
    }

    #[inline]
    fn take_cut_of_batch(&mut self, cut: Cut) -> Piece {
        let Some(batch) = &mut self.batch else { return Piece::Owned(Vec::new()) };
        let range = batch.start + cut.start..batch.start + cut.end;
        batch.start += cut.whole;
        if batch.start < batch.end {
            return Piece::Shared(batch.bytes.clone(), range);
        }
        let bytes = self.batch.take().map(|batch| batch.bytes);
        Piece::Shared(bytes.unwrap_or_default(), range)
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
    pub(super) fn recall(&mut self) {
        if std::mem::take(&mut self.leased)
            && let Some(batch) = &mut self.batch
        {
            batch.start = self.lease.replace(RECALLED);
            self.advance(0);
        }
    }

    /// Takes so many bytes of the batch, which goes with its last.
    #[inline]
    fn advance(&mut self, count: usize) {
        if let Some(batch) = &mut self.batch {
            batch.start += count;
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
        let Some(batch) = self.batch.as_ref().filter(|_| self.carry.is_empty()) else { return false };
        if batch.serial != front.serial || batch.start != front.start || count > batch.end - batch.start {
            return false;
        }
        self.advance(count);
        true
    }

    /// Up to `max` bytes, as they come.
    #[inline]
    pub(crate) fn next_chunk(&mut self, max: usize) -> Option<Piece> {
        self.recall();
        let max = max.max(1);
        if !self.carry.is_empty() {
            self.search_anew();
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

    /// Lends up to `max` bytes as they lie there, and takes as many of them as `read` says. `None` if there are none.
    pub(crate) fn lend_next(&mut self, max: usize, read: impl FnOnce(&[u8]) -> usize) -> Option<usize> {
        self.unite();
        let batch = self.batch.as_ref()?;
        let piece = &batch.bytes[batch.start..batch.end.min(batch.start.saturating_add(max))];
        let count = read(piece).min(piece.len());
        self.advance(count);
        Some(count)
    }

    /// Makes a batch of all there is: to take parts of it costs no moving about of the rest.
    fn unite(&mut self) {
        self.recall();
        if !self.carry.is_empty() {
            self.carry_batch();
            self.search_anew();
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

    /// Takes what comes before a delimiter, and the delimiter. `search` remembers how far earlier calls have looked.
    pub(crate) fn take_until(&mut self, delimiter: &[u8], limit: usize, search: &mut Search) -> Taken<Vec<u8>> {
        let here = Search { serial: self.serial(), mark: self.mark().0, searched: 0 };
        if (search.serial, search.mark) != (here.serial, here.mark) {
            *search = here;
        }
        let found = self.find(delimiter, search.searched);
        let length = found.unwrap_or((self.len() + 1).saturating_sub(delimiter.len()));
        if length > limit {
            return Err(TooLong);
        }
        search.searched = length;
        let piece = found.and_then(|length| self.take(length + delimiter.len()));
        Ok(piece.map(|piece| {
            let mut bytes = piece.into_vec();
            bytes.truncate(length);
            bytes
        }))
    }

    fn serial(&mut self) -> u64 {
        if self.serial == 0 {
            SERIAL.set(SERIAL.get() + 1);
            self.serial = SERIAL.get();
        }
        self.serial
    }

    /// Returns the distance of these bytes, which are not among the first `from`.
    fn find(&mut self, what: &[u8], from: usize) -> Option<usize> {
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
        self.search_anew();
        self.serial = 0;
        self.carry.splice(..0, bytes.iter().copied());
    }

    /// Everything there is.
    pub(crate) fn take_all(&mut self) -> Vec<u8> {
        self.carry_batch();
        self.search_anew();
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

    /// Returns how much memory is taken for what was carried over.
    #[cfg(any(test, fuzzing))]
    pub(super) fn memory(&self) -> usize {
        self.carry.capacity()
    }

    fn carry_batch(&mut self) {
        self.recall();
        if let Some(batch) = self.batch.take() {
            append(&mut self.carry, &batch.bytes[batch.start..batch.end]);
        }
    }
}

/// For fuzzing, and for the tests: whatever comes, in whatever pieces, the lines are those between the endings, up to
/// the first that is too long; and what is not handed out as lines is what is left.
#[cfg(any(test, fuzzing))]
pub(crate) fn check_lines(data: &[u8]) {
    use super::line_ending::LineEnding;

    let Some((&[limit, size], data)) = data.split_first_chunk::<2>() else { return };
    let ending = if size & 0x80 == 0 { LineEnding::Lf } else { LineEnding::CrLf };
    let rule = LineRule { limit: usize::from(limit), ending };
    let without_ending = |line: &[u8]| match line.strip_suffix(b"\r") {
        Some(line) if ending == LineEnding::CrLf => line.len(),
        _ => line.len(),
    };
    let mut inbox = Inbox::default();
    let mut given = 0;
    let mut too_long = false;
    for (number, piece) in data.chunks(usize::from(size & 0x7f).max(1)).enumerate() {
        inbox.push_batch(Rc::new(piece.to_vec()), piece.len());
        while !too_long {
            match inbox.next_line(rule) {
                Ok(Some(line)) => {
                    let rest = &data[given..];
                    let end = memchr::memchr(b'\n', rest).expect("a line has an end");
                    assert_eq!(line.as_slice(), &rest[..without_ending(&rest[..end])]);
                    assert!(line.as_slice().len() <= rule.limit);
                    given += end + 1;
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
    let length = without_ending(&left[..first.unwrap_or(left.len())]);
    assert_eq!(too_long, length > rule.limit);
    assert!(too_long || first.is_none());
    assert_eq!(left, &data[given..]);
}

#[cfg(test)]
mod tests;
