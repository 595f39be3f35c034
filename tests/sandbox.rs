//! Where IPv6 is refused: sandboxes do that with errors that else mean something else.

mod common;

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::Command;

use common::{LIMIT, Process, Watch, example, without_family};
use rustix::net::AddressFamily;
use rustix::process::Signal;

/// EPERM and EACCES.
const REFUSALS: [i32; 2] = [1, 13];

fn without_ipv6(error: i32, program: &str, arguments: &[&str]) -> Command {
    let mut command = without_family(AddressFamily::INET6, error);
    command.arg(example(program)).args(arguments);
    command
}

#[test]
fn a_server_listens_on_ipv4() {
    for error in REFUSALS {
        let arguments = ["--tls", "off", "--verbose", "--echo", "--keep", "--listen", "0"];
        let server = Process::start(&mut without_ipv6(error, "netcat", &arguments), Watch::Stderr);
        let port = server.port("listening on 0.0.0.0:");
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client.write_all(b"hello").unwrap();
        assert_eq!(client.read(&mut [0; 10]).unwrap(), 5);
        server.signal(Signal::TERM);
        assert!(server.finish().status.success());
    }
}

#[test]
fn a_udp_socket_is_bound_to_ipv4() {
    for error in REFUSALS {
        let arguments = ["--udp", "--verbose", "--echo", "--listen", "0"];
        let server = Process::start(&mut without_ipv6(error, "netcat", &arguments), Watch::Stderr);
        let port = server.port("listening on 0.0.0.0:");
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client.send_to(b"hello", ("127.0.0.1", port)).unwrap();
        assert_eq!(client.recv(&mut [0; 10]).unwrap(), 5);
        server.signal(Signal::TERM);
        assert!(server.finish().status.success());
    }
}

#[test]
fn an_ipv6_address_is_refused_with_the_cause() {
    let output = common::run(&mut without_ipv6(13, "server", &["[::1]:0"]), "");
    let line = output.assert_failed();
    assert!(line.contains("IPv6 sockets are not permitted") && line.contains("Permission denied"), "{line}");
}
