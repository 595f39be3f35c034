//! socat and Python's own sockets as peers, both ways.

use std::process::Command;

use network::UdpSocket;

use crate::common::{LIMIT, Process, Watch, beside, has_ipv6, noise, on_own_context, run, tool};

fn socat() -> Command {
    tool("/usr/bin/socat")
}

fn python(script: &str, arguments: &[&str]) -> Process {
    let mut python = tool("/usr/bin/python3");
    Process::start(python.args(["-u", "-c", script]).args(arguments), Watch::Stdout)
}

/// A server of ours that answers in capitals.
fn capitals(address: &str) -> UdpSocket {
    let server = UdpSocket::bind(address).unwrap();
    server.read(|socket, data, from| socket.send_to(data.to_ascii_uppercase(), from));
    server
}

#[test]
fn socat_as_a_client_gets_answers() {
    on_own_context(|| {
        let server = capitals("127.0.0.1:0");
        let target = format!("UDP4:{}", server.local());
        let output = beside(move || {
            let mut client = socat();
            let mut client = Process::start(client.args(["-t", "30", "STDIO", &target]), Watch::Stdout);
            client.send("hello\n");
            assert_eq!(client.line(), "HELLO");
            client.send("again\n");
            client.line()
        });
        assert_eq!(output, "AGAIN");
    });
}

#[test]
fn socat_as_a_server_answers() {
    on_own_context(|| {
        let mut server = socat();
        let server =
            Process::start(server.args(["-d", "-d", "UDP4-RECVFROM:0,bind=127.0.0.1,fork", "PIPE"]), Watch::Stderr);
        // It does not say which port it got: the system knows.
        server.line_with("receiving on");
        let port = port_of(server.id());
        let client = UdpSocket::builder().timeout(LIMIT).bind("127.0.0.1:0").unwrap();
        client.connect(("127.0.0.1", port)).unwrap();
        for text in ["one", "two", "three"] {
            client.send(text).unwrap();
            assert_eq!(client.recv(100).unwrap(), text.as_bytes());
        }
    });
}

/// The port of the only UDP socket that a process has, as soon as it has it.
fn port_of(pid: i32) -> u16 {
    let end = std::time::Instant::now() + LIMIT;
    while std::time::Instant::now() < end {
        let table = std::fs::read_to_string(format!("/proc/{pid}/net/udp")).unwrap();
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
            let Ok(target) = std::fs::read_link(entry.unwrap().path()) else { continue };
            let target = target.to_string_lossy().into_owned();
            let Some(inode) = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) else { continue };
            for line in table.lines().skip(1) {
                let fields: Vec<_> = line.split_whitespace().collect();
                if fields[9] == inode {
                    return u16::from_str_radix(fields[1].rsplit(':').next().unwrap(), 16).unwrap();
                }
            }
        }
        std::thread::yield_now();
    }
    panic!("it has no UDP socket");
}

const PYTHON_SERVER: &str = r#"
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 0))
print("port", s.getsockname()[1])
while True:
    data, peer = s.recvfrom(65536)
    if data == b"end":
        break
    s.sendto(data[::-1], peer)
"#;

#[test]
fn python_as_a_server_answers() {
    let mut addresses = vec!["127.0.0.1"];
    if has_ipv6() {
        addresses.push("::1");
    }
    for address in addresses {
        on_own_context(|| {
            let server = python(PYTHON_SERVER, &[address]);
            let port = server.port("port");
            let client = UdpSocket::builder().timeout(LIMIT).bind(0).unwrap();
            for size in [0, 1, 1000, 9000, UdpSocket::MAX_DATAGRAM_SIZE] {
                let data = noise(size, size as u64);
                client.send_to(&data, (address, port)).unwrap();
                let (mut answer, from) = client.recv_from(UdpSocket::MAX_DATAGRAM_SIZE).unwrap();
                assert_eq!(from, std::net::SocketAddr::new(address.parse().unwrap(), port));
                answer.reverse();
                assert!(answer == data, "{size} bytes, and {} came back", answer.len());
            }
            client.send_to("end", (address, port)).unwrap();
            assert!(server.finish().status.success());
        });
    }
}

const PYTHON_CLIENT: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(30)
s.connect(("127.0.0.1", int(sys.argv[1])))
for data in (b"one", b"", b"x" * 60000):
    s.send(data)
    answer = s.recv(65536)
    assert answer == data.upper(), answer
print("content")
"#;

#[test]
fn python_as_a_client_gets_answers() {
    on_own_context(|| {
        let server = capitals("0");
        let port = server.port().to_string();
        let output = beside(move || {
            let mut python = tool("/usr/bin/python3");
            run(python.args(["-u", "-c", PYTHON_CLIENT, &port]), "")
        });
        output.assert_clean();
        assert_eq!(output.text(), "content\n");
    });
}

const PYTHON_MEMBER: &str = r#"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("", 0))
s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
    socket.inet_aton("239.255.77.78") + socket.inet_aton("127.0.0.1"))
print("port", s.getsockname()[1])
data, peer = s.recvfrom(100)
print(data.decode())
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
s.sendto(b"from python", ("239.255.77.78", s.getsockname()[1]))
"#;

#[test]
fn python_is_in_the_same_group() {
    on_own_context(|| {
        let python = python(PYTHON_MEMBER, &[]);
        let port = python.port("port");
        let socket = UdpSocket::builder().reuse_address(true).timeout(LIMIT).bind(("0.0.0.0", port)).unwrap();
        socket.join_multicast([239, 255, 77, 78], Some("lo")).unwrap();
        socket.set_multicast_interface("lo").unwrap();
        socket.set_multicast_loop(true).unwrap();
        socket.send_to("to python", ([239, 255, 77, 78], port)).unwrap();
        assert_eq!(python.line(), "to python");
        assert_eq!(socket.recv(100).unwrap(), b"to python", "its own");
        assert_eq!(socket.recv(100).unwrap(), b"from python");
        assert!(python.finish().status.success());
    });
}
