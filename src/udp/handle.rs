//! [`UdpSocket`]: the handle to a socket for datagrams, and its weak kind. What can be done with it is in [`udp`](super).

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::rc::{Rc, Weak};

use super::core::Core;
use crate::error::{Error, Result};

/// A socket for datagrams (UDP), over IPv6, IPv4 or both.
///
/// It belongs to the thread-default main context of the moment it was made, and to the thread that runs that. Cloning
/// gives another handle to the same socket. It stays open while a handle lives or a read callback is registered; when the
/// last of these goes, it closes. Datagrams are as the network has them: they may be lost, doubled, or come in another
/// order; one that came is whole, and may be empty.
///
/// # Callbacks
/// They get the socket as their first argument, so none needs to be captured. None runs inside a method call, only from
/// the main loop, and none while another of the same socket is on the stack. Inside one everything is allowed: closing,
/// dropping the last handle, registering another callback, running a nested main loop, even a panic (which closes the
/// socket). An error that [`read`](UdpSocket::read)'s callback returns does *not* close the socket, since anybody may
/// send it anything: it goes to [`error_cb`](UdpSocket::error_cb), or to the log.
///
/// # Blocking calls
/// [`recv_from`](UdpSocket::recv_from), [`recv`](UdpSocket::recv) and their kin wait for a datagram as long as
/// [`set_timeout`](UdpSocket::set_timeout) says, with or without a main loop, and run no callback meanwhile. Sending
/// waits only if the system has no room, which is rare, and never inside a callback. A host name as the destination is
/// looked up, which blocks: give an address in callbacks.
///
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
    /// The same socket.
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
    /// The descriptor; `/dev/null` once the socket is closed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.core.lend()
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// A handle that does not keep the socket open.
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
    /// The socket, while anything keeps it open.
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
