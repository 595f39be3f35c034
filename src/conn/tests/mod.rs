//! Connections driven by script: the calls of the system are answered by the test, see [`script`], and the clock stands
//! still until the test moves it. So there are no sockets, no peers, and no time to wait for.
//!
//! Each file here is for the file of the same name beside this directory.

mod blocking;
mod callbacks;
mod channel;
mod common;
mod delivering;
mod ending;
mod ends;
mod frames;
mod handle;
mod handshake;
mod handshaking;
mod idle;
mod lingering;
mod options;
mod polling;
mod probing;
mod reading;
mod selecting;
mod serving;
mod setters;
mod waiting;
mod writing;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::callbacks::{Disconnect, OnByteLine, OnData, OnLine, OnReady, Reason};
use super::state::{Phase, ReadHalf};
use super::*;
use crate::engine::{READ_BUFFER, Ticket, turn};
use crate::sys::script::{self, Script, scripted};
use crate::tls::{ClientTls, Identity, PeerName, ServerTls, Session};

/// A loop with a clock that stands still.
pub(super) struct Rig {
    engine: Rc<Engine>,
    context: glib::MainContext,
}

/// Runs the test on a loop of its own.
pub(super) fn rig(test: impl FnOnce(&Rig)) {
    script::stop_clock();
    let context = glib::MainContext::new();
    let run = || test(&Rig { engine: Engine::current().unwrap(), context: context.clone() });
    context.with_thread_default(run).unwrap();
}

/// The peer's address, as the tests know it.
pub(super) fn peer() -> Endpoint {
    Endpoint::Inet("192.0.2.1:7".parse().unwrap())
}

impl Rig {
    /// Lets the loop do all that there is to do.
    fn run(&self) {
        turn(&self.engine, || {
            let rests = (0..10_000).find(|_| !self.context.iteration(false));
            assert!(rests.is_some(), "the loop never comes to rest");
        });
    }

    /// Lets time pass, in which the loop runs.
    fn pass(&self, time: Duration) {
        self.run();
        script::pass_running(time, || self.run());
    }

    /// A TCP connection.
    fn tcp(&self) -> Wire<'_> {
        self.tcp_with(|_| ())
    }

    fn tcp_with(&self, change: impl FnOnce(&mut Options)) -> Wire<'_> {
        let mut options = Options::default();
        change(&mut options);
        self.wire(Some(peer()), Rc::from(options))
    }

    fn unix(&self) -> Wire<'_> {
        self.wire(Some(Endpoint::Unix(None)), Rc::from(Options::default()))
    }

    fn wire(&self, remote: Option<Endpoint>, common: Rc<Common>) -> Wire<'_> {
        let (fd, script) = scripted(false);
        let transport = Transport::socket(fd, remote.as_ref());
        let conn = Conn::new(&self.engine, transport, common, remote).unwrap();
        self.wired(conn, script, None)
    }

    /// A pair of descriptors that are no sockets.
    fn pair(&self, blocks: bool) -> Wire<'_> {
        let ((input, script), (output, out)) = (scripted(blocks), scripted(blocks));
        let transport = Transport::pair(input, output).unwrap();
        let conn = Conn::new(&self.engine, transport, Rc::from(Options::default()), Some(peer())).unwrap();
        self.wired(conn, script, Some(out))
    }

    fn wired(&self, conn: Rc<Conn>, script: Rc<Script>, out: Option<Rc<Script>>) -> Wire<'_> {
        let socket = Some(Socket::from_conn(conn.clone()));
        Wire { rig: self, out: out.unwrap_or_else(|| script.clone()), script, conn, socket, heard: Heard::default() }
    }

    /// The server's side, or the client's, of a TLS connection, before the handshake, and the other side.
    fn tls(&self, side: Side, change: impl FnOnce(&mut Options)) -> (Wire<'_>, Tls) {
        let (ours, theirs) = match side {
            Side::Server => (server_session(), client_session(&KEYS.client)),
            Side::Client => (client_session(&KEYS.client), server_session()),
        };
        (self.shaking(ours, usize::MAX, change), Tls::new(theirs))
    }

    /// A handshake that goes on, with room for so many bytes.
    fn shaking(&self, session: Session, room: usize, change: impl FnOnce(&mut Options)) -> Wire<'_> {
        let mut options = Options::default();
        change(&mut options);
        let (fd, script) = scripted(false);
        script.has_room(room);
        let transport = Transport::socket(fd, Some(&peer()));
        let heard = Heard::default();
        let done = heard.clone();
        let told: Shaken = Box::new(move |_, result| match result {
            Ok(()) => done.push("shaken"),
            Err(error) => done.push(format!("not shaken: {}", kind(&error))),
        });
        let conn = Conn::with_session(&self.engine, transport, options.into(), Some(peer()), session, told).unwrap();
        Wire { heard, ..self.wired(conn, script, None) }
    }

    /// A TLS connection after the handshake.
    fn sealed(&self, side: Side) -> (Wire<'_>, Tls) {
        let (wire, mut tls) = self.tls(side, |_| ());
        tls.talk(&wire);
        assert_eq!(wire.heard(), ["shaken"]);
        wire.script.writes();
        (wire, tls)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Server,
    Client,
}

/// The calls that a test has heard, in order.
#[derive(Clone, Default)]
pub(super) struct Heard(Rc<RefCell<Vec<String>>>);

impl Heard {
    fn push(&self, what: impl ToString) {
        self.0.borrow_mut().push(what.to_string());
    }
}

/// A connection, and what is at the other end of its descriptors.
pub(super) struct Wire<'a> {
    rig: &'a Rig,
    script: Rc<Script>,
    /// Where output goes.
    out: Rc<Script>,
    conn: Rc<Conn>,
    socket: Option<Socket>,
    heard: Heard,
}

impl Wire<'_> {
    /// The system tells a readiness, and the loop runs.
    fn is(&self, ready: Ready) {
        self.tell(ready);
        self.rig.run();
    }

    fn tell(&self, ready: Ready) {
        if let Some(key) = self.conn.key.get() {
            self.rig.engine.tell(key, ready);
        }
    }

    /// Something comes.
    fn comes(&self, bytes: impl AsRef<[u8]>) {
        self.script.brings(bytes);
        self.is(Ready::READ);
    }

    /// The peer's end comes.
    fn ends(&self) {
        self.script.ends();
        self.is(Ready::READ | Ready::HANGUP);
    }

    /// Takes what was heard.
    fn heard(&self) -> Vec<String> {
        self.heard.0.take()
    }

    fn reads(&self) -> &Self {
        let heard = self.heard.clone();
        self.reads_with(move |_, data| {
            heard.push(format!("data {}", text(data)));
            Ok(())
        })
    }

    fn reads_with(&self, user: impl FnMut(&Socket, &[u8]) -> Result + 'static) -> &Self {
        self.conn.set_reader(Some(Box::new(OnData(user))));
        self
    }

    /// Sets a reader, a half-close callback and a drain callback, each of which holds this.
    fn callbacks_hold(&self, captured: &Rc<()>) -> &Self {
        let [a, b, c] = [captured.clone(), captured.clone(), captured.clone()];
        self.reads_with(move |_, _| {
            assert!(Rc::strong_count(&a) > 1);
            Ok(())
        });
        self.conn.set_on_end(Some(Box::new(move |_| {
            assert!(Rc::strong_count(&b) > 1);
            Ok(())
        })));
        self.conn.set_on_drain(Some(Box::new(move |_| {
            assert!(Rc::strong_count(&c) > 1);
            Ok(())
        })));
        self
    }

    fn reads_lines(&self) -> &Self {
        let heard = self.heard.clone();
        self.reads_lines_with(move |_, line| {
            heard.push(format!("line {line}"));
            Ok(())
        })
    }

    fn reads_lines_with(&self, user: impl FnMut(&Socket, &str) -> Result + 'static) -> &Self {
        self.conn.set_reader(Some(Box::new(OnLine(user))));
        self
    }

    fn hears_end(&self) -> &Self {
        let heard = self.heard.clone();
        self.conn.set_on_disconnect(Some(Box::new(move |_, end| heard.push(told(&end)))));
        self
    }

    fn hears_half_close(&self) -> &Self {
        let heard = self.heard.clone();
        self.conn.set_on_end(Some(Box::new(move |_| {
            heard.push("half-close");
            Ok(())
        })));
        self
    }

    fn hears_drain(&self) -> &Self {
        let heard = self.heard.clone();
        self.conn.set_on_drain(Some(Box::new(move |_| {
            heard.push("drained");
            Ok(())
        })));
        self
    }

    fn phase(&self) -> Phase {
        self.conn.status.get().phase
    }

    fn send(&self, bytes: impl AsRef<[u8]>) -> Result {
        self.conn.send(bytes.as_ref(), false)
    }

    fn written(&self) -> String {
        text(&self.out.written())
    }

    /// Returns whether the loop watches for room.
    fn awaits_room(&self) -> bool {
        self.rig.engine.watches(self.conn.key.get().unwrap()).1
    }

    /// Polls for data of up to `max` bytes.
    fn poll_recv(&self, flag: &Flag, ticket: &mut Ticket, max: usize) -> Poll<Result<Vec<u8>>> {
        self.conn.polling(&flag.context()).take(ticket, max, |inbox, _| Ok(inbox.next_chunk(max).map(Piece::into_vec)))
    }

    /// Polls for the bytes to be queued at once.
    fn poll_send(&self, flag: &Flag, ticket: &mut Ticket, bytes: &[u8]) -> Poll<Result> {
        self.conn.polling(&flag.context()).send(ticket, bytes, &mut 0)
    }

    fn poll_line(&self, flag: &Flag, ticket: &mut Ticket) -> Poll<Result<String>> {
        let take = |inbox: &mut Inbox, limit| Ok(inbox.next_line(limit)?.map(|line| text(line.as_slice())));
        self.conn.polling(&flag.context()).take(ticket, READ_BUFFER, take)
    }
}

/// The words for the end as a disconnect callback is told it.
fn told(end: &Disconnect) -> String {
    let reason = match &end.reason {
        Reason::Failed(error) => kind(error),
        reason => reason.to_string(),
    };
    let leftover = if end.leftover.is_empty() { String::new() } else { format!(", left {}", text(&end.leftover)) };
    format!("end: {reason}{leftover}")
}

/// The variant of an error; of one of the system's or the program's, its text.
fn kind(error: &Error) -> String {
    match error {
        Error::Closed { .. } => "Closed".into(),
        Error::Reset { .. } => "Reset".into(),
        Error::Truncated { .. } => "Truncated".into(),
        Error::TimedOut { .. } => "TimedOut".into(),
        Error::NotReady { .. } => "NotReady".into(),
        Error::QueueFull { .. } => "QueueFull".into(),
        Error::LineTooLong { .. } => "LineTooLong".into(),
        Error::LimitExceeded { .. } => "LimitExceeded".into(),
        Error::Unsupported(_) => "Unsupported".into(),
        Error::Plaintext { .. } => "Plaintext".into(),
        Error::Rejected { .. } => "Rejected".into(),
        Error::UnknownCertificate { .. } => "UnknownCertificate".into(),
        Error::Tls { .. } => "Tls".into(),
        Error::Io { source, .. } => format!("Io {:?}", source.kind()),
        other => other.to_string(),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn failure<R: std::fmt::Debug>(result: Result<R>) -> String {
    kind(&result.unwrap_err())
}

/// A waker that tells whether it was woken.
#[derive(Clone, Default)]
pub(super) struct Flag(Arc<Woken>, Option<Waker>);

#[derive(Default)]
struct Woken(std::sync::atomic::AtomicU32);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Flag {
    fn new() -> Self {
        let woken = Arc::new(Woken::default());
        Flag(woken.clone(), Some(woken.into()))
    }

    fn context(&self) -> Context<'_> {
        Context::from_waker(self.1.as_ref().unwrap())
    }

    /// Returns whether it has been woken since this was asked last.
    fn woken(&self) -> bool {
        self.0.0.swap(0, std::sync::atomic::Ordering::Relaxed) > 0
    }
}

// ---- TLS ----

struct Keys {
    server: Arc<crate::tls::ServerSetup>,
    client: ClientTls,
    _store: tempfile::TempDir,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let store = tempfile::tempdir().unwrap();
    let identity = Identity::named_in(store.path(), "server").unwrap();
    let client = ClientTls::pinned(identity.fingerprint()).directory(store.path());
    Keys { server: ServerTls::from(identity).directory(store.path()).setup().unwrap(), client, _store: store }
});

fn server_session() -> Session {
    Session::server(&KEYS.server, &peer().to_string()).unwrap()
}

fn client_session(tls: &ClientTls) -> Session {
    let peer = PeerName { key: "192.0.2.1:7".into(), host: Some("server.example".into()) };
    Session::client(tls, &peer).unwrap()
}

/// The other side of a TLS connection.
pub(super) struct Tls {
    session: Session,
    got: Vec<u8>,
}

impl Tls {
    fn new(session: Session) -> Self {
        Tls { session, got: Vec::new() }
    }

    /// Carries bytes in both directions until both sides are silent.
    fn talk(&mut self, wire: &Wire<'_>) {
        loop {
            wire.rig.run();
            let cipher = wire.script.written();
            if !cipher.is_empty() {
                // What is wrong with it is in the alert that follows.
                let _ = self.session.receive(&cipher, &mut self.got);
            }
            let answer = self.output();
            if !answer.is_empty() {
                wire.comes(answer);
            } else if cipher.is_empty() {
                return;
            }
        }
    }

    /// Takes what the session has to send.
    fn output(&mut self) -> Vec<u8> {
        let mut output = Vec::new();
        self.session.take_output(&mut output);
        output
    }

    /// Takes the ciphertext of this message.
    fn seals(&mut self, message: impl AsRef<[u8]>) -> Vec<u8> {
        assert_eq!(self.session.send(message.as_ref()), message.as_ref().len());
        self.output()
    }

    /// Takes the ciphertext of the end.
    fn ends(&mut self) -> Vec<u8> {
        self.session.close_notify();
        self.output()
    }

    /// Takes what the wire has written, and returns all plaintext so far.
    fn got(&mut self, wire: &Wire<'_>) -> String {
        self.session.receive(&wire.script.written(), &mut self.got).unwrap();
        text(&std::mem::take(&mut self.got))
    }
}
