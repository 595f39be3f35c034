//! For fuzzing, and for the tests.

use std::rc::Rc;

use super::*;
use crate::conn::Inbox;

/// The first frame, found without care for speed, or why there is none.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::conn) enum First<'a> {
    /// A message, and how long its frame is.
    Whole(&'a [u8], usize),
    Part,
    TooLong,
    Wrong,
}

pub(in crate::conn) fn first(framing: Framing, limit: usize, bytes: &[u8]) -> First<'_> {
    let frame = |head: usize, length: u128, tail: &[u8]| match usize::try_from(length) {
        Ok(length) if length <= limit => match bytes.get(head..head + length) {
            Some(message) if bytes[head + length..].starts_with(tail) => {
                First::Whole(message, head + length + tail.len())
            }
            Some(_) if bytes.len() > head + length => First::Wrong,
            _ => First::Part,
        },
        _ => First::TooLong,
    };
    match framing.0 {
        Form::Length { width, little_endian, counts_itself } => {
            let width = width as usize;
            let Some(head) = bytes.get(..width) else { return First::Part };
            let digit = |number: u128, byte: &u8| number << 8 | u128::from(*byte);
            let number = if little_endian { head.iter().rev().fold(0, digit) } else { head.iter().fold(0, digit) };
            match number.checked_sub(if counts_itself { width as u128 } else { 0 }) {
                Some(length) => frame(width, length, b""),
                None => First::Wrong,
            }
        }
        Form::Varint => {
            let more = bytes.iter().take(VARINT).take_while(|byte| **byte >= 0x80).count();
            if more == VARINT {
                return First::Wrong;
            }
            let Some(head) = bytes.get(..=more) else { return First::Part };
            let number = head.iter().rev().fold(0, |number, byte| number << 7 | u128::from(byte & 0x7f));
            if number > u64::MAX.into() { First::Wrong } else { frame(more + 1, number, b"") }
        }
        Form::Until(byte) => until(limit, bytes, &[byte]),
        Form::CrLf => until(limit, bytes, b"\r\n"),
        Form::Netstring => {
            let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let text = str::from_utf8(&bytes[..digits]).unwrap();
            let number = text.parse::<u128>().unwrap_or(u128::MAX);
            match bytes.get(digits) {
                _ if text.len() > 1 && text.starts_with('0') => First::Wrong,
                _ if digits > 0 && number > u64::MAX.into() => First::TooLong,
                Some(b':') if digits > 0 => frame(digits + 1, number, b","),
                Some(_) => First::Wrong,
                None => First::Part,
            }
        }
        Form::Misused(_) => First::Wrong,
    }
}

fn until<'a>(limit: usize, bytes: &'a [u8], end: &[u8]) -> First<'a> {
    match bytes.windows(end.len()).position(|window| window == end) {
        Some(at) if at <= limit => First::Whole(&bytes[..at], at + end.len()),
        None if bytes.len() <= limit => First::Part,
        // A beginning of the delimiter may be no part of the message.
        None if bytes.len() == limit + 1 && end.len() > 1 && bytes.ends_with(&end[..1]) => First::Part,
        _ => First::TooLong,
    }
}

/// One of each, and all settings.
pub(in crate::conn) fn framings(byte: u8) -> Vec<Framing> {
    let lengths = [Framing::length8(), Framing::length16(), Framing::length32(), Framing::length64()];
    let mut all = vec![Framing::varint(), Framing::until(byte), Framing::crlf(), Framing::netstring()];
    for length in lengths {
        let little = length.little_endian();
        all.extend([length, little, length.counts_itself(), little.counts_itself()]);
    }
    all
}

/// Whatever comes, in whatever pieces: the messages are those that are found in all of it, up to the first that is refused;
/// what is not handed out is left; no more memory is taken than for a message of the limit; and what was received can be
/// sent.
pub(crate) fn check_frames(data: &[u8]) {
    let Some((&[which, byte, limit, size], data)) = data.split_first_chunk::<4>() else { return };
    let framings = framings(byte);
    let framing = framings[usize::from(which) % framings.len()];
    let limit = usize::from(limit);
    let size = usize::from(size & 0x7f).max(1);
    let mut inbox = Inbox::default();
    let (mut given, mut come) = (0, 0);
    let mut refusal = None;
    for (number, piece) in data.chunks(size).enumerate() {
        inbox.push_batch(Rc::new(piece.to_vec()), piece.len());
        come += piece.len();
        while refusal.is_none() {
            let found = first(framing, limit, &data[given..come]);
            match inbox.next_frame(framing, limit) {
                Ok(Some(message)) => {
                    let First::Whole(wanted, whole) = found else { panic!("{found:?}") };
                    assert_eq!(message.as_slice(), wanted);
                    given += whole;
                    let again = framing.wrap(wanted).unwrap().parts().concat();
                    assert_eq!(first(framing, limit, &again), First::Whole(wanted, again.len()));
                    assert_eq!(message.into_vec(), wanted);
                }
                Ok(None) => {
                    assert_eq!(found, First::Part);
                    break;
                }
                Err(why) => {
                    let kind = if matches!(why, Refusal::TooLong(_)) { First::TooLong } else { First::Wrong };
                    assert_eq!(found, kind, "{why:?}");
                    refusal = Some(why);
                }
            }
        }
        let is_announced = !matches!(framing.0, Form::Until(_) | Form::CrLf);
        let most = if is_announced { limit + HEAD + 1 } else { 2 * (limit + 2) };
        assert!(refusal.is_some() || inbox.memory() <= most.max(2 * size).max(8), "{}", inbox.memory());
        if number % 2 == 0 {
            inbox.settle();
        }
    }
    assert_eq!(inbox.take_all(), &data[given..]);
}
