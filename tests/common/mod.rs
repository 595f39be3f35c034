//! What the tests with other processes share: children that never outlive their test, and limits on every wait.

// Each test program uses its own part of this.
#![allow(dead_code)]

pub mod parties;

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

/// Nothing here takes this long; whatever does hangs.
pub const LIMIT: Duration = Duration::from_secs(30);

/// The program of an example, as cargo builds it for the tests.
pub fn example(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    let path = path.join("examples").join(name);
    assert!(path.exists(), "{} is missing: cargo build --examples", path.display());
    path
}

thread_local! {
    static DATA_HOME: TempDir = TempDir::new();
}

/// Where the children of the running test, which has this thread to itself, keep certificates and pins.
pub fn data_home() -> PathBuf {
    DATA_HOME.with(|home| home.path(""))
}

/// A program of the system that a test needs. `./dev test` installs them.
pub fn tool(path: &str) -> Command {
    assert!(Path::new(path).exists(), "{path} is missing; ./dev test installs what the tests need");
    command(path, [""; 0])
}

/// Makes `socket` fail for a family with the error of that number (by seccomp), then becomes the command.
const WITHOUT_FAMILY: &str = r#"
import ctypes, os, platform, struct, sys
number = {"x86_64": 41, "aarch64": 198}[platform.machine()]
family, error = int(sys.argv[1]), 0x00050000 | int(sys.argv[2])
lines = [(0x20, 0, 0, 0), (0x15, 0, 3, number), (0x20, 0, 0, 16), (0x15, 0, 1, family), (6, 0, 0, error), (6, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
program = Filter(len(lines), ctypes.cast(code, ctypes.c_void_p))
for call in [(38, 1, 0, 0, 0), (22, 2, ctypes.byref(program), 0, 0)]:
    assert libc.prctl(*call) == 0, os.strerror(ctypes.get_errno())
os.execv(sys.argv[3], sys.argv[3:])
"#;

/// Runs the program that is given as the first argument in a sandbox without that family of sockets.
pub fn without_family(family: AddressFamily, error: i32) -> Command {
    let mut command = tool("/usr/bin/python3");
    command.args(["-c", WITHOUT_FAMILY, &family.as_raw().to_string(), &error.to_string()]);
    command
}

/// A daemon that a test needs, or a program from its package. `./dev test` unpacks them.
pub fn party(name: &str) -> Command {
    command(parties::party(name), [""; 0])
}

/// A directory of a test's own, removed with all that is in it.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> TempDir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("network-test-{}-{serial}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        TempDir(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The same as text, for addresses.
    pub fn address(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().into()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A process that is not a child of ours. Dropped, it is killed.
pub struct Other(OwnedFd);

impl Other {
    #[track_caller]
    pub fn new(pid: i32) -> Other {
        Other(pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap())
    }

    pub fn signal(&self, which: Signal) {
        // It may have gone already.
        let _ = pidfd_send_signal(&self.0, which);
    }

    #[track_caller]
    pub fn await_end(&self) {
        assert!(is_readable(&self.0, LIMIT), "it goes on");
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

fn is_readable(fd: &OwnedFd, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).unwrap();
        match poll(&mut [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.unwrap() > 0,
        }
    }
}

/// A running child, with its output read as it comes. Dropped, it is killed and reaped.
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    lines: Receiver<String>,
}

/// What a process left behind.
#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Output {
    pub fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }

    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(self.status.success(), "{}: {}", self.status, self.stderr);
        assert_eq!(self.stderr, "", "nothing to complain of");
    }

    /// It failed and said why, in one line.
    #[track_caller]
    pub fn assert_failed(&self) -> &str {
        self.assert_status(1)
    }

    /// It was called in a way that cannot be, and said so in one line.
    #[track_caller]
    pub fn assert_misused(&self) -> &str {
        self.assert_status(2)
    }

    #[track_caller]
    fn assert_status(&self, status: i32) -> &str {
        assert_eq!(self.status.code(), Some(status), "{self:?}");
        let line = self.stderr.strip_suffix('\n').expect("a whole line");
        assert!(!line.is_empty() && !line.contains('\n'), "not exactly one line: {:?}", self.stderr);
        line
    }
}

/// Which of the outputs is read by lines while the process runs.
#[derive(Clone, Copy, PartialEq)]
pub enum Watch {
    Stdout,
    Stderr,
}

impl Process {
    /// Starts it with all three of its standard streams piped, but those that the command has set itself otherwise.
    #[track_caller]
    pub fn start(command: &mut Command, watch: Watch) -> Process {
        command.stdin(Stdio::piped());
        Process::start_as_set(command, watch)
    }

    #[track_caller]
    pub fn start_as_set(command: &mut Command, watch: Watch) -> Process {
        Process::spawn(command.stdout(Stdio::piped()), watch)
    }

    /// Its input and output are as the command has set them; what it says on standard error is read.
    #[track_caller]
    pub fn start_with_error_alone(command: &mut Command) -> Process {
        Process::spawn(command, Watch::Stderr)
    }

    #[track_caller]
    fn spawn(command: &mut Command, watch: Watch) -> Process {
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
        let (sender, lines) = mpsc::channel();
        let stdin = child.stdin.take();
        let quiet = mpsc::channel().0;
        let (to_stdout, to_stderr) = if watch == Watch::Stdout { (sender, quiet) } else { (quiet, sender) };
        let stdout = child.stdout.take().map(|output| std::thread::spawn(move || collect(output, &to_stdout)));
        let stderr = child.stderr.take().map(|output| std::thread::spawn(move || collect(output, &to_stderr)));
        Process { child, stdin, stdout, stderr, lines }
    }

    pub fn id(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }

    pub fn signal(&self, which: Signal) {
        // Not reaped before `await_end` or the drop, so the number is still its own.
        kill_process(Pid::from_child(&self.child), which).unwrap();
    }

    /// The next line of the watched output.
    #[track_caller]
    pub fn line(&self) -> String {
        match self.lines.recv_timeout(LIMIT) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("no line came within {LIMIT:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("the output ended, and another line was expected"),
        }
    }

    /// The next line of the watched output that holds this.
    #[track_caller]
    pub fn line_with(&self, part: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(part) {
                return line;
            }
        }
    }

    /// The number at the end of the next line that holds this: a port.
    #[track_caller]
    pub fn port(&self, part: &str) -> u16 {
        let line = self.line_with(part);
        line.rsplit([':', ' ']).next().unwrap().parse().unwrap_or_else(|_| panic!("no port in {line:?}"))
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let stdin = self.stdin.as_mut().expect("its input is open");
        stdin.write_all(bytes.as_ref()).unwrap();
    }

    /// Ends its input.
    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Gives its input bytes from another thread, then ends it.
    pub fn feed(&mut self, bytes: Vec<u8>) {
        let mut stdin = self.stdin.take().expect("its input is open");
        // A child that ends early does not take them all.
        std::thread::spawn(move || stdin.write_all(&bytes));
    }

    /// Waits for its end; its input is ended first.
    #[track_caller]
    pub fn finish(mut self) -> Output {
        self.stdin = None;
        self.await_end()
    }

    /// Waits for its end, with its input left open.
    #[track_caller]
    pub fn await_end(&mut self) -> Output {
        let pidfd = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()).unwrap();
        let ended = is_readable(&pidfd, LIMIT);
        if !ended {
            let _ = self.child.kill();
        }
        let status = self.child.wait().unwrap();
        let stdout = self.stdout.take().map_or_else(Vec::new, |thread| thread.join().unwrap());
        let stderr = self.stderr.take().map_or_else(Vec::new, |thread| thread.join().unwrap());
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        assert!(ended, "still running after {LIMIT:?}; {} bytes of output; it said: {stderr}", stdout.len());
        if let Some(signal) = status.signal() {
            eprintln!("ended by signal {signal}");
        }
        Output { status, stdout, stderr }
    }
}

/// Two programs that join their standard streams to each other talk, and the server's input ends first. Of the client the
/// standard output is watched.
#[track_caller]
pub fn assert_joined(mut server: Process, mut client: Process) {
    client.send("from the client\n");
    server.send("from the server\n");
    assert_eq!(client.line(), "from the server");
    server.end_input();
    client.finish().assert_clean();
    let server = server.finish();
    assert!(server.status.success(), "{server:?}");
    assert_eq!(server.text(), "from the client\n");
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads to the end, and passes lines on while there is somebody who wants them.
fn collect(output: impl Read, lines: &mpsc::Sender<String>) -> Vec<u8> {
    let mut output = BufReader::with_capacity(64 << 10, output);
    let mut all = Vec::new();
    let mut wanted = true;
    loop {
        let start = all.len();
        let count = if wanted { output.read_until(b'\n', &mut all) } else { output.read_to_end(&mut all) };
        if !matches!(count, Ok(1..)) {
            return all;
        }
        let line = String::from_utf8_lossy(&all[start..]);
        wanted = wanted && lines.send(line.trim_end().into()).is_ok();
    }
}

/// Runs a command to its end with this input.
#[track_caller]
pub fn run(command: &mut Command, input: impl Into<Vec<u8>>) -> Output {
    let mut process = Process::start(command, Watch::Stdout);
    process.feed(input.into());
    process.await_end()
}

/// Runs a command to its end whose standard output nobody reads, without input.
#[track_caller]
pub fn run_unheard(command: &mut Command) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    Process::start_with_error_alone(command.stdin(Stdio::null()).stdout(writer)).await_end()
}

/// A command with arguments, in one expression.
pub fn command<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = parties::without_proxies(Command::new(program));
    command.args(arguments).env("XDG_DATA_HOME", data_home());
    command
}

/// Runs a scenario on a main context of its own.
pub fn on_own_context<R>(scenario: impl FnOnce() -> R) -> R {
    glib::MainContext::new().with_thread_default(scenario).unwrap()
}

/// Runs the main loop until `endloop`.
#[track_caller]
pub fn run_loop() {
    assert!(!network::fgloop_for(LIMIT), "the loop was not ended within {LIMIT:?}");
}

/// Runs the main loop until something is the case. What is looked at changes only in callbacks.
#[track_caller]
pub fn until(what: impl Fn() -> bool) {
    let late = Arc::new(AtomicBool::new(false));
    let flag = late.clone();
    let watchdog = glib::source::timeout_source_new(LIMIT, None, glib::Priority::HIGH, move || {
        flag.store(true, Ordering::Relaxed);
        glib::ControlFlow::Break
    });
    watchdog.attach(Some(&glib::MainContext::ref_thread_default()));
    while !what() && !late.load(Ordering::Relaxed) {
        network::iteration(true);
    }
    watchdog.destroy();
    assert!(what(), "what was waited for did not happen within {LIMIT:?}");
}

/// Runs the main loop until something is the case that changes on other threads.
#[track_caller]
pub fn until_on_threads(what: impl Fn() -> bool) {
    let late = Instant::now() + LIMIT;
    while !what() {
        assert!(Instant::now() < late, "what was waited for did not happen within {LIMIT:?}");
        network::iteration(false);
        std::thread::yield_now();
    }
}

/// Waits for something that no event tells of: another process changes it.
#[track_caller]
pub fn until_elsewhere(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !happened() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A program that is passed sockets, one or two, as by systemd: from descriptor 3 on, with their number for that very process.
pub fn activated(program: impl AsRef<OsStr>, sockets: Vec<OwnedFd>, arguments: &[&str]) -> Command {
    let script = r#"exec 3<&0 0</dev/null
        [ "$LISTEN_FDS" -lt 2 ] || exec 4<&1
        exec 1>&2
        LISTEN_PID=$$; export LISTEN_PID; exec "$@""#;
    let mut shell = command("/bin/sh", ["-c", script, "sh"]);
    shell.arg(program).args(arguments);
    shell.env("NETWORK_NO_FORK", "1").env("LISTEN_FDS", sockets.len().to_string());
    let mut sockets = sockets.into_iter();
    shell.stdin(Stdio::from(sockets.next().unwrap()));
    shell.stdout(sockets.next().map_or_else(Stdio::null, Stdio::from));
    shell
}

/// Drives a future on the thread's main context.
pub fn await_it<T>(future: impl Future<Output = T>) -> T {
    glib::MainContext::ref_thread_default().block_on(future)
}

/// Returns the result that a call passes to its callback.
#[track_caller]
pub fn told<T: 'static>(start: impl FnOnce(Box<dyn FnOnce(T)>)) -> T {
    let place = Rc::new(RefCell::new(None));
    let into = place.clone();
    start(Box::new(move |result| drop(into.replace(Some(result)))));
    assert!(place.borrow().is_none(), "not from inside the call");
    until(|| place.borrow().is_some());
    place.take().unwrap()
}

/// Runs the main loop while `other`, on a thread of its own, waits for processes and the like.
#[track_caller]
pub fn beside<R: Send>(other: impl FnOnce() -> R + Send) -> R {
    let context = glib::MainContext::ref_thread_default();
    let outcome = std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(other));
            context.invoke(network::endloop);
            outcome
        });
        // Each wait of the other's has its own limit.
        network::fgloop();
        thread.join().unwrap()
    });
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Bytes without any pattern that could hide a loss or a repetition; the same for the same seed.
pub fn noise(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

/// Does this machine have IPv6? Only then can it be tested.
pub fn has_ipv6() -> bool {
    let has = std::net::TcpListener::bind("[::1]:0").is_ok();
    if !has {
        eprintln!("this machine has no IPv6");
    }
    has
}

/// An address whose host answers nothing: the backlog is full. Alive while the descriptors are.
pub fn black_hole() -> (SocketAddr, Vec<OwnedFd>) {
    let listener = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&listener, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let address = SocketAddr::try_from(rustix::net::getsockname(&listener).unwrap()).unwrap();
    let mut held = vec![listener];
    for _ in 0..8 {
        let client =
            rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
        let _ = rustix::net::connect(&client, &address);
        held.push(client);
    }
    (address, held)
}
