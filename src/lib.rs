//! Networking on the GLib main loop.

#[forbid(unsafe_code)]
mod error;

pub use error::{Error, Result};
