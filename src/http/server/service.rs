//! One request after the other: checks, the handler, and its reply as hyper sends it.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::header::{self, HeaderValue};
use http::{Method, StatusCode};
use hyper::body::{Body, Incoming};

use super::access::Access;
use super::checks::{check_host, check_origin, phrase};
use super::discard::Discard;
use super::gate::Refusal;
use super::outgoing::Outgoing;
use super::reply::{Content, Reply};
use super::request::Request;
use super::routes::{Answer, Found};
use super::visit::Visit;
use crate::engine::{UserFuture, call};
use crate::error::{Error, Result};
use crate::log::Printable;

/// Serves the requests of one connection.
pub(super) struct Service(pub(super) Rc<Visit>);

type Response = http::Response<Outgoing>;

impl hyper::service::Service<http::Request<Incoming>> for Service {
    type Response = Response;
    type Error = Error;
    type Future = Serving;

    fn call(&self, request: http::Request<Incoming>) -> Serving {
        let visit = &self.0;
        visit.body_status.set(None);
        visit.requests.set(visit.requests.get() + 1);
        let exchange = Exchanging::new(visit.clone(), &request);
        if let Some(refusal) = visit.refusal.take() {
            return Serving::Now(Some(exchange.refuse(refusal)));
        }
        match exchange.check(request) {
            Err(refused) => Serving::Now(Some(exchange.finish(*refused))),
            Ok(request) if visit.is_held() => Serving::Held(Some(Box::new((exchange, request)))),
            Ok(request) => exchange.serve(request),
        }
    }
}

/// A request that is being served.
#[allow(clippy::large_enum_variant, reason = "hyper keeps one for each connection, in a box of its own")]
pub(super) enum Serving {
    Now(Option<Response>),
    /// Its handler is not to be called yet.
    Held(Option<Box<(Exchanging, Request)>>),
    Later(UserFuture<Pin<Box<dyn Future<Output = Result<Reply>>>>>, Option<Exchanging>),
}

impl Future for Serving {
    type Output = Result<Response>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Response>> {
        let gone = || Error::other("a request was polled after its end");
        let me = self.get_mut();
        if let Serving::Held(held) = me {
            // Whoever holds it wakes the task afterwards.
            if held.as_ref().is_some_and(|held| held.0.visit.is_held()) {
                return Poll::Pending;
            }
            let Some(held) = held.take() else { return Poll::Ready(Err(gone())) };
            let (exchange, request) = *held;
            *me = exchange.serve(request);
        }
        match me {
            Serving::Held(_) => Poll::Pending,
            Serving::Now(response) => Poll::Ready(response.take().ok_or_else(gone)),
            Serving::Later(future, exchange) => {
                let Some(engine) = exchange.as_ref().map(|exchange| exchange.visit.engine.clone()) else {
                    return Poll::Ready(Err(gone()));
                };
                let result = ready!(future.poll(&engine, context));
                let response = exchange.take().map(|exchange| exchange.end(result));
                Poll::Ready(response.ok_or_else(gone))
            }
        }
    }
}

/// The facts of a request that are kept while its handler has it.
pub(super) struct Exchanging {
    visit: Rc<Visit>,
    method: Method,
    /// For the logs.
    target: String,
    version: http::Version,
    started: Option<Instant>,
    /// The protocols that it asks for in place of HTTP.
    upgrade: Option<HeaderValue>,
    /// The body is too long to be read away.
    is_long: bool,
}

impl Exchanging {
    fn new(visit: Rc<Visit>, request: &http::Request<Incoming>) -> Self {
        let logs = visit.core.logs_access();
        Exchanging {
            method: request.method().clone(),
            target: request.uri().path_and_query().map(|target| target.as_str().to_owned()).unwrap_or_default(),
            version: request.version(),
            started: logs.then(Instant::now),
            upgrade: request.headers().get(header::UPGRADE).filter(|_| asks_for_upgrade(request)).cloned(),
            is_long: request.body().size_hint().lower() > super::settings::DISCARD,
            visit,
        }
    }

    /// The reply to a request that hyper has not seen.
    fn refuse(mut self, refusal: Refusal) -> Response {
        self.target.clear();
        let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_REQUEST);
        let mut reply = Reply::text(format!("{}{}\n", phrase(status), refusal.reason)).with_status(refusal.status);
        if status == StatusCode::METHOD_NOT_ALLOWED {
            reply = reply.header("allow", self.visit.core.routes.methods());
        }
        self.finish(closing(reply))
    }

    /// Returns the request if it may be served, and the reply if not.
    fn check(&self, request: http::Request<Incoming>) -> Result<Request, Box<Reply>> {
        let refuse = |status: u16, reason: &str| {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
            let reply = Reply::text(format!("{}{reason}\n", phrase(status))).with_status(status.as_u16());
            Err(Box::new(closing(reply)))
        };
        let visit = &self.visit;
        let settings = &visit.core.settings;
        if visit.core.is_refusing() {
            return refuse(503, "the server is stopping");
        }
        let is_whole_server = request.uri().path() == "*";
        let request = match Request::new(request, visit) {
            Ok(request) => request,
            Err(reason) => return refuse(400, reason),
        };
        let host = request.host();
        if !visit.remote.is_unix() && !check_host(host, visit.is_loopback, settings) {
            let host = host.unwrap_or_default();
            let error = Error::Http {
                peer: visit.remote.to_string(),
                problem: format!(
                    "asked for the host {:?}; a server on loopback behind a proxy has to name its hosts by hosts()",
                    host
                ),
            };
            visit.core.failed(&visit.engine, &"refused a request", &error);
            return refuse(421, "this server does not serve that host");
        }
        if !check_origin(request.method(), request.headers(), host.unwrap_or_default(), settings) {
            return refuse(403, "this request comes from another site");
        }
        if is_whole_server {
            return Err(Box::new(Reply::status(204).header("allow", visit.core.routes.methods())));
        }
        Ok(request)
    }

    fn serve(self, request: Request) -> Serving {
        let handler = match self.visit.core.routes.find(request.method(), request.path()) {
            Found::Handler(handler) => handler,
            Found::Nothing => {
                drop(request);
                return Serving::Now(Some(self.finish(plain(StatusCode::NOT_FOUND))));
            }
            Found::Methods(methods) => {
                let is_asked = request.method() == Method::OPTIONS;
                drop(request);
                let reply = if is_asked { Reply::status(204) } else { plain(StatusCode::METHOD_NOT_ALLOWED) };
                return Serving::Now(Some(self.finish(reply.header("allow", methods))));
            }
        };
        match call(&self.visit.engine, || handler.call(request)) {
            None => Serving::Now(Some(self.end(None))),
            Some(Answer::Now(result)) => Serving::Now(Some(self.end(Some(result)))),
            Some(Answer::Later(future)) => Serving::Later(UserFuture::new(future), Some(self)),
        }
    }

    /// The handler has returned, or panicked.
    fn end(self, result: Option<Result<Reply>>) -> Response {
        let reply = match result {
            Some(Ok(reply)) => match &reply.problem {
                None => reply,
                Some(problem) => {
                    self.log(&Error::other(problem.as_str()));
                    plain(StatusCode::INTERNAL_SERVER_ERROR)
                }
            },
            Some(Err(error)) => match self.visit.body_status.take() {
                // The body is to blame, not the handler.
                Some(status) => closing(plain(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST))),
                None => {
                    self.log(&error);
                    plain(StatusCode::INTERNAL_SERVER_ERROR)
                }
            },
            None => plain(StatusCode::INTERNAL_SERVER_ERROR),
        };
        self.finish(reply)
    }

    fn log(&self, error: &Error) {
        let request = format!("{} {} of {}", self.method, Printable(&self.target), self.visit.remote);
        self.visit.core.failed(&self.visit.engine, &request, error);
    }

    fn finish(self, mut reply: Reply) -> Response {
        if let Some((protocol, upgrade)) = reply.upgrade.take() {
            reply = self.switch(reply, protocol, upgrade);
        }
        let Exchanging { visit, method, target, version, started, is_long, .. } = self;
        let is_last = visit.core.is_stopping() || visit.requests.get() >= visit.core.settings.requests_per_connection;
        if (is_last || is_long) && reply.status != StatusCode::SWITCHING_PROTOCOLS {
            reply = closing(reply);
        }
        let length = reply.content.length();
        if !reply.may_have_body(&method) {
            reply.content = Content::Empty;
            let is_told = reply.status == StatusCode::NOT_MODIFIED || method == Method::HEAD;
            if let (Some(length), true) = (length.filter(|length| *length > 0), is_told) {
                reply.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
            }
        }
        for mut cookie in reply.cookies {
            if visit.is_tls
                && let Ok(secure) = HeaderValue::from_bytes(&[cookie.as_bytes(), b"; Secure"].concat())
            {
                cookie = secure;
            }
            reply.headers.append(header::SET_COOKIE, cookie);
        }
        let access = started.map(|started| Access {
            remote: visit.remote.clone(),
            method,
            target,
            version,
            status: reply.status,
            sent: 0,
            complete: false,
            duration: Duration::ZERO,
            started,
        });
        let mut response = http::Response::new(Outgoing::new(reply.content, visit, access));
        *response.status_mut() = reply.status;
        *response.headers_mut() = reply.headers;
        response
    }

    /// Switches protocols, if the request asks for that.
    fn switch(&self, mut reply: Reply, protocol: HeaderValue, upgrade: super::visit::Upgrade) -> Reply {
        let is_protocol = |asked: &[u8]| asked.trim_ascii().eq_ignore_ascii_case(protocol.as_bytes());
        let is_asked =
            self.upgrade.as_ref().is_some_and(|asked| asked.as_bytes().split(|byte| *byte == b',').any(is_protocol));
        reply.headers.insert(header::UPGRADE, protocol);
        reply.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        if is_asked {
            self.visit.upgrade.replace(Some(upgrade));
        } else {
            reply.status = StatusCode::UPGRADE_REQUIRED;
        }
        reply
    }
}

/// Returns whether the `Upgrade` field of a request counts (RFC 9110, section 7.8).
fn asks_for_upgrade(request: &http::Request<Incoming>) -> bool {
    let mut fields = request.headers().get_all(header::CONNECTION).iter().map(HeaderValue::as_bytes);
    let is_upgrade = |option: &[u8]| option.trim_ascii().eq_ignore_ascii_case(b"upgrade");
    request.version() == http::Version::HTTP_11 && fields.any(|field| field.split(|byte| *byte == b',').any(is_upgrade))
}

/// A reply that says no more than its status.
fn plain(status: StatusCode) -> Reply {
    Reply::text(phrase(status)).with_status(status.as_u16())
}

/// The last reply of its connection.
fn closing(mut reply: Reply) -> Reply {
    reply.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    reply
}

impl Visit {
    /// Takes over a body that its handler has not read to the end.
    pub(super) fn discard_body(&self, body: Incoming) {
        let discard = Discard::start(body);
        self.is_overlong.set(discard.is_none());
        self.discard.replace(discard);
        self.wake();
    }
}
