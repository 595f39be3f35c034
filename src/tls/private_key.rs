//! Private keys: from their DER to a key that can sign.

use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::SigningKey;
use yasna::Tag;

use super::certificate::PublicKey;
use super::provider;
use crate::certificate::der::{INTEGER, OCTET_STRING, Reader, SEQUENCE, explicit};

/// The error of [`signer`] for the key of another certificate.
pub(super) const MISMATCH: &str = "the private key does not match the certificate";

const UNUSABLE: &str =
    "unusable private key; supported are RSA with 2048 to 8192 bits, ECDSA with P-256 or P-384, and Ed25519";

/// Loads a private key, which must match this public key of a certificate. The error says what is wrong with it.
///
/// An EC key may lack its public half (`openssl ec -no_public`), which ring requires. It is taken from the certificate then,
/// and ring checks that the halves match.
pub(super) fn signer(key: PrivateKeyDer<'static>, public: &PublicKey) -> Result<Arc<dyn SigningKey>, String> {
    let completed = lone_scalar(&key).map(|scalar| complete(scalar, public));
    let (key, problem) = match completed {
        Some(completed) => (completed, MISMATCH),
        None => (key, UNUSABLE),
    };
    let signer = provider().key_provider.load_private_key(key).map_err(|_| problem.to_owned())?;
    match signer.public_key() {
        Some(own) if own != public.info() => Err(MISMATCH.to_owned()),
        // Without a public key of the signer, only the handshake can tell.
        _ => Ok(signer),
    }
}

/// Reads the secret number of an EC key without a public half. `None` if it has one, and for other keys.
fn lone_scalar<'a>(key: &'a PrivateKeyDer<'_>) -> Option<&'a [u8]> {
    let sec1 = match key {
        PrivateKeyDer::Sec1(key) => key.secret_sec1_der(),
        PrivateKeyDer::Pkcs8(key) => {
            let mut fields = Reader(key.secret_pkcs8_der()).expect(SEQUENCE)?.reader();
            let _version = fields.expect(INTEGER)?;
            let _algorithm = fields.expect(SEQUENCE)?;
            fields.expect(OCTET_STRING)?.contents
        }
        _ => return None,
    };
    let mut fields = Reader(sec1).expect(SEQUENCE)?.reader();
    let _version = fields.expect(INTEGER)?;
    let scalar = fields.expect(OCTET_STRING)?.contents;
    let _curve = fields.optional(explicit(0));
    fields.optional(explicit(1)).is_none().then_some(scalar)
}

/// Writes the complete key as PKCS#8.
fn complete(scalar: &[u8], public: &PublicKey) -> PrivateKeyDer<'static> {
    let inner = yasna::construct_der(|writer| {
        writer.write_sequence(|fields| {
            fields.next().write_u8(1);
            fields.next().write_bytes(scalar);
            fields.next().write_tagged(Tag::context(1), |field| {
                field.write_bitvec_bytes(&public.bits, public.bits.len() * 8);
            });
        });
    });
    let whole = yasna::construct_der(|writer| {
        writer.write_sequence(|fields| {
            fields.next().write_u8(0);
            fields.next().write_der(&public.algorithm);
            fields.next().write_bytes(&inner);
        });
    });
    PrivatePkcs8KeyDer::from(whole).into()
}
