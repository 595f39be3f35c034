//! The user's store of certificates on disk: `certs/NAME.pem`, `private/NAME.key`, `peers/`. Owns the layout, the lock
//! and the way files come into being; the python-network library keeps its own certificates in the same places.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rcgen::KeyPair;

use super::certificate::{self, PublicKey};
use super::files::{exposure, trouble};
use super::identity::{Identity, RENEW_BEFORE};
use super::pem::{read_certificates, read_key};
use super::private_key::signer;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;

/// How long to wait for the lock: for a certificate, which a program makes before it serves anybody, as long as a busy
/// disk may take for the one who makes it; for a pin, which a window may wait for, little.
const IDENTITY_PATIENCE: Duration = Duration::from_secs(10);
pub(super) const PIN_PATIENCE: Duration = Duration::from_secs(2);

impl Identity {
    /// The identity of this name in the user's own store, `$XDG_DATA_HOME/network` (`~/.local/share/network`). It is
    /// made if there is none yet: a certificate in `certs/NAME.pem`, valid for ten years, with its private key, which
    /// only the user can read, in `private/NAME.key`. What was made here is renewed, with the same key, when its end is
    /// near.
    ///
    /// # Errors
    ///
    /// [`Error::TlsSettings`] when the name is empty or has `/`, `..` or NUL in it. [`Error::Identity`], which names the
    /// file, when the files are there but broken, do not fit together, or cannot be read, or when they cannot be made.
    /// Nothing that is there is ever overwritten.
    pub fn named(name: &str) -> Result<Self> {
        Store::of_user()?.load_or_make(name)
    }

    /// Like [`named`](Self::named), with the store in another directory, as a daemon might keep it in `/var/lib`.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn named_in(directory: impl AsRef<Path>, name: &str) -> Result<Self> {
        Store::new(directory.as_ref()).load_or_make(name)
    }
}

/// A store: a directory, which need not exist yet.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Store {
    base: PathBuf,
}

impl Store {
    pub(super) fn new(base: &Path) -> Self {
        Store { base: base.to_owned() }
    }

    /// The store of the user this process runs as.
    pub(super) fn of_user() -> Result<Self> {
        let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let data = data.or_else(|| {
            let home = std::env::home_dir().filter(|home| home.is_absolute())?;
            Some(home.join(".local/share"))
        });
        let data = data.ok_or_else(|| {
            Error::TlsSettings(
                "there is no place for certificates: neither XDG_DATA_HOME nor HOME is set, and this user has no home \
                 directory"
                    .into(),
            )
        })?;
        Ok(Store { base: data.join("network") })
    }

    pub(super) fn certificate_file(&self, name: &str) -> PathBuf {
        self.certificates().join(format!("{name}.pem"))
    }

    pub(super) fn key_file(&self, name: &str) -> PathBuf {
        self.keys().join(format!("{name}.key"))
    }

    pub(super) fn peers(&self) -> PathBuf {
        self.base.join("peers")
    }

    pub(super) fn base(&self) -> &Path {
        &self.base
    }

    fn certificates(&self) -> PathBuf {
        self.base.join("certs")
    }

    fn keys(&self) -> PathBuf {
        self.base.join("private")
    }

    /// Loads the identity of this name; makes, completes or renews it first where that is for us to do.
    pub(super) fn load_or_make(&self, name: &str) -> Result<Identity> {
        self.load_or_make_at(name, SystemTime::now())
    }

    pub(super) fn load_or_make_at(&self, name: &str, now: SystemTime) -> Result<Identity> {
        check_name(name)?;
        // Certificates appear after their keys and in one step, so whoever sees a certificate can load the pair without
        // the lock. That also lets a complete store lie on a read-only disk.
        if !exists(&self.certificate_file(name))? {
            self.make(name, now).map_err(|error| in_order_to(&format!("make the TLS certificate {name:?}"), error))?;
        }
        let identity = self.load(name, now)?;
        match self.renew(name, &identity, now) {
            Ok(false) => Ok(identity),
            Ok(true) => self.load(name, now),
            // The old one still works, or its pins do.
            Err(error) => Ok(identity.warned(format!("cannot renew the certificate: {error}"))),
        }
    }

    fn load(&self, name: &str, now: SystemTime) -> Result<Identity> {
        let (certificate, key) = (self.certificate_file(name), self.key_file(name));
        Identity::load(&certificate, &key, now).map_err(|error| match error {
            Error::Identity { path, .. } if is_empty(&path) => trouble(&path, empty(&path, &certificate, &key)),
            other => other,
        })
    }

    fn make(&self, name: &str, now: SystemTime) -> Result {
        let certificate_file = self.certificate_file(name);
        let key_file = self.key_file(name);
        let lock = self.lock(IDENTITY_PATIENCE)?;
        if exists(&certificate_file)? {
            return Ok(()); // another program was quicker
        }
        make_directory(&self.keys(), 0o700)?;
        make_directory(&self.certificates(), 0o755)?;
        let key = self.make_key(&key_file, &lock)?;
        let text = certificate::make(name, &host_name(), &key, now)
            .map_err(|error| trouble(&certificate_file, format!("cannot create a certificate: {error}")))?;
        // Where there are no locks, another program may have been quicker. Its certificate is for the same key.
        lock.write_new(&certificate_file, text.as_bytes(), 0o644).map(drop)
    }

    /// Creates the private key, unless there is one: somebody was interrupted between the two files.
    fn make_key(&self, key_file: &Path, lock: &Lock) -> Result<KeyPair> {
        if !exists(key_file)? {
            let key = KeyPair::generate().map_err(|error| trouble(key_file, error.to_string()))?;
            if lock.write_new(key_file, key.serialize_pem().as_bytes(), 0o600)? {
                return Ok(key);
            }
        }
        load_signing_key(key_file)
    }

    /// Gives the identity a new certificate, for the same key, if it is one we made and its end is near. Tells whether
    /// there is a new one now.
    fn renew(&self, name: &str, identity: &Identity, now: SystemTime) -> Result<bool> {
        if !needs_renewal(identity, now) {
            return Ok(false);
        }
        let lock = self.lock(IDENTITY_PATIENCE)?;
        if !needs_renewal(&self.load(name, now)?, now) {
            return Ok(true); // another program was quicker
        }
        let certificate_file = self.certificate_file(name);
        let key = load_signing_key(&self.key_file(name))?;
        let text = certificate::make(name, &host_name(), &key, now)
            .map_err(|error| trouble(&certificate_file, format!("cannot create a certificate: {error}")))?;
        lock.write_over(&certificate_file, text.as_bytes(), 0o644)?;
        Ok(true)
    }

    /// Finds the public key with this fingerprint among the user's own: a certificate in the store has it, and the private
    /// key beside that certificate is there, readable by this user alone, and truly its other half. A mere copy of
    /// somebody's certificate in `certs/` makes nobody trusted.
    ///
    /// The error says why a key that is there does not count, if one is.
    pub(super) fn owns(&self, key: &Fingerprint) -> Result<Evidence, Option<String>> {
        let mut exposed = None;
        for entry in fs::read_dir(self.certificates()).into_iter().flatten().flatten() {
            match self.entry_owns(&entry.path(), key) {
                Some(Ok(evidence)) => return Ok(evidence),
                Some(Err(problem)) => exposed = Some(problem),
                None => {}
            }
        }
        Err(exposed)
    }

    fn entry_owns(&self, certificate_file: &Path, key: &Fingerprint) -> Option<Result<Evidence, String>> {
        if certificate_file.extension()? != "pem" {
            return None;
        }
        let key_file = self.key_file(certificate_file.file_stem()?.to_str()?);
        // Before they are read: what is replaced while we read must count as another file.
        let evidence = Evidence::of([certificate_file.to_owned(), key_file.clone()]);
        let chain = read_certificates(certificate_file).ok()?;
        let public = PublicKey::of(&chain[0]).ok()?;
        if public.fingerprint() != *key {
            return None;
        }
        signer(read_key(&key_file).ok()?, &public).ok()?.public_key()?;
        Some(match exposure(&key_file) {
            None => Ok(evidence),
            Some(problem) => Err(problem),
        })
    }

    /// Waits for the store's lock, which is held as long as the value lives. Its holders write two small files, so waiting
    /// long means that one of them hangs, and whoever waits with it would hang as well: hence the limit.
    pub(super) fn lock(&self, patience: Duration) -> Result<Lock> {
        make_directory(&self.base, 0o700)?;
        let path = self.base.join(".lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .map_err(|error| trouble(&path, error))?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock(Some(file))),
                Err(TryLockError::WouldBlock) if start.elapsed() < patience => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(TryLockError::WouldBlock) => {
                    let problem = format!("lock held by another process for more than {} s", patience.as_secs());
                    return Err(trouble(&path, problem));
                }
                Err(TryLockError::Error(_)) => return Ok(Lock(None)),
            }
        }
    }
}

/// The right to write into the store. `None` where the file system has no locks, as NFS without a lock service and some of
/// FUSE: nothing is half-written there either, but several programs may do the same work at once.
pub(super) struct Lock(Option<File>);

impl Lock {
    /// Writes a file that appears in one step and whole, or not at all. Tells whether it did: if there was one already, or
    /// another program was quicker, that one stays.
    pub(super) fn write_new(&self, path: &Path, contents: &[u8], mode: u32) -> Result<bool> {
        self.write(path, contents, mode, |draft| match fs::hard_link(draft, path) {
            Ok(()) => fs::remove_file(draft).map(|()| true),
            Err(_) if fs::symlink_metadata(path).is_ok() => fs::remove_file(draft).map(|()| false),
            // Some file systems have no links.
            Err(_) => fs::rename(draft, path).map(|()| true),
        })
    }

    /// The same, in place of the file that is there.
    pub(super) fn write_over(&self, path: &Path, contents: &[u8], mode: u32) -> Result {
        self.write(path, contents, mode, |draft| fs::rename(draft, path))
    }

    fn write<T>(
        &self,
        path: &Path,
        contents: &[u8],
        mode: u32,
        publish: impl FnOnce(&Path) -> io::Result<T>,
    ) -> Result<T> {
        let draft = self.draft(path);
        let written = write_draft(&draft, contents, mode).and_then(|()| publish(&draft)).map_err(|error| {
            let _ = fs::remove_file(&draft); // it may be what filled the disk
            trouble(path, io::Error::new(error.kind(), format!("cannot write it: {error}")))
        })?;
        // So that a power cut after this cannot lose the name. Some file systems do not sync directories; the data is safe.
        if let Some(directory) = path.parent().and_then(|directory| File::open(directory).ok()) {
            let _ = directory.sync_all();
        }
        Ok(written)
    }

    /// Where to write first. Under a lock it is always the same place, so what a crash leaves there is cleared away.
    fn draft(&self, path: &Path) -> PathBuf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        if self.0.is_none() {
            name.push(format!(".{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        }
        name.push(".new");
        path.with_file_name(name)
    }
}

/// The two files by which a key was found to be the user's own, as they were then.
#[derive(Debug)]
pub(super) struct Evidence {
    files: [(PathBuf, Option<Stamp>); 2],
    /// Whether they are older than the finest step of the file system's time, so that a change must show.
    settled: bool,
}

impl Evidence {
    fn of(files: [PathBuf; 2]) -> Self {
        let files = files.map(|path| {
            let stamp = Stamp::of(&path);
            (path, stamp)
        });
        let settled = files.iter().all(|(_, stamp)| stamp.as_ref().is_some_and(Stamp::is_settled));
        Evidence { files, settled }
    }

    /// Whether nobody has touched the files since.
    pub(super) fn holds(&self) -> bool {
        self.settled && self.files.iter().all(|(path, stamp)| Stamp::of(path) == *stamp)
    }
}

/// What differs once a file has been written to, replaced, or made readable for others. Nobody can set back the time of the
/// last change (`ctime`).
#[derive(Clone, Copy, PartialEq, Debug)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        let changed = (found.ctime(), found.ctime_nsec());
        Some(Stamp { device: found.dev(), inode: found.ino(), size: found.size(), changed })
    }

    /// File systems stamp with the clock of the last timer tick, which is 10 ms old at most.
    fn is_settled(&self) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let (Ok(seconds), Ok(nanoseconds)) = (seconds.try_into(), nanoseconds.try_into()) else { return false };
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        changed.elapsed().is_ok_and(|age| age >= Duration::from_millis(20))
    }
}

/// The name of this host, for names of certificates.
pub(super) fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if check_name(&name).is_ok() { name } else { "localhost".to_owned() }
}

/// Names become parts of paths, so they must not lead anywhere else.
pub(super) fn check_name(name: &str) -> Result {
    if name.is_empty() || name.contains(['/', '\0']) || name.contains("..") {
        let problem = "the name of a certificate cannot be empty or have `/`, `..` or NUL in it";
        return Err(Error::TlsSettings(format!("{name:?}: {problem}")));
    }
    Ok(())
}

/// What the system said about a file, with what it was for: nobody asked for the file itself.
pub(super) fn in_order_to(purpose: &str, error: Error) -> Error {
    match error {
        Error::Identity { path, problem } => match problem.downcast::<io::Error>() {
            Ok(cause) => trouble(&path, io::Error::new(cause.kind(), format!("cannot {purpose}: {cause}"))),
            Err(problem) => Error::Identity { path, problem },
        },
        other => other,
    }
}

/// Unlike [`Path::exists`], knows "not there" from "cannot tell".
fn exists(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(trouble(path, error)),
    }
}

fn is_empty(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == 0)
}

/// What to do about an empty file, as a crash of the system can leave it.
fn empty(path: &Path, certificate: &Path, key: &Path) -> String {
    if path == certificate && !is_empty(key) {
        "the file is empty; restore it, or delete it to have the certificate created again for the same key".to_owned()
    } else {
        let (certificate, key) = (certificate.display(), key.display());
        format!(
            "the file is empty; restore it, or delete {certificate} and {key} to have both created again, with a new fingerprint"
        )
    }
}

fn needs_renewal(identity: &Identity, now: SystemTime) -> bool {
    // One that begins later was made while the clock was ahead.
    let outside = |facts: certificate::Facts| facts.begins > now || facts.expires < now + RENEW_BEFORE;
    certificate::facts(identity.certificate()).is_some_and(|facts| facts.ours && outside(facts))
}

fn load_signing_key(file: &Path) -> Result<KeyPair> {
    KeyPair::try_from(&read_key(file)?).map_err(|error| {
        trouble(file, format!("there is no certificate for this private key, and none can be made with it: {error}"))
    })
}

/// Makes the directory, and those above it, unless they are there.
pub(super) fn make_directory(path: &Path, mode: u32) -> Result {
    match DirBuilder::new().recursive(true).mode(mode).create(path) {
        Ok(()) => Ok(()),
        Err(error) => Err(trouble(path, error)),
    }
}

fn write_draft(draft: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    // What a crash left behind may have any mode; the lock says nobody else is using it.
    match fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(draft)?;
    file.write_all(contents)?;
    // Before it gets its name: one that leads to an empty file after a power cut would be the broken pair we refuse.
    match file.sync_all() {
        // Some file systems cannot (NFS, FUSE), and there is nothing better to do.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        outcome => outcome,
    }
}
