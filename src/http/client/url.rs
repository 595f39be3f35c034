//! URLs of HTTP (RFC 3986, RFC 9110, section 4.2). Pure.

use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;

use crate::address::{Host, Port, parse_authority, percent_decode, without_password};
use crate::error::{Error, Result};

/// Percent-encodes a text for one value of a query, or one segment of a path.
///
/// Letters, digits and `-._~` are kept.
///
/// # Example
/// ```
/// assert_eq!(network::http::encode("a b&c/ü"), "a%20b%26c%2F%C3%BC");
/// ```
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            escape(&mut encoded, byte);
        }
    }
    encoded
}

fn escape(text: &mut String, byte: u8) {
    text.push_str(&format!("%{byte:02X}"));
}

/// A URL of HTTP. Its fragment is left out: it is not for servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) origin: Rc<Origin>,
    /// The path and query, in characters that may stand in a request.
    pub(super) target: String,
    /// The user and password, decoded.
    pub(super) user: Option<(String, String)>,
}

/// A server and a way to talk to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub(super) is_tls: bool,
    host: Host,
    pub(super) port: u16,
}

impl Origin {
    fn default_port(&self) -> u16 {
        if self.is_tls { 443 } else { 80 }
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.is_tls { "https" } else { "http" }
    }

    /// Returns the host as certificates name it: without brackets and zone.
    pub(super) fn host_name(&self) -> String {
        match &self.host {
            Host::Name(name) => name.clone(),
            Host::V4(ip) => ip.to_string(),
            Host::V6(ip, _) => ip.to_string(),
        }
    }

    /// Returns whether the host is this machine by its name.
    pub(super) fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Name(name) => {
                let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
                name == "localhost" || name.ends_with(".localhost")
            }
            Host::V4(ip) => ip.is_loopback() || ip.is_unspecified(),
            Host::V6(ip, _) => {
                let ip = IpAddr::from(*ip).to_canonical();
                ip.is_loopback() || ip.is_unspecified()
            }
        }
    }

    /// Returns the host and port, without the default port, as in the field `Host`.
    pub(super) fn authority(&self) -> String {
        let host = match &self.host {
            Host::Name(name) => name.clone(),
            Host::V4(ip) => ip.to_string(),
            // The zone means something on this machine only.
            Host::V6(ip, _) => format!("[{ip}]"),
        };
        if self.port == self.default_port() { host } else { format!("{host}:{}", self.port) }
    }

    /// Returns the address to connect to.
    pub(super) fn address(&self, scheme: &str) -> String {
        let host = match &self.host {
            Host::V6(ip, Some(zone)) => format!("[{ip}%25{zone}]"),
            Host::V6(ip, None) => format!("[{ip}]"),
            _ => self.host_name(),
        };
        format!("{scheme}://{host}:{}", self.port)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.authority())
    }
}

impl fmt::Display for Url {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.target)
    }
}

impl Url {
    /// Parses a URL.
    ///
    /// # Errors
    /// [`Error::Address`].
    pub(super) fn parse(text: &str) -> Result<Url> {
        let text = text.trim();
        Url::read(text).map_err(|problem| Error::Address { address: without_password(text), problem })
    }

    fn read(text: &str) -> Result<Url, String> {
        let expected = "expected http://host or https://host";
        if text.contains(|c: char| c.is_control()) {
            return Err("a control character".into());
        }
        let (scheme, rest) = text.split_once("://").ok_or(expected)?;
        let is_tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            "ws" | "wss" => return Err(format!("a WebSocket is opened by websocket::WebSocket; {expected}")),
            _ => return Err(format!("the scheme is {scheme:?}; {expected}")),
        };
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len()));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let user = user.map(|user| {
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            Ok::<_, String>((percent_decode(user)?, percent_decode(password)?))
        });
        let user = user.transpose()?;
        if host.is_empty() {
            return Err(expected.into());
        }
        let (host, port) = parse_authority(host)?;
        let host = match host {
            Host::Name(name) => Host::Name(name.to_ascii_lowercase()),
            ip => ip,
        };
        let default = if is_tls { 443 } else { 80 };
        let port = match port {
            None => default,
            Some(Port::Number(port)) if port > 0 => port,
            Some(_) => return Err("expected a number from 1 to 65535 as the port".into()),
        };
        Ok(Url { origin: Rc::new(Origin { is_tls, host, port }), target: target(rest), user })
    }

    /// Resolves a reference against this URL, which may be a whole URL. User and password of this one are not for another
    /// origin.
    ///
    /// # Errors
    /// [`Error::Address`].
    pub(super) fn join(&self, reference: &str) -> Result<Url> {
        let reference = reference.trim();
        let failed = |problem: String| Error::Address { address: without_password(reference), problem };
        if reference.contains(|c: char| c.is_control()) {
            return Err(failed("a control character".into()));
        }
        let cleaned = clean_reference(reference).map_err(failed)?;
        let joined = self.resolve(&cleaned);
        let mut url = Url::read(&joined).map_err(failed)?;
        if url.user.is_none() && url.origin == self.origin {
            url.user = self.user.clone();
        }
        Ok(url)
    }

    /// Resolves a reference (RFC 3986, section 5.2.2). One with a scheme is a whole URL.
    fn resolve(&self, reference: &str) -> String {
        let reference = reference.split('#').next().unwrap_or_default();
        let scheme = reference.split(['/', '?']).next().unwrap_or_default();
        if scheme.contains(':') {
            return reference.into();
        }
        let start = self.origin.address(self.origin.scheme());
        if let Some(rest) = reference.strip_prefix("//") {
            let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            let (path, query) = split_query(rest);
            return format!("{}://{authority}{}{query}", self.origin.scheme(), without_dots(path));
        }
        let (path, query) = split_query(reference);
        match path {
            "" if query.is_empty() => format!("{start}{}", self.target),
            "" => format!("{start}{}{query}", self.path()),
            path if path.starts_with('/') => format!("{start}{}{query}", without_dots(path)),
            path => {
                let directory = self.path().rfind('/').map_or("/", |at| &self.path()[..=at]);
                format!("{start}{}{query}", without_dots(&format!("{directory}{path}")))
            }
        }
    }

    /// Appends pairs to the query.
    pub(super) fn add_query<K: AsRef<str>, V: AsRef<str>>(&mut self, pairs: impl IntoIterator<Item = (K, V)>) {
        for (name, value) in pairs {
            let separator = match self.target.find('?') {
                None => "?",
                Some(at) if at + 1 == self.target.len() => "",
                Some(_) => "&",
            };
            self.target = format!("{}{separator}{}={}", self.target, encode(name.as_ref()), encode(value.as_ref()));
        }
    }

    /// Returns the path, without the query.
    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// Makes the target of a request from what follows the authority of a URL.
fn target(rest: &str) -> String {
    let rest = rest.split('#').next().unwrap_or_default();
    let cleaned = clean(rest);
    let (path, query) = split_query(&cleaned);
    without_dots(path) + query
}

/// Splits a target into its path and its query.
fn split_query(text: &str) -> (&str, &str) {
    text.split_at(text.find('?').unwrap_or(text.len()))
}

/// Removes the segments `.` and `..` of a path (RFC 3986, section 5.2.4), also those whose dots are percent-encoded: servers decode
/// them.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match &*segment.replace("%2e", ".").replace("%2E", ".") {
            "." => {}
            ".." => drop(kept.pop()),
            _ => {
                kept.push(segment);
                continue;
            }
        }
        if is_last {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

/// Percent-encodes what may not stand in a reference, but for the authority: a host that needs that is none.
///
/// # Errors
/// For a backslash in the authority, which some take for a slash.
fn clean_reference(reference: &str) -> Result<String, String> {
    let at = reference.find(['/', '?', '#']).unwrap_or(reference.len());
    let (before, rest) = reference.split_at(at);
    let has_authority = rest.starts_with("//") && (before.is_empty() || before.ends_with(':'));
    if !has_authority {
        return Ok(clean(reference));
    }
    let end = rest[2..].find(['/', '?', '#']).map_or(rest.len(), |at| at + 2);
    let (authority, rest) = rest.split_at(end);
    if authority.contains('\\') {
        return Err("a backslash before the path".into());
    }
    Ok(format!("{before}{authority}{}", clean(rest)))
}

/// Percent-encodes what may not stand in a URL, as browsers do. What is encoded stays so.
pub(super) fn clean(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut cleaned = String::with_capacity(text.len());
    for (at, byte) in bytes.iter().copied().enumerate() {
        let is_escape = || bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let is_kept = match byte {
            b'%' => is_escape(),
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => false,
            _ => byte.is_ascii_graphic(),
        };
        if is_kept {
            cleaned.push(char::from(byte));
        } else {
            escape(&mut cleaned, byte);
        }
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(text: &str) -> (String, String, String) {
        let url = Url::parse(text).unwrap_or_else(|error| panic!("{error}"));
        (url.to_string(), url.origin.address(url.origin.scheme()), url.origin.authority())
    }

    #[test]
    fn urls_are_taken_apart() {
        for (text, shown, address, authority) in [
            ("http://h", "http://h/", "http://h:80", "h"),
            ("HTTPS://H:443/a?b#c", "https://h/a?b", "https://h:443", "h"),
            ("http://user:se%40cret@h:8080?q=ü x", "http://h:8080/?q=%C3%BC%20x", "http://h:8080", "h:8080"),
            ("http://[::1]:81/", "http://[::1]:81/", "http://[::1]:81", "[::1]:81"),
            ("http://[fe80::1%25eth0]/", "http://[fe80::1]/", "http://[fe80::1%25eth0]:80", "[fe80::1]"),
            ("http://127.1/", "http://127.0.0.1/", "http://127.0.0.1:80", "127.0.0.1"),
            (
                "http://bücher.example/",
                "http://xn--bcher-kva.example/",
                "http://xn--bcher-kva.example:80",
                "xn--bcher-kva.example",
            ),
            ("http://h:/50%", "http://h/50%25", "http://h:80", "h"),
            ("http://h/a/./b/../%2E%2e/c?d/../e", "http://h/c?d/../e", "http://h:80", "h"),
            ("http://h\\a/./b/../c", "http://h/%5Ca/c", "http://h:80", "h"),
        ] {
            assert_eq!(parts(text), (shown.into(), address.into(), authority.into()), "{text}");
        }
        let url = Url::parse("http://u%3a:p%2Fw@h/").unwrap();
        assert_eq!(url.user, Some(("u:".into(), "p/w".into())));
        for text in [
            "",
            "h",
            "/path",
            "ftp://h/",
            "http://",
            "http:///x",
            "http://h:x/",
            "http://h:0",
            "http://a b/",
            "http://h/\r\nX: y",
        ] {
            assert!(matches!(Url::parse(text), Err(Error::Address { .. })), "{text:?}");
        }
        let error = Url::parse("ftp://user:secret@h/").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
        assert!(Url::parse("http://LOCALHOST./").unwrap().origin.is_loopback());
        assert!(!Url::parse("http://localhost.example/").unwrap().origin.is_loopback());
    }

    /// The examples of RFC 3986, section 5.4, as far as they are about HTTP.
    #[test]
    fn references_are_resolved() {
        let base = Url::parse("http://a/b/c/d;p?q").unwrap();
        for (reference, expected) in [
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g", "http://g/"),
            ("?y", "http://a/b/c/d;p?y"),
            ("g?y#s", "http://a/b/c/g?y"),
            ("", "http://a/b/c/d;p?q"),
            (";x", "http://a/b/c/;x"),
            ("../../../g", "http://a/g"),
            ("/./g/../h", "http://a/h"),
            ("g;x=1/../y", "http://a/b/c/y"),
            ("..", "http://a/b/"),
            (".", "http://a/b/c/"),
            ("g?y/./x", "http://a/b/c/g?y/./x"),
            ("//g?y", "http://g/?y"),
            ("https://x:1/ü", "https://x:1/%C3%BC"),
        ] {
            assert_eq!(base.join(reference).unwrap().to_string(), expected, "{reference}");
        }
        for reference in ["file:///etc/passwd", "javascript:x", "ftp://h/", "http:g", "x\r\ny"] {
            assert!(base.join(reference).is_err(), "{reference}");
        }
        // The authority is taken as it is.
        for reference in [
            "http://[::`]/",
            "//[::`]/",
            "http://g`/",
            "//g{x}/",
            "//g%60/",
            "//g x/",
            "//g\\x/",
            "http://g\\@h/",
            "//g^",
        ] {
            let error = base.join(reference).expect_err(reference);
            assert!(!error.to_string().contains("%60") || reference.contains("%60"), "{error}");
        }
        for (reference, expected) in [
            ("http://bücher.example/`", "http://xn--bcher-kva.example/%60"),
            ("//u v:p@g/a b", "http://g/a%20b"),
            ("/a//[b]`", "http://a/a//[b]%60"),
            ("x//y`z", "http://a/b/c/x//y%60z"),
        ] {
            assert_eq!(base.join(reference).unwrap().to_string(), expected, "{reference}");
        }
        let with_user = Url::parse("http://u:p@a/").unwrap();
        assert!(with_user.join("/x").unwrap().user.is_some() && with_user.join("http://b/").unwrap().user.is_none());
    }

    #[test]
    fn queries_are_encoded() {
        let mut url = Url::parse("http://h/p").unwrap();
        url.add_query([("q", "a b"), ("x&y", "=")]);
        assert_eq!(url.target, "/p?q=a%20b&x%26y=%3D");
        let mut url = Url::parse("http://h/p?a#f").unwrap();
        url.add_query([("b", "c")]);
        assert_eq!(url.target, "/p?a&b=c");
    }

    proptest! {
        #[test]
        fn what_is_parsed_is_a_url_again(text in "https?://[a-z0-9.]{1,9}(:[0-9]{1,4})?[ -~ü]{0,20}", reference in "[ -~ü]{0,20}") {
            if let Ok(url) = Url::parse(&text) {
                prop_assert!(url.target.bytes().all(|byte| byte.is_ascii_graphic()), "{}", url.target);
                prop_assert!(::http::uri::PathAndQuery::try_from(url.target.as_str()).is_ok(), "{}", url.target);
                prop_assert_eq!(Url::parse(&url.to_string()).unwrap().to_string(), url.to_string());
                if let Ok(joined) = url.join(&reference) {
                    prop_assert!(::http::uri::PathAndQuery::try_from(joined.target.as_str()).is_ok(), "{}", joined.target);
                }
            }
        }

        #[test]
        fn an_authority_in_a_reference_is_that_of_the_url_alone(
            authority in "([ -~ü]{1,12}|\\[[ -~]{0,8}\\])", rest in "(/[ -~]{0,6})?", base in "http://(u:p@)?h/"
        ) {
            let text = format!("http://{authority}{rest}");
            if let Ok(joined) = Url::parse(&base).unwrap().join(&text) {
                let parsed = Url::parse(&text).unwrap();
                prop_assert_eq!((&joined.origin, &joined.target), (&parsed.origin, &parsed.target));
                let host = joined.origin.host_name();
                prop_assert!(!host.contains(|c: char| !c.is_ascii_graphic() || "%`^{}|\\\"<>[]@".contains(c)), "{}", host);
            }
        }

        #[test]
        fn references_lead_where_glib_says(
            start in "((https?:|ftp:|x:)?//(u:p@)?([aH]|[a-z]{1,3}|127\\.0\\.0\\.1|\\[::1\\])(:[0-9]{0,5})?)?",
            path in "/?((\\.|\\.\\.|\\.\\.\\.|[a-c]|b;p=1|%2e|%2E%2e|:|a:b|@|ü|)/){0,6}[.a%:|]{0,3}",
            rest in "(\\?[a/.?:@%]{0,6})?(#[a/.?#]{0,4})?",
        ) {
            crate::http::checks::against_glib(&format!("{start}{path}{rest}"));
        }
    }
}
