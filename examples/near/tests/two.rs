//! Two of ours, on two hosts: pairing, what must never pair, and staying together.

mod fake;
mod world;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use network::tls::Identity;
use network::{ServerTls, Socket, UdpSocket};
use serde_json::Value;
use world::{Device, World, finish_both, names, paired, says, shell, world};

#[test]
fn they_find_each_other_pair_talk_and_send_files() {
    let Some(world) = world("they_find_each_other_pair_talk_and_send_files", 1) else { return };
    let code = world.path("code");
    let big: Vec<u8> = (0..20_000_000u32).map(|n| (n ^ n >> 7) as u8).collect();
    std::fs::write(world.path("big ü.bin"), &big).unwrap();
    std::fs::write(world.path("one"), "1").unwrap();
    std::fs::write(world.path("none"), "").unwrap();
    let asked = format!(
        "wait-device bert\naccept\ncode-to {code}\nwait-paired\nwait-secure bert\nwait-text hello\ntext hello yourself\n\
         wait-file\nwait-file\nwait-file\nsend {}\nwait-sent\nquit",
        world.path("big ü.bin")
    );
    let asker = format!(
        "wait-device anna\npair anna\ncode-from {code}\nwait-paired\nwait-secure anna\ntext hello\nwait-text hello yourself\n\
         send {}\nsend {}\nsend {}\nwait-sent\nwait-sent\nwait-sent\nwait-file\nquit",
        world.path("big ü.bin"),
        world.path("one"),
        world.path("none")
    );
    let mut anna = world.device(0, "anna", &asked);
    anna.wait("started");
    let bert = world.device(1, "bert", &asker);
    let (anna, bert) = finish_both(anna, bert);
    assert!(says(&anna, "paired, strong: true") && says(&bert, "paired, strong: true"));
    assert_eq!(names(&world.path("anna.files")), ["big ü.bin", "none", "one"]);
    assert!(std::fs::read(world.path("anna.files/big ü.bin")).unwrap() == big);
    assert!(std::fs::read(world.path("bert.files/big ü.bin")).unwrap() == big);
    assert_eq!(std::fs::read(world.path("anna.files/one")).unwrap(), b"1");
}

/// Each side stops it once, and nothing of it is left. The sender tries again.
#[test]
fn a_file_is_stopped_and_sent_again() {
    let Some(world) = world("a_file_is_stopped_and_sent_again", 1) else { return };
    paired(&world);
    let (big, go) = (world.path("big"), |n: u8| world.path(&format!("go{n}")));
    std::fs::File::create(&big).unwrap().set_len(256 << 20).unwrap();
    let asked = format!(
        "wait-secure bert\nsend {big}\nwait-moving\nstop\nwait-stopped\nwait {}\nagain\nwait-failed\nwait {}\nagain\n\
         wait-sent\nquit",
        go(1),
        go(2)
    );
    let mut anna = world.device(0, "anna", &asked);
    anna.wait("started");
    let wishes = "wait-secure anna\nwait-failed\nwait-moving\nstop\nwait-stopped\nwait-file\nquit";
    let mut bert = world.device(1, "bert", wishes);
    let nothing_is_left = || {
        let until = Instant::now() + Duration::from_secs(10);
        while !names(&world.path("bert.files")).is_empty() {
            assert!(Instant::now() < until, "{:?}", names(&world.path("bert.files")));
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    anna.wait("done: wait-stopped");
    bert.wait("done: wait-failed");
    nothing_is_left();
    std::fs::write(go(1), "").unwrap();
    bert.wait("done: wait-stopped");
    anna.wait("done: wait-failed");
    nothing_is_left();
    std::fs::write(go(2), "").unwrap();
    finish_both(anna, bert);
    assert_eq!(names(&world.path("bert.files")), ["big"]);
    assert_eq!(std::fs::metadata(world.path("bert.files/big")).unwrap().len(), 256 << 20);
}

/// The one that has the port is named, and not one that could have it.
#[test]
fn another_program_has_the_port() {
    let Some(world) = world("another_program_has_the_port", 1) else { return };
    let named = |name: &str, command: &str| {
        let program = world.path(name);
        std::fs::copy(format!("/bin/{command}"), &program).unwrap();
        Command::new(program)
    };
    let _decoy = Device::start("decoy", {
        let mut decoy = named("kdeconnectd", "sleep");
        decoy.arg("1000");
        decoy
    });
    let said = || world.start_in_vain(0, "anna");
    let own = std::fs::read_to_string("/proc/self/comm").unwrap();

    let listener = std::net::TcpListener::bind("127.0.0.1:1716").unwrap();
    assert_eq!(said(), format!("near: Another program has port 1716 ({})\n", own.trim()));
    drop(listener);
    let listener = std::net::TcpListener::bind("[::]:1716").unwrap();
    assert_eq!(said(), format!("near: Another program has port 1716 ({})\n", own.trim()));
    drop(listener);
    let socket = std::net::UdpSocket::bind("0.0.0.0:1716").unwrap();
    assert_eq!(said(), format!("near: Another program has port 1716 ({})\n", own.trim()));
    drop(socket);

    // Another Near, with another directory.
    let mut bert = world.device(0, "bert", "wait /never");
    bert.wait("started");
    assert_eq!(said(), "near: Another KDE Connect program is running on this computer (near)\n");
}

/// Also on another host, or with another port.
#[test]
fn another_near_has_the_data() {
    let Some(world) = world("another_near_has_the_data", 1) else { return };
    let mut anna = world.device(1, "anna", "wait /never");
    anna.wait("started");
    let data = world.path("anna.data");
    let before = std::fs::read(format!("{data}/near.json")).unwrap();
    assert_eq!(world.start_in_vain(0, "anna"), format!("near: Another Near has this data directory: {data}\n"));
    assert!(std::fs::read(format!("{data}/near.json")).unwrap() == before);
    // It ends without a word. The directory is free.
    anna.kill();
    world.device(0, "anna", "quit").finish();
}

/// Both announce themselves and connect in the same moment: one link remains.
#[test]
fn they_start_at_the_same_time() {
    let Some(world) = world("they_start_at_the_same_time", 1) else { return };
    paired(&world);
    for n in 0..5 {
        let (first, second) = (world.path(&format!("first{n}")), world.path(&format!("second{n}")));
        let script =
            |name, own, other| format!("wait-secure {name}\ntext {n}\nwait-text {n}\ntouch {own}\nwait {other}\nquit");
        let anna = world.device(0, "anna", &script("bert", &first, &second));
        let bert = world.device(1, "bert", &script("anna", &second, &first));
        finish_both(anna, bert);
    }
}

#[test]
fn a_wrong_code_three_times() {
    let Some(world) = world("a_wrong_code_three_times", 1) else { return };
    let mut anna = world.device(0, "anna", "wait-device bert\naccept\nwait-refused\nquit");
    anna.wait("started");
    // One of a million codes is right.
    let bert = "wait-device anna\npair anna\ntype 000000\ntype 000001\ntype 000002\nwait-refused\nquit";
    let (anna, bert) = finish_both(anna, world.device(1, "bert", bert));
    assert!(says(&anna, "wrong three times") && says(&bert, "wrong three times"));
    assert!(says(&bert, "wrong: true"));
    for name in ["anna", "bert"] {
        let kept = std::fs::read_to_string(world.path(&format!("{name}.data/near.json"))).unwrap();
        assert!(!kept.contains("fingerprint"), "{kept}");
    }
}

#[test]
fn one_is_killed_and_comes_back() {
    let Some(world) = world("one_is_killed_and_comes_back", 1) else { return };
    paired(&world);
    let go = world.path("go");
    let mut anna = world.device(
        0,
        "anna",
        &format!("wait-secure bert\nwait-gone bert\ntouch {go}\nwait-secure bert\ntext again\nwait-text again\nquit"),
    );
    anna.wait("started");
    let mut bert = world.device(1, "bert", "wait-secure anna\nwait /never");
    bert.wait("done: wait-secure");
    anna.wait("done: wait-secure");
    bert.kill();
    anna.wait("done: wait-gone bert");
    let begun = Instant::now();
    let bert = world.device(1, "bert", "wait-secure anna\nwait-text again\ntext again\nquit");
    anna.wait("done: wait-secure bert");
    println!("back after {:?}", begun.elapsed());
    finish_both(anna, bert);
}

#[test]
fn an_address_changes_and_a_cable_is_out_for_a_while() {
    let Some(world) = world("an_address_changes_and_a_cable_is_out_for_a_while", 1) else { return };
    paired(&world);
    let go = world.path("go");
    let script = |other: &str| format!("wait-secure {other}\nwait {go}\ntext end\nwait-text end\nquit");
    let mut anna = world.device(0, "anna", &script("bert"));
    anna.wait("started");
    let mut bert = world.device(1, "bert", &script("anna"));
    bert.wait("done: wait-secure");
    anna.wait("done: wait-secure");
    let begun = Instant::now();
    world.there(1, "ip addr del 10.9.1.2/24 dev eth0 && ip addr add 10.9.1.3/24 brd + dev eth0");
    bert.wait("anna at 10.9.1.1: Gone");
    bert.wait("anna at 10.9.1.1: Secure");
    anna.wait("bert at 10.9.1.3: Secure");
    println!("secure at the new address after {:?}", begun.elapsed());
    let begun = Instant::now();
    shell("ip link set v1 down");
    anna.wait("bert at 10.9.1.3: Gone");
    bert.wait("anna at 10.9.1.1: Gone");
    println!("gone after {:?}", begun.elapsed());
    let begun = Instant::now();
    shell("ip link set v1 up");
    bert.wait("anna at 10.9.1.1: Secure");
    anna.wait("bert at 10.9.1.3: Secure");
    println!("back after {:?}", begun.elapsed());
    std::fs::write(&go, "").unwrap();
    finish_both(anna, bert);
}

/// Somebody in between, who shows a key of their own to both sides, and passes on what they say, changed by `tamper`.
fn man_in_the_middle(world: &World, anna: &str, bert: &str, tamper: fn(&mut Value)) -> (Vec<String>, Vec<String>) {
    let anna = world.device(1, "anna", anna);
    let bert = world.device(2, "bert", bert);
    let ends: Rc<RefCell<BTreeMap<String, (String, Value)>>> = Rc::default();
    let udp = UdpSocket::builder().reuse_address(true).bind(1716).unwrap();
    let heard = ends.clone();
    udp.read(move |_, data, from| {
        let identity: Value = serde_json::from_slice(data).unwrap();
        let name = identity["body"]["deviceName"].as_str().unwrap().to_owned();
        heard.borrow_mut().insert(name, (format!("{}:1716", from.ip()), identity));
        Ok(())
    });
    let until = Instant::now() + Duration::from_secs(30);
    while ends.borrow().len() < 2 {
        assert!(Instant::now() < until, "nobody is heard");
        network::fgloop_for(Duration::from_millis(10));
    }
    udp.close();
    let (first, second) = (ends.borrow()["anna"].clone(), ends.borrow()["bert"].clone());
    let connect = |to: &(String, Value), as_whom: &Value| {
        let mut identity = as_whom.clone();
        identity["body"].as_object_mut().unwrap().remove("tcpPort");
        tamper(&mut identity);
        let socket = Socket::builder().tls(false).timeout(fake::LIMIT).connect(&to.0).unwrap();
        socket.sendline(identity.to_string()).unwrap();
        let mine = Identity::in_memory("mallory").unwrap();
        socket.start_tls(ServerTls::from(mine).require_client_certificate()).unwrap();
        socket
    };
    let to_anna = connect(&first, &second.1);
    let to_bert = connect(&second, &first.1);
    for (from, to) in [(&to_anna, to_bert.clone()), (&to_bert, to_anna.clone())] {
        from.readlines(move |_, line| {
            let mut packet = serde_json::from_str(line).unwrap();
            tamper(&mut packet);
            println!("in between: {packet}");
            to.sendline(packet.to_string())
        });
    }
    let both = std::thread::spawn(move || finish_both(anna, bert));
    let until = Instant::now() + Duration::from_secs(60);
    while !both.is_finished() {
        assert!(Instant::now() < until, "they do not come to an end");
        network::fgloop_for(Duration::from_millis(10));
    }
    both.join().unwrap()
}

#[test]
fn a_man_in_the_middle_is_not_paired_by_the_right_code() {
    let Some(world) = world("a_man_in_the_middle_is_not_paired_by_the_right_code", 2) else { return };
    let code = world.path("code");
    let anna = format!("wait-device bert\naccept\ncode-to {code}\nwait-refused\nquit");
    let bert = format!("wait-device anna\npair anna\ncode-from {code}\ntype 1\ntype 2\nwait-refused\nquit");
    let (anna, bert) = man_in_the_middle(&world, &anna, &bert, |_| {});
    assert!(!says(&anna, "paired, strong") && !says(&bert, "paired, strong"));
    assert!(says(&bert, "wrong: true"));
}

/// The weak way is left to somebody who strips `near`. The codes are different, and somebody who compares sees it.
#[test]
fn a_man_in_the_middle_shows_different_codes_to_compare() {
    let Some(world) = world("a_man_in_the_middle_shows_different_codes_to_compare", 2) else { return };
    let strip = |packet: &mut Value| {
        packet["body"].as_object_mut().unwrap().remove("near");
    };
    let seen = world.path("seen");
    let anna = format!("wait-device bert\nwait-code\ntouch {seen}\nwait-refused\nquit");
    let bert = format!("wait-device anna\npair anna\nwait-code\nwait {seen}\ncancel\nwait-refused\nquit");
    let (anna, bert) = man_in_the_middle(&world, &anna, &bert, strip);
    let code = |lines: &[String]| {
        let (_, rest) = lines.iter().find_map(|line| line.split_once("code: Some(\"")).unwrap();
        rest[..8].to_owned()
    };
    assert_ne!(code(&anna), code(&bert));
    assert!(!says(&anna, "paired, strong") && !says(&bert, "paired, strong"));
}

/// A device that was paired the strong way shows another key, and one that forgot it asks the weak way.
#[test]
fn once_paired_by_code_there_is_no_other_way() {
    let Some(world) = world("once_paired_by_code_there_is_no_other_way", 2) else { return };
    paired(&world);
    let id = |name: &str| -> String {
        let kept = std::fs::read_to_string(world.path(&format!("{name}.data/near.json"))).unwrap();
        serde_json::from_str::<Value>(&kept).unwrap()["id"].as_str().unwrap().into()
    };
    let mut impostor = fake::Fake::new("x", 8);
    impostor.id = id("anna");
    let mut bert = world.device(1, "bert", "wait-other-key fake\nforget\npair fake\nwait-refused\nquit");
    bert.wait("started");
    let talk = impostor.open("10.9.1.2:1716").unwrap();
    // Not one byte comes before the end.
    assert!(talk.socket.recv(1).is_err());
    bert.wait("done: forget");
    // Now it may connect, but is not offered the weak way.
    let _talk = impostor.connect("10.9.1.2:1716");
    let bert = bert.finish();
    assert!(says(&bert, "not paired: It was paired by a typed code before"), "{bert:#?}");
}
