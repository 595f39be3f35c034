//! Two of ours where no broadcast arrives: each finds the other by Avahi alone. Each host has a bus and an Avahi daemon of its
//! own, which are killed and started again.

#[allow(dead_code)]
#[path = "../../../tests/common/parties.rs"]
mod parties;
mod world;

use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use world::{Device, World, finish_both, says, shell, world};

const LIMIT: Duration = Duration::from_secs(30);

/// So long, nobody may be found without Avahi.
const IN_VAIN: Duration = Duration::from_secs(3);

#[test]
fn they_find_each_other_by_avahi_alone() {
    let Some(world) = avahi_world("they_find_each_other_by_avahi_alone") else { return };
    lose_broadcasts(&world);
    let hosts = [0, 1].map(|number| Host::start(&world, number));
    let [code, down, end] = ["code", "down", "end"].map(|name| world.path(name));

    // Without Avahi, each says so, and nobody is found.
    let asked = format!(
        "wait-device bert\naccept\ncode-to {code}\nwait-paired\nwait-secure bert\nwait-text one\ntext two\nwait {end}\n\
         wait-text three\nquit"
    );
    let asker = format!(
        "wait-device anna\nwait {down}\npair anna\ncode-from {code}\nwait-paired\nwait-secure anna\ntext one\nwait-text two\n\
         wait {end}\ntext three\nquit"
    );
    let (mut anna, mut bert) = (hosts[0].device("anna", &asked), hosts[1].device("bert", &asker));
    anna.wait("network up: true, avahi: false");
    bert.wait("network up: true, avahi: false");
    std::thread::sleep(IN_VAIN);
    assert!(!says(anna.seen(), "device ") && !says(bert.seen(), "device "), "{:?} {:?}", anna.seen(), bert.seen());

    // With it, they are.
    let begun = Instant::now();
    let avahi = [hosts[0].avahi(), hosts[1].avahi()];
    anna.wait("network up: true, avahi: true");
    bert.wait("network up: true, avahi: true");
    anna.wait("device bert at 10.9.1.2: NotPaired");
    bert.wait("device anna at 10.9.1.1: NotPaired");
    println!("found {:?} after Avahi", begun.elapsed());
    let before = anna.seen().len();

    // One daemon is killed. Its Near says so and goes on, also with what begins only now.
    let [first, second] = avahi;
    second.kill();
    bert.wait("network up: true, avahi: false");
    std::fs::write(&down, "").unwrap();
    bert.wait("done: wait-text two");
    assert!(!says(bert.seen(), "Gone") && !says(bert.seen(), "Unreachable"), "{:?}", bert.seen());
    assert!(!says(&anna.seen()[before..], "avahi: false"), "{:?}", anna.seen());

    // It is started again, and announces its Near again. The other daemon forgets what it knew, and hears it.
    let second = hosts[1].avahi();
    bert.wait("network up: true, avahi: true");
    first.kill();
    anna.wait("network up: true, avahi: false");
    let _first = hosts[0].avahi();
    anna.wait("network up: true, avahi: true");
    hosts[0].sees("bert", "10.9.1.2");
    hosts[1].sees("anna", "10.9.1.1");
    assert!(!says(anna.seen(), "Gone") && !says(bert.seen(), "Gone"), "{:?} {:?}", anna.seen(), bert.seen());
    std::fs::write(&end, "").unwrap();
    finish_both(anna, bert);

    // Others, who know nobody, and have Avahi from the start.
    let mut carla = hosts[0].device("carla", "wait-device dora\nquit");
    let mut dora = hosts[1].device("dora", "wait /never");
    carla.wait("device dora at 10.9.1.2: NotPaired");
    dora.wait("device carla at 10.9.1.1: NotPaired");
    carla.finish();

    // After another restart, whoever comes is still seen, and told.
    second.kill();
    dora.wait("network up: true, avahi: false");
    let _second = hosts[1].avahi();
    dora.wait("network up: true, avahi: true");
    let socket = UdpSocket::bind("0.0.0.0:1716").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(socket.recv(&mut [0; 10]).is_err(), "nobody is here yet");
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let mut command = hosts[0].program("avahi-publish");
    command.args(["-s", "emil", "_kdeconnect._udp", "1716", "id=e0000000000000000000000000000000"]);
    let _emil = Device::start("emil", command);
    let (mut data, mut size) = ([0; 10_000], 0);
    while !String::from_utf8_lossy(&data[..size]).contains("\"deviceName\":\"dora\"") {
        size = socket.recv(&mut data).unwrap();
    }
}

/// There is no broadcast in IPv6. All addresses are link-local: they mean nothing without their interfaces.
#[test]
fn they_find_each_other_by_avahi_where_there_is_no_ipv4() {
    let Some(world) = avahi_world("they_find_each_other_by_avahi_where_there_is_no_ipv4") else { return };
    if UdpSocket::bind("[::1]:0").is_err() {
        return println!("left out: this machine has no IPv6");
    }
    shell("ip addr flush dev v1 scope global");
    world.there(1, "ip addr flush dev eth0 scope global");
    let hosts = [0, 1].map(|number| Host::start(&world, number));
    let avahi = [hosts[0].avahi(), hosts[1].avahi()];
    let [code, file, changed] = ["code", "file", "changed"].map(|name| world.path(name));
    std::fs::write(&file, "content").unwrap();
    let anna = format!(
        "wait-device bert\naccept\ncode-to {code}\nwait-paired\nwait-secure bert\nsend {file}\nwait-sent\nwait {changed}\n\
         text one\nwait-text two\nquit"
    );
    let bert = format!(
        "wait-device anna\npair anna\ncode-from {code}\nwait-paired\nwait-secure anna\nwait-file\nwait-text one\ntext two\nquit"
    );
    let (mut anna, bert) = (hosts[0].device("anna", &anna), hosts[1].device("bert", &bert));
    anna.wait("done: wait-sent");
    // A change of the network leaves a link alone whose address is still there.
    shell("ip addr add 10.9.9.1/32 dev v1");
    anna.wait("network up: true");
    std::thread::sleep(Duration::from_secs(1));
    assert!(!says(anna.seen(), "Gone"), "{:?}", anna.seen());
    std::fs::write(&changed, "").unwrap();
    finish_both(anna, bert);
    assert_eq!(std::fs::read(world.path("bert.files/file")).unwrap(), b"content");

    // Avahi has gone. Each remembers where the other was.
    drop(avahi);
    let anna = hosts[0].device("anna", "wait-secure bert\nwait-text b\ntext a\nquit");
    finish_both(anna, hosts[1].device("bert", "wait-secure anna\ntext b\nwait-text a\nquit"));
}

/// A world with another host, if the programs for it are here.
fn avahi_world(test: &str) -> Option<World> {
    let programs = ["dbus-daemon", "avahi-daemon", "avahi-browse", "avahi-publish"];
    if let Some(missing) = programs.iter().find(|name| parties::find_party(name).is_none()) {
        // ./dev test has unpacked it, and always does for CI.
        let must_be_here = ["NETWORK_PARTIES", "CI"].iter().any(|name| std::env::var_os(name).is_some());
        assert!(!must_be_here, "{missing} is missing");
        println!("left out: {missing} is not here; ./dev test unpacks it");
        return None;
    }
    let world = world(test, 1)?;
    parties::name_root_avahi(&world.directory);
    Some(world)
}

/// Takes the way from every broadcast of IPv4, without an error for who sends it: that to everybody comes back to its host,
/// and that to the network is for a neighbour whom nobody knows.
fn lose_broadcasts(world: &World) {
    let lose = |device: &str| {
        format!("ip route del broadcast 10.9.1.255 dev {device} table local && ip route add 255.255.255.255 dev lo")
    };
    shell(&lose("v1"));
    world.there(1, &lose("eth0"));
}

/// A host with a system bus, on which there is Avahi while its daemon runs.
struct Host<'a> {
    world: &'a World,
    number: usize,
    bus: String,
    /// Of the bus.
    daemon: Option<Device>,
}

impl<'a> Host<'a> {
    fn start(world: &'a World, number: usize) -> Host<'a> {
        let (path, config) = (world.path(&format!("bus{number}")), world.path(&format!("bus{number}.conf")));
        let text = format!(
            "<busconfig><listen>unix:path={path}</listen><auth>EXTERNAL</auth><policy context=\"default\">\
             <allow send_destination=\"*\"/><allow receive_sender=\"*\"/><allow own=\"*\"/><allow user=\"*\"/>\
             </policy></busconfig>"
        );
        std::fs::write(&config, text).unwrap();
        let mut host = Host { world, number, bus: format!("unix:path={path}"), daemon: None };
        let mut command = host.program("dbus-daemon");
        command.args([&format!("--config-file={config}"), "--nofork", "--nopidfile", "--print-address=1"]);
        let mut daemon = Device::start("bus", command);
        daemon.wait("unix:path=");
        host.daemon = Some(daemon);
        host
    }

    /// A program with a /run of its own. All that it says comes by its standard output.
    fn program(&self, name: &str) -> Command {
        let mut command = parties::without_proxies(self.world.command(self.number, "unshare"));
        command.args(["--mount", "sh", "-c", "mount -t tmpfs none /run && exec \"$@\" 2>&1", "sh"]);
        command.arg(parties::party(name)).env("LC_ALL", "C.UTF-8").env("DBUS_SYSTEM_BUS_ADDRESS", &self.bus);
        command
    }

    /// Starts its Avahi daemon.
    fn avahi(&self) -> Device {
        let (name, config) = (format!("host{}", self.number), self.world.path(&format!("avahi{}.conf", self.number)));
        let text =
            format!("[server]\nhost-name={name}\ndeny-interfaces=lo\n[wide-area]\nenable-wide-area=no\n[rlimits]\n");
        std::fs::write(&config, text).unwrap();
        let mut command = self.program("avahi-daemon");
        command.args(["-f", &config, "--no-drop-root", "--no-chroot", "--no-rlimits"]);
        let mut daemon = Device::start(&name, command);
        daemon.wait("startup complete");
        daemon
    }

    fn device(&self, name: &str, script: &str) -> Device {
        self.world.device_with_bus(self.number, name, script, &self.bus)
    }

    /// Waits until Avahi's own tool lists a device at this address, with what is said about it.
    fn sees(&self, name: &str, address: &str) {
        let begun = Instant::now();
        let wanted = [format!(";{address};1716;"), format!("\"name={name}\""), "\"protocol=8\"".into()];
        loop {
            let mut command = self.program("avahi-browse");
            command.args(["--resolve", "--parsable", "--terminate", "_kdeconnect._udp"]).stdin(Stdio::null());
            let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
            if text.lines().any(|line| wanted.iter().all(|part| line.contains(part))) {
                return;
            }
            assert!(begun.elapsed() < LIMIT, "host {} does not see {name}: {text}", self.number);
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
