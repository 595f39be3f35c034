//! A D-Bus client: calls, replies and signals over one unix socket. gio encodes and decodes the messages; the engine
//! serves the socket like any other. A connection of GDBus would start threads that never end, after which a process
//! cannot daemonize any more, and would serve a flood of signals outside the engine's budgets.
//!
//! This file knows nothing of Avahi and calls no user code.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::time::Duration;

use gio::{DBusCapabilityFlags, DBusMessage, DBusMessageFlags, DBusMessageType};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::system_bus;
use crate::engine::{Engine, Handler, Key, Next, READS, Ready, Registration, TimerKey};
use crate::error::os_text;
use crate::log;

/// The longest message that is accepted, in bytes. The longest ones in use contain a TXT record. D-Bus allows 128 MiB.
const MESSAGE_MAX: usize = 1 << 20;

/// The size of the part of a message that determines its length, in bytes.
const HEADER_SIZE: usize = 16;

/// The longest line of the authentication, in bytes.
const LINE_MAX: usize = 1024;

/// The timeout of a call. Avahi itself gives up on a lookup after 5 s.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// The most calls that wait for a reply at a time. The bus refuses the 129th.
const MAX_CALLS: usize = 112;

/// Receives signals and the end of the connection. Called from the engine, with nothing borrowed.
pub(super) trait Listener {
    fn signal(&self, engine: &Rc<Engine>, message: &DBusMessage);
    /// The connection has ended.
    fn closed(&self, engine: &Rc<Engine>, cause: String);
}

/// The failure of a call: an error reply, or no reply in time.
#[derive(Debug)]
pub(super) struct CallError {
    /// The D-Bus error name, such as `org.freedesktop.Avahi.CollisionError`. Empty without a reply.
    pub(super) name: String,
    pub(super) message: String,
}

type Reply = Result<glib::Variant, CallError>;
type ReplyCallback = Box<dyn FnOnce(&Rc<Engine>, Reply)>;

/// A method and the object to call it on.
pub(super) struct Method<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) name: &'a str,
}

pub(super) struct Bus {
    me: Weak<Bus>,
    engine: Rc<Engine>,
    listener: Weak<dyn Listener>,
    fd: RefCell<Option<OwnedFd>>,
    key: Cell<Option<Key>>,
    wire: RefCell<Wire>,
    /// The timeout of the authentication.
    handshake: Cell<Option<TimerKey>>,
}

struct Wire {
    input: Input,
    output: Vec<u8>,
    /// Messages to be sent after the authentication.
    held: Vec<u8>,
    end_cause: Option<String>,
    serial: u32,
    calls: HashMap<u32, (ReplyCallback, TimerKey)>,
    /// Calls beyond [`MAX_CALLS`], made as replies arrive.
    waiting: VecDeque<PendingCall>,
}

impl Wire {
    fn new(user: u32) -> Wire {
        Wire {
            input: Input::new(user),
            output: Vec::new(),
            held: Vec::new(),
            end_cause: None,
            serial: 0,
            calls: HashMap::new(),
            waiting: VecDeque::new(),
        }
    }
}

/// The received bytes: first the lines of the authentication, then messages. A pure value.
pub(super) struct Input {
    bytes: Vec<u8>,
    stage: Stage,
    /// The effective user id of this process.
    user: u32,
}

/// The state of the authentication.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The bus was asked to take the user from the socket: in a user namespace, it sees another id than this process
    /// does.
    BySocket,
    /// The bus rejected that and was sent the user id.
    ById,
    Accepted,
}

/// One item from the bus.
pub(super) enum Received {
    /// A step of the authentication. Contains the reply to send.
    Challenge(String),
    /// The authentication is complete. `BEGIN` and messages must not be sent earlier: a filter in front of the bus,
    /// such as Flatpak's, takes them for authentication and closes the connection.
    Accepted,
    Message(DBusMessage),
}

impl Input {
    pub(super) fn new(user: u32) -> Input {
        Input { bytes: Vec::new(), stage: Stage::BySocket, user }
    }

    /// The bytes that start the authentication.
    fn greeting() -> &'static [u8] {
        b"\0AUTH EXTERNAL\r\n"
    }

    fn is_accepted(&self) -> bool {
        self.stage == Stage::Accepted
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next item out of the received bytes. `Ok(None)` if it is incomplete.
    pub(super) fn next(&mut self) -> Result<Option<Received>, String> {
        if self.is_accepted() {
            return Ok(self.next_message()?.map(Received::Message));
        }
        let Some(end) = memchr::memchr(b'\n', &self.bytes) else {
            return if self.bytes.len() > LINE_MAX { Err("not a D-Bus daemon".into()) } else { Ok(None) };
        };
        let line: Vec<u8> = self.bytes.drain(..=end).collect();
        self.authenticate(line.trim_ascii()).map(Some)
    }

    fn authenticate(&mut self, line: &[u8]) -> Result<Received, String> {
        let command = line.split(|&b| b == b' ').next().unwrap_or_default();
        match (command, self.stage) {
            (b"OK", _) => {
                self.stage = Stage::Accepted;
                Ok(Received::Accepted)
            }
            // The mechanism has no data to send.
            (b"DATA", _) => Ok(Received::Challenge("DATA\r\n".into())),
            (b"REJECTED" | b"ERROR", Stage::BySocket) => {
                self.stage = Stage::ById;
                // The protocol requires the decimal digits in hexadecimal.
                let id: String = self.user.to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
                Ok(Received::Challenge(format!("AUTH EXTERNAL {id}\r\n")))
            }
            _ => Err(format!("authentication failed: {:?}", String::from_utf8_lossy(line))),
        }
    }

    fn next_message(&mut self) -> Result<Option<DBusMessage>, String> {
        while self.bytes.len() >= HEADER_SIZE {
            let size =
                DBusMessage::bytes_needed(&self.bytes[..HEADER_SIZE]).ok().and_then(|size| usize::try_from(size).ok());
            let Some(size) = size.filter(|size| (HEADER_SIZE..=MESSAGE_MAX).contains(size)) else {
                return Err("received data that is not a D-Bus message".into());
            };
            if self.bytes.len() < size {
                break;
            }
            let message = DBusMessage::from_blob(&self.bytes[..size], DBusCapabilityFlags::NONE);
            self.bytes.drain(..size);
            // A message that cannot be decoded is skipped: its length says where the next one begins.
            if let Ok(message) = message {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }
}

struct PendingCall {
    serial: u32,
    blob: Vec<u8>,
    method: String,
    limit: Duration,
    then: ReplyCallback,
}

impl Bus {
    /// Connects to the system bus and starts the authentication. Never blocks.
    ///
    /// # Errors
    /// The reason, as text.
    pub(super) fn connect(engine: &Rc<Engine>, listener: Weak<dyn Listener>) -> Result<Rc<Bus>, String> {
        Bus::start(engine, listener, system_bus::open()?).map_err(|error| os_text(&error))
    }

    fn start(engine: &Rc<Engine>, listener: Weak<dyn Listener>, fd: OwnedFd) -> io::Result<Rc<Bus>> {
        let bus = Rc::new_cyclic(|me| Bus {
            me: me.clone(),
            engine: engine.clone(),
            listener,
            fd: RefCell::new(None),
            key: Cell::new(None),
            wire: RefCell::new(Wire::new(rustix::process::geteuid().as_raw())),
            handshake: Cell::new(None),
        });
        let registration = Registration { input: fd.as_fd(), input_blocks: false, output: None, write: false };
        bus.key.set(Some(engine.register(registration, bus.clone())?));
        bus.fd.replace(Some(fd));
        let me = bus.me.clone();
        bus.handshake.set(Some(engine.after(REPLY_TIMEOUT, move |engine| {
            if let Some(me) = me.upgrade() {
                me.handshake.set(None);
                me.fail(engine, format!("no reply to the authentication after {} s", REPLY_TIMEOUT.as_secs()));
            }
        })));
        bus.write_now(Input::greeting());
        bus.call(BUS.method("Hello"), None, REPLY_TIMEOUT, |_, _| {});
        Ok(bus)
    }

    /// Calls a method and passes the result to `then`, unless the connection ends before.
    pub(super) fn call(
        &self,
        method: Method<'_>,
        body: Option<&glib::Variant>,
        limit: Duration,
        then: impl FnOnce(&Rc<Engine>, Reply) + 'static,
    ) {
        // After `close`, there is no reply and no notification.
        if self.key.get().is_none() {
            return;
        }
        let (serial, blob) = self.encode(&method, body, false);
        let waiting = PendingCall { serial, blob, method: method.name.to_owned(), limit, then: Box::new(then) };
        self.wire.borrow_mut().waiting.push_back(waiting);
        self.call_next();
    }

    /// Sends pending calls, up to [`MAX_CALLS`].
    fn call_next(&self) {
        loop {
            let mut wire = self.wire.borrow_mut();
            if wire.calls.len() >= MAX_CALLS {
                return;
            }
            let Some(PendingCall { serial, blob, method, limit, then }) = wire.waiting.pop_front() else { return };
            let me = self.me.clone();
            let timer = self.engine.after(limit, move |engine| {
                let Some(me) = me.upgrade() else { return };
                let late = me.wire.borrow_mut().calls.remove(&serial);
                me.call_next();
                if let Some((then, _)) = late {
                    let message = format!("no reply to {method} after {} s", limit.as_secs());
                    then(engine, Err(CallError { name: String::new(), message }));
                }
            });
            wire.calls.insert(serial, (then, timer));
            drop(wire);
            self.write(&blob);
        }
    }

    /// Calls a method without asking for a reply.
    pub(super) fn tell(&self, method: Method<'_>, body: Option<&glib::Variant>) {
        let (_, blob) = self.encode(&method, body, true);
        self.write(&blob);
    }

    fn encode(&self, method: &Method<'_>, body: Option<&glib::Variant>, no_reply: bool) -> (u32, Vec<u8>) {
        let message =
            DBusMessage::new_method_call(Some(method.destination), method.path, Some(method.interface), method.name);
        if let Some(body) = body {
            message.set_body(body);
        }
        if no_reply {
            message.set_flags(DBusMessageFlags::NO_REPLY_EXPECTED);
        }
        let serial = {
            let mut wire = self.wire.borrow_mut();
            wire.serial = wire.serial.checked_add(1).unwrap_or(1);
            wire.serial
        };
        message.set_serial(serial);
        let blob = message.to_blob(DBusCapabilityFlags::NONE).unwrap_or_else(|error| {
            log::critical("avahi")
                .error(&error)
                .say(format_args!("failed to encode a call of {}: {error}", method.name));
            Vec::new()
        });
        (serial, blob)
    }

    /// Sends a message, at the earliest after the authentication.
    fn write(&self, message: &[u8]) {
        self.engine.disown();
        let mut wire = self.wire.borrow_mut();
        if !wire.input.is_accepted() {
            wire.held.extend_from_slice(message);
            return;
        }
        drop(wire);
        self.write_now(message);
    }

    fn write_now(&self, bytes: &[u8]) {
        self.wire.borrow_mut().output.extend_from_slice(bytes);
        self.write_out();
    }

    fn accepted(&self) {
        if let Some(timer) = self.handshake.take() {
            self.engine.cancel_timer(timer);
        }
        let held = std::mem::take(&mut self.wire.borrow_mut().held);
        self.write_now(&[b"BEGIN\r\n", &held[..]].concat());
    }

    fn write_out(&self) {
        let mut wire = self.wire.borrow_mut();
        let fd = self.fd.borrow();
        let (Some(fd), Some(key)) = (&*fd, self.key.get()) else { return };
        while !wire.output.is_empty() {
            match rustix::net::send(fd, &wire.output, SendFlags::NOSIGNAL) {
                Ok(count) => drop(wire.output.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // Reading fails as well and reports it.
                Err(_) => wire.output.clear(),
            }
        }
        self.engine.set_interest(key, true, !wire.output.is_empty());
    }

    /// Reads the available bytes. Returns whether there may be more.
    fn read(&self, hangup: bool) -> bool {
        let mut wire = self.wire.borrow_mut();
        let fd = self.fd.borrow();
        let Some(fd) = &*fd else { return false };
        let mut buffer = [0; 16 << 10];
        for _ in 0..READS {
            match rustix::net::recv(fd, &mut buffer[..], RecvFlags::empty()) {
                Ok((_, 0)) => {
                    wire.end_cause = Some("the bus closed the connection".into());
                    return false;
                }
                Ok((_, count)) => {
                    wire.input.push(&buffer[..count]);
                    if count < buffer.len() && !hangup {
                        return false;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Err(error) => {
                    wire.end_cause = Some(os_text(&error.into()));
                    return false;
                }
            }
        }
        true
    }

    fn deliver(&self, engine: &Rc<Engine>, message: &DBusMessage) {
        let reply = match message.message_type() {
            DBusMessageType::Signal => {
                if let Some(listener) = self.listener.upgrade() {
                    listener.signal(engine, message);
                }
                return;
            }
            DBusMessageType::MethodReturn => Ok(message.body().unwrap_or_else(|| ().into())),
            DBusMessageType::Error => Err(CallError {
                name: message.error_name().unwrap_or_default().into(),
                message: message.arg0().unwrap_or_default().into(),
            }),
            _ => return,
        };
        let waiting = self.wire.borrow_mut().calls.remove(&message.reply_serial());
        self.call_next();
        if let Some((then, timer)) = waiting {
            engine.cancel_timer(timer);
            then(engine, reply);
        }
    }

    /// Closes the connection. Pending calls get no reply.
    pub(super) fn close(&self) {
        if let Some(key) = self.key.take() {
            self.engine.deregister(key);
        }
        if let Some(timer) = self.handshake.take() {
            self.engine.cancel_timer(timer);
        }
        let calls = {
            let mut wire = self.wire.borrow_mut();
            wire.input = Input::new(wire.input.user);
            (std::mem::take(&mut wire.calls), std::mem::take(&mut wire.waiting))
        };
        for (_, timer) in calls.0.values() {
            self.engine.cancel_timer(*timer);
        }
        drop(calls);
        let fd = self.fd.take();
        drop(fd);
    }

    fn fail(&self, engine: &Rc<Engine>, cause: String) {
        self.close();
        if let Some(listener) = self.listener.upgrade() {
            listener.closed(engine, cause);
        }
    }
}

impl Handler for Bus {
    fn ready(self: Rc<Self>, engine: &Rc<Engine>, ready: Ready) -> Next {
        if ready.has(Ready::WRITE) {
            self.write_out();
        }
        let more = self.read(ready.has(Ready::HANGUP | Ready::ERROR));
        loop {
            let next = self.wire.borrow_mut().input.next();
            match next {
                Ok(Some(Received::Message(message))) => self.deliver(engine, &message),
                Ok(Some(Received::Challenge(reply))) => self.write_now(reply.as_bytes()),
                Ok(Some(Received::Accepted)) => self.accepted(),
                Ok(None) => break,
                Err(cause) => {
                    self.fail(engine, cause);
                    return Next::Idle;
                }
            }
            if engine.spent() {
                return Next::Hot;
            }
        }
        let end_cause = self.wire.borrow_mut().end_cause.take();
        if let Some(cause) = end_cause {
            self.fail(engine, cause);
            return Next::Idle;
        }
        if more { Next::Hot } else { Next::Idle }
    }

    fn context_ended(self: Rc<Self>) {
        self.close();
    }
}

// ---- objects on the bus ----

/// An object on the bus, with the interface to call.
pub(super) struct RemoteObject {
    destination: &'static str,
    path: &'static str,
    interface: &'static str,
}

impl RemoteObject {
    pub(super) const fn new(destination: &'static str, path: &'static str, interface: &'static str) -> Self {
        RemoteObject { destination, path, interface }
    }

    pub(super) fn method(&self, name: &'static str) -> Method<'static> {
        Method { destination: self.destination, path: self.path, interface: self.interface, name }
    }
}

/// The bus itself.
pub(super) const BUS: RemoteObject =
    RemoteObject::new("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus");

#[cfg(test)]
mod tests {
    use super::*;

    /// The replies to a bus that sends these lines.
    fn converse(lines: &[&str]) -> Result<Vec<String>, String> {
        let mut input = Input::new(1000);
        let mut replies = Vec::new();
        for line in lines {
            input.push(line.as_bytes());
            assert!(!input.is_accepted(), "{line} comes too late");
            while let Some(received) = input.next()? {
                match received {
                    Received::Challenge(reply) => replies.push(reply),
                    Received::Accepted => replies.push("accepted".into()),
                    Received::Message(_) => unreachable!(),
                }
            }
        }
        Ok(replies)
    }

    #[test]
    fn the_bus_takes_the_user_from_the_socket_or_is_sent_its_id() {
        assert_eq!(Input::greeting(), b"\0AUTH EXTERNAL\r\n");
        assert_eq!(converse(&["DATA\r\n", "OK 0123\r\n"]).unwrap(), ["DATA\r\n", "accepted"]);
        assert_eq!(converse(&["OK", " 0123", "\r\n"]).unwrap(), ["accepted"]);
        let named = "AUTH EXTERNAL 31303030\r\n";
        for refusal in ["REJECTED EXTERNAL\r\n", "ERROR \"no data\"\r\n"] {
            assert_eq!(converse(&[refusal, "OK 0123\r\n"]).unwrap(), [named, "accepted"]);
        }
        let refused = ["DATA\r\n", "REJECTED EXTERNAL\r\n", "REJECTED EXTERNAL\r\n"];
        assert_eq!(converse(&refused).unwrap_err(), "authentication failed: \"REJECTED EXTERNAL\"");
        assert!(converse(&["220 mail.example ESMTP\r\n"]).unwrap_err().contains("220 mail"));
        assert!(converse(&[&"x".repeat(LINE_MAX + 1)]).unwrap_err().contains("not a D-Bus daemon"));
    }
}
