//! The TLS handshake, of a new connection or of one that has been open. It runs on the loop like everything else, under a
//! timeout; where no loop runs, a blocking call advances it.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use rustix::event::PollFd;

use super::blocking::Deadline;
use super::callbacks::{OnUpgraded, Reason};
use super::channel::Sealed;
use super::handle::Socket;
use super::handshake::{Handshake, Shaken};
use super::state::{Duties, Look, Manner, Phase, Wire, WriteHalf};
use super::transport::Transport;
use super::{Common, Conn};
use crate::address::Endpoint;
use crate::engine::{Engine, Next, READ_BUFFER, READS, Ready, call};
use crate::error::{Error, Operation, Result};
use crate::log::{self, Level};
use crate::tls::{PeerName, Session};

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
        let conn = Conn::new(engine, transport, common, remote)?;
        conn.handshaking().begin(session, Some(done), None);
        // A client speaks first.
        conn.output().send_or_requeue();
        Ok(conn)
    }

    #[inline]
    pub(crate) fn handshaking(self: &Rc<Self>) -> Handshaking<'_> {
        Handshaking(self)
    }

    pub(crate) fn session<R>(&self, ask: impl FnOnce(&Session) -> R) -> Option<R> {
        self.extras.get()?.session.borrow().as_deref().map(|sealed| ask(&sealed.session))
    }

    /// The handshake is over, one way or the other.
    pub(super) fn shaken(self: &Rc<Self>, result: Result) {
        if !self.is_shaking() {
            return;
        }
        self.status.change(|state| state.phase = Phase::Open);
        let Some(handshake) = self.cold(|cold| cold.handshake.take()) else { return };
        self.engine.cancel_timer(handshake.timer);
        if handshake.is_upgrade() && result.is_err() {
            // It was to be encrypted.
            self.handshaking().lose_queue();
        }
        // The last of it, or the alert that says what is wrong; with what the program says first, if this is a turn.
        if self.engine.in_turn() {
            self.cork();
        } else {
            self.output().send_or_requeue();
        }
        let has_failed = result.is_err();
        if self.session(Session::peer_closed) == Some(true) {
            self.status.read_ended();
        }
        if !has_failed && log::is_wanted(Level::Debug) {
            self.handshaking().log();
        }
        if let Some(held) = handshake.upgrade {
            self.handshaking().upgraded(handshake.done, result);
            drop(held);
            return;
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
        // Whoever calls this keeps the loop from telling that the roots are loaded. They are loaded here then, if need be.
        self.handshaking().set_held_up(false);
        if self.channel().holds_output() {
            self.output().send();
        }
        self.status.becomes_ready(Ready::READ);
        while self.is_shaking() && self.handshaking().advance() == Next::Again {}
    }

    /// Waits for the end of the handshake. `done` is called from here.
    pub(crate) fn shake_blocking(self: &Rc<Self>) {
        while let Some(deadline) = self.handshaking().deadline() {
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
pub(crate) struct Handshaking<'a>(&'a Rc<Conn>);

impl Handshaking<'_> {
    fn begin(&self, session: Session, done: Option<Shaken>, upgrade: Option<Socket>) {
        let conn = self.0;
        conn.extras().session.replace(Some(Sealed::after(conn.queued(), session)));
        conn.status.change(|state| {
            state.wire.insert(Wire::TLS);
            state.phase = Phase::Handshaking;
        });
        let limit = conn.options(|options| options.handshake_timeout);
        let me = conn.me.clone();
        let timer = conn.engine.after(limit, move |_| {
            if let Some(me) = me.upgrade() {
                me.handshake_is_late(limit);
            }
        });
        let deadline = Deadline::after(Some(limit));
        let handshake = Handshake { done, timer, deadline, failure: None, upgrade, is_held_up: false };
        conn.cold(|cold| cold.handshake = Some(handshake));
    }

    // ---- TLS that ends at a proxy ----

    /// Goes on with a session that a proxy and this side have agreed on, and with what came over it for this connection.
    pub(crate) fn take_over(&self, session: Session, plain: Vec<u8>) {
        let conn = self.0;
        if session.peer_closed() {
            conn.status.read_ended();
        }
        conn.extras().session.replace(Some(Sealed::after(0, session)));
        conn.status.change(|state| state.wire.insert(Wire::TLS));
        let length = plain.len();
        conn.io.receive(Rc::new(plain), length);
        conn.output().send_or_requeue();
    }

    /// Asks the session with the peer. `None` if it is one with a proxy.
    pub(crate) fn ask_peer<R>(&self, ask: impl FnOnce(&Session) -> R) -> Option<R> {
        self.0.session(|session| (!session.is_of_proxy()).then(|| ask(session))).flatten()
    }

    /// Returns whether TLS protects the connection as far as the peer.
    pub(crate) fn reaches_peer(&self) -> bool {
        self.ask_peer(|_| ()).is_some()
    }

    // ---- on a connection that is open ----

    /// Returns the peer as the program named it when it connected.
    pub(crate) fn named_peer(&self) -> Option<PeerName> {
        self.0.common.peer.get().cloned()
    }

    /// Starts TLS on a connection that is open. What is queued goes out first, in plaintext; what was received and not
    /// delivered is an error, and the end of the connection: whoever sent it may not be the peer that TLS verifies.
    pub(crate) fn start(&self, session: Session, done: Option<Shaken>) -> Result {
        let conn = self.0;
        self.check_start()?;
        self.begin(session, done, Some(Socket::from_conn(conn.clone())));
        if conn.engine.in_turn() {
            conn.cork();
        } else {
            conn.output().send_or_requeue();
        }
        // Something may have come already.
        conn.wake();
        Ok(())
    }

    /// Returns why TLS cannot start now, if it cannot.
    pub(crate) fn check_start(&self) -> Result {
        let conn = self.0;
        if conn.is_tls() {
            let how = match self.reaches_peer() {
                _ if conn.is_shaking() => "a TLS handshake is in progress",
                true => "it uses TLS already",
                false => "it passes through an https:// proxy, and TLS within the TLS of the proxy is not supported",
            };
            return Err(Error::Unsupported(format!(
                "cannot start TLS on the connection to {}: {how}",
                conn.peer_name()
            )));
        }
        conn.check_sent()?;
        if conn.is_open() && conn.io.has_input() {
            return Err(self.refuse_plaintext());
        }
        if !conn.status.get().may_send() || conn.status.has_read_all() {
            return Err(conn.closed());
        }
        Ok(())
    }

    /// Plaintext has come that must not be taken for something that TLS protects. Ends the connection.
    pub(crate) fn refuse_plaintext(&self) -> Error {
        let peer = self.0.peer_name();
        let error = || Error::Plaintext {
            peer: peer.clone(),
            problem: "sent data in plaintext that was to come after the TLS handshake",
        };
        self.0.io.take_input();
        self.0.finish(Reason::Failed(error()), Manner::AtOnce);
        error()
    }

    /// Reads nothing until [`Handshaking::go_on`].
    pub(crate) fn hold_up(&self) {
        self.set_held_up(true);
    }

    pub(crate) fn go_on(&self) {
        self.set_held_up(false);
        self.0.wake();
    }

    /// Returns when the handshake that is going on is late, for blocking calls.
    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.0.if_cold(|cold| cold.handshake.as_ref().map(|handshake| handshake.deadline))
    }

    fn set_held_up(&self, is_held_up: bool) {
        self.0.if_cold(|cold| cold.handshake.as_mut().map(|handshake| handshake.is_held_up = is_held_up));
    }

    /// The handshake cannot be completed here.
    pub(crate) fn give_up(&self, error: Error) {
        self.0.shaken(Err(error));
    }

    /// Whoever started TLS does not want it any more: neither side knows in what state the other is.
    pub(crate) fn cancel(&self) {
        if self.0.is_shaking() {
            let address = self.0.peer_name();
            let reason = Reason::Failed(Error::Cancelled { operation: Operation::Handshake, address });
            self.0.finish(reason, Manner::AtOnce);
        }
    }

    /// Calls back on this connection's next turn, before anything else is told.
    pub(crate) fn tell_later(&self, tell: OnUpgraded) {
        self.0.cold(|cold| cold.on_upgraded = Some(tell));
        self.0.status.change(|state| state.duties.insert(Duties::UPGRADED));
        self.0.wake();
    }

    pub(super) fn tell(&self) {
        let conn = self.0;
        conn.status.change(|state| state.duties.remove(Duties::UPGRADED));
        let Some(tell) = conn.cold(|cold| cold.on_upgraded.take()) else { return };
        conn.status.mark(Look::IN_CALLBACK, true);
        let socket = Socket::from_conn(conn.clone());
        let result = call(&conn.engine, || tell(&socket));
        conn.status.mark(Look::IN_CALLBACK, false);
        conn.returned(result.map(Ok));
    }

    /// Drops what is queued.
    fn lose_queue(&self) {
        if self.0.queued() > 0 {
            self.0.output().drop_queue();
            self.0.status.change(|state| state.write.insert(WriteHalf::LOST));
            self.0.output().tell_flushed(false);
        }
    }

    /// The handshake of a connection that was open before is over. If it has failed, so has the connection; it ends in the
    /// background, so that the alert arrives.
    fn upgraded(&self, done: Option<Shaken>, result: Result) {
        let conn = self.0;
        if let Err(error) = &result {
            let reason = error.again().unwrap_or_else(|| conn.closed());
            conn.finish(Reason::Failed(reason), Manner::Graceful);
            conn.cold(|cold| cold.end.set_told(done.is_some()));
        } else {
            conn.waiters().wake_all();
            conn.wake();
        }
        if let Some(done) = done {
            done(conn, result);
        }
    }

    // ---- its steps ----

    /// Takes the handshake as far as it goes.
    pub(super) fn advance(&self) -> Next {
        let is_held_up = self.0.if_cold(|cold| cold.handshake.as_ref().map(|handshake| handshake.is_held_up));
        for _ in 0..READS {
            if !self.0.status.may_read() || is_held_up == Some(true) {
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

    /// Returns the operation for messages.
    fn operation(&self) -> Operation {
        self.0.session(Session::handshake).unwrap_or(Operation::Handshake)
    }
}
