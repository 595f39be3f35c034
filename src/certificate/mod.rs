//! Certificates of peers and fingerprints, as values: the fields of a certificate, read from DER that the peer has chosen.
//! Verifies nothing, and knows neither rustls nor files. `tls` adds the names in it as text.

pub(crate) mod der;
mod fingerprint;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use der::{Element, INTEGER, Reader, SEQUENCE, explicit};
pub use fingerprint::{Fingerprint, FingerprintError};

/// The certificate that a peer has presented.
///
/// Everything in it is the peer's own claim, unless somebody who is trusted has verified it: see
/// [`Socket::peer_trust`](crate::Socket::peer_trust). Only the key is certain, once the handshake is complete. So a question
/// to the user, such as "Trust this server?", should show the fingerprint. Cloning is cheap.
///
/// ```no_run
/// let socket = network::Socket::connect("desk.example:1234")?;
/// if let Some(certificate) = socket.peer_certificate() {
///     println!("{}, fingerprint {}", certificate.subject(), certificate.fingerprint());
/// }
/// # Ok::<(), network::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PeerCertificate {
    /// One pointer, so that errors stay small.
    der: Arc<Box<[u8]>>,
}

impl PeerCertificate {
    /// Takes a certificate. `None` if its fields cannot be found.
    pub(crate) fn new(der: &[u8]) -> Option<Self> {
        fields(der)?;
        Some(PeerCertificate { der: Arc::new(der.into()) })
    }

    pub(crate) fn fields(&self) -> Fields<'_> {
        fields(&self.der).expect("checked when it was taken")
    }

    /// Returns the certificate in DER, as it was received.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Returns the public key in DER (SPKI, subject public key info).
    pub fn public_key(&self) -> &[u8] {
        self.fields().key.whole
    }

    /// Returns the SHA-256 of the public key, which this crate shows and pins.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.public_key())
    }

    /// Returns the SHA-256 of the certificate itself, as printed by `openssl x509 -fingerprint -sha256`.
    pub fn certificate_fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.der)
    }

    /// Returns the time from which the certificate is valid. `None` if the date is malformed. Dates before 1970 count as 1970.
    pub fn not_before(&self) -> Option<SystemTime> {
        validity(self.fields().validity).map(|(begins, _)| begins)
    }

    /// Returns the time until which the certificate is valid. `None` if the date is malformed.
    ///
    /// Pins and first use ignore it, because only the key matters to them.
    pub fn not_after(&self) -> Option<SystemTime> {
        validity(self.fields().validity).map(|(_, expires)| expires)
    }
}

/// Signed fields of a certificate.
pub(crate) struct Fields<'a> {
    pub(crate) issuer: Element<'a>,
    pub(crate) validity: Element<'a>,
    pub(crate) subject: Element<'a>,
    /// The public key, with its algorithm (SPKI).
    pub(crate) key: Element<'a>,
}

/// Finds the fields of a certificate. Their contents are not checked.
pub(crate) fn fields(certificate: &[u8]) -> Option<Fields<'_>> {
    let mut fields = Reader(certificate).expect(SEQUENCE)?.reader().expect(SEQUENCE)?.reader();
    let _version = fields.optional(explicit(0));
    let _serial_number = fields.expect(INTEGER)?;
    let _algorithm = fields.expect(SEQUENCE)?;
    Some(Fields {
        issuer: fields.expect(SEQUENCE)?,
        validity: fields.expect(SEQUENCE)?,
        subject: fields.expect(SEQUENCE)?,
        key: fields.expect(SEQUENCE)?,
    })
}

/// Reads the beginning and the end of the validity.
pub(crate) fn validity(validity: Element<'_>) -> Option<(SystemTime, SystemTime)> {
    let mut dates = validity.reader();
    Some((read_time(dates.next()?)?, read_time(dates.next()?)?))
}

fn read_time(time: Element<'_>) -> Option<SystemTime> {
    let seconds = yasna::parse_der(time.whole, |reader| match reader.lookahead_tag()? {
        yasna::tags::TAG_UTCTIME => Ok(reader.read_utctime()?.datetime().unix_timestamp()),
        _ => Ok(reader.read_generalized_time()?.datetime().unix_timestamp()),
    });
    // Dates before 1970 count as 1970.
    Some(UNIX_EPOCH + Duration::from_secs(seconds.ok()?.try_into().unwrap_or(0)))
}
