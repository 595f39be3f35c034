//! What passes on a connection of the client: heads are checked and counted, and a body waits for "100 Continue".

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::body::Sending;
use super::head::{Kind, Scan};
use super::io::Watch;
use crate::engine::Sleep;
use crate::error::{Error, Result};

/// The time that a body waits for "100 Continue". Servers before HTTP/1.1 do not know of it.
const CONTINUE: Duration = Duration::from_secs(1);

/// The first byte of a TLS record that is an alert: the response of a server that expected a handshake.
const TLS_ALERT: u8 = 0x15;

/// The most interim responses before the real one. hyper has no limit.
pub(super) const INTERIM: u32 = 16;

/// Limits to the heads of responses.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadLimits {
    pub(super) size: usize,
    pub(super) fields: usize,
    pub(super) is_lenient: bool,
}

/// A callback for the bytes of a body that were handed over.
pub(super) type OnSent = Rc<dyn Fn(u64)>;

/// The place where a connection is in its exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing was asked: nothing may come.
    Idle,
    Head,
    Body,
    /// It is not HTTP any more.
    Upgraded,
}

/// The state of the exchange on one connection.
pub(super) struct Traffic {
    peer: String,
    max_fields: usize,
    place: Cell<Place>,
    scan: RefCell<Scan>,
    /// A response of success ends HTTP.
    is_connect: Cell<bool>,
    interim: Cell<u32>,
    /// Why the connection or the body has failed. The first error is the cause.
    fault: RefCell<Option<Error>>,
    /// When something came or went last.
    moved: Cell<Instant>,
    /// Something of the response has come.
    is_answered: Cell<bool>,
    gate: Gate,
    /// Bytes of the body that were handed over.
    sent: Cell<u64>,
    is_sent: Cell<bool>,
    on_sent: RefCell<Option<OnSent>>,
}

impl Traffic {
    pub(super) fn new(peer: String, limits: HeadLimits) -> Rc<Self> {
        Rc::new(Traffic {
            peer,
            max_fields: limits.fields,
            place: Cell::new(Place::Idle),
            scan: RefCell::new(Scan::new(Kind::Response, limits.size, limits.is_lenient)),
            is_connect: Cell::new(false),
            interim: Cell::new(0),
            fault: RefCell::default(),
            moved: Cell::new(Instant::now()),
            is_answered: Cell::new(false),
            gate: Gate::default(),
            sent: Cell::new(0),
            is_sent: Cell::new(true),
            on_sent: RefCell::default(),
        })
    }

    /// A request is to be made and sent.
    pub(super) fn begin(&self, is_connect: bool) {
        self.place.set(Place::Head);
        self.moved.set(Instant::now());
        self.is_connect.set(is_connect);
        self.interim.set(0);
        self.is_answered.set(false);
        self.sent.set(0);
        self.is_sent.set(false);
    }

    /// The body of the request waits for "100 Continue" if `expects` says so. `on_sent` is called as it goes out.
    pub(super) fn watch_body(&self, expects: bool, on_sent: Option<OnSent>) {
        self.gate.shut(expects);
        let old = self.on_sent.replace(on_sent);
        drop(old);
    }

    /// The exchange is over.
    pub(super) fn end(&self) {
        self.place.set(Place::Idle);
        let old = self.on_sent.take();
        drop(old);
    }

    pub(super) fn peer(&self) -> &str {
        &self.peer
    }

    pub(super) fn max_fields(&self) -> usize {
        self.max_fields
    }

    /// Returns when something came or went last.
    pub(super) fn moved(&self) -> Instant {
        self.moved.get()
    }

    pub(super) fn is_answered(&self) -> bool {
        self.is_answered.get()
    }

    /// Returns whether the response has ended HTTP on this connection.
    pub(super) fn is_upgraded(&self) -> bool {
        self.place.get() == Place::Upgraded
    }

    /// Returns whether all of the body has been handed over.
    pub(super) fn is_sent(&self) -> bool {
        self.is_sent.get()
    }

    pub(super) fn take_fault(&self) -> Option<Error> {
        self.fault.take()
    }

    fn http(&self, problem: impl Into<String>) -> Error {
        Error::Http { peer: self.peer.clone(), problem: problem.into() }
    }

    fn look_at_head(&self, mut bytes: &[u8]) -> Result {
        while self.place.get() == Place::Head && !bytes.is_empty() {
            let found = self.scan.borrow_mut().take(bytes).map_err(|problem| self.http(problem))?;
            let Some(head) = found else { return Ok(()) };
            if head.is_interim() {
                self.interim.set(self.interim.get() + 1);
                if self.interim.get() > INTERIM {
                    return Err(self.http(format!("more than {INTERIM} interim responses (1xx) came")));
                }
                if head.status == 100 {
                    self.gate.open();
                }
                bytes = &bytes[head.end..];
            } else {
                let is_upgrade = head.status == 101 || self.is_connect.get() && (200..300).contains(&head.status);
                self.place.set(if is_upgrade { Place::Upgraded } else { Place::Body });
            }
        }
        Ok(())
    }
}

impl Watch for Traffic {
    fn received(&self, bytes: &[u8]) -> Result<usize> {
        self.moved.set(Instant::now());
        match self.place.get() {
            Place::Idle => return Err(self.http("something came that nobody has asked for")),
            Place::Head => {
                if !self.is_answered.replace(true) && bytes.first() == Some(&TLS_ALERT) {
                    let problem = "replied with a TLS alert: the server uses TLS; write https:// in place of http://";
                    return Err(self.http(problem));
                }
                self.look_at_head(bytes)?;
            }
            Place::Body | Place::Upgraded => {}
        }
        Ok(bytes.len())
    }

    fn looks_away(&self) -> bool {
        matches!(self.place.get(), Place::Body | Place::Upgraded)
    }

    fn received_unseen(&self) {
        self.moved.set(Instant::now());
    }

    fn sent(&self, _: usize) {
        self.moved.set(Instant::now());
    }

    fn failed(&self, error: Error) {
        self.fault.borrow_mut().get_or_insert(error);
    }
}

impl Sending for Traffic {
    fn poll_start(&self, context: &mut Context<'_>) -> Poll<()> {
        self.gate.poll(context)
    }

    fn sent(&self, count: usize) {
        self.sent.set(self.sent.get() + count as u64);
        let callback = self.on_sent.borrow().clone();
        if let Some(callback) = callback {
            callback(self.sent.get());
        }
    }

    fn failed(&self, error: Error) {
        Watch::failed(self, error);
    }

    fn ended(&self) {
        self.is_sent.set(true);
    }
}

/// Keeps a body from going out before the server wants it.
#[derive(Default)]
struct Gate {
    is_shut: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// It opens when this is over.
    sleep: RefCell<Option<Sleep>>,
}

impl Gate {
    fn shut(&self, is_shut: bool) {
        self.is_shut.set(is_shut);
        self.sleep.replace(is_shut.then(|| Sleep::limit(CONTINUE)));
    }

    fn open(&self) {
        self.is_shut.set(false);
        self.sleep.take();
        let waker = self.waker.take();
        waker.into_iter().for_each(Waker::wake);
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        if !self.is_shut.get() {
            return Poll::Ready(());
        }
        let is_over = match &mut *self.sleep.borrow_mut() {
            Some(sleep) => Pin::new(sleep).poll(context).is_ready(),
            None => true,
        };
        if is_over {
            self.open();
            return Poll::Ready(());
        }
        let old = self.waker.replace(Some(context.waker().clone()));
        drop(old);
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { size: 1000, fields: 100, is_lenient: false };

    #[test]
    fn interim_responses_are_counted() {
        for (count, is_fine) in [(INTERIM, true), (INTERIM + 1, false)] {
            let traffic = Traffic::new("x".into(), LIMITS);
            traffic.begin(false);
            let many =
                "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n".repeat(count as usize) + "HTTP/1.1 200 OK\r\n\r\nbo\ndy";
            assert_eq!(traffic.received(many.as_bytes()).is_ok(), is_fine);
            // What comes in pieces is the same.
            traffic.begin(false);
            let traffic = Traffic::new("x".into(), LIMITS);
            traffic.begin(false);
            let pieces: Result<Vec<_>> = many.as_bytes().chunks(7).map(|piece| traffic.received(piece)).collect();
            assert_eq!(pieces.is_ok(), is_fine);
        }
    }

    #[test]
    fn nothing_comes_unasked() {
        let traffic = Traffic::new("x".into(), LIMITS);
        assert!(traffic.received(b"H").is_err());
        traffic.begin(false);
        assert!(traffic.received(b"H").is_ok() && traffic.is_answered());
        traffic.end();
        assert!(traffic.received(b"H").is_err());
    }

    #[test]
    fn a_server_of_tls_is_recognised() {
        let traffic = Traffic::new("x".into(), LIMITS);
        traffic.begin(false);
        let error = traffic.received(b"\x15\x03\x03\0\x02\x02\x46").unwrap_err();
        assert!(error.to_string().contains("write https://"), "{error}");
    }

    #[test]
    fn the_gate_opens_by_100() {
        let traffic = Traffic::new("x".into(), LIMITS);
        let mut context = Context::from_waker(Waker::noop());
        traffic.begin(false);
        traffic.watch_body(true, None);
        glib::MainContext::new()
            .with_thread_default(|| {
                assert!(traffic.poll_start(&mut context).is_pending());
                traffic.received(b"HTTP/1.1 103 x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n").unwrap();
                assert!(traffic.poll_start(&mut context).is_ready());
            })
            .unwrap();
    }
}
