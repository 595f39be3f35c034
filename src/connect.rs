//! Connecting: look up, race the addresses, give up in time. One machine for the three faces; at whatever moment it is
//! cancelled, nothing stays behind.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use gio::prelude::*;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::address::{Address, Endpoint, Target};
use crate::conn::handler::call;
use crate::conn::{Conn, Options};
use crate::engine::{Engine, Handler, Key, Next, Ready, Registration, TimerKey};
use crate::error::{Error, Result};
use crate::resolve::{LookUp, Plan, look_up_blocking, plan};
use crate::socket::Socket;
use crate::tls::{ClientTls, PeerName, Session, Tls, load_system_roots};
use crate::transport::{Transport, endpoint};

/// The next address gets its chance after this long without an answer from the one before (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// How soon a unix socket whose backlog is full is tried again: the system has no event for that.
const UNIX_RETRY: Duration = Duration::from_millis(10);

/// Called once, never from within the call that started the race.
type Done = Box<dyn FnOnce(&Rc<Engine>, Result<OwnedFd>)>;

/// One address to try.
enum Candidate {
    Inet(SocketAddr),
    Unix(PathBuf),
}

/// A connection in the making.
struct Race {
    engine: Rc<Engine>,
    address: Address,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    candidates: VecDeque<Candidate>,
    look_up: Option<LookUp>,
    attempts: Vec<Rc<Attempt>>,
    /// What went wrong with the most telling attempt so far.
    error: Option<Error>,
    stagger: Option<TimerKey>,
    limit: Option<TimerKey>,
    retry: Option<TimerKey>,
    /// `None` when it is over.
    done: Option<Done>,
}

/// One socket that is being connected.
struct Attempt {
    race: Rc<Race>,
    fd: RefCell<Option<OwnedFd>>,
    key: Cell<Option<Key>>,
}

impl Race {
    fn start(engine: &Rc<Engine>, address: &Address, plan: Plan, limit: Duration, done: Done) -> Rc<Race> {
        let state = State { done: Some(done), ..State::default() };
        let race = Rc::new(Race { engine: engine.clone(), address: address.clone(), state: RefCell::new(state) });
        let late = race.clone();
        let timer = engine.after(limit, move |_| {
            let address = late.address.to_string();
            late.finish(Err(Error::TimedOut { operation: "connecting to", address, limit }));
        });
        race.state.borrow_mut().limit = Some(timer);
        // On the loop's next turn: a look-up may start threads, and before the loop runs the program may want to fork.
        let first = race.clone();
        engine.defer(move |_| first.run(plan));
        race
    }

    fn run(self: &Rc<Self>, plan: Plan) {
        if self.is_over() {
            return;
        }
        match plan {
            Plan::Unix(path) => self.add(Candidate::Unix(path)),
            Plan::Direct(addresses) => {
                self.state.borrow_mut().candidates.extend(addresses.into_iter().map(Candidate::Inet));
                self.try_next();
            }
            Plan::LookUp(host, port) => {
                let look_up = LookUp::start(&host, port);
                self.state.borrow_mut().look_up = Some(look_up);
                self.ask();
            }
        }
    }

    fn is_over(&self) -> bool {
        self.state.borrow().done.is_none()
    }

    /// Asks for one more address.
    fn ask(self: &Rc<Self>) {
        let Some(look_up) = self.state.borrow().look_up.clone() else { return };
        let me = self.clone();
        look_up.next(move |answer| {
            if me.is_over() {
                return;
            }
            match answer {
                Ok(Some(address)) => {
                    me.add(Candidate::Inet(address));
                    me.ask();
                }
                Ok(None) => me.no_more(None),
                Err(error) => {
                    let address = me.address.to_string();
                    me.no_more(Some(Error::Lookup { address, cause: error.message().to_owned() }));
                }
            }
        });
    }

    fn no_more(self: &Rc<Self>, error: Option<Error>) {
        let mut state = self.state.borrow_mut();
        state.look_up = None;
        if state.error.is_none() {
            state.error = error;
        }
        drop(state);
        self.give_up_if_hopeless();
    }

    /// One more address. It is tried at once unless another is under way, which gets its head start.
    fn add(self: &Rc<Self>, candidate: Candidate) {
        self.state.borrow_mut().candidates.push_back(candidate);
        if self.state.borrow().stagger.is_none() {
            self.try_next();
        }
    }

    fn try_next(self: &Rc<Self>) {
        let stagger = self.state.borrow_mut().stagger.take();
        if let Some(timer) = stagger {
            self.engine.cancel_timer(timer);
        }
        while !self.is_over() {
            let Some(candidate) = self.state.borrow_mut().candidates.pop_front() else { break };
            match self.attempt(candidate) {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => self.note(error),
            }
        }
        self.give_up_if_hopeless();
    }

    /// Starts to connect. True if it is under way.
    fn attempt(self: &Rc<Self>, candidate: Candidate) -> io::Result<bool> {
        let address = match candidate {
            Candidate::Unix(path) => return self.attempt_unix(path),
            Candidate::Inet(address) => address,
        };
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let fd = stream_socket(family)?;
        sockopt::set_tcp_nodelay(&fd, true)?;
        match rustix::net::connect(&fd, &address) {
            Ok(()) => {
                self.won(fd);
                return Ok(false);
            }
            Err(rustix::io::Errno::INPROGRESS | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let attempt = Rc::new(Attempt { race: self.clone(), fd: RefCell::new(None), key: Cell::new(None) });
        let registration = Registration { input: fd.as_fd(), input_blocks: false, output: None, write: true };
        let key = self.engine.register(registration, attempt.clone())?;
        attempt.key.set(Some(key));
        attempt.fd.replace(Some(fd));
        let me = self.clone();
        let stagger = self.engine.after(STAGGER, move |_| {
            me.state.borrow_mut().stagger = None;
            me.try_next();
        });
        let mut state = self.state.borrow_mut();
        state.attempts.push(attempt);
        state.stagger = Some(stagger);
        Ok(true)
    }

    fn attempt_unix(self: &Rc<Self>, path: PathBuf) -> io::Result<bool> {
        let fd = stream_socket(AddressFamily::UNIX)?;
        match rustix::net::connect(&fd, &unix_address(&path)?) {
            Ok(()) => {
                self.won(fd);
                Ok(false)
            }
            Err(rustix::io::Errno::AGAIN) => {
                let me = self.clone();
                let retry = self.engine.after(UNIX_RETRY, move |_| {
                    me.state.borrow_mut().retry = None;
                    me.add(Candidate::Unix(path));
                });
                self.state.borrow_mut().retry = Some(retry);
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Remembers the failure that says most: that nobody listens there means the host at least is up.
    fn note(&self, error: io::Error) {
        let error = Error::from_connect(&self.address, error);
        let mut state = self.state.borrow_mut();
        let tells_more =
            |old: &Error| matches!(old, Error::Unreachable { .. }) && !matches!(error, Error::Unreachable { .. });
        if state.error.as_ref().is_none_or(tells_more) {
            state.error = Some(error);
        }
    }

    fn give_up_if_hopeless(self: &Rc<Self>) {
        let error = {
            let mut state = self.state.borrow_mut();
            let hope = state.look_up.is_some()
                || state.retry.is_some()
                || !state.candidates.is_empty()
                || !state.attempts.is_empty();
            if hope || state.done.is_none() {
                return;
            }
            state.error.take()
        };
        let none = || Error::Lookup { address: self.address.to_string(), cause: "it has no addresses".into() };
        self.finish(Err(error.unwrap_or_else(none)));
    }

    fn won(self: &Rc<Self>, fd: OwnedFd) {
        // A socket can meet itself where nobody listens, if the system happens to give it that very port.
        let own = rustix::net::getsockname(&fd).ok().and_then(|own| SocketAddr::try_from(own).ok());
        let peer = rustix::net::getpeername(&fd).ok().flatten().and_then(|peer| SocketAddr::try_from(peer).ok());
        if own.is_some() && own == peer {
            self.note(io::Error::from(rustix::io::Errno::CONNREFUSED));
        } else {
            self.finish(Ok(fd));
        }
    }

    /// The main context is gone: lets go of everything, and says nothing.
    fn abandon(&self) {
        let state = self.state.take();
        for attempt in &state.attempts {
            attempt.close();
        }
        drop(state);
    }

    /// It is over: lets go of everything, then says so.
    fn finish(&self, result: Result<OwnedFd>) {
        let (state, done) = {
            let mut state = self.state.borrow_mut();
            let Some(done) = state.done.take() else { return };
            (std::mem::take(&mut *state), done)
        };
        for timer in [state.stagger, state.limit, state.retry].into_iter().flatten() {
            self.engine.cancel_timer(timer);
        }
        if let Some(look_up) = &state.look_up {
            look_up.cancel();
        }
        for attempt in state.attempts {
            attempt.close();
        }
        done(&self.engine, result);
    }
}

impl Attempt {
    fn close(&self) -> Option<OwnedFd> {
        if let Some(key) = self.key.take() {
            self.race.engine.deregister(key);
        }
        self.fd.take()
    }
}

impl Handler for Attempt {
    fn ready(self: Rc<Self>, _engine: &Rc<Engine>, ready: Ready) -> Next {
        if !ready.has(Ready::WRITE | Ready::ERROR | Ready::HANGUP) {
            return Next::Idle;
        }
        let Some(fd) = self.close() else { return Next::Idle };
        self.race.state.borrow_mut().attempts.retain(|other| !Rc::ptr_eq(other, &self));
        match sockopt::socket_error(&fd) {
            Ok(Ok(())) => self.race.won(fd),
            Ok(Err(error)) | Err(error) => self.race.note(error.into()),
        }
        if !self.race.is_over() {
            self.race.try_next();
        }
        Next::Idle
    }

    fn context_ended(self: Rc<Self>) {
        self.close();
        self.race.abandon();
    }
}

fn stream_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?)
}

pub(crate) fn unix_address(path: &Path) -> io::Result<rustix::net::SocketAddrUnix> {
    Ok(rustix::net::SocketAddrUnix::new(path)?)
}

/// Who the peer is. Asked at once: a connection that has been reset does not know any more.
fn remote(fd: &OwnedFd) -> Option<Endpoint> {
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
    };
    let settings = match (choice, address.target()) {
        (Some(Tls::Off), _) | (None, Target::Inet { tls: Some(false), .. }) => return Ok(None),
        (Some(Tls::On(settings)), _) => settings.clone(),
        (None, _) => ClientTls::default(),
    };
    let (key, host) = address.peer(port);
    Ok(Some((settings, PeerName { key, host })))
}

/// What the caller wants, read as far as that goes without touching the network.
struct Request {
    address: Address,
    plan: Plan,
    secure: Secure,
    options: Rc<Options>,
}

impl Request {
    fn new(address: Address, options: Rc<Options>, tls: Option<&Tls<ClientTls>>) -> Result<Self> {
        let plan = plan(&address)?;
        let secure = secure(&address, &plan, tls)?;
        Ok(Request { address, plan, secure, options })
    }
}

/// Called once, from the loop, with the outcome.
type Joined = Box<dyn FnOnce(&Rc<Engine>, Result<Socket>)>;

/// The way from an address to a socket that is ready for use: the race, then the hand-shake.
struct Joining {
    engine: Rc<Engine>,
    address: Address,
    options: Rc<Options>,
    secure: Secure,
    /// Its timer keeps it while it is on.
    race: RefCell<Weak<Race>>,
    conn: RefCell<Option<Rc<Conn>>>,
    done: RefCell<Option<Joined>>,
}

impl Joining {
    fn start(engine: &Rc<Engine>, request: Request, done: Joined) -> Rc<Self> {
        let Request { address, plan, secure, options } = request;
        let limit = options.connect_timeout;
        let joining = Rc::new(Joining {
            engine: engine.clone(),
            address,
            options,
            secure,
            race: RefCell::default(),
            conn: RefCell::new(None),
            done: RefCell::new(Some(done)),
        });
        let me = joining.clone();
        let race = Race::start(engine, &joining.address, plan, limit, Box::new(move |_, result| me.connected(result)));
        joining.race.replace(Rc::downgrade(&race));
        joining
    }

    fn connected(self: &Rc<Self>, result: Result<OwnedFd>) {
        let fd = match result {
            Ok(fd) => fd,
            Err(error) => return self.finish(Err(error)),
        };
        match &self.secure {
            Some((settings, peer)) if settings.may_load_roots(peer) => self.load_roots(fd),
            _ => self.shake(fd),
        }
    }

    /// Reads the system's roots on a thread: that takes milliseconds of disk, once in a process.
    fn load_roots(self: &Rc<Self>, fd: OwnedFd) {
        let thread = Rc::new(Cell::new(None::<std::thread::JoinHandle<()>>));
        let (me, loaded) = (self.clone(), thread.clone());
        let remote = self.engine.remote(move |_| {
            if let Some(thread) = loaded.take() {
                // It has called, and does nothing more.
                let _ = thread.join();
            }
            if me.done.borrow().is_some() {
                me.shake(fd);
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
                self.finish(Err(Error::Io { operation: "loading certificates for", address, source }));
            }
        }
    }

    fn shake(self: &Rc<Self>, fd: OwnedFd) {
        let remote = remote(&fd);
        let transport = Transport::socket(fd);
        let options = self.options.clone();
        let Some((settings, peer)) = &self.secure else {
            let conn = Conn::new(&self.engine, transport, options, remote);
            return self.finish(conn.map(Socket::from_conn));
        };
        let me = self.clone();
        let done = Box::new(move |conn: &Rc<Conn>, result: Result| {
            me.conn.take();
            me.finish(result.map(|()| Socket::from_conn(conn.clone())));
        });
        let started = Session::client(settings, peer)
            .and_then(|session| Conn::with_session(&self.engine, transport, options, remote, session, done));
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
    fn cancel(&self) {
        if self.done.borrow().is_none() {
            return;
        }
        let error = || Error::Cancelled { operation: "connecting to", address: self.address.to_string() };
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

// ---- the three faces ----

/// Connects on a main context of its own, then moves to the caller's.
pub(crate) fn blocking(address: Address, options: Rc<Options>, tls: Option<&Tls<ClientTls>>) -> Result<Socket> {
    let engine = Engine::current()?;
    let Request { address, plan, secure, options } = Request::new(address, options, tls)?;
    for engine in Engine::all_here() {
        engine.flush();
    }
    let started = Instant::now();
    let limit = options.connect_timeout;
    let plan = match plan {
        Plan::LookUp(host, port) => Plan::Direct(look_up_blocking(&address, &host, port, limit)?),
        plan => plan,
    };
    let left = limit.saturating_sub(started.elapsed());
    let context = glib::MainContext::new();
    let raced = context.with_thread_default(|| {
        let private = Engine::current()?;
        let outcome = Rc::new(Cell::new(None));
        let place = outcome.clone();
        let _race = Race::start(&private, &address, plan, left, Box::new(move |_, result| place.set(Some(result))));
        loop {
            if let Some(result) = outcome.take() {
                return result;
            }
            context.iteration(true);
        }
    });
    let fd = raced.map_err(|_| Error::WrongThread)?.map_err(|error| match error {
        // Not only what was left of it after the look-up.
        Error::TimedOut { operation, address, .. } => Error::TimedOut { operation, address, limit },
        other => other,
    })?;
    let Some((settings, peer)) = secure else {
        let remote = remote(&fd);
        return Ok(Socket::from_conn(Conn::new(&engine, Transport::socket(fd), options, remote)?));
    };
    if is_own_server(&fd) {
        return Err(Error::Unsupported(format!(
            "a blocking connect with TLS to {address}, a server of this same thread, cannot work, since nobody would \
             answer the hand-shake: use connect_async or connect_future"
        )));
    }
    let outcome = Rc::new(Cell::new(None));
    let place = outcome.clone();
    let done = Box::new(move |_: &Rc<Conn>, result| place.set(Some(result)));
    let session = Session::client(&settings, &peer)?;
    let remote = remote(&fd);
    let conn = Conn::with_session(&engine, Transport::socket(fd), options, remote, session, done)?;
    let socket = Socket::from_conn(conn.clone());
    conn.shake_blocking();
    match outcome.take() {
        Some(Ok(())) => Ok(socket),
        Some(Err(error)) => Err(error),
        None => Err(conn.closed()),
    }
}

/// Connects in the background and calls back.
pub(crate) fn in_background(
    address: Result<Address>,
    options: Rc<Options>,
    tls: Option<&Tls<ClientTls>>,
    cancellable: Option<gio::Cancellable>,
    callback: impl FnOnce(Result<Socket>) + 'static,
) {
    let engine = match Engine::current() {
        Ok(engine) => engine,
        Err(error) => {
            // There is no loop here to call back from.
            glib::g_critical!("network", "connect_async: {error}");
            return;
        }
    };
    let request = match address.and_then(|address| Request::new(address, options, tls)) {
        Ok(request) => request,
        Err(error) => {
            engine.defer(move |engine| {
                call(engine, || callback(Err(error)));
            });
            return;
        }
    };
    let watch = Rc::new(RefCell::new(None::<Watch>));
    let watched = watch.clone();
    let done = Box::new(move |engine: &Rc<Engine>, result| {
        drop(watched.take());
        call(engine, || callback(result));
    });
    let joining = Joining::start(&engine, request, done);
    if let Some(cancellable) = cancellable {
        watch.replace(Some(Watch::start(&engine, cancellable, move |_| joining.cancel())));
    }
}

/// Waits for a cancellable, which any thread may cancel.
struct Watch {
    engine: Rc<Engine>,
    cancellable: gio::Cancellable,
    handler: Option<gio::CancelledHandlerId>,
    token: u64,
}

impl Watch {
    fn start(engine: &Rc<Engine>, cancellable: gio::Cancellable, then: impl FnOnce(&Rc<Engine>) + 'static) -> Self {
        let remote = engine.remote(then);
        let token = remote.token();
        let handler = cancellable.connect_cancelled(move |_| remote.call());
        Watch { engine: engine.clone(), cancellable, handler, token }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(handler) = self.handler.take() {
            self.cancellable.disconnect_cancelled(handler);
        }
        self.engine.forget_remote(self.token);
    }
}

/// Connects for whoever awaits it.
pub(crate) fn future(address: Address, options: Rc<Options>, tls: Option<&Tls<ClientTls>>) -> Result<Connecting> {
    let engine = Engine::current()?;
    let request = Request::new(address, options, tls)?;
    let (sender, receiver) = oneshot::channel();
    let done = Box::new(move |_: &Rc<Engine>, result| {
        // Whoever waited may have gone.
        let _ = sender.send(result);
    });
    Ok(Connecting { joining: Joining::start(&engine, request, done), receiver })
}

/// A connection in the making. Dropping it cancels.
pub(crate) struct Connecting {
    joining: Rc<Joining>,
    receiver: oneshot::Receiver<Result<Socket>>,
}

impl Future for Connecting {
    type Output = Result<Socket>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let me = &mut *self;
        Pin::new(&mut me.receiver).poll(context).map(|answer| {
            let address = me.joining.address.to_string();
            answer.unwrap_or(Err(Error::Cancelled { operation: "connecting to", address }))
        })
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.joining.cancel();
    }
}

// ---- servers of the same thread ----

thread_local! {
    /// Where this thread itself listens. A blocking hand-shake with such a server would wait for itself.
    static LISTENING: RefCell<Vec<SocketAddr>> = const { RefCell::new(Vec::new()) };
}

/// A server of this thread listens there from now on, or no longer.
pub(crate) fn note_listening(address: SocketAddr, listening: bool) {
    // At the end of the thread there is nobody left to ask.
    let _ = LISTENING.try_with(|all| {
        let mut all = all.borrow_mut();
        match (listening, all.iter().position(|known| *known == address)) {
            (true, _) => all.push(address),
            (false, Some(place)) => drop(all.swap_remove(place)),
            (false, None) => {}
        }
    });
}

fn is_own_server(fd: &OwnedFd) -> bool {
    let peer = remote(fd).and_then(|peer| peer.inet());
    let own = rustix::net::getsockname(fd).ok().map(endpoint).and_then(|own| own.inet());
    let (Some(peer), Some(own)) = (peer, own) else { return false };
    let here = peer.ip() == own.ip() || peer.ip().is_loopback();
    LISTENING.with(|all| {
        let matches = |known: &SocketAddr| {
            known.port() == peer.port() && (known.ip() == peer.ip() || (known.ip().is_unspecified() && here))
        };
        all.borrow().iter().any(matches)
    })
}
