//! A random program: how two ends are joined, what each does in which order, and what their callbacks do.

use std::fmt;

use crate::model::{Side, Terms};
use crate::random::Random;

/// How the two ends are joined.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Kind {
    #[default]
    Tcp,
    Tls,
    Unix,
    /// `Socket::wrap` over two pipes.
    Pipes,
    /// `Socket::wrap` over two stream sockets, one for each direction.
    Wrapped,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Program {
    pub seed: u64,
    pub kind: Kind,
    /// `B` is a descriptor that the test itself reads and writes.
    pub raw_b: bool,
    pub settings: Settings,
    pub steps: Vec<Step>,
    /// What the callbacks of each side do, one after another.
    pub answers: [Vec<Answer>; 2],
    pub ending: Ending,
}

#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct Settings {
    /// Of the kernel, for one direction.
    pub small_buffers: bool,
    pub no_linger: bool,
    pub short_lines: bool,
    pub read_size: Option<usize>,
    /// The queue counts as full from a few bytes on, and takes few.
    pub small_queue: bool,
    /// TLS starts on a connection that was open, by `start_tls`.
    pub starts_later: bool,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Step {
    /// In a callback of the loop, or between its turns.
    Do(Side, Act, Where),
    /// Turns of the loop.
    Turns(usize),
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Where {
    InLoop,
    Outside,
}

/// What a callback does when it is called.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Answer {
    Nothing,
    /// Something to its own side or the other.
    Do(Side, Act),
    /// Turns of the loop, from within.
    Nest(usize),
    /// Returns an error.
    Fail,
    Panic,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Act {
    Send(usize),
    Sendline,
    /// The same line, as a frame that ends with a newline.
    Sendframe,
    SendSome(usize),
    StdWrite(usize),
    Flush,
    FlushAsync,
    SendFuture(usize),
    FlushFuture,
    AsyncWrite(usize),
    AsyncClose,
    ShutdownWrite,

    Read,
    Readlines,
    ReadlinesBytes,
    Readframes,
    /// Its callback receives so many bytes.
    Rawread(usize),
    Unread,
    Pause,
    Resume,

    Recv(usize),
    RecvInto(usize),
    RecvLine,
    RecvFrame,
    RecvExact(usize),
    RecvUntil,
    RecvToEnd,
    StdRead(usize),
    /// Looks at what there is, and consumes so many bytes.
    BufRead(usize),

    RecvFuture(usize),
    RecvExactFuture(usize),
    RecvLineFuture,
    RecvFrameFuture,
    /// So many of them.
    Lines(usize),
    Frames(usize),
    Chunks(usize),
    AsyncRead(usize),
    /// A stream, from which so many bytes are read; the rest goes back.
    Stream(usize),
    DropTasks,

    DisconnectCb,
    UnsetDisconnectCb,
    EndCb,
    DrainCb,
    UnsetDrainCb,

    Close,
    Abort,
    Drop,

    /// The following are for ends that are no sockets of ours.
    RawWrite(usize),
    RawRead(usize),
    RawShutdown,
    RawClose,
    RawReset,
    /// Below TLS, of `B`.
    Cut,
    Break,
}

/// How everything comes to its end.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Ending {
    /// Both end their sending halves.
    Shut,
    Close(Side),
    Abort(Side),
    Drop(Side),
}

impl Program {
    pub fn terms(&self) -> Terms {
        Terms {
            kind: self.kind,
            no_linger: self.settings.no_linger,
            short_lines: self.settings.short_lines,
            raw_b: self.raw_b,
        }
    }

    pub fn generate(seed: u64) -> Program {
        Generator { random: Random::new(seed ^ 0x6E65_7477_6F72_6B21) }.program(seed)
    }
}

/// More lines or chunks than there ever are.
pub const TO_THE_END: usize = 1_000_000;

struct Generator {
    random: Random,
}

impl Generator {
    fn program(&mut self, seed: u64) -> Program {
        let kind = self.random.pick(&[
            Kind::Tcp,
            Kind::Tcp,
            Kind::Tcp,
            Kind::Tls,
            Kind::Unix,
            Kind::Unix,
            Kind::Pipes,
            Kind::Wrapped,
        ]);
        let raw_b = kind != Kind::Tls && self.random.percent(40);
        let settings = Settings {
            small_buffers: self.random.percent(40),
            no_linger: self.random.percent(10),
            short_lines: self.random.percent(5),
            read_size: self.random.percent(20).then(|| self.random.pick(&[7, 100, 4096])),
            small_queue: self.random.percent(15),
            starts_later: kind == Kind::Tls && self.random.percent(50),
        };
        let mut steps = Vec::new();
        for side in crate::model::SIDES {
            if !(raw_b && side == Side::B) && self.random.percent(70) {
                steps.push(Step::Do(side, self.reader(), Where::Outside));
            }
            if !(raw_b && side == Side::B) && self.random.percent(70) {
                steps.push(Step::Do(side, Act::DisconnectCb, Where::Outside));
            }
        }
        for _ in 0..self.random.below(12) {
            steps.push(self.step(kind, raw_b));
        }
        if self.random.percent(40) {
            steps.extend(self.story(raw_b));
        }
        for _ in 0..2 + self.random.below(6) {
            steps.push(self.step(kind, raw_b));
        }
        let answers = [self.answers(kind, raw_b, Side::A), self.answers(kind, raw_b, Side::B)];
        let ending = match self.random.below(10) {
            0..=5 => Ending::Shut,
            6 | 7 => Ending::Close(self.side()),
            8 => Ending::Abort(self.side()),
            _ => Ending::Drop(self.side()),
        };
        Program { seed, kind, raw_b, settings, steps, answers, ending }
    }

    /// Steps that chance alone would seldom put together.
    fn story(&mut self, raw_b: bool) -> Vec<Step> {
        let big = 50_000 + self.random.below(900_000);
        let small = 1 + self.random.below(1000);
        let turns = Step::Turns(self.random.below(3));
        let place = self.random.pick(&[Where::InLoop, Where::Outside]);
        let from_a = |act| Step::Do(Side::A, act, place);
        let from_b = |raw, ours| Step::Do(Side::B, if raw_b { raw } else { ours }, place);
        let leave = self.random.pick(&[
            (Act::RawClose, Act::Close),
            (Act::RawReset, Act::Abort),
            (Act::RawClose, Act::Abort),
            (Act::RawShutdown, Act::ShutdownWrite),
        ]);
        let reading = self.asking();
        match self.random.below(4) {
            // The peer goes in the middle of what is sent to it, as when its process crashes.
            0 => vec![
                from_a(Act::Send(big)),
                turns,
                from_b(Act::RawRead(small), Act::Recv(small)),
                from_b(Act::RawWrite(small), Act::Send(small)),
                from_b(leave.0, leave.1),
                turns,
                from_a(reading),
            ],
            // It speaks while we close.
            1 => vec![
                from_a(Act::Send(big)),
                from_a(self.random.pick(&[Act::Close, Act::ShutdownWrite, Act::Drop])),
                turns,
                from_b(Act::RawWrite(big), Act::Send(big)),
                turns,
                from_b(Act::RawRead(big), Act::Recv(small)),
                from_b(leave.0, leave.1),
            ],
            // Its end lies behind what nobody reads yet.
            2 => vec![
                from_a(Act::Pause),
                from_b(Act::RawWrite(big), Act::Send(big)),
                from_b(leave.0, leave.1),
                turns,
                from_a(reading),
                from_a(Act::Resume),
                turns,
            ],
            // Others take what is there, between two of its words.
            _ => vec![
                from_b(Act::RawWrite(small), Act::Send(small)),
                turns,
                from_a(self.reader()),
                from_b(Act::RawWrite(small), Act::Send(small)),
                from_a(self.random.pick(&[Act::Unread, Act::Pause])),
                from_a(self.awaiting()),
                turns,
                from_b(leave.0, leave.1),
                from_a(reading),
            ],
        }
    }

    fn side(&mut self) -> Side {
        self.random.pick(&crate::model::SIDES)
    }

    fn step(&mut self, kind: Kind, raw_b: bool) -> Step {
        if self.random.percent(35) {
            return Step::Turns(1 + self.random.below(4));
        }
        let side = self.side();
        let place = if self.random.percent(50) { Where::InLoop } else { Where::Outside };
        Step::Do(side, self.act(kind, raw_b, side), place)
    }

    fn answers(&mut self, kind: Kind, raw_b: bool, own: Side) -> Vec<Answer> {
        let count = if self.random.percent(50) { 0 } else { self.random.below(5) };
        (0..count).map(|_| self.answer(kind, raw_b, own)).collect()
    }

    fn answer(&mut self, kind: Kind, raw_b: bool, own: Side) -> Answer {
        match self.random.below(20) {
            0..=6 => Answer::Nothing,
            7 | 8 => Answer::Nest(1 + self.random.below(3)),
            9 => Answer::Fail,
            10 if self.random.percent(50) => Answer::Panic,
            11 | 12 => Answer::Do(own.other(), self.act(kind, raw_b, own.other())),
            _ => Answer::Do(own, self.act(kind, raw_b, own)),
        }
    }

    fn amount(&mut self) -> usize {
        match self.random.below(20) {
            0..=9 => 1 + self.random.below(100),
            10..=15 => 100 + self.random.below(5000),
            16 | 17 => 5000 + self.random.below(100_000),
            _ => 100_000 + self.random.below(500_000),
        }
    }

    fn few(&mut self) -> usize {
        self.random.pick(&[1, 3, 10, 100, 1000, 70_000])
    }

    fn act(&mut self, kind: Kind, raw_b: bool, side: Side) -> Act {
        if raw_b && side == Side::B {
            return self.raw_act(kind);
        }
        match self.random.below(100) {
            0..=29 => self.sending(),
            30..=44 => self.reader(),
            45..=54 => self.asking(),
            55..=64 => self.awaiting(),
            65..=69 => Act::Pause,
            70..=75 => Act::Resume,
            76..=78 => Act::Unread,
            79..=81 => Act::DisconnectCb,
            82 => Act::UnsetDisconnectCb,
            83..=86 => Act::EndCb,
            87 => self.random.pick(&[Act::DrainCb, Act::DrainCb, Act::UnsetDrainCb]),
            88..=90 => Act::ShutdownWrite,
            91..=93 => Act::Close,
            94 => Act::Abort,
            95 | 96 => Act::Drop,
            97 => Act::DropTasks,
            _ if side == Side::B && kind == Kind::Tls => self.random.pick(&[Act::Cut, Act::Break]),
            _ if side == Side::B && kind == Kind::Tcp => Act::Break,
            _ => Act::DropTasks,
        }
    }

    fn raw_act(&mut self, kind: Kind) -> Act {
        match self.random.below(100) {
            0..=44 => Act::RawWrite(self.amount()),
            45..=74 => Act::RawRead(self.amount()),
            75..=81 => Act::RawShutdown,
            82..=91 => Act::RawClose,
            _ if kind == Kind::Tcp => Act::RawReset,
            _ => Act::RawClose,
        }
    }

    fn sending(&mut self) -> Act {
        let amount = self.amount();
        match self.random.below(20) {
            0..=7 => Act::Send(amount),
            8 | 9 => Act::Sendline,
            10 => Act::Sendframe,
            11 => Act::SendSome(amount),
            12 => Act::StdWrite(amount),
            13 => Act::Flush,
            14 => Act::FlushAsync,
            15 | 16 => Act::SendFuture(amount),
            17 => Act::FlushFuture,
            18 => Act::AsyncWrite(amount),
            _ => self.random.pick(&[Act::AsyncWrite(amount), Act::AsyncWrite(amount), Act::AsyncClose]),
        }
    }

    fn reader(&mut self) -> Act {
        let few = self.few();
        self.random.pick(&[
            Act::Read,
            Act::Read,
            Act::Readlines,
            Act::ReadlinesBytes,
            Act::Readframes,
            Act::Rawread(few),
        ])
    }

    fn asking(&mut self) -> Act {
        let few = self.few();
        self.random.pick(&[
            Act::Recv(few),
            Act::Recv(few),
            Act::RecvInto(few),
            Act::RecvLine,
            Act::RecvFrame,
            Act::RecvExact(few),
            Act::RecvUntil,
            Act::RecvToEnd,
            Act::StdRead(few),
            Act::BufRead(few),
        ])
    }

    fn awaiting(&mut self) -> Act {
        let (few, count) = (self.few(), self.random.pick(&[1, 3, TO_THE_END]));
        self.random.pick(&[
            Act::RecvFuture(few),
            Act::RecvFuture(few),
            Act::RecvExactFuture(few),
            Act::RecvLineFuture,
            Act::RecvFrameFuture,
            Act::Lines(count),
            Act::Frames(count),
            Act::Chunks(count),
            Act::AsyncRead(few),
            Act::Stream(few),
        ])
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = if self.raw_b { ", B is a descriptor of the test" } else { "" };
        writeln!(f, "join A and B by {:?}{peer}", self.kind)?;
        let Settings { small_buffers, no_linger, short_lines, read_size, small_queue, starts_later } = self.settings;
        let set = [
            small_buffers.then(|| "small kernel buffers".to_owned()),
            no_linger.then(|| "linger 0".to_owned()),
            short_lines.then(|| "line limit 200".to_owned()),
            read_size.map(|size| format!("read size {size}")),
            small_queue.then(|| "send limit 50000, marks 2000 and 500".to_owned()),
            starts_later.then(|| "TLS by start_tls".to_owned()),
        ];
        let set: Vec<_> = set.into_iter().flatten().collect();
        if !set.is_empty() {
            writeln!(f, "with {}", set.join(", "))?;
        }
        for (side, answers) in crate::model::SIDES.iter().zip(&self.answers) {
            for (n, answer) in answers.iter().enumerate() {
                writeln!(f, "call {} of a callback of {side}: {answer}", n + 1)?;
            }
        }
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        writeln!(f, "at last: {:?}", self.ending)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Do(side, act) => write!(f, "{side}.{act:?}"),
            Answer::Nest(turns) => write!(f, "{turns} turns of the loop within"),
            other => fmt::Debug::fmt(other, f),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Do(side, act, Where::InLoop) => write!(f, "{side}.{act:?}, in the loop"),
            Step::Do(side, act, Where::Outside) => write!(f, "{side}.{act:?}"),
            Step::Turns(turns) => write!(f, "{turns} turns of the loop"),
        }
    }
}
