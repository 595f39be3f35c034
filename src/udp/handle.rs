//! [`UdpSocket`]: the handle to a datagram socket, and its weak form. The methods are in [`udp`](super).

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::rc::{Rc, Weak};

use super::core::Core;
use crate::error::{Error, Result};

/// A socket for datagrams (UDP), over IPv6, IPv4 or both.
///
/// Cloning returns another handle to the same socket. A socket belongs to the thread-default main context in which it was
/// created, and cannot be sent to another thread. It stays open while a handle exists or a read callback is set. Datagrams
/// may be lost, duplicated or reordered by the network; a datagram that arrives is complete, and may be empty.
///
/// # Callbacks
/// Callbacks receive the socket as their first argument, so they need not capture it. They run only from the main loop,
/// never inside a method call, and one at a time per socket. A callback may close the socket, drop the last handle, replace
/// itself, run a nested loop or panic (which closes the socket). An error returned by the [`read`](UdpSocket::read)
/// callback does *not* close the socket, because anybody may send it anything: the error goes to
/// [`error_cb`](UdpSocket::error_cb) or to the log.
///
/// # Blocking calls
/// [`recv_from`](UdpSocket::recv_from), [`recv`](UdpSocket::recv) and their variants block until a datagram arrives or the
/// timeout set by [`set_timeout`](UdpSocket::set_timeout) expires, with or without a main loop, and run no callbacks
/// meanwhile. Sending blocks only while the send buffer is full, which is rare, and never inside a callback. A host name as
/// the destination is resolved, which blocks: use an address in callbacks.
///
/// # Example
/// ```
/// use network::UdpSocket;
///
/// let server = UdpSocket::bind("127.0.0.1:0")?;
/// server.read(|socket, data, from| socket.send_to(data.to_ascii_uppercase(), from));
///
/// let client = UdpSocket::bind("127.0.0.1:0")?;
/// client.connect(server.local())?;
/// client.send("hello")?;
/// client.read(|_, data, _| {
///     assert_eq!(data, b"HELLO");
///     network::endloop();
///     Ok(())
/// });
/// # assert!(!network::fgloop_for(std::time::Duration::from_secs(30)), "no answer");
/// # Ok::<(), network::Error>(())
/// ```
pub struct UdpSocket {
    pub(super) core: Rc<Core>,
}

impl UdpSocket {
    pub(super) fn from_core(core: Rc<Core>) -> UdpSocket {
        core.add_handle();
        UdpSocket { core }
    }

    /// Returns a handle that does not keep the socket open.
    pub fn downgrade(&self) -> WeakUdpSocket {
        WeakUdpSocket { core: Rc::downgrade(&self.core) }
    }
}

impl TryFrom<std::net::UdpSocket> for UdpSocket {
    type Error = Error;
    fn try_from(socket: std::net::UdpSocket) -> Result<UdpSocket> {
        UdpSocket::from_fd(socket)
    }
}

impl Clone for UdpSocket {
    fn clone(&self) -> UdpSocket {
        UdpSocket::from_core(self.core.clone())
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        self.core.drop_handle();
    }
}

impl PartialEq for UdpSocket {
    /// Returns whether both are handles to the same socket.
    fn eq(&self, other: &UdpSocket) -> bool {
        Rc::ptr_eq(&self.core, &other.core)
    }
}

impl Eq for UdpSocket {}

impl std::hash::Hash for UdpSocket {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        Rc::as_ptr(&self.core).hash(state);
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket")
            .field("local", &self.local())
            .field("remote", &self.remote())
            .field("open", &self.is_open())
            .finish()
    }
}

impl AsFd for UdpSocket {
    /// Returns the file descriptor, or `/dev/null` once the socket is closed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.core.lend()
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// A handle to a [`UdpSocket`] that does not keep it open.
#[derive(Clone)]
pub struct WeakUdpSocket {
    pub(super) core: Weak<Core>,
}

impl fmt::Debug for WeakUdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakUdpSocket").finish_non_exhaustive()
    }
}

impl WeakUdpSocket {
    /// Returns a handle to the socket, or `None` if it has been dropped.
    pub fn upgrade(&self) -> Option<UdpSocket> {
        let core = self.core.upgrade()?;
        core.has_handles().then(|| UdpSocket::from_core(core))
    }
}

impl glib::clone::Downgrade for UdpSocket {
    type Weak = WeakUdpSocket;
    fn downgrade(&self) -> WeakUdpSocket {
        UdpSocket::downgrade(self)
    }
}

impl glib::clone::Upgrade for WeakUdpSocket {
    type Strong = UdpSocket;
    fn upgrade(&self) -> Option<UdpSocket> {
        WeakUdpSocket::upgrade(self)
    }
}
