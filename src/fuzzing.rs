//! The readers of what others send, by one entry each: fuzzed by the programs in `fuzz/`, and run by the tests on
//! whatever proptest thinks of. No part of the library.

use crate::address::{Address, without_password};
#[cfg(feature = "_services")]
use crate::avahi::checks;
use crate::conn::{check_frames, check_lines};
use crate::connect::proxy;
#[cfg(feature = "ftp")]
use crate::ftp;
#[cfg(feature = "http")]
use crate::http;
use crate::resolve::check_srv;
use crate::tls::{check_certificate, check_mixed};
#[cfg(feature = "websocket")]
use crate::websocket;

/// Text as an address: it is one, and is shown as it was but for the colon of an empty port, or the error quotes it.
pub fn address(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Address::parse(&text) {
        Ok(address) => {
            let shown = address.to_string();
            assert!(shown == text || shown.len() + 1 == text.len());
            assert_eq!(Address::parse(&shown).unwrap(), address);
            let (key, _) = address.peer(1234);
            assert!(!key.is_empty());
        }
        Err(error) => assert!(error.to_string().contains(&format!("{:?}", without_password(&text)))),
    }
    let _ = Address::try_from((&*text, 1234));
}

/// The certificate of a peer.
pub fn certificate(data: &[u8]) {
    check_certificate(data);
}

/// TLS, with somebody on the path.
pub fn tls(data: &[u8]) {
    check_mixed(data);
}

/// Received bytes, cut into lines.
pub fn lines(data: &[u8]) {
    check_lines(data);
}

/// Received bytes, cut into frames.
pub fn frames(data: &[u8]) {
    check_frames(data);
}

/// Replies of proxies, their URLs and challenges, and lists of exceptions.
pub fn proxy(data: &[u8]) {
    proxy::checks::any(data);
}

/// Replies of FTP servers, what stands in their text, and lines of listings.
#[cfg(feature = "ftp")]
pub fn ftp(data: &[u8]) {
    ftp::check_replies(data);
    for line in data.split(|byte| *byte == b'\n') {
        ftp::check_words(line);
        ftp::check_listing(line);
    }
}

/// Heads of messages, cookies, challenges and URLs of HTTP.
#[cfg(feature = "http")]
pub fn http(data: &[u8]) {
    http::checks::any(data);
}

/// References of URLs of HTTP, beside GLib's reading of them.
#[cfg(feature = "http")]
pub fn url(data: &[u8]) {
    http::checks::urls(&String::from_utf8_lossy(data));
}

/// Frames of WebSocket, to either role, and the fields of its handshake.
#[cfg(feature = "websocket")]
pub fn websocket(data: &[u8]) {
    match data.split_first() {
        Some((0, data)) => websocket::checks::handshake(data),
        _ => websocket::checks::frames(data),
    }
}

/// Requests as they come, their targets, ranges and forms.
#[cfg(feature = "http")]
pub fn http_server(data: &[u8]) {
    http::check_server(data);
}

/// The answers of name servers to questions for SRV records.
pub fn srv(data: &[u8]) {
    check_srv(data);
}

/// Names and types of services, and the expressions that choose them.
#[cfg(feature = "_services")]
pub fn names(data: &[u8]) {
    checks::names(data);
}

/// TXT records of services.
#[cfg(feature = "_services")]
pub fn txt(data: &[u8]) {
    checks::txt(data);
}

/// Input from a D-Bus daemon.
#[cfg(feature = "avahi")]
pub fn bus(data: &[u8]) {
    match data.split_first() {
        Some((mode, data)) if mode % 2 == 0 => checks::bus::bytes(data),
        Some((_, data)) => checks::bus::damaged(data),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Bytes that readers look for, and any others.
    fn bytes(known: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![proptest::sample::select(known), any::<u8>()], 0..600)
    }

    proptest! {
        #[test]
        fn any_address(data in bytes(b"|/:.[]%@#0a-")) {
            crate::fuzzing::address(&data);
        }

        #[test]
        fn any_certificate(data in bytes(b"\x30\x31\x02\x06\x0c\x03\x01\x05")) {
            crate::fuzzing::certificate(&data);
        }

        #[test]
        fn any_tls(data in vec(any::<u8>(), 0..90)) {
            crate::fuzzing::tls(&data);
        }

        #[test]
        fn any_lines(data in bytes(b"\n\n\r")) {
            crate::fuzzing::lines(&data);
        }

        #[test]
        fn any_frames(data in bytes(b"\0\x01\x02\x05\x80\r\n\n0125:,")) {
            crate::fuzzing::frames(&data);
        }

        #[cfg(feature = "websocket")]
        #[test]
        fn any_websocket(data in bytes(b"\x01\x02\x80\x81\x82\x88\x89\x8a\x00\x7e\x7f\xfe\xff\x05")) {
            crate::fuzzing::websocket(&data);
        }

        #[test]
        fn any_proxy(data in bytes(b"\0\x01\x02\x03\x04\x05\x06\x5a\r\n\n :/@%,=\"")) {
            crate::fuzzing::proxy(&data);
        }

        #[cfg(feature = "http")]
        #[test]
        fn any_request(data in bytes(b"GET /%2. HTTP/1.1\r\n\r\nHost:;=-,0a\"")) {
            crate::fuzzing::http_server(&data);
        }

        #[cfg(feature = "http")]
        #[test]
        fn any_http(data in bytes(b"\r\n\n\r\n: ;=,\"/.?#%@[]HTP1a")) {
            crate::fuzzing::http(&data);
        }

        #[test]
        fn any_srv(data in bytes(b"\x81\x80\0\0\0\x01\x21\xc0\x0c_a")) {
            crate::fuzzing::srv(&data);
        }

        #[cfg(feature = "_services")]
        #[test]
        fn any_names(data in bytes(b"\0\0_.-a2 #(|)[^]*+\\")) {
            crate::fuzzing::names(&data);
        }

        #[cfg(feature = "_services")]
        #[test]
        fn any_txt(data in bytes(b"\x01\x05==")) {
            crate::fuzzing::txt(&data);
        }

        #[cfg(feature = "avahi")]
        #[test]
        fn any_message(data in bytes(b"l\x01\x02\x04\0\0\0")) {
            crate::fuzzing::bus(&data);
        }
    }
}
