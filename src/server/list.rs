//! The connections of a server, oldest first, in little memory.

use std::num::NonZeroU64;

/// Numbers only grow, so entries are appended. A removed entry leaves a hole until there are many.
pub(super) struct List<T> {
    all: Vec<(NonZeroU64, Option<T>)>,
    holes: usize,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        List { all: Vec::new(), holes: 0 }
    }
}

impl<T> List<T> {
    pub(super) fn len(&self) -> usize {
        self.all.len() - self.holes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.all.iter().filter_map(|(_, entry)| entry.as_ref())
    }

    /// Appends an entry. Its number must be higher than all before.
    pub(super) fn insert(&mut self, id: NonZeroU64, entry: T) {
        debug_assert!(self.all.last().is_none_or(|(last, _)| *last < id));
        self.all.push((id, Some(entry)));
    }

    pub(super) fn get_mut(&mut self, id: &NonZeroU64) -> Option<&mut T> {
        let place = self.all.binary_search_by_key(id, |(id, _)| *id).ok()?;
        self.all[place].1.as_mut()
    }

    pub(super) fn remove(&mut self, id: &NonZeroU64) -> Option<T> {
        let place = self.all.binary_search_by_key(id, |(id, _)| *id).ok()?;
        let entry = self.all[place].1.take()?;
        self.holes += 1;
        if self.holes > self.all.len() / 2 {
            self.all.retain(|(_, entry)| entry.is_some());
            self.all.shrink_to(self.all.len() * 2);
            self.holes = 0;
        }
        Some(entry)
    }
}
