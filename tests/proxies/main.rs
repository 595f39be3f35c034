//! Proxies: the tests' own, which hang, lie, reset and stop midway, and microsocks, dante, tinyproxy and OpenSSH. Those of the latter run in
//! a network namespace, since no proxy is asked for an address of this machine's loopback.

#[path = "../common/mod.rs"]
mod common;
mod https;
#[path = "../common/name_server.rs"]
mod name_server;
mod ssh;

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use common::{
    LIMIT, Process, TempDir, Watch, await_it, command, example, on_own_context, parties, party, run, tool, until,
    until_on_threads,
};
use gio::prelude::*;
use network::socket::{Operation, Proxy, SocketBuilder};
use network::{Address, ClientTls, Endpoint, Error, Result, Server, ServerTls, Socket};

/// The bytes that a proxy awaits, and its answer.
type Talk = &'static [(&'static [u8], &'static [u8])];

const SOCKS5_REQUEST: &[u8] = b"\x05\x01\x00\x03\x0btarget.test\x00\x19";
const SOCKS5_REPLY: &[u8] = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00";

/// The conversations that end with a connection to `TARGET`, by the beginning of the proxy's URL.
const TALKS: [(&str, Talk); 4] = [
    ("socks5h://", &[(b"\x05\x01\x00", b"\x05\x00"), (SOCKS5_REQUEST, SOCKS5_REPLY)]),
    (
        "socks5h://me:sesam@",
        &[
            (b"\x05\x02\x00\x02", b"\x05\x02"),
            (b"\x01\x02me\x05sesam", b"\x01\x00"),
            (SOCKS5_REQUEST, b"\x05\x00\x00\x03\x04name\x00\x00"),
        ],
    ),
    (
        "socks4a://me@",
        &[(b"\x04\x01\x00\x19\x00\x00\x00\x01me\x00target.test\x00", b"\x00\x5a\x00\x00\x00\x00\x00\x00")],
    ),
    (
        "http://me:sesam@",
        &[(b"CONNECT target.test:25 HTTP/1.1\r\nHost: target.test:25\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n")],
    ),
];

const TARGET: &str = "target.test:25";

/// Starts a proxy. Serves each connection, with its number, on a thread.
fn proxy(serve: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let serve = Arc::new(serve);
        for (number, stream) in listener.incoming().enumerate() {
            let stream = stream.unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            let serve = serve.clone();
            std::thread::spawn(move || serve(number, stream));
        }
    });
    port
}

/// Takes the proxy's side of a conversation, but answers with at most so many bytes altogether.
fn play(stream: &mut TcpStream, talk: Talk, most: usize) -> std::io::Result<()> {
    let mut left = most;
    for (awaited, answer) in talk {
        let mut came = vec![0; awaited.len()];
        stream.read_exact(&mut came)?;
        assert_eq!(came, *awaited);
        let part = &answer[..answer.len().min(left)];
        stream.write_all(part)?;
        left -= part.len();
        if left == 0 && part.len() < answer.len() {
            return Ok(());
        }
    }
    Ok(())
}

fn answers(talk: Talk) -> usize {
    talk.iter().map(|(_, answer)| answer.len()).sum()
}

/// Waits for the other end to close.
fn await_close(mut stream: TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new());
}

fn read_head(stream: &TcpStream) -> String {
    let mut head = String::new();
    let mut reader = BufReader::new(stream);
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
    }
    head
}

fn plain(proxy: impl Into<Proxy>) -> SocketBuilder {
    Socket::builder().tls(false).proxy(proxy)
}

fn connect_async(builder: SocketBuilder, address: &str) -> Result<Socket> {
    let place = Rc::new(RefCell::new(None));
    let into = place.clone();
    builder.connect_async(address, gio::Cancellable::NONE, move |result| drop(into.replace(Some(result))));
    assert!(place.borrow().is_none(), "not from inside the call");
    until(|| place.borrow().is_some());
    place.take().unwrap()
}

/// Connects in one of the three ways.
fn connect_by(way: usize, builder: &SocketBuilder, address: &str) -> Result<Socket> {
    match way {
        0 => builder.clone().connect(address),
        1 => connect_async(builder.clone(), address),
        _ => await_it(builder.clone().connect_future(address)),
    }
}

/// Connects in all three ways.
fn connect(builder: &SocketBuilder, address: &str) -> [Result<Socket>; 3] {
    [0, 1, 2].map(|way| connect_by(way, builder, address))
}

/// The text of an error, which names the proxy and the target, and no secret.
#[track_caller]
fn told(error: &Error, port: u16) -> String {
    let text = error.to_string();
    assert!(text.contains(&format!("127.0.0.1:{port}")) && text.contains(TARGET), "{text}");
    assert!(!text.contains("sesam") && !format!("{error:?}").contains("sesam"), "{text}");
    text
}

#[test]
fn what_follows_the_reply_in_the_same_segment_is_the_targets() {
    on_own_context(|| {
        for (url, talk) in TALKS {
            let port = proxy(move |_, mut stream| {
                let (last, first) = talk.split_last().unwrap();
                play(&mut stream, first, usize::MAX).unwrap();
                let mut request = vec![0; last.0.len()];
                stream.read_exact(&mut request).unwrap();
                stream.write_all(&[last.1, b"220 hello\n"].concat()).unwrap();
                let mut line = [0; 5];
                stream.read_exact(&mut line).unwrap();
                stream.write_all(&line).unwrap();
            });
            for socket in connect(&plain(format!("{url}127.0.0.1:{port}")), TARGET) {
                let socket = socket.unwrap();
                assert_eq!(socket.recv_line().unwrap(), "220 hello");
                socket.sendline("QUIT").unwrap();
                assert_eq!(socket.recv_line().unwrap(), "QUIT");
                assert_eq!(socket.remote(), Endpoint::Proxied { host: "target.test".into(), port: 25 });
                assert_eq!(socket.remote().to_string(), TARGET);
                assert!(socket.keep_alive().unwrap().is_none(), "options of TCP are available");
                let error = socket.recv_line().unwrap_err().to_string();
                assert_eq!(error, format!("the connection to {TARGET} is closed"));
            }
        }
    });
}

#[test]
fn a_reply_that_ends_after_any_of_its_bytes_is_an_error() {
    on_own_context(|| {
        for (url, talk) in TALKS {
            let port = proxy(move |number, mut stream| {
                play(&mut stream, talk, number / 2).unwrap();
                if number % 2 == 1 {
                    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
                }
            });
            let builder = plain(format!("{url}127.0.0.1:{port}"));
            for _ in 0..answers(talk) {
                let errors = [builder.clone().connect(TARGET), await_it(builder.clone().connect_future(TARGET))];
                for error in errors {
                    let error = error.unwrap_err();
                    assert!(matches!(error, Error::Proxy { .. }), "{error}");
                    let text = told(&error, port);
                    assert!(text.ends_with("connection before its reply was complete"), "{text}");
                }
            }
        }
    });
}

#[test]
fn a_proxy_that_hangs_after_any_byte_is_given_up() {
    on_own_context(|| {
        for (url, talk) in TALKS {
            let (gone, is_gone) = channel();
            let port = proxy(move |number, mut stream| {
                // On a busy machine, its client has given up before.
                let _ = play(&mut stream, talk, number);
                await_close(stream);
                gone.send(()).unwrap();
            });
            let proxy = Proxy::url(format!("{url}127.0.0.1:{port}")).timeout(Duration::from_millis(20));
            for number in 0..answers(talk) {
                let builder = plain(proxy.clone());
                let error = match number % 2 {
                    0 => builder.connect(TARGET),
                    _ => await_it(builder.connect_future(TARGET)),
                };
                let error = error.unwrap_err();
                assert!(matches!(error, Error::TimedOut { operation: Operation::Proxy, .. }), "{error}");
                assert!(told(&error, port).starts_with("timed out after 20 ms while connecting through a proxy to"));
                is_gone.recv_timeout(LIMIT).expect("the connection to the proxy is closed");
            }
        }
        // The timeout for connecting includes the proxy's answer.
        let port = proxy(|_, stream| await_close(stream));
        for error in
            connect(&plain(format!("http://127.0.0.1:{port}")).connect_timeout(Duration::from_millis(20)), TARGET)
        {
            assert!(matches!(error, Err(Error::TimedOut { operation: Operation::Connect, .. })));
        }
    });
}

/// A proxy that answers with one more byte on each connection, says so, and tells when the connection is closed.
fn hesitant(talk: Talk) -> (u16, Receiver<()>, Receiver<()>) {
    let ((halts, has_halted), (gone, is_gone)) = (channel(), channel());
    let port = proxy(move |number, mut stream| {
        play(&mut stream, talk, number).unwrap();
        halts.send(()).unwrap();
        await_close(stream);
        gone.send(()).unwrap();
    });
    (port, has_halted, is_gone)
}

#[test]
fn an_attempt_can_be_cancelled_after_any_byte() {
    on_own_context(|| {
        for (url, talk) in TALKS {
            let (port, has_halted, is_gone) = hesitant(talk);
            let builder = plain(format!("{url}127.0.0.1:{port}"));
            for number in 0..answers(talk) {
                if number % 2 == 0 {
                    let mut future = Box::pin(builder.clone().connect_future(TARGET));
                    assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                    until_on_threads(|| has_halted.try_recv().is_ok());
                    drop(future);
                } else {
                    let cancellable = gio::Cancellable::new();
                    let outcome = Rc::new(RefCell::new(None));
                    let place = outcome.clone();
                    builder.clone().connect_async(TARGET, Some(&cancellable), move |result| {
                        place.replace(Some(result));
                    });
                    until_on_threads(|| has_halted.try_recv().is_ok());
                    cancellable.cancel();
                    until(|| outcome.borrow().is_some());
                    assert!(matches!(outcome.take(), Some(Err(Error::Cancelled { .. }))));
                }
                is_gone.recv_timeout(LIMIT).expect("the connection to the proxy is closed");
            }
        }
    });
}

#[test]
fn an_attempt_can_be_cancelled_before_its_first_turn() {
    on_own_context(|| {
        let (sender, came) = channel();
        let port = proxy(move |_, _| sender.send(()).unwrap());
        let mut future = Box::pin(plain(format!("http://127.0.0.1:{port}")).connect_future(TARGET));
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(future);
        while network::iteration(false) {}
        assert!(came.try_recv().is_err(), "the proxy was never asked");
    });
}

#[test]
fn refusals_and_lies_are_told_in_words() {
    on_own_context(|| {
        for (url, reply, words) in [
            ("socks5h://", &b"\x05\xff"[..], "requires a user and password"),
            ("socks5h://me:sesam@", b"\x05\x02\x01\x01", "rejects the user or password"),
            ("socks5h://", b"\x05\x00\x05\x02\x00\x01", "its rules do not allow this connection"),
            ("socks5h://", b"\x05\x00\x05\x05\x00\x01", "connection refused"),
            ("socks5h://", b"\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00", "replied before it was asked"),
            ("socks5h://", b"HTTP/1.1 400 Bad Request\r\n\r\n", "it may be an HTTP proxy"),
            ("socks4a://", b"\x00\x5b\x00\x00\x00\x00\x00\x00", "rejects the request"),
            ("socks4a://", b"\x04\x5a", "does not speak SOCKS4a"),
            ("http://", b"HTTP/1.1 403 Filtered\r\n\r\n", ": HTTP/1.1 403 Filtered"),
            ("http://", b"HTTP/1.1 502 \x1b[2J\r\n\r\n", ": HTTP/1.1 502 \\u{1b}[2J"),
            ("http://", b"HTTP/1.1 407 Password!\r\n\r\n", "requires a user and password"),
            ("http://me:sesam@", b"HTTP/1.1 407 x\r\nProxy-Authenticate: NTLM\r\n\r\n", "it offers: NTLM"),
            ("http://", b"SSH-2.0-x\r\n", "does not speak HTTP"),
        ] {
            let port = proxy(move |_, mut stream| {
                let mut request = [0; 1000];
                assert_ne!(stream.read(&mut request).unwrap(), 0);
                stream.write_all(reply).unwrap();
                await_close(stream);
            });
            for error in connect(&plain(format!("{url}127.0.0.1:{port}")), TARGET) {
                let error = error.unwrap_err();
                assert!(matches!(error, Error::Proxy { .. }), "{error}");
                let text = told(&error, port);
                assert!(text.contains(words), "{text}");
            }
        }
    });
}

#[test]
fn an_endless_reply_is_cut_off() {
    on_own_context(|| {
        for (limit, words) in [(None, "16384 bytes"), (Some(100), "100 bytes")] {
            let port = proxy(|_, mut stream| {
                read_head(&stream);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ");
                while stream.write_all(&[b'y'; 1000]).is_ok() {}
            });
            let proxy = Proxy::url(format!("http://127.0.0.1:{port}"));
            let proxy = limit.map_or(proxy.clone(), |limit| proxy.reply_limit(limit));
            let error = plain(proxy).connect(TARGET).unwrap_err();
            assert!(told(&error, port).contains(words), "{error}");
        }
    });
}

/// A proxy that demands a password on each connection and accepts the second one it is asked on.
fn demanding(challenge: &'static str, accepts: bool) -> (u16, Receiver<String>) {
    let (sender, heads) = channel();
    let port = proxy(move |number, mut stream| {
        sender.send(read_head(&stream)).unwrap();
        let answer = match number % 2 == 1 && accepts {
            true => "HTTP/1.1 200 OK\r\n\r\n".to_string(),
            false => format!("HTTP/1.1 407 Who?\r\nContent-Length: 2\r\n{challenge}\r\n\r\nno"),
        };
        stream.write_all(answer.as_bytes()).unwrap();
        await_close(stream);
    });
    (port, heads)
}

#[test]
fn a_challenge_is_answered_once() {
    on_own_context(|| {
        for (challenge, parts) in [
            ("Proxy-Authenticate: Basic realm=\"x\"", &["Proxy-Authorization: Basic bWU6c2VzYW0=\r\n"][..]),
            (
                "proxy-authenticate: Basic realm=x, Digest realm=\"y\", nonce=\"z\", qop=\"auth\"",
                &["Digest username=\"me\", realm=\"y\", nonce=\"z\", uri=\"target.test:25\"", "qop=auth, nc=00000001"],
            ),
        ] {
            let (port, heads) = demanding(challenge, true);
            for socket in connect(&plain(format!("http://me:sesam@127.0.0.1:{port}")), TARGET) {
                socket.unwrap();
                let (first, second) = (heads.recv().unwrap(), heads.recv().unwrap());
                assert!(!first.contains("Authorization") && !second.contains("sesam"), "{first}{second}");
                assert!(parts.iter().all(|part| second.contains(part)), "{second}");
            }
            let (port, heads) = demanding(challenge, false);
            let error = plain(format!("http://me:sesam@127.0.0.1:{port}")).connect(TARGET).unwrap_err();
            assert!(told(&error, port).ends_with("HTTP/1.1 407 Who?: it rejects the user or password"), "{error}");
            assert_eq!(heads.try_iter().count(), 2);
        }
    });
}

#[test]
fn addresses_are_tried_in_their_order() {
    on_own_context(|| {
        let port = proxy(|number, mut stream| {
            let mut request = [0; 10];
            stream.read_exact(&mut request[..3]).unwrap();
            stream.write_all(&[5, 0]).unwrap();
            stream.read_exact(&mut request).unwrap();
            let is_first = number % 2 == 0;
            assert_eq!(request[4..8], if is_first { [192, 0, 2, 1] } else { [192, 0, 2, 2] });
            stream.write_all(&[5, if is_first { 4 } else { 0 }, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
            await_close(stream);
        });
        let addresses: Vec<SocketAddr> =
            ["127.0.0.1:1", "192.0.2.1:1", "192.0.2.2:2"].map(|text| text.parse().unwrap()).into();
        let socket = plain(format!("socks5://127.0.0.1:{port}")).connect(addresses).unwrap();
        assert_eq!(socket.remote().inet(), Some("192.0.2.2:2".parse().unwrap()));
        assert_eq!(socket.remote().to_string(), "192.0.2.2:2");
        let again = Address::try_from(socket.remote()).unwrap();
        assert_eq!(again.to_string(), "192.0.2.2:2");
    });
}

#[test]
fn an_address_over_which_the_proxy_hangs_is_not_the_last_one() {
    on_own_context(|| {
        let port = proxy(|_, mut stream| {
            let mut request = [0; 10];
            stream.read_exact(&mut request[..3]).unwrap();
            stream.write_all(&[5, 0]).unwrap();
            stream.read_exact(&mut request).unwrap();
            if request[4..8] == [192, 0, 2, 2] {
                stream.write_all(SOCKS5_REPLY).unwrap();
            }
            await_close(stream);
        });
        let addresses: Vec<SocketAddr> = ["192.0.2.1:1", "192.0.2.2:2"].map(|text| text.parse().unwrap()).into();
        // Long enough for an answer on a busy machine.
        let proxy = Proxy::url(format!("socks5://127.0.0.1:{port}")).timeout(Duration::from_secs(2));
        let socket = plain(proxy).connect(addresses).unwrap();
        assert_eq!(socket.remote().inet(), Some("192.0.2.2:2".parse().unwrap()));
    });
}

#[test]
fn this_machine_and_exceptions_are_reached_directly() {
    on_own_context(|| {
        // Nothing listens there.
        let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let proxy = Proxy::url(format!("socks5h://{dead}"));
        let server = Server::builder().tls(false).listen(0, |_| Ok(())).unwrap();
        for host in ["localhost", "127.0.0.1", "127.1", "0.0.0.0"] {
            plain(proxy.clone()).connect((host, server.port())).unwrap();
        }
        let directory = TempDir::new();
        let path = directory.address("socket");
        let _server = Server::builder().listen(path.as_str(), |_| Ok(())).unwrap();
        Socket::builder().proxy(proxy.clone()).connect(path.as_str()).unwrap();

        let error = plain(proxy.clone()).connect("255.255.255.255:1").unwrap_err();
        assert!(matches!(error, Error::Proxy { .. }), "{error}");
        assert!(error.to_string().ends_with("cannot reach the proxy: Connection refused"), "{error}");
        let error = plain(proxy.except(["255.0.0.0/8"])).connect("255.255.255.255:1").unwrap_err();
        assert!(!matches!(error, Error::Proxy { .. }), "{error}");
    });
}

#[test]
fn a_proxy_of_this_thread_cannot_serve_a_call_that_blocks_it() {
    on_own_context(|| {
        let server = Server::builder()
            .tls(false)
            .listen("127.0.0.1:0", |socket| {
                socket.readlines(|socket, line| match line {
                    "\r" => socket.send("HTTP/1.1 200 OK\r\n\r\nhello\n"),
                    _ => Ok(()),
                });
                Ok(())
            })
            .unwrap();
        let builder = plain(format!("http://127.0.0.1:{}", server.port()));
        let error = builder.clone().connect(TARGET).unwrap_err().to_string();
        assert!(error.contains("use connect_async or connect_future"), "{error}");
        let socket = connect_async(builder, TARGET).unwrap();
        assert_eq!(await_it(socket.recv_line_future()).unwrap(), "hello");
    });
}

#[test]
fn settings_that_cannot_be_kept_are_errors() {
    on_own_context(|| {
        let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for (proxy, target, words) in [
            (Proxy::url("socks5://me:sesam@"), TARGET, "expected a host"),
            (Proxy::url("me:sesam@host:1"), TARGET, "expected socks5://"),
            (Proxy::url("http://host").except(["10.0.0.0/99"]), TARGET, "invalid exception \"10.0.0.0/99\""),
            (Proxy::url("http://host:port"), TARGET, "invalid proxy: http://…: expected a port from 1 to 65535"),
            (Proxy::url(format!("socks4a://{dead}")), "[2001:db8::1]:1", "SOCKS4a cannot name an IPv6 address"),
            (Proxy::url(format!("http://{dead}")), "[fe80::1%1]:1", "add it to the exceptions"),
        ] {
            let shown = format!("{proxy} {proxy:?} {:?}", plain(proxy.clone()));
            assert!(!shown.contains("sesam"), "{shown}");
            for result in connect(&plain(proxy), target) {
                let error = result.unwrap_err();
                assert!(error.to_string().contains(words), "{error}");
                assert!(!error.to_string().contains("sesam"), "{error}");
            }
        }
        let long = format!("{}:1", "x".repeat(256));
        let error = plain(format!("socks5h://{dead}")).connect(long.as_str()).unwrap_err();
        assert!(matches!(error, Error::Address { .. }), "{error}");
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let error = Socket::builder().proxy("http://host").from_fd(one).unwrap_err();
        assert!(matches!(error, Error::InvalidOption(_)), "{error}");
        assert_eq!(Proxy::url("http://me:sesam@host").to_string(), "http://host:80");
    });
}

// ---- TLS behind a proxy ----

/// A proxy that joins whoever asks to this server.
fn tunnel(to: u16) -> u16 {
    proxy(move |_, mut client| {
        read_head(&client);
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let mut server = TcpStream::connect(("127.0.0.1", to)).unwrap();
        let (mut from, mut back) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut back);
            let _ = back.shutdown(std::net::Shutdown::Write);
        });
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut server, &mut client);
            let _ = client.shutdown(std::net::Shutdown::Write);
        });
    })
}

#[test]
fn pins_are_those_of_the_target() {
    on_own_context(|| {
        let directory = TempDir::new();
        let store = |tls: ClientTls| tls.directory(directory.path("client"));
        let server = Server::builder()
            .tls(ServerTls::new().directory(directory.path("server")))
            .listen("127.0.0.1:0", |socket| socket.sendline("hello"))
            .unwrap();
        let port = tunnel(server.port());
        let builder = || Socket::builder().proxy(format!("http://127.0.0.1:{port}"));
        let key = server.fingerprint().unwrap();
        let socket = connect_async(builder().tls(ClientTls::pinned(key)), TARGET).unwrap();
        assert!(socket.is_tls());
        assert_eq!(await_it(socket.recv_line_future()).unwrap(), "hello");

        let error = connect_async(builder().tls(store(ClientTls::new())), TARGET).unwrap_err();
        assert!(matches!(&error, Error::UnknownCertificate { peer, .. } if peer == TARGET), "{error}");
        connect_async(builder().tls(store(ClientTls::on_first_use())), TARGET).unwrap();
        connect_async(builder().tls(store(ClientTls::new())), TARGET).unwrap();
        let error = connect_async(builder().tls(store(ClientTls::new())), "other.test:25").unwrap_err();
        assert!(matches!(&error, Error::UnknownCertificate { peer, .. } if peer == "other.test:25"), "{error}");
    });
}

#[test]
fn tls_that_starts_later_is_verified_by_the_targets_name_too() {
    on_own_context(|| {
        let directory = TempDir::new();
        let own = directory.path("server");
        let server = Server::builder()
            .tls(false)
            .listen("127.0.0.1:0", move |socket| {
                socket.start_tls_async(ServerTls::new().directory(&own), gio::Cancellable::NONE, |_, _| {});
                Ok(())
            })
            .unwrap();
        let socket = connect_async(plain(format!("http://127.0.0.1:{}", tunnel(server.port()))), TARGET).unwrap();
        let tls = ClientTls::new().directory(directory.path("client"));
        let error = await_it(socket.start_tls_future(tls)).unwrap_err();
        assert!(matches!(&error, Error::UnknownCertificate { peer, .. } if peer == TARGET), "{error}");
    });
}

/// Writes a certificate for a host, and its key, to files. Gives the authority that has issued it, in PEM, and their paths.
fn certificate(directory: &TempDir, host: &str) -> (String, PathBuf, PathBuf) {
    let mut authority = rcgen::CertificateParams::new([]).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let root = authority.self_signed(&key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new([host.to_string()]).unwrap().signed_by(&key, &issuer).unwrap();
    let [cert_file, key_file] = ["cert.pem", "key.pem"].map(|name| directory.path(name));
    std::fs::write(&cert_file, leaf.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    (root, cert_file, key_file)
}

#[test]
fn openssl_behind_a_proxy_is_verified_by_the_targets_name() {
    let directory = TempDir::new();
    let (root, cert_file, key_file) = certificate(&directory, "target.test");
    let mut server = tool("/usr/bin/openssl");
    server.args(["s_server", "-accept", "0", "-naccept", "10", "-rev", "-cert"]);
    let server = Process::start(server.arg(&cert_file).arg("-key").arg(&key_file), Watch::Stdout);
    let port = tunnel(server.port("ACCEPT"));
    on_own_context(|| {
        let builder = Socket::builder().tls(ClientTls::roots(&root)).proxy(format!("http://127.0.0.1:{port}"));
        for way in 0..3 {
            // It serves one client at a time.
            let socket = connect_by(way, &builder, TARGET).unwrap();
            socket.sendline("olleh").unwrap();
            assert_eq!(socket.recv_line().unwrap(), "hello");
        }
        let error = builder.connect("other.test:25").unwrap_err();
        assert!(matches!(&error, Error::UnknownCertificate { peer, .. } if peer == "other.test:25"), "{error}");
    });
}

// ---- netcat ----

fn netcat(arguments: &[&str]) -> Command {
    command(example("netcat"), arguments)
}

#[test]
fn netcat_takes_a_url_or_the_environment() {
    let (_, talk) = TALKS[0];
    let port = proxy(move |_, mut stream| {
        play(&mut stream, talk, usize::MAX).unwrap();
        stream.write_all(b"hello\n").unwrap();
    });
    let url = format!("socks5h://127.0.0.1:{port}");
    for (name, argument) in [("all_proxy", "environment"), ("ALL_PROXY", "system"), ("unrelated", url.as_str())] {
        let mut netcat = netcat(&["--tls", "off", "--proxy", argument, TARGET]);
        let output = run(netcat.env(name, &url), "");
        output.assert_clean();
        assert_eq!(output.text(), "hello\n");
    }
    // What nobody understands in the user's list does not keep the program from its target.
    let mut netcat_with_list = netcat(&["--verbose", "--tls", "off", "--proxy", "environment", TARGET]);
    let output = run(netcat_with_list.env("all_proxy", &url).env("no_proxy", "10.*,169.254/16"), "");
    assert!(output.status.success() && output.text() == "hello\n", "{}", output.stderr);
    assert_eq!(output.stderr.matches("variable no_proxy: invalid exception \"10.*\"").count(), 1, "{}", output.stderr);
    let output = run(netcat(&["--tls", "off", "--proxy", "http://me:sesam@", TARGET]).env("http_proxy", &url), "");
    let line = output.assert_failed();
    assert!(line.contains("invalid proxy") && !line.contains("sesam"), "{line}");
    run(&mut netcat(&["--listen", "--proxy", "environment", "0"]), "").assert_misused();
}

// ---- other people's proxies ----

/// An address of this machine that is none of its loopback's, in the tests' network.
const FAR: &str = "10.9.8.7";

/// Runs the calling test once more in namespaces of its own, with addresses to reach through a proxy. Gives the name server in
/// there.
fn in_own_network(test: &str) -> Option<name_server::NameServer> {
    if let Some(server) = name_server::inside() {
        for address in ["10.9.8.7/32", "2001:db8::7/128"] {
            assert!(tool("/usr/sbin/ip").args(["addr", "add", address, "dev", "lo"]).status().unwrap().success());
        }
        let mut hosts = std::fs::OpenOptions::new().append(true).open("/etc/hosts").unwrap();
        writeln!(hosts, "10.9.8.7 far.test").unwrap();
        return Some(server);
    }
    name_server::run_again_inside(test);
    None
}

/// Starts a proxy that says nothing when it is ready, and waits until it accepts.
fn start(mut command: Command, port: u16) -> Process {
    let process = Process::start(&mut command, Watch::Stdout);
    let late = Instant::now() + LIMIT;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < late, "the proxy does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    process
}

/// A server in the tests' network that greets and echoes. Its port.
fn greeter() -> u16 {
    let listener = TcpListener::bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // The client of a test for readiness may have gone.
            let _ = stream.write_all(b"hello\n");
            std::thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
        }
    });
    port
}

/// Each of these addresses is reached in all three ways through the proxy.
#[track_caller]
fn assert_reaches(proxy: impl Into<Proxy>, port: u16, hosts: &[&str]) {
    let proxy = proxy.into();
    for host in hosts {
        for socket in connect(&plain(proxy.clone()), &format!("{host}:{port}")) {
            let socket = socket.unwrap_or_else(|error| panic!("{proxy} {host}: {error}"));
            assert_eq!(socket.recv_line().unwrap(), "hello");
            socket.sendline("echo").unwrap();
            assert_eq!(socket.recv_line().unwrap(), "echo");
        }
    }
}

#[track_caller]
fn assert_refuses(proxy: impl Into<Proxy>, address: &str, words: &str) {
    for error in connect(&plain(proxy), address) {
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Proxy { .. }), "{error}");
        assert!(error.to_string().contains(words) && !error.to_string().contains("sesam"), "{error}");
    }
}

#[test]
fn microsocks() {
    let Some(_server) = in_own_network("microsocks") else { return };
    let mut command = party("microsocks");
    command.args(["-i", "127.0.0.1", "-p", "1080", "-u", "me", "-P", "sesam"]);
    let _proxy = start(command, 1080);
    on_own_context(|| {
        let port = greeter();
        let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert_reaches("socks5://me:sesam@127.0.0.1", port, &[FAR, "[2001:db8::7]", "far.test"]);
        assert_reaches("socks5h://me:sesam@127.0.0.1", port, &[FAR, "[2001:db8::7]", "far.test", "both.test"]);
        // A name that is resolved here, and is this machine.
        assert_reaches("socks5://nobody@127.0.0.1:1", port, &["listed.test"]);
        // A name that the proxy may know, and this machine does not.
        let error = plain("socks5://127.0.0.1").connect("unknown.test:1").unwrap_err();
        assert!(matches!(error, Error::Lookup { .. }), "{error}");
        assert!(
            error.to_string().ends_with("; with socks5h://127.0.0.1:1080, the proxy resolves host names"),
            "{error}"
        );
        assert_refuses("socks5h://me:wrong@127.0.0.1", "far.test:1", "rejects the user or password");
        assert_refuses("socks5h://127.0.0.1", "far.test:1", "requires a user and password");
        assert_refuses("socks5h://me:sesam@127.0.0.1", &format!("far.test:{dead}"), "connection refused");
    });
}

#[test]
fn dante() {
    let Some(_server) = in_own_network("dante") else { return };
    let directory = TempDir::new();
    let config = "logoutput: stderr\ninternal: 127.0.0.1 port = 1080\nexternal: lo\nexternal.rotation: route\n\
                  socksmethod: none\nclientmethod: none\nuser.privileged: root\nuser.unprivileged: root\n\
                  client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }\n\
                  socks block { from: 0.0.0.0/0 to: 10.9.8.9/32 }\n\
                  socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 command: connect }\n";
    std::fs::write(directory.path("danted.conf"), config).unwrap();
    let mut command = party("danted");
    command.arg("-f").arg(directory.path("danted.conf"));
    let _proxy = start(command, 1080);
    on_own_context(|| {
        let port = greeter();
        assert_reaches("socks5://127.0.0.1", port, &[FAR, "far.test"]);
        assert_reaches("socks5h://127.0.0.1", port, &[FAR, "far.test"]);
        // It knows version 4 without names.
        assert_reaches("socks4a://127.0.0.1", port, &[FAR]);
        assert_refuses("socks5h://127.0.0.1", "10.9.8.9:1", "its rules do not allow this connection");
        assert_refuses("socks4a://127.0.0.1", "10.9.8.9:1", "it rejects the request, or cannot connect");
    });
}

/// Starts tinyproxy, which connects to this port only and wants a password.
fn start_tinyproxy(directory: &TempDir, port: u16) -> Process {
    let config = format!(
        "Port 8888\nListen 127.0.0.1\nTimeout 60\nMaxClients 100\nBasicAuth me sesam\nConnectPort {port}\n\
         Allow 127.0.0.1\nLogFile \"{}\"\n",
        directory.address("log")
    );
    std::fs::write(directory.path("tinyproxy.conf"), config).unwrap();
    let mut command = party("tinyproxy");
    command.arg("-d").arg("-c").arg(directory.path("tinyproxy.conf"));
    start(command, 8888)
}

#[test]
fn tinyproxy() {
    let Some(_server) = in_own_network("tinyproxy") else { return };
    let directory = TempDir::new();
    let port = greeter();
    let _proxy = start_tinyproxy(&directory, port);
    on_own_context(|| {
        assert_reaches("http://me:sesam@127.0.0.1:8888", port, &[FAR, "far.test", "[2001:db8::7]"]);
        assert_refuses("http://me:wrong@127.0.0.1:8888", &format!("{FAR}:{port}"), " 401 Unauthorized");
        assert_refuses("http://127.0.0.1:8888", &format!("{FAR}:{port}"), "requires a user and password");
        assert_refuses("http://me:sesam@127.0.0.1:8888", &format!("{FAR}:1"), " 403 Access violation");
    });
}

#[test]
fn the_system_is_asked_if_the_environment_names_no_proxy() {
    let Some(_server) = in_own_network("the_system_is_asked_if_the_environment_names_no_proxy") else { return };
    let port = greeter();
    let mut netcat =
        Process::start(&mut netcat(&["--tls", "off", "--proxy", "system", &format!("{FAR}:{port}")]), Watch::Stdout);
    // gio has no settings here, and says "direct".
    assert_eq!(netcat.line(), "hello");
    netcat.end_input();
    netcat.finish().assert_clean();
}
