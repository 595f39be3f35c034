//! Runs a program on real connections, and tells the model all that is seen.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use glib::{JoinHandle, Priority};
use network::{Socket, socket::WeakSocket};

use crate::ground::{Ground, Made};
use crate::model::{Event, Face, Model, Rule, SIDES, Side};
use crate::program::{Act, Answer, Ending, Kind, Program, Step, Where};
use crate::raw::Raw;

/// Callbacks within callbacks, by turns of the loop from within.
const DEEPEST: u32 = 3;

/// What a callback panics with.
pub const SCRIPTED: &str = "as the program wants it";

/// What is kept of one end.
#[derive(Default)]
pub struct End {
    pub socket: RefCell<Option<Socket>>,
    pub weak: RefCell<Option<WeakSocket>>,
    pub raw: RefCell<Option<Raw>>,
    answers: RefCell<VecDeque<Answer>>,
    /// Which of the callbacks that were set is in place; 0 is none.
    pub reader: Cell<u32>,
    pub disconnect: Cell<u32>,
    pub end: Cell<u32>,
    pub drain: Cell<u32>,
    /// The peer's end is not the end.
    pub half_open: Cell<bool>,
    /// Callbacks of this side that are on the stack.
    called: Cell<u32>,
    /// Below it something was broken: what it sees is its own affair.
    pub broken: Cell<bool>,
    /// Tasks that read to the end.
    pub reading: Cell<u32>,
    tasks: RefCell<Vec<JoinHandle<()>>>,
    pub waiting: Cell<u32>,
}

pub struct World {
    pub model: RefCell<Model>,
    ends: [End; 2],
    within_call: Cell<bool>,
    depth: Cell<u32>,
    serial: Cell<u32>,
    pub ending: Cell<bool>,
    no_linger: bool,
    /// What one call can queue at once.
    pub send_limit: usize,
    pub kind: Kind,
    patience: Duration,
}

/// Runs it, and returns what the model says. Whatever is to come has to come within this time.
pub fn run(ground: &Ground, program: &Program, patience: Duration) -> Model {
    let before = descriptors();
    let world = Rc::new(World::new(ground, program, patience));
    for step in &program.steps {
        world.step(*step);
    }
    world.settle(program.ending);
    world.leave(ground, &before)
}

/// The descriptors that this process has. No other thread of it makes any.
fn descriptors() -> Vec<PathBuf> {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    // The one that reads the directory is closed by then.
    let mut all: Vec<_> = all.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok()).collect();
    all.sort();
    all
}

/// Counts a task as long as it lives.
struct Waits(Rc<World>, Side, bool);

impl Drop for Waits {
    fn drop(&mut self) {
        let end = self.0.end(self.1);
        end.waiting.set(end.waiting.get() - 1);
        if self.2 {
            end.reading.set(end.reading.get() - 1);
        }
    }
}

impl World {
    fn new(ground: &Ground, program: &Program, patience: Duration) -> World {
        let world = World {
            model: RefCell::new(Model::new(program.terms())),
            ends: Default::default(),
            within_call: Cell::new(false),
            depth: Cell::new(0),
            serial: Cell::new(0),
            ending: Cell::new(false),
            no_linger: program.settings.no_linger,
            send_limit: if program.settings.small_queue { crate::ground::SMALL_LIMIT } else { usize::MAX },
            kind: program.kind,
            patience,
        };
        let (a, b) = ground.join(program);
        for (side, made) in SIDES.into_iter().zip([a, b]) {
            let end = world.end(side);
            end.answers.replace(program.answers[side as usize].iter().copied().collect());
            match made {
                Made::Socket(socket) => {
                    end.weak.replace(Some(socket.downgrade()));
                    end.socket.replace(Some(socket));
                }
                Made::Raw(raw) => {
                    end.raw.replace(Some(raw));
                }
            }
        }
        world
    }

    pub fn end(&self, side: Side) -> &End {
        &self.ends[side as usize]
    }

    pub fn see(&self, side: Side, event: &Event<'_>) {
        self.model.borrow_mut().see(side, event);
    }

    /// A number that no callback has had.
    pub fn next_serial(&self) -> u32 {
        self.serial.set(self.serial.get() + 1);
        self.serial.get()
    }

    // ---- steps ----

    fn step(self: &Rc<Self>, step: Step) {
        match step {
            Step::Turns(count) => self.turns(count),
            Step::Do(side, act, place) => {
                // Without a loop the last drop waits for the peer, who is on this same thread.
                let may_wait = matches!(act, Act::Drop | Act::DropTasks) && !self.no_linger;
                if place == Where::InLoop || may_wait {
                    self.in_loop(move |world| world.act(side, act));
                } else {
                    self.act(side, act);
                }
            }
        }
    }

    /// Does something in a callback of the loop.
    pub fn in_loop(self: &Rc<Self>, what: impl FnOnce(&Rc<World>) + 'static) {
        let done = Rc::new(Cell::new(false));
        let (world, flag) = (self.clone(), done.clone());
        let context = glib::MainContext::ref_thread_default();
        let task = context.spawn_local_with_priority(Priority::HIGH, async move {
            what(&world);
            flag.set(true);
        });
        while !done.get() {
            self.turns(1);
        }
        drop(task);
    }

    /// Turns of the loop, from wherever. Panics of callbacks come out of them.
    pub fn turns(&self, count: usize) {
        let outer = self.within_call.replace(false);
        for _ in 0..count {
            if !self.turn(false) {
                break;
            }
        }
        self.within_call.set(outer);
    }

    fn turn(&self, may_block: bool) -> bool {
        catch_unwind(AssertUnwindSafe(|| network::iteration(may_block))).unwrap_or_else(|panic| {
            if panic.downcast_ref::<&str>() != Some(&SCRIPTED) {
                let text = "a panic of the library's".to_owned();
                self.model.borrow_mut().object(Rule::Panic, Side::A, None, None, text);
            }
            true
        })
    }

    // ---- calls and callbacks ----

    /// Calls a method of the socket, if there is a handle to it. No callback may run meanwhile.
    pub fn call<R>(&self, side: Side, method: impl FnOnce(&Socket) -> R) -> Option<R> {
        let end = self.end(side);
        let own = end.socket.borrow().clone();
        // In its own callbacks there is one, whatever was dropped.
        let lent = || end.weak.borrow().as_ref().and_then(WeakSocket::upgrade).filter(|_| end.called.get() > 0);
        let socket = own.or_else(lent)?;
        let outer = self.within_call.replace(true);
        let result = method(&socket);
        drop(socket);
        self.within_call.set(outer);
        Some(result)
    }

    pub fn is_within_call(&self) -> bool {
        self.within_call.get()
    }

    /// Returns what it was.
    pub fn set_within_call(&self, within: bool) -> bool {
        self.within_call.replace(within)
    }

    pub fn is_open(&self, side: Side) -> bool {
        self.call(side, Socket::is_open) == Some(true)
    }

    /// A callback begins. Answers as the program has it.
    pub fn called(self: &Rc<Self>, side: Side, face: Face, is_set: bool, seen: impl FnOnce()) -> network::Result {
        let end = self.end(side);
        let within_call = self.within_call.replace(false);
        end.called.set(end.called.get() + 1);
        self.depth.set(self.depth.get() + 1);
        let _restored = Restored { world: self.clone(), side, within_call };
        self.see(side, &Event::Called { face, within_call, is_set });
        seen();
        self.answer(side)
    }

    fn answer(self: &Rc<Self>, side: Side) -> network::Result {
        if self.depth.get() > DEEPEST {
            return Ok(());
        }
        let answer = self.end(side).answers.borrow_mut().pop_front();
        match answer {
            None | Some(Answer::Nothing) => Ok(()),
            Some(Answer::Do(_, Act::Pause | Act::Unread | Act::EndCb | Act::Stream(_))) if self.ending.get() => Ok(()),
            Some(Answer::Do(other, act)) => {
                self.act(other, act);
                Ok(())
            }
            Some(Answer::Nest(turns)) => {
                self.turns(turns);
                Ok(())
            }
            Some(Answer::Fail) => {
                self.see(side, &Event::Failed);
                Err(network::Error::other(SCRIPTED))
            }
            Some(Answer::Panic) => {
                self.see(side, &Event::Panicked);
                std::panic::resume_unwind(Box::new(SCRIPTED))
            }
        }
    }

    // ---- tasks ----

    /// Has a task awaited on the loop. Does it read to the end?
    pub fn spawn<F: Future<Output = ()> + 'static>(self: &Rc<Self>, side: Side, reads: bool, task: F) {
        let end = self.end(side);
        end.waiting.set(end.waiting.get() + 1);
        if reads {
            end.reading.set(end.reading.get() + 1);
        }
        let waits = Waits(self.clone(), side, reads);
        let task = glib::MainContext::ref_thread_default().spawn_local(async move {
            let _waits = waits;
            task.await;
        });
        end.tasks.borrow_mut().push(task);
    }

    pub fn drop_tasks(&self, side: Side) {
        let tasks = self.end(side).tasks.take();
        for task in &tasks {
            task.abort();
        }
    }

    // ---- the end ----

    /// Brings everything to its end: whoever is open reads to it, and one side, or both, ends it.
    fn settle(self: &Rc<Self>, ending: Ending) {
        self.ending.set(true);
        for side in SIDES {
            let left = self.end(side).weak.borrow().as_ref().and_then(WeakSocket::upgrade);
            if left.is_some() {
                self.end(side).socket.replace(left);
            }
        }
        let ending = self.possible(ending);
        self.in_loop(move |world| {
            for side in SIDES {
                world.prepare(side);
            }
            world.finish(ending);
        });
        if !self.until(|world| world.has_ended()) {
            self.object_to_what_is_open();
        }
        for side in SIDES {
            self.end(side).raw.take();
        }
        self.in_loop(|world| {
            for side in SIDES {
                world.act(side, Act::Unread);
            }
        });
        self.model.borrow_mut().finish();
    }

    /// Two that are closed, and are no sockets below, wait for each other to read.
    fn possible(&self, ending: Ending) -> Ending {
        let wrapped = matches!(self.kind, Kind::Pipes | Kind::Wrapped);
        match ending {
            Ending::Close(side) | Ending::Drop(side) if wrapped && !self.is_open(side.other()) => Ending::Abort(side),
            other => other,
        }
    }

    /// Has it read to its end, and told of that.
    fn prepare(self: &Rc<Self>, side: Side) {
        let waits = matches!(self.kind, Kind::Pipes | Kind::Wrapped) && !self.is_open(side);
        if self.end(side).broken.get() || waits {
            self.act(side, Act::Abort);
        }
        if !self.is_open(side) {
            return;
        }
        self.act(side, Act::Resume);
        if self.end(side).disconnect.get() == 0 {
            self.act(side, Act::DisconnectCb);
        }
        if self.end(side).reader.get() == 0 && self.end(side).reading.get() == 0 {
            self.act(side, Act::Read);
        }
        if self.end(side).half_open.get() {
            self.act(side, Act::ShutdownWrite);
        }
    }

    fn finish(self: &Rc<Self>, ending: Ending) {
        match ending {
            Ending::Shut => {
                for side in SIDES {
                    self.act(side, Act::ShutdownWrite);
                    self.act(side, Act::RawShutdown);
                }
            }
            Ending::Close(side) => {
                self.act(side, Act::Close);
                self.act(side, Act::RawClose);
            }
            Ending::Abort(side) => {
                self.act(side, Act::Abort);
                self.act(side, Act::RawReset);
            }
            Ending::Drop(side) => {
                self.act(side, Act::DropTasks);
                self.act(side, Act::Unread);
                self.act(side, Act::Drop);
                self.act(side, Act::RawClose);
            }
        }
    }

    fn pump(self: &Rc<Self>) {
        for side in SIDES {
            let ended = self.end(side).raw.borrow().as_ref().map(|raw| raw.ended);
            match ended {
                Some(false) => self.act(side, Act::RawRead(1 << 20)),
                Some(true) => self.act(side, Act::RawClose),
                None => {}
            }
        }
    }

    fn has_ended(self: &Rc<Self>) -> bool {
        self.pump();
        SIDES.into_iter().all(|side| {
            let end = self.end(side);
            let told = self.model.borrow().is_disconnected(side)
                || end.disconnect.get() == 0
                || end.broken.get()
                || end.socket.borrow().is_none()
                || self.model.borrow().has_panicked(side);
            let raw = end.raw.borrow().as_ref().is_none_or(|raw| !raw.is_open());
            !self.is_open(side) && told && raw && end.waiting.get() == 0
        })
    }

    fn object_to_what_is_open(&self) {
        for side in SIDES {
            let end = self.end(side);
            if self.is_open(side) {
                self.object(side, Rule::Hang, "it is still open at the end");
            }
            if end.waiting.get() > 0 {
                self.object(side, Rule::Hang, &format!("{} tasks still wait at the end", end.waiting.get()));
            }
            if end.raw.borrow().as_ref().is_some_and(Raw::is_open) {
                self.object(side, Rule::Hang, "the test's own descriptor saw no end");
            }
        }
    }

    fn object(&self, side: Side, rule: Rule, text: &str) {
        self.model.borrow_mut().object(rule, side, None, None, text.to_owned());
    }

    /// Lets everything go, and looks at what is left.
    fn leave(self: Rc<Self>, ground: &Ground, before: &[PathBuf]) -> Model {
        // What is closed and still open below goes on by itself. A closed socket lends something else instead.
        let of_connections = |all: &[PathBuf]| all.iter().filter(|fd| !fd.ends_with("null")).count();
        let wanted = of_connections(before);
        if !self.until(|_| of_connections(&descriptors()) == wanted) {
            self.object(Side::A, Rule::Leak, &format!("descriptors are kept: {:?}", descriptors()));
            self.in_loop(|world| SIDES.into_iter().for_each(|side| world.act(side, Act::Abort)));
        }
        self.in_loop(|world| {
            for side in SIDES {
                world.end(side).socket.take();
            }
        });
        if !self.until(|world| Rc::strong_count(world) == 1 && descriptors() == before) {
            let left = Rc::strong_count(&self) - 1;
            self.object(Side::A, Rule::Leak, &format!("{left} callbacks or tasks are kept, or descriptors"));
        }
        for side in SIDES {
            if self.end(side).weak.borrow().as_ref().is_some_and(|weak| weak.upgrade().is_some()) {
                self.object(side, Rule::Leak, "a handle to the connection is kept");
            }
        }
        let sleep = ground.sleep();
        if sleep != ground.at_rest {
            self.object(Side::A, Rule::Leak, &format!("the loop waits for more than before: {sleep:?}"));
        }
        self.model.take()
    }

    /// Runs the loop until something is the case. False if it never is.
    fn until(self: &Rc<Self>, what: impl Fn(&Rc<World>) -> bool) -> bool {
        let mut started = None;
        let mut idle = 0;
        for turns in 1_u64.. {
            let busy = self.turn(false);
            if !busy && what(self) {
                return true;
            }
            idle = if busy { 0 } else { idle + 1 };
            if (idle > 5 || turns % 256 == 0) && started.get_or_insert_with(Instant::now).elapsed() > self.patience {
                break;
            }
            if idle > 5 {
                self.turn_within(Duration::from_millis(1));
            }
        }
        what(self)
    }

    /// A turn that waits for something to do, but not for long: the kernel may have its own time.
    fn turn_within(&self, limit: Duration) {
        let timer = glib::source::timeout_source_new(limit, None, Priority::DEFAULT, || glib::ControlFlow::Break);
        timer.attach(Some(&glib::MainContext::ref_thread_default()));
        self.turn(true);
        timer.destroy();
    }
}

/// What a callback had found, for when it ends, by whatever way.
struct Restored {
    world: Rc<World>,
    side: Side,
    within_call: bool,
}

impl Drop for Restored {
    fn drop(&mut self) {
        let end = self.world.end(self.side);
        end.called.set(end.called.get() - 1);
        self.world.depth.set(self.world.depth.get() - 1);
        self.world.within_call.set(self.within_call);
    }
}
