//! The chunked coding (RFC 9112, section 7.1), followed to find the end of a body: a value. The data itself is hyper's business.

/// The most that all chunk extensions of a body have together, in bytes, and its trailer section.
const EXTRAS: usize = 16 << 10;

/// The most digits of a chunk's size.
const DIGITS: u8 = 16;

/// The place in a chunked body.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    place: Place,
    /// The size of the current chunk; then so much of it is left.
    size: u64,
    /// The digits of that size so far.
    digits: u8,
    /// The bytes of extensions and trailers so far.
    extras: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// The first digit of a size.
    #[default]
    Size,
    Digits,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The beginning of a line of the trailer section.
    Trailer,
    TrailerLine,
    TrailerLf,
    LastLf,
}

/// The outcome of [`Chunks::advance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// All of it belongs to the body, which is not over.
    More,
    /// So much of it belongs to the body, which is over.
    Over(usize),
    /// It breaks the rules.
    Broken,
}

impl Chunks {
    /// Goes on with these bytes.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Progress {
        let mut at = 0;
        while at < bytes.len() {
            if self.place == Place::Data {
                let count = usize::try_from(self.size).unwrap_or(usize::MAX).min(bytes.len() - at);
                self.size -= count as u64;
                at += count;
                if self.size == 0 {
                    self.place = Place::DataCr;
                }
                continue;
            }
            let is_last = self.place == Place::LastLf;
            let Some(next) = self.step(bytes[at]) else { return Progress::Broken };
            at += 1;
            if is_last {
                return Progress::Over(at);
            }
            self.place = next;
        }
        Progress::More
    }

    /// Returns the place after this byte, which is none of the data. `None` if it must not be there.
    fn step(&mut self, byte: u8) -> Option<Place> {
        let digit = char::from(byte).to_digit(16).map(u64::from);
        Some(match (self.place, byte) {
            (Place::Size, _) => {
                self.size = digit?;
                self.digits = 1;
                Place::Digits
            }
            (Place::Digits, b'\r') => Place::SizeLf,
            (Place::Digits, b';') => self.extra(Place::Extension)?,
            (Place::Digits, _) => {
                self.size = self.size.checked_mul(16)?.checked_add(digit?)?;
                self.digits += 1;
                if self.digits > DIGITS {
                    return None;
                }
                Place::Digits
            }
            (Place::Extension, b'\r') => Place::SizeLf,
            (Place::Extension, b'\n') => return None,
            (Place::Extension, _) => self.extra(Place::Extension)?,
            (Place::SizeLf, b'\n') if self.size == 0 => Place::Trailer,
            (Place::SizeLf, b'\n') => Place::Data,
            (Place::DataCr, b'\r') => Place::DataLf,
            (Place::DataLf, b'\n') => Place::Size,
            (Place::Trailer, b'\r') => Place::LastLf,
            (Place::TrailerLine, b'\r') => Place::TrailerLf,
            (Place::Trailer | Place::TrailerLine, b'\n') => return None,
            (Place::Trailer | Place::TrailerLine, _) => self.extra(Place::TrailerLine)?,
            (Place::TrailerLf, b'\n') => Place::Trailer,
            (Place::LastLf, b'\n') => Place::LastLf,
            _ => return None,
        })
    }

    fn extra(&mut self, next: Place) -> Option<Place> {
        self.extras += 1;
        (self.extras <= EXTRAS).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn follow(bytes: &[u8]) -> Progress {
        Chunks::default().advance(bytes)
    }

    #[test]
    fn a_body_ends_with_its_last_chunk_and_trailers() {
        for body in ["0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "A;a=\"b\"\r\n0123456789\r\n000\r\nx: y\r\nz: 1\r\n\r\n"] {
            assert_eq!(follow(body.as_bytes()), Progress::Over(body.len()), "{body:?}");
            let more = format!("{body}GET / HTTP/1.1\r\n");
            assert_eq!(follow(more.as_bytes()), Progress::Over(body.len()), "{body:?}");
            assert_eq!(follow(&body.as_bytes()[..body.len() - 1]), Progress::More, "{body:?}");
        }
    }

    #[test]
    fn what_other_servers_read_differently_is_broken() {
        for body in [
            "\r\n",
            " 5\r\nhello\r\n",
            "5 \r\nhello\r\n",
            "+5\r\nhello\r\n",
            "0x5\r\nhello\r\n",
            "5\nhello\n",
            "5\r\nhello\n",
            "5\r\nhelloX",
            "5\r\nhello\r\r",
            "5\rX",
            "5;a\nhello\r\n",
            "0\r\n\n",
            "0\r\nx: y\n",
            "0\r\n\rX",
            "g\r\n",
            ";\r\n",
            "10000000000000000\r\n",
            "00000000000000000\r\n",
            "0\r\nx: y\r\r",
        ] {
            assert_eq!(follow(body.as_bytes()), Progress::Broken, "{body:?}");
        }
        assert_eq!(follow(b"ffffffffffffffff\r\nx"), Progress::More);
    }

    #[test]
    fn extensions_and_trailers_have_a_limit() {
        for (before, after) in [("1;", "\r\nx"), ("0\r\n", ": v\r\n\r\n")] {
            let fits = format!("{before}{}{after}", "e".repeat(EXTRAS - 4));
            assert_ne!(follow(fits.as_bytes()), Progress::Broken);
            let not = format!("{before}{}{after}", "e".repeat(EXTRAS + 1));
            assert_eq!(follow(not.as_bytes()), Progress::Broken);
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_come(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..5), cuts in prop::collection::vec(1..40usize, 1..60)
        ) {
            let mut body = Vec::new();
            for piece in &pieces {
                body.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                body.extend_from_slice(piece);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\n\r\nrest");
            let end = body.len() - 4;
            let (mut chunks, mut at) = (Chunks::default(), 0);
            for cut in cuts.iter().cycle() {
                let piece = &body[at..(at + cut).min(body.len())];
                match chunks.advance(piece) {
                    Progress::More => at += piece.len(),
                    Progress::Over(count) => {
                        prop_assert_eq!(at + count, end);
                        break;
                    }
                    Progress::Broken => prop_assert!(false, "broken at {}", at),
                }
            }
        }
    }
}
