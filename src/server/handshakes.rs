//! The TLS handshakes of a server that are in progress, by the client's host, so that one host cannot take all places.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use crate::address::Endpoint;
use crate::conn::Conn;

/// A handshake older than this may be given up for another client of the same host. Honest ones take a few round trips.
const PATIENCE: Duration = Duration::from_secs(1);

/// A client's host: an IPv4 address, or an IPv6 network of 64 bits, which is what one customer has at least.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Host(IpAddr);

impl From<&Endpoint> for Host {
    fn from(remote: &Endpoint) -> Self {
        Host(match remote.inet().map(|remote| remote.ip().to_canonical()) {
            Some(IpAddr::V6(address)) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
            Some(address) => address,
            // Never with TLS.
            None => Ipv4Addr::UNSPECIFIED.into(),
        })
    }
}

struct Pending {
    conn: Weak<Conn>,
    since: Instant,
}

pub(super) struct Handshakes {
    limit: usize,
    /// A host may have more than this only while there is room for all.
    share: usize,
    count: Cell<usize>,
    hosts: RefCell<HashMap<Host, VecDeque<Pending>>>,
}

impl Handshakes {
    pub(super) fn new(limit: usize, share: usize) -> Self {
        Handshakes { limit, share, count: Cell::new(0), hosts: RefCell::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.count.get()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    /// Returns whether a host has more than its share, so that clients of others need not wait.
    pub(super) fn is_crowded(&self) -> bool {
        self.hosts.borrow().values().any(|pending| pending.len() > self.share)
    }

    pub(super) fn start(&self, host: Host, conn: &Rc<Conn>) {
        let pending = Pending { conn: Rc::downgrade(conn), since: Instant::now() };
        self.hosts.borrow_mut().entry(host).or_default().push_back(pending);
        self.count.set(self.len() + 1);
    }

    pub(super) fn finish(&self, host: Host, conn: &Rc<Conn>) {
        let is_it = |pending: &Pending| std::ptr::eq(pending.conn.as_ptr(), Rc::as_ptr(conn));
        drop(self.take(host, |all| all.iter().position(is_it)));
    }

    /// Gives one handshake up for a client of this host, which the caller has to end. A host below its share displaces the
    /// oldest of the host that has most; any other displaces its own oldest, if that has had its time. `None` if there is
    /// no room for this client.
    pub(super) fn make_room(&self, host: Host) -> Option<Weak<Conn>> {
        let hosts = self.hosts.borrow();
        let is_modest = hosts.get(&host).is_none_or(|own| own.len() < self.share);
        let from = match is_modest {
            true => *hosts.iter().max_by_key(|(_, pending)| pending.len())?.0,
            false => host,
        };
        drop(hosts);
        let may_go = |oldest: &Pending| is_modest || oldest.since.elapsed() >= PATIENCE;
        let gone = self.take(from, |all| all.front().is_some_and(may_go).then_some(0))?;
        Some(gone.conn)
    }

    fn take(&self, host: Host, find: impl FnOnce(&VecDeque<Pending>) -> Option<usize>) -> Option<Pending> {
        let mut hosts = self.hosts.borrow_mut();
        let all = hosts.get_mut(&host)?;
        let taken = all.remove(find(all)?)?;
        if all.is_empty() {
            hosts.remove(&host);
        }
        self.count.set(self.len() - 1);
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_networks_and_ipv4_addresses_are_hosts() {
        let host = |address: &str| Host::from(&Endpoint::Inet(address.parse().unwrap()));
        assert!(host("192.0.2.1:1") == host("192.0.2.1:2") && host("192.0.2.1:1") != host("192.0.2.2:1"));
        assert!(host("[::ffff:192.0.2.1]:1") == host("192.0.2.1:1"));
        assert!(host("[2001:db8::1]:1") == host("[2001:db8::ffff:0:0:2]:1"));
        assert!(host("[2001:db8::1]:1") != host("[2001:db8:0:1::1]:1"));
    }
}
