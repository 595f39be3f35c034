//! Every method of a socket, called from every callback: none panics or hangs, no callback runs inside another, nothing
//! follows the end, and nothing is left when the last handle is gone.

use std::cell::{Cell, RefCell};
use std::io::{BufRead, Read, Write};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::io::{AsyncRead, AsyncWrite};
use futures_util::stream::Stream;
use glib::clone::Downgrade;
use network::socket::Framing;
use network::{Result, Socket};

use crate::util::*;

/// The callbacks that have run, and whether one of them ran inside the method under test.
#[derive(Clone)]
struct Trace(Rc<Seen>);

#[derive(Default)]
struct Seen {
    calls: RefCell<Vec<&'static str>>,
    is_calling: Cell<bool>,
    is_nested: Cell<bool>,
    done: Cell<bool>,
}

impl Trace {
    fn note(&self, name: &'static str) {
        assert!(!self.0.is_calling.get() || self.0.is_nested.get(), "{name} ran inside a method call");
        self.0.calls.borrow_mut().push(name);
    }
}

/// The lines as frames.
const LINES: Framing = Framing::until(b'\n');

type Method = fn(&Socket, &Trace);

/// Polls a future once and drops it.
fn poll<F: Future>(future: F) {
    let _ = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
}

/// A callback that notes that it has run.
macro_rules! noting {
    ($trace:ident, $name:literal, |$($argument:tt),*|) => {{
        let trace = $trace.clone();
        move |$($argument),*| {
            trace.note($name);
            Ok(())
        }
    }};
}

fn at_once(socket: &Socket) {
    socket.set_timeout(Duration::ZERO);
}

/// Those that set callbacks, send, end and control.
static ACTING: &[(&str, Method)] = &[
    ("read", |s, t| s.read(noting!(t, "data", |_, _|))),
    ("readlines", |s, t| s.readlines(noting!(t, "line", |_, _|))),
    ("readlines_bytes", |s, t| s.readlines_bytes(noting!(t, "line", |_, _|))),
    ("readframes", |s, t| s.readframes(LINES, noting!(t, "frame", |_, _|))),
    ("readframes, misused", |s, t| s.readframes(LINES.counts_itself(), noting!(t, "frame", |_, _|))),
    ("rawread", |s, t| {
        let trace = t.clone();
        drop(s.rawread(move |socket| {
            trace.note("ready");
            at_once(socket);
            socket.recv(10).map(drop)
        }));
    }),
    ("unread", |s, _| drop(s.unread())),
    ("disconnect_cb", |s, t| {
        let trace = t.clone();
        s.disconnect_cb(move |_, _| trace.note("disconnected"));
    }),
    ("unset_disconnect_cb", |s, _| s.unset_disconnect_cb()),
    ("half_close_cb", |s, t| s.half_close_cb(noting!(t, "half-closed", |_|))),
    ("drain_cb", |s, t| s.drain_cb(noting!(t, "drained", |_|))),
    ("unset_drain_cb", |s, _| s.unset_drain_cb()),
    ("send", |s, _| drop(s.send("data\n"))),
    ("send much", |s, _| drop(s.send(vec![0; 3 << 20]))),
    ("sendline", |s, _| drop(s.sendline("line"))),
    ("sendframe", |s, _| drop(s.sendframe(LINES, "line"))),
    ("flush_async", |s, _| s.flush_async(drop)),
    ("shutdown_write", |s, _| drop(s.shutdown_write())),
    ("close", |s, _| drop(s.close())),
    ("abort", |s, _| drop(s.abort())),
    ("pause", |s, _| s.pause()),
    ("resume", |s, _| s.resume()),
    ("pause, resume", |s, _| {
        s.pause();
        s.resume();
    }),
    ("set_timeout", |s, _| s.set_timeout(Duration::from_secs(1))),
    ("set_idle_timeout", |s, _| s.set_idle_timeout(Duration::from_secs(100))),
    ("set_high_water_mark", |s, _| s.set_high_water_mark(1)),
    ("set_low_water_mark", |s, _| s.set_low_water_mark(1)),
    ("set_keep_alive", |s, _| drop(s.set_keep_alive(None))),
    ("set_user_timeout", |s, _| drop(s.set_user_timeout(None))),
    ("probe", |s, _| drop(s.probe())),
    ("set_no_delay", |s, _| drop(s.set_no_delay(false))),
    ("set_tos", |s, _| drop(s.set_tos(8))),
    ("set_recv_buffer", |s, _| drop(s.set_recv_buffer(10_000))),
    ("set_send_buffer", |s, _| drop(s.set_send_buffer(10_000))),
    ("clone", |s, _| drop(s.clone())),
    ("downgrade", |s, _| drop(Downgrade::downgrade(s).upgrade())),
    ("into_fd", |s, _| drop(s.clone().into_fd())),
    ("into_tcp", |s, _| drop(s.clone().into_tcp())),
    ("into_unix", |s, _| drop(s.clone().into_unix())),
    ("into_gio", |s, _| drop(s.clone().into_gio())),
    ("into_stream", |s, _| drop(s.clone().into_stream())),
    ("into_socket", |s, _| drop(s.clone().into_stream().into_socket())),
];

/// Those that receive and send by blocking calls, which do not wait here.
static BLOCKING: &[(&str, Method)] = &[
    ("recv", |s, _| drop(s.recv(10))),
    ("recv_into", |s, _| drop(s.recv_into(&mut [0; 10]))),
    ("recv_line", |s, _| drop(s.recv_line())),
    ("recv_frame", |s, _| drop(s.recv_frame(LINES))),
    ("recv_frame, malformed", |s, _| drop(s.recv_frame(Framing::netstring()))),
    ("recv_exact", |s, _| drop(s.recv_exact(3))),
    ("recv_exact_into", |s, _| drop(s.recv_exact_into(&mut [0; 3]))),
    ("recv_until", |s, _| drop(s.recv_until("\n"))),
    ("recv_to_end", |s, _| drop(s.recv_to_end(1000))),
    ("send_some", |s, _| drop(s.send_some("data\n"))),
    ("flush", |s, _| drop(s.flush())),
    ("send_fd", |s, _| drop(s.send_fd("x", std::io::stdin()))),
    ("recv_fd", |s, _| drop(s.recv_fd())),
    ("take_fds", |s, _| drop(s.take_fds())),
    ("reader", |s, _| {
        let mut reader = s.reader();
        let length = reader.fill_buf().map_or(0, <[u8]>::len);
        reader.consume(length.min(1));
    }),
    ("Read::read", |s, _| drop(Read::read(&mut &*s, &mut [0; 10]))),
    ("Write::write", |s, _| drop(Write::write(&mut &*s, b"data\n"))),
    ("Write::flush", |s, _| drop(Write::flush(&mut &*s))),
];

/// Those that are awaited.
static AWAITED: &[(&str, Method)] = &[
    ("recv_future", |s, _| poll(s.recv_future(10))),
    ("recv_into_future", |s, _| poll(s.recv_into_future(&mut [0; 10]))),
    ("recv_line_future", |s, _| poll(s.recv_line_future())),
    ("recv_frame_future", |s, _| poll(s.recv_frame_future(LINES))),
    ("recv_exact_future", |s, _| poll(s.recv_exact_future(3))),
    ("recv_exact_into_future", |s, _| poll(s.recv_exact_into_future(&mut [0; 3]))),
    ("recv_until_future", |s, _| poll(s.recv_until_future("\n"))),
    ("recv_to_end_future", |s, _| poll(s.recv_to_end_future(1000))),
    ("send_future", |s, _| poll(s.send_future("data\n"))),
    ("sendline_future", |s, _| poll(s.sendline_future("line"))),
    ("sendframe_future", |s, _| poll(s.sendframe_future(LINES, "line"))),
    ("flush_future", |s, _| poll(s.flush_future())),
    ("lines", |s, _| poll(s.lines().next())),
    ("next_str", |s, _| poll(s.lines().next_str())),
    ("frames", |s, _| poll(s.frames(LINES).next())),
    ("next_slice", |s, _| poll(s.frames(LINES).next_slice())),
    ("chunks", |s, _| poll(s.chunks(10).next())),
    ("Stream::poll_next", |s, _| {
        let mut lines = s.lines();
        let _ = pin!(&mut lines).poll_next(&mut Context::from_waker(Waker::noop()));
    }),
    ("AsyncRead", |s, _| {
        let _ = pin!(s).poll_read(&mut Context::from_waker(Waker::noop()), &mut [0; 10]);
    }),
    ("AsyncWrite", |s, _| {
        let context = &mut Context::from_waker(Waker::noop());
        let _ = pin!(s).poll_write(context, b"data\n");
        let _ = pin!(s).poll_flush(context);
    }),
    ("AsyncWrite::poll_close", |s, _| {
        let _ = pin!(s).poll_close(&mut Context::from_waker(Waker::noop()));
    }),
];

/// Those that ask.
static ASKING: &[(&str, Method)] = &[
    ("is_open", |s, _| _ = s.is_open()),
    ("is_full", |s, _| _ = s.is_full()),
    ("is_paused", |s, _| _ = s.is_paused()),
    ("is_tls", |s, _| _ = s.is_tls()),
    ("is_tls_resumed", |s, _| _ = s.is_tls_resumed()),
    ("queued", |s, _| _ = s.queued()),
    ("remote", |s, _| _ = s.remote()),
    ("local", |s, _| _ = s.local()),
    ("peer_fingerprint", |s, _| _ = s.peer_fingerprint()),
    ("peer_certificate", |s, _| _ = s.peer_certificate()),
    ("peer_public_key", |s, _| _ = s.peer_public_key()),
    ("peer_trust", |s, _| _ = s.peer_trust()),
    ("export_key", |s, _| drop(s.export_key("label", "", 32))),
    ("tls_version", |s, _| _ = s.tls_version()),
    ("cipher_suite", |s, _| _ = s.cipher_suite()),
    ("alpn", |s, _| _ = s.alpn()),
    ("keep_alive", |s, _| drop(s.keep_alive())),
    ("no_delay", |s, _| drop(s.no_delay())),
    ("tos", |s, _| drop(s.tos())),
    ("recv_buffer", |s, _| drop(s.recv_buffer())),
    ("send_buffer", |s, _| drop(s.send_buffer())),
    ("peer_credentials", |s, _| drop(s.peer_credentials())),
    ("as_fd", |s, _| _ = std::os::fd::AsRawFd::as_raw_fd(s)),
    ("Debug", |s, _| _ = format!("{s:?}")),
    ("==", |s, _| assert_eq!(*s, s.clone())),
];

/// Those that run the loop.
static NESTED: &[(&str, Method)] = &[
    ("iteration", |_, _| settle()),
    ("close, iteration", |s, _| {
        drop(s.close());
        settle();
    }),
];

/// Where the method is called.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Read,
    Lines,
    ByteLines,
    Frames,
    Raw,
    HalfClose,
    Drain,
    Disconnect,
    Flushed,
    OnClient,
    ServersDisconnect,
    Connected,
}

const PLACES: [Place; 12] = [
    Place::Read,
    Place::Lines,
    Place::ByteLines,
    Place::Frames,
    Place::Raw,
    Place::HalfClose,
    Place::Drain,
    Place::Disconnect,
    Place::Flushed,
    Place::OnClient,
    Place::ServersDisconnect,
    Place::Connected,
];

/// The method under test, called once.
#[derive(Clone)]
struct Call {
    method: Method,
    is_blocking: bool,
    trace: Trace,
}

impl Call {
    fn make(&self, socket: &Socket) -> Result {
        if !self.trace.0.done.replace(true) {
            if self.is_blocking {
                at_once(socket);
            }
            self.trace.0.is_calling.set(true);
            (self.method)(socket, &self.trace);
            self.trace.0.is_calling.set(false);
        }
        Ok(())
    }
}

/// Both ends of a connection, of which `subject` is the one whose method is called.
struct Ends {
    _server: network::Server,
    subject: Socket,
    /// `None` if the call has ended the connection before the server accepted it.
    other: Option<Socket>,
}

/// Connects, with the call in those callbacks that are there before the connection is.
fn connected(kind: Kind, place: Place, call: &Call) -> Ends {
    let accepted = Rc::new(RefCell::new(None));
    let keep = accepted.clone();
    let (on_client, on_end) = (call.clone(), call.clone());
    let builder = match place {
        Place::ServersDisconnect => server(kind).disconnect_cb(move |socket, _| on_end.make(socket).unwrap()),
        _ => server(kind),
    };
    let path = listen_address(kind);
    let server = builder
        .listen(path.as_str(), move |socket| {
            if place == Place::OnClient {
                on_client.make(&socket)?;
            }
            keep.replace(Some(socket));
            Ok(())
        })
        .unwrap();
    let address = match kind {
        Kind::Unix => path,
        Kind::Tcp | Kind::Tls => format!("localhost:{}", server.port()),
    };
    let client_end = Rc::new(RefCell::new(None));
    let (keep, on_connected) = (client_end.clone(), call.clone());
    let options = if kind == Kind::Tcp { Socket::builder().tls(false) } else { client(kind) };
    options.connect_async(address.as_str(), gio::Cancellable::NONE, move |result| {
        let socket = result.unwrap();
        if place == Place::Connected {
            on_connected.make(&socket).unwrap();
        }
        keep.replace(Some(socket));
    });
    until(|| client_end.borrow().is_some());
    let client_end = client_end.take().unwrap();
    until(|| accepted.borrow().is_some() || !client_end.is_open());
    let accepted = accepted.take();
    match place {
        Place::Connected => Ends { _server: server, subject: client_end, other: accepted },
        _ => Ends { _server: server, subject: accepted.unwrap(), other: Some(client_end) },
    }
}

/// Sets the callback that makes the call, and has it called.
fn provoke(place: Place, Ends { subject, other, .. }: &Ends, call: &Call) {
    let call = call.clone();
    let Some(other) = other else { return };
    match place {
        Place::Read => subject.read(move |socket, _| call.make(socket)),
        Place::Lines => subject.readlines(move |socket, _| call.make(socket)),
        Place::ByteLines => subject.readlines_bytes(move |socket, _| call.make(socket)),
        Place::Frames => subject.readframes(LINES, move |socket, _| call.make(socket)),
        Place::Raw => drop(subject.rawread(move |socket| {
            call.make(socket)?;
            at_once(socket);
            drop(socket.recv(100));
            Ok(())
        })),
        Place::HalfClose => subject.half_close_cb(move |socket| call.make(socket)),
        Place::Drain => subject.drain_cb(move |socket| call.make(socket)),
        Place::Disconnect => subject.disconnect_cb(move |socket, _| {
            call.trace.note("disconnected");
            call.make(socket).unwrap();
        }),
        Place::Flushed => {
            let socket = subject.downgrade();
            subject.flush_async(move |_| drop(socket.upgrade().map(|socket| call.make(&socket))));
        }
        Place::OnClient | Place::ServersDisconnect | Place::Connected => {}
    }
    match place {
        Place::Read | Place::Lines | Place::ByteLines | Place::Frames | Place::Raw => {
            other.send("one\ntwo\nthree\nfour").unwrap();
        }
        Place::HalfClose => other.shutdown_write().unwrap(),
        Place::Drain => {
            subject.set_high_water_mark(1);
            subject.send(vec![b'.'; 8 << 20]).unwrap();
        }
        Place::Disconnect | Place::ServersDisconnect => drop(other.close()),
        Place::Flushed | Place::OnClient | Place::Connected => {}
    }
}

fn try_one(kind: Kind, place: Place, name: &str, call: &Call) {
    let ends = connected(kind, place, call);
    if !matches!(place, Place::Disconnect | Place::ServersDisconnect | Place::OnClient | Place::Connected) {
        let trace = call.trace.clone();
        ends.subject.disconnect_cb(move |_, _| trace.note("disconnected"));
    }
    if !matches!(place, Place::OnClient | Place::Connected) {
        let trace = call.trace.clone();
        ends.subject.read(noting!(trace, "data", |_, _|));
    }
    if let Some(other) = &ends.other {
        other.read(|_, _| Ok(()));
    }
    provoke(place, &ends, call);
    until(|| call.trace.0.done.get());
    settle();
    let Ends { _server, subject, other } = ends;
    drop(other.as_ref().map(Socket::close));
    settle();
    drop(subject.abort());
    settle();
    let calls = call.trace.0.calls.borrow().clone();
    let end = calls.iter().position(|name| *name == "disconnected");
    assert!(end.is_none_or(|end| end + 1 == calls.len()), "{name} from {place:?} over {kind:?}: {calls:?}");
    assert!(!subject.is_open() && other.as_ref().is_none_or(|other| !other.is_open()));
    let weak = subject.downgrade();
    drop((subject, other, _server));
    settle();
    assert!(weak.upgrade().is_none(), "{name} from {place:?} over {kind:?}: it is kept");
}

fn from_everywhere(kind: Kind, methods: &[(&'static str, Method)], is_nested: bool) {
    on_own_context(|| {
        for place in PLACES {
            for (name, method) in methods {
                let trace = Trace(Rc::default());
                trace.0.is_nested.set(is_nested);
                let call = Call { method: *method, is_blocking: std::ptr::eq(methods, BLOCKING), trace };
                eprintln!("{name} from {place:?} over {kind:?}");
                try_one(kind, place, name, &call);
                let Call { trace, .. } = call;
                assert_eq!(Rc::strong_count(&trace.0), 1, "{name} from {place:?} over {kind:?}: a callback is left");
            }
        }
    });
}

macro_rules! from_every_callback {
    ($($test:ident: $kind:expr;)*) => {
        $(
            #[test]
            fn $test() {
                for methods in [ACTING, BLOCKING, AWAITED, ASKING] {
                    from_everywhere($kind, methods, false);
                }
                from_everywhere($kind, NESTED, true);
            }
        )*
    };
}

from_every_callback! {
    every_method_from_every_callback_over_tcp: Kind::Tcp;
    every_method_from_every_callback_over_unix: Kind::Unix;
    every_method_from_every_callback_over_tls: Kind::Tls;
}
