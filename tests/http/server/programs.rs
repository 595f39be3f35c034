//! The examples of the server.

use rustix::process::Signal;

use super::raw::Raw;
use crate::common::{Process, Watch, command, example, run};

#[test]
fn a_login_by_oauth() {
    let output = run(&mut command(example("oauth"), [""; 0]), []);
    output.assert_clean();
    assert_eq!(output.text(), "logged in; the token is token-of-authorization_code\n");
}

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
    let mut events = ask("GET /events HTTP/1.1\r\n");
    assert_eq!(events.answer().status, 200);
    let chunk = |text: &str| format!("{:X}\r\ndata: {text}\n\n\r\n", text.len() + 8);
    let next = |events: &mut Raw, text: &str| {
        let mut bytes = vec![0; chunk(text).len()];
        std::io::Read::read_exact(&mut events.0, &mut bytes).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), chunk(text));
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
