//! Options of a server; starting it.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use http::Method;

use super::Server;
use super::access::{Access, OnAccess};
use super::address::Place;
use super::connection::on_client;
use super::core::Core;
use super::reply::Reply;
use super::request::Request;
use super::routes::{Async, Plain, Routes};
use super::settings::Settings;
use crate::address::Address;
use crate::error::{Error, Result};
use crate::server::ServerBuilder as ListenerBuilder;
use crate::tls::{ServerTls, Tls};

/// The default of [`ServerBuilder::max_connections`].
const CONNECTIONS: usize = 256;

/// Options for a [`Server`], all with defaults. Created by [`Server::builder`].
///
/// Ends with [`listen`](Self::listen), after handlers have been added, or with [`serve`](Self::serve), which takes the only one.
///
/// # Example
/// ```
/// use network::http::{Reply, Server};
///
/// let server = Server::builder()
///     .get("/health", |_| Ok(Reply::text("well")))
///     .post("/echo", async |mut request| Ok(Reply::bytes(request.bytes_future().await?)))
///     .body_limit(64 << 10)
///     .listen("http://127.0.0.1:0/")?;
/// println!("{}", server.url());
/// # Ok::<(), network::Error>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct ServerBuilder {
    pub(super) settings: Settings,
    pub(super) routes: Routes,
    pub(super) on_access: Option<OnAccess>,
    pub(super) listener: ListenerBuilder,
    pub(super) max_connections: usize,
    pub(super) tls: Option<Tls<ServerTls>>,
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("settings", &self.settings)
            .field("routes", &self.routes)
            .finish_non_exhaustive()
    }
}

/// A limit in time: `None` and `Duration::MAX` take it away.
fn limit(time: impl Into<Option<Duration>>) -> Option<Duration> {
    time.into().filter(|time| *time != Duration::MAX)
}

/// # Handlers
/// See [`Routes`] for paths.
impl ServerBuilder {
    /// Adds a handler for `GET` and `HEAD`. See [`Routes::get`].
    pub fn get(mut self, path: &str, handler: impl Fn(&Request) -> Result<Reply> + 'static) -> Self {
        self.routes = self.routes.get(path, handler);
        self
    }

    /// Adds an async handler for `POST`. See [`Routes::post`].
    pub fn post<R>(mut self, path: &str, handler: impl Fn(Request) -> R + 'static) -> Self
    where
        R: Future<Output = Result<Reply>> + 'static,
    {
        self.routes = self.routes.post(path, handler);
        self
    }

    /// Adds an async handler for a method. See [`Routes::on`].
    pub fn on<R>(mut self, method: Method, path: &str, handler: impl Fn(Request) -> R + 'static) -> Self
    where
        R: Future<Output = Result<Reply>> + 'static,
    {
        self.routes = self.routes.on(method, path, handler);
        self
    }

    /// Adds a handler for all methods. See [`Routes::any`].
    pub fn any(mut self, path: &str, handler: impl Fn(&Request) -> Result<Reply> + 'static) -> Self {
        self.routes = self.routes.any(path, handler);
        self
    }

    /// Sets the handler for paths that no other one serves. See [`Routes::not_found`].
    pub fn not_found(mut self, handler: impl Fn(&Request) -> Result<Reply> + 'static) -> Self {
        self.routes = self.routes.not_found(handler);
        self
    }

    /// Sets all handlers at once, in place of those added before.
    pub fn routes(mut self, routes: Routes) -> Self {
        self.routes = routes;
        self
    }
}

/// # Limits
/// The page `docs/http-server.md` has them in a table. Zero is an [`Error::InvalidOption`] when listening, but for
/// [`body_limit`](Self::body_limit).
impl ServerBuilder {
    pub(super) fn new() -> Self {
        ServerBuilder {
            settings: Settings::default(),
            routes: Routes::new(),
            on_access: None,
            listener: crate::server::handle::Server::builder(),
            max_connections: CONNECTIONS,
            tls: None,
        }
    }

    /// Limits the body of a request, in bytes. Default: 1 MiB. A handler that asks for a longer one gets
    /// [`Error::LimitExceeded`]; if it returns that, the reply is 413. With 0, every body that is not empty is too long.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.settings.body_limit = bytes;
        self
    }

    /// Limits the head of a request, in bytes. Default: 32 KiB. A longer one is answered with 431.
    pub fn header_limit(mut self, bytes: usize) -> Self {
        self.settings.head.head = bytes;
        self
    }

    /// Limits the number of header fields of a request, up to 10,000. Default: 100. More are answered with 431.
    pub fn max_headers(mut self, fields: usize) -> Self {
        self.settings.head.fields = fields;
        self
    }

    /// Limits the target of a request, in bytes. Default: 8 KiB. A longer one is answered with 414, and one of more than 65,534 bytes
    /// always is.
    pub fn target_limit(mut self, bytes: usize) -> Self {
        self.settings.head.target = bytes;
        self
    }

    /// Limits the time for the head of a request, from its first byte. Default: 10 s. A client that needs longer is answered with
    /// 408.
    pub fn header_timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.settings.header_timeout = limit(time);
        self
    }

    /// Limits the time that the body of a request makes no progress. Default: 30 s. Then the connection is closed.
    pub fn body_timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.settings.body_timeout = limit(time);
        self
    }

    /// Limits the time that a client takes nothing of a reply while the send queue is full. Default: 30 s. Then the connection is
    /// aborted.
    pub fn write_timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.settings.write_timeout = limit(time);
        self
    }

    /// Limits the time that a connection is kept without a request. Default: 15 s.
    pub fn keep_idle(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.settings.keep_idle = limit(time);
        self
    }

    /// Limits the requests of one connection. Default: 1000. It is closed after the last one.
    pub fn requests_per_connection(mut self, requests: u32) -> Self {
        self.settings.requests_per_connection = requests;
        self
    }

    /// Limits the number of open connections. Default: 256. Further clients wait in the accept backlog.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }
}

/// # Who may ask
impl ServerBuilder {
    /// Names the hosts that the server is asked for, with or without a port; requests with another `Host` are answered with 421.
    ///
    /// Default: none. A server on a loopback address then serves `localhost`, names below it, and loopback addresses, so that a foreign page
    /// whose name was made to lead here cannot read its replies (DNS rebinding). Behind a proxy it needs the public names here. A server on
    /// other addresses serves all. Requests over unix sockets are not checked.
    pub fn hosts<H: Into<String>>(mut self, hosts: impl IntoIterator<Item = H>) -> Self {
        self.settings.hosts = hosts.into_iter().map(Into::into).collect();
        self
    }

    /// Names foreign origins, such as `https://app.example`, whose pages may send requests other than `GET` and open WebSockets.
    ///
    /// Default: none. Such requests with another `Origin` than the server's own, or with `Sec-Fetch-Site: cross-site`, are answered
    /// with 403, so that a foreign page cannot act in the name of the user. Programs that are no browsers send neither field.
    pub fn origins<O: Into<String>>(mut self, origins: impl IntoIterator<Item = O>) -> Self {
        self.settings.origins = origins.into_iter().map(Into::into).collect();
        self
    }

    /// Configures TLS for an `https` address. Default: the certificate named after this host, which is created if it is missing. See
    /// [`network::server::ServerBuilder::tls`](crate::server::ServerBuilder::tls).
    pub fn tls(mut self, tls: impl Into<Tls<ServerTls>>) -> Self {
        self.tls = Some(tls.into());
        self
    }

    /// Sets the options of the listening socket and its connections: backlog, users that may connect to a unix socket, the mode of
    /// its file, and so on. TLS and `max_connections` are set here instead.
    ///
    /// # Example: A unix socket that only one group may use
    /// ```no_run
    /// use network::http::{Reply, Server};
    ///
    /// let server = Server::builder()
    ///     .listener(network::Server::builder().mode(0o660).group("www-data"))
    ///     .get("/", |_| Ok(Reply::text("hello")))
    ///     .listen("/run/me/http.sock")?;
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn listener(mut self, options: ListenerBuilder) -> Self {
        self.listener = options;
        self
    }

    /// Sets a callback for each request that has been answered, or cut off. See [`Access`].
    ///
    /// # Example
    /// ```
    /// use network::http::{Reply, Server};
    ///
    /// let server = Server::builder()
    ///     .log(|access| println!("{access}"))
    ///     .get("/", |_| Ok(Reply::text("hello")))
    ///     .listen("http://127.0.0.1:0/")?;
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn log(mut self, log: impl Fn(&Access) + 'static) -> Self {
        self.on_access = Some(Rc::new(log));
        self
    }
}

/// # Starting
impl ServerBuilder {
    /// Listens on an address. See [`Server::new`].
    ///
    /// # Errors
    /// See [`Server::new`].
    pub fn listen<A>(self, address: A) -> Result<Server>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        let place = Place::parse(address)?;
        let listener = self.configure(&place)?;
        let core = Core::new(self.settings, self.routes, self.on_access);
        let listener = listener.listen::<Address>(place.address.clone(), on_client(core))?;
        Ok(Server::started(listener, &place))
    }

    /// Listens on an address, and serves everything that no other handler serves by this one. See [`Server::serve`].
    ///
    /// # Errors
    /// See [`Server::new`].
    pub fn serve<A, R>(mut self, address: A, handler: impl Fn(Request) -> R + 'static) -> Result<Server>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
        R: Future<Output = Result<Reply>> + 'static,
    {
        self.routes = self.routes.add(None, "*", Rc::new(Async(handler)));
        self.listen(address)
    }

    pub(super) fn plain<A>(self, address: A, handler: impl Fn(&Request) -> Result<Reply> + 'static) -> Result<Server>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        self.routes(Routes::only(Rc::new(Plain(handler)))).listen(address)
    }

    /// Returns the options of the listener.
    ///
    /// # Errors
    /// An option that cannot be kept.
    pub(super) fn configure(&self, place: &Place) -> Result<ListenerBuilder> {
        self.settings.check(self.max_connections)?;
        self.routes.check()?;
        if self.tls.is_some() && !place.is_tls {
            return Err(Error::InvalidOption(format!("TLS is set, but {} is no https:// address", place.address)));
        }
        let listener = self.listener.clone().max_connections(self.max_connections);
        Ok(match (&self.tls, place.is_tls) {
            (_, false) => listener.tls(false),
            (None, true) => listener.tls(true),
            (Some(Tls::Off), true) => {
                return Err(Error::InvalidOption(format!("TLS is off, but {} asks for it", place.url(0))));
            }
            (Some(tls), true) => listener.tls(tls.clone()),
        })
    }
}
