//! Options of a message socket; creating it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::core::{Core, Start, at_most};
use super::faces::common_setters;
use super::message::{MessageSocket, unix_remote};
use super::sending::Remote;
use crate::address::{Address, FileOptions, Target, UnixName, file_setters};
use crate::engine::{Engine, READ_BUFFER};
use crate::error::{Error, Operation, Result};
use crate::sys::{self, Beside, Making, SocketFile, bind_abstract, bind_path};

/// Default limit of log records about errors, per second.
const ERRORS_LOGGED: u32 = 10;

/// Default limit of received messages, in bytes: more than a sender with the kernel's default buffer can send.
const MAX_MESSAGE: usize = 256 << 10;

/// Largest limit. Linux has no memory for unix messages of much more than 4 MiB.
const MOST: usize = 64 << 20;

/// The type of a message-oriented socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MessageKind {
    /// Messages without a connection (`SOCK_DGRAM`).
    Datagram,
    /// Messages on a connection, which has an end (`SOCK_SEQPACKET`).
    Seqpacket,
    /// Messages with the headers of a protocol (`SOCK_RAW`). Only from descriptors.
    Raw,
}

/// Options of any socket for datagrams.
#[derive(Clone, Debug, Default)]
pub(super) struct CommonOptions {
    pub(super) recv_buffer: Option<usize>,
    pub(super) send_buffer: Option<usize>,
    pub(super) timeout: Option<Duration>,
    pub(super) error_log_rate: Option<u32>,
}

impl CommonOptions {
    pub(super) fn log_rate(&self) -> u32 {
        self.error_log_rate.unwrap_or(ERRORS_LOGGED)
    }

    pub(super) fn apply(&self, core: &Core) -> Result {
        if let Some(bytes) = self.recv_buffer {
            core.set(|fd| sockopt::set_socket_recv_buffer_size(fd, at_most(bytes)))?;
        }
        if let Some(bytes) = self.send_buffer {
            core.set(|fd| sockopt::set_socket_send_buffer_size(fd, at_most(bytes)))?;
        }
        core.timeout.set(self.timeout);
        Ok(())
    }
}

/// Options for a [`MessageSocket`], all with defaults. Created by [`MessageSocket::builder`].
///
/// # Example
/// ```no_run
/// use network::udp::MessageSocket;
///
/// let socket = MessageSocket::builder().mode(0o666).replace_stale(true).bind("/run/demo/log")?;
/// # Ok::<(), network::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct MessageBuilder {
    file: FileOptions,
    common: CommonOptions,
    max_message: Option<usize>,
}

impl MessageBuilder {
    file_setters!();
    common_setters!(MessageSocket);

    /// Limits the length of received messages, in bytes. Default: 256 KiB, more than a sender with the kernel's default buffer
    /// can send. A longer message is [`Error::DatagramTruncated`] with its first bytes; callbacks get it by `error_cb`. The
    /// socket reserves this much memory beyond 64 KiB, which costs nothing until messages of that length arrive. Creating it
    /// fails with [`Error::Io`] of kind `OutOfMemory` if there is none.
    ///
    /// More than 64 MiB are as 64 MiB: no unix message is longer than the sender's send buffer, and Linux sends none much
    /// longer than 4 MiB.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = Some(bytes.min(MOST));
        self
    }

    /// Creates a unix socket for datagrams at a path or with an abstract name. See [`MessageSocket::bind`].
    ///
    /// # Errors
    /// See [`MessageSocket::bind`]; also [`Error::InvalidOption`] for an unknown group or a bad file mode.
    pub fn bind<A>(self, address: A) -> Result<MessageSocket>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        let engine = Engine::current()?;
        let address = address.try_into()?;
        let Remote::Unix(name) = unix_remote(&address)? else { return Err(address.unfit("it is not a unix socket")) };
        let open = || Ok(sys::message_socket(SocketType::DGRAM)?);
        let how = Making { open: &open, listen: &|_| Ok(()), file: self.file.settings(&address)? };
        let bound = match address.target() {
            Target::Unix(UnixName::Path(path)) => bind_path(path, how).map(|(fd, file)| (fd, Some(file))),
            _ => bind_abstract(&name, how).map(|fd| (fd, None)),
        };
        let (fd, file) = bound.map_err(|source| Error::from_listen(&address, source))?;
        self.take(&engine, fd, &address.to_string(), file)
    }

    /// Creates a unix socket that is connected to a path or abstract name. See [`MessageSocket::connect`].
    ///
    /// # Errors
    /// See [`MessageSocket::connect`]; also [`Error::InvalidOption`] for options of a path.
    pub fn connect<A>(self, address: A) -> Result<MessageSocket>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        let engine = Engine::current()?;
        let address = address.try_into()?;
        self.check_no_path()?;
        let Remote::Unix(to) = unix_remote(&address)? else { return Err(address.unfit("it is not a unix socket")) };
        let connect = |kind| {
            let fd = sys::message_socket(kind)?;
            sys::connect(&fd, &to)?;
            Ok(fd)
        };
        let connected = match connect(SocketType::DGRAM) {
            Err(Errno::PROTOTYPE) => connect(SocketType::SEQPACKET),
            connected => connected,
        };
        let fd = connected.map_err(|errno| Error::from_connect(&address, errno.into()))?;
        self.take(&engine, fd, &address.to_string(), None)
    }

    /// Creates two unix sockets that are connected to each other. See [`MessageSocket::pair`].
    ///
    /// # Errors
    /// See [`MessageSocket::pair`]; also [`Error::InvalidOption`] for options of a path.
    pub fn pair(self, kind: MessageKind) -> Result<(MessageSocket, MessageSocket)> {
        let engine = Engine::current()?;
        self.check_no_path()?;
        let kind = match kind {
            MessageKind::Datagram => SocketType::DGRAM,
            MessageKind::Seqpacket => SocketType::SEQPACKET,
            MessageKind::Raw => return Err(Error::InvalidOption("unix sockets cannot be raw".into())),
        };
        let name = "a pair of sockets";
        let failed =
            |errno: Errno| Error::Io { operation: Operation::SetUp, address: name.into(), source: errno.into() };
        let (one, other) = sys::socket_pair(kind).map_err(failed)?;
        Ok((self.take(&engine, one, name, None)?, self.take(&engine, other, name, None)?))
    }

    /// Takes ownership of a descriptor. See [`MessageSocket::from_fd`].
    ///
    /// # Errors
    /// See [`MessageSocket::from_fd`]; also [`Error::InvalidOption`] for options of a path.
    #[allow(clippy::wrong_self_convention)]
    pub fn from_fd(self, fd: impl Into<OwnedFd>) -> Result<MessageSocket> {
        let engine = Engine::current()?;
        let fd = fd.into();
        self.check_no_path()?;
        let name = "a file descriptor";
        let wrong = |source: io::Error| Error::Io { operation: Operation::Wrap, address: name.into(), source };
        let kind = sockopt::socket_type(&fd).map_err(|errno| wrong(errno.into()))?;
        let problem = match kind {
            _ if sockopt::socket_acceptconn(&fd).unwrap_or(false) && kind != SocketType::STREAM => {
                Some("it is listening; accept a client first".into())
            }
            SocketType::SEQPACKET if is_unconnected(&fd) => Some("it is not connected; connect it first".into()),
            SocketType::DGRAM | SocketType::SEQPACKET | SocketType::RAW => None,
            kind => Some(format!("expected a socket for datagrams, seqpacket or raw; it is {}", name_of(kind))),
        };
        if let Some(problem) = problem {
            return Err(wrong(io::Error::new(io::ErrorKind::InvalidInput, problem)));
        }
        self.take(&engine, fd, name, None)
    }

    /// Settings that only apply to a path must not be dropped in silence.
    fn check_no_path(&self) -> Result {
        let FileOptions { mode: None, group: None, replace_stale: false } = self.file else {
            return Err(Error::InvalidOption("mode, group and replace_stale apply to bind only".into()));
        };
        Ok(())
    }

    fn take(&self, engine: &Rc<Engine>, fd: OwnedFd, name: &str, file: Option<SocketFile>) -> Result<MessageSocket> {
        let max_message = self.max_message.unwrap_or(MAX_MESSAGE);
        let start = || -> io::Result<Rc<Core>> {
            let beside = Beside::of_messages(fd.as_fd(), max_message.saturating_sub(READ_BUFFER))?;
            let log_rate = self.common.log_rate();
            Core::start(engine, fd, Start { log_rate, beside: Some(beside), max_message, ..Start::default() })
        };
        let failed = |source: io::Error| Error::Io { operation: Operation::SetUp, address: name.into(), source };
        let started = start();
        if let (Err(_), Some(file)) = (&started, &file) {
            // Of two errors the first is the cause.
            let _ = file.remove();
        }
        let socket = MessageSocket::from_core(started.map_err(failed)?);
        socket.core.file.set(file);
        self.common.apply(&socket.core)?;
        Ok(socket)
    }
}

/// Returns whether it is a unix socket that lacks its connection. Other families have seqpacket sockets without one.
fn is_unconnected(fd: &OwnedFd) -> bool {
    let is_unix = sockopt::socket_domain(fd).is_ok_and(|family| family == AddressFamily::UNIX);
    is_unix && sys::peer_address(fd) == Err(Errno::NOTCONN)
}

/// Returns the name of a socket type, for messages.
fn name_of(kind: SocketType) -> String {
    match kind {
        SocketType::STREAM => "a stream socket".into(),
        SocketType::RDM => "a socket for reliable datagrams (SOCK_RDM)".into(),
        kind => format!("of type {}", kind.as_raw()),
    }
}
