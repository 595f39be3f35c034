//! Message sockets of other families, by their descriptors: netlink, raw and ICMP.

use network::udp::{MessageKind, MessageSocket};
use network::{Error, Selector};
use rustix::net::{AddressFamily, SocketType, ipproto};

use crate::common::{LIMIT, on_own_context, until};
use crate::{in_own_network, seen};

fn wrapped(fd: std::os::fd::OwnedFd) -> MessageSocket {
    MessageSocket::builder().timeout(LIMIT).from_fd(fd).unwrap()
}

/// A request for the list of interfaces (rtnetlink(7)): RTM_GETLINK with NLM_F_REQUEST and NLM_F_DUMP.
fn list_links() -> Vec<u8> {
    let mut request = Vec::new();
    request.extend(32u32.to_ne_bytes());
    request.extend(18u16.to_ne_bytes());
    request.extend(0x301u16.to_ne_bytes());
    request.extend([0; 24]);
    request
}

#[test]
fn netlink_lists_the_interfaces() {
    on_own_context(|| {
        // NETLINK_ROUTE is protocol 0.
        let fd = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None).unwrap();
        let socket = wrapped(fd);
        assert_eq!((socket.kind().unwrap(), socket.local(), socket.remote()), (MessageKind::Raw, None, None));
        let error = socket.send_to("x", "127.0.0.1:1").unwrap_err();
        assert!(matches!(&error, Error::Address { problem, .. } if problem.contains("family")), "{error}");
        let has_loopback = |data: &[u8]| data.windows(3).any(|name| name == b"lo\0");
        socket.send(list_links()).unwrap();
        let (data, from) = socket.recv_from(1 << 16).unwrap();
        assert!(has_loopback(&data) && from.is_none());
        // The end of the list.
        let mut done = u16::from_ne_bytes([data[4], data[5]]);
        while done != 3 {
            let data = socket.recv(1 << 16).unwrap();
            done = u16::from_ne_bytes([data[4], data[5]]);
        }
        let selector = Selector::new();
        selector.add(&socket);
        assert!(!selector.wait(std::time::Duration::ZERO).unwrap());
        let all = seen();
        let into = all.clone();
        socket.read(move |_, data, from| {
            into.borrow_mut().push((has_loopback(data), from));
            Ok(())
        });
        socket.send(list_links()).unwrap();
        until(|| !all.borrow().is_empty());
        assert_eq!(all.borrow()[0], (true, None));
    });
}

/// An echo request (RFC 792). The kernel fills in the checksum for datagram sockets only.
fn echo_request(data: &[u8]) -> Vec<u8> {
    let mut message = [&[8, 0, 0, 0, 0x12, 0x34, 0, 1], data].concat();
    let words = message.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

#[test]
fn icmp_echoes_come_back_to_raw_sockets_and_to_those_for_everybody() {
    if !in_own_network("descriptors::icmp_echoes_come_back_to_raw_sockets_and_to_those_for_everybody") {
        return;
    }
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
    on_own_context(|| {
        for (kind, header) in [(SocketType::RAW, 20), (SocketType::DGRAM, 0)] {
            let fd = rustix::net::socket(AddressFamily::INET, kind, Some(ipproto::ICMP)).unwrap();
            let socket = wrapped(fd);
            let request = echo_request(b"is anybody there");
            for step in ["send_to", "set_peer", "again"] {
                match step {
                    "send_to" => socket.send_to(&request, "127.0.0.1:0").unwrap(),
                    _ => {
                        socket.set_peer(("127.0.0.1", 0)).unwrap();
                        assert_eq!(socket.remote().unwrap().to_string(), "127.0.0.1:0");
                        socket.send(&request).unwrap();
                    }
                }
                // A raw socket hears its own request as well.
                let reply = loop {
                    let (data, from) = socket.recv_from(1500).unwrap();
                    assert_eq!(from.unwrap().inet().unwrap().ip().to_string(), "127.0.0.1");
                    if data[header] == 0 {
                        break data[header..].to_vec();
                    }
                };
                assert_eq!(&reply[8..], b"is anybody there");
            }
            let outcome = socket.send_to(&request, "localhost.example:0");
            assert!(
                matches!(&outcome, Err(Error::Address { problem, .. }) if problem.contains("names::lookup")),
                "{outcome:?}"
            );
            assert!(matches!(socket.send_to(&request, "/a/path"), Err(Error::Address { .. })));
        }
    });
}
