//! The client through tinyproxy, microsocks and dante, in a network namespace: no proxy is asked for an address of this machine's
//! loopback.

use std::process::Command;

use network::http::Client;
use network::socket::Proxy;
use network::{Error, Result};

use super::common::{Process, TempDir, Watch, await_it, on_own_context, parties, party, until_elsewhere};
use super::name_server;
use super::nginx::await_start;
use super::scripted::{Server, response};

/// An address that is this machine's only inside.
const FAR: &str = "10.9.8.7";

fn start(mut command: Command, port: u16) -> Process {
    let process = Process::start(&mut command, Watch::Stderr);
    await_start(port);
    process
}

#[test]
fn every_kind_of_proxy_leads_to_the_server() {
    if !name_server::enter() {
        name_server::run_again_inside("proxied::every_kind_of_proxy_leads_to_the_server");
        return;
    }
    assert!(parties::has_namespaces());
    let added = Command::new("ip").args(["address", "add", &format!("{FAR}/32"), "dev", "lo"]).status().unwrap();
    assert!(added.success());
    let mut hosts = std::fs::OpenOptions::new().append(true).open("/etc/hosts").unwrap();
    std::io::Write::write_all(&mut hosts, b"10.9.8.7 far.test\n").unwrap();
    let server = Server::on(FAR, |mut peer| {
        while let Some(request) = peer.request() {
            peer.say(response("200 OK", "", &request));
        }
    });
    let directory = TempDir::new();
    let tiny = format!(
        "Port 8888\nListen 127.0.0.1\nTimeout 60\nMaxClients 100\nBasicAuth me sesam\nConnectPort {}\nAllow 127.0.0.1\n\
         LogFile \"{}\"\n",
        server.port,
        directory.address("log")
    );
    std::fs::write(directory.path("tinyproxy.conf"), tiny).unwrap();
    let mut tinyproxy = party("tinyproxy");
    tinyproxy.arg("-d").arg("-c").arg(directory.path("tinyproxy.conf"));
    let mut microsocks = party("microsocks");
    microsocks.args(["-i", "127.0.0.1", "-p", "1080", "-u", "me", "-P", "sesam"]);
    let dante = "logoutput: stderr\ninternal: 127.0.0.1 port = 1081\nexternal: 10.9.8.7\nsocksmethod: none\nclientmethod: none\n\
                 client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }\n\
                 socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 command: connect }\n";
    std::fs::write(directory.path("danted.conf"), dante).unwrap();
    let mut danted = party("danted");
    danted.arg("-f").arg(directory.path("danted.conf"));
    let _proxies = [start(tinyproxy, 8888), start(microsocks, 1080), start(danted, 1081)];
    let through = |proxy: &str| Client::builder().proxy(Proxy::url(proxy)).build();
    let url = |host: &str| format!("http://{host}:{}/x?y", server.port);
    for blocks in [false, true] {
        on_own_context(|| {
            let get = |client: &Client, url: &str| -> Result<String> {
                match blocks {
                    true => client.get(url).send()?.text(),
                    false => await_it(async { client.get(url).send_future().await?.text_future().await }),
                }
            };
            for proxy in [
                "http://me:sesam@127.0.0.1:8888",
                "socks5://me:sesam@127.0.0.1:1080",
                "socks5h://me:sesam@127.0.0.1:1080",
                "socks5h://127.0.0.1:1081",
                "socks4a://127.0.0.1:1081",
            ] {
                let client = through(proxy);
                let before = server.accepted();
                for _ in 0..3 {
                    // The proxy gets a tunnel, and no request of its own.
                    let seen = get(&client, &url(FAR)).unwrap_or_else(|error| panic!("{proxy}: {error}"));
                    assert!(
                        seen.starts_with("GET /x?y HTTP/1.1\r\n") && !seen.to_lowercase().contains("proxy"),
                        "{seen}"
                    );
                }
                assert_eq!(server.accepted(), before + 1, "{proxy}: the tunnel is kept");
            }
            let client = through("socks5h://me:sesam@127.0.0.1:1080");
            assert!(get(&client, &url("far.test")).unwrap().contains("host: far.test"));
            for (proxy, url) in [
                ("http://me:wrong@127.0.0.1:8888", url(FAR)),
                ("http://me:sesam@127.0.0.1:8888", format!("http://{FAR}:1/")),
                ("socks5h://me:wrong@127.0.0.1:1080", url(FAR)),
                ("http://127.0.0.1:1", url(FAR)),
            ] {
                let error = get(&through(proxy), &url).unwrap_err();
                assert!(matches!(error, Error::Proxy { .. }), "{proxy}: {error}");
                assert!(!error.to_string().contains("wrong"), "{error}");
            }
            // Exceptions, and this machine, are reached without it.
            let excepted = Client::builder().proxy(Proxy::url("http://127.0.0.1:1").except([FAR])).build();
            assert!(get(&excepted, &url(FAR)).is_ok());
            let before = server.accepted();
            let denied = Client::builder().proxy(Proxy::url("socks5h://127.0.0.1:1081")).deny_private(true).build();
            let error = get(&denied, &url(FAR)).unwrap_err();
            assert!(matches!(error, Error::Address { .. }), "{error}");
            // The tunnel was there before its end was looked at.
            until_elsewhere("the tunnel of no use", || server.accepted() == before + 1);
        });
    }
}
