//! The server behind nginx and haproxy, and under load.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use network::http::{Reply, Request, Server};

use super::curl;
use crate::common::{LIMIT, Process, TempDir, Watch, beside, on_own_context, party, run};

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
    while std::os::unix::net::UnixStream::connect(path).is_err() {
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
