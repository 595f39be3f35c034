//! Arguments of commands, and what replies say in their text. Pure.

use std::net::IpAddr;
use std::time::SystemTime;

use super::time;
use crate::error::{Error, Result};

/// Returns whether a byte would end the argument, or stand for something else: CR, LF, NUL, and 0xFF, which begins a command of
/// Telnet (RFC 959, section 5.3).
fn is_forbidden(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n' | 0 | 0xff)
}

/// Joins a command and its argument. Fails if that would not be one command.
pub(super) fn command(name: &str, argument: Option<&[u8]>) -> Result<Vec<u8>> {
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !is_name {
        return Err(Error::InvalidOption(format!("invalid FTP command {name:?}: expected letters and digits")));
    }
    let mut line = name.as_bytes().to_vec();
    if let Some(argument) = argument {
        if let Some(byte) = argument.iter().find(|byte| is_forbidden(**byte)) {
            // It may be a password.
            let shown = if name.eq_ignore_ascii_case("PASS") || name.eq_ignore_ascii_case("ACCT") {
                String::new()
            } else {
                format!(" {:?}", String::from_utf8_lossy(argument))
            };
            return Err(Error::InvalidOption(format!(
                "invalid argument{shown} of the FTP command {name}: it contains the byte 0x{byte:02x}"
            )));
        }
        line.push(b' ');
        line.extend_from_slice(argument);
    }
    Ok(line)
}

/// Returns the directory in the text of a reply 257: in double quotes, each quote in it doubled.
pub(super) fn quoted(text: &[u8]) -> Option<Vec<u8>> {
    let start = text.iter().position(|byte| *byte == b'"')? + 1;
    let mut found = Vec::new();
    let mut rest = text[start..].iter();
    while let Some(byte) = rest.next() {
        if *byte != b'"' {
            found.push(*byte);
            continue;
        }
        match rest.as_slice().first() {
            Some(b'"') => found.extend(rest.next()),
            _ => return Some(found),
        }
    }
    None
}

/// Returns the port in the text of a reply 229 (RFC 2428): `(|||port|)`, with any delimiter.
pub(super) fn extended_port(text: &[u8]) -> Option<u16> {
    let open = text.iter().position(|byte| *byte == b'(')?;
    let rest = &text[open + 1..];
    let delimiter = *rest.first().filter(|byte| (33..=126).contains(*byte) && !byte.is_ascii_digit())?;
    let digits = rest.strip_prefix(&[delimiter; 3])?;
    let end = digits.iter().position(|byte| *byte == delimiter)?;
    port(&digits[..end])
}

/// Returns the port in the text of a reply 227: the last two of the first six numbers that stand together, separated by commas.
/// The address is not looked at: nobody is sent elsewhere by it.
pub(super) fn passive_port(text: &[u8]) -> Option<u16> {
    let is_part = |byte: &u8| byte.is_ascii_digit() || *byte == b',';
    text.split(|byte| !is_part(byte)).find_map(|run| {
        let numbers: Option<Vec<u8>> = run
            .split(|byte| *byte == b',')
            .map(|digits| std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()))
            .collect();
        match *numbers? {
            [_, _, _, _, high, low] => Some(u16::from_be_bytes([high, low])),
            _ => None,
        }
    })
}

fn port(digits: &[u8]) -> Option<u16> {
    let is_number = !digits.is_empty() && digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
}

/// The lowest port that a data connection goes to: below it are other services of the server.
const LOWEST_PORT: u16 = 1024;

/// Returns the port if a data connection may go there.
pub(super) fn allowed_port(port: u16) -> Option<u16> {
    (port >= LOWEST_PORT).then_some(port)
}

/// Returns the command that tells the server where it is listened for it in active mode.
pub(super) fn active(ip: IpAddr, port: u16) -> (&'static str, String) {
    match ip {
        IpAddr::V4(v4) => {
            let ([a, b, c, d], [high, low]) = (v4.octets(), port.to_be_bytes());
            ("PORT", format!("{a},{b},{c},{d},{high},{low}"))
        }
        IpAddr::V6(v6) => ("EPRT", format!("|2|{v6}|{port}|")),
    }
}

/// Returns the number in the text of a reply to SIZE.
pub(super) fn size(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

/// Returns the time in the text of a reply to MDTM.
pub(super) fn time(text: &[u8]) -> Option<SystemTime> {
    time::of_digits(std::str::from_utf8(text).ok()?.trim())
}

/// Returns the features in the reply to FEAT (RFC 2389): each of its lines but the first and the last.
pub(super) fn features<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    let mut lines: Vec<_> = lines.skip(1).map(|line| String::from_utf8_lossy(line).trim().to_owned()).collect();
    lines.pop();
    lines.retain(|line| !line.is_empty());
    lines
}

/// Any text, for fuzzing: nothing panics, and what is found is in it.
#[cfg(any(test, fuzzing))]
pub(crate) fn check(text: &[u8]) {
    if let Some(name) = quoted(text) {
        assert!(name.len() + 2 <= text.len());
    }
    let _ = (extended_port(text), passive_port(text));
    if let Ok(line) = command("CWD", Some(text)) {
        assert_eq!(&line[4..], text);
        assert!(!text.iter().any(|byte| is_forbidden(*byte)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_one_line() {
        assert_eq!(command("PWD", None).unwrap(), b"PWD");
        assert_eq!(command("CWD", Some(b" a \x80b")).unwrap(), b"CWD  a \x80b");
        for argument in ["a\rb", "a\nb", "a\0b"] {
            let error = command("CWD", Some(argument.as_bytes())).unwrap_err().to_string();
            assert!(error.contains("CWD") && error.contains("0x"), "{error}");
        }
        assert!(command("CWD", Some(b"\xff")).is_err());
        let error = command("PASS", Some(b"secret\n")).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
        for name in ["", "NO OP", "NOOP\r\nDELE x", "é"] {
            assert!(command(name, None).is_err(), "{name:?}");
        }
    }

    #[test]
    fn directories_are_unquoted() {
        let found = |text: &str| quoted(text.as_bytes()).map(|name| String::from_utf8(name).unwrap());
        assert_eq!(found(r#""/" is the current directory"#), Some("/".into()));
        assert_eq!(found(r#"it is "a ""b"" c"."#), Some(r#"a "b" c"#.into()));
        assert_eq!(found(r#""""""#), Some("\"".into()));
        assert_eq!(found(r#""""#), Some(String::new()));
        assert_eq!(found(r#""open"#), None);
        assert_eq!(found("none"), None);
    }

    #[test]
    fn ports_of_extended_passive_mode() {
        assert_eq!(extended_port(b"Entering Extended Passive Mode (|||6446|)"), Some(6446));
        assert_eq!(extended_port(b"ok (!!!65535!)"), Some(65535));
        for text in
            ["(|||65536|)", "(||6446|)", "(|1|1.2.3.4|5|)", "(||||)", "(|||-1|)", "6446", "(|||6446", "(1111)", "("]
        {
            assert_eq!(extended_port(text.as_bytes()), None, "{text}");
        }
        assert_eq!(extended_port(b"(|||0|)").and_then(allowed_port), None);
    }

    #[test]
    fn ports_of_passive_mode_stand_anywhere() {
        assert_eq!(passive_port(b"Entering Passive Mode (127,0,0,1,4,1)"), Some(1025));
        assert_eq!(passive_port(b"Entering Passive Mode. 127,0,0,1,255,255"), Some(65535));
        assert_eq!(passive_port(b"=127,0,0,1,0,22"), Some(22));
        assert_eq!(passive_port(b"1,2 and 10,0,0,1,4,2."), Some(1026));
        for text in ["", "1,2,3,4,5", "1,2,3,4,5,256", "1,2,3,4,5,6,7", "a,b,c,d,e,f", "1,2,3,4,,6"] {
            assert_eq!(passive_port(text.as_bytes()), None, "{text}");
        }
        assert_eq!(allowed_port(22), None);
        assert_eq!(allowed_port(1024), Some(1024));
    }

    #[test]
    fn active_mode_tells_address_and_port() {
        assert_eq!(active([127, 0, 0, 1].into(), 1025), ("PORT", "127,0,0,1,4,1".into()));
        assert_eq!(active(std::net::Ipv6Addr::LOCALHOST.into(), 80), ("EPRT", "|2|::1|80|".into()));
    }

    #[test]
    fn features_are_the_lines_between_the_first_and_the_last() {
        let found = |text: &str| features(text.as_bytes().split(|byte| *byte == b'\n'));
        assert_eq!(found("Features:\n MLST type*;size*;\nUTF8\n\nEnd"), ["MLST type*;size*;", "UTF8"]);
        assert!(found("End").is_empty() && found("").is_empty());
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text: Vec<u8>) {
            check(&text);
        }

        #[test]
        fn what_is_quoted_is_found(name: Vec<u8>, before in "[a-z ]*", after in "[a-z ]*") {
            let mut text = before.into_bytes();
            text.push(b'"');
            for byte in &name {
                text.push(*byte);
                if *byte == b'"' {
                    text.push(b'"');
                }
            }
            text.push(b'"');
            text.extend(after.bytes());
            proptest::prop_assert_eq!(quoted(&text), Some(name));
        }
    }
}
