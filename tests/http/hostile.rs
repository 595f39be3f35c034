//! Servers that lie, hang, flood and stop midway, and the limits that the client sets them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use network::http::{Client, ClientBuilder, Cookies, Method, RequestBuilder};
use network::socket::Proxy;
use network::{Error, Result};

use super::common::{await_it, on_own_context, until_on_threads};
use super::scripted::{Peer, Server, response};

pub fn plain() -> ClientBuilder {
    Client::builder().proxy(Proxy::none())
}

/// The outcome of a request, in a word.
fn word(result: &Result<Vec<u8>>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(Error::Http { .. }) => "http",
        Err(Error::LimitExceeded { .. }) => "limit",
        Err(Error::TimedOut { .. }) => "late",
        Err(Error::Closed { .. }) => "closed",
        Err(Error::Reset { .. }) => "reset",
        Err(Error::InvalidOption(_)) => "option",
        Err(Error::Address { .. }) => "address",
        Err(_) => "other",
    }
}

async fn whole(request: RequestBuilder) -> Result<Vec<u8>> {
    request.send_future().await?.bytes_future().await
}

fn outcome(client: &Client, answer: impl Fn(&mut Peer) + Send + Sync + 'static) -> Result<Vec<u8>> {
    let server = Server::new(move |mut peer| {
        if peer.request().is_some() {
            answer(&mut peer);
        }
    });
    await_it(whole(client.get(server.url("/"))))
}

/// Repeats something until the client has had enough.
fn flood(peer: &mut Peer, what: &str) {
    let what = what.repeat(1 + 65536 / what.len());
    while peer.say(&what) {}
}

#[test]
fn heads() {
    let field =
        |length: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: {}\r\n\r\n", "x".repeat(length - 43));
    let fields = |count: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
    let interim = |count: usize| "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(count) + &response("200 OK", "", "");
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n";
    assert_eq!(field(1000).len(), 1000);
    on_own_context(|| {
        let client = plain().build();
        for (answer, expected) in [
            (response("200 OK", "", "hi"), "ok"),
            ("HTTP/1.0 200 OK\r\n\r\nhi".into(), "ok"),
            ("HTTP/1.1 200 OK\r\n\r\nhi".into(), "ok"),
            ("HTTP/1.1 204 No Content\r\n\r\n".into(), "ok"),
            // Limits, one under and one over.
            (field(65536), "ok"),
            (field(65537), "http"),
            (fields(100), "ok"),
            (fields(101), "http"),
            (interim(16), "ok"),
            (interim(17), "http"),
            // Two readings.
            (format!("{length}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), "http"),
            (format!("{chunked}Content-Length: 2\r\n\r\n0\r\n\r\n"), "http"),
            (format!("{length}Content-Length: 3\r\n\r\nhi"), "http"),
            (format!("{chunked}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), "http"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".into(), "http"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhi".into(), "http"),
            ("HTTP/1.1 200 OK\nContent-Length: 2\n\nhi".into(), "http"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nhi".into(), "http"),
            // No HTTP.
            ("hello\r\n".into(), "http"),
            ("ICY 200 OK\r\n\r\n".into(), "http"),
            ("HTTP/1.1 2000 OK\r\n\r\n".into(), "http"),
            ("HTTP/1.1 200 OK\r\n folded\r\n\r\n".into(), "http"),
            ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n".into(), "http"),
            ("HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n".into(), "http"),
            ("HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nhi".into(), "http"),
            ("HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n".into(), "http"),
            // Cut off.
            ("".into(), "closed"),
            ("HTTP/1.1 200".into(), "closed"),
            (format!("{length}\r\nh"), "closed"),
            (format!("{chunked}\r\n2\r\nhi\r\n"), "closed"),
            (format!("{chunked}\r\n2\r\nhi\r\n0\r\n"), "closed"),
            // Chunks.
            (format!("{chunked}\r\n2;x=y\r\nhi\r\n0\r\nTrailer: x\r\n\r\n"), "ok"),
            (format!("{chunked}\r\n-1\r\nhi\r\n0\r\n\r\n"), "http"),
            (format!("{chunked}\r\nfffffffffffffffff\r\nhi\r\n0\r\n\r\n"), "http"),
        ] {
            let shown: String = answer.chars().take(90).collect();
            let result = outcome(&client, move |peer| _ = peer.say(&answer));
            assert_eq!(word(&result), expected, "{shown:?}: {result:?}");
        }
        let lenient = plain().lenient(true).build();
        let result = outcome(&lenient, |peer| _ = peer.say("HTTP/1.1 200 OK\nContent-Length: 2\n\nhi"));
        assert_eq!(result.unwrap(), b"hi");
    });
}

#[test]
fn floods_are_bounded_in_memory() {
    // The peak is that of the process: other tests would count.
    if std::env::var_os("NETWORK_ALONE").is_none() {
        let mut alone = super::common::command(
            std::env::current_exe().unwrap(),
            ["--exact", "hostile::floods_are_bounded_in_memory"],
        );
        super::common::run(alone.env("NETWORK_ALONE", "1"), "").assert_clean();
        return;
    }
    on_own_context(|| {
        let client = plain().build();
        let _ = outcome(&client, |peer| _ = peer.ok("warm"));
        let before = peak();
        for (name, start, more, expected) in [
            ("an endless head", "HTTP/1.1 200 OK\r\nX: ", "x", "http"),
            ("endless fields", "HTTP/1.1 200 OK\r\n", "X: y\r\n", "http"),
            ("endless empty lines", "", "\r\n", "http"),
            ("endless interim responses", "", "HTTP/1.1 103 x\r\n\r\n", "http"),
            ("an endless body", "HTTP/1.1 200 OK\r\n\r\n", "x", "limit"),
            ("endless chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n", "limit"),
            ("an endless extension", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", "x", "http"),
            ("endless trailers", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "X: y\r\n", "http"),
        ] {
            let client = plain().body_limit(8 << 10).build();
            let result = outcome(&client, move |peer| {
                peer.say(start);
                flood(peer, more);
            });
            assert_eq!(word(&result), expected, "{name}: {:?}", result.map(|body| body.len()));
        }
        let grown = peak() - before;
        assert!(grown < 4 << 20, "{grown} bytes more than before");
    });
}

/// Returns the most memory that this process has had, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

#[test]
fn bodies_have_limits() {
    on_own_context(|| {
        for (length, expected) in [(1000, "ok"), (1001, "limit")] {
            for chunked in [false, true] {
                let client = plain().body_limit(1000).build();
                let result = outcome(&client, move |peer| {
                    let body = "x".repeat(length);
                    let chunked_head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                    peer.say(match chunked {
                        true => format!("{chunked_head}{length:x}\r\n{body}\r\n0\r\n\r\n"),
                        false => response("200 OK", "", &body),
                    });
                });
                assert_eq!(word(&result), expected, "{length} {chunked}");
            }
        }
        // A length is refused before anything is received.
        let client = plain().body_limit(1000).build();
        let result = outcome(&client, |peer| {
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
            peer.await_end();
        });
        assert_eq!(word(&result), "limit");
        // Streams have another limit.
        for (limit, expected) in [(5, "ok"), (4, "limit")] {
            let client = plain().body_limit(1).max_download(limit).build();
            let server = Server::answering(|_| response("200 OK", "", "hello"));
            let result = await_it(async {
                let response = client.get(server.url("/")).send_future().await?;
                let mut all = Vec::new();
                while let Some(piece) = response.chunk_future().await? {
                    all.extend(piece);
                }
                Ok(all)
            });
            assert_eq!(word(&result), expected);
        }
    });
}

#[test]
fn silence_and_slowness_have_limits() {
    let short = Duration::from_millis(200);
    on_own_context(|| {
        let silent = plain().idle_timeout(short).build();
        for head in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi"] {
            let started = Instant::now();
            let result = outcome(&silent, move |peer| {
                peer.say(head);
                peer.await_end();
            });
            assert_eq!(word(&result), "late", "{head:?} {result:?} {:?}", started.elapsed());
            assert!(started.elapsed() >= short);
        }
        // What trickles is no silence.
        fn trickle(peer: &mut Peer) {
            for piece in "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".as_bytes().chunks(4) {
                if !peer.say(piece) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        assert_eq!(outcome(&silent, trickle).unwrap(), b"hello");
        let whole = plain().timeout(short).build();
        assert_eq!(word(&outcome(&whole, trickle)), "late");
        // The whole time goes on in the body.
        let result = outcome(&whole, |peer| {
            peer.say("HTTP/1.1 200 OK\r\n\r\n");
            while peer.say("x") {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        assert_eq!(word(&result), "late");
        for (bytes, expected) in [(1, "ok"), (1000, "late")] {
            let client = plain().min_speed(bytes, Duration::from_millis(100)).build();
            let result = outcome(&client, |peer| {
                peer.say("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n");
                for _ in 0..20 {
                    peer.say("x");
                    std::thread::sleep(Duration::from_millis(15));
                }
            });
            assert_eq!(word(&result), expected, "{bytes}");
        }
    });
}

#[test]
fn nobody_hears_of_silence_that_is_the_programs() {
    let short = Duration::from_millis(100);
    on_own_context(|| {
        let client = plain().idle_timeout(short).build();
        let server = Server::answering(|request| response("200 OK", "", &request.len().to_string()));
        // A body that comes slowly.
        let slow = futures_util::stream::unfold(0, |number| async move {
            network::sleep(Duration::from_millis(250)).await;
            (number < 2).then(|| (Ok(b"x".to_vec()), number + 1))
        });
        let response = await_it(client.post(server.url("/")).body_stream(None, slow).send_future()).unwrap();
        // A body that is read late.
        await_it(network::sleep(Duration::from_millis(300)));
        assert!(await_it(response.text_future()).unwrap().parse::<usize>().unwrap() > 100);
    });
}

#[test]
fn a_second_response_is_not_taken_for_the_answer_to_the_next_request() {
    on_own_context(|| {
        let server = Server::new(|mut peer| {
            let number = peer.number;
            while peer.request().is_some() {
                let answer = response("200 OK", "", &format!("{number}"));
                let evil = response("200 OK", "", "evil");
                peer.say(answer + &evil);
            }
        });
        let client = plain().build();
        for number in 0..5 {
            assert_eq!(await_it(whole(client.get(server.url("/")))).unwrap(), number.to_string().as_bytes());
        }
        assert_eq!(server.accepted(), 5);
        // The same if it comes a little later.
        let server = Server::new(|mut peer| {
            let number = peer.number;
            while peer.request().is_some() {
                peer.ok(&format!("{number}"));
                std::thread::sleep(Duration::from_millis(30));
                peer.ok("evil");
            }
        });
        for number in 0..3 {
            assert_eq!(await_it(whole(client.get(server.url("/")))).unwrap(), number.to_string().as_bytes());
            await_it(network::sleep(Duration::from_millis(100)));
        }
    });
}

#[test]
fn a_kept_connection_that_is_gone_is_replaced() {
    for resets in [false, true] {
        on_own_context(|| {
            let server = Server::new(move |mut peer| {
                peer.request().unwrap();
                peer.ok("first");
                // The next request arrives, and nothing is said to it.
                if peer.number < 2 && peer.head().is_some() {
                    if resets { peer.reset() } else { peer.end() }
                } else {
                    peer.await_end();
                }
            });
            let client = plain().build();
            let ask = |method: Method| await_it(whole(client.request(method, server.url("/"))));
            ask(Method::GET).unwrap();
            assert_eq!(ask(Method::GET).unwrap(), b"first");
            assert_eq!(server.accepted(), 2);
            // It may have had its effect.
            let error = ask(Method::POST).unwrap_err();
            assert!(matches!(error, Error::Closed { .. } | Error::Reset { .. }), "{error}");
            assert_eq!(ask(Method::POST).unwrap(), b"first");
            assert_eq!(server.accepted(), 3);
        });
    }
    // On a new connection nothing is tried again.
    on_own_context(|| {
        let server = Server::new(|mut peer| drop(peer.request()));
        let result = await_it(whole(plain().build().get(server.url("/"))));
        assert_eq!((word(&result), server.accepted()), ("closed", 1));
    });
}

#[test]
fn idle_connections_are_closed_in_time() {
    on_own_context(|| {
        let ended = Arc::new(AtomicUsize::new(0));
        let count = ended.clone();
        let server = Server::new(move |mut peer| {
            peer.request().unwrap();
            peer.ok("");
            peer.await_end();
            count.fetch_add(1, Ordering::SeqCst);
        });
        let client = plain().keep_idle(Duration::from_millis(50)).build();
        await_it(whole(client.get(server.url("/")))).unwrap();
        until_on_threads(|| ended.load(Ordering::SeqCst) == 1);
        // None is kept.
        let client = plain().keep_idle(Duration::ZERO).build();
        for _ in 0..3 {
            await_it(whole(client.get(server.url("/")))).unwrap();
        }
        assert_eq!(server.accepted(), 4);
    });
}

#[test]
fn connections_are_limited() {
    for (builder, most) in [(plain().per_host(3), 3), (plain().per_host(100).connections(4), 4)] {
        on_own_context(|| {
            let (now, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let (counted, highest) = (now.clone(), peak.clone());
            // Each connection has one request at a time.
            let serve = move |mut peer: Peer| {
                while peer.request().is_some() {
                    highest.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(5));
                    counted.fetch_sub(1, Ordering::SeqCst);
                    peer.ok("x");
                }
            };
            let serve = Arc::new(serve);
            let servers: Vec<_> = (0..3)
                .map(|_| {
                    let serve = serve.clone();
                    Server::new(move |peer| serve(peer))
                })
                .collect();
            let client = builder.build();
            let one = if most == 3 { 1 } else { 3 };
            let all = (0..60).map(|number| whole(client.get(servers[number % one].url("/"))));
            for result in await_it(futures_util::future::join_all(all)) {
                assert_eq!(result.unwrap(), b"x");
            }
            assert_eq!(peak.load(Ordering::SeqCst), most);
        });
    }
}

#[test]
fn bad_options_are_told_before_anything_is_sent() {
    on_own_context(|| {
        let server = Server::answering(|_| response("200 OK", "", ""));
        let url = server.url("/");
        let client = plain().build();
        let requests = [
            client.get(&url).header("a b", "x"),
            client.get(&url).header("a", "x\r\nb: c"),
            client.get(&url).header("content-length", "7"),
            client.get(&url).timeout(Duration::ZERO),
            client.get(&url).version(network::http::Version::HTTP_2),
            plain().connect_timeout(Duration::ZERO).build().get(&url),
            plain().idle_timeout(Duration::ZERO).build().get(&url),
            plain().timeout(Duration::ZERO).build().get(&url),
            plain().min_speed(1, Duration::ZERO).build().get(&url),
            plain().min_speed(0, Duration::ZERO).build().get(&url),
            plain().connections(0).build().get(&url),
            plain().per_host(0).build().get(&url),
            plain().header_limit(0).build().get(&url),
            plain().max_headers(0).build().get(&url),
            plain().max_headers(usize::MAX).build().get(&url),
            plain().bearer("").build().get(&url),
            plain().cookies(Cookies::new().site("")).build().get(&url),
            plain().cookies(Cookies::new().site("http://example.com/")).build().get(&url),
            plain().cookies(Cookies::new().site("example.com:80")).build().get(&url),
            plain().cookies(Cookies::new().site("a b")).build().get(&url),
            plain().connect_to("https://127.0.0.1:1/").build().get(&url),
            plain().header("x", "\0").build().get(&url),
            plain().bearer("a\nb").build().get(&url),
            plain().basic("a:b", "c").build().get(&url),
            client.post(&url).body_stream(5, futures_util::stream::iter([Ok(vec![0; 4])])),
            client.post(&url).body_stream(5, futures_util::stream::iter([Ok(vec![0; 6])])),
            client
                .post(&url)
                .version(network::http::Version::HTTP_10)
                .body_stream(None, futures_util::stream::iter([Ok(vec![0; 6])])),
        ];
        for (number, request) in requests.into_iter().enumerate() {
            let result = await_it(whole(request));
            assert_eq!(word(&result), "option", "{number}: {result:?}");
        }
        let nowhere = await_it(client.get(&url).download_future(""));
        assert!(matches!(nowhere, Err(Error::InvalidOption(_))), "{nowhere:?}");
        for url in ["ftp://h/", "nothing", "http://h/\r\nx", ""] {
            assert_eq!(word(&await_it(whole(client.get(url)))), "address", "{url}");
        }
        assert!(server.seen().is_empty(), "{:?}", server.seen());
        let denied = plain().deny_private(true).build();
        assert_eq!(word(&await_it(whole(denied.get(&url)))), "address");
        assert!(plain().base("x").is_err());
    });
}

#[test]
fn as_many_fields_come_as_are_allowed() {
    on_own_context(|| {
        let server = Server::answering(|request| {
            let count = request.split(['/', ' ']).find_map(|word| word.parse::<usize>().ok()).unwrap();
            // With the length.
            let fields: String = (1..count).map(|number| format!("X-{number}: y\r\n")).collect();
            response("200 OK", &fields, "")
        });
        let many = plain().header_limit(1 << 20).max_headers(10_000).build();
        for (client, most) in [(plain().build(), 100), (many, 10_000)] {
            assert!(await_it(whole(client.get(server.url(&format!("/{most}"))))).is_ok(), "{most}");
            let error = await_it(whole(client.get(server.url(&format!("/{}", most + 1))))).unwrap_err();
            assert!(error.to_string().ends_with(&format!("more than {most} fields (max_headers)")), "{error}");
        }
    });
}

#[test]
fn a_connection_that_was_closed_meanwhile_is_not_used() {
    // The server closes each connection after its response, without saying so.
    for blocks in [false, true] {
        on_own_context(|| {
            let server = Server::new(|mut peer| {
                peer.request().unwrap();
                peer.ok("x");
                peer.end();
            });
            let client = plain().build();
            for _ in 0..3 {
                let request = client.post(server.url("/")).body("y");
                let body = if blocks { request.send().and_then(|it| it.bytes()) } else { await_it(whole(request)) };
                assert_eq!(body.unwrap(), b"x");
                // The loop does not run meanwhile.
                std::thread::sleep(Duration::from_millis(50));
            }
        });
    }
}

#[test]
fn tls_that_is_cut_off_cuts_off_the_body() {
    use super::common::{Process, TempDir, Watch, run, tool};

    let directory = TempDir::new();
    let make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=x -addext subjectAltName=IP:127.0.0.1 -out cert -keyout key";
    assert!(run(tool("/usr/bin/openssl").args(make.split(' ')).current_dir(directory.path("")), "").status.success());
    let roots = std::fs::read(directory.path("cert")).unwrap();
    for (head, expected) in [("", "truncated"), ("Content-Length: 2\r\n", "ok"), ("Content-Length: 3\r\n", "truncated")]
    {
        let port = super::nginx::free_port();
        let mut openssl = tool("/usr/bin/openssl");
        openssl.args(["s_server", "-cert", "cert", "-key", "key", "-accept", &format!("127.0.0.1:{port}")]);
        let mut server = Process::start(openssl.current_dir(directory.path("")), Watch::Stdout);
        server.line_with("ACCEPT");
        on_own_context(|| {
            let client = plain().tls(network::ClientTls::roots(&roots)).build();
            let result = await_it(async {
                let sending = client.get(format!("https://127.0.0.1:{port}/")).send_future();
                let answering = async {
                    network::sleep(Duration::from_millis(100)).await;
                    server.send(format!("HTTP/1.1 200 OK\r\n{head}\r\nhi"));
                };
                let (response, ()) = futures_util::future::join(sending, answering).await;
                let response = response?;
                let first = response.chunk_future().await?.unwrap();
                server.signal(rustix::process::Signal::KILL);
                Ok([first, response.bytes_future().await?].concat())
            });
            let is_truncated = matches!(result, Err(Error::Truncated { .. }));
            assert_eq!(if is_truncated { "truncated" } else { word(&result) }, expected, "{head:?}: {result:?}");
        });
    }
}

#[test]
fn errors_of_connecting_name_the_url() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let plaintext = Server::new(|mut peer| {
        let _ = std::io::Read::read(&mut peer.stream, &mut [0; 4096]);
        peer.say("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    for blocks in [true, false] {
        on_own_context(|| {
            let client = plain().build();
            let ask = |url: &str| {
                let request = client.get(url);
                if blocks { request.send().unwrap_err() } else { await_it(request.send_future()).unwrap_err() }
            };
            let url = format!("http://127.0.0.1:{port}/path");
            // Without the query, which may be secret.
            let error = ask(&format!("{url}?secret"));
            assert!(matches!(&error, Error::Refused { address, .. } if *address == url), "{error}");
            let url = format!("https://127.0.0.1:{}/", plaintext.port);
            let error = ask(&url);
            assert!(matches!(error, Error::Plaintext { .. }), "{error}");
            let text = error.to_string();
            assert!(text.starts_with(&url) && text.contains("write http://") && !text.contains("tls(false)"), "{text}");
            let error = ask("wss://h/").to_string();
            assert!(error.contains("websocket::WebSocket"), "{error}");
        });
    }
}

#[test]
fn zero_is_a_limit_where_that_means_something() {
    on_own_context(|| {
        let server = Server::answering(|request| {
            response("200 OK", "", if request.starts_with("GET /empty ") { "" } else { "x" })
        });
        let ask = |builder: ClientBuilder, target: &str| await_it(whole(builder.build().get(server.url(target))));
        assert_eq!(ask(plain().min_speed(0, Duration::from_secs(1)), "/").unwrap(), b"x");
        for (target, expected) in [("/empty", "ok"), ("/", "limit")] {
            assert_eq!(word(&ask(plain().body_limit(0), target)), expected);
            let response = await_it(plain().max_download(0).build().get(server.url(target)).send_future()).unwrap();
            let piece = await_it(response.chunk_future()).map(Option::unwrap_or_default);
            assert_eq!(word(&piece), expected);
        }
    });
}
