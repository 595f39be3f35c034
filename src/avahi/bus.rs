//! A client of a D-Bus daemon: calls, replies and signals over one unix socket. gio packs and unpacks the messages; the
//! socket is the engine's, as all others are. GDBus's own connection would start threads for good, after which a process
//! can no longer go into the background, and would serve a flood of signals out of our sight.
//!
//! This file knows nothing of Avahi, and calls no user code.

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
use crate::log;

/// No message of ours comes near it, nor does any of Avahi's: the longest holds a TXT record. D-Bus itself allows 128 MiB.
const MESSAGE_MAX: usize = 1 << 20;

/// What D-Bus demands of every message: so much of it tells its length.
const HEAD: usize = 16;

/// How long an answer may take. Avahi gives up on a name after 5 s by itself.
pub(super) const ANSWER: Duration = Duration::from_secs(10);

/// Calls that wait for their answer at a time. The bus answers with an error from the 129th on.
const CALLS: usize = 112;

/// Who gets what the bus brings. Called from the engine, with nothing borrowed.
pub(super) trait Listener {
    fn signal(&self, engine: &Rc<Engine>, message: &DBusMessage);
    /// The connection is over.
    fn closed(&self, engine: &Rc<Engine>, cause: String);
}

/// An error that came instead of an answer, or because none came.
#[derive(Debug)]
pub(super) struct CallError {
    /// As `org.freedesktop.Avahi.CollisionError`. Empty if the error is our own.
    pub(super) name: String,
    pub(super) message: String,
}

type Answer = Result<glib::Variant, CallError>;
type Then = Box<dyn FnOnce(&Rc<Engine>, Answer)>;

/// Whom and what to call.
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
}

#[derive(Default)]
struct Wire {
    input: Input,
    output: Vec<u8>,
    at_end: Option<String>,
    serial: u32,
    calls: HashMap<u32, (Then, TimerKey)>,
    /// Calls that are made when others have been answered.
    waiting: VecDeque<Waiting>,
}

/// What the bus has sent: first its word that we may come in, then messages. Pure.
#[derive(Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    authenticated: bool,
}

impl Input {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes one message out of what was read. `Ok(None)` when no whole one is there.
    pub(super) fn next_message(&mut self) -> Result<Option<DBusMessage>, String> {
        if !self.authenticated {
            let Some(end) = memchr::memchr(b'\n', &self.bytes) else {
                return if self.bytes.len() > 1024 { Err("it does not speak D-Bus".into()) } else { Ok(None) };
            };
            let line: Vec<u8> = self.bytes.drain(..=end).collect();
            if !line.starts_with(b"OK ") {
                return Err(format!("it does not let us in: {}", String::from_utf8_lossy(line.trim_ascii())));
            }
            self.authenticated = true;
        }
        while self.bytes.len() >= HEAD {
            let size = DBusMessage::bytes_needed(&self.bytes[..HEAD]).ok().and_then(|size| usize::try_from(size).ok());
            let Some(size) = size.filter(|size| (HEAD..=MESSAGE_MAX).contains(size)) else {
                return Err("it sent what is no D-Bus message".into());
            };
            if self.bytes.len() < size {
                break;
            }
            let message = DBusMessage::from_blob(&self.bytes[..size], DBusCapabilityFlags::NONE);
            self.bytes.drain(..size);
            // One that cannot be read is passed over: the next one begins where its length said.
            if let Ok(message) = message {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }
}

struct Waiting {
    serial: u32,
    blob: Vec<u8>,
    method: String,
    limit: Duration,
    then: Then,
}

impl Bus {
    /// Connects to the system's bus and says hello. Never blocks.
    ///
    /// # Errors
    /// Why there is no bus, in words.
    pub(super) fn connect(engine: &Rc<Engine>, listener: Weak<dyn Listener>) -> Result<Rc<Bus>, String> {
        Bus::start(engine, listener, system_bus::open()?).map_err(|error| error.to_string())
    }

    fn start(engine: &Rc<Engine>, listener: Weak<dyn Listener>, fd: OwnedFd) -> io::Result<Rc<Bus>> {
        let bus = Rc::new_cyclic(|me| Bus {
            me: me.clone(),
            engine: engine.clone(),
            listener,
            fd: RefCell::new(None),
            key: Cell::new(None),
            wire: RefCell::default(),
        });
        let registration = Registration { input: fd.as_fd(), input_blocks: false, output: None, write: false };
        bus.key.set(Some(engine.register(registration, bus.clone())?));
        bus.fd.replace(Some(fd));
        // The user number in hexadecimal digits of its decimal digits, as the protocol has it. The answer need not be
        // awaited: a bus that refuses says so and hangs up.
        let user = rustix::process::geteuid().as_raw().to_string();
        let user: String = user.bytes().map(|digit| format!("{digit:02x}")).collect();
        bus.write(format!("\0AUTH EXTERNAL {user}\r\nBEGIN\r\n").as_bytes());
        bus.call(BUS.method("Hello"), None, ANSWER, |_, _| {});
        Ok(bus)
    }

    /// Calls a method, and then `then` with what it answers, unless the connection ends before.
    pub(super) fn call(
        &self,
        method: Method<'_>,
        body: Option<&glib::Variant>,
        limit: Duration,
        then: impl FnOnce(&Rc<Engine>, Answer) + 'static,
    ) {
        // Once closed nobody answers, and nobody is told.
        if self.key.get().is_none() {
            return;
        }
        let (serial, blob) = self.pack(&method, body, false);
        let waiting = Waiting { serial, blob, method: method.name.to_owned(), limit, then: Box::new(then) };
        self.wire.borrow_mut().waiting.push_back(waiting);
        self.call_next();
    }

    /// Makes the calls that wait, as many as there may be.
    fn call_next(&self) {
        loop {
            let mut wire = self.wire.borrow_mut();
            if wire.calls.len() >= CALLS {
                return;
            }
            let Some(Waiting { serial, blob, method, limit, then }) = wire.waiting.pop_front() else { return };
            let me = self.me.clone();
            let timer = self.engine.after(limit, move |engine| {
                let Some(me) = me.upgrade() else { return };
                let late = me.wire.borrow_mut().calls.remove(&serial);
                me.call_next();
                if let Some((then, _)) = late {
                    let message = format!("no answer to {method} within {limit:?}");
                    then(engine, Err(CallError { name: String::new(), message }));
                }
            });
            wire.calls.insert(serial, (then, timer));
            drop(wire);
            self.write(&blob);
        }
    }

    /// Calls a method whose answer nobody wants.
    pub(super) fn tell(&self, method: Method<'_>, body: Option<&glib::Variant>) {
        let (_, blob) = self.pack(&method, body, true);
        self.write(&blob);
    }

    fn pack(&self, method: &Method<'_>, body: Option<&glib::Variant>, no_answer: bool) -> (u32, Vec<u8>) {
        let message =
            DBusMessage::new_method_call(Some(method.destination), method.path, Some(method.interface), method.name);
        if let Some(body) = body {
            message.set_body(body);
        }
        if no_answer {
            message.set_flags(DBusMessageFlags::NO_REPLY_EXPECTED);
        }
        let serial = {
            let mut wire = self.wire.borrow_mut();
            wire.serial = wire.serial.checked_add(1).unwrap_or(1);
            wire.serial
        };
        message.set_serial(serial);
        let blob = message.to_blob(DBusCapabilityFlags::NONE).unwrap_or_else(|error| {
            log::critical("avahi").error(&error).say(format_args!("cannot pack a call of {}: {error}", method.name));
            Vec::new()
        });
        (serial, blob)
    }

    fn write(&self, bytes: &[u8]) {
        self.engine.disown();
        self.wire.borrow_mut().output.extend_from_slice(bytes);
        self.write_out();
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
                // The reading side is told the same, and says so.
                Err(_) => wire.output.clear(),
            }
        }
        self.engine.set_interest(key, true, !wire.output.is_empty());
    }

    /// Reads what is there. True if there may be more.
    fn read(&self, hangup: bool) -> bool {
        let mut wire = self.wire.borrow_mut();
        let fd = self.fd.borrow();
        let Some(fd) = &*fd else { return false };
        let mut buffer = [0; 16 << 10];
        for _ in 0..READS {
            match rustix::net::recv(fd, &mut buffer[..], RecvFlags::empty()) {
                Ok((_, 0)) => {
                    wire.at_end = Some("the bus closed the connection".into());
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
                    wire.at_end = Some(io::Error::from(error).to_string());
                    return false;
                }
            }
        }
        true
    }

    fn deliver(&self, engine: &Rc<Engine>, message: &DBusMessage) {
        let answer = match message.message_type() {
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
            then(engine, answer);
        }
    }

    /// Hangs up. What was called is not answered any more.
    pub(super) fn close(&self) {
        if let Some(key) = self.key.take() {
            self.engine.deregister(key);
        }
        let calls = {
            let mut wire = self.wire.borrow_mut();
            wire.input = Input::default();
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
            let next = self.wire.borrow_mut().input.next_message();
            match next {
                Ok(Some(message)) => self.deliver(engine, &message),
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
        let at_end = self.wire.borrow_mut().at_end.take();
        if let Some(cause) = at_end {
            self.fail(engine, cause);
            return Next::Idle;
        }
        if more { Next::Hot } else { Next::Idle }
    }

    fn context_ended(self: Rc<Self>) {
        self.close();
    }
}

// ---- who is who ----

/// A place to call methods of.
pub(super) struct Object {
    destination: &'static str,
    path: &'static str,
    interface: &'static str,
}

impl Object {
    pub(super) const fn new(destination: &'static str, path: &'static str, interface: &'static str) -> Self {
        Object { destination, path, interface }
    }

    pub(super) fn method(&self, name: &'static str) -> Method<'static> {
        Method { destination: self.destination, path: self.path, interface: self.interface, name }
    }
}

/// The bus itself.
pub(super) const BUS: Object = Object::new("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus");
