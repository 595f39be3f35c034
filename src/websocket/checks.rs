//! What a peer sends, in any way, for the fuzzer and for proptest.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Version};

use super::codec::{Codec, Event, Violation};
use super::handshake::{check_request, check_response};

/// The message limit.
const LIMIT: usize = 1000;

/// Takes everything in, in pieces of that length, until a close frame or a violation.
pub(super) fn all(codec: &mut Codec, bytes: &[u8], chunk: usize) -> (Vec<Event>, Option<Violation>) {
    let mut events = Vec::new();
    for mut piece in bytes.chunks(chunk) {
        loop {
            match codec.next(&mut piece) {
                Ok(None) => break,
                Ok(Some(event)) => {
                    let is_last = matches!(event, Event::Close(..));
                    events.push(event);
                    if is_last {
                        return (events, None);
                    }
                }
                Err(violation) => return (events, Some(violation)),
            }
        }
        assert!(piece.is_empty(), "more was asked for, and there is more");
    }
    (events, None)
}

/// Without what is random: the mask of a client's reply.
fn shape(event: &Event) -> (u8, Vec<u8>) {
    match event {
        Event::Text(text) => (1, text.as_str().into()),
        Event::Binary(data) => (2, data.to_vec()),
        Event::Ping(pong) => (9, vec![u8::try_from(pong.len()).expect("a pong is short")]),
        Event::Pong => (10, Vec::new()),
        Event::Close(close, reply) => {
            assert!(reply.len() <= 131, "a reply is short");
            let close = close.as_ref().map(|close| format!("{close:?}")).unwrap_or_default();
            (8, close.into_bytes())
        }
    }
}

/// Frames: however they are cut, they make the same events, within the limits.
pub(crate) fn frames(data: &[u8]) {
    let [head, chunk, bytes @ ..] = data else { return };
    let run = |chunk: usize| {
        let (events, violation) = all(&mut Codec::new(head % 2 == 0, LIMIT), bytes, chunk);
        (events.iter().map(shape).collect::<Vec<_>>(), violation)
    };
    let (events, violation) = run(usize::MAX);
    assert!(events.iter().all(|(_, content)| content.len() <= LIMIT));
    let again = run(usize::from(*chunk).max(1));
    assert_eq!((&events, &violation), (&again.0, &again.1));
}

/// Fields of a request or response, a line each. The first one is the key, or the protocols that were asked for.
pub(crate) fn handshake(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let first = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let mut headers = HeaderMap::new();
    for line in lines.take(50) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { continue };
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii())) {
            headers.append(name, value);
        }
    }
    let own: Vec<String> = first.split(',').map(str::to_owned).collect();
    if let Ok(accepted) = check_request((&Method::GET, Version::HTTP_11, &headers), &own) {
        assert!(accepted.protocol.is_none_or(|protocol| own.contains(&protocol)));
        assert_eq!(accepted.accept.len(), 28);
    }
    if let Ok(Some(protocol)) = check_response(&headers, &first, &own) {
        assert!(own.contains(&protocol));
    }
}
