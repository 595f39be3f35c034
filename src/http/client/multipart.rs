//! Forms with files (RFC 7578).

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::body::{OpenFile, read_piece};
use crate::engine::files::open_regular;
use crate::error::{Error, Operation, Result};

/// A form with files, for [`RequestBuilder::multipart`](super::RequestBuilder::multipart).
///
/// Files are read as they are sent, and must not change meanwhile.
///
/// # Example
/// ```no_run
/// use network::http::{Client, Multipart};
///
/// let form = Multipart::new().text("title", "Holidays").file("photo", "sea.jpg");
/// Client::new().post("https://example.org/upload").multipart(form).send()?.error_for_status()?;
/// # Ok::<(), network::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Multipart {
    parts: Vec<Part>,
    problem: Option<String>,
}

#[derive(Clone, Debug)]
struct Part {
    head: String,
    content: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Bytes(Vec<u8>),
    File(PathBuf),
}

impl Multipart {
    /// Creates a form without fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a field of text.
    pub fn text(self, name: impl AsRef<str>, value: impl Into<String>) -> Self {
        let value: String = value.into();
        self.add(name.as_ref(), None, None, Source::Bytes(value.into_bytes()))
    }

    /// Adds a file, under its own name. One that cannot be read fails the request with [`Error::Io`].
    pub fn file(self, name: impl AsRef<str>, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.add(name.as_ref(), Some(&file_name), Some("application/octet-stream"), Source::File(path.to_owned()))
    }

    /// Adds bytes as a file with that name and type, as in `image/png`.
    pub fn bytes(
        self,
        name: impl AsRef<str>,
        file_name: impl AsRef<str>,
        content_type: impl AsRef<str>,
        bytes: impl Into<Vec<u8>>,
    ) -> Self {
        let content = Source::Bytes(bytes.into());
        self.add(name.as_ref(), Some(file_name.as_ref()), Some(content_type.as_ref()), content)
    }

    fn add(mut self, name: &str, file_name: Option<&str>, content_type: Option<&str>, content: Source) -> Self {
        let given = [Some(name), file_name, content_type];
        if let Some(text) = given.into_iter().flatten().find(|text| text.contains(|c: char| c.is_control())) {
            self.problem.get_or_insert(format!("the name or type {text:?} in a form contains a control character"));
        }
        let mut head = format!("Content-Disposition: form-data; name=\"{}\"", quote(name));
        if let Some(file_name) = file_name {
            head += &format!("; filename=\"{}\"", quote(file_name));
        }
        if let Some(content_type) = content_type {
            head += &format!("\r\nContent-Type: {content_type}");
        }
        self.parts.push(Part { head, content });
        self
    }

    /// Opens the files. Returns the form as it is sent, and its length.
    pub(super) fn open(&self, boundary: &str) -> Result<(Form, u64)> {
        if let Some(problem) = &self.problem {
            return Err(Error::InvalidOption(problem.clone()));
        }
        let mut pieces = VecDeque::new();
        let mut length = 0;
        let mut add = |piece: Piece, size: u64| {
            length += size;
            pieces.push_back(piece);
        };
        for Part { head, content } in &self.parts {
            let head = format!("--{boundary}\r\n{head}\r\n\r\n").into_bytes();
            let size = head.len() as u64;
            add(Piece::Bytes(head), size);
            match content {
                Source::Bytes(bytes) => add(Piece::Bytes(bytes.clone()), bytes.len() as u64),
                Source::File(path) => {
                    let (file, size) = open_file(path)?;
                    add(Piece::File(file, size), size);
                }
            }
            add(Piece::Bytes(b"\r\n".to_vec()), 2);
        }
        let end = format!("--{boundary}--\r\n").into_bytes();
        let size = end.len() as u64;
        add(Piece::Bytes(end), size);
        Ok((Form { pieces }, length))
    }
}

/// As browsers quote names.
fn quote(text: &str) -> String {
    text.replace('"', "%22")
}

/// Opens a file to send, with its length.
pub(super) fn open_file(path: &Path) -> Result<(OpenFile, u64)> {
    let opened = open_regular(path, "; body_stream sends what comes from elsewhere");
    let (file, length) = opened.map_err(|source| Error::Io {
        operation: Operation::ReadFile,
        address: path.display().to_string(),
        source,
    })?;
    Ok((OpenFile { file, path: path.to_owned() }, length))
}

/// Returns a boundary that is in no file but by intent or great chance.
pub(super) fn boundary() -> Result<String> {
    let mut bytes = [0; 16];
    let filled = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
    filled.map_err(|_| Error::other("the system has no random numbers"))?;
    Ok(bytes.iter().fold(String::from("glib-network-"), |text, byte| format!("{text}{byte:02x}")))
}

/// A form on its way.
pub(super) struct Form {
    pieces: VecDeque<Piece>,
}

enum Piece {
    Bytes(Vec<u8>),
    /// With what is left of it.
    File(OpenFile, u64),
}

impl Stream for Form {
    type Item = Result<Vec<u8>>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Vec<u8>>>> {
        let next = match self.pieces.front_mut() {
            None => return Poll::Ready(None),
            Some(Piece::Bytes(bytes)) => Ok(std::mem::take(bytes)),
            Some(Piece::File(_, 0)) => Ok(Vec::new()),
            Some(Piece::File(file, left)) => {
                let piece = read_piece(file, *left);
                if let Ok(piece) = &piece {
                    *left -= piece.len() as u64;
                    if piece.is_empty() {
                        // Shorter than it was: the length tells.
                        *left = 0;
                    }
                }
                let is_done = *left == 0 || piece.is_err();
                if !is_done {
                    return Poll::Ready(Some(piece));
                }
                piece
            }
        };
        self.pieces.pop_front();
        Poll::Ready(Some(next))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn all(form: &Multipart) -> Result<Vec<u8>> {
        let (mut form, length) = form.open("b")?;
        let mut sent = Vec::new();
        while let Poll::Ready(Some(piece)) = Pin::new(&mut form).poll_next(&mut Context::from_waker(Waker::noop())) {
            sent.extend(piece?);
        }
        assert_eq!(sent.len() as u64, length);
        Ok(sent)
    }

    #[test]
    fn forms_are_as_browsers_send_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a \"b\".bin");
        std::fs::write(&path, vec![7; 200_000]).unwrap();
        let form = Multipart::new().text("x", "ü\r\n--b").bytes("y", "z.png", "image/png", *b"png").file("f", &path);
        let sent = all(&form).unwrap();
        let expected = [
            "--b\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\nü\r\n--b\r\n",
            "--b\r\nContent-Disposition: form-data; name=\"y\"; filename=\"z.png\"\r\nContent-Type: image/png\r\n\r\npng\r\n",
            "--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a %22b%22.bin\"\r\nContent-Type: \
             application/octet-stream\r\n\r\n",
        ]
        .concat();
        assert!(sent.starts_with(expected.as_bytes()), "{}", String::from_utf8_lossy(&sent[..400]));
        assert!(sent.ends_with(b"\x07\r\n--b--\r\n"));
        assert_eq!(all(&Multipart::new()).unwrap(), b"--b--\r\n");
    }

    #[test]
    fn what_would_split_the_form_is_refused() {
        for form in [
            Multipart::new().text("a\r\nb", ""),
            Multipart::new().bytes("a", "b\0", "c", ""),
            Multipart::new().bytes("a", "b", "c\r\nX: y", ""),
        ] {
            assert!(matches!(all(&form), Err(Error::InvalidOption(_))));
        }
        assert!(matches!(all(&Multipart::new().file("a", "/nonexistent")), Err(Error::Io { .. })));
        assert_ne!(boundary().unwrap(), boundary().unwrap());
    }
}
