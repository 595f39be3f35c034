//! Two of ours, on two hosts.

mod world;

use world::{names, world};

#[test]
fn they_find_each_other_pair_talk_and_send_files() {
    let Some(world) = world("they_find_each_other_pair_talk_and_send_files") else { return };
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
    let anna = std::thread::spawn(move || anna.finish());
    let bert = bert.finish();
    let anna = anna.join().unwrap();
    assert!(bert.iter().any(|line| line.ends_with("paired, strong: true")));
    assert!(anna.iter().any(|line| line.ends_with("paired, strong: true")));
    assert_eq!(names(&world.path("anna.files")), ["big ü.bin", "none", "one"]);
    assert!(std::fs::read(world.path("anna.files/big ü.bin")).unwrap() == big);
    assert!(std::fs::read(world.path("bert.files/big ü.bin")).unwrap() == big);
    assert_eq!(std::fs::read(world.path("anna.files/one")).unwrap(), b"1");
}
