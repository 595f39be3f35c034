//! Scenarios: what a user does, and what must come of it, over real sockets.

mod callbacks;
mod closing;
mod util;
