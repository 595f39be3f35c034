//! [`Selectable`]: the questions that a [`Selector`](crate::Selector) asks a socket in order to wait for it. Each kind of socket
//! implements it in its own room.

use std::io;

use rustix::event::PollFd;

use crate::conn::{Socket, WeakSocket};

/// A socket or server that a [`Selector`](crate::Selector) can wait for: [`Socket`], [`Server`](crate::Server),
/// [`UdpSocket`](crate::UdpSocket) or [`MessageSocket`](crate::udp::MessageSocket).
pub trait Selectable: sealed::Sealed {}

impl<T: sealed::Sealed> Selectable for T {}

pub(crate) mod sealed {
    pub trait Sealed {
        #[doc(hidden)]
        fn weak(&self) -> Box<dyn super::WeakPolled>;
    }
}

/// A weak reference to a socket in a selector, which keeps nothing open.
pub trait WeakPolled {
    /// Returns the same pointer for all handles to one socket, and for no other.
    fn id(&self) -> *const ();

    fn upgrade(&self) -> Option<Box<dyn Polled>>;
}

/// A socket while one round of a selector looks at it.
pub trait Polled {
    /// Returns whether receiving would return at once, with data, the end or an error.
    fn is_ready(&self) -> bool;

    /// Adds the descriptors to poll until [`is_ready`](Polled::is_ready) may say something else.
    fn watch<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) -> io::Result<()>;

    /// Sends queued data as far as the kernel accepts it.
    fn send_on(&self) {}
}

impl sealed::Sealed for Socket {
    fn weak(&self) -> Box<dyn WeakPolled> {
        Box::new(self.downgrade())
    }
}

impl WeakPolled for WeakSocket {
    fn id(&self) -> *const () {
        self.conn.as_ptr().cast()
    }

    fn upgrade(&self) -> Option<Box<dyn Polled>> {
        WeakSocket::upgrade(self).map(|socket| Box::new(socket) as Box<dyn Polled>)
    }
}

impl Polled for Socket {
    fn is_ready(&self) -> bool {
        self.conn().is_readable()
    }

    fn watch<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) -> io::Result<()> {
        self.conn().watch(fds)
    }

    fn send_on(&self) {
        self.conn().send_on();
    }
}
