//! The cutting of lines and frames: the bytes, and the place to cut at. Pure values.

/// The bytes to cut from: those carried over, then those of the batch.
#[derive(Clone, Copy)]
pub(super) struct Halves<'a> {
    pub(super) carried: &'a [u8],
    pub(super) fresh: &'a [u8],
}

impl<'a> From<&'a [u8]> for Halves<'a> {
    #[inline]
    fn from(fresh: &'a [u8]) -> Self {
        Halves { carried: &[], fresh }
    }
}

impl Halves<'_> {
    #[inline]
    pub(super) fn len(self) -> usize {
        self.carried.len() + self.fresh.len()
    }

    #[inline]
    pub(super) fn at(self, index: usize) -> Option<u8> {
        match index.checked_sub(self.carried.len()) {
            Some(index) => self.fresh.get(index),
            None => self.carried.get(index),
        }
        .copied()
    }

    /// The first so many bytes.
    #[inline]
    pub(super) fn first<const COUNT: usize>(self) -> Option<[u8; COUNT]> {
        if self.carried.is_empty() {
            return self.fresh.first_chunk().copied();
        }
        let mut first = [0; COUNT];
        for (index, byte) in first.iter_mut().enumerate() {
            *byte = self.at(index)?;
        }
        Some(first)
    }

    /// Returns the position of the first such byte that is not before `from`.
    #[inline]
    pub(super) fn find(self, byte: u8, from: usize) -> Option<usize> {
        let carried = self.carried.len();
        if from < carried
            && let Some(at) = memchr::memchr(byte, &self.carried[from..])
        {
            return Some(from + at);
        }
        let from = from.saturating_sub(carried);
        Some(carried + from + memchr::memchr(byte, self.fresh.get(from..)?)?)
    }
}

/// The place of a line or frame in the bytes that it is cut from: where the text or message begins and ends, and where the next
/// one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) whole: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_halves_are_as_good_as_one() {
        let bytes = b"abcabc";
        for at in 0..=bytes.len() {
            let halves = Halves { carried: &bytes[..at], fresh: &bytes[at..] };
            assert_eq!(halves.len(), 6);
            for index in 0..8 {
                assert_eq!(halves.at(index), bytes.get(index).copied());
            }
            assert_eq!((halves.first(), halves.first()), (Some(*b"abca"), None::<[u8; 7]>));
            for (from, found) in [(0, Some(2)), (2, Some(2)), (3, Some(5)), (6, None), (7, None)] {
                assert_eq!(halves.find(b'c', from), found, "from {from}, cut at {at}");
            }
        }
    }
}
