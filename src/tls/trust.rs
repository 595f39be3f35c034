//! Trust: whether a certificate that a peer shows is to be believed. The two verifiers that rustls asks during a
//! hand-shake, and the system's roots.
//!
//! Whatever the policy, the peer's signature over the hand-shake is always checked, by rustls: a certificate is public,
//! and anybody could show somebody else's. Only the signature proves that its private key is at the other end.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, SignatureScheme};

use super::certificate::{Fingerprints, PublicKey};
use super::peers::Pin;
use super::pem::certificates;
use super::proof;
use super::provider;
use super::store::{Evidence, Store, in_order_to, make_directory};
use super::words::{certificate_problem, plain};
use crate::error::{Error, Printable, Result};
use crate::fingerprint::Fingerprint;

/// What decides about a server's certificate.
#[derive(Debug)]
pub(super) enum Policy {
    /// The address's pin if it has one; else own certificates, then the system's roots; else nothing, or with
    /// `first_use` a new pin.
    Store { store: Store, pin: Option<Pin>, first_use: bool },
    /// This fingerprint, of the key or of the certificate.
    Pinned(Fingerprint),
    /// These roots and no others.
    Roots(Roots),
    /// The system's roots and nothing else.
    System,
    /// Nothing: anybody who holds some key.
    Anybody,
}

/// Decides about the certificates of one server, by one policy. Connections share it, as part of their configuration.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    policy: Policy,
    /// The normalised address: what pins are kept by, and what errors call it.
    address: String,
    /// Whether there is a host name that roots can vouch for. (The name rustls passes along may be a stand-in.)
    named: bool,
    /// Keys found among the user's own, so that the store need not be searched in every handshake.
    own: Mutex<HashMap<Fingerprint, Evidence>>,
    /// In first use: what is to be pinned once a certificate's key is proven.
    unproven: Mutex<HashMap<Fingerprints, Pin>>,
    outdated: AtomicBool,
}

impl ServerVerifier {
    pub(super) fn new(policy: Policy, address: String, named: bool) -> Self {
        let (own, unproven, outdated) = Default::default();
        ServerVerifier { policy, address, named, own, unproven, outdated }
    }

    /// Whether the answers of this verifier no longer hold, because it has made a pin, or files that it trusted somebody for
    /// have changed. Sessions it agreed to must not be resumed then: resuming asks no verifier, so the pin could be deleted
    /// and the peer still be let in.
    pub(super) fn outdated(&self) -> bool {
        let changed = || lock(&self.own).values().any(|evidence| !evidence.holds());
        self.outdated.load(Ordering::Relaxed) || changed()
    }

    /// Whether a hand-shake may come to ask the system's roots, and they are still to be loaded.
    pub(super) fn may_load_roots(&self) -> bool {
        let asks = matches!(self.policy, Policy::System | Policy::Store { pin: None | Some(Pin::Roots), .. });
        asks && self.named && ROOTS.get().is_none()
    }

    fn is_pinned(&self) -> bool {
        matches!(self.policy, Policy::Pinned(_) | Policy::Store { pin: Some(Pin::Key(_)), .. })
    }

    fn judge(&self, shown: &Shown<'_>) -> Result<(), rustls::Error> {
        match &self.policy {
            Policy::Anybody => Ok(()),
            Policy::Pinned(pin) if shown.fingerprints.matches(pin) => Ok(()),
            Policy::Pinned(pin) => Err(self.changed(pin, &shown.fingerprints, None)),
            Policy::Store { pin: Some(Pin::Key(pin)), .. } if shown.fingerprints.matches(pin) => Ok(()),
            Policy::Store { store, pin: Some(Pin::Key(pin)), .. } => {
                Err(self.changed(pin, &shown.fingerprints, Some(store)))
            }
            Policy::Store { store, pin, first_use } => self.judge_by_store(shown, store, *pin, *first_use),
            Policy::Roots(roots) if roots.holds(shown.certificate) => Ok(()),
            Policy::Roots(roots) => self.ask(&roots.verifier, shown).map_err(|problem| {
                let advice = "the roots given for this connection do not vouch for it";
                self.unknown(&shown.fingerprints, format!("{advice}: {problem}"))
            }),
            Policy::System => self.ask_system(shown).map_err(|problem| {
                let advice = "the system's root certificates do not vouch for it";
                self.unknown(&shown.fingerprints, format!("{advice}: {problem}"))
            }),
        }
    }

    /// Without a pin of a key: by what else is known of this certificate.
    fn judge_by_store(
        &self,
        shown: &Shown<'_>,
        store: &Store,
        pin: Option<Pin>,
        first_use: bool,
    ) -> Result<(), rustls::Error> {
        let (known, problem) = match self.is_own(store, &shown.fingerprints.key) {
            Ok(()) => (Pin::Own, String::new()),
            Err(exposed) => match self.ask_system(shown) {
                Ok(()) => (Pin::Roots, String::new()),
                Err(problem) => (Pin::Key(shown.fingerprints.key), not_own(exposed) + &problem),
            },
        };
        match (pin, known) {
            (Some(pin), _) if pin.admits(known, &shown.fingerprints) => Ok(()),
            (Some(pin), _) => Err(self.weaker(pin, &shown.fingerprints, store)),
            (None, _) if first_use => {
                lock(&self.unproven).insert(shown.fingerprints, known);
                Ok(())
            }
            (None, Pin::Own | Pin::Roots) => Ok(()),
            (None, Pin::Key(_)) => {
                let problem = format!("no key is pinned for this address, {problem}. {}", self.advice(store));
                Err(self.unknown(&shown.fingerprints, problem))
            }
        }
    }

    /// Earlier connections were trusted for a better reason than this one could be.
    fn weaker(&self, pin: Pin, shown: &Fingerprints, store: &Store) -> rustls::Error {
        let before = match pin {
            Pin::Own => "one of your own certificates",
            _ => "a certificate verified by the system's root certificates",
        };
        let problem = format!(
            "earlier connections presented {before}, and this one does not. Either the server has another certificate, or \
             the connection is being intercepted. {}",
            self.advice(store)
        );
        self.unknown(shown, problem)
    }

    /// How to trust a certificate that is refused.
    fn advice(&self, store: &Store) -> String {
        // It is about to be named as a place to write to. If that is not possible, writing there will say why.
        let _ = make_directory(&store.peers(), 0o700);
        let file = store.pin_file(&self.address);
        format!(
            "If the owner of the server confirms the fingerprint, write it into {} or use ClientTls::pinned",
            file.display()
        )
    }

    /// Whether this key is the user's own. The error says why one that is in the store does not count.
    fn is_own(&self, store: &Store, key: &Fingerprint) -> Result<(), Option<String>> {
        let mut known = lock(&self.own);
        if !known.get(key).is_some_and(Evidence::holds) {
            known.remove(key);
            known.insert(*key, store.owns(key)?);
        }
        Ok(())
    }

    fn ask_system(&self, shown: &Shown<'_>) -> Result<(), String> {
        if !self.named {
            return Err("without a host name no root certificate can vouch for it".to_owned());
        }
        match system_roots() {
            Ok(roots) => self.ask(roots, shown),
            Err(problem) => Err(problem.clone()),
        }
    }

    fn ask(&self, roots: &WebPkiServerVerifier, shown: &Shown<'_>) -> Result<(), String> {
        if !self.named {
            return Err("without a host name (ClientTls::server_name) no root certificate can vouch for it".to_owned());
        }
        match roots.verify_server_cert(shown.certificate, shown.intermediates, shown.name, shown.ocsp, shown.now) {
            Ok(_) => Ok(()),
            Err(rustls::Error::InvalidCertificate(problem)) => Err(certificate_problem(&problem)),
            Err(problem) => Err(plain(&problem)),
        }
    }

    /// Called once the peer has proven to hold the key of `certificate`: in first use, notes what is known of it. Not
    /// earlier, or whoever shows a stolen certificate could have it pinned.
    fn proven(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let Policy::Store { store, pin: None, first_use: true } = &self.policy else { return Ok(()) };
        let shown = Fingerprints::of(certificate)?;
        let Some(known) = lock(&self.unproven).get(&shown).copied() else { return Ok(()) };
        self.outdated.store(true, Ordering::Relaxed);
        let purpose = || format!("pin the certificate of {}", Printable(&self.address));
        match store.pin_first(&self.address, known).map_err(|error| carry(in_order_to(&purpose(), error)))? {
            pin if pin.admits(known, &shown) => Ok(()),
            Pin::Key(pin) => Err(self.changed(&pin, &shown, Some(store))),
            pin => Err(self.weaker(pin, &shown, store)),
        }
    }

    fn unknown(&self, shown: &Fingerprints, problem: String) -> rustls::Error {
        carry(unknown(Printable(&self.address).to_string(), shown, problem))
    }

    fn changed(&self, pin: &Fingerprint, shown: &Fingerprints, store: Option<&Store>) -> rustls::Error {
        carry(Error::CertificateChanged {
            peer: Printable(&self.address).to_string(),
            pinned: Box::new(*pin),
            fingerprint: Box::new(shown.key),
            certificate: Box::new(shown.certificate),
            pin_file: store.map(|store| store.pin_file(&self.address).into()),
        })
    }
}

/// The beginning of a sentence that says why a certificate is not trusted.
fn not_own(exposed: Option<String>) -> String {
    match exposed {
        None => "the certificate is not your own, and ".to_owned(),
        Some(problem) => format!("the certificate is your own but does not count ({problem}), and "),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a server shows in its hand-shake.
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
        // Another key than the pinned one is the more important news. Whoever is unknown must not be pinned first, to be
        // told then that the pin is of no use.
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

/// Decides about clients' certificates: self-signed ones are as good as any, for it is the key that counts.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    pub(super) required: bool,
    /// Who may come; `None`: whoever proves to hold the key of the certificate he shows.
    pub(super) allowed: Option<Vec<Fingerprint>>,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[] // any issuer will do
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
                // The session knows which client this is, and fills in its name.
                let problem = "it is not on the list of clients allowed here: ServerTls::allow".to_owned();
                Err(carry(unknown(String::new(), &shown, problem)))
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

    /// A certificate that was itself given as a root is trusted as it stands. Self-signed server certificates of openssl
    /// pass for authorities, and the usual path building refuses such a one as a server's.
    fn holds(&self, certificate: &CertificateDer<'_>) -> bool {
        self.certificates.iter().any(|one| one == certificate)
    }
}

/// Refuses a key that no signature can be verified with. Otherwise that would look as if the peer did not hold it.
fn check_key(certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
    match PublicKey::of(certificate)?.unsupported() {
        // The session fills in the peer's name.
        Some(problem) => Err(carry(Error::Tls { peer: String::new(), problem })),
        None => Ok(()),
    }
}

fn webpki(store: RootCertStore) -> Result<Arc<WebPkiServerVerifier>, String> {
    WebPkiServerVerifier::builder_with_provider(store.into(), provider().clone()).build().map_err(|error| plain(&error))
}

/// Loads the system's root certificates, unless that is done already, and tells how it went. It reads 2 to 22 ms from
/// disk, so do it where waiting hurts nobody: on a thread that is joined, or before the first connection. A hand-shake
/// that needs the roots and finds them missing loads them by itself, in its own time.
pub(crate) fn load_system_roots() -> Result<(), String> {
    system_roots().as_ref().map(drop).map_err(Clone::clone)
}

static ROOTS: OnceLock<Result<Arc<WebPkiServerVerifier>, String>> = OnceLock::new();

fn system_roots() -> &'static Result<Arc<WebPkiServerVerifier>, String> {
    ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        // Some are always too old or odd to be parsed; the others must not suffer for it.
        store.add_parsable_certificates(found.certs);
        if store.is_empty() {
            let cause = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
            return Err(format!("no root certificates are installed on this system{cause}"));
        }
        webpki(store)
    })
}

fn unknown(peer: String, shown: &Fingerprints, problem: String) -> Error {
    Error::UnknownCertificate {
        peer,
        fingerprint: Box::new(shown.key),
        certificate: Box::new(shown.certificate),
        problem,
    }
}

/// An error of ours on its way through rustls, which can carry foreign errors but not give them back by value.
struct Carried(Mutex<Option<Error>>);

/// Wraps an error of ours for rustls. The peer sees the alert "certificate unknown".
fn carry(error: Error) -> rustls::Error {
    let carried = Carried(Mutex::new(Some(error)));
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(carried))))
}

/// Takes out what [`carry`] put in.
pub(super) fn carried(error: &rustls::Error) -> Option<Error> {
    let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(foreign))) = error else { return None };
    foreign.downcast_ref::<Carried>()?.0.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl fmt::Display for Carried {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("refused by our own rules")
    }
}

impl fmt::Debug for Carried {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl std::error::Error for Carried {}
