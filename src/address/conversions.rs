//! From std's values to addresses and endpoints, and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Address, Endpoint};
use crate::error::{Error, Result};

/// IP addresses as std has them: of text by `parse`, of a number or of bytes by `Ipv4Addr::from`.
macro_rules! from_ip {
    ($($ip:ty),*) => {$(
        impl From<($ip, u16)> for Address {
            fn from(address: ($ip, u16)) -> Address {
                SocketAddr::from(address).into()
            }
        }
    )*};
}

from_ip!(IpAddr, Ipv4Addr, Ipv6Addr, [u8; 4]);

impl TryFrom<(String, u16)> for Address {
    type Error = Error;
    fn try_from((host, port): (String, u16)) -> Result<Address> {
        (host.as_str(), port).try_into()
    }
}

impl TryFrom<(&String, u16)> for Address {
    type Error = Error;
    fn try_from((host, port): (&String, u16)) -> Result<Address> {
        (host.as_str(), port).try_into()
    }
}

impl TryFrom<Vec<SocketAddr>> for Address {
    type Error = Error;
    /// Several addresses of one peer, as [`lookup`](crate::lookup) gives them: they are raced.
    fn try_from(addresses: Vec<SocketAddr>) -> Result<Address> {
        addresses.as_slice().try_into()
    }
}

impl TryFrom<&Endpoint> for Address {
    type Error = Error;
    /// As for connecting to where a peer listens as well. Fails for descriptors, and for unix sockets without a path.
    fn try_from(endpoint: &Endpoint) -> Result<Address> {
        match endpoint {
            Endpoint::Inet(address) => Ok((*address).into()),
            Endpoint::Unix(Some(path)) => path.try_into(),
            other => {
                let problem = "expected an IP address and port, or the path of a unix socket".into();
                Err(Error::Address { address: other.to_string(), problem })
            }
        }
    }
}

impl TryFrom<Endpoint> for Address {
    type Error = Error;
    fn try_from(endpoint: Endpoint) -> Result<Address> {
        (&endpoint).try_into()
    }
}

impl From<SocketAddr> for Endpoint {
    /// An IPv4 address in IPv6 clothes shows as what it is.
    fn from(address: SocketAddr) -> Endpoint {
        Endpoint::Inet(super::plain(address))
    }
}

impl TryFrom<&Endpoint> for SocketAddr {
    type Error = Error;
    /// Fails for whatever is not an IP address and port.
    fn try_from(endpoint: &Endpoint) -> Result<SocketAddr> {
        endpoint.inet().ok_or_else(|| Error::Address {
            address: endpoint.to_string(),
            problem: "expected an IP address and port".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_std_and_back() {
        let number = u32::from_be_bytes([192, 0, 2, 1]);
        let want: SocketAddr = "192.0.2.1:80".parse().unwrap();
        for address in [
            Address::from(([192, 0, 2, 1], 80)),
            Address::from((Ipv4Addr::from(number), 80)),
            Address::from((IpAddr::from([192, 0, 2, 1]), 80)),
            Address::try_from(vec![want]).unwrap(),
            Address::try_from(&Endpoint::from(want)).unwrap(),
        ] {
            assert_eq!(address, Address::from(want), "{address}");
        }
        assert_eq!(Address::try_from(("::1".to_string(), 80)).unwrap().to_string(), "[::1]:80");
        let mapped = "[::ffff:192.0.2.1]:80".parse::<SocketAddr>().unwrap();
        assert_eq!(SocketAddr::try_from(&Endpoint::from(mapped)).unwrap(), want);
        assert!(SocketAddr::try_from(&Endpoint::Descriptor).is_err());
        assert!(Address::try_from(Endpoint::Unix(None)).is_err());
        assert!(Address::try_from(Vec::new()).is_err());
    }
}
