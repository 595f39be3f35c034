//! The protocol, case by case, in both roles: what the peer writes, what the program hears, and what the peer gets.

use super::*;

const FIN: u8 = 0x80;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = FIN | 8;
const PING: u8 = FIN | 9;
const PONG: u8 = FIN | 10;

struct Case {
    name: &'static str,
    /// The peer's frames.
    frames: Vec<(u8, Vec<u8>)>,
    heard: Vec<String>,
    /// The frames that the peer gets.
    answers: Vec<(u8, Vec<u8>)>,
}

fn case(name: &'static str, frames: &[(u8, &[u8])], heard: &[&str], answers: &[(u8, &[u8])]) -> Case {
    let owned = |frames: &[(u8, &[u8])]| frames.iter().map(|(first, payload)| (*first, payload.to_vec())).collect();
    Case {
        name,
        frames: owned(frames),
        heard: heard.iter().map(|text| text.to_string()).collect(),
        answers: owned(answers),
    }
}

/// One that fails, after it has heard something, with this code.
fn fails(name: &'static str, frames: &[(u8, &[u8])], before: &[&str], code: u16, problem: &str) -> Case {
    let end = format!("failed {code} {problem}");
    let heard: Vec<&str> = before.iter().copied().chain([end.as_str()]).collect();
    case(name, frames, &heard, &[(CLOSE, &closing(code, problem))])
}

fn messages() -> Vec<Case> {
    let long: Vec<u8> = vec![b'x'; 126];
    vec![
        case("a text", &[(FIN | TEXT, b"hello")], &["text hello"], &[]),
        case("an empty text", &[(FIN | TEXT, b"")], &["text "], &[]),
        case("bytes", &[(FIN | BINARY, &[0, 255])], &["bytes [0, 255]"], &[]),
        case("no bytes", &[(FIN | BINARY, b"")], &["bytes []"], &[]),
        case("two at a time", &[(FIN | TEXT, b"a"), (FIN | TEXT, b"b")], &["text a", "text b"], &[]),
        case("a length of two bytes", &[(FIN | TEXT, &long)], &[&format!("text {}", "x".repeat(126))], &[]),
        case("fragments", &[(TEXT, b"a"), (0, b"b"), (FIN, b"c")], &["text abc"], &[]),
        case("empty fragments", &[(TEXT, b""), (0, b""), (FIN, b"")], &["text "], &[]),
        case("fragments of bytes", &[(BINARY, &[1]), (FIN, &[2])], &["bytes [1, 2]"], &[]),
        case("a character in two fragments", &[(TEXT, &[0xc3]), (FIN, &[0xbc])], &["text ü"], &[]),
        case(
            "control frames between fragments",
            &[(TEXT, b"a"), (PING, b"p"), (PONG, b""), (FIN, b"b")],
            &["text ab"],
            &[(PONG, b"p")],
        ),
        case("a ping", &[(PING, b"")], &[], &[(PONG, b"")]),
        case("a ping of 125 bytes", &[(PING, &long[..125])], &[], &[(PONG, &long[..125])]),
        case("several pings", &[(PING, b"1"), (PING, b"2")], &[], &[(PONG, b"1"), (PONG, b"2")]),
        case("a pong that nobody asked for", &[(PONG, b"x")], &[], &[]),
    ]
}

fn violations() -> Vec<Case> {
    let long: Vec<u8> = vec![b'x'; 126];
    let (fragmented, too_big) =
        ("Fragmented control frame", "Control frame too big (payload must be 125 bytes or less)");
    let (bits, no_text) = ("Reserved bits are non-zero", "a text is not UTF-8");
    vec![
        fails("RSV1", &[(0xc1, b"a")], &[], 1002, bits),
        fails("RSV2", &[(0xa1, b"a")], &[], 1002, bits),
        fails("RSV3", &[(0x91, b"a")], &[], 1002, bits),
        fails("RSV1 of a ping", &[(0xc9, b"")], &[], 1002, bits),
        fails("opcode 3", &[(FIN | 3, b"")], &[], 1002, "Encountered invalid opcode: 3"),
        fails("opcode 7", &[(FIN | 7, b"")], &[], 1002, "Encountered invalid opcode: 7"),
        fails("opcode 11", &[(FIN | 11, b"")], &[], 1002, "Encountered invalid opcode: 11"),
        fails("opcode 15", &[(FIN | 15, b"")], &[], 1002, "Encountered invalid opcode: 15"),
        fails(
            "after a message",
            &[(FIN | TEXT, b"a"), (FIN | 3, b"")],
            &["text a"],
            1002,
            "Encountered invalid opcode: 3",
        ),
        fails("a ping in fragments", &[(9, b"a")], &[], 1002, fragmented),
        fails("a close frame in fragments", &[(8, b"")], &[], 1002, fragmented),
        fails("a ping of 126 bytes", &[(PING, &long)], &[], 1002, too_big),
        fails("a pong of 126 bytes", &[(PONG, &long)], &[], 1002, too_big),
        fails("a close frame of 126 bytes", &[(CLOSE, &long)], &[], 1002, too_big),
        fails("a fragment of nothing", &[(FIN, b"a")], &[], 1002, "Continue frame but nothing to continue"),
        fails("a fragment of nothing, not the last", &[(0, b"a")], &[], 1002, "Continue frame but nothing to continue"),
        fails(
            "a message within another",
            &[(TEXT, b"a"), (FIN | TEXT, b"b")],
            &[],
            1002,
            "While waiting for more fragments received: TEXT",
        ),
        fails("no UTF-8", &[(FIN | TEXT, &[0xff])], &[], 1007, no_text),
        fails("a surrogate", &[(FIN | TEXT, &[0xed, 0xa0, 0x80])], &[], 1007, no_text),
        fails("half a character at the end", &[(FIN | TEXT, &[b'a', 0xc3])], &[], 1007, no_text),
        fails("no UTF-8 in the first of two fragments", &[(TEXT, &[0xff])], &[], 1007, no_text),
        fails("half a character and another", &[(TEXT, &[0xc3]), (0, b"a")], &[], 1007, no_text),
        fails("a close frame of one byte", &[(CLOSE, &[3])], &[], 1002, "Invalid close sequence"),
        fails("a close reason that is no UTF-8", &[(CLOSE, &[3, 0xe8, 0xff])], &[], 1007, no_text),
    ]
}

fn ends() -> Vec<Case> {
    let mut cases = vec![
        case("an empty close frame", &[(CLOSE, b"")], &["remote | 1005 "], &[(CLOSE, b"")]),
        case("going away", &[(CLOSE, &closing(1001, ""))], &["remote | 1001 "], &[(CLOSE, &closing(1001, ""))]),
        case(
            "a code of the program",
            &[(CLOSE, &closing(4001, "ü"))],
            &["failed 4001 ü | 4001 ü"],
            &[(CLOSE, &closing(4001, "ü"))],
        ),
        case(
            "an error",
            &[(CLOSE, &closing(1011, ""))],
            &["failed 1011 internal error | 1011 "],
            &[(CLOSE, &closing(1011, ""))],
        ),
        case(
            "messages after a close frame",
            &[(FIN | TEXT, b"a"), (CLOSE, &closing(1000, "bye")), (FIN | TEXT, b"b"), (PING, b"")],
            &["text a", "remote | 1000 bye"],
            &[(CLOSE, &closing(1000, "bye"))],
        ),
        case(
            "a reason of 123 bytes",
            &[(CLOSE, &closing(1000, &"r".repeat(123)))],
            &[&format!("remote | 1000 {}", "r".repeat(123))],
            &[(CLOSE, &closing(1000, &"r".repeat(123)))],
        ),
    ];
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
        let heard = ["failed 1002 the close frame has an invalid code"];
        let refused = closing(1002, "Protocol violation");
        // The code that tungstenite lets pass is one that nobody assigns.
        if code != 1004 {
            cases.push(case(
                "a code that must not be sent",
                &[(CLOSE, &closing(code, ""))],
                &heard,
                &[(CLOSE, &refused)],
            ));
        }
    }
    cases
}

fn check(case: &Case, is_server: bool, chunk: usize) {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(is_server);
        let heard = Heard::default();
        heard.listen(&ws);
        let bytes: Vec<u8> =
            case.frames.iter().flat_map(|(first, payload)| frame(*first, payload, is_server)).collect();
        let mut answers = Vec::new();
        for chunk in bytes.chunks(chunk) {
            // It may be closed by then.
            let _ = peer.stream.write_all(chunk);
            rig.run();
        }
        answers.extend(peer.frames());
        let what = format!("{} to a {}", case.name, if is_server { "server" } else { "client" });
        assert_eq!(heard.take(), case.heard, "{what}");
        assert_eq!(answers, case.answers, "{what}");
    });
}

#[test]
fn the_protocol_case_by_case() {
    let cases: Vec<Case> = messages().into_iter().chain(violations()).chain(ends()).collect();
    assert!(cases.len() >= 50, "{}", cases.len());
    for case in &cases {
        for is_server in [false, true] {
            check(case, is_server, usize::MAX);
            check(case, is_server, 1);
        }
    }
}

#[test]
fn clients_mask_and_servers_do_not() {
    for is_server in [false, true] {
        rig(|rig| {
            let (ws, mut peer) = rig.pair(is_server);
            let heard = Heard::default();
            heard.listen(&ws);
            peer.write(&frame(FIN | TEXT, b"wrong", !is_server));
            rig.run();
            let problem = match is_server {
                true => "Received an unmasked frame from client",
                false => "Received a masked frame from server",
            };
            assert_eq!(heard.take(), [format!("failed 1002 {problem}")]);
            assert_eq!(peer.frames(), [(CLOSE, closing(1002, problem))]);
        });
    }
}
