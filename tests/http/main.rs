//! HTTP: the client and the server against real servers, clients and proxies, and against peers of the tests' own that lie, hang and
//! stop midway.

mod client;
#[path = "../common/mod.rs"]
mod common;
mod hostile;
mod manners;
mod scripted;
mod server;
