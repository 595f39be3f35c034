//! Servers on listening sockets that the program has made itself, and their descriptors.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use rustix::net::sockopt;

use super::adopt::is_listening;
use super::builder::Ready;
use super::listening::Listening;
use super::{OnClient, Server, ServerBuilder};
use crate::address::{Address, endpoint};
use crate::conn::Socket;
use crate::engine::Engine;
use crate::error::{Error, Operation, Result};
use crate::sys::{self, pass_descriptors};

impl ServerBuilder {
    /// Calls `on_client` for each client of a socket that listens already, and takes ownership of the socket.
    ///
    /// TLS is on by default for TCP and off for unix sockets, as otherwise. The accept backlog stays as it is, and the path of
    /// a unix socket is not removed when the server closes.
    ///
    /// # Errors
    /// [`Error::Io`] if the file descriptor is not a listening stream socket. [`Error::InvalidOption`] for options that only
    /// apply to a new socket: [`address`](Self::address), [`reuse_port`](Self::reuse_port), [`mode`](Self::mode),
    /// [`group`](Self::group) and [`replace_stale`](Self::replace_stale). Otherwise see [`Server::new`].
    ///
    /// # Example
    /// ```
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    /// let server = network::Server::builder().tls(false).listen_fd(listener, |socket| socket.sendline("Welcome!"))?;
    /// # assert!(server.port() > 0);
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn listen_fd(
        self,
        fd: impl Into<OwnedFd>,
        on_client: impl FnMut(Socket) -> Result + 'static,
    ) -> Result<Server> {
        self.start_on(fd.into(), Some(Box::new(on_client)))
    }

    /// Makes a server of a socket that listens already. Its clients are accepted on request, as with
    /// [`bind`](Self::bind). See [`listen_fd`](Self::listen_fd).
    ///
    /// # Errors
    /// See [`listen_fd`](Self::listen_fd).
    pub fn bind_fd(self, fd: impl Into<OwnedFd>) -> Result<Server> {
        self.start_on(fd.into(), None)
    }

    fn start_on(self, fd: OwnedFd, on_client: Option<Box<OnClient>>) -> Result<Server> {
        let engine = Engine::current()?;
        let failed = |source: io::Error| Error::from_io(Operation::Listen, "a file descriptor", source);
        if !is_listening(&fd) {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "expected a listening stream socket")));
        }
        let of_new_sockets = [
            (!self.address.is_empty(), "address"),
            (self.options.tuning.reuse_port, "reuse_port"),
            (self.file.mode.is_some(), "mode"),
            (self.file.group.is_some(), "group"),
            (self.file.replace_stale, "replace_stale"),
        ];
        if let Some((_, option)) = of_new_sockets.iter().find(|(is_set, _)| *is_set) {
            return Err(Error::InvalidOption(format!("{option} does not apply to a socket that listens already")));
        }
        let address = Address::try_from(endpoint(sys::local_address(&fd).map_err(|error| failed(error.into()))?))?;
        self.file_settings(&address)?;
        let announcement = super::bind::announcement(&address, self.service_name.clone(), &self.txt)?;
        let (setup, allowed) = (self.prepare_tls(&address)?, self.allowed.resolve()?);
        self.prepare_given(&fd).map_err(failed)?;
        let ready = Ready { address, sockets: vec![Listening::given(fd)], path: None, setup, allowed, announcement };
        self.serve_on(&engine, ready, on_client)
    }

    fn prepare_given(&self, fd: &OwnedFd) -> io::Result<()> {
        rustix::io::ioctl_fionbio(fd, true)?;
        let family = sockopt::socket_domain(fd)?;
        if family == rustix::net::AddressFamily::UNIX {
            pass_descriptors(fd.as_fd(), self.options.tuning.descriptors > 0);
        } else {
            sockopt::set_tcp_nodelay(fd, true)?;
        }
        self.options.tuning.apply(fd.as_fd(), family)
    }
}

impl TryFrom<TcpListener> for Server {
    type Error = Error;
    /// Makes a server with TLS whose clients are accepted on request. [`ServerBuilder::bind_fd`] has all options.
    fn try_from(listener: TcpListener) -> Result<Server> {
        Server::builder().bind_fd(listener)
    }
}

impl TryFrom<UnixListener> for Server {
    type Error = Error;
    /// Makes a server whose clients are accepted on request. [`ServerBuilder::bind_fd`] has all options.
    fn try_from(listener: UnixListener) -> Result<Server> {
        Server::builder().bind_fd(listener)
    }
}

impl AsFd for Server {
    /// Returns the first listening socket, and `/dev/null` once the server is closed. Do not accept from it or close it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.shared.first_listener.get() {
            Some(listener) => listener.fd.lend(),
            // A server that has never listened does not leave the builder.
            None => rustix::stdio::stdin(),
        }
    }
}

impl AsRawFd for Server {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
