//! Clients that are accepted on request: a server without a client callback leaves them in the accept backlog.
//!
//! [`Shared::next_client`] accepts one without blocking. Callers that have to wait poll what [`Shared::watched`] returns,
//! as [`Server::accept`] does, or are woken from the loop, see [`Shared::when_acceptable`].

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
use crate::error::{Error, Operation, Result};
use crate::sys::wait_for;

/// State of a server whose clients are accepted on request.
#[derive(Default)]
pub(super) struct Asked {
    /// Clients whose handshake is complete and that have not been accepted yet.
    ready: RefCell<VecDeque<Socket>>,
    shaking: RefCell<Vec<Shaking>>,
    /// When the handshakes were last advanced, where no loop does that.
    served: Cell<Option<Instant>>,
    wakers: RefCell<Wakers>,
    timeout: Cell<Option<Duration>>,
    pub(super) turn: Turn,
}

/// A handshake and its deadline. `None`: it has no timeout.
struct Shaking {
    conn: Weak<Conn>,
    deadline: Option<Instant>,
}

impl Asked {
    /// Adds a client that can be accepted.
    pub(super) fn add(&self, conn: &Rc<Conn>) {
        // No callback runs before it is accepted, not even for its end.
        conn.hold();
        self.ready.borrow_mut().push_back(Socket::from_conn(conn.clone()));
        self.wake();
    }

    pub(super) fn waiting(&self) -> usize {
        self.ready.borrow().len()
    }

    /// Wakes the tasks that wait for a client.
    pub(super) fn wake(&self) {
        self.turn.begin();
        let wakers = self.wakers.take();
        wakers.wake();
    }

    /// Drops all clients: nobody will accept them.
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

    /// Returns the connections in the middle of a handshake.
    fn shaking(&self) -> Vec<Rc<Conn>> {
        let mut shaking = self.shaking.borrow_mut();
        shaking.retain(|shaking| shaking.conn.upgrade().is_some_and(|conn| conn.is_shaking()));
        shaking.iter().filter_map(|shaking| shaking.conn.upgrade()).collect()
    }

    /// Advances all handshakes without blocking. Time in which nobody did so does not count towards their timeout.
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
            // The alert has been sent, and nobody waits for the end of the connection.
            conn.close_without_peer();
        }
    }
}

/// The sockets to poll for the next client.
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
    /// Accepts the next client.
    ///
    /// For servers created by [`bind`](Server::bind). The server does not keep the socket: the connection closes when its
    /// last handle is dropped. TLS handshakes of several clients run concurrently, so a silent client does not delay the
    /// others; failed handshakes are logged and skipped.
    ///
    /// # Blocking
    /// Until a client is connected and its handshake is complete, or the [accept timeout](Server::set_accept_timeout)
    /// expires. No callback runs meanwhile.
    ///
    /// # Errors
    /// - [`Error::TimedOut`], or [`Error::NotReady`] if the timeout is zero.
    /// - [`Error::Closed`] if the server is closed.
    /// - [`Error::Unsupported`] if the server has a client callback, or if
    ///   [`max_connections`](crate::server::ServerBuilder::max_connections) are open.
    /// - [`Error::Io`] if the process has run out of file descriptors; the client stays in the backlog.
    ///
    /// # Example
    /// ```
    /// # use std::time::Duration;
    /// let server = network::Server::builder().tls(false).bind(0)?;
    /// server.set_accept_timeout(Duration::from_millis(10));
    /// assert!(matches!(server.accept(), Err(network::Error::TimedOut { .. })));
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn accept(&self) -> Result<Socket> {
        self.shared.accept()
    }

    /// Sets the timeout of [`accept`](Server::accept).
    ///
    /// `None`, the default, means no timeout; zero means non-blocking. The timeout of blocking calls on the connections is
    /// set by [`ServerBuilder::timeout`](crate::server::ServerBuilder::timeout). Has no effect on a server with a client
    /// callback.
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
                "the server on {} passes clients to its callback; use Server::bind to accept them",
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
                    "cannot accept on {}: {} open, which is the maximum, and none can close during accept",
                    self.name(),
                    match self.max_connections {
                        1 => "1 connection is".into(),
                        many => format!("{many} connections are"),
                    }
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

    /// Returns whether [`Shared::accept`] would return at once. Only TLS servers have to accept clients to find out.
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
                    // `accept` would return this error.
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

    /// Wakes the task, once, when [`Shared::next_client`] may return a client or the server is closed.
    pub(super) fn when_acceptable(&self, waker: &Waker) {
        if let Some(asked) = &self.asked {
            asked.wakers.borrow_mut().add_once(waker);
        }
    }

    /// Returns whether the task has not been woken since it began to wait.
    pub(super) fn still_waits(&self, waker: &Waker) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.wakers.borrow().contains(waker))
    }

    /// Accepts a client that is ready: from the backlog, and with TLS one whose handshake is complete. Never blocks.
    /// `None`: poll what [`Shared::watched`] returns, or see [`Shared::when_acceptable`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a server with a client callback; [`Error::Closed`]; [`Error::Io`] if the process has run
    /// out of file descriptors.
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

    /// Accepts one client from the backlog. Returns false if it is empty.
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
