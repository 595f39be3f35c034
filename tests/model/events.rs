//! What can happen at a side of a connection, in the words that the model and the programs share.

use std::fmt;
use std::sync::LazyLock;

/// One end of the connection under test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    A,
    B,
}

pub const SIDES: [Side; 2] = [Side::A, Side::B];

impl Side {
    pub fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// All that one direction can ever carry: text in lines of very different lengths, without a pattern that could hide a
/// loss or a repetition. What is sent is the next part of it, so what arrives is known by its place.
pub fn content(from: Side) -> &'static [u8] {
    static BOTH: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| [text(1), text(2)]);
    &BOTH[from as usize]
}

const CONTENT: usize = 6 << 20;

fn text(seed: u64) -> Vec<u8> {
    let mut random = crate::random::Random::new(seed);
    let mut text = Vec::with_capacity(CONTENT);
    while text.len() < CONTENT {
        let length = match random.below(20) {
            0 => 0,
            1 => 1000 + random.below(3000),
            _ => random.below(80),
        };
        text.extend(
            (0..length).map(|_| b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[random.below(64)]),
        );
        text.push(b'\n');
    }
    text.truncate(CONTENT);
    text
}

/// How an end, or a failure, is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// The peer ended it.
    Remote,
    /// It was ended on this side.
    Local,
    /// `Closed`, zero bytes, the end of a stream: what a call says of either of those.
    Closed,
    Reset,
    /// TLS without its end mark.
    CutOff,
    /// The error that a callback had returned.
    Own,
    /// Nobody reads the output any more: of pipes.
    Broken,
    TooLong,
    /// Anything else, with its words.
    Other(String),
}

/// By which call or callback something was delivered or told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Face {
    Read,
    Readlines,
    ReadlinesBytes,
    Readframes,
    Rawread,
    Unread,
    Recv,
    RecvInto,
    RecvLine,
    RecvFrame,
    RecvExact,
    RecvUntil,
    RecvToEnd,
    StdRead,
    BufRead,
    RecvFuture,
    RecvExactFuture,
    RecvLineFuture,
    RecvFrameFuture,
    Lines,
    Frames,
    Chunks,
    AsyncRead,
    Stream,
    EndCb,
    DisconnectCb,
    DrainCb,
    Close,
    Send,
    SendSome,
    StdWrite,
    Flush,
    FlushAsync,
    SendFuture,
    FlushFuture,
    AsyncWrite,
    AsyncClose,
    ShutdownWrite,
    Raw,
}

impl Face {
    pub fn sends(self) -> bool {
        use Face::*;
        matches!(
            self,
            Send | SendSome
                | StdWrite
                | Flush
                | FlushAsync
                | SendFuture
                | FlushFuture
                | AsyncWrite
                | AsyncClose
                | ShutdownWrite
        )
    }

    /// A callback that gets what comes.
    pub fn reads(self) -> bool {
        use Face::*;
        matches!(self, Read | Readlines | ReadlinesBytes | Readframes | Rawread)
    }

    pub fn is_callback(self) -> bool {
        use Face::*;
        self.reads() || matches!(self, EndCb | DisconnectCb | DrainCb | FlushAsync)
    }
}

/// What happens at one side, as its program sees it.
#[derive(Debug)]
pub enum Event<'a> {
    /// A call that sends has taken so many bytes.
    Accepted(usize),
    /// Bytes were handed over; of a line with its newline.
    Got(Face, &'a [u8]),
    /// An end or a failure was told. Is the connection still open after that?
    Told(Face, Told, bool),
    /// A callback begins. Within a method call? Of one that is still set?
    Called {
        face: Face,
        within_call: bool,
        is_set: bool,
    },
    Paused(bool),
    /// Another reader was set: it gets what is left, after the end as well.
    Reader,
    DisconnectCb(bool),
    /// An end callback, or what stands for it, was set: the peer's end is not that of the connection.
    HalfOpen,
    ShutdownWrite,
    Close,
    /// Was the connection open? If not, what was on its way still is discarded. Does the system answer by a reset?
    Abort {
        open: bool,
        resets: bool,
    },
    /// The program's own handle is dropped. Does anything else keep the connection open?
    Drop {
        open: bool,
        kept: bool,
    },
    /// A callback returned an error.
    Failed,
    Panicked,
    /// A peer that is no socket of ours ended its sending half.
    RawShutdown,
    /// It closed. Had it left something unread?
    RawClose {
        unread: bool,
    },
    RawReset,
    /// Below TLS the end of the stream, without the end mark.
    Cut,
}
