//! Pins: which certificate belongs to which address. One small file for each peer in `peers/`, its name the address, so
//! that a person can read them, and forget one by deleting its file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::certificate::Fingerprints;
use super::files::{PIN_MAX, read_regular, trouble};
use super::store::{PIN_PATIENCE, Store, make_directory};
use super::trust::Trust;
use crate::certificate::{Fingerprint, FingerprintError};
use crate::error::{Printable, Result};

/// File names have up to 255 bytes. This leaves room for the affixes of drafts.
const LONGEST_NAME: usize = 180;

/// The condition that every server at an address must meet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Condition {
    /// Its key or its certificate has this fingerprint, by the decision of a program or a person.
    Key(Fingerprint),
    /// Its key has this fingerprint, as it had on first use.
    FirstUse(Fingerprint),
    /// Its certificate is one of the user's own.
    Own,
    /// Its certificate is issued by a system root, or is one of the user's own.
    Roots,
}

impl Condition {
    /// Returns whether a server meets this condition that has presented this certificate and is trusted for this reason.
    pub(super) fn admits(&self, known: Trust, shown: &Fingerprints) -> bool {
        match self {
            Condition::Key(fingerprint) | Condition::FirstUse(fingerprint) => shown.matches(fingerprint),
            Condition::Own => known == Trust::Own,
            Condition::Roots => matches!(known, Trust::Own | Trust::Roots),
        }
    }

    /// Returns the fingerprint, if the key is pinned.
    pub(super) fn fingerprint(&self) -> Option<Fingerprint> {
        match self {
            Condition::Key(fingerprint) | Condition::FirstUse(fingerprint) => Some(*fingerprint),
            Condition::Own | Condition::Roots => None,
        }
    }

    /// Returns why a server that meets this condition is trusted.
    pub(super) fn trust(&self) -> Trust {
        match self {
            Condition::Key(_) => Trust::Pin,
            Condition::FirstUse(_) => Trust::FirstUse,
            Condition::Own => Trust::Own,
            Condition::Roots => Trust::Roots,
        }
    }

    /// Returns the contents of the file. The name of a service comes from the network, and must not add a line.
    fn text(&self, address: &str) -> String {
        let address = Printable(address);
        match self {
            Condition::Key(fingerprint) => format!("# {address}\n# pinned\n{fingerprint}\n"),
            Condition::FirstUse(fingerprint) => format!("# {address}\n{fingerprint}\n"),
            Condition::Own => format!("# {address}\nown\n"),
            Condition::Roots => format!("# {address}\nroots\n"),
        }
    }
}

impl Store {
    /// Returns the pin of this address, if there is one.
    ///
    /// A pin that cannot be read is an error. Treating it as absent would accept other servers.
    pub(crate) fn pin(&self, address: &str) -> Result<Option<Condition>> {
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
        let fingerprint = match pin {
            "own" => return Ok(Some(Condition::Own)),
            "roots" => return Ok(Some(Condition::Roots)),
            pin => pin.parse().map_err(|error: FingerprintError| trouble(&file, error))?,
        };
        // What first use has not written as it is, a person has, or a program on behalf of one.
        let first_use = Condition::FirstUse(fingerprint);
        let is_first_use = text == first_use.text(address);
        Ok(Some(if is_first_use { first_use } else { Condition::Key(fingerprint) }))
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
    pub(crate) fn pin_first(&self, address: &str, pin: Condition) -> Result<Condition> {
        let lock = self.lock(PIN_PATIENCE)?;
        if let Some(pin) = self.pin(address)? {
            return Ok(pin);
        }
        make_directory(&self.peers(), 0o700)?;
        let file = self.pin_file(address);
        if lock.write_new(&file, pin.text(address).as_bytes(), 0o600)? {
            return Ok(pin);
        }
        self.pin(address)?.ok_or_else(|| trouble(&file, "another program is changing it; try again"))
    }

    /// Pins this address, whatever it was pinned to before.
    pub(super) fn pin_over(&self, address: &str, pin: Condition) -> Result {
        let lock = self.lock(PIN_PATIENCE)?;
        make_directory(&self.peers(), 0o700)?;
        lock.write_over(&self.pin_file(address), pin.text(address).as_bytes(), 0o600)
    }

    /// Deletes the pin of this address. Returns whether there was one.
    pub(super) fn unpin(&self, address: &str) -> Result<bool> {
        let file = self.pin_file(address);
        match fs::symlink_metadata(&file) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return self.check_absence(&file).map(|()| false);
            }
            Err(error) => return Err(trouble(&file, error)),
        }
        let _lock = self.lock(PIN_PATIENCE)?;
        match fs::remove_file(&file) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(trouble(&file, error)),
        }
    }

    /// Returns all pins that can be read, with their addresses, sorted by address.
    pub(super) fn pins(&self) -> Result<Vec<(String, Condition)>> {
        let peers = self.peers();
        let entries = match fs::read_dir(&peers) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return self.check_absence(&peers).map(|()| Vec::new());
            }
            Err(error) => return Err(trouble(&peers, error)),
        };
        let mut pins = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| trouble(&peers, error))?;
            // Other names are of no pin: a draft, or the copy of an editor.
            let Some(address) = entry.file_name().to_str().and_then(|name| self.address_of(name)) else { continue };
            // One file that is damaged must not hide all others. Connections to its address tell of it.
            if let Ok(Some(pin)) = self.pin(&address) {
                pins.push((address, pin));
            }
        }
        pins.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(pins)
    }

    /// Returns the address whose pin is in the file of this name. A long one is in the file only.
    fn address_of(&self, name: &str) -> Option<String> {
        let decoded = decoded_name(name).filter(|address| file_name(address) == name);
        decoded.or_else(|| {
            let text = read_regular(&self.peers().join(name), PIN_MAX).ok()?;
            let first = str::from_utf8(&text).ok()?.lines().next()?.strip_prefix("# ")?.to_owned();
            (file_name(&first) == name).then_some(first)
        })
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

/// Reverses [`file_name`] for all but long addresses.
fn decoded_name(name: &str) -> Option<String> {
    if name == "%" {
        return Some(String::new());
    }
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn key(bytes: &[u8]) -> Condition {
        Condition::FirstUse(Fingerprint::of(bytes))
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
        let pin = Fingerprint::of(b"1");
        make_directory(&store.peers(), 0o700).unwrap();
        let file = store.pin_file("host:1");
        fs::write(&file, format!("# from the admin\n\n{}\n", pin.to_string().to_uppercase())).unwrap();
        assert_eq!(store.pin("host:1").unwrap(), Some(Condition::Key(pin)));
        for broken in ["", "# only talk\n", "abc\n", &format!("{pin}\n{pin}\n"), &format!("{pin} x\n")] {
            fs::write(&file, broken).unwrap();
            let error = store.pin("host:1").unwrap_err();
            assert!(matches!(&error, Error::Identity { path, .. } if *path == file), "{broken:?}: {error}");
        }
    }

    #[test]
    fn notes_are_written_and_read() {
        let (_directory, store) = store();
        for (address, pin) in [("a:1", Condition::Own), ("b:1", Condition::Roots)] {
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
        let pin = Fingerprint::of(b"1");
        fs::write(&file, format!("\u{feff}{pin}\r\n")).unwrap();
        assert_eq!(store.pin("host:1").unwrap(), Some(Condition::Key(pin)));
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
        let listed: Vec<String> = store.pins().unwrap().into_iter().map(|(address, _)| address).collect();
        let mut all: Vec<&str> = addresses.to_vec();
        all.sort_unstable();
        assert_eq!(listed, all);
    }

    #[test]
    fn a_pin_replaces_whatever_was_there() {
        let (_directory, store) = store();
        let (one, two) = (Condition::Key(Fingerprint::of(b"1")), Condition::Key(Fingerprint::of(b"2")));
        assert!(!store.unpin("host:1").unwrap());
        assert_eq!(store.pins().unwrap(), []);
        assert!(!store.base().exists(), "to look for a pin creates nothing");
        for before in ["", "own\n", "broken\n", &format!("{}\n", Fingerprint::of(b"0"))] {
            make_directory(&store.peers(), 0o700).unwrap();
            fs::write(store.pin_file("host:1"), before).unwrap();
            for pin in [one, two, Condition::FirstUse(Fingerprint::of(b"2"))] {
                store.pin_over("host:1", pin).unwrap();
                assert_eq!(store.pin("host:1").unwrap(), Some(pin));
            }
        }
        store.pin_over("host:2", one).unwrap();
        fs::write(store.peers().join("host:3~"), "the copy of an editor").unwrap();
        fs::write(store.peers().join(".host:3.new"), "a draft").unwrap();
        let second = Condition::FirstUse(Fingerprint::of(b"2"));
        assert_eq!(store.pins().unwrap(), [("host:1".to_owned(), second), ("host:2".to_owned(), one)]);
        assert!(store.unpin("host:1").unwrap() && !store.unpin("host:1").unwrap());
        assert_eq!(store.pin("host:1").unwrap(), None);
        // A broken one is left out of the list. It is an error that names the file, and can be deleted.
        fs::write(store.pin_file("host:2"), "broken").unwrap();
        assert_eq!(store.pins().unwrap(), []);
        assert!(matches!(store.pin("host:2"), Err(Error::Identity { path, .. }) if path == store.pin_file("host:2")));
        assert!(store.unpin("host:2").unwrap());
        assert_eq!(store.pins().unwrap(), []);
    }

    proptest::proptest! {
        #[test]
        fn file_names_are_one_to_one(a in "\\PC{0,12}", b in "\\PC{0,12}") {
            proptest::prop_assert_eq!(a == b, file_name(&a) == file_name(&b));
            proptest::prop_assert!(!file_name(&a).contains('/') && !file_name(&a).starts_with('.'));
            proptest::prop_assert_eq!(decoded_name(&file_name(&a)), Some(a));
        }
    }
}
