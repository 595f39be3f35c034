#![doc = include_str!("../README.md")]
// Without services their handles are empty, and letting go of them does nothing.
#![cfg_attr(not(feature = "_services"), allow(clippy::drop_non_drop))]

#[cfg(all(feature = "_services", not(any(feature = "avahi", feature = "zeroconf"))))]
compile_error!("the feature _services is nothing by itself: use avahi or zeroconf");

// The rooms, each on its floor: tests/house.rs. A public room is a module of the API as well and exports what its `mod.rs`
// has in `pub use`; the other modules of the API are at the end.

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
mod certificate;
#[forbid(unsafe_code)]
mod conn;
#[forbid(unsafe_code)]
mod connect;
#[allow(unsafe_code)]
mod engine;
#[forbid(unsafe_code)]
mod error;
/// A client for FTP (RFC 959), in plaintext or over TLS (RFC 4217).
#[cfg(feature = "ftp")]
#[forbid(unsafe_code)]
pub mod ftp;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod fuzzing;
/// HTTP/1.1 (RFC 9110, RFC 9112): a client and a server.
#[cfg(feature = "http")]
#[forbid(unsafe_code)]
pub mod http;
/// Staying connected: types used with [`Link`], and what they are made of.
#[forbid(unsafe_code)]
pub mod link;
/// Log records and where they go.
#[forbid(unsafe_code)]
pub mod log;
#[forbid(unsafe_code)]
mod public_address;
#[forbid(unsafe_code)]
mod resolve;
#[forbid(unsafe_code)]
mod run;
#[forbid(unsafe_code)]
mod selector;
/// Types used with [`Server`].
#[forbid(unsafe_code)]
pub mod server;
/// Types used with [`Socket`].
#[forbid(unsafe_code)]
pub mod socket;
#[allow(unsafe_code)]
mod sys;
/// Futures that run on the main loop.
#[forbid(unsafe_code)]
pub mod task;
/// Certificates, keys and fingerprints.
#[forbid(unsafe_code)]
pub mod tls;
/// Types used with [`UdpSocket`], and sockets for other kinds of messages.
#[forbid(unsafe_code)]
pub mod udp;
/// WebSocket (RFC 6455): a client and a server.
#[cfg(feature = "websocket")]
#[forbid(unsafe_code)]
pub mod websocket;

pub use address::{Address, Endpoint};
pub use conn::Socket;
pub use conn::callbacks::{Disconnect, Reason};
pub use error::{Error, Result};
pub use link::handle::Link;
pub use run::{bgloop, block_on, endloop, fgloop, fgloop_for, iteration};
pub use selector::Selector;
pub use server::handle::Server;
pub use task::handle::spawn;
pub use task::time::{sleep, timeout};
pub use tls::client::ClientTls;
pub use tls::server::ServerTls;
pub use udp::handle::UdpSocket;

/// Background processes, reloading, handing over, systemd.
#[forbid(unsafe_code)]
pub mod daemon {
    pub use crate::run::{Daemon, hand_over_async, notify_systemd, on_reload, set_grace_period};
}

/// Sharing of the main loop, and signals.
#[forbid(unsafe_code)]
pub mod mainloop {
    pub use crate::engine::Fairness;
    pub use crate::run::{set_fairness, set_signal_handling};
}

/// Host name, port and address lookup.
#[forbid(unsafe_code)]
pub mod names {
    pub use crate::public_address::{
        local_address, local_address_v4, local_address_v6, public_address, public_address_async, public_address_future,
    };
    pub use crate::resolve::{
        Interface, InterfaceAddress, interfaces, lookup, lookup_async, lookup_future, lookup_port, lookup_service,
        lookup_service_async, lookup_service_future, lookup_timeout,
    };
}

/// DNS-SD services on the local network.
#[cfg(feature = "_services")]
#[forbid(unsafe_code)]
pub mod services {
    pub use crate::avahi::{
        Browser, Event, EventStream, Publisher, Service, Txt, browse, browse_stream, publish, resolve_all_async,
        resolve_all_future,
    };
}

/// Compiles the examples of the page on daemons.
#[cfg(doctest)]
#[doc = include_str!("../docs/daemons.md")]
struct PageOnDaemons;

/// Compiles the examples of the page on services.
#[cfg(all(doctest, feature = "_services"))]
#[doc = include_str!("../docs/services.md")]
struct PageOnServices;

/// Compiles the examples of the page on staying connected.
#[cfg(doctest)]
#[doc = include_str!("../docs/staying-connected.md")]
struct PageOnStayingConnected;

/// Compiles the examples of the page on trust.
#[cfg(doctest)]
#[doc = include_str!("../docs/trust.md")]
struct PageOnTrust;

/// Compiles the examples of the page on proxies.
#[cfg(doctest)]
#[doc = include_str!("../docs/proxies.md")]
struct PageOnProxies;

/// Compiles the examples of the page on FTP.
#[cfg(all(doctest, feature = "ftp"))]
#[doc = include_str!("../docs/ftp.md")]
struct PageOnFtp;

/// Compiles the examples of the page on HTTP.
#[cfg(all(doctest, feature = "http"))]
#[doc = include_str!("../docs/http.md")]
struct PageOnHttp;

/// Compiles the examples of the page on the HTTP server.
#[cfg(all(doctest, feature = "http"))]
#[doc = include_str!("../docs/http-server.md")]
struct PageOnHttpServer;

/// Compiles the examples of the page on WebSocket.
#[cfg(all(doctest, feature = "websocket"))]
#[doc = include_str!("../docs/websocket.md")]
struct PageOnWebSocket;

/// Compiles the examples of the page on futures.
#[cfg(doctest)]
#[doc = include_str!("../docs/futures.md")]
struct PageOnFutures;

/// Compiles the examples of the page of recipes.
#[cfg(doctest)]
#[doc = include_str!("../docs/howto.md")]
struct PageOfRecipes;
