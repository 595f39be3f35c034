//! The figures of the house, printed by `cargo test --test house -- --nocapture figures`. These two files, tests/house.rs and this
//! one, run over the sources of any commit, so that figures from before and after a change come from one script.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{File, face, files, identifier, source};

/// The most that each figure may be, if it matters. A figure that has fallen takes its limit with it.
const LIMITS: [(&str, Option<usize>); 18] = [
    ("methods of the connection object", Some(110)),
    ("methods of any other type of conn/", Some(60)),
    ("pairs of files in conn/ that call each other", Some(4)),
    ("places that read from the transport, besides the engine's", Some(1)),
    ("lines of conn/ in files without unit tests, but for comments", Some(0)),
    ("rooms", None),
    ("floors", Some(11)),
    ("arrows from room to room", Some(119)),
    ("arrows from file to room", None),
    ("rooms that import each other in a circle", Some(0)),
    ("files at the top of src/, besides lib.rs", Some(6)),
    ("names at the root", Some(36)),
    ("item docs that begin with What, Who, How, Has or Is, or ask", Some(0)),
    ("time-out, hand-shake, look-up in src/", Some(0)),
    ("time-out, hand-shake, look-up in docs/ and README.md", Some(0)),
    ("functions", None),
    ("lines of the median function", Some(6)),
    ("lines of the longest function", Some(80)),
];

/// The type that is one connection.
const CONNECTION: &str = "Conn";

/// Comments and what stands in strings become blanks; lines stay where they are.
fn bare(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let blank = |piece: &str| piece.chars().map(|c| if c == '\n' { c } else { ' ' }).collect::<String>();
    while let Some(c) = rest.chars().next() {
        let in_word = out.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if c == '"' {
            string(rest)
        } else if c == 'r' && !in_word && rest[1..].trim_start_matches('#').starts_with('"') {
            let hashes = rest[1..].find('"').unwrap();
            let end = format!("\"{}", "#".repeat(hashes));
            rest[hashes + 2..].find(&end).map_or(rest.len(), |at| hashes + 2 + at + end.len())
        } else if c == '\'' {
            character(rest)
        } else {
            0
        };
        match length {
            0 => {
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
            length => {
                out.push_str(&blank(&rest[..length]));
                rest = &rest[length..];
            }
        }
    }
    out
}

/// How long the string is that begins here.
fn string(text: &str) -> usize {
    let mut escaped = false;
    let end = text[1..].find(|c: char| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |at| at + 2)
}

/// How long the character is that begins here; 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text[1..].char_indices();
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((escaped, _))) => text[escaped + 2..].find('\'').map_or(0, |at| escaped + 3 + at),
        (Some(_), Some((at, '\''))) => at + 2,
        _ => 0,
    }
}

/// Where the block ends that begins with the first brace from here on: behind its closing one.
fn block(text: &str, from: usize) -> usize {
    let mut depth = 0;
    for (at, c) in text[from..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return from + at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

/// A file without comments, strings and test modules, and whether it has unit tests: in itself, in a file for them
/// (`x/tests.rs`, or the script `tests/x.rs`), or in `tests.rs`, which is for the directory it lies in.
struct Code {
    path: PathBuf,
    room: String,
    text: String,
    lines: usize,
    tested: bool,
}

fn sources() -> Vec<Code> {
    let is_tests = |path: &Path| path.iter().any(|part| part == "tests" || part == "tests.rs");
    let all = files();
    let tests: Vec<PathBuf> = all.iter().map(|file| file.path.clone()).filter(|path| is_tests(path)).collect();
    let code = |file: File| {
        let raw = std::fs::read_to_string(source().join(&file.path)).unwrap();
        let mut text = bare(&raw);
        let name = if file.path.ends_with("mod.rs") {
            Path::new("common.rs")
        } else {
            Path::new(file.path.file_name().unwrap())
        };
        let places = [
            file.path.with_extension("").join("tests.rs"),
            file.path.with_file_name("tests").join(name),
            file.path.with_file_name("tests.rs"),
        ];
        let mut tested = places.iter().any(|place| tests.contains(place));
        while let Some(at) = text.find("#[cfg(test)]\nmod tests {") {
            let end = block(&text, at);
            text.replace_range(at..end, "");
            tested = true;
        }
        let room = file.module;
        // Documentation may grow.
        let lines = raw.lines().filter(|line| !line.trim_start().starts_with("//")).count();
        Code { path: file.path, room, text, lines, tested }
    };
    all.into_iter().filter(|file| !is_tests(&file.path)).map(code).collect()
}

/// Each `word ` of a text that is no part of another, with what follows it.
fn after<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    let ends = |before: &str| before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
    text.match_indices(word).filter(move |(at, _)| !ends(&text[..*at])).map(|(at, word)| (at, &text[at + word.len()..]))
}

/// The functions that have a body: where they begin and end.
fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let named = after(text, "fn ").filter(|(_, rest)| rest.starts_with(|c: char| c.is_alphabetic() || c == '_'));
    let whole = |(at, rest): (usize, &str)| {
        // The `;` of an array's type ends no function.
        let mut depth = 0;
        let (body, c) = rest.char_indices().find(|(_, c)| {
            depth += i32::from(['(', '['].contains(c)) - i32::from([')', ']'].contains(c));
            depth == 0 && ['{', ';'].contains(c)
        })?;
        let from = text.len() - rest.len() + body;
        (c == '{').then(|| (identifier(rest).to_string(), at, block(text, from)))
    };
    named.filter_map(whole).collect()
}

/// The methods of a text, each with its type.
fn methods(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (at, rest) in after(text, "impl") {
        if !text[..at].trim_end_matches([' ', '\t']).ends_with('\n') || !rest.starts_with([' ', '<']) {
            continue;
        }
        let header = rest.split('{').next().unwrap();
        let header = header.split(" where").next().unwrap().trim();
        let own = header.rsplit_once(" for ").map_or_else(|| without_generics(header), |(_, own)| own);
        let own = identifier(own.trim_start_matches(['&', ' ']).rsplit("::").next().unwrap()).to_string();
        let body = &text[at..block(text, at)];
        found.extend(functions(body).into_iter().map(|(name, ..)| (own.clone(), name)));
    }
    found
}

/// `<T: Into<U>> Type<T>` is about `Type<T>`.
fn without_generics(header: &str) -> &str {
    let mut depth = 0;
    let end = header.char_indices().find(|(_, c)| {
        depth += i32::from(*c == '<') - i32::from(*c == '>');
        depth == 0
    });
    end.map_or(header, |(at, c)| header[at + usize::from(c == '>')..].trim_start())
}

/// Methods of std that ours share a name with: a call of one says nothing.
const COMMON: &str = "add as_slice as_str borrow clear clone close contains default drain drop eq flush fmt from get has \
                      insert into is_empty iter kind len map min max new next pop push put read recv remove replace resume send set \
                      take upgrade wait wake with write write_vectored";

/// Pairs of files of a room of which each calls methods that only the other has, by their names; with a method each.
fn mutual(files: &[&Code]) -> Vec<String> {
    let mut owners: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for (index, file) in files.iter().enumerate() {
        for (_, name) in methods(&file.text) {
            owners.entry(name).or_default().insert(index);
        }
    }
    let mut calls = BTreeMap::new();
    for (name, owners) in owners.iter().filter(|(name, _)| !COMMON.split_whitespace().any(|common| common == *name)) {
        let (Some(owner), 1) = (owners.first(), owners.len()) else { continue };
        for (caller, file) in files.iter().enumerate().filter(|(caller, _)| caller != owner) {
            let called = [format!(".{name}("), format!("::{name}("), format!("::{name})")];
            if called.iter().any(|call| file.text.contains(call)) {
                calls.insert((caller, *owner), name);
            }
        }
    }
    let name = |index: usize| files[index].path.file_name().unwrap().display();
    let both = calls.iter().filter_map(|((one, other), there)| {
        let back = calls.get(&(*other, *one)).filter(|_| one < other)?;
        Some(format!("{} {there}, {} {back}", name(*other), name(*one)))
    });
    both.collect()
}

/// From a room to another.
type Arrows = BTreeSet<(String, String)>;

/// What each room imports, and each file: the rooms.
fn arrows(all: &[Code]) -> (Arrows, BTreeSet<(PathBuf, String)>) {
    let rooms: BTreeSet<&str> = all.iter().map(|file| file.room.as_str()).collect();
    let (mut by_room, mut by_file) = (BTreeSet::new(), BTreeSet::new());
    for file in all.iter().filter(|file| file.room != "lib" && file.room != "fuzzing") {
        for (_, rest) in after(&file.text, "crate::") {
            let to = identifier(rest);
            if rooms.contains(to) && to != file.room {
                by_room.insert((file.room.clone(), to.to_string()));
                by_file.insert((file.path.clone(), to.to_string()));
            }
        }
    }
    (by_room, by_file)
}

/// The rooms that a room uses, and those that they use in turn.
fn below<'a>(room: &'a str, arrows: &'a Arrows) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut open = vec![room];
    while let Some(next) = open.pop() {
        for (_, to) in arrows.iter().filter(|(from, _)| from == next) {
            if found.insert(to.as_str()) {
                open.push(to);
            }
        }
    }
    found
}

/// The longest chain of rooms that use each other, and the rooms in circles. A circle has as many floors as rooms.
fn floors(rooms: &BTreeSet<&str>, arrows: &Arrows) -> (usize, Vec<String>) {
    let below: BTreeMap<&str, BTreeSet<&str>> = rooms.iter().map(|room| (*room, below(room, arrows))).collect();
    let circle: Vec<String> =
        rooms.iter().filter(|room| below[*room].contains(*room)).map(|room| room.to_string()).collect();
    // Whoever has less below comes first; those of a circle have the same.
    let mut order: Vec<&str> = rooms.iter().copied().collect();
    order.sort_by_key(|room| below[room].len());
    let mut heights: BTreeMap<&str, usize> = BTreeMap::new();
    for room in order {
        let strictly = below[room].iter().filter(|other| !below[*other].contains(room));
        let height = strictly.map(|other| heights.get(other).copied().unwrap_or(0)).max().unwrap_or(0);
        let same = rooms.iter().filter(|other| below[room].contains(**other) && below[**other].contains(room)).count();
        heights.insert(room, height + same.max(1));
    }
    (heights.values().copied().max().unwrap_or(0), circle)
}

/// The first lines of item docs that begin as questions do, or ask.
fn odd_docs() -> Vec<String> {
    let mut found = Vec::new();
    for file in files() {
        let text = std::fs::read_to_string(source().join(&file.path)).unwrap();
        let mut before = "";
        for (number, line) in text.lines().map(str::trim).enumerate() {
            if let Some(doc) = line.strip_prefix("/// ")
                && !before.starts_with("///")
            {
                let word = doc.split([' ', ',', '.', ':', '\'']).next().unwrap();
                let asks = doc.split_inclusive(['.', '?']).next().unwrap().ends_with('?');
                if asks || ["What", "Who", "Whom", "Whose", "How", "Has", "Is"].contains(&word) {
                    found.push(format!("src/{}:{}: {doc}", file.path.display(), number + 1));
                }
            }
            before = line;
        }
    }
    found
}

fn hyphens(text: &str) -> usize {
    let text = text.to_lowercase();
    ["time-out", "hand-shake", "look-up"].iter().map(|word| text.matches(word).count()).sum()
}

fn hyphens_below(directory: &Path, extension: &str) -> usize {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let of = |path: PathBuf| match path.is_dir() {
        true => hyphens_below(&path, extension),
        false if path.extension().is_some_and(|own| own == extension) => {
            hyphens(&std::fs::read_to_string(&path).unwrap())
        }
        false => 0,
    };
    entries.map(of).sum()
}

#[test]
fn the_figures_of_the_house_stay_within_their_limits() {
    let all = sources();
    let conn: Vec<&Code> = all.iter().filter(|file| file.room == "conn" || file.room == "transport").collect();
    let mut of_type: BTreeMap<String, usize> = BTreeMap::new();
    for (own, _) in conn.iter().flat_map(|file| methods(&file.text)) {
        *of_type.entry(own).or_default() += 1;
    }
    let connection = of_type.remove(CONNECTION).unwrap();
    let most = of_type.iter().max_by_key(|(_, count)| **count).unwrap();
    let mutual = mutual(&conn);
    let reads = |file: &&&Code| !file.path.ends_with("transport.rs");
    let reads = conn.iter().filter(reads).flat_map(|file| file.text.lines()).filter(|line| {
        let compact = line.replace("()", "");
        ["transport.read(", "transport.read_waiting(", "transport.receive("].iter().any(|read| compact.contains(read))
    });
    let untested: usize = conn.iter().filter(|file| !file.tested).map(|file| file.lines).sum();
    let (by_room, by_file) = arrows(&all);
    let rooms: BTreeSet<&str> =
        all.iter().map(|file| file.room.as_str()).filter(|room| !["lib", "fuzzing"].contains(room)).collect();
    let (floors, circle) = floors(&rooms, &by_room);
    let top = all.iter().filter(|file| file.path.iter().count() == 1 && file.room != "lib").count();
    let (root, _) = face(&files());
    let docs = odd_docs();
    let root_directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = hyphens(&std::fs::read_to_string(root_directory.join("README.md")).unwrap());
    let mut sizes: Vec<(usize, String)> = Vec::new();
    for file in &all {
        let size = |(name, from, to): (String, usize, usize)| {
            (file.text[from..to].matches('\n').count() + 1, format!("{name} in src/{}", file.path.display()))
        };
        sizes.extend(functions(&file.text).into_iter().map(size));
    }
    sizes.sort();
    let figures = [
        connection,
        *most.1,
        mutual.len(),
        reads.count(),
        untested,
        rooms.len(),
        floors,
        by_room.len(),
        by_file.len(),
        circle.len(),
        top,
        root.len(),
        docs.len(),
        hyphens_below(&source(), "rs"),
        hyphens_below(&root_directory.join("docs"), "md") + readme,
        sizes.len(),
        sizes[sizes.len() / 2].0,
        sizes.last().unwrap().0,
    ];
    for ((name, limit), figure) in LIMITS.iter().zip(figures) {
        let limit = limit.map_or(String::new(), |limit| format!(", at most {limit}"));
        println!("{figure:6}  {name}{limit}");
    }
    println!(
        "most methods beside {CONNECTION}: {}; longest function: {}; circle: {circle:?}",
        most.0,
        sizes.last().unwrap().1
    );
    println!("files that call each other, with a method each: {}", mutual.join("; "));
    for doc in docs.iter().take(5) {
        println!("{doc}");
    }
    for ((name, limit), figure) in LIMITS.iter().zip(figures) {
        assert!(limit.is_none_or(|limit| figure <= limit), "{name}: {figure}, and the limit is {limit:?}");
    }
}
