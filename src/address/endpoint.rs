//! The ends of connections.

use std::fmt;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::error::Printable;

/// The address of one end of a connection.
///
/// An IPv4 peer of a dual-stack listener is shown as IPv4.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// A TCP or UDP address.
    Inet(SocketAddr),
    /// A unix socket with its path, or `None` if it has no name, as most clients.
    Unix(Option<PathBuf>),
    /// A unix socket with this name in the abstract namespace, without the leading `@`.
    Abstract(Vec<u8>),
    /// A host and port behind a proxy, as the proxy was asked for them.
    Proxied {
        /// The host name in its ASCII form, or the IP address, if this machine has resolved the name.
        host: String,
        /// The port.
        port: u16,
    },
    /// File descriptors other than sockets.
    Descriptor,
}

impl Endpoint {
    /// Returns the port of a TCP or UDP address, also behind a proxy.
    pub fn port(&self) -> Option<u16> {
        match self {
            Endpoint::Inet(address) => Some(address.port()),
            Endpoint::Proxied { port, .. } => Some(*port),
            _ => None,
        }
    }

    /// Returns whether this is a unix socket, with or without a name.
    pub fn is_unix(&self) -> bool {
        matches!(self, Endpoint::Unix(_) | Endpoint::Abstract(_))
    }

    /// Returns the IP address and port of a TCP or UDP address. `None` for a host name behind a proxy.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Endpoint::Inet(address) => Some(*address),
            Endpoint::Proxied { host, port } => host.parse().ok().map(|ip| SocketAddr::new(ip, *port)),
            _ => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Inet(address) => address.fmt(f),
            Endpoint::Proxied { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Endpoint::Proxied { host, port } => write!(f, "{host}:{port}"),
            // Other users choose these names.
            Endpoint::Unix(Some(path)) => Printable(&path.to_string_lossy()).fmt(f),
            Endpoint::Unix(None) => f.write_str("a unix socket"),
            Endpoint::Abstract(name) => write!(f, "@{}", Printable(&String::from_utf8_lossy(name))),
            Endpoint::Descriptor => f.write_str("a file descriptor"),
        }
    }
}

/// The endpoint of a socket address.
pub(crate) fn endpoint(address: impl Into<rustix::net::SocketAddrAny>) -> Endpoint {
    let address = address.into();
    if let Ok(inet) = std::net::SocketAddr::try_from(address.clone()) {
        return Endpoint::Inet(to_canonical(inet));
    }
    let unix = rustix::net::SocketAddrUnix::try_from(address).ok();
    // The kernel reports a socket without a name as one with an empty name.
    let name = unix.as_ref().and_then(rustix::net::SocketAddrUnix::abstract_name);
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        return Endpoint::Abstract(name.into());
    }
    // One that fills the kernel's structure is told with its closing zero.
    let path = |bytes: &[u8]| std::ffi::OsStr::from_bytes(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into();
    let path = unix.and_then(|unix| unix.path_bytes().map(path));
    Endpoint::Unix(path)
}

/// Converts an IPv4-mapped IPv6 address, as a dual-stack socket reports it, to IPv4.
pub(crate) fn to_canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::V4(SocketAddrV4::new(v4, v6.port())),
            None => address,
        },
        v4 => v4,
    }
}
