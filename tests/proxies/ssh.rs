//! `ssh -D`: OpenSSH's client as a SOCKS proxy, which resolves names at its other end. That is Dropbear: a server that needs no
//! accounts of its own.

use super::*;

/// A port of the network that the test has for itself.
const PORT: u16 = 1080;

/// Makes a key of either program.
#[track_caller]
fn make_key(mut maker: Command) {
    let output = run(&mut maker, "");
    assert!(output.status.success(), "{output:?}");
}

/// Starts the server, and then the client, whose server names are those of its own.
fn start_ssh(directory: &TempDir) -> (Process, Process) {
    name_server::set_account("root", 0, directory);
    let [host_key, key] = ["host_key", "key"].map(|name| directory.address(name));
    make_key(command(parties::party("dropbearkey"), ["-t", "ed25519", "-f", &host_key]));
    make_key(command("/usr/bin/ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", &key]));
    std::fs::create_dir(directory.path(".ssh")).unwrap();
    std::fs::copy(format!("{key}.pub"), directory.path(".ssh/authorized_keys")).unwrap();
    let server = command(parties::party("dropbear"), ["-F", "-E", "-r", &host_key, "-p", "127.0.0.1:2222"]);
    let server = start(server, 2222);
    let mut client = command("/usr/bin/ssh", ["-N", "-F", "/dev/null", "-p", "2222", "-i", &key]);
    client.args(["-D", &format!("127.0.0.1:{PORT}"), "-o", "ExitOnForwardFailure=yes"]);
    client.args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "root@127.0.0.1"]);
    (server, start(client, PORT))
}

#[test]
fn openssh() {
    let Some(_server) = in_own_network("ssh::openssh") else { return };
    let directory = TempDir::new();
    let _ssh = start_ssh(&directory);
    on_own_context(|| {
        let port = greeter();
        let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = |scheme: &str| format!("{scheme}://127.0.0.1:{PORT}");
        assert_reaches(url("socks4a"), port, &[FAR, "far.test", "both.test"]);
        assert_reaches(url("socks5h"), port, &[FAR, "far.test", "[2001:db8::7]"]);
        assert_reaches(url("socks5"), port, &[FAR, "far.test"]);
        // It replies when it is connected, and else it just closes.
        assert_refuses(url("socks4a"), &format!("far.test:{dead}"), "closed the connection before its reply");
        assert_refuses(url("socks4a"), "unknown.test:1", "closed the connection before its reply");
    });
}
