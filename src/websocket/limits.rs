//! Options that client and server have in common: the limits of a connection.

use std::time::Duration;

use super::handle::WebSocket;
use crate::error::{Error, Result, refuse_zeros};

/// Limits for each connection, where they are not the default.
#[derive(Clone, Debug, Default)]
pub(super) struct Limits {
    pub(super) message_limit: Option<usize>,
    pub(super) ping_interval: Option<Option<Duration>>,
    pub(super) pong_timeout: Option<Duration>,
    pub(super) ping_limit: Option<u32>,
    pub(super) send_limit: Option<usize>,
    pub(super) linger: Option<Duration>,
}

impl Limits {
    /// Fails if a limit cannot be kept.
    pub(super) fn check(&self) -> Result {
        self.message_limit.map_or(Ok(()), check_message_limit)?;
        self.ping_interval.map_or(Ok(()), check_ping_interval)?;
        self.pong_timeout.map_or(Ok(()), check_pong_timeout)?;
        self.send_limit.map_or(Ok(()), check_send_limit)
    }

    /// # Errors
    /// As [`Limits::check`].
    pub(super) fn apply(&self, ws: &WebSocket) -> Result {
        self.message_limit.map_or(Ok(()), |bytes| ws.set_message_limit(bytes))?;
        self.ping_interval.map_or(Ok(()), |interval| ws.set_ping_interval(interval))?;
        self.pong_timeout.map_or(Ok(()), |limit| ws.set_pong_timeout(limit))?;
        self.ping_limit.into_iter().for_each(|pings| ws.set_ping_limit(pings));
        self.send_limit.map_or(Ok(()), |bytes| ws.set_send_limit(bytes))?;
        self.linger.into_iter().for_each(|limit| ws.set_linger(limit));
        Ok(())
    }
}

/// The owner of these options, as errors name it.
pub(super) const OWNER: &str = "a WebSocket";

fn check(is_zero: bool, name: &str) -> Result {
    refuse_zeros(OWNER, [(name, is_zero)])
}

pub(super) fn check_message_limit(bytes: usize) -> Result {
    check(bytes == 0, "message_limit")
}

pub(super) fn check_ping_interval(interval: Option<Duration>) -> Result {
    let is_zero = interval.is_some_and(|interval| interval.is_zero());
    check(is_zero, "ping_interval").map_err(|error| Error::InvalidOption(format!("{error}; None sends no pings")))
}

pub(super) fn check_pong_timeout(limit: Duration) -> Result {
    check(limit.is_zero(), "pong_timeout")
}

pub(super) fn check_send_limit(bytes: usize) -> Result {
    check(bytes == 0, "send_limit")
}

/// The setters of [`Limits`], which builders have in common.
macro_rules! limit_setters {
    () => {
        /// See [`WebSocket::set_message_limit`]. Default: 1 MiB.
        pub fn message_limit(mut self, bytes: usize) -> Self {
            self.limits.message_limit = Some(bytes);
            self
        }

        /// See [`WebSocket::set_ping_interval`]. Default: 30 s.
        pub fn ping_interval(mut self, interval: impl Into<Option<std::time::Duration>>) -> Self {
            self.limits.ping_interval = Some(interval.into());
            self
        }

        /// See [`WebSocket::set_pong_timeout`]. Default: 20 s.
        pub fn pong_timeout(mut self, limit: std::time::Duration) -> Self {
            self.limits.pong_timeout = Some(limit);
            self
        }

        /// See [`WebSocket::set_ping_limit`]. Default: 100.
        pub fn ping_limit(mut self, pings: u32) -> Self {
            self.limits.ping_limit = Some(pings);
            self
        }

        /// See [`WebSocket::set_send_limit`]. Default: 16 MiB.
        pub fn send_limit(mut self, bytes: usize) -> Self {
            self.limits.send_limit = Some(bytes);
            self
        }

        /// See [`WebSocket::set_linger`]. Default: 5 s.
        pub fn linger(mut self, limit: std::time::Duration) -> Self {
            self.limits.linger = Some(limit);
            self
        }
    };
}

pub(super) use limit_setters;
