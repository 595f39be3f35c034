//! A connection to a proxy while it is asked, on the loop: the bytes of the conversation, in plaintext or within TLS. What follows
//! the proxy's reply is the target's, and is left alone.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::negotiation::{Negotiation, Problem, Step};
use crate::engine::{Engine, Handler, Key, Next, Ready, Registration};
use crate::error::{Error, os_text};
use crate::tls::Session;

/// Input is looked at in pieces of this size.
const PIECE: usize = 1 << 10;

/// Dropping it closes the connection.
pub(super) struct Line {
    engine: Rc<Engine>,
    fd: Option<OwnedFd>,
    watch: Rc<Watch>,
    tls: Option<ProxyTls>,
}

/// TLS that ends at a proxy.
pub(in crate::connect) struct ProxyTls {
    pub(in crate::connect) session: Session,
    /// Received, and not taken yet.
    pub(in crate::connect) plain: Vec<u8>,
}

/// A connection with the target at its other end.
pub(super) struct Tunnel {
    pub(super) fd: OwnedFd,
    pub(super) tls: Option<ProxyTls>,
}

/// Passes the readiness of a line on.
#[derive(Default)]
struct Watch {
    key: Cell<Option<Key>>,
    /// Something has happened that was not looked at.
    news: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Line {
    pub(super) fn new(engine: &Rc<Engine>, fd: OwnedFd, session: Option<Session>) -> Result<Line, Problem> {
        let watch = Rc::new(Watch::default());
        let tls = session.map(|session| ProxyTls { session, plain: Vec::new() });
        let registration = Registration { input: fd.as_fd(), input_blocks: false, output: None, write: true };
        let key = engine.register(registration, watch.clone()).map_err(|error| broken(&error))?;
        watch.key.set(Some(key));
        Ok(Line { engine: engine.clone(), fd: Some(fd), watch, tls })
    }

    pub(super) fn into_tunnel(mut self) -> Option<Tunnel> {
        self.watch.leave(&self.engine);
        Some(Tunnel { fd: self.fd.take()?, tls: self.tls.take() })
    }

    /// Sends as much as the kernel takes now. Returns whether that was all.
    pub(super) fn send(&mut self, output: &mut Vec<u8>) -> Result<bool, Problem> {
        let Some(fd) = &self.fd else { return Ok(true) };
        match &mut self.tls {
            None => send_to(fd, output).map_err(|error| broken(&error)),
            Some(tls) => tls.send(fd, output).map_err(|error| broken(&error)),
        }
    }

    /// Takes what belongs to the proxy's reply, and leaves all that is behind it. `None` if nothing is there.
    pub(super) fn receive(&mut self, negotiation: &mut Negotiation) -> Result<Option<Step>, Problem> {
        let Some(fd) = &self.fd else { return Ok(None) };
        match &mut self.tls {
            None => receive(fd, negotiation),
            Some(tls) => tls.receive(fd, negotiation),
        }
    }

    /// Waits for the next event.
    pub(super) async fn news(&self) {
        poll_fn(|context| self.watch.poll(context)).await;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.watch.leave(&self.engine);
    }
}

// ---- without TLS ----

fn send_to(fd: &OwnedFd, output: &mut Vec<u8>) -> io::Result<bool> {
    while !output.is_empty() {
        match Sink(fd).write(output) {
            Ok(count) => drop(output.drain(..count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Takes no byte behind the reply out of the kernel.
fn receive(fd: &OwnedFd, negotiation: &mut Negotiation) -> Result<Option<Step>, Problem> {
    let mut buffer = [0; PIECE];
    let Some(seen) = read(fd, &mut buffer, RecvFlags::PEEK)? else { return Ok(None) };
    if seen == 0 {
        return Err(ended());
    }
    let (mut taken, step) = negotiation.take(&buffer[..seen])?;
    while taken > 0 {
        match read(fd, &mut buffer[..taken], RecvFlags::empty())? {
            None | Some(0) => break,
            Some(count) => taken -= count,
        }
    }
    Ok(Some(step))
}

/// Reads once. `None` if nothing is there.
fn read(fd: &OwnedFd, buffer: &mut [u8], flags: RecvFlags) -> Result<Option<usize>, Problem> {
    loop {
        match recv(fd, &mut *buffer, flags) {
            Ok((count, _)) => return Ok(Some(count)),
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(broken(&error.into())),
        }
    }
}

struct Sink<'a>(&'a OwnedFd);

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// ---- with TLS ----

impl ProxyTls {
    fn send(&mut self, fd: &OwnedFd, output: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            // During the handshake, the session keeps it.
            let count = self.session.send(output);
            output.drain(..count);
            if !self.session.wants_write() {
                return Ok(output.is_empty() && !self.session.is_handshaking());
            }
            match self.session.write_output(&mut Sink(fd)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn receive(&mut self, fd: &OwnedFd, negotiation: &mut Negotiation) -> Result<Option<Step>, Problem> {
        let mut buffer = [0; PIECE];
        let Some(count) = read(fd, &mut buffer, RecvFlags::empty())? else { return Ok(None) };
        if count == 0 {
            let is_early = self.session.is_handshaking();
            return Err(self.session.end().err().filter(|_| is_early).map_or_else(ended, no_tls));
        }
        if let Err(error) = self.session.receive(&buffer[..count], &mut self.plain) {
            // The alert that tells the proxy.
            let _ = self.session.write_output(&mut Sink(fd));
            return Err(no_tls(error));
        }
        let (taken, step) = negotiation.take(&self.plain)?;
        self.plain.drain(..taken);
        match step {
            Step::More if self.session.peer_closed() => Err(ended()),
            step => Ok(Some(step)),
        }
    }
}

/// TLS with the proxy has failed.
pub(super) fn no_tls(error: Error) -> Problem {
    Problem::Proxy(match error {
        Error::Plaintext { .. } => "it does not speak TLS; without TLS, its URL begins with http://".into(),
        Error::Tls { problem, .. } => format!("TLS error: {problem}"),
        Error::Io { source, .. } => os_text(&source),
        Error::Rejected { problem, .. } => format!("it rejected the TLS handshake: {problem}"),
        Error::UnknownCertificate { .. } => format!("{error} (Proxy::tls sets whom to trust)"),
        other => other.to_string(),
    })
}

fn ended() -> Problem {
    Problem::Proxy("it closed the connection before its reply was complete".into())
}

fn broken(error: &io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            Problem::Proxy("it reset the connection before its reply was complete".into())
        }
        _ => Problem::Proxy(os_text(error)),
    }
}

// ---- the loop ----

impl Watch {
    fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if self.news.take() {
            return Poll::Ready(());
        }
        self.waker.replace(Some(context.waker().clone()));
        Poll::Pending
    }

    fn leave(&self, engine: &Engine) {
        if let Some(key) = self.key.take() {
            engine.deregister(key);
        }
    }
}

impl Handler for Watch {
    fn ready(self: Rc<Self>, _engine: &Rc<Engine>, _ready: Ready) -> Next {
        self.news.set(true);
        let waker = self.waker.take();
        waker.into_iter().for_each(Waker::wake);
        Next::Idle
    }

    fn context_ended(self: Rc<Self>) {
        self.key.take();
    }
}
