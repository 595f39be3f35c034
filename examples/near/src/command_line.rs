//! The command line. Everything in it is checked before a file is written or a port is opened.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::near::Options;
use crate::packet;
use crate::script;
use crate::store::plain;

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    Start(Start),
    /// Print this text, and end.
    Print(String),
}

#[derive(Debug)]
pub struct Start {
    pub options: Options,
    /// Without a window.
    pub headless: bool,
    pub script: Option<Vec<String>>,
}

/// Reads the arguments that follow the program's name. The error says what is wrong with which of them.
pub fn parse(arguments: impl IntoIterator<Item = OsString>, defaults: Options) -> Result<Request, String> {
    let mut start = Start { options: defaults.clone(), headless: false, script: None };
    let mut arguments = arguments.into_iter().peekable();
    while let Some(argument) = arguments.next() {
        let (option, mut inline) = split(&argument);
        let has_inline = inline.is_some();
        // What begins like an option is none's value: somebody has forgotten the value. `--option=--value` is possible.
        let mut value = |what: &str| {
            let next = || arguments.next_if(|next| !next.as_bytes().starts_with(b"--"));
            let value = inline.take().or_else(next).filter(|value| !value.is_empty());
            value.ok_or_else(|| format!("{option} needs {what}"))
        };
        let options = &mut start.options;
        match option.as_str() {
            "--headless" | "--help" | "--version" if has_inline => return Err(format!("{option} has no value")),
            "--data" => options.data = directory(&option, value("a directory")?)?,
            "--downloads" => options.downloads = directory(&option, value("a directory")?)?,
            "--name" => options.name = Some(name(value("a name")?)?),
            "--port" => options.port = port(&value("a port")?)?,
            "--script" => start.script = Some(script(value("a file")?)?),
            "--headless" => start.headless = true,
            "--help" | "-h" => return Ok(Request::Print(help(&defaults))),
            "--version" | "-V" => return Ok(Request::Print(format!("near {}", env!("CARGO_PKG_VERSION")))),
            _ if option.starts_with('-') => return Err(format!("there is no option {option}")),
            _ => return Err(format!("“{option}” is not an option, and nothing else is expected")),
        }
    }
    Ok(Request::Start(start))
}

/// Splits `--option=value`.
fn split(argument: &OsStr) -> (String, Option<OsString>) {
    let bytes = argument.as_bytes();
    let at = bytes.iter().position(|byte| *byte == b'=').filter(|_| bytes.starts_with(b"--"));
    let (option, value) = bytes.split_at(at.unwrap_or(bytes.len()));
    let value = at.map(|_| OsString::from_vec(value[1..].to_vec()));
    (String::from_utf8_lossy(option).into_owned(), value)
}

/// A directory that is there, or that can still be made.
fn directory(option: &str, value: OsString) -> Result<PathBuf, String> {
    let path = PathBuf::from(value);
    match std::fs::metadata(&path) {
        Ok(found) if !found.is_dir() => Err(format!("{option} {}: this is not a directory", path.display())),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{option} {}: {}", path.display(), plain(error)))
        }
        _ => Ok(path),
    }
}

fn name(value: OsString) -> Result<String, String> {
    let name = value.to_string_lossy().into_owned();
    match packet::device_name(&name).is_empty() {
        true => Err(format!("--name {name}: a name needs a letter or a digit")),
        false => Ok(name),
    }
}

fn port(value: &OsStr) -> Result<u16, String> {
    let port = value.to_str().and_then(|text| text.parse().ok()).filter(|port| packet::PORTS.contains(port));
    let (first, last) = (packet::PORTS.start(), packet::PORTS.end());
    port.ok_or_else(|| format!("--port {}: the protocol has the ports {first} to {last}", value.to_string_lossy()))
}

fn script(value: OsString) -> Result<Vec<String>, String> {
    let path = PathBuf::from(value);
    let text = std::fs::read_to_string(&path).map_err(|error| format!("--script {}: {}", path.display(), plain(error)));
    script::parse(&text?).map_err(|why| format!("--script {}: {why}", path.display()))
}

fn help(defaults: &Options) -> String {
    let (data, downloads, port) = (defaults.data.display(), defaults.downloads.display(), defaults.port);
    format!(
        "\
Shows the devices around you, pairs with them, and exchanges texts, links and files with them.

Usage: near [OPTION …]

  --data DIR       directory of this device's key and its pairings; default: {data}
  --downloads DIR  directory for received files; default: {downloads}
  --name NAME      name of this device, of 32 characters at most; default: the last one, at first the host's
  --port N         UDP and TCP port, the same on all devices; default: {port}
  --headless       without a window; default: with one
  --script FILE    runs the commands of a file, for tests (examples/near/src/script.rs lists them); default: none
  --help           prints this text
  --version        prints the version"
    )
}
