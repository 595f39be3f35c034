use super::checks::{First, first, framings};
use super::*;

fn parts(framing: Framing, message: &[u8]) -> Vec<u8> {
    framing.wrap(message).unwrap().parts().concat()
}

#[test]
fn a_frame_is_what_the_table_says() {
    for (framing, bytes) in [
        (Framing::length8(), &b"\x05hello"[..]),
        (Framing::length16(), b"\0\x05hello"),
        (Framing::length32(), b"\0\0\0\x05hello"),
        (Framing::length64(), b"\0\0\0\0\0\0\0\x05hello"),
        (Framing::length8().counts_itself(), b"\x06hello"),
        (Framing::length16().little_endian().counts_itself(), b"\x07\0hello"),
        (Framing::length32().counts_itself().little_endian(), b"\x09\0\0\0hello"),
        (Framing::length64().little_endian(), b"\x05\0\0\0\0\0\0\0hello"),
        (Framing::varint(), b"\x05hello"),
        (Framing::until(0), b"hello\0"),
        (Framing::crlf(), b"hello\r\n"),
        (Framing::netstring(), b"5:hello,"),
    ] {
        assert_eq!(parts(framing, b"hello"), bytes, "{framing:?}");
        assert_eq!(first(framing, 5, bytes), First::Whole(b"hello", bytes.len()), "{framing:?}");
    }
}

/// Cuts with the first half carried over, at every place.
fn cut(framing: Framing, limit: usize, bytes: &[u8]) -> Result<Option<Cut>, Refusal> {
    let whole = framing.cut(limit, Halves::from(bytes), 0);
    for at in 0..=bytes.len() {
        let halves = Halves { carried: &bytes[..at], fresh: &bytes[at..] };
        assert_eq!(framing.cut(limit, halves, 0), whole, "{framing:?}, {bytes:?} at {at}");
    }
    assert_eq!(framing.cut_whole(limit, bytes), whole.ok().flatten(), "{framing:?}, {bytes:?}");
    whole
}

#[test]
fn every_length_of_a_message_fits_in_or_is_refused() {
    for framing in framings(0) {
        for length in [0, 1, 126, 127, 128, 253, 254, 255, 256, 16_383, 16_384, 65_533, 65_535, 65_536] {
            let message = vec![b'x'; length];
            let Form::Length { width, counts_itself, .. } = framing.0 else {
                assert_eq!(
                    first(framing, length, &parts(framing, &message)),
                    First::Whole(&message, parts(framing, &message).len())
                );
                continue;
            };
            let width = width as usize;
            let number = length + if counts_itself { width } else { 0 };
            let fits = width >= 4 || number < 1 << (8 * width);
            match framing.wrap(&message) {
                Ok(framed) => assert_eq!(framed.parts().concat().len(), width + length),
                Err(problem) => assert!(problem.starts_with(&format!("{length} bytes do not fit")), "{problem}"),
            }
            assert_eq!(framing.wrap(&message).is_ok(), fits, "{framing:?}, {length}");
        }
    }
    let problem = Framing::length16().counts_itself().wrap(&[0; 70_000]).err().unwrap();
    assert_eq!(problem, "70000 bytes do not fit into a frame whose length has 16 bits; the maximum is 65533");
}

#[test]
fn what_ends_a_frame_cannot_be_in_it() {
    assert_eq!(Framing::until(0).wrap(b"a\0b").err().unwrap(), "the message contains \"\\x00\", which ends a frame");
    assert_eq!(Framing::crlf().wrap(b"a\r\nb").err().unwrap(), "the message contains \"\\r\\n\", which ends a frame");
    for message in [&b"\n"[..], b"\r", b"a\n\r", b"\n\n\r\r"] {
        let bytes = parts(Framing::crlf(), message);
        let found = cut(Framing::crlf(), 4, &bytes).unwrap().unwrap();
        assert_eq!((&bytes[..found.end], found.whole), (message, bytes.len()));
    }
}

#[test]
fn what_is_no_frame_is_refused_as_soon_as_that_is_known() {
    let self_counting = Framing::length16().counts_itself();
    for (framing, bytes, refusal) in [
        (Framing::length8(), &b"\x06"[..], Refusal::TooLong(Some(6))),
        (Framing::length64(), &[0xff; 8], Refusal::TooLong(Some(u64::MAX))),
        (Framing::length32(), b"GET / HTTP/1.0", Refusal::TooLong(Some(0x4745_5420))),
        (self_counting, b"\0\x01", Refusal::ShortLength(1, 2)),
        (self_counting, b"\0\x08", Refusal::TooLong(Some(6))),
        (Framing::varint(), &[0x80; 10], Refusal::LongVarint),
        (Framing::varint(), b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", Refusal::LongVarint),
        (Framing::varint(), b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Refusal::TooLong(Some(u64::MAX))),
        (Framing::until(0), b"sixsix", Refusal::TooLong(None)),
        (Framing::crlf(), b"sixsix", Refusal::TooLong(None)),
        (Framing::crlf(), b"five5\r\r", Refusal::TooLong(None)),
        (Framing::netstring(), b"00", Refusal::LeadingZero),
        (Framing::netstring(), b":", Refusal::NoDigit(b':')),
        (Framing::netstring(), b"-", Refusal::NoDigit(b'-')),
        (Framing::netstring(), b"1 ", Refusal::NoDigit(b' ')),
        (Framing::netstring(), b"2:ab.", Refusal::NoComma(b'.')),
        (Framing::netstring(), b"6:", Refusal::TooLong(Some(6))),
        (Framing::netstring(), b"18446744073709551615:", Refusal::TooLong(Some(u64::MAX))),
        (Framing::netstring(), b"18446744073709551616", Refusal::TooLong(None)),
        (Framing::netstring(), b"999999999999999999999", Refusal::TooLong(None)),
        (Framing::varint().little_endian(), b"", Refusal::Misused(Setting::LittleEndian)),
        (Framing::crlf().counts_itself(), b"x", Refusal::Misused(Setting::CountsItself)),
    ] {
        assert_eq!(cut(framing, 5, bytes), Err(refusal), "{framing:?}, {bytes:?}");
        let needed = bytes.len() - usize::from(!bytes.is_empty());
        if !matches!(refusal, Refusal::Misused(_)) && bytes.len() < 14 {
            assert_eq!(cut(framing, 5, &bytes[..needed]), Ok(None), "{framing:?}, {bytes:?} but for the last");
        }
    }
}

#[test]
fn what_has_not_come_yet_is_awaited() {
    for framing in framings(0) {
        let bytes = parts(framing, b"hello");
        for length in 0..bytes.len() {
            assert_eq!(cut(framing, 5, &bytes[..length]), Ok(None), "{framing:?}, {length}");
        }
        assert_eq!(cut(framing, 5, &bytes).unwrap().map(|cut| cut.whole), Some(bytes.len()));
        let expected = framing.expected(5, Halves::from(&bytes[..bytes.len() - 1]));
        let is_delimited = matches!(framing.0, Form::Until(_) | Form::CrLf);
        assert_eq!(expected, (!is_delimited).then_some(bytes.len()), "{framing:?}");
        assert_eq!(framing.expected(5, Halves::from(&b""[..])), None);
    }
    assert_eq!(Framing::length8().expected(5, Halves::from(&b"\x06"[..])), None, "it is too long");
}

#[test]
fn a_search_goes_on_where_it_ended() {
    let bytes = Halves { carried: b"aaa\r", fresh: b"\nbb" };
    for searched in 0..=4 {
        assert_eq!(Framing::crlf().cut(9, bytes, searched), Ok(Some(Cut { start: 0, end: 3, whole: 5 })));
        assert_eq!(Framing::until(b'\n').cut(9, bytes, searched), Ok(Some(Cut { start: 0, end: 4, whole: 5 })));
    }
}

#[test]
fn zeros_that_a_varint_does_not_need_are_accepted() {
    assert_eq!(cut(Framing::varint(), 5, b"\x82\x80\0ab"), Ok(Some(Cut { start: 3, end: 5, whole: 5 })));
}

#[test]
fn a_refusal_says_what_is_wrong() {
    for (refusal, text) in [
        (Refusal::ShortLength(3, 4), "a length of 3 that counts its own 4 bytes"),
        (Refusal::NoDigit(b'\n'), "the length of a netstring contains \"\\n\", which is not a digit"),
        (Refusal::NoComma(b'x'), "a netstring ends with \"x\" instead of a comma"),
    ] {
        assert_eq!(refusal.to_string(), text);
    }
}
