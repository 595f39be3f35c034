//! Options of sockets, the idle and the receive timeout, and descriptors that go along with bytes.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use network::{Error, Server, Socket, socket::KeepAlive};

use crate::util::*;

const KEEP_ALIVE: KeepAlive = KeepAlive { idle: Duration::from_secs(11), interval: Duration::from_secs(3), count: 4 };

#[test]
fn tcp_options_are_set_at_any_time_and_read_back() {
    for kind in [Kind::Tcp, Kind::Tls] {
        on_own_context(|| {
            let Joined { client, server: _server, .. } = join(kind);
            assert_eq!(client.keep_alive().unwrap(), None);
            client.set_keep_alive(KEEP_ALIVE).unwrap();
            assert_eq!(client.keep_alive().unwrap(), Some(KEEP_ALIVE));
            client.set_keep_alive(None).unwrap();
            assert_eq!(client.keep_alive().unwrap(), None);
            assert_eq!(client.user_timeout().unwrap(), None);
            for (limit, found) in
                [(Duration::from_micros(1), 1), (Duration::from_secs(20), 20_000), (Duration::MAX, i32::MAX as u64)]
            {
                client.set_user_timeout(limit).unwrap();
                assert_eq!(client.user_timeout().unwrap(), Some(Duration::from_millis(found)));
            }
            client.set_user_timeout(None).unwrap();
            assert_eq!(client.user_timeout().unwrap(), None);
            assert!(client.no_delay().unwrap());
            client.set_no_delay(false).unwrap();
            assert!(!client.no_delay().unwrap());
            client.set_tos(0x10).unwrap();
            assert_eq!(client.tos().unwrap(), 0x10);
            client.set_recv_buffer(20_000).unwrap();
            client.set_send_buffer(30_000).unwrap();
            assert_eq!((client.recv_buffer().unwrap(), client.send_buffer().unwrap()), (40_000, 60_000));

            let bad = KeepAlive { count: 1000, ..KEEP_ALIVE };
            assert_eq!(client.set_keep_alive(bad).unwrap_err().kind(), ErrorKind::InvalidInput);
            client.probe().unwrap();
            client.abort();
            assert!(matches!(client.probe(), Err(Error::Closed { .. })));
            assert!(matches!(client.no_delay(), Err(Error::Closed { .. })));
        });
    }
}

/// Keep-alive, its three numbers, and the user timeout, as the kernel has them.
fn of_the_kernel(socket: &Socket) -> (bool, Duration, Duration, u32, u32) {
    use rustix::net::sockopt::*;
    (
        socket_keepalive(socket).unwrap(),
        tcp_keepidle(socket).unwrap(),
        tcp_keepintvl(socket).unwrap(),
        tcp_keepcnt(socket).unwrap(),
        tcp_user_timeout(socket).unwrap(),
    )
}

#[test]
fn a_probe_leaves_a_living_peer_alone_and_the_options_as_they_were() {
    for kind in [Kind::Tcp, Kind::Tls] {
        on_own_context(|| {
            let Joined { client, served, server: _server } = join(kind);
            let ends = log_end(&client);
            for (keep_alive, limit) in [(None, None), (Some(KEEP_ALIVE), Some(Duration::from_secs(6)))] {
                client.set_keep_alive(keep_alive).unwrap();
                client.set_user_timeout(limit).unwrap();
                let before = of_the_kernel(&client);
                for _ in 0..100 {
                    client.probe().unwrap();
                }
                let second = Duration::from_secs(1);
                assert_eq!(of_the_kernel(&client), (true, second, second, 5, 0));
                assert_eq!((client.keep_alive().unwrap(), client.user_timeout().unwrap()), (keep_alive, limit));
                until(|| of_the_kernel(&client) == before);
            }
            // What is set meanwhile holds.
            client.probe().unwrap();
            client.set_keep_alive(None).unwrap();
            client.probe().unwrap();
            client.set_user_timeout(Duration::from_secs(7)).unwrap();
            let (is_on, .., limit) = of_the_kernel(&client);
            assert_eq!((is_on, limit), (false, 7000));
            let lines = log_lines(&served);
            client.sendline("still here").unwrap();
            until(|| lines.len() == 1);
            assert!(ends.all().is_empty());
        });
    }
}

#[test]
fn builders_set_them_before_and_for_all_that_a_server_accepts() {
    for (kind, address) in [(Kind::Tcp, "127.0.0.1"), (Kind::Tcp, ""), (Kind::Tls, "")] {
        on_own_context(|| {
            let server = server(kind)
                .address(address)
                .keep_alive(KEEP_ALIVE)
                .user_timeout(Duration::from_secs(25))
                .no_delay(false)
                .tos(0x20)
                .recv_buffer(20_000)
                .send_buffer(30_000)
                .bind(0)
                .unwrap();
            let port = server.port();
            let client = std::thread::spawn(move || {
                on_own_context(|| {
                    let socket = client(kind)
                        .tls(if kind == Kind::Tls { network::tls::Tls::On(trust()) } else { network::tls::Tls::Off })
                        .keep_alive(KeepAlive { idle: Duration::from_millis(1500), ..KEEP_ALIVE })
                        .tos(0x08)
                        .recv_buffer(25_000)
                        .connect(("127.0.0.1", port))
                        .unwrap();
                    let found = (socket.keep_alive().unwrap().unwrap().idle, socket.tos().unwrap());
                    (found, socket.recv_buffer().unwrap(), socket.no_delay().unwrap())
                })
            });
            server.set_accept_timeout(Duration::from_secs(20));
            let socket = server.accept().unwrap();
            assert_eq!(socket.keep_alive().unwrap(), Some(KEEP_ALIVE));
            assert_eq!(socket.user_timeout().unwrap(), Some(Duration::from_secs(25)));
            assert_eq!((socket.no_delay().unwrap(), socket.tos().unwrap()), (false, 0x20));
            assert_eq!((socket.recv_buffer().unwrap(), socket.send_buffer().unwrap()), (40_000, 60_000));
            let rounded_up = Duration::from_secs(2);
            assert_eq!(client.join().unwrap(), ((rounded_up, 0x08), 50_000, true));
        });
    }
}

#[test]
fn what_a_kind_of_socket_does_not_have_is_an_error() {
    on_own_context(|| {
        let Joined { client, server: _server, .. } = join(Kind::Unix);
        assert!(matches!(client.set_keep_alive(None), Err(Error::Unsupported(_))));
        assert!(matches!(client.set_user_timeout(None), Err(Error::Unsupported(_))));
        assert!(matches!(client.probe(), Err(Error::Unsupported(_))));
        assert!(matches!(client.no_delay(), Err(Error::Unsupported(_))));
        assert!(matches!(client.tos(), Err(Error::Unsupported(_))));
        client.set_send_buffer(30_000).unwrap();
        assert_eq!(client.send_buffer().unwrap(), 60_000);
        let path = fresh_path("options");
        let error = Server::builder().no_delay(true).bind(path.as_path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(!path.exists());

        let Joined { client, server, .. } = join(Kind::Tcp);
        assert!(matches!(client.peer_credentials(), Err(Error::Unsupported(_))));
        assert!(matches!(client.send_fd("x", std::io::stdin()), Err(Error::Unsupported(_))));
        assert!(matches!(client.recv_fd(), Err(Error::Unsupported(_))));
        let builder = Socket::builder().tls(false).accept_fds(1);
        assert_eq!(builder.connect(server.port()).unwrap_err().kind(), ErrorKind::Unsupported);

        let (input, output) = std::io::pipe().unwrap();
        let pipes = Socket::wrap(input, output).unwrap();
        assert!(matches!(pipes.recv_buffer(), Err(Error::Unsupported(_))));
    });
}

#[test]
fn unix_connections_that_a_server_accepts_get_its_buffers() {
    on_own_context(|| {
        let path = fresh_path("buffers");
        let server = Server::builder().send_buffer(30_000).bind(path.as_path()).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        assert_eq!(server.accept().unwrap().send_buffer().unwrap(), 60_000);
    });
}

#[test]
fn a_client_comes_from_where_it_is_told_to() {
    on_own_context(|| {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let source = Ipv4Addr::new(127, 1, 2, 3);
        let client = Socket::builder().tls(false).source(source).interface("lo").connect(("127.0.0.1", port)).unwrap();
        assert_eq!(server.accept().unwrap().1.ip(), IpAddr::from(source));
        assert_eq!(client.local().inet().unwrap().ip(), IpAddr::from(source));

        let error = Socket::builder().tls(false).source(Ipv6Addr::LOCALHOST).connect(("127.0.0.1", port)).unwrap_err();
        assert!(error.to_string().contains("different families"), "{error}");
        let nowhere = Socket::builder().tls(false).source(Ipv4Addr::new(192, 0, 2, 1)).connect(("127.0.0.1", port));
        assert!(nowhere.unwrap_err().to_string().contains("192.0.2.1"));
        let missing = || Socket::builder().tls(false).interface("no-such-one");
        // Told before anything is looked up.
        for result in [missing().connect(("127.0.0.1", port)), try_connect(missing(), "no.such.host.invalid:1")] {
            assert!(matches!(result, Err(Error::InvalidOption(_))), "{result:?}");
            assert_eq!(result.unwrap_err().to_string(), r#"unknown interface "no-such-one""#);
        }
    });
}

#[test]
fn servers_share_a_port_if_all_of_them_allow_it() {
    on_own_context(|| {
        let builder = || Server::builder().tls(false).address("127.0.0.1");
        let one = builder().reuse_port(true).bind(0).unwrap();
        assert!(matches!(builder().bind(one.port()), Err(Error::InUse { .. })));
        let two = builder().reuse_port(true).bind(one.port()).unwrap();
        assert_eq!(one.port(), two.port());
    });
}

// ---- the idle timeout ----

#[test]
fn a_connection_without_traffic_ends_and_one_with_it_does_not() {
    const IDLE: Duration = Duration::from_millis(200);
    for_each_kind(|kind| {
        let place = Log::<Socket>::new();
        let seen = place.clone();
        let address = listen_address(kind);
        let server = server(kind).idle_timeout(IDLE).listen(address.as_str(), move |socket| {
            socket.readlines(|socket, line| socket.sendline(line));
            seen.add(socket);
            Ok(())
        });
        let server = server.unwrap();
        let address = match kind {
            Kind::Unix => address,
            _ => format!("{}://localhost:{}", if kind == Kind::Tls { "tls" } else { "tcp" }, server.port()),
        };
        let (busy, quiet) = (connect(&address), connect(&address));
        until(|| place.len() == 2);
        let ends: Vec<_> = place.all().iter().map(log_end).collect();
        let quiet_end = log_end(&quiet);
        // A ball that is played to and fro for three times as long as the limit.
        let started = Instant::now();
        busy.readlines(|socket, line| socket.sendline(line));
        busy.sendline("ball").unwrap();
        until(|| started.elapsed() > 3 * IDLE);
        assert!(busy.is_open());
        until(|| quiet_end.len() == 1);
        assert_eq!(ends.iter().map(Log::len).sum::<usize>(), 1);
        let told = ends.iter().flat_map(Log::all).next().unwrap().0;
        assert!(told.starts_with("timed out after 200 ms while waiting for traffic with "), "{told}");
        // Taken back, it may be silent for as long as it likes.
        place.all().iter().for_each(|socket| socket.set_idle_timeout(None));
        busy.unread();
        settle();
        assert!(busy.is_open());
    });
}

#[test]
fn the_idle_time_out_starts_when_it_is_set() {
    on_own_context(|| {
        let Joined { client, served, server: _server } = join(Kind::Tcp);
        let end = log_end(&client);
        let started = Instant::now();
        client.set_idle_timeout(Duration::from_secs(1000));
        client.set_idle_timeout(Duration::from_millis(50));
        until(|| end.len() == 1);
        assert!(started.elapsed() >= Duration::from_millis(50));
        until(|| !served.is_open());
    });
}

// ---- the receive timeout ----

/// Sends something every so often, as programs with pings do.
fn ping(socket: &Socket, interval: Duration) {
    let socket = socket.downgrade();
    glib::MainContext::ref_thread_default().spawn_local(async move {
        while let Some(Ok(())) = socket.upgrade().map(|socket| socket.sendline("are you there?")) {
            glib::timeout_future(interval).await;
        }
    });
}

#[test]
fn a_peer_that_never_answers_is_noticed_although_it_is_sent_to() {
    const LIMIT: Duration = Duration::from_millis(300);
    for_each_kind(|kind| {
        let ends = Log::<String>::new();
        let told = ends.clone();
        let address = listen_address(kind);
        let server =
            server(kind).receive_timeout(LIMIT).idle_timeout(LIMIT * 2).listen(address.as_str(), move |socket| {
                assert_eq!(socket.receive_timeout(), Some(LIMIT));
                let told = told.clone();
                socket.disconnect_cb(move |_, end| told.add(end.reason.to_string()));
                socket.readlines(|_, _| Ok(()));
                ping(&socket, LIMIT / 10);
                Ok(())
            });
        let server = server.unwrap();
        let client = connect(&address_of(&server, kind));
        let heard = Log::<String>::new();
        let lines = heard.clone();
        // Answers the first few of them.
        client.readlines(move |socket, line| {
            lines.add(line);
            if lines.len() <= 20 { socket.sendline("yes") } else { Ok(()) }
        });
        until(|| ends.len() == 1);
        assert!(heard.len() > 20, "it was ended although it answered");
        let end = &ends.all()[0];
        assert!(end.contains("timed out after 300 ms while waiting to receive anything from"), "{end}");
    });
}

#[test]
fn the_receive_timeout_of_a_client_may_be_set_and_removed() {
    const LIMIT: Duration = Duration::from_millis(100);
    on_own_context(|| {
        let Joined { client, served, server: _server } = join(Kind::Tcp);
        client.set_receive_timeout(LIMIT);
        client.set_receive_timeout(None);
        served.set_receive_timeout(LIMIT);
        client.readlines(|_, _| Ok(()));
        served.readlines(|_, _| Ok(()));
        let (of_client, of_served) = (log_end(&client), log_end(&served));
        until(|| of_served.len() == 1);
        until(|| of_client.len() == 1);
        assert!(of_served.all()[0].0.contains("timed out"), "{:?}", of_served.all());
        assert_eq!(of_client.all()[0].0, "closed by the peer");
    });
}

#[test]
fn a_peer_is_not_silent_while_nobody_reads() {
    const LIMIT: Duration = Duration::from_millis(100);
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let lines = log_lines(&served);
        let ends = log_end(&served);
        client.sendline("before").unwrap();
        until(|| lines.len() == 1);
        served.set_receive_timeout(LIMIT);
        served.pause();
        network::fgloop_for(LIMIT * 5);
        assert!(served.is_open(), "the pause was ours");
        served.unread();
        served.resume();
        client.sendline("waits").unwrap();
        client.flush().unwrap();
        network::fgloop_for(LIMIT * 5);
        assert!(served.is_open(), "it has sent something that nobody has read: {:?}", ends.all());
        let lines = log_lines(&served);
        until(|| ends.len() == 1);
        assert_eq!(lines.all(), ["waits"]);
        assert!(ends.all()[0].0.contains("waiting to receive anything"), "{:?}", ends.all());
    });
}

// ---- descriptors ----

fn pair(most: usize) -> (Socket, Socket) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let builder = || Socket::builder().timeout(Duration::from_secs(20));
    (builder().from_fd(ours).unwrap(), builder().accept_fds(most).from_fd(theirs).unwrap())
}

/// A pipe to read from that holds this.
fn filled(text: &str) -> OwnedFd {
    let (input, mut output) = std::io::pipe().unwrap();
    output.write_all(text.as_bytes()).unwrap();
    input.into()
}

fn content(fd: OwnedFd) -> String {
    let flags = rustix::io::fcntl_getfd(&fd).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "children would inherit it");
    std::io::read_to_string(File::from(fd)).unwrap()
}

#[test]
fn descriptors_go_along_with_bytes_in_order() {
    on_own_context(|| {
        let (sender, receiver) = pair(8);
        sender.sendline("before").unwrap();
        sender.send_fd("first\n", filled("one")).unwrap();
        let (two, three) = (filled("two"), filled("three"));
        sender.send_fds("next\n", &[two.as_fd(), three.as_fd()]).unwrap();
        assert_eq!(content(receiver.recv_fd().unwrap()), "one");
        assert_eq!(receiver.recv_line().unwrap(), "before");
        assert_eq!(receiver.recv_line().unwrap(), "first");
        assert_eq!(receiver.recv_line().unwrap(), "next");
        let rest: Vec<_> = receiver.take_fds().into_iter().map(content).collect();
        assert_eq!(rest, ["two", "three"]);
        receiver.set_timeout(Duration::ZERO);
        assert!(matches!(receiver.recv_fd(), Err(Error::NotReady { .. })));
        assert_eq!(sender.send_fd("", filled("")).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert!(sender.is_open());
    });
}

#[test]
fn a_callback_finds_those_that_were_sent_with_its_line() {
    on_own_context(|| {
        let (sender, receiver) = pair(8);
        let (lines, came) = (Log::<String>::new(), Log::<String>::new());
        let (seen, taken) = (lines.clone(), came.clone());
        receiver.readlines(move |socket, line| {
            socket.take_fds().into_iter().for_each(|fd| taken.add(content(fd)));
            assert!(line == "none" || taken.all().contains(&line.into()), "{line} is late");
            seen.add(line);
            Ok(())
        });
        let sent = ["one", "two", "three"];
        for text in sent {
            sender.send_fd(format!("{text}\n"), filled(text)).unwrap();
            sender.sendline("none").unwrap();
        }
        until(|| lines.len() == 6);
        assert_eq!(lines.all(), ["one", "none", "two", "none", "three", "none"]);
        assert_eq!(came.all(), sent);
    });
}

#[test]
fn too_many_are_closed_and_none_are_taken_unasked() {
    on_own_context(|| {
        let (sender, receiver) = pair(2);
        let mut kept = Vec::new();
        for text in ["1", "2", "3"] {
            let (input, output) = std::io::pipe().unwrap();
            sender.send_fd(text, input).unwrap();
            kept.push(output);
        }
        assert_eq!(receiver.recv_exact(3).unwrap(), b"123");
        assert_eq!(kept[2].write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe, "nobody holds it");
        assert_eq!(kept[1].write(b"x").unwrap(), 1);
        assert_eq!(receiver.take_fds().len(), 2);

        let (sender, receiver) = pair(0);
        let (input, mut output) = std::io::pipe().unwrap();
        sender.send_fd("data", input).unwrap();
        assert_eq!(receiver.recv(10).unwrap(), b"data");
        assert!(receiver.take_fds().is_empty());
        assert!(matches!(receiver.recv_fd(), Err(Error::Unsupported(_))));
        assert_eq!(output.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    });
}

/// A peer that knows nothing of this library sends one. Does the system refuse that?
fn send_by_hand(peer: &UnixStream, text: &str, fd: OwnedFd) -> bool {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&fds)));
    let text = [std::io::IoSlice::new(text.as_bytes())];
    match rustix::net::sendmsg(peer, &text, &mut control, rustix::net::SendFlags::empty()) {
        Err(rustix::io::Errno::PERM) => true,
        sent => sent.map(|_| false).unwrap(),
    }
}

#[test]
fn whoever_sends_a_descriptor_that_nobody_accepts_is_told() {
    on_own_context(|| {
        for most in [0, 1] {
            let path = fresh_path("socket");
            let (lines, came) = (Log::<String>::new(), Log::<String>::new());
            let (seen, taken) = (lines.clone(), came.clone());
            let builder = Server::builder().accept_fds(most);
            let server = builder.listen(&path, move |socket| {
                let (seen, taken) = (seen.clone(), taken.clone());
                socket.readlines(move |socket, line| {
                    seen.add(line);
                    socket.take_fds().into_iter().for_each(|fd| taken.add(content(fd)));
                    Ok(())
                });
                Ok(())
            });
            let _server = server.unwrap();
            // Before it is accepted as well as after.
            let peer = UnixStream::connect(&path).unwrap();
            let early = send_by_hand(&peer, "early\n", filled("1"));
            (&peer).write_all(b"then\n").unwrap();
            until(|| lines.all().last().is_some_and(|line| line == "then"));
            let late = send_by_hand(&peer, "late\n", filled("2"));
            (&peer).write_all(b"last\n").unwrap();
            until(|| lines.all().last().is_some_and(|line| line == "last"));
            assert_eq!(early, late);
            assert!(most == 0 || !early, "one may come");
            let arrived = if early { vec!["then", "last"] } else { vec!["early", "then", "late", "last"] };
            assert_eq!(lines.all(), arrived);
            assert_eq!(came.all(), if most > 0 { vec!["1", "2"] } else { vec![] });
        }
    });
}

#[test]
fn a_client_turns_descriptors_away_as_well() {
    on_own_context(|| {
        for most in [0, 1] {
            let path = fresh_path("socket");
            let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
            let client = Socket::builder().accept_fds(most).connect(&path).unwrap();
            let (peer, _) = listener.accept().unwrap();
            let lines = log_lines(&client);
            let refused = send_by_hand(&peer, "one\n", filled("1"));
            (&peer).write_all(b"two\n").unwrap();
            until(|| lines.all().last().is_some_and(|line| line == "two"));
            assert_eq!(lines.len(), if refused { 1 } else { 2 });
            assert_eq!(client.take_fds().len(), most);
            // And as this library sends them.
            let sender = Socket::from_fd(peer).unwrap();
            match sender.send_fd("three\n", filled("3")) {
                Err(error) => {
                    assert!(refused && error.kind() == ErrorKind::PermissionDenied, "{error}");
                    assert!(error.to_string().contains("accepts no descriptors"), "{error}");
                    assert!(sender.is_open());
                }
                Ok(()) => assert!(!refused),
            }
            std::fs::remove_file(path).unwrap();
        }
    });
}

#[test]
fn a_connection_that_is_handed_over_passes_descriptors_as_others_do() {
    on_own_context(|| {
        let path = fresh_path("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let client = Socket::connect(&path).unwrap();
        let (peer, _) = listener.accept().unwrap();
        let (ours, _) = client.into_unix().unwrap();
        assert!(!send_by_hand(&peer, "one\n", filled("1")), "nothing of this library is in its way");
        let client = Socket::builder().accept_fds(8).from_fd(ours).unwrap();
        assert!(!send_by_hand(&peer, "two\n", filled("2")));
        assert_eq!(client.recv_exact(8).unwrap(), b"one\ntwo\n");
        let came: Vec<_> = client.take_fds().into_iter().map(content).collect();
        assert_eq!(came, ["1", "2"]);
        std::fs::remove_file(path).unwrap();
    });
}

#[test]
fn a_descriptor_waits_for_room_and_for_what_was_sent_before() {
    on_own_context(|| {
        let (sender, receiver) = pair(1);
        let before = pattern(4 << 20);
        sender.send(&before).unwrap();
        assert!(sender.queued() > 0);
        sender.set_timeout(Duration::ZERO);
        assert!(matches!(sender.send_fd("x", filled("y")), Err(Error::NotReady { .. })));
        receiver.set_line_limit(usize::MAX);
        let mut all = Vec::new();
        receiver.set_timeout(Duration::ZERO);
        loop {
            match receiver.recv(64 << 10) {
                Ok(bytes) => all.extend(bytes),
                Err(Error::NotReady { .. }) if sender.queued() == 0 => break,
                Err(Error::NotReady { .. }) => sender.flush().unwrap_or(()),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(all, before, "nothing went out with what did not");
        sender.send_fd("x", filled("y")).unwrap();
        assert_eq!(content(receiver.recv_fd().unwrap()), "y");
        let mut end = [0];
        assert_eq!(Read::read(&mut &receiver, &mut end).unwrap(), 1);
        assert_eq!(&end, b"x");
    });
}

#[test]
fn what_has_come_and_waits_is_no_silence_and_neither_is_the_peers_half_close() {
    const LIMIT: Duration = Duration::from_millis(100);
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let ends = log_end(&served);
        client.send("taken\nwaits\n").unwrap();
        client.flush().unwrap();
        assert_eq!(served.recv_line().unwrap(), "taken");
        served.set_receive_timeout(LIMIT);
        network::fgloop_for(LIMIT * 5);
        assert!(served.is_open(), "{:?}", ends.all());
        assert_eq!(served.recv_line().unwrap(), "waits");

        served.half_close_cb(|_| Ok(()));
        served.readlines(|_, _| Ok(()));
        client.shutdown_write().unwrap();
        network::fgloop_for(LIMIT * 5);
        assert!(served.is_open(), "the reply may take its time: {:?}", ends.all());
        let reply = log_lines(&client);
        served.sendline("reply").unwrap();
        until(|| reply.len() == 1);
    });
}
