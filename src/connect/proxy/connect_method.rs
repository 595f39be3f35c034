//! The method CONNECT of HTTP (RFC 9110, section 9.3.6).

use super::challenge;
use super::hop::{Credentials, Destination};
use super::negotiation::{Problem, Step};
use crate::log::Printable;

/// The longest status line in a message, in characters.
const SHOWN: usize = 200;

/// The only status of the proxy's own to answer.
const AUTHENTICATION_REQUIRED: u16 = 407;

pub(super) struct Connect {
    pub(super) output: Vec<u8>,
    /// Host and port, as the request has them.
    target: String,
    credentials: Option<Credentials>,
    /// A challenge has been answered.
    answered: bool,
    head: Vec<u8>,
    /// The bytes that may still come.
    left: usize,
    limit: usize,
}

impl Connect {
    pub(super) fn new(credentials: Option<Credentials>, destination: &Destination, limit: usize) -> Self {
        let target = destination.to_string();
        let output = request(&target, None);
        Connect { output, target, credentials, answered: false, head: Vec::new(), left: limit, limit }
    }

    pub(super) fn take(&mut self, input: &[u8]) -> Result<(usize, Step), Problem> {
        for (at, byte) in input.iter().enumerate() {
            self.left = self.left.checked_sub(1).ok_or_else(|| {
                Problem::Proxy(format!("its reply exceeds the limit of {} bytes (Proxy::reply_limit)", self.limit))
            })?;
            self.head.push(*byte);
            let protocol = &b"HTTP/"[..self.head.len().min(5)];
            if !self.head.starts_with(protocol) {
                // The alert of a server that expects TLS.
                let expects_tls = self.head == [0x15];
                let problem =
                    if expects_tls { "it expects TLS; its URL begins with https://" } else { "it does not speak HTTP" };
                return Err(Problem::Proxy(problem.into()));
            }
            if *byte == b'\n' && (self.head.ends_with(b"\n\r\n") || self.head.ends_with(b"\n\n")) {
                match self.judge()? {
                    Step::More => {}
                    step => return Ok((at + 1, step)),
                }
            }
        }
        Ok((input.len(), Step::More))
    }

    /// Acts on a whole head.
    fn judge(&mut self) -> Result<Step, Problem> {
        let head = std::mem::take(&mut self.head);
        let head = String::from_utf8_lossy(&head);
        let (line, fields) = head.split_once('\n').unwrap_or((&head, ""));
        let line = line.trim_end();
        let short: String = line.chars().take(SHOWN).collect();
        let shown = Printable(&short).to_string();
        match status(line) {
            // Progress. The final status follows.
            Some(100..200) => Ok(Step::More),
            Some(200..300) => Ok(Step::Done),
            Some(AUTHENTICATION_REQUIRED) => self.authenticate(fields, &shown),
            Some(_) => Err(Problem::Target(shown)),
            None => Err(Problem::Proxy(format!("invalid status line {shown:?}"))),
        }
    }

    /// Answers a challenge, once.
    fn authenticate(&mut self, fields: &str, shown: &str) -> Result<Step, Problem> {
        let Some(credentials) = &self.credentials else {
            return Err(Problem::Proxy(format!(
                "{shown}: it requires a user and password, as in http://user:password@host"
            )));
        };
        if self.answered {
            return Err(Problem::Proxy(format!("{shown}: it rejects the user or password")));
        }
        let answer = challenge::answer(fields, credentials, &self.target)
            .map_err(|problem| Problem::Proxy(format!("{shown}: {problem}")))?;
        self.answered = true;
        self.output = request(&self.target, Some(&answer));
        self.left = self.limit;
        Ok(Step::Anew)
    }
}

/// Returns the status code of a status line.
fn status(line: &str) -> Option<u16> {
    let mut words = line.split(' ');
    let (version, code) = (words.next()?, words.next()?);
    let is_code = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
    (version.starts_with("HTTP/") && is_code).then(|| code.parse().ok())?
}

fn request(target: &str, answer: Option<&str>) -> Vec<u8> {
    let answer = answer.map(|answer| format!("Proxy-Authorization: {answer}\r\n")).unwrap_or_default();
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{answer}\r\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(with_password: bool) -> Connect {
        let credentials = Credentials { user: "me".into(), password: "secret".into() };
        Connect::new(with_password.then_some(credentials), &Destination::Name("target.test".into(), 443), 200)
    }

    #[test]
    fn the_reply_ends_with_its_empty_line() {
        for reply in [
            "HTTP/1.1 200 Connection established\r\n\r\n",
            "HTTP/1.0 200\nX: y\n\n",
            "HTTP/1.1 299 x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        ] {
            let mut connect = begin(false);
            assert_eq!(connect.output, b"CONNECT target.test:443 HTTP/1.1\r\nHost: target.test:443\r\n\r\n");
            let input = format!("{reply}hello\r\n\r\n");
            assert_eq!(connect.take(input.as_bytes()), Ok((reply.len(), Step::Done)), "{reply:?}");
            let mut connect = begin(false);
            for (at, byte) in reply.bytes().enumerate() {
                let step = if at + 1 == reply.len() { Step::Done } else { Step::More };
                assert_eq!(connect.take(&[byte]), Ok((1, step)), "{reply:?}");
            }
        }
    }

    #[test]
    fn refusals_are_told_by_their_status_line() {
        let long = format!("HTTP/1.1 200 {}", "x".repeat(200));
        for (reply, words) in [
            ("HTTP/1.1 403 Filtered\r\n\r\n<html>", "HTTP/1.1 403 Filtered"),
            ("HTTP/1.1 502 a\x1b[2J\u{202e}b\r\n\r\n", "HTTP/1.1 502 a\\u{1b}[2J\\u{202e}b"),
            ("HTTP/1.1 407 Who?\r\n\r\n", "requires a user and password"),
            ("HTTP/1.1 2000 x\r\n\r\n", "invalid status line"),
            ("HTTP/1.1\r\n\r\n", "invalid status line"),
            ("SSH-2.0-x\r\n", "does not speak HTTP"),
            ("\r\n", "does not speak HTTP"),
            ("\x15\x03\x03", "it expects TLS; its URL begins with https://"),
            (long.as_str(), "exceeds the limit of 200 bytes"),
        ] {
            let problem = begin(false).take(reply.as_bytes()).unwrap_err().text();
            assert!(problem.contains(words), "{problem}");
        }
    }

    #[test]
    fn a_challenge_is_answered_once() {
        let challenge = b"HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n";
        let mut connect = begin(true);
        assert!(!connect.output.windows(13).any(|part| part == b"Authorization"), "not before it is asked for");
        assert_eq!(connect.take(challenge), Ok((challenge.len(), Step::Anew)));
        let output = String::from_utf8(connect.output.clone()).unwrap();
        assert!(output.contains("\r\nProxy-Authorization: Basic bWU6c2VjcmV0\r\n"), "{output}");
        let problem = connect.take(challenge).unwrap_err().text();
        assert!(problem.contains("rejects the user or password"), "{problem}");
        let problem = begin(true).take(b"HTTP/1.1 407 Who\r\nProxy-Authenticate: NTLM\r\n\r\n").unwrap_err().text();
        assert!(problem.contains("NTLM"), "{problem}");
    }
}
