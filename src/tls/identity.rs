//! Identity: a certificate with its private key, loaded and checked. The files it may come from by name are the
//! business of `store`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::InconsistentKeys;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::certificate::{self, Fingerprints};
use super::pem::{read_certificates, read_key, trouble};
use super::provider;
use crate::error::{Result, count};
use crate::fingerprint::Fingerprint;

/// A certificate nearer to its end than this is renewed, or warned about where it is not ours to renew.
pub(super) const RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);

/// A certificate with its private key: who a server, or a client that was asked, proves to be.
///
/// Loading reads files and may make them, so it blocks for a moment; clones are cheap and share what was loaded.
///
/// ```no_run
/// use network::{ServerTls, tls::Identity};
///
/// let identity = Identity::named("chat")?;
/// println!("tell your friends: {}", identity.fingerprint());
/// let tls = ServerTls::from(identity);
/// # Ok::<(), network::Error>(())
/// ```
#[derive(Clone)]
pub struct Identity {
    pub(super) inner: Arc<Loaded>,
}

pub(super) struct Loaded {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) fingerprints: Fingerprints,
    certificate_file: PathBuf,
    warnings: Vec<String>,
}

impl Identity {
    /// The identity in these two PEM files. The first may hold the certificates of intermediate authorities after its
    /// own; the second holds the private key (PKCS#8, PKCS#1 or SEC1, not encrypted) and may be the same file.
    ///
    /// # Errors
    ///
    /// [`Error::Identity`](crate::Error::Identity), which names the file, when one is missing, cannot be read or
    /// understood, or when the key is not that of the certificate.
    pub fn pem(certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self> {
        Self::load(certificate.as_ref(), key.as_ref(), SystemTime::now())
    }

    /// SHA-256 of the public key: what peers see and pin. It stays the same when the certificate is renewed.
    pub fn fingerprint(&self) -> Fingerprint {
        self.inner.fingerprints.key
    }

    /// SHA-256 of the certificate itself, as `openssl x509 -fingerprint -sha256` shows it.
    pub fn certificate_fingerprint(&self) -> Fingerprint {
        self.inner.fingerprints.certificate
    }

    /// The file that the certificate was read from: peers can be given it as it is.
    pub fn certificate_file(&self) -> &Path {
        &self.inner.certificate_file
    }

    /// What was found odd while loading, such as a certificate that ends soon and was not made here, or a private key
    /// that others can read. Servers log it when they start.
    pub fn warnings(&self) -> &[String] {
        &self.inner.warnings
    }

    pub(super) fn load(certificate_file: &Path, key_file: &Path, now: SystemTime) -> Result<Self> {
        let chain = read_certificates(certificate_file)?;
        let key = read_key(key_file)?;
        let (key, fingerprints) = pair(chain, key, certificate_file, key_file)?;
        let mut warnings = Vec::new();
        warnings.extend(validity_warning(&key.cert[0], certificate_file, now));
        warnings.extend(privacy_warning(key_file));
        let certificate_file = certificate_file.to_owned();
        Ok(Identity { inner: Arc::new(Loaded { key: Arc::new(key), fingerprints, certificate_file, warnings }) })
    }

    /// The same, with one more warning.
    pub(super) fn warned(self, warning: String) -> Self {
        let Loaded { key, fingerprints, certificate_file, warnings } = &*self.inner;
        let mut warnings = warnings.clone();
        warnings.push(warning);
        let (key, certificate_file) = (key.clone(), certificate_file.clone());
        Identity { inner: Arc::new(Loaded { key, fingerprints: *fingerprints, certificate_file, warnings }) }
    }

    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        &self.inner.key.cert[0]
    }
}

impl fmt::Debug for Identity {
    /// Shows where it is from and whose it is, and nothing of the private key.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Identity")
            .field("certificate_file", &self.inner.certificate_file)
            .field("fingerprint", &self.inner.fingerprints.key)
            .finish_non_exhaustive()
    }
}

/// Two identities are equal when a peer could not tell them apart.
impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.inner.key.cert == other.inner.key.cert
    }
}

impl Eq for Identity {}

impl std::hash::Hash for Identity {
    fn hash<H: std::hash::Hasher>(&self, hasher: &mut H) {
        self.inner.fingerprints.certificate.hash(hasher);
    }
}

/// Joins a certificate chain and a key, if they belong together.
fn pair(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    certificate_file: &Path,
    key_file: &Path,
) -> Result<(CertifiedKey, Fingerprints)> {
    let fingerprints = Fingerprints::of(&chain[0])
        .map_err(|error| trouble(certificate_file, format!("this certificate cannot be used: {error}")))?;
    let signer = provider()
        .key_provider
        .load_private_key(key)
        .map_err(|error| trouble(key_file, format!("this private key cannot be used: {error}")))?;
    let pair = CertifiedKey::new(chain, signer);
    match pair.keys_match() {
        // Unknown: a kind of key that does not tell its public half. The hand-shake will show.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok((pair, fingerprints)),
        Err(_) => Err(trouble(key_file, format!("not the private key of {}", certificate_file.display()))),
    }
}

fn validity_warning(certificate: &CertificateDer<'_>, file: &Path, now: SystemTime) -> Option<String> {
    let expires = certificate::facts(certificate)?.expires;
    match expires.duration_since(now) {
        Err(_) => Some(format!("{}: the certificate has expired", file.display())),
        Ok(left) if left < RENEW_BEFORE => {
            let days = usize::try_from(left.as_secs() / (24 * 3600)).unwrap_or(usize::MAX);
            Some(format!("{}: the certificate expires in {}", file.display(), count(days, "day")))
        }
        Ok(_) => None,
    }
}

fn privacy_warning(file: &Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(file).ok()?.permissions().mode();
    (mode & 0o004 != 0)
        .then(|| format!("{}: everybody on this machine can read this private key (chmod 600 helps)", file.display()))
}
