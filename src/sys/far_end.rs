//! The far end of a connected stream socket: whether another socket of this process is that.
//!
//! Two TCP sockets are the ends of one connection if each has the address that the other has for its peer. The ends of a unix
//! connection have no addresses of their own, so the kernel is asked (sock_diag(7)); where a sandbox forbids that, no socket
//! counts as the far end.

use std::cell::OnceCell;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::net::{RecvFlags, SendFlags, SocketAddrAny};

use super::poll_for;
use super::sockets::{diagnosis_socket, local_address, peer_address};

/// The ends of a connection, as the socket at the near one knows them.
pub(crate) enum Ends {
    Inet { near: Place, far: Place },
    Unix { near: u32, far: OnceCell<Option<u32>> },
}

/// An address, port and zone. IPv4 has one form.
type Place = (IpAddr, u16, u32);

fn place(address: SocketAddrAny) -> Option<Place> {
    let address = SocketAddr::try_from(address).ok()?;
    let zone = match address {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => v6.scope_id(),
        _ => 0,
    };
    Some((address.ip().to_canonical(), address.port(), zone))
}

impl Ends {
    /// `None` if this is no connected stream socket of TCP or unix.
    pub(crate) fn of(fd: impl AsFd) -> Option<Ends> {
        let fd = fd.as_fd();
        let near = local_address(fd).ok()?;
        if SocketAddr::try_from(near.clone()).is_err() {
            return Some(Ends::Unix { near: number(fd)?, far: OnceCell::new() });
        }
        Some(Ends::Inet { near: place(near)?, far: place(peer_address(fd).ok()??)? })
    }

    /// Returns whether that connected socket is the far end.
    pub(crate) fn meet(&self, fd: BorrowedFd<'_>) -> bool {
        let named = |address: Option<SocketAddrAny>| address.and_then(place);
        match self {
            Ends::Inet { near, far } => {
                named(peer_address(fd).ok().flatten()) == Some(*near) && named(local_address(fd).ok()) == Some(*far)
            }
            Ends::Unix { .. } => match self.number_of_far() {
                Some(far) if far != 0 => is_unix(fd) && number(fd) == Some(far),
                _ => false,
            },
        }
    }

    /// Returns whether that listening socket has the connection in its backlog.
    pub(crate) fn wait_at(&self, listening: BorrowedFd<'_>) -> bool {
        match self {
            Ends::Inet { near, far } => {
                let Some((ip, port, _)) = local_address(listening).ok().and_then(place) else { return false };
                let is_this_machine = near.0 == far.0 || far.0.is_loopback();
                let is_place = port == far.1 && (ip == far.0 || (ip.is_unspecified() && is_this_machine));
                // Other sockets may listen on the same port.
                is_place && has_backlog(listening)
            }
            Ends::Unix { near, .. } => {
                self.number_of_far() == Some(0)
                    && is_unix(listening)
                    && number(listening).is_some_and(|number| backlog_of(number).contains(near))
            }
        }
    }

    /// Returns the number of a unix socket's far end: 0 if it has not been accepted, or has been closed.
    fn number_of_far(&self) -> Option<u32> {
        match self {
            Ends::Unix { near, far } => *far.get_or_init(|| peer_of(*near)),
            Ends::Inet { .. } => None,
        }
    }
}

fn is_unix(fd: BorrowedFd<'_>) -> bool {
    local_address(fd).is_ok_and(|address| address.address_family() == rustix::net::AddressFamily::UNIX)
}

fn has_backlog(listening: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(listening, PollFlags::IN)];
    poll_for(&mut fds, Some(Duration::ZERO)).is_ok_and(|ready| ready)
}

// ---- sock_diag(7) ----

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// Attributes of the answer, each asked for by a bit.
const PEER: u16 = 2;
const PENDING: u16 = 3;
const SHOW_PEER: u32 = 1 << 2;
const SHOW_PENDING: u32 = 1 << 3;

/// The header of a message, and that of an answer about a unix socket, in bytes.
const HEADER: usize = 16;
const ANSWER: usize = 16;

/// The kernel's number for a socket.
fn number(fd: BorrowedFd<'_>) -> Option<u32> {
    // The kernel's answers have 32 bits of it.
    Some(rustix::fs::fstat(fd).ok()?.st_ino as u32)
}

fn peer_of(number: u32) -> Option<u32> {
    ask(number, SHOW_PEER, PEER)?.first().copied()
}

/// The sockets that have connected to a listening one and have not been accepted.
fn backlog_of(number: u32) -> Vec<u32> {
    ask(number, SHOW_PENDING, PENDING).unwrap_or_default()
}

/// Asks about one unix socket. Returns the numbers in that attribute of the answer.
fn ask(number: u32, show: u32, attribute: u16) -> Option<Vec<u32>> {
    const REQUEST: u16 = 1;
    const SIZE: u32 = 40;
    let any_cookie = [u32::MAX; 2];
    let mut question = Vec::with_capacity(SIZE as usize);
    question.extend(SIZE.to_ne_bytes());
    question.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    question.extend(REQUEST.to_ne_bytes());
    question.extend([0; 8]);
    question.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    for word in [u32::MAX, number, show, any_cookie[0], any_cookie[1]] {
        question.extend(word.to_ne_bytes());
    }
    let socket = diagnosis_socket().ok()?;
    rustix::net::send(&socket, &question, SendFlags::empty()).ok()?;
    // The kernel has answered by then.
    let mut answer = vec![0; 16 << 10];
    let (length, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::DONTWAIT).ok()?;
    numbers_in(&answer[..length], attribute)
}

fn numbers_in(answer: &[u8], attribute: u16) -> Option<Vec<u32>> {
    let short = |at: &[u8]| Some(u16::from_ne_bytes(at.get(..2)?.try_into().ok()?));
    if short(answer.get(4..)?)? != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let mut rest = answer.get(HEADER + ANSWER..)?;
    while !rest.is_empty() {
        let (length, kind) = (usize::from(short(rest)?), short(rest.get(2..)?)?);
        let value = rest.get(4..length)?;
        if kind == attribute {
            return Some(value.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)).collect());
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn the_ends_of_a_unix_connection_find_each_other() {
        let (one, other) = UnixStream::pair().unwrap();
        let (third, _fourth) = UnixStream::pair().unwrap();
        let ends = Ends::of(&one).unwrap();
        assert!(ends.meet(other.as_fd()));
        assert!(!ends.meet(third.as_fd()) && !ends.meet(one.as_fd()));
    }

    #[test]
    fn a_unix_connection_waits_at_one_of_two_sockets_of_one_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let old = UnixListener::bind(&path).unwrap();
        let before = UnixStream::connect(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let new = UnixListener::bind(&path).unwrap();
        let after = UnixStream::connect(&path).unwrap();
        let waits = |client: &UnixStream, server: &UnixListener| Ends::of(client).unwrap().wait_at(server.as_fd());
        assert!(waits(&before, &old) && waits(&after, &new));
        assert!(!waits(&before, &new) && !waits(&after, &old));
        let accepted = new.accept().unwrap().0;
        assert!(!waits(&after, &new));
        assert!(Ends::of(&after).unwrap().meet(accepted.as_fd()) && Ends::of(&accepted).unwrap().meet(after.as_fd()));
    }

    #[test]
    fn a_tcp_connection_waits_until_it_is_accepted() {
        let server = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        assert!(Ends::of(&client).unwrap().wait_at(server.as_fd()));
        let accepted = server.accept().unwrap().0;
        assert!(!Ends::of(&client).unwrap().wait_at(server.as_fd()));
        assert!(Ends::of(&client).unwrap().meet(accepted.as_fd()) && Ends::of(&accepted).unwrap().meet(client.as_fd()));
        let other = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        assert!(!Ends::of(&client).unwrap().meet(other.as_fd()));
    }

    #[test]
    fn a_damaged_answer_has_no_numbers() {
        let mut answer = vec![0; HEADER + ANSWER];
        answer[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        assert_eq!(numbers_in(&answer, PEER), None);
        for length in 0..12_u16 {
            let mut longer = answer.clone();
            longer.extend(length.to_ne_bytes());
            longer.extend(PEER.to_ne_bytes());
            longer.extend(7_u32.to_ne_bytes());
            let expected = match length {
                0..4 | 9.. => None,
                4..8 => Some(vec![]),
                8 => Some(vec![7]),
            };
            assert_eq!(numbers_in(&longer, PEER), expected, "{length}");
            assert_eq!(numbers_in(&answer[..usize::from(length)], PEER), None);
        }
    }
}
