//! Exchanges that are given up at each state they can be in: by dropping the future, by a `Cancellable`, and by the timeout of the
//! whole exchange. Nothing of them stays: no descriptor, no task, no timer, no source, and no place in the pool.

use std::any::Any;
use std::cell::RefCell;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_util::AsyncReadExt;
use gio::prelude::*;
use network::http::{Client, ClientBuilder, Method, Multipart, RequestBuilder, Response};
use network::socket::Proxy;
use network::{ClientTls, Error, Result};

use super::common::{LIMIT, TempDir, await_it, black_hole, on_own_context};
use super::given_up::{alone, descriptors};
use super::hostile::plain;
use super::idle::{Sleep, Watcher};
use super::scripted::{Peer, Server, response};

/// The body of a request that no kernel takes at once.
const LARGE: usize = 16 << 20;

/// What a server knows of the test, and the test of its server.
#[derive(Default)]
struct Stage {
    is_reached: AtomicBool,
    /// The exchange has been given up.
    is_over: (Mutex<bool>, Condvar),
    open: AtomicUsize,
}

impl Stage {
    fn end(&self) {
        *self.is_over.0.lock().unwrap() = true;
        self.is_over.1.notify_all();
    }

    fn is_over(&self) -> bool {
        *self.is_over.0.lock().unwrap()
    }

    fn await_end(&self) {
        let (over, changed) = &self.is_over;
        drop(changed.wait_timeout_while(over.lock().unwrap(), LIMIT, |over| !*over).unwrap());
    }
}

/// Brings a connection to the state. False if the state is another connection's.
type Script = Arc<dyn Fn(&mut Peer) -> bool + Send + Sync>;

/// Where the exchange takes place.
struct Place {
    port: u16,
    /// Its address answers nothing.
    hole: u16,
    directory: TempDir,
    /// Something of the program's that the exchange holds.
    guard: Rc<()>,
}

impl Place {
    fn url(&self, target: &str) -> String {
        format!("http://127.0.0.1:{}{target}", self.port)
    }
}

/// How the response is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Take {
    Whole,
    /// The program holds it, and does nothing with it.
    Held,
    Pieces,
    Lines,
    Reader,
    Callbacks,
    Download,
}

#[allow(clippy::type_complexity, reason = "each is named by its field")]
struct Row {
    name: &'static str,
    script: Script,
    client: Box<dyn Fn(ClientBuilder, &Place) -> ClientBuilder>,
    request: Box<dyn Fn(&Client, &Place) -> RequestBuilder>,
    before: Box<dyn Fn(&Client, &Place) -> Box<dyn Any>>,
    take: Take,
    /// The server does not tell that the state is reached, this does.
    is_reached: Option<Box<dyn Fn(&Place) -> bool>>,
    /// Later requests come to the server of the test.
    is_direct: bool,
}

fn row(name: &'static str, script: impl Fn(&mut Peer) -> bool + Send + Sync + 'static) -> Row {
    Row {
        name,
        script: Arc::new(script),
        client: Box::new(|client, _| client),
        request: Box::new(|client, place| client.get(place.url("/"))),
        before: Box::new(|_, _| Box::new(())),
        take: Take::Whole,
        is_reached: None,
        is_direct: true,
    }
}

impl Row {
    fn client(mut self, client: impl Fn(ClientBuilder, &Place) -> ClientBuilder + 'static) -> Row {
        self.client = Box::new(client);
        self
    }

    fn request(mut self, request: impl Fn(&Client, &Place) -> RequestBuilder + 'static) -> Row {
        self.request = Box::new(request);
        self
    }

    fn before(mut self, before: impl Fn(&Client, &Place) -> Box<dyn Any> + 'static) -> Row {
        self.before = Box::new(before);
        self
    }

    fn take(mut self, take: Take) -> Row {
        self.take = take;
        self
    }

    fn once(mut self, is_reached: impl Fn(&Place) -> bool + 'static) -> Row {
        self.is_reached = Some(Box::new(is_reached));
        self
    }

    fn elsewhere(mut self) -> Row {
        self.is_direct = false;
        self
    }

    /// By a proxy with that scheme and user.
    fn through(self, scheme: &'static str) -> Row {
        self.client(move |client, place| client.proxy(Proxy::url(format!("{scheme}127.0.0.1:{}", place.port))))
            .request(|client, _| client.get("http://far.test/"))
            .elsewhere()
    }
}

/// Has the head of the request, and says this.
fn says(text: &'static str) -> impl Fn(&mut Peer) -> bool + Send + Sync {
    move |peer| peer.head().is_some() && peer.say(text)
}

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const PART: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npart";

/// Reads a greeting of SOCKS 5.
fn greeting(peer: &mut Peer) {
    // A client that was given up before it has spoken is gone.
    if let Some(start) = peer.exactly(2) {
        peer.exactly(start[1].into());
    }
}

fn connecting() -> Vec<Row> {
    let nothing = |_: &mut Peer| true;
    vec![
        row("lookup", |_| false)
            .request(|client, place| client.get(format!("http://localhost:{}/", place.port)))
            .once(|_| true)
            .elsewhere(),
        row("connecting", nothing)
            .request(|client, place| client.get(format!("http://127.0.0.1:{}/", place.hole)))
            .once(|_| true)
            .elsewhere(),
        row("connecting to the proxy", nothing)
            .client(|client, place| client.proxy(Proxy::url(format!("http://127.0.0.1:{}", place.hole))))
            .request(|client, _| client.get("http://far.test/"))
            .once(|_| true)
            .elsewhere(),
        row("CONNECT without an answer", |peer| peer.head().is_some()).through("http://"),
        row("in the answer to CONNECT", says("HTTP/1.1 200 OK\r\nX: ")).through("http://"),
        row("the second CONNECT, with Digest", |peer| {
            let head = peer.head().unwrap_or_default();
            if head.to_lowercase().contains("digest") {
                return true;
            }
            let challenge = "Proxy-Authenticate: Digest realm=r, nonce=n, qop=\"auth\"\r\n";
            peer.say(response("407 Who", challenge, "no")) && peer.head().is_some()
        })
        .through("http://me:sesam@"),
        row("the greeting of SOCKS", |peer| peer.exactly(1).is_some()).through("socks5h://"),
        row("the password for SOCKS", |peer| {
            greeting(peer);
            peer.say([5, 2]) && peer.exactly(1).is_some()
        })
        .through("socks5h://me:sesam@"),
        row("the request to SOCKS", |peer| {
            greeting(peer);
            peer.say([5, 0]) && peer.exactly(4).is_some()
        })
        .through("socks5h://"),
        row("a response through a proxy", |peer| {
            peer.head().is_some() && peer.say("HTTP/1.1 200 OK\r\n\r\n") && peer.head().is_some()
        })
        .through("http://"),
        row("TLS handshake", |peer| peer.exactly(1).is_some())
            .request(|client, place| client.get(place.url("/").replace("http", "https")))
            .elsewhere(),
        row("in the answer to the TLS handshake", |peer| peer.exactly(1).is_some() && peer.say([22, 3, 3, 1]))
            .request(|client, place| client.get(place.url("/").replace("http", "https")))
            .elsewhere(),
        row("TLS handshake in a tunnel", |peer| {
            peer.head().is_some() && peer.say("HTTP/1.1 200 OK\r\n\r\n") && peer.exactly(1).is_some()
        })
        .through("http://")
        .request(|client, _| client.get("https://far.test/")),
        row("TLS handshake at another address", |peer| peer.exactly(1).is_some())
            .client(|client, place| client.tls(ClientTls::new()).connect_to(("127.0.0.1", place.port)))
            .request(|client, _| client.get("https://far.test/"))
            .elsewhere(),
        row("waiting for a place in the pool", says(PART)).before(|client, place| {
            let holds = await_it(client.get(place.url("/")).send_future()).unwrap();
            Box::new(holds)
        }),
    ]
}

fn sending() -> Vec<Row> {
    let large = |client: &Client, place: &Place| client.post(place.url("/")).body(vec![b'x'; LARGE]);
    vec![
        row("the head being written", |peer| peer.exactly(1).is_some())
            .request(|client, place| client.get(place.url("/")).header("x", "x".repeat(LARGE))),
        row("the body being written", |peer| {
            peer.head().is_some() && peer.say("HTTP/1.1 100 Continue\r\n\r\n") && peer.exactly(1).is_some()
        })
        .request(large),
        row("waiting for 100 Continue", |peer| peer.head().is_some()).request(large),
        row("the body coming from a file", |peer| {
            peer.head().is_some() && peer.say("HTTP/1.1 100 Continue\r\n\r\n") && peer.exactly(1).is_some()
        })
        .request(|client, place| {
            std::fs::File::create(place.directory.path("up")).unwrap().set_len(LARGE as u64).unwrap();
            client.put(place.url("/")).file(place.directory.path("up"))
        }),
        row("a form with a file being sent", |peer| {
            peer.head().is_some() && peer.say("HTTP/1.1 100 Continue\r\n\r\n") && peer.exactly(1).is_some()
        })
        .request(|client, place| {
            std::fs::File::create(place.directory.path("up")).unwrap().set_len(LARGE as u64).unwrap();
            client.post(place.url("/")).multipart(Multipart::new().file("f", place.directory.path("up")))
        }),
        row("the program's stream being waited for", |peer| {
            peer.head().is_some() && peer.say("HTTP/1.1 100 Continue\r\n\r\n") && peer.exactly(4).is_some()
        })
        .request(|client, place| {
            let guard = place.guard.clone();
            let stream = futures_util::stream::unfold(0, move |number| {
                let guard = guard.clone();
                async move {
                    if number > 0 {
                        std::future::pending::<()>().await;
                    }
                    drop(guard);
                    Some((Ok(b"part".to_vec()), 1))
                }
            });
            client.post(place.url("/")).body_stream(None, stream)
        }),
        row("an early answer, with the body under way", says(PART)).request(large).take(Take::Pieces),
    ]
}

fn receiving() -> Vec<Row> {
    #[allow(unused_mut, reason = "with the feature gzip there is one more")]
    let mut rows = vec![
        row("waiting for the head", |peer| peer.head().is_some()),
        row("after an interim response", says("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")),
        row("in the head", says("HTTP/1.1 200 OK\r\nContent-")),
        row("between the head and the body", says(HEAD)).take(Take::Held),
        row("held in the middle of the body", says(PART)).take(Take::Held),
        row("a body without a length", says("HTTP/1.1 200 OK\r\n\r\npart")),
        row("a chunk's head", says(&[CHUNKED, "4"].concat().leak()[..])),
        row("in a chunk", says(&[CHUNKED, "9\r\npart"].concat().leak()[..])),
        row("between chunks", says(&[CHUNKED, "4\r\npart\r\n"].concat().leak()[..])),
        row("in the trailers", says(&[CHUNKED, "4\r\npart\r\n0\r\nX: "].concat().leak()[..])),
        row("a redirect's body", says("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 9\r\n\r\npart")),
        row("after a redirect", |peer| {
            peer.head().is_some()
                && peer.say(response("302 Found", "Location: /x\r\n", "gone"))
                && peer.head().is_some()
        }),
        row("a second try on a new connection", |peer| {
            if peer.head().is_none() {
                return false;
            }
            if peer.number > 0 {
                return true;
            }
            peer.ok("first");
            peer.head();
            false
        })
        .before(|client, place| {
            await_it(async { client.get(place.url("/")).send_future().await?.bytes_future().await }).unwrap();
            Box::new(())
        }),
        row("the body of a challenge", |peer| {
            let challenge =
                "HTTP/1.1 401 Who\r\nWWW-Authenticate: Digest realm=r, nonce=n\r\nContent-Length: 9\r\n\r\npart";
            peer.head().is_some() && peer.say(challenge)
        })
        .client(|client, _| client.digest("me", "sesam")),
        row("the answer to a challenge", |peer| {
            let challenge = response("401 Who", "WWW-Authenticate: Digest realm=r, nonce=n\r\n", "no");
            peer.head().is_some() && peer.say(challenge) && peer.head().is_some()
        })
        .client(|client, _| client.digest("me", "sesam")),
        row("the answer to CONNECT", |peer| peer.head().is_some())
            .request(|client, place| client.request(Method::CONNECT, place.url("/"))),
        row("a tunnel", says("HTTP/1.1 200 OK\r\n\r\npart"))
            .request(|client, place| client.request(Method::CONNECT, place.url("/")))
            .take(Take::Held),
        row("another protocol", says("HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\npart"))
            .request(|client, place| client.get(place.url("/")).header("connection", "upgrade").header("upgrade", "x"))
            .take(Take::Held),
    ];
    #[cfg(feature = "gzip")]
    rows.push(
        row("decompressing", |peer| {
            // The head of a gzip stream, and the start of a block.
            let head = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1000\r\n\r\n";
            let start = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0x4b, 0x4c];
            peer.head().is_some() && peer.say(head) && peer.say(start)
        })
        .client(|client, _| client.decompress(true)),
    );
    rows
}

fn taking() -> Vec<Row> {
    let lines = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\none\ntw";
    vec![
        row("a line", says(lines)).take(Take::Lines),
        row("pieces of a body", says(PART)).take(Take::Pieces),
        row("a reader of a body", says(PART)).take(Take::Reader),
        row("callbacks for a body", says(PART)).take(Take::Callbacks),
        row("a download, waiting for the head", |peer| peer.head().is_some()).take(Take::Download),
        row("a download to the disk", says(PART)).take(Take::Download).once(|place| length(place) == 4),
        row("a download that goes on", |peer| peer.head().is_some_and(|head| head.contains("range: bytes=4-")))
            .request(|client, place| {
                std::fs::write(place.directory.path("down.part"), "part").unwrap();
                client.get(place.url("/")).resume(true)
            })
            .take(Take::Download),
        row("a download that begins anew", |peer| {
            let refused = response("416 No", "Content-Range: bytes */99\r\n", "no");
            peer.head().is_some() && peer.say(refused) && peer.head().is_some()
        })
        .request(|client, place| {
            std::fs::write(place.directory.path("down.part"), "part").unwrap();
            client.get(place.url("/")).resume(true)
        })
        .take(Take::Download),
        // Its state lasts as long as the disk is slow, and may have passed: see also the test that gives up at every poll.
        row("fsync", says("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfull"))
            .take(Take::Download)
            .once(|place| length(place) == 4 || place.directory.path("down").exists())
            .elsewhere(),
    ]
}

/// The length of a download so far.
fn length(place: &Place) -> u64 {
    place.directory.path("down.part").metadata().map_or(0, |found| found.len())
}

/// Takes a response like that, by futures.
async fn take(request: RequestBuilder, take: Take, target: PathBuf) -> Result {
    if take == Take::Download {
        return request.download_future(target).await.map(drop);
    }
    let mut response = request.send_future().await?;
    match take {
        Take::Whole | Take::Download => response.bytes_future().await.map(drop),
        Take::Held => {
            std::future::pending::<()>().await;
            drop(response);
            Ok(())
        }
        Take::Pieces => {
            while response.chunk_future().await?.is_some() {}
            Ok(())
        }
        Take::Lines => {
            let mut lines = response.lines();
            while lines.next().await.transpose()?.is_some() {}
            Ok(())
        }
        Take::Reader => response.read_to_end(&mut Vec::new()).await.map(drop).map_err(Error::from),
        Take::Callbacks => {
            response.read(|_, _| Ok(()));
            response.finished_cb(|_, _| {});
            // The callback keeps the response, without a handle.
            let _end = OnDrop(response);
            std::future::pending().await
        }
    }
}

struct OnDrop(Response);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The same by callbacks.
fn take_async(request: RequestBuilder, take: Take, target: PathBuf, cancel: &gio::Cancellable, done: Done) {
    let cancel = cancel.clone();
    if take == Take::Download {
        return request.download_async(target, Some(&cancel), move |result| done.tell(result.map(drop)));
    }
    let inner = cancel.clone();
    request.send_async(Some(&cancel), move |response: Result<Response>| match response {
        Ok(response) => response.bytes_async(Some(&inner), move |result| done.tell(result.map(drop))),
        Err(error) => done.tell(Err(error)),
    });
}

/// A place for the one result.
#[derive(Clone, Default)]
struct Done(Rc<RefCell<Vec<Result>>>);

impl Done {
    fn tell(&self, result: Result) {
        self.0.borrow_mut().push(result);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Drop,
    Cancellable,
    Timeout,
}

/// A future that is polled when it was woken.
struct Driven {
    future: Option<Pin<Box<dyn Future<Output = Result>>>>,
    woken: Arc<Woken>,
    result: Option<Result>,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Driven {
    fn new(future: impl Future<Output = Result> + 'static) -> Driven {
        Driven { future: Some(Box::pin(future)), woken: Arc::new(Woken(AtomicBool::new(true))), result: None }
    }

    /// One turn of the loop. Returns whether anything happened.
    fn turn(&mut self) -> bool {
        let is_woken = self.woken.0.swap(false, Ordering::SeqCst);
        if is_woken && let Some(future) = &mut self.future {
            let waker = Waker::from(self.woken.clone());
            if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                self.result = Some(result);
                self.future = None;
            }
        }
        network::iteration(false) || is_woken
    }
}

/// Runs the loop until something is the case, and tells what was not.
#[track_caller]
fn wait(what: impl AsRef<str>, mut is_so: impl FnMut() -> bool) {
    let late = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < late, "{}", what.as_ref());
        std::thread::yield_now();
    }
}

fn give_up(row: &Row, way: Way, watcher: &Watcher, healthy: &Server) {
    let told = format!("{}, {way:?}", row.name);
    let stage = Arc::new(Stage::default());
    let (on_server, script) = (stage.clone(), row.script.clone());
    let server = Server::new(move |mut peer| {
        on_server.open.fetch_add(1, Ordering::SeqCst);
        if on_server.is_over() {
            while peer.request().is_some() && peer.ok("calm") {}
        } else if script(&mut peer) {
            on_server.is_reached.store(true, Ordering::SeqCst);
            on_server.await_end();
            peer.await_end();
        }
        drop(peer);
        on_server.open.fetch_sub(1, Ordering::SeqCst);
    });
    let (hole, _held) = black_hole();
    let place = Place { port: server.port, hole: hole.port(), directory: TempDir::new(), guard: Rc::new(()) };
    // The engine and what GLib makes on first use are there before anything is counted.
    await_it(network::sleep(Duration::ZERO));
    let before = (watcher.sleep(), descriptors());

    let guard = place.guard.clone();
    let client = plain().connections(1).keep_idle(Duration::MAX).log(move |_| drop(guard.clone()));
    let client = (row.client)(client, &place).build();
    let held = (row.before)(&client, &place);
    let request = (row.request)(&client, &place);
    let request = if way == Way::Timeout { request.timeout(Duration::from_millis(40)) } else { request };
    let (target, cancel, done) = (place.directory.path("down"), gio::Cancellable::new(), Done::default());
    let mut driven = Driven::new(std::future::pending());
    match way {
        Way::Cancellable => take_async(request, row.take, target, &cancel, done.clone()),
        _ => driven = Driven::new(take(request, row.take, target)),
    }
    match way {
        Way::Timeout => {
            wait(&told, || {
                driven.turn();
                driven.result.is_some()
            });
            // The disk may have been faster than the clock.
            let is_late = matches!(driven.result, Some(Err(Error::TimedOut { .. })));
            assert!(is_late || row.name == "fsync", "{told}: {:?}", driven.result);
        }
        _ => {
            let is_reached = || match &row.is_reached {
                Some(is_reached) => is_reached(&place),
                None => stage.is_reached.load(Ordering::SeqCst),
            };
            let mut at_rest = 0;
            wait(format!("{told}: the state is not reached"), || {
                let moves = driven.turn();
                at_rest = if moves { 0 } else { at_rest + 1 };
                // A state that is the loop's own passes with the next turn.
                is_reached() && (at_rest > 20 || row.is_reached.is_some())
            });
            driven.future = None;
            cancel.cancel();
            if way == Way::Cancellable {
                wait(&told, || {
                    network::iteration(false);
                    !done.0.borrow().is_empty()
                });
                let results = done.0.borrow();
                let is_cancelled = matches!(results[..], [Err(Error::Cancelled { .. })]);
                assert!(is_cancelled || row.name == "fsync", "{told}: {results:?}");
            }
        }
    }
    drop(held);
    stage.end();

    // The place in the pool is free, for the same server and for another.
    let text = |url: String| {
        let result =
            await_it(network::timeout(LIMIT, async { client.get(url).send_future().await?.text_future().await }));
        result.and_then(|inner| inner).unwrap_or_else(|error| panic!("{told}: {error}"))
    };
    if row.is_direct && row.name != "a second try on a new connection" {
        assert_eq!(text(place.url("/calm")), "calm", "{told}");
    }
    if row.name != "TLS handshake at another address" {
        assert_eq!(text(healthy.url("/")), "well", "{told}");
    }
    // No timer is left, and no source, while the client is there.
    let mut sleep = Sleep { descriptors: 0, for_ever: false };
    let late = Instant::now() + LIMIT;
    while sleep != before.0 {
        assert!(Instant::now() < late, "{told}: the loop waits for {sleep:?}, and did for {:?}", before.0);
        network::iteration(false);
        sleep = watcher.sleep();
    }
    drop(client);
    // No connection, no descriptor.
    wait(format!("{told}: connections stay"), || {
        network::iteration(false);
        stage.open.load(Ordering::SeqCst) == 0
    });
    wait(format!("{told}: {} descriptors, and {} before", descriptors(), before.1), || {
        network::iteration(false);
        descriptors() <= before.1
    });
    // No task: it would hold the client or its body.
    assert_eq!(Rc::strong_count(&place.guard), 1, "{told}");
    assert!(!place.directory.path("down").exists() || row.name == "fsync", "{told}");
}

fn at_every_state(name: &str, rows: fn() -> Vec<Row>, least: usize) {
    // Descriptors are counted, so there must be no other test.
    if !alone(&format!("cancelled::{name}")) {
        return;
    }
    let healthy = Server::answering(|_| response("200 OK", "", "well"));
    let watcher = Watcher::new();
    let rows = rows();
    assert!(rows.len() >= least, "{} states", rows.len());
    for row in rows {
        for way in [Way::Drop, Way::Cancellable, Way::Timeout] {
            let awaits = ![Take::Held, Take::Callbacks].contains(&row.take) && row.name != "lookup";
            if way == Way::Drop || awaits {
                on_own_context(|| give_up(&row, way, &watcher, &healthy));
            }
        }
    }
}

#[test]
fn while_connecting() {
    at_every_state("while_connecting", connecting, 15);
}

#[test]
fn while_sending() {
    at_every_state("while_sending", sending, 7);
}

#[test]
fn while_receiving() {
    at_every_state("while_receiving", receiving, 18);
}

#[test]
fn while_taking_the_body() {
    at_every_state("while_taking_the_body", taking, 9);
}
