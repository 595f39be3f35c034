//! The client by each of its faces.

use network::http::{self, Client, Method, Response, StatusCode};
use network::{Error, Result};

use super::common::{await_it, on_own_context, told, until};
use super::scripted::{Server, response};

fn client() -> Client {
    Client::builder().proxy(network::socket::Proxy::none()).build()
}

/// Sends a request by one of the three faces.
fn send(face: usize, request: http::RequestBuilder) -> Result<Response> {
    match face {
        0 => request.send(),
        1 => told(|done| request.send_async(gio::Cancellable::NONE, done)),
        _ => await_it(request.send_future()),
    }
}

fn bytes(face: usize, response: &Response) -> Result<Vec<u8>> {
    match face {
        0 => response.bytes(),
        1 => told(|done| response.bytes_async(gio::Cancellable::NONE, done)),
        _ => await_it(response.bytes_future()),
    }
}

#[test]
fn one_connection_for_many_requests_by_every_face() {
    for face in 0..3 {
        on_own_context(|| {
            let server = Server::answering(|request| response("200 OK", "X: y\r\n", request));
            let client = client();
            for number in 0..100 {
                let response = send(face, client.get(server.url("/p?q")).header("n", number.to_string())).unwrap();
                assert_eq!((response.status(), response.header("x")), (StatusCode::OK, Some("y")));
                let body = String::from_utf8(bytes(face, &response).unwrap()).unwrap();
                assert!(
                    body.starts_with("GET /p?q HTTP/1.1\r\n") && body.contains(&format!("n: {number}\r\n")),
                    "{body}"
                );
            }
            assert_eq!(server.accepted(), 1, "face {face}");
        });
    }
}

#[test]
fn a_request_is_as_rfc_9112_has_it() {
    on_own_context(|| {
        let server = Server::answering(|request| response("200 OK", "", request));
        let body = await_it(async {
            let request = client().post(server.url("/a b")).query([("c", "d e")]).body("text").send_future();
            request.await?.text_future().await
        });
        let expected = format!(
            "POST /a%20b?c=d%20e HTTP/1.1\r\nhost: 127.0.0.1:{}\r\naccept: */*\r\nuser-agent: glib-network/{}\r\n\
             content-length: 4\r\n\r\ntext",
            server.port,
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(body.unwrap(), expected);
    });
}

#[test]
fn an_upgrade_gives_the_socket_with_what_came_after_the_head() {
    for face in 0..3 {
        on_own_context(|| {
            let server = Server::new(|mut peer| {
                peer.request().unwrap();
                peer.say("HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello\n");
                let line = peer.exactly(3).unwrap();
                peer.say(line);
                peer.await_end();
            });
            let request = client().get(server.url("/")).header("connection", "upgrade").header("upgrade", "echo");
            let response = send(face, request).unwrap();
            assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
            let socket = response.upgrade().unwrap();
            assert!(response.upgrade().is_err());
            drop(response);
            socket.set_timeout(super::common::LIMIT);
            assert_eq!(socket.recv_line().unwrap(), "hello");
            socket.sendline("ab").unwrap();
            assert_eq!(socket.recv_line().unwrap(), "ab");
        });
    }
}

#[test]
fn connect_gives_a_tunnel() {
    on_own_context(|| {
        let server = Server::new(|mut peer| {
            assert!(peer.request().unwrap().starts_with("CONNECT target:80 HTTP/1.1\r\n"));
            peer.say("HTTP/1.1 200 OK\r\n\r\n");
            let line = peer.exactly(3).unwrap();
            peer.say(line);
        });
        let client = Client::builder().connect_to(("127.0.0.1", server.port)).build();
        let response = await_it(client.request(Method::CONNECT, "http://target/").send_future()).unwrap();
        let socket = response.upgrade().unwrap();
        socket.sendline("ab").unwrap();
        assert_eq!(await_it(socket.recv_line_future()).unwrap(), "ab");
    });
}

#[test]
fn a_response_is_read_by_callback() {
    on_own_context(|| {
        let server = Server::answering(|_| response("200 OK", "", "hello"));
        let response = await_it(client().get(server.url("/")).send_future()).unwrap();
        let all = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let (taken, done) = (all.clone(), std::rc::Rc::new(std::cell::Cell::new(false)));
        let flag = done.clone();
        response.read(move |_, piece| {
            taken.borrow_mut().extend_from_slice(piece);
            Ok(())
        });
        response.finished_cb(move |_, result| {
            result.unwrap();
            flag.set(true);
        });
        drop(response);
        until(|| done.get());
        assert_eq!(*all.borrow(), b"hello");
    });
}

#[test]
fn a_status_becomes_an_error_when_asked_for() {
    on_own_context(|| {
        let server = Server::answering(|_| response("404 Not Found", "", "no such thing"));
        for face in 0..3 {
            let response = send(face, client().get(server.url("/x"))).unwrap();
            assert_eq!(response.status(), 404);
            assert_eq!(bytes(face, &response).unwrap(), b"no such thing");
            let error = send(face, client().get(server.url("/x"))).unwrap().error_for_status().unwrap_err();
            assert!(
                matches!(&error, Error::Status { status, url, body }
                    if *status == 404 && **url == server.url("/x") && &**body == "no such thing"),
                "{error}"
            );
        }
    });
}
