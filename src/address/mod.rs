//! Addresses as text: what may be written where a peer or a place to listen is named. Pure values: parsing asks neither
//! the network nor the services database.

mod conversions;
mod endpoint;
mod parse;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use crate::error::{Error, Result};
pub use endpoint::Endpoint;
pub(crate) use endpoint::{endpoint, plain};
#[cfg(feature = "_services")]
pub(crate) use parse::is_service_type;
use parse::parse_target;
pub(crate) use parse::{parse_listening, parse_port, well_known_port};

/// What is said to be expected where an address is none at all.
pub(crate) const FORMS: &str = "host:port, a port, a path with a slash, @name, or service|name";

/// Where to connect to, or where to listen.
///
/// Every call that wants one takes text, a port number, a `(host, port)` pair, a [`SocketAddr`], several of them, or a
/// [`Path`](std::path::Path), so this type rarely needs to be named. Text is read in this order:
///
/// | text | connect to | listen on |
/// |---|---|---|
/// | `@name` | the unix socket of that name in the system's abstract namespace, which has no file | a new one there |
/// | `scheme://host`, `scheme://host:port/…` | that host; the port defaults to the scheme's; TLS if the scheme ends in `s` (`ws` does not count) | – |
/// | `type\|`, `type\|regex` | the first Avahi service `_type._tcp` (whose name matches) | – |
/// | `type\|name`, `type\|name\|port` | – | a random or the given port, published under that name |
/// | anything with a `/` | the unix socket of that path | a new unix socket at that path |
/// | `host:port`, `[address]:port` | that host | that address of this machine |
/// | `port` | this machine | all addresses of this machine |
///
/// A `port` is a number or a name of the services database (`http`, `ipp`) everywhere. A leading `@` always means an
/// abstract name, whatever follows it: a relative path that begins with one is written `./@path`, or given as a
/// [`Path`](std::path::Path).
///
/// ```
/// use network::Address;
///
/// let address = Address::parse("[::1]:http")?;
/// assert_eq!(address.to_string(), "[::1]:http");
/// assert!(Address::parse("localhost:99999").unwrap_err().to_string().contains("65535"));
/// # Ok::<(), network::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    text: String,
    target: Target,
}

/// What an address means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// A host and port. No host: this machine (connect) or every address (listen). `tls` is what a URL says of it.
    Inet { host: Option<Host>, port: Port, tls: Option<bool> },
    /// Addresses that need no look-up, in the order in which to try them.
    Direct(Vec<SocketAddr>),
    /// A unix socket.
    Unix(UnixName),
    /// A service type, and all that came after the first `|`.
    Service { kind: String, rest: String },
}

/// How a unix socket is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum UnixName {
    Path(PathBuf),
    /// By a name without the `@`, in the namespace that Linux has beside the files.
    Abstract(Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    Name(String),
    V4(std::net::Ipv4Addr),
    /// With the scope as it was written: an interface's name or number.
    V6(Ipv6Addr, Option<String>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Port {
    Number(u16),
    Name(String),
}

impl Address {
    /// Reads an address as text.
    ///
    /// # Errors
    /// [`Error::Address`], which quotes the text and says what was expected.
    pub fn parse(text: &str) -> Result<Address> {
        match parse_target(text) {
            Ok(target) => Ok(Address { text: text.into(), target }),
            Err(problem) => Err(Error::Address { address: text.into(), problem }),
        }
    }

    /// An address that is known by other means than its text.
    pub(crate) fn of_target(text: String, target: Target) -> Address {
        Address { text, target }
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// The name under which pins of this address are kept, the same for every way to write it and no other, and the host
    /// for which certificates must be good.
    pub(crate) fn peer(&self, port: u16) -> (String, Option<String>) {
        let (host, zone) = match &self.target {
            Target::Inet { host: None, .. } => ("localhost".into(), None),
            Target::Inet { host: Some(Host::Name(name)), .. } => (host_name(name), None),
            Target::Inet { host: Some(Host::V4(ip)), .. } => (ip.to_string(), None),
            Target::Inet { host: Some(Host::V6(ip, scope)), .. } => {
                (IpAddr::V6(*ip).to_canonical().to_string(), zone(*ip, scope.as_deref()))
            }
            Target::Direct(addresses) => match addresses.first().map(|first| plain(*first)) {
                Some(SocketAddr::V6(v6)) => (v6.ip().to_string(), zone(*v6.ip(), Some(&v6.scope_id().to_string()))),
                Some(SocketAddr::V4(v4)) => (v4.ip().to_string(), None),
                None => Default::default(),
            },
            Target::Unix(_) => return (self.text.clone(), None),
            Target::Service { kind, rest } => return (format!("{kind}|{rest}"), None),
        };
        let name = match host.parse() {
            // The unspecified address connects to this machine. Others of 127.0.0.0/8 may be other servers.
            Ok(IpAddr::V4(Ipv4Addr::LOCALHOST | Ipv4Addr::UNSPECIFIED)) => "localhost".to_owned(),
            Ok(IpAddr::V6(Ipv6Addr::LOCALHOST | Ipv6Addr::UNSPECIFIED)) => "localhost".to_owned(),
            Ok(IpAddr::V6(_)) => format!("[{host}{}]", zone.map(|zone| format!("%{zone}")).unwrap_or_default()),
            _ => host.clone(),
        };
        (format!("{name}:{port}"), Some(host))
    }

    /// Is it a URL of that scheme?
    pub(crate) fn has_scheme(&self, scheme: &str) -> bool {
        self.text.split_once("://").is_some_and(|(given, _)| given.eq_ignore_ascii_case(scheme))
    }

    /// The error of using this address for something it is not fit for.
    pub(crate) fn unfit(&self, problem: impl Into<String>) -> Error {
        Error::Address { address: self.text.clone(), problem: problem.into() }
    }
}

/// A host name as DNS has it: `München.example.` is `xn--mnchen-3ya.example`.
fn host_name(name: &str) -> String {
    let ascii = glib::hostname_to_ascii(name).map_or_else(|| name.to_owned(), String::from);
    ascii.trim_end_matches('.').to_ascii_lowercase()
}

/// The interface of a link-local address, of which each link can have another. Elsewhere a scope means nothing.
fn zone(ip: Ipv6Addr, scope: Option<&str>) -> Option<String> {
    let scope = scope.filter(|scope| ip.is_unicast_link_local() && *scope != "0")?;
    Some(scope.parse().ok().and_then(interface_name).unwrap_or_else(|| scope.to_owned()))
}

/// The name of an interface, which outlives its number.
fn interface_name(number: u32) -> Option<String> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
    let any = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    netdevice::index_to_name(any, number).ok()
}

impl fmt::Display for Address {
    /// The address as it was given.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
