//! Every limit: what is just within it, and what is just beyond.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use network::http::{Reply, Request, Server, ServerBuilder};

use super::raw::Raw;
use crate::common::{beside, on_own_context, until_on_threads};

/// A server that tells the length of the body.
fn counting(change: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Server {
    let count = async |mut request: Request| {
        let bytes = request.bytes_future().await?;
        Ok(Reply::text(bytes.len().to_string()))
    };
    change(Server::builder()).serve("http://127.0.0.1:0/", count).unwrap()
}

/// Runs a client beside a server.
fn with_server(change: impl FnOnce(ServerBuilder) -> ServerBuilder, client: impl FnOnce(u16) + Send) {
    on_own_context(|| {
        let server = counting(change);
        let port = server.port();
        beside(move || client(port));
    });
}

fn status(port: u16, request: impl AsRef<[u8]>) -> u16 {
    let mut raw = Raw::connect(port);
    raw.try_send(request);
    raw.answer().status
}

/// A head of exactly so many bytes.
fn head_of(length: usize) -> String {
    let head = "GET / HTTP/1.1\r\nHost: localhost\r\nX: ";
    format!("{head}{}\r\n\r\n", "x".repeat(length - head.len() - 4))
}

#[test]
fn heads() {
    with_server(
        |builder| builder,
        |port| {
            assert_eq!(status(port, head_of(32 << 10)), 200);
            assert_eq!(status(port, head_of((32 << 10) + 1)), 431);
            // In pieces, it is all the same.
            for (length, wanted) in [(32 << 10, 200), ((32 << 10) + 1, 431), (200_000, 431)] {
                let mut raw = Raw::connect(port);
                for piece in head_of(length).as_bytes().chunks(3000) {
                    if !raw.try_send(piece) {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                assert_eq!(raw.answer().status, wanted, "{length}");
            }
            let target = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(length - 1));
            assert_eq!(status(port, target(8 << 10)), 200);
            assert_eq!(status(port, target((8 << 10) + 1)), 414);
            // Without an end.
            assert_eq!(status(port, format!("GET /{}", "x".repeat(9 << 10))), 414);
            let fields =
                |count: usize| format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "x: y\r\n".repeat(count - 1));
            assert_eq!(status(port, fields(100)), 200);
            assert_eq!(status(port, fields(101)), 431);
        },
    );
    let smaller = |builder: ServerBuilder| builder.header_limit(1000).max_headers(5).target_limit(100);
    with_server(smaller, |port| {
        assert_eq!(status(port, head_of(1000)), 200);
        assert_eq!(status(port, head_of(1001)), 431);
        assert_eq!(status(port, format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(100))), 414);
        assert_eq!(status(port, format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "x: y\r\n".repeat(5))), 431);
    });
    let boundless = |builder: ServerBuilder| builder.header_limit(usize::MAX).target_limit(usize::MAX);
    with_server(boundless, |port| {
        let mut raw = Raw::connect(port);
        raw.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET /");
        assert_eq!(raw.answer().status, 200);
        raw.send(format!("{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(60_000)));
        assert_eq!(raw.answer().status, 200);
    });
    with_server(
        |builder| builder.header_limit(1 << 20).max_headers(2000),
        |port| {
            assert_eq!(status(port, head_of(1 << 20)), 200);
            let fields = "x: y\r\n".repeat(1999);
            assert_eq!(status(port, format!("GET / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")), 200);
        },
    );
}

#[test]
fn bodies() {
    with_server(
        |builder| builder.body_limit(1000),
        |port| {
            let known = |length: usize| {
                format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length))
            };
            let chunked = |length: usize| {
                let chunks = format!("64\r\n{}\r\n", "x".repeat(100)).repeat(length / 100);
                let rest = format!("{:x}\r\n{}\r\n", length % 100, "x".repeat(length % 100));
                let rest = if length.is_multiple_of(100) { String::new() } else { rest };
                format!(
                    "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{rest}0\r\n\r\n"
                )
            };
            for (request, wanted) in
                [(known(1000), 200), (known(1001), 413), (chunked(1000), 200), (chunked(1001), 413)]
            {
                let mut raw = Raw::connect(port);
                raw.send(request);
                let answer = raw.answer();
                assert_eq!(answer.status, wanted, "{answer:?}");
                if wanted == 413 {
                    assert!(answer.head.contains("connection: close\r\n"), "{answer:?}");
                    assert!(raw.is_over());
                } else {
                    assert_eq!(answer.body, "1000");
                }
            }
            // What breaks off, or is malformed, is the client's fault.
            let mut raw = Raw::connect(port);
            raw.send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nfive!");
            raw.shut();
            assert_eq!(raw.answer().status, 400);
            let broken =
                "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n";
            assert_eq!(status(port, broken), 400);
        },
    );
}

#[test]
fn a_body_limit_of_zero_lets_no_body_pass() {
    with_server(
        |builder| builder.body_limit(0),
        |port| {
            for (body, wanted) in [("", 200), ("x", 413)] {
                let length = body.len();
                let head = format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}");
                assert_eq!(status(port, head), wanted);
            }
        },
    );
}

#[test]
fn a_body_is_asked_for_only_when_it_is_wanted() {
    with_server(
        |builder| builder.body_limit(1000),
        |port| {
            let expect = |length: usize| {
                format!(
                    "POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
                )
            };
            let mut raw = Raw::connect(port);
            raw.send(expect(5));
            assert_eq!(raw.answer().head, "HTTP/1.1 100 Continue\r\n\r\n");
            raw.send("hello");
            assert_eq!(raw.answer().body, "5");
            let mut raw = Raw::connect(port);
            raw.send(expect(1001));
            assert_eq!(raw.answer().status, 413);
            assert!(raw.is_over());
        },
    );
    on_own_context(|| {
        let server = Server::new("http://127.0.0.1:0/", |_| Ok(Reply::text("no, thanks"))).unwrap();
        let url = server.url();
        let file = std::env::current_exe().unwrap();
        let text = beside(|| super::curl(["-i", "-T", file.to_str().unwrap(), "-H", "Expect: 100-continue", &url]));
        assert!(!text.contains("100 Continue") && text.ends_with("no, thanks"), "{text}");
    });
}

#[test]
fn a_body_that_nobody_wants_is_read_away_or_the_connection_closed() {
    on_own_context(|| {
        let server = Server::new("http://127.0.0.1:0/", |_| Ok(Reply::text("ok"))).unwrap();
        let port = server.port();
        beside(move || {
            for (length, stays) in
                [(0, true), (1000, true), (256 << 10, true), ((256 << 10) + 1, false), (20 << 20, false)]
            {
                let mut raw = Raw::connect(port);
                raw.try_send(format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"));
                raw.try_send(vec![b'x'; length]);
                let answer = raw.answer();
                assert_eq!(answer.body, "ok");
                assert_eq!(answer.head.contains("connection: close\r\n"), !stays, "{length}: {answer:?}");
                if stays {
                    raw.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
                    assert_eq!(raw.answer().body, "ok");
                } else {
                    assert!(raw.is_over());
                }
            }
            // In chunks, it is only known when it has come.
            let mut raw = Raw::connect(port);
            raw.send("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(65536));
            let begun = Instant::now();
            while raw.try_send(&chunk) {
                assert!(begun.elapsed() < Duration::from_secs(10), "it takes what nobody wants for ever");
            }
            // One that does not come is waited for two seconds.
            let mut raw = Raw::connect(port);
            raw.send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12345");
            assert_eq!(raw.answer().body, "ok");
            let begun = Instant::now();
            assert!(raw.is_over());
            assert!(
                (Duration::from_millis(1500)..Duration::from_secs(10)).contains(&begun.elapsed()),
                "{:?}",
                begun.elapsed()
            );
        });
    });
}

#[test]
fn slow_clients() {
    let limit = Duration::from_millis(300);
    let short = |builder: ServerBuilder| builder.header_timeout(limit).keep_idle(2 * limit).body_timeout(limit);
    with_server(short, |port| {
        let took = |begun: Instant, wanted: Duration| {
            let took = begun.elapsed();
            assert!(took >= wanted - Duration::from_millis(20) && took < wanted + Duration::from_secs(8), "{took:?}");
        };
        // Silence.
        let begun = Instant::now();
        assert!(Raw::connect(port).is_over());
        took(begun, 2 * limit);
        // A head that trickles: the time for it does not begin anew with each byte.
        let mut raw = Raw::connect(port);
        let begun = Instant::now();
        for byte in head_of(20_000).as_bytes() {
            if begun.elapsed() > 4 * limit || !raw.try_send([*byte]) {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let answer = raw.answer();
        assert_eq!(answer.status, 408, "{answer:?}");
        // Between two requests.
        let mut raw = Raw::connect(port);
        raw.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(raw.answer().status, 200);
        let begun = Instant::now();
        assert!(raw.is_over());
        took(begun, 2 * limit);
        // A body that makes progress takes as long as it likes.
        let mut raw = Raw::connect(port);
        raw.send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\n");
        for _ in 0..8 {
            std::thread::sleep(limit / 3);
            raw.send("x");
        }
        assert_eq!(raw.answer().body, "8");
        // And one that does not has its limit.
        let mut raw = Raw::connect(port);
        raw.send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\nx");
        let begun = Instant::now();
        assert!(raw.is_over());
        took(begun, limit);
    });
}

#[test]
fn slow_readers() {
    on_own_context(|| {
        let body = vec![b'x'; 32 << 20];
        let server = Server::builder()
            .write_timeout(Duration::from_millis(500))
            .get("/", move |_| Ok(Reply::bytes(body.clone())))
            .listen("http://127.0.0.1:0/")
            .unwrap();
        let port = server.port();
        let connections = server.listener().clone();
        let mut raw = Raw::connect(port);
        raw.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        crate::common::until(|| connections.connections().len() == 1);
        // It reads nothing at all.
        crate::common::until(|| connections.connections().is_empty());
        let got = std::io::copy(&mut raw.0, &mut std::io::sink());
        assert!(got.is_err() || got.unwrap() < 32 << 20);
        // A slow one that does read gets all of it.
        let mut raw = Raw::connect(port);
        let reader = std::thread::spawn(move || {
            raw.send("GET / HTTP/1.0\r\n\r\n");
            let (mut total, mut buffer) = (0, vec![0; 1 << 20]);
            loop {
                match raw.0.read(&mut buffer).unwrap() {
                    0 => return total,
                    count => total += count,
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        until_on_threads(|| reader.is_finished());
        assert!(reader.join().unwrap() > 32 << 20);
    });
}

#[test]
fn requests_and_connections() {
    on_own_context(|| {
        let server = Server::builder()
            .requests_per_connection(3)
            .max_connections(2)
            .get("/", |_| Ok(Reply::text("ok")))
            .listen("http://127.0.0.1:0/")
            .unwrap();
        let port = server.port();
        beside(move || {
            let mut raw = Raw::connect(port);
            // Pipelined: they are answered in order, up to the limit.
            raw.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(5));
            for number in 0..3 {
                let answer = raw.answer();
                assert_eq!(answer.head.contains("connection: close\r\n"), number == 2, "{answer:?}");
            }
            assert!(raw.is_over());
            // The third waits in the backlog.
            let mut open = [Raw::connect(port), Raw::connect(port), Raw::connect(port)];
            for raw in &mut open {
                raw.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
            }
            let [first, second, third] = &mut open;
            assert_eq!((first.answer().status, second.answer().status), (200, 200));
            third.0.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            assert!(third.0.read(&mut [0]).is_err());
            third.0.set_read_timeout(Some(crate::common::LIMIT)).unwrap();
            first.0.shutdown(std::net::Shutdown::Both).unwrap();
            assert_eq!(third.answer().status, 200);
        });
    });
}

#[test]
fn many_requests_at_once_are_answered_in_order() {
    on_own_context(|| {
        let server = Server::builder()
            .requests_per_connection(u32::MAX)
            .post("/*", async |mut request| {
                let body = request.text_future().await?;
                Ok(Reply::text(format!("{} {body}", request.path())))
            })
            .listen("http://127.0.0.1:0/")
            .unwrap();
        let port = server.port();
        beside(move || {
            let mut raw = Raw::connect(port);
            let mut writer = raw.0.try_clone().unwrap();
            let sender = std::thread::spawn(move || {
                for number in 0..3000 {
                    let (head, body) = match number % 3 {
                        0 => ("Content-Length: 2", "hi"),
                        1 => ("Transfer-Encoding: chunked", "2\r\nhi\r\n0\r\n\r\n"),
                        _ => ("X: y", ""),
                    };
                    let request = format!("POST /{number} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n{body}");
                    // Cut anywhere.
                    let cut = number * 7 % request.len();
                    writer.write_all(&request.as_bytes()[..cut]).unwrap();
                    writer.write_all(&request.as_bytes()[cut..]).unwrap();
                }
            });
            for number in 0..3000 {
                let body = if number % 3 == 2 { "" } else { "hi" };
                assert_eq!(raw.answer().body, format!("/{number} {body}"));
            }
            sender.join().unwrap();
        });
    });
}

#[test]
fn hosts_and_origins() {
    on_own_context(|| {
        let server = Server::builder()
            .hosts(["desk.example"])
            .origins(["https://app.example"])
            .serve("http://127.0.0.1:0/", async |_| Ok(Reply::text("ok")))
            .unwrap();
        let port = server.port();
        beside(move || {
            let ask = |method: &str, host: &str, fields: &str| {
                status(port, format!("{method} / HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"))
            };
            for host in ["localhost", &format!("127.0.0.1:{port}"), "[::1]", "desk.example", "desk.example:8080"] {
                assert_eq!(ask("GET", host, ""), 200, "{host}");
            }
            for host in ["evil.example", "10.1.2.3", "localhost.evil.example", ""] {
                assert_eq!(ask("GET", host, ""), 421, "{host}");
            }
            for (method, fields, wanted) in [
                ("POST", "", 200),
                ("POST", "Origin: http://localhost\r\n", 200),
                ("POST", "Origin: https://app.example\r\n", 200),
                ("POST", "Origin: https://evil.example\r\n", 403),
                ("POST", "Origin: null\r\n", 403),
                ("POST", "Sec-Fetch-Site: cross-site\r\n", 403),
                ("POST", "Sec-Fetch-Site: same-origin\r\n", 200),
                ("GET", "Origin: https://evil.example\r\nSec-Fetch-Site: cross-site\r\n", 200),
                ("GET", "Origin: https://evil.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n", 403),
            ] {
                assert_eq!(ask(method, "localhost", fields), wanted, "{method} {fields}");
            }
        });
    });
}
