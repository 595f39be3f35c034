//! A response, whose body is taken as a whole or as it comes.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use ::http::response::Parts;
use ::http::{HeaderMap, StatusCode, Version, header};
use gio::prelude::*;
use hyper::body::{Buf, Bytes};

use super::connect::is_here;
#[cfg(feature = "gzip")]
use super::decode::{Coding, Decoder};
use super::handle::Inner as ClientInner;
use super::request::Report;
use super::stream::Stream;
use super::taking::Taking;
use super::url::Url;
use crate::address::Endpoint;
use crate::conn::{Socket, WeakSocket};
use crate::engine::{CallbackSlot, Engine, Sleep, Wakers, before, in_background};
use crate::error::{Error, Operation, Result};
use crate::tls::PeerCertificate;

/// So much of the body of an error is kept for [`Error::Status`], and such a time is given to it.
const EXCERPT: usize = 1024;
const EXCERPT_TIME: std::time::Duration = std::time::Duration::from_secs(1);

/// A response to a request. Clones are handles of the same response.
///
/// The head has come; the body is taken by one of these, or one after the other, each of which gets what is left:
/// - as a whole: [`bytes`](Self::bytes), [`text`](Self::text), `json`, up to the client's
///   [`body_limit`](super::ClientBuilder::body_limit);
/// - as it comes: [`read`](Self::read) with a callback, [`chunk_future`](Self::chunk_future), [`lines`](Self::lines), or
///   [`futures_io::AsyncRead`] and `AsyncBufRead`; [`std::io::Read`] blocks.
///
/// What is not taken is not received: the server has to wait then. When the last handle is dropped, the rest of a body is read
/// away if it is short (64 KiB) and comes at once (250 ms), so that the connection can be used again, else the connection is closed.
/// [`abort`](Self::abort) closes it without that. A body that ends too early is always an error.
///
/// It is an error, [`Error::Unsupported`], to ask for a body that has been taken, so that it does not seem to be empty: as a whole
/// after its end, or by pieces after it was taken as a whole. The same for a body that a [`read`](Self::read) callback or a call for
/// the whole of it is receiving.
///
/// A response of [`send`](super::RequestBuilder::send) is read by blocking calls, one of `send_async` or `send_future` by
/// callbacks and futures; the others fail with [`Error::Unsupported`].
#[derive(Clone)]
pub struct Response {
    pub(super) inner: Rc<Inner>,
    /// The piece that `AsyncBufRead` lends.
    pub(super) lent: Bytes,
}

pub(super) type OnFinished = Box<dyn FnOnce(&Response, Result)>;
pub(super) type OnPiece = dyn FnMut(&Response, &[u8]) -> Result;

pub(super) struct Inner {
    head: Parts,
    /// As it was asked for, and as text once somebody wants that.
    asked: Rc<Url>,
    url: OnceCell<String>,
    content_length: Option<u64>,
    pub(super) body_limit: usize,
    pub(super) engine: Rc<Engine>,
    /// The client, whose private context the response belongs to.
    pub(super) private: Option<Rc<ClientInner>>,
    /// Out of its place while it is polled. `None` after the end.
    pub(super) stream: RefCell<Option<Stream>>,
    /// A piece that has come and was not taken.
    current: RefCell<Bytes>,
    /// An error that is still to be told.
    failure: RefCell<Option<Error>>,
    pub(super) has_failed: Cell<bool>,
    /// Those who wait for the next piece.
    pub(super) waiting: RefCell<Wakers>,
    pub(super) taking: Cell<Taking>,
    pub(super) reader: CallbackSlot<OnPiece>,
    report: Option<Rc<Report>>,
    /// So much of the file was there before, for the progress.
    offset: Cell<u64>,
    socket: Option<WeakSocket>,
    remote: Option<Endpoint>,
    is_tls: bool,
    pub(super) upgraded: RefCell<Option<Socket>>,
    pub(super) is_paused: Cell<bool>,
    pub(super) resumed: RefCell<Option<Waker>>,
    pub(super) finished: RefCell<Option<OnFinished>>,
    /// The end, for a callback that is set later.
    pub(super) outcome: RefCell<Option<Result>>,
}

/// Where a response has come from.
pub(super) struct Origin<'a> {
    pub(super) client: &'a Rc<ClientInner>,
    pub(super) url: &'a Rc<Url>,
    pub(super) engine: Rc<Engine>,
    /// By a blocking call.
    pub(super) blocks: bool,
    pub(super) socket: Option<WeakSocket>,
    pub(super) upgraded: Option<Socket>,
    pub(super) report: Option<Rc<Report>>,
}

impl Response {
    /// Makes one of a head.
    pub(super) fn new(mut head: Parts, mut stream: Option<Stream>, origin: Origin<'_>) -> Result<Self> {
        let settings = &origin.client.settings;
        let length = stream.as_ref().and_then(Stream::length);
        decompress(&mut head, stream.as_mut(), settings.decompress, origin.url)?;
        let content_length = if head.headers.contains_key(header::CONTENT_LENGTH) { length } else { None };
        let socket = origin.upgraded.clone().or_else(|| origin.socket.as_ref()?.upgrade());
        let inner = Inner {
            asked: origin.url.clone(),
            url: OnceCell::new(),
            content_length,
            body_limit: settings.body_limit,
            engine: origin.engine,
            private: origin.blocks.then(|| origin.client.clone()),
            stream: RefCell::new(stream),
            current: RefCell::default(),
            failure: RefCell::default(),
            has_failed: Cell::new(false),
            waiting: RefCell::default(),
            taking: Cell::new(Taking::Open),
            reader: CallbackSlot::default(),
            report: origin.report,
            offset: Cell::new(0),
            remote: socket.as_ref().map(Socket::remote),
            is_tls: socket.as_ref().is_some_and(Socket::is_tls),
            socket: origin.socket,
            upgraded: RefCell::new(origin.upgraded),
            is_paused: Cell::new(false),
            resumed: RefCell::default(),
            finished: RefCell::default(),
            outcome: RefCell::default(),
            head,
        };
        Ok(Response { inner: Rc::new(inner), lent: Bytes::new() })
    }

    /// Receives the beginning of a body that says what went wrong.
    pub(super) async fn receive_excerpt(&self) {
        let receive = async {
            while self.current().len() < EXCERPT {
                match poll_fn(|context| self.poll_more(context)).await {
                    Some(Ok(piece)) => self.set_current([self.current(), piece].concat().into()),
                    Some(Err(error)) => return drop(self.inner.failure.replace(Some(error))),
                    None => return,
                }
            }
        };
        before(Sleep::limit(EXCERPT_TIME), receive).await;
    }

    // ---- the head ----

    /// Returns the status.
    pub fn status(&self) -> StatusCode {
        self.inner.head.status
    }

    /// Returns the version.
    pub fn version(&self) -> Version {
        self.inner.head.version
    }

    /// Returns the header fields.
    pub fn headers(&self) -> &HeaderMap {
        &self.inner.head.headers
    }

    /// Returns the value of a header field, the first one if there are several. `None` if there is none, or if it is not of
    /// visible ASCII characters.
    pub fn header(&self, name: impl AsRef<str>) -> Option<&str> {
        self.inner.head.headers.get(name.as_ref())?.to_str().ok()
    }

    /// Returns the URL that has answered, after redirects, without user and password.
    pub fn url(&self) -> &str {
        self.inner.url()
    }

    /// Returns the length of the body in bytes, if the server tells and the body is not decompressed.
    pub fn content_length(&self) -> Option<u64> {
        self.inner.content_length
    }

    /// Returns the address of the server, or its name if that is all that is known through a proxy.
    pub fn remote(&self) -> Option<Endpoint> {
        self.inner.remote.clone()
    }

    /// Returns whether the response has come over TLS.
    pub fn is_tls(&self) -> bool {
        self.inner.is_tls
    }

    /// Returns the certificate of the server. `None` in plaintext, and when the connection is closed.
    pub fn peer_certificate(&self) -> Option<PeerCertificate> {
        self.inner.socket.as_ref()?.upgrade()?.peer_certificate()
    }

    /// Returns the response, or an error if the status is 400 or above.
    ///
    /// # Errors
    /// [`Error::Status`], with at most 1 KiB of the body as far as it came within one second.
    pub fn error_for_status(self) -> Result<Self> {
        let status = self.status();
        if status.as_u16() < 400 {
            return Ok(self);
        }
        let current = self.inner.current.borrow();
        let excerpt = String::from_utf8_lossy(&current[..current.len().min(EXCERPT)]).into_owned();
        drop(current);
        Err(Error::Status { status, url: self.url().into(), body: excerpt.into() })
    }

    // ---- the body as a whole ----

    /// Receives the whole body. **Blocks** until then.
    ///
    /// # Errors
    /// - [`Error::LimitExceeded`] beyond the [`body_limit`](super::ClientBuilder::body_limit), 16 MiB; at once if the server
    ///   tells the length.
    /// - [`Error::Closed`], [`Error::Reset`] or [`Error::Truncated`] if the body ends too early.
    /// - [`Error::TimedOut`]; [`Error::Http`] if the body is not coded as it should be.
    /// - [`Error::Unsupported`] if the response is not one of a blocking call, or if the body has been taken or is being taken by
    ///   another call or a [`read`](Self::read) callback.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        self.block_on(|| self.whole())
    }

    /// Receives the whole body in the background, and calls back once.
    pub fn bytes_async(
        &self,
        cancellable: Option<&impl IsA<gio::Cancellable>>,
        callback: impl FnOnce(Result<Vec<u8>>) + 'static,
    ) {
        in_background("http::Response::bytes", self.bytes_future(), cancellable, self.cancelled(), callback);
    }

    /// Receives the whole body. What a dropped future has received is lost.
    ///
    /// # Errors
    /// See [`bytes`](Self::bytes).
    pub fn bytes_future(&self) -> impl Future<Output = Result<Vec<u8>>> + 'static {
        let response = self.clone();
        async move {
            response.check_context()?;
            response.whole().await
        }
    }

    /// Receives the whole body as text. **Blocks** until then.
    ///
    /// It is converted from the `charset` of `Content-Type`; without one it is UTF-8. What is invalid is replaced with U+FFFD.
    ///
    /// # Errors
    /// See [`bytes`](Self::bytes).
    pub fn text(&self) -> Result<String> {
        Ok(self.to_text(self.bytes()?))
    }

    /// Receives the whole body as text in the background, and calls back once.
    pub fn text_async(
        &self,
        cancellable: Option<&impl IsA<gio::Cancellable>>,
        callback: impl FnOnce(Result<String>) + 'static,
    ) {
        in_background("http::Response::text", self.text_future(), cancellable, self.cancelled(), callback);
    }

    /// Receives the whole body as text. See [`text`](Self::text).
    ///
    /// # Errors
    /// See [`bytes`](Self::bytes).
    pub fn text_future(&self) -> impl Future<Output = Result<String>> + 'static {
        let response = self.clone();
        async move { Ok(response.to_text(response.bytes_future().await?)) }
    }

    /// Receives the whole body as JSON. **Blocks** until then.
    ///
    /// # Errors
    /// See [`bytes`](Self::bytes). [`Error::Http`] if it is not such a JSON.
    #[cfg(feature = "json")]
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        self.to_json(&self.bytes()?)
    }

    /// Receives the whole body as JSON in the background, and calls back once.
    #[cfg(feature = "json")]
    pub fn json_async<T: serde::de::DeserializeOwned + 'static>(
        &self,
        cancellable: Option<&impl IsA<gio::Cancellable>>,
        callback: impl FnOnce(Result<T>) + 'static,
    ) {
        in_background("http::Response::json", self.json_future(), cancellable, self.cancelled(), callback);
    }

    /// Receives the whole body as JSON.
    ///
    /// # Errors
    /// See [`json`](Self::json).
    #[cfg(feature = "json")]
    pub fn json_future<T: serde::de::DeserializeOwned>(&self) -> impl Future<Output = Result<T>> + use<T> {
        let response = self.clone();
        async move { response.to_json(&response.bytes_future().await?) }
    }

    #[cfg(feature = "json")]
    fn to_json<T: serde::de::DeserializeOwned>(&self, bytes: &[u8]) -> Result<T> {
        let failed =
            |error| Error::Http { peer: self.url().into(), problem: format!("the JSON is not as expected: {error}") };
        serde_json::from_slice(bytes).map_err(failed)
    }

    fn to_text(&self, bytes: Vec<u8>) -> String {
        let charset = self.header("content-type").and_then(charset);
        let is_known = |charset: &str| !charset.eq_ignore_ascii_case("utf-8");
        if let Some(charset) = charset.filter(|charset| is_known(charset))
            && let Ok((converted, _)) = glib::convert(&bytes, "UTF-8", charset)
        {
            return String::from_utf8_lossy(&converted).into_owned();
        }
        String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    // ---- the end ----

    /// Gives up the rest of the body, and closes the connection. Who waits for the body, or asks for it later, gets
    /// [`Error::Cancelled`], and so does [`finished_cb`](Self::finished_cb) if there is a [`read`](Self::read) callback. No effect
    /// once all of the body has come, and on the socket of [`upgrade`](Self::upgrade).
    pub fn abort(&self) {
        let Some(stream) = self.inner.stream.take() else { return };
        let untaken = self.inner.current.take();
        self.inner.failure.replace(Some(self.cancelled()));
        self.inner.has_failed.set(true);
        drop((stream, untaken));
        self.resume();
        self.inner.waiting.take().wake();
    }

    // ---- inside ----

    pub(super) fn check_context(&self) -> Result {
        is_here(&self.inner.engine)
    }

    /// Runs a future on the private main context that the response belongs to.
    pub(super) fn block_on<T, F: Future<Output = Result<T>>>(&self, start: impl FnOnce() -> F) -> Result<T> {
        match &self.inner.private {
            Some(client) => client.block_on(self.url(), start),
            None => Err(Error::Unsupported(format!(
                "{}: the response belongs to the main loop: await bytes_future and the like, or make the request by send()",
                self.url()
            ))),
        }
    }

    fn cancelled(&self) -> Error {
        Error::Cancelled { operation: Operation::Request, address: self.url().into() }
    }

    /// Closes the connection: the rest is not wanted.
    pub(super) fn give_up(&self) {
        self.inner.has_failed.set(true);
        let stream = self.inner.stream.take();
        drop(stream);
    }

    /// Returns the next piece.
    pub(super) fn poll_chunk(&self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        let inner = &*self.inner;
        let current = inner.current.take();
        if !current.is_empty() {
            return Poll::Ready(Some(Ok(current)));
        }
        if let Some(error) = inner.failure.take() {
            return Poll::Ready(Some(Err(error)));
        }
        self.poll_more(context)
    }

    /// Returns the next piece after those that lie there.
    fn poll_more(&self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        let inner = &*self.inner;
        let taken = inner.stream.take();
        let Some(mut stream) = taken else {
            let closed = || Err(Error::Closed { peer: inner.url().into() });
            return Poll::Ready(inner.has_failed.get().then(closed));
        };
        let polled = stream.poll_next(context);
        if polled.is_ready() {
            // Only the one who asked last is woken by what comes.
            let mut others = inner.waiting.take();
            others.remove(context.waker());
            others.wake();
        }
        match polled {
            Poll::Pending => {
                inner.stream.replace(Some(stream));
                inner.waiting.borrow_mut().add_once(context.waker());
                Poll::Pending
            }
            Poll::Ready(Some(Ok(piece))) => {
                let received = stream.received();
                if !stream.is_over() {
                    inner.stream.replace(Some(stream));
                }
                if let Some(report) = &inner.report {
                    report.change(|progress| progress.received = inner.offset.get() + received);
                }
                Poll::Ready(Some(Ok(piece)))
            }
            Poll::Ready(Some(Err(error))) => {
                inner.has_failed.set(true);
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => Poll::Ready(None),
        }
    }

    /// The body continues a file: the progress counts from there.
    pub(super) fn count_from(&self, offset: u64, total: Option<u64>) {
        self.inner.offset.set(offset);
        if let Some(report) = &self.inner.report {
            report.change(|progress| {
                progress.received = offset;
                progress.to_receive = total;
            });
        }
    }

    /// Returns what lies there, without waiting.
    pub(super) fn current(&self) -> Bytes {
        self.inner.current.borrow().clone()
    }

    pub(super) fn set_current(&self, piece: Bytes) {
        self.inner.current.replace(piece);
    }

    pub(super) fn consume_current(&self, count: usize) {
        let mut current = self.inner.current.borrow_mut();
        let count = count.min(current.len());
        current.advance(count);
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Response");
        shown.field("status", &self.status()).field("url", &self.url()).finish_non_exhaustive()
    }
}

impl Inner {
    fn url(&self) -> &str {
        self.url.get_or_init(|| self.asked.to_string())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let (Some(stream), None) = (self.stream.take(), &self.private) {
            stream.pass_over_later(&self.engine);
        }
    }
}

/// Sees to it that a body is decompressed, if the client asks for that.
#[cfg(feature = "gzip")]
fn decompress(head: &mut Parts, stream: Option<&mut Stream>, is_on: bool, url: &Url) -> Result {
    let (true, Some(stream), Some(value)) = (is_on, stream, head.headers.get(header::CONTENT_ENCODING)) else {
        return Ok(());
    };
    let refused = |problem| Error::Http { peer: url.to_string(), problem };
    let value = value.to_str().map_err(|error| refused(error.to_string()))?;
    let coding = match head.headers.get_all(header::CONTENT_ENCODING).iter().count() {
        1 => Coding::read(value).map_err(refused)?,
        count => return Err(refused(format!("{count} fields Content-Encoding, of which one layer is supported"))),
    };
    if let Some(coding) = coding {
        stream.decode(Decoder::new(coding));
        head.headers.remove(header::CONTENT_ENCODING);
        head.headers.remove(header::CONTENT_LENGTH);
    }
    Ok(())
}

#[cfg(not(feature = "gzip"))]
#[allow(clippy::unnecessary_wraps, reason = "as with the feature gzip")]
fn decompress(_: &mut Parts, _: Option<&mut Stream>, _: bool, _: &Url) -> Result {
    Ok(())
}

/// Returns the charset in a `Content-Type`.
fn charset(content_type: &str) -> Option<&str> {
    let values = content_type.split(';').skip(1).filter_map(|part| part.split_once('='));
    let mut charsets = values.filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"));
    charsets.next().map(|(_, value)| value.trim().trim_matches('"')).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charsets_are_found() {
        for (text, expected) in [
            ("text/html; charset=UTF-8", Some("UTF-8")),
            ("text/html;x=y; Charset = \"iso-8859-1\"", Some("iso-8859-1")),
            ("text/html", None),
            ("charset=x", None),
            ("a;charset=", None),
        ] {
            assert_eq!(charset(text), expected, "{text}");
        }
    }
}
