//! A UDP socket in a [`Selector`](crate::Selector): ready when receiving would return at once.

use std::io;

use rustix::event::{PollFd, PollFlags};

use super::{UdpSocket, WeakUdpSocket};
use crate::socket::{Polled, Sealed, WeakPolled};

impl Sealed for UdpSocket {
    fn weak(&self) -> Box<dyn WeakPolled> {
        Box::new(self.downgrade())
    }
}

impl WeakPolled for WeakUdpSocket {
    fn id(&self) -> *const () {
        self.core.as_ptr().cast()
    }

    fn upgrade(&self) -> Option<Box<dyn Polled>> {
        WeakUdpSocket::upgrade(self).map(|socket| Box::new(socket) as Box<dyn Polled>)
    }
}

impl Polled for UdpSocket {
    fn is_ready(&self) -> bool {
        self.core.is_readable()
    }

    fn watch<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) -> io::Result<()> {
        fds.extend(self.core.open().ok().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        Ok(())
    }
}
