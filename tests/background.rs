//! Lookups, tasks and going into the background, which takes a process with a single thread: so this program has no test
//! harness.

mod common;
#[path = "common/name_server.rs"]
mod name_server;

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::{Duration, Instant};

use common::command;
use network::link::NetworkWatch;
use network::{Error, Result, Server, Socket};

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("tasks") => return tasks_go_on_in_the_background(&std::env::args().nth(2).unwrap()),
        Some("network") => return the_network_is_watched_in_the_background(&std::env::args().nth(2).unwrap()),
        _ => {}
    }
    match (name_server::inside(), std::env::args().nth(1).as_deref()) {
        (Some(_server), Some("ended")) => lookups_that_have_ended_leave_no_thread(),
        (Some(_server), Some("late")) => a_late_answer_is_waited_for(),
        (Some(_server), Some("silent")) => a_lookup_without_an_end_is_named(),
        (Some(_), other) => panic!("{other:?}"),
        (None, _) if !common::parties::has_namespaces() => {
            hear_of("tasks", command(std::env::current_exe().unwrap(), [""; 0]), TOLD_OF_TASKS);
            println!("the others are not run: this user may not have namespaces");
        }
        (None, _) => {
            hear_of("tasks", command(std::env::current_exe().unwrap(), [""; 0]), TOLD_OF_TASKS);
            let mut unshare = common::parties::unshare(&["--net"]);
            unshare.arg(std::env::current_exe().unwrap());
            hear_of("network", unshare, TOLD_OF_NETWORK);
            for (name, last_words) in [("ended", ""), ("late", ""), ("silent", "named\n")] {
                let output = name_server::run_inside(&[name]);
                assert!(output.status.success() && output.text() == last_words, "{name}: {output:?}");
                println!("{name}: ok");
            }
        }
    }
}

/// Runs the loop in the background, and ends it at once. The process that calls this ends well if that works.
fn go_into_background() -> Result {
    glib::source::timeout_add_local_once(Duration::ZERO, network::endloop);
    network::bgloop()
}

/// Into the background, or to an end that is none.
fn must_go_into_background() {
    let parent = std::process::id();
    go_into_background().unwrap();
    assert_ne!(std::process::id(), parent, "in the foreground");
}

const TOLD_OF_TASKS: &str = "slept, woken by a thread\n";
const TOLD_OF_NETWORK: &str = "Addresses, 1 thread\n";

/// Starts a process that goes into the background, and hears from there.
fn hear_of(what: &str, mut command: Command, told: &str) {
    let directory = common::TempDir::new();
    let listener = UnixListener::bind(directory.path("heard")).unwrap();
    let output = common::run(command.args([what, &directory.address("heard")]), "");
    output.assert_clean();
    listener.set_nonblocking(true).unwrap();
    let begun = Instant::now();
    let mut heard = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) => assert!(begun.elapsed() < common::LIMIT, "nothing is heard: {error}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    heard.set_nonblocking(false).unwrap();
    heard.set_read_timeout(Some(common::LIMIT)).unwrap();
    let mut text = String::new();
    heard.read_to_string(&mut text).unwrap();
    assert_eq!(text, told);
    println!("{what}: ok");
}

fn tasks_go_on_in_the_background(place: &str) {
    // Everything that there is has been used before.
    let moment = Duration::from_millis(1);
    network::block_on(network::sleep(moment)).unwrap();
    let limited = network::spawn(async move { network::timeout(moment, async { Ok(()) }).await? });
    network::block_on(limited.unwrap()).unwrap().unwrap();
    let (parent, place) = (std::process::id(), place.to_owned());
    let task = network::spawn(async move {
        network::sleep(moment).await;
        while std::process::id() == parent {
            network::sleep(moment).await;
        }
        let socket = Socket::connect_future(place.as_str()).await?;
        socket.send_future("slept, ").await?;
        let (tell, told) = futures_channel::oneshot::channel();
        let thread = std::thread::spawn(move || tell.send("woken by a thread\n").unwrap());
        socket.send_future(told.await.map_err(Error::other)?).await?;
        thread.join().unwrap();
        socket.flush_future().await?;
        network::endloop();
        Ok(())
    });
    drop(task.unwrap());
    network::bgloop().unwrap();
}

fn the_network_is_watched_in_the_background(place: &str) {
    let (parent, place) = (std::process::id(), place.to_owned());
    let watch = NetworkWatch::new(move |change| {
        assert_ne!(std::process::id(), parent, "in the foreground");
        let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
        let socket = Socket::connect(place.as_str()).unwrap();
        socket.sendline(format!("{change:?}, {threads} thread")).unwrap();
        socket.flush().unwrap();
        network::endloop();
    });
    let watch = watch.unwrap();
    glib::source::timeout_add_local_once(Duration::ZERO, move || {
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    });
    network::bgloop().unwrap();
    drop(watch);
}

fn lookups_that_have_ended_leave_no_thread() {
    let server = Server::builder().tls(false).listen(0, |_| Ok(())).unwrap();
    let address = format!("both.test:{}", server.port());
    let context = glib::MainContext::default();
    for _ in 0..50 {
        network::names::lookup("both.test", 1).unwrap();
        context.block_on(network::names::lookup_future("four.test", 1)).unwrap();
        Socket::builder().tls(false).connect(&address).unwrap();
        context.block_on(Socket::builder().tls(false).connect_future(&address)).unwrap();
    }
    must_go_into_background();
}

fn a_late_answer_is_waited_for() {
    // It comes after 400 ms.
    let limit = Duration::from_millis(20);
    assert!(matches!(network::names::lookup_timeout("late.test", 1, limit), Err(Error::TimedOut { .. })));
    must_go_into_background();
}

fn a_lookup_without_an_end_is_named() {
    for host in ["silent.test", "silent.test", "silent2.test"] {
        let limit = Duration::from_millis(20);
        assert!(matches!(network::names::lookup_timeout(host, 1, limit), Err(Error::TimedOut { .. })));
    }
    let started = Instant::now();
    let error = go_into_background().unwrap_err();
    assert!(matches!(&error, Error::OtherThreads { others: 4, .. }), "{error:?}");
    assert!(error.to_string().contains("(looking up silent.test, looking up silent2.test)"), "{error}");
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(3), "{took:?}");
    println!("named");
}
