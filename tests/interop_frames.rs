//! Frames with parties of others: Python's `struct`, netstrings and varints as Python has them, and the CRLF of Redis.

mod common;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use common::{LIMIT, Process, TempDir, Watch, await_it, noise, on_own_context, party, tool, until};
use network::Socket;
use network::socket::Framing;
use rustix::process::Signal;

/// Serves one connection after the other. The first line of each names the framing; every message is answered by itself,
/// the other way round.
const SERVER: &str = r#"
import socket, struct

def fixed(form, own):
    size = struct.calcsize(form)
    def read(file):
        head = file.read(size)
        return file.read(struct.unpack(form, head)[0] - own * size) if head else None
    return read, lambda message: struct.pack(form, len(message) + own * size) + message

def read_varint(file):
    number = shift = 0
    while True:
        byte = file.read(1)
        if not byte:
            return None
        number |= (byte[0] & 127) << shift
        shift += 7
        if byte[0] < 128:
            return file.read(number)

def write_varint(message):
    number, head = len(message), b""
    while number > 127:
        head += bytes([number & 127 | 128])
        number >>= 7
    return head + bytes([number]) + message

def read_netstring(file):
    digits = b""
    while True:
        byte = file.read(1)
        if byte == b":":
            break
        if not byte:
            return None
        digits += byte
    message = file.read(int(digits))
    assert file.read(1) == b","
    return message

def write_netstring(message):
    return b"%d:%b," % (len(message), message)

def until(end):
    def read(file):
        message = b""
        while not message.endswith(end):
            byte = file.read(1)
            if not byte:
                return None
            message += byte
        return message[:-len(end)]
    return read, lambda message: message + end

forms = {"varint": (read_varint, write_varint), "netstring": (read_netstring, write_netstring),
         "nul": until(b"\0"), "crlf": until(b"\r\n")}
for form in ("!B", "!H", "!I", "!Q", "<H", "<I", "<Q"):
    forms[form] = fixed(form, 0)
    forms[form + "+"] = fixed(form, 1)

listener = socket.create_server(("127.0.0.1", 0))
print("listening on", listener.getsockname()[1], flush = True)
while True:
    connection, _ = listener.accept()
    with connection, connection.makefile("rwb") as file:
        read, write = forms[file.readline().decode().strip()]
        while (message := read(file)) is not None:
            file.write(write(message[::-1]))
            file.flush()
"#;

fn framings() -> Vec<(&'static str, Framing)> {
    vec![
        ("!B", Framing::length8()),
        ("!B+", Framing::length8().counts_itself()),
        ("!H", Framing::length16()),
        ("!H+", Framing::length16().counts_itself()),
        ("!I", Framing::length32()),
        ("!I+", Framing::length32().counts_itself()),
        ("!Q", Framing::length64()),
        ("!Q+", Framing::length64().counts_itself()),
        ("<H", Framing::length16().little_endian()),
        ("<H+", Framing::length16().little_endian().counts_itself()),
        ("<I", Framing::length32().little_endian()),
        ("<I+", Framing::length32().little_endian().counts_itself()),
        ("<Q", Framing::length64().little_endian()),
        ("<Q+", Framing::length64().little_endian().counts_itself()),
        ("varint", Framing::varint()),
        ("netstring", Framing::netstring()),
        ("nul", Framing::until(0)),
        ("crlf", Framing::crlf()),
    ]
}

/// Messages of many lengths, as far as the framing carries them.
fn messages(framing: Framing) -> Vec<Vec<u8>> {
    let delimiters: &[u8] = match framing {
        framing if framing == Framing::until(0) => b"\0",
        framing if framing == Framing::crlf() => b"\r",
        _ => b"",
    };
    let longest = match framing {
        framing if framing == Framing::length8() || framing == Framing::length8().counts_itself() => 254,
        _ if delimiters.is_empty() => 65_533,
        // Python reads these byte by byte.
        _ => 5_000,
    };
    let lengths = [0, 1, 2, 5, 127, 128, 254, 255, 256, 5_000, 16_383, 16_384, 65_533];
    let message = |length: usize| {
        let mut bytes = noise(length, length as u64);
        bytes.iter_mut().filter(|byte| delimiters.contains(byte)).for_each(|byte| *byte = b'\n');
        bytes
    };
    lengths.into_iter().filter(|length| *length <= longest).map(message).collect()
}

fn reversed(message: &[u8]) -> Vec<u8> {
    message.iter().rev().copied().collect()
}

fn python() -> (Process, u16) {
    let server = Process::start(tool("/usr/bin/python3").args(["-c", SERVER]), Watch::Stdout);
    let port = server.port("listening on");
    (server, port)
}

fn connect(port: u16, name: &str) -> Socket {
    let socket = Socket::builder().tls(false).timeout(LIMIT).connect(("127.0.0.1", port)).unwrap();
    socket.sendline(name).unwrap();
    socket
}

#[test]
fn python_reads_and_writes_the_same_frames() {
    let (_server, port) = python();
    for (name, framing) in framings() {
        on_own_context(|| {
            let messages = messages(framing);
            // By blocking calls, one after the other.
            let socket = connect(port, name);
            for message in &messages {
                socket.sendframe(framing, message).unwrap();
                assert!(socket.recv_frame(framing).unwrap() == reversed(message), "{name}, {} bytes", message.len());
            }
            drop(socket);
            // By a callback, all at once.
            let socket = connect(port, name);
            let left: VecDeque<_> = messages.iter().map(|message| reversed(message)).collect();
            let left = Rc::new(RefCell::new(left));
            let expected = left.clone();
            socket.readframes(framing, move |_, message| {
                let next = expected.borrow_mut().pop_front();
                assert!(next.as_deref() == Some(message), "{} bytes", message.len());
                Ok(())
            });
            for message in &messages {
                socket.sendframe(framing, message).unwrap();
            }
            until(|| left.borrow().is_empty());
            socket.close();
            // By futures, and by a stream.
            let socket = connect(port, name);
            await_it(async {
                for message in &messages {
                    socket.sendframe_future(framing, message).await.unwrap();
                }
                let first = socket.recv_frame_future(framing).await.unwrap();
                assert!(first.is_empty());
                let mut frames = socket.frames(framing);
                for message in &messages[1..] {
                    let answer = if message.len() % 2 == 0 {
                        frames.next().await.unwrap().unwrap()
                    } else {
                        frames.next_slice().await.unwrap().unwrap().to_vec()
                    };
                    assert!(answer == reversed(message), "{name}, {} bytes", message.len());
                }
                socket.shutdown_write().unwrap();
                assert!(frames.next().await.is_none());
            });
        });
    }
}

#[test]
fn redis_speaks_in_frames_that_end_with_crlf() {
    let directory = TempDir::new();
    let path = directory.address("redis.socket");
    let mut server = party("redis-server");
    server.args(["--port", "0", "--unixsocket", &path, "--save", "", "--dir", &directory.address("")]);
    let server = Process::start(&mut server, Watch::Stdout);
    server.line_with("ready to accept connections at");
    on_own_context(|| {
        let socket = Socket::connect(&*path).unwrap();
        let crlf = Framing::crlf();
        socket.sendframe(crlf, "PING").unwrap();
        assert_eq!(socket.recv_frame(crlf).unwrap(), b"+PONG");
        // A line feed alone is data, and so is a carriage return.
        let value = "a\nb\rc\n";
        for part in
            ["*3", "$3", "SET", "$4", "name", &format!("${}", value.len()), value, "*2", "$3", "GET", "$4", "name"]
        {
            socket.sendframe(crlf, part).unwrap();
        }
        for part in ["+OK", &format!("${}", value.len()), value] {
            assert_eq!(socket.recv_frame(crlf).unwrap(), part.as_bytes());
        }
    });
    server.signal(Signal::TERM);
    server.finish().assert_clean();
}
