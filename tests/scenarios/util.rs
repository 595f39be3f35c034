//! What the scenarios share: private main contexts, waiting for events, and joined pairs of sockets of each kind.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use network::{Server, Socket};

pub use crate::common::on_own_context;

/// Nothing here takes this long; whatever does hangs.
const HANGS: Duration = Duration::from_secs(60);

/// Runs the loop until something is the case.
#[track_caller]
pub fn until(what: impl Fn() -> bool) {
    let late = Arc::new(AtomicBool::new(false));
    let flag = late.clone();
    let watchdog = glib::source::timeout_source_new(HANGS, None, glib::Priority::HIGH, move || {
        flag.store(true, Ordering::Relaxed);
        glib::ControlFlow::Continue
    });
    watchdog.attach(Some(&glib::MainContext::ref_thread_default()));
    while !what() && !late.load(Ordering::Relaxed) {
        network::iteration(true);
    }
    watchdog.destroy();
    assert!(!late.load(Ordering::Relaxed), "what was waited for did not happen");
}

/// Runs the loop until it has nothing more to do.
pub fn settle() {
    while network::iteration(false) {}
}

/// The kinds of connections that must behave alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Tcp,
    Unix,
    Tls,
}

pub const KINDS: [Kind; 3] = [Kind::Tcp, Kind::Unix, Kind::Tls];

/// Where this run's certificates are.
pub fn certificates() -> &'static std::path::Path {
    // Statics are not dropped: where cargo keeps such things, what stays behind is out of the way.
    static DIRECTORY: std::sync::LazyLock<tempfile::TempDir> =
        std::sync::LazyLock::new(|| tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
    DIRECTORY.path()
}

/// Trusts this run's certificates.
pub fn trust() -> network::ClientTls {
    network::ClientTls::new().directory(certificates())
}

/// A builder for clients of that kind.
pub fn client(kind: Kind) -> network::socket::SocketBuilder {
    match kind {
        Kind::Tls => Socket::builder().tls(trust()),
        _ => Socket::builder(),
    }
}

/// A builder for servers of that kind.
pub fn server(kind: Kind) -> network::server::ServerBuilder {
    match kind {
        Kind::Unix => Server::builder(),
        Kind::Tcp => Server::builder().tls(false),
        Kind::Tls => Server::builder().tls(network::ServerTls::new().directory(certificates())),
    }
}

/// Runs a scenario for each kind of connection, each on a main context of its own.
pub fn for_each_kind(scenario: impl Fn(Kind)) {
    for kind in KINDS {
        eprintln!("over {kind:?}");
        on_own_context(|| scenario(kind));
    }
}

/// The kinds whose descriptor can be taken out.
pub fn for_each_plain_kind(scenario: impl Fn(Kind)) {
    for_each_kind(|kind| {
        if kind != Kind::Tls {
            scenario(kind);
        }
    });
}

/// A path that no other test uses.
pub fn fresh_path(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let serial = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("network-test-{}-{serial}-{name}", std::process::id()))
}

/// Where a server of that kind may listen.
pub fn listen_address(kind: Kind) -> String {
    match kind {
        Kind::Tcp | Kind::Tls => "0".into(),
        Kind::Unix => fresh_path("socket").to_str().unwrap().into(),
    }
}

/// The address to reach a server of that kind.
pub fn address_of(server: &Server, kind: Kind) -> String {
    match kind {
        Kind::Unix => server.local()[0].to_string(),
        Kind::Tcp => format!("tcp://localhost:{}", server.port()),
        Kind::Tls => format!("tls://localhost:{}", server.port()),
    }
}

/// A server, and the address to reach it.
pub fn serve(kind: Kind, on_client: impl FnMut(Socket) -> network::Result + 'static) -> (Server, String) {
    serve_with(server(kind), kind, on_client)
}

/// The same with options.
pub fn serve_with(
    builder: network::server::ServerBuilder,
    kind: Kind,
    on_client: impl FnMut(Socket) -> network::Result + 'static,
) -> (Server, String) {
    let server = builder.listen(listen_address(kind).as_str(), on_client).unwrap();
    let address = address_of(&server, kind);
    (server, address)
}

/// Connects without blocking the loop, which may have to serve the other end.
#[track_caller]
pub fn connect(address: &str) -> Socket {
    try_connect(Socket::builder(), address).unwrap()
}

#[track_caller]
pub fn try_connect(builder: network::socket::SocketBuilder, address: &str) -> network::Result<Socket> {
    let outcome = Rc::new(RefCell::new(None));
    let place = outcome.clone();
    let builder = match address.starts_with("tls://") {
        true => builder.tls(trust()),
        false => builder,
    };
    builder.connect_async(address, gio::Cancellable::NONE, move |result| {
        place.replace(Some(result));
    });
    until(|| outcome.borrow().is_some());
    outcome.take().unwrap()
}

/// A connection seen from both ends.
pub struct Joined {
    pub server: Server,
    pub client: Socket,
    pub served: Socket,
}

#[track_caller]
pub fn join(kind: Kind) -> Joined {
    let place = Rc::new(RefCell::new(None));
    let seen = place.clone();
    let (server, address) = serve(kind, move |socket| {
        seen.replace(Some(socket));
        Ok(())
    });
    let client = connect(&address);
    until(|| place.borrow().is_some());
    let served = place.take().unwrap();
    Joined { server, client, served }
}

/// Something callbacks add to.
pub struct Log<T>(Rc<RefCell<Vec<T>>>);

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        Log(self.0.clone())
    }
}

impl<T: Clone> Log<T> {
    pub fn new() -> Self {
        Log(Rc::default())
    }

    pub fn add(&self, entry: impl Into<T>) {
        self.0.borrow_mut().push(entry.into());
    }

    pub fn all(&self) -> Vec<T> {
        self.0.borrow().clone()
    }

    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }
}

/// Writes lines it gets to the log.
pub fn log_lines(socket: &Socket) -> Log<String> {
    let log = Log::new();
    let lines = log.clone();
    socket.readlines(move |_, line| {
        lines.add(line);
        Ok(())
    });
    log
}

/// Writes the reason of the end, and the leftover, to the log.
pub fn log_end(socket: &Socket) -> Log<(String, Vec<u8>)> {
    let log = Log::new();
    let ends = log.clone();
    socket.disconnect_cb(move |_, end| ends.add((end.reason.to_string(), end.leftover)));
    log
}

pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n / 251 + n) as u8).collect()
}
