//! Lookups of host names and ports as blocking calls, with callbacks and as futures.

use std::net::SocketAddr;
use std::time::Duration;

use gio::prelude::*;

use super::plan::{Plan, interleave, plan, plan_with_any_port, service_port};
use super::resolver::addresses;
use crate::address::{Address, Port, Target, parse_port};
use crate::engine::{Engine, block_on, in_background, within};
use crate::error::{Error, Operation, Result};

/// The default timeout of a lookup.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

const OPERATION: Operation = Operation::Lookup;

/// Resolves a host name. The timeout is 30 seconds.
///
/// Returns at least one address. IPv6 and IPv4 addresses alternate, beginning with IPv6. Pass all of them to
/// [`Socket::connect`](crate::Socket::connect) to race them.
///
/// IP addresses such as `192.0.2.1` or `fe80::1%eth0`, and `localhost`, are returned without a lookup. Names are resolved as the
/// system is configured (nsswitch.conf(5)), on threads that end with the answer: at most 64 at a time, and none before the first
/// name. When one address family has answered, the other one is awaited for another 50 ms.
///
/// # Blocking
/// Until resolved. No callback runs meanwhile.
///
/// # Errors
/// - [`Error::Address`] if the host name is invalid.
/// - [`Error::Lookup`] if it cannot be resolved.
/// - [`Error::TimedOut`].
/// - [`Error::Io`] if the process has no file descriptor left.
///
/// # Example
/// ```
/// let addresses = network::names::lookup("127.0.0.1", 80)?;
/// assert_eq!(addresses, ["127.0.0.1:80".parse().unwrap()]);
/// # Ok::<(), network::Error>(())
/// ```
pub fn lookup(host: &str, port: u16) -> Result<Vec<SocketAddr>> {
    lookup_timeout(host, port, LIMIT)
}

/// Resolves a host name, with a timeout. See [`lookup`].
///
/// # Blocking
/// Until resolved, at most for `limit`.
///
/// # Errors
/// See [`lookup`].
pub fn lookup_timeout(host: &str, port: u16, limit: Duration) -> Result<Vec<SocketAddr>> {
    blocking(&Address::try_from((host, port))?, limit)
}

/// Resolves a host name in the background and passes the result to a callback. See [`lookup`].
///
/// The callback runs once, in a later loop iteration. Cancelling `cancellable` completes it with [`Error::Cancelled`].
///
/// # Example
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

/// Resolves a host name in the background. See [`lookup`].
///
/// Must be awaited on the thread's main context. Dropping the future cancels the lookup.
///
/// # Errors
/// See [`lookup`].
pub fn lookup_future(host: &str, port: u16) -> impl Future<Output = Result<Vec<SocketAddr>>> + use<> {
    let address = Address::try_from((host, port));
    async move { look_up(&address?, LIMIT).await }
}

/// Returns the port of a service such as `http`.
///
/// The port comes from the services database of the system (services(5)), or from a table of common services if the database
/// lacks it. A number is returned as it is. Reads at most a file, and causes no network traffic.
///
/// # Errors
/// [`Error::Lookup`] if the service is unknown or the name is invalid.
///
/// # Example
/// ```
/// assert_eq!(network::names::lookup_port("http")?, 80);
/// # Ok::<(), network::Error>(())
/// ```
pub fn lookup_port(name: &str) -> Result<u16> {
    const EXPECTED: &str = "expected a number up to 65535 or a service name such as http";
    let number = match parse_port(name) {
        Ok(Port::Number(number)) => Ok(number),
        Ok(Port::Name(name)) => service_port(&name).ok_or("unknown service"),
        Err(_) => Err("invalid service name"),
    };
    number.map_err(|problem| Error::Lookup { address: name.into(), cause: format!("{problem}; {EXPECTED}") })
}

// ---- addresses that name a host and a port ----

/// Returns whether this address takes a lookup.
pub(crate) fn needs_look_up(address: &Address) -> bool {
    matches!(destination(address), Ok(Plan::Lookup(..)))
}

/// Resolves an address that names a host and a port. **Blocks** if that takes a lookup.
pub(crate) fn blocking(address: &Address, limit: Duration) -> Result<Vec<SocketAddr>> {
    match destination(address)? {
        Plan::Direct(addresses) => Ok(addresses),
        _ => block_on(OPERATION, &address.to_string(), |_| look_up(address, limit)),
    }
}

/// As [`blocking`], in the background.
pub(crate) async fn look_up(address: &Address, limit: Duration) -> Result<Vec<SocketAddr>> {
    let (host, port) = match destination(address)? {
        Plan::Direct(addresses) => return Ok(addresses),
        Plan::Lookup(host, port) => (host, port),
        Plan::Unix(_) | Plan::Service(_) | Plan::Srv(_) => return Err(address.unfit("expected a host and a port")),
    };
    let engine = Engine::current()?;
    match within(&engine, limit, addresses(&engine, &host)).await {
        None => Err(Error::TimedOut { operation: OPERATION, address: address.to_string(), limit }),
        Some(Err(cause)) => Err(Error::Lookup { address: address.looked_up(), cause }),
        Some(Ok(mut found)) => {
            found.iter_mut().for_each(|address| address.set_port(port));
            Ok(interleave(found, true))
        }
    }
}

/// Port 0, which cannot be connected to, stands for no port in a lookup.
fn destination(address: &Address) -> Result<Plan> {
    match address.target() {
        Target::Inet { .. } => plan_with_any_port(address),
        _ => plan(address),
    }
}
