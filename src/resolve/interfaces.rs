//! The network interfaces of this machine.

use std::net::{IpAddr, Ipv4Addr};

use crate::error::{Error, Operation, Result};
use crate::sys::{InterfaceEntry, interface_entries, interface_number};

/// A network interface of this machine, as of the moment when it was listed. Created by [`interfaces`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Interface {
    /// The name, such as `eth0`.
    pub name: String,
    /// The number, which is also the scope of link-local IPv6 addresses.
    pub index: u32,
    /// The interface is up.
    pub is_up: bool,
    /// It leads to this machine only.
    pub is_loopback: bool,
    /// Its addresses, in the kernel's order.
    pub addresses: Vec<InterfaceAddress>,
}

/// An address of an [`Interface`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InterfaceAddress {
    /// The address.
    pub ip: IpAddr,
    /// The length of the network's prefix in bits: 24 for 198.51.100.0/24.
    pub prefix: u8,
    /// The address that reaches all machines of the network. `None` if there is none, as over IPv6 and on point-to-point
    /// links.
    pub broadcast: Option<Ipv4Addr>,
}

/// Lists the network interfaces of this machine with their addresses (getifaddrs(3)). Causes no network traffic and does not
/// block.
///
/// # Errors
/// [`Error::Io`] if the kernel does not tell.
///
/// # Example
/// ```
/// for interface in network::names::interfaces()? {
///     for address in interface.addresses {
///         println!("{}: {}/{}", interface.name, address.ip, address.prefix);
///     }
/// }
/// # Ok::<(), network::Error>(())
/// ```
pub fn interfaces() -> Result<Vec<Interface>> {
    let entries = interface_entries().map_err(|source| Error::Io {
        operation: Operation::Interfaces,
        address: "the network interfaces".into(),
        source,
    })?;
    let mut all: Vec<Interface> = Vec::new();
    for InterfaceEntry { name, is_up, is_loopback, address, broadcast, .. } in entries {
        let address = address.map(|(ip, prefix)| InterfaceAddress { ip, prefix, broadcast });
        match all.iter_mut().find(|known| known.name == name) {
            Some(known) => known.addresses.extend(address),
            None => {
                // One that has just been removed is none.
                let Some(index) = interface_number(&name) else { continue };
                all.push(Interface { name, index, is_up, is_loopback, addresses: address.into_iter().collect() });
            }
        }
    }
    Ok(all)
}
