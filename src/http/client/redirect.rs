//! Redirects (RFC 9110, section 15.4): whether to follow one, and with what.

use std::rc::Rc;

use ::http::{Method, StatusCode};

use super::url::Url;

/// The most visits of one URL.
const VISITS: usize = 2;

/// The next request, in comparison with the one before.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) url: Url,
    pub(super) method: Method,
    /// The body is left out.
    pub(super) drops_body: bool,
    /// Secrets are left out.
    pub(super) is_elsewhere: bool,
}

/// Returns whether a status is one of a redirect.
pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Decides on a redirect. `chain` are the URLs so far, of which the last one has answered.
///
/// # Errors
/// Why it is not followed.
pub(super) fn step(
    status: StatusCode,
    location: &str,
    method: &Method,
    chain: &[Rc<Url>],
    limit: usize,
) -> Result<Step, String> {
    let Some(last) = chain.last() else { return Err("a redirect without a request".into()) };
    let mut url = last.join(location).map_err(|error| format!("redirected to a URL that is not followed: {error}"))?;
    let is_elsewhere = url.origin != last.origin;
    // Whatever user the server names, it is not the program's choice.
    url.user = last.user.clone().filter(|_| !is_elsewhere);
    if last.origin.is_tls && !url.origin.is_tls {
        return Err(format!("redirected from https to {url}, which is not encrypted"));
    }
    let names = || chain.iter().map(|url| url.to_string()).chain([url.to_string()]).collect::<Vec<_>>().join(" → ");
    if chain.len() > limit {
        return Err(format!("more than {limit} redirects: {}", names()));
    }
    if chain.iter().filter(|known| ***known == url).count() >= VISITS {
        return Err(format!("redirects go round in circles: {}", names()));
    }
    let becomes_get = match status.as_u16() {
        301 | 302 => method == Method::POST,
        303 => method != Method::HEAD && method != Method::GET,
        _ => false,
    };
    let method = if becomes_get { Method::GET } else { method.clone() };
    Ok(Step { url, method, drops_body: becomes_get, is_elsewhere })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Rc<Url> {
        Rc::new(Url::parse(text).unwrap())
    }

    #[test]
    fn methods_and_bodies_follow_the_status() {
        for (status, method, expected, drops_body) in [
            (301, Method::GET, Method::GET, false),
            (301, Method::POST, Method::GET, true),
            (302, Method::POST, Method::GET, true),
            (302, Method::PUT, Method::PUT, false),
            (303, Method::PUT, Method::GET, true),
            (303, Method::HEAD, Method::HEAD, false),
            (307, Method::POST, Method::POST, false),
            (308, Method::DELETE, Method::DELETE, false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let step = step(status, "/x", &method, &[url("http://h/")], 10).unwrap();
            assert_eq!(
                (step.method, step.drops_body, step.is_elsewhere),
                (expected, drops_body, false),
                "{status} {method}"
            );
        }
        assert!(!is_redirect(StatusCode::NOT_MODIFIED) && !is_redirect(StatusCode::MULTIPLE_CHOICES));
    }

    #[test]
    fn origins_are_compared() {
        let to = |from: &str, location: &str| step(StatusCode::FOUND, location, &Method::GET, &[url(from)], 10);
        for (from, location, elsewhere) in [
            ("http://h/", "http://h:80/x", false),
            ("http://h/", "HTTP://H/x", false),
            ("http://h/", "//h/", false),
            ("http://h/", "http://h:81/", true),
            ("http://h/", "https://h/", true),
            ("http://h/", "http://x.h/", true),
            ("http://h/", "http://h@evil/", true),
        ] {
            assert_eq!(to(from, location).unwrap().is_elsewhere, elsewhere, "{location}");
        }
        assert_eq!(to("http://u:p@h/", "/x").unwrap().url.user, Some(("u".into(), "p".into())));
        assert_eq!(to("http://u:p@h/", "http://e:f@h/").unwrap().url.user, Some(("u".into(), "p".into())));
        assert_eq!(to("http://u:p@h/", "http://e:f@x/").unwrap().url.user, None);
        for (from, location) in [
            ("https://h/", "http://h/"),
            ("http://h/", "file:///etc/passwd"),
            ("http://h/", "ftp://h/"),
            ("http://h/", "data:,x"),
            ("http://h/", "http://"),
        ] {
            assert!(to(from, location).is_err(), "{location}");
        }
    }

    #[test]
    fn chains_end() {
        let urls: Vec<_> = (0..11).map(|number| url(&format!("http://h/{number}"))).collect();
        let step = |chain: &[Rc<Url>], location: &str| step(StatusCode::FOUND, location, &Method::GET, chain, 10);
        assert!(step(&urls[..10], "/x").is_ok());
        assert!(step(&urls, "/x").unwrap_err().contains("more than 10 redirects: http://h/0 →"));
        let same = [url("http://h/"), url("http://h/")];
        assert!(step(&same[..1], "/").is_ok() && step(&same, "/").unwrap_err().contains("circles"));
    }
}
