//! [`Selector`]: waits for the first of several sockets and servers, without a main loop.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::error::{Error, Operation, Result};
use crate::socket::{Polled, Selectable, WeakPolled};
use crate::sys::wait_for;

/// A set of [`Socket`](crate::Socket)s, [`Server`](crate::Server)s and [`UdpSocket`](crate::UdpSocket)s (or
/// [`MessageSocket`](crate::udp::MessageSocket)s) to wait for, without a
/// main loop. Meant for scripts.
///
/// A socket is ready when [`recv`](crate::Socket::recv) would return at once, with data or the end of the stream. Received
/// data that has not been delivered counts; half a TLS record does not. A server is ready when
/// [`accept`](crate::Server::accept) would return at once. Closed sockets and servers are ready.
///
/// The selector holds weak handles: it keeps nothing open, and sockets that are dropped leave it. Cloning returns another
/// handle to the same selector.
///
/// # Example
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
///
/// # Lines
/// A socket is readable as soon as part of a line has arrived, and [`recv_line`](crate::Socket::recv_line) then blocks until
/// the rest arrives. With several sockets, use [`recv`](crate::Socket::recv), which does not block on a readable socket, and
/// split the lines yourself:
///
/// ```
/// use network::{Selector, Socket};
///
/// /// Calls `on_line` with each line of any of these sockets, until all of them have ended.
/// fn lines_of(sockets: Vec<Socket>, mut on_line: impl FnMut(&Socket, &str)) -> network::Result {
///     let selector = Selector::new();
///     sockets.iter().for_each(|socket| selector.add(socket));
///     let mut open: Vec<_> = sockets.into_iter().map(|socket| (socket, Vec::new())).collect();
///     while !open.is_empty() {
///         selector.wait(None)?;
///         open.retain_mut(|(socket, received)| {
///             if !selector.is_ready(socket) {
///                 return true;
///             }
///             let Ok(data) = socket.recv(4096) else {
///                 selector.remove(socket);
///                 return false;
///             };
///             received.extend(data);
///             while let Some(end) = received.iter().position(|byte| *byte == b'\n') {
///                 on_line(socket, &String::from_utf8_lossy(&received[..end]));
///                 received.drain(..=end);
///             }
///             true
///         });
///     }
///     Ok(())
/// }
/// # fn pair() -> network::Result<(Socket, std::os::unix::net::UnixStream)> {
/// #     let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
/// #     Ok((Socket::from_fd(ours)?, theirs))
/// # }
/// # use std::io::Write;
/// # let ((one, mut first), (other, mut second)) = (pair()?, pair()?);
/// # first.write_all(b"half ").unwrap();
/// # second.write_all(b"whole\n").unwrap();
/// # let mut said = Vec::new();
/// # let (mut first, mut second) = (Some(first), Some(second));
/// # lines_of(vec![one, other], |_, line| {
/// #     said.push(line.to_owned());
/// #     // The half line has blocked nobody. Its rest comes now, and then both end.
/// #     second = None;
/// #     if let Some(mut first) = first.take() {
/// #         first.write_all(b"line\n").unwrap();
/// #     }
/// # })?;
/// # assert_eq!(said, ["whole", "half line"]);
/// # Ok::<(), network::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Selector {
    entries: Rc<RefCell<Vec<Entry>>>,
}

struct Entry {
    weak: Box<dyn WeakPolled>,
    ready: Cell<bool>,
}

impl Selector {
    /// Returns an empty selector.
    pub fn new() -> Selector {
        Selector::default()
    }

    /// Adds a socket or server. Adding it again has no effect.
    pub fn add(&self, what: &impl Selectable) {
        let weak = what.weak();
        let mut entries = self.entries.borrow_mut();
        if entries.iter().all(|entry| entry.weak.id() != weak.id()) {
            entries.push(Entry { weak, ready: Cell::new(false) });
        }
    }

    /// Removes a socket or server. Has no effect if it was not added.
    pub fn remove(&self, what: &impl Selectable) {
        let id = what.weak().id();
        self.entries.borrow_mut().retain(|entry| entry.weak.id() != id);
    }

    /// Removes all sockets and servers.
    pub fn clear(&self) {
        self.entries.take();
    }

    /// Returns whether a socket or server was ready when [`wait`](Selector::wait) last returned.
    pub fn is_ready(&self, what: &impl Selectable) -> bool {
        let id = what.weak().id();
        self.entries.borrow().iter().any(|entry| entry.ready.get() && entry.weak.id() == id)
    }

    /// Waits until at least one socket or server is ready. Returns false if the timeout expires first.
    ///
    /// `None` means no timeout, zero means not to wait. Queued data of the sockets is sent meanwhile.
    ///
    /// # Blocking
    /// Until one is ready or the timeout expires. No callback runs meanwhile.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the selector is empty and there is no timeout; [`Error::Io`] for any other failure.
    pub fn wait(&self, limit: impl Into<Option<Duration>>) -> Result<bool> {
        let limit = limit.into();
        let end = limit.and_then(|limit| Instant::now().checked_add(limit));
        loop {
            Engine::flush_here();
            let all = self.living();
            // Nothing is borrowed meanwhile: a log callback may add and remove sockets.
            let ready: Vec<bool> = all.iter().map(|(_, what)| what.is_ready()).collect();
            self.note(&all, &ready);
            if ready.contains(&true) {
                return Ok(true);
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
            if all.is_empty() && end.is_none() {
                return Err(Error::Unsupported("cannot wait without a timeout: the selector is empty".into()));
            }
            // Answers of TLS.
            Engine::flush_here();
            let mut fds = Vec::new();
            for (_, what) in &all {
                what.watch(&mut fds).map_err(failed)?;
            }
            wait_for(fds, left).map_err(failed)?;
            all.iter().for_each(|(_, what)| what.send_on());
        }
    }

    /// Returns the sockets that are alive and forgets the others.
    fn living(&self) -> Vec<(*const (), Box<dyn Polled>)> {
        let mut living = Vec::new();
        self.entries.borrow_mut().retain(|entry| {
            let polled = entry.weak.upgrade();
            let lives = polled.is_some();
            living.extend(polled.map(|polled| (entry.weak.id(), polled)));
            lives
        });
        living
    }

    /// Notes which ones are ready. One that was removed meanwhile is no longer in the list.
    fn note(&self, all: &[(*const (), Box<dyn Polled>)], ready: &[bool]) {
        for entry in self.entries.borrow().iter() {
            let mut both = all.iter().zip(ready);
            entry.ready.set(both.any(|((id, _), ready)| *ready && entry.weak.id() == *id));
        }
    }
}

fn failed(source: std::io::Error) -> Error {
    Error::from_io(Operation::Wait, "a selector", source)
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selector").field("waits_for", &self.entries.borrow().len()).finish()
    }
}
