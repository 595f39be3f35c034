//! Listening sockets that were passed to this process, by systemd or by a predecessor.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::net::{SocketType, sockopt};

use super::listening::Listening;
use crate::address::{Endpoint, UnixName, endpoint};
use crate::log;
use crate::sys::{self, Inherited, OWN_SOCKET, SocketFile, take_inherited};

/// Returns the socket that was passed for this unix address, and its file if the path is now ours to remove.
pub(super) fn adopt_unix(name: &UnixName) -> io::Result<Option<(Listening, Option<SocketFile>)>> {
    let same = |local: &Endpoint| match (name, local) {
        (UnixName::Path(wanted), Endpoint::Unix(Some(local))) => leads_to_same(wanted, local),
        (UnixName::Abstract(wanted), Endpoint::Abstract(local)) => wanted == local,
        _ => false,
    };
    let Some(listening) = adopt(same)? else { return Ok(None) };
    let file = match name {
        UnixName::Path(path) if listening.name == OWN_SOCKET => SocketFile::new(path).ok(),
        _ => None,
    };
    Ok(Some((listening, file)))
}

/// Returns whether two paths lead to the same socket, through symbolic links, `..` or other spellings of a service manager.
/// If a path no longer exists, its directory and name decide.
fn leads_to_same(wanted: &Path, local: &Path) -> bool {
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    match (identity(wanted), identity(local)) {
        (Some(wanted), Some(local)) => wanted == local,
        _ => {
            let directory = |path: &Path| identity(std::path::absolute(path).ok()?.parent()?);
            wanted.file_name() == local.file_name()
                && directory(wanted).is_some_and(|wanted| directory(local) == Some(wanted))
        }
    }
}

/// Returns the socket that was passed for this address. Port 0 matches any port.
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
    // It may have been left in blocking mode.
    rustix::io::ioctl_fionbio(&fd, true)?;
    let local = endpoint(sys::local_address(&fd)?);
    log::info("listen").peer(&local).say(format_args!("listening on {local}, a socket passed by the service manager"));
    Ok(Some(Listening { fd, name }))
}

pub(super) fn is_listening(fd: &OwnedFd) -> bool {
    sockopt::socket_type(fd).is_ok_and(|kind| kind == SocketType::STREAM)
        && sockopt::socket_acceptconn(fd).unwrap_or(false)
}
