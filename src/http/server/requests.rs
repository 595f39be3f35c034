//! [`Requests`]: a server whose requests are taken one by one, by scripts and in tasks.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_channel::oneshot;

use super::address::Place;
use super::connection::on_client;
use super::core::Core;
use super::reply::Reply;
use super::request::Request;
use super::routes::Async;
use super::visit::Visit;
use super::{Server, ServerBuilder};
use crate::address::Address;
use crate::engine::{Wakers, block_on_context, private_context};
use crate::error::{Error, Operation, Result};
use crate::server::{Prepared, handle::Server as Listener};

impl Server {
    /// Listens on an address. Requests are taken one by one from what is returned.
    ///
    /// # Errors
    /// See [`Server::new`].
    ///
    /// # Example: Wait for a browser to come back from a login, as in RFC 8252
    /// ```
    /// use network::http::{Reply, Server};
    ///
    /// # fn open_browser(url: String) {
    /// #     let port = url.rsplit_once(':').unwrap().1.trim_end_matches('/').parse::<u16>().unwrap();
    /// #     std::thread::spawn(move || {
    /// #         let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    /// #         let head = "GET /?code=42 HTTP/1.0\r\n\r\n";
    /// #         std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
    /// #         std::io::Read::read_to_end(&mut stream, &mut Vec::new()).unwrap();
    /// #     });
    /// # }
    /// let requests = Server::bind("http://127.0.0.1:0/")?;
    /// open_browser(requests.url());
    /// let code = loop {
    ///     let exchange = requests.next()?;
    ///     match exchange.request.query("code") {
    ///         Some(code) => {
    ///             exchange.reply(Reply::text("You may close this page."));
    ///             break code;
    ///         }
    ///         None => exchange.reply(Reply::status(404)),
    ///     }
    /// };
    /// assert_eq!(code, "42");
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn bind<A>(address: A) -> Result<Requests>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        Server::builder().bind(address)
    }
}

impl ServerBuilder {
    /// Listens on an address. Requests that no handler serves are taken one by one. See [`Server::bind`].
    ///
    /// # Errors
    /// See [`Server::new`].
    pub fn bind<A>(mut self, address: A) -> Result<Requests>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        let place = Place::parse(address)?;
        let queue = Rc::<Queue>::default();
        let into = queue.clone();
        self.routes = self.routes.add(None, "*", Rc::new(Async(move |request| into.clone().add(request))));
        let listener = self.configure(&place)?.prepare(place.address.clone())?;
        let url = place.url(listener.port());
        let state = RefCell::new(State::Listens(Box::new((self, listener))));
        Ok(Requests { url, queue, state })
    }
}

/// A request and the way to answer it, from [`Requests`]. Dropped without an answer, it is answered with 503: at once, which neither
/// blocks nor calls anything of the program.
#[non_exhaustive]
pub struct Exchange {
    /// The request.
    pub request: Request,
    // Dropped after it: the rest of its body is to be passed over.
    answer: Answer,
}

/// The way to answer a request.
struct Answer {
    /// `None` once it is answered.
    sender: Option<oneshot::Sender<Reply>>,
    visit: Rc<Visit>,
    /// The request was taken by the blocking call.
    private: Option<glib::MainContext>,
}

impl Answer {
    /// Returns whether the client has gone away.
    fn is_futile(&self) -> bool {
        self.sender.as_ref().is_none_or(oneshot::Sender::is_canceled)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let is_futile = self.is_futile();
        let Some(sender) = self.sender.take() else { return };
        drop(sender);
        // The main loop hears of it by itself. Where nothing goes on between blocking calls, the client would wait for the next one.
        if let (Some(context), false) = (&self.private, is_futile) {
            self.visit.go_on_apart(context);
        }
    }
}

impl Exchange {
    /// Sends the reply.
    ///
    /// # Blocking
    /// For an exchange from [`Requests::next`], until the kernel has the reply or the client has gone away, for at most the
    /// [write timeout](ServerBuilder::write_timeout). One from [`Requests::next_future`] does not block: the reply is sent by the loop.
    pub fn reply(self, reply: Reply) {
        let Exchange { request, mut answer } = self;
        drop(request);
        let visit = answer.visit.clone();
        // If the client has gone away, nobody is there for it.
        if answer.sender.take().is_none_or(|sender| sender.send(reply).is_err()) {
            return;
        }
        let Some(context) = answer.private.take() else { return };
        let limit = visit.core.settings.write_timeout;
        let name = visit.remote.to_string();
        let sent = block_on_context(&context, Operation::Send, &name, |_| {
            let visit = visit.clone();
            crate::task::time::timeout(
                limit.unwrap_or(std::time::Duration::MAX),
                poll_fn(move |context| visit.poll_sent(context)),
            )
        });
        if sent.is_ok() {
            visit.socket.set_timeout(limit);
            // It says no more than that the client has gone away.
            let _ = visit.socket.flush();
        }
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("request", &self.request).finish_non_exhaustive()
    }
}

/// A server whose requests are taken one by one: [`next`](Requests::next) for scripts, [`next_future`](Requests::next_future) for tasks.
/// Made by [`Server::bind`]. Dropping it closes it.
///
/// It listens from the beginning. The first of the two that is called decides who serves the connections: `next_future` and the main
/// loop, or the blocking calls, between which nothing goes on. A client waits until its request is taken; one that gives up before
/// is left out.
#[must_use = "it stops listening when it is dropped"]
pub struct Requests {
    url: String,
    queue: Rc<Queue>,
    state: RefCell<State>,
}

enum State {
    Listens(Box<(ServerBuilder, Prepared)>),
    /// On the main context of its thread, or on a private one.
    Serves(Listener, Option<glib::MainContext>),
    Closed,
}

impl Requests {
    /// Returns the URL. See [`Server::url`].
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Returns the port, or 0 for a unix socket.
    pub fn port(&self) -> u16 {
        match &*self.state.borrow() {
            State::Listens(waiting) => waiting.1.port(),
            State::Serves(listener, _) => listener.port(),
            State::Closed => 0,
        }
    }

    /// Waits for the next request.
    ///
    /// # Blocking
    /// Until one has come. No callback of this thread's main context runs meanwhile.
    ///
    /// # Errors
    /// - [`Error::Closed`] if it is closed.
    /// - [`Error::Unsupported`] if [`next_future`](Requests::next_future) was called before.
    /// - [`Error::Io`] if a signal that ends the main loop comes.
    pub fn next(&self) -> Result<Exchange> {
        let context = self.start_apart()?;
        let queue = self.queue.clone();
        let next = block_on_context(&context, Operation::Accept, &self.url, |_| {
            poll_fn(move |context| queue.poll_next(context))
        });
        let (mut request, mut answer) = next?;
        request.private = Some(context.clone());
        answer.private = Some(context);
        Ok(Exchange { request, answer })
    }

    /// Waits for the next request. Cancel-safe: dropping the future loses none.
    ///
    /// # Errors
    /// - [`Error::Closed`] if it is closed.
    /// - [`Error::Unsupported`] if [`next`](Requests::next) was called before.
    /// - [`Error::WrongThread`] if another thread owns the main context.
    pub async fn next_future(&self) -> Result<Exchange> {
        self.start()?;
        let (request, answer) = poll_fn(|context| self.queue.poll_next(context)).await?;
        Ok(Exchange { request, answer })
    }

    /// Stops listening. Requests that have been taken can still be answered; those that have not are answered with 503.
    pub fn close(&self) {
        let state = self.state.replace(State::Closed);
        let unanswered = self.queue.close();
        if let State::Serves(listener, context) = &state {
            listener.close();
            for (request, mut answer) in unanswered {
                drop(request);
                answer.private = context.clone();
                drop(answer);
            }
        }
    }

    fn closed(&self) -> Error {
        Error::Closed { peer: self.url.clone() }
    }

    /// Serves on the main context.
    fn start(&self) -> Result {
        match self.state.replace(State::Closed) {
            State::Listens(waiting) => {
                self.state.replace(State::Serves(serve(*waiting)?, None));
            }
            State::Serves(listener, None) => drop(self.state.replace(State::Serves(listener, None))),
            other => {
                let is_closed = matches!(other, State::Closed);
                self.state.replace(other);
                let instead = "the requests are taken by next(), which blocks; use it for all";
                return Err(if is_closed { self.closed() } else { Error::Unsupported(instead.into()) });
            }
        }
        Ok(())
    }

    /// Serves on a private main context, and returns it.
    fn start_apart(&self) -> Result<glib::MainContext> {
        let context = match self.state.replace(State::Closed) {
            State::Listens(waiting) => {
                let failed = |source| Error::Io { operation: Operation::Accept, address: self.url.clone(), source };
                let context = private_context().map_err(failed)?;
                let listener = context.with_thread_default(|| serve(*waiting)).map_err(|_| Error::WrongThread)??;
                self.state.replace(State::Serves(listener, Some(context.clone())));
                context
            }
            State::Serves(listener, Some(context)) => {
                self.state.replace(State::Serves(listener, Some(context.clone())));
                context
            }
            other => {
                let is_closed = matches!(other, State::Closed);
                self.state.replace(other);
                let instead = "the requests are taken by next_future(); use it for all";
                return Err(if is_closed { self.closed() } else { Error::Unsupported(instead.into()) });
            }
        };
        Ok(context)
    }
}

fn serve((builder, listener): (ServerBuilder, Prepared)) -> Result<Listener> {
    let core = Core::new(builder.settings, builder.routes, builder.on_access);
    listener.start(Some(Box::new(on_client(core))))
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").field("url", &self.url).finish_non_exhaustive()
    }
}

type Waiting = (Request, Answer);

/// Requests that nobody has taken yet. No more than there are connections.
#[derive(Default)]
struct Queue {
    waiting: RefCell<VecDeque<Waiting>>,
    wakers: RefCell<Wakers>,
    is_closed: std::cell::Cell<bool>,
}

impl Queue {
    /// Queues a request until it is answered.
    async fn add(self: Rc<Self>, request: Request) -> Result<Reply> {
        let (sender, answered) = oneshot::channel();
        let answer = Answer { sender: Some(sender), visit: request.visit().clone(), private: None };
        let unavailable = || Ok(Reply::status(503));
        if self.is_closed.get() {
            return unavailable();
        }
        // Of clients that have given up nothing is kept.
        let gone = {
            let mut waiting = self.waiting.borrow_mut();
            let (gone, stay) = std::mem::take(&mut *waiting).into_iter().partition(|(_, answer)| answer.is_futile());
            *waiting = stay;
            waiting.push_back((request, answer));
            let gone: VecDeque<Waiting> = gone;
            gone
        };
        drop(gone);
        let wakers = self.wakers.take();
        wakers.wake();
        drop(self);
        answered.await.or_else(|_| unavailable())
    }

    fn poll_next(&self, context: &mut Context<'_>) -> Poll<Result<Waiting>> {
        loop {
            let next = self.waiting.borrow_mut().pop_front();
            match next {
                Some((request, answer)) if answer.is_futile() => drop((request, answer)),
                Some(next) => return Poll::Ready(Ok(next)),
                None if self.is_closed.get() => {
                    return Poll::Ready(Err(Error::Closed { peer: "the HTTP server".into() }));
                }
                None => {
                    self.wakers.borrow_mut().add_once(context.waker());
                    return Poll::Pending;
                }
            }
        }
    }

    /// Returns those that nobody takes any more.
    fn close(&self) -> VecDeque<Waiting> {
        self.is_closed.set(true);
        self.wakers.take().wake();
        self.waiting.take()
    }
}
