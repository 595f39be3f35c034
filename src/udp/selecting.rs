//! Sockets for datagrams in a [`Selector`](crate::Selector): ready when receiving would return at once.

use std::io;

use rustix::event::{PollFd, PollFlags};

use super::{MessageSocket, UdpSocket, WeakMessageSocket, WeakUdpSocket};
use crate::socket::{Polled, Sealed, WeakPolled};

macro_rules! selectable {
    ($socket:ident, $weak:ident) => {
        impl Sealed for $socket {
            fn weak(&self) -> Box<dyn WeakPolled> {
                Box::new(self.downgrade())
            }
        }

        impl WeakPolled for $weak {
            fn id(&self) -> *const () {
                self.core.as_ptr().cast()
            }

            fn upgrade(&self) -> Option<Box<dyn Polled>> {
                $weak::upgrade(self).map(|socket| Box::new(socket) as Box<dyn Polled>)
            }
        }

        impl Polled for $socket {
            fn is_ready(&self) -> bool {
                self.core.is_readable()
            }

            fn watch<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) -> io::Result<()> {
                fds.extend(self.core.open().ok().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
                Ok(())
            }
        }
    };
}

selectable!(UdpSocket, WeakUdpSocket);
selectable!(MessageSocket, WeakMessageSocket);
