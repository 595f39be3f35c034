//! The one error type. Pure values: this file knows no descriptor and no main loop.

mod convert;
mod copies;
#[cfg(feature = "ftp")]
pub(crate) mod ftp;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "http")]
mod naming;
mod operation;
mod reasons;
mod temporary;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::certificate::{Fingerprint, PeerCertificate};
pub(crate) use crate::log::Printable;
pub(crate) use copies::again;
pub use operation::Operation;
pub(crate) use reasons::refuse_zeros;
use text::{bytes, in_plain_words, of_next, of_pin, of_process, of_queue, of_seen, of_size};
pub(crate) use text::{count, in_words, os_text};

/// The result of the fallible calls of this crate.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// An error: the reason why a call failed or a connection ended.
///
/// Each variant says *when* it happens. The text names the operation, the address or peer and the cause, and says what to
/// do where that is known. A program that prints it need not add the address. [`Error::is_temporary`] says whether it can help
/// to try again.
///
/// Errors convert to and from [`std::io::Error`] and [`glib::Error`], and from the errors of std's parsers, so `?` works in
/// callbacks. For other errors, use [`Error::other`].
///
/// `Debug` prints the variant's name and then the same text as `Display`, so `fn main() -> network::Result` and `unwrap` end
/// with a message that people can read.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address is invalid, names an unknown service, or cannot be used for this purpose. Found before anything touches
    /// the network.
    #[error("invalid address {address:?}: {problem}")]
    Address {
        /// The address as it was given.
        address: String,
        /// The problem, and what was expected.
        problem: String,
    },

    /// An option other than the address is invalid or does not apply: an unknown group, user or interface, a bad file mode,
    /// an empty list, TLS for a file descriptor. Found before anything touches the network.
    #[error("{0}")]
    InvalidOption(String),

    /// The host name of an address could not be resolved, or a service name is unknown.
    #[error("cannot resolve {address:?}: {cause}")]
    Lookup {
        /// The host of a URL, else the address or name as it was given.
        address: String,
        /// The resolver's message, or what was expected.
        cause: String,
    },

    /// Nothing listens at the address. For a unix socket: no process listens on the path, or the path does not exist.
    #[error("cannot connect to {address}: {}", os_text(source))]
    Refused {
        /// The address as it was given.
        address: String,
        /// The error of the system call.
        source: io::Error,
    },

    /// No route leads to any address of the host, or the host is down.
    #[error("cannot reach {address}: {}", os_text(source))]
    Unreachable {
        /// The address as it was given.
        address: String,
        /// The error of the system call.
        source: io::Error,
    },

    /// A proxy cannot be reached, refuses to connect, or does not keep to its protocol.
    #[error("cannot connect to {address} through the proxy {proxy}: {problem}")]
    Proxy {
        /// The URL of the proxy, without user and password.
        proxy: String,
        /// The address as it was given.
        address: String,
        /// The problem: the meaning of a SOCKS reply, the status line of an HTTP proxy, or the system's message.
        problem: String,
    },

    /// An FTP server refuses, or does not keep to its protocol; or the local file of a transfer cannot be used.
    #[cfg(feature = "ftp")]
    #[error("{}", ftp::shown(peer, response))]
    Ftp {
        /// The address of the server.
        peer: String,
        /// The reply, or what stands for one.
        response: Box<ftp::Response>,
    },

    /// A message of HTTP breaks the protocol, or a rule that this crate sets against misuse.
    #[cfg(feature = "http")]
    #[error("{peer}: {problem}")]
    Http {
        /// The address of the peer, or the URL.
        peer: String,
        /// The problem.
        problem: String,
    },

    /// An HTTP server answers with a status of 400 or above, and the program asked for that to be an error:
    /// [`error_for_status`](crate::http::Response::error_for_status).
    #[cfg(feature = "http")]
    #[error("{url}: {status}")]
    Status {
        /// The status.
        status: ::http::StatusCode,
        /// The URL, after redirects.
        url: Box<str>,
        /// The beginning of the body, at most 1 KiB.
        body: Box<str>,
    },

    /// A WebSocket connection is closed for a reason other than a normal end, or its handshake is refused.
    #[cfg(feature = "websocket")]
    #[error("{peer}: {reason} ({code})")]
    WebSocket {
        /// The address of the peer, or the URL.
        peer: Box<str>,
        /// The close code (RFC 6455, section 7.4.1), or the HTTP status of a refused handshake.
        code: u16,
        /// The peer's reason, or the problem.
        reason: Box<str>,
    },

    /// A timeout expired before the operation was done.
    #[error("timed out after {} while {operation} {address}", in_words(*limit))]
    TimedOut {
        /// The operation.
        operation: Operation,
        /// The address or peer.
        address: String,
        /// The timeout.
        limit: Duration,
    },

    /// A call would block, and the timeout of the socket or server is zero. No data is lost; the call can be repeated.
    #[error("the call would block on {peer}, and the timeout is zero")]
    NotReady {
        /// The peer, or the server's address.
        peer: String,
    },

    /// The operation was cancelled by its [`gio::Cancellable`], or the awaited [`Task`](crate::task::Task) was aborted.
    #[error("cancelled while {operation} {address}")]
    Cancelled {
        /// The operation.
        operation: Operation,
        /// The address or peer.
        address: String,
    },

    /// The connection is closed, by the peer or on this side. There is nothing more to receive, or the write direction is
    /// shut down.
    #[error("the connection to {peer} is closed")]
    Closed {
        /// The peer.
        peer: String,
    },

    /// A [`Link`](crate::Link) is not connected, and has no queue for what was to be sent.
    #[error("not connected to {address}{}", of_next(*next))]
    Down {
        /// The address as it was given.
        address: String,
        /// Time until the next try. `None` while a try goes on, or the link waits for a network or a service.
        next: Option<Duration>,
    },

    /// The peer reset the connection. Data on its way in either direction is lost.
    #[error("{peer} reset the connection")]
    Reset {
        /// The peer.
        peer: String,
    },

    /// The send queue would have exceeded the send limit, or those of the server's connections together would have
    /// exceeded the total. Nothing of the call was queued. Or more [`Calls`](crate::link::Calls) would have been pending than
    /// may be.
    #[error("{}", of_queue(peer, *size, *queued, *limit, option))]
    QueueFull {
        /// The peer. Empty for calls.
        peer: String,
        /// Size of the rejected data, in bytes. 1 for calls.
        size: usize,
        /// Length of the send queue, or of all of them, in bytes. For calls, how many are pending.
        queued: usize,
        /// The limit, in bytes. For calls, how many may be pending.
        limit: usize,
        /// The option that sets the limit: `send_limit`, `total_send_limit` of a server, or `Calls::set_limit`.
        option: &'static str,
    },

    /// The data does not fit into one datagram. Nothing was sent.
    #[error(
        "cannot send {} to {peer} in one datagram: the maximum is {}, and some network paths carry less",
        bytes(*size),
        bytes(*limit)
    )]
    DatagramTooLarge {
        /// The peer.
        peer: String,
        /// Size of the rejected data, in bytes.
        size: usize,
        /// The maximum size of a datagram, in bytes.
        limit: usize,
    },

    /// A datagram was longer than the caller's buffer. The rest of it is lost; the next call receives the next datagram.
    #[error("datagram from {peer} truncated: received {limit} of {}", bytes(*size))]
    DatagramTruncated {
        /// The sender.
        peer: String,
        /// Size of the datagram, in bytes.
        size: usize,
        /// Size of the buffer, in bytes.
        limit: usize,
        /// The first `limit` bytes. Empty if the caller's own buffer contains them.
        data: Box<[u8]>,
    },

    /// The peer sent a line that exceeds the line limit. The preceding lines were delivered.
    #[error("line from {peer} exceeds the limit of {}", bytes(*limit))]
    LineTooLong {
        /// The peer.
        peer: String,
        /// The limit, in bytes.
        limit: usize,
    },

    /// The peer sent a frame whose message exceeds the line limit. The preceding frames were delivered.
    #[error("frame{} from {peer} exceeds the limit of {}", of_size(*size), bytes(*limit))]
    FrameTooLong {
        /// The peer.
        peer: String,
        /// The announced length of the message, in bytes. `None` if its length is not announced, or exceeds 64 bits. A very
        /// large one often means that the peer uses another framing, or another protocol.
        size: Option<u64>,
        /// The limit, in bytes.
        limit: usize,
    },

    /// The peer sent something that is not a frame, after the preceding frames were delivered. Or a message that was to be sent
    /// does not fit into a frame, and nothing of it was queued.
    #[error("frame error with {peer}: {problem}")]
    Frame {
        /// The peer.
        peer: String,
        /// The problem.
        problem: String,
    },

    /// The peer sent more than the caller's limit. No data is lost: it can be received by other calls.
    #[error("data from {peer} exceeds the limit of {}", bytes(*limit))]
    LimitExceeded {
        /// The peer.
        peer: String,
        /// The limit, in bytes.
        limit: usize,
    },

    /// The address that a server was to listen on is in use by another socket or file.
    #[error("cannot listen on {address}: {}", os_text(source))]
    InUse {
        /// The address as it was given.
        address: String,
        /// The error of the system call.
        source: io::Error,
    },

    /// No Avahi service of this type has a matching name, or no matching one has an address.
    #[error("no service matches {address:?}; {}", of_seen(seen))]
    ServiceNotFound {
        /// The address as it was given.
        address: String,
        /// Names of services of this type, at most 32. Any machine on the local network can choose them.
        seen: Vec<String>,
    },

    /// There is no Avahi daemon, or no D-Bus system bus to reach it.
    #[error("cannot browse for {address:?}: {cause}")]
    AvahiUnavailable {
        /// The address or service type.
        address: String,
        /// The missing part, and the system's message.
        cause: String,
    },

    /// The thread-default main context belongs to another thread. Sockets can only be created on the thread that runs
    /// their main loop.
    #[error(
        "another thread owns the main context: create sockets on the thread that runs the main loop, \
         or give this thread its own context (MainContext::with_thread_default)"
    )]
    WrongThread,

    /// [`bgloop`](crate::bgloop) was called in a process that has other threads, which would not survive the fork.
    #[error(
        "cannot fork into the background: the process has {} ({names}); call bgloop before starting threads. \
         GLib starts gmain, gdbus and pool-… for D-Bus, GTK, unix signal sources and asynchronous gio calls",
        count(*others, "other thread")
    )]
    OtherThreads {
        /// Number of threads besides the calling one.
        others: usize,
        /// Their names.
        names: String,
    },

    /// Another process holds the lock of the pid file set by [`Daemon::pid_file`](crate::daemon::Daemon::pid_file): the
    /// daemon is already running.
    #[error("already running{}: {} is locked", of_process(*pid), path.display())]
    AlreadyRunning {
        /// The other process, as the file says. `None` if the file does not say.
        pid: Option<i32>,
        /// The pid file.
        path: PathBuf,
    },

    /// The peer's certificate is not trusted: it is not pinned, not one of this user's own, and no root certificate that
    /// applies to this connection has issued it for this host name. On a server: the client's certificate is not on the
    /// allowlist.
    #[error(
        "the certificate of {} is not trusted: {problem}. The fingerprint of its public key is {fingerprint}, the fingerprint \
         of the whole certificate is {}", Printable(peer), certificate.certificate_fingerprint()
    )]
    UnknownCertificate {
        /// The peer: for a client the address under which its pin is kept, as [`tls::pin`](crate::tls::pin) takes it. The name of
        /// a service is as it came from the network, and may contain control characters; the error's text escapes them.
        peer: String,
        /// SHA-256 of the public key. Compare it with what the owner of the peer says, then pin it.
        fingerprint: Box<Fingerprint>,
        /// The certificate, for its subject, its dates and its own fingerprint. All of them are the peer's claims.
        certificate: PeerCertificate,
        /// Why it is not trusted, and what to do.
        problem: String,
    },

    /// The peer presented another key than the pinned one: it has a new key, the connection is being intercepted, or the
    /// pin that the program passed is wrong.
    #[error("{}", of_pin(peer, pinned, certificate, pin_file.as_deref()))]
    CertificateChanged {
        /// The peer: the address under which its pin is kept, as [`tls::pin`](crate::tls::pin) takes it. The name of a service
        /// is as it came from the network, and may contain control characters; the error's text escapes them.
        peer: String,
        /// The pin.
        pinned: Box<Fingerprint>,
        /// SHA-256 of the public key that the peer presented.
        fingerprint: Box<Fingerprint>,
        /// The certificate that the peer presented, for its subject, its dates and its own fingerprint. All of them are the
        /// peer's claims.
        certificate: PeerCertificate,
        /// The file that contains the pin. `None` if the program passed the pin.
        pin_file: Option<Box<Path>>,
    },

    /// The peer ended the handshake or the connection with a TLS alert. A client may learn only after its side of the
    /// handshake that the server does not accept its certificate.
    #[error("{peer} rejected the TLS handshake: {problem}")]
    Rejected {
        /// The peer.
        peer: String,
        /// The peer's reason, and what may help.
        problem: String,
    },

    /// The TLS handshake failed, or a TLS record is invalid: damaged, forged, or not TLS.
    #[error("TLS error with {peer}: {problem}")]
    Tls {
        /// The peer.
        peer: String,
        /// The problem.
        problem: String,
    },

    /// The peer sent plaintext where TLS was expected. Nothing was delivered.
    #[error("{peer} {problem}")]
    Plaintext {
        /// The peer.
        peer: String,
        /// The peer's fault, and the setting to change.
        problem: &'static str,
    },

    /// The connection ended without a TLS close_notify: the peer crashed, or the connection was cut on the path. The data
    /// received so far was delivered and may be incomplete.
    #[error("the connection to {peer} was truncated: it ended without a TLS close_notify, so data may be missing")]
    Truncated {
        /// The peer.
        peer: String,
    },

    /// A certificate, private key or pin file is damaged, does not match its counterpart, or cannot be read or written. Such
    /// a file is never overwritten, except for a pin by [`tls::pin`](crate::tls::pin).
    #[error("{}: {}", path.display(), in_plain_words(problem.as_ref()))]
    Identity {
        /// The file or directory.
        path: PathBuf,
        /// The problem: an [`io::Error`], or text.
        problem: Box<dyn std::error::Error + Send + Sync>,
    },

    /// The TLS configuration is unusable: an invalid fingerprint, a root file without certificates, an invalid server name.
    /// Found when the configuration is first used.
    #[error("invalid TLS configuration: {0}")]
    TlsSettings(String),

    /// The request is not supported by this build, or not possible on this kind of socket; a blocking call would wait
    /// for its own thread; or what was asked for has been taken already, or goes to a callback.
    #[error("{0}")]
    Unsupported(String),

    /// Any other failure of a system call, or the end of the connection during the TLS handshake.
    #[error("{} {address}: {}", operation.failed(), os_text(source))]
    Io {
        /// The operation.
        operation: Operation,
        /// The address or peer.
        address: String,
        /// The error of the system call.
        source: io::Error,
    },

    /// An error of the program or of another library, returned by a callback.
    #[error("{}", in_plain_words(.0.as_ref()))]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Wraps any error or message, so that a callback can close its connection with it.
    ///
    /// ```
    /// let error = network::Error::other("this peer is rude");
    /// assert_eq!(error.to_string(), "this peer is rude");
    /// ```
    pub fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Error::Other(error.into())
    }

    /// Returns the variant's name, for `Debug`.
    fn name(&self) -> &'static str {
        match self {
            Error::Address { .. } => "Address",
            Error::InvalidOption(_) => "InvalidOption",
            Error::Lookup { .. } => "Lookup",
            Error::Refused { .. } => "Refused",
            Error::Unreachable { .. } => "Unreachable",
            Error::Proxy { .. } => "Proxy",
            #[cfg(feature = "ftp")]
            Error::Ftp { .. } => "Ftp",
            #[cfg(feature = "http")]
            Error::Http { .. } => "Http",
            #[cfg(feature = "http")]
            Error::Status { .. } => "Status",
            #[cfg(feature = "websocket")]
            Error::WebSocket { .. } => "WebSocket",
            Error::TimedOut { .. } => "TimedOut",
            Error::NotReady { .. } => "NotReady",
            Error::Cancelled { .. } => "Cancelled",
            Error::Closed { .. } => "Closed",
            Error::Down { .. } => "Down",
            Error::Reset { .. } => "Reset",
            Error::QueueFull { .. } => "QueueFull",
            Error::DatagramTooLarge { .. } => "DatagramTooLarge",
            Error::DatagramTruncated { .. } => "DatagramTruncated",
            Error::LineTooLong { .. } => "LineTooLong",
            Error::FrameTooLong { .. } => "FrameTooLong",
            Error::Frame { .. } => "Frame",
            Error::LimitExceeded { .. } => "LimitExceeded",
            Error::InUse { .. } => "InUse",
            Error::ServiceNotFound { .. } => "ServiceNotFound",
            Error::AvahiUnavailable { .. } => "AvahiUnavailable",
            Error::WrongThread => "WrongThread",
            Error::OtherThreads { .. } => "OtherThreads",
            Error::AlreadyRunning { .. } => "AlreadyRunning",
            Error::UnknownCertificate { .. } => "UnknownCertificate",
            Error::CertificateChanged { .. } => "CertificateChanged",
            Error::Rejected { .. } => "Rejected",
            Error::Tls { .. } => "Tls",
            Error::Plaintext { .. } => "Plaintext",
            Error::Truncated { .. } => "Truncated",
            Error::Identity { .. } => "Identity",
            Error::TlsSettings(_) => "TlsSettings",
            Error::Unsupported(_) => "Unsupported",
            Error::Io { .. } => "Io",
            Error::Other(_) => "Other",
        }
    }

    /// Returns whether the text names the peer, so that a log line need not.
    pub(crate) fn names_peer(&self) -> bool {
        !matches!(self, Error::Other(_) | Error::InvalidOption(_) | Error::TlsSettings(_) | Error::Unsupported(_))
    }

    /// Returns the closest [`io::ErrorKind`].
    pub fn kind(&self) -> io::ErrorKind {
        use io::ErrorKind as Kind;
        match self {
            Error::Address { .. } | Error::InvalidOption(_) => Kind::InvalidInput,
            Error::Lookup { .. } | Error::ServiceNotFound { .. } => Kind::NotFound,
            #[cfg(feature = "ftp")]
            Error::Ftp { response, .. } => response.kind(),
            #[cfg(feature = "http")]
            Error::Http { .. } => Kind::InvalidData,
            #[cfg(feature = "http")]
            Error::Status { status, .. } => match status.as_u16() {
                401 | 403 | 407 => Kind::PermissionDenied,
                404 | 410 => Kind::NotFound,
                408 | 504 => Kind::TimedOut,
                _ => Kind::Other,
            },
            #[cfg(feature = "websocket")]
            Error::WebSocket { .. } => Kind::InvalidData,
            Error::TimedOut { .. } => Kind::TimedOut,
            Error::Cancelled { .. } => Kind::Interrupted,
            Error::Closed { .. } | Error::Down { .. } => Kind::NotConnected,
            Error::Reset { .. } => Kind::ConnectionReset,
            Error::QueueFull { .. } | Error::NotReady { .. } => Kind::WouldBlock,
            Error::DatagramTooLarge { .. } => Kind::InvalidInput,
            Error::LineTooLong { .. } | Error::FrameTooLong { .. } | Error::Frame { .. } => Kind::InvalidData,
            Error::DatagramTruncated { .. } | Error::LimitExceeded { .. } => Kind::InvalidData,
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
            Error::Proxy { .. } | Error::AvahiUnavailable { .. } | Error::WrongThread | Error::OtherThreads { .. } => {
                Kind::Other
            }
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.name())
    }
}
