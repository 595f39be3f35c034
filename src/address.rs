//! Addresses as text: what may be written where a peer or a place to listen is named. Pure values: parsing asks neither
//! the network nor the services database.

use std::ffi::OsStr;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The longest path a unix socket can have, in bytes. The system's structure holds 108, one of them the closing zero.
const UNIX_PATH_MAX: usize = 107;

/// The longest host name that the domain name system allows, in bytes.
const HOST_MAX: usize = 253;

/// What is said to be expected where an address is none at all.
pub(crate) const FORMS: &str = "host:port, a port, a path with a slash, @name, or service|name";

/// Where to connect to, or where to listen.
///
/// Every call that wants one takes text, a port number, a `(host, port)` pair, a [`SocketAddr`], several of them, or a
/// [`Path`], so this type rarely needs to be named. Text is read in this order:
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
/// abstract name, whatever follows it: a relative path that begins with one is written `./@path`, or given as a [`Path`].
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

    /// The name under which pins of this address are kept, the same for every way to write it, and the host for which
    /// certificates must be good.
    pub(crate) fn peer(&self, port: u16) -> (String, Option<String>) {
        let host = match &self.target {
            Target::Inet { host: None, .. } => "localhost".into(),
            Target::Inet { host: Some(Host::Name(name)), .. } => name.trim_end_matches('.').to_ascii_lowercase(),
            Target::Inet { host: Some(Host::V4(ip)), .. } => IpAddr::V4(*ip).to_string(),
            Target::Inet { host: Some(Host::V6(ip, _)), .. } => IpAddr::V6(*ip).to_string(),
            Target::Direct(addresses) => match addresses.first() {
                Some(first) => plain(*first).ip().to_string(),
                None => String::new(),
            },
            Target::Unix(_) => return (self.text.clone(), None),
            Target::Service { kind, rest } => return (format!("{kind}|{rest}"), None),
        };
        let is_loopback = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let name = if is_loopback { "localhost" } else { host.as_str() };
        let key = if name.contains(':') { format!("[{name}]:{port}") } else { format!("{name}:{port}") };
        (key, Some(host))
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

impl fmt::Display for Address {
    /// The address as it was given.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

type Parsed<T> = std::result::Result<T, String>;

fn parse_target(text: &str) -> Parsed<Target> {
    if text.is_empty() {
        return Err(format!("it is empty; expected {FORMS}"));
    }
    if text.contains('\0') {
        return Err("it holds a NUL byte".into());
    }
    if let Some(name) = text.strip_prefix('@') {
        return parse_abstract(name);
    }
    if let Some((scheme, rest)) = text.split_once("://")
        && !scheme.contains(['/', '|'])
    {
        return parse_url(scheme, rest);
    }
    let bar = text.find('|');
    let slash = text.find('/');
    match (bar, slash) {
        (Some(bar), slash) if slash.is_none_or(|slash| bar < slash) => parse_service(&text[..bar], &text[bar + 1..]),
        (_, Some(_)) => parse_path(Path::new(text)),
        _ => parse_inet(text),
    }
}

fn parse_url(scheme: &str, rest: &str) -> Parsed<Target> {
    let letters = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    if scheme.is_empty() || !scheme.chars().all(letters) {
        return Err("expected a scheme before ://, as in http://host".into());
    }
    let scheme = scheme.to_ascii_lowercase();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() {
        return Err("expected a host after ://".into());
    }
    if authority.contains('@') {
        return Err("a user name or password has no place here; expected scheme://host:port".into());
    }
    let (host, port) = split_port(authority)?;
    let port = match port {
        Some(port) => parse_port(port)?,
        None => Port::Name(scheme.clone()),
    };
    let tls = scheme != "ws" && scheme.ends_with('s');
    Ok(Target::Inet { host: Some(parse_host(host)?), port, tls: Some(tls) })
}

fn parse_service(kind: &str, rest: &str) -> Parsed<Target> {
    if !is_service_type(kind) {
        return Err("expected a service type before the |: 1 to 15 letters, digits and single inner hyphens, \
                    at least one letter"
            .into());
    }
    // Names of types are one in either case.
    Ok(Target::Service { kind: kind.to_ascii_lowercase(), rest: rest.into() })
}

/// Takes apart what comes after the first `|` of a service to listen as: `name` or `name|port`.
pub(crate) fn parse_listening(rest: &str) -> Parsed<(&str, Option<Port>)> {
    Ok(match rest.split_once('|') {
        Some((name, port)) => (name, Some(parse_port(port)?)),
        None => (rest, None),
    })
}

/// Is it a service type, without the underscore (RFC 6763, section 7)?
pub(crate) fn is_service_type(kind: &str) -> bool {
    kind.len() <= 15
        && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && kind.bytes().any(|b| b.is_ascii_alphabetic())
        && !kind.starts_with('-')
        && !kind.ends_with('-')
        && !kind.contains("--")
}

fn parse_path(path: &Path) -> Parsed<Target> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        return Err("the path is empty".into());
    }
    if bytes.contains(&0) {
        return Err("the path holds a NUL byte".into());
    }
    if bytes.len() > UNIX_PATH_MAX {
        return Err(format!("the path of a unix socket has at most {UNIX_PATH_MAX} bytes, this has {}", bytes.len()));
    }
    if bytes.ends_with(b"/") {
        return Err("expected the path of a unix socket, this names a directory".into());
    }
    Ok(Target::Unix(UnixName::Path(path.into())))
}

fn parse_abstract(name: &str) -> Parsed<Target> {
    match name.len() {
        0 => Err("expected a name after the @".into()),
        1..=UNIX_PATH_MAX => Ok(Target::Unix(UnixName::Abstract(name.into()))),
        length => {
            Err(format!("the name of an abstract unix socket has at most {UNIX_PATH_MAX} bytes, this has {length}"))
        }
    }
}

fn parse_inet(text: &str) -> Parsed<Target> {
    let (host, port) = match split_port(text)? {
        (host, Some(port)) => (Some(parse_host(host)?), port),
        (port, None) if port.starts_with('[') || is_address_without_port(port) => {
            return Err(format!("expected a port after the host, as in {port}:1234"));
        }
        (port, None) => (None, port),
    };
    Ok(Target::Inet { host, port: parse_port(port)?, tls: None })
}

fn is_address_without_port(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// Splits `host:port` where the host may be an address in brackets.
fn split_port(text: &str) -> Parsed<(&str, Option<&str>)> {
    let colon = if text.starts_with('[') {
        let end = text.find(']').ok_or("expected a ] to close the [")?;
        match &text[end + 1..] {
            "" => None,
            rest if rest.starts_with(':') => Some(end + 1),
            _ => return Err("expected a : and a port after the ]".into()),
        }
    } else {
        if text.matches(':').count() > 1 {
            return Err("expected host:port; an IPv6 address goes in brackets, as in [::1]:1234".into());
        }
        text.find(':')
    };
    Ok(match colon {
        Some(colon) => (&text[..colon], Some(&text[colon + 1..])),
        None => (text, None),
    })
}

fn parse_host(host: &str) -> Parsed<Host> {
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let (address, scope) = match inner.split_once('%') {
            Some((_, "")) => return Err("expected an interface after the %".into()),
            Some((address, scope)) => (address, Some(scope.to_owned())),
            None => (inner, None),
        };
        let address =
            address.parse().map_err(|_| format!("expected an IPv6 address in the brackets, not {inner:?}"))?;
        return Ok(Host::V6(address, scope));
    }
    if host.is_empty() {
        return Err("expected a host before the :".into());
    }
    if let Ok(address) = host.parse() {
        return Ok(Host::V4(address));
    }
    if host.len() > HOST_MAX {
        return Err(format!("a host name has at most {HOST_MAX} bytes, this has {}", host.len()));
    }
    if let Some(wrong) = host.chars().find(|c| c.is_whitespace() || c.is_control() || "[]%@|:/<>\"\\".contains(*c)) {
        return Err(format!("a host name has no {wrong:?}"));
    }
    Ok(Host::Name(host.into()))
}

pub(crate) fn parse_port(port: &str) -> Parsed<Port> {
    if port.is_empty() {
        return Err("expected a port after the :, a number or a name like http".into());
    }
    if port.bytes().all(|b| b.is_ascii_digit()) {
        return match port.parse() {
            Ok(number) => Ok(Port::Number(number)),
            Err(_) => Err(format!("expected a port of at most 65535, not {port}")),
        };
    }
    let letters = |b: u8| b.is_ascii_alphanumeric() || b"-_.+*".contains(&b);
    if !port.bytes().all(letters) || port.starts_with(['-', '+', '.']) {
        return Err(format!("expected a port, a number up to 65535 or a name like http, not {port:?}"));
    }
    Ok(Port::Name(port.into()))
}

/// Ports of common services, for systems whose services database lacks them. Most minimal containers have none at all.
pub(crate) fn well_known_port(name: &str) -> Option<u16> {
    Some(match name {
        "ftp" => 21,
        "ssh" => 22,
        "telnet" => 23,
        "smtp" => 25,
        "domain" => 53,
        "http" | "ws" => 80,
        "pop3" => 110,
        "ntp" => 123,
        "imap" => 143,
        "ldap" => 389,
        "https" | "wss" => 443,
        "submissions" | "smtps" => 465,
        "rtsp" => 554,
        "submission" => 587,
        "ipp" | "ipps" => 631,
        "ldaps" => 636,
        "ftps" => 990,
        "imaps" => 993,
        "pop3s" => 995,
        "mqtt" => 1883,
        "mysql" => 3306,
        "sip" => 5060,
        "sips" => 5061,
        "xmpp-client" => 5222,
        "postgresql" => 5432,
        "redis" => 6379,
        "irc" => 6667,
        "ircs" => 6697,
        "mqtts" => 8883,
        _ => return None,
    })
}

/// An IPv4 address that came in by an IPv6 socket shows as what it is.
pub(crate) fn plain(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::V4(SocketAddrV4::new(v4, v6.port())),
            None => address,
        },
        v4 => v4,
    }
}

impl TryFrom<&str> for Address {
    type Error = Error;
    fn try_from(text: &str) -> Result<Address> {
        Address::parse(text)
    }
}

impl TryFrom<&String> for Address {
    type Error = Error;
    fn try_from(text: &String) -> Result<Address> {
        Address::parse(text)
    }
}

impl TryFrom<String> for Address {
    type Error = Error;
    fn try_from(text: String) -> Result<Address> {
        Address::parse(&text)
    }
}

impl TryFrom<&OsStr> for Address {
    type Error = Error;
    /// Text that is not UTF-8 can only be a path.
    fn try_from(text: &OsStr) -> Result<Address> {
        match text.to_str() {
            Some(text) => Address::parse(text),
            None => Path::new(text).try_into(),
        }
    }
}

impl TryFrom<&Path> for Address {
    type Error = Error;
    /// Always a unix socket, whether or not the path has a slash.
    fn try_from(path: &Path) -> Result<Address> {
        let text = path.to_string_lossy().into_owned();
        match parse_path(path) {
            Ok(target) => Ok(Address { text, target }),
            Err(problem) => Err(Error::Address { address: text, problem }),
        }
    }
}

impl TryFrom<PathBuf> for Address {
    type Error = Error;
    fn try_from(path: PathBuf) -> Result<Address> {
        path.as_path().try_into()
    }
}

impl TryFrom<&PathBuf> for Address {
    type Error = Error;
    fn try_from(path: &PathBuf) -> Result<Address> {
        path.as_path().try_into()
    }
}

impl TryFrom<(&str, u16)> for Address {
    type Error = Error;
    /// A host, an IPv6 address with or without brackets, and a port.
    fn try_from((host, port): (&str, u16)) -> Result<Address> {
        let bare_v6 = host.split('%').next().is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
        let host = if bare_v6 { format!("[{host}]") } else { host.to_owned() };
        let text = format!("{host}:{port}");
        match parse_host(&host) {
            Ok(host) => {
                Ok(Address { text, target: Target::Inet { host: Some(host), port: Port::Number(port), tls: None } })
            }
            Err(problem) => Err(Error::Address { address: text, problem }),
        }
    }
}

impl From<u16> for Address {
    fn from(port: u16) -> Address {
        Address { text: port.to_string(), target: Target::Inet { host: None, port: Port::Number(port), tls: None } }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address { text: address.to_string(), target: Target::Direct(vec![address]) }
    }
}

impl From<SocketAddrV4> for Address {
    fn from(address: SocketAddrV4) -> Address {
        SocketAddr::V4(address).into()
    }
}

impl From<SocketAddrV6> for Address {
    fn from(address: SocketAddrV6) -> Address {
        SocketAddr::V6(address).into()
    }
}

impl TryFrom<&[SocketAddr]> for Address {
    type Error = Error;
    /// Several addresses of one peer, the preferred one first: they are raced.
    fn try_from(addresses: &[SocketAddr]) -> Result<Address> {
        let text = addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
        if addresses.is_empty() {
            return Err(Error::Address { address: text, problem: "expected at least one address".into() });
        }
        Ok(Address { text, target: Target::Direct(addresses.into()) })
    }
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Error {
        match never {}
    }
}

/// One end of a connection: who the peer is, or which of our own addresses it reached.
///
/// An IPv4 peer of a dual-stack listener shows as IPv4.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// A TCP or UDP address.
    Inet(SocketAddr),
    /// A unix socket. Most clients have no path of their own: `None`.
    Unix(Option<PathBuf>),
    /// A unix socket with this name in the abstract namespace, without the `@` that it is written with.
    Abstract(Vec<u8>),
    /// Not a network socket: wrapped descriptors.
    Descriptor,
}

impl Endpoint {
    /// The port, where there is one.
    pub fn port(&self) -> Option<u16> {
        self.inet().map(|address| address.port())
    }

    /// The address and port, where there is one.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Endpoint::Inet(address) => Some(*address),
            _ => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Inet(address) => address.fmt(f),
            Endpoint::Unix(Some(path)) => path.display().fmt(f),
            Endpoint::Unix(None) => f.write_str("a unix socket"),
            Endpoint::Abstract(name) => write!(f, "@{}", String::from_utf8_lossy(name)),
            Endpoint::Descriptor => f.write_str("a file descriptor"),
        }
    }
}

mod conversions;
#[cfg(test)]
mod tests;
