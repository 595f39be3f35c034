//! The schemes of URLs: the default port, and whether the connection uses TLS.

/// The kind of connection that a URL scheme stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    /// TCP without TLS.
    Plain,
    /// TCP with TLS from the first byte.
    Tls,
    /// TCP that starts in plaintext and switches to TLS by a command of the protocol, which this client sends.
    StartTls(&'static str),
    /// UDP.
    Udp,
}

use Scheme::{Plain, StartTls, Tls, Udp};

/// Scheme, default port, kind. Schemes that name only a transport have no default port.
const SCHEMES: [(&str, Option<u16>, Scheme); 72] = [
    ("amqp", Some(5672), Plain),
    ("amqps", Some(5671), Tls),
    ("beanstalk", Some(11300), Plain),
    ("dict", Some(2628), Plain),
    ("finger", Some(79), Plain),
    ("ftp", Some(21), Plain),
    ("ftpes", Some(21), StartTls("an FTP client")),
    ("ftps", Some(990), Tls),
    ("gemini", Some(1965), Tls),
    ("git", Some(9418), Plain),
    ("gopher", Some(70), Plain),
    ("gophers", Some(70), Tls),
    ("http", Some(80), Plain),
    ("https", Some(443), Tls),
    ("icap", Some(1344), Plain),
    ("imap", Some(143), Plain),
    ("imap+starttls", Some(143), StartTls("an IMAP client")),
    ("imaps", Some(993), Tls),
    ("ipp", Some(631), Plain),
    ("ipps", Some(631), Tls),
    ("irc", Some(6667), Plain),
    ("ircs", Some(6697), Tls),
    ("ldap", Some(389), Plain),
    ("ldap+starttls", Some(389), StartTls("an LDAP client")),
    ("ldaps", Some(636), Tls),
    ("memcached", Some(11211), Plain),
    ("mongodb", Some(27017), Plain),
    ("mpd", Some(6600), Plain),
    ("mqtt", Some(1883), Plain),
    ("mqtts", Some(8883), Tls),
    ("mumble", Some(64738), Tls),
    ("mysql", Some(3306), Plain),
    ("nats", Some(4222), Plain),
    ("nntp", Some(119), Plain),
    ("nntps", Some(563), Tls),
    ("pop", Some(110), Plain),
    ("pop3", Some(110), Plain),
    ("pop3+starttls", Some(110), StartTls("a POP3 client")),
    ("pop3s", Some(995), Tls),
    ("postgres", Some(5432), Plain),
    ("postgresql", Some(5432), Plain),
    ("redis", Some(6379), Plain),
    ("rediss", Some(6379), Tls),
    ("rsync", Some(873), Plain),
    ("rtmp", Some(1935), Plain),
    ("rtmps", Some(443), Tls),
    ("rtsp", Some(554), Plain),
    ("rtsps", Some(322), Tls),
    ("sftp", Some(22), Plain),
    ("sieve", Some(4190), Plain),
    ("sip", Some(5060), Plain),
    ("sips", Some(5061), Tls),
    ("smtp", Some(25), Plain),
    ("smtp+starttls", Some(587), StartTls("an SMTP client")),
    ("smtps", Some(465), Tls),
    ("spartan", Some(300), Plain),
    ("ssh", Some(22), Plain),
    ("ssl", None, Tls),
    ("stomp", Some(61613), Plain),
    ("submission", Some(587), Plain),
    ("submissions", Some(465), Tls),
    ("svn", Some(3690), Plain),
    ("tcp", None, Plain),
    ("telnet", Some(23), Plain),
    ("telnets", Some(992), Tls),
    ("titan", Some(1965), Tls),
    ("tls", None, Tls),
    ("udp", None, Udp),
    ("vnc", Some(5900), Plain),
    ("ws", Some(80), Plain),
    ("wss", Some(443), Tls),
    ("xmpp+starttls", Some(5222), StartTls("an XMPP client")),
];

/// Returns the default port and the kind of a scheme, which must be in lower case. `host` and `port` are those of the URL.
///
/// # Errors
/// The text to write instead, for a scheme that is unknown.
pub(super) fn find(scheme: &str, host: &str, port: Option<&str>) -> Result<(Option<u16>, Scheme), String> {
    let port = port.unwrap_or("port");
    let known = SCHEMES.iter().find(|(name, _, _)| *name == scheme);
    known.map(|(_, port, kind)| (*port, *kind)).ok_or_else(|| {
        format!("unknown scheme {scheme:?}; expected {host}:{port}, which uses TLS unless tls(false) is set")
    })
}

impl Scheme {
    /// Returns why a plain socket cannot be used for this kind of connection, if it cannot.
    pub(crate) fn unfit_for_sockets(self) -> Option<String> {
        match self {
            Plain | Tls => None,
            Udp => Some("udp:// is for UdpSocket; expected tcp:// or tls://".into()),
            StartTls(client) => Some(format!(
                "the scheme stands for plaintext that switches to TLS by a command of the protocol, which takes {client}; \
                 expected tcp:// for plaintext, with Socket::start_tls later, or tls:// for TLS from the start"
            )),
        }
    }
}

/// Returns the port of a common service, for systems whose services database lacks it, as most minimal containers.
pub(crate) fn well_known_port(name: &str) -> Option<u16> {
    match name {
        "domain" => Some(53),
        "ntp" => Some(123),
        "xmpp-client" => Some(5222),
        _ => SCHEMES.iter().find(|(known, _, _)| *known == name).and_then(|(_, port, _)| *port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_are_in_order_and_named_once() {
        assert!(SCHEMES.is_sorted_by(|(a, _, _), (b, _, _)| a < b));
    }

    #[test]
    fn a_trailing_s_decides_nothing() {
        for (scheme, port, kind) in [
            ("redis", Some(6379), Plain),
            ("rediss", Some(6379), Tls),
            ("postgres", Some(5432), Plain),
            ("nats", Some(4222), Plain),
            ("ws", Some(80), Plain),
            ("gemini", Some(1965), Tls),
            ("ssl", None, Tls),
            ("tls", None, Tls),
            ("tcp", None, Plain),
        ] {
            assert_eq!(find(scheme, "host", None), Ok((port, kind)), "{scheme}");
        }
    }

    #[test]
    fn other_schemes_say_what_to_write() {
        for scheme in ["httsp", "foo", "https2"] {
            assert!(find(scheme, "host", None).unwrap_err().contains("host:port"), "{scheme}");
            assert!(find(scheme, "[::1]", Some("70")).unwrap_err().contains("[::1]:70"), "{scheme}");
        }
    }

    #[test]
    fn the_front_page_lists_every_scheme_with_its_port() {
        let page = include_str!("../../README.md").replace('\n', " ");
        let list = |heading: &str| {
            let from = page.find(heading).unwrap_or_else(|| panic!("no {heading:?}")) + heading.len();
            page[from..].split(['.', ';']).next().unwrap_or_default().to_owned()
        };
        let lists = [list("**Plaintext:**"), list("**TLS:**"), list("**STARTTLS**")];
        let mut listed = 0;
        for (scheme, port, kind) in SCHEMES {
            let list = match kind {
                Plain => &lists[0],
                Tls => &lists[1],
                StartTls(_) => &lists[2],
                Udp => continue,
            };
            let entry = port.map_or(format!("`{scheme}`"), |port| format!("`{scheme}` {port}"));
            assert!(list.split(", ").any(|item| item.trim().ends_with(&entry)), "{entry} is not listed: {list}");
            listed += 1;
        }
        assert_eq!(lists.iter().map(|list| list.matches('`').count() / 2).sum::<usize>(), listed);
    }
}
