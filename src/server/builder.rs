//! Sets what a server and its connections are given, then starts it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::bind::{announcement, bind};
use super::listener::Listener;
use super::{Obj, OnPublished, SERVERS, Server, Shared};
use crate::address::{Address, Target};
use crate::conn::handler::{Disconnect, SharedDisconnect};
use crate::conn::{Options, limit_setters};
use crate::connect::note_listening;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::socket::Socket;
use crate::tls::{ServerSetup, ServerTls, Tls};
use crate::transport::endpoint;

/// How many hand-shakes of TLS may be going on at a time, unless the program says otherwise. Each costs some hundred
/// microseconds and some kilobytes; whoever connects and then says nothing must not keep others out for long.
const HANDSHAKES: usize = 1000;

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
    service_name: Option<String>,
    txt: Vec<(String, Vec<u8>)>,
    on_published: Option<OnPublished>,
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
        }
    }

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

    /// The name to publish a service under, for an address with none, as `chat|` or `chat||1234`: 1 to 63 bytes of any
    /// characters. The name in an address can hold no `|`, this one can.
    pub fn service_name(mut self, name: impl Into<String>) -> Self {
        self.service_name = Some(name.into());
        self
    }

    /// Adds a key and a value to the TXT record of a published service. A key is printable ASCII without `=`; both
    /// together have at most 254 bytes.
    pub fn txt(mut self, key: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.txt.push((key.into(), value.as_ref().to_vec()));
        self
    }

    /// Called, from the main loop, each time the server's service has been published, with the name it has got: the first
    /// time, and when it is back after the Avahi daemon was away or has renamed it.
    pub fn published_cb(mut self, callback: impl Fn(&Server, &str) + 'static) -> Self {
        self.on_published = Some(Box::new(callback));
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
        let announcement = announcement(&address, self.service_name, &self.txt)?;
        let (sockets, path) = bind(&address, &self.address, backlog)?;
        let port = sockets.first().and_then(|fd| rustix::net::getsockname(fd).ok());
        let port = port.and_then(|local| endpoint(local).port()).unwrap_or(0);
        let shared = Rc::new(Shared {
            engine: engine.clone(),
            address,
            listeners: RefCell::default(),
            path: RefCell::new(path),
            port,
            publication: RefCell::new(None),
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
            let local = rustix::net::getsockname(&fd).ok().and_then(|local| endpoint(local).inet());
            let listener =
                Listener::start(&shared, fd).map_err(|source| Error::from_listen(&shared.address, source))?;
            shared.listeners.borrow_mut().push(listener);
            if let Some(local) = local {
                note_listening(local, true);
            }
        }
        if let Some(announcement) = announcement {
            shared.announce(announcement.with_port(port), self.on_published);
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
