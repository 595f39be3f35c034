//! A build without services: everything that needs them is an error, and the rest works.

#![cfg(not(feature = "_services"))]

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use network::{Error, Server, Socket};

#[test]
fn services_are_no_part_of_this_build() {
    glib::MainContext::new().with_thread_default(services).unwrap();
}

fn services() {
    let connecting = Socket::connect("chat|room").unwrap_err();
    let listening = Server::new("chat|room", |_| Ok(())).unwrap_err();
    for (error, what) in [(connecting, "connect to chat|room"), (listening, "listen on chat|room")] {
        assert!(matches!(&error, Error::Unsupported(_)), "{error}");
        let text = error.to_string();
        assert!(text.contains(what) && text.contains("built without Avahi"), "{text}");
    }
    // An invalid service type is an error of the address.
    assert!(matches!(Socket::connect("no such type|"), Err(Error::Address { .. })));
}

#[test]
fn the_rest_works() {
    glib::MainContext::new().with_thread_default(rest).unwrap();
}

fn rest() {
    let server = Server::builder().tls(false).address("127.0.0.1");
    let server = server.listen("0", |socket| socket.sendline("hello")).unwrap();
    let heard = Rc::new(RefCell::new(String::new()));
    let place = heard.clone();
    let address = format!("127.0.0.1:{}", server.port());
    Socket::builder().tls(false).connect_async(address, gio::Cancellable::NONE, move |socket| {
        socket.unwrap().readlines(move |_, line| {
            place.replace(line.to_owned());
            network::endloop();
            Ok(())
        });
    });
    assert!(!network::fgloop_for(Duration::from_secs(20)));
    assert_eq!(*heard.borrow(), "hello");
}
