//! A server on several threads.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::ServerBuilder;
use super::address::Place;
use super::connection::on_client;
use super::core::Core;
use super::routes::Routes;
use crate::address::Address;
use crate::error::{Error, Result};
use crate::server::ServerThreads;

impl ServerBuilder {
    /// Serves on several threads, each with its own main context. 0 means one per available CPU.
    ///
    /// `make` runs once in each thread and returns that thread's handlers; it must be `Send + Sync`, the handlers need not be. They replace
    /// those of this builder. All limits apply per thread. Not available for unix sockets, nor together with [`log`](Self::log). See
    /// [`network::server::ServerBuilder::threads`](crate::server::ServerBuilder::threads).
    ///
    /// # Example
    /// ```
    /// use network::http::{Reply, Routes, Server};
    ///
    /// let server = Server::builder()
    ///     .threads(2, || Routes::new().get("/", |_| Ok(Reply::text("hello"))))
    ///     .listen("http://127.0.0.1:0/")?;
    /// println!("http://127.0.0.1:{}/", server.port());
    /// server.close();
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn threads<F>(self, threads: usize, make: F) -> ThreadsBuilder<F>
    where
        F: Fn() -> Routes + Send + Sync + 'static,
    {
        ThreadsBuilder { server: self, threads, make }
    }
}

/// A server on several threads that does not listen yet, see [`ServerBuilder::threads`].
#[must_use]
pub struct ThreadsBuilder<F> {
    server: ServerBuilder,
    threads: usize,
    make: F,
}

impl<F: Fn() -> Routes + Send + Sync + 'static> ThreadsBuilder<F> {
    /// Listens and starts the threads.
    ///
    /// # Blocking
    /// Until all threads serve, which takes no longer than starting them.
    ///
    /// # Errors
    /// See [`Server::new`](crate::http::Server::new), also for the handlers that `make` returns. [`Error::Unsupported`] for a unix
    /// socket or a builder with a log.
    ///
    /// # Panics
    /// Propagates a panic of `make`.
    pub fn listen<A>(self, address: A) -> Result<ServerThreads>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        let ThreadsBuilder { server, threads, make } = self;
        let place = Place::parse(address)?;
        let listener = server.configure(&place)?;
        if server.on_access.is_some() {
            return Err(Error::Unsupported("a multi-threaded server does not support log; log in the handlers".into()));
        }
        let settings = server.settings;
        let problem = Arc::<Mutex<Option<String>>>::default();
        let told = problem.clone();
        let factory = move || {
            let routes = make();
            if let Err(error) = routes.check() {
                told.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.to_string());
            }
            on_client(Core::new(settings.clone(), routes, None))
        };
        let server = listener.threads(threads, factory).listen::<Address>(place.address)?;
        let problem = problem.lock().unwrap_or_else(PoisonError::into_inner).take();
        match problem {
            Some(problem) => {
                server.close();
                Err(Error::InvalidOption(problem))
            }
            None => Ok(server),
        }
    }
}

impl<F> fmt::Debug for ThreadsBuilder<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadsBuilder")
            .field("server", &self.server)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}
