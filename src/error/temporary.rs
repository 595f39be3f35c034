//! The errors that may go away by themselves.

use std::io;

use super::{Error, Operation};

impl Error {
    /// Returns whether the error may go away by itself, so that it can help to try again later, after a pause.
    ///
    /// | variant | temporary | because |
    /// |---|---|---|
    /// | `Refused`, `Unreachable` | yes | servers restart, and networks come back |
    /// | `Lookup` | yes | without a network no name is found |
    /// | `TimedOut`, `Closed`, `Reset`, `Truncated` | yes | the same, also during a TLS handshake |
    /// | `Proxy` | yes | most replies of proxies are about the way to the server |
    /// | `Ftp` | by its status | servers say by 4xx that they may do it later; nothing else helps by itself |
    /// | `Http` | no | the peer does not keep to the protocol |
    /// | `Status` | 408, 429, and 500 or above but for 501 and 505 | the server is busy, or at fault |
    /// | `WebSocket` | if the peer goes away or is at fault: 1001, 1005, 1006, 1011 to 1014, and the statuses above | other codes say that this side is at fault |
    /// | `ServiceNotFound`, `AvahiUnavailable` | yes | the service may be announced later, and the daemon started |
    /// | `Down` | yes | the link connects again |
    /// | `QueueFull`, `NotReady` | yes | the queue drains, and data arrives |
    /// | `InUse`, `AlreadyRunning` | yes | the other process may end |
    /// | `Io` | yes | of the system's other errors most are about what it is short of; not if it calls a value invalid (`InvalidInput`) or unsupported, nor if the program lacks a privilege (`PermissionDenied`), unless that is said while connecting, reading or sending, as by firewalls |
    /// | `UnknownCertificate`, `CertificateChanged`, `Rejected` | no | trust takes a decision |
    /// | `Tls`, `Plaintext` | no | the peer speaks another protocol, or is attacked |
    /// | `Address`, `InvalidOption`, `TlsSettings`, `Identity`, `Unsupported` | no | the program, its settings or its files must change |
    /// | `WrongThread`, `OtherThreads` | no | the program must change |
    /// | `LineTooLong`, `FrameTooLong`, `Frame`, `LimitExceeded`, `DatagramTooLarge`, `DatagramTruncated` | no | a limit is too low, or the data is wrong |
    /// | `Cancelled` | no | the program wanted it |
    /// | `Other` | no | only the program knows |
    ///
    /// # Example: Try again, or report
    /// ```
    /// fn pause_before_next_attempt(error: &network::Error) -> Option<std::time::Duration> {
    ///     error.is_temporary().then(|| std::time::Duration::from_secs(10))
    /// }
    /// # let late = network::Socket::connect("127.0.0.1:1");
    /// # assert!(late.is_err_and(|error| pause_before_next_attempt(&error).is_some()));
    /// ```
    pub fn is_temporary(&self) -> bool {
        match self {
            Error::Refused { .. }
            | Error::Unreachable { .. }
            | Error::Lookup { .. }
            | Error::TimedOut { .. }
            | Error::Closed { .. }
            | Error::Reset { .. }
            | Error::Truncated { .. }
            | Error::Proxy { .. }
            | Error::ServiceNotFound { .. }
            | Error::AvahiUnavailable { .. }
            | Error::Down { .. }
            | Error::QueueFull { .. }
            | Error::NotReady { .. }
            | Error::InUse { .. }
            | Error::AlreadyRunning { .. } => true,
            #[cfg(feature = "ftp")]
            Error::Ftp { response, .. } => response.is_temporary(),
            #[cfg(feature = "http")]
            Error::Http { .. } => false,
            #[cfg(feature = "http")]
            Error::Status { status, .. } => {
                matches!(status.as_u16(), 408 | 429)
                    || status.is_server_error() && !matches!(status.as_u16(), 501 | 505)
            }
            #[cfg(feature = "websocket")]
            Error::WebSocket { code, .. } => {
                matches!(code, 408 | 429 | 500 | 502..=504 | 1001 | 1005 | 1006 | 1011..=1014)
            }
            Error::Io { operation, source, .. } => is_of_the_moment(*operation, source.kind()),
            Error::UnknownCertificate { .. }
            | Error::CertificateChanged { .. }
            | Error::Rejected { .. }
            | Error::Tls { .. }
            | Error::Plaintext { .. }
            | Error::Address { .. }
            | Error::InvalidOption(_)
            | Error::TlsSettings(_)
            | Error::Identity { .. }
            | Error::Unsupported(_)
            | Error::WrongThread
            | Error::OtherThreads { .. }
            | Error::LineTooLong { .. }
            | Error::FrameTooLong { .. }
            | Error::Frame { .. }
            | Error::LimitExceeded { .. }
            | Error::DatagramTooLarge { .. }
            | Error::DatagramTruncated { .. }
            | Error::Cancelled { .. }
            | Error::Other(_) => false,
        }
    }
}

fn is_of_the_moment(operation: Operation, kind: io::ErrorKind) -> bool {
    use io::ErrorKind as Kind;
    match kind {
        Kind::InvalidInput | Kind::Unsupported => false,
        Kind::PermissionDenied => matches!(operation, Operation::Connect | Operation::Read | Operation::Send),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::io::Errno;

    use super::*;

    fn io(operation: Operation, source: impl Into<io::Error>) -> Error {
        Error::Io { operation, address: "x".into(), source: source.into() }
    }

    #[cfg(feature = "ftp")]
    fn ftp(status: u16) -> Error {
        let response = crate::error::ftp::Response::new(crate::error::ftp::Status(status), "x");
        Error::Ftp { peer: "x".into(), response: Box::new(response) }
    }

    #[test]
    fn every_error_is_temporary_or_for_good() {
        let text = || "x".to_owned();
        let refused = || io::Error::from(Errno::CONNREFUSED);
        let operation = Operation::Handshake;
        let made = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
        let certificate = crate::certificate::PeerCertificate::new(made.cert.der()).unwrap();
        let fingerprint = Box::new(certificate.fingerprint());
        let temporary = [
            Error::Refused { address: text(), source: refused() },
            Error::Unreachable { address: text(), source: refused() },
            Error::Lookup { address: text(), cause: text() },
            Error::TimedOut { operation, address: text(), limit: Duration::ZERO },
            Error::Closed { peer: text() },
            Error::Reset { peer: text() },
            Error::Truncated { peer: text() },
            Error::Proxy { proxy: text(), address: text(), problem: text() },
            Error::ServiceNotFound { address: text(), seen: Vec::new() },
            Error::AvahiUnavailable { address: text(), cause: text() },
            Error::QueueFull { peer: text(), size: 1, queued: 1, limit: 1, option: "send_limit" },
            Error::NotReady { peer: text() },
            Error::Down { address: text(), next: None },
            Error::InUse { address: text(), source: Errno::ADDRINUSE.into() },
            Error::AlreadyRunning { pid: None, path: "x".into() },
            io(Operation::Read, Errno::TIMEDOUT),
        ];
        let for_good = [
            Error::UnknownCertificate {
                peer: text(),
                fingerprint: fingerprint.clone(),
                certificate: certificate.clone(),
                problem: text(),
            },
            Error::CertificateChanged {
                peer: text(),
                pinned: fingerprint.clone(),
                fingerprint,
                certificate,
                pin_file: None,
            },
            Error::Rejected { peer: text(), problem: text() },
            Error::Tls { peer: text(), problem: text() },
            Error::Plaintext { peer: text(), problem: "x" },
            Error::Address { address: text(), problem: text() },
            Error::InvalidOption(text()),
            Error::TlsSettings(text()),
            Error::Identity { path: "x".into(), problem: "x".into() },
            Error::Unsupported(text()),
            Error::WrongThread,
            Error::OtherThreads { others: 1, names: text() },
            Error::LineTooLong { peer: text(), limit: 1 },
            Error::FrameTooLong { peer: text(), size: Some(2), limit: 1 },
            Error::Frame { peer: text(), problem: text() },
            Error::LimitExceeded { peer: text(), limit: 1 },
            Error::DatagramTooLarge { peer: text(), size: 2, limit: 1 },
            Error::DatagramTruncated { peer: text(), size: 2, limit: 1, data: Box::default() },
            Error::Cancelled { operation, address: text() },
            Error::other("x"),
        ];
        #[cfg(feature = "ftp")]
        let temporary = temporary.into_iter().chain([ftp(450)]).collect::<Vec<_>>();
        #[cfg(feature = "ftp")]
        let for_good = for_good.into_iter().chain([ftp(550), ftp(1000), ftp(1003)]).collect::<Vec<_>>();
        #[cfg(feature = "http")]
        let status = |status| {
            let status = ::http::StatusCode::from_u16(status).unwrap();
            Error::Status { status, url: "x".into(), body: "".into() }
        };
        #[cfg(feature = "http")]
        let temporary = temporary.into_iter().chain([status(429), status(503)]).collect::<Vec<_>>();
        #[cfg(feature = "http")]
        let for_good = for_good
            .into_iter()
            .chain([status(404), status(501), Error::Http { peer: text(), problem: text() }])
            .collect::<Vec<_>>();
        #[cfg(feature = "websocket")]
        let websocket = |code| Error::WebSocket { peer: "x".into(), code, reason: "x".into() };
        #[cfg(feature = "websocket")]
        let temporary = temporary.into_iter().chain([websocket(1001), websocket(503)]).collect::<Vec<_>>();
        #[cfg(feature = "websocket")]
        let for_good = for_good.into_iter().chain([websocket(1002), websocket(403)]).collect::<Vec<_>>();
        for error in &temporary {
            assert!(error.is_temporary(), "{error:?}");
        }
        for error in &for_good {
            assert!(!error.is_temporary(), "{error:?}");
        }
        // None is missing here.
        let mut seen: Vec<_> = temporary.iter().chain(&for_good).map(Error::name).collect();
        seen.sort();
        seen.dedup();
        let names = include_str!("../error.rs").split("fn name(").nth(1).unwrap().split("\n    }\n").next().unwrap();
        let mut names: Vec<_> = names.split("=> \"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        let absent =
            [("Ftp", cfg!(feature = "ftp")), ("Http", cfg!(feature = "http")), ("Status", cfg!(feature = "http"))];
        let absent = absent.into_iter().chain([("WebSocket", cfg!(feature = "websocket"))]);
        let absent: Vec<_> = absent.filter(|(_, is_there)| !is_there).map(|(name, _)| name).collect();
        names.retain(|name| !absent.contains(name));
        names.sort();
        assert_eq!(seen, names);
    }

    #[test]
    fn of_the_systems_errors_those_about_values_and_privileges_are_for_good() {
        for (operation, errno, temporary) in [
            (Operation::Connect, Errno::MFILE, true),
            (Operation::Connect, Errno::NETDOWN, true),
            (Operation::Connect, Errno::PERM, true),
            (Operation::Send, Errno::NOBUFS, true),
            (Operation::Listen, Errno::ACCESS, false),
            (Operation::Option, Errno::INVAL, false),
            (Operation::Option, Errno::OPNOTSUPP, false),
        ] {
            assert_eq!(io(operation, errno).is_temporary(), temporary, "{operation:?} {errno:?}");
        }
    }
}
