//! Distinguished names: the subject and the issuer of a certificate, as text. Peers choose their contents.

use std::fmt;

use crate::certificate::PeerCertificate;
use crate::certificate::der::{Element, OBJECT_IDENTIFIER, Reader, SEQUENCE};
use crate::error::Printable;

/// The longest text, in characters. A certificate may have 64 KB.
const TEXT_MAX: usize = 500;

/// The longest object identifier that is written out, in bytes. Those in use have up to ten.
const IDENTIFIER_MAX: usize = 32;

const COMMON_NAME: &[u8] = &[0x55, 4, 3];

/// The short names of attributes: those of RFC 4514, section 3, and others that are often found in certificates.
const ATTRIBUTES: [(&[u8], &str); 14] = [
    (COMMON_NAME, "CN"),
    (&[0x55, 4, 4], "SN"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "STREET"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 12], "title"),
    (&[0x55, 4, 42], "GN"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], "emailAddress"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], "UID"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
];

impl PeerCertificate {
    /// Returns the subject for display, as in `CN=desk, O=glib-network`.
    ///
    /// The attributes are in the order of the certificate. Characters that separate attributes are escaped as RFC 4514
    /// demands, and those that would break or reorder a line as in `\n` or `\u{202e}`. The text has up to 500 characters, and
    /// ends in `…` if something was left out.
    pub fn subject(&self) -> String {
        text(self.fields().subject)
    }

    /// Returns the issuer for display, in the form of [`subject`](Self::subject). That of a self-signed certificate is its
    /// subject.
    pub fn issuer(&self) -> String {
        text(self.fields().issuer)
    }

    /// Returns the common name of the subject (CN) as the peer has written it: it may contain any characters, and line breaks.
    /// Of several, the last. `None` if there is none.
    ///
    /// Some protocols keep the name of a device here. To verify a host name, use
    /// [`ClientTls::roots`](crate::ClientTls::roots) or [`ClientTls::system`](crate::ClientTls::system).
    pub fn common_name(&self) -> Option<String> {
        common_name(self.fields().subject)
    }
}

impl fmt::Debug for PeerCertificate {
    /// Shows the subject and the fingerprint.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("PeerCertificate")
            .field("subject", &format_args!("{}", self.subject()))
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

/// Returns a name as one line for display. Parts that are malformed are left out.
fn text(name: Element<'_>) -> String {
    let mut text = String::new();
    let mut length = 0;
    let mut sets = name.reader();
    while let Some(set) = sets.next() {
        let mut separator = ", ";
        for (kind, value) in attributes(set) {
            let before = if text.is_empty() { "" } else { separator };
            let value = escaped(&decoded(value, TEXT_MAX));
            let part = format!("{before}{}={}", attribute_name(kind), Printable(&value));
            length += part.chars().count();
            text.push_str(&part);
            if length > TEXT_MAX {
                let (end, _) = text.char_indices().nth(TEXT_MAX - 1).unwrap_or_default();
                text.truncate(end);
                text.push('…');
                return text;
            }
            separator = " + ";
        }
    }
    text
}

/// Returns the common name as it is. The most specific one is the last.
fn common_name(name: Element<'_>) -> Option<String> {
    let mut sets = name.reader();
    let mut found = None;
    while let Some(set) = sets.next() {
        let named = attributes(set).find(|(kind, _)| *kind == COMMON_NAME);
        found = named.map(|(_, value)| decoded(value, usize::MAX)).or(found);
    }
    found
}

/// The attributes of one set: mostly a single one.
fn attributes(set: Element<'_>) -> impl Iterator<Item = (&[u8], Element<'_>)> {
    let mut set = Reader(set.contents);
    std::iter::from_fn(move || {
        let mut parts = set.expect(SEQUENCE)?.reader();
        Some((parts.expect(OBJECT_IDENTIFIER)?.contents, parts.next()?))
    })
}

fn attribute_name(kind: &[u8]) -> String {
    let known = ATTRIBUTES.iter().find(|(known, _)| *known == kind);
    known.map_or_else(|| dotted(kind).unwrap_or_else(|| "?".to_owned()), |(_, name)| (*name).to_owned())
}

/// Writes an object identifier as numbers with dots.
fn dotted(kind: &[u8]) -> Option<String> {
    if kind.len() > IDENTIFIER_MAX {
        return None;
    }
    let mut numbers = Vec::new();
    let mut number: u64 = 0;
    for byte in kind {
        number = number.checked_mul(128)?.checked_add(u64::from(byte & 0x7f))?;
        if byte & 0x80 == 0 {
            numbers.push(number);
            number = 0;
        }
    }
    // The first number holds two.
    let first = *numbers.first()?;
    let root = (first / 40).min(2);
    let rest = numbers[1..].iter().map(|number| format!(".{number}")).collect::<String>();
    Some(format!("{root}.{}{rest}", first - 40 * root))
}

/// Decodes a text of any of the types that certificates use, at least so many characters of it. What is no text is shown in
/// hexadecimal.
fn decoded(value: Element<'_>, most: usize) -> String {
    // A character has at most four bytes. One more tells that something is missing.
    let enough = most.saturating_add(1).saturating_mul(4).min(value.contents.len());
    let bytes = &value.contents[..enough];
    match value.tag {
        // UTF8String, NumericString, PrintableString, IA5String, VisibleString
        0x0c | 0x12 | 0x13 | 0x16 | 0x1a => String::from_utf8_lossy(bytes).into_owned(),
        // TeletexString: in practice Latin-1
        0x14 => bytes.iter().copied().map(char::from).collect(),
        // BMPString
        0x1e => {
            let (units, _) = bytes.as_chunks::<2>();
            char::decode_utf16(units.iter().map(|unit| u16::from_be_bytes(*unit)))
                .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect()
        }
        // UniversalString
        0x1c => {
            let (units, _) = bytes.as_chunks::<4>();
            let character = |unit: &[u8; 4]| char::from_u32(u32::from_be_bytes(*unit));
            units.iter().map(|unit| character(unit).unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
        }
        _ => bytes.iter().fold("#".to_owned(), |text, byte| text + &format!("{byte:02x}")),
    }
}

/// Escapes the characters that separate attributes, and blanks at the ends (RFC 4514, section 2.4).
fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut text = String::with_capacity(value.len());
    for (index, c) in value.chars().enumerate() {
        let separates = matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=');
        let at_an_end = c == ' ' && (index == 0 || index == last);
        if separates || at_an_end {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

/// Reads any bytes as a certificate. The properties that must hold are asserted, for fuzzing and for tests.
#[cfg(any(test, fuzzing))]
pub(crate) fn check(data: &[u8]) {
    let Some(certificate) = PeerCertificate::new(data) else { return };
    for text in [certificate.subject(), certificate.issuer()] {
        assert!(text.chars().count() <= TEXT_MAX, "{text:?}");
        assert_eq!(text, Printable(&text).to_string());
    }
    let _ = (certificate.common_name(), certificate.not_before(), certificate.not_after());
    assert!(data.windows(certificate.public_key().len()).any(|part| part == certificate.public_key()));
    assert_eq!(certificate.der(), data);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An element, by its tag and contents.
    fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
        let length = contents.len();
        let header = match length {
            0..=0x7f => vec![tag, length as u8],
            0x80..=0xff => vec![tag, 0x81, length as u8],
            _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
        };
        [header, contents.to_vec()].concat()
    }

    fn attribute(kind: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
        element(SEQUENCE, &[element(OBJECT_IDENTIFIER, kind), element(tag, value)].concat())
    }

    /// A name of these sets of attributes.
    fn name(sets: &[Vec<u8>]) -> Vec<u8> {
        element(SEQUENCE, &sets.iter().map(|set| element(0x31, set)).collect::<Vec<_>>().concat())
    }

    fn shown(der: &[u8]) -> String {
        text(Reader(der).next().unwrap())
    }

    #[test]
    fn attributes_are_shown_in_order() {
        let two = [attribute(&[0x55, 4, 11], 0x13, b"Rooms"), attribute(COMMON_NAME, 0x0c, "Büro".as_bytes())].concat();
        let der = name(&[attribute(&[0x55, 4, 6], 0x13, b"CH"), two]);
        assert_eq!(shown(&der), "C=CH, OU=Rooms + CN=Büro");
        assert_eq!(common_name(Reader(&der).next().unwrap()).as_deref(), Some("Büro"));
        assert_eq!(shown(&name(&[])), "");
        assert_eq!(common_name(Reader(&name(&[])).next().unwrap()), None);
        let two = name(&[attribute(COMMON_NAME, 0x0c, b"first"), attribute(COMMON_NAME, 0x0c, b"last")]);
        assert_eq!(common_name(Reader(&two).next().unwrap()).as_deref(), Some("last"));
    }

    #[test]
    fn every_kind_of_text_is_read() {
        let shown = |tag, value: &[u8]| shown(&name(&[attribute(COMMON_NAME, tag, value)]));
        assert_eq!(shown(0x14, b"B\xfcro"), "CN=Büro");
        assert_eq!(shown(0x1e, b"\0B\0\xfc"), "CN=Bü");
        assert_eq!(shown(0x1c, b"\0\0\0B\0\x01\xf6\0"), "CN=B😀");
        assert_eq!(shown(0x0c, b"x\xff"), "CN=x\u{fffd}");
        assert_eq!(shown(0x04, b"\x01\xab"), "CN=#01ab");
    }

    #[test]
    fn no_value_can_pretend_to_be_an_attribute_or_a_line() {
        let one = name(&[attribute(COMMON_NAME, 0x0c, "a, O=Bank\\ \n\u{202e}x ".as_bytes())]);
        assert_eq!(shown(&one), "CN=a\\, O\\=Bank\\\\ \\n\\u{202e}x\\ ");
        assert_eq!(common_name(Reader(&one).next().unwrap()).unwrap(), "a, O=Bank\\ \n\u{202e}x ");
    }

    #[test]
    fn identifiers_without_a_name_are_numbers() {
        let kind = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 2];
        assert_eq!(shown(&name(&[attribute(&kind, 0x0c, b"x")])), "1.2.840.113549.1.9.2=x");
        assert_eq!(dotted(&[0x88, 0x37]).as_deref(), Some("2.999"));
        for hostile in [&[0xff; 40][..], &[0xff; 30], &[]] {
            assert_eq!(shown(&name(&[attribute(hostile, 0x0c, b"x")])), "?=x");
        }
    }

    #[test]
    fn a_long_name_is_cut() {
        let long = name(&[attribute(COMMON_NAME, 0x0c, &[b'x'; 10_000])]);
        assert_eq!(shown(&long).chars().count(), TEXT_MAX);
        assert!(shown(&long).ends_with('…'));
        let many = name(&vec![attribute(COMMON_NAME, 0x0c, b"name"); 1000]);
        assert_eq!(shown(&many).chars().count(), TEXT_MAX);
        assert_eq!(common_name(Reader(&long).next().unwrap()).unwrap().len(), 10_000);
    }
}
