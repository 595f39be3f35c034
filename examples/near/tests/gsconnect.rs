//! With the service of GSConnect 54 (version 7 of the protocol) on host 1, which `./dev near-test` unpacks. Without it, nothing
//! is tested.

mod bus;
mod world;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bus::{Bus, files, id, root, until};
use world::{Device, World, shell, world};

const NAME: &str = "org.gnome.Shell.Extensions.GSConnect";
const PATH: &str = "/org/gnome/Shell/Extensions/GSConnect";
/// Where the packages have it, and where a user has it. There it searches for its settings next to itself.
const PACKAGED: &str = "usr/share/gnome-shell/extensions/gsconnect@andyholmes.github.io";
const INSTALLED: &str = "data/gnome-shell/extensions/gsconnect@andyholmes.github.io";
/// Its interpreter starts slowly, and it makes a key of 4096 bits.
const START: Duration = Duration::from_secs(90);

/// The service, with a home, a display and a bus of its own.
struct Gsconnect<'a> {
    world: &'a World,
    bus: Bus,
    _display: Device,
    service: Option<Device>,
    root: String,
    display: String,
}

impl Gsconnect<'_> {
    fn start<'a>(world: &'a World, root: &str) -> Gsconnect<'a> {
        let home = world.path("gs");
        let settings = format!("{home}/config/glib-2.0/settings");
        // The paths of sockets must be short. This directory is the test's own.
        shell(&format!(
            "mkdir -p {home}/Downloads {settings} $(dirname {home}/{INSTALLED}) /run/gs && chmod 700 /run/gs
             cp -r {root}/{PACKAGED} {home}/{INSTALLED} && mkdir {home}/{INSTALLED}/schemas
             cp {root}/usr/share/glib-2.0/schemas/{NAME}.gschema.xml {home}/{INSTALLED}/schemas
             PATH=$PATH:/usr/lib/x86_64-linux-gnu/glib-2.0 glib-compile-schemas {home}/{INSTALLED}/schemas"
        ));
        // `debug` writes each packet that comes or goes.
        let kept = "[org/gnome/shell/extensions/gsconnect]\nname='gsconnect'\ndebug=true\n";
        std::fs::write(format!("{settings}/keyfile"), kept).unwrap();
        // Display numbers are the whole machine's, and in here nobody sees which of them are taken.
        let display = format!(":{}", 1000 + world::rand() % 50_000);
        let mut xvfb = Command::new("Xvfb");
        xvfb.args([&display, "-nolisten", "tcp", "-screen", "0", "800x600x24"]);
        let mut gs = Gsconnect {
            world,
            bus: Bus::start(world),
            _display: Device::start("display", xvfb),
            service: None,
            root: root.into(),
            display,
        };
        let socket = format!("/tmp/.X11-unix/X{}", &gs.display[1..]);
        let until = Instant::now() + START;
        while !Path::new(&socket).exists() {
            assert!(Instant::now() < until, "no display");
            std::thread::sleep(Duration::from_millis(20));
        }
        gs.restart();
        gs
    }

    /// Starts it, or kills it and starts it again.
    fn restart(&mut self) {
        if let Some(service) = self.service.take() {
            service.kill();
        }
        let (home, root) = (self.world.path("gs"), &self.root);
        let here = format!("{root}/usr/lib/x86_64-linux-gnu");
        let mut service = self.world.command(1, "sh");
        service.args(["-c", r#"exec gjs "$0" 2>&1"#, &format!("{home}/{INSTALLED}/service/daemon.js")]);
        service.current_dir(&home).env("HOME", &home).env("XDG_RUNTIME_DIR", "/run/gs");
        service.env("XDG_CONFIG_HOME", format!("{home}/config")).env("XDG_DATA_HOME", format!("{home}/data"));
        service.env("XDG_CACHE_HOME", format!("{home}/cache"));
        service.env("XDG_DATA_DIRS", format!("{root}/usr/share:/usr/share"));
        service.env("LD_LIBRARY_PATH", bus::libraries(root));
        service.env("GI_TYPELIB_PATH", format!("{here}/girepository-1.0:{here}/gjs/girepository-1.0"));
        service.env("GIO_EXTRA_MODULES", format!("{here}/gio/modules"));
        service.env("GSETTINGS_BACKEND", "keyfile").env("DISPLAY", &self.display).env("GDK_BACKEND", "x11");
        service.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere").env("NO_AT_BRIDGE", "1");
        service.env("DBUS_SESSION_BUS_ADDRESS", &self.bus.address).env("LC_ALL", "C.UTF-8");
        self.service = Some(Device::start("gsconnect", service));
        // It says nothing at its start, and announces itself on request only.
        let sockets = || self.world.command(1, "cat").arg("/proc/net/udp6").output().unwrap().stdout;
        let until = Instant::now() + START;
        while !String::from_utf8(sockets()).unwrap().contains(":06B4 ") {
            assert!(Instant::now() < until, "it does not listen: {:#?}", self.service().seen());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn service(&mut self) -> &mut Device {
        self.service.as_mut().unwrap()
    }

    /// Activates an action of a device. `parameter` is a `GVariant` as text, or empty.
    #[track_caller]
    fn act(&self, device: &str, action: &str, parameter: &str) {
        let list = if parameter.is_empty() { "@av []".into() } else { format!("[<{parameter}>]") };
        let path = format!("{PATH}/Device/{device}");
        let arguments = [action, &list, "@a{sv} {}"];
        let called = self.bus.try_call(NAME, &path, "org.gtk.Actions.Activate", &arguments);
        assert!(called.is_some(), "{action} fails");
    }
}

/// Returns whether it is paired with the device, if it knows it.
fn is_paired(bus: &Bus, device: &str) -> Option<bool> {
    let (path, arguments) = (format!("{PATH}/Device/{device}"), [&format!("{NAME}.Device"), "Paired"]);
    let answer = bus.try_call(NAME, &path, "org.freedesktop.DBus.Properties.Get", &arguments);
    answer.map(|answer| answer.contains("true"))
}

#[test]
fn pairs_talks_and_sends_files_with_gsconnect() {
    let Some(root) = root("NEAR_GSCONNECT", "GSConnect") else { return };
    let Some(world) = world("pairs_talks_and_sends_files_with_gsconnect", 1) else { return };
    let mut gs = Gsconnect::start(&world, &root);
    let files = files(&world, [("one", 1), ("many ü'.bin", 5 << 20)]);
    let all: Vec<String> = files.iter().map(|(name, _)| world.path(name)).collect();
    let begun = Instant::now();
    let mut anna = world.device(
        0,
        "anna",
        &format!(
            "wait-device gsconnect\naccept\nwait-paired\nwait-secure gsconnect\ntext from near\nwait-text from gsconnect\n\
             send {}\nwait-sent\nwait-sent\nwait-file\nwait-file\nwait-gone gsconnect\nwait-secure gsconnect\nwait {go}\n\
             forget\nrest\nwait-device gsconnect\npair gsconnect\naccept\nwait-paired\nwait-secure gsconnect\n\
             wait-other-key gsconnect\nquit",
            all.join("|"),
            go = world.path("go")
        ),
    );
    anna.wait("done: wait-device gsconnect");
    println!("both see each other after {:?}, gsconnect was there before", begun.elapsed());
    let said = world.start_in_vain(1, "bert");
    assert_eq!(said, "near: Another KDE Connect program is running on this computer (GSConnect)\n");
    let device = id(&world, "anna");

    until("we are known", [&mut anna, gs.service.as_mut().unwrap()], || is_paired(&gs.bus, &device) == Some(false));

    // They ask.
    gs.act(&device, "pair", "");
    anna.wait("done: wait-paired");
    until("they are paired", [&mut anna, gs.service.as_mut().unwrap()], || is_paired(&gs.bus, &device) == Some(true));

    gs.service().wait(r#""text": "from near""#);
    gs.act(&device, "shareText", "'from gsconnect'");
    anna.wait("done: wait-text from gsconnect");
    // It does not close the connections, which must not keep the next file waiting.
    let begun = Instant::now();
    for (name, data) in &files {
        anna.wait_for("done: wait-sent", Duration::from_secs(10));
        let path = world.path(&format!("gs/Downloads/{name}"));
        until(name, [&mut anna, gs.service()], || std::fs::read(&path).is_ok_and(|received| received == *data));
    }
    println!("two files after {:?}", begun.elapsed());
    for (name, data) in &files {
        let path = world.path(name).replace('\'', "\\'");
        gs.act(&device, "shareFile", &format!("('{path}', false)"));
        anna.wait("received");
        assert!(std::fs::read(world.path(&format!("anna.files/{name}"))).unwrap() == *data, "{name}");
    }

    gs.restart();
    anna.wait("done: wait-gone gsconnect");
    let begun = Instant::now();
    anna.wait("done: wait-secure gsconnect");
    println!("secure again {:?} after it was gone", begun.elapsed());
    assert_eq!(is_paired(&gs.bus, &device), Some(true));

    // We end it, and ask.
    std::fs::write(world.path("go"), "").unwrap();
    gs.service().wait(r#""pair": false"#);
    anna.wait("done: pair gsconnect");
    gs.service().wait(r#""pair": true"#);
    gs.act(&device, "pair", "");
    anna.wait("done: wait-secure gsconnect");
    until("they are paired again", [&mut anna, gs.service.as_mut().unwrap()], || {
        is_paired(&gs.bus, &device) == Some(true)
    });

    // It comes back with another key.
    let place = world.path("gs/config/gsconnect");
    shell(&format!(
        "name=$(openssl x509 -in {place}/certificate.pem -noout -subject -nameopt RFC2253 | sed 's/.*CN=\\([^,]*\\).*/\\1/')
         openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj \"/O=andyholmes.github.io/OU=GSConnect/CN=$name\" \
         -keyout {place}/private.pem -out {place}/certificate.pem 2>/dev/null"
    ));
    gs.restart();
    anna.finish();
}
