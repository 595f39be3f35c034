//! Clients that are asked for: a server without a callback leaves them in the backlog until then.
//!
//! [`Shared::next_client`] takes one without waiting. Who cannot go on without one polls what [`Shared::watch`] names, as
//! [`Server::accept`] does, or is woken from the loop, see [`Shared::when_acceptable`].

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::{Rc, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::incoming::Turn;
use super::listener::{ACCEPTS, Listener};
use super::{Listed, Server, Shared};
use crate::conn::{Conn, Socket};
use crate::engine::{Engine, Wakers};
use crate::error::{Error, Operation, Result, count};
use crate::sys::wait_for;

/// What a server keeps whose clients are asked for.
#[derive(Default)]
pub(super) struct Asked {
    /// Their hand-shake is done, and nobody has asked for them yet.
    ready: RefCell<VecDeque<Socket>>,
    shaking: RefCell<Vec<Shaking>>,
    /// Until when somebody served the hand-shakes, where no loop does.
    served: Cell<Option<Instant>>,
    wakers: RefCell<Wakers>,
    timeout: Cell<Option<Duration>>,
    pub(super) turn: Turn,
}

/// A hand-shake, and when it is too late for it, unless its time never ends.
struct Shaking {
    conn: Weak<Conn>,
    deadline: Option<Instant>,
}

impl Asked {
    /// A client is ready to be taken.
    pub(super) fn add(&self, conn: &Rc<Conn>) {
        // Its end is to be told to whoever takes it, and to nobody before.
        conn.hold();
        self.ready.borrow_mut().push_back(Socket::from_conn(conn.clone()));
        self.wake();
    }

    pub(super) fn waiting(&self) -> usize {
        self.ready.borrow().len()
    }

    /// There may be a client for those who wait for one.
    pub(super) fn wake(&self) {
        self.turn.begin();
        let wakers = self.wakers.take();
        wakers.wake();
    }

    /// Nobody will ask for those that are here.
    pub(super) fn close(&self) {
        let ready = self.ready.take();
        for socket in &ready {
            socket.conn().release();
        }
        drop(ready);
        for conn in self.shaking() {
            conn.abort_silently();
        }
        self.wake();
    }

    /// Those that are shaking hands.
    fn shaking(&self) -> Vec<Rc<Conn>> {
        let mut shaking = self.shaking.borrow_mut();
        shaking.retain(|shaking| shaking.conn.upgrade().is_some_and(|conn| conn.is_shaking()));
        shaking.iter().filter_map(|shaking| shaking.conn.upgrade()).collect()
    }

    /// Takes the hand-shakes as far as they go without waiting. The time in which nobody did so does not count for them.
    fn shake(&self, limit: Duration) {
        let now = Instant::now();
        if let Some(served) = self.served.replace(Some(now)) {
            for shaking in self.shaking.borrow_mut().iter_mut() {
                shaking.deadline = shaking.deadline.and_then(|deadline| deadline.checked_add(now - served));
            }
        }
        let all = self.shaking();
        for conn in &all {
            conn.shake_on();
        }
        let late = |shaking: &Shaking| {
            if shaking.deadline.is_some_and(|deadline| deadline <= now) { shaking.conn.upgrade() } else { None }
        };
        let late: Vec<_> = self.shaking.borrow().iter().filter_map(late).collect();
        for conn in late {
            conn.handshake_is_late(limit);
        }
        for conn in all.iter().filter(|conn| !conn.is_shaking() && !conn.is_open()) {
            // Its word of what was wrong is out; nobody is there to wait for its end.
            conn.part();
        }
    }
}

/// What tells of the next client, to be polled.
pub(super) struct Watched {
    listeners: Vec<Rc<Listener>>,
    shaking: Vec<Rc<Conn>>,
}

impl Watched {
    pub(super) fn watch<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) -> io::Result<()> {
        let listening = self.listeners.iter().filter_map(|listener| listener.fd.open());
        fds.extend(listening.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        self.shaking.iter().try_for_each(|conn| conn.watch_handshake(fds))
    }
}

impl Server {
    /// Waits for a client and returns its socket. **Blocks**, up to the [time-out](Server::set_accept_timeout), with or
    /// without a main loop; no callback runs meanwhile. The server does not keep the socket: it closes with its last
    /// handle.
    ///
    /// With TLS the client has shaken hands when it is returned. One whose hand-shake fails, or takes longer than the
    /// [limit](crate::server::ServerBuilder::handshake_timeout), is logged, and the next one is waited for. Clients that come
    /// meanwhile shake hands at the same time, so a silent one holds up nobody; those that are done first are kept for the
    /// next call.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let server = network::Server::builder().tls(false).bind(0)?;
    /// server.set_accept_timeout(Duration::from_millis(10));
    /// assert!(matches!(server.accept(), Err(network::Error::TimedOut { .. })));
    /// # Ok::<(), network::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::TimedOut`], or with a time-out of zero [`Error::NotReady`]; [`Error::Closed`] when the server is closed;
    /// [`Error::Unsupported`] if it has a callback for its clients, or if as many connections are open as
    /// [there may be](crate::server::ServerBuilder::max_connections), none of which could end while this call waits;
    /// [`Error::Io`] if the system has no room for another client, who goes on waiting.
    pub fn accept(&self) -> Result<Socket> {
        self.shared.accept()
    }

    /// How long [`accept`](Server::accept) waits for a client, from now on. `None`, the default, is without end; with zero
    /// it does not wait. What blocking calls on the connections wait is set by
    /// [`ServerBuilder::timeout`](crate::server::ServerBuilder::timeout). Does nothing for a server with a callback.
    pub fn set_accept_timeout(&self, limit: impl Into<Option<Duration>>) {
        if let Some(asked) = &self.shared.asked {
            asked.timeout.set(limit.into());
        }
    }
}

impl Shared {
    fn asked(&self) -> Result<&Asked> {
        self.asked.as_ref().ok_or_else(|| {
            Error::Unsupported(format!(
                "the server on {} has a callback for its clients; they can be asked for if it is made by Server::bind",
                self.name()
            ))
        })
    }

    pub(super) fn closed(&self) -> Error {
        Error::Closed { peer: format!("the server on {}", self.name()) }
    }

    fn accept(self: &Rc<Self>) -> Result<Socket> {
        let asked = self.asked()?;
        Engine::flush_here();
        let limit = asked.timeout.get();
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        loop {
            asked.shake(self.common.options.handshake_timeout);
            if let Some(client) = self.next_client()? {
                return Ok(client);
            }
            if self.is_full() && self.handshakes.len() == 0 {
                return Err(Error::Unsupported(format!(
                    "{}: no more than {} may be open, and none can end while accept waits",
                    self.name(),
                    count(self.max_connections, "connection")
                )));
            }
            let first = asked.shaking.borrow().iter().filter_map(|shaking| shaking.deadline).min();
            let until = [deadline, first].into_iter().flatten().min();
            let watched = self.watched();
            let mut fds = Vec::new();
            let waited = watched.watch(&mut fds).and_then(|()| wait_for(fds, until.map(left)));
            asked.served.set(Some(Instant::now()));
            let ready = waited.map_err(|source| Error::from_io(Operation::Accept, self.name(), source))?;
            if let (false, Some(limit), Some(deadline)) = (ready, limit, deadline)
                && left(deadline).is_zero()
            {
                return Err(match limit.is_zero() {
                    true => Error::NotReady { peer: self.name() },
                    false => Error::TimedOut { operation: Operation::Accept, address: self.name(), limit },
                });
            }
        }
    }

    pub(super) fn watched(&self) -> Watched {
        let listeners = if self.is_full() { Vec::new() } else { self.listeners.borrow().clone() };
        Watched { listeners, shaking: self.asked.as_ref().map(Asked::shaking).unwrap_or_default() }
    }

    /// Would [`Shared::accept`] return at once? Takes clients in only where that shows it, which is with TLS.
    pub(super) fn has_client(self: &Rc<Self>) -> bool {
        if let (Some(asked), Some(_)) = (&self.asked, &self.setup) {
            asked.shake(self.common.options.handshake_timeout);
            for _ in 0..ACCEPTS {
                if asked.waiting() > 0 || self.is_full() {
                    break;
                }
                match self.take_in(asked) {
                    Ok(true) => asked.shake(self.common.options.handshake_timeout),
                    Ok(false) => break,
                    // Which is what it would return.
                    Err(_) => return true,
                }
            }
            return asked.waiting() > 0 || self.listeners.borrow().is_empty();
        }
        let watched = self.watched();
        let mut fds = Vec::new();
        let ready = watched.watch(&mut fds).and_then(|()| wait_for(fds, Some(Duration::ZERO)));
        self.listeners.borrow().is_empty() || ready.unwrap_or(true)
    }

    /// Wakes, once, when there may be a client for [`Shared::next_client`], and when the server is closed.
    pub(super) fn when_acceptable(&self, waker: &Waker) {
        if let Some(asked) = &self.asked {
            asked.wakers.borrow_mut().add_once(waker);
        }
    }

    /// Was this one not woken since?
    pub(super) fn still_waits(&self, waker: &Waker) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.wakers.borrow().contains(waker))
    }

    /// A client that is ready, if there is one: taken from the backlog, and with TLS one whose hand-shake is done. Never
    /// waits. `None`: poll what [`Shared::watch`] names, or see [`Shared::when_acceptable`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a server with a callback; [`Error::Closed`]; [`Error::Io`] when the system has no room.
    pub(super) fn next_client(self: &Rc<Self>) -> Result<Option<Socket>> {
        let asked = self.asked()?;
        // A stream of clients that are rejected must not keep the caller here.
        for _ in 0..ACCEPTS {
            if let Some(socket) = asked.ready.borrow_mut().pop_front() {
                return Ok(Some(self.give(socket)));
            }
            if self.listeners.borrow().is_empty() {
                return Err(self.closed());
            }
            if self.is_full() || !self.take_in(asked)? {
                return Ok(None);
            }
        }
        for listener in &*self.listeners.borrow() {
            listener.requeue_hot();
        }
        Ok(None)
    }

    /// Takes one client from the backlog. False if nobody is there.
    fn take_in(self: &Rc<Self>, asked: &Asked) -> Result<bool> {
        let listeners = self.listeners.borrow().clone();
        for listener in listeners {
            match listener.next() {
                Ok(Some((fd, remote))) => {
                    if let Some(conn) = self.admit(fd, remote) {
                        let deadline = Instant::now().checked_add(self.common.options.handshake_timeout);
                        if asked.shaking.borrow().len() > 2 * self.handshakes.len() {
                            asked.shaking();
                        }
                        asked.shaking.borrow_mut().push(Shaking { conn: Rc::downgrade(&conn), deadline });
                    }
                    return Ok(true);
                }
                Ok(None) => listener.has_room(),
                Err(error) => {
                    return Err(Error::Io {
                        operation: Operation::Accept,
                        address: self.name(),
                        source: io::Error::from(error),
                    });
                }
            }
        }
        Ok(false)
    }

    fn give(self: &Rc<Self>, socket: Socket) -> Socket {
        let conn = socket.conn();
        let given = self.list(conn, |socket| Listed::Given(socket.downgrade()));
        conn.release();
        given
    }
}
