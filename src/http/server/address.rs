//! Where a server listens: the address says the scheme.

use crate::address::{Address, Target};
use crate::error::{Error, Result};

/// An address without its scheme, and what the scheme says.
pub(super) struct Place {
    pub(super) address: Address,
    pub(super) is_tls: bool,
    /// The host for URLs. Empty for unix sockets.
    host: String,
}

const WANTED: &str = "write http://… or https://… and host:port, or the path of a unix socket";
const OF_WEBSOCKET: &str = "this is a server of HTTP: write http:// or https://, and use Request::websocket in a handler, or websocket::Server";

/// Returns what to write in place of another address.
fn wanted(text: &str) -> &'static str {
    let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
    let is_websocket = ["ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    if is_websocket { OF_WEBSOCKET } else { WANTED }
}

impl Place {
    /// Reads what the program has given as the address.
    ///
    /// # Errors
    /// [`Error::Address`] if it is neither a URL of HTTP nor a unix socket.
    pub(super) fn parse<A>(address: A) -> Result<Self>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        let address = Address::of_schemes(address, &["http", "https"], wanted)?;
        if matches!(address.target(), Target::Unix(_)) {
            return Ok(Place { address, is_tls: false, host: String::new() });
        }
        let text = address.to_string();
        let unfit = |problem: String| Error::Address { address: text.clone(), problem };
        let (scheme, rest) = text.split_once("://").unwrap_or_default();
        let is_tls = scheme.eq_ignore_ascii_case("https");
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(unfit("expected a host and a port to listen on, without a path".into()));
        }
        let has_port = rest.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let host = if has_port { rest.rsplit_once(':').map_or(rest, |(host, _)| host) } else { rest };
        let place = match has_port {
            true => rest.to_owned(),
            false => format!("{rest}:{}", if is_tls { 443 } else { 80 }),
        };
        let address = Address::parse(&place).map_err(|error| unfit(error.to_string()))?;
        let host = match host {
            "0.0.0.0" | "[::]" => "localhost",
            host => host,
        };
        Ok(Place { address, is_tls, host: host.to_owned() })
    }

    /// Returns the URL of what listens here.
    pub(super) fn url(&self, port: u16) -> String {
        if self.host.is_empty() {
            return format!("unix:{}", self.address);
        }
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}:{port}/", self.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Result<Place> {
        Place::parse(text)
    }

    #[test]
    fn the_address_says_the_scheme() {
        for (text, address, is_tls, url) in [
            ("http://127.0.0.1:0/", "127.0.0.1:0", false, "http://127.0.0.1:7/"),
            ("http://localhost:8080", "localhost:8080", false, "http://localhost:7/"),
            ("https://[::]:8443", "[::]:8443", true, "https://localhost:7/"),
            ("https://[::1]/", "[::1]:443", true, "https://[::1]:7/"),
            ("HTTP://0.0.0.0", "0.0.0.0:80", false, "http://localhost:7/"),
            ("/run/x.sock", "/run/x.sock", false, "unix:/run/x.sock"),
            ("@name", "@name", false, "unix:@name"),
        ] {
            let place = place(text).unwrap();
            assert_eq!(
                (place.address.to_string().as_str(), place.is_tls, place.url(7).as_str()),
                (address, is_tls, url)
            );
        }
        for text in [
            "8080",
            "localhost:8080",
            "ftp://localhost:1",
            "http://x:1/path",
            "http://x:1/?q",
            "http://u@x:1/",
            "srv:http.x.org",
        ] {
            assert!(matches!(place(text), Err(Error::Address { .. })), "{text}");
        }
        // What is suggested is an address for this server.
        for text in ["8080", "", "foo://127.0.0.1:1", "tcp://127.0.0.1:1", "foo", "udp://h:1", "[::1]", "unix:///run/x"]
        {
            let error = place(text).err().unwrap().to_string();
            assert!(error.contains(WANTED) && !error.contains("tls(false)"), "{error}");
        }
        for (text, word) in [
            ("ws://127.0.0.1:1/", "websocket::Server"),
            ("WSS://127.0.0.1:1/", "websocket::Server"),
            ("http://h:99999", "65535"),
            ("/run/", "directory"),
        ] {
            let error = place(text).err().unwrap().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
