//! Numbered slots whose keys grow stale: a key names one registration and never its successor in the same slot.

use std::num::NonZeroU32;

/// Names one registration. Fits into the 64 bits that epoll hands back, beside the bit that tells which descriptor it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    index: u32,
    generation: NonZeroU32,
}

/// Generations take 31 bits, so that one bit stays free for [`Key::to_bits`].
const GENERATIONS: u32 = (1 << 31) - 1;

/// The one after it.
fn next(generation: NonZeroU32) -> NonZeroU32 {
    NonZeroU32::new((generation.get() + 1) & GENERATIONS).unwrap_or(NonZeroU32::MIN)
}

impl Key {
    /// Names nothing: no slab is that large.
    pub(super) const NONE: Key = Key { index: u32::MAX, generation: NonZeroU32::MIN };

    /// Packs the key and one bit of the caller's.
    pub(super) fn to_bits(self, flag: bool) -> u64 {
        u64::from(self.index) | u64::from(self.generation.get()) << 32 | u64::from(flag) << 63
    }

    /// Takes apart what [`Key::to_bits`] packed.
    pub(super) fn from_bits(bits: u64) -> (Key, bool) {
        let generation = NonZeroU32::new((bits >> 32) as u32 & GENERATIONS).unwrap_or(NonZeroU32::MIN);
        (Key { index: bits as u32, generation }, bits >> 63 != 0)
    }
}

struct Slot<T> {
    generation: NonZeroU32,
    value: Option<T>,
}

pub(super) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab::new()
    }
}

impl<T> Slab<T> {
    pub(super) fn new() -> Self {
        Slab { slots: Vec::new(), free: Vec::new() }
    }

    /// The key that the next [`Slab::insert`] will use: epoll wants it before the value is whole.
    pub(super) fn next_key(&self) -> Key {
        match self.free.last() {
            Some(&index) => Key { index, generation: self.slots[index as usize].generation },
            None => Key { index: self.slots.len() as u32, generation: NonZeroU32::MIN },
        }
    }

    pub(super) fn insert(&mut self, value: T) -> Key {
        let key = self.next_key();
        match self.free.pop() {
            Some(index) => self.slots[index as usize].value = Some(value),
            None => self.slots.push(Slot { generation: NonZeroU32::MIN, value: Some(value) }),
        }
        key
    }

    #[inline]
    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation == key.generation { slot.value.as_mut() } else { None }
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = next(slot.generation);
        self.free.push(key.index);
        Some(value)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        let full = self.slots.iter().enumerate().filter(|(_, slot)| slot.value.is_some());
        full.map(|(index, slot)| Key { index: index as u32, generation: slot.generation }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_never_finds_the_successor_in_its_slot() {
        let mut slab = Slab::new();
        let first = slab.insert("first");
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second");
        assert_eq!(first.index, second.index, "the slot is used again");
        assert!(slab.get_mut(first).is_none());
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get_mut(second), Some(&mut "second"));
    }

    #[test]
    fn keys_survive_the_way_through_bits() {
        let mut slab = Slab::new();
        let keys: Vec<_> = (0..3).map(|n| slab.insert(n)).collect();
        slab.remove(keys[1]);
        let again = slab.insert(9);
        assert_eq!(slab.next_key().index, 3);
        for key in [keys[0], keys[2], again] {
            for flag in [false, true] {
                assert_eq!(Key::from_bits(key.to_bits(flag)), (key, flag));
            }
        }
        assert_eq!((slab.keys().len(), slab.len()), (3, 3));
        assert!(slab.get_mut(Key::NONE).is_none());
    }
}
