//! What strangers can hold against a server: places for handshakes, the log, locks, and what lies at a path. None of it may
//! keep others out, end the program or reach a file of somebody else.

mod common;

use std::cell::RefCell;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::{LIMIT, Process, TempDir, Watch, beside, command, example, on_own_context, until};
use network::log::Level;
use network::server::ServerBuilder;
use network::socket::SocketBuilder;
use network::{ClientTls, Server, ServerTls, Socket, UdpSocket};
use rustix::process::Signal;

/// There is one log in a process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- handshakes ----

/// A handshake that says nothing may last as long as these tests.
fn crowdable(home: &TempDir) -> ServerBuilder {
    let tls = ServerTls::new().directory(home.path(""));
    Server::builder().address("127.0.0.1").tls(tls).handshake_timeout(2 * LIMIT).max_handshakes(40)
}

/// Connections that never say anything, from 127.0.0.1. Some may wait in the backlog.
fn silent(server: &Server, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect(("127.0.0.1", server.port())).unwrap()).collect()
}

fn client(home: &TempDir, from: IpAddr) -> SocketBuilder {
    Socket::builder().tls(ClientTls::new().directory(home.path(""))).source(from)
}

const OTHER_HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const SAME_HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[test]
fn silent_clients_of_one_host_do_not_keep_others_out() {
    let _alone = alone();
    on_own_context(|| {
        let home = TempDir::new();
        let server = crowdable(&home).listen(0, |socket| socket.sendline("welcome")).unwrap();
        let _silent = silent(&server, 100);
        let address = format!("localhost:{}", server.port());
        for _ in 0..3 {
            let welcomed = Rc::new(RefCell::new(None));
            let told = welcomed.clone();
            client(&home, OTHER_HOST).connect_async(address.as_str(), gio::Cancellable::NONE, move |result| {
                told.replace(Some(result.map(drop)));
            });
            until(|| welcomed.borrow().is_some());
            welcomed.take().unwrap().unwrap();
        }
    });
}

#[test]
fn silent_clients_of_one_host_do_not_keep_others_from_accept() {
    let _alone = alone();
    let home = TempDir::new();
    let server = crowdable(&home).bind(0).unwrap();
    server.set_accept_timeout(LIMIT);
    let _silent = silent(&server, 100);
    std::thread::scope(|scope| {
        let address = format!("localhost:{}", server.port());
        let home = &home;
        let thread = scope.spawn(move || {
            let socket = on_own_context(|| client(home, OTHER_HOST).connect(address.as_str()).map(drop));
            socket.unwrap();
        });
        let socket = server.accept().unwrap();
        assert_eq!(socket.remote().inet().unwrap().ip(), OTHER_HOST);
        thread.join().unwrap();
    });
}

#[test]
fn a_client_of_the_same_host_gets_in_when_silent_ones_have_had_their_time() {
    let _alone = alone();
    on_own_context(|| {
        let home = TempDir::new();
        let server = crowdable(&home).listen(0, |socket| socket.sendline("welcome")).unwrap();
        let _silent = silent(&server, 60);
        let address = format!("localhost:{}", server.port());
        let line = beside(|| {
            on_own_context(|| {
                let late = Instant::now() + LIMIT;
                loop {
                    match client(&home, SAME_HOST).connect(address.as_str()) {
                        Ok(socket) => break socket.recv_line().unwrap(),
                        // Rejected: the others are not old enough yet.
                        Err(error) => assert!(Instant::now() < late, "{error}"),
                    }
                }
            })
        });
        assert_eq!(line, "welcome");
    });
}

#[test]
fn where_one_host_may_have_all_places_its_clients_wait() {
    let _alone = alone();
    on_own_context(|| {
        let home = TempDir::new();
        let builder = crowdable(&home).handshake_timeout(Duration::from_millis(500)).max_handshakes_per_address(40);
        let server = builder.listen(0, |socket| socket.sendline("welcome")).unwrap();
        let _silent = silent(&server, 40);
        let address = format!("localhost:{}", server.port());
        let line = beside(|| on_own_context(|| client(&home, SAME_HOST).connect(address.as_str())?.recv_line()));
        assert_eq!(line.unwrap(), "welcome", "it was not rejected");
    });
}

// ---- the log ----

type Records = Arc<Mutex<Vec<(Level, String)>>>;

/// Keeps what is logged about clients, until it is dropped.
struct Log(Records);

impl Log {
    fn keep() -> Log {
        let records = Records::default();
        let kept = records.clone();
        network::log::set_log(Level::Message, move |record| {
            kept.lock().unwrap().push((record.level, record.message.to_owned()));
        });
        Log(records)
    }

    fn records(&self) -> Vec<(Level, String)> {
        self.0.lock().unwrap().clone()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        network::log::unset_log();
    }
}

/// The clients that one record tells of.
fn told(record: &str) -> usize {
    let text = record.strip_prefix("rejected ").unwrap_or_else(|| panic!("{record}"));
    if text.starts_with("a client") { 1 } else { text.split(' ').next().unwrap().parse().unwrap() }
}

#[test]
fn clients_that_fail_do_not_fill_the_log() {
    let _alone = alone();
    on_own_context(|| {
        let home = TempDir::new();
        let server = crowdable(&home).rejection_log_rate(3).listen(0, |_| Ok(())).unwrap();
        let log = Log::keep();
        let started = Instant::now();
        for mut client in silent(&server, 30) {
            client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        }
        let total = |log: &Log| log.records().iter().map(|(_, record)| told(record)).sum::<usize>();
        until(|| total(&log) == 30);
        let seconds = started.elapsed().as_secs() as usize + 2;
        let records = log.records();
        assert!(records.len() <= 4 * seconds, "{records:?}");
        assert!(records.iter().all(|(level, _)| *level == Level::Message), "{records:?}");
    });
}

#[test]
fn the_rest_is_told_when_the_server_goes() {
    let _alone = alone();
    on_own_context(|| {
        let home = TempDir::new();
        let server = crowdable(&home).rejection_log_rate(0).bind(0).unwrap();
        server.set_accept_timeout(Duration::from_millis(100));
        let log = Log::keep();
        for mut client in silent(&server, 5) {
            client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        }
        let _ = server.accept();
        drop(server);
        assert_eq!(log.records().iter().map(|(_, record)| told(record)).sum::<usize>(), 5);
    });
}

#[test]
fn a_callback_that_fails_on_what_a_client_sends_makes_no_warning() {
    let _alone = alone();
    on_own_context(|| {
        let numbers = |socket: Socket| {
            socket.readlines(|socket, line| {
                let number: u32 = line.parse()?;
                socket.sendline(number.to_string())
            });
            Ok(())
        };
        let server = Server::builder().tls(false).listen(0, numbers).unwrap();
        let log = Log::keep();
        silent(&server, 1)[0].write_all(b"1\nnonsense\n").unwrap();
        until(|| !log.records().is_empty());
        let records = log.records();
        assert!(records[0].1.contains("invalid digit"), "{records:?}");
        assert!(records.iter().all(|(level, _)| *level == Level::Message), "{records:?}");
    });
}

#[test]
fn datagrams_that_fail_do_not_fill_the_log() {
    let _alone = alone();
    on_own_context(|| {
        let socket = UdpSocket::builder().error_log_rate(2).bind("127.0.0.1:0").unwrap();
        socket.read(|_, _, _| Err(network::Error::Unsupported("nothing of it".into())));
        let log = Log::keep();
        let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..20 {
            stranger.send_to(b"nonsense", socket.local()).unwrap();
        }
        until(|| log.records().len() >= 3);
        let records = log.records();
        assert!(records[..2].iter().all(|(_, record)| record.contains("nothing of it")), "{records:?}");
        assert!(records[2].1.ends_with(": 18 more errors"), "{records:?}");
        assert!(records.iter().all(|(level, _)| *level == Level::Message), "{records:?}");
    });
}

#[test]
fn no_client_ends_a_program_whose_warnings_are_fatal() {
    let mut server = command(example("server"), ["127.0.0.1:0"]);
    let mut server = Process::start(server.env("G_DEBUG", "fatal-warnings"), Watch::Stdout);
    let port = server.port("listening on");
    for words in [&b"GET / HTTP/1.0\r\n\r\n"[..], b"\x16\x03\x01\x00\x05hello", b""] {
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client.write_all(words).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = std::io::copy(&mut client, &mut std::io::sink());
    }
    server.signal(Signal::TERM);
    let output = server.await_end();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.contains("rejected a client"), "{output:?}");
}
