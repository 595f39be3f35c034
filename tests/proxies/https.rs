//! `https://` proxies: socat, which ends TLS in front of the tests' own proxies and of tinyproxy; and in between, a relay that cuts
//! the connection off, or lets nothing through any more.

use std::sync::atomic::{AtomicUsize, Ordering};

use network::socket::ConnectProgress;

use super::*;

/// A proxy that speaks TLS, by socat in front of one that does not.
struct Secured {
    _socat: Process,
    _directory: TempDir,
    root: String,
    port: u16,
}

impl Secured {
    /// With a certificate for 127.0.0.1.
    fn new(behind: u16) -> Secured {
        let directory = TempDir::new();
        let (root, cert, key) = certificate(&directory, "127.0.0.1");
        let mut socat = tool("/usr/bin/socat");
        let listen = format!(
            "OPENSSL-LISTEN:0,bind=127.0.0.1,reuseaddr,fork,verify=0,cert={},key={}",
            cert.to_str().unwrap(),
            key.to_str().unwrap()
        );
        socat.args(["-d", "-d", "-t", "30", &listen, &format!("TCP4:127.0.0.1:{behind}")]);
        let socat = Process::start(&mut socat, Watch::Stderr);
        let port = socat.port("listening on");
        Secured { _socat: socat, _directory: directory, root, port }
    }

    fn trust(&self) -> ClientTls {
        ClientTls::roots(&self.root)
    }

    fn proxy(&self) -> Proxy {
        self.proxy_at(self.port)
    }

    fn proxy_at(&self, port: u16) -> Proxy {
        Proxy::url(format!("https://me:sesam@127.0.0.1:{port}")).tls(self.trust())
    }

    /// With settings of its own, so that no session is resumed, whose handshake is shorter.
    fn proxy_anew(&self, port: u16, number: usize) -> Proxy {
        Proxy::url(format!("https://me:sesam@127.0.0.1:{port}")).tls(self.trust().alpn([format!("{number}")]))
    }
}

/// The last of the conversations in plaintext is that of CONNECT.
fn talk() -> Talk {
    TALKS[3].1
}

/// A proxy that connects to a target that greets at once, and echoes.
fn greeting() -> u16 {
    proxy(move |_, mut stream| {
        let [(request, answer)] = talk() else { panic!() };
        let mut came = vec![0; request.len()];
        // The client may have gone.
        if stream.read_exact(&mut came).is_err() {
            return;
        }
        assert_eq!(came, *request);
        stream.write_all(&[answer, &b"220 hello\n"[..]].concat()).unwrap();
        let mut back = stream.try_clone().unwrap();
        let _ = std::io::copy(&mut stream, &mut back);
    })
}

/// The action of a relay when it has let as much through as it should.
#[derive(Clone, Copy)]
enum Then {
    Cut,
    Hang,
}

/// A relay in front of a server, which lets `most` bytes of its answers through on each connection. The second value counts those
/// that it let through on the last one.
fn relay(to: u16, most: Arc<AtomicUsize>, then: Then) -> (u16, Receiver<()>, Arc<AtomicUsize>) {
    let (gone, is_gone) = channel();
    let passed = Arc::new(AtomicUsize::new(0));
    let counter = passed.clone();
    let port = proxy(move |_, mut client| {
        let mut left = most.load(Ordering::SeqCst);
        counter.store(0, Ordering::SeqCst);
        let mut server = TcpStream::connect(("127.0.0.1", to)).unwrap();
        let (mut from, mut back) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut back);
            let _ = back.shutdown(std::net::Shutdown::Write);
        });
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = server.read(&mut piece) {
            let count = count.min(left);
            counter.fetch_add(count, Ordering::SeqCst);
            let _ = client.write_all(&piece[..count]);
            left -= count;
            if left == 0 {
                match then {
                    Then::Cut => client.shutdown(std::net::Shutdown::Both).unwrap_or_default(),
                    Then::Hang => await_close(client),
                }
                let _ = gone.send(());
                return;
            }
        }
    });
    (port, is_gone, passed)
}

#[test]
fn the_connection_within_is_one_in_plaintext() {
    on_own_context(|| {
        let secured = Secured::new(greeting());
        for socket in connect(&plain(secured.proxy()), TARGET) {
            let socket = socket.unwrap();
            assert_eq!(socket.recv_line().unwrap(), "220 hello");
            assert_eq!(socket.remote(), Endpoint::Proxied { host: "target.test".into(), port: 25 });
            assert!(!socket.is_tls() && !socket.is_tls_resumed());
            assert!(socket.tls_version().is_none() && socket.cipher_suite().is_none() && socket.alpn().is_none());
            assert!(socket.peer_certificate().is_none() && socket.peer_fingerprint().is_none());
            assert!(socket.peer_trust().is_none() && socket.peer_public_key().is_none());
            assert!(matches!(socket.export_key("EXPERIMENTAL-x", "", 32), Err(Error::Unsupported(_))));
            let errors = [
                socket.start_tls(ClientTls::danger_accept_any()),
                await_it(socket.start_tls_future(ClientTls::danger_accept_any())),
            ];
            for error in errors {
                let text = error.unwrap_err().to_string();
                assert!(text.contains(TARGET) && text.contains("TLS within the TLS of the proxy"), "{text}");
            }
            // It goes on.
            let large = common::noise(1 << 20, 1);
            let sent = large.clone();
            let half = socket.clone();
            await_it(async move {
                let send = async {
                    half.send_future(sent).await.unwrap();
                    half.shutdown_write().unwrap();
                };
                let (_, came) = futures_util::join!(send, socket.recv_to_end_future(2 << 20));
                assert!(came.unwrap() == large);
            });
        }
    });
}

#[test]
fn what_came_with_the_proxys_reply_is_delivered_by_every_reader() {
    use futures_util::AsyncBufReadExt;
    on_own_context(|| {
        let secured = Secured::new(greeting());
        let connect = || connect_async(plain(secured.proxy()), TARGET).unwrap();
        let socket = connect();
        let place = Rc::new(RefCell::new(String::new()));
        let into = place.clone();
        socket.readlines(move |_, line| {
            into.borrow_mut().push_str(line);
            Ok(())
        });
        until(|| place.borrow().as_str() == "220 hello");
        assert_eq!(await_it(connect().recv_future(100)).unwrap(), b"220 hello\n");
        let mut stream = connect().into_stream();
        let mut line = String::new();
        await_it(stream.read_line(&mut line)).unwrap();
        assert_eq!(line, "220 hello\n");
        drop(stream);
        let (sender, progress) = channel();
        let builder = plain(secured.proxy()).progress_cb(move |step| sender.send(step).unwrap());
        connect_async(builder, TARGET).unwrap();
        assert_eq!(progress.try_iter().collect::<Vec<_>>(), [ConnectProgress::Connecting]);
    });
}

#[test]
fn a_target_that_greets_and_ends_at_once_has_ended_cleanly() {
    on_own_context(|| {
        let behind = proxy(|_, mut stream| {
            read_head(&stream);
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n220 hello\nbye").unwrap();
        });
        let secured = Secured::new(behind);
        for number in 0..30 {
            let socket = connect_by(number % 3, &plain(secured.proxy()), TARGET).unwrap();
            assert_eq!(socket.recv_line().unwrap(), "220 hello");
            assert_eq!(socket.recv_to_end(100).unwrap(), b"bye");
            let error = socket.recv_line().unwrap_err().to_string();
            assert_eq!(error, format!("the connection to {TARGET} is closed"));
        }
    });
}

#[test]
fn a_challenge_of_a_proxy_with_tls_is_answered_on_a_second_connection() {
    on_own_context(|| {
        let (port, heads) = demanding("Proxy-Authenticate: Basic realm=\"x\"", true);
        let secured = Secured::new(port);
        for socket in connect(&plain(secured.proxy()), TARGET) {
            socket.unwrap();
            let (first, second) = (heads.recv().unwrap(), heads.recv().unwrap());
            assert!(!first.contains("Authorization"), "{first}");
            assert!(second.contains("Proxy-Authorization: Basic bWU6c2VzYW0=\r\n"), "{second}");
        }
    });
}

#[test]
fn who_is_no_proxy_to_trust_learns_no_password() {
    on_own_context(|| {
        let (sender, came) = channel();
        let behind = proxy(move |_, mut stream| {
            let mut request = Vec::new();
            let _ = stream.read_to_end(&mut request);
            sender.send(request).unwrap();
        });
        let secured = Secured::new(behind);
        let port = secured.port;
        let url = format!("https://me:sesam@127.0.0.1:{port}");
        let in_clear = proxy(|_, mut stream| {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            await_close(stream);
        });
        let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_string()]).unwrap().cert.pem();
        for (proxy, port, words) in [
            (Proxy::url(&url), port, "not issued by the system's root certificates"),
            (Proxy::url(&url).tls(ClientTls::roots(other)), port, "(Proxy::tls sets whom to trust)"),
            (Proxy::url(&url).tls(secured.trust().server_name("other.test")), port, "not trusted"),
            (Proxy::url(&url).tls(ClientTls::pinned("00".repeat(32).as_str())), port, "pin"),
            (secured.proxy_at(in_clear), in_clear, "it does not speak TLS; without TLS, its URL begins with http://"),
        ] {
            for error in connect(&plain(proxy), TARGET) {
                let error = error.unwrap_err();
                assert!(matches!(error, Error::Proxy { .. }), "{error}");
                assert!(told(&error, port).contains(words), "{error}");
            }
        }
        assert!(came.try_iter().all(|request| request.is_empty()), "it was asked for nothing");
    });
}

#[test]
fn settings_of_tls_with_a_proxy_that_cannot_be_kept_are_errors() {
    on_own_context(|| {
        let (sender, came) = channel();
        let port = proxy(move |_, _| sender.send(()).unwrap());
        let url = format!("https://me:sesam@127.0.0.1:{port}");
        let within = |proxy: &Proxy| Socket::builder().tls(ClientTls::danger_accept_any()).proxy(proxy.clone());
        let invalid = Proxy::url(&url).tls(ClientTls::pinned("xyz"));
        let unneeded = Proxy::url("http://me:sesam@host").tls(ClientTls::system());
        for (builder, words) in [
            (
                within(&Proxy::url(&url)),
                "TLS within the TLS of the proxy is not supported; use an http:// or socks5h:// proxy",
            ),
            (plain(invalid), "fingerprint"),
            (plain(unneeded), "proxy http://host:80: Proxy::tls is for https:// proxies only"),
        ] {
            for error in connect(&builder, TARGET) {
                let text = error.unwrap_err().to_string();
                assert!(text.contains(words) && !text.contains("sesam"), "{text}");
            }
        }
        let error = Socket::builder().proxy(Proxy::url(&url)).connect("https://example.org").unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)), "{error}");
        assert!(came.try_recv().is_err(), "nobody was asked");
    });
}

/// The bytes of a proxy's answers up to the greeting of the target, and a bit less: a signature's length is no constant.
fn length_of_answers(secured: &Secured) -> usize {
    let (port, _, passed) = relay(secured.port, Arc::new(usize::MAX.into()), Then::Cut);
    let socket = connect_async(plain(secured.proxy_at(port)), TARGET).unwrap();
    assert_eq!(await_it(socket.recv_line_future()).unwrap(), "220 hello");
    passed.load(Ordering::SeqCst)
}

/// Numbers of bytes after which a proxy falls silent: each of the first ones, then some.
fn places(total: usize) -> impl Iterator<Item = usize> {
    (1..20).chain((20..total - 80).step_by(97))
}

#[test]
fn a_handshake_or_an_answer_that_is_cut_is_an_error() {
    on_own_context(|| {
        let secured = Secured::new(greeting());
        let total = length_of_answers(&secured);
        let most = Arc::new(AtomicUsize::new(0));
        let (port, is_gone, _) = relay(secured.port, most.clone(), Then::Cut);
        for (number, place) in places(total).enumerate() {
            most.store(place, Ordering::SeqCst);
            let error = connect_by(number % 3, &plain(secured.proxy_anew(port, number)), TARGET).unwrap_err();
            assert!(matches!(error, Error::Proxy { .. }), "{place} of {total}: {error}");
            let text = told(&error, port);
            assert!(
                text.contains("it closed the connection") || text.contains("closed the connection during"),
                "{text}"
            );
            is_gone.recv_timeout(LIMIT).unwrap();
        }
    });
}

#[test]
fn a_proxy_that_hangs_within_tls_is_given_up_and_can_be_cancelled() {
    on_own_context(|| {
        let secured = Secured::new(greeting());
        let total = length_of_answers(&secured);
        let most = Arc::new(AtomicUsize::new(0));
        let (port, is_gone, _) = relay(secured.port, most.clone(), Then::Hang);
        for (number, place) in places(total).step_by(3).enumerate() {
            most.store(place, Ordering::SeqCst);
            let proxy = secured.proxy_anew(port, number).timeout(Duration::from_millis(300));
            let error = connect_by(number % 3, &plain(proxy), TARGET).unwrap_err();
            assert!(matches!(error, Error::TimedOut { operation: Operation::Proxy, .. }), "{place}: {error}");
            told(&error, port);
            is_gone.recv_timeout(LIMIT).expect("the connection to the proxy is closed");

            let mut future = Box::pin(plain(secured.proxy_anew(port, number)).connect_future(TARGET));
            assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            for _ in 0..20 {
                network::iteration(false);
            }
            drop(future);
        }
    });
}

#[test]
fn an_end_without_that_of_tls_is_told_with_the_proxys_name() {
    on_own_context(|| {
        let secured = Secured::new(greeting());
        let total = length_of_answers(&secured);
        // The greeting comes, and what is sent back later does not. A signature may be some bytes longer than that before.
        let (port, ..) = relay(secured.port, Arc::new((total + 20).into()), Then::Cut);
        let socket = connect_async(plain(secured.proxy_at(port)), TARGET).unwrap();
        assert_eq!(await_it(socket.recv_line_future()).unwrap(), "220 hello");
        socket.send([b'x'; 1000]).unwrap();
        let end = await_it(socket.recv_line_future()).unwrap_err();
        assert!(matches!(end, Error::Truncated { .. }), "{end}");
        assert!(
            end.to_string().contains(&format!("the connection to https://127.0.0.1:{port} was truncated")),
            "{end}"
        );
    });
}

#[test]
fn netcat_uses_the_proxy_of_the_environment_with_tls() {
    let secured = Secured::new(greeting());
    let url = format!("https://127.0.0.1:{}", secured.port);
    let output = run(netcat(&["--tls", "off", "--proxy", "environment", TARGET]).env("all_proxy", &url), "");
    assert!(output.assert_failed().contains("not issued by the system's root certificates"), "{}", output.stderr);
    let output = run(netcat(&["--proxy", "environment", "example.org:443"]).env("https_proxy", &url), "");
    assert!(output.assert_failed().contains("TLS within the TLS of the proxy"), "{}", output.stderr);
}

#[test]
fn tinyproxy_behind_tls() {
    let Some(_server) = in_own_network("https::tinyproxy_behind_tls") else { return };
    let directory = TempDir::new();
    let port = greeter();
    let _proxy = start_tinyproxy(&directory, port);
    let secured = Secured::new(8888);
    on_own_context(|| {
        assert_reaches(secured.proxy(), port, &[FAR, "far.test", "[2001:db8::7]"]);
        assert_refuses(secured.proxy(), &format!("{FAR}:1"), " 403 Access violation");
        let without = Proxy::url(format!("https://127.0.0.1:{}", secured.port)).tls(secured.trust());
        assert_refuses(without, &format!("{FAR}:{port}"), "requires a user and password");
    });
}
