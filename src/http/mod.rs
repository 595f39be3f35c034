//! HTTP by hyper over this crate's own connections.
//
// | file | content |
// |---|---|
// | head | pure: the checks of heads that hyper does not make |
// | body | bodies on their way out |
// | io | a socket as hyper reads and writes it |
// | server | the server, with rules of its own on what comes |

#[allow(dead_code, reason = "for the client, which is still to come")]
mod body;
#[allow(dead_code, reason = "for the client, which is still to come")]
mod head;
#[allow(dead_code, reason = "for the client, which is still to come")]
mod io;
mod server;

pub use server::{Access, Reply, Request, Routes, Server, ServerBuilder};
