//! Sources that outlive their main context, as safe code can have it. Each scenario runs once more under valgrind, which sees
//! what is read after it has been freed.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use network::Server;

const INNER: &str = "NETWORK_TEST_UNDER_VALGRIND";

/// Runs a scenario, which is all of the test of that name, under valgrind.
fn under_valgrind(name: &str, scenario: impl FnOnce()) {
    if std::env::var_os(INNER).is_some() {
        return scenario();
    }
    let test = std::env::current_exe().unwrap();
    let output = Command::new("valgrind")
        .args(["-q", "--error-exitcode=9", "--num-callers=30"])
        .arg(test)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INNER, "1")
        .output()
        .expect("valgrind");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", output.status);
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "the scenario was not run");
}

fn until(what: impl Fn() -> bool) {
    let late = Instant::now() + Duration::from_secs(60);
    while !what() {
        assert!(Instant::now() < late, "what was waited for did not happen");
        network::fgloop_for(Duration::from_millis(5));
    }
}

/// Lets a flood come, so that both sources of the network are seen: that for quiet connections and that for floods.
fn flood(port: u16, seen: &RefCell<Vec<glib::Source>>) {
    let flood = std::thread::spawn(move || {
        let mut peer = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let block = vec![0; 1 << 20];
        while peer.write_all(&block).is_ok() {}
    });
    until(|| seen.borrow().len() == 2);
    drop(flood);
}

#[test]
fn what_is_woken_after_the_context_has_gone_finds_nothing_left_of_it() {
    under_valgrind("what_is_woken_after_the_context_has_gone_finds_nothing_left_of_it", || {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let waker = Arc::new(Mutex::new(None::<Waker>));
        let context = glib::MainContext::new();
        let held = context.with_thread_default(|| {
            let note = seen.clone();
            let flooded = Server::builder().tls(false).listen(0, move |socket| {
                let note = note.clone();
                socket.read(move |_, _| {
                    let source = glib::main_current_source().unwrap();
                    if !note.borrow().contains(&source) {
                        note.borrow_mut().push(source);
                    }
                    Ok(())
                });
                Ok(())
            });
            let place = waker.clone();
            let serving = Server::builder().tls(false).serve(0, move |_| {
                let place = place.clone();
                std::future::poll_fn(move |context| {
                    place.lock().unwrap().replace(context.waker().clone());
                    Poll::Pending
                })
            });
            let (flooded, serving) = (flooded.unwrap(), serving.unwrap());
            flood(flooded.port(), &seen);
            let client = TcpStream::connect(("127.0.0.1", serving.port())).unwrap();
            until(|| waker.lock().unwrap().is_some());
            (flooded, serving, client)
        });
        let (_flooded, serving, _client) = held.unwrap();
        drop(context);
        let waker = waker.lock().unwrap().take().unwrap();
        std::thread::spawn(move || waker.wake()).join().unwrap();
        assert!(!serving.is_open(), "the end of its context was not heard of");
        assert!(seen.take().iter().all(glib::Source::is_destroyed));
    });
}

#[test]
fn destroying_a_source_of_the_network_ends_its_sockets_and_no_more() {
    under_valgrind("destroying_a_source_of_the_network_ends_its_sockets_and_no_more", || {
        let context = glib::MainContext::new();
        let outcome = context.with_thread_default(|| {
            let calls = Rc::new(Cell::new(0));
            for round in 1..=2 {
                let count = calls.clone();
                let captured = Rc::new(());
                let kept = captured.clone();
                let server = Server::builder().tls(false).listen(0, move |socket| {
                    let (count, kept) = (count.clone(), kept.clone());
                    socket.readlines(move |_, _| {
                        let _kept = &kept;
                        count.set(count.get() + 1);
                        glib::main_current_source().unwrap().destroy();
                        Ok(())
                    });
                    Ok(())
                });
                let server = server.unwrap();
                let mut client = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
                client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                client.write_all(b"destroy it\n").unwrap();
                // In the second round by the new engine that the context has by then.
                until(|| !server.is_open());
                assert_eq!((calls.get(), Rc::strong_count(&captured)), (round, 1));
                assert_eq!(client.read(&mut [0; 8]).unwrap_or(0), 0, "the connection is still open");
            }
        });
        outcome.unwrap();
    });
}

#[test]
fn a_context_may_end_on_another_thread_and_its_sources_later() {
    under_valgrind("a_context_may_end_on_another_thread_and_its_sources_later", || {
        let context = glib::MainContext::new();
        let seen = Rc::new(RefCell::new(Vec::new()));
        let note = seen.clone();
        let server = context.with_thread_default(|| {
            let server = Server::builder().tls(false).listen(0, move |socket| {
                note.borrow_mut().push(glib::main_current_source().unwrap());
                socket.close();
                Ok(())
            });
            let server = server.unwrap();
            let _client = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
            until(|| !seen.borrow().is_empty());
            server
        });
        std::thread::spawn(move || drop(context)).join().unwrap();
        // This thread learns of it when it looks.
        let other = glib::MainContext::new();
        other.with_thread_default(|| until(|| !server.as_ref().unwrap().is_open())).unwrap();
        assert!(seen.take().iter().all(glib::Source::is_destroyed));
    });
}
