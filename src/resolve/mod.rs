//! Names to numbers: hosts to addresses, services to ports.
//!
//! `plan` reads an address and knows what needs no lookup, `resolver` looks names up, `lookup` has the public calls.

mod lookup;
mod plan;
mod resolver;

pub(crate) use lookup::{LIMIT, blocking, look_up, needs_look_up};
pub use lookup::{lookup, lookup_async, lookup_future, lookup_port, lookup_timeout};
pub(crate) use plan::{Plan, interface, interleave, local_addresses, plan, port_number, unknown_interface};
pub(crate) use resolver::{LOOKUP_THREAD, Lookup, RESOLUTION_DELAY, wait_for_lookups};
