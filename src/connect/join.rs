//! From an address to a socket that is ready for use: first the race, then the hand-shake of TLS.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};

use super::race::{Race, Won};
use crate::address::{Address, Endpoint, Target, endpoint};
use crate::conn::{Common, Conn, Socket, Transport};
use crate::engine::Engine;
use crate::error::{Error, Operation, Result};
use crate::resolve::{Plan, interface, plan, unknown_interface};
use crate::sys;
use crate::tls::{ClientTls, PeerName, Session, Tls, load_system_roots};

/// Who the peer is. Asked at once: a connection that has been reset does not know any more.
pub(super) fn remote(fd: &OwnedFd) -> Option<Endpoint> {
    sys::peer_address(fd).ok().flatten().map(endpoint)
}

/// How to secure a connection: by which settings, and as whom the peer must show itself.
pub(super) type Secure = Option<(ClientTls, PeerName)>;

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
        (Some(Tls::Off), _) | (None, Target::Inet { tls: Some(false), .. }) => return Ok(None),
        (Some(Tls::On(settings)), _) => settings.clone(),
        (None, _) => ClientTls::default(),
    };
    let (key, host) = address.peer(port);
    Ok(Some((settings, PeerName { key, host })))
}

/// As whom the peer must show itself, now that it is known which service was found, or which of several addresses has
/// answered: a service is known by its name, on whatever host and port it is.
pub(super) fn found_peer(
    address: &Address,
    peer: &PeerName,
    service: Option<&str>,
    remote: Option<&Endpoint>,
) -> PeerName {
    match (address.target(), service, remote) {
        (Target::Service { kind, .. }, Some(name), _) => PeerName { key: format!("{kind}|{name}"), host: None },
        (Target::Direct(several), _, Some(Endpoint::Inet(remote))) if several.len() > 1 => {
            let (key, host) = Address::from(*remote).peer(remote.port());
            PeerName { key, host }
        }
        _ => peer.clone(),
    }
}

/// What the caller wants, read as far as that goes without touching the network.
pub(super) struct Request {
    pub(super) address: Address,
    pub(super) plan: Plan,
    pub(super) secure: Secure,
    pub(super) common: Rc<Common>,
}

impl Request {
    pub(super) fn new(address: Address, common: Rc<Common>, tls: Option<&Tls<ClientTls>>) -> Result<Self> {
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
        Ok(Request { address, plan, secure, common })
    }
}

/// Called once, from the loop, with the outcome.
pub(super) type Joined = Box<dyn FnOnce(&Rc<Engine>, Result<Socket>)>;

/// The way from an address to a socket that is ready for use: the race, then the hand-shake.
pub(super) struct Joining {
    engine: Rc<Engine>,
    pub(super) address: Address,
    pub(super) common: Rc<Common>,
    pub(super) secure: Secure,
    /// Its timer keeps it while it is on.
    race: RefCell<Weak<Race>>,
    conn: RefCell<Option<Rc<Conn>>>,
    done: RefCell<Option<Joined>>,
}

impl Joining {
    pub(super) fn start(engine: &Rc<Engine>, request: Request, done: Joined) -> Rc<Self> {
        let Request { address, plan, secure, common } = request;
        let limit = common.options.connect_timeout;
        let joining = Rc::new(Joining {
            engine: engine.clone(),
            address,
            common,
            secure,
            race: RefCell::default(),
            conn: RefCell::new(None),
            done: RefCell::new(Some(done)),
        });
        let me = joining.clone();
        let race = Race::start(
            engine,
            &joining.address,
            &joining.common.options.tuning,
            plan,
            limit,
            Box::new(move |_, result| me.connected(result)),
        );
        joining.race.replace(Rc::downgrade(&race));
        joining
    }

    fn connected(self: &Rc<Self>, result: Result<Won>) {
        let won = match result {
            Ok(won) => won,
            Err(error) => return self.finish(Err(error)),
        };
        match &self.secure {
            Some((settings, peer)) if settings.may_load_roots(peer) => self.load_roots(won),
            _ => self.shake(won),
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
                me.shake(won);
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
                let address = self.address.to_string();
                self.finish(Err(Error::Io { operation: Operation::LoadCertificates, address, source }));
            }
        }
    }

    fn shake(self: &Rc<Self>, won: Won) {
        let remote = remote(&won.fd);
        let transport = Transport::socket(won.fd, remote.as_ref());
        let common = self.common.clone();
        let Some((settings, peer)) = &self.secure else {
            let conn = Conn::new(&self.engine, transport, common, remote);
            return self.finish(conn.map(Socket::from_conn));
        };
        let peer = found_peer(&self.address, peer, won.service.as_deref(), remote.as_ref());
        let me = self.clone();
        let done = Box::new(move |conn: &Rc<Conn>, result: Result| {
            me.conn.take();
            me.finish(result.map(|()| Socket::from_conn(conn.clone())));
        });
        let started = Session::client(settings, &peer)
            .and_then(|session| Conn::with_session(&self.engine, transport, common, remote, session, done));
        match started {
            Ok(conn) => drop(self.conn.replace(Some(conn))),
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
        let error = || Error::Cancelled { operation: Operation::Connect, address: self.address.to_string() };
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
