//! Datagrams, the selector, and names: over real sockets, and against socat, Python and coturn.

#[path = "../common/mod.rs"]
mod common;

mod blocking;
mod callbacks;
mod descriptors;
mod futures;
mod interfaces;
mod messages;
mod multicast;
mod names;
mod parties;
mod programs;
mod room;
mod selector;

use std::cell::RefCell;
use std::process::Command;
use std::rc::Rc;

use network::UdpSocket;

/// A socket on this machine that waits for nothing longer than a test may take.
fn local() -> UdpSocket {
    UdpSocket::builder().timeout(common::LIMIT).bind("127.0.0.1:0").unwrap()
}

/// What callbacks have seen.
type Seen<T> = Rc<RefCell<Vec<T>>>;

fn seen<T>() -> Seen<T> {
    Rc::default()
}

/// The network of its own that [`in_own_network`] makes: an interface `wire` with these two addresses, and all routes.
const WIRE: [&str; 2] = ["198.51.100.1", "2001:db8:1::1"];

/// Runs the calling test once more in a network of its own, with nothing but `lo` and `wire`. True in there.
fn in_own_network(test: &str) -> bool {
    const INSIDE: &str = "IN_OWN_NETWORK";
    if std::env::var_os(INSIDE).is_some() {
        let commands = format!(
            "ip link set lo up && ip link add wire type veth peer name far && ip link set far up &&
            ip link set wire up && ip address add {0}/24 dev wire && ip address add {1}/64 dev wire nodad &&
            ip route add default via 198.51.100.254 && ip -6 route add default via 2001:db8:1::fffe",
            WIRE[0], WIRE[1]
        );
        let status = Command::new("sh").args(["-c", &commands]).status().unwrap();
        assert!(status.success(), "{status}");
        return true;
    }
    if !common::parties::has_namespaces() {
        return false;
    }
    let mut unshare = common::parties::unshare(&["--net", "--mount"]);
    unshare.arg(std::env::current_exe().unwrap()).args([test, "--exact", "--nocapture"]).env(INSIDE, "1");
    let output = common::run(&mut unshare, "");
    assert!(output.status.success(), "{}{}", output.text(), output.stderr);
    assert!(output.text().contains("1 passed"), "{}", output.text());
    false
}
