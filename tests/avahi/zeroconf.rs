//! Risks that only the zeroconf backend has.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use network::{Error, Socket};

use super::{browse, connect, count, greeter, line};
use crate::world::{HERE, Party, in_own_world, until};

struct Everything;

impl log::Log for Everything {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }
    fn log(&self, record: &log::Record) {
        eprintln!("{}", record.args());
    }
    fn flush(&self) {}
}

#[test]
fn its_debug_log_is_refused() {
    if !in_own_world("zeroconf::its_debug_log_is_refused") {
        return;
    }
    let (_bus, _avahi) = (HERE.bus(), HERE.avahi());
    // The TXT record contains a byte that is not UTF-8: the crate aborts the process when it prints it.
    let mut publish = HERE.command("avahi-publish", &["-s", "room", "_chat._tcp", "9"]);
    publish.arg(OsStr::from_bytes(b"k=\xe9"));
    let other = Party::start(publish);
    other.says("Established under name");
    log::set_logger(&Everything).unwrap();
    log::set_max_level(log::LevelFilter::Debug);
    let error = connect("chat|").unwrap_err();
    assert!(matches!(&error, Error::AvahiUnavailable { cause, .. } if cause.contains("debug log")), "{error}");
    // A change of the log level is noticed in either direction.
    log::set_max_level(log::LevelFilter::Info);
    let server = greeter("chat|hall", "hello");
    until(|| server.published_name().is_some());
    assert_eq!(line(&connect("chat|hall").unwrap()), "hello");
    log::set_max_level(log::LevelFilter::Debug);
    until(|| server.published_name().is_none());
}

#[test]
fn a_daemon_that_hangs_hangs_nobody_else() {
    if !in_own_world("zeroconf::a_daemon_that_hangs_hangs_nobody_else") {
        return;
    }
    let (_bus, avahi) = (HERE.bus(), HERE.avahi());
    let server = greeter("chat|room", "hello");
    until(|| server.published_name().is_some());
    avahi.freeze(true);
    let started = Instant::now();
    let error = Socket::builder().connect_timeout(Duration::from_secs(1)).connect("chat|").unwrap_err();
    assert!(matches!(&error, Error::AvahiUnavailable { .. } | Error::ServiceNotFound { .. }), "{error}");
    let other = greeter("chat|hall", "hello");
    while network::iteration(false) {}
    drop(other);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    avahi.freeze(false);
    assert_eq!(line(&connect("chat|room").unwrap()), "hello");
}

#[test]
fn the_end_of_a_context_ends_its_threads() {
    if !in_own_world("zeroconf::the_end_of_a_context_ends_its_threads") {
        return;
    }
    let (_bus, _avahi) = (HERE.bus(), HERE.avahi());
    let before = count("/proc/self/task");
    let context = glib::MainContext::new();
    let _browse = context
        .with_thread_default(|| {
            let (browse, events) = browse("chat");
            until(|| events.has("all"));
            browse
        })
        .unwrap();
    assert!(count("/proc/self/task") > before);
    drop(context);
    let _wakes = glib::timeout_add_local(Duration::from_millis(20), || glib::ControlFlow::Continue);
    until(|| count("/proc/self/task") <= before);
}
