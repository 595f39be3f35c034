//! Many lines at a time: what the inner loop of delivery must look out for between two of them.

use std::cell::Cell;
use std::rc::Rc;

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
