//! A file that is on its way to the disk: it gets its name when it is whole, and is removed otherwise.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

/// A file that is not whole yet. It is removed, unless it is finished.
pub struct Part {
    path: PathBuf,
    file: Option<File>,
    /// The last block, on its way to the disk.
    writing: Option<Writing>,
}

type Writing = gio::JoinHandle<io::Result<(File, Vec<u8>)>>;

impl Part {
    pub fn create(directory: &Path, name: &str) -> Result<Part, String> {
        let create = |n: u32| {
            let path = directory.join(if n == 0 { format!(".{name}.part") } else { format!(".{name}.{n}.part") });
            OpenOptions::new().write(true).create_new(true).open(&path).map(|file| Part {
                path,
                file: Some(file),
                writing: None,
            })
        };
        let made = fs::create_dir_all(directory).and_then(|()| {
            let is_taken = |result: &io::Result<Part>| {
                result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists)
            };
            (0..1000).map(create).find(|result| !is_taken(result)).unwrap_or_else(|| create(0))
        });
        made.map_err(|error| words(&error))
    }

    /// Begins to write a block, once the one before is written. Returns memory for the next one.
    pub async fn write(&mut self, block: Vec<u8>) -> Result<Vec<u8>, String> {
        let (mut file, spare) = self.settled().await?;
        self.writing = Some(gio::spawn_blocking(move || file.write_all(&block).map(|()| (file, block))));
        Ok(spare)
    }

    /// Waits for the last block to be written, and takes the file.
    async fn settled(&mut self) -> Result<(File, Vec<u8>), String> {
        let Some(writing) = self.writing.take() else {
            return Ok((self.file.take().ok_or("The file is closed")?, Vec::new()));
        };
        writing.await.map_err(|_| "The disk")?.map_err(|error| words(&error))
    }

    /// Gives it its name, or the next free one.
    pub async fn finish(&mut self, name: &str) -> Result<PathBuf, String> {
        let (file, _) = self.settled().await?;
        let (part, name) = (self.path.clone(), name.to_owned());
        let named = gio::spawn_blocking(move || {
            file.sync_all()?;
            for n in 0..10_000 {
                let path = part.with_file_name(numbered(&name, n));
                match renameat_with(CWD, &part, CWD, &path, RenameFlags::NOREPLACE) {
                    Err(Errno::EXIST) => {}
                    result => return result.map(|()| path).map_err(Into::into),
                }
            }
            Err(io::Error::from(io::ErrorKind::AlreadyExists))
        });
        named.await.map_err(|_| "The disk")?.map_err(|error| words(&error))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // If it is finished, the name is gone.
        let _ = fs::remove_file(&self.path);
    }
}

/// `a.txt`, `a (1).txt`, `a (2).txt` …
fn numbered(name: &str, n: u32) -> String {
    match name.rsplit_once('.') {
        _ if n == 0 => name.into(),
        Some((stem, extension)) if !stem.is_empty() => format!("{stem} ({n}).{extension}"),
        _ => format!("{name} ({n})"),
    }
}

fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull => "The disk is full".into(),
        io::ErrorKind::PermissionDenied => "The folder cannot be written to".into(),
        _ => error.to_string(),
    }
}
