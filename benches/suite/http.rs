//! HTTP: the client beside those of hyper, hyper-util, libcurl and libsoup, all served by nginx; the server beside hyper's, under wrk; and
//! the WebSocket server beside tungstenite's.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::AsyncBufReadExt;
use network::ClientTls;
use network::http::{Client, Reply, Server};

use crate::Result;
use crate::clients::{Daemon, Running, certify, cpu, measure, party};
use crate::process::{Kind, Served, peer};
use crate::report::{Goal, Row, Unit};
use crate::scenarios::Bench;

const BIG: usize = 16 << 20;
const GREETING: &str = "Hello, world!\n";
/// The peers have the same number.
const CONNECTIONS: usize = 16;

// ---- this library ----

/// Does one task for each line of standard input, `PATH COUNT [together]`, and prints the CPU time that took, in nanoseconds.
pub fn client(url: &str, ca: Option<&str>) -> Result<()> {
    let mut builder = Client::builder().per_host(CONNECTIONS);
    if let Some(ca) = ca {
        builder = builder.tls(ClientTls::roots(std::fs::read(ca)?));
    }
    let client = builder.build();
    for task in std::io::stdin().lines() {
        let task = task?;
        let words: Vec<&str> = task.split(' ').collect();
        let (url, count) = (format!("{url}{}", words[0]), words[1].parse::<usize>()?);
        let many = if words.len() > 2 { CONNECTIONS } else { 1 };
        let before = cpu();
        let tasks: Vec<_> =
            (0..many).map(|_| network::spawn(visits(client.clone(), url.clone(), count / many))).collect();
        network::block_on(async {
            for task in tasks {
                task?.await?;
            }
            Ok::<_, network::Error>(())
        })??;
        println!("{}", cpu() - before);
    }
    Ok(())
}

async fn visits(client: Client, url: String, count: usize) -> network::Result {
    for _ in 0..count {
        let mut response = client.get(&url).send_future().await?.error_for_status()?;
        loop {
            // As it is lent, like the frames of hyper's and the pieces of libcurl's callback.
            let length = black_box(response.fill_buf().await?).len();
            if length == 0 {
                break;
            }
            response.consume_unpin(length);
        }
    }
    Ok(())
}

/// The server of a task. It serves as long as that lives.
pub fn serve(task: &str) -> Result<(Box<dyn std::any::Any>, u16)> {
    match task {
        #[cfg(feature = "websocket")]
        "websocket" => {
            let server = network::websocket::Server::new("ws://127.0.0.1:0/", |socket| {
                socket.read(|socket, message| socket.send(message));
                Ok(())
            })?;
            let port = server.port();
            Ok((Box::new(server), port))
        }
        _ => {
            let server = Server::builder()
                .requests_per_connection(u32::MAX)
                .any("/*", |_| Ok(Reply::text(GREETING)))
                .listen("http://127.0.0.1:0/")?;
            let port = server.port();
            Ok((Box::new(server), port))
        }
    }
}

// ---- nginx ----

struct Nginx {
    directory: tempfile::TempDir,
    _daemon: Daemon,
    port: u16,
    is_tls: bool,
}

impl Nginx {
    fn start(program: &Path, is_tls: bool) -> Result<Nginx> {
        let directory = tempfile::tempdir()?;
        let path = |name: &str| directory.path().join(name);
        std::fs::create_dir(path("root"))?;
        std::fs::write(path("root/small"), GREETING)?;
        std::fs::write(path("root/big"), vec![7; BIG])?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut tls = String::new();
        if is_tls {
            certify(&path("both.pem"), &path("cert.pem"))?;
            let both = path("both.pem").display().to_string();
            tls = format!("ssl_certificate {both}; ssl_certificate_key {both};");
        }
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary: String = temporary.map(|name| format!("{name}_temp_path {}; ", path(name).display())).concat();
        let settings = format!(
            "daemon off; master_process off; pid {}; error_log stderr crit;\nevents {{ worker_connections 256; }}\n\
             http {{ access_log off; sendfile on; keepalive_requests 100000000; {temporary} default_type text/plain;\n\
             server {{ listen 127.0.0.1:{port}{}; root {}; {tls} }} }}\n",
            path("pid").display(),
            if is_tls { " ssl" } else { "" },
            path("root").display()
        );
        std::fs::write(path("nginx.conf"), settings)?;
        let mut daemon = Command::new(program);
        daemon.arg("-p").arg(directory.path()).arg("-c").arg(path("nginx.conf"));
        Ok(Nginx { _daemon: Daemon::start(&mut daemon, port)?, port, is_tls, directory })
    }

    fn clients(&self, kinds: &[Kind]) -> Result<Vec<Running>> {
        let scheme = if self.is_tls { "https" } else { "http" };
        let url = format!("{scheme}://127.0.0.1:{}", self.port);
        let ca: Option<PathBuf> = self.is_tls.then(|| self.directory.path().join("cert.pem"));
        let start = |kind: &Kind| {
            let program = if *kind == Kind::Libcurl { peer("libcurl_http") } else { kind.command() };
            Running::start(*kind, program, [url.clone().into()].into_iter().chain(ca.clone().map(Into::into)))
        };
        kinds.iter().map(start).filter_map(Result::transpose).collect()
    }
}

// ---- the load of servers ----

/// Connections on each of which the same bytes are sent, and as many come back each time.
struct Exchange {
    wires: Vec<TcpStream>,
    request: Vec<u8>,
    answer: usize,
}

impl Exchange {
    /// `greeting` opens a connection; its answer ends with an empty line.
    fn open(port: u16, connections: usize, greeting: &[u8], request: Vec<u8>, answer: usize) -> Result<Exchange> {
        let open = |_| {
            let mut wire = TcpStream::connect(("127.0.0.1", port))?;
            wire.set_nodelay(true)?;
            wire.set_read_timeout(Some(Duration::from_secs(10)))?;
            wire.write_all(greeting)?;
            let mut head = Vec::new();
            while !greeting.is_empty() && !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                wire.read_exact(&mut byte)?;
                head.push(byte[0]);
            }
            Ok(wire)
        };
        let wires = (0..connections).map(open).collect::<std::io::Result<_>>()?;
        Ok(Exchange { wires, request, answer })
    }

    /// Returns how many exchanges there were.
    fn run(&mut self, time: Duration) -> Result<f64> {
        let until = Instant::now() + time;
        let mut buffer = vec![0; self.answer];
        let mut count = 0;
        while Instant::now() < until {
            for wire in &mut self.wires {
                wire.write_all(&self.request)?;
            }
            for wire in &mut self.wires {
                wire.read_exact(&mut buffer)?;
                count += 1;
            }
        }
        Ok(f64::from(count))
    }
}

/// Returns the length of a server's answer to a request.
fn length_of(port: u16, request: &[u8]) -> Result<usize> {
    let mut wire = TcpStream::connect(("127.0.0.1", port))?;
    wire.write_all(request)?;
    let mut answer = Vec::new();
    while !answer.ends_with(GREETING.as_bytes()) {
        let mut byte = [0];
        wire.read_exact(&mut byte)?;
        answer.push(byte[0]);
    }
    Ok(answer.len())
}

/// A frame of a client, whose mask is nothing, and the length of the frame that a server sends back.
#[cfg(feature = "websocket")]
fn frame(size: usize) -> (Vec<u8>, usize) {
    let length = match size {
        0..126 => vec![size as u8],
        126..65536 => [&[126][..], &(size as u16).to_be_bytes()].concat(),
        _ => [&[127][..], &(size as u64).to_be_bytes()].concat(),
    };
    let mut masked = length.clone();
    masked[0] |= 0x80;
    // Binary, and whole.
    let request = [&[0x82][..], &masked, &[1, 2, 3, 4], &vec![b'x'; size]].concat();
    (request, 1 + length.len() + size)
}

#[cfg(feature = "websocket")]
const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

// ---- the table ----

pub fn run(bench: &mut Bench) -> Result<()> {
    match party("nginx") {
        Some(program) => clients(bench, &program)?,
        None => eprintln!("without nginx: ./dev bench unpacks it"),
    }
    for (connections, limit) in [(1, 1.05), (64, 0.95)] {
        let request = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
        let name = format!("HTTP server: GET, {connections} conn.");
        serving(bench, &name, limit, "http", connections, |port| {
            Ok((Vec::new(), request.to_vec(), length_of(port, request)?))
        })?;
    }
    #[cfg(feature = "websocket")]
    for (connections, size, limit) in [(1, 64, 1.0), (64, 64, 0.8), (1, 64 << 10, 1.05)] {
        let (request, answer) = frame(size);
        let size = if size < 1024 { format!("{size} B") } else { format!("{} KiB", size >> 10) };
        let name = format!("WebSocket: echo of {size}, {connections} conn.");
        serving(bench, &name, limit, "websocket", connections, |_| Ok((UPGRADE.into(), request.clone(), answer)))?;
    }
    Ok(())
}

/// CPU of the servers for each exchange: of this library, and of the same on tokio.
fn serving(
    bench: &mut Bench,
    name: &str,
    limit: f64,
    task: &str,
    connections: usize,
    words: impl Fn(u16) -> Result<(Vec<u8>, Vec<u8>, usize)>,
) -> Result<()> {
    let mut sides = Vec::new();
    for kind in [Kind::Network, Kind::Fgloop, Kind::Tokio] {
        if let Some(server) = Served::start(kind, &[], task, None, &[])? {
            let (greeting, request, answer) = words(server.port())?;
            let load = Exchange::open(server.port(), connections, &greeting, request, answer)?;
            sides.push((server, load));
        }
    }
    let time = bench.time;
    let outcome = bench.measure(&mut sides, |_, load| load.run(time))?;
    bench.add(Row::new(name, Unit::Nanos, outcome.times, [Goal::times(limit, Kind::Tokio)]).waited(outcome.waited));
    Ok(())
}

/// CPU of the clients for each request.
fn clients(bench: &mut Bench, nginx: &Path) -> Result<()> {
    let many = if bench.quick { 1000 } else { 5000 };
    let mut compare = |nginx: &Nginx, kinds: &[Kind], path: &str, name: &str, goals: &[(f64, Kind)]| -> Result<()> {
        let (count, rest) = match path {
            "/big" => (4, ""),
            _ if name.ends_with("16 conn.") => (many / CONNECTIONS * CONNECTIONS, " together"),
            _ => (many, ""),
        };
        let goals = goals.iter().map(|(limit, other)| Goal::times(*limit, *other));
        let mut running = nginx.clients(kinds)?;
        let row = measure(bench, &mut running, &format!("{path} {count}{rest}"), name, goals)?;
        bench.add(row.each(count));
        Ok(())
    };
    use Kind::{Hyper, HyperUtil, Libcurl, Libsoup, Network};
    let plain = Nginx::start(nginx, false)?;
    let goals = [(1.0, HyperUtil), (0.75, Libcurl), (0.2, Libsoup)];
    compare(&plain, &[Network, Hyper, HyperUtil, Libcurl, Libsoup], "/small", "HTTP client: GET of 14 B", &goals)?;
    compare(&plain, &[Network, Hyper, HyperUtil], "/small", "HTTP client: GET of 14 B, 16 conn.", &[(1.1, Hyper)])?;
    compare(&plain, &[Network, Hyper, Libcurl], "/big", "HTTP client: 16 MiB", &[(1.15, Hyper)])?;
    let secret = Nginx::start(nginx, true)?;
    compare(&secret, &[Network, Libcurl], "/small", "HTTP client: GET of 14 B, TLS", &[(0.75, Libcurl)])?;
    compare(&secret, &[Network, Libcurl], "/big", "HTTP client: 16 MiB, TLS", &[(1.05, Libcurl)])
}
