//! Running, nesting and ending the loop.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

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
        let ticks = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let tick = ticks.clone();
        let paint = glib::source::timeout_source_new(FRAME, None, glib::Priority::from(120), move || {
            tick.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            glib::ControlFlow::Continue
        });
        paint.attach(Some(&glib::MainContext::ref_thread_default()));
        let started = Instant::now();
        until(|| received.get() == 200 << 20);
        let frames = started.elapsed().as_millis() / FRAME.as_millis();
        paint.destroy();
        flood.join().unwrap();
        let ticks = u128::from(ticks.load(std::sync::atomic::Ordering::Relaxed));
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
        let mut fairness = network::Fairness::default();
        fairness.priority = glib::Priority::LOW;
        fairness.credit = Duration::ZERO;
        network::set_fairness(&fairness).unwrap();
        let Joined { client, served, server: _server } = join(Kind::Tcp);
        let lines = log_lines(&served);
        client.send("one\ntwo\nthree\n").unwrap();
        until(|| lines.len() == 3);
    });
}
