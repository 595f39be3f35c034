//! SRV records, against dnsmasq and against a name server that fails, lies and is silent. Each test runs in network and mount
//! namespaces of its own, with nothing but `lo` and its own `/etc/resolv.conf`.

mod common;
#[path = "common/name_server.rs"]
mod name_server;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::{LIMIT, Process, TempDir, Watch, await_it, command, example, on_own_context, told, tool, until};
use gio::prelude::*;
use network::socket::Proxy;
use network::{Address, ClientTls, Error, Result, Server, ServerTls, Socket, names};

/// Far less than the C library waits for a name server (5 s, twice), far more than anything here takes.
const SOON: Duration = Duration::from_secs(3);

/// Runs the calling test once more in namespaces of its own. Returns whether this is in there.
fn in_own_network(test: &str) -> bool {
    if name_server::enter() {
        return true;
    }
    name_server::run_again_inside(test);
    false
}

/// A dnsmasq with these records, for the domain `test`.
fn dnsmasq(records: impl IntoIterator<Item = String>) -> Process {
    let mut dnsmasq = common::party("dnsmasq");
    dnsmasq.args([
        "--no-daemon",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--user=root",
        "--local=/test/",
    ]);
    dnsmasq.args(["--listen-address=127.0.0.1", "--bind-interfaces", "--log-facility=-", "--pid-file"]);
    dnsmasq.args(records.into_iter().map(|record| format!("--{record}")));
    let process = Process::start(&mut dnsmasq, Watch::Stderr);
    process.line_with("started");
    process
}

/// Serves a zone of lines: `name A address`, `name CNAME name`, `name SRV priority weight port target`; `name RCODE number`;
/// `name SILENT`; `name TRUNCATED` (by UDP), `name CUT` (by UDP and then by TCP), `name GARBAGE`. Labels may have escapes.
const FAULTS: &str = r#"
import socket, struct, sys, threading
zone = {}
for line in sys.argv[1:]:
    name, kind, *rest = line.split(" ")
    zone.setdefault(name, []).append((kind, rest))

def encode(name):
    out = b""
    for label in name.split("."):
        if label:
            label = label.encode().decode("unicode_escape").encode("latin-1")
            out += bytes([len(label)]) + label
    return out + b"\0"

def record(owner, kind, data):
    return encode(owner) + struct.pack("!HHIH", kind, 1, 0, len(data)) + data

def records(name, asked, depth=0):
    out = []
    for kind, rest in zone.get(name, []):
        if kind == "CNAME" and depth < 9:
            out.append(record(name, 5, encode(rest[0])))
            out += records(rest[0], asked, depth + 1)
        elif kind == "A" and asked == 1:
            out.append(record(name, 1, socket.inet_aton(rest[0])))
        elif kind == "SRV" and asked == 33:
            out.append(record(name, 33, struct.pack("!HHH", *map(int, rest[:3])) + encode(rest[3])))
    return out

def answer(query, is_udp):
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode())
        at += 1 + query[at]
    question = query[12:at + 5]
    name = ".".join(labels).lower()
    kinds = [kind for kind, _ in zone.get(name, [])]
    asked = struct.unpack("!H", query[at + 1:at + 3])[0]
    flags = 0x8180 if name in zone else 0x8183
    if "SILENT" in kinds:
        return None
    if is_udp and ("TRUNCATED" in kinds or "CUT" in kinds):
        return query[:2] + struct.pack("!HHHHH", flags | 0x200, 1, 0, 0, 0) + question
    if "CUT" in kinds:
        return None
    if "GARBAGE" in kinds:
        return query[:2] + struct.pack("!HHHHH", flags, 1, 9, 0, 0) + question + b"\xc0\xff\xc0\x0c\0\x21\0\1\x3f"
    for kind, rest in zone.get(name, []):
        if kind == "RCODE":
            flags |= int(rest[0])
    found = records(name, asked)
    return query[:2] + struct.pack("!HHHHH", flags, 1, len(found), 0, 0) + question + b"".join(found)

def tcp(listener):
    while True:
        peer, _ = listener.accept()
        size = struct.unpack("!H", peer.recv(2, socket.MSG_WAITALL))[0]
        reply = answer(peer.recv(size, socket.MSG_WAITALL), False)
        if reply is not None:
            peer.sendall(struct.pack("!H", len(reply)) + reply)
        peer.close()

listener = socket.create_server(("127.0.0.1", 53))
threading.Thread(target=tcp, args=[listener], daemon=True).start()
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.1", 53))
print("ready", flush=True)
while True:
    query, peer = s.recvfrom(4096)
    reply = answer(query, True)
    if reply is not None:
        s.sendto(reply, peer)
"#;

fn faults<S: AsRef<str>>(zone: impl IntoIterator<Item = S>) -> Process {
    let mut python = tool("/usr/bin/python3");
    python.args(["-c", FAULTS]).args(zone.into_iter().map(|line| line.as_ref().to_string()));
    let process = Process::start(&mut python, Watch::Stdout);
    process.line_with("ready");
    process
}

/// The three kinds of lookup.
fn look_up(service: &str, domain: &str) -> [Result<Vec<(String, u16)>>; 3] {
    [
        names::lookup_service(service, domain),
        told(|callback| names::lookup_service_async(service, domain, gio::Cancellable::NONE, callback)),
        await_it(names::lookup_service_future(service, domain)),
    ]
}

/// Whom the three kinds of connecting reach.
fn connect(address: &str, limit: Duration) -> [Result<SocketAddr>; 3] {
    let builder = || Socket::builder().tls(false).connect_timeout(limit);
    let connected = [
        builder().connect(address),
        told(|callback| builder().connect_async(address, gio::Cancellable::NONE, callback)),
        await_it(builder().connect_future(address)),
    ];
    connected.map(|result| result.map(|socket| socket.remote().inet().unwrap()))
}

/// A listener, and a port of the same address at which nobody listens.
fn ports() -> (TcpListener, u16, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    (listener, port, dead)
}

fn lookup_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    tasks.map(|task| name(task.unwrap())).filter(|name| name.trim() == "network-lookup").count()
}

#[track_caller]
fn is_lookup_error(error: &Error, domain: &str, cause: &str) {
    assert!(matches!(error, Error::Lookup { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with(&format!("cannot resolve \"srv:x.{domain}\": ")) && text.contains(cause), "{text}");
}

// ---- against dnsmasq ----

#[test]
fn targets_come_by_priority_and_at_random_by_weight() {
    if !in_own_network("targets_come_by_priority_and_at_random_by_weight") {
        return;
    }
    let _dnsmasq = dnsmasq(["last,9,20,100", "often,1,10,30", "rarely,2,10,10", "first,3,5,0"].map(|record| {
        let (name, rest) = record.split_once(',').unwrap();
        format!("srv-host=_x._tcp.test,{name}.test,{rest}")
    }));
    on_own_context(|| {
        let mut seconds = HashMap::<String, usize>::new();
        const ROUNDS: usize = 100;
        for _ in 0..ROUNDS {
            for found in look_up("x", "test") {
                let found = found.unwrap();
                assert_eq!(found.len(), 4);
                assert_eq!((&found[0], &found[3]), (&("first.test".into(), 3), &("last.test".into(), 9)));
                *seconds.entry(found[1].0.clone()).or_default() += 1;
            }
        }
        // Three of four, give or take six standard deviations.
        let share = seconds["often.test"] as f64 / (3 * ROUNDS) as f64;
        assert!((0.6..0.9).contains(&share), "{share}");
    });
}

#[test]
fn of_many_targets_the_first_sixteen_are_taken() {
    if !in_own_network("of_many_targets_the_first_sixteen_are_taken") {
        return;
    }
    // Far too much for a datagram: the rest comes by TCP.
    let _dnsmasq =
        dnsmasq((0..100).map(|n| format!("srv-host=_x._tcp.many.test,host-with-a-long-name-{n}.test,{},{n}", n + 1)));
    on_own_context(|| {
        for found in look_up("X", "Many.Test.") {
            let wanted: Vec<(String, u16)> =
                (0..16).map(|n| (format!("host-with-a-long-name-{n}.test"), n + 1)).collect();
            assert_eq!(found.unwrap(), wanted);
        }
    });
}

#[test]
fn what_is_not_there_or_not_offered_says_so() {
    if !in_own_network("what_is_not_there_or_not_offered_says_so") {
        return;
    }
    let _dnsmasq =
        dnsmasq(["srv-host=_x._tcp.closed.test", "host-record=_x._tcp.other.test,127.0.0.1"].map(String::from));
    on_own_context(|| {
        for (domain, cause) in [
            ("nowhere.test", "there is no name _x._tcp.nowhere.test"),
            ("other.test", "_x._tcp.other.test has no SRV records"),
            ("closed.test", "the service is not offered"),
        ] {
            for error in look_up("x", domain).map(Result::unwrap_err) {
                is_lookup_error(&error, domain, cause);
            }
            for error in connect(&format!("srv:x.{domain}"), LIMIT).map(Result::unwrap_err) {
                is_lookup_error(&error, domain, cause);
            }
        }
        for (service, domain) in [("_x", "test"), ("x", ""), ("x", "192.0.2.1"), ("x y", "test")] {
            for error in look_up(service, domain).map(Result::unwrap_err) {
                assert!(matches!(error, Error::Address { .. }), "{error:?}");
            }
        }
        // Each thread has ended with its answer: the process may fork.
        assert_eq!(lookup_threads(), 0);
    });
}

#[test]
fn the_next_target_is_tried_when_one_is_dead() {
    if !in_own_network("the_next_target_is_tried_when_one_is_dead") {
        return;
    }
    let (_listener, port, dead) = ports();
    let srv = |domain: &str, target: &str, port: u16, priority: u16| {
        format!("srv-host=_x._tcp.{domain}.test,{target}.test,{port},{priority}")
    };
    let _dnsmasq = dnsmasq([
        "host-record=here.test,127.0.0.1".into(),
        "cname=alias.test,here.test".into(),
        srv("refused", "here", dead, 1),
        srv("refused", "here", port, 2),
        srv("unknown", "nowhere", port, 1),
        srv("unknown", "here", port, 2),
        srv("alias", "alias", port, 1),
        srv("all-dead", "nowhere", port, 1),
        srv("all-dead", "here", dead, 2),
    ]);
    on_own_context(|| {
        for domain in ["refused", "unknown", "alias"] {
            for remote in connect(&format!("srv:x.{domain}.test"), LIMIT) {
                assert_eq!(remote.unwrap(), SocketAddr::from(([127, 0, 0, 1], port)), "{domain}");
            }
        }
        for error in connect("srv:x.all-dead.test", LIMIT).map(Result::unwrap_err) {
            let text = error.to_string();
            assert!(text.contains("of srv:x.all-dead.test"), "{text}");
        }
        // Neither without the proxy that is set, nor through it; exceptions need none.
        let through = || Proxy::url("socks5://127.0.0.1:9");
        let builder = |proxy| Socket::builder().tls(false).proxy(proxy);
        let error = builder(through()).connect("srv:x.alias.test").unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)) && error.to_string().contains("lookup_service"), "{error}");
        assert!(builder(through().except([".test"])).connect("srv:x.alias.test").is_ok());
        // The steps are told as of a host.
        let steps = Rc::new(RefCell::new(Vec::new()));
        let log = steps.clone();
        let told = Socket::builder().tls(false).progress_cb(move |step| log.borrow_mut().push(format!("{step:?}")));
        assert!(await_it(told.connect_future("srv:x.refused.test")).is_ok());
        assert_eq!(*steps.borrow(), ["LookingUp", "Connecting"]);
    });
}

#[test]
fn netcat_takes_such_an_address() {
    if !in_own_network("netcat_takes_such_an_address") {
        return;
    }
    let mut server = Process::start(
        &mut command(example("netcat"), ["--verbose", "--listen", "--echo", "--tls", "off", "127.0.0.1:0"]),
        Watch::Stderr,
    );
    let port = server.port("listening on");
    let _dnsmasq =
        dnsmasq(["host-record=here.test,127.0.0.1".into(), format!("srv-host=_x._tcp.example.test,here.test,{port}")]);
    let client = common::run(&mut command(example("netcat"), ["--tls", "off", "srv:x.example.test"]), "to and fro");
    assert_eq!(client.text(), "to and fro");
    server.end_input();
    server.await_end();
}

// ---- against a name server that fails ----

#[test]
fn a_name_server_that_fails_or_lies_is_an_error_in_time() {
    if !in_own_network("a_name_server_that_fails_or_lies_is_an_error_in_time") {
        return;
    }
    let _faults = faults([
        "_x._tcp.servfail.test RCODE 2",
        "_x._tcp.refused.test RCODE 5",
        "_x._tcp.garbage.test GARBAGE",
        "_x._tcp.cut.test CUT",
        r"_x._tcp.odd.test SRV 1 0 7 \x1b[0m\n.test",
        "_x._tcp.zero.test SRV 1 0 0 here.test",
        "_x._tcp.circle.test CNAME _x._tcp.circle.test",
        "_x._tcp.silent.test SILENT",
    ]);
    on_own_context(|| {
        for (domain, cause) in [
            ("servfail.test", "no name server answered, or all of them failed"),
            ("refused.test", ""),
            ("garbage.test", "malformed"),
            ("cut.test", ""),
            ("odd.test", r"no target that can be connected to: \027\0910m\010.test:7"),
            ("zero.test", "no target that can be connected to: here.test:0"),
            ("circle.test", "has no SRV records"),
        ] {
            for error in look_up("x", domain).map(Result::unwrap_err) {
                is_lookup_error(&error, domain, cause);
            }
        }
        let limit = Duration::from_millis(100);
        let started = Instant::now();
        for error in connect("srv:x.silent.test", limit).map(Result::unwrap_err) {
            assert!(matches!(&error, Error::TimedOut { limit: told, .. } if *told == limit), "{error:?}");
            assert!(error.to_string().contains("srv:x.silent.test"), "{error}");
        }
        // Given up at any moment.
        let cancellable = gio::Cancellable::new();
        cancellable.cancel();
        let cancelled: Result<Vec<(String, u16)>> =
            told(|callback| names::lookup_service_async("x", "silent.test", Some(&cancellable), callback));
        assert!(matches!(cancelled, Err(Error::Cancelled { .. })), "{cancelled:?}");
        drop(glib::MainContext::ref_thread_default().spawn_local(Socket::connect_future("srv:x.silent.test")));
        network::fgloop_for(Duration::from_millis(20));
        assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    });
}

#[test]
fn what_is_usable_is_used() {
    if !in_own_network("what_is_usable_is_used") {
        return;
    }
    let (_listener, port, _) = ports();
    let _faults = faults([
        "here.test A 127.0.0.1".to_string(),
        "target.test CNAME here.test".into(),
        // By an alias, with an odd target, one without a port, and one whose address is an alias.
        "_x._tcp.alias.test CNAME _y._tcp.real.test".into(),
        r"_y._tcp.real.test SRV 1 0 7 a\x20b\x2f.test".into(),
        "_y._tcp.real.test SRV 2 0 0 here.test".into(),
        format!("_y._tcp.real.test SRV 3 0 {port} target.test"),
        "_x._tcp.truncated.test TRUNCATED".into(),
        format!("_x._tcp.truncated.test SRV 0 0 {port} here.test"),
        // A name without dots is one, and no name of the search list.
        format!("_x._tcp.local.test SRV 0 0 {port} localhost"),
    ]);
    on_own_context(|| {
        for domain in ["alias", "truncated", "local"] {
            for remote in connect(&format!("srv:x.{domain}.test"), LIMIT) {
                assert_eq!(remote.unwrap().port(), port, "{domain}");
            }
        }
        for found in look_up("x", "alias.test") {
            assert_eq!(found.unwrap(), [("target.test".to_string(), port)]);
        }
    });
}

#[test]
fn a_silent_target_gets_its_share_of_the_time() {
    if !in_own_network("a_silent_target_gets_its_share_of_the_time") {
        return;
    }
    let (_listener, port, _) = ports();
    let (hole, _held) = common::black_hole();
    let _faults = faults([
        "here.test A 127.0.0.1".to_string(),
        "silent.test SILENT".into(),
        format!("_x._tcp.hole.test SRV 1 0 {} here.test", hole.port()),
        format!("_x._tcp.hole.test SRV 2 0 {port} here.test"),
        format!("_x._tcp.unresolved.test SRV 1 0 {port} silent.test"),
        format!("_x._tcp.unresolved.test SRV 2 0 {port} here.test"),
        format!("_x._tcp.only-hole.test SRV 1 0 {} here.test", hole.port()),
    ]);
    on_own_context(|| {
        let limit = Duration::from_millis(900);
        for domain in ["hole", "unresolved"] {
            for remote in connect(&format!("srv:x.{domain}.test"), limit) {
                assert_eq!(remote.unwrap().port(), port, "{domain}");
            }
        }
        let started = Instant::now();
        for error in connect("srv:x.only-hole.test", Duration::from_millis(300)).map(Result::unwrap_err) {
            assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
        }
        assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
        // Cancelled while a target is tried.
        let cancellable = gio::Cancellable::new();
        let outcome = Rc::new(RefCell::new(None));
        let place = outcome.clone();
        Socket::connect_async("srv:x.only-hole.test", Some(&cancellable), move |result| {
            place.replace(Some(result));
        });
        network::fgloop_for(Duration::from_millis(100));
        cancellable.cancel();
        until(|| outcome.borrow().is_some());
        assert!(matches!(outcome.take(), Some(Err(Error::Cancelled { .. }))));
    });
}

// ---- TLS ----

#[test]
fn tls_is_for_the_domain_and_so_is_the_pin() {
    if !in_own_network("tls_is_for_the_domain_and_so_is_the_pin") {
        return;
    }
    let store = TempDir::new();
    let directory = store.path("");
    let openssl = |arguments: String| {
        let output = common::run(tool("/usr/bin/openssl").args(arguments.split(' ')).current_dir(&directory), "");
        assert!(output.status.success(), "{}", output.stderr);
    };
    const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout";
    openssl(format!("req -x509 {KEY} ca.key -out ca.pem -subj /CN=ca -days 9"));
    let serve = |name: &str| {
        std::fs::write(store.path(&format!("{name}.ext")), format!("subjectAltName=DNS:{name}\n")).unwrap();
        openssl(format!("req {KEY} {name}.key -out {name}.csr -subj /CN={name}"));
        let issue = "x509 -req -CA ca.pem -CAkey ca.key -CAcreateserial -days 9";
        openssl(format!("{issue} -in {name}.csr -extfile {name}.ext -out {name}.pem"));
        let tls = ServerTls::pem(store.path(&format!("{name}.pem")), store.path(&format!("{name}.key")));
        let server = Server::builder().tls(tls).listen("127.0.0.1:0", |socket| {
            socket.read(|_, _| Ok(()));
            Ok(())
        });
        server.unwrap()
    };
    on_own_context(|| {
        let (domain, target) = (serve("example.test"), serve("target.test"));
        let _faults = faults([
            "target.test A 127.0.0.1".to_string(),
            format!("_x._tcp.example.test SRV 0 0 {} target.test", domain.port()),
            format!("_y._tcp.example.test SRV 0 0 {} target.test", target.port()),
        ]);
        let connect = |address: &str, tls: ClientTls| {
            await_it(Socket::builder().tls(tls).connect_future(address)).map(|socket| socket.peer_fingerprint())
        };
        let roots = || ClientTls::roots(std::fs::read_to_string(store.path("ca.pem")).unwrap());
        assert_eq!(connect("srv:x.example.test", roots()).unwrap(), domain.fingerprint());
        // It is who the records name, and not whom the user has asked for.
        let error = connect("srv:y.example.test", roots()).unwrap_err();
        assert!(matches!(error, Error::UnknownCertificate { .. }), "{error:?}");
        assert!(error.to_string().contains("example.test"), "{error}");
        let port = target.port();
        assert!(connect(&format!("target.test:{port}"), roots()).is_ok());

        let first_use = || ClientTls::on_first_use().directory(store.path("client"));
        let address = Address::srv("x", "example.test").unwrap().to_string();
        assert_eq!(connect(&address, first_use()).unwrap(), domain.fingerprint());
        let pin = store.path("client").join("peers/srv:x.example.test");
        assert!(
            pin.exists(),
            "{:?}",
            std::fs::read_dir(store.path("client").join("peers")).unwrap().collect::<Vec<_>>()
        );
        std::fs::copy(&pin, store.path("client").join("peers/srv:y.example.test")).unwrap();
        let error = connect("srv:y.example.test", first_use()).unwrap_err();
        assert!(matches!(error, Error::CertificateChanged { .. }), "{error:?}");
    });
}
