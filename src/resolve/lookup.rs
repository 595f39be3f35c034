//! Names: hosts to addresses and services to ports, for whoever wants the answer itself. By blocking call, by callback,
//! by future.

use std::net::SocketAddr;
use std::time::Duration;

use futures_channel::oneshot;
use gio::prelude::*;

use super::plan::{LookUp, Plan, interleave, look_up_blocking, plan, service_port};
use crate::address::{Address, Port, Target, parse_port};
use crate::engine::{Engine, in_background, within};
use crate::error::{Error, Operation, Result};

/// How long a look-up may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

const OPERATION: Operation = Operation::Lookup;

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

/// What needs no look-up is there already; else the host and port to ask for.
fn known(address: &Address) -> Result<Result<Vec<SocketAddr>, (String, u16)>> {
    // Port 0 has no place in an address to connect to. Here it stands for no port at all.
    if let Target::Inet { host: Some(host), port: Port::Number(0), tls: None } = address.target() {
        let stand_in = Target::Inet { host: Some(host.clone()), port: Port::Number(1), tls: None };
        let stand_in = Address::of_target(address.to_string(), stand_in);
        return Ok(match known(&stand_in)? {
            Ok(mut addresses) => {
                addresses.iter_mut().for_each(|address| address.set_port(0));
                Ok(addresses)
            }
            Err((host, _)) => Err((host, 0)),
        });
    }
    match plan(address)? {
        Plan::Direct(addresses) => Ok(Ok(addresses)),
        Plan::LookUp(host, port) => Ok(Err((host, port))),
        Plan::Unix(_) | Plan::Service(_) => Err(address.unfit("expected a host and a port")),
    }
}

/// Does this address take a look-up?
pub(crate) fn needs_look_up(address: &Address) -> bool {
    matches!(known(address), Ok(Err(_)))
}

/// **Blocks** if it is a name.
pub(crate) fn blocking(address: &Address, limit: Duration) -> Result<Vec<SocketAddr>> {
    match known(address)? {
        Ok(addresses) => Ok(addresses),
        Err((host, port)) => {
            Engine::flush_here();
            look_up_blocking(address, &host, port, limit)
        }
    }
}

pub(crate) async fn look_up(address: &Address, limit: Duration) -> Result<Vec<SocketAddr>> {
    let (host, port) = match known(address)? {
        Ok(addresses) => return Ok(addresses),
        Err(asked) => asked,
    };
    let engine = Engine::current()?;
    let failed = |cause: &str| Error::Lookup { address: address.to_string(), cause: cause.into() };
    let asking = Asking(LookUp::start(&host, port));
    let all = within(&engine, limit, async {
        let mut found = Vec::new();
        while let Some(address) = asking.next().await.map_err(|error| failed(error.message()))? {
            if !found.contains(&address) {
                found.push(address);
            }
        }
        Ok::<_, Error>(found)
    });
    match all.await {
        None => Err(Error::TimedOut { operation: OPERATION, address: address.to_string(), limit }),
        Some(Ok(found)) if found.is_empty() => Err(failed("it has no addresses")),
        Some(found) => Ok(interleave(found?)),
    }
}

/// As [`look_up`], on a thread of its own, which is over when this is (unless the time is up): gio leaves one behind.
pub(crate) async fn look_up_on_thread(address: &Address, limit: Duration) -> Result<Vec<SocketAddr>> {
    if let Ok(addresses) = known(address)? {
        return Ok(addresses);
    }
    let engine = Engine::current()?;
    let (sender, answer) = oneshot::channel();
    let asked = address.clone();
    let thread = std::thread::Builder::new()
        .name("network-lookup".into())
        .spawn(move || {
            // Whoever waited may have gone.
            let _ = sender.send(blocking(&asked, limit));
        })
        .map_err(|source| Error::Io { operation: OPERATION, address: address.to_string(), source })?;
    let late = || Err(Error::TimedOut { operation: OPERATION, address: address.to_string(), limit });
    match within(&engine, limit, answer).await {
        Some(Ok(answer)) => {
            // It has sent its answer and does nothing more.
            let _ = thread.join();
            answer
        }
        _ => late(),
    }
}

/// A look-up that ends when nobody awaits it any more.
struct Asking(LookUp);

impl Asking {
    async fn next(&self) -> Result<Option<SocketAddr>, glib::Error> {
        let (sender, receiver) = oneshot::channel();
        self.0.next(move |answer| {
            // Whoever waited may have gone.
            let _ = sender.send(answer);
        });
        let gone = |_| Err(glib::Error::new(gio::IOErrorEnum::Cancelled, "the main context is gone"));
        receiver.await.unwrap_or_else(gone)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
