//! The TLS handshake. It runs on the loop like everything else, under a timeout; where no loop runs, a blocking call
//! advances it.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use rustix::event::PollFd;

use super::blocking::Deadline;
use super::callbacks::Reason;
use super::state::{Duties, Manner, Phase, Wire};
use super::transport::Transport;
use super::{Common, Conn};
use crate::address::Endpoint;
use crate::engine::{Engine, Next, READ_BUFFER, READS, Ready, TimerKey};
use crate::error::{Error, Operation, Result};
use crate::log::{self, Level};
use crate::tls::{Fingerprint, Session};

/// Called once, from the loop, when the handshake is done or has failed. Not user code: that has a door of its own.
pub(crate) type Shaken = Box<dyn FnOnce(&Rc<Conn>, Result)>;

/// A handshake that is going on.
pub(super) struct Handshake {
    done: Option<Shaken>,
    pub(super) timer: TimerKey,
    /// The problem that TLS has found.
    pub(super) failure: Option<Error>,
}

impl Conn {
    /// Takes an established connection into the loop and starts the handshake. Nothing is read from it or delivered
    /// before `done`.
    pub(crate) fn with_session(
        engine: &Rc<Engine>,
        transport: Transport,
        common: Rc<Common>,
        remote: Option<Endpoint>,
        session: Session,
        done: Shaken,
    ) -> Result<Rc<Conn>> {
        let limit = common.options.handshake_timeout;
        let conn = Conn::new(engine, transport, common, remote)?;
        conn.extras().session.replace(Some(Box::new(session)));
        conn.status.change(|state| {
            state.wire.insert(Wire::TLS);
            state.phase = Phase::Handshaking;
        });
        let me = conn.me.clone();
        let timer = engine.after(limit, move |_| {
            if let Some(me) = me.upgrade() {
                me.handshake_is_late(limit);
            }
        });
        conn.cold(|cold| cold.handshake = Some(Handshake { done: Some(done), timer, failure: None }));
        // A client speaks first.
        conn.output().send_or_requeue();
        Ok(conn)
    }

    pub(super) fn handshaking(self: &Rc<Self>) -> Handshaking<'_> {
        Handshaking(self)
    }

    pub(crate) fn session<R>(&self, ask: impl FnOnce(&Session) -> R) -> Option<R> {
        self.extras.get()?.session.borrow().as_deref().map(ask)
    }

    pub(crate) fn peer_fingerprint(&self) -> Option<Fingerprint> {
        self.session(Session::peer_fingerprint).flatten()
    }

    /// The handshake is over, one way or the other.
    pub(super) fn shaken(self: &Rc<Self>, result: Result) {
        if !self.is_shaking() {
            return;
        }
        self.status.change(|state| state.phase = Phase::Open);
        // The last of it, or the alert that says what is wrong; with what the program says first, if this is a turn.
        if self.engine.in_turn() {
            self.cork();
        } else {
            self.output().send_or_requeue();
        }
        let Some(handshake) = self.cold(|cold| cold.handshake.take()) else { return };
        self.engine.cancel_timer(handshake.timer);
        let has_failed = result.is_err();
        if self.session(Session::peer_closed) == Some(true) {
            self.status.read_ended();
        }
        if !has_failed && log::is_wanted(Level::Debug) {
            self.handshaking().log();
        }
        if let Some(done) = handshake.done {
            done(self, result);
        }
        if has_failed {
            // Closed in the background, so that the alert arrives; whoever waited knows already.
            self.finish(Reason::Local, Manner::Graceful);
            self.status.change(|state| state.duties.remove(Duties::DISCONNECT));
        } else if !self.has_handles() {
            // Whoever wanted it has gone meanwhile.
            self.last_drop();
        }
    }

    /// Adds what a poll has to watch for the handshake to go on.
    pub(crate) fn watch_handshake<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) -> io::Result<()> {
        self.transport.watch(true, self.channel().holds_output(), fds)
    }

    /// The handshake has taken too long.
    pub(crate) fn handshake_is_late(self: &Rc<Self>, limit: Duration) {
        self.shaken(Err(Error::TimedOut {
            operation: self.handshaking().operation(),
            address: self.peer_name(),
            limit,
        }));
    }

    /// Takes the handshake as far as it goes without waiting, where no loop does that. `done` is called from here.
    pub(crate) fn shake_on(self: &Rc<Self>) {
        if self.channel().holds_output() {
            self.output().send();
        }
        self.status.becomes_ready(Ready::READ);
        while self.is_shaking() && self.handshaking().advance() == Next::Again {}
    }

    /// Waits for the end of the handshake. `done` is called from here.
    pub(crate) fn shake_blocking(self: &Rc<Self>) {
        let deadline = Deadline::after(Some(self.options(|options| options.handshake_timeout)));
        while self.is_shaking() {
            if let Err(error) = self.wait(true, self.channel().holds_output(), deadline, self.handshaking().operation())
            {
                self.shaken(Err(error));
                return;
            }
            self.shake_on();
        }
    }
}

/// The handshake at work.
pub(super) struct Handshaking<'a>(&'a Rc<Conn>);

impl Handshaking<'_> {
    /// Takes the handshake as far as it goes.
    pub(super) fn advance(&self) -> Next {
        for _ in 0..READS {
            if !self.0.status.may_read() {
                return Next::Idle;
            }
            match self.read() {
                None => return Next::Idle,
                Some(Ok(true)) => self.0.shaken(Ok(())),
                Some(Ok(false)) => self.0.output().send_or_requeue(),
                Some(Err(error)) => self.0.shaken(Err(error)),
            }
            if !self.0.is_shaking() {
                return Next::Idle;
            }
        }
        Next::Again
    }

    /// One read. `Ok(true)` if that was the last of the handshake, `None` if there was nothing.
    fn read(&self) -> Option<Result<bool>> {
        let mut held = None;
        let read = self.0.input().fill(READ_BUFFER, &mut held, false);
        self.0.input().give_back(&mut held);
        match read {
            Ok(0) => {}
            Ok(_) => return Some(Ok(!self.0.session(Session::is_handshaking).unwrap_or(false))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(error) => return Some(Err(Error::from_io(Operation::Handshake, self.0.peer_name(), error))),
        }
        let failed = self.0.if_cold(|cold| cold.handshake.as_mut()?.failure.take());
        let ended = || self.0.session(Session::end).unwrap_or(Ok(()));
        Some(Err(match failed.map_or_else(ended, Err) {
            Err(error) => error,
            Ok(()) => self.0.closed(),
        }))
    }

    fn log(&self) {
        let peer = self.0.peer_name();
        let version = self.0.session(Session::version).flatten().unwrap_or_default();
        let cipher = self.0.session(Session::cipher_suite).flatten().unwrap_or_default();
        log::debug("handshake").peer(&peer).say(format_args!("{version} with {peer}, {cipher}"));
    }

    /// Returns the operation for messages, with a guess if the peer never answers.
    fn operation(&self) -> Operation {
        if self.0.session(Session::is_unanswered) == Some(true) {
            Operation::UnansweredHandshake
        } else {
            Operation::Handshake
        }
    }
}
