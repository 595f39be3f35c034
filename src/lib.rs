//! Networking on the GLib main loop.

#[forbid(unsafe_code)]
mod error;
#[forbid(unsafe_code)]
mod fingerprint;
#[forbid(unsafe_code)]
// The connections that drive it come next.
#[allow(dead_code, unused_imports)]
mod tls;

pub use error::{Error, Result};
pub use fingerprint::{Fingerprint, FingerprintError};
pub use tls::{ClientTls, Identity, ServerTls, Tls};
