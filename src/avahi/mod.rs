//! DNS-SD services over multicast DNS, through the Avahi daemon: browsing, resolving and publishing.
//!
//! From the bottom: `names` (pure values), `events` (what a backend reports), `backend` (talks to the daemon), `daemon`
//! (its state), `tracker` (the services of one type). On these stand `browse` for the user, `find` for connecting,
//! `publish` for servers, and on that `publisher` for the user.
//!
//! There are two backends. `dbus`, on `bus`, needs neither threads nor polling: each main context that uses services
//! has one connection to the D-Bus system bus, opened in the first loop iteration and closed with its last user.
//! `zeroconf` is for builds without D-Bus and supports less; see there.

#[cfg(feature = "avahi")]
#[path = "dbus.rs"]
mod backend;
#[cfg(not(feature = "avahi"))]
#[path = "zeroconf.rs"]
mod backend;
mod browse;
#[cfg(feature = "avahi")]
mod bus;
#[cfg(any(test, fuzzing))]
pub(crate) mod checks;
mod daemon;
mod events;
mod find;
mod names;
mod presence;
mod publish;
mod publisher;
#[cfg(feature = "avahi")]
mod replies;
mod system_bus;
mod tracker;
#[cfg(not(feature = "avahi"))]
mod worker;

use std::net::SocketAddr;

use crate::address::{Address, Target};
use crate::error::{Error, Result};

pub(crate) use backend::end_threads;
pub use browse::{Browser, Event, EventStream, browse, browse_stream, resolve_all_async, resolve_all_future};
pub(crate) use events::Announcement;
pub(crate) use find::{Find, Query, SearchEvent, find};
pub use names::Txt;
pub(crate) use presence::{News, Presence, presence};
pub(crate) use publish::{Publication, Published, announce, unpublished};
pub use publisher::{Publisher, publish};

/// A service on the local network. Every field is untrusted: any machine there can publish any values.
///
/// Can be passed wherever an address is expected. The connection goes to the service of exactly this name, at the host
/// and port that it has by then.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Service {
    /// The service type as before the `|` of an address: `chat` for `_chat._tcp`. Types of UDP are in full:
    /// `_chat._udp`.
    pub kind: String,
    /// The instance name: up to 63 bytes of any characters, including newlines and control characters.
    pub name: String,
    /// The host name, such as `kitchen.local`.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The addresses of the service: IPv4 and global IPv6 addresses first, then link-local ones, which include their
    /// scope.
    pub addresses: Vec<SocketAddr>,
    /// The TXT record. Always empty with the feature `zeroconf` instead of `avahi`.
    pub txt: Txt,
}

impl Address {
    /// Returns the address of the service with this type and exactly this instance name.
    ///
    /// The name may contain any characters. In the text form `type|regex`, some of them would have to be escaped.
    ///
    /// # Errors
    /// [`Error::Address`] if `kind` is not a service type such as `chat`, or if `name` is empty, longer than 63 bytes
    /// or contains a NUL byte.
    ///
    /// # Example
    /// ```
    /// let address = network::Address::service("chat", "Any room (at all)")?;
    /// assert_eq!(address.to_string(), "chat|Any room (at all)");
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn service(kind: &str, name: &str) -> Result<Address> {
        let checked = names::ServiceType::parse(kind).and_then(|kind| names::check_name(name).map(|()| kind));
        match checked {
            Ok(kind) => Ok(exactly(&kind.to_string(), name)),
            Err(problem) => Err(Error::Address { address: format!("{kind}|{name}"), problem }),
        }
    }
}

fn exactly(kind: &str, name: &str) -> Address {
    let rest = names::exactly(name);
    Address::of_target(format!("{kind}|{name}"), Target::Service { kind: kind.to_owned(), rest })
}

impl From<&Service> for Address {
    /// Returns the address of the service with exactly this name and type.
    fn from(service: &Service) -> Address {
        exactly(&service.kind, &service.name)
    }
}

impl From<Service> for Address {
    fn from(service: Service) -> Address {
        (&service).into()
    }
}

/// The error for a daemon that cannot be asked.
fn unavailable(address: impl ToString, cause: impl Into<String>) -> Error {
    Error::AvahiUnavailable { address: address.to_string(), cause: cause.into() }
}
