//! The interfaces of this machine: their list, broadcast on all of them, sockets for one of them, and the local address of a
//! datagram.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use network::names::{Interface, interfaces};
use network::{Error, UdpSocket};

use crate::common::{LIMIT, Process, Watch, has_ipv6, on_own_context, run, until};
use crate::{WIRE, in_own_network, seen};

/// Adds a second network, with another machine on it.
fn second_network() {
    let script = "mount -t tmpfs none /run && ip netns add beyond &&
        ip link add second type veth peer name beyond && ip link set beyond netns beyond &&
        ip address add 203.0.113.1/24 brd + dev second && ip link set second up &&
        ip -n beyond address add 203.0.113.2/24 brd + dev beyond && ip -n beyond link set beyond up";
    let output = run(std::process::Command::new("sh").args(["-c", script]), "");
    assert!(output.status.success(), "{}", output.stderr);
}

fn beyond(script: &str) -> Process {
    let mut command = std::process::Command::new("ip");
    Process::start(command.args(["netns", "exec", "beyond", "python3", "-u", "-c", script]), Watch::Stdout)
}

fn interface(name: &str) -> Interface {
    interfaces().unwrap().into_iter().find(|interface| interface.name == name).unwrap()
}

#[test]
fn interfaces_are_listed_with_their_addresses() {
    if !in_own_network("interfaces::interfaces_are_listed_with_their_addresses") {
        return;
    }
    let lo = interface("lo");
    assert!(lo.is_up && lo.is_loopback && lo.index == 1);
    assert!(lo.addresses.iter().any(|address| address.ip == Ipv4Addr::LOCALHOST && address.prefix == 8));
    let set = |arguments: &str| {
        let command = format!("ip {arguments}");
        assert!(run(std::process::Command::new("sh").args(["-c", &command]), "").status.success());
    };
    set("address add 192.0.2.65/26 brd + label wire:1 dev wire");
    let wire = interface("wire");
    assert!(wire.is_up && !wire.is_loopback);
    let told = |ip: &str| {
        let ip: IpAddr = ip.parse().unwrap();
        let found = wire.addresses.iter().find(|address| address.ip == ip).unwrap();
        (found.prefix, found.broadcast.map(|broadcast| broadcast.to_string()))
    };
    assert_eq!(told(WIRE[1]), (64, None));
    // It is that of the network, although nobody has set it.
    assert_eq!(told(WIRE[0]), (24, Some("198.51.100.255".into())));
    assert_eq!(told("192.0.2.65"), (26, Some("192.0.2.127".into())));
    set("link set far down");
    assert!(!interface("far").is_up);
}

#[test]
fn a_broadcast_goes_out_of_every_interface() {
    if !in_own_network("interfaces::a_broadcast_goes_out_of_every_interface") {
        return;
    }
    second_network();
    // A second address makes no second network.
    let again = "ip address add 198.51.100.2/24 brd + dev wire";
    assert!(run(std::process::Command::new("sh").args(["-c", again]), "").status.success());
    let other = beyond(
        r#"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 4242))
print("ready")
print(*s.recvfrom(100))
"#,
    );
    other.line_with("ready");
    on_own_context(|| {
        // Broadcasts come back to this machine, by the interface that they went out of.
        let here = UdpSocket::builder().arrivals(true).timeout(LIMIT).bind("0.0.0.0:4242").unwrap();
        for bind in ["0.0.0.0:0", "[::]:0"] {
            let socket = UdpSocket::bind(bind).unwrap();
            let outcome = socket.broadcast("x", 4242);
            assert!(matches!(outcome, Err(Error::Io { .. })), "it is not allowed to: {outcome:?}");
            socket.set_broadcast(true).unwrap();
            assert_eq!(socket.broadcast("who is there?", 4242).unwrap(), 2, "{bind}");
            let mut heard: Vec<_> = (0..2)
                .map(|_| {
                    let (data, from) = here.recv_from(100).unwrap();
                    assert_eq!((data.as_slice(), from.port()), (b"who is there?".as_slice(), socket.port()));
                    let arrival = here.arrival().unwrap();
                    (from.ip().to_string(), arrival.to.to_string(), arrival.interface)
                })
                .collect();
            heard.sort();
            let row = |from: &str, to: &str, name| (from.into(), to.into(), interface(name).index);
            let want = [row(WIRE[0], "198.51.100.255", "wire"), row("203.0.113.1", "203.0.113.255", "second")];
            assert_eq!(heard, want);
        }
        assert!(other.line().starts_with("b'who is there?' ('203.0.113.1'"));
        let v6 = UdpSocket::builder().broadcast(true).bind("[::]:0").unwrap();
        assert!(matches!(v6.broadcast(vec![0; 70_000], 4242), Err(Error::DatagramTooLarge { .. })));
        assert!(matches!(v6.broadcast("x", 0), Err(Error::InvalidOption(_))));
        let down = "ip link set wire down && ip link set second down";
        assert!(run(std::process::Command::new("sh").args(["-c", down]), "").status.success());
        assert!(matches!(v6.broadcast("x", 4242), Err(Error::Unreachable { .. })));
    });
}

#[test]
fn a_socket_for_one_interface_hears_nothing_of_the_others() {
    if !in_own_network("interfaces::a_socket_for_one_interface_hears_nothing_of_the_others") {
        return;
    }
    second_network();
    on_own_context(|| {
        let socket =
            UdpSocket::builder().interface("second").arrivals(true).broadcast(true).timeout(LIMIT).bind(0).unwrap();
        UdpSocket::bind(0).unwrap().send_to("by lo", ("127.0.0.1", socket.port())).unwrap();
        let script = format!(
            "import socket\n\
             s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
             s.sendto(b'by second', ('203.0.113.1', {}))\n\
             print(*s.recvfrom(100))",
            socket.port()
        );
        let other = beyond(&script);
        let (data, from) = socket.recv_from(100).unwrap();
        assert_eq!(data, b"by second");
        let arrival = socket.arrival().unwrap();
        assert_eq!((arrival.to.to_string(), arrival.interface), ("203.0.113.1".into(), interface("second").index));
        socket.send_to("answer", from).unwrap();
        assert!(other.line().contains("answer"));
        socket.set_timeout(Duration::ZERO);
        assert!(matches!(socket.recv_from(100), Err(Error::NotReady { .. })));
        // It joins groups there, too.
        socket.join_multicast([239, 0, 0, 7], None).unwrap();
        let groups = std::fs::read_to_string("/proc/net/igmp").unwrap();
        let of_second = groups.split("\tsecond ").nth(1).unwrap();
        assert!(
            of_second.lines().skip(1).take_while(|line| line.starts_with("\t\t")).any(|line| line.contains("070000EF"))
        );
        socket.leave_multicast([239, 0, 0, 7], None).unwrap();
        // There it is alone.
        assert_eq!(socket.broadcast("x", 9).unwrap(), 1);
    });
}

#[test]
fn an_unknown_interface_is_said() {
    on_own_context(|| {
        let wrapped = || UdpSocket::builder().interface("nosuch").from_fd(std::net::UdpSocket::bind("[::]:0").unwrap());
        for outcome in [UdpSocket::builder().interface("nosuch").bind(0), wrapped()] {
            assert!(matches!(&outcome, Err(Error::InvalidOption(text)) if text.contains("nosuch")), "{outcome:?}");
        }
    });
}

#[test]
fn the_local_address_is_told_of_each_datagram() {
    on_own_context(|| {
        let mut ways = vec![("0.0.0.0:0", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.7")];
        if has_ipv6() {
            ways.extend([("[::]:0", "127.0.0.7"), ("[::]:0", "::1")]);
        }
        for (bind, to) in ways {
            let server = UdpSocket::builder().arrivals(true).timeout(LIMIT).bind(bind).unwrap();
            let ip: IpAddr = to.parse().unwrap();
            let client = UdpSocket::bind(0).unwrap();
            assert_eq!(server.arrival(), None);
            client.send_to("one", (ip, server.port())).unwrap();
            assert_eq!(server.recv_from(100).unwrap().0, b"one");
            assert_eq!(server.arrival().unwrap().to, ip, "by {bind}");
            let all = seen();
            let into = all.clone();
            server.read(move |socket, data, _| {
                into.borrow_mut()
                    .push((data.to_vec(), socket.arrival().map(|arrival| (arrival.to, arrival.interface))));
                Ok(())
            });
            client.send_to("two", (ip, server.port())).unwrap();
            until(|| !all.borrow().is_empty());
            let lo = interfaces().unwrap().into_iter().find(|interface| interface.is_loopback).unwrap();
            assert_eq!(*all.borrow(), [(b"two".to_vec(), Some((ip, lo.index)))]);
        }
        let plain = UdpSocket::builder().timeout(LIMIT).bind("127.0.0.1:0").unwrap();
        plain.send_to("x", plain.local()).unwrap();
        plain.recv_from(1).unwrap();
        assert_eq!(plain.arrival(), None);
    });
}
