//! The one door to user code: every callback of every kind is called through [`call`].

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Engine;

/// Calls user code. A panic goes to the engine, which sees that it comes out where our loop was entered; then the answer
/// is `None`. No state may be borrowed during the call: user code may call anything.
#[inline]
pub(crate) fn call<R>(engine: &Engine, user: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(user)) {
        Ok(result) => Some(result),
        Err(panic) => {
            engine.panicked(panic);
            None
        }
    }
}
