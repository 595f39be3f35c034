//! Handlers: routes, bodies, errors, panics, cancelling, and what they may do.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use network::http::{Reply, Request, Routes, Server};
use network::{Error, Result};

use super::raw::{Answer, Raw};
use crate::common::{beside, on_own_context, until, until_on_threads};

/// One request, and its reply.
fn ask(port: u16, head: &str, body: &str) -> Answer {
    let mut raw = Raw::connect(port);
    raw.send(format!("{head} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    raw.answer()
}

#[test]
fn routes_and_methods() {
    on_own_context(|| {
        let server = Server::builder()
            .get("/", |_| Ok(Reply::text("root")))
            .post("/echo", async |mut request| Ok(Reply::text(request.text_future().await?)))
            .any("/files/*", |request| Ok(Reply::text(format!("{} {:?}", request.path(), request.query("a")))))
            .not_found(|request| Ok(Reply::text(format!("no {}", request.path())).with_status(404)))
            .listen("http://127.0.0.1:0/")
            .unwrap();
        let port = server.port();
        beside(move || {
            assert_eq!(ask(port, "GET /", "").body, "root");
            assert_eq!(ask(port, "POST /echo?x", "hello").body, "hello");
            assert_eq!(ask(port, "DELETE /files/a%20b/c?a=x%26+y&a=2", "").body, "/files/a b/c Some(\"x& y\")");
            let missing = ask(port, "GET /nothing", "");
            assert_eq!((missing.status, missing.body.as_str()), (404, "no /nothing"));
            let wrong = ask(port, "GET /echo", "");
            assert_eq!(wrong.status, 405);
            assert!(wrong.head.contains("allow: OPTIONS, POST\r\n"), "{wrong:?}");
            let options = ask(port, "OPTIONS /", "");
            assert_eq!(options.status, 204);
            assert!(options.head.contains("allow: GET, HEAD, OPTIONS\r\n"), "{options:?}");
            let options = ask(port, "OPTIONS *", "");
            assert_eq!(options.status, 204);
            assert!(options.head.contains("allow: GET, HEAD, POST, PUT"), "{options:?}");
        });
    });
}

#[test]
fn the_head_of_a_request() {
    on_own_context(|| {
        let seen = Rc::new(RefCell::new(String::new()));
        let into = seen.clone();
        let server = Server::new("http://127.0.0.1:0/", move |request| {
            into.replace(format!(
                "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {}",
                request.host(),
                request.cookie("b"),
                request.cookie("x"),
                request.bearer(),
                request.basic(),
                request.header("X-Own"),
                request.query_text(),
                request.is_tls(),
            ));
            Ok(Reply::status(204))
        })
        .unwrap();
        let port = server.port();
        beside(move || {
            let mut raw = Raw::connect(port);
            raw.send("GET /?q HTTP/1.1\r\nHost: localhost:1\r\nCookie: a=1; b=\"2\"\r\nCookie: b=3\r\nAuthorization: Basic dTpwOnc=\r\nX-own: yes\r\n\r\n");
            assert_eq!(raw.answer().status, 204);
        });
        assert_eq!(
            seen.take(),
            r#"Some("localhost:1") Some("2") None None Some(("u", "p:w")) Some("yes") Some("q") false"#
        );
        beside(move || {
            let mut raw = Raw::connect(port);
            raw.send("GET / HTTP/1.0\r\nauthorization: bearer abc\r\n\r\n");
            assert!(raw.rest().starts_with("HTTP/1.0 204"));
        });
        assert_eq!(seen.take(), r#"None None None Some("abc") None None None false"#);
    });
}

#[test]
fn forms() {
    on_own_context(|| {
        let server = Server::builder()
            .post("/form", async |mut request| Ok(Reply::text(format!("{:?}", request.form_future().await?))))
            .post("/parts", async |mut request| {
                let parts = request.multipart_future().await?;
                let line =
                    |part: &network::http::Part| format!("{} {:?} {}", part.name, part.file_name, part.data.len());
                Ok(Reply::text(parts.iter().map(line).collect::<Vec<_>>().join("\n")))
            })
            .listen("http://127.0.0.1:0/")
            .unwrap();
        let url = server.url();
        let text = beside(|| super::curl(["-d", "a=1&b=x+y%26", &format!("{url}form")]));
        assert_eq!(text, r#"[("a", "1"), ("b", "x y&")]"#);
        let text =
            beside(|| super::curl(["-F", "a=1", "-F", "f=@/etc/passwd;filename=../x.txt", &format!("{url}parts")]));
        let length = std::fs::metadata("/etc/passwd").unwrap().len();
        assert_eq!(text, format!("a None 1\nf Some(\"x.txt\") {length}"));
        let (kind, wrong) = ("content-type: text/plain", format!("{url}form"));
        let text = beside(|| super::curl(["-H", kind, "-d", "a=1", "-w", "%{http_code}", "-o", "/dev/null", &wrong]));
        assert_eq!(text, "415");
    });
}

#[cfg(feature = "json")]
#[test]
fn json() {
    on_own_context(|| {
        let server = Server::serve("http://127.0.0.1:0/", async |mut request: Request| {
            let value: Vec<u32> = request.json_future().await?;
            Ok(Reply::json(&serde_json::json!({ "sum": value.iter().sum::<u32>() })))
        })
        .unwrap();
        let port = server.port();
        beside(move || {
            let answer = ask(port, "POST /", "[1, 2, 3]");
            assert_eq!(answer.body, r#"{"sum":6}"#);
            assert!(answer.head.contains("content-type: application/json\r\n"), "{answer:?}");
            let answer = ask(port, "POST /", "[1, 2");
            assert_eq!(answer.status, 400, "{answer:?}");
        });
    });
}

#[test]
fn errors_and_bad_replies_are_500_without_their_text() {
    on_own_context(|| {
        let server = Server::builder()
            .get("/error", |_| Err(Error::other("secret")))
            .post("/later", async |_| Err(Error::other("secret")))
            .get("/header", |_| Ok(Reply::text("secret").header("x-a", "b\r\nx-c: d")))
            .get("/name", |_| Ok(Reply::text("secret").header("a b", "c")))
            .get("/length", |_| Ok(Reply::text("secret").header("content-length", "1")))
            .get("/redirect", |_| Ok(Reply::redirect(303, "/secret\r\nx: y")))
            .get("/status", |_| Ok(Reply::status(700)))
            .get("/cookie", |_| Ok(Reply::text("").cookie("a", "secret; Domain=x")))
            .listen("http://127.0.0.1:0/")
            .unwrap();
        let port = server.port();
        beside(move || {
            for path in ["/error", "/header", "/name", "/length", "/redirect", "/status", "/cookie"] {
                let answer = ask(port, &format!("GET {path}"), "");
                assert_eq!(answer.status, 500, "{path}: {answer:?}");
                assert!(!format!("{answer:?}").contains("secret"), "{path}: {answer:?}");
            }
            assert_eq!(ask(port, "POST /later", "x").status, 500);
        });
    });
}

#[test]
fn a_panic_is_a_500_and_comes_out_of_the_loop() {
    on_own_context(|| {
        let server = Server::builder()
            .get("/now", |_| panic!("on purpose now"))
            .post("/later", async |_| {
                network::sleep(Duration::from_millis(1)).await;
                panic!("on purpose later")
            })
            .get("/stream", |_| {
                let pieces = futures_util::stream::unfold(true, |is_first| async move {
                    if !is_first {
                        network::sleep(Duration::from_millis(20)).await;
                    }
                    assert!(is_first, "on purpose in a stream");
                    Some((Ok(b"first".to_vec()), false))
                });
                Ok(Reply::stream(None, pieces))
            })
            .get("/", |_| Ok(Reply::text("goes on")))
            .listen("http://127.0.0.1:0/")
            .unwrap();
        let port = server.port();
        for (head, message) in [
            ("GET /now", "on purpose now"),
            ("POST /later", "on purpose later"),
            ("GET /stream", "on purpose in a stream"),
        ] {
            let client = std::thread::spawn(move || {
                let mut raw = Raw::connect(port);
                raw.send(format!("{head} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
                raw.rest()
            });
            let panic = catch_unwind(AssertUnwindSafe(|| until(|| false))).unwrap_err();
            let text = match panic.downcast_ref::<&str>() {
                Some(text) => (*text).to_owned(),
                None => panic.downcast_ref::<String>().unwrap().clone(),
            };
            assert!(text.contains(message), "{text}");
            while !client.is_finished() {
                network::iteration(false);
            }
            let reply = client.join().unwrap();
            if head == "GET /stream" {
                assert!(reply.contains("first") && !reply.contains("\r\n0\r\n"), "{reply}");
            } else {
                assert!(reply.starts_with("HTTP/1.1 500 "), "{reply}");
                assert!(!reply.contains("purpose"), "{reply}");
            }
            assert_eq!(beside(move || ask(port, "GET /", "").body), "goes on");
        }
    });
}

/// Counts how often it is dropped.
struct Dropped(Rc<Cell<u32>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn a_client_that_goes_away_ends_its_handler() {
    on_own_context(|| {
        let (begun, dropped) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let (count, guards) = (begun.clone(), dropped.clone());
        let server = Server::serve("http://127.0.0.1:0/", move |_| {
            count.set(count.get() + 1);
            let guard = Dropped(guards.clone());
            async move {
                let _guard = guard;
                std::future::pending().await
            }
        })
        .unwrap();
        let port = server.port();
        let mut raw = Raw::connect(port);
        raw.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        until(|| begun.get() == 1);
        assert_eq!(server.listener().connections().len(), 1);
        // A reset, as when a browser's tab is closed with data on its way.
        rustix::net::sockopt::set_socket_linger(&raw.0, Some(Duration::ZERO)).unwrap();
        drop(raw);
        until(|| dropped.get() == 1);
        until(|| server.listener().connections().is_empty());
    });
}

#[test]
fn a_server_may_be_dropped_in_its_handler() {
    on_own_context(|| {
        let place: Rc<RefCell<Option<Server>>> = Rc::default();
        let own = place.clone();
        let server = Server::new("http://127.0.0.1:0/", move |_| {
            drop(own.take());
            Ok(Reply::text("the last one"))
        })
        .unwrap();
        let port = server.port();
        place.replace(Some(server));
        beside(move || {
            let mut raw = Raw::connect(port);
            raw.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let answer = raw.answer();
            assert_eq!(answer.body, "the last one");
            assert!(answer.head.contains("connection: close\r\n"), "{answer:?}");
            assert!(raw.is_over());
            assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
        });
    });
}

#[test]
fn closing_ends_idle_connections_and_lets_replies_finish() {
    on_own_context(|| {
        let (is_waiting, may_end) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
        let (waits, ends) = (is_waiting.clone(), may_end.clone());
        let server = Server::serve("http://127.0.0.1:0/", move |request: Request| {
            let (waits, ends) = (waits.clone(), ends.clone());
            async move {
                while request.path() == "/wait" && !ends.get() {
                    waits.set(true);
                    network::sleep(Duration::from_millis(1)).await;
                }
                Ok(Reply::text("done"))
            }
        })
        .unwrap();
        let port = server.port();
        let (mut idle, mut busy) = (Raw::connect(port), Raw::connect(port));
        let clients = std::thread::spawn(move || {
            idle.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
            assert_eq!(idle.answer().body, "done");
            busy.send("GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n");
            assert!(idle.is_over());
            let answer = busy.answer();
            assert!(answer.head.contains("connection: close\r\n"), "{answer:?}");
            assert!(busy.is_over());
        });
        let requests = || server.listener().connections().len();
        until(|| is_waiting.get());
        server.close();
        until(|| requests() == 1);
        may_end.set(true);
        until(|| requests() == 0);
        clients.join().unwrap();
    });
}

#[test]
fn threads() {
    on_own_context(|| {
        let server = Server::builder()
            .threads(2, || {
                let count = Cell::new(0);
                Routes::new().get("/", move |_| {
                    count.set(count.get() + 1);
                    Ok(Reply::text(format!("{:?} {}", std::thread::current().name(), count.get())))
                })
            })
            .listen("http://127.0.0.1:0/")
            .unwrap();
        assert_eq!(server.threads(), 2);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let body = ask(server.port(), "GET /", "").body;
            seen.insert(body.split(' ').take(2).collect::<Vec<_>>().join(" "));
        }
        assert_eq!(seen.len(), 2, "{seen:?}");
        // An idle connection does not hold it up.
        let mut idle = Raw::connect(server.port());
        idle.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(idle.answer().status, 200);
        let begun = std::time::Instant::now();
        server.close_within(Duration::from_secs(20));
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert!(idle.is_over());
        let failed = Server::builder().log(|_| {}).threads(1, Routes::new).listen("http://127.0.0.1:0/");
        assert!(matches!(failed, Err(Error::Unsupported(_))));
    });
}

#[test]
fn records_of_requests() -> Result {
    on_own_context(|| {
        let lines = Rc::new(RefCell::new(Vec::new()));
        let into = lines.clone();
        let server = Server::builder()
            .log(move |access| into.borrow_mut().push(access.to_string()))
            .get("/", |_| Ok(Reply::text("hello")))
            .listen("http://127.0.0.1:0/")?;
        let port = server.port();
        beside(move || {
            assert_eq!(ask(port, "GET /?a=%0a", "").status, 200);
            assert_eq!(ask(port, "GET /nothing", "").status, 404);
            let mut raw = Raw::connect(port);
            raw.send("nonsense\r\n\r\n");
            assert_eq!(raw.answer().status, 400);
        });
        until(|| lines.borrow().len() == 3);
        let lines = lines.borrow();
        assert!(
            lines[0].starts_with("127.0.0.1:") && lines[0].contains(" \"GET /?a=%0a HTTP/1.1\" 200 5 B "),
            "{lines:?}"
        );
        assert!(lines[0].ends_with(" ms"), "{lines:?}");
        assert!(lines[1].contains(" \"GET /nothing HTTP/1.1\" 404 "), "{lines:?}");
        assert!(lines[2].contains(" 400 "), "{lines:?}");
        Ok(())
    })
}

#[test]
fn a_request_that_had_begun_when_the_server_stopped_is_told() {
    on_own_context(|| {
        let server = Server::new("http://127.0.0.1:0/", |_| Ok(Reply::text("ok"))).unwrap();
        let (port, connections) = (server.port(), server.listener().clone());
        let (mut raw, mut other) = (Raw::connect(port), Raw::connect(port));
        raw.send("GET / HTTP/1.1\r\nHo");
        other.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        until(|| connections.connections().len() == 2);
        let answered = std::thread::spawn(move || {
            assert_eq!(other.answer().status, 200);
            other
        });
        until_on_threads(|| answered.is_finished());
        // Both have been looked at by now.
        server.close();
        beside(move || {
            raw.send("st: localhost\r\n\r\n");
            let answer = raw.answer();
            assert_eq!(answer.status, 503);
            assert!(answer.head.contains("connection: close\r\n"), "{answer:?}");
            assert!(raw.is_over());
        });
        until(|| connections.connections().is_empty());
    });
}

#[test]
fn a_handler_may_run_a_nested_loop() {
    on_own_context(|| {
        let inner = Rc::new(Cell::new(0));
        let (seen, count) = (inner.clone(), inner.clone());
        let server = Server::builder()
            .get("/outer", move |_| {
                // Another client is served meanwhile.
                until(|| seen.get() == 1);
                Ok(Reply::text("outer"))
            })
            .get("/inner", move |_| {
                count.set(count.get() + 1);
                Ok(Reply::text("inner"))
            })
            .listen("http://127.0.0.1:0/")
            .unwrap();
        let port = server.port();
        let outer = std::thread::spawn(move || ask(port, "GET /outer", "").body);
        let inner = std::thread::spawn(move || ask(port, "GET /inner", "").body);
        until_on_threads(|| outer.is_finished() && inner.is_finished());
        assert_eq!((outer.join().unwrap(), inner.join().unwrap()), ("outer".into(), "inner".into()));
        until(|| server.listener().connections().is_empty());
    });
}
