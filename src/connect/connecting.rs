//! The steps from an address to a connected socket: first the race, or the way through a proxy, then the TLS handshake.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};

use super::progress::{ConnectProgress, OnProgress, Progress};
use super::proxy::{Means, Passage, Proxy};
use super::race::{OPERATION, Race, Winner};
use crate::address::{Address, Endpoint, Scheme, Target, endpoint};
use crate::conn::{Common, Conn, Socket, Transport};
use crate::engine::{Engine, Key, UserFuture};
use crate::error::{Error, Operation, Result};
use crate::resolve::{Plan, plan, unknown_interface};
use crate::sys::{self, interface_number};
use crate::tls::{ClientTls, PeerName, Session, Tls, load_system_roots};

/// Returns the peer's address. Read at once: the kernel does not know it any more after a reset.
fn remote(fd: &OwnedFd) -> Option<Endpoint> {
    sys::peer_address(fd).ok().flatten().map(endpoint)
}

/// Returns the peer that an address stands for: its pin's name, and the host that certificates must be valid for.
fn peer(address: &Address, plan: &Plan) -> PeerName {
    let port = match plan {
        Plan::Direct(addresses) => addresses.first().map_or(0, SocketAddr::port),
        Plan::Lookup(_, port) => *port,
        // Services are known by their names, not by their ports.
        Plan::Unix(_) | Plan::Service(_) | Plan::Srv(_) => 0,
    };
    let (key, host) = address.peer(port);
    PeerName { key, host }
}

/// Decides on TLS: by the caller's choice, else by the scheme of the address, else it is on except for unix sockets. A scheme with
/// TLS is not overruled: it may come from another person than `tls(false)` does.
fn secure(address: &Address, plan: &Plan, choice: Option<&Tls<ClientTls>>) -> Result<Option<ClientTls>> {
    if matches!(plan, Plan::Unix(_)) {
        return match choice {
            Some(Tls::On(_)) => Err(Error::Unsupported(format!("{address}: TLS is not available on unix sockets"))),
            _ => Ok(None),
        };
    }
    let settings = match (choice, address.target()) {
        (Some(Tls::Off), Target::Inet { scheme: Some(Scheme::Tls), .. }) => {
            return Err(Error::InvalidOption(format!(
                "{address}: the scheme stands for TLS from the start, and tls(false) turns it off; expected host:port, or the \
                 scheme of a protocol without TLS, such as tcp://"
            )));
        }
        (Some(Tls::Off), _) | (None, Target::Inet { scheme: Some(Scheme::Plain), .. }) => return Ok(None),
        (Some(Tls::On(settings)), _) => settings.clone(),
        (None, _) => ClientTls::default(),
    };
    Ok(Some(settings))
}

/// Returns the peer to verify once it is known which service was found, or which of several addresses answered. A service is
/// known by its name, whatever its host and port.
fn found_peer(address: &Address, peer: &PeerName, service: Option<&str>, remote: Option<&Endpoint>) -> PeerName {
    match (address.target(), service, remote) {
        (Target::Service { kind, .. }, Some(name), _) => PeerName { key: format!("{kind}|{name}"), host: None },
        (Target::Direct(several), _, Some(remote)) if several.len() > 1 => match remote.inet() {
            None => peer.clone(),
            Some(remote) => {
                let (key, host) = Address::from(remote).peer(remote.port());
                PeerName { key, host }
            }
        },
        _ => peer.clone(),
    }
}

/// The caller's options, checked as far as possible without network traffic.
pub(super) struct Request {
    pub(super) address: Address,
    /// The TLS settings, or `None` for plaintext.
    pub(super) secure: Option<ClientTls>,
    peer: PeerName,
    pub(super) common: Rc<Common>,
}

/// The way to an address.
pub(super) enum Route {
    Direct(Plan),
    Proxied(Box<Passage>),
}

/// A connection after the last step. With TLS, the handshake is still under way.
pub(super) enum Opened {
    Ready(Socket),
    Handshaking(Rc<Conn>),
}

impl Request {
    /// Checks what can be checked, and plans how to reach the address.
    pub(super) fn new(
        address: Address,
        common: Rc<Common>,
        tls: Option<&Tls<ClientTls>>,
        proxy: &Proxy,
    ) -> Result<(Self, Route)> {
        if let Target::Inet { scheme: Some(scheme), .. } = address.target()
            && let Some(problem) = scheme.unfit_for_sockets()
        {
            return Err(address.unfit(problem));
        }
        let plan = plan(&address)?;
        let secure = secure(&address, &plan, tls)?;
        if let Some(settings) = &secure {
            settings.check()?;
        }
        match &common.options.tuning.interface {
            // For a unix socket, setting the option fails.
            Some(name) if !matches!(plan, Plan::Unix(_)) && interface_number(name).is_none() => {
                return Err(unknown_interface(name));
            }
            _ => {}
        }
        let peer = peer(&address, &plan);
        let route = match proxy.passage(&address, &plan, secure.is_some())? {
            None => Route::Direct(plan),
            Some(passage) => Route::Proxied(Box::new(passage)),
        };
        Ok((Request { address, secure, peer, common }, route))
    }

    /// Makes a connection of the socket that won the race. With TLS, `done` gets the result of the handshake.
    pub(super) fn open(
        &self,
        engine: &Rc<Engine>,
        won: Winner,
        done: impl FnOnce(Result<Socket>) + 'static,
    ) -> Result<Opened> {
        let remote = won.asked.or_else(|| remote(&won.fd));
        let transport = Transport::socket(won.fd, remote.as_ref());
        let common = self.common.clone();
        let peer = found_peer(&self.address, &self.peer, won.service.as_deref(), remote.as_ref());
        let Some(settings) = &self.secure else {
            common.set_peer(peer);
            let conn = Conn::new(engine, transport, common, remote)?;
            if let Some(tls) = won.tls {
                conn.handshaking().take_over(tls.session, tls.plain);
            }
            return Ok(Opened::Ready(Socket::from_conn(conn)));
        };
        let session = Session::client(settings, &peer)?;
        // The handle is made at once: a connection without a handle closes.
        let done = Box::new(move |conn: &Rc<Conn>, result: Result| {
            done(result.map(|()| Socket::from_conn(conn.clone())));
        });
        Conn::with_session(engine, transport, common, remote, session, done).map(Opened::Handshaking)
    }
}

/// Loads the system roots on a thread, and then calls from the loop.
pub(in crate::connect) fn load_roots(engine: &Rc<Engine>, then: impl FnOnce() + 'static) -> std::io::Result<()> {
    let thread = Rc::new(Cell::new(None::<std::thread::JoinHandle<()>>));
    let loaded = thread.clone();
    let remote = engine.remote(move |_| {
        if let Some(thread) = loaded.take() {
            // The thread has made its call, and ends.
            let _ = thread.join();
        }
        then();
    });
    let spawned = std::thread::Builder::new().name("network-roots".into()).spawn(move || {
        // The handshake that needs the roots reports the error.
        let _ = load_system_roots();
        remote.call();
    });
    thread.set(Some(spawned?));
    Ok(())
}

/// Called once, from the main loop, with the result.
pub(super) type Connected = Box<dyn FnOnce(&Rc<Engine>, Result<Socket>)>;

/// A connection attempt: the race or the way through a proxy, then the handshake.
pub(super) struct Connecting {
    engine: Rc<Engine>,
    pub(super) request: Request,
    progress: Progress,
    /// Kept alive by its timer.
    race: RefCell<Weak<Race>>,
    /// The task that goes through a proxy.
    through: Cell<Option<Key>>,
    conn: RefCell<Option<Rc<Conn>>>,
    done: RefCell<Option<Connected>>,
}

impl Connecting {
    pub(super) fn start(
        engine: &Rc<Engine>,
        request: Request,
        route: Route,
        progress: OnProgress,
        done: Connected,
    ) -> Rc<Self> {
        let progress = Progress::new(engine, progress);
        let connecting = Rc::new(Connecting {
            engine: engine.clone(),
            request,
            progress: progress.clone(),
            race: RefCell::default(),
            through: Cell::default(),
            conn: RefCell::new(None),
            done: RefCell::new(Some(done)),
        });
        let me = connecting.clone();
        let Request { address, common, .. } = &connecting.request;
        let options = &common.options;
        match route {
            Route::Direct(plan) => {
                if !matches!(plan, Plan::Direct(_) | Plan::Unix(_)) {
                    progress.report(ConnectProgress::LookingUp);
                }
                let connected = Box::new(move |_: &Rc<Engine>, result| me.connected(result));
                let race = Race::start(engine, address, &options.tuning, plan, options.connect_timeout, connected);
                race.before_first_attempt(move || progress.report(ConnectProgress::Connecting));
                connecting.race.replace(Rc::downgrade(&race));
            }
            Route::Proxied(passage) => {
                progress.report(ConnectProgress::Connecting);
                let way = async move {
                    let means = Means::new(&me.request.common.options, false);
                    let won = passage.connect(&me.engine, means).await;
                    me.connected(won);
                };
                connecting.through.set(Some(engine.spawn(Rc::new(UserFuture::new(way)))));
            }
        }
        connecting
    }

    fn connected(self: &Rc<Self>, result: Result<Winner>) {
        let won = match result {
            Ok(won) => won,
            Err(error) => return self.finish(Err(error)),
        };
        if self.request.secure.is_some() {
            self.progress.report(ConnectProgress::Handshaking);
        }
        match &self.request.secure {
            Some(settings) if settings.may_load_roots(&self.request.peer) => self.load_roots(won),
            _ => self.open(won),
        }
    }

    /// Loads the system roots on a thread: reading them takes milliseconds, once per process.
    fn load_roots(self: &Rc<Self>, won: Winner) {
        let me = self.clone();
        let loaded = load_roots(&self.engine, move || {
            if me.done.borrow().is_some() {
                me.open(won);
            }
        });
        if let Err(source) = loaded {
            let address = self.request.address.to_string();
            self.finish(Err(Error::Io { operation: Operation::LoadCertificates, address, source }));
        }
    }

    fn open(self: &Rc<Self>, won: Winner) {
        let me = self.clone();
        let handshake_done = move |result| {
            me.conn.take();
            me.finish(result);
        };
        match self.request.open(&self.engine, won, handshake_done) {
            Ok(Opened::Ready(socket)) => self.finish(Ok(socket)),
            Ok(Opened::Handshaking(conn)) => drop(self.conn.replace(Some(conn))),
            Err(error) => self.finish(Err(error)),
        }
    }

    fn finish(&self, result: Result<Socket>) {
        let done = self.done.take();
        self.progress.end();
        self.race.take();
        if let Some(done) = done {
            done(&self.engine, result);
        }
    }

    /// Cancels the attempt, at any step.
    pub(super) fn cancel(&self) {
        if self.done.borrow().is_none() {
            return;
        }
        let error = || Error::Cancelled { operation: OPERATION, address: self.request.address.to_string() };
        let race = self.race.take();
        if let Some(race) = race.upgrade() {
            race.finish(Err(error()));
        }
        if let Some(through) = self.through.take() {
            self.engine.drop_task(through);
        }
        let conn = self.conn.take();
        if let Some(conn) = conn {
            conn.abort_silently();
        }
        self.finish(Err(error()));
    }
}
