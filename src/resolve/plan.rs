//! From names to numbers: ports by the services database, hosts by the system's resolver. What needs no look-up starts
//! none, and above all no thread.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use gio::prelude::*;
use rustix::event::{PollFd, PollFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::address::{Address, FORMS, Host, Port, Target, UnixName, well_known_port};
use crate::avahi::Query;
use crate::error::{Error, Operation, Result};
use crate::sys::wait_for;

/// What has to be done to reach an address.
pub(crate) enum Plan {
    Unix(UnixName),
    /// These, in this order.
    Direct(Vec<SocketAddr>),
    /// Ask Avahi first.
    Service(Query),
    /// Ask the resolver first.
    LookUp(String, u16),
}

/// Reads an address as one to connect to.
pub(crate) fn plan(address: &Address) -> Result<Plan> {
    match address.target() {
        Target::Unix(name) => Ok(Plan::Unix(name.clone())),
        Target::Direct(addresses) if addresses.iter().any(|address| address.port() == 0) => Err(zero(address)),
        Target::Direct(addresses) => Ok(Plan::Direct(addresses.clone())),
        Target::Service { kind, rest } => Ok(Plan::Service(Query::new(address, kind, rest)?)),
        Target::Inet { host, port, .. } => {
            let port = port_number(address, port)?;
            if port == 0 {
                return Err(zero(address));
            }
            Ok(match host {
                None => Plan::Direct(loopback(port)),
                Some(Host::Name(name)) if is_localhost(name) => Plan::Direct(loopback(port)),
                Some(Host::Name(name)) => Plan::LookUp(name.clone(), port),
                Some(Host::V4(ip)) => Plan::Direct(vec![SocketAddr::new(IpAddr::V4(*ip), port)]),
                Some(Host::V6(ip, scope)) => Plan::Direct(vec![v6(address, *ip, scope.as_deref(), port)?]),
            })
        }
    }
}

/// What a listening address that names a host stands for, and no host at all: `None`.
pub(crate) fn local_addresses(address: &Address, host: Option<&Host>, port: u16) -> Result<Option<Vec<SocketAddr>>> {
    Ok(match host {
        None => None,
        Some(Host::Name(name)) if is_localhost(name) => Some(loopback(port)),
        Some(Host::Name(_)) => {
            return Err(address.unfit("expected an address of this machine to listen on, as 127.0.0.1, or localhost"));
        }
        Some(Host::V4(ip)) => Some(vec![SocketAddr::new(IpAddr::V4(*ip), port)]),
        Some(Host::V6(ip, scope)) => Some(vec![v6(address, *ip, scope.as_deref(), port)?]),
    })
}

fn zero(address: &Address) -> Error {
    address.unfit("port 0 cannot be connected to")
}

/// `localhost` is this machine, whatever a resolver would say (RFC 6761).
fn is_localhost(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost")
}

fn loopback(port: u16) -> Vec<SocketAddr> {
    vec![(Ipv6Addr::LOCALHOST, port).into(), (Ipv4Addr::LOCALHOST, port).into()]
}

fn v6(address: &Address, ip: Ipv6Addr, scope: Option<&str>, port: u16) -> Result<SocketAddr> {
    let scope = match scope {
        None => 0,
        Some(scope) => match scope.parse() {
            Ok(index) => index,
            Err(_) => interface(scope).ok_or_else(|| address.unfit(format!("there is no interface {scope:?}")))?,
        },
    };
    Ok(SocketAddrV6::new(ip, port, 0, scope).into())
}

/// The number of a network interface.
pub(crate) fn interface(name: &str) -> Option<u32> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
    let any = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    netdevice::name_to_index(any, name).ok()
}

/// The error of a setting that names none.
pub(crate) fn unknown_interface(name: &str) -> Error {
    Error::InvalidOption(format!("unknown interface {name:?}"))
}

/// The number of a port, by the services database if it has a name.
pub(crate) fn port_number(address: &Address, port: &Port) -> Result<u16> {
    let name = match port {
        Port::Number(number) => return Ok(*number),
        Port::Name(name) => name,
    };
    let is_alone = matches!(address.target(), Target::Inet { host: None, .. });
    service_port(name).ok_or_else(|| {
        address.unfit(if address.has_scheme(name) {
            format!("the scheme {name:?} is no service that this system knows the port of; expected host:port")
        } else if is_alone && is_localhost(name) {
            format!("the port is missing, as in {name}:1234; expected {FORMS}")
        } else if is_alone {
            // It was meant as the one or the other.
            format!(
                "no port of that name is known; if it is a host, the port is missing, as in {name}:1234; expected {FORMS}"
            )
        } else {
            format!("{name:?} is neither a port number nor a service that this system knows; expected {FORMS}")
        })
    })
}

/// The number of a port that is known by that name.
pub(crate) fn service_port(name: &str) -> Option<u16> {
    let known = gio::NetworkAddress::parse(&format!("localhost:{name}"), 0).map(|found| found.port());
    known.ok().filter(|number| *number > 0).or_else(|| well_known_port(name))
}

/// Asks the resolver. **Blocks**, at most for that long.
///
/// On a thread of its own, which is over when this returns (unless the time was up): gio's resolver would leave a thread
/// behind for good, and a process with threads cannot go into the background.
pub(crate) fn look_up_blocking(address: &Address, host: &str, port: u16, limit: Duration) -> Result<Vec<SocketAddr>> {
    let failed = |source| Error::Io { operation: Operation::Lookup, address: address.to_string(), source };
    let (sender, receiver) = mpsc::sync_channel(1);
    let (done, tell) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
    let asked = (host.to_owned(), port);
    let thread = std::thread::Builder::new()
        .name("network-lookup".into())
        .spawn(move || {
            let _ = sender.send(asked.to_socket_addrs().map(Vec::from_iter));
            drop(tell);
        })
        .map_err(failed)?;
    let deadline = Instant::now() + limit;
    let answer = loop {
        if let Ok(answer) = receiver.try_recv() {
            break answer;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::TimedOut { operation: Operation::Lookup, address: address.to_string(), limit });
        }
        // Readable when the thread has let go of the other end.
        wait_for(vec![PollFd::new(&done, PollFlags::IN)], Some(left)).map_err(failed)?;
    };
    // It has sent its answer and does nothing more.
    let _ = thread.join();
    match answer {
        Ok(addresses) if !addresses.is_empty() => Ok(interleave(addresses)),
        Ok(_) => Err(Error::Lookup { address: address.to_string(), cause: "it has no addresses".into() }),
        Err(error) => Err(Error::Lookup { address: address.to_string(), cause: error.to_string() }),
    }
}

/// Takes the families in turns, IPv6 first, each in the resolver's order, so that one family that leads nowhere costs
/// little (RFC 8305).
pub(crate) fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let (mut v6, mut v4): (VecDeque<_>, VecDeque<_>) = addresses.into_iter().partition(SocketAddr::is_ipv6);
    let mut turns = Vec::new();
    while !v6.is_empty() || !v4.is_empty() {
        turns.extend(v6.pop_front());
        turns.extend(v4.pop_front());
    }
    turns
}

/// A look-up by gio, whose answers come one by one.
#[derive(Clone)]
pub(crate) struct LookUp {
    answers: gio::SocketAddressEnumerator,
    cancellable: gio::Cancellable,
}

impl LookUp {
    pub(crate) fn start(host: &str, port: u16) -> Self {
        let answers = gio::NetworkAddress::new(host, port).enumerate();
        LookUp { answers, cancellable: gio::Cancellable::new() }
    }

    /// Asks for the next address: `None` when there are no more. gio makes the call, on the thread-default main context.
    pub(crate) fn next(&self, then: impl FnOnce(Result<Option<SocketAddr>, glib::Error>) + 'static) {
        self.answers.next_async(Some(&self.cancellable), move |answer| {
            then(answer.map(|address| address.and_then(|address| from_gio(&address))));
        });
    }

    pub(crate) fn cancel(&self) {
        self.cancellable.cancel();
    }
}

fn from_gio(address: &gio::SocketAddress) -> Option<SocketAddr> {
    let inet = address.downcast_ref::<gio::InetSocketAddress>()?;
    Some(match IpAddr::from(inet.address()) {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), inet.port()),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, inet.port(), inet.flowinfo(), inet.scope_id()).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_ipv6_first() {
        let parse = |list: &[&str]| -> Vec<SocketAddr> { list.iter().map(|text| text.parse().unwrap()).collect() };
        let mixed = parse(&["1.1.1.1:1", "1.1.1.2:1", "[::1]:1", "1.1.1.3:1"]);
        assert_eq!(interleave(mixed), parse(&["[::1]:1", "1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1"]));
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
        let forms = format!("; expected {FORMS}");
        for (text, word) in [
            ("nosuchservice", "no port of that name is known"),
            ("example.org", "the port is missing, as in example.org:1234"),
            ("localhost", "\": the port is missing, as in localhost:1234"),
            ("host:localhost", "\"localhost\" is neither a port number"),
            ("host:nosuchservice", "\"nosuchservice\" is neither a port number"),
        ] {
            let error = number(text).unwrap_err();
            assert!(error.contains(&format!("{text:?}: ")) && error.contains(word), "{error}");
            assert!(error.ends_with(&forms), "{error}");
        }
    }

    #[test]
    fn what_is_a_number_already_needs_no_look_up() {
        for (text, first) in [
            ("1234", "[::1]:1234"),
            ("LocalHost:1234", "[::1]:1234"),
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
