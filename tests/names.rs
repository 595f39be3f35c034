//! Names: one lookup for every kind of call, against a name server that answers late, in part, or not at all. Each test runs in
//! network and mount namespaces of its own, with nothing but `lo`, its own `/etc/hosts` and its own name server.

mod common;
#[path = "common/name_server.rs"]
mod name_server;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket as StdUdpSocket};
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::{LIMIT, TempDir, await_it, on_own_context, told, until, until_on_threads};
use gio::prelude::*;
use name_server::NameServer;
use network::{ClientTls, Error, Result, Server, ServerTls, Socket, UdpSocket};

/// Far less than glibc waits for a name server (5 s, twice), far more than anything here takes.
const SOON: Duration = Duration::from_secs(3);

/// Runs the calling test once more in namespaces of its own. Gives the name server in there.
fn in_own_network(test: &str) -> Option<NameServer> {
    if let Some(server) = name_server::inside() {
        return Some(server);
    }
    name_server::run_again_inside(test);
    None
}

/// The three kinds of lookup.
fn look_up(host: &str) -> [Result<Vec<SocketAddr>>; 3] {
    [
        network::names::lookup(host, 7),
        told(|callback| network::names::lookup_async(host, 7, gio::Cancellable::NONE, callback)),
        await_it(network::names::lookup_future(host, 7)),
    ]
}

/// Whom the three kinds of connecting reach.
fn connect(address: &str) -> [Result<SocketAddr>; 3] {
    let builder = || Socket::builder().tls(false);
    let connected = [
        builder().connect(address),
        told(|callback| builder().connect_async(address, gio::Cancellable::NONE, callback)),
        await_it(builder().connect_future(address)),
    ];
    connected.map(|result| result.map(|socket| socket.remote().inet().unwrap()))
}

/// Sends by the two kinds of datagram calls, and says where to.
fn send(address: &str) -> [Result<SocketAddr>; 2] {
    let [one, other] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let remote = |socket: &UdpSocket| socket.remote().unwrap();
    [
        one.send_to("x", address).and_then(|_| one.connect(address)).map(|()| remote(&one)),
        await_it(other.connect_future(address)).map(|()| remote(&other)),
    ]
}

fn addresses(list: &[&str]) -> Vec<SocketAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

/// Listens on both loopback addresses, with the same port. Takes whoever comes.
fn listen() -> (u16, [TcpListener; 2]) {
    loop {
        let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = v4.local_addr().unwrap().port();
        if let Ok(v6) = TcpListener::bind(("::1", port)) {
            return (port, [v4, v6]);
        }
    }
}

fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    tasks.map(|task| name(task.unwrap()).trim().to_string()).collect()
}

#[test]
fn a_machine_that_is_offline_knows_its_own_hosts() {
    let Some(_server) = in_own_network("a_machine_that_is_offline_knows_its_own_hosts") else { return };
    on_own_context(|| {
        let (port, _listeners) = listen();
        for found in look_up("listed.test") {
            assert_eq!(found.unwrap(), addresses(&["127.0.0.1:7"]));
        }
        let without_end = network::names::lookup_timeout("listed.test", 7, Duration::MAX);
        assert_eq!(without_end.unwrap(), addresses(&["127.0.0.1:7"]));
        Socket::builder().tls(false).connect_timeout(Duration::MAX).connect(format!("listed.test:{port}")).unwrap();
        for found in look_up("listed-both.test") {
            assert_eq!(found.unwrap(), addresses(&["[::1]:7", "127.0.0.1:7"]));
        }
        for (host, reached) in
            [("listed.test", Ipv4Addr::LOCALHOST.into()), ("listed-both.test", IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]))]
        {
            for remote in connect(&format!("{host}:{port}")) {
                assert_eq!(remote.unwrap(), SocketAddr::new(reached, port), "{host}");
            }
        }
        for remote in send(&format!("listed.test:{port}")) {
            assert_eq!(remote.unwrap(), SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
        }
        // It hears of nothing, so each has found the name.
        let nobody = StdUdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let endpoint = || [format!("stun:listed.test:{nobody}")];
        for result in [
            network::names::public_address(endpoint(), SOON),
            told(|callback| network::names::public_address_async(endpoint(), SOON, gio::Cancellable::NONE, callback)),
            await_it(network::names::public_address_future(endpoint(), SOON)),
        ] {
            assert!(matches!(result, Err(Error::Refused { .. })), "{result:?}");
        }
    });
}

#[test]
fn a_name_server_that_is_silent_about_one_family_holds_nothing_up() {
    let Some(_server) = in_own_network("a_name_server_that_is_silent_about_one_family_holds_nothing_up") else {
        return;
    };
    on_own_context(|| {
        let (port, _listeners) = listen();
        let in_time = |what: &str, asked: &dyn Fn()| {
            let started = Instant::now();
            asked();
            let took = started.elapsed();
            assert!(took < SOON, "{what}: {took:?}");
        };
        // The first is also a name of /etc/hosts, whose other family is asked for from the name server.
        for (host, reached) in [("listed.test", "127.0.0.1"), ("noaaaa.test", "127.0.0.1"), ("noa.test", "::1")] {
            let reached: IpAddr = reached.parse().unwrap();
            in_time(host, &|| {
                for found in look_up(host) {
                    assert_eq!(found.unwrap(), [SocketAddr::new(reached, 7)], "{host}");
                }
                for remote in connect(&format!("{host}:{port}")) {
                    assert_eq!(remote.unwrap(), SocketAddr::new(reached, port), "{host}");
                }
            });
        }
        in_time("datagrams", &|| {
            for remote in send(&format!("noaaaa.test:{port}")) {
                assert_eq!(remote.unwrap(), SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
            }
        });
        // One family that fails, or has no address, is no reason to fail.
        for host in ["broken.test", "four.test"] {
            in_time(host, &|| {
                for found in look_up(host) {
                    assert_eq!(found.unwrap(), addresses(&["127.0.0.1:7"]), "{host}");
                }
            });
        }
        for found in look_up("nowhere.test") {
            assert!(matches!(found, Err(Error::Lookup { .. })), "{found:?}");
        }
    });
}

#[test]
fn ipv6_is_preferred_if_it_comes_soon_and_used_if_it_comes_late() {
    let Some(_server) = in_own_network("ipv6_is_preferred_if_it_comes_soon_and_used_if_it_comes_late") else { return };
    on_own_context(|| {
        let (port, [v4, _v6]) = listen();
        // On a busy machine the second answer may be late now and then.
        let within_some_tries = |what: &dyn Fn() -> bool| (0..20).any(|_| what());
        for host in ["both.test", "soon.test"] {
            let address = format!("{host}:{port}");
            assert!(
                within_some_tries(&|| connect(&address).into_iter().all(|remote| remote.unwrap().is_ipv6())),
                "{host}"
            );
            let both = addresses(&["[::1]:7", "127.0.0.1:7"]);
            assert!(within_some_tries(&|| look_up(host).into_iter().all(|found| found.unwrap() == both)), "{host}");
        }
        // Were the IPv6 address awaited, it would be the first.
        for remote in connect(&format!("later.test:{port}")) {
            assert!(remote.unwrap().is_ipv4());
        }
        drop(v4);
        for remote in connect(&format!("later.test:{port}")) {
            assert!(remote.unwrap().is_ipv6(), "nobody listens on the other");
        }
    });
}

#[test]
fn names_of_other_alphabets_are_one_host() {
    let Some(server) = in_own_network("names_of_other_alphabets_are_one_host") else { return };
    on_own_context(|| {
        let (port, [v4, _v6]) = listen();
        for host in ["münchen.test", "MÜNCHEN.test", "xn--mnchen-3ya.test"] {
            for found in look_up(host) {
                assert_eq!(found.unwrap(), addresses(&["127.0.0.1:7"]), "{host}");
            }
            for remote in connect(&format!("{host}:{port}")) {
                assert_eq!(remote.unwrap().port(), port, "{host}");
                drop(v4.accept().unwrap());
            }
        }
        // Over TLS the server is told the name as certificates have it.
        let task = glib::MainContext::ref_thread_default()
            .spawn_local(Socket::builder().connect_timeout(LIMIT).connect_future(format!("münchen.test:{port}")));
        let hello = common::beside(|| {
            let mut client = v4.accept().unwrap().0;
            client.set_read_timeout(Some(LIMIT)).unwrap();
            let mut hello = vec![0; 4096];
            let count = client.read(&mut hello).unwrap();
            hello.truncate(count);
            hello
        });
        drop(task);
        assert!(hello.windows(19).any(|bytes| bytes == b"xn--mnchen-3ya.test"), "{}", String::from_utf8_lossy(&hello));

        let (own, known) = (TempDir::new(), TempDir::new());
        let server = Server::builder().tls(ServerTls::new().directory(own.path(""))).listen(0, |_| Ok(())).unwrap();
        for host in ["münchen.test", "MÜNCHEN.test", "xn--mnchen-3ya.test", "münchen.test."] {
            let tls = ClientTls::on_first_use().directory(known.path(""));
            await_it(Socket::builder().tls(tls).connect_future(format!("{host}:{}", server.port()))).unwrap();
        }
        let pins = std::fs::read_dir(known.path("peers")).unwrap().map(|entry| entry.unwrap().file_name());
        let pins: Vec<_> = pins.map(|name| name.into_string().unwrap()).filter(|name| !name.starts_with('.')).collect();
        assert!(pins.len() == 1 && pins[0].starts_with("xn--mnchen-3ya.test"), "{pins:?}");
    });
    let asked: HashSet<_> =
        server.questions().iter().map(|question| question.split(' ').nth(1).unwrap().to_string()).collect();
    assert_eq!(asked.len(), 1, "{asked:?}");
}

/// The number of a new thread. In a process namespace of its own, they are consecutive.
fn next_thread() -> u32 {
    let id = || rustix::thread::gettid().as_raw_nonzero().get();
    std::thread::spawn(id).join().unwrap().try_into().unwrap()
}

#[test]
fn addresses_and_localhost_are_read_alike_and_start_no_thread() {
    let Some(server) = in_own_network("addresses_and_localhost_are_read_alike_and_start_no_thread") else { return };
    on_own_context(|| {
        let (port, _listeners) = listen();
        let both = &["[::1]:7", "127.0.0.1:7"][..];
        let first = next_thread();
        for (host, expected) in [
            ("localhost", both),
            ("localhost.", both),
            ("LocalHost", both),
            ("127.0.0.1", &["127.0.0.1:7"]),
            ("127.1", &["127.0.0.1:7"]),
            ("0x7f.1", &["127.0.0.1:7"]),
            ("0177.0.0.01", &["127.0.0.1:7"]),
            ("2130706433", &["127.0.0.1:7"]),
            ("[::1]", &["[::1]:7"]),
            ("[fe80::1%lo]", &["[fe80::1%1]:7"]),
        ] {
            for found in look_up(host) {
                assert_eq!(found.unwrap(), addresses(expected), "{host}");
            }
            if !host.contains("fe80") {
                for remote in connect(&format!("{host}:{port}")) {
                    let reached = addresses(expected)[0].ip();
                    assert_eq!(remote.unwrap(), SocketAddr::new(reached, port), "{host}");
                }
            }
        }
        for remote in [connect(&port.to_string()), connect(&format!("http://localhost.:{port}/"))].into_iter().flatten()
        {
            assert!(remote.unwrap().is_ipv6());
        }
        for remote in send(&format!("127.1:{port}")) {
            assert_eq!(remote.unwrap().ip(), Ipv4Addr::LOCALHOST);
        }
        assert_eq!(network::names::lookup_port("http").unwrap(), 80);
        assert_eq!(next_thread(), first + 1, "a thread was started");
    });
    assert_eq!(server.questions(), [""; 0]);
}

#[test]
fn silent_names_hold_up_nobody() {
    let Some(_server) = in_own_network("silent_names_hold_up_nobody") else { return };
    on_own_context(|| {
        let before = threads().len();
        let silent: Vec<_> = (0..40).map(|n| format!("silent{n}.test")).collect();
        let cancellable = gio::Cancellable::new();
        for (n, host) in silent.iter().enumerate() {
            // Half of them are cancelled, which does not stop the resolver.
            let cancellable = (n % 2 == 0).then_some(&cancellable);
            network::names::lookup_async(host, 1, cancellable, move |result| {
                assert!(matches!(result, Err(Error::Cancelled { .. })), "{result:?}");
            });
        }
        until_on_threads(|| threads().len() >= before + silent.len());
        cancellable.cancel();
        let started = Instant::now();
        for found in look_up("both.test").into_iter().chain(look_up("listed.test")) {
            assert!(found.unwrap().contains(&"127.0.0.1:7".parse().unwrap()));
        }
        let read =
            told(|callback| gio::File::for_path("/etc/hosts").load_contents_async(gio::Cancellable::NONE, callback));
        assert!(read.is_ok());
        assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    });
}

#[test]
fn there_are_at_most_64_threads_and_the_rest_waits_for_its_time() {
    let Some(_server) = in_own_network("there_are_at_most_64_threads_and_the_rest_waits_for_its_time") else { return };
    on_own_context(|| {
        for n in 0..100 {
            network::names::lookup_async(&format!("silent{n}.test"), 1, gio::Cancellable::NONE, |_| ());
        }
        let running = || threads().iter().filter(|name| *name == "network-lookup").count();
        until_on_threads(|| running() >= 64);
        let limit = Duration::from_millis(100);
        let started = Instant::now();
        let asked = network::names::lookup_timeout("both.test", 1, limit);
        assert!(matches!(&asked, Err(Error::TimedOut { limit: told, .. }) if *told == limit), "{asked:?}");
        assert!(started.elapsed() < SOON);
        assert_eq!(running(), 64);
    });
}

#[test]
fn the_same_name_is_asked_for_once_at_a_time() {
    let Some(server) = in_own_network("the_same_name_is_asked_for_once_at_a_time") else { return };
    on_own_context(|| {
        let found = Rc::new(Cell::new(0));
        for _ in 0..10 {
            let found = found.clone();
            network::names::lookup_async("late.test", 7, gio::Cancellable::NONE, move |result| {
                assert_eq!(result.unwrap(), addresses(&["[::1]:7", "127.0.0.1:7"]));
                found.set(found.get() + 1);
            });
        }
        until(|| found.get() == 10);
        // From the beginning the next time, for it may have changed.
        network::names::lookup("late.test", 7).unwrap();
    });
    let mut questions = server.questions();
    questions.sort_unstable();
    assert_eq!(questions, ["A late.test", "A late.test", "AAAA late.test", "AAAA late.test"]);
}

#[test]
fn a_lookup_counts_towards_the_timeout_of_connecting() {
    let Some(_server) = in_own_network("a_lookup_counts_towards_the_timeout_of_connecting") else { return };
    on_own_context(|| {
        let limit = Duration::from_millis(100);
        let builder = || Socket::builder().connect_timeout(limit);
        let started = Instant::now();
        for result in [
            builder().connect("silent.test:1"),
            told(|callback| builder().connect_async("silent.test:1", gio::Cancellable::NONE, callback)),
            await_it(builder().connect_future("silent.test:1")),
        ] {
            assert!(matches!(&result, Err(Error::TimedOut { limit: told, .. }) if *told == limit), "{result:?}");
        }
        assert!(started.elapsed() < SOON);
        // What is cancelled does not stand in the way of the same name.
        let context = glib::MainContext::ref_thread_default();
        let task = context.spawn_local(Socket::connect_future("late.test:1"));
        network::fgloop_for(Duration::from_millis(50));
        drop((task.abort(), task));
        assert_eq!(network::names::lookup("late.test", 7).unwrap(), addresses(&["[::1]:7", "127.0.0.1:7"]));
    });
}

#[test]
fn a_blocking_lookup_in_a_callback_works_and_ends_with_the_loop() {
    let Some(_server) = in_own_network("a_blocking_lookup_in_a_callback_works_and_ends_with_the_loop") else { return };
    on_own_context(|| {
        let (port, _listeners) = listen();
        let outcome = Rc::new(RefCell::new(None));
        let place = outcome.clone();
        network::names::lookup_async("both.test", 7, gio::Cancellable::NONE, move |found| {
            assert_eq!(network::names::lookup("both.test", 7).unwrap(), found.unwrap());
            Socket::builder().tls(false).connect(format!("both.test:{port}")).unwrap();
            let killer = std::thread::spawn(|| {
                let late = Instant::now() + LIMIT;
                while !threads().iter().any(|name| name == "network-lookup") && Instant::now() < late {
                    std::thread::yield_now();
                }
                rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
            });
            place.replace(Some(network::names::lookup("silent.test", 7)));
            killer.join().unwrap();
        });
        network::fgloop();
        let interrupted = outcome.take().unwrap().unwrap_err();
        assert_eq!(interrupted.kind(), std::io::ErrorKind::Interrupted, "{interrupted}");
    });
}

#[test]
fn many_threads_look_up_at_once_and_none_is_left() {
    let Some(_server) = in_own_network("many_threads_look_up_at_once_and_none_is_left") else { return };
    let before = threads().len();
    let work = |number: usize| {
        on_own_context(|| {
            for round in 0..30 {
                let (host, is_found) =
                    [("both.test", true), ("four.test", true), ("nowhere.test", false), ("soon.test", true)]
                        [(number + round) % 4];
                assert_eq!(network::names::lookup(host, 7).is_ok(), is_found, "{host}");
                // Given up at any moment, mostly while others want the same.
                let limit = Duration::from_micros(50 * round as u64);
                let _ = network::names::lookup_timeout("late.test", 7, limit);
                let context = glib::MainContext::ref_thread_default();
                drop(context.spawn_local(network::names::lookup_future("later.test", 7)));
                assert_eq!(await_it(network::names::lookup_future(host, 7)).is_ok(), is_found, "{host}");
            }
        });
    };
    std::thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || work(number));
        }
    });
    on_own_context(|| until_on_threads(|| threads().len() == before));
}

// ---- dead peers, which need a network of one's own as well ----

#[test]
fn a_peer_that_is_gone_is_noticed_while_data_is_on_its_way_to_it() {
    let Some(_server) = in_own_network("a_peer_that_is_gone_is_noticed_while_data_is_on_its_way_to_it") else { return };
    on_own_context(|| {
        let server = Server::builder().tls(false).listen("127.0.0.1:0", |socket| {
            socket.read(|_, _| Ok(()));
            Ok(())
        });
        let server = server.unwrap();
        let limit = Duration::from_secs(1);
        let builder = Socket::builder().tls(false).user_timeout(limit);
        let socket = await_it(builder.connect_future(("127.0.0.1", server.port()))).unwrap();
        let told = Rc::new(RefCell::new(None));
        let tell = told.clone();
        socket.disconnect_cb(move |_, end| drop(tell.replace(Some(end.reason))));
        let down = std::process::Command::new("ip").args(["link", "set", "lo", "down"]).status().unwrap();
        assert!(down.success());
        let started = Instant::now();
        socket.send("nobody gets this").unwrap();
        until(|| told.borrow().is_some());
        assert!(started.elapsed() >= limit, "{:?}", started.elapsed());
        let reason = told.take().unwrap();
        let network::Reason::Failed(Error::Io { source, .. }) = &reason else { panic!("{reason:?}") };
        let kind = source.kind();
        assert!(
            [std::io::ErrorKind::TimedOut, std::io::ErrorKind::HostUnreachable, std::io::ErrorKind::NetworkUnreachable]
                .contains(&kind),
            "{reason}"
        );
    });
}
