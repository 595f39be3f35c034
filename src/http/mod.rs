// The public documentation of the module is in lib.rs. HTTP is spoken by hyper, over this crate's own connections. From the
// bottom up:
//
// | file | content |
// |---|---|
// | url, head, redirect, cookies, auth, decode, multipart | pure: what stands in heads, and codings |
// | body | bodies on their way out |
// | io | a socket as hyper reads and writes it |
// | traffic, connection, connect, pool | the client's connections |
// | exchange, stream | from a request to the end of its response |
// | response, taking, streaming, reading, download | what becomes of the body |
// | log, request, builder, client | the face of the client |
// | server | the server, with rules of its own on what comes |

mod auth;
mod body;
mod builder;
#[cfg(any(test, fuzzing))]
pub(crate) mod checks;
mod client;
mod connect;
mod connection;
mod cookies;
#[cfg(feature = "gzip")]
mod decode;
mod download;
mod exchange;
mod head;
mod io;
mod log;
mod multipart;
mod pool;
mod reading;
mod redirect;
mod request;
mod response;
mod server;
mod stream;
mod streaming;
mod taking;
mod traffic;
mod url;

pub use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
pub use builder::ClientBuilder;
pub use client::{Client, get, get_async, get_future};
pub use cookies::Cookies;
pub use log::LogEntry;
pub use multipart::Multipart;
pub use reading::Lines;
pub use request::{Progress, RequestBuilder};
pub use response::Response;
#[cfg(any(test, fuzzing))]
pub(crate) use server::check as check_server;
pub use server::{Access, Exchange, Part, Reply, Request, Requests, Routes, Server, ServerBuilder, ThreadsBuilder};
pub use url::encode;
