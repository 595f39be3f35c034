//! No room to send. Datagrams to a machine that nobody has wait for its link address, three seconds, and fill the buffer.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use network::{Error, UdpSocket};
use rustix::net::sockopt;

use crate::common::{LIMIT, on_own_context, until};
use crate::{in_own_network, local};

/// On the network of the test, and not there. Each test has its own, as the wait is for all who ask.
fn absent(number: u8) -> ([u8; 4], u16) {
    ([198, 51, 100, number], 9)
}

/// A socket that is full of datagrams for that machine.
fn full(number: u8) -> UdpSocket {
    let socket = UdpSocket::builder().send_buffer(1).timeout(Duration::ZERO).bind("0.0.0.0:0").unwrap();
    for _ in 0..1000 {
        match socket.send_to([0; 1000], absent(number)) {
            Ok(()) => {}
            Err(Error::NotReady { .. }) => return socket,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("there is always room");
}

#[test]
fn whoever_waits_for_room_waits_as_long_as_the_time_out_says() {
    if !in_own_network("room::whoever_waits_for_room_waits_as_long_as_the_time_out_says") {
        return;
    }
    on_own_context(|| {
        let socket = full(10);
        let limit = Duration::from_millis(20);
        socket.set_timeout(limit);
        assert!(matches!(socket.send_to("x", absent(10)), Err(Error::TimedOut { limit: told, .. }) if told == limit));
        socket.set_timeout(LIMIT);
        // The system gives the others up at last.
        socket.send_to("x", absent(10)).unwrap();
    });
}

#[test]
fn a_future_waits_for_room_while_the_loop_goes_on() {
    if !in_own_network("room::a_future_waits_for_room_while_the_loop_goes_on") {
        return;
    }
    on_own_context(|| {
        let socket = full(20);
        let sent = Rc::new(RefCell::new(None));
        let place = sent.clone();
        let other = socket.clone();
        glib::MainContext::ref_thread_default().spawn_local(async move {
            let outcome = other.send_to_future("x", absent(20)).await;
            place.replace(Some(outcome));
        });
        // One that does not wait to the end leaves nothing behind.
        let given_up = socket.clone();
        let task = glib::MainContext::ref_thread_default().spawn_local(async move {
            given_up.send_to_future("y", absent(20)).await.unwrap();
        });
        while network::iteration(false) {}
        task.abort();
        assert!(sent.borrow().is_none());
        let (one, echo) = (local(), local());
        let served = Rc::new(Cell::new(false));
        let done = served.clone();
        echo.read(move |_, _, _| {
            done.set(true);
            Ok(())
        });
        one.send_to("meanwhile", echo.local()).unwrap();
        until(|| served.get());
        assert!(sent.borrow().is_none());
        until(|| sent.borrow().is_some());
        sent.take().unwrap().unwrap();
    });
}

#[test]
fn a_callback_never_waits_for_room() {
    if !in_own_network("room::a_callback_never_waits_for_room") {
        return;
    }
    on_own_context(|| {
        let socket = full(30);
        socket.set_timeout(None);
        let outcome = Rc::new(RefCell::new(None));
        let place = outcome.clone();
        let asked = local();
        asked.read(move |_, _, _| {
            place.replace(Some(socket.send_to("x", absent(30))));
            Ok(())
        });
        let one = local();
        one.send_to("go", asked.local()).unwrap();
        until(|| outcome.borrow().is_some());
        assert!(matches!(outcome.take(), Some(Err(Error::NotReady { .. }))));
    });
}

#[test]
fn what_is_too_large_for_the_way_is_told_at_once() {
    if !in_own_network("room::what_is_too_large_for_the_way_is_told_at_once") {
        return;
    }
    on_own_context(|| {
        for refusals in [false, true] {
            let socket = UdpSocket::builder().icmp_errors(refusals).timeout(LIMIT).bind("0.0.0.0:0").unwrap();
            // The system may not take datagrams apart.
            sockopt::set_ip_mtu_discover(&socket, sockopt::Ipv4PathMtuDiscovery::DO).unwrap();
            for _ in 0..3 {
                let outcome = socket.send_to([0; 2000], absent(40));
                assert!(matches!(outcome, Err(Error::DatagramTooLarge { size: 2000, .. })), "{outcome:?}");
            }
            socket.send_to([0; 1000], absent(40)).unwrap();
            // It is no refusal of anybody's.
            socket.set_timeout(Duration::ZERO);
            let outcome = socket.recv_from(1);
            assert!(matches!(outcome, Err(Error::NotReady { .. })), "{outcome:?}");
        }
    });
}
