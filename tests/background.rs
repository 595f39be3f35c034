//! Lookups, tasks, the network, proxies, published services and going into the background, which takes a process with a single
//! thread: so this program has no test harness.

mod common;
#[path = "common/name_server.rs"]
mod name_server;
#[cfg(feature = "_services")]
#[path = "avahi/world.rs"]
#[allow(dead_code, clippy::duplicate_mod)]
mod world;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::{Duration, Instant};

use common::command;
use network::link::{NetworkWatch, State};
use network::socket::Proxy;
use network::{ClientTls, Error, Link, Result, Server, Socket};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tasks", place] => return tasks_go_on_in_the_background(place),
        ["links", place] => return links_go_on_in_the_background(place),
        ["network", place] => return the_network_is_watched_in_the_background(place),
        ["proxies", proxy, secured, root] => {
            return connections_through_proxies_go_on_in_the_background(proxy, secured, root);
        }
        #[cfg(feature = "_services")]
        ["published"] => return services::see_what_is_published(),
        #[cfg(feature = "_services")]
        ["publish", name, moment] => return services::publish_in_the_background(name, moment),
        _ => {}
    }
    match (name_server::inside(), std::env::args().nth(1).as_deref()) {
        (Some(_server), Some("ended")) => lookups_that_have_ended_leave_no_thread(),
        (Some(_server), Some("late")) => a_late_answer_is_waited_for(),
        (Some(_server), Some("silent")) => a_lookup_without_an_end_is_named(),
        (Some(_), other) => panic!("{other:?}"),
        (None, _) if !common::parties::has_namespaces() => {
            hear_of("tasks", command(std::env::current_exe().unwrap(), [""; 0]), TOLD_OF_TASKS);
            hear_of_proxies();
            println!("the others are not run: this user may not have namespaces");
        }
        (None, _) => {
            hear_of("tasks", command(std::env::current_exe().unwrap(), [""; 0]), TOLD_OF_TASKS);
            hear_of_proxies();
            for (what, told) in [("network", TOLD_OF_NETWORK), ("links", TOLD_OF_LINKS)] {
                let mut unshare = common::parties::unshare(&["--net"]);
                unshare.arg(std::env::current_exe().unwrap());
                hear_of(what, unshare, told);
            }
            #[cfg(feature = "_services")]
            world::enter_own_world(&["published"]);
            for (name, last_words) in [("ended", ""), ("late", ""), ("silent", "named\n")] {
                let output = name_server::run_inside(&[name]);
                assert!(output.status.success() && output.text() == last_words, "{name}: {output:?}");
                println!("{name}: ok");
            }
        }
    }
}

/// Runs the loop in the background, and ends it at once. The process that calls this ends well if that works.
fn go_into_background() -> Result {
    glib::source::timeout_add_local_once(Duration::ZERO, network::endloop);
    network::bgloop()
}

/// Into the background, or to an end that is none.
fn must_go_into_background() {
    let parent = std::process::id();
    go_into_background().unwrap();
    assert_ne!(std::process::id(), parent, "in the foreground");
}

const TOLD_OF_TASKS: &str = "slept, woken by a thread\n";
const TOLD_OF_NETWORK: &str = "Addresses, 1 thread\n";
const TOLD_OF_LINKS: &str = "in the foreground, 1 thread\nin the background, 1 thread\n";

/// Starts a process that goes into the background, and hears from there.
fn hear_of(what: &str, mut command: Command, told: &str) {
    let directory = common::TempDir::new();
    let listener = UnixListener::bind(directory.path("heard")).unwrap();
    let output = common::run(command.args([what, &directory.address("heard")]), "");
    output.assert_clean();
    listener.set_nonblocking(true).unwrap();
    let begun = Instant::now();
    let mut heard = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) => assert!(begun.elapsed() < common::LIMIT, "nothing is heard: {error}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    heard.set_nonblocking(false).unwrap();
    heard.set_read_timeout(Some(common::LIMIT)).unwrap();
    let mut text = String::new();
    heard.read_to_string(&mut text).unwrap();
    assert_eq!(text, told);
    println!("{what}: ok");
}

fn tasks_go_on_in_the_background(place: &str) {
    // Everything that there is has been used before.
    let moment = Duration::from_millis(1);
    network::block_on(network::sleep(moment)).unwrap();
    let limited = network::spawn(async move { network::timeout(moment, async { Ok(()) }).await? });
    network::block_on(limited.unwrap()).unwrap().unwrap();
    let (parent, place) = (std::process::id(), place.to_owned());
    let task = network::spawn(async move {
        network::sleep(moment).await;
        while std::process::id() == parent {
            network::sleep(moment).await;
        }
        let socket = Socket::connect_future(place.as_str()).await?;
        socket.send_future("slept, ").await?;
        let (tell, told) = futures_channel::oneshot::channel();
        let thread = std::thread::spawn(move || tell.send("woken by a thread\n").unwrap());
        socket.send_future(told.await.map_err(Error::other)?).await?;
        thread.join().unwrap();
        socket.flush_future().await?;
        network::endloop();
        Ok(())
    });
    drop(task.unwrap());
    network::bgloop().unwrap();
}

fn the_network_is_watched_in_the_background(place: &str) {
    let (parent, place) = (std::process::id(), place.to_owned());
    let watch = NetworkWatch::new(move |change| {
        assert_ne!(std::process::id(), parent, "in the foreground");
        let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
        let socket = Socket::connect(place.as_str()).unwrap();
        socket.sendline(format!("{change:?}, {threads} thread")).unwrap();
        socket.flush().unwrap();
        network::endloop();
    });
    let watch = watch.unwrap();
    glib::source::timeout_add_local_once(Duration::ZERO, move || {
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    });
    network::bgloop().unwrap();
    drop(watch);
}

/// A proxy that is the target as well: what comes on the first connections is told by a thread.
fn echo_behind_connect() -> (u16, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let serve = |mut stream: TcpStream, tell: std::sync::mpsc::Sender<String>| {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(std::result::Result::ok);
            while lines.next().is_some_and(|line| !line.is_empty()) {}
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello\n").unwrap();
            // Whoever reads this has gone, or its test has.
            lines.for_each(|line| drop(tell.send(line)));
        };
        for stream in listener.incoming() {
            let (stream, tell) = (stream.unwrap(), tell.clone());
            std::thread::spawn(move || serve(stream, tell));
        }
    });
    (port, told)
}

/// Starts a process that connects through proxies and goes into the background, and hears from there.
fn hear_of_proxies() {
    let directory = common::TempDir::new();
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_string()]).unwrap();
    let (root, key) = (directory.address("root.pem"), directory.address("key.pem"));
    std::fs::write(&root, own.cert.pem()).unwrap();
    std::fs::write(&key, own.signing_key.serialize_pem()).unwrap();
    let (port, told) = echo_behind_connect();
    let mut socat = common::tool("/usr/bin/socat");
    let listen = format!("OPENSSL-LISTEN:0,bind=127.0.0.1,fork,verify=0,cert={root},key={key}");
    let socat = socat.args(["-d", "-d", &listen, &format!("TCP4:127.0.0.1:{port}")]);
    let socat = common::Process::start(socat, common::Watch::Stderr);
    let secured = socat.port("listening on");
    let arguments = ["proxies", &port.to_string(), &secured.to_string(), &root];
    common::run(&mut common::command(std::env::current_exe().unwrap(), arguments), "").assert_clean();
    let mut heard = [told.recv_timeout(common::LIMIT).unwrap(), told.recv_timeout(common::LIMIT).unwrap()];
    heard.sort();
    assert_eq!(heard, ["through TLS, in the background", "through a proxy, in the background"]);
    println!("proxies: ok");
}

fn connections_through_proxies_go_on_in_the_background(proxy: &str, secured: &str, root: &str) {
    const TARGET: &str = "target.test:25";
    let plain = |proxy: Proxy| Socket::builder().tls(false).proxy(proxy);
    let proxy = Proxy::url(format!("http://127.0.0.1:{proxy}"));
    let url = format!("https://127.0.0.1:{secured}");
    let trusted = Proxy::url(&url).tls(ClientTls::roots(std::fs::read(root).unwrap()));
    let context = glib::MainContext::default();
    for proxy in [&proxy, &trusted] {
        plain(proxy.clone()).connect(TARGET).unwrap();
        context.block_on(plain(proxy.clone()).connect_future(TARGET)).unwrap();
        assert!(context.block_on(plain(proxy.clone().except(["*"])).connect_future("127.0.0.1:1")).is_err());
    }
    // The roots of the system are loaded on a thread.
    assert!(plain(Proxy::url(&url)).connect(TARGET).is_err());
    assert!(context.block_on(plain(Proxy::url(&url)).connect_future(TARGET)).is_err());
    assert!(plain(Proxy::environment()).connect("127.0.0.1:1").is_err());
    let parent = std::process::id();
    let both = [plain(proxy).connect(TARGET).unwrap(), plain(trusted).connect(TARGET).unwrap()];
    let task = network::spawn(async move {
        while std::process::id() == parent {
            network::sleep(Duration::from_millis(1)).await;
        }
        for (socket, how) in both.iter().zip(["a proxy", "TLS"]) {
            assert_eq!(socket.recv_line_future().await?, "hello");
            socket.sendline(format!("through {how}, in the background"))?;
            socket.flush_future().await?;
        }
        network::endloop();
        Ok(())
    });
    drop(task.unwrap());
    network::bgloop().unwrap();
}

#[cfg(feature = "_services")]
mod services {
    use network::services::publish;

    use crate::world::{HERE, in_own_world};

    /// Starts processes that publish a service and go into the background, and looks for it. Runs in a world of its own.
    pub fn see_what_is_published() {
        assert!(in_own_world("published"));
        let (_bus, _avahi) = (HERE.bus(), HERE.avahi());
        let me = std::env::current_exe().unwrap();
        for (name, moment) in [("early", "at once"), ("late", "when it is published")] {
            let lines = HERE.start(me.to_str().unwrap(), &["publish", name, moment]).all();
            assert!(lines.is_empty(), "{lines:#?}");
            let browser = HERE.start("avahi-browse", &["-rp", "_chat._tcp"]);
            browser.says(&format!("=;lo;IPv4;{name};"));
        }
        println!("published: ok");
    }

    pub fn publish_in_the_background(name: &str, moment: &str) {
        let service = publish("chat", name, 4321).unwrap();
        while moment != "at once" && service.name().is_none() {
            network::iteration(true);
        }
        network::bgloop().unwrap();
    }
}

fn links_go_on_in_the_background(place: &str) {
    let say = |socket: &Socket, place: &str| {
        let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
        socket.sendline(format!("in the {place}, {threads} thread"))
    };
    let link = Link::new(place, move |socket| say(socket, "foreground")).unwrap();
    let offline = Link::new("192.0.2.1:4000", |_| Ok(())).unwrap();
    while link.socket().is_none() || !matches!(offline.state(), State::Offline) {
        network::fgloop_for(Duration::from_millis(1));
    }
    let parent = std::process::id();
    glib::source::timeout_add_local_once(Duration::ZERO, move || {
        assert_ne!(std::process::id(), parent, "in the foreground");
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        // The loopback is no way out.
        network::fgloop_for(Duration::from_millis(600));
        assert!(matches!(offline.state(), State::Offline));
        say(&link.socket().unwrap(), "background").unwrap();
        link.close();
        network::endloop();
    });
    network::bgloop().unwrap();
}

fn lookups_that_have_ended_leave_no_thread() {
    let server = Server::builder().tls(false).listen(0, |_| Ok(())).unwrap();
    let address = format!("both.test:{}", server.port());
    let context = glib::MainContext::default();
    for _ in 0..50 {
        network::names::lookup("both.test", 1).unwrap();
        context.block_on(network::names::lookup_future("four.test", 1)).unwrap();
        Socket::builder().tls(false).connect(&address).unwrap();
        context.block_on(Socket::builder().tls(false).connect_future(&address)).unwrap();
    }
    must_go_into_background();
}

fn a_late_answer_is_waited_for() {
    // It comes after 400 ms.
    let limit = Duration::from_millis(20);
    assert!(matches!(network::names::lookup_timeout("late.test", 1, limit), Err(Error::TimedOut { .. })));
    must_go_into_background();
}

fn a_lookup_without_an_end_is_named() {
    for host in ["silent.test", "silent.test", "silent2.test"] {
        let limit = Duration::from_millis(20);
        assert!(matches!(network::names::lookup_timeout(host, 1, limit), Err(Error::TimedOut { .. })));
    }
    let started = Instant::now();
    let error = go_into_background().unwrap_err();
    assert!(matches!(&error, Error::OtherThreads { others: 4, .. }), "{error:?}");
    assert!(error.to_string().contains("(looking up silent.test, looking up silent2.test)"), "{error}");
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(3), "{took:?}");
    println!("named");
}
