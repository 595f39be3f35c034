//! "Near": the devices around you. The core talks, `ui` is what is seen; the boundary is [`near`].
#![forbid(unsafe_code)]

pub(crate) mod core;
pub(crate) mod device;
pub(crate) mod discovery;
pub(crate) mod link;
pub mod near;
pub mod packet;
pub mod pairing;
pub mod script;
pub mod store;
pub(crate) mod transfer;
pub mod ui;
