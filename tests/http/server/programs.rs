//! The examples of the server.

#[cfg(feature = "websocket")]
use rustix::process::Signal;

#[cfg(feature = "websocket")]
use super::raw::Raw;
#[cfg(feature = "websocket")]
use crate::common::{Process, TempDir, Watch};
use crate::common::{command, example, run};

#[test]
fn a_login_by_oauth() {
    let output = run(&mut command(example("oauth"), [""; 0]), []);
    output.assert_clean();
    assert_eq!(output.text(), "logged in; the token is token-of-authorization_code\n");
}

/// In Chromium, where it is found: it is too large to be installed for this.
#[cfg(feature = "websocket")]
#[test]
fn the_control_page_in_a_browser() {
    let names = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];
    let is_there = |name: &&str| command(name, ["--version"]).output().is_ok_and(|output| output.status.success());
    let Some(browser) = names.into_iter().find(is_there) else {
        return eprintln!("not run: there is no Chromium");
    };
    let page = Process::start(&mut command(example("control_page"), [""; 0]), Watch::Stdout);
    let line = page.line_with("open http://127.0.0.1:");
    let url = line.strip_prefix("open ").unwrap();
    let port = url.trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap();
    let mut flip = Raw::connect(port);
    flip.send("POST /flip HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(flip.answer().status, 204);
    let profile = TempDir::new();
    let mut shown = command(browser, ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000"]);
    shown.arg(format!("--user-data-dir={}", profile.address(""))).args(["--dump-dom", url]);
    // The state comes by the WebSocket.
    let output = run(&mut shown, []);
    assert!(output.text().contains("The lamp is <span id=\"state\">on</span>."), "{output:?}");
}

#[cfg(feature = "websocket")]
#[test]
fn the_control_page() {
    let page = Process::start(&mut command(example("control_page"), [""; 0]), Watch::Stdout);
    let line = page.line_with("open http://127.0.0.1:");
    let port = line.trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap();
    let ask = |text: &str| {
        let mut raw = Raw::connect(port);
        raw.send(format!("{text}Host: localhost\r\n\r\n"));
        raw
    };
    assert!(ask("GET / HTTP/1.1\r\n").answer().body.contains("<h1>The lamp is"));
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert_eq!(ask(&format!("GET /live HTTP/1.1\r\n{upgrade}Origin: http://evil.example\r\n")).answer().status, 403);
    let mut events = ask(&format!("GET /live HTTP/1.1\r\n{upgrade}"));
    assert_eq!(events.answer().status, 101);
    let next = |events: &mut Raw, text: &str| {
        let mut bytes = vec![0; 2 + text.len()];
        std::io::Read::read_exact(&mut events.0, &mut bytes).unwrap();
        assert_eq!(bytes, [&[0x81, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat());
    };
    next(&mut events, "off");
    assert_eq!(ask("POST /flip HTTP/1.1\r\n").answer().status, 204);
    next(&mut events, "on");
    assert_eq!(ask("POST /flip HTTP/1.1\r\nOrigin: http://evil.example\r\n").answer().status, 403);
    assert_eq!(ask("POST /flip HTTP/1.1\r\nOrigin: http://localhost\r\n").answer().status, 204);
    next(&mut events, "off");
    // A connection without a request does not hold up the end.
    let mut idle = ask("GET / HTTP/1.1\r\n");
    assert_eq!(idle.answer().status, 200);
    page.signal(Signal::TERM);
    assert!(idle.is_over());
    let output = page.finish();
    assert!(output.status.success(), "{output:?}");
}
