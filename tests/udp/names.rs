//! Names and addresses: lookups by all faces, and who this machine is, on its own network and from outside.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket as StdSocket};
use std::process::Command;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use gio::prelude::*;
use network::{Error, Result};

use crate::common::{LIMIT, Process, TempDir, Watch, on_own_context, party, tool, until};
use crate::{WIRE, in_own_network};

/// What the three faces of a call give, one after the other: the blocking one, the callback, the future.
fn by_all_faces<T: 'static>(
    blocking: impl FnOnce() -> Result<T>,
    with_callback: impl FnOnce(Box<dyn FnOnce(Result<T>)>),
    future: impl Future<Output = Result<T>> + 'static,
) -> [Result<T>; 3] {
    on_own_context(|| {
        let first = blocking();
        let (second, third) = (Rc::new(RefCell::new(None)), Rc::new(RefCell::new(None)));
        let place = second.clone();
        with_callback(Box::new(move |result| drop(place.replace(Some(result)))));
        assert!(second.borrow().is_none(), "not from inside the call");
        let place = third.clone();
        glib::MainContext::ref_thread_default().spawn_local(async move {
            place.replace(Some(future.await));
        });
        until(|| second.borrow().is_some() && third.borrow().is_some());
        [first, second.take().unwrap(), third.take().unwrap()]
    })
}

fn look_up(host: &'static str, port: u16) -> [Result<Vec<SocketAddr>>; 3] {
    by_all_faces(
        || network::names::lookup(host, port),
        |callback| network::names::lookup_async(host, port, gio::Cancellable::NONE, callback),
        network::names::lookup_future(host, port),
    )
}

fn addresses(list: &[&str]) -> Vec<SocketAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn an_address_is_its_own_answer() {
    for (host, port, want) in [
        ("192.0.2.1", 80, &["192.0.2.1:80"][..]),
        ("192.0.2.1", 0, &["192.0.2.1:0"]),
        ("::1", 80, &["[::1]:80"]),
        ("fe80::1%lo", 80, &["[fe80::1%1]:80"]),
        ("localhost", 80, &["[::1]:80", "127.0.0.1:80"]),
    ] {
        for found in look_up(host, port) {
            assert_eq!(found.unwrap(), addresses(want), "{host}");
        }
    }
}

#[test]
fn names_are_looked_up_and_families_take_turns() {
    if !in_own_network("names::names_are_looked_up_and_families_take_turns") {
        return;
    }
    let directory = TempDir::new();
    let hosts = directory.path("hosts");
    std::fs::write(
        &hosts,
        "192.0.2.77 both.example\n192.0.2.78 both.example\n2001:db8::77 both.example\n192.0.2.79 four.example\n",
    )
    .unwrap();
    let mounted = Command::new("mount").arg("--bind").arg(&hosts).arg("/etc/hosts").status().unwrap();
    assert!(mounted.success());
    // The blocking one leaves no thread behind, as a program that goes into the background must have none.
    on_own_context(|| {
        network::names::lookup("four.example", 1).unwrap();
        let endpoints = ["http://four.example:1/"];
        let asked = network::names::public_address(endpoints, Duration::from_millis(1));
        assert!(matches!(asked, Err(Error::TimedOut { .. } | Error::Unreachable { .. })), "{asked:?}");
    });
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    for thread in threads {
        let name = std::fs::read_to_string(thread.unwrap().path().join("comm")).unwrap_or_default();
        assert!(!name.starts_with("gmain") && !name.starts_with("pool"), "{name}");
    }

    for found in look_up("four.example", 5) {
        assert_eq!(found.unwrap(), addresses(&["192.0.2.79:5"]));
    }
    for found in look_up("both.example", 5) {
        let found = found.unwrap();
        assert_eq!(found.iter().map(SocketAddr::is_ipv6).collect::<Vec<_>>(), [true, false, false], "{found:?}");
        assert!(found.contains(&"192.0.2.78:5".parse().unwrap()), "{found:?}");
    }
    on_own_context(|| {
        let socket = network::UdpSocket::bind(0).unwrap();
        // Datagrams go there by name as well.
        socket.connect("four.example:5").unwrap();
        assert_eq!(socket.remote(), Some("192.0.2.79:5".parse().unwrap()));
    });
}

#[test]
fn what_is_no_name_or_has_no_address_is_told() {
    for found in look_up("nowhere.invalid", 1) {
        assert!(matches!(&found, Err(Error::Lookup { address, .. }) if address == "nowhere.invalid:1"), "{found:?}");
    }
    for host in ["", "a b", "a/b", "chat|", "[::1", "fe80::1%nosuch"] {
        for found in look_up(host, 1) {
            assert!(matches!(found, Err(Error::Address { .. })), "{host}: {found:?}");
        }
    }
    let limit = Duration::from_nanos(1);
    match network::names::lookup_timeout("nowhere.invalid", 1, limit) {
        Err(Error::TimedOut { limit: told, .. }) => assert_eq!(told, limit),
        other => panic!("{other:?}"),
    }
    on_own_context(|| {
        let socket = network::UdpSocket::bind(0).unwrap();
        assert!(matches!(socket.send_to("x", "nowhere.invalid:5"), Err(Error::Lookup { .. })));
        assert!(matches!(socket.connect("nowhere.invalid:5"), Err(Error::Lookup { .. })));
    });
}

#[test]
fn a_look_up_can_be_cancelled() {
    on_own_context(|| {
        let told = Rc::new(RefCell::new(None));
        let place = told.clone();
        let cancellable = gio::Cancellable::new();
        network::names::lookup_async("nowhere.invalid", 1, Some(&cancellable), move |result| {
            place.replace(Some(result));
        });
        cancellable.cancel();
        until(|| told.borrow().is_some());
        assert!(matches!(told.take(), Some(Err(Error::Cancelled { .. }))));
    });
}

#[test]
fn a_panic_in_a_callback_comes_out_of_the_loop() {
    on_own_context(|| {
        network::names::lookup_async("localhost", 1, gio::Cancellable::NONE, |_| panic!("in a callback"));
        let run = || network::fgloop_for(LIMIT);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_err();
        assert_eq!(*caught.downcast_ref::<&str>().unwrap(), "in a callback");
    });
}

#[test]
fn a_callback_may_run_a_loop_that_looks_up() {
    on_own_context(|| {
        let told = Rc::new(RefCell::new(Vec::new()));
        let outer = told.clone();
        network::names::lookup_async("127.0.0.1", 1, gio::Cancellable::NONE, move |_| {
            let inner = outer.clone();
            network::names::lookup_async("127.0.0.2", 1, gio::Cancellable::NONE, move |_| {
                inner.borrow_mut().push("inner")
            });
            until(|| !outer.borrow().is_empty());
            outer.borrow_mut().push("outer");
        });
        until(|| told.borrow().len() == 2);
        assert_eq!(told.take(), ["inner", "outer"]);
    });
}

#[test]
fn ports_have_names() {
    for (name, port) in [("http", 80), ("ipp", 631), ("8080", 8080), ("0", 0)] {
        assert_eq!(network::names::lookup_port(name).unwrap(), port);
    }
    for bad in ["nosuchservice", "host:80", "", "65536", "/path", "-1", "@name", "chat|", "http://host"] {
        let error = network::names::lookup_port(bad).unwrap_err();
        assert!(matches!(error, Error::Lookup { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.starts_with(&format!("cannot resolve {bad:?}: ")), "{text}");
        assert!(text.contains("65535") && !text.contains("host:port") && !text.contains("path with"), "{text}");
    }
    let unknown = network::names::lookup_port("nosuchservice").unwrap_err().to_string();
    assert!(unknown.contains("unknown service") && unknown.contains("a service name such as http"), "{unknown}");
}

#[test]
fn the_own_address_is_that_of_the_way_out() {
    if !in_own_network("names::the_own_address_is_that_of_the_way_out") {
        return;
    }
    let [v4, v6] = WIRE.map(|text| text.parse::<IpAddr>().unwrap());
    assert_eq!(IpAddr::V4(network::names::local_address_v4().unwrap()), v4);
    assert_eq!(IpAddr::V6(network::names::local_address_v6().unwrap()), v6);
    assert_eq!(network::names::local_address().unwrap(), v4);
    let ip = |arguments: &str| assert!(tool("/usr/sbin/ip").args(arguments.split(' ')).status().unwrap().success());
    ip("address del 198.51.100.1/24 dev wire");
    assert!(matches!(network::names::local_address_v4(), Err(Error::Unreachable { .. })));
    assert_eq!(network::names::local_address().unwrap(), v6);
    ip("link set wire down");
    assert!(matches!(network::names::local_address(), Err(Error::Unreachable { .. })));
}

// ---- from outside ----

fn ask(endpoints: &[String], limit: Duration) -> [Result<IpAddr>; 3] {
    by_all_faces(
        || network::names::public_address(endpoints, limit),
        |callback| network::names::public_address_async(endpoints, limit, gio::Cancellable::NONE, callback),
        network::names::public_address_future(endpoints.to_vec(), limit),
    )
}

/// Answers Binding requests in the way its arguments say. Written from the standard, independently of our own.
const STUN_SERVER: &str = r#"
import socket, struct, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
how = sys.argv[2]
s = socket.socket(family, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 0))
print("port", s.getsockname()[1])
stranger = socket.socket(family, socket.SOCK_DGRAM)
stranger.bind((sys.argv[1], 0))
MAGIC = 0x2112A442

def success(tid, host, port, old = False):
    ip = socket.inet_pton(family, host)
    if not old:
        key = struct.pack("!I", MAGIC) + tid
        ip = bytes(a ^ b for a, b in zip(ip, key))
        port ^= MAGIC >> 16
    value = struct.pack("!BBH", 0, 1 if family == socket.AF_INET else 2, port) + ip
    software = struct.pack("!HH", 0x8022, 5) + b"tests\0\0\0"
    return message(0x0101, tid, software + struct.pack("!HH", 0x0001 if old else 0x0020, len(value)) + value)

def message(kind, tid, body):
    return struct.pack("!HHI", kind, len(body), MAGIC) + tid + body

false = "203.0.113.66" if family == socket.AF_INET else "2001:db8::66"
count = 0
while True:
    data, peer = s.recvfrom(2000)
    kind, length, magic = struct.unpack("!HHI", data[:8])
    tid = data[8:20]
    assert (kind, length, magic, len(data)) == (1, 0, MAGIC, 20), data
    print("request", tid.hex())
    count += 1
    if how == "lost" and count == 1:
        continue
    if how == "silent":
        continue
    if how == "forged":
        # Neither the first nor the second may be believed.
        s.sendto(success(bytes(12), false, 1), peer)
        stranger.sendto(success(tid, false, 1), peer)
        s.sendto(b"", peer)
        s.sendto(bytes(3000), peer)
    if how == "error":
        s.sendto(message(0x0111, tid, struct.pack("!HHBBBB", 9, 4, 0, 0, 5, 0)), peer)
        continue
    s.sendto(success(tid, peer[0], peer[1], how == "old"), peer)
"#;

fn stun(address: &str, how: &str) -> (Process, String) {
    let mut python = tool("/usr/bin/python3");
    let server = Process::start(python.args(["-u", "-c", STUN_SERVER, address, how]), Watch::Stdout);
    let port = server.port("port");
    let host = if address.contains(':') { format!("[{address}]") } else { address.into() };
    (server, format!("stun:{host}:{port}"))
}

#[test]
fn a_stun_server_tells_and_no_other_is_believed() {
    let mut addresses = vec!["127.0.0.1"];
    if crate::common::has_ipv6() {
        addresses.push("::1");
    }
    for address in addresses {
        for how in ["good", "old", "forged"] {
            let (server, endpoint) = stun(address, how);
            for answer in ask(&[endpoint], LIMIT) {
                assert_eq!(answer.unwrap(), address.parse::<IpAddr>().unwrap(), "{how}");
            }
            let ids = [(); 3].map(|()| server.line_with("request"));
            assert!(ids[0] != ids[1] && ids[1] != ids[2], "each asks by an id of its own");
        }
    }
}

#[test]
fn a_lost_request_is_sent_again() {
    let (server, endpoint) = stun("127.0.0.1", "lost");
    on_own_context(|| {
        assert_eq!(network::names::public_address([endpoint], LIMIT).unwrap(), Ipv4Addr::LOCALHOST);
    });
    assert_eq!(server.line_with("request"), server.line_with("request"), "the same request");
}

#[test]
fn the_next_one_is_asked_if_one_fails_or_is_silent() {
    let (_error, error) = stun("127.0.0.1", "error");
    let (_silent, silent) = stun("127.0.0.1", "silent");
    let (_good, good) = stun("127.0.0.1", "good");
    let nobody = StdSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = format!("stun:{nobody}");
    let unknown = "stun:nowhere.invalid".to_string();
    for endpoints in [
        vec![error.clone(), good.clone()],
        vec![refused.clone(), good.clone()],
        vec![silent.clone(), good.clone()],
        vec![unknown.clone(), good],
    ] {
        for answer in ask(&endpoints, LIMIT) {
            assert_eq!(answer.unwrap(), Ipv4Addr::LOCALHOST, "{endpoints:?}");
        }
    }
    for answer in ask(&[refused.clone(), error.clone()], LIMIT) {
        assert!(matches!(&answer, Err(Error::Lookup { cause, .. }) if cause.contains("500")), "{answer:?}");
    }
    for answer in ask(&[error, refused], LIMIT) {
        assert!(matches!(answer, Err(Error::Refused { .. })), "{answer:?}");
    }
    let limit = Duration::from_millis(50);
    for answer in ask(std::slice::from_ref(&silent), limit) {
        assert!(
            matches!(&answer, Err(Error::TimedOut { address, limit: told, .. }) if *address == silent && *told == limit),
            "{answer:?}"
        );
    }
}

/// A web server that gives one answer to all, and the requests it got.
fn page(answer: &'static [u8], clients: usize) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/ip?format=text", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let mut requests = Vec::new();
        for _ in 0..clients {
            let mut client = listener.accept().unwrap().0;
            client.set_read_timeout(Some(LIMIT)).unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            requests.push(String::from_utf8(request).unwrap());
            // Not all of it may be wanted.
            let _ = client.write_all(answer);
        }
        requests
    });
    (url, thread)
}

#[test]
fn a_web_page_tells_as_well() {
    let (url, server) = page(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"ip\": \"203.0.113.9\"}\n", 3);
    for answer in ask(std::slice::from_ref(&url), LIMIT) {
        assert_eq!(answer.unwrap(), Ipv4Addr::new(203, 0, 113, 9));
    }
    for request in server.join().unwrap() {
        assert!(request.starts_with("GET /ip?format=text HTTP/1.0\r\n"), "{request}");
        let host = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
        assert!(request.contains(&format!("\r\nHost: {host}\r\n")), "{request}");
    }
}

#[test]
fn pages_without_an_address_are_told_and_endless_ones_ended() {
    let (url, server) = page(b"HTTP/1.1 503 Service Unavailable\r\n\r\n1.2.3.4", 3);
    for answer in ask(&[url], LIMIT) {
        assert!(matches!(&answer, Err(Error::Lookup { cause, .. }) if cause.contains("503")), "{answer:?}");
    }
    server.join().unwrap();
    let (url, server) = page(Box::leak(vec![b'x'; 10 << 20].into_boxed_slice()), 3);
    for answer in ask(&[url], LIMIT) {
        assert!(matches!(&answer, Err(Error::Other(error)) if error.to_string().contains("65536")), "{answer:?}");
    }
    server.join().unwrap();
}

#[test]
fn endpoints_that_cannot_be_are_told_before_anything_is_asked() {
    let nowhere: [&str; 0] = [];
    on_own_context(|| {
        let error = network::names::public_address(nowhere, LIMIT).unwrap_err();
        assert!(matches!(error, Error::InvalidOption(_)), "{error:?}");
        assert_eq!(error.to_string(), "no endpoint given; expected stun:host, stun:host:port, or http://host/path");
    });
    let (server, good) = stun("127.0.0.1", "good");
    for bad in
        ["", "host", "stun:", "stun:host:0", "https://host/", "stuns:host", "ftp://host", "http://h/a b", "http:x"]
    {
        for answer in ask(&[good.clone(), bad.into()], LIMIT) {
            assert!(matches!(&answer, Err(Error::Address { address, .. }) if address == bad), "{bad}: {answer:?}");
        }
    }
    for answer in ask(&[good], LIMIT) {
        answer.unwrap();
    }
    // Three in all: the others were none.
    for _ in 0..3 {
        server.line_with("request");
    }
}

#[test]
fn asking_can_be_cancelled() {
    let (server, endpoint) = stun("127.0.0.1", "silent");
    on_own_context(|| {
        let told = Rc::new(RefCell::new(None));
        let place = told.clone();
        let cancellable = gio::Cancellable::new();
        let cancel = cancellable.clone();
        network::names::public_address_async([endpoint], LIMIT, Some(&cancellable), move |result| {
            place.replace(Some(result));
        });
        // From another thread, once it has been asked.
        let thread = std::thread::spawn(move || {
            server.line_with("request");
            cancel.cancel();
        });
        until(|| told.borrow().is_some());
        assert!(matches!(told.take(), Some(Err(Error::Cancelled { .. }))));
        thread.join().unwrap();
    });
}

#[test]
fn coturn_tells_too() {
    if !in_own_network("names::coturn_tells_too") {
        return;
    }
    let directory = TempDir::new();
    let mut command = party("turnserver");
    command.args(["-n", "--stun-only", "--no-tls", "--no-dtls", "--no-cli", "--log-file", "stdout", "--simple-log"]);
    command.args(["--listening-ip", WIRE[0], "--listening-ip", WIRE[1]]);
    command.arg("--pidfile").arg(directory.path("pid"));
    let _server = Process::start(&mut command, Watch::Stdout);
    // It says a lot, and not when it is ready: asking again is what clients do.
    for address in WIRE {
        let host = if address.contains(':') { format!("[{address}]") } else { address.into() };
        let endpoint = format!("stun:{host}");
        on_own_context(|| {
            let end = std::time::Instant::now() + LIMIT;
            let told = loop {
                match network::names::public_address([&endpoint], LIMIT) {
                    Err(Error::Refused { .. }) if std::time::Instant::now() < end => std::thread::yield_now(),
                    told => break told,
                }
            };
            assert_eq!(told.unwrap(), address.parse::<IpAddr>().unwrap());
        });
        let client = crate::common::run(party("turnutils_stunclient").arg(address), "");
        assert!(client.text().contains(address), "its own client says the same: {client:?}");
    }
}
