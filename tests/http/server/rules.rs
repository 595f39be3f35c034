//! The rules on requests: what other servers may read differently is refused, and so is what exceeds a limit.

use network::http::{Reply, Server};

use super::raw::Raw;
use crate::common::{beside, on_own_context};

/// A server that echoes the path and the body.
fn echo() -> Server {
    let echo = async |mut request: network::http::Request| {
        let body = request.text_future().await?;
        Ok(Reply::text(format!("{} {body}", request.path())))
    };
    Server::serve("http://127.0.0.1:0/", echo).unwrap()
}

/// Sends a request, and another behind it that has to be out of reach if the first is refused.
fn check(port: u16, request: &str, status: u16) {
    let mut raw = Raw::connect(port);
    let sent = raw.try_send(format!("{request}GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    let answer = raw.answer();
    assert_eq!(answer.status, status, "{request:?} {sent}: {answer:?}");
    if status >= 400 {
        assert!(answer.head.contains("connection: close\r\n"), "{request:?}: {answer:?}");
        assert!(raw.is_over(), "{request:?}");
    } else {
        let answer = raw.answer();
        assert_eq!((answer.status, answer.body.as_str()), (200, "/smuggled "), "{request:?}");
    }
}

#[test]
fn what_could_smuggle_a_request_is_refused() {
    let host = "Host: localhost\r\n";
    let cases = [
        // Fine, to know that the others are refused for their fault alone.
        (format!("GET / HTTP/1.1\r\n{host}\r\n"), 200),
        (format!("\r\nGET / HTTP/1.1\r\n{host}\r\n"), 200),
        (format!("POST / HTTP/1.1\r\n{host}Content-Length: 2\r\n\r\nhi"), 200),
        (format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: Chunked\r\n\r\n2;x=y\r\nhi\r\n0\r\nt: u\r\n\r\n"), 200),
        (format!("GET http://localhost/a HTTP/1.1\r\n{host}\r\n"), 200),
        (format!("GET / HTTP/1.1\r\n{host}Content-Length: 0\r\n\r\n"), 200),
        // Two ways to find the end of the body.
        (format!("POST / HTTP/1.1\r\n{host}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n"), 400),
        (format!("POST / HTTP/1.1\r\n{host}Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi"), 400),
        (format!("POST / HTTP/1.1\r\n{host}Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi"), 400),
        (format!("POST / HTTP/1.1\r\n{host}Content-Length: 2, 2\r\n\r\nhi"), 400),
        (format!("POST / HTTP/1.1\r\n{host}Content-Length: +2\r\n\r\nhi"), 400),
        (format!("POST / HTTP/1.1\r\n{host}Content-Length: -2\r\n\r\nhi"), 400),
        (format!("POST / HTTP/1.1\r\n{host}Content-Length: 0x2\r\n\r\nhi"), 400),
        (format!("POST / HTTP/1.1\r\n{host}Content-Length:\r\n\r\nhi"), 400),
        (format!("POST / HTTP/1.1\r\n{host}Content-Length: 18446744073709551616\r\n\r\nhi"), 400),
        (format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"), 400),
        (format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: identity\r\n\r\n"), 400),
        (
            format!(
                "POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            400,
        ),
        (format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("POST / HTTP/1.1\r\n{host}X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), 400),
        // Two ways to find the end of a line.
        ("GET / HTTP/1.1\nHost: localhost\n\n".into(), 400),
        (format!("GET / HTTP/1.1\r\n{host}X: y\nTransfer-Encoding: chunked\r\n\r\n"), 400),
        (format!("GET / HTTP/1.1\r\n{host}\n"), 400),
        (format!("GET / HTTP/1.1\r\n{host}X: y\rz\r\n\r\n"), 400),
        (format!("GET / HTTP/1.1\r\n{host}X: y\0\r\n\r\n"), 400),
        (format!("GET / HTTP/1.1\r\n{host}X\r\n\r\n"), 400),
        (format!("GET / HTTP/1.1\r\n{host}: y\r\n\r\n"), 400),
        (format!("GET / HTTP/1.1\r\n{host}X y: z\r\n\r\n"), 400),
        // Two ways to find the host.
        ("GET / HTTP/1.1\r\n\r\n".into(), 400),
        (format!("GET / HTTP/1.1\r\n{host}{host}\r\n"), 400),
        (format!("GET http://evil.example/ HTTP/1.1\r\n{host}\r\n"), 400),
        (format!("GET http://localhost@evil.example/ HTTP/1.1\r\n{host}\r\n"), 400),
        (format!("GET http:///x HTTP/1.1\r\n{host}\r\n"), 400),
        ("GET / HTTP/1.1\r\nHost: localhost/x\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: user@localhost\r\n\r\n".into(), 400),
        // Targets.
        (format!("GET /#fragment HTTP/1.1\r\n{host}\r\n"), 400),
        (format!("GET x HTTP/1.1\r\n{host}\r\n"), 400),
        (format!("GET * HTTP/1.1\r\n{host}\r\n"), 400),
        (format!("GET ftp://localhost/ HTTP/1.1\r\n{host}\r\n"), 400),
        (format!("GET /a b HTTP/1.1\r\n{host}\r\n"), 400),
        (format!("GET  / HTTP/1.1\r\n{host}\r\n"), 400),
        (format!("GET /\t HTTP/1.1\r\n{host}\r\n"), 400),
        (format!("GET /ä HTTP/1.1\r\n{host}\r\n"), 400),
        (format!("GET /../etc/passwd HTTP/1.1\r\n{host}\r\n"), 400),
        (format!("GET /a/%2e%2e/b HTTP/1.1\r\n{host}\r\n"), 400),
        (format!("GET /a%2f..%2fb HTTP/1.1\r\n{host}\r\n"), 400),
        (format!("GET /%00 HTTP/1.1\r\n{host}\r\n"), 400),
        (format!("GET /%zz HTTP/1.1\r\n{host}\r\n"), 400),
        ("CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n".into(), 405),
        // Versions.
        ("GET /\r\n\r\n".into(), 400),
        (format!("GET / HTTP/1.2\r\n{host}\r\n"), 400),
        (format!("GET / HTTP/0.9\r\n{host}\r\n"), 400),
        (format!("GET / http/1.1\r\n{host}\r\n"), 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 400),
        ("\x16\x03\x01\x02\0\x01\0\x01\u{7c}".into(), 400),
        ("(GET / HTTP/1.1\r\n".into(), 400),
        (format!("get / HTTP/1.1\r\n{host}\r\n"), 400),
    ];
    on_own_context(|| {
        let server = echo();
        let port = server.port();
        beside(|| {
            for (request, status) in &cases {
                check(port, request, *status);
            }
        });
    });
}
