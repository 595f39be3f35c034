//! Cookies (RFC 6265), without a list of public suffixes: cookies are for one host, unless the program names a site.

use std::cell::RefCell;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::url::Url;
use crate::error::{Error, Operation, Result};

/// The most cookies of one host, and of all.
const PER_HOST: usize = 50;
const IN_ALL: usize = 3000;

/// The longest cookie, in bytes.
const LONGEST: usize = 4096;

/// The longest life of a cookie (RFC 6265bis, section 5.5).
const LONGEST_LIFE: Duration = Duration::from_secs(400 * 24 * 3600);

/// The first line of a file.
const HEADER: &str = "# Cookies of glib-network, version 1";

/// A jar of cookies. Clones are handles of the same jar, so several clients may share it.
///
/// A cookie is for the host that sets it. One with a `Domain` is for all hosts of that domain only if the domain lies within
/// a [site](Self::site) that the program has named, since only a list of all public suffixes could tell `example.co.uk` from
/// `co.uk`; elsewhere such a cookie is refused if the domain is another one than the host. The rules of the prefixes `__Host-`
/// and `__Secure-` apply. There are at most 50 cookies of a host, 3000 in all, of 4 KiB each; the oldest go first.
///
/// # Example: Keep them from one run to the next
/// ```no_run
/// use network::http::{Client, Cookies};
///
/// let cookies = Cookies::load("cookies.txt").unwrap_or_default();
/// let client = Client::builder().cookies(cookies.clone()).build();
/// client.get("https://example.org/").send()?;
/// cookies.save("cookies.txt")?;
/// # Ok::<(), network::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Cookies {
    jar: Rc<RefCell<Jar>>,
}

#[derive(Default)]
struct Jar {
    sites: Vec<String>,
    /// The first site that is none.
    problem: Option<String>,
    /// The oldest first.
    all: Vec<Cookie>,
}

/// The value of `SameSite`. It is kept, and does not matter here: all requests are the program's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SameSite {
    Unsaid,
    None,
    Lax,
    Strict,
}

/// A cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cookie {
    name: String,
    value: String,
    domain: String,
    is_host_only: bool,
    path: String,
    is_secure: bool,
    is_http_only: bool,
    same_site: SameSite,
    /// `None`: for as long as the program runs.
    expires: Option<SystemTime>,
}

impl Cookies {
    /// Creates an empty jar.
    pub fn new() -> Self {
        Self::default()
    }

    /// Permits cookies for a whole site: `example.com` and all hosts below it.
    ///
    /// The name must be a domain of one owner, not one under which anybody can have a name, such as `co.uk`. What is no domain is an
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) of every request of a client with this jar.
    #[must_use]
    pub fn site(self, domain: impl AsRef<str>) -> Self {
        let domain = domain.as_ref();
        let mut jar = self.jar.borrow_mut();
        match site(domain) {
            Some(domain) => jar.sites.push(domain),
            None => {
                jar.problem.get_or_insert_with(|| format!("site: {domain:?} is no domain, such as example.com"));
            }
        }
        drop(jar);
        self
    }

    /// Returns what is wrong with a site.
    pub(super) fn problem(&self) -> Option<String> {
        self.jar.borrow().problem.clone()
    }

    /// Returns the number of cookies.
    pub fn len(&self) -> usize {
        self.jar.borrow().all.len()
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes all cookies.
    pub fn clear(&self) {
        self.jar.borrow_mut().all.clear();
    }

    /// Stores a cookie as if a server had sent it from that URL, in the form of the header field `Set-Cookie`.
    ///
    /// Returns whether it was accepted.
    ///
    /// # Errors
    /// [`Error::Address`] for an invalid URL.
    ///
    /// # Example
    /// ```
    /// let cookies = network::http::Cookies::new();
    /// assert!(cookies.set("https://example.org/", "session=123; Secure; Path=/")?);
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn set(&self, url: impl AsRef<str>, cookie: impl AsRef<str>) -> Result<bool> {
        let url = Url::parse(url.as_ref())?;
        Ok(self.store(&url, cookie.as_ref(), SystemTime::now()))
    }

    /// Returns the value of a cookie that a request to that URL would have.
    ///
    /// # Errors
    /// [`Error::Address`] for an invalid URL.
    pub fn value(&self, url: impl AsRef<str>, name: impl AsRef<str>) -> Result<Option<String>> {
        let url = Url::parse(url.as_ref())?;
        let jar = self.jar.borrow();
        let found = jar.fitting(&url, SystemTime::now()).into_iter().find(|cookie| cookie.name == name.as_ref());
        Ok(found.map(|cookie| cookie.value.clone()))
    }

    /// Takes a `Set-Cookie` of a response.
    pub(super) fn store(&self, url: &Url, text: &str, now: SystemTime) -> bool {
        // Files keep no fractions.
        let now = whole_seconds(now);
        let mut jar = self.jar.borrow_mut();
        let Some(cookie) = parse(text, url, &jar.sites, now) else { return false };
        jar.put(cookie, url.origin.is_tls, now)
    }

    /// Returns the value of `Cookie` for a request.
    pub(super) fn header(&self, url: &Url, now: SystemTime) -> Option<String> {
        let jar = self.jar.borrow();
        let pairs: Vec<_> =
            jar.fitting(url, now).into_iter().map(|cookie| format!("{}={}", cookie.name, cookie.value)).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }

    /// Reads a jar from a file of [`save`](Self::save). **Blocks** for as long as reading takes.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, or is not such a file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let failed = |source| Error::Io { operation: Operation::ReadFile, address: path.display().to_string(), source };
        let text = fs::read_to_string(path).map_err(failed)?;
        let cookies = Cookies::new();
        let all = read(&text)
            .ok_or_else(|| failed(std::io::Error::new(std::io::ErrorKind::InvalidData, "not a jar of cookies")))?;
        cookies.jar.borrow_mut().all = all;
        Ok(cookies)
    }

    /// Writes the cookies that outlast the program to a file that only this user can read. **Blocks** for as long as writing
    /// takes.
    ///
    /// The file is replaced as a whole.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result {
        let path = path.as_ref();
        let failed =
            |source| Error::Io { operation: Operation::WriteFile, address: path.display().to_string(), source };
        let text = write(&self.jar.borrow().all, SystemTime::now());
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let written = (|| {
            match fs::remove_file(&part) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&part, path)
        })();
        written.map_err(failed)
    }
}

impl fmt::Debug for Cookies {
    /// The number of cookies: their values are secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cookies").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Jar {
    fn put(&mut self, cookie: Cookie, from_tls: bool, now: SystemTime) -> bool {
        let is_same =
            |other: &Cookie| other.name == cookie.name && other.domain == cookie.domain && other.path == cookie.path;
        if let Some(at) = self.all.iter().position(is_same) {
            if self.all[at].is_secure && !from_tls {
                // Whoever listens must not replace it (RFC 6265bis, section 5.7).
                return false;
            }
            self.all.remove(at);
        }
        if cookie.is_over(now) {
            return true;
        }
        self.all.retain(|cookie| !cookie.is_over(now));
        let own = self.all.iter().filter(|other| other.domain == cookie.domain).count();
        if own >= PER_HOST
            && let Some(at) = self.all.iter().position(|other| other.domain == cookie.domain)
        {
            self.all.remove(at);
        }
        if self.all.len() >= IN_ALL {
            self.all.remove(0);
        }
        self.all.push(cookie);
        true
    }

    /// Returns those for a request, those with longer paths first.
    fn fitting(&self, url: &Url, now: SystemTime) -> Vec<&Cookie> {
        let host = url.origin.host_name();
        let fits = |cookie: &&Cookie| {
            let is_host = if cookie.is_host_only { host == cookie.domain } else { is_within(&host, &cookie.domain) };
            is_host
                && (!cookie.is_secure || url.origin.is_tls)
                && is_path_within(url.path(), &cookie.path)
                && !cookie.is_over(now)
        };
        let mut found: Vec<_> = self.all.iter().filter(fits).collect();
        found.sort_by_key(|cookie| std::cmp::Reverse(cookie.path.len()));
        found
    }
}

impl Cookie {
    fn is_over(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

/// Returns whether a host is that domain or below it. Addresses have nothing below them.
/// Reads a domain as the hosts of URLs are read.
fn site(text: &str) -> Option<String> {
    let text = text.strip_prefix('.').unwrap_or(text);
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.contains([':', '/', '?', '#', '@', '\\']) {
        return None;
    }
    let url = Url::parse(&format!("https://{text}/")).ok()?;
    Some(url.origin.host_name().to_ascii_lowercase())
}

fn is_within(host: &str, domain: &str) -> bool {
    let is_address = || host.parse::<std::net::IpAddr>().is_ok();
    host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')) && !is_address()
}

fn is_path_within(path: &str, of_cookie: &str) -> bool {
    path.strip_prefix(of_cookie)
        .is_some_and(|rest| rest.is_empty() || of_cookie.ends_with('/') || rest.starts_with('/'))
}

/// Returns the path of cookies that name none (RFC 6265, section 5.1.4).
fn default_path(path: &str) -> &str {
    match path.rfind('/') {
        Some(at) if at > 0 && path.starts_with('/') => &path[..at],
        _ => "/",
    }
}

/// Parses a `Set-Cookie` (RFC 6265, section 5.2). `None` for one that is refused.
fn parse(text: &str, url: &Url, sites: &[String], now: SystemTime) -> Option<Cookie> {
    if text.len() > LONGEST || text.contains(|c: char| c.is_control() && c != '\t') {
        return None;
    }
    let mut parts = text.split(';');
    let (name, value) = parts.next()?.split_once('=')?;
    let host = url.origin.host_name();
    let mut cookie = Cookie {
        name: name.trim().into(),
        value: value.trim().into(),
        domain: host.clone(),
        is_host_only: true,
        path: default_path(url.path()).into(),
        is_secure: false,
        is_http_only: false,
        same_site: SameSite::Unsaid,
        expires: None,
    };
    let mut age = None;
    let mut has_path = false;
    for part in parts {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let value = value.trim();
        match name.trim().to_ascii_lowercase().as_str() {
            "domain" if !value.is_empty() => {
                cookie.domain = value.trim_start_matches('.').to_ascii_lowercase();
                cookie.is_host_only = false;
            }
            "path" if value.starts_with('/') => {
                cookie.path = value.into();
                has_path = true;
            }
            "secure" => cookie.is_secure = true,
            "httponly" => cookie.is_http_only = true,
            "samesite" => {
                cookie.same_site = match value.to_ascii_lowercase().as_str() {
                    "none" => SameSite::None,
                    "lax" => SameSite::Lax,
                    "strict" => SameSite::Strict,
                    _ => SameSite::Unsaid,
                };
            }
            "max-age" => age = life(value).or(age),
            "expires" => cookie.expires = httpdate::parse_http_date(value).ok().or(cookie.expires),
            _ => {}
        }
    }
    if let Some(age) = age {
        cookie.expires = Some(now.checked_add(age).unwrap_or(now));
    }
    cookie.expires = cookie.expires.map(|expires| expires.min(now + LONGEST_LIFE));
    if !cookie.is_host_only && cookie.domain != host {
        let is_of_site = sites.iter().any(|site| is_within(&cookie.domain, site));
        if !is_of_site || !is_within(&host, &cookie.domain) {
            return None;
        }
    } else if !cookie.is_host_only && !sites.iter().any(|site| is_within(&host, site)) {
        // Its own name, which is no reason to send it to the hosts below.
        cookie.is_host_only = true;
    }
    let is_empty = cookie.name.is_empty() || cookie.name.contains('=');
    let is_unfit = cookie.is_secure && !url.origin.is_tls
        || cookie.name.starts_with("__Secure-") && !cookie.is_secure
        || cookie.name.starts_with("__Host-")
            && !(cookie.is_secure && cookie.is_host_only && has_path && cookie.path == "/");
    (!is_empty && !is_unfit).then_some(cookie)
}

/// Reads a `Max-Age`. Less than nothing is nothing.
fn life(text: &str) -> Option<Duration> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds = if text.starts_with('-') { 0 } else { digits.parse().unwrap_or(u64::MAX) };
    Some(Duration::from_secs(seconds).min(LONGEST_LIFE))
}

/// Writes the file: a line for each cookie, its fields separated by tabs.
fn write(all: &[Cookie], now: SystemTime) -> String {
    let mut text = format!("{HEADER}\n");
    for cookie in all.iter().filter(|cookie| !cookie.is_over(now)) {
        let Some(expires) = cookie.expires.and_then(|expires| expires.duration_since(UNIX_EPOCH).ok()) else {
            continue;
        };
        let flag = |is_set, letter| if is_set { letter } else { "" };
        let flags = [
            flag(cookie.is_host_only, "h"),
            flag(cookie.is_secure, "s"),
            flag(cookie.is_http_only, "o"),
            match cookie.same_site {
                SameSite::Unsaid => "-",
                SameSite::None => "n",
                SameSite::Lax => "l",
                SameSite::Strict => "t",
            },
        ]
        .concat();
        let Cookie { name, value, domain, path, .. } = cookie;
        if [name, value, domain, path].iter().any(|field| field.contains('\t')) {
            continue;
        }
        text += &format!("{domain}\t{path}\t{flags}\t{}\t{name}\t{value}\n", expires.as_secs());
    }
    text
}

fn read(text: &str) -> Option<Vec<Cookie>> {
    let mut lines = text.lines();
    if lines.next()? != HEADER {
        return None;
    }
    let cookie = |line: &str| {
        let fields: Vec<_> = line.split('\t').collect();
        let [domain, path, flags, expires, name, value] = fields[..] else { return None };
        let same_site = match flags.chars().next_back()? {
            'n' => SameSite::None,
            'l' => SameSite::Lax,
            't' => SameSite::Strict,
            _ => SameSite::Unsaid,
        };
        Some(Cookie {
            name: name.into(),
            value: value.into(),
            domain: domain.into(),
            is_host_only: flags.contains('h'),
            path: path.into(),
            is_secure: flags.contains('s'),
            is_http_only: flags.contains('o'),
            same_site,
            expires: UNIX_EPOCH.checked_add(Duration::from_secs(expires.parse().ok()?)),
        })
    };
    lines.take(IN_ALL).map(cookie).collect()
}

/// Parses anything, for the fuzzer.
#[cfg(any(test, fuzzing))]
pub(super) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let now = whole_seconds(SystemTime::now());
    let jar = Cookies::new().site("example.com");
    for url in ["https://a.example.com/x/y", "http://127.0.0.1/"] {
        let url = Url::parse(url).expect("a URL");
        jar.store(&url, text, now);
        if let Some(header) = jar.header(&url, now) {
            assert!(!header.contains(['\r', '\n', '\0']));
        }
    }
    let all = jar.jar.borrow().all.clone();
    let lasting = all.iter().filter(|cookie| cookie.expires.is_some());
    let written = write(&all, now);
    assert!(read(&written).is_some_and(|read| read.len() <= lasting.count()));
    let _ = read(text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn sent(cookies: &Cookies, to: &str) -> String {
        cookies.header(&url(to), now()).unwrap_or_default()
    }

    #[test]
    fn cookies_are_for_their_host_and_path() {
        for (from, text, to, expected) in [
            ("http://h/", "a=1", "http://h/x?y", "a=1"),
            ("http://h/", "a=1", "http://h:81/", "a=1"),
            ("http://h/", "a=1", "http://x.h/", ""),
            ("http://h/p/q", "a=1", "http://h/p/z", "a=1"),
            ("http://h/p/q", "a=1", "http://h/pq", ""),
            ("http://h/p/q", "a=1; Path=/", "http://h/", "a=1"),
            ("https://h/", "a=1; Secure", "http://h/", ""),
            ("https://h/", "a=1; Secure", "https://h/", "a=1"),
            ("http://h/", "a=1; Secure", "https://h/", ""),
            ("http://h/", "a=\"1 2\" ; HttpOnly; SameSite=Lax", "http://h/", "a=\"1 2\""),
            ("http://h/", "a=1; Max-Age=0", "http://h/", ""),
            ("http://h/", "a=1; Max-Age=-9", "http://h/", ""),
            ("http://h/", "a=1; Max-Age=99999999999999999999", "http://h/", "a=1"),
            ("http://h/", "a=1; Expires=Thu, 01 Jan 1970 00:00:01 GMT", "http://h/", ""),
            ("http://h/", "a=1; Expires=Thu, 01 Jan 1970 00:00:01 GMT; Max-Age=9", "http://h/", "a=1"),
            ("http://h/", "a=1; Expires=nonsense", "http://h/", "a=1"),
            // The public suffix is not known.
            ("http://a.co.uk/", "a=1; Domain=co.uk", "http://b.co.uk/", ""),
            ("http://a.co.uk/", "a=1; Domain=a.co.uk", "http://a.co.uk/", "a=1"),
            ("http://a.co.uk/", "a=1; Domain=a.co.uk", "http://x.a.co.uk/", ""),
            // A site that was named.
            ("http://a.example.com/", "a=1; Domain=.Example.com", "http://b.example.com/", "a=1"),
            ("http://a.example.com/", "a=1; Domain=example.com", "http://badexample.com/", ""),
            ("http://a.example.com/", "a=1; Domain=b.example.com", "http://b.example.com/", ""),
            ("http://a.example.com/", "a=1; Domain=com", "http://b.example.com/", ""),
            ("http://127.0.0.1/", "a=1; Domain=0.0.1", "http://127.0.0.1/", ""),
            ("http://h/", "=1", "http://h/", ""),
            ("http://h/", "a", "http://h/", ""),
            ("http://h/", "a=1\r\nb: c", "http://h/", ""),
            ("https://h/", "__Secure-a=1", "https://h/", ""),
            ("https://h/", "__Secure-a=1; Secure", "https://h/", "__Secure-a=1"),
            ("https://h/", "__Host-a=1; Secure; Path=/", "https://h/", "__Host-a=1"),
            ("https://h/", "__Host-a=1; Secure", "https://h/", ""),
            ("https://a.example.com/", "__Host-a=1; Secure; Path=/; Domain=example.com", "https://a.example.com/", ""),
        ] {
            let cookies = Cookies::new().site(".Example.com");
            cookies.store(&url(from), text, now());
            assert_eq!(sent(&cookies, to), expected, "{from} {text} {to}");
        }
    }

    #[test]
    fn limits_are_kept() {
        let cookies = Cookies::new();
        let set = |host: &str, text: &str| cookies.store(&url(&format!("http://{host}/")), text, now());
        for number in 0..=PER_HOST {
            assert!(set("h", &format!("a{number}=1")));
        }
        assert_eq!(cookies.len(), PER_HOST);
        assert!(!sent(&cookies, "http://h/").contains("a0=") && sent(&cookies, "http://h/").contains("a50="));
        for number in 0..=IN_ALL {
            assert!(set(&format!("h{number}"), "a=1"));
        }
        assert_eq!(cookies.len(), IN_ALL);
        let long = "x".repeat(LONGEST);
        assert!(set("h", &format!("a={}", &long[2..])) && !set("h", &format!("a={}", &long[1..])));
    }

    #[test]
    fn a_secure_cookie_is_not_replaced_in_plaintext() {
        let cookies = Cookies::new();
        assert!(cookies.store(&url("https://h/"), "a=1; Secure", now()));
        assert!(!cookies.store(&url("http://h/"), "a=2", now()));
        assert_eq!(sent(&cookies, "https://h/"), "a=1");
    }

    #[test]
    fn files_are_private_and_whole() {
        use std::os::unix::fs::PermissionsExt;

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("jar");
        let cookies = Cookies::new().site("example.com");
        for text in
            ["a=1", "b=2; Max-Age=1000; HttpOnly; SameSite=Strict", "c=3; Secure; Max-Age=1000; Domain=example.com"]
        {
            assert!(cookies.set("https://x.example.com/p/", text).unwrap());
        }
        cookies.save(&path).unwrap();
        cookies.save(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let again = Cookies::load(&path).unwrap();
        assert_eq!(again.jar.borrow().all[..], cookies.jar.borrow().all[1..]);
        std::fs::write(&path, "something else\n").unwrap();
        assert!(matches!(Cookies::load(&path), Err(Error::Io { .. })));
        assert!(matches!(Cookies::load(directory.path().join("none")), Err(Error::Io { .. })));
    }

    proptest! {
        #[test]
        fn anything_may_come(text in "[ -~\t\r\nü]{0,60}(; ?(Domain|Path|Max-Age|Expires|Secure)=?[ -~]{0,20}){0,4}") {
            check(text.as_bytes());
        }
    }
}
