//! Both ends are this crate's.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use network::websocket::{Code, OwnedMessage, Server, WebSocket};
use network::{ClientTls, Error, Reason, ServerTls};

use super::common::{TempDir, await_it, noise, on_own_context, run_loop, until};

fn echo() -> Server {
    Server::new("ws://127.0.0.1:0", |ws| {
        ws.read(|ws, message| ws.send(message));
        Ok(())
    })
    .unwrap()
}

#[test]
fn an_echo_in_callbacks_ends_the_loop() {
    on_own_context(|| {
        let server = echo();
        let heard = Rc::new(RefCell::new(String::new()));
        let told = heard.clone();
        WebSocket::connect_async(server.url(), gio::Cancellable::NONE, move |result| {
            let ws = result.unwrap();
            ws.read(move |ws, message| {
                told.replace(message.to_string());
                ws.close(Code::NORMAL, "")
            });
            ws.disconnect_cb(|_, end| {
                assert!(matches!(end.reason, Reason::Local), "{}", end.reason);
                assert_eq!(end.close.unwrap().code, Code::NORMAL);
                network::endloop();
            });
            ws.send("hello").unwrap();
        });
        run_loop();
        assert_eq!(*heard.borrow(), "hello");
    });
}

#[test]
fn many_at_a_time_and_large_messages_by_futures() {
    on_own_context(|| {
        let server = echo();
        let url = server.url();
        await_it(async {
            let mut all = Vec::new();
            for number in 0..20u32 {
                let ws = WebSocket::connect_future(&url).await.unwrap();
                ws.send(number.to_string()).unwrap();
                all.push(ws);
            }
            for (number, ws) in all.iter().enumerate() {
                assert_eq!(ws.next_future().await.unwrap().unwrap(), OwnedMessage::Text(number.to_string()));
            }
            let ws = &all[0];
            let data = noise(1 << 20, 3);
            for _ in 0..8 {
                ws.send_future(&data).await.unwrap();
            }
            let mut stream = ws.messages();
            for _ in 0..8 {
                assert_eq!(stream.next().await.unwrap().unwrap().bytes(), data);
            }
            ws.send_future(vec![0; (1 << 20) + 1]).await.unwrap();
            let error = stream.next().await.unwrap().unwrap_err();
            assert!(matches!(error, Error::WebSocket { code: 1009, .. }), "{error}");
            assert!(stream.next().await.is_none());
        });
    });
}

#[test]
fn a_server_over_a_unix_socket_and_one_over_tls_for_scripts() {
    let directory = TempDir::new();
    let path = directory.address("ws");
    let (sender, receiver) = std::sync::mpsc::channel();
    let (certificates, place) = (directory.path("certs"), path.clone());
    let thread = std::thread::spawn(move || {
        on_own_context(|| {
            let accepted = |ws: WebSocket| {
                ws.read(|ws, message| ws.send(message));
                Ok(())
            };
            let unix = Server::new(place.as_str(), accepted).unwrap();
            assert_eq!(unix.url(), format!("unix:{place}"));
            let tls = Server::builder().tls(ServerTls::new().directory(&certificates));
            let tls = tls.listen("wss://127.0.0.1:0", move |ws| {
                ws.disconnect_cb(|_, _| network::endloop());
                accepted(ws)
            });
            let tls = tls.unwrap();
            sender.send((tls.url(), tls.http().listener().fingerprint().unwrap())).unwrap();
            run_loop();
        });
    });
    let (url, fingerprint) = receiver.recv().unwrap();
    on_own_context(|| {
        let ws = WebSocket::builder().connect_to(path.as_str()).connect("ws://localhost/").unwrap();
        ws.send("over a path").unwrap();
        assert_eq!(ws.recv().unwrap().text(), Some("over a path"));
        drop(ws);
        // A server of TLS says so by an alert.
        let error = WebSocket::builder().connect(url.replace("wss:", "ws:")).unwrap_err().to_string();
        assert!(error.contains("TLS alert") && error.contains("write wss:// in place of ws://"), "{error}");
        // The connection of a blocking call is one of this context, with its TLS.
        let ws = WebSocket::builder().tls(ClientTls::pinned(fingerprint)).connect(&url).unwrap();
        let data = noise(1 << 20, 5);
        ws.send(&data).unwrap();
        assert_eq!(ws.recv().unwrap().bytes(), data);
        let heard = Rc::new(Cell::new(0));
        let count = heard.clone();
        ws.read(move |_, message| {
            count.set(count.get() + message.bytes().len());
            Ok(())
        });
        ws.send(&data).unwrap();
        until(|| heard.get() == data.len());
        assert!(ws.socket().is_tls() && ws.socket().peer_fingerprint().is_some());
        ws.close(Code::NORMAL, "").unwrap();
        until(|| ws.close_frame().is_some());
    });
    thread.join().unwrap();
}

#[test]
fn a_script_cannot_wait_for_a_server_of_its_own_thread() {
    on_own_context(|| {
        let server = echo();
        let error = WebSocket::connect(server.url()).unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)), "{error}");
    });
}

#[test]
fn what_captured_a_connection_goes_with_it_and_the_server_forgets_it() {
    on_own_context(|| {
        let ended = Rc::new(Cell::new(0));
        let count = ended.clone();
        let server = Server::new("ws://127.0.0.1:0", move |ws| {
            let (held, count) = (ws.clone(), count.clone());
            ws.read(move |_, message| held.send(message));
            ws.disconnect_cb(move |_, _| count.set(count.get() + 1));
            Ok(())
        });
        let server = server.unwrap();
        let clients: Vec<_> = (0..3).map(|_| await_it(WebSocket::connect_future(server.url())).unwrap()).collect();
        until(|| server.connections().len() == 3);
        let weak: Vec<_> = server.connections().iter().map(WebSocket::downgrade).collect();
        for ws in server.connections() {
            ws.send("to all").unwrap();
        }
        for ws in &clients {
            assert_eq!(await_it(ws.next_future()).unwrap().unwrap().text(), Some("to all"));
        }
        drop(clients);
        until(|| ended.get() == 3);
        until(|| weak.iter().all(|weak| weak.upgrade().is_none()));
        assert!(server.connections().is_empty());
    });
}

#[test]
fn connections_outlive_their_server() {
    on_own_context(|| {
        let server = echo();
        let ws = await_it(WebSocket::connect_future(server.url())).unwrap();
        let url = server.url();
        drop(server);
        ws.send("still here").unwrap();
        assert_eq!(await_it(ws.next_future()).unwrap().unwrap().text(), Some("still here"));
        assert!(await_it(WebSocket::connect_future(url)).is_err());
    });
}
