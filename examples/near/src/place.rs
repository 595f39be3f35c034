//! Where a device is: an address, and for one that is link-local, the interface without which it means nothing.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use rustix::net::{AddressFamily, SocketType, netdevice, socket};

/// Written as `10.9.8.7` or `fe80::1%eth0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    ip: IpAddr,
    /// The number of the interface; 0 unless the address is link-local.
    interface: u32,
}

impl Place {
    pub fn at(self, port: u16) -> SocketAddr {
        match self.ip {
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, self.interface).into(),
            ip => SocketAddr::new(ip, port),
        }
    }
}

impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Place {
        let interface = match address {
            SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => v6.scope_id(),
            _ => 0,
        };
        Place { ip: address.ip().to_canonical(), interface }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip.fmt(out)?;
        match self.interface {
            0 => Ok(()),
            number => match any_socket().and_then(|socket| netdevice::index_to_name(socket, number)) {
                Ok(name) => write!(out, "%{name}"),
                Err(_) => write!(out, "%{number}"),
            },
        }
    }
}

impl FromStr for Place {
    type Err = ();

    /// Fails also if there is no such interface now.
    fn from_str(text: &str) -> Result<Place, ()> {
        let (ip, zone) = text.split_once('%').map_or((text, None), |(ip, zone)| (ip, Some(zone)));
        let ip: IpAddr = ip.parse().map_err(drop)?;
        let interface = match zone {
            None => 0,
            Some(_) if !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()) => return Err(()),
            Some(zone) => zone.parse().or_else(|_| netdevice::name_to_index(any_socket()?, zone)).map_err(drop)?,
        };
        Ok(Place { ip: ip.to_canonical(), interface })
    }
}

/// The kernel is asked for interfaces by way of a socket, whichever it is.
fn any_socket() -> rustix::io::Result<rustix::fd::OwnedFd> {
    socket(AddressFamily::UNIX, SocketType::DGRAM, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_link_local_addresses_have_an_interface() {
        let place = |text: &str| text.parse::<Place>();
        for text in ["10.9.8.7", "2001:db8::1", "fe80::1", "fe80::1%lo"] {
            assert_eq!(place(text).unwrap().to_string(), text);
        }
        let lo = place("fe80::1%lo").unwrap();
        assert_eq!(lo.at(1716).to_string(), format!("[fe80::1%{}]:1716", lo.interface));
        assert_eq!((Place::from(lo.at(1)), place(&format!("fe80::1%{}", lo.interface))), (lo, Ok(lo)));
        assert_eq!(place("::ffff:10.9.8.7"), place("10.9.8.7"));
        assert_eq!(
            Place::from(SocketAddr::from(SocketAddrV6::new("2001:db8::1".parse().unwrap(), 1, 0, 7))).interface,
            0
        );
        for text in ["", "%lo", "name", "10.9.8.7%lo", "2001:db8::1%lo", "fe80::1%", "fe80::1%nowhere", "fe80::1%l%o"] {
            assert_eq!(place(text), Err(()), "{text}");
        }
    }
}
