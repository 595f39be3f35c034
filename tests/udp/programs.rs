//! The examples as programs: netcat with datagrams, and discovery by broadcast.

use std::process::Stdio;

use rustix::process::Signal;

use crate::common::{Process, Watch, assert_joined, command, example, run, tool};
use crate::{in_own_network, local};

fn netcat(arguments: &[&str], watch: Watch) -> Process {
    let mut command = command(example("netcat"), ["--udp"]);
    Process::start(command.args(arguments), watch)
}

/// A netcat that listens, and the address.
fn listen(arguments: &[&str]) -> (Process, String) {
    let process = netcat(&[&["--verbose", "--listen", "127.0.0.1:0"], arguments].concat(), Watch::Stderr);
    let address = format!("127.0.0.1:{}", process.port("listening on 127.0.0.1:"));
    (process, address)
}

#[test]
fn two_netcats_are_joined() {
    let (server, address) = listen(&[]);
    assert_joined(server, netcat(&[&address], Watch::Stdout));
}

#[test]
fn netcat_echoes_for_all_until_it_is_told_to_end() {
    let (server, address) = listen(&["--echo"]);
    for text in ["one\n", "two\n"] {
        let client = run(command(example("netcat"), ["--udp", &address]).stdin(Stdio::piped()), text);
        client.assert_clean();
        assert_eq!(client.text(), text);
    }
    let output = run(tool("/usr/bin/socat").args(["-t", "0.5", "STDIO", &format!("UDP4:{address}")]), "three\n");
    assert_eq!(output.text(), "three\n");
    server.signal(Signal::TERM);
    assert!(server.finish().status.success());
}

#[test]
fn netcat_talks_to_socat() {
    let mut server = tool("/usr/bin/socat");
    let port = {
        // Of a port that was free a moment ago.
        let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let listening = format!("UDP4-LISTEN:{port},bind=127.0.0.1");
    let server = Process::start(server.args(["-d", "-d", &listening, "EXEC:cat"]), Watch::Stderr);
    server.line_with("listening on");
    let mut client = netcat(&[&format!("127.0.0.1:{port}")], Watch::Stdout);
    for line in ["hello", "again"] {
        client.send(format!("{line}\n"));
        assert_eq!(client.line(), line);
    }
    client.finish().assert_clean();
}

#[test]
fn netcat_says_that_nobody_is_there() {
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut client = netcat(&[&nobody], Watch::Stderr);
    client.send("hello\n");
    let output = client.await_end();
    assert!(output.assert_failed().contains("refused"), "{}", output.stderr);
}

#[test]
fn netcat_sends_a_large_input_in_several_datagrams() {
    let peer = local();
    let data = crate::common::noise(20_000, 1);
    let client =
        run(command(example("netcat"), ["--udp", &peer.local().to_string()]).stdin(Stdio::piped()), data.clone());
    client.assert_clean();
    let mut all = Vec::new();
    while all.len() < data.len() {
        all.extend(peer.recv(65536).unwrap());
    }
    assert!(all == data);
}

#[test]
fn what_makes_no_sense_with_datagrams_is_refused() {
    for arguments in [["--keep", "--listen"], ["--tls", "on"]] {
        let output = run(command(example("netcat"), ["--udp", "127.0.0.1:9"]).args(arguments), "");
        assert!(output.assert_misused().contains("--udp"), "{}", output.stderr);
    }
}

#[test]
fn servers_are_discovered_by_broadcast() {
    if !in_own_network("programs::servers_are_discovered_by_broadcast") {
        return;
    }
    let discovery = |arguments: &[&str]| {
        let mut command = command(example("udp_discovery"), arguments);
        command.stdin(Stdio::null());
        command
    };
    let serve = |name| Process::start_as_set(&mut discovery(&["serve", name]), Watch::Stdout);
    let servers = [serve("the kitchen"), serve("the cellar")];
    for server in &servers {
        server.line_with("listening on 0.0.0.0:4242");
    }
    let asked = Process::start_as_set(&mut discovery(&[]), Watch::Stdout).await_end();
    asked.assert_clean();
    let mut lines: Vec<_> = asked.text().lines().map(str::to_owned).collect();
    lines.sort();
    let from = format!("{}:4242", crate::WIRE[0]);
    assert_eq!(lines, [format!("{from} is \"the cellar\""), format!("{from} is \"the kitchen\"")]);
    for server in servers {
        server.line_with("asks");
        server.signal(Signal::TERM);
        server.finish().assert_clean();
    }
    let asked = Process::start_as_set(&mut discovery(&[]), Watch::Stdout).await_end();
    assert!(asked.assert_failed().contains("nobody on the networks of this machine has answered"), "{}", asked.stderr);
}

#[test]
fn servers_of_several_networks_are_discovered_by_an_address_each() {
    if !in_own_network("programs::servers_of_several_networks_are_discovered_by_an_address_each") {
        return;
    }
    // A second network, and a server at the far end of it. The broadcast of all networks does not go there.
    let script =
        "ip link add second type veth peer name beyond && ip netns add beyond && ip link set beyond netns beyond &&
        ip address add 203.0.113.1/24 brd + dev second && ip link set second up &&
        ip -n beyond address add 203.0.113.2/24 brd + dev beyond && ip -n beyond link set beyond up";
    // Names of networks are kept in /run, which is this test's own.
    let mount = "mount -t tmpfs none /run && ";
    let output = run(std::process::Command::new("sh").args(["-c", &format!("{mount}{script}")]), "");
    assert!(output.status.success(), "{}", output.stderr);
    let mut server = std::process::Command::new("ip");
    server.args(["netns", "exec", "beyond"]).arg(example("udp_discovery")).args(["serve", "the shed"]);
    let server = Process::start(&mut server, Watch::Stdout);
    server.line_with("listening on 0.0.0.0:4242");
    let ask = |addresses: &[&str]| {
        let mut command = command(example("udp_discovery"), ["ask"]);
        Process::start_as_set(command.args(addresses).stdin(Stdio::null()), Watch::Stdout).await_end()
    };
    assert!(ask(&["255.255.255.255:4242"]).assert_failed().contains("nobody"));
    for addresses in [&["198.51.100.255:4242", "203.0.113.255:4242"][..], &[]] {
        let asked = ask(addresses);
        asked.assert_clean();
        assert_eq!(asked.text(), "203.0.113.2:4242 is \"the shed\"\n");
    }
    server.signal(Signal::TERM);
    server.finish().assert_clean();
}
