//! The client by each of its faces.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Mutex, mpsc};
use std::task::{Context, Waker};

use futures_util::{AsyncBufReadExt, AsyncReadExt};
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

#[track_caller]
fn is_told<T>(result: std::result::Result<T, impl Into<Error>>, words: &str) {
    let error = result.err().expect("it is misuse").into();
    assert!(matches!(&error, Error::Unsupported(text) if text.contains(words)), "{error}");
}

/// A response whose second half comes when the test says so.
fn slow() -> (mpsc::Sender<()>, Response) {
    let (go, gone) = mpsc::channel();
    let gone = Mutex::new(gone);
    let server = Server::new(move |mut peer| {
        peer.request();
        peer.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
        let _ = gone.lock().unwrap().recv();
        peer.say("world");
        peer.await_end();
    });
    let response = await_it(client().get(server.url("/")).send_future()).unwrap();
    (go, response)
}

/// What the callbacks of a response are told: the bytes, and the end.

#[derive(Clone, Default)]
struct Heard(Rc<RefCell<Vec<u8>>>, Rc<RefCell<Option<Result>>>);

impl Heard {
    fn read(&self, response: &Response) {
        let heard = self.0.clone();
        response.read(move |_, piece| {
            heard.borrow_mut().extend_from_slice(piece);
            Ok(())
        });
    }

    fn finished(&self, response: &Response) {
        let end = self.1.clone();
        response.finished_cb(move |_, result| assert!(end.replace(Some(result)).is_none(), "once"));
    }

    fn await_end(&self) -> Result {
        until(|| self.1.borrow().is_some());
        self.1.take().unwrap()
    }
}

#[test]
fn beside_a_read_callback_other_calls_are_told_and_the_callback_gets_everything() {
    on_own_context(|| {
        let (go, mut response) = slow();
        assert_eq!(await_it(response.chunk_future()).unwrap().unwrap(), b"hello");
        let mut waiting = Box::pin(response.chunk_future());
        assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let heard = Heard::default();
        heard.read(&response);
        heard.finished(&response);
        let words = "read()";
        is_told(await_it(waiting), words);
        is_told(await_it(response.text_future()), words);
        is_told(await_it(response.bytes_future()), words);
        is_told(await_it(response.chunk_future()), words);
        is_told(await_it(Response::lines(&response).next()).unwrap(), words);
        is_told(await_it(AsyncReadExt::read(&mut response, &mut [0; 4])), words);
        is_told(await_it(response.read_line(&mut String::new())), words);
        is_told(told(|done| response.text_async(gio::Cancellable::NONE, done)), words);
        #[cfg(feature = "json")]
        is_told(await_it(response.json_future::<serde_json::Value>()), words);
        // Another callback goes on.
        heard.read(&response);
        go.send(()).unwrap();
        heard.await_end().unwrap();
        assert_eq!(heard.0.take(), b"world");
        is_told(await_it(response.text_future()), "has been taken");
        assert!(await_it(response.chunk_future()).unwrap().is_none());
        // Whoever wants to hear of the end late, does.
        let late = Heard::default();
        let (go, response) = slow();
        go.send(()).unwrap();
        late.read(&response);
        until(|| late.0.borrow().len() == 10);
        await_it(network::sleep(std::time::Duration::from_millis(1)));
        late.finished(&response);
        assert!(late.1.borrow().is_none(), "not from inside the call");
        late.await_end().unwrap();
    });
}

#[test]
fn a_read_callback_beside_a_call_for_the_whole_is_told() {
    on_own_context(|| {
        let (go, response) = slow();
        let whole = Rc::new(RefCell::new(None));
        let taken = whole.clone();
        response.text_async(gio::Cancellable::NONE, move |text| drop(taken.replace(Some(text))));
        // It begins with the loop.
        await_it(network::sleep(std::time::Duration::from_millis(1)));
        let heard = Heard::default();
        heard.read(&response);
        heard.finished(&response);
        is_told(heard.await_end(), "another call");
        is_told(await_it(response.text_future()), "another call");
        is_told(await_it(response.chunk_future()), "another call");
        go.send(()).unwrap();
        until(|| whole.borrow().is_some());
        assert_eq!(whole.take().unwrap().unwrap(), "helloworld");
        assert!(heard.0.borrow().is_empty());
        // When it has been taken.
        heard.read(&response);
        heard.finished(&response);
        is_told(heard.await_end(), "has been taken");
    });
}

#[test]
fn two_who_wait_for_pieces_both_get_on() {
    on_own_context(|| {
        let (go, response) = slow();
        let ended = Rc::new(Cell::new(0));
        for _ in 0..2 {
            let (response, ended) = (response.clone(), ended.clone());
            network::spawn(async move {
                while response.chunk_future().await?.is_some() {}
                ended.set(ended.get() + 1);
                Ok(())
            })
            .unwrap();
        }
        await_it(network::sleep(std::time::Duration::from_millis(1)));
        go.send(()).unwrap();
        until(|| ended.get() == 2);
    });
}

#[test]
fn a_body_that_has_been_taken_is_an_error_and_not_empty() {
    for face in 0..3 {
        for body in ["hello", ""] {
            on_own_context(|| {
                let server = Server::answering(move |_| response("200 OK", "", body));
                let mut first = send(face, client().get(server.url("/"))).unwrap();
                assert_eq!(bytes(face, &first).unwrap(), body.as_bytes());
                is_told(bytes(face, &first), "has been taken");
                match face {
                    0 => {
                        is_told(first.text(), "has been taken");
                        is_told(std::io::Read::read(&mut first, &mut [0; 4]), "has been taken");
                    }
                    _ => {
                        is_told(await_it(first.text_future()), "has been taken");
                        is_told(await_it(first.chunk_future()), "has been taken");
                    }
                }
            });
        }
    }
    on_own_context(|| {
        let server = Server::answering(|_| response("200 OK", "", "hello"));
        // By pieces to the end.
        let mut by_std = client().get(server.url("/")).send().unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut by_std, &mut text).unwrap();
        assert_eq!((text.as_str(), std::io::Read::read(&mut by_std, &mut [0; 4]).unwrap()), ("hello", 0));
        is_told(by_std.text(), "has been taken");
        // What is left is no error.
        let mut partly = client().get(server.url("/")).send().unwrap();
        std::io::Read::read_exact(&mut partly, &mut [0; 2]).unwrap();
        assert_eq!(partly.text().unwrap(), "llo");
    });
}

#[test]
fn a_call_for_the_whole_that_was_given_up_leaves_no_rest_that_looks_whole() {
    on_own_context(|| {
        let (_go, response) = slow();
        let limit = std::time::Duration::from_millis(20);
        assert!(await_it(network::timeout(limit, response.bytes_future())).is_err());
        is_told(await_it(response.bytes_future()), "has been taken");
    });
}
