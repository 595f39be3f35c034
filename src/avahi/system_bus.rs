//! The address of the D-Bus system bus. Never blocks.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::os_text;
use crate::sys;

/// The address of the system bus unless the environment sets another one.
const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket;unix:path=/var/run/dbus/system_bus_socket";

/// Connects to the system bus, without authentication.
///
/// # Errors
/// The reason, as text.
pub(super) fn open() -> Result<OwnedFd, String> {
    let addresses = std::env::var_os("DBUS_SYSTEM_BUS_ADDRESS").filter(|value| !value.is_empty());
    let addresses = addresses.unwrap_or_else(|| SYSTEM_BUS.into()).into_vec();
    let mut cause = None;
    for address in addresses.split(|&b| b == b';').filter(|address| !address.is_empty()) {
        match open_one(address) {
            Ok(fd) => return Ok(fd),
            Err(error) => cause = cause.or(Some(error)),
        }
    }
    Err(cause.unwrap_or_else(|| "DBUS_SYSTEM_BUS_ADDRESS contains no address".into()))
}

/// Appends the missing permission to the cause of a failure if this process runs in a sandbox.
pub(super) fn in_sandbox(cause: String) -> String {
    match std::env::var_os("FLATPAK_ID") {
        Some(_) => format!("{cause}; a Flatpak needs --system-talk-name=org.freedesktop.Avahi in its manifest"),
        None => cause,
    }
}

fn open_one(address: &[u8]) -> Result<OwnedFd, String> {
    let failed = |error: Errno| format!("{}: {}", String::from_utf8_lossy(address), os_text(&error.into()));
    let to = socket_address(address)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = sys::socket(AddressFamily::UNIX, SocketType::STREAM, flags).map_err(failed)?;
    sys::connect(&fd, &to).map_err(failed)?;
    Ok(fd)
}

/// Parses `unix:path=…` and `unix:abstract=…`, the only forms that a system bus has.
fn socket_address(address: &[u8]) -> Result<SocketAddrUnix, String> {
    let unknown = || format!("invalid bus address {:?}: expected unix:path=…", String::from_utf8_lossy(address));
    let pairs = address.strip_prefix(b"unix:").ok_or_else(unknown)?;
    for pair in pairs.split(|&b| b == b',') {
        let made = if let Some(path) = pair.strip_prefix(b"path=") {
            SocketAddrUnix::new(OsStr::from_bytes(&unescape(path).ok_or_else(unknown)?))
        } else if let Some(name) = pair.strip_prefix(b"abstract=") {
            SocketAddrUnix::new_abstract_name(&unescape(name).ok_or_else(unknown)?)
        } else {
            continue;
        };
        return made.map_err(|_| unknown());
    }
    Err(unknown())
}

/// Decodes percent escapes such as `%2f`.
fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            plain.push(first);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2)?;
        plain.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = tail;
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_buses_are_read() {
        let path = |text: &str| socket_address(text.as_bytes()).ok()?.path().map(|path| path.into_owned());
        assert_eq!(path("unix:path=/run/a%20b,guid=12").unwrap().as_bytes(), b"/run/a b");
        assert_eq!(path("unix:guid=12,path=/run/a").unwrap().as_bytes(), b"/run/a");
        let hidden = socket_address(b"unix:abstract=/tmp/x").unwrap();
        assert_eq!(hidden.abstract_name(), Some(&b"/tmp/x"[..]));
        for wrong in ["", "tcp:host=localhost", "unix:", "unix:path=%2", "unix:path=%zz", "unix:dir=/tmp"] {
            assert!(socket_address(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
