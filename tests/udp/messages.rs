//! Unix sockets for messages: paths and names, full receivers, ends, truncation; Python as the peer.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::rc::Rc;
use std::time::Duration;

use network::udp::{MessageBuilder, MessageKind, MessageSocket};
use network::{Endpoint, Error, Selector};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::common::{LIMIT, Process, TempDir, Watch, beside, noise, on_own_context, party, run, tool, until};
use crate::seen;

fn builder() -> MessageBuilder {
    MessageSocket::builder().timeout(LIMIT)
}

fn python(script: &str, arguments: &[&str]) -> Process {
    let mut python = tool("/usr/bin/python3");
    Process::start(python.args(["-u", "-c", script]).args(arguments), Watch::Stdout)
}

/// A name that no other test has.
fn name(what: &str) -> String {
    format!("@network-test-{}-{what}", std::process::id())
}

/// What the messages and errors of a socket were.
fn heard(socket: &MessageSocket) -> Rc<RefCell<Vec<String>>> {
    let all = seen();
    let (data, errors) = (all.clone(), all.clone());
    socket.read(move |_, message, _| {
        data.borrow_mut().push(String::from_utf8_lossy(message).into_owned());
        Ok(())
    });
    socket.error_cb(move |_, error| errors.borrow_mut().push(format!("{error:?}")));
    all
}

/// The processor time that this thread has used.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

#[test]
fn a_message_goes_there_and_back_by_path_and_by_name() {
    on_own_context(|| {
        let directory = TempDir::new();
        for (server, client) in [(directory.address("server"), directory.address("client")), (name("a"), name("b"))] {
            let one = builder().bind(&server).unwrap();
            let other = builder().bind(&client).unwrap();
            assert_eq!(one.kind().unwrap(), MessageKind::Datagram);
            other.set_peer(&server).unwrap();
            other.send("").unwrap();
            other.send("ping").unwrap();
            assert_eq!(one.recv_from(100).unwrap(), (vec![], other.local()));
            let (data, from) = one.recv_from(100).unwrap();
            assert_eq!(data, b"ping");
            assert_eq!(from.as_ref().unwrap().to_string(), client);
            one.send_to("pong", from.unwrap()).unwrap();
            let mut buffer = [0; 10];
            assert_eq!(other.recv_from_into(&mut buffer).unwrap(), (4, one.local()));
            assert_eq!(other.remote(), one.local());
            // Nobody else reaches it now.
            let third = builder().bind(name("third")).unwrap();
            assert!(matches!(third.send_to("x", &client), Err(Error::Io { .. })));
        }
    });
}

#[test]
fn callbacks_and_futures_have_the_same_socket() {
    on_own_context(|| {
        let server = builder().bind(name("echo")).unwrap();
        server.read(|socket, data, from| match from {
            Some(Endpoint::Unix(None)) | None => Err(Error::other("it has no name")),
            Some(from) => socket.send_to(data.to_ascii_uppercase(), from),
        });
        let errors = seen();
        let into = errors.clone();
        server.error_cb(move |_, error| into.borrow_mut().push(error.to_string()));
        let weak = server.downgrade();
        drop(server);
        let client = builder().bind(name("asks")).unwrap();
        client.set_peer(weak.upgrade().unwrap().local().unwrap()).unwrap();
        let nameless = MessageSocket::connect(name("echo")).unwrap();
        assert_eq!(nameless.local(), Some(Endpoint::Unix(None)));
        let answer = Rc::new(RefCell::new(None));
        let place = answer.clone();
        glib::MainContext::ref_thread_default().spawn_local(async move {
            nameless.send_future("nobody").await.unwrap();
            client.send_to_future("hello", name("echo")).await.unwrap();
            place.replace(Some(client.recv_from_future(100).await.unwrap()));
        });
        until(|| answer.borrow().is_some());
        let (data, from) = answer.take().unwrap();
        assert_eq!((data.as_slice(), from.unwrap().to_string()), (b"HELLO".as_slice(), name("echo")));
        assert_eq!(*errors.borrow(), ["it has no name"]);
        // The loop keeps it, until it has no reader.
        weak.upgrade().unwrap().unread();
        assert!(weak.upgrade().is_none());
    });
}

const DAEMON: &str = r#"
import os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
address = os.environ["NOTIFY_SOCKET"]
if address[0] == "@":
    address = "\0" + address[1:]
s.sendto(b"READY=1\nSTATUS=serving", address)
# The barrier: over as soon as the other end is closed.
ours, theirs = os.pipe()
s.connect(address)
socket.send_fds(s, [b"BARRIER=1"], [theirs])
os.close(theirs)
print("closed", os.read(ours, 1))
"#;

#[test]
fn a_daemon_notifies_its_manager_and_waits_for_the_barrier() {
    on_own_context(|| {
        let directory = TempDir::new();
        for address in [directory.address("notify"), name("notify")] {
            let manager = builder().bind(&address).unwrap();
            let mut python = tool("/usr/bin/python3");
            python.args(["-u", "-c", DAEMON]).env("NOTIFY_SOCKET", &address);
            let daemon = Process::start(&mut python, Watch::Stdout);
            assert_eq!(manager.recv(1000).unwrap(), b"READY=1\nSTATUS=serving");
            assert_eq!(manager.recv(1000).unwrap(), b"BARRIER=1");
            assert_eq!(daemon.line(), "closed b''");
            assert!(daemon.finish().status.success());
        }
    });
}

#[test]
fn systemd_notify_is_heard() {
    on_own_context(|| {
        let directory = TempDir::new();
        let address = directory.address("notify");
        let manager = builder().bind(&address).unwrap();
        let all = seen();
        let into = all.clone();
        manager.read(move |_, data, _| {
            into.borrow_mut().extend(String::from_utf8_lossy(data).lines().map(str::to_owned));
            Ok(())
        });
        let output = beside(move || {
            let mut notify = party("systemd-notify");
            run(notify.args(["--ready", "--status=serving"]).env("NOTIFY_SOCKET", &address), "")
        });
        assert!(output.status.success(), "{}", output.stderr);
        for line in ["READY=1", "STATUS=serving"] {
            assert!(all.borrow().iter().any(|heard| heard == line), "{all:?}");
        }
    });
}

const LOGGER: &str = r#"
import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
s.connect(sys.argv[1])
s.send(b"PRIORITY=6\nMESSAGE=short\n")
s.send(b"MESSAGE=" + b"x" * 200000 + b"\n")
s.send(b"MESSAGE=" + b"y" * 300000 + b"\n")
# What does not fit comes as a file.
memory = os.memfd_create("entry")
os.write(memory, b"MESSAGE=huge")
socket.send_fds(s, [b""], [memory])
s.send(b"last")
"#;

#[test]
fn a_journal_gets_long_entries_whole_and_no_descriptors() {
    on_own_context(|| {
        let directory = TempDir::new();
        let path = directory.address("journal");
        for face in ["callback", "future", "call"] {
            let journal = builder().mode(0o666).bind(&path).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
            let before = std::fs::read_dir("/proc/self/fd").unwrap().count();
            let entries = seen();
            let into = entries.clone();
            let note = move |entry: Result<Vec<u8>, Error>| {
                into.borrow_mut().push(match entry {
                    Ok(data) => format!("{} {}", data.len(), String::from_utf8_lossy(&data[..data.len().min(9)])),
                    Err(Error::DatagramTruncated { size, limit, data, .. }) => {
                        assert_eq!(data.len(), limit);
                        format!("{limit} of {size}")
                    }
                    Err(error) => panic!("{error}"),
                });
            };
            let logger = python(LOGGER, &[&path]);
            match face {
                "callback" => {
                    let errors = note.clone();
                    journal.read(move |_, data, _| {
                        note(Ok(data.to_vec()));
                        Ok(())
                    });
                    journal.error_cb(move |_, error| errors(Err(error)));
                    until(|| entries.borrow().len() == 5);
                }
                "future" => {
                    let journal = journal.clone();
                    glib::MainContext::ref_thread_default().spawn_local(async move {
                        for _ in 0..5 {
                            note(journal.recv_future(usize::MAX).await);
                        }
                    });
                    until(|| entries.borrow().len() == 5);
                }
                _ => (0..5).for_each(|_| note(journal.recv(1 << 20))),
            }
            let want = ["25 PRIORITY=", "200009 MESSAGE=x", "262144 of 300009", "0 ", "4 last"];
            assert_eq!(*entries.borrow(), want, "{face}");
            logger.finish().assert_clean();
            journal.close();
            assert!(std::fs::read_dir("/proc/self/fd").unwrap().count() <= before, "it has got a descriptor");
        }
        let journal = builder().max_message(1 << 20).bind(&path).unwrap();
        let _logger = python(LOGGER, &[&path]);
        let lengths: Vec<_> = (0..3).map(|_| journal.recv(1 << 20).unwrap().len()).collect();
        assert_eq!(lengths, [25, 200_009, 300_009]);
    });
}

#[test]
fn what_is_longer_than_the_limit_is_told_with_its_beginning() {
    on_own_context(|| {
        let (one, other) = builder().max_message(7).pair(MessageKind::Datagram).unwrap();
        let heard = heard(&other);
        for data in ["too long", "exactly"] {
            one.send(data).unwrap();
        }
        until(|| heard.borrow().len() == 2);
        let told = "DatagramTruncated: datagram from a unix socket truncated: received 7 bytes of 8 bytes";
        assert_eq!(heard.borrow()[0].replace("7 of 8", "7 bytes of 8"), told);
        assert_eq!(heard.borrow()[1], "exactly");
        other.unread();
        let mut buffer = [0; 3];
        one.send("four").unwrap();
        let outcome = other.recv_into(&mut buffer);
        assert!(matches!(outcome, Err(Error::DatagramTruncated { size: 4, limit: 3, .. })), "{outcome:?}");
        assert_eq!(&buffer, b"fou");
        // What cannot be sent at once is refused whole.
        one.set_send_buffer(1).unwrap();
        let limit = one.send_buffer().unwrap() - 32;
        let outcome = one.send(vec![0; limit + 1]);
        assert!(matches!(outcome, Err(Error::DatagramTooLarge { limit: told, .. }) if told == limit), "{outcome:?}");
    });
}

#[test]
fn no_limit_is_a_limit_like_any_other() {
    on_own_context(|| {
        for limit in [usize::MAX, 1 << 46] {
            let (one, other) = builder().max_message(limit).pair(MessageKind::Datagram).unwrap();
            let heard = heard(&other);
            one.set_send_buffer(1 << 20).unwrap();
            let message = "x".repeat(one.send_buffer().unwrap() - 1000);
            one.send(&message).unwrap();
            until(|| heard.borrow().len() == 1);
            assert_eq!(heard.borrow()[0].len(), message.len());
            one.send("short").unwrap();
            other.unread();
            assert_eq!(other.recv(1 << 20).unwrap(), b"short");
        }
    });
}

/// Runs the calling test once more in a process of its own, whose limits it may set. True in there.
fn in_own_process(test: &str) -> bool {
    const INSIDE: &str = "IN_OWN_PROCESS";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let output = run(command.args([test, "--exact", "--nocapture"]).env(INSIDE, "1"), "");
    assert!(output.status.success() && output.text().contains("1 passed"), "{}{}", output.text(), output.stderr);
    false
}

#[test]
fn what_fails_after_bind_leaves_no_path() {
    if !in_own_process("messages::what_fails_after_bind_leaves_no_path") {
        return;
    }
    on_own_context(|| {
        let directory = TempDir::new();
        let _first = builder().bind(directory.address("first")).unwrap();
        let fail = |what, most, builder: MessageBuilder| {
            let limits = getrlimit(what);
            setrlimit(what, Rlimit { current: Some(most), ..limits }).unwrap();
            let bound = builder.bind(directory.address("left"));
            setrlimit(what, limits).unwrap();
            let error = bound.unwrap_err();
            assert!(!directory.path("left").exists(), "{error}");
            error.to_string()
        };
        // There is one descriptor left, for the socket.
        let next = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
        let error = fail(Resource::Nofile, u64::try_from(next).unwrap() + 1, builder());
        assert!(error.contains("files"), "{error}");
        // No memory of 64 MiB.
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = pages.split(' ').nth(5).unwrap().parse().unwrap();
        let size = pages * rustix::param::page_size() as u64;
        let error = fail(Resource::Data, size + (16 << 20), builder().max_message(usize::MAX));
        assert!(error.contains("no memory"), "{error}");
        builder().bind(directory.address("left")).unwrap();
    });
}

/// A receiver that is full, and its address.
fn full(what: &str) -> (MessageSocket, String) {
    let receiver = builder().bind(name(what)).unwrap();
    let sender = builder().timeout(Duration::ZERO).bind(name(&format!("{what}-filler"))).unwrap();
    for _ in 0..10_000 {
        match sender.send_to("full", name(what)) {
            Ok(()) => {}
            Err(Error::NotReady { peer }) => {
                assert_eq!(peer, name(what));
                return (receiver, name(what));
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("there is always room");
}

fn drain(receiver: &MessageSocket) {
    receiver.set_timeout(Duration::ZERO);
    while receiver.recv(100).is_ok() {}
    receiver.set_timeout(LIMIT);
}

#[test]
fn a_full_receiver_is_waited_for_without_spinning() {
    on_own_context(|| {
        let (receiver, address) = full("wait");
        let loose = builder().bind(name("wait-loose")).unwrap();
        let connected = MessageSocket::connect(&address).unwrap();
        let limit = Duration::from_millis(300);
        for (sender, to) in [(&loose, Some(&address)), (&connected, None)] {
            sender.set_timeout(limit);
            let send = || match to {
                Some(to) => sender.send_to("late", to),
                None => sender.send("late"),
            };
            let before = cpu_time();
            assert!(matches!(send(), Err(Error::TimedOut { limit: told, .. }) if told == limit));
            let used = cpu_time() - before;
            assert!(used < limit / 3, "it was busy for {used:?}");
            sender.set_timeout(LIMIT);
            // Somebody else reads as soon as this one waits.
            let reader: UnixDatagram = receiver.as_fd().try_clone_to_owned().unwrap().into();
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_millis(20));
                    reader.recv(&mut [0; 10]).unwrap();
                });
                send().unwrap();
            });
        }
        // Its own buffer may be what is full.
        drain(&receiver);
        loose.set_send_buffer(1).unwrap();
        loose.set_timeout(limit);
        let before = cpu_time();
        let mut outcome = Ok(());
        for _ in 0..9 {
            outcome = outcome.and_then(|()| loose.send_to([0; 1500], &address));
        }
        assert!(matches!(outcome, Err(Error::TimedOut { .. })), "{outcome:?}");
        assert!(cpu_time() - before < limit / 3);
    });
}

#[test]
fn a_future_waits_for_a_full_receiver_while_the_loop_sleeps() {
    on_own_context(|| {
        let (receiver, address) = full("future");
        let loose = builder().bind(name("future-loose")).unwrap();
        let connected = MessageSocket::connect(&address).unwrap();
        let sent = Rc::new(Cell::new(0));
        let context = glib::MainContext::ref_thread_default();
        let (one, other) = (sent.clone(), sent.clone());
        let (to, aborted_to, own) = (address.clone(), address.clone(), loose.clone());
        context.spawn_local(async move {
            own.send_to_future("one", to).await.unwrap();
            one.set(one.get() + 1);
        });
        context.spawn_local(async move {
            connected.send_future("two").await.unwrap();
            other.set(other.get() + 1);
        });
        // One that does not wait to the end leaves nothing behind.
        let aborted = context.spawn_local(async move { loose.send_to_future("never", aborted_to).await.unwrap() });
        while network::iteration(false) {}
        aborted.abort();
        assert_eq!(sent.get(), 0);
        let before = cpu_time();
        assert!(network::fgloop_for(Duration::from_millis(200)));
        assert!(cpu_time() - before < Duration::from_millis(70), "the loop spins");
        assert_eq!(sent.get(), 0);
        let heard = heard(&receiver);
        until(|| heard.borrow().iter().filter(|text| *text != "full").count() == 2);
        assert_eq!(sent.get(), 2);
    });
}

#[test]
fn a_callback_never_waits_for_a_full_receiver() {
    on_own_context(|| {
        let (_receiver, address) = full("callback");
        let sender = builder().timeout(None).bind(name("callback-sender")).unwrap();
        let (one, other) = MessageSocket::pair(MessageKind::Datagram).unwrap();
        let outcome = Rc::new(RefCell::new(None));
        let place = outcome.clone();
        other.read(move |_, _, _| {
            place.replace(Some(sender.send_to("x", &address)));
            Ok(())
        });
        one.send("go").unwrap();
        until(|| outcome.borrow().is_some());
        assert!(matches!(outcome.take(), Some(Err(Error::NotReady { .. }))));
    });
}

#[test]
fn a_peer_that_has_gone_is_an_error_that_says_so() {
    on_own_context(|| {
        let directory = TempDir::new();
        let path = directory.address("peer");
        let socket = builder().bind(name("left-behind")).unwrap();
        let refused = |result: network::Result, cause: &str| match result {
            Err(Error::Refused { address, source }) => {
                assert_eq!(address, path);
                assert!(source.to_string().contains(cause), "{source}");
            }
            outcome => panic!("{outcome:?}"),
        };
        refused(MessageSocket::connect(&path).map(drop), "No such file");
        refused(socket.set_peer(&path), "No such file");
        refused(socket.send_to("x", &path), "No such file");
        // A path that a process has left behind.
        drop(UnixDatagram::bind(&path).unwrap());
        refused(MessageSocket::connect(&path).map(drop), "refused");
        refused(socket.send_to("x", &path), "refused");
        std::fs::remove_file(&path).unwrap();
        let peer = builder().bind(&path).unwrap();
        let connected = MessageSocket::connect(&path).unwrap();
        connected.send("x").unwrap();
        peer.close();
        refused(connected.send("x"), "refused");
        let again = builder().bind(&path).unwrap();
        connected.set_peer(&path).unwrap();
        connected.send("again").unwrap();
        assert_eq!(again.recv(10).unwrap(), b"again");
        // Without a peer there is nobody to send to.
        let lone = builder().bind(name("lone")).unwrap();
        let error = lone.send("x").unwrap_err();
        assert!(matches!(&error, Error::Unsupported(text) if text.contains("set_peer")), "{error}");
    });
}

#[test]
fn an_empty_message_is_not_the_end_of_a_seqpacket_connection() {
    on_own_context(|| {
        for (last, count) in [("", 3), ("last", 3)] {
            let (one, other) = builder().pair(MessageKind::Seqpacket).unwrap();
            let heard = heard(&other);
            let weak = other.downgrade();
            drop(other);
            for data in ["", "between", last] {
                one.send(data).unwrap();
            }
            drop(one);
            until(|| weak.upgrade().is_none());
            assert_eq!(heard.borrow()[..count], ["", "between", last]);
            assert_eq!(heard.borrow()[count..], ["Closed: the connection to a unix socket is closed"]);
        }
        let (one, other) = builder().pair(MessageKind::Seqpacket).unwrap();
        assert_eq!(other.kind().unwrap(), MessageKind::Seqpacket);
        one.send("").unwrap();
        let selector = Selector::new();
        selector.add(&other);
        assert!(selector.wait(LIMIT).unwrap() && selector.is_ready(&other));
        assert_eq!(other.recv(10).unwrap(), b"");
        assert!(!selector.wait(Duration::ZERO).unwrap());
        drop(one);
        assert!(selector.wait(LIMIT).unwrap(), "the end is something to receive");
        for _ in 0..2 {
            assert!(matches!(other.recv(10), Err(Error::Closed { .. })));
        }
        assert!(matches!(other.send("x"), Err(Error::Closed { .. })));
        let ended = Rc::new(Cell::new(false));
        let place = ended.clone();
        glib::MainContext::ref_thread_default().spawn_local(async move {
            assert!(matches!(other.recv_future(10).await, Err(Error::Closed { .. })));
            assert!(matches!(other.send_future("x").await, Err(Error::Closed { .. })));
            place.set(true);
        });
        until(|| ended.get());
    });
}

#[test]
fn a_reset_stays_a_reset() {
    on_own_context(|| {
        let reset = || {
            let (one, other) = builder().pair(MessageKind::Seqpacket).unwrap();
            other.send("never read").unwrap();
            drop(one);
            other
        };
        let asked = reset();
        for _ in 0..3 {
            assert!(matches!(asked.recv(10), Err(Error::Reset { .. })));
        }
        assert!(matches!(asked.send("x"), Err(Error::Reset { .. })));
        let told = reset();
        let heard = heard(&told);
        until(|| !heard.borrow().is_empty());
        while network::iteration(false) {}
        assert_eq!(*heard.borrow(), ["Reset: a unix socket reset the connection"]);
        assert!(matches!(told.recv(10), Err(Error::Reset { .. })));
    });
}

const SEQPACKET_SERVER: &str = r#"
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.bind(sys.argv[1])
s.listen()
print("listening")
c, _ = s.accept()
while True:
    data = c.recv(1000)
    if data == b"end":
        break
    c.send(data[::-1])
"#;

#[test]
fn a_seqpacket_server_of_pythons_is_connected_to() {
    on_own_context(|| {
        let directory = TempDir::new();
        let path = directory.address("server");
        let server = python(SEQPACKET_SERVER, &[&path]);
        server.line_with("listening");
        let client = builder().connect(&path).unwrap();
        assert_eq!(client.kind().unwrap(), MessageKind::Seqpacket);
        assert_eq!(client.remote().unwrap().to_string(), path);
        for text in ["one", "a longer one"] {
            client.send(text).unwrap();
            let answer: Vec<u8> = text.bytes().rev().collect();
            assert_eq!(client.recv_from(100).unwrap().0, answer);
        }
        client.send("end").unwrap();
        assert!(matches!(client.recv(100), Err(Error::Closed { .. })));
        server.finish().assert_clean();
    });
}

#[test]
fn what_is_no_socket_for_messages_is_refused_with_its_type() {
    on_own_context(|| {
        let directory = TempDir::new();
        let stream = UnixListener::bind(directory.path("stream")).unwrap();
        let seqpacket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        rustix::net::bind(&seqpacket, &SocketAddrUnix::new(directory.path("seqpacket")).unwrap()).unwrap();
        rustix::net::listen(&seqpacket, 1).unwrap();
        let path = directory.address("seqpacket");
        let _waits = [MessageSocket::connect(&path).unwrap(), MessageSocket::connect(&path).unwrap()];
        let error = MessageSocket::connect(&path).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "its queue of clients is full: {error}");
        let file = std::fs::File::open("/dev/null").unwrap();
        let alone = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        for (fd, word) in [
            (stream.into(), "a stream socket"),
            (seqpacket, "listening"),
            (alone, "not connected"),
            (file.into(), "non-socket"),
        ] {
            match MessageSocket::from_fd(fd) {
                Err(error @ Error::Io { .. }) => assert!(error.to_string().contains(word), "{error}"),
                outcome => panic!("{outcome:?}"),
            }
        }
        for address in ["1234", "localhost:80", "service|"] {
            assert!(matches!(MessageSocket::bind(address), Err(Error::Address { .. })), "{address}");
            assert!(matches!(MessageSocket::connect(address), Err(Error::Address { .. })), "{address}");
            let (one, _other) = MessageSocket::pair(MessageKind::Datagram).unwrap();
            assert!(matches!(one.send_to("x", address), Err(Error::Address { .. })), "{address}");
        }
        assert!(matches!(MessageSocket::pair(MessageKind::Raw), Err(Error::InvalidOption(_))));
        let of_paths = [builder().mode(0o600), builder().group(0), builder().replace_stale(true)];
        for builder in of_paths {
            assert!(matches!(builder.clone().connect(name("x")), Err(Error::InvalidOption(_))));
            assert!(matches!(builder.pair(MessageKind::Datagram), Err(Error::InvalidOption(_))));
        }
        assert!(matches!(builder().mode(0o600).bind(name("moded")), Err(Error::Address { .. })));
        let too_long = format!("/tmp/{}", "x".repeat(200));
        assert!(matches!(MessageSocket::connect(&too_long), Err(Error::Address { .. })));
    });
}

#[test]
fn a_path_belongs_to_who_made_it() {
    on_own_context(|| {
        let directory = TempDir::new();
        let path = directory.path("socket");
        let in_use = |builder: MessageBuilder, word: &str| match builder.bind(&path) {
            Err(Error::InUse { source, .. }) => assert!(source.to_string().contains(word), "{source}"),
            outcome => panic!("{outcome:?}"),
        };
        let socket = builder().mode(0o600).bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        in_use(builder(), "another process is using a socket");
        in_use(builder().replace_stale(true), "another process is using a socket");
        socket.close();
        assert!(!path.exists());
        // Left behind by a crash.
        drop(UnixDatagram::bind(&path).unwrap());
        in_use(builder(), "replace_stale");
        let socket = builder().replace_stale(true).bind(&path).unwrap();
        // Another file in its place is not ours.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        drop(socket);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        in_use(builder().replace_stale(true), "not a socket");
        std::fs::remove_file(&path).unwrap();
        let socket = builder().bind(&path).unwrap();
        let fd = socket.into_fd().unwrap();
        assert!(path.exists(), "it is the caller's now");
        UnixDatagram::unbound().unwrap().send_to(b"x", &path).unwrap();
        assert_eq!(UnixDatagram::from(fd).recv(&mut [0; 10]).unwrap(), 1);
    });
}

#[test]
fn an_error_of_the_reader_and_a_panic_are_as_elsewhere() {
    on_own_context(|| {
        let (one, other) = MessageSocket::pair(MessageKind::Datagram).unwrap();
        let heard = heard(&other);
        other.read(|_, _, _| Err(Error::other("not liked")));
        one.send("x").unwrap();
        until(|| !heard.borrow().is_empty());
        assert_eq!(*heard.borrow(), ["Other: not liked"]);
        assert!(other.is_open());
        let data = noise(100_000, 1);
        one.send(&data).unwrap();
        let all = seen();
        let into = all.clone();
        other.read(move |socket, data, _| {
            into.borrow_mut().push(data.to_vec());
            socket.close();
            Ok(())
        });
        until(|| !other.is_open());
        assert_eq!(*all.borrow(), [data]);
        assert!(matches!(other.recv(1), Err(Error::Closed { .. })));
        assert!(matches!(other.send("x"), Err(Error::Closed { .. })));
        assert!(matches!(one.send("x"), Err(Error::Refused { .. })));
    });
}
