//! The state of a datagram socket. Datagrams stay in the kernel until they are taken, so nothing is queued here.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvFlags, SendFlags, sockopt};

use super::destination::clothed;
use super::{MAX_DATAGRAM_SIZE, UdpSocket};
use crate::address::to_canonical;
use crate::engine::{
    CallbackSlot, Called, Datagram, Engine, Handler, Key, LogQuota, Next, Ready, Registration, Served, Ticket,
    WaitQueue, Wakers, call, receive_datagram,
};
use crate::error::{Error, Operation, Result, count};
use crate::log::{self, Level};
use crate::sys::{self, Descriptor, poll_for, wait_for};

/// Limit of refusals that wait to be reported. Further ones, which a sender that never receives can cause, displace the
/// oldest.
const REFUSALS: usize = 64;

type OnDatagram = dyn FnMut(&UdpSocket, &[u8], SocketAddr) -> Result;
type OnError = dyn FnMut(&UdpSocket, Error);

pub(super) struct Core {
    me: Weak<Core>,
    engine: Rc<Engine>,
    fd: Descriptor,
    key: Cell<Option<Key>>,
    pub(super) is_v6: bool,
    /// The local address before closing.
    local: Cell<Option<SocketAddr>>,
    peer: Cell<Option<SocketAddr>>,
    keeps_refusals: bool,
    refused: RefCell<VecDeque<(SocketAddr, Errno)>>,
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

/// A datagram's length and sender, or an error and the address it concerns.
type Outcome = Result<(usize, SocketAddr), (Option<SocketAddr>, Errno)>;

/// The event that a future or a blocking call waits for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum For {
    Input,
    Room,
}

/// A future that waits. Dropped, it leaves the queue.
pub(super) struct Waiting {
    core: Rc<Core>,
    what: For,
    ticket: Ticket,
}

impl Waiting {
    pub(super) fn new(core: &Rc<Core>, what: For) -> Self {
        Waiting { core: core.clone(), what, ticket: Ticket::New }
    }

    pub(super) fn wait(&mut self, waker: &Waker) {
        let old = self.core.waiters(self.what).borrow_mut().wait(&mut self.ticket, waker);
        drop(old);
        if self.what == For::Room {
            self.core.arm_write(true);
        }
    }

    /// The future has what it waited for.
    pub(super) fn leave(&mut self) {
        if self.ticket.is_queued() {
            let mut awake = Wakers::default();
            let left = self.core.waiters(self.what).borrow_mut().leave(&mut self.ticket, &mut awake);
            awake.wake();
            drop(left);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Core {
    pub(super) fn start(engine: &Rc<Engine>, fd: OwnedFd, keeps_refusals: bool, log_rate: u32) -> io::Result<Rc<Core>> {
        let is_v6 = sockopt::socket_domain(&fd)? == AddressFamily::INET6;
        let peer = sys::peer_address(&fd).ok().flatten().and_then(inet);
        let core = Rc::new_cyclic(|me| Core {
            me: me.clone(),
            engine: engine.clone(),
            fd: Descriptor::new(fd),
            key: Cell::new(None),
            is_v6,
            local: Cell::new(None),
            peer: Cell::new(peer),
            keeps_refusals,
            refused: RefCell::default(),
            timeout: Cell::new(None),
            handles: Cell::new(0),
            kept: Cell::new(false),
            busy: Cell::new(false),
            again: Cell::new(false),
            reader: CallbackSlot::default(),
            on_error: CallbackSlot::default(),
            logged: log_quota(me.clone(), log_rate),
            write_armed: Cell::new(false),
            receivers: RefCell::default(),
            senders: RefCell::default(),
        });
        let input = core.fd.open().ok_or(io::ErrorKind::NotConnected)?;
        // Every call sets MSG_DONTWAIT, so the descriptor's blocking mode stays as it is.
        let registration = Registration { input, input_blocks: false, output: None, write: false };
        core.key.set(Some(engine.register(registration, core.clone())?));
        Ok(core)
    }

    fn waiters(&self, what: For) -> &RefCell<WaitQueue> {
        match what {
            For::Input => &self.receivers,
            For::Room => &self.senders,
        }
    }

    /// Wakes all futures that wait for this. Nothing may be borrowed.
    fn wake(&self, what: For) {
        let waiters = self.waiters(what);
        if !waiters.borrow().is_empty() {
            let mut awake = Wakers::default();
            waiters.borrow_mut().wake_all(&mut awake);
            awake.wake();
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

    pub(super) fn local(&self) -> Option<SocketAddr> {
        let now = || sys::local_address(self.fd.open()?).ok().and_then(inet);
        now().or(self.local.get())
    }

    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.peer.get()
    }

    /// Returns the peer or the local address, for messages.
    pub(super) fn name(&self) -> String {
        match (self.peer.get(), self.local()) {
            (Some(peer), _) => peer.to_string(),
            (None, Some(local)) => format!("the UDP socket {local}"),
            (None, None) => "a UDP socket".into(),
        }
    }

    pub(super) fn closed(&self) -> Error {
        Error::Closed { peer: self.name() }
    }

    /// Returns the error of a system call that concerns this peer.
    pub(super) fn failed(&self, operation: Operation, peer: Option<SocketAddr>, errno: Errno) -> Error {
        let address = || peer.map_or_else(|| self.name(), |peer| to_canonical(peer).to_string());
        match errno {
            Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::NETDOWN | Errno::ADDRNOTAVAIL => {
                Error::from_connect(address(), errno.into())
            }
            _ => Error::Io { operation, address: address(), source: errno.into() },
        }
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
        self.local.set(self.local());
        let Some(fd) = self.let_go() else { return };
        drop(fd);
    }

    /// Ends everything and returns the descriptor.
    pub(super) fn let_go(&self) -> Option<OwnedFd> {
        let key = self.key.take()?;
        // The engine's entry may hold the last reference.
        let me = self.me.upgrade();
        self.engine.deregister(key);
        let fd = self.fd.take();
        let callbacks = (self.reader.take(), self.on_error.take());
        self.logged.flush();
        self.wake(For::Input);
        self.wake(For::Room);
        self.keep(false);
        drop(callbacks);
        drop(me);
        fd
    }

    // ---- callbacks ----

    pub(super) fn set_reader(&self, reader: Option<Box<OnDatagram>>) {
        let Some(key) = self.key.get() else { return };
        let some = reader.is_some();
        let old = self.reader.replace(reader);
        if some {
            // Datagrams that have already arrived cause no further event.
            self.engine.requeue(key);
        }
        self.keep(some);
        drop(old);
    }

    pub(super) fn set_on_error(&self, callback: Option<Box<OnError>>) {
        if self.is_open() {
            let old = self.on_error.replace(callback);
            drop(old);
        }
    }

    /// Calls user code, one call at a time. Events that arrive meanwhile are handled afterwards.
    fn occupied<R>(self: &Rc<Self>, user: impl FnOnce(&UdpSocket) -> R) -> R {
        self.busy.set(true);
        let result = user(&UdpSocket::from_core(self.clone()));
        self.busy.set(false);
        if let (true, Some(key)) = (self.again.take(), self.key.get()) {
            self.engine.requeue(key);
        }
        result
    }

    /// Reports the refusals that wait, while there is time. What a callback sends may be refused as well, which wakes this
    /// again.
    fn tell_refusals(&self, socket: &UdpSocket) -> Next {
        let waiting = self.refused.borrow().len();
        for _ in 0..waiting {
            let refused = if self.reader.is_set() { self.refused.borrow_mut().pop_front() } else { None };
            let Some((peer, errno)) = refused else { break };
            self.tell_error(socket, self.failed(Operation::Receive, Some(peer), errno));
            if self.engine.spent() {
                return Next::Hot;
            }
        }
        Next::Idle
    }

    fn deliver(&self, socket: &UdpSocket, data: &[u8], from: SocketAddr) {
        match self.reader.call(&self.engine, |reader| reader(socket, data, from)) {
            Called::Panicked => self.close(),
            Called::Returned(Err(error)) => self.tell_error(socket, error),
            Called::Returned(Ok(())) | Called::Not => {}
        }
    }

    fn tell_error(&self, socket: &UdpSocket, error: Error) {
        let Some(mut callback) = self.on_error.lend() else {
            if log::is_wanted(Level::Message) {
                self.logged.log(&self.engine, || {
                    let name = self.name();
                    log::message("receive").peer(&name).error(&error).say(format_args!("{name}: {error}"));
                });
            }
            return;
        };
        if call(&self.engine, || callback(socket, error)).is_none() {
            self.close();
        }
    }

    // ---- the descriptor ----

    /// Receives one datagram, from the peer if there is one. Returns its length, which may exceed the buffer, and its
    /// sender; or an error and the address it concerns.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Outcome {
        if let Some((peer, errno)) = self.refused.borrow_mut().pop_front() {
            return Err((Some(peer), errno));
        }
        let fd = self.fd.open().ok_or((None, Errno::NOTCONN))?;
        loop {
            if let Some(outcome) = self.outcome(receive_datagram(fd, buffer)) {
                return outcome;
            }
        }
    }

    /// Interprets the result of a receive call. `None` if the datagram is to be ignored and the next one received.
    fn outcome(&self, received: Datagram) -> Option<Outcome> {
        match received {
            Ok((size, from)) => match from.and_then(inet) {
                // Sent by a stranger before the peer was fixed.
                Some(from) if self.is_stranger(from) => None,
                Some(from) => Some(Ok((size, from))),
                None => Some(Err((None, Errno::AFNOSUPPORT))),
            },
            Err(Errno::INTR) => None,
            Err(errno) if errno != Errno::AGAIN && self.keeps_refusals => {
                Some(Err((self.refused_by().or(self.peer.get()), errno)))
            }
            Err(errno) => Some(Err((self.peer.get(), errno))),
        }
    }

    fn is_stranger(&self, from: SocketAddr) -> bool {
        self.peer.get().is_some_and(|peer| (peer.ip(), peer.port()) != (from.ip(), from.port()))
    }

    /// Passes one datagram to the kernel, to the peer unless an address is given.
    pub(super) fn transmit(&self, data: &[u8], to: Option<SocketAddr>) -> Result<(), Errno> {
        let fd = self.fd.open().ok_or(Errno::NOTCONN)?;
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let mut failed = Errno::AGAIN;
        for _ in 0..REFUSALS {
            let sent = match to {
                Some(to) => sys::send_to(fd, data, flags, &to),
                None => rustix::net::send(fd, data, flags),
            };
            match sent {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                // Longer than the path carries. The kernel has queued it as an error, like a refusal.
                Err(Errno::MSGSIZE) if self.keeps_refusals => {
                    self.refused_by();
                    return Err(Errno::MSGSIZE);
                }
                // The error may concern an earlier datagram to another address; this one has not been sent.
                Err(errno) if errno != Errno::AGAIN && self.keeps_refusals => {
                    let Some(peer) = self.refused_by() else { return Err(errno) };
                    self.note_refusal(peer, errno);
                    failed = errno;
                }
                Err(errno) => return Err(errno),
            }
        }
        Err(failed)
    }

    fn note_refusal(&self, peer: SocketAddr, errno: Errno) {
        let mut refused = self.refused.borrow_mut();
        if refused.len() == REFUSALS {
            refused.pop_front();
        }
        refused.push_back((peer, errno));
        drop(refused);
        self.wake(For::Input);
        if let (true, Some(key)) = (self.reader.is_set(), self.key.get()) {
            self.engine.requeue(key);
        }
    }

    /// Returns the destination of the datagram that the last error concerns.
    fn refused_by(&self) -> Option<SocketAddr> {
        let mut data = [0u8; 1];
        let mut none = RecvAncillaryBuffer::default();
        let flags = RecvFlags::ERRQUEUE | RecvFlags::DONTWAIT;
        let told = rustix::net::recvmsg(self.fd.open()?, &mut [io::IoSliceMut::new(&mut data)], &mut none, flags);
        told.ok()?.address.and_then(inet)
    }

    pub(super) fn fix_peer(&self, to: SocketAddr) -> Result<(), Errno> {
        let fd = self.fd.open().ok_or(Errno::NOTCONN)?;
        let to = clothed(to, self.is_v6).map_err(|_| Errno::AFNOSUPPORT)?;
        sys::connect(fd, &to)?;
        self.peer.set(sys::peer_address(fd)?.and_then(inet));
        Ok(())
    }

    // ---- waiting ----

    /// Watches for room in the send buffer, only while a future waits for it.
    fn arm_write(&self, armed: bool) {
        if let Some(key) = self.key.get()
            && self.write_armed.replace(armed) != armed
        {
            self.engine.set_interest(key, true, armed);
        }
    }

    /// Returns the deadline of a blocking call that starts now.
    pub(super) fn deadline(&self) -> Deadline {
        let limit = self.timeout.get();
        Deadline { end: limit.and_then(|limit| Instant::now().checked_add(limit)), limit }
    }

    /// Waits until the deadline. Fails with `NotReady` if the call may not block.
    pub(super) fn wait(&self, what: For, deadline: &Deadline) -> Result {
        if deadline.limit == Some(Duration::ZERO) || (what == For::Room && self.engine.in_turn()) {
            return Err(Error::NotReady { peer: self.name() });
        }
        Engine::flush_here();
        let operation = if what == For::Input { Operation::Wait } else { Operation::Send };
        let left = deadline.end.map(|end| end.saturating_duration_since(Instant::now()));
        let flags = if what == For::Input { PollFlags::IN } else { PollFlags::OUT };
        let waited = wait_for(vec![PollFd::from_borrowed_fd(self.open()?, flags)], left);
        match (waited, deadline.limit) {
            (Ok(false), Some(limit)) => Err(Error::TimedOut { operation, address: self.name(), limit }),
            (Ok(_), _) => Ok(()),
            (Err(source), _) => Err(Error::Io { operation, address: self.name(), source }),
        }
    }

    /// Returns whether a receiving call would return at once. Datagrams of strangers do not count.
    pub(super) fn is_readable(&self) -> bool {
        let Some(fd) = self.fd.open() else { return true };
        if !self.refused.borrow().is_empty() {
            return true;
        }
        loop {
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
            if poll_for(&mut fds, Some(Duration::ZERO)).is_ok() && fds[0].revents().is_empty() {
                return false;
            }
            if self.peer.get().is_none() || fds[0].revents().intersects(PollFlags::ERR) {
                return true;
            }
            match rustix::net::recvfrom(fd, &mut [0u8; 1], RecvFlags::DONTWAIT | RecvFlags::PEEK) {
                Ok((_, _, from)) if from.clone().and_then(inet).is_some_and(|from| self.is_stranger(from)) => {
                    let _ = rustix::net::recvfrom(fd, &mut [0u8; 1], RecvFlags::DONTWAIT);
                }
                Err(Errno::AGAIN) => return false,
                _ => return true,
            }
        }
    }
}

fn log_quota(core: Weak<Core>, per_second: u32) -> Rc<LogQuota> {
    LogQuota::new(per_second, move |missed| {
        if let Some(core) = core.upgrade() {
            let (name, errors) = (core.name(), count(missed, "more error"));
            log::message("receive").peer(&name).say(format_args!("{name}: {errors}"));
        }
    })
}

pub(super) struct Deadline {
    /// `None` for one that never comes.
    end: Option<Instant>,
    limit: Option<Duration>,
}

/// Refuses datagrams larger than the maximum.
pub(super) fn check_size(size: usize, peer: impl ToString) -> Result {
    if size > MAX_DATAGRAM_SIZE {
        return Err(Error::DatagramTooLarge { peer: peer.to_string(), size, limit: MAX_DATAGRAM_SIZE });
    }
    Ok(())
}

fn inet(address: impl Into<rustix::net::SocketAddrAny>) -> Option<SocketAddr> {
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
        if self.refused.borrow().is_empty() { Next::Idle } else { self.occupied(|socket| self.tell_refusals(socket)) }
    }

    fn datagrams(&self) -> Option<BorrowedFd<'_>> {
        if self.reader.is_set() && !self.busy.get() { self.fd.open() } else { None }
    }

    fn datagram(self: Rc<Self>, received: Datagram, buffer: &mut Option<Rc<Vec<u8>>>) -> Served {
        match (self.outcome(received), buffer) {
            (Some(Ok((size, from))), Some(buffer)) => {
                self.occupied(|socket| self.deliver(socket, &buffer[..size.min(buffer.len())], from));
            }
            (Some(Err((_, Errno::AGAIN))), _) => return Served::Done(Next::Idle),
            (Some(Err((peer, errno))), _) => {
                self.occupied(|socket| self.tell_error(socket, self.failed(Operation::Receive, peer, errno)));
            }
            (None | Some(Ok(_)), _) => {}
        }
        if self.engine.spent() { Served::Done(Next::Hot) } else { Served::More }
    }

    fn context_ended(self: Rc<Self>) {
        self.close();
    }
}
