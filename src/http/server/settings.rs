//! The limits and rules of a server. Plain values, which each thread of a server gets a copy of.

use std::time::Duration;

use super::gate::HeadLimits;
use crate::error::{Error, Result};

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
    pub(super) fn check(&self) -> Result {
        let times = [
            ("header_timeout", self.header_timeout),
            ("body_timeout", self.body_timeout),
            ("write_timeout", self.write_timeout),
            ("keep_idle", self.keep_idle),
        ];
        match times.into_iter().find(|(_, time)| *time == Some(Duration::ZERO)) {
            Some((name, _)) => Err(Error::InvalidOption(format!("{name} is zero; None takes the limit away"))),
            None => Ok(()),
        }
    }
}
