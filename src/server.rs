//! [`Server`]: listening sockets that make a [`Socket`] of each client.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::address::{Address, Endpoint, Host, Target};
use crate::conn::handler::{Disconnect, SharedDisconnect};
use crate::conn::{Conn, Options, Roster};
use crate::connect::{note_listening, unix_address};
use crate::engine::{Engine, Handler, Key, Next, Ready, Registration};
use crate::error::{Error, Result};
use crate::resolve::{local_addresses, no_services, port_number};
use crate::socket::Socket;
use crate::tls::{ServerSetup, ServerTls, Session, Tls};
use crate::transport::{Transport, endpoint};

/// Clients accepted in one turn of the loop, then other connections are served.
const ACCEPTS: usize = 64;

/// When the system has no descriptor or memory for another client, it is asked again after this long.
const PAUSE: Duration = Duration::from_millis(100);

/// How often a free port is looked for that is free on every loopback address.
const PORT_TRIES: usize = 32;

/// How many hand-shakes of TLS may be going on at a time, unless the program says otherwise. Each costs some hundred
/// microseconds and some kilobytes; whoever connects and then says nothing must not keep others out for long.
const HANDSHAKES: usize = 1000;

/// Listens, and calls back with a [`Socket`] for each client.
///
/// Cloning gives another handle to the same server. When the last handle goes, it stops listening; its live connections
/// go on while somebody reads from them or holds them. Programs that never stop call [`keep`](Server::keep).
///
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
/// # let client = network::Socket::connect(server.port())?;
/// # client.sendline("Hello")?;
/// # network::fgloop_for(std::time::Duration::from_millis(20));
/// # assert_eq!(client.recv_line()?, "Welcome to this server!");
/// # assert_eq!(client.recv_line()?, "This is a reply.");
/// # Ok::<(), network::Error>(())
/// ```
#[must_use = "a server stops listening when its last handle is dropped: hold it, or call keep()"]
pub struct Server {
    shared: Rc<Shared>,
}

type Obj = Box<dyn FnMut(Socket) -> Result>;

struct Shared {
    engine: Rc<Engine>,
    address: Address,
    listeners: RefCell<Vec<Rc<Listener>>>,
    path: RefCell<Option<SocketFile>>,
    port: u16,
    /// Taken while it runs.
    obj: RefCell<Option<Obj>>,
    connections: RefCell<BTreeMap<u64, Socket>>,
    /// Those that `obj` has not seen yet, because it is on the stack.
    waiting: RefCell<VecDeque<Rc<Conn>>>,
    next_id: Cell<u64>,
    max_connections: usize,
    options: Rc<Options>,
    on_disconnect: Option<SharedDisconnect>,
    setup: Option<Arc<ServerSetup>>,
    handshakes: Cell<usize>,
    max_handshakes: usize,
    kept: RefCell<Option<Server>>,
}

/// One listening socket.
struct Listener {
    server: Weak<Shared>,
    engine: Rc<Engine>,
    fd: RefCell<Option<OwnedFd>>,
    key: Cell<Option<Key>>,
    /// The callback for a new connection is on the stack.
    busy: Cell<bool>,
    again: Cell<bool>,
    /// As many connections as there may be.
    full: Cell<bool>,
    /// Out of descriptors or memory, and it has been said.
    starved: Cell<bool>,
}

/// The path of a unix socket, and which file it was when we made it.
struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

thread_local! {
    static SERVERS: RefCell<Vec<Weak<Shared>>> = const { RefCell::new(Vec::new()) };
}

/// Closes the servers of a main context: its loop was told to end.
pub(crate) fn close_all(engine: &Rc<Engine>) {
    let servers = SERVERS.with(|servers| servers.borrow().clone());
    for server in servers.iter().filter_map(Weak::upgrade).filter(|server| Rc::ptr_eq(&server.engine, engine)) {
        server.close();
    }
}

impl Server {
    /// Listens on a port of all addresses, IPv6 and IPv4, or on a unix socket; see [`Address`] for what may be given.
    /// Port 0 picks a free one. `obj` is called with each new connection, from the main loop; an error that it returns
    /// closes that connection.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::InUse`], [`Error::WrongThread`], or [`Error::Io`].
    pub fn new<A>(address: A, obj: impl FnMut(Socket) -> Result + 'static) -> Result<Server>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        Server::builder().listen(address, obj)
    }

    /// Sets limits and time-outs before listening.
    pub fn builder() -> ServerBuilder {
        ServerBuilder {
            address: String::new(),
            backlog: 128,
            max_connections: usize::MAX,
            options: Options::default(),
            on_disconnect: None,
            tls: None,
            max_handshakes: HANDSHAKES,
        }
    }

    /// The port that is listened on. 0 for a unix socket.
    pub fn port(&self) -> u16 {
        self.shared.port
    }

    /// What is listened on: one address, or two where one socket cannot serve both families. Empty once closed.
    pub fn local(&self) -> Vec<Endpoint> {
        let listeners = self.shared.listeners.borrow();
        let local = |listener: &Rc<Listener>| {
            let fd = listener.fd.borrow();
            rustix::net::getsockname(fd.as_ref()?).ok().map(endpoint)
        };
        listeners.iter().filter_map(local).collect()
    }

    /// The live connections, the oldest first.
    pub fn connections(&self) -> Vec<Socket> {
        self.shared.connections.borrow().values().cloned().collect()
    }

    /// Stops listening; a unix socket's path is removed. Live connections go on; clients whose hand-shake of TLS is not
    /// done are turned away. Further calls do nothing.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Is it listening?
    pub fn is_open(&self) -> bool {
        !self.shared.listeners.borrow().is_empty()
    }

    /// Goes on listening without any handle, until [`close`](Server::close) or the end of the main context.
    pub fn keep(&self) {
        if self.is_open() {
            self.shared.kept.replace(Some(self.clone()));
        }
    }
}

impl Clone for Server {
    fn clone(&self) -> Server {
        Server { shared: self.shared.clone() }
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

/// A handle that does not keep the server listening.
#[derive(Clone)]
pub struct WeakServer {
    shared: Weak<Shared>,
}

impl fmt::Debug for WeakServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakServer").finish_non_exhaustive()
    }
}

impl WeakServer {
    /// The server, while there is a handle to it.
    pub fn upgrade(&self) -> Option<Server> {
        self.shared.upgrade().map(|shared| Server { shared })
    }
}

impl glib::clone::Downgrade for Server {
    type Weak = WeakServer;
    fn downgrade(&self) -> WeakServer {
        WeakServer { shared: Rc::downgrade(&self.shared) }
    }
}

impl glib::clone::Upgrade for WeakServer {
    type Strong = Server;
    fn upgrade(&self) -> Option<Server> {
        WeakServer::upgrade(self)
    }
}

/// Sets what a server's connections are given, then listens. Each setting has a default.
///
/// ```
/// let server = network::Server::builder()
///     .address("127.0.0.1")
///     .backlog(16)
///     .max_connections(1000)
///     .line_limit(64 << 10)
///     .disconnect_cb(|socket, end| println!("{}: {}", socket.remote(), end.reason))
///     .listen(0, |_socket| Ok(()))?;
/// # assert_eq!(server.local()[0].inet().unwrap().ip().to_string(), "127.0.0.1");
/// # Ok::<(), network::Error>(())
/// ```
#[must_use]
pub struct ServerBuilder {
    address: String,
    backlog: u32,
    max_connections: usize,
    options: Options,
    on_disconnect: Option<SharedDisconnect>,
    /// As chosen; `None` leaves it to the address.
    tls: Option<Tls<ServerTls>>,
    max_handshakes: usize,
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("address", &self.address)
            .field("backlog", &self.backlog)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl ServerBuilder {
    /// Which address of this machine to listen on. Empty, the default, is all of IPv6 and IPv4; `0.0.0.0` is all of IPv4
    /// and no IPv6; `127.0.0.1` or `localhost` is for this machine only.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = address.into();
        self
    }

    /// How to use TLS: `false` for not at all, `true` for the certificate of this host's name, `"name"` for that of
    /// another name, an [`Identity`](crate::Identity), or [`ServerTls`] with all settings. A certificate that is not there
    /// is made.
    ///
    /// Without this call it is on for TCP and off for unix sockets.
    pub fn tls(mut self, tls: impl Into<Tls<ServerTls>>) -> Self {
        self.tls = Some(tls.into());
        self
    }

    /// How long a client may take for the hand-shake of TLS. 10 s. After that it is dropped.
    pub fn handshake_timeout(mut self, limit: Duration) -> Self {
        self.options.handshake_timeout = limit;
        self
    }

    /// The most hand-shakes of TLS that may be going on at a time. 1000. Further clients wait in the backlog.
    pub fn max_handshakes(mut self, handshakes: usize) -> Self {
        self.max_handshakes = handshakes.max(1);
        self
    }

    /// How many clients may wait to be accepted; the system may allow fewer. 128.
    pub fn backlog(mut self, clients: u32) -> Self {
        self.backlog = clients;
        self
    }

    /// The most connections at a time. No limit by default. Further clients wait in the backlog until one ends.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections.max(1);
        self
    }

    /// As [`Socket::disconnect_cb`], for every connection that sets none of its own.
    pub fn disconnect_cb(mut self, callback: impl Fn(&Socket, Disconnect) + 'static) -> Self {
        self.on_disconnect = Some(Rc::new(callback));
        self
    }

    /// The longest line that is accepted from a client, in bytes without its newline. 1 MiB.
    pub fn line_limit(mut self, bytes: usize) -> Self {
        self.options.line_limit = bytes;
        self
    }

    /// The most bytes that may wait to be sent on one connection. 16 MiB. Beyond it [`Socket::send`] fails.
    pub fn send_limit(mut self, bytes: usize) -> Self {
        self.options.send_limit = bytes;
        self
    }

    /// The most bytes that a callback of [`Socket::read`] gets at a time. 64 KiB.
    pub fn read_size(mut self, bytes: usize) -> Self {
        self.options.read_size = bytes.max(1);
        self
    }

    /// How long a closed connection may go on sending what was queued. 5 s.
    pub fn linger(mut self, limit: Duration) -> Self {
        self.options.linger = limit;
        self
    }

    /// How long blocking calls on the connections wait for the client. `None`, the default, is without end.
    pub fn timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.timeout = limit.into();
        self
    }

    /// As [`Server::new`].
    ///
    /// # Errors
    /// As there.
    pub fn listen<A>(self, address: A, obj: impl FnMut(Socket) -> Result + 'static) -> Result<Server>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        self.start(address.try_into()?, Box::new(obj))
    }

    fn start(self, address: Address, obj: Obj) -> Result<Server> {
        let engine = Engine::current()?;
        let setup = self.prepare_tls(&address)?;
        let backlog = i32::try_from(self.backlog).unwrap_or(i32::MAX);
        let (sockets, path) = bind(&address, &self.address, backlog)?;
        let port = sockets.first().and_then(|fd| rustix::net::getsockname(fd).ok());
        let port = port.and_then(|local| endpoint(local).port()).unwrap_or(0);
        let shared = Rc::new(Shared {
            engine: engine.clone(),
            address,
            listeners: RefCell::default(),
            path: RefCell::new(path),
            port,
            obj: RefCell::new(Some(obj)),
            connections: RefCell::default(),
            waiting: RefCell::default(),
            next_id: Cell::new(0),
            max_connections: self.max_connections,
            options: Rc::new(self.options),
            on_disconnect: self.on_disconnect,
            setup,
            handshakes: Cell::new(0),
            max_handshakes: self.max_handshakes,
            kept: RefCell::new(None),
        });
        for fd in sockets {
            if let Some(address) = rustix::net::getsockname(&fd).ok().and_then(|local| endpoint(local).inet()) {
                note_listening(address, true);
            }
            let listener =
                Listener::start(&shared, fd).map_err(|source| Error::from_listen(&shared.address, source))?;
            shared.listeners.borrow_mut().push(listener);
        }
        SERVERS.with(|servers| {
            let mut servers = servers.borrow_mut();
            servers.retain(|server| server.strong_count() > 0);
            servers.push(Rc::downgrade(&shared));
        });
        Ok(Server { shared })
    }
}

impl ServerBuilder {
    /// Loads or makes the certificate, if there is to be one.
    fn prepare_tls(&self, address: &Address) -> Result<Option<Arc<ServerSetup>>> {
        let is_unix = matches!(address.target(), Target::Unix(_));
        let settings = match &self.tls {
            Some(Tls::On(_)) if is_unix => return Err(address.unfit("TLS is not used on unix sockets")),
            Some(Tls::Off) => return Ok(None),
            None if is_unix => return Ok(None),
            Some(Tls::On(settings)) => settings.clone(),
            None => ServerTls::default(),
        };
        let setup = settings.prepare()?;
        for warning in setup.identity().warnings() {
            glib::g_warning!("network", "{warning}");
        }
        glib::g_info!("network", "the server on {address} has the fingerprint {}", setup.identity().fingerprint());
        Ok(Some(setup))
    }
}

impl Shared {
    fn close(&self) {
        for listener in self.listeners.take() {
            listener.close();
        }
        if let Some(path) = self.path.take() {
            path.remove();
        }
        // Nobody comes any more. While it is on the stack, `introduce` sees to that.
        let obj = self.obj.take();
        let kept = self.kept.take();
        drop((obj, kept));
    }

    /// Takes a client in. With TLS the program does not see it before the hand-shake is done.
    fn admit(self: &Rc<Self>, fd: OwnedFd, remote: Endpoint) {
        let transport = Transport::socket(fd);
        let options = self.options.clone();
        let admitted = match &self.setup {
            None => Conn::new(&self.engine, transport, options, Some(remote)).map(|conn| self.introduce(&conn)),
            Some(setup) => {
                self.handshakes.set(self.handshakes.get() + 1);
                let me = Rc::downgrade(self);
                let shaken = Box::new(move |conn: &Rc<Conn>, result: Result| {
                    if let Some(me) = me.upgrade() {
                        me.shaken(conn, result);
                    }
                });
                let started = Session::server(setup, &remote.to_string()).and_then(|session| {
                    Conn::with_session(&self.engine, transport, options, Some(remote), session, shaken).map(drop)
                });
                if started.is_err() {
                    self.handshakes.set(self.handshakes.get() - 1);
                }
                started
            }
        };
        if let Err(error) = admitted {
            glib::g_warning!("network", "a client of {} was turned away: {error}", self.name());
        }
    }

    fn shaken(self: &Rc<Self>, conn: &Rc<Conn>, result: Result) {
        self.handshakes.set(self.handshakes.get() - 1);
        self.room();
        match result {
            Ok(()) => self.introduce(conn),
            Err(error) => glib::g_warning!("network", "a client of {} was turned away: {error}", self.name()),
        }
    }

    fn introduce(self: &Rc<Self>, conn: &Rc<Conn>) {
        if self.listeners.borrow().is_empty() {
            // Closed while the hand-shake went on: nobody is left to take it, so it closes.
            return;
        }
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        let roster: Rc<dyn Roster> = self.clone();
        conn.join_roster(Rc::downgrade(&roster), id);
        let socket = Socket::from_conn(conn.clone());
        if let Some(callback) = &self.on_disconnect {
            socket.share_disconnect_cb(callback.clone());
        }
        self.connections.borrow_mut().insert(id, socket);
        let obj = self.obj.take();
        let Some(mut obj) = obj else {
            // A nested loop runs inside the callback for another: this one waits for its return, and so does all that
            // would be told of it.
            conn.hold();
            self.waiting.borrow_mut().push_back(conn.clone());
            return;
        };
        conn.introduce(&mut obj);
        loop {
            let next = self.waiting.borrow_mut().pop_front();
            let Some(next) = next else { break };
            next.introduce(&mut obj);
        }
        if self.listeners.borrow().is_empty() {
            drop(obj);
        } else {
            self.obj.replace(Some(obj));
        }
    }

    /// What is listened on, for messages.
    fn name(&self) -> String {
        if self.port == 0 { self.address.to_string() } else { format!("port {}", self.port) }
    }

    fn is_full(&self) -> bool {
        let connections = self.connections.borrow().len() + self.handshakes.get();
        connections >= self.max_connections || self.handshakes.get() >= self.max_handshakes
    }

    /// There may be room for those that wait to be accepted.
    fn room(&self) {
        for listener in self.listeners.borrow().iter().filter(|listener| listener.full.get()) {
            listener.wake();
        }
    }
}

impl Roster for Shared {
    fn leave(&self, id: u64) {
        let gone = self.connections.borrow_mut().remove(&id);
        drop(gone);
        self.room();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

impl Listener {
    fn start(server: &Rc<Shared>, fd: OwnedFd) -> io::Result<Rc<Listener>> {
        let listener = Rc::new(Listener {
            server: Rc::downgrade(server),
            engine: server.engine.clone(),
            fd: RefCell::new(None),
            key: Cell::new(None),
            busy: Cell::new(false),
            again: Cell::new(false),
            full: Cell::new(false),
            starved: Cell::new(false),
        });
        let registration = Registration { input: fd.as_fd(), input_blocks: false, output: None, write: false };
        let key = server.engine.register(registration, listener.clone())?;
        listener.key.set(Some(key));
        listener.fd.replace(Some(fd));
        Ok(listener)
    }

    fn close(&self) {
        if let Some(key) = self.key.take() {
            self.engine.deregister(key);
        }
        let Some(fd) = self.fd.take() else { return };
        if let Some(address) = rustix::net::getsockname(&fd).ok().and_then(|local| endpoint(local).inet()) {
            note_listening(address, false);
        }
    }

    fn wake(&self) {
        if let Some(key) = self.key.get() {
            self.engine.requeue(key);
        }
    }

    fn accept(&self, server: &Rc<Shared>) -> Next {
        for _ in 0..ACCEPTS {
            self.full.set(server.is_full());
            if self.full.get() {
                return Next::Idle;
            }
            let accepted = match &*self.fd.borrow() {
                Some(fd) => rustix::net::acceptfrom_with(fd, SocketFlags::CLOEXEC),
                None => return Next::Idle,
            };
            match accepted {
                Ok((fd, remote)) => {
                    server.admit(fd, remote.map_or(Endpoint::Unix(None), endpoint));
                    if self.engine.spent() {
                        return Next::Hot;
                    }
                }
                Err(Errno::AGAIN) => {
                    self.starved.set(false);
                    return Next::Idle;
                }
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) if self.pause(&accepted) => {
                    return Next::Idle;
                }
                // That client has gone already, or its network has: on to the next.
                Err(_) => {}
            }
        }
        Next::Hot
    }

    /// The system can take no more clients for now. They wait; trying without a pause would only burn time.
    fn pause<T>(&self, why: &Result<T, Errno>) -> bool {
        if let (Err(error), Some(server), false) = (why, self.server.upgrade(), self.starved.replace(true)) {
            glib::g_warning!(
                "network",
                "no room for more clients of {}: {}; those that wait are accepted as others leave",
                server.name(),
                io::Error::from(*error)
            );
        }
        if let Some(key) = self.key.get() {
            self.engine.after(PAUSE, move |engine| engine.requeue(key));
        }
        true
    }
}

impl Handler for Listener {
    fn ready(self: Rc<Self>, _engine: &Rc<Engine>, _ready: Ready) -> Next {
        let Some(server) = self.server.upgrade() else { return Next::Idle };
        if self.busy.replace(true) {
            self.again.set(true);
            return Next::Idle;
        }
        let next = self.accept(&server);
        self.busy.set(false);
        if self.again.take() { next.max(Next::Again) } else { next }
    }

    fn context_ended(self: Rc<Self>) {
        if let Some(server) = self.server.upgrade() {
            server.close();
        }
    }
}

// ---- binding ----

fn bind(address: &Address, local: &str, backlog: i32) -> Result<(Vec<OwnedFd>, Option<SocketFile>)> {
    let failed = |source: io::Error| Error::from_listen(address, source);
    match address.target() {
        Target::Service { .. } => Err(no_services(address)),
        Target::Unix(path) => {
            let (fd, file) = bind_unix(path, backlog).map_err(failed)?;
            Ok((vec![fd], Some(file)))
        }
        Target::Direct(addresses) => Ok((bind_all(addresses, backlog).map_err(failed)?, None)),
        Target::Inet { tls: Some(_), .. } => Err(address.unfit("a URL cannot be listened on; expected a port")),
        Target::Inet { host, port, .. } => {
            let port = port_number(address, port)?;
            let host = match (host, local) {
                (Some(_), local) if !local.is_empty() => {
                    return Err(address.unfit(format!("it names an address itself, and {local:?} was set as another")));
                }
                (Some(host), _) => Some(host.clone()),
                (None, "") => None,
                (None, local) => Some(listen_host(local)?),
            };
            let sockets = match local_addresses(address, host.as_ref(), port)? {
                Some(addresses) => bind_all(&addresses, backlog),
                None => bind_everywhere(port, backlog),
            };
            Ok((sockets.map_err(failed)?, None))
        }
    }
}

fn listen_host(local: &str) -> Result<Host> {
    let parsed = Address::try_from((local, 0))?;
    match parsed.target() {
        Target::Inet { host: Some(host), .. } => Ok(host.clone()),
        _ => Err(parsed.unfit("expected an address of this machine, as 127.0.0.1")),
    }
}

/// One IPv6 socket that serves IPv4 as well; where there is no IPv6, an IPv4 one.
fn bind_everywhere(port: u16, backlog: i32) -> io::Result<Vec<OwnedFd>> {
    let dual = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match bind_inet(&dual, false, backlog) {
        Ok(fd) => Ok(vec![fd]),
        Err(error) if is_missing_family(&error) => {
            Ok(vec![bind_inet(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), true, backlog)?])
        }
        Err(error) => Err(error),
    }
}

/// One socket for each address, all with the same port. A family that this machine lacks is left out if another is there.
fn bind_all(addresses: &[SocketAddr], backlog: i32) -> io::Result<Vec<OwnedFd>> {
    let mut tries = PORT_TRIES;
    loop {
        let mut sockets: Vec<OwnedFd> = Vec::new();
        let mut missing = None;
        let mut port = None;
        let mut clash = None;
        for address in addresses {
            let mut address = *address;
            if let (0, Some(port)) = (address.port(), port) {
                address.set_port(port);
            }
            match bind_inet(&address, true, backlog) {
                Ok(fd) => {
                    port = endpoint(rustix::net::getsockname(&fd)?).port();
                    sockets.push(fd);
                }
                Err(error) if is_missing_family(&error) => missing = Some(error),
                Err(error) if !sockets.is_empty() && error.kind() == io::ErrorKind::AddrInUse => clash = Some(error),
                Err(error) => return Err(error),
            }
        }
        match (clash, missing) {
            (Some(error), _) => {
                // The free port that the first address got is taken on the second.
                tries -= 1;
                if tries == 0 || addresses.iter().any(|address| address.port() != 0) {
                    return Err(error);
                }
            }
            (None, Some(error)) if sockets.is_empty() => return Err(error),
            _ => return Ok(sockets),
        }
    }
}

fn is_missing_family(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].iter().any(|known| code == Some(known.raw_os_error()))
}

fn bind_inet(address: &SocketAddr, v6_only: bool, backlog: i32) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let fd = listening_socket(family)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, v6_only)?;
    }
    // A port whose last server has just stopped can be had again.
    sockopt::set_socket_reuseaddr(&fd, true)?;
    // Inherited by the connections: small messages must not wait for acknowledgements.
    sockopt::set_tcp_nodelay(&fd, true)?;
    rustix::net::bind(&fd, address)?;
    rustix::net::listen(&fd, backlog)?;
    Ok(fd)
}

fn bind_unix(path: &Path, backlog: i32) -> io::Result<(OwnedFd, SocketFile)> {
    let fd = listening_socket(AddressFamily::UNIX)?;
    rustix::net::bind(&fd, &unix_address(path)?).map_err(|error| match error {
        Errno::ADDRINUSE => io::Error::new(
            io::ErrorKind::AddrInUse,
            "that path exists already; if no other server uses it, remove it first",
        ),
        other => other.into(),
    })?;
    let file = SocketFile::new(path);
    if let Err(error) = rustix::net::listen(&fd, backlog) {
        file.remove();
        return Err(error.into());
    }
    Ok((fd, file))
}

fn listening_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?)
}

impl SocketFile {
    fn new(path: &Path) -> Self {
        // The working directory may change before it is removed.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
        SocketFile { identity: identity(&path), path }
    }

    /// Removes it, if it is still the one that was made.
    fn remove(&self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
