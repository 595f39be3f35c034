//! Certificates and private keys in PEM text. Every `-----BEGIN` is read, or is an error that names it: a skipped root or
//! intermediate certificate would be noticed much later, and elsewhere.

use std::io;
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};

use super::files::{PEM_MAX, read_regular, trouble};
use crate::error::{Printable, Result};

const BEGIN: &[u8] = b"-----BEGIN";

/// Reads the certificates in this file, in their order. There is at least one.
pub(super) fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = read_regular(file, PEM_MAX).map_err(|error| trouble(file, error))?;
    certificates(&text).map_err(|problem| trouble(file, problem))
}

/// Reads the private key in this file. There is exactly one.
pub(super) fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>> {
    let text = read_regular(file, PEM_MAX).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            trouble(file, io::Error::new(error.kind(), "the private key of the certificate is missing"))
        }
        _ => trouble(file, error),
    })?;
    private_key(&text).map_err(|problem| trouble(file, problem))
}

/// Returns the certificates in this text, in order, at least one. The error says what is wrong, and in which line.
pub(super) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut found = Vec::new();
    for block in blocks(text) {
        let block = block?;
        match block.label {
            // Old programs write the second one.
            "CERTIFICATE" | "X509 CERTIFICATE" => found.push(block.decode()?.into()),
            label if label.ends_with("PRIVATE KEY") || is_harmless(label) => {}
            "TRUSTED CERTIFICATE" => return Err(block.refused("convert it with openssl x509 -in FILE -out NEW")),
            "PKCS7" => return Err(block.refused("extract its certificates with openssl pkcs7 -print_certs")),
            _ => return Err(block.refused("expected a CERTIFICATE")),
        }
    }
    if found.is_empty() { Err(absent("certificate", text)) } else { Ok(found) }
}

/// Returns the only private key in this text. The error says what is wrong, and in which line.
pub(super) fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let mut found = None;
    for block in blocks(text) {
        let block = block?;
        let key: PrivateKeyDer<'static> = match block.label {
            label if label.ends_with("PRIVATE KEY") && (label.starts_with("ENCRYPTED") || block.is_encrypted()) => {
                return Err(block.problem("is encrypted; decrypt it with openssl pkey -in FILE -out NEW"));
            }
            "PRIVATE KEY" => PrivatePkcs8KeyDer::from(block.decode()?).into(),
            "RSA PRIVATE KEY" => PrivatePkcs1KeyDer::from(block.decode()?).into(),
            "EC PRIVATE KEY" => PrivateSec1KeyDer::from(block.decode()?).into(),
            "OPENSSH PRIVATE KEY" => {
                return Err(block.refused("convert it with ssh-keygen -p -m PKCS8 -f FILE"));
            }
            label if label.contains("CERTIFICATE") || is_harmless(label) => continue,
            _ => return Err(block.refused("expected a PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY")),
        };
        if found.replace(key).is_some() {
            return Err(block.problem("is a second private key; expected one"));
        }
    }
    found.ok_or_else(|| absent("private key", text))
}

/// Returns whether a block can be skipped: openssl writes these beside keys and certificates.
fn is_harmless(label: &str) -> bool {
    matches!(label, "EC PARAMETERS" | "DH PARAMETERS" | "X9.42 DH PARAMETERS" | "DSA PARAMETERS" | "PUBLIC KEY")
}

/// One `-----BEGIN LABEL-----` up to its end.
struct Block<'a> {
    label: &'a str,
    body: &'a [u8],
    /// The number of its first line, from 1.
    line: usize,
}

impl Block<'_> {
    fn problem(&self, problem: &str) -> String {
        format!("line {}: the {} {problem}", self.line, self.label)
    }

    fn refused(&self, advice: &str) -> String {
        format!("line {}: unsupported {}; {advice}", self.line, Printable(self.label))
    }

    /// Returns the lines before the base64 text: headers as in RFC 1421, their continuations, and empty lines.
    fn headers(&self) -> impl Iterator<Item = &[u8]> {
        let mut any = false;
        self.body.split(|byte| matches!(byte, b'\n' | b'\r')).take_while(move |line| {
            let header = line.contains(&b':');
            any |= header;
            header || line.trim_ascii().is_empty() || (any && line[0].is_ascii_whitespace())
        })
    }

    /// Returns whether a header says that this block has the legacy encryption of openssl.
    fn is_encrypted(&self) -> bool {
        self.headers().any(|line| line.starts_with(b"Proc-Type") && line.ends_with(b"ENCRYPTED"))
    }

    fn decode(&self) -> Result<Vec<u8>, String> {
        let headers: usize = self.headers().map(|line| line.len() + 1).sum();
        let mut clean = b"-----BEGIN CERTIFICATE-----\n".to_vec();
        clean.extend(self.body.iter().skip(headers).filter(|byte| !byte.is_ascii_whitespace()));
        clean.extend_from_slice(b"\n-----END CERTIFICATE-----\n");
        // Whatever the label, this decoder runs in constant time, as private keys require.
        match CertificateDer::from_pem_slice(&clean) {
            Ok(der) if !der.is_empty() => Ok(der.to_vec()),
            Ok(_) => Err(self.problem("is empty")),
            Err(_) => Err(self.problem("has damaged base64 text")),
        }
    }
}

/// Splits the text into blocks. An error is the last item.
fn blocks(text: &[u8]) -> impl Iterator<Item = Result<Block<'_>, String>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + find(&text[at..], BEGIN)?;
        let block = block_at(text, start);
        at = block.as_ref().map_or(text.len(), |(_, end)| *end);
        Some(block.map(|(block, _)| block))
    })
}

/// Returns the block that begins here, and its end. It need not begin a line: files joined without a newline are common, and
/// so is a byte order mark.
fn block_at(text: &[u8], start: usize) -> Result<(Block<'_>, usize), String> {
    let line = text[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
    let after = start + BEGIN.len();
    let label = find(&text[after..], b"-----")
        .and_then(|length| std::str::from_utf8(&text[after..after + length]).ok()?.strip_prefix(' '))
        .filter(|label| !label.is_empty() && label.bytes().all(|byte| matches!(byte, b' '..=b'~')))
        .ok_or_else(|| format!("line {line}: malformed -----BEGIN line"))?;
    let body = after + 1 + label.len() + 5;
    let end = body + find(&text[body..], b"-----").unwrap_or(text.len() - body);
    let mark = format!("-----END {label}-----");
    if !text[end..].starts_with(mark.as_bytes()) {
        return Err(format!("line {line}: the {label} has no matching {mark}"));
    }
    Ok((Block { label, body: &text[body..end], line }, end + mark.len()))
}

fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(text, needle)
}

/// The error if there is no such block, with a hint at the actual format.
fn absent(what: &str, text: &[u8]) -> String {
    let hint = match text {
        [] => "the file is empty".to_owned(),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "it is UTF-16 text; save it as UTF-8".to_owned(),
        [0x30, 0x80..=0x84, ..] => "it is binary (DER); convert it with openssl".to_owned(),
        _ => "expected PEM text".to_owned(),
    };
    format!("contains no {what}: {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----";
    const TWO: &str = "-----BEGIN CERTIFICATE-----\nMAMC\nAQI=\n-----END CERTIFICATE-----";
    const KEY: &str = "-----BEGIN EC PRIVATE KEY-----\nMAMCAQM=\n-----END EC PRIVATE KEY-----";

    #[test]
    fn every_certificate_is_found_however_it_lies_there() {
        let [one, two] =
            [b"\x30\x03\x02\x01\x01", b"\x30\x03\x02\x01\x02"].map(|der| CertificateDer::from(der.to_vec()));
        let both = [one, two];
        for text in [
            format!("{ONE}\n{TWO}\n"),
            format!("\u{feff}{ONE}\n{TWO}"),
            format!("{ONE}{TWO}"),
            format!("{ONE}\u{feff}{TWO}"),
            format!("{ONE}\n{TWO}\n").replace('\n', "\r\n"),
            format!("{ONE}\n{TWO}\n").replace('\n', "\r"),
            format!("subject=x\n{ONE}\n{KEY}\n\nBag Attributes: none\n{TWO}"),
            format!("{ONE}\n{TWO}").replace("CERTIFICATE", "X509 CERTIFICATE"),
            format!("{ONE}\n-----BEGIN EC PARAMETERS-----\nBggq\n-----END EC PARAMETERS-----\n{TWO}"),
            format!("{ONE}\n{TWO}").replace("MAMC\n", "MA MC \n\n"),
        ] {
            assert_eq!(certificates(text.as_bytes()).unwrap(), both, "{text:?}");
        }
    }

    #[test]
    fn what_is_not_read_is_named() {
        let other = |label: &str| ONE.replace("CERTIFICATE", label);
        for (text, words) in [
            (format!("{ONE}\n{}", &TWO[..40]), "line 4: the CERTIFICATE has no matching -----END CERTIFICATE-----"),
            (
                format!("{ONE}\n{}", TWO.replace("END CERT", "END OTHER CERT")),
                "line 4: the CERTIFICATE has no matching",
            ),
            (format!("{ONE}\n-----BEGIN CERTIFICATE----\n"), "line 4: malformed"),
            (format!("{ONE}\n-----BEGIN"), "line 4: malformed"),
            (format!("{ONE}\n{}", TWO.replace("MAMC", "M!MC")), "line 4: the CERTIFICATE has damaged base64"),
            (format!("{ONE}\n{}", TWO.replace("MAMC\nAQI=", "")), "line 4: the CERTIFICATE is empty"),
            (other("TRUSTED CERTIFICATE"), "line 1: unsupported TRUSTED CERTIFICATE; convert"),
            (other("PKCS7"), "line 1: unsupported PKCS7; extract"),
            (format!("{ONE}\n{}", other("X509 CRL")), "line 4: unsupported X509 CRL"),
            (other("CERTIFICATE REQUEST"), "line 1: unsupported CERTIFICATE REQUEST"),
            (KEY.to_owned(), "no certificate"),
            (String::new(), "empty"),
        ] {
            let problem = certificates(text.as_bytes()).unwrap_err();
            assert!(problem.contains(words), "{words}: {problem}");
        }
        assert!(certificates(b"\xff\xfe-\0-\0").unwrap_err().contains("UTF-16"));
        assert!(certificates(b"\x30\x82\x01\x01").unwrap_err().contains("DER"));
    }

    #[test]
    fn a_key_is_read_or_named() {
        for text in [
            KEY.to_owned(),
            format!("\u{feff}{KEY}"),
            format!("{ONE}{KEY}{TWO}"),
            KEY.replace("MAM", "Comment: none\n continued\n\nMAM"),
        ] {
            let key = private_key(text.as_bytes()).unwrap();
            assert_eq!(key.secret_der(), b"\x30\x03\x02\x01\x03", "{text:?}");
        }
        let headers = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMAM";
        for (text, words) in [
            (KEY.replace("MAM", headers), "line 1: the EC PRIVATE KEY is encrypted; decrypt it with openssl"),
            (KEY.replace("MAM", headers).replace('\n', "\r\n"), "is encrypted"),
            (KEY.replace("EC", "ENCRYPTED"), "line 1: the ENCRYPTED PRIVATE KEY is encrypted"),
            (KEY.replace("EC", "OPENSSH"), "ssh-keygen"),
            (KEY.replace("EC", "DSA"), "line 1: unsupported DSA PRIVATE KEY"),
            (format!("{KEY}\n{KEY}"), "line 4: the EC PRIVATE KEY is a second private key"),
            (KEY.replace("MAM", "M-M"), "line 1: the EC PRIVATE KEY has damaged base64"),
            (ONE.to_owned(), "no private key"),
            (format!("{ONE}{}", &KEY[..25]), "malformed"),
        ] {
            let problem = private_key(text.as_bytes()).unwrap_err();
            assert!(problem.contains(words), "{words}: {problem}");
            assert!(!problem.contains("MAM"), "a key must not be quoted: {problem}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_begin_is_a_block_or_an_error(pieces in proptest::collection::vec(0usize..9, 0..12)) {
            let fragments = [ONE, TWO, KEY, "\n", "-----", "-----BEGIN", "-----END CERTIFICATE-----", " CERTIFICATE-----", "x: y"];
            let text: String = pieces.iter().map(|piece| fragments[*piece]).collect();
            let begins = memchr::memmem::find_iter(text.as_bytes(), BEGIN).count();
            let read: Result<Vec<_>, _> = blocks(text.as_bytes()).collect();
            if let Ok(read) = read {
                proptest::prop_assert_eq!(read.len(), begins);
            }
            let _ = (certificates(text.as_bytes()), private_key(text.as_bytes()));
        }
    }
}
