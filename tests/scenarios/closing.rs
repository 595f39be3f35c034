//! Nothing is lost at the end of a connection, and nothing waits for ever.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use network::{Error, Server, Socket};

use crate::util::*;

const BIG: usize = 8 << 20;

/// A listener of std, and a thread that takes one client and does with it what it is told.
fn stranger<R: Send + 'static>(
    kind: Kind,
    act: impl FnOnce(Box<dyn ReadWrite>) -> R + Send + 'static,
) -> (String, JoinHandle<R>) {
    match kind {
        Kind::Tcp | Kind::Tls => {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = format!("tcp://{}", listener.local_addr().unwrap());
            (address, std::thread::spawn(move || act(Box::new(listener.accept().unwrap().0))))
        }
        Kind::Unix => {
            let path = fresh_path("stranger");
            let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
            let address = path.to_str().unwrap().to_owned();
            let peer = std::thread::spawn(move || {
                let peer = listener.accept().unwrap().0;
                std::fs::remove_file(path).unwrap();
                act(Box::new(peer))
            });
            (address, peer)
        }
    }
}

trait ReadWrite: Read + Write + Send {}
impl ReadWrite for TcpStream {}
impl ReadWrite for UnixStream {}

/// Reads to the end, in pieces, between which the other side has its turn.
fn read_slowly(mut peer: Box<dyn ReadWrite>) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        std::thread::yield_now();
        match peer.read(&mut buffer).unwrap() {
            0 => return all,
            count => all.extend_from_slice(&buffer[..count]),
        }
    }
}

/// A stranger who reads nothing before it is told to: until then what is sent to it has to wait in a queue.
fn late_reader(kind: Kind) -> (String, Sender<()>, JoinHandle<Vec<u8>>) {
    let (begin, told) = channel();
    let (address, thread) = stranger(kind, move |peer| {
        told.recv().unwrap();
        read_slowly(peer)
    });
    (address, begin, thread)
}

#[test]
fn close_loses_nothing_to_a_slow_reader() {
    for_each_kind(|kind| {
        let (address, begin, thread) = late_reader(kind);
        let socket = connect(&address);
        let sent = pattern(BIG);
        socket.send(&sent).unwrap();
        assert!(socket.queued() > 0, "the kernel takes less than that");
        let _ = socket.close();
        assert!(matches!(socket.send("x"), Err(Error::Closed { .. })));
        begin.send(()).unwrap();
        until(|| thread.is_finished() || thread_step());
        assert!(thread.join().unwrap() == sent);
    });
}

/// The loop may have nothing to do while a thread works: looks again soon.
fn thread_step() -> bool {
    glib::source::timeout_source_new(Duration::from_millis(2), None, glib::Priority::DEFAULT, || {
        glib::ControlFlow::Break
    })
    .attach(Some(&glib::MainContext::ref_thread_default()));
    false
}

#[test]
fn the_last_drop_in_a_running_loop_loses_nothing() {
    for_each_kind(|kind| {
        let (address, begin, thread) = late_reader(kind);
        let sent = pattern(BIG);
        let data = sent.clone();
        Socket::connect_async(address.as_str(), gio::Cancellable::NONE, move |socket| {
            socket.unwrap().send(&data).unwrap();
            begin.send(()).unwrap();
        });
        until(|| thread.is_finished() || thread_step());
        assert!(thread.join().unwrap() == sent);
    });
}

#[test]
fn the_last_drop_without_a_loop_waits_for_the_queue() {
    for_each_kind(|kind| {
        let (address, begin, thread) = late_reader(kind);
        let sent = pattern(BIG);
        let socket = Socket::connect(address.as_str()).unwrap();
        socket.send(&sent).unwrap();
        assert!(socket.queued() > 0);
        begin.send(()).unwrap();
        drop(socket);
        assert!(thread.join().unwrap() == sent);
    });
}

#[test]
fn unread_input_does_not_reset_what_was_sent() {
    // Closing a TCP socket with unread input makes the kernel send a reset and discard what it had accepted.
    for_each_kind(|kind| {
        for in_loop in [true, false] {
            let (begin, told) = channel();
            let (address, thread) = stranger(kind, move |mut peer| {
                peer.write_all(&[7; 100_000]).unwrap();
                let mut first = [0; 1];
                peer.read_exact(&mut first).unwrap();
                told.recv().unwrap();
                // And more of it after the other side has closed.
                peer.write_all(&[7; 1000]).unwrap();
                let mut all = first.to_vec();
                all.extend(read_slowly(peer));
                all
            });
            let sent = pattern(BIG);
            let socket = Socket::connect(address.as_str()).unwrap();
            socket.send(&sent).unwrap();
            if in_loop {
                let _ = socket.close();
                begin.send(()).unwrap();
                until(|| thread.is_finished() || thread_step());
            } else {
                // The drop waits for whoever reads.
                begin.send(()).unwrap();
                drop(socket);
            }
            assert!(thread.join().unwrap() == sent, "in a loop: {in_loop}");
        }
    });
}

#[test]
fn linger_bounds_how_long_a_peer_that_never_reads_is_waited_for() {
    for_each_kind(|kind| {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let (address, thread) = stranger(kind, move |peer| {
            let _ = wait.recv();
            drop(peer);
        });
        let socket = Socket::builder().linger(Duration::from_millis(100)).connect(address.as_str()).unwrap();
        socket.send(pattern(BIG)).unwrap();
        let started = Instant::now();
        drop(socket);
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(100) && took < Duration::from_secs(4), "{took:?}");
        done.send(()).unwrap();
        thread.join().unwrap();
    });
}

#[test]
fn a_panic_does_not_wait_for_the_queue() {
    on_own_context(|| {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let (address, thread) = stranger(Kind::Tcp, move |peer| {
            let _ = wait.recv();
            drop(peer);
        });
        let started = Instant::now();
        let unwound = std::panic::catch_unwind(|| {
            let socket = Socket::connect(address.as_str()).unwrap();
            socket.send(pattern(BIG)).unwrap();
            panic!("with a full queue");
        });
        assert!(unwound.is_err());
        assert!(started.elapsed() < Duration::from_secs(3));
        done.send(()).unwrap();
        thread.join().unwrap();
    });
}

#[test]
fn abort_discards_and_is_immediate() {
    for_each_kind(|kind| {
        let (address, thread) = stranger(kind, |mut peer| {
            let mut all = Vec::new();
            // Ends by a reset or by the end of the stream, as the system likes.
            let _ = peer.read_to_end(&mut all);
            all.len()
        });
        let socket = connect(&address);
        socket.send(pattern(BIG)).unwrap();
        let queued = socket.queued();
        let ends = log_end(&socket);
        let _ = socket.abort();
        until(|| ends.len() == 1);
        assert!(thread.join().unwrap() <= BIG - queued);
    });
}

#[test]
fn shutdown_write_half_closes_after_the_queue() {
    for_each_kind(|kind| {
        let (address, thread) = stranger(kind, |mut peer| {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).unwrap();
            peer.write_all(format!("got {} bytes\n", all.len()).as_bytes()).unwrap();
        });
        let socket = connect(&address);
        let lines = log_lines(&socket);
        let ends = log_end(&socket);
        socket.send(pattern(BIG)).unwrap();
        socket.shutdown_write().unwrap();
        assert!(matches!(socket.send("more"), Err(Error::Closed { .. })));
        until(|| ends.len() == 1);
        assert_eq!(lines.all(), [format!("got {BIG} bytes")]);
        thread.join().unwrap();
    });
}

#[test]
fn flush_waits_until_the_kernel_has_everything() {
    for_each_kind(|kind| {
        let (address, begin, thread) = late_reader(kind);
        let socket = connect(&address);
        socket.send(pattern(BIG)).unwrap();
        assert!(socket.queued() > 0);
        begin.send(()).unwrap();
        socket.flush().unwrap();
        assert_eq!(socket.queued(), 0);
        socket.send(pattern(BIG)).unwrap();
        let log = Log::<String>::new();
        let done = log.clone();
        socket.flush_async(move |result| done.add(format!("{result:?}")));
        until(|| log.len() == 1 || thread_step());
        assert_eq!(log.all(), ["Ok(())"]);
        assert_eq!(socket.queued(), 0);
        socket.send(pattern(BIG)).unwrap();
        let context = glib::MainContext::ref_thread_default();
        context.block_on(socket.flush_future()).unwrap();
        assert_eq!(socket.queued(), 0);
        drop(socket);
        assert_eq!(thread.join().unwrap().len(), 3 * BIG);
    });
}

#[test]
fn flush_fails_when_the_peer_goes() {
    for_each_kind(|kind| {
        let (address, thread) = stranger(kind, drop);
        let socket = connect(&address);
        thread.join().unwrap();
        let log = Log::<String>::new();
        let done = log.clone();
        // The kernel may take the first of it before it knows.
        let sent = (0..3).try_for_each(|_| {
            until(|| {
                thread_step();
                true
            });
            socket.send(pattern(4 << 20))
        });
        socket.flush_async(move |result| done.add(result.is_ok().to_string()));
        until(|| log.len() == 1);
        assert!(sent.is_err() || log.all() == ["false"]);
    });
}

#[test]
fn a_full_queue_refuses_and_keeps_what_it_has() {
    for_each_kind(|kind| {
        let (address, thread) = stranger(kind, |mut peer| {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).unwrap();
            all.len()
        });
        let socket = connect(&address);
        socket.set_send_limit(10_000);
        let error = socket.send(vec![0; 10_001]).unwrap_err();
        assert!(matches!(error, Error::QueueFull { size: 10_001, queued: 0, limit: 10_000, .. }), "{error}");
        let mut accepted = 0;
        while accepted < BIG && socket.send([0; 1000]).is_ok() {
            accepted += 1000;
        }
        drop(socket);
        assert_eq!(thread.join().unwrap(), accepted);
    });
}

#[test]
fn a_reply_that_came_before_sending_failed_is_still_read() {
    on_own_context(|| {
        let (address, thread) = stranger(Kind::Tcp, |mut peer| {
            peer.write_all(b"no thanks\n").unwrap();
        });
        let socket = connect(&address);
        thread.join().unwrap();
        // The peer is gone: at some point sending fails.
        while socket.send([0; 1000]).is_ok() && socket.queued() == 0 {}
        let lines = log_lines(&socket);
        let ends = log_end(&socket);
        until(|| ends.len() == 1);
        assert_eq!(lines.all(), ["no thanks"]);
    });
}

#[test]
fn the_end_of_the_context_disconnects_its_sockets() {
    let (address, thread) = stranger(Kind::Tcp, |mut peer| peer.read_to_end(&mut Vec::new()).unwrap());
    let (socket, server) = on_own_context(|| {
        let socket = Socket::connect(address.as_str()).unwrap();
        socket.readlines(|_, _| Ok(()));
        (socket, Server::builder().tls(false).listen(0, |_| Ok(())).unwrap())
    });
    assert!(!socket.is_open());
    assert!(!server.is_open());
    assert!(matches!(socket.send("x"), Err(Error::Closed { .. })));
    thread.join().unwrap();
}

#[test]
fn with_an_end_callback_the_peers_end_is_not_the_end() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let ends = log_end(&served);
        let lines = log_lines(&served);
        let counted = lines.clone();
        let told = Log::<()>::new();
        let tell = told.clone();
        served.half_close_cb(move |socket| {
            tell.add(());
            socket.sendline(format!("{} lines", counted.len()))
        });
        let answers = log_lines(&client);
        let client_ends = log_end(&client);
        client.send("one\ntwo\n").unwrap();
        client.shutdown_write().unwrap();
        until(|| answers.len() == 1);
        settle();
        assert_eq!((ends.len(), client_ends.len()), (0, 0));
        served.sendline("and more").unwrap();
        until(|| answers.len() == 2);
        assert_eq!(answers.all(), ["2 lines", "and more"]);
        served.shutdown_write().unwrap();
        until(|| ends.len() == 1 && client_ends.len() == 1);
        assert_eq!(ends.all(), [("closed by the peer".into(), vec![])]);
        assert_eq!(told.len(), 1);
    });
}

#[test]
fn a_half_open_connection_ends_when_the_peer_goes_for_good() {
    on_own_context(|| {
        let (server, _) = serve(Kind::Tcp, |_| Ok(()));
        let stranger = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        until(|| !server.connections().is_empty());
        let served = server.connections().remove(0);
        let ends = log_end(&served);
        let told = Log::<()>::new();
        let tell = told.clone();
        served.read(|_, _| Ok(()));
        served.half_close_cb(move |_| {
            tell.add(());
            Ok(())
        });
        stranger.shutdown(std::net::Shutdown::Write).unwrap();
        until(|| told.len() == 1);
        drop(stranger);
        until(|| served.send("anybody there?").is_err() || ends.len() == 1 || thread_step());
        until(|| ends.len() == 1);
    });
}

#[test]
fn flushing_is_done_when_a_closed_connection_has_sent_everything() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let lines = log_lines(&served);
        let log = Log::<String>::new();
        let done = log.clone();
        client.disconnect_cb(move |socket, _| {
            socket.flush_async(move |result| done.add(format!("{result:?}")));
        });
        client.sendline("bye").unwrap();
        let _ = client.close();
        until(|| log.len() == 1 && lines.len() == 1);
        assert_eq!(log.all(), ["Ok(())"]);
    });
}

#[test]
fn what_was_lost_is_no_clean_end_for_the_peer() {
    for_each_kind(|kind| {
        // A unix socket has no way to tell.
        if kind == Kind::Unix {
            return;
        }
        for aborts in [true, false] {
            let (go, wait) = std::sync::mpsc::channel::<()>();
            let (address, thread) = stranger(kind, move |mut peer| {
                wait.recv().unwrap();
                std::io::copy(&mut peer, &mut std::io::sink()).map_err(|error| error.kind())
            });
            let socket = Socket::builder().linger(Duration::from_millis(50)).connect(address.as_str()).unwrap();
            socket.send(pattern(BIG)).unwrap();
            assert!(socket.queued() > 0);
            if aborts {
                let _ = socket.abort();
            }
            drop(socket);
            go.send(()).unwrap();
            assert_eq!(thread.join().unwrap(), Err(std::io::ErrorKind::ConnectionReset));
        }
    });
}

#[test]
fn both_ends_may_close_with_more_to_send_than_the_system_takes() {
    for kind in KINDS {
        on_own_context(|| {
            let Joined { client, served: peer, server: _server } = join(kind);
            let outcomes = Log::<bool>::new();
            for socket in [&client, &peer] {
                socket.send(pattern(8 << 20)).unwrap();
                let told = outcomes.clone();
                socket.flush_async(move |result| told.add(result.is_ok()));
            }
            assert!(client.queued() > 0 && peer.queued() > 0);
            client.close();
            peer.close();
            until(|| outcomes.len() == 2);
            assert_eq!(outcomes.all(), [true, true], "{kind:?}");
        });
    }
}

/// A loop that somebody runs on the thread-default context until something is the case.
type RunLoop = fn(&dyn Fn() -> bool);

const LOOPS: [(&str, RunLoop); 3] = [
    ("ours", |done| until(done)),
    ("GLib's iterations", |done| {
        let context = glib::MainContext::ref_thread_default();
        while !done() {
            context.iteration(true);
        }
    }),
    ("GLib's loop", |done| {
        let context = glib::MainContext::ref_thread_default();
        let main_loop = glib::MainLoop::new(Some(&context), false);
        let quit = main_loop.clone();
        let tick =
            glib::source::timeout_source_new(Duration::from_millis(2), None, glib::Priority::DEFAULT, move || {
                quit.quit();
                glib::ControlFlow::Continue
            });
        tick.attach(Some(&context));
        while !done() {
            main_loop.run();
        }
        tick.destroy();
    }),
];

#[test]
fn the_last_handle_that_a_source_of_the_programs_own_drops_does_not_hold_up_the_loop() {
    for (name, run) in LOOPS {
        for_each_kind(|kind| {
            eprintln!("{name}");
            let got = Rc::new(Cell::new(0));
            let total = got.clone();
            let (_server, address) = serve(kind, move |served| {
                let total = total.clone();
                served.read(move |_, bytes| {
                    total.set(total.get() + bytes.len());
                    Ok(())
                });
                Ok(())
            });
            // The peer is served by the same loop: what waits for it in place waits for all of this time.
            let socket = try_connect(client(kind).linger(Duration::from_secs(1)), &address).unwrap();
            socket.send(pattern(BIG)).unwrap();
            // GLib drops the closure after its call has returned, and is in no dispatch then.
            once(move || assert!(socket.is_open()));
            let begun = Instant::now();
            let all = got.clone();
            run(&move || all.get() == BIG || begun.elapsed() > Duration::from_secs(10));
            assert_eq!(got.get(), BIG, "the rest was discarded: the loop could not bring it to the peer");
        });
    }
}

#[test]
fn after_the_loop_the_last_handle_sends_the_rest_before_it_goes() {
    for (name, run) in LOOPS {
        eprintln!("{name}");
        let (address, begin, thread) = late_reader(Kind::Tcp);
        let sent = pattern(BIG);
        on_own_context(|| {
            let socket = connect(&address);
            socket.send(&sent).unwrap();
            run_once(run);
            begin.send(()).unwrap();
            drop(socket);
        });
        assert!(thread.join().unwrap() == sent);
    }
}

#[test]
fn what_was_left_to_a_loop_that_never_runs_again_is_sent_at_the_end_of_the_thread() {
    let (address, begin, thread) = late_reader(Kind::Tcp);
    let sent = pattern(BIG);
    let all = sent.clone();
    let owner = std::thread::spawn(move || {
        let context = glib::MainContext::new();
        // As the default one, which nothing ends.
        std::mem::forget(context.clone());
        context
            .with_thread_default(|| {
                let socket = connect(&address);
                socket.send(&all).unwrap();
                assert!(socket.queued() > 0, "the kernel takes less than that");
                context.iteration(false);
                // The thread owns the context: for all that can be seen, the loop goes on.
                drop(socket);
                begin.send(()).unwrap();
            })
            .unwrap();
    });
    owner.join().unwrap();
    assert!(thread.join().unwrap() == sent);
}

/// Has the loop call this once, and drop it.
fn once(call: impl Fn() + 'static) {
    // The context is this thread's.
    let call = glib::thread_guard::ThreadGuard::new(call);
    let source = glib::source::idle_source_new(None, glib::Priority::DEFAULT, move || {
        call.get_ref()();
        glib::ControlFlow::Break
    });
    source.attach(Some(&glib::MainContext::ref_thread_default()));
}

/// Runs the loop for one thing to do.
fn run_once(run: RunLoop) {
    let done = Rc::new(Cell::new(false));
    let flag = done.clone();
    once(move || flag.set(true));
    run(&|| done.get());
}
