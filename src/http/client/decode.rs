//! Decompression of a body, in pieces of bounded size.

use std::io::{self, Write};

use flate2::write::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use hyper::body::{Buf, Bytes};

use crate::error::Error;

/// So much is decompressed at a time: deflate makes at most 1032 times as much of it.
const STEP: usize = 256;

/// A piece is handed on when it has this size.
const PIECE: usize = 64 << 10;

/// The most that may come of one byte, on the whole, once this much has come.
const RATIO: u64 = 1000;
const FREE: u64 = 1 << 20;

/// A coding that can be undone (RFC 9110, section 8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Deflate,
}

impl Coding {
    /// Reads a `Content-Encoding`. `None` for none.
    ///
    /// # Errors
    /// It cannot be undone here.
    pub(super) fn read(value: &str) -> Result<Option<Self>, String> {
        match value.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(None),
            "gzip" | "x-gzip" => Ok(Some(Coding::Gzip)),
            "deflate" => Ok(Some(Coding::Deflate)),
            _ => Err(format!("Content-Encoding is {value:?}, which was not asked for")),
        }
    }
}

/// A problem with a compressed body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    Invalid(String),
    /// It becomes too long.
    Bomb(u64),
}

impl Problem {
    pub(super) fn error(self, peer: String) -> Error {
        match self {
            Problem::Invalid(problem) => Error::Http { peer, problem },
            Problem::Bomb(limit) => Error::LimitExceeded { peer, limit: usize::try_from(limit).unwrap_or(usize::MAX) },
        }
    }
}

enum Engine {
    /// Nothing has come yet.
    Unknown(Coding),
    Gzip(MultiGzDecoder<Vec<u8>>),
    Deflate(Inflating),
}

/// A body of deflate: that of zlib (RFC 1950), or what some servers send by that name (RFC 1951).
struct Inflating {
    state: Decompress,
    output: Vec<u8>,
    has_ended: bool,
}

impl Inflating {
    fn new(first: u8) -> Self {
        let has_header = first & 15 == 8 && first >> 4 <= 7;
        Inflating { state: Decompress::new(has_header), output: Vec::new(), has_ended: false }
    }

    /// Takes a part of the input. 0 if it takes nothing more.
    fn write(&mut self, input: &[u8]) -> io::Result<usize> {
        let start = self.state.total_in();
        while !self.has_ended && self.state.total_in() == start {
            let made = self.output.len();
            self.output.reserve(PIECE / 4);
            let status = self.state.decompress_vec(input, &mut self.output, FlushDecompress::None)?;
            self.has_ended = status == Status::StreamEnd;
            if self.state.total_in() == start && self.output.len() == made {
                break;
            }
        }
        Ok(usize::try_from(self.state.total_in() - start).unwrap_or(0))
    }

    /// Takes what is left inside.
    fn finish(&mut self) -> io::Result<()> {
        loop {
            let made = self.output.len();
            self.output.reserve(PIECE / 4);
            if self.has_ended {
                return Ok(());
            }
            let status = self.state.decompress_vec(&[], &mut self.output, FlushDecompress::Finish)?;
            self.has_ended = status == Status::StreamEnd;
            if !self.has_ended && self.output.len() == made {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// A body that is being decompressed.
pub(super) struct Decoder {
    engine: Engine,
    input: Bytes,
    taken: u64,
    made: u64,
}

impl Decoder {
    pub(super) fn new(coding: Coding) -> Self {
        Decoder { engine: Engine::Unknown(coding), input: Bytes::new(), taken: 0, made: 0 }
    }

    /// Takes the next piece of the body, when all of the one before is used up.
    pub(super) fn give(&mut self, piece: Bytes) {
        self.input = piece;
        if let (Engine::Unknown(coding), Some(first)) = (&self.engine, self.input.first()) {
            self.engine = match coding {
                Coding::Gzip => Engine::Gzip(MultiGzDecoder::new(Vec::new())),
                Coding::Deflate => Engine::Deflate(Inflating::new(*first)),
            };
        }
    }

    /// Returns the next piece. `None` if more input is needed.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        while !self.input.is_empty() {
            let step = self.input.len().min(STEP);
            let piece = self.input.slice(..step);
            let written = match &mut self.engine {
                Engine::Unknown(_) => Ok(step),
                Engine::Gzip(decoder) => decoder.write(&piece),
                Engine::Deflate(inflating) => inflating.write(&piece),
            };
            let count = written.map_err(|error| invalid(&error))?;
            if count == 0 {
                return Err(Problem::Invalid("something follows the compressed body".into()));
            }
            self.input.advance(count);
            self.taken += count as u64;
            let made = self.output().map_or(0, |output| output.len());
            let total = self.made + made as u64;
            if total > FREE && total > self.taken.saturating_mul(RATIO) {
                return Err(Problem::Bomb(total));
            }
            if made >= PIECE {
                break;
            }
        }
        Ok(self.take())
    }

    /// Returns the rest, when all has come.
    pub(super) fn end(mut self) -> Result<Option<Bytes>, Problem> {
        let ended = match &mut self.engine {
            Engine::Unknown(_) => Ok(()),
            Engine::Gzip(decoder) => decoder.try_finish(),
            Engine::Deflate(inflating) => inflating.finish(),
        };
        ended.map_err(|error| invalid(&error))?;
        Ok(self.take())
    }

    fn output(&mut self) -> Option<&mut Vec<u8>> {
        match &mut self.engine {
            Engine::Unknown(_) => None,
            Engine::Gzip(decoder) => Some(decoder.get_mut()),
            Engine::Deflate(inflating) => Some(&mut inflating.output),
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        let made = self.output().map(std::mem::take)?;
        self.made += made.len() as u64;
        (!made.is_empty()).then(|| made.into())
    }
}

fn invalid(error: &io::Error) -> Problem {
    let problem = match error.kind() {
        io::ErrorKind::UnexpectedEof => "it is cut off".into(),
        _ => error.to_string(),
    };
    Problem::Invalid(format!("the compressed body is invalid: {problem}"))
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    fn compressed(kind: &str, data: &[u8]) -> Vec<u8> {
        let level = Compression::default();
        let written = match kind {
            "gzip" => {
                let mut encoder = GzEncoder::new(Vec::new(), level);
                encoder.write_all(data).and_then(|()| encoder.finish())
            }
            "zlib" => {
                let mut encoder = ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(data).and_then(|()| encoder.finish())
            }
            _ => {
                let mut encoder = DeflateEncoder::new(Vec::new(), level);
                encoder.write_all(data).and_then(|()| encoder.finish())
            }
        };
        written.unwrap()
    }

    fn coding(kind: &str) -> Coding {
        if kind == "gzip" { Coding::Gzip } else { Coding::Deflate }
    }

    /// Returns what comes of it, and the longest piece.
    fn decoded(kind: &str, body: &[u8], pieces: usize) -> Result<(Vec<u8>, usize), Problem> {
        let mut decoder = Decoder::new(coding(kind));
        let (mut all, mut longest) = (Vec::new(), 0);
        for piece in body.chunks(pieces) {
            decoder.give(Bytes::copy_from_slice(piece));
            while let Some(made) = decoder.next()? {
                longest = longest.max(made.len());
                all.extend_from_slice(&made);
            }
        }
        all.extend(decoder.end()?.unwrap_or_default());
        Ok((all, longest))
    }

    #[test]
    fn bodies_come_out_as_they_were() {
        let noise: Vec<u8> = (0..300_000u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for kind in ["gzip", "zlib", "raw"] {
            for data in [&b""[..], b"x", &[0; 1 << 20], &noise] {
                let body = compressed(kind, data);
                for pieces in [1, 1000, 1 << 20] {
                    let (all, longest) = decoded(kind, &body, pieces).unwrap();
                    assert!(all == data, "{kind} {} {pieces}", data.len());
                    assert!(longest <= PIECE + STEP * 1032);
                }
            }
        }
        assert_eq!(decoded("gzip", b"", 1).unwrap().0, b"");
        let two = [compressed("gzip", b"one"), compressed("gzip", b"two")].concat();
        assert_eq!(decoded("gzip", &two, 7).unwrap().0, b"onetwo");
    }

    #[test]
    fn what_is_cut_or_damaged_is_told() {
        for kind in ["gzip", "zlib", "raw"] {
            let body = compressed(kind, &b"some text that is long enough".repeat(20));
            for length in 1..body.len() {
                let cut = decoded(kind, &body[..length], 1 << 20);
                assert!(matches!(cut, Err(Problem::Invalid(_))), "{kind} {length} of {}: {cut:?}", body.len());
            }
            if kind != "raw" {
                let mut damaged = body.clone();
                let at = damaged.len() - 6;
                damaged[at] ^= 1;
                assert!(decoded(kind, &damaged, 1 << 20).is_err(), "{kind}");
            }
            let more = [&body[..], b"more"].concat();
            assert!(decoded(kind, &more, 1 << 20).is_err(), "{kind}");
        }
    }

    #[test]
    fn bombs_are_stopped() {
        // deflate makes 1032 bytes of one at best.
        let bomb = compressed("gzip", &vec![0; 64 << 20]);
        let stopped = decoded("gzip", &bomb, 1 << 20);
        assert!(
            matches!(stopped, Err(Problem::Bomb(made)) if made < 4 << 20),
            "{:?}",
            stopped.map(|(all, _)| all.len())
        );
    }

    #[test]
    fn one_layer_that_is_known() {
        assert_eq!(Coding::read("GZip"), Ok(Some(Coding::Gzip)));
        assert_eq!(Coding::read(" identity "), Ok(None));
        for value in ["gzip, gzip", "br", "deflate,gzip"] {
            assert!(Coding::read(value).is_err(), "{value}");
        }
    }
}
