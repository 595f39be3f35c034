//! The server: a request of HTTP that becomes a connection, and a server whose every path does.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use http::StatusCode;
use http::header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION};

use super::builder::renamed;
use super::handle::{WeakWebSocket, WebSocket};
use super::handshake::{Accepted, Refused, VERSION, check_protocols, check_request};
use super::limits::{Limits, limit_setters};
use super::session::Core;
use crate::address::{Address, Target};
use crate::conn::Socket;
use crate::engine::call;
use crate::error::{Error, Result};
use crate::http::{Reply, Request, Server as HttpServer, ServerBuilder as HttpServerBuilder};
use crate::tls::{ServerTls, Tls};

/// The program's callback for a new connection.
type OnClient = dyn Fn(WebSocket) -> Result;

/// # WebSocket
impl Request {
    /// Makes the reply that turns the connection into a WebSocket (feature `websocket`). When it has been sent, `accepted` is
    /// called with the connection, which it keeps open by a read callback, or by keeping the handle.
    ///
    /// A request that does not ask for a WebSocket gets 426, one that asks for it wrongly 400, and `accepted` is dropped. A page
    /// of another origin has got 403 before, see [`origins`](crate::http::ServerBuilder::origins). If `accepted` returns an error,
    /// the connection closes with 1011.
    ///
    /// # Example: A page, and its live updates
    /// ```
    /// use network::http::{Reply, Server};
    ///
    /// let server = Server::builder()
    ///     .get("/", |_| Ok(Reply::html("<script>ws = new WebSocket('/live')</script>")))
    ///     .get("/live", |request| {
    ///         request.websocket(|ws| {
    ///             ws.read(|ws, message| ws.send(message));
    ///             ws.send("welcome")
    ///         })
    ///     })
    ///     .listen("http://127.0.0.1:0/")?;
    /// # Ok::<(), network::Error>(())
    /// ```
    ///
    /// # Errors
    /// None: the result is that of a handler.
    pub fn websocket(&self, accepted: impl FnOnce(WebSocket) -> Result + 'static) -> Result<Reply> {
        Ok(reply(self, &[], accepted))
    }

    /// The same with sub-protocols: the first one that the client offers and that is among `protocols` is agreed on, if there is
    /// one. See [`WebSocket::protocol`].
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a sub-protocol whose name is no token.
    pub fn websocket_protocols<P: Into<String>>(
        &self,
        protocols: impl IntoIterator<Item = P>,
        accepted: impl FnOnce(WebSocket) -> Result + 'static,
    ) -> Result<Reply> {
        let protocols: Vec<String> = protocols.into_iter().map(Into::into).collect();
        check_protocols(&protocols)?;
        Ok(reply(self, &protocols, accepted))
    }
}

fn reply(request: &Request, protocols: &[String], accepted: impl FnOnce(WebSocket) -> Result + 'static) -> Reply {
    match check_request((request.method(), request.version(), request.headers()), protocols) {
        Ok(Accepted { accept, protocol }) => {
            let named = protocol.clone();
            let upgrade = Reply::upgrade("websocket", move |socket| start(socket, protocol.as_deref(), accepted));
            let upgrade = upgrade.header(SEC_WEBSOCKET_ACCEPT.as_str(), accept);
            match named {
                Some(protocol) => upgrade.header(SEC_WEBSOCKET_PROTOCOL.as_str(), protocol),
                None => upgrade,
            }
        }
        Err(Refused { status: StatusCode::UPGRADE_REQUIRED, .. }) => {
            // The request does not ask for that, so this is what it gets.
            Reply::upgrade("websocket", |_| {}).header(SEC_WEBSOCKET_VERSION.as_str(), VERSION)
        }
        Err(Refused { status, problem }) => {
            let reply = Reply::text(format!("{problem}\n")).with_status(status.as_u16());
            reply.header(SEC_WEBSOCKET_VERSION.as_str(), VERSION)
        }
    }
}

/// The reply has been sent.
fn start(socket: Socket, protocol: Option<&str>, accepted: impl FnOnce(WebSocket) -> Result) {
    let ws = WebSocket::over(socket, true, protocol);
    let core = ws.core.clone();
    introduce(&core, || accepted(ws));
}

fn introduce(core: &Rc<Core>, accepted: impl FnOnce() -> Result) {
    match call(&core.engine, accepted) {
        Some(Ok(())) => {}
        Some(Err(error)) => core.callback_failed(error),
        None => core.abort_silently(),
    }
}

/// A server for WebSockets alone: an [`http::Server`](HttpServer) whose every path accepts them.
///
/// For pages beside them, add [`Request::websocket`] to a handler of a server of HTTP.
///
/// Cloning returns another handle to the same server. When the last handle is dropped, the server stops listening; connections
/// stay open.
///
/// # Example: Echo
/// ```
/// use network::websocket::Server;
///
/// let server = Server::new("ws://127.0.0.1:0/", |ws| {
///     ws.read(|ws, message| ws.send(message));
///     Ok(())
/// })?;
/// println!("{}", server.url());
/// # Ok::<(), network::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "a server stops listening when its last handle is dropped: hold it, or call detach()"]
pub struct Server {
    http: HttpServer,
    connections: Rc<Connections>,
}

#[derive(Default)]
struct Connections(RefCell<Vec<WeakWebSocket>>);

impl Connections {
    fn add(&self, ws: &WebSocket) {
        let mut all = self.0.borrow_mut();
        // Each time there is no more room: that costs little for each one.
        if all.len() == all.capacity() {
            all.retain(WeakWebSocket::is_alive);
        }
        all.push(ws.downgrade());
    }

    fn open(&self) -> Vec<WebSocket> {
        let all = self.0.borrow().clone();
        all.iter().filter_map(WeakWebSocket::upgrade).filter(WebSocket::is_open).collect()
    }
}

impl Server {
    /// Listens on an address and calls `accepted` with each connection, which it keeps open by a read callback, or by keeping the
    /// handle.
    ///
    /// The address is `ws://host:port`, `wss://host:port` for TLS, or the path of a unix socket. Port 0 selects a free port.
    ///
    /// # Errors
    /// See [`http::Server::new`](HttpServer::new).
    pub fn new<A>(address: A, accepted: impl Fn(WebSocket) -> Result + 'static) -> Result<Server>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        Server::builder().listen(address, accepted)
    }

    /// Returns a builder with all options.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }

    /// Returns the URL of the server, with the port that it listens on: `ws://127.0.0.1:40000/`. For a unix socket it is `unix:` and
    /// the path.
    pub fn url(&self) -> String {
        let url = self.http.url();
        match url.strip_prefix("http") {
            Some(rest) => format!("ws{rest}"),
            None => url,
        }
    }

    /// Returns the port, or 0 for a unix socket.
    pub fn port(&self) -> u16 {
        self.http.port()
    }

    /// Returns the connections that are open.
    ///
    /// # Example: Tell all
    /// ```no_run
    /// # fn example(server: &network::websocket::Server) {
    /// for ws in server.connections() {
    ///     // One that is slow misses this.
    ///     if !ws.is_full() {
    ///         let _ = ws.send("news");
    ///     }
    /// }
    /// # }
    /// ```
    pub fn connections(&self) -> Vec<WebSocket> {
        self.connections.open()
    }

    /// Returns the server of HTTP underneath.
    pub fn http(&self) -> &HttpServer {
        &self.http
    }

    /// Stops listening. Connections stay open.
    pub fn close(&self) {
        self.http.close();
    }

    /// Keeps the server without a handle, for as long as the main context exists.
    pub fn detach(self) {
        self.http.detach();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("url", &self.url()).finish_non_exhaustive()
    }
}

/// Options for a [`Server`], all with defaults. Created by [`Server::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ServerBuilder {
    http: HttpServerBuilder,
    protocols: Vec<String>,
    limits: Limits,
}

impl ServerBuilder {
    fn new() -> Self {
        ServerBuilder { http: HttpServer::builder(), protocols: Vec::new(), limits: Limits::default() }
    }

    /// Sets the sub-protocols that the server speaks. The first of them that a client offers, in the client's order, is agreed on;
    /// a client that offers none of them is accepted without. See [`WebSocket::protocol`]. Default: none.
    pub fn protocols<P: Into<String>>(mut self, names: impl IntoIterator<Item = P>) -> Self {
        self.protocols = names.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the options of the server of HTTP underneath, for example who may connect
    /// ([`hosts`](HttpServerBuilder::hosts), [`origins`](HttpServerBuilder::origins)). Its handlers are replaced.
    pub fn http(mut self, options: HttpServerBuilder) -> Self {
        self.http = options;
        self
    }

    /// Sets the origins of pages that may connect besides those that the server's own host has sent. See
    /// [`http::ServerBuilder::origins`](HttpServerBuilder::origins).
    pub fn origins<O: Into<String>>(mut self, origins: impl IntoIterator<Item = O>) -> Self {
        self.http = self.http.origins(origins);
        self
    }

    /// Sets TLS for `wss`. See [`http::ServerBuilder::tls`](HttpServerBuilder::tls).
    pub fn tls(mut self, tls: impl Into<Tls<ServerTls>>) -> Self {
        self.http = self.http.tls(tls);
        self
    }

    limit_setters!();

    /// Listens on an address. See [`Server::new`].
    ///
    /// # Errors
    /// See [`Server::new`]. [`Error::InvalidOption`] for a sub-protocol whose name is no token, and for a limit of zero that cannot be
    /// kept.
    pub fn listen<A>(self, address: A, accepted: impl Fn(WebSocket) -> Result + 'static) -> Result<Server>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        let address = http_address(address)?;
        check_protocols(&self.protocols)?;
        self.limits.check()?;
        let connections = Rc::<Connections>::default();
        let (protocols, limits, all) = (self.protocols, self.limits, connections.clone());
        let accepted: Rc<OnClient> = Rc::new(accepted);
        let routes = self.http.routes(crate::http::Routes::new().any("*", move |request| {
            let (limits, all, accepted) = (limits.clone(), all.clone(), accepted.clone());
            Ok(reply(request, &protocols, move |ws| {
                limits.apply(&ws)?;
                all.add(&ws);
                accepted(ws)
            }))
        }));
        Ok(Server { http: routes.listen::<Address>(address).map_err(renamed)?, connections })
    }
}

/// Returns the address of HTTP with the same meaning.
///
/// # Errors
/// [`Error::Address`] if it is neither a URL of WebSocket nor a unix socket.
fn http_address<A>(address: A) -> Result<Address>
where
    A: TryInto<Address>,
    Error: From<A::Error>,
{
    let wanted = |_: &str| "write ws://… or wss://… and host:port, or the path of a unix socket";
    let address = Address::of_schemes(address, &["ws", "wss"], wanted)?;
    if matches!(address.target(), Target::Unix(_)) {
        return Ok(address);
    }
    let text = address.to_string();
    let (scheme, rest) = text.split_once("://").unwrap_or_default();
    let scheme = if scheme.eq_ignore_ascii_case("wss") { "https" } else { "http" };
    Address::parse(&format!("{scheme}://{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_zero_are_refused() {
        let builder = Server::builder;
        for builder in [
            builder().message_limit(0),
            builder().ping_interval(std::time::Duration::ZERO),
            builder().pong_timeout(std::time::Duration::ZERO),
            builder().send_limit(0),
            builder().http(HttpServer::builder().max_connections(0)),
        ] {
            let error = builder.listen("ws://127.0.0.1:0/", |_| Ok(())).expect_err("it cannot be kept");
            assert!(matches!(error, Error::InvalidOption(_)), "{error}");
        }
    }

    #[test]
    fn addresses() {
        for (text, http) in [
            ("ws://127.0.0.1:0/", "http://127.0.0.1:0/"),
            ("wss://[::]:8443", "https://[::]:8443"),
            ("/run/x", "/run/x"),
        ] {
            assert_eq!(http_address(text).unwrap().to_string(), http);
        }
        for text in ["127.0.0.1:80", "80", "http://h:80/", "tcp://h:80", "foo://h:80", ""] {
            let error = http_address(text).unwrap_err().to_string();
            assert!(error.contains("write ws://") && !error.contains("tls(false)"), "{error}");
        }
        let error = http_address("ws://h:99999").unwrap_err().to_string();
        assert!(error.contains("65535"), "{error}");
    }
}
