//! What both kinds of socket have: handles, the methods that receive, and the options of any socket. Each kind names its types
//! and how it shows a sender.

/// The traits of a handle and its weak form.
macro_rules! handle {
    ($socket:ident, $weak:ident) => {
        impl $socket {
            pub(super) fn from_core(core: std::rc::Rc<crate::udp::core::Core>) -> $socket {
                core.add_handle();
                $socket { core }
            }

            /// Returns a handle that does not keep the socket open.
            pub fn downgrade(&self) -> $weak {
                $weak { core: std::rc::Rc::downgrade(&self.core) }
            }
        }

        impl Clone for $socket {
            fn clone(&self) -> $socket {
                $socket::from_core(self.core.clone())
            }
        }

        impl Drop for $socket {
            fn drop(&mut self) {
                self.core.drop_handle();
            }
        }

        impl PartialEq for $socket {
            /// Returns whether both are handles to the same socket.
            fn eq(&self, other: &$socket) -> bool {
                std::rc::Rc::ptr_eq(&self.core, &other.core)
            }
        }

        impl Eq for $socket {}

        impl std::hash::Hash for $socket {
            fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
                std::rc::Rc::as_ptr(&self.core).hash(state);
            }
        }

        impl std::fmt::Debug for $socket {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($socket))
                    .field("local", &self.local())
                    .field("remote", &self.remote())
                    .field("open", &self.is_open())
                    .finish()
            }
        }

        impl std::os::fd::AsFd for $socket {
            /// Returns the file descriptor, or `/dev/null` once the socket is closed.
            fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
                self.core.lend()
            }
        }

        impl std::os::fd::AsRawFd for $socket {
            fn as_raw_fd(&self) -> std::os::fd::RawFd {
                std::os::fd::AsFd::as_fd(self).as_raw_fd()
            }
        }

        impl std::fmt::Debug for $weak {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($weak)).finish_non_exhaustive()
            }
        }

        impl $weak {
            /// Returns a handle to the socket, or `None` if it has been dropped.
            pub fn upgrade(&self) -> Option<$socket> {
                let core = self.core.upgrade()?;
                core.has_handles().then(|| $socket::from_core(core))
            }
        }

        impl glib::clone::Downgrade for $socket {
            type Weak = $weak;
            fn downgrade(&self) -> $weak {
                $socket::downgrade(self)
            }
        }

        impl glib::clone::Upgrade for $weak {
            type Strong = $socket;
            fn upgrade(&self) -> Option<$socket> {
                $weak::upgrade(self)
            }
        }
    };
}
pub(super) use handle;

/// The methods of any socket for datagrams. `$from` is the type of a sender, and `$shown` makes it from an
/// `Option<Endpoint>`.
macro_rules! datagram_methods {
    ($socket:ident, $from:ty, $shown:expr) => {
        impl $socket {
            // ---- receiving by callback ----

            /// Sets a callback that receives each datagram and its sender, empty datagrams included.
            ///
            /// Replaces any previous read callback. At most 64 datagrams are delivered per loop iteration before others are
            /// served; a flood is served at low priority. If the callback returns an error, it goes to
            /// [`error_cb`](Self::error_cb) or to the log, and the socket stays open.
            pub fn read(&self, mut callback: impl FnMut(&$socket, &[u8], $from) -> Result + 'static) {
                self.core.set_reader(Some(Box::new(move |core, data, from| {
                    callback(&$socket::from_core(core.clone()), data, $shown(from))
                })));
            }

            /// Removes the read callback. Further datagrams stay in the kernel's
            /// [receive buffer](Self::set_recv_buffer) as far as they fit.
            pub fn unread(&self) {
                self.core.set_reader(None);
            }

            /// Sets a callback for errors while there is a read callback: errors that the read callback returns, and those
            /// of receiving, such as refusals by the connected peer ([`Error::Refused`]). None of them closes the socket. An
            /// error that would repeat for ever, as of a socket that has yet to be connected or bound, comes once and removes
            /// the read callback.
            ///
            /// Replaces any previous callback. Without it, errors are logged, at most 10 per second (`error_log_rate` of the
            /// builder).
            pub fn error_cb(&self, mut callback: impl FnMut(&$socket, Error) + 'static) {
                self.core.set_on_error(Some(Box::new(move |core, error| {
                    callback(&$socket::from_core(core.clone()), error);
                })));
            }

            /// Removes the error callback.
            pub fn unset_error_cb(&self) {
                self.core.set_on_error(None);
            }

            // ---- receiving by asking ----

            /// Receives one datagram and its sender.
            ///
            /// # Blocking
            /// Until a datagram arrives or the [timeout](Self::set_timeout) expires.
            ///
            /// # Errors
            /// - [`Error::DatagramTruncated`] if the datagram has more than `max` bytes; the error contains the first `max`
            ///   bytes, the rest is lost.
            /// - [`Error::TimedOut`], or [`Error::NotReady`] if the timeout is zero.
            /// - [`Error::Refused`] and [`Error::Unreachable`] for a datagram that was sent earlier; the socket remains
            ///   usable.
            /// - [`Error::Closed`], [`Error::Io`].
            pub fn recv_from(&self, max: usize) -> Result<(Vec<u8>, $from)> {
                let (data, from) = self.core.recv_from(max)?;
                Ok((data, $shown(from)))
            }

            /// Receives one datagram into `buffer`. Returns its length and sender. See [`recv_from`](Self::recv_from).
            ///
            /// # Blocking
            /// See [`recv_from`](Self::recv_from).
            ///
            /// # Errors
            /// See [`recv_from`](Self::recv_from). With [`Error::DatagramTruncated`], the buffer contains the first bytes
            /// and the error's `data` is empty.
            pub fn recv_from_into(&self, buffer: &mut [u8]) -> Result<(usize, $from)> {
                let (size, from) = self.core.recv_from_into(buffer)?;
                Ok((size, $shown(from)))
            }

            /// Receives one datagram, for connected sockets.
            ///
            /// # Blocking
            /// See [`recv_from`](Self::recv_from).
            ///
            /// # Errors
            /// See [`recv_from`](Self::recv_from).
            pub fn recv(&self, max: usize) -> Result<Vec<u8>> {
                Ok(self.recv_from(max)?.0)
            }

            /// Receives one datagram into `buffer`, for connected sockets. Returns its length.
            ///
            /// # Blocking
            /// See [`recv_from`](Self::recv_from).
            ///
            /// # Errors
            /// See [`recv_from_into`](Self::recv_from_into).
            pub fn recv_into(&self, buffer: &mut [u8]) -> Result<usize> {
                Ok(self.recv_from_into(buffer)?.0)
            }

            /// Receives one datagram and its sender. See [`recv_from`](Self::recv_from).
            ///
            /// The future has no timeout; race it with a timer. It keeps the socket open. Cancel-safe: dropping it loses no
            /// datagram.
            ///
            /// # Errors
            /// See [`recv_from`](Self::recv_from), except those of the timeout.
            pub fn recv_from_future(&self, max: usize) -> impl Future<Output = Result<(Vec<u8>, $from)>> + use<> {
                let mut waiting = crate::udp::waiting::Waiting::new(&self.core, crate::udp::waiting::For::Input);
                let kept_open = self.clone();
                std::future::poll_fn(move |context| {
                    let _ = &kept_open;
                    waiting.poll_received(context, max).map_ok(|(data, from)| (data, $shown(from)))
                })
            }

            /// Receives one datagram, for connected sockets. See [`recv_from_future`](Self::recv_from_future).
            ///
            /// # Errors
            /// See [`recv_from_future`](Self::recv_from_future).
            pub fn recv_future(&self, max: usize) -> impl Future<Output = Result<Vec<u8>>> + use<> {
                let received = self.recv_from_future(max);
                async move { Ok(received.await?.0) }
            }

            // ---- the end ----

            /// Closes the socket. Callbacks are dropped, and pending futures fail with [`Error::Closed`]. The port or path is
            /// free again. Datagrams already passed to the kernel are still sent.
            #[doc(alias = "unbind")]
            pub fn close(&self) {
                self.core.close();
            }

            /// Returns whether the socket is open.
            pub fn is_open(&self) -> bool {
                self.core.is_open()
            }

            /// Sets the timeout of blocking calls on this socket.
            ///
            /// `None`, the default, means no timeout. Zero means non-blocking: calls that would block fail with
            /// [`Error::NotReady`]. Futures have no timeout.
            pub fn set_timeout(&self, limit: impl Into<Option<std::time::Duration>>) {
                self.core.timeout.set(limit.into());
            }

            // ---- buffers ----

            /// Sets the size of the receive buffer in bytes, including overhead (`SO_RCVBUF`). Datagrams that do not fit are
            /// lost, except on unix sockets, whose senders wait. The kernel doubles the value and limits it
            /// (`net.core.rmem_max`).
            ///
            /// # Errors
            /// [`Error::Closed`], [`Error::Io`].
            pub fn set_recv_buffer(&self, bytes: usize) -> Result {
                self.core.set(|fd| sockopt::set_socket_recv_buffer_size(fd, crate::udp::core::at_most(bytes)))
            }

            /// Returns the size of the receive buffer in bytes, as doubled and limited by the kernel.
            ///
            /// # Errors
            /// See [`set_recv_buffer`](Self::set_recv_buffer).
            pub fn recv_buffer(&self) -> Result<usize> {
                self.core.set(|fd| sockopt::socket_recv_buffer_size(fd))
            }

            /// Sets the size of the send buffer in bytes (`SO_SNDBUF`). While it is full, sending blocks. The kernel doubles
            /// the value and limits it (`net.core.wmem_max`). A message to a unix socket must fit into it.
            ///
            /// # Errors
            /// See [`set_recv_buffer`](Self::set_recv_buffer).
            pub fn set_send_buffer(&self, bytes: usize) -> Result {
                self.core.set(|fd| sockopt::set_socket_send_buffer_size(fd, crate::udp::core::at_most(bytes)))
            }

            /// Returns the size of the send buffer in bytes, as doubled and limited by the kernel.
            ///
            /// # Errors
            /// See [`set_recv_buffer`](Self::set_recv_buffer).
            pub fn send_buffer(&self) -> Result<usize> {
                self.core.set(|fd| sockopt::socket_send_buffer_size(fd))
            }
        }
    };
}
pub(super) use datagram_methods;

/// The setters of [`CommonOptions`], which a builder has as `common`.
macro_rules! common_setters {
    ($socket:ident) => {
        /// Sets the size of the receive buffer in bytes. Default: the kernel's.
        #[doc = concat!("See [`", stringify!($socket), "::set_recv_buffer`].")]
        pub fn recv_buffer(mut self, bytes: usize) -> Self {
            self.common.recv_buffer = Some(bytes);
            self
        }

        /// Sets the size of the send buffer in bytes. Default: the kernel's.
        #[doc = concat!("See [`", stringify!($socket), "::set_send_buffer`].")]
        pub fn send_buffer(mut self, bytes: usize) -> Self {
            self.common.send_buffer = Some(bytes);
            self
        }

        /// Sets the timeout of blocking calls. Default: none.
        #[doc = concat!("See [`", stringify!($socket), "::set_timeout`].")]
        pub fn timeout(mut self, limit: impl Into<Option<std::time::Duration>>) -> Self {
            self.common.timeout = limit.into();
            self
        }

        /// Limits log records about errors to this many per second. Default: 10. Further ones are counted, and their number is
        /// logged at the end of the second. With an `error_cb`, nothing is logged.
        pub fn error_log_rate(mut self, records_per_second: u32) -> Self {
            self.common.error_log_rate = Some(records_per_second);
            self
        }
    };
}
pub(super) use common_setters;
