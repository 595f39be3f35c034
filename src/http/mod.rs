//! HTTP by hyper over this crate's own connections. Uses public names of the floors below only.
//
// | file | content |
// |---|---|
// | head | pure: the checks of heads that hyper does not make |
// | body | bodies on their way out |
// | io | a socket as hyper reads and writes it |

#[allow(dead_code, reason = "for the client and the server, which are still to come")]
mod body;
#[allow(dead_code, reason = "for the client and the server, which are still to come")]
mod head;
#[allow(dead_code, reason = "for the client and the server, which are still to come")]
mod io;
