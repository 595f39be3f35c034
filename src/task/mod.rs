//! Futures of the program's that run on the engine, and time for them.

pub(crate) mod handle;
pub(crate) mod time;

pub use handle::Task;
