use super::*;
use proptest::prelude::*;

const NAME: &str = "_x._tcp.example.org";

fn name(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn record(owner: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
    let fixed = [&kind.to_be_bytes()[..], &[0, 1, 0, 0, 0, 60], &(data.len() as u16).to_be_bytes()].concat();
    [owner, &fixed, data].concat()
}

fn srv_data(priority: u16, weight: u16, port: u16, target: &[u8]) -> Vec<u8> {
    [&priority.to_be_bytes()[..], &weight.to_be_bytes(), &port.to_be_bytes(), target].concat()
}

fn srv(owner: &str, priority: u16, weight: u16, port: u16, target: &str) -> Vec<u8> {
    record(&name(owner), TYPE_SRV, &srv_data(priority, weight, port, &name(target)))
}

fn message(flags: u16, records: &[Vec<u8>]) -> Vec<u8> {
    let counts = [1, records.len() as u16, 0, 0].map(u16::to_be_bytes).concat();
    [&[0x12, 0x34][..], &flags.to_be_bytes(), &counts, &name(NAME), &[0, 33, 0, 1], &records.concat()].concat()
}

fn targets(records: &[Vec<u8>]) -> Result<Vec<String>, String> {
    let found = read(&message(0x8180, records), NAME)?;
    Ok(found.into_iter().map(|record| format!("{}:{}", record.target, record.port)).collect())
}

#[test]
fn records_of_the_name_and_of_its_aliases_are_read() {
    assert_eq!(targets(&[srv(NAME, 1, 2, 5222, "a.example.org")]).unwrap(), ["a.example.org:5222"]);
    let alias = |of: &str, to: &str| record(&name(of), TYPE_CNAME, &name(to));
    let many = [
        srv("_X._TCP.Example.ORG", 1, 2, 1, "a"),
        srv("other", 1, 2, 2, "stranger"),
        alias("b", "C"),
        alias(NAME, "b"),
        srv("c", 1, 2, 3, "aliased"),
        // A circle.
        alias("C", "b"),
        record(&name(NAME), 16, b"\x04text"),
    ];
    assert_eq!(targets(&many).unwrap(), ["a:1", "aliased:3"]);
    let chain: Vec<Vec<u8>> = (0..100).map(|n| alias(&format!("n{n}"), &format!("n{}", n + 1))).collect();
    let chain = [vec![alias(NAME, "n0")], chain].concat();
    assert!(targets(&chain).unwrap_err().contains("too many aliases"));
}

#[test]
fn names_may_be_compressed_but_only_backwards() {
    // The question's name begins at 12, its domain at 20.
    let compressed = [&b"\x01a"[..], &[0xc0, 20]].concat();
    let good = record(&[0xc0, 12], TYPE_SRV, &srv_data(0, 0, 1, &compressed));
    assert_eq!(targets(&[good]).unwrap(), ["a.example.org:1"]);
    let start = message(0, &[]).len() as u8;
    for (pointer, what) in [(start, "to itself"), (start + 2, "forwards"), (255, "past the end")] {
        let bad = record(&[0xc0, pointer], TYPE_SRV, &srv_data(0, 0, 1, &name("a")));
        assert!(targets(&[bad]).unwrap_err().contains("malformed"), "{what}");
    }
}

#[test]
fn what_cannot_be_connected_to_is_left_out_or_said() {
    let good = srv(NAME, 0, 0, 1, "good");
    for (bad, why) in [
        (srv(NAME, 0, 0, 0, "."), "not offered"),
        (srv(NAME, 0, 0, 5222, ""), "not offered"),
        (srv(NAME, 0, 0, 0, "a.example"), "no target that can be connected to: a.example:0"),
        (srv(NAME, 0, 0, 1, "a b/\x1b[0m"), r"no target that can be connected to: a\032b\047\027\0910m:1"),
        (srv(NAME, 0, 0, 1, "ä"), r"\195\164"),
        (srv("other", 0, 0, 1, "a"), "has no SRV records"),
    ] {
        let error = targets(std::slice::from_ref(&bad)).unwrap_err();
        assert!(error.contains(why), "{error}");
        assert_eq!(targets(&[bad, good.clone()]).unwrap(), ["good:1"]);
    }
    // A dot inside a label is no separator.
    let dotted = record(&name(NAME), TYPE_SRV, &srv_data(0, 0, 1, b"\x03a.b\0"));
    assert!(targets(&[dotted]).unwrap_err().contains(r"a\046b"));
    assert!(targets(&[]).unwrap_err().contains("has no SRV records"));
}

#[test]
fn malformed_answers_are_errors() {
    let good = message(0x8180, &[srv(NAME, 1, 2, 3, "host.example")]);
    assert!(read(&good, NAME).is_ok());
    for length in 0..good.len() {
        assert!(read(&good[..length], NAME).unwrap_err().contains("malformed"), "cut to {length}");
    }
    for flags in [0x0180, 0x8380, 0x8182, 0x8183] {
        assert!(read(&message(flags, &[srv(NAME, 1, 2, 3, "a")]), NAME).is_err(), "{flags:x}");
    }
    // Of 255 bytes, with the root, and of one more.
    let long =
        |last: u8| [vec![63; 64], vec![63; 64], vec![63; 64], vec![last; usize::from(last) + 1], vec![0]].concat();
    let record_to = |target: &[u8]| record(&name(NAME), TYPE_SRV, &srv_data(1, 2, 3, target));
    assert!(targets(&[record_to(&long(61))]).unwrap_err().contains("no target that can be connected to"));
    assert!(targets(&[record_to(&long(62))]).unwrap_err().contains("malformed"));
    for (data, what) in [
        (srv_data(1, 2, 3, &[0x40, 0]), "a label type of its own"),
        ([srv_data(1, 2, 3, &name("a")), vec![0]].concat(), "more data than a record"),
        (srv_data(1, 2, 3, &[]), "no target"),
        (vec![0, 1], "no record"),
    ] {
        assert!(targets(&[record(&name(NAME), TYPE_SRV, &data)]).is_err(), "{what}");
    }
}

fn entry(priority: u16, weight: u16, target: &str) -> Srv {
    Srv { priority, weight, target: target.into(), port: 1 }
}

/// Numbers that are the same each time.
fn numbers() -> impl FnMut(u32) -> u32 {
    let mut state = 1_u64;
    move |most| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (((state >> 32) * (u64::from(most) + 1)) >> 32) as u32
    }
}

fn order_of(records: &[Srv], random: &mut impl FnMut(u32) -> u32) -> Vec<String> {
    order(records.to_vec(), random).into_iter().map(|record| record.target).collect()
}

#[test]
fn priorities_come_in_order_whatever_the_weights() {
    let records = [entry(20, 65535, "last"), entry(10, 0, "middle"), entry(5, 1, "first")];
    assert_eq!(order_of(&records, &mut numbers()), ["first", "middle", "last"]);
}

#[test]
fn the_chosen_number_selects_by_the_running_sum() {
    // The sums are: zero 0, one 10, two 40.
    let records = [entry(1, 10, "one"), entry(1, 30, "two"), entry(1, 0, "zero")];
    for (chosen, first) in [(0, "zero"), (1, "one"), (10, "one"), (11, "two"), (40, "two")] {
        let mut asked = Vec::new();
        let mut random = |most| {
            asked.push(most);
            if asked.len() == 1 { chosen } else { 0 }
        };
        assert_eq!(order_of(&records, &mut random)[0], first, "{chosen}");
        assert_eq!(asked[0], 40);
    }
}

#[test]
fn weights_are_shares_of_the_first_place() {
    let records = [entry(1, 60, "a"), entry(1, 30, "b"), entry(1, 10, "c"), entry(1, 0, "d")];
    let mut random = numbers();
    let mut first = std::collections::HashMap::<String, usize>::new();
    const ROUNDS: usize = 20_000;
    for _ in 0..ROUNDS {
        *first.entry(order_of(&records, &mut random).remove(0)).or_default() += 1;
    }
    for (target, share) in [("a", 0.6), ("b", 0.3), ("c", 0.1), ("d", 0.01)] {
        let found = first[target] as f64 / ROUNDS as f64;
        assert!((found - share).abs() < 0.015, "{target}: {found}");
    }
}

#[test]
fn there_are_at_most_sixteen_targets_of_the_best_priorities() {
    let records: Vec<Srv> = (0..100).map(|n| entry(100 - n, n, &n.to_string())).collect();
    let ordered = order_of(&records, &mut numbers());
    let best: Vec<String> = (84..100).rev().map(|n| n.to_string()).collect();
    assert_eq!(ordered, best);
}

proptest! {
    #[test]
    fn every_target_is_tried_once_by_priority(weights in proptest::collection::vec((0u16..3, any::<u16>()), 0..16)) {
        let entries = weights.iter().enumerate();
        let records: Vec<Srv> = entries.map(|(n, (priority, weight))| entry(*priority, *weight, &n.to_string())).collect();
        let ordered = order(records.clone(), &mut numbers());
        prop_assert!(ordered.is_sorted_by_key(|record| record.priority));
        prop_assert_eq!(ordered.len(), records.len());
        for record in records {
            prop_assert!(ordered.contains(&record));
        }
    }

    #[test]
    fn damaged_answers_never_panic(changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..8)) {
        let records = [srv("_a._tcp.b", 1, 2, 3, "host.example"), record(&[0xc0, 12], TYPE_CNAME, &[0xc0, 15])];
        let mut message = message(0x8180, &records);
        for (place, byte) in changes {
            let place = place % message.len();
            message[place] = byte;
        }
        check(&[&[1], &message[..]].concat());
    }
}
