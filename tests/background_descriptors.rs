//! The numbers of the standard streams, and the calls that libraries in between must see.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket as StdUdp};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use common::*;
use network::daemon::Daemon;
use network::{Error, Server, Socket, UdpSocket};
use rustix::process::Signal;

/// Has a child of the test, which is this test again, do its part.
const PART: &str = "NETWORK_TEST_PART";

fn part() -> Option<String> {
    std::env::var(PART).ok()
}

/// This test again, alone.
fn again(test: &str, part: &str) -> Command {
    let mut again = command(std::env::current_exe().unwrap(), ["--exact", test, "--nocapture", "--test-threads=1"]);
    again.env(PART, part);
    again
}

/// Builds a library that is loaded before libc.
fn preload(directory: &TempDir, source: &str) -> PathBuf {
    let (code, library) = (directory.path("shim.c"), directory.path("shim.so"));
    std::fs::write(&code, source).unwrap();
    let mut cc = Command::new("cc");
    let output = cc.args(["-shared", "-fPIC", "-w", "-o"]).arg(&library).arg(&code).arg("-ldl").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library
}

/// Keeps Rust's runtime, which asks for it first, from opening standard streams that are closed: other hosts do not.
const WITHOUT_RUNTIME: &str = r#"
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <poll.h>

    int poll(struct pollfd *fds, nfds_t count, int limit) {
        if (count == 3 && limit == 0 && fds[0].fd == 0 && fds[1].fd == 1 && fds[2].fd == 2) return 0;
        return ((__typeof__(&poll))dlsym(RTLD_NEXT, "poll"))(fds, count, limit);
    }
"#;

#[test]
fn a_daemon_may_start_without_standard_streams() {
    let directory = TempDir::new();
    let library = preload(&directory, WITHOUT_RUNTIME);
    let path = directory.address("socket");
    let mut starter = command("/bin/sh", ["-c", r#"exec "$@" 0<&- 1>&- 2>&-"#, "sh"]);
    let pid_file = directory.path("pid");
    starter.arg(example("daemon")).arg(&path).arg("--pid-file").arg(&pid_file).env("LD_PRELOAD", library);
    let output = run(&mut starter, "");
    assert!(output.status.success(), "{output:?}");
    let client = UnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    let mut line = String::new();
    BufReader::new(client).read_line(&mut line).unwrap();
    let pid = line.trim().strip_prefix("daemon ").unwrap().parse().unwrap();
    let daemon = Other::new(pid);
    for number in 0..3 {
        let open = std::fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap();
        assert_eq!(open.to_str().unwrap(), "/dev/null", "descriptor {number}");
    }
    // The lock of the pid file is not lost either.
    assert!(matches!(Daemon::new().pid_file(&pid_file), Err(Error::AlreadyRunning { .. })));
    daemon.signal(Signal::TERM);
    daemon.await_end();
}

/// Sends all that goes to 127.99.0.0/16 to 127.0.0.1, as a proxy would elsewhere, and tells each call.
const SHIM: &str = r#"
    #define _GNU_SOURCE
    #include <arpa/inet.h>
    #include <dlfcn.h>
    #include <netinet/in.h>
    #include <stdio.h>
    #include <sys/socket.h>

    #define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

    static const struct sockaddr *redirected(const struct sockaddr *to, struct sockaddr_in *place) {
        if (to == NULL || to->sa_family != AF_INET) return to;
        *place = *(const struct sockaddr_in *)to;
        if ((ntohl(place->sin_addr.s_addr) >> 16) != ((127 << 8) | 99)) return to;
        place->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        return (const struct sockaddr *)place;
    }
    int socket(int family, int kind, int protocol) {
        fprintf(stderr, "socket\n");
        return REAL(socket)(family, kind, protocol);
    }
    int bind(int fd, const struct sockaddr *to, socklen_t length) {
        fprintf(stderr, "bind\n");
        return REAL(bind)(fd, to, length);
    }
    int listen(int fd, int backlog) {
        fprintf(stderr, "listen\n");
        return REAL(listen)(fd, backlog);
    }
    int accept4(int fd, struct sockaddr *from, socklen_t *length, int flags) {
        fprintf(stderr, "accept\n");
        return REAL(accept4)(fd, from, length, flags);
    }
    int connect(int fd, const struct sockaddr *to, socklen_t length) {
        struct sockaddr_in place;
        fprintf(stderr, "connect\n");
        return REAL(connect)(fd, redirected(to, &place), length);
    }
    ssize_t sendto(int fd, const void *data, size_t count, int flags, const struct sockaddr *to, socklen_t length) {
        struct sockaddr_in place;
        fprintf(stderr, "sendto\n");
        return REAL(sendto)(fd, data, count, flags, redirected(to, &place), length);
    }
"#;

/// Talks to a port of an address where nobody is, unless somebody in between leads it elsewhere.
fn talk(ports: &str) {
    let (tcp, udp) = ports.split_once(' ').unwrap();
    let at = |port: &str| SocketAddr::from(([127, 99, 0, 1], port.parse().unwrap()));
    let builder = || Socket::builder().tls(false);
    on_own_context(|| {
        let blocking = builder().connect(at(tcp)).unwrap();
        assert_eq!(blocking.recv_line().unwrap(), "hello");
        drop(blocking);
        builder().connect_async(at(tcp), gio::Cancellable::NONE, |result| {
            result.unwrap().readlines(|_, line| {
                assert_eq!(line, "hello");
                network::endloop();
                Ok(())
            });
        });
        run_loop();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to("by name", at(udp)).unwrap();
        socket.connect(at(udp)).unwrap();
        socket.send("connected").unwrap();
        let server = Server::builder().tls(false).address("127.0.0.1").bind(0).unwrap();
        let client = builder().connect(("127.0.0.1", server.port())).unwrap();
        drop((server.accept().unwrap(), client));
    });
}

#[test]
fn a_library_that_redirects_connections_is_asked_for_each() {
    if let Some(ports) = part() {
        return talk(&ports);
    }
    let directory = TempDir::new();
    let library = preload(&directory, SHIM);
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = StdUdp::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(LIMIT)).unwrap();
    let ports = format!("{} {}", tcp.local_addr().unwrap().port(), udp.local_addr().unwrap().port());
    let greeter = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut client, _) = tcp.accept().unwrap();
            client.write_all(b"hello\n").unwrap();
            let _ = client.read(&mut [0]);
        }
    });
    let mut talker = again("a_library_that_redirects_connections_is_asked_for_each", &ports);
    let output = run(talker.env("LD_PRELOAD", library), "");
    assert!(output.status.success(), "{output:?}");
    greeter.join().unwrap();
    for expected in ["by name", "connected"] {
        let mut datagram = [0; 16];
        let count = udp.recv(&mut datagram).unwrap();
        assert_eq!(&datagram[..count], expected.as_bytes());
    }
    for call in ["socket", "bind", "listen", "accept", "connect", "sendto"] {
        assert!(output.stderr.lines().any(|line| line == call), "{call}: {}", output.stderr);
    }
}

/// A sandbox that knows no IPv6.
const SANDBOX: &str = r#"
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <errno.h>
    #include <stdlib.h>
    #include <sys/socket.h>

    int socket(int family, int kind, int protocol) {
        if (family == AF_INET6) {
            errno = atoi(getenv("NETWORK_TEST_PART"));
            return -1;
        }
        return ((__typeof__(&socket))dlsym(RTLD_NEXT, "socket"))(family, kind, protocol);
    }
"#;

#[test]
fn where_a_sandbox_forbids_ipv6_a_server_listens_on_ipv4() {
    if part().is_some() {
        return on_own_context(|| {
            let server = Server::builder().tls(false).bind(0).unwrap();
            let client = Socket::builder().tls(false).connect(("127.0.0.1", server.port())).unwrap();
            drop((server.accept().unwrap(), client));
            assert!(UdpSocket::bind(0).unwrap().local().to_string().starts_with("0.0.0.0:"));
            // A family that was asked for by name is not replaced by the other.
            assert!(Server::builder().tls(false).bind("[::1]:0").is_err());
        });
    }
    let directory = TempDir::new();
    let library = preload(&directory, SANDBOX);
    for error in [libc::EACCES, libc::EPERM, libc::EAFNOSUPPORT] {
        let mut child = again("where_a_sandbox_forbids_ipv6_a_server_listens_on_ipv4", &error.to_string());
        let output = run(child.env("LD_PRELOAD", &library), "");
        assert!(output.status.success(), "{error}: {output:?}");
    }
}

#[test]
fn a_descriptor_that_was_not_passed_is_not_taken_for_one_that_was() {
    if part().is_some() {
        return on_own_context(|| {
            // As after an exec: the environment speaks of descriptors from 3 on, of which this one has a number now.
            let own = TcpListener::bind("127.0.0.1:0").unwrap();
            assert!((3..67).contains(&own.as_raw_fd()));
            let refused = Server::builder().tls(false).bind(own.local_addr().unwrap());
            assert!(matches!(refused, Err(Error::InUse { .. })), "{refused:?}");
            let _client = std::net::TcpStream::connect(own.local_addr().unwrap()).unwrap();
            own.accept().unwrap();
        });
    }
    let child = again("a_descriptor_that_was_not_passed_is_not_taken_for_one_that_was", "exec");
    let mut shell = command("/bin/sh", ["-c", r#"LISTEN_PID=$$ LISTEN_FDS=64 exec "$@""#, "sh"]);
    shell.arg(child.get_program()).args(child.get_args()).env(PART, "exec");
    let output = run(&mut shell, "");
    assert!(output.status.success(), "{}", output.stderr);
}
