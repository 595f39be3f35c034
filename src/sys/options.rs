//! Socket options: values, and how they are set and read. The kernel's default applies to options that are not set.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::net::{AddressFamily, sockopt};

use super::bind_to_interface;
use crate::error::os_text;

/// Parameters of TCP keep-alive probes. If the peer does not answer them, the connection ends with
/// [`Error::Io`](crate::Error::Io) of the kind `TimedOut`.
///
/// The kernel does not probe while sent data is unacknowledged: then only [`Socket::set_user_timeout`](crate::Socket::set_user_timeout)
/// notices a dead peer. [`Socket::probe`](crate::Socket::probe) asks at once.
///
/// # Example
/// ```
/// use std::time::Duration;
///
/// let keep_alive = network::socket::KeepAlive { idle: Duration::from_secs(60), ..network::socket::KeepAlive::default() };
/// let builder = network::Server::builder().keep_alive(keep_alive);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Time without received data before the first probe. Default: 2 hours. Rounded up to whole seconds, 1 to 32767.
    pub idle: Duration,
    /// Time between probes. Default: 75 s. Rounded up to whole seconds, 1 to 32767.
    pub interval: Duration,
    /// Unanswered probes after which the connection ends. Default: 9, maximum: 127.
    pub count: u32,
}

impl Default for KeepAlive {
    fn default() -> Self {
        KeepAlive { idle: Duration::from_secs(7200), interval: Duration::from_secs(75), count: 9 }
    }
}

/// Credentials of a unix socket's peer, as reported by the kernel for the moment when it connected or began to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Credentials {
    /// The process ID. `None` if this process cannot see the peer, for example from within a container.
    pub pid: Option<u32>,
    /// The user ID.
    pub uid: u32,
    /// The group ID.
    pub gid: u32,
}

/// Options that are set on a socket before it connects or listens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tuning {
    pub(crate) keep_alive: Option<Option<KeepAlive>>,
    pub(crate) user_timeout: Option<Duration>,
    pub(crate) no_delay: Option<bool>,
    pub(crate) recv_buffer: Option<usize>,
    pub(crate) send_buffer: Option<usize>,
    pub(crate) tos: Option<u8>,
    pub(crate) reuse_port: bool,
    pub(crate) interface: Option<String>,
    pub(crate) source: Option<IpAddr>,
    /// The limit of received file descriptors that have not been taken.
    pub(crate) descriptors: usize,
}

impl Tuning {
    /// Sets all options that have a value.
    ///
    /// # Errors
    /// The kernel's error, with the name of the option. `Unsupported` for an option that this kind of socket does not have.
    pub(crate) fn apply(&self, fd: BorrowedFd<'_>, family: AddressFamily) -> io::Result<()> {
        let is_unix = family == AddressFamily::UNIX;
        let of_tcp = [
            (self.keep_alive.is_some(), "keep-alive"),
            (self.user_timeout.is_some(), "a user timeout"),
            (self.no_delay.is_some(), "no-delay"),
            (self.tos.is_some(), "a traffic class"),
            (self.reuse_port, "sharing a port"),
            (self.interface.is_some(), "an interface"),
            (self.source.is_some(), "a source address"),
        ];
        let of_unix = [(self.descriptors > 0, "accepting file descriptors")];
        for (set, what) in if is_unix { &of_tcp[..] } else { &of_unix[..] } {
            if *set {
                return Err(unsupported(what, is_unix));
            }
        }
        if let Some(size) = self.recv_buffer {
            named("the receive buffer", sockopt::set_socket_recv_buffer_size(fd, clamp(size)))?;
        }
        if let Some(size) = self.send_buffer {
            named("the send buffer", sockopt::set_socket_send_buffer_size(fd, clamp(size)))?;
        }
        if let Some(keep_alive) = self.keep_alive {
            set_keep_alive(fd, keep_alive)?;
        }
        if let Some(limit) = self.user_timeout {
            set_user_timeout(fd, Some(limit))?;
        }
        if let Some(no_delay) = self.no_delay {
            named("no-delay", sockopt::set_tcp_nodelay(fd, no_delay))?;
        }
        if let Some(class) = self.tos {
            set_tos(fd, class)?;
        }
        if self.reuse_port {
            named("port sharing", sockopt::set_socket_reuseport(fd, true))?;
        }
        if let Some(name) = &self.interface {
            bind_to_interface(fd, name).map_err(|error| name_it(format_args!("the interface {name:?}"), &error))?;
        }
        if let Some(source) = self.source {
            if source.is_ipv6() != (family == AddressFamily::INET6) {
                let text = format!("source address {source} and destination are of different families");
                return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text));
            }
            let bound = super::bind(fd, &SocketAddr::new(source, 0));
            bound.map_err(|error| name_it(format_args!("the source address {source}"), &error.into()))?;
        }
        Ok(())
    }
}

fn clamp(size: usize) -> usize {
    // The kernel's type is an int.
    size.min(i32::MAX as usize)
}

fn unsupported(what: &str, is_unix: bool) -> io::Error {
    let (own, this) = if is_unix { ("TCP", "a unix socket") } else { ("unix sockets", "TCP") };
    io::Error::new(io::ErrorKind::Unsupported, format!("{what} requires {own}, but this is {this}"))
}

fn name_it(what: impl fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("setting {what}: {}", os_text(error)))
}

fn named<T>(what: &str, result: rustix::io::Result<T>) -> io::Result<T> {
    result.map_err(|error| name_it(what, &error.into()))
}

/// Rounds up to whole seconds, in which the kernel counts.
fn seconds(time: Duration) -> Duration {
    let whole = Duration::from_secs(time.as_secs());
    if whole < time { whole.saturating_add(Duration::from_secs(1)) } else { whole }
}

pub(crate) fn set_keep_alive(fd: impl AsFd, keep_alive: Option<KeepAlive>) -> io::Result<()> {
    let fd = fd.as_fd();
    if let Some(KeepAlive { idle, interval, count }) = keep_alive {
        named("keep-alive's interval", sockopt::set_tcp_keepintvl(fd, seconds(interval)))?;
        named("keep-alive's count", sockopt::set_tcp_keepcnt(fd, count))?;
        // If it is enabled already, this may send the first probe, after which the others count.
        named("keep-alive's idle time", sockopt::set_tcp_keepidle(fd, seconds(idle)))?;
    }
    named("keep-alive", sockopt::set_socket_keepalive(fd, keep_alive.is_some()))
}

pub(crate) fn keep_alive(fd: impl AsFd) -> io::Result<Option<KeepAlive>> {
    let fd = fd.as_fd();
    if !sockopt::socket_keepalive(fd)? {
        return Ok(None);
    }
    let (idle, interval) = (sockopt::tcp_keepidle(fd)?, sockopt::tcp_keepintvl(fd)?);
    Ok(Some(KeepAlive { idle, interval, count: sockopt::tcp_keepcnt(fd)? }))
}

pub(crate) fn set_user_timeout(fd: impl AsFd, limit: Option<Duration>) -> io::Result<()> {
    // Whole milliseconds in the kernel's int, of which 0 means its own limit.
    let whole = |limit: Duration| limit.as_nanos().div_ceil(1_000_000).clamp(1, i32::MAX as u128) as u32;
    named("the user timeout", sockopt::set_tcp_user_timeout(fd, limit.map_or(0, whole)))
}

pub(crate) fn user_timeout(fd: impl AsFd) -> io::Result<Option<Duration>> {
    let limit = sockopt::tcp_user_timeout(fd)?;
    Ok((limit > 0).then(|| Duration::from_millis(limit.into())))
}

pub(crate) fn set_tos(fd: impl AsFd, class: u8) -> io::Result<()> {
    let fd = fd.as_fd();
    if sockopt::socket_domain(fd)? == AddressFamily::INET6 {
        named("the traffic class", sockopt::set_ipv6_tclass(fd, class.into()))?;
        // For IPv4 clients of a dual-stack socket. An IPv6-only socket does not have this option.
        let _ = sockopt::set_ip_tos(fd, class);
        return Ok(());
    }
    named("the traffic class", sockopt::set_ip_tos(fd, class))
}

pub(crate) fn tos(fd: impl AsFd) -> io::Result<u8> {
    let fd = fd.as_fd();
    let is_v4 = super::local_address(fd)?;
    let is_v4 = SocketAddr::try_from(is_v4).is_ok_and(|local| local.ip().to_canonical().is_ipv4());
    if is_v4 { Ok(sockopt::ip_tos(fd)?) } else { Ok(sockopt::ipv6_tclass(fd)?.try_into().unwrap_or(0)) }
}
