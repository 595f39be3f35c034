//! The blocking face: exact counts, delimiters, the end, short writes, and std's traits.

use std::io::{BufRead, ErrorKind, Read, Write};
use std::time::Duration;

use network::{Error, Socket};
use proptest::prelude::*;

use crate::util::*;

const LONG: Duration = Duration::from_secs(20);

/// Two joined sockets whose calls have a limit.
#[track_caller]
fn joined(kind: Kind) -> (Socket, Socket) {
    let Joined { client, served, server } = join(kind);
    server.close();
    client.set_timeout(LONG);
    served.set_timeout(LONG);
    (client, served)
}

#[test]
fn exact_counts_delimiters_and_the_end_take_what_they_say_and_no_more() {
    for_each_kind(|kind| {
        let (client, served) = joined(kind);
        client.send("\0\x05HelloHead: 1\r\nOther: 2\r\n\r\nline\nrest").unwrap();
        let mut length = [0; 2];
        served.recv_exact_into(&mut length).unwrap();
        assert_eq!(served.recv_exact(u16::from_be_bytes(length).into()).unwrap(), b"Hello");
        assert_eq!(served.recv_exact(0).unwrap(), b"");
        assert_eq!(served.recv_until("\r\n\r\n").unwrap(), b"Head: 1\r\nOther: 2");
        assert_eq!(served.recv_line().unwrap(), "line");
        let mut space = [0; 2];
        assert_eq!(served.recv_into(&mut space).unwrap(), 2);
        assert_eq!(&space, b"re");
        assert_eq!(served.recv_into(&mut []).unwrap(), 0);
        client.shutdown_write().unwrap();
        assert_eq!(served.recv_to_end(2).unwrap(), b"st");
        assert_eq!(served.recv_to_end(2).unwrap(), b"", "and again");
        assert!(matches!(served.recv_into(&mut space), Err(Error::Closed { .. })));
        assert!(matches!(served.recv_exact(1), Err(Error::Closed { .. })));
        // The other direction is open still, for as long as no loop runs.
        served.send("answer").unwrap();
        assert_eq!(client.recv_exact(6).unwrap(), b"answer");
    });
}

#[test]
fn what_comes_too_late_or_too_little_stays_for_the_next_call() {
    for_each_kind(|kind| {
        let (client, served) = joined(kind);
        served.set_timeout(Duration::ZERO);
        let not_ready = |result: network::Result<Vec<u8>>| {
            assert!(matches!(result, Err(Error::NotReady { .. })), "{kind:?}: {result:?}");
        };
        not_ready(served.recv_exact(4));
        client.send("ab").unwrap();
        not_ready(served.recv_exact(4));
        not_ready(served.recv_until("\n"));
        not_ready(served.recv_to_end(100));
        assert!(matches!(served.recv_line(), Err(Error::NotReady { .. })));
        served.set_timeout(Duration::from_millis(10));
        let mut space = *b"????";
        assert!(matches!(served.recv_exact_into(&mut space), Err(Error::TimedOut { .. })));
        assert_eq!(&space, b"????", "all or nothing");
        client.send("cd").unwrap();
        served.set_timeout(LONG);
        assert_eq!(served.recv_exact(4).unwrap(), b"abcd");
        client.send("tail").unwrap();
        client.shutdown_write().unwrap();
        assert!(matches!(served.recv_exact(5), Err(Error::Closed { .. })));
        assert!(matches!(served.recv_until("\n"), Err(Error::Closed { .. })));
        assert!(matches!(served.recv_to_end(3), Err(Error::LimitExceeded { limit: 3, .. })));
        assert_eq!(served.recv(2).unwrap(), b"ta");
        assert_eq!(served.recv_to_end(2).unwrap(), b"il");
    });
}

#[test]
fn a_delimiter_that_does_not_come_within_the_limit_is_an_error() {
    for_each_kind(|kind| {
        let (client, served) = joined(kind);
        served.set_line_limit(4);
        client.send("1234--12345--").unwrap();
        assert_eq!(served.recv_until("--").unwrap(), b"1234");
        assert!(matches!(served.recv_until("--"), Err(Error::LineTooLong { limit: 4, .. })));
    });
}

#[test]
fn short_writes_take_what_there_is_room_for() {
    for_each_kind(|kind| {
        let (client, served) = joined(kind);
        client.set_timeout(Duration::ZERO);
        client.send("first\n").unwrap();
        let data = pattern(1 << 20);
        let mut sent = Vec::new();
        loop {
            match client.send_some(&data) {
                Ok(count) => sent.extend_from_slice(&data[..count]),
                Err(Error::NotReady { .. }) => break,
                Err(error) => panic!("{error}"),
            }
            assert!(sent.len() < 256 << 20, "it takes everything");
        }
        assert!(!sent.is_empty());
        // What is queued goes out before it.
        client.send("last\n").unwrap();
        client.set_timeout(LONG);
        let more = std::thread::scope(|scope| {
            let fd = std::os::fd::AsFd::as_fd(&served).try_clone_to_owned();
            let reader = match kind {
                // What is encrypted only its own socket can read: there the rest goes out as it reads.
                Kind::Tls => None,
                _ => Some(scope.spawn(move || {
                    let mut file = std::fs::File::from(fd.unwrap());
                    let mut all = Vec::new();
                    file.read_to_end(&mut all).unwrap();
                    all
                })),
            };
            match reader {
                Some(reader) => {
                    let more = client.send_some("more").unwrap();
                    client.flush().unwrap();
                    client.shutdown_write().unwrap();
                    let all = reader.join().unwrap();
                    assert_eq!(all, [&b"first\n"[..], &sent, b"last\n", &b"more"[..more]].concat());
                    more
                }
                None => {
                    assert_eq!(served.recv_line().unwrap(), "first");
                    let log = Log::<u8>::new();
                    let bytes = log.clone();
                    served.read(move |_, data| {
                        data.iter().for_each(|byte| bytes.add(*byte));
                        Ok(())
                    });
                    until(|| log.len() == sent.len() + 5);
                    assert_eq!(log.all(), [&sent[..], b"last\n"].concat());
                    client.send_some("more").unwrap()
                }
            }
        });
        assert!(more > 0);
    });
}

#[test]
fn std_reads_and_writes() {
    for_each_kind(|kind| {
        let (mut client, served) = joined(kind);
        let copies = 1;
        writeln!(client, "formatted {}", copies).unwrap();
        client.write_all(b"line two\nthree").unwrap();
        Write::flush(&mut client).unwrap();
        client.shutdown_write().unwrap();
        let mut reader = served.reader();
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert_eq!(line, "formatted 1\n");
        // What the reader has looked at and not consumed is still there for others.
        assert_eq!(served.recv_exact(5).unwrap(), b"line ");
        line.clear();
        reader.read_line(&mut line).unwrap();
        assert_eq!(line, "two\n");
        let mut two = [0; 2];
        reader.read_exact(&mut two).unwrap();
        drop(reader);
        let mut rest = Vec::new();
        (&served).read_to_end(&mut rest).unwrap();
        assert_eq!([&two[..], &rest].concat(), b"three");
        assert_eq!(Read::read(&mut &served, &mut [0]).unwrap(), 0, "the end");
        assert_eq!(served.reader().fill_buf().unwrap(), b"");
        assert_eq!(served.reader().read_exact(&mut [0]).unwrap_err().kind(), ErrorKind::UnexpectedEof);

        let copied = std::io::copy(&mut &pattern(300)[..], &mut &served).unwrap();
        assert_eq!((copied, client.recv_exact(300).unwrap()), (300, pattern(300)));
    });
}

#[test]
fn std_hears_of_time_outs_in_its_own_words() {
    for_each_kind(|kind| {
        let (client, served) = joined(kind);
        served.set_timeout(Duration::ZERO);
        assert_eq!(Read::read(&mut &served, &mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(served.reader().fill_buf().unwrap_err().kind(), ErrorKind::WouldBlock);
        served.set_timeout(Duration::from_millis(5));
        assert_eq!(Read::read(&mut &served, &mut [0]).unwrap_err().kind(), ErrorKind::TimedOut);
        client.send("x").unwrap();
        served.set_timeout(LONG);
        assert_eq!(Read::read(&mut &served, &mut [0; 9]).unwrap(), 1);
        served.close();
        assert_eq!(Read::read(&mut &served, &mut [0]).unwrap_err().kind(), ErrorKind::NotConnected);
        assert_eq!(Write::write(&mut &served, b"x").unwrap_err().kind(), ErrorKind::NotConnected);
    });
}

#[test]
fn a_connection_that_was_cut_off_is_no_end_to_std() {
    // With the end found by the call itself, and by the loop before.
    for by_loop in [false, true] {
        on_own_context(|| {
            let (client, served) = joined(Kind::Tls);
            client.send("some of it").unwrap();
            // What TLS itself has sent is read first, else this would be a reset.
            client.set_timeout(Duration::ZERO);
            assert!(matches!(client.recv(1), Err(Error::NotReady { .. })));
            client.abort();
            let (mut all, mut taken) = (Vec::new(), 0);
            if by_loop {
                taken = served.recv(100).unwrap().len();
                until(|| !served.is_open());
            }
            let error = (&served).read_to_end(&mut all).unwrap_err();
            assert_eq!(taken + all.len(), 10);
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{error}");
            assert!(matches!(served.recv_to_end(100), Err(Error::Truncated { .. })));
        });
    }
}

#[test]
fn within_a_callback_they_wait_and_call_nobody() {
    for_each_kind(|kind| {
        let (client, served) = joined(kind);
        let (asker, asked) = joined(Kind::Unix);
        let log = log_lines(&asker);
        let done = Log::<String>::new();
        let seen = done.clone();
        asked.readlines(move |_, line| {
            served.send(format!("{line}?"))?;
            let head = client.recv_until("?")?;
            client.sendline("yes")?;
            let mut answer = String::new();
            served.reader().read_line(&mut answer)?;
            seen.add(format!("{} {answer}", String::from_utf8_lossy(&head)));
            Ok(())
        });
        asked.sendline("meanwhile").unwrap();
        asker.sendline("ready").unwrap();
        until(|| done.len() == 1 && log.len() == 1);
        assert_eq!(done.all(), ["ready yes\n"]);
    });
}

/// One call of a reader.
#[derive(Clone, Debug)]
enum Call {
    Line,
    Exact(usize),
    Until(Vec<u8>),
    Some(usize),
    Into(usize),
    Buffered(usize),
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        Just(Call::Line),
        (0usize..40).prop_map(Call::Exact),
        proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(b'\n')], 1..4).prop_map(Call::Until),
        (1usize..40).prop_map(Call::Some),
        (1usize..40).prop_map(Call::Into),
        (0usize..40).prop_map(Call::Buffered),
    ]
}

/// What the call takes from the socket: the delimiter too.
fn make(socket: &Socket, call: &Call) -> network::Result<Vec<u8>> {
    match call {
        Call::Line => socket.recv_line().map(|line| format!("{line}\n").into_bytes()),
        Call::Exact(count) => socket.recv_exact(*count).inspect(|bytes| assert_eq!(bytes.len(), *count)),
        Call::Until(what) => socket.recv_until(what).map(|bytes| [&bytes[..], what].concat()),
        Call::Some(max) => socket.recv(*max).inspect(|bytes| assert!((1..=*max).contains(&bytes.len()))),
        Call::Into(max) => {
            let mut space = vec![0; *max];
            let count = socket.recv_into(&mut space)?;
            space.truncate(count);
            Ok(space)
        }
        Call::Buffered(max) => {
            let mut reader = socket.reader();
            let bytes = reader.fill_buf()?.to_vec();
            if bytes.is_empty() {
                return Err(Error::Closed { peer: String::new() });
            }
            let count = bytes.len().min(*max);
            reader.consume(count);
            Ok(bytes[..count].to_vec())
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    /// However the bytes are cut on their way, and whatever asks for them: each comes once, in order. Nothing waits for
    /// long enough to be a matter of luck: a call that finds too little is made again after the next piece.
    #[test]
    fn readers_of_every_kind_lose_nothing_whatever_the_pieces(
        pieces in proptest::collection::vec(
            proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(b'\n')], 1..50),
            0..20,
        ),
        calls in proptest::collection::vec(call(), 0..40),
    ) {
        for_each_kind(|kind| {
            let (client, served) = joined(kind);
            served.set_timeout(Duration::ZERO);
            let sent = pieces.concat();
            let mut seen = Vec::new();
            let mut coming = pieces.iter();
            for call in &calls {
                loop {
                    match make(&served, call) {
                        Ok(bytes) => {
                            assert!(sent[seen.len()..].starts_with(&bytes), "{call:?} took {bytes:?}");
                            if let Call::Until(what) = call {
                                let first = bytes.windows(what.len()).position(|window| window == what);
                                assert_eq!(first, Some(bytes.len() - what.len()), "not the first");
                            }
                            seen.extend(bytes);
                        }
                        Err(Error::NotReady { .. }) => {
                            if let Some(piece) = coming.next() {
                                client.send(piece).unwrap();
                                continue;
                            }
                            // There is no more of that.
                        }
                        Err(error) => panic!("{call:?}: {error}"),
                    }
                    break;
                }
            }
            for piece in coming {
                client.send(piece).unwrap();
            }
            client.shutdown_write().unwrap();
            served.set_timeout(LONG);
            seen.extend(served.recv_to_end(sent.len()).unwrap());
            assert_eq!(seen, sent);
        });
    }
}
