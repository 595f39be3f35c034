//! The blocking calls, with no loop running, and what they leave for the loop.

use std::time::{Duration, Instant};

use network::{Error, Server, Socket};

use crate::util::*;

/// Two joined sockets, one of them std's.
fn with_stranger() -> (Socket, std::os::unix::net::UnixStream) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let socket = Socket::try_from(ours).unwrap();
    socket.set_timeout(Duration::from_secs(10));
    (socket, theirs)
}

use std::io::{Read, Write};

#[test]
fn recv_waits_for_data_and_takes_at_most_what_is_asked() {
    on_own_context(|| {
        let (socket, mut stranger) = with_stranger();
        stranger.write_all(b"hello").unwrap();
        assert_eq!(socket.recv(3).unwrap(), b"hel");
        assert_eq!(socket.recv(100).unwrap(), b"lo");
        let thread = std::thread::spawn(move || {
            stranger.write_all(b"late").unwrap();
        });
        assert_eq!(socket.recv(100).unwrap(), b"late");
        thread.join().unwrap();
        assert!(matches!(socket.recv(100), Err(Error::Closed { .. })));
        assert!(matches!(socket.recv(100), Err(Error::Closed { .. })));
    });
}

#[test]
fn recv_line_cuts_lines_and_keeps_the_rest() {
    on_own_context(|| {
        let (socket, mut stranger) = with_stranger();
        stranger.write_all(b"one\ntwo\nth\xffree\nrest").unwrap();
        assert_eq!(socket.recv_line().unwrap(), "one");
        assert_eq!(socket.recv(2).unwrap(), b"tw");
        assert_eq!(socket.recv_line().unwrap(), "o");
        assert_eq!(socket.recv_line().unwrap(), "th\u{fffd}ree");
        drop(stranger);
        assert!(matches!(socket.recv_line(), Err(Error::Closed { .. })));
        assert_eq!(socket.recv(100).unwrap(), b"rest");
        assert!(matches!(socket.recv(100), Err(Error::Closed { .. })));
    });
}

#[test]
fn a_time_limit_ends_the_wait_and_loses_nothing() {
    on_own_context(|| {
        let (socket, mut stranger) = with_stranger();
        socket.set_timeout(Duration::from_millis(30));
        stranger.write_all(b"begin").unwrap();
        let started = Instant::now();
        let error = socket.recv_line().unwrap_err();
        assert!(started.elapsed() >= Duration::from_millis(30));
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        stranger.write_all(b"ning\n").unwrap();
        assert_eq!(socket.recv_line().unwrap(), "beginning");
    });
}

#[test]
fn a_line_over_the_limit_is_an_error() {
    on_own_context(|| {
        let (socket, mut stranger) = with_stranger();
        socket.set_line_limit(5);
        stranger.write_all(b"12345\n123456\n").unwrap();
        assert_eq!(socket.recv_line().unwrap(), "12345");
        assert!(matches!(socket.recv_line(), Err(Error::LineTooLong { limit: 5, .. })));
        assert!(matches!(socket.recv_line(), Err(Error::Closed { .. }) | Err(Error::LineTooLong { .. })));
    });
}

#[test]
fn after_the_peers_end_an_answer_can_still_be_sent() {
    on_own_context(|| {
        let (socket, mut stranger) = with_stranger();
        stranger.write_all(b"question").unwrap();
        stranger.shutdown(std::net::Shutdown::Write).unwrap();
        let mut question = Vec::new();
        while let Ok(piece) = socket.recv(100) {
            question.extend(piece);
        }
        socket.send("answer").unwrap();
        drop(socket);
        let mut answer = String::new();
        stranger.read_to_string(&mut answer).unwrap();
        assert_eq!((question.as_slice(), answer.as_str()), (&b"question"[..], "answer"));
    });
}

#[test]
fn recv_sends_what_is_queued_while_it_waits() {
    on_own_context(|| {
        let (socket, mut stranger) = with_stranger();
        let sent = pattern(4 << 20);
        socket.send(&sent).unwrap();
        assert!(socket.queued() > 0);
        let thread = std::thread::spawn(move || {
            let mut all = vec![0; 4 << 20];
            stranger.read_exact(&mut all).unwrap();
            stranger.write_all(b"thanks\n").unwrap();
            all
        });
        assert_eq!(socket.recv_line().unwrap(), "thanks");
        assert!(thread.join().unwrap() == sent);
    });
}

#[test]
fn the_end_found_by_recv_is_told_on_the_loops_next_turn() {
    on_own_context(|| {
        let (socket, stranger) = with_stranger();
        let ends = log_end(&socket);
        drop(stranger);
        assert!(socket.recv(10).is_err());
        assert_eq!(ends.len(), 0);
        until(|| ends.len() == 1);
        assert_eq!(ends.all(), [("closed by the peer".into(), vec![])]);
    });
}

#[test]
fn a_script_needs_no_loop() {
    on_own_context(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stranger, _) = listener.accept().unwrap();
            let mut line = [0; 6];
            stranger.read_exact(&mut line).unwrap();
            stranger.write_all(&line).unwrap();
        });
        let socket = Socket::builder().tls(false).connect(address).unwrap();
        socket.sendline("hello").unwrap();
        assert_eq!(socket.recv_line().unwrap(), "hello");
        thread.join().unwrap();
    });
}

#[test]
fn connecting_blocks_no_server_of_the_same_thread() {
    on_own_context(|| {
        let server = Server::builder().tls(false).listen(0, |socket| socket.sendline("welcome")).unwrap();
        let socket = Socket::builder().tls(false).connect(server.port()).unwrap();
        let lines = log_lines(&socket);
        until(|| lines.len() == 1);
    });
}
