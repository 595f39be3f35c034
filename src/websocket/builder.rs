//! Options of a client, and its handshake, which is a request of HTTP.

use std::fmt;
use std::time::Duration;

use gio::prelude::*;
use http::StatusCode;
use http::header::{
    CONNECTION, HOST, HeaderName, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};

use super::handle::WebSocket;
use super::handshake::{VERSION, check_protocols, check_response, new_key};
use super::limits::{Limits, OWNER, limit_setters};
use crate::address::{Address, without_password};
use crate::engine::in_background;
use crate::error::{Error, Operation, Printable, Result, refuse_zeros};
use crate::http::{Client, RequestBuilder, Response};
use crate::socket::Proxy;
use crate::tls::ClientTls;

/// Fields that are the handshake's own.
const OWN: [HeaderName; 8] = [
    CONNECTION,
    HOST,
    SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION,
    UPGRADE,
];

/// Options for a [`WebSocket`], all with defaults. Created by [`WebSocket::builder`].
///
/// # Example
/// ```no_run
/// use network::websocket::WebSocket;
///
/// let ws = WebSocket::builder().protocols(["chat.v2"]).bearer("secret").connect("wss://example.org/chat")?;
/// println!("{:?}", ws.protocol());
/// # Ok::<(), network::Error>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct Builder {
    protocols: Vec<String>,
    headers: Vec<(String, Vec<u8>)>,
    bearer: Option<String>,
    tls: ClientTls,
    proxy: Proxy,
    connect_to: Option<Address>,
    connect_timeout: Duration,
    handshake_timeout: Duration,
    limits: Limits,
    problem: Option<String>,
}

impl Builder {
    pub(super) fn new() -> Self {
        Builder {
            protocols: Vec::new(),
            headers: Vec::new(),
            bearer: None,
            tls: ClientTls::new(),
            proxy: Proxy::environment(),
            connect_to: None,
            connect_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(10),
            limits: Limits::default(),
            problem: None,
        }
    }

    /// Offers sub-protocols, the preferred one first. The server chooses one of them, or none; see
    /// [`WebSocket::protocol`]. Default: none.
    pub fn protocols<P: Into<String>>(mut self, names: impl IntoIterator<Item = P>) -> Self {
        self.protocols = names.into_iter().map(Into::into).collect();
        self
    }

    /// Adds a header field to the request. The fields of the handshake itself, as `Upgrade` and `Sec-WebSocket-Key`, are an
    /// [`Error::InvalidOption`] when connecting.
    pub fn header(mut self, name: impl AsRef<str>, value: impl AsRef<[u8]>) -> Self {
        let name = name.as_ref();
        if OWN.iter().any(|own| own.as_str().eq_ignore_ascii_case(name)) {
            self.problem
                .get_or_insert_with(|| format!("the header field {name} belongs to the handshake of a WebSocket"));
        }
        self.headers.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets the `Origin` field, as browsers do: the page that connects. Default: none.
    pub fn origin(self, origin: impl AsRef<str>) -> Self {
        self.header(ORIGIN, origin.as_ref())
    }

    /// Authenticates by a bearer token (RFC 6750). Credentials in the URL precede.
    pub fn bearer(mut self, token: impl AsRef<str>) -> Self {
        self.bearer = Some(token.as_ref().to_owned());
        self
    }

    /// Sets whom to trust in `wss`. Default: [`ClientTls::new`].
    pub fn tls(mut self, tls: impl Into<ClientTls>) -> Self {
        self.tls = tls.into();
        self
    }

    /// Connects through a proxy. Default: [`Proxy::environment`].
    pub fn proxy(mut self, proxy: impl Into<Proxy>) -> Self {
        self.proxy = proxy.into();
        self
    }

    /// Connects to that address, for example a unix socket, in place of the URL's host and port.
    pub fn connect_to<A: TryInto<Address>>(mut self, address: A) -> Self
    where
        Error: From<A::Error>,
    {
        match address.try_into() {
            Ok(address) => self.connect_to = Some(address),
            Err(error) => {
                let problem = Error::from(error).to_string();
                self.problem.get_or_insert(problem);
            }
        }
        self
    }

    /// Sets the timeout for the connection to be established. Default: 30 s.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Sets the timeout for the handshake. Default: 10 s. What is left of the [connect timeout](Self::connect_timeout) counts for it.
    pub fn handshake_timeout(mut self, limit: Duration) -> Self {
        self.handshake_timeout = limit;
        self
    }

    limit_setters!();

    // ---- connecting ----

    /// Connects. See [`WebSocket::connect`]. **Blocks**.
    ///
    /// # Errors
    /// See [`WebSocket::connect`].
    pub fn connect(self, url: impl AsRef<str>) -> Result<WebSocket> {
        let opening = self.open(url.as_ref())?;
        let response = opening.request.send().map_err(renamed)?;
        opening.check.finish(&response)
    }

    /// Connects in the background and calls back once. See [`WebSocket::connect_async`].
    pub fn connect_async(
        self,
        url: impl AsRef<str>,
        cancellable: Option<&impl IsA<gio::Cancellable>>,
        callback: impl FnOnce(Result<WebSocket>) + 'static,
    ) {
        let url = url.as_ref().to_owned();
        let cancelled = Error::Cancelled { operation: Operation::Connect, address: without_password(&url) };
        in_background("WebSocket::connect", self.connect_future(url), cancellable, cancelled, callback);
    }

    /// Connects in the background. See [`WebSocket::connect_future`].
    ///
    /// # Errors
    /// See [`WebSocket::connect`].
    pub fn connect_future(self, url: impl AsRef<str>) -> impl Future<Output = Result<WebSocket>> + 'static {
        let opening = self.open(url.as_ref());
        async move {
            let opening = opening?;
            let response = opening.request.send_future().await.map_err(renamed)?;
            opening.check.finish(&response)
        }
    }

    fn open(self, url: &str) -> Result<Opening> {
        let address = http_url(url)?;
        self.check()?;
        let client = Client::builder()
            .tls(self.tls.clone())
            .proxy(self.proxy.clone())
            .connect_timeout(self.connect_timeout)
            .redirects(0);
        let client = match &self.connect_to {
            Some(address) => client.connect_to(address.clone()),
            None => client,
        };
        let client = match &self.bearer {
            Some(token) => client.bearer(token),
            None => client,
        };
        let key = new_key()?;
        let mut request = client
            .build()
            .get(address)
            .timeout(self.connect_timeout.saturating_add(self.handshake_timeout))
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, VERSION)
            .header(SEC_WEBSOCKET_KEY, &key);
        if !self.protocols.is_empty() {
            request = request.header(SEC_WEBSOCKET_PROTOCOL, self.protocols.join(", "));
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        Ok(Opening { request, check: Check { builder: self, key, url: without_password(url) } })
    }

    /// Fails if an option is invalid.
    fn check(&self) -> Result {
        if let Some(problem) = &self.problem {
            return Err(Error::InvalidOption(problem.clone()));
        }
        check_protocols(&self.protocols)?;
        self.limits.check()?;
        let limits = [("connect_timeout", self.connect_timeout), ("handshake_timeout", self.handshake_timeout)];
        refuse_zeros(OWNER, limits.map(|(name, limit)| (name, limit.is_zero())))
    }
}

/// Without the token and the fields, which may be secret.
impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("protocols", &self.protocols).finish_non_exhaustive()
    }
}

/// A handshake on its way.
struct Opening {
    request: RequestBuilder,
    check: Check,
}

struct Check {
    builder: Builder,
    key: String,
    url: String,
}

impl Check {
    fn finish(self, response: &Response) -> Result<WebSocket> {
        let status = response.status();
        let failed = |problem: String| Error::WebSocket {
            peer: self.url.as_str().into(),
            code: status.as_u16(),
            reason: Printable(&problem).to_string().into(),
        };
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let phrase = status.canonical_reason().unwrap_or("unknown");
            return Err(failed(match response.header("location") {
                _ if status.is_success() => format!(
                    "there is no WebSocket at this URL: the server answered {} {phrase} instead of 101 Switching Protocols",
                    status.as_u16()
                ),
                Some(location) if status.is_redirection() => {
                    format!("the server redirects to {location}, which is not followed: {phrase}")
                }
                _ => format!("the server refuses the WebSocket: {phrase}"),
            }));
        }
        let socket = response.upgrade().map_err(renamed)?;
        match check_response(response.headers(), &self.key, &self.builder.protocols) {
            Ok(protocol) => {
                let ws = WebSocket::over(socket, false, protocol.as_deref());
                self.builder.limits.apply(&ws)?;
                Ok(ws)
            }
            Err(problem) => {
                socket.abort();
                Err(failed(format!("the server's response is not that of a WebSocket: {problem}")))
            }
        }
    }
}

/// Speaks of a WebSocket where the client or server of HTTP speaks of itself.
pub(super) fn renamed(error: Error) -> Error {
    let scheme = |name: &str| {
        let rest = name.strip_prefix("http")?;
        (rest.starts_with("://") || rest.starts_with("s://")).then(|| format!("ws{rest}"))
    };
    let error = error.with_address(|name| {
        if let Some(renamed) = scheme(name) {
            *name = renamed;
        }
    });
    let in_words = |text: &str| text.replace("https://", "wss://").replace("http://", "ws://");
    match error {
        Error::Plaintext { peer, .. } => {
            let problem = "does not speak TLS; for a server without TLS, write ws:// in place of wss://";
            Error::Plaintext { peer, problem }
        }
        Error::Address { address, problem } => Error::Address { address, problem: in_words(&problem) },
        Error::InvalidOption(text) => Error::InvalidOption(in_words(&text)),
        Error::Http { peer, problem } => Error::Http { peer, problem: in_words(&problem) },
        other => other,
    }
}

/// Returns the URL of HTTP with the same meaning.
fn http_url(url: &str) -> Result<String> {
    let unfit = |problem: &str| Error::Address { address: without_password(url), problem: problem.into() };
    let url = url.trim();
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    if rest.contains('#') {
        return Err(unfit("the URL of a WebSocket has no fragment"));
    }
    if !scheme.is_empty() && (rest.is_empty() || rest.starts_with(['/', '?', ':'])) {
        return Err(unfit("expected a host after ://"));
    }
    match scheme.to_ascii_lowercase().as_str() {
        "ws" => Ok(format!("http://{rest}")),
        "wss" => Ok(format!("https://{rest}")),
        "http" => Err(unfit("for a WebSocket write ws:// in place of http://")),
        "https" => Err(unfit("for a WebSocket write wss:// in place of https://")),
        _ => Err(unfit("expected ws://host/path, or wss://host/path for TLS")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        assert_eq!(http_url("ws://h:1/p?q").unwrap(), "http://h:1/p?q");
        assert_eq!(http_url(" WSS://h ").unwrap(), "https://h");
        for url in ["http://h/", "h:80", "", "ws://h/#part", "ws:h", "ws://", "ws:///x"] {
            assert!(matches!(http_url(url), Err(Error::Address { .. })), "{url}");
        }
        let error = http_url("http://user:secret@h/").unwrap_err().to_string();
        assert!(!error.contains("secret") && error.contains("write ws://"), "{error}");
        let error = http_url("HTTPS://h/").unwrap_err().to_string();
        assert!(error.contains("write wss://"), "{error}");
        let error = WebSocket::connect("ws://h:x/").unwrap_err().to_string();
        assert!(error.contains("ws://h:x/") && !error.contains("http"), "{error}");
    }

    #[test]
    fn wrong_options_are_told_by_connecting() {
        let builder = WebSocket::builder;
        for builder in [
            builder().header("sec-websocket-key", "x"),
            builder().header("Upgrade", "x"),
            builder().header("host", "x"),
            builder().header("a b", "x"),
            builder().header("a", "x\r\ny: z"),
            builder().protocols(["a b"]),
            builder().protocols([""]),
            builder().connect_timeout(Duration::ZERO),
            builder().handshake_timeout(Duration::ZERO),
            builder().message_limit(0),
            builder().ping_interval(Duration::ZERO),
            builder().pong_timeout(Duration::ZERO),
            builder().send_limit(0),
        ] {
            let error = builder.connect("ws://127.0.0.1:1/").unwrap_err();
            assert!(matches!(error, Error::InvalidOption(_)), "{error}");
        }
        for token in ["a\nb", "a\0"] {
            let error = builder().bearer(token).connect("ws://127.0.0.1:1/").unwrap_err();
            assert!(matches!(&error, Error::InvalidOption(text) if text.contains("bearer token")), "{error}");
        }
        let secret = builder().bearer("sesam").header("x-key", "sesam");
        assert!(!format!("{secret:?}").contains("115, 101") && !format!("{secret:?}").contains("sesam"));
    }
}
