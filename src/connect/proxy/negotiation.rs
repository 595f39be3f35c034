//! The conversation with a proxy as a value: told what came, it says what to send and when it is over. It never takes a byte
//! behind the proxy's reply: that is the target's.

use super::connect_method::Connect;
use super::hop::{Destination, Hop, Protocol};
use super::socks4::Socks4;
use super::socks5::Socks5;

/// The state after some input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// All of the input has been taken, and there will be more.
    More,
    /// The proxy has connected to the target. The rest of the input is the target's.
    Done,
    /// To be continued on a new connection to the proxy.
    Anew,
}

/// The reason why a proxy does not connect.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// It cannot reach the target, or may not.
    Target(String),
    /// Anything else. Another target would have it too.
    Proxy(String),
}

impl Problem {
    pub(super) fn text(self) -> String {
        match self {
            Problem::Target(text) | Problem::Proxy(text) => text,
        }
    }
}

/// A conversation with a proxy.
pub(super) enum Negotiation {
    Socks5(Socks5),
    Socks4(Socks4),
    Connect(Box<Connect>),
}

impl Negotiation {
    /// Begins. A reply of HTTP has at most `limit` bytes.
    pub(super) fn new(hop: &Hop, destination: &Destination, limit: usize) -> Self {
        let credentials = hop.credentials.clone();
        match hop.protocol {
            Protocol::Socks5 | Protocol::Socks5Names => Negotiation::Socks5(Socks5::new(credentials, destination)),
            Protocol::Socks4a => Negotiation::Socks4(Socks4::new(credentials, destination)),
            Protocol::Http | Protocol::Https => {
                Negotiation::Connect(Box::new(Connect::new(credentials, destination, limit)))
            }
        }
    }

    /// The bytes to send. Whoever has sent some of them removes them.
    pub(super) fn output(&mut self) -> &mut Vec<u8> {
        match self {
            Negotiation::Socks5(socks) => &mut socks.output,
            Negotiation::Socks4(socks) => &mut socks.output,
            Negotiation::Connect(connect) => &mut connect.output,
        }
    }

    /// Takes input from the proxy: as many bytes of it as returned.
    pub(super) fn take(&mut self, input: &[u8]) -> Result<(usize, Step), Problem> {
        match self {
            Negotiation::Socks5(socks) => socks.take(input),
            Negotiation::Socks4(socks) => socks.take(input),
            Negotiation::Connect(connect) => connect.take(input),
        }
    }
}

/// Moves bytes to the end of a message until it has the `needed` length. Returns how many.
pub(super) fn fill(message: &mut Vec<u8>, needed: usize, input: &[u8]) -> usize {
    let count = needed.saturating_sub(message.len()).min(input.len());
    message.extend_from_slice(&input[..count]);
    count
}

/// The error of a reply in another protocol.
pub(super) fn not_speaking(protocol: &str, first: u8) -> Problem {
    let guess = if first == b'H' { ": it may be an HTTP proxy" } else { "" };
    Problem::Proxy(format!("it does not speak {protocol}{guess}"))
}
