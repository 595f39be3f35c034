//! Pins: which certificate belongs to which address. One small file for each peer in `peers/`, its name the address, so
//! that a person can read them, and forget one by deleting its file.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::certificate::Fingerprints;
use super::files::{PIN_MAX, read_regular, trouble};
use super::store::{PIN_PATIENCE, Store, make_directory};
use crate::error::{Printable, Result};
use crate::fingerprint::{Fingerprint, FingerprintError};

/// File names have up to 255 bytes. This leaves room for the affixes of drafts.
const LONGEST_NAME: usize = 180;

/// The condition that every server at an address must meet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Pin {
    /// Its key or its certificate has this fingerprint.
    Key(Fingerprint),
    /// Its certificate is one of the user's own.
    Own,
    /// Its certificate is issued by a system root, or is one of the user's own.
    Roots,
}

impl Pin {
    /// Returns whether a server meets this condition that has presented this certificate and would be pinned as `known`.
    pub(super) fn admits(&self, known: Pin, shown: &Fingerprints) -> bool {
        match self {
            Pin::Key(fingerprint) => shown.matches(fingerprint),
            Pin::Own => known == Pin::Own,
            Pin::Roots => matches!(known, Pin::Own | Pin::Roots),
        }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pin::Key(fingerprint) => fingerprint.fmt(out),
            Pin::Own => out.write_str("own"),
            Pin::Roots => out.write_str("roots"),
        }
    }
}

impl std::str::FromStr for Pin {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        match text {
            "own" => Ok(Pin::Own),
            "roots" => Ok(Pin::Roots),
            text => text.parse().map(Pin::Key),
        }
    }
}

impl Store {
    /// Returns the pin of this address, if there is one.
    ///
    /// A pin that cannot be read is an error. Treating it as absent would accept other servers.
    pub(crate) fn pin(&self, address: &str) -> Result<Option<Pin>> {
        let file = self.pin_file(address);
        let text = match read_regular(&file, PIN_MAX) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return self.check_absence(&file).map(|()| None);
            }
            Err(error) => return Err(trouble(&file, error)),
        };
        let text = str::from_utf8(&text).map_err(|_| trouble(&file, "contains something that is not text"))?;
        let text = text.trim_start_matches('\u{feff}');
        let mut pins = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let pin = pins.next().ok_or_else(|| trouble(&file, "contains no fingerprint"))?;
        if pins.next().is_some() {
            return Err(trouble(&file, "contains more than one fingerprint"));
        }
        pin.parse().map(Some).map_err(|error| trouble(&file, error))
    }

    /// Checks that a pin is absent rather than hidden, as by a symbolic link to a disk that is not mounted.
    fn check_absence(&self, file: &Path) -> Result {
        let peers = self.peers();
        for path in [file, &peers, self.base()] {
            match fs::symlink_metadata(path) {
                Ok(found) if found.is_symlink() && fs::metadata(path).is_err() => {
                    return Err(trouble(path, "a symbolic link that leads nowhere"));
                }
                // Created just now. The next connection uses it.
                Ok(_) if path == file || path.is_dir() => return Ok(()),
                Ok(_) => return Err(trouble(path, "not a directory")),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Pins this address unless it is pinned already, and returns the pin that applies. If two connections meet a new server
    /// at once, the first decides for both.
    pub(crate) fn pin_first(&self, address: &str, pin: Pin) -> Result<Pin> {
        let lock = self.lock(PIN_PATIENCE)?;
        if let Some(pin) = self.pin(address)? {
            return Ok(pin);
        }
        make_directory(&self.peers(), 0o700)?;
        let file = self.pin_file(address);
        // The name of a service comes from the network. It must not add a second line.
        let text = format!("# {}\n{pin}\n", Printable(address));
        if lock.write_new(&file, text.as_bytes(), 0o600)? {
            return Ok(pin);
        }
        self.pin(address)?.ok_or_else(|| trouble(&file, "another program is changing it; try again"))
    }

    /// Returns the path of this address's pin, which need not exist.
    pub(crate) fn pin_file(&self, address: &str) -> PathBuf {
        self.peers().join(file_name(address))
    }
}

/// Returns a file name for this address. Different addresses have different ones.
fn file_name(address: &str) -> String {
    if address.is_empty() {
        return "%".to_owned(); // and not the directory itself
    }
    let mut name = String::with_capacity(address.len());
    for (index, byte) in address.bytes().enumerate() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b':' | b'[' | b']' | b'|' | b' ' => {
                name.push(byte.into());
            }
            b'.' if index > 0 => name.push('.'),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    if name.len() > LONGEST_NAME {
        // `%` without two hexadecimal digits: no short name contains that.
        name.truncate(LONGEST_NAME - 70);
        name.push_str(&format!("%-{}", Fingerprint::of(address.as_bytes())));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn key(bytes: &[u8]) -> Pin {
        Pin::Key(Fingerprint::of(bytes))
    }

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(&directory.path().join("network"));
        (directory, store)
    }

    #[test]
    fn the_first_pin_holds() {
        let (_directory, store) = store();
        let (one, two) = (key(b"1"), key(b"2"));
        assert_eq!(store.pin("host:1").unwrap(), None);
        assert_eq!(store.pin_first("host:1", one).unwrap(), one);
        assert_eq!(store.pin_first("host:1", two).unwrap(), one);
        assert_eq!(store.pin("host:1").unwrap(), Some(one));
        assert_eq!(store.pin("host:2").unwrap(), None);
    }

    #[test]
    fn a_pin_by_hand_counts_and_a_broken_one_is_no_missing_one() {
        let (_directory, store) = store();
        let pin = key(b"1");
        make_directory(&store.peers(), 0o700).unwrap();
        let file = store.pin_file("host:1");
        fs::write(&file, format!("# from the admin\n\n{}\n", pin.to_string().to_uppercase())).unwrap();
        assert_eq!(store.pin("host:1").unwrap(), Some(pin));
        for broken in ["", "# only talk\n", "abc\n", &format!("{pin}\n{pin}\n"), &format!("{pin} x\n")] {
            fs::write(&file, broken).unwrap();
            let error = store.pin("host:1").unwrap_err();
            assert!(matches!(&error, Error::Identity { path, .. } if *path == file), "{broken:?}: {error}");
        }
    }

    #[test]
    fn notes_are_written_and_read() {
        let (_directory, store) = store();
        for (address, pin) in [("a:1", Pin::Own), ("b:1", Pin::Roots)] {
            assert_eq!(store.pin_first(address, pin).unwrap(), pin);
            assert_eq!(store.pin(address).unwrap(), Some(pin));
            assert_eq!(store.pin_first(address, key(b"1")).unwrap(), pin);
        }
    }

    #[test]
    fn a_pin_that_cannot_be_read_is_no_missing_one() {
        let (directory, store) = store();
        let file = store.pin_file("host:1");
        let told = |words: &str| {
            let error = store.pin("host:1").unwrap_err();
            assert!(error.to_string().contains(words), "{words}: {error}");
            assert!(store.pin_first("host:1", key(b"1")).is_err(), "{words}");
        };
        let nowhere = directory.path().join("nowhere");
        std::os::unix::fs::symlink(&nowhere, directory.path().join("network")).unwrap();
        told("network: a symbolic link that leads nowhere");
        fs::create_dir(&nowhere).unwrap();
        assert_eq!(store.pin("host:1").unwrap(), None);
        std::os::unix::fs::symlink("/nowhere", store.peers()).unwrap();
        told("peers: a symbolic link that leads nowhere");
        fs::remove_file(store.peers()).unwrap();
        fs::write(store.peers(), "").unwrap();
        told("peers: not a directory");
        fs::remove_file(store.peers()).unwrap();
        fs::create_dir(store.peers()).unwrap();
        std::os::unix::fs::symlink("/nowhere", &file).unwrap();
        told("host:1: a symbolic link that leads nowhere");
        fs::remove_file(&file).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        told("not a regular file");
        fs::remove_file(&file).unwrap();
        fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
        told("larger than");
        fs::write(&file, b"\xff\xfe").unwrap();
        told("not text");
        fs::write(&file, format!("\u{feff}{}\r\n", key(b"1"))).unwrap();
        assert_eq!(store.pin("host:1").unwrap(), Some(key(b"1")));
        // A user without a home has no pins.
        assert_eq!(Store::new(Path::new("/dev/null/network")).pin("host:1").unwrap(), None);
        assert_eq!(Store::new(Path::new("/nonexistent/network")).pin("host:1").unwrap(), None);
    }

    #[test]
    fn hostile_service_names_stay_in_their_own_file() {
        let (_directory, store) = store();
        let long = "ä".repeat(300);
        let addresses = [
            "service|../../x",
            "service|..",
            ".",
            "..",
            "",
            "a/b",
            "a%2Fb",
            "x\ny",
            "x\0y",
            &long,
            &format!("{long}x"),
        ];
        for (index, address) in addresses.iter().enumerate() {
            let pin = key(&[index as u8]);
            assert_eq!(store.pin_file(address).parent(), Some(store.peers().as_path()));
            assert_eq!(store.pin_first(address, pin).unwrap(), pin, "{address:?}");
            assert_eq!(store.pin(address).unwrap(), Some(pin), "{address:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn file_names_are_one_to_one(a in "\\PC{0,12}", b in "\\PC{0,12}") {
            proptest::prop_assert_eq!(a == b, file_name(&a) == file_name(&b));
            proptest::prop_assert!(!file_name(&a).contains('/') && !file_name(&a).starts_with('.'));
        }
    }
}
