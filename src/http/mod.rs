// The public documentation of the module is in lib.rs. HTTP is spoken by hyper, over this crate's own connections. Client and server
// know nothing of each other: each has rules of its own on what comes.

mod client;
mod server;

/// The most that `max_headers` may be: http's map has no room for more than 24,576 fields.
const MAX_FIELDS: usize = 10_000;

pub use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
#[cfg(any(test, fuzzing))]
pub(crate) use client::checks;
pub use client::{
    Client, ClientBuilder, Cookies, Lines, LogEntry, Multipart, Progress, RequestBuilder, Response, encode, get,
    get_async, get_future,
};
#[cfg(any(test, fuzzing))]
pub(crate) use server::check as check_server;
pub use server::{Access, Exchange, Part, Reply, Request, Requests, Routes, Server, ServerBuilder, ThreadsBuilder};
