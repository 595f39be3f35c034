//! What goes to and fro between those who follow or publish services and the backend that talks to Avahi: `dbus`, or
//! `zeroconf`. Both give a `Backend` (is the daemon there, browsing, registering), a `ServiceBrowser` (and its look-ups) and a
//! `EntryGroup`; only they know how. Plain values, and checks that are the same however a value came.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use super::names::{ServiceType, Txt, check_name};
use crate::address::Address;
use crate::error::Error;

/// The longest names that are taken. Longer ones cannot be, in DNS.
pub(super) const NAME_MAX: usize = 255;

/// The number of the loopback interface, in Linux always.
pub(super) const LOOPBACK: u32 = 1;

/// Who is told whether the daemon is there. Called from the engine, never from within a call to the link.
pub(super) trait Watcher {
    /// It is there, and knows nothing of what was asked of any before.
    fn up(&self);
    /// It takes registrations, or does not any more.
    fn running(&self, running: bool);
    /// It is not there.
    fn down(&self, cause: String);
}

/// What a service is told on: an interface and a protocol, as far as the backend knows them. One of several for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) interface: i32,
    pub(super) protocol: i32,
}

/// What browsing brings.
#[derive(Debug)]
pub(super) enum BrowserEvent {
    New {
        place: Origin,
        name: String,
        domain: String,
    },
    Gone {
        place: Origin,
        name: String,
    },
    AllForNow,
    /// It has ended.
    Failure(String),
}

/// Where a service is to be reached.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) host: String,
    pub(super) address: SocketAddr,
    pub(super) txt: Txt,
}

impl Resolved {
    /// Checks what a look-up brought. Its sender may be anybody: an address that cannot be another machine's, of one that
    /// says it is another, is none. An interface is known if it is more than 0.
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

/// What becomes of a registration.
#[derive(Debug)]
pub(super) enum Registered {
    /// It is known on the network, under this name.
    Established(String),
    /// Somebody else has the name.
    Collision,
    /// It has ended.
    Failure(String),
}

/// What is to be published.
#[derive(Clone, Debug)]
pub(crate) struct Announcement {
    pub(super) kind: ServiceType,
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) txt: Txt,
    /// On this interface alone.
    pub(super) interface: Option<u32>,
}

impl Announcement {
    /// Checks what is to be published, but for the port. `kind` is as it is before the `|` of the address.
    ///
    /// # Errors
    /// `Address`, which says what is wrong with it.
    pub(crate) fn new<'a>(
        address: &Address,
        kind: &str,
        name: &str,
        txt: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Announcement, Error> {
        let check = || {
            check_name(name)?;
            let mut record = Txt::default();
            for (key, value) in txt {
                record.add(key, value)?;
            }
            super::backend::check_txt(&record)?;
            Ok(Announcement {
                kind: ServiceType::parse(kind)?,
                name: name.to_owned(),
                port: 0,
                txt: record,
                interface: None,
            })
        };
        check().map_err(|problem: String| address.unfit(problem))
    }

    /// With the port, and whether it is listened on for this machine alone: then other machines need not know of it.
    pub(crate) fn at(self, port: u16, only_here: bool) -> Announcement {
        Announcement { port, interface: only_here.then_some(LOOPBACK), ..self }
    }
}
