//! Requests that are taken one by one.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use network::Error;
use network::http::{Reply, Server};

use super::raw::Raw;
use crate::common::{await_it, on_own_context};

fn get(port: u16, path: &'static str) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut raw = Raw::connect(port);
        raw.send(format!("GET {path} HTTP/1.0\r\n\r\n"));
        raw.rest()
    })
}

#[test]
fn by_blocking_calls_without_a_loop() {
    on_own_context(|| {
        let requests = Server::bind("http://127.0.0.1:0/").unwrap();
        let port = requests.port();
        assert_eq!(requests.url(), format!("http://127.0.0.1:{port}/"));
        // Browsers open connections ahead, and say nothing on them.
        let silent = Raw::connect(port);
        let client = std::thread::spawn(move || {
            let mut raw = Raw::connect(port);
            raw.send("POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello");
            let first = raw.answer();
            raw.send("GET /b HTTP/1.1\r\nHost: localhost\r\n\r\n");
            (first, raw.answer())
        });
        let mut first = requests.next().unwrap();
        assert_eq!(first.request.bytes().unwrap(), b"hello");
        assert_eq!(first.request.path(), "/a");
        first.reply(Reply::text("x".repeat(100_000)));
        let second = requests.next().unwrap();
        assert_eq!(second.request.path(), "/b");
        // Unanswered.
        drop(second);
        let third = get(port, "/c");
        requests.next().unwrap().reply(Reply::text("last"));
        assert!(third.join().unwrap().ends_with("\r\n\r\nlast"));
        let (first, second) = client.join().unwrap();
        assert_eq!((first.status, first.body.len()), (200, 100_000));
        assert_eq!(second.status, 503);
        assert!(matches!(await_it(requests.next_future()), Err(Error::Unsupported(_))));
        requests.close();
        assert!(matches!(requests.next(), Err(Error::Closed { .. })));
        drop(silent);
    });
}

#[test]
fn by_futures() {
    on_own_context(|| {
        let requests = Server::bind("http://127.0.0.1:0/").unwrap();
        let port = requests.port();
        let client = get(port, "/one");
        await_it(async {
            // To drop it loses none.
            let early = network::timeout(Duration::from_millis(1), requests.next_future()).await;
            let exchange = match early {
                Ok(exchange) => exchange.unwrap(),
                Err(_) => requests.next_future().await.unwrap(),
            };
            assert_eq!(exchange.request.path(), "/one");
            exchange.reply(Reply::text("1"));
            while !client.is_finished() {
                network::sleep(Duration::from_millis(1)).await;
            }
            assert!(client.join().unwrap().ends_with("\r\n\r\n1"));
            assert!(matches!(requests.next(), Err(Error::Unsupported(_))));
            // A client that gives up before its request is taken is left out.
            let mut raw = Raw::connect(port);
            raw.send("GET /gone HTTP/1.1\r\nHost: localhost\r\n\r\n");
            network::sleep(Duration::from_millis(50)).await;
            rustix::net::sockopt::set_socket_linger(&raw.0, Some(Duration::ZERO)).unwrap();
            drop(raw);
            network::sleep(Duration::from_millis(50)).await;
            let client = get(port, "/two");
            let exchange = requests.next_future().await.unwrap();
            assert_eq!(exchange.request.path(), "/two");
            // Those who still wait are told when it closes.
            let waiting = get(port, "/three");
            exchange.reply(Reply::text("2"));
            network::sleep(Duration::from_millis(50)).await;
            requests.close();
            while !client.is_finished() || !waiting.is_finished() {
                network::sleep(Duration::from_millis(1)).await;
            }
            assert!(client.join().unwrap().ends_with("\r\n\r\n2"));
            assert!(waiting.join().unwrap().starts_with("HTTP/1.0 503"));
            assert!(matches!(requests.next_future().await, Err(Error::Closed { .. })));
        });
    });
}

#[test]
fn what_is_dropped_is_answered_at_once_and_nothing_of_the_program_is_called() {
    on_own_context(|| {
        let (calls, log) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(Vec::new())));
        let (count, lines) = (calls.clone(), log.clone());
        let requests = Server::builder()
            .get("/own", move |_| {
                count.set(count.get() + 1);
                Ok(Reply::text("own"))
            })
            .log(move |access| lines.borrow_mut().push(access.status.as_u16()))
            .bind("http://127.0.0.1:0/")
            .unwrap();
        let port = requests.port();
        // The second request of the connection is for a handler, which has to wait.
        let mut raw = Raw::connect(port);
        let head = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        raw.send(head("/a") + &head("/own"));
        drop(requests.next().unwrap());
        assert_eq!(raw.answer().status, 503);
        assert_eq!((calls.get(), log.borrow().len()), (0, 0));
        // The connection goes on with the next blocking call.
        let old = get(port, "/b");
        let exchange = requests.next().unwrap();
        let answer = std::thread::spawn(move || raw.answer());
        exchange.reply(Reply::text("x"));
        assert!(old.join().unwrap().ends_with("\r\n\r\nx"));
        let last = get(port, "/c");
        let exchange = requests.next().unwrap();
        assert_eq!(answer.join().unwrap().body, "own");
        assert_eq!((calls.get(), log.borrow()[0]), (1, 503));
        // To the end of the connection.
        drop(exchange);
        assert!(last.join().unwrap().starts_with("HTTP/1.0 503"));
        // A client that still sends.
        let mut raw = Raw::connect(port);
        raw.send("POST /d HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhe");
        let exchange = requests.next().unwrap();
        drop(exchange);
        assert_eq!(raw.answer().status, 503);
        // One that is taken apart.
        let last = get(port, "/e");
        let request = requests.next().unwrap().request;
        assert!(last.join().unwrap().starts_with("HTTP/1.0 503"));
        assert_eq!(request.path(), "/e");
    });
}

#[test]
fn an_exchange_is_dropped_while_the_loop_runs() {
    on_own_context(|| {
        let kept = Rc::new(RefCell::new(None));
        let taken = kept.clone();
        let requests = Server::builder()
            .get("/drop", move |_| {
                drop(taken.take());
                Ok(Reply::text("dropped"))
            })
            .bind("http://127.0.0.1:0/")
            .unwrap();
        let port = requests.port();
        let first = get(port, "/a");
        kept.replace(Some(requests.next().unwrap()));
        let second = get(port, "/drop");
        let third = std::thread::spawn(move || {
            let both = (first.join().unwrap(), second.join().unwrap());
            (both, get(port, "/b").join().unwrap())
        });
        requests.next().unwrap().reply(Reply::text("b"));
        let ((first, second), third) = third.join().unwrap();
        assert!(first.starts_with("HTTP/1.0 503") && second.ends_with("dropped") && third.ends_with("b"));
    });
}

#[test]
fn requests_that_nobody_has_taken_are_answered_by_closing() {
    on_own_context(|| {
        let requests = Server::bind("http://127.0.0.1:0/").unwrap();
        let mut clients: Vec<Raw> = (0..3).map(|_| Raw::connect(requests.port())).collect();
        for client in &mut clients {
            client.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        }
        // All of them have come when so much has been sent to the first.
        let first = requests.next().unwrap();
        let reader = clients.remove(0);
        let reader = std::thread::spawn(move || {
            let mut reader = reader;
            reader.answer().body.len()
        });
        first.reply(Reply::text("x".repeat(3 << 20)));
        assert_eq!(reader.join().unwrap(), 3 << 20);
        requests.close();
        for client in &mut clients {
            assert_eq!(client.answer().status, 503);
        }
    });
}

#[test]
fn a_body_that_has_been_taken_is_an_error_and_not_empty() {
    on_own_context(|| {
        let requests = Server::bind("http://127.0.0.1:0/").unwrap();
        let port = requests.port();
        let ask = |body: &'static str| {
            std::thread::spawn(move || {
                let mut raw = Raw::connect(port);
                raw.send(format!("POST / HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
                raw.rest()
            })
        };
        for body in ["hello", ""] {
            let client = ask(body);
            let mut exchange = requests.next().unwrap();
            assert_eq!(exchange.request.bytes().unwrap(), body.as_bytes());
            assert_eq!(exchange.request.content_length(), Some(body.len() as u64), "it is that of the head");
            let error = exchange.request.bytes().unwrap_err();
            assert!(matches!(&error, Error::Unsupported(text) if text.contains("has been taken")), "{error}");
            exchange.reply(Reply::status(204));
            client.join().unwrap();
        }
    });
    on_own_context(|| {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let notes = seen.clone();
        let server = Server::serve("http://127.0.0.1:0/", move |mut request| {
            let notes = notes.clone();
            async move {
                if request.path() == "/pieces" {
                    let mut all = Vec::new();
                    while let Some(chunk) = request.chunk_future().await? {
                        all.extend(chunk);
                    }
                    assert_eq!(all, b"hello");
                    // The end may be asked for again.
                    assert!(request.chunk_future().await?.is_none());
                } else {
                    assert_eq!(request.text_future().await?, "hello");
                    let chunk = request.chunk_future().await.map(drop);
                    notes.borrow_mut().push(chunk);
                }
                let text = request.text_future().await.map(drop);
                notes.borrow_mut().push(text);
                request.bytes_future().await?;
                Ok(Reply::status(204))
            }
        })
        .unwrap();
        let port = server.port();
        for path in ["/pieces", "/whole"] {
            let reply = crate::common::beside(|| {
                let mut raw = Raw::connect(port);
                raw.send(format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello"));
                raw.answer().status
            });
            assert_eq!(reply, 500);
        }
        assert_eq!(seen.borrow().len(), 3);
        assert!(seen.borrow().iter().all(|result| matches!(result, Err(Error::Unsupported(_)))), "{seen:?}");
    });
}
