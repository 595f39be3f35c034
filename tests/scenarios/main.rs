//! Scenarios: what a user does, and what must come of it, over real sockets.

#[path = "../common/mod.rs"]
mod common;

mod accepting;
mod awaiting;
mod blocking;
mod callbacks;
mod calls;
mod cancelling;
mod closing;
mod connecting;
mod descriptors;
mod ends;
mod families;
mod futures;
mod incoming;
mod lines;
mod loops;
mod options;
mod pressure;
mod receiving;
mod reentrant;
mod regressions;
mod same_thread;
mod secure;
mod serving;
mod start_tls;
mod tasks;
mod util;
