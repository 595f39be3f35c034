//! The server: requests come through the gate to hyper, and go to the program's handlers.
//!
//! | to find | look into |
//! |---|---|
//! | the rules on what a client may send | `gate`, `chunks`, `checks`, `target` |
//! | the connection: its task, what hyper reads and writes, limits in time | `connection`, `io`, `visit`, `discard` |
//! | a request from check to reply | `service`, `routes`, `request`, `reply`, `outgoing` |

mod access;
mod address;
mod builder;
mod checks;
mod chunks;
mod connection;
mod core;
mod discard;
mod file;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod gate;
mod io;
mod multipart;
mod outgoing;
mod reply;
mod request;
mod requests;
mod routes;
mod service;
mod settings;
mod target;
mod threads;
mod visit;

use std::fmt;
use std::rc::Rc;

use crate::address::Address;
use crate::error::{Error, Result};
use crate::server::handle::Server as Listener;
pub use access::Access;
use address::Place;
pub use builder::ServerBuilder;
#[cfg(any(test, fuzzing))]
pub(crate) use fuzz::check;
pub use multipart::Part;
pub use reply::Reply;
pub use request::Request;
pub use requests::{Exchange, Requests};
pub use routes::Routes;
pub use threads::ThreadsBuilder;

/// An HTTP server (RFC 9110, RFC 9112) for a program's own pages: HTTP/1.1 and 1.0, over TCP, TLS or a unix socket.
///
/// It runs on the thread-default main context, on a [listener](crate::Server) of this crate. Handlers are called from the loop, and
/// must not block. A handler that returns an error, or panics, sends 500 without the error's text; the text is [logged](crate::log).
/// All that clients may send is limited; every limit is an option of [`Server::builder`].
///
/// Cloning returns another handle to the same server. When the last handle is dropped, the server stops listening, replies that are
/// being made are still sent, and idle connections close. Call [`detach`](Server::detach) to keep it without a handle.
///
/// # Example
/// ```
/// use network::http::{Reply, Server};
///
/// let server = Server::new("http://127.0.0.1:0/", |request| Ok(Reply::text(format!("You asked for {}.", request.path()))))?;
/// println!("{}", server.url());
/// # Ok::<(), network::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "a server stops listening when its last handle is dropped: hold it, or call detach()"]
pub struct Server {
    listener: Listener,
    url: Rc<str>,
}

impl Server {
    /// Listens on an address and calls `handler` for each request. The handler sees no body.
    ///
    /// The address is a URL without a path, `http://host:port` or `https://host:port`, or the path of a unix socket. Port 0 selects a free
    /// port; `http://[::]:8080` listens on all addresses. A socket that systemd or a predecessor has passed is used if it has the address.
    ///
    /// # Errors
    /// - [`Error::Address`] if the address is invalid, has no scheme, or cannot be listened on.
    /// - [`Error::InvalidOption`] if an option does not fit.
    /// - Otherwise see [`network::Server::new`](crate::Server::new).
    pub fn new<A>(address: A, handler: impl Fn(&Request) -> Result<Reply> + 'static) -> Result<Server>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        Server::builder().plain(address, handler)
    }

    /// Listens on an address and runs an async handler for each request.
    ///
    /// The handler's future may await anything. It is dropped when its client goes away. It takes the request, whose body it can
    /// receive.
    ///
    /// # Errors
    /// See [`Server::new`].
    ///
    /// # Example
    /// ```
    /// use network::http::{Reply, Server};
    ///
    /// let server = Server::serve("http://127.0.0.1:0/", async |mut request| {
    ///     let text = request.text_future().await?;
    ///     Ok(Reply::text(text.to_uppercase()))
    /// })?;
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn serve<A, R>(address: A, handler: impl Fn(Request) -> R + 'static) -> Result<Server>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
        R: Future<Output = Result<Reply>> + 'static,
    {
        Server::builder().serve(address, handler)
    }

    /// Returns a builder with all options.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }

    fn started(listener: Listener, place: &Place) -> Server {
        let url = place.url(listener.port()).into();
        Server { listener, url }
    }

    /// Returns the URL of the server, with the port that it listens on: `http://127.0.0.1:40000/`. For all addresses the host is
    /// `localhost`. For a unix socket it is `unix:` and the path.
    pub fn url(&self) -> String {
        self.url.to_string()
    }

    /// Returns the port, or 0 for a unix socket.
    pub fn port(&self) -> u16 {
        self.listener.port()
    }

    /// Returns the server underneath, for its addresses, its certificate's fingerprint and its connections.
    pub fn listener(&self) -> &Listener {
        &self.listener
    }

    /// Stops listening. Replies that are being made are still sent, and idle connections close.
    pub fn close(&self) {
        self.listener.close();
    }

    /// Returns whether the server is listening.
    pub fn is_open(&self) -> bool {
        self.listener.is_open()
    }

    /// Keeps the server listening without a handle, until [`close`](Server::close) is called or the main context ends.
    pub fn detach(&self) {
        self.listener.detach();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("url", &self.url).field("open", &self.is_open()).finish_non_exhaustive()
    }
}
