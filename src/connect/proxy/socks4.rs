//! SOCKS version 4, with host names (SOCKS4a).

use std::net::IpAddr;

use super::hop::{Credentials, Destination};
use super::negotiation::{Problem, Step, fill, not_speaking};

const VERSION: u8 = 4;
const CONNECT: u8 = 1;

/// The length of a reply, in bytes.
const REPLY: usize = 8;

const GRANTED: u8 = 90;

pub(super) struct Socks4 {
    pub(super) output: Vec<u8>,
    reply: Vec<u8>,
}

impl Socks4 {
    pub(super) fn new(credentials: Option<Credentials>, destination: &Destination) -> Self {
        let (port, ip, name) = match destination {
            Destination::Name(name, port) => (*port, [0, 0, 0, 1], Some(name)),
            Destination::Address(address) => match address.ip().to_canonical() {
                IpAddr::V4(ip) => (address.port(), ip.octets(), None),
                // Refused before anything is sent: no host has this address.
                IpAddr::V6(_) => (address.port(), [0; 4], None),
            },
        };
        let mut output = vec![VERSION, CONNECT];
        output.extend(port.to_be_bytes());
        output.extend(ip);
        output.extend(credentials.map(|known| known.user.into_bytes()).unwrap_or_default());
        output.push(0);
        if let Some(name) = name {
            output.extend(name.bytes());
            output.push(0);
        }
        Socks4 { output, reply: Vec::new() }
    }

    pub(super) fn take(&mut self, input: &[u8]) -> Result<(usize, Step), Problem> {
        let used = fill(&mut self.reply, REPLY, input);
        match self.reply.as_slice() {
            [version, ..] if *version != 0 => Err(not_speaking("SOCKS4a", *version)),
            [_, code, ..] if *code != GRANTED => Err(refusal(*code)),
            reply if reply.len() == REPLY => Ok((used, Step::Done)),
            _ => Ok((used, Step::More)),
        }
    }
}

fn refusal(code: u8) -> Problem {
    match code {
        91 => Problem::Target("it rejects the request, or cannot connect".into()),
        92 => Problem::Proxy("it requires an identd on this machine, and cannot reach one".into()),
        93 => Problem::Proxy("the user of its URL is not the one that identd on this machine tells".into()),
        code => Problem::Target(format!("SOCKS4 error {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let user = Some(Credentials { user: "me".into(), password: String::new() });
        let name = Destination::Name("target.test".into(), 80);
        assert_eq!(Socks4::new(user, &name).output, b"\x04\x01\x00\x50\x00\x00\x00\x01me\x00target.test\x00");
        let address = Destination::Address("192.0.2.1:80".parse().unwrap());
        assert_eq!(Socks4::new(None, &address).output, b"\x04\x01\x00\x50\xc0\x00\x02\x01\x00");
    }

    #[test]
    fn replies() {
        let new = || Socks4::new(None, &Destination::Name("x".into(), 1));
        assert_eq!(new().take(b"\x00\x5a123456hello"), Ok((8, Step::Done)));
        let mut talk = new();
        for _ in 0..7 {
            let byte = if talk.reply.len() == 1 { 90 } else { 0 };
            assert_eq!(talk.take(&[byte]), Ok((1, Step::More)));
        }
        assert_eq!(talk.take(&[0, 1]), Ok((1, Step::Done)));
        for (reply, words) in [
            (&b"HTTP"[..], "an HTTP proxy"),
            (&[5, 0], "does not speak SOCKS4a"),
            (&[0, 91], "rejects the request"),
            (&[0, 92], "identd"),
            (&[0, 93], "identd"),
            (&[0, 0], "error 0"),
        ] {
            let problem = new().take(reply).unwrap_err().text();
            assert!(problem.contains(words), "{problem}");
        }
    }
}
