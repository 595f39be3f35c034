//! What is wrong in a command line is said, and nothing is written. Nothing here opens a port.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use near::command_line::{Request, Start, parse};
use near::near::Options;
use near::script;

fn defaults() -> Options {
    Options { data: "/home/a/data".into(), name: None, port: 1716, downloads: "/home/a/Downloads".into() }
}

fn read<const N: usize>(arguments: [&str; N]) -> Result<Request, String> {
    parse(arguments.map(OsString::from), defaults())
}

#[track_caller]
fn start<const N: usize>(arguments: [&str; N]) -> Start {
    match read(arguments) {
        Ok(Request::Start(start)) => start,
        other => panic!("{other:?}"),
    }
}

/// A directory of the test's own, removed at its end.
struct Place(PathBuf);

impl Place {
    fn new(test: &str) -> Place {
        let place = std::env::temp_dir().join(format!("near-{test}-{}", std::process::id()));
        std::fs::create_dir(&place).unwrap();
        Place(place)
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().into()
    }

    fn names(&self) -> Vec<OsString> {
        std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn options_are_read() {
    let place = Place::new("options_are_read");
    let script = place.file("script", "# first\n\nwait-device anna\n  text hello you\nquit\n");
    let read = start([
        "--data",
        "data",
        "--downloads=here",
        "--name",
        "anna",
        "--port",
        "1764",
        "--headless",
        "--script",
        &script,
    ]);
    let Options { data, name, port, downloads } = read.options;
    assert_eq!((data.as_path(), downloads.as_path()), (Path::new("data"), Path::new("here")));
    assert_eq!((name.as_deref(), port, read.headless), (Some("anna"), 1764, true));
    assert_eq!(read.script.unwrap(), ["wait-device anna", "text hello you", "quit"]);

    let usual = start([]);
    assert_eq!((usual.options.data, usual.options.port), (defaults().data, 1716));
    assert!(usual.options.name.is_none() && !usual.headless && usual.script.is_none());
    // A directory's name is bytes.
    let odd = parse([OsString::from_vec(b"--data=\xff=".into())], defaults());
    assert!(
        matches!(odd, Ok(Request::Start(start)) if start.options.data.as_os_str() == &*OsString::from_vec(b"\xff=".into()))
    );
}

#[test]
fn what_is_wrong_is_named() {
    let place = Place::new("what_is_wrong_is_named");
    let file = place.file("file", "");
    let below = format!("{file}/below");
    let bad = place.file("bad", "wait-device anna\n\n# a comment\nfly away\nquit\n");
    let bare = place.file("bare", "text\n");
    let ports = "the protocol has the ports 1716 to 1764";
    for (arguments, wanted) in [
        (&["--bogus"][..], "there is no option --bogus"),
        (&["--bogus=1"], "there is no option --bogus"),
        (&["-x"], "there is no option -x"),
        (&["anna"], "“anna” is not an option, and nothing else is expected"),
        (&[""], "“” is not an option, and nothing else is expected"),
        (&["--data"], "--data needs a directory"),
        (&["--data", ""], "--data needs a directory"),
        (&["--data="], "--data needs a directory"),
        (&["--data", "--headless"], "--data needs a directory"),
        (&["--data", &file], &format!("--data {file}: this is not a directory")),
        (&["--data", &below], &format!("--data {below}: Not a directory")),
        (&["--downloads", ""], "--downloads needs a directory"),
        (&["--downloads", &file], &format!("--downloads {file}: this is not a directory")),
        (&["--name"], "--name needs a name"),
        (&["--name", ""], "--name needs a name"),
        (&["--name", "?!"], "--name ?!: a name needs a letter or a digit"),
        (&["--port"], "--port needs a port"),
        (&["--port", "abc"], &format!("--port abc: {ports}")),
        (&["--port", "70000"], &format!("--port 70000: {ports}")),
        (&["--port", "0"], &format!("--port 0: {ports}")),
        (&["--port", "-1"], &format!("--port -1: {ports}")),
        (&["--port", "1765"], &format!("--port 1765: {ports}")),
        (&["--headless=yes"], "--headless has no value"),
        (&["--help=all"], "--help has no value"),
        (&["--script"], "--script needs a file"),
        (&["--script", "/nope"], "--script /nope: No such file or directory"),
        (&["--script", "/"], "--script /: Is a directory"),
        (&["--script", &bad], &format!("--script {bad}: line 4: unknown command “fly”")),
        (&["--script", &bare], &format!("--script {bare}: line 1: text needs a value")),
    ] {
        match parse(arguments.iter().map(Into::into), defaults()) {
            Err(why) => assert_eq!(why, wanted, "{arguments:?}"),
            Ok(read) => panic!("{arguments:?} is read as {read:?}"),
        }
    }
}

#[test]
fn help_has_each_option_with_its_default() {
    let Ok(Request::Print(help)) = read(["--help"]) else { panic!("no text") };
    for (option, default) in [
        ("--data", "default: /home/a/data"),
        ("--downloads", "default: /home/a/Downloads"),
        ("--name", "default: the last one"),
        ("--port", "default: 1716"),
        ("--headless", "default: with one"),
        ("--script", "default: none"),
    ] {
        let line = help.lines().find(|line| line.trim_start().starts_with(option)).expect(option);
        assert!(line.contains(default) && line.chars().count() <= 120, "{line}");
    }
    assert!(help.contains("--help") && help.contains("--version"));
}

/// Near has the version of the library that it shows.
#[test]
fn the_version_is_the_librarys() {
    let Ok(Request::Print(version)) = read(["--version"]) else { panic!("no text") };
    let library = include_str!("../../../Cargo.toml").lines().find(|line| line.starts_with("version = ")).unwrap();
    assert_eq!(Some(version.strip_prefix("near ").unwrap()), library.split('"').nth(1));
}

/// All commands that the documentation of a script lists are commands.
#[test]
fn the_listed_commands_are_known() {
    let listed = include_str!("../src/script.rs").split("```").nth(1).unwrap();
    for command in ["wait-device", "code-from", "wait-code", "cancel", "wait-failed", "rest", "touch"] {
        assert!(listed.contains(command), "{command}");
        assert!(script::parse(&format!("{command} x")).is_ok(), "{command}");
    }
    assert_eq!(script::parse("quit").unwrap(), ["quit"]);
}

/// Runs the program in an empty directory.
fn near(place: &Place, arguments: &[&str]) -> Output {
    let mut near = Command::new(env!("CARGO_BIN_EXE_near"));
    near.args(arguments).current_dir(&place.0).env("HOME", &place.0).env("XDG_DATA_HOME", place.0.join("data"));
    near.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere").env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY");
    near.output().unwrap()
}

#[test]
fn the_program_ends_and_writes_nothing() {
    let place = Place::new("the_program_ends_and_writes_nothing");
    for arguments in [
        &["--headless", "--data", ""][..],
        &["--headless", "--port", "abc"],
        &["--headless", "--downloads", ""],
        &["--headless", "--script", "/nope"],
        &["--bogus"],
    ] {
        let output = near(&place, arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        let last = arguments.iter().rev().find(|argument| argument.starts_with("--")).unwrap();
        assert!(said.starts_with("near: ") && said.contains(last), "{said}");
        assert!(output.stdout.is_empty());
    }
    for (option, wanted) in [("--help", "Usage: near [OPTION …]"), ("--version", "near ")] {
        let output = near(&place, &[option]);
        assert!(output.status.success() && output.stderr.is_empty());
        assert!(String::from_utf8(output.stdout).unwrap().contains(wanted));
    }
    assert!(place.names().is_empty(), "{:?}", place.names());
}
