//! The largest value of every limit: it means no limit, or is refused, and overflows nothing.

mod common;

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use common::{TempDir, await_it, beside, on_own_context, until};
use network::socket::SocketBuilder;
use network::{ClientTls, Link, Server, ServerTls, Socket, UdpSocket};

const EVER: Duration = Duration::MAX;
const MOST: usize = usize::MAX;

/// Sets what connections and servers have in common.
macro_rules! boundless {
    ($builder:expr) => {
        $builder
            .handshake_timeout(EVER)
            .timeout(EVER)
            .idle_timeout(EVER)
            .receive_timeout(EVER)
            .line_limit(MOST)
            .send_limit(MOST)
            .high_water_mark(MOST)
            .low_water_mark(MOST)
            .read_size(MOST)
            .linger(EVER)
    };
}

fn echo(tls: Option<ServerTls>, address: &str) -> Server {
    let builder = boundless!(Server::builder())
        .max_handshakes(MOST)
        .max_handshakes_per_address(MOST)
        .rejection_log_rate(u32::MAX)
        .backlog(u32::MAX)
        .max_connections(MOST)
        .total_send_limit(MOST);
    let builder = match tls {
        Some(tls) => builder.tls(tls),
        None => builder.tls(false),
    };
    let serve = |socket: Socket| {
        socket.readlines(|socket, line| socket.sendline(line));
        Ok(())
    };
    builder.listen(address, serve).unwrap()
}

fn client(secure: bool, store: &Path) -> SocketBuilder {
    let builder = Socket::builder();
    let builder = match secure {
        true => builder.tls(ClientTls::on_first_use().directory(store)),
        false => builder.tls(false),
    };
    boundless!(builder).connect_timeout(EVER)
}

#[test]
fn connections_and_servers() {
    on_own_context(|| {
        let directory = TempDir::new();
        let store = directory.path("store");
        for secure in [false, true] {
            let server = echo(secure.then(|| ServerTls::new().directory(&store)), "127.0.0.1:0");
            let build = || client(secure, &store);
            let address = format!("127.0.0.1:{}", server.port());
            let socket = await_it(build().connect_future(address.as_str())).unwrap();
            socket.sendline("by future").unwrap();
            assert_eq!(await_it(socket.recv_exact_future(10)).unwrap(), b"by future\n");
            assert_eq!(await_it(network::timeout(EVER, async { 1 })).unwrap(), 1);
            let lines = Rc::new(RefCell::new(Vec::new()));
            let told = lines.clone();
            socket.readlines(move |_, line| {
                told.borrow_mut().push(line.to_owned());
                Ok(())
            });
            socket.sendline("by callback").unwrap();
            until(|| *lines.borrow() == ["by callback"]);
            drop(socket);
            beside(|| {
                let blocking = build().connect(address.as_str()).unwrap();
                blocking.sendline("by a blocking call").unwrap();
                assert_eq!(blocking.recv_until("\n").unwrap(), b"by a blocking call");
            });
        }
    });
}

#[test]
fn links() {
    on_own_context(|| {
        let server = echo(None, "127.0.0.1:0");
        let (lines, told) = (Rc::new(RefCell::new(Vec::new())), Rc::new(RefCell::new(0)));
        let (heard, count) = (lines.clone(), told.clone());
        let link = Link::builder()
            .delays(EVER, EVER)
            .stable_after(EVER)
            .give_up_after(EVER)
            .attempts(u32::MAX)
            .queue(MOST)
            .heartbeat(EVER, |_| Ok(()))
            .down_cb(move |_, _| *count.borrow_mut() += 1)
            .start(format!("tcp://127.0.0.1:{}", server.port()), move |socket| {
                let heard = heard.clone();
                socket.readlines(move |_, line| {
                    heard.borrow_mut().push(line.to_owned());
                    Ok(())
                });
                Ok(())
            })
            .unwrap();
        link.sendline("queued").unwrap();
        until(|| *lines.borrow() == ["queued"]);
        server.connections()[0].abort();
        until(|| *told.borrow() == 1);
        // It waits for ever, or until it is asked.
        link.retry_now();
        link.sendline("again").unwrap();
        until(|| lines.borrow().last().unwrap() == "again");
    });
}

#[test]
fn datagrams() {
    on_own_context(|| {
        let build = || UdpSocket::builder().timeout(EVER).recv_buffer(MOST).send_buffer(MOST).error_log_rate(u32::MAX);
        let (one, other) = (build().bind("127.0.0.1:0").unwrap(), build().bind("127.0.0.1:0").unwrap());
        one.send_to("hello", ("127.0.0.1", other.port())).unwrap();
        assert_eq!(other.recv_from(MOST).unwrap().0, b"hello");
        one.send_to("future", ("127.0.0.1", other.port())).unwrap();
        assert_eq!(await_it(other.recv_from_future(MOST)).unwrap().0, b"future");
    });
}

#[cfg(feature = "http")]
#[test]
fn http() {
    use network::http::{Client, Reply, Request, Server};
    use network::socket::Proxy;

    on_own_context(|| {
        let server = Server::builder()
            .body_limit(MOST)
            .header_limit(MOST)
            .max_headers(10_000)
            .target_limit(MOST)
            .header_timeout(EVER)
            .body_timeout(EVER)
            .write_timeout(EVER)
            .keep_idle(EVER)
            .requests_per_connection(u32::MAX)
            .max_connections(MOST)
            .serve("http://127.0.0.1:0/", async |mut request: Request| Ok(Reply::bytes(request.bytes_future().await?)))
            .unwrap();
        let client = Client::builder()
            .proxy(Proxy::none().timeout(EVER).reply_limit(MOST))
            .connections(MOST)
            .per_host(MOST)
            .keep_idle(EVER)
            .redirects(MOST)
            .connect_timeout(EVER)
            .idle_timeout(EVER)
            .timeout(EVER)
            .min_speed(1, EVER)
            .body_limit(MOST)
            .max_download(u64::MAX)
            .header_limit(MOST)
            .max_headers(10_000)
            .build();
        let body = common::noise(1 << 20, 3);
        for _ in 0..2 {
            let response = await_it(client.post(server.url()).body(body.clone()).timeout(EVER).send_future()).unwrap();
            assert!(await_it(response.bytes_future()).unwrap() == body);
        }
    });
}

#[cfg(feature = "websocket")]
#[test]
fn websockets() {
    use network::websocket::{Server, WebSocket};

    on_own_context(|| {
        let server = Server::builder()
            .message_limit(MOST)
            .ping_interval(EVER)
            .pong_timeout(EVER)
            .ping_limit(u32::MAX)
            .send_limit(MOST)
            .linger(EVER)
            .listen("ws://127.0.0.1:0", |ws| {
                ws.read(|ws, message| ws.send(message));
                Ok(())
            })
            .unwrap();
        let builder = WebSocket::builder()
            .connect_timeout(EVER)
            .handshake_timeout(EVER)
            .message_limit(MOST)
            .ping_interval(EVER)
            .pong_timeout(EVER)
            .ping_limit(u32::MAX)
            .send_limit(MOST)
            .linger(EVER);
        let ws = await_it(builder.connect_future(server.url())).unwrap();
        let body = common::noise(1 << 20, 3);
        ws.send(&body).unwrap();
        assert!(await_it(ws.next_future()).unwrap().unwrap().bytes() == body);
    });
}
