//! Multicast on an interface of the test's own, both families, by one socket bound to all addresses or by one of the family.

use std::net::IpAddr;
use std::time::Duration;

use network::{Error, UdpSocket};

use crate::common::{LIMIT, on_own_context, tool};
use crate::in_own_network;

fn member(bind: &str, group: IpAddr) -> UdpSocket {
    let socket = UdpSocket::builder().reuse_address(true).timeout(LIMIT).bind(bind).unwrap();
    socket.join_multicast(group, Some("wire")).unwrap();
    socket
}

/// Where to bind, and the group to join: also one of IPv4 by a socket for both.
fn groups() -> [(&'static str, IpAddr); 3] {
    let v4 = "239.255.77.77".parse().unwrap();
    [("0.0.0.0:0", v4), ("[::]:0", v4), ("[::]:0", "ff05::7777".parse().unwrap())]
}

fn number_of_wire() -> String {
    let output = tool("/usr/sbin/ip").args(["-o", "link", "show", "wire"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(':').next().unwrap().into()
}

#[test]
fn members_hear_what_is_sent_to_the_group_until_they_leave() {
    if !in_own_network("multicast::members_hear_what_is_sent_to_the_group_until_they_leave") {
        return;
    }
    for (bind, group) in groups() {
        on_own_context(|| {
            let one = member(bind, group);
            let other =
                UdpSocket::builder().reuse_address(true).timeout(LIMIT).bind((one.local().ip(), one.port())).unwrap();
            other.join_multicast(group, Some(&number_of_wire())).unwrap();
            let sender = UdpSocket::bind(bind).unwrap();
            sender.set_multicast_interface("wire").unwrap();
            sender.set_multicast_ttl(0).unwrap();
            sender.send_to("to all", (group, one.port())).unwrap();
            for member in [&one, &other] {
                assert_eq!(member.recv(100).unwrap(), b"to all", "{group} by {bind}");
            }
            one.leave_multicast(group, Some("wire")).unwrap();
            assert!(matches!(one.leave_multicast(group, Some("wire")), Err(Error::Io { .. })));
        });
    }
}

#[test]
fn what_is_sent_stays_off_this_machine_if_wanted() {
    if !in_own_network("multicast::what_is_sent_stays_off_this_machine_if_wanted") {
        return;
    }
    for (bind, group) in groups() {
        on_own_context(|| {
            let member = member(bind, group);
            let sender = UdpSocket::bind(bind).unwrap();
            sender.set_multicast_interface("wire").unwrap();
            sender.set_multicast_loop(false).unwrap();
            sender.send_to("not heard", (group, member.port())).unwrap();
            sender.set_multicast_loop(true).unwrap();
            sender.send_to("heard", (group, member.port())).unwrap();
            assert_eq!(member.recv(100).unwrap(), b"heard", "{group} by {bind}");
            member.set_timeout(Duration::ZERO);
            assert!(matches!(member.recv(100), Err(Error::NotReady { .. })));
        });
    }
}

#[test]
fn what_is_no_group_or_no_interface_is_said() {
    on_own_context(|| {
        let v4 = UdpSocket::bind("0.0.0.0:0").unwrap();
        let problem = |result: network::Result| match result {
            Err(Error::Address { problem, .. }) => problem,
            outcome => panic!("{outcome:?}"),
        };
        assert!(problem(v4.join_multicast([192, 0, 2, 1], None)).contains("multicast group"));
        let v6 = "ff02::1".parse::<IpAddr>().unwrap();
        assert!(problem(v4.join_multicast(v6, None)).contains("IPv4 only"));
        for name in ["nosuch", "0", "", "4294967295"] {
            for result in [v4.join_multicast([239, 0, 0, 1], Some(name)), v4.set_multicast_interface(name)] {
                assert!(matches!(result, Err(Error::InvalidOption(_))), "{result:?}");
                assert_eq!(result.unwrap_err().to_string(), format!("unknown interface {name:?}"));
            }
        }
    });
}
