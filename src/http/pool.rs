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
    hosts: RefCell<HashMap<Origin, Host>>,
    /// Of all hosts.
    open: Cell<usize>,
    has_reaper: Cell<bool>,
}

/// The connections to one server.
#[derive(Default)]
struct Host {
    /// With the idle ones.
    open: usize,
    /// The one that was used last is at the end.
    idle: Vec<Idle>,
    waiting: VecDeque<Rc<Waiter>>,
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
    origin: Origin,
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
    pub(super) async fn lease(&self, origin: &Origin, is_fresh: bool) -> Lease {
        let Some(pool) = self.me.upgrade() else { unreachable!("it is borrowed from its Rc") };
        let mut place = Place { pool: &pool, origin, waiter: None };
        poll_fn(|context| {
            let may_try = match &place.waiter {
                Some(waiter) => waiter.is_called.get(),
                None => pool.hosts.borrow().get(origin).is_none_or(|host| host.waiting.is_empty()),
            };
            if may_try && let Some(connection) = pool.take(origin, is_fresh) {
                place.leave();
                return Poll::Ready(Lease {
                    pool: pool.clone(),
                    origin: origin.clone(),
                    connection,
                    is_reusable: false,
                });
            }
            let waiter = place.wait();
            waiter.is_called.set(false);
            let old = waiter.waker.replace(Some(context.waker().clone()));
            drop(old);
            Poll::Pending
        })
        .await
    }

    /// Takes an idle connection, or counts a new one (`Some(None)`). `None` if there is no room.
    fn take(&self, origin: &Origin, is_fresh: bool) -> Option<Option<Connection>> {
        // What hyper's side of them owns may call back as it is dropped.
        let mut garbage = Vec::new();
        let mut hosts = self.hosts.borrow_mut();
        let host = hosts.entry(origin.clone()).or_default();
        while let Some(Idle { connection, .. }) = host.idle.pop() {
            if connection.is_ready() && !is_fresh {
                connection.is_reused.set(true);
                return Some(Some(connection));
            }
            host.open -= 1;
            self.open.set(self.open.get() - 1);
            garbage.push(connection);
            if is_fresh {
                break;
            }
        }
        let has_room = host.open < self.limits.per_host.max(1);
        if has_room && self.open.get() >= self.limits.connections.max(1) {
            garbage.extend(self.evict(&mut hosts));
        }
        let has_room = has_room && self.open.get() < self.limits.connections.max(1);
        if has_room {
            hosts.entry(origin.clone()).or_default().open += 1;
            self.open.set(self.open.get() + 1);
        }
        drop(hosts);
        drop(garbage);
        has_room.then_some(None)
    }

    /// Takes out the connection that has been idle for longest.
    fn evict(&self, hosts: &mut HashMap<Origin, Host>) -> Option<Connection> {
        let oldest = hosts.values_mut().filter(|host| !host.idle.is_empty()).min_by_key(|host| host.idle[0].since)?;
        oldest.open -= 1;
        self.open.set(self.open.get() - 1);
        Some(oldest.idle.remove(0).connection)
    }

    /// A connection is free, or gone.
    fn give_back(&self, origin: &Origin, connection: Option<Connection>) {
        let kept = connection.filter(|_| self.limits.keep_idle != Some(Duration::ZERO));
        let is_kept = kept.is_some();
        {
            let mut hosts = self.hosts.borrow_mut();
            let host = hosts.entry(origin.clone()).or_default();
            match kept {
                Some(connection) => host.idle.push(Idle { connection, since: Instant::now() }),
                None => {
                    host.open -= 1;
                    self.open.set(self.open.get() - 1);
                }
            }
        }
        self.call_next(origin);
        if is_kept {
            self.reap_later();
        }
        self.forget(origin);
    }

    /// Lets the next request try: one for this server, else one for another.
    fn call_next(&self, origin: &Origin) {
        let waker = {
            let hosts = self.hosts.borrow();
            let waiting = |host: &Host| host.waiting.iter().find(|waiter| !waiter.is_called.get()).cloned();
            let next = hosts.get(origin).and_then(waiting).or_else(|| hosts.values().find_map(waiting));
            next.and_then(|waiter| {
                waiter.is_called.set(true);
                waiter.waker.take()
            })
        };
        waker.into_iter().for_each(Waker::wake);
    }

    fn forget(&self, origin: &Origin) {
        let mut hosts = self.hosts.borrow_mut();
        if hosts.get(origin).is_some_and(|host| host.open == 0 && host.waiting.is_empty()) {
            hosts.remove(origin);
        }
    }

    /// Sees to it that idle connections are closed in time.
    fn reap_later(&self) {
        let Some(limit) = self.limits.keep_idle.filter(|limit| *limit < Duration::MAX) else { return };
        let oldest = self.hosts.borrow().values().flat_map(|host| &host.idle).map(|idle| idle.since).min();
        let Some(oldest) = oldest else { return };
        if self.has_reaper.replace(true) {
            return;
        }
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
        for host in hosts.values_mut() {
            let before = host.idle.len();
            let is_old = |idle: &mut Idle| idle.since.elapsed() >= limit || !idle.connection.is_ready();
            garbage.extend(host.idle.extract_if(.., is_old));
            let gone = before - host.idle.len();
            host.open -= gone;
            self.open.set(self.open.get() - gone);
        }
        hosts.retain(|_, host| host.open > 0 || !host.waiting.is_empty());
        drop(hosts);
        drop(garbage);
    }
}

/// A place in the queue for connections.
struct Place<'a> {
    pool: &'a Pool,
    origin: &'a Origin,
    waiter: Option<Rc<Waiter>>,
}

impl Place<'_> {
    fn wait(&mut self) -> Rc<Waiter> {
        let waiter = self.waiter.get_or_insert_with(|| {
            let waiter = Rc::<Waiter>::default();
            let mut hosts = self.pool.hosts.borrow_mut();
            hosts.entry(self.origin.clone()).or_default().waiting.push_back(waiter.clone());
            waiter
        });
        waiter.clone()
    }

    fn leave(&mut self) -> Option<Rc<Waiter>> {
        let waiter = self.waiter.take()?;
        if let Some(host) = self.pool.hosts.borrow_mut().get_mut(self.origin) {
            host.waiting.retain(|known| !Rc::ptr_eq(known, &waiter));
        }
        Some(waiter)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // Given up. If it was this one's turn, it is the next one's now.
        if self.leave().is_some_and(|waiter| waiter.is_called.get()) {
            self.pool.call_next(self.origin);
        }
        self.pool.forget(self.origin);
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
        self.pool.give_back(&self.origin, kept);
    }
}
