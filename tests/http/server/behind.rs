//! The server behind nginx and haproxy, and under load.

use std::cell::Cell;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use network::http::{Reply, Request, Server};

use super::curl;
use crate::common::{LIMIT, Process, TempDir, Watch, beside, on_own_context, party, run, tool};

/// A server for a public host, which counts its connections.
fn server() -> (Server, Rc<Cell<usize>>) {
    let most = Rc::new(Cell::new(0));
    let into = most.clone();
    let place: Rc<std::cell::OnceCell<network::server::WeakServer>> = Rc::default();
    let own = place.clone();
    let server = Server::builder()
        .hosts(["desk.example"])
        .body_limit(32 << 20)
        .serve("http://127.0.0.1:0/", move |mut request: Request| {
            let open = own.get().and_then(|own| own.upgrade()).map_or(0, |own| own.connections().len());
            into.set(into.get().max(open));
            async move {
                let forwarded = request.header("x-forwarded-for").map(str::to_owned);
                let body = request.bytes_future().await?;
                Ok(Reply::text(format!("{} {} {:?} {}", request.method(), request.path(), forwarded, body.len())))
            }
        })
        .unwrap();
    assert!(place.set(server.listener().downgrade()).is_ok());
    (server, most)
}

/// Waits for a proxy's socket.
fn await_socket(path: &Path) {
    let late = Instant::now() + LIMIT;
    while UnixStream::connect(path).is_err() {
        assert!(Instant::now() < late, "{} does not listen", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The same by either proxy.
fn through(socket: &Path, most: &Cell<usize>, chunked: bool) {
    let socket = socket.to_str().unwrap();
    let file = TempDir::new();
    std::fs::write(file.path("big"), vec![b'x'; 5 << 20]).unwrap();
    beside(|| {
        await_socket(Path::new(socket));
        for number in 0..20 {
            let text = curl(["--unix-socket", socket, &format!("http://desk.example/{number}")]);
            assert!(text.starts_with(&format!("GET /{number} Some(")) && text.ends_with(" 0"), "{text}");
        }
        let text = curl(["--unix-socket", socket, "-T", &file.address("big"), "http://desk.example/up"]);
        assert!(text.starts_with("PUT /up ") && text.ends_with(" 5242880"), "{text}");
        if chunked {
            let chunks = "Transfer-Encoding: chunked";
            let text = curl(["--unix-socket", socket, "-H", chunks, "-d", "hello", "http://desk.example/up"]);
            assert!(text.ends_with(" 5"), "{text}");
        }
        // The proxy passes the host on, and this one is not served.
        let status = ["-o", "/dev/null", "-w", "%{http_code}"];
        let text = curl(["--unix-socket", socket, status[0], status[1], status[2], status[3], "http://other.example/"]);
        assert_eq!(text, "421");
    });
    assert!(most.get() <= 3, "the connections to the server are not kept: {}", most.get());
}

#[test]
fn behind_nginx() {
    on_own_context(|| {
        let (server, most) = server();
        let directory = TempDir::new();
        let at = |name: &str| directory.address(name);
        let temp =
            ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {};", at(kind)));
        let text = format!(
            "daemon off; pid {}; error_log {}; events {{}}
            http {{ access_log off; client_max_body_size 0; {}
              upstream us {{ server 127.0.0.1:{}; keepalive 1; }}
              server {{ listen unix:{};
                location / {{ proxy_pass http://us; proxy_http_version 1.1; proxy_request_buffering off;
                  proxy_set_header Connection ''; proxy_set_header Host $host; proxy_set_header X-Forwarded-For client; }} }} }}",
            at("pid"),
            at("error"),
            temp.join(" "),
            server.port(),
            at("sock"),
        );
        std::fs::write(at("nginx.conf"), text).unwrap();
        let mut command = party("nginx");
        command.args(["-p", &at(""), "-c", &at("nginx.conf"), "-e", &at("error")]);
        let _nginx = Process::start(&mut command, Watch::Stderr);
        through(&directory.path("sock"), &most, true);
    });
}

#[test]
fn behind_haproxy() {
    on_own_context(|| {
        let (server, most) = server();
        let directory = TempDir::new();
        let at = |name: &str| directory.address(name);
        let text = format!(
            "defaults
  mode http
  timeout connect 10s
  timeout client 10s
  timeout server 10s
frontend f
  bind unix@{}
  http-request set-header X-Forwarded-For client
  default_backend b
backend b
  http-reuse always
  server s 127.0.0.1:{}
",
            at("sock"),
            server.port(),
        );
        std::fs::write(at("h.cfg"), text).unwrap();
        let mut command = party("haproxy");
        command.args(["-db", "-f", &at("h.cfg")]);
        let _haproxy = Process::start(&mut command, Watch::Stderr);
        through(&directory.path("sock"), &most, true);
    });
}

#[test]
fn under_load() {
    on_own_context(|| {
        let server = Server::builder()
            .requests_per_connection(u32::MAX)
            .get("/", |_| Ok(Reply::text("Hello, world!\n")))
            .listen("http://127.0.0.1:0/")
            .unwrap();
        let url = server.url();
        let text = beside(|| {
            let mut command = party("wrk");
            run(command.args(["-t1", "-c64", "-d2s", &url]), []).text()
        });
        assert!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
        let rate =
            text.lines().find_map(|line| line.strip_prefix("Requests/sec:")).unwrap().trim().parse::<f64>().unwrap();
        assert!(rate > 100.0, "{text}");
        crate::common::until(|| server.listener().connections().is_empty());
    });
}

#[test]
fn under_load_by_h2load_plain_and_over_tls() {
    for scheme in ["http", "https"] {
        on_own_context(|| {
            let server = Server::builder()
                .requests_per_connection(250)
                .get("/", |_| Ok(Reply::text("Hello, world!\n")))
                .listen(format!("{scheme}://127.0.0.1:0/").as_str())
                .unwrap();
            let url = server.url();
            let text = beside(|| {
                let mut command = tool("/usr/bin/h2load");
                // Each connection makes as many requests as it may.
                run(command.args(["--h1", "-t1", "-c32", "-m1", "-n8000", &url]), []).text()
            });
            let all = "requests: 8000 total, 8000 started, 8000 done, 8000 succeeded, 0 failed, 0 errored, 0 timeout";
            assert!(text.contains(all), "{text}");
            assert!(text.contains("Application protocol: http/1.1"), "{text}");
            assert!(text.contains("status codes: 8000 2xx"), "{text}");
            crate::common::until(|| server.listener().connections().is_empty());
        });
    }
}

/// The parts of heads, good and bad, of which any combination is tried.
const LINES: [&[&str]; 3] = [
    &[
        "GET / HTTP/1.1",
        "POST /a?b HTTP/1.1",
        "GET / HTTP/1.0",
        "HEAD / HTTP/1.1",
        "GET http://localhost/ HTTP/1.1",
        "GET  / HTTP/1.1",
        "GET /%2e%2e/ HTTP/1.1",
        "GET /a%00 HTTP/1.1",
        "get / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "G(T / HTTP/1.1",
        "GET /\u{1} HTTP/1.1",
        "GET /a/../../b HTTP/1.1",
        "GET / HTTP/2.0",
        "GET /a;b=\"c\"<>{} HTTP/1.1",
        "GET /a%zz HTTP/1.1",
        "GET http://x/ HTTP/1.1",
    ],
    &[
        "Host: localhost",
        "host:localhost ",
        "Host: localhost:80",
        "Host: LOCALHOST",
        "Host: ",
        "Host: a b",
        "Host: localhost\r\nHost: localhost",
        "Host : localhost",
        "X: y",
        "Host: localhost/",
        "Host: [::1]",
        "Host: 127.0.0.1",
        "Host: localhost:",
        "Host: 127.0.0.1:x",
    ],
    &[
        "",
        "X: y\r\n",
        "X:\r\n",
        "X: \u{7f}\r\n",
        "X\r\n",
        " X: y\r\n",
        "X_Y: z\r\n",
        "X Y: z\r\n",
        "X: y\r\n z\r\n",
        "Content-Length: 0\r\n",
        "Content-Length: 00\r\n",
        "Content-Length: 0\r\nContent-Length: 0\r\n",
        "Content-Length: -0\r\n",
        "Content-Length: 0, 0\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding:\r\n",
        "X: y\rz\r\n",
        "X: \0\r\n",
        "Expect: 200-ok\r\n",
        "Upgrade: x\r\nConnection: upgrade\r\n",
        "Connection: close\r\n",
    ],
];

#[test]
fn nothing_is_served_that_nginx_refuses() {
    on_own_context(|| {
        let server = Server::serve("http://127.0.0.1:0/", async |_| Ok(Reply::status(204))).unwrap();
        let port = server.port();
        let directory = TempDir::new();
        let at = |name: &str| directory.address(name);
        let temp =
            ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {};", at(kind)));
        let text = format!(
            "daemon off; pid {}; error_log {}; events {{}}
            http {{ access_log off; {} server {{ listen unix:{}; location / {{ return 204; }} }} }}",
            at("pid"),
            at("error"),
            temp.join(" "),
            at("sock"),
        );
        std::fs::write(at("nginx.conf"), text).unwrap();
        let mut command = party("nginx");
        command.args(["-p", &at(""), "-c", &at("nginx.conf"), "-e", &at("error")]);
        let _nginx = Process::start(&mut command, Watch::Stderr);
        let (mut both, mut neither, mut stricter) = (0, 0, 0);
        beside(|| {
            await_socket(&directory.path("sock"));
            let [starts, hosts, more] = LINES;
            // Each with each other, and the third as it should be.
            let mut heads = Vec::new();
            for start in starts {
                heads.extend(hosts.iter().map(|host| format!("{start}\r\n{host}\r\n\r\n")));
                heads.extend(more.iter().map(|more| format!("{start}\r\n{}\r\n{more}\r\n", hosts[0])));
            }
            for host in hosts {
                heads.extend(more.iter().map(|more| format!("{}\r\n{host}\r\n{more}\r\n", starts[0])));
            }
            for head in heads {
                let ours = status(&mut TcpStream::connect(("127.0.0.1", port)).unwrap(), &head);
                let theirs = status(&mut UnixStream::connect(directory.path("sock")).unwrap(), &head);
                match (ours < 400, theirs < 400) {
                    (true, true) => both += 1,
                    (false, false) => neither += 1,
                    (false, true) => stricter += 1,
                    (true, false) => panic!("{ours}, and nginx says {theirs}: {head:?}"),
                }
            }
        });
        println!("{both} served by both, {neither} by neither, {stricter} by nginx alone");
        assert!(both > 50 && neither > 200, "{both} {neither} {stricter}");
    });
}

/// Sends a head, and returns the status of the reply.
fn status(stream: &mut (impl std::io::Read + std::io::Write), head: &str) -> u16 {
    stream.write_all(head.as_bytes()).unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).unwrap();
    std::str::from_utf8(&start[9..]).unwrap().parse().unwrap()
}
