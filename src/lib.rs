#![doc = include_str!("../README.md")]
// Without services their handles are empty, and letting go of them does nothing.
#![cfg_attr(not(feature = "_services"), allow(clippy::drop_non_drop))]

#[cfg(all(feature = "_services", not(any(feature = "avahi", feature = "zeroconf"))))]
compile_error!("the feature _services is nothing by itself: use avahi or zeroconf");

#[forbid(unsafe_code)]
mod address;
#[cfg(feature = "_services")]
#[forbid(unsafe_code)]
mod avahi;
#[cfg(not(feature = "_services"))]
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
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod fuzzing;
#[forbid(unsafe_code)]
mod log;
#[forbid(unsafe_code)]
mod public_address;
#[forbid(unsafe_code)]
mod resolve;
#[forbid(unsafe_code)]
mod run;
#[forbid(unsafe_code)]
mod selector;
#[forbid(unsafe_code)]
mod server;
#[forbid(unsafe_code)]
mod socket;
#[allow(unsafe_code)]
mod sys;
#[forbid(unsafe_code)]
mod tls;
#[forbid(unsafe_code)]
mod udp;

pub use address::{Address, Endpoint};
#[cfg(feature = "_services")]
pub use avahi::{
    Browse, BrowseEvent, BrowseStream, ResolveAll, Service, Txt, browse, browse_stream, resolve_all, resolve_all_future,
};
pub use conn::callbacks::{Disconnect, Reason};
pub use conn::{Socket, WeakSocket};
pub use engine::Fairness;
pub use error::{Error, Result};
pub use fingerprint::{Fingerprint, FingerprintError};
pub use log::{LogLevel, LogRecord, set_log, unset_log};
pub use public_address::{
    local_address, local_address_v4, local_address_v6, public_address, public_address_async, public_address_future,
};
pub use resolve::{lookup, lookup_async, lookup_future, lookup_port, lookup_within};
pub use run::{
    Daemon, bgloop, catch_signals, endloop, fgloop, fgloop_for, hand_over, iteration, notify_systemd, on_reload,
    set_drain, set_fairness,
};
pub use selector::{Selectable, Selector};
pub use server::{Account, Incoming, Server, ServerBuilder, ServerThreads, ThreadsBuilder, WeakServer, awaiting};
pub use socket::{Chunks, Lines, SocketBuilder, SocketReader, SocketStream};
pub use sys::{Credentials, KeepAlive};
pub use tls::{ClientTls, Identity, ServerTls, Tls};
pub use udp::{Destination, UdpBuilder, UdpSocket, WeakUdpSocket};

/// Compiles what the page on daemons shows.
#[cfg(doctest)]
#[doc = include_str!("../docs/daemons.md")]
struct PageOnDaemons;
