//! WebSockets, with Python's `websockets` at the other end, with peers by hand, and with each other.

mod clients;
#[path = "../common/mod.rs"]
mod common;
mod examples;
#[path = "../common/name_server.rs"]
mod name_server;
mod node;
mod ours;
mod proxied;
mod pythons;
mod served;
