//! Forms with files (RFC 7578, RFC 2046 section 5.1): pure functions.

use memchr::memmem;

/// The most parts of a form.
const PARTS: usize = 1000;

/// The longest head of a part, in bytes.
const HEAD: usize = 8 << 10;

/// A part of a form with files, from [`Request::multipart_future`](crate::http::Request::multipart_future).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Part {
    /// The name of the field.
    pub name: String,
    /// The name of the file as the client gives it, for display: without directories, never empty, `.` or `..`. `None` for fields that are no
    /// files.
    pub file_name: Option<String>,
    /// The type of the content as the client gives it.
    pub content_type: Option<String>,
    /// The content.
    pub data: Vec<u8>,
}

/// Returns the boundary that a content type gives. `None` if it is no form with parts.
pub(super) fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';')?;
    let boundary =
        parameter(parameters, "boundary").filter(|_| kind.trim().eq_ignore_ascii_case("multipart/form-data"))?;
    ((1..=70).contains(&boundary.len()) && boundary.bytes().all(|byte| matches!(byte, 0x20..=0x7e))).then_some(boundary)
}

/// Returns the value of a parameter: `a=b; c="d \" e"`.
fn parameter(text: &str, wanted: &str) -> Option<String> {
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([';', ' ', '\t']);
        let (name, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        if name.trim().eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = after;
    }
}

/// Reads up to the closing quote. Browsers escape no more than quotes, and some not even backslashes, as in `C:\new.txt`.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match letters.next_if(|(_, next)| matches!(next, '"' | '\\')) {
                Some((_, escaped)) => value.push(escaped),
                None => value.push('\\'),
            },
            other => value.push(other),
        }
    }
    None
}

/// Cuts a body into its parts.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parts(body: &[u8], boundary: &str) -> Result<Vec<Part>, &'static str> {
    let delimiter = format!("\r\n--{boundary}");
    let finder = memmem::Finder::new(delimiter.as_bytes());
    // The first one need not stand behind a line.
    let mut rest = match body.strip_prefix(&delimiter.as_bytes()[2..]) {
        Some(rest) => rest,
        None => {
            let first = finder.find(body).ok_or("the form has no beginning")?;
            &body[first + delimiter.len()..]
        }
    };
    let mut parts = Vec::new();
    loop {
        if rest.starts_with(b"--") {
            return Ok(parts);
        }
        let line = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let inside = rest[line..].strip_prefix(b"\r\n").ok_or("a boundary of the form is malformed")?;
        let end = finder.find(inside).ok_or("the form has no end")?;
        if parts.len() == PARTS {
            return Err("the form has too many parts");
        }
        parts.push(part(&inside[..end])?);
        rest = &inside[end + delimiter.len()..];
    }
}

fn part(text: &[u8]) -> Result<Part, &'static str> {
    let end = if text.starts_with(b"\r\n") { Some(0) } else { memmem::find(text, b"\r\n\r\n") };
    let end = end.filter(|end| *end <= HEAD).ok_or("a part of the form has no head, or a too long one")?;
    let head = String::from_utf8_lossy(&text[..end]);
    let skip = if end == 0 { 2 } else { 4 };
    let mut part = Part { name: String::new(), file_name: None, content_type: None, data: text[end + skip..].to_vec() };
    let mut is_named = false;
    for line in head.split("\r\n") {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-type") {
            part.content_type = Some(value.to_owned());
        } else if name.eq_ignore_ascii_case("content-disposition") {
            let (kind, parameters) = value.split_once(';').unwrap_or((value, ""));
            let given = parameter(parameters, "name").filter(|_| kind.trim().eq_ignore_ascii_case("form-data"));
            part.name = given.ok_or("a part of the form has no name")?;
            part.file_name = parameter(parameters, "filename").map(|name| last_component(&name));
            is_named = true;
        }
    }
    if is_named { Ok(part) } else { Err("a part of the form has no name") }
}

fn last_component(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let last: String = last.chars().filter(|letter| !letter.is_control()).collect();
    if matches!(last.as_str(), "" | "." | "..") { "unnamed".into() } else { last }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(body: &str) -> Result<Vec<Part>, &'static str> {
        parts(body.as_bytes(), "XX")
    }

    fn field(name: &str, data: &str) -> Part {
        Part { name: name.into(), file_name: None, content_type: None, data: data.into() }
    }

    #[test]
    fn boundaries() {
        for (kind, found) in [
            ("multipart/form-data; boundary=XX", Some("XX")),
            ("Multipart/Form-Data;charset=utf-8; Boundary=\"a b\"", Some("a b")),
            ("multipart/form-data", None),
            ("multipart/form-data; boundary=", None),
            ("multipart/mixed; boundary=XX", None),
            ("multipart/form-data; x=\"boundary=YY\"; boundary=XX", Some("XX")),
            ("multipart/form-data; boundary=\"XX", None),
        ] {
            assert_eq!(boundary(kind).as_deref(), found, "{kind}");
        }
        assert!(boundary(&format!("multipart/form-data; boundary={}", "x".repeat(71))).is_none());
    }

    #[test]
    fn fields_and_files() {
        let body = "--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nb\r\n\
                    --XX \r\ncontent-disposition: form-data; name=c; filename=\"C:\\dir\\x \\\"y\\\".txt\"\r\nContent-Type: text/plain\r\n\r\n\
                    --X\r\n--XX\r\nContent-Disposition: form-data; name=\"\"\r\n\r\n\r\n--XX--\r\nepilogue";
        let file = Part {
            name: "c".into(),
            file_name: Some("x \"y\".txt".into()),
            content_type: Some("text/plain".into()),
            data: "--X".into(),
        };
        assert_eq!(read(body).unwrap(), [field("a", "b"), file, field("", "")]);
        assert_eq!(read(&format!("preamble\r\n{body}")).unwrap().len(), 3);
        assert_eq!(read("--XX--").unwrap(), []);
    }

    #[test]
    fn malformed_forms() {
        let named = "Content-Disposition: form-data; name=a\r\n\r\n";
        for body in [
            String::new(),
            "--XY\r\n".into(),
            format!("--XX\r\n{named}data"),
            format!("--XXY\r\n{named}data\r\n--XX--"),
            format!("--XX\n{named}data\r\n--XX--"),
            "--XX\r\n\r\ndata\r\n--XX--".into(),
            "--XX\r\nContent-Disposition: form-data; name=a\r\n--XX--".into(),
            "--XX\r\nContent-Disposition: attachment; name=a\r\n\r\n\r\n--XX--".into(),
            "--XX\r\nContent-Disposition: form-data\r\n\r\n\r\n--XX--".into(),
            format!("--XX\r\nX: {}\r\n{named}data\r\n--XX--", "x".repeat(HEAD)),
        ] {
            assert!(read(&body).is_err(), "{body:.60}");
        }
        let many = |count| format!("{}--XX--", format!("--XX\r\n{named}\r\n").repeat(count));
        assert_eq!(read(&many(PARTS)).unwrap().len(), PARTS);
        assert!(read(&many(PARTS + 1)).is_err());
    }

    #[test]
    fn names_of_files_have_no_directories() {
        for (given, name) in [
            ("a.txt", "a.txt"),
            ("../../etc/passwd", "passwd"),
            ("..", "unnamed"),
            ("a/", "unnamed"),
            ("a\r\nb", "ab"),
            ("C:\\x\\y", "y"),
        ] {
            assert_eq!(last_component(given), name, "{given:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_sent_is_read(fields in prop::collection::vec(("[a-z]{0,8}", prop::collection::vec(any::<u8>(), 0..200)), 0..6)) {
            let boundary = "a-boundary-that-is-in-none-of-them";
            let mut body = Vec::new();
            for (name, data) in &fields {
                body.extend_from_slice(format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n").as_bytes());
                body.extend_from_slice(data);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
            let found = parts(&body, boundary).unwrap();
            let found: Vec<_> = found.into_iter().map(|part| (part.name, part.data)).collect();
            prop_assert_eq!(found, fields);
        }

        #[test]
        fn nothing_makes_it_panic(body in "(--XX|\r\n|--|Content-Disposition|: |form-data|; |name=|\"|a|\\\\|\\PC){0,40}", kind in "\\PC*") {
            let _ = read(&body);
            let _ = boundary(&kind);
            let _ = boundary(&format!("multipart/form-data;{kind}"));
        }
    }
}
