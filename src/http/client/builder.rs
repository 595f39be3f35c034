//! Options of a client.

use std::fmt::{self, Display};
use std::rc::Rc;
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue, header};

use super::auth::Auth;
use super::cookies::Cookies;
use super::handle::{Client, Settings};
use super::log::LogEntry;
use super::pool;
use super::traffic::HeadLimits;
use super::url::Url;
use crate::address::Address;
use crate::error::{Error, Result, refuse_zeros};
use crate::http::MAX_FIELDS;
use crate::socket::Proxy;
use crate::tls::ClientTls;

/// Options for a [`Client`], all with defaults. Created by [`Client::builder`].
///
/// Invalid values, such as a header field with a line break, a timeout of zero or no connections at all, fail with
/// [`Error::InvalidOption`] when a request is sent. A timeout of `None` or `Duration::MAX` is none.
///
/// # Example
/// ```
/// use std::time::Duration;
///
/// use network::http::Client;
///
/// let client = Client::builder()
///     .base("https://api.example/v2/")?
///     .header("accept", "application/json")
///     .bearer("a token")
///     .timeout(Duration::from_secs(20))
///     .build();
/// # Ok::<(), network::Error>(())
/// ```
#[must_use]
pub struct ClientBuilder {
    settings: Settings,
    connect_timeout: Option<Duration>,
}

impl ClientBuilder {
    pub(super) fn new() -> Self {
        let mut headers = HeaderMap::new();
        headers
            .insert(header::USER_AGENT, HeaderValue::from_static(concat!("glib-network/", env!("CARGO_PKG_VERSION"))));
        let settings = Settings {
            base: None,
            headers,
            tls: ClientTls::new(),
            proxy: Proxy::environment(),
            connect_to: None,
            auth: None,
            redirects: 10,
            cookies: None,
            decompress: false,
            connect_timeout: Duration::from_secs(30),
            idle_timeout: Some(Duration::from_secs(60)),
            timeout: None,
            min_speed: None,
            body_limit: 16 << 20,
            max_download: None,
            head: HeadLimits { size: 64 << 10, fields: 100, is_lenient: false },
            pool: pool::Limits { connections: 64, per_host: 6, keep_idle: Some(Duration::from_secs(15)) },
            secrets: vec![header::AUTHORIZATION, header::COOKIE, header::PROXY_AUTHORIZATION],
            follow_with_body: false,
            deny_private: false,
            log: None,
            problem: None,
        };
        ClientBuilder { settings, connect_timeout: Some(Duration::from_secs(30)) }
    }

    fn refuse(&mut self, problem: impl Display) {
        self.settings.problem.get_or_insert(problem.to_string());
    }

    // ---- requests ----

    /// Sets the URL that the URLs of requests are resolved against. Default: none.
    ///
    /// `samples` and `https://api.example/v2/` give `https://api.example/v2/samples`; note the `/` at the end. The credentials
    /// of [`bearer`](Self::bearer), [`basic`](Self::basic) and [`digest`](Self::digest) are then for this origin alone.
    ///
    /// # Errors
    /// [`Error::Address`].
    pub fn base(mut self, url: impl AsRef<str>) -> Result<Self> {
        self.settings.base = Some(Url::parse(url.as_ref())?);
        Ok(self)
    }

    /// Sets a header field for all requests. One that a request sets by itself replaces it.
    pub fn header(mut self, name: impl AsRef<str>, value: impl AsRef<[u8]>) -> Self {
        match field(name.as_ref(), value.as_ref()) {
            Ok((name, value)) => drop(self.settings.headers.insert(name, value)),
            Err(problem) => self.refuse(problem),
        }
        self
    }

    /// Sets a header field that is secret: a redirect to another origin does not get it, as it does not get `Authorization` and
    /// `Cookie`.
    pub fn secret_header(mut self, name: impl AsRef<str>, value: impl AsRef<[u8]>) -> Self {
        match field(name.as_ref(), value.as_ref()) {
            Ok((name, mut value)) => {
                value.set_sensitive(true);
                self.settings.secrets.push(name.clone());
                self.settings.headers.insert(name, value);
            }
            Err(problem) => self.refuse(problem),
        }
        self
    }

    /// Sets the field `User-Agent`. Default: `glib-network/` and the version of this crate. An empty one is not sent.
    pub fn user_agent(self, name: impl AsRef<str>) -> Self {
        let name = name.as_ref().to_owned();
        let mut builder = self.header("user-agent", &name);
        if name.is_empty() {
            builder.settings.headers.remove(header::USER_AGENT);
        }
        builder
    }

    /// Authenticates by a token (RFC 6750).
    ///
    /// Credentials are for the origin of [`base`](Self::base), or without one for the URL of each request. They do not follow a
    /// redirect to another origin. Replaces other credentials. Those in a URL precede for that URL.
    pub fn bearer(mut self, token: impl AsRef<str>) -> Self {
        match Auth::bearer(token.as_ref()) {
            Ok(auth) => self.settings.auth = Some(auth),
            Err(problem) => self.refuse(problem),
        }
        self
    }

    /// Authenticates by Basic (RFC 7617), which sends the password as it is: use it over TLS. See [`bearer`](Self::bearer).
    pub fn basic(mut self, user: impl AsRef<str>, password: impl AsRef<str>) -> Self {
        match Auth::basic(user.as_ref(), password.as_ref()) {
            Ok(auth) => self.settings.auth = Some(auth),
            Err(problem) => self.refuse(problem),
        }
        self
    }

    /// Authenticates by Digest (RFC 7616) when the server asks for it: the request is made again then.
    ///
    /// With SHA-256 or MD5, whichever is stronger of what the server offers. The password is not sent. See
    /// [`bearer`](Self::bearer).
    pub fn digest(mut self, user: impl AsRef<str>, password: impl AsRef<str>) -> Self {
        self.settings.auth = Some(Auth::digest(user.as_ref(), password.as_ref()));
        self
    }

    /// Keeps cookies and sends them (RFC 6265). Default: cookies are ignored.
    pub fn cookies(mut self, cookies: Cookies) -> Self {
        if let Some(problem) = cookies.problem() {
            self.refuse(problem);
        }
        self.settings.cookies = Some(cookies);
        self
    }

    /// Asks for compressed responses and decompresses them. Default: no.
    ///
    /// gzip and deflate, one layer. The header fields `Content-Encoding` and `Content-Length` are removed from such a response.
    #[cfg(feature = "gzip")]
    pub fn decompress(mut self, decompress: bool) -> Self {
        self.settings.decompress = decompress;
        self
    }

    /// Sets a callback that is called at the end of each exchange, for logs. Redirects are exchanges of their own.
    ///
    /// Users, passwords and queries are left out of what it gets.
    ///
    /// # Example
    /// ```
    /// let client = network::http::Client::builder().log(|exchange| println!("{exchange}")).build();
    /// ```
    pub fn log(mut self, callback: impl Fn(&LogEntry<'_>) + 'static) -> Self {
        self.settings.log = Some(Rc::new(callback));
        self
    }

    // ---- connections ----

    /// Sets whom to trust in `https`. Default: [`ClientTls::new`]. ALPN is set to `http/1.1`.
    pub fn tls(mut self, tls: impl Into<ClientTls>) -> Self {
        self.settings.tls = tls.into();
        self
    }

    /// Connects through a proxy. Default: [`Proxy::environment`].
    pub fn proxy(mut self, proxy: impl Into<Proxy>) -> Self {
        self.settings.proxy = proxy.into();
        self
    }

    /// Connects to this address, whatever the host of a URL is: a unix socket, a service, a host under test. Default: none.
    ///
    /// The request names the host of the URL, and with `https` the certificate must be for that. No proxy is used for unix
    /// sockets.
    ///
    /// # Example: Ask the Docker daemon
    /// ```no_run
    /// use network::http::Client;
    ///
    /// let docker = Client::builder().connect_to("/run/docker.sock").base("http://docker/")?.build();
    /// println!("{}", docker.get("version").send()?.text()?);
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn connect_to<A: TryInto<Address>>(mut self, address: A) -> Self
    where
        Error: From<A::Error>,
    {
        match address.try_into().map_err(Error::from) {
            Ok(address) if address.is_tls_url() => {
                let problem =
                    "expected host:port or the path of a unix socket; the URL of the request says whether to use TLS";
                self.refuse(format_args!("connect_to({:?}): {problem}", address.to_string()));
            }
            Ok(address) => self.settings.connect_to = Some(address),
            Err(error) => self.refuse(error),
        }
        self
    }

    /// Refuses to connect to loopback, private, link-local and multicast addresses, with [`Error::Address`]. Default: no.
    ///
    /// For programs that fetch URLs of strangers. The address that was connected to is looked at, after names were resolved and
    /// before anything is sent but a TLS handshake. Through a proxy that address is not known, so every request fails.
    pub fn deny_private(mut self, deny: bool) -> Self {
        self.settings.deny_private = deny;
        self
    }

    /// Sets the most connections of a main context. Default: 64. Requests beyond that wait.
    pub fn connections(mut self, count: usize) -> Self {
        self.settings.pool.connections = count;
        self
    }

    /// Sets the most connections to one server. Default: 6. Requests beyond that wait.
    pub fn per_host(mut self, count: usize) -> Self {
        self.settings.pool.per_host = count;
        self
    }

    /// Sets how long a connection is kept that has nothing to do. Default: 15 s. Zero: none is kept.
    pub fn keep_idle(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.settings.pool.keep_idle = time.into();
        self
    }

    // ---- redirects ----

    /// Sets how many redirects are followed. Default: 10. With 0 the response is returned as it is.
    ///
    /// More fail with [`Error::Http`], as does a URL that comes up for the third time, and one that leads from `https` to `http` or to
    /// another scheme. 303 is followed by GET, and so are 301 and 302 after POST. `Authorization`, `Cookie` and
    /// [secret](Self::secret_header) fields are not sent to another origin.
    pub fn redirects(mut self, count: usize) -> Self {
        self.settings.redirects = count;
        self
    }

    /// Sets whether a redirect to another origin gets the body of the request as well. Default: no, such a redirect fails with
    /// [`Error::Http`].
    pub fn follow_with_body(mut self, follow: bool) -> Self {
        self.settings.follow_with_body = follow;
        self
    }

    // ---- limits ----

    /// Sets the timeout for connecting, including name lookup. Default: 30 s. A TLS handshake has 10 s of its own.
    pub fn connect_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.connect_timeout = limit.into();
        self
    }

    /// Sets the timeout for silence: time in which nothing comes or goes while a response is awaited. Default: 60 s.
    pub fn idle_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.settings.idle_timeout = limit.into();
        self
    }

    /// Sets the timeout for a whole exchange, from sending to the end of the body, with redirects. Default: none.
    pub fn timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.settings.timeout = limit.into();
        self
    }

    /// Sets the lowest speed of a body, in bytes for each time of that length. Default: none. Zero bytes: none.
    ///
    /// A slower body fails with [`Error::TimedOut`]. Time in which the program does not read does not count.
    pub fn min_speed(mut self, bytes: u64, time: Duration) -> Self {
        self.settings.min_speed = Some((bytes, time));
        self
    }

    /// Sets the longest body that is taken as a whole, in bytes. Default: 16 MiB. Longer ones fail with
    /// [`Error::LimitExceeded`]. It counts what was decompressed. With 0, every body that is not empty fails.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.settings.body_limit = bytes;
        self
    }

    /// Sets the longest body that is streamed or downloaded, in bytes. Default: none. With 0, every body that is not empty fails.
    pub fn max_download(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.settings.max_download = bytes.into();
        self
    }

    /// Sets the longest head of a response, in bytes. Default: 64 KiB. Longer ones fail with [`Error::Http`].
    pub fn header_limit(mut self, bytes: usize) -> Self {
        self.settings.head.size = bytes;
        self
    }

    /// Sets the most header fields of a response, up to 10,000. Default: 100. More fail with [`Error::Http`].
    pub fn max_headers(mut self, count: usize) -> Self {
        self.settings.head.fields = count;
        self
    }

    /// Accepts lines in the head of a response that end in a bare LF. Default: no, they fail with [`Error::Http`].
    pub fn lenient(mut self, lenient: bool) -> Self {
        self.settings.head.is_lenient = lenient;
        self
    }

    /// Creates the client.
    pub fn build(mut self) -> Client {
        let timeouts = [
            ("connect_timeout", self.connect_timeout),
            ("idle_timeout", self.settings.idle_timeout),
            ("timeout", self.settings.timeout),
            ("the time of min_speed", self.settings.min_speed.map(|(_, time)| time)),
        ];
        self.settings.min_speed = self.settings.min_speed.filter(|(bytes, _)| *bytes > 0);
        let counts = [
            ("connections", self.settings.pool.connections),
            ("per_host", self.settings.pool.per_host),
            ("header_limit", self.settings.head.size),
            ("max_headers", self.settings.head.fields),
        ];
        if self.settings.head.fields > MAX_FIELDS {
            self.refuse(format_args!("max_headers of an HTTP client must not exceed {MAX_FIELDS}"));
        }
        let timeouts = timeouts.map(|(name, limit)| (name, limit == Some(Duration::ZERO)));
        let counts = counts.map(|(name, count)| (name, count == 0));
        if let Err(error) = refuse_zeros("an HTTP client", timeouts.into_iter().chain(counts)) {
            self.refuse(error);
        }
        self.settings.connect_timeout = self.connect_timeout.unwrap_or(Duration::MAX);
        Client::with_settings(self.settings)
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").finish_non_exhaustive()
    }
}

/// Makes a header field.
pub(super) fn field(name: &str, value: &[u8]) -> Result<(HeaderName, HeaderValue), String> {
    let problem = |what| format!("the header field {name:?} has an invalid {what}");
    let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| problem("name"))?;
    let value = HeaderValue::from_bytes(value.trim_ascii()).map_err(|_| problem("value"))?;
    if [header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(&parsed) {
        return Err(format!("the header field {name:?} is set by the client itself"));
    }
    Ok((parsed, value))
}
