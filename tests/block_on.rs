//! `block_on` in a process: signals, the grace period, the service manager.

mod common;

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::*;
use futures_channel::oneshot;
use network::{Error, Server, Socket};
use rustix::process::Signal;

/// Says in a child of the test where its server is to listen.
const PLACE: &str = "NETWORK_TEST_PLACE";

/// This test again, in another process. `None` in there.
#[track_caller]
fn another(test: &str, place: &Path, notify: Option<&Path>) -> Option<Process> {
    if std::env::var_os(PLACE).is_some() {
        return None;
    }
    let mut again = command(std::env::current_exe().unwrap(), ["--exact", test, "--nocapture"]);
    again.env(PLACE, place);
    if let Some(notify) = notify {
        again.env("NOTIFY_SOCKET", notify);
    }
    Some(Process::start(&mut again, Watch::Stderr))
}

fn place() -> PathBuf {
    PathBuf::from(std::env::var_os(PLACE).unwrap())
}

/// Answers lines, and tells of one that says "bye".
fn echo(tell: oneshot::Sender<()>) -> network::Result<Server> {
    let mut tell = Some(tell);
    Server::new(place().as_path(), move |socket| {
        let mut tell = tell.take();
        socket.readlines(move |socket, line| {
            if line == "bye"
                && let Some(tell) = tell.take()
            {
                let _ = tell.send(());
            }
            socket.sendline(line)
        });
        Ok(())
    })
}

struct Client(BufReader<UnixStream>);

impl Client {
    fn connect(place: &Path) -> Client {
        let stream = UnixStream::connect(place).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Client(BufReader::new(stream))
    }

    #[track_caller]
    fn ask(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        self.0.read_line(&mut answer).unwrap();
        assert_eq!(answer.trim_end(), line);
    }
}

fn is_interrupted<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(error @ Error::Io { .. }) if error.kind() == ErrorKind::Interrupted)
}

#[test]
fn a_signal_ends_it_and_closes_its_servers() {
    let directory = TempDir::new();
    for signal in [Signal::TERM, Signal::INT] {
        let path = directory.path("server");
        let Some(mut child) = another("a_signal_ends_it_and_closes_its_servers", &path, None) else {
            return on_own_context(|| {
                // One that is its own, and one that outlives it.
                let (tell, _told) = oneshot::channel();
                let server = echo(tell).unwrap();
                let outcome = network::block_on(async {
                    let own = place().with_extension("own");
                    let _server = Server::new(own.as_path(), |_| Ok(())).unwrap();
                    eprintln!("serving");
                    std::future::pending::<()>().await;
                });
                assert!(is_interrupted(outcome));
                assert!(!place().exists() && !place().with_extension("own").exists());
                assert!(!server.is_open());
                // The next one is not interrupted.
                network::block_on(network::sleep(Duration::from_millis(1))).unwrap();
                eprintln!("ended");
            });
        };
        child.line_with("serving");
        Client::connect(&path).ask("hello");
        child.signal(signal);
        child.line_with("ended");
        let outcome = child.await_end();
        assert!(outcome.status.success(), "{outcome:?}");
    }
}

#[test]
fn in_the_grace_period_the_future_goes_on_and_gives_its_output() {
    let directory = TempDir::new();
    let path = directory.path("server");
    let Some(mut child) = another("in_the_grace_period_the_future_goes_on_and_gives_its_output", &path, None) else {
        return on_own_context(|| {
            network::daemon::set_grace_period(LIMIT);
            let (tell, told) = oneshot::channel();
            let _server = echo(tell).unwrap();
            let outcome = network::block_on(async {
                eprintln!("serving");
                told.await.unwrap();
                eprintln!("heard");
                7
            });
            eprintln!("ended with {}", outcome.unwrap());
        });
    };
    child.line_with("serving");
    let mut client = Client::connect(&path);
    client.ask("hello");
    child.signal(Signal::TERM);
    // Nobody else is accepted by then.
    while UnixStream::connect(&path).is_ok() {
        client.ask("still there?");
    }
    client.ask("bye");
    child.line_with("heard");
    client.ask("the connection has its time, whatever the future gave");
    drop(client);
    child.line_with("ended with 7");
    assert!(child.await_end().status.success());
}

#[test]
fn after_the_grace_period_it_is_interrupted() {
    let directory = TempDir::new();
    let path = directory.path("server");
    let Some(mut child) = another("after_the_grace_period_it_is_interrupted", &path, None) else {
        return on_own_context(|| {
            network::daemon::set_grace_period(LIMIT);
            let (tell, _told) = oneshot::channel();
            let _server = echo(tell).unwrap();
            let outcome = network::block_on(async {
                eprintln!("serving");
                std::future::pending::<()>().await;
            });
            assert!(is_interrupted(outcome));
            eprintln!("ended");
        });
    };
    child.line_with("serving");
    let mut client = Client::connect(&path);
    client.ask("hello");
    child.signal(Signal::TERM);
    client.ask("still there?");
    drop(client);
    child.line_with("ended");
    assert!(child.await_end().status.success());
}

#[test]
fn it_is_ready_when_the_future_first_waits() {
    let directory = TempDir::new();
    let (path, notify) = (directory.path("server"), directory.path("notify"));
    let manager = UnixDatagram::bind(&notify).unwrap();
    manager.set_read_timeout(Some(LIMIT)).unwrap();
    let Some(mut child) = another("it_is_ready_when_the_future_first_waits", &path, Some(&notify)) else {
        return on_own_context(|| {
            let outcome = network::block_on(async {
                let (tell, told) = oneshot::channel();
                let _server = echo(tell).unwrap();
                network::daemon::notify_systemd("STATUS=started").unwrap();
                told.await.unwrap();
                // One that runs within it is not ready once more.
                network::block_on(network::sleep(Duration::from_millis(1))).unwrap();
            });
            outcome.unwrap();
        });
    };
    let hears = || {
        let mut buffer = [0; 100];
        let count = manager.recv(&mut buffer).expect("a notice");
        String::from_utf8(buffer[..count].into()).unwrap()
    };
    assert_eq!(hears(), "STATUS=started");
    assert_eq!(hears(), "READY=1");
    Client::connect(&path).ask("bye");
    let outcome = child.await_end();
    assert!(outcome.status.success(), "{outcome:?}");
    manager.set_nonblocking(true).unwrap();
    assert_eq!(manager.recv(&mut [0; 100]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_signal_ends_a_blocking_call_in_it_too() {
    let directory = TempDir::new();
    let path = directory.path("server");
    let Some(mut child) = another("a_signal_ends_a_blocking_call_in_it_too", &path, None) else {
        return on_own_context(|| {
            let (ours, _theirs) = UnixStream::pair().unwrap();
            let socket = Socket::from_fd(ours).unwrap();
            let outcome = network::block_on(async {
                eprintln!("serving");
                assert!(is_interrupted(socket.recv(1)));
                std::future::pending::<()>().await;
            });
            assert!(is_interrupted(outcome));
            eprintln!("ended");
        });
    };
    child.line_with("serving");
    child.signal(Signal::TERM);
    child.line_with("ended");
    assert!(child.await_end().status.success());
}
