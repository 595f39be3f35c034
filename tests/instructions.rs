//! What echoes and lines cost, counted: user instructions do not depend on the machine's speed or on who else uses it.

use std::process::Command;

/// Measured: 750 to 780 for each echo with 64 connections, of which GLib's share is some 50 to 90, by how many are ready at
/// a time. A quarter more is allowed.
const BOUND: f64 = 970.0;

/// By futures, of an echo with 16 connections: of one task for each, where GLib's share is more than half, and of one task for all
/// (measured: 4900 to 5200, 2600 to 2850). And of a line of 80 bytes with a reply: as a `String` of its own (900 to 950), and
/// lent (650 to 670). Under valgrind the loop runs out of credit sooner, so these vary.
const AWAITED: [(&str, f64); 4] =
    [("futures ", 6000.0), ("one-task ", 3300.0), ("lines ", 1150.0), ("lent-lines ", 820.0)];

/// As `cargo bench` builds it. If that has not been done before, this builds it, which takes longer than the rest.
#[test]
fn echoes_and_lines_take_no_more_instructions_than_they_did() {
    let mut bench = Command::new(env!("CARGO"));
    // What cargo tells this test of itself would make build scripts think that everything is new.
    let of_test = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
    for (name, _) in std::env::vars_os() {
        if of_test.iter().any(|of_test| name.as_encoded_bytes().starts_with(of_test.as_bytes())) {
            bench.env_remove(name);
        }
    }
    let counted = bench
        .args(["bench", "--bench", "suite", "--", "instructions"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&counted.stdout);
    let errors = String::from_utf8_lossy(&counted.stderr);
    assert!(counted.status.success(), "{said}{errors}");
    let of = |name: &str| -> f64 {
        let count = said.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        count.unwrap_or_else(|| panic!("no count of {name} in {said:?}: {errors}"))
    };
    let (raw, ours) = (of("raw "), of("network "));
    assert!(raw > 10.0 && raw < 200.0, "the bare loop itself takes {raw}: nothing is known");
    assert!(ours < BOUND, "{ours} user instructions for each echo, where {BOUND} are allowed");
    for (name, bound) in AWAITED {
        let count = of(name);
        assert!(count < bound, "{count} user instructions for each of {name}, where {bound} are allowed");
    }
}
