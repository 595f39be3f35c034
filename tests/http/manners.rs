//! Redirects, credentials, cookies, bodies of requests: what goes out, as a server of the tests' own sees it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use network::Error;
use network::http::{Client, Cookies, Method, Multipart, Progress};

use super::common::{TempDir, await_it, noise, on_own_context};
use super::hostile::plain;
use super::scripted::{Server, response};

fn text(request: network::http::RequestBuilder) -> network::Result<String> {
    await_it(async { request.send_future().await?.text_future().await })
}

/// Redirects by `/302/target`, and shows the request otherwise.
fn redirecting() -> Server {
    Server::answering(|request| {
        let target = request.split(' ').nth(1).unwrap();
        match target.strip_prefix('/').and_then(|rest| rest.split_once('/')) {
            Some((status, to)) if status.parse::<u16>().is_ok() => {
                let to = if to.starts_with("http") { to.to_owned() } else { format!("/{to}") };
                response(&format!("{status} Elsewhere"), &format!("Location: {to}\r\n"), "gone")
            }
            _ => response("200 OK", "", request),
        }
    })
}

#[test]
fn redirects_keep_or_change_the_method_and_the_body() {
    on_own_context(|| {
        let server = redirecting();
        let client = plain().build();
        for (method, status, expected, keeps_body) in [
            (Method::GET, 301, "GET", false),
            (Method::POST, 301, "GET", false),
            (Method::POST, 302, "GET", false),
            (Method::PUT, 302, "PUT", true),
            (Method::POST, 303, "GET", false),
            (Method::POST, 307, "POST", true),
            (Method::PUT, 308, "PUT", true),
        ] {
            let request = client.request(method.clone(), server.url(&format!("/{status}/x"))).header("a", "b");
            let request =
                if method == Method::GET { request } else { request.header("content-type", "x/y").body("body") };
            let response = await_it(request.send_future()).unwrap();
            assert_eq!(response.url(), server.url("/x"));
            let seen = await_it(response.text_future()).unwrap();
            assert!(seen.starts_with(&format!("{expected} /x ")) && seen.contains("a: b\r\n"), "{seen}");
            assert_eq!(
                (seen.ends_with("body"), seen.contains("x/y")),
                (keeps_body, keeps_body),
                "{method} {status} {seen}"
            );
        }
        let response = await_it(client.get(server.url("/302/x")).redirects(0).send_future()).unwrap();
        assert_eq!((response.status().as_u16(), response.header("location")), (302, Some("/x")));
        assert_eq!(server.accepted(), 1, "what a redirect says is read away");
    });
}

#[test]
fn secrets_do_not_go_to_another_origin() {
    on_own_context(|| {
        let (server, other) = (redirecting(), Server::answering(|request| response("200 OK", "", request)));
        let client = plain().bearer("token").secret_header("x-key", "key").header("x-open", "open").build();
        let send = |to: &str| text(client.get(to).header("cookie", "a=b").header("proxy-authorization", "x")).unwrap();
        let secret = ["authorization: Bearer token", "x-key: key", "cookie: a=b", "proxy-authorization: x"];
        let same = send(&server.url("/302/x"));
        assert!(secret.iter().all(|secret| same.contains(secret)) && same.contains("x-open: open"), "{same}");
        let elsewhere = send(&server.url(&format!("/302/{}", other.url("/x"))));
        assert!(
            !secret.iter().any(|secret| elsewhere.contains(secret)) && elsewhere.contains("x-open: open"),
            "{elsewhere}"
        );
        // Nor do they come back with a second redirect.
        let back = format!("/302/{}", server.url("/x"));
        let third = redirecting();
        let seen = send(&server.url(&format!("/302/{}", third.url(&back))));
        assert!(!secret.iter().any(|secret| seen.contains(secret)), "{seen}");
        // A user in the URL is for that origin, whatever the server names.
        let with_user = format!("http://me:sesam@127.0.0.1:{}", server.port);
        let seen = text(plain().build().get(format!("{with_user}/302/x"))).unwrap();
        assert!(seen.contains("authorization: Basic bWU6c2VzYW0="), "{seen}");
        let away = format!("{with_user}/302/http://you:evil@127.0.0.1:{}/x", other.port);
        let seen = text(plain().build().get(away)).unwrap();
        assert!(!seen.contains("authorization"), "{seen}");
    });
}

#[test]
fn bodies_do_not_go_to_another_origin_unasked() {
    on_own_context(|| {
        let (server, other) = (redirecting(), Server::answering(|request| response("200 OK", "", request)));
        let url = server.url(&format!("/307/{}", other.url("/x")));
        let error = text(plain().build().post(&url).body("secret")).unwrap_err();
        assert!(matches!(&error, Error::Http { problem, .. } if problem.contains("follow_with_body")), "{error}");
        assert!(other.seen().is_empty());
        let seen = text(plain().follow_with_body(true).build().post(&url).body("secret")).unwrap();
        assert!(seen.ends_with("secret"));
        // A stream is there only once.
        let stream = futures_util::stream::iter([Ok(b"once".to_vec())]);
        let error = text(plain().build().post(server.url("/307/x")).body_stream(None, stream)).unwrap_err();
        assert!(matches!(&error, Error::Http { problem, .. } if problem.contains("stream")), "{error}");
    });
}

#[test]
fn redirects_that_are_refused() {
    on_own_context(|| {
        let circle = Server::answering(|_| response("302 Found", "Location: /\r\n", ""));
        let endless = Server::answering(|request| {
            let number: usize = request.split(' ').nth(1).unwrap()[1..].parse().unwrap();
            response("302 Found", &format!("Location: /{}\r\n", number + 1), "")
        });
        let client = plain().build();
        for (url, part) in [(circle.url("/"), "circles"), (endless.url("/0"), "more than 10 redirects")] {
            match text(client.get(&url)) {
                Err(Error::Http { problem, .. }) => assert!(problem.contains(part), "{problem}"),
                other => panic!("{url} {other:?}"),
            }
        }
        assert_eq!(endless.seen().len(), 11);
        for location in ["file:///etc/passwd", "ftp://127.0.0.1/", "javascript:alert(1)"] {
            let server = Server::answering(move |_| response("302 Found", &format!("Location: {location}\r\n"), ""));
            assert!(matches!(text(client.get(server.url("/"))), Err(Error::Http { .. })), "{location}");
        }
    });
}

#[test]
fn cookies_are_kept_and_sent() {
    on_own_context(|| {
        let server = Server::answering(|request| {
            let set = "Set-Cookie: a=1; Path=/\r\nSet-Cookie: b=2; HttpOnly\r\nSet-Cookie: c=3; Secure\r\nSet-Cookie: d=4; Max-Age=0\r\n";
            if request.starts_with("GET /login") {
                response("302 Found", &format!("{set}Location: /\r\n"), "")
            } else {
                response("200 OK", "", request)
            }
        });
        let cookies = Cookies::new();
        let client = plain().cookies(cookies.clone()).build();
        let seen = text(client.get(server.url("/login"))).unwrap();
        assert!(seen.contains("cookie: a=1; b=2\r\n"), "{seen}");
        assert_eq!((cookies.len(), cookies.value(server.url("/"), "a").unwrap().as_deref()), (2, Some("1")));
        // By hand.
        let seen = text(client.get(server.url("/")).header("cookie", "x=y")).unwrap();
        assert!(seen.contains("cookie: x=y\r\n") && !seen.contains("a=1"), "{seen}");
        // Off.
        let seen = text(plain().build().get(server.url("/login"))).unwrap();
        assert!(!seen.contains("cookie"), "{seen}");
    });
}

#[test]
fn digest_answers_a_challenge() {
    fn count(request: &str) -> Option<u32> {
        let (_, rest) = request.split_once("nc=")?;
        u32::from_str_radix(&rest[..8], 16).ok()
    }
    on_own_context(|| {
        let server = Server::answering(|request| {
            let challenge = "WWW-Authenticate: Basic realm=x\r\nWWW-Authenticate: Digest realm=\"r\", nonce=\"n\", qop=\"auth\", \
                             algorithm=SHA-256\r\n";
            match count(request) {
                Some(1..=3) if request.contains("username=\"me\"") => response("200 OK", "", request),
                Some(_) => {
                    response("401 Unauthorized", &challenge.replace("nonce=\"n\"", "nonce=\"m\", stale=true"), "")
                }
                None => response("401 Unauthorized", challenge, "who?"),
            }
        });
        let client = plain().digest("me", "sesam").build();
        for number in 1..=5 {
            let seen = text(client.post(server.url("/x?y")).body("body")).unwrap();
            assert!(seen.contains("uri=\"/x?y\"") && seen.ends_with("body") && !seen.contains("sesam"), "{seen}");
            let expected = if number > 3 { number - 3 } else { number };
            assert_eq!(count(&seen), Some(expected), "{seen}");
        }
        // One request for the first challenge, one for the second.
        assert_eq!((server.seen().len(), server.accepted()), (7, 1));
        // A password that is wrong is not tried for ever.
        let stubborn =
            Server::answering(|_| response("401 Unauthorized", "WWW-Authenticate: Digest realm=r, nonce=n\r\n", "no"));
        let response = await_it(client.get(stubborn.url("/")).send_future()).unwrap();
        assert_eq!((response.status().as_u16(), stubborn.seen().len()), (401, 2));
    });
}

#[test]
fn credentials_with_a_base_are_for_the_base() {
    on_own_context(|| {
        let server = Server::answering(|request| response("200 OK", "", request));
        let other = Server::answering(|request| response("200 OK", "", request));
        let client = plain().base(server.url("/v1/")).unwrap().basic("me", "sesam").build();
        let seen = text(client.get("things")).unwrap();
        assert!(seen.starts_with("GET /v1/things ") && seen.contains("authorization: Basic bWU6c2VzYW0="), "{seen}");
        let seen = text(client.get(other.url("/"))).unwrap();
        assert!(!seen.contains("authorization"), "{seen}");
    });
}

#[test]
fn bodies_of_all_kinds() {
    on_own_context(|| {
        let server = Server::answering(|request| response("200 OK", "", request));
        let client = plain().build();
        let directory = TempDir::new();
        std::fs::write(directory.path("f"), "from a file").unwrap();
        let url = server.url("/");
        let stream = |length: Option<u64>| {
            let pieces = futures_util::stream::iter([Ok(b"a ".to_vec()), Ok(Vec::new()), Ok(b"stream".to_vec())]);
            client.put(&url).body_stream(length, pieces)
        };
        for (request, parts) in [
            (client.post(&url), &["content-length: 0\r\n"][..]),
            (client.post(&url).body("text"), &["content-length: 4\r\n", "\r\n\r\ntext"]),
            (stream(Some(8)), &["content-length: 8\r\n", "\r\n\r\na stream"]),
            (stream(None), &["transfer-encoding: chunked\r\n", "\r\n\r\na stream"]),
            (client.put(&url).file(directory.path("f")), &["content-length: 11\r\n", "\r\n\r\nfrom a file"]),
            (
                client.post(&url).form([("a", "b c"), ("ü", "&=+")]),
                &["content-type: application/x-www-form-urlencoded\r\n", "\r\n\r\na=b+c&%C3%BC=%26%3D%2B"],
            ),
            (
                client.post(&url).multipart(Multipart::new().text("a", "b").file("f", directory.path("f"))),
                &["multipart/form-data; boundary=", "name=\"a\"\r\n\r\nb\r\n", "filename=\"f\"", "from a file\r\n--"],
            ),
        ] {
            let seen = text(request).unwrap();
            assert!(parts.iter().all(|part| seen.contains(part)), "{seen}");
        }
        let error = text(client.put(&url).file(directory.path("none"))).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        // A pipe would hold up the loop.
        let pipe = directory.path("pipe");
        assert!(
            std::process::Command::new("mkfifo").args([&pipe, &directory.path("f.part")]).status().unwrap().success()
        );
        for request in [client.put(&url).file(&pipe), client.put(&url).multipart(Multipart::new().file("f", &pipe))] {
            let error = text(request).unwrap_err().to_string();
            assert!(error.contains("not a regular file") && error.contains("body_stream"), "{error}");
        }
        await_it(client.get(&url).resume(true).download_future(directory.path("f"))).unwrap();
        // An error of the stream's is that of the request.
        let broken = futures_util::stream::iter([Ok(b"a".to_vec()), Err(Error::other("the source is gone"))]);
        let error = text(client.put(&url).body_stream(None, broken)).unwrap_err();
        assert_eq!(error.to_string(), "the source is gone");
    });
}

#[cfg(feature = "json")]
#[test]
fn json_goes_both_ways() {
    on_own_context(|| {
        let server = Server::answering(|request| response("200 OK", "", request.split("\r\n\r\n").nth(1).unwrap()));
        let client = plain().build();
        let value = serde_json::json!({ "load": [1, 2.5], "name": "ü" });
        let back: serde_json::Value =
            await_it(async { client.post(server.url("/")).json(&value).send_future().await?.json_future().await })
                .unwrap();
        assert_eq!(back, value);
        assert!(server.seen()[0].contains("content-type: application/json\r\n"));
        let bad = await_it(async {
            client.post(server.url("/")).body("{").send_future().await?.json_future::<serde_json::Value>().await
        });
        assert!(matches!(bad, Err(Error::Http { .. })), "{bad:?}");
    });
}

#[test]
fn a_long_body_waits_for_100_continue() {
    let long = noise(1 << 20, 3);
    on_own_context(|| {
        let client = plain().build();
        // `Peer::request` says 100.
        let server = Server::answering(|request| response("200 OK", "", &request.len().to_string()));
        let started = std::time::Instant::now();
        text(client.post(server.url("/")).body(long.clone())).unwrap();
        assert!(server.seen()[0].contains("expect: 100-continue\r\n"));
        assert!(started.elapsed().as_millis() < 900, "it is told, not waited for");
        // A server that says nothing gets the body after a second, and one that refuses gets none of it.
        let old = Server::new(|mut peer| {
            peer.head().unwrap();
            assert_eq!(peer.exactly(1 << 20).unwrap().len(), 1 << 20);
            peer.ok("late");
        });
        assert_eq!(text(client.post(old.url("/")).body(long.clone())).unwrap(), "late");
        let refusing = Server::new(|mut peer| {
            peer.head().unwrap();
            peer.say(response("413 Too Large", "", "no"));
            assert!(peer.exactly(1).is_none(), "nothing of the body comes");
        });
        let response = await_it(client.post(refusing.url("/")).body(long.clone()).send_future()).unwrap();
        assert_eq!(response.status(), 413);
        drop(response);
        // Shorter ones do not wait.
        text(client.post(server.url("/")).body(&long[1..])).unwrap();
        assert!(!server.seen()[1].contains("expect"));
    });
}

#[test]
fn progress_is_told_both_ways() {
    on_own_context(|| {
        let body = "x".repeat(300_000);
        let answer = body.clone();
        let server = Server::answering(move |_| response("200 OK", "", &answer));
        let all = Rc::new(RefCell::new(Vec::<Progress>::new()));
        let told = all.clone();
        let request =
            plain().build().post(server.url("/")).body(body).progress(move |progress| told.borrow_mut().push(progress));
        text(request).unwrap();
        let all = all.take();
        assert!(all.windows(2).all(|pair| pair[0].sent <= pair[1].sent && pair[0].received <= pair[1].received));
        let last = all.last().unwrap();
        assert_eq!((last.sent, last.to_send), (300_000, Some(300_000)));
        assert_eq!((last.received, last.to_receive, last.fraction()), (300_000, Some(300_000), Some(1.0)));
    });
}

#[test]
fn the_log_tells_nothing_secret() {
    on_own_context(|| {
        let server = redirecting();
        let lines = Rc::new(RefCell::new(Vec::new()));
        let told = lines.clone();
        let client = plain().log(move |entry| told.borrow_mut().push((entry.to_string(), entry.is_reused))).build();
        text(client.get(format!("http://me:sesam@127.0.0.1:{}/302/x?token=1", server.port))).unwrap();
        let _ = text(client.get("http://127.0.0.1:1/y?token=2"));
        let lines = lines.take();
        assert_eq!(lines.len(), 3);
        assert!(
            lines[0].0.starts_with(&format!("GET {}: 302 after ", server.url("/302/x"))) && !lines[0].1,
            "{lines:?}"
        );
        assert!(lines[1].1 && lines[2].0.contains("cannot connect"), "{lines:?}");
        assert!(!lines.iter().any(|(line, _)| line.contains("sesam") || line.contains("token")), "{lines:?}");
    });
}

#[test]
fn callbacks_may_do_anything() {
    // A nested loop, dropping, another request, and giving up in the middle.
    on_own_context(|| {
        let server = Server::answering(|_| response("200 OK", "", &"x".repeat(500_000)));
        let client = plain().build();
        let (calls, ended) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let (count, flag, inner, url) = (calls.clone(), ended.clone(), client.clone(), server.url("/"));
        client.get(server.url("/")).send_async(gio::Cancellable::NONE, move |response| {
            let response = response.unwrap();
            response.read(move |response, _| {
                count.set(count.get() + 1);
                network::iteration(false);
                let (inner, url) = (inner.clone(), url.clone());
                network::spawn(async move { inner.get(url).send_future().await?.bytes_future().await.map(drop) })?;
                response.pause();
                response.resume();
                if count.get() == 2 { Err(Error::other("enough")) } else { Ok(()) }
            });
            response.finished_cb(move |response, result| {
                assert_eq!(result.unwrap_err().to_string(), "enough");
                response.finished_cb(|_, _| {});
                flag.set(true);
            });
        });
        super::common::until(|| ended.get());
        assert_eq!(calls.get(), 2);
    });
}

#[test]
fn faces_are_not_mixed() {
    on_own_context(|| {
        let server = Server::answering(|_| response("200 OK", "", "x"));
        let client = Client::builder().proxy(network::socket::Proxy::none()).build();
        let blocking = client.get(server.url("/")).send().unwrap();
        assert!(matches!(await_it(blocking.bytes_future()), Err(Error::Unsupported(_))));
        assert!(matches!(await_it(blocking.chunk_future()), Err(Error::Unsupported(_))));
        assert_eq!(blocking.text().unwrap(), "x");
        let awaited = await_it(client.get(server.url("/")).send_future()).unwrap();
        assert!(matches!(awaited.bytes(), Err(Error::Unsupported(_))));
        assert_eq!(await_it(awaited.text_future()).unwrap(), "x");
        // A server of this thread.
        let own = network::Server::builder().tls(false).address("127.0.0.1").listen(0, |_| Ok(())).unwrap();
        let error = client.get(format!("http://127.0.0.1:{}/", own.port())).send().unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)), "{error}");
    });
}
