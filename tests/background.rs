//! Lookups and going into the background, which takes a process with a single thread: so this program has no test harness.

mod common;
#[path = "common/name_server.rs"]
mod name_server;

use std::time::{Duration, Instant};

use network::{Error, Result, Server, Socket};

fn main() {
    match (name_server::inside(), std::env::args().nth(1).as_deref()) {
        (Some(_server), Some("ended")) => lookups_that_have_ended_leave_no_thread(),
        (Some(_server), Some("late")) => a_late_answer_is_waited_for(),
        (Some(_server), Some("silent")) => a_lookup_without_an_end_is_named(),
        (Some(_), other) => panic!("{other:?}"),
        (None, _) if !common::parties::has_namespaces() => println!("not run: this user may not have namespaces"),
        (None, _) => {
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
