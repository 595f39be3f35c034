//! Server settings: which certificate to present, and which clients to accept.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::identity::Identity;
use super::store::{Store, host_name};
use super::trust::{ClientVerifier, Trust};
use super::words::plain;
use super::{check_alpn, provider};
use crate::certificate::Fingerprint;
use crate::error::{Error, Result};

/// TLS settings of a server: which certificate it presents, and whether clients must present one.
///
/// By default, the certificate is named after this host, comes from the user's certificate store, and is created there on
/// first use (see [`Identity::named`]). No client certificate is requested.
///
/// ```
/// use network::ServerTls;
///
/// let named = ServerTls::named("chat");
/// let from_files = ServerTls::pem("/etc/ssl/chat.pem", "/etc/ssl/private/chat.key").alpn(["chat/1"]);
/// let for_friends =
///     ServerTls::named("chat").allow(["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]);
/// ```
///
/// The settings are used when the server starts to listen. Nothing is read, created or checked before.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ServerTls {
    source: Source,
    clients: Clients,
    allowed: Option<Vec<Result<Fingerprint, String>>>,
    alpn: Vec<Vec<u8>>,
    store: Option<Store>,
    /// The result of [`ServerTls::prepared`].
    prepared: Option<Arc<ServerSetup>>,
}

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    Host,
    Named(String),
    Pem(PathBuf, PathBuf),
    Identity(Identity),
}

#[derive(Clone, Copy, PartialEq, Debug, Default)]
enum Clients {
    #[default]
    NotRequested,
    Requested,
    Required,
}

impl ServerTls {
    /// Creates the default settings, see [above](Self).
    pub fn new() -> Self {
        Self::default()
    }

    /// Presents the certificate of this name from the user's certificate store, created there on first use. See
    /// [`Identity::named`].
    pub fn named(name: impl Into<String>) -> Self {
        ServerTls { source: Source::Named(name.into()), ..Default::default() }
    }

    /// Presents the certificate in the first PEM file, with the private key in the second. See [`Identity::pem`].
    pub fn pem(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        ServerTls { source: Source::Pem(certificate.into(), key.into()), ..Default::default() }
    }

    /// Requests a client certificate, and accepts clients without one. The program can decide by the peer's fingerprint.
    ///
    /// Any certificate is accepted, also a self-signed or expired one, if the client proves possession of its private key.
    /// Without [`allow`](Self::allow), a certificate identifies a client and excludes nobody.
    pub fn request_client_certificate(mut self) -> Self {
        self.prepared = None;
        self.clients = Clients::Requested;
        self
    }

    /// Requires a client certificate. Any is accepted, as with
    /// [`request_client_certificate`](Self::request_client_certificate).
    pub fn require_client_certificate(mut self) -> Self {
        self.prepared = None;
        self.clients = Clients::Required;
        self
    }

    /// Accepts only clients with these keys, and requires a client certificate.
    ///
    /// Each item is a [`Fingerprint`] or its text: the SHA-256 of the client's public key, as shown by this crate, or of
    /// its certificate, in 64 hexadecimal digits, colons allowed. A malformed text fails with
    /// [`Error::TlsSettings`] when the server starts to listen. Several calls add up. After
    /// [`request_client_certificate`](Self::request_client_certificate), clients without a certificate are accepted as
    /// well, but not those with another.
    pub fn allow<F>(mut self, fingerprints: impl IntoIterator<Item = F>) -> Self
    where
        F: TryInto<Fingerprint, Error: fmt::Display>,
    {
        self.prepared = None;
        let parse = |fingerprint: F| fingerprint.try_into().map_err(|error| error.to_string());
        self.allowed.get_or_insert_default().extend(fingerprints.into_iter().map(parse));
        self
    }

    /// Sets the application protocols to support (ALPN), in order of preference. Default: none.
    ///
    /// A client that offers protocols, but none of these, is rejected. A client that offers none is accepted, and none is
    /// negotiated. A name has 1 to 255 bytes, the list up to 32 KiB; otherwise listening fails with
    /// [`Error::TlsSettings`].
    pub fn alpn<P: AsRef<[u8]>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.prepared = None;
        self.alpn = protocols.into_iter().map(|protocol| protocol.as_ref().to_vec()).collect();
        self
    }

    /// Sets the directory of the certificate store. Default: `$XDG_DATA_HOME/network` (`~/.local/share/network`).
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.prepared = None;
        self.store = Some(Store::new(&directory.into()));
        self
    }

    /// Reads or creates the certificate and checks the settings now, so that they are ready for any number of connections.
    ///
    /// For [`Socket::start_tls`](crate::Socket::start_tls), which otherwise does so for each connection. Clients can resume
    /// sessions only with servers that share one prepared value. A setter that is called afterwards undoes it. Reads and may
    /// write files.
    ///
    /// # Errors
    /// [`Error::Identity`] if the certificate is unusable, [`Error::TlsSettings`] for other settings.
    ///
    /// # Example: One certificate for all connections of a server
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// use network::{Server, ServerTls};
    ///
    /// let tls = ServerTls::named("mail").directory(directory.path()).prepared()?;
    /// let server = Server::builder().tls(false).listen(0, move |socket| {
    ///     let tls = tls.clone();
    ///     socket.readlines(move |socket, line| match line {
    ///         "STARTTLS" => {
    ///             socket.sendline("go ahead")?;
    ///             socket.start_tls_async(tls.clone(), gio::Cancellable::NONE, |_, _| {});
    ///             Ok(())
    ///         }
    ///         _ => socket.sendline(if socket.is_tls() { "encrypted" } else { "in plaintext" }),
    ///     });
    ///     Ok(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn prepared(mut self) -> Result<Self> {
        self.prepared = Some(self.setup()?);
        Ok(self)
    }

    /// Returns what all connections of a server need. Reads and may write files, unless that was done before.
    pub(crate) fn setup(&self) -> Result<Arc<ServerSetup>> {
        self.prepared.clone().map_or_else(|| self.prepare(), Ok)
    }

    fn prepare(&self) -> Result<Arc<ServerSetup>> {
        let allowed = match &self.allowed {
            None => None,
            Some(list) => Some(list.iter().cloned().collect::<Result<Vec<_>, _>>().map_err(Error::TlsSettings)?),
        };
        check_alpn(&self.alpn)?;
        let identity = self.identity()?;
        let builder = ServerConfig::builder_with_provider(provider().clone())
            .with_safe_default_protocol_versions()
            .map_err(settings)?;
        let clients = match (self.clients, &allowed) {
            (Clients::NotRequested, Some(_)) => Clients::Required,
            (clients, _) => clients,
        };
        let verifier = ClientVerifier { required: clients == Clients::Required, allowed };
        let trust = verifier.trust();
        let builder = match clients {
            Clients::NotRequested => builder.with_client_cert_verifier(WebPkiClientVerifier::no_client_auth()),
            Clients::Requested | Clients::Required => builder.with_client_cert_verifier(Arc::new(verifier)),
        };
        let key = CertifiedKey::clone(&identity.inner.key);
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols = self.alpn.clone();
        // Clients keep their sessions in tickets. That is cheaper than a table here, and their number has no limit.
        config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(settings)?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(ServerSetup { config: Arc::new(config), identity, clients: trust }))
    }

    fn identity(&self) -> Result<Identity> {
        let store = || self.store.clone().map_or_else(Store::of_user, Ok);
        match &self.source {
            Source::Host => store()?.load_or_make(&host_name()),
            Source::Named(name) => store()?.load_or_make(name),
            Source::Pem(certificate, key) => Identity::pem(certificate, key),
            Source::Identity(identity) => Ok(identity.clone()),
        }
    }
}

impl From<Identity> for ServerTls {
    /// Presents this identity.
    fn from(identity: Identity) -> Self {
        ServerTls { source: Source::Identity(identity), ..Default::default() }
    }
}

fn settings(error: rustls::Error) -> Error {
    Error::TlsSettings(plain(&error))
}

/// Configuration that all connections of a server share.
#[derive(Debug)]
pub(crate) struct ServerSetup {
    pub(super) config: Arc<ServerConfig>,
    pub(super) identity: Identity,
    /// Why clients with a certificate are trusted.
    pub(super) clients: Trust,
}

impl ServerSetup {
    /// Returns the server's identity, with its fingerprint and its warnings.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }
}
