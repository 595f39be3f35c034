//! HTTP: the client and the server against real servers, clients and proxies, and against peers of the tests' own that lie, hang and
//! stop midway.

mod cancelled;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod examples;
mod given_up;
mod hostile;
#[path = "../model/idle.rs"]
mod idle;
mod manners;
#[path = "../common/name_server.rs"]
mod name_server;
mod nginx;
mod proxied;
mod scripted;
mod server;
