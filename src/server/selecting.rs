//! A server in a [`Selector`](crate::Selector): ready when accepting would return at once.

use std::cell::OnceCell;
use std::io;

use rustix::event::PollFd;

use super::accept::Watched;
use super::{Server, WeakServer};
use crate::socket::{Polled, Sealed, WeakPolled};

/// A server and the sockets it is polled by. Listeners that close meanwhile keep their descriptors until the poll is over.
struct Selected {
    server: Server,
    watched: OnceCell<Watched>,
}

impl Sealed for Server {
    fn weak(&self) -> Box<dyn WeakPolled> {
        Box::new(self.downgrade())
    }
}

impl WeakPolled for WeakServer {
    fn id(&self) -> *const () {
        self.shared.as_ptr().cast()
    }

    fn upgrade(&self) -> Option<Box<dyn Polled>> {
        let server = WeakServer::upgrade(self)?;
        Some(Box::new(Selected { server, watched: OnceCell::new() }))
    }
}

impl Polled for Selected {
    fn is_ready(&self) -> bool {
        self.server.shared.has_client()
    }

    fn watch<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) -> io::Result<()> {
        self.watched.get_or_init(|| self.server.shared.watched()).watch(fds)
    }
}
