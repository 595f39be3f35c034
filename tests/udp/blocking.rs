//! Calls that wait, and those that must not, with no loop running.

use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::time::Duration;

use network::{Error, UdpSocket};

use crate::common::{LIMIT, has_ipv6, on_own_context};
use crate::local;

#[test]
fn a_datagram_goes_there_and_back() {
    on_own_context(|| {
        let (one, other) = (local(), local());
        one.send_to(b"ping", other.local()).unwrap();
        let (data, from) = other.recv_from(100).unwrap();
        assert_eq!((data.as_slice(), from), (b"ping".as_slice(), one.local()));
        other.send_to("pong", from).unwrap();
        let mut buffer = [0; 10];
        assert_eq!(one.recv_from_into(&mut buffer).unwrap(), (4, other.local()));
        assert_eq!(&buffer[..4], b"pong");
        assert_ne!(one.port(), 0);
    });
}

#[test]
fn an_empty_datagram_is_one_too() {
    on_own_context(|| {
        let (one, other) = (local(), local());
        one.send_to("", other.local()).unwrap();
        one.send_to("after it", other.local()).unwrap();
        assert_eq!(other.recv_from(100).unwrap(), (vec![], one.local()));
        assert_eq!(other.recv_from(100).unwrap().0, b"after it");
    });
}

#[test]
fn the_largest_goes_through_and_a_larger_one_is_not_sent() {
    on_own_context(|| {
        let (one, other) = (local(), local());
        other.set_recv_buffer(1 << 20).unwrap();
        let largest = crate::common::noise(UdpSocket::MAX_DATAGRAM_SIZE, 1);
        let mut larger = largest.clone();
        larger.push(0);
        match one.send_to(&larger, other.local()) {
            Err(Error::DatagramTooLarge { size: 65508, limit: 65507, .. }) => {}
            outcome => panic!("{outcome:?}"),
        }
        one.connect(other.local()).unwrap();
        assert!(matches!(one.send(&larger), Err(Error::DatagramTooLarge { .. })));
        one.send(&largest).unwrap();
        assert!(other.recv_from(usize::MAX).unwrap().0 == largest);
        other.set_timeout(Duration::ZERO);
        assert!(matches!(other.recv_from(1), Err(Error::NotReady { .. })), "nothing else came");
    });
}

#[test]
fn what_does_not_fit_is_told_with_what_did() {
    on_own_context(|| {
        let (one, other) = (local(), local());
        for data in ["too long", "exactly", "too long", "exactly"] {
            one.send_to(data, other.local()).unwrap();
        }
        match other.recv_from(7) {
            Err(Error::DatagramTruncated { peer, size: 8, limit: 7, data }) => {
                assert_eq!((&*data, peer), (b"too lon".as_slice(), one.local().to_string()));
            }
            outcome => panic!("{outcome:?}"),
        }
        assert_eq!(other.recv_from(7).unwrap().0, b"exactly");
        let mut buffer = [0; 7];
        match other.recv_into(&mut buffer) {
            Err(Error::DatagramTruncated { size: 8, limit: 7, .. }) => assert_eq!(&buffer, b"too lon"),
            outcome => panic!("{outcome:?}"),
        }
        assert_eq!(other.recv_into(&mut buffer).unwrap(), 7);
    });
}

#[test]
fn how_long_to_wait_is_said() {
    on_own_context(|| {
        let socket = local();
        socket.set_timeout(Duration::ZERO);
        assert!(matches!(socket.recv(1), Err(Error::NotReady { .. })));
        assert!(matches!(socket.send_to("x", "some.invalid:1"), Err(Error::Address { .. })), "a lookup would wait");
        let limit = Duration::from_millis(20);
        socket.set_timeout(limit);
        let started = std::time::Instant::now();
        assert!(matches!(socket.recv(1), Err(Error::TimedOut { limit: told, .. }) if told == limit));
        assert!(started.elapsed() >= limit);
        socket.set_timeout(None);
        let peer = StdSocket::bind("127.0.0.1:0").unwrap();
        let to = socket.local();
        let thread = std::thread::spawn(move || peer.send_to(b"late", to).unwrap());
        assert_eq!(socket.recv(100).unwrap(), b"late");
        thread.join().unwrap();
    });
}

#[test]
fn a_time_out_longer_than_all_time_is_without_end() {
    on_own_context(|| {
        let (one, other) = (local(), local());
        one.set_timeout(Duration::MAX);
        one.send_to("hello", other.local()).unwrap();
        other.set_timeout(Duration::MAX);
        assert_eq!(other.recv_from(10).unwrap().0, b"hello");
        let to = one.local();
        let late = std::thread::spawn(move || {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(b"late", to).unwrap();
        });
        assert_eq!(one.recv(10).unwrap(), b"late");
        late.join().unwrap();
        let selector = network::Selector::new();
        selector.add(&one);
        other.send_to("more", one.local()).unwrap();
        assert!(selector.wait(Duration::MAX).unwrap());
    });
}

#[test]
fn a_fixed_peer_alone_is_heard_whatever_waits_already() {
    on_own_context(|| {
        let (one, other, stranger) = (local(), local(), local());
        stranger.send_to("before", one.local()).unwrap();
        other.send_to("mine", one.local()).unwrap();
        one.connect(other.local()).unwrap();
        assert_eq!(one.remote(), Some(other.local()));
        stranger.send_to("after", one.local()).unwrap();
        other.send_to("mine too", one.local()).unwrap();
        assert_eq!(one.recv(100).unwrap(), b"mine");
        assert_eq!(one.recv(100).unwrap(), b"mine too");
        one.send("yours").unwrap();
        assert_eq!(other.recv(100).unwrap(), b"yours");
        // Another peer may take its place.
        one.connect(stranger.local()).unwrap();
        stranger.send_to("my turn", one.local()).unwrap();
        assert_eq!(one.recv(100).unwrap(), b"my turn");
        assert!(matches!(stranger.send("to whom?"), Err(Error::Unsupported(_))));
    });
}

/// A port of this machine where nobody listens any more.
fn deserted() -> SocketAddr {
    StdSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn a_refusal_is_told_and_does_no_harm() {
    on_own_context(|| {
        let socket = local();
        let nobody = deserted();
        socket.connect(nobody).unwrap();
        socket.send("anybody there?").unwrap();
        match socket.recv(100) {
            Err(Error::Refused { address, .. }) => assert_eq!(address, nobody.to_string()),
            outcome => panic!("{outcome:?}"),
        }
        socket.send("still nobody?").unwrap();
        assert!(matches!(socket.send("hello?"), Err(Error::Refused { .. })), "of the one before");
        let somebody = StdSocket::bind(nobody).unwrap();
        somebody.set_read_timeout(Some(LIMIT)).unwrap();
        socket.send("and now?").unwrap();
        let mut buffer = [0; 100];
        let (size, from) = somebody.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..size], b"and now?");
        somebody.send_to(b"yes", from).unwrap();
        assert_eq!(socket.recv(100).unwrap(), b"yes");
    });
}

#[test]
fn refusals_without_a_fixed_peer_name_who_refused_if_asked_for() {
    on_own_context(|| {
        let (one, other) = (deserted(), deserted());
        let deaf = local();
        deaf.send_to("x", one).unwrap();
        deaf.send_to("x", other).unwrap();
        deaf.set_timeout(Duration::ZERO);
        assert!(matches!(deaf.recv_from(1), Err(Error::NotReady { .. })), "the default");

        let mut kinds = vec!["127.0.0.1:0"];
        if has_ipv6() {
            kinds.push("[::]:0");
        }
        for kind in kinds {
            let friend = local();
            let socket = UdpSocket::builder().icmp_errors(true).timeout(LIMIT).bind(kind).unwrap();
            socket.send_to("x", one).unwrap();
            socket.send_to("x", other).unwrap();
            // No refusal of others is in its way.
            socket.send_to("to a friend", friend.local()).unwrap();
            assert_eq!(friend.recv(100).unwrap(), b"to a friend");
            let mut refused = Vec::new();
            while refused.len() < 2 {
                match socket.recv_from(100) {
                    Err(Error::Refused { address, .. }) => refused.push(address),
                    outcome => panic!("{outcome:?}"),
                }
            }
            assert_eq!(refused, [one.to_string(), other.to_string()], "{kind}");
            socket.set_timeout(Duration::ZERO);
            assert!(matches!(socket.recv_from(1), Err(Error::NotReady { .. })));
        }
    });
}

#[test]
fn one_socket_serves_both_families() {
    if !has_ipv6() {
        return;
    }
    on_own_context(|| {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let both = UdpSocket::builder().timeout(LIMIT).bind(0).unwrap();
            assert!(both.local().is_ipv6());
            let peer = UdpSocket::builder().timeout(LIMIT).bind(address).unwrap();
            let to = SocketAddr::new(peer.local().ip(), both.port());
            peer.send_to("there", to).unwrap();
            let (data, from) = both.recv_from(100).unwrap();
            assert_eq!((data.as_slice(), from), (b"there".as_slice(), peer.local()), "as what it is");
            both.send_to("back", from).unwrap();
            assert_eq!(peer.recv_from(100).unwrap(), (b"back".to_vec(), to));
            both.connect(from).unwrap();
            assert_eq!(both.remote(), Some(from));
            both.send("fixed").unwrap();
            assert_eq!(peer.recv(100).unwrap(), b"fixed");
        }
        let v4 = local();
        assert!(matches!(v4.send_to("x", (std::net::Ipv6Addr::LOCALHOST, 9)), Err(Error::Address { .. })));
        let v6 = UdpSocket::builder().only_v6(true).bind("[::]:0").unwrap();
        // The port is free for IPv4.
        assert!(StdSocket::bind(("127.0.0.1", v6.port())).is_ok());
    });
}

#[test]
fn a_destination_may_be_written_in_many_ways() {
    on_own_context(|| {
        let server = UdpSocket::builder().timeout(LIMIT).bind(0).unwrap();
        let (client, port) = (UdpSocket::bind(0).unwrap(), server.port());
        client.send_to("1", port).unwrap();
        client.send_to("2", format!("localhost:{port}")).unwrap();
        client.send_to("3", ("127.0.0.1", port)).unwrap();
        client.send_to("4", ([127, 0, 0, 1], port)).unwrap();
        client.send_to("5", network::Address::from(port)).unwrap();
        client.send_to("6", format!("udp://127.0.0.1:{port}")).unwrap();
        client.send_to("7", network::names::lookup("localhost", port).unwrap()).unwrap();
        for number in 1..=7 {
            assert_eq!(server.recv(100).unwrap(), number.to_string().as_bytes());
        }
        for bad in ["127.0.0.1:0", "chat|", "/a/path", "https://127.0.0.1:1", "1.2.3.4", ""] {
            assert!(matches!(client.send_to("x", bad), Err(Error::Address { .. })), "{bad}");
            assert!(matches!(client.connect(bad), Err(Error::Address { .. })), "{bad}");
        }
        for bad in ["chat|", "/a/path", "http://127.0.0.1:1", "example.invalid:1"] {
            assert!(matches!(UdpSocket::bind(bad), Err(Error::Address { .. })), "{bad}");
        }
        assert!(matches!(UdpSocket::bind(("127.0.0.1", local_port_in_use(&server))), Err(Error::InUse { .. })));
    });
}

fn local_port_in_use(server: &UdpSocket) -> u16 {
    server.port()
}

#[test]
fn a_closed_socket_says_so_and_its_port_is_free() {
    on_own_context(|| {
        let socket = local();
        let (twin, address) = (socket.clone(), socket.local());
        twin.close();
        assert!(!socket.is_open());
        assert!(matches!(socket.recv(1), Err(Error::Closed { .. })));
        assert!(matches!(socket.send_to("x", address), Err(Error::Closed { .. })));
        assert!(matches!(socket.send("x"), Err(Error::Closed { .. })));
        assert!(matches!(socket.connect(address), Err(Error::Closed { .. })));
        assert!(matches!(socket.set_ttl(3), Err(Error::Closed { .. })));
        assert_eq!(socket.local(), address);
        let again = UdpSocket::bind(address).unwrap();
        drop(again);
        UdpSocket::bind(address).unwrap();
    });
}

#[test]
fn options_reach_the_system() {
    on_own_context(|| {
        let socket = UdpSocket::builder()
            .broadcast(true)
            .reuse_address(true)
            .reuse_port(true)
            .recv_buffer(100_000)
            .send_buffer(50_000)
            .ttl(7)
            .tos(0x10)
            .bind(0)
            .unwrap();
        use rustix::net::sockopt;
        assert_eq!(socket.recv_buffer().unwrap(), 200_000);
        assert_eq!(socket.send_buffer().unwrap(), 100_000);
        assert!(sockopt::socket_broadcast(&socket).unwrap() && socket.is_broadcast());
        assert!(sockopt::socket_reuseaddr(&socket).unwrap());
        assert!(sockopt::socket_reuseport(&socket).unwrap());
        assert_eq!(sockopt::ip_ttl(&socket).unwrap(), 7);
        assert_eq!(sockopt::ip_tos(&socket).unwrap(), 0x10);
        if socket.local().is_ipv6() {
            assert_eq!(sockopt::ipv6_unicast_hops(&socket).unwrap(), 7);
            assert_eq!(sockopt::ipv6_tclass(&socket).unwrap(), 0x10);
        }
        UdpSocket::builder().reuse_port(true).reuse_address(true).bind(socket.port()).unwrap();
    });
}

#[test]
fn broadcasting_must_be_allowed_first() {
    on_own_context(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        match socket.send_to("x", "127.255.255.255:9") {
            Err(error @ Error::Io { .. }) => {
                assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
                assert!(error.to_string().contains("set_broadcast"), "{error}");
            }
            outcome => panic!("{outcome:?}"),
        }
        let server = UdpSocket::builder().timeout(LIMIT).bind("0.0.0.0:0").unwrap();
        socket.set_broadcast(true).unwrap();
        socket.send_to("to all", ("127.255.255.255", server.port())).unwrap();
        assert_eq!(server.recv_from(100).unwrap(), (b"to all".to_vec(), socket.local()));
    });
}

#[test]
fn std_sockets_come_and_go() {
    on_own_context(|| {
        let std = StdSocket::bind("127.0.0.1:0").unwrap();
        std.set_nonblocking(true).unwrap();
        let address = std.local_addr().unwrap();
        let socket = UdpSocket::try_from(std).unwrap();
        socket.set_timeout(LIMIT);
        socket.send_to("to itself", address).unwrap();
        assert_eq!(socket.recv(100).unwrap(), b"to itself");
        let twin = socket.clone();
        let std = socket.into_std().unwrap();
        assert!(!twin.is_open());
        std.set_read_timeout(Some(LIMIT)).unwrap();
        std.send_to(b"again", address).unwrap();
        assert_eq!(std.recv(&mut [0; 10]).unwrap(), 5);
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(matches!(UdpSocket::from_fd(tcp), Err(Error::Io { .. })));
    });
}

#[test]
fn another_threads_context_is_refused() {
    // All other tests have contexts of their own.
    let context = glib::MainContext::default();
    let _held = context.acquire().unwrap();
    let refused = std::thread::spawn(|| matches!(UdpSocket::bind(0), Err(Error::WrongThread)));
    assert!(refused.join().unwrap());
}
