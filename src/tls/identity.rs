//! Identity: a certificate with its private key, loaded and checked. `store` owns the files of named identities.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::certificate::{self, Fingerprints, PublicKey};
use super::files::{exposure, trouble};
use super::pem::{read_certificates, read_key};
use super::private_key::{MISMATCH, signer};
use super::store::{check_name, host_name};
use super::words::plain;
use crate::certificate::Fingerprint;
use crate::error::{Error, Result, count};

/// A certificate that expires within this time is renewed, or warned about if this crate did not create it.
pub(super) const RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);

/// A certificate with its private key, presented by a server, or by a client on request.
///
/// Cloning is cheap: clones share the loaded data.
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
    /// `None`: made in memory.
    certificate_file: Option<PathBuf>,
    warnings: Vec<String>,
}

impl Identity {
    /// Loads the identity in these two PEM files.
    ///
    /// The first may contain the certificates of intermediate authorities after the own one. The second contains the
    /// private key (PKCS#8, PKCS#1 or SEC1, not encrypted) and may be the same file. Keys can be RSA with 2048 to 8192
    /// bits, ECDSA with P-256 or P-384, or Ed25519. Any form of certificate is accepted.
    ///
    /// # Blocking
    /// While the files are read.
    ///
    /// # Errors
    /// [`Error::Identity`](crate::Error::Identity), which names the file, if one is missing, is not a regular file, or
    /// cannot be read or parsed, or if the key does not match the certificate. A PEM block that is not understood is an
    /// error that names it.
    pub fn pem(certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self> {
        Self::load(certificate.as_ref(), key.as_ref(), SystemTime::now())
    }

    /// Creates an identity in memory, for tests and for connections that no later one has to recognize.
    ///
    /// No file is read or written, and the private key is lost with the last clone. The certificate is like one of
    /// [`named`](Self::named): ECDSA P-256, valid for ten years, for `name`, this host and `localhost`. It is not in the user's
    /// certificate store, so it is nobody's *own*: peers must pin it.
    ///
    /// # Errors
    /// [`Error::TlsSettings`](crate::Error::TlsSettings) if the name is empty or contains `/`, `..` or NUL, or if the system has
    /// no random numbers.
    ///
    /// # Example
    /// ```
    /// use network::{ClientTls, Server, Socket, tls::Identity};
    ///
    /// let identity = Identity::in_memory("test")?;
    /// let server = Server::builder().tls(identity.clone()).listen("127.0.0.1:0", |socket| socket.sendline("hello"))?;
    /// let tls = ClientTls::pinned(identity.fingerprint());
    /// # let (result, place) = (std::rc::Rc::new(std::cell::RefCell::new(None)), std::rc::Rc::new(()));
    /// # let slot = result.clone();
    /// # let then = move |outcome: network::Result<Socket>| { slot.replace(Some(outcome)); network::endloop(); };
    /// Socket::builder().tls(tls).connect_async(server.port(), gio::Cancellable::NONE, then);
    /// # assert!(!network::fgloop_for(std::time::Duration::from_secs(30)));
    /// # assert_eq!(result.take().unwrap()?.peer_public_key(), Some(identity.public_key()));
    /// # drop(place);
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn in_memory(name: &str) -> Result<Self> {
        check_name(name)?;
        let failed = |problem: String| Error::TlsSettings(format!("cannot create a certificate: {problem}"));
        let key = rcgen::KeyPair::generate().map_err(|error| failed(error.to_string()))?;
        let certificate = certificate::make(name, &host_name(), &key, SystemTime::now())
            .map_err(|error| failed(error.to_string()))?;
        let chain = vec![certificate.der().clone()];
        let public = PublicKey::of(&chain[0]).map_err(|error| failed(plain(&error)))?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|problem| failed(problem.to_owned()))?;
        let signer = signer(key, &public).map_err(failed)?;
        let fingerprints = Fingerprints { key: public.fingerprint(), certificate: Fingerprint::of(&chain[0]) };
        let key = Arc::new(CertifiedKey::new(chain, signer));
        Ok(Identity { inner: Arc::new(Loaded { key, fingerprints, certificate_file: None, warnings: Vec::new() }) })
    }

    /// Returns the SHA-256 of the public key, which peers see and pin. Renewing the certificate does not change it.
    pub fn fingerprint(&self) -> Fingerprint {
        self.inner.fingerprints.key
    }

    /// Returns the SHA-256 of the certificate itself, as printed by `openssl x509 -fingerprint -sha256`.
    pub fn certificate_fingerprint(&self) -> Fingerprint {
        self.inner.fingerprints.certificate
    }

    /// Returns the public key in DER (SPKI, subject public key info), as protocols for pairing devices hash it. The peer gets
    /// the same bytes from [`Socket::peer_public_key`](crate::Socket::peer_public_key).
    pub fn public_key(&self) -> Vec<u8> {
        // It was found when the certificate was loaded.
        PublicKey::of(self.certificate()).map(|key| key.info().to_vec()).unwrap_or_default()
    }

    /// Returns the file that the certificate was read from. It can be given to peers. `None` if it was made
    /// [in memory](Self::in_memory).
    pub fn certificate_file(&self) -> Option<&Path> {
        self.inner.certificate_file.as_deref()
    }

    /// Returns warnings from loading, which servers log when they start: a certificate that expires soon, has expired or
    /// is not valid yet, or a private key that other users can read or replace.
    pub fn warnings(&self) -> &[String] {
        &self.inner.warnings
    }

    pub(super) fn load(certificate_file: &Path, key_file: &Path, now: SystemTime) -> Result<Self> {
        let chain = read_certificates(certificate_file)?;
        let key = read_key(key_file)?;
        let (key, fingerprints) = pair(chain, key, certificate_file, key_file)?;
        let mut warnings = Vec::new();
        warnings.extend(validity_warning(&key.cert[0], certificate_file, now));
        warnings.extend(exposure(key_file));
        let certificate_file = Some(certificate_file.to_owned());
        Ok(Identity { inner: Arc::new(Loaded { key: Arc::new(key), fingerprints, certificate_file, warnings }) })
    }

    /// Adds a warning.
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
    /// Shows the file and the fingerprint, and nothing of the private key.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Identity")
            .field("certificate_file", &self.inner.certificate_file)
            .field("fingerprint", &self.inner.fingerprints.key)
            .finish_non_exhaustive()
    }
}

/// Two identities are equal if a peer could not distinguish them.
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

/// Combines a certificate chain and its private key. Fails if they do not match.
fn pair(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    certificate_file: &Path,
    key_file: &Path,
) -> Result<(CertifiedKey, Fingerprints)> {
    let public = PublicKey::of(&chain[0])
        .map_err(|_| trouble(certificate_file, "unusable certificate: no public key can be found in it"))?;
    if let Some(problem) = public.unsupported() {
        return Err(trouble(certificate_file, format!("unusable certificate: {problem}")));
    }
    let signer = signer(key, &public).map_err(|problem| match problem.as_str() {
        MISMATCH => trouble(key_file, format!("{problem} in {}", certificate_file.display())),
        _ => trouble(key_file, problem),
    })?;
    let fingerprints = Fingerprints { key: public.fingerprint(), certificate: Fingerprint::of(&chain[0]) };
    Ok((CertifiedKey::new(chain, signer), fingerprints))
}

fn validity_warning(certificate: &CertificateDer<'_>, file: &Path, now: SystemTime) -> Option<String> {
    let facts = certificate::facts(certificate)?;
    let file = file.display();
    if let Ok(wait) = facts.begins.duration_since(now)
        && !wait.is_zero()
    {
        return Some(format!("{file}: the certificate is not valid yet, or the clock of this machine is wrong"));
    }
    match facts.expires.duration_since(now) {
        Err(_) => Some(format!("{file}: the certificate has expired")),
        Ok(left) if left < RENEW_BEFORE => {
            let days = usize::try_from(left.as_secs() / (24 * 3600)).unwrap_or(usize::MAX);
            Some(format!("{file}: the certificate expires in {}", count(days, "day")))
        }
        Ok(_) => None,
    }
}
