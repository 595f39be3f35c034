//! What TLS knows of a connection: the peer, why it was trusted, and the parameters that were negotiated.

use crate::conn::Socket;
use crate::error::{Error, Result};
use crate::tls::{Fingerprint, PeerCertificate, Session, Trust};

impl Socket {
    /// Returns whether TLS protects the connection as far as the peer. `false` if it ends at an `https://`
    /// [proxy](crate::socket::Proxy::url) before.
    pub fn is_tls(&self) -> bool {
        self.conn.handshaking().reaches_peer()
    }

    /// Returns the SHA-256 fingerprint of the peer's public key. `None` without TLS, and for clients that presented no
    /// certificate.
    pub fn peer_fingerprint(&self) -> Option<Fingerprint> {
        self.conn.handshaking().ask_peer(Session::peer_fingerprint).flatten()
    }

    /// Returns the peer's certificate. `None` without TLS, and for clients that presented none.
    ///
    /// A resumed session has that of its full handshake.
    pub fn peer_certificate(&self) -> Option<PeerCertificate> {
        self.conn.handshaking().ask_peer(Session::peer_certificate).flatten()
    }

    /// Returns the peer's public key in DER (SPKI, subject public key info). `None` without TLS, and for clients that presented
    /// no certificate.
    pub fn peer_public_key(&self) -> Option<Vec<u8>> {
        self.peer_certificate().map(|certificate| certificate.public_key().to_vec())
    }

    /// Returns why the peer was trusted. `None` without TLS, and for clients that presented no certificate.
    ///
    /// A resumed session is trusted for the reason of its full handshake. It was resumed only because that reason still held
    /// when this connection was opened.
    ///
    /// ```no_run
    /// use network::{Socket, tls::Trust};
    ///
    /// let socket = Socket::connect("desk.example:1234")?;
    /// if socket.peer_trust() == Some(Trust::FirstUse) {
    ///     println!("nobody has compared the fingerprint {:?}", socket.peer_fingerprint());
    /// }
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn peer_trust(&self) -> Option<Trust> {
        self.conn.handshaking().ask_peer(Session::peer_trust).flatten()
    }

    /// Derives a secret from the keys of this connection, which both peers get alike and nobody else knows (RFC 5705).
    ///
    /// Protocols use it to bind their own authentication to the connection, so that nobody can relay it. `label` says what the
    /// secret is for, such as `EXPORTER-my-protocol`; those without `EXPERIMENTAL` at the front are registered at IANA.
    /// `context` may distinguish several secrets; no context and an empty one are the same.
    ///
    /// # Errors
    /// - [`Error::InvalidOption`] if the label is not 1 to 249 bytes long, or `length` is not 1 to 8160 bytes.
    /// - [`Error::Unsupported`] without TLS, and with TLS 1.2, whose secrets are not always those of one connection (RFC 7627).
    ///
    /// # Example
    /// ```no_run
    /// let socket = network::Socket::connect("desk.example:1234")?;
    /// let secret = socket.export_key("EXPERIMENTAL-pairing", b"desk", 32)?;
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn export_key(&self, label: impl AsRef<[u8]>, context: impl AsRef<[u8]>, length: usize) -> Result<Vec<u8>> {
        let export = |session: &Session| session.export_key(label.as_ref(), context.as_ref(), length);
        let none =
            || Error::Unsupported(format!("the connection to {} does not use TLS: it has no keys", self.remote()));
        self.conn.handshaking().ask_peer(export).unwrap_or_else(|| Err(none()))
    }

    /// Returns the negotiated TLS version, as in `TLSv1.3`. `None` without TLS.
    pub fn tls_version(&self) -> Option<&'static str> {
        self.conn.handshaking().ask_peer(Session::version).flatten()
    }

    /// Returns the registered name of the negotiated cipher suite. `None` without TLS.
    pub fn cipher_suite(&self) -> Option<String> {
        self.conn.handshaking().ask_peer(Session::cipher_suite).flatten()
    }

    /// Returns the negotiated application protocol. `None` without TLS or if none was negotiated.
    pub fn alpn(&self) -> Option<Vec<u8>> {
        self.conn.handshaking().ask_peer(|session| session.alpn().map(Vec::from)).flatten()
    }

    /// Returns whether the connection resumed an earlier TLS session with the same server, which costs less than a full
    /// handshake.
    pub fn is_tls_resumed(&self) -> bool {
        self.conn.handshaking().ask_peer(Session::resumed).unwrap_or(false)
    }
}
