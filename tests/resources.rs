//! What runs out, and what must not pile up. One test at a time: they count this process's descriptors.

use std::cell::{Cell, RefCell};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use gio::prelude::*;
use network::{Link, Server, Socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

static ALONE: Mutex<()> = Mutex::new(());

fn alone(test: impl FnOnce()) {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    glib::MainContext::new().with_thread_default(test).unwrap();
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[track_caller]
fn until(what: impl Fn() -> bool) {
    let late = std::time::Instant::now() + Duration::from_secs(20);
    while !what() {
        assert!(std::time::Instant::now() < late, "what was waited for did not happen");
        // Wakes up at least this often, to look at what is not an event of the loop.
        network::fgloop_for(Duration::from_millis(5));
    }
}

/// Never answers: its backlog is full.
fn silent() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let address = listener.local_addr().unwrap();
    let first = TcpStream::connect(address).unwrap();
    let mut held = vec![first];
    while let Ok(next) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        held.push(next);
    }
    (address, listener, held)
}

#[test]
fn connecting_leaves_no_descriptor_behind_however_it_ends() {
    alone(|| {
        let (silent, _listener, _held) = silent();
        let directory = tempfile::tempdir().unwrap();
        let builder = || {
            Socket::builder()
                .tls(network::ClientTls::new().directory(directory.path()))
                .connect_timeout(Duration::from_millis(20))
        };
        let server = Server::builder()
            .tls(network::ServerTls::new().directory(directory.path()))
            .linger(Duration::from_millis(50))
            .listen(0, |_| Ok(()))
            .unwrap();
        let address = format!("localhost:{}", server.port());
        let round = || {
            let done = Rc::new(Cell::new(0));
            let context = glib::MainContext::ref_thread_default();
            // Refused, timed out, cancelled in different moments, dropped, connected.
            let cancellables: Vec<_> = (0..4).map(|_| gio::Cancellable::new()).collect();
            for (n, address) in ["127.0.0.1:1", &silent.to_string(), &silent.to_string(), &address].iter().enumerate() {
                let done = done.clone();
                builder().connect_async(*address, Some(&cancellables[n]), move |_| done.set(done.get() + 1));
            }
            cancellables[2].cancel();
            network::iteration(false);
            cancellables[3].cancel();
            let task = context.spawn_local(builder().connect_future(silent));
            let other = context.spawn_local(builder().connect_future(address.clone()));
            network::iteration(false);
            task.abort();
            other.abort();
            drop((task, other));
            let _ = builder().connect("127.0.0.1:1");
            let _ = builder().connect(silent);
            until(|| done.get() == 4);
            until(|| server.connections().is_empty());
        };
        round();
        network::fgloop_for(Duration::from_millis(150));
        let before = open_descriptors();
        for _ in 0..5 {
            round();
        }
        until(|| open_descriptors() <= before);
    });
}

#[test]
fn proxies_leave_no_descriptor_behind_however_it_ends() {
    alone(|| {
        // One proxy closes after half a reply, the other one never answers: its backlog accepts.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 3];
                if std::io::Read::read_exact(&mut stream, &mut request).is_err() {
                    continue;
                }
                if request == *b"END" {
                    return;
                }
                std::io::Write::write_all(&mut stream, &[5]).unwrap();
            }
        });
        let round = || {
            let done = Rc::new(Cell::new(0));
            let url = |port: u16| format!("socks5h://127.0.0.1:{port}");
            let silent = silent.local_addr().unwrap().port();
            let builder =
                |port: u16| Socket::builder().tls(false).proxy(url(port)).connect_timeout(Duration::from_millis(20));
            let cancellables: Vec<_> = (0..4).map(|_| gio::Cancellable::new()).collect();
            for (n, port) in [port, silent, silent, silent].into_iter().enumerate() {
                let done = done.clone();
                builder(port).connect_async("target.test:1", Some(&cancellables[n]), move |result| {
                    assert!(result.is_err());
                    done.set(done.get() + 1);
                });
            }
            cancellables[2].cancel();
            network::iteration(false);
            cancellables[3].cancel();
            let task =
                glib::MainContext::ref_thread_default().spawn_local(builder(silent).connect_future("target.test:1"));
            network::iteration(false);
            task.abort();
            drop(task);
            builder(port).connect("target.test:1").unwrap_err();
            builder(silent).connect("target.test:1").unwrap_err();
            until(|| done.get() == 4);
        };
        round();
        let before = open_descriptors();
        for _ in 0..5 {
            round();
        }
        until(|| open_descriptors() <= before);
        std::io::Write::write_all(&mut TcpStream::connect(("127.0.0.1", port)).unwrap(), b"END").unwrap();
        proxy.join().unwrap();
    });
}

#[test]
fn connections_leave_no_descriptor_behind() {
    alone(|| {
        let server = Server::builder()
            .tls(false)
            .listen(0, |socket| {
                socket.readlines(|socket, line| socket.sendline(line));
                Ok(())
            })
            .unwrap();
        let before = open_descriptors();
        for _ in 0..3 {
            let answers = Rc::new(Cell::new(0));
            let clients = Rc::new(RefCell::new(Vec::new()));
            for n in 0..100 {
                let socket = Socket::builder().tls(false).connect(server.port()).unwrap();
                let answers = answers.clone();
                socket.readlines(move |socket, _| {
                    answers.set(answers.get() + 1);
                    // Half of them close, half are only let go.
                    if n % 2 == 0 {
                        socket.close();
                    } else {
                        socket.unread();
                    }
                    Ok(())
                });
                socket.sendline("hello").unwrap();
                clients.borrow_mut().push(socket);
            }
            until(|| answers.get() == 100);
            clients.borrow_mut().clear();
            until(|| server.connections().is_empty());
        }
        until(|| open_descriptors() <= before);
    });
}

#[test]
fn tasks_and_sleeps_take_no_descriptors() {
    alone(|| {
        let moment = Duration::from_millis(1);
        network::block_on(network::sleep(moment)).unwrap();
        let before = open_descriptors();
        for _ in 0..10 {
            let tasks: Vec<_> = (0..1_000)
                .map(|n| {
                    network::spawn(async move {
                        let _ = network::timeout(moment * (n % 3), network::sleep(moment)).await;
                        std::future::pending().await
                    })
                    .unwrap()
                })
                .collect();
            network::block_on(network::sleep(moment * 3)).unwrap();
            assert_eq!(open_descriptors(), before);
            tasks.iter().for_each(network::task::Task::abort);
            assert!(tasks.iter().all(network::task::Task::is_finished));
        }
    });
}

#[test]
fn without_descriptors_tasks_fail_and_sleeps_take_their_time() {
    if !in_own_process("without_descriptors_tasks_fail_and_sleeps_take_their_time") {
        return;
    }
    // The first call of all finds no default main context.
    let result = with_descriptors(0, || network::spawn(async { Ok(()) }).map(drop));
    assert!(is_out_of_descriptors(&result), "{result:?}");
    let result = with_descriptors(0, || network::block_on(async {}));
    assert!(is_out_of_descriptors(&result), "{result:?}");
    // Without an engine, which would need one.
    let time = Duration::from_millis(5);
    let context = glib::MainContext::default();
    let begun = std::time::Instant::now();
    with_descriptors(0, || context.block_on(network::sleep(time)));
    assert!(begun.elapsed() >= time);
    network::block_on(network::sleep(time)).unwrap();
}

#[test]
fn without_descriptors_the_listener_waits_and_goes_on() {
    alone(|| {
        let server = Server::builder()
            .tls(false)
            .listen(0, |socket| {
                socket.readlines(|socket, line| socket.sendline(line));
                Ok(())
            })
            .unwrap();
        let first = Socket::builder().tls(false).connect(server.port()).unwrap();
        until(|| server.connections().len() == 1);
        // The clients' ends take the rest: none is left for the server's ends.
        let limits = getrlimit(Resource::Nofile);
        let room = open_descriptors() as u64 + 10;
        setrlimit(Resource::Nofile, Rlimit { current: Some(room), maximum: limits.maximum }).unwrap();
        let mut strangers = Vec::new();
        while let Ok(stranger) = TcpStream::connect(("127.0.0.1", server.port())) {
            strangers.push(stranger);
        }
        assert!(!strangers.is_empty());

        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        network::fgloop_for(Duration::from_millis(400));
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let used = (used.tv_sec - cpu.tv_sec) * 1_000_000_000 + (used.tv_nsec - cpu.tv_nsec);
        assert!(used < 100_000_000, "it spins: {used} ns of CPU in 400 ms");
        assert_eq!(server.connections().len(), 1);
        // Those that are connected are served as ever.
        let answered = Rc::new(Cell::new(false));
        let flag = answered.clone();
        first.readlines(move |_, _| {
            flag.set(true);
            Ok(())
        });
        first.sendline("still here?").unwrap();
        until(|| answered.get());

        setrlimit(Resource::Nofile, limits).unwrap();
        let waiting = strangers.len();
        until(|| server.connections().len() == 1 + waiting);
    });
}

#[test]
fn without_descriptors_clients_are_awaited_until_there_are_some() {
    alone(|| {
        let server = Server::builder().tls(false).bind(0).unwrap();
        let port = server.port();
        let accepted = Rc::new(RefCell::new(Vec::new()));
        let place = accepted.clone();
        glib::MainContext::ref_thread_default().spawn_local(async move {
            let mut incoming = server.incoming();
            while let Some(socket) = incoming.next().await {
                place.borrow_mut().push(socket.unwrap());
            }
        });
        let limits = getrlimit(Resource::Nofile);
        let room = open_descriptors() as u64 + 10;
        setrlimit(Resource::Nofile, Rlimit { current: Some(room), maximum: limits.maximum }).unwrap();
        let mut strangers = Vec::new();
        while let Ok(stranger) = TcpStream::connect(("127.0.0.1", port)) {
            strangers.push(stranger);
        }
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        network::fgloop_for(Duration::from_millis(400));
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let used = (used.tv_sec - cpu.tv_sec) * 1_000_000_000 + (used.tv_nsec - cpu.tv_nsec);
        assert!(used < 100_000_000, "it spins: {used} ns of CPU in 400 ms");
        assert_eq!(accepted.borrow().len(), 0);
        setrlimit(Resource::Nofile, limits).unwrap();
        until(|| accepted.borrow().len() == strangers.len());
    });
}

/// Runs the calling test once more, alone in a process. True in there.
fn in_own_process(test: &str) -> bool {
    const INSIDE: &str = "IN_OWN_PROCESS";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut program = std::process::Command::new(std::env::current_exe().unwrap());
    let output = program.args([test, "--exact", "--nocapture"]).env(INSIDE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{} {said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

/// Leaves just so many descriptors to `call`.
fn with_descriptors<T>(free: usize, call: impl FnOnce() -> T) -> T {
    let limits = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(200), maximum: limits.maximum }).unwrap();
    let mut taken = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        taken.push(file);
    }
    taken.truncate(taken.len() - free);
    let outcome = call();
    drop(taken);
    setrlimit(Resource::Nofile, limits).unwrap();
    outcome
}

fn is_out_of_descriptors<T>(result: &network::Result<T>) -> bool {
    let emfile = Some(rustix::io::Errno::MFILE.raw_os_error());
    matches!(result, Err(network::Error::Io { source, .. }) if source.raw_os_error() == emfile)
}

#[test]
fn without_descriptors_blocking_calls_fail_and_the_program_goes_on() {
    if !in_own_process("without_descriptors_blocking_calls_fail_and_the_program_goes_on") {
        return;
    }
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // The first call of all finds no default main context, and none can be made.
    let first = with_descriptors(0, || Socket::connect(nobody));
    assert!(is_out_of_descriptors(&first), "{first:?}");
    assert!(!with_descriptors(0, || network::iteration(false)));
    let limit = Duration::from_millis(50);
    let stun = [format!("stun:{nobody}")];
    for free in 0..10 {
        for tls in [false, true] {
            let result = with_descriptors(free, || Socket::builder().tls(tls).connect(nobody));
            assert!(result.is_err() && (free > 0 || is_out_of_descriptors(&result)), "{free}: {result:?}");
        }
        let result = with_descriptors(free, || network::names::public_address(&stun, limit));
        assert!(result.is_err() && (free > 0 || is_out_of_descriptors(&result)), "{free}: {result:?}");
        let result = with_descriptors(free, || network::names::lookup_timeout("no.such.name.invalid", 1, limit));
        assert!(result.is_err() && (free > 0 || is_out_of_descriptors(&result)), "{free}: {result:?}");
        let result = with_descriptors(free, || {
            let served = Server::builder().tls(false).threads(2, || |_| Ok(())).listen(0);
            served.map(|threads| threads.threads())
        });
        assert!(matches!(result, Ok(2)) || is_out_of_descriptors(&result), "{free}: {result:?}");
    }
    // All of it works when there are some again.
    let server = Server::builder().tls(false).listen(0, |_| Ok(())).unwrap();
    Socket::builder().tls(false).connect(server.port()).unwrap();
}

#[test]
fn without_threads_a_lookup_fails_and_the_program_goes_on() {
    const AS_NOBODY: &str = "WITHOUT_THREADS";
    let test = "without_threads_a_lookup_fails_and_the_program_goes_on";
    if std::env::var_os(AS_NOBODY).is_none() {
        let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // The limit does not hold for root. The program is read from a place that everybody may read.
        let directory = tempfile::tempdir().unwrap();
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(directory.path(), everybody).unwrap();
        let copy = directory.path().join("resources");
        std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
        let mut program = match rustix::process::geteuid().is_root() {
            true => {
                let mut setpriv = std::process::Command::new("/usr/bin/setpriv");
                setpriv.args(["--reuid=64998", "--regid=64998", "--clear-groups"]).arg(copy);
                setpriv
            }
            false => std::process::Command::new(copy),
        };
        let output = program.args([test, "--exact", "--nocapture"]).env(AS_NOBODY, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
        return;
    }
    glib::MainContext::new()
        .with_thread_default(|| {
            let limits = getrlimit(Resource::Nproc);
            setrlimit(Resource::Nproc, Rlimit { current: Some(1), maximum: limits.maximum }).unwrap();
            let failed = |result: network::Result<()>| match result {
                Err(network::Error::Lookup { cause, .. }) => assert!(cause.contains("thread"), "{cause}"),
                other => panic!("{other:?}"),
            };
            failed(network::names::lookup("no.such.name.invalid", 1).map(drop));
            failed(Socket::connect("no.such.name.invalid:1").map(drop));
            let context = glib::MainContext::ref_thread_default();
            failed(context.block_on(network::names::lookup_future("no.such.name.invalid", 1)).map(drop));
            failed(context.block_on(Socket::connect_future("no.such.name.invalid:1")).map(drop));
            setrlimit(Resource::Nproc, limits).unwrap();
            let server = Server::builder().tls(false).listen(0, |_| Ok(())).unwrap();
            Socket::builder().tls(false).connect(server.port()).unwrap();
        })
        .unwrap();
}

#[test]
fn starting_tls_leaves_nothing_behind() {
    alone(|| {
        let directory = tempfile::tempdir().unwrap();
        let tls = network::ServerTls::new().directory(directory.path()).prepared().unwrap();
        let done = Rc::new(Cell::new(0));
        let mut before = 0;
        for round in 0..=1000 {
            if round == 10 {
                // What the first ones bring stays.
                before = open_descriptors();
            }
            let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
            let (client, served) = (Socket::from_fd(one).unwrap(), Socket::from_fd(other).unwrap());
            let (heard, count) = (done.clone(), done.get());
            served.readlines(move |_, _| {
                heard.set(heard.get() + 1);
                Ok(())
            });
            let trust = network::ClientTls::danger_accept_any().server_name("localhost");
            served.start_tls_async(tls.clone(), gio::Cancellable::NONE, |_, result| result.unwrap());
            client.start_tls_async(trust, gio::Cancellable::NONE, |socket, result| {
                result.unwrap();
                socket.sendline("hello").unwrap();
            });
            drop((client, served));
            until(|| done.get() > count);
        }
        until(|| open_descriptors() <= before);
    });
}

fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * rustix::param::page_size()
}

#[test]
fn links_leave_nothing_behind_however_often_they_connect() {
    alone(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s").to_str().unwrap().to_owned();
        // It accepts, and drops.
        let server = Server::builder().linger(Duration::ZERO).listen(&*path, |socket| {
            socket.sendline("hello")?;
            socket.close();
            Ok(())
        });
        let server = server.unwrap();
        let micro = Duration::from_micros(1);
        let (ups, downs) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let link = |refuses: bool| {
            let (ups, downs, grammar) = (ups.clone(), downs.clone(), Cell::new(true));
            Link::builder()
                .delays(micro, micro)
                .queue(100)
                .down_cb(move |link, told| {
                    downs.set(downs.get() + 1);
                    // It is kept for the next one.
                    link.sendline("x").or_else(|error| if told.attempt > 9 { Ok(()) } else { Err(error) }).unwrap();
                })
                .start(&*path, move |socket| {
                    ups.set(ups.get() + 1);
                    grammar.set(!grammar.get());
                    socket.readlines(|_, _| Ok(()));
                    if refuses && grammar.get() { Err(network::Error::other("not this one")) } else { Ok(()) }
                })
                .unwrap()
        };
        let rounds = |count: u32| {
            let kept = (link(false), link(true));
            let end = ups.get() + count;
            while ups.get() < end {
                until(|| ups.get() >= end);
                // Many links that live for a moment, each in another state.
                for turns in 0..4 {
                    let short = link(turns % 2 == 0);
                    for _ in 0..turns {
                        network::iteration(false);
                    }
                    short.retry_now();
                    drop(short);
                }
            }
            drop(kept);
            until(|| server.connections().is_empty());
        };
        rounds(1000);
        let (before, memory) = (open_descriptors(), resident());
        rounds(10_000);
        until(|| open_descriptors() <= before);
        let grown = resident().saturating_sub(memory);
        assert!(grown < 1 << 20, "{grown} bytes more");
        assert!(downs.get() >= 10_000);
    });
}
