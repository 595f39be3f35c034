//! Copies of errors, for those who share one.

use std::io;

use super::Error;

impl Error {
    /// Returns a copy, for another caller. `None` for errors of the program, and for those that no connection has.
    pub(crate) fn again(&self) -> Option<Error> {
        Some(match self {
            Error::Closed { peer } => Error::Closed { peer: peer.clone() },
            Error::Reset { peer } => Error::Reset { peer: peer.clone() },
            Error::Truncated { peer } => Error::Truncated { peer: peer.clone() },
            Error::Rejected { peer, problem } => Error::Rejected { peer: peer.clone(), problem: problem.clone() },
            Error::Tls { peer, problem } => Error::Tls { peer: peer.clone(), problem: problem.clone() },
            #[cfg(feature = "websocket")]
            Error::WebSocket { peer, code, reason } => {
                Error::WebSocket { peer: peer.clone(), code: *code, reason: reason.clone() }
            }
            Error::LineTooLong { peer, limit } => Error::LineTooLong { peer: peer.clone(), limit: *limit },
            Error::FrameTooLong { peer, size, limit } => {
                Error::FrameTooLong { peer: peer.clone(), size: *size, limit: *limit }
            }
            Error::Frame { peer, problem } => Error::Frame { peer: peer.clone(), problem: problem.clone() },
            Error::Plaintext { peer, problem } => Error::Plaintext { peer: peer.clone(), problem },
            Error::UnknownCertificate { peer, fingerprint, certificate, problem } => Error::UnknownCertificate {
                peer: peer.clone(),
                fingerprint: fingerprint.clone(),
                certificate: certificate.clone(),
                problem: problem.clone(),
            },
            Error::CertificateChanged { peer, pinned, fingerprint, certificate, pin_file } => {
                Error::CertificateChanged {
                    peer: peer.clone(),
                    pinned: pinned.clone(),
                    fingerprint: fingerprint.clone(),
                    certificate: certificate.clone(),
                    pin_file: pin_file.clone(),
                }
            }
            Error::Cancelled { operation, address } => {
                Error::Cancelled { operation: *operation, address: address.clone() }
            }
            Error::Lookup { address, cause } => Error::Lookup { address: address.clone(), cause: cause.clone() },
            Error::Refused { address, source } => Error::Refused { address: address.clone(), source: again(source) },
            Error::Unreachable { address, source } => {
                Error::Unreachable { address: address.clone(), source: again(source) }
            }
            Error::Proxy { proxy, address, problem } => {
                Error::Proxy { proxy: proxy.clone(), address: address.clone(), problem: problem.clone() }
            }
            Error::ServiceNotFound { address, seen } => {
                Error::ServiceNotFound { address: address.clone(), seen: seen.clone() }
            }
            Error::AvahiUnavailable { address, cause } => {
                Error::AvahiUnavailable { address: address.clone(), cause: cause.clone() }
            }
            Error::TimedOut { operation, address, limit } => {
                Error::TimedOut { operation: *operation, address: address.clone(), limit: *limit }
            }
            Error::Io { operation, address, source } => {
                Error::Io { operation: *operation, address: address.clone(), source: again(source) }
            }
            _ => return None,
        })
    }

    /// Returns a copy for another caller; where [`Error::again`] has none, an error with the same text.
    pub(crate) fn copy(&self) -> Error {
        self.again().unwrap_or_else(|| Error::other(self.to_string()))
    }
}

/// Returns a copy of a system call's error.
pub(crate) fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None if error.get_ref().is_some() => io::Error::new(error.kind(), error.to_string()),
        None => error.kind().into(),
    }
}
