//! The certificate store on disk: `certs/NAME.pem`, `private/NAME.key`, `peers/`. Owns the layout, the lock and the creation
//! of files. The python-network library keeps its certificates in the same places.

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
use crate::certificate::Fingerprint;
use crate::error::{Error, Result, os_text};

/// Time to wait for the lock. A certificate is created before a program serves anyone, and a busy disk may take long. For a
/// pin, a window may be waiting.
const IDENTITY_PATIENCE: Duration = Duration::from_secs(10);
pub(super) const PIN_PATIENCE: Duration = Duration::from_secs(2);

impl Identity {
    /// Loads the identity of this name from the user's certificate store, `$XDG_DATA_HOME/network`
    /// (`~/.local/share/network`), and creates it on first use.
    ///
    /// The certificate is `certs/NAME.pem`, valid for ten years. Its private key is `private/NAME.key`, readable by the user
    /// only. A certificate that was created here is renewed with the same key within 30 days before it expires, or if it
    /// is not valid yet.
    ///
    /// # Blocking
    /// While files are read or written, and up to 10 s for another process that is creating an identity.
    ///
    /// # Errors
    /// [`Error::TlsSettings`] if the name is empty or contains `/`, `..` or NUL. [`Error::Identity`], which names the file,
    /// if the files are broken, do not match, or cannot be read or created. Existing private keys, and certificates not
    /// created here, are never overwritten.
    pub fn named(name: &str) -> Result<Self> {
        Store::of_user()?.load_or_make(name)
    }

    /// Loads or creates an identity as [`named`](Self::named) does, in the store in this directory. A daemon might keep it
    /// in `/var/lib`.
    ///
    /// # Blocking
    /// See [`named`](Self::named).
    ///
    /// # Errors
    /// See [`named`](Self::named).
    pub fn named_in(directory: impl AsRef<Path>, name: &str) -> Result<Self> {
        Store::new(directory.as_ref()).load_or_make(name)
    }
}

/// A certificate store: a directory, which need not exist yet.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Store {
    base: PathBuf,
}

impl Store {
    pub(super) fn new(base: &Path) -> Self {
        Store { base: base.to_owned() }
    }

    /// Returns the store of the user that this process runs as.
    pub(super) fn of_user() -> Result<Self> {
        let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let data = data.or_else(|| {
            let home = std::env::home_dir().filter(|home| home.is_absolute())?;
            Some(home.join(".local/share"))
        });
        let data = data.ok_or_else(|| {
            Error::TlsSettings(
                "no directory for certificates: neither XDG_DATA_HOME nor HOME is set, and the user has no home directory"
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

    /// Loads the identity of this name. Creates, completes or renews it first if necessary.
    pub(super) fn load_or_make(&self, name: &str) -> Result<Identity> {
        self.load_or_make_at(name, SystemTime::now())
    }

    pub(super) fn load_or_make_at(&self, name: &str, now: SystemTime) -> Result<Identity> {
        check_name(name)?;
        // A certificate appears after its key and in one step, so the pair can be loaded without the lock. That also allows
        // a complete store on a read-only disk.
        if !exists(&self.certificate_file(name))? {
            let of_host = if name == host_name() { ", named after this host" } else { "" };
            self.make(name, now)
                .map_err(|error| in_order_to(&format!("create the TLS certificate {name:?}{of_host}"), error))?;
        }
        let identity = self.load(name, now)?;
        match self.renew(name, &identity, now) {
            Ok(false) => Ok(identity),
            Ok(true) => self.load(name, now),
            // The old one still works, at least for clients that have pinned it.
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
        let certificate = certificate::make(name, &host_name(), &key, now)
            .map_err(|error| trouble(&certificate_file, format!("cannot create a certificate: {error}")))?;
        // Without locks another program may have been quicker. Its certificate is for the same key.
        lock.write_new(&certificate_file, certificate.pem().as_bytes(), 0o644).map(drop)
    }

    /// Creates the private key, or loads it if an earlier creation was interrupted between the two files.
    fn make_key(&self, key_file: &Path, lock: &Lock) -> Result<KeyPair> {
        if !exists(key_file)? {
            let key = KeyPair::generate().map_err(|error| trouble(key_file, error.to_string()))?;
            if lock.write_new(key_file, key.serialize_pem().as_bytes(), 0o600)? {
                return Ok(key);
            }
        }
        load_signing_key(key_file)
    }

    /// Creates a new certificate for the same key if this crate created the old one and it is about to expire. Returns
    /// whether there is a new one.
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
        let certificate = certificate::make(name, &host_name(), &key, now)
            .map_err(|error| trouble(&certificate_file, format!("cannot create a certificate: {error}")))?;
        lock.write_over(&certificate_file, certificate.pem().as_bytes(), 0o644)?;
        Ok(true)
    }

    /// Finds the public key with this fingerprint among the user's own: a certificate in the store contains it, and the
    /// matching private key is in the store as well, protected from other users. A mere copy of somebody's certificate in
    /// `certs/` is not trusted.
    ///
    /// The error says why a key in the store does not count, if there is one.
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
        // Before the files are read, so that a replacement meanwhile shows.
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

    /// Acquires the store's lock. Its holders write two small files, so after `patience` one of them must be hanging.
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

/// The lock of a store, held as long as this value lives. `None` if the file system refuses locks, as NFS and FUSE may: files
/// still appear in one step, but several programs may do the same work at once.
pub(super) struct Lock(Option<File>);

impl Lock {
    /// Creates a file, complete and in one step, unless there is one already. Returns whether it did.
    pub(super) fn write_new(&self, path: &Path, contents: &[u8], mode: u32) -> Result<bool> {
        self.write(path, contents, mode, |draft| match fs::hard_link(draft, path) {
            Ok(()) => fs::remove_file(draft).map(|()| true),
            Err(_) if fs::symlink_metadata(path).is_ok() => fs::remove_file(draft).map(|()| false),
            // Some file systems have no hard links.
            Err(_) => fs::rename(draft, path).map(|()| true),
        })
    }

    /// Replaces a file, complete and in one step.
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
            let _ = fs::remove_file(&draft); // it may have filled the disk
            trouble(path, io::Error::new(error.kind(), format!("cannot write the file: {}", os_text(&error))))
        })?;
        // A power failure must not lose the name. Some file systems do not sync directories, but then the data is safe.
        if let Some(directory) = path.parent().and_then(|directory| File::open(directory).ok()) {
            let _ = directory.sync_all();
        }
        Ok(written)
    }

    /// Returns the path to write to first. With the lock it is always the same, so leftovers of a crash are removed.
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

/// The two files that make a key one of the user's own, and their state when they were read.
#[derive(Debug)]
pub(super) struct Evidence {
    files: [(PathBuf, Option<Stamp>); 2],
    /// True if their timestamps are old enough that any later change gets another one.
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

    /// Returns whether the files are unchanged.
    pub(super) fn holds(&self) -> bool {
        self.settled && self.files.iter().all(|(path, stamp)| Stamp::of(path) == *stamp)
    }
}

/// The state of a file. It differs after the file was written, replaced or given other permissions, because the time of the
/// last change (`ctime`) cannot be set.
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

    /// File systems use the clock of the last timer tick, which is at most 10 ms old.
    fn is_settled(&self) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let (Ok(seconds), Ok(nanoseconds)) = (seconds.try_into(), nanoseconds.try_into()) else { return false };
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        changed.elapsed().is_ok_and(|age| age >= Duration::from_millis(20))
    }
}

/// Returns the name of this host, or `localhost` if it cannot be the name of a certificate.
pub(super) fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if check_name(&name).is_ok() { name } else { "localhost".to_owned() }
}

/// Checks a name. It becomes part of paths, and must not lead elsewhere.
pub(super) fn check_name(name: &str) -> Result {
    if name.is_empty() || name.contains(['/', '\0']) || name.contains("..") {
        let problem = r#"must not be empty or contain "/", ".." or NUL"#;
        return Err(Error::TlsSettings(format!("invalid certificate name {name:?}: {problem}")));
    }
    Ok(())
}

/// Adds the purpose to an I/O error about a file that the caller did not ask for.
pub(super) fn in_order_to(purpose: &str, error: Error) -> Error {
    match error {
        Error::Identity { path, problem } => match problem.downcast::<io::Error>() {
            Ok(cause) => trouble(&path, io::Error::new(cause.kind(), format!("cannot {purpose}: {}", os_text(&cause)))),
            Err(problem) => Error::Identity { path, problem },
        },
        other => other,
    }
}

/// Returns whether this path exists. Unlike [`Path::exists`], fails if that cannot be determined.
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

/// Says how to recover from an empty file, which a crash of the system can leave.
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
    // One that is not valid yet was created while the clock was ahead.
    let outside = |facts: certificate::Facts| facts.begins > now || facts.expires < now + RENEW_BEFORE;
    certificate::facts(identity.certificate()).is_some_and(|facts| facts.ours && outside(facts))
}

fn load_signing_key(file: &Path) -> Result<KeyPair> {
    KeyPair::try_from(&read_key(file)?)
        .map_err(|error| trouble(file, format!("private key without a certificate, and cannot create one: {error}")))
}

/// Creates the directory and its parents unless they exist.
pub(super) fn make_directory(path: &Path, mode: u32) -> Result {
    match DirBuilder::new().recursive(true).mode(mode).create(path) {
        Ok(()) => Ok(()),
        Err(error) => Err(trouble(path, error)),
    }
}

fn write_draft(draft: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    // A leftover of a crash may have any mode. Nobody else is using it.
    match fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(draft)?;
    file.write_all(contents)?;
    // Before the file gets its name: an empty file after a power failure would be a broken pair.
    match file.sync_all() {
        // Some file systems cannot sync (NFS, FUSE).
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        outcome => outcome,
    }
}
