//! [`Socket`], a handle to one connection, and [`WeakSocket`]. Its methods are in the room [`socket`](crate::socket).

use std::fmt;
use std::rc::{Rc, Weak};

use super::Conn;

/// A handle to one connection.
///
/// The connection is outgoing, accepted by a [`Server`](crate::Server), or made from file descriptors. Cloning returns
/// another handle to the same connection. A socket belongs to the thread-default main context in which it was created,
/// and cannot be sent to another thread.
///
/// The connection stays open while a handle exists, a read callback is set, or its server lists it. When the last of
/// these is gone, it closes as by [`close`](Socket::close), without calling the disconnect callback.
///
/// # Callbacks
/// Callbacks receive the socket as their first argument, so they need not capture it. To capture it nevertheless,
/// capture a weak reference (`glib::clone!(#[weak] socket, …)`). Callbacks run only from the main loop, never inside a
/// method call, in this order:
///
/// ```text
/// connected → (data | line | ready)* → disconnected
/// ```
///
/// A callback may close the socket, drop the last handle, replace itself, run a nested loop or panic. If it returns an
/// error, the connection closes with that error as the reason. All callbacks are dropped when the connection ends.
///
/// # Blocking calls
/// [`connect`](Socket::connect), the `recv` methods, [`send_some`](Socket::send_some), [`flush`](Socket::flush) and the
/// `std::io` traits block, with or without a main loop, and run no callbacks meanwhile. They are meant for scripts.
/// They fail with [`Error::TimedOut`](crate::Error::TimedOut) when the timeout set by
/// [`set_timeout`](Socket::set_timeout) expires, or with [`Error::NotReady`](crate::Error::NotReady) if it is zero;
/// received data stays in the buffer. Inside [`fgloop`](crate::fgloop), they fail with [`Error::Io`](crate::Error::Io)
/// of kind `Interrupted` when SIGINT or SIGTERM ends the loop.
///
/// # Futures
/// Methods ending in `_future`, the streams and the futures-io traits run on the main context. All of them are
/// cancel-safe.
///
/// # Example: An echo client
/// ```
/// # let server = network::Server::builder().tls(false).listen(0, |socket| {
/// #     socket.readlines(|socket, line| socket.sendline(line));
/// #     Ok(())
/// # })?;
/// # let port = server.port();
/// use network::Socket;
///
/// let address = format!("localhost:{port}");
/// # let address = format!("tcp://{address}");
/// Socket::connect_async(address, gio::Cancellable::NONE, |result| {
///     let socket = result.expect("a server is running");
///     socket.readlines(|socket, line| {
///         println!("{line}");
///         socket.close();
///         Ok(())
///     });
///     socket.disconnect_cb(|_, _| network::endloop());
///     socket.sendline("Hello").expect("it has just been connected");
/// });
/// network::fgloop();
/// # Ok::<(), network::Error>(())
/// ```
pub struct Socket {
    pub(crate) conn: Rc<Conn>,
}

impl Socket {
    pub(crate) fn conn(&self) -> &Rc<Conn> {
        &self.conn
    }

    /// Returns a handle that does not keep the connection open.
    pub fn downgrade(&self) -> WeakSocket {
        WeakSocket { conn: Rc::downgrade(&self.conn) }
    }

    pub(crate) fn from_conn(conn: Rc<Conn>) -> Socket {
        conn.add_handle();
        Socket { conn }
    }
}

impl Clone for Socket {
    fn clone(&self) -> Socket {
        Socket::from_conn(self.conn.clone())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.conn.drop_handle();
    }
}

impl PartialEq for Socket {
    /// Returns whether both are handles to the same connection.
    fn eq(&self, other: &Socket) -> bool {
        Rc::ptr_eq(&self.conn, &other.conn)
    }
}

impl Eq for Socket {}

impl std::hash::Hash for Socket {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        Rc::as_ptr(&self.conn).hash(state);
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("remote", &self.remote()).field("open", &self.is_open()).finish_non_exhaustive()
    }
}

/// A handle that does not keep the connection open.
#[derive(Clone, Debug)]
pub struct WeakSocket {
    pub(crate) conn: Weak<Conn>,
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn").finish_non_exhaustive()
    }
}

impl WeakSocket {
    /// Returns a handle, or `None` if nothing keeps the connection open any more.
    pub fn upgrade(&self) -> Option<Socket> {
        let conn = self.conn.upgrade()?;
        conn.has_handles().then(|| Socket::from_conn(conn))
    }
}

impl glib::clone::Downgrade for Socket {
    type Weak = WeakSocket;
    fn downgrade(&self) -> WeakSocket {
        Socket::downgrade(self)
    }
}

impl glib::clone::Upgrade for WeakSocket {
    type Strong = Socket;
    fn upgrade(&self) -> Option<Socket> {
        WeakSocket::upgrade(self)
    }
}
