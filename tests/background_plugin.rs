//! A program that unloads a plugin goes on, whatever the plugin has attached to its main loop.

mod common;

use std::path::Path;
use std::process::Command;

use common::{TempDir, example, run};

#[test]
fn a_plugin_may_be_unloaded_after_its_thread_has_ended() {
    let directory = TempDir::new();
    let flags = Command::new("pkg-config").args(["--cflags", "--libs", "glib-2.0"]).output().unwrap();
    let flags = String::from_utf8(flags.stdout).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plugin/host.c");
    let mut cc = Command::new("cc");
    cc.arg("-o").arg(directory.path("host")).arg(source).args(flags.split_whitespace()).arg("-ldl");
    let built = cc.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let output = run(Command::new(directory.path("host")).arg(example("libplugin.so")), "");
    output.assert_clean();
    assert_eq!(output.text(), "still there\n");
}
