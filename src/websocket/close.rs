//! The end of a connection: close codes, close frames, and what the disconnect callback is told.

use std::fmt;

use tungstenite::protocol::CloseFrame;

use crate::conn::callbacks::Reason;
use crate::error::{Error, Printable, Result};

/// The longest reason in a close frame, in bytes.
const LONGEST_REASON: usize = 123;

/// A close code (RFC 6455, section 7.4).
///
/// # Example
/// ```
/// use network::websocket::Code;
///
/// assert_eq!(Code::NORMAL.to_string(), "1000 (normal)");
/// assert_eq!(u16::from(Code::from(4001)), 4001);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(u16);

impl Code {
    /// 1000: the purpose of the connection is fulfilled.
    pub const NORMAL: Code = Code(1000);
    /// 1001: one side goes away, as a program that ends or a page that is left.
    pub const GOING_AWAY: Code = Code(1001);
    /// 1002: the peer does not keep to the protocol.
    pub const PROTOCOL: Code = Code(1002);
    /// 1003: the peer has sent a kind of message that is not accepted.
    pub const UNSUPPORTED: Code = Code(1003);
    /// 1005: the close frame had no code. Never sent.
    pub const NO_STATUS: Code = Code(1005);
    /// 1006: the connection has ended without a close frame. Never sent.
    pub const ABNORMAL: Code = Code(1006);
    /// 1007: the peer has sent invalid data, as a text that is not UTF-8.
    pub const INVALID_DATA: Code = Code(1007);
    /// 1008: the peer has broken a rule of the program.
    pub const POLICY: Code = Code(1008);
    /// 1009: a message is too big.
    pub const TOO_BIG: Code = Code(1009);
    /// 1010: the server lacks an extension that the client needs.
    pub const EXTENSION: Code = Code(1010);
    /// 1011: an internal error.
    pub const INTERNAL: Code = Code(1011);
    /// 1012: the service restarts.
    pub const RESTART: Code = Code(1012);
    /// 1013: the service is overloaded.
    pub const TRY_AGAIN: Code = Code(1013);

    /// Returns whether an endpoint may send this code: 1000 to 1003, 1007 to 1014, and 3000 to 4999, of which those from 4000 on
    /// are for the program's own use.
    pub fn is_sendable(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }

    /// Returns whether this is a normal end: 1000, 1001, or no code at all.
    pub fn is_normal(self) -> bool {
        [Code::NORMAL, Code::GOING_AWAY, Code::NO_STATUS].contains(&self)
    }

    /// Returns the meaning of a code of the protocol.
    pub(super) fn meaning(self) -> Option<&'static str> {
        Some(match self {
            Code::NORMAL => "normal",
            Code::GOING_AWAY => "going away",
            Code::PROTOCOL => "protocol error",
            Code::UNSUPPORTED => "unsupported data",
            Code::NO_STATUS => "no status",
            Code::ABNORMAL => "no close frame",
            Code::INVALID_DATA => "invalid data",
            Code::POLICY => "policy violation",
            Code::TOO_BIG => "message too big",
            Code::EXTENSION => "extension needed",
            Code::INTERNAL => "internal error",
            Code::RESTART => "service restart",
            Code::TRY_AGAIN => "try again later",
            _ => return None,
        })
    }
}

impl From<u16> for Code {
    fn from(code: u16) -> Self {
        Code(code)
    }
}

impl From<Code> for u16 {
    fn from(code: Code) -> Self {
        code.0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.meaning() {
            Some(meaning) => write!(f, "{} ({meaning})", self.0),
            None => self.0.fmt(f),
        }
    }
}

/// A close frame that the peer has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Close {
    /// The code. [`Code::NO_STATUS`] if the frame had none.
    pub code: Code,
    /// The reason, up to 123 bytes. Often empty.
    pub reason: String,
}

impl Default for Close {
    /// Returns a close frame without a code.
    fn default() -> Self {
        Close { code: Code::NO_STATUS, reason: String::new() }
    }
}

impl From<CloseFrame> for Close {
    fn from(frame: CloseFrame) -> Self {
        Close { code: Code(frame.code.into()), reason: frame.reason.as_str().to_owned() }
    }
}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.code.fmt(f)?;
        if self.reason.is_empty() { Ok(()) } else { write!(f, ": {}", Printable(&self.reason)) }
    }
}

/// The end of a connection, as passed to its disconnect callback.
#[derive(Debug)]
#[non_exhaustive]
pub struct Disconnect {
    /// The reason. [`Reason::Local`] after [`close`](super::WebSocket::close) and [`abort`](super::WebSocket::abort),
    /// [`Reason::Remote`] if the peer has closed with a [normal](Code::is_normal) code. Else the error:
    /// [`Error::WebSocket`] with another code of the peer's, with 1006 if the connection ended without a close frame, or with the
    /// code that was sent to the peer for what it did wrong; [`Error::TimedOut`] if no pong came; an error of the connection; or the
    /// error that a callback returned.
    pub reason: Reason,
    /// The peer's close frame, if one has come.
    pub close: Option<Close>,
}

/// Returns the payload of a close frame.
pub(super) fn payload(code: Code, reason: &str) -> Result<Vec<u8>> {
    if !code.is_sendable() {
        return Err(Error::InvalidOption(format!(
            "the close code {} cannot be sent; expected 1000 to 1003, 1007 to 1014, or 3000 to 4999",
            code.0
        )));
    }
    if reason.len() > LONGEST_REASON {
        let length = reason.len();
        return Err(Error::InvalidOption(format!(
            "the reason of a close frame has at most {LONGEST_REASON} bytes, and this one has {length}"
        )));
    }
    Ok([&code.0.to_be_bytes(), reason.as_bytes()].concat())
}

/// Returns a text that fits into a close frame.
pub(super) fn shortened(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(LONGEST_REASON)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_codes_that_may_be_sent_are() {
        for code in [1000, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 4999] {
            assert_eq!(payload(code.into(), "x").unwrap(), [&u16::to_be_bytes(code)[..], b"x"].concat());
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
            assert!(matches!(payload(code.into(), ""), Err(Error::InvalidOption(_))), "{code}");
        }
        assert!(payload(Code::NORMAL, &"ü".repeat(61)).is_ok());
        assert!(payload(Code::NORMAL, &"ü".repeat(62)).is_err());
    }

    #[test]
    fn a_text_is_shortened_between_characters() {
        assert_eq!(shortened(&"ü".repeat(100)).len(), 122);
        assert_eq!(shortened("short"), "short");
    }

    #[test]
    fn a_close_frame_is_shown_on_one_line() {
        let close = Close { code: Code::POLICY, reason: "no\nway".into() };
        assert_eq!(close.to_string(), "1008 (policy violation): no\\nway");
        assert_eq!(Close { code: Code(4001), reason: String::new() }.to_string(), "4001");
        assert!(Close::default().code.is_normal());
    }
}
