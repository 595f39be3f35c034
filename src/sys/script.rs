//! A kernel for unit tests: descriptors whose system calls are answered from a script, and a clock that stands still until
//! the test moves it. Both belong to the test's thread.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::inotify;
use rustix::io::{Errno, Result};
use rustix::net::RecvFlags;

use super::Backlog;

thread_local! {
    static SCRIPTS: RefCell<HashMap<RawFd, Rc<Script>>> = RefCell::default();
    /// The clock's start, and how far it has been moved since.
    static CLOCK: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
    /// The time that the machine has been suspended for.
    static SUSPENDED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// One answer to a read.
pub(crate) enum Input {
    Bytes(Vec<u8>),
    /// Bytes at which the read stops, because descriptors came along and were turned away. There may be more behind them.
    Cut(Vec<u8>),
    /// Told again and again.
    End,
    Fails(Errno),
}

/// Something that happens while a call waits.
type Event = Box<dyn FnOnce(&Script)>;

/// The other side of one descriptor. Without anything in the script a read finds nothing, and a write takes everything.
pub(crate) struct Script {
    input: RefCell<VecDeque<Input>>,
    /// Bytes that writes still take.
    room: Cell<usize>,
    write_error: Cell<Option<Errno>>,
    written: RefCell<Vec<u8>>,
    reads: Cell<usize>,
    writes: Cell<usize>,
    /// The calls that are no reads or writes, in order.
    calls: RefCell<Vec<&'static str>>,
    meanwhile: RefCell<VecDeque<Event>>,
    pub(crate) unsent: Cell<usize>,
    /// A probe is answered.
    pub(crate) answers: Cell<bool>,
    pub(crate) unacknowledged: Cell<usize>,
    /// Both directions are gone, as a poll tells it.
    pub(crate) is_cut: Cell<bool>,
}

/// A descriptor with a script. Nothing is behind it: calls that do not ask the script fail.
pub(crate) fn scripted(blocks: bool) -> (OwnedFd, Rc<Script>) {
    // It can be watched, and never becomes ready: it has no files to tell of.
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    rustix::io::ioctl_fionbio(&fd, !blocks).unwrap();
    let script = Rc::new(Script {
        input: RefCell::default(),
        room: Cell::new(usize::MAX),
        write_error: Cell::new(None),
        written: RefCell::default(),
        reads: Cell::new(0),
        writes: Cell::new(0),
        calls: RefCell::default(),
        meanwhile: RefCell::default(),
        unsent: Cell::new(0),
        answers: Cell::new(false),
        unacknowledged: Cell::new(0),
        is_cut: Cell::new(false),
    });
    SCRIPTS.with_borrow_mut(|scripts| scripts.insert(fd.as_raw_fd(), script.clone()));
    (fd, script)
}

/// The script of a descriptor, if it has one.
pub(super) fn of(fd: impl AsFd) -> Option<Rc<Script>> {
    SCRIPTS.try_with(|scripts| scripts.borrow().get(&fd.as_fd().as_raw_fd()).cloned()).ok().flatten()
}

/// A scripted descriptor is closed: its number may come to mean another.
pub(super) fn closes(fd: RawFd) {
    let script = SCRIPTS.try_with(|scripts| scripts.borrow_mut().remove(&fd)).ok().flatten();
    if let Some(script) = script {
        script.calls.borrow_mut().push("close");
    }
}

impl Script {
    // ---- written by the test ----

    pub(crate) fn brings(&self, bytes: impl AsRef<[u8]>) -> &Self {
        // A stream has no seams.
        if let Some(Input::Bytes(waiting)) = self.input.borrow_mut().back_mut() {
            waiting.extend(bytes.as_ref());
            return self;
        }
        self.then(Input::Bytes(bytes.as_ref().to_vec()))
    }

    pub(crate) fn ends(&self) -> &Self {
        self.then(Input::End)
    }

    pub(crate) fn fails(&self, error: Errno) -> &Self {
        self.then(Input::Fails(error))
    }

    pub(crate) fn then(&self, input: Input) -> &Self {
        self.input.borrow_mut().push_back(input);
        self
    }

    /// So many more bytes are taken, and no more.
    pub(crate) fn has_room(&self, bytes: usize) -> &Self {
        self.room.set(bytes);
        self
    }

    /// Writes fail with this from now on.
    pub(crate) fn refuses(&self, error: Errno) -> &Self {
        self.write_error.set(Some(error));
        self
    }

    /// Happens during the next wait that nothing else ends.
    pub(crate) fn meanwhile(&self, event: impl FnOnce(&Script) + 'static) -> &Self {
        self.meanwhile.borrow_mut().push_back(Box::new(event));
        self
    }

    // ---- read by the test ----

    /// Takes what was written.
    pub(crate) fn written(&self) -> Vec<u8> {
        self.written.take()
    }

    /// Takes the number of reads, of whatever outcome.
    pub(crate) fn reads(&self) -> usize {
        self.reads.take()
    }

    /// Takes the number of writes that took something.
    pub(crate) fn writes(&self) -> usize {
        self.writes.take()
    }

    /// Takes the other calls.
    pub(crate) fn calls(&self) -> Vec<&'static str> {
        self.calls.take()
    }

    pub(crate) fn is_read_out(&self) -> bool {
        self.input.borrow().is_empty()
    }

    // ---- the calls ----

    pub(super) fn receive(&self, buffer: &mut [u8], flags: RecvFlags) -> Result<(usize, bool)> {
        let waits = !flags.contains(RecvFlags::DONTWAIT);
        self.reads.set(self.reads.get() + 1);
        while waits && self.input.borrow().is_empty() {
            self.happen().expect("a read would wait for ever");
        }
        let mut input = self.input.borrow_mut();
        let is_cut = matches!(input.front(), Some(Input::Cut(_)));
        let (count, is_used) = match input.front_mut() {
            None => return Err(Errno::AGAIN),
            Some(Input::Bytes(bytes) | Input::Cut(bytes)) => {
                let count = bytes.len().min(buffer.len());
                buffer[..count].copy_from_slice(&bytes[..count]);
                if !flags.contains(RecvFlags::PEEK) {
                    bytes.drain(..count);
                }
                (Ok(count), bytes.is_empty())
            }
            Some(Input::End) => (Ok(0), false),
            Some(Input::Fails(error)) => (Err(*error), !flags.contains(RecvFlags::PEEK)),
        };
        if is_used {
            input.pop_front();
        }
        Ok((count?, is_cut))
    }

    pub(super) fn send(&self, pieces: &[IoSlice<'_>]) -> Result<usize> {
        if let Some(error) = self.write_error.get() {
            return Err(error);
        }
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        let count = bytes.len().min(self.room.get());
        if count == 0 && !bytes.is_empty() {
            return Err(Errno::AGAIN);
        }
        if self.room.get() != usize::MAX {
            self.room.set(self.room.get() - count);
        }
        self.written.borrow_mut().extend(&bytes[..count]);
        self.writes.set(self.writes.get() + 1);
        Ok(count)
    }

    pub(super) fn note(&self, call: &'static str) {
        self.calls.borrow_mut().push(call);
    }

    pub(super) fn available(&self) -> u64 {
        match self.input.borrow().front() {
            Some(Input::Bytes(bytes) | Input::Cut(bytes)) => bytes.len() as u64,
            _ => 0,
        }
    }

    pub(super) fn backlog(&self) -> Backlog {
        Backlog { unsent: self.unsent.get(), unacknowledged: self.unacknowledged.get() }
    }

    pub(super) fn readiness(&self, what: PollFlags) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, !self.input.borrow().is_empty());
        flags.set(PollFlags::OUT, self.room.get() > 0 || self.write_error.get().is_some());
        flags.set(PollFlags::ERR, matches!(self.input.borrow().front(), Some(Input::Fails(_))));
        flags.set(PollFlags::HUP, self.is_cut.get());
        flags & (what | PollFlags::ERR | PollFlags::HUP)
    }

    /// Lets the next thing happen.
    fn happen(&self) -> Option<()> {
        let event = self.meanwhile.borrow_mut().pop_front()?;
        event(self);
        Some(())
    }
}

/// Waits until there is something to read, or room, if one of the two has a script: things happen, or else the clock moves to
/// the limit.
pub(super) fn wait(
    input: Option<BorrowedFd<'_>>,
    output: Option<BorrowedFd<'_>>,
    limit: Option<Duration>,
) -> Option<bool> {
    let sides = [(input, PollFlags::IN), (output, PollFlags::OUT)];
    let sides: Vec<_> = sides.into_iter().filter_map(|(fd, what)| Some((of(fd?)?, what))).collect();
    let is_ready = || sides.iter().any(|(script, what)| !script.readiness(*what).is_empty());
    if sides.is_empty() {
        return None;
    }
    while !is_ready() {
        if limit == Some(Duration::ZERO) {
            return Some(false);
        }
        if !sides.iter().any(|(script, _)| script.happen().is_some()) {
            pass(limit.expect("a call would wait for ever"));
            return Some(false);
        }
    }
    Some(true)
}

// ---- the clock ----

/// From now on this thread's clock stands still.
pub(crate) fn stop_clock() {
    CLOCK.set(Some((Instant::now(), Duration::ZERO)));
}

/// Moves the clock.
pub(crate) fn pass(time: Duration) {
    let (start, passed) = CLOCK.get().expect("a clock that was stopped");
    CLOCK.set(Some((start, passed + time)));
}

/// Moves the clock step by step, and runs the loop after each: a longer step would count as one in which it was held up.
pub(crate) fn pass_running(time: Duration, run: impl Fn()) {
    const STEP: Duration = Duration::from_millis(50);
    let mut left = time;
    while !left.is_zero() {
        let step = left.min(STEP);
        pass(step);
        run();
        left -= step;
    }
}

/// The time that has passed since the clock was stopped, if it was.
pub(crate) fn passed() -> Option<Duration> {
    CLOCK.get().map(|(_, passed)| passed)
}

/// The machine is suspended, which that clock does not count.
pub(crate) fn suspend(time: Duration) {
    SUSPENDED.set(SUSPENDED.get() + time);
}

/// The time that the machine has been suspended for, if the clock was stopped.
pub(super) fn suspended() -> Option<Duration> {
    CLOCK.get().map(|_| SUSPENDED.get())
}

/// The time by that clock.
pub(super) fn instant() -> Option<Instant> {
    CLOCK.get().map(|(start, passed)| start + passed)
}
