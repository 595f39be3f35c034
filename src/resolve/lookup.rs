//! Names: hosts to addresses and services to ports, for whoever wants the answer itself. By blocking call, by callback,
//! by future.

use std::net::SocketAddr;
use std::time::Duration;

use gio::prelude::*;

use super::plan::{Plan, interleave, plan, plan_with_any_port, service_port};
use super::resolver::addresses;
use crate::address::{Address, Port, Target, parse_port};
use crate::engine::{Engine, block_on, in_background, within};
use crate::error::{Error, Result};

/// How long a look-up may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

const OPERATION: &str = "looking up";

/// Looks a host name up and waits for the answer, at most 30 s. **Blocks**; nothing of the main loop runs meanwhile. An
/// address written as text, as `192.0.2.1` or `fe80::1%eth0`, is its own answer, at once, and so is `localhost`.
///
/// There is at least one answer. The families take turns, IPv6 first; [`Socket::connect`](crate::Socket::connect) takes
/// all of them together, as they are.
///
/// # Errors
/// [`Error::Address`] if that cannot be a host, [`Error::Lookup`], [`Error::TimedOut`].
///
/// ```
/// let addresses = network::names::lookup("127.0.0.1", 80)?;
/// assert_eq!(addresses, ["127.0.0.1:80".parse().unwrap()]);
/// # Ok::<(), network::Error>(())
/// ```
pub fn lookup(host: &str, port: u16) -> Result<Vec<SocketAddr>> {
    lookup_timeout(host, port, LIMIT)
}

/// As [`lookup`], at most that long. **Blocks**.
///
/// # Errors
/// As there.
pub fn lookup_timeout(host: &str, port: u16, limit: Duration) -> Result<Vec<SocketAddr>> {
    blocking(&Address::try_from((host, port))?, limit)
}

/// As [`lookup`], in the background: calls `callback` with the outcome, on a later turn of the main loop. Never blocks.
///
/// Cancelling ends it with [`Error::Cancelled`].
///
/// ```
/// network::names::lookup_async("localhost", 80, gio::Cancellable::NONE, |result| {
///     match result {
///         Ok(addresses) => println!("{addresses:?}"),
///         Err(error) => eprintln!("{error}"),
///     }
///     network::endloop();
/// });
/// network::fgloop();
/// ```
pub fn lookup_async(
    host: &str,
    port: u16,
    cancellable: Option<&impl IsA<gio::Cancellable>>,
    callback: impl FnOnce(Result<Vec<SocketAddr>>) + 'static,
) {
    let cancelled = Error::Cancelled { operation: OPERATION, address: host.into() };
    let future = lookup_future(host, port);
    in_background("lookup_async", future, cancellable, cancelled, callback);
}

/// As [`lookup`], for whoever awaits it on the thread's main context. Never blocks. Dropping the future cancels.
pub fn lookup_future(host: &str, port: u16) -> impl Future<Output = Result<Vec<SocketAddr>>> + use<> {
    let address = Address::try_from((host, port));
    async move { look_up(&address?, LIMIT).await }
}

/// The number of a port that is given by its name, as the services database of this system has it, or a small table of
/// common ones where that has not. A number is its own answer. Reads at most a file; no traffic.
///
/// # Errors
/// [`Error::Lookup`] if nobody knows it, or it cannot be one.
///
/// ```
/// assert_eq!(network::names::lookup_port("http")?, 80);
/// # Ok::<(), network::Error>(())
/// ```
pub fn lookup_port(name: &str) -> Result<u16> {
    const EXPECTED: &str = "expected a number up to 65535, or the name of a service, a name like http";
    let number = match parse_port(name) {
        Ok(Port::Number(number)) => Ok(number),
        Ok(Port::Name(name)) => service_port(&name).ok_or("this system knows no service of that name"),
        Err(_) => Err("no port can be named so"),
    };
    number.map_err(|problem| Error::Lookup { address: name.into(), cause: format!("{problem}; {EXPECTED}") })
}

// ---- of addresses ----

/// Whether this address names a host that must be looked up.
pub(crate) fn needs_look_up(address: &Address) -> bool {
    matches!(destination(address), Ok(Plan::LookUp(..)))
}

/// **Blocks** if it is a name.
pub(crate) fn blocking(address: &Address, limit: Duration) -> Result<Vec<SocketAddr>> {
    match destination(address)? {
        Plan::Direct(addresses) => Ok(addresses),
        _ => block_on(OPERATION, &address.to_string(), |_| look_up(address, limit)),
    }
}

pub(crate) async fn look_up(address: &Address, limit: Duration) -> Result<Vec<SocketAddr>> {
    let (host, port) = match destination(address)? {
        Plan::Direct(addresses) => return Ok(addresses),
        Plan::LookUp(host, port) => (host, port),
        Plan::Unix(_) | Plan::Service(_) => return Err(address.unfit("expected a host and a port")),
    };
    let engine = Engine::current()?;
    match within(&engine, limit, addresses(&engine, &host)).await {
        None => Err(Error::TimedOut { operation: OPERATION, address: address.to_string(), limit }),
        Some(Err(cause)) => Err(Error::Lookup { address: address.to_string(), cause }),
        Some(Ok(mut found)) => {
            found.iter_mut().for_each(|address| address.set_port(port));
            Ok(interleave(found, true))
        }
    }
}

/// A port of 0, which cannot be connected to, stands for no port in a lookup.
fn destination(address: &Address) -> Result<Plan> {
    match address.target() {
        Target::Inet { .. } => plan_with_any_port(address),
        _ => plan(address),
    }
}
