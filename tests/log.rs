//! What the library says: the life of each connection, with fields for machines, to where the program wants it.

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use common::{LIMIT, Process, TempDir, Watch, command, example, on_own_context, until};
use network::{ClientTls, Server, Socket, log::Level, tls::Identity};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use rustix::process::Signal;

/// There is one log in a process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    keep_glibs();
    GLIBS.lock().unwrap_or_else(PoisonError::into_inner).clear();
    turn
}

type Fields = HashMap<String, String>;

static GLIBS: Mutex<Vec<Fields>> = Mutex::new(Vec::new());

/// Keeps what goes to GLib's log, which can be redirected once in a process.
fn keep_glibs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        glib::log_set_writer_func(|_, fields| {
            let text = |field: &glib::LogField| Some((field.key().to_owned(), field.value_str()?.to_owned()));
            let fields = fields.iter().filter_map(text).collect();
            GLIBS.lock().unwrap_or_else(PoisonError::into_inner).push(fields);
            glib::LogWriterOutput::Handled
        });
    });
}

fn glibs() -> Vec<Fields> {
    GLIBS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

#[derive(Clone, Debug)]
struct Said {
    level: Level,
    operation: String,
    peer: Option<String>,
    error: Option<String>,
    message: String,
}

static SAID: Mutex<Vec<Said>> = Mutex::new(Vec::new());

fn said() -> Vec<Said> {
    SAID.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Keeps what is said, as long as the guard lives.
struct Listening;

impl Listening {
    fn to(level: Level) -> Listening {
        SAID.lock().unwrap_or_else(PoisonError::into_inner).clear();
        network::log::set_log(level, |record| {
            assert!(record.time.elapsed().unwrap() < LIMIT);
            let said = Said {
                level: record.level,
                operation: record.operation.into(),
                peer: record.peer.map(String::from),
                error: record.error.map(String::from),
                message: record.message.into(),
            };
            SAID.lock().unwrap_or_else(PoisonError::into_inner).push(said);
        });
        Listening
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        network::log::unset_log();
    }
}

/// A client of a server with TLS, from its beginning to its end.
fn a_whole_life() -> u16 {
    on_own_context(|| {
        let home = TempDir::new();
        let identity = Identity::named_in(home.path(""), "desk").unwrap();
        let builder = Server::builder().address("127.0.0.1").tls(identity);
        let server = builder.listen(0, |socket| {
            socket.readlines(|socket, line| socket.sendline(line));
            Ok(())
        });
        let server = server.unwrap();
        let trust = ClientTls::pinned(server.fingerprint().unwrap().to_string());
        let done = std::rc::Rc::new(std::cell::Cell::new(false));
        let flag = done.clone();
        let address = format!("127.0.0.1:{}", server.port());
        Socket::builder().tls(trust).connect_async(address, gio::Cancellable::NONE, move |result| {
            let socket = result.unwrap();
            socket.sendline("hello").unwrap();
            socket.readlines(|socket, _| {
                socket.close();
                Ok(())
            });
            socket.disconnect_cb(move |_, _| flag.set(true));
        });
        until(|| done.get() && server.connections().is_empty());
        server.port()
    })
}

#[test]
fn the_life_of_a_connection_can_be_followed() {
    let _alone = alone();
    let listening = Listening::to(Level::Debug);
    let port = a_whole_life();
    drop(listening);
    let all = said();
    let find = |operation: &str, part: &str| {
        let fits = |one: &&Said| one.operation == operation && one.message.contains(part);
        let found = all.iter().find(fits).unwrap_or_else(|| panic!("{operation}, {part}: {all:#?}"));
        assert_eq!(found.level, Level::Debug);
        assert!(found.error.is_none());
        found.peer.clone().expect("somebody")
    };
    let client = find("accept", &format!("on port {port}"));
    assert!(client.starts_with("127.0.0.1:"));
    assert_eq!(find("connect", "connected to"), format!("127.0.0.1:{port}"));
    assert_eq!(find("handshake", &format!("TLSv1.3 with {client}, TLS_")), client);
    assert_eq!(find("end", &format!("{client} closed: closed by the peer")), client);
    assert_eq!(find("end", &format!("127.0.0.1:{port} closed: closed here")), format!("127.0.0.1:{port}"));
    assert!(glibs().is_empty(), "it went nowhere else");
}

#[test]
fn what_is_less_important_than_wanted_is_not_said() {
    let _alone = alone();
    let listening = Listening::to(Level::Info);
    a_whole_life();
    drop(listening);
    let all = said();
    assert!(all.iter().any(|one| one.level == Level::Info && one.message.contains("certificate fingerprint")));
    assert!(all.iter().all(|one| one.level <= Level::Info), "{all:?}");
    // By default warnings alone, and of those there were none.
    a_whole_life();
    assert!(glibs().is_empty() && said().len() == all.len());
}

/// A client that is rejected: it speaks no TLS.
fn a_warning() -> u16 {
    on_own_context(|| {
        let home = TempDir::new();
        let identity = Identity::named_in(home.path(""), "desk").unwrap();
        let server = Server::builder().address("127.0.0.1").tls(identity).listen(0, |_| Ok(())).unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let before = (said().len(), glibs().len());
        until(|| (said().len(), glibs().len()) != before);
        server.port()
    })
}

#[test]
fn glibs_log_gets_fields_for_machines() {
    let _alone = alone();
    let port = a_warning();
    let all = glibs();
    let [record] = &all[..] else { panic!("{all:?}") };
    let field = |name: &str| record.get(name).map_or("", String::as_str);
    assert_eq!(field("GLIB_DOMAIN"), "network");
    assert_eq!(field("PRIORITY"), "5");
    assert_eq!(field("NETWORK_OPERATION"), "accept");
    assert_eq!(field("NETWORK_PEER"), format!("port {port}"));
    assert!(field("NETWORK_ERROR").contains("TLS"), "{record:?}");
    assert_eq!(field("MESSAGE"), format!("rejected a client of port {port}: {}", field("NETWORK_ERROR")));
}

#[test]
fn an_error_of_a_task_is_told_if_nobody_awaits_it() {
    let _alone = alone();
    on_own_context(|| {
        let fail = |word: &'static str| network::spawn(async move { Err(network::Error::other(word)) }).unwrap();
        drop(fail("detached"));
        until(|| !glibs().is_empty());
        let kept = fail("never awaited");
        until(|| kept.is_finished());
        drop(kept);
        let awaited = network::block_on(fail("awaited")).unwrap();
        assert_eq!(awaited.unwrap_err().to_string(), "awaited");
        // Who aborts it wants no result, and one that is well has nothing to say.
        let aborted = fail("aborted");
        aborted.abort();
        drop(aborted);
        drop(network::spawn(std::future::pending()));
        network::block_on(network::spawn(async { Ok(()) }).unwrap()).unwrap().unwrap();
    });
    let all = glibs();
    let messages: Vec<_> = all.iter().map(|record| record["MESSAGE"].as_str()).collect();
    assert_eq!(messages.len(), 2);
    for (message, word) in messages.iter().zip(["detached", "never awaited"]) {
        let place = message.strip_prefix("task spawned at tests/log.rs:").unwrap();
        assert!(place.ends_with(&format!(" failed: {word}")), "{message}");
    }
    assert_eq!((all[0]["PRIORITY"].as_str(), all[0]["NETWORK_OPERATION"].as_str()), ("5", "task"));
}

#[test]
fn a_peer_cannot_write_lines_into_the_log() {
    let _alone = alone();
    let name = "x\n2026-01-01 00:00:00 warning: forged\r\u{1b}[2J\u{202e}";
    let meet = || {
        on_own_context(|| {
            let directory = TempDir::new();
            let refuse = |_: Socket| Err(std::io::Error::other("not you").into());
            let server = Server::new(directory.path("socket").as_path(), refuse).unwrap();
            let client = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
            // Any client may choose what it is called.
            rustix::net::bind(&client, &SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap()).unwrap();
            rustix::net::connect(&client, &SocketAddrUnix::new(directory.path("socket")).unwrap()).unwrap();
            let before = (said().len(), glibs().len());
            until(|| (said().len(), glibs().len()) != before && server.connections().is_empty());
        });
    };
    let is_line = |text: &str| !text.contains(|c: char| c.is_control() || c == '\u{202e}');
    meet();
    let all = glibs();
    let text = &all.last().expect("it is told by default")["MESSAGE"];
    assert!(text.contains("forged"), "{text}");
    assert!(all.iter().flat_map(|record| record.values()).all(|text| is_line(text)), "{all:?}");
    let listening = Listening::to(Level::Debug);
    meet();
    drop(listening);
    let all = said();
    assert!(all.iter().any(|one| one.peer.as_ref().is_some_and(|peer| peer.contains("forged"))), "{all:?}");
    for one in &all {
        let texts = [Some(&one.message), one.peer.as_ref(), one.error.as_ref()];
        assert!(texts.into_iter().flatten().all(|text| is_line(text)), "{one:?}");
    }
}

#[test]
fn a_log_callback_may_panic_or_cause_more_to_be_said() {
    let _alone = alone();
    network::log::set_log(Level::Message, |_| panic!("on purpose"));
    let port = a_warning();
    assert_eq!(glibs().len(), 1, "what it did not take");
    assert!(glibs()[0]["MESSAGE"].contains(&format!("port {port}:")));

    network::log::set_log(Level::Message, |record| {
        assert!(record.message.contains("rejected a client"));
        a_nested_warning();
    });
    a_warning();
    network::log::unset_log();
    let all = glibs();
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(all[1]["MESSAGE"].contains("desk.key"), "what was said inside it: {all:?}");
}

/// Something that the library complains of within the call.
fn a_nested_warning() {
    let home = TempDir::new();
    // A key that others can read is warned of.
    let _ = Identity::named_in(home.path(""), "desk").unwrap();
    let key = home.path("private/desk.key");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    on_own_context(|| {
        let identity = Identity::named_in(home.path(""), "desk").unwrap();
        drop(Server::builder().address("127.0.0.1").tls(identity).listen(0, |_| Ok(())).unwrap());
    });
}

#[test]
fn the_environment_makes_a_program_talkative() {
    for talkative in [true, false] {
        let directory = TempDir::new();
        let address = directory.address("socket");
        let mut daemon = command(example("daemon"), [&address]);
        daemon.env("NETWORK_NO_FORK", "1").env("G_MESSAGES_DEBUG", if talkative { "other network" } else { "other" });
        // Debugging goes to standard output, where that is no journal.
        let mut daemon = Process::start(&mut daemon, Watch::Stdout);
        daemon.line_with("listening");
        let client = UnixStream::connect(&address).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        assert!(BufReader::new(client).lines().next().unwrap().unwrap().starts_with("daemon "));
        if talkative {
            let accepted = daemon.line_with("network-DEBUG");
            assert!(accepted.contains(&format!(" on {address}")), "{accepted}");
            assert!(daemon.line_with("network-DEBUG").contains("closed: closed by the peer"));
        }
        daemon.signal(Signal::TERM);
        let output = daemon.await_end();
        assert!(output.status.success());
        assert_eq!(output.text().contains("network-DEBUG"), talkative, "{}", output.text());
    }
}
