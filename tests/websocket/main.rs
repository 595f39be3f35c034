//! WebSockets, with Python's `websockets` at the other end, with peers by hand, and with each other.

#[path = "../common/mod.rs"]
mod common;
mod parties;
mod served;
