//! [`MessageSocket`]: unix sockets for messages, and any other message-oriented descriptor.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::rc::{Rc, Weak};

use rustix::net::{AddressFamily, SocketType, sockopt};

use super::core::Core;
use super::destination::clothed;
use super::faces::{datagram_methods, handle};
use super::message_builder::{MessageBuilder, MessageKind};
use super::sending::Remote;
use crate::address::{Address, Endpoint, Target};
use crate::error::{Error, Result, os_text};
use crate::resolve::{Plan, plan_with_any_port};

/// A socket that preserves message boundaries: a unix socket for datagrams or of type seqpacket, or any other
/// message-oriented descriptor, such as those of netlink, ICMP, CAN and raw sockets.
///
/// It has the callbacks, blocking calls, futures and limits of [`UdpSocket`](crate::UdpSocket), and may be added to a
/// [`Selector`](crate::Selector). Cloning returns another handle to the same socket. It belongs to the thread-default main
/// context in which it was created, and stays open while a handle exists or a read callback is set. For UDP, use
/// [`UdpSocket`](crate::UdpSocket).
///
/// Senders are [`Endpoint`]s: the path or abstract name of a unix socket, or an IP address. `None` means that the sender's
/// address is of another family, as with netlink and CAN.
///
/// # Unix sockets
/// Nothing is lost and nothing is reordered: while the receiver is full, sending waits, as long as the
/// [timeout](Self::set_timeout) allows and never inside a callback. Only users with write permission for the path can send.
/// A receiver can answer only senders that have a name, so a client that expects an answer [binds](Self::bind) a path or name
/// of its own and then calls [`set_peer`](Self::set_peer). File descriptors that come along with a message are closed.
///
/// A datagram socket has no connection: it learns of a peer that has gone when it sends, by [`Error::Refused`]. A seqpacket
/// socket has one: its end is [`Error::Closed`], which callbacks get by [`error_cb`](Self::error_cb). An empty message is not
/// the end. A seqpacket *server* is not offered: accept elsewhere, and pass the descriptor to [`from_fd`](Self::from_fd).
///
/// # Example
/// ```
/// use network::udp::MessageSocket;
///
/// # let directory = std::env::temp_dir().join(format!("network-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory).unwrap();
/// # let path = directory.join("log");
/// let log = MessageSocket::bind(&path)?;
/// let program = MessageSocket::connect(&path)?;
/// program.send("started")?;
/// assert_eq!(log.recv(1000)?, b"started");
/// # drop(log);
/// # assert!(!path.exists());
/// # std::fs::remove_dir(&directory).unwrap();
/// # Ok::<(), network::Error>(())
/// ```
pub struct MessageSocket {
    pub(super) core: Rc<Core>,
}

/// A handle to a [`MessageSocket`] that does not keep it open.
#[derive(Clone)]
pub struct WeakMessageSocket {
    pub(super) core: Weak<Core>,
}

handle!(MessageSocket, WeakMessageSocket);
datagram_methods!(MessageSocket, Option<Endpoint>, std::convert::identity);

impl MessageSocket {
    /// Creates a unix socket for datagrams at a path or with an abstract name, written `/run/name`, `./name` or `@name`.
    ///
    /// The path is removed when the socket is closed, unless another file has taken its place. See
    /// [`MessageBuilder`] for its permissions, and for paths that a crashed process has left behind.
    ///
    /// # Errors
    /// - [`Error::Address`] if the address is not that of a unix socket.
    /// - [`Error::InUse`] if the path exists or the name is taken.
    /// - [`Error::WrongThread`] if another thread owns the main context.
    /// - [`Error::Io`] for any other failure.
    pub fn bind<A>(address: A) -> Result<MessageSocket>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        MessageSocket::builder().bind(address)
    }

    /// Creates a unix socket without a name that is connected to this path or abstract name: for datagrams, or of type
    /// seqpacket if the peer is. Does not block.
    ///
    /// # Errors
    /// - [`Error::Address`] if the address is not that of a unix socket.
    /// - [`Error::Refused`] if the path does not exist or no process has it.
    /// - [`Error::Io`] for any other failure: of kind `WouldBlock` if a seqpacket server's queue of clients is full.
    /// - [`Error::WrongThread`].
    pub fn connect<A>(address: A) -> Result<MessageSocket>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        MessageSocket::builder().connect(address)
    }

    /// Creates two unix sockets without names that are connected to each other, for example for a forked process.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for [`MessageKind::Raw`]; [`Error::WrongThread`], [`Error::Io`].
    ///
    /// # Example
    /// ```
    /// use network::udp::{MessageKind, MessageSocket};
    ///
    /// let (ours, theirs) = MessageSocket::pair(MessageKind::Seqpacket)?;
    /// ours.send("")?;
    /// drop(ours);
    /// assert_eq!(theirs.recv(100)?, b"");
    /// assert!(matches!(theirs.recv(100), Err(network::Error::Closed { .. })));
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn pair(kind: MessageKind) -> Result<(MessageSocket, MessageSocket)> {
        MessageSocket::builder().pair(kind)
    }

    /// Takes ownership of the descriptor of any socket of type `SOCK_DGRAM`, `SOCK_SEQPACKET` or `SOCK_RAW`, of any family:
    /// netlink, packet, CAN, ICMP, raw, unix and others. Its blocking mode stays as it is.
    ///
    /// # Errors
    /// - [`Error::Io`] of kind `InvalidInput` if the socket is of another type, which the message names, if it listens,
    ///   or if it is a unix socket of type seqpacket without a connection.
    /// - [`Error::Io`] if the descriptor is not a socket.
    /// - [`Error::WrongThread`].
    pub fn from_fd(fd: impl Into<OwnedFd>) -> Result<MessageSocket> {
        MessageSocket::builder().from_fd(fd)
    }

    /// Returns a builder with all options.
    pub fn builder() -> MessageBuilder {
        MessageBuilder::default()
    }

    /// Fixes the peer of a datagram or raw socket. [`send`](Self::send) sends to it, and messages of all others are dropped,
    /// including those already received. Further calls change the peer. Causes no traffic and does not block.
    ///
    /// # Errors
    /// - [`Error::Refused`] if the path does not exist or no process has it.
    /// - [`Error::Address`] if the address is not of the socket's family, or contains a host name.
    /// - [`Error::Closed`], [`Error::Io`].
    #[doc(alias = "connect")]
    pub fn set_peer<A>(&self, address: A) -> Result
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        let address = address.try_into()?;
        let fixed = self.core.fix_peer(&self.remote_at(&address)?);
        fixed.map_err(|errno| match self.is_open() {
            true => Error::from_connect(&address, errno.into()),
            false => self.core.closed(),
        })
    }

    // ---- sending ----

    /// Sends one message, which may be empty, to a path, an abstract name or an IP address.
    ///
    /// # Blocking
    /// While the send buffer or the receiver is full, until the [timeout](Self::set_timeout) expires, but never inside a
    /// callback.
    ///
    /// # Errors
    /// Nothing has been sent in any of these cases.
    /// - [`Error::Refused`] if the path does not exist or no process has it.
    /// - [`Error::NotReady`] if the send buffer or the receiver is full and the timeout is zero, or inside a callback.
    ///   [`Error::TimedOut`] if the timeout expires.
    /// - [`Error::DatagramTooLarge`] if the message does not fit into the [send buffer](Self::set_send_buffer).
    /// - [`Error::Address`] if the address is not of the socket's family, or contains a host name.
    /// - [`Error::Io`], of kind `PermissionDenied` without permission for the path; [`Error::Closed`].
    pub fn send_to<A>(&self, data: impl AsRef<[u8]>, to: A) -> Result
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        let to = to.try_into()?;
        self.core.send(data.as_ref(), Some(&self.remote_at(&to)?), &to)
    }

    /// Sends one message to the peer, or to whom the kernel sends it without one: netlink to the kernel, CAN to the bus.
    ///
    /// # Blocking
    /// See [`send_to`](Self::send_to).
    ///
    /// # Errors
    /// See [`send_to`](Self::send_to). [`Error::Refused`] if the peer of a datagram socket has gone, [`Error::Closed`] if
    /// that of a seqpacket socket has. [`Error::Unsupported`] if there is no peer.
    pub fn send(&self, data: impl AsRef<[u8]>) -> Result {
        self.core.open()?;
        self.core.send(data.as_ref(), None, &self.core.name())
    }

    /// Sends one message as soon as there is room. If the future is dropped before it completes, nothing has been sent. See
    /// [`send_to`](Self::send_to).
    ///
    /// # Errors
    /// See [`send_to`](Self::send_to), except those of the timeout.
    pub async fn send_to_future<A>(&self, data: impl AsRef<[u8]>, to: A) -> Result
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        let to = to.try_into()?;
        self.core.send_when_room(data.as_ref(), Some(&self.remote_at(&to)?), &to).await
    }

    /// Sends one message to the peer as soon as there is room. See [`send`](Self::send).
    ///
    /// # Errors
    /// See [`send`](Self::send), except those of the timeout.
    pub async fn send_future(&self, data: impl AsRef<[u8]>) -> Result {
        self.core.open()?;
        self.core.send_when_room(data.as_ref(), None, &self.core.name()).await
    }

    /// Returns the address in the form that this socket needs.
    fn remote_at(&self, address: &Address) -> Result<Remote> {
        self.core.open()?;
        match address.target() {
            Target::Unix(_) if self.core.family == AddressFamily::UNIX => unix_remote(address),
            _ if self.core.family == AddressFamily::UNIX => Err(address.unfit(EXPECTED)),
            _ if !self.core.is_inet() => {
                Err(address.unfit("the socket is of a family whose addresses are not supported"))
            }
            Target::Unix(_) | Target::Service { .. } => {
                Err(address.unfit("expected an IP address and a port, which is 0 for raw sockets"))
            }
            _ => match plan_with_any_port(address)? {
                Plan::Direct(addresses) => {
                    let clothed = addresses.into_iter().map(|to| clothed(to, self.core.is_v6()));
                    let fitting = clothed.reduce(|first, next| first.or(next));
                    fitting.unwrap_or_else(|| Err(address.unfit("it is empty"))).map(Remote::Inet)
                }
                _ => Err(address.unfit("resolve the host name first with names::lookup")),
            },
        }
    }

    // ---- about the socket ----

    /// Returns the local address. `None` if its family is not one of [`Endpoint`]'s. Once closed, the address that it had.
    pub fn local(&self) -> Option<Endpoint> {
        self.core.local()
    }

    /// Returns the peer, if there is one and its family is one of [`Endpoint`]'s.
    pub fn remote(&self) -> Option<Endpoint> {
        self.core.peer()
    }

    /// Returns the type of the socket.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn kind(&self) -> Result<MessageKind> {
        Ok(match self.core.set(|fd| sockopt::socket_type(fd))? {
            SocketType::SEQPACKET => MessageKind::Seqpacket,
            SocketType::RAW => MessageKind::Raw,
            _ => MessageKind::Datagram,
        })
    }

    /// Takes out the file descriptor, in blocking mode. All handles are closed. A path stays, and removing it is up to the
    /// caller.
    ///
    /// # Errors
    /// [`Error::Closed`], or [`Error::Io`].
    pub fn into_fd(self) -> Result<OwnedFd> {
        self.core.take_fd()
    }
}

impl TryFrom<UnixDatagram> for MessageSocket {
    type Error = Error;
    fn try_from(socket: UnixDatagram) -> Result<MessageSocket> {
        MessageSocket::from_fd(socket)
    }
}

const EXPECTED: &str = "expected a unix socket: a path with a slash, or @name";

pub(super) fn unix_remote(address: &Address) -> Result<Remote> {
    let Target::Unix(name) = address.target() else { return Err(address.unfit(EXPECTED)) };
    name.to_socket_address().map(Remote::Unix).map_err(|error| address.unfit(os_text(&error)))
}
