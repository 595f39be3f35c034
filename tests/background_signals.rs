//! Whom a signal reaches: forked children, many loops at once, and a process that was started with signals blocked.

// For `fork`, of which there is no safe one.
#![allow(unsafe_code)]

mod common;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;

use common::*;
use network::daemon::Daemon;
use network::{Error, Socket};
use rustix::process::{Pid, Signal, kill_process};

/// Says in a child of the test which part it plays.
const PART: &str = "NETWORK_TEST_PART";

/// Runs `part` in another process, which is this test again; there it returns `None`.
#[track_caller]
fn another(test: &str, part: &str) -> Option<Process> {
    if std::env::var(PART).is_ok_and(|set| set == part) {
        return None;
    }
    let mut again = command(std::env::current_exe().unwrap(), ["--exact", test, "--nocapture"]);
    Some(Process::start(again.env(PART, part), Watch::Stderr))
}

/// Forks a child that waits for a signal, and waits for its end.
fn fork_and_wait() {
    // SAFETY: the child makes system calls only, until a signal ends it.
    match unsafe { libc::fork() } {
        0 => loop {
            // SAFETY: waits for a signal.
            unsafe { libc::pause() };
        },
        child => {
            eprintln!("child {child}");
            let mut status = 0;
            // SAFETY: the child is ours, and there is a place for its status.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            eprintln!("the child was ended by {}", libc::WTERMSIG(status));
        }
    }
}

fn preforking() {
    on_own_context(|| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        network::daemon::on_reload(|| eprintln!("reloaded")).unwrap();
        let socket = Socket::from_fd(ours).unwrap();
        socket.readlines(|_, line| {
            match line {
                "fork" => fork_and_wait(),
                other => eprintln!("still there: {other}"),
            }
            Ok(())
        });
        theirs.write_all(b"fork\nfirst\nfork\nsecond\n").unwrap();
        network::fgloop();
        eprintln!("the loop has ended");
    });
}

#[test]
fn a_signal_to_a_forked_child_ends_the_child_and_not_the_parent() {
    let Some(mut parent) = another("a_signal_to_a_forked_child_ends_the_child_and_not_the_parent", "prefork") else {
        return preforking();
    };
    for (signal, answer) in [(Signal::TERM, "still there: first"), (Signal::HUP, "still there: second")] {
        let line = parent.line_with("child ");
        let child = line.rsplit(' ').next().unwrap().parse().unwrap();
        kill_process(Pid::from_raw(child).unwrap(), signal).unwrap();
        assert_eq!(parent.line(), format!("the child was ended by {}", signal.as_raw()));
        assert_eq!(parent.line(), answer);
    }
    parent.signal(Signal::HUP);
    assert_eq!(parent.line(), "reloaded");
    parent.signal(Signal::TERM);
    assert_eq!(parent.line(), "the loop has ended");
    assert!(parent.await_end().status.success());
}

#[test]
fn a_signal_ends_as_many_loops_as_there_are() {
    const LOOPS: usize = 150;
    let Some(mut many) = another("a_signal_ends_as_many_loops_as_there_are", "many") else {
        let (running, runs) = mpsc::channel();
        let threads: Vec<_> = (0..LOOPS)
            .map(|_| {
                let running = running.clone();
                std::thread::spawn(move || {
                    on_own_context(|| {
                        let context = glib::MainContext::ref_thread_default();
                        context.spawn_local(async move { running.send(()).unwrap() });
                        network::fgloop();
                    });
                })
            })
            .collect();
        for _ in 0..LOOPS {
            runs.recv().unwrap();
        }
        eprintln!("all run");
        for thread in threads {
            thread.join().unwrap();
        }
        eprintln!("all have ended");
        return;
    };
    many.line_with("all run");
    many.signal(Signal::TERM);
    many.line_with("all have ended");
    assert!(many.await_end().status.success());
}

#[test]
fn a_process_that_was_started_with_signals_blocked_says_so() {
    let directory = TempDir::new();
    for (blocked, expected) in [("--block-signal=TERM", "SIGTERM blocked"), ("--block-signal=USR1", "")] {
        let mut daemon = tool("/usr/bin/env");
        daemon.arg(blocked).arg(example("daemon")).arg(directory.address("socket")).env("NETWORK_NO_FORK", "1");
        let mut daemon = Process::start(&mut daemon, Watch::Stderr);
        if !expected.is_empty() {
            daemon.line_with(expected);
        }
        // The other signal, which is not.
        while UnixStream::connect(directory.path("socket")).is_err() {}
        until_greeted(&directory.address("socket"));
        daemon.signal(Signal::INT);
        let output = daemon.await_end();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(output.stderr.contains("blocked"), !expected.is_empty(), "{}", output.stderr);
    }
}

/// Its loop runs.
fn until_greeted(address: &str) {
    let mut greeting = [0; 7];
    std::io::Read::read_exact(&mut UnixStream::connect(address).unwrap(), &mut greeting).unwrap();
    assert_eq!(&greeting, b"daemon ");
}

#[test]
fn a_forked_child_leaves_the_pid_file_to_its_parent() {
    let directory = TempDir::new();
    let path = directory.path("pid");
    let daemon = Daemon::new().pid_file(&path).unwrap();
    // SAFETY: the child drops one value, which makes system calls, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(daemon);
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: the child is ours, and there is a place for its status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
    assert!(matches!(Daemon::new().pid_file(&path), Err(Error::AlreadyRunning { .. })));
    drop(daemon);
    assert!(!path.exists());
}
