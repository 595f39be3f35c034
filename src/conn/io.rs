//! The two queues of a connection. Their memory comes with the first bytes: most connections of a large server have
//! nothing in either.

use std::cell::{Ref, RefCell, RefMut};

use super::inbox::Inbox;
use super::outbox::Outbox;

#[derive(Default)]
pub(super) struct Io {
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox,
}

#[derive(Default)]
pub(super) struct LazyIo(RefCell<Option<Box<Io>>>);

impl LazyIo {
    /// Has there never been anything in it?
    #[inline]
    pub(super) fn is_fresh(&self) -> bool {
        self.0.borrow().is_none()
    }

    #[inline]
    pub(super) fn borrow(&self) -> Ref<'_, Io> {
        Ref::filter_map(self.0.borrow(), |io| io.as_deref()).unwrap_or_else(|none| {
            drop(none);
            self.fill();
            self.borrow()
        })
    }

    #[inline]
    pub(super) fn borrow_mut(&self) -> RefMut<'_, Io> {
        RefMut::map(self.0.borrow_mut(), |io| &mut **io.get_or_insert_default())
    }

    #[cold]
    fn fill(&self) {
        drop(self.borrow_mut());
    }
}
