//! Scenarios: what a user does, and what must come of it, over real sockets.

mod blocking;
mod callbacks;
mod closing;
mod connecting;
mod descriptors;
mod loops;
mod regressions;
mod secure;
mod serving;
mod util;
