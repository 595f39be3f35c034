//! The readers of what servers send, on whatever the fuzzer and proptest think of.

use ::http::{HeaderMap, HeaderValue, header};

use super::auth::Auth;
use super::cookies;
use super::head::{Kind, Scan};
use super::url::{self, Url};

/// A limit that the fuzzer reaches.
const LIMIT: usize = 200;

/// Heads, cookies, challenges and URLs.
pub(crate) fn any(data: &[u8]) {
    heads(data);
    cookies::check(data);
    challenges(data);
    if let Ok(text) = std::str::from_utf8(data) {
        urls(text);
    }
}

/// Pieces make no difference, and no head is longer than the limit.
fn heads(data: &[u8]) {
    for kind in [Kind::Request, Kind::Response] {
        for is_lenient in [false, true] {
            let whole = Scan::new(kind, LIMIT, is_lenient).take(data);
            let mut scan = Scan::new(kind, LIMIT, is_lenient);
            let mut at = 0;
            let by_byte = data.chunks(1).find_map(|byte| {
                let taken = scan.take(byte).map(|head| head.map(|head| at + head.end)).transpose();
                at += 1;
                taken
            });
            match (whole, by_byte) {
                (Ok(Some(head)), Some(Ok(end))) => {
                    assert_eq!(head.end, end);
                    assert!(end <= LIMIT + data.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count());
                }
                (Err(_), Some(Err(_))) | (Ok(None), None) => {}
                (whole, by_byte) => panic!("{whole:?} {by_byte:?}"),
            }
        }
    }
}

/// An answer is a header field, and shows no password.
fn challenges(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    let mut headers = HeaderMap::new();
    headers.insert(header::WWW_AUTHENTICATE, value);
    let url = Url::parse("http://h/x").expect("a URL");
    let auth = Auth::digest("user", "pa55word");
    if auth.challenged(&headers, &url, false) {
        for _ in 0..2 {
            let answer = auth.value("GET", &url);
            assert!(answer.is_none_or(|answer| !String::from_utf8_lossy(answer.as_bytes()).contains("pa55word")));
        }
    }
}

/// A URL that is parsed can stand in a request.
pub(crate) fn urls(text: &str) {
    let base = Url::parse("https://user@h:8443/a/b?c").expect("a URL");
    against_glib(text);
    let joined = base.join(text).ok();
    for url in [joined, Url::parse(text).ok()].into_iter().flatten() {
        assert!(
            url.target.starts_with('/') && url.target.bytes().all(|byte| byte.is_ascii_graphic()),
            "{}",
            url.target
        );
        assert!(HeaderValue::from_str(&url.origin.authority()).is_ok());
        assert_eq!(Url::parse(&url.to_string()).map(|again| again.target).ok(), Some(url.target.clone()));
    }
}

/// A reference leads to where GLib's reading of RFC 3986 says it leads. This library refuses more than GLib does.
pub(super) fn against_glib(reference: &str) {
    // Of several @ browsers and we take the last one, and GLib the first. Zones of IPv6 addresses are read more freely here.
    let authority =
        reference.split_once("//").map_or("", |(_, rest)| rest.split(['/', '?', '#', '\\']).next().unwrap_or(""));
    if authority.matches('@').count() > 1 || authority.contains('[') {
        return;
    }
    for base in ["https://h:8443/a/b?c", "http://h", "http://h/a/b/../c/", "http://h/a//b;c=d?e/../f"] {
        let Ok(ours) = Url::parse(base).expect("a URL").join(reference) else { continue };
        let parsed = glib::Uri::parse(base, glib::UriFlags::ENCODED).expect("a URL");
        let cleaned = url::clean(reference.trim());
        let theirs = parsed.parse_relative(&cleaned, glib::UriFlags::ENCODED);
        let theirs = theirs.unwrap_or_else(|error| panic!("{base} {reference:?}: {error}, and we say {ours}"));
        let told = format!("{base} {reference:?}: {ours} and {}", theirs.to_str());
        assert_eq!(ours.origin.scheme(), theirs.scheme(), "{told}");
        // The port is told or not.
        let default = if ours.origin.is_tls { 443 } else { 80 };
        let port = if theirs.port() < 1 { default } else { theirs.port() };
        assert_eq!(i32::from(ours.origin.port), port, "{told}");
        let query = theirs.query().map_or(String::new(), |query| format!("?{query}"));
        let path = Some(theirs.path()).filter(|path| !path.is_empty()).unwrap_or("/".into());
        assert_eq!(normal(&ours.target), normal(&format!("{path}{query}")), "{told}");
        // Addresses have many spellings, and names in other alphabets two.
        let host = theirs.host().map(|host| host.to_ascii_lowercase());
        if host.as_ref().is_some_and(|host| host.is_ascii() && host.starts_with(|c: char| c.is_ascii_lowercase())) {
            let is_address = ours.origin.host_name().parse::<std::net::IpAddr>().is_ok();
            assert!(is_address || host.as_deref() == Some(&ours.origin.host_name()), "{told}");
        }
    }
}

/// Decodes what need not be encoded, and writes other escapes in capitals. GLib does so, and we leave it to the server.
fn normal(text: &str) -> String {
    let mut parts = text.split('%');
    let mut normal = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        match u8::from_str_radix(digits, 16) {
            Ok(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => normal.push(char::from(byte)),
            _ => normal.push_str(&format!("%{}", digits.to_ascii_uppercase())),
        }
        normal.push_str(rest);
    }
    normal
}
