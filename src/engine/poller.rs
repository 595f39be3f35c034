//! The kernel's readiness queue: epoll. A port to kqueue is one more file with these calls.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use super::Ready;
use crate::sys::{Origin, above_standard};

/// The most events that one look at the kernel's queue brings, and so the most that one dispatch serves before the rest
/// of the program gets its turn.
pub(super) const BATCH: usize = 256;

/// The way a descriptor is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Watch {
    pub(super) read: bool,
    pub(super) write: bool,
    /// For descriptors that block, and so cannot be drained: each readiness is told once and re-armed by hand. Edges
    /// would be lost (a terminal gives one line a read and no further edge), levels would spin.
    pub(super) one_shot: bool,
}

impl Watch {
    fn flags(self) -> EventFlags {
        let mut flags = if self.one_shot { EventFlags::ONESHOT } else { EventFlags::ET };
        if self.read {
            flags |= EventFlags::IN | EventFlags::RDHUP | EventFlags::PRI;
        }
        if self.write {
            flags |= EventFlags::OUT;
        }
        flags
    }
}

pub(super) struct Poller {
    epoll: OwnedFd,
    /// Where the queue was made. A forked copy shares it with that process, and must change nothing in it.
    origin: Origin,
    events: Vec<epoll::Event>,
    /// They have been fetched and not been looked at yet.
    fetched: bool,
    /// GLib's wake-up, while it is watched here.
    wakeup: Option<RawFd>,
}

/// Stands for GLib's wake-up among the events. No key has this value.
const WAKEUP: u64 = u64::MAX;

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = above_standard(epoll::create(CreateFlags::CLOEXEC)?)?;
        Ok(Poller { epoll, origin: Origin::here(), events: Vec::with_capacity(BATCH), fetched: false, wakeup: None })
    }

    /// The descriptor that becomes readable when there are events.
    pub(super) fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Returns whether this is a forked copy of the process that made the queue.
    pub(super) fn is_shared(&self) -> bool {
        !self.origin.is_here()
    }

    pub(super) fn add(&self, fd: BorrowedFd<'_>, data: u64, watch: Watch) -> io::Result<()> {
        if self.is_shared() {
            return Ok(());
        }
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(data), watch.flags())?)
    }

    pub(super) fn modify(&self, fd: BorrowedFd<'_>, data: u64, watch: Watch) -> io::Result<()> {
        if self.is_shared() {
            return Ok(());
        }
        Ok(epoll::modify(&self.epoll, fd, EventData::new_u64(data), watch.flags())?)
    }

    pub(super) fn delete(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        if self.is_shared() {
            return Ok(());
        }
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Takes the events that are there, without waiting, and returns how many there were.
    #[inline]
    pub(super) fn poll(&mut self, mut each: impl FnMut(u64, Ready)) -> usize {
        if !std::mem::take(&mut self.fetched) && self.wait(0).is_err() {
            return 0;
        }
        for event in &self.events {
            each({ event.data }.u64(), ready(event.flags));
        }
        self.events.len()
    }

    /// Fetches the events there are, or waits for some. The only possible failure is an interruption by a signal;
    /// then the events are still there.
    #[inline(always)]
    fn wait(&mut self, timeout: i32) -> io::Result<()> {
        let timeout = u64::try_from(timeout)
            .ok()
            .map(|timeout| Timespec { tv_sec: (timeout / 1000) as i64, tv_nsec: (timeout % 1000 * 1_000_000) as _ });
        self.events.clear();
        epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), timeout.as_ref())?;
        Ok(())
    }

    /// Waits so many milliseconds, or without end if that is negative, for events, which are kept for the next
    /// [`Poller::poll`], or for this descriptor to become readable, which is what it tells.
    #[inline(always)]
    pub(super) fn fetch(&mut self, wakeup: RawFd, timeout: i32) -> io::Result<bool> {
        if self.wakeup != Some(wakeup) {
            self.forget_wakeup();
            epoll::add(&self.epoll, super::borrow(wakeup), EventData::new_u64(WAKEUP), EventFlags::IN)?;
            self.wakeup = Some(wakeup);
        }
        self.wait(timeout)?;
        let count = self.events.len();
        self.events.retain(|event| { event.data }.u64() != WAKEUP);
        self.fetched = !self.events.is_empty();
        Ok(self.events.len() < count)
    }

    pub(super) fn has_fetched(&self) -> bool {
        self.fetched
    }

    /// No longer watches the wake-up.
    pub(super) fn forget_wakeup(&mut self) {
        let shared = self.is_shared();
        if let Some(fd) = self.wakeup.take().filter(|_| !shared) {
            let _ = epoll::delete(&self.epoll, super::borrow(fd));
        }
    }

    /// Makes a descriptor number refer to this queue, which nothing can be sent to, in this process only.
    pub(super) fn cover(&self, fd: RawFd) {
        // SAFETY: the caller's descriptor, which stays open, if on something else.
        let mut number = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(fd) });
        let _ = rustix::io::dup3(self.epoll.as_fd(), &mut number, rustix::io::DupFlags::CLOEXEC);
    }

    /// After a fork: a queue of this process's own, at the same descriptor number, with nothing in it. The old one is
    /// shared with the parent and must not be touched.
    pub(super) fn replace(&mut self) -> io::Result<()> {
        let fresh = epoll::create(CreateFlags::CLOEXEC)?;
        self.wakeup = None;
        rustix::io::dup3(fresh.as_fd(), &mut self.epoll, rustix::io::DupFlags::CLOEXEC)?;
        self.origin = Origin::here();
        Ok(())
    }
}

#[inline]
fn ready(flags: EventFlags) -> Ready {
    if flags == EventFlags::IN {
        return Ready::READ;
    }
    let mut ready = Ready::NONE;
    if flags.contains(EventFlags::IN) {
        ready |= Ready::READ;
    }
    if flags.contains(EventFlags::OUT) {
        ready |= Ready::WRITE;
    }
    // A read stops short at urgent data too, with more behind it.
    if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::PRI) {
        ready |= Ready::HANGUP;
    }
    if flags.contains(EventFlags::ERR) {
        ready |= Ready::ERROR;
    }
    ready
}
