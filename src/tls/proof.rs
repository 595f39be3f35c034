//! Proof of possession: verifies that the signature over a handshake was made with the private key of a certificate.
//!
//! The key is that of [`PublicKey`], of which fingerprints are computed. Names, dates and extensions of the certificate do
//! not matter here. `trust` judges them.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, DigitallySignedStruct, PeerMisbehaved};

use super::certificate::PublicKey;
use super::provider;

/// Verifies a signature of TLS 1.2, in which a scheme does not imply a curve.
pub(super) fn verify_tls12(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let key = PublicKey::of(certificate)?;
    let schemes = provider().signature_verification_algorithms.mapping;
    let unadvertised = PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme;
    let (_, algorithms) = schemes.iter().find(|(scheme, _)| *scheme == signature.scheme).ok_or(unadvertised)?;
    let fitting = algorithms.iter().find(|one| one.public_key_alg_id().as_ref() == key.algorithm_contents);
    match fitting.map(|algorithm| algorithm.verify_signature(&key.bits, message, signature.signature())) {
        Some(Ok(())) => Ok(HandshakeSignatureValid::assertion()),
        _ => Err(CertificateError::BadSignature.into()),
    }
}

/// Verifies a signature of TLS 1.3.
pub(super) fn verify_tls13(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let key = PublicKey::of(certificate)?;
    let algorithms = &provider().signature_verification_algorithms;
    rustls::crypto::verify_tls13_signature_with_raw_key(message, &key.info(), signature, algorithms)
}
