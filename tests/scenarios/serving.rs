//! Servers: where they listen, whom they list, what they survive.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use network::{Endpoint, Error, Server, Socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::common::LIMIT;
use crate::util::*;

fn reaches(address: &str) -> bool {
    try_connect(Socket::builder().tls(false), address).is_ok()
}

#[test]
fn by_default_every_address_of_this_machine_reaches_it() {
    on_own_context(|| {
        let remotes = Log::<Endpoint>::new();
        let log = remotes.clone();
        let server = Server::builder().tls(false).listen(0, move |socket| {
            log.add(socket.remote());
            Ok(())
        });
        let port = server.as_ref().unwrap().port();
        assert!(reaches(&format!("127.0.0.1:{port}")));
        assert!(reaches(&format!("127.0.0.2:{port}")));
        assert!(reaches(&format!("{port}")));
        assert!(reaches(&format!("localhost:{port}")));
        if has_ipv6() {
            assert!(reaches(&format!("[::1]:{port}")));
        }
        until(|| remotes.len() >= 4);
        let v4 = remotes.all().iter().filter(|remote| remote.inet().unwrap().is_ipv4()).count();
        assert!(v4 >= 2, "an IPv4 client shows as one");
    });
}

fn has_ipv6() -> bool {
    std::net::TcpListener::bind("[::1]:0").is_ok()
}

#[test]
fn an_address_narrows_it() {
    on_own_context(|| {
        let server = Server::builder().tls(false).address("127.0.0.1").listen(0, |_| Ok(())).unwrap();
        assert!(reaches(&format!("127.0.0.1:{}", server.port())));
        assert!(!reaches(&format!("127.0.0.2:{}", server.port())));
        assert!(!reaches(&format!("[::1]:{}", server.port())));

        let server = Server::builder().tls(false).address("0.0.0.0").listen(0, |_| Ok(())).unwrap();
        assert!(reaches(&format!("127.0.0.2:{}", server.port())));
        assert!(!reaches(&format!("[::1]:{}", server.port())));

        let server = Server::builder().tls(false).address("localhost").listen(0, |_| Ok(())).unwrap();
        assert!(reaches(&format!("127.0.0.1:{}", server.port())));
        assert!(!reaches(&format!("127.0.0.2:{}", server.port())));
        assert_eq!(reaches(&format!("[::1]:{}", server.port())), has_ipv6());

        let server = Server::builder().tls(false).listen("127.0.0.1:0", |_| Ok(())).unwrap();
        assert!(matches!(server.local()[..], [Endpoint::Inet(address)] if address.ip().to_string() == "127.0.0.1"));

        for wrong in ["example.org", "1.2.3.4.5", "localhost:1", "/tmp"] {
            let result = Server::builder().tls(false).address(wrong).listen(0, |_| Ok(()));
            assert!(matches!(result, Err(Error::Address { .. })), "{wrong}");
        }
        let both = Server::builder().tls(false).address("127.0.0.1").listen("localhost:0", |_| Ok(()));
        assert!(matches!(both, Err(Error::Address { .. })));
    });
}

#[test]
fn a_taken_address_says_so() {
    on_own_context(|| {
        let server = Server::builder().tls(false).listen(0, |_| Ok(())).unwrap();
        let error = Server::builder().tls(false).listen(server.port(), |_| Ok(())).unwrap_err();
        assert!(matches!(error, Error::InUse { .. }), "{error}");
        assert!(error.to_string().contains(&server.port().to_string()), "{error}");

        let path = fresh_path("taken");
        std::fs::write(&path, "precious").unwrap();
        let error = Server::builder().tls(false).listen(path.as_path(), |_| Ok(())).unwrap_err();
        assert!(matches!(error, Error::InUse { .. }), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_file(path).unwrap();
    });
}

#[test]
fn a_unix_path_is_removed_on_close_if_it_is_still_the_servers_own() {
    on_own_context(|| {
        let path = fresh_path("own");
        let server = Server::builder().tls(false).listen(path.as_path(), |_| Ok(())).unwrap();
        assert!(path.exists());
        server.close();
        assert!(!path.exists());

        let server = Server::builder().tls(false).listen(path.as_path(), |_| Ok(())).unwrap();
        drop(server);
        assert!(!path.exists());

        let first = Server::builder().tls(false).listen(path.as_path(), |_| Ok(())).unwrap();
        std::fs::remove_file(&path).unwrap();
        let second = Server::builder().tls(false).listen(path.as_path(), |_| Ok(())).unwrap();
        first.close();
        assert!(path.exists(), "it is another server's by now");
        assert!(Socket::connect(path.as_path()).is_ok());
        drop(second);
    });
}

#[test]
fn closing_leaves_the_live_connections_alone() {
    for_each_kind(|kind| {
        let (server, address) = serve(kind, |socket| {
            socket.readlines(|socket, line| socket.sendline(line));
            Ok(())
        });
        let client = connect(&address);
        let lines = log_lines(&client);
        until(|| server.connections().len() == 1);
        server.close();
        server.close();
        assert!(!server.is_open());
        assert!(!reaches(&address));
        client.sendline("still here").unwrap();
        until(|| lines.len() == 1);
        assert_eq!(server.connections().len(), 1);
    });
}

#[test]
fn the_last_handle_stops_it_unless_it_is_kept() {
    for_each_kind(|kind| {
        let (server, address) = serve(kind, |_| Ok(()));
        let other = server.clone();
        drop(server);
        assert!(reaches(&address));
        drop(other);
        assert!(!reaches(&address));

        let (server, address) = serve(kind, |_| Ok(()));
        let weak = server.downgrade();
        server.detach();
        drop(server);
        assert!(reaches(&address));
        weak.upgrade().unwrap().close();
        assert!(weak.upgrade().is_none());
        assert!(!reaches(&address));
    });
}

#[test]
fn it_holds_its_connections_until_they_end() {
    for_each_kind(|kind| {
        let (server, address) = serve(kind, |_| Ok(()));
        let client = connect(&address);
        until(|| server.connections().len() == 1);
        let ends = log_end(&client);
        settle();
        assert_eq!(ends.len(), 0, "nobody but the server holds it");
        drop(server);
        until(|| ends.len() == 1);
    });
}

#[test]
fn an_error_of_obj_closes_that_connection() {
    for_each_kind(|kind| {
        let first = Cell::new(true);
        let (server, address) = serve(kind, move |socket| {
            if first.replace(false) {
                return Err(Error::other("not you"));
            }
            socket.sendline("welcome")
        });
        let refused = connect(&address);
        let ends = log_end(&refused);
        until(|| ends.len() == 1);
        let welcome = connect(&address);
        let lines = log_lines(&welcome);
        until(|| lines.len() == 1);
        assert_eq!(server.connections().len(), 1);
    });
}

#[test]
fn a_limit_on_connections_makes_the_others_wait() {
    on_own_context(|| {
        let server =
            Server::builder().tls(false).max_connections(2).listen(0, |socket| socket.sendline("welcome")).unwrap();
        let address = format!("tcp://localhost:{}", server.port());
        let clients: Vec<Socket> = (0..4).map(|_| connect(&address)).collect();
        let welcomed: Vec<_> = clients.iter().map(log_lines).collect();
        until(|| welcomed.iter().filter(|lines| lines.len() == 1).count() == 2);
        settle();
        assert_eq!(server.connections().len(), 2);
        assert_eq!(welcomed[2].len() + welcomed[3].len(), 0);
        let _ = clients[0].close();
        let _ = clients[1].close();
        until(|| welcomed[2].len() + welcomed[3].len() == 2);
    });
}

/// A user's shell allows 1024 descriptors, and more to those that ask.
fn allow_many_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

#[test]
fn a_thousand_connections_at_once() {
    allow_many_descriptors();
    for_each_kind(|kind| {
        const CLIENTS: usize = 1000;
        // A busy machine may need longer for a thousand handshakes than one of them usually gets, and where the backlog overflows,
        // the kernel resets clients of which it has forgotten that they are connected.
        let patient = server(kind).handshake_timeout(LIMIT).backlog(CLIENTS as u32);
        let (server, address) = serve_with(patient, kind, |socket| {
            socket.readlines(|socket, line| socket.sendline(format!("you said {line}")));
            Ok(())
        });
        let answers = Rc::new(Cell::new(0));
        let clients = Rc::new(RefCell::new(Vec::new()));
        for n in 0..CLIENTS {
            let answers = answers.clone();
            let clients = clients.clone();
            let client = client(kind).handshake_timeout(LIMIT);
            client.connect_async(address.as_str(), gio::Cancellable::NONE, move |socket| {
                let socket = socket.unwrap();
                socket.sendline(format!("hello {n}")).unwrap();
                socket.readlines(move |_, line| {
                    assert_eq!(line, format!("you said hello {n}"));
                    answers.set(answers.get() + 1);
                    Ok(())
                });
                clients.borrow_mut().push(socket);
            });
        }
        until(|| answers.get() == CLIENTS);
        assert_eq!(server.connections().len(), CLIENTS);
        for client in clients.take() {
            let _ = client.close();
        }
        until(|| server.connections().is_empty());
    });
}

#[test]
fn small_answers_do_not_wait_for_acknowledgements() {
    on_own_context(|| {
        let Joined { client, served, server: _server } = join(Kind::Tcp);
        for socket in [&client, &served] {
            assert!(rustix::net::sockopt::tcp_nodelay(socket).unwrap());
        }
    });
}

#[test]
fn descriptors_are_not_inherited_by_children() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        for socket in [&client, &served] {
            assert!(rustix::io::fcntl_getfd(socket).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        }
    });
}

#[test]
fn connections_are_listed_oldest_first_whoever_has_left() {
    on_own_context(|| {
        let numbers = Rc::new(RefCell::new(Vec::new()));
        let (server, address) = serve(Kind::Unix, |_| Ok(()));
        let mut clients = Vec::new();
        for n in 0..20usize {
            clients.push(Some(connect(&address)));
            until(|| server.connections().len() == n + 1);
            numbers.borrow_mut().push(server.connections()[n].clone());
        }
        // Those in the middle leave first, then others here and there.
        let mut left: Vec<usize> = (0..20).collect();
        for gone in (5..15).chain([0, 19, 3, 16, 1, 2]) {
            numbers.borrow()[gone].close();
            clients[gone] = None;
            left.retain(|n| *n != gone);
            until(|| server.connections().len() == left.len());
            let expected: Vec<_> = left.iter().map(|n| numbers.borrow()[*n].clone()).collect();
            assert!(server.connections() == expected, "after {gone} has gone");
        }
        connect(&address);
        until(|| server.connections().len() <= 5);
    });
}

#[test]
fn the_disconnect_callback_can_be_set_and_unset_while_it_listens() {
    for_each_kind(|kind| {
        let (server, address) = serve(kind, |_| Ok(()));
        let told = Rc::new(Cell::new(0));
        let tell = |amount| {
            let told = told.clone();
            move |_: &Socket, _| told.set(told.get() + amount)
        };
        let open = || {
            let client = connect(&address);
            until(|| !server.connections().is_empty());
            client
        };
        let close = |client: Socket| {
            client.close();
            until(|| server.connections().is_empty());
        };
        // Open already when it is set.
        let client = open();
        server.disconnect_cb(tell(1));
        close(client);
        assert_eq!(told.get(), 1);
        close(open());
        assert_eq!(told.get(), 2);
        server.disconnect_cb(tell(10));
        close(open());
        assert_eq!(told.get(), 12);
        // A connection's own comes first.
        let client = open();
        server.connections()[0].disconnect_cb(tell(100));
        close(client);
        assert_eq!(told.get(), 112);
        let client = open();
        server.unset_disconnect_cb();
        close(client);
        close(open());
        assert_eq!((told.get(), Rc::strong_count(&told)), (112, 1), "and it is dropped");
    });
}

#[test]
fn sockets_that_listen_already_are_served() {
    on_own_context(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let builder = server(Kind::Tls);
        let server = builder.listen_fd(listener, |socket| socket.sendline("welcome")).unwrap();
        assert_eq!(server.port(), port);
        let client = connect(&format!("tls://localhost:{port}"));
        let lines = log_lines(&client);
        until(|| lines.len() == 1);

        let path = fresh_path("listener");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server = Server::try_from(listener).unwrap();
        let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        std::io::Write::write_all(&mut client, b"hello\n").unwrap();
        assert_eq!(server.accept().unwrap().recv_line().unwrap(), "hello");
        server.close();
        assert!(path.exists(), "it is not the server's own");
        std::fs::remove_file(&path).unwrap();
    });
}

#[test]
fn what_does_not_listen_or_came_too_late_is_refused() {
    on_own_context(|| {
        let plain = || Server::builder().tls(false);
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let error = plain().bind_fd(udp).unwrap_err();
        assert!(error.to_string().contains("expected a listening stream socket"), "{error}");
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(plain().bind_fd(file), Err(Error::Io { .. })));
        let late =
            [plain().address("127.0.0.1"), plain().reuse_port(true), plain().mode(0o600), plain().replace_stale(true)];
        for builder in late {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let error = builder.bind_fd(listener).unwrap_err();
            assert!(matches!(error, Error::InvalidOption(_)), "{error}");
        }
        // With these nobody could connect, however it listens.
        let never = [plain().max_connections(0), plain().max_handshakes(0), plain().max_handshakes_per_address(0)];
        for builder in never {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            assert!(matches!(builder.clone().bind_fd(listener), Err(Error::InvalidOption(_))));
            assert!(matches!(builder.clone().bind("127.0.0.1:0"), Err(Error::InvalidOption(_))));
            let threads = builder.threads(1, || |_: network::Socket| Ok(()));
            assert!(matches!(threads.listen("127.0.0.1:0"), Err(Error::InvalidOption(_))));
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(matches!(plain().service_name("name").bind_fd(listener), Err(Error::Address { .. })));
    });
}

#[test]
#[allow(clippy::mutable_key_type, reason = "the hash is that of its address in memory")]
fn a_server_lends_its_descriptor_and_has_a_place_in_sets() {
    use std::os::fd::AsFd;
    on_own_context(|| {
        let builder = server(Kind::Tcp).address("127.0.0.1");
        let (one, other) = (builder.clone().bind(0).unwrap(), builder.bind(0).unwrap());
        assert_ne!(one.port(), other.port(), "a builder can be used again");
        let servers = std::collections::HashSet::from([one.clone(), other.clone(), one.clone()]);
        assert!(servers.len() == 2 && servers.contains(&one));
        let local =
            || rustix::net::getsockname(one.as_fd()).ok().and_then(|local| std::net::SocketAddr::try_from(local).ok());
        assert_eq!(local().unwrap().port(), one.port());
        one.close();
        assert!(local().is_none() && rustix::fs::fstat(one.as_fd()).is_ok(), "a number that nobody else gets");
    });
}
