//! Who may ask: the rules on `Host`, `Origin` and `Sec-Fetch-Site`. Pure functions.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::header::{HeaderMap, ORIGIN, UPGRADE};
use http::{Method, StatusCode};

use super::settings::Settings;

/// Splits `host:port`, where the host may be an IPv6 address in brackets.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// Returns whether a host, with or without a port, names this machine and cannot be made to name it by whoever controls a domain.
fn is_local(authority: &str) -> bool {
    let host = split_port(authority).0;
    let is_name = |name: &str| name.eq_ignore_ascii_case("localhost");
    is_name(host)
        || host.rsplit_once('.').is_some_and(|(_, last)| is_name(last))
        || match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => address.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback()),
            None => host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback()),
        }
}

/// Returns whether a host is one of the listed ones, which may have a port or not.
fn is_listed(authority: &str, listed: &[String]) -> bool {
    let host = split_port(authority).0;
    listed.iter().any(|one| one.eq_ignore_ascii_case(authority) || one.eq_ignore_ascii_case(host))
}

/// Checks that the server is asked under a name of its own, against DNS rebinding. `host` is `None` if the request, of
/// HTTP/1.0, has none.
pub(super) fn check_host(host: Option<&str>, is_loopback: bool, settings: &Settings) -> bool {
    let is_open = !is_loopback && settings.hosts.is_empty();
    let Some(host) = host else { return true };
    is_open || is_listed(host, &settings.hosts) || (is_loopback && is_local(host))
}

/// Returns whether two authorities are the same, where the port of the scheme may be left out.
fn is_same(one: &str, other: &str, default_port: &str) -> bool {
    let whole = |authority| {
        let (host, port) = split_port(authority);
        (host.to_ascii_lowercase(), port.filter(|port| !port.is_empty()).unwrap_or(default_port).to_owned())
    };
    whole(one) == whole(other)
}

/// Checks that a request which may change something, or opens a connection to more, does not come from a foreign page: against
/// cross-site request forgery and hijacking of WebSockets.
pub(super) fn check_origin(method: &Method, headers: &HeaderMap, host: &str, settings: &Settings) -> bool {
    let is_safe = [Method::GET, Method::HEAD, Method::OPTIONS].contains(method) && !headers.contains_key(UPGRADE);
    if is_safe {
        return true;
    }
    let mut origins = headers.get_all(ORIGIN).iter();
    let Some(origin) = origins.next() else {
        return headers.get("sec-fetch-site").is_none_or(|site| site != "cross-site");
    };
    let Ok(origin) = origin.to_str() else { return false };
    if origins.next().is_some() {
        return false;
    }
    // The scheme is not compared: behind a proxy that does TLS, it is another.
    let is_own = match origin.split_once("://") {
        Some(("http", authority)) => is_same(authority, host, "80"),
        Some(("https", authority)) => is_same(authority, host, "443"),
        _ => false,
    };
    is_own || settings.origins.iter().any(|listed| listed.eq_ignore_ascii_case(origin))
}

/// The phrase of a status, for the body of a reply that has nothing else to say.
pub(super) fn phrase(status: StatusCode) -> String {
    format!("{} {}\n", status.as_u16(), status.canonical_reason().unwrap_or("Error"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_a_loopback_server() {
        let mut settings = Settings::default();
        for own in ["localhost", "LOCALHOST:80", "127.0.0.1", "127.8.9.1:8080", "[::1]", "[::1]:80", "app.localhost:1"]
        {
            assert!(check_host(Some(own), true, &settings), "{own}");
        }
        for foreign in [
            "",
            "example.org",
            "localhost.example.org",
            "127.0.0.1.example.org",
            "10.0.0.1",
            "[::2]",
            "notlocalhost",
            "::1:x",
        ] {
            assert!(!check_host(Some(foreign), true, &settings), "{foreign}");
            assert!(check_host(Some(foreign), false, &settings), "{foreign}");
        }
        assert!(check_host(None, true, &settings));
        settings.hosts = vec!["desk.example".into(), "other.example:8443".into()];
        for is_loopback in [true, false] {
            for listed in ["desk.example", "Desk.Example:80", "other.example:8443"] {
                assert!(check_host(Some(listed), is_loopback, &settings), "{listed}");
            }
            assert!(!check_host(Some("other.example"), is_loopback, &settings));
            assert_eq!(check_host(Some("localhost"), is_loopback, &settings), is_loopback);
        }
    }

    #[test]
    fn origins() {
        let settings = Settings { origins: vec!["https://app.example".into()], ..Settings::default() };
        let check = |method: &Method, fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, http::HeaderValue::from_static(value));
            }
            check_origin(method, &headers, "desk.example:8080", &settings)
        };
        for origin in ["http://desk.example:8080", "https://DESK.example:8080", "https://app.example"] {
            assert!(check(&Method::POST, &[("origin", origin)]), "{origin}");
        }
        for origin in [
            "null",
            "",
            "http://desk.example",
            "http://desk.example:8081",
            "https://evil.example",
            "ftp://desk.example:8080",
        ] {
            assert!(!check(&Method::POST, &[("origin", origin)]), "{origin}");
            assert!(!check(&Method::GET, &[("origin", origin), ("upgrade", "websocket")]), "{origin}");
            assert!(check(&Method::GET, &[("origin", origin)]), "{origin}");
        }
        assert!(!check(&Method::POST, &[("origin", "http://desk.example:8080"), ("origin", "https://app.example")]));
        assert!(check(&Method::DELETE, &[]));
        assert!(check(&Method::DELETE, &[("sec-fetch-site", "same-origin")]));
        assert!(!check(&Method::DELETE, &[("sec-fetch-site", "cross-site")]));
        assert!(check(&Method::POST, &[("sec-fetch-site", "cross-site"), ("origin", "https://app.example")]));
        assert!(is_same("x", "x:80", "80") && is_same("x:", "X", "80") && !is_same("x", "x:80", "443"));
    }
}
