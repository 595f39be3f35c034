//! [`Selector`]: waits for the first of several sockets and servers of any kind, without a loop.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use glib::clone::Downgrade;
use rustix::event::{PollFd, PollFlags};

use crate::conn::{Socket, WeakSocket};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::server::{Server, Watched, WeakServer};
use crate::sys::wait_for;
use crate::udp::{UdpSocket, WeakUdpSocket};

/// Waits until one of several [`Socket`]s, [`Server`]s and [`UdpSocket`]s has something to receive. For scripts: a program
/// with a main loop has callbacks for that.
///
/// A socket is ready when [`recv`](Socket::recv) would return at once, with data or with the end: data that was received
/// before and not handed over counts, half a record of TLS does not. A server is ready when [`accept`](Server::accept)
/// would return at once. A closed one is ready, since it has that to tell.
///
/// The selector holds weak handles: it keeps nothing open, and what is dropped is no longer waited for. A clone is
/// another handle to the same selector.
///
/// ```
/// use std::time::Duration;
/// use network::{Selector, UdpSocket};
///
/// let (one, other) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
/// let selector = Selector::new();
/// selector.add(&one);
/// selector.add(&other);
/// one.send_to("hello", other.local())?;
/// assert!(selector.wait(Duration::from_secs(30))?);
/// assert!(selector.is_ready(&other) && !selector.is_ready(&one));
/// # Ok::<(), network::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Selector {
    entries: Rc<RefCell<Vec<Entry>>>,
}

struct Entry {
    weak: Weak,
    ready: Cell<bool>,
}

enum Weak {
    Socket(WeakSocket),
    Server(WeakServer),
    Udp(WeakUdpSocket),
}

/// A socket or server, while it is looked at.
#[derive(PartialEq)]
pub enum Selected {
    Socket(Socket),
    Server(Server),
    Udp(UdpSocket),
}

/// What a [`Selector`] can wait for: [`Socket`], [`Server`], [`UdpSocket`].
pub trait Selectable: sealed::Sealed {}

impl<T: sealed::Sealed> Selectable for T {}

mod sealed {
    pub trait Sealed {
        #[doc(hidden)]
        fn selected(&self) -> crate::selector::Selected;
    }
}

impl sealed::Sealed for Socket {
    fn selected(&self) -> Selected {
        Selected::Socket(self.clone())
    }
}

impl sealed::Sealed for Server {
    fn selected(&self) -> Selected {
        Selected::Server(self.clone())
    }
}

impl sealed::Sealed for UdpSocket {
    fn selected(&self) -> Selected {
        Selected::Udp(self.clone())
    }
}

impl Selector {
    /// One that waits for nothing yet.
    pub fn new() -> Selector {
        Selector::default()
    }

    /// Waits for this one as well. Adding it again changes nothing.
    pub fn add(&self, what: &impl Selectable) {
        let what = what.selected();
        if !self.has(&what) {
            self.entries.borrow_mut().push(Entry { weak: what.downgrade(), ready: Cell::new(false) });
        }
    }

    /// Waits for this one no longer. Does nothing for one that was not added.
    pub fn remove(&self, what: &impl Selectable) {
        let what = what.selected();
        self.keep(|known| *known != what);
    }

    /// Waits for none of them any longer.
    pub fn clear(&self) {
        self.entries.take();
    }

    /// Was this one ready when [`wait`](Selector::wait) last returned?
    pub fn is_ready(&self, what: &impl Selectable) -> bool {
        let what = what.selected();
        self.entries.borrow().iter().any(|entry| entry.ready.get() && entry.weak.upgrade().as_ref() == Some(&what))
    }

    /// Waits until at least one is ready; false if the time is up before, zero meaning not to wait and `None` to wait
    /// without end. With or without a main loop. **Blocks**, and runs no callback meanwhile; what was sent on any of them,
    /// and is still queued, goes out.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if there is nothing to wait for and no end to it; [`Error::Io`].
    pub fn wait(&self, limit: impl Into<Option<Duration>>) -> Result<bool> {
        let limit = limit.into();
        let end = limit.and_then(|limit| Instant::now().checked_add(limit));
        loop {
            Engine::flush_here();
            let all = self.living();
            // Nothing is borrowed meanwhile: whoever listens to the log may add and remove.
            let ready: Vec<bool> = all.iter().map(Selected::is_ready).collect();
            self.note(&all, &ready);
            if ready.contains(&true) {
                return Ok(true);
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
            if all.is_empty() && end.is_none() {
                return Err(Error::Unsupported("a selector without any sockets cannot wait without end".into()));
            }
            // What TLS has to answer.
            Engine::flush_here();
            let all: Vec<(&Selected, Option<Watched>)> = all.iter().map(|what| (what, what.watched())).collect();
            let mut fds = Vec::new();
            for (what, watched) in &all {
                what.watch(watched.as_ref(), &mut fds).map_err(failed)?;
            }
            wait_for(fds, left).map_err(failed)?;
            for (what, _) in all {
                if let Selected::Socket(socket) = what {
                    socket.conn().send_on();
                }
            }
        }
    }

    fn has(&self, what: &Selected) -> bool {
        self.entries.borrow().iter().any(|entry| entry.weak.upgrade().as_ref() == Some(what))
    }

    fn keep(&self, wanted: impl Fn(&Selected) -> bool) {
        self.entries.borrow_mut().retain(|entry| entry.weak.upgrade().is_some_and(|known| wanted(&known)));
    }

    fn living(&self) -> Vec<Selected> {
        self.keep(|_| true);
        self.entries.borrow().iter().filter_map(|entry| entry.weak.upgrade()).collect()
    }

    /// What is ready. One that was removed meanwhile is no longer there to be noted.
    fn note(&self, all: &[Selected], ready: &[bool]) {
        for entry in self.entries.borrow().iter() {
            let now = entry.weak.upgrade();
            let mut both = all.iter().zip(ready);
            entry.ready.set(both.any(|(what, ready)| *ready && now.as_ref() == Some(what)));
        }
    }
}

fn failed(source: std::io::Error) -> Error {
    Error::from_io("waiting for", "a selector", source)
}

impl Selected {
    fn downgrade(&self) -> Weak {
        match self {
            Selected::Socket(socket) => Weak::Socket(socket.downgrade()),
            Selected::Server(server) => Weak::Server(server.downgrade()),
            Selected::Udp(socket) => Weak::Udp(socket.downgrade()),
        }
    }

    fn is_ready(&self) -> bool {
        match self {
            Selected::Socket(socket) => socket.conn().is_readable(),
            Selected::Server(server) => server.has_client(),
            Selected::Udp(socket) => socket.is_readable(),
        }
    }

    /// What a server is polled by.
    fn watched(&self) -> Option<Watched> {
        match self {
            Selected::Server(server) => Some(server.watched()),
            _ => None,
        }
    }

    fn watch<'a>(&'a self, watched: Option<&'a Watched>, fds: &mut Vec<PollFd<'a>>) -> std::io::Result<()> {
        match self {
            Selected::Socket(socket) => socket.conn().watch(fds),
            Selected::Server(_) => watched.map_or(Ok(()), |watched| watched.watch(fds)),
            Selected::Udp(socket) => {
                fds.extend(socket.open_fd().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
                Ok(())
            }
        }
    }
}

impl Weak {
    fn upgrade(&self) -> Option<Selected> {
        match self {
            Weak::Socket(weak) => weak.upgrade().map(Selected::Socket),
            Weak::Server(weak) => weak.upgrade().map(Selected::Server),
            Weak::Udp(weak) => weak.upgrade().map(Selected::Udp),
        }
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selector").field("waits_for", &self.entries.borrow().len()).finish()
    }
}
