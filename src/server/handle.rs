//! [`Server`]: the handle to a server, and its weak form. The methods are in [`server`](super).

use std::fmt;
use std::hash::{Hash, Hasher};
use std::rc::{Rc, Weak};

use super::Shared;

/// A listening socket that turns each client into a [`Socket`](crate::Socket).
///
/// Cloning returns another handle to the same server. When the last handle is dropped, the server stops listening; its open
/// connections continue while they are read from or held. Call [`detach`](Server::detach) to keep a server listening
/// without a handle.
///
/// # Example
/// ```
/// let server = network::Server::new("0", |socket| {
///     socket.sendline("Welcome to this server!")?;
///     socket.readlines(|socket, line| {
///         println!("data received: {line}");
///         socket.sendline("This is a reply.")
///     });
///     Ok(())
/// })?;
/// println!("listening on port {}", server.port());
/// # network::Socket::connect_async(server.port(), gio::Cancellable::NONE, |result| {
/// #     let client = result.expect("a connection");
/// #     client.sendline("Hello").expect("an open connection");
/// #     client.readlines(|_, line| {
/// #         if line == "This is a reply." {
/// #             network::endloop();
/// #         }
/// #         Ok(())
/// #     });
/// # });
/// # assert!(!network::fgloop_for(std::time::Duration::from_secs(30)), "no reply");
/// # Ok::<(), network::Error>(())
/// ```
#[must_use = "a server stops listening when its last handle is dropped: hold it, or call detach()"]
pub struct Server {
    pub(super) shared: Rc<Shared>,
}

impl Server {
    /// Returns a handle that does not keep the server listening.
    pub fn downgrade(&self) -> WeakServer {
        WeakServer { shared: Rc::downgrade(&self.shared) }
    }
}

impl Clone for Server {
    fn clone(&self) -> Server {
        Server { shared: self.shared.clone() }
    }
}

impl PartialEq for Server {
    /// Returns whether both are handles to the same server.
    fn eq(&self, other: &Server) -> bool {
        Rc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Eq for Server {}

impl Hash for Server {
    /// Handles of the same server have the same hash.
    fn hash<H: Hasher>(&self, state: &mut H) {
        Rc::as_ptr(&self.shared).hash(state);
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.shared.address.to_string())
            .field("port", &self.shared.port)
            .field("open", &self.is_open())
            .finish_non_exhaustive()
    }
}

/// A handle to a [`Server`] that does not keep it listening.
#[derive(Clone)]
pub struct WeakServer {
    pub(super) shared: Weak<Shared>,
}

impl fmt::Debug for WeakServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakServer").finish_non_exhaustive()
    }
}

impl WeakServer {
    /// Returns a handle to the server, or `None` if all handles have been dropped.
    pub fn upgrade(&self) -> Option<Server> {
        self.shared.upgrade().map(|shared| Server { shared })
    }
}

impl glib::clone::Downgrade for Server {
    type Weak = WeakServer;
    fn downgrade(&self) -> WeakServer {
        Server::downgrade(self)
    }
}

impl glib::clone::Upgrade for WeakServer {
    type Strong = Server;
    fn upgrade(&self) -> Option<Server> {
        WeakServer::upgrade(self)
    }
}
