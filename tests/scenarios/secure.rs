//! TLS as its users meet it: who is trusted, what is told, what it costs others.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use gio::prelude::*;
use network::{
    ClientTls, Error, Server, ServerTls, Socket,
    tls::{self, Fingerprint, Identity, Trust},
};

use crate::util::*;

/// A user of this machine, with certificates and pins of their own.
struct User(tempfile::TempDir);

impl User {
    fn new() -> Self {
        User(tempfile::tempdir().unwrap())
    }

    fn serves(&self) -> ServerTls {
        ServerTls::new().directory(self.0.path())
    }

    fn trusts(&self, how: ClientTls) -> ClientTls {
        how.directory(self.0.path())
    }

    fn identity(&self, name: &str) -> Identity {
        Identity::named_in(self.0.path(), name).unwrap()
    }
}

fn echo(tls: ServerTls) -> Server {
    Server::builder()
        .tls(tls)
        .listen(0, |socket| {
            socket.readlines(|socket, line| socket.sendline(line));
            Ok(())
        })
        .unwrap()
}

#[track_caller]
fn connect_with(tls: ClientTls, server: &Server) -> network::Result<Socket> {
    try_connect(Socket::builder().tls(tls), &format!("localhost:{}", server.port()))
}

#[track_caller]
fn talks(socket: &Socket) {
    let lines = log_lines(socket);
    socket.sendline("hello").unwrap();
    until(|| lines.len() == 1);
}

#[test]
fn one_users_client_and_server_need_no_set_up() {
    on_own_context(|| {
        let user = User::new();
        let server = echo(user.serves());
        let socket = connect_with(user.trusts(ClientTls::new()), &server).unwrap();
        talks(&socket);
        assert!(socket.is_tls());
        assert_eq!(socket.tls_version(), Some("TLSv1.3"));
        assert!(socket.cipher_suite().unwrap().starts_with("TLS_"));
        assert!(socket.peer_fingerprint().is_some());
        let served = server.connections().remove(0);
        assert_eq!(served.peer_fingerprint(), None, "clients show no certificate unless told to");
        assert_eq!(served.tls_version(), Some("TLSv1.3"));
    });
}

#[test]
fn a_stranger_is_refused_with_the_fingerprint_that_would_pin_it() {
    on_own_context(|| {
        let (stranger, user) = (User::new(), User::new());
        let server = echo(stranger.serves());
        let error = connect_with(user.trusts(ClientTls::new()), &server).unwrap_err();
        let Error::UnknownCertificate { fingerprint, .. } = &error else { panic!("{error}") };
        assert!(error.to_string().contains(&fingerprint.to_string()), "{error}");
        assert!(server.connections().is_empty());
        let socket = connect_with(ClientTls::pinned(fingerprint), &server).unwrap();
        talks(&socket);
        assert_eq!(socket.peer_fingerprint(), Some(**fingerprint));

        let other = echo(User::new().serves());
        let error = connect_with(ClientTls::pinned(fingerprint), &other).unwrap_err();
        assert!(matches!(error, Error::CertificateChanged { .. }), "{error}");
        assert!(matches!(connect_with(ClientTls::pinned("nonsense"), &server), Err(Error::TlsSettings(_))));
        talks(&connect_with(ClientTls::danger_accept_any(), &server).unwrap());
    });
}

#[test]
fn settings_that_cannot_work_are_told_before_anybody_is_called() {
    on_own_context(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        for (settings, problem) in [
            (
                ClientTls::pinned("abc"),
                r#"invalid fingerprint "abc": expected 64 hexadecimal digits, optionally separated by colons"#,
            ),
            (ClientTls::roots("no certificate"), "certificate"),
            (ClientTls::new().alpn([""]), "invalid ALPN list: a protocol name must not be empty"),
            (ClientTls::new().alpn(["x".repeat(256)]), "a protocol name has 256 bytes; at most 255 are possible"),
            (ClientTls::new().server_name("no name"), r#"invalid server name "no name""#),
        ] {
            let builder = || Socket::builder().tls(settings.clone());
            let future = builder().connect_future(format!("127.0.0.1:{port}"));
            for result in [
                builder().connect(format!("127.0.0.1:{port}")),
                try_connect(builder(), &format!("127.0.0.1:{port}")),
                glib::MainContext::ref_thread_default().block_on(future),
                // Nor is anything looked up.
                builder().connect("no.such.host.invalid:1"),
            ] {
                assert!(matches!(result, Err(Error::TlsSettings(_))), "{result:?}");
                let text = result.unwrap_err().to_string();
                assert!(text.starts_with("invalid TLS configuration: ") && text.contains(problem), "{text}");
            }
        }
        assert!(listener.accept().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    });
}

#[test]
fn first_use_pins_and_a_change_is_told() {
    on_own_context(|| {
        let user = User::new();
        let server = echo(User::new().serves());
        let port = server.port();
        talks(&connect_with(user.trusts(ClientTls::on_first_use()), &server).unwrap());
        talks(&connect_with(user.trusts(ClientTls::new()), &server).unwrap());
        drop(server);
        let server = Server::builder().tls(User::new().serves()).listen(port, |_| Ok(())).unwrap();
        for trust in [ClientTls::on_first_use(), ClientTls::new()] {
            let error = connect_with(user.trusts(trust), &server).unwrap_err();
            assert!(matches!(error, Error::CertificateChanged { .. }), "{error}");
        }
    });
}

#[test]
fn of_several_addresses_the_one_that_answers_is_pinned() {
    on_own_context(|| {
        let user = User::new();
        let pins = || -> Vec<_> {
            let entries = std::fs::read_dir(user.0.path().join("peers")).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        let server = Server::builder().tls(User::new().serves()).listen("127.0.0.2:0", |_| Ok(())).unwrap();
        let port = server.port();
        let at = |last: u8| std::net::SocketAddr::from(([127, 0, 0, last], port));
        for addresses in [[at(3), at(2)], [at(2), at(3)]] {
            let tls = user.trusts(ClientTls::on_first_use());
            let result = Rc::new(RefCell::new(None));
            let done = result.clone();
            let connected = move |outcome| drop(done.replace(Some(outcome)));
            Socket::builder().tls(tls).connect_async(&addresses[..], gio::Cancellable::NONE, connected);
            until(|| result.borrow().is_some());
            result.take().unwrap().unwrap();
            assert_eq!(pins(), [format!("127.0.0.2:{port}")]);
        }
        // The same peer, written otherwise.
        let tls = user.trusts(ClientTls::on_first_use());
        try_connect(Socket::builder().tls(tls), &format!("[::ffff:127.0.0.2]:{port}")).unwrap();
        assert_eq!(pins(), [format!("127.0.0.2:{port}")]);
    });
}

#[test]
fn another_server_on_another_loopback_address_has_another_pin() {
    on_own_context(|| {
        let (user, one, two) = (User::new(), User::new(), User::new());
        let first = Server::builder().tls(one.serves()).listen("127.0.0.1:0", |_| Ok(())).unwrap();
        let port = first.port();
        let _second = Server::builder().tls(two.serves()).listen(("127.0.0.2", port), |_| Ok(())).unwrap();
        for _ in 0..2 {
            for host in ["127.0.0.1", "127.0.0.2"] {
                let tls = user.trusts(ClientTls::on_first_use());
                try_connect(Socket::builder().tls(tls), &format!("{host}:{port}")).unwrap();
            }
        }
    });
}

#[test]
fn clients_may_be_known_by_their_fingerprints() {
    on_own_context(|| {
        let user = User::new();
        let (friend, foe) = (user.identity("friend"), user.identity("foe"));
        let server = echo(user.serves().require_client_certificate().allow([friend.fingerprint()]));
        let socket = connect_with(user.trusts(ClientTls::new()).identity(friend.clone()), &server).unwrap();
        talks(&socket);
        assert_eq!(server.connections().remove(0).peer_fingerprint(), Some(friend.fingerprint()));

        // In TLS 1.3 a client is done before the server has judged it: it learns as the reason of the end.
        for tls in [user.trusts(ClientTls::new()).identity(foe), user.trusts(ClientTls::new())] {
            let told = match connect_with(tls, &server) {
                Err(error) => error.to_string(),
                Ok(socket) => {
                    let ends = log_end(&socket);
                    socket.readlines(|_, _| Ok(()));
                    until(|| ends.len() == 1);
                    ends.all().remove(0).0
                }
            };
            assert!(told.contains("rejected the TLS handshake"), "{told}");
        }
        assert_eq!(server.connections().len(), 1);
    });
}

#[test]
fn protocols_are_agreed_on() {
    on_own_context(|| {
        let user = User::new();
        let server = echo(user.serves().alpn(["b", "c"]));
        let socket = connect_with(user.trusts(ClientTls::new()).alpn(["a", "b"]), &server).unwrap();
        assert_eq!(socket.alpn().as_deref(), Some(&b"b"[..]));
        let error = connect_with(user.trusts(ClientTls::new()).alpn(["a"]), &server).unwrap_err();
        assert!(error.to_string().contains("ALPN"), "{error}");
    });
}

#[test]
fn a_fingerprint_is_a_setting() {
    on_own_context(|| {
        let user = User::new();
        let (identity, other) = (user.identity("desk"), user.identity("other"));
        let server = echo(identity.clone().into());
        let own = identity.fingerprint();
        let text = own.to_string();
        let peer = format!("localhost:{}", server.port());
        let list = vec![own];
        for tls in [
            own.into(),
            ClientTls::pinned(own),
            ClientTls::pinned(list.first().unwrap()),
            ClientTls::pinned(Box::new(own)),
        ] {
            talks(&connect_with(tls, &server).unwrap());
        }
        for tls in [ClientTls::pinned(&*text), ClientTls::pinned(&text), ClientTls::pinned(text.clone())] {
            talks(&connect_with(tls, &server).unwrap());
        }
        talks(&try_connect(Socket::builder().tls(own), &peer).unwrap());
        let error = try_connect(Socket::builder().tls(other.fingerprint()), &peer).unwrap_err();
        assert!(matches!(error, Error::CertificateChanged { .. }), "{error}");
        // Whatever has the form of one can be on a list.
        let _lists = [
            ServerTls::new().allow([own]),
            ServerTls::new().allow(&list),
            ServerTls::new().allow([text.as_str()].iter()),
            ServerTls::new().allow(vec![text]),
        ];
    });
}

#[test]
fn sessions_resume() {
    on_own_context(|| {
        let user = User::new();
        let server = echo(user.serves());
        // Right after the certificate was made nothing is cached: its file's time would not show another change.
        let resumed = Rc::new(Cell::new(false));
        until(|| {
            resumed.get() || {
                let socket = connect_with(user.trusts(ClientTls::new()), &server).unwrap();
                talks(&socket);
                resumed.set(socket.is_tls_resumed());
                // Nothing else wakes the loop for another try.
                resumed.get() || soon()
            }
        });
    });
}

#[test]
fn who_does_not_speak_tls_is_dropped_and_costs_nobody_else_anything() {
    on_own_context(|| {
        let user = User::new();
        let server = Server::builder()
            .tls(user.serves())
            .handshake_timeout(Duration::from_millis(300))
            .listen(0, |socket| {
                socket.readlines(|socket, line| socket.sendline(line));
                Ok(())
            })
            .unwrap();
        let port = server.port();
        let strangers: Vec<_> = [&b"GET / HTTP/1.0\r\n\r\n"[..], b"\x00\xff\xfe garbage", b"\x16\x03\x01\xff\xff", b""]
            .into_iter()
            .map(|words| {
                std::thread::spawn(move || {
                    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
                    stream.write_all(words).unwrap();
                    let mut answer = Vec::new();
                    // An alert, the end, or a reset.
                    let _ = stream.read_to_end(&mut answer);
                    answer.len()
                })
            })
            .collect();
        talks(&connect_with(user.trusts(ClientTls::new()), &server).unwrap());
        until(|| strangers.iter().all(|thread| thread.is_finished()) || soon());
        for thread in strangers {
            assert!(thread.join().unwrap() < 100);
        }
        talks(&connect_with(user.trusts(ClientTls::new()), &server).unwrap());
        assert!(server.connections().iter().all(Socket::is_tls));
    });
}

/// Looks again in a moment: threads and times of files are no events.
fn soon() -> bool {
    let wake = glib::source::timeout_source_new(Duration::from_millis(2), None, glib::Priority::DEFAULT, || {
        glib::ControlFlow::Break
    });
    wake.attach(Some(&glib::MainContext::ref_thread_default()));
    false
}

#[test]
fn a_server_without_tls_is_found_out() {
    on_own_context(|| {
        let (server, _) = serve(Kind::Tcp, |socket| socket.sendline("Welcome to this server!"));
        let error = connect_with(User::new().trusts(ClientTls::new()), &server).unwrap_err();
        assert!(matches!(error, Error::Plaintext { .. }), "{error}");
        assert!(error.to_string().contains("tls(false)"), "{error}");
    });
}

#[test]
fn a_client_without_tls_is_told_that_the_server_expects_it() {
    on_own_context(|| {
        let builder = server(Kind::Tls).handshake_timeout(Duration::from_millis(100));
        let (_server, address) = serve_with(builder, Kind::Tls, |_| Ok(()));
        let address = address.replace("tls://", "tcp://");
        // One waits to be greeted, the other begins.
        for begins in [false, true] {
            let client = connect(&address);
            if begins {
                client.sendline("hello").unwrap();
            }
            let outcome = Rc::new(RefCell::new(None));
            let (place, asked) = (outcome.clone(), client.clone());
            glib::MainContext::ref_thread_default().spawn_local(async move {
                place.replace(Some(asked.recv_line_future().await));
            });
            until(|| outcome.borrow().is_some());
            let error = outcome.take().unwrap().unwrap_err();
            assert!(matches!(&error, Error::Tls { .. }) && error.to_string().contains("expects TLS"), "{error}");
            let error = client.recv_line().unwrap_err();
            assert!(error.to_string().contains("expects TLS"), "{error}");
        }
    });
}

#[test]
fn a_silent_server_runs_into_the_time_limit() {
    on_own_context(|| {
        let (server, _) = serve(Kind::Tcp, |_| Ok(()));
        let user = User::new();
        let builder = Socket::builder().tls(user.trusts(ClientTls::new())).handshake_timeout(Duration::from_millis(50));
        let error = try_connect(builder, &format!("localhost:{}", server.port())).unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        assert!(error.to_string().contains("a server without TLS never answers"), "{error}");
    });
}

#[test]
fn a_hand_shake_can_be_cancelled() {
    on_own_context(|| {
        let (server, _) = serve(Kind::Tcp, |socket| {
            socket.read(|_, _| Ok(()));
            Ok(())
        });
        let address = format!("localhost:{}", server.port());
        let user = User::new();
        let builder = || Socket::builder().tls(user.trusts(ClientTls::new()));
        let cancellable = gio::Cancellable::new();
        let outcome = Rc::new(RefCell::new(None));
        let place = outcome.clone();
        builder().connect_async(address.as_str(), Some(&cancellable), move |result| {
            place.replace(Some(result));
        });
        until(|| !server.connections().is_empty());
        settle();
        cancellable.cancel();
        until(|| outcome.borrow().is_some());
        assert!(matches!(outcome.take().unwrap(), Err(Error::Cancelled { .. })));
        until(|| server.connections().is_empty());

        let context = glib::MainContext::ref_thread_default();
        let connecting = builder().connect_future(address);
        let task = context.spawn_local(async move { connecting.await.map(drop) });
        until(|| !server.connections().is_empty());
        task.abort();
        drop(task);
        until(|| server.connections().is_empty());
    });
}

#[test]
fn a_server_that_goes_during_a_hand_shake_leaves_nothing_behind() {
    on_own_context(|| {
        let server = echo(User::new().serves());
        let port = server.port();
        let mut stranger = TcpStream::connect(("127.0.0.1", port)).unwrap();
        settle();
        drop(server);
        // The handshake itself goes on, or ends; no program is there to see it.
        stranger.write_all(b"no hello").unwrap();
        settle();
        let mut answer = Vec::new();
        stranger.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let _ = stranger.read_to_end(&mut answer);
        assert!(answer.len() < 100);
    });
}

#[test]
fn hand_shakes_at_a_time_are_limited() {
    on_own_context(|| {
        let user = User::new();
        let server = Server::builder()
            .tls(user.serves())
            .max_handshakes(2)
            .handshake_timeout(Duration::from_millis(200))
            .listen(0, |socket| socket.sendline("welcome"))
            .unwrap();
        // Two that say nothing take the places, for as long as they may.
        let _silent: Vec<_> = (0..2).map(|_| TcpStream::connect(("127.0.0.1", server.port())).unwrap()).collect();
        let started = Instant::now();
        let socket = connect_with(user.trusts(ClientTls::new()), &server).unwrap();
        assert!(started.elapsed() >= Duration::from_millis(150), "{:?}", started.elapsed());
        let lines = log_lines(&socket);
        until(|| lines.len() == 1);
    });
}

#[test]
fn a_blocking_connect_works_with_a_server_of_another_thread_only() {
    let user = User::new();
    let (send_port, port) = std::sync::mpsc::channel();
    let tls = user.serves();
    let thread = std::thread::spawn(move || {
        on_own_context(|| {
            let server = Server::builder()
                .tls(tls)
                .disconnect_cb(|_, _| network::endloop())
                .listen(0, |socket| {
                    socket.readlines(|socket, line| socket.sendline(line.to_uppercase()));
                    Ok(())
                })
                .unwrap();
            send_port.send(server.port()).unwrap();
            assert!(!network::fgloop_for(Duration::from_secs(20)));
        });
    });
    on_own_context(|| {
        let port = port.recv().unwrap();
        let builder = || Socket::builder().tls(user.trusts(ClientTls::new())).timeout(Duration::from_secs(10));
        let socket = builder().connect(port).unwrap();
        socket.sendline("hello").unwrap();
        assert_eq!(socket.recv_line().unwrap(), "HELLO");
        socket.send("half a line").unwrap();
        drop(socket);
        thread.join().unwrap();

        let own = echo(user.serves());
        let error = builder().connect(own.port()).unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)), "{error}");
        assert!(error.to_string().contains("connect_async"), "{error}");
    });
}

#[test]
fn clients_of_a_program_that_ends_know_that_nothing_is_missing() {
    let user = User::new();
    let (send_port, port) = std::sync::mpsc::channel();
    let tls = user.serves();
    let thread = std::thread::spawn(move || {
        on_own_context(|| {
            let serve = |socket: Socket| {
                socket.readlines(|socket, line| if line == "end" { end_loop() } else { socket.sendline(line) });
                Ok(())
            };
            let server = Server::builder().tls(tls).listen(0, serve).unwrap();
            send_port.send(server.port()).unwrap();
            assert!(!network::fgloop_for(Duration::from_secs(20)));
            // As by a signal: nobody closes the connections.
        });
    });
    on_own_context(|| {
        let port = port.recv().unwrap();
        let builder = || Socket::builder().tls(user.trusts(ClientTls::new())).timeout(Duration::from_secs(10));
        let (idle, socket) = (builder().connect(port).unwrap(), builder().connect(port).unwrap());
        for socket in [&idle, &socket] {
            socket.sendline("hello").unwrap();
            assert_eq!(socket.recv_line().unwrap(), "hello");
        }
        socket.sendline("end").unwrap();
        for socket in [socket, idle] {
            let error = socket.recv(1).unwrap_err();
            assert!(matches!(error, Error::Closed { .. }), "{error}");
        }
        thread.join().unwrap();
    });
}

fn end_loop() -> network::Result {
    network::endloop();
    Ok(())
}

#[test]
fn tls_is_never_used_on_unix_sockets_nor_silently_left_out() {
    on_own_context(|| {
        let path = fresh_path("plain");
        assert!(Server::builder().tls(true).listen(path.as_path(), |_| Ok(())).is_err());
        let server = Server::new(path.as_path(), |_| Ok(())).unwrap();
        assert!(matches!(Socket::builder().tls(true).connect(path.as_path()), Err(Error::Unsupported(_))));
        assert!(!Socket::connect(path.as_path()).unwrap().is_tls());
        drop(server);
    });
}

#[test]
fn megabytes_survive_a_slow_reader_and_the_end() {
    on_own_context(|| {
        let user = User::new();
        let place = Rc::new(RefCell::new(None::<Socket>));
        let held = place.clone();
        let server = Server::builder()
            .tls(user.serves())
            .listen(0, move |socket| {
                held.replace(Some(socket));
                Ok(())
            })
            .unwrap();
        let client = connect_with(user.trusts(ClientTls::new()), &server).unwrap();
        until(|| place.borrow().is_some());
        let sent = pattern(8 << 20);
        client.send(&sent).unwrap();
        let _ = client.close();
        settle();
        let served = place.take().unwrap();
        let ends = log_end(&served);
        let received = Rc::new(RefCell::new(Vec::new()));
        let all = received.clone();
        served.read(move |_, data| {
            all.borrow_mut().extend_from_slice(data);
            Ok(())
        });
        until(|| ends.len() == 1);
        assert_eq!(ends.all()[0].0, "closed by the peer");
        assert!(*received.borrow() == sent);
    });
}

#[test]
fn a_broken_certificate_keeps_a_server_from_starting_and_is_left_as_it_is() {
    on_own_context(|| {
        let user = User::new();
        user.identity("broken");
        let file = user.0.path().join("certs/broken.pem");
        std::fs::write(&file, "not a certificate").unwrap();
        let error = Server::builder().tls(ServerTls::named("broken").directory(user.0.path())).listen(0, |_| Ok(()));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("broken.pem"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "not a certificate");
    });
}

#[test]
fn fingerprints_are_the_same_everywhere() {
    on_own_context(|| {
        let user = User::new();
        let identity = user.identity("same");
        let server = echo(ServerTls::named("same").directory(user.0.path()));
        let socket = connect_with(user.trusts(ClientTls::new()), &server).unwrap();
        let shown: Fingerprint = socket.peer_fingerprint().unwrap();
        assert_eq!(shown, identity.fingerprint());
        assert_eq!(shown.to_string().parse::<Fingerprint>().unwrap(), shown);
    });
}

#[test]
fn who_shakes_hands_with_a_server_that_closes_is_let_go() {
    on_own_context(|| {
        let user = User::new();
        let this = Rc::new(RefCell::new(None::<Server>));
        let closing = this.clone();
        let server = Server::builder().tls(user.serves()).listen(0, move |socket| {
            // One is enough.
            closing.borrow().as_ref().unwrap().close();
            socket.sendline("welcome")
        });
        let address = format!("localhost:{}", server.as_ref().unwrap().port());
        this.replace(server.ok());
        let (welcomed, gone) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        for _ in 0..3 {
            let (welcomed, gone) = (welcomed.clone(), gone.clone());
            let tls = user.trusts(ClientTls::new());
            Socket::builder().tls(tls).connect_async(address.as_str(), gio::Cancellable::NONE, move |result| {
                let Ok(socket) = result else { return gone.set(gone.get() + 1) };
                socket.readlines(move |_, _| {
                    welcomed.set(welcomed.get() + 1);
                    Ok(())
                });
                socket.disconnect_cb(move |_, _| gone.set(gone.get() + 1));
            });
        }
        until(|| gone.get() == 2 && welcomed.get() == 1);
        let server = this.take().unwrap();
        assert_eq!(server.connections().len(), 1);
    });
}

/// Between a client and a server: holds the client's words back, after the first, until it is told to go on, and brings the
/// next in one piece.
fn holding_relay(server: u16) -> (u16, std::sync::mpsc::Sender<()>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (go, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut upstream = TcpStream::connect(("127.0.0.1", server)).unwrap();
        let mut buffer = vec![0; 64 << 10];
        let hello = client.read(&mut buffer).unwrap();
        upstream.write_all(&buffer[..hello]).unwrap();
        let (mut from, mut to) = (upstream.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
        told.recv().unwrap();
        let rest = client.read(&mut buffer).unwrap();
        upstream.write_all(&buffer[..rest]).unwrap();
    });
    (port, go)
}

#[test]
fn what_comes_with_the_last_of_a_hand_shake_is_delivered() {
    on_own_context(|| {
        let user = User::new();
        let server = echo(user.serves());
        for _ in 0..5 {
            let (port, go) = holding_relay(server.port());
            let address = format!("localhost:{port}");
            let client = try_connect(Socket::builder().tls(user.trusts(ClientTls::new())), &address).unwrap();
            let lines = log_lines(&client);
            client.sendline("hello").unwrap();
            go.send(()).unwrap();
            until(|| lines.len() == 1);
            client.abort();
        }
    });
}

#[test]
fn a_question_can_be_asked_and_the_answer_counts() {
    on_own_context(|| {
        let (stranger, user) = (User::new(), User::new());
        let server = echo(stranger.serves());
        let error = connect_with(user.trusts(ClientTls::new()), &server).unwrap_err();
        let Error::UnknownCertificate { peer, fingerprint, certificate, .. } = error else { panic!("{error}") };
        assert_eq!(peer, format!("localhost:{}", server.port()));
        assert_eq!(*fingerprint, certificate.fingerprint());
        assert!(certificate.subject().ends_with("O=glib-network") && certificate.not_after().is_some());

        tls::pin_in(user.0.path(), &peer, fingerprint).unwrap();
        let socket = connect_with(user.trusts(ClientTls::new()), &server).unwrap();
        talks(&socket);
        assert_eq!(socket.peer_certificate(), Some(certificate.clone()));
        assert_eq!(socket.peer_public_key().as_deref(), Some(certificate.public_key()));
        assert_eq!(socket.peer_trust(), Some(Trust::Pin));
        let key = socket.export_key("EXPERIMENTAL-it", "", 16).unwrap();
        let served = server.connections().remove(0);
        assert_eq!(served.export_key("EXPERIMENTAL-it", "", 16).unwrap(), key);
        assert!(served.peer_certificate().is_none() && served.peer_trust().is_none());

        // The answer of somebody else, while the first connection is open.
        tls::pin_in(user.0.path(), ("127.0.0.1", server.port()), Fingerprint::from([7; 32])).unwrap();
        let error = connect_with(user.trusts(ClientTls::new()), &server).unwrap_err();
        assert!(
            matches!(&error, Error::CertificateChanged { certificate: shown, .. } if *shown == certificate),
            "{error}"
        );
        talks(&socket);
        let listed = tls::pins_in(user.0.path()).unwrap();
        assert_eq!(listed.iter().map(|pin| pin.address()).collect::<Vec<_>>(), [&peer]);
        assert!(tls::unpin_in(user.0.path(), server.port()).unwrap());
        let error = connect_with(user.trusts(ClientTls::new()), &server).unwrap_err();
        assert!(matches!(error, Error::UnknownCertificate { .. }), "{error}");
    });
}

#[test]
fn a_connection_without_tls_has_no_peer_and_no_keys() {
    on_own_context(|| {
        let server = Server::builder().tls(false).listen("127.0.0.1:0", |_| Ok(())).unwrap();
        let address = format!("127.0.0.1:{}", server.port());
        let socket = try_connect(Socket::builder().tls(false), &address).unwrap();
        assert!(socket.peer_certificate().is_none() && socket.peer_public_key().is_none());
        assert!(socket.peer_trust().is_none());
        let error = socket.export_key("EXPERIMENTAL-it", "", 16).unwrap_err();
        assert!(matches!(&error, Error::Unsupported(problem) if problem.contains("does not use TLS")), "{error}");
    });
}
