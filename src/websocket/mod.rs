//! WebSocket (RFC 6455). Frames are read by tungstenite (`codec`), whose bytes come from a `Socket` and go
//! to one; what is around them is in `session`.
//!
//! ```text
//!           close(), drop, error        the peer's close frame, its end, or the time is up
//!   Open ──────────────────────▶ Closing ──────────────────────────────────────────────▶ Ended
//!    │        (close frame sent; messages are discarded)                                   ▲
//!    └─────────────────────────────────────────────────────────────────────────────────────┘
//!              the peer's close frame, a violation, the end of the connection, abort()
//! ```
//!
//! | to find | look into |
//! |---|---|
//! | what the peer sends, and its limits | `codec` |
//! | reading, delivering, sending | `session` |
//! | how it ends | `ending`, `close` |
//! | pings and pongs | `keeping_alive` |
//! | the opening handshake: its rules, the client's, the server's | `handshake`, `builder`, `server` |
//! | the faces | `handle`, `futures` |

mod builder;
#[cfg(any(test, fuzzing))]
pub(crate) mod checks;
mod close;
mod codec;
mod ending;
mod frame;
mod futures;
mod handle;
mod handshake;
mod keeping_alive;
mod limits;
mod message;
mod server;
mod session;
#[cfg(test)]
mod tests;

pub use builder::Builder;
pub use close::{Close, Code, Disconnect};
pub use futures::Messages;
pub use handle::{WeakWebSocket, WebSocket};
pub use message::{Message, OwnedMessage, ToMessage};
pub use server::{Server, ServerBuilder};
