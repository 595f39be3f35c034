//! Heads of messages, as they pass: what hyper lets through and this crate does not. Pure.
//!
//! hyper accepts a `Content-Length` beside a `Transfer-Encoding`, codings other than `chunked`, lines that end in a bare LF, and
//! requests without a host. Two programs that read such a head differently can be played off against each other (RFC 9112,
//! section 11.2), so such a head is refused before hyper sees its end.

use memchr::memchr_iter;

use crate::error::count;

/// The kind of message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Response,
}

/// The length of the body that follows a head, as the head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// Nothing is said. After a request there is none; a response ends with the connection, or has none by its status.
    Unsaid,
    Length(u64),
    Chunked,
}

/// A complete head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// It ends after so many of the bytes that were given last.
    pub(super) end: usize,
    /// 0 for requests.
    pub(super) status: u16,
    pub(super) framing: Framing,
}

impl Head {
    /// Another head follows. A 101 is the last one of HTTP.
    pub(super) fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }
}

/// Looks for the end of a head in bytes as they come, and checks it.
#[derive(Debug)]
pub(super) struct Scan {
    kind: Kind,
    /// Lines may end in a bare LF.
    is_lenient: bool,
    limit: usize,
    /// The beginning of a head that came in several pieces.
    kept: Vec<u8>,
}

impl Scan {
    pub(super) fn new(kind: Kind, limit: usize, is_lenient: bool) -> Self {
        Scan { kind, is_lenient, limit, kept: Vec::new() }
    }

    /// Takes the next bytes. `None` if the head goes on. After a head, the next one may follow.
    ///
    /// # Errors
    /// The problem with the head.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Option<Head>, String> {
        let before = self.kept.len();
        if before > 0 {
            // A head of several pieces is seldom. It is looked through from its beginning, and bounded.
            self.kept.extend_from_slice(bytes.get(..self.limit.saturating_sub(before) + 1).unwrap_or(bytes));
            let kept = std::mem::take(&mut self.kept);
            let found = self.find(&kept)?;
            return match found {
                Some(head) => Ok(Some(Head { end: head.end - before, ..head })),
                None => {
                    self.kept = kept;
                    Ok(None)
                }
            };
        }
        let found = self.find(bytes)?;
        if found.is_none() {
            self.kept.extend_from_slice(bytes);
        }
        Ok(found)
    }

    fn find(&self, bytes: &[u8]) -> Result<Option<Head>, String> {
        // An empty line may stand before a message (RFC 9112, section 2.2).
        let start = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let mut line = start;
        for at in memchr_iter(b'\n', &bytes[start..]).map(|at| start + at) {
            let has_cr = at > line && bytes[at - 1] == b'\r';
            if !has_cr && !self.is_lenient {
                return Err("a line of the head ends in a bare LF".into());
            }
            if at + 1 > self.limit {
                break;
            }
            if at - usize::from(has_cr) == line {
                return read(self.kind, &bytes[start..line]).map(|head| Some(Head { end: at + 1, ..head }));
            }
            line = at + 1;
        }
        if bytes.len() > self.limit {
            return Err(format!("the head exceeds the limit of {} (header_limit)", count(self.limit, "byte")));
        }
        Ok(None)
    }
}

/// Reads the lines of a head.
fn read(kind: Kind, lines: &[u8]) -> Result<Head, String> {
    let (mut encodings, mut lengths, mut hosts, mut length) = (0, 0, 0, 0);
    let mut start = &b""[..];
    for (number, line) in lines.split(|byte| *byte == b'\n').enumerate() {
        if number == 0 {
            start = line.trim_ascii_end();
            continue;
        }
        // Most lines are none of these.
        if !matches!(line.first().map(u8::to_ascii_lowercase), Some(b't' | b'c' | b'h')) {
            continue;
        }
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            encodings += 1;
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(format!("Transfer-Encoding is {:?}, not chunked", value.escape_ascii().to_string()));
            }
        } else if name.eq_ignore_ascii_case(b"content-length") {
            lengths += 1;
            // What is no number, hyper refuses, as well as numbers that differ.
            length = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok()).unwrap_or(u64::MAX);
        } else if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
        }
    }
    if encodings > 1 {
        return Err("the head has more than one Transfer-Encoding".into());
    }
    if encodings > 0 && lengths > 0 {
        return Err("the head has both a Transfer-Encoding and a Content-Length".into());
    }
    if kind == Kind::Request && (hosts > 1 || hosts == 0 && start.ends_with(b"HTTP/1.1")) {
        return Err(format!("the request has {hosts} Host fields instead of one"));
    }
    let framing = match (encodings, lengths) {
        (0, 0) => Framing::Unsaid,
        (0, _) => Framing::Length(length),
        _ => Framing::Chunked,
    };
    let status = match kind {
        Kind::Request => 0,
        Kind::Response => status(start),
    };
    Ok(Head { end: 0, status, framing })
}

/// Returns the status in a status line. hyper refuses what has none.
fn status(line: &[u8]) -> u16 {
    let digits = line.split(|byte| *byte == b' ').nth(1).and_then(|word| std::str::from_utf8(word).ok());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 1000;

    fn scan(kind: Kind, text: &[u8]) -> Result<Option<Head>, String> {
        Scan::new(kind, LIMIT, false).take(text)
    }

    #[test]
    fn heads_are_found_and_read() {
        for (kind, text, end, status, framing) in [
            (Kind::Request, "GET / HTTP/1.1\r\nHost: x\r\n\r\nrest", 27, 0, Framing::Unsaid),
            (Kind::Request, "\r\nGET / HTTP/1.0\r\n\r\n", 20, 0, Framing::Unsaid),
            (Kind::Request, "POST / HTTP/1.1\r\nhost:x\r\nContent-Length:  5 \r\n\r\n", 48, 0, Framing::Length(5)),
            (Kind::Response, "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", 47, 200, Framing::Chunked),
            (Kind::Response, "HTTP/1.1 103 x\r\n\r\nHTTP/1.1 200 OK\r\n", 18, 103, Framing::Unsaid),
            (Kind::Response, "HTTP/1.1 204\r\n\r\n", 16, 204, Framing::Unsaid),
        ] {
            let head = scan(kind, text.as_bytes()).unwrap().unwrap();
            assert_eq!(head, Head { end, status, framing }, "{text:?}");
        }
        assert!(Head { end: 0, status: 103, framing: Framing::Unsaid }.is_interim());
        assert!(!Head { end: 0, status: 101, framing: Framing::Unsaid }.is_interim());
    }

    #[test]
    fn what_is_read_in_two_ways_is_refused() {
        for (kind, text, problem) in [
            (Kind::Response, "HTTP/1.1 200 OK\n\n", "bare LF"),
            (Kind::Response, "HTTP/1.1 200 OK\r\nA: b\n", "bare LF"),
            (Kind::Response, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "both"),
            (Kind::Response, "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "not chunked"),
            (Kind::Response, "HTTP/1.1 200 OK\r\nTransfer-Encoding: \r\n\r\n", "not chunked"),
            (
                Kind::Response,
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
                "more than one",
            ),
            (Kind::Request, "GET / HTTP/1.1\r\n\r\n", "0 Host"),
            (Kind::Request, "GET / HTTP/1.1\r\nHost: a\r\nHOST: b\r\n\r\n", "2 Host"),
            (Kind::Request, "GET / HTTP/1.0\r\nHost: a\r\nHOST: b\r\n\r\n", "2 Host"),
        ] {
            let error = scan(kind, text.as_bytes()).unwrap_err();
            assert!(error.contains(problem), "{text:?}: {error}");
        }
        let lenient = Scan::new(Kind::Response, LIMIT, true).take(b"HTTP/1.1 200 OK\nA: b\r\n\nx");
        assert_eq!(lenient.unwrap().unwrap().end, 23);
    }

    #[test]
    fn a_head_has_at_most_the_limit() {
        for (length, is_head) in [(LIMIT, true), (LIMIT + 1, false)] {
            let mut head = b"HTTP/1.1 200 OK\r\nA: ".to_vec();
            head.resize(length - 4, b'x');
            head.extend_from_slice(b"\r\n\r\n");
            for piece in [length, 100, 1] {
                let mut scan = Scan::new(Kind::Response, LIMIT, false);
                let found: Result<Vec<_>, _> = head.chunks(piece).map(|piece| scan.take(piece)).collect();
                assert_eq!(found.is_ok_and(|found| found.last().unwrap().is_some()), is_head, "{length} {piece}");
            }
        }
        // One that does not end is refused as well, and not kept.
        let mut scan = Scan::new(Kind::Response, LIMIT, false);
        assert!((0..).find_map(|_| scan.take(&[b'x'; 64]).err()).unwrap().contains("1000 bytes"));
        assert!(scan.kept.len() <= LIMIT + 1);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "([ -~]{0,20}|\r\n|\n|\r|Host: x\r\n|Content-Length: 7\r\n){0,12}(\r\n\r\n)?.{0,5}", at in 0..300usize) {
            let bytes = text.as_bytes();
            let whole = scan(Kind::Response, bytes);
            let (one, other) = bytes.split_at(at.min(bytes.len()));
            let mut scan = Scan::new(Kind::Response, LIMIT, false);
            let pieces = match scan.take(one) {
                Ok(None) => scan.take(other).map(|head| head.map(|head| Head { end: head.end + one.len(), ..head })),
                other => other,
            };
            prop_assert_eq!(pieces, whole);
        }
    }
}
