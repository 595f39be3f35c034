//! Client settings: whom to trust, what to show. Owns the sharing of rustls configurations between connections, on which
//! the resumption of sessions rests.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::identity::Identity;
use super::peers::Pin;
use super::store::Store;
use super::trust::{Policy, Roots, ServerVerifier};
use super::words::plain;
use super::{check_alpn, provider};
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;

/// How a client uses TLS: whose certificate it trusts, and what it shows of itself.
///
/// By default a certificate is trusted if it is the one pinned for the address (a file in `peers/` of the user's store);
/// without a pin, if it is one of the user's own, as that of the user's own servers is; or else if the system's root
/// certificates vouch for the host's name. All else is refused with
/// [`Error::UnknownCertificate`](crate::Error::UnknownCertificate), whose fingerprint can be compared and then given to
/// [`pinned`](Self::pinned).
///
/// ```
/// use network::ClientTls;
///
/// let lenient = ClientTls::on_first_use();
/// let strict = ClientTls::pinned("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08").alpn(["chat/1"]);
/// ```
///
/// Nothing is read or checked before the settings are used. A text that is no fingerprint, for example, is an error of
/// the connection attempt, [`Error::TlsSettings`](crate::Error::TlsSettings), before it looks anything up.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
#[must_use]
pub struct ClientTls {
    trust: Trust,
    server_name: Option<String>,
    alpn: Vec<Vec<u8>>,
    identity: Option<Identity>,
    store: Option<Store>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
enum Trust {
    #[default]
    Default,
    FirstUse,
    Pinned(Result<Fingerprint, String>),
    Roots(GivenRoots),
    System,
    Anybody,
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
    /// The default, as described above.
    pub fn new() -> Self {
        Self::default()
    }

    /// Like the default, but what it would refuse as unknown is trusted and pinned. From then on the address has that
    /// one certificate; another one is
    /// [`Error::CertificateChanged`](crate::Error::CertificateChanged).
    ///
    /// This protects every connection but the first. Services are pinned by their names, which anybody on the local
    /// network can choose: *any new service name is trusted*, so where names are picked by pattern, first use protects
    /// only those already known.
    pub fn on_first_use() -> Self {
        Trust::FirstUse.into()
    }

    /// Trusts the certificate with this fingerprint and no other: of its public key, as this crate shows it, or of the
    /// certificate, both SHA-256 in hexadecimal (64 digits, with or without colons). Neither names nor dates of the
    /// certificate matter. Another one is [`Error::CertificateChanged`](crate::Error::CertificateChanged).
    pub fn pinned(fingerprint: impl TryInto<Fingerprint, Error: fmt::Display>) -> Self {
        Trust::Pinned(fingerprint.try_into().map_err(|error| error.to_string())).into()
    }

    /// Trusts certificates for the host's name that these roots vouch for, and those that are themselves among them.
    /// `pem` is the text of one or more certificates (not the path of a file). Neither pins nor the system's roots are
    /// asked.
    pub fn roots(pem: impl AsRef<[u8]>) -> Self {
        let pem = pem.as_ref();
        Trust::Roots(GivenRoots { digest: Fingerprint::of(pem), roots: Roots::from_pem(pem) }).into()
    }

    /// Trusts certificates for the host's name that the system's roots vouch for, as a web browser does. Neither pins
    /// nor own certificates are asked.
    pub fn system() -> Self {
        Trust::System.into()
    }

    /// Trusts anybody. The connection is encrypted, but to whom is unknown: whoever sits in between can read and change
    /// everything.
    pub fn danger_accept_any() -> Self {
        Trust::Anybody.into()
    }

    /// The name to ask the server for (SNI), and that roots must vouch for, in place of the host in the address. Names
    /// of services that were found on the network need this for roots to count at all.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// The application protocols to offer (ALPN), best first. If the server has a list as well, but none in common, the
    /// hand-shake fails; if it has no list, nothing is agreed on and the connection goes on.
    pub fn alpn<P: AsRef<[u8]>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(|protocol| protocol.as_ref().to_vec()).collect();
        self
    }

    /// Shows this identity to servers that ask for one.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Keeps pins, and looks for own certificates, in this directory, in place of `$XDG_DATA_HOME/network`
    /// (`~/.local/share/network`).
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.store = Some(Store::new(&directory.into()));
        self
    }

    /// Finds what cannot work with any peer.
    pub(crate) fn check(&self) -> Result {
        match &self.trust {
            Trust::Pinned(Err(problem)) | Trust::Roots(GivenRoots { roots: Err(problem), .. }) => {
                return Err(Error::TlsSettings(problem.clone()));
            }
            _ => {}
        }
        check_alpn(&self.alpn)?;
        self.given_name().map(drop)
    }

    /// Whether the hand-shake with this peer may have to load the system's roots from disk, which takes a while: better
    /// to call [`load_system_roots`](super::load_system_roots) on another thread before it. Always `false` once they are
    /// loaded.
    pub(crate) fn may_load_roots(&self, peer: &PeerName) -> bool {
        // Settings that cannot work are told when the session is made.
        self.prepare(peer).is_ok_and(|prepared| prepared.verifier.may_load_roots())
    }

    /// Everything a connection to this peer needs, shared with earlier ones where nothing has changed in between.
    pub(super) fn prepare(&self, peer: &PeerName) -> Result<Arc<Prepared>> {
        let store = match self.trust {
            Trust::Default | Trust::FirstUse => Some(self.store.clone().map_or_else(Store::of_user, Ok)?),
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
        let policy = match (&self.trust, &key.store) {
            (Trust::Pinned(pin), _) => Policy::Pinned(pin.clone().map_err(Error::TlsSettings)?),
            (Trust::Roots(given), _) => Policy::Roots(given.roots.clone().map_err(Error::TlsSettings)?),
            (Trust::Anybody, _) => Policy::Anybody,
            (Trust::Default | Trust::FirstUse, Some(store)) => {
                Policy::Store { store: store.clone(), pin: key.pin, first_use: self.trust == Trust::FirstUse }
            }
            (Trust::System | Trust::Default | Trust::FirstUse, _) => Policy::System,
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
        // A configuration serves one peer only, so it need not keep the tickets of many.
        config.resumption = Resumption::in_memory_sessions(16);
        let identity = self.identity.as_ref().map(Identity::fingerprint);
        // The stand-in for a missing name is not sent anywhere.
        let name = name.unwrap_or(ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()));
        Ok(Prepared { config: Arc::new(config), name, verifier, identity })
    }

    fn given_name(&self) -> Result<Option<ServerName<'static>>> {
        let Some(name) = &self.server_name else { return Ok(None) };
        ServerName::try_from(name.clone())
            .map(Some)
            .map_err(|_| Error::TlsSettings(format!("{name:?} cannot be the name of a server")))
    }

    fn name_for(&self, peer: &PeerName) -> Result<Option<ServerName<'static>>> {
        match (self.given_name()?, &peer.host) {
            (Some(name), _) => Ok(Some(name)),
            (None, Some(host)) => {
                // The scope of a link-local address means something on this machine only.
                let host = host.split('%').next().unwrap_or_default();
                // What is no name to TLS cannot be vouched for by roots, but pins work all the same.
                Ok(ServerName::try_from(host.to_owned()).ok())
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

impl From<Trust> for ClientTls {
    fn from(trust: Trust) -> Self {
        ClientTls { trust, ..Default::default() }
    }
}

/// Whom a client connects to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct PeerName {
    /// The normalised text of the address: pins are kept by it, and errors name it.
    pub(crate) key: String,
    /// The host's name, if the caller gave one (services found on the network have none that can be believed).
    pub(crate) host: Option<String>,
}

/// What connections to one peer with the same settings share.
pub(super) struct Prepared {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
    pub(super) identity: Option<Fingerprint>,
    verifier: Arc<ServerVerifier>,
}

/// Resuming a session asks no verifier. So everything that its verdict rests on is part of the key, or makes its verifier
/// outdated: after a change of the pin, or of the user's own certificates, there is another configuration, which knows none
/// of the old tickets.
#[derive(Clone, PartialEq, Eq, Hash)]
struct CacheKey {
    settings: ClientTls,
    peer: PeerName,
    store: Option<Store>,
    pin: Option<Pin>,
}

/// The configurations used last, in the whole process.
#[derive(Default)]
struct Cache {
    entries: HashMap<CacheKey, (Arc<Prepared>, u64)>,
    clock: u64,
}

static CACHE: LazyLock<Mutex<Cache>> = LazyLock::new(Mutex::default);

/// About 4 KB each. A program that talks to more peers than this in turn shakes hands in full now and then.
const CACHE_SIZE: usize = 256;

/// Files are never looked at while it is locked: a disk that hangs must not hold up connections that do not need it.
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

    /// Keeps `new` in place of `old`, unless another thread has already done that. Returns what is kept.
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
