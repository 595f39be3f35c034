//! WebSockets, with Python's `websockets` at the other end, with peers by hand, and with each other.

mod clients;
#[path = "../common/mod.rs"]
mod common;
mod examples;
mod ours;
mod parties;
mod served;
