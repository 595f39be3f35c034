//! The examples, against a real server.

use super::common::{Output, TempDir, command, example, run, run_unheard};
use super::servers::{Tls, pyftpdlib, vsftpd};

fn ftp(arguments: &[&str]) -> Output {
    run(&mut command(example("ftp"), arguments), "")
}

#[test]
fn files_are_listed_fetched_and_put() {
    let (served, local) = (vsftpd(Tls::None, "127.0.0.1"), TempDir::new());
    let url = |path: &str| format!("{}/{}{path}", served.address(), served.home);
    let listed = ftp(&["ls", &url("/")]);
    listed.assert_clean();
    assert!(listed.text().contains("hello.txt") && listed.text().contains("Directory"), "{}", listed.text());
    ftp(&["get", &url("/hello.txt"), &local.address("")]).assert_clean();
    assert_eq!(std::fs::read_to_string(local.path("hello.txt")).unwrap(), "hello\nworld\n");
    ftp(&["put", &local.address("hello.txt"), &url("/up/")]).assert_clean();
    assert_eq!(std::fs::read_to_string(served.path("hello.txt")).unwrap(), "hello\nworld\n");
    let refused = ftp(&["get", &url("/nosuch"), &local.address("")]);
    assert!(refused.assert_failed().contains("550"), "{refused:?}");
    // Without TLS there, and without being told to do without.
    let refused = ftp(&["ls", &url("/").replace("ftp://", "ftpes://")]);
    assert!(refused.assert_failed().contains("ftp://"), "{refused:?}");
}

#[test]
fn passwords_come_from_the_environment() {
    let served = pyftpdlib(Tls::None);
    let url = format!("ftp://{}@{}/hello.txt", served.user, served.host());
    let local = TempDir::new();
    let get = |password| {
        let mut get = command(example("ftp"), ["get", &url, &local.address("")]);
        run(get.env("FTP_PASSWORD", password), "")
    };
    assert!(get("wrong").assert_failed().contains("530"));
    get(served.password).assert_clean();
    // In a URL, it would be sent as part of the name, and end up in logs.
    let refused = ftp(&["get", &url.replace("joe@", "joe:secret@"), &local.address("")]);
    assert!(refused.assert_failed().contains("FTP_PASSWORD") && !refused.stderr.contains("secret"), "{refused:?}");
}

#[test]
fn a_directory_is_mirrored_and_only_what_is_new_again() {
    let (served, local) = (vsftpd(Tls::None, "127.0.0.1"), TempDir::new());
    std::fs::write(served.path("one"), "1").unwrap();
    let mirror = || {
        let to = local.address("copy");
        let output =
            run(&mut command(example("ftp_mirror"), [served.address().as_str(), served.home.as_str(), &to]), "");
        output.assert_clean();
        output.text()
    };
    assert_eq!(mirror().lines().count(), 2);
    assert_eq!(std::fs::read_to_string(local.path("copy/up/one")).unwrap(), "1");
    assert_eq!(mirror(), "");
    std::fs::write(served.path("two"), "2").unwrap();
    assert!(mirror().ends_with("up/two\n"));
}

#[test]
fn a_mirror_names_what_it_cannot_copy_and_goes_on() {
    let (served, local) = (pyftpdlib(Tls::None), TempDir::new());
    let mirror = |directory: &str| {
        let address = format!("ftp://{}@{}", served.user, served.host());
        let mut mirror = command(example("ftp_mirror"), [&address, directory, &local.address("copy")]);
        run(mirror.env("FTP_PASSWORD", served.password), "")
    };
    // A directory that is not there, and one within itself.
    assert!(mirror("/nosuch").assert_failed().contains("550"));
    assert!(!local.path("copy").exists());
    std::fs::write(served.path("too-much"), "refused").unwrap();
    std::fs::write(served.path("z"), "last").unwrap();
    let output = mirror("/up");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stderr.contains("too-much: ") && output.stderr.contains("1 not copied"), "{output:?}");
    assert_eq!(std::fs::read_to_string(local.path("copy/z")).unwrap(), "last");
    std::os::unix::fs::symlink("..", served.path("loop")).unwrap();
    let output = mirror("/up");
    assert!(output.stderr.contains("too deep"), "{output:?}");
}

#[test]
fn wrong_arguments_are_explained() {
    for arguments in [&[][..], &["ls"], &["fetch", "x"], &["ls", "ftp://x", "--timeout", "x"]] {
        let output = ftp(arguments);
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{output:?}");
    }
    for name in ["ftp", "ftp_mirror"] {
        let help = run(&mut command(example(name), ["--help"]), "");
        help.assert_clean();
        for part in ["ftpes://", "FTP_PASSWORD", "--timeout"] {
            assert!(help.text().contains(part), "{name}: {}", help.text());
        }
    }
}

#[test]
fn a_url_may_have_any_byte_in_its_path() {
    let (served, local) = (pyftpdlib(Tls::None), TempDir::new());
    std::fs::write(served.path("50 % #1?"), "content").unwrap();
    let get = |path: &str| {
        let url = format!("ftp://j%6fe@{}/up/{path}", served.host());
        run(command(example("ftp"), ["get", &url, &local.address("to")]).env("FTP_PASSWORD", served.password), "")
    };
    get("50%20%25%20%231%3f").assert_clean();
    assert_eq!(std::fs::read_to_string(local.path("to")).unwrap(), "content");
    for wrong in ["50%", "50%2", "50%+1", "50%zz"] {
        assert!(get(wrong).assert_failed().contains("two of 0-9 and A-F"), "{wrong}");
    }
    assert!(get("50%0a").assert_failed().contains("0x0a"));
}

#[test]
fn whoever_is_not_read_any_more_ends_quietly() {
    let (served, local) = (vsftpd(Tls::None, "127.0.0.1"), TempDir::new());
    let address = served.address();
    let url = format!("{address}/{}/", served.home);
    let copy = local.address("copy");
    for (name, arguments) in [("ftp", vec!["ls", url.as_str()]), ("ftp_mirror", vec![&address, &served.home, &copy])] {
        let output = run_unheard(&mut command(example(name), arguments));
        assert_eq!((output.status.code(), output.stderr.as_str()), (Some(1), ""), "{name}");
    }
}

#[test]
fn a_server_that_is_silent_is_given_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("ftp://{}", silent.local_addr().unwrap());
    for (name, arguments) in [
        ("ftp", vec!["ls", address.as_str(), "--timeout", "1"]),
        ("ftp_mirror", vec!["--timeout", "1", &address, ".", "/nosuch"]),
    ] {
        let output = run(&mut command(example(name), arguments), "");
        assert!(output.assert_failed().contains("timed out after 1 s"), "{output:?}");
    }
}

#[test]
fn who_is_trusted_can_be_told_by_an_option() {
    let served = pyftpdlib(Tls::Explicit);
    let url = format!("ftpes://{}@{}/", served.user, served.host());
    let list = |arguments: &[&str]| {
        run(command(example("ftp"), ["ls", &url]).args(arguments).env("FTP_PASSWORD", served.password), "")
    };
    let told = list(&[]);
    let line = told.assert_failed();
    assert!(line.contains("--pin") && !line.contains("ClientTls"), "{line}");
    let fingerprint = line.split(|c: char| !c.is_ascii_hexdigit()).find(|word| word.len() == 64).unwrap();
    list(&["--pin", fingerprint]).assert_clean();
}
