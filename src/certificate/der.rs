//! DER, as far as certificates and private keys need it: a reader that takes elements off the front of a slice. Peers choose
//! what it reads, so every length is checked, and nothing recurses.

pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;

/// The tag of the explicitly tagged field with this number.
pub(crate) const fn explicit(number: u8) -> u8 {
    0xa0 | number
}

/// One element: a tag, a length and contents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) contents: &'a [u8],
    /// The element with its tag and length.
    pub(crate) whole: &'a [u8],
}

/// The elements of a slice, one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    /// Takes the next element. `None` at the end, and if it is malformed.
    pub(crate) fn next(&mut self) -> Option<Element<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
                // DER allows the shortest form only.
                if bytes[0] == 0 || length < 0x80 {
                    return None;
                }
                (length, rest)
            }
            // Of unknown length, or of 16 MiB and more: TLS cannot carry that.
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(length)?;
        let whole = &self.0[..self.0.len() - rest.len()];
        self.0 = rest;
        // Tags of several bytes do not occur where we read.
        (tag & 0x1f != 0x1f).then_some(Element { tag, contents, whole })
    }

    /// Takes the next element, which must have this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Option<Element<'a>> {
        self.next().filter(|element| element.tag == tag)
    }

    /// Takes the next element if it has this tag.
    pub(crate) fn optional(&mut self, tag: u8) -> Option<Element<'a>> {
        if self.0.first() == Some(&tag) { self.next() } else { None }
    }
}

impl<'a> Element<'a> {
    /// Reads the elements in this one.
    pub(crate) fn reader(&self) -> Reader<'a> {
        Reader(self.contents)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn elements_come_one_after_the_other() {
        let mut reader = Reader(&[0x02, 1, 5, 0xa0, 2, 0x30, 0, 0x04, 0x81, 0x80]);
        let number = reader.next().unwrap();
        assert_eq!((number.tag, number.contents, number.whole), (INTEGER, &[5][..], &[2, 1, 5][..]));
        assert!(reader.optional(explicit(1)).is_none());
        let field = reader.optional(explicit(0)).unwrap();
        assert!(field.reader().expect(SEQUENCE).is_some_and(|inner| inner.contents.is_empty()));
        assert!(field.reader().expect(SET).is_none());
        assert!(reader.next().is_none(), "128 bytes are announced");
        let long = [&[0x04, 0x81, 0x80][..], &[7; 128]].concat();
        assert_eq!(Reader(&long).expect(OCTET_STRING).unwrap().contents, [7; 128]);
    }

    #[test]
    fn hostile_lengths_end_it() {
        let hostile: [&[u8]; 7] = [
            &[0x30],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x81, 0x05, 1, 2, 3, 4, 5],
            &[0x30, 0x82, 0x00, 0x80],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x30, 0x88, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x1f, 0x81, 0x00],
        ];
        for der in hostile {
            assert!(Reader(der).next().is_none(), "{der:x?}");
        }
    }

    proptest! {
        #[test]
        fn elements_are_parts_of_the_whole(der in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader(&der);
            let mut length = 0;
            while let Some(element) = reader.next() {
                prop_assert_eq!(element.whole, &der[length..length + element.whole.len()]);
                prop_assert!(element.whole.ends_with(element.contents) && element.whole.len() >= 2);
                length += element.whole.len();
            }
            prop_assert!(length <= der.len());
        }
    }
}
