//! A name server that answers late, in part, or not at all, in namespaces with nothing but `lo` and their own `/etc/hosts`.

// Each test program uses its own part of this.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::common::{Output, TempDir, parties, run, tool};

/// Answers by the first label of the name: what for A and AAAA, and after how many milliseconds. No entry: no such name.
const NAME_SERVER: &str = r#"
import socket, struct, threading
RULES = {
    "both": (("127.0.0.1", 0), ("::1", 0)),
    "four": (("127.0.0.1", 0), ("", 0)),
    "noaaaa": (("127.0.0.1", 0), None),
    "noa": (None, ("::1", 0)),
    "soon": (("127.0.0.1", 0), ("::1", 20)),
    "later": (("127.0.0.1", 0), ("::1", 1000)),
    "late": (("127.0.0.1", 400), ("::1", 400)),
    "broken": (("127.0.0.1", 0), ("!", 0)),
    "xn--mnchen-3ya": (("127.0.0.1", 0), ("", 0)),
}
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.1", 53))
print("ready", flush=True)
while True:
    query, peer = s.recvfrom(4096)
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode())
        at += 1 + query[at]
    kind = struct.unpack("!H", query[at + 1:at + 3])[0]
    question = query[12:at + 5]
    print({1: "A", 28: "AAAA"}.get(kind, kind), ".".join(labels), flush=True)
    first = labels[0].lower()
    if first.startswith("silent"):
        continue
    rule = RULES.get(first)
    if rule is None:
        rule, code = (("", 0), ("", 0)), 3
    else:
        code = 0
    answer = rule[0] if kind == 1 else rule[1]
    if answer is None:
        continue
    text, delay = answer
    if text == "!":
        text, code = "", 2
    record = b""
    if text:
        family = socket.AF_INET if kind == 1 else socket.AF_INET6
        data = socket.inet_pton(family, text)
        record = b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 0, len(data)) + data
    reply = query[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, 1 if record else 0, 0, 0) + question + record
    threading.Timer(delay / 1000, s.sendto, (reply, peer)).start()
"#;

/// The name server. What it was asked is read when it has ended.
pub struct NameServer {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl NameServer {
    pub fn start() -> NameServer {
        let mut python = tool("/usr/bin/python3");
        let mut child = python.args(["-c", NAME_SERVER]).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        NameServer { child, output }
    }

    /// Ends it, and returns the questions, as `AAAA both.test`.
    pub fn questions(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        let mut all = String::new();
        self.output.read_to_string(&mut all).unwrap();
        all.lines().map(Into::into).collect()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const INSIDE: &str = "IN_OWN_NETWORK";

/// The name server, if this is the program that [`run_inside`] has run. Makes the network around it first.
pub fn inside() -> Option<NameServer> {
    enter().then(NameServer::start)
}

/// Makes the network, without a name server at its address 127.0.0.1, if this is the program that [`run_inside`] has run.
pub fn enter() -> bool {
    if std::env::var_os(INSIDE).is_none() {
        return false;
    }
    let directory = TempDir::new();
    for (file, text) in [
        ("hosts", "127.0.0.1 listed.test\n127.0.0.1 listed-both.test\n::1 listed-both.test\n"),
        ("resolv.conf", "nameserver 127.0.0.1\n"),
        ("nsswitch.conf", "hosts: files dns\nservices: files\npasswd: files\ngroup: files\n"),
    ] {
        std::fs::write(directory.path(file), text).unwrap();
        let target = Path::new("/etc").join(file);
        let mounted = Command::new("mount").arg("--bind").arg(directory.path(file)).arg(target).status().unwrap();
        assert!(mounted.success(), "{file}");
    }
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    true
}

/// Adds an account to those of the network, or replaces it. The directory is the account's.
pub fn set_account(name: &str, id: u32, directory: &TempDir) {
    let account = format!("{name}:x:{id}:{id}::{}:/bin/sh", directory.address(""));
    for (file, line) in [("passwd", account), ("group", format!("{name}:x:{id}:"))] {
        let system = Path::new("/etc").join(file);
        let text = std::fs::read_to_string(&system).unwrap();
        let others = text.lines().filter(|line| line.split(':').next() != Some(name));
        let own = directory.path(file);
        std::fs::write(&own, others.chain([line.as_str()]).collect::<Vec<_>>().join("\n") + "\n").unwrap();
        assert!(Command::new("mount").arg("--bind").args([own, system]).status().unwrap().success(), "{file}");
    }
}

/// Runs the calling test once more in namespaces of its own, if there can be any.
pub fn run_again_inside(test: &str) {
    if parties::has_namespaces() {
        let output = run_inside(&[test, "--exact", "--nocapture"]);
        assert!(output.status.success(), "{}{}", output.text(), output.stderr);
        assert!(output.text().contains("1 passed"), "{}{}", output.text(), output.stderr);
    }
}

/// Runs this program once more, in namespaces of its own.
pub fn run_inside(arguments: &[&str]) -> Output {
    let mut unshare = parties::unshare(&["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    // Process numbers, by which directories are named, are the same in each.
    let place = TempDir::new();
    unshare.arg(std::env::current_exe().unwrap()).args(arguments).env(INSIDE, "1").env("TMPDIR", place.path(""));
    run(&mut unshare, "")
}
