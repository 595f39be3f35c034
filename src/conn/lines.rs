//! The inner loop of line delivery: many short lines out of one batch, with as little as possible between two of them.
//! Whatever is not a whole line inside the batch is left to the inbox.

use std::ops::{Index, Range};

use super::callbacks::with_text;
use super::inbox::{Front, Inbox, Taken};
use super::line_ending::{LineEnding, LineRule};
use super::queues::Queues;

/// So many bytes are looked at in one go. A callback may set another reader after each line, and then the rest is
/// looked at anew: with a window that costs a little for each line, without one a little for each byte of the batch.
const WINDOW: usize = 4 << 10;

/// Calls `each` with the whole lines that lie in the batch, without their endings, until it says that this is enough.
/// Before each call the line is taken out of the inbox, and lines are only handed over while the inbox is where the
/// last one left it: a callback may have taken from it.
///
/// `None`: what comes next, if anything, is for `Inbox::next_line` to decide.
#[inline]
pub(super) fn each_line<T, R>(io: &Queues, rule: LineRule, each: impl FnMut(&T) -> Option<R>) -> Option<R>
where
    T: Text + ?Sized,
{
    // Each kind has its own loop: what one of them looks for costs the other nothing.
    match rule.ending {
        LineEnding::Lf => each_line_of::<T, R, false>(io, rule.limit, each),
        LineEnding::CrLf => each_line_of::<T, R, true>(io, rule.limit, each),
    }
}

#[inline]
fn each_line_of<T, R, const CRLF: bool>(io: &Queues, limit: usize, mut each: impl FnMut(&T) -> Option<R>) -> Option<R>
where
    T: Text + ?Sized,
{
    let lease = io.inbox(Inbox::lease).flatten()?;
    let mut rest = lease.bytes();
    let mut start = 0;
    loop {
        let text = T::whole_lines(&rest[..rest.len().min(WINDOW)])?;
        let mut from = 0;
        for at in memchr::memchr_iter(b'\n', text.as_ref()) {
            let is_pair = CRLF && at > from && text.as_ref()[at - 1] == b'\r';
            let end = if is_pair { at - 1 } else { at };
            if end - from > limit || !lease.take(start + from..start + at + 1) {
                return None;
            }
            if let Some(enough) = each(&text[from..end]) {
                return Some(enough);
            }
            from = at + 1;
        }
        rest = &rest[from..];
        start += from;
    }
}

/// Lines for one who awaits them: text is checked to be text, and copied, many lines at a time. The lines stay in the
/// inbox until each is handed out, so that nothing is lost with this, and if somebody else takes bytes meanwhile, that
/// is noticed.
#[derive(Debug, Default)]
pub(crate) struct Window {
    text: String,
    /// Where its newlines are: at most [`WINDOW`].
    ends: Vec<u16>,
    /// So many lines were handed out, and so many bytes. What is left is what comes next in the inbox.
    lines: usize,
    at: usize,
    front: Front,
    /// Where the last one that was cut lies in the text.
    start: usize,
    end: usize,
}

impl Window {
    /// Takes the next line, as [`Inbox::next_line`] gives it. It is to be had by [`Window::lent`] or [`Window::own`]: a
    /// result of some words that is handed through several calls costs as much as all the rest.
    #[inline]
    pub(crate) fn next(&mut self, inbox: &mut Inbox, rule: LineRule) -> Taken<()> {
        if self.cut(inbox, rule) {
            return Ok(Some(()));
        }
        inbox.read_line(rule, |line| {
            self.empty();
            with_text(line, |line| self.text.push_str(line));
            (self.start, self.end) = (0, self.text.len());
        })
    }

    #[inline]
    pub(crate) fn lent(&self) -> &str {
        &self.text[self.start..self.end]
    }

    #[inline]
    pub(crate) fn own(&mut self) -> String {
        // A single line is there by itself.
        if self.ends.is_empty() { std::mem::take(&mut self.text) } else { self.lent().to_owned() }
    }

    /// Nobody has lines just now: lets go of the memory.
    pub(crate) fn clear(&mut self) {
        if self.text.capacity() > 0 {
            *self = Window::default();
        }
    }

    /// Takes the next line, if it is one of many.
    #[inline]
    fn cut(&mut self, inbox: &mut Inbox, rule: LineRule) -> bool {
        if self.cut_here(inbox, rule) {
            return true;
        }
        self.fill(inbox);
        self.cut_here(inbox, rule)
    }

    #[inline]
    fn cut_here(&mut self, inbox: &mut Inbox, rule: LineRule) -> bool {
        let Some(&end) = self.ends.get(self.lines) else { return false };
        let (start, end) = (self.at, usize::from(end));
        let last = || self.text.as_bytes()[start..end].last().copied();
        let Ok(length) = rule.check(end - start, last) else { return false };
        if !inbox.take_front(self.front, end - start + 1) {
            return false;
        }
        self.front = self.front.after(end - start + 1);
        self.lines += 1;
        self.at = end + 1;
        self.start = start;
        self.end = start + length;
        true
    }

    fn empty(&mut self) {
        self.text.clear();
        self.ends.clear();
        self.lines = 0;
        self.at = 0;
    }

    #[inline(never)]
    fn fill(&mut self, inbox: &mut Inbox) {
        self.empty();
        let Some((bytes, front)) = inbox.front() else { return };
        let bytes = &bytes[..bytes.len().min(WINDOW)];
        // For a single one it is not worth it.
        if memchr::memchr(b'\n', bytes).is_some_and(|first| first + 1 < bytes.len())
            && let Some(text) = str::whole_lines(bytes)
        {
            self.text.push_str(text);
            self.ends.extend(memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at as u16));
            self.front = front;
        }
    }
}

/// A form in which lines are lent.
pub(super) trait Text: AsRef<[u8]> + Index<Range<usize>, Output = Self> {
    /// The beginning of these bytes that consists of whole lines of this kind. `None` if not even one is.
    fn whole_lines(bytes: &[u8]) -> Option<&Self>;
}

impl Text for [u8] {
    #[inline]
    fn whole_lines(bytes: &[u8]) -> Option<&[u8]> {
        Some(&bytes[..=memchr::memrchr(b'\n', bytes)?])
    }
}

impl Text for str {
    #[inline]
    fn whole_lines(bytes: &[u8]) -> Option<&str> {
        let lines = <[u8]>::whole_lines(bytes)?;
        match std::str::from_utf8(lines) {
            Ok(text) => Some(text),
            Err(error) => {
                let valid = <[u8]>::whole_lines(&lines[..error.valid_up_to()])?;
                std::str::from_utf8(valid).ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use proptest::prelude::*;

    use super::*;
    use crate::conn::Piece;

    /// Lines with all kinds of bytes, some longer than the window.
    fn batch() -> impl Strategy<Value = Vec<u8>> {
        let short = proptest::collection::vec(prop_oneof![Just(b'a'), any::<u8>()], 0..60);
        let text = "[äöü€𝄞a-z]{0,30}".prop_map(String::into_bytes);
        let long = (WINDOW - 3..WINDOW + 3).prop_map(|length| vec![b'x'; length]);
        let line = prop_oneof![4 => short, 4 => text, 1 => long];
        proptest::collection::vec(line, 0..12).prop_map(|lines| lines.join(&b'\n'))
    }

    /// Collects the lines that a reader sees that takes one byte out of the inbox itself after every `taking` lines.
    /// The rest at the end.
    fn deliver<T: Text + ?Sized>(bytes: &[u8], taking: usize) -> Vec<Vec<u8>> {
        let io = Queues::default();
        io.open().inbox.push_batch(Rc::new(bytes.to_vec()), bytes.len());
        let mut seen: Vec<Vec<u8>> = Vec::new();
        let mut count = 0;
        loop {
            each_line(&io, usize::MAX.into(), |line: &T| -> Option<()> {
                seen.push([line.as_ref(), b"\n"].concat());
                count += 1;
                if count % taking == 0 {
                    seen.extend(io.open().inbox.next_chunk(1).map(|piece| piece.as_slice().to_vec()));
                }
                None
            });
            let line = io.open().inbox.next_line(usize::MAX.into()).unwrap();
            match line {
                Some(line) => seen.push([line.as_slice(), b"\n"].concat()),
                None => break,
            }
        }
        seen.push(io.open().inbox.take_all());
        seen
    }

    proptest! {
        #[test]
        fn every_byte_is_seen_once_and_in_order(bytes in batch(), taking in 1usize..5) {
            prop_assert_eq!(deliver::<[u8]>(&bytes, taking).concat(), bytes.clone());
            prop_assert_eq!(deliver::<str>(&bytes, taking).concat(), bytes);
        }
    }

    /// The same by a window, with bytes taken, put back, and carried over in between.
    fn await_lines(pieces: &[Vec<u8>], what: usize) -> Vec<Vec<u8>> {
        let (mut inbox, mut window) = (Inbox::default(), Window::default());
        let mut seen: Vec<Vec<u8>> = Vec::new();
        let mut count = 0;
        for piece in pieces {
            inbox.push_batch(Rc::new(piece.clone()), piece.len());
            while let Some(()) = window.next(&mut inbox, usize::MAX.into()).unwrap() {
                let lent = window.lent().to_owned();
                assert!(count % 3 > 0 || window.own() == lent);
                seen.push([lent.as_bytes(), b"\n"].concat());
                count += 1;
                match count % (what + 4) {
                    0 => seen.extend(inbox.next_chunk(what).map(Piece::into_vec)),
                    1 => {
                        let bytes = inbox.next_chunk(what).map(Piece::into_vec).unwrap_or_default();
                        inbox.push_front(&bytes);
                    }
                    2 => inbox.settle(),
                    _ => {}
                }
            }
        }
        seen.push(inbox.take_all());
        seen
    }

    proptest! {
        #[test]
        fn who_awaits_lines_sees_every_byte_once_and_in_order(
            pieces in proptest::collection::vec(batch(), 0..4),
            what in 1usize..5,
        ) {
            // Who takes bytes may cut a character in two, and its halves are no text.
            let ascii = |piece: &Vec<u8>| piece.iter().map(|byte| byte & 0x7f).collect();
            let pieces: Vec<Vec<u8>> = pieces.iter().map(ascii).collect();
            prop_assert_eq!(await_lines(&pieces, what).concat(), pieces.concat());
        }
    }

    #[test]
    fn it_ends_when_that_is_enough_with_the_rest_in_the_inbox() {
        let io = Queues::default();
        let bytes = b"one\ntwo\nthree\n";
        io.open().inbox.push_batch(Rc::new(bytes.to_vec()), bytes.len());
        let mut left = 2;
        let enough = each_line(&io, 10.into(), |_: &str| {
            left -= 1;
            (left == 0).then_some("enough")
        });
        assert_eq!(enough, Some("enough"));
        assert_eq!(io.open().inbox.take_all(), b"three\n");
    }

    #[test]
    fn a_line_over_the_limit_is_left_alone() {
        let io = Queues::default();
        let bytes = b"one\nthree\n";
        io.open().inbox.push_batch(Rc::new(bytes.to_vec()), bytes.len());
        let mut lines = 0;
        each_line(&io, 3.into(), |line: &str| -> Option<()> {
            assert_eq!(line, "one");
            lines += 1;
            None
        });
        assert_eq!(lines, 1);
        assert_eq!(io.open().inbox.take_all(), b"three\n");
    }
}
