//! Errors made of what has happened: a system call that has failed, an option that cannot be kept.

use std::io;

use super::{Error, Operation, Result};

impl Error {
    /// Converts a failed system call on an established connection into the matching variant.
    pub(crate) fn from_io(operation: Operation, peer: impl ToString, source: io::Error) -> Self {
        let peer = peer.to_string();
        match source.kind() {
            io::ErrorKind::ConnectionReset => Error::Reset { peer },
            io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected => Error::Closed { peer },
            _ => Error::Io { operation, address: peer, source },
        }
    }

    /// Converts a failed `connect` into the matching variant.
    pub(crate) fn from_connect(address: impl ToString, source: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let address = address.to_string();
        match source.kind() {
            Kind::ConnectionRefused | Kind::NotFound => Error::Refused { address, source },
            Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown | Kind::AddrNotAvailable => {
                Error::Unreachable { address, source }
            }
            Kind::ConnectionReset => Error::Reset { peer: address },
            _ => Error::Io { operation: Operation::Connect, address, source },
        }
    }

    /// Converts a failed `bind` or `listen` into the matching variant.
    pub(crate) fn from_listen(address: impl ToString, source: io::Error) -> Self {
        let address = address.to_string();
        match source.kind() {
            io::ErrorKind::AddrInUse => Error::InUse { address, source },
            _ => Error::Io { operation: Operation::Listen, address, source },
        }
    }
}

/// Fails with the first of these options that is zero: nothing would work with it. `owner` is whose options they are, with its
/// article.
///
/// # Errors
/// [`Error::InvalidOption`].
pub(crate) fn refuse_zeros<'a>(owner: &str, options: impl IntoIterator<Item = (&'a str, bool)>) -> Result {
    match options.into_iter().find(|(_, is_zero)| *is_zero) {
        Some((name, _)) => Err(Error::InvalidOption(format!("{name} of {owner} must not be zero"))),
        None => Ok(()),
    }
}
