//! Listening sockets that were passed to this process, by systemd or by a predecessor, taken where a server wants to listen.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{SocketType, sockopt};

use super::listening::Listening;
use super::unix::SocketFile;
use crate::address::{Endpoint, UnixName, endpoint};
use crate::log;
use crate::sys::{self, Inherited, OWN_SOCKET, take_inherited};

/// The socket that was passed for that unix address, and its file if that is now ours to remove.
pub(super) fn adopt_unix(name: &UnixName) -> io::Result<Option<(Listening, Option<SocketFile>)>> {
    let wanted = match name {
        UnixName::Path(path) => Endpoint::Unix(Some(std::path::absolute(path)?)),
        UnixName::Abstract(name) => Endpoint::Abstract(name.clone()),
    };
    let same = |local: &Endpoint| match local {
        Endpoint::Unix(Some(path)) => std::path::absolute(path).is_ok_and(|path| wanted == Endpoint::Unix(Some(path))),
        other => *other == wanted,
    };
    let Some(listening) = adopt(same)? else { return Ok(None) };
    let file = match name {
        UnixName::Path(path) if listening.name == OWN_SOCKET => Some(SocketFile::new(path)),
        _ => None,
    };
    Ok(Some((listening, file)))
}

/// The socket that was passed for that address; at port 0, for any port of it.
pub(super) fn adopt_inet(wanted: SocketAddr) -> io::Result<Option<Listening>> {
    let Some(listening) = adopt(|local| local.inet().is_some_and(|local| is_for(wanted, local)))? else {
        return Ok(None);
    };
    sockopt::set_tcp_nodelay(&listening.fd, true)?;
    Ok(Some(listening))
}

fn is_for(wanted: SocketAddr, local: SocketAddr) -> bool {
    let mut local = local;
    if wanted.port() == 0 {
        local.set_port(0);
    }
    // Of an IPv6 address the scope counts only where there is one.
    match (wanted.ip(), local.ip()) {
        (IpAddr::V6(wanted_ip), IpAddr::V6(local_ip)) => wanted_ip == local_ip && wanted.port() == local.port(),
        _ => wanted == local,
    }
}

fn adopt(same: impl Fn(&Endpoint) -> bool) -> io::Result<Option<Listening>> {
    let fits = |inherited: &Inherited| {
        is_listening(&inherited.fd) && sys::local_address(&inherited.fd).is_ok_and(|local| same(&endpoint(local)))
    };
    let Some(Inherited { fd, name }) = take_inherited(fits) else { return Ok(None) };
    // Whoever passed it may have left it blocking, and does not use it.
    rustix::io::ioctl_fionbio(&fd, true)?;
    let local = endpoint(sys::local_address(&fd)?);
    log::info("listen").peer(&local).say(format_args!("listening on a socket that was passed in: {local}"));
    Ok(Some(Listening { fd, name }))
}

fn is_listening(fd: &OwnedFd) -> bool {
    sockopt::socket_type(fd).is_ok_and(|kind| kind == SocketType::STREAM)
        && sockopt::socket_acceptconn(fd).unwrap_or(false)
}
