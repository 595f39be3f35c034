//! Web pages that show the address of their reader: one request, and the first address in the text of the response.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use futures_channel::oneshot;

use crate::address::Address;
use crate::conn::Socket;
use crate::conn::callbacks::Reason;
use crate::error::{Error, Result};

pub(super) const PORT: u16 = 80;

/// The longest response, in bytes.
const LONGEST: usize = 64 << 10;

/// A page on a host.
pub(super) struct Page {
    host: String,
    path: String,
}

/// Aborts the connection when the request is dropped.
struct AbortOnDrop(Socket);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Page {
    pub(super) fn parse(url: &str) -> Result<Page, String> {
        let rest = url.split_once("://").map_or("", |(_, rest)| rest);
        let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let path = path.split('#').next().unwrap_or_default();
        if let Some(wrong) = path.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(format!("invalid character {wrong:?} in the path of a URL"));
        }
        let path = if path.starts_with('/') { path.into() } else { format!("/{path}") };
        // A zone has a meaning on this machine only (RFC 6874, section 4).
        let host = match (host.find('%'), host.find(']')) {
            (Some(zone), Some(end)) if zone < end => format!("{}{}", &host[..zone], &host[end..]),
            _ => host.into(),
        };
        Ok(Page { host, path })
    }

    pub(super) async fn ask(&self, addresses: Vec<SocketAddr>, text: &str) -> Result<IpAddr> {
        let address = Address::try_from(addresses)?;
        let connection = AbortOnDrop(Socket::builder().tls(false).connect_future(address).await?);
        let socket = &connection.0;
        // With HTTP/1.0, the response is not chunked, and ends with the connection.
        socket.send(format!(
            "GET {} HTTP/1.0\r\nHost: {}\r\nUser-Agent: glib-network\r\nAccept: text/plain, */*\r\nConnection: close\r\n\r\n",
            self.path, self.host
        ))?;
        let answer = Rc::new(RefCell::new(Vec::new()));
        let into = answer.clone();
        socket.read(move |_, data| {
            let mut answer = into.borrow_mut();
            answer.extend_from_slice(data);
            match answer.len() > LONGEST {
                true => Err(Error::other(format!("the response is longer than {LONGEST} bytes"))),
                false => Ok(()),
            }
        });
        let (sender, ended) = oneshot::channel();
        socket.disconnect_cb(move |_, end| {
            // The request may have been dropped.
            let _ = sender.send(end.reason);
        });
        if let Ok(Reason::Failed(error)) = ended.await {
            return Err(error);
        }
        read(&answer.borrow()).map_err(|cause| Error::Lookup { address: text.into(), cause })
    }
}

/// Returns the first address in the text of a successful response.
fn read(answer: &[u8]) -> Result<IpAddr, String> {
    let text = String::from_utf8_lossy(answer);
    let end = ["\r\n\r\n", "\n\n"].iter().filter_map(|end| Some((text.find(end)?, end.len()))).min();
    let (head, body) = match end {
        Some((place, length)) => (&text[..place], &text[place + length..]),
        None => return Err("invalid or truncated HTTP response".into()),
    };
    let status = head.lines().next().unwrap_or_default();
    let mut words = status.split_ascii_whitespace();
    match (words.next(), words.next()) {
        (Some(version), Some("200")) if version.starts_with("HTTP/") => {}
        (Some(version), Some(code)) if version.starts_with("HTTP/") && code.parse::<u16>().is_ok() => {
            return Err(format!("HTTP status {code}"));
        }
        _ => return Err(format!("invalid or truncated HTTP response {status:?}")),
    }
    let words = body.split(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != ':');
    words.filter_map(address).next().ok_or_else(|| "the response contains no address".into())
}

fn address(word: &str) -> Option<IpAddr> {
    let word = word.trim_end_matches('.');
    let whole = word.parse::<IpAddr>().ok().or_else(|| word.trim_end_matches(':').parse().ok());
    let part = || word.split(':').find_map(|part| part.parse().ok()).map(IpAddr::V4);
    whole.or_else(part).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: &str) -> Result<IpAddr, String> {
        read(format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX: 9.9.9.9\r\n\r\n{body}").as_bytes())
    }

    #[test]
    fn the_address_is_found_in_any_text() {
        let v4: IpAddr = "203.0.113.7".parse().unwrap();
        for body in [
            "203.0.113.7",
            "203.0.113.7\n",
            "{\"ip\":\"203.0.113.7\",\"port\":80}",
            "<html><body>Current IP Address: 203.0.113.7</body></html>",
            "ip=203.0.113.7\nts=1700000000.123\n",
            "ip:203.0.113.7.",
            "[::ffff:203.0.113.7]",
            "You are 203.0.113.7, not std::cout nor 1.2.3 nor 300.1.1.1 nor 198.51.100.1.",
        ] {
            assert_eq!(of(body), Ok(v4), "{body}");
        }
        assert_eq!(of("2001:db8::7\n"), Ok("2001:db8::7".parse().unwrap()));
        assert!(of("").is_err());
        assert!(of(":: and 0.0.0.0").is_err());
    }

    #[test]
    fn other_responses_are_reported() {
        assert!(read(b"HTTP/1.1 404 Not Found\r\n\r\n1.2.3.4").unwrap_err().contains("404"));
        assert!(read(b"HTTP/1.1 200 OK\r\n").unwrap_err().contains("truncated"));
        assert!(read(b"SSH-2.0-x\n\n1.2.3.4").unwrap_err().contains("SSH"));
        assert!(read(b"").is_err());
        assert!(read(b"\n\n").is_err());
    }

    #[test]
    fn urls_are_taken_apart() {
        for (url, host, path) in [
            ("http://host", "host", "/"),
            ("http://host:8080/a/b?c=d#e", "host:8080", "/a/b?c=d"),
            ("http://[::1]:80?x", "[::1]:80", "/?x"),
            ("http://[fe80::1%25eth0]:80/", "[fe80::1]:80", "/"),
        ] {
            let page = Page::parse(url).unwrap();
            assert_eq!((page.host.as_str(), page.path.as_str()), (host, path));
        }
        assert!(Page::parse("http://host/a b\r\nX: y").is_err());
    }
}
