//! The system's resolver: addresses of hosts and ports of services. Resolving a host blocks for as long as the name servers
//! take.

use std::ffi::{CStr, CString};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ptr;

use crate::error::os_text;

/// The address families to query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V6,
    V4,
    Both,
}

/// The reason why there is no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResolveError {
    pub(crate) cause: String,
    /// True if the name does not exist or has no address of this family; false if something failed.
    pub(crate) is_answer: bool,
}

/// Returns the addresses of a host, with port 0. **Blocks**.
pub(crate) fn host_addresses(host: &str, family: Family) -> Result<Vec<SocketAddr>, ResolveError> {
    let family = match family {
        Family::V6 => libc::AF_INET6,
        Family::V4 => libc::AF_INET,
        Family::Both => libc::AF_UNSPEC,
    };
    AddrInfo::ask(Some(host), None, family).map(|list| list.addresses())
}

/// Returns the TCP port of a service in the services database. Reads a file.
pub(crate) fn service_port(name: &str) -> Option<u16> {
    let list = AddrInfo::ask(None, Some(name), libc::AF_UNSPEC).ok()?;
    list.addresses().first().map(SocketAddr::port)
}

/// The result of a call, freed when dropped.
struct AddrInfo(*mut libc::addrinfo);

impl AddrInfo {
    fn ask(host: Option<&str>, service: Option<&str>, family: libc::c_int) -> Result<AddrInfo, ResolveError> {
        let text = |text: Option<&str>| text.map(CString::new).transpose();
        let (Ok(host), Ok(service)) = (text(host), text(service)) else {
            return Err(ResolveError { cause: "the name contains a NUL byte".into(), is_answer: true });
        };
        let pointer = |text: &Option<CString>| text.as_ref().map_or(ptr::null(), |text| text.as_ptr());
        // No flags: with AI_ADDRCONFIG, a machine that is offline would not find names of /etc/hosts.
        let hints = libc::addrinfo {
            ai_flags: 0,
            ai_family: family,
            // One entry per address instead of one per address and socket type.
            ai_socktype: libc::SOCK_STREAM,
            ai_protocol: 0,
            ai_addrlen: 0,
            ai_addr: ptr::null_mut(),
            ai_canonname: ptr::null_mut(),
            ai_next: ptr::null_mut(),
        };
        let mut list = ptr::null_mut();
        // SAFETY: two NUL-terminated texts or null, at least one of them given; valid hints; a place for the list.
        let code = unsafe { libc::getaddrinfo(pointer(&host), pointer(&service), &raw const hints, &raw mut list) };
        if code == 0 { Ok(AddrInfo(list)) } else { Err(resolve_error(code)) }
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        let mut found = Vec::new();
        let mut next = self.0;
        // SAFETY: a list made by the resolver, which ends in null and is freed with `self`.
        while let Some(entry) = unsafe { next.as_ref() } {
            found.extend(address(entry));
            next = entry.ai_next;
        }
        found
    }
}

impl Drop for AddrInfo {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: made by the resolver, and not used afterwards.
            unsafe { libc::freeaddrinfo(self.0) };
        }
    }
}

fn address(entry: &libc::addrinfo) -> Option<SocketAddr> {
    let length = entry.ai_addrlen as usize;
    match entry.ai_family {
        libc::AF_INET if length >= size_of::<libc::sockaddr_in>() => {
            // SAFETY: the family and the length say that the address is of this type.
            let v4 = unsafe { entry.ai_addr.cast::<libc::sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::new(ip.into(), u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 if length >= size_of::<libc::sockaddr_in6>() => {
            // SAFETY: as above.
            let v6 = unsafe { entry.ai_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

fn resolve_error(code: libc::c_int) -> ResolveError {
    if code == libc::EAI_SYSTEM {
        return ResolveError { cause: os_text(&io::Error::last_os_error()), is_answer: false };
    }
    // SAFETY: returns a static text for any code.
    let cause = unsafe { CStr::from_ptr(libc::gai_strerror(code)) }.to_string_lossy().into_owned();
    ResolveError { cause, is_answer: NO_ADDRESS.contains(&code) }
}

/// The codes for "no such name" and "no address of this family". The last one is EAI_ADDRFAMILY, which libc lacks.
const NO_ADDRESS: [libc::c_int; 3] = [libc::EAI_NONAME, libc::EAI_NODATA, -9];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_an_address_already_is_read() {
        assert_eq!(host_addresses("192.0.2.1", Family::V4), Ok(vec!["192.0.2.1:0".parse().unwrap()]));
        assert_eq!(host_addresses("::1", Family::Both), Ok(vec!["[::1]:0".parse().unwrap()]));
        let scoped = host_addresses("fe80::1%lo", Family::V6).unwrap();
        assert_eq!(scoped, ["[fe80::1%1]:0".parse().unwrap()]);
    }

    #[test]
    fn what_has_no_address_is_told_apart_from_what_failed() {
        for (host, family) in [("192.0.2.1", Family::V6), ("a\0b", Family::Both)] {
            let unresolved = host_addresses(host, family).unwrap_err();
            assert!(unresolved.is_answer && !unresolved.cause.is_empty(), "{unresolved:?}");
        }
        assert!(!resolve_error(libc::EAI_AGAIN).is_answer);
    }

    #[test]
    fn services_have_ports() {
        assert_eq!(service_port("no such service"), None);
        assert_eq!(service_port("a\0b"), None);
        // Without a database, no service has a port.
        assert!([None, Some(80)].contains(&service_port("http")));
    }
}
