//! Host names to addresses, and services to ports.
//!
//! `lookup` and `service` have the public functions, `plan` knows which addresses need no lookup, `resolver` resolves the others.
//! `srv` reads SRV records.

mod interfaces;
mod lookup;
mod plan;
mod resolver;
mod service;
mod srv;

pub use interfaces::{Interface, InterfaceAddress, interfaces};
pub(crate) use lookup::{LIMIT, blocking, look_up, needs_look_up};
pub use lookup::{lookup, lookup_async, lookup_future, lookup_port, lookup_timeout};
pub(crate) use plan::{Plan, interleave, local_addresses, plan, plan_with_any_port, port_number, unknown_interface};
pub(crate) use resolver::{LOOKUP_THREAD, Lookup, RESOLUTION_DELAY, wait_for_lookups};
pub(crate) use service::in_order;
pub use service::{lookup_service, lookup_service_async, lookup_service_future};
#[cfg(any(test, fuzzing))]
pub(crate) use srv::check as check_srv;
pub(crate) use srv::{MOST as MOST_TARGETS, Srv};
