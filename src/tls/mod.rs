// TLS as pure values: identity (certificates and keys), trust (whether a certificate is accepted) and the session (bytes in,
// bytes out). Accesses files, but no descriptor of a connection and no main loop. The connection drives it.

mod certificate;
pub(crate) mod client;
mod files;
mod identity;
#[cfg(any(test, fuzzing))]
mod mixed;
mod names;
mod peers;
mod pem;
mod pins;
mod private_key;
mod proof;
pub(crate) mod server;
mod session;
mod start_tls;
mod store;
#[cfg(test)]
mod tests;
mod trust;
mod words;

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

pub use crate::certificate::{Fingerprint, FingerprintError, PeerCertificate};
use crate::error::{Error, Result};
pub(crate) use client::{ClientTls, PeerName};
pub use identity::Identity;
#[cfg(any(test, fuzzing))]
pub(crate) use mixed::check as check_mixed;
#[cfg(any(test, fuzzing))]
pub(crate) use names::check as check_certificate;
pub use pins::{Pin, pin, pin_in, pins, pins_in, unpin, unpin_in};
pub(crate) use server::{ServerSetup, ServerTls};
pub(crate) use session::Session;
pub(crate) use start_tls::Role;
pub use start_tls::StartTls;
pub use trust::Trust;
pub(crate) use trust::load_system_roots;

/// The argument of the builders' `tls(…)`: TLS with these settings, or none.
///
/// This type rarely needs to be written. `true`, `false` and the settings convert into it, for clients also a
/// [`Fingerprint`], and for servers the name of a certificate or an [`Identity`].
#[derive(Clone, Debug)]
pub enum Tls<T> {
    /// No encryption.
    Off,
    /// TLS with these settings.
    On(T),
}

macro_rules! switch {
    ($settings:ty) => {
        impl From<bool> for Tls<$settings> {
            /// Converts `true` into TLS with the default settings, `false` into no encryption.
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

/// The largest ALPN list, in bytes. It shares 64 KiB with the rest of a client's first message.
const ALPN_LIST_MAX: usize = 32 << 10;

/// Fails if these protocol names cannot be sent.
fn check_alpn(protocols: &[Vec<u8>]) -> Result {
    let invalid = |problem: String| Err(Error::TlsSettings(format!("invalid ALPN list: {problem}")));
    for protocol in protocols {
        match protocol.len() {
            0 => return invalid("a protocol name must not be empty".to_owned()),
            1..=255 => {}
            length => return invalid(format!("a protocol name has {length} bytes; at most 255 are possible")),
        }
    }
    // Each name is preceded by its length.
    match protocols.iter().map(|protocol| protocol.len() + 1).sum::<usize>() {
        total if total > ALPN_LIST_MAX => {
            invalid(format!("it has {total} bytes; at most {ALPN_LIST_MAX} are possible"))
        }
        _ => Ok(()),
    }
}

/// Returns the cryptography of this crate, shared by all configurations because building a provider allocates.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    &PROVIDER
}
