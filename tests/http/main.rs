//! HTTP against real clients and servers, and against peers that break the rules.

#[path = "../common/mod.rs"]
mod common;
mod server;
