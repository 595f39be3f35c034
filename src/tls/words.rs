//! Problems that rustls reports, in plain words. Its own texts contain Rust debug output and quote the peer unescaped.

use std::fmt::Debug;

use rustls::pki_types::UnixTime;
use rustls::{CertificateError, OtherError};

use crate::error::Printable;

/// Certificates can name thousands of hosts. A message names this many.
const NAMES_SHOWN: usize = 5;

/// Why a certificate does not verify.
pub(super) fn certificate_problem(problem: &CertificateError) -> String {
    use CertificateError as Problem;
    match problem {
        Problem::UnknownIssuer => "issued by an unknown certificate authority".to_owned(),
        Problem::Expired => "the certificate has expired".to_owned(),
        Problem::ExpiredContext { not_after, .. } => format!("the certificate expired on {}", date(not_after)),
        Problem::NotValidYet => "the certificate is not valid yet".to_owned(),
        Problem::NotValidYetContext { not_before, .. } => {
            format!("the certificate is not valid before {}", date(not_before))
        }
        Problem::NotValidForName => "the certificate is not valid for this host name".to_owned(),
        Problem::NotValidForNameContext { expected, presented } => {
            format!("the certificate is not valid for {}, {}", expected.to_str(), names(presented))
        }
        Problem::BadEncoding => "the certificate is malformed".to_owned(),
        Problem::BadSignature => "a signature on the certificate is invalid".to_owned(),
        Problem::UnhandledCriticalExtension => "the certificate has an unknown critical extension".to_owned(),
        Problem::InvalidPurpose | Problem::InvalidPurposeContext { .. } => {
            "the certificate is not meant for servers".to_owned()
        }
        Problem::UnsupportedSignatureAlgorithmContext { .. }
        | Problem::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "the certificate is signed with an unsupported algorithm".to_owned()
        }
        Problem::Other(OtherError(cause)) => match cause.to_string().as_str() {
            // A self-signed certificate of openssl passes for an authority. Nobody has issued it.
            "CaUsedAsEndEntity" => "issued by an unknown certificate authority".to_owned(),
            "UnsupportedCertVersion" => "certificates of X.509 version 1 cannot be verified".to_owned(),
            "UnsupportedCriticalExtension" => "the certificate has an unknown critical extension".to_owned(),
            other => format!("the certificate cannot be verified ({})", spelled_out(other)),
        },
        other => format!("the certificate cannot be verified ({})", plain(other)),
    }
}

/// The names that a certificate is valid for, from text like `DnsName("host")`.
fn names(presented: &[String]) -> String {
    if presented.is_empty() {
        return "and names no host at all".to_owned();
    }
    let name = |text: &String| {
        let inner = text.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(text);
        Printable(inner.trim_matches('"')).to_string()
    };
    let mut shown: Vec<String> = presented.iter().take(NAMES_SHOWN).map(name).collect();
    if presented.len() > NAMES_SHOWN {
        shown.push(format!("{} more", presented.len() - NAMES_SHOWN));
    }
    format!("only for {}", shown.join(", "))
}

fn date(time: &UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    glib::DateTime::from_unix_utc(seconds)
        .and_then(|date| date.format("%F"))
        .map_or_else(|_| "an unknown date".to_owned(), String::from)
}

/// A value without data, such as a TLS alert, in words: "handshake failure".
pub(super) fn plain(value: &impl Debug) -> String {
    spelled_out(&format!("{value:?}"))
}

/// `NoCipherSuitesInCommon` as "no cipher suites in common". Data after the name is left out.
fn spelled_out(name: &str) -> String {
    let name = name.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let mut words: Vec<String> = Vec::new();
    let mut after_lower = true;
    for c in name.chars() {
        match words.last_mut() {
            Some(word) if !(c.is_uppercase() && after_lower) => word.push(c),
            _ => words.push(c.into()),
        }
        after_lower = c.is_lowercase();
    }
    let lower = |word: String| if word[1..].contains(char::is_uppercase) { word } else { word.to_lowercase() };
    words.into_iter().map(lower).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, PeerIncompatible, PeerMisbehaved};

    use super::*;

    #[test]
    fn names_of_values_become_words() {
        assert_eq!(plain(&PeerIncompatible::NoCipherSuitesInCommon), "no cipher suites in common");
        assert_eq!(plain(&AlertDescription::UnknownCA), "unknown CA");
        assert_eq!(plain(&PeerMisbehaved::TooManyEmptyFragments), "too many empty fragments");
        assert_eq!(plain(&Some("with data")), "some");
        assert_eq!(spelled_out(""), "");
    }

    #[test]
    fn names_in_a_certificate_are_escaped_and_counted() {
        let one = ["DnsName(\"x\u{1b}[31m\")".to_owned()];
        assert_eq!(names(&one), "only for x\\u{1b}[31m");
        let many: Vec<String> = (0..9).map(|n| format!("DnsName(\"{n}.example\")")).collect();
        assert!(names(&many).ends_with("4.example, 4 more"), "{}", names(&many));
    }
}
