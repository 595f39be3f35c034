//! TLS on a connection that is open, as protocols with STARTTLS use it.

use gio::prelude::*;

use super::Socket;
use crate::connect::start_tls;
use crate::error::Result;
use crate::tls::StartTls;

/// # Starting TLS later
/// For protocols that begin in plaintext and agree to go on in TLS, such as SMTP, IMAP, XMPP and FTP (their `STARTTLS`).
///
/// The socket stays the same: its handles, callbacks, options and its place in a server's list are kept. What was sent
/// before goes out first, in plaintext. What is sent from then on goes out encrypted, after the handshake. Nothing is
/// delivered before the handshake is done.
///
/// **What was received and not yet delivered is an error** ([`Error::Plaintext`](crate::Error::Plaintext)), and ends the
/// connection: an attacker on the path could have added it, so that it would be taken for something the verified peer has
/// said (CVE-2011-0411). So a server queues its go-ahead and starts TLS in the same callback, or between the same two awaits.
impl Socket {
    /// Starts TLS on this connection.
    ///
    /// `role` is a [`ClientTls`](crate::ClientTls) or a [`ServerTls`](crate::ServerTls), whichever side connected. A client
    /// verifies the peer as [`connect`](Socket::connect) does for the address that was given there. For a connection that was
    /// accepted or made of file descriptors, `ClientTls` must say whom to trust.
    ///
    /// Queued data goes out first, in plaintext. After a failed handshake, or if there was undelivered data, the connection
    /// is closed, and the disconnect callback gets the same error. Closing the connection during the handshake discards what
    /// is queued.
    ///
    /// # Blocking
    /// Until the handshake is done, at most the [handshake timeout](crate::socket::SocketBuilder::handshake_timeout) (10 s).
    /// No callback runs meanwhile. In a callback, use [`start_tls_async`](Socket::start_tls_async).
    ///
    /// # Errors
    /// - [`Error::Plaintext`](crate::Error::Plaintext) if data had been received and not delivered, or if the peer does not
    ///   speak TLS.
    /// - [`Error::Unsupported`](crate::Error::Unsupported) if the connection uses TLS already, if it passes through an `https://`
    ///   [proxy](crate::socket::Proxy::url), if a handshake is in progress, if the peer belongs to the same thread, or for the
    ///   client's role on a unix socket without [`server_name`](crate::ClientTls::server_name).
    /// - [`Error::TlsSettings`](crate::Error::TlsSettings) or [`Error::Identity`](crate::Error::Identity) if the settings are
    ///   unusable. The connection goes on in plaintext after these and the ones before.
    /// - [`Error::Closed`](crate::Error::Closed) if the connection, or one direction of it, has ended.
    /// - The errors of the handshake, see [`connect`](Socket::connect).
    ///
    /// # Example: A mail client
    /// ```no_run
    /// use network::{ClientTls, Socket};
    ///
    /// let socket = Socket::builder().tls(false).connect("mail.example.org:25")?;
    /// println!("{}", socket.recv_line()?);
    /// socket.send("STARTTLS\r\n")?;
    /// println!("{}", socket.recv_line()?);
    /// socket.start_tls(ClientTls::system())?;
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn start_tls(&self, role: impl Into<StartTls>) -> Result {
        start_tls::blocking(self, &role.into())
    }

    /// Starts TLS on this connection in the background and passes the result to a callback.
    ///
    /// The callback runs once, in a later loop iteration, before anything that comes after the handshake is delivered. For
    /// errors see [`start_tls`](Socket::start_tls). Cancelling `cancellable` during the handshake ends the connection with
    /// [`Error::Cancelled`](crate::Error::Cancelled). The connection stays open until the handshake is done, also without any
    /// handle.
    ///
    /// # Example: A server that offers STARTTLS
    /// See [`ServerTls::prepared`](crate::ServerTls::prepared).
    pub fn start_tls_async<F>(
        &self,
        role: impl Into<StartTls>,
        cancellable: Option<&impl IsA<gio::Cancellable>>,
        callback: F,
    ) where
        F: FnOnce(&Socket, Result) + 'static,
    {
        let cancellable = cancellable.map(|cancellable| cancellable.as_ref().clone());
        start_tls::in_background(self, &role.into(), cancellable, callback);
    }

    /// Starts TLS on this connection in the background.
    ///
    /// Nothing happens before the future is polled. Dropping it during the handshake ends the connection: neither side knows
    /// then in what state the other is.
    ///
    /// # Errors
    /// See [`start_tls`](Socket::start_tls).
    ///
    /// # Example: Both roles
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// use network::{ClientTls, ServerTls, Socket};
    ///
    /// # let tls = ServerTls::named("example").directory(directory.path());
    /// # glib::MainContext::default().block_on(async move {
    /// let (client, server) = std::os::unix::net::UnixStream::pair()?;
    /// let (client, server) = (Socket::from_fd(client)?, Socket::from_fd(server)?);
    /// glib::spawn_future_local(async move {
    ///     server.start_tls_future(tls).await?;
    ///     server.sendline("encrypted")
    /// });
    /// let trust = ClientTls::danger_accept_any().server_name("example");
    /// client.start_tls_future(trust).await?;
    /// assert_eq!(client.recv_line_future().await?, "encrypted");
    /// # Ok::<(), network::Error>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start_tls_future(&self, role: impl Into<StartTls>) -> impl Future<Output = Result> + 'static {
        start_tls::future(self.clone(), role.into())
    }
}
