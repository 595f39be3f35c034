//! From an address to listening sockets, and to the service to publish.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, sockopt};

use super::adopt::{adopt_inet, adopt_unix};
use super::listening::{ListenOptions, Listening};
use crate::address::{Address, Host, LISTENING_FORMS, Target, UnixName, endpoint, parse_listening};
use crate::avahi::Announcement;
use crate::error::{Error, Result};
use crate::resolve::{local_addresses, port_number};
use crate::sys::{
    self, Making, SocketFile, bind_abstract, bind_path, is_missing_family, pass_descriptors, stream_socket,
};

/// Attempts to find a port that is free on every loopback address.
const PORT_TRIES: usize = 32;

/// Takes the sockets that were passed to this process for the address, and creates the others.
pub(super) fn bind(
    address: &Address,
    local: &str,
    how: ListenOptions<'_>,
) -> Result<(Vec<Listening>, Option<SocketFile>)> {
    let failed = |source: io::Error| Error::from_listen(address, source);
    match address.target() {
        Target::Service { rest, .. } => {
            let port = match parse_listening(rest).map_err(|problem| address.unfit(problem))? {
                (_, Some(port)) => port_number(address, &port)?,
                (_, None) => 0,
            };
            Ok((bind_at(address, None, local, port, how)?, None))
        }
        Target::Unix(name) => {
            let (listening, file) = bind_unix(name, how).map_err(failed)?;
            Ok((vec![listening], file))
        }
        Target::Direct(addresses) => Ok((bind_all(addresses, how).map_err(failed)?, None)),
        Target::Inet { scheme: Some(_), .. } => {
            Err(address.unfit(format!("cannot listen on a URL; expected {LISTENING_FORMS}")))
        }
        Target::Srv { .. } => Err(address.unfit(format!("cannot listen on SRV records; expected {LISTENING_FORMS}"))),
        Target::Inet { host, port, .. } => {
            Ok((bind_at(address, host.as_ref(), local, port_number(address, port)?, how)?, None))
        }
    }
}

fn bind_unix(name: &UnixName, how: ListenOptions<'_>) -> io::Result<(Listening, Option<SocketFile>)> {
    if let Some(adopted) = adopt_unix(name)? {
        if how.tuning.descriptors > 0 {
            pass_descriptors(adopted.0.fd.as_fd(), true);
        }
        return Ok(adopted);
    }
    let open = || {
        let fd = stream_socket(AddressFamily::UNIX)?;
        how.tuning.apply(fd.as_fd(), AddressFamily::UNIX)?;
        pass_descriptors(fd.as_fd(), how.tuning.descriptors > 0);
        Ok(fd)
    };
    let how = Making { open: &open, listen: &|fd| Ok(sys::listen(fd, how.backlog)?), file: how.file };
    match name {
        UnixName::Path(path) => {
            let (fd, file) = bind_path(path, how)?;
            Ok((fd.into(), Some(file)))
        }
        UnixName::Abstract(_) => Ok((bind_abstract(&name.to_socket_address()?, how)?.into(), None)),
    }
}

fn bind_at(
    address: &Address,
    host: Option<&Host>,
    local: &str,
    port: u16,
    how: ListenOptions<'_>,
) -> Result<Vec<Listening>> {
    let host = match (host, local) {
        (Some(_), local) if !local.is_empty() => {
            return Err(address.unfit(format!("conflicts with the option address({local:?}); set only one")));
        }
        (Some(host), _) => Some(host.clone()),
        (None, "") => None,
        (None, local) => Some(listen_host(local)?),
    };
    let places = local_addresses(address, host.as_ref(), port).map_err(|error| match error {
        Error::Address { problem, .. } if !local.is_empty() => Error::Address { address: local.to_owned(), problem },
        other => other,
    });
    let sockets = match places? {
        Some(addresses) => bind_all(&addresses, how),
        None => bind_everywhere(port, how),
    };
    sockets.map_err(|source| Error::from_listen(address, source))
}

/// Returns the service to publish, if the address is a service.
pub(super) fn announcement(
    address: &Address,
    name: Option<String>,
    txt: &[(String, Vec<u8>)],
) -> Result<Option<Announcement>> {
    let Target::Service { kind, rest } = address.target() else {
        return match (name, txt) {
            (None, []) => Ok(None),
            _ => Err(address.unfit("service_name and txt_record require a service address, as in service|")),
        };
    };
    let (given, _) = parse_listening(rest).map_err(|problem| address.unfit(problem))?;
    let name = match (given, name) {
        ("", Some(name)) => name,
        (given, None) => given.to_owned(),
        (_, Some(name)) => {
            return Err(address.unfit(format!("conflicts with the option service_name({name:?}); set only one")));
        }
    };
    let txt = txt.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
    Announcement::new(address, kind, &name, txt).map(Some)
}

fn listen_host(local: &str) -> Result<Host> {
    let parsed = Address::try_from((local, 0))?;
    match parsed.target() {
        Target::Inet { host: Some(host), .. } => Ok(host.clone()),
        _ => Err(parsed.unfit("expected an address of this machine, such as 127.0.0.1")),
    }
}

/// Binds one IPv6 socket that also serves IPv4, or an IPv4 one on a machine without IPv6.
fn bind_everywhere(port: u16, how: ListenOptions<'_>) -> io::Result<Vec<Listening>> {
    let dual = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let v4 = |port: u16| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let mut adopted: Vec<Listening> = adopt_inet(dual)?.into_iter().collect();
    // A passed IPv6 socket may serve IPv6 only, with a second one for IPv4.
    let port_of = |one: &Listening| Ok::<_, io::Error>(endpoint(sys::local_address(&one.fd)?).port().unwrap_or(port));
    let beside = adopted.first().map(port_of).transpose()?.unwrap_or(port);
    adopted.extend(adopt_inet(v4(beside))?);
    if !adopted.is_empty() {
        return Ok(adopted);
    }
    match bind_inet(&dual, false, how) {
        Ok(fd) => Ok(vec![fd.into()]),
        Err(error) if is_missing_family(&error) => Ok(vec![bind_inet(&v4(port), true, how)?.into()]),
        Err(error) => Err(error),
    }
}

/// Binds one socket for each address, all with the same port. A family that this machine lacks is skipped if another is
/// there.
fn bind_all(addresses: &[SocketAddr], how: ListenOptions<'_>) -> io::Result<Vec<Listening>> {
    let mut tries = PORT_TRIES;
    loop {
        let mut sockets: Vec<Listening> = Vec::new();
        let mut is_adopted = false;
        let mut missing = None;
        let mut port = None;
        let mut clash = None;
        for address in addresses {
            let mut address = *address;
            if let (0, Some(port)) = (address.port(), port) {
                address.set_port(port);
            }
            let bound = match adopt_inet(address)? {
                Some(adopted) => {
                    is_adopted = true;
                    Ok(adopted)
                }
                None => bind_inet(&address, true, how).map(Listening::from),
            };
            match bound {
                Ok(listening) => {
                    port = endpoint(sys::local_address(&listening.fd)?).port();
                    sockets.push(listening);
                }
                Err(error) if is_missing_family(&error) => missing = Some(error),
                Err(error) if !sockets.is_empty() && error.kind() == io::ErrorKind::AddrInUse => clash = Some(error),
                Err(error) => return Err(error),
            }
        }
        match (clash, missing) {
            (Some(error), _) => {
                // The free port chosen on the first address is taken on the second.
                tries -= 1;
                if tries == 0 || is_adopted || addresses.iter().any(|address| address.port() != 0) {
                    return Err(error);
                }
            }
            (None, Some(error)) if sockets.is_empty() => return Err(error),
            _ => return Ok(sockets),
        }
    }
}

fn bind_inet(address: &SocketAddr, v6_only: bool, how: ListenOptions<'_>) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let fd = stream_socket(family)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, v6_only)?;
    }
    // Allows binding to the port of a server that has just stopped.
    sockopt::set_socket_reuseaddr(&fd, true)?;
    // Inherited by the connections: small messages must not wait for acknowledgements (Nagle).
    sockopt::set_tcp_nodelay(&fd, true)?;
    how.tuning.apply(fd.as_fd(), family)?;
    sys::bind(&fd, address)?;
    sys::listen(&fd, how.backlog)?;
    Ok(fd)
}
