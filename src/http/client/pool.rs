//! Kept connections, and how many there may be. One pool for each client and main context.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::url::Origin;
use crate::engine::Engine;

/// The most connections, and the time for which an idle one is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) connections: usize,
    pub(super) per_host: usize,
    pub(super) keep_idle: Option<Duration>,
}

pub(super) struct Pool {
    me: Weak<Pool>,
    engine: Rc<Engine>,
    limits: Limits,
    hosts: RefCell<HashMap<Rc<Origin>, Rc<Host>>>,
    /// Of all hosts.
    open: Cell<usize>,
    has_reaper: Cell<bool>,
}

/// The connections to one server.
struct Host {
    origin: Rc<Origin>,
    /// With the idle ones.
    open: Cell<usize>,
    /// The one that was used last is at the end.
    idle: RefCell<Vec<Idle>>,
    waiting: RefCell<VecDeque<Rc<Waiter>>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// A request that waits for a connection.
#[derive(Default)]
struct Waiter {
    waker: RefCell<Option<Waker>>,
    is_called: Cell<bool>,
}

/// The right to use a connection.
pub(super) struct Lease {
    pool: Rc<Pool>,
    host: Rc<Host>,
    connection: Option<Connection>,
    /// The exchange has come to its end.
    is_reusable: bool,
}

impl Pool {
    pub(super) fn new(engine: &Rc<Engine>, limits: Limits) -> Rc<Self> {
        Rc::new_cyclic(|me| Pool {
            me: me.clone(),
            engine: engine.clone(),
            limits,
            hosts: RefCell::default(),
            open: Cell::new(0),
            has_reaper: Cell::new(false),
        })
    }

    pub(super) fn engine(&self) -> &Rc<Engine> {
        &self.engine
    }

    /// Waits for a kept connection, or for the right to make one. `is_fresh` asks for a new one.
    pub(super) async fn lease(&self, origin: &Rc<Origin>, is_fresh: bool) -> Lease {
        let Some(pool) = self.me.upgrade() else { unreachable!("it is borrowed from its Rc") };
        let mut place = Place { pool: &pool, host: self.host(origin), waiter: None };
        poll_fn(|context| {
            let host = &place.host;
            let may_try = match &place.waiter {
                Some(waiter) => waiter.is_called.get(),
                None => host.waiting.borrow().is_empty(),
            };
            if may_try && let Some(connection) = pool.take(host, is_fresh) {
                let host = host.clone();
                place.leave();
                return Poll::Ready(Lease { pool: pool.clone(), host, connection, is_reusable: false });
            }
            let waiter = place.wait();
            waiter.is_called.set(false);
            let old = waiter.waker.replace(Some(context.waker().clone()));
            drop(old);
            Poll::Pending
        })
        .await
    }

    fn host(&self, origin: &Rc<Origin>) -> Rc<Host> {
        let mut hosts = self.hosts.borrow_mut();
        if let Some(host) = hosts.get(origin) {
            return host.clone();
        }
        let host = Rc::new(Host::new(origin.clone()));
        hosts.insert(origin.clone(), host.clone());
        host
    }

    fn opened(&self, host: &Host) {
        host.open.set(host.open.get() + 1);
        self.open.set(self.open.get() + 1);
    }

    fn closed(&self, host: &Host, count: usize) {
        host.open.set(host.open.get() - count);
        self.open.set(self.open.get() - count);
    }

    /// Takes an idle connection, or counts a new one (`Some(None)`). `None` if there is no room.
    fn take(&self, host: &Host, is_fresh: bool) -> Option<Option<Connection>> {
        loop {
            // Not in one statement with what follows: what hyper's side of a connection owns may call back as it is dropped.
            let last = host.idle.borrow_mut().pop();
            let Some(Idle { connection, .. }) = last else { break };
            if connection.is_ready() && !is_fresh {
                connection.is_reused.set(true);
                return Some(Some(connection));
            }
            self.closed(host, 1);
            drop(connection);
            if is_fresh {
                break;
            }
        }
        let has_room = || self.open.get() < self.limits.connections;
        if host.open.get() >= self.limits.per_host {
            return None;
        }
        if !has_room() {
            drop(self.evict());
        }
        has_room().then(|| {
            self.opened(host);
            None
        })
    }

    /// Takes out the connection that has been idle for longest.
    fn evict(&self) -> Option<Connection> {
        let hosts = self.hosts.borrow();
        let oldest =
            hosts.values().filter_map(|host| Some((host.idle.borrow().first()?.since, host))).min_by_key(|it| it.0);
        let (_, host) = oldest?;
        self.closed(host, 1);
        Some(host.idle.borrow_mut().remove(0).connection)
    }

    /// A connection is free, or gone.
    fn give_back(&self, host: &Rc<Host>, connection: Option<Connection>) {
        match connection.filter(|_| self.limits.keep_idle != Some(Duration::ZERO)) {
            Some(connection) => {
                host.idle.borrow_mut().push(Idle { connection, since: Instant::now() });
                self.reap_later();
            }
            None => self.closed(host, 1),
        }
        self.call_next(host);
        self.forget(host);
    }

    /// Lets the next request try: one for this server, else one for another.
    fn call_next(&self, host: &Host) {
        let next = host.next_waiter().or_else(|| self.hosts.borrow().values().find_map(|host| host.next_waiter()));
        let waker = next.and_then(|waiter| {
            waiter.is_called.set(true);
            waiter.waker.take()
        });
        waker.into_iter().for_each(Waker::wake);
    }

    fn forget(&self, host: &Host) {
        if host.is_unused() {
            self.hosts.borrow_mut().remove(&host.origin);
        }
    }

    /// Sees to it that idle connections are closed in time.
    fn reap_later(&self) {
        let Some(limit) = self.limits.keep_idle.filter(|limit| *limit < Duration::MAX) else { return };
        if self.has_reaper.get() {
            return;
        }
        let oldest = self.hosts.borrow().values().filter_map(|host| Some(host.idle.borrow().first()?.since)).min();
        let Some(oldest) = oldest else { return };
        self.has_reaper.set(true);
        let me = self.me.clone();
        self.engine.after(limit.saturating_sub(oldest.elapsed()).max(Duration::from_millis(1)), move |_| {
            if let Some(pool) = me.upgrade() {
                pool.has_reaper.set(false);
                pool.reap(limit);
                pool.reap_later();
            }
        });
    }

    fn reap(&self, limit: Duration) {
        let mut garbage = Vec::new();
        let mut hosts = self.hosts.borrow_mut();
        hosts.retain(|_, host| {
            let is_old = |idle: &mut Idle| idle.since.elapsed() >= limit || !idle.connection.is_ready();
            let before = garbage.len();
            garbage.extend(host.idle.borrow_mut().extract_if(.., is_old));
            self.closed(host, garbage.len() - before);
            !host.is_unused()
        });
        drop(hosts);
        drop(garbage);
    }
}

impl Host {
    fn new(origin: Rc<Origin>) -> Self {
        Host { origin, open: Cell::new(0), idle: RefCell::default(), waiting: RefCell::default() }
    }

    fn is_unused(&self) -> bool {
        self.open.get() == 0 && self.waiting.borrow().is_empty()
    }

    fn next_waiter(&self) -> Option<Rc<Waiter>> {
        self.waiting.borrow().iter().find(|waiter| !waiter.is_called.get()).cloned()
    }
}

/// A place in the queue for connections.
struct Place<'a> {
    pool: &'a Pool,
    host: Rc<Host>,
    waiter: Option<Rc<Waiter>>,
}

impl Place<'_> {
    fn wait(&mut self) -> Rc<Waiter> {
        let waiter = self.waiter.get_or_insert_with(|| {
            let waiter = Rc::<Waiter>::default();
            self.host.waiting.borrow_mut().push_back(waiter.clone());
            waiter
        });
        waiter.clone()
    }

    fn leave(&mut self) -> Option<Rc<Waiter>> {
        let waiter = self.waiter.take()?;
        self.host.waiting.borrow_mut().retain(|known| !Rc::ptr_eq(known, &waiter));
        Some(waiter)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // Given up. If it was this one's turn, it is the next one's now.
        if self.leave().is_some_and(|waiter| waiter.is_called.get()) {
            self.pool.call_next(&self.host);
        }
        self.pool.forget(&self.host);
    }
}

impl Lease {
    /// Returns the connection. `None` if it is to be made.
    pub(super) fn connection(&self) -> Option<&Connection> {
        self.connection.as_ref()
    }

    pub(super) fn set_connection(&mut self, connection: Connection) -> &Connection {
        self.connection.insert(connection)
    }

    pub(super) fn engine(&self) -> Rc<Engine> {
        self.pool.engine.clone()
    }

    /// The connection is not one of HTTP any more.
    pub(super) fn forget(&mut self) {
        let gone = self.connection.take();
        drop(gone);
    }

    /// The exchange has come to its end: the connection may be used again if it is ready for that.
    pub(super) fn done(mut self) {
        if let Some(connection) = &self.connection {
            connection.traffic.end();
            self.is_reusable = true;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let kept = match self.connection.take() {
            Some(connection) if self.is_reusable && connection.is_ready() => Some(connection),
            Some(connection) => {
                connection.abort();
                None
            }
            None => None,
        };
        self.pool.give_back(&self.host, kept);
    }
}
