//! Services by name, against real Avahi daemons on private buses. Needs namespaces, for which an ordinary user needs
//! user namespaces, and the programs of avahi-daemon, avahi-utils, dbus-daemon, xdg-dbus-proxy and iproute2.

#![cfg(feature = "_services")]

mod links;
mod publishing;
mod sandbox;
mod world;
#[cfg(not(feature = "avahi"))]
mod zeroconf;

use std::cell::{Cell, RefCell};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use network::{Error, Server, Socket, services::Event};
use world::{HERE, Party, another_host, in_own_world, run, until};

/// Whether the backend is the crate zeroconf, which supports less: see docs/services.md.
const ZEROCONF: bool = cfg!(not(feature = "avahi"));

/// A server that greets each client.
fn greeter(address: &str, greeting: &'static str) -> Server {
    Server::new(address, move |socket| socket.sendline(greeting)).unwrap()
}

fn connect(address: &str) -> network::Result<Socket> {
    connect_within(address, Duration::from_secs(15))
}

fn connect_within(address: &str, limit: Duration) -> network::Result<Socket> {
    let outcome = Rc::new(RefCell::new(None));
    let place = outcome.clone();
    Socket::builder().connect_timeout(limit).connect_async(address, gio::Cancellable::NONE, move |result| {
        place.replace(Some(result));
    });
    until(|| outcome.borrow().is_some());
    outcome.take().unwrap()
}

/// Returns the first line that arrives.
fn line(socket: &Socket) -> String {
    let heard = Rc::new(RefCell::new(None));
    let place = heard.clone();
    socket.readlines(move |_, line| {
        place.replace(Some(line.to_owned()));
        Ok(())
    });
    until(|| heard.borrow().is_some());
    heard.take().unwrap()
}

/// Events of browsing, as short texts.
#[derive(Clone, Default)]
struct Events(Rc<RefCell<Vec<String>>>);

impl Events {
    fn add(&self, event: Event) {
        let text = match event {
            Event::Added(service) => format!("+{}", service.name),
            Event::Changed(service) => format!("~{}", service.name),
            Event::Removed(service) => format!("-{}", service.name),
            Event::AllForNow => "all".into(),
            Event::Unavailable(error) => format!("down: {error}"),
            Event::Available => "up".into(),
            _ => unreachable!(),
        };
        eprintln!("{text}");
        self.0.borrow_mut().push(text);
    }

    fn has(&self, text: &str) -> bool {
        self.0.borrow().iter().any(|event| event.starts_with(text))
    }

    fn clear(&self) {
        self.0.borrow_mut().clear();
    }
}

fn browse(kind: &str) -> (network::services::Browser, Events) {
    let events = Events::default();
    let seen = events.clone();
    (network::services::browse(kind, move |event| seen.add(event)).unwrap(), events)
}

#[test]
fn a_server_is_found_by_its_name() {
    if !in_own_world("a_server_is_found_by_its_name") {
        return;
    }
    let (_bus, _avahi) = (HERE.bus(), HERE.avahi());
    let room = greeter("chat|My room", "in the room");
    let hall = greeter("chat|The hall|0", "in the hall");
    let published = until(|| room.published_name().is_some() && hall.published_name().is_some());
    eprintln!("published after {published:?}");
    assert_eq!(room.published_name().unwrap(), "My room");

    let started = Instant::now();
    let first = connect("chat|").unwrap();
    eprintln!("connected after {:?}", started.elapsed());
    assert!(line(&first).starts_with("in the"));
    assert_eq!(line(&connect("chat|^The").unwrap()), "in the hall");
    assert_eq!(line(&connect("chat|room$").unwrap()), "in the room");

    let others = HERE.start("avahi-browse", &["-rpt", "_chat._tcp"]).all();
    let port = format!(";{};", room.port());
    assert!(others.iter().any(|line| line.contains("My\\032room") && line.contains(&port)), "{others:#?}");

    room.close();
    assert_eq!(room.published_name(), None);
    let (_browse, events) = browse("chat");
    // Other hosts and browsers forget a withdrawn service within a second.
    until(|| events.has("all") && events.has("+The hall") && events.has("+My room") == events.has("-My room"));
}

#[test]
fn what_is_not_there_is_said_in_time() {
    if !in_own_world("what_is_not_there_is_said_in_time") {
        return;
    }
    let no_bus = connect("chat|").unwrap_err();
    assert!(
        matches!(&no_bus, Error::AvahiUnavailable { cause, .. } if cause.contains("no D-Bus system bus")),
        "{no_bus}"
    );
    let _bus = HERE.bus();
    let no_daemon = connect("chat|").unwrap_err();
    assert!(
        matches!(&no_daemon, Error::AvahiUnavailable { cause, .. } if cause.contains("not running")),
        "{no_daemon}"
    );
    let no_daemon = Socket::connect("chat|").unwrap_err();
    assert!(matches!(&no_daemon, Error::AvahiUnavailable { .. }), "{no_daemon}");

    let _avahi = HERE.avahi();
    let nothing = connect("chat|").unwrap_err();
    assert!(matches!(&nothing, Error::ServiceNotFound { seen, .. } if seen.is_empty()), "{nothing}");
    let _other = HERE.publish("bell\u{7}", 1, &[]);
    for limit in [Duration::from_millis(500), Duration::from_secs(15)] {
        let nothing = connect_within("chat|room", limit).unwrap_err();
        assert!(matches!(&nothing, Error::ServiceNotFound { seen, .. } if seen == &["bell\u{7}"]), "{nothing}");
        assert!(nothing.to_string().contains(r#""bell\u{7}""#), "{nothing}");
    }
    let bad = connect("chat|room(").unwrap_err();
    assert!(matches!(&bad, Error::Address { problem, .. } if problem.contains("unclosed group")), "{bad}");
    let dead = connect("chat|bell").unwrap_err();
    assert!(matches!(&dead, Error::Refused { .. }), "{dead}");
}

#[test]
fn a_bus_that_does_not_answer_is_given_up() {
    if ZEROCONF || !in_own_world("a_bus_that_does_not_answer_is_given_up") {
        return;
    }
    let mute = UnixListener::bind(HERE.bus_path()).unwrap();
    let error = connect("chat|").unwrap_err();
    assert!(
        matches!(&error, Error::AvahiUnavailable { cause, .. } if cause.contains("no reply to the authentication")),
        "{error}"
    );
    // A later bus is used.
    drop(mute);
    std::fs::remove_file(HERE.bus_path()).unwrap();
    let (_bus, _avahi) = (HERE.bus(), HERE.avahi());
    let server = greeter("chat|room", "hello");
    until(|| server.published_name().is_some());
}

#[test]
fn published_names_survive_the_daemon() {
    if !in_own_world("published_names_survive_the_daemon") {
        return;
    }
    // First no bus, then no daemon, then both.
    let told = Rc::new(Cell::new(0));
    let count = told.clone();
    let server = Server::builder()
        .published_cb(move |server, name| {
            assert_eq!((server.published_name().as_deref(), name), (Some("room"), "room"));
            count.set(count.get() + 1);
        })
        .listen("chat|room", |socket| socket.sendline("still here"))
        .unwrap();
    let (_browse, events) = browse("chat");
    until(|| events.has("down"));
    let direct = connect(&format!("localhost:{}", server.port())).unwrap();
    assert_eq!(line(&direct), "still here");
    let bus = HERE.bus();
    let avahi = HERE.avahi();
    until(|| server.published_name().is_some() && events.has("+room"));
    assert!(events.has("up"));

    events.clear();
    avahi.kill();
    until(|| events.has("down"));
    assert_eq!(events.0.borrow()[0], "-room");
    until(|| server.published_name().is_none());
    let avahi = HERE.avahi();
    until(|| server.published_name().is_some() && events.has("+room"));
    assert_eq!(line(&connect("chat|").unwrap()), "still here");

    // After a change of the host name, Avahi requires all services to be registered again.
    if !ZEROCONF {
        let before = told.get();
        run_avahi_set_host_name();
        until(|| told.get() > before && server.published_name().is_some());
    }

    // The bus stops and starts as well.
    events.clear();
    bus.kill();
    until(|| events.has("down"));
    avahi.kill();
    let _bus = HERE.bus();
    let _avahi = HERE.avahi();
    until(|| server.published_name().is_some() && events.has("+room"));
    assert_eq!(line(&connect("chat|room").unwrap()), "still here");
}

fn run_avahi_set_host_name() {
    let status = HERE.command("avahi-set-host-name", &["renamed"]).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_name_that_is_taken_is_numbered() {
    if !in_own_world("a_name_that_is_taken_is_numbered") {
        return;
    }
    let (_bus, _avahi) = (HERE.bus(), HERE.avahi());
    let other = HERE.publish("room", 9, &[]);
    let first = greeter("chat|room", "second");
    let second = greeter("chat|room", "third");
    until(|| first.published_name().is_some() && second.published_name().is_some());
    let mut names = [first.published_name().unwrap(), second.published_name().unwrap()];
    names.sort();
    assert_eq!(names, ["room #2", "room #3"]);
    other.kill();
    assert_eq!(
        line(&connect("chat|room #3").unwrap()),
        if first.published_name().unwrap() == "room #3" { "second" } else { "third" }
    );
}

#[test]
fn what_others_publish_does_no_harm() {
    if !in_own_world("what_others_publish_does_no_harm") {
        return;
    }
    let (_bus, _avahi) = (HERE.bus(), HERE.avahi());
    let long = "x".repeat(63);
    let names = ["a|b", "line\nend", "\u{1b}[31mred", "zürich ✓", &long];
    let dead: Vec<Party> = names.iter().map(|name| HERE.publish(name, 7, &["k=v", "=nokey", "flag"])).collect();
    let zero = HERE.publish("zero", 0, &[]);
    let services = Rc::new(RefCell::new(Vec::new()));
    let place = services.clone();
    let found = move |result: network::Result<Vec<_>>| drop(place.replace(result.unwrap()));
    network::services::resolve_all_async("chat", gio::Cancellable::NONE, found);
    let cancellable = gio::Cancellable::new();
    let cancelled = Rc::new(RefCell::new(None));
    let place = cancelled.clone();
    network::services::resolve_all_async("chat", Some(&cancellable), move |result| drop(place.replace(Some(result))));
    gio::prelude::CancellableExt::cancel(&cancellable);
    until(|| cancelled.borrow().is_some());
    assert!(matches!(cancelled.take(), Some(Err(network::Error::Cancelled { .. }))));
    until(|| !services.borrow().is_empty());
    let found = services.take();
    for name in names {
        let service = found.iter().find(|service| service.name == name).expect(name);
        assert_eq!((service.port, service.kind.as_str()), (7, "chat"));
        assert_eq!(service.txt.value("K"), (!ZEROCONF).then_some(&b"v"[..]));
        assert_eq!(service.txt.value("flag"), (!ZEROCONF).then_some(&b""[..]));
        assert!(service.addresses.iter().all(|address| address.port() == 7));
    }

    // Services that refuse connections do not delay others, nor do those that announce port 0.
    let publish = |value: &[u8]| {
        let builder = Server::builder().service_name("odd | name\n(").txt_record("colour", value);
        builder.listen("chat||0", |socket| socket.sendline("alive"))
    };
    let server = match publish(&[0xff, 0x00]) {
        Err(error) if ZEROCONF => {
            assert!(error.to_string().contains("is not text"), "{error}");
            publish(b"red").unwrap()
        }
        server => server.unwrap(),
    };
    until(|| server.published_name().is_some());
    assert_eq!(line(&connect("chat|").unwrap()), "alive");
    let found = glib::MainContext::ref_thread_default();
    let found = found.block_on(network::services::resolve_all_future("_chat._tcp")).unwrap();
    let odd = found.iter().find(|service| service.name == "odd | name\n(").unwrap();
    assert_eq!(odd.txt.value("colour"), (!ZEROCONF).then_some(&[0xff, 0x00][..]));
    let others = HERE.start("avahi-browse", &["-rpt", "_chat._tcp"]).all();
    assert!(others.iter().any(|line| line.contains("\"colour=")), "{others:#?}");
    let exact = network::Address::from(odd);
    assert_eq!(exact.to_string(), "chat|odd | name\n(");
    let socket = Rc::new(RefCell::new(None));
    let place = socket.clone();
    Socket::connect_async(odd, gio::Cancellable::NONE, move |result| drop(place.replace(Some(result.unwrap()))));
    until(|| socket.borrow().is_some());
    assert_eq!(line(&socket.take().unwrap()), "alive");
    drop((zero, dead));
}

#[test]
fn two_hundred_services_at_once() {
    if !in_own_world("two_hundred_services_at_once") {
        return;
    }
    let (_bus, _avahi) = (HERE.bus(), HERE.avahi());
    let (_browse, events) = browse("chat");
    until(|| events.has("all"));
    let servers: Vec<Server> = (0..200).map(|n| greeter(&format!("chat|room {n}"), "hello")).collect();
    let published = until(|| servers.iter().all(|server| server.published_name().is_some()));
    let seen = until(|| events.0.borrow().iter().filter(|event| event.starts_with('+')).count() >= 200);
    eprintln!("200 services published after {published:?}, all seen {seen:?} later");
    let started = Instant::now();
    assert_eq!(line(&connect("chat|room 137$").unwrap()), "hello");
    eprintln!("one of 200 found after {:?}", started.elapsed());
    events.clear();
    drop(servers);
    until(|| events.0.borrow().iter().filter(|event| event.starts_with('-')).count() >= 200);
}

#[test]
fn another_host_is_reached() {
    if !in_own_world("another_host_is_reached") {
        return;
    }
    let far = another_host(true);
    let (_bus, _avahi, _far_bus, _far_avahi) = (HERE.bus(), HERE.avahi(), far.bus(), far.avahi());
    let (_browse, events) = browse("chat");
    let served = far.start(std::env::current_exe().unwrap().to_str().unwrap(), &ROLE);
    let came = until(|| events.has("+far room"));
    eprintln!("heard of the other host's service after {came:?}");
    // Avahi's own tools agree. avahi-browse shows whichever address of the host it receives first.
    let others = HERE.start("avahi-browse", &["-rpt", "_chat._tcp"]).all();
    assert!(others.iter().any(|line| line.starts_with("=;") && line.contains(";far\\032room;")), "{others:#?}");
    HERE.start("avahi-resolve", &["-4", "-n", "far.local"]).says("10.9.8.2");
    let socket = connect("chat|far").unwrap();
    assert_eq!(line(&socket), "from afar");
    assert_eq!(socket.remote().inet().unwrap().ip().to_string(), "10.9.8.2");
    let blocking = Socket::connect("chat|far").unwrap();
    assert_eq!(blocking.recv_line().unwrap(), "from afar");
    // Killing its process withdraws the service.
    served.kill();
    until(|| events.has("-far room"));
}

#[test]
fn another_host_is_reached_by_its_link_local_address() {
    if !in_own_world("another_host_is_reached_by_its_link_local_address") {
        return;
    }
    let far = another_host(false);
    let (_bus, _avahi, _far_bus, _far_avahi) = (HERE.bus(), HERE.avahi(), far.bus(), far.avahi());
    let (_browse, events) = browse("chat");
    let _served = far.start(std::env::current_exe().unwrap().to_str().unwrap(), &ROLE);
    if ZEROCONF {
        // The crate does not report the interface of the address. A search may end before the other host has published anything.
        let late = Instant::now() + Duration::from_secs(30);
        loop {
            match connect("chat|far").unwrap_err() {
                Error::ServiceNotFound { seen, .. } if seen == ["far room"] => return,
                Error::ServiceNotFound { seen, .. } if seen.is_empty() => {
                    assert!(Instant::now() < late, "it is not seen")
                }
                error => panic!("{error}"),
            }
        }
    }
    until(|| events.has("+far room"));
    let socket = connect("chat|far").unwrap();
    assert_eq!(line(&socket), "from afar");
    let remote = socket.remote().inet().unwrap().to_string();
    assert!(remote.starts_with("[fe80::") && remote.contains('%'), "{remote}");
}

/// The path of an example program, as cargo builds it for the tests.
fn example(name: &str) -> String {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples").join(name).to_str().unwrap().to_owned()
}

#[test]
fn a_daemon_is_published_when_the_shell_goes_on() {
    if !in_own_world("a_daemon_is_published_when_the_shell_goes_on") {
        return;
    }
    let _bus = HERE.bus();
    let early = HERE.start(&example("daemon"), &["chat|early"]).all();
    assert!(
        early.iter().any(|line| line.contains(r#"failed to publish service "early" of type chat: the Avahi"#)),
        "{early:?}"
    );
    let _avahi = HERE.avahi();
    let output = HERE.start(&example("daemon"), &["chat|in time"]).all();
    assert!(output.len() == 1 && output[0].starts_with("listening on [::]:"), "{output:?}");
    // Both are published now: the first has noticed the Avahi daemon.
    for name in ["chat|time", "chat|early"] {
        let daemon = Socket::connect(name).unwrap();
        assert!(daemon.recv_line().unwrap().starts_with("daemon "));
        daemon.sendline("hello").unwrap();
        assert_eq!(daemon.recv_line().unwrap(), "You said: hello");
    }
}

#[test]
fn people_chat() {
    if !in_own_world("people_chat") {
        return;
    }
    let (_bus, _avahi) = (HERE.bus(), HERE.avahi());
    let chat = |nick: &str| HERE.start(&example("chat"), &["Kitchen (1st floor)", nick]);
    let mut ann = chat("Ann");
    ann.says("The room \"Kitchen (1st floor)\" is open.");
    let (mut bob, cid) = (chat("Bob"), chat("Cid"));
    bob.says("You are in the room.");
    cid.says("You are in the room.");
    bob.hears("hello\u{7}");
    ann.says("Bob: hello\u{fffd}");
    cid.says("Bob: hello\u{fffd}");
    ann.hears("hello Bob");
    bob.says("Ann: hello Bob");
    cid.dismiss();
    ann.dismiss();
    bob.says("The room is closed");
}

#[test]
fn netcat_knows_services() {
    if !in_own_world("netcat_knows_services") {
        return;
    }
    let (_bus, _avahi) = (HERE.bus(), HERE.avahi());
    let netcat = |arguments: &[&str]| HERE.start(&example("netcat"), arguments);
    let browser = netcat(&["--browse", "chat"]);
    browser.says("all for now");
    let mut server = netcat(&["--listen", "--verbose", "chat|My room"]);
    server.says("fingerprint ");
    browser.says("+ \"My room\" ");
    let mut client = netcat(&["--verbose", "chat|My.*"]);
    client.says("peer ");
    client.hears("hello");
    server.says("hello");
    server.hears("welcome");
    client.says("welcome");
    client.dismiss();
    server.dismiss();
    browser.says("- \"My room\"");
    let failed = netcat(&["no such type|"]).all();
    assert!(matches!(&failed[..], [line] if line.contains("service type")), "{failed:?}");
}

#[test]
fn a_name_keeps_its_pin_wherever_it_goes() {
    if !in_own_world("a_name_keeps_its_pin_wherever_it_goes") {
        return;
    }
    let (_bus, _avahi) = (HERE.bus(), HERE.avahi());
    let pins = tempfile::tempdir().unwrap();
    let connect = || {
        let outcome = Rc::new(RefCell::new(None));
        let place = outcome.clone();
        let tls = network::ClientTls::on_first_use().directory(pins.path());
        Socket::builder().tls(tls).connect_async("chat|", gio::Cancellable::NONE, move |result| {
            place.replace(Some(result));
        });
        until(|| outcome.borrow().is_some());
        outcome.take().unwrap()
    };
    let serve = |certificate: &str| {
        let server = Server::builder().tls(certificate).listen("chat|room", |_| Ok(())).unwrap();
        until(|| server.published_name().is_some());
        server
    };
    let first = serve("one");
    assert_eq!(first.published_name().unwrap(), "room");
    connect().unwrap();
    drop(first);
    // The same key on another port is the same server.
    let moved = serve("one");
    connect().unwrap();
    drop(moved);
    // Upper and lower case of a type are the same, for finding and for pinning.
    let loud = Server::builder().tls("other").listen("CHAT|room", |_| Ok(())).unwrap();
    until(|| loud.published_name().is_some());
    assert!(matches!(connect(), Err(Error::CertificateChanged { .. })));
    drop(loud);
    let other = serve("other");
    assert_eq!(other.published_name().unwrap(), "room");
    let error = connect().unwrap_err();
    assert!(matches!(&error, Error::CertificateChanged { .. }), "{error}");
    assert!(error.to_string().contains("chat|room"), "{error}");
}

const ROLE: [&str; 4] = ["role_serve_far_room", "--exact", "--ignored", "--nocapture"];

#[test]
#[ignore = "started by other tests, on another host"]
fn role_serve_far_room() {
    let _server = greeter("chat|far room", "from afar");
    network::fgloop_for(Duration::from_secs(90));
}

#[test]
fn a_hostile_machine_does_no_harm() {
    if !in_own_world("a_hostile_machine_does_no_harm") {
        return;
    }
    let far = another_host(true);
    run("ip", "-n far route add 224.0.0.0/4 dev cable");
    let (_bus, _avahi) = (HERE.bus(), HERE.avahi());
    let warnings = warnings();
    let server = greeter("chat|room", "hello");
    let private = TcpListener::bind("127.0.0.1:4321").unwrap();
    private.set_nonblocking(true).unwrap();
    let (_browse, events) = browse("chat");
    until(|| events.has("+room") && events.has("all"));
    let before = resident();
    let hostile = far.start(std::env::current_exe().unwrap().to_str().unwrap(), &HOSTILE);
    // In the flood, the other machine announces its service on our loopback address and on the unspecified address.
    until(|| events.0.borrow().len() > 200);
    let started = Instant::now();
    if !ZEROCONF {
        assert_eq!(line(&connect("chat|^room$").unwrap()), "hello");
    }
    eprintln!("connected beside the flood after {:?}", started.elapsed());
    let lured = connect_within("chat|^evil", Duration::from_secs(8)).unwrap_err();
    assert!(matches!(&lured, Error::ServiceNotFound { .. }), "{lured}");
    assert!(private.accept().is_err());
    hostile.says("flooded");
    network::fgloop_for(Duration::from_secs(3));
    let grown = resident().saturating_sub(before);
    eprintln!("{} events, {} KiB more", events.0.borrow().len(), grown >> 10);
    assert!(grown < 24 << 20, "{grown}");
    assert!(server.published_name().is_some());
    match connect("chat|^room$") {
        // This backend looks up every service, and Avahi limits the number of lookups.
        Err(Error::ServiceNotFound { .. }) if ZEROCONF => {}
        socket => assert_eq!(line(&socket.unwrap()), "hello"),
    }
    // In a program with fatal warnings, another machine must not be able to cause one.
    assert_eq!(*warnings.lock().unwrap(), [""; 0]);
}

/// Collects the warnings that the library logs from now on.
fn warnings() -> Arc<Mutex<Vec<String>>> {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let heard = warnings.clone();
    network::log::set_log(network::log::Level::Warning, move |record| {
        eprintln!("{record}");
        heard.lock().unwrap().push(record.message.to_owned());
    });
    warnings
}

#[test]
fn what_changes_is_told() {
    if ZEROCONF || !in_own_world("what_changes_is_told") {
        return;
    }
    let far = another_host(true);
    run("ip", "-n far route add 224.0.0.0/4 dev cable");
    let (_bus, _avahi) = (HERE.bus(), HERE.avahi());
    let seen = Rc::new(RefCell::new(Vec::new()));
    let list = seen.clone();
    let _browse = network::services::browse("chat", move |event| {
        if let Event::Added(service) | Event::Changed(service) = event {
            let mode = service.txt.value("mode").unwrap_or_default().to_vec();
            list.borrow_mut().push((service.name, service.port, String::from_utf8(mode).unwrap()));
        }
    });
    let has = |name: &str, port, mode: &str| seen.borrow().contains(&(name.into(), port, mode.into()));
    let mut mover = far.start(std::env::current_exe().unwrap().to_str().unwrap(), &MOVER);
    // A hundred services with incomplete replies delay no other.
    let came = until(|| has("still", 4321, "on"));
    eprintln!("seen beside those that do not answer after {came:?}");
    assert!(came < Duration::from_secs(4));
    mover.says("announced 4321 on");
    mover.hears("other text");
    until(|| has("still", 4321, "off"));
    mover.says("announced 4321 off");
    mover.hears("other port");
    until(|| has("still", 4322, "off"));
    assert!(seen.borrow().iter().all(|(name, ..)| name == "still"), "{:?}", seen.borrow());
}

const MOVER: [&str; 4] = ["role_moving_service", "--exact", "--ignored", "--nocapture"];

#[test]
#[ignore = "started by other tests, on another host"]
fn role_moving_service() {
    let socket = std::net::UdpSocket::bind("0.0.0.0:5353").unwrap();
    socket.set_multicast_ttl_v4(255).unwrap();
    let send = |packet: &[u8]| drop(socket.send_to(packet, "224.0.0.251:5353"));
    let host = (b"well", [10, 9, 8, 2]);
    for n in 0..100 {
        // The string claims to be longer than it is.
        send(&announcement(format!("broken {n}").as_bytes(), b"\xffbroken", host));
    }
    let still = |port: u16, mode: &str| {
        let text = [&[5 + mode.len() as u8][..], b"mode=", mode.as_bytes()].concat();
        let mut packet = announcement(b"still", &text, host);
        let place = packet.windows(2).position(|bytes| bytes == 4321u16.to_be_bytes()).unwrap();
        packet[place..place + 2].copy_from_slice(&port.to_be_bytes());
        // The cache-flush bit: earlier records of this name are obsolete.
        for number in [33, 16] {
            let head = [0, number, 0, 1, 0, 0, 0, 120];
            let place = packet.windows(8).position(|bytes| bytes == head).unwrap();
            packet[place + 2] = 0x80;
        }
        send(&packet);
    };
    for (port, mode) in [(4321, "on"), (4321, "off"), (4322, "off")] {
        // Hosts repeat announcements after a second. Avahi may ignore earlier changes.
        for _ in 0..3 {
            still(port, mode);
            std::thread::sleep(Duration::from_millis(700));
        }
        println!("announced {port} {mode}");
        std::io::stdin().read_line(&mut String::new()).unwrap();
    }
}

#[test]
fn what_listens_for_this_machine_alone_is_told_no_other() {
    if !in_own_world("what_listens_for_this_machine_alone_is_told_no_other") {
        return;
    }
    let far = another_host(true);
    let (_bus, _avahi, _far_bus, _far_avahi) = (HERE.bus(), HERE.avahi(), far.bus(), far.avahi());
    let own = Server::builder().address("127.0.0.1").listen("chat|own", |_| Ok(())).unwrap();
    let open = greeter("chat|open", "hello");
    until(|| own.published_name().is_some() && open.published_name().is_some());
    let others = far.start("avahi-browse", &["-rpt", "_chat._tcp"]).all();
    assert!(others.iter().any(|line| line.contains(";open;")), "{others:#?}");
    assert!(!others.iter().any(|line| line.contains(";own;")), "{others:#?}");
}

const HOSTILE: [&str; 4] = ["role_hostile_machine", "--exact", "--ignored", "--nocapture"];

#[test]
#[ignore = "started by other tests, on another host"]
fn role_hostile_machine() {
    let socket = std::net::UdpSocket::bind("0.0.0.0:5353").unwrap();
    socket.set_multicast_ttl_v4(255).unwrap();
    let send = |packet: &[u8]| drop(socket.send_to(packet, "224.0.0.251:5353"));
    let mut random = 12345u32;
    let mut byte = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 24) as u8
    };
    for n in 0..4000u32 {
        let name: Vec<u8> = match n % 4 {
            0 => format!("evil {n}").into_bytes(),
            1 => (0..63).map(|_| byte()).collect(),
            2 => format!("\u{1b}[2J{n}\n").into_bytes(),
            _ => [&n.to_be_bytes()[..], b"\xff\xfe\0"].concat(),
        };
        // Avahi waits for its timeout on services with a malformed record.
        let txt: Vec<u8> = match n % 32 {
            0..16 => vec![255; 1024],
            16 => (0..300).map(|_| byte()).collect(),
            _ => [&[4u8][..], b"\xff=\xfe\0"].concat(),
        };
        // Addresses that no other machine may connect to, and a valid one.
        let host: (&[u8; 4], [u8; 4]) = match n % 8 {
            0 | 4 => (b"evil", [127, 0, 0, 1]),
            1 => (b"none", [0; 4]),
            _ => (b"well", [10, 9, 8, 2]),
        };
        send(&announcement(&name, &txt, host));
        if n % 16 == 0 {
            let mut packet = announcement(&name, &txt, host);
            let length = packet.len();
            for _ in 0..8 {
                packet[12 + usize::from(byte()) * (length - 12) / 256] = byte();
            }
            send(&packet);
            send(&packet[..length / 2]);
            // Avahi drops packets that arrive faster than it reads them.
            std::thread::sleep(Duration::from_millis(4));
        }
    }
    println!("flooded");
    std::thread::sleep(Duration::from_secs(60));
}

/// A multicast DNS packet that announces a service on port 4321 of this host.
fn announcement(name: &[u8], txt: &[u8], (host, address): (&[u8; 4], [u8; 4])) -> Vec<u8> {
    let mut packet = vec![0, 0, 0x84, 0, 0, 0, 0, 4, 0, 0, 0, 0];
    let kind: Vec<u8> = [&[5][..], b"_chat", &[4], b"_tcp", &[5], b"local", &[0]].concat();
    let mut record = |owner: &[u8], number: u8, data: &[u8]| {
        packet.extend_from_slice(owner);
        packet.extend_from_slice(&[0, number, 0, 1, 0, 0, 0, 120]);
        packet.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
        packet.extend_from_slice(data);
    };
    let full = [&[name.len() as u8][..], name, &kind].concat();
    let target = [&[4][..], host, &[5], b"local", &[0]].concat();
    record(&kind, 12, &full);
    record(&full, 33, &[&[0, 0, 0, 0, 16, 225][..], &target].concat());
    record(&full, 16, txt);
    record(&target, 1, &address);
    packet
}

/// The resident memory of this process, in bytes.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn cancelling_leaves_nothing_behind() {
    if !in_own_world("cancelling_leaves_nothing_behind") {
        return;
    }
    let (_bus, _avahi) = (HERE.bus(), HERE.avahi());
    // Without TLS, since nothing serves the handshake meanwhile.
    let server = Server::builder().tls(false).listen("chat|room", |_| Ok(())).unwrap();
    let connect = |address: &str| Socket::builder().tls(false).connect(address).unwrap();
    until(|| server.published_name().is_some());
    // Creates everything that is created once and kept.
    drop(connect("chat|"));
    let (fds, threads) = (count("/proc/self/fd"), count("/proc/self/task"));

    // Cancelled by a drop from within the first event.
    let place = Rc::new(RefCell::new(None));
    let own = place.clone();
    let calls = Rc::new(Cell::new(0));
    let called = calls.clone();
    let browse = network::services::browse("chat", move |_| {
        called.set(called.get() + 1);
        drop(own.take());
    });
    place.replace(Some(browse.unwrap()));
    until(|| calls.get() == 1);

    // Searches that are cancelled at different moments.
    for micros in (0..30_000).step_by(1000) {
        let context = glib::MainContext::ref_thread_default();
        context.block_on(async {
            let connecting = std::pin::pin!(Socket::connect_future("chat|nobody"));
            let late = std::pin::pin!(glib::timeout_future(Duration::from_micros(micros)));
            until_second(connecting, late).await;
        });
    }
    for _ in 0..10 {
        drop(connect("chat|room"));
    }
    while network::iteration(false) {}
    assert_eq!(calls.get(), 1);
    // The threads of the backend end without waking the main loop.
    let _wakes = ZEROCONF.then(|| glib::timeout_add_local(Duration::from_millis(20), || glib::ControlFlow::Continue));
    until(|| count("/proc/self/fd") <= fds && count("/proc/self/task") <= threads);
}

/// Polls both futures until the second one is ready.
async fn until_second<A: Future>(mut first: std::pin::Pin<&mut A>, mut second: std::pin::Pin<&mut impl Future>) {
    std::future::poll_fn(|context| {
        let _ = first.as_mut().poll(context).is_ready();
        second.as_mut().poll(context).map(drop)
    })
    .await;
}

fn count(directory: &str) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[test]
fn the_end_of_a_context_withdraws_its_names() {
    if !in_own_world("the_end_of_a_context_withdraws_its_names") {
        return;
    }
    let (_bus, _avahi) = (HERE.bus(), HERE.avahi());
    let (_browse, events) = browse("chat");
    let context = glib::MainContext::new();
    let publish = || {
        let server = greeter("chat|room", "hello");
        until(|| server.published_name().is_some());
        server
    };
    let _server = context.with_thread_default(publish).unwrap();
    until(|| events.has("+room"));
    drop(context);
    until(|| events.has("-room"));
}

#[test]
fn a_stream_tells_what_a_callback_does() {
    if !in_own_world("a_stream_tells_what_a_callback_does") {
        return;
    }
    let (_bus, _avahi) = (HERE.bus(), HERE.avahi());
    let _other = HERE.publish("room", 9, &[]);
    let mut stream = network::services::browse_stream("chat").unwrap();
    glib::MainContext::ref_thread_default().block_on(async {
        match stream.next().await {
            Some(Event::Added(service)) => assert_eq!(service.name, "room"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(stream.next().await, Some(Event::AllForNow)));
    });
    assert!(matches!(network::services::browse("no such type", |_| {}), Err(Error::Address { .. })));
}

#[test]
fn a_type_that_avahi_cannot_have_is_refused_at_once() {
    // Avahi would refuse it later, when nobody waits for the result.
    let listening = Server::builder().tls(false).listen("x|room", |_| Ok(())).unwrap_err();
    let connecting = Socket::connect("x|").unwrap_err();
    let browsing = network::services::browse("x", |_| {}).unwrap_err();
    for error in [listening, connecting, browsing] {
        assert!(matches!(&error, Error::Address { problem, .. } if problem.contains("2 to 15")), "{error}");
    }
}
