//! Staying connected: what a program needs that keeps a connection for days.

pub(crate) mod watch;

pub use watch::{NetworkChange, NetworkWatch};
