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
/// handler for `GET`, unless it has one. Everything else is for [`not_found`](Routes::not_found), 404 by default.
///
/// Paths are written decoded, as [`Request::path`] returns them: `/a b`, not `/a%20b`. Listening fails with
/// [`Error::InvalidOption`] for a path that no request can have, for patterns of other libraries, such as `/users/:id`,
/// `/users/{id}` and `/users/<id>`, and if two handlers have the same method and path.
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

    /// As it was written.
    fn written(&self) -> String {
        format!("{}{}", self.path, if self.is_prefix { "*" } else { "" })
    }

    /// Returns why no request can have this path, or none that is meant. Requests' paths are compared decoded.
    fn problem(&self) -> Option<&'static str> {
        let path = self.path.as_str();
        let is_pattern = |segment: &str| {
            segment.len() > 1 && segment.starts_with(':')
                || [('{', '}'), ('<', '>')]
                    .iter()
                    .any(|(left, right)| segment.starts_with(*left) && segment.ends_with(*right))
        };
        if path.is_empty() && self.is_prefix {
            return None;
        }
        if !path.starts_with('/') {
            return Some("expected a path such as /status or /files/*, which begins with /");
        }
        if path.split('/').any(is_pattern) {
            return Some(
                "there are no patterns, only exact paths and a * at the end; write the * and look at request.path()",
            );
        }
        if path.contains(['?', '#', '*']) {
            return Some(
                "expected a path such as /status or /files/*, without a query, and with no * but the one at the end",
            );
        }
        if has_escape(path) {
            return Some("paths are compared decoded; write the character itself, as in \"/a b\" for /a%20b");
        }
        if path.contains('\0') || path.split(['/', '\\']).any(|segment| segment == "..") {
            return Some("requests for a path with .. or NUL are refused");
        }
        None
    }

    fn is_same(&self, other: &Route) -> bool {
        (&self.method, &self.path, self.is_prefix) == (&other.method, &other.path, other.is_prefix)
    }

    fn fits_method(&self, method: &Method) -> bool {
        let Some(own) = &self.method else { return true };
        own == method || (own == Method::GET && method == Method::HEAD)
    }
}

/// Returns whether a part of a path is percent-encoded.
fn has_escape(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes.windows(3).any(|part| part[0] == b'%' && part[1..].iter().all(u8::is_ascii_hexdigit))
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
    /// [`Error::InvalidOption`] for a handler that no request comes to.
    pub(super) fn check(&self) -> Result {
        for (at, route) in self.all.iter().enumerate() {
            let path = route.written();
            if let Some(problem) = route.problem() {
                return Err(Error::InvalidOption(format!("no request has the path {path:?}: {problem}")));
            }
            if self.all[..at].iter().any(|earlier| earlier.is_same(route)) {
                let method = route.method.as_ref().map_or("all methods", Method::as_str);
                return Err(Error::InvalidOption(format!("two handlers serve the path {path:?} for {method}")));
            }
        }
        Ok(())
    }

    /// Returns the handler for everything: that of a server with one only.
    pub(super) fn only(handler: Rc<dyn Handler>) -> Routes {
        Routes::new().add(None, "*", handler)
    }

    pub(super) fn find(&self, method: &Method, path: &str) -> Found {
        let fitting: Vec<&Route> = self.all.iter().filter(|route| route.fits_path(path)).collect();
        // A handler for HEAD goes before the one for GET.
        let is_exact = |route: &Route| route.method.as_ref() == Some(method);
        let rank = |route: &&&Route| (!route.is_prefix, route.path.len(), route.method.is_some(), is_exact(route));
        let best = fitting.iter().filter(|route| route.fits_method(method)).max_by_key(rank);
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
    fn handlers_that_no_request_comes_to_are_refused() {
        let empty = |_: &Request| Ok(Reply::status(204));
        let check = |path: &str| Routes::new().any(path, empty).check();
        for path in
            ["/", "*", "/*", "/a b", "/ä/*", "/100%", "/a%zz", "/a:b", "/:", "/{", "/a{b}", "/x<y>", "/a/..b", "/a//b"]
        {
            assert!(check(path).is_ok(), "{path}");
        }
        for (path, word) in [
            ("", "begins with /"),
            ("a", "begins with /"),
            ("/a?b", "query"),
            ("/a/*/b", "but the one at the end"),
            ("/a%20b", "decoded"),
            ("/%2e/*", "decoded"),
            ("/a/../b", ".."),
            ("/a/..", ".."),
            ("/a\0", "NUL"),
            ("/e/:id", "patterns"),
            ("/e/:id/*", "patterns"),
            ("/f/{id}", "patterns"),
            ("/f/{*rest}", "patterns"),
            ("/f/<int:id>/x", "patterns"),
        ] {
            let error = check(path).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains(&format!("{path:?}")), "{error}");
        }
        assert!(routes().check().is_ok());
        assert!(routes().get("/a", empty).get("/a*", empty).any("/a", empty).check().is_ok());
        for twice in [routes().get("/", empty), routes().any("/a/b/*", empty)] {
            let error = twice.check().unwrap_err().to_string();
            assert!(error.contains("two handlers"), "{error}");
        }
    }

    #[test]
    fn head_may_have_a_handler_of_its_own() {
        let empty = |_: &Request| Ok(Reply::status(204));
        let later = async |_: Request| Ok(Reply::status(204));
        let routes = Routes::new().get("/", empty).on(Method::HEAD, "/", later);
        assert_eq!((find(&routes, Method::HEAD, "/"), find(&routes, Method::GET, "/")), (Ok(1), Ok(0)));
    }

    #[test]
    fn what_is_not_found_has_its_own_handler() {
        let routes = routes().not_found(|_| Ok(Reply::status(404)));
        assert!(matches!(routes.find(&Method::GET, "/nothing"), Found::Handler(_)));
        assert!(matches!(routes.find(&Method::POST, "/"), Found::Methods(_)));
    }
}
