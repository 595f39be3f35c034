//! Sessions joined in memory, over stores in directories of their own.

mod identities;
mod measure;
mod mutual;
mod openssl;
mod peers;
mod robustness;
mod sessions;
mod trusting;

use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ServerConfig, SupportedProtocolVersion};
use tempfile::TempDir;

use super::server::ServerSetup;
use super::store::Store;
use super::trust::Trust;
use super::{ClientTls, Identity, PeerName, ServerTls, Session, provider};
use crate::error::{Error, Result};

pub(super) const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
pub(super) const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// A user with a home of his own.
pub(super) struct User {
    home: TempDir,
}

impl User {
    pub(super) fn new() -> Self {
        User { home: tempfile::tempdir().expect("a temporary directory") }
    }

    pub(super) fn store(&self) -> Store {
        Store::new(self.home.path())
    }

    pub(super) fn identity(&self, name: &str) -> Identity {
        Identity::named_in(self.home.path(), name).expect("an identity")
    }

    pub(super) fn serve(&self) -> Arc<ServerSetup> {
        self.serve_with(ServerTls::named("server"))
    }

    pub(super) fn serve_with(&self, tls: ServerTls) -> Arc<ServerSetup> {
        tls.directory(self.home.path()).setup().expect("a server's settings")
    }

    /// These settings, with this user's store.
    pub(super) fn with(&self, tls: ClientTls) -> ClientTls {
        tls.directory(self.home.path())
    }

    pub(super) fn default_client(&self) -> ClientTls {
        self.with(ClientTls::default())
    }

    /// Waits until changes of the store are old enough for configurations to be shared.
    pub(super) fn settle(&self) {
        let start = std::time::SystemTime::now();
        let settled = || start.elapsed().is_ok_and(|age| age > std::time::Duration::from_millis(40));
        while !settled() {
            std::thread::yield_now();
        }
    }
}

pub(super) fn peer() -> PeerName {
    PeerName { key: "server.example:1234".into(), host: Some("server.example".into()) }
}

/// A server that holds to these versions, with a key that need not be that of its certificate.
pub(super) fn bare_server(
    identity: &Identity,
    key: CertifiedKey,
    versions: &[&'static SupportedProtocolVersion],
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Arc<ServerSetup> {
    let mut config = ServerConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(versions)
        .unwrap()
        .with_client_cert_verifier(clients.unwrap_or_else(WebPkiClientVerifier::no_client_auth))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.ticketer = rustls::crypto::ring::Ticketer::new().unwrap();
    Arc::new(ServerSetup { config: Arc::new(config), identity: identity.clone(), clients: Trust::Unverified })
}

pub(super) fn versioned_server(
    identity: &Identity,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ServerSetup> {
    bare_server(identity, CertifiedKey::clone(&identity.inner.key), versions, None)
}

/// Two sessions with a wire between them.
pub(super) struct Pair {
    pub(super) client: Session,
    pub(super) server: Session,
    /// The data that each side has read.
    pub(super) at_client: Vec<u8>,
    pub(super) at_server: Vec<u8>,
    pub(super) client_error: Option<Error>,
    pub(super) server_error: Option<Error>,
}

impl Pair {
    pub(super) fn new(tls: &ClientTls, peer: &PeerName, setup: &ServerSetup) -> Result<Self> {
        Ok(Pair {
            client: Session::client(tls, peer)?,
            server: Session::server(setup, "client:5")?,
            at_client: Vec::new(),
            at_server: Vec::new(),
            client_error: None,
            server_error: None,
        })
    }

    /// Carries bytes to and fro until neither side has more to say. A side that failed still gives its alert.
    pub(super) fn run(&mut self) {
        let mut wire = Vec::new();
        loop {
            wire.clear();
            let mut moved = self.client.take_output(&mut wire);
            if moved > 0 && self.server_error.is_none() {
                self.server_error = self.server.receive(&wire, &mut self.at_server).err();
            }
            wire.clear();
            moved += self.server.take_output(&mut wire);
            if !wire.is_empty() && self.client_error.is_none() {
                self.client_error = self.client.receive(&wire, &mut self.at_client).err();
            }
            if moved == 0 {
                return;
            }
        }
    }

    /// Shakes hands, which must work.
    pub(super) fn connected(tls: &ClientTls, peer: &PeerName, setup: &ServerSetup) -> Self {
        let mut pair = Pair::new(tls, peer, setup).expect("a client");
        pair.run();
        assert!(pair.client_error.is_none(), "client: {}", pair.client_error.unwrap());
        assert!(pair.server_error.is_none(), "server: {}", pair.server_error.unwrap());
        assert!(!pair.client.is_handshaking() && !pair.server.is_handshaking());
        pair
    }

    /// Shakes hands, which must fail. Returns the client's and the server's errors.
    pub(super) fn refused(tls: &ClientTls, peer: &PeerName, setup: &ServerSetup) -> (Error, Error) {
        let mut pair = Pair::new(tls, peer, setup).expect("a client");
        pair.client.send(b"secret");
        pair.run();
        assert_eq!(pair.at_server, b"", "the server must not get what was meant for another");
        (pair.client_error.expect("the client's error"), pair.server_error.expect("the server's error"))
    }
}

/// Sends all of it, as fast as the other side reads, and returns what arrived.
pub(super) fn send_all(pair: &mut Pair, from_client: bool, mut data: &[u8]) {
    while !data.is_empty() {
        let sender = if from_client { &mut pair.client } else { &mut pair.server };
        let taken = sender.send(data);
        data = &data[taken..];
        pair.run();
    }
}
