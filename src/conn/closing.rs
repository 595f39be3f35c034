//! The end of a connection: told once, and nothing lost. What is queued goes out in the background, then the sending half
//! is closed, then the peer's end is awaited with its data discarded: closing with unread input would make the kernel
//! send a reset and throw away what it had accepted.

use std::rc::Weak;
use std::time::{Duration, Instant};

use super::Conn;
use super::flags::Flag;
use super::handle::Socket;
use super::handler::{Disconnect, OnDisconnect, Reason};
use crate::engine::{Handler, Next, Ready, call, main_depth};
use crate::error::{Error, Result, count};
use crate::log::{self, Level};

/// Reads of a lingering connection in one turn.
const DISCARDS: usize = 4;

impl Conn {
    /// Closes and returns what had been received and not handed over, unless a disconnect callback will get it.
    pub(crate) fn close(&self) -> Vec<u8> {
        self.finish(Reason::Local, true);
        self.leftover_of_close()
    }

    /// Closes at once, discarding what is queued.
    pub(crate) fn abort(&self) -> Vec<u8> {
        self.finish(Reason::Local, false);
        if self.flags.has(Flag::LINGERING) {
            self.let_go();
        }
        self.leftover_of_close()
    }

    fn leftover_of_close(&self) -> Vec<u8> {
        if self.is_told_to_somebody() { Vec::new() } else { self.io.take_input() }
    }

    /// Does somebody want to hear of the end?
    fn is_told_to_somebody(&self) -> bool {
        let own = || self.more.get().is_some_and(|more| more.on_disconnect.borrow().is_some());
        self.flags.has(Flag::TELLS_SERVER) || own()
    }

    /// Who is to be told of the end, once.
    fn take_on_disconnect(&self) -> Option<OnDisconnect> {
        if self.flags.take(Flag::TELLS_SERVER) {
            let callback = self.common.on_disconnect.borrow().clone();
            self.common.leave();
            return callback.map(OnDisconnect::Shared);
        }
        self.more.get()?.on_disconnect.take().map(OnDisconnect::Own)
    }

    /// The connection is at its end, for this reason unless it had one already. It is told on this turn if the loop is
    /// serving this connection just now, otherwise on the next.
    pub(super) fn finish(&self, reason: Reason, graceful: bool) {
        if !self.is_open() {
            return;
        }
        let traced = log::is_wanted(Level::Debug).then(|| reason.to_string());
        let failed = if let Reason::Failed(error) = &reason { error.again() } else { None };
        self.rare(|rare| (rare.end, rare.failed) = (Some(reason), failed));
        self.flags.raise(Flag::TELL);
        self.flags.raise(Flag::LINGERING);
        self.forget_handshake();
        if !graceful {
            self.let_go();
        } else if !self.flags.has(Flag::DIRTY) {
            self.linger_on();
        }
        if self.flags.has(Flag::LINGERING) {
            self.start_linger_timer();
            self.wake();
        }
        self.flags.lower(Flag::HAS_READER | Flag::READS_DATA | Flag::READS_RAW);
        let reader = self.reader.take();
        let others = self.rare(|rare| (rare.on_end.take(), rare.on_drain.take()));
        self.keep(false);
        drop((reader, others));
        self.wake_everybody();
        if let Some(reason) = traced {
            let peer = self.peer_name();
            log::debug("end").peer(&peer).say(format_args!("the connection to {peer} has ended: {reason}"));
        }
    }

    /// Whoever serves it, by a handle, has nothing more to do with it, or has failed. If its end has come, that is told
    /// first, and not as a failure of those who have heard of it.
    pub(crate) fn was_served(&self, result: Result) {
        if self.flags.has(Flag::READ_ENDED) && !self.flags.has(Flag::HALF_OPEN) {
            // What is unread is left over. Not on a later turn: the last handle may be about to go, and then nobody is told.
            self.flags.raise(Flag::CALLER_KNOWS);
            if self.strong().is_some_and(|me| me.ready(&self.engine, Ready::NONE) != Next::Idle) {
                self.wake();
            }
        }
        // It has not ended, or only for one direction.
        match result {
            Ok(()) => {
                self.give_up();
                // But for the caller's handle nobody has it: it would end without a word.
                if self.handles.get() == 1 {
                    self.finish(Reason::Local, true);
                }
            }
            Err(error) => self.finish(Reason::Failed(error), true),
        }
    }

    /// The end without a word: the context is gone, or a callback has panicked.
    pub(crate) fn abort_silently(&self) {
        self.finish(Reason::Local, false);
        self.let_go();
        self.flags.lower(Flag::TELL);
        self.rare(|rare| rare.end = None);
        self.leave_roster();
        let callback = self.take_on_disconnect();
        drop(callback);
    }

    /// Calls the disconnect callback, or logs what it would have been told.
    pub(super) fn tell_end(&self) {
        self.flags.lower(Flag::TELL);
        self.leave_roster();
        let callback = self.take_on_disconnect();
        let Some(callback) = callback else { return self.log_end() };
        let Some(reason) = self.rare(|rare| rare.end.take()) else { return };
        let Some(me) = self.strong() else { return };
        let end = Disconnect { leftover: self.io.take_input(), reason };
        let socket = Socket::from_conn(me);
        self.flags.raise(Flag::BUSY);
        call(&self.engine, || match callback {
            OnDisconnect::Own(user) => user(&socket, end),
            OnDisconnect::Shared(user) => user(&socket, end),
        });
        self.flags.lower(Flag::BUSY);
    }

    fn log_end(&self) {
        // Of those that ended well, `finish` has told.
        let failed = self.if_rare(|rare| match &rare.end {
            Some(Reason::Failed(error)) => Some(error.to_string()),
            _ => None,
        });
        // Nothing is borrowed: whoever listens to the log may call anything.
        if let Some(reason) = failed {
            let peer = self.peer_name();
            let event = log::warning("end").peer(&peer).error(&reason);
            event.say(format_args!("connection to {peer} ended: {reason}"));
        }
    }

    fn leave_roster(&self) {
        let roster = self.common.roster.as_ref().and_then(Weak::upgrade);
        if let (Some(number), Some(roster)) = (self.number.take(), roster) {
            roster.leave(number);
        }
    }

    /// The peer has gone; whoever reads will come to the end.
    pub(super) fn expect_end(&self) {
        self.sticky.set(self.sticky.get() | Ready::READ | Ready::HANGUP);
        self.wake();
    }

    // ---- lingering ----

    /// One step towards the end: send, half-close, discard.
    pub(super) fn linger_on(&self) -> Next {
        if !self.flags.has(Flag::LINGERING) {
            return Next::Idle;
        }
        if self.is_sending() {
            let next = self.write_out();
            if !self.flags.has(Flag::LINGERING) {
                return next;
            }
            if self.is_sending() {
                // A peer that has ended as well gets rid of what it has only if we take it.
                let discards = self.transport.is_socket() && !self.flags.has(Flag::READ_ENDED);
                return if discards { next.max(self.discard(&mut false)) } else { next };
            }
        }
        if self.is_tls() {
            // The end mark goes out whoever closed first.
            self.end_writing();
            if !self.flags.has(Flag::WRITE_ENDED) {
                return Next::Idle;
            }
        }
        // After damage in what came the peer's end is still to come; closing before it could destroy the alert.
        let has_end = self.flags.has(Flag::READ_ENDED) && !self.flags.has(Flag::DAMAGED);
        if has_end || !self.transport.is_socket() || self.linger().is_zero() {
            self.let_go();
            return Next::Idle;
        }
        self.end_writing();
        if !self.sticky.get().has(Ready::READ | Ready::HANGUP | Ready::ERROR) {
            return Next::Idle;
        }
        self.discard(&mut false)
    }

    /// Reads and throws away. Notes if there was anything.
    fn discard(&self, talks: &mut bool) -> Next {
        let mut buffer = self.engine.take_buffer();
        let mut next = Next::Hot;
        for _ in 0..DISCARDS {
            let Some(space) = std::rc::Rc::get_mut(&mut buffer) else { break };
            match self.transport.read(space) {
                Ok(count) if count > 0 => *talks = true,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.sticky.set(Ready::NONE);
                    next = Next::Idle;
                    break;
                }
                Ok(_) if self.is_sending() => {
                    // It still listens.
                    self.flags.raise(Flag::READ_ENDED);
                    next = Next::Idle;
                    break;
                }
                _ => {
                    self.flags.raise(Flag::READ_ENDED);
                    self.let_go();
                    next = Next::Idle;
                    break;
                }
            }
        }
        self.engine.give_buffer(buffer);
        next
    }

    fn linger(&self) -> Duration {
        self.options(|options| options.linger)
    }

    fn start_linger_timer(&self) {
        let me = self.me.clone();
        let timer = self.engine.after(self.linger(), move |_| {
            if let Some(me) = me.upgrade() {
                me.let_go();
            }
        });
        self.rare(|rare| rare.linger_timer = Some(timer));
    }

    /// Closes the descriptor. Deregistered first, always.
    pub(super) fn let_go(&self) {
        if self.flags.replace(Flag::GONE, true) {
            return;
        }
        self.flags.lower(Flag::LINGERING);
        let lost = self.io.queued();
        // Of what a session holds, the end mark alone is no loss.
        if lost > 0 || (self.session_waits() && !self.flags.has(Flag::WRITE_ENDED)) {
            self.rare(|rare| rare.lost = true);
        }
        if lost > 0 {
            let peer = self.peer_name();
            log::info("end")
                .peer(&peer)
                .say(format_args!("the connection to {peer} was given up with {} still queued", count(lost, "byte")));
            // Or the peer would take what it got for all there is.
            self.transport.break_off();
        }
        // For the messages that are still to come.
        self.remote();
        if let Some(key) = self.key.take() {
            self.engine.deregister(key);
        }
        self.forget_idleness();
        self.transport.close();
        self.io.drop_output();
        let timer = self.if_rare(|rare| rare.linger_timer.take());
        if let Some(timer) = timer {
            self.engine.cancel_timer(timer);
        }
        let lost = self.has_lost();
        self.tell_flushed(!lost);
        if self.flags.has(Flag::TELL) {
            // Without a registration it takes a call of its own.
            self.wake();
        }
    }

    // ---- the last handle ----

    /// Nobody holds the connection any more: it closes, in the background while a loop runs, else within this call.
    pub(super) fn last_drop(&self) {
        if self.is_open() {
            let callback = self.take_on_disconnect();
            self.finish(Reason::Local, true);
            self.flags.lower(Flag::TELL);
            self.leave_roster();
            drop(callback);
        }
        self.drain_if_lingering();
    }

    pub(super) fn drain_if_lingering(&self) {
        if self.flags.has(Flag::LINGERING) && main_depth() == 0 && !std::thread::panicking() {
            self.drain();
        }
    }

    /// Closes without waiting for the peer's end, where no loop runs that would.
    pub(crate) fn part(&self) {
        if self.flags.has(Flag::LINGERING) && main_depth() == 0 {
            self.linger_on();
            self.discard(&mut false);
            self.let_go();
        }
    }

    /// Without a loop there is no background: waits, bounded by `linger`, until the peer's system has everything.
    fn drain(&self) {
        let deadline = self.engine.draining_since() + self.linger();
        let left = || deadline.saturating_duration_since(Instant::now());
        while self.is_sending() && !left().is_zero() {
            if self.transport.wait_regardless(false, true, left()).is_err() {
                break;
            }
            self.write_out();
        }
        if self.flags.has(Flag::LINGERING) && !self.is_sending() {
            self.end_writing();
            let mut pause = Duration::from_micros(50);
            let mut talks = false;
            while let Some(backlog) = self.transport.backlog() {
                self.discard(&mut talks);
                // Once closed, the system resets the connection when the peer sends anything more, and forgets what it
                // still has. If the peer does not talk, it is enough that everything is on its way.
                let waits_for = if talks { backlog.unacknowledged } else { backlog.unsent };
                if waits_for == 0 || left().is_zero() {
                    break;
                }
                // Acknowledgements are no event to wait for.
                let _ = self.transport.wait_regardless(true, false, pause.min(left()));
                pause = (pause * 2).min(Duration::from_millis(10));
            }
        }
        self.let_go();
    }

    /// Hands the descriptor over to somebody else. What was received and not handed over comes with it.
    pub(crate) fn take_descriptor(&self) -> Result<(std::os::fd::OwnedFd, Vec<u8>)> {
        if !self.is_open() || !self.transport.is_socket() {
            return Err(self.closed());
        }
        if self.is_tls() {
            let peer = self.peer_name();
            return Err(Error::Unsupported(format!("the connection to {peer} uses TLS, which a descriptor cannot")));
        }
        self.flush_blocking()?;
        self.remote();
        if let Some(key) = self.key.take() {
            self.engine.deregister(key);
        }
        let leftover = self.io.take_input();
        let fd = self.transport.take().ok_or_else(|| self.closed())?;
        self.abort_silently();
        let _ = rustix::io::ioctl_fionbio(&fd, false);
        Ok((fd, leftover))
    }
}
