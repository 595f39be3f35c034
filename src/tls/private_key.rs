//! Private keys: from their DER to a key that can sign.

use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::SigningKey;
use yasna::{ASN1Result, BERReader, Tag};

use super::certificate::PublicKey;
use super::provider;

/// The error of [`signer`] for the key of another certificate.
pub(super) const MISMATCH: &str = "the private key does not match the certificate";

const UNUSABLE: &str =
    "unusable private key; supported are RSA with 2048 to 8192 bits, ECDSA with P-256 or P-384, and Ed25519";

/// Loads a private key, which must match this public key of a certificate. The error says what is wrong with it.
///
/// An EC key may lack its public half (`openssl ec -no_public`), which ring requires. It is taken from the certificate then,
/// and ring checks that the halves match.
pub(super) fn signer(key: PrivateKeyDer<'static>, public: &PublicKey) -> Result<Arc<dyn SigningKey>, String> {
    let completed = yasna::parse_der(key.secret_der(), |reader| read_lone_scalar(reader, &key))
        .ok()
        .flatten()
        .map(|scalar| complete(&scalar, public));
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

/// Reads the secret number of an EC key without a public half. `None` if it has one.
fn read_lone_scalar(reader: BERReader<'_, '_>, key: &PrivateKeyDer<'_>) -> ASN1Result<Option<Vec<u8>>> {
    match key {
        PrivateKeyDer::Sec1(_) => read_sec1(reader),
        PrivateKeyDer::Pkcs8(_) => {
            let inner = reader.read_sequence(|fields| {
                let _version = fields.next().read_u8()?;
                let _algorithm = fields.next().read_der()?;
                let inner = fields.next().read_bytes()?;
                while fields.read_optional(|attribute| attribute.read_der())?.is_some() {}
                Ok(inner)
            })?;
            yasna::parse_der(&inner, read_sec1)
        }
        _ => Ok(None),
    }
}

fn read_sec1(reader: BERReader<'_, '_>) -> ASN1Result<Option<Vec<u8>>> {
    reader.read_sequence(|fields| {
        let _version = fields.next().read_u8()?;
        let scalar = fields.next().read_bytes()?;
        fields.read_optional(|curve| curve.read_tagged(Tag::context(0), |curve| curve.read_der()))?;
        let public = fields.read_optional(|public| public.read_tagged(Tag::context(1), |public| public.read_der()))?;
        Ok(public.is_none().then_some(scalar))
    })
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
