//! Readers and reasons.

use super::*;
use crate::conn::callbacks::{Kind, ReadCallback, with_text};

#[test]
fn each_reader_has_its_kind_and_ignores_what_is_not_for_it() {
    rig(|rig| {
        let wire = rig.tcp();
        let socket = wire.socket.as_ref().unwrap();
        let fails = || Err::<(), _>(Error::other("called"));
        let mut readers: [(Kind, Box<dyn ReadCallback>, [bool; 3]); 4] = [
            (Kind::Data, Box::new(OnData(move |_: &Socket, _: &[u8]| fails())), [true, false, false]),
            (Kind::ByteLines, Box::new(OnByteLine(move |_: &Socket, _: &[u8]| fails())), [true, false, false]),
            (Kind::Lines, Box::new(OnLine(move |_: &Socket, _: &str| fails())), [false, true, false]),
            (Kind::Raw, Box::new(OnReady(move |_: &Socket| fails())), [false, false, true]),
        ];
        for (kind, reader, called) in &mut readers {
            assert_eq!(reader.kind(), *kind);
            let calls = [reader.data(socket, b"x"), reader.line(socket, "x"), reader.ready(socket)];
            assert_eq!(calls.map(|result| result.is_err()), *called, "{kind:?}");
        }
    });
}

#[test]
fn bytes_become_text_whatever_they_are() {
    assert_eq!(with_text(b"caf\xc3\xa9", str::to_owned), "caf\u{e9}");
    assert_eq!(with_text(b"caf\xe9!", str::to_owned), "caf\u{fffd}!");
    let bytes = b"same";
    assert!(with_text(bytes, |text| std::ptr::eq(text.as_ptr(), bytes.as_ptr())), "valid text is not copied");
}

#[test]
fn a_reason_reads_as_a_phrase() {
    assert_eq!(Reason::Remote.to_string(), "closed by the peer");
    assert_eq!(Reason::Local.to_string(), "closed here");
    let error = Error::Reset { peer: "a:1".into() };
    assert_eq!(Reason::Failed(Error::Reset { peer: "a:1".into() }).to_string(), error.to_string());
}
