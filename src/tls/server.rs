//! Server settings: which identity to show, and which clients to let in.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::identity::Identity;
use super::provider;
use super::store::{Store, host_name};
use super::trust::ClientVerifier;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;

/// How a server uses TLS: which certificate it shows, and whether clients must show one.
///
/// By default it shows the certificate named like this host, from the user's own store, where it is made if there is none
/// yet (see [`Identity::named`]), and asks clients for nothing.
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
/// Nothing is read or made before the settings are used: that is when the server starts to listen.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ServerTls {
    source: Source,
    clients: Clients,
    allowed: Option<Vec<Result<Fingerprint, String>>>,
    alpn: Vec<Vec<u8>>,
    store: Option<Store>,
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
    Unasked,
    Asked,
    Required,
}

impl ServerTls {
    /// The default, as described above.
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows the certificate of this name from the user's own store, where it is made if there is none yet: see
    /// [`Identity::named`].
    pub fn named(name: impl Into<String>) -> Self {
        ServerTls { source: Source::Named(name.into()), ..Default::default() }
    }

    /// Shows the certificate in the first PEM file, whose private key is in the second: see [`Identity::pem`].
    pub fn pem(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        ServerTls { source: Source::Pem(certificate.into(), key.into()), ..Default::default() }
    }

    /// Asks clients for a certificate, but lets those in, too, that have none: the program decides, by the peer's
    /// fingerprint.
    ///
    /// Any certificate will do, self-signed and expired ones as well, as long as the client proves to hold its key:
    /// without [`allow`](Self::allow), a certificate tells clients apart, and keeps nobody out.
    pub fn request_client_certificate(mut self) -> Self {
        self.clients = Clients::Asked;
        self
    }

    /// Lets only clients in that show a certificate: any certificate, as with
    /// [`request_client_certificate`](Self::request_client_certificate).
    pub fn require_client_certificate(mut self) -> Self {
        self.clients = Clients::Required;
        self
    }

    /// Lets only clients in whose certificate has one of these fingerprints: of its public key, as this crate shows it, or
    /// of the certificate, both SHA-256 in hexadecimal. Clients must show a certificate then; after
    /// [`request_client_certificate`](Self::request_client_certificate), those that have none are let in as well, but not
    /// those with another.
    pub fn allow<F: ToString>(mut self, fingerprints: impl IntoIterator<Item = F>) -> Self {
        let parse = |text: F| text.to_string().parse::<Fingerprint>().map_err(|error| error.to_string());
        self.allowed.get_or_insert_default().extend(fingerprints.into_iter().map(parse));
        self
    }

    /// The application protocols to agree to (ALPN), best first. A client that offers some, but none of these, is turned
    /// away; one that offers none is let in, and nothing is agreed on.
    pub fn alpn<P: AsRef<[u8]>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(|protocol| protocol.as_ref().to_vec()).collect();
        self
    }

    /// Keeps certificates made by name in this directory, in place of `$XDG_DATA_HOME/network`
    /// (`~/.local/share/network`).
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.store = Some(Store::new(&directory.into()));
        self
    }

    /// Loads, or makes, what is needed to answer clients. Reads and may write files, so not for every connection.
    pub(crate) fn prepare(&self) -> Result<Arc<ServerSetup>> {
        let allowed = match &self.allowed {
            None => None,
            Some(list) => Some(list.iter().cloned().collect::<Result<Vec<_>, _>>().map_err(Error::TlsSettings)?),
        };
        let identity = self.identity()?;
        let builder = ServerConfig::builder_with_provider(provider().clone())
            .with_safe_default_protocol_versions()
            .map_err(settings)?;
        let clients = match (self.clients, &allowed) {
            (Clients::Unasked, Some(_)) => Clients::Required,
            (clients, _) => clients,
        };
        let builder = match clients {
            Clients::Unasked => builder.with_client_cert_verifier(WebPkiClientVerifier::no_client_auth()),
            Clients::Asked | Clients::Required => builder.with_client_cert_verifier(Arc::new(ClientVerifier {
                required: clients == Clients::Required,
                allowed,
            })),
        };
        let key = CertifiedKey::clone(&identity.inner.key);
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols = self.alpn.clone();
        // Clients keep their sessions themselves, in tickets: cheaper than a table here, and no limit to their number.
        config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(settings)?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(ServerSetup { config: Arc::new(config), identity }))
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
    /// Shows this identity.
    fn from(identity: Identity) -> Self {
        ServerTls { source: Source::Identity(identity), ..Default::default() }
    }
}

fn settings(error: rustls::Error) -> Error {
    Error::TlsSettings(error.to_string())
}

/// A server's settings, made ready: what all its connections share.
#[derive(Debug)]
pub(crate) struct ServerSetup {
    pub(super) config: Arc<ServerConfig>,
    pub(super) identity: Identity,
}

impl ServerSetup {
    /// Who the server is: for its log line with the fingerprint, and the warnings to go with it.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }
}
