//! One listening socket: accepts clients in batches, and pauses when the process or the server has no room.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::Shared;
use super::listening::Listening;
use crate::address::{Endpoint, endpoint};
use crate::engine::{Engine, FarEnd, Handler, Key, Next, Ready, Registration};
use crate::error::{Result, os_text};
use crate::log;
use crate::sys::{self, Descriptor, Ends};

/// Returns whether an error concerns only the network of one client (accept(2) has the list).
fn is_of_client(error: Errno) -> bool {
    const OF_CLIENT: [Errno; 9] = [
        Errno::PROTO,
        Errno::NETDOWN,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::NONET,
        Errno::HOSTUNREACH,
        Errno::OPNOTSUPP,
        Errno::NETUNREACH,
        Errno::PERM,
    ];
    OF_CLIENT.contains(&error)
}

/// Returns whether an error means that the process or the kernel has no room for another client for now.
pub(super) fn is_of_system(error: Errno) -> bool {
    matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
}

/// Clients accepted in one loop iteration before other connections are served.
pub(super) const ACCEPTS: usize = 64;

/// Pause before accepting again when the process has no file descriptor or the kernel no memory left.
const PAUSE: Duration = Duration::from_millis(100);

/// One listening socket.
pub(super) struct Listener {
    server: Weak<Shared>,
    engine: Rc<Engine>,
    pub(super) fd: Descriptor,
    /// The name to pass it on under.
    pub(super) name: String,
    key: Cell<Option<Key>>,
    /// The client callback is on the stack.
    busy: Cell<bool>,
    again: Cell<bool>,
    /// The server has as many connections as it may have.
    pub(super) full: Cell<bool>,
    /// Out of file descriptors or memory, and it has been logged.
    starved: Cell<bool>,
    /// A timer will try again.
    pausing: Rc<Cell<bool>>,
}
impl Listener {
    pub(super) fn start(server: &Rc<Shared>, listening: Listening) -> io::Result<Rc<Listener>> {
        let Listening { fd, name } = listening;
        let listener = Rc::new(Listener {
            server: Rc::downgrade(server),
            engine: server.engine.clone(),
            fd: Descriptor::new(fd),
            name,
            key: Cell::new(None),
            busy: Cell::new(false),
            again: Cell::new(false),
            full: Cell::new(false),
            starved: Cell::new(false),
            pausing: Rc::default(),
        });
        let fd = listener.fd.open().ok_or(io::ErrorKind::NotConnected)?;
        let registration = Registration { input: fd, input_blocks: false, output: None, write: false };
        let key = server.engine.register(registration, listener.clone())?;
        listener.key.set(Some(key));
        Ok(listener)
    }

    pub(super) fn close(&self) {
        if let Some(key) = self.key.take() {
            self.engine.deregister(key);
        }
        self.fd.close();
    }

    pub(super) fn wake(&self) {
        if let Some(key) = self.key.get() {
            self.engine.requeue(key);
        }
    }

    /// Like [`Listener::wake`], but served when nothing more urgent waits. Returns false once closed.
    pub(super) fn requeue_hot(&self) -> bool {
        let key = self.key.get();
        if let Some(key) = key {
            self.engine.requeue_hot(key);
        }
        key.is_some()
    }

    /// A client could be accepted again.
    pub(super) fn has_room(&self) {
        self.starved.set(false);
    }

    fn accept(&self, server: &Rc<Shared>) -> Next {
        for _ in 0..ACCEPTS {
            self.full.set(server.is_full());
            if self.full.get() {
                return Next::Idle;
            }
            let accepted = self.next();
            match accepted {
                Ok(Some((fd, remote))) => {
                    server.admit(fd, remote);
                    if self.engine.spent() {
                        return Next::Hot;
                    }
                }
                Ok(None) => {
                    self.starved.set(false);
                    return Next::Idle;
                }
                Err(error) if is_of_system(error) => {
                    self.pause(error);
                    return Next::Idle;
                }
                Err(error) => {
                    let (name, error) = (server.name(), io::Error::from(error));
                    let event = log::warning("accept").peer(&name).error(&error);
                    event.say(format_args!("stopped accepting on {name}: {}", os_text(&error)));
                    return Next::Idle;
                }
            }
        }
        Next::Hot
    }

    /// Accepts the next client from the backlog. `None` if it is empty or the listener is closed.
    pub(super) fn next(&self) -> Result<Option<(OwnedFd, Endpoint)>, Errno> {
        loop {
            let accepted = match self.fd.open() {
                Some(fd) => sys::accept(fd, SocketFlags::CLOEXEC),
                None => return Ok(None),
            };
            match accepted {
                Ok((fd, remote)) => return Ok(Some((fd, remote.map_or(Endpoint::Unix(None), endpoint)))),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(error) if is_of_client(error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The process can accept no more clients for now. They wait in the backlog; retrying without a pause would only burn
    /// CPU time.
    pub(super) fn pause(&self, error: Errno) {
        if let (Some(server), false) = (self.server.upgrade(), self.starved.replace(true)) {
            let (name, error) = (server.name(), io::Error::from(error));
            // Anybody who connects often enough can cause it.
            let event = log::message("accept").peer(&name).error(&error);
            event.say(format_args!(
                "cannot accept more clients on {name}: {}; retrying as connections close",
                os_text(&error)
            ));
        }
        if let (Some(key), false) = (self.key.get(), self.pausing.replace(true)) {
            let pausing = self.pausing.clone();
            self.engine.after(PAUSE, move |engine| {
                pausing.set(false);
                engine.requeue(key);
            });
        }
    }
}

impl Handler for Listener {
    fn ready(self: Rc<Self>, _engine: &Rc<Engine>, _ready: Ready) -> Next {
        let Some(server) = self.server.upgrade() else { return Next::Idle };
        if let Some(asked) = &server.asked {
            // Clients wait in the backlog until they are accepted.
            asked.wake();
            return Next::Idle;
        }
        if self.busy.replace(true) {
            self.again.set(true);
            return Next::Idle;
        }
        let next = self.accept(&server);
        self.busy.set(false);
        if self.again.take() { next.max(Next::Again) } else { next }
    }

    fn far_end(&self, ends: &Ends) -> FarEnd {
        let waits_here = self.fd.open().is_some_and(|fd| ends.wait_at(fd));
        if waits_here { FarEnd::Silent } else { FarEnd::Elsewhere }
    }

    fn context_ended(self: Rc<Self>) {
        if let Some(server) = self.server.upgrade() {
            server.close();
        }
    }
}
