//! Trust: whether the certificate of a peer is accepted. Owns the two verifiers that rustls calls during a handshake, and
//! the system roots.
//!
//! Whatever the policy, the peer's signature over the handshake is always verified (see `proof`). A certificate is public,
//! and anyone could present it. Only the signature proves possession of its private key.

use std::collections::HashMap;
use std::convert::identity;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, SignatureScheme};

use super::certificate::{Fingerprints, PublicKey};
use super::peers::Condition;
use super::pem::certificates;
use super::proof;
use super::provider;
use super::store::{Evidence, Store, in_order_to, make_directory};
use super::words::{certificate_problem, plain};
use crate::certificate::{Fingerprint, PeerCertificate};
use crate::error::{Error, Printable, Result, os_text};

/// The reason why a peer was trusted, returned by [`Socket::peer_trust`](crate::Socket::peer_trust), or why an address is
/// pinned, returned by [`Pin::trust`](super::Pin::trust).
///
/// Whatever the reason, the peer has proven possession of its private key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Trust {
    /// Its key is pinned: by [`ClientTls::pinned`](crate::ClientTls::pinned), by [`tls::pin`](super::pin), or by a file that a
    /// person has written.
    Pin,
    /// Its certificate is one of the user's own.
    Own,
    /// A root certificate has issued its certificate for the host name: one of the system's, or one passed to
    /// [`ClientTls::roots`](crate::ClientTls::roots).
    Roots,
    /// Its key is that of the first connection to the address, or this is the first one
    /// ([`ClientTls::on_first_use`](crate::ClientTls::on_first_use)). Nobody has compared the fingerprint.
    FirstUse,
    /// Its key is on the server's allowlist ([`ServerTls::allow`](crate::ServerTls::allow)).
    Allowlist,
    /// Anyone is accepted: [`ClientTls::danger_accept_any`](crate::ClientTls::danger_accept_any), or a server that requests
    /// client certificates without an allowlist.
    Unverified,
}

/// The rule by which a server's certificate is accepted.
#[derive(Debug)]
pub(super) enum Policy {
    /// The pin of the address if there is one; otherwise the user's own certificates, then the system roots; with
    /// `first_use` also any other certificate, which is pinned.
    Store { store: Store, pin: Option<Condition>, first_use: bool },
    /// Only this fingerprint, of the key or of the certificate.
    Pinned(Fingerprint),
    /// Only these roots.
    Roots(Roots),
    /// Only the system roots.
    System,
    /// Any certificate.
    Any,
}

/// Verifies the certificates of one server by one policy. Connections share it as part of their configuration.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    policy: Policy,
    /// The normalised address, under which pins are kept. Errors name it.
    address: String,
    /// True if there is a host name that root certificates can verify. The name that rustls passes on may be a placeholder.
    named: bool,
    /// Keys found among the user's own, so that the store need not be searched in every handshake.
    own: Mutex<HashMap<Fingerprint, Evidence>>,
    /// The reasons for which certificates were accepted, where the policy allows several. A resumed session is trusted for the
    /// reason of its full handshake.
    accepted: Mutex<HashMap<Fingerprints, Trust>>,
    outdated: AtomicBool,
}

impl ServerVerifier {
    pub(super) fn new(policy: Policy, address: String, named: bool) -> Self {
        let (own, accepted, outdated) = Default::default();
        ServerVerifier { policy, address, named, own, accepted, outdated }
    }

    /// Returns whether the verdicts of this verifier are outdated, because it has written a pin, or files that it relied on
    /// have changed. Its sessions must not be resumed then. Resumption skips the verifier, so a peer would be accepted even
    /// after its pin was deleted.
    pub(super) fn outdated(&self) -> bool {
        let changed = || lock(&self.own).values().any(|evidence| !evidence.holds());
        self.outdated.load(Ordering::Relaxed) || changed()
    }

    /// Returns whether a handshake may need the system roots, and they are not loaded yet.
    pub(super) fn may_load_roots(&self) -> bool {
        let asks = matches!(self.policy, Policy::System | Policy::Store { pin: None | Some(Condition::Roots), .. });
        asks && self.named && ROOTS.get().is_none()
    }

    fn is_pinned(&self) -> bool {
        matches!(
            self.policy,
            Policy::Pinned(_) | Policy::Store { pin: Some(Condition::Key(_) | Condition::FirstUse(_)), .. }
        )
    }

    /// Returns why a peer is trusted that has completed a handshake with this certificate.
    pub(super) fn trust(&self, shown: &Fingerprints) -> Option<Trust> {
        match &self.policy {
            Policy::Any => Some(Trust::Unverified),
            Policy::Pinned(_) => Some(Trust::Pin),
            Policy::Roots(_) | Policy::System => Some(Trust::Roots),
            Policy::Store { pin: Some(pin @ (Condition::Key(_) | Condition::FirstUse(_))), .. } => Some(pin.trust()),
            Policy::Store { .. } => lock(&self.accepted).get(shown).copied(),
        }
    }

    fn judge(&self, shown: &Shown<'_>) -> Result<(), rustls::Error> {
        match &self.policy {
            Policy::Any => Ok(()),
            Policy::Pinned(pin) if shown.fingerprints.matches(pin) => Ok(()),
            Policy::Pinned(pin) => Err(self.changed(pin, shown.certificate, None)),
            Policy::Store { store, pin: Some(Condition::Key(pin) | Condition::FirstUse(pin)), .. } => {
                if shown.fingerprints.matches(pin) {
                    Ok(())
                } else {
                    Err(self.changed(pin, shown.certificate, Some(store)))
                }
            }
            Policy::Store { store, pin, first_use } => self.judge_by_store(shown, store, *pin, *first_use),
            Policy::Roots(roots) if roots.holds(shown.certificate) => Ok(()),
            Policy::Roots(roots) => self.ask(&roots.verifier, shown).map_err(|problem| {
                self.unknown(shown.certificate, format!("not issued by the given root certificates: {problem}"))
            }),
            Policy::System => self.ask_system(shown).map_err(|problem| {
                self.unknown(shown.certificate, format!("not issued by the system's root certificates: {problem}"))
            }),
        }
    }

    /// Judges a certificate for which no key is pinned.
    fn judge_by_store(
        &self,
        shown: &Shown<'_>,
        store: &Store,
        pin: Option<Condition>,
        first_use: bool,
    ) -> Result<(), rustls::Error> {
        let (known, problem) = match self.is_own(store, &shown.fingerprints.key) {
            Ok(()) => (Trust::Own, String::new()),
            Err(exposed) => match self.ask_system(shown) {
                Ok(()) => (Trust::Roots, String::new()),
                Err(problem) => (Trust::FirstUse, not_own(exposed) + &problem),
            },
        };
        match (pin, known) {
            (Some(pin), _) if pin.admits(known, &shown.fingerprints) => {}
            (Some(pin), _) => return Err(self.weaker(pin, shown.certificate, store, &problem)),
            (None, Trust::FirstUse) if !first_use => {
                let problem = format!("no key is pinned for this address, {problem}. {}", self.advice(store));
                return Err(self.unknown(shown.certificate, problem));
            }
            (None, _) => {}
        }
        lock(&self.accepted).insert(shown.fingerprints, known);
        Ok(())
    }

    /// The error of a certificate that would be trusted for a weaker reason than earlier ones.
    fn weaker(&self, pin: Condition, shown: &CertificateDer<'_>, store: &Store, why: &str) -> rustls::Error {
        let before = match pin {
            Condition::Own => "one of your own certificates",
            _ => "a certificate verified by the system's root certificates",
        };
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        let problem = format!(
            "earlier connections presented {before}, and this one does not{why}. Either the server has another certificate, or \
             the connection is being intercepted. {}",
            self.advice(store)
        );
        self.unknown(shown, problem)
    }

    /// Returns the next step for a certificate that is not trusted.
    fn advice(&self, store: &Store) -> String {
        // The message names a file to write. If this fails, writing it will show why.
        let _ = make_directory(&store.peers(), 0o700);
        let file = store.pin_file(&self.address);
        format!(
            "If the owner of the server confirms the fingerprint, write it into {} or use ClientTls::pinned",
            file.display()
        )
    }

    /// Checks that this key is one of the user's own. The error says why one in the store does not count.
    fn is_own(&self, store: &Store, key: &Fingerprint) -> Result<(), Option<String>> {
        let mut known = lock(&self.own);
        match known.get(key) {
            Some(evidence) if evidence.holds() => return Ok(()),
            // Sessions that rely on the old evidence must not be resumed, whatever is found now.
            Some(_) => self.outdated.store(true, Ordering::Relaxed),
            None => {}
        }
        known.insert(*key, store.owns(key)?);
        Ok(())
    }

    fn ask_system(&self, shown: &Shown<'_>) -> Result<(), String> {
        if !self.named {
            return Err(UNNAMED.to_owned());
        }
        match system_roots() {
            Ok(roots) => self.ask(roots, shown),
            Err(problem) => Err(problem.clone()),
        }
    }

    fn ask(&self, roots: &WebPkiServerVerifier, shown: &Shown<'_>) -> Result<(), String> {
        if !self.named {
            return Err(UNNAMED.to_owned());
        }
        match roots.verify_server_cert(shown.certificate, shown.intermediates, shown.name, shown.ocsp, shown.now) {
            Ok(_) => Ok(()),
            Err(rustls::Error::InvalidCertificate(problem)) => Err(certificate_problem(&problem)),
            Err(problem) => Err(plain(&problem)),
        }
    }

    /// Writes the pin of first use, once the peer has proven possession of the key. Earlier, a peer that presents somebody
    /// else's certificate could have it pinned.
    fn proven(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let Policy::Store { store, pin: None, first_use: true } = &self.policy else { return Ok(()) };
        let shown = Fingerprints::of(certificate)?;
        let Some(known) = lock(&self.accepted).get(&shown).copied() else { return Ok(()) };
        self.outdated.store(true, Ordering::Relaxed);
        let pin = match known {
            Trust::Own => Condition::Own,
            Trust::Roots => Condition::Roots,
            _ => Condition::FirstUse(shown.key),
        };
        let purpose = || format!("pin the certificate of {}", Printable(&self.address));
        match store.pin_first(&self.address, pin).map_err(|error| carry(in_order_to(&purpose(), error)))? {
            pin if pin.admits(known, &shown) => Ok(()),
            Condition::Key(pin) | Condition::FirstUse(pin) => Err(self.changed(&pin, certificate, Some(store))),
            pin => Err(self.weaker(pin, certificate, store, "")),
        }
    }

    fn unknown(&self, shown: &CertificateDer<'_>, problem: String) -> rustls::Error {
        unknown(self.address.clone(), shown, problem)
    }

    fn changed(&self, pin: &Fingerprint, shown: &CertificateDer<'_>, store: Option<&Store>) -> rustls::Error {
        presented(shown).map_or_else(identity, |certificate| {
            carry(Error::CertificateChanged {
                peer: self.address.clone(),
                pinned: Box::new(*pin),
                fingerprint: Box::new(certificate.fingerprint()),
                certificate,
                pin_file: store.map(|store| store.pin_file(&self.address).into()),
            })
        })
    }
}

/// Why root certificates do not count for services, and for addresses that TLS does not allow as names.
const UNNAMED: &str =
    "root certificates cannot verify a server without a host name (set one with ClientTls::server_name)";

/// Says why a certificate does not count as the user's own. The beginning of a sentence.
fn not_own(exposed: Option<String>) -> String {
    match exposed {
        None => "the certificate is not your own, and ".to_owned(),
        Some(problem) => format!("the certificate is your own but does not count ({problem}), and "),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The data that a server presents in its handshake.
struct Shown<'a> {
    fingerprints: Fingerprints,
    certificate: &'a CertificateDer<'a>,
    intermediates: &'a [CertificateDer<'a>],
    name: &'a ServerName<'a>,
    ocsp: &'a [u8],
    now: UnixTime,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let fingerprints = Fingerprints::of(certificate)?;
        let verdict = self.judge(&Shown { fingerprints, certificate, intermediates, name, ocsp, now });
        // A key other than the pinned one is the more important error. But an unsupported key must not be reported as unknown,
        // or the user would pin it in vain.
        if verdict.is_ok() || !self.is_pinned() {
            check_key(certificate)?;
        }
        verdict.map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let valid = proof::verify_tls12(message, certificate, signature)?;
        self.proven(certificate)?;
        Ok(valid)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let valid = proof::verify_tls13(message, certificate, signature)?;
        self.proven(certificate)?;
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Verifies the certificates of clients. Only the key matters, so a self-signed certificate is as good as any.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    pub(super) required: bool,
    /// The allowlist. `None`: any client that proves possession of the key of its certificate.
    pub(super) allowed: Option<Vec<Fingerprint>>,
}

impl ClientVerifier {
    /// Returns why a client is trusted that has completed a handshake with its certificate.
    pub(super) fn trust(&self) -> Trust {
        if self.allowed.is_some() { Trust::Allowlist } else { Trust::Unverified }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[] // any issuer
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let shown = Fingerprints::of(certificate)?;
        check_key(certificate)?;
        match &self.allowed {
            Some(allowed) if !allowed.iter().any(|one| shown.matches(one)) => {
                // The session fills in the name of the client.
                let problem = "the client's key is not on the allowlist (ServerTls::allow)".to_owned();
                Err(unknown(String::new(), certificate, problem))
            }
            _ => Ok(ClientCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        proof::verify_tls12(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        proof::verify_tls13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Roots given by the program.
#[derive(Clone, Debug)]
pub(super) struct Roots {
    certificates: Arc<[CertificateDer<'static>]>,
    verifier: Arc<WebPkiServerVerifier>,
}

impl Roots {
    pub(super) fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let certificates: Arc<[_]> = match certificates(pem) {
            Ok(found) => found.into(),
            Err(problem) if !pem.contains(&b'\n') => {
                return Err(format!("roots: {problem} (the text itself, not the path of a file)"));
            }
            Err(problem) => return Err(format!("roots: {problem}")),
        };
        let mut store = RootCertStore::empty();
        for certificate in certificates.iter() {
            store.add(certificate.clone()).map_err(|error| match error {
                rustls::Error::InvalidCertificate(problem) => {
                    format!("unusable root certificate: {}", certificate_problem(&problem))
                }
                other => format!("unusable root certificate: {}", plain(&other)),
            })?;
        }
        Ok(Roots { certificates, verifier: webpki(store)? })
    }

    /// Returns whether this certificate is itself one of the given roots. Self-signed server certificates of openssl are
    /// marked as authorities, and path building rejects an authority as a server.
    fn holds(&self, certificate: &CertificateDer<'_>) -> bool {
        self.certificates.iter().any(|one| one == certificate)
    }
}

/// Fails if signatures of this key cannot be verified. Otherwise the peer would seem not to possess its private key.
fn check_key(certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
    match PublicKey::of(certificate)?.unsupported() {
        // The session fills in the name of the peer.
        Some(problem) => Err(carry(Error::Tls { peer: String::new(), problem })),
        None => Ok(()),
    }
}

fn webpki(store: RootCertStore) -> Result<Arc<WebPkiServerVerifier>, String> {
    WebPkiServerVerifier::builder_with_provider(store.into(), provider().clone()).build().map_err(|error| plain(&error))
}

/// Loads the system roots unless they are loaded already. Reads from disk for 2 to 22 ms, so it should run on another thread
/// or before the first connection. A handshake that needs the roots loads them itself.
pub(crate) fn load_system_roots() -> Result<(), String> {
    system_roots().as_ref().map(drop).map_err(Clone::clone)
}

static ROOTS: OnceLock<Result<Arc<WebPkiServerVerifier>, String>> = OnceLock::new();

fn system_roots() -> &'static Result<Arc<WebPkiServerVerifier>, String> {
    let in_words = |error: &rustls_native_certs::Error| match &error.kind {
        rustls_native_certs::ErrorKind::Io { inner, path } => format!("{}: {}", path.display(), os_text(inner)),
        _ => error.to_string(),
    };
    ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        // Some are always too old or odd to be parsed. The others count nevertheless.
        store.add_parsable_certificates(found.certs);
        if store.is_empty() {
            let cause = found.errors.first().map(|error| format!(" ({})", in_words(error))).unwrap_or_default();
            return Err(format!("no root certificates are installed on this system{cause}"));
        }
        webpki(store)
    })
}

/// The error of a certificate that is not trusted.
fn unknown(peer: String, shown: &CertificateDer<'_>, problem: String) -> rustls::Error {
    presented(shown).map_or_else(identity, |certificate| {
        let fingerprint = Box::new(certificate.fingerprint());
        carry(Error::UnknownCertificate { peer, fingerprint, certificate, problem })
    })
}

fn presented(certificate: &CertificateDer<'_>) -> Result<PeerCertificate, rustls::Error> {
    PeerCertificate::new(certificate).ok_or_else(|| CertificateError::BadEncoding.into())
}

/// An [`Error`] on its way through rustls, which can carry foreign errors but not return them by value.
struct Carried(Mutex<Option<Error>>);

/// Wraps an [`Error`] for rustls. The peer receives the alert "certificate unknown".
fn carry(error: Error) -> rustls::Error {
    let carried = Carried(Mutex::new(Some(error)));
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(carried))))
}

/// Returns the error that [`carry`] wrapped.
pub(super) fn carried(error: &rustls::Error) -> Option<Error> {
    let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(foreign))) = error else { return None };
    foreign.downcast_ref::<Carried>()?.0.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl fmt::Display for Carried {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("certificate not accepted")
    }
}

impl fmt::Debug for Carried {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl std::error::Error for Carried {}
