//! The client. From the bottom up:
//!
//! | file | content |
//! |---|---|
//! | url, head, redirect, cookies, auth, decode, multipart | pure: what stands in heads, and codings |
//! | body | bodies on their way out |
//! | io | a socket as hyper reads and writes it |
//! | traffic, connection, connect, pool | its connections |
//! | exchange, stream | from a request to the end of its response |
//! | response, taking, streaming, reading, download | what becomes of the body |
//! | log, request, builder, handle | its face |

mod auth;
mod body;
mod builder;
#[cfg(any(test, fuzzing))]
pub(crate) mod checks;
mod connect;
mod connection;
mod cookies;
#[cfg(feature = "gzip")]
mod decode;
mod download;
mod exchange;
mod handle;
mod head;
mod io;
mod log;
mod multipart;
mod pool;
mod reading;
mod redirect;
mod request;
mod response;
mod stream;
mod streaming;
mod taking;
mod traffic;
mod url;

pub use builder::ClientBuilder;
pub use cookies::Cookies;
pub use handle::{Client, get, get_async, get_future};
pub use log::LogEntry;
pub use multipart::Multipart;
pub use reading::Lines;
pub use request::{Progress, RequestBuilder};
pub use response::Response;
pub use url::encode;
