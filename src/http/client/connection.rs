//! One connection of the client: hyper's side of it runs as a task of the engine.

use std::cell::{Cell, RefCell};
use std::error::Error as _;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use ::http::HeaderValue;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};

use super::body::Outgoing;
use super::io::Io;
use super::traffic::{HeadLimits, Traffic};
use crate::conn::{Socket, WeakSocket};
use crate::engine::{Engine, Key, READ_BUFFER, READS, UserFuture};
use crate::error::{Error, Result, count};

/// The largest read buffer of hyper's, which grows as much comes and shrinks again. As much as one turn reads of a connection.
const BUFFER: usize = READS * READ_BUFFER;

/// A connection to a server. Dropping it closes it.
pub(super) struct Connection {
    engine: Rc<Engine>,
    task: Key,
    socket: WeakSocket,
    sender: RefCell<SendRequest<Outgoing>>,
    pub(super) traffic: Rc<Traffic>,
    after: Rc<After>,
    /// The field `Host` of its requests.
    pub(super) host: HeaderValue,
    /// It has carried a request before.
    pub(super) is_reused: Cell<bool>,
}

/// The fate of a connection once hyper is done with it.
#[derive(Default)]
struct After {
    is_over: Cell<bool>,
    /// The socket, if an upgrade has ended HTTP.
    socket: RefCell<Option<Socket>>,
    waker: RefCell<Option<Waker>>,
}

/// A request that has failed.
pub(super) struct Failed {
    pub(super) error: Error,
    /// The request, if nothing of it was sent.
    pub(super) unsent: Option<Request<Outgoing>>,
}

impl Connection {
    /// Speaks HTTP on a connected socket.
    pub(super) async fn start(
        engine: &Rc<Engine>,
        socket: Socket,
        host: HeaderValue,
        peer: String,
        limits: HeadLimits,
    ) -> Result<Self> {
        let traffic = Traffic::new(peer, limits);
        let weak = socket.downgrade();
        // Whoever waits for a response is told how the connection has ended. Without anybody that is no news.
        socket.disconnect_cb(|_, _| {});
        let io = Io { socket, watch: traffic.clone() };
        let shaken = http1::Builder::new()
            .max_headers(limits.fields)
            // hyper's own limits, for what passes the scan: that counts what is before the head as well.
            .max_header_size(limits.size)
            .max_buf_size(limits.size.max(BUFFER))
            .handshake::<_, Outgoing>(io)
            .await;
        let (sender, mut connection) = shaken.map_err(|error| convert(&traffic, &error))?;
        let after = Rc::<After>::default();
        let end = after.clone();
        let watch = traffic.clone();
        let task = async move {
            let ended = poll_fn(|context| connection.poll_without_shutdown(context)).await;
            let parts = connection.into_parts();
            end.is_over.set(true);
            if ended.is_err() {
                drop(parts.io.socket.abort());
            } else if watch.is_upgraded() {
                // What came after the head is the beginning of the other protocol.
                parts.io.socket.unset_disconnect_cb();
                parts.io.socket.conn().give_back_input(&parts.read_buf);
                end.socket.replace(Some(parts.io.socket.clone()));
            }
            drop(parts);
            let waker = end.waker.take();
            waker.into_iter().for_each(Waker::wake);
        };
        let task = engine.spawn(Rc::new(UserFuture::new(task)));
        Ok(Connection {
            engine: engine.clone(),
            task,
            socket: weak,
            sender: RefCell::new(sender),
            traffic,
            after,
            host,
            is_reused: Cell::new(false),
        })
    }

    /// Returns whether a request can be sent at once.
    pub(super) fn is_ready(&self) -> bool {
        !self.after.is_over.get() && self.sender.borrow().is_ready()
    }

    /// Ready once the connection can take another request, or never will.
    pub(super) fn poll_ready(&self, context: &mut Context<'_>) -> Poll<bool> {
        let polled = self.sender.borrow_mut().poll_ready(context);
        polled.map(|ready| ready.is_ok() && !self.after.is_over.get())
    }

    pub(super) fn socket(&self) -> Option<Socket> {
        self.socket.upgrade()
    }

    pub(super) fn weak_socket(&self) -> WeakSocket {
        self.socket.clone()
    }

    /// Sends a request. The future waits for the head of the response.
    pub(super) fn send(&self, request: Request<Outgoing>) -> impl Future<Output = Result<Response<Incoming>, Failed>> {
        let sending = self.sender.borrow_mut().try_send_request(request);
        async {
            sending.await.map_err(|mut failed| {
                let unsent = failed.take_message();
                Failed { error: self.error(failed.error()), unsent }
            })
        }
    }

    /// Converts an error of hyper's, which seldom says what is the matter.
    pub(super) fn error(&self, error: &hyper::Error) -> Error {
        convert(&self.traffic, error)
    }

    /// Takes the socket after a response that ends HTTP on this connection.
    pub(super) async fn upgraded(&self) -> Result<Socket> {
        poll_fn(|context| {
            if let Some(socket) = self.after.socket.take() {
                return Poll::Ready(Ok(socket));
            }
            if self.after.is_over.get() {
                let closed = || Error::Closed { peer: self.traffic.peer().into() };
                return Poll::Ready(Err(self.traffic.take_fault().unwrap_or_else(closed)));
            }
            let old = self.after.waker.replace(Some(context.waker().clone()));
            drop(old);
            Poll::Pending
        })
        .await
    }

    /// Closes the connection at once: the rest of what is on it is not wanted.
    pub(super) fn abort(&self) {
        if let Some(socket) = self.socket.upgrade() {
            drop(socket.abort());
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.engine.drop_task(self.task);
    }
}

fn convert(traffic: &Traffic, error: &hyper::Error) -> Error {
    if let Some(fault) = traffic.take_fault() {
        return fault;
    }
    let peer = traffic.peer().to_owned();
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() || is_cut(error) {
        return Error::Closed { peer };
    }
    if error.is_parse_too_large() {
        let problem = format!("the head has more than {} (max_headers)", count(traffic.max_fields(), "field"));
        return Error::Http { peer, problem };
    }
    let mut problem = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        problem = format!("{problem}: {cause}");
        source = cause.source();
    }
    Error::Http { peer, problem }
}

/// Returns whether a body was cut off.
fn is_cut(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::UnexpectedEof)
}
