//! Destinations of datagrams: addresses, and text that must be parsed or resolved first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::address::{Address, Endpoint, Scheme, Target};
use crate::error::{Error, Result};

/// A destination of datagrams: a [`SocketAddr`] (or its two parts), an [`Endpoint`], a port of this machine, or text in the
/// form of an [`Address`].
///
/// Addresses cost nothing. Text is parsed each time. A host name is resolved each time, which **blocks** except in futures:
/// for more than a few datagrams, [resolve](crate::names::lookup) it once.
pub trait Destination: sealed::Sealed {}

impl<T: sealed::Sealed> Destination for T {}

/// An address that is ready to use, or one to resolve.
pub enum Place {
    Known(SocketAddr),
    Address(Address),
}

mod sealed {
    pub trait Sealed {
        #[doc(hidden)]
        fn place(self) -> crate::error::Result<super::Place>;
    }
}

pub(super) fn place(to: impl Destination) -> Result<Place> {
    match to.place()? {
        Place::Known(address) => known(address),
        Place::Address(address) => match address.target() {
            Target::Inet { scheme: Some(Scheme::Tls | Scheme::StartTls(_)), .. } => {
                Err(address.unfit("datagrams are sent without TLS"))
            }
            // A single address: nothing to resolve.
            Target::Direct(addresses) => match addresses.as_slice() {
                [address] => known(*address),
                _ => Ok(Place::Address(address)),
            },
            _ => Ok(Place::Address(address)),
        },
    }
}

fn known(address: SocketAddr) -> Result<Place> {
    if address.port() == 0 {
        return Err(Address::from(address).unfit(ZERO));
    }
    Ok(Place::Known(address))
}

macro_rules! known {
    ($($type:ty),*) => {$(
        impl sealed::Sealed for $type {
            fn place(self) -> Result<Place> {
                Ok(Place::Known(self.into()))
            }
        }
    )*};
}

known!(SocketAddr, SocketAddrV4, SocketAddrV6, (IpAddr, u16), (Ipv4Addr, u16), (Ipv6Addr, u16), ([u8; 4], u16));

macro_rules! read {
    ($($type:ty),*) => {$(
        impl sealed::Sealed for $type {
            fn place(self) -> Result<Place> {
                Ok(Place::Address(self.try_into()?))
            }
        }
    )*};
}

read!(&str, &String, String, u16, (&str, u16), (String, u16), &[SocketAddr], Vec<SocketAddr>);

impl sealed::Sealed for &SocketAddr {
    fn place(self) -> Result<Place> {
        Ok(Place::Known(*self))
    }
}

impl sealed::Sealed for &Endpoint {
    fn place(self) -> Result<Place> {
        Ok(Place::Known(self.try_into()?))
    }
}

impl sealed::Sealed for Endpoint {
    fn place(self) -> Result<Place> {
        (&self).place()
    }
}

impl sealed::Sealed for &Address {
    fn place(self) -> Result<Place> {
        Ok(Place::Address(self.clone()))
    }
}

impl sealed::Sealed for Address {
    fn place(self) -> Result<Place> {
        Ok(Place::Address(self))
    }
}

/// Orders the addresses of a peer, keeping those that the socket can reach. For this machine IPv4 comes first, since
/// datagrams have no race between addresses: a socket bound to all addresses has both, and most others are bound to IPv4.
pub(super) fn order(mut addresses: Vec<SocketAddr>, is_v6: bool, address: &Address) -> Result<Vec<SocketAddr>> {
    if addresses.iter().any(|address| address.port() == 0) {
        return Err(address.unfit(ZERO));
    }
    addresses.retain(|address| is_v6 || clothed(*address, false).is_ok());
    if addresses.iter().all(|address| address.ip().is_loopback()) {
        addresses.sort_by_key(SocketAddr::is_ipv6);
    }
    match addresses.is_empty() {
        true => Err(address.unfit(WRONG_FAMILY)),
        false => Ok(addresses),
    }
}

const ZERO: &str = "port 0 cannot be sent to";
const WRONG_FAMILY: &str = "it has no IPv4 address, and this socket has no IPv6";

/// Returns the address in the form that a socket of this family needs.
pub(super) fn clothed(address: SocketAddr, is_v6: bool) -> Result<SocketAddr> {
    match (address, is_v6) {
        (SocketAddr::V4(v4), true) => Ok((v4.ip().to_ipv6_mapped(), v4.port()).into()),
        (SocketAddr::V6(_), false) => match crate::address::to_canonical(address) {
            SocketAddr::V6(_) => Err(Error::Address { address: address.to_string(), problem: WRONG_FAMILY.into() }),
            v4 => Ok(v4),
        },
        _ => Ok(address),
    }
}
