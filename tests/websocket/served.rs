//! The server, against Python's client and requests by hand.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::rc::Rc;

use network::ServerTls;
use network::http;
use network::websocket::Server;

use super::common::{TempDir, beside, on_own_context, run_loop, until};
use super::pythons::{CLIENT, python};

const SAMPLE: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";

#[test]
fn python_gets_its_echo_plain_and_over_tls() {
    for tls in [false, true] {
        on_own_context(|| {
            let directory = TempDir::new();
            let builder = Server::builder().protocols(["echo"]).message_limit(4 << 20);
            let (builder, address) = match tls {
                true => (builder.tls(ServerTls::new().directory(directory.path("certs"))), "wss://127.0.0.1:0"),
                false => (builder, "ws://127.0.0.1:0"),
            };
            let ends = Rc::new(RefCell::new(Vec::new()));
            let told = ends.clone();
            let server = builder.listen(address, move |ws| {
                assert_eq!(ws.protocol(), Some("echo"));
                ws.read(|ws, message| ws.send(message));
                let told = told.clone();
                ws.disconnect_cb(move |_, end| {
                    told.borrow_mut().push(format!("{} | {}", end.reason, end.close.unwrap()))
                });
                Ok(())
            });
            let server = server.unwrap();
            let url = server.url();
            for (code, reason) in [("1000", "closed by the peer"), ("4321", "bÿe (4321)")] {
                beside(|| {
                    let output = python(CLIENT, &[&url, code]).await_end();
                    output.assert_clean();
                    assert_eq!(output.text(), format!("closed with {code} bÿe\n"));
                });
                until(|| !ends.borrow().is_empty());
                let end = ends.take().pop().unwrap();
                assert!(end.contains(reason) && end.ends_with(": bÿe"), "{end}");
            }
            assert!(server.connections().is_empty());
        });
    }
}

/// Returns the response to a request by hand, up to the end of the stream or the first bytes after a 101.
fn ask(port: u16, head: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).unwrap();
    String::from_utf8_lossy(&response).into_owned()
}

fn request(fields: &[&str]) -> String {
    format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n\r\n", fields.join("\r\n"))
}

#[test]
fn requests_that_are_none_of_a_websocket_are_refused_with_the_reason() {
    on_own_context(|| {
        let server = Server::new("ws://127.0.0.1:0", |ws| ws.send("hello")).unwrap();
        let port = server.port();
        beside(|| {
            let (upgrade, connection, version) =
                ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13");
            let good = ask(port, &request(&[upgrade, connection, version, SAMPLE]));
            assert!(good.starts_with("HTTP/1.1 101 "), "{good}");
            assert!(good.to_lowercase().contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{good}");
            assert!(good.contains("hello"), "{good}");
            assert!(!good.to_lowercase().contains("sec-websocket-extensions"), "{good}");
            for (fields, status, text) in [
                (&[connection, version, SAMPLE][..], "426", ""),
                (&[upgrade, "Connection: close", version, SAMPLE], "400", "Connection"),
                (&[upgrade, connection, SAMPLE], "400", "version 13"),
                (&[upgrade, connection, "Sec-WebSocket-Version: 8", SAMPLE], "400", "version 13"),
                (&[upgrade, connection, version], "400", "Sec-WebSocket-Key"),
                (&[upgrade, connection, version, "Sec-WebSocket-Key: short"], "400", "Sec-WebSocket-Key"),
                (&[upgrade, connection, version, SAMPLE, "Origin: http://evil.example"], "403", ""),
                (&[upgrade, connection, version, SAMPLE, "Sec-Fetch-Site: cross-site"], "403", ""),
                (&[upgrade, connection, version, SAMPLE, "Origin: http://localhost"], "101", ""),
            ] {
                let response = ask(port, &request(fields));
                assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{fields:?}: {response}");
                assert!(response.contains(text), "{fields:?}: {response}");
                if ["400", "426"].contains(&status) {
                    assert!(response.to_lowercase().contains("sec-websocket-version: 13"), "{response}");
                }
            }
            let head = request(&[upgrade, connection, version, SAMPLE]).replacen("GET", "POST", 1);
            assert!(ask(port, &head.replace("Host", "Content-Length: 0\r\nHost")).starts_with("HTTP/1.1 400 "));
        });
    });
}

#[test]
fn frames_behind_the_request_are_not_lost() {
    on_own_context(|| {
        let heard = Rc::new(RefCell::new(Vec::new()));
        let told = heard.clone();
        let server = Server::new("ws://127.0.0.1:0", move |ws| {
            let told = told.clone();
            ws.read(move |_, message| {
                told.borrow_mut().push(message.to_string());
                Ok(())
            });
            Ok(())
        });
        let server = server.unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        let mut bytes =
            request(&["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", SAMPLE]).into_bytes();
        bytes.extend(b"\x81\x82\0\0\0\0hi\x81\x83\0\0\0\0all");
        stream.write_all(&bytes).unwrap();
        until(|| heard.borrow().len() == 2);
        assert_eq!(*heard.borrow(), ["hi", "all"]);
        assert_eq!(server.connections().len(), 1);
        server.connections()[0].send("news").unwrap();
        let mut all = Vec::new();
        while !all.ends_with(b"\x81\x04news") {
            network::iteration(false);
            let mut byte = [0];
            stream.set_nonblocking(true).unwrap();
            if stream.read(&mut byte).is_ok_and(|count| count == 1) {
                all.push(byte[0]);
            }
        }
    });
}

#[test]
fn one_path_of_a_page_server_may_be_a_websocket() {
    on_own_context(|| {
        let server = http::Server::builder()
            .get("/", |_| Ok(http::Reply::text("a page")))
            .get("/live", |request| {
                request.websocket_protocols(["b"], |ws| {
                    ws.read(|ws, message| ws.send(message));
                    ws.disconnect_cb(|_, _| network::endloop());
                    Ok(())
                })
            })
            .get("/wrong", |request| request.websocket_protocols(["a b"], |_| Ok(())))
            .listen("http://127.0.0.1:0/")
            .unwrap();
        let port = server.port();
        let thread = std::thread::spawn(move || {
            let fields = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", SAMPLE];
            let page = ask(port, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            assert!(page.ends_with("a page"), "{page}");
            let wrong = ask(port, &request(&fields).replacen("/ ", "/wrong ", 1));
            assert!(wrong.starts_with("HTTP/1.1 500 ") && !wrong.contains("token"), "{wrong}");
            let live = request(&fields).replacen("/ ", "/live ", 1);
            let live = ask(port, &live.replace(SAMPLE, &format!("{SAMPLE}\r\nSec-WebSocket-Protocol: a, b")));
            assert!(live.to_lowercase().contains("sec-websocket-protocol: b\r\n"), "{live}");
        });
        run_loop();
        thread.join().unwrap();
    });
}

#[test]
fn a_callback_that_fails_or_panics_ends_its_connection_alone() {
    on_own_context(|| {
        let server = Server::new("ws://127.0.0.1:0", |_| Err(network::Error::other("a secret"))).unwrap();
        let port = server.port();
        beside(|| {
            let fields = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", SAMPLE];
            for _ in 0..2 {
                let response = ask(port, &request(&fields));
                assert!(response.starts_with("HTTP/1.1 101 ") && !response.contains("secret"), "{response}");
            }
        });
    });
}
