//! Every bug that was found has its test here: each of these hung, spun, lied or lost something.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{IoSlice, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use network::{Server, Socket};
use rustix::net::{SendFlags, sockopt};

use crate::common::black_hole;
use crate::util::*;

/// Runs a scenario on a thread of its own, because it may never come back.
#[track_caller]
fn must_end(scenario: impl FnOnce() + Send + 'static) {
    let (running, ended) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        // Gone with the scenario, be it by a panic.
        let _running = running;
        on_own_context(scenario);
    });
    assert_ne!(ended.recv_timeout(Duration::from_secs(8)), Err(RecvTimeoutError::Timeout), "it hangs");
    thread.join().unwrap();
}

/// The loop comes to rest.
#[track_caller]
fn is_quiet() {
    let turns = (0..2000).take_while(|_| network::iteration(false)).count();
    assert!(turns < 1000, "the loop spins");
}

/// A TLS connection whose sender has so little room that its session still holds most of what was sent.
fn stuck() -> Joined {
    let joined = join(Kind::Tls);
    settle();
    sockopt::set_socket_recv_buffer_size(joined.served.as_fd(), 2304).unwrap();
    sockopt::set_socket_send_buffer_size(joined.client.as_fd(), 4608).unwrap();
    joined.client.send(pattern(60_000)).unwrap();
    joined
}

#[test]
fn deferred_calls_may_be_made_by_a_nested_loop() {
    must_end(|| {
        let Joined { client, served: _served, server: _server } = join(Kind::Unix);
        let log = Log::<u8>::new();
        let (first, second) = (log.clone(), log.clone());
        client.flush_async(move |_| {
            until(|| first.len() == 1);
            first.add(1);
        });
        client.flush_async(move |_| second.add(2));
        until(|| log.len() == 2);
        assert_eq!(log.all(), [2, 1]);
    });
}

#[test]
fn what_only_the_session_holds_goes_out_as_well() {
    on_own_context(|| {
        let Joined { client: _client, served, server: _server } = stuck();
        let got = Rc::new(Cell::new(0));
        let count = got.clone();
        served.read(move |_, bytes| {
            count.set(count.get() + bytes.len());
            Ok(())
        });
        until(|| got.get() == 60_000);
    });
}

#[test]
fn flushing_a_broken_tls_connection_ends() {
    must_end(|| {
        let Joined { client, served, server: _server } = stuck();
        let _ = served.abort();
        assert!(client.flush().is_err());
    });
}

#[test]
fn flushing_does_not_succeed_with_bytes_left_in_the_session() {
    on_own_context(|| {
        let Joined { client, served: _served, server: _server } = stuck();
        let log = Log::<bool>::new();
        let done = log.clone();
        client.flush_async(move |result| done.add(result.is_ok()));
        let _ = client.abort();
        until(|| log.len() == 1);
        assert_eq!(log.all(), [false]);
    });
}

#[test]
fn a_half_open_connection_with_a_raw_reader_is_quiet() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let told = Log::<()>::new();
        let tell = told.clone();
        let _ = served.rawread(|socket| socket.recv(100).map(drop));
        served.half_close_cb(move |_| {
            tell.add(());
            Ok(())
        });
        client.sendline("hello").unwrap();
        client.shutdown_write().unwrap();
        until(|| told.len() == 1);
        is_quiet();
        // And it ends.
        let ends = log_end(&served);
        served.shutdown_write().unwrap();
        until(|| ends.len() == 1);
        assert_eq!(told.len(), 1);
    });
}

#[test]
fn a_half_open_pair_of_descriptors_is_quiet() {
    on_own_context(|| {
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let null: OwnedFd = File::options().read(true).write(true).open("/dev/null").unwrap().into();
        let (input, far_output) = pipe();
        drop(far_output);
        for input in [input, null] {
            let (far_input, output) = pipe();
            let socket = Socket::wrap(input, output).unwrap();
            let told = Log::<()>::new();
            let tell = told.clone();
            socket.read(|_, _| Ok(()));
            socket.half_close_cb(move |_| {
                tell.add(());
                Ok(())
            });
            until(|| told.len() == 1);
            is_quiet();
            let ends = log_end(&socket);
            socket.shutdown_write().unwrap();
            until(|| ends.len() == 1);
            drop(far_input);
        }
    });
}

#[test]
fn a_raw_reader_may_set_itself_anew() {
    must_end(|| {
        fn once_more(socket: &Socket, calls: Rc<Cell<u32>>) -> network::Result {
            calls.set(calls.get() + 1);
            let again = move |socket: &Socket| once_more(socket, calls.clone());
            assert!(socket.rawread(again).is_empty());
            Ok(())
        }
        let Joined { client, served, server: _server } = join(Kind::Unix);
        let calls = Rc::new(Cell::new(0));
        let counted = calls.clone();
        let _ = served.rawread(move |socket| once_more(socket, counted.clone()));
        client.sendline("hello").unwrap();
        until(|| calls.get() > 0);
        assert!(calls.get() < 1000);
    });
}

#[test]
fn readers_that_set_each_other_do_not_hold_up_the_program() {
    fn line(socket: &Socket, seen: &Rc<Cell<u32>>) -> network::Result {
        // Nothing is waited for: this is work, which the turns are measured by.
        std::thread::sleep(Duration::from_millis(1));
        seen.set(seen.get() + 1);
        let seen = seen.clone();
        socket.readlines(move |socket, _| line(socket, &seen));
        Ok(())
    }
    on_own_context(|| {
        let Joined { client, served, server: _server } = join(Kind::Unix);
        let seen = Rc::new(Cell::new(0));
        let count = seen.clone();
        served.readlines(move |socket, _| line(socket, &count));
        client.send("x\n".repeat(200)).unwrap();
        let turns = Cell::new(0);
        until(|| {
            turns.set(turns.get() + 1);
            seen.get() == 200
        });
        assert!(turns.get() > 20, "{} turns for 200 ms of work", turns.get());
    });
}

#[test]
fn a_connection_does_not_end_before_it_was_announced() {
    on_own_context(|| {
        let log = Log::<&str>::new();
        let (came, gone) = (log.clone(), log.clone());
        let server = server(Kind::Tls)
            .disconnect_cb(move |_, _| gone.add("gone"))
            .listen(0, move |_| {
                came.add("came");
                if came.len() == 1 {
                    network::fgloop_for(Duration::from_millis(500));
                    came.add("nested loop ended");
                }
                Ok(())
            })
            .unwrap();
        for _ in 0..2 {
            let address = format!("localhost:{}", server.port());
            let builder = Socket::builder().tls(trust());
            builder.connect_async(address.as_str(), gio::Cancellable::NONE, |socket| drop(socket.unwrap().close()));
        }
        until(|| log.len() == 5);
        assert_eq!(log.all(), ["came", "nested loop ended", "came", "gone", "gone"]);
    });
}

#[test]
fn clients_in_their_hand_shake_when_the_server_closes_are_turned_away() {
    on_own_context(|| {
        let place = Rc::new(RefCell::new(None::<Server>));
        let closing = place.clone();
        let server = server(Kind::Tls)
            .listen(0, move |_| {
                if let Some(server) = closing.take() {
                    server.close();
                }
                Ok(())
            })
            .unwrap();
        place.replace(Some(server.clone()));
        let ends = Log::<()>::new();
        let clients = Rc::new(RefCell::new(Vec::new()));
        for _ in 0..3 {
            let (ends, clients) = (ends.clone(), clients.clone());
            let builder = Socket::builder().tls(trust());
            let address = format!("localhost:{}", server.port());
            builder.connect_async(address.as_str(), gio::Cancellable::NONE, move |result| match result {
                Ok(socket) => {
                    socket.disconnect_cb(move |_, _| ends.add(()));
                    clients.borrow_mut().push(socket);
                }
                Err(_) => ends.add(()),
            });
        }
        until(|| ends.len() == 2);
        assert_eq!(server.connections().len(), 1);
    });
}

#[test]
fn a_closed_server_lets_go_of_what_its_callback_captured() {
    on_own_context(|| {
        let captured = Rc::new(());
        let held = captured.clone();
        let server = server(Kind::Tcp)
            .listen(0, move |_| {
                let _ = &held;
                Ok(())
            })
            .unwrap();
        server.close();
        assert_eq!(Rc::strong_count(&captured), 1);
    });
}

#[test]
fn the_end_of_the_context_frees_what_waits_for_a_connect() {
    let (address, _held) = black_hole();
    for cancellable in [None, Some(gio::Cancellable::new())] {
        let captured = Rc::new(());
        let waits = captured.clone();
        let with = cancellable.is_some();
        on_own_context(|| {
            Socket::builder().tls(false).connect_async(address, cancellable.as_ref(), move |_| drop(waits));
            settle();
        });
        drop(cancellable);
        assert_eq!(Rc::strong_count(&captured), 1, "with a cancellable: {with}");
    }
}

#[test]
fn urgent_data_does_not_hide_what_comes_after_it() {
    on_own_context(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = Socket::from_fd(listener.accept().unwrap().0).unwrap();
        (&peer).write_all(b"one\n").unwrap();
        rustix::net::send(&peer, b"!", SendFlags::OOB).unwrap();
        (&peer).write_all(b"two\n").unwrap();
        let lines = log_lines(&socket);
        until(|| lines.len() == 2);
    });
}

#[test]
fn descriptors_do_not_hide_what_comes_after_them() {
    on_own_context(|| {
        let (ours, peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let socket = Socket::from_fd(ours).unwrap();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
        let fds = [peer.as_fd()];
        assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&fds)));
        rustix::net::sendmsg(&peer, &[IoSlice::new(b"one\n")], &mut control, SendFlags::empty()).unwrap();
        (&peer).write_all(b"two\n").unwrap();
        let lines = log_lines(&socket);
        until(|| lines.len() == 2);
    });
}

#[test]
fn the_last_words_of_a_child_are_heard() {
    on_own_context(|| {
        for early in [true, false] {
            let mut child = Command::new("/bin/sh")
                .args(["-c", "echo one; echo two"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let (output, input) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
            if !early {
                child.wait().unwrap();
            }
            let socket = Socket::wrap(OwnedFd::from(input), OwnedFd::from(output)).unwrap();
            let lines = log_lines(&socket);
            let ends = log_end(&socket);
            child.wait().unwrap();
            until(|| ends.len() == 1);
            assert_eq!(lines.all(), ["one", "two"]);
        }
    });
}

#[test]
fn what_was_closed_still_goes_out_when_the_loop_has_ended() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (ended, told) = std::sync::mpsc::channel();
    let peer = std::thread::spawn(move || {
        let mut peer = listener.accept().unwrap().0;
        told.recv().unwrap();
        std::io::copy(&mut peer, &mut std::io::sink()).unwrap()
    });
    on_own_context(|| {
        Socket::builder().tls(false).connect_async(address, gio::Cancellable::NONE, |socket| {
            socket.unwrap().send(pattern(15 << 20)).unwrap();
            network::endloop();
        });
        network::fgloop();
        ended.send(()).unwrap();
    });
    assert_eq!(peer.join().unwrap(), 15 << 20);
}

#[test]
fn ending_a_loop_twice_ends_one_loop() {
    on_own_context(|| {
        let Joined { client, served, server: _server } = join(Kind::Tcp);
        let depth = Rc::new(Cell::new(0));
        let inner = depth.clone();
        served.readlines(move |socket, line| {
            if line == "nest" {
                inner.set(1);
                socket.sendline("nested")?;
                network::fgloop();
                inner.set(2);
            }
            Ok(())
        });
        client.readlines(|_, _| {
            network::endloop();
            network::endloop();
            Ok(())
        });
        client.sendline("nest").unwrap();
        assert!(network::fgloop_for(Duration::from_millis(300)), "the outer loop was ended too");
        assert_eq!(depth.get(), 2);
    });
}

#[test]
fn many_stalled_peers_hold_up_the_end_of_a_context_no_longer_than_one() {
    let peers = Rc::new(RefCell::new(Vec::new()));
    let started = on_own_context(|| {
        for _ in 0..6 {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
            let socket = Socket::builder().linger(Duration::from_millis(500)).from_fd(ours).unwrap();
            socket.readlines(|_, _| Ok(()));
            socket.send(vec![0; 4 << 20]).unwrap();
            assert!(socket.queued() > 0);
            peers.borrow_mut().push(theirs);
        }
        Instant::now()
    });
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(450), "what was queued gets its time: {took:?}");
    assert!(took < Duration::from_millis(2500), "{took:?}");
}

#[test]
fn many_stalled_clients_hold_up_the_drop_of_a_server_no_longer_than_one() {
    on_own_context(|| {
        let (count, linger) = (20, Duration::from_millis(300));
        let server = Server::builder().tls(false).linger(linger).address("127.0.0.1").listen(0, |_| Ok(())).unwrap();
        let peers: Vec<_> =
            (0..count).map(|_| std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap()).collect();
        until(|| server.connections().len() == count);
        for socket in server.connections() {
            socket.send(vec![0; 8 << 20]).unwrap();
        }
        let started = Instant::now();
        drop(server);
        assert!(started.elapsed() < count as u32 / 2 * linger, "{:?}", started.elapsed());
        drop(peers);
    });
}

/// Runs a test of this program again, in a process of its own where every complaint of GLib is the end.
fn strictly(name: &str, scenario: impl FnOnce()) {
    const ASKED: &str = "NETWORK_TEST_STRICT";
    if std::env::var_os(ASKED).is_some_and(|asked| asked == name) {
        return scenario();
    }
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", name]).env(ASKED, name).env("G_DEBUG", "fatal-criticals");
    let output = again.output().unwrap();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{:?}\n{said}{complained}", output.status);
}

/// Makes a connection on a context of its own, whose last reference is dropped by another thread.
fn lose_context() -> (Socket, std::os::unix::net::UnixStream) {
    let context = glib::MainContext::new();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let socket = context.with_thread_default(|| Socket::from_fd(ours).unwrap()).unwrap();
    std::thread::spawn(move || drop(context)).join().unwrap();
    (socket, theirs)
}

#[test]
fn a_context_may_go_on_another_thread_before_that_of_its_sockets_ends() {
    strictly("regressions::a_context_may_go_on_another_thread_before_that_of_its_sockets_ends", || {
        std::thread::spawn(|| drop(lose_context())).join().unwrap();
        std::thread::spawn(|| std::mem::forget(lose_context().0)).join().unwrap();
    });
}

#[test]
fn a_socket_whose_context_went_on_another_thread_ends_with_the_next_one_made() {
    strictly("regressions::a_socket_whose_context_went_on_another_thread_ends_with_the_next_one_made", || {
        let (orphan, mut peer) = lose_context();
        orphan.sendline("farewell").unwrap();
        let (socket, other) = on_own_context(|| {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
            (Socket::from_fd(ours).unwrap(), theirs)
        });
        assert!(!orphan.is_open());
        let mut said = String::new();
        std::io::Read::read_to_string(&mut peer, &mut said).unwrap();
        assert_eq!(said, "farewell\n");
        drop((socket, other));
    });
}

#[test]
fn word_of_room_is_not_lost_when_data_comes_with_it() {
    on_own_context(|| {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let socket = Socket::try_from(ours).unwrap();
        let told = Log::<String>::new();
        let (data, room) = (told.clone(), told.clone());
        socket.read(move |_, bytes| {
            data.add(String::from_utf8_lossy(bytes));
            Ok(())
        });
        socket.drain_cb(move |_| {
            room.add("room");
            Ok(())
        });
        settle();
        // Fills the queue; it is emptied by a call that waits, so the loop has yet to tell of it.
        socket.send(vec![b'x'; 2 << 20]).unwrap();
        assert!(socket.is_full());
        let peer = std::thread::spawn(move || {
            let mut rest = vec![0; 2 << 20];
            std::io::Read::read_exact(&mut &theirs, &mut rest).unwrap();
            (&theirs).write_all(b"data").unwrap();
            theirs
        });
        socket.flush().unwrap();
        let _theirs = peer.join().unwrap();
        until(|| told.len() == 2);
        assert_eq!(told.all(), ["room", "data"]);
    });
}

#[test]
fn what_a_servers_disconnect_callback_holds_goes_with_the_server_and_its_connections() {
    for server_ends_first in [true, false] {
        on_own_context(|| {
            // As a chat has it that never strikes anybody off its list.
            let members = Rc::new(RefCell::new(Vec::<Socket>::new()));
            let watched = Rc::downgrade(&members);
            let told = Log::<()>::new();
            let (tell, list) = (told.clone(), members.clone());
            let server = server(Kind::Tcp).disconnect_cb(move |_, _| {
                assert!(!list.borrow().is_empty());
                tell.add(());
            });
            let joined = Rc::downgrade(&members);
            let server = server.listen("0", move |socket| {
                joined.upgrade().unwrap().borrow_mut().push(socket);
                Ok(())
            });
            let server = server.unwrap();
            let address = format!("tcp://localhost:{}", server.port());
            let clients = [connect(&address), connect(&address)];
            until(|| members.borrow().len() == 2);
            // One tells of its end by itself.
            members.borrow()[0].disconnect_cb(|_, _| {});
            drop(members);
            if server_ends_first {
                drop(server);
                drop(clients);
            } else {
                drop(clients);
                until(|| told.len() == 1);
                drop(server);
            }
            until(|| watched.strong_count() == 0);
            assert_eq!(told.len(), 1);
        });
    }
}

#[test]
fn to_send_nothing_harms_nothing() {
    // Outside of a turn, where it goes straight to the session of TLS.
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let lines = log_lines(&served);
        client.send("").unwrap();
        client.sendline("something").unwrap();
        client.send("").unwrap();
        until(|| lines.len() == 1);
        assert!(client.is_open() && served.is_open());
    });
}
