//! Replies, out of their lines. Pure: lines in, responses out.

use crate::error::ftp::{Response, Status};

/// The longest line of a reply, in bytes.
pub(super) const LONGEST_LINE: usize = 8 << 10;

/// The longest reply, in bytes.
pub(super) const LONGEST_REPLY: usize = 64 << 10;

/// A whole reply: the server's response, and its text as bytes, in which names are as the server has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) response: Response,
    pub(super) text: Vec<u8>,
}

impl Reply {
    fn new(status: u16, text: Vec<u8>) -> Self {
        let message = String::from_utf8_lossy(&text).into_owned();
        Reply { response: Response::new(Status(status), message), text }
    }

    pub(super) fn status(&self) -> Status {
        self.response.status
    }

    /// Returns whether another reply to the same command follows.
    pub(super) fn is_preliminary(&self) -> bool {
        self.status().0 < 200
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.text.split(|byte| *byte == b'\n')
    }
}

/// Why a line cannot be part of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// A reply that is being received.
#[derive(Debug, Default)]
pub(super) struct Replies {
    /// The status of a reply of several lines, of which more are to come.
    begun: Option<u16>,
    text: Vec<u8>,
}

impl Replies {
    /// Takes the next line, without its ending. Returns the reply if this was its last.
    ///
    /// Only the same three digits and a space end a reply of several lines; whatever comes before belongs to its text
    /// (RFC 959, section 4.2).
    pub(super) fn line(&mut self, line: &[u8]) -> Result<Option<Reply>, Malformed> {
        let Some(status) = self.begun else { return self.first(line) };
        let (is_last, text) = match (status_of(line), line.get(3)) {
            (Some(found), Some(b' ')) if found == status => (true, &line[4..]),
            (Some(found), None) if found == status => (true, &line[3..]),
            (Some(found), Some(b'-')) if found == status => (false, &line[4..]),
            _ => (false, line),
        };
        if self.text.len() + text.len() >= LONGEST_REPLY {
            *self = Replies::default();
            return Err(Malformed("the reply exceeds 64 KiB"));
        }
        self.text.push(b'\n');
        self.text.extend_from_slice(text);
        if !is_last {
            return Ok(None);
        }
        let text = std::mem::take(self).text;
        Ok(Some(Reply::new(status, text)))
    }

    fn first(&mut self, line: &[u8]) -> Result<Option<Reply>, Malformed> {
        let status = status_of(line).ok_or(Malformed("the reply does not begin with three digits"))?;
        match line.get(3) {
            None => Ok(Some(Reply::new(status, Vec::new()))),
            Some(b' ') => Ok(Some(Reply::new(status, line[4..].to_vec()))),
            Some(b'-') => {
                self.begun = Some(status);
                self.text = line[4..].to_vec();
                Ok(None)
            }
            Some(_) => Err(Malformed("neither a space nor a hyphen follows the three digits of the reply")),
        }
    }
}

/// The three digits that a line begins with: 1 to 5, and two more.
fn status_of(line: &[u8]) -> Option<u16> {
    match line.get(..3)? {
        [first @ b'1'..=b'5', second @ b'0'..=b'9', third @ b'0'..=b'9'] => {
            let digit = |byte: &u8| u16::from(*byte - b'0');
            Some(digit(first) * 100 + digit(second) * 10 + digit(third))
        }
        _ => None,
    }
}

/// Any lines, for fuzzing: nothing panics, and no more is kept than a reply may have.
#[cfg(any(test, fuzzing))]
pub(crate) fn check(data: &[u8]) {
    let mut replies = Replies::default();
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(Some(reply)) = replies.line(line) {
            assert!((100..600).contains(&reply.status().0));
            assert!(reply.text.len() <= LONGEST_REPLY.max(line.len()));
        }
        assert!(replies.text.len() <= LONGEST_REPLY.max(line.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(u16, String)>, Malformed> {
        let mut replies = Replies::default();
        let mut all = Vec::new();
        for line in text.split('\n') {
            if let Some(reply) = replies.line(line.as_bytes())? {
                all.push((reply.status().0, reply.response.message));
            }
        }
        assert!(replies.begun.is_none(), "{text:?} does not end");
        Ok(all)
    }

    fn one(status: u16, text: &str) -> Result<Vec<(u16, String)>, Malformed> {
        Ok(vec![(status, text.into())])
    }

    #[test]
    fn replies_of_one_line() {
        assert_eq!(read("220 ready"), one(220, "ready"));
        assert_eq!(read("200"), one(200, ""));
        assert_eq!(read("200 "), one(200, ""));
        assert_eq!(read("257 \"a\"\"b\" is it"), one(257, "\"a\"\"b\" is it"));
    }

    #[test]
    fn replies_of_several_lines_end_at_the_same_status_and_a_space_only() {
        assert_eq!(read("220-Welcome\n230 no end\n 220 nor this\n220-nor this\n220 end"), {
            one(220, "Welcome\n230 no end\n 220 nor this\nnor this\nend")
        });
        assert_eq!(read("211-Features:\n MDTM\n SIZE\n211 End"), one(211, "Features:\n MDTM\n SIZE\nEnd"));
        assert_eq!(read("211-x\n\n2110 y\n211"), one(211, "x\n\n2110 y\n"));
    }

    #[test]
    fn two_replies_in_a_row() {
        assert_eq!(read("426 aborted\n226 done").unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_reply() {
        for text in
            ["", "22", "hello", "SSH-2.0-x", "20a x", "620 x", "020 x", "2200 x", "220\tx", " 220 x", "\u{ff12}20"]
        {
            assert!(read(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_reply_ends_at_64_kib() {
        let line = "x".repeat(1000);
        let mut replies = Replies::default();
        assert_eq!(replies.line(b"220-"), Ok(None));
        let lines = (0..100).map_while(|_| replies.line(line.as_bytes()).ok()).count();
        assert_eq!(lines, LONGEST_REPLY / 1001);
        assert_eq!(replies.line(b"220 a new one").unwrap().unwrap().response.message, "a new one");
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(data: Vec<u8>) {
            check(&data);
        }

        #[test]
        fn what_is_written_is_read(status in 100u16..600, lines in proptest::collection::vec("[ -~]{0,30}", 1..6)) {
            let last = lines.len() - 1;
            let mut replies = Replies::default();
            let mut read = None;
            for (index, text) in lines.iter().enumerate() {
                let hyphen = if index == last { ' ' } else { '-' };
                proptest::prop_assert!(read.is_none());
                read = replies.line(format!("{status}{hyphen}{text}").as_bytes()).unwrap();
            }
            proptest::prop_assert_eq!(read.unwrap().response, Response::new(Status(status), lines.join("\n")));
        }
    }
}
