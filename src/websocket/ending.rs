//! How a connection ends: the closing handshake (RFC 6455, section 7), and whoever is told.

use std::rc::Rc;
use std::time::Duration;

use super::close::{Close, Code, Disconnect, payload, shortened};
use super::frame::Frame;
use super::handle::WebSocket;
use super::session::{Core, OnDisconnect, Phase};
use crate::conn::callbacks::Reason;
use crate::engine::{TimerKey, call};
use crate::error::{Error, Operation, Printable, Result};
use crate::log;

/// The known facts about the end.
#[derive(Default)]
pub(super) struct End {
    /// From the end until it is told.
    reason: Option<Reason>,
    close: Option<Close>,
    /// For whoever asks later.
    failure: Option<Error>,
    /// The failure has been told to somebody who waited for messages.
    is_told: bool,
    /// The connection below has ended. What it has left is taken in first.
    connection: Option<Reason>,
    /// Limits the wait for the peer's close frame.
    timer: Option<TimerKey>,
    /// The length of the send queue when the timer was set.
    queued: usize,
}

/// The reason that tungstenite puts in place of one with a close code that must not be sent.
const INVALID_CODE: &str = "Protocol violation";

impl Core {
    /// Sends a close frame. The peer's is awaited for the linger time.
    pub(super) fn close(&self, code: Code, reason: &str) -> Result {
        let payload = payload(code, reason)?;
        let Some(me) = self.strong().filter(|me| me.phase.get() == Phase::Open) else { return Ok(()) };
        if !self.socket.is_open() {
            return Ok(());
        }
        self.send_close(&payload);
        self.phase.set(Phase::Closing);
        self.stop_beating();
        self.discard_held();
        // The end is told, though nobody may have a handle by then. Without a loop it will not come.
        let keeps = self.engine.has_loop().then(|| WebSocket::new(me.clone()));
        self.drop_callbacks();
        self.end_waiting();
        self.limit_closing(keeps);
        self.go_on_later();
        Ok(())
    }

    fn limit_closing(&self, keeps: Option<WebSocket>) {
        let (weak, limit) = (self.downgrade(), self.linger.get());
        let timer = self.engine.after(limit, move |_| {
            if let Some(me) = weak.upgrade() {
                me.closing_is_late(keeps);
            }
        });
        let mut end = self.end.borrow_mut();
        end.timer = Some(timer);
        end.queued = self.socket.queued();
    }

    /// No close frame has come. The peer may still be reading what was sent before ours.
    fn closing_is_late(self: &Rc<Self>, keeps: Option<WebSocket>) {
        let before = self.end.borrow().queued;
        if self.phase.get() != Phase::Closing {
            return;
        }
        if self.socket.queued() < before {
            return self.limit_closing(keeps);
        }
        self.socket.abort();
        self.finish(Reason::Local, None);
    }

    fn send_close(&self, payload: &[u8]) {
        // If there is no room for it, the end of the stream has to do.
        if let Ok(frame) = Frame::close(payload, self.is_server) {
            let _ = self.send_frame(&frame);
        }
    }

    /// Ends it at once.
    pub(super) fn abort(&self) {
        if self.phase.get() != Phase::Ended {
            self.socket.abort();
            self.finish(Reason::Local, None);
        }
    }

    /// The end without a word: a callback has panicked.
    pub(super) fn abort_silently(&self) {
        let callback = self.on_disconnect.take();
        self.abort();
        self.end.borrow_mut().reason = None;
        drop(callback);
    }

    /// The peer has sent a close frame.
    pub(super) fn peer_closes(&self, close: Option<Close>, reply: &[u8]) {
        let close = close.unwrap_or_default();
        if self.phase.get() == Phase::Closing {
            return self.finish(Reason::Local, Some(close));
        }
        let _ = self.socket.send(reply);
        if close.code == Code::PROTOCOL && close.reason == INVALID_CODE {
            let reason = self.failure(Code::PROTOCOL, "the close frame has an invalid code");
            return self.finish(reason, None);
        }
        let reason = match close.code.is_normal() {
            true => Reason::Remote,
            false => self.failure(close.code, &close.reason),
        };
        self.finish(reason, Some(close));
    }

    fn failure(&self, code: Code, reason: &str) -> Reason {
        let reason = match reason {
            "" => code.meaning().unwrap_or("closed by the peer").into(),
            // The peer may have written it.
            reason => Printable(reason).to_string().into(),
        };
        Reason::Failed(Error::WebSocket { peer: self.peer().into(), code: code.into(), reason })
    }

    /// The peer does not keep to the protocol, or exceeds a limit.
    pub(super) fn refuse(&self, code: Code, problem: String) {
        let Reason::Failed(error) = self.failure(code, &problem) else { return };
        self.fail(code, &problem, error);
    }

    /// Ends it for that reason, which the peer hears as a code and a text.
    pub(super) fn fail(&self, code: Code, text: &str, error: Error) {
        match self.phase.get() {
            Phase::Open => {
                if let Ok(payload) = payload(code, shortened(text)) {
                    self.send_close(&payload);
                }
                self.finish(Reason::Failed(error), None);
            }
            Phase::Closing => self.finish(Reason::Local, None),
            Phase::Ended => {}
        }
    }

    /// No pong has come.
    pub(super) fn peer_is_silent(&self, limit: Duration) {
        let error = Error::TimedOut { operation: Operation::Incoming, address: self.peer(), limit };
        if self.phase.get() == Phase::Open {
            self.socket.abort();
            self.finish(Reason::Failed(error), None);
        }
    }

    // ---- the connection below ----

    /// The connection has ended, and this is what it had not delivered.
    pub(super) fn connection_ended(self: &Rc<Self>, leftover: &[u8], reason: Reason) {
        if self.phase.get() == Phase::Ended {
            return;
        }
        let is_failure = matches!(reason, Reason::Failed(_));
        self.add_pending(leftover);
        self.end.borrow_mut().connection = Some(reason);
        self.go_on();
        if is_failure {
            self.finish_connection();
        } else {
            self.finish_if_over();
        }
    }

    /// All that had come has been taken in.
    pub(super) fn finish_if_over(&self) {
        if self.phase.get() != Phase::Ended && self.end.borrow().connection.is_some() && !self.has_pending() {
            self.finish_connection();
        }
    }

    fn finish_connection(&self) {
        let Some(reason) = self.end.borrow_mut().connection.take() else { return };
        let reason = match reason {
            _ if self.phase.get() == Phase::Closing => Reason::Local,
            Reason::Remote => self.failure(Code::ABNORMAL, "the connection has ended without a close frame"),
            other => other,
        };
        self.finish(reason, None);
    }

    /// A blocking call has met this. Returns it, unless it is the end.
    pub(super) fn recv_failed(&self, error: Error) -> Result {
        let is_passing = match &error {
            Error::TimedOut { operation, .. } => *operation == Operation::Wait,
            Error::NotReady { .. } | Error::Unsupported(_) => true,
            Error::Io { source, .. } => source.kind() == std::io::ErrorKind::Interrupted,
            _ => false,
        };
        if is_passing {
            return Err(error);
        }
        let reason = match error {
            Error::Closed { .. } => Reason::Remote,
            error => Reason::Failed(error),
        };
        self.end.borrow_mut().connection = Some(reason);
        self.finish_connection();
        Ok(())
    }

    // ---- the end ----

    pub(super) fn finish(&self, reason: Reason, close: Option<Close>) {
        if self.phase.replace(Phase::Ended) == Phase::Ended {
            return;
        }
        let Some(me) = self.strong() else { return };
        self.stop_beating();
        self.forget_pending();
        let timer = {
            let mut end = self.end.borrow_mut();
            end.failure = match &reason {
                Reason::Failed(error) => Some(error.copy()),
                _ => None,
            };
            end.reason = Some(reason);
            end.close = close;
            end.timer.take()
        };
        timer.into_iter().for_each(|timer| self.engine.cancel_timer(timer));
        self.close_connection();
        self.drop_callbacks();
        self.end_waiting();
        if self.on_disconnect.borrow().is_some() || (self.has_failed() && self.engine.has_loop()) {
            self.engine.defer(move |_| me.tell());
        }
    }

    fn has_failed(&self) -> bool {
        self.end.borrow().failure.is_some()
    }

    pub(super) fn has_connection_ended(&self) -> bool {
        self.end.borrow().connection.is_some()
    }

    /// The server closes first, so that it is the one to remember the connection for a while (RFC 6455, section 7.1.1).
    fn close_connection(&self) {
        let socket = &self.socket;
        socket.unset_drain_cb();
        if self.is_server || !self.engine.has_loop() || !socket.is_open() {
            socket.disconnect_cb(|_, _| {});
            socket.close();
            return;
        }
        let weak = socket.downgrade();
        let timer = self.engine.after(self.linger.get(), move |_| {
            if let Some(socket) = weak.upgrade() {
                socket.close();
            }
        });
        let engine = self.engine.clone();
        socket.disconnect_cb(move |_, _| engine.cancel_timer(timer));
        socket.read(|_, _| Ok(()));
        socket.resume();
    }

    /// Calls the disconnect callback, or logs the failure that it would have been told.
    fn tell(self: &Rc<Self>) {
        if self.engine.is_panicking() {
            let me = self.clone();
            return self.engine.defer(move |_| me.tell());
        }
        let (reason, close) = {
            let mut end = self.end.borrow_mut();
            (end.reason.take(), end.close.clone())
        };
        let Some(reason) = reason else { return };
        let callback = self.on_disconnect.take();
        match callback {
            Some(callback) => {
                let ws = WebSocket::new(self.clone());
                call(&self.engine, || callback(&ws, Disconnect { reason, close }));
            }
            None => self.log(&reason),
        }
    }

    /// Anybody may cause failures of a server's connections.
    fn log(&self, reason: &Reason) {
        let Reason::Failed(error) = reason else { return };
        if self.end.borrow().is_told {
            return;
        }
        let peer = self.peer();
        let event = if self.is_server { log::debug("websocket") } else { log::message("websocket") };
        let whose = if error.names_peer() { String::new() } else { format!(" to {peer}") };
        event.peer(&peer).error(error).say(format_args!("WebSocket{whose} closed: {error}"));
    }

    /// The last handle has gone, and no callback is set.
    pub(super) fn last_drop(&self) {
        if self.phase.get() == Phase::Ended {
            return;
        }
        if let Ok(payload) = payload(Code::GOING_AWAY, "")
            && self.phase.get() == Phase::Open
        {
            self.send_close(&payload);
        }
        let callback = self.on_disconnect.take();
        self.phase.set(Phase::Ended);
        self.stop_beating();
        let timer = self.end.borrow_mut().timer.take();
        timer.into_iter().for_each(|timer| self.engine.cancel_timer(timer));
        self.forget_pending();
        self.socket.disconnect_cb(|_, _| {});
        self.socket.close();
        self.drop_callbacks();
        self.end_waiting();
        drop(callback);
    }

    pub(super) fn set_on_disconnect(&self, callback: Option<OnDisconnect>) {
        let has_ended = self.phase.get() == Phase::Ended;
        if has_ended && self.end.borrow().reason.is_none() {
            return drop(callback);
        }
        let is_late = has_ended && callback.is_some();
        let old = self.on_disconnect.replace(callback);
        if let Some(me) = self.strong().filter(|_| is_late) {
            self.engine.defer(move |_| me.tell());
        }
        drop(old);
    }

    /// Returns the error of using it after its end.
    pub(super) fn closed(&self) -> Error {
        let mut end = self.end.borrow_mut();
        let failure = end.failure.as_ref().map(Error::copy);
        end.is_told |= failure.is_some();
        failure.unwrap_or_else(|| Error::Closed { peer: self.peer() })
    }

    /// Returns the failure for whoever waits for messages, once.
    pub(super) fn take_failure(&self) -> Option<Error> {
        let mut end = self.end.borrow_mut();
        if std::mem::replace(&mut end.is_told, true) { None } else { end.failure.as_ref().map(Error::copy) }
    }

    pub(super) fn close_frame(&self) -> Option<Close> {
        self.end.borrow().close.clone()
    }
}
