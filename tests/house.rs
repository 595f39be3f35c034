//! The shape of the house: each floor uses only floors below it, and `unsafe` code is in the engine and in `sys` only.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// From the bottom up. A module may use those before it. A new one gets its place here.
const FLOORS: [&str; 18] = [
    "log",
    "fingerprint",
    "error",
    "sys",
    "address",
    "tls",
    "engine",
    "avahi",
    "resolve",
    "conn",
    "connect",
    "socket",
    "server",
    "udp",
    "selector",
    "public_address",
    "run",
    "fuzzing",
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

fn files() -> Vec<File> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    walk(&source(), &mut paths);
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

/// What `crate::Name` stands for: the modules that the face re-exports names from.
fn face(files: &[File]) -> HashMap<String, String> {
    let face = files.iter().find(|file| file.module == "lib").unwrap();
    let text: String = face.lines.iter().map(|(_, line)| line.trim()).collect();
    let mut names = HashMap::new();
    for export in text.split("pub use ").skip(1) {
        let export = export.split(';').next().unwrap();
        let module = export.split("::").next().unwrap();
        for name in export.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|name| !name.is_empty()) {
            names.insert(name.to_string(), module.to_string());
        }
    }
    names
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

#[test]
fn no_floor_uses_one_above_it() {
    let files = files();
    let face = face(&files);
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
                let first = identifier(rest);
                let target = face.get(first).map_or(first, String::as_str);
                match floor(target) {
                    None => wrong.push(format!("{place}\n  names no module: one `use` for each, please")),
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
        for (number, line) in file.lines.iter().take_while(|(_, line)| line.trim() != "#[cfg(test)]") {
            for (at, path) in line.match_indices("rustix::net::") {
                let name = identifier(&line[at + path.len()..]);
                let is_one = CALLS.iter().any(|call| name == *call || name.strip_prefix(call) == Some("_with"));
                assert!(!is_one, "src/{}:{number}: use sys::{name} for {}", file.path.display(), line.trim());
            }
        }
    }
}
