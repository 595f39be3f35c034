//! SOCKS version 5 (RFC 1928), with user and password (RFC 1929).

use std::net::{IpAddr, SocketAddr};

use super::hop::{Credentials, Destination};
use super::negotiation::{Problem, Step, fill, not_speaking};

const VERSION: u8 = 5;
const CONNECT: u8 = 1;

/// Methods of authentication.
const NONE: u8 = 0;
const PASSWORD: u8 = 2;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;

/// The version of the password's negotiation.
const PASSWORD_VERSION: u8 = 1;

/// Types of addresses.
const V4: u8 = 1;
const NAME: u8 = 3;
const V6: u8 = 4;

/// The message that is awaited.
#[derive(Clone, Copy, PartialEq)]
enum Awaited {
    Method,
    Password,
    Reply,
}

pub(super) struct Socks5 {
    pub(super) output: Vec<u8>,
    credentials: Option<Credentials>,
    request: Vec<u8>,
    awaited: Awaited,
    message: Vec<u8>,
}

impl Socks5 {
    pub(super) fn new(credentials: Option<Credentials>, destination: &Destination) -> Self {
        let output = match credentials {
            None => vec![VERSION, 1, NONE],
            Some(_) => vec![VERSION, 2, NONE, PASSWORD],
        };
        let request = request(destination);
        Socks5 { output, credentials, request, awaited: Awaited::Method, message: Vec::new() }
    }

    pub(super) fn take(&mut self, input: &[u8]) -> Result<(usize, Step), Problem> {
        let mut used = 0;
        loop {
            let needed = self.needed()?;
            if self.message.len() < needed {
                used += fill(&mut self.message, needed, &input[used..]);
                if self.message.len() < needed {
                    // Whatever is wrong with what there is, is wrong without the rest.
                    self.needed()?;
                    return Ok((used, Step::More));
                }
            } else if self.advance()? == Step::Done {
                return Ok((used, Step::Done));
            }
        }
    }

    /// Returns the length of the awaited message, as far as it is known by now.
    fn needed(&self) -> Result<usize, Problem> {
        let message = &self.message;
        match (self.awaited, message.as_slice()) {
            (Awaited::Method | Awaited::Reply, [version, ..]) if *version != VERSION => {
                Err(not_speaking("SOCKS5", *version))
            }
            (Awaited::Method | Awaited::Password, _) => Ok(2),
            (Awaited::Reply, [_, reply, ..]) if *reply != 0 => Err(refusal(*reply)),
            (Awaited::Reply, [_, _, _, kind, first, ..]) => match *kind {
                V4 => Ok(4 + 4 + 2),
                V6 => Ok(4 + 16 + 2),
                NAME => Ok(4 + 1 + usize::from(*first) + 2),
                kind => Err(Problem::Proxy(format!("its SOCKS5 reply has an unknown address type {kind}"))),
            },
            (Awaited::Reply, _) => Ok(5),
        }
    }

    /// Acts on a whole message.
    fn advance(&mut self) -> Result<Step, Problem> {
        let message = std::mem::take(&mut self.message);
        match (self.awaited, message.get(1).copied().unwrap_or_default()) {
            (Awaited::Method, NONE) => self.ask(),
            (Awaited::Method, PASSWORD) if self.credentials.is_some() => self.authenticate(),
            (Awaited::Method, NO_ACCEPTABLE_METHOD) => {
                return Err(Problem::Proxy(match self.credentials {
                    None => "it requires a user and password, as in socks5://user:password@host".into(),
                    Some(_) => "it accepts no user and password, nor a client without them".into(),
                }));
            }
            (Awaited::Method, method) => {
                return Err(Problem::Proxy(format!(
                    "it selects the authentication method {method}, which was not offered"
                )));
            }
            (Awaited::Password, 0) => self.ask(),
            (Awaited::Password, _) => return Err(Problem::Proxy("it rejects the user or password".into())),
            (Awaited::Reply, _) => return Ok(Step::Done),
        }
        Ok(Step::More)
    }

    fn ask(&mut self) {
        self.awaited = Awaited::Reply;
        self.output.append(&mut self.request);
    }

    fn authenticate(&mut self) {
        self.awaited = Awaited::Password;
        let Some(Credentials { user, password }) = &self.credentials else { return };
        self.output.push(PASSWORD_VERSION);
        for part in [user, password] {
            self.output.extend(counted(part.as_bytes()));
        }
    }
}

/// A text after its length in one byte. Longer ones are refused before anything is sent.
fn counted(text: &[u8]) -> impl Iterator<Item = u8> {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    std::iter::once(length).chain(text.iter().copied().take(length.into()))
}

fn request(destination: &Destination) -> Vec<u8> {
    let mut request = vec![VERSION, CONNECT, 0];
    let port = match destination {
        Destination::Name(name, port) => {
            request.push(NAME);
            request.extend(counted(name.as_bytes()));
            *port
        }
        Destination::Address(address) => {
            add_address(&mut request, address);
            address.port()
        }
    };
    request.extend(port.to_be_bytes());
    request
}

fn add_address(request: &mut Vec<u8>, address: &SocketAddr) {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            request.push(V4);
            request.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            request.push(V6);
            request.extend(ip.octets());
        }
    }
}

/// The reply codes in words (RFC 1928, section 6).
fn refusal(code: u8) -> Problem {
    let words = match code {
        1 => "general failure",
        2 => "its rules do not allow this connection",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "time to live expired",
        7 => return Problem::Proxy("it does not support connecting".into()),
        8 => "it does not support this type of address",
        code => return Problem::Target(format!("SOCKS5 error {code}")),
    };
    Problem::Target(words.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::proxy::hop::Hop;
    use crate::connect::proxy::negotiation::Negotiation;

    fn begin(url: &str, destination: Destination) -> Negotiation {
        Negotiation::new(&Hop::parse(url, None).unwrap(), &destination, 100)
    }

    fn sent(negotiation: &mut Negotiation) -> Vec<u8> {
        std::mem::take(negotiation.output())
    }

    fn name() -> Destination {
        Destination::Name("target.test".into(), 0x1234)
    }

    #[test]
    fn a_name_by_a_proxy_with_a_password() {
        let mut talk = begin("socks5h://me:secret@proxy", name());
        assert_eq!(sent(&mut talk), [5, 2, 0, 2]);
        assert_eq!(talk.take(&[5, 2]), Ok((2, Step::More)));
        assert_eq!(sent(&mut talk), b"\x01\x02me\x06secret");
        assert_eq!(talk.take(&[1, 0]), Ok((2, Step::More)));
        assert_eq!(sent(&mut talk), b"\x05\x01\x00\x03\x0btarget.test\x12\x34");
        assert_eq!(talk.take(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50hello"), Ok((10, Step::Done)));
    }

    #[test]
    fn addresses_and_every_kind_of_reply() {
        for (address, request) in [
            ("192.0.2.1:80", b"\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50".to_vec()),
            ("[::ffff:192.0.2.1]:80", b"\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50".to_vec()),
            ("[2001:db8::1]:80", [&b"\x05\x01\x00\x04\x20\x01\x0d\xb8"[..], &[0; 11], &[1, 0, 80]].concat()),
        ] {
            for reply in [
                [&[5, 0, 0, 1][..], &[0; 6]].concat(),
                [&[5, 0, 0, 4][..], &[0; 18]].concat(),
                [&[5, 0, 0, 3, 3][..], b"abc", &[0; 2]].concat(),
                [&[5, 0, 0, 3, 0][..], &[0; 2]].concat(),
            ] {
                let mut talk = begin("socks5://proxy", Destination::Address(address.parse().unwrap()));
                assert_eq!(sent(&mut talk), [5, 1, 0]);
                // One byte at a time.
                let input = [&[5, 0], reply.as_slice()].concat();
                for (at, byte) in input.iter().enumerate() {
                    let is_last = at + 1 == input.len();
                    let step = if is_last { Step::Done } else { Step::More };
                    assert_eq!(talk.take(&[*byte]), Ok((1, step)));
                    if at == 1 {
                        assert_eq!(sent(&mut talk), request);
                    }
                }
            }
        }
    }

    #[test]
    fn refusals_and_lies_are_told_in_words() {
        for (url, replies, words) in [
            ("socks5://p", &[&[4u8, 0][..]][..], "does not speak SOCKS5"),
            ("socks5://p", &[b"H"], "an HTTP proxy"),
            ("socks5://p", &[&[5, 0xff]], "requires a user and password"),
            ("socks5://u:p@p", &[&[5, 0xff]], "accepts no user"),
            ("socks5://p", &[&[5, 2]], "method 2, which was not offered"),
            ("socks5://u:p@p", &[&[5, 2], &[1, 1]], "rejects the user or password"),
            ("socks5://p", &[&[5, 0], &[5, 2]], "rules"),
            ("socks5://p", &[&[5, 0], &[5, 5]], "connection refused"),
            ("socks5://p", &[&[5, 0], &[5, 99]], "error 99"),
            ("socks5://p", &[&[5, 0], &[4]], "does not speak SOCKS5"),
            ("socks5://p", &[&[5, 0], &[5, 0, 0, 7, 0]], "unknown address type 7"),
        ] {
            let mut talk = begin(url, name());
            let (last, first) = replies.split_last().unwrap();
            for reply in first {
                assert!(talk.take(reply).is_ok(), "{words}");
            }
            let problem = talk.take(last).unwrap_err().text();
            assert!(problem.contains(words), "{problem}");
        }
    }
}
