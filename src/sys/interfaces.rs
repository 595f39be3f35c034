//! Network interfaces: names, numbers, addresses, and the address that a route starts from.

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ptr;

use rustix::net::AddressFamily;

use super::sockets::{bind, connect, datagram_socket, local_address};

/// One entry of the system's list. An interface has one for its link, and one for each address.
#[derive(Clone, Debug, Hash)]
pub(crate) struct InterfaceEntry {
    /// Without the label of an IPv4 address.
    pub(crate) name: String,
    pub(crate) is_up: bool,
    pub(crate) is_loopback: bool,
    /// All flags, such as that for a carrier.
    pub(crate) flags: u32,
    /// The address, and the length of its network prefix in bits.
    pub(crate) address: Option<(IpAddr, u8)>,
    pub(crate) broadcast: Option<Ipv4Addr>,
}

/// Returns the number of an interface.
pub(crate) fn interface_number(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: reads a text that ends in a zero.
    let number = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (number != 0).then_some(number)
}

/// Returns the name of an interface.
pub(crate) fn interface_name(number: u32) -> Option<String> {
    let mut name = [0 as c_char; libc::IF_NAMESIZE];
    // SAFETY: writes at most as many bytes as the array has, with a zero at the end.
    let found = unsafe { libc::if_indextoname(number, name.as_mut_ptr()) };
    // SAFETY: as libc has found it, it has written it.
    (!found.is_null()).then(|| unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned())
}

/// Lists the interfaces and their addresses.
pub(crate) fn interface_entries() -> io::Result<Vec<InterfaceEntry>> {
    let mut list = ptr::null_mut();
    // SAFETY: a place for the list.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut next = list;
    // SAFETY: a list made by libc, which ends in null and is freed below.
    while let Some(entry) = unsafe { next.as_ref() } {
        found.push(read(entry));
        next = entry.ifa_next;
    }
    // SAFETY: made by libc, and not used afterwards.
    unsafe { libc::freeifaddrs(list) };
    Ok(found)
}

fn read(entry: &libc::ifaddrs) -> InterfaceEntry {
    let has = |flag: libc::c_int| entry.ifa_flags & flag.cast_unsigned() != 0;
    // SAFETY: a text that ends in a zero.
    let name = unsafe { CStr::from_ptr(entry.ifa_name) }.to_string_lossy();
    let mask = ip(entry.ifa_netmask);
    let address = ip(entry.ifa_addr).map(|address| (address, prefix(mask, address)));
    let broadcast = match address {
        Some((IpAddr::V4(address), prefix)) if has(libc::IFF_BROADCAST) => {
            broadcast(ip(entry.ifa_ifu), address, prefix)
        }
        _ => None,
    };
    InterfaceEntry {
        name: name.split(':').next().unwrap_or_default().to_owned(),
        is_up: has(libc::IFF_UP),
        is_loopback: has(libc::IFF_LOOPBACK),
        flags: entry.ifa_flags,
        address,
        broadcast,
    }
}

/// Returns the broadcast address of a network: the one that is set, or the last address of the network, for which the kernel
/// has a route in any case.
fn broadcast(set: Option<IpAddr>, address: Ipv4Addr, prefix: u8) -> Option<Ipv4Addr> {
    match set {
        Some(IpAddr::V4(set)) if !set.is_unspecified() && set != address => Some(set),
        // Networks of one or two addresses have none (RFC 3021).
        _ if prefix > 30 => None,
        _ => Some(Ipv4Addr::from_bits(address.to_bits() | u32::MAX.checked_shr(prefix.into()).unwrap_or(0))),
    }
}

fn prefix(mask: Option<IpAddr>, address: IpAddr) -> u8 {
    let bits = match mask {
        Some(IpAddr::V4(mask)) => mask.to_bits().leading_ones(),
        Some(IpAddr::V6(mask)) => mask.to_bits().leading_ones(),
        None if address.is_ipv4() => 32,
        None => 128,
    };
    // At most 128.
    u8::try_from(bits).unwrap_or(128)
}

fn ip(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: null, or an address in libc's list.
    let family = unsafe { address.as_ref() }?.sa_family;
    match i32::from(family) {
        libc::AF_INET => {
            // SAFETY: the family says that the address is of this type.
            let v4 = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

/// Returns the local address that datagrams to this destination come from. Connecting a datagram socket chooses it and sends
/// nothing.
pub(crate) fn source_address(to: SocketAddr) -> io::Result<IpAddr> {
    let (family, any) = match to {
        SocketAddr::V4(_) => (AddressFamily::INET, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
        SocketAddr::V6(_) => (AddressFamily::INET6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))),
    };
    let socket = datagram_socket(family)?;
    bind(&socket, &any)?;
    connect(&socket, &to)?;
    let local = SocketAddr::try_from(local_address(&socket)?)?;
    Ok(local.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_known_by_name_and_number() {
        let entries = interface_entries().unwrap();
        let lo = entries.iter().find(|entry| entry.is_loopback).unwrap();
        let number = interface_number(&lo.name).unwrap();
        assert_eq!(interface_name(number), Some(lo.name.clone()));
        assert_eq!(interface_number("no/such"), None);
        assert_eq!(interface_number("a\0b"), None);
        assert_eq!(interface_name(u32::MAX), None);
    }

    #[test]
    fn the_length_of_a_prefix_is_that_of_its_mask() {
        let any: IpAddr = Ipv4Addr::UNSPECIFIED.into();
        assert_eq!(prefix(Some("255.255.254.0".parse().unwrap()), any), 23);
        assert_eq!(prefix(Some("ffff:ffff::".parse().unwrap()), any), 32);
        assert_eq!(prefix(None, any), 32);
        assert_eq!(prefix(None, Ipv6Addr::LOCALHOST.into()), 128);
    }

    #[test]
    fn a_network_has_a_broadcast_address_whether_it_is_set_or_not() {
        let own: Ipv4Addr = "192.0.2.65".parse().unwrap();
        let set = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        let last = Some("192.0.2.127".parse().unwrap());
        for (told, prefix, want) in [
            (None, 26, last),
            (set("0.0.0.0"), 26, last),
            (set("192.0.2.127"), 24, last),
            (None, 0, Some(Ipv4Addr::BROADCAST)),
            (None, 31, None),
            (set("192.0.2.65"), 32, None),
        ] {
            assert_eq!(broadcast(told, own, prefix), want, "{told:?}/{prefix}");
        }
    }

    #[test]
    fn the_way_to_this_machine_starts_here() {
        assert_eq!(source_address("127.0.0.1:9".parse().unwrap()).unwrap(), Ipv4Addr::LOCALHOST);
    }
}
