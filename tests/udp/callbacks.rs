//! The callback face: what a program may do inside a callback, and what the loop owes to the others.

use std::cell::{Cell, RefCell};
use std::net::UdpSocket as StdSocket;
use std::rc::Rc;

use network::{Error, UdpSocket, endloop};

use crate::common::{on_own_context, run_loop, until};
use crate::{Seen, local, seen};

fn collect(socket: &UdpSocket) -> Seen<Vec<u8>> {
    let all = seen();
    let into = all.clone();
    socket.read(move |_, data, _| {
        into.borrow_mut().push(data.to_vec());
        Ok(())
    });
    all
}

fn numbers(range: std::ops::Range<u32>) -> Vec<Vec<u8>> {
    range.map(|number| number.to_string().into_bytes()).collect()
}

fn send_numbers(from: &UdpSocket, to: &UdpSocket, range: std::ops::Range<u32>) {
    for data in numbers(range) {
        from.send_to(data, to.local()).unwrap();
    }
}

#[test]
fn datagrams_come_whole_in_order_and_empty() {
    on_own_context(|| {
        let (one, other) = (local(), local());
        let all = seen();
        let into = all.clone();
        one.send_to("waits already", other.local()).unwrap();
        other.read(move |_, data, from| {
            into.borrow_mut().push((data.to_vec(), from));
            Ok(())
        });
        assert!(all.borrow().is_empty(), "not from inside a method call");
        one.send_to("", other.local()).unwrap();
        one.send_to("last", other.local()).unwrap();
        until(|| all.borrow().len() == 3);
        let me = one.local();
        let want = [(b"waits already".to_vec(), me), (vec![], me), (b"last".to_vec(), me)];
        assert_eq!(*all.borrow(), want);
    });
}

#[test]
fn the_loop_keeps_a_socket_with_a_reader_and_no_other() {
    on_own_context(|| {
        let one = local();
        let server = local();
        let address = server.local();
        server.read(|socket, data, from| {
            match data {
                b"end" => socket.unread(),
                data => socket.send_to(data, from)?,
            }
            Ok(())
        });
        let weak = server.downgrade();
        drop(server);
        let answers = collect(&one);
        one.send_to("there?", address).unwrap();
        until(|| answers.borrow().len() == 1);
        assert!(weak.upgrade().is_some());
        one.send_to("end", address).unwrap();
        until(|| weak.upgrade().is_none());
        StdSocket::bind(address).expect("closed with its last handle");
    });
}

#[test]
fn at_most_64_in_a_turn_and_others_in_between() {
    on_own_context(|| {
        let (flooder, flooded, quiet) = (local(), local(), local());
        flooded.set_recv_buffer(4 << 20).unwrap();
        let count = 150;
        let order = seen();
        let (flood, ping) = (order.clone(), order.clone());
        flooded.read(move |_, _, _| {
            flood.borrow_mut().push('f');
            Ok(())
        });
        quiet.read(move |_, _, _| {
            ping.borrow_mut().push('q');
            Ok(())
        });
        send_numbers(&flooder, &flooded, 0..count);
        flooder.send_to("quiet", quiet.local()).unwrap();
        until(|| order.borrow().len() == count as usize + 1);
        let place = order.borrow().iter().position(|which| *which == 'q').unwrap();
        assert!(place <= 64, "the quiet one waited for {place}");
    });
}

#[test]
fn a_flood_leaves_time_to_idle_sources() {
    on_own_context(|| {
        let (flooder, flooded) = (local(), local());
        let to = flooded.local();
        // Each datagram brings another: it never ends by itself.
        for _ in 0..200 {
            flooder.send_to("x", to).unwrap();
        }
        let from = flooder.clone();
        flooded.read(move |_, data, _| from.send_to(data, to));
        let idle = glib::source::idle_source_new(None, glib::Priority::DEFAULT_IDLE, || {
            endloop();
            glib::ControlFlow::Break
        });
        idle.attach(Some(&glib::MainContext::ref_thread_default()));
        run_loop();
    });
}

#[test]
fn a_callback_replaces_itself_and_the_rest_goes_to_the_new_one() {
    on_own_context(|| {
        let (one, other) = (local(), local());
        send_numbers(&one, &other, 0..10);
        let all = seen();
        let into = all.clone();
        let dropped = Rc::new(());
        let token = dropped.clone();
        other.read(move |socket, data, _| {
            let _token = &token;
            into.borrow_mut().push(format!("first {}", String::from_utf8_lossy(data)));
            if data == b"2" {
                let into = into.clone();
                socket.read(move |_, data, _| {
                    into.borrow_mut().push(format!("second {}", String::from_utf8_lossy(data)));
                    Ok(())
                });
            }
            Ok(())
        });
        until(|| all.borrow().len() == 10);
        let want: Vec<_> =
            (0..10).map(|number| format!("{} {number}", if number < 3 { "first" } else { "second" })).collect();
        assert_eq!(*all.borrow(), want);
        assert_eq!(Rc::strong_count(&dropped), 1, "the first is dropped");
    });
}

#[test]
fn nothing_comes_after_unread_or_close_and_the_rest_waits() {
    on_own_context(|| {
        let (one, other) = (local(), local());
        send_numbers(&one, &other, 0..5);
        let count = Rc::new(Cell::new(0));
        let counted = count.clone();
        other.read(move |socket, _, _| {
            counted.set(counted.get() + 1);
            if counted.get() == 2 {
                socket.unread();
            }
            Ok(())
        });
        until(|| count.get() == 2);
        while network::iteration(false) {}
        assert_eq!(count.get(), 2);
        assert_eq!(other.recv(10).unwrap(), b"2", "the rest is still there");
        let counted = count.clone();
        other.read(move |socket, _, _| {
            counted.set(counted.get() + 1);
            socket.close();
            Ok(())
        });
        until(|| !other.is_open());
        while network::iteration(false) {}
        assert_eq!(count.get(), 3);
        assert_eq!(Rc::strong_count(&count), 1, "callbacks are dropped with the socket");
    });
}

#[test]
fn the_last_handle_may_go_inside_a_callback() {
    on_own_context(|| {
        let one = local();
        let socket = Rc::new(RefCell::new(Some(local())));
        let address = socket.borrow().as_ref().unwrap().local();
        let mine = socket.clone();
        let calls = Rc::new(Cell::new(0));
        let called = calls.clone();
        socket.borrow().as_ref().unwrap().read(move |socket, _, _| {
            called.set(called.get() + 1);
            mine.take();
            socket.unread();
            assert!(socket.is_open(), "as long as the callback runs");
            Ok(())
        });
        one.send_to("a", address).unwrap();
        one.send_to("b", address).unwrap();
        until(|| calls.get() == 1 && StdSocket::bind(address).is_ok());
        assert_eq!(Rc::strong_count(&calls), 1);
    });
}

#[test]
fn a_nested_loop_serves_others_but_not_the_socket_whose_callback_runs_it() {
    on_own_context(|| {
        let (one, outer, inner) = (local(), local(), local());
        let log = seen();
        let (to_outer, to_inner) = (log.clone(), log.clone());
        let inner_address = inner.local();
        let sender = one.clone();
        outer.read(move |_, data, _| {
            let text = String::from_utf8_lossy(data).into_owned();
            to_outer.borrow_mut().push(format!("enter {text}"));
            if text == "1" {
                sender.send_to("x", inner_address)?;
                network::fgloop();
            }
            to_outer.borrow_mut().push(format!("leave {text}"));
            Ok(())
        });
        inner.read(move |_, _, _| {
            to_inner.borrow_mut().push("inner".into());
            endloop();
            Ok(())
        });
        send_numbers(&one, &outer, 1..3);
        until(|| log.borrow().len() == 5);
        assert_eq!(*log.borrow(), ["enter 1", "inner", "leave 1", "enter 2", "leave 2"]);
    });
}

#[test]
fn an_error_of_a_callback_goes_to_the_hook_and_the_socket_goes_on() {
    on_own_context(|| {
        let (one, other) = (local(), local());
        let errors = seen();
        let into = errors.clone();
        other.read(|_, data, _| match data {
            b"bad" => Err(Error::other("that was rude")),
            _ => {
                endloop();
                Ok(())
            }
        });
        other.error_cb(move |socket, error| {
            assert!(socket.is_open());
            into.borrow_mut().push(error.to_string());
        });
        for data in ["bad", "bad", "good"] {
            one.send_to(data, other.local()).unwrap();
        }
        run_loop();
        assert_eq!(*errors.borrow(), ["that was rude", "that was rude"]);
        other.unset_error_cb();
        assert_eq!(Rc::strong_count(&errors), 1);
    });
}

#[test]
fn refusals_go_to_the_hook() {
    on_own_context(|| {
        let nobody = StdSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for fixed in [true, false] {
            let socket = UdpSocket::builder().icmp_errors(!fixed).bind("127.0.0.1:0").unwrap();
            socket.read(|_, data, _| panic!("{data:?}"));
            socket.error_cb(move |socket, error| {
                assert!(matches!(&error, Error::Refused { address, .. } if *address == nobody.to_string()), "{error}");
                socket.close();
                endloop();
            });
            if fixed {
                socket.connect(nobody).unwrap();
                socket.send("anybody?").unwrap();
            } else {
                socket.send_to("anybody?", nobody).unwrap();
            }
            run_loop();
        }
    });
}

#[test]
fn a_hook_that_sends_once_more_leaves_the_loop_to_others() {
    on_own_context(|| {
        let nobody = StdSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let socket = UdpSocket::builder().icmp_errors(true).bind("127.0.0.1:0").unwrap();
        socket.read(|_, data, _| panic!("{data:?}"));
        let told = Rc::new(Cell::new(0));
        let count = told.clone();
        socket.error_cb(move |socket, error| {
            assert!(matches!(error, Error::Refused { .. }), "{error}");
            count.set(count.get() + 1);
            assert!(count.get() < 10_000, "the loop is kept");
            // Each of them is refused as well.
            socket.send_to("still nobody?", nobody).unwrap();
        });
        socket.send_to("anybody?", nobody).unwrap();
        socket.send_to("anybody else?", nobody).unwrap();
        let others = Rc::new(Cell::new(0));
        let count = others.clone();
        let count = glib::thread_guard::ThreadGuard::new(count);
        let idle = glib::source::idle_source_new(None, glib::Priority::DEFAULT_IDLE, move || {
            count.get_ref().set(count.get_ref().get() + 1);
            glib::ControlFlow::Continue
        });
        idle.attach(Some(&glib::MainContext::ref_thread_default()));
        until(|| told.get() > 200 && others.get() > 2);
        idle.destroy();
    });
}

#[test]
fn a_panic_comes_out_of_the_loop_and_closes_the_socket() {
    on_own_context(|| {
        for in_hook in [false, true] {
            let (one, other) = (local(), local());
            other.read(move |_, _, _| if in_hook { Err(Error::other("x")) } else { panic!("in a callback") });
            other.error_cb(|_, _| panic!("in a callback"));
            one.send_to("x", other.local()).unwrap();
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run_loop)).unwrap_err();
            assert_eq!(*caught.downcast_ref::<&str>().unwrap(), "in a callback");
            assert!(!other.is_open());
            let answers = collect(&one);
            one.send_to("the loop goes on", one.local()).unwrap();
            until(|| answers.borrow().len() == 1);
        }
    });
}

#[test]
fn the_end_of_the_context_closes_its_sockets() {
    let token = Rc::new(());
    let captured = token.clone();
    let socket = on_own_context(|| {
        let socket = local();
        socket.read(move |_, _, _| {
            let _captured = &captured;
            Ok(())
        });
        socket
    });
    assert!(!socket.is_open());
    assert_eq!(Rc::strong_count(&token), 1);
}

#[test]
fn a_reader_set_twice_outside_keeps_what_waits() {
    on_own_context(|| {
        let (one, other) = (local(), local());
        other.read(|_, data, _| panic!("{data:?} was for the next"));
        send_numbers(&one, &other, 0..3);
        let all = collect(&other);
        until(|| all.borrow().len() == 3);
        assert_eq!(*all.borrow(), numbers(0..3));
    });
}
