//! The way to an address: directly, or after a lookup of its host or its service. Ports by the services database.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::address::{Address, FORMS, Host, Port, Target, UnixName, well_known_port};
use crate::avahi::Query;
use crate::error::{Error, Result};
use crate::sys::{interface_number, service_port as registered_port};

/// The steps to reach an address.
pub(crate) enum Plan {
    Unix(UnixName),
    /// Try these addresses, in this order.
    Direct(Vec<SocketAddr>),
    /// Ask Avahi for the addresses.
    Service(Query),
    /// Ask the resolver for the addresses of this host.
    Lookup(String, u16),
    /// Ask the resolver for the SRV records of this name.
    Srv(String),
}

/// Plans how to connect to an address.
pub(crate) fn plan(address: &Address) -> Result<Plan> {
    let plan = plan_with_any_port(address)?;
    let is_zero = match &plan {
        Plan::Direct(addresses) => addresses.iter().any(|address| address.port() == 0),
        Plan::Lookup(_, port) => *port == 0,
        Plan::Unix(_) | Plan::Service(_) | Plan::Srv(_) => false,
    };
    if is_zero { Err(address.unfit("cannot connect to port 0")) } else { Ok(plan) }
}

/// As [`plan`], with port 0 allowed.
pub(crate) fn plan_with_any_port(address: &Address) -> Result<Plan> {
    Ok(match address.target() {
        Target::Unix(name) => Plan::Unix(name.clone()),
        Target::Direct(addresses) => Plan::Direct(addresses.clone()),
        Target::Service { kind, rest } => Plan::Service(Query::new(address, kind, rest)?),
        Target::Srv { service, domain } => Plan::Srv(format!("_{service}._tcp.{domain}")),
        Target::Inet { host, port, .. } => {
            let port = port_number(address, port)?;
            match host {
                None => Plan::Direct(loopback(port)),
                Some(Host::Name(name)) if is_localhost(name) => Plan::Direct(loopback(port)),
                Some(Host::Name(name)) => Plan::Lookup(name.clone(), port),
                Some(Host::V4(ip)) => Plan::Direct(vec![SocketAddr::new(IpAddr::V4(*ip), port)]),
                Some(Host::V6(ip, scope)) => Plan::Direct(vec![v6(address, *ip, scope.as_deref(), port)?]),
            }
        }
    })
}

/// Returns the addresses to listen on for a host, or `None` without a host: the wildcard address.
pub(crate) fn local_addresses(address: &Address, host: Option<&Host>, port: u16) -> Result<Option<Vec<SocketAddr>>> {
    Ok(match host {
        None => None,
        Some(Host::Name(name)) if is_localhost(name) => Some(loopback(port)),
        Some(Host::Name(_)) => {
            return Err(
                address.unfit("expected an address of this machine to listen on, such as 127.0.0.1, or localhost")
            );
        }
        Some(Host::V4(ip)) => Some(vec![SocketAddr::new(IpAddr::V4(*ip), port)]),
        Some(Host::V6(ip, scope)) => Some(vec![v6(address, *ip, scope.as_deref(), port)?]),
    })
}

/// `localhost` is this machine, whatever a name server says (RFC 6761).
fn is_localhost(name: &str) -> bool {
    name.strip_suffix('.').unwrap_or(name).eq_ignore_ascii_case("localhost")
}

fn loopback(port: u16) -> Vec<SocketAddr> {
    vec![(Ipv6Addr::LOCALHOST, port).into(), (Ipv4Addr::LOCALHOST, port).into()]
}

fn v6(address: &Address, ip: Ipv6Addr, scope: Option<&str>, port: u16) -> Result<SocketAddr> {
    let scope = match scope {
        None => 0,
        Some(scope) => match scope.parse() {
            Ok(index) => index,
            Err(_) => interface_number(scope).ok_or_else(|| address.unfit(format!("unknown interface {scope:?}")))?,
        },
    };
    Ok(SocketAddrV6::new(ip, port, 0, scope).into())
}

/// The error of an option that names an unknown interface.
pub(crate) fn unknown_interface(name: &str) -> Error {
    Error::InvalidOption(format!("unknown interface {name:?}"))
}

/// Returns the number of a port, by the services database if it has a name.
pub(crate) fn port_number(address: &Address, port: &Port) -> Result<u16> {
    let name = match port {
        Port::Number(number) => return Ok(*number),
        Port::Name(name) => name,
    };
    let is_alone = matches!(address.target(), Target::Inet { host: None, .. });
    service_port(name).ok_or_else(|| {
        address.unfit(if is_alone && is_localhost(name) {
            format!("missing port, as in {name}:1234; expected {FORMS}")
        } else if is_alone {
            format!("unknown port {name:?}; for a host, add a port, as in {name}:1234; expected {FORMS}")
        } else {
            format!("unknown port {name:?}; expected {FORMS}")
        })
    })
}

/// Returns the port of a service.
pub(crate) fn service_port(name: &str) -> Option<u16> {
    registered_port(name).or_else(|| well_known_port(name))
}

/// Alternates between the families, each in the resolver's order, so that one family that leads nowhere costs little
/// (RFC 8305, section 4).
pub(crate) fn interleave(addresses: impl IntoIterator<Item = SocketAddr>, v6_first: bool) -> Vec<SocketAddr> {
    let (mut first, mut second): (VecDeque<_>, VecDeque<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == v6_first);
    let mut all = Vec::new();
    while !first.is_empty() || !second.is_empty() {
        all.extend(first.pop_front());
        all.extend(second.pop_front());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_alternate() {
        let parse = |list: &[&str]| -> Vec<SocketAddr> { list.iter().map(|text| text.parse().unwrap()).collect() };
        let mixed = parse(&["1.1.1.1:1", "1.1.1.2:1", "[::1]:1", "1.1.1.3:1"]);
        assert_eq!(interleave(mixed.clone(), true), parse(&["[::1]:1", "1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1"]));
        assert_eq!(interleave(mixed, false), parse(&["1.1.1.1:1", "[::1]:1", "1.1.1.2:1", "1.1.1.3:1"]));
    }

    #[test]
    fn ports_have_names() {
        let number = |text: &str| {
            let address = Address::parse(text).unwrap();
            let Target::Inet { port, .. } = address.target() else { panic!() };
            port_number(&address, port).map_err(|error| error.to_string())
        };
        assert_eq!(number("http"), Ok(80));
        assert_eq!(number("localhost:ipp"), Ok(631));
        assert_eq!(number("wss://host"), Ok(443));
        assert_eq!(number("wss://host:http"), Ok(80));
        let forms = format!("; expected {FORMS}");
        for (text, word) in [
            ("nosuchservice", "unknown port \"nosuchservice\"; for a host"),
            ("example.org", "add a port, as in example.org:1234"),
            ("localhost", "\": missing port, as in localhost:1234"),
            ("host:localhost", "unknown port \"localhost\"; expected"),
            ("host:nosuchservice", "unknown port \"nosuchservice\"; expected"),
        ] {
            let error = number(text).unwrap_err();
            assert!(error.contains(&format!("{text:?}: ")) && error.contains(word), "{error}");
            assert!(error.ends_with(&forms), "{error}");
        }
    }

    #[test]
    fn addresses_and_localhost_need_no_lookup() {
        for (text, first) in [
            ("1234", "[::1]:1234"),
            ("LocalHost:1234", "[::1]:1234"),
            ("localhost.:1234", "[::1]:1234"),
            ("127.1:5", "127.0.0.1:5"),
            ("1.2.3.4:5", "1.2.3.4:5"),
            ("[fe80::1%7]:5", "[fe80::1%7]:5"),
            ("[fe80::1%lo]:5", "[fe80::1%1]:5"),
        ] {
            match plan(&Address::parse(text).unwrap()) {
                Ok(Plan::Direct(addresses)) => assert_eq!(addresses[0].to_string(), first),
                _ => panic!("{text}"),
            }
        }
        assert!(plan(&Address::parse("host:0").unwrap()).is_err());
        assert!(plan(&Address::parse("[fe80::1%nosuch]:5").unwrap()).is_err());
    }
}
