//! Files as replies: a part of one, read piece by piece.

use std::fs::File;
use std::io::{self, Read};

use hyper::body::Bytes;

/// The most that is read at once, in bytes.
const PIECE: usize = 64 << 10;

/// What is to be sent of an open file, from its position on.
pub(super) struct FilePart {
    file: File,
    left: u64,
}

impl FilePart {
    pub(super) fn length(&self) -> u64 {
        self.left
    }

    /// Reads the next piece.
    pub(super) fn read(&mut self) -> io::Result<Bytes> {
        let mut piece = vec![0; usize::try_from(self.left).unwrap_or(PIECE).min(PIECE)];
        let count = self.file.read(&mut piece)?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has become shorter"));
        }
        piece.truncate(count);
        self.left -= count as u64;
        Ok(piece.into())
    }
}
