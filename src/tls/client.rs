//! Client settings: which servers to trust, and which certificate to present. Owns the rustls configurations that
//! connections share, on which session resumption depends.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::identity::Identity;
use super::peers::Condition;
use super::store::Store;
use super::trust::{Policy, Roots, ServerVerifier};
use super::words::plain;
use super::{check_alpn, provider};
use crate::certificate::Fingerprint;
use crate::error::{Error, Result};

/// TLS settings of a client: which servers it trusts, and which certificate it presents.
///
/// By default, a server is trusted if its key is pinned for the address, by a file in `peers/` of the user's certificate
/// store. Without a pin, it is trusted if its certificate is one of the user's own, or if the system roots have issued it
/// for the host name. Any other certificate fails with [`Error::UnknownCertificate`], which contains the fingerprint. Once
/// compared, it can be passed to [`pinned`](Self::pinned), or to [`tls::pin`](super::pin) for all programs of the user.
///
/// ```
/// use network::ClientTls;
///
/// let lenient = ClientTls::on_first_use();
/// let strict = ClientTls::pinned("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08").alpn(["chat/1"]);
/// ```
///
/// The settings are read and checked when they are used. Invalid ones, such as a malformed fingerprint, fail with
/// [`Error::TlsSettings`] when connecting, before anything is looked up.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
#[must_use]
pub struct ClientTls {
    choice: Choice,
    server_name: Option<String>,
    alpn: Vec<Vec<u8>>,
    identity: Option<Identity>,
    store: Option<Store>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
enum Choice {
    #[default]
    Default,
    FirstUse,
    Pinned(Result<Fingerprint, String>),
    Roots(GivenRoots),
    System,
    Any,
}

/// Roots as they were given. Bundles are long, so they are compared by their digest.
#[derive(Clone, Debug)]
struct GivenRoots {
    digest: Fingerprint,
    roots: Result<Roots, String>,
}

impl PartialEq for GivenRoots {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for GivenRoots {}

impl std::hash::Hash for GivenRoots {
    fn hash<H: std::hash::Hasher>(&self, hasher: &mut H) {
        self.digest.hash(hasher);
    }
}

impl ClientTls {
    /// Creates the default settings, see [above](Self).
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts any server on the first connection to its address, and from then on only what it presented then.
    ///
    /// A key that the default would reject is pinned. Later connections must present the same one, and any other fails with
    /// [`Error::CertificateChanged`]. If the certificate is one of the user's own, or issued by a system root, that is
    /// noted instead. Later connections must present such a certificate as well, and any other fails with
    /// [`Error::UnknownCertificate`]. An own certificate is accepted after one of a system root, but not the reverse.
    ///
    /// The first connection can be intercepted. Services are pinned by name, and anyone on the local network can choose a
    /// new name: *every new name is trusted*, so selecting services by pattern defeats this protection.
    pub fn on_first_use() -> Self {
        Choice::FirstUse.into()
    }

    /// Trusts exactly one key.
    ///
    /// `fingerprint` is a [`Fingerprint`] or its text: the SHA-256 of the server's public key, as shown by this crate, or
    /// of its certificate, in 64 hexadecimal digits, colons allowed. The host name, the dates and the form of the
    /// certificate are ignored. Any other key fails with [`Error::CertificateChanged`]. A malformed text fails with
    /// [`Error::TlsSettings`] when connecting.
    pub fn pinned(fingerprint: impl TryInto<Fingerprint, Error: fmt::Display>) -> Self {
        Choice::Pinned(fingerprint.try_into().map_err(|error| error.to_string())).into()
    }

    /// Trusts certificates that these roots have issued for the host name, and the certificates in `pem` themselves.
    ///
    /// `pem` is the text of one or more certificates, not the path of a file. A block that is not read fails with
    /// [`Error::TlsSettings`] when connecting. Ignores pins, the user's own certificates and the system roots.
    pub fn roots(pem: impl AsRef<[u8]>) -> Self {
        let pem = pem.as_ref();
        Choice::Roots(GivenRoots { digest: Fingerprint::of(pem), roots: Roots::from_pem(pem) }).into()
    }

    /// Trusts certificates that the system roots have issued for the host name, as web browsers do.
    ///
    /// Ignores pins and the user's own certificates.
    pub fn system() -> Self {
        Choice::System.into()
    }

    /// Disables verification: accepts any certificate.
    ///
    /// The connection is encrypted, but an attacker on the path can read and change everything.
    pub fn danger_accept_any() -> Self {
        Choice::Any.into()
    }

    /// Sets the host name to request (SNI) and to verify the certificate against, in place of the host in the address.
    ///
    /// The host name of a service comes from the network and is not verified. Without this setting, root certificates do not
    /// count for services.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Sets the application protocols to offer (ALPN), in order of preference. Default: none.
    ///
    /// If the server has a list without any of them, the handshake fails. If it has no list, none is negotiated and the
    /// connection is used without. A name has 1 to 255 bytes, the list up to 32 KiB; otherwise connecting fails with
    /// [`Error::TlsSettings`].
    pub fn alpn<P: AsRef<[u8]>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(|protocol| protocol.as_ref().to_vec()).collect();
        self
    }

    /// Presents this identity to servers that request a client certificate. Default: none.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Sets the directory of the certificate store, with pins and the user's own certificates. Default:
    /// `$XDG_DATA_HOME/network` (`~/.local/share/network`).
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.store = Some(Store::new(&directory.into()));
        self
    }

    /// Fails if these settings cannot work with any server.
    pub(crate) fn check(&self) -> Result {
        match &self.choice {
            Choice::Pinned(Err(problem)) | Choice::Roots(GivenRoots { roots: Err(problem), .. }) => {
                return Err(Error::TlsSettings(problem.clone()));
            }
            _ => {}
        }
        check_alpn(&self.alpn)?;
        self.given_name().map(drop)
    }

    /// Returns whether these settings say whom to trust where no address does.
    pub(crate) fn names_trust(&self) -> bool {
        match &self.choice {
            Choice::Default | Choice::FirstUse => false,
            Choice::System => self.has_server_name(),
            Choice::Pinned(_) | Choice::Roots(_) | Choice::Any => true,
        }
    }

    pub(crate) fn has_server_name(&self) -> bool {
        self.server_name.is_some()
    }

    /// Returns whether the handshake with this peer may have to load the system roots from disk. That takes milliseconds,
    /// so [`load_system_roots`](super::load_system_roots) should run on another thread before. `false` once they are loaded.
    pub(crate) fn may_load_roots(&self, peer: &PeerName) -> bool {
        // Invalid settings are an error of the session.
        self.prepare(peer).is_ok_and(|prepared| prepared.verifier.may_load_roots())
    }

    /// Returns what a connection to this peer needs, shared with earlier connections unless something has changed.
    pub(super) fn prepare(&self, peer: &PeerName) -> Result<Arc<Prepared>> {
        let store = match self.choice {
            Choice::Default | Choice::FirstUse => Some(self.store.clone().map_or_else(Store::of_user, Ok)?),
            _ => None,
        };
        let key = CacheKey {
            pin: store.as_ref().map(|store| store.pin(&peer.key)).transpose()?.flatten(),
            settings: self.clone(),
            peer: peer.clone(),
            store,
        };
        let cached = cache().get(&key);
        if let Some(prepared) = &cached
            && !prepared.verifier.outdated()
        {
            return Ok(prepared.clone());
        }
        let prepared = Arc::new(self.build(&key)?);
        Ok(cache().replace(key, cached, prepared))
    }

    fn build(&self, key: &CacheKey) -> Result<Prepared> {
        check_alpn(&self.alpn)?;
        let name = self.name_for(&key.peer)?;
        let policy = match (&self.choice, &key.store) {
            (Choice::Pinned(pin), _) => Policy::Pinned(pin.clone().map_err(Error::TlsSettings)?),
            (Choice::Roots(given), _) => Policy::Roots(given.roots.clone().map_err(Error::TlsSettings)?),
            (Choice::Any, _) => Policy::Any,
            (Choice::Default | Choice::FirstUse, Some(store)) => {
                Policy::Store { store: store.clone(), pin: key.pin, first_use: self.choice == Choice::FirstUse }
            }
            (Choice::System | Choice::Default | Choice::FirstUse, _) => Policy::System,
        };
        let verifier = Arc::new(ServerVerifier::new(policy, key.peer.key.clone(), name.is_some()));
        let builder = ClientConfig::builder_with_provider(provider().clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::TlsSettings(plain(&error)))?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone());
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder
                .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::clone(&identity.inner.key)))),
        };
        config.alpn_protocols = self.alpn.clone();
        config.enable_sni = name.is_some();
        // A configuration is for one server only, so it need not keep tickets of many.
        config.resumption = Resumption::in_memory_sessions(16);
        let identity = self.identity.as_ref().map(Identity::fingerprint);
        // This placeholder for a missing name is not sent.
        let name = name.unwrap_or(ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()));
        Ok(Prepared { config: Arc::new(config), name, verifier, identity })
    }

    fn given_name(&self) -> Result<Option<ServerName<'static>>> {
        let Some(name) = &self.server_name else { return Ok(None) };
        ServerName::try_from(name.clone())
            .map(Some)
            .map_err(|_| Error::TlsSettings(format!("invalid server name {name:?}")))
    }

    fn name_for(&self, peer: &PeerName) -> Result<Option<ServerName<'static>>> {
        match (self.given_name()?, &peer.host) {
            (Some(name), _) => Ok(Some(name)),
            (None, Some(host)) => {
                // Root certificates cannot verify a server by a name that TLS does not allow. Pins work nevertheless.
                Ok(ServerName::try_from(host.clone()).ok())
            }
            (None, None) => Ok(None),
        }
    }
}

impl From<Fingerprint> for ClientTls {
    /// Trusts exactly this key, see [`ClientTls::pinned`].
    fn from(fingerprint: Fingerprint) -> Self {
        ClientTls::pinned(fingerprint)
    }
}

impl From<Choice> for ClientTls {
    fn from(choice: Choice) -> Self {
        ClientTls { choice, ..Default::default() }
    }
}

/// The server that a client connects to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct PeerName {
    /// The normalised address, under which pins are kept. Errors name it.
    pub(crate) key: String,
    /// The host name that the caller gave. A service has none: its host name comes from the network.
    pub(crate) host: Option<String>,
}

/// Configuration that connections to one server with the same settings share.
pub(super) struct Prepared {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
    pub(super) identity: Option<Fingerprint>,
    pub(super) verifier: Arc<ServerVerifier>,
}

/// Resumption skips the verifier. So whatever its verdict depends on is part of this key or makes the verifier outdated:
/// after a change of the pin, or of the user's own certificates, there is a new configuration without the old tickets.
#[derive(Clone, PartialEq, Eq, Hash)]
struct CacheKey {
    settings: ClientTls,
    peer: PeerName,
    store: Option<Store>,
    pin: Option<Condition>,
}

/// The most recently used configurations of the process.
#[derive(Default)]
struct Cache {
    entries: HashMap<CacheKey, (Arc<Prepared>, u64)>,
    clock: u64,
}

static CACHE: LazyLock<Mutex<Cache>> = LazyLock::new(Mutex::default);

/// About 4 KB each. A program that alternates between more servers than this resumes fewer sessions.
const CACHE_SIZE: usize = 256;

/// No file is accessed while this is locked: a hanging disk must not block connections that do not need it.
fn cache() -> MutexGuard<'static, Cache> {
    CACHE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cache {
    fn get(&mut self, key: &CacheKey) -> Option<Arc<Prepared>> {
        self.clock += 1;
        let (prepared, used) = self.entries.get_mut(key)?;
        *used = self.clock;
        Some(prepared.clone())
    }

    /// Replaces `old` by `new`, unless another thread has already replaced it. Returns the entry that is kept.
    fn replace(&mut self, key: CacheKey, old: Option<Arc<Prepared>>, new: Arc<Prepared>) -> Arc<Prepared> {
        let is_old = |kept: &Arc<Prepared>| old.as_ref().is_some_and(|old| Arc::ptr_eq(old, kept));
        if let Some(kept) = self.get(&key)
            && !is_old(&kept)
        {
            return kept;
        }
        if self.entries.len() >= CACHE_SIZE
            && !self.entries.contains_key(&key)
            && let Some(oldest) = self.entries.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone())
        {
            self.entries.remove(&oldest);
        }
        self.entries.insert(key, (new.clone(), self.clock));
        new
    }
}
