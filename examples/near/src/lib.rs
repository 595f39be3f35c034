//! "Near": the devices around you. The core talks, `ui` is what is seen; the boundary is [`near`].
#![forbid(unsafe_code)]

pub mod command_line;
pub(crate) mod consent;
pub(crate) mod core;
pub(crate) mod device;
pub(crate) mod discovery;
pub(crate) mod holder;
pub(crate) mod link;
pub(crate) mod links;
pub mod near;
pub mod packet;
pub mod pairing;
pub(crate) mod part;
pub mod place;
pub(crate) mod progress;
pub(crate) mod rests;
pub mod script;
pub mod store;
pub(crate) mod talk;
pub(crate) mod transfer;
pub mod ui;
