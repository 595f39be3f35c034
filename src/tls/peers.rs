//! Pins: which certificate belongs to which address. One small file for each peer in `peers/`, its name the address, so
//! that a person can read them, and forget one by deleting its file.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::files::trouble;
use super::store::{PIN_PATIENCE, Store, make_directory, write_whole};
use crate::error::{Printable, Result};
use crate::fingerprint::Fingerprint;

/// File names end at 255 bytes; this leaves room for the draft's affixes.
const LONGEST_NAME: usize = 200;

impl Store {
    /// The pin of this address, if it has one.
    ///
    /// A pin that cannot be read is an error: going on as if there were none would let anybody in.
    pub(crate) fn pin(&self, address: &str) -> Result<Option<Fingerprint>> {
        let file = self.pin_file(address);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(trouble(&file, error)),
        };
        let mut pins = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let pin = pins.next().ok_or_else(|| trouble(&file, "there is no fingerprint in it"))?;
        if pins.next().is_some() {
            return Err(trouble(&file, "one fingerprint is expected, and there are more lines"));
        }
        pin.parse().map(Some).map_err(|error| trouble(&file, error))
    }

    /// Pins this address unless it is pinned already. Returns the pin that holds now: where two connections meet a new
    /// peer at once, the first decides for both.
    pub(crate) fn pin_first(&self, address: &str, fingerprint: Fingerprint) -> Result<Fingerprint> {
        let _lock = self.lock(PIN_PATIENCE)?;
        if let Some(pin) = self.pin(address)? {
            return Ok(pin);
        }
        make_directory(&self.peers(), 0o700)?;
        // A service's name is anybody's choice on the LAN: it must not write a second line.
        let text = format!("# {}\n{fingerprint}\n", Printable(address));
        write_whole(&self.pin_file(address), text.as_bytes(), 0o600)?;
        Ok(fingerprint)
    }

    /// Where the pin of this address is or would be.
    pub(crate) fn pin_file(&self, address: &str) -> PathBuf {
        self.peers().join(file_name(address))
    }
}

/// Two addresses never share a file name, whatever characters they have.
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
        // `%` and no two hexadecimal digits after it: no short name looks like that.
        name.truncate(LONGEST_NAME - 70);
        name.push_str(&format!("%-{}", Fingerprint::of(address.as_bytes())));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(&directory.path().join("network"));
        (directory, store)
    }

    #[test]
    fn the_first_pin_holds() {
        let (_directory, store) = store();
        let (one, two) = (Fingerprint::of(b"1"), Fingerprint::of(b"2"));
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
        assert_eq!(store.pin("host:1").unwrap(), Some(pin));
        for broken in ["", "# only talk\n", "abc\n", &format!("{pin}\n{pin}\n"), &format!("{pin} x\n")] {
            fs::write(&file, broken).unwrap();
            let error = store.pin("host:1").unwrap_err();
            assert!(matches!(&error, Error::Identity { path, .. } if *path == file), "{broken:?}: {error}");
        }
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
            let pin = Fingerprint::of(&[index as u8]);
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
