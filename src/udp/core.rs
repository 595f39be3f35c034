//! The state of a socket for datagrams, of any kind. Datagrams stay in the kernel until they are taken, so nothing is queued
//! here.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::receiving::Outcome;
use super::waiting::For;
use crate::address::{Endpoint, to_canonical};
use crate::engine::{
    CallbackSlot, Called, Datagram, DatagramSource, Engine, Handler, Key, LogQuota, Next, Ready, Registration, Served,
    WaitQueue, Wakers, call,
};
use crate::error::{Error, Operation, Result, count};
use crate::log::{self, Level};
use crate::sys::{self, Beside, Descriptor, ENDED, SocketFile};

/// Limit of refusals that wait to be reported. Further ones, which a sender that never receives can cause, displace the
/// oldest.
pub(super) const REFUSALS: usize = 64;

/// Each kind of socket wraps the program's callbacks to give them its own handle and form of the sender.
pub(super) type OnDatagram = dyn FnMut(&Rc<Core>, &[u8], Option<Endpoint>) -> Result;
pub(super) type OnError = dyn FnMut(&Rc<Core>, Error);

pub(super) struct Core {
    me: Weak<Core>,
    engine: Rc<Engine>,
    fd: Descriptor,
    key: Cell<Option<Key>>,
    pub(super) family: AddressFamily,
    pub(super) is_udp: bool,
    pub(super) is_seqpacket: bool,
    /// The local address before closing.
    local: RefCell<Option<Endpoint>>,
    pub(super) peer: RefCell<Option<Endpoint>>,
    /// The path that was made for this socket.
    pub(super) file: Cell<Option<SocketFile>>,
    /// Takes what comes beside a datagram's bytes, if that is wanted.
    pub(super) beside: Option<Beside>,
    pub(super) max_message: usize,
    pub(super) keeps_refusals: bool,
    pub(super) refused: RefCell<VecDeque<(Endpoint, Errno)>>,
    /// The peer of a connection has reset it.
    pub(super) was_reset: Cell<bool>,
    pub(super) timeout: Cell<Option<Duration>>,
    handles: Cell<u32>,
    kept: Cell<bool>,
    /// A callback is on the stack, and further ones wait.
    busy: Cell<bool>,
    /// An event arrived meanwhile.
    again: Cell<bool>,
    reader: CallbackSlot<OnDatagram>,
    on_error: CallbackSlot<OnError>,
    /// Limits what is logged without an error callback: anybody may cause it.
    logged: Rc<LogQuota>,
    write_armed: Cell<bool>,
    receivers: RefCell<WaitQueue>,
    senders: RefCell<WaitQueue>,
}

/// Everything that a socket is started with.
pub(super) struct Start {
    pub(super) is_udp: bool,
    pub(super) keeps_refusals: bool,
    pub(super) log_rate: u32,
    pub(super) beside: Option<Beside>,
    pub(super) max_message: usize,
}

impl Default for Start {
    fn default() -> Self {
        Start { is_udp: false, keeps_refusals: false, log_rate: 10, beside: None, max_message: usize::MAX }
    }
}

impl Core {
    pub(super) fn start(engine: &Rc<Engine>, fd: OwnedFd, how: Start) -> io::Result<Rc<Core>> {
        let family = sockopt::socket_domain(&fd)?;
        let is_seqpacket = sockopt::socket_type(&fd)? == SocketType::SEQPACKET;
        let core = Rc::new_cyclic(|me| Core {
            me: me.clone(),
            engine: engine.clone(),
            fd: Descriptor::new(fd),
            key: Cell::new(None),
            family,
            is_udp: how.is_udp,
            is_seqpacket,
            local: RefCell::default(),
            peer: RefCell::default(),
            file: Cell::new(None),
            beside: how.beside,
            max_message: how.max_message,
            keeps_refusals: how.keeps_refusals,
            refused: RefCell::default(),
            was_reset: Cell::new(false),
            timeout: Cell::new(None),
            handles: Cell::new(0),
            kept: Cell::new(false),
            busy: Cell::new(false),
            again: Cell::new(false),
            reader: CallbackSlot::default(),
            on_error: CallbackSlot::default(),
            logged: log_quota(me.clone(), how.log_rate),
            write_armed: Cell::new(false),
            receivers: RefCell::default(),
            senders: RefCell::default(),
        });
        let input = core.fd.open().ok_or(io::ErrorKind::NotConnected)?;
        let peer = sys::peer_address(input).ok().flatten();
        core.peer.replace(peer.and_then(|peer| core.known(peer)));
        // Every call sets MSG_DONTWAIT, so the descriptor's blocking mode stays as it is.
        let registration = Registration { input, input_blocks: false, output: None, write: false };
        core.key.set(Some(engine.register(registration, core.clone())?));
        Ok(core)
    }

    pub(super) fn waiters(&self, what: For) -> &RefCell<WaitQueue> {
        match what {
            For::Input => &self.receivers,
            For::Room => &self.senders,
        }
    }

    /// Wakes all futures that wait for this. Nothing may be borrowed.
    pub(super) fn wake(&self, what: For) {
        let waiters = self.waiters(what);
        if !waiters.borrow().is_empty() {
            let mut awake = Wakers::default();
            waiters.borrow_mut().wake_all(&mut awake);
            awake.wake();
        }
    }

    /// Watches for room in the send buffer, only while a future waits for it.
    pub(super) fn arm_write(&self, armed: bool) {
        if let Some(key) = self.key.get()
            && self.write_armed.replace(armed) != armed
        {
            self.engine.set_interest(key, true, armed);
        }
    }

    pub(super) fn engine(&self) -> &Rc<Engine> {
        &self.engine
    }

    pub(super) fn is_open(&self) -> bool {
        self.key.get().is_some()
    }

    pub(super) fn open(&self) -> Result<BorrowedFd<'_>> {
        self.fd.open().ok_or_else(|| self.closed())
    }

    pub(super) fn lend(&self) -> BorrowedFd<'_> {
        self.fd.lend()
    }

    pub(super) fn source(&self) -> Option<DatagramSource<'_>> {
        Some(DatagramSource { fd: self.fd.open()?, beside: self.beside.as_ref() })
    }

    pub(super) fn is_inet(&self) -> bool {
        [AddressFamily::INET, AddressFamily::INET6].contains(&self.family)
    }

    pub(super) fn is_v6(&self) -> bool {
        self.family == AddressFamily::INET6
    }

    pub(super) fn local(&self) -> Option<Endpoint> {
        let now = || sys::local_address(self.fd.open()?).ok().and_then(|local| self.known(local));
        now().or_else(|| self.local.borrow().clone())
    }

    pub(super) fn peer(&self) -> Option<Endpoint> {
        self.peer.borrow().clone()
    }

    /// Returns the peer or the local address, for messages.
    pub(super) fn name(&self) -> String {
        let (a, the) =
            if self.is_udp { ("a UDP socket", "the UDP socket") } else { ("a message socket", "the socket") };
        match (self.peer(), self.local()) {
            (Some(peer), _) => peer.to_string(),
            (None, None | Some(Endpoint::Unix(None))) => a.into(),
            (None, Some(local)) => format!("{the} {local}"),
        }
    }

    pub(super) fn closed(&self) -> Error {
        Error::Closed { peer: self.name() }
    }

    /// Returns the error of a system call that concerns this peer.
    pub(super) fn failed(&self, operation: Operation, peer: Option<&Endpoint>, errno: Errno) -> Error {
        self.failed_with(operation, peer.map_or_else(|| self.name(), Endpoint::to_string), errno)
    }

    /// As [`Core::failed`], with the peer's name.
    pub(super) fn failed_with(&self, operation: Operation, name: String, errno: Errno) -> Error {
        match errno {
            Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::NETDOWN | Errno::ADDRNOTAVAIL => {
                Error::from_connect(name, errno.into())
            }
            errno => Error::from_io(operation, name, errno.into()),
        }
    }

    /// Accesses options.
    pub(super) fn set<T>(&self, set: impl FnOnce(BorrowedFd<'_>) -> Result<T, Errno>) -> Result<T> {
        set(self.open()?).map_err(|errno| self.failed(Operation::Option, None, errno))
    }

    // ---- handles ----

    pub(super) fn add_handle(&self) {
        self.handles.set(self.handles.get() + 1);
    }

    pub(super) fn drop_handle(&self) {
        let left = self.handles.get() - 1;
        self.handles.set(left);
        if left == 0 {
            self.close();
        }
    }

    pub(super) fn has_handles(&self) -> bool {
        self.handles.get() > 0
    }

    /// Adds or drops the loop's handle: a socket with a read callback stays open without any other.
    fn keep(&self, keep: bool) {
        if self.kept.replace(keep) != keep {
            if keep {
                self.add_handle();
            } else {
                self.drop_handle();
            }
        }
    }

    pub(super) fn close(&self) {
        let local = self.local();
        self.local.replace(local);
        // The path goes first, while it still leads to a socket: another process that binds it now sees that it is in use.
        if let Some(Err(error)) = self.file.take().map(|file| file.remove()) {
            log::warning("close").error(&error).say(format_args!("{error}"));
        }
        let Some(fd) = self.let_go() else { return };
        drop(fd);
    }

    /// Ends everything and returns the descriptor. A path stays.
    pub(super) fn let_go(&self) -> Option<OwnedFd> {
        let key = self.key.take()?;
        // The engine's entry may hold the last reference.
        let me = self.me.upgrade();
        self.engine.deregister(key);
        let fd = self.fd.take();
        let callbacks = (self.reader.take(), self.on_error.take());
        drop(self.file.take());
        self.logged.flush();
        self.wake(For::Input);
        self.wake(For::Room);
        self.keep(false);
        drop(callbacks);
        drop(me);
        fd
    }

    pub(super) fn take_fd(&self) -> Result<OwnedFd> {
        let fd = self.let_go().ok_or_else(|| self.closed())?;
        let set = rustix::io::ioctl_fionbio(&fd, false);
        set.map_err(|errno| self.failed(Operation::Option, None, errno))?;
        Ok(fd)
    }

    // ---- callbacks ----

    pub(super) fn set_reader(&self, reader: Option<Box<OnDatagram>>) {
        if !self.is_open() {
            return;
        }
        let some = reader.is_some();
        let old = self.reader.replace(reader);
        // Datagrams that have already arrived cause no further event.
        self.requeue_reader();
        self.keep(some);
        drop(old);
    }

    pub(super) fn requeue_reader(&self) {
        if let (true, Some(key)) = (self.reader.is_set(), self.key.get()) {
            self.engine.requeue(key);
        }
    }

    pub(super) fn set_on_error(&self, callback: Option<Box<OnError>>) {
        if self.is_open() {
            let old = self.on_error.replace(callback);
            drop(old);
        }
    }

    /// Calls user code, one call at a time. Events that arrive meanwhile are handled afterwards.
    fn occupied<R>(&self, user: impl FnOnce() -> R) -> R {
        self.busy.set(true);
        self.add_handle();
        let result = user();
        self.drop_handle();
        self.busy.set(false);
        if let (true, Some(key)) = (self.again.take(), self.key.get()) {
            self.engine.requeue(key);
        }
        result
    }

    /// Reports the refusals that wait, while there is time. What a callback sends may be refused as well, which wakes this
    /// again.
    fn tell_refusals(self: &Rc<Self>) -> Next {
        let waiting = self.refused.borrow().len();
        for _ in 0..waiting {
            let refused = if self.reader.is_set() { self.refused.borrow_mut().pop_front() } else { None };
            let Some((peer, errno)) = refused else { break };
            self.tell_error(self.failed(Operation::Receive, Some(&peer), errno));
            if self.engine.spent() {
                return Next::Hot;
            }
        }
        Next::Idle
    }

    fn deliver(self: &Rc<Self>, buffer: &[u8], size: usize, from: Option<Endpoint>) {
        let data = self.whole(buffer, size);
        if data.len() < size {
            return self.tell_error(self.truncated(from.as_ref(), size, data.len(), &data));
        }
        match self.reader.call(&self.engine, |reader| reader(self, &data, from)) {
            Called::Panicked => self.close(),
            Called::Returned(Err(error)) => self.tell_error(error),
            Called::Returned(Ok(())) | Called::Not => {}
        }
    }

    fn tell_error(self: &Rc<Self>, error: Error) {
        let Some(mut callback) = self.on_error.lend() else {
            if log::is_wanted(Level::Message) {
                self.logged.log(&self.engine, || {
                    let name = self.name();
                    log::message("receive").peer(&name).error(&error).say(format_args!("{name}: {error}"));
                });
            }
            return;
        };
        if call(&self.engine, || callback(self, error)).is_none() {
            self.close();
        }
    }

    /// Reports an error of receiving. After the end of a connection, and after an error that would repeat for ever, nothing
    /// more is read.
    fn receive_failed(self: &Rc<Self>, peer: Option<&Endpoint>, errno: Errno) -> Served {
        let is_end = match errno {
            ENDED | Errno::CONNRESET => self.is_seqpacket,
            Errno::NOTCONN | Errno::ADDRNOTAVAIL | Errno::INVAL | Errno::BADF => true,
            // Of internet sockets, an ICMP message may have caused it, once.
            Errno::OPNOTSUPP => !self.is_inet(),
            _ => false,
        };
        self.occupied(|| {
            // An end that nobody asks for is no fault.
            if errno != ENDED || self.on_error.is_set() {
                self.tell_error(self.failed(Operation::Receive, peer, errno));
            }
            if is_end {
                self.set_reader(None);
            }
        });
        if is_end { Served::Done(Next::Idle) } else { Served::More }
    }
}

/// Clamps to the kernel's `int`.
pub(super) fn at_most(bytes: usize) -> usize {
    bytes.min(i32::MAX as usize)
}

fn log_quota(core: Weak<Core>, per_second: u32) -> Rc<LogQuota> {
    LogQuota::new(per_second, move |missed| {
        if let Some(core) = core.upgrade() {
            let (name, errors) = (core.name(), count(missed, "more error"));
            log::message("receive").peer(&name).say(format_args!("{name}: {errors}"));
        }
    })
}

pub(super) fn inet(address: impl Into<rustix::net::SocketAddrAny>) -> Option<SocketAddr> {
    SocketAddr::try_from(address.into()).ok().map(to_canonical)
}

impl Handler for Core {
    fn ready(self: Rc<Self>, _engine: &Rc<Engine>, ready: Ready) -> Next {
        if ready.has(Ready::WRITE | Ready::ERROR) {
            self.arm_write(false);
            self.wake(For::Room);
        }
        self.wake(For::Input);
        if self.busy.get() {
            self.again.set(true);
            return Next::Idle;
        }
        if self.refused.borrow().is_empty() { Next::Idle } else { self.occupied(|| self.tell_refusals()) }
    }

    fn datagrams(&self) -> Option<DatagramSource<'_>> {
        if self.reader.is_set() && !self.busy.get() { self.source() } else { None }
    }

    fn datagram(self: Rc<Self>, received: Datagram, buffer: &mut Option<Rc<Vec<u8>>>) -> Served {
        let outcome: Option<Outcome> = self.outcome(received);
        let served = match (outcome, buffer) {
            (Some(Ok((size, from))), Some(buffer)) => {
                self.occupied(|| self.deliver(buffer, size, from));
                Served::More
            }
            (Some(Err((_, Errno::AGAIN))), _) => return Served::Done(Next::Idle),
            (Some(Err((peer, errno))), _) => self.receive_failed(peer.as_ref(), errno),
            (None | Some(Ok(_)), _) => Served::More,
        };
        match served {
            Served::More if self.engine.spent() => Served::Done(Next::Hot),
            served => served,
        }
    }

    fn context_ended(self: Rc<Self>) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::message_socket;

    #[test]
    fn an_error_that_would_repeat_for_ever_is_told_once() {
        let context = glib::MainContext::new();
        let run = context.with_thread_default(|| {
            // It has no peer, so each receive call fails at once.
            let fd = message_socket(SocketType::SEQPACKET).unwrap();
            let core = Core::start(&Engine::current().unwrap(), fd, Start::default()).unwrap();
            core.add_handle();
            let told = Rc::new(RefCell::new(Vec::new()));
            let into = told.clone();
            core.set_on_error(Some(Box::new(move |_, error| into.borrow_mut().push(error.kind()))));
            core.set_reader(Some(Box::new(|_, _, _| Ok(()))));
            // Far more turns than that takes.
            for _ in 0..100 {
                context.iteration(false);
            }
            assert_eq!(*told.borrow(), [io::ErrorKind::NotConnected]);
            assert!(core.is_open() && core.datagrams().is_none());
            core.drop_handle();
        });
        run.unwrap();
    }
}
