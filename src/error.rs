//! The one error type. Pure values: this file knows no descriptor and no main loop.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fingerprint::Fingerprint;

/// What the fallible calls of this crate return.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// Why a call failed or a connection ended.
///
/// Each variant says *when* it happens. Its text names the operation, the address or peer, and the cause, and where the
/// next step is known, that too. It converts into [`std::io::Error`] and [`glib::Error`], and from both, so `?` works in
/// callbacks that do other work as well.
///
/// `Debug` gives the same text as `Display`, so that `fn main() -> network::Result` and `unwrap` end with words for people.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text given as an address does not follow the grammar of [`Address`](crate::Address), names an unknown
    /// service, or cannot be used for this purpose. Found before anything touches the network.
    #[error("bad address {address:?}: {problem}")]
    Address {
        /// The address as it was given.
        address: String,
        /// What was wrong, and what was expected.
        problem: String,
    },

    /// What was given beside an address cannot be used: the system has no such group, user or network interface, a mode is
    /// none, a list is empty. Found before anything touches the network.
    #[error("{0}")]
    InvalidOption(String),

    /// The host name of an address could not be turned into network addresses, or a name into the number of a port.
    #[error("cannot look up {address:?}: {cause}")]
    Lookup {
        /// The address or name as it was given.
        address: String,
        /// What the resolver said, or what was expected.
        cause: String,
    },

    /// The host answered that nothing listens at the address (for a unix socket: nobody listens on that path, or it does
    /// not exist).
    #[error("cannot connect to {address}: {source}")]
    Refused {
        /// The address as it was given.
        address: String,
        /// What the system said.
        source: io::Error,
    },

    /// No route leads to any address of the host, or it is down.
    #[error("cannot reach {address}: {source}")]
    Unreachable {
        /// The address as it was given.
        address: String,
        /// What the system said.
        source: io::Error,
    },

    /// A limit in time passed before the operation was done.
    #[error("{operation} {address}: not done within {limit:?}")]
    TimedOut {
        /// What was being done, as in "connecting to".
        operation: &'static str,
        /// The address or peer.
        address: String,
        /// The limit that was in force.
        limit: Duration,
    },

    /// Nothing has come yet, or there is no room to send just now, and the time-out of the socket or server is zero: a
    /// blocking call would have to wait. Nothing is lost; the same call can be made again.
    #[error("{peer} is not ready, and the time-out is zero")]
    NotReady {
        /// The peer, or what is listened on.
        peer: String,
    },

    /// The operation was cancelled by its [`gio::Cancellable`].
    #[error("{operation} {address}: cancelled")]
    Cancelled {
        /// What was being done.
        operation: &'static str,
        /// The address or peer.
        address: String,
    },

    /// The connection is at its end: the peer closed it, or it was closed here. There is nothing more to read, or nobody
    /// left to send to.
    #[error("the connection to {peer} is closed")]
    Closed {
        /// The peer.
        peer: String,
    },

    /// The peer broke the connection off; what was on its way is lost.
    #[error("{peer} reset the connection")]
    Reset {
        /// The peer.
        peer: String,
    },

    /// A send would have taken the queue of unsent data over its limit. Nothing of that call was queued.
    #[error("cannot queue {} for {peer}: {queued} of at most {} wait to be sent", bytes(*size), bytes(*limit))]
    QueueFull {
        /// The peer.
        peer: String,
        /// Bytes in the call that was refused.
        size: usize,
        /// Bytes that were waiting.
        queued: usize,
        /// The limit, in bytes.
        limit: usize,
    },

    /// The data does not fit into one datagram. Nothing was sent.
    #[error(
        "cannot send {} to {peer} in one datagram: at most {limit} bytes fit, and fewer on some ways there",
        bytes(*size)
    )]
    DatagramTooLarge {
        /// The peer.
        peer: String,
        /// Bytes in the call that was refused.
        size: usize,
        /// The most that any datagram can hold, in bytes.
        limit: usize,
    },

    /// A datagram was longer than what the caller has room for. The rest of it is lost; the next call gets the next one.
    #[error("a datagram of {} came from {from}, with room for {}: the rest is lost", bytes(*size), bytes(*limit))]
    DatagramTruncated {
        /// Who sent it.
        from: SocketAddr,
        /// How long it was, in bytes.
        size: usize,
        /// How much room there was, in bytes.
        limit: usize,
        /// Its first `limit` bytes. Empty where the caller's own buffer has them.
        data: Box<[u8]>,
    },

    /// The peer sent more than the line limit without a newline. The lines before it were delivered.
    #[error("{peer} sent a line of more than {}", bytes(*limit))]
    LineTooLong {
        /// The peer.
        peer: String,
        /// The limit, in bytes.
        limit: usize,
    },

    /// The peer sent more than the limit that the caller had set. Nothing is lost: it can be received otherwise.
    #[error("{peer} sent more than {}", bytes(*limit))]
    LimitExceeded {
        /// The peer.
        peer: String,
        /// The limit, in bytes.
        limit: usize,
    },

    /// Another socket or file already has the address that a server was to listen on.
    #[error("cannot listen on {address}: {source}")]
    InUse {
        /// The address as it was given.
        address: String,
        /// What the system said.
        source: io::Error,
    },

    /// No Avahi service of that type has a name that matches, or none that does has an address.
    #[error("no service {address:?} was found{}", of_seen(seen))]
    ServiceNotFound {
        /// The address as it was given.
        address: String,
        /// Names of that type that were seen, at most 32 of them. Whatever any machine of the network wrote there.
        seen: Vec<String>,
    },

    /// There is no Avahi daemon to ask, or no D-Bus system bus to ask it by; nothing was found out.
    #[error("cannot look for services of {address:?}: {cause}")]
    AvahiUnavailable {
        /// The address or service type.
        address: String,
        /// Which of the two it is, and what the system said.
        cause: String,
    },

    /// The thread-default main context belongs to another thread: sockets may only be made on the thread that runs their
    /// main loop.
    #[error(
        "the main context is in use by another thread: make sockets on the thread that runs the loop, \
         or give this thread a context of its own with MainContext::with_thread_default"
    )]
    WrongThread,

    /// [`bgloop`](crate::bgloop) was called in a process that already has other threads, which would not survive the fork.
    #[error(
        "cannot go into the background: the process already has {} ({names}); go first, and start threads afterwards. \
         GLib has started gmain, gdbus and pool-… for D-Bus, GTK, sources of unix signals, or gio's look-ups and files",
        count(*others, "other thread")
    )]
    OtherThreads {
        /// How many threads there are besides the calling one.
        others: usize,
        /// Their names.
        names: String,
    },

    /// Another process holds the pid file that [`Daemon::pid_file`](crate::daemon::Daemon::pid_file) was to lock: the
    /// daemon runs already.
    #[error("already running{}: {} is locked", of_process(*pid), path.display())]
    AlreadyRunning {
        /// The other process, as the file says. `None` if it says nothing.
        pid: Option<i32>,
        /// The pid file.
        path: PathBuf,
    },

    /// Nothing vouches for the certificate that the peer showed: it is not pinned, not one of this user's own, and no
    /// root that counts for this connection has signed it for this host. On a server: the client's certificate is not on
    /// the list of those allowed.
    #[error(
        "the certificate of {peer} is not trusted ({problem}). Its public key has SHA-256 {fingerprint} (the certificate \
         itself: {certificate})"
    )]
    UnknownCertificate {
        /// The peer.
        peer: String,
        /// SHA-256 of its public key: what to compare with what its owner says, and then to pin.
        fingerprint: Box<Fingerprint>,
        /// SHA-256 of the whole certificate.
        certificate: Box<Fingerprint>,
        /// Why it is not trusted, and what to do about it.
        problem: String,
    },

    /// The peer showed another certificate than the one pinned for it: it has a new key, or somebody stands between, or
    /// the pin that the program gave was never its own.
    #[error("{}", of_pin(peer, pinned, fingerprint, certificate, pin_file.as_deref()))]
    CertificateChanged {
        /// The peer.
        peer: String,
        /// The pin.
        pinned: Box<Fingerprint>,
        /// SHA-256 of the public key it shows now.
        fingerprint: Box<Fingerprint>,
        /// SHA-256 of the whole certificate it shows now.
        certificate: Box<Fingerprint>,
        /// Where the pin was found, for the case that the change was meant. `None` if the program gave it.
        pin_file: Option<Box<Path>>,
    },

    /// The peer ended the hand-shake, or the connection, with a TLS alert: it found something wrong with us. A client
    /// may learn only after its side of the hand-shake that the server does not accept its certificate.
    #[error("{peer} rejected us: {problem}")]
    Rejected {
        /// The peer.
        peer: String,
        /// What it complained of, and what may help.
        problem: String,
    },

    /// The TLS hand-shake failed, or a record broke the rules of TLS: what came is damaged, forged, or not TLS.
    #[error("TLS with {peer}: {problem}")]
    Tls {
        /// The peer.
        peer: String,
        /// What went wrong.
        problem: String,
    },

    /// The peer speaks plaintext where TLS was expected. Nothing was delivered.
    #[error("{peer} {problem}")]
    Plaintext {
        /// The peer.
        peer: String,
        /// What it did, and what to set.
        problem: &'static str,
    },

    /// The connection ended without TLS's own end mark: it was cut, by the peer's crash or by somebody in between, and
    /// what came so far may not be all. What did come was delivered.
    #[error("the connection to {peer} was cut off: it ended without the end mark of TLS, data may be missing")]
    Truncated {
        /// The peer.
        peer: String,
    },

    /// A file of a certificate, a private key or a pin is broken, does not fit its partner, or cannot be read or written.
    /// No such file is ever overwritten.
    #[error("{}: {problem}", path.display())]
    Identity {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it: an [`io::Error`], or text.
        problem: Box<dyn std::error::Error + Send + Sync>,
    },

    /// Settings for TLS that cannot work, found when they are first used: a text that is no fingerprint, roots without a
    /// certificate, a name that is none.
    #[error("TLS settings: {0}")]
    TlsSettings(String),

    /// What was asked for is not part of this build, or not possible on this kind of socket.
    #[error("{0}")]
    Unsupported(String),

    /// Any other failure of a system call.
    #[error("{} {address}: {source}", failed(operation))]
    Io {
        /// What was being done, as in "reading from".
        operation: &'static str,
        /// The address or peer.
        address: String,
        /// What the system said.
        source: io::Error,
    },

    /// An error of the program's own, or of another library, returned by a callback.
    #[error("{0}")]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Wraps any error or message, so that a callback can end its connection with it.
    ///
    /// ```
    /// let error = network::Error::other("this peer is rude");
    /// assert_eq!(error.to_string(), "this peer is rude");
    /// ```
    pub fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Error::Other(error.into())
    }

    /// The same error once more, for another who asks. `None` for those of a program's own, and such as no connection has.
    pub(crate) fn again(&self) -> Option<Error> {
        Some(match self {
            Error::Closed { peer } => Error::Closed { peer: peer.clone() },
            Error::Reset { peer } => Error::Reset { peer: peer.clone() },
            Error::Truncated { peer } => Error::Truncated { peer: peer.clone() },
            Error::Rejected { peer, problem } => Error::Rejected { peer: peer.clone(), problem: problem.clone() },
            Error::Tls { peer, problem } => Error::Tls { peer: peer.clone(), problem: problem.clone() },
            Error::LineTooLong { peer, limit } => Error::LineTooLong { peer: peer.clone(), limit: *limit },
            Error::TimedOut { operation, address, limit } => {
                Error::TimedOut { operation, address: address.clone(), limit: *limit }
            }
            Error::Io { operation, address, source } => {
                Error::Io { operation, address: address.clone(), source: again(source) }
            }
            _ => return None,
        })
    }

    /// Sorts a failed system call into the variant that fits, for an established connection.
    pub(crate) fn from_io(operation: &'static str, peer: impl ToString, source: io::Error) -> Self {
        let peer = peer.to_string();
        match source.kind() {
            io::ErrorKind::ConnectionReset => Error::Reset { peer },
            io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected => Error::Closed { peer },
            _ => Error::Io { operation, address: peer, source },
        }
    }

    /// Sorts a failed `connect` into the variant that fits.
    pub(crate) fn from_connect(address: impl ToString, source: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let address = address.to_string();
        match source.kind() {
            Kind::ConnectionRefused | Kind::NotFound => Error::Refused { address, source },
            Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown | Kind::AddrNotAvailable => {
                Error::Unreachable { address, source }
            }
            Kind::ConnectionReset => Error::Reset { peer: address },
            _ => Error::Io { operation: "connecting to", address, source },
        }
    }

    /// Sorts a failed `bind` or `listen` into the variant that fits.
    pub(crate) fn from_listen(address: impl ToString, source: io::Error) -> Self {
        let address = address.to_string();
        match source.kind() {
            io::ErrorKind::AddrInUse => Error::InUse { address, source },
            _ => Error::Io { operation: "listening on", address, source },
        }
    }

    /// The [`io::ErrorKind`] that comes nearest.
    pub fn kind(&self) -> io::ErrorKind {
        use io::ErrorKind as Kind;
        match self {
            Error::Address { .. } | Error::InvalidOption(_) => Kind::InvalidInput,
            Error::Lookup { .. } | Error::ServiceNotFound { .. } => Kind::NotFound,
            Error::TimedOut { .. } => Kind::TimedOut,
            Error::Cancelled { .. } => Kind::Interrupted,
            Error::Closed { .. } => Kind::NotConnected,
            Error::Reset { .. } => Kind::ConnectionReset,
            Error::QueueFull { .. } | Error::NotReady { .. } => Kind::WouldBlock,
            Error::DatagramTooLarge { .. } => Kind::InvalidInput,
            Error::LineTooLong { .. } | Error::DatagramTruncated { .. } | Error::LimitExceeded { .. } => {
                Kind::InvalidData
            }
            Error::Unsupported(_) => Kind::Unsupported,
            Error::Refused { source, .. }
            | Error::Unreachable { source, .. }
            | Error::InUse { source, .. }
            | Error::Io { source, .. } => source.kind(),
            Error::Other(error) => error.downcast_ref::<io::Error>().map_or(Kind::Other, io::Error::kind),
            Error::UnknownCertificate { .. } | Error::CertificateChanged { .. } | Error::Rejected { .. } => {
                Kind::PermissionDenied
            }
            Error::Tls { .. } | Error::Plaintext { .. } => Kind::InvalidData,
            Error::Truncated { .. } => Kind::UnexpectedEof,
            Error::Identity { problem, .. } => {
                problem.downcast_ref::<io::Error>().map_or(Kind::InvalidData, io::Error::kind)
            }
            Error::TlsSettings(_) => Kind::InvalidInput,
            Error::AlreadyRunning { .. } => Kind::ResourceBusy,
            Error::AvahiUnavailable { .. } | Error::WrongThread | Error::OtherThreads { .. } => Kind::Other,
        }
    }
}

/// The same error of the system once more.
pub(crate) fn again(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// So many of them, in words: "1 connection", "2 connections".
pub(crate) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Text from a peer, as it may stand in a message. Control characters, line separators and characters that change the
/// direction of text are escaped, so the text stays on one line and a terminal shows what it says.
pub(crate) struct Printable<'a>(pub(crate) &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some((at, harmful)) = rest.char_indices().find(|(_, c)| !is_printable(*c)) {
            write!(f, "{}{}", &rest[..at], harmful.escape_default())?;
            rest = &rest[at + harmful.len_utf8()..];
        }
        f.write_str(rest)
    }
}

fn is_printable(c: char) -> bool {
    let separator = matches!(c, '\u{2028}' | '\u{2029}');
    let direction =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !c.is_control() && !separator && !direction
}

fn bytes(number: usize) -> String {
    count(number, "byte")
}

/// That an operation failed, in the words of the variants that a failure of it may also be.
fn failed(operation: &'static str) -> &'static str {
    match operation {
        "listening on" => "cannot listen on",
        "connecting to" => "cannot connect to",
        "looking up" => "cannot look up",
        other => other,
    }
}

fn of_process(pid: Option<i32>) -> String {
    pid.map(|pid| format!(" as process {pid}")).unwrap_or_default()
}

/// A pin that was kept speaks of a change. One that was given may as well be mistyped.
fn of_pin(peer: &str, pin: &Fingerprint, key: &Fingerprint, certificate: &Fingerprint, file: Option<&Path>) -> String {
    match file {
        Some(file) => format!(
            "THE CERTIFICATE OF {peer} HAS CHANGED: pinned is {pin}, but its public key has SHA-256 {key} (the \
             certificate itself: {certificate}). Either it was given a new key, or somebody is intercepting. If its owner \
             confirms the new one, put that fingerprint into {} or delete this file",
            file.display()
        ),
        None => format!(
            "the certificate of {peer} is not the one that was pinned: expected was {pin}, but its public key has SHA-256 \
             {key} (the certificate itself: {certificate}). Either the pin is wrong or out of date, or somebody is \
             intercepting. If its owner confirms this one, give it to ClientTls::pinned"
        ),
    }
}

/// Names from the network, quoted: they may hold anything.
fn of_seen(seen: &[String]) -> String {
    if seen.is_empty() {
        return ", nor any other of that type".into();
    }
    let names: Vec<String> = seen.iter().map(|name| format!("{name:?}")).collect();
    format!("; of that type there are: {}", names.join(", "))
}

impl From<io::Error> for Error {
    /// Gives back the [`Error`] that was turned into the [`io::Error`], if it came from one.
    fn from(error: io::Error) -> Self {
        match error.downcast::<Error>() {
            Ok(own) => own,
            Err(foreign) => Error::Other(foreign.into()),
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::new(error.kind(), error)
    }
}

impl From<glib::Error> for Error {
    fn from(error: glib::Error) -> Self {
        Error::Other(error.into())
    }
}

impl From<Error> for glib::Error {
    fn from(error: Error) -> Self {
        use gio::IOErrorEnum as Code;
        use io::ErrorKind as Kind;
        let code = match error.kind() {
            Kind::InvalidInput => Code::InvalidArgument,
            Kind::NotFound => Code::NotFound,
            Kind::TimedOut => Code::TimedOut,
            Kind::Interrupted => Code::Cancelled,
            Kind::NotConnected => Code::Closed,
            Kind::ConnectionReset => Code::BrokenPipe,
            Kind::WouldBlock => Code::WouldBlock,
            Kind::InvalidData => Code::InvalidData,
            Kind::Unsupported => Code::NotSupported,
            Kind::ConnectionRefused => Code::ConnectionRefused,
            Kind::HostUnreachable => Code::HostUnreachable,
            Kind::NetworkUnreachable => Code::NetworkUnreachable,
            Kind::AddrInUse => Code::AddressInUse,
            Kind::PermissionDenied => Code::PermissionDenied,
            _ => Code::Failed,
        };
        glib::Error::new(code, &error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_way_through_io_error() {
        let own = Error::LineTooLong { peer: "x".into(), limit: 3 };
        let back = Error::from(io::Error::from(own));
        assert!(matches!(back, Error::LineTooLong { limit: 3, .. }), "{back}");
    }

    #[test]
    fn foreign_errors_keep_their_words() {
        let foreign = Error::from(io::Error::new(io::ErrorKind::StorageFull, "no room"));
        assert_eq!(foreign.to_string(), "no room");
        assert_eq!(foreign.kind(), io::ErrorKind::StorageFull);
        let foreign = Error::from(glib::Error::new(gio::IOErrorEnum::Busy, "not now"));
        assert_eq!(foreign.to_string(), "not now");
    }

    #[test]
    fn a_failure_has_one_wording_whatever_the_cause() {
        let cause = |kind: io::ErrorKind| io::Error::from(kind);
        for kind in [io::ErrorKind::AddrInUse, io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied] {
            let error = Error::from_listen("/x", cause(kind)).to_string();
            assert!(error.starts_with("cannot listen on /x: "), "{error}");
        }
        for kind in [io::ErrorKind::ConnectionRefused, io::ErrorKind::PermissionDenied] {
            let error = Error::from_connect("/x", cause(kind)).to_string();
            assert!(error.starts_with("cannot connect to /x: "), "{error}");
        }
    }

    #[test]
    fn one_is_not_many() {
        let line = |limit| Error::LineTooLong { peer: "x".into(), limit }.to_string();
        assert_eq!(line(1), "x sent a line of more than 1 byte");
        assert_eq!(line(2), "x sent a line of more than 2 bytes");
        let threads = |others| Error::OtherThreads { others, names: "gmain".into() }.to_string();
        assert!(threads(1).contains(" 1 other thread (gmain)"), "{}", threads(1));
        assert!(threads(2).contains(" 2 other threads (gmain)"), "{}", threads(2));
    }

    #[test]
    fn text_of_peers_is_one_line_of_visible_characters() {
        let text = "Büro 1\\ \n\r\t\u{1b}[2J\u{85}\u{2028}\u{202e}\u{2066}\0ende";
        let shown = Printable(text).to_string();
        assert_eq!(shown, "Büro 1\\ \\n\\r\\t\\u{1b}[2J\\u{85}\\u{2028}\\u{202e}\\u{2066}\\u{0}ende");
        assert_eq!(Printable(&shown).to_string(), shown);
    }

    #[test]
    fn becomes_a_glib_error() {
        let error = glib::Error::from(Error::Closed { peer: "host:1".into() });
        assert!(error.matches(gio::IOErrorEnum::Closed));
        assert_eq!(error.message(), "the connection to host:1 is closed");
    }

    #[test]
    fn stays_small_enough_to_return_by_value() {
        assert!(size_of::<Error>() <= 72, "{}", size_of::<Error>());
    }
}
