//! The limits of a connection, and how builders set them.

use std::time::Duration;

/// The limits of a connection. Shared by all that a server accepts until one of them changes its own.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The longest line, in bytes, without its newline.
    pub(crate) line_limit: usize,
    /// The most bytes that wait to be sent.
    pub(crate) send_limit: usize,
    /// The most bytes that one read callback gets.
    pub(crate) read_size: usize,
    /// How long a closed connection may go on sending what was queued.
    pub(crate) linger: Duration,
    /// How long connecting may take.
    pub(crate) connect_timeout: Duration,
    /// How long the hand-shake of TLS may take.
    pub(crate) handshake_timeout: Duration,
    /// How long a blocking call waits for the peer. `None`: without end.
    pub(crate) timeout: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            line_limit: 1 << 20,
            send_limit: 16 << 20,
            read_size: 64 << 10,
            linger: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(10),
            timeout: None,
        }
    }
}

/// The setters that both builders have.
macro_rules! limit_setters {
    () => {
        /// How long the hand-shake of TLS may take, once connected. 10 s. After that the connection is given up.
        pub fn handshake_timeout(mut self, limit: Duration) -> Self {
            self.options.handshake_timeout = limit;
            self
        }

        /// How long a blocking call waits for the peer. `None`, the default, is without end.
        pub fn timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
            self.options.timeout = limit.into();
            self
        }

        /// The longest line that is accepted, in bytes without its newline. 1 MiB. A longer one ends the connection.
        pub fn line_limit(mut self, bytes: usize) -> Self {
            self.options.line_limit = bytes;
            self
        }

        /// The most bytes that may wait to be sent on one connection. 16 MiB. Beyond it [`Socket::send`] fails.
        pub fn send_limit(mut self, bytes: usize) -> Self {
            self.options.send_limit = bytes;
            self
        }

        /// The most bytes that a callback of [`Socket::read`] gets at a time. 64 KiB.
        pub fn read_size(mut self, bytes: usize) -> Self {
            self.options.read_size = bytes.max(1);
            self
        }

        /// How long a closed connection may go on sending what was queued, and wait for the peer to close. 5 s. With
        /// zero, the system alone finishes what it has taken.
        pub fn linger(mut self, limit: Duration) -> Self {
            self.options.linger = limit;
            self
        }
    };
}

pub(crate) use limit_setters;
