//! A session through SOCKS5 proxies, in a network namespace: no proxy is asked for an address of this machine's loopback.

use std::process::Command;

use network::socket::Proxy;

use super::common::{Process, TempDir, Watch, on_own_context, parties, party};
use super::name_server;
use super::servers::{Tls, await_start, vsftpd};

/// An address that is this machine's only inside.
const FAR: &str = "10.9.8.7";

#[test]
fn data_connections_go_through_the_proxy_as_well() {
    if !name_server::enter() {
        name_server::run_again_inside("proxied::data_connections_go_through_the_proxy_as_well");
        return;
    }
    let added = Command::new("ip").args(["address", "add", &format!("{FAR}/32"), "dev", "lo"]).status().unwrap();
    assert!(added.success());
    let mut microsocks = party("microsocks");
    microsocks.args(["-i", "127.0.0.1", "-p", "1080", "-u", "me", "-P", "sesam"]);
    let _proxy = Process::start(&mut microsocks, Watch::Stderr);
    await_start("127.0.0.1", 1080);
    for tls in [Tls::None, Tls::Explicit] {
        let served = vsftpd(tls, FAR);
        on_own_context(|| {
            let local = TempDir::new();
            let through = |proxy: Proxy| {
                let client = served.builder().proxy(proxy).connect(served.address())?;
                client.login_anonymous()?;
                client.change_directory(&served.writable)?;
                Ok::<_, network::Error>(client)
            };
            let client = through(Proxy::url("socks5h://me:sesam@127.0.0.1")).unwrap();
            std::fs::write(local.path("x"), "through the proxy").unwrap();
            client.upload(local.path("x"), "x").send().unwrap();
            client.download("x", local.path("back")).send().unwrap();
            assert_eq!(std::fs::read_to_string(local.path("back")).unwrap(), "through the proxy");
            assert_eq!(client.list("").unwrap().len(), 1);
            let error = through(Proxy::url("socks5h://me:wrong@127.0.0.1")).unwrap_err();
            assert!(matches!(error, network::Error::Proxy { .. }), "{error}");
            // The server could not connect to this side.
            let active = served.builder().active(true).proxy(Proxy::url("socks5h://me:sesam@127.0.0.1"));
            let client = active.connect(served.address()).unwrap();
            client.login_anonymous().unwrap();
            let error = client.list("").unwrap_err();
            assert!(matches!(error, network::Error::Unsupported(_)), "{error}");
        });
    }
    assert!(parties::has_namespaces());
}
