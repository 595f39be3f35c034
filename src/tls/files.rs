//! Files of certificates, keys and pins: reading them, without hanging or filling the memory whatever lies at the path, and
//! checking that a private key is protected from other users.

use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::error::Error;

/// The largest PEM file. A bundle of all public authorities has about 250 KB.
pub(super) const PEM_MAX: u64 = 4 << 20;

/// The largest pin. It is one line, perhaps below comments.
pub(super) const PIN_MAX: u64 = 64 << 10;

/// Creates an [`Error::Identity`] about this file.
pub(super) fn trouble(path: &Path, problem: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Identity { path: path.to_owned(), problem: problem.into() }
}

/// Reads a regular file of up to `limit` bytes. A FIFO without a writer would block, and a device might never end.
pub(super) fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let regular = |found: Metadata| {
        let problem = || io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
        if found.is_file() { Ok(()) } else { Err(problem()) }
    };
    // Checked before opening, because opening a device can have effects, and after it, because the file may have been
    // replaced.
    regular(fs::metadata(path)?)?;
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    regular(file.metadata()?)?;
    let mut contents = Vec::new();
    file.take(limit + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("larger than {limit} bytes")));
    }
    Ok(contents)
}

/// Owner, group and mode of a file or directory.
#[derive(Clone, Copy)]
struct Access {
    user: u32,
    group: u32,
    mode: u32,
}

impl Access {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Access { user: found.uid(), group: found.gid(), mode: found.mode() })
    }

    /// Returns the permissions of the group and of others. Only root is in the group of root.
    fn others(&self) -> u32 {
        if self.user == 0 && self.group == 0 { self.mode & 0o007 } else { self.mode & 0o077 }
    }
}

/// Returns an error text if a user other than this one and root can read or replace the private key in this file.
pub(super) fn exposure(key_file: &Path) -> Option<String> {
    let key = Access::of(key_file).ok()?;
    // A symbolic link can be replaced as well as the file that it leads to.
    let real = fs::canonicalize(key_file).ok();
    let parents = [Some(key_file), real.as_deref()].into_iter().flatten().filter_map(Path::parent);
    let directories = parents.map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
    let directories: Vec<Access> = directories.filter_map(|directory| Access::of(directory).ok()).collect();
    exposed(key, &directories, rustix::process::geteuid().as_raw())
        .map(|problem| format!("{}: {problem}", key_file.display()))
}

fn exposed(key: Access, directories: &[Access], me: u32) -> Option<String> {
    let foreign = |access: &Access| access.user != me && access.user != 0;
    if foreign(&key) {
        return Some(format!("private key belongs to user {}, who can replace it", key.user));
    }
    if key.others() & 0o022 != 0 {
        return Some("private key is writable by other users; run chmod 600".to_owned());
    }
    // An administrator shares a key of root with the group of a daemon.
    let readable = if key.user == 0 && me != 0 { 0o004 } else { 0o044 };
    if key.others() & readable != 0 {
        return Some("private key is readable by other users; run chmod 600".to_owned());
    }
    directories.iter().find_map(|directory| {
        let sticky = directory.mode & 0o1000 != 0; // others cannot replace files in it
        if foreign(directory) {
            let owner = directory.user;
            Some(format!("the directory of the private key belongs to user {owner}, who can replace it"))
        } else if directory.others() & 0o022 != 0 && !sticky {
            Some("the directory of the private key is writable by other users; run chmod go-w on it".to_owned())
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_is_for_its_user_and_root() {
        let (me, root, other) = (1000, 0, 1001);
        let access = |user, group, mode| Access { user, group, mode };
        let safe = access(me, me, 0o40700);
        let told = |key, directory, who| exposed(key, &[safe, directory], who).unwrap_or_default();
        for (key, directory, who) in [
            (access(me, me, 0o100600), safe, me),
            (access(me, me, 0o100400), access(me, me, 0o40755), me),
            (access(me, me, 0o100600), access(root, root, 0o41777), me),
            (access(me, me, 0o100600), access(root, root, 0o40775), me),
            (access(root, 114, 0o100640), access(root, root, 0o40710), me), // Debian's ssl-cert
        ] {
            assert_eq!(told(key, directory, who), "", "{:o}", key.mode);
        }
        // Credentials of systemd.
        assert_eq!(exposed(access(root, root, 0o100440), &[access(root, root, 0o40700)], root), None);
        for (key, directory, who, words) in [
            (access(me, me, 0o100640), safe, me, "readable by other users"),
            (access(me, me, 0o100604), safe, me, "readable by other users"),
            (access(root, 114, 0o100640), safe, root, "readable by other users"),
            (access(root, root, 0o100644), safe, me, "readable by other users"),
            (access(me, me, 0o100660), safe, me, "writable by other users"),
            (access(me, me, 0o100602), safe, me, "writable by other users"),
            (access(other, me, 0o100600), safe, me, "belongs to user 1001"),
            (access(me, me, 0o100600), safe, root, "belongs to user 1000"),
            (access(me, me, 0o100600), access(me, me, 0o40777), me, "directory of the private key is writable"),
            (access(me, me, 0o100600), access(me, me, 0o40770), me, "directory of the private key is writable"),
            (access(me, me, 0o100600), access(root, 114, 0o40775), me, "directory of the private key is writable"),
            (access(me, me, 0o100600), access(other, me, 0o40700), me, "directory of the private key belongs"),
        ] {
            assert!(told(key, directory, who).contains(words), "{words}: {}", told(key, directory, who));
        }
    }

    #[test]
    fn reading_never_waits_and_has_an_end() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        fs::write(path("small"), "ten bytes!").unwrap();
        assert_eq!(read_regular(&path("small"), 10).unwrap(), b"ten bytes!");
        assert!(read_regular(&path("small"), 9).unwrap_err().to_string().contains("larger than 9 bytes"));
        rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for odd in [path("fifo"), home.path().to_owned(), "/dev/zero".into()] {
            assert!(read_regular(&odd, 10).unwrap_err().to_string().contains("not a regular file"), "{odd:?}");
        }
        assert_eq!(read_regular(&path("none"), 10).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
