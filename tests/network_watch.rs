//! Changes of the network, made by the test in a network of its own and told by the kernel.

mod common;
#[path = "common/name_server.rs"]
mod name_server;

use std::cell::RefCell;
use std::fmt::Write;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{command, on_own_context, run, tool, until, without_family};
use network::link::{NetworkChange, NetworkWatch};
use network::log::Level;
use rustix::net::AddressFamily;

/// Runs the calling test once more in namespaces of its own. Returns whether this is in there.
fn is_inside(test: &str) -> bool {
    let is_inside = name_server::enter();
    if !is_inside {
        name_server::run_again_inside(test);
    }
    is_inside
}

fn ip(arguments: &str) {
    let done = tool("/usr/sbin/ip").args(arguments.split(' ')).status().unwrap();
    assert!(done.success(), "ip {arguments}");
}

/// The same for many lines at once.
fn ip_batch(lines: &str) {
    let output = run(&mut command("/usr/sbin/ip", ["-batch", "-"]), lines);
    assert!(output.status.success(), "{}", output.stderr);
}

type Changes = Rc<RefCell<Vec<NetworkChange>>>;

fn watch() -> (NetworkWatch, Changes) {
    let changes = Changes::default();
    let seen = changes.clone();
    (NetworkWatch::new(move |change| seen.borrow_mut().push(change)).unwrap(), changes)
}

/// Waits until nothing more comes, for longer than changes are held back.
fn settle(changes: &Changes) {
    loop {
        network::fgloop_for(Duration::from_millis(1300));
        if changes.take().is_empty() {
            return;
        }
    }
}

/// Sees the change, within half a second, as one.
fn is_noticed(changes: &Changes, what: &str) {
    let begun = Instant::now();
    ip(what);
    until(|| !changes.borrow().is_empty());
    let took = begun.elapsed();
    assert_eq!(changes.take(), [NetworkChange::Addresses], "{what}");
    assert!(took < Duration::from_secs(2), "{what}: {took:?}");
    println!("{what}: {took:?}");
}

/// The files that are open here, by their kinds.
fn descriptors() -> Vec<String> {
    let names = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let mut all: Vec<_> = names.flat_map(|entry| std::fs::read_link(entry.path())).collect();
    all.retain(|target| !target.starts_with("/proc"));
    let mut kinds: Vec<_> = all.iter().map(|target| target.display().to_string()).collect();
    kinds.sort();
    kinds
}

fn threads() -> usize {
    std::fs::read_dir(Path::new("/proc/self/task")).unwrap().count()
}

#[test]
fn links_addresses_and_routes_are_noticed() {
    if !is_inside("links_addresses_and_routes_are_noticed") {
        return;
    }
    on_own_context(|| {
        assert!(!NetworkWatch::has_network(), "the loopback is none");
        let before = threads();
        let (_watch, changes) = watch();
        network::fgloop_for(Duration::from_millis(600));
        assert!(changes.borrow().is_empty(), "the present state is no change: {changes:?}");
        is_noticed(&changes, "link add name near type veth peer name far");
        settle(&changes);
        assert!(!NetworkWatch::has_network());
        is_noticed(&changes, "addr add 192.0.2.1/24 dev near");
        settle(&changes);
        assert!(!NetworkWatch::has_network(), "it is down");
        for name in ["far", "near"] {
            is_noticed(&changes, &format!("link set {name} up"));
            settle(&changes);
        }
        assert!(NetworkWatch::has_network());
        for what in [
            "route add 198.51.100.0/24 via 192.0.2.2",
            "route del 198.51.100.0/24",
            "addr add 2001:db8::1/64 dev near nodad",
            "route add 2001:db8:1::/64 via 2001:db8::2",
            "addr del 2001:db8::1/64 dev near",
            "link set far down",
            "link set near down",
        ] {
            is_noticed(&changes, what);
            settle(&changes);
        }
        assert!(!NetworkWatch::has_network());
        assert_eq!(threads(), before);
    });
}

#[test]
fn what_is_renewed_has_not_changed() {
    if !is_inside("what_is_renewed_has_not_changed") {
        return;
    }
    on_own_context(|| {
        ip("link add name near type veth peer name far");
        ip("link set near up");
        ip("link set far up");
        ip("addr add 192.0.2.1/24 dev near valid_lft 1000 preferred_lft 1000");
        ip("addr add 2001:db8::1/64 dev near nodad valid_lft 1000 preferred_lft 1000");
        let (_watch, changes) = watch();
        // The kernel looks for others with the addresses that it has chosen itself.
        network::fgloop_for(Duration::from_secs(3));
        settle(&changes);
        // As a router does every few minutes.
        for what in [
            "addr change 192.0.2.1/24 dev near valid_lft 2000 preferred_lft 2000",
            "addr change 2001:db8::1/64 dev near valid_lft 2000 preferred_lft 2000",
            "link set near alias outside",
        ] {
            ip(what);
            network::fgloop_for(Duration::from_millis(600));
            assert!(changes.borrow().is_empty(), "{what}");
        }
        // A carrier that was lost for a moment is a change.
        ip("link set far down");
        ip("link set far up");
        until(|| !changes.borrow().is_empty());
        settle(&changes);
        is_noticed(&changes, "addr del 192.0.2.1/24 dev near");
    });
}

#[test]
fn a_burst_is_one_change_and_one_that_overflows_is_noticed_as_well() {
    if !is_inside("a_burst_is_one_change_and_one_that_overflows_is_noticed_as_well") {
        return;
    }
    on_own_context(|| {
        let (_watch, changes) = watch();
        let mut lines = String::new();
        for number in 0..100 {
            writeln!(lines, "addr add 192.0.2.{number}/32 dev lo").unwrap();
        }
        ip_batch(&lines);
        until(|| !changes.borrow().is_empty());
        settle(&changes);
        // The kernel has room for some hundreds.
        lines.clear();
        for number in 0..4000 {
            writeln!(lines, "route add 198.51.{}.{}/32 dev lo", number / 250, number % 250).unwrap();
        }
        ip_batch(&lines);
        network::fgloop_for(Duration::from_millis(600));
        assert_eq!(changes.take(), [NetworkChange::Addresses]);
        settle(&changes);
        is_noticed(&changes, "route del 198.51.0.1/32");
    });
}

#[test]
fn all_watches_share_two_descriptors_and_leave_none() {
    if !is_inside("all_watches_share_two_descriptors_and_leave_none") {
        return;
    }
    on_own_context(|| {
        let _server = network::Server::bind("127.0.0.1:0").unwrap();
        let before = descriptors();
        for _ in 0..3 {
            let (one, first) = watch();
            assert_eq!(descriptors().len(), before.len() + 2);
            let (other, second) = watch();
            assert_eq!(descriptors().len(), before.len() + 2);
            ip("addr add 192.0.2.1/32 dev lo");
            until(|| !first.borrow().is_empty() && !second.borrow().is_empty());
            settle(&first);
            drop(one);
            ip("addr del 192.0.2.1/32 dev lo");
            second.borrow_mut().clear();
            until(|| !second.borrow().is_empty());
            assert!(first.borrow().is_empty());
            drop(other);
            assert_eq!(descriptors(), before);
        }
    });
}

#[test]
fn each_context_has_its_own() {
    if !is_inside("each_context_has_its_own") {
        return;
    }
    on_own_context(|| {
        let (_watch, here) = watch();
        on_own_context(|| {
            let (_watch, there) = watch();
            ip("addr add 192.0.2.1/32 dev lo");
            until(|| !there.borrow().is_empty());
        });
        until(|| !here.borrow().is_empty());
    });
}

const REFUSED: &str = "NETLINK_IS_REFUSED";

#[test]
fn where_the_system_refuses_it_there_is_one_warning() {
    const NAME: &str = "where_the_system_refuses_it_there_is_one_warning";
    if std::env::var_os(REFUSED).is_none() {
        // EPERM and EAFNOSUPPORT.
        for error in [1, 97] {
            let mut refusing = without_family(AddressFamily::NETLINK, error);
            refusing.arg(std::env::current_exe().unwrap()).args([NAME, "--exact", "--nocapture"]).env(REFUSED, "1");
            let output = run(&mut refusing, "");
            assert!(
                output.status.success() && output.text().contains("1 passed"),
                "{}{}",
                output.text(),
                output.stderr
            );
        }
        return;
    }
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let seen = warnings.clone();
    network::log::set_log(Level::Warning, move |record| seen.lock().unwrap().push(record.message.to_owned()));
    for _ in 0..3 {
        on_own_context(|| {
            let ((_one, first), (_other, _)) = (watch(), watch());
            network::fgloop_for(Duration::from_millis(20));
            assert!(NetworkWatch::has_network(), "nobody says that there is none");
            assert!(first.borrow().is_empty());
        });
    }
    let warnings = warnings.lock().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("cannot notice changes of the network: "), "{warnings:?}");
}
