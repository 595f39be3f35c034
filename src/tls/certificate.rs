//! Certificates as values: reading fields of one, and creating our own. Accesses no file.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber,
};
use ring::rand::SecureRandom;
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer};
use rustls::server::ParsedCertificate;

use super::provider;
use crate::certificate::der::{BIT_STRING, Element, INTEGER, OBJECT_IDENTIFIER, Reader, SEQUENCE, SET};
use crate::certificate::{Fingerprint, fields, validity};

/// Validity of the certificates we create.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Certificates are valid from this long before their creation, for peers whose clock is behind.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);

/// The organisation in every certificate we create. It marks those that we may renew.
const MAKER: &str = "glib-network";

/// The object identifier 2.5.4.10.
const ORGANISATION: [u8; 3] = [0x55, 4, 10];

/// Both fingerprints of one certificate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Fingerprints {
    /// The fingerprint of its public key, which is shown and pinned.
    pub(crate) key: Fingerprint,
    /// The fingerprint of the certificate itself.
    pub(crate) certificate: Fingerprint,
}

impl Fingerprints {
    /// Computes the fingerprints of a certificate. Fails if no public key can be found in it.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, rustls::Error> {
        let key = PublicKey::of(certificate)?;
        Ok(Fingerprints { key: key.fingerprint(), certificate: Fingerprint::of(certificate) })
    }

    /// Returns whether `fingerprint` is one of the two.
    pub(crate) fn matches(&self, fingerprint: &Fingerprint) -> bool {
        self.key == *fingerprint || self.certificate == *fingerprint
    }
}

/// The public key of a certificate, as DER (SPKI, subject public key info) and as its parts.
///
/// rustls reads it only from certificates that it could verify, not from those of X.509 version 1 or with unknown critical
/// extensions. Where only the key matters, such a certificate is as good as any.
#[derive(Debug)]
pub(super) struct PublicKey {
    info: Vec<u8>,
    /// The algorithm identifier, with and without its own tag and length.
    pub(super) algorithm: Vec<u8>,
    pub(super) algorithm_contents: Vec<u8>,
    pub(super) bits: Vec<u8>,
}

impl PublicKey {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Result<Self, rustls::Error> {
        let malformed = || rustls::Error::from(rustls::CertificateError::BadEncoding);
        let key = read_public_key(certificate).ok_or_else(malformed)?;
        // If two parsers found different keys, a peer could prove one and be identified by the other.
        match ParsedCertificate::try_from(certificate) {
            Ok(parsed) if *parsed.subject_public_key_info() != *key.info => Err(malformed()),
            _ => Ok(key),
        }
    }

    pub(super) fn info(&self) -> SubjectPublicKeyInfoDer<'_> {
        self.info.as_slice().into()
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.info)
    }

    /// Returns an error text if signatures of this key cannot be verified: its kind or length is unsupported.
    pub(super) fn unsupported(&self) -> Option<String> {
        let mut supported = provider().signature_verification_algorithms.all.iter();
        if !supported.any(|one| one.public_key_alg_id().as_ref() == self.algorithm_contents) {
            let kinds = "RSA, ECDSA with P-256 or P-384, and Ed25519";
            return Some(format!("the public key is of an unsupported kind; supported are {kinds}"));
        }
        // The bits of an elliptic curve key are coordinates, not a sequence.
        let modulus = Reader(&self.bits).expect(SEQUENCE)?.reader().expect(INTEGER)?.contents;
        let modulus = &modulus[modulus.iter().take_while(|byte| **byte == 0).count()..];
        let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
        // ring counts whole bytes.
        let fits = RSA_BYTES.contains(&modulus.len());
        (!fits).then(|| format!("the RSA key has {bits} bits; supported are 2048 to 8192"))
    }
}

/// Lengths of an RSA modulus that ring supports, in bytes.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// The fields of a certificate that decide on its renewal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Facts {
    /// Start of its validity.
    pub(super) begins: SystemTime,
    /// End of its validity.
    pub(super) expires: SystemTime,
    /// True if this crate created it, under any name.
    pub(super) ours: bool,
}

/// Reads these fields from a certificate. `None` if they cannot be found. rustls does not give access to them.
pub(super) fn facts(certificate: &CertificateDer<'_>) -> Option<Facts> {
    let fields = fields(certificate)?;
    let (begins, expires) = validity(fields.validity)?;
    Some(Facts { begins, expires, ours: has_maker(fields.issuer)? })
}

fn read_public_key(certificate: &CertificateDer<'_>) -> Option<PublicKey> {
    let info = fields(certificate)?.key;
    let mut parts = info.reader();
    let algorithm = parts.expect(SEQUENCE)?;
    // The first byte counts the unused bits, and keys are whole bytes.
    let bits = parts.expect(BIT_STRING)?.contents.strip_prefix(&[0])?;
    Some(PublicKey {
        info: info.whole.to_vec(),
        algorithm: algorithm.whole.to_vec(),
        algorithm_contents: algorithm.contents.to_vec(),
        bits: bits.to_vec(),
    })
}

/// Returns whether an issuer has the organisation [`MAKER`].
fn has_maker(issuer: Element<'_>) -> Option<bool> {
    let mut sets = issuer.reader();
    while let Some(set) = sets.optional(SET) {
        let mut attribute = set.reader().expect(SEQUENCE)?.reader();
        let kind = attribute.expect(OBJECT_IDENTIFIER)?;
        if kind.contents == ORGANISATION && attribute.next()?.contents == MAKER.as_bytes() {
            return Some(true);
        }
    }
    Some(false)
}

/// Creates a self-signed certificate for `name` with this key, valid from `now`.
///
/// It is not a CA: trusting it means trusting this key, not everything the key might sign. It is valid for servers and for
/// clients, so that a program can use one identity as both.
pub(super) fn make(name: &str, host: &str, key: &KeyPair, now: SystemTime) -> Result<Certificate, rcgen::Error> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.distinguished_name.push(DnType::OrganizationName, MAKER);
    parameters.subject_alt_names = alternative_names(name, host)?;
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    parameters.not_before = epoch + since_epoch.saturating_sub(BACKDATED);
    parameters.not_after = epoch + since_epoch + LIFETIME;
    // Random, because some programs reject two certificates of one issuer with the same number, and a number derived from
    // the key would not change on renewal.
    let mut serial = [0; 16];
    ring::rand::SystemRandom::new().fill(&mut serial).map_err(|_| rcgen::Error::RingUnspecified)?;
    serial[0] = serial[0] & 0x7f | 0x40; // positive, and always 16 bytes
    parameters.serial_number = Some(SerialNumber::from_slice(&serial));
    parameters.self_signed(key)
}

/// Returns the names and addresses that the certificate is valid for: its own name unless DNS does not allow it (`My room`),
/// the host name, and this machine's names for itself.
fn alternative_names(name: &str, host: &str) -> Result<Vec<SanType>, rcgen::Error> {
    let short_host = host.split('.').next().unwrap_or_default();
    let mut names = Vec::new();
    for candidate in [name, short_host, "localhost"] {
        let san = match ServerName::try_from(candidate) {
            Ok(ServerName::DnsName(dns)) => SanType::DnsName(dns.as_ref().try_into()?),
            Ok(ServerName::IpAddress(ip)) => SanType::IpAddress(ip.into()),
            _ => continue,
        };
        if !names.contains(&san) {
            names.push(san);
        }
    }
    for address in [IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)] {
        let san = SanType::IpAddress(address);
        if !names.contains(&san) {
            names.push(san);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tls::check_certificate as check;

    fn own() -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        make("name", "host", &key, SystemTime::now()).unwrap().der().clone()
    }

    #[test]
    fn lengths_that_lie_are_errors() {
        // Whatever length is announced at whatever place, nothing panics, hangs or reads elsewhere.
        let own = own();
        for at in 0..own.len() {
            for lie in
                [&[0x80][..], &[0x84, 0xff, 0xff, 0xff, 0xff], &[0x88, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xf0]]
            {
                let mut der = own[..at].to_vec();
                der.extend_from_slice(lie);
                der.extend_from_slice(&own[at..]);
                let der = CertificateDer::from(der);
                let _ = (Fingerprints::of(&der), facts(&der));
                check(&der);
            }
        }
    }

    proptest! {
        #[test]
        fn damage_is_an_error_value(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in 1usize..2000) {
            let mut der = own().to_vec();
            let at = at.index(der.len());
            der[at] = byte;
            der.truncate(cut);
            let der = CertificateDer::from(der);
            if let Ok(key) = PublicKey::of(&der) {
                let _ = key.unsupported();
            }
            let _ = facts(&der);
            check(&der);
        }
    }
}
