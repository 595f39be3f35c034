//! Sets what a server and its connections are given, then starts it.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::num::NonZeroU64;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use super::accept::Asked;
use super::access::{Account, AllowList, Allowed};
use super::bind::{announcement, bind};
use super::handshakes::Handshakes;
use super::listener::Listener;
use super::listening::{FileSettings, ListenOptions, Listening};
use super::unix::SocketFile;
use super::{OnClient, OnPublished, SERVERS, Server, Shared, server_name};
use crate::address::{Address, Target, UnixName, endpoint};
use crate::avahi::Announcement;
use crate::conn::callbacks::{Disconnect, SharedDisconnect};
use crate::conn::{Common, Options, Roster, Socket, limit_setters};
use crate::connect::note_listening;
use crate::engine::{Engine, LogQuota};
use crate::error::{Error, Result, count};
use crate::log;
use crate::sys::{self, KeepAlive};
use crate::tls::{ServerSetup, ServerTls, Tls};

/// How many hand-shakes of TLS may be going on at a time, unless the program says otherwise. Each costs some hundred
/// microseconds and some kilobytes; whoever connects and then says nothing must not keep others out for long.
const HANDSHAKES: usize = 1000;

/// Log records about rejected clients per second, unless the program says otherwise.
const REJECTIONS_LOGGED: u32 = 10;

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
#[derive(Clone)]
#[must_use]
pub struct ServerBuilder {
    pub(super) address: String,
    pub(super) backlog: u32,
    pub(super) max_connections: usize,
    pub(super) options: Options,
    pub(super) on_disconnect: Option<SharedDisconnect>,
    pub(super) service_name: Option<String>,
    pub(super) txt: Vec<(String, Vec<u8>)>,
    pub(super) on_published: Option<OnPublished>,
    /// As chosen; `None` leaves it to the address.
    pub(super) tls: Option<Tls<ServerTls>>,
    pub(super) max_handshakes: usize,
    pub(super) max_handshakes_per_address: Option<usize>,
    pub(super) rejection_log_rate: u32,
    pub(super) mode: Option<u32>,
    pub(super) group: Option<Account>,
    pub(super) replace_stale: bool,
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

    pub(super) fn new() -> Self {
        ServerBuilder {
            address: String::new(),
            backlog: 128,
            max_connections: usize::MAX,
            options: Options::default(),
            on_disconnect: None,
            service_name: None,
            txt: Vec::new(),
            on_published: None,
            tls: None,
            max_handshakes: HANDSHAKES,
            max_handshakes_per_address: None,
            rejection_log_rate: REJECTIONS_LOGGED,
            mode: None,
            group: None,
            replace_stale: false,
            allowed: AllowList::default(),
        }
    }

    /// Which address of this machine to listen on. Empty, the default, is all of IPv6 and IPv4; `0.0.0.0` is all of IPv4
    /// and no IPv6; `127.0.0.1` or `localhost` is for this machine only.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = address.into();
        self
    }

    /// How to use TLS: `false` for not at all, `true` for the certificate of this host's name, `"name"` for that of another
    /// name, an [`Identity`](crate::tls::Identity), or [`ServerTls`] with all settings. A certificate that is not there is
    /// made.
    ///
    /// Without this call it is on for TCP and off for unix sockets.
    pub fn tls(mut self, tls: impl Into<Tls<ServerTls>>) -> Self {
        self.tls = Some(tls.into());
        self
    }

    /// The most hand-shakes of TLS that may be going on at a time. 1000. Further clients wait in the backlog.
    pub fn max_handshakes(mut self, handshakes: usize) -> Self {
        self.max_handshakes = handshakes.max(1);
        self
    }

    /// Sets the share of the [handshakes](ServerBuilder::max_handshakes) that one client address is entitled to. Default: a
    /// tenth of them (100), at least 10. IPv6 addresses of the same 64-bit network count as one.
    ///
    /// The share matters only while all places are taken. Then a client whose address has fewer handshakes in progress than
    /// the share takes the place of the oldest handshake of the address that has most, if that has more than the share. A
    /// client of any other address takes the place of a handshake from its own address that is older than one second, or
    /// is rejected. So a host that opens connections and says nothing does not keep others out. Where all clients come from
    /// one address, as behind a proxy, set the share to `max_handshakes`: then all of them wait in the backlog.
    pub fn max_handshakes_per_address(mut self, handshakes: usize) -> Self {
        self.max_handshakes_per_address = Some(handshakes.max(1));
        self
    }

    /// Limits log records about rejected clients to this many per second. Default: 10. Further ones are counted, and their
    /// number is logged at the end of the second.
    ///
    /// A client is rejected if its TLS handshake fails or if it may not connect.
    pub fn rejection_log_rate(mut self, records_per_second: u32) -> Self {
        self.rejection_log_rate = records_per_second;
        self
    }

    /// How many clients may wait to be accepted; the system may allow fewer. 128.
    pub fn backlog(mut self, clients: u32) -> Self {
        self.backlog = clients;
        self
    }

    /// The most connections at a time, those whose hand-shake of TLS is going on included. No limit by default.
    ///
    /// Further clients are not accepted and not turned away: they wait in the [backlog](ServerBuilder::backlog), where
    /// what they send waits as well, and come in their order as others end. When the backlog is full too, the system lets
    /// them try again until their own time-out. A connection counts until its disconnect callback is due; what it sends
    /// after that, in the background, does not.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections.max(1);
        self
    }

    /// The permissions of a unix socket's path, as `0o660`: who has the right to write may connect. The umask of the
    /// process does not change them, and at no moment the path has wider ones.
    ///
    /// Without this call, and without [`group`](Self::group), it is 0777 less the umask.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// The group that a unix socket's path is given, by name or number; the process must be in it, or be root. Without
    /// [`mode`](Self::mode) the path gets 0660, by which its owner and that group may connect.
    pub fn group(mut self, group: impl Into<Account>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Whether to replace a unix socket that a server has left behind which was killed. False.
    ///
    /// It is replaced only if it is a socket, and nobody listens on it any more; anything else is [`Error::InUse`]. Of
    /// several servers that start at once one gets the path. For addresses without a path this changes nothing.
    pub fn replace_stale(mut self, replace_stale: bool) -> Self {
        self.replace_stale = replace_stale;
        self
    }

    /// Who may connect to a unix socket: these users, by name or number, and the members of
    /// [`allow_groups`](Self::allow_groups). Everybody else's connection, root's too, is closed at once and logged.
    ///
    /// It is asked of the system, which knows; no client can pretend. Without either call everybody may whom the path's
    /// permissions let in.
    pub fn allow_users<A: Into<Account>>(mut self, users: impl IntoIterator<Item = A>) -> Self {
        self.allowed.users = Some(users.into_iter().map(Into::into).collect());
        self
    }

    /// As [`allow_users`](Self::allow_users): whose process is in one of these groups, be it a supplementary one.
    pub fn allow_groups<A: Into<Account>>(mut self, groups: impl IntoIterator<Item = A>) -> Self {
        self.allowed.groups = Some(groups.into_iter().map(Into::into).collect());
        self
    }

    /// Whether other servers, of the same user, may listen on the same port, if they allow it too: the system spreads the
    /// clients over them. Off by default. A port whose last server has just stopped can be had again in any case.
    pub fn reuse_port(mut self, reuse: bool) -> Self {
        self.options.tuning.reuse_port = reuse;
        self
    }

    /// As [`Socket::disconnect_cb`], for every connection that sets none of its own.
    pub fn disconnect_cb(mut self, callback: impl Fn(&Socket, Disconnect) + 'static) -> Self {
        self.on_disconnect = Some(Rc::new(callback));
        self
    }

    /// The name to publish a service under, for an address with none, as `chat|` or `chat||1234`: 1 to 63 bytes of any
    /// characters. The name in an address can hold no `|`, this one can.
    pub fn service_name(mut self, name: impl Into<String>) -> Self {
        self.service_name = Some(name.into());
        self
    }

    /// Adds a key and a value to the TXT record of a published service. A key is printable ASCII without `=`; both
    /// together have at most 254 bytes. In a build with the feature `zeroconf` instead of `avahi`, the value must be UTF-8
    /// without NUL; else listening fails with [`Error::Address`].
    pub fn txt_record(mut self, key: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.txt.push((key.into(), value.as_ref().to_vec()));
        self
    }

    /// Called, from the main loop, each time the server's service has been published, with the name it has got: the first
    /// time, and when it is back after the Avahi daemon was away or has renamed it.
    pub fn published_cb(mut self, callback: impl Fn(&Server, &str) + 'static) -> Self {
        self.on_published = Some(Rc::new(callback));
        self
    }

    /// As [`Server::new`].
    ///
    /// # Errors
    /// As there.
    pub fn listen<A>(self, address: A, on_client: impl FnMut(Socket) -> Result + 'static) -> Result<Server>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        self.start(address.try_into()?, Some(Box::new(on_client)))
    }

    /// As [`Server::bind`].
    ///
    /// # Errors
    /// As there.
    pub fn bind<A>(self, address: A) -> Result<Server>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        self.start(address.try_into()?, None)
    }

    pub(super) fn start(self, address: Address, on_client: Option<Box<OnClient>>) -> Result<Server> {
        let engine = Engine::current()?;
        let setup = self.prepare_tls(&address)?;
        let backlog = i32::try_from(self.backlog).unwrap_or(i32::MAX);
        let file = self.file_settings(&address)?;
        let announcement = announcement(&address, self.service_name.clone(), &self.txt)?;
        let how = ListenOptions { backlog, tuning: &self.options.tuning, file };
        let allowed = self.allowed.resolve()?;
        let (sockets, path) = bind(&address, &self.address, how)?;
        self.serve_on(&engine, Ready { address, sockets, path, setup, allowed, announcement }, on_client)
    }

    /// Serves on sockets that listen already. Without `on_client`, clients are accepted on request.
    pub(super) fn serve_on(
        self,
        engine: &Rc<Engine>,
        ready: Ready,
        on_client: Option<Box<OnClient>>,
    ) -> Result<Server> {
        let Ready { address, sockets, path, setup, allowed, announcement } = ready;
        let port = sockets.first().and_then(|listening| sys::local_address(&listening.fd).ok());
        let port = port.and_then(|local| endpoint(local).port()).unwrap_or(0);
        let (options, on_disconnect) = (self.options, self.on_disconnect);
        let name = server_name(&address, port);
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
            max_connections: self.max_connections,
            common: Common::new(options, me.clone() as Weak<dyn Roster>, on_disconnect),
            setup,
            handshakes: Handshakes::new(
                self.max_handshakes,
                self.max_handshakes_per_address.unwrap_or((self.max_handshakes / 10).max(10)),
            ),
            rejections: rejections(name, self.rejection_log_rate),
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
                note_listening(local, true);
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

/// Everything that had to be looked up, loaded or bound before a server starts.
pub(super) struct Ready {
    pub(super) address: Address,
    pub(super) sockets: Vec<Listening>,
    pub(super) path: Option<SocketFile>,
    pub(super) setup: Option<Arc<ServerSetup>>,
    pub(super) allowed: Option<Allowed>,
    pub(super) announcement: Option<Announcement>,
}

fn rejections(name: String, per_second: u32) -> Rc<LogQuota> {
    LogQuota::new(per_second, move |missed| {
        let clients = count(missed, "more client");
        log::message("accept").peer(&name).say(format_args!("rejected {clients} of {name}"));
    })
}

impl ServerBuilder {
    /// What the file of a unix socket is to be like; what only has a meaning there is refused elsewhere.
    pub(super) fn file_settings(&self, address: &Address) -> Result<FileSettings> {
        let name = match address.target() {
            Target::Unix(name) => Some(name),
            _ => None,
        };
        if !self.allowed.is_empty() && name.is_none() {
            return Err(address.unfit("who connects is known by user and group on unix sockets only"));
        }
        if self.mode.is_some() || self.group.is_some() {
            match name {
                Some(UnixName::Path(_)) => {}
                Some(UnixName::Abstract(_)) => {
                    return Err(address.unfit("an abstract name has no file, hence no mode and no group"));
                }
                None => return Err(address.unfit("a mode and a group are for the paths of unix sockets")),
            }
        }
        if let Some(mode) = self.mode.filter(|mode| mode & !0o777 != 0) {
            return Err(Error::InvalidOption(format!("expected a mode of at most 0777, not {mode:04o}")));
        }
        let group = self.group.as_ref().map(Account::group).transpose()?;
        Ok(FileSettings { mode: self.mode, group, replace_stale: self.replace_stale })
    }

    /// Loads or makes the certificate, if there is to be one.
    pub(super) fn prepare_tls(&self, address: &Address) -> Result<Option<Arc<ServerSetup>>> {
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
            log::warning("identity").peer(&address).error(&warning).say(format_args!("{warning}"));
        }
        log::info("listen")
            .peer(&address)
            .say(format_args!("the server on {address} has the fingerprint {}", setup.identity().fingerprint()));
        Ok(Some(setup))
    }
}
