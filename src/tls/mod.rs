// TLS as pure values: identity (certificates that make themselves), trust (whom to believe) and the session (bytes in,
// bytes out). Knows files, but no descriptor of a connection and no main loop; the connection drives it.

mod certificate;
pub(crate) mod client;
mod files;
mod identity;
mod peers;
mod pem;
mod private_key;
mod proof;
pub(crate) mod server;
mod session;
mod store;
#[cfg(test)]
mod tests;
mod trust;
mod words;

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

use crate::error::{Error, Result};
pub use crate::fingerprint::{Fingerprint, FingerprintError};
pub(crate) use client::{ClientTls, PeerName};
pub use identity::Identity;
pub(crate) use server::{ServerSetup, ServerTls};
pub(crate) use session::Session;
pub(crate) use trust::load_system_roots;

/// What the builders' `tls(…)` takes: on with these settings, or off.
///
/// Nobody needs to write it: `true`, `false`, the settings themselves and, on servers, the name of a certificate
/// convert into it.
#[derive(Clone, Debug)]
pub enum Tls<T> {
    /// No encryption: bytes travel as they are.
    Off,
    /// TLS with these settings.
    On(T),
}

macro_rules! switch {
    ($settings:ty) => {
        impl From<bool> for Tls<$settings> {
            /// `true`: TLS with the default settings; `false`: none.
            fn from(on: bool) -> Self {
                if on { Tls::On(<$settings>::default()) } else { Tls::Off }
            }
        }

        impl From<$settings> for Tls<$settings> {
            fn from(settings: $settings) -> Self {
                Tls::On(settings)
            }
        }
    };
}

switch!(ClientTls);
switch!(ServerTls);

impl From<&str> for Tls<ServerTls> {
    /// TLS with the certificate of this name, see [`ServerTls::named`].
    fn from(name: &str) -> Self {
        Tls::On(ServerTls::named(name))
    }
}

impl From<Fingerprint> for Tls<ClientTls> {
    /// TLS that trusts exactly this key, see [`ClientTls::pinned`].
    fn from(fingerprint: Fingerprint) -> Self {
        Tls::On(fingerprint.into())
    }
}

impl From<Identity> for Tls<ServerTls> {
    /// TLS with this certificate.
    fn from(identity: Identity) -> Self {
        Tls::On(ServerTls::from(identity))
    }
}

/// The names in an ALPN list may take this many bytes together. They share 64 KiB with all else in a client's first message.
const ALPN_LIST_MAX: usize = 32 << 10;

/// Finds names that cannot be sent.
fn check_alpn(protocols: &[Vec<u8>]) -> Result {
    let invalid = |problem: String| Err(Error::TlsSettings(format!("invalid ALPN list: {problem}")));
    for protocol in protocols {
        match protocol.len() {
            0 => return invalid("a protocol name must not be empty".to_owned()),
            1..=255 => {}
            length => return invalid(format!("a protocol name has {length} bytes; at most 255 are possible")),
        }
    }
    // Each has its length before it.
    match protocols.iter().map(|protocol| protocol.len() + 1).sum::<usize>() {
        total if total > ALPN_LIST_MAX => {
            invalid(format!("it has {total} bytes; at most {ALPN_LIST_MAX} are possible"))
        }
        _ => Ok(()),
    }
}

/// The cryptography of this crate. One for all: building a provider allocates, and every configuration refers to it.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    &PROVIDER
}
