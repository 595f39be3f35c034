//! The far ends of connections, as far as this thread has them: a blocking call keeps the thread from everything else, so it
//! must not wait for those.

use std::cell::Cell;
use std::os::fd::AsFd;

use super::Engine;
use crate::sys::Ends;

/// The far end of a connection, as seen by a blocking call that would wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FarEnd {
    /// This thread does not have it.
    Elsewhere,
    /// This thread has it, and something from it is on its way.
    Sending,
    /// This thread has it. Nothing comes from it before the loop runs.
    Silent,
}

thread_local! {
    static REGISTRATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts one more registration of this thread.
pub(super) fn count_registration() {
    REGISTRATIONS.set(REGISTRATIONS.get() + 1);
}

impl Engine {
    /// Returns how many registrations this thread has made so far, of all its engines. As long as there is no other, a far end
    /// that is elsewhere stays there.
    pub(crate) fn registrations_here() -> u64 {
        REGISTRATIONS.get()
    }

    /// Looks for the far end of a connected socket among all that this thread has.
    pub(crate) fn far_end_here(fd: impl AsFd) -> FarEnd {
        let Some(ends) = Ends::of(fd) else { return FarEnd::Elsewhere };
        let handlers_of = |engine: &Engine| -> Vec<_> {
            engine.entries.borrow().values().map(|entry| entry.handler.clone()).collect()
        };
        let mut handlers = Engine::all_here().into_iter().flat_map(|engine| handlers_of(&engine));
        let far_end = handlers.find_map(|handler| Some(handler.far_end(&ends)).filter(|it| *it != FarEnd::Elsewhere));
        far_end.unwrap_or(FarEnd::Elsewhere)
    }
}
