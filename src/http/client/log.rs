//! What a program may log of an exchange: nothing secret.

use std::fmt;
use std::time::Duration;

use ::http::{Method, StatusCode};

use super::url::Url;
use crate::error::Error;

/// An exchange that has ended, for [`ClientBuilder::log`](super::ClientBuilder::log). Displays as one line.
///
/// User, password and query of the URL are left out. Header fields and bodies are not part of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct LogEntry<'a> {
    /// The method.
    pub method: &'a Method,
    /// The URL without user, password and query.
    pub url: String,
    /// The status, or the error if none came.
    pub result: Result<StatusCode, &'a Error>,
    /// The time from sending to the head of the response, including connecting.
    pub time: Duration,
    /// Whether a kept connection was used.
    pub is_reused: bool,
}

impl<'a> LogEntry<'a> {
    pub(super) fn url(url: &Url) -> String {
        format!("{}{}", url.origin, url.path())
    }
}

impl fmt::Display for LogEntry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LogEntry { method, url, result, time, .. } = self;
        write!(f, "{method} {url}: ")?;
        match result {
            Ok(status) => write!(f, "{}", status.as_u16())?,
            Err(error) => write!(f, "{error}")?,
        }
        write!(f, " after {} ms", time.as_millis())
    }
}
