//! Links to services: they wait for Avahi's word, and follow a service that moves.

use std::cell::RefCell;
use std::net::TcpListener;
use std::rc::Rc;
use std::time::Duration;

use network::link::State;
use network::{Link, Server};

use crate::world::{HERE, another_host, in_own_world, until};
use crate::{ROLE, ZEROCONF, browse};

/// The time from the announcement of a service to the connection. The threads of zeroconf look ten times a second, and each search
/// starts one.
const SOON: Duration = Duration::from_secs(if ZEROCONF { 6 } else { 2 });

type Notes = Rc<RefCell<Vec<String>>>;

/// A link that notes its ups and downs, and the greetings it gets.
fn link_to(address: &str) -> (Link, Notes) {
    let notes = Notes::default();
    let (up, down) = (notes.clone(), notes.clone());
    let link = Link::builder()
        .down_cb(move |_, told| down.borrow_mut().push(format!("{}", told.was_up.is_some())))
        .start(address, move |socket| {
            let greetings = up.clone();
            socket.readlines(move |_, line| {
                greetings.borrow_mut().push(line.to_owned());
                Ok(())
            });
            Ok(())
        });
    (link.unwrap(), notes)
}

fn serve(greeting: &'static str) -> Server {
    Server::builder().linger(Duration::ZERO).listen("chat|room", move |socket| socket.sendline(greeting)).unwrap()
}

/// Ends a server as a crash does.
fn kill(server: Server) -> u16 {
    let port = server.port();
    let connections = server.connections();
    drop(server);
    for socket in connections {
        socket.abort();
    }
    port
}

fn is_away(link: &Link) -> bool {
    matches!(link.state(), State::Searching | State::Offline)
}

#[test]
fn a_link_waits_for_its_service_and_follows_it() {
    if !in_own_world("links::a_link_waits_for_its_service_and_follows_it") {
        return;
    }
    // First there is no bus.
    let (link, notes) = link_to("chat|^room$");
    network::fgloop_for(Duration::from_millis(500));
    assert!(is_away(&link) && notes.borrow().is_empty(), "{link:?} {notes:?}");
    let (_bus, avahi) = (HERE.bus(), HERE.avahi());
    let other = Server::new("chat|other room", |_| Ok(())).unwrap();
    until(|| other.published_name().is_some());
    network::fgloop_for(Duration::from_millis(500));
    assert!(is_away(&link), "nobody has the name: {link:?}");

    let first = serve("first");
    until(|| first.published_name().is_some());
    let took = until(|| *notes.borrow() == ["first"]);
    assert!(took < SOON, "{took:?}");
    assert_eq!(link.state(), State::Up);

    // It goes, and nothing is tried while nobody has the name.
    let port = kill(first);
    let nobody = TcpListener::bind(("0.0.0.0", port)).unwrap();
    nobody.set_nonblocking(true).unwrap();
    until(|| is_away(&link));
    // Until Avahi knew, there may have been tries.
    while nobody.accept().is_ok() {}
    network::fgloop_for(Duration::from_millis(3000));
    assert!(is_away(&link));
    assert!(nobody.accept().is_err(), "tried all the same");
    let second = serve("second");
    until(|| second.published_name().is_some());
    let took = until(|| notes.borrow().last().is_some_and(|note| note == "second"));
    assert!(took < SOON, "{took:?}");

    // A connection does not mind that Avahi goes and comes back.
    let before = notes.borrow().clone();
    avahi.kill();
    let (_browse, events) = browse("chat");
    until(|| events.has("down"));
    assert_eq!(link.state(), State::Up);
    let _avahi = HERE.avahi();
    until(|| second.published_name().is_some() && events.has("+room"));
    network::fgloop_for(Duration::from_millis(500));
    assert_eq!((link.state(), &before), (State::Up, &*notes.borrow()));
    kill(second);
    let third = serve("third");
    until(|| third.published_name().is_some());
    let took = until(|| notes.borrow().last().is_some_and(|note| note == "third"));
    assert!(took < SOON, "{took:?}");
    link.close();
}

#[test]
fn a_link_follows_its_service_to_another_host() {
    if !in_own_world("links::a_link_follows_its_service_to_another_host") {
        return;
    }
    let far = another_host(true);
    let (_bus, _avahi, _far_bus, _far_avahi) = (HERE.bus(), HERE.avahi(), far.bus(), far.avahi());
    let (_browse, events) = browse("chat");
    let served = far.start(std::env::current_exe().unwrap().to_str().unwrap(), &ROLE);
    let (link, notes) = link_to("chat|far room");
    until(|| events.has("+far room"));
    let took = until(|| notes.borrow().iter().any(|note| note == "from afar"));
    assert!(took < SOON, "{took:?}");
    assert_eq!(link.socket().unwrap().remote().inet().unwrap().ip().to_string(), "10.9.8.2");
    served.kill();
    until(|| events.has("-far room") && link.state() != State::Up);
    let server = Server::new("chat|far room", |socket| socket.sendline("from here")).unwrap();
    until(|| server.published_name().is_some());
    let took = until(|| notes.borrow().last().is_some_and(|note| note == "from here"));
    assert!(took < SOON, "{took:?}");
    // And back, before Avahi has noticed that the name has gone, or after that.
    events.clear();
    kill(server);
    let _served = far.start(std::env::current_exe().unwrap().to_str().unwrap(), &ROLE);
    // One that has moved is not told by zeroconf. It is found all the same, by a try.
    until(|| ZEROCONF || events.has("+far room") || events.has("~far room"));
    let took = until(|| notes.borrow().last().is_some_and(|note| note == "from afar"));
    assert!(ZEROCONF || took < SOON, "{took:?}");
    link.close();
}
