//! [`Request`]: the head of a request, and the way to its body.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HeaderMap};
use http::{Method, Uri, Version};
use hyper::body::{Body, Bytes, Incoming};

use super::multipart::{self, Part};
use super::target;
use super::visit::Visit;
use crate::address::Endpoint;
use crate::conn::copying::{append, copy};
use crate::engine::block_on_context;
use crate::error::{Error, Operation, Result};

/// A request that came to a [`Server`](crate::http::Server).
///
/// The head has come; the body is received when it is asked for. A body that is not asked for is read away up to 256 KiB; if it is
/// longer, the connection is closed after the reply. A client that sent `Expect: 100-continue` is told to go on when the body is
/// first asked for.
///
/// The methods that end in `_future` are awaited on the server's main context. Dropping them loses what they have received.
///
/// To ask for a body that has been taken is an error, [`Error::Unsupported`], so that it does not seem to be empty: as a whole after its
/// end, or by pieces after it was taken as a whole. What was received before the whole is asked for is not part of that.
pub struct Request {
    method: Method,
    path: String,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    body: RequestBody,
    /// The main context that serves it, if that runs in blocking calls alone.
    pub(super) private: Option<glib::MainContext>,
}

impl Request {
    /// # Errors
    /// Why the target cannot be served.
    pub(super) fn new(request: http::Request<Incoming>, visit: &Rc<Visit>) -> Result<Self, &'static str> {
        let (parts, incoming) = request.into_parts();
        let path = target::path(parts.uri.path())?;
        let limit = visit.core.settings.body_limit;
        let incoming = Some(incoming).filter(|incoming| !incoming.is_end_stream());
        let announced = incoming.as_ref().map_or(Some(0), |incoming| incoming.size_hint().exact());
        let expects = parts.headers.contains_key(http::header::EXPECT);
        Ok(Request {
            method: parts.method,
            path,
            uri: parts.uri,
            version: parts.version,
            headers: parts.headers,
            body: RequestBody {
                incoming,
                announced,
                visit: visit.clone(),
                limit,
                taken: 0,
                rest: Bytes::new(),
                unasked: expects,
                left: Left::Some,
            },
            private: None,
        })
    }

    pub(super) fn visit(&self) -> &Rc<Visit> {
        &self.body.visit
    }

    /// Returns the method. A `HEAD` request comes to the handler for `GET`, and its reply is sent without the body.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Returns the path, decoded once. It begins with `/`, and contains neither NUL nor a segment `..`; such requests are refused with
    /// 400.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the first value of a key in the query, decoded as HTML forms encode it: `+` is a blank. Empty if the key has no `=`.
    pub fn query(&self, key: &str) -> Option<String> {
        target::pairs(self.query_text()?).find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// Returns the query as it came, without its question mark.
    pub fn query_text(&self) -> Option<&str> {
        self.uri.query()
    }

    /// Returns the version: 1.0 or 1.1.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns the header fields.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Returns the first value of a header field. `None` if it is missing or not visible ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns the host and port that the client has asked, as in its `Host` field.
    pub fn host(&self) -> Option<&str> {
        self.header("host").or_else(|| self.uri.authority().map(http::uri::Authority::as_str))
    }

    /// Returns the client's address. Behind a proxy, that is the proxy.
    pub fn remote(&self) -> Endpoint {
        self.visit().remote.clone()
    }

    /// Returns whether the request came over TLS.
    pub fn is_tls(&self) -> bool {
        self.visit().is_tls
    }

    /// Returns the value of a cookie (RFC 6265). Of several with the name, the first.
    pub fn cookie(&self, name: &str) -> Option<&str> {
        let fields = self.headers.get_all(COOKIE).iter().filter_map(|field| field.to_str().ok());
        fields.flat_map(|field| field.split(';')).find_map(|pair| cookie_value(pair, name))
    }

    /// Returns the bearer token of the `Authorization` field (RFC 6750).
    pub fn bearer(&self) -> Option<&str> {
        self.credentials("bearer")
    }

    /// Returns the user and the password of the `Authorization` field (RFC 7617). `None` if there are none, or they are not UTF-8.
    pub fn basic(&self) -> Option<(String, String)> {
        let decoded = glib::base64_decode(self.credentials("basic")?);
        let text = String::from_utf8(decoded).ok()?;
        text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
    }

    fn credentials(&self, scheme: &str) -> Option<&str> {
        let (given, rest) = self.headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        given.eq_ignore_ascii_case(scheme).then_some(rest.trim())
    }

    /// Returns the length of the body as the client has announced it, in bytes. `None` for one that comes in chunks.
    pub fn content_length(&self) -> Option<u64> {
        self.body.announced
    }

    /// Sets the limit of this body, in bytes, in place of the server's
    /// [`body_limit`](crate::http::ServerBuilder::body_limit). To be called before the body is asked for.
    pub fn set_body_limit(&mut self, bytes: usize) {
        self.body.limit = bytes;
    }

    /// Receives the next piece of the body. `None` at its end.
    ///
    /// # Errors
    /// - [`Error::LimitExceeded`] if the body exceeds the limit. A handler that returns this error sends 413.
    /// - [`Error::Http`] if the body breaks off or is malformed. A handler that returns this error sends 400.
    /// - [`Error::Unsupported`] if it has been taken as a whole.
    pub async fn chunk_future(&mut self) -> Result<Option<Vec<u8>>> {
        let chunk = std::future::poll_fn(|context| self.body.poll_chunk(context)).await?;
        Ok(chunk.map(Vec::from))
    }

    /// Receives the whole body, or what is left of it.
    ///
    /// # Errors
    /// See [`chunk_future`](Request::chunk_future). [`Error::Unsupported`] if it has been taken to its end.
    pub async fn bytes_future(&mut self) -> Result<Vec<u8>> {
        let mut whole = Whole { body: &mut self.body, bytes: Vec::new() };
        if whole.body.left == Left::End {
            return Err(whole.body.gone());
        }
        while let Some(chunk) = std::future::poll_fn(|context| whole.body.poll_chunk(context)).await? {
            if whole.bytes.is_empty() && whole.body.incoming.is_none() {
                whole.body.left = Left::Nothing;
                return Ok(chunk.into());
            }
            append(&mut whole.bytes, &chunk);
        }
        whole.body.left = Left::Nothing;
        Ok(std::mem::take(&mut whole.bytes))
    }

    /// Receives the whole body as text.
    ///
    /// # Errors
    /// See [`chunk_future`](Request::chunk_future). Also [`Error::Http`] if it is not UTF-8, which sends 400.
    pub async fn text_future(&mut self) -> Result<String> {
        let bytes = self.bytes_future().await?;
        String::from_utf8(bytes).map_err(|_| self.body.malformed("the body is not UTF-8"))
    }

    /// Receives the whole body and parses it as JSON, whatever its content type.
    ///
    /// # Errors
    /// See [`chunk_future`](Request::chunk_future). Also [`Error::Http`] if it is not the JSON expected, which sends 400.
    #[cfg(feature = "json")]
    pub async fn json_future<T: serde::de::DeserializeOwned>(&mut self) -> Result<T> {
        let bytes = self.bytes_future().await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| self.body.malformed(&format!("the body is not the JSON expected: {error}")))
    }

    /// Receives the whole body and returns the parts of an HTML form with files (`multipart/form-data`, RFC 7578), in order. All of them
    /// are in memory, so [`set_body_limit`](Request::set_body_limit) has to allow for the largest file.
    ///
    /// # Errors
    /// See [`chunk_future`](Request::chunk_future). Also [`Error::Http`] if the body is of another type, malformed, or has more than
    /// 1000 parts, which sends 415 or 400.
    pub async fn multipart_future(&mut self) -> Result<Vec<Part>> {
        let Some(boundary) = self.header(CONTENT_TYPE.as_str()).and_then(multipart::boundary) else {
            return Err(self.body.blame(415, "the body is no form with parts"));
        };
        let bytes = self.bytes_future().await?;
        multipart::parts(&bytes, &boundary).map_err(|problem| self.body.malformed(problem))
    }

    /// Receives the whole body of a request from [`Requests::next`](crate::http::Requests::next), or what is left of it.
    ///
    /// # Blocking
    /// Until the body has come, it has made no progress for the [body timeout](crate::http::ServerBuilder::body_timeout), or the
    /// client has gone away.
    ///
    /// # Errors
    /// See [`chunk_future`](Request::chunk_future). [`Error::Unsupported`] for any other request: await
    /// [`bytes_future`](Request::bytes_future) there.
    pub fn bytes(&mut self) -> Result<Vec<u8>> {
        let Some(context) = self.private.clone() else {
            return Err(Error::Unsupported(
                "only a request from Requests::next has a loop of its own; await bytes_future".into(),
            ));
        };
        let name = self.visit().remote.to_string();
        block_on_context(&context, Operation::Read, &name, |_| self.bytes_future())
    }

    /// Receives the whole body and returns the pairs of an HTML form (`application/x-www-form-urlencoded`), in order.
    ///
    /// # Errors
    /// See [`chunk_future`](Request::chunk_future). Also [`Error::Http`] if the body is of another type or not UTF-8, which sends 415 or
    /// 400.
    pub async fn form_future(&mut self) -> Result<Vec<(String, String)>> {
        let kind = self.header(CONTENT_TYPE.as_str()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(self.body.blame(415, "the body is no form"));
        }
        let text = self.text_future().await?;
        Ok(target::pairs(&text).collect())
    }
}

/// Returns the value of `name=value` if it is this name, without quotes.
fn cookie_value<'a>(pair: &'a str, name: &str) -> Option<&'a str> {
    let (key, value) = pair.split_once('=')?;
    let value = value.trim();
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    (key.trim() == name && !name.is_empty()).then_some(value)
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("method", &self.method).field("path", &self.path).finish_non_exhaustive()
    }
}

/// The bytes of the body. At the end of the body it returns 0.
impl futures_io::AsyncRead for Request {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<std::io::Result<usize>> {
        let body = &mut self.get_mut().body;
        if body.rest.is_empty() {
            match body.poll_chunk(context) {
                Poll::Ready(Ok(Some(chunk))) => body.rest = chunk,
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(0)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => return Poll::Pending,
            }
        }
        let count = body.rest.len().min(buffer.len());
        copy(buffer, &body.rest.split_to(count));
        Poll::Ready(Ok(count))
    }
}

/// The body of a request on its way.
pub(super) struct RequestBody {
    /// `None` at its end.
    incoming: Option<Incoming>,
    /// The length in the head. `None` for chunks.
    announced: Option<u64>,
    visit: Rc<Visit>,
    limit: usize,
    taken: usize,
    /// For [`futures_io::AsyncRead`].
    rest: Bytes,
    /// The client waits for `100 Continue`.
    unasked: bool,
    left: Left,
}

/// The rest of a body, for those who ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Some,
    /// The end, which somebody was told.
    End,
    /// A call has received the whole, or was dropped while it did.
    Nothing,
    /// It breaks off.
    Fragment,
}

/// The whole of a body as it is received.
struct Whole<'a> {
    body: &'a mut RequestBody,
    bytes: Vec<u8>,
}

impl Drop for Whole<'_> {
    fn drop(&mut self) {
        // Given up in the middle: the rest must not pass for the whole.
        if !self.bytes.is_empty() {
            self.body.left = Left::Nothing;
        }
    }
}

impl RequestBody {
    /// The next piece, which is never empty.
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.rest))));
        }
        match self.left {
            Left::Nothing => return Poll::Ready(Err(self.gone())),
            Left::Fragment => return Poll::Ready(Err(self.broken_off())),
            Left::Some | Left::End => {}
        }
        loop {
            let Some(incoming) = &mut self.incoming else {
                self.left = Left::End;
                return Poll::Ready(Ok(None));
            };
            let left = self.limit - self.taken;
            if incoming.size_hint().lower() > left as u64 {
                return Poll::Ready(Err(self.too_long()));
            }
            self.unasked = false;
            let frame = match Pin::new(&mut *incoming).poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => {
                    self.incoming = None;
                    continue;
                }
                Poll::Ready(Some(Err(_))) => {
                    self.incoming = None;
                    self.left = Left::Fragment;
                    return Poll::Ready(Err(self.broken_off()));
                }
                Poll::Ready(Some(Ok(frame))) => frame,
            };
            let is_over = incoming.is_end_stream();
            // Trailers are of no interest.
            let Ok(data) = frame.into_data() else { continue };
            if data.len() > left {
                return Poll::Ready(Err(self.too_long()));
            }
            self.taken += data.len();
            if is_over {
                self.incoming = None;
            }
            if !data.is_empty() {
                return Poll::Ready(Ok(Some(data)));
            }
        }
    }

    fn too_long(&mut self) -> Error {
        let (peer, limit) = (self.visit.remote.to_string(), self.limit);
        self.visit.blame_body(413, Error::LimitExceeded { peer, limit })
    }

    fn gone(&self) -> Error {
        Error::Unsupported("the body of the request has been taken already; keep what the first call returns".into())
    }

    fn broken_off(&self) -> Error {
        self.malformed("the body breaks off, or its chunks are malformed")
    }

    fn malformed(&self, problem: &str) -> Error {
        self.blame(400, problem)
    }

    fn blame(&self, status: u16, problem: &str) -> Error {
        let error = Error::Http { peer: self.visit.remote.to_string(), problem: problem.to_owned() };
        self.visit.blame_body(status, error)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        // Where the client waits for `100 Continue`, to read on would ask for the body.
        if let Some(incoming) = self.incoming.take()
            && !self.unasked
        {
            self.visit.discard_body(incoming);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies() {
        for (pair, value) in [
            ("a=1", Some("1")),
            (" a = 1 ", Some("1")),
            ("a=\"x y\"", Some("x y")),
            ("a=b=c", Some("b=c")),
            ("A=1", None),
            ("a", None),
            ("aa=1", None),
        ] {
            assert_eq!(cookie_value(pair, "a"), value, "{pair}");
        }
        assert_eq!(cookie_value("=1", ""), None);
    }
}
