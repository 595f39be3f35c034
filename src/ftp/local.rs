//! Local files of transfers. A download goes to a partial file beside the target, which takes its place when it is complete.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::listing::last_part;
use super::manner::Manner;
use crate::engine::files;
use crate::error::ftp::{Response, Status};
use crate::error::os_text;

/// A local file that cannot be read or written, as the response that stands for that.
pub(super) fn refusal(doing: &str, path: &Path, error: &io::Error) -> Response {
    Response::new(Status::INVALID_FILE, format!("cannot {doing} {}: {}", path.display(), os_text(error)))
}

fn is_directory(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(b"/") || path.is_dir()
}

/// Returns the path to download to: one that is a directory gets the name of the remote file, and a link leads to its file.
/// A download takes the place of that: anything but a file is left alone.
pub(super) fn target(local: &Path, remote: &[u8]) -> Result<PathBuf, Response> {
    let path = if is_directory(local) { within(local, remote)? } else { local.to_owned() };
    let text = || format!("cannot write to {}: it is not a regular file", path.display());
    files::place_of(&path).ok_or_else(|| Response::new(Status::INVALID_FILE, text()))
}

fn within(directory: &Path, remote: &[u8]) -> Result<PathBuf, Response> {
    match last_part(remote).as_bytes() {
        b"" | b"." | b".." => Err(Response::new(
            Status::INVALID_FILE,
            format!("{:?} has no file name to use in {}", String::from_utf8_lossy(remote), directory.display()),
        )),
        name => Ok(directory.join(OsStr::from_bytes(name))),
    }
}

/// Returns the name to upload under: one that ends in `/` gets the name of the local file.
pub(super) fn destination(remote: &[u8], local: &Path) -> Vec<u8> {
    let mut remote = remote.to_vec();
    if remote.last() == Some(&b'/') {
        remote.extend(local.file_name().unwrap_or_default().as_bytes());
    }
    remote
}

/// The remote file, as far as the server tells.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Remote {
    pub(super) size: Option<u64>,
    pub(super) modified: Option<SystemTime>,
}

/// A file that is being downloaded.
pub(super) struct Partial {
    file: File,
    path: PathBuf,
    target: PathBuf,
    modified: Option<SystemTime>,
}

impl Partial {
    /// Opens it. Returns it with its length, at which the download continues: not zero only if it is the beginning of what the
    /// server still has. `resume` has it looked for.
    pub(super) fn open(target: PathBuf, resume: bool, remote: Remote) -> Result<(Self, u64), Response> {
        let mut name = OsString::from(&target);
        name.push(".part");
        let path = PathBuf::from(name);
        let partial = |file| Partial { file, path: path.clone(), target, modified: remote.modified };
        let refused = |error| refusal("write to", &path, &error);
        if resume && let Some((file, length)) = beginning(&path, remote).map_err(refused)? {
            return Ok((partial(file), length));
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(error)),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(refused)?;
        Ok((partial(file), 0))
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Response> {
        let written = self.file.write_all(bytes);
        // Also if the disk is full: it goes on from there.
        written.and(self.mark()).map_err(|error| refusal("write to", &self.path, &error))
    }

    /// Gives it the time of the remote file, by which it is recognized when the download continues.
    fn mark(&self) -> io::Result<()> {
        match self.modified {
            Some(modified) => self.file.set_modified(modified),
            None => Ok(()),
        }
    }

    /// Removes it: nothing has been written.
    pub(super) fn remove(self) {
        // It is empty, and in nobody's way if it stays.
        let _ = std::fs::remove_file(&self.path);
    }

    /// Puts it in the place of the target, once the disk has all of it.
    pub(super) async fn finish(self, manner: Manner) -> Result<(), Response> {
        let Partial { file, path, target, .. } = self;
        let synced = manner.sync(file).await;
        synced.and_then(|()| std::fs::rename(&path, &target)).map_err(|error| refusal("write to", &target, &error))
    }
}

/// Returns the file and its length if it is the beginning of the remote one.
fn beginning(path: &Path, remote: Remote) -> io::Result<Option<(File, u64)>> {
    let Some(mut file) = files::find_partial(path)? else { return Ok(None) };
    let found = file.metadata()?;
    let is_same = found.is_file()
        && remote.size.is_some_and(|size| found.len() <= size)
        && remote.modified.is_some_and(|modified| found.modified().is_ok_and(|local| is_about(local, modified)));
    if !is_same {
        return Ok(None);
    }
    let length = file.seek(SeekFrom::End(0))?;
    Ok(Some((file, length)))
}

/// Not every file system keeps fractions of seconds.
fn is_about(one: SystemTime, other: SystemTime) -> bool {
    let apart = one.duration_since(other).unwrap_or_else(|error| error.duration());
    apart.as_secs() == 0
}

/// A file to upload.
pub(super) struct Original {
    file: File,
    path: PathBuf,
    pub(super) length: u64,
}

impl Original {
    pub(super) fn open(path: &Path) -> Result<Self, Response> {
        let (file, length) = files::open_regular(path, "").map_err(|error| refusal("read", path, &error))?;
        Ok(Original { file, path: path.to_owned(), length })
    }

    /// Goes on from there.
    pub(super) fn skip(&mut self, count: u64) -> Result<(), Response> {
        self.file.seek(SeekFrom::Start(count)).map(drop).map_err(|error| refusal("read", &self.path, &error))
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Response> {
        read_some(&mut self.file, buffer).map_err(|error| refusal("read", &self.path, &error))
    }
}

/// Reads what there is. 0 is the end.
pub(super) fn read_some(source: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn remote(size: u64, seconds: u64) -> Remote {
        Remote { size: Some(size), modified: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)) }
    }

    fn finish(partial: Partial) {
        let finished = async {
            partial.finish(Manner::Blocks).await.unwrap();
            Ok(())
        };
        crate::ftp::manner::now(finished).unwrap();
    }

    #[test]
    fn what_is_a_directory_gets_the_name() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(target(directory.path(), b"/pub/a b").unwrap(), directory.path().join("a b"));
        assert_eq!(target(Path::new("new/"), b"x").unwrap(), Path::new("new/x"));
        assert_eq!(target(Path::new("new"), b"x").unwrap(), Path::new("new"));
        for name in ["", "a/", "..", "x/.."] {
            assert_eq!(target(directory.path(), name.as_bytes()).unwrap_err().status, Status::INVALID_FILE);
        }
        assert_eq!(destination(b"files/", Path::new("/home/a b")), b"files/a b");
        assert_eq!(destination(b"files", Path::new("/home/x")), b"files");
    }

    #[test]
    fn a_download_appears_when_it_is_complete_and_continues_if_it_was_not() {
        let directory = tempfile::tempdir().unwrap();
        let (target, part) = (directory.path().join("x"), directory.path().join("x.part"));
        let open = |resume, remote| Partial::open(target.clone(), resume, remote).map_err(|refused| refused.message);
        let (mut partial, at) = open(true, remote(10, 5)).unwrap();
        assert_eq!(at, 0);
        partial.write(b"12345").unwrap();
        drop(partial);
        assert!(part.exists() && !target.exists());
        // Of the same file: it goes on. Of another: anew.
        let (mut partial, at) = open(true, remote(10, 5)).unwrap();
        assert_eq!(at, 5);
        partial.write(b"67890").unwrap();
        finish(partial);
        assert_eq!(std::fs::read(&target).unwrap(), b"1234567890");
        assert!(!part.exists());
        for (resume, remote) in
            [(true, remote(10, 6)), (true, remote(2, 5)), (true, Remote::default()), (false, remote(10, 5))]
        {
            std::fs::write(&part, "123").unwrap();
            File::options()
                .write(true)
                .open(&part)
                .unwrap()
                .set_modified(super::tests::remote(0, 5).modified.unwrap())
                .unwrap();
            assert_eq!(open(resume, remote).unwrap().1, 0, "{remote:?}");
            assert_eq!(std::fs::read(&part).unwrap(), b"");
        }
    }

    #[test]
    fn what_stands_at_the_target_and_is_no_file_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        std::fs::write(path("file"), "old").unwrap();
        for (to, name) in
            [("socket", "to-socket"), ("file", "to-file"), ("nothing", "to-nothing"), (".", "to-directory")]
        {
            std::os::unix::fs::symlink(to, path(name)).unwrap();
        }
        for name in ["socket", "to-socket", "to-nothing"] {
            let refused = target(&path(name), b"x").unwrap_err();
            assert_eq!(refused.status, Status::INVALID_FILE);
            assert!(
                refused.message.contains(name) && refused.message.contains("not a regular file"),
                "{}",
                refused.message
            );
        }
        let real = directory.path().canonicalize().unwrap();
        // The file that a link leads to is replaced, not the link.
        assert_eq!(target(&path("to-file"), b"x").unwrap(), real.join("file"));
        assert_eq!(target(&path("to-directory"), b"new").unwrap(), path("to-directory").join("new"));
        assert_eq!(target(&path("file"), b"x").unwrap(), path("file"));
        // The name that a directory gives is looked at as well.
        assert!(target(directory.path(), b"pub/socket").is_err());
    }

    #[test]
    fn links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (target, victim) = (directory.path().join("x"), directory.path().join("victim"));
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, directory.path().join("x.part")).unwrap();
        assert!(Partial::open(target.clone(), true, remote(100, 5)).is_err());
        let (mut partial, _) = Partial::open(target, false, remote(100, 5)).unwrap();
        partial.write(b"new").unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    }

    #[test]
    fn files_that_cannot_be_used_are_refused_by_name() {
        let refused = Original::open(Path::new("/nosuch/x")).err().unwrap();
        assert_eq!(refused.status, Status::INVALID_FILE);
        assert!(refused.message.starts_with("cannot read /nosuch/x: "), "{}", refused.message);
        assert!(Original::open(Path::new("/")).is_err());
        let refused = Partial::open("/nosuch/x".into(), false, Remote::default()).err().unwrap();
        assert!(refused.message.starts_with("cannot write to /nosuch/x.part: "), "{}", refused.message);
    }
}
