//! Records of requests that are done with, for a program's access log.

use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode, Version};

use crate::address::Endpoint;
use crate::log::Printable;

pub(super) type OnAccess = Rc<dyn Fn(&Access)>;

/// A request that has been answered, as [`ServerBuilder::log`](crate::http::ServerBuilder::log) passes it to the program.
///
/// As text it is one line: `127.0.0.1:40000 "GET /index.html HTTP/1.1" 200 5120 B 1.2 ms`. Text from the client is escaped.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Access {
    /// The client's address.
    pub remote: Endpoint,
    /// The method.
    pub method: Method,
    /// The path and query as they came. Empty for a request that was refused before it could be read.
    pub target: String,
    /// The version.
    pub version: Version,
    /// The status of the reply.
    pub status: StatusCode,
    /// The length of the reply's body as far as it has been sent, in bytes.
    pub sent: u64,
    /// Whether the reply has been sent completely. If not, the client went away, or the body failed.
    pub complete: bool,
    /// The time from the end of the request's head to the end of the reply.
    pub duration: Duration,
    pub(super) started: Instant,
}

impl Access {
    pub(super) fn finish(&mut self, sent: u64, complete: bool) {
        self.sent = sent;
        self.complete = complete;
        self.duration = self.started.elapsed();
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Access { remote, method, target, version, status, sent, .. } = self;
        let cut = if self.complete { "" } else { " (cut)" };
        let milliseconds = self.duration.as_secs_f64() * 1000.0;
        let (target, status) = (Printable(target), status.as_u16());
        write!(f, "{remote} \"{method} {target} {version:?}\" {status} {sent} B{cut} {milliseconds:.1} ms")
    }
}
