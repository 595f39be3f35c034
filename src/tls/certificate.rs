//! Certificates as values: reading fields of one, and creating our own. Accesses no file.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber,
};
use ring::rand::SecureRandom;
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer};
use rustls::server::ParsedCertificate;
use yasna::{ASN1Error, ASN1ErrorKind, ASN1Result, BERReader, BERReaderSeq, Tag};

use super::provider;
use crate::fingerprint::Fingerprint;

/// Validity of the certificates we create.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Certificates are valid from this long before their creation, for peers whose clock is behind.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);

/// The organisation in every certificate we create. It marks those that we may renew.
const MAKER: &str = "glib-network";

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
        let key =
            yasna::parse_der(certificate, |reader| within_first(reader, read_public_key)).map_err(|_| malformed())?;
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
        let modulus = yasna::parse_der(&self.bits, |reader| {
            reader.read_sequence(|fields| {
                let modulus = fields.next().read_tagged_der()?;
                skip_rest(fields)?;
                Ok(modulus.value().iter().skip_while(|byte| **byte == 0).copied().collect::<Vec<u8>>())
            })
        });
        // The bits of an elliptic curve key are coordinates, not a sequence.
        let modulus = modulus.ok()?;
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

/// Reads these fields from a certificate. `None` if they cannot be found.
///
/// rustls does not give access to them, and a full X.509 parser would add a dozen crates. The DER reader is a dependency
/// anyway, because rcgen writes with it.
pub(super) fn facts(certificate: &CertificateDer<'_>) -> Option<Facts> {
    yasna::parse_der(certificate, |reader| within_first(reader, read_facts)).ok()
}

/// Reads fields of the signed part of a certificate (the first element), from the issuer on. Skips what `read` leaves.
fn within_first<T>(
    reader: BERReader<'_, '_>,
    read: impl FnOnce(&mut BERReaderSeq<'_, '_>) -> ASN1Result<T>,
) -> ASN1Result<T> {
    reader.read_sequence(|signed| {
        let found = signed.next().read_sequence(|fields| {
            fields.read_optional(|version| version.read_tagged(Tag::context(0), |number| number.read_u8()))?;
            let _serial = fields.next().read_der()?;
            let _algorithm = fields.next().read_der()?;
            let found = read(fields)?;
            skip_rest(fields)?;
            Ok(found)
        })?;
        skip_rest(signed)?;
        Ok(found)
    })
}

fn read_public_key(fields: &mut BERReaderSeq<'_, '_>) -> ASN1Result<PublicKey> {
    for _issuer_validity_subject in 0..3 {
        fields.next().read_der()?;
    }
    let info = fields.next().read_der()?;
    let (algorithm, bits) = yasna::parse_der(&info, |reader| {
        reader.read_sequence(|fields| Ok((fields.next().read_der()?, fields.next().read_bitvec_bytes()?)))
    })?;
    let algorithm_contents = yasna::parse_der(&algorithm, |reader| reader.read_tagged_der())?.value().to_vec();
    match bits {
        (bits, length) if length == bits.len() * 8 => Ok(PublicKey { info, algorithm, algorithm_contents, bits }),
        _ => Err(ASN1Error::new(ASN1ErrorKind::Invalid)),
    }
}

fn read_facts(fields: &mut BERReaderSeq<'_, '_>) -> ASN1Result<Facts> {
    let _issuer = fields.next().read_der()?;
    let (begins, expires) =
        fields.next().read_sequence(|validity| Ok((read_time(validity.next())?, read_time(validity.next())?)))?;
    let mut ours = false;
    fields.next().read_sequence_of(|set| {
        set.read_set_of(|attribute| {
            attribute.read_sequence(|attribute| {
                let organisation = attribute.next().read_oid()?.components().as_slice() == [2, 5, 4, 10];
                let value = attribute.next().read_tagged_der()?;
                ours |= organisation && value.value() == MAKER.as_bytes();
                Ok(())
            })
        })
    })?;
    Ok(Facts { begins, expires, ours })
}

fn read_time(reader: BERReader<'_, '_>) -> ASN1Result<SystemTime> {
    let seconds = if reader.lookahead_tag()? == yasna::tags::TAG_UTCTIME {
        reader.read_utctime()?.datetime().unix_timestamp()
    } else {
        reader.read_generalized_time()?.datetime().unix_timestamp()
    };
    // Dates before 1970 count as 1970.
    Ok(UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or(0)))
}

fn skip_rest(fields: &mut BERReaderSeq<'_, '_>) -> ASN1Result<()> {
    while fields.read_optional(|field| field.read_der())?.is_some() {}
    Ok(())
}

/// Creates a self-signed certificate for `name` with this key, valid from `now`, as PEM text.
///
/// It is not a CA: trusting it means trusting this key, not everything the key might sign. It is valid for servers and for
/// clients, so that a program can use one identity as both.
pub(super) fn make(name: &str, host: &str, key: &KeyPair, now: SystemTime) -> Result<String, rcgen::Error> {
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
    Ok(parameters.self_signed(key)?.pem())
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
