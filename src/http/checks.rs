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
    // GLib wants the host of a URL of HTTP, and shows the default port or not as it was given.
    let place = |uri: &glib::Uri| {
        let default = if uri.scheme() == "https" { 443 } else { 80 };
        let port = if uri.port() < 1 { default } else { uri.port() };
        let path = if uri.path().is_empty() { "/".into() } else { uri.path() };
        let query = uri.query().map_or(String::new(), |query| format!("?{query}"));
        (uri.scheme(), uri.host().map(|host| host.to_ascii_lowercase()), port, format!("{path}{query}"))
    };
    for base in ["https://h:8443/a/b?c", "http://h", "http://h/a/b/../c/", "http://h/a//b;c=d?e/../f"] {
        let Ok(ours) = Url::parse(base).expect("a URL").join(reference) else { continue };
        let parsed = glib::Uri::parse(base, glib::UriFlags::ENCODED).expect("a URL");
        let cleaned = url::clean(reference.trim());
        let theirs = parsed.parse_relative(&cleaned, glib::UriFlags::ENCODED);
        let theirs = theirs.unwrap_or_else(|error| panic!("{base} {reference:?}: {error}, and we say {ours}"));
        let ours = glib::Uri::parse(&ours.to_string(), glib::UriFlags::ENCODED).expect("a URL");
        assert_eq!(place(&ours), place(&theirs), "{base} {reference:?}");
    }
}
