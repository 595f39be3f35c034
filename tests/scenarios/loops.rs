//! Running, nesting and ending the loop.

use std::cell::Cell;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gio::prelude::{CancellableExt, SocketExtManual};

use crate::incoming::draw;
use crate::util::*;

#[test]
fn fgloop_for_says_whether_the_time_was_up() {
    on_own_context(|| {
        let started = Instant::now();
        assert!(network::fgloop_for(Duration::from_millis(20)));
        assert!(started.elapsed() >= Duration::from_millis(20));

        let Joined { client, served, server: _server } = join(Kind::Tcp);
        served.readlines(|_, _| {
            network::endloop();
            Ok(())
        });
        client.sendline("stop").unwrap();
        assert!(!network::fgloop_for(Duration::from_secs(20)));
    });
}

#[test]
fn a_limit_longer_than_time_is_none() {
    on_own_context(|| {
        let Joined { client, served, server: _server } = join(Kind::Tcp);
        client.set_idle_timeout(Duration::MAX);
        served.set_idle_timeout(Duration::from_micros(i64::MAX as u64));
        served.readlines(|_, _| {
            network::endloop();
            Ok(())
        });
        client.sendline("stop").unwrap();
        assert!(!network::fgloop_for(Duration::MAX), "it ended by itself");
        assert!(client.is_open() && served.is_open());
    });
}

#[test]
fn endloop_ends_the_innermost_loop() {
    on_own_context(|| {
        let Joined { client, served, server: _server } = join(Kind::Tcp);
        let depth = Rc::new(Cell::new(0));
        let log = Log::<String>::new();
        let (inner, outer) = (depth.clone(), log.clone());
        client.readlines(move |_, line| {
            outer.add(line);
            network::endloop();
            Ok(())
        });
        served.readlines(move |socket, _| {
            inner.set(inner.get() + 1);
            socket.sendline("end the inner one")?;
            network::fgloop();
            inner.set(inner.get() - 1);
            socket.sendline("end the outer one")
        });
        client.sendline("go").unwrap();
        network::fgloop();
        assert_eq!(depth.get(), 0);
        assert_eq!(log.all(), ["end the inner one", "end the outer one"]);
        network::endloop();
    });
}

#[test]
fn iteration_runs_one_step() {
    on_own_context(|| {
        assert!(!network::iteration(false));
        let Joined { client, served, server: _server } = join(Kind::Tcp);
        let lines = log_lines(&served);
        settle();
        client.sendline("hello").unwrap();
        while lines.len() == 0 {
            network::iteration(true);
        }
    });
}

#[test]
fn callbacks_may_make_sockets_wherever_their_context_is_run() {
    // Made on a private context that is then run without being the thread's default.
    let context = glib::MainContext::new();
    let (server, client, lines) = context
        .with_thread_default(|| {
            let (server, address) = serve(Kind::Tcp, |socket| {
                let other = network::Server::builder().tls(false).listen(0, |_| Ok(())).unwrap();
                socket.sendline(format!("{}", other.port()))
            });
            let client = network::Socket::connect(address).unwrap();
            let lines = log_lines(&client);
            (server, client, lines)
        })
        .unwrap();
    while lines.len() == 0 {
        context.iteration(true);
    }
    drop((server, client));
}

#[test]
fn other_sources_of_the_program_run_beside_a_flood() {
    on_own_context(|| {
        let Joined { client, served, server: _server } = join(Kind::Tcp);
        let received = Rc::new(Cell::new(0usize));
        let count = received.clone();
        served.read(move |_, data| {
            count.set(count.get() + data.len());
            Ok(())
        });
        // A thread floods; below the priority of the network, paint and idle sources still get their turns.
        let (fd, _) = client.into_fd().unwrap();
        let flood = std::thread::spawn(move || {
            let mut peer = std::fs::File::from(fd);
            let block = vec![0; 1 << 20];
            for _ in 0..200 {
                if std::io::Write::write_all(&mut peer, &block).is_err() {
                    break;
                }
            }
        });
        let (ticks, paint) = draw(Some(FRAME));
        let started = Instant::now();
        until(|| received.get() == 200 << 20);
        let frames = started.elapsed().as_millis() / FRAME.as_millis();
        paint.destroy();
        flood.join().unwrap();
        let ticks = u128::from(ticks.get());
        assert!(ticks * 2 >= frames, "a frame timer ran {ticks} of {frames} times during the flood");
    });
}

/// What a window at 60 frames a second needs, roughly.
const FRAME: Duration = Duration::from_millis(16);

#[test]
fn connecting_in_bulk_does_not_hold_up_what_is_connected() {
    on_own_context(|| {
        let Joined { client, served, server } = join(Kind::Tcp);
        served.readlines(|socket, line| socket.sendline(line));
        let address = format!("tcp://localhost:{}", server.port());
        let connected = Rc::new(Cell::new(0));
        let seen = Rc::new(Cell::new(None));
        for _ in 0..500 {
            let connected = connected.clone();
            network::Socket::connect_async(address.as_str(), gio::Cancellable::NONE, move |result| {
                connected.set(connected.get() + usize::from(result.is_ok()));
            });
        }
        let (place, count) = (seen.clone(), connected.clone());
        client.readlines(move |_, _| {
            place.set(Some(count.get()));
            Ok(())
        });
        client.sendline("still served?").unwrap();
        until(|| seen.get().is_some());
        assert!(seen.get().unwrap() < 400, "answered only after {} connects", seen.get().unwrap());
        until(|| connected.get() == 500);
    });
}

#[test]
fn a_main_loop_of_the_programs_own_serves_as_well() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let main_loop = glib::MainLoop::new(Some(&glib::MainContext::ref_thread_default()), false);
        served.readlines(|socket, line| socket.sendline(line));
        let ender = main_loop.clone();
        client.readlines(move |_, _| {
            ender.quit();
            Ok(())
        });
        client.sendline("hello").unwrap();
        main_loop.run();
    });
}

#[test]
fn how_the_network_shares_the_loop_can_be_set() {
    on_own_context(|| {
        let mut fairness = network::mainloop::Fairness::default();
        fairness.priority = glib::Priority::LOW;
        fairness.credit = Duration::ZERO;
        network::mainloop::set_fairness(&fairness).unwrap();
        let Joined { client, served, server: _server } = join(Kind::Tcp);
        let lines = log_lines(&served);
        client.send("one\ntwo\nthree\n").unwrap();
        until(|| lines.len() == 3);
    });
}

/// It polls by itself while there is nothing to watch but the network, and as GLib does otherwise: to and fro here.
#[test]
fn the_own_loop_hears_of_everything() {
    on_own_context(|| {
        let context = glib::MainContext::ref_thread_default();
        let Joined { client, served, server: _server } = join(Kind::Tcp);
        served.readlines(|socket, line| socket.sendline(line));
        client.readlines(|_, _| {
            network::endloop();
            Ok(())
        });
        let echo = || {
            client.sendline("and back").unwrap();
            assert!(!network::fgloop_for(Duration::from_secs(20)), "nothing came back");
        };
        echo();

        // Another thread, while the loop sleeps.
        let other = context.clone();
        let thread = std::thread::spawn(move || other.invoke(network::endloop));
        assert!(!network::fgloop_for(Duration::from_secs(20)), "the other thread's call was not heard of");
        thread.join().unwrap();
        echo();

        // A timer of the program's own.
        let timer = glib::timeout_source_new(Duration::from_millis(5), None, glib::Priority::DEFAULT, || {
            network::endloop();
            glib::ControlFlow::Break
        });
        timer.attach(Some(&context));
        assert!(!network::fgloop_for(Duration::from_secs(20)), "the timer did not fire");
        echo();

        // A descriptor of the program's own, until it is at its end.
        let (reader, mut writer) = UnixStream::pair().unwrap();
        let reader = gio::Socket::from_fd(reader.into()).unwrap();
        let priority = glib::Priority::DEFAULT;
        let watch = reader.create_source(glib::IOCondition::IN, None::<&gio::Cancellable>, None, priority, |_, _| {
            network::endloop();
            glib::ControlFlow::Continue
        });
        watch.attach(Some(&context));
        echo();
        writer.write_all(b"x").unwrap();
        assert!(!network::fgloop_for(Duration::from_secs(20)), "the descriptor was not heard of");
        watch.destroy();
        echo();

        // Something more urgent, in whose turns what has come waits.
        let mut turns = 100;
        let urgent = glib::idle_source_new(None, glib::Priority::HIGH, move || {
            turns -= 1;
            if turns > 0 { glib::ControlFlow::Continue } else { glib::ControlFlow::Break }
        });
        urgent.attach(Some(&context));
        echo();
        assert!(urgent.is_destroyed(), "it had its turns first");

        // Another's loop within a callback, and after all.
        served.readlines(|socket, line| {
            let inner = glib::MainLoop::new(Some(&glib::MainContext::ref_thread_default()), false);
            let quit = inner.clone();
            glib::timeout_source_new(Duration::from_millis(1), None, glib::Priority::DEFAULT, move || {
                quit.quit();
                glib::ControlFlow::Break
            })
            .attach(Some(&glib::MainContext::ref_thread_default()));
            inner.run();
            socket.sendline(line)
        });
        echo();
        let lines = log_lines(&client);
        client.sendline("without it").unwrap();
        until(|| lines.len() == 1);
    });
}

/// What was fetched when something more urgent ended the loop is served by whichever runs next. That takes the same moment
/// for both, so there are many tries.
#[test]
fn nothing_is_lost_between_two_loops() {
    const MOMENT: Duration = Duration::from_millis(1);
    on_own_context(|| {
        let context = glib::MainContext::ref_thread_default();
        let lines = Log::<String>::new();
        let log = lines.clone();
        let (server, _) = serve(Kind::Tcp, move |socket| {
            let log = log.clone();
            socket.readlines(move |_, line| {
                log.add(line);
                Ok(())
            });
            Ok(())
        });
        let mut client = std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        client.set_nodelay(true).unwrap();
        let (go, gone) = std::sync::mpsc::channel::<Instant>();
        let thread = std::thread::spawn(move || {
            for (round, started) in gone.iter().enumerate() {
                let moment = MOMENT + Duration::from_micros(round as u64 % 100);
                while started.elapsed() < moment {}
                client.write_all(b"hello\n").unwrap();
            }
        });
        for round in 0..300 {
            let urgent = glib::timeout_source_new(MOMENT, None, glib::Priority::HIGH, || {
                network::endloop();
                glib::ControlFlow::Break
            });
            urgent.attach(Some(&context));
            go.send(Instant::now()).unwrap();
            network::fgloop();
            until(|| lines.len() == round + 1);
        }
        drop(go);
        thread.join().unwrap();
    });
}

#[test]
fn one_look_up_after_another_leaves_the_redraw_its_turn() {
    fn look_up(count: Rc<Cell<u32>>, over: gio::Cancellable) {
        let cancellable = over.clone();
        network::names::lookup_async("127.0.0.1", 80, Some(&cancellable), move |result| {
            if result.is_ok() {
                count.set(count.get() + 1);
                look_up(count, over);
            }
        });
    }
    on_own_context(|| {
        let (count, over) = (Rc::new(Cell::new(0)), gio::Cancellable::new());
        look_up(count.clone(), over.clone());
        let (ticks, paint) = draw(Some(FRAME));
        until(|| ticks.get() >= 10);
        paint.destroy();
        let before = count.get();
        until(|| count.get() > before);
        over.cancel();
    });
}

#[test]
fn what_a_callback_sent_goes_out_before_it_runs_the_loop_of_another_context() {
    use std::io::{BufRead, BufReader};
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (other, others) = UnixStream::pair().unwrap();
    let peer = std::thread::spawn(move || {
        let mut line = String::new();
        (&theirs).write_all(b"go\n").unwrap();
        BufReader::new(&theirs).read_line(&mut line).unwrap();
        // Told to the other one.
        (&others).write_all(line.as_bytes()).unwrap();
        BufReader::new(&theirs).read_line(&mut line).unwrap();
    });
    on_own_context(|| {
        let socket = network::Socket::from_fd(ours).unwrap();
        let done = Rc::new(Cell::new(false));
        let (set, mut other) = (done.clone(), Some(other));
        socket.readlines(move |socket, _| {
            socket.sendline("question")?;
            on_own_context(|| {
                let other = network::Socket::from_fd(other.take().unwrap()).unwrap();
                let answers = log_lines(&other);
                until(|| answers.len() == 1);
            });
            set.set(true);
            socket.sendline("thanks")
        });
        until(|| done.get());
    });
    peer.join().unwrap();
}

/// Clients on a thread of their own. What they are told to send has been sent when `speak` returns.
struct Clients {
    go: std::sync::mpsc::Sender<()>,
    done: std::sync::mpsc::Receiver<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Clients {
    fn start(kind: Kind, address: String, count: usize) -> Self {
        let (go, gone) = std::sync::mpsc::channel();
        let (finished, done) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            on_own_context(|| {
                let connect = || crate::util::client(kind).connect(address.as_str()).unwrap();
                let sockets: Vec<_> = std::iter::repeat_with(connect).take(count).collect();
                for () in &gone {
                    for socket in &sockets {
                        socket.sendline("still here").unwrap();
                        socket.flush().unwrap();
                    }
                    finished.send(()).unwrap();
                }
            });
        });
        Clients { go, done, thread }
    }

    fn speak(&self) {
        self.go.send(()).unwrap();
        self.done.recv_timeout(Duration::from_secs(20)).unwrap();
    }

    fn end(self) {
        drop(self.go);
        self.thread.join().unwrap();
    }
}

/// Time in which the loop is held up, as by a slow callback, is nobody's silence.
#[test]
fn a_loop_that_is_held_up_ends_nobody_who_was_not_silent() {
    const LIMIT: Duration = Duration::from_millis(200);
    const COUNT: usize = 50;
    for_each_kind(|kind| {
        let (lines, ends) = (Log::<String>::new(), Log::<String>::new());
        let (log, told) = (lines.clone(), ends.clone());
        let (server, address) = serve(kind, move |socket| {
            let (log, told) = (log.clone(), told.clone());
            socket.disconnect_cb(move |_, end| match end.reason {
                network::Reason::Failed(network::Error::TimedOut { .. }) => told.add("timed out"),
                reason => told.add(reason.to_string()),
            });
            socket.readlines(move |_, line| {
                log.add(line);
                Ok(())
            });
            Ok(())
        });
        let clients = Arc::new(Mutex::new(Clients::start(kind, address, COUNT)));
        until(|| server.connections().len() == COUNT);
        server.connections().iter().for_each(|socket| {
            socket.set_idle_timeout(LIMIT);
            socket.set_receive_timeout(LIMIT);
        });
        for (round, priority) in [glib::Priority::HIGH, glib::Priority::DEFAULT, glib::Priority::LOW].iter().enumerate()
        {
            let speaking = clients.clone();
            let slow = glib::idle_source_new(None, *priority, move || {
                std::thread::sleep(LIMIT + LIMIT / 2);
                speaking.lock().unwrap().speak();
                std::thread::sleep(LIMIT);
                glib::ControlFlow::Break
            });
            slow.attach(Some(&glib::MainContext::ref_thread_default()));
            until(|| lines.len() + ends.len() >= (round + 1) * COUNT);
            assert_eq!(ends.all(), [""; 0], "after being held up at {priority:?}");
        }
        // Nobody speaks any more.
        until(|| ends.len() == COUNT);
        assert!(ends.all().iter().all(|end| end == "timed out"), "{:?}", ends.all());
        Arc::into_inner(clients).unwrap().into_inner().unwrap().end();
    });
}

/// Blocks the loop for so long, once, whatever waits for it meanwhile.
fn hold_up(time: Duration) {
    let slow = glib::idle_source_new(None, glib::Priority::DEFAULT, move || {
        std::thread::sleep(time);
        glib::ControlFlow::Break
    });
    slow.attach(Some(&glib::MainContext::ref_thread_default()));
}

/// Between any two looks at the network more than the limit passes, so no handshake could be done before it is over.
#[test]
fn a_server_that_is_held_up_finishes_handshakes_all_the_same() {
    const LIMIT: Duration = Duration::from_millis(500);
    on_own_context(|| {
        let server = crate::util::server(Kind::Tls).handshake_timeout(LIMIT);
        let server = server.listen(0, |socket| socket.sendline("welcome")).unwrap();
        let address = format!("tls://localhost:{}", server.port());
        let client = std::thread::spawn(move || {
            on_own_context(|| crate::util::client(Kind::Tls).connect(address.as_str())?.recv_line())
        });
        let slow = glib::timeout_source_new(Duration::from_millis(1), None, glib::Priority::DEFAULT, || {
            std::thread::sleep(LIMIT + LIMIT / 5);
            glib::ControlFlow::Continue
        });
        slow.attach(Some(&glib::MainContext::ref_thread_default()));
        until(|| client.is_finished());
        slow.destroy();
        assert_eq!(client.join().unwrap().unwrap(), "welcome");
    });
}

#[test]
fn a_client_that_is_held_up_connects_all_the_same() {
    const LIMIT: Duration = Duration::from_millis(300);
    for_each_kind(|kind| {
        let (ready, address) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            on_own_context(|| {
                let (_server, address) = serve(kind, |_| Ok(()));
                ready.send(address).unwrap();
                while ended.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
                    network::fgloop_for(Duration::from_millis(5));
                }
            });
        });
        let address = address.recv().unwrap();
        let outcome = Rc::new(Cell::new(None));
        let place = outcome.clone();
        let builder = crate::util::client(kind).connect_timeout(LIMIT).handshake_timeout(LIMIT);
        builder.connect_async(address.as_str(), gio::Cancellable::NONE, move |result| place.set(Some(result)));
        network::iteration(false);
        hold_up(LIMIT * 2);
        hold_up(LIMIT * 2);
        let done = Cell::new(false);
        until(|| {
            let result = outcome.take();
            done.set(result.is_some());
            outcome.set(result);
            done.get()
        });
        outcome.take().unwrap().unwrap();
        drop(end);
        thread.join().unwrap();
    });
}

/// Reads what comes from threads that send as fast as they can.
struct Flood {
    server: network::Server,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Flood {
    fn start(connections: usize, idle_timeout: Duration, ends: &Log<String>) -> Self {
        let told = ends.clone();
        let server = crate::util::server(Kind::Tcp).idle_timeout(idle_timeout);
        let server = server
            .listen(0, move |socket| {
                let told = told.clone();
                socket.disconnect_cb(move |_, end| told.add(end.reason.to_string()));
                socket.read(|_, _| Ok(()));
                Ok(())
            })
            .unwrap();
        let port = server.port();
        let flood = move || {
            let mut peer = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            let block = vec![0; 1 << 18];
            while peer.write_all(&block).is_ok() {}
        };
        let threads = (0..connections).map(|_| std::thread::spawn(flood)).collect();
        until(|| server.connections().len() == connections);
        Flood { server, threads }
    }

    fn end(self) {
        self.server.connections().iter().for_each(|socket| drop(socket.abort()));
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// Timers wait for what came before them, but a flood, which always comes, starves none.
#[test]
fn timers_fire_in_time_under_a_flood() {
    const LIMIT: Duration = Duration::from_millis(100);
    // Generous: there are more threads than processors.
    const LATE: Duration = Duration::from_secs(5);
    // Also while the rest of the program leaves no time to the low priorities.
    for is_busy in [false, true] {
        on_own_context(|| {
            let (floods, quiet) = (Log::<String>::new(), Log::<String>::new());
            let flood = Flood::start(8, LIMIT * 20, &floods);
            let busy = glib::idle_source_new(None, glib::Priority::HIGH_IDLE, move || {
                if is_busy { glib::ControlFlow::Continue } else { glib::ControlFlow::Break }
            });
            busy.attach(Some(&glib::MainContext::ref_thread_default()));
            let started = Instant::now();
            assert!(network::fgloop_for(LIMIT));
            assert!(started.elapsed() < LATE, "a loop for {LIMIT:?} took {:?}", started.elapsed());

            let Joined { client: _client, served, server: _server } = join(Kind::Tcp);
            served.disconnect_cb({
                let quiet = quiet.clone();
                move |_, end| quiet.add(end.reason.to_string())
            });
            let started = Instant::now();
            served.set_idle_timeout(LIMIT);
            until(|| quiet.len() == 1);
            assert!(started.elapsed() >= LIMIT && started.elapsed() < LATE, "ended after {:?}", started.elapsed());
            assert_eq!(floods.all(), [""; 0]);
            busy.destroy();
            flood.end();
        });
    }
}
