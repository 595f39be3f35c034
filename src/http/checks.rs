//! The readers of what servers send, on whatever the fuzzer and proptest think of.

use ::http::{HeaderMap, HeaderValue, header};

use super::auth::Auth;
use super::cookies;
use super::head::{Kind, Scan};
use super::url::Url;

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
fn urls(text: &str) {
    let base = Url::parse("https://user@h:8443/a/b?c").expect("a URL");
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
