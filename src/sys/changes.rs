//! Changes of the network and of the clock, as the kernel tells them: that there were some, and nothing of their contents.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};

use super::above_standard;
use super::interfaces::interface_entries;
use super::sockets::{bind, datagram_socket, route_socket};

/// Returns a socket that becomes readable when a link, an address or a route of this machine changes (rtnetlink(7)).
pub(crate) fn route_changes() -> io::Result<OwnedFd> {
    Ok(route_socket()?)
}

/// A message of such a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteChange {
    /// Something is other than before.
    Certain,
    /// A link or an address may be other than before, or the same: routers renew addresses every few minutes, and radios tell of
    /// each scan.
    Possible,
}

/// Takes one message from such a socket, if there is one. The kernel drops some when there are too many, which it tells by an
/// error: that is a message, too.
pub(crate) fn take_route_change(fd: BorrowedFd<'_>) -> io::Result<Option<RouteChange>> {
    // The header: the length, the type, and what is no matter here (netlink(7)). The rest of the message is dropped.
    let mut header = [0; 16];
    loop {
        match super::receive(fd, &mut header, RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Ok(_) => {
                let kind = u16::from_ne_bytes([header[4], header[5]]);
                let is_possible = [libc::RTM_NEWLINK, libc::RTM_NEWADDR].contains(&kind);
                return Ok(Some(if is_possible { RouteChange::Possible } else { RouteChange::Certain }));
            }
            Err(Errno::NOBUFS) => return Ok(Some(RouteChange::Certain)),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Returns a number for the interfaces with their flags and addresses, which is another when they are. `None` if the system
/// does not tell.
pub(crate) fn network_state() -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    interface_entries().ok()?.hash(&mut hasher);
    Some(hasher.finish())
}

/// Returns a descriptor that becomes readable when the time of day is set, as after a suspend (timerfd_create(2)).
pub(crate) fn clock_changes() -> io::Result<OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let timer = above_standard(timer)?;
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    // In some centuries. The kernel's limit is 292 years of nanoseconds since 1970.
    let never = Itimerspec { it_interval: none, it_value: Timespec { tv_sec: 9_000_000_000, tv_nsec: 0 } };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &never)?;
    Ok(timer)
}

/// Takes the word that the clock was set, after which the next one is told. Returns whether there was one.
pub(crate) fn take_clock_change(fd: BorrowedFd<'_>) -> bool {
    rustix::io::read(fd, &mut [0_u8; 8]) == Err(Errno::CANCELED)
}

/// Returns the time that this machine has been suspended for since it was started. `None` if the clocks cannot be compared
/// just now.
pub(crate) fn time_suspended() -> Option<Duration> {
    /// The process may be stopped between two looks at the clocks.
    const SLOW: Duration = Duration::from_millis(10);
    #[cfg(test)]
    if let Some(suspended) = super::script::suspended() {
        return Some(suspended);
    }
    let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    let look = || {
        let (before, all, running) = (read(ClockId::Monotonic), read(ClockId::Boottime), read(ClockId::Monotonic));
        (running.saturating_sub(before) < SLOW).then(|| all.saturating_sub(running))
    };
    look().or_else(look)
}

/// Returns whether an address is one of this machine's. Connections from one that is gone are told nothing about that, and
/// stay open for hours.
pub(crate) fn address_is_here(address: SocketAddr) -> bool {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let mut own = address;
    own.set_port(0);
    let is_missing = datagram_socket(family).is_ok_and(|socket| bind(socket.as_fd(), &own) == Err(Errno::ADDRNOTAVAIL));
    // An IPv6 address cannot be bound to while the kernel looks for another machine that has it.
    let is_listed = || {
        let ip = address.ip();
        interface_entries().map_or(true, |all| all.iter().any(|entry| entry.address.is_some_and(|(own, _)| own == ip)))
    };
    !is_missing || is_listed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_here_or_not() {
        for (address, is_here) in
            [("127.0.0.1:80", true), ("127.9.8.7:80", true), ("198.51.100.7:80", false), ("[2001:db8::7]:80", false)]
        {
            assert_eq!(address_is_here(address.parse().unwrap()), is_here, "{address}");
        }
    }

    #[test]
    fn without_changes_there_is_nothing_to_take() {
        let (routes, clock) = (route_changes().unwrap(), clock_changes().unwrap());
        // Other programs may change the network meanwhile, but not without end.
        assert!((0..1000).any(|_| take_route_change(routes.as_fd()).unwrap().is_none()));
        assert!(!take_clock_change(clock.as_fd()));
    }

    #[test]
    fn a_machine_that_runs_is_not_suspended() {
        let suspended = || (0..100).find_map(|_| time_suspended()).unwrap();
        let before = suspended();
        std::thread::sleep(Duration::from_millis(50));
        assert!(suspended().abs_diff(before) < Duration::from_millis(10));
    }
}
