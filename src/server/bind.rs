//! From an address to listening sockets, and to what is published of them.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::address::{Address, Host, Target, parse_listening};
use crate::avahi::Registration as Announcement;
use crate::connect::unix_address;
use crate::error::{Error, Result};
use crate::resolve::{local_addresses, port_number};
use crate::transport::endpoint;

/// How often a free port is looked for that is free on every loopback address.
const PORT_TRIES: usize = 32;

/// The path of a unix socket, and which file it was when we made it.
pub(super) struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}
pub(super) fn bind(address: &Address, local: &str, backlog: i32) -> Result<(Vec<OwnedFd>, Option<SocketFile>)> {
    let failed = |source: io::Error| Error::from_listen(address, source);
    match address.target() {
        Target::Service { rest, .. } => {
            let port = match parse_listening(rest).map_err(|problem| address.unfit(problem))? {
                (_, Some(port)) => port_number(address, &port)?,
                (_, None) => 0,
            };
            Ok((bind_at(address, None, local, port, backlog)?, None))
        }
        Target::Unix(path) => {
            let (fd, file) = bind_unix(path, backlog).map_err(failed)?;
            Ok((vec![fd], Some(file)))
        }
        Target::Direct(addresses) => Ok((bind_all(addresses, backlog).map_err(failed)?, None)),
        Target::Inet { tls: Some(_), .. } => Err(address.unfit("a URL cannot be listened on; expected a port")),
        Target::Inet { host, port, .. } => {
            Ok((bind_at(address, host.as_ref(), local, port_number(address, port)?, backlog)?, None))
        }
    }
}

fn bind_at(address: &Address, host: Option<&Host>, local: &str, port: u16, backlog: i32) -> Result<Vec<OwnedFd>> {
    let host = match (host, local) {
        (Some(_), local) if !local.is_empty() => {
            return Err(address.unfit(format!("it names an address itself, and {local:?} was set as another")));
        }
        (Some(host), _) => Some(host.clone()),
        (None, "") => None,
        (None, local) => Some(listen_host(local)?),
    };
    let sockets = match local_addresses(address, host.as_ref(), port)? {
        Some(addresses) => bind_all(&addresses, backlog),
        None => bind_everywhere(port, backlog),
    };
    sockets.map_err(|source| Error::from_listen(address, source))
}

/// What is to be published of a server, if its address is a service.
pub(super) fn announcement(
    address: &Address,
    name: Option<String>,
    txt: &[(String, Vec<u8>)],
) -> Result<Option<Announcement>> {
    let Target::Service { kind, rest } = address.target() else {
        return match (name, txt) {
            (None, []) => Ok(None),
            _ => Err(address.unfit("a name or TXT record was set for a service, and this is none; expected service|")),
        };
    };
    let (given, _) = parse_listening(rest).map_err(|problem| address.unfit(problem))?;
    let name = match (given, name) {
        ("", Some(name)) => name,
        (given, None) => given.to_owned(),
        (_, Some(name)) => {
            return Err(address.unfit(format!("it has a name itself, and {name:?} was set as another")));
        }
    };
    let txt = txt.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
    Announcement::new(address, kind, &name, txt).map(Some)
}

fn listen_host(local: &str) -> Result<Host> {
    let parsed = Address::try_from((local, 0))?;
    match parsed.target() {
        Target::Inet { host: Some(host), .. } => Ok(host.clone()),
        _ => Err(parsed.unfit("expected an address of this machine, as 127.0.0.1")),
    }
}

/// One IPv6 socket that serves IPv4 as well; where there is no IPv6, an IPv4 one.
fn bind_everywhere(port: u16, backlog: i32) -> io::Result<Vec<OwnedFd>> {
    let dual = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match bind_inet(&dual, false, backlog) {
        Ok(fd) => Ok(vec![fd]),
        Err(error) if is_missing_family(&error) => {
            Ok(vec![bind_inet(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), true, backlog)?])
        }
        Err(error) => Err(error),
    }
}

/// One socket for each address, all with the same port. A family that this machine lacks is left out if another is there.
fn bind_all(addresses: &[SocketAddr], backlog: i32) -> io::Result<Vec<OwnedFd>> {
    let mut tries = PORT_TRIES;
    loop {
        let mut sockets: Vec<OwnedFd> = Vec::new();
        let mut missing = None;
        let mut port = None;
        let mut clash = None;
        for address in addresses {
            let mut address = *address;
            if let (0, Some(port)) = (address.port(), port) {
                address.set_port(port);
            }
            match bind_inet(&address, true, backlog) {
                Ok(fd) => {
                    port = endpoint(rustix::net::getsockname(&fd)?).port();
                    sockets.push(fd);
                }
                Err(error) if is_missing_family(&error) => missing = Some(error),
                Err(error) if !sockets.is_empty() && error.kind() == io::ErrorKind::AddrInUse => clash = Some(error),
                Err(error) => return Err(error),
            }
        }
        match (clash, missing) {
            (Some(error), _) => {
                // The free port that the first address got is taken on the second.
                tries -= 1;
                if tries == 0 || addresses.iter().any(|address| address.port() != 0) {
                    return Err(error);
                }
            }
            (None, Some(error)) if sockets.is_empty() => return Err(error),
            _ => return Ok(sockets),
        }
    }
}

fn is_missing_family(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].iter().any(|known| code == Some(known.raw_os_error()))
}

fn bind_inet(address: &SocketAddr, v6_only: bool, backlog: i32) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let fd = listening_socket(family)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, v6_only)?;
    }
    // A port whose last server has just stopped can be had again.
    sockopt::set_socket_reuseaddr(&fd, true)?;
    // Inherited by the connections: small messages must not wait for acknowledgements.
    sockopt::set_tcp_nodelay(&fd, true)?;
    rustix::net::bind(&fd, address)?;
    rustix::net::listen(&fd, backlog)?;
    Ok(fd)
}

fn bind_unix(path: &Path, backlog: i32) -> io::Result<(OwnedFd, SocketFile)> {
    let fd = listening_socket(AddressFamily::UNIX)?;
    rustix::net::bind(&fd, &unix_address(path)?).map_err(|error| match error {
        Errno::ADDRINUSE => io::Error::new(
            io::ErrorKind::AddrInUse,
            "that path exists already; if no other server uses it, remove it first",
        ),
        other => other.into(),
    })?;
    let file = SocketFile::new(path);
    if let Err(error) = rustix::net::listen(&fd, backlog) {
        file.remove();
        return Err(error.into());
    }
    Ok((fd, file))
}

fn listening_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?)
}

impl SocketFile {
    fn new(path: &Path) -> Self {
        // The working directory may change before it is removed.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
        SocketFile { identity: identity(&path), path }
    }

    /// Removes it, if it is still the one that was made.
    pub(super) fn remove(&self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
