//! Links: what a program sees of its connection over days, in milliseconds.

mod common;

use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::*;
use network::link::{LinkBuilder, State};
use network::{Error, Link, Server, Socket};

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// The words of a test, in order.
#[derive(Clone, Default)]
struct Notes(Rc<RefCell<Vec<String>>>);

impl Notes {
    fn add(&self, note: impl ToString) {
        self.0.borrow_mut().push(note.to_string());
    }

    fn all(&self) -> Vec<String> {
        self.0.borrow().clone()
    }

    fn count(&self, note: &str) -> usize {
        self.0.borrow().iter().filter(|own| *own == note).count()
    }
}

/// A builder that is quick, and notes what it calls.
fn quick(notes: &Notes) -> LinkBuilder {
    let (down, gave_up) = (notes.clone(), notes.clone());
    Link::builder()
        .delays(ms(1), ms(20))
        .down_cb(move |_, told| down.add(if told.was_up.is_some() { "down" } else { "failed" }))
        .gave_up_cb(move |_, _| gave_up.add("gave up"))
}

fn noting(notes: &Notes) -> impl FnMut(&Socket) -> network::Result + 'static {
    let notes = notes.clone();
    move |_| {
        notes.add("up");
        Ok(())
    }
}

/// Echoes lines; "go" closes.
fn echo(path: &str) -> Server {
    let serve = |socket: Socket| {
        socket.readlines(|socket, line| {
            if line == "go" {
                socket.close();
                return Ok(());
            }
            socket.sendline(line)
        });
        Ok(())
    };
    Server::builder().replace_stale(true).listen(path, serve).unwrap()
}

/// Stops listening, and ends the connections.
fn kill(server: Server) {
    server.close();
    for socket in server.connections() {
        socket.abort();
    }
}

#[test]
fn it_connects_again_after_each_end() {
    on_own_context(|| {
        let (directory, notes) = (TempDir::new(), Notes::default());
        let path = directory.address("s");
        let server = echo(&path);
        let link = quick(&notes).start(&*path, noting(&notes)).unwrap();
        assert_eq!(link.state(), State::Connecting);
        assert!(link.socket().is_none());
        for round in 1..5 {
            until(|| notes.count("up") == round);
            until(|| link.state() == State::Up);
            assert!(link.socket().unwrap().is_open());
            link.sendline("go").unwrap();
            until(|| notes.count("down") == round);
        }
        kill(server);
        link.close();
        let wanted = ["up", "down"].into_iter().cycle();
        assert!(notes.all().iter().zip(wanted).all(|(note, wanted)| note == wanted), "{:?}", notes.all());
    });
}

#[test]
fn each_try_is_told_once_with_its_number_and_the_next_wait() {
    on_own_context(|| {
        let (directory, falls) = (TempDir::new(), Rc::new(RefCell::new(Vec::new())));
        let path = directory.address("s");
        let told = falls.clone();
        let link = Link::builder()
            .delays(ms(4), ms(8))
            .down_cb(move |link, down| {
                assert!(matches!(down.reason, Error::Refused { .. }), "{down}");
                assert!(matches!(link.state(), State::Waiting { .. }));
                assert!(down.next.unwrap() <= ms(8) && down.was_up.is_none() && down.unsent == 0);
                told.borrow_mut().push(down.attempt);
            })
            .start(&*path, |_| Ok(()))
            .unwrap();
        until(|| falls.borrow().len() == 5);
        assert_eq!(*falls.borrow(), [1, 2, 3, 4, 5]);
        let _server = echo(&path);
        until(|| link.state() == State::Up);
        assert_eq!(await_it(link.up_future()).unwrap(), link.socket().unwrap());
    });
}

#[test]
fn an_error_of_up_closes_the_connection_and_counts_as_a_failure() {
    on_own_context(|| {
        let (directory, notes) = (TempDir::new(), Notes::default());
        let path = directory.address("s");
        let server = echo(&path);
        let (reasons, own, tries) = (notes.clone(), notes.clone(), Cell::new(0));
        let link = Link::builder()
            .delays(ms(1), ms(2))
            .attempts(3)
            .down_cb(move |_, down| reasons.add(format!("{} {:?} {}", down.attempt, down.was_up, down.reason)))
            .start(&*path, move |socket| {
                tries.set(tries.get() + 1);
                if tries.get() == 2 {
                    let own = own.clone();
                    socket.disconnect_cb(move |_, end| own.add(format!("own {}", end.reason)));
                }
                socket.sendline("hello")?;
                Err(Error::other("login refused"))
            })
            .unwrap();
        let error = await_it(link.up_future()).unwrap_err();
        assert_eq!(error.to_string(), "login refused");
        let words = ["1 None login refused", "own login refused", "2 None login refused", "3 None login refused"];
        assert_eq!(notes.all(), words);
        assert_eq!(link.state(), State::Over);
        until(|| server.connections().is_empty());
    });
}

#[test]
fn limits_end_it_with_the_last_reason() {
    on_own_context(|| {
        let (directory, notes) = (TempDir::new(), Notes::default());
        let path = directory.address("s");
        let link = quick(&notes).attempts(3).start(&*path, noting(&notes)).unwrap();
        until(|| link.state() == State::Over && notes.count("gave up") == 1);
        assert_eq!(notes.all(), ["failed", "failed", "failed", "gave up"]);
        let error = await_it(link.up_future()).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        assert!(matches!(link.send("x"), Err(Error::Closed { .. })));
        link.retry_now();
        link.close();
        assert!(matches!(await_it(link.up_future()), Err(Error::Closed { .. })));

        let notes = Notes::default();
        let started = Instant::now();
        let link = quick(&notes).give_up_after(ms(80)).start(&*path, noting(&notes)).unwrap();
        until(|| notes.count("gave up") == 1);
        assert!(started.elapsed() >= ms(80));
        assert!(notes.count("failed") >= 3 && notes.count("up") == 0);
        assert!(matches!(link.reconnect(), Err(Error::Refused { .. })));
    });
}

#[test]
fn another_certificate_is_no_reason_to_try_again() {
    on_own_context(|| {
        let (directory, notes) = (tempfile::tempdir().unwrap(), Notes::default());
        let serve = |name: &str, port: u16| {
            let tls = network::ServerTls::named(name).directory(directory.path());
            Server::builder().tls(tls).address("127.0.0.1").listen(port, |_| Ok(())).unwrap()
        };
        let server = serve("one", 0);
        let port = server.port();
        let tls = network::ClientTls::pinned(server.fingerprint().unwrap());
        let (told, changed) = (notes.clone(), Rc::new(Cell::new(false)));
        let is_changed = changed.clone();
        let link = Link::builder()
            .delays(ms(1), ms(20))
            .socket(Socket::builder().tls(tls.directory(directory.path())))
            .down_cb(move |_, down| told.add(if down.next.is_some() { "down" } else { "last" }))
            .gave_up_cb(move |_, error| is_changed.set(matches!(error, Error::CertificateChanged { .. })))
            .start(("localhost", port), noting(&notes))
            .unwrap();
        until(|| link.state() == State::Up);
        kill(server);
        let _server = serve("two", port);
        until(|| changed.get());
        assert_eq!(link.state(), State::Over);
        let all = notes.all();
        assert_eq!(all.iter().filter(|note| *note == "last").count(), 1, "{all:?}");
        assert_eq!(all[0], "up");
    });
}

#[test]
fn a_closed_link_calls_nothing_and_what_was_sent_arrives() {
    on_own_context(|| {
        for (drops, in_loop) in [(false, false), (false, true), (true, false), (true, true)] {
            let (directory, notes) = (TempDir::new(), Notes::default());
            let path = directory.address("s");
            let listener = UnixListener::bind(&path).unwrap();
            let link = quick(&notes).start(&*path, noting(&notes)).unwrap();
            until(|| link.state() == State::Up);
            let mut stream = listener.accept().unwrap().0;
            link.socket().unwrap().readlines(|_, _| Ok(()));
            let much = noise(4 << 20, 1);
            link.send(&much).unwrap();
            let end = move || {
                if drops {
                    return drop(link);
                }
                link.close();
                assert_eq!(link.state(), State::Over);
                assert!(link.socket().is_none());
                link.close();
            };
            let reader = std::thread::spawn(move || {
                let mut received = Vec::new();
                stream.read_to_end(&mut received).unwrap();
                received
            });
            if in_loop {
                let _detached = network::spawn(async move {
                    end();
                    Ok(())
                });
            } else {
                end();
            }
            let received = beside(move || reader.join().unwrap());
            assert!(received == much, "{} of {}", received.len(), much.len());
            network::fgloop_for(ms(30));
            assert_eq!(notes.all(), ["up"]);
        }
    });
}

#[test]
fn a_socket_that_somebody_else_has_is_told_of_the_end_of_its_link() {
    on_own_context(|| {
        let (directory, notes) = (TempDir::new(), Notes::default());
        let path = directory.address("s");
        let _server = echo(&path);
        let link = quick(&notes).start(&*path, noting(&notes)).unwrap();
        until(|| link.state() == State::Up);
        let (socket, own) = (link.socket().unwrap(), notes.clone());
        socket.disconnect_cb(move |_, end| own.add(end.reason));
        drop(link);
        until(|| notes.count("closed here") == 1);
        assert!(!socket.is_open());
    });
}

#[test]
fn it_is_kept_without_a_handle_if_it_is_detached() {
    on_own_context(|| {
        let (directory, notes) = (TempDir::new(), Notes::default());
        let path = directory.address("s");
        let server = echo(&path);
        let link = quick(&notes).start(&*path, noting(&notes)).unwrap();
        link.detach();
        let weak = link.downgrade();
        drop(link);
        until(|| notes.count("up") == 1);
        kill(server);
        let _server = echo(&path);
        until(|| notes.count("up") == 2);
        weak.upgrade().unwrap().close();
        assert!(weak.upgrade().is_none());
        // And one that gives up is let go.
        let path = directory.address("nobody");
        let link = quick(&notes).attempts(1).start(&*path, noting(&notes)).unwrap();
        link.detach();
        let weak = link.downgrade();
        drop(link);
        until(|| weak.upgrade().is_none());
        assert_eq!(notes.count("gave up"), 1);
    });
}

#[test]
fn it_ends_with_its_main_context() {
    let (directory, notes) = (TempDir::new(), Notes::default());
    let path = directory.address("s");
    let context = glib::MainContext::new();
    let links = context.with_thread_default(|| {
        let _server = echo(&path);
        let up = quick(&notes).start(&*path, noting(&notes)).unwrap();
        let waiting = quick(&notes).start(&*directory.address("nobody"), noting(&notes)).unwrap();
        let detached = quick(&notes).start(&*path, noting(&notes)).unwrap();
        detached.detach();
        until(|| up.state() == State::Up && detached.state() == State::Up && notes.count("failed") > 0);
        (up, waiting, detached.downgrade())
    });
    let (up, waiting, detached) = links.unwrap();
    let before = notes.all();
    drop(context);
    assert_eq!((up.state(), waiting.state()), (State::Over, State::Over));
    assert!(detached.upgrade().is_none());
    assert!(matches!(up.send("x"), Err(Error::Closed { .. })));
    up.close();
    waiting.retry_now();
    drop((up, waiting));
    assert_eq!(notes.all(), before);
}

#[test]
fn futures_wait_for_a_connection_or_for_the_end_of_all_tries() {
    on_own_context(|| {
        let (directory, notes) = (TempDir::new(), Notes::default());
        let path = directory.address("s");
        let waits_for = |link: &Link| network::block_on(link.up_future()).unwrap();
        let link = quick(&notes).attempts(2).start(&*path, noting(&notes)).unwrap();
        assert!(matches!(waits_for(&link), Err(Error::Refused { .. })));
        assert_eq!(notes.all(), ["failed", "failed", "gave up"], "the program hears of it first");
        // By a close, and by the last handle.
        for drops in [false, true] {
            let link = quick(&notes).start(&*path, noting(&notes)).unwrap();
            let future = link.up_future();
            let closes = network::spawn(async move {
                if !drops {
                    link.close();
                }
                drop(link);
                Ok(())
            });
            assert!(matches!(network::block_on(future).unwrap(), Err(Error::Closed { .. })));
            drop(closes);
        }
        // Many that are given up leave nothing behind, and the last one gets what it waits for.
        let link = quick(&notes).start(&*path, noting(&notes)).unwrap();
        for _ in 0..100 {
            let waited = network::block_on(network::timeout(Duration::ZERO, link.up_future())).unwrap();
            assert!(matches!(waited, Err(Error::TimedOut { .. })));
        }
        let _server = echo(&path);
        assert_eq!(waits_for(&link).unwrap(), link.socket().unwrap());
        assert_eq!(waits_for(&link).unwrap(), link.socket().unwrap());
    });
}

// ---- sending ----

#[test]
fn without_a_queue_nothing_is_kept() {
    on_own_context(|| {
        let directory = TempDir::new();
        let path = directory.address("s");
        let link = Link::builder().delays(Duration::from_secs(60), Duration::from_secs(60)).start(&*path, |_| Ok(()));
        let link = link.unwrap();
        assert_eq!(link.sendline("x").unwrap_err().to_string(), format!("not connected to {path}"));
        until(|| matches!(link.state(), State::Waiting { .. }));
        let State::Waiting { until: next } = link.state() else { panic!() };
        let error = link.sendline("x").unwrap_err();
        let seconds = next.saturating_duration_since(Instant::now()).as_secs_f64().ceil();
        assert_eq!(error.to_string(), format!("not connected to {path} (next try in {seconds} s)"));
        assert!(matches!(error, Error::Down { next: Some(_), .. }));
        // A try at once.
        let _server = echo(&path);
        link.retry_now();
        until(|| link.state() == State::Up);
        link.sendline("x").unwrap();
    });
}

#[test]
fn what_is_sent_while_away_goes_out_in_order_after_the_login() {
    on_own_context(|| {
        let (directory, lines) = (TempDir::new(), Notes::default());
        let path = directory.address("s");
        let up = |socket: &Socket| socket.sendline("login");
        let link = Link::builder().delays(ms(1), ms(5)).queue(1000).start(&*path, up).unwrap();
        for number in 0..100 {
            link.sendline(format!("line {number}")).unwrap();
        }
        // 10 of 7 bytes, 90 of 8.
        let error = link.send([0; 211]).unwrap_err();
        assert!(matches!(error, Error::QueueFull { size: 211, queued: 790, limit: 1000, .. }), "{error}");
        let own = lines.clone();
        let serve = move |socket: Socket| {
            let lines = own.clone();
            socket.readlines(move |_, line| {
                lines.add(line);
                Ok(())
            });
            Ok(())
        };
        let _server = Server::new(&*path, serve).unwrap();
        until(|| link.state() == State::Up);
        link.sendline("and now").unwrap();
        until(|| lines.count("and now") == 1);
        let wanted = (0..100).map(|number| format!("line {number}"));
        let wanted: Vec<String> = ["login".to_string()].into_iter().chain(wanted).chain(["and now".into()]).collect();
        assert_eq!(lines.all(), wanted);
    });
}

#[test]
fn a_queue_that_is_longer_than_the_send_limit_goes_out_bit_by_bit() {
    on_own_context(|| {
        let directory = TempDir::new();
        let path = directory.address("s");
        let builder = Socket::builder().send_limit(1000);
        let link =
            Link::builder().delays(ms(1), ms(5)).socket(builder).queue(1 << 20).start(&*path, |_| Ok(())).unwrap();
        let mut all = Vec::new();
        for round in 0..800 {
            let piece = noise(1000, round);
            link.send(&piece).unwrap();
            all.extend(piece);
        }
        let listener = UnixListener::bind(&path).unwrap();
        until(|| link.state() == State::Up);
        link.send("end").unwrap();
        all.extend(b"end");
        let size = all.len();
        let received = beside(move || {
            let mut received = vec![0; size];
            listener.accept().unwrap().0.read_exact(&mut received).unwrap();
            received
        });
        assert!(received == all);
    });
}

#[test]
fn it_is_known_to_the_byte_what_did_not_reach_the_system() {
    on_own_context(|| {
        let ends: [fn(&Link, &mut UnixStream); 3] = [
            |link, _| drop(link.socket().unwrap().abort()),
            // Unread data makes it a reset.
            |_, stream| drop(std::mem::replace(stream, UnixStream::pair().unwrap().0)),
            |_, stream| stream.shutdown(std::net::Shutdown::Write).unwrap(),
        ];
        for (index, end) in ends.into_iter().enumerate() {
            let (directory, unsent) = (TempDir::new(), Rc::new(Cell::new(None)));
            let path = directory.address("s");
            let listener = UnixListener::bind(&path).unwrap();
            let told = unsent.clone();
            let link = Link::builder()
                .delays(Duration::from_secs(60), Duration::from_secs(60))
                .down_cb(move |_, down| told.set(Some(down.unsent)))
                .start(&*path, |socket| {
                    socket.read(|_, _| Ok(()));
                    Ok(())
                })
                .unwrap();
            until(|| link.state() == State::Up);
            let mut stream = listener.accept().unwrap().0;
            let much = noise(1 << 20, 7);
            link.send(&much[..100]).unwrap();
            let mut first = [0; 100];
            stream.read_exact(&mut first).unwrap();
            link.send(&much[100..]).unwrap();
            let queued = link.socket().unwrap().queued();
            assert!(queued > 0 && queued < much.len());
            end(&link, &mut stream);
            until(|| unsent.get().is_some());
            assert_eq!(unsent.get(), Some(queued));
            if index != 1 {
                // The peer that counts.
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest);
                assert_eq!(100 + rest.len() + queued, much.len());
                assert!(rest == much[100..much.len() - queued]);
            }
        }
    });
}

#[test]
fn what_was_received_and_not_delivered_is_told() {
    on_own_context(|| {
        for has_own in [false, true] {
            let (directory, notes) = (TempDir::new(), Notes::default());
            let path = directory.address("s");
            let listener = UnixListener::bind(&path).unwrap();
            let (told, own) = (notes.clone(), notes.clone());
            let link = Link::builder()
                .delays(Duration::from_secs(60), Duration::from_secs(60))
                .down_cb(move |_, down| {
                    told.add(format!("{} {}", String::from_utf8_lossy(&down.leftover), down.was_up.is_some()));
                })
                .start(&*path, move |socket| {
                    socket.readlines(|_, _| Ok(()));
                    let own = own.clone();
                    if has_own {
                        socket.disconnect_cb(move |_, end| own.add(String::from_utf8_lossy(&end.leftover)));
                    }
                    Ok(())
                })
                .unwrap();
            until(|| link.state() == State::Up);
            listener.accept().unwrap().0.write_all(b"whole\nhalf").unwrap();
            until(|| notes.count("half true") == 1);
            assert_eq!(notes.all().len(), 1 + usize::from(has_own), "its own callback first");
        }
    });
}

#[test]
fn a_connection_that_the_program_closes_or_takes_away_is_replaced() {
    on_own_context(|| {
        let (directory, notes) = (TempDir::new(), Notes::default());
        let path = directory.address("s");
        let server = echo(&path);
        let reasons = notes.clone();
        let link = Link::builder()
            .delays(ms(1), ms(5))
            .down_cb(move |_, down| reasons.add(format!("{:?}", down.reason).split(':').next().unwrap()))
            .start(&*path, noting(&notes))
            .unwrap();
        let ends: [fn(Socket); 4] = [
            |socket| drop(socket.close()),
            |socket| drop(socket.abort()),
            |socket| drop(socket.into_fd().unwrap()),
            |socket| {
                let _ = socket.shutdown_write();
            },
        ];
        for (index, end) in ends.into_iter().enumerate() {
            until(|| link.state() == State::Up);
            end(link.socket().unwrap());
            until(|| notes.count("Closed") == index + 1);
        }
        until(|| link.state() == State::Up);
        assert_eq!(notes.count("up"), 5);
        drop(server);
    });
}

#[test]
fn a_socket_s_own_callback_may_close_or_drop_the_link() {
    on_own_context(|| {
        for drops in [false, true] {
            let (directory, notes) = (TempDir::new(), Notes::default());
            let path = directory.address("s");
            let _server = echo(&path);
            let place = Rc::new(RefCell::new(None));
            place.replace(Some(quick(&notes).start(&*path, noting(&notes)).unwrap()));
            until(|| notes.count("up") == 1);
            let (own, link) = (notes.clone(), place.clone());
            let socket = place.borrow().as_ref().unwrap().socket().unwrap();
            socket.disconnect_cb(move |_, _| {
                own.add("own");
                let link: Link = link.take().unwrap();
                if drops { drop(link) } else { link.close() }
            });
            socket.sendline("go").unwrap();
            drop(socket);
            until(|| notes.count("own") == 1);
            network::fgloop_for(ms(20));
            assert_eq!(notes.all(), ["up", "own"]);
        }
    });
}

// ---- settings ----

#[test]
fn settings_that_cannot_be_are_refused_at_the_start() {
    on_own_context(|| {
        let second = Duration::from_secs(1);
        let link = Link::builder;
        for (builder, word) in [
            (link().delays(Duration::ZERO, second), "longer than zero"),
            (link().delays(second, Duration::ZERO), "longer than zero"),
            (link().delays(2 * second, second), "the first delay of a link, 2 s, is longer than the longest, 1 s"),
            (link().heartbeat(Duration::ZERO, |_| Ok(())), "heartbeat"),
            (link().give_up_after(Duration::ZERO), "give up"),
            (link().attempts(0), "attempt"),
        ] {
            let error = builder.start("localhost:1", |_| Ok(())).unwrap_err();
            assert!(matches!(error, Error::InvalidOption(_)) && error.to_string().contains(word), "{error}");
        }
        assert!(matches!(Link::new("nosuchservice", |_| Ok(())), Err(Error::Address { .. })));
        assert!(matches!(Link::new("localhost:0", |_| Ok(())), Err(Error::Address { .. })));
        let secure = link().socket(Socket::builder().tls(true)).start("./x", |_| Ok(()));
        assert!(matches!(secure, Err(Error::Unsupported(_))));
    });
}

#[test]
fn its_connections_notice_a_dead_peer_unless_the_program_has_other_wishes() {
    on_own_context(|| {
        let server = Server::builder().tls(false).address("127.0.0.1").listen(0, |_| Ok(())).unwrap();
        let address = format!("tcp://127.0.0.1:{}", server.port());
        let connect = |builder| {
            let link = Link::builder().socket(builder).start(&*address, |_| Ok(())).unwrap();
            until(|| link.state() == State::Up);
            let socket = link.socket().unwrap();
            (socket.keep_alive().unwrap(), socket.user_timeout().unwrap())
        };
        let second = Duration::from_secs(1);
        let (keep_alive, user_timeout) = connect(Socket::builder());
        let keep_alive = keep_alive.unwrap();
        assert_eq!((keep_alive.idle, keep_alive.interval, keep_alive.count), (30 * second, 10 * second, 3));
        assert_eq!(user_timeout, Some(60 * second));
        let (keep_alive, user_timeout) = connect(Socket::builder().keep_alive(None).user_timeout(5 * second));
        assert_eq!((keep_alive, user_timeout), (None, Some(5 * second)));
    });
}

#[test]
fn a_heartbeat_beats_and_its_error_ends_the_connection() {
    on_own_context(|| {
        let (directory, notes) = (TempDir::new(), Notes::default());
        let path = directory.address("s");
        let _server = echo(&path);
        let (beats, reasons) = (Cell::new(0), notes.clone());
        let link = Link::builder()
            .delays(ms(1), ms(5))
            .heartbeat(ms(5), move |socket| {
                beats.set(beats.get() + 1);
                if beats.get() == 3 { Err(Error::other("no heart")) } else { socket.sendline("PING") }
            })
            .down_cb(move |_, down| reasons.add(&down.reason))
            .start(&*path, {
                let notes = notes.clone();
                move |socket| {
                    let notes = notes.clone();
                    socket.readlines(move |_, line| {
                        notes.add(line);
                        Ok(())
                    });
                    Ok(())
                }
            })
            .unwrap();
        until(|| notes.all().len() >= 5);
        assert_eq!(notes.all()[..5], ["PING", "PING", "no heart", "PING", "PING"]);
        link.close();
    });
}

#[test]
fn a_peer_that_answers_no_heartbeat_is_given_up_after_ten_seconds_more() {
    on_own_context(|| {
        let directory = TempDir::new();
        let path = directory.address("s");
        // It takes everything, and says nothing.
        let server = Server::new(&*path, |socket| {
            socket.read(|_, _| Ok(()));
            Ok(())
        });
        let reason = Rc::new(RefCell::new(None));
        let told = reason.clone();
        let link = Link::builder()
            .heartbeat(ms(300), |socket| socket.sendline("PING"))
            .down_cb(move |_, down| drop(told.replace(Some((down.reason.to_string(), down.was_up)))))
            .start(&*path, |_| Ok(()))
            .unwrap();
        until(|| reason.borrow().is_some());
        let (reason, was_up) = reason.take().unwrap();
        assert!(reason.starts_with("timed out after 10.3 s while waiting to receive anything"), "{reason}");
        // It is up a moment after its silence began.
        assert!(was_up.unwrap() >= ms(10_200) && was_up.unwrap() < ms(13_000), "{was_up:?}");
        drop((link, server));
    });
}

// ---- in every callback ----

#[test]
fn it_may_be_closed_or_dropped_in_every_callback() {
    on_own_context(|| {
        for place in ["up", "down", "gave up", "beat", "read"] {
            for drops in [false, true] {
                let (directory, notes) = (TempDir::new(), Notes::default());
                let path = directory.address("s");
                let server = (place != "gave up").then(|| echo(&path));
                let link: Rc<RefCell<Option<Link>>> = Rc::default();
                let weak = Rc::downgrade(&link);
                let end = move |here: &str, notes: &Notes| {
                    notes.add(here);
                    if here == place {
                        let link = weak.upgrade().unwrap().take();
                        if drops {
                            drop(link)
                        } else {
                            link.unwrap().close()
                        }
                        notes.add("over");
                    }
                };
                let end = Rc::new(end);
                let (down, gave_up, beat) =
                    ((end.clone(), notes.clone()), (end.clone(), notes.clone()), (end.clone(), notes.clone()));
                let (up, own) = (end.clone(), notes.clone());
                let builder = Link::builder()
                    .delays(ms(1), ms(2))
                    .attempts(2)
                    .heartbeat(ms(1), move |socket| {
                        (beat.0)("beat", &beat.1);
                        socket.sendline("go")
                    })
                    .down_cb(move |_, _| (down.0)("down", &down.1))
                    .gave_up_cb(move |_, _| (gave_up.0)("gave up", &gave_up.1));
                let started = builder.start(&*path, move |socket| {
                    up("up", &own);
                    let (read, own) = (up.clone(), own.clone());
                    socket.readlines(move |_, _| {
                        read("read", &own);
                        Ok(())
                    });
                    socket.sendline("hello")
                });
                link.replace(Some(started.unwrap()));
                until(|| notes.count("over") == 1);
                network::fgloop_for(ms(20));
                assert_eq!(notes.all().last().unwrap(), "over", "{place}: {:?}", notes.all());
                drop(server);
            }
        }
    });
}

#[test]
fn a_callback_may_start_another_link() {
    on_own_context(|| {
        let (directory, notes) = (TempDir::new(), Notes::default());
        let path = directory.address("s");
        let _server = echo(&path);
        let (second, own, address) = (Rc::new(RefCell::new(None)), notes.clone(), path.clone());
        let place = second.clone();
        let first = Link::new(&*path, move |_| {
            let started = quick(&own).start(&*address, noting(&own))?;
            place.replace(Some(started));
            Ok(())
        });
        until(|| notes.count("up") == 1);
        drop(first);
        second.borrow().as_ref().unwrap().sendline("go").unwrap();
        until(|| notes.count("up") == 2);
    });
}

#[test]
fn nested_loops_keep_the_order() {
    on_own_context(|| {
        let (directory, notes) = (TempDir::new(), Notes::default());
        let path = directory.address("s");
        let _server = echo(&path);
        let (down, up) = (notes.clone(), notes.clone());
        let link = Link::builder()
            .delays(ms(1), ms(2))
            .down_cb(move |_, _| {
                down.add("down {");
                network::fgloop_for(ms(20));
                down.add("}");
            })
            .start(&*path, move |socket| {
                up.add("up {");
                socket.sendline("go")?;
                network::fgloop_for(ms(5));
                up.add("}");
                Ok(())
            })
            .unwrap();
        until(|| notes.count("down {") >= 6);
        link.close();
        let (mut depth, mut was_up) = (0, false);
        for note in notes.all() {
            match note.as_str() {
                "up {" => {
                    assert!(!was_up, "{:?}", notes.all());
                    (was_up, depth) = (true, depth + 1);
                }
                "down {" => {
                    assert!(was_up, "{:?}", notes.all());
                    (was_up, depth) = (false, depth + 1);
                }
                _ => depth -= 1,
            }
            assert!(depth <= 2, "each has returned before it is called again: {:?}", notes.all());
        }
    });
}

#[test]
fn a_panic_ends_one_connection_and_not_the_link() {
    on_own_context(|| {
        for place in ["up", "down", "beat", "read"] {
            let (directory, notes) = (TempDir::new(), Notes::default());
            let path = directory.address("s");
            let _server = echo(&path);
            let once = Rc::new(Cell::new(true));
            let bang = Rc::new(move |here: &str| assert!(here != place || !once.replace(false), "as it is told"));
            let (down, beat, up) = ((bang.clone(), notes.clone()), bang.clone(), (bang, notes.clone()));
            let link = Link::builder()
                .delays(ms(1), ms(2))
                .heartbeat(ms(3), move |socket| {
                    beat("beat");
                    socket.sendline("go")
                })
                .down_cb(move |_, told| {
                    down.1.add(if told.was_up.is_some() { "down" } else { "failed" });
                    (down.0)("down");
                })
                .start(&*path, move |socket| {
                    up.1.add("up");
                    let read = up.0.clone();
                    socket.readlines(move |_, _| {
                        read("read");
                        Ok(())
                    });
                    (up.0)("up");
                    socket.sendline("hello")
                })
                .unwrap();
            let panicked = catch_unwind(AssertUnwindSafe(|| network::fgloop_for(LIMIT)));
            assert_eq!(*panicked.unwrap_err().downcast::<&str>().unwrap(), "as it is told");
            until(|| notes.count("up") >= 4);
            let all = notes.all();
            for pair in all.chunks_exact(2) {
                assert!(pair[0] == "up" && pair[1] != "up", "{place}: {all:?}");
            }
            link.close();
        }
    });
}

// ---- with blocking calls ----

#[test]
fn a_script_connects_again_when_a_blocking_call_fails() {
    on_own_context(|| {
        let directory = TempDir::new();
        let path = directory.address("s");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            for round in 0..3 {
                let mut stream = BufReader::new(listener.accept().unwrap().0);
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                assert_eq!(line, "SUBSCRIBE\n");
                writeln!(stream.get_mut(), "round {round}").unwrap();
            }
        });
        let up = |socket: &Socket| socket.sendline("SUBSCRIBE");
        let link = Link::builder().delays(ms(1), ms(5)).attempts(10).start(&*path, up).unwrap();
        for round in 0..3 {
            let socket = link.reconnect().unwrap();
            assert_eq!(link.reconnect().unwrap(), socket, "the same as long as it lives");
            assert_eq!(socket.recv_line().unwrap(), format!("round {round}"));
            assert!(socket.recv_line().is_err());
        }
        server.join().unwrap();
        assert!(link.reconnect().is_err());
    });
}

// ---- many ----

#[test]
fn two_hundred_links_come_back_within_seconds() {
    on_own_context(|| {
        let (tell_ports, ports) = std::sync::mpsc::channel();
        let (restart, restarts) = std::sync::mpsc::channel::<()>();
        // The server has a thread of its own, as it would have a process.
        let server = std::thread::spawn(move || {
            on_own_context(|| {
                let serve =
                    |port: u16| Server::builder().tls(false).address("127.0.0.1").listen(port, |_| Ok(())).unwrap();
                let server = serve(0);
                tell_ports.send(server.port()).unwrap();
                let port = server.port();
                let again = |server| {
                    while restarts.try_recv().is_err() {
                        network::fgloop_for(ms(5));
                    }
                    kill(server);
                };
                again(server);
                again(serve(port));
            });
        });
        let address = format!("tcp://127.0.0.1:{}", ports.recv().unwrap());
        let links: Vec<Link> = (0..200).map(|_| Link::new(&*address, |_| Ok(())).unwrap()).collect();
        let all_up = || links.iter().all(|link| link.state() == State::Up);
        until(all_up);
        let started = Instant::now();
        restart.send(()).unwrap();
        until(|| links.iter().any(|link| link.state() != State::Up));
        until(all_up);
        let took = started.elapsed();
        println!("all back after {took:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
        drop(links);
        restart.send(()).unwrap();
        server.join().unwrap();
    });
}

#[test]
fn a_signal_that_ends_the_loop_closes_it() {
    const INSIDE: &str = "NETWORK_TEST_SIGNAL";
    if let Ok(path) = std::env::var(INSIDE) {
        let notes = Notes::default();
        let link = quick(&notes).start(&*path, |socket| {
            socket.send(noise(1 << 20, 3))?;
            kill_process(rustix::process::getpid());
            Ok(())
        });
        let link = link.unwrap();
        network::fgloop();
        assert_eq!(link.state(), State::Over);
        network::fgloop_for(ms(20));
        assert!(notes.all().is_empty());
        return;
    }
    let directory = TempDir::new();
    let path = directory.address("s");
    let listener = UnixListener::bind(&path).unwrap();
    let name = "a_signal_that_ends_the_loop_closes_it";
    let mut inside = command(std::env::current_exe().unwrap(), [name, "--exact", "--nocapture"]);
    let process = Process::start(inside.env(INSIDE, &path), Watch::Stdout);
    let mut received = Vec::new();
    listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
    assert!(received == noise(1 << 20, 3), "what was sent goes out: {}", received.len());
    assert!(process.finish().status.success());
}

fn kill_process(pid: rustix::process::Pid) {
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
}
