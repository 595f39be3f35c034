//! The limits and rules of a server. Plain values, which each thread of a server gets a copy of.

use std::time::Duration;

use super::gate::HeadLimits;
use crate::error::{Error, Result, refuse_zeros};
use crate::http::MAX_FIELDS;

/// The limits of a server, and who may ask it.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) head: HeadLimits,
    pub(super) header_timeout: Option<Duration>,
    pub(super) keep_idle: Option<Duration>,
    pub(super) body_limit: usize,
    pub(super) body_timeout: Option<Duration>,
    pub(super) write_timeout: Option<Duration>,
    pub(super) requests_per_connection: u32,
    /// Hosts that the server is asked for, in lower case, with or without a port.
    pub(super) hosts: Vec<String>,
    /// Origins whose pages may send more than `GET`, in lower case.
    pub(super) origins: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            head: HeadLimits::default(),
            header_timeout: Some(Duration::from_secs(10)),
            keep_idle: Some(Duration::from_secs(15)),
            body_limit: 1 << 20,
            body_timeout: Some(Duration::from_secs(30)),
            write_timeout: Some(Duration::from_secs(30)),
            requests_per_connection: 1000,
            hosts: Vec::new(),
            origins: Vec::new(),
        }
    }
}

/// The most of a body that nobody has asked for that is read away, in bytes, so that the connection can be used again.
pub(super) const DISCARD: u64 = 256 << 10;

/// The time for that.
pub(super) const DISCARD_TIME: Duration = Duration::from_secs(2);

impl Settings {
    /// # Errors
    /// [`Error::InvalidOption`] for an option that cannot be kept.
    pub(super) fn check(&self, max_connections: usize) -> Result {
        let times = [
            ("header_timeout", self.header_timeout),
            ("body_timeout", self.body_timeout),
            ("write_timeout", self.write_timeout),
            ("keep_idle", self.keep_idle),
        ];
        let counts = [
            ("header_limit", self.head.head),
            ("max_headers", self.head.fields),
            ("target_limit", self.head.target),
            ("requests_per_connection", self.requests_per_connection.try_into().unwrap_or(usize::MAX)),
            ("max_connections", max_connections),
        ];
        let times = times.map(|(name, limit)| (name, limit == Some(Duration::ZERO)));
        refuse_zeros("an HTTP server", times.into_iter().chain(counts.map(|(name, count)| (name, count == 0))))?;
        if self.head.fields > MAX_FIELDS {
            return Err(Error::InvalidOption(format!("max_headers of an HTTP server must not exceed {MAX_FIELDS}")));
        }
        // What can never be the same as a field of a request would turn everybody away.
        let is_host =
            |text: &str| !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || "/*@?#".contains(c));
        if let Some(host) = self.hosts.iter().find(|host| !is_host(host)) {
            return Err(Error::InvalidOption(format!(
                "hosts: {host:?} is no host, such as desk.example or desk.example:8080"
            )));
        }
        let is_origin =
            |text: &str| text.split_once("://").is_some_and(|(scheme, host)| !scheme.is_empty() && is_host(host));
        if let Some(origin) = self.origins.iter().find(|origin| !is_origin(origin) && *origin != "null") {
            let expected = "such as https://app.example, without a path";
            return Err(Error::InvalidOption(format!("origins: {origin:?} is no origin, {expected}")));
        }
        Ok(())
    }
}
