//! Files as replies: conditional requests and ranges (RFC 9110, sections 13 and 14).

mod kinds;
pub(super) mod range;

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use hyper::body::Bytes;

use super::checks::phrase;
use super::reply::{Content, Reply};
use super::request::Request;
use crate::engine::files::open;
use crate::error::{Error, Result};
use range::Range;

/// The most that is read at once, in bytes. The loop is held up for that long.
const PIECE: usize = 64 << 10;

/// The part of an open file that is to be sent, from its position on.
pub(super) struct FilePart {
    file: File,
    left: u64,
}

impl FilePart {
    pub(super) fn length(&self) -> u64 {
        self.left
    }

    /// Reads the next piece.
    pub(super) fn read(&mut self) -> io::Result<Bytes> {
        let mut piece = vec![0; usize::try_from(self.left).unwrap_or(PIECE).min(PIECE)];
        let count = self.file.read(&mut piece)?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has become shorter"));
        }
        piece.truncate(count);
        self.left -= count as u64;
        Ok(piece.into())
    }
}

impl Reply {
    /// Makes a reply of a file: exactly the one that `path` names, which should not come from the request unchecked.
    ///
    /// The type comes from the end of the name, for some thirty common ones; [`header`](Reply::header) sets another. `ETag` and
    /// `Last-Modified` are set, and the conditions of the request are kept to: 304 if the client has the file already, 412 if it is
    /// another than the client expects. One range of bytes is sent if it is asked for (206, or 416) and `If-Range` has the tag or the
    /// date of this file; several are not: then the whole file is. A file that does not exist, or is no regular file, is a 404.
    ///
    /// The file is opened now, and read in pieces of 64 KiB as the client takes them, on the loop: a disk that is slow holds it up. A
    /// piece takes 10 µs from the page cache. From a solid-state disk, at random places and not cached, it took 0.24 ms, and 4 to 7 ms
    /// in the worst case of a hundred. Do not serve files from a network file system that may hang.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened for another reason.
    ///
    /// # Example
    /// ```no_run
    /// use network::http::{Reply, Server};
    ///
    /// let server = Server::builder()
    ///     .get("/", |request| Reply::file("/usr/share/doc/me/index.html", request))
    ///     .listen("http://127.0.0.1:8080")?;
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn file(path: impl AsRef<Path>, request: &Request) -> Result<Reply> {
        let path = path.as_ref();
        let file = match open(path) {
            Ok((file, about)) if about.is_file() => Some((file, about)),
            Ok(_) => None,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => None,
            Err(error) => return Err(failed(path, error)),
        };
        match file {
            Some((file, about)) => reply(file, &about, kinds::of(path), request).map_err(|error| failed(path, error)),
            None => Ok(Reply::text(phrase(StatusCode::NOT_FOUND)).with_status(404)),
        }
    }
}

fn failed(path: &Path, source: io::Error) -> Error {
    let operation = crate::error::Operation::ReadFile;
    Error::Io { operation, address: path.display().to_string(), source }
}

fn reply(mut file: File, about: &Metadata, kind: &'static str, request: &Request) -> io::Result<Reply> {
    let version = Version::of(about);
    let headers = request.headers();
    let mut reply = Reply::new(StatusCode::OK, Some(kind), Content::Empty);
    version.describe(&mut reply.headers);
    match version.judge(headers, request.method()) {
        Verdict::Send => {}
        Verdict::Refuse(status) => {
            reply.status = status;
            return Ok(reply);
        }
    }
    let length = about.len();
    let is_asked = request.method() == Method::GET && version.is_still(headers);
    let range = headers.get(header::RANGE).filter(|_| is_asked).and_then(|range| range.to_str().ok());
    let (start, count) = match range.map_or(Range::All, |range| range::parse(range, length)) {
        Range::All => (0, length),
        Range::Part { start, end } => {
            reply.status = StatusCode::PARTIAL_CONTENT;
            let part = format!("bytes {start}-{}/{length}", end - 1);
            reply = reply.header(header::CONTENT_RANGE.as_str(), part);
            (start, end - start)
        }
        Range::Outside => {
            reply.status = StatusCode::RANGE_NOT_SATISFIABLE;
            return Ok(reply.header(header::CONTENT_RANGE.as_str(), format!("bytes */{length}")));
        }
    };
    if start > 0 {
        file.seek(SeekFrom::Start(start))?;
    }
    if count > 0 {
        reply.content = Content::File(FilePart { file, left: count });
    }
    Ok(reply)
}

/// One version of a file.
struct Version {
    tag: String,
    modified: Option<SystemTime>,
}

/// The outcome of the conditions of a request.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Send,
    Refuse(StatusCode),
}

impl Version {
    fn of(about: &Metadata) -> Self {
        // The time has nanoseconds, so that a version is named by it.
        let tag = format!("\"{:x}-{:x}-{:x}{:09x}\"", about.ino(), about.len(), about.mtime(), about.mtime_nsec());
        Version { tag, modified: about.modified().ok() }
    }

    fn describe(&self, headers: &mut HeaderMap) {
        let date = self.modified.map(httpdate::fmt_http_date).and_then(|date| HeaderValue::from_str(&date).ok());
        headers.extend(date.map(|date| (header::LAST_MODIFIED, date)));
        headers.extend(HeaderValue::from_str(&self.tag).ok().map(|tag| (header::ETAG, tag)));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }

    /// Returns whether this version is among tags. Weak ones are the same here.
    fn is_among(&self, tags: &str) -> bool {
        let plain = |tag: &str| tag.trim().strip_prefix("W/").unwrap_or(tag.trim()).to_owned();
        tags.trim() == "*" || tags.split(',').any(|tag| plain(tag) == self.tag)
    }

    /// Returns whether it was changed after a date. `None` if that is no date.
    fn is_newer(&self, date: &str) -> Option<bool> {
        let date = httpdate::parse_http_date(date).ok()?;
        Some(second(self.modified?) > second(date))
    }

    /// Returns whether a date names this version. It does so once its second is over: until then, another version may come that has
    /// the same date (RFC 9110, 8.8.2.2).
    fn is_dated(&self, date: &str, now: SystemTime) -> bool {
        let Ok(date) = httpdate::parse_http_date(date.trim()) else { return false };
        self.modified.map(second) == Some(second(date)) && second(now) > second(date)
    }

    fn judge(&self, headers: &HeaderMap, method: &Method) -> Verdict {
        let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let fits = match text(header::IF_MATCH) {
            Some(tags) => tags.trim() == "*" || tags.split(',').any(|tag| tag.trim() == self.tag),
            None => !text(header::IF_UNMODIFIED_SINCE).and_then(|date| self.is_newer(date)).unwrap_or(false),
        };
        if !fits {
            return Verdict::Refuse(StatusCode::PRECONDITION_FAILED);
        }
        let is_read = [Method::GET, Method::HEAD].contains(method);
        match text(header::IF_NONE_MATCH) {
            Some(tags) if !self.is_among(tags) => Verdict::Send,
            Some(_) if is_read => Verdict::Refuse(StatusCode::NOT_MODIFIED),
            Some(_) => Verdict::Refuse(StatusCode::PRECONDITION_FAILED),
            None => match text(header::IF_MODIFIED_SINCE).and_then(|date| self.is_newer(date)) {
                Some(false) if is_read => Verdict::Refuse(StatusCode::NOT_MODIFIED),
                _ => Verdict::Send,
            },
        }
    }

    /// Returns whether a range of this version is asked for, and not of another.
    fn is_still(&self, headers: &HeaderMap) -> bool {
        let Some(known) = headers.get(header::IF_RANGE) else { return true };
        let Ok(known) = known.to_str() else { return false };
        known.trim() == self.tag || self.is_dated(known, SystemTime::now())
    }
}

/// Returns the whole seconds of a time, which is all that dates in heads have.
fn second(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn version() -> Version {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_500);
        Version { tag: "\"abc\"".into(), modified: Some(modified) }
    }

    fn judge(method: Method, fields: &[(header::HeaderName, &'static str)]) -> Verdict {
        let fields = fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        version().judge(&fields.collect(), &method)
    }

    #[test]
    fn conditions() {
        use header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
        let (before, same, after) =
            ("Tue, 14 Nov 2023 22:13:19 GMT", "Tue, 14 Nov 2023 22:13:20 GMT", "Tue, 14 Nov 2023 22:13:21 GMT");
        let cases = [
            (vec![], 200),
            (vec![(IF_NONE_MATCH, "\"abc\"")], 304),
            (vec![(IF_NONE_MATCH, "\"x\", W/\"abc\"")], 304),
            (vec![(IF_NONE_MATCH, "*")], 304),
            (vec![(IF_NONE_MATCH, "\"abcd\"")], 200),
            // The tag decides, not the date.
            (vec![(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, after)], 200),
            (vec![(IF_MODIFIED_SINCE, before)], 200),
            (vec![(IF_MODIFIED_SINCE, same)], 304),
            (vec![(IF_MODIFIED_SINCE, after)], 304),
            (vec![(IF_MODIFIED_SINCE, "yesterday")], 200),
            (vec![(IF_MATCH, "\"abc\"")], 200),
            (vec![(IF_MATCH, "W/\"abc\"")], 412),
            (vec![(IF_MATCH, "\"x\"")], 412),
            (vec![(IF_UNMODIFIED_SINCE, before)], 412),
            (vec![(IF_UNMODIFIED_SINCE, same)], 200),
        ];
        for (fields, status) in cases {
            let wanted = |status: u16| match status {
                200 => Verdict::Send,
                status => Verdict::Refuse(StatusCode::from_u16(status).unwrap()),
            };
            assert_eq!(judge(Method::GET, &fields), wanted(status), "{fields:?}");
            let changed = if status == 304 && fields[0].0 == IF_MODIFIED_SINCE { 200 } else { status };
            assert_eq!(judge(Method::POST, &fields), wanted(if changed == 304 { 412 } else { changed }), "{fields:?}");
        }
    }

    #[test]
    fn a_range_of_another_version_is_not_sent() {
        let still = |known: &'static str| {
            version().is_still(&[(header::IF_RANGE, HeaderValue::from_static(known))].into_iter().collect())
        };
        assert!(version().is_still(&HeaderMap::new()) && still("\"abc\""));
        assert!(!still("\"x\"") && !still("W/\"abc\"") && !still("Tue, 14 Nov 2023 22:13:21 GMT"));
        let date = "Tue, 14 Nov 2023 22:13:20 GMT";
        assert!(still(date) && !still("Tue, 14 Nov 2023 22:13:19 GMT") && !still("yesterday"));
        let then = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        assert!(version().is_dated(date, then(1_700_000_001_000)));
        assert!(!version().is_dated(date, then(1_700_000_000_900)), "it may change once more in that second");
    }
}
