//! Names to numbers: hosts to addresses, services to ports.

mod lookup;
mod plan;

pub(crate) use lookup::{LIMIT, blocking, look_up, look_up_on_thread, needs_look_up};
pub use lookup::{lookup, lookup_async, lookup_future, lookup_port, lookup_timeout};
pub(crate) use plan::{
    LookUp, Plan, interface, local_addresses, look_up_blocking, plan, port_number, unknown_interface,
};
