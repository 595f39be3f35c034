//! Options of a session, and the address to connect to.

use std::rc::Rc;
use std::time::Duration;

use gio::prelude::*;

use super::client::Client;
use super::manner::{Manner, now};
use super::session::{Session, Settings};
use crate::address::{Address, well_known_port, without_password};
use crate::conn::Socket;
use crate::engine::in_background;
use crate::error::{Error, Operation, Result, refuse_zeros};
use crate::socket::{KeepAlive, Proxy};
use crate::tls::{ClientTls, Tls};

/// When TLS begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Security {
    /// After the greeting, by the command AUTH TLS (RFC 4217). A server without it is an error.
    Explicit,
    /// Before the greeting, usually on port 990.
    Implicit,
    /// Never: names, passwords and files are sent in plaintext.
    Plaintext,
}

/// Options for a [`Client`], all with defaults. Created by [`Client::builder`].
///
/// Timeouts are for silence: time in which nothing comes, or nothing goes out. Zero fails with [`Error::InvalidOption`] when
/// connecting.
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    security: Option<Security>,
    tls: Option<Tls<ClientTls>>,
    proxy: Proxy,
    is_active: bool,
    account: Option<Vec<u8>>,
    connect_timeout: Duration,
    reply_timeout: Option<Duration>,
    data_timeout: Option<Duration>,
    abort_timeout: Duration,
    accept_timeout: Duration,
    listing_limit: usize,
}

impl Builder {
    pub(super) fn new() -> Self {
        Builder {
            security: None,
            tls: None,
            proxy: Proxy::none(),
            is_active: false,
            account: None,
            connect_timeout: Duration::from_secs(30),
            reply_timeout: Some(Duration::from_secs(60)),
            data_timeout: Some(Duration::from_secs(60)),
            abort_timeout: Duration::from_secs(10),
            accept_timeout: Duration::from_secs(30),
            listing_limit: 16 << 20,
        }
    }

    /// Sets when TLS begins. Default: as the address says, and [`Security::Explicit`] if it has no scheme.
    pub fn security(mut self, security: Security) -> Self {
        self.security = Some(security);
        self
    }

    /// Sets whom to trust; `false` means [`Security::Plaintext`]. Default: [`ClientTls::new`].
    pub fn tls(mut self, tls: impl Into<Tls<ClientTls>>) -> Self {
        self.tls = Some(tls.into());
        self
    }

    /// Connects through a proxy, data connections as well. Default: [`Proxy::none`].
    pub fn proxy(mut self, proxy: impl Into<Proxy>) -> Self {
        self.proxy = proxy.into();
        self
    }

    /// Sets whether the server connects to this side for each transfer, instead of the other way round. Default: no.
    ///
    /// That fails behind most routers and firewalls. Only the peer of the session is accepted.
    pub fn active(mut self, active: bool) -> Self {
        self.is_active = active;
        self
    }

    /// Sets the account for servers that ask for one after the password. Default: none.
    pub fn account(mut self, account: impl AsRef<[u8]>) -> Self {
        self.account = Some(account.as_ref().to_vec());
        self
    }

    /// Sets the timeout for each connection to be established. Default: 30 s.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Sets the timeout for each reply. Default: 60 s. `None`: no limit.
    pub fn reply_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.reply_timeout = limit.into();
        self
    }

    /// Sets the timeout for silence on a data connection. Default: 60 s. `None`: no limit.
    pub fn data_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.data_timeout = limit.into();
        self
    }

    /// Sets the timeout for each reply after a transfer was aborted. When it expires, the session ends. Default: 10 s.
    pub fn abort_timeout(mut self, limit: Duration) -> Self {
        self.abort_timeout = limit;
        self
    }

    /// Sets the time that the server has to connect in [active](Self::active) mode. Default: 30 s.
    pub fn accept_timeout(mut self, limit: Duration) -> Self {
        self.accept_timeout = limit;
        self
    }

    /// Sets the longest directory listing, in bytes. A longer one fails with [`Error::LimitExceeded`]. Default: 16 MiB.
    pub fn listing_limit(mut self, bytes: usize) -> Self {
        self.listing_limit = bytes;
        self
    }

    /// Connects and receives the greeting. See [`Client::connect`]. **Blocks**.
    ///
    /// # Errors
    /// See [`Client::connect`].
    pub fn connect(self, address: impl AsRef<str>) -> Result<Client> {
        now(self.open(address.as_ref().to_owned(), Manner::Blocks))
    }

    /// Connects in the background and calls back once. See [`Client::connect_async`].
    pub fn connect_async(
        self,
        address: impl AsRef<str>,
        cancellable: Option<&impl IsA<gio::Cancellable>>,
        callback: impl FnOnce(Result<Client>) + 'static,
    ) {
        let address = address.as_ref().to_owned();
        let cancelled = Error::Cancelled { operation: Operation::Connect, address: address.clone() };
        in_background("ftp::Client::connect", self.open(address, Manner::Polls), cancellable, cancelled, callback);
    }

    /// Connects in the background. See [`Client::connect_future`].
    ///
    /// # Errors
    /// See [`Client::connect`].
    pub fn connect_future(self, address: impl AsRef<str>) -> impl Future<Output = Result<Client>> + 'static {
        self.open(address.as_ref().to_owned(), Manner::Polls)
    }

    async fn open(self, address: String, manner: Manner) -> Result<Client> {
        let (address, security) = self.resolve(&address)?;
        self.check()?;
        let tls = match (security, self.tls) {
            (Security::Plaintext, _) | (_, Some(Tls::Off)) => None,
            (_, Some(Tls::On(tls))) => Some(tls),
            (_, None) => Some(ClientTls::new()),
        };
        let socket = Socket::builder()
            .tls(false)
            .proxy(self.proxy.clone())
            .connect_timeout(self.connect_timeout)
            .line_limit(super::reply::LONGEST_LINE);
        let control = manner.connect(socket, address.clone()).await?;
        // The session may be idle for long, and a transfer takes its time.
        let _ = control.set_keep_alive(KeepAlive::default());
        let settings = Settings {
            tls,
            is_implicit: security == Security::Implicit,
            proxy: self.proxy,
            is_active: self.is_active,
            account: self.account,
            connect_timeout: self.connect_timeout,
            reply_timeout: self.reply_timeout,
            data_timeout: self.data_timeout,
            abort_timeout: self.abort_timeout,
            accept_timeout: self.accept_timeout,
            listing_limit: self.listing_limit,
        };
        let session: Rc<Session> = Session::new(settings, address, control);
        session.begin(manner).await?;
        Ok(Client::new(session))
    }

    /// Returns the host and port of an address, and when TLS begins there.
    fn resolve(&self, text: &str) -> Result<(Address, Security)> {
        let schemes = [("ftp", Security::Plaintext), ("ftps", Security::Implicit), ("ftpes", Security::Explicit)];
        let parts = text.trim().split_once("://");
        let named = match parts {
            None => None,
            Some((scheme, _)) => {
                let known = schemes.iter().find(|(known, _)| known.eq_ignore_ascii_case(scheme));
                let (_, security) = known.ok_or_else(|| {
                    let problem =
                        "expected ftp://, ftpes:// (TLS by AUTH TLS), ftps:// (TLS from the beginning), or no scheme";
                    Error::Address { address: without_password(text), problem: problem.into() }
                })?;
                Some(*security)
            }
        };
        let is_off = matches!(self.tls, Some(Tls::Off));
        let given = match (self.security, is_off) {
            (None, true) => Some(Security::Plaintext),
            (given, _) => given,
        };
        let security = named.or(given).unwrap_or(Security::Explicit);
        let wants_tls = matches!(self.tls, Some(Tls::On(_)));
        if given.is_some_and(|given| given != security)
            || is_off && security != Security::Plaintext
            || wants_tls && security == Security::Plaintext
        {
            let address = without_password(text);
            return Err(Error::InvalidOption(format!(
                "{address} and the builder differ on TLS: it would be {security:?} by one of them"
            )));
        }
        let service = if security == Security::Implicit { "ftps" } else { "ftp" };
        let default_port = well_known_port(service).unwrap_or_default();
        let host = parts.map_or(text, |(_, rest)| rest.strip_suffix('/').unwrap_or(rest));
        Ok((Address::host(host, default_port)?, security))
    }

    /// Fails if an option is invalid.
    fn check(&self) -> Result {
        let times = [
            ("connect_timeout", Some(self.connect_timeout)),
            ("reply_timeout", self.reply_timeout),
            ("data_timeout", self.data_timeout),
            ("abort_timeout", Some(self.abort_timeout)),
            ("accept_timeout", Some(self.accept_timeout)),
        ];
        let times = times.map(|(name, limit)| (name, limit == Some(Duration::ZERO)));
        refuse_zeros("an FTP client", times.into_iter().chain([("listing_limit", self.listing_limit == 0)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(builder: &Builder, text: &str) -> Option<(String, Security)> {
        builder.resolve(text).ok().map(|(address, security)| (address.to_string(), security))
    }

    #[test]
    fn limits_of_zero_are_refused() {
        for builder in [
            Builder::new().connect_timeout(Duration::ZERO),
            Builder::new().reply_timeout(Duration::ZERO),
            Builder::new().data_timeout(Duration::ZERO),
            Builder::new().abort_timeout(Duration::ZERO),
            Builder::new().accept_timeout(Duration::ZERO),
            Builder::new().listing_limit(0),
        ] {
            assert!(matches!(builder.check(), Err(Error::InvalidOption(_))));
        }
        assert!(Builder::new().check().is_ok());
    }

    #[test]
    fn the_address_says_whether_tls_is_used() {
        let plain = Builder::new();
        for (text, address, security) in [
            ("h", "h:21", Security::Explicit),
            (" h:2121 ", "h:2121", Security::Explicit),
            ("ftpes://h", "h:21", Security::Explicit),
            ("ftps://h", "h:990", Security::Implicit),
            ("FTP://h:5/", "h:5", Security::Plaintext),
            ("ftp://[::1]", "[::1]:21", Security::Plaintext),
        ] {
            assert_eq!(resolve(&plain, text), Some((address.into(), security)), "{text}");
        }
        let off = Builder::new().tls(false);
        assert_eq!(resolve(&off, "h"), Some(("h:21".into(), Security::Plaintext)));
        let implicit = Builder::new().security(Security::Implicit).tls(ClientTls::system());
        assert_eq!(resolve(&implicit, "h"), Some(("h:990".into(), Security::Implicit)));
        for (builder, text) in [
            (&plain, "http://h"),
            (&plain, "ftp://user:secret@h"),
            (&plain, "ftp://h/path"),
            (&plain, ""),
            (&off, "ftps://h"),
            (&off, "ftpes://h"),
            (&implicit, "ftp://h"),
            (&implicit, "ftpes://h"),
        ] {
            let error = builder.resolve(text).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(Builder::new().security(Security::Explicit).tls(false).resolve("h").is_err());
    }
}
