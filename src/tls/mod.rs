// TLS as pure values: identity (certificates that make themselves), trust (whom to believe) and the session (bytes in,
// bytes out). Knows files, but no descriptor of a connection and no main loop; the connection drives it.

mod certificate;
pub(crate) mod client;
mod identity;
mod peers;
mod pem;
pub(crate) mod server;
mod session;
mod store;
#[cfg(test)]
mod tests;
mod trust;

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

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

impl From<Identity> for Tls<ServerTls> {
    /// TLS with this certificate.
    fn from(identity: Identity) -> Self {
        Tls::On(ServerTls::from(identity))
    }
}

/// The cryptography of this crate. One for all: building a provider allocates, and every configuration refers to it.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    &PROVIDER
}
