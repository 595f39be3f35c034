//! The SHA-256 fingerprint, which identifies keys and certificates in pins and messages. A pure value.

use std::fmt;
use std::str::FromStr;

/// A SHA-256 fingerprint, of a public key or of a whole certificate.
///
/// This crate shows the fingerprint of the *public key* (its SPKI, subject public key info, in DER), because a renewed
/// certificate has the same key and so the same fingerprint. The fingerprint of the certificate itself, as printed by
/// `openssl x509 -fingerprint -sha256`, is accepted wherever a fingerprint is expected.
///
/// The text of a fingerprint is 64 hexadecimal digits. Upper case, and colons between the bytes, are accepted:
///
/// ```
/// # use network::tls::Fingerprint;
/// let text = "9F:86:D0:81:88:4C:7D:65:9A:2F:EA:A0:C5:5A:D0:15:A3:BF:4F:1B:2B:0B:82:2C:D1:5D:6C:15:B0:F0:0A:08";
/// let fingerprint: Fingerprint = text.parse()?;
/// assert_eq!(fingerprint.to_string(), "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08");
/// assert!("9f86".parse::<Fingerprint>().is_err());
/// # Ok::<(), network::tls::FingerprintError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Returns the fingerprint as 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Hashes `bytes`.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest.as_ref());
        Fingerprint(fingerprint)
    }
}

impl From<[u8; 32]> for Fingerprint {
    fn from(bytes: [u8; 32]) -> Self {
        Fingerprint(bytes)
    }
}

impl From<&Fingerprint> for Fingerprint {
    fn from(fingerprint: &Fingerprint) -> Self {
        *fingerprint
    }
}

impl From<Box<Fingerprint>> for Fingerprint {
    /// Converts the fingerprint of an error such as [`Error::UnknownCertificate`](crate::Error::UnknownCertificate).
    fn from(fingerprint: Box<Fingerprint>) -> Self {
        *fingerprint
    }
}

#[allow(clippy::borrowed_box)] // what a reference to an error has
impl From<&Box<Fingerprint>> for Fingerprint {
    fn from(fingerprint: &Box<Fingerprint>) -> Self {
        **fingerprint
    }
}

macro_rules! from_text {
    ($($text:ty),*) => {$(
        impl TryFrom<$text> for Fingerprint {
            type Error = FingerprintError;

            /// Parses the text, as [`str::parse`] does.
            fn try_from(text: $text) -> Result<Self, FingerprintError> {
                text.parse()
            }
        }
    )*};
}

from_text!(&str, &&str, String, &String);

impl fmt::Display for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// The error of a text that is not a valid SHA-256 fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("invalid fingerprint {0:?}: expected 64 hexadecimal digits, optionally separated by colons")]
pub struct FingerprintError(String);

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        // The error quotes the text, but not a megabyte of it.
        let bad = || FingerprintError(text.chars().take(100).collect());
        let mut bytes = [0; 32];
        let mut rest = text.trim();
        for (index, byte) in bytes.iter_mut().enumerate() {
            if index > 0 {
                rest = rest.strip_prefix(':').unwrap_or(rest);
            }
            let (pair, after) = rest.split_at_checked(2).ok_or_else(bad)?;
            // from_str_radix alone would accept "+f".
            if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
            rest = after;
        }
        if rest.is_empty() { Ok(Fingerprint(bytes)) } else { Err(bad()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_understood_in_every_usual_form() {
        let fingerprint = Fingerprint::of(b"test");
        let plain = fingerprint.to_string();
        let pairs: Vec<_> = (0..32).map(|index| plain[2 * index..2 * index + 2].to_uppercase()).collect();
        for text in [plain.clone(), plain.to_uppercase(), pairs.join(":"), format!(" {plain}\n")] {
            assert_eq!(text.parse(), Ok(fingerprint), "{text}");
        }
    }

    #[test]
    fn bad_text_is_an_error_value() {
        let good = Fingerprint::of(b"test").to_string();
        let mut signed = good.clone();
        signed.replace_range(0..2, "+f");
        let bad = ["", "x", ":", &good[1..], &good[2..], &format!("{good}00"), &format!(":{good}"), &signed];
        for text in bad.into_iter().chain(["ä".repeat(32).as_str(), &format!("{good}:")]) {
            let error = text.parse::<Fingerprint>().expect_err(text);
            assert!(error.to_string().contains("64 hexadecimal digits"), "{error}");
        }
    }
}
