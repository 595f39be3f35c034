//! Where the programs of others are that the tests talk to, and whether the tests can have namespaces of their own.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

/// Where daemons are looked for: in `target/parties`, into which `./dev test` unpacks those that are not installed, then in
/// `PATH`.
pub fn search_path() -> OsString {
    let unpacked = std::env::var_os("NETWORK_PARTIES").map(PathBuf::from).or_else(|| {
        // Not started by ./dev: this program lies somewhere below `target`.
        let own = std::env::current_exe().unwrap();
        own.ancestors().map(|directory| directory.join("parties")).find(|parties| parties.is_dir())
    });
    let path = std::env::var_os("PATH").unwrap_or_default();
    let unpacked = unpacked.map(|parties| parties.join("bin"));
    // Daemons are where ordinary users do not look.
    let places = unpacked.into_iter().chain(std::env::split_paths(&path)).chain(["/usr/sbin".into(), "/sbin".into()]);
    std::env::join_paths(places).unwrap()
}

/// The path of a daemon, or of a program that comes with one.
pub fn party(name: &str) -> PathBuf {
    let found = std::env::split_paths(&search_path()).map(|place| place.join(name)).find(|program| program.is_file());
    found.unwrap_or_else(|| panic!("{name} is missing; ./dev test unpacks the daemons that the tests need"))
}

/// A command that does not go by the proxies of whoever runs the tests: everything here is on this machine.
pub fn without_proxies(mut command: Command) -> Command {
    for name in ["http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command
}

/// Whether the tests can have namespaces of their own. `./dev test` finds out, and tells which tests it has left out.
pub fn has_namespaces() -> bool {
    std::env::var_os("NETWORK_NO_NAMESPACES").is_none()
}

/// `unshare` with these namespaces. Whoever is not root becomes it in there.
pub fn unshare(namespaces: &[&str]) -> Command {
    let mut command = without_proxies(Command::new("unshare"));
    command.args(namespaces);
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command
}
