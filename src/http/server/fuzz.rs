//! The readers of what clients send, on whatever the fuzzer and proptest think of.

use super::file::range::{self, Range};
use super::gate::{HeadLimits, Passing, check_beginning, check_head, find_end};
use super::{multipart, target};

/// Limits that the fuzzer reaches.
const LIMITS: HeadLimits = HeadLimits { head: 300, target: 100, fields: 8 };

/// Messages, targets, ranges and forms.
pub(crate) fn check(data: &[u8]) {
    let whole = pass(data, data.len().max(1));
    for size in [1, 7] {
        assert_eq!(pass(data, size), whole, "pieces make a difference");
    }
    let text = String::from_utf8_lossy(data);
    if let Ok(path) = target::path(&text) {
        assert!(!path.contains('\0') && path.split('/').all(|segment| segment != ".."));
    }
    let _ = target::pairs(&text).count();
    if let Range::Part { start, end } = range::parse(&text, data.len() as u64) {
        assert!(start < end && end <= data.len() as u64);
    }
    if let Some(boundary) = multipart::boundary(&text) {
        assert!(!boundary.is_empty());
    }
    for part in multipart::parts(data, "a").unwrap_or_default() {
        assert!(part.data.len() < data.len());
    }
}

/// Lets messages pass that come in pieces of that size. Returns where each head and each body ends, and whether all of it is fine.
fn pass(data: &[u8], size: usize) -> (Vec<usize>, bool) {
    let (mut ends, mut passing) = (Vec::new(), Passing::Head);
    // So much has come, passed, and been looked through.
    let (mut come, mut passed, mut searched) = (0, 0, 0);
    loop {
        let before = passed;
        let waiting = &data[passed..come];
        match passing {
            Passing::Head => match find_end(waiting, searched) {
                Err(_) => return (ends, false),
                Ok(Some(end)) => match check_head(&waiting[..end], LIMITS) {
                    Err(_) => return (ends, false),
                    Ok(framing) => {
                        assert!(end <= LIMITS.head);
                        passing = Passing::after_head(framing);
                        passed += end;
                        searched = 0;
                        ends.push(passed);
                    }
                },
                Ok(None) => searched = waiting.len(),
            },
            Passing::Nothing => return (ends, false),
            Passing::Length(_) | Passing::Chunked(_) => {
                passed += passing.body(waiting);
                if matches!(passing, Passing::Head) {
                    ends.push(passed);
                }
            }
        }
        if passed == before {
            if come == data.len() {
                // Whether it may go on is known by then, however it came.
                let is_fine = !matches!(passing, Passing::Head) || check_beginning(&data[passed..], LIMITS).is_ok();
                return (ends, is_fine && !matches!(passing, Passing::Nothing));
            }
            come = (come + size).min(data.len());
        }
    }
}
