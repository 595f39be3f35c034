//! The limits of a connection, and how builders set them.

use std::time::Duration;

use crate::sys::Tuning;

/// The limits of a connection. Shared by all that a server accepts until one of them changes its own.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The longest line, in bytes, without its newline.
    pub(crate) line_limit: usize,
    /// The most bytes that wait to be sent.
    pub(crate) send_limit: usize,
    /// From so many on the queue counts as full, until no more than the second are left.
    pub(crate) high_water_mark: usize,
    pub(crate) low_water_mark: usize,
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
    /// After how long without traffic in either direction the connection ends.
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) tuning: Tuning,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            line_limit: 1 << 20,
            send_limit: 16 << 20,
            high_water_mark: 1 << 20,
            low_water_mark: 256 << 10,
            read_size: 64 << 10,
            linger: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(10),
            timeout: None,
            idle_timeout: None,
            tuning: Tuning::default(),
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

        /// How long a blocking call on a connection waits for the peer. `None`, the default, is without end; with zero it
        /// does not wait. (How long a server waits for a client is set by
        /// [`Server::set_accept_timeout`](crate::Server::set_accept_timeout).)
        pub fn timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
            self.options.timeout = limit.into();
            self
        }

        /// After how long without traffic in either direction the connection ends, with [`Error::TimedOut`]. `None`, the
        /// default, is never. The main loop sees to it.
        pub fn idle_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
            self.options.idle_timeout = limit.into();
            self
        }

        /// As [`Socket::set_keep_alive`], from the start.
        pub fn keep_alive(mut self, keep_alive: impl Into<Option<KeepAlive>>) -> Self {
            self.options.tuning.keep_alive = Some(keep_alive.into());
            self
        }

        /// As [`Socket::set_no_delay`], from the start.
        pub fn no_delay(mut self, no_delay: bool) -> Self {
            self.options.tuning.no_delay = Some(no_delay);
            self
        }

        /// As [`Socket::set_tos`], from the start.
        pub fn tos(mut self, class: u8) -> Self {
            self.options.tuning.tos = Some(class);
            self
        }

        /// As [`Socket::set_recv_buffer`], from the start, which for TCP is the only time when a size over 64 KiB helps.
        pub fn recv_buffer(mut self, bytes: usize) -> Self {
            self.options.tuning.recv_buffer = Some(bytes);
            self
        }

        /// As [`Socket::set_send_buffer`], from the start.
        pub fn send_buffer(mut self, bytes: usize) -> Self {
            self.options.tuning.send_buffer = Some(bytes);
            self
        }

        /// How many descriptors that the peer has [sent along](Socket::send_fd) may wait to be
        /// [taken](Socket::take_fds). What would be more is closed, and logged. 0, the default, turns all away: whoever
        /// sends one gets an error (`EPERM`) since Linux 6.16; before, and on sockets made elsewhere ([`Socket::from_fd`]),
        /// they are closed, and the bytes that they came with are taken. Unix sockets alone.
        pub fn accept_fds(mut self, most: usize) -> Self {
            self.options.tuning.descriptors = most;
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

        /// From so many bytes waiting to be sent on, a connection is [full](Socket::is_full). 1 MiB, and never more than the
        /// send limit.
        pub fn high_water_mark(mut self, bytes: usize) -> Self {
            self.options.high_water_mark = bytes;
            self
        }

        /// When no more than so many bytes wait to be sent, a connection that was [full](Socket::is_full) is so no longer.
        /// 256 KiB, and always below the high mark.
        pub fn low_water_mark(mut self, bytes: usize) -> Self {
            self.options.low_water_mark = bytes;
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
