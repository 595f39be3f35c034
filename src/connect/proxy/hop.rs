//! One proxy server: its URL, and what can be asked of it. The credentials are shown nowhere.

use std::fmt;
use std::net::SocketAddr;

use crate::address::{Address, Host, Port, Target, parse_authority, percent_decode};
use crate::tls::PeerName;

/// The protocol of a proxy server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// SOCKS version 5 (RFC 1928), with the names of targets resolved on this machine.
    Socks5,
    /// The same, with the names of targets resolved by the proxy.
    Socks5Names,
    /// SOCKS version 4 with names of targets, which the proxy resolves.
    Socks4a,
    /// The method CONNECT of HTTP (RFC 9110, section 9.3.6).
    Http,
    /// The same over TLS.
    Https,
}

use Protocol::{Http, Https, Socks4a, Socks5, Socks5Names};

/// Scheme, protocol, default port.
const SCHEMES: [(&str, Protocol, u16); 5] = [
    ("socks5", Socks5, 1080),
    ("socks5h", Socks5Names, 1080),
    ("socks4a", Socks4a, 1080),
    ("http", Http, 80),
    ("https", Https, 443),
];

/// The forms of a proxy's URL, for error messages.
const FORMS: &str = "socks5://, socks5h://, socks4a://, http:// or https://, then host:port, and user:password@ before the \
                     host if the proxy requires them";

/// The longest user name and password of SOCKS5 (RFC 1929), in bytes.
const SOCKS5_MAX: usize = 255;

/// A user name and its password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: String,
}

/// One proxy server.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) protocol: Protocol,
    pub(super) address: Address,
    pub(super) credentials: Option<Credentials>,
}

/// The other end of a connection through a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// A host name in its ASCII form, and a port.
    Name(String, u16),
    Address(SocketAddr),
}

impl Hop {
    /// Parses a URL. A text without a scheme is an error, unless there is a `default` one.
    ///
    /// # Errors
    /// The scheme at most, and the problem. All other parts of a malformed URL may be a password.
    pub(super) fn parse(url: &str, default: Option<&str>) -> Result<Hop, String> {
        let (scheme, rest) = match (url.split_once("://"), default) {
            (Some(parts), _) => parts,
            (None, Some(default)) => (default, url),
            (None, None) => return Err(format!("expected {FORMS}")),
        };
        let scheme = scheme.to_ascii_lowercase();
        let wrong = |problem: &str| format!("{scheme}://…: {problem}");
        let known = SCHEMES.iter().find(|(name, _, _)| *name == scheme);
        let Some((_, protocol, port)) = known else { return Err(unknown_scheme(&scheme)) };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if path.contains('@') {
            return Err(wrong("write the characters / ? # @ of a user or password percent-encoded, as in %2F"));
        }
        if !matches!(path, "" | "/") {
            return Err(wrong("expected nothing after the host and port"));
        }
        let (credentials, authority) = match authority.rsplit_once('@') {
            Some((credentials, authority)) => (Some(credentials), authority),
            None => (None, authority),
        };
        let credentials = credentials.map(|text| parse_credentials(*protocol, text)).transpose();
        let credentials = credentials.map_err(|problem| wrong(&problem))?;
        let address = parse_address(authority, *port).map_err(wrong)?;
        Ok(Hop { protocol: *protocol, address, credentials })
    }

    /// Returns why the proxy cannot be asked for this destination, if that is known without asking.
    pub(super) fn cannot(&self, destination: &Destination) -> Option<String> {
        match (self.protocol, destination) {
            (_, Destination::Address(SocketAddr::V6(v6))) if v6.scope_id() != 0 => {
                Some("an address with an interface means nothing to a proxy; add it to the exceptions".into())
            }
            (Socks4a, Destination::Address(SocketAddr::V6(v6))) if v6.ip().to_ipv4_mapped().is_none() => {
                Some("SOCKS4a cannot name an IPv6 address; use socks5:// or http://".into())
            }
            (Socks5Names, Destination::Name(name, _)) if name.len() > SOCKS5_MAX => {
                Some(format!("the host name has {} bytes, and SOCKS5 can send {SOCKS5_MAX}", name.len()))
            }
            _ => None,
        }
    }

    /// Returns whether names of targets are resolved on this machine.
    pub(super) fn resolves_here(&self) -> bool {
        self.protocol == Socks5
    }

    /// Returns whether the connection to the proxy uses TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.protocol == Https
    }

    /// Returns the proxy as TLS verifies it.
    pub(super) fn peer(&self) -> PeerName {
        let port = match self.address.target() {
            Target::Inet { port: Port::Number(port), .. } => *port,
            _ => 0,
        };
        let (key, host) = self.address.peer(port);
        PeerName { key, host }
    }

    fn scheme(&self) -> &'static str {
        let own = SCHEMES.iter().find(|(_, protocol, _)| *protocol == self.protocol);
        own.map_or("", |(scheme, _, _)| scheme)
    }
}

impl fmt::Display for Hop {
    /// The URL without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.address)
    }
}

impl fmt::Debug for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Name(name, port) => write!(f, "{name}:{port}"),
            Destination::Address(address) => address.fmt(f),
        }
    }
}

fn unknown_scheme(scheme: &str) -> String {
    match scheme {
        "socks" => format!("socks://… leaves the version open; expected {FORMS}"),
        "socks4" => "socks4://…: expected socks4a://, which lets the proxy resolve the host name".into(),
        _ => format!("unknown kind of proxy; expected {FORMS}"),
    }
}

/// Parses a host with or without a port. Neither is part of the error: it may be a password.
fn parse_address(authority: &str, default: u16) -> Result<Address, &'static str> {
    const PORT: &str = "expected a port from 1 to 65535 after the host";
    let has_host = |(host, _): (&str, &str)| parse_authority(host).is_ok_and(|(_, port)| port.is_none());
    let (host, port) =
        parse_authority(authority).map_err(|_| match authority.rsplit_once(':').is_some_and(has_host) {
            true => PORT,
            false => "expected a host, or host:port",
        })?;
    let port = match port {
        None => default,
        Some(Port::Number(port)) if port > 0 => port,
        Some(_) => return Err(PORT),
    };
    let name = match &host {
        Host::Name(name) => name.clone(),
        Host::V4(ip) => ip.to_string(),
        Host::V6(ip, None) => format!("[{ip}]"),
        Host::V6(ip, Some(zone)) => format!("[{ip}%{zone}]"),
    };
    let target = Target::Inet { host: Some(host), port: Port::Number(port), scheme: None };
    Ok(Address::of_target(format!("{name}:{port}"), target))
}

fn parse_credentials(protocol: Protocol, text: &str) -> Result<Credentials, String> {
    let (user, password) = text.split_once(':').map_or((text, None), |(user, password)| (user, Some(password)));
    let decode = |text: &str, what: &str| {
        let decoded = percent_decode(text).ok().filter(|text| !text.contains(char::is_control));
        decoded
            .ok_or_else(|| format!("the {what} is not percent-encoded text (RFC 3986), or contains control characters"))
    };
    let user = decode(user, "user")?;
    let has_password = password.is_some();
    let password = decode(password.unwrap_or_default(), "password")?;
    if user.is_empty() {
        return Err("expected a user before the @".into());
    }
    let longest = user.len().max(password.len());
    match protocol {
        Socks5 | Socks5Names if longest > SOCKS5_MAX => {
            Err(format!("SOCKS5 can send {SOCKS5_MAX} bytes of a user or password, and one has {longest}"))
        }
        Socks4a if has_password => Err("SOCKS4a sends a user and no password".into()),
        Http | Https if user.contains(':') => Err("HTTP cannot send a user that contains a colon".into()),
        _ => Ok(Credentials { user, password }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_proxies() {
        for (url, shown, user, password) in [
            ("socks5://host", "socks5://host:1080", None, ""),
            ("SOCKS5H://host:9050/", "socks5h://host:9050", None, ""),
            ("socks4a://me@127.0.0.1", "socks4a://127.0.0.1:1080", Some("me"), ""),
            ("http://a%40b:c%2Fd:e@[::1]:3128", "http://[::1]:3128", Some("a@b"), "c/d:e"),
            ("http://a:b@c@host:1", "http://host:1", Some("a"), "b@c"),
            ("http://user:@host", "http://host:80", Some("user"), ""),
            ("https://me:x@host", "https://host:443", Some("me"), "x"),
            ("http://münchen.test:8080", "http://xn--mnchen-3ya.test:8080", None, ""),
        ] {
            let hop = Hop::parse(url, None).unwrap();
            assert_eq!(hop.to_string(), shown);
            assert_eq!(format!("{hop:?}"), shown);
            assert_eq!(hop.credentials.as_ref().map(|known| known.user.as_str()), user);
            assert_eq!(hop.credentials.map_or(String::new(), |known| known.password), password);
        }
        assert_eq!(Hop::parse("proxy:3128", Some("http")).unwrap().to_string(), "http://proxy:3128");
    }

    #[test]
    fn malformed_urls_say_what_was_expected_and_show_no_secret() {
        let long = format!("socks5://{}:x@host", "u".repeat(256));
        for (url, word) in [
            ("", "expected socks5://"),
            ("sesam:1080", "expected socks5://"),
            ("ftp://sesam@host", "unknown kind of proxy"),
            ("socks://sesam@host", "leaves the version open"),
            ("socks4://sesam@host", "expected socks4a://"),
            ("socks5://user:sesam", "expected a port from 1 to 65535"),
            ("socks5://host:99999", "expected a port from 1 to 65535"),
            ("socks5://[::1]:x", "expected a port from 1 to 65535"),
            ("socks5://::1:sesam", "expected a host, or host:port"),
            ("socks5://", "expected a host"),
            ("socks5://user:ses/am@host", "percent-encoded"),
            ("socks5://user:sesam@host/path", "nothing after"),
            ("socks5://user:sesam%0d@host", "control characters"),
            ("socks5://user:sesam%@host", "percent-encoded"),
            ("socks5://:sesam@host", "expected a user"),
            ("socks5://user:sesam@host:0", "expected a port"),
            ("socks5://user:sesam@host:sesam", "expected a port"),
            ("socks4a://user:sesam@host", "no password"),
            ("http://us%3Aer:sesam@host", "colon"),
            (long.as_str(), "255 bytes"),
        ] {
            let problem = Hop::parse(url, None).unwrap_err();
            assert!(problem.contains(word), "{url}: {problem}");
            assert!(!problem.contains("sesam"), "{url}: {problem}");
        }
    }

    #[test]
    fn some_destinations_are_refused_without_asking() {
        let hop = |url: &str| Hop::parse(url, None).unwrap();
        let address = |text: &str| Destination::Address(text.parse().unwrap());
        let name = |length: usize| Destination::Name("x".repeat(length), 1);
        for (url, destination, is_possible) in [
            ("socks4a://h", address("[2001:db8::1]:1"), false),
            ("socks4a://h", address("[::ffff:192.0.2.1]:1"), true),
            ("socks4a://h", address("192.0.2.1:1"), true),
            ("socks5://h", address("[2001:db8::1]:1"), true),
            ("http://h", address("[fe80::1%3]:1"), false),
            ("socks5h://h", name(255), true),
            ("socks5h://h", name(256), false),
        ] {
            assert_eq!(hop(url).cannot(&destination).is_none(), is_possible, "{url} {destination}");
        }
    }
}
