//! One range of bytes (RFC 9110, section 14.1.2): a pure function.

/// The demand of a `Range` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http::server) enum Range {
    /// Everything: the field is malformed, asks for several ranges, or for other units.
    All,
    /// The bytes from `start` to before `end`, at least one.
    Part { start: u64, end: u64 },
    /// Nothing of it exists.
    Outside,
}

/// Reads the value of a `Range` field for a file of that length.
pub(in crate::http::server) fn parse(field: &str, length: u64) -> Range {
    let ranges = field.split_once('=').filter(|(unit, _)| unit.trim().eq_ignore_ascii_case("bytes"));
    let Some((first, last)) = ranges.and_then(|(_, range)| range.trim().split_once('-')) else { return Range::All };
    let number = |digits: &str| {
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        // More digits than that are beyond the end of any file.
        is_number.then(|| digits.parse().unwrap_or(u64::MAX))
    };
    let (start, end) = match (number(first), number(last), first, last) {
        (Some(first), Some(last), ..) if first <= last => (first, last.saturating_add(1).min(length)),
        (Some(first), None, _, "") => (first, length),
        (None, Some(last), "", _) => (length.saturating_sub(last), length),
        _ => return Range::All,
    };
    if start < end { Range::Part { start, end } } else { Range::Outside }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges() {
        let part = |start, end| Range::Part { start, end };
        for (field, range) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=0-9", part(0, 10)),
            ("Bytes = 2-4", part(2, 5)),
            ("bytes=2-", part(2, 10)),
            ("bytes=9-99", part(9, 10)),
            ("bytes=-3", part(7, 10)),
            ("bytes=-99", part(0, 10)),
            ("bytes=0-99999999999999999999", part(0, 10)),
            ("bytes=10-", Range::Outside),
            ("bytes=99-100", Range::Outside),
            ("bytes=99999999999999999999-", Range::Outside),
            ("bytes=-0", Range::Outside),
            ("bytes=4-2", Range::All),
            ("bytes=0-1,3-4", Range::All),
            ("bytes=-", Range::All),
            ("bytes=+1-2", Range::All),
            ("bytes=a-b", Range::All),
            ("bytes=", Range::All),
            ("lines=0-1", Range::All),
            ("0-1", Range::All),
        ] {
            assert_eq!(parse(field, 10), range, "{field}");
        }
        assert_eq!(parse("bytes=0-", 0), Range::Outside);
        assert_eq!(parse("bytes=-5", 0), Range::Outside);
    }

    proptest! {
        #[test]
        fn a_part_is_within_the_file(field in "bytes=[0-9]{0,21}-[0-9]{0,21}", length in any::<u64>()) {
            if let Range::Part { start, end } = parse(&field, length) {
                prop_assert!(start < end && end <= length);
            }
        }

        #[test]
        fn whatever_comes_is_read(field in "\\PC*", length in any::<u64>()) {
            let _ = parse(&field, length);
        }
    }
}
