//! The inner loop of line delivery: many short lines out of one batch, with as little as possible between two of them.
//! Whatever is not a whole line inside the batch is left to the inbox.

use std::ops::{Index, Range};

use super::inbox::Inbox;
use super::io::Queues;

/// So many bytes are looked at in one go. A callback may set another reader after each line, and then the rest is looked
/// at anew: with a window that costs a little for each line, without one a little for each byte of the batch.
const WINDOW: usize = 4 << 10;

/// Calls `each` with the whole lines that lie in the batch, without their newlines, until it says that this is enough.
/// Before each call the line is taken out of the inbox, and lines are only handed over while the inbox is where the last
/// one left it: a callback may have taken from it.
///
/// `None`: what comes next, if anything, is for `Inbox::next_line` to decide.
#[inline]
pub(super) fn each_line<T, R>(io: &Queues, limit: usize, mut each: impl FnMut(&T) -> Option<R>) -> Option<R>
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
            if at - from > limit || !lease.take(start + from..start + at + 1) {
                return None;
            }
            if let Some(enough) = each(&text[from..at]) {
                return Some(enough);
            }
            from = at + 1;
        }
        rest = &rest[from..];
        start += from;
    }
}

/// What lines may be lent as.
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

    /// Lines with all kinds of bytes, some longer than the window.
    fn batch() -> impl Strategy<Value = Vec<u8>> {
        let short = proptest::collection::vec(prop_oneof![Just(b'a'), any::<u8>()], 0..60);
        let text = "[äöü€𝄞a-z]{0,30}".prop_map(String::into_bytes);
        let long = (WINDOW - 3..WINDOW + 3).prop_map(|length| vec![b'x'; length]);
        let line = prop_oneof![4 => short, 4 => text, 1 => long];
        proptest::collection::vec(line, 0..12).prop_map(|lines| lines.join(&b'\n'))
    }

    /// What a reader gets to see that takes one byte out of the inbox itself after every `taking` lines. The rest at the end.
    fn deliver<T: Text + ?Sized>(bytes: &[u8], taking: usize) -> Vec<Vec<u8>> {
        let io = Queues::default();
        io.open().inbox.push_batch(Rc::new(bytes.to_vec()), bytes.len());
        let mut seen: Vec<Vec<u8>> = Vec::new();
        let mut count = 0;
        loop {
            each_line(&io, usize::MAX, |line: &T| -> Option<()> {
                seen.push([line.as_ref(), b"\n"].concat());
                count += 1;
                if count % taking == 0 {
                    seen.extend(io.open().inbox.next_chunk(1).map(|piece| piece.as_slice().to_vec()));
                }
                None
            });
            let line = io.open().inbox.next_line(usize::MAX).unwrap();
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

    #[test]
    fn it_ends_when_that_is_enough_with_the_rest_in_the_inbox() {
        let io = Queues::default();
        let bytes = b"one\ntwo\nthree\n";
        io.open().inbox.push_batch(Rc::new(bytes.to_vec()), bytes.len());
        let mut left = 2;
        let enough = each_line(&io, 10, |_: &str| {
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
        each_line(&io, 3, |line: &str| -> Option<()> {
            assert_eq!(line, "one");
            lines += 1;
            None
        });
        assert_eq!(lines, 1);
        assert_eq!(io.open().inbox.take_all(), b"three\n");
    }
}
