//! From an address to a socket that is ready for use: first the race, then the hand-shake of TLS.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};

use super::race::{OPERATION, Race, Won};
use crate::address::{Address, Endpoint, Scheme, Target, endpoint};
use crate::conn::{Common, Conn, Socket, Transport};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::resolve::{Plan, interface, plan, unknown_interface};
use crate::tls::{ClientTls, PeerName, Session, Tls, load_system_roots};

/// Who the peer is. Asked at once: a connection that has been reset does not know any more.
pub(super) fn remote(fd: &OwnedFd) -> Option<Endpoint> {
    rustix::net::getpeername(fd).ok().flatten().map(endpoint)
}

/// How to secure a connection: by which settings, and as whom the peer must show itself.
type Secure = Option<(ClientTls, PeerName)>;

/// Decides on TLS: by what the caller chose, else by the address, else it is on for everything but unix sockets.
fn secure(address: &Address, plan: &Plan, choice: Option<&Tls<ClientTls>>) -> Result<Secure> {
    let port = match plan {
        Plan::Unix(_) => match choice {
            Some(Tls::On(_)) => return Err(Error::Unsupported(format!("{address}: TLS is not used on unix sockets"))),
            _ => return Ok(None),
        },
        Plan::Direct(addresses) => addresses.first().map_or(0, SocketAddr::port),
        Plan::LookUp(_, port) => *port,
        // It is known by its name, at whatever port.
        Plan::Service(_) => 0,
    };
    let settings = match (choice, address.target()) {
        (Some(Tls::Off), _) | (None, Target::Inet { scheme: Some(Scheme::Plain), .. }) => return Ok(None),
        (Some(Tls::On(settings)), _) => settings.clone(),
        (None, _) => ClientTls::default(),
    };
    let (key, host) = address.peer(port);
    Ok(Some((settings, PeerName { key, host })))
}

/// As whom the peer must show itself, now that it is known which service was found: a service is known by its name, on
/// whatever host and port it is.
fn found_peer(address: &Address, peer: &PeerName, service: Option<&str>) -> PeerName {
    match (address.target(), service) {
        (Target::Service { kind, .. }, Some(name)) => PeerName { key: format!("{kind}|{name}"), host: None },
        _ => peer.clone(),
    }
}

/// What the caller wants, read as far as that goes without touching the network.
pub(super) struct Request {
    pub(super) address: Address,
    pub(super) secure: Secure,
    pub(super) common: Rc<Common>,
}

/// A connection after its last step, which with TLS is the handshake.
pub(super) enum Opened {
    Ready(Socket),
    Handshaking(Rc<Conn>),
}

impl Request {
    /// Checks what can be checked, and plans how to reach the address.
    pub(super) fn new(address: Address, common: Rc<Common>, tls: Option<&Tls<ClientTls>>) -> Result<(Self, Plan)> {
        if matches!(address.target(), Target::Inet { scheme: Some(Scheme::Udp), .. }) {
            return Err(address.unfit("udp:// is for UdpSocket; expected tcp:// or tls://"));
        }
        let plan = plan(&address)?;
        let secure = secure(&address, &plan, tls)?;
        if let Some((settings, _)) = &secure {
            settings.check()?;
        }
        match &common.options.tuning.interface {
            // That a unix socket has none is told when it is set.
            Some(name) if !matches!(plan, Plan::Unix(_)) && interface(name).is_none() => {
                return Err(unknown_interface(name));
            }
            _ => {}
        }
        Ok((Request { address, secure, common }, plan))
    }

    /// Makes a connection of the socket that won the race. `done` gets the outcome of the handshake, if there is one.
    pub(super) fn open(
        &self,
        engine: &Rc<Engine>,
        won: Won,
        done: impl FnOnce(Result<Socket>) + 'static,
    ) -> Result<Opened> {
        let remote = remote(&won.fd);
        let transport = Transport::socket(won.fd, remote.as_ref());
        let common = self.common.clone();
        let Some((settings, peer)) = &self.secure else {
            return Conn::new(engine, transport, common, remote).map(|conn| Opened::Ready(Socket::from_conn(conn)));
        };
        let peer = found_peer(&self.address, peer, won.service.as_deref());
        let session = Session::client(settings, &peer)?;
        // With a handle at once: a connection without any closes.
        let done = Box::new(move |conn: &Rc<Conn>, result: Result| {
            done(result.map(|()| Socket::from_conn(conn.clone())));
        });
        Conn::with_session(engine, transport, common, remote, session, done).map(Opened::Handshaking)
    }
}

/// Called once, from the loop, with the outcome.
pub(super) type Joined = Box<dyn FnOnce(&Rc<Engine>, Result<Socket>)>;

/// The way from an address to a socket that is ready for use: the race, then the handshake.
pub(super) struct Joining {
    engine: Rc<Engine>,
    pub(super) request: Request,
    /// Its timer keeps it while it is on.
    race: RefCell<Weak<Race>>,
    conn: RefCell<Option<Rc<Conn>>>,
    done: RefCell<Option<Joined>>,
}

impl Joining {
    pub(super) fn start(engine: &Rc<Engine>, request: Request, plan: Plan, done: Joined) -> Rc<Self> {
        let joining = Rc::new(Joining {
            engine: engine.clone(),
            request,
            race: RefCell::default(),
            conn: RefCell::new(None),
            done: RefCell::new(Some(done)),
        });
        let me = joining.clone();
        let Request { address, common, .. } = &joining.request;
        let options = &common.options;
        let connected = Box::new(move |_: &Rc<Engine>, result| me.connected(result));
        let race = Race::start(engine, address, &options.tuning, plan, options.connect_timeout, connected);
        joining.race.replace(Rc::downgrade(&race));
        joining
    }

    fn connected(self: &Rc<Self>, result: Result<Won>) {
        let won = match result {
            Ok(won) => won,
            Err(error) => return self.finish(Err(error)),
        };
        match &self.request.secure {
            Some((settings, peer)) if settings.may_load_roots(peer) => self.load_roots(won),
            _ => self.open(won),
        }
    }

    /// Reads the system's roots on a thread: that takes milliseconds of disk, once in a process.
    fn load_roots(self: &Rc<Self>, won: Won) {
        let thread = Rc::new(Cell::new(None::<std::thread::JoinHandle<()>>));
        let (me, loaded) = (self.clone(), thread.clone());
        let remote = self.engine.remote(move |_| {
            if let Some(thread) = loaded.take() {
                // It has called, and does nothing more.
                let _ = thread.join();
            }
            if me.done.borrow().is_some() {
                me.open(won);
            }
        });
        let spawned = std::thread::Builder::new().name("network-roots".into()).spawn(move || {
            // What goes wrong is told by the hand-shake that would need them.
            let _ = load_system_roots();
            remote.call();
        });
        match spawned {
            Ok(handle) => thread.set(Some(handle)),
            Err(source) => {
                let address = self.request.address.to_string();
                self.finish(Err(Error::Io { operation: "loading certificates for", address, source }));
            }
        }
    }

    fn open(self: &Rc<Self>, won: Won) {
        let me = self.clone();
        let shaken = move |result| {
            me.conn.take();
            me.finish(result);
        };
        match self.request.open(&self.engine, won, shaken) {
            Ok(Opened::Ready(socket)) => self.finish(Ok(socket)),
            Ok(Opened::Handshaking(conn)) => drop(self.conn.replace(Some(conn))),
            Err(error) => self.finish(Err(error)),
        }
    }

    fn finish(&self, result: Result<Socket>) {
        let done = self.done.take();
        self.race.take();
        if let Some(done) = done {
            done(&self.engine, result);
        }
    }

    /// Gives up, whatever it is doing.
    pub(super) fn cancel(&self) {
        if self.done.borrow().is_none() {
            return;
        }
        let error = || Error::Cancelled { operation: OPERATION, address: self.request.address.to_string() };
        let race = self.race.take();
        if let Some(race) = race.upgrade() {
            race.finish(Err(error()));
        }
        let conn = self.conn.take();
        if let Some(conn) = conn {
            conn.abort_silently();
        }
        self.finish(Err(error()));
    }
}
