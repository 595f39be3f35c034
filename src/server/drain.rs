//! The end of all servers of a main context, with a grace period for their connections.

use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Listed, SERVERS, Server, Shared};
use crate::engine::Engine;
use crate::sys;

/// Servers that have stopped listening, held until their connections have ended.
pub(crate) struct Draining(Vec<Server>);

fn all_of(engine: &Rc<Engine>) -> Vec<Rc<Shared>> {
    let servers = SERVERS.with(|servers| servers.borrow().clone());
    servers.iter().filter_map(Weak::upgrade).filter(|server| Rc::ptr_eq(&server.engine, engine)).collect()
}

/// Returns copies of the listening sockets of a main context, each with the name to pass it on under.
pub(crate) fn listening(engine: &Rc<Engine>) -> std::io::Result<Vec<(OwnedFd, String)>> {
    let mut sockets = Vec::new();
    for server in all_of(engine) {
        for listener in &*server.listeners.borrow() {
            if let Some(fd) = listener.fd.open() {
                sockets.push((sys::duplicate(fd)?, listener.name.clone()));
            }
        }
    }
    Ok(sockets)
}

/// A successor serves: of the process, since its threads' servers are replaced along with it.
static HAS_SUCCESSOR: AtomicBool = AtomicBool::new(false);

/// Returns whether another process serves new clients, so that nobody is to be turned away by this one.
#[cfg(feature = "http")]
pub(crate) fn has_successor() -> bool {
    HAS_SUCCESSOR.load(Ordering::Relaxed)
}

/// Leaves the paths of unix sockets to a successor.
pub(crate) fn give_paths(engine: &Rc<Engine>) {
    HAS_SUCCESSOR.store(true, Ordering::Relaxed);
    for server in all_of(engine) {
        let theirs = server.path.take();
        drop(theirs);
    }
}

/// Stops the servers of a main context from listening.
pub(crate) fn drain_all(engine: &Rc<Engine>) -> Draining {
    let servers = all_of(engine);
    for server in &servers {
        server.draining.set(true);
        let publication = server.publication.take();
        drop(publication);
        server.stop_listening();
        server.common.stop();
        if let Some(asked) = &server.asked {
            asked.wake();
        }
    }
    Draining(servers.into_iter().map(|shared| Server { shared }).collect())
}

impl Draining {
    /// Returns whether all connections have ended.
    pub(crate) fn is_done(&self) -> bool {
        self.connections() == 0 && self.0.iter().all(|server| server.shared.handshakes.len() == 0)
    }

    pub(crate) fn connections(&self) -> usize {
        let is_live = |listed: &Listed| match listed {
            // Until its disconnect callback has run.
            Listed::Held(_) => true,
            Listed::Given(_) => listed.socket().is_some_and(|socket| socket.is_open()),
        };
        let count =
            |server: &Server| server.shared.connections.borrow().values().filter(|listed| is_live(listed)).count();
        self.0.iter().map(count).sum()
    }

    /// Closes the servers and the remaining connections after their queued data has been sent.
    pub(crate) fn close(&self) {
        self.each(|socket| drop(socket.close()));
    }

    /// Closes the servers and aborts the remaining connections.
    pub(crate) fn abort(&self) {
        self.each(|socket| drop(socket.abort()));
    }

    fn each(&self, end: impl Fn(&crate::conn::Socket)) {
        for server in &self.0 {
            for socket in server.connections() {
                end(&socket);
            }
            server.close();
        }
    }
}
