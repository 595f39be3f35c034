//! Links over real networks that come and go, with real servers, in real time. Each case is a process in namespaces of its own, and
//! all run side by side: most of them wait.
//!
//! A case that misses is run once more, and both runs are printed. On a machine that is loaded all bounds are doubled. The names of
//! cases as arguments run those alone.

mod common;

use std::cell::RefCell;
use std::process::{Child, Command};
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::{LIMIT, Process, TempDir, Watch, beside, command, parties, party, tool, without_family};
use network::link::{Down, LinkBuilder, NetworkWatch, State};
use network::{ClientTls, Error, Link, Socket};
use rustix::net::{AddressFamily, sockopt};
use rustix::process::Signal;

const CASES: [(&str, fn()); 23] = [
    ("python_is_killed", || restarts(&Python, Signal::KILL)),
    ("python_is_ended", || restarts(&Python, Signal::TERM)),
    ("mosquitto_is_killed", || restarts(&Mosquitto, Signal::KILL)),
    ("mosquitto_is_ended", || restarts(&Mosquitto, Signal::TERM)),
    ("redis_is_killed", || restarts(&Redis, Signal::KILL)),
    ("redis_is_ended", || restarts(&Redis, Signal::TERM)),
    ("own_link_goes_down_and_up", own_link_goes_down_and_up),
    ("own_address_is_exchanged", own_address_is_exchanged),
    ("own_address_is_only_verified", own_address_is_only_verified),
    ("far_link_goes_down_and_up", far_link_goes_down_and_up),
    ("black_hole_while_idle", black_hole_while_idle),
    ("black_hole_with_data_on_the_way", || black_hole_with_data_on_the_way(None, secs(62))),
    ("black_hole_with_a_user_timeout", || black_hole_with_data_on_the_way(Some(secs(6)), secs(7))),
    ("peer_is_stopped", peer_is_stopped),
    ("quiet_peer_is_probed", quiet_peer_is_probed),
    ("certificate_is_another", certificate_is_another),
    ("network_cannot_be_watched", network_cannot_be_watched),
    (UNWATCHED, unwatched),
    ("this_process_is_stopped", this_process_is_stopped),
    ("unanswered_probe", unanswered_probe),
    ("idle_link_sleeps", idle_link_sleeps),
    ("offline_at_first", offline_at_first),
    ("everything_comes_and_goes", everything_comes_and_goes),
];

/// Run by another case alone, in a sandbox.
const UNWATCHED: &str = "unwatched";

const CASE: &str = "STAYING_CASE";
const LOADED: &str = "STAYING_LOADED";

const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn main() {
    if let Ok(name) = std::env::var(CASE) {
        let (_, case) = CASES.iter().find(|(known, _)| *known == name).unwrap();
        return case();
    }
    if !parties::has_namespaces() {
        println!("not run: this user may not have namespaces");
        return;
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted =
        |name: &str| name != UNWATCHED && (wanted.is_empty() || wanted.iter().any(|part| name.contains(part)));
    let (begun, is_loaded) = (Instant::now(), is_loaded());
    let results: Vec<(&str, bool)> = std::thread::scope(|scope| {
        let cases = CASES.iter().filter(|(name, _)| is_wanted(name));
        let threads: Vec<_> = cases.map(|(name, _)| (*name, scope.spawn(move || run_twice(name, is_loaded)))).collect();
        threads.into_iter().map(|(name, thread)| (name, thread.join().unwrap())).collect()
    });
    let failed: Vec<_> = results.iter().filter(|(_, good)| !good).map(|(name, _)| *name).collect();
    let load = if is_loaded { ", on a loaded machine" } else { "" };
    println!(
        "{} cases in {:.1} s{load}, {} failed: {failed:?}",
        results.len(),
        begun.elapsed().as_secs_f64(),
        failed.len()
    );
    std::process::exit(i32::from(!failed.is_empty()));
}

/// Returns whether more wants to run than there are processors.
fn is_loaded() -> bool {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    let load: f64 = load.split(' ').next().unwrap().parse().unwrap();
    load > std::thread::available_parallelism().unwrap().get() as f64
}

fn run_twice(name: &str, is_loaded: bool) -> bool {
    let first = run_case(name, is_loaded);
    first || run_case(name, is_loaded)
}

/// Runs a case in namespaces of its own and prints what it says.
fn run_case(name: &str, is_loaded: bool) -> bool {
    let begun = Instant::now();
    let place = TempDir::new();
    let unshare = parties::unshare(&["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "150"]).arg(unshare.get_program()).args(unshare.get_args());
    let mut command = parties::without_proxies(command);
    // Not as the first process of the namespace, which signals from inside do not stop.
    command.args(["sh", "-c", "\"$0\"; exit $?"]);
    command.arg(std::env::current_exe().unwrap()).env(CASE, name).env("TMPDIR", place.path(""));
    if is_loaded {
        command.env(LOADED, "1");
    }
    let output = command.output().unwrap();
    let good = output.status.success();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).replace('\n', "\n    "));
    let result = if good { "ok" } else { "MISSED" };
    println!("{name}: {result}, {:.1} s\n    {}{}", begun.elapsed().as_secs_f64(), text[0], text[1]);
    good
}

// ---- what is measured ----

/// Fails if something took longer than it may.
#[track_caller]
fn check(what: &str, took: Duration, most: Duration) {
    let most = if std::env::var_os(LOADED).is_some() { 2 * most } else { most };
    println!("{what}: {:.2} s, at most {:.2} s", took.as_secs_f64(), most.as_secs_f64());
    assert!(took <= most, "{what} took {took:?}");
}

/// Runs the loop until something is the case.
#[track_caller]
fn until(limit: Duration, what: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < limit, "what was waited for did not happen within {limit:?}");
        network::fgloop_for(ms(5));
    }
    begun.elapsed()
}

/// Runs the loop until the network has been quiet for some seconds. Addresses of IPv6 take their time.
fn settle() {
    let last = Rc::new(RefCell::new(Instant::now()));
    let changed = last.clone();
    let watch = NetworkWatch::new(move |_| *changed.borrow_mut() = Instant::now()).unwrap();
    until(LIMIT, || last.borrow().elapsed() > secs(3));
    drop(watch);
}

/// The callbacks of a link, in order.
#[derive(Clone, Default)]
struct Story(Rc<RefCell<Vec<Told>>>);

enum Told {
    Up(Instant),
    Down { was_up: bool, next: Option<Duration>, reason: String },
    GaveUp(Error),
}

impl Story {
    fn builder(&self) -> LinkBuilder {
        let (down, gave_up) = (self.0.clone(), self.0.clone());
        Link::builder()
            .socket(Socket::builder().tls(false))
            .down_cb(move |_, told: &Down| {
                let (was_up, next, reason) = (told.was_up.is_some(), told.next, told.reason.to_string());
                println!("  down, next {next:?}: {reason}");
                down.borrow_mut().push(Told::Down { was_up, next, reason });
            })
            .gave_up_cb(move |_, error| gave_up.borrow_mut().push(Told::GaveUp(error)))
    }

    fn up(&self, hello: &'static [u8]) -> impl FnMut(&Socket) -> network::Result + 'static {
        let told = self.0.clone();
        move |socket| {
            println!("  up");
            socket.read(|_, _| Ok(()));
            told.borrow_mut().push(Told::Up(Instant::now()));
            socket.send(hello)
        }
    }

    /// Starts a link, and waits until it is up.
    #[track_caller]
    fn start(&self, builder: LinkBuilder, address: &str) -> Link {
        self.start_with(b"", builder, address)
    }

    /// The same; each connection begins with these bytes.
    #[track_caller]
    fn start_with(&self, hello: &'static [u8], builder: LinkBuilder, address: &str) -> Link {
        let link = builder.start(address, self.up(hello)).unwrap();
        until(LIMIT, || self.ups() == 1);
        assert!(matches!(link.state(), State::Up), "{:?}", link.state());
        link
    }

    fn ups(&self) -> usize {
        self.0.borrow().iter().filter(|told| matches!(told, Told::Up(_))).count()
    }

    /// The ends of connections that were up.
    fn ends(&self) -> usize {
        self.0.borrow().iter().filter(|told| matches!(told, Told::Down { was_up: true, .. })).count()
    }

    /// The tries that have failed.
    fn failures(&self) -> usize {
        self.0.borrow().iter().filter(|told| matches!(told, Told::Down { was_up: false, .. })).count()
    }

    /// The waits that followed, in order.
    fn waits(&self) -> Vec<Duration> {
        let story = self.0.borrow();
        story.iter().filter_map(|told| if let Told::Down { next, .. } = told { *next } else { None }).collect()
    }

    fn last_up(&self) -> Instant {
        let story = self.0.borrow();
        let ups = story.iter().rev().filter_map(|told| if let Told::Up(when) = told { Some(*when) } else { None });
        ups.into_iter().next().unwrap()
    }
}

// ---- networks ----

fn ip(arguments: &str) {
    let done = tool("/usr/sbin/ip").args(arguments.split(' ')).status().unwrap();
    assert!(done.success(), "ip {arguments}");
}

/// Another network, kept by a process that does nothing else.
struct Elsewhere(Child);

impl Elsewhere {
    fn new() -> Elsewhere {
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let mut holder = Command::new("unshare");
        holder.args(["--net", "sleep", "infinity"]);
        let elsewhere = Elsewhere(holder.spawn().unwrap());
        let begun = Instant::now();
        while std::fs::read_link(elsewhere.path()).is_ok_and(|other| other == own) {
            assert!(begun.elapsed() < LIMIT, "no other network");
            std::thread::sleep(ms(1));
        }
        elsewhere.ip("link set lo up");
        elsewhere
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    /// Brings an interface there.
    fn takes(&self, name: &str) {
        ip(&format!("link set {name} netns {}", self.0.id()));
    }

    /// The same command, to be run there.
    fn place(&self, inner: &Command) -> Command {
        let mut command = command("/usr/bin/nsenter", [format!("--net={}", self.path())]);
        command.arg(inner.get_program()).args(inner.get_args());
        command
    }

    fn ip(&self, arguments: &str) {
        let mut inner = Command::new("/usr/sbin/ip");
        inner.args(arguments.split(' '));
        assert!(self.place(&inner).status().unwrap().success(), "there: ip {arguments}");
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The port of all servers.
const PORT: u16 = 4000;

/// The address of a server at the other end of the cable.
const FAR: &str = "192.0.2.2:4000";

/// The address of a server behind a router.
const FAR_AWAY: &str = "198.51.100.2:4000";

/// This machine, and another with a server on a cable between them.
fn cable() -> (Elsewhere, Process) {
    let far = Elsewhere::new();
    ip("link add name near type veth peer name far");
    far.takes("far");
    let server = start_far(&far, "192.0.2.2");
    (far, server)
}

/// The same with a router between: what it drops, nobody is told of.
fn router() -> (Elsewhere, Elsewhere, Process) {
    let (middle, far) = (Elsewhere::new(), Elsewhere::new());
    for (end, port) in [("near", "to-near"), ("far", "to-far")] {
        ip(&format!("link add name {end} type veth peer name {port}"));
        middle.takes(port);
        middle.ip(&format!("link set {port} up"));
    }
    middle.ip("addr add 192.0.2.254/24 dev to-near");
    middle.ip("addr add 198.51.100.254/24 dev to-far");
    let mut forward = Command::new("sh");
    forward.args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
    assert!(middle.place(&forward).status().unwrap().success());
    far.takes("far");
    let server = start_far(&far, "198.51.100.2");
    far.ip("route add default via 198.51.100.254");
    ip("route add default via 192.0.2.254");
    (middle, far, server)
}

fn cut(middle: &Elsewhere) {
    middle.ip("route add blackhole 192.0.2.1/32");
    middle.ip("route add blackhole 198.51.100.2/32");
}

/// Both ends get their addresses, and the far one its server.
fn start_far(far: &Elsewhere, address: &str) -> Process {
    ip("link set lo up");
    ip("addr add 192.0.2.1/24 dev near");
    ip("link set near up");
    far.ip(&format!("addr add {address}/24 dev far"));
    far.ip("link set far up");
    let server = Process::start(&mut far.place(&Python.command()), Watch::Stdout);
    server.line_with(Python.ready());
    server
}

// ---- servers ----

trait Party {
    /// The server, on [`PORT`].
    fn command(&self) -> Command;

    /// The words by which it tells that it listens.
    fn ready(&self) -> &'static str;

    fn watch(&self) -> Watch {
        Watch::Stdout
    }

    /// A client's first words.
    fn hello(&self) -> &'static [u8] {
        b""
    }

    /// Something that is answered.
    fn ping(&self) -> &'static [u8] {
        b"PING\r\n"
    }
}

/// Echoes lines, closes at "bye", and tells of each client.
struct Python;

const ECHO: &str = r#"
import socket, sys, threading
family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
listener = socket.create_server(("", int(sys.argv[1])), family=family, dualstack_ipv6=family == socket.AF_INET6)
print("listening", flush=True)
def serve(peer):
    with peer, peer.makefile("rwb", 0) as stream:
        for line in stream:
            if line == b"bye\n":
                peer.shutdown(socket.SHUT_RDWR)
                return
            stream.write(line)
while True:
    peer, _ = listener.accept()
    print("client", flush=True)
    threading.Thread(target=serve, args=(peer,), daemon=True).start()
"#;

impl Party for Python {
    fn command(&self) -> Command {
        let mut command = tool("/usr/bin/python3");
        command.args(["-c", ECHO, &PORT.to_string()]);
        command
    }

    fn ready(&self) -> &'static str {
        "listening"
    }
}

/// Speaks MQTT 3.1.1.
struct Mosquitto;

impl Party for Mosquitto {
    fn command(&self) -> Command {
        // As the user that it is: there may be no other in this namespace.
        let settings = format!("listener {PORT} 127.0.0.1\nallow_anonymous true\nuser root\n");
        let file = std::env::temp_dir().join("mosquitto.conf");
        std::fs::write(&file, settings).unwrap();
        let mut command = party("mosquitto");
        command.arg("-c").arg(file);
        command
    }

    fn ready(&self) -> &'static str {
        "running"
    }

    fn watch(&self) -> Watch {
        Watch::Stderr
    }

    fn hello(&self) -> &'static [u8] {
        // CONNECT, for a clean session of the client "link".
        b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04link"
    }

    fn ping(&self) -> &'static [u8] {
        // PINGREQ.
        b"\xc0\0"
    }
}

struct Redis;

impl Party for Redis {
    fn command(&self) -> Command {
        let mut command = party("redis-server");
        command.args(["--port", &PORT.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir", "/"]);
        command
    }

    fn ready(&self) -> &'static str {
        "Ready to accept connections"
    }
}

// ---- the cases ----

fn restarts(server: &'static dyn Party, signal: Signal) {
    const AWAY: Duration = secs(3);
    ip("link set lo up");
    let start = |command: &mut Command, watch, ready: &'static str| {
        let process = Process::start(command, watch);
        process.line_with(ready);
        (process, Instant::now())
    };
    let (process, _) = start(&mut server.command(), server.watch(), server.ready());
    let story = Story::default();
    let builder = story.builder().heartbeat(secs(1), |socket| socket.send(server.ping()));
    let link = story.start_with(server.hello(), builder, &format!("127.0.0.1:{PORT}"));
    // Some heartbeats.
    network::fgloop_for(secs(3));
    assert_eq!((story.ups(), story.ends()), (1, 0));
    process.signal(signal);
    until(LIMIT, || story.ends() == 1);
    drop(process);
    network::fgloop_for(AWAY);
    let (mut command, watch, ready) = (server.command(), server.watch(), server.ready());
    let (_process, listens) = beside(move || start(&mut command, watch, ready));
    until(LIMIT, || story.ups() == 2);
    let took = story.last_up().saturating_duration_since(listens);
    let (waits, failures) = (story.waits(), story.failures());
    check("up after it listens", took, secs(2));
    println!("{failures} failed tries, waits {waits:?}");
    assert_eq!(waits.len(), failures + 1, "one for each failed try, one for the end");
    assert!(story.ends() == 1 && (1..=6).contains(&failures));
    network::fgloop_for(secs(2));
    assert!(matches!(link.state(), State::Up) && story.ups() == 2);
}

fn own_link_goes_down_and_up() {
    let (_far, _server) = cable();
    let story = Story::default();
    let link = story.start(story.builder(), FAR);
    settle();
    let begun = Instant::now();
    ip("link set near down");
    until(LIMIT, || matches!(link.state(), State::Offline));
    check("offline", begun.elapsed(), secs(6));
    network::fgloop_for(secs(6).saturating_sub(begun.elapsed()));
    assert!(matches!(link.state(), State::Offline), "{:?}", link.state());
    assert_eq!(story.failures(), 0, "nobody can be reached");
    let back = Instant::now();
    ip("link set near up");
    until(LIMIT, || story.ups() == 2);
    check("up", story.last_up() - back, secs(1));
    assert_eq!(story.ends(), 1);
}

fn own_address_is_exchanged() {
    let (_far, _server) = cable();
    let story = Story::default();
    let _link = story.start(story.builder(), FAR);
    settle();
    let begun = Instant::now();
    ip("addr del 192.0.2.1/24 dev near");
    ip("addr add 192.0.2.3/24 dev near");
    until(LIMIT, || story.ends() == 1);
    check("noticed", begun.elapsed(), ms(500));
    until(LIMIT, || story.ups() == 2);
    check("up", story.last_up() - begun, ms(1500));
}

/// An address of IPv6 that was renewed cannot be used until the kernel has looked for others that have it. It is not gone.
fn own_address_is_only_verified() {
    let (far, _server) = cable();
    if !common::has_ipv6() {
        return;
    }
    far.ip("addr add 2001:db8::2/64 dev far nodad");
    ip("addr add 2001:db8::1/64 dev near nodad");
    let story = Story::default();
    let link = story.start(story.builder(), &format!("[2001:db8::2]:{PORT}"));
    settle();
    ip("addr del 2001:db8::1/64 dev near");
    ip("addr add 2001:db8::1/64 dev near");
    network::fgloop_for(secs(8));
    assert!(matches!(link.state(), State::Up) && story.ends() == 0);
}

fn far_link_goes_down_and_up() {
    let (far, _server) = cable();
    let story = Story::default();
    let link = story.start(story.builder(), FAR);
    settle();
    let begun = Instant::now();
    far.ip("link set far down");
    until(LIMIT, || story.ends() == 1);
    check("noticed", begun.elapsed(), secs(7));
    network::fgloop_for(secs(5));
    assert!(!matches!(link.state(), State::Offline), "this end has an address");
    let back = Instant::now();
    far.ip("link set far up");
    until(LIMIT, || story.ups() == 2);
    check("up", story.last_up() - back, ms(1500));
}

fn black_hole_while_idle() {
    let (middle, _far, _server) = router();
    let story = Story::default();
    let _link = story.start(story.builder(), FAR_AWAY);
    settle();
    let begun = Instant::now();
    cut(&middle);
    until(secs(140), || story.ends() == 1);
    check("noticed", begun.elapsed(), secs(61));
}

fn black_hole_with_data_on_the_way(limit: Option<Duration>, most: Duration) {
    let (middle, _far, _server) = router();
    let story = Story::default();
    let builder = match limit {
        Some(limit) => story.builder().socket(Socket::builder().tls(false).user_timeout(limit)),
        None => story.builder(),
    };
    let link = story.start(builder, FAR_AWAY);
    settle();
    cut(&middle);
    let begun = Instant::now();
    link.send([b'x'; 1000]).unwrap();
    until(secs(140), || story.ends() == 1);
    check("noticed", begun.elapsed(), most);
}

fn peer_is_stopped() {
    let (_far, server) = cable();
    let story = Story::default();
    let link = story.start(story.builder().heartbeat(secs(2), |socket| socket.sendline("PING")), FAR);
    network::fgloop_for(secs(5));
    assert!(matches!(link.state(), State::Up) && story.ends() == 0, "it answers");
    let begun = Instant::now();
    server.signal(Signal::STOP);
    until(secs(60), || story.ends() == 1);
    check("noticed", begun.elapsed(), secs(13));
    assert!(matches!(&story.0.borrow()[1], Told::Down { reason, .. } if reason.contains("timed out")));
    server.signal(Signal::CONT);
    until(LIMIT, || story.ups() == 2);
}

/// The settings that a probe changes, as the kernel has them.
fn settings(socket: &Socket) -> (bool, [Duration; 2], [u32; 2]) {
    let times = [sockopt::tcp_keepidle(socket).unwrap(), sockopt::tcp_keepintvl(socket).unwrap()];
    let numbers = [sockopt::tcp_keepcnt(socket).unwrap(), sockopt::tcp_user_timeout(socket).unwrap()];
    (sockopt::socket_keepalive(socket).unwrap(), times, numbers)
}

fn quiet_peer_is_probed() {
    let (_far, _server) = cable();
    let story = Story::default();
    let link = story.start(story.builder(), FAR);
    let socket = link.socket().unwrap();
    let before = settings(&socket);
    assert_eq!(before, (true, [secs(30), secs(10)], [3, 60_000]), "the defaults of a link");
    // The next one is sent a second after an answer, so this is done twice at a time.
    let other = Socket::builder().tls(false).connect(FAR).unwrap();
    let others = settings(&other);
    for _ in 0..50 {
        socket.probe().unwrap();
        other.probe().unwrap();
        assert!(settings(&socket) != before && settings(&other) != others);
        until(LIMIT, || settings(&socket) == before && settings(&other) == others);
    }
    assert!(matches!(link.state(), State::Up) && story.ends() == 0 && other.is_open());
}

/// Without a link.
fn unanswered_probe() {
    let (middle, _far, _server) = router();
    let socket = Socket::builder().tls(false).user_timeout(secs(60)).connect(FAR_AWAY).unwrap();
    let ended = Rc::new(RefCell::new(None));
    let end = ended.clone();
    socket.disconnect_cb(move |_, told| drop(end.replace(Some(told.reason.to_string()))));
    // Long silence is no reason to end at the first probe.
    settle();
    let before = settings(&socket);
    socket.probe().unwrap();
    network::fgloop_for(secs(2));
    assert_eq!(settings(&socket), before);
    cut(&middle);
    let begun = Instant::now();
    socket.probe().unwrap();
    until(LIMIT, || ended.borrow().is_some());
    check("noticed", begun.elapsed(), secs(6));
    assert!(begun.elapsed() > secs(4), "five probes are sent");
}

const TLS: &str = r#"
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2])
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen()
print("listening", flush=True)
peers = []
while True:
    peer, _ = listener.accept()
    print("client", flush=True)
    try: peers.append(context.wrap_socket(peer, server_side=True))
    except OSError: pass
"#;

fn certificate_is_another() {
    ip("link set lo up");
    let place = TempDir::new();
    let server = |name: &str| {
        let file = place.path(name);
        let mut openssl = tool("/usr/bin/openssl");
        openssl.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=test",
        ]);
        openssl.args(["-days", "10", "-keyout"]).arg(&file).arg("-out").arg(place.path("certificate"));
        common::run(&mut openssl, "");
        let both = [&file, &place.path("certificate")].map(|part| std::fs::read_to_string(part).unwrap()).concat();
        std::fs::write(&file, both).unwrap();
        let mut python = tool("/usr/bin/python3");
        python.args(["-c", TLS, &PORT.to_string()]).arg(file);
        let process = Process::start(&mut python, Watch::Stdout);
        process.line_with("listening");
        process
    };
    let story = Story::default();
    let first = server("first");
    let tls = ClientTls::on_first_use().directory(place.path("own"));
    let builder = story.builder().socket(Socket::builder().tls(tls));
    let link = story.start(builder, &format!("127.0.0.1:{PORT}"));
    drop(first);
    let second = server("second");
    until(LIMIT, || matches!(link.state(), State::Over));
    network::fgloop_for(secs(3));
    let story = story.0.borrow();
    let Some(Told::GaveUp(Error::CertificateChanged { .. })) = story.last() else { panic!("{} calls", story.len()) };
    let Told::Down { was_up: false, next: None, reason } = &story[story.len() - 2] else { panic!() };
    assert!(reason.contains("HAS CHANGED"), "{reason}");
    second.signal(Signal::TERM);
    assert_eq!(second.finish().text().matches("client").count(), 1, "it is not tried again");
}

fn network_cannot_be_watched() {
    let (_far, _server) = cable();
    let mut inner = without_family(AddressFamily::NETLINK, 1);
    inner.arg(std::env::current_exe().unwrap()).env(CASE, UNWATCHED);
    assert!(inner.status().unwrap().success());
}

fn unwatched() {
    let warnings = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = warnings.clone();
    network::log::set_log(network::log::Level::Warning, move |record| {
        seen.lock().unwrap().push(record.message.to_owned());
    });
    let story = Story::default();
    let link = story.start(story.builder(), FAR);
    let other = Story::default();
    let _other = other.start(other.builder(), FAR);
    for round in 1..4 {
        link.sendline("bye").unwrap();
        until(LIMIT, || story.ups() == 1 + round);
    }
    assert!(story.ends() == 3 && other.ends() == 0);
    let warnings = warnings.lock().unwrap();
    assert!(warnings.len() == 1 && warnings[0].contains("cannot notice changes of the network"), "{warnings:?}");
}

fn idle_link_sleeps() {
    let (_far, _server) = cable();
    let story = Story::default();
    let link = story.start(story.builder(), FAR);
    settle();
    let sleeps = || {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        line.trim().parse::<u32>().unwrap()
    };
    // Before the first probe of keep-alive, which wakes nobody either.
    for time in [secs(20), secs(40)] {
        let before = sleeps();
        network::fgloop_for(time);
        let wakeups = sleeps() - before;
        println!("{wakeups} wake-ups in {time:?}");
        assert!(wakeups <= 2, "the end of that time is one");
    }
    assert!(matches!(link.state(), State::Up) && story.ends() == 0);
}

fn offline_at_first() {
    ip("link set lo up");
    let far = Elsewhere::new();
    let story = Story::default();
    let link = story.builder().start(FAR, story.up(b"")).unwrap();
    until(LIMIT, || matches!(link.state(), State::Offline));
    network::fgloop_for(secs(3));
    ip("link add name near type veth peer name far");
    far.takes("far");
    network::fgloop_for(secs(2));
    assert!(matches!(link.state(), State::Offline) && story.0.borrow().is_empty(), "nothing is tried");
    let mut server = far.place(&Python.command());
    let _server = Process::start(&mut server, Watch::Stdout);
    far.ip("addr add 192.0.2.2/24 dev far");
    far.ip("link set far up");
    ip("link set near up");
    settle();
    let begun = Instant::now();
    ip("addr add 192.0.2.1/24 dev near");
    until(LIMIT, || story.ups() == 1);
    check("up", begun.elapsed(), ms(1500));
}

fn everything_comes_and_goes() {
    let (far, mut server) = cable();
    let story = Story::default();
    let link = story.start(story.builder().heartbeat(secs(2), |socket| socket.sendline("PING")), FAR);
    let start = |far: &Elsewhere| {
        let process = Process::start(&mut far.place(&Python.command()), Watch::Stdout);
        process.line_with(Python.ready());
        process
    };
    let seed = std::env::var("STAYING_SEED").map_or(15, |seed| seed.parse().unwrap());
    let dice = common::noise(80, seed);
    for roll in dice.chunks(2) {
        match roll[0] % 6 {
            0 => ip("link set near down"),
            1 => ip("link set near up"),
            2 => far.ip("link set far down"),
            3 => far.ip("link set far up"),
            4 => {
                let way = |what| format!("addr {what} 192.0.2.1/24 dev near");
                ip(&way(if roll[1] % 2 == 0 { "replace" } else { "flush" }).replace("flush 192.0.2.1/24", "flush"));
            }
            _ => {
                drop(server);
                server = start(&far);
            }
        }
        network::fgloop_for(ms(u64::from(roll[1]) * 6));
    }
    ip("addr replace 192.0.2.1/24 dev near");
    ip("link set near up");
    let begun = Instant::now();
    far.ip("link set far up");
    // A connection that is dead by now may not have been found so yet.
    network::fgloop_for(secs(8));
    let took = until(secs(60), || matches!(link.state(), State::Up));
    println!("{} ups, {} ends, {} failed tries", story.ups(), story.ends(), story.failures());
    check("up in the end", secs(8) + took, secs(12));
    println!("up {:?} after it was all there", story.last_up().saturating_duration_since(begun));
    network::fgloop_for(secs(14));
    assert!(matches!(link.state(), State::Up));
    let mut is_up = false;
    for told in &*story.0.borrow() {
        let becomes_up = match told {
            Told::Up(_) => true,
            Told::Down { was_up, next, .. } => {
                assert_eq!(*was_up, is_up, "each end is told once, and each try that failed");
                assert!(next.is_none_or(|next| next <= secs(30)));
                false
            }
            Told::GaveUp(error) => panic!("{error}"),
        };
        assert!(!(is_up && becomes_up), "two connections at a time");
        is_up = becomes_up;
    }
    assert_eq!(story.ups(), story.ends() + 1);
}

fn this_process_is_stopped() {
    let (_far, _server) = cable();
    let story = Story::default();
    let link = story.start(story.builder().heartbeat(secs(2), |socket| socket.sendline("PING")), FAR);
    let mut stop = Command::new("sh");
    stop.args(["-c", "kill -STOP $PPID; sleep 20; kill -CONT $PPID"]);
    let begun = Instant::now();
    let mut stop = stop.spawn().unwrap();
    until(secs(60), || begun.elapsed() > secs(20));
    network::fgloop_for(secs(14));
    assert!(stop.wait().unwrap().success());
    assert!(matches!(link.state(), State::Up) && story.ends() == 0, "that was not the peer's silence");
}
