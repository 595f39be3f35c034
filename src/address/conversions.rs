//! Conversions between the values of std, addresses and endpoints.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::path::{Path, PathBuf};

use super::parse::{check_abstract, parse_host, parse_path};
use super::{Address, Endpoint, Port, Target, UnixName};
use crate::error::{Error, Result};

impl TryFrom<&str> for Address {
    type Error = Error;
    fn try_from(text: &str) -> Result<Address> {
        Address::parse(text)
    }
}

impl TryFrom<&String> for Address {
    type Error = Error;
    fn try_from(text: &String) -> Result<Address> {
        Address::parse(text)
    }
}

impl TryFrom<String> for Address {
    type Error = Error;
    fn try_from(text: String) -> Result<Address> {
        Address::parse(&text)
    }
}

impl TryFrom<&OsStr> for Address {
    type Error = Error;
    /// Text that is not UTF-8 is a path.
    fn try_from(text: &OsStr) -> Result<Address> {
        match text.to_str() {
            Some(text) => Address::parse(text),
            None => Path::new(text).try_into(),
        }
    }
}

impl TryFrom<&Path> for Address {
    type Error = Error;
    /// A unix socket, whether or not the path contains a slash.
    fn try_from(path: &Path) -> Result<Address> {
        let text = path.to_string_lossy().into_owned();
        match parse_path(path) {
            Ok(target) => Ok(Address { text, target }),
            Err(problem) => Err(Error::Address { address: text, problem }),
        }
    }
}

impl TryFrom<PathBuf> for Address {
    type Error = Error;
    fn try_from(path: PathBuf) -> Result<Address> {
        path.as_path().try_into()
    }
}

impl TryFrom<&PathBuf> for Address {
    type Error = Error;
    fn try_from(path: &PathBuf) -> Result<Address> {
        path.as_path().try_into()
    }
}

impl TryFrom<(&str, u16)> for Address {
    type Error = Error;
    /// A host and a port. An IPv6 address may be written without brackets.
    fn try_from((host, port): (&str, u16)) -> Result<Address> {
        let bare_v6 = host.split('%').next().is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
        let host = if bare_v6 { format!("[{host}]") } else { host.to_owned() };
        let text = format!("{host}:{port}");
        match parse_host(&host) {
            Ok(host) => {
                Ok(Address { text, target: Target::Inet { host: Some(host), port: Port::Number(port), scheme: None } })
            }
            Err(problem) => Err(Error::Address { address: text, problem }),
        }
    }
}

impl From<u16> for Address {
    fn from(port: u16) -> Address {
        Address { text: port.to_string(), target: Target::Inet { host: None, port: Port::Number(port), scheme: None } }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address { text: address.to_string(), target: Target::Direct(vec![address]) }
    }
}

impl From<SocketAddrV4> for Address {
    fn from(address: SocketAddrV4) -> Address {
        SocketAddr::V4(address).into()
    }
}

impl From<SocketAddrV6> for Address {
    fn from(address: SocketAddrV6) -> Address {
        SocketAddr::V6(address).into()
    }
}

impl TryFrom<&[SocketAddr]> for Address {
    type Error = Error;
    /// Several addresses of one peer, the preferred one first. Connecting races them.
    fn try_from(addresses: &[SocketAddr]) -> Result<Address> {
        let text = addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
        if addresses.is_empty() {
            return Err(Error::Address { address: text, problem: "expected at least one address".into() });
        }
        Ok(Address { text, target: Target::Direct(addresses.into()) })
    }
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Error {
        match never {}
    }
}

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
    /// Several addresses of one peer, as returned by [`lookup`](crate::names::lookup). Connecting races them.
    fn try_from(addresses: Vec<SocketAddr>) -> Result<Address> {
        addresses.as_slice().try_into()
    }
}

impl TryFrom<&Endpoint> for Address {
    type Error = Error;
    /// The address of a peer that listens as well. Fails for file descriptors and for unix sockets without a name.
    fn try_from(endpoint: &Endpoint) -> Result<Address> {
        match endpoint {
            Endpoint::Inet(address) => Ok((*address).into()),
            Endpoint::Proxied { host, port } => (host, *port).try_into(),
            Endpoint::Unix(Some(path)) => path.try_into(),
            Endpoint::Abstract(name) => {
                let text = endpoint.to_string();
                match check_abstract(name) {
                    Ok(()) => Ok(Address { text, target: Target::Unix(UnixName::Abstract(name.clone())) }),
                    Err(problem) => Err(Error::Address { address: text, problem }),
                }
            }
            other => {
                let problem =
                    "expected an IP address and port, or a unix socket with a path or an abstract name".into();
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
    /// Converts an IPv4-mapped IPv6 address to IPv4.
    fn from(address: SocketAddr) -> Endpoint {
        Endpoint::Inet(super::to_canonical(address))
    }
}

impl TryFrom<&Endpoint> for SocketAddr {
    type Error = Error;
    /// Fails unless the endpoint is an IP address and port.
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
        assert!(Address::try_from(Vec::new()).is_err());
    }

    #[test]
    fn every_kind_of_endpoint_is_an_address_or_says_why_not() {
        let inet = Endpoint::from("192.0.2.1:80".parse::<SocketAddr>().unwrap());
        let name = |name: &[u8]| Endpoint::Abstract(name.into());
        for (endpoint, is_unix, text) in [
            (inet, false, Some("192.0.2.1:80")),
            (Endpoint::Unix(Some("/run/x".into())), true, Some("/run/x")),
            (Endpoint::Unix(Some("no-slash".into())), true, Some("no-slash")),
            (Endpoint::Unix(None), true, None),
            (name(b"x"), true, Some("@x")),
            (name(b"/tmp/a|b"), true, Some("@/tmp/a|b")),
            (name(b"a\0\xff"), true, Some("@a\\u{0}\u{fffd}")),
            (name(b""), true, None),
            (name(&[b'x'; 108]), true, None),
            (Endpoint::Proxied { host: "::1".into(), port: 80 }, false, Some("[::1]:80")),
            (Endpoint::Proxied { host: "example.org".into(), port: 80 }, false, Some("example.org:80")),
            (Endpoint::Descriptor, false, None),
        ] {
            assert_eq!(endpoint.is_unix(), is_unix, "{endpoint}");
            let address = Address::try_from(&endpoint);
            assert_eq!(address.as_ref().ok().map(ToString::to_string).as_deref(), text, "{address:?}");
            match (address.map(|address| address.target), &endpoint) {
                (Ok(Target::Unix(UnixName::Abstract(name))), Endpoint::Abstract(given)) => assert_eq!(name, *given),
                (Ok(Target::Unix(UnixName::Path(path))), Endpoint::Unix(Some(given))) => assert_eq!(path, *given),
                (Ok(Target::Direct(addresses)), Endpoint::Inet(given)) => assert_eq!(addresses, [*given]),
                (Ok(Target::Inet { port, .. }), Endpoint::Proxied { .. }) => assert_eq!(port, Port::Number(80)),
                (Err(Error::Address { address, .. }), _) => assert_eq!(address, endpoint.to_string()),
                other => panic!("{other:?}"),
            }
        }
    }
}
