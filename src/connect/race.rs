//! The race for one connection (RFC 8305): addresses are tried as they are found, each with a head start, until one answers.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_channel::oneshot;
use rustix::net::{AddressFamily, sockopt};

use super::proxy::ProxyTls;
use super::targets::Targets;
use crate::address::{Address, Endpoint, UnixName};
use crate::avahi::{Find, SearchEvent, find};
use crate::engine::{Engine, Handler, Key, Next, Ready, Registration, Task, TimerKey};
use crate::error::{Error, Operation, Result, os_text};
use crate::log;
use crate::resolve::{Lookup, Plan, RESOLUTION_DELAY, interleave};
use crate::sys::{self, Tuning, pass_descriptors, stream_socket};

pub(super) const OPERATION: Operation = Operation::Connect;

/// The head start of each address: the next one is tried after this time without an answer (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// The pause before trying a unix socket with a full backlog again. The kernel has no event for that.
const UNIX_RETRY: Duration = Duration::from_millis(10);

/// Called once with the result, never from within `Race::start`.
pub(super) type RaceDone = Box<dyn FnOnce(&Rc<Engine>, Result<Winner>)>;

/// The socket that won the race.
pub(super) struct Winner {
    pub(super) fd: OwnedFd,
    /// The instance name of its service, if it is one.
    pub(super) service: Option<Rc<str>>,
    /// The target that a proxy was asked for, if there is one between.
    pub(super) asked: Option<Endpoint>,
    /// The TLS that ends at the proxy, if its connection uses it.
    pub(super) tls: Option<ProxyTls>,
}

/// A race as a future. Dropping it ends the race.
pub(super) struct Racing {
    race: Rc<Race>,
    result: oneshot::Receiver<Result<Winner>>,
}

impl Racing {
    pub(super) fn start(engine: &Rc<Engine>, address: &Address, tuning: &Tuning, plan: Plan, limit: Duration) -> Self {
        let (sender, result) = oneshot::channel();
        let done = Box::new(move |_: &Rc<Engine>, won| {
            // The future may have been dropped.
            let _ = sender.send(won);
        });
        Racing { race: Race::start(engine, address, tuning, plan, limit, done), result }
    }
}

impl Future for Racing {
    type Output = Result<Winner>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let result = Pin::new(&mut self.result).poll(context);
        result.map(|won| won.unwrap_or_else(|_| Err(self.race.cancelled())))
    }
}

impl Drop for Racing {
    fn drop(&mut self) {
        self.race.finish(Err(self.race.cancelled()));
    }
}

/// One address to try.
enum Candidate {
    Inet(SocketAddr),
    /// The instance name of a service, and one of its addresses.
    Service(Rc<str>, SocketAddr),
    Unix(UnixName),
}

/// A race under way.
pub(super) struct Race {
    pub(super) engine: Rc<Engine>,
    pub(super) address: Address,
    pub(super) tuning: Tuning,
    pub(super) before_first_attempt: Cell<Option<Box<dyn FnOnce()>>>,
    pub(super) state: RefCell<RaceState>,
}

#[derive(Default)]
pub(super) struct RaceState {
    candidates: VecDeque<Candidate>,
    /// With the port to connect to.
    lookup: Option<(Lookup, u16)>,
    /// Wakes the task that polls the lookup.
    pub(super) lookup_waker: Option<Waker>,
    /// The number of addresses found that have become candidates.
    known: usize,
    resolution_delay: Option<TimerKey>,
    has_awaited_v6: bool,
    last_was_v6: bool,
    find: Option<Find>,
    attempts: Vec<Rc<Attempt>>,
    /// Of SRV records.
    pub(super) targets: Targets,
    /// The most telling error so far.
    error: Option<Error>,
    stagger: Option<TimerKey>,
    limit: Option<TimerKey>,
    retry: Option<TimerKey>,
    /// `None` when the race is over.
    done: Option<RaceDone>,
}

/// One socket that is being connected.
struct Attempt {
    race: Rc<Race>,
    pub(super) service: Option<Rc<str>>,
    fd: RefCell<Option<OwnedFd>>,
    key: Cell<Option<Key>>,
}

impl Candidate {
    fn inet(&self) -> Option<SocketAddr> {
        match self {
            Candidate::Inet(address) => Some(*address),
            Candidate::Service(..) | Candidate::Unix(_) => None,
        }
    }
}

/// Polls the lookup of a race.
struct LookupTask(Weak<Race>);

impl Task for LookupTask {
    fn poll(&self, _engine: &Rc<Engine>, context: &mut Context<'_>) -> Poll<()> {
        self.0.upgrade().map_or(Poll::Ready(()), |race| race.ask(context))
    }
}

impl Race {
    pub(super) fn start(
        engine: &Rc<Engine>,
        address: &Address,
        tuning: &Tuning,
        plan: Plan,
        limit: Duration,
        done: RaceDone,
    ) -> Rc<Race> {
        let targets = Targets::within(limit);
        let state = RefCell::new(RaceState { done: Some(done), targets, ..RaceState::default() });
        let race = Rc::new(Race {
            engine: engine.clone(),
            address: address.clone(),
            tuning: tuning.clone(),
            before_first_attempt: Cell::default(),
            state,
        });
        let late = race.clone();
        let timer = engine.after(limit, move |_| {
            let address = late.address.to_string();
            let failure = late.state.borrow().find.as_ref().and_then(Find::failure);
            late.finish(Err(failure.unwrap_or(Error::TimedOut { operation: OPERATION, address, limit })));
        });
        race.state.borrow_mut().limit = Some(timer);
        // In the next loop iteration: a lookup starts threads, and the program may want to fork before the loop runs.
        let first = race.clone();
        engine.defer(move |_| first.run(plan));
        race
    }

    /// Calls when the first address is tried. Not user code.
    pub(super) fn before_first_attempt(&self, call: impl FnOnce() + 'static) {
        self.before_first_attempt.set(Some(Box::new(call)));
    }

    fn run(self: &Rc<Self>, plan: Plan) {
        if self.is_over() {
            return;
        }
        match plan {
            Plan::Unix(name) => self.add(Candidate::Unix(name)),
            Plan::Direct(addresses) => {
                self.state.borrow_mut().candidates.extend(addresses.into_iter().map(Candidate::Inet));
                self.try_next();
            }
            Plan::Service(query) => {
                let me = Rc::downgrade(self);
                let find = find(&self.engine, &self.address, query, move |_, finding| match (me.upgrade(), finding) {
                    (Some(me), SearchEvent::Candidate(service, address)) => {
                        me.add(Candidate::Service(service, address))
                    }
                    (Some(me), SearchEvent::End(error)) => me.no_more(error),
                    (None, _) => {}
                });
                self.state.borrow_mut().find = Some(find);
            }
            Plan::Srv(name) => self.look_up_targets(&name),
            Plan::Lookup(host, port) => {
                self.state.borrow_mut().lookup = Some((Lookup::start(&host), port));
                self.engine.spawn(Rc::new(LookupTask(Rc::downgrade(self))));
            }
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.state.borrow().done.is_none()
    }

    /// Tries the addresses found so far. Ready when the lookup is complete.
    fn ask(self: &Rc<Self>, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        let Some((lookup, port)) = &state.lookup else { return Poll::Ready(()) };
        let (answers, port) = (lookup.answers(context), *port);
        state.lookup_waker = Some(context.waker().clone());
        let may_start = !answers.awaits_v6() || answers.found().iter().any(SocketAddr::is_ipv6);
        if may_start || state.has_awaited_v6 {
            let known = std::mem::replace(&mut state.known, answers.found().len());
            let new = answers.found()[known..].iter().map(|address| {
                let mut address = *address;
                address.set_port(port);
                address
            });
            let waiting = state.candidates.iter().filter_map(Candidate::inet);
            let all = interleave(waiting.chain(new), !state.last_was_v6);
            state.candidates = all.into_iter().map(Candidate::Inet).collect();
            drop(state);
            self.try_unless_waiting();
        } else if state.resolution_delay.is_none() && !answers.found().is_empty() {
            let me = self.clone();
            state.resolution_delay = Some(self.engine.after(RESOLUTION_DELAY, move |_| me.await_v6_no_more()));
            return Poll::Pending;
        }
        if !answers.is_complete() {
            return Poll::Pending;
        }
        let address = || self.address.looked_up();
        self.no_more(answers.outcome().err().map(|cause| Error::Lookup { address: address(), cause }));
        Poll::Ready(())
    }

    fn await_v6_no_more(&self) {
        let mut state = self.state.borrow_mut();
        state.has_awaited_v6 = true;
        let waker = state.lookup_waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    fn no_more(self: &Rc<Self>, error: Option<Error>) {
        let mut state = self.state.borrow_mut();
        let over = (state.lookup.take(), state.find.take());
        if state.error.is_none() {
            state.error = error;
        }
        drop(state);
        drop(over);
        self.give_up_if_hopeless();
    }

    /// Adds an address. It is tried at once unless another one still has its head start.
    fn add(self: &Rc<Self>, candidate: Candidate) {
        self.state.borrow_mut().candidates.push_back(candidate);
        self.try_unless_waiting();
    }

    fn try_unless_waiting(self: &Rc<Self>) {
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

    /// Starts to connect. Returns whether the attempt is under way.
    fn attempt(self: &Rc<Self>, candidate: Candidate) -> io::Result<bool> {
        if let Some(call) = self.before_first_attempt.take() {
            call();
        }
        let (service, address) = match candidate {
            Candidate::Unix(name) => return self.attempt_unix(name),
            Candidate::Inet(address) => (None, address),
            Candidate::Service(name, address) => (Some(name), address),
        };
        self.state.borrow_mut().last_was_v6 = address.is_ipv6();
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let fd = stream_socket(family)?;
        sockopt::set_tcp_nodelay(&fd, true)?;
        self.tuning.apply(fd.as_fd(), family)?;
        match sys::connect(&fd, &address) {
            Ok(()) => {
                self.won(fd, service);
                return Ok(false);
            }
            Err(rustix::io::Errno::INPROGRESS | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let attempt = Rc::new(Attempt { race: self.clone(), service, fd: RefCell::new(None), key: Cell::new(None) });
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

    fn attempt_unix(self: &Rc<Self>, name: UnixName) -> io::Result<bool> {
        let fd = stream_socket(AddressFamily::UNIX)?;
        self.tuning.apply(fd.as_fd(), AddressFamily::UNIX)?;
        pass_descriptors(fd.as_fd(), self.tuning.descriptors > 0);
        match sys::connect(&fd, &name.to_socket_address()?) {
            Ok(()) => {
                self.won(fd, None);
                Ok(false)
            }
            Err(rustix::io::Errno::AGAIN) => {
                let me = self.clone();
                let retry = self.engine.after(UNIX_RETRY, move |_| {
                    me.state.borrow_mut().retry = None;
                    me.add(Candidate::Unix(name));
                });
                self.state.borrow_mut().retry = Some(retry);
                Ok(true)
            }
            Err(error) => Err(explain(&name, error.into())),
        }
    }

    fn note(&self, error: io::Error) {
        self.keep(Error::from_connect(&self.address, error));
    }

    /// Keeps the most telling error: a refused connection means that the host is up.
    pub(super) fn keep(&self, error: Error) {
        let mut state = self.state.borrow_mut();
        let tells_more =
            |old: &Error| matches!(old, Error::Unreachable { .. }) && !matches!(error, Error::Unreachable { .. });
        if state.error.as_ref().is_none_or(tells_more) {
            state.error = Some(error);
        }
    }

    pub(super) fn give_up_if_hopeless(self: &Rc<Self>) {
        let error = {
            let mut state = self.state.borrow_mut();
            let hope = state.lookup.is_some()
                || state.find.is_some()
                || state.retry.is_some()
                || state.targets.has_any()
                || !state.candidates.is_empty()
                || !state.attempts.is_empty();
            if hope || state.done.is_none() {
                return;
            }
            state.error.take()
        };
        let none = || Error::Lookup { address: self.address.looked_up(), cause: "the host has no addresses".into() };
        self.finish(Err(error.unwrap_or_else(none)));
    }

    fn won(self: &Rc<Self>, fd: OwnedFd, service: Option<Rc<str>>) {
        // A socket can meet itself where nobody listens, if the system happens to give it that very port.
        let own = sys::local_address(&fd).ok().and_then(|own| SocketAddr::try_from(own).ok());
        let peer = sys::peer_address(&fd).ok().flatten().and_then(|peer| SocketAddr::try_from(peer).ok());
        if own.is_some() && own == peer {
            self.note(io::Error::from(rustix::io::Errno::CONNREFUSED));
        } else {
            let event = log::debug("connect").peer(&self.address);
            event.say(format_args!("connected to {}", self.address));
            self.finish(Ok(Winner { fd, service, asked: None, tls: None }));
        }
    }

    /// The main context has ended: closes everything without a result.
    fn abandon(&self) {
        let state = self.state.take();
        for attempt in &state.attempts {
            attempt.close();
        }
        drop(state);
    }

    pub(super) fn cancelled(&self) -> Error {
        Error::Cancelled { operation: OPERATION, address: self.address.to_string() }
    }

    /// Ends the race: closes everything else, then passes on the result.
    pub(super) fn finish(&self, result: Result<Winner>) {
        let (state, done) = {
            let mut state = self.state.borrow_mut();
            let Some(done) = state.done.take() else { return };
            (std::mem::take(&mut *state), done)
        };
        let of_targets = state.targets.end(self);
        for timer in [state.stagger, state.limit, state.retry, state.resolution_delay, of_targets].into_iter().flatten()
        {
            self.engine.cancel_timer(timer);
        }
        drop((state.lookup, state.find));
        // The task ends.
        state.lookup_waker.into_iter().for_each(Waker::wake);
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
            Ok(Ok(())) => self.race.won(fd, self.service.clone()),
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

/// Says more about a path that leads to no server: it may have been meant as something else.
fn explain(name: &UnixName, error: io::Error) -> io::Error {
    let UnixName::Path(path) = name else { return error };
    let is_other = || std::fs::metadata(path).is_ok_and(|found| !found.file_type().is_socket());
    let text = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            if path.as_os_str().as_encoded_bytes().contains(&b'/') =>
        {
            format!("{} (an address with a slash is the path of a unix socket)", os_text(&error))
        }
        // A file that is not writable is refused before the system looks at its kind.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::PermissionDenied if is_other() => {
            "the file is not a socket".to_owned()
        }
        io::ErrorKind::ConnectionRefused => format!("{} (no server listens on this unix socket)", os_text(&error)),
        _ => return error,
    };
    io::Error::new(error.kind(), text)
}
