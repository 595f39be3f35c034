//! The addresses of this machine: on its local network, by the routing table, and as seen from outside, by asking a server
//! there. STUN and HTTP have a file each.

mod http;
mod stun;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use gio::prelude::*;

use crate::address::{Address, Port, Target, parse_authority};
use crate::engine::{Engine, Sleep, block_on, in_background, within};
use crate::error::{Error, Operation, Result};
use crate::resolve::{LIMIT, look_up};
use crate::sys;

/// The next server is asked as well if the previous one has not answered for this time.
const STAGGER: Duration = Duration::from_secs(1);

const OPERATION: Operation = Operation::PublicAddress;

const EXPECTED: &str = "expected stun:host, stun:host:port, or http://host/path";

// ---- on the local network ----

/// Reserved addresses (RFC 5737, RFC 3849), to query the routing table with. Nothing is sent to them.
const OUTSIDE_V4: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);
const OUTSIDE_V6: (Ipv6Addr, u16) = (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9);

/// Returns this machine's address on the local network: the source address of outgoing connections, IPv4 if there is one.
///
/// Causes no network traffic. Behind a router that translates addresses, other machines see another one, the
/// [`public_address`].
///
/// # Errors
/// [`Error::Unreachable`] if there is no default route, as without a network.
///
/// # Example
/// ```no_run
/// println!("this machine is {} on its network", network::names::local_address()?);
/// # Ok::<(), network::Error>(())
/// ```
pub fn local_address() -> Result<IpAddr> {
    local_address_v4().map(IpAddr::V4).or_else(|_| local_address_v6().map(IpAddr::V6))
}

/// Returns this machine's IPv4 address on the local network. See [`local_address`].
///
/// # Errors
/// See [`local_address`].
pub fn local_address_v4() -> Result<Ipv4Addr> {
    match source_address(OUTSIDE_V4.into())? {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(_) => Err(Error::from_connect("the outside", io::ErrorKind::NetworkUnreachable.into())),
    }
}

/// Returns this machine's IPv6 address on the local network. See [`local_address`].
///
/// # Errors
/// See [`local_address`].
pub fn local_address_v6() -> Result<Ipv6Addr> {
    match source_address(OUTSIDE_V6.into())? {
        IpAddr::V6(ip) => Ok(ip),
        IpAddr::V4(_) => Err(Error::from_connect("the outside", io::ErrorKind::NetworkUnreachable.into())),
    }
}

fn source_address(to: SocketAddr) -> Result<IpAddr> {
    sys::source_address(to).map_err(|error| {
        let missing = error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error());
        let error = if missing { io::ErrorKind::NetworkUnreachable.into() } else { error };
        Error::from_connect("the outside", error)
    })
}

// ---- from outside ----

/// Returns this machine's address as a server outside sees it.
///
/// No server is built in: pass the `endpoints` to ask. An endpoint is a STUN server (RFC 8489, over UDP), written `stun:host` or
/// `stun:host:port` (default port: 3478), or a web page that contains the address, written `http://host/path`; the first address
/// in its text counts. The endpoints are asked in order, the next one after a failure or a second without an answer, and the
/// first answer wins. Over IPv6, a server sees the IPv6 address. Answers are not authenticated: anyone on the path can forge
/// them.
///
/// # Blocking
/// Until an answer arrives, at most for `limit`. No callback runs meanwhile.
///
/// # Errors
/// - [`Error::Address`] if an endpoint is invalid, [`Error::InvalidOption`] if there is none.
/// - [`Error::TimedOut`].
/// - [`Error::WrongThread`].
/// - If all endpoints fail, the error of the last one: that of connecting, or [`Error::Lookup`] if its answer contains no
///   address.
///
/// # Example
/// ```no_run
/// # use std::time::Duration;
/// let endpoints = ["stun:stun.example.org", "http://ip.example.org/"];
/// println!("my address is {}", network::names::public_address(endpoints, Duration::from_secs(5))?);
/// # Ok::<(), network::Error>(())
/// ```
pub fn public_address<I>(endpoints: I, limit: Duration) -> Result<IpAddr>
where
    I: IntoIterator<Item: AsRef<str>>,
{
    let endpoints = parse_all(endpoints)?;
    Engine::current()?;
    block_on(OPERATION, &names(&endpoints), |_| ask(endpoints, limit))
}

/// Determines this machine's public address in the background and passes the result to a callback. See [`public_address`].
///
/// The callback runs once, in a later loop iteration. Cancelling `cancellable` completes it with [`Error::Cancelled`].
pub fn public_address_async<I>(
    endpoints: I,
    limit: Duration,
    cancellable: Option<&impl IsA<gio::Cancellable>>,
    callback: impl FnOnce(Result<IpAddr>) + 'static,
) where
    I: IntoIterator<Item: AsRef<str>>,
{
    let endpoints = parse_all(endpoints);
    let address = endpoints.as_ref().map_or_else(ToString::to_string, |endpoints| names(endpoints));
    let cancelled = Error::Cancelled { operation: OPERATION, address };
    let future = async move { ask(endpoints?, limit).await };
    in_background("public_address_async", future, cancellable, cancelled, callback);
}

/// Determines this machine's public address in the background. See [`public_address`].
///
/// Must be awaited on the thread's main context. Dropping the future cancels.
///
/// # Errors
/// See [`public_address`].
pub async fn public_address_future<I>(endpoints: I, limit: Duration) -> Result<IpAddr>
where
    I: IntoIterator<Item: AsRef<str>>,
{
    ask(parse_all(endpoints)?, limit).await
}

/// A server to ask.
struct PublicEndpoint {
    text: String,
    protocol: Protocol,
}

enum Protocol {
    Stun(Address),
    Http(Address, http::Page),
}

fn parse_all<I>(endpoints: I) -> Result<Vec<PublicEndpoint>>
where
    I: IntoIterator<Item: AsRef<str>>,
{
    let endpoints: Vec<_> =
        endpoints.into_iter().map(|text| PublicEndpoint::parse(text.as_ref())).collect::<Result<_>>()?;
    if endpoints.is_empty() {
        return Err(no_endpoint());
    }
    Ok(endpoints)
}

fn no_endpoint() -> Error {
    Error::InvalidOption(format!("no endpoint given; {EXPECTED}"))
}

fn names(endpoints: &[PublicEndpoint]) -> String {
    endpoints.iter().map(|endpoint| endpoint.text.as_str()).collect::<Vec<_>>().join(", ")
}

impl PublicEndpoint {
    fn parse(text: &str) -> Result<PublicEndpoint> {
        let unfit = |problem: &str| Error::Address { address: text.into(), problem: problem.into() };
        let protocol = match text.split_once(':') {
            Some(("stun", rest)) => {
                let authority = rest.strip_prefix("//").unwrap_or(rest);
                Protocol::Stun(host(text, authority, stun::PORT)?)
            }
            Some(("http", rest)) => {
                let rest = rest.strip_prefix("//").ok_or_else(|| unfit("expected http://host/path"))?;
                let address = host(text, rest, http::PORT)?;
                Protocol::Http(address, http::Page::parse(text).map_err(|problem| unfit(&problem))?)
            }
            Some(("https" | "stuns", _)) => {
                return Err(unfit("only unencrypted endpoints are supported: expected http:// or stun:"));
            }
            _ => return Err(unfit(EXPECTED)),
        };
        Ok(PublicEndpoint { text: text.into(), protocol })
    }

    async fn ask(&self, engine: &Rc<Engine>) -> Result<IpAddr> {
        let (Protocol::Stun(address) | Protocol::Http(address, _)) = &self.protocol;
        let addresses = look_up(address, LIMIT).await?;
        match &self.protocol {
            Protocol::Stun(_) => stun::ask(engine, addresses, &self.text).await,
            Protocol::Http(_, page) => page.ask(addresses, &self.text).await,
        }
    }
}

/// Parses the host and port of an endpoint.
fn host(text: &str, authority: &str, default: u16) -> Result<Address> {
    let unfit = |problem: String| Error::Address { address: text.into(), problem };
    if authority.contains('@') {
        return Err(unfit("user name and password are not supported".into()));
    }
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    let (host, port) = parse_authority(authority).map_err(unfit)?;
    let port = match port {
        None => Port::Number(default),
        Some(Port::Number(0)) => return Err(unfit("cannot connect to port 0".into())),
        Some(port) => port,
    };
    Ok(Address::of_target(text.into(), Target::Inet { host: Some(host), port, scheme: None }))
}

async fn ask(endpoints: Vec<PublicEndpoint>, limit: Duration) -> Result<IpAddr> {
    let engine = Engine::current()?;
    let address = names(&endpoints);
    let answer = within(&engine, limit, first_of(&engine, &endpoints)).await;
    answer.unwrap_or(Err(Error::TimedOut { operation: OPERATION, address, limit }))
}

/// Returns the first answer of several servers that are asked one after the other, each with a head start.
async fn first_of(engine: &Rc<Engine>, endpoints: &[PublicEndpoint]) -> Result<IpAddr> {
    type PendingAnswer<'a> = Pin<Box<dyn Future<Output = Result<IpAddr>> + 'a>>;
    let mut waiting: VecDeque<&PublicEndpoint> = endpoints.iter().collect();
    let mut asked: Vec<PendingAnswer<'_>> = Vec::new();
    let mut head_start: Option<Pin<Box<Sleep>>> = None;
    let mut failed = None;
    poll_fn(|context| {
        loop {
            let is_over = head_start.as_mut().is_none_or(|sleep| sleep.as_mut().poll(context).is_ready());
            if is_over && let Some(endpoint) = waiting.pop_front() {
                asked.push(Box::pin(endpoint.ask(engine)));
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
