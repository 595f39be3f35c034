//! The client, by every face, against Python's server, and against servers by hand.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use gio::prelude::*;
use network::websocket::{Builder, Code, OwnedMessage, WebSocket};
use network::{ClientTls, Error, Result};

use super::common::{TempDir, await_it, beside, noise, on_own_context, told, tool};
use super::pythons::{SERVER, python};

/// Connects by one of the three faces.
#[track_caller]
pub fn connect(face: usize, builder: Builder, url: &str) -> Result<WebSocket> {
    match face {
        0 => builder.connect(url),
        1 => told(|done| builder.connect_async(url, gio::Cancellable::NONE, done)),
        _ => await_it(builder.connect_future(url)),
    }
}

/// Receives by one of them.
fn next(face: usize, ws: &WebSocket) -> Result<OwnedMessage> {
    match face {
        0 => ws.recv(),
        1 => told(|done| {
            let done = std::cell::Cell::new(Some(done));
            ws.read(move |ws, message| {
                ws.unread();
                if let Some(done) = done.take() {
                    done(Ok(message.to_owned()));
                }
                Ok(())
            });
        }),
        _ => await_it(ws.next_future()).unwrap(),
    }
}

/// Makes a certificate for this machine.
pub fn certificate(directory: &TempDir) -> (String, String) {
    let (certificate, key) = (directory.path("c.pem"), directory.path("k.pem"));
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let mut openssl: Command = tool("/usr/bin/openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    openssl.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout"]);
    let output = openssl.arg(&key).arg("-out").arg(&certificate).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    (path(&certificate), path(&key))
}

#[test]
fn pythons_server_answers_by_every_face_plain_and_over_tls() {
    let directory = TempDir::new();
    let (certificate, key) = certificate(&directory);
    for tls in [false, true] {
        let files = [certificate.as_str(), key.as_str()];
        let mut server = python(SERVER, if tls { &files } else { &[] });
        let port = server.port("listening on");
        let url = format!("{}://localhost:{port}/chat?room=1", if tls { "wss" } else { "ws" });
        for face in 0..3 {
            on_own_context(|| {
                let trust = ClientTls::roots(std::fs::read(&certificate).unwrap());
                let builder = WebSocket::builder().protocols(["chat.v3", "chat.v2"]).header("X-Test", "yes").tls(trust);
                let ws = connect(face, builder.message_limit(4 << 20), &url).unwrap();
                assert_eq!(ws.protocol(), Some("chat.v2"));
                assert_eq!(server.line_with("protocol"), "protocol chat.v2 /chat?room=1 yes");
                ws.send("gr\u{fc}\u{df}e").unwrap();
                assert_eq!(next(face, &ws).unwrap().text(), Some("GR\u{dc}SSE"));
                for size in [0, 1, 125, 126, 65_535, 65_536, 1 << 20, 3_000_000] {
                    let data = noise(size, 7);
                    ws.send(&data).unwrap();
                    let back = next(face, &ws).unwrap();
                    assert!(back.bytes().iter().rev().eq(data.iter()), "{size}");
                }
                ws.send("pieces").unwrap();
                assert_eq!(next(face, &ws).unwrap().text(), Some("one two thr\u{eb}"));
                ws.send("ping").unwrap();
                assert_eq!(next(face, &ws).unwrap().text(), Some("pong came"));
                ws.close(Code::from(4000), "b\u{ff}e").unwrap();
                drop(ws);
                let process = &mut server;
                let end = beside(move || process.line_with("closed"));
                assert_eq!(end, "closed with 4000 b\u{ff}e");
            });
        }
    }
}

#[test]
fn the_servers_close_codes_and_its_vanishing_are_told() {
    let server = python(SERVER, &[]);
    let url = format!("ws://127.0.0.1:{}/", server.port("listening on"));
    for face in [0, 2] {
        on_own_context(|| {
            let ws = connect(face, WebSocket::builder(), &url).unwrap();
            ws.send("close").unwrap();
            let error = next(face, &ws).unwrap_err();
            assert!(
                matches!(&error, Error::WebSocket { code: 4001, reason, .. } if **reason == *"as you wish"),
                "{error}"
            );
            assert_eq!(u16::from(ws.close_frame().unwrap().code), 4001);
            assert!(ws.send("more").is_err());
            let ws = connect(face, WebSocket::builder(), &url).unwrap();
            ws.send("vanish").unwrap();
            let error = next(face, &ws).unwrap_err();
            assert!(matches!(error, Error::WebSocket { code: 1006, .. } | Error::Reset { .. }), "{error}");
        });
    }
}

#[test]
fn the_callback_is_told_when_the_closing_handshake_is_done() {
    let mut server = python(SERVER, &[]);
    let url = format!("ws://127.0.0.1:{}/", server.port("listening on"));
    on_own_context(|| {
        let ws = connect(1, WebSocket::builder(), &url).unwrap();
        ws.close(Code::NORMAL, "").unwrap();
        let end = told(|done| ws.disconnect_cb(|_, end| done(end)));
        assert_eq!(end.close.unwrap().code, Code::NORMAL);
        assert!(matches!(end.reason, network::Reason::Local));
        let process = &mut server;
        let end = beside(move || process.line_with("closed"));
        assert_eq!(end, "closed with 1000");
    });
}

/// Answers one request by hand with what `answer` makes of its key, and returns the request.
fn by_hand(answer: impl FnOnce(&str) -> String + Send + 'static) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let key = head
            .lines()
            .find_map(|line| line.to_lowercase().starts_with("sec-websocket-key: ").then(|| line[19..].to_owned()));
        let _ = stream.write_all(answer(&key.unwrap()).as_bytes());
        let _ = stream.read_to_end(&mut Vec::new());
        head
    });
    (url, thread)
}

/// Returns the answer to a key.
fn accept(key: &str) -> String {
    let mut checksum = glib::Checksum::new(glib::ChecksumType::Sha1).unwrap();
    checksum.update(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes());
    glib::base64_encode(&checksum.digest()).into()
}

#[test]
fn responses_that_are_none_of_a_websocket_are_refused() {
    type Answer = fn(&str) -> String;
    let switched =
        |fields: String| format!("HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{fields}\r\n\r\n");
    let cases: [(Answer, u16, &str); 8] = [
        (|_| "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into(), 404, "refuses the WebSocket: Not Found"),
        (|_| "HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n".into(), 302, "redirects to /x"),
        (|_| "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi".into(), 200, "the server answered 200 OK instead of 101"),
        (|key| format!("HTTP/1.1 101 X\r\nSec-WebSocket-Accept: {}\r\n\r\n", accept(key)), 101, "does not switch"),
        (|_| "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n".into(), 101, "Sec-WebSocket-Accept"),
        (
            |_| "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n".into(),
            101,
            "Sec-WebSocket-Accept",
        ),
        (
            |key| {
                let accept = accept(key);
                format!(
                    "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\
                         Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
                )
            },
            101,
            "the extension \"permessage-deflate\", which was not asked for",
        ),
        (
            |key| {
                let accept = accept(key);
                format!(
                    "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\
                         Sec-WebSocket-Protocol: b\r\n\r\n"
                )
            },
            101,
            "the protocol \"b\", which was not asked for",
        ),
    ];
    for (answer, code, text) in cases {
        for face in 0..3 {
            on_own_context(|| {
                let (url, thread) = by_hand(answer);
                let error = connect(face, WebSocket::builder().protocols(["a"]), &url).unwrap_err();
                assert!(matches!(error, Error::WebSocket { code: found, .. } if found == code), "{error}");
                assert!(error.to_string().contains(text), "{error}");
                assert!(error.to_string().starts_with(&url), "{error}");
                // The loop closes the connection, once the rest of the response has been read away.
                beside(move || thread.join().unwrap());
            });
        }
    }
    let (url, thread) = by_hand(move |key| switched(format!("Sec-WebSocket-Accept: {}", accept(key))) + "\u{81}");
    on_own_context(|| {
        let ws = WebSocket::builder().origin("https://page.example").bearer("token").connect(&url).unwrap();
        assert_eq!(ws.protocol(), None);
        ws.abort();
        let head = thread.join().unwrap().to_lowercase();
        for field in ["origin: https://page.example", "authorization: bearer token", "sec-websocket-version: 13"] {
            assert!(head.contains(field), "{head}");
        }
        for field in ["sec-websocket-extensions", "sec-websocket-protocol", "accept-encoding"] {
            assert!(!head.contains(field), "{head}");
        }
    });
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    for face in 0..3 {
        on_own_context(|| {
            let limit = Duration::from_millis(50);
            let builder = WebSocket::builder().connect_timeout(limit).handshake_timeout(limit);
            let started = Instant::now();
            let error = connect(face, builder, &url).unwrap_err();
            assert!(matches!(error, Error::TimedOut { .. }), "{error}");
            assert!(started.elapsed() >= limit);
        });
    }
}

#[test]
fn wrong_urls_and_closed_ports_are_told() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for face in 0..3 {
        on_own_context(|| {
            for url in ["http://localhost/", "localhost:80", "ws://", "ws://localhost/#x"] {
                assert!(matches!(connect(face, WebSocket::builder(), url), Err(Error::Address { .. })), "{url}");
            }
            let url = format!("ws://127.0.0.1:{port}/chat");
            let error = connect(face, WebSocket::builder(), &url).unwrap_err();
            assert!(matches!(&error, Error::Refused { address, .. } if *address == url), "{error}");
        });
    }
}

#[test]
fn a_server_without_tls_is_told_in_words_of_websocket() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("wss://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    for face in 0..3 {
        on_own_context(|| {
            let error = connect(face, WebSocket::builder(), &url).unwrap_err();
            assert!(matches!(error, Error::Plaintext { .. }), "{error}");
            let text = error.to_string();
            assert!(text.starts_with(&url) && text.contains("write ws://") && !text.contains("tls(false)"), "{text}");
        });
    }
}

#[test]
fn cancelling_and_dropping_end_the_attempt() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    on_own_context(|| {
        let cancellable = gio::Cancellable::new();
        let cancel = cancellable.clone();
        let cancelling = async move {
            network::sleep(Duration::from_millis(1)).await;
            cancel.cancel();
            Ok(())
        };
        network::spawn(cancelling).unwrap();
        let error = told(|done| WebSocket::connect_async(&url, Some(&cancellable), done)).unwrap_err();
        assert!(matches!(error, Error::Cancelled { .. }), "{error}");
        drop(WebSocket::connect_future(&url));
    });
}
