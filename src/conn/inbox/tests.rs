use super::*;
use crate::conn::LineEnding;
use crate::conn::framing::checks::{First, first, framings};
use proptest::prelude::*;

fn feed(inbox: &mut Inbox, bytes: &[u8]) {
    inbox.push_batch(Rc::new(bytes.to_vec()), bytes.len());
}

fn line(inbox: &mut Inbox) -> Option<String> {
    let line = inbox.next_line(1000.into()).unwrap()?;
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
    let lent = inbox.next_line(1000.into()).unwrap().unwrap();
    assert_eq!(inbox.take_all(), b"two\nthree");
    assert_eq!(lent.as_slice(), b"one", "the line that is lent out stays whole");
    assert_eq!(line(&mut inbox), None);
}

#[test]
fn a_line_of_the_limit_passes_and_one_more_byte_does_not() {
    for split in 0..8 {
        assert_eq!(lines_of(b"ok\nabcd\n", split, 4), (vec!["ok".into(), "abcd".into()], false), "split at {split}");
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
        assert!(inbox.next_line(3.into()).is_err());
    }
    assert_eq!(inbox.take_all(), b"abcdef\n");
}

#[test]
fn a_pair_ends_a_line_wherever_it_is_cut() {
    let rule = LineRule { limit: 4, ending: LineEnding::CrLf };
    for (bytes, want, left, is_too_long) in [
        (&b"ok\r\nabcd\r\n"[..], &["ok", "abcd"][..], &b""[..], false),
        (b"\r\n\n\r\r\na\rb\n", &["", "", "\r", "a\rb"], b"", false),
        (b"abcd\nabcd\r", &["abcd"], b"abcd\r", false),
        // One that is too long stays where it is.
        (b"ok\r\nabcde\r\n", &["ok"], b"abcde\r\n", true),
        (b"abcde\n", &[], b"abcde\n", true),
        (b"abcd\r\r\n", &[], b"abcd\r\r\n", true),
        (b"abcde", &[], b"abcde", true),
    ] {
        for split in 0..=bytes.len() {
            for settles in [false, true] {
                let mut inbox = Inbox::default();
                let mut lines = Vec::new();
                let mut too_long = false;
                for part in [&bytes[..split], &bytes[split..]] {
                    feed(&mut inbox, part);
                    while !too_long {
                        match inbox.next_line(rule) {
                            Ok(Some(line)) => lines.push(String::from_utf8(line.into_vec()).unwrap()),
                            Ok(None) => break,
                            Err(TooLong) => too_long = true,
                        }
                    }
                    if settles {
                        inbox.settle();
                    }
                }
                assert_eq!(lines, want, "{bytes:?} split at {split}");
                assert_eq!(too_long, is_too_long, "{bytes:?} split at {split}");
                assert_eq!(inbox.take_all(), left, "{bytes:?} split at {split}");
            }
        }
    }
}

/// Feeds the bytes in two parts; the lines that come out, and whether one was too long.
fn lines_of(bytes: &[u8], split: usize, limit: usize) -> (Vec<String>, bool) {
    let mut inbox = Inbox::default();
    let mut lines = Vec::new();
    for part in [&bytes[..split], &bytes[split..]] {
        feed(&mut inbox, part);
        loop {
            match inbox.next_line(limit.into()) {
                Ok(Some(line)) => lines.push(String::from_utf8(line.as_slice().to_vec()).unwrap()),
                Ok(None) => break,
                Err(TooLong) => return (lines, true),
            }
        }
    }
    (lines, false)
}

#[test]
fn a_piece_takes_little_more_memory_than_it_has_bytes() {
    for (length, range) in [(1000, 0..600), (1000, 400..1000), (1000, 3..999), (1000, 10..20), (1000, 0..0)] {
        let bytes: Vec<u8> = (0..length).map(|at| at as u8).collect();
        let expected = bytes[range.clone()].to_vec();
        let shared = Rc::new(bytes);
        for piece in [Piece::Shared(shared.clone(), range.clone()), Piece::Shared(shared, range.clone())] {
            let own = piece.into_vec();
            assert_eq!(own, expected);
            assert!(own.capacity() <= 2 * range.len(), "{} for {range:?}", own.capacity());
        }
    }
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
    /// One of the framings, by its place.
    Frame(usize),
    Until(Vec<u8>),
    Lend(usize),
    /// Lends so many of the next bytes at most, of which so many are taken.
    LendNext(usize, usize),
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
        (0usize..framings(b'a').len()).prop_map(Step::Frame),
        proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'a')], 1..3).prop_map(Step::Until),
        (0usize..30).prop_map(Step::Lend),
        (1usize..20, 0usize..20).prop_map(|(max, take)| Step::LendNext(max, take)),
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
                    if let Some(line) = inbox.next_line(usize::MAX.into()).unwrap() {
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
                Step::Frame(which) => {
                    let framing = framings(b'a')[which];
                    let found = first(framing, 1 << 40, &fed[seen.len()..]);
                    match (inbox.next_frame(framing, 1 << 40), found) {
                        (Ok(Some(message)), First::Whole(wanted, whole)) => {
                            prop_assert_eq!(message.as_slice(), wanted);
                            seen.extend_from_slice(&fed[seen.len()..][..whole]);
                        }
                        (Ok(None), First::Part) | (Err(_), First::TooLong | First::Wrong) => {}
                        (next, found) => prop_assert!(false, "{:?}: {found:?}, {}", framing, next.is_ok()),
                    }
                }
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
                Step::LendNext(max, take) => {
                    let rest = &fed[seen.len()..];
                    let taken = inbox.lend_next(max, |piece| {
                        assert_eq!(piece, &rest[..rest.len().min(max)]);
                        take.min(piece.len())
                    });
                    prop_assert_eq!(taken, (!rest.is_empty()).then(|| take.min(max).min(rest.len())));
                    seen.extend(&fed[seen.len()..][..taken.unwrap_or(0)]);
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
