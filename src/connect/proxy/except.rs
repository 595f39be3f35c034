//! Exceptions: the targets that are connected to without a proxy.

use std::net::IpAddr;

/// A list of targets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Exceptions {
    all: Vec<Exception>,
    /// The first entry that is none.
    pub(super) invalid: Option<String>,
    /// The same, of a list that the program did not write.
    pub(super) ignored: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Exception {
    hosts: Hosts,
    /// `None`: any.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    All,
    /// This name and all names below it.
    Name(String),
    /// All names below this one.
    Below(String),
    /// The addresses that begin with these bits.
    Network(IpAddr, u8),
}

impl Exceptions {
    /// Adds an entry. Blank ones are nothing.
    pub(super) fn add(&mut self, entry: &str) {
        match parse(entry.trim()) {
            Ok(exception) => self.all.extend(exception),
            Err(problem) => {
                self.invalid.get_or_insert_with(|| format!("invalid exception {entry:?}: {problem}"));
            }
        }
    }

    /// Adds a list of the user's, with commas or spaces between its entries. Those that are invalid there are no error.
    pub(super) fn add_list(&mut self, list: &str) {
        let mut entries = Exceptions::default();
        list.split([',', ' ']).for_each(|entry| entries.add(entry));
        self.all.append(&mut entries.all);
        self.ignored = self.ignored.take().or(entries.invalid);
    }

    /// Returns whether a host, in its ASCII form, and port are in the list.
    pub(super) fn have_name(&self, name: &str, port: u16) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        self.have(port, |hosts| match hosts {
            Hosts::All => true,
            Hosts::Name(known) => name == *known || is_below(&name, known),
            Hosts::Below(known) => is_below(&name, known),
            Hosts::Network(..) => false,
        })
    }

    /// Returns whether an address and port are in the list.
    pub(super) fn have_address(&self, ip: IpAddr, port: u16) -> bool {
        self.have(port, |hosts| match hosts {
            Hosts::All => true,
            Hosts::Name(_) | Hosts::Below(_) => false,
            Hosts::Network(network, bits) => starts_with(ip.to_canonical(), *network, *bits),
        })
    }

    fn have(&self, port: u16, matches: impl Fn(&Hosts) -> bool) -> bool {
        self.all.iter().any(|known| known.port.is_none_or(|known| known == port) && matches(&known.hosts))
    }
}

fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

fn starts_with(ip: IpAddr, network: IpAddr, bits: u8) -> bool {
    let differing = match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => (u32::from(ip) ^ u32::from(network)).leading_zeros(),
        (IpAddr::V6(ip), IpAddr::V6(network)) => (u128::from(ip) ^ u128::from(network)).leading_zeros(),
        _ => return false,
    };
    differing >= bits.into()
}

fn parse(entry: &str) -> Result<Option<Exception>, String> {
    if entry.is_empty() {
        return Ok(None);
    }
    let of = |hosts: Hosts| Ok(Some(Exception { hosts, port: None }));
    if entry == "*" {
        return of(Hosts::All);
    }
    if let Some((network, bits)) = entry.split_once('/') {
        let ip = parse_ip(network).ok_or("expected an IP address before the /")?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let bits = bits.parse().ok().filter(|bits| *bits <= most);
        return of(Hosts::Network(ip, bits.ok_or_else(|| format!("expected a number up to {most} after the /"))?));
    }
    if let Some(ip) = parse_ip(entry) {
        return of(whole(ip));
    }
    let (host, port) = match entry.rsplit_once(':') {
        None => (entry, None),
        Some((host, port)) => {
            let port = port.parse().map_err(|_| "expected a port up to 65535 after the :")?;
            (host, Some(port))
        }
    };
    let hosts = match parse_ip(host) {
        Some(ip) => whole(ip),
        None => parse_name(host)?,
    };
    Ok(Some(Exception { hosts, port }))
}

fn whole(ip: IpAddr) -> Hosts {
    Hosts::Network(ip, if ip.is_ipv4() { 32 } else { 128 })
}

/// An address with or without brackets.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    inner.parse().ok().map(|ip: IpAddr| ip.to_canonical())
}

fn parse_name(text: &str) -> Result<Hosts, String> {
    let is_below = text.starts_with('.') || text.starts_with("*.");
    let name = text.trim_start_matches("*.").trim_start_matches('.');
    let name = name.strip_suffix('.').unwrap_or(name);
    let wrong = name.chars().find(|c| c.is_whitespace() || c.is_control() || "*[]%@|:/<>\"\\".contains(*c));
    if let Some(wrong) = wrong {
        return Err(format!("invalid character {wrong:?}"));
    }
    let ascii = glib::hostname_to_ascii(name).map(|name| name.to_ascii_lowercase());
    match ascii.filter(|name| !name.is_empty()) {
        None => Err("expected a host name, a domain as in .lan, an IP address, or a network as in 10.0.0.0/8".into()),
        Some(name) if is_below => Ok(Hosts::Below(name)),
        Some(name) => Ok(Hosts::Name(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> Exceptions {
        let mut exceptions = Exceptions::default();
        for entry in entries {
            exceptions.add(entry);
        }
        exceptions
    }

    fn has(exceptions: &Exceptions, host: &str, port: u16) -> bool {
        match host.parse() {
            Ok(ip) => exceptions.have_address(ip, port),
            Err(_) => exceptions.have_name(host, port),
        }
    }

    #[test]
    fn names_domains_networks() {
        for (entry, inside, outside) in [
            ("example.org", "EXAMPLE.org", "badexample.org"),
            ("example.org", "www.example.org", "example.org.uk"),
            ("example.org", "example.org.", "org"),
            (".lan", "printer.lan", "lan"),
            ("*.lan", "a.b.lan", "lan"),
            ("münchen.test", "xn--mnchen-3ya.test", "munchen.test"),
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "10.example"),
            ("0.0.0.0/0", "192.0.2.1", "2001:db8::1"),
            ("2001:db8::/33", "2001:db8:7fff::", "2001:db8:8000::"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("[2001:db8::1]", "2001:db8::1", "2001:db8::2"),
            ("*", "anything", ""),
            ("*", "::1", ""),
            (" a.test ", "a.test", "b.test"),
        ] {
            let exceptions = list(&[entry]);
            assert_eq!(exceptions.invalid, None);
            assert!(has(&exceptions, inside, 80), "{entry}: {inside}");
            assert!(outside.is_empty() || !has(&exceptions, outside, 80), "{entry}: {outside}");
        }
        let exceptions = list(&["a.test:8080", "[2001:db8::1]:443", "192.0.2.1:1", "", " "]);
        assert!(has(&exceptions, "a.test", 8080) && !has(&exceptions, "a.test", 80));
        assert!(has(&exceptions, "2001:db8::1", 443) && !has(&exceptions, "2001:db8::1", 444));
        assert!(has(&exceptions, "192.0.2.1", 1) && !has(&exceptions, "192.0.2.1", 2));
    }

    #[test]
    fn an_entry_that_is_none_is_an_error() {
        for entry in ["10.0.0.0/33", "2001:db8::/129", "a/b", "10.0.0.0/", "a b", "a:b", "a:99999", ".", "a*b", "["] {
            let problem = list(&["ok.test", entry, "::/999"]).invalid.unwrap();
            assert!(problem.contains(&format!("{entry:?}")), "{problem}");
        }
    }

    #[test]
    fn an_entry_that_is_none_is_ignored_in_a_list_of_the_users() {
        let mut exceptions = list(&["a.test"]);
        exceptions.add_list("10.*, b.test,169.254/16 c.test");
        assert_eq!(exceptions.invalid, None);
        assert!(exceptions.ignored.as_ref().is_some_and(|problem| problem.contains("\"10.*\"")), "{exceptions:?}");
        assert!(["a.test", "b.test", "c.test"].iter().all(|name| has(&exceptions, name, 1)));
        assert!(!has(&exceptions, "10.1.1.1", 1) && !has(&exceptions, "169.254.1.1", 1));
        exceptions.add("10.*");
        assert!(exceptions.invalid.is_some(), "what the program adds is an error still");
    }
}
