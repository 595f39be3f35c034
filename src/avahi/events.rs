//! The values that pass between a backend, which talks to Avahi (`dbus` or `zeroconf`), and the modules that browse and
//! publish. Each backend has a `Backend` (state of the daemon, browsing, registering), a `ServiceBrowser` (with its
//! lookups) and an `EntryGroup`. The checks here apply to the values of both.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use super::names::{ServiceType, Txt, check_name};
use crate::address::Address;
use crate::error::Error;

/// The longest name that is accepted, in bytes. DNS has no longer ones.
pub(super) const NAME_MAX: usize = 255;

/// The index of the loopback interface, which is always the same on Linux.
pub(super) const LOOPBACK: u32 = 1;

/// Receives the state of the daemon. Called from the engine, never from within a call to the backend.
pub(super) trait Watcher {
    /// The daemon is running. It knows nothing of earlier requests.
    fn up(&self);
    /// The daemon has begun or stopped to accept registrations.
    fn running(&self, running: bool);
    /// The daemon is not running or cannot be reached.
    fn down(&self, cause: String);
}

/// The interface and protocol on which a service was announced, as far as the backend knows them. A name can have
/// several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) interface: i32,
    pub(super) protocol: i32,
}

/// A report of a browser.
#[derive(Debug)]
pub(super) enum BrowserEvent {
    New {
        origin: Origin,
        name: String,
        domain: String,
    },
    Gone {
        origin: Origin,
        name: String,
    },
    AllForNow,
    /// Browsing has failed.
    Failure(String),
}

/// The result of a lookup.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) host: String,
    pub(super) address: SocketAddr,
    pub(super) txt: Txt,
}

impl Resolved {
    /// Checks the result of a lookup, which any machine may have sent. Rejects addresses that cannot be those of
    /// another machine, unless the service `is_ours`. A positive `interface` is known.
    pub(super) fn check(
        host: String,
        ip: IpAddr,
        port: u16,
        txt: Txt,
        interface: i32,
        is_ours: bool,
    ) -> Option<Resolved> {
        let ip = ip.to_canonical();
        let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        if ip.is_unspecified() || ip.is_multicast() || broadcast || (ip.is_loopback() && !is_ours) {
            return None;
        }
        if host.len() > NAME_MAX {
            return None;
        }
        let address = match ip {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                let scope = u32::try_from(interface).ok().filter(|scope| *scope > 0)?;
                SocketAddrV6::new(v6, port, 0, scope).into()
            }
            ip => SocketAddr::new(ip, port),
        };
        Some(Resolved { host, address, txt })
    }
}

/// A report on a registration.
#[derive(Debug)]
pub(super) enum Registered {
    /// The service is published under this name.
    Established(String),
    /// Another service has the name.
    Collision,
    /// The registration has failed.
    Failure(String),
}

/// A service that is to be published.
#[derive(Clone, Debug)]
pub(crate) struct Announcement {
    pub(super) kind: ServiceType,
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) txt: Txt,
    /// The only interface to publish on. `None`: all of them.
    pub(super) interface: Option<u32>,
}

impl Announcement {
    /// Creates an announcement without a port. `kind` is the service type as before the `|` of the address.
    ///
    /// # Errors
    /// `Address` if the type, the name or the TXT record is invalid.
    pub(crate) fn new<'a>(
        address: &Address,
        kind: &str,
        name: &str,
        txt: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Announcement, Error> {
        Announcement::checked(kind, name, txt).map_err(|problem| address.unfit(problem))
    }

    /// Creates an announcement without a port, or says what is invalid.
    pub(super) fn checked<'a>(
        kind: &str,
        name: &str,
        txt: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Announcement, String> {
        check_name(name)?;
        let mut record = Txt::default();
        for (key, value) in txt {
            record.add(key, value)?;
        }
        super::backend::check_txt(&record)?;
        let kind = ServiceType::parse(kind)?;
        Ok(Announcement { kind, name: name.to_owned(), port: 0, txt: record, interface: None })
    }

    /// Sets the port. With `only_here`, for a server that only this machine can reach, other machines are not told.
    pub(crate) fn at(self, port: u16, only_here: bool) -> Announcement {
        Announcement { port, interface: only_here.then_some(LOOPBACK), ..self }
    }
}
