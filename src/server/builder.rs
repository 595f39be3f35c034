//! Options of a server and its connections; starting it.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::num::NonZeroU64;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use super::accept::Asked;
use super::access::{AllowList, Allowed};
use super::bind::{announcement, bind};
use super::handshakes::Handshakes;
use super::listener::Listener;
use super::listening::{ListenOptions, Listening};
use super::{OnClient, OnPublished, SERVERS, Server, Shared, server_name};
use crate::address::{Address, FileOptions, Target, endpoint, file_setters};
use crate::avahi::Announcement;
use crate::conn::callbacks::{Disconnect, SharedDisconnect};
use crate::conn::{Common, LineEnding, Options, Roster, Socket, limit_setters};
use crate::engine::{Engine, LogQuota};
use crate::error::{Error, Result, count, refuse_zeros};
use crate::log;
use crate::sys::{self, Account, FileSettings, KeepAlive, SocketFile};
use crate::tls::{ServerSetup, ServerTls, Tls};

/// Default limit of concurrent TLS handshakes. Each costs some hundred microseconds and some kilobytes; clients that
/// connect and say nothing must not keep others out for long.
const HANDSHAKES: usize = 1000;

/// Default limit of log records about rejected clients, per second.
const REJECTIONS_LOGGED: u32 = 10;

/// Default limit of the send queues of all connections, in bytes.
const TOTAL_SEND_LIMIT: usize = 1 << 30;

/// The limits of a server, apart from those of each connection.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    max_connections: usize,
    total_send_limit: usize,
    max_handshakes: usize,
    /// `None`: the default, from the limits of connections and handshakes.
    max_handshakes_per_address: Option<usize>,
    rejection_log_rate: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_connections: usize::MAX,
            total_send_limit: TOTAL_SEND_LIMIT,
            max_handshakes: HANDSHAKES,
            max_handshakes_per_address: None,
            rejection_log_rate: REJECTIONS_LOGGED,
        }
    }
}

impl Limits {
    /// # Errors
    /// [`Error::InvalidOption`] for a limit of zero, with which nobody could connect.
    fn check(&self) -> Result {
        let limits = [
            ("max_connections", self.max_connections),
            ("max_handshakes", self.max_handshakes),
            ("max_handshakes_per_address", self.share_of_an_address()),
        ];
        refuse_zeros("a server", limits.map(|(name, limit)| (name, limit == 0)))
    }

    fn share_of_an_address(&self) -> usize {
        let places = self.max_handshakes.min(self.max_connections);
        self.max_handshakes_per_address.unwrap_or((places / 10).max(10))
    }
}

/// Options for a [`Server`], all with defaults.
///
/// Created by [`Server::builder`]. Ends with [`listen`](Self::listen) (callback), [`serve`](Self::serve) (async callback)
/// or [`bind`](Self::bind) (clients are accepted on request). Options of connections, such as `line_limit`, apply to every
/// accepted connection.
///
/// # Example
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
#[derive(Clone)]
#[must_use]
pub struct ServerBuilder {
    pub(super) address: String,
    pub(super) backlog: u32,
    pub(super) limits: Limits,
    pub(super) options: Options,
    pub(super) on_disconnect: Option<SharedDisconnect>,
    pub(super) service_name: Option<String>,
    pub(super) txt: Vec<(String, Vec<u8>)>,
    pub(super) on_published: Option<OnPublished>,
    /// `None`: the default for the address.
    pub(super) tls: Option<Tls<ServerTls>>,
    pub(super) file: FileOptions,
    pub(super) allowed: AllowList,
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
    limit_setters!();
    file_setters!();

    pub(super) fn new() -> Self {
        ServerBuilder {
            address: String::new(),
            backlog: 128,
            limits: Limits::default(),
            options: Options::default(),
            on_disconnect: None,
            service_name: None,
            txt: Vec::new(),
            on_published: None,
            tls: None,
            file: FileOptions::default(),
            allowed: AllowList::default(),
        }
    }

    /// Sets the address of this machine to listen on. Empty, the default, means all IPv6 and IPv4 addresses; `0.0.0.0`
    /// means all IPv4 addresses and no IPv6; `127.0.0.1` or `localhost` accepts clients of this machine only.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = address.into();
        self
    }

    /// Configures TLS. Default: on for TCP, off for unix sockets, where it cannot be enabled.
    ///
    /// `false` disables it; `true` uses the certificate named after this host; a string selects a certificate by name;
    /// [`ServerTls`] and [`tls::Identity`](crate::tls::Identity) give full control. A missing certificate is created.
    pub fn tls(mut self, tls: impl Into<Tls<ServerTls>>) -> Self {
        self.tls = Some(tls.into());
        self
    }

    /// Limits the number of concurrent TLS handshakes. Default: 1000. Further clients wait in the accept backlog, unless
    /// one address has more than [its share](Self::max_handshakes_per_address).
    pub fn max_handshakes(mut self, handshakes: usize) -> Self {
        self.limits.max_handshakes = handshakes;
        self
    }

    /// Sets the share of the [handshakes](ServerBuilder::max_handshakes) that one client address is entitled to. Default: a
    /// tenth of them (100), or of [`max_connections`](Self::max_connections) if those are fewer; at least 10. IPv6 addresses
    /// of the same 64-bit network count as one.
    ///
    /// The share matters only while all places are taken. Then a client whose address has fewer handshakes in progress than
    /// the share takes the place of the oldest handshake of the address that has most, if that has more than the share. A
    /// client of any other address takes the place of a handshake from its own address that is older than one second, or
    /// is rejected. So a host that opens connections and says nothing does not keep others out. Where all clients come from
    /// one address, as behind a proxy, set the share to `max_handshakes`: then all of them wait in the backlog.
    pub fn max_handshakes_per_address(mut self, handshakes: usize) -> Self {
        self.limits.max_handshakes_per_address = Some(handshakes);
        self
    }

    /// Limits log records about rejected clients to this many per second. Default: 10. Further ones are counted, and their
    /// number is logged at the end of the second.
    ///
    /// A client is rejected if its TLS handshake fails or if it may not connect. The same limit applies to records about
    /// connections that end by an error and have no disconnect callback.
    pub fn rejection_log_rate(mut self, records_per_second: u32) -> Self {
        self.limits.rejection_log_rate = records_per_second;
        self
    }

    /// Sets the length of the accept backlog, in clients. Default: 128. The kernel may enforce a lower limit
    /// (`net.core.somaxconn`).
    pub fn backlog(mut self, clients: u32) -> Self {
        self.backlog = clients;
        self
    }

    /// Limits the number of open connections, including handshakes in progress. Default: no limit.
    ///
    /// Further clients are neither accepted nor rejected: they wait in the [accept backlog](ServerBuilder::backlog), and
    /// are accepted in order as connections end. When the backlog is full as well, the kernel lets clients retry until they
    /// time out, and may reset some. For handshakes in progress, see also [their share](Self::max_handshakes_per_address). A connection counts
    /// until its disconnect callback is due, not while it lingers.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.limits.max_connections = connections;
        self
    }

    /// Limits the send queues of all connections together, in bytes. Default: 1 GiB. Beyond it, sending fails with
    /// [`Error::QueueFull`] and queues nothing, so that clients that do not read cannot use up the memory.
    ///
    /// A queue counts from 64 KiB on. So a short message to a client that does read is always accepted.
    pub fn total_send_limit(mut self, bytes: usize) -> Self {
        self.limits.total_send_limit = bytes;
        self
    }

    /// Restricts a unix socket to these users and to members of [`allow_groups`](Self::allow_groups), by name or number.
    /// All other clients, including root, are closed at once and logged. Default: no list; the permissions of the path
    /// decide.
    ///
    /// The kernel reports the credentials, so they cannot be forged. `listen` fails with [`Error::InvalidOption`] for an
    /// unknown name.
    pub fn allow_users<A: Into<Account>>(mut self, users: impl IntoIterator<Item = A>) -> Self {
        self.allowed.users = Some(users.into_iter().map(Into::into).collect());
        self
    }

    /// Restricts a unix socket to processes in one of these groups, supplementary groups included, and to
    /// [`allow_users`](Self::allow_users).
    pub fn allow_groups<A: Into<Account>>(mut self, groups: impl IntoIterator<Item = A>) -> Self {
        self.allowed.groups = Some(groups.into_iter().map(Into::into).collect());
        self
    }

    /// Allows other servers of the same user to listen on the same port if they allow it too (`SO_REUSEPORT`). Default:
    /// false. The kernel distributes clients over them. A port whose last server has just stopped can be used again in any
    /// case.
    pub fn reuse_port(mut self, reuse: bool) -> Self {
        self.options.tuning.reuse_port = reuse;
        self
    }

    /// Sets a callback for the end of every connection that has no [own callback](Socket::disconnect_cb). It can be
    /// changed later by [`Server::disconnect_cb`].
    pub fn disconnect_cb(mut self, callback: impl Fn(&Socket, Disconnect) + 'static) -> Self {
        self.on_disconnect = Some(Rc::new(callback));
        self
    }

    /// Sets the instance name of a service whose address has none, such as `chat|` or `chat||1234`: 1 to 63 bytes of any
    /// characters. Unlike the name in an address, it may contain `|`.
    pub fn service_name(mut self, name: impl Into<String>) -> Self {
        self.service_name = Some(name.into());
        self
    }

    /// Adds a key and a value to the TXT record of a published service. A key is printable ASCII without `=`; key and value
    /// together have at most 254 bytes. In a build with the feature `zeroconf` instead of `avahi`, the value must be UTF-8
    /// without NUL; otherwise listening fails with [`Error::Address`].
    pub fn txt_record(mut self, key: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.txt.push((key.into(), value.as_ref().to_vec()));
        self
    }

    /// Sets a callback that receives the instance name whenever the service has been published: the first time, and again
    /// when the Avahi daemon has returned or renamed the service. It runs from the main loop.
    pub fn published_cb(mut self, callback: impl Fn(&Server, &str) + 'static) -> Self {
        self.on_published = Some(Rc::new(callback));
        self
    }

    /// Listens on an address and calls `on_client` for each client. See [`Server::new`].
    ///
    /// # Errors
    /// See [`Server::new`]; also [`Error::InvalidOption`] for an unknown user or group, a bad file mode, or a limit of zero on
    /// connections or handshakes.
    pub fn listen<A>(self, address: A, on_client: impl FnMut(Socket) -> Result + 'static) -> Result<Server>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        self.start(address.try_into()?, Some(Box::new(on_client)))
    }

    /// Listens on an address. Clients are accepted on request. See [`Server::bind`].
    ///
    /// # Errors
    /// See [`listen`](Self::listen).
    pub fn bind<A>(self, address: A) -> Result<Server>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        self.start(address.try_into()?, None)
    }

    pub(super) fn start(self, address: Address, on_client: Option<Box<OnClient>>) -> Result<Server> {
        // An error of this thread's comes before anything is bound.
        let _ = Engine::current()?;
        self.prepare(address)?.start(on_client)
    }

    /// Binds, and leaves it to the caller to start the server.
    pub(crate) fn prepare(self, address: Address) -> Result<Prepared> {
        let setup = self.prepare_tls(&address)?;
        let backlog = i32::try_from(self.backlog).unwrap_or(i32::MAX);
        let file = self.file_settings(&address)?;
        let announcement = announcement(&address, self.service_name.clone(), &self.txt)?;
        let how = ListenOptions { backlog, tuning: &self.options.tuning, file };
        let allowed = self.allowed.resolve()?;
        let (sockets, path) = bind(&address, &self.address, how)?;
        let ready = Ready { address, sockets, path, setup, allowed, announcement };
        Ok(Prepared { builder: self, ready })
    }

    /// Serves on sockets that listen already. Without `on_client`, clients are accepted on request.
    pub(super) fn serve_on(
        self,
        engine: &Rc<Engine>,
        ready: Ready,
        on_client: Option<Box<OnClient>>,
    ) -> Result<Server> {
        let port = ready.port();
        let Ready { address, sockets, path, setup, allowed, announcement } = ready;
        let (options, on_disconnect) = (self.options, self.on_disconnect);
        let name = server_name(&address, port);
        let limits = self.limits;
        let shared = Rc::new_cyclic(|me: &Weak<Shared>| Shared {
            engine: engine.clone(),
            address,
            listeners: RefCell::default(),
            first_listener: OnceCell::new(),
            path: RefCell::new(path),
            port,
            publication: RefCell::new(None),
            asked: on_client.is_none().then(Asked::default),
            on_client: on_client.into(),
            connections: RefCell::default(),
            waiting: RefCell::default(),
            next_number: Cell::new(NonZeroU64::MIN),
            max_connections: limits.max_connections,
            common: Common::new(options, limits.total_send_limit, me.clone() as Weak<dyn Roster>, on_disconnect),
            setup,
            handshakes: Handshakes::new(limits.max_handshakes, limits.share_of_an_address()),
            failures: failures(name.clone(), limits.rejection_log_rate),
            rejections: rejections(name, limits.rejection_log_rate),
            allowed,
            draining: Cell::new(false),
            detached: RefCell::new(None),
        });
        let mut only_here = true;
        for listening in sockets {
            let local = sys::local_address(&listening.fd).ok().and_then(|local| endpoint(local).inet());
            let listener =
                Listener::start(&shared, listening).map_err(|source| Error::from_listen(&shared.address, source))?;
            let _ = shared.first_listener.set(listener.clone());
            shared.listeners.borrow_mut().push(listener);
            if let Some(local) = local {
                only_here &= local.ip().is_loopback();
            }
        }
        if let Some(announcement) = announcement {
            shared.announce(announcement.at(port, only_here), self.on_published);
        }
        SERVERS.with(|servers| {
            let mut servers = servers.borrow_mut();
            servers.retain(|server| server.strong_count() > 0);
            servers.push(Rc::downgrade(&shared));
        });
        Ok(Server { shared })
    }
}

/// A server that listens and is not started.
pub(crate) struct Prepared {
    builder: ServerBuilder,
    ready: Ready,
}

impl Prepared {
    /// Starts it on the thread-default main context.
    pub(crate) fn start(self, on_client: Option<Box<OnClient>>) -> Result<Server> {
        self.builder.serve_on(&Engine::current()?, self.ready, on_client)
    }

    /// Returns its port, or 0 for a unix socket.
    #[cfg(feature = "http")]
    pub(crate) fn port(&self) -> u16 {
        self.ready.port()
    }
}

/// Everything that had to be looked up, loaded or bound before a server starts.
pub(super) struct Ready {
    pub(super) address: Address,
    pub(super) sockets: Vec<Listening>,
    pub(super) path: Option<SocketFile>,
    pub(super) setup: Option<Arc<ServerSetup>>,
    pub(super) allowed: Option<Allowed>,
    pub(super) announcement: Option<Announcement>,
}

impl Ready {
    fn port(&self) -> u16 {
        let local = self.sockets.first().and_then(|listening| sys::local_address(&listening.fd).ok());
        local.and_then(|local| endpoint(local).port()).unwrap_or(0)
    }
}

fn rejections(name: String, per_second: u32) -> Rc<LogQuota> {
    LogQuota::new(per_second, move |missed| {
        let clients = count(missed, "more client");
        log::message("accept").peer(&name).say(format_args!("rejected {clients} of {name}"));
    })
}

fn failures(name: String, per_second: u32) -> Rc<LogQuota> {
    LogQuota::new(per_second, move |missed| {
        let connections = count(missed, "more connection");
        log::message("end").peer(&name).say(format_args!("closed {connections} of {name} because of errors"));
    })
}

impl ServerBuilder {
    /// Returns the options of a unix socket's file. Options that only apply there are refused elsewhere.
    pub(super) fn file_settings(&self, address: &Address) -> Result<FileSettings> {
        if !self.allowed.is_empty() && !matches!(address.target(), Target::Unix(_)) {
            return Err(address.unfit("allow_users and allow_groups require a unix socket"));
        }
        self.file.settings(address)
    }

    /// Checks the limits. Loads or creates the certificate, if TLS is used.
    pub(super) fn prepare_tls(&self, address: &Address) -> Result<Option<Arc<ServerSetup>>> {
        self.limits.check()?;
        let is_unix = matches!(address.target(), Target::Unix(_));
        let settings = match &self.tls {
            Some(Tls::On(_)) if is_unix => return Err(address.unfit("TLS is not available on unix sockets")),
            Some(Tls::Off) => return Ok(None),
            None if is_unix => return Ok(None),
            Some(Tls::On(settings)) => settings.clone(),
            None => ServerTls::default(),
        };
        let setup = settings.setup()?;
        for warning in setup.identity().warnings() {
            log::warning("identity").peer(&address).error(&warning).say(format_args!("{warning}"));
        }
        log::info("listen").peer(&address).say(format_args!(
            "certificate fingerprint of the server on {address}: {}",
            setup.identity().fingerprint()
        ));
        Ok(Some(setup))
    }
}
