//! A STUN client for Binding requests (RFC 8489). The messages are pure values.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

use crate::engine::{Engine, within};
use crate::error::{Error, Result};
use crate::udp::UdpSocket;

/// The default port of STUN.
pub(super) const PORT: u16 = 3478;

/// The time until a request without an answer is sent again. It doubles each time.
const RESEND: Duration = Duration::from_millis(500);

/// The longest response, in bytes.
const LONGEST: usize = 2048;

const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const MAPPED_ADDRESS: u16 = 0x0001;
const ERROR_CODE: u16 = 0x0009;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;

pub(super) async fn ask(engine: &Rc<Engine>, servers: Vec<SocketAddr>, text: &str) -> Result<IpAddr> {
    let socket = UdpSocket::bind(0)?;
    // A connected socket receives from this server only.
    socket.connect_future(servers).await?;
    let mut id = [0; 12];
    SystemRandom::new().fill(&mut id).map_err(|_| Error::other("the system has no random numbers"))?;
    let failed = |cause: String| Error::Lookup { address: text.into(), cause };
    let mut pause = RESEND;
    loop {
        socket.send_future(request(&id)).await?;
        let answered = within(engine, pause, async {
            loop {
                match socket.recv_future(LONGEST).await {
                    Ok(data) => match read(&data, &id) {
                        Some(answer) => return answer.map_err(failed),
                        None => continue,
                    },
                    Err(Error::DatagramTruncated { .. }) => continue,
                    Err(error) => return Err(error),
                }
            }
        });
        if let Some(outcome) = answered.await {
            return outcome;
        }
        pause *= 2;
    }
}

fn request(id: &[u8; 12]) -> Vec<u8> {
    // No attributes.
    [&BINDING_REQUEST.to_be_bytes()[..], &[0, 0], &COOKIE, id].concat()
}

/// Parses the response to the request with this id. `None` for any other message.
fn read(message: &[u8], id: &[u8; 12]) -> Option<Result<IpAddr, String>> {
    let (header, rest) = message.split_first_chunk::<20>()?;
    let (kind, length) = (u16::from_be_bytes([header[0], header[1]]), u16::from_be_bytes([header[2], header[3]]));
    if header[4..8] != COOKIE || header[8..] != id[..] || rest.len() != usize::from(length) {
        return None;
    }
    match kind {
        BINDING_SUCCESS => {}
        BINDING_ERROR => {
            let code = attribute(rest, ERROR_CODE).and_then(|value| Some((*value.get(2)?, *value.get(3)?)));
            return Some(Err(match code {
                Some((class, number)) => format!("the server answered with error {class}{number:02}"),
                None => "the server answered with an error".into(),
            }));
        }
        _ => return None,
    }
    let disguised = attribute(rest, XOR_MAPPED_ADDRESS).and_then(|value| {
        let key = [&COOKIE[..], id].concat();
        address(value, |place, byte| byte ^ key[place])
    });
    // The form of older servers.
    let found = disguised.or_else(|| attribute(rest, MAPPED_ADDRESS).and_then(|value| address(value, |_, byte| byte)));
    Some(found.map(|ip| ip.to_canonical()).ok_or_else(|| "the response contains no address".into()))
}

/// Returns the value of the first attribute of a kind.
fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some((header, behind)) = rest.split_first_chunk::<4>() {
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let value = behind.get(..length)?;
        if u16::from_be_bytes([header[0], header[1]]) == wanted {
            return Some(value);
        }
        rest = behind.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn address(value: &[u8], plain: impl Fn(usize, u8) -> u8) -> Option<IpAddr> {
    let (header, ip) = value.split_first_chunk::<4>()?;
    let ip: Vec<u8> = ip.iter().take(16).enumerate().map(|(place, byte)| plain(place, *byte)).collect();
    match header[1] {
        1 => <[u8; 4]>::try_from(ip).ok().map(|ip| Ipv4Addr::from(ip).into()),
        2 => <[u8; 16]>::try_from(ip).ok().map(|ip| Ipv6Addr::from(ip).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    /// The id of the examples of RFC 5769.
    fn id() -> [u8; 12] {
        hex("b7e7a701 bc34d686 fa87dfae").try_into().unwrap()
    }

    /// RFC 5769, section 2.2 and 2.3, with all their other attributes.
    const V4: &str = "0101003c 2112a442 b7e7a701 bc34d686 fa87dfae 8022000b 74657374 20766563 746f7220 00200008
        0001a147 e112a643 00080014 2b91f599 fd9e90c3 8c7489f9 2af9ba53 f06be7d7 80280004 c07d4c96";
    const V6: &str = "01010048 2112a442 b7e7a701 bc34d686 fa87dfae 8022000b 74657374 20766563 746f7220 00200014
        0002a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9 00080014 a382954e 4be67bf1 1784c97c 8292c275 bfe3ed41 80280004
        c8fb0b4c";

    #[test]
    fn the_examples_of_the_standard_are_read() {
        assert_eq!(read(&hex(V4), &id()), Some(Ok("192.0.2.1".parse().unwrap())));
        assert_eq!(read(&hex(V6), &id()), Some(Ok("2001:db8:1234:5678:11:2233:4455:6677".parse().unwrap())));
    }

    #[test]
    fn the_request_is_as_the_standard_has_it() {
        assert_eq!(request(&id()), hex("00010000 2112a442 b7e7a701 bc34d686 fa87dfae"));
    }

    #[test]
    fn what_is_no_answer_to_this_request_is_none() {
        let good = hex(V4);
        assert_eq!(read(&good, &[0; 12]), None, "the id of another");
        assert_eq!(read(&good[..good.len() - 1], &id()), None, "cut off");
        assert_eq!(read(&request(&id()), &id()), None, "a request");
        assert_eq!(read(&[], &id()), None);
        let mut other = good.clone();
        other[4] ^= 1;
        assert_eq!(read(&other, &id()), None, "the cookie");
    }

    #[test]
    fn errors_and_answers_without_an_address_say_so() {
        let with = |kind: &str, body: &str| {
            let body = hex(body);
            let head = format!("{kind} {:04x} 2112a442 b7e7a701 bc34d686 fa87dfae", body.len());
            read(&[hex(&head), body].concat(), &id()).unwrap()
        };
        assert_eq!(with("0111", "00090004 00000414"), Err("the server answered with error 420".into()));
        assert!(with("0111", "").is_err());
        assert!(with("0101", "").is_err());
        assert!(with("0101", "00200008 0003a147 e112a643").is_err(), "an unknown family");
        assert!(with("0101", "0020ffff 0001a147 e112a643").is_err(), "longer than the message");
        assert_eq!(with("0101", "00010008 00010050 c0000201"), Ok("192.0.2.1".parse().unwrap()), "in the old way");
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_without_a_panic(
            start in 0usize..120,
            noise in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut message = hex(V6);
            message.truncate(start);
            message.extend(noise);
            let _ = read(&message, &id());
            if let (true, Ok(length)) = (message.len() >= 20, u16::try_from(message.len().saturating_sub(20))) {
                message[2..4].copy_from_slice(&length.to_be_bytes());
                let _ = read(&message, &id());
            }
        }
    }
}
