//! One server on several threads: each has its own sockets, which listen on the same port, and the kernel distributes the
//! clients.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{AddressFamily, sockopt};

use super::bind::bind;
use super::builder::{Limits, Ready};
use super::listening::{ListenOptions, Listening};
use super::{OnClient, Server, ServerBuilder};
use crate::address::{Address, Endpoint, Target, endpoint};
use crate::conn::Options;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::sys::{self, stream_socket};
use crate::tls::{Fingerprint, ServerSetup};

/// Everything that one thread makes its server of. It already listens.
pub(crate) struct Share {
    address: Address,
    sockets: Vec<OwnedFd>,
    options: Options,
    limits: Limits,
    setup: Option<Arc<ServerSetup>>,
}

impl ServerBuilder {
    /// Listens, once for each thread.
    pub(crate) fn share(self, address: Address, threads: usize) -> Result<Vec<Share>> {
        let unsupported = |what: &str, instead: &str| {
            Err(Error::Unsupported(format!("a multi-threaded server does not support {what}; {instead}")))
        };
        match address.target() {
            Target::Unix(_) => return unsupported("unix sockets", "listen on a port"),
            Target::Service { .. } => return unsupported("services", "listen on a port"),
            _ => {}
        }
        let file = self.file_settings(&address)?;
        let setup = self.prepare_tls(&address)?;
        // Named one by one, so that a new option must be decided on here.
        let ServerBuilder {
            address: local,
            backlog,
            limits,
            options,
            on_disconnect,
            service_name,
            txt,
            on_published,
            tls: _,
            // Of unix sockets only.
            file: _,
            allowed: _,
        } = self;
        if on_disconnect.is_some() {
            return unsupported("disconnect_cb", "set one on each socket, in the client callback");
        }
        if service_name.is_some() || !txt.is_empty() || on_published.is_some() {
            return unsupported("services", "remove service_name, txt_record and published_cb");
        }
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        // The first as in any other server: it fails if another program listens on the port.
        let how = ListenOptions { backlog, tuning: &options.tuning, file };
        let (first, _) = bind(&address, &local, how)?;
        let first: Vec<OwnedFd> = first.into_iter().map(|listening| listening.fd).collect();
        let failed = |source: std::io::Error| Error::from_listen(&address, source);
        let mut shares = Vec::new();
        for _ in 1..threads {
            let sockets: std::io::Result<Vec<_>> = first.iter().map(|fd| beside(fd, how)).collect();
            shares.push(sockets.map_err(failed)?);
        }
        shares.insert(0, first);
        let share = |sockets| Share {
            address: address.clone(),
            sockets,
            options: options.clone(),
            limits,
            setup: setup.clone(),
        };
        Ok(shares.into_iter().map(share).collect())
    }
}

/// Creates another socket that listens on the same address.
fn beside(fd: &OwnedFd, how: ListenOptions<'_>) -> std::io::Result<OwnedFd> {
    sockopt::set_socket_reuseport(fd, true)?;
    let address = SocketAddr::try_from(sys::local_address(fd)?)?;
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let other = stream_socket(family)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&other, sockopt::ipv6_v6only(fd)?)?;
    }
    sockopt::set_socket_reuseaddr(&other, true)?;
    sockopt::set_socket_reuseport(&other, true)?;
    sockopt::set_tcp_nodelay(&other, true)?;
    how.tuning.apply(other.as_fd(), family)?;
    sys::bind(&other, &address)?;
    sys::listen(&other, how.backlog)?;
    Ok(other)
}

impl Share {
    pub(crate) fn local(&self) -> Vec<Endpoint> {
        self.sockets.iter().filter_map(|fd| sys::local_address(fd).ok()).map(endpoint).collect()
    }

    pub(crate) fn fingerprint(&self) -> Option<Fingerprint> {
        self.setup.as_ref().map(|setup| setup.identity().fingerprint())
    }

    /// Serves on the thread-default main context.
    pub(crate) fn serve(self, on_client: Box<OnClient>) -> Result<Server> {
        let Share { address, sockets, options, limits, setup } = self;
        let builder = ServerBuilder { options, limits, ..ServerBuilder::new() };
        let sockets = sockets.into_iter().map(Listening::from).collect();
        let ready = Ready { address, sockets, path: None, setup, allowed: None, announcement: None };
        builder.serve_on(&Engine::current()?, ready, Some(on_client))
    }
}

impl Server {
    /// Returns whether no client is left, not even one in the middle of a handshake.
    pub(crate) fn is_deserted(&self) -> bool {
        self.shared.connections.borrow().is_empty() && self.shared.handshakes.len() == 0
    }
}
