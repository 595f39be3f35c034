//! The daemons that the tests talk to, and the namespaces that the tests run in.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The directories that are searched for daemons: `target/parties`, into which `./dev test` unpacks those that are not
/// installed, then `PATH`.
pub fn search_path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let unpacked = unpacked().map(|parties| parties.join("bin"));
    // Daemons are often in directories that are not in the PATH of ordinary users.
    let places = unpacked.into_iter().chain(std::env::split_paths(&path)).chain(["/usr/sbin".into(), "/sbin".into()]);
    std::env::join_paths(places).unwrap()
}

fn unpacked() -> Option<PathBuf> {
    std::env::var_os("NETWORK_PARTIES").map(PathBuf::from).or_else(|| {
        // Not started by ./dev. This program is somewhere below `target`.
        let own = std::env::current_exe().unwrap();
        own.ancestors().map(|directory| directory.join("parties")).find(|parties| parties.is_dir())
    })
}

/// In a mount namespace: puts the unpacked daemons where they would be if they were installed. Some know no other place.
#[allow(dead_code)]
pub fn install_unpacked() {
    let Some(root) = unpacked().and_then(|parties| parties.join("root/usr").canonicalize().ok()) else { return };
    let mut mount = Command::new("mount");
    mount.args(["-t", "overlay", "overlay", "-o", &format!("lowerdir={}:/usr", root.display()), "/usr"]);
    assert!(mount.status().unwrap().success(), "{mount:?}");
}

/// In a mount namespace: gives Avahi's accounts the ids of root, since there may be no others inside. The daemon requires that
/// its account owns its directory.
#[allow(dead_code)]
pub fn name_root_avahi(place: &Path) {
    for (file, names) in [("passwd", &["avahi"][..]), ("group", &["avahi", "netdev"])] {
        let system = format!("/etc/{file}");
        let text = std::fs::read_to_string(&system).unwrap();
        let is_other = |line: &&str| !names.contains(&line.split(':').next().unwrap_or_default());
        let mut lines: Vec<String> = text.lines().filter(is_other).map(str::to_owned).collect();
        let rest = if file == "passwd" { "x:0:0::/:/bin/false" } else { "x:0:" };
        lines.extend(names.iter().map(|name| format!("{name}:{rest}")));
        let own = place.join(file);
        std::fs::write(&own, lines.join("\n") + "\n").unwrap();
        let mut mount = Command::new("mount");
        mount.arg("--bind").args([&own, Path::new(&system)]);
        assert!(mount.status().unwrap().success(), "{mount:?}");
    }
}

pub fn find_party(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path()).map(|place| place.join(name)).find(|program| program.is_file())
}

/// Returns the path of a daemon, or of a program from its package.
pub fn party(name: &str) -> PathBuf {
    find_party(name).unwrap_or_else(|| panic!("{name} is missing; ./dev test unpacks the daemons that the tests need"))
}

/// Removes the user's proxies from the environment of a command: the tests connect to this machine only.
pub fn without_proxies(mut command: Command) -> Command {
    for name in ["http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command
}

/// Returns whether tests can create namespaces. `./dev test` checks that, and lists the tests that it leaves out.
pub fn has_namespaces() -> bool {
    std::env::var_os("NETWORK_NO_NAMESPACES").is_none()
}

/// Returns `unshare` with these namespaces. An ordinary user is mapped to root inside.
pub fn unshare(namespaces: &[&str]) -> Command {
    let mut command = without_proxies(Command::new("unshare"));
    command.args(namespaces);
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command
}
