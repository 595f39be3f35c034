//! Servers with an async callback. Its futures are polled by the loop itself, in the iteration in which their input
//! arrives.

use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use super::{Server, ServerBuilder};
use crate::address::Address;
use crate::conn::{Conn, Socket};
use crate::engine::{Engine, Task, UserFuture};
use crate::error::{Error, Result};

impl Server {
    /// Listens on an address and runs an async callback for each client.
    ///
    /// When the callback's future completes with `Ok`, the connection closes, unless another handle or a read callback
    /// keeps it open; an error closes it with that error. The future may await anything: the [futures](Socket#futures) of
    /// sockets, those of glib, a channel. It runs in the loop iteration in which its input arrives, at the priority of
    /// connections (see [`set_fairness`](crate::mainloop::set_fairness)), and must not block. It is dropped when the main
    /// context ends. A panic is treated as in any callback.
    ///
    /// For state that all clients share, see [`serve_with`](Server::serve_with).
    ///
    /// # Errors
    /// See [`Server::new`].
    ///
    /// # Example
    /// ```
    /// let server = network::Server::serve("0", async |socket| {
    ///     let mut lines = socket.lines();
    ///     while let Some(line) = lines.next_str().await {
    ///         socket.send_future(format!("You said: {}\n", line?)).await?;
    ///     }
    ///     Ok(())
    /// })?;
    /// println!("listening on port {}", server.port());
    /// # network::Socket::connect_async(server.port(), gio::Cancellable::NONE, |result| {
    /// #     let client = result.expect("a connection");
    /// #     client.sendline("Hello").expect("an open connection");
    /// #     client.readlines(|_, line| {
    /// #         if line == "You said: Hello" {
    /// #             network::endloop();
    /// #         }
    /// #         Ok(())
    /// #     });
    /// # });
    /// # assert!(!network::fgloop_for(std::time::Duration::from_secs(30)), "no reply");
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn serve<A, F>(address: A, on_client: impl FnMut(Socket) -> F + 'static) -> Result<Server>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
        F: Future<Output = Result> + 'static,
    {
        Server::builder().serve(address, on_client)
    }

    /// Listens on an address and runs an async callback with a clone of `state` for each client. See [`Server::serve`].
    ///
    /// An async closure cannot lend what it captures to futures that outlive its call, as those of the clients do. So each
    /// call gets a clone, which makes `state` an `Rc` as a rule. No lock is needed: all futures run on one thread, and what
    /// happens between two `.await`s is not interrupted. Do not hold a `RefCell`'s borrow across an `.await`.
    ///
    /// # Errors
    /// See [`Server::new`].
    ///
    /// # Example: Count the visitors
    /// ```
    /// use std::cell::Cell;
    /// use std::rc::Rc;
    ///
    /// let visitors = Rc::new(Cell::new(0));
    /// let server = network::Server::serve_with("0", visitors, async |socket, visitors| {
    ///     visitors.set(visitors.get() + 1);
    ///     socket.send_future(format!("You are number {}.\n", visitors.get())).await
    /// })?;
    /// # drop(server);
    /// # Ok::<(), network::Error>(())
    /// ```
    ///
    /// # Example: The same with a closure that captures
    /// ```
    /// use std::cell::Cell;
    /// use std::rc::Rc;
    ///
    /// let visitors = Rc::new(Cell::new(0));
    /// let server = network::Server::serve("0", move |socket| {
    ///     let visitors = visitors.clone();
    ///     async move {
    ///         visitors.set(visitors.get() + 1);
    ///         socket.send_future(format!("You are number {}.\n", visitors.get())).await
    ///     }
    /// })?;
    /// # drop(server);
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn serve_with<A, S, F>(address: A, state: S, on_client: impl FnMut(Socket, S) -> F + 'static) -> Result<Server>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
        S: Clone + 'static,
        F: Future<Output = Result> + 'static,
    {
        Server::builder().serve_with(address, state, on_client)
    }
}

impl ServerBuilder {
    /// Listens on an address and runs an async callback for each client. See [`Server::serve`].
    ///
    /// # Errors
    /// See [`listen`](Self::listen).
    pub fn serve<A, F>(self, address: A, on_client: impl FnMut(Socket) -> F + 'static) -> Result<Server>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
        F: Future<Output = Result> + 'static,
    {
        self.listen(address, async_handler(on_client))
    }

    /// Listens on an address and runs an async callback with a clone of `state` for each client. See [`Server::serve_with`].
    ///
    /// # Errors
    /// See [`listen`](Self::listen).
    pub fn serve_with<A, S, F>(
        self,
        address: A,
        state: S,
        mut on_client: impl FnMut(Socket, S) -> F + 'static,
    ) -> Result<Server>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
        S: Clone + 'static,
        F: Future<Output = Result> + 'static,
    {
        self.serve(address, move |socket| on_client(socket, state.clone()))
    }
}

/// Converts an async callback into an ordinary client callback, for [`ServerBuilder::threads`]. See [`Server::serve`].
///
/// # Example
/// ```
/// use network::{Server, Socket};
///
/// let server = Server::builder()
///     .tls(false)
///     .threads(2, || {
///         network::server::async_handler(async |socket: Socket| {
///             let line = socket.recv_line_future().await?;
///             socket.send_future(format!("You said: {line}\n")).await
///         })
///     })
///     .listen(0)?;
/// # let client = Socket::builder().tls(false).connect(("127.0.0.1", server.port()))?;
/// # client.sendline("Hello")?;
/// # assert_eq!(client.recv_line()?, "You said: Hello");
/// server.close();
/// # Ok::<(), network::Error>(())
/// ```
pub fn async_handler<F>(mut on_client: impl FnMut(Socket) -> F + 'static) -> impl FnMut(Socket) -> Result + 'static
where
    F: Future<Output = Result> + 'static,
{
    move |socket| {
        let conn = socket.conn().clone();
        let future = UserFuture::new(on_client(socket));
        conn.engine().spawn(Rc::new(Serving { future, conn: Rc::downgrade(&conn) }));
        Ok(())
    }
}

/// A task that serves one connection.
struct Serving<F> {
    future: UserFuture<F>,
    conn: Weak<Conn>,
}

impl<F: Future<Output = Result>> Task for Serving<F> {
    fn poll(&self, engine: &Rc<Engine>, context: &mut Context<'_>) -> Poll<()> {
        // The future may drop the last handle, and then the disconnect callback would not be called.
        let socket = self.conn.upgrade().map(Socket::from_conn);
        self.future.poll(engine, context).map(|result| {
            let Some(socket) = &socket else { return };
            match result {
                Some(result) => socket.conn().was_served(result),
                None => socket.conn().abort_silently(),
            }
        })
    }
}
