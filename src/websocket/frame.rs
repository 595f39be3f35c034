//! Frames to be sent: the head is tungstenite's, and what a client sends is masked (RFC 6455, section 5.3).

use std::io::Cursor;

use ring::rand::{SecureRandom, SystemRandom};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::message::Message;
use crate::error::{Error, Result};

/// The longest head of a frame.
const LONGEST_HEAD: usize = 14;

/// A frame, its head apart from its payload so that this need not be copied.
pub(super) struct Frame<'a> {
    head: [u8; LONGEST_HEAD],
    head_length: usize,
    payload: Payload<'a>,
}

enum Payload<'a> {
    Plain(&'a [u8]),
    Masked(Vec<u8>),
}

impl<'a> Frame<'a> {
    /// Returns the frame of a whole message.
    pub(super) fn message(message: Message<'a>, is_server: bool) -> Result<Self> {
        let opcode = match message {
            Message::Text(_) => Data::Text,
            Message::Binary(_) => Data::Binary,
        };
        Frame::new(OpCode::Data(opcode), message.bytes(), is_server)
    }

    pub(super) fn ping(payload: &'a [u8], is_server: bool) -> Result<Self> {
        Frame::new(OpCode::Control(Control::Ping), payload, is_server)
    }

    pub(super) fn close(payload: &'a [u8], is_server: bool) -> Result<Self> {
        Frame::new(OpCode::Control(Control::Close), payload, is_server)
    }

    fn new(opcode: OpCode, payload: &'a [u8], is_server: bool) -> Result<Self> {
        let mask = if is_server { None } else { Some(random_mask()?) };
        let header = FrameHeader { is_final: true, opcode, mask, ..FrameHeader::default() };
        let mut head = Cursor::new([0; LONGEST_HEAD]);
        header.format(payload.len() as u64, &mut head).map_err(Error::other)?;
        let head_length = usize::try_from(head.position()).unwrap_or(LONGEST_HEAD);
        let payload = match mask {
            None => Payload::Plain(payload),
            Some(mask) => Payload::Masked(masked(payload, mask)),
        };
        Ok(Frame { head: head.into_inner(), head_length, payload })
    }

    /// Returns the bytes of the frame, in pieces.
    pub(super) fn parts(&self) -> [&[u8]; 3] {
        let payload = match &self.payload {
            Payload::Plain(payload) => payload,
            Payload::Masked(payload) => payload.as_slice(),
        };
        [&self.head[..self.head_length], payload, &[]]
    }
}

/// Returns a mask that the program cannot foresee.
fn random_mask() -> Result<[u8; 4]> {
    let mut mask = [0; 4];
    let filled = SystemRandom::new().fill(&mut mask);
    filled.map_err(|_| Error::Unsupported("the system gives no random numbers for the mask of a frame".into()))?;
    Ok(mask)
}

/// Eight bytes at a time.
fn masked(payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut bytes = payload.to_vec();
    let wide = u64::from(u32::from_ne_bytes(mask)) * 0x1_0000_0001;
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masking_twice_gives_the_same_and_each_byte_has_its_part_of_the_mask() {
        let mask = [1, 2, 4, 8];
        for length in 0..70 {
            let payload: Vec<u8> = (0..length).collect();
            let once = masked(&payload, mask);
            assert_eq!(masked(&once, mask), payload);
            for (at, (byte, plain)) in once.iter().zip(&payload).enumerate() {
                assert_eq!(*byte, plain ^ mask[at % 4], "{at} of {length}");
            }
        }
    }

    #[test]
    fn heads_are_as_short_as_they_can_be() {
        for (length, head) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let payload = vec![7; length];
            for is_server in [false, true] {
                let frame = Frame::message(Message::Binary(&payload), is_server).unwrap();
                let [found, body, _] = frame.parts();
                assert_eq!(found.len(), head + if is_server { 0 } else { 4 }, "{length}");
                assert_eq!(found[0], 0x82);
                assert_eq!(body.len(), length);
                assert_eq!(body == payload.as_slice(), is_server || length == 0);
            }
        }
        let frame = Frame::ping(b"x", true).unwrap();
        assert_eq!(frame.parts().concat(), b"\x89\x01x");
        assert_eq!(Frame::close(&[], true).unwrap().parts().concat(), b"\x88\x00");
        assert_eq!(Frame::message(Message::Text("a"), true).unwrap().parts().concat(), b"\x81\x01a");
    }
}
