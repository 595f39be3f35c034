//! [`UdpSocket`]: the handle to a datagram socket, and its weak form. The methods are in [`udp`](super).

use std::rc::{Rc, Weak};

use super::core::Core;
use super::faces::handle;
use crate::error::{Error, Result};

/// A socket for datagrams (UDP), over IPv6, IPv4 or both.
///
/// Cloning returns another handle to the same socket. A socket belongs to the thread-default main context in which it was
/// created, and cannot be sent to another thread. It stays open while a handle exists or a read callback is set. Datagrams
/// may be lost, duplicated or reordered by the network; a datagram that arrives is complete, and may be empty.
///
/// For unix sockets, netlink, ICMP and other messages, see [`MessageSocket`](super::MessageSocket).
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

/// A handle to a [`UdpSocket`] that does not keep it open.
#[derive(Clone)]
pub struct WeakUdpSocket {
    pub(super) core: Weak<Core>,
}

handle!(UdpSocket, WeakUdpSocket);

impl TryFrom<std::net::UdpSocket> for UdpSocket {
    type Error = Error;
    fn try_from(socket: std::net::UdpSocket) -> Result<UdpSocket> {
        UdpSocket::from_fd(socket)
    }
}
