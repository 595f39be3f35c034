//! Another program of its kind on host 1: its bus, what is asked of it there, and what both have to agree on.

#![allow(dead_code)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::world::{Device, World};

const LIMIT: Duration = Duration::from_secs(40);

/// A session bus of the test's own.
pub struct Bus {
    pub address: String,
    _daemon: Device,
}

impl Bus {
    pub fn start(world: &World) -> Bus {
        let address = format!("unix:path={}", world.path("bus"));
        let mut daemon = Command::new("dbus-daemon");
        daemon.args(["--session", "--nofork", "--nopidfile", "--print-address", &format!("--address={address}")]);
        let mut daemon = Device::start("bus", daemon);
        daemon.wait("unix:path");
        Bus { address, _daemon: daemon }
    }

    /// Calls a method, `None` if it fails.
    pub fn try_call(&self, name: &str, path: &str, method: &str, arguments: &[&str]) -> Option<String> {
        let mut gdbus = Command::new("gdbus");
        gdbus.args(["call", "--address", &self.address, "--dest", name, "--object-path", path, "--method", method]);
        let output = gdbus.args(arguments).stderr(Stdio::inherit()).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }
}

/// The root of the unpacked packages.
pub fn root(variable: &str, program: &str) -> Option<String> {
    let root = std::env::var(variable).ok();
    if root.is_none() {
        println!("left out: {program} is not here; ./dev near-test unpacks it");
    }
    root
}

/// The directories below `root` that contain libraries, for `LD_LIBRARY_PATH`.
pub fn libraries(root: &str) -> String {
    let is_library = |name: &str| name.ends_with(".so") || name.contains(".so.");
    let (mut open, mut found) = (vec![Path::new(root).to_owned()], std::collections::BTreeSet::new());
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).unwrap().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                _ if is_library(&entry.file_name().to_string_lossy()) => _ = found.insert(directory.clone()),
                _ => {}
            }
        }
    }
    found.iter().map(|directory| directory.to_str().unwrap()).collect::<Vec<_>>().join(":")
}

/// The id that a device has made for itself.
pub fn id(world: &World, name: &str) -> String {
    let kept = std::fs::read_to_string(world.path(&format!("{name}.data/near.json"))).unwrap();
    serde_json::from_str::<serde_json::Value>(&kept).unwrap()["id"].as_str().unwrap().into()
}

/// Waits until something is so, and shows the last lines of both if it is not.
#[track_caller]
pub fn until(what: &str, devices: [&mut Device; 2], mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !is_so() {
        if Instant::now() > until {
            let last = devices.map(|device| device.seen().iter().rev().take(12).rev().cloned().collect::<Vec<_>>());
            panic!("waited in vain for {what}: {last:#?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Writes files whose bytes tell their places, and returns them.
pub fn files<const N: usize>(world: &World, files: [(&str, usize); N]) -> Vec<(String, Vec<u8>)> {
    let files = files.map(|(name, size)| (name.to_owned(), (0..size).map(|n| (n ^ n >> 9) as u8).collect::<Vec<u8>>()));
    for (name, data) in &files {
        std::fs::write(world.path(name), data).unwrap();
    }
    files.into()
}
