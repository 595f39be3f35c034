//! The gate that every byte of a client passes before hyper sees it: a value. It lets one message through at a time: a whole head
//! that keeps to the rules, then its body to the last byte.
//!
//! What hyper lets pass and other servers read differently, which is what request smuggling is made of, is refused here: bare line
//! feeds, `Content-Length` beside `Transfer-Encoding`, codings other than `chunked`, a second `Host` (RFC 9112, sections 3.2 and
//! 6.3).

use super::chunks::{Chunks, Progress};

/// The limits of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeadLimits {
    /// Of the whole head, in bytes.
    pub(super) head: usize,
    /// Of the target, in bytes.
    pub(super) target: usize,
    /// Number of header fields.
    pub(super) fields: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        HeadLimits { head: 32 << 10, target: 8 << 10, fields: 100 }
    }
}

/// Why a head is refused: the status, and the reason in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) reason: &'static str,
    /// The request is a `HEAD`, whose reply has no body.
    pub(super) is_head: bool,
}

fn refuse<T>(status: u16, reason: &'static str) -> Result<T, Refusal> {
    Err(Refusal { status, reason, is_head: false })
}

/// The body that follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes, which may be none.
    Length(u64),
    Chunked,
}

/// Looks for the end of a head in `bytes`, from `from` on, where an earlier look has ended. Returns its length.
///
/// # Errors
/// A line feed without a carriage return before it.
pub(super) fn find_end(bytes: &[u8], from: usize) -> Result<Option<usize>, Refusal> {
    for found in memchr::memchr_iter(b'\n', &bytes[from..]) {
        let at = from + found;
        if at == 0 || bytes[at - 1] != b'\r' {
            return refuse(400, "a line of the head ends without a carriage return");
        }
        if at >= 3 && bytes[at - 2] == b'\n' {
            return Ok(Some(at + 1));
        }
    }
    Ok(None)
}

/// Checks the beginning of a head that is not complete: it may be too long already, or no HTTP at all.
pub(super) fn check_beginning(bytes: &[u8], limits: HeadLimits) -> Result<(), Refusal> {
    match bytes.first() {
        Some(first) if !is_token(*first) => return refuse(400, "this is not HTTP"),
        _ => {}
    }
    let line = memchr::memchr(b'\r', bytes).unwrap_or(bytes.len());
    let target = bytes[..line].splitn(3, |byte| *byte == b' ').nth(1);
    if target.is_some_and(|target| target.len() > limits.target) {
        return refuse(414, "the target is too long");
    }
    if bytes.len() > limits.head {
        return refuse(431, "the head is too long");
    }
    Ok(())
}

/// Checks a whole head, and returns what follows it.
///
/// # Errors
/// The reason to refuse it. The connection cannot be used any further then.
pub(super) fn check_head(head: &[u8], limits: HeadLimits) -> Result<Framing, Refusal> {
    check_all(head, limits).map_err(|refusal| Refusal { is_head: head.starts_with(b"HEAD "), ..refusal })
}

fn check_all(head: &[u8], limits: HeadLimits) -> Result<Framing, Refusal> {
    check_beginning(head, limits)?;
    let mut lines = Lines(head);
    let request = lines.next().unwrap_or_default();
    let (target, is_new) = check_request_line(request)?;
    let mut fields = Fields::default();
    let mut count = 0;
    for line in lines {
        count += 1;
        if count > limits.fields {
            return refuse(431, "there are too many header fields");
        }
        fields.note(line)?;
    }
    fields.check(target, is_new)
}

/// The lines of a head, which all end in `\r\n`, up to the empty one.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memchr(b'\n', self.0)?;
        let line = &self.0[..end.saturating_sub(1)];
        self.0 = &self.0[end + 1..];
        (!line.is_empty()).then_some(line)
    }
}

/// Returns the target, and whether the version is 1.1 rather than 1.0.
fn check_request_line(line: &[u8]) -> Result<(&[u8], bool), Refusal> {
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let (Some(method), Some(target), Some(version), None) = (method, target, version, words.next()) else {
        return refuse(400, "the request line is malformed");
    };
    // Methods are case-sensitive, and there is none in lower case: others refuse that, or take it for the one in upper case.
    if method.is_empty() || !method.iter().all(|byte| byte.is_ascii_uppercase() || b"_-".contains(byte)) {
        return refuse(400, "the method is malformed");
    }
    let is_new = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ => return refuse(400, "the version is not HTTP/1.1 or HTTP/1.0"),
    };
    if method == b"CONNECT" {
        return refuse(405, "this server is no proxy");
    }
    if target.is_empty() || !target.iter().all(|byte| (0x21..=0x7e).contains(byte)) {
        return refuse(400, "the target is malformed");
    }
    if target.contains(&b'#') {
        return refuse(400, "the target has a fragment");
    }
    let is_whole_server = target == b"*" && method == b"OPTIONS";
    if !is_whole_server && target[0] != b'/' && authority_of(target).is_none() {
        return refuse(400, "the target is neither a path nor a URL of HTTP");
    }
    Ok((target, is_new))
}

/// Returns the host and port of a target that is a URL of HTTP.
fn authority_of(target: &[u8]) -> Option<&[u8]> {
    let at = target.windows(3).position(|three| three == b"://")?;
    let (scheme, rest) = (&target[..at], &target[at + 3..]);
    let is_http = scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https");
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    is_http.then(|| &rest[..end])
}

/// The fields of a head that say where it goes and how its body is framed.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a [u8]>,
    length: Option<u64>,
    is_chunked: bool,
}

impl<'a> Fields<'a> {
    fn note(&mut self, line: &'a [u8]) -> Result<(), Refusal> {
        if matches!(line[0], b' ' | b'\t') {
            return refuse(400, "a header field is folded over two lines");
        }
        let Some(colon) = memchr::memchr(b':', line) else {
            return refuse(400, "a header field has no colon");
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return refuse(400, "the name of a header field is malformed");
        }
        if !value.iter().all(|byte| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7f)) {
            return refuse(400, "a header field contains a control character");
        }
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.note_host(value),
            14 if name.eq_ignore_ascii_case(b"content-length") => self.note_length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if !value.eq_ignore_ascii_case(b"chunked") || self.is_chunked {
                    return refuse(400, "the transfer coding is not just chunked");
                }
                self.is_chunked = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn note_host(&mut self, value: &'a [u8]) -> Result<(), Refusal> {
        let is_of_host = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+,;=".contains(byte);
        if self.host.is_some() {
            return refuse(400, "there are two Host fields");
        }
        if !value.iter().all(is_of_host) {
            return refuse(400, "the Host field is malformed");
        }
        self.host = Some(value);
        Ok(())
    }

    fn note_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.length.is_some() {
            return refuse(400, "there are two Content-Length fields");
        }
        let digits = if value.iter().all(u8::is_ascii_digit) { std::str::from_utf8(value).ok() } else { None };
        let Some(length) = digits.and_then(|digits| digits.parse().ok()) else {
            return refuse(400, "the Content-Length is not a number");
        };
        self.length = Some(length);
        Ok(())
    }

    fn check(&self, target: &[u8], is_new: bool) -> Result<Framing, Refusal> {
        if self.is_chunked && self.length.is_some() {
            return refuse(400, "there are both Content-Length and Transfer-Encoding");
        }
        if self.is_chunked && !is_new {
            return refuse(400, "HTTP/1.0 has no Transfer-Encoding");
        }
        if is_new && self.host.is_none() {
            return refuse(400, "there is no Host field");
        }
        match (authority_of(target).filter(|_| target[0] != b'/'), self.host) {
            (Some(authority), _) if authority.is_empty() || authority.contains(&b'@') => {
                return refuse(400, "the target names no host");
            }
            (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
                return refuse(400, "the target names another host than the Host field");
            }
            _ => {}
        }
        Ok(if self.is_chunked { Framing::Chunked } else { Framing::Length(self.length.unwrap_or(0)) })
    }
}

/// Returns whether a byte may be in a token (RFC 9110, section 5.6.2).
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The part of a message that passes the gate next.
#[derive(Debug, Default)]
pub(super) enum Passing {
    /// A head, of which nothing or only a part has come.
    #[default]
    Head,
    /// A body of which so much is left.
    Length(u64),
    Chunked(Chunks),
    /// Nothing more: what comes is not taken.
    Nothing,
}

impl Passing {
    pub(super) fn after_head(framing: Framing) -> Self {
        match framing {
            Framing::Length(0) => Passing::Head,
            Framing::Length(length) => Passing::Length(length),
            Framing::Chunked => Passing::Chunked(Chunks::default()),
        }
    }

    /// Returns how many of the bytes of a body belong to it, and goes on to the next head after the last one. Nothing more passes
    /// after a chunk that breaks the rules.
    pub(super) fn body(&mut self, bytes: &[u8]) -> usize {
        let (count, is_over) = match self {
            Passing::Length(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= count as u64;
                (count, *left == 0)
            }
            Passing::Chunked(chunks) => match chunks.advance(bytes) {
                Progress::More => (bytes.len(), false),
                Progress::Over(count) => (count, true),
                Progress::Broken => {
                    *self = Passing::Nothing;
                    return 0;
                }
            },
            Passing::Head | Passing::Nothing => return 0,
        };
        if is_over {
            *self = Passing::Head;
        }
        count
    }
}
