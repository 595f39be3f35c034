//! Which addresses this machine has: on its own network, by asking the routing table, and seen from outside, by asking a
//! server there. STUN and HTTP have a file each.

mod http;
mod stun;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use futures_channel::oneshot;
use gio::prelude::*;

use crate::address::{Address, Port, Target};
use crate::connect::Interruption;
use crate::engine::{Engine, Sleep, in_background, within};
use crate::error::{Error, Operation, Result};
use crate::resolve::{LIMIT, look_up, look_up_on_thread};

/// Another server is asked as well when the one before has not answered for this long.
const STAGGER: Duration = Duration::from_secs(1);

const OPERATION: Operation = Operation::PublicAddress;

const EXPECTED: &str = "expected stun:host, stun:host:port, or http://host/path";

// ---- on the own network ----

/// Addresses that nobody has (RFC 5737, RFC 3849). Nothing is sent there; they only ask for the way out.
const OUTSIDE_V4: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);
const OUTSIDE_V6: (Ipv6Addr, u16) = (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9);

/// The address that this machine has on its own network: that which connections to the outside come from, IPv4 if it has
/// any. Sends nothing, asks nobody, and never blocks. Behind a router that is not what others see, see
/// [`public_address`].
///
/// # Errors
/// [`Error::Unreachable`] if no route leads out, as without a network.
///
/// ```no_run
/// println!("the others of this network reach me at {}", network::names::local_address()?);
/// # Ok::<(), network::Error>(())
/// ```
pub fn local_address() -> Result<IpAddr> {
    local_address_v4().map(IpAddr::V4).or_else(|_| local_address_v6().map(IpAddr::V6))
}

/// As [`local_address`], of IPv4.
///
/// # Errors
/// As there.
pub fn local_address_v4() -> Result<Ipv4Addr> {
    match way_out((Ipv4Addr::UNSPECIFIED, 0).into(), OUTSIDE_V4.into())? {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(_) => Err(Error::from_connect("the outside", io::ErrorKind::NetworkUnreachable.into())),
    }
}

/// As [`local_address`], of IPv6.
///
/// # Errors
/// As there.
pub fn local_address_v6() -> Result<Ipv6Addr> {
    match way_out((Ipv6Addr::UNSPECIFIED, 0).into(), OUTSIDE_V6.into())? {
        IpAddr::V6(ip) => Ok(ip),
        IpAddr::V4(_) => Err(Error::from_connect("the outside", io::ErrorKind::NetworkUnreachable.into())),
    }
}

/// Fixing the peer of a datagram socket sends nothing, but chooses the address to send from.
fn way_out(from: SocketAddr, to: SocketAddr) -> Result<IpAddr> {
    let chosen = UdpSocket::bind(from).and_then(|socket| {
        socket.connect(to)?;
        socket.local_addr()
    });
    match chosen {
        Ok(address) => Ok(address.ip()),
        Err(error) => {
            let missing = error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error());
            let error = if missing { io::ErrorKind::NetworkUnreachable.into() } else { error };
            Err(Error::from_connect("the outside", error))
        }
    }
}

// ---- seen from outside ----

/// The address under which this machine is seen from outside, as a server there tells: one of `endpoints`, which you
/// choose; none is built in. **Blocks**, at most for `limit`; nothing of the main loop runs meanwhile.
///
/// An endpoint is `stun:host`, `stun:host:port` (a STUN server, RFC 8489, over UDP, by default on port 3478) or
/// `http://host/path` (a page whose text holds the address: the first one in it counts). They are asked in this order,
/// the next one if there is no answer within a second or a failure; the first answer wins. An IPv6 server tells the IPv6
/// address. Nothing vouches for the answer: whoever is on the way can forge it.
///
/// ```no_run
/// # use std::time::Duration;
/// let endpoints = ["stun:stun.example.org", "http://ip.example.org/"];
/// println!("I am {}", network::names::public_address(endpoints, Duration::from_secs(5))?);
/// # Ok::<(), network::Error>(())
/// ```
///
/// # Errors
/// [`Error::Address`] if an endpoint cannot be read, [`Error::InvalidOption`] if there is none, [`Error::TimedOut`],
/// [`Error::WrongThread`]; if all have failed, the error of the last: that of connecting, or [`Error::Lookup`] if its answer
/// holds no address.
pub fn public_address<I>(endpoints: I, limit: Duration) -> Result<IpAddr>
where
    I: IntoIterator<Item: AsRef<str>>,
{
    let services = services(endpoints)?;
    Engine::current()?;
    Engine::flush_here();
    let context = glib::MainContext::new();
    let asked = context.with_thread_default(|| {
        let private = Engine::current()?;
        let address = names(&services);
        let (sender, mut interrupted) = oneshot::channel();
        Interruption::watch(&private, move |source| drop(sender.send(source)));
        // gio would leave a thread behind, and a process with threads cannot go into the background.
        let mut asked = pin!(ask(services, limit, Resolver::OwnThread));
        context.block_on(poll_fn(|context| match Pin::new(&mut interrupted).poll(context) {
            Poll::Ready(Ok(source)) => {
                Poll::Ready(Err(Error::Io { operation: OPERATION, address: address.clone(), source }))
            }
            _ => asked.as_mut().poll(context),
        }))
    });
    asked.map_err(|_| Error::WrongThread)?
}

/// As [`public_address`], in the background: calls `callback` with the outcome, on a later turn of the main loop. Never
/// blocks. Cancelling ends it with [`Error::Cancelled`].
pub fn public_address_async<I>(
    endpoints: I,
    limit: Duration,
    cancellable: Option<&impl IsA<gio::Cancellable>>,
    callback: impl FnOnce(Result<IpAddr>) + 'static,
) where
    I: IntoIterator<Item: AsRef<str>>,
{
    let services = services(endpoints);
    let address = services.as_ref().map_or_else(ToString::to_string, |services| names(services));
    let cancelled = Error::Cancelled { operation: OPERATION, address };
    let future = async move { ask(services?, limit, Resolver::Gio).await };
    in_background("public_address_async", future, cancellable, cancelled, callback);
}

/// As [`public_address`], for whoever awaits it on the thread's main context. Never blocks. Dropping the future ends it.
///
/// # Errors
/// As there.
pub async fn public_address_future<I>(endpoints: I, limit: Duration) -> Result<IpAddr>
where
    I: IntoIterator<Item: AsRef<str>>,
{
    ask(services(endpoints)?, limit, Resolver::Gio).await
}

/// A server to ask.
struct Service {
    text: String,
    kind: Kind,
}

enum Kind {
    Stun(Address),
    Http(Address, http::Page),
}

/// How names are looked up: without a trace, or without a thread of our own.
#[derive(Clone, Copy)]
enum Resolver {
    OwnThread,
    Gio,
}

fn services<I>(endpoints: I) -> Result<Vec<Service>>
where
    I: IntoIterator<Item: AsRef<str>>,
{
    let services: Vec<_> = endpoints.into_iter().map(|text| Service::parse(text.as_ref())).collect::<Result<_>>()?;
    if services.is_empty() {
        return Err(no_endpoint());
    }
    Ok(services)
}

fn no_endpoint() -> Error {
    Error::InvalidOption(format!("no endpoint was given; {EXPECTED}"))
}

fn names(services: &[Service]) -> String {
    services.iter().map(|service| service.text.as_str()).collect::<Vec<_>>().join(", ")
}

impl Service {
    fn parse(text: &str) -> Result<Service> {
        let unfit = |problem: &str| Error::Address { address: text.into(), problem: problem.into() };
        let kind = match text.split_once(':') {
            Some(("stun", rest)) => {
                let authority = rest.strip_prefix("//").unwrap_or(rest);
                Kind::Stun(host(text, "stun", authority, stun::PORT)?)
            }
            Some(("http", rest)) => {
                let rest = rest.strip_prefix("//").ok_or_else(|| unfit("expected http://host/path"))?;
                let address = host(text, "http", rest, http::PORT)?;
                Kind::Http(address, http::Page::parse(text).map_err(|problem| unfit(&problem))?)
            }
            Some(("https" | "stuns", _)) => {
                return Err(unfit("these are asked in the clear: expected http:// or stun:"));
            }
            _ => return Err(unfit(EXPECTED)),
        };
        Ok(Service { text: text.into(), kind })
    }

    async fn ask(&self, engine: &Rc<Engine>, resolver: Resolver) -> Result<IpAddr> {
        let (Kind::Stun(address) | Kind::Http(address, _)) = &self.kind;
        let addresses = match resolver {
            Resolver::OwnThread => look_up_on_thread(address, LIMIT).await?,
            Resolver::Gio => look_up(address, LIMIT).await?,
        };
        match &self.kind {
            Kind::Stun(_) => stun::ask(engine, addresses, &self.text).await,
            Kind::Http(_, page) => page.ask(addresses, &self.text).await,
        }
    }
}

/// The host and port of a URL of that scheme, whose port it is if it names none.
fn host(text: &str, scheme: &str, authority: &str, default: u16) -> Result<Address> {
    let unfit = |problem: String| Error::Address { address: text.into(), problem };
    let parsed = Address::parse(&format!("{scheme}://{authority}")).map_err(|error| match error {
        Error::Address { problem, .. } => unfit(problem),
        other => other,
    })?;
    let Target::Inet { host, port, .. } = parsed.target() else { return Err(unfit("expected a host".into())) };
    let port = match port {
        // The scheme, which stands for the port.
        Port::Name(name) if *name == scheme => Port::Number(default),
        Port::Number(0) => return Err(unfit("port 0 cannot be connected to".into())),
        port => port.clone(),
    };
    Ok(Address::of_target(text.into(), Target::Inet { host: host.clone(), port, tls: None }))
}

async fn ask(services: Vec<Service>, limit: Duration, resolver: Resolver) -> Result<IpAddr> {
    let engine = Engine::current()?;
    let address = names(&services);
    let answer = within(&engine, limit, first_of(&engine, &services, resolver)).await;
    answer.unwrap_or(Err(Error::TimedOut { operation: OPERATION, address, limit }))
}

/// The first answer of several who are asked one after the other, each with a head start.
async fn first_of(engine: &Rc<Engine>, services: &[Service], resolver: Resolver) -> Result<IpAddr> {
    type Asking<'a> = Pin<Box<dyn Future<Output = Result<IpAddr>> + 'a>>;
    let mut waiting: VecDeque<&Service> = services.iter().collect();
    let mut asked: Vec<Asking<'_>> = Vec::new();
    let mut head_start: Option<Pin<Box<Sleep>>> = None;
    let mut failed = None;
    poll_fn(|context| {
        loop {
            let is_over = head_start.as_mut().is_none_or(|sleep| sleep.as_mut().poll(context).is_ready());
            if is_over && let Some(service) = waiting.pop_front() {
                asked.push(Box::pin(service.ask(engine, resolver)));
                head_start = Some(Box::pin(Sleep::start(engine, STAGGER)));
                continue;
            }
            let mut place = 0;
            while let Some(asking) = asked.get_mut(place) {
                match asking.as_mut().poll(context) {
                    Poll::Ready(Ok(address)) => return Poll::Ready(Ok(address)),
                    Poll::Ready(Err(error)) => {
                        drop(asked.remove(place));
                        failed = Some(error);
                        head_start = None;
                    }
                    Poll::Pending => place += 1,
                }
            }
            if head_start.is_some() || (waiting.is_empty() && !asked.is_empty()) {
                return Poll::Pending;
            }
            if asked.is_empty() && waiting.is_empty() {
                return Poll::Ready(Err(failed.take().unwrap_or_else(no_endpoint)));
            }
        }
    })
    .await
}
