//! The examples of the client, against servers of the tests' own.

use super::common::{Output, TempDir, command, example, run, run_unheard};
use super::scripted::{Server, response};

fn fetch(arguments: &[&str]) -> Output {
    run(&mut super::common::parties::without_proxies(command(example("fetch"), arguments)), "")
}

#[test]
fn fetch_prints_and_downloads() {
    let directory = TempDir::new();
    let server = Server::answering(|request| match request.split(' ').nth(1).unwrap() {
        "/none" => response("404 Not Found", "", "no"),
        _ => response("200 OK", "Content-Type: text/plain\r\n", request),
    });
    let printed = fetch(&["--header", "X: y", &server.url("/a")]);
    assert!(printed.status.success(), "{}", printed.stderr);
    assert!(
        printed.text().starts_with("GET /a HTTP/1.1\r\n") && printed.text().contains("x: y\r\n"),
        "{}",
        printed.text()
    );
    assert!(printed.stderr.contains("200 OK from") && printed.stderr.contains("text/plain"), "{}", printed.stderr);
    let file = directory.address("file");
    assert!(fetch(&["-o", &file, "--resume", "--data", "body", &server.url("/b")]).status.success());
    let got = std::fs::read_to_string(&file).unwrap();
    assert!(got.starts_with("POST /b ") && got.ends_with("body"), "{got}");
    assert!(fetch(&["--proxy", "none", "--data", &format!("@{file}"), &server.url("/c")]).text().contains("POST /b "));
    assert!(fetch(&[&server.url("/none")]).assert_failed().contains("404 Not Found"));
    assert!(fetch(&["--unix", &directory.address("none"), "http://x/"]).assert_failed().contains("none"));
}

#[test]
fn fetch_writes_to_devices_pipes_and_standard_output() {
    let directory = TempDir::new();
    let server = Server::answering(|_| response("200 OK", "", "the body"));
    let url = server.url("/");
    let printed = fetch(&["-o", "-", &url]);
    assert!(printed.status.success() && printed.text() == "the body", "{printed:?}");
    assert!(fetch(&["-o", "/dev/null", &url]).status.success());
    let pipe = directory.path("pipe");
    assert!(run(&mut command("mkfifo", [&pipe]), "").status.success());
    let reader = pipe.clone();
    let reader = std::thread::spawn(move || std::fs::read_to_string(reader).unwrap());
    assert!(fetch(&["-o", pipe.to_str().unwrap(), &url]).status.success());
    assert_eq!(reader.join().unwrap(), "the body");
    assert_eq!(std::fs::read_dir(directory.path("")).unwrap().count(), 1, "no file beside the pipe");
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let full = command(example("fetch"), ["--proxy", "none", &url]).stdout(full).output().unwrap();
    let told = String::from_utf8(full.stderr).unwrap();
    assert!(full.status.code() == Some(1) && told.contains("cannot write to standard output: "), "{told}");
    assert!(told.contains("No space left on device"), "{told}");
}

#[test]
fn misuse_and_help_are_told() {
    let misused = |name: &str, arguments: &[&str]| {
        let output = run(&mut command(example(name), arguments), "");
        assert!(output.status.code() == Some(2) && output.stdout.is_empty(), "{name} {arguments:?}: {output:?}");
        output.stderr
    };
    for (name, arguments, problem) in [
        ("fetch", &["--header", "nonsense", "http://127.0.0.1/"][..], "'nonsense' for '--header <NAME: VALUE>'"),
        ("fetch", &["--resume", "http://127.0.0.1/"], "--output"),
        ("oauth", &["--brauser"], "--brauser"),
        #[cfg(feature = "websocket")]
        ("control_page", &["http://127.0.0.1:0/", "two"], "two"),
        #[cfg(feature = "json")]
        ("post", &["http://127.0.0.1/", "abc"], "'abc' for '[SECONDS]': expected a number of seconds"),
        #[cfg(feature = "json")]
        ("post", &["http://127.0.0.1/", "0"], "expected a number of seconds"),
        #[cfg(feature = "json")]
        ("post", &["http://127.0.0.1/", "inf"], "expected a number of seconds"),
        #[cfg(feature = "json")]
        ("post", &["http://127.0.0.1/", "1", "2"], "'2'"),
        #[cfg(feature = "json")]
        ("post", &["nonsense"], "nonsense"),
    ] {
        let told = misused(name, arguments);
        assert!(told.contains(problem), "{name} {arguments:?}: {told}");
        let help = run(&mut command(example(name), ["--help"]), "");
        assert!(help.status.success() && help.text().contains("Usage: "), "{name}: {help:?}");
    }
}

#[test]
fn whoever_is_not_read_any_more_ends_quietly() {
    let server = Server::answering(|_| response("200 OK", "", &"x".repeat(1 << 20)));
    let url = server.url("/");
    for (name, arguments) in [
        ("fetch", vec!["--proxy", "none", url.as_str()]),
        ("oauth", vec![]),
        #[cfg(feature = "websocket")]
        ("control_page", vec![]),
        #[cfg(feature = "json")]
        ("post", vec![url.as_str(), "0.01"]),
    ] {
        let output = run_unheard(&mut command(example(name), arguments));
        assert_eq!(output.status.code(), Some(1), "{name}: {output:?}");
        // It says where the response has come from.
        let is_quiet = output.stderr.is_empty() || name == "fetch" && output.stderr.starts_with("200 OK from ");
        assert!(is_quiet && output.stderr.lines().count() <= 1, "{name}: {output:?}");
    }
}

#[cfg(feature = "ftp")]
#[test]
fn fetch_knows_ftp() {
    assert!(fetch(&["ftp://me@127.0.0.1/x"]).assert_failed().contains("anonymous"));
    assert!(fetch(&["ftp://127.0.0.1:1/x"]).assert_failed().contains("cannot connect"));
}

#[cfg(feature = "json")]
#[test]
fn post_sends_json_and_reloads_its_token() {
    use super::common::{Process, Watch};

    let directory = TempDir::new();
    std::fs::write(directory.path("token"), "one\n").unwrap();
    let server = Server::answering(|request| {
        let status = if request.contains("authorization: Bearer two") { "202 Accepted" } else { "200 OK" };
        response(status, "", "")
    });
    let mut post = super::common::parties::without_proxies(command(example("post"), [&server.url("/samples"), "0.01"]));
    let process = Process::start(post.env("METRICS_TOKEN", directory.path("token")), Watch::Stdout);
    assert_eq!(process.line(), "200 OK");
    std::fs::write(directory.path("token"), "two\n").unwrap();
    process.signal(rustix::process::Signal::HUP);
    process.line_with("202 Accepted");
    process.signal(rustix::process::Signal::TERM);
    process.finish().assert_clean();
    let seen = server.seen();
    let body = seen[0].split("\r\n\r\n").nth(1).unwrap();
    let sample: serde_json::Value = serde_json::from_str(body).unwrap();
    assert!(sample["load"]["1"].is_f64() && seen[0].contains("authorization: Bearer one"), "{}", seen[0]);
    let missing = run(command(example("post"), [server.url("/")]).env("METRICS_TOKEN", directory.path("none")), "");
    let told = missing.assert_failed();
    assert!(told.contains(&format!("METRICS_TOKEN={}: ", directory.address("none"))), "{told}");
}
