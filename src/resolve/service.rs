//! Lookups of SRV records as blocking calls, with callbacks and as futures.

use std::future::poll_fn;
use std::task::Poll;

use gio::prelude::*;
use ring::rand::{SecureRandom, SystemRandom};

use super::lookup::LIMIT;
use super::plan::{Plan, plan};
use super::resolver::Lookup;
use super::srv::{Srv, order};
use crate::address::Address;
use crate::engine::{Engine, block_on, in_background, within};
use crate::error::{Error, Operation, Result};

const OPERATION: Operation = Operation::Lookup;

/// Looks up the targets of a service by the SRV records of a domain, in the order in which to try them (RFC 2782). The timeout is
/// 30 seconds.
///
/// Returns at least one and at most 16 targets: host names without the dot at the end, and ports. They are sorted by priority, and
/// of the same priority at random, by weight. To connect, [`Address::srv`] does this and more. The records are those of
/// `_service._tcp.domain`. They are looked up by DNS only, as resolv.conf(5) says, on threads that end with the answer, as
/// [`lookup`](crate::names::lookup)'s do.
///
/// # Blocking
/// Until the name server has answered. No callback runs meanwhile.
///
/// # Errors
/// - [`Error::Address`] if `service` is no label of letters, digits and hyphens, or `domain` is no host name.
/// - [`Error::Lookup`] if there are no such records, or no usable target in them, if they say that the service is not offered
///   (a target of `.`), or if the name servers fail.
/// - [`Error::TimedOut`].
/// - [`Error::Io`] if the process has no file descriptor left.
///
/// # Example
/// ```no_run
/// for (host, port) in network::names::lookup_service("xmpp-client", "example.org")? {
///     println!("{host}:{port}");
/// }
/// # Ok::<(), network::Error>(())
/// ```
pub fn lookup_service(service: &str, domain: &str) -> Result<Vec<(String, u16)>> {
    let address = Address::srv(service, domain)?;
    block_on(OPERATION, &address.to_string(), |_| look_up(&address))
}

/// Looks up the targets of a service in the background and passes the result to a callback. See [`lookup_service`].
///
/// The callback runs once, in a later loop iteration. Cancelling `cancellable` completes it with [`Error::Cancelled`].
pub fn lookup_service_async(
    service: &str,
    domain: &str,
    cancellable: Option<&impl IsA<gio::Cancellable>>,
    callback: impl FnOnce(Result<Vec<(String, u16)>>) + 'static,
) {
    let cancelled = Error::Cancelled { operation: OPERATION, address: format!("srv:{service}.{domain}") };
    let future = lookup_service_future(service, domain);
    in_background("lookup_service_async", future, cancellable, cancelled, callback);
}

/// Looks up the targets of a service in the background. See [`lookup_service`].
///
/// Must be awaited on the thread's main context. Dropping the future cancels the lookup.
///
/// # Errors
/// See [`lookup_service`].
pub fn lookup_service_future(service: &str, domain: &str) -> impl Future<Output = Result<Vec<(String, u16)>>> + use<> {
    let address = Address::srv(service, domain);
    async move { look_up(&address?).await }
}

async fn look_up(address: &Address) -> Result<Vec<(String, u16)>> {
    let Plan::Srv(name) = plan(address)? else { return Err(address.unfit("expected a name of SRV records")) };
    let engine = Engine::current()?;
    let lookup = Lookup::of_services(&name);
    let answered = poll_fn(|context| {
        let answers = lookup.answers(context);
        if answers.is_complete() { Poll::Ready(answers.services()) } else { Poll::Pending }
    });
    match within(&engine, LIMIT, answered).await {
        None => Err(Error::TimedOut { operation: OPERATION, address: address.to_string(), limit: LIMIT }),
        Some(Err(cause)) => Err(Error::Lookup { address: address.to_string(), cause }),
        Some(Ok(found)) => Ok(in_order(found).into_iter().map(|record| (record.target, record.port)).collect()),
    }
}

/// Puts records in the order in which to try them, and leaves out what is too much.
pub(crate) fn in_order(records: Vec<Srv>) -> Vec<Srv> {
    let system = SystemRandom::new();
    order(records, &mut |most| {
        let mut bytes = [0; 4];
        // Without random numbers, the order of the name server is as good as any.
        let _ = system.fill(&mut bytes);
        ((u64::from(u32::from_ne_bytes(bytes)) * (u64::from(most) + 1)) >> 32) as u32
    })
}
