//! What the peer sends, as events: tungstenite's state machine over bytes that lie here, within limits of our own. A value,
//! which knows no connection and no clock.

use std::io::{self, ErrorKind, Read, Write};

use tungstenite::error::CapacityError;
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Bytes, Error, Message, Utf8Bytes};

use super::close::{Close, Code};

/// The memory of each connection for what has come of a frame.
const READ_BUFFER: usize = 4096;

/// So many bytes beyond the message limit may come before a message is whole: the heads of its fragments.
const HEADS: usize = 64 << 10;

/// The longest frame that the state machine sends by itself, a pong or the reply to a close frame.
const LONGEST_REPLY: usize = 2 + 4 + 125;

/// Something that the peer has sent.
#[derive(Debug, PartialEq)]
pub(super) enum Event {
    Text(Utf8Bytes),
    Binary(Bytes),
    /// With the pong, as a frame.
    Ping(Vec<u8>),
    Pong,
    /// With the reply, as a frame.
    Close(Option<Close>, Vec<u8>),
}

/// Why the connection must end: the peer does not keep to the protocol, or exceeds a limit.
#[derive(Debug, PartialEq)]
pub(super) struct Violation {
    pub(super) code: Code,
    pub(super) problem: String,
}

pub(super) struct Codec {
    context: WebSocketContext,
    is_server: bool,
    limit: usize,
    /// The bytes taken in since the last whole message, without those of control frames.
    taken: usize,
}

impl Codec {
    pub(super) fn new(is_server: bool, limit: usize) -> Self {
        let role = if is_server { Role::Server } else { Role::Client };
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(2 * LONGEST_REPLY)
            .max_message_size(Some(limit))
            .max_frame_size(Some(limit));
        Codec { context: WebSocketContext::new(role, Some(config)), is_server, limit, taken: 0 }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Sets the longest message, in bytes. It holds for the frames that begin from now on.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.context.set_config(|config| {
            config.max_message_size = Some(limit);
            config.max_frame_size = Some(limit);
        });
    }

    /// Takes bytes from the front of `input` until they make an event. `None`: all of them are taken, and more are needed. After
    /// a violation or a close frame nothing more is to be taken.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Event>, Violation> {
        let room = self.limit.saturating_add(HEADS).saturating_sub(self.taken);
        let before = input.len();
        let mut wire = Wire { input, room, is_over: false, reply: None };
        let read = self.context.read(&mut wire);
        let (is_over, after) = (wire.is_over, wire.input.len());
        self.taken += before - after;
        let message = match read {
            Ok(message) => message,
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock && !is_over => return Ok(None),
            Err(Error::Io(_)) => {
                let problem = format!("the fragments of a message exceed its limit of {} bytes", self.limit);
                return Err(Violation { code: Code::TOO_BIG, problem });
            }
            Err(error) => return Err(violation(&error)),
        };
        Ok(Some(match message {
            Message::Text(text) => {
                self.taken = 0;
                Event::Text(text)
            }
            Message::Binary(data) => {
                self.taken = 0;
                Event::Binary(data)
            }
            Message::Ping(data) => {
                self.forgive(data.len());
                Event::Ping(self.reply())
            }
            Message::Pong(data) => {
                self.forgive(data.len());
                Event::Pong
            }
            Message::Close(close) => Event::Close(close.map(Close::from), self.reply()),
            Message::Frame(_) => {
                return Err(Violation { code: Code::INTERNAL, problem: "a raw frame was read".into() });
            }
        }))
    }

    /// A control frame is no part of a message, and a connection may be kept alive by them for years.
    fn forgive(&mut self, payload: usize) {
        let frame = 2 + payload + if self.is_server { 4 } else { 0 };
        self.taken = self.taken.saturating_sub(frame);
    }

    /// Returns the frame that the state machine wants to send. It forgets it by that.
    fn reply(&mut self) -> Vec<u8> {
        let mut wire = Wire { input: &mut [].as_slice(), room: 0, is_over: false, reply: None };
        // A server's has come to its end by its reply to a close frame, which is told as an error.
        let _ = self.context.flush(&mut wire);
        wire.reply.unwrap_or_default()
    }
}

fn violation(error: &Error) -> Violation {
    let (code, problem) = match error {
        Error::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
            (Code::TOO_BIG, format!("a message of {size} bytes exceeds the limit of {max_size} bytes"))
        }
        Error::Utf8(_) => (Code::INVALID_DATA, "a text is not UTF-8".into()),
        Error::Protocol(problem) => (Code::PROTOCOL, problem.to_string()),
        other => (Code::PROTOCOL, other.to_string()),
    };
    Violation { code, problem }
}

/// The state machine's stream: it reads what lies here, and what it writes is kept, a whole frame at a time.
struct Wire<'a, 'b> {
    input: &'a mut &'b [u8],
    /// So many bytes may be read.
    room: usize,
    /// More were asked for.
    is_over: bool,
    reply: Option<Vec<u8>>,
}

impl Read for Wire<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(self.input.len());
        if count == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = count.min(self.room);
        if count == 0 {
            self.is_over = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        let (now, rest) = self.input.split_at(count);
        buffer[..count].copy_from_slice(now);
        *self.input = rest;
        self.room -= count;
        Ok(count)
    }
}

impl Write for Wire<'_, '_> {
    fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        // The newest one counts.
        self.reply = Some(frame.to_vec());
        Ok(frame.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
