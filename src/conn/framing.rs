//! Framings: how the messages of a stream are told apart. Pure values.

use super::cutting::{Cut, Halves};

/// A way to tell the messages of a stream apart, for sending and receiving.
///
/// A frame is a message with what marks its beginning or its end. [`Socket::readframes`](crate::Socket::readframes),
/// [`sendframe`](crate::Socket::sendframe) and the others take the framing with each call, so a protocol may change it.
///
/// | framing | bytes of the message `hello` | known from |
/// |---|---|---|
/// | `length32()` | `00 00 00 05 hello` | Twisted's `Int32StringReceiver`, `struct.pack("!I", …)` |
/// | `length16().little_endian().counts_itself()` | `07 00 hello` | |
/// | `varint()` | `05 hello` | delimited protobuf messages |
/// | `until(0)` | `hello 00` | |
/// | `crlf()` | `hello 0D 0A` | Redis, Twisted's `LineReceiver` |
/// | `netstring()` | `5:hello,` | qmail, SCGI |
///
/// A message may be empty. The longest that is received is set by the [line limit](crate::socket::SocketBuilder::line_limit)
/// (1 MiB), which counts the message alone. An announced length is compared with it as soon as it is known, so no memory is
/// taken for a message that will be refused.
///
/// # Example: Messages with a length of four bytes in front
/// ```
/// use network::socket::Framing;
///
/// let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
/// let (socket, peer) = (network::Socket::from_fd(ours)?, network::Socket::from_fd(theirs)?);
/// let framing = Framing::length32();
/// socket.sendframe(framing, "hello")?;
/// socket.flush()?;
/// assert_eq!(peer.recv_exact(9)?, b"\0\0\0\x05hello");
/// peer.sendframe(framing, [1, 2, 3])?;
/// peer.flush()?;
/// assert_eq!(socket.recv_frame(framing)?, [1, 2, 3]);
/// # Ok::<(), network::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Framing(Form);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Form {
    Length {
        width: Width,
        little_endian: bool,
        counts_itself: bool,
    },
    Varint,
    Until(u8),
    CrLf,
    Netstring,
    /// That was set for a framing that it does not apply to.
    Misused(Setting),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Width {
    One = 1,
    Two = 2,
    Four = 4,
    Eight = 8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Setting {
    LittleEndian,
    CountsItself,
}

impl Framing {
    /// Messages with their length in front, in one byte: up to 255 bytes each.
    pub const fn length8() -> Self {
        Framing::length(Width::One)
    }

    /// Messages with their length in front, in two bytes, the most significant one first.
    pub const fn length16() -> Self {
        Framing::length(Width::Two)
    }

    /// Messages with their length in front, in four bytes, the most significant one first.
    pub const fn length32() -> Self {
        Framing::length(Width::Four)
    }

    /// Messages with their length in front, in eight bytes, the most significant one first.
    pub const fn length64() -> Self {
        Framing::length(Width::Eight)
    }

    const fn length(width: Width) -> Self {
        Framing(Form::Length { width, little_endian: false, counts_itself: false })
    }

    /// Sets the byte order of the length: the least significant byte comes first.
    ///
    /// Applies to `length8` to `length64`. Any use of another framing with it fails with
    /// [`Error::InvalidOption`](crate::Error::InvalidOption).
    pub const fn little_endian(self) -> Self {
        match self.0 {
            Form::Length { width, counts_itself, .. } => {
                Framing(Form::Length { width, little_endian: true, counts_itself })
            }
            _ => Framing(Form::Misused(Setting::LittleEndian)),
        }
    }

    /// Lets the length count its own bytes as well as those of the message.
    ///
    /// Applies to `length8` to `length64`. Any use of another framing with it fails with
    /// [`Error::InvalidOption`](crate::Error::InvalidOption).
    pub const fn counts_itself(self) -> Self {
        match self.0 {
            Form::Length { width, little_endian, .. } => {
                Framing(Form::Length { width, little_endian, counts_itself: true })
            }
            _ => Framing(Form::Misused(Setting::CountsItself)),
        }
    }

    /// Messages with their length in front as a base 128 varint: seven bits in each byte, the least significant ones first,
    /// as [protobuf](https://protobuf.dev/programming-guides/encoding/#varints) has them. At most 10 bytes and 64 bits; zeros
    /// that are not needed are accepted.
    pub const fn varint() -> Self {
        Framing(Form::Varint)
    }

    /// Messages that end with this byte, which they cannot contain: `until(0)` for text that ends with NUL.
    ///
    /// For lines of text, see [`Socket::readlines`](crate::Socket::readlines).
    pub const fn until(byte: u8) -> Self {
        Framing(Form::Until(byte))
    }

    /// Messages that end with `\r\n`, which they cannot contain. A `\n` without `\r` before it belongs to the message, as
    /// does a `\r` without `\n` after it: [`LineEnding::CrLf`](crate::socket::LineEnding::CrLf) ends lines with either.
    pub const fn crlf() -> Self {
        Framing(Form::CrLf)
    }

    /// [Netstrings](https://cr.yp.to/proto/netstrings.txt): the length in decimal digits, a colon, the message, a comma.
    pub const fn netstring() -> Self {
        Framing(Form::Netstring)
    }

    /// Returns the setting that does not apply to it, if there is one.
    pub(super) fn misused(self) -> Option<Setting> {
        if let Form::Misused(setting) = self.0 { Some(setting) } else { None }
    }
}

/// The longest beginning of a frame that is looked at to know its length: 20 digits and a colon.
const HEAD: usize = 21;

/// A varint of 64 bits has so many bytes.
const VARINT: usize = 10;

/// The reason why what has come is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    LineTooLong,
    /// It exceeds the limit. Its length, where that is announced.
    TooLong(Option<u64>),
    /// A length that is to count itself, and is less than that.
    ShortLength(u64, usize),
    LongVarint,
    NoDigit(u8),
    LeadingZero,
    NoComma(u8),
    Misused(Setting),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::LineTooLong => f.write_str("a line exceeds the limit"),
            Refusal::TooLong(_) => f.write_str("a frame exceeds the limit"),
            Refusal::ShortLength(length, width) => {
                write!(f, "a length of {length} that counts its own {width} bytes")
            }
            Refusal::LongVarint => f.write_str("a varint of more than 10 bytes or 64 bits"),
            Refusal::NoDigit(byte) => {
                write!(f, "the length of a netstring contains \"{}\", which is not a digit", byte.escape_ascii())
            }
            Refusal::LeadingZero => f.write_str("the length of a netstring begins with a superfluous 0"),
            Refusal::NoComma(byte) => {
                write!(f, "a netstring ends with \"{}\" instead of a comma", byte.escape_ascii())
            }
            Refusal::Misused(Setting::LittleEndian) => {
                f.write_str("little_endian applies only to framings by length8, length16, length32 and length64")
            }
            Refusal::Misused(Setting::CountsItself) => {
                f.write_str("counts_itself applies only to framings by length8, length16, length32 and length64")
            }
        }
    }
}

// ---- receiving ----

impl Framing {
    /// Returns where the first frame of these bytes lies. `None`: not all of it has come yet. The first `searched` bytes of them
    /// are known not to contain the end of a frame.
    #[inline]
    pub(super) fn cut(self, limit: usize, bytes: Halves<'_>, searched: usize) -> Result<Option<Cut>, Refusal> {
        match self.0 {
            Form::Until(byte) => delimited(limit, bytes, bytes.find(byte, searched), 1),
            Form::CrLf => delimited(limit, bytes, find_pair(bytes, searched), 2),
            Form::Netstring => netstring(limit, bytes),
            Form::Misused(setting) => Err(Refusal::Misused(setting)),
            Form::Varint | Form::Length { .. } => {
                let Some((start, length)) = self.announced(bytes)? else { return Ok(None) };
                let end = within(limit, start, length)?;
                Ok((end <= bytes.len()).then_some(Cut { start, end, whole: end }))
            }
        }
    }

    /// Returns where the first frame of these bytes lies, if it is whole and right. The short way for most frames.
    #[inline(always)]
    pub(super) fn cut_whole(self, limit: usize, bytes: &[u8]) -> Option<Cut> {
        let Form::Length { width, little_endian, counts_itself } = self.0 else {
            return self.cut(limit, Halves::from(bytes), 0).ok()?;
        };
        let number = number(width, little_endian, Halves::from(bytes))?;
        let start = width as usize;
        let length = number.checked_sub(own_length(width, counts_itself))?;
        let end = within(limit, start, length).ok().filter(|end| *end <= bytes.len())?;
        Some(Cut { start, end, whole: end })
    }

    /// Returns where the message begins, and its length.
    fn announced(self, bytes: Halves<'_>) -> Result<Option<(usize, u64)>, Refusal> {
        let Form::Length { width, little_endian, counts_itself } = self.0 else { return varint(bytes) };
        let Some(number) = number(width, little_endian, bytes) else { return Ok(None) };
        let start = width as usize;
        let length = number.checked_sub(own_length(width, counts_itself));
        Ok(Some((start, length.ok_or(Refusal::ShortLength(number, start))?)))
    }

    /// Returns how many bytes the first frame has of which some have come, if it announces that.
    pub(super) fn expected(self, limit: usize, bytes: Halves<'_>) -> Option<usize> {
        let (start, length) = match self.0 {
            Form::Varint | Form::Length { .. } => self.announced(bytes).ok()??,
            Form::Netstring => digits(bytes).ok()??,
            Form::Until(_) | Form::CrLf | Form::Misused(_) => return None,
        };
        let comma = usize::from(self.0 == Form::Netstring);
        Some(within(limit, start, length).ok()?.saturating_add(comma))
    }
}

#[inline(always)]
fn number(width: Width, little_endian: bool, bytes: Halves<'_>) -> Option<u64> {
    match (width, little_endian) {
        (Width::One, _) => bytes.first().map(u8::from_be_bytes).map(u64::from),
        (Width::Two, false) => bytes.first().map(u16::from_be_bytes).map(u64::from),
        (Width::Two, true) => bytes.first().map(u16::from_le_bytes).map(u64::from),
        (Width::Four, false) => bytes.first().map(u32::from_be_bytes).map(u64::from),
        (Width::Four, true) => bytes.first().map(u32::from_le_bytes).map(u64::from),
        (Width::Eight, false) => bytes.first().map(u64::from_be_bytes),
        (Width::Eight, true) => bytes.first().map(u64::from_le_bytes),
    }
}

/// So much of a length is for itself.
#[inline(always)]
fn own_length(width: Width, counts_itself: bool) -> u64 {
    if counts_itself { width as u64 } else { 0 }
}

/// Returns the end of a message of this length, unless it is too long.
#[inline]
fn within(limit: usize, start: usize, length: u64) -> Result<usize, Refusal> {
    let end =
        usize::try_from(length).ok().filter(|length| *length <= limit).and_then(|length| start.checked_add(length));
    end.ok_or(Refusal::TooLong(Some(length)))
}

fn varint(bytes: Halves<'_>) -> Result<Option<(usize, u64)>, Refusal> {
    let mut number = 0;
    for at in 0..VARINT {
        let Some(byte) = bytes.at(at) else { return Ok(None) };
        let bits = u64::from(byte & 0x7f);
        if at == VARINT - 1 && bits > 1 {
            break;
        }
        number |= bits << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((at + 1, number)));
        }
    }
    Err(Refusal::LongVarint)
}

fn netstring(limit: usize, bytes: Halves<'_>) -> Result<Option<Cut>, Refusal> {
    let Some((start, length)) = digits(bytes)? else { return Ok(None) };
    let end = within(limit, start, length)?;
    match bytes.at(end) {
        None => Ok(None),
        Some(b',') => Ok(Some(Cut { start, end, whole: end + 1 })),
        Some(byte) => Err(Refusal::NoComma(byte)),
    }
}

/// The length of a netstring, and where the message begins.
fn digits(bytes: Halves<'_>) -> Result<Option<(usize, u64)>, Refusal> {
    let mut number = 0u64;
    for at in 0..HEAD {
        let Some(byte) = bytes.at(at) else { return Ok(None) };
        match byte {
            b':' if at > 0 => return Ok(Some((at + 1, number))),
            b'0'..=b'9' if at == 1 && number == 0 => return Err(Refusal::LeadingZero),
            b'0'..=b'9' => {
                let more = number.checked_mul(10).and_then(|number| number.checked_add((byte - b'0').into()));
                number = more.ok_or(Refusal::TooLong(None))?;
            }
            _ => return Err(Refusal::NoDigit(byte)),
        }
    }
    Err(Refusal::TooLong(None))
}

/// A frame that ends with a delimiter, which was found there.
#[inline]
fn delimited(limit: usize, bytes: Halves<'_>, found: Option<usize>, width: usize) -> Result<Option<Cut>, Refusal> {
    let is_half = || width == 2 && bytes.len().checked_sub(1).and_then(|last| bytes.at(last)) == Some(b'\r');
    let end = found.unwrap_or_else(|| bytes.len() - usize::from(is_half()));
    if end > limit {
        return Err(Refusal::TooLong(None));
    }
    Ok(found.map(|end| Cut { start: 0, end, whole: end + width }))
}

fn find_pair(bytes: Halves<'_>, searched: usize) -> Option<usize> {
    let mut from = searched;
    loop {
        let newline = bytes.find(b'\n', from)?;
        if newline > 0 && bytes.at(newline - 1) == Some(b'\r') {
            return Some(newline - 1);
        }
        from = newline + 1;
    }
}

// ---- sending ----

/// A message with what comes before and after it.
pub(super) struct Framed<'a> {
    head: Short<HEAD>,
    message: &'a [u8],
    tail: Short<2>,
}

/// A few bytes.
struct Short<const MOST: usize> {
    bytes: [u8; MOST],
    length: usize,
}

impl<const MOST: usize> From<&[u8]> for Short<MOST> {
    fn from(given: &[u8]) -> Self {
        let mut bytes = [0; MOST];
        bytes[..given.len()].copy_from_slice(given);
        Short { bytes, length: given.len() }
    }
}

impl<'a> Framed<'a> {
    fn new(head: &[u8], message: &'a [u8], tail: &[u8]) -> Self {
        Framed { head: head.into(), message, tail: tail.into() }
    }

    /// The three parts, to be sent in this order.
    pub(super) fn parts(&self) -> [&[u8]; 3] {
        [&self.head.bytes[..self.head.length], self.message, &self.tail.bytes[..self.tail.length]]
    }
}

impl Framing {
    /// Frames a message, or returns why this cannot be.
    pub(super) fn wrap(self, message: &[u8]) -> Result<Framed<'_>, String> {
        match self.0 {
            Form::Length { width, little_endian, counts_itself } => {
                let own = own_length(width, counts_itself);
                let width = width as usize;
                let number = message.len() as u64 + own;
                if width < 8 && number >> (8 * width) > 0 {
                    let most = (1u64 << (8 * width)) - 1 - own;
                    let size = message.len();
                    return Err(format!(
                        "{size} bytes do not fit into a frame whose length has {} bits; the maximum is {most}",
                        8 * width
                    ));
                }
                Ok(if little_endian {
                    Framed::new(&number.to_le_bytes()[..width], message, b"")
                } else {
                    Framed::new(&number.to_be_bytes()[8 - width..], message, b"")
                })
            }
            Form::Varint => {
                let (mut head, mut length, mut rest) = ([0; VARINT], 0, message.len() as u64);
                while rest > 0x7f {
                    head[length] = rest as u8 | 0x80;
                    rest >>= 7;
                    length += 1;
                }
                head[length] = rest as u8;
                Ok(Framed::new(&head[..=length], message, b""))
            }
            Form::Netstring => Ok(Framed::new(format!("{}:", message.len()).as_bytes(), message, b",")),
            Form::Until(byte) if memchr::memchr(byte, message).is_some() => {
                Err(format!("the message contains \"{}\", which ends a frame", byte.escape_ascii()))
            }
            Form::Until(byte) => Ok(Framed::new(b"", message, &[byte])),
            Form::CrLf if memchr::memmem::find(message, b"\r\n").is_some() => {
                Err("the message contains \"\\r\\n\", which ends a frame".into())
            }
            Form::CrLf => Ok(Framed::new(b"", message, b"\r\n")),
            Form::Misused(setting) => Err(Refusal::Misused(setting).to_string()),
        }
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod checks;
#[cfg(test)]
mod tests;
