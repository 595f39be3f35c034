//! Line endings, and the rule by which received data is cut into lines.

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
