//! Futures on the GLib executor.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use network::{Error, UdpSocket};

use crate::common::{on_own_context, until};
use crate::local;

/// Awaits on the thread's main context, which the test runs meanwhile.
fn awaited<T: 'static>(future: impl Future<Output = T> + 'static) -> T {
    let outcome = Rc::new(Cell::new(None));
    let place = outcome.clone();
    glib::MainContext::ref_thread_default().spawn_local(async move { place.set(Some(future.await)) });
    let there = || {
        let value = outcome.take();
        let there = value.is_some();
        outcome.set(value);
        there
    };
    until(there);
    outcome.take().unwrap()
}

#[test]
fn an_echo_and_who_asks_it() {
    on_own_context(|| {
        let server = local();
        let address = server.local();
        glib::MainContext::ref_thread_default().spawn_local(async move {
            loop {
                let (data, from) = server.recv_from_future(100).await.unwrap();
                server.send_to_future(data.to_ascii_uppercase(), from).await.unwrap();
            }
        });
        let client = local();
        awaited(async move {
            client.connect_future(address).await.unwrap();
            for number in 0..100 {
                client.send_future(format!("n {number}")).await.unwrap();
                assert_eq!(client.recv_future(100).await.unwrap(), format!("N {number}").as_bytes());
            }
            client.send_to_future("by name", format!("localhost:{}", address.port())).await.unwrap();
            assert_eq!(client.recv_future(100).await.unwrap(), b"BY NAME");
        });
    });
}

#[test]
fn dropping_a_future_takes_nothing() {
    on_own_context(|| {
        let (one, other) = (local(), local());
        let (mine, address) = (other.clone(), other.local());
        awaited(async move {
            {
                let mut first = pin!(mine.recv_from_future(10));
                let polled = poll_fn(|context| Poll::Ready(first.as_mut().poll(context).is_pending())).await;
                assert!(polled, "nothing is there yet");
                one.send_to("kept", address).unwrap();
            }
            assert_eq!(mine.recv_from_future(10).await.unwrap().0, b"kept");
        });
    });
}

#[test]
fn two_who_wait_get_one_each() {
    on_own_context(|| {
        let (one, other) = (local(), local());
        let done = Rc::new(Cell::new(0));
        for _ in 0..2 {
            let (other, done) = (other.clone(), done.clone());
            glib::MainContext::ref_thread_default().spawn_local(async move {
                other.recv_from_future(10).await.unwrap();
                done.set(done.get() + 1);
            });
        }
        while network::iteration(false) {}
        one.send_to("a", other.local()).unwrap();
        until(|| done.get() == 1);
        one.send_to("b", other.local()).unwrap();
        until(|| done.get() == 2);
    });
}

#[test]
fn closing_ends_what_waits() {
    on_own_context(|| {
        let socket = local();
        let waiting = socket.recv_from_future(10);
        glib::MainContext::ref_thread_default().spawn_local(async move { socket.close() });
        assert!(matches!(awaited(waiting), Err(Error::Closed { .. })));
    });
}

#[test]
fn errors_are_the_same() {
    on_own_context(|| {
        let socket = local();
        awaited(async move {
            let to = socket.local();
            let large = vec![0; UdpSocket::MAX_DATAGRAM_SIZE + 1];
            assert!(matches!(socket.send_to_future(&large, to).await, Err(Error::DatagramTooLarge { .. })));
            assert!(matches!(socket.send_to_future("x", "nowhere.invalid:1").await, Err(Error::Lookup { .. })));
            assert!(matches!(socket.connect_future("chat|").await, Err(Error::Address { .. })));
            socket.send_to_future("long", to).await.unwrap();
            assert!(matches!(socket.recv_from_future(3).await, Err(Error::DatagramTruncated { size: 4, .. })));
        });
    });
}
