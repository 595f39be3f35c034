//! The pid file and the log file of a daemon: which files they may be, and that nothing else is damaged.

mod common;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{LIMIT, Other, Process, TempDir, Watch, command, example, run};
use network::daemon::Daemon;
use network::{Error, Result};
use rustix::fs::{FileType, Mode};
use rustix::process::Signal;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn node(path: &Path, kind: FileType, mode: u32, device: u64) -> rustix::io::Result<()> {
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, Mode::from_raw_mode(mode), device)
}

/// What must not change, and the content.
type State = (u64, u32, u64, i64, Vec<u8>);

fn state(path: &Path) -> State {
    let found = fs::symlink_metadata(path).unwrap();
    let content = if found.is_file() { fs::read(path).unwrap() } else { Vec::new() };
    (found.ino(), found.mode(), found.nlink(), found.mtime_nsec(), content)
}

#[track_caller]
fn assert_refused(path: &Path, why: &str) {
    let before = state(path);
    let error = Daemon::new().pid_file(path).expect_err("it was taken for a pid file");
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(why) && text.contains(path.to_str().unwrap()), "{text}");
    assert_eq!(state(path), before, "{text}");
}

/// A terminal of the test's own: a device that needs no rights. The other end keeps it.
fn terminal() -> (PathBuf, rustix::fd::OwnedFd) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let end = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&end).unwrap();
    unlockpt(&end).unwrap();
    let name = ptsname(&end, Vec::new()).unwrap();
    (PathBuf::from(name.to_str().unwrap()), end)
}

#[test]
fn only_a_regular_file_can_be_a_pid_file() {
    let directory = TempDir::new();
    let (device, _end) = terminal();
    assert_refused(&device, "expected a regular file, found a device");
    let fifo = directory.path("fifo");
    node(&fifo, FileType::Fifo, 0o666, 0).unwrap();
    assert_refused(&fifo, "found a FIFO");
    let _listener = UnixListener::bind(directory.path("socket")).unwrap();
    assert_refused(&directory.path("socket"), "found a socket");
    fs::create_dir(directory.path("directory")).unwrap();
    assert_refused(&directory.path("directory"), "found a directory");
    fs::write(directory.path("pid"), "1\n").unwrap();
    symlink("pid", directory.path("link")).unwrap();
    assert_refused(&directory.path("link"), "found a symbolic link");
    assert_eq!(fs::read(directory.path("pid")).unwrap(), b"1\n");
    symlink("nothing", directory.path("dangling")).unwrap();
    assert_refused(&directory.path("dangling"), "found a symbolic link");
    assert!(!directory.path("nothing").exists());
    // What /dev/null is, as a node of the test's own, where that may be made.
    let null = directory.path("null");
    if node(&null, FileType::CharacterDevice, 0o666, rustix::fs::makedev(1, 3)).is_ok() {
        assert_refused(&null, "found a device");
    }
}

#[test]
fn a_document_is_not_a_pid_file() {
    let directory = TempDir::new();
    for (number, content) in ["To whom it may concern\n", "12x", "-1", &"1".repeat(65)].iter().enumerate() {
        let path = directory.path(&number.to_string());
        fs::write(&path, content).unwrap();
        assert_refused(&path, "does not contain a process ID");
    }
}

#[test]
fn a_file_with_two_names_or_of_another_user_is_not_a_pid_file() {
    let directory = TempDir::new();
    let (one, two) = (directory.path("one"), directory.path("two"));
    fs::write(&one, "1\n").unwrap();
    fs::hard_link(&one, &two).unwrap();
    assert_refused(&two, "second name");
    if is_root() {
        fs::remove_file(&two).unwrap();
        chown(&one, Some(12345), None).unwrap();
        assert_refused(&one, "belongs to user 12345");
    }
}

#[test]
fn what_a_daemon_may_have_left_is_a_pid_file_and_only_its_owner_may_open_it() {
    let directory = TempDir::new();
    let path = directory.path("pid");
    for content in [None, Some(""), Some("123"), Some("123\n"), Some("99\n456\n"), Some(" \n")] {
        if let Some(content) = content {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        }
        let daemon = Daemon::new().pid_file(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        // Whoever may open it could lock it, and keep the next one from starting.
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let second = Daemon::new().pid_file(&path).unwrap_err();
        assert!(matches!(second, Error::AlreadyRunning { pid: Some(pid), .. } if pid as u32 == std::process::id()));
        drop(daemon);
        assert!(!path.exists());
    }
}

/// Runs the daemon where no file can grow, which is how a full disk looks.
fn on_full_disk(address: &str, pid_file: &Path) -> common::Output {
    let script = r#"trap '' XFSZ; ulimit -f 0; exec "$@""#;
    let mut daemon = command("/bin/sh", ["-c", script, "sh"]);
    run(daemon.arg(example("daemon")).arg(address).arg("--pid-file").arg(pid_file), "")
}

#[test]
fn a_full_disk_costs_no_file_that_was_there() {
    let directory = TempDir::new();
    let path = directory.path("pid");
    let output = on_full_disk(&directory.address("socket"), &path);
    assert!(output.assert_failed().contains(path.to_str().unwrap()), "{}", output.stderr);
    assert!(!path.exists(), "a new one does not stay");
    for content in ["", "1\n"] {
        fs::write(&path, content).unwrap();
        let output = on_full_disk(&directory.address("socket"), &path);
        assert!(output.assert_failed().contains("too large"), "{}", output.stderr);
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
}

/// Builds a library that stands between a program and libc, as torsocks and fakechroot do.
fn preload(directory: &TempDir, source: &str) -> PathBuf {
    let (code, library) = (directory.path("shim.c"), directory.path("shim.so"));
    fs::write(&code, source).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-w", "-o"]).arg(&library).arg(&code).arg("-ldl");
    let output = cc.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library
}

#[test]
fn where_files_cannot_be_locked_a_daemon_starts_with_a_warning() {
    let directory = TempDir::new();
    let library = preload(&directory, "#include <errno.h>\nint flock(int f, int o) { errno = ENOLCK; return -1; }\n");
    let (address, path) = (directory.address("socket"), directory.path("pid"));
    let mut daemon = command(example("daemon"), [&address]);
    let output = run(daemon.arg("--pid-file").arg(&path).env("LD_PRELOAD", library), "");
    assert!(output.status.success(), "{output:?}");
    let daemon = Other::new(pid_at(&address));
    assert!(output.stderr.contains("cannot lock pid file") && output.stderr.contains("No locks"), "{}", output.stderr);
    daemon.signal(Signal::TERM);
    daemon.await_end();
    assert!(!path.exists());
}

#[test]
fn a_pid_file_that_cannot_be_removed_leaves_a_record() {
    let directory = TempDir::new();
    // As after setuid, in a directory of root's.
    let source = r#"
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <errno.h>
        #include <string.h>
        int unlink(const char *path) {
            if (strstr(path, "/pid")) { errno = EACCES; return -1; }
            return ((int (*)(const char *))dlsym(RTLD_NEXT, "unlink"))(path);
        }
    "#;
    let library = preload(&directory, source);
    let (address, path) = (directory.address("socket"), directory.path("pid"));
    let mut daemon = command(example("daemon"), [&address]);
    let daemon = daemon.arg("--pid-file").arg(&path).env("LD_PRELOAD", library).env("NETWORK_NO_FORK", "1");
    let mut daemon = Process::start(daemon, Watch::Stderr);
    daemon.line_with("NETWORK_NO_FORK");
    assert_eq!(pid_at(&address), daemon.id());
    daemon.signal(Signal::TERM);
    let output = daemon.await_end();
    assert!(output.status.success() && output.stderr.contains("failed to remove pid file"), "{}", output.stderr);
    drop(Daemon::new().pid_file(&path).unwrap());
    assert!(!path.exists());
}

#[test]
fn what_cannot_be_reached_any_more_leaves_records() {
    // As after setuid, in a directory that the new user cannot enter. Root can enter any.
    let directory = TempDir::new();
    let program = directory.path("daemon");
    // By another process: a file that is open for writing, here or in a fork of another test, cannot be run.
    run(&mut command("cp", [example("daemon"), program.clone()]), "").assert_clean();
    let own = directory.path("own");
    fs::create_dir(&own).unwrap();
    let arguments = [own.join("socket"), "--pid-file".into(), own.join("pid")];
    let mut daemon = match is_root() {
        true => {
            chown(&own, Some(64998), Some(64998)).unwrap();
            let mut setpriv = command("/usr/bin/setpriv", ["--reuid=64998", "--regid=64998", "--clear-groups"]);
            setpriv.arg(&program);
            setpriv
        }
        false => command(&program, [""; 0]),
    };
    let mut daemon = Process::start(daemon.args(&arguments).env("NETWORK_NO_FORK", "1"), Watch::Stderr);
    daemon.line_with("NETWORK_NO_FORK");
    assert_eq!(pid_at(own.join("socket").to_str().unwrap()), daemon.id());
    fs::set_permissions(&own, Permissions::from_mode(0o000)).unwrap();
    daemon.signal(Signal::TERM);
    let output = daemon.await_end();
    fs::set_permissions(&own, Permissions::from_mode(0o700)).unwrap();
    for what in ["failed to remove pid file", "failed to remove unix socket"] {
        assert!(output.stderr.contains(what), "{}", output.stderr);
    }
    assert!(own.join("pid").exists() && own.join("socket").exists());
}

#[test]
fn paths_that_a_preloaded_library_redirects_lead_to_one_file() {
    let directory = TempDir::new();
    // Opening is redirected, and nothing else, which is what snapcraft-preload leaves of statx.
    let source = r#"
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <fcntl.h>
        #include <stdarg.h>
        #include <stdio.h>
        #include <string.h>
        static int redirected(const char *name, const char *path, int flags, int mode) {
            static char other[4096];
            if (strstr(path, "/shown/")) {
                snprintf(other, sizeof other, "%.*s/hidden/%s",
                    (int)(strstr(path, "/shown/") - path), path, strstr(path, "/shown/") + 7);
                path = other;
            }
            return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, name))(path, flags, mode);
        }
        int open(const char *path, int flags, ...) {
            va_list list; va_start(list, flags); int mode = va_arg(list, int); va_end(list);
            return redirected("open", path, flags, mode);
        }
        int open64(const char *path, int flags, ...) {
            va_list list; va_start(list, flags); int mode = va_arg(list, int); va_end(list);
            return redirected("open64", path, flags, mode);
        }
    "#;
    let library = preload(&directory, source);
    fs::create_dir(directory.path("hidden")).unwrap();
    let (address, path) = (directory.address("socket"), directory.path("shown/pid"));
    let mut daemon = command(example("daemon"), [&address]);
    let daemon = daemon.arg("--pid-file").arg(&path).env("LD_PRELOAD", library).env("NETWORK_NO_FORK", "1");
    let mut daemon = Process::start(daemon, Watch::Stderr);
    daemon.line_with("NETWORK_NO_FORK");
    assert_eq!(pid_at(&address), daemon.id());
    assert_eq!(fs::read_to_string(directory.path("hidden/pid")).unwrap(), format!("{}\n", daemon.id()));
    daemon.signal(Signal::TERM);
    assert!(daemon.await_end().status.success());
}

/// The daemon behind a unix socket: its greeting tells its process.
fn pid_at(address: &str) -> i32 {
    let stream = UnixStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).unwrap();
    line.trim().strip_prefix("daemon ").expect("its greeting").parse().unwrap()
}

// ---- the log file ----

/// Opening it must not wait for anybody.
fn with_log(path: impl AsRef<Path>) -> Result {
    Daemon::new().log_file(path).map(drop)
}

#[test]
fn a_fifo_can_be_a_log_file_if_somebody_reads_it() {
    let directory = TempDir::new();
    let path = directory.path("log");
    node(&path, FileType::Fifo, 0o600, 0).unwrap();
    let error = with_log(&path).unwrap_err().to_string();
    assert!(error.contains("no process reads this FIFO") && error.contains(path.to_str().unwrap()), "{error}");
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_fifo());
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let mut reader = OpenOptions::new().read(true).custom_flags(nonblocking).open(&path).unwrap();
    let address = directory.address("socket");
    let daemon = run(command(example("daemon"), [&address]).arg("--log-file").arg(&path), "");
    daemon.assert_clean();
    let daemon = Other::new(pid_at(&address));
    daemon.signal(Signal::TERM);
    daemon.await_end();
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    assert!(said.contains("info: "), "{said:?}");
}

#[test]
fn links_of_others_are_not_followed_to_a_log_file_and_own_ones_are() {
    let directory = TempDir::new();
    let (target, link, second) = (directory.path("target"), directory.path("link"), directory.path("second"));
    symlink("target", &link).unwrap();
    symlink(&link, &second).unwrap();
    with_log(&second).unwrap();
    assert!(target.is_file(), "what an own link leads to is created");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    symlink("circle", directory.path("circle")).unwrap();
    assert!(with_log(directory.path("circle")).is_err());
    if is_root() {
        fs::remove_file(&target).unwrap();
        std::os::unix::fs::lchown(&link, Some(12345), None).unwrap();
        for path in [&link, &second] {
            let error = with_log(path).unwrap_err().to_string();
            assert!(error.contains("symbolic link of user 12345"), "{error}");
        }
        assert!(!target.exists());
    }
}

#[test]
fn devices_and_standard_error_can_be_log_files() {
    let (device, _end) = terminal();
    with_log(device).unwrap();
    with_log("/dev/null").unwrap();
    let directory = TempDir::new();
    let address = directory.address("socket");
    for path in ["/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"] {
        let mut starter =
            Process::start(&mut command(example("daemon"), [&address, "--log-file", path]), Watch::Stdout);
        // The starter is ready, and the daemon goes on writing where it wrote.
        starter.line_with("listening");
        let daemon = loop {
            if let Ok(stream) = UnixStream::connect(&address) {
                drop(stream);
                break Other::new(pid_at(&address));
            }
        };
        daemon.signal(Signal::TERM);
        daemon.await_end();
        let output = starter.await_end();
        assert!(output.status.success() && output.stderr.contains("info: stopping; closing"), "{path}: {output:?}");
    }
}

#[test]
fn standard_error_can_be_a_log_file_though_it_is_a_socket() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let (mut journal, stderr) = UnixStream::pair().unwrap();
    let mut daemon = command(example("daemon"), [&address, "--log-file", "/dev/stderr"]);
    let stderr: rustix::fd::OwnedFd = stderr.into();
    let started = daemon.stdout(std::process::Stdio::null()).stderr(stderr).status().unwrap();
    // The command has a copy.
    drop(daemon);
    assert!(started.success());
    let daemon = Other::new(pid_at(&address));
    daemon.signal(Signal::TERM);
    daemon.await_end();
    let mut said = String::new();
    journal.read_to_string(&mut said).unwrap();
    assert!(said.contains("info: stopping"), "{said:?}");
}

#[test]
fn a_log_file_stays_a_file_that_only_the_group_may_read() {
    let directory = TempDir::new();
    with_log(directory.path("log")).unwrap();
    let mode = File::open(directory.path("log")).unwrap().metadata().unwrap().mode() & 0o7777;
    assert_eq!(mode & !0o640, 0, "{mode:o}");
}
