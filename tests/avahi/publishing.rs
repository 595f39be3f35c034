//! Services that a program publishes without a server.

use std::cell::RefCell;
use std::rc::Rc;

use network::services::{Publisher, publish};
use network::{Error, UdpSocket, services::Event};

use super::{ZEROCONF, browse, connect, greeter, line};
use crate::world::{HERE, in_own_world, until};

/// The names that a publisher has reported.
fn names(service: &Publisher) -> Rc<RefCell<Vec<String>>> {
    let names = Rc::new(RefCell::new(Vec::new()));
    let list = names.clone();
    service.published_cb(move |name| list.borrow_mut().push(name.to_owned()));
    names
}

/// The lines of Avahi's own browser about services with this name, escaped as it does.
fn seen_by_avahi(kind: &str, name: &str) -> Vec<String> {
    let lines = HERE.start("avahi-browse", &["-rpt", kind]).all();
    lines.into_iter().filter(|line| line.starts_with('=') && line.contains(&format!(";{name};"))).collect()
}

#[test]
fn a_service_is_published_until_it_is_dropped() {
    if !in_own_world("publishing::a_service_is_published_until_it_is_dropped") {
        return;
    }
    let (_bus, _avahi) = (HERE.bus(), HERE.avahi());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let udp = publish("_chat._udp", "My room", socket.port()).unwrap();
    udp.set_txt([("version", "2"), ("colour", "blue")]).unwrap();
    let tcp = publish("chat", "My room", 4321).unwrap();
    let (told, of_tcp) = (names(&udp), names(&tcp));
    assert_eq!((udp.name(), tcp.name()), (None, None));
    until(|| udp.name().is_some() && tcp.name().is_some());
    assert_eq!(*told.borrow(), ["My room"]);
    assert_eq!(*of_tcp.borrow(), ["My room"]);
    let lines = seen_by_avahi("_chat._udp", "My\\032room");
    let port = format!(";{};", socket.port());
    let complete =
        |line: &String| line.contains(&port) && line.contains("\"version=2\"") && line.contains("\"colour=blue\"");
    assert!(lines.iter().any(complete), "{lines:#?}");
    let lines = seen_by_avahi("_chat._tcp", "My\\032room");
    assert!(lines.iter().any(|line| line.contains(";4321;")), "{lines:#?}");

    let (_browse, events) = browse("_chat._udp");
    until(|| events.has("+My room"));
    drop(udp);
    until(|| events.has("-My room"));
    until(|| seen_by_avahi("_chat._udp", "My\\032room").is_empty());
    assert!(!seen_by_avahi("_chat._tcp", "My\\032room").is_empty(), "the other one stays");
    assert_eq!(tcp.name().as_deref(), Some("My room"));
}

#[test]
fn a_taken_name_is_numbered_and_told() {
    if !in_own_world("publishing::a_taken_name_is_numbered_and_told") {
        return;
    }
    let (_bus, _avahi) = (HERE.bus(), HERE.avahi());
    let _other = HERE.publish("room", 9, &[]);
    let ours = publish("chat", "room", 4321).unwrap();
    let again = publish("chat", "room", 4322).unwrap();
    let (first, second) = (names(&ours), names(&again));
    until(|| ours.name().is_some() && again.name().is_some());
    let mut both = [ours.name().unwrap(), again.name().unwrap()];
    both.sort();
    assert_eq!(both, ["room #2", "room #3"]);
    assert_eq!(first.borrow().last(), ours.name().as_ref());
    assert_eq!(second.borrow().last(), again.name().as_ref());
    let lines = seen_by_avahi("_chat._tcp", "room\\032\\0352");
    assert!(!lines.is_empty());
}

#[test]
fn a_service_waits_for_its_daemon_and_survives_it() {
    if !in_own_world("publishing::a_service_waits_for_its_daemon_and_survives_it") {
        return;
    }
    // No bus and no daemon yet.
    let server = greeter("0", "from the port");
    let service = publish("chat", "room", server.port()).unwrap();
    let told = names(&service);
    let (_browse, events) = browse("chat");
    until(|| events.has("down"));
    assert_eq!(service.name(), None);
    let _bus = HERE.bus();
    let avahi = HERE.avahi();
    until(|| service.name().is_some() && events.has("+room"));
    assert_eq!(*told.borrow(), ["room"]);
    assert_eq!(line(&connect("chat|room").unwrap()), "from the port");

    events.clear();
    avahi.kill();
    until(|| events.has("down") && service.name().is_none());
    let _avahi = HERE.avahi();
    until(|| service.name().is_some() && events.has("+room"));
    assert_eq!(*told.borrow(), ["room", "room"]);
    assert_eq!(line(&connect("chat|room").unwrap()), "from the port");
}

#[test]
fn the_text_of_a_service_can_change() {
    if !in_own_world("publishing::the_text_of_a_service_can_change") {
        return;
    }
    let (_bus, _avahi) = (HERE.bus(), HERE.avahi());
    let service = publish("chat", "room", 4321).unwrap();
    let told = names(&service);
    let modes = Rc::new(RefCell::new(Vec::new()));
    let list = modes.clone();
    let _browse = network::services::browse("chat", move |event| match event {
        Event::Added(service) | Event::Changed(service) => {
            let mode = service.txt.value("mode").unwrap_or(b"none");
            list.borrow_mut().push(String::from_utf8(mode.to_vec()).unwrap());
        }
        Event::Removed(_) => list.borrow_mut().push("removed".into()),
        _ => {}
    });
    until(|| service.name().is_some() && !modes.borrow().is_empty());
    for mode in ["on", "off"] {
        service.set_txt([("mode", mode)]).unwrap();
        assert_eq!(service.txt().value("mode"), Some(mode.as_bytes()));
        if ZEROCONF {
            let text = format!("\"mode={mode}\"");
            until(|| seen_by_avahi("_chat._tcp", "room").iter().any(|line| line.contains(&text)));
        } else {
            until(|| modes.borrow().last().is_some_and(|last| last == mode));
        }
    }
    if !ZEROCONF {
        assert_eq!(*modes.borrow(), ["none", "on", "off"], "it never disappeared");
    }
    assert_eq!(*told.borrow(), ["room"], "the name stays");
    let error = service.set_txt([("k=", "")]).unwrap_err();
    assert!(matches!(&error, Error::Address { address, .. } if address == "chat|room"), "{error}");
    assert_eq!(service.txt().value("mode"), Some(&b"off"[..]));
}

#[test]
fn a_callback_may_change_the_text_and_drop_its_service() {
    if !in_own_world("publishing::a_callback_may_change_the_text_and_drop_its_service") {
        return;
    }
    let (_bus, _avahi) = (HERE.bus(), HERE.avahi());
    let place = Rc::new(RefCell::new(Some(publish("chat", "room", 4321).unwrap())));
    let (mine, calls) = (place.clone(), Rc::new(RefCell::new(0)));
    let count = calls.clone();
    place.borrow().as_ref().unwrap().published_cb(move |name| {
        assert_eq!(name, "room");
        *count.borrow_mut() += 1;
        let service = mine.take().unwrap();
        service.set_txt([("mode", "on")]).unwrap();
        drop(service);
    });
    let (_browse, events) = browse("chat");
    until(|| *calls.borrow() == 1 && events.has("all") && events.has("+room") == events.has("-room"));
    assert!(place.borrow().is_none());
    until(|| seen_by_avahi("_chat._tcp", "room").is_empty());
}

#[test]
fn what_cannot_be_published_is_refused_at_once() {
    let long = "x".repeat(64);
    for (kind, name, port, words) in [
        ("", "room", 1, "service type"),
        ("_chat._sctp", "room", 1, "._tcp or ._udp"),
        ("a-type-that-is-too-long", "room", 1, "service type"),
        ("chat", "", 1, "instance name"),
        ("chat", &*long, 1, "64 bytes"),
        ("chat", "a\0b", 1, "NUL"),
        ("chat", "room", 0, "port"),
    ] {
        let error = publish(kind, name, port).unwrap_err();
        assert!(matches!(&error, Error::Address { problem, .. } if problem.contains(words)), "{kind}|{name}: {error}");
    }
    let service = publish("chat", "room", 1).unwrap();
    let huge = "x".repeat(300);
    for pair in [("", "x"), ("é", "x"), ("k", &*huge)] {
        assert!(matches!(service.set_txt([pair]), Err(Error::Address { .. })), "{pair:?}");
    }
}
