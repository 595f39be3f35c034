//! The codec as a value.

use proptest::prelude::*;

use super::super::checks::all;
use super::super::codec::{Codec, Event};
use super::super::frame::Frame;
use super::super::message::Message;
use super::*;

fn messages() -> impl Strategy<Value = Vec<OwnedMessage>> {
    let text = any::<String>().prop_map(OwnedMessage::Text);
    let binary = proptest::collection::vec(any::<u8>(), 0..9000).prop_map(OwnedMessage::Binary);
    proptest::collection::vec(prop_oneof![text, binary], 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_sent_is_what_is_received(messages in messages(), chunk in 1usize..5000, is_server: bool) {
        let mut bytes = Vec::new();
        for message in &messages {
            let frame = Frame::message(message.as_message(), !is_server).unwrap();
            bytes.extend(frame.parts().concat());
        }
        let (events, violation) = all(&mut Codec::new(is_server, 1 << 20), &bytes, chunk);
        prop_assert_eq!(violation, None);
        let received: Vec<OwnedMessage> = events
            .iter()
            .map(|event| match event {
                Event::Text(text) => Message::Text(text.as_str()).to_owned(),
                Event::Binary(data) => Message::Binary(data).to_owned(),
                other => panic!("{other:?}"),
            })
            .collect();
        prop_assert_eq!(received, messages);
    }

    #[test]
    fn a_message_may_be_cut_into_any_fragments(
        payload in proptest::collection::vec(any::<u8>(), 0..2000),
        cuts in proptest::collection::vec(0usize..300, 1..20),
        is_server: bool,
    ) {
        let mut bytes = Vec::new();
        let mut rest = payload.as_slice();
        let mut first = 2;
        for cut in cuts {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            bytes.extend(frame(first, now, is_server));
            bytes.extend(frame(0x89, b"ping", is_server));
            (rest, first) = (later, 0);
        }
        bytes.extend(frame(0x80, rest, is_server));
        let (events, violation) = all(&mut Codec::new(is_server, 2000), &bytes, 77);
        prop_assert_eq!(violation, None);
        prop_assert_eq!(events.last(), Some(&Event::Binary(payload.into())));
    }
}

#[test]
fn a_flood_of_empty_fragments_ends_at_the_bound() {
    for is_server in [false, true] {
        let mut codec = Codec::new(is_server, 1000);
        let mut bytes = frame(1, b"a", is_server);
        let empty = frame(0, b"", is_server);
        let count = (1000 + (64 << 10) - bytes.len()) / empty.len();
        bytes.extend(empty.repeat(count));
        let (events, violation) = all(&mut codec, &bytes, 4096);
        assert_eq!((events.len(), violation), (0, None));
        let (events, violation) = all(&mut codec, &empty.repeat(2), 4096);
        assert_eq!(events.len(), 0);
        assert_eq!(violation.unwrap().code, Code::TOO_BIG);
    }
}

#[test]
fn control_frames_are_no_part_of_a_message() {
    let mut codec = Codec::new(true, 1000);
    let ping = frame(0x89, &[7; 125], true);
    for _ in 0..2000 {
        let (events, violation) = all(&mut codec, &ping, 4096);
        assert!(matches!(events[..], [Event::Ping(_)]) && violation.is_none(), "{violation:?}");
    }
    let (events, violation) = all(&mut codec, &frame(0x81, &[b'x'; 1000], true), 4096);
    assert!(matches!(events[..], [Event::Text(_)]) && violation.is_none(), "{violation:?}");
}
