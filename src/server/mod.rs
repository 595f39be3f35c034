//! [`Server`]: listens and makes a [`Socket`] of each client.
//!
//! Building, binding, and accepting (by callback in `listener`, on request in `accept` and `incoming`) have a file each.
// [`Server`]: listens, and makes a [`Socket`] of each client. Building one, accepting by callback (`listener`) or when asked
// (`accept`, `incoming`), and binding have a file each.

mod accept;
mod access;
mod adopt;
mod bind;
mod builder;
mod drain;
mod given;
pub(crate) mod handle;
mod handshakes;
mod incoming;
mod list;
mod listener;
mod listening;
mod selecting;
mod serve;
mod share;
mod threads;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use crate::address::{Address, Endpoint, endpoint};
use crate::avahi::{Announcement, Publication, Published, announce};
use crate::conn::callbacks::Disconnect;
use crate::conn::{Common, Conn, Roster, Socket, Transport, WeakSocket};
use crate::engine::{CallbackSlot, Engine, Lent, LogQuota, call};
use crate::error::{Error, Result};
use crate::log::{self, Level};
pub use crate::sys::Account;
use crate::sys::{self, SocketFile};
use crate::tls::{Fingerprint, ServerSetup, Session};
use accept::Asked;
use access::Allowed;
#[cfg(feature = "http")]
pub(crate) use builder::Prepared;
pub use builder::ServerBuilder;
#[cfg(feature = "http")]
pub(crate) use drain::has_successor;
pub(crate) use drain::{Draining, drain_all, give_paths, listening};
pub(crate) use handle::Server;
pub use handle::WeakServer;
use handshakes::{Handshakes, Host};
pub use incoming::Incoming;
use list::List;
use listener::Listener;
pub use serve::async_handler;
use share::Share;
pub use threads::{ServerThreads, ThreadsBuilder};

pub(crate) type OnClient = dyn FnMut(Socket) -> Result;
type OnPublished = Rc<dyn Fn(&Server, &str)>;

/// One of a server's connections.
enum Listed {
    /// The server keeps it open: the program has seen it in the client callback only.
    Held(Socket),
    /// It belongs to the caller that accepted it.
    Given(WeakSocket),
}

impl Listed {
    fn socket(&self) -> Option<Socket> {
        match self {
            Listed::Held(socket) => Some(socket.clone()),
            Listed::Given(socket) => socket.upgrade(),
        }
    }
}

struct Shared {
    engine: Rc<Engine>,
    address: Address,
    listeners: RefCell<Vec<Rc<Listener>>>,
    /// Kept when it is closed: its descriptor may be lent.
    first_listener: OnceCell<Rc<Listener>>,
    path: RefCell<Option<SocketFile>>,
    port: u16,
    publication: RefCell<Option<Publication>>,
    /// Lent while it runs.
    on_client: CallbackSlot<OnClient>,
    connections: RefCell<List<Listed>>,
    /// For servers without a client callback: clients that are accepted on request.
    asked: Option<Asked>,
    /// Clients that `on_client` has not seen yet, because it is on the stack.
    waiting: RefCell<VecDeque<Rc<Conn>>>,
    next_number: Cell<NonZeroU64>,
    max_connections: usize,
    /// State shared by its connections.
    common: Rc<Common>,
    setup: Option<Arc<ServerSetup>>,
    handshakes: Handshakes,
    /// Limits what is logged about clients that are rejected.
    rejections: Rc<LogQuota>,
    /// The same for connections that end by an error.
    failures: Rc<LogQuota>,
    /// Users and groups that may connect, if not everybody may.
    allowed: Option<Allowed>,
    /// The server has stopped listening, and open connections and handshakes may finish.
    draining: Cell<bool>,
    detached: RefCell<Option<Server>>,
}
thread_local! {
    static SERVERS: RefCell<Vec<Weak<Shared>>> = const { RefCell::new(Vec::new()) };
}

/// Closes the servers of a main context, because its loop was told to end.
pub(crate) fn close_all(engine: &Rc<Engine>) {
    let servers = SERVERS.with(|servers| servers.borrow().clone());
    for server in servers.iter().filter_map(Weak::upgrade).filter(|server| Rc::ptr_eq(&server.engine, engine)) {
        server.close();
    }
}

impl Server {
    /// Listens on an address and calls `on_client` for each client.
    ///
    /// A port or service listens on all IPv6 and IPv4 addresses; port 0 selects a free port. See [`Address`] for all forms.
    /// The callback runs from the main loop, after the TLS handshake. If it returns an error, that client's connection
    /// closes.
    ///
    /// # Errors
    /// - [`Error::Address`] if the address is invalid or cannot be listened on.
    /// - [`Error::InUse`] if it is taken.
    /// - [`Error::Identity`] if the certificate cannot be loaded or created.
    /// - [`Error::WrongThread`] if another thread owns the main context.
    /// - [`Error::Io`] for any other failure.
    pub fn new<A>(address: A, on_client: impl FnMut(Socket) -> Result + 'static) -> Result<Server>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        Server::builder().listen(address, on_client)
    }

    /// Listens on an address. Clients wait in the accept backlog until the program accepts them.
    ///
    /// See [`accept`](Server::accept), [`accept_future`](Server::accept_future) and [`incoming`](Server::incoming).
    ///
    /// # Errors
    /// See [`Server::new`].
    ///
    /// # Example
    /// ```
    /// let server = network::Server::builder().tls(false).bind(0)?;
    /// # let client = std::net::TcpStream::connect(("localhost", server.port()))?;
    /// let socket = server.accept()?;
    /// socket.sendline("Welcome to this server!")?;
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn bind<A>(address: A) -> Result<Server>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        Server::builder().bind(address)
    }

    /// Returns a builder with all options of a server and its connections.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }

    /// Returns the port that the server listens on, or 0 for a unix socket.
    pub fn port(&self) -> u16 {
        self.shared.port
    }

    /// Returns the name under which the server is published, for an address of the form `service|name`. `None` until it is
    /// published, which takes about a second, and while no Avahi daemon is running.
    ///
    /// If the name is already taken on the network, ` #2` is appended. See [`ServerBuilder::published_cb`].
    pub fn published_name(&self) -> Option<String> {
        self.shared.publication.borrow().as_ref().and_then(Publication::name)
    }

    /// Returns the addresses that the server listens on: one, or two if one socket cannot serve both families. Empty once
    /// closed.
    pub fn local(&self) -> Vec<Endpoint> {
        let listeners = self.shared.listeners.borrow();
        let local = |listener: &Rc<Listener>| sys::local_address(listener.fd.open()?).ok().map(endpoint);
        listeners.iter().filter_map(local).collect()
    }

    /// Returns the open connections, oldest first.
    ///
    /// Connections whose TLS handshake is incomplete are not included.
    pub fn connections(&self) -> Vec<Socket> {
        self.shared.connections.borrow().values().filter_map(Listed::socket).collect()
    }

    /// Returns the fingerprint of the certificate that the server presents, for clients to compare and pin. `None` without
    /// TLS.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.shared.setup.as_ref().map(|setup| setup.identity().fingerprint())
    }

    /// Stops listening.
    ///
    /// Removes the path of a unix socket and withdraws a published service. Open connections continue. Clients in the
    /// middle of a TLS handshake are rejected. Further calls have no effect.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Returns whether the server is listening.
    pub fn is_open(&self) -> bool {
        !self.shared.listeners.borrow().is_empty()
    }

    /// Sets a callback for the end of every connection of this server that has no
    /// [own callback](Socket::disconnect_cb), open connections included.
    ///
    /// Replaces any previous callback, also that of [`ServerBuilder::disconnect_cb`].
    pub fn disconnect_cb(&self, callback: impl Fn(&Socket, Disconnect) + 'static) {
        self.shared.common.set_on_disconnect(Some(Rc::new(callback)));
    }

    /// Removes the disconnect callback. From then on, an error that ends a connection is logged.
    pub fn unset_disconnect_cb(&self) {
        self.shared.common.set_on_disconnect(None);
    }

    /// Keeps the server listening without a handle.
    ///
    /// It then listens until [`close`](Server::close) is called on one of its handles or the main context ends. Has no
    /// effect on a closed server.
    pub fn detach(&self) {
        if self.is_open() {
            self.shared.detached.replace(Some(self.clone()));
        }
    }
}
impl Shared {
    /// Publishes the server's service until it closes.
    fn announce(self: &Rc<Self>, announcement: Announcement, callback: Option<OnPublished>) {
        let me = Rc::downgrade(self);
        let publication = announce(&self.engine, announcement, move |engine, published| {
            let (Published::Established(name), Some(callback)) = (published, &callback) else { return };
            if let Some(shared) = me.upgrade() {
                let server = Server { shared };
                call(engine, || callback(&server, &name));
            }
        });
        self.publication.replace(Some(publication));
    }

    fn close(&self) {
        // First, so that no further clients are sent here.
        let publication = self.publication.take();
        drop(publication);
        self.stop_listening();
        self.rejections.flush();
        self.failures.flush();
        self.draining.set(false);
        self.common.stop();
        let on_client = self.on_client.take();
        let detached = self.detached.take();
        drop((on_client, detached));
        if let Some(asked) = &self.asked {
            asked.close();
        }
    }

    fn stop_listening(&self) {
        // The path goes first, while the socket still answers: another server that starts now sees that it is in use.
        if let Some(Err(error)) = self.path.take().map(|path| path.remove()) {
            log::warning("close").error(&error).say(format_args!("{error}"));
        }
        for listener in self.listeners.take() {
            listener.close();
        }
    }

    /// Returns whether no further client will be passed to the program.
    fn is_over(&self) -> bool {
        self.listeners.borrow().is_empty() && !self.draining.get()
    }

    /// Accepts a client. With TLS the program does not see it before the handshake is complete; the connection that
    /// performs the handshake is returned.
    fn admit(self: &Rc<Self>, fd: OwnedFd, remote: Endpoint) -> Option<Rc<Conn>> {
        if let Some(Err(why)) = self.allowed.as_ref().map(|allowed| allowed.check(&fd)) {
            self.reject(&remote, &why);
            return None;
        }
        if log::is_wanted(Level::Debug) {
            let event = log::debug("accept").peer(&remote);
            event.say(format_args!("accepted {remote} on {}", self.name()));
        }
        if self.setup.is_some() && self.has_no_place() && !self.make_room(&remote) {
            return None;
        }
        let transport = Transport::socket(fd, Some(&remote));
        let common = self.common.clone();
        transport.tune_accepted(&common.options.tuning);
        let admitted = match &self.setup {
            None => Conn::new(&self.engine, transport, common, Some(remote)).map(|conn| {
                self.welcome(&conn);
                None
            }),
            Some(setup) => {
                let (me, host) = (Rc::downgrade(self), Host::from(&remote));
                let shaken = Box::new(move |conn: &Rc<Conn>, result: Result| {
                    if let Some(me) = me.upgrade() {
                        me.handshakes.finish(host, conn);
                        me.shaken(conn, result);
                    }
                });
                let started = Session::server(setup, &remote.to_string()).and_then(|session| {
                    Conn::with_session(&self.engine, transport, common, Some(remote), session, shaken).map(Some)
                });
                if let Ok(Some(conn)) = &started
                    && conn.is_shaking()
                {
                    self.handshakes.start(host, conn);
                }
                started
            }
        };
        admitted.unwrap_or_else(|error| {
            self.turned_away(&error);
            None
        })
    }

    /// Passes a client to the program.
    fn welcome(self: &Rc<Self>, conn: &Rc<Conn>) {
        match &self.asked {
            Some(asked) => asked.add(conn),
            None => self.introduce(conn),
        }
    }

    fn shaken(self: &Rc<Self>, conn: &Rc<Conn>, result: Result) {
        self.room();
        match result {
            // Closed meanwhile: the program expects no further clients, and without a handle the connection ends.
            Ok(()) if self.is_over() => {}
            Ok(()) => self.welcome(conn),
            Err(error) => self.turned_away(&error),
        }
    }

    /// Ends a handshake in favour of a client whose host has fewer. False if there is no room for this client.
    fn make_room(&self, remote: &Endpoint) -> bool {
        let Some(displaced) = self.handshakes.make_room(remote.into()) else {
            self.reject(remote, &"too many TLS handshakes from its address are in progress");
            return false;
        };
        if let Some(conn) = displaced.upgrade() {
            let peer = conn.remote();
            conn.abort_silently();
            self.reject(&peer, &"its TLS handshake was ended to make room for other clients");
        }
        true
    }

    fn turned_away(&self, error: &Error) {
        self.reject(&self.name(), error);
    }

    /// Logs that a client was rejected.
    fn reject(&self, peer: &dyn fmt::Display, why: &dyn fmt::Display) {
        if log::is_wanted(Level::Message) {
            self.rejections.log(&self.engine, || {
                let event = log::message("accept").peer(peer).error(why);
                event.say(format_args!("rejected a client of {}: {why}", self.name()));
            });
        }
    }

    /// Lists a connection until its end.
    fn list(self: &Rc<Self>, conn: &Rc<Conn>, listed: impl FnOnce(&Socket) -> Listed) -> Socket {
        let number = self.next_number.get();
        self.next_number.set(number.saturating_add(1));
        let socket = Socket::from_conn(conn.clone());
        self.connections.borrow_mut().insert(number, listed(&socket));
        conn.join_roster(number);
        socket
    }

    fn introduce(self: &Rc<Self>, conn: &Rc<Conn>) {
        let socket = self.list(conn, |socket| Listed::Held(socket.clone()));
        drop(socket);
        let Some(mut on_client) = self.on_client.lend() else {
            // A nested loop runs inside the callback for another client. This one waits until that callback returns, and
            // so do its own callbacks.
            conn.hold();
            self.waiting.borrow_mut().push_back(conn.clone());
            return;
        };
        conn.introduce(&mut *on_client);
        self.introduce_waiting(on_client);
    }

    /// Introduces the clients that were accepted while `on_client` was on the stack.
    fn introduce_waiting(self: &Rc<Self>, mut on_client: Lent<'_, OnClient>) {
        // After a panic, the others wait until it has been resumed.
        while !self.engine.is_panicking() {
            let next = self.waiting.borrow_mut().pop_front();
            let Some(next) = next else { break };
            next.introduce(&mut *on_client);
        }
        if !self.waiting.borrow().is_empty() {
            let me = Rc::downgrade(self);
            self.engine.defer(move |_| {
                if let Some(me) = me.upgrade()
                    && let Some(on_client) = me.on_client.lend()
                {
                    me.introduce_waiting(on_client);
                }
            });
        }
    }

    /// Returns what the server listens on, for messages.
    fn name(&self) -> String {
        server_name(&self.address, self.port)
    }

    /// Returns whether clients have to wait in the backlog. Where one host has too many handshakes they need not.
    fn is_full(&self) -> bool {
        self.has_no_place() && !self.handshakes.is_crowded()
    }

    fn has_no_place(&self) -> bool {
        let listed = match &self.asked {
            None => self.connections.borrow().len(),
            Some(_) if self.max_connections == usize::MAX => 0,
            // Without a loop, connections stay listed when they end.
            Some(asked) => {
                let listed = self.connections.borrow();
                let open = listed.values().filter_map(Listed::socket).filter(Socket::is_open);
                asked.waiting() + open.count()
            }
        };
        listed + self.handshakes.len() >= self.max_connections || self.handshakes.is_full()
    }

    /// Wakes the listeners: there may be room for clients that wait in the backlog.
    fn room(&self) {
        for listener in self.listeners.borrow().iter().filter(|listener| listener.full.get()) {
            listener.wake();
        }
        if let Some(asked) = &self.asked {
            asked.wake();
        }
    }
}

/// The name of a server in messages.
fn server_name(address: &Address, port: u16) -> String {
    if port == 0 { address.to_string() } else { format!("port {port}") }
}

impl Roster for Shared {
    fn log_end(&self, record: &dyn Fn()) {
        self.failures.log(&self.engine, record);
    }

    fn give_up(&self, number: NonZeroU64) {
        let mut connections = self.connections.borrow_mut();
        let Some(listed) = connections.get_mut(&number) else { return };
        let Listed::Held(socket) = listed else { return };
        let given = Listed::Given(socket.downgrade());
        let held = std::mem::replace(listed, given);
        drop(connections);
        drop(held);
    }

    fn leave(&self, number: NonZeroU64) {
        let gone = self.connections.borrow_mut().remove(&number);
        drop(gone);
        self.room();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
        let connections = self.connections.take();
        self.engine.end_together(|| drop(connections));
        self.common.leave();
    }
}
