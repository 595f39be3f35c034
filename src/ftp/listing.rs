//! Lines of directory listings. Pure: bytes and the time in, entries out.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::time::{self, Day};
use crate::error::{Error, Result};

/// A name on a server, as bytes: often UTF-8, but servers are free to send others.
///
/// Displayed with U+FFFD in place of what is no UTF-8. Any method that takes the name of a file takes this as well, without loss.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(pub(super) Vec<u8>);

impl Name {
    /// Returns the name as text. `None` if it is no UTF-8.
    pub fn to_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl AsRef<[u8]> for Name {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

/// The kind of an [`Entry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, pipe or socket.
    Special,
    /// The line is in no known format. Its text is the name.
    Unknown,
}

/// An entry of a directory. Whatever the server does not tell is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The name, without its directory. It comes from the server: use [`safe_name`](Self::safe_name) for local files.
    pub name: Name,
    /// The kind.
    pub kind: Kind,
    /// The size in bytes.
    pub size: Option<u64>,
    /// The time of the last change. Exact from servers with MLSD. Other listings have local time of the server, which is taken for
    /// UTC, to the minute or the day.
    pub modified: Option<SystemTime>,
    /// The permissions, as the server writes them: `rwxr-xr-x` in listings of `ls`, letters of RFC 3659 from servers with MLSD.
    pub permissions: Option<String>,
    /// The line as it came.
    pub raw: Name,
}

impl Entry {
    fn new(raw: &[u8], name: &[u8], kind: Kind) -> Self {
        let (name, raw) = (Name(name.to_vec()), Name(raw.to_vec()));
        Entry { name, kind, size: None, modified: None, permissions: None, raw }
    }

    /// Returns the name if it can be that of a file in a local directory: neither `.` nor `..`, no `/`, no NUL, not empty.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] with the name.
    pub fn safe_name(&self) -> Result<OsString> {
        let bytes = &self.name.0;
        let is_safe =
            !matches!(bytes.as_slice(), b"" | b"." | b"..") && !bytes.iter().any(|byte| matches!(byte, b'/' | 0));
        if is_safe {
            Ok(OsString::from_vec(bytes.clone()))
        } else {
            Err(Error::InvalidOption(format!("the server lists {:?}, which is no name for a local file", self.name)))
        }
    }

    /// Returns whether a local file has the same size, and is not older. **Blocks** for a look at the file.
    ///
    /// False if the server does not tell the size.
    pub fn same_as(&self, local: impl AsRef<Path>) -> bool {
        let Ok(found) = std::fs::metadata(local) else { return false };
        let is_new = |modified| found.modified().is_ok_and(|local| local >= modified);
        found.is_file() && self.size == Some(found.len()) && self.modified.is_none_or(is_new)
    }
}

/// Parses a line of MLSD (RFC 3659, section 7): facts, a space, a name. `None` for the directory itself and its parent.
pub(super) fn fact_line(line: &[u8]) -> Option<Entry> {
    let Some(space) = line.iter().position(|byte| *byte == b' ') else {
        return Some(Entry::new(line, line, Kind::Unknown));
    };
    let mut entry = Entry::new(line, &line[space + 1..], Kind::Unknown);
    for fact in line[..space].split(|byte| *byte == b';') {
        let text = String::from_utf8_lossy(fact);
        let Some((fact, value)) = text.split_once('=') else { continue };
        match fact.to_ascii_lowercase().as_str() {
            "type" => match value.to_ascii_lowercase().as_str() {
                "cdir" | "pdir" => return None,
                "file" => entry.kind = Kind::File,
                "dir" => entry.kind = Kind::Directory,
                other if other.starts_with("os.unix=slink") || other.starts_with("os.unix=symlink") => {
                    entry.kind = Kind::Link;
                }
                _ => entry.kind = Kind::Special,
            },
            "size" => entry.size = value.parse().ok(),
            "modify" => entry.modified = time::of_digits(value),
            "perm" => entry.permissions = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(entry)
}

/// Parses a line of LIST, of whichever format. `None` for lines that stand for nothing: empty ones, a total, the directory itself and its
/// parent.
pub(super) fn list_line(line: &[u8], now: SystemTime) -> Option<Entry> {
    if line.is_empty() || is_total(line) {
        return None;
    }
    let entry = eplf(line)
        .or_else(|| unix(line, now))
        .or_else(|| dos(line))
        .unwrap_or_else(|| Entry::new(line, line, Kind::Unknown));
    let is_itself = entry.kind == Kind::Directory && (entry.name == "." || entry.name == "..");
    (!is_itself).then_some(entry)
}

fn is_total(line: &[u8]) -> bool {
    line.strip_prefix(b"total ").is_some_and(|rest| rest.iter().all(|byte| byte.is_ascii_digit()))
}

/// Easily parsed list format: `+` facts, each followed by a comma, a tab, the name.
fn eplf(line: &[u8]) -> Option<Entry> {
    let tab = line.iter().position(|byte| *byte == b'\t')?;
    let facts = line[..tab].strip_prefix(b"+")?;
    let mut entry = Entry::new(line, &line[tab + 1..], Kind::Unknown);
    for fact in facts.split(|byte| *byte == b',') {
        let number = || std::str::from_utf8(fact.get(1..)?).ok()?.parse::<u64>().ok();
        match fact.first() {
            Some(b'/') => entry.kind = Kind::Directory,
            Some(b'r') => entry.kind = Kind::File,
            Some(b's') => entry.size = number(),
            Some(b'm') => {
                entry.modified = number().and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
            }
            _ => {}
        }
    }
    Some(entry)
}

/// A word of a line, with where it ends.
struct Word<'a> {
    text: &'a str,
    end: usize,
}

/// Splits at spaces. Words that are no UTF-8 end it: they can only be part of a name.
fn words(line: &[u8]) -> Vec<Word<'_>> {
    let mut found = Vec::new();
    let mut start = 0;
    while start < line.len() {
        let length = line[start..].iter().position(|byte| *byte == b' ').unwrap_or(line.len() - start);
        let end = start + length;
        if length > 0 {
            match std::str::from_utf8(&line[start..end]) {
                Ok(text) => found.push(Word { text, end }),
                Err(_) => break,
            }
        }
        start = end + 1;
    }
    found
}

/// As `ls -l` prints: permissions, links, owner, perhaps a group, the size or the numbers of a device, the date, the name.
fn unix(line: &[u8], now: SystemTime) -> Option<Entry> {
    let kind = match line.first()? {
        b'-' => Kind::File,
        b'd' => Kind::Directory,
        b'l' => Kind::Link,
        b'b' | b'c' | b'p' | b's' => Kind::Special,
        _ => return None,
    };
    let words = words(line);
    let permissions = words.first()?.text.get(1..10)?;
    if !permissions.bytes().all(|byte| b"rwxsStTlL-".contains(&byte)) {
        return None;
    }
    // The names of owners and groups may be anything, dates included: the first place where a size and a date follow each other.
    let (date, name_at, modified) = (3..words.len().min(8)).find_map(|at| {
        let size = words[at - 1].text;
        size.parse::<u64>().ok()?;
        let texts = |count: usize| words.get(at..at + count);
        let (modified, count) =
            date(&texts(3).or_else(|| texts(2))?.iter().map(|word| word.text).collect::<Vec<_>>(), now)?;
        Some((at, words[at + count - 1].end, modified))
    })?;
    let name = line.get(name_at + 1..)?;
    let name = match kind {
        Kind::Link => memchr::memmem::find(name, b" -> ").map_or(name, |arrow| &name[..arrow]),
        _ => name,
    };
    let mut entry = Entry::new(line, name, kind);
    entry.size = if kind == Kind::Special { None } else { words[date - 1].text.parse().ok() };
    entry.modified = Some(modified);
    entry.permissions = Some(permissions.to_owned());
    (!name.is_empty()).then_some(entry)
}

/// Returns the time, and how many words it took: `Jan 31 12:34`, `Jan 31 2024`, `2024-01-31 12:34`.
fn date(words: &[&str], now: SystemTime) -> Option<(SystemTime, usize)> {
    if let Some(day) = Day::of_iso(words.first()?) {
        return Some((day.at(minutes(words.get(1)?)?)?, 2));
    }
    let [month, day, last] = words else { return None };
    let month = time::month(month)?;
    let day = day.parse().ok()?;
    if let Some(minutes) = minutes(last) {
        // Of this year, or of the last one if that is still to come. Clocks and time zones differ by a day.
        let year = time::year(now);
        let of = |year| Day { year, month, day }.at(minutes);
        let latest = now.checked_add(Duration::from_secs(86_400))?;
        let this_year = of(year).filter(|time| *time <= latest);
        return Some((this_year.or_else(|| of(year - 1))?, 3));
    }
    let year = last.parse().ok().filter(|_| last.len() == 4)?;
    Some((Day { year, month, day }.at(0)?, 3))
}

/// Returns the minutes since midnight of `12:34`.
fn minutes(text: &str) -> Option<u32> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str, limit: u32| text.parse::<u32>().ok().filter(|number| *number < limit && text.len() <= 2);
    Some(number(hours, 24)? * 60 + number(minutes, 60)?)
}

/// As `dir` prints: `01-31-24  12:34PM  <DIR>  name`, or a size in place of `<DIR>`.
fn dos(line: &[u8]) -> Option<Entry> {
    let words = words(line);
    let [date, clock, third, ..] = words.as_slice() else { return None };
    let day = Day::of_american(date.text)?;
    let (text, afternoon) = match clock.text.get(5..) {
        Some("PM") => (clock.text.get(..5)?, Some(true)),
        Some("AM") => (clock.text.get(..5)?, Some(false)),
        Some("") => (clock.text, None),
        _ => return None,
    };
    let minutes = minutes(text)?;
    let minutes = match afternoon {
        None => minutes,
        Some(afternoon) => minutes % 720 + if afternoon { 720 } else { 0 },
    };
    let (kind, size) = match third.text {
        "<DIR>" => (Kind::Directory, None),
        "<JUNCTION>" | "<SYMLINK>" | "<SYMLINKD>" => (Kind::Link, None),
        size => (Kind::File, Some(size.replace(',', "").parse().ok()?)),
    };
    let rest = line.get(third.end + 1..)?;
    // One space separates a size from the name; the others stand in a column of their own.
    let spaces = if kind == Kind::File { 0 } else { rest.iter().take(9).take_while(|byte| **byte == b' ').count() };
    let name = &rest[spaces..];
    let mut entry = Entry::new(line, name, kind);
    entry.size = size;
    entry.modified = day.at(minutes);
    (!name.is_empty()).then_some(entry)
}

/// Returns the last part of a path on a server.
pub(super) fn last_part(path: &[u8]) -> &OsStr {
    let start = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    OsStr::from_bytes(&path[start..])
}

/// Any line in any format, for fuzzing: nothing panics, and names are part of the line.
#[cfg(any(test, fuzzing))]
pub(crate) fn check(line: &[u8]) {
    for entry in
        [fact_line(line), list_line(line, UNIX_EPOCH + Duration::from_secs(1_800_000_000))].into_iter().flatten()
    {
        assert!(line.ends_with(&entry.name.0) || entry.kind == Kind::Link);
        assert_eq!(entry.raw.0, line);
        if let Ok(name) = entry.safe_name() {
            assert_eq!(Path::new("/x").join(&name).parent(), Some(Path::new("/x")));
        }
    }
}

#[cfg(test)]
#[path = "listing/tests.rs"]
mod tests;
