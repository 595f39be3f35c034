//! TLS on a connection: what comes from the descriptor goes through the session into the inbox, what goes out comes from
//! it. The hand-shake runs on the loop like everything else, under a limit of time.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use rustix::event::PollFd;

use super::flags::Flag;
use super::handler::Reason;
use super::transport::Transport;
use super::{Common, Conn};
use crate::address::Endpoint;
use crate::engine::{Engine, Next, READ_BUFFER, READS, Ready, TimerKey};
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::log::{self, Level};
use crate::tls::Session;

/// What is being done meanwhile, for messages.
const HANDSHAKE: &str = "the TLS hand-shake with";

/// The same while a server has said nothing at all. One without TLS may be waiting for a line.
const UNANSWERED: &str = "the TLS hand-shake, which servers without TLS do not answer, with";

/// Called once, from the loop, when the hand-shake is done or has failed. Not user code: that has a door of its own.
pub(crate) type Shaken = Box<dyn FnOnce(&Rc<Conn>, Result)>;

/// A hand-shake that is going on.
pub(super) struct Shaking {
    done: Option<Shaken>,
    timer: TimerKey,
}

/// What the connection lends its session to write to.
struct Sink<'a>(&'a Transport);

impl io::Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Conn {
    /// Takes an established connection into the loop and starts the hand-shake. Nothing is read from it or delivered
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
        conn.more().session.replace(Some(Box::new(session)));
        conn.flags.raise(Flag::TLS | Flag::SHAKING);
        let me = conn.me.clone();
        let timer = engine.after(limit, move |_| {
            if let Some(me) = me.upgrade() {
                me.handshake_is_late(limit);
            }
        });
        conn.rare(|rare| rare.shaking = Some(Shaking { done: Some(done), timer }));
        // A client speaks first.
        conn.write_or_requeue();
        Ok(conn)
    }

    #[inline]
    pub(crate) fn is_tls(&self) -> bool {
        self.flags.has(Flag::TLS)
    }

    pub(crate) fn session<R>(&self, ask: impl FnOnce(&Session) -> R) -> Option<R> {
        self.more.get()?.session.borrow().as_deref().map(ask)
    }

    pub(crate) fn peer_fingerprint(&self) -> Option<Fingerprint> {
        self.session(Session::peer_fingerprint).flatten()
    }

    /// Takes the hand-shake as far as it goes.
    pub(super) fn shake(self: &Rc<Self>) -> Next {
        for _ in 0..READS {
            if !self.sticky.get().has(Ready::READ | Ready::HANGUP | Ready::ERROR) {
                return Next::Idle;
            }
            let outcome = self.shake_once();
            match outcome {
                Ok(true) => self.shaken(Ok(())),
                Ok(false) => self.write_or_requeue(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Idle,
                Err(error) => self.shaken(Err(error)),
            }
            if !self.flags.has(Flag::SHAKING) {
                return Next::Idle;
            }
        }
        Next::Again
    }

    /// One read. True if that was the last of the hand-shake.
    fn shake_once(&self) -> Result<bool> {
        let mut held = None;
        let read = self.read_session(&mut held, false);
        self.give_back(&mut held);
        match read {
            Ok(0) => {}
            Ok(_) => return Ok(!self.session(Session::is_handshaking).unwrap_or(false)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(Error::from_io("waiting for", self.peer_name(), error));
            }
            Err(error) => return Err(Error::from_io(HANDSHAKE, self.peer_name(), error)),
        }
        let failed = self.rare(|rare| rare.read_error.take());
        let ended = || self.session(Session::end).unwrap_or(Ok(()));
        Err(match failed.map_or_else(ended, Err) {
            Err(error) => error,
            Ok(()) => self.closed(),
        })
    }

    /// The hand-shake is over, one way or the other.
    pub(super) fn shaken(self: &Rc<Self>, result: Result) {
        if !self.flags.replace(Flag::SHAKING, false) {
            return;
        }
        // The last of it, or the alert that says what is wrong; with what the program says first, if this is a turn.
        if self.engine.in_turn() {
            self.mark_dirty();
        } else {
            self.write_or_requeue();
        }
        let Some(shaking) = self.rare(|rare| rare.shaking.take()) else { return };
        self.engine.cancel_timer(shaking.timer);
        let failed = result.is_err();
        if self.session(Session::peer_closed) == Some(true) {
            self.flags.raise(Flag::READ_ENDED);
        }
        if !failed && log::is_wanted(Level::Debug) {
            let (peer, session) = (self.peer_name(), |ask: fn(&Session) -> Option<String>| self.session(ask).flatten());
            let version = session(|session| session.version().map(String::from)).unwrap_or_default();
            let cipher = session(Session::cipher_suite).unwrap_or_default();
            log::debug("hand-shake").peer(&peer).say(format_args!("{version} with {peer}, {cipher}"));
        }
        if let Some(done) = shaking.done {
            done(self, result);
        }
        if failed {
            // Closed in the background, so that the alert arrives; whoever waited knows already.
            self.finish(Reason::Local, true);
            self.flags.lower(Flag::TELL);
        } else if !self.has_handles() {
            // Whoever wanted it has gone meanwhile.
            self.last_drop();
        }
    }

    pub(crate) fn is_shaking(&self) -> bool {
        self.flags.has(Flag::SHAKING)
    }

    /// Adds what a poll has to watch for the hand-shake to go on.
    pub(crate) fn watch_handshake<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) -> io::Result<()> {
        self.transport.watch(true, self.session_waits(), fds)
    }

    /// The hand-shake is of no interest any more.
    pub(crate) fn forget_handshake(&self) {
        self.flags.lower(Flag::SHAKING);
        if let Some(shaking) = self.rare(|rare| rare.shaking.take()) {
            self.engine.cancel_timer(shaking.timer);
        }
    }

    /// The hand-shake has taken too long.
    pub(crate) fn handshake_is_late(self: &Rc<Self>, limit: Duration) {
        self.shaken(Err(Error::TimedOut { operation: self.handshake(), address: self.peer_name(), limit }));
    }

    /// What is being done, with a guess if it leads nowhere.
    fn handshake(&self) -> &'static str {
        if self.session(Session::is_unanswered) == Some(true) { UNANSWERED } else { HANDSHAKE }
    }

    /// Takes the hand-shake as far as it goes without waiting, where no loop does that. `done` is called from here.
    pub(crate) fn shake_on(self: &Rc<Self>) {
        if self.session_waits() {
            self.write_out();
        }
        self.sticky.set(self.sticky.get() | Ready::READ);
        while self.flags.has(Flag::SHAKING) && self.shake() == Next::Again {}
    }

    /// Waits for the end of the hand-shake. `done` is called from here.
    pub(crate) fn shake_blocking(self: &Rc<Self>) {
        let limit = self.options(|options| options.handshake_timeout);
        let deadline = Some((std::time::Instant::now() + limit, limit));
        while self.flags.has(Flag::SHAKING) {
            if let Err(error) = self.wait(true, self.session_waits(), deadline, self.handshake()) {
                self.shaken(Err(error));
                return;
            }
            self.shake_on();
        }
    }

    // ---- reading ----

    /// Reads what is there and puts what it says into the inbox; the count is of what was read. An error of TLS waits in
    /// `read_error` until what came before it is delivered; so does the end, which gives 0.
    /// `waits` if the read is to wait for something.
    pub(super) fn read_session(&self, held: &mut Option<Rc<Vec<u8>>>, waits: bool) -> io::Result<usize> {
        let mut buffer = self.engine.take_buffer();
        let space = Rc::get_mut(&mut buffer).ok_or(io::ErrorKind::WouldBlock)?;
        let read = if waits { self.transport.read_waiting(space) } else { self.transport.read(space) };
        let result = match read {
            Ok(count) => Ok(self.decrypt(&buffer[..count], held)),
            Err(error) => Err(error),
        };
        self.engine.give_buffer(buffer);
        result
    }

    fn decrypt(&self, cipher: &[u8], held: &mut Option<Rc<Vec<u8>>>) -> usize {
        let mut plain = self.engine.take_plain();
        let mut session = self.more().session.borrow_mut();
        let (Some(session), Some(space)) = (session.as_deref_mut(), Rc::get_mut(&mut plain)) else { return 0 };
        let outcome = if cipher.is_empty() { session.end() } else { session.receive(cipher, space) };
        let failed = outcome.is_err();
        let ended = cipher.is_empty() || failed || session.peer_closed();
        // Answers that TLS itself gives, such as new keys.
        let answers = session.wants_write();
        self.note_read(cipher.len() == READ_BUFFER);
        if let Err(error) = outcome {
            self.flags.put(Flag::DAMAGED, !cipher.is_empty());
            self.rare(|rare| {
                rare.read_error.get_or_insert(error);
            });
        }
        if ended && !self.flags.has(Flag::SHAKING) {
            self.flags.raise(Flag::READ_ENDED);
        }
        let length = plain.len();
        self.io.receive(plain.clone(), length);
        *held = Some(plain);
        if answers && !self.flags.has(Flag::SHAKING) {
            self.mark_dirty();
        }
        if failed && self.flags.has(Flag::SHAKING) { 0 } else { cipher.len() }
    }

    // ---- writing ----

    /// Gives bytes to the peer, as many as there is room for.
    #[inline]
    pub(super) fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        let written = if self.is_tls() { self.write_sealed(bytes) } else { self.transport.write(bytes) };
        if written.is_ok() {
            self.touch();
        }
        written
    }

    fn write_sealed(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut session = self.more().session.borrow_mut();
        let Some(session) = session.as_deref_mut() else { return Ok(0) };
        write_all_of(session, &self.transport)?;
        if self.flags.has(Flag::SHAKING) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = session.send(bytes);
        match write_all_of(session, &self.transport) {
            // It is in the session now, which will be asked to write before anything else.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && count > 0 => Ok(count),
            Err(error) => Err(error),
            Ok(()) if count == 0 => Err(io::ErrorKind::BrokenPipe.into()),
            Ok(()) => Ok(count),
        }
    }

    /// Has the session write what it holds. `WouldBlock` if some is left.
    #[inline]
    pub(super) fn write_session(&self) -> io::Result<()> {
        match self.more.get().filter(|_| self.is_tls()) {
            Some(more) => more
                .session
                .borrow_mut()
                .as_deref_mut()
                .map_or(Ok(()), |session| write_all_of(session, &self.transport)),
            None => Ok(()),
        }
    }

    /// Does the session hold something that is to be written?
    #[inline]
    pub(super) fn session_waits(&self) -> bool {
        self.is_tls() && self.session(Session::wants_write).unwrap_or(false)
    }

    /// Queues the end mark of TLS.
    pub(super) fn close_notify(&self) {
        if self.is_tls()
            && let Some(session) = self.more().session.borrow_mut().as_deref_mut()
        {
            session.close_notify();
        }
    }
}

fn write_all_of(session: &mut Session, transport: &Transport) -> io::Result<()> {
    while session.wants_write() {
        session.write_output(&mut Sink(transport))?;
    }
    Ok(())
}
