//! Servers whose callback awaits: what it returns is polled by the loop itself, in the turn that brings what it waits for.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use super::{Server, ServerBuilder};
use crate::address::Address;
use crate::conn::{Conn, Socket};
use crate::engine::{Engine, Task, call};
use crate::error::{Error, Result};

impl Server {
    /// As [`Server::new`], with an `on_client` that awaits. An error that it returns closes that connection; when it returns
    /// well, the connection closes, as by [`Socket::close`], unless somebody else has a handle to it or reads from it by a
    /// callback.
    ///
    /// What it awaits may be anything: the [futures](Socket#futures) of sockets, those of glib, a channel's. It goes on in
    /// the same turn of the loop that brings what it waits for, with the connections' priority and within their share of
    /// the time, see [`set_fairness`](crate::mainloop::set_fairness); a task of `glib::spawn_future_local` for each client
    /// does the same at the cost of a turn more. It must not block. A panic is treated as that of any callback. What is
    /// still being awaited when the main context ends is dropped.
    ///
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
    ///
    /// # Errors
    /// As [`Server::new`].
    pub fn serve<A, F>(address: A, on_client: impl FnMut(Socket) -> F + 'static) -> Result<Server>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
        F: Future<Output = Result> + 'static,
    {
        Server::builder().serve(address, on_client)
    }
}

impl ServerBuilder {
    /// As [`Server::serve`].
    ///
    /// # Errors
    /// As there.
    pub fn serve<A, F>(self, address: A, on_client: impl FnMut(Socket) -> F + 'static) -> Result<Server>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
        F: Future<Output = Result> + 'static,
    {
        self.listen(address, async_handler(on_client))
    }
}

/// Makes an ordinary callback for connections of one that awaits, where a server wants the first:
/// [`ServerBuilder::threads`]. Otherwise as [`Server::serve`].
///
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
        let future = RefCell::new(Some(Box::pin(on_client(socket))));
        conn.engine().spawn(Rc::new(Serving { future, again: Cell::new(false), conn: Rc::downgrade(&conn) }));
        Ok(())
    }
}

/// What serves a connection.
struct Serving<F> {
    /// Taken while it is on the stack.
    future: RefCell<Option<Pin<Box<F>>>>,
    /// It was woken meanwhile.
    again: Cell<bool>,
    conn: Weak<Conn>,
}

impl<F: Future<Output = Result>> Task for Serving<F> {
    fn poll(&self, engine: &Rc<Engine>, context: &mut Context<'_>) -> Poll<()> {
        let Some(mut future) = self.future.take() else {
            // A nested loop runs in it.
            self.again.set(true);
            return Poll::Pending;
        };
        // It may drop the last handle when it returns, and whose last handle goes tells nobody of its end.
        let socket = self.conn.upgrade().map(Socket::from_conn);
        let polled = call(engine, || future.as_mut().poll(context));
        if let Some(Poll::Pending) = polled {
            self.future.replace(Some(future));
            if self.again.take() {
                context.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        if let Some(socket) = &socket {
            match polled {
                Some(Poll::Ready(result)) => socket.conn().was_served(result),
                _ => socket.conn().abort_silently(),
            }
        }
        Poll::Ready(())
    }
}
