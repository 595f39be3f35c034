//! Packets and pairing without any network: whatever comes in, nothing panics, and only what is right gets through.

use std::time::{Duration, Instant};

use near::near::PairingState;
use near::packet::{Identity, Packet, Pair, Step, device_name, file_name, is_id};
use near::pairing::{Act, Ends, Pairing, REQUEST, TYPING};
use network::tls::Fingerprint;
use proptest::prelude::*;

fn deceives(c: char) -> bool {
    c.is_control()
        || "\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}".contains(c)
}

/// Lines that are nearly right.
fn nearly() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_filter("JSON has none", |number| number.is_finite()).prop_map(|number| number.to_string()),
        any::<bool>().prop_map(|value| value.to_string()),
        any::<String>().prop_map(|text| serde_json::Value::from(text).to_string()),
        Just("[]".to_owned()),
        Just(r#"{"v":1}"#.to_owned()),
        Just(r#"{"a":"AAAA"}"#.to_owned()),
        Just(r#"{"wrong":300}"#.to_owned()),
        Just(r#"{"port":1739}"#.to_owned()),
    ];
    let key = prop::sample::select(vec![
        "deviceId",
        "deviceName",
        "protocolVersion",
        "tcpPort",
        "pair",
        "timestamp",
        "near",
        "filename",
        "text",
        "url",
        "message",
        "targetDeviceId",
        "targetProtocolVersion",
    ]);
    let kind = prop::sample::select(vec!["identity", "pair", "share.request", "ping", "battery"]);
    let body = prop::collection::vec((key, value.clone()), 0..6);
    (kind, body, value.clone(), value).prop_map(|(kind, body, size, info)| {
        let members: Vec<String> = body.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        let body = members.join(",");
        format!(r#"{{"id":1,"type":"kdeconnect.{kind}","body":{{{body}}},"payloadSize":{size},"payloadTransferInfo":{info}}}"#)
    })
}

fn check(packet: Packet) {
    match &packet {
        Packet::Identity(identity) => {
            assert!(is_id(&identity.id) && identity.version >= 7);
            assert!((1..=32).contains(&identity.name.chars().count()));
            assert!(!identity.name.chars().any(deceives));
            assert!(identity.port.is_none_or(|port| (1716..=1764).contains(&port)));
        }
        Packet::File(file) => {
            assert!(file.port.is_some() || file.size == 0);
            check_name(&file.name);
        }
        Packet::Other => return,
        _ => {}
    }
    // What is written is read as the same.
    let again = Packet::parse(packet.to_line().as_bytes()).unwrap();
    assert_eq!(again, packet);
}

fn check_name(name: &str) {
    assert!((1..=200).contains(&name.len()), "{name:?}");
    assert!(!name.contains('/') && !name.starts_with('.') && !name.chars().any(deceives), "{name:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read(bytes: Vec<u8>) {
        let _ = Packet::parse(&bytes).map(check);
    }

    #[test]
    fn nearly_right_lines_are_read(line in nearly()) {
        let _ = Packet::parse(line.as_bytes()).map(check);
    }

    #[test]
    fn steps_of_pairing_are_read(key in "a|b|ca|cb|wrong|show|v", text: String, pair: Option<bool>) {
        let near = serde_json::json!({ key: text });
        let body = match pair {
            Some(pair) => serde_json::json!({ "pair": pair, "near": near }),
            None => serde_json::json!({ "near": near }),
        };
        let line = serde_json::json!({ "id": 1, "type": "kdeconnect.pair", "body": body });
        let _ = Packet::parse(line.to_string().as_bytes()).map(check);
    }

    #[test]
    fn names_of_files(name in "\\PC*|[./a\u{202e}\0-]{0,20}|[ü.]{100,300}") {
        check_name(&file_name(&name));
        assert_eq!(file_name(&file_name(&name)), file_name(&name));
    }

    #[test]
    fn names_of_devices(name: String) {
        let name = device_name(&name);
        assert!(name.chars().count() <= 32 && !name.chars().any(|c| deceives(c) || "\"',;:.!?()[]<>".contains(c)));
    }

    #[test]
    fn own_packets_are_read(name in "[a-z]{1,32}", port in 1716u16..=1764, near: bool, text: String, number: u64, bytes in prop::collection::vec(any::<u8>(), 0..48)) {
        let target = near.then(|| ("f".repeat(32), 8));
        check(Packet::Identity(Identity { id: "0".repeat(32), name, kind: "phone".into(), version: 8, port: Some(port), near, target }));
        check(Packet::Text(text.clone()));
        check(Packet::Link(text.clone()));
        check(Packet::Ping(text));
        for step in [Step::Begin, Step::Show, Step::A(bytes.clone()), Step::B(bytes.clone()), Step::Ca(bytes.clone()), Step::Cb(bytes), Step::Wrong(number as u8)] {
            check(Packet::Pair(Pair { pair: true, timestamp: Some(number), near: Some(step) }));
        }
        check(Packet::Pair(Pair { pair: near, timestamp: None, near: None }));
    }

    /// Whatever an attacker says in whatever order, a pairing by code is done only by somebody who knows the digits.
    #[test]
    fn without_the_digits_nothing_is_paired(steps in prop::collection::vec((0..9u8, any::<[u8; 33]>()), 1..12), asks: bool) {
        let (us, _) = ends();
        let mut pairing = if asks {
            Pairing::ask(us, true, 1000).0
        } else {
            let request = Pair { pair: true, timestamp: Some(1000), near: Some(Step::Begin) };
            Pairing::asked(us, &request, 1000).unwrap()
        };
        let mut acts = pairing.answer(true);
        for (kind, bytes) in steps {
            let near = match kind {
                0 => None,
                1 => Some(Step::Begin),
                2 => Some(Step::Show),
                3 => Some(Step::A(bytes.into())),
                4 => Some(Step::B(bytes.into())),
                5 => Some(Step::Ca(bytes[..32].into())),
                6 => Some(Step::Cb(bytes[..32].into())),
                7 => Some(Step::Wrong(bytes[0])),
                _ => { acts.extend(pairing.enter("123456")); None }
            };
            acts.extend(pairing.packet(Pair { pair: true, timestamp: None, near }));
        }
        assert!(!acts.iter().any(|act| matches!(act, Act::Ended(Ok(_)))));
    }
}

/// Both ends of a connection without anybody in between.
fn ends() -> (Ends, Ends) {
    between([1; 32], [2; 32], [1; 32], [2; 32])
}

fn between(ours: [u8; 32], they_seem: [u8; 32], we_seem: [u8; 32], theirs: [u8; 32]) -> (Ends, Ends) {
    let end = |own: [u8; 32], other: [u8; 32]| Ends {
        ours: Fingerprint::from(own),
        theirs: Fingerprint::from(other),
        our_key: own.into(),
        their_key: other.into(),
        version: 8,
    };
    (end(ours, they_seem), end(theirs, we_seem))
}

/// Passes packets between both until nothing is left to say. Returns how each of them has ended.
fn converse(sides: &mut [Pairing; 2], mut acts: [Vec<Act>; 2]) -> [Option<Result<bool, String>>; 2] {
    let mut results = [None, None];
    while let Some(side) = acts.iter().position(|acts| !acts.is_empty()) {
        match acts[side].remove(0) {
            Act::Send(pair) if results[1 - side].is_none() => {
                let Packet::Pair(pair) = Packet::parse(Packet::Pair(pair).to_line().as_bytes()).unwrap() else {
                    panic!()
                };
                acts[1 - side].extend(sides[1 - side].packet(pair));
            }
            Act::Ended(result) => results[side] = Some(result),
            _ => {}
        }
    }
    results
}

/// Both, after the one who was asked has let the code be shown.
fn shown(ends: (Ends, Ends)) -> ([Pairing; 2], String) {
    let (asker, acts) = Pairing::ask(ends.0, true, 1000);
    let Act::Send(request) = &acts[0] else { panic!() };
    let mut asked = Pairing::asked(ends.1, request, 1000).unwrap();
    let acts = asked.answer(true);
    let mut sides = [asker, asked];
    assert_eq!(converse(&mut sides, [Vec::new(), acts]), [None, None]);
    let digits = digits(&sides[1]);
    (sides, digits)
}

fn digits(pairing: &Pairing) -> String {
    let PairingState::ShowCode { digits } = pairing.state(Instant::now()) else { panic!("no code is shown") };
    digits
}

#[test]
fn the_right_code_pairs() {
    let (mut sides, digits) = shown(ends());
    assert_eq!(digits.len(), 6);
    let acts = sides[0].enter(&format!("{} {}", &digits[..3], &digits[3..]));
    assert_eq!(converse(&mut sides, [acts, Vec::new()]), [Some(Ok(true)), Some(Ok(true))]);
}

#[test]
fn two_wrong_codes_and_a_right_one() {
    let (mut sides, mut known) = shown(ends());
    for left in [2, 1] {
        let wrong = if known == "000000" { "000001" } else { "000000" };
        let acts = sides[0].enter(wrong);
        assert_eq!(converse(&mut sides, [acts, Vec::new()]), [None, None]);
        assert_eq!(sides[0].state(Instant::now()), PairingState::EnterCode { tries_left: left, wrong: true });
        known = digits(&sides[1]);
    }
    let acts = sides[0].enter(&known);
    assert_eq!(converse(&mut sides, [acts, Vec::new()]), [Some(Ok(true)), Some(Ok(true))]);
}

#[test]
fn three_wrong_codes_end_it() {
    let (mut sides, _) = shown(ends());
    for _ in 0..2 {
        let acts = sides[0].enter("x");
        assert_eq!(converse(&mut sides, [acts, Vec::new()]), [None, None]);
    }
    let acts = sides[0].enter("x");
    let [first, second] = converse(&mut sides, [acts, Vec::new()]);
    assert!(first.unwrap().is_err() && second.unwrap().is_err());
}

#[test]
fn somebody_in_between_has_other_keys() {
    let (mut sides, digits) = shown(between([1; 32], [9; 32], [8; 32], [2; 32]));
    let acts = sides[0].enter(&digits);
    assert_eq!(converse(&mut sides, [acts, Vec::new()]), [None, None]);
    assert_eq!(sides[0].state(Instant::now()), PairingState::EnterCode { tries_left: 2, wrong: true });
}

#[test]
fn time_ends_it() {
    let (mut asker, _) = Pairing::ask(ends().0, true, 1000);
    let now = Instant::now();
    assert!(asker.tick(now + REQUEST - Duration::from_secs(1)).is_empty());
    assert!(asker.tick(now + REQUEST + Duration::from_secs(1)).iter().any(|act| matches!(act, Act::Ended(Err(_)))));
    let (mut sides, _) = shown(ends());
    for side in &mut sides {
        assert!(side.tick(now + TYPING - Duration::from_secs(1)).is_empty());
        assert!(side.tick(now + TYPING + Duration::from_secs(1)).iter().any(|act| matches!(act, Act::Ended(Err(_)))));
    }
}

/// In the weak way both compare, whoever has asked.
#[test]
fn the_weak_way_needs_both() {
    let (ours, theirs) = ends();
    let (mut asker, acts) = Pairing::ask(ours, false, 1000);
    let Act::Send(request) = &acts[0] else { panic!() };
    let asked = Pairing::asked(theirs, request, 1000).unwrap();
    let PairingState::AskedByThem { near: false, code: Some(code), .. } = asked.state(Instant::now()) else { panic!() };
    assert_eq!(asker.state(Instant::now()), PairingState::WaitingForThem { code: Some(code.clone()) });
    // SHA-256 of the larger key, the smaller one, and the time in decimal.
    let hash = ring::digest::digest(&ring::digest::SHA256, &[&[2u8; 32][..], &[1; 32], b"1000"].concat());
    assert_eq!(
        code,
        format!("{:02X}{:02X}{:02X}{:02X}", hash.as_ref()[0], hash.as_ref()[1], hash.as_ref()[2], hash.as_ref()[3])
    );
    let yes = Pair { pair: true, timestamp: None, near: None };
    assert!(!asker.packet(yes).iter().any(|act| matches!(act, Act::Ended(_))));
    assert!(asker.answer(true).iter().any(|act| matches!(act, Act::Ended(Ok(false)))));
}
