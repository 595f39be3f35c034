//! A request that is being made up.

use std::cell::Cell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, Method, Version, header};
use futures_core::Stream;
use gio::prelude::*;
use hyper::body::Bytes;

use super::body::{Content, Pieces};
use super::builder::field;
use super::download;
use super::exchange::Exchanging;
use super::handle::Inner;
use super::multipart::{Multipart, boundary, open_file};
use super::response::Response;
use super::url::{Url, encode};
use crate::engine::in_background;
use crate::error::{Error, Operation, Result, refuse_zeros};

/// The progress of an exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes of the request's body that were handed to the connection.
    pub sent: u64,
    /// Their number, if it is known.
    pub to_send: Option<u64>,
    /// Bytes of the response's body that have come. A download that continues counts what was there before.
    pub received: u64,
    /// Their number, if the server tells.
    pub to_receive: Option<u64>,
}

impl Progress {
    /// Returns the part that is done, from 0 to 1: of the response, or of the request before anything of the response comes.
    /// `None` if it is not known.
    pub fn fraction(&self) -> Option<f64> {
        let (done, total) = match (self.received, self.to_receive) {
            (0, None) => (self.sent, self.to_send?),
            (received, total) => (received, total?),
        };
        if total == 0 {
            return Some(1.0);
        }
        #[allow(clippy::cast_precision_loss, reason = "for a progress bar")]
        let part = done as f64 / total as f64;
        Some(part.min(1.0))
    }
}

/// The body of a request, as the program gives it.
pub(super) enum Payload {
    None,
    Bytes(Bytes),
    Stream(Option<u64>, Pieces),
    /// It has been sent, and cannot be sent again.
    Gone,
    File(PathBuf),
    /// With its boundary.
    Form(Multipart, String),
}

impl Payload {
    /// Returns the body as it is sent, with its length.
    pub(super) fn open(&mut self) -> Result<(Content, Option<u64>)> {
        Ok(match self {
            Payload::None => (Content::Bytes(Bytes::new()), Some(0)),
            Payload::Bytes(bytes) => (Content::Bytes(bytes.clone()), Some(bytes.len() as u64)),
            Payload::Stream(..) => {
                let Payload::Stream(length, stream) = std::mem::replace(self, Payload::Gone) else {
                    return Err(Error::other("the body has been sent"));
                };
                (Content::Stream(stream), length)
            }
            Payload::Gone => return Err(Error::other("the body has been sent")),
            Payload::File(path) => {
                let (file, length) = open_file(path)?;
                (Content::File(file), Some(length))
            }
            Payload::Form(form, boundary) => {
                let (form, length) = form.open(boundary)?;
                (Content::Stream(Box::pin(form)), Some(length))
            }
        })
    }

    fn copy(&self) -> Option<Self> {
        match self {
            Payload::None => Some(Payload::None),
            Payload::Bytes(bytes) => Some(Payload::Bytes(bytes.clone())),
            Payload::File(path) => Some(Payload::File(path.clone())),
            Payload::Form(form, boundary) => Some(Payload::Form(form.clone(), boundary.clone())),
            Payload::Stream(..) | Payload::Gone => None,
        }
    }

    pub(super) fn is_none(&self) -> bool {
        matches!(self, Payload::None)
    }

    /// Returns whether it cannot be sent again.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Payload::Gone)
    }
}

type OnProgress = Box<dyn FnMut(Progress)>;

/// A callback for the progress, and the progress. The callback is out of its place while it is called.
pub(super) struct Report {
    progress: Cell<Progress>,
    callback: Cell<Option<OnProgress>>,
}

impl Report {
    pub(super) fn change(&self, change: impl FnOnce(&mut Progress)) {
        let mut progress = self.progress.get();
        change(&mut progress);
        self.progress.set(progress);
        if let Some(mut callback) = self.callback.take() {
            callback(progress);
            self.callback.set(Some(callback));
        }
    }
}

/// A request: what [`Client::get`](super::Client::get) and the like return. Nothing happens before it is sent.
///
/// Whatever is wrong with its parts, a URL, a header field, a file, is told by sending.
#[must_use = "a request does nothing before it is sent"]
pub struct RequestBuilder {
    pub(super) client: Rc<Inner>,
    pub(super) method: Method,
    pub(super) url: Result<Url>,
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload,
    pub(super) version: Version,
    pub(super) timeout: Option<Duration>,
    pub(super) redirects: usize,
    pub(super) resume: bool,
    pub(super) report: Option<Rc<Report>>,
    problem: Option<String>,
}

impl RequestBuilder {
    pub(super) fn new(client: Rc<Inner>, method: Method, url: Result<Url>) -> Self {
        let (timeout, redirects) = (client.settings.timeout, client.settings.redirects);
        RequestBuilder {
            client,
            method,
            url,
            headers: HeaderMap::new(),
            payload: Payload::None,
            version: Version::HTTP_11,
            timeout,
            redirects,
            resume: false,
            report: None,
            problem: None,
        }
    }

    fn refuse(&mut self, problem: String) {
        self.problem.get_or_insert(problem);
    }

    /// Sets a header field, in place of the client's field of that name.
    pub fn header(mut self, name: impl AsRef<str>, value: impl AsRef<[u8]>) -> Self {
        match field(name.as_ref(), value.as_ref()) {
            Ok((name, value)) => drop(self.headers.insert(name, value)),
            Err(problem) => self.refuse(problem),
        }
        self
    }

    /// Sets several header fields, each in place of the client's of that name.
    pub fn headers(mut self, headers: HeaderMap) -> Self {
        for name in headers.keys() {
            if let Err(problem) = field(name.as_str(), b"") {
                self.refuse(problem);
                return self;
            }
        }
        for name in headers.keys() {
            self.headers.remove(name);
        }
        self.headers.extend(headers);
        self
    }

    /// Appends pairs to the query of the URL, percent-encoded.
    ///
    /// # Example
    /// ```no_run
    /// # let client = network::http::Client::new();
    /// client.get("https://example.org/search").query([("q", "a b"), ("page", "2")]).send()?;
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn query<K: AsRef<str>, V: AsRef<str>>(mut self, pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        if let Ok(url) = &mut self.url {
            url.add_query(pairs);
        }
        self
    }

    /// Sets the version: `HTTP_11`, the default, or `HTTP_10`, which knows no bodies of unknown length.
    pub fn version(mut self, version: Version) -> Self {
        if ![Version::HTTP_10, Version::HTTP_11].contains(&version) {
            self.refuse(format!("{version:?} is not supported: expected HTTP/1.0 or HTTP/1.1"));
        }
        self.version = version;
        self
    }

    /// Sets the body.
    pub fn body(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.payload = Payload::Bytes(bytes.into().into());
        self
    }

    /// Sets the body to a stream of pieces, which is polled as the connection takes them.
    ///
    /// With a `length`, a stream that is shorter or longer fails the request with [`Error::InvalidOption`]. An error of the
    /// stream's is that of the request. A stream cannot be sent again: a redirect that asks for it fails with
    /// [`Error::Http`].
    ///
    /// With [`send`](Self::send), the stream is polled on a private main context, so it must not wait for the caller's.
    pub fn body_stream(
        mut self,
        length: impl Into<Option<u64>>,
        stream: impl Stream<Item = Result<Vec<u8>>> + 'static,
    ) -> Self {
        self.payload = Payload::Stream(length.into(), Box::pin(stream));
        self
    }

    /// Sets the body to the content of a file, which is read as it is sent and must not change meanwhile.
    pub fn file(mut self, path: impl AsRef<Path>) -> Self {
        self.payload = Payload::File(path.as_ref().to_owned());
        self
    }

    /// Sets the body to a value as JSON, and `Content-Type` to `application/json`.
    #[cfg(feature = "json")]
    pub fn json<T: serde::Serialize + ?Sized>(mut self, value: &T) -> Self {
        match serde_json::to_vec(value) {
            Ok(bytes) => self.payload = Payload::Bytes(bytes.into()),
            Err(error) => self.refuse(format!("the value cannot be written as JSON: {error}")),
        }
        self.content_type(HeaderValue::from_static("application/json"))
    }

    /// Sets the body to a form, as web pages send it (`application/x-www-form-urlencoded`).
    pub fn form<K: AsRef<str>, V: AsRef<str>>(mut self, pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let pair = |(name, value): (K, V)| format!("{}={}", encode(name.as_ref()), encode(value.as_ref()));
        let form: Vec<_> = pairs.into_iter().map(pair).collect();
        self.payload = Payload::Bytes(form.join("&").replace("%20", "+").into());
        self.content_type(HeaderValue::from_static("application/x-www-form-urlencoded"))
    }

    /// Sets the body to a form with files.
    pub fn multipart(mut self, form: Multipart) -> Self {
        match boundary() {
            Ok(boundary) => {
                let kind = HeaderValue::from_str(&format!("multipart/form-data; boundary={boundary}"));
                self.payload = Payload::Form(form, boundary);
                match kind {
                    Ok(kind) => return self.content_type(kind),
                    Err(error) => self.refuse(error.to_string()),
                }
            }
            Err(error) => self.refuse(error.to_string()),
        }
        self
    }

    fn content_type(mut self, kind: HeaderValue) -> Self {
        self.headers.entry(header::CONTENT_TYPE).or_insert(kind);
        self
    }

    /// Sets the [timeout](super::ClientBuilder::timeout) for the whole exchange.
    pub fn timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.timeout = limit.into();
        if let Err(error) = refuse_zeros("an HTTP request", [("timeout", self.timeout == Some(Duration::ZERO))]) {
            self.refuse(error.to_string());
        }
        self
    }

    /// Sets how many [redirects](super::ClientBuilder::redirects) are followed.
    pub fn redirects(mut self, count: usize) -> Self {
        self.redirects = count;
        self
    }

    /// Sets whether a [`download`](Self::download) continues one that was interrupted. Default: no.
    ///
    /// It continues if the partial file is from a call that had this set as well and the server still has the same file, by the time
    /// of its last change. Otherwise it begins anew, as it does with a file that was changed within a second before the first part was
    /// sent.
    pub fn resume(mut self, resume: bool) -> Self {
        self.resume = resume;
        self
    }

    /// Sets a callback for the progress: called after each piece of either body.
    pub fn progress(mut self, callback: impl FnMut(Progress) + 'static) -> Self {
        let report = Report { progress: Cell::default(), callback: Cell::new(Some(Box::new(callback))) };
        self.report = Some(Rc::new(report));
        self
    }

    // ---- sending ----

    /// Sends the request, and returns when the head of the response has come. **Blocks** until then.
    ///
    /// Nothing of the caller's main context is called meanwhile, but for the [`progress`](Self::progress) callback and a
    /// [stream](Self::body_stream) of this request. Read the response by blocking calls.
    ///
    /// A request that fails on a kept connection before anything of a response has come, as happens when the server closes it at that
    /// moment, is made once more on a new one, if its method is idempotent or nothing of it was sent.
    ///
    /// # Errors
    /// - [`Error::Address`] for a bad URL; [`Error::InvalidOption`] for other parts of the request or the client.
    /// - Those of [`Socket::connect`](crate::Socket::connect).
    /// - [`Error::Http`] if the server does not keep to HTTP or to the client's limits, or if a redirect must not be followed.
    /// - [`Error::TimedOut`] after 60 s of silence, or by the other [timeouts](super::ClientBuilder).
    /// - [`Error::Closed`], [`Error::Reset`] or [`Error::Truncated`] if the connection ends too early.
    /// - [`Error::Io`] for a file that cannot be read.
    /// - [`Error::Unsupported`] if the server runs on this thread.
    pub fn send(self) -> Result<Response> {
        let client = self.client.clone();
        let url = self.url_text();
        client.block_on(&url, || self.run(true))
    }

    /// Sends the request in the background, and calls back once, when the head of the response has come. Cancelling `cancellable`
    /// completes it with [`Error::Cancelled`].
    ///
    /// # Example: Give up when the window is closed
    /// ```no_run
    /// // For `cancel`, which is of a trait.
    /// use gio::prelude::*;
    /// use network::http::Client;
    ///
    /// let cancel = gio::Cancellable::new();
    /// Client::shared().get("https://example.org/").send_async(Some(&cancel), |result| match result {
    ///     Ok(response) => println!("{}", response.status()),
    ///     Err(error) => println!("{error}"),
    /// });
    /// let when_closed = move || cancel.cancel();
    /// # when_closed();
    /// network::fgloop();
    /// ```
    pub fn send_async(
        self,
        cancellable: Option<&impl IsA<gio::Cancellable>>,
        callback: impl FnOnce(Result<Response>) + 'static,
    ) {
        let cancelled = Error::Cancelled { operation: Operation::Request, address: self.url_text() };
        in_background("http::RequestBuilder::send", self.run(false), cancellable, cancelled, callback);
    }

    /// Sends the request. The future is ready when the head of the response has come. Dropping it closes the connection.
    ///
    /// # Errors
    /// See [`send`](Self::send).
    pub fn send_future(self) -> impl Future<Output = Result<Response>> + 'static {
        self.run(false)
    }

    /// Downloads to a file. **Blocks** until it is complete. Returns the response, whose body is taken.
    ///
    /// The file grows as `path` + `.part` and takes its place when it is complete and on the disk. Whatever ends the download
    /// before leaves the partial file, and `path` as it was. A status of 400 or above fails with [`Error::Status`], and nothing is
    /// written. See [`resume`](Self::resume) and [`max_download`](super::ClientBuilder::max_download).
    ///
    /// # Errors
    /// Those of [`send`](Self::send); [`Error::Status`]; [`Error::LimitExceeded`]; [`Error::Io`] for the file.
    pub fn download(self, path: impl AsRef<Path>) -> Result<Response> {
        let client = self.client.clone();
        let url = self.url_text();
        client.block_on(&url, || download::run(self, path.as_ref().to_owned(), true))
    }

    /// Downloads to a file in the background, and calls back once. Cancelling leaves the partial file.
    pub fn download_async(
        self,
        path: impl AsRef<Path>,
        cancellable: Option<&impl IsA<gio::Cancellable>>,
        callback: impl FnOnce(Result<Response>) + 'static,
    ) {
        let cancelled = Error::Cancelled { operation: Operation::Request, address: self.url_text() };
        let future = download::run(self, path.as_ref().to_owned(), false);
        in_background("http::RequestBuilder::download", future, cancellable, cancelled, callback);
    }

    /// Downloads to a file. Dropping the future leaves the partial file.
    ///
    /// # Errors
    /// See [`download`](Self::download).
    pub fn download_future(self, path: impl AsRef<Path>) -> impl Future<Output = Result<Response>> + 'static {
        download::run(self, path.as_ref().to_owned(), false)
    }

    pub(super) fn url_text(&self) -> String {
        self.url.as_ref().map(Url::to_string).unwrap_or_else(|_| "an invalid URL".into())
    }

    /// Returns the same request. `None` if its body can be sent only once.
    pub(super) fn copy(&self) -> Option<Self> {
        Some(RequestBuilder {
            client: self.client.clone(),
            method: self.method.clone(),
            url: Ok(self.url.as_ref().ok()?.clone()),
            headers: self.headers.clone(),
            payload: self.payload.copy()?,
            version: self.version,
            timeout: self.timeout,
            redirects: self.redirects,
            resume: self.resume,
            report: self.report.clone(),
            problem: self.problem.clone(),
        })
    }

    pub(super) async fn run(self, blocks: bool) -> Result<Response> {
        if let Some(problem) = self.problem.as_ref().or(self.client.settings.problem.as_ref()) {
            return Err(Error::InvalidOption(problem.clone()));
        }
        Exchanging::new(self, blocks)?.run().await
    }
}

impl fmt::Debug for RequestBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBuilder")
            .field("method", &self.method)
            .field("url", &self.url_text())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fraction_is_that_of_what_goes_on() {
        let progress = |sent, to_send, received, to_receive| Progress { sent, to_send, received, to_receive };
        for (progress, expected) in [
            (progress(0, None, 0, None), None),
            (progress(1, Some(4), 0, None), Some(0.25)),
            (progress(4, Some(4), 1, Some(2)), Some(0.5)),
            (progress(4, Some(4), 1, None), None),
            (progress(0, None, 0, Some(0)), Some(1.0)),
            (progress(0, None, 3, Some(2)), Some(1.0)),
        ] {
            assert_eq!(progress.fraction(), expected, "{progress:?}");
        }
    }
}
