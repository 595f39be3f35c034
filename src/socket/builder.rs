//! Options of a connection that is to be made.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use gio::prelude::*;

use super::{ConnectProgress, Socket};
use crate::address::Address;
use crate::conn::{Conn, LineEnding, Options, Transport, limit_setters};
use crate::connect::{self, Dialer, progress::OnProgress, proxy::Proxy};
use crate::engine::Engine;
use crate::error::{Error, Operation, Result};
use crate::sys::KeepAlive;
use crate::tls::{ClientTls, Tls};

/// Options for a [`Socket`], all with defaults.
///
/// Created by [`Socket::builder`]. Ends with `connect`, `connect_async`, `connect_future`, `wrap` or `from_fd`.
///
/// # Example: Connect with limits
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
    /// `None` leaves it to the address.
    tls: Option<Tls<ClientTls>>,
    proxy: Proxy,
    on_progress: OnProgress,
}

impl SocketBuilder {
    limit_setters!();

    pub(super) fn new() -> Self {
        SocketBuilder {
            options: Options::default(),
            tls: None,
            proxy: Proxy::none(),
            on_progress: OnProgress::default(),
        }
    }

    /// Configures TLS.
    ///
    /// `false` disables it, `true` uses the default trust, and [`ClientTls`] gives full control. Without this call, TLS
    /// is on for TCP and off for unix sockets, and the scheme of a URL decides. With `false`, a URL whose scheme stands for TLS,
    /// such as `https://`, fails with [`Error::InvalidOption`]. `wrap` and `from_fd` use TLS only if it is
    /// switched on here, with a [`ClientTls`] that says whom to trust.
    pub fn tls(mut self, tls: impl Into<Tls<ClientTls>>) -> Self {
        self.tls = Some(tls.into());
        self
    }

    /// Connects through a proxy. Default: [`Proxy::none`].
    ///
    /// Unix sockets, services and this machine itself are connected to without it. `wrap` and `from_fd` cannot use a proxy:
    /// they fail with [`Error::InvalidOption`] if one is set here.
    ///
    /// Connecting then fails with [`Error::Proxy`] if the proxy cannot be reached, refuses, or does not keep to its protocol,
    /// and with [`Error::TimedOut`] if it does not answer.
    ///
    /// # Example
    /// ```no_run
    /// use network::{Socket, socket::Proxy};
    ///
    /// let socket = Socket::builder().proxy("socks5h://localhost:9050").connect("example.org:443")?;
    /// let socket = Socket::builder().proxy(Proxy::environment()).connect("https://example.org")?;
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn proxy(mut self, proxy: impl Into<Proxy>) -> Self {
        self.proxy = proxy.into();
        self
    }

    /// Sets a callback for the progress of connecting: what is being waited for.
    ///
    /// It is called from the main loop, during `connect_async` and `connect_future`. The blocking `connect` calls nothing. A
    /// step that is over at once may be left out, and after the result nothing more is reported.
    ///
    /// # Example: Tell the user what the window waits for
    /// ```
    /// use network::socket::ConnectProgress;
    ///
    /// let builder = network::Socket::builder().progress_cb(|step| match step {
    ///     ConnectProgress::LookingUp => println!("looking up the host …"),
    ///     ConnectProgress::Connecting => println!("connecting …"),
    ///     ConnectProgress::Handshaking => println!("agreeing on encryption …"),
    ///     _ => {}
    /// });
    /// # let server = network::Server::builder().tls(false).address("127.0.0.1").listen(0, |_| Ok(()))?;
    /// # let address = format!("tcp://localhost:{}", server.port());
    /// builder.connect_async(address, gio::Cancellable::NONE, |_| network::endloop());
    /// network::fgloop();
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn progress_cb(mut self, callback: impl Fn(ConnectProgress) + 'static) -> Self {
        self.on_progress = OnProgress::new(callback);
        self
    }

    /// Sets the timeout for connecting, including name lookup and a proxy's answer, without the TLS handshake. Default: 30 s.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.options.connect_timeout = limit;
        self
    }

    /// Sets the source address. Only addresses of the same family are connected to. TCP only.
    pub fn source(mut self, address: impl Into<IpAddr>) -> Self {
        self.options.tuning.source = Some(address.into());
        self
    }

    /// Sets the network interface to connect through, as in `eth0`. The kernel may require a privilege for it. TCP
    /// only.
    pub fn interface(mut self, name: impl Into<String>) -> Self {
        self.options.tuning.interface = Some(name.into());
        self
    }

    /// Connects to an address. See [`Socket::connect`].
    ///
    /// # Blocking
    /// Until connected.
    ///
    /// # Errors
    /// See [`Socket::connect`].
    pub fn connect<A>(self, address: A) -> Result<Socket>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        connect::blocking(address.try_into()?, self.options.into(), self.tls.as_ref(), &self.proxy)
    }

    /// Connects in the background and passes the result to a callback. See [`Socket::connect_async`].
    pub fn connect_async<A, F>(self, address: A, cancellable: Option<&impl IsA<gio::Cancellable>>, callback: F)
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
        F: FnOnce(Result<Socket>) + 'static,
    {
        let cancellable = cancellable.map(|cancellable| cancellable.as_ref().clone());
        let address = address.try_into().map_err(Error::from);
        connect::in_background(
            address,
            self.options.into(),
            self.tls.as_ref(),
            &self.proxy,
            self.on_progress,
            cancellable,
            callback,
        );
    }

    /// Connects in the background. See [`Socket::connect_future`].
    ///
    /// # Errors
    /// See [`Socket::connect`].
    pub async fn connect_future<A>(self, address: A) -> Result<Socket>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        connect::future(address.try_into()?, self.options.into(), self.tls.as_ref(), &self.proxy, self.on_progress)?
            .await
    }

    /// Completes the options of a connection that is to last: what the program has not set.
    pub(crate) fn lasting(mut self, keep_alive: KeepAlive, user_timeout: Duration) -> Self {
        self.options.tuning.keep_alive.get_or_insert(Some(keep_alive));
        self.options.tuning.user_timeout.get_or_insert(user_timeout);
        self
    }

    /// Completes the receive timeout: it is not to be longer.
    pub(crate) fn receive_timeout_at_most(mut self, limit: Duration) -> Self {
        let own = &mut self.options.receive_timeout;
        *own = Some(own.map_or(limit, |own| own.min(limit)));
        self
    }

    pub(crate) fn into_dialer(self) -> Dialer {
        Dialer::new(self.options, self.tls, self.proxy, self.on_progress)
    }

    /// Makes a socket from two file descriptors. See [`Socket::wrap`].
    ///
    /// With [`tls`](SocketBuilder::tls), the TLS handshake goes on in the background: what is sent meanwhile waits for its
    /// end, and if it fails, that is the end of the connection.
    ///
    /// # Errors
    /// See [`Socket::wrap`]. With TLS, those of [`Socket::start_tls`] that are known at once.
    /// [`Error::InvalidOption`] if a proxy is set.
    pub fn wrap(self, input: impl Into<OwnedFd>, output: impl Into<OwnedFd>) -> Result<Socket> {
        self.make(Transport::pair(input.into(), output.into()))
    }

    /// Makes a socket from one file descriptor. See [`Socket::from_fd`], and for TLS [`wrap`](SocketBuilder::wrap).
    ///
    /// # Errors
    /// See [`Socket::from_fd`]. With TLS, those of [`Socket::start_tls`] that are known at once.
    /// [`Error::InvalidOption`] if a proxy is set.
    #[allow(clippy::wrong_self_convention)]
    pub fn from_fd(self, fd: impl Into<OwnedFd>) -> Result<Socket> {
        self.make(Transport::from_fd(fd.into()))
    }

    fn make(self, transport: std::io::Result<Transport>) -> Result<Socket> {
        if !self.proxy.is_none() {
            return Err(Error::InvalidOption(
                "a proxy is not available for file descriptors: connect to an address".into(),
            ));
        }
        let engine = Engine::current()?;
        let failed = |source| Error::Io { operation: Operation::Wrap, address: "a file descriptor".into(), source };
        let transport = transport.map_err(failed)?;
        transport.tune(&self.options.tuning).map_err(failed)?;
        let socket = Socket::from_conn(Conn::new(&engine, transport, self.options.into(), None)?);
        if let Some(Tls::On(settings)) = self.tls {
            connect::start_tls::on_descriptor(&socket, settings)?;
        }
        Ok(socket)
    }
}
