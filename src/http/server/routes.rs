//! [`Routes`]: which handler serves a request.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;

use http::Method;

use super::reply::Reply;
use super::request::Request;
use crate::error::{Error, Result};

/// A handler of the program.
pub(super) trait Handler {
    /// Calls it.
    fn call(&self, request: Request) -> Answer;
}

/// The result of a handler.
#[allow(clippy::large_enum_variant, reason = "it is taken apart where it is returned")]
pub(super) enum Answer {
    Now(Result<Reply>),
    Later(Pin<Box<dyn Future<Output = Result<Reply>>>>),
}

/// A handler that sees no body.
pub(super) struct Plain<F>(pub(super) F);

impl<F: Fn(&Request) -> Result<Reply>> Handler for Plain<F> {
    fn call(&self, request: Request) -> Answer {
        Answer::Now((self.0)(&request))
    }
}

/// A handler that takes the request, and may await its body.
pub(super) struct Async<F>(pub(super) F);

impl<F, R> Handler for Async<F>
where
    F: Fn(Request) -> R,
    R: Future<Output = Result<Reply>> + 'static,
{
    fn call(&self, request: Request) -> Answer {
        Answer::Later(Box::pin((self.0)(request)))
    }
}

/// The handlers of a server, by method and path.
///
/// A path is exact, or ends with `*`, which stands for any rest. The exact one is taken first, then the longest with a `*`. A path
/// that is served for other methods only is answered with 405 and `Allow`, `OPTIONS` with 204 and `Allow`. `HEAD` is served by the
/// handler for `GET`. Everything else is for [`not_found`](Routes::not_found), 404 by default.
///
/// # Example
/// ```
/// use network::http::{Reply, Routes};
///
/// let routes = Routes::new()
///     .get("/", |_| Ok(Reply::html("<h1>It works</h1>")))
///     .post("/echo", async |mut request| Ok(Reply::bytes(request.bytes_future().await?)))
///     .any("/files/*", |request| Ok(Reply::text(format!("no file {} here", request.path()))));
/// # drop(routes);
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct Routes {
    all: Vec<Route>,
    not_found: Option<Rc<dyn Handler>>,
}

#[derive(Clone)]
struct Route {
    /// `None` for all.
    method: Option<Method>,
    /// Without the `*`.
    path: String,
    is_prefix: bool,
    handler: Rc<dyn Handler>,
}

impl Route {
    fn fits_path(&self, path: &str) -> bool {
        if self.is_prefix { path.starts_with(&self.path) } else { path == self.path }
    }

    fn fits_method(&self, method: &Method) -> bool {
        let Some(own) = &self.method else { return true };
        own == method || (own == Method::GET && method == Method::HEAD)
    }
}

/// The way to serve a request.
pub(super) enum Found {
    Handler(Rc<dyn Handler>),
    /// The path is served for these methods.
    Methods(String),
    Nothing,
}

impl Routes {
    /// Makes an empty list.
    pub fn new() -> Routes {
        Routes::default()
    }

    /// Adds a handler for `GET` and `HEAD`. It sees no body.
    pub fn get(self, path: &str, handler: impl Fn(&Request) -> Result<Reply> + 'static) -> Routes {
        self.add(Some(Method::GET), path, Rc::new(Plain(handler)))
    }

    /// Adds an async handler for `POST`.
    pub fn post<R>(self, path: &str, handler: impl Fn(Request) -> R + 'static) -> Routes
    where
        R: Future<Output = Result<Reply>> + 'static,
    {
        self.on(Method::POST, path, handler)
    }

    /// Adds an async handler for a method.
    pub fn on<R>(self, method: Method, path: &str, handler: impl Fn(Request) -> R + 'static) -> Routes
    where
        R: Future<Output = Result<Reply>> + 'static,
    {
        self.add(Some(method), path, Rc::new(Async(handler)))
    }

    /// Adds a handler for all methods. It sees no body.
    pub fn any(self, path: &str, handler: impl Fn(&Request) -> Result<Reply> + 'static) -> Routes {
        self.add(None, path, Rc::new(Plain(handler)))
    }

    /// Adds an async handler for all methods.
    pub fn serve<R>(self, path: &str, handler: impl Fn(Request) -> R + 'static) -> Routes
    where
        R: Future<Output = Result<Reply>> + 'static,
    {
        self.add(None, path, Rc::new(Async(handler)))
    }

    /// Sets the handler for paths that no other one serves. It chooses the status, too.
    pub fn not_found(mut self, handler: impl Fn(&Request) -> Result<Reply> + 'static) -> Routes {
        self.not_found = Some(Rc::new(Plain(handler)));
        self
    }

    pub(super) fn add(mut self, method: Option<Method>, path: &str, handler: Rc<dyn Handler>) -> Routes {
        let (path, is_prefix) = path.strip_suffix('*').map_or((path, false), |path| (path, true));
        self.all.push(Route { method, path: path.to_owned(), is_prefix, handler });
        self
    }

    /// # Errors
    /// [`Error::InvalidOption`] for a path that no request can have.
    pub(super) fn check(&self) -> Result {
        let is_path = |route: &&Route| match route.path.as_str() {
            "" => route.is_prefix,
            path => path.starts_with('/') && !path.contains(['?', '#', '*']),
        };
        let Some(route) = self.all.iter().find(|route| !is_path(route)) else { return Ok(()) };
        let star = if route.is_prefix { "*" } else { "" };
        let expected = "expected a path such as /status or /files/*, without a query";
        Err(Error::InvalidOption(format!("no request has the path {:?}: {expected}", format!("{}{star}", route.path))))
    }

    /// Returns the handler for everything: that of a server with one only.
    pub(super) fn only(handler: Rc<dyn Handler>) -> Routes {
        Routes::new().add(None, "*", handler)
    }

    pub(super) fn find(&self, method: &Method, path: &str) -> Found {
        let fitting: Vec<&Route> = self.all.iter().filter(|route| route.fits_path(path)).collect();
        let rank = |route: &&&Route| (!route.is_prefix, route.path.len(), route.method.is_some());
        // Of several that are the same the first.
        let best = fitting.iter().rev().filter(|route| route.fits_method(method)).max_by_key(rank);
        match (best, &self.not_found) {
            (Some(route), _) => Found::Handler(route.handler.clone()),
            (None, _) if !fitting.is_empty() => Found::Methods(allow(&fitting)),
            (None, Some(handler)) => Found::Handler(handler.clone()),
            (None, None) => Found::Nothing,
        }
    }

    /// Returns the methods that are served at all, for `OPTIONS *`.
    pub(super) fn methods(&self) -> String {
        if self.all.iter().any(|route| route.method.is_none()) {
            return "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS".into();
        }
        allow(&self.all.iter().collect::<Vec<_>>())
    }
}

/// The value of `Allow`.
fn allow(routes: &[&Route]) -> String {
    let mut methods: BTreeSet<&str> =
        routes.iter().filter_map(|route| route.method.as_ref()).map(Method::as_str).collect();
    if methods.contains("GET") {
        methods.insert("HEAD");
    }
    methods.insert("OPTIONS");
    methods.into_iter().collect::<Vec<_>>().join(", ")
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths = self.all.iter().map(|route| (&route.method, &route.path));
        f.debug_struct("Routes").field("all", &paths.collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Routes {
        let empty = |_: &Request| Ok(Reply::status(204));
        let later = async |_: Request| Ok(Reply::status(204));
        Routes::new().get("/", empty).get("/a/*", empty).post("/a/b", later).any("/a/b/*", empty).on(
            Method::PUT,
            "/a/b",
            later,
        )
    }

    /// The place of the handler found, or the methods.
    fn find(routes: &Routes, method: Method, path: &str) -> Result<usize, String> {
        match routes.find(&method, path) {
            Found::Handler(found) => {
                Ok(routes.all.iter().position(|route| Rc::ptr_eq(&route.handler, &found)).expect("one of them"))
            }
            Found::Methods(methods) => Err(methods),
            Found::Nothing => Err(String::new()),
        }
    }

    #[test]
    fn the_exact_path_then_the_longest() {
        let routes = routes();
        assert_eq!(find(&routes, Method::GET, "/"), Ok(0));
        assert_eq!(find(&routes, Method::HEAD, "/"), Ok(0));
        assert_eq!(find(&routes, Method::POST, "/"), Err("GET, HEAD, OPTIONS".into()));
        assert_eq!(find(&routes, Method::GET, "/a/x"), Ok(1));
        assert_eq!(find(&routes, Method::GET, "/a"), Err(String::new()));
        assert_eq!(find(&routes, Method::POST, "/a/b"), Ok(2));
        assert_eq!(find(&routes, Method::GET, "/a/b"), Ok(1));
        assert_eq!(find(&routes, Method::DELETE, "/a/b"), Err("GET, HEAD, OPTIONS, POST, PUT".into()));
        assert_eq!(find(&routes, Method::DELETE, "/a/b/"), Ok(3));
        assert_eq!(routes.methods(), "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    }

    #[test]
    fn what_is_not_found_has_its_own_handler() {
        let routes = routes().not_found(|_| Ok(Reply::status(404)));
        assert!(matches!(routes.find(&Method::GET, "/nothing"), Found::Handler(_)));
        assert!(matches!(routes.find(&Method::POST, "/"), Found::Methods(_)));
    }
}
