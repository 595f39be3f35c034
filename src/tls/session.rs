//! Session: one connection's TLS as a value. Ciphertext and plaintext go in and out as bytes; whoever owns the descriptor
//! drives it. What rustls reports is put into our own words here.

use std::io::{self, BufRead, Write};

use rustls::{AlertDescription, CertificateError, ClientConnection, Connection, HandshakeKind, HandshakeType};
use rustls::{PeerMisbehaved, ProtocolVersion, ServerConnection};

use super::certificate::Fingerprints;
use super::client::{ClientTls, PeerName};
use super::server::ServerSetup;
use super::trust::carried;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;

/// How much a session holds of what is to be sent, in bytes: unencrypted during the hand-shake, encrypted after it.
/// [`Session::send`] takes no more, so whoever sends learns of a slow peer.
const BOUND: usize = 64 << 10;

/// One side of a TLS connection.
///
/// The order of calls: [`take_output`](Self::take_output) (a client speaks first), then for whatever arrives
/// [`receive`](Self::receive), and after each call of `receive`, `send` or `close_notify` again `take_output`. After an
/// error there may be an alert to take, which tells the peer why; nothing else works any more. When the transport ends,
/// [`end`](Self::end) tells what that means.
pub(crate) struct Session {
    tls: Connection,
    peer: Box<str>,
    /// What we show as our own, for the case that the peer does not like it.
    own: Option<Fingerprint>,
    /// The first byte that came. A wrong one stays an error, whatever follows.
    first: Option<u8>,
    peer_closed: bool,
    closing: bool,
}

impl Session {
    /// A client's side of a new connection. Reads the address's pin from its file.
    ///
    /// # Errors
    ///
    /// Settings that cannot work, or a pin that cannot be read.
    pub(crate) fn client(settings: &ClientTls, peer: &PeerName) -> Result<Self> {
        let prepared = settings.prepare(peer)?;
        let tls = ClientConnection::new(prepared.config.clone(), prepared.name.clone())
            .map_err(|error| Error::Tls { peer: peer.key.clone(), problem: error.to_string() })?;
        Ok(Self::new(tls.into(), &peer.key, prepared.identity))
    }

    /// A server's side of a new connection; `peer` is what errors call the client.
    pub(crate) fn server(setup: &ServerSetup, peer: &str) -> Result<Self> {
        let tls = ServerConnection::new(setup.config.clone())
            .map_err(|error| Error::Tls { peer: peer.to_owned(), problem: error.to_string() })?;
        Ok(Self::new(tls.into(), peer, Some(setup.identity().fingerprint())))
    }

    fn new(mut tls: Connection, peer: &str, own: Option<Fingerprint>) -> Self {
        tls.set_buffer_limit(Some(BOUND));
        Session { tls, peer: peer.into(), own, first: None, peer_closed: false, closing: false }
    }

    /// Takes in what arrived, all of it, and appends what it says to `plain`. After an error, `plain` has what was said
    /// before it.
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
                break; // what comes after the end mark is no concern of ours
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

    /// Queues as much of `plain` as there is room for, and tells how much that was. There is room again when
    /// [`take_output`](Self::take_output) has taken some. During the hand-shake it waits for the end of that.
    pub(crate) fn send(&mut self, plain: &[u8]) -> usize {
        if self.closing {
            return 0;
        }
        // Writing into the session cannot fail: it is all memory.
        self.tls.writer().write(plain).unwrap_or(0)
    }

    /// Appends to `out` what is to be written to the peer, and tells how many bytes that was.
    #[cfg(test)]
    pub(crate) fn take_output(&mut self, out: &mut Vec<u8>) -> usize {
        let before = out.len();
        while self.tls.wants_write() && self.tls.write_tls(out).is_ok_and(|written| written > 0) {}
        out.len() - before
    }

    /// Writes what is to be written straight into `sink`, without a copy on the way: at most one call of its `write`.
    /// What the sink did not take stays queued.
    pub(crate) fn write_output(&mut self, sink: &mut dyn Write) -> io::Result<usize> {
        self.tls.write_tls(sink)
    }

    /// Whether there is something to write to the peer.
    pub(crate) fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Whether the hand-shake is still going on. A server may let its program see the connection only after it.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Whether this is a client whose server has not even agreed on a version.
    fn has_said_nothing_of_sense(&self) -> bool {
        matches!(self.tls, Connection::Client(_)) && self.tls.protocol_version().is_none()
    }

    /// Whether this is a client whose server has said nothing yet.
    pub(crate) fn is_unanswered(&self) -> bool {
        matches!(self.tls, Connection::Client(_)) && self.first.is_none()
    }

    /// Queues the end mark, after what was sent so far. Nothing can be sent after it; receiving goes on.
    pub(crate) fn close_notify(&mut self) {
        if !self.closing {
            self.closing = true;
            self.tls.send_close_notify();
        }
    }

    /// Whether the peer's end mark has come: everything it sent is here.
    pub(crate) fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// What it means that the transport has ended now: well if the end mark had come.
    pub(crate) fn end(&self) -> Result {
        let peer = self.peer.to_string();
        if self.peer_closed {
            Ok(())
        } else if self.is_handshaking() {
            let hint = match self.tls {
                Connection::Client(_) => ", as servers without TLS do: tls(false) talks to those without encryption",
                Connection::Server(_) => "",
            };
            Err(Error::Tls { peer, problem: format!("it closed the connection during the hand-shake{hint}") })
        } else {
            Err(Error::Truncated { peer })
        }
    }

    /// SHA-256 of the public key that the peer has proven to hold. `None` before the end of the hand-shake, and of clients
    /// that showed no certificate.
    pub(crate) fn peer_fingerprint(&self) -> Option<Fingerprint> {
        if self.is_handshaking() {
            return None;
        }
        Fingerprints::of(self.tls.peer_certificates()?.first()?).ok().map(|shown| shown.key)
    }

    /// The version of TLS agreed on, as in `TLSv1.3`.
    pub(crate) fn version(&self) -> Option<&'static str> {
        match self.tls.protocol_version()? {
            ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
            ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
            _ => None,
        }
    }

    /// The cipher suite agreed on, by its registered name.
    pub(crate) fn cipher_suite(&self) -> Option<String> {
        let name = self.tls.negotiated_cipher_suite()?.suite().as_str()?;
        Some(name.replacen("TLS13_", "TLS_", 1))
    }

    /// The application protocol agreed on.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.tls.alpn_protocol()
    }

    /// Whether this connection resumes an earlier session, which costs less and asks for no certificate again.
    pub(crate) fn resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Every record of TLS begins with one of five control characters, and no text does.
    fn check_first_byte(&self, first: u8) -> Result {
        if matches!(first, 0x14..=0x18) {
            return Ok(());
        }
        let peer = self.peer.to_string();
        if !matches!(first, b'\t' | b'\n' | b'\r' | b' '..=b'~') {
            return Err(Error::Tls { peer, problem: "what it sends is not TLS".into() });
        }
        let problem = match self.tls {
            Connection::Client(_) => {
                "answers in plaintext, not TLS: connect with tls(false) to talk to it without encryption"
            }
            Connection::Server(_) => {
                "sent plaintext where TLS is expected: it must use TLS, or this server must be set to tls(false)"
            }
        };
        Err(Error::Plaintext { peer, problem })
    }

    /// Asks for new keys in both directions, as any peer may at any time.
    #[cfg(test)]
    pub(super) fn refresh_keys_for_test(&mut self) {
        self.tls.refresh_traffic_keys().expect("TLS 1.3");
    }

    fn broken(&self, error: io::Error) -> Error {
        Error::Tls { peer: self.peer.to_string(), problem: error.to_string() }
    }

    fn explain(&self, error: rustls::Error) -> Error {
        if let Some(mut error) = carried(&error) {
            if let Error::UnknownCertificate { peer, .. } = &mut error {
                *peer = self.peer.to_string();
            }
            return error;
        }
        let peer = self.peer.to_string();
        let problem = match error {
            rustls::Error::InappropriateHandshakeMessage { got_type: HandshakeType::ClientHello, .. }
            | rustls::Error::InvalidMessage(_)
                if self.has_said_nothing_of_sense() =>
            {
                // Some send back what they are sent, as it was or not quite.
                let problem = "answers with something else, and seems not to speak TLS: connect with tls(false) to \
                               talk to it without encryption";
                return Error::Plaintext { peer, problem };
            }
            rustls::Error::AlertReceived(alert) => return Error::Rejected { peer, problem: self.complaint(alert) },
            rustls::Error::NoCertificatesPresented => "it showed no certificate, and one is required".into(),
            rustls::Error::NoApplicationProtocol => {
                "it offers no application protocol (ALPN) that is served here".into()
            }
            rustls::Error::DecryptError => "a record is damaged or forged".into(),
            rustls::Error::InvalidCertificate(CertificateError::BadSignature)
            | rustls::Error::PeerMisbehaved(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme) => {
                "it did not prove to hold the private key of the certificate it showed".into()
            }
            rustls::Error::InvalidMessage(problem) => {
                format!("it sent something that is not TLS, or damaged ({problem:?})")
            }
            rustls::Error::PeerIncompatible(problem) => format!("no way to talk in common ({problem:?})"),
            other => other.to_string(),
        };
        Error::Tls { peer, problem }
    }

    /// Says what a peer's alert means for us.
    fn complaint(&self, alert: AlertDescription) -> String {
        use AlertDescription as Alert;
        match alert {
            Alert::CertificateRequired => {
                "it asks for a certificate, and we showed none: give it one with ClientTls::identity".into()
            }
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied => match self.own {
                Some(own) => format!("it does not accept our certificate (alert {alert:?}); the fingerprint is {own}"),
                None => format!("it does not let us in without a certificate (alert {alert:?})"),
            },
            Alert::NoApplicationProtocol => "it serves none of the application protocols we offer (ALPN)".into(),
            Alert::ProtocolVersion => "it does not know the versions of TLS we do, which are 1.2 and 1.3".into(),
            Alert::HandshakeFailure => {
                "it found no way to talk in common, or wants a certificate (alert HandshakeFailure)".into()
            }
            Alert::UnrecognisedName => "it serves no host of the name we asked for".into(),
            other => format!("it ended the connection with the alert {other:?}"),
        }
    }
}
