//! From a request to the head of its response: connecting, sending, redirects, credentials, a second try.

use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use ::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::{Request, Uri};

use super::auth::{self, Auth};
use super::body::{Content, Outgoing};
use super::connect::{connect, naming};
use super::connection::{Connection, Failed};
use super::handle::{Inner, Settings};
use super::log::LogEntry;
use super::pool::{Lease, Pool};
use super::redirect::{self, is_redirect};
use super::request::{Payload, Report, RequestBuilder};
use super::response::{Origin, Response};
use super::stream::Stream;
use super::traffic::OnSent;
use super::url::{self, Url};
use crate::conn::{Socket, WeakSocket};
use crate::engine::{Sleep, before};
use crate::error::{Error, Operation, Result};

/// Bodies of this size wait for "100 Continue".
const EXPECTING: u64 = 1 << 20;

/// The end of a whole exchange.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    pub(super) until: Option<Instant>,
    pub(super) limit: Duration,
}

impl Deadline {
    fn new(limit: Option<Duration>) -> Self {
        let until = limit.and_then(|limit| Instant::now().checked_add(limit));
        Deadline { until, limit: limit.unwrap_or(Duration::MAX) }
    }

    pub(super) fn left(&self) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(Instant::now()))
    }

    pub(super) fn passed(&self, url: &Url) -> Error {
        Error::TimedOut { operation: Operation::Request, address: url.to_string(), limit: self.limit }
    }

    async fn keep<T>(&self, url: &Url, future: impl Future<Output = Result<T>>) -> Result<T> {
        match self.left() {
            None => future.await,
            Some(left) => before(Sleep::limit(left), future).await.unwrap_or_else(|| Err(self.passed(url))),
        }
    }
}

/// A request on its way.
pub(super) struct Exchanging {
    client: Rc<Inner>,
    pool: Rc<Pool>,
    blocks: bool,
    method: Method,
    /// All so far. The last one is the next.
    chain: Vec<Rc<Url>>,
    /// Of this request alone.
    headers: HeaderMap,
    /// The client's fields go along.
    has_own_secrets: bool,
    payload: Payload,
    version: Version,
    deadline: Deadline,
    redirects: usize,
    report: Option<Rc<Report>>,
    has_answered_challenge: bool,
}

/// The head of a response, and the connection that it has come on.
struct Answer {
    response: hyper::Response<Incoming>,
    lease: Lease,
    has_credentials: bool,
}

impl Exchanging {
    pub(super) fn new(request: RequestBuilder, blocks: bool) -> Result<Self> {
        let pool = request.client.pool()?;
        Ok(Exchanging {
            pool,
            blocks,
            method: request.method,
            chain: vec![Rc::new(request.url?)],
            headers: request.headers,
            has_own_secrets: true,
            payload: request.payload,
            version: request.version,
            deadline: Deadline::new(request.timeout),
            redirects: request.redirects,
            report: request.report,
            has_answered_challenge: false,
            client: request.client,
        })
    }

    fn settings(&self) -> &Settings {
        &self.client.settings
    }

    fn url(&self) -> &Rc<Url> {
        // There is always one.
        &self.chain[self.chain.len() - 1]
    }

    pub(super) async fn run(&mut self) -> Result<Response> {
        let mut answer = loop {
            let started = Instant::now();
            let deadline = self.deadline;
            let url = self.url().clone();
            let answered = deadline.keep(&url, pin!(self.ask())).await;
            self.log(started, &answered);
            let answer = answered?;
            if let Some(cookies) = &self.settings().cookies {
                let now = SystemTime::now();
                let set = answer.response.headers().get_all(header::SET_COOKIE);
                for cookie in set.iter().filter_map(|value| std::str::from_utf8(value.as_bytes()).ok()) {
                    cookies.store(&url, cookie, now);
                }
            }
            if self.is_challenged(&answer) {
                self.has_answered_challenge = true;
                // Boxed, as all that few requests need: the future of a request is moved about.
                Box::pin(self.pass_over(answer)).await;
                continue;
            }
            match self.redirected(&answer)? {
                true => Box::pin(self.pass_over(answer)).await,
                false => break answer,
            }
        };
        let socket = answer.lease.connection().map(Connection::weak_socket);
        let upgraded = match answer.lease.connection() {
            Some(connection) if connection.traffic.is_upgraded() => Some(Box::pin(self.upgraded(connection)).await?),
            _ => None,
        };
        if upgraded.is_some() {
            answer.lease.forget();
        }
        let response = self.response(answer, socket, upgraded)?;
        if response.status().as_u16() >= 400 {
            Box::pin(response.receive_excerpt()).await;
        }
        Ok(response)
    }

    fn log(&self, started: Instant, answered: &Result<Answer>) {
        if let Some(log) = &self.settings().log {
            let is_reused = answered
                .as_ref()
                .is_ok_and(|answer| answer.lease.connection().is_some_and(|connection| connection.is_reused.get()));
            log(&LogEntry {
                method: &self.method,
                url: LogEntry::url(self.url()),
                result: answered.as_ref().map(|answer| answer.response.status()),
                time: started.elapsed(),
                is_reused,
            });
        }
    }

    /// Sends the request, a second time if a kept connection was not good any more.
    async fn ask(&mut self) -> Result<Answer> {
        let is_idempotent = [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE]
            .contains(&self.method);
        let mut unsent = None;
        let mut is_fresh = false;
        loop {
            let origin = self.url().origin.clone();
            if self.blocks || !is_idempotent {
                // A turn of the loop tells which kept connections the server has closed meanwhile. Of the private one this is
                // the first since the last request, and what is not idempotent had better not meet such a connection.
                Sleep::new(Duration::ZERO).await;
            }
            let mut lease = self.pool.lease(&origin, is_fresh).await;
            if lease.connection().is_none() {
                // Boxed, since most requests find a connection: this future would be most of theirs.
                let connection = Box::pin(self.connect(&origin)).await?;
                lease.set_connection(connection);
            }
            let Some(connection) = lease.connection() else { return Err(Error::other("no connection")) };
            connection.traffic.begin(self.method == Method::CONNECT);
            let (request, expects, to_send) = self.request(unsent.take(), connection)?;
            let has_credentials = request.headers().contains_key(header::AUTHORIZATION);
            connection.traffic.watch_body(expects, self.on_sent(to_send));
            match self.await_head(connection, connection.send(request)).await {
                Ok(response) => return Ok(Answer { response, lease, has_credentials }),
                Err(failed) => {
                    let may_repeat = failed.unsent.is_some() || is_idempotent && !self.payload.is_gone();
                    let is_cut = matches!(failed.error, Error::Closed { .. } | Error::Reset { .. });
                    let is_stale = connection.is_reused.get() && !connection.traffic.is_answered() && is_cut;
                    if is_fresh || !is_stale || !may_repeat {
                        return Err(failed.error);
                    }
                    is_fresh = true;
                    unsent = failed.unsent;
                }
            }
        }
    }

    async fn connect(&self, origin: &url::Origin) -> Result<Connection> {
        let host = HeaderValue::from_str(&origin.authority())
            .map_err(|error| Error::Address { address: origin.to_string(), problem: error.to_string() })?;
        let connected = connect(self.settings(), origin, self.blocks).await;
        let socket = connected.map_err(|error| naming(error, origin, self.url()))?;
        Connection::start(self.pool.engine(), socket, host, origin.to_string(), self.settings().head).await
    }

    fn on_sent(&self, to_send: Option<u64>) -> Option<OnSent> {
        let report = self.report.clone()?;
        if self.payload.is_none() {
            return None;
        }
        Some(Rc::new(move |sent| {
            report.change(|progress| {
                progress.sent = sent;
                progress.to_send = to_send;
            });
        }))
    }

    /// Makes the request, or takes the one that was not sent.
    fn request(
        &mut self,
        unsent: Option<Request<Outgoing>>,
        connection: &Connection,
    ) -> Result<(Request<Outgoing>, bool, Option<u64>)> {
        let (content, length) = match unsent {
            Some(request) => {
                let (_, body) = request.into_parts();
                body.into_content()
            }
            None => self.payload.open()?,
        };
        let is_unknown = length.is_none() && matches!(content, Content::Stream(_));
        if is_unknown && self.version == Version::HTTP_10 {
            return Err(Error::InvalidOption("HTTP/1.0 needs to know the length of a body".into()));
        }
        let expects = self.version == Version::HTTP_11 && length.unwrap_or(u64::MAX) >= EXPECTING;
        let mut headers = self.fields(connection);
        if expects {
            headers.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
        }
        let has_length = [Method::POST, Method::PUT, Method::PATCH].contains(&self.method);
        if self.payload.is_none() && has_length {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        let body = Outgoing::new(content, length, Some(connection.traffic.clone()));
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.version_mut() = self.version;
        *request.headers_mut() = headers;
        let url = self.url();
        let target = if self.method == Method::CONNECT {
            format!("{}:{}", url.origin.host_name(), url.origin.port)
        } else {
            url.target.clone()
        };
        *request.uri_mut() = Uri::try_from(target)
            .map_err(|error| Error::Address { address: url.to_string(), problem: error.to_string() })?;
        Ok((request, expects, length))
    }

    /// Returns the header fields of the next request.
    fn fields(&self, connection: &Connection) -> HeaderMap {
        let settings = self.settings();
        let url = self.url();
        let mut headers = HeaderMap::with_capacity(settings.headers.len() + self.headers.len() + 4);
        headers.insert(header::HOST, connection.host.clone());
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        for (name, value) in &settings.headers {
            if self.has_own_secrets || !settings.secrets.contains(name) {
                headers.insert(name, value.clone());
            }
        }
        for name in self.headers.keys() {
            headers.remove(name);
        }
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        if settings.decompress && !headers.contains_key(header::RANGE) {
            headers.entry(header::ACCEPT_ENCODING).or_insert(HeaderValue::from_static("gzip, deflate"));
        }
        if !headers.contains_key(header::AUTHORIZATION)
            && let Some(value) = self.credentials()
        {
            headers.insert(header::AUTHORIZATION, value);
        }
        if let Some(cookies) = &settings.cookies
            && !headers.contains_key(header::COOKIE)
            && let Some(value) = cookies.header(url, SystemTime::now())
            && let Ok(mut value) = HeaderValue::from_str(&value)
        {
            value.set_sensitive(true);
            headers.insert(header::COOKIE, value);
        }
        headers
    }

    /// Returns the value of `Authorization`: that of the URL, or the client's where it may go.
    fn credentials(&self) -> Option<HeaderValue> {
        let url = self.url();
        match &url.user {
            Some((user, password)) => Some(auth::basic(user, password)),
            None => self.auth()?.value(self.method.as_str(), url),
        }
    }

    fn auth(&self) -> Option<&Auth> {
        let settings = self.settings();
        let is_for_here = match &settings.base {
            Some(base) => base.origin == self.url().origin,
            None => self.has_own_secrets,
        };
        settings.auth.as_ref().filter(|_| is_for_here)
    }

    /// Waits for the head of the response to what is being sent, as long as something moves.
    async fn await_head(
        &self,
        connection: &Connection,
        sending: impl Future<Output = Result<hyper::Response<Incoming>, Failed>>,
    ) -> Result<hyper::Response<Incoming>, Failed> {
        let mut sending = pin!(sending);
        let Some(limit) = self.settings().idle_timeout.filter(|limit| *limit < Duration::MAX) else {
            return sending.await;
        };
        let traffic = &connection.traffic;
        let queued = || connection.socket().map_or(0, |socket| socket.queued());
        let mut wait = limit;
        loop {
            let earlier = queued();
            if let Some(sent) = before(Sleep::start(self.pool.engine(), wait), sending.as_mut()).await {
                return sent;
            }
            // What was queued goes out without another call. Or it may be the program that does not go on with the body.
            let is_ours = !traffic.is_sent() && queued() == 0;
            let still = if queued() != earlier || is_ours { Duration::ZERO } else { traffic.moved().elapsed() };
            wait = limit.saturating_sub(still);
            if wait.is_zero() {
                let address = self.url().to_string();
                return Err(Failed {
                    error: Error::TimedOut { operation: Operation::Traffic, address, limit },
                    unsent: None,
                });
            }
        }
    }

    /// Returns whether the request is to be made again with an answer to a challenge.
    fn is_challenged(&self, answer: &Answer) -> bool {
        let has_answered = answer.has_credentials && self.has_answered_challenge;
        answer.response.status() == StatusCode::UNAUTHORIZED
            && !self.payload.is_gone()
            && !self.headers.contains_key(header::AUTHORIZATION)
            && self.url().user.is_none()
            && self.auth().is_some_and(|auth| auth.challenged(answer.response.headers(), self.url(), has_answered))
    }

    /// Takes the next step of a redirect, if there is one.
    fn redirected(&mut self, answer: &Answer) -> Result<bool> {
        let status = answer.response.status();
        let location = answer.response.headers().get(header::LOCATION);
        let (Some(location), true) = (location, is_redirect(status) && self.redirects > 0) else { return Ok(false) };
        let refused = |problem| Error::Http { peer: self.url().to_string(), problem };
        let location = String::from_utf8_lossy(location.as_bytes());
        let step = redirect::step(status, &location, &self.method, &self.chain, self.redirects).map_err(refused)?;
        let keeps_body = !step.drops_body && !self.payload.is_none();
        if keeps_body && step.is_elsewhere && !self.settings().follow_with_body {
            return Err(refused(format!(
                "redirected with the body of the request to another origin, {}; follow_with_body(true) permits that",
                step.url.origin
            )));
        }
        if keeps_body && self.payload.is_gone() {
            return Err(refused(format!(
                "redirected to {}, and the body is a stream, which cannot be sent again",
                step.url
            )));
        }
        if step.drops_body {
            self.payload = Payload::None;
            for name in
                [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE, header::CONTENT_LOCATION]
            {
                self.headers.remove(name);
            }
        }
        if step.is_elsewhere {
            for name in &self.client.settings.secrets {
                self.headers.remove(name);
            }
            self.headers.remove(header::HOST);
            self.has_own_secrets = false;
        }
        self.method = step.method;
        self.chain.push(Rc::new(step.url));
        Ok(true)
    }

    /// Reads away the body of a response that is not for the program, if that is short, so that the connection can be used
    /// again.
    async fn pass_over(&self, answer: Answer) {
        let stream =
            Stream::new(answer.response.into_body(), answer.lease, &self.client.settings, self.url(), self.deadline);
        stream.pass_over().await;
    }

    /// Returns the socket of a connection that is not one of HTTP any more.
    async fn upgraded(&self, connection: &Connection) -> Result<Socket> {
        if self.method != Method::CONNECT && !self.headers.contains_key(header::UPGRADE) {
            let problem = "it changes the protocol (101), which was not asked for".into();
            return Err(Error::Http { peer: self.url().to_string(), problem });
        }
        self.deadline.keep(self.url(), connection.upgraded()).await
    }

    fn response(&self, answer: Answer, socket: Option<WeakSocket>, upgraded: Option<Socket>) -> Result<Response> {
        let (parts, body) = answer.response.into_parts();
        if let (Some(report), Some(length)) = (&self.report, hyper::body::Body::size_hint(&body).exact()) {
            report.change(|progress| progress.to_receive = Some(length));
        }
        let stream = match &upgraded {
            Some(_) => None,
            None => Some(Stream::new(body, answer.lease, &self.client.settings, self.url(), self.deadline)),
        };
        let origin = Origin {
            client: &self.client,
            url: self.url(),
            engine: self.pool.engine().clone(),
            blocks: self.blocks,
            socket,
            upgraded,
            report: self.report.clone(),
        };
        Response::new(parts, stream, origin)
    }
}
