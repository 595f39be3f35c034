//! Pins as a program sees them: pinning an address, forgetting it, and listing all. `peers` owns the files.

use std::fmt;
use std::path::Path;

use super::peers::Condition;
use super::store::Store;
use super::trust::Trust;
use crate::address::{Address, Port, Scheme, Target, well_known_port};
use crate::certificate::Fingerprint;
use crate::error::{Error, Result};
use crate::sys;

/// A pin of the user's certificate store: what every server at an address must present. Returned by [`pins`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Pin {
    address: String,
    condition: Condition,
}

impl Pin {
    /// Returns the address in its normalized form, such as `localhost:1234` or `chat|My room`. All spellings of an address have
    /// the same one.
    ///
    /// The name of a service is as it came from the network, and may contain any characters.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the fingerprint of the pinned key or certificate. `None` if first use has noted that the server had one of the
    /// user's own certificates, or one that a system root had issued.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.condition.fingerprint()
    }

    /// Returns why the address is pinned, and so why connections to it trust their server.
    ///
    /// - [`Trust::Pin`]: by [`pin`], or by a file that a person has written.
    /// - [`Trust::FirstUse`]: the key was that of the first connection. Nobody has confirmed it.
    /// - [`Trust::Own`], [`Trust::Roots`]: noted by the first connection. The server must present such a certificate.
    pub fn trust(&self) -> Trust {
        self.condition.trust()
    }
}

/// Pins an address: from the next connection on, its server must have the key or the certificate with this fingerprint.
///
/// Replaces the address's earlier pin, a damaged one too. The pin counts for all programs of the user that have the
/// default trust ([`ClientTls::default`](crate::ClientTls::default)) or
/// [`ClientTls::on_first_use`](crate::ClientTls::on_first_use), also those that are running. No session is resumed that
/// the new pin would not admit. Open connections continue. It is stored in `peers/` of the user's certificate store, `$XDG_DATA_HOME/network`
/// (`~/.local/share/network`).
///
/// `address` is what a program connects to; all spellings of an address have one pin. The text after the `|` of a service
/// is its exact name. The field `peer` of [`Error::UnknownCertificate`] and [`Error::CertificateChanged`] is such an address.
///
/// # Blocking
/// While files are read and written, and up to 2 s for another process that is changing the store.
///
/// # Errors
/// - [`Error::Address`] if the address is invalid, a unix socket, several addresses, or a service by a pattern that begins
///   with `^` or ends in `$`. Pass [`Address::service`] for a service whose name does so.
/// - [`Error::TlsSettings`] if the fingerprint is malformed.
/// - [`Error::Identity`] if the pin cannot be written.
///
/// # Example
/// ```no_run
/// use network::{Error, Socket, tls};
///
/// match Socket::connect("desk.example:1234") {
///     // Once the owner of the server has confirmed the fingerprint:
///     Err(Error::UnknownCertificate { peer, fingerprint, .. }) => tls::pin(peer, fingerprint)?,
///     other => drop(other?),
/// }
/// # Ok::<(), network::Error>(())
/// ```
pub fn pin<A>(address: A, fingerprint: impl TryInto<Fingerprint, Error: fmt::Display>) -> Result
where
    A: TryInto<Address>,
    Error: From<A::Error>,
{
    pin_at(Store::of_user, address, fingerprint)
}

/// Pins an address as [`pin`] does, in the certificate store in this directory, as set by
/// [`ClientTls::directory`](crate::ClientTls::directory).
///
/// # Errors
/// See [`pin`].
pub fn pin_in<A>(
    directory: impl AsRef<Path>,
    address: A,
    fingerprint: impl TryInto<Fingerprint, Error: fmt::Display>,
) -> Result
where
    A: TryInto<Address>,
    Error: From<A::Error>,
{
    pin_at(|| Ok(Store::new(directory.as_ref())), address, fingerprint)
}

fn pin_at<A>(
    store: impl FnOnce() -> Result<Store>,
    address: A,
    fingerprint: impl TryInto<Fingerprint, Error: fmt::Display>,
) -> Result
where
    A: TryInto<Address>,
    Error: From<A::Error>,
{
    let key = key(address)?;
    let fingerprint = fingerprint.try_into().map_err(|error| Error::TlsSettings(error.to_string()))?;
    store()?.pin_over(&key, Condition::Key(fingerprint))
}

/// Deletes the pin of an address, however it came to be. Returns whether there was one.
///
/// The next connection is trusted or not as if it were the first one. Sessions that relied on the pin are not resumed; open
/// connections continue. See [`pin`] for addresses, blocking and errors. A damaged pin is deleted as well.
pub fn unpin<A>(address: A) -> Result<bool>
where
    A: TryInto<Address>,
    Error: From<A::Error>,
{
    let key = key(address)?;
    Store::of_user()?.unpin(&key)
}

/// Deletes a pin as [`unpin`] does, in the certificate store in this directory.
///
/// # Errors
/// See [`pin`].
pub fn unpin_in<A>(directory: impl AsRef<Path>, address: A) -> Result<bool>
where
    A: TryInto<Address>,
    Error: From<A::Error>,
{
    let key = key(address)?;
    Store::new(directory.as_ref()).unpin(&key)
}

/// Returns all pins of the user's certificate store, sorted by address.
///
/// # Blocking
/// While the files are read: one for each pin.
///
/// # Errors
/// [`Error::Identity`] if the directory cannot be read. A pin that is damaged or cannot be read is left out. Connections to its
/// address fail with that error, which names the file; [`unpin`] deletes it.
pub fn pins() -> Result<Vec<Pin>> {
    list(&Store::of_user()?)
}

/// Returns the pins as [`pins`] does, of the certificate store in this directory.
///
/// # Errors
/// See [`pins`].
pub fn pins_in(directory: impl AsRef<Path>) -> Result<Vec<Pin>> {
    list(&Store::new(directory.as_ref()))
}

fn list(store: &Store) -> Result<Vec<Pin>> {
    let pins = store.pins()?;
    Ok(pins.into_iter().map(|(address, condition)| Pin { address, condition }).collect())
}

/// Returns the name under which the pin of an address is kept.
fn key<A>(address: A) -> Result<String>
where
    A: TryInto<Address>,
    Error: From<A::Error>,
{
    let address = address.try_into()?;
    let port = match address.target() {
        Target::Unix(_) => return Err(address.unfit("unix sockets have no TLS, so there is nothing to pin")),
        Target::Service { kind, rest } => return service_key(&address, kind, rest),
        // Without a port: the records bring it.
        Target::Srv { .. } => return Ok(address.peer(0).0),
        Target::Direct(several) => match several.as_slice() {
            [one] => one.port(),
            _ => return Err(address.unfit("expected one address: each of several has its own pin")),
        },
        Target::Inet { scheme: Some(Scheme::Udp), .. } => {
            return Err(address.unfit("udp:// has no TLS, so there is nothing to pin"));
        }
        Target::Inet { port: Port::Number(port), .. } => *port,
        Target::Inet { port: Port::Name(name), .. } => sys::service_port(name)
            .or_else(|| well_known_port(name))
            .ok_or_else(|| address.unfit(format!("unknown port {name:?}; expected host:port")))?,
    };
    if port == 0 {
        return Err(address.unfit("no server is at port 0"));
    }
    Ok(address.peer(port).0)
}

/// A connection is to a service of a certain name, whatever pattern has found it.
fn service_key(address: &Address, kind: &str, rest: &str) -> Result<String> {
    let text = address.to_string();
    let name = text.split_once('|').map_or(rest, |(_, name)| name);
    // Addresses of exactly one name have it as their text, and its pattern in their target.
    let is_typed = name == rest;
    if name.is_empty() {
        return Err(address.unfit("expected the name of one service after the |"));
    }
    if is_typed && (name.starts_with('^') || name.ends_with('$')) {
        return Err(address.unfit("expected the exact name of one service after the |, not a pattern"));
    }
    Ok(format!("{kind}|{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_an_address_has_one_pin() {
        for (text, wanted) in [
            ("1234", "localhost:1234"),
            ("[::1]:1234", "localhost:1234"),
            ("127.0.0.1:1234", "localhost:1234"),
            ("Desk.Example.:1234", "desk.example:1234"),
            ("https://desk.example/x", "desk.example:443"),
            ("srv:XMPP-Client.Desk.Example.", "srv:xmpp-client.desk.example"),
            ("desk.example:https", "desk.example:443"),
            ("Chat|My room", "chat|My room"),
            ("chat|a (b)", "chat|a (b)"),
        ] {
            assert_eq!(key(text).unwrap(), wanted, "{text}");
            // What an error or a list names can be passed on.
            assert_eq!(key(wanted).unwrap(), wanted);
        }
        assert_eq!(key(([127, 0, 0, 1], 80)).unwrap(), "localhost:80");
    }

    #[cfg(feature = "_services")]
    #[test]
    fn services_are_pinned_by_their_exact_name() {
        for name in ["My room", "^a$", "a (b)|c", "line\nbreak"] {
            assert_eq!(key(Address::service("chat", name).unwrap()).unwrap(), format!("chat|{name}"));
        }
    }

    #[test]
    fn what_has_no_pin_is_an_error() {
        for (text, words) in [
            ("./socket", "unix sockets"),
            ("@socket", "unix sockets"),
            ("chat|", "the name of one service"),
            ("chat|^My", "not a pattern"),
            ("chat|room$", "not a pattern"),
            ("udp://host:1", "no TLS"),
            ("host:0", "port 0"),
            ("host:no-such-port", "unknown port"),
            ("host:99999", "65535"),
        ] {
            let error = key(text).unwrap_err();
            assert!(matches!(&error, Error::Address { problem, .. } if problem.contains(words)), "{text}: {error}");
        }
    }
}
