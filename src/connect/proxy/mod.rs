//! Proxies: which one a connection takes, if any, and the way through it. [`passage`] does the input and output; all other files
//! are values that know neither a descriptor nor a main loop.

pub(crate) mod challenge;
#[cfg(any(test, fuzzing))]
pub(crate) mod checks;
mod connect_method;
mod environment;
mod except;
mod hop;
mod line;
mod negotiation;
mod passage;
mod socks4;
mod socks5;

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::address::{Address, to_canonical};
use crate::error::{Error, Result};
use crate::log;
use crate::resolve::Plan;
use crate::tls::ClientTls;
use environment::{Environment, Traffic};
use except::Exceptions;
use hop::{Destination, Hop};
pub(super) use line::ProxyTls;
use passage::Settings;
pub(super) use passage::{Means, Passage};

/// A proxy to connect through, for [`SocketBuilder::proxy`](crate::socket::SocketBuilder::proxy).
///
/// A proxy is asked for the target before TLS begins: certificates and pins are those of the target. Unix sockets, services and
/// this machine itself (`localhost`, names below it, loopback addresses) are always connected to without a proxy, and so are the
/// targets set by [`except`](Proxy::except).
///
/// User names and passwords are sent to the proxy only, except to `https://` proxies unencrypted, as these protocols have it. They
/// are never part of an error, a log record or the output of `Display` and `Debug`.
///
/// Text converts into a `Proxy` as by [`url`](Proxy::url).
///
/// # Example
/// ```no_run
/// use network::{Socket, socket::Proxy};
///
/// let proxy = Proxy::url("socks5h://localhost:9050").except([".lan", "10.0.0.0/8"]);
/// let socket = Socket::builder().proxy(proxy).connect("example.org:443")?;
/// # Ok::<(), network::Error>(())
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct Proxy {
    source: Source,
    exceptions: Exceptions,
    timeout: Option<Duration>,
    reply_limit: Option<usize>,
    tls: Option<ClientTls>,
}

/// The default time for an answer of a proxy.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest reply of an HTTP proxy by default, in bytes.
const REPLY_LIMIT: usize = 16 << 10;

#[derive(Clone, Default)]
enum Source {
    #[default]
    None,
    Url(std::result::Result<Hop, String>),
    Environment(Environment),
    System(Environment),
}

impl Proxy {
    /// Connects directly. The default.
    pub fn none() -> Self {
        Proxy::default()
    }

    /// Connects through the proxy with this URL: `scheme://host:port`, or `scheme://user:password@host:port`.
    ///
    /// | scheme | protocol | host names are resolved | default port |
    /// |---|---|---|---|
    /// | `socks5` | SOCKS5 (RFC 1928, 1929) | on this machine | 1080 |
    /// | `socks5h` | SOCKS5 | by the proxy | 1080 |
    /// | `socks4a` | SOCKS4a, without IPv6 addresses; the user has no password | by the proxy | 1080 |
    /// | `http` | CONNECT of HTTP/1.1 (RFC 9110, section 9.3.6) | by the proxy | 80 |
    /// | `https` | the same over TLS with the proxy ([`tls`](Self::tls)); for connections in plaintext only | by the proxy | 443 |
    ///
    /// With `socks5`, the addresses of a host are tried one after the other, IPv6 first. A user and password are percent-encoded
    /// (RFC 3986). An HTTP proxy gets them only if it asks for them, in answer to one challenge: Digest with SHA-256 or MD5
    /// (RFC 7616), or Basic (RFC 7617).
    ///
    /// The TLS of an `https` proxy ends there: between the proxy and the target, everything is in plaintext. So the connection
    /// counts as one in plaintext. [`Socket::is_tls`](crate::Socket::is_tls) returns `false`, and there is no certificate of the
    /// peer. TLS with the target within that of the proxy fails with [`Error::Unsupported`]: when connecting, before the proxy is
    /// contacted, and by [`Socket::start_tls`](crate::Socket::start_tls).
    ///
    /// A malformed URL fails with [`Error::InvalidOption`] when connecting, before anything is looked up.
    pub fn url(url: impl AsRef<str>) -> Self {
        Source::Url(Hop::parse(url.as_ref(), None)).into()
    }

    /// Connects through the proxy that the environment names, or directly if it names none. Reads the environment at once.
    ///
    /// | connection | variables, the first that is set |
    /// |---|---|
    /// | with TLS | `https_proxy`, `HTTPS_PROXY`, `all_proxy`, `ALL_PROXY` |
    /// | to an address that begins with `http://` or `ws://` | `http_proxy`, `all_proxy`, `ALL_PROXY` |
    /// | any other | `all_proxy`, `ALL_PROXY` |
    ///
    /// `HTTP_PROXY` is not read: a CGI server sets it from a header of the request. A value has the form of [`url`](Proxy::url);
    /// without a scheme, it is an HTTP proxy. `no_proxy` or `NO_PROXY` lists exceptions, as for [`except`](Proxy::except), with
    /// commas or spaces between them. An empty variable counts as not set.
    ///
    /// A malformed variable fails with [`Error::InvalidOption`], which names it, when a connection needs it. Invalid entries of
    /// `no_proxy`, such as `10.*`, are ignored, as by other programs: their targets are connected to through the proxy. The first
    /// of them is logged, once per process, as [`Level::Message`](crate::log::Level::Message).
    pub fn environment() -> Self {
        Proxy::from_environment(Source::Environment)
    }

    /// Connects through the proxy that the environment names, else through those that the desktop's settings name
    /// ([`gio::ProxyResolver`]).
    ///
    /// If the settings name several, they are tried in this order until one connects; "direct" is one of them. gio's resolver
    /// **starts threads that never end**, so [`bgloop`](crate::bgloop) fails afterwards. Not used unless asked for by this call,
    /// and not if the environment names a proxy.
    pub fn system() -> Self {
        Proxy::from_environment(Source::System)
    }

    fn from_environment(source: impl FnOnce(Environment) -> Source) -> Self {
        // What is not text is no proxy, and no exception either.
        let text = |value: OsString| value.into_string().unwrap_or_else(|_| "\0".into());
        let (environment, exceptions) = Environment::read(|name| std::env::var_os(name).map(text));
        Proxy { exceptions, ..source(environment).into() }
    }

    /// Adds targets to connect to without the proxy.
    ///
    /// | entry | targets |
    /// |---|---|
    /// | `example.org` | this name and all names below it |
    /// | `.lan`, `*.lan` | all names below this one |
    /// | `192.0.2.1`, `2001:db8::1` | this address |
    /// | `10.0.0.0/8`, `2001:db8::/32` | the addresses of this network |
    /// | `*` | all |
    ///
    /// A port after a `:` limits an entry to it; an IPv6 address with a port goes in brackets. The address is compared as the
    /// program gives it: a host name is not resolved to find out whether it is in a network.
    ///
    /// An invalid entry fails with [`Error::InvalidOption`] when a connection would take the proxy.
    pub fn except<I>(mut self, targets: I) -> Self
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        for target in targets {
            self.exceptions.add(target.as_ref());
        }
        self
    }

    /// Sets the timeout for the proxy's answer, and for the TLS handshake with it, from when the connection to it is established.
    /// Default: 10 s, and at most what is left of the [timeout for connecting](crate::socket::SocketBuilder::connect_timeout).
    ///
    /// When it expires, the next address of the target is tried, if the proxy is asked for addresses; after the last one,
    /// connecting fails with [`Error::TimedOut`].
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Sets whom to trust as an `https` proxy, and the identity to present to it. Default: [`ClientTls::system`], the roots of the
    /// system for the host name in the proxy's URL.
    ///
    /// A proxy of another kind in [`url`](Self::url) fails with [`Error::InvalidOption`] when connecting. Proxies that the
    /// environment or the system names are verified by these settings if they are `https` proxies.
    ///
    /// # Example
    /// ```no_run
    /// use network::{ClientTls, Socket, socket::Proxy};
    ///
    /// let authority = std::fs::read("/etc/company-ca.pem")?;
    /// let proxy = Proxy::url("https://user:password@proxy.example").tls(ClientTls::roots(authority));
    /// let socket = Socket::builder().proxy(proxy).connect("http://example.org")?;
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn tls(mut self, settings: impl Into<ClientTls>) -> Self {
        self.tls = Some(settings.into());
        self
    }

    /// Sets the longest reply accepted from an HTTP proxy, in bytes. Default: 16 KiB. Replies of SOCKS have at most 262 bytes.
    pub fn reply_limit(mut self, bytes: usize) -> Self {
        self.reply_limit = Some(bytes);
        self
    }
}

impl From<Source> for Proxy {
    fn from(source: Source) -> Self {
        Proxy { source, ..Proxy::default() }
    }
}

impl From<&str> for Proxy {
    fn from(url: &str) -> Self {
        Proxy::url(url)
    }
}

impl From<&String> for Proxy {
    fn from(url: &String) -> Self {
        Proxy::url(url)
    }
}

impl From<String> for Proxy {
    fn from(url: String) -> Self {
        Proxy::url(url)
    }
}

impl fmt::Display for Proxy {
    /// The URL without user and password, or the source of the proxy.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::None => f.write_str("no proxy"),
            Source::Url(Ok(hop)) => hop.fmt(f),
            Source::Url(Err(_)) => f.write_str("an invalid proxy"),
            Source::Environment(_) => f.write_str("the proxy of the environment"),
            Source::System(_) => f.write_str("the proxy of the system"),
        }
    }
}

impl fmt::Debug for Proxy {
    /// As `Display`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

// ---- the way of one connection ----

/// The proxies to try, in this order.
enum Hops {
    Known(Vec<Way>),
    /// Those that gio's resolver names for this URI.
    Ask(String),
}

/// One way to a target.
enum Way {
    Direct,
    Through(Hop),
}

/// The target of a connection: a name and port, or addresses to try one after the other.
enum Targets {
    Name(String, u16),
    Addresses(Vec<SocketAddr>),
}

impl Targets {
    fn destinations(&self) -> Vec<Destination> {
        match self {
            Targets::Name(name, port) => vec![Destination::Name(name.clone(), *port)],
            Targets::Addresses(addresses) => addresses.iter().copied().map(Destination::Address).collect(),
        }
    }
}

impl Proxy {
    pub(crate) fn is_none(&self) -> bool {
        matches!(self.source, Source::None)
    }

    /// Returns the way to an address through a proxy, or `None` if it is to be reached without one.
    pub(super) fn passage(&self, address: &Address, plan: &Plan, is_tls: bool) -> Result<Option<Passage>> {
        if self.is_none() {
            return Ok(None);
        }
        if let Source::Url(Err(problem)) = &self.source {
            return Err(Error::InvalidOption(format!("invalid proxy: {problem}")));
        }
        if let (Source::Url(Ok(hop)), Some(_)) = (&self.source, &self.tls)
            && !hop.is_tls()
        {
            return Err(Error::InvalidOption(format!("proxy {hop}: Proxy::tls is for https:// proxies only")));
        }
        let Some(targets) = self.targets(plan) else { return Ok(None) };
        let Some(hops) = self.hops(address, &targets, is_tls)? else { return Ok(None) };
        self.check_exceptions()?;
        if matches!(plan, Plan::Srv(_)) {
            return Err(Error::Unsupported(format!(
                "{address}: SRV records are not looked up through a proxy; pass the targets of names::lookup_service to \
                 connect, or use Proxy::none()"
            )));
        }
        let settings = Settings {
            timeout: self.timeout.unwrap_or(TIMEOUT),
            reply_limit: self.reply_limit.unwrap_or(REPLY_LIMIT),
            tls: self.tls.clone().unwrap_or_else(ClientTls::system),
        };
        let passage = Passage { address: address.clone(), hops, targets, is_tls, settings };
        passage.check()?;
        Ok(Some(passage))
    }

    /// Fails if the program's exceptions are invalid. Those of the environment are nothing that the program could change: a
    /// record tells of them, once, since they are the same for all connections.
    fn check_exceptions(&self) -> Result {
        static IS_TOLD: AtomicBool = AtomicBool::new(false);
        if let Some(problem) = &self.exceptions.invalid {
            return Err(Error::InvalidOption(format!("proxy: {problem}")));
        }
        if let Some(problem) = self.exceptions.ignored.as_ref().filter(|_| !IS_TOLD.swap(true, Ordering::Relaxed)) {
            log::message("proxy").error(problem).say(format_args!("ignored a part of the {problem}"));
        }
        Ok(())
    }

    /// Returns the targets that are no exceptions. `None` if there are none.
    fn targets(&self, plan: &Plan) -> Option<Targets> {
        match plan {
            Plan::Unix(_) | Plan::Service(_) => None,
            // The domain, which decides about exceptions. The targets are not known yet.
            Plan::Srv(name) => {
                let domain = name.split_once("._tcp.").map_or(name.as_str(), |(_, domain)| domain);
                let is_excepted = is_this_machine(domain) || self.exceptions.have_name(domain, 0);
                (!is_excepted).then(|| Targets::Name(domain.to_owned(), 0))
            }
            Plan::Lookup(name, port) => {
                let is_excepted = is_this_machine(name) || self.exceptions.have_name(name, *port);
                (!is_excepted).then(|| Targets::Name(name.clone(), *port))
            }
            Plan::Direct(addresses) => {
                let is_excepted = |address: &SocketAddr| {
                    is_own_address(address.ip()) || self.exceptions.have_address(address.ip(), address.port())
                };
                let others: Vec<_> = addresses.iter().filter(|address| !is_excepted(address)).copied().collect();
                (!others.is_empty()).then_some(Targets::Addresses(others))
            }
        }
    }

    fn hops(&self, address: &Address, targets: &Targets, is_tls: bool) -> Result<Option<Hops>> {
        let traffic = traffic(address, is_tls);
        let named = match &self.source {
            Source::None => return Ok(None),
            Source::Url(hop) => Some(hop.clone()),
            Source::Environment(environment) | Source::System(environment) => environment.proxy(traffic),
        };
        match (named.transpose(), &self.source) {
            (Err(problem), _) => Err(Error::InvalidOption(problem)),
            (Ok(Some(hop)), _) => Ok(Some(Hops::Known(vec![Way::Through(hop)]))),
            (Ok(None), Source::System(_)) => Ok(Some(Hops::Ask(uri(traffic, targets)))),
            (Ok(None), _) => Ok(None),
        }
    }
}

/// Returns whether an address leads to this machine, whatever its networks.
fn is_own_address(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip.is_loopback() || ip.is_unspecified()
}

fn is_this_machine(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

fn traffic(address: &Address, is_tls: bool) -> Traffic {
    let text = address.to_string().to_ascii_lowercase();
    match is_tls {
        true => Traffic::Tls,
        false if text.starts_with("http://") || text.starts_with("ws://") => Traffic::Http,
        false => Traffic::Other,
    }
}

/// Returns the URI to ask gio's resolver about. "none" is its own word for a connection of another protocol.
fn uri(traffic: Traffic, targets: &Targets) -> String {
    let scheme = match traffic {
        Traffic::Tls => "https",
        Traffic::Http => "http",
        Traffic::Other => "none",
    };
    let target = match targets {
        Targets::Name(name, port) => format!("{name}:{port}"),
        Targets::Addresses(addresses) => addresses.first().map(|first| without_zone(*first)).unwrap_or_default(),
    };
    format!("{scheme}://{target}")
}

/// Returns an address as a proxy understands it. An interface has a meaning on this machine only.
fn without_zone(address: SocketAddr) -> String {
    SocketAddr::new(to_canonical(address).ip(), address.port()).to_string()
}

/// Reads an answer of gio's resolver, which names a proxy of SOCKS5 without saying who resolves: the proxy does.
fn read_resolved(uri: &str) -> std::result::Result<Way, String> {
    let (scheme, rest) = uri.split_once("://").unwrap_or_default();
    match scheme {
        "direct" => Ok(Way::Direct),
        "socks" | "socks5" => Hop::parse(&format!("socks5h://{rest}"), None).map(Way::Through),
        _ => Hop::parse(uri, None).map(Way::Through),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::plan;

    #[test]
    fn variables_are_chosen_by_the_address() {
        for (address, is_tls, expected, uri_expected) in [
            ("example.org:443", true, Traffic::Tls, "https://example.org:443"),
            ("HTTP://example.org", false, Traffic::Http, "http://example.org:80"),
            ("ws://192.0.2.1:1/x", false, Traffic::Http, "http://192.0.2.1:1"),
            ("example.org:25", false, Traffic::Other, "none://example.org:25"),
            ("http://example.org", true, Traffic::Tls, "https://example.org:80"),
            ("[fe80::1%1]:5", false, Traffic::Other, "none://[fe80::1]:5"),
        ] {
            let address = Address::parse(address).unwrap();
            let traffic = traffic(&address, is_tls);
            assert_eq!(traffic, expected, "{address}");
            let targets = Proxy::url("http://x").targets(&plan(&address).unwrap()).unwrap();
            assert_eq!(uri(traffic, &targets), uri_expected);
        }
    }

    #[test]
    fn some_targets_take_no_proxy() {
        let proxy = Proxy::url("http://x").except(["10.0.0.0/8", ".lan:80"]);
        for (address, takes_one) in [
            ("example.org:1", true),
            ("192.0.2.1:1", true),
            ("localhost:1", false),
            ("a.LocalHost.:1", false),
            ("127.9.9.9:1", false),
            ("[::1]:1", false),
            ("[::ffff:127.0.0.1]:1", false),
            ("1234", false),
            ("10.1.2.3:1", false),
            ("printer.lan:80", false),
            ("printer.lan:81", true),
            ("/run/socket", false),
            ("@name", false),
        ] {
            let plan = plan(&Address::parse(address).unwrap()).unwrap();
            assert_eq!(proxy.targets(&plan).is_some(), takes_one, "{address}");
        }
    }

    #[test]
    fn invalid_exceptions_matter_to_connections_that_take_a_proxy() {
        let takes_one = |proxy: &Proxy, address: &str| {
            let address = Address::parse(address).unwrap();
            let passage = proxy.passage(&address, &plan(&address).unwrap(), false)?;
            Ok::<_, Error>(passage.is_some())
        };
        let from = |variables: &[(&str, &str)]| {
            let find =
                |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
            let (environment, exceptions) = Environment::read(find);
            Proxy { exceptions, ..Source::Environment(environment).into() }
        };
        let bad = ("no_proxy", "10.*,169.254/16,.lan");
        let through = from(&[bad, ("all_proxy", "http://x")]);
        for (proxy, address, expected) in [
            (&through, "10.1.2.3:1", true),
            (&through, "printer.lan:1", false),
            (&through, "/run/socket", false),
            (&from(&[bad]), "192.0.2.1:1", false),
        ] {
            assert_eq!(takes_one(proxy, address).unwrap(), expected, "{address}");
        }
        let programs = through.except(["10.*"]);
        for address in ["/run/socket", "localhost:1", "127.0.0.1:1", "printer.lan:1"] {
            assert!(!takes_one(&programs, address).unwrap(), "{address}");
        }
        let error = takes_one(&programs, "192.0.2.1:1").unwrap_err().to_string();
        assert!(error.contains("invalid exception \"10.*\""), "{error}");
        assert!(!takes_one(&from(&[]).except(["10.*"]), "192.0.2.1:1").unwrap());
    }

    #[test]
    fn answers_of_the_desktop() {
        for (uri, expected) in [
            ("direct://", Some("direct")),
            ("socks://proxy:1080", Some("socks5h://proxy:1080")),
            ("socks5://proxy", Some("socks5h://proxy:1080")),
            ("http://proxy:3128", Some("http://proxy:3128")),
            ("https://proxy", Some("https://proxy:443")),
            ("socks4://proxy:1080", None),
            ("", None),
        ] {
            let way = read_resolved(uri).ok().map(|way| match way {
                Way::Direct => "direct".to_string(),
                Way::Through(hop) => hop.to_string(),
            });
            assert_eq!(way.as_deref(), expected, "{uri}");
        }
    }
}
