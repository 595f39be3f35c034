//! What echoes and lines cost, counted: the instructions of user code do not depend on the machine's speed. How many events
//! share a turn of GLib's loop does, and on who else uses the machine, so what is over its bound is counted anew.

use std::collections::HashMap;
use std::process::{Command, Output};

/// What is counted, what was measured, and what is allowed: of a bare loop, as a check of the count itself, and of this
/// library an echo with 64 connections; then by futures an echo with 16 connections, by a callback that awaits, by a task
/// of GLib's each, where its share is more than half, and by one task for all; a line of 80 bytes with a reply, as a
/// `String` of its own and lent; and what comes without a reply, as lines that are text or bytes, and as frames as long.
const BOUNDS: [(&str, &str, f64); 10] = [
    ("raw", "77", 200.0),
    ("network", "700 to 760", 1000.0),
    ("served", "2800", 4500.0),
    ("futures", "4900 to 6200", 8000.0),
    ("one-task", "2600 to 3100", 4500.0),
    ("lines", "740 to 850", 1100.0),
    ("lent-lines", "510 to 600", 800.0),
    ("text-in", "219 to 225", 300.0),
    ("lines-in", "168 to 177", 230.0),
    ("frames-in", "117 to 119", 180.0),
];

const TRIES: usize = 3;

/// As `cargo bench` builds it. If that has not been done before, this builds it, which takes longer than the rest.
fn bench(arguments: &[&str]) -> Output {
    let mut bench = Command::new(env!("CARGO"));
    // What cargo tells this test of itself would make build scripts think that everything is new.
    let of_test = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
    for (name, _) in std::env::vars_os() {
        if of_test.iter().any(|of_test| name.as_encoded_bytes().starts_with(of_test.as_bytes())) {
            bench.env_remove(name);
        }
    }
    bench.args(["bench", "--bench", "suite"]).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = bench.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn count() -> HashMap<String, f64> {
    let output = bench(&["--", "instructions"]);
    let said = String::from_utf8_lossy(&output.stdout);
    let counts = said.lines().filter_map(|line| {
        let (name, count) = line.split_once(' ')?;
        Some((name.to_owned(), count.trim().parse().ok()?))
    });
    counts.collect()
}

/// Than lines, or not much.
fn frames_are_no_dearer(counts: &HashMap<String, f64>) -> bool {
    counts["frames-in"] <= 1.15 * counts["lines-in"]
}

#[test]
fn echoes_and_lines_take_no_more_instructions_than_they_did() {
    let mut least: HashMap<String, f64> = HashMap::new();
    for _ in 0..TRIES {
        for (name, count) in count() {
            let known = least.entry(name).or_insert(count);
            *known = known.min(count);
        }
        assert!(least["raw"] > 10.0, "the bare loop itself takes {}: nothing is known", least["raw"]);
        if BOUNDS.iter().all(|(name, _, bound)| least[*name] < *bound) && frames_are_no_dearer(&least) {
            return;
        }
    }
    assert!(frames_are_no_dearer(&least), "frames {}, lines {}", least["frames-in"], least["lines-in"]);
    for (name, measured, bound) in BOUNDS {
        let count = least[name];
        assert!(count < bound, "{name}: {count} user instructions, measured {measured}, allowed {bound}");
    }
}

/// For what a function costs that returns past a system call, see docs/performance.md. Whether the compiler has kept to the
/// one frame that the source has is seen in what it made of it: calls to receive, from streams, with descriptors, and
/// datagrams, and to send.
#[cfg(target_arch = "x86_64")]
#[test]
fn messages_are_received_and_sent_in_the_frame_of_the_loop() {
    let built = bench(&["--no-run"]);
    let said = String::from_utf8_lossy(&built.stderr);
    let path = said.rsplit('(').next().and_then(|rest| rest.split(')').next()).unwrap();
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let listing =
        Command::new("objdump").args(["--disassemble", "--demangle", "--no-show-raw-insn"]).arg(path).output();
    let listing = String::from_utf8_lossy(&listing.unwrap().stdout).into_owned();
    // The numbers of the system calls in a function.
    let calls = |name: &str| {
        let start = listing.lines().skip_while(|line| !(line.ends_with(">:") && line.contains(name)));
        let (mut number, mut calls) = (None, Vec::new());
        for line in start.skip(1).take_while(|line| !line.is_empty()) {
            if let Some((hex, _)) = line.split_once("mov    $0x").and_then(|(_, rest)| rest.split_once(",%eax")) {
                number = i64::from_str_radix(hex, 16).ok();
            }
            if line.contains("\tsyscall") {
                calls.extend(number.take());
            }
        }
        calls
    };
    let of_loop = calls("engine::Engine>::work");
    let count = |number: i64| of_loop.iter().filter(|call| **call == number).count();
    let counts = (count(libc::SYS_sendto), count(libc::SYS_recvfrom), count(libc::SYS_recvmsg));
    assert!(counts.0 >= 1 && counts.1 >= 2 && counts.2 >= 1, "system calls in the frame of the loop: {of_loop:?}");
    // And where there is nothing to be found, nothing is.
    assert!(calls("no::such::function").is_empty());
}
