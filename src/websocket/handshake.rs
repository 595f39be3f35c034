//! The opening handshake (RFC 6455, section 4): what both sides ask and check. Pure.

use glib::ChecksumType;
use http::header::{
    CONNECTION, HeaderMap, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, StatusCode, Version};
use ring::rand::{SecureRandom, SystemRandom};

use crate::error::{Error, Result};

/// The only version (section 4.4).
pub(super) const VERSION: &str = "13";

/// Appended to the key (section 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The length of a key, in bytes and as text.
const KEY: usize = 16;
const KEY_TEXT: usize = 24;

/// Returns a key that nobody can foresee.
pub(super) fn new_key() -> Result<String> {
    let mut key = [0; KEY];
    let filled = SystemRandom::new().fill(&mut key);
    filled.map_err(|_| Error::Unsupported("the system gives no random numbers for a handshake".into()))?;
    Ok(glib::base64_encode(&key).into())
}

/// Returns the answer to a key.
pub(super) fn accept(key: &str) -> String {
    let mut checksum = glib::Checksum::new(ChecksumType::Sha1).expect("GLib has SHA-1");
    checksum.update(key.as_bytes());
    checksum.update(GUID.as_bytes());
    glib::base64_encode(&checksum.digest()).into()
}

/// Returns the tokens of a list field.
fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

fn has_token(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted))
}

/// Returns the value of a field that must not come twice.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, String> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(format!("it has two fields {name}"));
    }
    value.to_str().map(|value| Some(value.trim())).map_err(|_| format!("its field {name} is invalid"))
}

/// Fails if one of these is not the name of a sub-protocol.
pub(super) fn check_protocols(names: &[String]) -> Result {
    match names.iter().find(|name| !is_protocol(name)) {
        Some(name) => {
            Err(Error::InvalidOption(format!("{name:?} is not the name of a sub-protocol: expected a token")))
        }
        None => Ok(()),
    }
}

/// Returns whether this can be the name of a sub-protocol: a token.
fn is_protocol(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_letter)
}

// ---- the server ----

/// A request that is accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    /// The value of `Sec-WebSocket-Accept`.
    pub(super) accept: String,
    /// The first of the client's protocols that the server has.
    pub(super) protocol: Option<String>,
}

/// A request that is not.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) problem: &'static str,
}

/// Checks a request, and chooses a protocol.
pub(super) fn check_request(
    (method, version, headers): (&Method, Version, &HeaderMap),
    protocols: &[String],
) -> Result<Accepted, Refused> {
    let refuse = |status, problem| Err(Refused { status, problem });
    if !has_token(headers, UPGRADE, "websocket") {
        return refuse(StatusCode::UPGRADE_REQUIRED, "this is the place of a WebSocket");
    }
    if *method != Method::GET || version < Version::HTTP_11 {
        return refuse(StatusCode::BAD_REQUEST, "a WebSocket needs GET and HTTP/1.1");
    }
    if !has_token(headers, CONNECTION, "upgrade") {
        return refuse(StatusCode::BAD_REQUEST, "the field Connection does not name the upgrade");
    }
    if single(headers, &SEC_WEBSOCKET_VERSION) != Ok(Some(VERSION)) {
        return refuse(StatusCode::BAD_REQUEST, "expected version 13 of WebSocket");
    }
    let key = match single(headers, &SEC_WEBSOCKET_KEY) {
        Ok(Some(key)) if key.len() == KEY_TEXT && is_key(key) => key,
        _ => return refuse(StatusCode::BAD_REQUEST, "expected one Sec-WebSocket-Key of 16 bytes"),
    };
    let protocol = tokens(headers, SEC_WEBSOCKET_PROTOCOL).find(|name| protocols.iter().any(|own| own == name));
    Ok(Accepted { accept: accept(key), protocol: protocol.map(str::to_owned) })
}

/// Returns whether a text is base64 of so many bytes as a key has.
fn is_key(key: &str) -> bool {
    let (text, padding) = key.split_at(KEY_TEXT - 2);
    padding == "==" && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/')
}

// ---- the client ----

/// Checks a response 101. Returns the protocol that the server has chosen.
pub(super) fn check_response(headers: &HeaderMap, key: &str, asked: &[String]) -> Result<Option<String>, String> {
    if !has_token(headers, UPGRADE, "websocket") || !has_token(headers, CONNECTION, "upgrade") {
        return Err("it does not switch to WebSocket".into());
    }
    if single(headers, &SEC_WEBSOCKET_ACCEPT)? != Some(&accept(key)) {
        return Err("its Sec-WebSocket-Accept is not the answer to the key".into());
    }
    if let Some(extension) = tokens(headers, SEC_WEBSOCKET_EXTENSIONS).next() {
        return Err(format!("it uses the extension {extension:?}, which was not asked for"));
    }
    match single(headers, &SEC_WEBSOCKET_PROTOCOL)? {
        None => Ok(None),
        Some(protocol) if asked.iter().any(|asked| asked == protocol) => Ok(Some(protocol.to_owned())),
        Some(protocol) => Err(format!("it uses the protocol {protocol:?}, which was not asked for")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn keys_and_their_answers() {
        // The example of RFC 6455, section 1.3.
        assert_eq!(accept(SAMPLE), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let (one, two) = (new_key().unwrap(), new_key().unwrap());
        assert!(one != two && is_key(&one) && one.len() == KEY_TEXT);
    }

    #[test]
    fn requests() {
        let good = [
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", SAMPLE),
            ("sec-websocket-extensions", "permessage-deflate"),
            ("sec-websocket-protocol", "a, b"),
            ("sec-websocket-protocol", "c"),
        ];
        let check = |fields: &[(&str, &str)], own: &[&str]| {
            let own: Vec<String> = own.iter().map(|name| name.to_string()).collect();
            check_request((&Method::GET, Version::HTTP_11, &headers(fields)), &own)
        };
        for (own, chosen) in [(&[][..], None), (&["x"][..], None), (&["c", "b"][..], Some("b")), (&["B"][..], None)] {
            let accepted = check(&good, own).unwrap();
            assert_eq!(
                (accepted.accept.as_str(), accepted.protocol.as_deref()),
                ("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", chosen)
            );
        }
        let with = |name: &str, value: Option<&'static str>| {
            let kept = good.iter().filter(|(known, _)| *known != name).copied();
            let fields: Vec<(&str, &str)> = kept.chain(value.map(|value| (name, value))).collect();
            check(&fields, &[]).map_err(|refused| refused.status.as_u16())
        };
        for (name, value, status) in [
            ("upgrade", None, 426),
            ("upgrade", Some("h2c"), 426),
            ("connection", None, 400),
            ("connection", Some("close"), 400),
            ("sec-websocket-version", None, 400),
            ("sec-websocket-version", Some("8"), 400),
            ("sec-websocket-key", None, 400),
            ("sec-websocket-key", Some("short"), 400),
            ("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25jZSEh"), 400),
            ("sec-websocket-key", Some("!!!!IHNhbXBsZSBub25jZQ=="), 400),
        ] {
            assert_eq!(with(name, value), Err(status), "{name}: {value:?}");
        }
        let twice: Vec<_> = good.iter().copied().chain([("sec-websocket-key", SAMPLE)]).collect();
        assert!(check(&twice, &[]).is_err());
        let good = headers(&good);
        for (method, version) in [(Method::POST, Version::HTTP_11), (Method::GET, Version::HTTP_10)] {
            assert_eq!(check_request((&method, version, &good), &[]).unwrap_err().status.as_u16(), 400);
        }
    }

    #[test]
    fn responses() {
        let good = [
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ];
        let asked = ["a".to_string(), "b".to_string()];
        let check = |more: &[(&str, &str)], without: &str| {
            let fields: Vec<_> = good.iter().filter(|(name, _)| *name != without).chain(more).copied().collect();
            check_response(&headers(&fields), SAMPLE, &asked)
        };
        assert_eq!(check(&[], ""), Ok(None));
        assert_eq!(check(&[("sec-websocket-protocol", "b")], ""), Ok(Some("b".into())));
        assert_eq!(check(&[("sec-websocket-extensions", "")], ""), Ok(None));
        for (more, without) in [
            (&[][..], "upgrade"),
            (&[][..], "connection"),
            (&[][..], "sec-websocket-accept"),
            (&[("sec-websocket-accept", "x")][..], "sec-websocket-accept"),
            (&[("sec-websocket-accept", "x")][..], ""),
            (&[("sec-websocket-extensions", "permessage-deflate")][..], ""),
            (&[("sec-websocket-protocol", "c")][..], ""),
            (&[("sec-websocket-protocol", "A")][..], ""),
            (&[("sec-websocket-protocol", "a"), ("sec-websocket-protocol", "b")][..], ""),
        ] {
            assert!(check(more, without).is_err(), "{more:?} without {without:?}");
        }
    }

    #[test]
    fn names_of_protocols() {
        for name in ["chat", "chat.v2", "a!b"] {
            assert!(is_protocol(name), "{name}");
        }
        for name in ["", "a b", "a,b", "ä", "a/b", "a\r\n"] {
            assert!(!is_protocol(name), "{name}");
        }
    }
}
