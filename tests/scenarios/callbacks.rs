//! What callbacks are called with, in which order, and what they may do.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use network::{Error, Socket};

use crate::util::*;

#[test]
fn lines_arrive_whole_and_in_order() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let lines = log_lines(&served);
        client.send("one\ntw").unwrap();
        until(|| lines.len() == 1);
        client.send("o\n\nthree\n").unwrap();
        until(|| lines.len() == 4);
        assert_eq!(lines.all(), ["one", "two", "", "three"]);
    });
}

#[test]
fn invalid_utf8_arrives_as_replacement_characters() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let lines = log_lines(&served);
        client.send(b"a\xffb\xc3\x28\ngr\xc3\xbc\xc3\x9fe\n").unwrap();
        until(|| lines.len() == 2);
        assert_eq!(lines.all(), ["a\u{fffd}b\u{fffd}(", "grüße"]);
    });
}

#[test]
fn data_comes_in_pieces_of_the_asked_size() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        served.set_read_size(1000);
        let data = Rc::new(RefCell::new(Vec::new()));
        let longest = Rc::new(Cell::new(0));
        let (all, max) = (data.clone(), longest.clone());
        served.read(move |_, piece| {
            all.borrow_mut().extend_from_slice(piece);
            max.set(max.get().max(piece.len()));
            Ok(())
        });
        let sent = pattern(100_000);
        client.send(&sent).unwrap();
        until(|| data.borrow().len() == sent.len());
        assert!(*data.borrow() == sent);
        assert_eq!(longest.get(), 1000);
    });
}

#[test]
fn close_in_a_callback_ends_the_batch_and_leaves_the_rest() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let ends = log_end(&served);
        let lines = Log::<String>::new();
        let log = lines.clone();
        served.readlines(move |socket, line| {
            log.add(line);
            if line == "two" {
                assert!(socket.close().is_empty(), "the disconnect callback gets it");
            }
            Ok(())
        });
        client.send("one\ntwo\nthree\nfour").unwrap();
        until(|| ends.len() == 1);
        assert_eq!(lines.all(), ["one", "two"]);
        assert_eq!(ends.all(), [("closed here".into(), b"three\nfour".to_vec())]);
        assert!(served.recv(10).is_err_and(|error| matches!(error, Error::Closed { .. })));
    });
}

#[test]
fn close_gives_the_leftover_back_when_no_callback_takes_it() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let lines = log_lines(&served);
        client.send("one\ntwo").unwrap();
        until(|| lines.len() == 1);
        assert_eq!(served.close(), b"two");
        assert_eq!(served.close(), b"");
    });
}

#[test]
fn an_error_returned_by_a_callback_is_the_reason_of_the_end() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let ends = log_end(&served);
        let client_ends = log_end(&client);
        served.readlines(|socket, line| {
            socket.sendline("last words")?;
            let number: i32 = line.parse().map_err(Error::other)?;
            panic!("{number} is none");
        });
        client.sendline("not a number").unwrap();
        until(|| ends.len() == 1 && client_ends.len() == 0);
        assert_eq!(ends.all()[0].0, "invalid digit found in string");
        assert_eq!(client.recv_line().unwrap(), "last words");
        until(|| client_ends.len() == 1);
    });
}

#[test]
fn switching_between_readers_loses_no_byte() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let log = Log::<String>::new();
        let (first, second, third) = (log.clone(), log.clone(), log.clone());
        served.readlines(move |socket, line| {
            first.add(format!("line {line}"));
            let second = second.clone();
            let third = third.clone();
            socket.read(move |socket, data| {
                second.add(format!("data {}", String::from_utf8_lossy(data)));
                let third = third.clone();
                socket.readlines(move |_, line| {
                    third.add(format!("again {line}"));
                    Ok(())
                });
                Ok(())
            });
            Ok(())
        });
        client.send("one\ntwo\nthr").unwrap();
        until(|| log.len() == 2);
        client.send("ee\nfour\nfi").unwrap();
        until(|| log.len() == 4);
        assert_eq!(log.all(), ["line one", "data two\nthr", "again ee", "again four"]);
        assert_eq!(served.unread(), b"fi");
        assert_eq!(served.unread(), b"");
    });
}

#[test]
fn unread_in_a_callback_gives_the_rest_of_the_batch() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let rest = Rc::new(RefCell::new(None));
        let place = rest.clone();
        served.readlines(move |socket, _| {
            assert!(place.borrow().is_none(), "called after unread");
            place.replace(Some(socket.unread()));
            Ok(())
        });
        client.send("one\ntwo\nthree").unwrap();
        until(|| rest.borrow().is_some());
        assert_eq!(rest.take().unwrap(), b"two\nthree");
        client.send(" and more").unwrap();
        settle();
        assert_eq!(served.recv(100).unwrap(), b" and more");
    });
}

#[test]
fn rawread_returns_the_leftover_and_is_called_while_data_waits() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let lines = log_lines(&served);
        client.send("one\ntw").unwrap();
        until(|| lines.len() == 1);
        let data = Rc::new(RefCell::new(Vec::new()));
        let calls = Rc::new(Cell::new(0));
        let (place, count) = (data.clone(), calls.clone());
        let leftover = served.rawread(move |socket| {
            count.set(count.get() + 1);
            if count.get() > 2 {
                place.borrow_mut().extend(socket.recv(1)?);
            }
            Ok(())
        });
        assert_eq!(leftover, b"tw");
        settle();
        assert_eq!(calls.get(), 0, "nothing waits");
        client.send("abc").unwrap();
        until(|| data.borrow().len() == 3);
        assert_eq!(*data.borrow(), b"abc");
        assert_eq!(calls.get(), 5, "twice without taking anything, then byte by byte");
        let ends = log_end(&served);
        let _ = client.close();
        until(|| ends.len() == 1);
        assert_eq!(calls.get(), 5, "the end is no data");
    });
}

#[test]
fn no_callback_runs_inside_a_method_call() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        client.send("one\ntwo").unwrap();
        served.set_timeout(std::time::Duration::from_secs(10));
        assert_eq!(served.recv(4).unwrap(), b"one\n");
        let inside = Rc::new(Cell::new(true));
        let called = Rc::new(Cell::new(0));
        let (flag, count) = (inside.clone(), called.clone());
        served.read(move |_, _| {
            assert!(!flag.get());
            count.set(count.get() + 1);
            Ok(())
        });
        let flag = inside.clone();
        let count = called.clone();
        served.disconnect_cb(move |_, _| {
            assert!(!flag.get());
            count.set(count.get() + 10);
        });
        let flag = inside.clone();
        served.flush_async(move |_| assert!(!flag.get()));
        let _ = client.close();
        let _ = served.close();
        inside.set(false);
        until(|| called.get() >= 10);
    });
}

#[test]
fn the_end_is_told_once_whoever_ends_it() {
    for_each_kind(|kind| {
        // The peer closes.
        let Joined { client, served, server } = join(kind);
        let ends = log_end(&served);
        let _ = client.close();
        until(|| ends.len() == 1);
        let _ = served.close();
        settle();
        assert_eq!(ends.all(), [("closed by the peer".into(), vec![])]);
        assert!(server.connections().is_empty());

        // Closed here.
        let Joined { client: _client, served, server } = join(kind);
        let ends = log_end(&served);
        let _ = served.close();
        let _ = served.close();
        assert_eq!(ends.len(), 0, "not before the next turn");
        until(|| ends.len() == 1);
        settle();
        assert_eq!(ends.all(), [("closed here".into(), vec![])]);
        assert!(server.connections().is_empty());
    });
}

#[test]
fn a_reset_is_told_as_one() {
    on_own_context(|| {
        let (server, _) = serve(Kind::Tcp, |_| Ok(()));
        let stranger = std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        until(|| !server.connections().is_empty());
        let served = server.connections().remove(0);
        let ends = log_end(&served);
        served.read(|_, _| Ok(()));
        settle();
        rustix::net::sockopt::set_socket_linger(&stranger, Some(std::time::Duration::ZERO)).unwrap();
        drop(stranger);
        until(|| ends.len() == 1);
        settle();
        assert_eq!(ends.len(), 1);
        assert!(ends.all()[0].0.ends_with(" reset the connection"), "{:?}", ends.all());
    });
}

#[test]
fn a_disconnect_callback_can_be_changed_and_taken_away() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let first = log_end(&served);
        let second = log_end(&served);
        let _ = client.close();
        until(|| second.len() == 1);
        assert_eq!(first.len(), 0);

        let Joined { client, served, server } = join(kind);
        let ends = log_end(&served);
        served.unset_disconnect_cb();
        let _ = client.close();
        until(|| server.connections().is_empty());
        settle();
        assert_eq!(ends.len(), 0);
    });
}

#[test]
fn a_servers_disconnect_callback_serves_all_its_connections() {
    on_own_context(|| {
        let log = Log::<String>::new();
        let ends = log.clone();
        let server = network::Server::builder()
            .tls(false)
            .disconnect_cb(move |_, end| ends.add(String::from_utf8(end.leftover).unwrap()))
            .listen(0, |socket| {
                socket.readlines(|_, _| Ok(()));
                Ok(())
            })
            .unwrap();
        for name in ["a", "b"] {
            let client = connect(&format!("tcp://localhost:{}", server.port()));
            client.send(name).unwrap();
            let _ = client.close();
        }
        until(|| log.len() == 2);
        let mut names = log.all();
        names.sort();
        assert_eq!(names, ["a", "b"]);
    });
}

#[test]
fn data_before_the_end_is_delivered_before_the_end() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let log = Log::<String>::new();
        let (lines, ends) = (log.clone(), log.clone());
        served.readlines(move |_, line| {
            lines.add(line);
            Ok(())
        });
        served.disconnect_cb(move |_, end| ends.add(format!("end, {} left", end.leftover.len())));
        for n in 0..1000 {
            client.sendline(format!("line {n}")).unwrap();
        }
        client.send("unfinished").unwrap();
        let _ = client.close();
        until(|| log.all().last().is_some_and(|last| last.starts_with("end")));
        assert_eq!(log.len(), 1001);
        assert_eq!(log.all().last().unwrap(), "end, 10 left");
    });
}

#[test]
fn without_a_reader_the_end_waits_until_the_data_is_taken() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let ends = log_end(&served);
        client.send("data").unwrap();
        let _ = client.close();
        settle();
        assert_eq!(ends.len(), 0, "there is data to take");
        assert_eq!(served.recv(100).unwrap(), b"data");
        until(|| ends.len() == 1);

        // And with nothing to take it is noticed without anybody reading.
        let Joined { client, served, server: _server } = join(kind);
        let ends = log_end(&served);
        let _ = client.close();
        until(|| ends.len() == 1);
    });
}

#[test]
fn a_reader_set_late_gets_what_came_before_it() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        client.send("early\n").unwrap();
        settle();
        let lines = log_lines(&served);
        until(|| lines.len() == 1);
    });
}

#[test]
fn a_nested_loop_in_a_callback_keeps_the_others_alive() {
    for_each_kind(|kind| {
        let other = Rc::new(RefCell::new(None::<Socket>));
        let asks = other.clone();
        let (server, address) = serve(kind, move |socket| {
            let asks = asks.clone();
            socket.readlines(move |socket, line| {
                if line == "nest" {
                    // Answered by the nested loop, which the answer ends.
                    let second = asks.take().unwrap();
                    second.sendline("hello")?;
                    network::fgloop();
                }
                socket.sendline(format!("done {line}"))
            });
            Ok(())
        });
        let (first, second) = (connect(&address), connect(&address));
        let (first_lines, second_lines) = (log_lines(&first), log_lines(&second));
        let ender = second_lines.clone();
        second.readlines(move |_, line| {
            ender.add(line);
            network::endloop();
            Ok(())
        });
        other.replace(Some(second.clone()));
        first.send("nest\nafter\n").unwrap();
        until(|| first_lines.len() == 2);
        assert_eq!(second_lines.all(), ["done hello"]);
        assert_eq!(first_lines.all(), ["done nest", "done after"]);
        drop((second, server));
    });
}

#[test]
fn the_last_handle_may_go_in_a_callback() {
    for_each_kind(|kind| {
        let place = Rc::new(RefCell::new(None::<Socket>));
        let held = place.clone();
        let (server, address) = serve(kind, move |socket| {
            let held = held.clone();
            socket.readlines(move |socket, _| {
                held.take();
                socket.unread();
                socket.sendline("bye")
            });
            Ok(())
        });
        let client = connect(&address);
        until(|| !server.connections().is_empty());
        place.replace(Some(server.connections().remove(0)));
        drop(server);
        let lines = log_lines(&client);
        let ends = log_end(&client);
        client.sendline("go").unwrap();
        until(|| ends.len() == 1);
        assert_eq!(lines.all(), ["bye"]);
        assert_eq!(ends.all(), [("closed by the peer".into(), vec![])]);
    });
}

#[test]
fn a_server_may_be_dropped_in_its_own_callback() {
    for_each_kind(|kind| {
        let place = Rc::new(RefCell::new(None));
        let held = place.clone();
        let (server, address) = serve(kind, move |socket| {
            held.take();
            socket.readlines(|socket, line| socket.sendline(line));
            Ok(())
        });
        place.replace(Some(server));
        let client = connect(&address);
        let lines = log_lines(&client);
        client.sendline("still here").unwrap();
        until(|| lines.len() == 1);
        assert!(place.borrow().is_none());
        assert!(try_connect(Socket::builder(), &address).is_err());
    });
}

#[test]
fn what_callbacks_captured_is_freed_at_the_end() {
    for_each_kind(|kind| {
        let witness = Rc::new(());
        let Joined { client, served, server } = join(kind);
        let (a, b, own) = (witness.clone(), witness.clone(), served.clone());
        served.readlines(move |_, _| {
            let _ = (&a, &own);
            Ok(())
        });
        served.disconnect_cb(move |_, _| drop(b));
        assert_eq!(Rc::strong_count(&witness), 3);
        drop(served);
        let _ = client.close();
        until(|| server.connections().is_empty());
        assert_eq!(Rc::strong_count(&witness), 1);
    });
}

#[test]
fn a_client_with_only_a_reader_stays_connected() {
    for_each_kind(|kind| {
        let (server, address) = serve(kind, |socket| {
            socket.readlines(|socket, line| socket.sendline(line));
            Ok(())
        });
        let client = connect(&address);
        let lines = log_lines(&client);
        let weak = client.downgrade();
        client.sendline("hello").unwrap();
        drop(client);
        until(|| lines.len() == 1);
        let client = weak.upgrade().expect("kept by the loop");
        client.unread();
        drop(client);
        assert!(weak.upgrade().is_none());
        until(|| server.connections().is_empty());
    });
}

/// Runs the loop until a panic comes out of it, and gives its message.
pub fn panic_of_loop() -> String {
    let panic = catch_unwind(AssertUnwindSafe(|| until(|| false))).unwrap_err();
    panic.downcast_ref::<&str>().map(|text| text.to_string()).or(panic.downcast_ref::<String>().cloned()).unwrap()
}

#[test]
fn a_panic_comes_out_of_the_loop_and_the_others_go_on() {
    for_each_kind(|kind| {
        let (server, address) = serve(kind, |socket| {
            socket.readlines(|socket, line| {
                assert!(line != "panic", "asked to");
                socket.sendline(line)
            });
            Ok(())
        });
        let (first, second) = (connect(&address), connect(&address));
        let ends = log_end(&first);
        let lines = log_lines(&second);
        first.sendline("panic").unwrap();
        assert_eq!(panic_of_loop(), "asked to");
        second.sendline("still here").unwrap();
        until(|| lines.len() == 1 && ends.len() == 1);
        assert_eq!(server.connections().len(), 1);
    });
}

#[test]
fn a_panic_may_come_from_any_callback() {
    on_own_context(|| {
        let (_server, address) = serve(Kind::Tcp, |_| panic!("by the server"));
        let client = Socket::connect(address.as_str()).unwrap();
        assert_eq!(panic_of_loop(), "by the server");
        let ends = log_end(&client);
        until(|| ends.len() == 1);

        let Joined { client, served, server: _server } = join(Kind::Tcp);
        served.disconnect_cb(|_, _| panic!("at the end"));
        let _ = client.close();
        assert_eq!(panic_of_loop(), "at the end");

        let (_server, address) = serve(Kind::Tcp, |_| Ok(()));
        Socket::connect_async(address.as_str(), gio::Cancellable::NONE, |_| panic!("when connected"));
        assert_eq!(panic_of_loop(), "when connected");

        let Joined { client, .. } = join(Kind::Tcp);
        client.flush_async(|_| panic!("when flushed"));
        assert_eq!(panic_of_loop(), "when flushed");
    });
}

#[test]
fn under_a_foreign_loop_a_panic_ends_the_process() {
    const ASKED: &str = "NETWORK_TEST_FOREIGN_PANIC";
    if std::env::var_os(ASKED).is_some() {
        let server = network::Server::builder().tls(false).listen(0, |_| panic!("nobody can catch this")).unwrap();
        let _client = Socket::builder().tls(false).connect(server.port()).unwrap();
        glib::MainLoop::new(None, false).run();
        return;
    }
    let own = std::env::current_exe().unwrap();
    let name = "callbacks::under_a_foreign_loop_a_panic_ends_the_process";
    let outcome =
        std::process::Command::new(own).args(["--exact", name, "--nocapture"]).env(ASKED, "1").output().unwrap();
    use std::os::unix::process::ExitStatusExt;
    let stderr = String::from_utf8_lossy(&outcome.stderr);
    assert_eq!(outcome.status.signal(), Some(6), "{stderr}");
    assert!(stderr.contains("nobody can catch this"), "{stderr}");
}

#[test]
fn what_is_sent_in_a_callback_goes_out_before_a_blocking_call() {
    for_each_plain_kind(|kind| {
        // The other end is a thread's, by std alone.
        let Joined { client, served, server: _server } = join(kind);
        let (fd, _) = client.into_fd().unwrap();
        let stranger = std::thread::spawn(move || {
            let file = std::os::unix::net::UnixStream::from(fd);
            let mut reader = std::io::BufReader::new(&file);
            std::io::Write::write_all(&mut &file, b"start\n").unwrap();
            let mut question = String::new();
            std::io::BufRead::read_line(&mut reader, &mut question).unwrap();
            std::io::Write::write_all(&mut &file, b"answer\n").unwrap();
            question
        });
        let answer = Rc::new(RefCell::new(None));
        let place = answer.clone();
        served.set_timeout(std::time::Duration::from_secs(10));
        served.readlines(move |socket, _| {
            socket.sendline("question")?;
            place.replace(Some(socket.recv_line()?));
            Ok(())
        });
        until(|| answer.borrow().is_some());
        assert_eq!(answer.take().unwrap(), "answer");
        assert_eq!(stranger.join().unwrap(), "question\n");
    });
}

#[test]
fn a_line_over_the_limit_ends_the_connection_after_the_lines_before() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        served.set_line_limit(10);
        let ends = log_end(&served);
        let lines = log_lines(&served);
        client.send("short\n0123456789\n01234567890\nafter\n").unwrap();
        until(|| ends.len() == 1);
        assert_eq!(lines.all(), ["short", "0123456789"]);
        let (reason, leftover) = ends.all().remove(0);
        assert!(reason.starts_with("line from ") && reason.ends_with(" exceeds the limit of 10 bytes"), "{reason}");
        assert_eq!(leftover, b"01234567890\nafter\n");
    });
}

#[test]
fn an_endless_line_does_not_grow_without_end() {
    on_own_context(|| {
        let Joined { client, served, server: _server } = join(Kind::Tcp);
        let ends = log_end(&served);
        let lines = log_lines(&served);
        client.send(vec![b'x'; 3 << 20]).unwrap();
        until(|| ends.len() == 1);
        assert_eq!(lines.len(), 0);
        let leftover = ends.all().remove(0).1.len();
        assert!((1 << 20..(1 << 20) + (256 << 10)).contains(&leftover), "{leftover}");
    });
}
