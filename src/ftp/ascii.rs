//! Line endings of ASCII transfers: `\n` here, `\r\n` on the way (RFC 959, section 3.1.1.1). Pure.

/// Turns `\n` into `\r\n`. What has one already keeps it.
#[derive(Debug, Default)]
pub(super) struct ToNetwork {
    ended_in_return: bool,
}

impl ToNetwork {
    pub(super) fn convert(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut converted = Vec::with_capacity(bytes.len() + bytes.len() / 16);
        for byte in bytes {
            if *byte == b'\n' && !self.ended_in_return {
                converted.push(b'\r');
            }
            converted.push(*byte);
            self.ended_in_return = *byte == b'\r';
        }
        converted
    }
}

/// Turns `\r\n` into `\n`. A `\r` alone stays.
#[derive(Debug, Default)]
pub(super) struct FromNetwork {
    /// A `\r` that nothing has followed yet.
    holds_return: bool,
}

impl FromNetwork {
    pub(super) fn convert(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut converted = Vec::with_capacity(bytes.len() + 1);
        for byte in bytes {
            if self.holds_return && *byte != b'\n' {
                converted.push(b'\r');
            }
            self.holds_return = *byte == b'\r';
            if !self.holds_return {
                converted.push(*byte);
            }
        }
        converted
    }

    /// Returns what is left at the end.
    pub(super) fn end(&mut self) -> &'static [u8] {
        if std::mem::take(&mut self.holds_return) { b"\r" } else { b"" }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn to(pieces: &[&[u8]]) -> Vec<u8> {
        let mut converter = ToNetwork::default();
        pieces.iter().flat_map(|piece| converter.convert(piece)).collect()
    }

    fn from(pieces: &[&[u8]]) -> Vec<u8> {
        let mut converter = FromNetwork::default();
        let mut all: Vec<u8> = pieces.iter().flat_map(|piece| converter.convert(piece)).collect();
        all.extend(converter.end());
        all
    }

    #[test]
    fn endings_become_those_of_the_other_side() {
        assert_eq!(to(&[b"a\nb\r\nc\rd\n\n"]), b"a\r\nb\r\nc\rd\r\n\r\n");
        assert_eq!(to(&[b"a\r", b"\nb"]), b"a\r\nb");
        assert_eq!(from(&[b"a\r\nb\rc\nd\r"]), b"a\nb\rc\nd\r");
        assert_eq!(from(&[b"a\r", b"\n", b"\r", b"b\r\r", b"\n"]), b"a\n\rb\r\n");
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_pieces_end(bytes in "[a\r\n]{0,30}", at in 0usize..30) {
            let (one, two) = bytes.as_bytes().split_at(at.min(bytes.len()));
            prop_assert_eq!(to(&[one, two]), to(&[bytes.as_bytes()]));
            prop_assert_eq!(from(&[one, two]), from(&[bytes.as_bytes()]));
        }

        #[test]
        fn there_and_back_again(bytes in "[ab\n]{0,30}") {
            prop_assert_eq!(from(&[&to(&[bytes.as_bytes()])]), bytes.as_bytes());
        }
    }
}
