//! The race: addresses are looked up, found and tried, one after the other with a head start each, until one answers.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::net::{AddressFamily, sockopt};

use crate::address::{Address, UnixName};
use crate::avahi::{Find, Finding, find};
use crate::engine::{Engine, Handler, Key, Next, Ready, Registration, TimerKey};
use crate::error::{Error, Operation, Result};
use crate::log;
use crate::resolve::{LookUp, Plan};
use crate::sys::{self, Tuning, pass_descriptors, stream_socket};

/// The next address gets its chance after this long without an answer from the one before (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// How soon a unix socket whose backlog is full is tried again: the system has no event for that.
const UNIX_RETRY: Duration = Duration::from_millis(10);

/// Called once, never from within the call that started the race.
pub(super) type Done = Box<dyn FnOnce(&Rc<Engine>, Result<Won>)>;

/// The socket that won the race, and the name of the Avahi service that it leads to.
pub(super) struct Won {
    pub(super) fd: OwnedFd,
    pub(super) service: Option<Rc<str>>,
}

/// One address to try.
enum Candidate {
    Inet(SocketAddr),
    /// An address of an Avahi service, and the service's name.
    Service(Rc<str>, SocketAddr),
    Unix(UnixName),
}

/// A connection in the making.
pub(super) struct Race {
    engine: Rc<Engine>,
    address: Address,
    tuning: Tuning,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    candidates: VecDeque<Candidate>,
    look_up: Option<LookUp>,
    find: Option<Find>,
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
    pub(super) service: Option<Rc<str>>,
    fd: RefCell<Option<OwnedFd>>,
    key: Cell<Option<Key>>,
}

impl Race {
    pub(super) fn start(
        engine: &Rc<Engine>,
        address: &Address,
        tuning: &Tuning,
        plan: Plan,
        limit: Duration,
        done: Done,
    ) -> Rc<Race> {
        let state = RefCell::new(State { done: Some(done), ..State::default() });
        let race = Rc::new(Race { engine: engine.clone(), address: address.clone(), tuning: tuning.clone(), state });
        let late = race.clone();
        let timer = engine.after(limit, move |_| {
            let address = late.address.to_string();
            let verdict = late.state.borrow().find.as_ref().and_then(Find::verdict);
            late.finish(Err(verdict.unwrap_or(Error::TimedOut { operation: Operation::Connect, address, limit })));
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
            Plan::Unix(name) => self.add(Candidate::Unix(name)),
            Plan::Direct(addresses) => {
                self.state.borrow_mut().candidates.extend(addresses.into_iter().map(Candidate::Inet));
                self.try_next();
            }
            Plan::Service(query) => {
                let me = Rc::downgrade(self);
                let find = find(&self.engine, &self.address, query, move |_, finding| match (me.upgrade(), finding) {
                    (Some(me), Finding::Candidate(service, address)) => me.add(Candidate::Service(service, address)),
                    (Some(me), Finding::End(error)) => me.no_more(error),
                    (None, _) => {}
                });
                self.state.borrow_mut().find = Some(find);
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
        let find = state.find.take();
        if state.error.is_none() {
            state.error = error;
        }
        drop(state);
        drop(find);
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
        let (service, address) = match candidate {
            Candidate::Unix(name) => return self.attempt_unix(name),
            Candidate::Inet(address) => (None, address),
            Candidate::Service(name, address) => (Some(name), address),
        };
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
        match sys::connect(&fd, &unix_address(&name)?) {
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
                || state.find.is_some()
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

    fn won(self: &Rc<Self>, fd: OwnedFd, service: Option<Rc<str>>) {
        // A socket can meet itself where nobody listens, if the system happens to give it that very port.
        let own = sys::local_address(&fd).ok().and_then(|own| SocketAddr::try_from(own).ok());
        let peer = sys::peer_address(&fd).ok().flatten().and_then(|peer| SocketAddr::try_from(peer).ok());
        if own.is_some() && own == peer {
            self.note(io::Error::from(rustix::io::Errno::CONNREFUSED));
        } else {
            let event = log::debug("connect").peer(&self.address);
            event.say(format_args!("connected to {}", self.address));
            self.finish(Ok(Won { fd, service }));
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
    pub(super) fn finish(&self, result: Result<Won>) {
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
        drop(state.find);
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

pub(crate) fn unix_address(name: &UnixName) -> io::Result<rustix::net::SocketAddrUnix> {
    Ok(match name {
        UnixName::Path(path) => rustix::net::SocketAddrUnix::new(path)?,
        UnixName::Abstract(name) => rustix::net::SocketAddrUnix::new_abstract_name(name)?,
    })
}
