//! Many lines at a time: what the inner loop of delivery must look out for between two of them.

use std::cell::Cell;
use std::rc::Rc;

use network::Socket;
use network::socket::LineEnding;

use crate::util::*;

#[test]
fn lines_as_bytes_arrive_as_they_were_sent() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let log = Log::<Vec<u8>>::new();
        let lines = log.clone();
        served.readlines_bytes(move |_, line| {
            lines.add(line);
            Ok(())
        });
        client.send(b"a\xffb\n\nno end").unwrap();
        until(|| log.len() == 2);
        client.send(b"\x00\n").unwrap();
        until(|| log.len() == 3);
        assert_eq!(log.all(), [&b"a\xffb"[..], b"", b"no end\x00"]);
    });
}

#[test]
fn what_a_callback_asks_for_itself_is_not_delivered_again() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let log = Log::<String>::new();
        let lines = log.clone();
        served.readlines(move |socket, line| {
            lines.add(line);
            if line.ends_with('+') {
                lines.add(format!("asked: {}", socket.recv_line()?));
            }
            Ok(())
        });
        client.send("one+\ntwo\nthree\nfour+\nfive\nsix\n").unwrap();
        until(|| log.len() == 6);
        assert_eq!(log.all(), ["one+", "asked: two", "three", "four+", "asked: five", "six"]);
    });
}

#[test]
fn valid_and_invalid_lines_keep_their_order_however_many_there_are() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let log = log_lines(&served);
        let mut sent = Vec::new();
        let mut expected = Vec::new();
        for n in 0..5000 {
            let (bytes, text) = if n % 7 == 3 { (&b"\xe2\x82"[..], "\u{fffd}") } else { ("€".as_bytes(), "€") };
            sent.extend_from_slice(format!("{n} ").as_bytes());
            sent.extend_from_slice(bytes);
            sent.push(b'\n');
            expected.push(format!("{n} {text}"));
        }
        client.send(&sent).unwrap();
        until(|| log.len() == expected.len());
        assert_eq!(log.all(), expected);
    });
}

#[test]
fn a_reader_that_sets_itself_anew_for_each_line_gets_every_line() {
    fn read_one(socket: &network::Socket, seen: &Rc<Cell<usize>>) {
        let count = seen.clone();
        socket.readlines(move |socket, line| {
            assert_eq!(line, count.get().to_string());
            count.set(count.get() + 1);
            read_one(socket, &count);
            Ok(())
        });
    }
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let seen = Rc::new(Cell::new(0));
        read_one(&served, &seen);
        let text: String = (0..3000).map(|n| format!("{n}\n")).collect();
        client.send(text).unwrap();
        until(|| seen.get() == 3000);
    });
}

/// Sends in pieces of one byte, or all at once.
fn send_pieces(socket: &Socket, text: &str, is_trickled: bool) {
    if is_trickled {
        for byte in text.bytes() {
            socket.send([byte]).unwrap();
            network::iteration(false);
        }
    } else {
        socket.send(text).unwrap();
    }
}

#[test]
fn pairs_end_lines_by_every_face_and_only_if_asked_for() {
    const SENT: &str = "one\r\n\r\ntwo\n\r\r\nth\rree\r\n";
    for_each_kind(|kind| {
        for (ending, expected) in [
            (LineEnding::CrLf, ["one", "", "two", "\r", "th\rree"]),
            (LineEnding::Lf, ["one\r", "\r", "two", "\r\r", "th\rree\r"]),
        ] {
            for is_trickled in [false, true] {
                let Joined { client, served, server: _server } = join(kind);
                served.set_line_ending(ending);
                assert_eq!(served.line_ending(), ending);
                let log = log_lines(&served);
                send_pieces(&client, SENT, is_trickled);
                until(|| log.len() == 5);
                assert_eq!(log.all(), expected);

                let log = Log::<Vec<u8>>::new();
                let lines = log.clone();
                served.readlines_bytes(move |_, line| {
                    lines.add(line);
                    Ok(())
                });
                send_pieces(&client, SENT, is_trickled);
                until(|| log.len() == 5);
                assert_eq!(log.all(), expected.map(str::as_bytes));
                served.unread();

                send_pieces(&client, SENT, is_trickled);
                client.flush().unwrap();
                for line in expected {
                    assert_eq!(served.recv_line().unwrap(), line);
                }
                send_pieces(&client, SENT, is_trickled);
                let context = glib::MainContext::ref_thread_default();
                context.block_on(async {
                    assert_eq!(served.recv_line_future().await.unwrap(), expected[0]);
                    let mut lines = served.lines();
                    for line in &expected[1..3] {
                        assert_eq!(lines.next().await.unwrap().unwrap(), *line);
                    }
                    for line in &expected[3..] {
                        assert_eq!(lines.next_str().await.unwrap().unwrap(), *line);
                    }
                });
            }
        }
    });
}

#[test]
fn a_line_is_sent_with_the_ending_that_is_set() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        client.sendline("a").unwrap();
        client.set_line_ending(LineEnding::CrLf);
        client.sendline("b").unwrap();
        let context = glib::MainContext::ref_thread_default();
        context.block_on(client.sendline_future("c")).unwrap();
        // Inside of a turn of the loop, where what is sent is gathered.
        let text = Log::<Vec<u8>>::new();
        let into = text.clone();
        served.read(move |_, data| {
            into.add(data);
            Ok(())
        });
        client.readlines(|client, line| client.sendline(line));
        served.send("d\r\n").unwrap();
        until(|| text.all().concat().ends_with(b"d\r\n"));
        assert_eq!(text.all().concat(), b"a\nb\r\nc\r\nd\r\n");
    });
}

#[test]
fn a_callback_may_change_the_ending_of_the_lines_that_follow() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let log = Log::<String>::new();
        let lines = log.clone();
        served.readlines(move |socket, line| {
            lines.add(line);
            match line.trim() {
                "pairs" => socket.set_line_ending(LineEnding::CrLf),
                "newlines" => socket.set_line_ending(LineEnding::Lf),
                _ => {}
            }
            Ok(())
        });
        client.send("a\r\npairs\r\nb\r\nnewlines\r\nc\r\n").unwrap();
        until(|| log.len() == 5);
        assert_eq!(log.all(), ["a\r", "pairs\r", "b", "newlines", "c\r"]);
    });
}

#[test]
fn the_line_limit_counts_a_line_without_its_ending() {
    for_each_kind(|kind| {
        for (sent, is_accepted) in
            [("abcd\r\n", true), ("abcd\n", true), ("abcde\n", false), ("abcde\r\n", false), ("abcd\r\r\n", false)]
        {
            let Joined { client, served, server: _server } = join(kind);
            served.set_line_ending(LineEnding::CrLf);
            served.set_line_limit(4);
            let (log, end) = (log_lines(&served), log_end(&served));
            client.send(sent).unwrap();
            until(|| log.len() + end.len() == 1);
            assert_eq!(log.len() == 1, is_accepted, "{sent:?}");
        }
    });
}
