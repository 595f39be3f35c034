//! The handle of a client, its settings, and the main contexts that it is used on.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, Method};
use gio::prelude::*;

use super::auth::Auth;
use super::builder::ClientBuilder;
use super::cookies::Cookies;
use super::log::LogEntry;
use super::pool::{self, Pool};
use super::request::RequestBuilder;
use super::response::Response;
use super::traffic::HeadLimits;
use super::url::Url;
use crate::address::Address;
use crate::engine::{Engine, block_on_context, private_context};
use crate::error::{Error, Operation, Result};
use crate::socket::Proxy;
use crate::tls::ClientTls;

/// A callback for the log.
pub(super) type OnExchange = Rc<dyn Fn(&LogEntry<'_>)>;

/// The settings of a client, as its builder leaves them.
pub(super) struct Settings {
    pub(super) base: Option<Url>,
    pub(super) headers: HeaderMap,
    pub(super) tls: ClientTls,
    pub(super) proxy: Proxy,
    pub(super) connect_to: Option<Address>,
    pub(super) auth: Option<Auth>,
    pub(super) redirects: usize,
    pub(super) cookies: Option<Cookies>,
    pub(super) decompress: bool,
    pub(super) connect_timeout: Duration,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) timeout: Option<Duration>,
    pub(super) min_speed: Option<(u64, Duration)>,
    pub(super) body_limit: usize,
    pub(super) max_download: Option<u64>,
    pub(super) head: HeadLimits,
    pub(super) pool: pool::Limits,
    /// Header fields that are for the origin of the request alone.
    pub(super) secrets: Vec<HeaderName>,
    pub(super) follow_with_body: bool,
    pub(super) deny_private: bool,
    pub(super) log: Option<OnExchange>,
    /// The problem with the options, told by sending.
    pub(super) problem: Option<String>,
}

/// An HTTP client: its options, cookies and kept connections. Clones are handles of the same client.
///
/// A request is made by one of the methods named after HTTP's, completed by the [`RequestBuilder`] that they return, and sent
/// by one of three faces: `send` blocks, `send_async` calls back once from the main loop, `send_future` is awaited. Each gives a
/// [`Response`] when the head of the response has come; the body can be taken as a whole or as it comes. A status of 400 or above is
/// no error, unless [`error_for_status`](Response::error_for_status) makes it one.
///
/// Connections are kept and used again, separately on each main context, and blocking calls have connections of their own: they
/// run on a private main context, so that nothing else of the program is called meanwhile. All limits have defaults, see
/// [`ClientBuilder`].
///
/// It speaks HTTP/1.1 and 1.0. Connections through a proxy use the method CONNECT or SOCKS, also for `http://`, so a proxy must
/// permit that for port 80.
///
/// # Example: Ask for a page and print it
/// ```
/// # let server = std::net::TcpListener::bind("127.0.0.1:0")?;
/// # let url = format!("http://{}/", server.local_addr()?);
/// # let server = std::thread::spawn(move || -> std::io::Result<()> {
/// #     use std::io::{Read, Write};
/// #     let (mut stream, _) = server.accept()?;
/// #     let _ = stream.read(&mut [0; 4096])?;
/// #     stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHello")
/// # });
/// use network::http::Client;
///
/// let client = Client::new();
/// let text = client.get(url).send()?.error_for_status()?.text()?;
/// assert_eq!(text, "Hello");
/// # server.join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Client {
    pub(super) inner: Rc<Inner>,
}

/// The state that all handles of a client share.
pub(super) struct Inner {
    pub(super) settings: Settings,
    /// One for each main context that the client is used on.
    pools: RefCell<Vec<Rc<Pool>>>,
    /// The context of blocking calls, once there was one.
    private: RefCell<Option<glib::MainContext>>,
}

thread_local! {
    static SHARED: Client = Client::new();
}

impl Client {
    /// Creates a client with the default options.
    pub fn new() -> Self {
        Client::builder().build()
    }

    /// Creates options for a client.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::new()
    }

    /// Returns the client of this thread that [`get`](super::get) and the like use. It has the default options.
    pub fn shared() -> Self {
        SHARED.with(Client::clone)
    }

    pub(super) fn with_settings(settings: Settings) -> Self {
        let inner = Inner { settings, pools: RefCell::default(), private: RefCell::new(None) };
        Client { inner: Rc::new(inner) }
    }

    /// Makes a GET request.
    ///
    /// `url` is a URL, or a reference that is resolved against the client's [base](ClientBuilder::base). An invalid one is told by
    /// sending.
    pub fn get(&self, url: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::GET, url)
    }

    /// Makes a HEAD request: the response has no body.
    pub fn head(&self, url: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::HEAD, url)
    }

    /// Makes a POST request.
    pub fn post(&self, url: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::POST, url)
    }

    /// Makes a PUT request.
    pub fn put(&self, url: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::PUT, url)
    }

    /// Makes a PATCH request.
    pub fn patch(&self, url: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::PATCH, url)
    }

    /// Makes a DELETE request.
    pub fn delete(&self, url: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::DELETE, url)
    }

    /// Makes a request with any method.
    pub fn request(&self, method: Method, url: impl AsRef<str>) -> RequestBuilder {
        let url = self.inner.resolve(url.as_ref());
        RequestBuilder::new(self.inner.clone(), method, url)
    }
}

impl Default for Client {
    fn default() -> Self {
        Client::new()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base = self.inner.settings.base.as_ref().map(Url::to_string);
        f.debug_struct("Client").field("base", &base).finish_non_exhaustive()
    }
}

impl Inner {
    fn resolve(&self, text: &str) -> Result<Url> {
        match &self.settings.base {
            Some(base) => base.join(text),
            None => Url::parse(text),
        }
    }

    /// Returns the connections of this main context.
    pub(super) fn pool(&self) -> Result<Rc<Pool>> {
        let engine = Engine::current()?;
        let mut pools = self.pools.borrow_mut();
        if let Some(pool) = pools.iter().find(|pool| Rc::ptr_eq(pool.engine(), &engine)) {
            return Ok(pool.clone());
        }
        let gone: Vec<_> = pools.extract_if(.., |pool| pool.engine().has_ended()).collect();
        let pool = Pool::new(&engine, self.settings.pool);
        pools.push(pool.clone());
        drop(pools);
        drop(gone);
        Ok(pool)
    }

    /// Runs a future to its end on the private main context. **Blocks**.
    pub(super) fn block_on<T, F: Future<Output = Result<T>>>(&self, url: &str, start: impl FnOnce() -> F) -> Result<T> {
        let known = self.private.borrow().clone();
        let context = match known {
            Some(context) => context,
            None => {
                let failed = |source| Error::Io { operation: Operation::SetUp, address: url.into(), source };
                let made = private_context().map_err(failed)?;
                self.private.replace(Some(made.clone()));
                made
            }
        };
        block_on_context(&context, Operation::Request, url, |_| start())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The connections of blocking calls go before their main context.
        self.pools.take();
    }
}

/// Makes a GET request by the [shared](Client::shared) client. **Blocks** until the head of the response has come.
///
/// # Errors
/// See [`RequestBuilder::send`].
///
/// # Example
/// ```no_run
/// let text = network::http::get("https://example.org/")?.text()?;
/// # Ok::<(), network::Error>(())
/// ```
pub fn get(url: impl AsRef<str>) -> Result<Response> {
    Client::shared().get(url).send()
}

/// Makes a GET request by the [shared](Client::shared) client, and calls back once.
pub fn get_async(
    url: impl AsRef<str>,
    cancellable: Option<&impl IsA<gio::Cancellable>>,
    callback: impl FnOnce(Result<Response>) + 'static,
) {
    Client::shared().get(url).send_async(cancellable, callback);
}

/// Makes a GET request by the [shared](Client::shared) client.
///
/// # Errors
/// See [`RequestBuilder::send`].
pub fn get_future(url: impl AsRef<str>) -> impl Future<Output = Result<Response>> + 'static {
    Client::shared().get(url).send_future()
}
