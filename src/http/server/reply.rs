//! [`Reply`]: what a handler answers.

use std::fmt;
use std::pin::Pin;

use futures_core::Stream;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use hyper::body::Bytes;

use super::file::FilePart;
use super::visit::Upgrade;
use crate::conn::Socket;
use crate::error::Result;

/// The answer to a [`Request`](crate::http::Request).
///
/// `Date`, the length, and whether the connection stays open are added when it is sent. A header field, a cookie or a redirect that
/// cannot be sent as it was given, because it contains a line break, say, makes the reply a 500, and the log says why.
///
/// # Example
/// ```
/// use network::http::Reply;
///
/// let reply = Reply::html("<h1>Hello</h1>").header("cache-control", "no-store").cookie("seen", "yes");
/// assert_eq!(reply.status_code(), 200);
/// assert_eq!(Reply::redirect(303, "/login").status_code(), 303);
/// ```
#[must_use = "a reply is sent when the handler returns it"]
pub struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) content: Content,
    /// Why it cannot be sent.
    pub(super) problem: Option<String>,
    pub(super) cookies: Vec<HeaderValue>,
    pub(super) upgrade: Option<(HeaderValue, Upgrade)>,
}

/// The body of a reply.
pub(super) enum Content {
    Empty,
    Bytes(Bytes),
    File(FilePart),
    Stream(Option<u64>, Chunks),
}

/// A stream of the program's.
pub(super) type Chunks = Pin<Box<dyn Stream<Item = Result<Vec<u8>>>>>;

impl Content {
    /// The length in bytes, if it is known.
    pub(super) fn length(&self) -> Option<u64> {
        match self {
            Content::Empty => Some(0),
            Content::Bytes(bytes) => Some(bytes.len() as u64),
            Content::File(part) => Some(part.length()),
            Content::Stream(length, _) => *length,
        }
    }
}

impl Reply {
    pub(super) fn new(status: StatusCode, kind: Option<&'static str>, content: Content) -> Self {
        let mut headers = HeaderMap::new();
        headers.extend(kind.map(|kind| (header::CONTENT_TYPE, HeaderValue::from_static(kind))));
        Reply { status, headers, content, problem: None, cookies: Vec::new(), upgrade: None }
    }

    fn ok(kind: &'static str, body: impl Into<Bytes>) -> Self {
        Reply::new(StatusCode::OK, Some(kind), Content::Bytes(body.into()))
    }

    /// Makes a reply of plain text.
    pub fn text(text: impl Into<String>) -> Reply {
        Reply::ok("text/plain; charset=utf-8", text.into())
    }

    /// Makes a reply of HTML. The text is sent as it is: escape what comes from others.
    pub fn html(text: impl Into<String>) -> Reply {
        Reply::ok("text/html; charset=utf-8", text.into())
    }

    /// Makes a reply of bytes, with the type `application/octet-stream` unless [`header`](Reply::header) sets another.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Reply {
        Reply::ok("application/octet-stream", bytes.into())
    }

    /// Makes a reply of a value as JSON. A value that cannot be serialized makes it a 500.
    #[cfg(feature = "json")]
    pub fn json(value: &(impl serde::Serialize + ?Sized)) -> Reply {
        match serde_json::to_vec(value) {
            Ok(text) => Reply::ok("application/json", text),
            Err(error) => Reply::status(200).with_problem(format!("the JSON of a reply cannot be made: {error}")),
        }
    }

    /// Makes a reply without a body, such as 204 or 404. Below 200 or above 599 it becomes a 500.
    pub fn status(code: u16) -> Reply {
        let reply = Reply::new(StatusCode::OK, None, Content::Empty);
        reply.with_status(code)
    }

    /// Makes a redirect to a URL or a path: 301, 302, 303, 307 or 308. After a form, 303 is the one to use. The browser follows wherever
    /// `url` leads, so it should not come from the request unchecked.
    pub fn redirect(code: u16, url: impl AsRef<str>) -> Reply {
        let reply = Reply::status(code);
        if !(300..400).contains(&code) {
            return reply.with_problem(format!("{code} is no redirect"));
        }
        let url = url.as_ref();
        if url.is_empty() || !url.bytes().all(|byte| (0x21..=0x7e).contains(&byte)) {
            return reply.with_problem(format!("cannot redirect to {url:?}: expected a URL in ASCII without blanks"));
        }
        reply.header(header::LOCATION.as_str(), url)
    }

    /// Makes a reply whose body comes from a stream, in chunks, or with this length in bytes.
    ///
    /// The stream is polled on the server's main context as the client takes what it gives; it waits while the send queue has more than
    /// 1 MiB. If it fails, panics, or ends before or after the length, the connection is cut, so that the client sees that something is
    /// missing. It is dropped when the client goes away.
    pub fn stream(length: Option<u64>, chunks: impl Stream<Item = Result<Vec<u8>>> + 'static) -> Reply {
        let kind = Some("application/octet-stream");
        Reply::new(StatusCode::OK, kind, Content::Stream(length, Box::pin(chunks)))
    }

    /// Makes the reply 101 to a request that asks for another protocol, and passes the connection on when it has been sent.
    ///
    /// Data that the client has sent behind its request is received from the socket first. If the request does not ask for this protocol in
    /// its `Upgrade` field, it is answered with 426 instead, and `then` is dropped.
    pub fn upgrade(protocol: &'static str, then: impl FnOnce(Socket) + 'static) -> Reply {
        let mut reply = Reply::status(200);
        reply.status = StatusCode::SWITCHING_PROTOCOLS;
        reply.upgrade = Some((HeaderValue::from_static(protocol), Box::new(then)));
        reply
    }

    /// Changes the status. Below 200 or above 599 the reply becomes a 500.
    pub fn with_status(mut self, code: u16) -> Reply {
        match StatusCode::from_u16(code) {
            Ok(status) if (200..600).contains(&code) => {
                self.status = status;
                self
            }
            _ => self.with_problem(format!("{code} is no status of a reply")),
        }
    }

    /// Returns the status.
    pub fn status_code(&self) -> u16 {
        self.status.as_u16()
    }

    /// Sets a header field, in place of all with that name.
    pub fn header(mut self, name: &str, value: impl AsRef<str>) -> Reply {
        let value = value.as_ref();
        match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            (Ok(name), _) if is_ours(&name) => {
                self.with_problem(format!("the header field {name} is set by the server itself"))
            }
            (Ok(name), Ok(value)) => {
                self.headers.insert(name, value);
                self
            }
            _ => self.with_problem(format!("the header field {name:?}: {value:?} cannot be sent")),
        }
    }

    /// Sets a cookie for the browser's session, which only this server gets, for all of its paths: `Path=/; HttpOnly; SameSite=Lax`, and
    /// `Secure` if the request came over TLS. For other attributes, set the field `set-cookie`.
    pub fn cookie(mut self, name: &str, value: &str) -> Reply {
        let is_value = |byte: u8| matches!(byte, 0x21..=0x7e) && !b"\",;\\".contains(&byte);
        let is_cookie = !name.is_empty() && name.bytes().all(super::gate::is_token) && value.bytes().all(is_value);
        match HeaderValue::from_str(&format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax")) {
            Ok(field) if is_cookie => {
                self.cookies.push(field);
                self
            }
            _ => self.with_problem(format!("the cookie {name:?} has a name or value that cookies cannot have")),
        }
    }

    pub(super) fn with_problem(mut self, problem: String) -> Reply {
        self.problem.get_or_insert(problem);
        self
    }

    /// Returns whether the status allows a body.
    pub(super) fn may_have_body(&self, method: &Method) -> bool {
        let is_bare =
            [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&self.status) || self.status.as_u16() < 200;
        !is_bare && method != Method::HEAD
    }
}

/// Returns whether a header field frames the message, which is not the handler's business.
fn is_ours(name: &HeaderName) -> bool {
    [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION, header::UPGRADE].contains(name)
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("status", &self.status).field("headers", &self.headers).finish_non_exhaustive()
    }
}
