//! Line endings, and the rule by which received data is cut into lines.

use super::cutting::{Cut, Halves};
use super::inbox::TooLong;

/// The ending of lines, for sending and receiving.
///
/// Set by [`SocketBuilder::line_ending`](crate::socket::SocketBuilder::line_ending),
/// [`ServerBuilder::line_ending`](crate::server::ServerBuilder::line_ending) or
/// [`Socket::set_line_ending`](crate::Socket::set_line_ending).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LineEnding {
    /// `\n`, the default. A `\r` before it is part of the line.
    #[default]
    Lf,
    /// `\r\n`, as SMTP, IMAP, FTP, IRC and HTTP have it. A received line ends at `\n`, and one `\r` before it is removed, so
    /// lines that end with `\n` alone are accepted.
    CrLf,
}

impl LineEnding {
    /// Returns the ending as text: `"\n"` or `"\r\n"`.
    #[inline]
    pub fn as_str(self) -> &'static str {
        match self {
            LineEnding::Lf => "\n",
            LineEnding::CrLf => "\r\n",
        }
    }
}

/// The rule for received lines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LineRule {
    /// The longest line, in bytes without its ending.
    pub(crate) limit: usize,
    pub(crate) ending: LineEnding,
}

impl LineRule {
    /// Returns the length of a line without its ending. `length` is that before the newline, `last` gives the last byte of it,
    /// which only those look for whom it matters.
    ///
    /// The beginning of a line that has not ended yet is checked in the same way: a last `\r` may belong to its ending.
    #[inline]
    pub(super) fn check(self, length: usize, last: impl FnOnce() -> Option<u8>) -> Result<usize, TooLong> {
        let length = match self.ending {
            LineEnding::Lf => length,
            LineEnding::CrLf => length - usize::from(last() == Some(b'\r')),
        };
        if length > self.limit { Err(TooLong) } else { Ok(length) }
    }

    /// Returns where the first line of these bytes lies. `None`: it has not ended yet. The first `searched` bytes of them are known
    /// to hold no newline.
    #[inline]
    pub(super) fn cut(self, bytes: Halves<'_>, searched: usize) -> Result<Option<Cut>, TooLong> {
        let newline = bytes.find(b'\n', searched);
        let length = newline.unwrap_or(bytes.len());
        let end = self.check(length, || bytes.at(length.checked_sub(1)?))?;
        Ok(newline.map(|newline| Cut { start: 0, end, whole: newline + 1 }))
    }

    /// As [`LineRule::check`], for bytes that lie together.
    #[inline]
    pub(super) fn check_bytes(self, bytes: &[u8]) -> Result<usize, TooLong> {
        self.check(bytes.len(), || bytes.last().copied())
    }
}

impl From<usize> for LineRule {
    fn from(limit: usize) -> Self {
        LineRule { limit, ending: LineEnding::Lf }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ending: LineEnding, bytes: &[u8]) -> Option<usize> {
        LineRule { limit: 3, ending }.check_bytes(bytes).ok()
    }

    #[test]
    fn the_limit_counts_a_line_without_its_ending() {
        for (bytes, by_newlines, by_pairs) in [
            (&b""[..], Some(0), Some(0)),
            (b"\r", Some(1), Some(0)),
            (b"ab\r", Some(3), Some(2)),
            (b"abc", Some(3), Some(3)),
            (b"abc\r", None, Some(3)),
            (b"abcd", None, None),
            (b"abc\r\r", None, None),
        ] {
            assert_eq!(check(LineEnding::Lf, bytes), by_newlines, "{bytes:?}");
            assert_eq!(check(LineEnding::CrLf, bytes), by_pairs, "{bytes:?}");
        }
    }

    #[test]
    fn the_last_byte_is_looked_at_only_where_it_matters() {
        assert!(LineRule::from(3).check(2, || panic!("it does not matter")).is_ok());
    }
}
