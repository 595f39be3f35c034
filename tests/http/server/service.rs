//! The servers of a daemon: ended in the grace period, reloaded, replaced under load, with sockets from systemd, on threads.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use network::http::Client;
use network::socket::Proxy;
use network::websocket::{Code, WebSocket};
use rustix::process::Signal;

use super::raw::Raw;
use crate::common::{
    LIMIT, Other, Process, TempDir, Watch, activated, command, example, on_own_context, party, run, until_elsewhere,
};

fn client() -> Client {
    Client::builder().proxy(Proxy::none()).timeout(LIMIT).build()
}

#[track_caller]
fn get(client: &Client, url: &str) -> String {
    client.get(url).send().unwrap().error_for_status().unwrap().text().unwrap()
}

/// A daemon in the background, and the port of its HTTP server.
#[track_caller]
fn start(arguments: &[&str]) -> (Other, u16) {
    let mut daemon = command(example("web_daemon"), ["http://127.0.0.1:0/", "--websocket", "ws://127.0.0.1:0/"]);
    let output = run(daemon.args(arguments), "");
    output.assert_clean();
    let text = output.text();
    let line = text.lines().next().unwrap();
    let port = line.strip_prefix("http on port ").unwrap().parse().unwrap();
    (Other::new(get(&client(), &format!("http://127.0.0.1:{port}/")).parse().unwrap()), port)
}

/// A WebSocket, and the process at its other end.
#[track_caller]
fn socket(url: &str) -> (WebSocket, String) {
    let ws = WebSocket::builder().proxy(Proxy::none()).connect(url).unwrap();
    ws.socket().set_timeout(LIMIT);
    let pid = ws.recv().unwrap().to_string();
    (ws, pid)
}

#[track_caller]
fn assert_echoes(ws: &WebSocket) {
    ws.send("still there?").unwrap();
    assert_eq!(ws.recv().unwrap().to_string(), "still there?");
}

#[test]
fn in_the_grace_period_replies_are_finished_and_nothing_is_begun() {
    on_own_context(|| {
        for kind in ["once", "by closing"] {
            let (daemon, port) = start(&["--grace-period", "60"]);
            let (ws, _) = socket(&format!("ws://127.0.0.1:{port}/live"));
            let [mut slow, mut begun, mut idle] = [0; 3].map(|_| Raw::connect(port));
            idle.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
            assert_eq!(idle.answer().status, 200);
            let expects = "Expect: 100-continue\r\nContent-Length: 4\r\n\r\n";
            slow.send(format!("POST /slow HTTP/1.1\r\nHost: localhost\r\n{expects}"));
            assert_eq!(slow.answer().status, 100, "its handler is at work");
            begun.send("GET / HTTP/1.1\r\nHo");
            daemon.signal(Signal::TERM);
            assert!(idle.is_over());
            until_elsewhere("the end of listening", || TcpStream::connect(("127.0.0.1", port)).is_err());
            begun.send("st: localhost\r\n\r\n");
            let answer = begun.answer();
            assert_eq!(answer.status, 503);
            assert!(answer.head.contains("connection: close\r\n"), "{answer:?}");
            assert!(begun.is_over());
            slow.send("body");
            let answer = slow.answer();
            assert_eq!((answer.status, &*answer.body), (200, "body"));
            assert!(answer.head.contains("connection: close\r\n"), "{answer:?}");
            assert!(slow.is_over());
            assert_echoes(&ws);
            if kind == "once" {
                // A second signal ends at once.
                daemon.signal(Signal::TERM);
                daemon.await_end();
                assert!(ws.recv().is_err());
            } else {
                ws.close(Code::NORMAL, "bye").unwrap();
                daemon.await_end();
            }
        }
    });
}

#[test]
fn without_a_grace_period_all_ends_at_once() {
    on_own_context(|| {
        let (daemon, port) = start(&[]);
        let (ws, _) = socket(&format!("ws://127.0.0.1:{port}/live"));
        let mut slow = Raw::connect(port);
        slow.send("POST /slow HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
        assert_eq!(slow.answer().status, 100);
        daemon.signal(Signal::TERM);
        daemon.await_end();
        assert!(ws.recv().is_err());
    });
}

#[test]
fn a_reload_changes_the_answer_and_ends_no_connection() {
    on_own_context(|| {
        let directory = TempDir::new();
        let answer = directory.address("answer");
        std::fs::write(&answer, "one").unwrap();
        let (daemon, port) = start(&["--answer", &answer]);
        let (client, url) = (client(), format!("http://127.0.0.1:{port}/answer"));
        let (ws, _) = socket(&format!("ws://127.0.0.1:{port}/live"));
        let mut kept = Raw::connect(port);
        let mut ask = || {
            kept.send("GET /answer HTTP/1.1\r\nHost: localhost\r\n\r\n");
            kept.answer().body
        };
        assert_eq!((ask(), get(&client, &url)), ("one".into(), "one".into()));
        std::fs::write(&answer, "two").unwrap();
        daemon.signal(Signal::HUP);
        until_elsewhere("the change", || ask() == "two");
        assert_echoes(&ws);
        daemon.signal(Signal::TERM);
        daemon.await_end();
    });
}

/// Clients that ask without a pause, with kept and with new connections, until told to stop. Returns how many were served.
fn load(port: u16, meanwhile: impl FnOnce(&AtomicUsize)) -> usize {
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|number| {
                let (stop, served) = (&stop, &served);
                scope.spawn(move || {
                    let client = client();
                    let url = format!("http://127.0.0.1:{port}/");
                    while !stop.load(Ordering::Relaxed) {
                        let request = client.get(&url);
                        let request = if number == 0 { request.header("connection", "close") } else { request };
                        request.send()?.error_for_status()?.text()?;
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok::<(), network::Error>(())
                })
            })
            .collect();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| meanwhile(&served)));
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().unwrap().expect("no request is refused or cut off");
        }
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    served.into_inner()
}

#[test]
fn a_successor_takes_over_and_no_request_is_lost() {
    on_own_context(|| {
        let (mut daemon, port) = start(&["--renew", "--grace-period", "30"]);
        let url = format!("http://127.0.0.1:{port}/");
        let served = load(port, |served| {
            for _ in 0..5 {
                let before = get(&client(), &url);
                let (staying, _) = socket(&format!("ws://127.0.0.1:{port}/live"));
                let [mut early, mut begun, mut idle] = [0; 3].map(|_| Raw::connect(port));
                begun.send("GET / HTTP/1.1\r\nHo");
                idle.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
                assert_eq!(idle.answer().body, before);
                // What has been accepted after these tells that they have been accepted.
                assert_eq!(get(&client(), &url), before);
                let count = served.load(Ordering::Relaxed);
                daemon.signal(Signal::HUP);
                // For a moment both serve.
                let mut after = before.clone();
                until_elsewhere("another process", || {
                    after = get(&client(), &url);
                    after != before
                });
                let successor = Other::new(after.parse().unwrap());
                // The old one knows of it a little later than those whom the new one serves.
                assert!(idle.is_over());
                // Whoever is connected may finish with the old one, and is told to go then.
                begun.send("st: localhost\r\n\r\n");
                early.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
                for mut raw in [begun, early] {
                    let answer = raw.answer();
                    assert_eq!((answer.status, &answer.body), (200, &before));
                    assert!(answer.head.contains("connection: close\r\n"), "{answer:?}");
                    assert!(raw.is_over());
                }
                assert_echoes(&staying);
                staying.close(Code::NORMAL, "bye").unwrap();
                daemon.await_end();
                daemon = successor;
                until_elsewhere("further requests", || served.load(Ordering::Relaxed) > count + 10);
            }
        });
        assert!(served > 50, "{served} requests");
        daemon.signal(Signal::TERM);
        daemon.await_end();
    });
}

#[test]
fn a_server_on_threads_has_a_grace_period_of_its_own() {
    on_own_context(|| {
        let arguments = ["http://127.0.0.1:0/", "--threads", "2", "--grace-period", "60"];
        let mut daemon =
            Process::start(command(example("web_daemon"), arguments).env("NETWORK_NO_FORK", "1"), Watch::Stdout);
        let port = daemon.port("http on port");
        let mut slow: Vec<_> = (0..4).map(|_| Raw::connect(port)).collect();
        for raw in &mut slow {
            let expects = "Expect: 100-continue\r\nContent-Length: 4\r\n\r\n";
            raw.send(format!("POST /slow HTTP/1.1\r\nHost: localhost\r\n{expects}"));
            assert_eq!(raw.answer().status, 100);
        }
        daemon.signal(Signal::TERM);
        until_elsewhere("the end of listening", || TcpStream::connect(("127.0.0.1", port)).is_err());
        for mut raw in slow {
            raw.send("body");
            assert_eq!(raw.answer().body, "body");
            assert!(raw.is_over());
        }
        assert!(daemon.await_end().status.success());
    });
}

fn activate(sockets: Vec<OwnedFd>, arguments: &[&str]) -> Process {
    Process::start_with_error_alone(&mut activated(example("web_daemon"), sockets, arguments))
}

#[track_caller]
fn end(mut daemon: Process) {
    daemon.signal(Signal::TERM);
    let output = daemon.await_end();
    assert!(output.status.success() && !output.stderr.contains("unused socket"), "{}", output.stderr);
}

#[test]
fn sockets_from_systemd_are_served_with_who_waited_there() {
    on_own_context(|| {
        for threads in ["0", "2"] {
            let web = TcpListener::bind("127.0.0.1:0").unwrap();
            let sockets = TcpListener::bind("127.0.0.1:0").unwrap();
            let ports = [&web, &sockets].map(|listener| listener.local_addr().unwrap().port());
            // It has asked before there is any daemon.
            let mut early = Raw::connect(ports[0]);
            early.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let address = format!("http://127.0.0.1:{}/", ports[0]);
            let second = format!("ws://127.0.0.1:{}/", ports[1]);
            let daemon =
                activate(vec![web.into(), sockets.into()], &[&address, "--websocket", &second, "--threads", threads]);
            assert_eq!(early.answer().body, daemon.id().to_string());
            assert_eq!(get(&client(), &address), daemon.id().to_string());
            let (ws, pid) = socket(&second);
            assert_eq!(pid, daemon.id().to_string());
            assert_echoes(&ws);
            drop(ws);
            end(daemon);
        }
    });
}

#[test]
fn unix_sockets_from_systemd_keep_their_paths() {
    let directory = TempDir::new();
    let paths = ["web", "live"].map(|name| directory.address(name));
    let listeners = paths.clone().map(|path| UnixListener::bind(path).unwrap());
    let daemon = activate(listeners.map(OwnedFd::from).into(), &[&paths[0], "--websocket", &paths[1]]);
    let by_path = Client::builder().connect_to(paths[0].as_str()).build();
    assert_eq!(get(&by_path, "http://localhost/"), daemon.id().to_string());
    let stream = UnixStream::connect(&paths[1]).unwrap();
    drop(stream);
    end(daemon);
    assert!(paths.iter().all(|path| std::path::Path::new(path).exists()), "they belong to whoever made them");
}

#[test]
fn systemds_own_activation_starts_it_at_the_first_request() {
    let directory = TempDir::new();
    let path = directory.address("socket");
    let mut activate: Command = party("systemd-socket-activate");
    activate.args(["--listen", &path, "--setenv", "NETWORK_NO_FORK=1"]);
    for name in ["XDG_DATA_HOME", "PATH"] {
        activate.args(["--setenv", name]);
    }
    let mut activate = Process::start(activate.arg(example("web_daemon")).arg(&path), Watch::Stderr);
    activate.line_with("Listening on");
    let client = Client::builder().connect_to(path.as_str()).timeout(LIMIT).build();
    assert_eq!(get(&client, "http://localhost/"), activate.id().to_string(), "it has become the daemon");
    activate.signal(Signal::TERM);
    let output = activate.await_end();
    assert!(output.status.success() && !output.stderr.contains("WARNING"), "{}", output.stderr);
}
