//! The shape of the house: each floor uses only floors below it, and `unsafe` code is in the engine and in `sys` only.

#[path = "house/figures.rs"]
mod figures;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// From the bottom up. A module may use those before it. A new one gets its place here.
const FLOORS: [&str; 23] = [
    "log",
    "certificate",
    "error",
    "sys",
    "address",
    "tls",
    "engine",
    "task",
    "avahi",
    "resolve",
    "conn",
    "connect",
    "socket",
    "server",
    "udp",
    "selector",
    "public_address",
    "link",
    "ftp",
    "http",
    "websocket",
    "run",
    "fuzzing",
];

/// The root of the crate: a name that a first program writes down, or one of python-network's. At most 36 with the modules.
const ROOT: [&str; 22] = [
    "Address",
    "ClientTls",
    "Disconnect",
    "Endpoint",
    "Error",
    "Link",
    "Reason",
    "Result",
    "Selector",
    "Server",
    "ServerTls",
    "Socket",
    "UdpSocket",
    "bgloop",
    "block_on",
    "endloop",
    "fgloop",
    "fgloop_for",
    "iteration",
    "sleep",
    "spawn",
    "timeout",
];

/// The public modules and all that each of them has.
const MODULES: [(&str, &str); 14] = [
    ("daemon", "Daemon hand_over_async notify_systemd on_reload set_grace_period"),
    (
        "ftp",
        "Builder Client DirectoryResponse Entry Kind ListingResponse Mode Name Progress Reader Response Security Status Transfer",
    ),
    (
        "http",
        "Access Client ClientBuilder Cookies Exchange HeaderMap HeaderName HeaderValue Lines LogEntry Method Multipart Part Progress Reply Request \
         RequestBuilder Requests Response Routes Server ServerBuilder StatusCode ThreadsBuilder Version encode get get_async get_future",
    ),
    ("link", "Answer Backoff Calls Down LinkBuilder NetworkChange NetworkWatch State WeakLink"),
    ("log", "Level Record set_log unset_log"),
    ("mainloop", "Fairness set_fairness set_signal_handling"),
    (
        "names",
        "Interface InterfaceAddress interfaces local_address local_address_v4 local_address_v6 lookup lookup_async lookup_future lookup_port \
         lookup_service lookup_service_async lookup_service_future lookup_timeout \
         public_address public_address_async public_address_future",
    ),
    ("server", "Account Incoming ServerBuilder ServerThreads ThreadsBuilder WeakServer async_handler"),
    (
        "services",
        "Browser Event EventStream Publisher Service Txt browse browse_stream publish resolve_all_async resolve_all_future",
    ),
    (
        "socket",
        "ByteStream Chunks ConnectProgress Credentials Frames Framing KeepAlive LineEnding Lines Operation Proxy Reader Selectable SocketBuilder \
         WeakSocket",
    ),
    ("task", "Task"),
    (
        "tls",
        "Fingerprint FingerprintError Identity PeerCertificate Pin StartTls Tls Trust pin pin_in pins pins_in unpin unpin_in",
    ),
    ("udp", "Arrival Destination MessageBuilder MessageKind MessageSocket UdpBuilder WeakMessageSocket WeakUdpSocket"),
    (
        "websocket",
        "Builder Close Code Disconnect Message Messages OwnedMessage Server ServerBuilder ToMessage WeakWebSocket WebSocket",
    ),
];

/// The only rooms with `unsafe` code.
const UNSAFE: [&str; 2] = ["engine", "sys"];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// A source file: its module, and its lines of code with their numbers, without comments.
struct File {
    path: PathBuf,
    module: String,
    lines: Vec<(usize, String)>,
}

impl File {
    /// So many `super::` lead out of the module that has a floor.
    fn depth(&self) -> usize {
        self.path.iter().count() - usize::from(self.path.ends_with("mod.rs"))
    }
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn files() -> Vec<File> {
    let paths = rust_files(&source());
    assert!(paths.len() > 10, "the sources are not where they were");
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(source()).unwrap().to_path_buf();
        let module = path.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_string();
        let code = |line: &str| line.split("//").next().unwrap().to_string();
        let lines = text.lines().enumerate().map(|(number, line)| (number + 1, code(line))).collect();
        File { path, module, lines }
    };
    paths.into_iter().map(read).collect()
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|known| *known == module)
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

#[test]
fn examples_do_not_panic_when_nobody_reads_what_they_print() {
    for file in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|end| end == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let prints = |line: &&str| {
                let line = line.replace("eprint", "");
                line.contains("print!(") || line.contains("println!(")
            };
            let line = text.lines().find(prints);
            assert!(
                line.is_none(),
                "{}: {}: println! panics when standard output is closed",
                path.display(),
                line.unwrap()
            );
        }
    }
}

#[test]
fn no_floor_uses_one_above_it() {
    let files = files();
    let mut wrong = Vec::new();
    for file in files.iter().filter(|file| file.module != "lib") {
        let Some(own) = floor(&file.module) else {
            wrong.push(format!(
                "src/{}: no floor is named {:?}: give it one in this test",
                file.path.display(),
                file.module
            ));
            continue;
        };
        for (number, line) in &file.lines {
            let place = format!("src/{}:{number}: {}", file.path.display(), line.trim());
            for (at, _) in line.match_indices("crate::") {
                let rest = &line[at + "crate::".len()..];
                let target = identifier(rest);
                match floor(target) {
                    None => {
                        wrong.push(format!("{place}\n  names no room: write crate::room::Name, one `use` for each"))
                    }
                    Some(other) if other <= own => {}
                    Some(_) => wrong.push(format!("{place}\n  {} is below {target}", file.module)),
                }
            }
            let climbs = "super::".repeat(file.depth());
            if line.contains(&climbs) && !line.contains("use super::*;") {
                wrong.push(format!("{place}\n  leaves its module by the back door: write crate::…"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn only_two_rooms_are_unsafe() {
    let is_word = |line: &str, at: usize| {
        let letter = |c: char| c.is_alphanumeric() || c == '_';
        !line[..at].ends_with(letter) && !line[at + "unsafe".len()..].starts_with(letter)
    };
    for file in files().iter().filter(|file| !UNSAFE.contains(&file.module.as_str())) {
        for (number, line) in &file.lines {
            let found = line.match_indices("unsafe").any(|(at, _)| is_word(line, at));
            assert!(!found, "src/{}:{number}: {}", file.path.display(), line.trim());
        }
    }
}

#[test]
fn the_compiler_forbids_it_too() {
    let files = files();
    let face = files.iter().find(|file| file.module == "lib").unwrap();
    let lines: Vec<_> = face.lines.iter().map(|(_, line)| line.trim()).filter(|line| !line.is_empty()).collect();
    let mut modules = 0;
    for (index, line) in lines.iter().enumerate() {
        let Some(module) = line.strip_prefix("mod ").or(line.strip_prefix("pub mod ")) else { continue };
        modules += 1;
        if !UNSAFE.contains(&module.trim_end_matches(';')) {
            let before = lines[..index].iter().rev().take_while(|line| line.starts_with("#["));
            assert!(before.into_iter().any(|line| *line == "#[forbid(unsafe_code)]"), "mod {module} lacks it");
        }
    }
    assert!(modules >= 10, "{modules} modules");
}

#[test]
fn only_the_engine_names_the_reactor() {
    for file in files().iter().filter(|file| file.module != "engine") {
        for (number, line) in &file.lines {
            for name in ["epoll", "GSource", "g_source_"] {
                assert!(!line.contains(name), "src/{}:{number}: {}", file.path.display(), line.trim());
            }
        }
    }
}

#[test]
fn calls_that_name_a_peer_go_through_libc() {
    // Past torsocks and its like, rustix would talk to whom it is not to talk to.
    const CALLS: [&str; 8] =
        ["bind", "listen", "connect", "accept", "acceptfrom", "sendto", "getsockname", "getpeername"];
    for file in files() {
        let code = code(&file);
        let code = code.split("#[cfg(test)]").next().unwrap();
        for (at, path) in code.match_indices("rustix::net::") {
            let rest = &code[at + path.len()..];
            // One name, or a list of an import.
            let names = rest.strip_prefix('{').map_or(identifier(rest), |list| list.split('}').next().unwrap());
            for name in names.split(',').map(|name| identifier(name.trim())) {
                let is_one = CALLS.iter().any(|call| name == *call || name.strip_prefix(call) == Some("_with"));
                assert!(!is_one, "src/{}: use sys::{name} in place of rustix's", file.path.display());
            }
        }
    }
}

#[test]
fn what_needs_namespaces_is_told_where_there_are_none() {
    // There, such tests return early. `./dev test` names them, and the command that runs them.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dev = std::fs::read_to_string(root.join("dev")).unwrap();
    let line = |part: &str| dev.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}"));
    let (list, command) = (line("tests that need namespaces: "), line("--target-dir target/root"));
    let mut found = 0;
    for path in rust_files(&root.join("tests")) {
        let name = path.strip_prefix(root.join("tests")).unwrap().iter().next().unwrap().to_str().unwrap();
        let name = name.trim_end_matches(".rs");
        let text = std::fs::read_to_string(&path).unwrap();
        let needs_them = ["has_namespaces()", "run_again_inside("].iter().any(|call| text.contains(call));
        if ["common", "house"].contains(&name) || !needs_them {
            continue;
        }
        found += 1;
        assert!(list.contains(&format!("tests/{name}")), "{name}: {list}");
        assert!(command.contains(&format!("--test {name}")), "{name}: {command}");
    }
    assert!(found > 5, "{found} of them");
}

/// The names that a module gives to the program, by what it re-exports and what it declares at the beginning of a line.
fn exports(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices("pub use ") {
        let list = text[at + "pub use ".len()..].split(';').next().unwrap();
        let list = list.split_once('{').map_or(list, |(_, list)| list.trim_end().trim_end_matches('}'));
        let last = |item: &str| item.rsplit([':', ' ']).next().unwrap().to_string();
        names.extend(list.split(',').map(str::trim).filter(|item| !item.is_empty()).map(last));
    }
    for line in text.lines() {
        let Some(item) = line.strip_prefix("pub ") else { continue };
        let item = item.trim_start_matches("async ").trim_start_matches("unsafe ");
        for kind in ["struct ", "enum ", "union ", "trait ", "fn ", "type ", "const ", "static ", "mod "] {
            names.extend(item.strip_prefix(kind).map(|rest| identifier(rest).to_string()));
        }
    }
    names
}

fn code(file: &File) -> String {
    let lines: Vec<&str> = file.lines.iter().map(|(_, line)| line.as_str()).collect();
    lines.join("\n")
}

/// The root and the public modules, as the sources have them.
fn face(files: &[File]) -> (BTreeSet<String>, BTreeMap<String, BTreeSet<String>>) {
    let lib = code(files.iter().find(|file| file.module == "lib").unwrap());
    // What the tests and the fuzzer use is not for programs.
    let hidden = lib.find("pub mod fuzzing;").map(|at| at..at + "pub mod fuzzing;".len());
    let lib = hidden.map_or(lib.clone(), |hidden| [&lib[..hidden.start], &lib[hidden.end..]].concat());
    let mut root = lib.clone();
    let mut modules = BTreeMap::new();
    for (at, _) in lib.match_indices("\npub mod ") {
        let rest = &lib[at + "\npub mod ".len()..];
        let name = identifier(rest);
        let file = |file: &&File| file.module == name && file.path.iter().count() <= 2 && is_room(&file.path);
        let exported = match rest[name.len()..].strip_prefix(" {") {
            Some(rest) => {
                let inner = rest.split("\n}").next().unwrap();
                root = root.replace(inner, "");
                exports(inner)
            }
            None => exports(&code(files.iter().find(file).unwrap())),
        };
        modules.insert(name.to_string(), exported);
    }
    (exports(&root), modules)
}

/// Is it the file of the room itself, not one within?
fn is_room(path: &Path) -> bool {
    path.iter().count() == 1 || path.ends_with("mod.rs")
}

#[test]
fn the_face_is_what_is_written_here() {
    let (root, modules) = face(&files());
    let wanted: BTreeSet<String> = ROOT.into_iter().chain(MODULES.map(|(name, _)| name)).map(str::to_string).collect();
    assert_eq!(root, wanted, "the names at the root");
    assert!(root.len() <= 36, "{} names at the root", root.len());
    let names = |names: &str| names.split_whitespace().map(str::to_string).collect();
    let wanted: BTreeMap<String, BTreeSet<String>> =
        MODULES.iter().map(|(module, listed)| (module.to_string(), names(listed))).collect();
    assert_eq!(modules, wanted, "the names in the public modules");
}
