//! Services by name (DNS-SD over multicast DNS), through the Avahi daemon: found, followed and published.
//!
//! From the bottom: `names` (pure), `backend` (what the backends share), `link` (how Avahi is talked to), `daemon` (is it
//! there), `tracker` (the services of one type); on these `browse` for the user, `find` for connecting, `publish` for
//! servers. There are two links. `dbus`, on `bus`, needs no thread and no polling: one connection to the system's D-Bus for
//! each main context that uses it, opened on the first turn of the loop and closed with its last user. `zeroconf` is for
//! builds without that, and knows less; see there.

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
mod publish;
mod system_bus;
mod tracker;
#[cfg(not(feature = "avahi"))]
mod worker;

use std::net::SocketAddr;

use crate::address::{Address, Target};
use crate::error::{Error, Result};

pub(crate) use backend::end_threads;
pub use browse::{
    Browser, Event, EventStream, PendingResolve, browse, browse_stream, resolve_all_async, resolve_all_future,
};
pub(crate) use events::Announcement;
pub(crate) use find::{Find, Query, SearchEvent, find};
pub use names::Txt;
pub(crate) use publish::{Publication, Published, publish};

/// A service, as the network told of it: any machine on it can claim any name, and put anything into each field.
///
/// Where an address is taken, a reference to this can be given: it connects to the service of exactly this name, at
/// whatever host and port it has then.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Service {
    /// The type, as it is written before the `|` of an address: `chat`. One that is not of TCP is in full, `_chat._udp`.
    pub kind: String,
    /// The name: up to 63 bytes of any characters, line ends and terminal controls among them.
    pub name: String,
    /// The host it is on, as `kitchen.local`.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Where it is to be reached, IPv4 and global addresses first; link-local ones have the scope that is needed.
    pub addresses: Vec<SocketAddr>,
    /// What was published with it. Always empty in a build with the feature `zeroconf` instead of `avahi`.
    pub txt: Txt,
}

impl Address {
    /// The address to connect to of the service of that type and of exactly that name, whatever characters it has. (In the
    /// form `type|regex` some would have to be escaped.)
    ///
    /// # Errors
    /// [`Error::Address`] if that is not a service type, as `chat`, or such a name cannot be.
    ///
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
    /// The service of exactly this name and type.
    fn from(service: &Service) -> Address {
        exactly(&service.kind, &service.name)
    }
}

impl From<Service> for Address {
    fn from(service: Service) -> Address {
        (&service).into()
    }
}

/// There is no Avahi to ask.
fn unavailable(address: impl ToString, cause: impl Into<String>) -> Error {
    Error::AvahiUnavailable { address: address.to_string(), cause: cause.into() }
}
