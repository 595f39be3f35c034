//! Downloads to files. One grows beside its target, and takes its place when it is complete.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::future::poll_fn;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ::http::{HeaderValue, StatusCode, header};

use super::request::RequestBuilder;
use super::response::Response;
use crate::engine::{files, sync};
use crate::error::{Error, Operation, Result};

fn failed(path: &Path) -> impl Fn(io::Error) -> Error {
    let address = path.display().to_string();
    move |source| Error::Io { operation: Operation::WriteFile, address: address.clone(), source }
}

/// Downloads to a file.
pub(super) async fn run(request: RequestBuilder, path: PathBuf, blocks: bool) -> Result<Response> {
    let target = target(&path)?;
    let part = part_of(&target);
    let begun = if request.resume { begun(&part).map_err(failed(&part))? } else { None };
    let again = request.copy();
    let mut request = request;
    let asked = begun.filter(|_| !request.headers.contains_key(header::RANGE));
    if let Some(Begun { length, modified }) = asked {
        request.headers.insert(header::RANGE, value(&format!("bytes={length}-")));
        request.headers.insert(header::IF_RANGE, value(&httpdate::fmt_http_date(modified)));
    }
    let mut response = request.run(blocks).await?;
    let mut offset = 0;
    if let Some(Begun { length, .. }) = asked {
        match response.status() {
            StatusCode::PARTIAL_CONTENT if content_range(&response).is_some_and(|(first, _)| first == Some(length)) => {
                offset = length;
            }
            // All of it is there.
            StatusCode::RANGE_NOT_SATISFIABLE if content_range(&response) == Some((None, Some(length))) => {
                let file = files::open_partial(&part).map_err(failed(&part))?;
                finish(file, &part, &target, blocks).await.map_err(failed(&target))?;
                return Ok(response);
            }
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                let problem = "resume(true) needs a request whose body can be sent again";
                let again = again.ok_or_else(|| Error::InvalidOption(problem.into()))?;
                response = again.run(blocks).await?;
            }
            _ => {}
        }
    }
    response = response.error_for_status()?;
    let mut file = open(&part, offset).map_err(failed(&part))?;
    let modified = modified(&response);
    let total = response.content_length().map(|length| offset + length);
    response.count_from(offset, total);
    while let Some(piece) = poll_fn(|context| response.poll_chunk(context)).await {
        let piece = piece?;
        let written = file.write_all(&piece).and_then(|()| mark(&file, modified));
        written.map_err(failed(&part))?;
    }
    finish(file, &part, &target, blocks).await.map_err(failed(&target))?;
    Ok(response)
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

/// A link leads to its file. Anything but a file is left alone.
fn target(path: &Path) -> Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return Err(Error::InvalidOption("the path of a download must not be empty".into()));
    }
    let problem = || io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
    files::place_of(path).ok_or_else(|| failed(path)(problem()))
}

fn part_of(target: &Path) -> PathBuf {
    let mut name = OsString::from(target);
    name.push(".part");
    name.into()
}

/// A download that was interrupted.
#[derive(Clone, Copy, Debug)]
struct Begun {
    length: u64,
    /// The time of the last change of the file at the server: the partial file has it.
    modified: SystemTime,
}

fn begun(part: &Path) -> io::Result<Option<Begun>> {
    let Some(file) = files::find_partial(part)? else { return Ok(None) };
    let found = file.metadata()?;
    let is_fit = found.is_file() && found.len() > 0;
    Ok(if is_fit { Some(Begun { length: found.len(), modified: found.modified()? }) } else { None })
}

/// Opens the partial file to go on there, or anew.
fn open(part: &Path, offset: u64) -> io::Result<File> {
    if offset > 0 {
        let mut file = files::open_partial(part)?;
        file.set_len(offset)?;
        file.seek(SeekFrom::Start(offset))?;
        return Ok(file);
    }
    match std::fs::remove_file(part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => OpenOptions::new().write(true).create_new(true).open(part),
    }
}

/// Returns the time of the last change, by which the download may continue. None if it was in the second of the response: another
/// change may have come that has the same date (RFC 9110, 8.8.2.2).
fn modified(response: &Response) -> Option<SystemTime> {
    let date = |name| httpdate::parse_http_date(response.header(name)?).ok();
    let modified = date("last-modified")?;
    let now = date("date").unwrap_or_else(SystemTime::now);
    now.duration_since(modified).is_ok_and(|past| past >= Duration::from_secs(1)).then_some(modified)
}

/// Gives the partial file the time of the one at the server. One without has a time that no server tells: its first second.
fn mark(file: &File, modified: Option<SystemTime>) -> io::Result<()> {
    file.set_modified(modified.unwrap_or(SystemTime::UNIX_EPOCH))
}

/// Reads `Content-Range: bytes 5-9/10` or `bytes */10`: the first byte and the whole length.
fn content_range(response: &Response) -> Option<(Option<u64>, Option<u64>)> {
    read_range(response.header("content-range")?)
}

fn read_range(text: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let first = range.split_once('-').and_then(|(first, _)| number(first));
    (first.is_some() || range.trim() == "*").then(|| (first, number(total)))
}

/// Puts the file in the place of the target, once the disk has all of it.
async fn finish(file: File, part: &Path, target: &Path, blocks: bool) -> io::Result<()> {
    // The mark of one whose time is unknown is for partial files alone.
    if file.metadata()?.modified()? == SystemTime::UNIX_EPOCH {
        file.set_modified(SystemTime::now())?;
    }
    if blocks {
        file.sync_all()?;
    } else {
        sync(file).await?;
    }
    std::fs::rename(part, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        for (text, expected) in [
            ("bytes 5-9/10", Some((Some(5), Some(10)))),
            ("bytes 5-9/*", Some((Some(5), None))),
            ("bytes */10", Some((None, Some(10)))),
            ("bytes x-9/10", None),
            ("lines 5-9/10", None),
            ("bytes 5-9", None),
            ("", None),
        ] {
            assert_eq!(read_range(text), expected, "{text}");
        }
    }
}
