//! Connecting: every way it can go wrong, and that nothing stays behind.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use gio::prelude::*;
use network::{Address, Error, Server, Socket};

use crate::common::{await_it, black_hole};
use crate::util::*;

/// A port where nobody listens.
fn dead_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_refused_connect_says_so() {
    on_own_context(|| {
        let port = dead_port();
        let expected = format!("cannot connect to localhost:{port}: Connection refused");
        let address = format!("localhost:{port}");
        assert_eq!(Socket::connect(address.as_str()).unwrap_err().to_string(), expected);
        assert_eq!(try_connect(Socket::builder(), &address).unwrap_err().to_string(), expected);
        let error = glib::MainContext::ref_thread_default().block_on(Socket::connect_future(address.as_str()));
        assert!(matches!(error, Err(Error::Refused { .. })));

        let path = fresh_path("nobody");
        let error = Socket::connect(path.as_path()).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    });
}

#[test]
fn an_unreachable_host_says_so() {
    on_own_context(|| {
        // Reserved and never routed.
        let error = Socket::builder().connect_timeout(Duration::from_secs(5)).connect("[100::1]:1").unwrap_err();
        assert!(
            matches!(error, Error::Unreachable { .. } | Error::TimedOut { .. }),
            "a machine with a default route for IPv6 can only wait: {error}"
        );
        let error = Socket::connect("255.255.255.255:1").unwrap_err();
        assert!(error.to_string().contains("255.255.255.255:1"), "{error}");
    });
}

#[test]
fn malformed_addresses_are_errors_that_quote_them() {
    on_own_context(|| {
        let long = format!("/{}", "x".repeat(200));
        for text in
            ["", ":", "host:", "host:99999", "nosuchservice", "|", "a\0b", "./a\0b", &long, "http://", "https:///x"]
        {
            let error = Socket::connect(text).unwrap_err();
            assert!(matches!(error, Error::Address { .. }), "{text:?}: {error}");
            assert!(error.to_string().contains(&format!("{text:?}")), "{text:?}: {error}");
            assert!(
                matches!(Server::builder().tls(false).listen(text, |_| Ok(())), Err(Error::Address { .. })),
                "{text:?}"
            );
            assert!(matches!(try_connect(Socket::builder(), text), Err(Error::Address { .. })), "{text:?}");
        }
    });
}

#[test]
fn a_scheme_that_cannot_be_kept_says_what_to_write() {
    on_own_context(|| {
        for (text, expected) in [
            ("foo://host", "expected host:port"),
            ("httsp://host:8443/x", "expected host:8443"),
            ("TCP://host/path", "as in TCP://host:1234"),
            ("tls://[::1]", "as in tls://[::1]:1234"),
            ("ftpes://host", "takes an FTP client"),
            ("smtp+starttls://host:25", "takes an SMTP client"),
            ("unix:///run/app.sock", "expected the path alone"),
            ("udp://127.0.0.1:1", "UdpSocket"),
        ] {
            for result in [Socket::connect(text), try_connect(Socket::builder(), text)] {
                let error = result.unwrap_err();
                assert!(matches!(error, Error::Address { .. }), "{error:?}");
                let error = error.to_string();
                assert!(error.contains(expected), "{error}");
            }
        }
        for text in ["udp://127.0.0.1:0", "http://127.0.0.1", "tcp://127.0.0.1:0"] {
            let error = Server::builder().tls(false).bind(text).map(drop).unwrap_err();
            assert!(matches!(error, Error::Address { .. }), "{error:?}");
            let error = error.to_string();
            assert!(error.contains("cannot listen on a URL") && error.contains("host:port"), "{error}");
        }
        let error = Server::builder().tls(false).bind("srv:x.example.org").map(drop).unwrap_err().to_string();
        assert!(error.contains("cannot listen on SRV records"), "{error}");
        let socket = network::UdpSocket::bind("127.0.0.1:0").unwrap();
        for result in
            [socket.send_to("x", "srv:x.example.org"), network::UdpSocket::bind("srv:x.example.org").map(drop)]
        {
            assert!(matches!(result, Err(Error::Address { .. })), "{result:?}");
        }
    });
}

#[test]
fn a_name_that_does_not_exist_says_so() {
    on_own_context(|| {
        for result in
            [Socket::connect("no.such.host.invalid:1"), try_connect(Socket::builder(), "no.such.host.invalid:1")]
        {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Lookup { .. }), "{error:?}");
            assert!(error.to_string().contains("no.such.host.invalid:1"), "{error}");
        }
        // Of a URL, the host is named.
        let url = "ftp://no.such.host.invalid/pub/file";
        for result in [Socket::connect(url), try_connect(Socket::builder(), url)] {
            let error = result.unwrap_err();
            assert!(matches!(&error, Error::Lookup { address, .. } if address == "no.such.host.invalid"), "{error}");
        }
    });
}

#[test]
fn the_second_address_is_tried_when_the_first_refuses() {
    on_own_context(|| {
        let server = Server::builder().tls(false).address("127.0.0.1").listen(0, |_| Ok(())).unwrap();
        let dead: SocketAddr = format!("127.0.0.1:{}", dead_port()).parse().unwrap();
        let alive: SocketAddr = format!("127.0.0.1:{}", server.port()).parse().unwrap();
        let both = Address::try_from(&[dead, alive][..]).unwrap();
        assert_eq!(Socket::builder().tls(false).connect(both).unwrap().remote().inet(), Some(alive));
        // And localhost, which is ::1 first, where this server does not listen.
        let socket = Socket::builder().tls(false).connect(("localhost", server.port())).unwrap();
        assert_eq!(socket.remote().inet(), Some(alive));
    });
}

#[test]
fn the_second_address_is_tried_when_the_first_is_silent() {
    on_own_context(|| {
        let (silent, _held) = black_hole();
        let server = Server::builder().tls(false).address("127.0.0.1").listen(0, |_| Ok(())).unwrap();
        let alive: SocketAddr = format!("127.0.0.1:{}", server.port()).parse().unwrap();
        let both = Address::try_from(&[silent, alive][..]).unwrap();
        let started = Instant::now();
        let socket = Socket::builder().tls(false).connect(both).unwrap();
        assert_eq!(socket.remote().inet(), Some(alive));
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(250) && took < Duration::from_secs(3), "{took:?}");
    });
}

#[test]
fn a_silent_host_runs_into_the_time_limit() {
    on_own_context(|| {
        let (silent, _held) = black_hole();
        let builder = || Socket::builder().connect_timeout(Duration::from_millis(50));
        for result in [builder().connect(silent), try_connect(builder(), &silent.to_string())] {
            let error = result.unwrap_err();
            assert_eq!(error.to_string(), format!("timed out after 50 ms while connecting to {silent}"));
        }
    });
}

#[test]
fn cancelling_works_at_any_moment() {
    on_own_context(|| {
        let (silent, _held) = black_hole();
        let outcome = |result: &Rc<RefCell<Option<network::Result<Socket>>>>| {
            until(|| result.borrow().is_some());
            result.take().unwrap().unwrap_err()
        };
        let start = |cancellable: &gio::Cancellable| {
            let result = Rc::new(RefCell::new(None));
            let place = result.clone();
            Socket::connect_async(silent, Some(cancellable), move |result| {
                assert!(place.replace(Some(result)).is_none(), "called once");
            });
            result
        };
        // Before.
        let cancellable = gio::Cancellable::new();
        cancellable.cancel();
        let result = start(&cancellable);
        assert!(result.borrow().is_none(), "not from within the call");
        assert!(matches!(outcome(&result), Error::Cancelled { .. }));
        // At once after.
        let cancellable = gio::Cancellable::new();
        let result = start(&cancellable);
        cancellable.cancel();
        assert!(result.borrow().is_none(), "not from within cancel()");
        assert!(matches!(outcome(&result), Error::Cancelled { .. }));
        // In the middle, from another thread.
        let cancellable = gio::Cancellable::new();
        let result = start(&cancellable);
        settle();
        let thread = std::thread::spawn({
            let cancellable = cancellable.clone();
            move || cancellable.cancel()
        });
        assert!(matches!(outcome(&result), Error::Cancelled { .. }));
        thread.join().unwrap();
        // After the end it does nothing.
        let (_server, address) = serve(Kind::Tcp, |_| Ok(()));
        let cancellable = gio::Cancellable::new();
        let connected = Rc::new(Cell::new(false));
        let flag = connected.clone();
        Socket::connect_async(address.as_str(), Some(&cancellable), move |result| {
            flag.set(result.is_ok());
        });
        until(|| connected.get());
        cancellable.cancel();
        settle();
    });
}

#[test]
fn a_dropped_future_cancels() {
    on_own_context(|| {
        let (silent, _held) = black_hole();
        let context = glib::MainContext::ref_thread_default();
        let task = context.spawn_local(async move { Socket::connect_future(silent).await.map(drop) });
        settle();
        task.abort();
        drop(task);
        settle();
        // The lookup too.
        let task = context.spawn_local(async move { Socket::connect_future("some.host.invalid:1").await.map(drop) });
        settle();
        task.abort();
        drop(task);
        settle();
    });
}

#[test]
fn a_future_connects() {
    for_each_kind(|kind| {
        let (_server, address) = serve(kind, |socket| socket.sendline("welcome"));
        let context = glib::MainContext::ref_thread_default();
        let socket = context.block_on(client(kind).connect_future(address.as_str())).unwrap();
        let lines = log_lines(&socket);
        until(|| lines.len() == 1);
    });
}

#[test]
fn all_ports_have_names() {
    on_own_context(|| {
        // Whether somebody listens there or not: the name was understood.
        for name in ["http", "localhost:ipp"] {
            let result = Socket::connect(name);
            assert!(!matches!(result, Err(Error::Address { .. })), "{result:?}");
        }
    });
}

#[test]
fn urls_decide_on_tls() {
    on_own_context(|| {
        let (plain, _) = serve(Kind::Tcp, |_| Ok(()));
        assert!(Socket::connect(format!("http://localhost:{}/path", plain.port())).is_ok());
        assert!(Socket::connect(format!("ws://localhost:{}", plain.port())).is_ok());
        let error = Socket::connect(format!("https://localhost:{}/path", plain.port())).unwrap_err();
        assert!(error.to_string().contains("connect_async"), "TLS, with a server of this same thread: {error}");
        let (_secure, address) = serve(Kind::Tls, |socket| {
            assert!(socket.is_tls());
            Ok(())
        });
        assert!(connect(&address).is_tls());
        // Neither the last letter nor an unknown word decides.
        for scheme in ["redis", "postgres", "nats", "tcp"] {
            assert!(!Socket::connect(format!("{scheme}://localhost:{}", plain.port())).unwrap().is_tls(), "{scheme}");
        }
        for scheme in ["rediss", "gemini", "ssl", "tls"] {
            let error = Socket::connect(format!("{scheme}://localhost:{}", plain.port())).unwrap_err();
            assert!(error.to_string().contains("connect_async"), "TLS, with a server of this same thread: {error}");
        }
        for scheme in ["httsp", "foo"] {
            let error = Socket::connect(format!("{scheme}://localhost:{}", plain.port())).unwrap_err();
            assert!(error.to_string().contains(&format!("expected localhost:{}", plain.port())), "{error}");
        }
    });
}

#[test]
fn sockets_cannot_be_made_on_a_context_that_another_thread_runs() {
    // An engine that lives on one thread is not there for another.
    let context = glib::MainContext::new();
    let server = context.with_thread_default(|| Server::builder().tls(false).listen(0, |_| Ok(())).unwrap()).unwrap();
    let other = context.clone();
    std::thread::spawn(move || {
        let result =
            other.with_thread_default(|| Server::builder().tls(false).listen(0, |_| Ok(())).map(drop)).unwrap();
        assert!(matches!(result, Err(Error::WrongThread)), "{result:?}");
    })
    .join()
    .unwrap();
    drop(server);
}

#[test]
fn a_context_may_be_used_again_when_its_thread_has_ended() {
    let context = glib::MainContext::new();
    for _ in 0..2 {
        let context = context.clone();
        std::thread::spawn(move || {
            context
                .with_thread_default(|| {
                    let (_server, address) = serve(Kind::Tcp, |_| Ok(()));
                    connect(&address);
                })
                .unwrap();
        })
        .join()
        .unwrap();
    }
}

#[test]
fn the_progress_is_told_in_order_and_nothing_after_the_result() {
    use network::socket::ConnectProgress;

    on_own_context(|| {
        for kind in [Kind::Tcp, Kind::Tls, Kind::Unix] {
            let (_server, address) = serve(kind, |_| Ok(()));
            let log = Log::<String>::new();
            let (steps, done) = (log.clone(), log.clone());
            let builder = client(kind).progress_cb(move |step| steps.add(format!("{step:?}")));
            builder.connect_async(&*address, gio::Cancellable::NONE, move |result| {
                done.add(result.map_or_else(|error| error.to_string(), |_| "done".into()));
            });
            assert_eq!(log.len(), 0, "not from inside the call");
            until(|| log.all().last().is_some_and(|last| last == "done"));
            settle();
            let expected: &[&str] = match kind {
                Kind::Tcp => &["Connecting", "done"],
                Kind::Tls => &["Connecting", "Handshaking", "done"],
                Kind::Unix => &["done"],
            };
            assert_eq!(log.all(), expected, "{kind:?}");
        }

        let log = Log::<String>::new();
        let (steps, done) = (log.clone(), log.clone());
        let builder = Socket::builder().progress_cb(move |step| steps.add(format!("{step:?}")));
        builder.connect_async("nobody.invalid:1", gio::Cancellable::NONE, move |_| done.add("done"));
        until(|| log.len() == 2);
        assert_eq!(log.all(), ["LookingUp", "done"]);

        // A callback may end what it hears of.
        let (_server, address) = serve(Kind::Tls, |_| Ok(()));
        let cancellable = gio::Cancellable::new();
        let cancel = cancellable.clone();
        let builder = client(Kind::Tls).progress_cb(move |step| {
            if step == ConnectProgress::Handshaking {
                cancel.cancel();
            }
        });
        let log = Log::<String>::new();
        let done = log.clone();
        builder.connect_async(&*address, Some(&cancellable), move |result| done.add(result.unwrap_err().to_string()));
        until(|| log.len() == 1);
        assert!(log.all()[0].contains("cancelled"), "{:?}", log.all());
    });
}

#[test]
fn a_scheme_that_stands_for_tls_is_not_overruled() {
    on_own_context(|| {
        let server = Server::builder().tls(false).address("127.0.0.1").listen(0, |_| Ok(())).unwrap();
        for scheme in ["https", "SMTPS", "tls"] {
            let address = format!("{scheme}://127.0.0.1:{}", server.port());
            for error in [
                Socket::builder().tls(false).connect(&address).unwrap_err(),
                await_it(Socket::builder().tls(false).connect_future(&address)).unwrap_err(),
            ] {
                assert!(matches!(error, Error::InvalidOption(_)), "{error}");
                assert!(error.to_string().contains("stands for TLS from the start"), "{error}");
            }
        }
        await_it(Socket::builder().tls(false).connect_future(format!("http://127.0.0.1:{}", server.port()))).unwrap();
    });
}
