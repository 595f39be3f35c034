//! The grammar of addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{FORMS, Host, Port, Target, UnixName, schemes};

type Parsed<T> = std::result::Result<T, String>;

/// The longest path of a unix socket, in bytes. The kernel's structure has 108, one of them for the terminating NUL.
pub(super) const UNIX_PATH_MAX: usize = 107;

/// The longest host name that DNS allows, in bytes.
const HOST_MAX: usize = 253;

/// The longest part of a host name between dots, in bytes.
const LABEL_MAX: usize = 63;

pub(super) fn parse_target(text: &str) -> Parsed<Target> {
    if text.is_empty() {
        return Err(format!("empty; expected {FORMS}"));
    }
    if text.contains('\0') {
        return Err("contains a NUL byte".into());
    }
    if let Some(name) = text.strip_prefix('@') {
        return parse_abstract(name);
    }
    if let Some((scheme, rest)) = text.split_once("://")
        && !scheme.contains(['/', '|'])
    {
        return parse_url(scheme, rest);
    }
    let bar = text.find('|');
    let slash = text.find('/');
    match (bar, slash) {
        (Some(bar), slash) if slash.is_none_or(|slash| bar < slash) => parse_service(&text[..bar], &text[bar + 1..]),
        (_, Some(_)) => parse_path(Path::new(text)),
        _ => match split_srv(text) {
            Some((service, domain)) => parse_srv_parts(service, domain),
            None => parse_inet(text),
        },
    }
}

fn parse_url(scheme: &str, rest: &str) -> Parsed<Target> {
    let letters = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    if scheme.is_empty() || !scheme.chars().all(letters) {
        return Err("expected a scheme before ://, as in http://host".into());
    }
    if ["unix", "file"].iter().any(|path| scheme.eq_ignore_ascii_case(path)) {
        return Err("expected the path alone, as in /run/app.sock".into());
    }
    if scheme.eq_ignore_ascii_case("srv") {
        return Err(format!("expected {SRV_FORM}"));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() {
        return Err("expected a host after ://".into());
    }
    if names_user(rest) {
        return Err("user name and password are not supported; expected scheme://host:port".into());
    }
    let (host, port) = split_port(authority)?;
    // An empty port is the default one (RFC 3986, section 3.2.3).
    let port = port.filter(|port| !port.is_empty());
    let (default, kind) = schemes::find(&scheme.to_ascii_lowercase(), host, port)?;
    let port = match (port, default) {
        (Some(port), _) => parse_port(port)?,
        (None, Some(default)) => Port::Number(default),
        (None, None) => {
            return Err(format!("{scheme}:// has no default port; add one, as in {scheme}://{host}:1234"));
        }
    };
    Ok(Target::Inet { host: Some(parse_url_host(host)?), port, scheme: Some(kind) })
}

/// Returns whether there is a user or password in what follows the `://` of a URL. A password may contain a slash that should be
/// percent-encoded: then an `@` comes later, and what seems to be the port is none.
pub(super) fn names_user(rest: &str) -> bool {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let is_port = |port: &str| port.is_empty() || port.parse::<u16>().is_ok();
    let is_cut = || !authority.ends_with(']') && authority.rsplit_once(':').is_some_and(|(_, port)| !is_port(port));
    authority.contains('@') || rest.contains('@') && is_cut()
}

/// Parses a host with or without a port, as after the `://` of a URL.
pub(crate) fn parse_authority(authority: &str) -> Parsed<(Host, Option<Port>)> {
    let (host, port) = split_port(authority)?;
    let port = port.filter(|port| !port.is_empty()).map(parse_port).transpose()?;
    Ok((parse_url_host(host)?, port))
}

/// In a URL, the `%` before a zone and the zone itself are percent-encoded (RFC 6874). A bare `%` is accepted as well.
fn parse_url_host(host: &str) -> Parsed<Host> {
    let zone = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).and_then(|inner| inner.split_once("%25"));
    match zone {
        Some((address, zone)) => parse_host(&format!("[{address}%{}]", percent_decode(zone)?)),
        None => parse_host(host),
    }
}

/// Decodes text of a URL.
pub(crate) fn percent_decode(text: &str) -> Parsed<String> {
    let mut decoded = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else {
                    return Err("expected two hexadecimal digits after a %".into());
                };
                (high << 4 | low) as u8
            }
            other => other,
        };
        decoded.push(byte);
    }
    String::from_utf8(decoded).map_err(|_| "expected percent-encoded UTF-8".into())
}

/// The form of an address of SRV records.
const SRV_FORM: &str = "srv:service.domain, as in srv:xmpp-client.example.org";

/// Splits `srv:service.domain`. Without a dot, `srv` is a host.
fn split_srv(text: &str) -> Option<(&str, &str)> {
    let (prefix, name) = text.split_once(':')?;
    if prefix.eq_ignore_ascii_case("srv") { name.split_once('.') } else { None }
}

/// Parses the two parts of the name of SRV records.
pub(super) fn parse_srv_parts(service: &str, domain: &str) -> Parsed<Target> {
    const EXPECTED: &str = "as in srv:xmpp-client.example.org";
    let is_label =
        |label: &str| (1..=LABEL_MAX).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
    let is_service = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if service.starts_with('_') {
        return Err(format!("expected the service without its underscore, {EXPECTED}"));
    }
    // One byte is for the underscore.
    if !is_label(service) || service.len() >= LABEL_MAX || !service.bytes().all(is_service) {
        return Err(format!("expected a service of letters, digits and hyphens before the domain, {EXPECTED}"));
    }
    if domain.contains([':', '[']) {
        return Err(format!("expected a domain without a port, which the SRV records have, {EXPECTED}"));
    }
    let domain = match parse_host(domain.strip_suffix('.').unwrap_or(domain)) {
        Ok(Host::Name(name)) => name.to_ascii_lowercase(),
        Ok(_) => return Err(format!("expected a domain, which has SRV records, got an IP address; {EXPECTED}")),
        Err(_) if domain.is_empty() => return Err(format!("expected a domain after the service, {EXPECTED}")),
        Err(problem) => return Err(problem),
    };
    if !domain.split('.').all(is_label) || service.len() + domain.len() + "_._tcp.".len() > HOST_MAX {
        return Err(format!("expected a domain of labels of 1 to {LABEL_MAX} characters, {EXPECTED}"));
    }
    Ok(Target::Srv { service: service.to_ascii_lowercase(), domain })
}

fn parse_service(kind: &str, rest: &str) -> Parsed<Target> {
    if !is_service_type(kind) {
        return Err("expected a service type before the |: 2 to 15 letters, digits and single inner hyphens, \
                    at least one letter"
            .into());
    }
    // Case does not matter in service types.
    Ok(Target::Service { kind: kind.to_ascii_lowercase(), rest: rest.into() })
}

/// Splits the text after the first `|` of a service to publish: `name` or `name|port`.
pub(crate) fn parse_listening(rest: &str) -> Parsed<(&str, Option<Port>)> {
    Ok(match rest.split_once('|') {
        Some((name, port)) => (name, Some(parse_port(port)?)),
        None => (rest, None),
    })
}

/// Returns whether this is a service type, without the underscore (RFC 6763, section 7). Avahi accepts no types of a single
/// character, though the standard allows them.
pub(crate) fn is_service_type(kind: &str) -> bool {
    (2..=15).contains(&kind.len())
        && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && kind.bytes().any(|b| b.is_ascii_alphabetic())
        && !kind.starts_with('-')
        && !kind.ends_with('-')
        && !kind.contains("--")
}

pub(super) fn parse_path(path: &Path) -> Parsed<Target> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        return Err("the path is empty".into());
    }
    if bytes.contains(&0) {
        return Err("the path contains a NUL byte".into());
    }
    if bytes.len() > UNIX_PATH_MAX {
        return Err(format!("unix socket path too long: {} bytes, maximum {UNIX_PATH_MAX}", bytes.len()));
    }
    if bytes.ends_with(b"/") {
        return Err("expected the path of a unix socket, got a directory".into());
    }
    Ok(Target::Unix(UnixName::Path(path.into())))
}

fn parse_abstract(name: &str) -> Parsed<Target> {
    check_abstract(name.as_bytes()).map(|()| Target::Unix(UnixName::Abstract(name.into())))
}

pub(super) fn check_abstract(name: &[u8]) -> Parsed<()> {
    match name.len() {
        0 => Err("expected a name after the @".into()),
        1..=UNIX_PATH_MAX => Ok(()),
        length => Err(format!("abstract socket name too long: {length} bytes, maximum {UNIX_PATH_MAX}")),
    }
}

fn parse_inet(text: &str) -> Parsed<Target> {
    if text.eq_ignore_ascii_case("srv:") {
        return Err(format!("expected a port after the :, or {SRV_FORM}"));
    }
    let (host, port) = match split_port(text)? {
        (host, Some(port)) => (Some(parse_host(host)?), port),
        (port, None) if port.starts_with('[') || is_address_without_port(port) => {
            return Err(format!("expected a port after the host, as in {port}:1234"));
        }
        (port, None) => (None, port),
    };
    Ok(Target::Inet { host, port: parse_port(port)?, scheme: None })
}

/// Parses what a person types where a host is asked for: a host with or without a port, and nothing else.
pub(super) fn parse_typed_host(text: &str, default_port: u16) -> Parsed<(Host, Port, String)> {
    const EXPECTED: &str = "expected a host, with or without a port, as in example.org or example.org:1234";
    if text.is_empty() {
        return Err(format!("empty; {EXPECTED}"));
    }
    let other = [
        (text.contains("://"), "a URL"),
        (text.starts_with('@') || text.contains('/'), "a unix socket"),
        (text.contains('|'), "a service"),
        (split_srv(text).is_some(), "a name of SRV records"),
    ];
    if let Some((_, kind)) = other.iter().find(|(is_it, _)| *is_it) {
        return Err(format!("{EXPECTED}, got {kind}"));
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{EXPECTED}, got a number; for a port of this machine: localhost:{text}"));
    }
    // Several colons without brackets can only be an IPv6 address.
    let is_bare_v6 = text.split('%').next().is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    let bracketed = if is_bare_v6 { format!("[{text}]") } else { text.to_owned() };
    let (host, port) = split_port(&bracketed)?;
    let written = match port {
        Some(_) => bracketed.clone(),
        None => format!("{host}:{default_port}"),
    };
    let port = port.map_or(Ok(Port::Number(default_port)), parse_port)?;
    Ok((parse_host(host)?, port, written))
}

fn is_address_without_port(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// Splits `host:port`. The host may be an address in brackets.
fn split_port(text: &str) -> Parsed<(&str, Option<&str>)> {
    let colon = if text.starts_with('[') {
        let end = text.find(']').ok_or("expected a ] after the [")?;
        match &text[end + 1..] {
            "" => None,
            rest if rest.starts_with(':') => Some(end + 1),
            _ => return Err("expected a : and a port after the ]".into()),
        }
    } else {
        if text.matches(':').count() > 1 {
            return Err("expected host:port; an IPv6 address goes in brackets, as in [::1]:1234".into());
        }
        text.find(':')
    };
    Ok(match colon {
        Some(colon) => (&text[..colon], Some(&text[colon + 1..])),
        None => (text, None),
    })
}

pub(super) fn parse_host(host: &str) -> Parsed<Host> {
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let (address, scope) = match inner.split_once('%') {
            Some((_, "")) => return Err("expected an interface after the %".into()),
            Some((address, scope)) => (address, Some(scope.to_owned())),
            None => (inner, None),
        };
        let address =
            address.parse().map_err(|_| format!("expected an IPv6 address in the brackets, got {inner:?}"))?;
        return Ok(Host::V6(address, scope));
    }
    if host.is_empty() {
        return Err("expected a host before the :".into());
    }
    check_host_characters(host)?;
    let name = if host.is_ascii() { host.to_owned() } else { host_to_ascii(host)? };
    if let Some(address) = parse_v4(&name) {
        return Ok(Host::V4(address));
    }
    if name.len() > HOST_MAX {
        return Err(format!("host name too long: {} bytes, maximum {HOST_MAX}", name.len()));
    }
    Ok(Host::Name(name))
}

fn check_host_characters(host: &str) -> Parsed<()> {
    let wrong = host.chars().find(|c| c.is_whitespace() || c.is_control() || "[]%@|:/<>\"\\^`{}".contains(*c));
    wrong.map_or(Ok(()), |wrong| Err(format!("invalid character {wrong:?} in host name")))
}

/// The form of an international name in DNS and in certificates (IDNA).
fn host_to_ascii(host: &str) -> Parsed<String> {
    let ascii = glib::hostname_to_ascii(host).ok_or("invalid international host name")?;
    // The conversion turns a fullwidth slash into a slash, and leaves characters out that nobody sees.
    check_host_characters(&ascii)?;
    if ascii.is_empty() {
        return Err("expected a host name, got characters that are not part of one".into());
    }
    Ok(ascii.into())
}

/// Parses the forms of inet_aton(3), such as `127.1`: one to four numbers, of which the last fills the remaining bytes.
/// Numbers may be octal (`0177`) or hexadecimal (`0x7f`).
fn parse_v4(host: &str) -> Option<Ipv4Addr> {
    let mut parts: Vec<&str> = host.split('.').collect();
    let (last, bytes) = (parse_v4_number(parts.pop()?)?, parts.len());
    if bytes > 3 || last >> (8 * (4 - bytes)) != 0 {
        return None;
    }
    let mut address = last;
    for (place, part) in parts.into_iter().enumerate() {
        let byte = parse_v4_number(part).filter(|number| *number <= 0xff)?;
        address |= byte << (8 * (3 - place));
    }
    u32::try_from(address).ok().map(Ipv4Addr::from)
}

fn parse_v4_number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    // The standard library would accept a sign.
    let is_number = digits.chars().all(|c| c.is_digit(radix));
    is_number.then(|| u64::from_str_radix(digits, radix).ok())?
}

pub(crate) fn parse_port(port: &str) -> Parsed<Port> {
    if port.is_empty() {
        return Err("expected a port after the :, a number or a name such as http".into());
    }
    if port.bytes().all(|b| b.is_ascii_digit()) {
        return match port.parse() {
            Ok(number) => Ok(Port::Number(number)),
            Err(_) => Err(format!("expected a port up to 65535, got {port}")),
        };
    }
    let letters = |b: u8| b.is_ascii_alphanumeric() || b"-_.+*".contains(&b);
    if !port.bytes().all(letters) || port.starts_with(['-', '+', '.']) {
        if port.contains('@') {
            // It may be the end of a password, which is not repeated.
            return Err("expected a host and a port, without user and password".into());
        }
        return Err(format!("expected a port, a number up to 65535 or a name such as http, got {port:?}"));
    }
    Ok(Port::Name(port.into()))
}
