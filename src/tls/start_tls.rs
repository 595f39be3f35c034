//! The role that a connection takes when TLS starts on it later.

use super::{ClientTls, Fingerprint, Identity, PeerName, ServerTls};

/// The argument of [`Socket::start_tls`](crate::Socket::start_tls): the role of this side, and its settings.
///
/// This type rarely needs to be written. [`ClientTls`] and a [`Fingerprint`] to trust convert into the client's role,
/// [`ServerTls`] and an [`Identity`] to present into the server's. The TLS client need not be the side that connected.
#[derive(Clone, Debug)]
pub struct StartTls(pub(crate) Role);

impl StartTls {
    /// The role of the client, which verifies this peer, whoever the connection leads to.
    #[cfg(feature = "ftp")]
    pub(crate) fn with(settings: ClientTls, peer: PeerName) -> Self {
        StartTls(Role::Client(settings, Some(peer)))
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Role {
    /// With the peer to verify, if it is not the one that the program named when it connected.
    Client(ClientTls, Option<PeerName>),
    Server(ServerTls),
}

impl From<ClientTls> for StartTls {
    /// The role of the client, which verifies the peer.
    fn from(settings: ClientTls) -> Self {
        StartTls(Role::Client(settings, None))
    }
}

impl From<ServerTls> for StartTls {
    /// The role of the server, which presents a certificate.
    fn from(settings: ServerTls) -> Self {
        StartTls(Role::Server(settings))
    }
}

impl From<Fingerprint> for StartTls {
    /// The role of the client, which trusts exactly this key.
    fn from(fingerprint: Fingerprint) -> Self {
        ClientTls::from(fingerprint).into()
    }
}

impl From<Identity> for StartTls {
    /// The role of the server, which presents this identity.
    fn from(identity: Identity) -> Self {
        ServerTls::from(identity).into()
    }
}
