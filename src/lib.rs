#![doc = include_str!("../README.md")]
// Without services their handles are empty, and letting go of them does nothing.
#![cfg_attr(not(feature = "avahi"), allow(clippy::drop_non_drop))]

#[forbid(unsafe_code)]
mod address;
#[cfg(feature = "avahi")]
#[forbid(unsafe_code)]
mod avahi;
#[cfg(not(feature = "avahi"))]
#[forbid(unsafe_code)]
#[path = "avahi/absent.rs"]
mod avahi;
#[forbid(unsafe_code)]
mod conn;
#[forbid(unsafe_code)]
mod connect;
#[allow(unsafe_code)]
mod engine;
#[forbid(unsafe_code)]
mod error;
#[forbid(unsafe_code)]
mod fingerprint;
#[forbid(unsafe_code)]
mod mainloop;
#[forbid(unsafe_code)]
mod resolve;
#[forbid(unsafe_code)]
mod server;
#[forbid(unsafe_code)]
mod socket;
#[forbid(unsafe_code)]
mod tls;
#[forbid(unsafe_code)]
mod transport;

pub use address::{Address, Endpoint};
#[cfg(feature = "avahi")]
pub use avahi::{
    Browse, BrowseEvent, BrowseStream, ResolveAll, Service, Txt, browse, browse_stream, resolve_all, resolve_all_future,
};
pub use conn::handler::{Disconnect, Reason};
pub use engine::Fairness;
pub use error::{Error, Result};
pub use fingerprint::{Fingerprint, FingerprintError};
pub use mainloop::{bgloop, catch_signals, endloop, fgloop, fgloop_for, iteration, set_fairness};
pub use server::{Server, ServerBuilder, WeakServer};
pub use socket::{Socket, SocketBuilder, WeakSocket};
pub use tls::{ClientTls, Identity, ServerTls, Tls};
