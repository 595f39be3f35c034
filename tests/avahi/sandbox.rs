//! Programs in sandboxes: behind Flatpak's filter for the bus (the real xdg-dbus-proxy), and in a user namespace.

use std::time::Duration;

use network::{Server, Socket};

use super::{browse, connect, greeter, line, warnings};
use crate::world::{BEHIND, HERE, Party, in_own_world, until};

/// Part of the error for a daemon that is running and refuses calls.
const REFUSED: &str = if super::ZEROCONF { "does not reply" } else { "cannot be called" };

/// Filters the bus of `BEHIND` as `flatpak run` does. The filtered bus has the address of this host's bus.
fn filtered_bus(policy: &[&str]) -> Party {
    // The proxy writes a byte to the file descriptor when it is ready, and exits when the other end is closed.
    let script =
        "mkfifo \"$0\" && exec 4<>\"$0\" && { xdg-dbus-proxy --fd=4 \"$@\" & head -c 1 <&4; echo ready; wait; }";
    let (bus, place) = (BEHIND.bus_address(), HERE.bus_path());
    let (ready, place) = (format!("{}.ready", place.display()), place.display().to_string());
    let proxy = HERE.start("sh", &[&["-c", script, &ready, &bus, &place, "--filter"], policy].concat());
    proxy.says("ready");
    proxy
}

#[test]
fn a_flatpak_with_the_permission_finds_and_publishes() {
    if !in_own_world("sandbox::a_flatpak_with_the_permission_finds_and_publishes") {
        return;
    }
    let (_bus, avahi) = (BEHIND.bus(), BEHIND.avahi());
    let _filter = filtered_bus(&["--talk=org.freedesktop.Avahi"]);
    let server = greeter("chat|room", "hello");
    let (_browse, events) = browse("chat");
    until(|| server.published_name().is_some() && events.has("+room") && events.has("all"));
    assert_eq!(line(&connect("chat|^room$").unwrap()), "hello");
    // Signals about the daemon itself pass the filter as well.
    avahi.kill();
    until(|| events.has("-room") && events.has("down") && server.published_name().is_none());
    let _avahi = BEHIND.avahi();
    until(|| server.published_name().is_some());
}

#[test]
fn a_flatpak_that_may_only_see_the_daemon_is_told() {
    if !in_own_world("sandbox::a_flatpak_that_may_only_see_the_daemon_is_told") {
        return;
    }
    let (_bus, _avahi) = (BEHIND.bus(), BEHIND.avahi());
    let _filter = filtered_bus(&["--see=org.freedesktop.Avahi"]);
    let warnings = warnings();
    let _server = Server::new("chat|room", |_| Ok(())).unwrap();
    until(|| !warnings.lock().unwrap().is_empty());
    let warning = warnings.lock().unwrap().remove(0);
    assert!(warning.contains("\"room\"") && warning.contains(REFUSED), "{warning}");
    let error = connect("chat|").unwrap_err().to_string();
    assert!(error.contains(REFUSED), "{error}");
    let (_browse, events) = browse("chat");
    until(|| events.has("down: "));
    assert!(!events.has("up"), "it is not there one moment and gone the next");
}

#[test]
fn a_flatpak_without_permissions_is_told_which_it_needs() {
    if !in_own_world("sandbox::a_flatpak_without_permissions_is_told_which_it_needs") {
        return;
    }
    let says_why = || {
        let mut program = HERE.command(std::env::current_exe().unwrap().to_str().unwrap(), &ROLE);
        program.env("FLATPAK_ID", "org.example.Chat");
        Party::start(program)
    };
    // First without a bus in the sandbox, then with one that hides the daemon.
    says_why().says("--system-talk-name=org.freedesktop.Avahi");
    let (_bus, _avahi) = (BEHIND.bus(), BEHIND.avahi());
    let _filter = filtered_bus(&[]);
    says_why().says("--system-talk-name=org.freedesktop.Avahi");
}

#[test]
fn a_user_namespace_with_other_ids_is_accepted() {
    // The crate zeroconf, through libdbus, sends the bus the inner user id.
    if super::ZEROCONF || std::env::var_os("NETWORK_NO_USER_NAMESPACES").is_some() {
        return;
    }
    if !in_own_world("sandbox::a_user_namespace_with_other_ids_is_accepted") {
        return;
    }
    let (_bus, _avahi) = (HERE.bus(), HERE.avahi());
    let program = std::env::current_exe().unwrap();
    let program = program.to_str().unwrap();
    let _served = HERE.start(program, &super::ROLE);
    // Inside, the user has another id than the bus sees.
    let inside = [&["--user", "--map-user=1234", "--map-group=1234", program][..], &ROLE].concat();
    HERE.start("unshare", &inside).says("connected: from afar");
}

const ROLE: [&str; 4] = ["sandbox::role_connects", "--exact", "--ignored", "--nocapture"];

#[test]
#[ignore = "started by other tests, in a sandbox"]
fn role_connects() {
    match Socket::builder().connect_timeout(Duration::from_secs(10)).connect("chat|") {
        Ok(socket) => println!("connected: {}", socket.recv_line().unwrap()),
        Err(error) => println!("failed: {error}"),
    }
}
