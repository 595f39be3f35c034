//! The options of a link.

use std::fmt;
use std::time::Duration;

use super::backoff::Backoff;
use super::driver::{Callbacks, Inner};
use super::handle::{Down, Link};
use super::machine::{Machine, Settings};
use super::watch::NetworkWatch;
use crate::address::{Address, Target};
use crate::conn::Socket;
use crate::connect::Reach;
use crate::engine::{CallbackSlot, Engine};
use crate::error::{Error, Result, in_words};
use crate::socket::{KeepAlive, SocketBuilder};
use crate::sys;

/// The silence beyond a heartbeat's interval that ends a connection.
pub(super) const ANSWER: Duration = Duration::from_secs(10);

/// Keep-alive of a link's connections: a dead peer of an idle connection is noticed after a minute. The kernel sends the probes, so
/// the program does not wake up for them.
fn keep_alive() -> KeepAlive {
    let mut keep_alive = KeepAlive::default();
    (keep_alive.idle, keep_alive.interval, keep_alive.count) = (Duration::from_secs(30), Duration::from_secs(10), 3);
    keep_alive
}

/// The same bound where data is on its way: without it, keep-alive does not act then.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// Options for a [`Link`], all with defaults.
///
/// Created by [`Link::builder`]. Ends with [`start`](LinkBuilder::start).
///
/// # Example: A daemon that reports, with heartbeats
/// ```no_run
/// use std::time::Duration;
/// use network::{ClientTls, Link, Socket};
///
/// # fn start(fingerprint: &str) -> network::Result<Link> {
/// let link = Link::builder()
///     .socket(Socket::builder().tls(ClientTls::pinned(fingerprint)))
///     .heartbeat(Duration::from_secs(30), |socket| socket.sendline("PING"))
///     .queue(64 << 10)
///     .down_cb(|_, down| eprintln!("{down}"))
///     .start("collector.example:4000", |socket| {
///         socket.readlines(|_, _| Ok(()));
///         socket.sendline("HELLO disk1")
///     })?;
/// # Ok(link)
/// # }
/// ```
#[must_use]
pub struct LinkBuilder {
    socket: SocketBuilder,
    /// The first wait and the longest.
    delays: (Duration, Duration),
    settings: Settings,
    queue: usize,
    callbacks: Callbacks,
}

impl LinkBuilder {
    pub(super) fn new() -> LinkBuilder {
        LinkBuilder {
            socket: Socket::builder(),
            delays: (Duration::from_secs(1), Duration::from_secs(30)),
            settings: Settings {
                stable_after: Duration::from_secs(10),
                give_up_after: None,
                attempts: None,
                heartbeat: None,
                is_remote: false,
                is_service: false,
            },
            queue: 0,
            callbacks: Callbacks::default(),
        }
    }

    /// Sets the options of each connection: TLS, a proxy, limits, timeouts. Default: [`Socket::builder`].
    ///
    /// A keep-alive or a user timeout that is not set there is one of the link's: probes after 30 s without traffic, every 10 s, three
    /// times, and a user timeout of 60 s. So a peer that vanishes is noticed after a minute at the latest.
    pub fn socket(mut self, socket: SocketBuilder) -> LinkBuilder {
        self.socket = socket;
        self
    }

    /// Sets the waits between tries: the first, and the longest. Default: 1 s and 30 s. See [`Backoff`].
    ///
    /// A first wait between zero and one second spreads the clients of a server that restarts. Thirty seconds is what a person
    /// waits before clicking. For a time of 5 · `first` after the end of a connection, no wait after a failed try is longer than
    /// 2 · `first`: most servers that go are soon back.
    pub fn delays(mut self, first: Duration, most: Duration) -> LinkBuilder {
        self.delays = (first, most);
        self
    }

    /// Sets the time that a connection must last until its end is followed by the first wait again. Default: 10 s.
    ///
    /// So a server that accepts and drops is not stormed.
    pub fn stable_after(mut self, time: Duration) -> LinkBuilder {
        self.settings.stable_after = time;
        self
    }

    /// Gives up when there has been no connection that lasted for this time. Default: never.
    ///
    /// The time begins with the start, and with the end of each connection that had lasted for
    /// [`stable_after`](LinkBuilder::stable_after). Time without a network counts as well.
    pub fn give_up_after(mut self, time: Duration) -> LinkBuilder {
        self.settings.give_up_after = Some(time);
        self
    }

    /// Gives up after so many failed tries in a row. Default: never. A connection that does not last counts as a failed try.
    pub fn attempts(mut self, most: u32) -> LinkBuilder {
        self.settings.attempts = Some(most);
        self
    }

    /// Calls `beat` regularly while connected, and ends the connection if the peer is silent for this time and 10 s more.
    ///
    /// `beat` sends something that the peer answers, such as a ping. Any data that arrives is a sign of life. The silence is
    /// a [receive timeout](SocketBuilder::receive_timeout) of the connection and ends it with [`Error::TimedOut`]; a shorter one
    /// that is set by [`socket`](LinkBuilder::socket) stays. If `beat` returns an error, the connection closes with it. Default:
    /// no heartbeat, and no wake-up while the connection is idle.
    pub fn heartbeat(mut self, every: Duration, beat: impl FnMut(&Socket) -> Result + 'static) -> LinkBuilder {
        self.settings.heartbeat = Some(every);
        self.callbacks.beat = CallbackSlot::from(Some(Box::new(beat) as _));
        self
    }

    /// Keeps data that is [sent](Link::send) while there is no connection, up to so many bytes. Default: 0, which refuses it.
    ///
    /// Whole calls are kept, in order. They are sent after the next `up` has returned.
    pub fn queue(mut self, bytes: usize) -> LinkBuilder {
        self.queue = bytes;
        self
    }

    /// Sets a callback for each try that fails and each connection that ends. Without one, they are logged.
    pub fn down_cb(mut self, callback: impl FnMut(&Link, &Down) + 'static) -> LinkBuilder {
        self.callbacks.down = CallbackSlot::from(Some(Box::new(callback) as _));
        self
    }

    /// Sets a callback for the end of all tries, with the reason: an error that is not [temporary](Error::is_temporary), or the last
    /// one before a limit. Without it, the reason is logged.
    ///
    /// It is called once, after the [`down_cb`](LinkBuilder::down_cb) of the last try. The link is over then.
    pub fn gave_up_cb(mut self, callback: impl FnMut(&Link, Error) + 'static) -> LinkBuilder {
        self.callbacks.gave_up = CallbackSlot::from(Some(Box::new(callback) as _));
        self
    }

    /// Starts to connect, on the next iteration of the loop. `up` is called for each connection.
    ///
    /// It registers readers and logs in; see [`Link`]. No thread is started before the loop runs, so
    /// [`bgloop`](crate::bgloop) can follow.
    ///
    /// # Errors
    /// - [`Error::Address`], [`Error::Unsupported`] or [`Error::TlsSettings`] if the address or the options of the socket are invalid.
    /// - [`Error::InvalidOption`] for delays, a heartbeat, a limit of time or attempts of zero, and for a first delay that is longer than
    ///   the longest.
    /// - [`Error::WrongThread`] if another thread owns the main context.
    /// - [`Error::Io`] if no file descriptors are left.
    pub fn start<A>(mut self, address: A, up: impl FnMut(&Socket) -> Result + 'static) -> Result<Link>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        check(self.delays, &self.settings)?;
        let address = address.try_into()?;
        let engine = Engine::current()?;
        let mut socket = self.socket;
        if !matches!(address.target(), Target::Unix(_)) {
            socket = socket.lasting(keep_alive(), USER_TIMEOUT);
        }
        if let Some(every) = self.settings.heartbeat {
            socket = socket.receive_timeout_at_most(every.saturating_add(ANSWER));
        }
        let dialer = socket.into_dialer();
        let reach = dialer.check(&address)?;
        self.settings.is_remote = !matches!(reach, Reach::Here);
        self.settings.is_service = matches!(reach, Reach::Service(_));
        self.callbacks.up = CallbackSlot::from(Some(Box::new(up) as _));
        let backoff = Backoff::new(self.delays.0, self.delays.1);
        let has_address = NetworkWatch::has_network();
        let machine = Machine::new(self.settings, backoff, has_address, sys::now());
        let inner = Inner::new(&engine, address, dialer, machine, self.queue, self.callbacks);
        Inner::start(&inner, reach);
        Ok(Link { inner })
    }
}

impl fmt::Debug for LinkBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkBuilder").field("socket", &self.socket).finish_non_exhaustive()
    }
}

fn check((first, most): (Duration, Duration), settings: &Settings) -> Result {
    let is_zero = |limit: Option<Duration>| limit.is_some_and(|limit| limit.is_zero());
    let problem = if first.is_zero() || most.is_zero() {
        "the delays of a link must be longer than zero".into()
    } else if first > most {
        format!("the first delay of a link, {}, is longer than the longest, {}", in_words(first), in_words(most))
    } else if is_zero(settings.heartbeat) {
        "the interval of a heartbeat must be longer than zero".into()
    } else if is_zero(settings.give_up_after) {
        "a link cannot give up after zero seconds".into()
    } else if settings.attempts == Some(0) {
        "a link needs at least one attempt".into()
    } else {
        return Ok(());
    };
    Err(Error::InvalidOption(problem))
}
