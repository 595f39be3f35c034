//! "Near": the devices around you. The core talks, `ui` is what is seen; the boundary is [`near`].
#![forbid(unsafe_code)]

pub(crate) mod core;
pub mod near;
