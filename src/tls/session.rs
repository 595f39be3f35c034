//! Session: the TLS of one connection as a value. Ciphertext and plaintext go in and out as bytes. The owner of the descriptor
//! drives it.

use std::io::{self, BufRead, Write};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{ClientConnection, Connection, HandshakeKind, HandshakeType, ProtocolVersion, ServerConnection};

use super::certificate::Fingerprints;
use super::client::{ClientTls, PeerName};
use super::server::ServerSetup;
use super::trust::{ServerVerifier, Trust, carried};
use super::words::{alert_problem, handshake_problem};
use crate::certificate::{Fingerprint, PeerCertificate};
use crate::error::{Error, Operation, Printable, Result};

/// Data that a session queues for sending, in bytes: plaintext during the handshake, ciphertext after it. [`Session::send`]
/// accepts no more, which is the back-pressure of a slow peer.
const BOUND: usize = 64 << 10;

/// The longest label of an exported key, in bytes: its length, with the six of "tls13 ", has eight bits.
const EXPORT_LABEL_MAX: usize = 249;

/// The longest exported key, in bytes: HKDF yields 255 times the length of its hash, which is 32 or 48 bytes.
const EXPORT_MAX: usize = 255 * 32;

/// Knows why the peer is trusted.
enum Judge {
    OfServers(Arc<ServerVerifier>),
    /// The same reason for every client.
    OfClients(Trust),
}

/// One side of a TLS connection.
///
/// The order of calls: first [`write_output`](Self::write_output), since a client speaks first. Then
/// [`receive`](Self::receive) for arriving data, and `write_output` after each `receive`, `send` or `close_notify`. After an
/// error only `write_output` is left, because there may be an alert for the peer. When the transport ends,
/// [`end`](Self::end) says whether that is an error.
pub(crate) struct Session {
    tls: Connection,
    peer: Box<str>,
    /// The fingerprint of our certificate, for the error if the peer does not accept it.
    own: Option<Fingerprint>,
    judge: Judge,
    /// The first received byte. A wrong one remains an error, whatever follows.
    first: Option<u8>,
    peer_closed: bool,
    closing: bool,
    /// The connection was open before. That it begins in plaintext is then no mistake of the settings.
    is_upgrade: bool,
    /// The peer is a proxy, and not that of the connection.
    is_of_proxy: bool,
}

impl Session {
    /// Creates the client side of a new connection. Reads the pin of the address from its file.
    ///
    /// # Errors
    /// Invalid settings, or a pin that cannot be read.
    pub(crate) fn client(settings: &ClientTls, peer: &PeerName) -> Result<Self> {
        let prepared = settings.prepare(peer)?;
        let tls = ClientConnection::new(prepared.config.clone(), prepared.name.clone()).map_err(|error| {
            Error::Tls { peer: Printable(&peer.key).to_string(), problem: handshake_problem(&error) }
        })?;
        Ok(Self::new(tls.into(), &peer.key, prepared.identity, Judge::OfServers(prepared.verifier.clone())))
    }

    /// Creates the server side of a new connection. Errors name the client `peer`.
    pub(crate) fn server(setup: &ServerSetup, peer: &str) -> Result<Self> {
        let tls = ServerConnection::new(setup.config.clone())
            .map_err(|error| Error::Tls { peer: peer.to_owned(), problem: handshake_problem(&error) })?;
        Ok(Self::new(tls.into(), peer, Some(setup.identity().fingerprint()), Judge::OfClients(setup.clients)))
    }

    fn new(mut tls: Connection, peer: &str, own: Option<Fingerprint>, judge: Judge) -> Self {
        tls.set_buffer_limit(Some(BOUND));
        let peer = Printable(peer).to_string().into();
        Session {
            tls,
            peer,
            own,
            judge,
            first: None,
            peer_closed: false,
            closing: false,
            is_upgrade: false,
            is_of_proxy: false,
        }
    }

    /// The same on a connection that has been open in plaintext.
    pub(crate) fn on_open_connection(mut self) -> Self {
        self.is_upgrade = true;
        self
    }

    /// The same with a proxy. Errors name it by this URL.
    pub(crate) fn of_proxy(mut self, url: &str) -> Self {
        self.peer = Printable(url).to_string().into();
        self.is_of_proxy = true;
        self.on_open_connection()
    }

    pub(crate) fn is_of_proxy(&self) -> bool {
        self.is_of_proxy
    }

    /// Decrypts received data and appends the plaintext to `plain`. After an error, `plain` contains the data before it.
    pub(crate) fn receive(&mut self, mut cipher: &[u8], plain: &mut Vec<u8>) -> Result {
        let Some(first) = self.first.or(cipher.first().copied()) else { return Ok(()) };
        self.first = Some(first);
        self.check_first_byte(first)?;
        while !cipher.is_empty() {
            let taken = self.tls.read_tls(&mut cipher).map_err(|error| self.broken(error))?;
            let outcome = self.tls.process_new_packets();
            self.collect(plain)?;
            self.peer_closed |= outcome.map_err(|error| self.explain(error))?.peer_has_closed();
            if taken == 0 {
                break; // data after the close_notify
            }
        }
        Ok(())
    }

    fn collect(&mut self, plain: &mut Vec<u8>) -> Result {
        let mut reader = self.tls.reader();
        loop {
            let taken = match reader.fill_buf() {
                Ok([]) => return Ok(()),
                Ok(chunk) => {
                    plain.extend_from_slice(chunk);
                    chunk.len()
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(self.broken(error)),
            };
            reader.consume(taken);
        }
    }

    /// Queues as much of `plain` as there is room for, and returns its length. [`write_output`](Self::write_output) makes
    /// room. During the handshake, the data waits for its end.
    pub(crate) fn send(&mut self, plain: &[u8]) -> usize {
        if self.closing {
            return 0;
        }
        // This only writes to memory, and cannot fail.
        self.tls.writer().write(plain).unwrap_or(0)
    }

    /// Appends the queued ciphertext to `out` and returns its length.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn take_output(&mut self, out: &mut Vec<u8>) -> usize {
        let before = out.len();
        while self.tls.wants_write() && self.tls.write_tls(out).is_ok_and(|written| written > 0) {}
        out.len() - before
    }

    /// Writes the queued ciphertext to `sink` without copying it, by at most one call of its `write`. The rest stays queued.
    pub(crate) fn write_output(&mut self, sink: &mut dyn Write) -> io::Result<usize> {
        self.tls.write_tls(sink)
    }

    /// Returns whether ciphertext is queued.
    pub(crate) fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Returns whether the handshake is not finished. Before, a server must not deliver the connection to its program.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Returns whether this is a client, and the server has not selected a TLS version yet.
    fn has_no_version(&self) -> bool {
        matches!(self.tls, Connection::Client(_)) && self.tls.protocol_version().is_none()
    }

    /// Returns the operation that the handshake waits for, with a guess if the peer has sent nothing yet.
    pub(crate) fn handshake(&self) -> Operation {
        match (self.first, &self.tls) {
            (None, Connection::Client(_)) => Operation::UnansweredHandshake,
            (None, Connection::Server(_)) => Operation::AwaitedHandshake,
            (Some(_), _) => Operation::Handshake,
        }
    }

    /// Queues a close_notify. Nothing can be sent after it. Receiving continues.
    pub(crate) fn close_notify(&mut self) {
        if !self.closing {
            self.closing = true;
            self.tls.send_close_notify();
        }
    }

    /// Returns whether the peer's close_notify has arrived, so that nothing it sent is missing.
    pub(crate) fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Judges the end of the transport. It is an error unless the peer's close_notify has arrived.
    pub(crate) fn end(&self) -> Result {
        let peer = self.peer.to_string();
        if self.peer_closed {
            Ok(())
        } else if self.is_handshaking() {
            let hint = match self.tls {
                _ if self.is_upgrade => "",
                Connection::Client(_) => {
                    "; if the server does not use TLS, connect with tls(false) or to tcp://host:port"
                }
                Connection::Server(_) => "",
            };
            // No word of TLS's: a server that restarts may do so, too.
            let problem = format!("the peer closed the connection during the handshake{hint}");
            let source = io::Error::new(io::ErrorKind::UnexpectedEof, problem);
            Err(Error::Io { operation: Operation::Handshake, address: peer, source })
        } else {
            Err(Error::Truncated { peer })
        }
    }

    /// Returns the SHA-256 of the peer's public key. `None` before the end of the handshake, and for clients without a
    /// certificate.
    pub(crate) fn peer_fingerprint(&self) -> Option<Fingerprint> {
        self.peer_der().and_then(|der| Fingerprints::of(der).ok()).map(|shown| shown.key)
    }

    /// Returns the peer's certificate. `None` as for the fingerprint.
    pub(crate) fn peer_certificate(&self) -> Option<PeerCertificate> {
        PeerCertificate::new(self.peer_der()?)
    }

    /// Returns why the peer is trusted. `None` as for the fingerprint.
    pub(crate) fn peer_trust(&self) -> Option<Trust> {
        let der = self.peer_der()?;
        match &self.judge {
            // A resumed session has the certificate of its full handshake, and this verifier has judged that.
            Judge::OfServers(verifier) => verifier.trust(&Fingerprints::of(der).ok()?),
            Judge::OfClients(trust) => Some(*trust),
        }
    }

    fn peer_der(&self) -> Option<&CertificateDer<'static>> {
        if self.is_handshaking() { None } else { self.tls.peer_certificates()?.first() }
    }

    /// Derives a key from the session's secrets (RFC 5705, RFC 8446 section 7.5).
    pub(crate) fn export_key(&self, label: &[u8], context: &[u8], length: usize) -> Result<Vec<u8>> {
        let peer = &self.peer;
        let invalid = |problem: String| Err(Error::InvalidOption(format!("cannot export a key: {problem}")));
        match label.len() {
            0 => return invalid("the label is empty".to_owned()),
            1..=EXPORT_LABEL_MAX => {}
            size => return invalid(format!("the label has {size} bytes; at most {EXPORT_LABEL_MAX} are possible")),
        }
        if !(1..=EXPORT_MAX).contains(&length) {
            return invalid(format!("{length} bytes are requested; 1 to {EXPORT_MAX} are possible"));
        }
        if self.is_handshaking() {
            return Err(Error::Tls { peer: peer.to_string(), problem: "the handshake is not complete".into() });
        }
        if self.tls.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            let problem = "the connection uses TLS 1.2, whose keys may be those of other connections as well";
            return Err(Error::Unsupported(format!("cannot export a key of the connection to {peer}: {problem}")));
        }
        self.tls
            .export_keying_material(vec![0; length], label, Some(context))
            .map_err(|error| Error::Tls { peer: peer.to_string(), problem: handshake_problem(&error) })
    }

    /// Returns the negotiated TLS version, as in `TLSv1.3`.
    pub(crate) fn version(&self) -> Option<&'static str> {
        match self.tls.protocol_version()? {
            ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
            ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
            _ => None,
        }
    }

    /// Returns the negotiated cipher suite, by its registered name.
    pub(crate) fn cipher_suite(&self) -> Option<String> {
        let name = self.tls.negotiated_cipher_suite()?.suite().as_str()?;
        Some(name.replacen("TLS13_", "TLS_", 1))
    }

    /// Returns the negotiated application protocol.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.tls.alpn_protocol()
    }

    /// Returns whether this connection resumes an earlier session, without another certificate.
    pub(crate) fn resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Checks the first byte of a connection. A TLS record begins with one of five control characters, and text does not.
    fn check_first_byte(&self, first: u8) -> Result {
        if matches!(first, 0x14..=0x18) {
            return Ok(());
        }
        let peer = self.peer.to_string();
        if !matches!(first, b'\t' | b'\n' | b'\r' | b' '..=b'~') {
            return Err(Error::Tls { peer, problem: "received data that is not TLS".into() });
        }
        let problem = match self.tls {
            _ if self.is_upgrade => "sent plaintext where the TLS handshake was to begin",
            Connection::Client(_) => {
                "replied in plaintext instead of TLS; to use no encryption, connect with tls(false) or to tcp://host:port"
            }
            Connection::Server(_) => {
                "sent plaintext to a TLS server; use TLS in the client or tls(false) in the server"
            }
        };
        Err(Error::Plaintext { peer, problem })
    }

    /// Updates the keys in both directions, as either peer may at any time.
    #[cfg(test)]
    pub(super) fn refresh_keys_for_test(&mut self) {
        self.tls.refresh_traffic_keys().expect("TLS 1.3");
    }

    fn broken(&self, error: io::Error) -> Error {
        Error::Tls { peer: self.peer.to_string(), problem: error.to_string() }
    }

    fn explain(&self, error: rustls::Error) -> Error {
        if let Some(mut error) = carried(&error) {
            // A verifier of clients does not know the client's name.
            if let Error::UnknownCertificate { peer, .. } | Error::Tls { peer, .. } = &mut error
                && peer.is_empty()
            {
                *peer = self.peer.to_string();
            }
            return error;
        }
        let peer = self.peer.to_string();
        let problem = match error {
            rustls::Error::InappropriateHandshakeMessage { got_type: HandshakeType::ClientHello, .. }
            | rustls::Error::InvalidMessage(_)
                if self.has_no_version() =>
            {
                // Echo servers send back the client's own message.
                let problem = match self.is_upgrade {
                    true => "does not appear to speak TLS",
                    false => {
                        "does not appear to speak TLS; to use no encryption, connect with tls(false) or to tcp://host:port"
                    }
                };
                return Error::Plaintext { peer, problem };
            }
            rustls::Error::AlertReceived(alert) => {
                return Error::Rejected { peer, problem: alert_problem(alert, self.own) };
            }
            other => handshake_problem(&other),
        };
        Error::Tls { peer, problem }
    }
}
