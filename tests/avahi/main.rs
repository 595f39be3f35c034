//! Services by name, against real Avahi daemons on buses of their own. Needs root, for the namespaces, and the packages
//! avahi-daemon, avahi-utils, dbus and iproute2.

#![cfg(feature = "avahi")]

mod world;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use network::{BrowseEvent, Error, Server, Socket};
use world::{HERE, in_own_world, until};

/// A server that greets, and what it was published as.
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

/// The first line that comes.
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
    fn add(&self, event: BrowseEvent) {
        let text = match event {
            BrowseEvent::Added(service) => format!("+{}", service.name),
            BrowseEvent::Changed(service) => format!("~{}", service.name),
            BrowseEvent::Removed(service) => format!("-{}", service.name),
            BrowseEvent::AllForNow => "all".into(),
            BrowseEvent::Down(error) => format!("down: {error}"),
            BrowseEvent::Up => "up".into(),
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

fn browse(kind: &str) -> (network::Browse, Events) {
    let events = Events::default();
    let seen = events.clone();
    (network::browse(kind, move |event| seen.add(event)).unwrap(), events)
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

    let started = std::time::Instant::now();
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
    until(|| events.has("all"));
    assert_eq!(*events.0.borrow(), ["+The hall", "all"]);
}

#[test]
fn what_is_not_there_is_said_in_time() {
    if !in_own_world("what_is_not_there_is_said_in_time") {
        return;
    }
    let no_bus = connect("chat|").unwrap_err();
    assert!(matches!(&no_bus, Error::AvahiUnavailable { cause, .. } if cause.contains("no D-Bus system bus")), "{no_bus}");
    let _bus = HERE.bus();
    let no_daemon = connect("chat|").unwrap_err();
    assert!(matches!(&no_daemon, Error::AvahiUnavailable { cause, .. } if cause.contains("not running")), "{no_daemon}");
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
