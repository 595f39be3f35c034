//! Sets limits and time-outs of a connection, then connects or wraps.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use gio::prelude::*;

use super::Socket;
use crate::address::Address;
use crate::conn::{Conn, Options, Transport, limit_setters};
use crate::connect;
use crate::engine::Engine;
use crate::error::{Error, Operation, Result};
use crate::sys::KeepAlive;
use crate::tls::{ClientTls, Tls};

/// Sets limits and time-outs, then connects or wraps. Each has a default.
///
/// ```
/// # use std::time::Duration;
/// # let server = std::net::TcpListener::bind("127.0.0.1:0")?;
/// # let port = server.local_addr()?.port();
/// let socket = network::Socket::builder()
///     .tls(false)
///     .connect_timeout(Duration::from_secs(3))
///     .line_limit(64 << 10)
///     .connect(("localhost", port))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct SocketBuilder {
    options: Options,
    /// As chosen; `None` leaves it to the address.
    tls: Option<Tls<ClientTls>>,
}

impl SocketBuilder {
    limit_setters!();

    pub(super) fn new() -> Self {
        SocketBuilder { options: Options::default(), tls: None }
    }

    /// How to use TLS: `false` for not at all, `true` for the default trust, or [`ClientTls`] with other settings.
    ///
    /// Without this call it is on for TCP and off for unix sockets, and a URL decides by its scheme.
    pub fn tls(mut self, tls: impl Into<Tls<ClientTls>>) -> Self {
        self.tls = Some(tls.into());
        self
    }

    /// How long connecting may take, the look-up of the name included, the hand-shake of TLS not. 30 s.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.options.connect_timeout = limit;
        self
    }

    /// Connects from that address of this machine, to addresses of the same family. TCP alone.
    pub fn source(mut self, address: impl Into<IpAddr>) -> Self {
        self.options.tuning.source = Some(address.into());
        self
    }

    /// Connects over that network interface alone, as in `eth0`. The system may ask for a privilege. TCP alone.
    pub fn interface(mut self, name: impl Into<String>) -> Self {
        self.options.tuning.interface = Some(name.into());
        self
    }

    /// As [`Socket::connect`].
    ///
    /// # Errors
    /// As there.
    pub fn connect<A>(self, address: A) -> Result<Socket>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        connect::blocking(address.try_into()?, self.options.into(), self.tls.as_ref())
    }

    /// As [`Socket::connect_async`].
    pub fn connect_async<A, F>(self, address: A, cancellable: Option<&impl IsA<gio::Cancellable>>, callback: F)
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
        F: FnOnce(Result<Socket>) + 'static,
    {
        let cancellable = cancellable.map(|cancellable| cancellable.as_ref().clone());
        let address = address.try_into().map_err(Error::from);
        connect::in_background(address, self.options.into(), self.tls.as_ref(), cancellable, callback);
    }

    /// As [`Socket::connect_future`].
    ///
    /// # Errors
    /// As [`Socket::connect`].
    pub async fn connect_future<A>(self, address: A) -> Result<Socket>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        connect::future(address.try_into()?, self.options.into(), self.tls.as_ref())?.await
    }

    /// As [`Socket::wrap`].
    ///
    /// # Errors
    /// As there.
    pub fn wrap(self, input: impl Into<OwnedFd>, output: impl Into<OwnedFd>) -> Result<Socket> {
        self.make(Transport::pair(input.into(), output.into()))
    }

    /// As [`Socket::from_fd`].
    ///
    /// # Errors
    /// As there.
    #[allow(clippy::wrong_self_convention)]
    pub fn from_fd(self, fd: impl Into<OwnedFd>) -> Result<Socket> {
        self.make(Transport::from_fd(fd.into()))
    }

    fn make(self, transport: std::io::Result<Transport>) -> Result<Socket> {
        let engine = Engine::current()?;
        let failed = |source| Error::Io { operation: Operation::Wrap, address: "a file descriptor".into(), source };
        let transport = transport.map_err(failed)?;
        transport.tune(&self.options.tuning).map_err(failed)?;
        Ok(Socket::from_conn(Conn::new(&engine, transport, self.options.into(), None)?))
    }
}
