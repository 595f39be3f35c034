//! Requests that are taken one by one.

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
