//! Standing in: a process that another one waits for, such as a supervisor or a shell, stays after it has handed over. It
//! forwards signals to its successor and exits with it.
//!
//! The first process keeps the reading end of a pipe. Its successor has the writing end and passes it on to its own
//! successor. Each writes its process ID into the pipe before it serves, so only one process stays, however often it is
//! handed over. When the last of them has exited, the pipe has no writer.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;
use std::rc::Rc;

use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions};

use super::systemd;
use crate::engine::{Engine, Handler, Key, Next, Ready, Registration};
use crate::error::os_text;
use crate::log;
use crate::sys::{self, KEEPER, inherited, without_sigpipe};

thread_local! {
    static STARTING: Cell<Option<Pid>> = const { Cell::new(None) };
    static STANDING_IN: RefCell<Option<Rc<StandIn>>> = const { RefCell::new(None) };
}

/// The plan for a process whose successor serves.
pub(super) enum Afterwards {
    /// Exit. The service manager learns the new process ID, or no process waits.
    End,
    /// Exit. Another process stands in already.
    PassOn,
    /// Stand in.
    Stay(OwnedFd),
}

impl Afterwards {
    /// Returns the plan, and the writing end of the pipe for the successor.
    pub(super) fn choose() -> io::Result<(Afterwards, Option<OwnedFd>)> {
        if let Some(keeper) = inherited().iter().find(|one| one.name == KEEPER) {
            return Ok((Afterwards::PassOn, Some(keeper.fd.try_clone()?)));
        }
        if is_first_process() || !(systemd::is_there() || systemd::is_background()) {
            let (keeper, successor) = sys::pipe(PipeFlags::NONBLOCK)?;
            return Ok((Afterwards::Stay(keeper), Some(successor)));
        }
        Ok((Afterwards::End, None))
    }

    /// Carries out the plan. The successor serves.
    pub(super) fn begin(self, engine: &Rc<Engine>, successor: u32, child: Child) {
        let begun = match self {
            Afterwards::End => {
                systemd::tell(&format!("MAINPID={successor}"));
                Ok(())
            }
            Afterwards::PassOn => Ok(()),
            Afterwards::Stay(keeper) => StandIn::start(engine, keeper, successor, child),
        };
        if let Err(error) = begun {
            let event = log::warning("hand over").error(&error);
            event.say(format_args!("failed to wait for the successor, process {successor}: {}", os_text(&error)));
        }
    }
}

/// Returns whether this is process 1, as in a container. When it exits, the kernel kills all others.
pub(super) fn is_first_process() -> bool {
    std::process::id() == 1
}

/// Returns whether this process has handed over and waits for its successors to exit.
pub(super) fn is_standing_in() -> bool {
    STANDING_IN.with(|place| place.borrow().is_some())
}

/// Forwards a signal to the process that serves.
pub(super) fn forward(signal: Signal) {
    let stand_in = STANDING_IN.with(|place| place.borrow().clone());
    // A newer successor may have reported since the last look at the pipe.
    if let Some(pid) = stand_in.filter(|stand_in| stand_in.listen()).and_then(|stand_in| stand_in.serving.get()) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Reports to the process that stands in, if there is one, that this process is about to serve.
pub(super) fn report() {
    if let Some(keeper) = inherited().iter().find(|one| one.name == KEEPER) {
        // That process may have exited.
        let _ = keeper
            .fd
            .try_clone()
            .and_then(|keeper| without_sigpipe(|| writeln!(File::from(keeper), "{}", std::process::id())));
    }
}

/// Sets the process of a successor that has been started and is not ready yet.
pub(super) fn set_starting(successor: Option<u32>) {
    STARTING.set(successor.and_then(|successor| Pid::from_raw(successor.cast_signed())));
}

/// Ends a successor that is starting. A signal that ends this process is meant for both.
pub(super) fn end_starting() {
    if let Some(pid) = STARTING.get() {
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
}

struct StandIn {
    keeper: OwnedFd,
    key: Cell<Option<Key>>,
    serving: Cell<Option<Pid>>,
    /// The first successor, which this process must reap.
    child: RefCell<Child>,
    text: RefCell<Vec<u8>>,
}

impl StandIn {
    fn start(engine: &Rc<Engine>, keeper: OwnedFd, successor: u32, child: Child) -> io::Result<()> {
        let stand_in = Rc::new(StandIn {
            keeper,
            key: Cell::new(None),
            serving: Cell::new(Pid::from_raw(successor.cast_signed())),
            child: RefCell::new(child),
            text: RefCell::default(),
        });
        let registration =
            Registration { input: stand_in.keeper.as_fd(), input_blocks: false, output: None, write: false };
        stand_in.key.set(Some(engine.register(registration, stand_in.clone())?));
        STANDING_IN.with(|place| place.replace(Some(stand_in)));
        Ok(())
    }

    /// Reads the reports of successors. Returns false if all have exited.
    fn listen(&self) -> bool {
        let mut buffer = [0; 64];
        loop {
            match rustix::io::read(&self.keeper, &mut buffer) {
                Ok(count) if count > 0 => self.note(&buffer[..count]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                _ => return false,
            }
        }
    }

    /// Parses process IDs, one in each line.
    fn note(&self, bytes: &[u8]) {
        let mut text = self.text.borrow_mut();
        text.extend_from_slice(bytes);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let pid = std::str::from_utf8(&line).ok().and_then(|line| line.trim_end().parse().ok());
            if let Some(pid) = pid.and_then(Pid::from_raw) {
                self.serving.set(Some(pid));
            }
        }
    }

    /// Reaps successors that have exited, so that none stays as a zombie.
    fn reap(&self) {
        let _ = self.child.borrow_mut().try_wait();
        // Orphans are process 1's children.
        while is_first_process() && matches!(rustix::process::wait(WaitOptions::NOHANG), Ok(Some(_))) {}
    }
}

impl Handler for StandIn {
    fn ready(self: Rc<Self>, engine: &Rc<Engine>, _ready: Ready) -> Next {
        if self.key.get().is_none() {
            return Next::Idle;
        }
        if !self.listen() {
            if let Some(key) = self.key.take() {
                engine.deregister(key);
            }
            STANDING_IN.with(|place| drop(place.take()));
            log::info("hand over").say(format_args!("the successor has exited"));
        }
        self.reap();
        Next::Idle
    }

    fn context_ended(self: Rc<Self>) {
        self.key.set(None);
        // While the thread ends, the thread-local may be gone.
        let _ = STANDING_IN.try_with(|place| drop(place.take()));
    }
}
