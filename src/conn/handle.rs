//! [`Socket`]: the handle to a connection, and its weak kind. What can be done with it is in [`socket`](crate::socket).

use std::fmt;
use std::rc::{Rc, Weak};

use super::Conn;

/// A connection: to a server, from a client of a [`Server`](crate::Server), or over a pair of descriptors.
///
/// It belongs to the thread-default main context of the moment it was made, and to the thread that runs that. Cloning
/// gives another handle to the same connection. The connection stays open while a handle lives, while a callback is
/// registered to read from it, or while its server lists it; when the last of these goes, it closes as by
/// [`close`](Socket::close).
///
/// # Callbacks
/// They get the socket as their first argument, so none needs to be captured; to capture one all the same, use a weak one
/// (`glib::clone!(#[weak] socket, …)`). The order is
///
/// ```text
/// connected → (data | line | ready)* → disconnected, once → nothing more
/// ```
///
/// No callback runs inside a method call, only from the main loop. Inside one everything is allowed: closing, dropping
/// the last handle, registering another callback, running a nested main loop, even a panic. An error that it returns
/// closes the connection for that reason. Callbacks of a connection are dropped at its end, with all they captured.
///
/// # Blocking calls
/// [`recv`](Socket::recv) and its kin, [`send_some`](Socket::send_some), [`flush`](Socket::flush),
/// [`connect`](Socket::connect) and what std's `Read` and `Write` do wait, with or without a main loop, and run no callback
/// meanwhile. They are for scripts: a program with a window uses the other forms.
///
/// They wait as long as [`set_timeout`](Socket::set_timeout) says, and end with
/// [`Error::TimedOut`](crate::Error::TimedOut), or with [`Error::NotReady`](crate::Error::NotReady) if that is zero; what
/// had come by then stays for the next call. Within [`fgloop`](crate::fgloop) they also end when SIGINT or SIGTERM ends the
/// loop: with [`Error::Io`](crate::Error::Io) of the kind `Interrupted`.
///
/// # Futures
/// What ends in `_future`, the streams and the traits of futures-io wait on the main loop, and block nothing; to drop one
/// loses nothing. See [`recv_future`](Socket::recv_future) and those beside it.
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
    /// The same connection.
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
    /// The socket, while anything keeps it open.
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
