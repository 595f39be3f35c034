//! With kdeconnectd 22.12 (version 7 of the protocol) on host 1, which `./dev near-test` unpacks. Without it, nothing is tested.

mod bus;
mod world;

use std::time::{Duration, Instant};

use bus::{Bus, files, id, root, until};
use world::{Device, World, names, world};

/// kdeconnectd with a home and a bus of its own.
struct Kde<'a> {
    world: &'a World,
    bus: Bus,
    daemon: Option<Device>,
    root: String,
}

impl Kde<'_> {
    fn start<'a>(world: &'a World, root: &str) -> Kde<'a> {
        let mut kde = Kde { world, bus: Bus::start(world), daemon: None, root: root.into() };
        kde.restart();
        kde
    }

    /// Starts it, or kills it and starts it again.
    fn restart(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.kill();
        }
        let (home, root) = (self.world.path("kde"), &self.root);
        let libraries = format!("{root}/usr/lib/x86_64-linux-gnu");
        std::fs::create_dir_all(format!("{home}/Downloads")).unwrap();
        std::fs::create_dir_all(format!("{home}/config/kdeconnect")).unwrap();
        let settings = format!("{home}/config/kdeconnect/config");
        if !std::path::Path::new(&settings).exists() {
            std::fs::write(settings, "[General]\nname=kde\n").unwrap();
        }
        std::fs::write(format!("{home}/config/user-dirs.dirs"), "XDG_DOWNLOAD_DIR=\"$HOME/Downloads\"\n").unwrap();
        // The paths of sockets must be short. This directory is the test's own.
        world::shell("mkdir -p /run/kde && chmod 700 /run/kde");
        let mut daemon = self.world.command(1, "sh");
        daemon.args(["-c", r#"exec "$0/usr/lib/x86_64-linux-gnu/libexec/kdeconnectd" 2>&1"#, root]);
        daemon.env("LD_LIBRARY_PATH", bus::libraries(root));
        // It writes texts that it shows into its directory.
        daemon.current_dir(&home).env("HOME", &home).env("XDG_RUNTIME_DIR", "/run/kde");
        daemon.env("XDG_CONFIG_HOME", format!("{home}/config")).env("XDG_DATA_HOME", format!("{home}/data"));
        daemon
            .env("XDG_CACHE_HOME", format!("{home}/cache"))
            .env("XDG_DATA_DIRS", format!("{root}/usr/share:/usr/share"));
        daemon.env("QT_PLUGIN_PATH", format!("{libraries}/qt5/plugins:{libraries}/qca-qt5"));
        daemon.env("QT_QPA_PLATFORM", "offscreen").env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere");
        daemon.env("DBUS_SESSION_BUS_ADDRESS", &self.bus.address).env("QT_LOGGING_RULES", "kdeconnect.*.debug=true");
        let mut daemon = Device::start("kde", daemon);
        daemon.wait("Broadcasting identity packet");
        self.daemon = Some(daemon);
    }

    /// Calls a method, `None` if it fails.
    fn try_call(&self, path: &str, method: &str, arguments: &[&str]) -> Option<String> {
        let path = format!("/modules/kdeconnect{path}");
        self.bus.try_call("org.kde.kdeconnect", &path, &format!("org.kde.kdeconnect.{method}"), arguments)
    }

    fn call(&self, path: &str, method: &str, arguments: &[&str]) -> String {
        self.try_call(path, method, arguments).unwrap_or_else(|| panic!("{method} fails"))
    }

    /// Waits until the answer contains this.
    fn until(&self, path: &str, method: &str, arguments: &[&str], wanted: &str) {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = self.try_call(path, method, arguments).unwrap_or_default();
            if answer.contains(wanted) {
                return;
            }
            assert!(Instant::now() < until, "{method}: {answer}, not {wanted}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn files(&self) -> String {
        self.world.path("kde/Downloads")
    }
}

const PAIRED: [&str; 2] = ["true", "true"];

#[test]
fn pairs_talks_and_sends_files_with_kdeconnectd() {
    let Some(root) = root("NEAR_KDE", "kdeconnectd") else { return };
    let Some(world) = world("pairs_talks_and_sends_files_with_kdeconnectd", 1) else { return };
    let mut kde = Kde::start(&world, &root);
    kde.call("", "daemon.setAnnouncedName", &["kde"]);
    let files = files(&world, [("one", 1), ("many ü'.bin", 20 << 20), ("none", 0)]);
    let go = world.path("go");
    let all: Vec<String> = files.iter().map(|(name, _)| world.path(name)).collect();
    let sends = format!("send {}\nwait-sent\nwait-sent\nwait-sent\n", all.join("|"));
    let script = format!(
        "wait-device kde\nwait-refused\nrest\ntouch {0}1\naccept\nwait-paired\nwait-secure kde\ntext from near\n\
         wait-text from kde\n{sends}wait-file\nwait-file\nwait-file\nwait-secure kde\nwait-gone kde\nwait-secure kde\nwait {0}2\n\
         forget\nrest\nwait-device kde\npair kde\nwait-refused\nrest\npair kde\naccept\nwait-paired\nwait-secure kde\nwait-other-key kde\nquit",
        go
    );
    let begun = Instant::now();
    let mut anna = world.device(0, "anna", &script);
    anna.wait("done: wait-device kde");
    println!("both see each other after {:?}, kdeconnectd was there before", begun.elapsed());
    let said = world.start_in_vain(1, "bert");
    assert_eq!(said, "near: Another KDE Connect program is running on this computer (kdeconnectd)\n");
    let device = format!("/devices/{}", id(&world, "anna"));
    kde.until("", "daemon.devices", &["true"], &id(&world, "anna"));

    // They ask, and take it back. Both show the same code.
    kde.call(&device, "device.requestPair", &[]);
    let asked = anna.wait("AskedByThem");
    println!("their code: {}; ours: {asked}", kde.call(&device, "device.verificationKey", &[]));
    kde.call(&device, "device.unpair", &[]);
    anna.wait("done: wait-refused");
    // They ask again, after our rest.
    anna.wait("done: touch");
    kde.call(&device, "device.requestPair", &[]);
    anna.wait("done: wait-paired");
    kde.until("", "daemon.devices", &PAIRED, &id(&world, "anna"));

    kde.call(&format!("{device}/share"), "device.share.shareText", &["from kde"]);
    anna.wait("text from kde");
    for (name, data) in &files {
        anna.wait("done: wait-sent");
        let path = format!("{}/{name}", kde.files());
        let kde = kde.daemon.as_mut().unwrap();
        until(name, [&mut anna, kde], || std::fs::read(&path).is_ok_and(|received| received == *data));
    }
    for (name, _) in &files {
        kde.call(&format!("{device}/share"), "device.share.shareUrl", &[&format!("file://{}", world.path(name))]);
        anna.wait("received");
    }
    for (name, data) in &files {
        assert!(std::fs::read(world.path(&format!("anna.files/{name}"))).unwrap() == *data, "{name}");
    }
    println!("{:?}", names(&kde.files()));

    kde.restart();
    anna.wait("done: wait-gone kde");
    let begun = Instant::now();
    anna.wait("done: wait-secure kde");
    println!("secure again {:?} after it was gone", begun.elapsed());
    kde.until("", "daemon.devices", &PAIRED, &id(&world, "anna"));

    // We end it, and ask: they reject, and then accept.
    std::fs::write(format!("{go}2"), "").unwrap();
    anna.wait("done: pair kde");
    kde.until(&device, "device.hasPairingRequests", &[], "true");
    kde.call(&device, "device.rejectPairing", &[]);
    anna.wait("done: pair kde");
    kde.until(&device, "device.hasPairingRequests", &[], "true");
    kde.call(&device, "device.acceptPairing", &[]);
    kde.until(&device, "device.isTrusted", &[], "true");

    // It comes back with another key.
    anna.wait("done: wait-secure kde");
    let answer = kde.call("", "daemon.selfId", &[]);
    let own = answer.split('\'').nth(1).unwrap();
    let place = world.path("kde/config/kdeconnect");
    world::shell(&format!(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj \"/O=KDE/OU=KDE Connect/CN={own}\" \
         -keyout {place}/privateKey.pem -out {place}/certificate.pem 2>/dev/null"
    ));
    kde.restart();
    anna.finish();
}

/// Pairs kdeconnectd with anna, who waits for that.
fn pair(kde: &Kde, anna: &mut Device, device: &str) {
    kde.call(device, "device.requestPair", &[]);
    anna.wait("done: wait-paired");
    kde.until(device, "device.isTrusted", &[], "true");
}

/// It is started when we are there already: it announces itself, and we connect. With `forceOnNetworkChange` it does so again.
#[test]
fn connects_to_kdeconnectd() {
    let Some(root) = root("NEAR_KDE", "kdeconnectd") else { return };
    let Some(world) = world("connects_to_kdeconnectd", 1) else { return };
    let (go, file) = (world.path("go"), world.path("file"));
    std::fs::write(&file, "file").unwrap();
    let script =
        format!("wait-device kde\naccept\nwait-paired\nwait-secure kde\nwait {go}\nsend {file}\nwait-sent\nquit");
    let mut anna = world.device(0, "anna", &script);
    anna.wait("started");
    let before = world.attempts(0);
    let mut kde = Kde::start(&world, &root);
    anna.wait("done: wait-device kde");
    assert_eq!(world.attempts(0), before + 1, "the link is not ours");
    let device = format!("/devices/{}", id(&world, "anna"));
    kde.until("", "daemon.devices", &["true"], &id(&world, "anna"));
    pair(&kde, &mut anna, &device);
    // The link stays, and goes on.
    kde.call("", "daemon.forceOnNetworkChange", &[]);
    std::fs::write(go, "").unwrap();
    let path = format!("{}/file", kde.files());
    until("file", [&mut anna, kde.daemon.as_mut().unwrap()], || std::fs::read(&path).is_ok_and(|data| data == b"file"));
    anna.finish();
}

/// Nobody answers a request of theirs, and nobody answers one of ours.
#[test]
fn requests_time_out_with_kdeconnectd() {
    let Some(root) = root("NEAR_KDE", "kdeconnectd") else { return };
    let Some(world) = world("requests_time_out_with_kdeconnectd", 1) else { return };
    let kde = Kde::start(&world, &root);
    kde.call("", "daemon.setAnnouncedName", &["kde"]);
    let mut anna = world.device(0, "anna", "wait-device kde\nwait-refused\nrest\npair kde\nwait-refused\nwait /never");
    anna.wait("done: wait-device kde");
    let device = format!("/devices/{}", id(&world, "anna"));
    kde.until("", "daemon.devices", &["true"], &id(&world, "anna"));
    kde.call(&device, "device.requestPair", &[]);
    anna.wait("AskedByThem");
    let begun = Instant::now();
    anna.wait("done: wait-refused");
    println!("their request ended after {:?}", begun.elapsed());
    anna.wait("done: pair kde");
    kde.until(&device, "device.hasPairingRequests", &[], "true");
    let begun = Instant::now();
    anna.wait("done: wait-refused");
    println!("ours ended after {:?}", begun.elapsed());
    kde.until(&device, "device.hasPairingRequests", &[], "false");
    kde.until(&device, "device.isTrusted", &[], "false");
}

const FILES: usize = 500;

#[test]
fn odd_names_come_and_go_with_kdeconnectd() {
    let Some(root) = root("NEAR_KDE", "kdeconnectd") else { return };
    let Some(world) = world("odd_names_come_and_go_with_kdeconnectd", 1) else { return };
    let odd = [
        "ü",
        "日本 語",
        "e\u{301}",
        "😀",
        "it's",
        "\"q\"",
        "100%",
        "%20",
        "#1",
        "?x",
        "a&b=c",
        "[x]",
        "{y}",
        "~t",
        "-dash",
        "semi;",
        "back\\slash",
        "$HOME",
        "`id`",
        "*",
        "<tag>",
        "a:b",
        "+",
        "@",
        "^",
        "   ",
        "a.tar.gz",
        "x.",
        "!",
        "ﬁ",
    ];
    let (ours, theirs) = (world.path("ours"), world.path("theirs"));
    std::fs::create_dir(&ours).unwrap();
    std::fs::create_dir(&theirs).unwrap();
    let named = |n: usize| format!("{n}{} {n}", odd[n % odd.len()]);
    for n in 0..FILES {
        std::fs::write(format!("{ours}/{}", named(n)), format!("ours {n}")).unwrap();
        std::fs::write(format!("{theirs}/their {}", named(n)), format!("theirs {n}")).unwrap();
    }
    let kde = Kde::start(&world, &root);
    kde.call("", "daemon.setAnnouncedName", &["kde"]);
    let all: Vec<String> = (0..FILES).map(|n| format!("{ours}/{}", named(n))).collect();
    let waits = |word: &str| format!("{word}\n").repeat(FILES);
    let script = format!(
        "wait-device kde\naccept\nwait-paired\nwait-secure kde\nsend {}\n{}touch {}\n{}quit",
        all.join("|"),
        waits("wait-sent"),
        world.path("sent"),
        waits("wait-file")
    );
    let mut anna = world.device(0, "anna", &script);
    anna.wait("done: wait-device kde");
    let device = format!("/devices/{}", id(&world, "anna"));
    kde.until("", "daemon.devices", &["true"], &id(&world, "anna"));
    pair(&kde, &mut anna, &device);

    let begun = Instant::now();
    anna.wait_for("done: touch", Duration::from_secs(180));
    let came = |directory: &str, name: &str, wanted: &str| {
        std::fs::read_to_string(format!("{directory}/{name}")).is_ok_and(|text| text == wanted)
    };
    let downloads = kde.files();
    let missing = |directory: &str, prefix: &str, word: &str| {
        let all = (0..FILES).filter(|n| !came(directory, &format!("{prefix}{}", named(*n)), &format!("{word} {n}")));
        all.map(named).collect::<Vec<_>>()
    };
    let until = Instant::now() + Duration::from_secs(20);
    while !missing(&downloads, "", "ours").is_empty() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(missing(&downloads, "", "ours"), [""; 0]);
    println!("{FILES} files to kdeconnectd in {:?}", begun.elapsed());

    let begun = Instant::now();
    let url = |n| glib::filename_to_uri(format!("{theirs}/their {}", named(n)), None).unwrap().replace('\'', "%27");
    let urls: Vec<String> = (0..FILES).map(|n| format!("'{}'", url(n))).collect();
    kde.call(&format!("{device}/share"), "device.share.shareUrls", &[&format!("[{}]", urls.join(", "))]);
    let lines = anna.finish();
    assert_eq!(missing(&world.path("anna.files"), "their ", "theirs"), [""; 0], "{:#?}", &lines[lines.len() - 20..]);
    println!("{FILES} files from kdeconnectd in {:?}", begun.elapsed());
}
