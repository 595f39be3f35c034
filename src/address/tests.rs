//! The meaning of addresses, and the errors of invalid ones.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::parse::UNIX_PATH_MAX;
use super::*;
use proptest::prelude::*;

fn inet(host: Option<Host>, port: Port, scheme: Option<Scheme>) -> Target {
    Target::Inet { host, port, scheme }
}

fn name(host: &str) -> Option<Host> {
    Some(Host::Name(host.into()))
}

fn path(path: &str) -> Target {
    Target::Unix(UnixName::Path(path.into()))
}

#[track_caller]
fn reads(text: &str, expected: Target) {
    let address = Address::parse(text).unwrap();
    assert_eq!(address.target, expected, "{text}");
    assert_eq!(address.to_string(), text);
}

#[test]
fn reads_every_form() {
    let named = |name: &str| Port::Name(name.into());
    reads("1234", inet(None, Port::Number(1234), None));
    reads("http", inet(None, named("http"), None));
    reads("host:80", inet(name("host"), Port::Number(80), None));
    reads("host:ipp", inet(name("host"), named("ipp"), None));
    reads("127.0.0.1:1", inet(Some(Host::V4([127, 0, 0, 1].into())), Port::Number(1), None));
    reads("[::1]:1", inet(Some(Host::V6(Ipv6Addr::LOCALHOST, None)), Port::Number(1), None));
    reads(
        "[fe80::1%eth0]:1",
        inet(Some(Host::V6("fe80::1".parse().unwrap(), Some("eth0".into()))), Port::Number(1), None),
    );
    reads("./sock", path("./sock"));
    reads("/run/a|b", path("/run/a|b"));
    reads("./a://b", path("./a://b"));
    for name in ["x", "/tmp/.X11-unix/X0", "a|b", "a://b", "host:80", "@"] {
        reads(&format!("@{name}"), Target::Unix(UnixName::Abstract(name.into())));
    }
    reads("./@x", path("./@x"));
    let srv = |service: &str, domain: &str| Target::Srv { service: service.into(), domain: domain.into() };
    reads("srv:xmpp-client.example.org", srv("xmpp-client", "example.org"));
    reads("SRV:LDAP.Example.ORG.", srv("ldap", "example.org"));
    reads("srv:x.lan", srv("x", "lan"));
    reads("srv:x.münchen.test", srv("x", "xn--mnchen-3ya.test"));
    reads("srv:1234", inet(name("srv"), Port::Number(1234), None));
    reads("srv:http", inet(name("srv"), named("http"), None));
    reads("srvs:http.alt", inet(name("srvs"), named("http.alt"), None));
    reads("chat|", Target::Service { kind: "chat".into(), rest: "".into() });
    reads("chat|a/b|c", Target::Service { kind: "chat".into(), rest: "a/b|c".into() });
}

#[test]
fn urls_bring_their_port_and_their_tls() {
    let port = Port::Number;
    let (plain, tls) = (Some(Scheme::Plain), Some(Scheme::Tls));
    reads("http://host", inet(name("host"), port(80), plain));
    reads("https://host/path:1?x", inet(name("host"), port(443), tls));
    reads("ws://host:8080", inet(name("host"), port(8080), plain));
    reads("WSS://[::1]/", inet(Some(Host::V6(Ipv6Addr::LOCALHOST, None)), port(443), tls));
    reads("redis://host", inet(name("host"), port(6379), plain));
    reads("tls://host:http", inet(name("host"), Port::Name("http".into()), tls));
    reads("udp://host:1", inet(name("host"), port(1), Some(Scheme::Udp)));
    reads("ftp://host", inet(name("host"), port(21), plain));
    reads("gemini://host/page", inet(name("host"), port(1965), tls));
    reads("ftpes://host", inet(name("host"), port(21), Some(Scheme::StartTls("an FTP client"))));
    for empty in ["http://host:", "http://host:/", "http://host:?x"] {
        assert_eq!(Address::parse(empty).unwrap().target, inet(name("host"), port(80), plain));
    }
}

#[test]
fn names_of_other_alphabets_have_one_form() {
    for text in ["münchen.test:1", "MÜNCHEN.test:1", "xn--mnchen-3ya.test:1", "mu\u{308}nchen。test:1"] {
        let address = Address::parse(text).unwrap();
        assert_eq!(address.to_string(), text);
        let peer = ("xn--mnchen-3ya.test:1".to_string(), Some("xn--mnchen-3ya.test".to_string()));
        assert_eq!(address.peer(1), peer, "{text}");
    }
    // Characters that stand for others.
    reads("１２７.０.０.１:1", inet(Some(Host::V4([127, 0, 0, 1].into())), Port::Number(1), None));
    for text in ["a\u{ff0f}b:1", "a\u{ff05}b:1", "ä b:1", "\u{e000}ä:1"] {
        assert!(Address::parse(text).is_err(), "{text:?}");
    }
    assert!(Address::try_from(("ä\0", 1)).is_err());
    assert!(Address::parse(&format!("{}:1", "ä".repeat(300))).is_err());
}

#[test]
fn a_name_that_nobody_sees_is_none() {
    for text in ["\u{34f}:80", "tcp://\u{ad}:80", "http://\u{200b}", "udp://\u{34f}\u{ad}:80"] {
        let error = Address::parse(text).unwrap_err().to_string();
        assert!(error.contains("expected a host name") || error.contains("invalid"), "{text:?}: {error}");
    }
}

#[test]
fn ipv4_addresses_have_several_forms() {
    for (text, ip) in [
        ("127.1", [127, 0, 0, 1]),
        ("127.0.1", [127, 0, 0, 1]),
        ("0x7f.1", [127, 0, 0, 1]),
        ("0177.0.0.010", [127, 0, 0, 8]),
        ("2130706433", [127, 0, 0, 1]),
        ("0", [0, 0, 0, 0]),
        ("1.65535", [1, 0, 255, 255]),
        ("255.255.255.255", [255; 4]),
    ] {
        reads(&format!("{text}:1"), inet(Some(Host::V4(ip.into())), Port::Number(1), None));
    }
    for text in
        ["256.1.1.1", "1.2.3.256", "1.2.3.4.5", "4294967296", "127.1.", "1..2", "0x", "0x.1", "08.1", "-1", "+1"]
    {
        reads(&format!("{text}:1"), inet(name(text), Port::Number(1), None));
    }
}

#[test]
fn zones_in_urls_are_encoded() {
    let zone = |zone: &str| Some(Host::V6("fe80::1".parse().unwrap(), Some(zone.into())));
    let url = |host| inet(host, Port::Number(80), Some(Scheme::Plain));
    reads("http://[fe80::1%25eth0]/", url(zone("eth0")));
    assert_eq!(Address::parse("http://[fe80::1%25eth0]:/").unwrap().target, url(zone("eth0")));
    reads("http://[fe80::1%25a%2eb%2Dc]", url(zone("a.b-c")));
    reads("http://[fe80::1%eth0]/", url(zone("eth0")));
    // Outside of URLs there is no encoding.
    reads("[fe80::1%25]:80", inet(zone("25"), Port::Number(80), None));
}

#[test]
fn errors_quote_the_text_and_name_the_problem() {
    let long = format!("/{}", "x".repeat(UNIX_PATH_MAX));
    for (text, word) in [
        ("", "empty; expected host:port, a port, a path with a slash, @name, service|name, or srv:service.domain"),
        ("@", "a name after the @"),
        (&format!("@{}", "x".repeat(UNIX_PATH_MAX + 1)), "maximum 107"),
        (":", "host before"),
        ("host:", "expected a port"),
        (":80", "host before"),
        ("host:99999", "65535"),
        ("99999999999", "65535"),
        ("|", "service type"),
        ("no_such|x", "service type"),
        ("x|y", "2 to 15"),
        ("sixteen-letters1|", "service type"),
        ("a\0b", "NUL"),
        ("a b", "expected a port"),
        ("a b:1", "invalid character ' '"),
        ("+80", "expected a port"),
        ("host:-1", "expected a port"),
        ("::1:80", "brackets"),
        ("[::1]", "expected a port"),
        ("[::1", "]"),
        ("[::1]80", "after the ]"),
        ("[host]:80", "IPv6"),
        ("[fe80::1%]:80", "interface"),
        ("127.0.0.1", "expected a port"),
        ("http://", "host after"),
        ("http:///path", "host after"),
        ("http://:80", "host before"),
        ("tls://host:", "no default port; add one, as in tls://host:1234"),
        ("tls://host", "as in tls://host:1234"),
        ("http://[fe80::1%25]", "interface"),
        ("http://[fe80::1%25e%2]", "hexadecimal"),
        ("http://[fe80::1%25%zz]", "hexadecimal"),
        ("http://[fe80::1%25%ff]", "UTF-8"),
        ("foo://host", "host:port"),
        ("foo://host:70/x", "expected host:70,"),
        ("unix:///run/x", "the path alone, as in /run/app.sock"),
        ("FILE:///run/x", "the path alone"),
        ("http://…@host", "user name"),
        ("srv:_xmpp.example.org", "without its underscore"),
        ("srv:.example.org", "letters, digits and hyphens"),
        ("srv:a b.example.org", "letters, digits and hyphens"),
        ("srv:-a.example.org", "letters, digits and hyphens"),
        ("srv:xmpp.", "a domain after the service"),
        ("srv:xmpp.example.org:5222", "without a port"),
        ("srv:xmpp.[::1]", "without a port"),
        ("srv:xmpp.127.0.0.1", "got an IP address"),
        ("srv:xmpp.a..b", "labels of 1 to 63"),
        ("srv:xmpp.a b", "invalid character ' '"),
        (&format!("srv:xmpp.{}", "x".repeat(64)), "labels of 1 to 63"),
        (&format!("srv:xmpp.{}", "abcdefg.".repeat(31)), "labels of 1 to 63"),
        ("://host", "scheme"),
        ("a b://host", "scheme"),
        ("/run/", "directory"),
        (long.as_str(), "107"),
    ] {
        let error = Address::parse(text).expect_err(text).to_string();
        let rest = error.strip_prefix(&format!("invalid address {text:?}: ")).expect(&error);
        assert!(rest.contains(word), "{text}: {error}");
    }
    assert!(Address::try_from(&[][..]).is_err());
}

#[test]
fn values_are_taken_as_they_are() {
    assert_eq!(Address::from(80).to_string(), "80");
    assert_eq!(Address::try_from(("::1", 80)).unwrap().to_string(), "[::1]:80");
    assert_eq!(Address::try_from(("fe80::1%lo", 80)).unwrap().to_string(), "[fe80::1%lo]:80");
    assert!(Address::try_from(("a:b", 80)).is_err());
    let path = Path::new("no-slash");
    assert_eq!(Address::try_from(path).unwrap().target, Target::Unix(UnixName::Path(path.into())));
    assert!(Address::try_from(OsStr::from_bytes(b"./\xff")).is_ok());
}

#[test]
fn a_typed_host_has_a_port_or_gets_one() {
    for (text, want) in [
        ("example.org", "example.org:6667"),
        ("  example.org\t", "example.org:6667"),
        ("example.org:7000", "example.org:7000"),
        ("example.org:ircd", "example.org:ircd"),
        ("localhost", "localhost:6667"),
        ("münchen.test", "münchen.test:6667"),
        ("127.1", "127.1:6667"),
        ("192.0.2.1:80", "192.0.2.1:80"),
        ("::1", "[::1]:6667"),
        ("[::1]", "[::1]:6667"),
        ("[::1]:80", "[::1]:80"),
        ("::1:80", "[::1:80]:6667"),
        ("fe80::1%eth0", "[fe80::1%eth0]:6667"),
        ("[fe80::1%eth0]:80", "[fe80::1%eth0]:80"),
        ("http", "http:6667"),
    ] {
        let address = Address::host(text, 6667).unwrap();
        assert_eq!(address.to_string(), want);
        assert_eq!(Address::parse(want).unwrap(), address, "{text:?}");
    }
}

#[test]
fn what_is_not_a_typed_host_is_an_error_that_says_why() {
    for (text, word) in [
        ("", "empty; expected a host, with or without a port"),
        (" \t ", "empty"),
        ("https://example.org", "got a URL"),
        ("/run/x", "got a unix socket"),
        ("./x", "got a unix socket"),
        ("@name", "got a unix socket"),
        ("chat|My room", "got a service"),
        ("srv:xmpp.example.org", "got a name of SRV records"),
        ("1234", "localhost:1234"),
        ("host:", "expected a port"),
        (":80", "host before"),
        ("host:99999", "65535"),
        ("host:80:90", "brackets"),
        ("[::1", "]"),
        ("[::1]80", "after the ]"),
        ("[host]", "IPv6"),
        ("fe80::1%", "interface"),
        ("me@host", "invalid character '@'"),
        ("two words", "invalid character ' '"),
        ("a\0b", "invalid character '\\0'"),
    ] {
        let error = Address::host(text, 6667).expect_err(text).to_string();
        assert!(error.starts_with(&format!("invalid address {text:?}: ")), "{error}");
        assert!(error.contains(word), "{text}: {error}");
    }
}

#[test]
fn every_way_to_write_an_address_has_one_key() {
    let key = |text: &str| Address::parse(text).unwrap().peer(1234).0;
    for text in [
        "1234",
        "localhost:1234",
        "LocalHost.:1234",
        "127.0.0.1:1234",
        "127.1:1234",
        "[::1]:1234",
        "[::ffff:127.0.0.1]:1234",
        "0.0.0.0:1234",
        "[::]:1234",
        "[::1%lo]:1234",
        "https://localhost:1234/x",
    ] {
        assert_eq!(key(text), "localhost:1234", "{text}");
    }
    for text in ["10.9.0.1:1234", "[::ffff:10.9.0.1]:1234", "[::ffff:a09:1]:1234"] {
        assert_eq!(key(text), "10.9.0.1:1234", "{text}");
        let direct: Address = text.parse::<SocketAddr>().unwrap().into();
        assert_eq!(direct.peer(1234), ("10.9.0.1:1234".into(), Some("10.9.0.1".into())), "{text}");
    }
    for text in ["münchen.test:1234", "MÜNCHEN.test.:1234", "xn--mnchen-3ya.test:1234", "münchen。test:1234"] {
        let peer = Address::parse(text).unwrap().peer(1234);
        assert_eq!(peer, ("xn--mnchen-3ya.test:1234".into(), Some("xn--mnchen-3ya.test".into())), "{text}");
    }
    for (text, same) in [("[fe80::1%lo]:1234", "[fe80::1%lo]:1234"), ("[fe80::1%1]:1234", "[fe80::1%lo]:1234")] {
        assert_eq!(Address::parse(text).unwrap().peer(1234), (same.into(), Some("fe80::1".into())), "{text}");
    }
    let direct: Address = std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 1234, 0, 1).into();
    assert_eq!(direct.peer(1234).0, "[fe80::1%lo]:1234");
    assert_eq!(key("[2001:db8::1%lo]:1234"), "[2001:db8::1]:1234");
    assert_eq!(key("Example.ORG.:1234"), "example.org:1234");
    assert_eq!((key("Chat|Room"), key("chat|Room")), ("chat|Room".into(), "chat|Room".into()));
    assert_eq!(key("[2001:DB8::1]:1234"), "[2001:db8::1]:1234");
    let srv = Address::srv("XMPP-Client", "Example.ORG.").unwrap();
    assert_eq!(srv.to_string(), "srv:XMPP-Client.Example.ORG.");
    for address in [srv, Address::parse("srv:xmpp-client.example.org").unwrap()] {
        assert_eq!(address.peer(0), ("srv:xmpp-client.example.org".into(), Some("example.org".into())));
    }
    let direct: Address = "[::1]:1234".parse::<SocketAddr>().unwrap().into();
    assert_eq!(direct.peer(1234).0, "localhost:1234");
}

#[test]
fn several_peers_have_several_keys() {
    let texts = [
        "127.0.0.1:1234",
        "127.0.0.2:1234",
        "127.1.0.1:1234",
        "[fe80::1]:1234",
        "[fe80::1%lo]:1234",
        "[fe80::1%no-such-interface]:1234",
        "[fe80::1%4000000000]:1234",
        "[fe80::2%lo]:1234",
        "example.org:1234",
        "www.example.org:1234",
    ];
    let keys: std::collections::HashSet<_> = texts.map(|text| Address::parse(text).unwrap().peer(1234).0).into();
    assert_eq!(keys.len(), texts.len(), "{keys:?}");
}

#[test]
fn mapped_addresses_show_as_ipv4() {
    assert_eq!(to_canonical("[::ffff:1.2.3.4]:5".parse().unwrap()), "1.2.3.4:5".parse().unwrap());
    assert_eq!(to_canonical("[::1]:5".parse().unwrap()), "[::1]:5".parse().unwrap());
}

proptest! {
    #[test]
    fn any_text_is_an_address_or_a_quoted_error(text in any::<String>()) {
        match Address::parse(&text) {
            Ok(address) => prop_assert_eq!(address.to_string(), text),
            Err(error) => {
                let quoted = format!("{:?}", without_password(&text));
                prop_assert!(error.to_string().contains(&quoted));
            }
        }
    }

    #[test]
    fn nearly_right_text_never_panics(text in "[a-z0-9:/|%.@?#\\[\\]-]{0,24}") {
        let _ = Address::parse(&text);
        if let Ok(address) = Address::host(&text, 1234) {
            prop_assert_eq!(Address::parse(&address.to_string()).unwrap(), address);
        }
    }
}

#[test]
fn a_password_in_a_url_is_not_repeated() {
    for text in ["redis://:secret@host", "http://me:secret@host:80/path", "x://secret@[", "http://a:secret@b@c/d"] {
        let error = Address::parse(text).unwrap_err().to_string();
        assert!(!error.contains("secret") && error.contains("://…@"), "{error}");
        assert!(!Address::host(text, 1).unwrap_err().to_string().contains("secret"), "{text}");
    }
    for text in ["https://user:secret/more@host", "https://user:7secret?x@host/path", "https://user:99999#secret@host"]
    {
        let error = Address::parse(text).unwrap_err().to_string();
        assert!(!error.contains("secret") && !error.contains("99999") && error.contains("://…@host"), "{error}");
    }
    // Here, it is no password.
    for text in ["https://host/@user", "https://host:80/@user", "https://host:/@user", "ssh://host/a:b@c"] {
        Address::parse(text).unwrap();
    }
    for text in ["user:secret@localhost:70", "user:secret@[::1]:70", "user:secret@localhost"] {
        assert!(!Address::host(text, 1).unwrap_err().to_string().contains("secret"), "{text}");
        assert!(!Address::parse(text).unwrap_err().to_string().contains("secret"), "{text}");
    }
    let error = Address::parse("nosuch://host/a@b").unwrap_err().to_string();
    assert!(error.contains("a@b"), "{error}");
}

#[test]
fn names_of_unix_sockets_cannot_write_to_the_terminal() {
    let name = b"\x1b]0;title\x07\nline";
    for endpoint in [Endpoint::Abstract(name.as_slice().into()), Endpoint::Unix(Some(OsStr::from_bytes(name).into()))] {
        let shown = endpoint.to_string();
        assert!(!shown.contains(char::is_control), "{shown:?}");
    }
}

#[test]
fn what_begins_as_an_address_of_srv_records_is_told_its_form() {
    for text in ["srv://example.org", "SRV://xmpp-client.example.org:5222", "srv:", "Srv:"] {
        let error = Address::parse(text).unwrap_err().to_string();
        assert!(error.contains("srv:service.domain, as in srv:xmpp-client.example.org"), "{error}");
    }
    assert!(Address::parse("").unwrap_err().to_string().ends_with("service|name, or srv:service.domain"));
}

#[test]
fn an_empty_port_is_not_shown() {
    for (text, shown) in [
        ("redis://127.0.0.1:", "redis://127.0.0.1"),
        ("http://[::1]:/a:b", "http://[::1]/a:b"),
        ("http://host/a:", "http://host/a:"),
        // A path.
        ("a//b://c:", "a//b://c:"),
    ] {
        assert_eq!(Address::parse(text).unwrap().to_string(), shown);
    }
}
