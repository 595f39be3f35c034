//! Finds the program that has a port. It is named only if the kernel says that it has it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Returns the name of the program that has this port, if it is one of this user's, and not this process.
pub fn holder(port: u16) -> Option<String> {
    // A listener keeps others away, and may itself have shared the port for datagrams with somebody else.
    ["tcp", "tcp6", "udp", "udp6"].iter().find_map(|table| {
        let sockets = fs::read_to_string(format!("/proc/self/net/{table}")).ok()?;
        let wanted: Vec<String> = sockets.lines().skip(1).filter_map(|line| socket(line, port, table)).collect();
        if wanted.is_empty() { None } else { owner(&wanted) }
    })
}

/// Returns how `/proc/PID/fd` calls the socket of a line, if it listens at the port or receives datagrams there.
fn socket(line: &str, port: u16, table: &str) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    let is_at_port = u16::from_str_radix(local.rsplit(':').next()?, 16) == Ok(port);
    let listens = !table.starts_with("tcp") || *state == "0A";
    (is_at_port && listens).then(|| format!("socket:[{inode}]"))
}

/// Returns the name of a process that has one of these sockets. Other users' descriptors cannot be read.
fn owner(sockets: &[String]) -> Option<String> {
    let own = std::process::id().to_string();
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let name = process.file_name();
        if !name.as_bytes().iter().all(u8::is_ascii_digit) || name == OsStr::new(&own) {
            return None;
        }
        let is_wanted = |target: &Path| sockets.iter().any(|socket| target.as_os_str() == OsStr::new(socket));
        let mut descriptors = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        descriptors.find(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|target| is_wanted(&target)))?;
        program(&process.path())
    })
}

/// GSConnect runs in an interpreter. Its name is in the path of what that runs.
fn program(process: &Path) -> Option<String> {
    let command = fs::read(process.join("cmdline")).ok()?;
    if command.split(|byte| *byte == 0).any(|argument| argument.windows(10).any(|part| part == b"/gsconnect")) {
        return Some("GSConnect".into());
    }
    let name = fs::read_to_string(process.join("comm")).ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}
