//! Switching to another protocol.

use network::http::{Reply, Server};

use super::raw::Raw;
use crate::common::{beside, on_own_context};

/// A server that echoes bytes once the client has switched.
fn echo() -> Server {
    let upgrade = |_: &network::http::Request| {
        Ok(Reply::upgrade("echo", |socket| {
            socket.read(|socket, data| socket.send(data));
        }))
    };
    let builder = Server::builder().get("/echo", upgrade).get("/", |_| Ok(Reply::text("page")));
    builder.listen("http://127.0.0.1:0/").unwrap()
}

const ASK: &str =
    "GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: other/1, Echo\r\n\r\n";

#[test]
fn what_comes_behind_the_head_reaches_the_other_protocol() {
    on_own_context(|| {
        let server = echo();
        let port = server.port();
        beside(move || {
            let mut raw = Raw::connect(port);
            // A request before, on the same connection.
            raw.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
            assert_eq!(raw.answer().body, "page");
            raw.send(format!("{ASK}early"));
            let answer = raw.answer();
            assert_eq!(answer.status, 101, "{answer:?}");
            assert!(
                answer.head.contains("upgrade: echo\r\n") && answer.head.contains("connection: upgrade\r\n"),
                "{answer:?}"
            );
            raw.send(" and late");
            raw.shut();
            assert_eq!(raw.rest(), "early and late");
        });
    });
}

#[test]
fn a_client_that_does_not_ask_is_told_to() {
    on_own_context(|| {
        let server = echo();
        let port = server.port();
        beside(move || {
            for ask in [
                ASK.replace("Echo", "nothing"),
                ASK.replace("Upgrade: other/1, Echo\r\n", ""),
                ASK.replace("Connection: keep-alive, Upgrade\r\n", ""),
            ] {
                let mut raw = Raw::connect(port);
                raw.send(&ask);
                let answer = raw.answer();
                assert_eq!(answer.status, 426, "{ask}: {answer:?}");
                assert!(answer.head.contains("upgrade: echo\r\n"), "{answer:?}");
                raw.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
                assert_eq!(raw.answer().body, "page");
            }
            // From a foreign page.
            let mut raw = Raw::connect(port);
            raw.send(ASK.replace("Connection", "Origin: http://evil.example\r\nConnection"));
            assert_eq!(raw.answer().status, 403);
        });
    });
}
