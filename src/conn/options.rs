//! The options of a connection, and the setters that builders share.

use std::time::Duration;

use super::line_ending::{LineEnding, LineRule};
use super::writing::GATHER;
use crate::sys::Tuning;

/// The options of a connection. All that a server accepts share one value until one of them changes its own.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The longest line, in bytes, without its ending.
    pub(crate) line_limit: usize,
    pub(crate) line_ending: LineEnding,
    /// The most bytes in the send queue.
    pub(crate) send_limit: usize,
    /// The send queue is full from this many bytes until it has drained to the low-water mark.
    pub(crate) high_water_mark: usize,
    pub(crate) low_water_mark: usize,
    /// The most bytes that a read callback gets at once.
    pub(crate) read_size: usize,
    /// The longest time without progress while a closed connection sends its queue.
    pub(crate) linger: Duration,
    /// The timeout for connecting, without the TLS handshake.
    pub(crate) connect_timeout: Duration,
    /// The timeout of the TLS handshake.
    pub(crate) handshake_timeout: Duration,
    /// The timeout of a blocking call. `None`: no timeout.
    pub(crate) timeout: Option<Duration>,
    /// The connection ends after this time without traffic.
    pub(crate) idle_timeout: Option<Duration>,
    /// The connection ends after this time without anything received.
    pub(crate) receive_timeout: Option<Duration>,
    pub(crate) tuning: Tuning,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            line_limit: 1 << 20,
            line_ending: LineEnding::Lf,
            send_limit: 16 << 20,
            high_water_mark: 1 << 20,
            low_water_mark: 256 << 10,
            read_size: 64 << 10,
            linger: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(10),
            timeout: None,
            idle_timeout: None,
            receive_timeout: None,
            tuning: Tuning::default(),
        }
    }
}

impl Options {
    /// In a turn less than this is queued without further ado.
    #[inline]
    pub(super) fn most_in_turn(&self) -> usize {
        GATHER.min(self.send_limit).min(self.high_water_mark)
    }

    #[inline]
    pub(crate) fn line_rule(&self) -> LineRule {
        LineRule { limit: self.line_limit, ending: self.line_ending }
    }
}

/// Defines the setters that `SocketBuilder` and `ServerBuilder` share.
macro_rules! limit_setters {
    () => {
        /// Sets the timeout of the TLS handshake, from when the connection is established. Default: 10 s.
        pub fn handshake_timeout(mut self, limit: Duration) -> Self {
            self.options.handshake_timeout = limit;
            self
        }

        /// Sets the timeout of blocking calls on a connection. `None`, the default, means no timeout; zero means
        /// non-blocking.
        ///
        /// The timeout of [`Server::accept`](crate::Server::accept) is set by
        /// [`Server::set_accept_timeout`](crate::Server::set_accept_timeout).
        pub fn timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
            self.options.timeout = limit.into();
            self
        }

        /// Sets the time without traffic in either direction after which the connection ends with [`Error::TimedOut`].
        /// `None`, the default, means no timeout. Needs a running main loop.
        ///
        /// Data that is sent counts as traffic, whether or not the peer answers. To notice a peer that is gone, use
        /// [`receive_timeout`](Self::receive_timeout), or [`user_timeout`](Self::user_timeout) together with
        /// [`keep_alive`](Self::keep_alive).
        pub fn idle_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
            self.options.idle_timeout = limit.into();
            self
        }

        /// Sets the time without received data after which the connection ends with [`Error::TimedOut`]. `None`, the
        /// default, means no timeout. Needs a running main loop.
        ///
        /// Use it with protocols whose peers must answer or send pings: unlike [`idle_timeout`](Self::idle_timeout) it
        /// ends a connection whose peer is silent while data is sent to it. Time in which the main loop was held up, or
        /// reading was [paused](Socket::pause), does not count, nor is a peer silent whose data has not been read.
        pub fn receive_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
            self.options.receive_timeout = limit.into();
            self
        }

        /// Configures TCP keep-alive from the start. See [`Socket::set_keep_alive`].
        pub fn keep_alive(mut self, keep_alive: impl Into<Option<KeepAlive>>) -> Self {
            self.options.tuning.keep_alive = Some(keep_alive.into());
            self
        }

        /// Limits the time that sent data may stay unacknowledged, from the start. See [`Socket::set_user_timeout`]. The
        /// peer's kernel acknowledges, whatever its program does; for the latter see
        /// [`receive_timeout`](Self::receive_timeout).
        pub fn user_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
            self.options.tuning.user_timeout = limit.into();
            self
        }

        /// Sets `TCP_NODELAY` from the start. See [`Socket::set_no_delay`].
        pub fn no_delay(mut self, no_delay: bool) -> Self {
            self.options.tuning.no_delay = Some(no_delay);
            self
        }

        /// Sets the traffic class from the start. See [`Socket::set_tos`].
        pub fn tos(mut self, class: u8) -> Self {
            self.options.tuning.tos = Some(class);
            self
        }

        /// Sets the size of the kernel's receive buffer from the start. See [`Socket::set_recv_buffer`].
        ///
        /// A size over 64 KiB helps TCP only if it is set here, before the connection is established.
        pub fn recv_buffer(mut self, bytes: usize) -> Self {
            self.options.tuning.recv_buffer = Some(bytes);
            self
        }

        /// Sets the size of the kernel's send buffer from the start. See [`Socket::set_send_buffer`].
        pub fn send_buffer(mut self, bytes: usize) -> Self {
            self.options.tuning.send_buffer = Some(bytes);
            self
        }

        /// Sets how many received file descriptors may wait to be [taken](Socket::take_fds). Default: 0. Unix sockets
        /// only.
        ///
        /// Excess descriptors are closed and logged. With 0, a peer that [sends one](Socket::send_fd) gets an error
        /// (`EPERM`) since Linux 6.16. Before, and on sockets made elsewhere ([`Socket::from_fd`]), the descriptors are
        /// closed and the data is received.
        pub fn accept_fds(mut self, most: usize) -> Self {
            self.options.tuning.descriptors = most;
            self
        }

        /// Sets the longest accepted line, in bytes without its ending. Default: 1 MiB. A longer line ends the connection
        /// with [`Error::LineTooLong`] and, for the peer, a reset. What has been received of it is in
        /// [`Disconnect::leftover`](crate::Disconnect::leftover).
        pub fn line_limit(mut self, bytes: usize) -> Self {
            self.options.line_limit = bytes;
            self
        }

        /// Sets the ending of lines, for sending and receiving. Default: [`LineEnding::Lf`]. See
        /// [`Socket::set_line_ending`].
        pub fn line_ending(mut self, ending: LineEnding) -> Self {
            self.options.line_ending = ending;
            self
        }

        /// Sets the maximum length of the send queue, in bytes. Default: 16 MiB. [`Socket::send`] fails beyond it.
        pub fn send_limit(mut self, bytes: usize) -> Self {
            self.options.send_limit = bytes;
            self
        }

        /// Sets the length of the send queue, in bytes, from which it is [full](Socket::is_full). Default: 1 MiB, and
        /// at most the send limit.
        pub fn high_water_mark(mut self, bytes: usize) -> Self {
            self.options.high_water_mark = bytes;
            self
        }

        /// Sets the length of the send queue, in bytes, at which a [full](Socket::is_full) one has drained. Default:
        /// 256 KiB, and always below the high-water mark.
        pub fn low_water_mark(mut self, bytes: usize) -> Self {
            self.options.low_water_mark = bytes;
            self
        }

        /// Sets the most bytes that a callback of [`Socket::read`] gets at once. Default: 64 KiB. Zero counts as 1.
        pub fn read_size(mut self, bytes: usize) -> Self {
            self.options.read_size = bytes.max(1);
            self
        }

        /// Sets how long a closed connection may go on sending its queue without progress, and then wait for the peer
        /// to close. Default: 5 s.
        ///
        /// With zero, only data that the kernel has accepted is sent.
        pub fn linger(mut self, limit: Duration) -> Self {
            self.options.linger = limit;
            self
        }
    };
}

pub(crate) use limit_setters;
