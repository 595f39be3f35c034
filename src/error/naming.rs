//! The name of the peer in an error, for those who know it by another one than the layer that failed.

use super::Error;

impl Error {
    /// Changes the address or peer that the text begins with. Names under which something is stored, as pins are, stay.
    pub(crate) fn with_address(mut self, change: impl FnOnce(&mut String)) -> Self {
        match &mut self {
            Error::Address { address: name, .. }
            | Error::Refused { address: name, .. }
            | Error::Unreachable { address: name, .. }
            | Error::Proxy { address: name, .. }
            | Error::TimedOut { address: name, .. }
            | Error::Cancelled { address: name, .. }
            | Error::InUse { address: name, .. }
            | Error::Io { address: name, .. }
            | Error::Http { peer: name, .. }
            | Error::Closed { peer: name }
            | Error::Reset { peer: name }
            | Error::Truncated { peer: name }
            | Error::Plaintext { peer: name, .. }
            | Error::LimitExceeded { peer: name, .. } => change(name),
            _ => {}
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_gets_another_name() {
        let error = Error::Closed { peer: "a".into() }.with_address(|name| *name = format!("{name}b"));
        assert_eq!(error.to_string(), "the connection to ab is closed");
        let other = Error::InvalidOption("a".into()).with_address(|name| name.clear());
        assert_eq!(other.to_string(), "a");
    }
}
