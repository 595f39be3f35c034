//! A question to the peer's kernel, with what the socket has for that: keep-alive, for some seconds with other settings.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::net::sockopt;

use super::options::{KeepAlive, set_keep_alive, set_user_timeout, user_timeout};
use super::sockopt::segments_received;

/// A dead peer is found after five seconds.
const ASKING: KeepAlive = KeepAlive { idle: Duration::from_secs(1), interval: Duration::from_secs(1), count: 5 };

/// The settings before a probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Before {
    is_kept_alive: bool,
    /// They count once keep-alive is enabled.
    keep_alive: KeepAlive,
    user_timeout: Option<Duration>,
}

/// A probe that has begun.
pub(crate) struct Probe {
    before: Before,
    /// The number of segments received by then.
    received: Option<u32>,
}

impl Probe {
    /// Begins to ask the peer of a TCP connection. `None` if that has no use: sent data is on its way, so the kernel asks
    /// already and no keep-alive is sent.
    pub(crate) fn start(fd: BorrowedFd<'_>) -> io::Result<Option<Probe>> {
        #[cfg(test)]
        if let Some(script) = super::script::of(fd) {
            script.note("probe");
            return Ok(Some(Probe { before: Before::default(), received: None }));
        }
        if super::backlog(fd).is_some_and(|backlog| backlog.unacknowledged > 0) {
            return Ok(None);
        }
        let probe = Probe { before: Before::read(fd)?, received: segments_received(fd) };
        // It would count from the last word of the peer, which may be long ago, and end the connection at the first probe.
        let started = set_user_timeout(fd, None).and_then(|()| {
            // Enabled first, or it would wait for as long as it was idle before the first probe.
            sockopt::set_socket_keepalive(fd, true)?;
            set_keep_alive(fd, Some(ASKING))
        });
        started.inspect_err(|_| drop(probe.end(fd)))?;
        Ok(Some(probe))
    }

    /// Returns whether anything has come from the peer since. `false` where the kernel does not count.
    pub(crate) fn is_answered(&self, fd: BorrowedFd<'_>) -> bool {
        #[cfg(test)]
        if let Some(script) = super::script::of(fd) {
            return script.answers.get();
        }
        self.received.is_some_and(|before| segments_received(fd).is_some_and(|now| now != before))
    }

    /// Puts the settings back.
    pub(crate) fn end(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        #[cfg(test)]
        if let Some(script) = super::script::of(fd) {
            script.note("probe ends");
            return Ok(());
        }
        let Before { is_kept_alive, keep_alive, user_timeout } = self.before;
        // In this order no probe is sent between.
        sockopt::set_socket_keepalive(fd, false)?;
        set_keep_alive(fd, Some(keep_alive))?;
        if !is_kept_alive {
            set_keep_alive(fd, None)?;
        }
        set_user_timeout(fd, user_timeout)
    }

    /// Returns the keep-alive that was set before.
    pub(crate) fn keep_alive(&self) -> Option<KeepAlive> {
        Some(self.before.keep_alive).filter(|_| self.before.is_kept_alive)
    }

    /// Returns the user timeout that was set before.
    pub(crate) fn user_timeout(&self) -> Option<Duration> {
        self.before.user_timeout
    }
}

impl Before {
    fn read(fd: BorrowedFd<'_>) -> io::Result<Before> {
        let keep_alive = KeepAlive {
            idle: sockopt::tcp_keepidle(fd)?,
            interval: sockopt::tcp_keepintvl(fd)?,
            count: sockopt::tcp_keepcnt(fd)?,
        };
        let is_kept_alive = sockopt::socket_keepalive(fd)?;
        Ok(Before { is_kept_alive, keep_alive, user_timeout: user_timeout(fd)? })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::Instant;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (ours, listener.accept().unwrap().0)
    }

    #[test]
    fn afterwards_the_settings_are_as_before() {
        let (ours, _theirs) = pair();
        let fd = ours.as_fd();
        let own = KeepAlive { idle: Duration::from_secs(30), interval: Duration::from_secs(10), count: 3 };
        for (keep_alive, limit) in [(None, None), (Some(own), None), (None, Some(6)), (Some(own), Some(60))] {
            let limit = limit.map(Duration::from_secs);
            set_keep_alive(fd, keep_alive).unwrap();
            set_user_timeout(fd, limit).unwrap();
            let before = Before::read(fd).unwrap();
            let probe = Probe::start(fd).unwrap().unwrap();
            assert_eq!((probe.keep_alive(), probe.user_timeout()), (keep_alive, limit));
            assert_eq!(
                Before::read(fd).unwrap(),
                Before { is_kept_alive: true, keep_alive: ASKING, user_timeout: None }
            );
            probe.end(fd).unwrap();
            assert_eq!(Before::read(fd).unwrap(), before);
        }
    }

    #[test]
    fn whatever_comes_is_an_answer() {
        let (mut ours, mut theirs) = pair();
        let probe = Probe::start(ours.as_fd()).unwrap().unwrap();
        assert!(!probe.is_answered(ours.as_fd()));
        theirs.write_all(b"x").unwrap();
        ours.read_exact(&mut [0]).unwrap();
        assert!(probe.is_answered(ours.as_fd()));

        // The peer says nothing, and its kernel answers.
        let (ours, _theirs) = pair();
        std::thread::sleep(ASKING.idle);
        let probe = Probe::start(ours.as_fd()).unwrap().unwrap();
        let start = Instant::now();
        while !probe.is_answered(ours.as_fd()) {
            assert!(start.elapsed() < ASKING.idle, "a connection that is idle is asked at once");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn while_data_is_on_its_way_the_kernel_asks_already() {
        let (ours, _theirs) = pair();
        rustix::io::ioctl_fionbio(&ours, true).unwrap();
        while (&ours).write(&[0; 65_536]).is_ok() {}
        assert!(Probe::start(ours.as_fd()).unwrap().is_none());
        assert!(!sockopt::socket_keepalive(&ours).unwrap());
    }
}
