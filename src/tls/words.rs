//! Messages for the errors of rustls. Its own contain Rust debug output, and quote the peer without escaping.

use std::fmt::Debug;

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, InvalidMessage, OtherError, PeerMisbehaved};

use crate::certificate::Fingerprint;
use crate::error::Printable;

/// The most host names of a certificate in a message. A certificate can have thousands.
const NAMES_SHOWN: usize = 5;

/// Returns the message for the failure of a session.
pub(super) fn handshake_problem(error: &rustls::Error) -> String {
    use rustls::Error as Problem;
    match error {
        Problem::NoCertificatesPresented => "the peer presented no certificate, but one is required".to_owned(),
        Problem::NoApplicationProtocol => "no application protocol (ALPN) in common".to_owned(),
        Problem::DecryptError => "a record is damaged or forged".to_owned(),
        Problem::InvalidCertificate(CertificateError::BadSignature)
        | Problem::PeerMisbehaved(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme) => {
            "the peer failed to prove possession of the private key of its certificate".to_owned()
        }
        Problem::InvalidCertificate(problem) => certificate_problem(problem),
        Problem::InvalidMessage(InvalidMessage::CertificatePayloadTooLarge) => {
            "the peer's certificate chain is larger than 64 KiB".to_owned()
        }
        Problem::InvalidMessage(problem) => format!("received an invalid TLS message ({})", plain(problem)),
        Problem::InappropriateMessage { got_type, .. } => {
            format!("received an unexpected TLS message ({})", plain(got_type))
        }
        Problem::InappropriateHandshakeMessage { got_type, .. } => {
            format!("received an unexpected TLS message ({})", plain(got_type))
        }
        Problem::PeerIncompatible(problem) => {
            format!("no TLS version or parameters in common ({})", plain(problem))
        }
        Problem::PeerMisbehaved(problem) => format!("the peer broke the rules of TLS ({})", plain(problem)),
        other => plain(other),
    }
}

/// Returns the message for an alert of the peer. `own` is the fingerprint of our certificate.
pub(super) fn alert_problem(alert: AlertDescription, own: Option<Fingerprint>) -> String {
    use AlertDescription as Alert;
    match (alert, own) {
        (Alert::CertificateRequired, _) => {
            "the server requires a client certificate; set one with ClientTls::identity".to_owned()
        }
        (
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied,
            own,
        ) => match own {
            Some(own) => {
                format!("the peer does not accept our certificate, fingerprint {own} (alert: {})", plain(&alert))
            }
            None => format!("the server may require a client certificate (alert: {})", plain(&alert)),
        },
        (Alert::NoApplicationProtocol, _) => {
            "the server supports none of the offered application protocols (ALPN)".to_owned()
        }
        (Alert::ProtocolVersion, _) => "the peer supports neither TLS 1.2 nor TLS 1.3".to_owned(),
        (Alert::HandshakeFailure, _) => {
            "no parameters in common, or a client certificate is required (alert: handshake failure)".to_owned()
        }
        (Alert::UnrecognisedName, _) => "the server does not serve this host name".to_owned(),
        (Alert::Unknown(number), _) => format!("the peer ended the connection (alert {number})"),
        (other, _) => format!("the peer ended the connection (alert: {})", plain(&other)),
    }
}

/// Returns the message for a certificate that cannot be verified.
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
            format!("the certificate is not valid for the name {}, {}", expected.to_str(), names(presented))
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
            // A self-signed certificate of openssl is marked as an authority.
            "CaUsedAsEndEntity" => "issued by an unknown certificate authority".to_owned(),
            "UnsupportedCertVersion" => "certificates of X.509 version 1 cannot be verified".to_owned(),
            "UnsupportedCriticalExtension" => "the certificate has an unknown critical extension".to_owned(),
            other => format!("the certificate cannot be verified ({})", spelled_out(other)),
        },
        other => format!("the certificate cannot be verified ({})", plain(other)),
    }
}

/// Lists the names that a certificate is valid for, given as text like `DnsName("host")`.
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

/// Spells out the name of a value, such as a TLS alert: "handshake failure".
pub(super) fn plain(value: &impl Debug) -> String {
    spelled_out(&format!("{value:?}"))
}

/// Spells out `NoCipherSuitesInCommon` as "no cipher suites in common". Omits data after the name.
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
    fn no_rust_debug_text_reaches_people() {
        let incompatible = rustls::Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon);
        assert_eq!(handshake_problem(&incompatible), "no TLS version or parameters in common (no kx groups in common)");
        let missing = rustls::Error::InvalidMessage(InvalidMessage::MissingData("ServerName"));
        assert_eq!(handshake_problem(&missing), "received an invalid TLS message (missing data)");
        let algorithm = CertificateError::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id: vec![6, 9, 42],
            supported_algorithms: Vec::new(),
        };
        assert_eq!(certificate_problem(&algorithm), "the certificate is signed with an unsupported algorithm");
        let time = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let expired = CertificateError::ExpiredContext { time: time(2_000_000_000), not_after: time(1_000_000_000) };
        assert_eq!(certificate_problem(&expired), "the certificate expired on 2001-09-09");
        let early = CertificateError::NotValidYetContext { time: time(0), not_before: time(1_000_000_000) };
        assert_eq!(certificate_problem(&early), "the certificate is not valid before 2001-09-09");
        assert_eq!(
            alert_problem(AlertDescription::InternalError, None),
            "the peer ended the connection (alert: internal error)"
        );
        assert_eq!(alert_problem(AlertDescription::Unknown(200), None), "the peer ended the connection (alert 200)");
    }

    #[test]
    fn names_in_a_certificate_are_escaped_and_counted() {
        let one = ["DnsName(\"x\u{1b}[31m\")".to_owned()];
        assert_eq!(names(&one), "only for x\\u{1b}[31m");
        let many: Vec<String> = (0..9).map(|n| format!("DnsName(\"{n}.example\")")).collect();
        assert!(names(&many).ends_with("4.example, 4 more"), "{}", names(&many));
    }
}
