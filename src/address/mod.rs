//! Addresses: the text that names a peer or a place to listen, and its meaning. Pure values: parsing uses neither the network
//! nor the services database.

mod conversions;
mod endpoint;
mod file_options;
#[cfg(feature = "http")]
mod of_schemes;
mod parse;
mod schemes;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use rustix::net::SocketAddrUnix;

use crate::error::{Error, Result};
use crate::sys::interface_name;
pub use endpoint::Endpoint;
pub(crate) use endpoint::{endpoint, to_canonical};
pub(crate) use file_options::{FileOptions, file_setters};
#[cfg(feature = "_services")]
pub(crate) use parse::is_service_type;
use parse::{names_user, parse_srv_parts, parse_target, parse_typed_host};
pub(crate) use parse::{parse_authority, parse_listening, parse_port, percent_decode};
pub(crate) use schemes::{Scheme, well_known_port};

/// The forms of an address, for error messages.
pub(crate) const FORMS: &str = "host:port, a port, a path with a slash, @name, service|name, or srv:service.domain";

/// The forms of an address to listen on.
pub(crate) const LISTENING_FORMS: &str = "host:port, a port, a path with a slash, @name, or service|name";

/// An address to connect to or to listen on.
///
/// Methods that need an address accept text, a port number, a `(host, port)` pair, one or several [`SocketAddr`]s, or a
/// [`Path`](std::path::Path), so this type seldom needs to be named. Text is parsed in this order:
///
/// | text | connect to | listen on |
/// |---|---|---|
/// | `@name` | this unix socket in the abstract namespace, which has no file | a new one |
/// | `scheme://host`, `scheme://host:port/…` | this host; the scheme selects the default port and whether to use TLS ([table](crate)); an unknown scheme is an error | – |
/// | `type\|`, `type\|regex` | the first service of type `_type._tcp`: any, or one whose name matches | – |
/// | `type\|name`, `type\|name\|port` | – | an ephemeral or the given port, published under this name |
/// | anything with a `/` | the unix socket at this path | a new unix socket at this path |
/// | `srv:service.domain` | the targets of the SRV records `_service._tcp.domain`, see [`Address::srv`] | – |
/// | `host:port`, `[address]:port` | this host | this address |
/// | `port` | this port of localhost | this port of all addresses |
///
/// A port is a number or a name from the services database, such as `http`. A leading `@` always means an abstract name: write
/// a relative path that begins with `@` as `./@path`, or pass a [`Path`](std::path::Path).
///
/// IPv4 addresses have the forms of inet_aton(3), so `127.1` is `127.0.0.1`. International host names are converted to their
/// ASCII form (IDNA). `localhost` is not looked up: it is `::1` and `127.0.0.1`.
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

/// The meaning of an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// A host and port. Without a host: localhost when connecting, all addresses when listening. URLs have a `scheme`.
    Inet { host: Option<Host>, port: Port, scheme: Option<Scheme> },
    /// Addresses that need no lookup, in the order in which to try them.
    Direct(Vec<SocketAddr>),
    /// A unix socket.
    Unix(UnixName),
    /// A service type, and the text after the first `|`.
    Service { kind: String, rest: String },
    /// SRV records: the service without its underscore, and the domain in its ASCII form, both in lower case.
    Srv { service: String, domain: String },
}

/// The name of a unix socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum UnixName {
    Path(PathBuf),
    /// A name in the abstract namespace, without the `@`.
    Abstract(Vec<u8>),
}

impl UnixName {
    /// Returns the address in the form that the system needs.
    pub(crate) fn to_socket_address(&self) -> io::Result<SocketAddrUnix> {
        Ok(match self {
            UnixName::Path(path) => SocketAddrUnix::new(path)?,
            UnixName::Abstract(name) => SocketAddrUnix::new_abstract_name(name)?,
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    /// In its ASCII form.
    Name(String),
    V4(std::net::Ipv4Addr),
    /// With its zone as it was written: the name or number of an interface.
    V6(Ipv6Addr, Option<String>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Port {
    Number(u16),
    Name(String),
}

impl Address {
    /// Parses an address.
    ///
    /// # Errors
    /// [`Error::Address`], which quotes the text and says what was expected.
    pub fn parse(text: &str) -> Result<Address> {
        match parse_target(text) {
            Ok(target @ Target::Inet { scheme: Some(_), .. }) => Ok(Address { text: without_empty_port(text), target }),
            Ok(target) => Ok(Address { text: text.into(), target }),
            Err(problem) => Err(Error::Address { address: without_password(text), problem }),
        }
    }

    /// Parses a host that a person has typed, with or without a port, and nothing else: no URL, no unix socket, no service.
    ///
    /// Blanks around it are removed. An IPv6 address may be written with or without brackets; with a port it takes them, as in
    /// `[::1]:80`, since `::1:80` is an address too. Displays as `host:port`, which [`parse`](Address::parse) accepts.
    ///
    /// # Errors
    /// [`Error::Address`], which quotes the text and says what was wrong.
    ///
    /// # Example
    /// ```
    /// use network::Address;
    ///
    /// assert_eq!(Address::host(" example.org ", 6667)?.to_string(), "example.org:6667");
    /// assert_eq!(Address::host("example.org:7000", 6667)?.to_string(), "example.org:7000");
    /// assert_eq!(Address::host("::1", 6667)?.to_string(), "[::1]:6667");
    /// assert!(Address::host("irc://example.org", 6667).is_err());
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn host(text: &str, default_port: u16) -> Result<Address> {
        match parse_typed_host(text.trim(), default_port) {
            Ok((host, port, text)) => {
                Ok(Address { text, target: Target::Inet { host: Some(host), port, scheme: None } })
            }
            Err(problem) => Err(Error::Address { address: without_password(text), problem }),
        }
    }

    /// Makes the address of a service by the SRV records of a domain, as XMPP, Minecraft or LDAP have them (RFC 2782).
    ///
    /// `Address::srv("xmpp-client", "example.org")` is the address `srv:xmpp-client.example.org`. Connecting looks up
    /// `_xmpp-client._tcp.example.org` and tries its targets in the order of RFC 2782: by priority, and at random by weight. Each
    /// target is resolved and raced as a host. If it cannot be connected to, the next one is tried; if it stays silent for 5
    /// seconds, or its share of the timeout, the next one is tried beside it. At most 16 targets are tried, all within
    /// [`connect_timeout`](crate::socket::SocketBuilder::connect_timeout).
    ///
    /// TLS verifies the **domain**, not the name of the target, since whoever answers for DNS chooses that (RFC 6125). A pin is
    /// kept for the domain, too. Only for connecting, by TCP.
    ///
    /// # Errors
    /// [`Error::Address`] if the service is no label of letters, digits and hyphens, or the domain is no host name. Connecting
    /// fails with [`Error::Lookup`] if there are no records, or if they say that the service is not offered.
    ///
    /// # Example
    /// ```
    /// use network::Address;
    ///
    /// let address = Address::srv("xmpp-client", "example.org")?;
    /// assert_eq!(address, Address::parse("srv:xmpp-client.example.org")?);
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn srv(service: &str, domain: &str) -> Result<Address> {
        let text = format!("srv:{service}.{domain}");
        match parse_srv_parts(service, domain) {
            Ok(target) => Ok(Address { text, target }),
            Err(problem) => Err(Error::Address { address: text, problem }),
        }
    }

    /// Makes an address whose text does not follow the grammar.
    pub(crate) fn of_target(text: String, target: Target) -> Address {
        Address { text, target }
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Returns the name under which the pin of this address is kept, and the host that certificates must be valid for. All
    /// spellings of an address have the same name, and no other address has it.
    pub(crate) fn peer(&self, port: u16) -> (String, Option<String>) {
        let (host, zone) = match &self.target {
            Target::Inet { host: None, .. } => ("localhost".into(), None),
            Target::Inet { host: Some(Host::Name(name)), .. } => {
                (name.trim_end_matches('.').to_ascii_lowercase(), None)
            }
            Target::Inet { host: Some(Host::V4(ip)), .. } => (ip.to_string(), None),
            Target::Inet { host: Some(Host::V6(ip, scope)), .. } => {
                (IpAddr::V6(*ip).to_canonical().to_string(), zone(*ip, scope.as_deref()))
            }
            Target::Direct(addresses) => match addresses.first().map(|first| to_canonical(*first)) {
                Some(SocketAddr::V6(v6)) => (v6.ip().to_string(), zone(*v6.ip(), Some(&v6.scope_id().to_string()))),
                Some(SocketAddr::V4(v4)) => (v4.ip().to_string(), None),
                None => Default::default(),
            },
            Target::Unix(_) => return (self.text.clone(), None),
            Target::Service { kind, rest } => return (format!("{kind}|{rest}"), None),
            // Whatever the targets are called: only the domain is what the user has asked for (RFC 6125).
            Target::Srv { service, domain } => return (format!("srv:{service}.{domain}"), Some(domain.clone())),
        };
        let name = match host.parse() {
            // The unspecified address connects to this machine. The rest of 127.0.0.0/8 may belong to other servers.
            Ok(IpAddr::V4(Ipv4Addr::LOCALHOST | Ipv4Addr::UNSPECIFIED)) => "localhost".to_owned(),
            Ok(IpAddr::V6(Ipv6Addr::LOCALHOST | Ipv6Addr::UNSPECIFIED)) => "localhost".to_owned(),
            Ok(IpAddr::V6(_)) => format!("[{host}{}]", zone.map(|zone| format!("%{zone}")).unwrap_or_default()),
            _ => host.clone(),
        };
        (format!("{name}:{port}"), Some(host))
    }

    /// Returns the name that a lookup of this address is about: the host of a URL, else the address as it was given.
    pub(crate) fn looked_up(&self) -> String {
        match &self.target {
            Target::Inet { host: Some(Host::Name(name)), scheme: Some(_), .. } => name.clone(),
            _ => self.text.clone(),
        }
    }

    /// The error that this address cannot be used here.
    pub(crate) fn unfit(&self, problem: impl Into<String>) -> Error {
        Error::Address { address: self.text.clone(), problem: problem.into() }
    }
}

/// Returns the interface of a link-local address, which is another one on each link. Other addresses have no zone.
fn zone(ip: Ipv6Addr, scope: Option<&str>) -> Option<String> {
    let scope = scope.filter(|scope| ip.is_unicast_link_local() && *scope != "0")?;
    // The name is more durable than the number.
    Some(scope.parse().ok().and_then(interface_name).unwrap_or_else(|| scope.to_owned()))
}

impl fmt::Display for Address {
    /// The address as it was given, without the colon of an empty port in a URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Returns the text of a URL without the colon of a port that is empty.
fn without_empty_port(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    format!("{scheme}://{}{path}", authority.strip_suffix(':').unwrap_or(authority))
}

/// Returns a text that is no address, for a message: a user name and a password before the host are left out.
pub(crate) fn without_password(text: &str) -> String {
    let start = text.find("://").map_or(0, |at| at + "://".len());
    let (before, rest) = text.split_at(start);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let secret = if start > 0 && names_user(rest) { rest } else { authority };
    match secret.rsplit_once('@') {
        // Without a scheme, an @ alone may begin a name.
        Some((user, _)) if start > 0 || user.contains(':') => format!("{before}…{}", &rest[user.len()..]),
        _ => text.to_owned(),
    }
}
