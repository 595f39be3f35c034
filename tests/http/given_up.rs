//! Exchanges that are given up: nothing of them stays.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use gio::prelude::*;
use network::Error;
use network::http::RequestBuilder;

use super::common::{TempDir, await_it, noise, on_own_context, until, until_on_threads};
use super::hostile::plain;
use super::scripted::{Server, response};

/// Returns how many file descriptors this process has: of a process with one test.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

pub fn alone(name: &str) -> bool {
    if std::env::var_os("NETWORK_ALONE").is_some() {
        return true;
    }
    let mut alone = super::common::command(std::env::current_exe().unwrap(), ["--exact", name, "--nocapture"]);
    let output = super::common::run(alone.env("NETWORK_ALONE", "1"), "");
    assert!(output.status.success(), "{}{}", output.text(), output.stderr);
    false
}

/// A server whose connections are counted as long as they are open.
fn counting(open: &Arc<AtomicUsize>) -> Server {
    let open = open.clone();
    Server::new(move |mut peer| {
        open.fetch_add(1, Ordering::SeqCst);
        while let Some(request) = peer.request() {
            let redirect = request.contains(" /first ");
            let answer = if redirect {
                response("302 Found", "Location: /second\r\n", "gone")
            } else {
                response("200 OK", "", &"x".repeat(100_000))
            };
            for piece in answer.as_bytes().chunks(20_000) {
                if !peer.say(piece) {
                    break;
                }
            }
        }
        drop(peer);
        open.fetch_sub(1, Ordering::SeqCst);
    })
}

#[test]
fn dropping_at_any_poll_leaves_no_connection() {
    if !alone("given_up::dropping_at_any_poll_leaves_no_connection") {
        return;
    }
    let open = Arc::new(AtomicUsize::new(0));
    let server = counting(&open);
    let directory = TempDir::new();
    let body = noise(200_000, 1);
    let requests: [&dyn Fn(&network::http::Client) -> RequestBuilder; 3] = [
        &|client| client.get(server.url("/first")),
        &|client| client.post(server.url("/second")).body(body.clone()),
        &|client| client.get(server.url("/second")).resume(true),
    ];
    let mut before = None;
    for (number, request) in requests.iter().enumerate() {
        let mut polls = 0;
        loop {
            let (is_done, seen) = on_own_context(|| {
                let client = plain().build();
                let request = request(&client);
                let whole = async {
                    if number == 2 {
                        return request.download_future(directory.path("file")).await.map(drop);
                    }
                    let response = request.send_future().await?;
                    while response.chunk_future().await?.is_some() {}
                    Ok(())
                };
                let mut whole = Some(Box::pin(whole));
                let count = Rc::new(Cell::new(0));
                let seen = count.clone();
                let is_done = await_it(std::future::poll_fn(move |context| {
                    count.set(count.get() + 1);
                    match whole.as_mut().unwrap().as_mut().poll(context) {
                        Poll::Ready(result) => {
                            result.unwrap();
                            Poll::Ready(true)
                        }
                        Poll::Pending if count.get() > polls => {
                            whole.take();
                            Poll::Ready(false)
                        }
                        Poll::Pending => Poll::Pending,
                    }
                }));
                drop(client);
                until_on_threads(|| open.load(Ordering::SeqCst) == 0);
                (is_done, seen.get())
            });
            // A file that is being written to the disk is closed after that, on a thread.
            let most = *before.get_or_insert_with(descriptors);
            let late = std::time::Instant::now() + super::common::LIMIT;
            while descriptors() > most {
                assert!(
                    std::time::Instant::now() < late,
                    "{} descriptors after {seen} polls of {number}",
                    descriptors()
                );
                std::thread::yield_now();
            }
            if is_done {
                break;
            }
            polls = seen;
        }
        assert!(polls >= 3, "{polls} polls of request {number}");
    }
}

#[test]
fn dropping_a_response_from_its_callbacks() {
    on_own_context(|| {
        let open = Arc::new(AtomicUsize::new(0));
        let server = counting(&open);
        let client = plain().build();
        let calls = Rc::new(Cell::new(0));
        for _ in 0..3 {
            let count = calls.clone();
            client.get(server.url("/first")).send_async(gio::Cancellable::NONE, move |response| {
                drop(response.unwrap());
                count.set(count.get() + 1);
            });
        }
        until(|| calls.get() == 3);
        // Cancelled before and after it has begun.
        for early in [false, true] {
            let cancellable = gio::Cancellable::new();
            let result = Rc::new(Cell::new(None));
            let place = result.clone();
            client
                .get(server.url("/first"))
                .send_async(Some(&cancellable), move |result| place.set(Some(result.map(drop))));
            if !early {
                network::iteration(false);
            }
            cancellable.cancel();
            let told = || {
                let told = result.take();
                let is_told = told.is_some();
                result.set(told);
                is_told
            };
            until(told);
            assert!(matches!(result.take(), Some(Err(Error::Cancelled { .. }))));
        }
        drop(client);
        until_on_threads(|| open.load(Ordering::SeqCst) == 0);
    });
}

#[test]
fn a_place_in_the_queue_is_given_up() {
    on_own_context(|| {
        let server = Server::answering(|_| response("200 OK", "", "x"));
        let client = plain().per_host(1).build();
        let first = await_it(client.get(server.url("/")).send_future()).unwrap();
        let ask = || async { client.get(server.url("/")).send_future().await?.bytes_future().await };
        let mut context = Context::from_waker(Waker::noop());
        {
            let mut waiting = pin!(ask());
            assert!(waiting.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(await_it(first.bytes_future()).unwrap(), b"x");
        assert_eq!(await_it(ask()).unwrap(), b"x");
        assert_eq!(server.accepted(), 1);
    });
}

#[test]
fn a_response_is_aborted() {
    on_own_context(|| {
        let server = Server::new(|mut peer| {
            while peer.request().is_some() && peer.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart") {}
        });
        let client = plain().per_host(1).build();
        let ask = || await_it(client.get(server.url("/")).send_future()).unwrap();
        for pauses in [false, true] {
            let response = ask();
            let (pieces, results) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(Vec::new())));
            let (seen, told) = (pieces.clone(), results.clone());
            response.read(move |response, _| {
                seen.set(seen.get() + 1);
                if pauses {
                    response.pause();
                }
                Ok(())
            });
            response.finished_cb(move |_, result| told.borrow_mut().push(result));
            until(|| pieces.get() == 1);
            response.abort();
            response.abort();
            assert!(results.borrow().is_empty(), "not from inside the call");
            until(|| !results.borrow().is_empty());
            assert!(matches!(results.borrow()[..], [Err(Error::Cancelled { .. })]), "{results:?}");
        }
        // Its place is free, and who asks for the body is told.
        let response = ask();
        response.abort();
        assert!(matches!(await_it(response.bytes_future()), Err(Error::Cancelled { .. })));
        let response = ask();
        assert_eq!(await_it(response.chunk_future()).unwrap().unwrap(), b"part");
        let mut rest = pin!(response.chunk_future());
        assert!(rest.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        response.abort();
        assert!(matches!(await_it(rest), Err(Error::Cancelled { .. })));
        assert_eq!(server.accepted(), 4);
    });
    // What has come as a whole stays.
    let server = Server::answering(|_| response("200 OK", "", "x"));
    on_own_context(|| {
        let response = await_it(plain().build().get(server.url("/")).send_future()).unwrap();
        assert_eq!(await_it(response.bytes_future()).unwrap(), b"x");
        response.abort();
        assert!(matches!(await_it(response.bytes_future()), Err(Error::Unsupported(_))));
    });
    let response = plain().build().get(server.url("/")).send().unwrap();
    response.abort();
    assert!(response.bytes().is_ok_and(|bytes| bytes == b"x") || response.bytes().is_err());
}

#[test]
fn nothing_starts_a_thread() {
    if !alone("given_up::nothing_starts_a_thread") {
        return;
    }
    // The test runner has threads of its own, and so has the server.
    on_own_context(|| {
        let server = Server::answering(|_| response("200 OK", "", "x"));
        let threads = || {
            let all = std::fs::read_dir("/proc/self/task").unwrap();
            let name = |task: std::io::Result<std::fs::DirEntry>| {
                std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default()
            };
            let mut names: Vec<_> = all.map(name).collect();
            names.sort();
            names.dedup();
            names
        };
        let client = plain().build();
        let before = threads();
        await_it(async { client.get(server.url("/")).send_future().await?.bytes_future().await }).unwrap();
        client.get(server.url("/")).send().unwrap().bytes().unwrap();
        assert_eq!(threads(), before);
    });
}

/// Where the server cuts a connection, by the number of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Never,
    /// It has received the request, and says nothing.
    Asked,
    /// In the head of the response.
    MidHead,
    /// In its body.
    MidBody,
    /// After the response, so that the next request finds the connection gone.
    After,
}

fn cut(number: usize) -> Cut {
    match number % 400 {
        99 => Cut::Asked,
        199 => Cut::MidHead,
        299 => Cut::MidBody,
        399 => Cut::After,
        _ => Cut::Never,
    }
}

/// What the server did with a request that it received.
#[derive(Clone, Copy, Debug)]
struct Served {
    /// It was the first of its connection.
    is_first: bool,
}

#[test]
fn ten_thousand_requests_and_a_reset_in_a_hundred() {
    const REQUESTS: usize = 10_000;
    const AT_ONCE: usize = 100;
    // Each request has a number, so that all that came of it is known.
    let served = Arc::new(Mutex::new(vec![Vec::<Served>::new(); REQUESTS]));
    let log = served.clone();
    let server = Server::new(move |mut peer| {
        let mut is_first = true;
        while let Some(request) = peer.request() {
            let number: usize = request.split(' ').nth(1).unwrap()[1..].parse().unwrap();
            assert!(request.starts_with("GET") || request.ends_with(&format!("\r\n\r\nbody {number}")));
            let cut = {
                let mut log = log.lock().unwrap();
                // Only the first time: a second try must have a chance.
                let cut = if log[number].is_empty() { cut(number) } else { Cut::Never };
                log[number].push(Served { is_first });
                cut
            };
            is_first = false;
            let answer = response("200 OK", "", &number.to_string());
            match cut {
                Cut::Never | Cut::After => peer.say(answer),
                Cut::Asked => true,
                Cut::MidHead => peer.say(&answer[..20]),
                Cut::MidBody => peer.say(&answer[..answer.len() - 1]),
            };
            if cut != Cut::Never {
                // By turns with and without a reset.
                return if (number / 400).is_multiple_of(2) { peer.reset() } else { peer.end() };
            }
        }
    });
    let results = on_own_context(|| {
        let client = plain().build();
        let ask = |number: usize| {
            let url = server.url(&format!("/{number}"));
            // Every third may not be sent twice.
            let request = match number % 3 {
                0 => client.post(url).body(format!("body {number}")),
                _ => client.get(url),
            };
            async move { request.send_future().await?.text_future().await }
        };
        let mut results = Vec::new();
        for batch in 0..REQUESTS / AT_ONCE {
            let all = (batch * AT_ONCE..(batch + 1) * AT_ONCE).map(ask);
            results.extend(await_it(futures_util::future::join_all(all)));
        }
        results
    });
    let served = served.lock().unwrap();
    let (mut failed, mut repeated) = (0, 0);
    // Connections that were cut after a response: a request that may not be sent twice fails there, if it is the next.
    let after = (0..REQUESTS).filter(|number| cut(*number) == Cut::After).count();
    let mut met_after = 0;
    for (number, (result, served)) in results.iter().zip(&*served).enumerate() {
        let told = format!("{number} {served:?} {result:?}");
        let is_post = number % 3 == 0;
        assert!(served.len() <= if is_post { 1 } else { 2 }, "sent too often: {told}");
        repeated += usize::from(served.len() == 2);
        match result {
            Ok(text) => assert_eq!(*text, number.to_string(), "{told}"),
            Err(Error::Closed { .. } | Error::Reset { .. }) => failed += 1,
            Err(_) => panic!("{told}"),
        }
        match (cut(number), served.first()) {
            (Cut::Never | Cut::After, Some(_)) => assert!(result.is_ok(), "{told}"),
            (_, None) => {
                assert!(is_post && result.is_err(), "lost: {told}");
                met_after += 1;
            }
            // Nothing of a response has come.
            (Cut::Asked, Some(first)) => {
                assert_eq!(result.is_ok(), !is_post && !first.is_first, "{told}");
                assert_eq!(served.len(), 1 + usize::from(result.is_ok()), "{told}");
            }
            // A reset can overtake what came before it.
            (Cut::MidHead | Cut::MidBody, Some(_)) => {
                assert!(result.is_err() || !is_post && served.len() == 2, "{told}");
            }
        }
    }
    assert!(met_after <= after, "{met_after} of {after}");
    assert!(failed >= REQUESTS / 400 && repeated >= REQUESTS / 1000, "{failed} failed, {repeated} were sent twice");
}

#[test]
fn a_panic_in_a_callback_comes_out_of_the_loop() {
    on_own_context(|| {
        let open = Arc::new(AtomicUsize::new(0));
        let server = counting(&open);
        let client = plain().build();
        let request = || client.get(server.url("/second"));
        for kind in 0..4 {
            let panics = |_: &network::http::Response, _: &[u8]| -> network::Result { panic!("on purpose") };
            match kind {
                0 => request().send_async(gio::Cancellable::NONE, |_| panic!("on purpose")),
                1 => request().send_async(gio::Cancellable::NONE, move |response| response.unwrap().read(panics)),
                2 => request().progress(|_| panic!("on purpose")).send_async(gio::Cancellable::NONE, |_| {}),
                _ => request().send_async(gio::Cancellable::NONE, |response| {
                    let response = response.unwrap();
                    response.read(|_, _| Ok(()));
                    response.finished_cb(|_, _| panic!("on purpose"));
                }),
            }
            let loops = std::panic::AssertUnwindSafe(|| network::fgloop_for(super::common::LIMIT));
            let panic = std::panic::catch_unwind(loops).unwrap_err();
            assert_eq!(panic.downcast_ref::<&str>(), Some(&"on purpose"), "{kind}");
        }
        // It goes on.
        await_it(async { request().send_future().await?.bytes_future().await }).unwrap();
        drop(client);
        until_on_threads(|| open.load(Ordering::SeqCst) == 0);
    });
}

#[test]
fn one_client_on_two_main_contexts() {
    let server = Server::answering(|_| response("200 OK", "", "x"));
    let client = plain().build();
    let ask = || await_it(async { client.get(server.url("/")).send_future().await?.bytes_future().await }).unwrap();
    for _ in 0..2 {
        on_own_context(|| {
            let outer = glib::MainContext::ref_thread_default();
            ask();
            on_own_context(|| {
                ask();
                outer.with_thread_default(ask).unwrap();
                ask();
            });
        });
    }
    assert_eq!(server.accepted(), 4, "each context has its own connections, which end with it");
}

#[test]
fn a_thread_ends_with_its_shared_client() {
    let server = Server::answering(|_| response("200 OK", "", "x"));
    let url = server.url("/");
    let thread = std::thread::spawn(move || {
        on_own_context(|| {
            let first = network::http::get(&url).unwrap();
            let second = await_it(network::http::get_future(&url)).unwrap();
            (first.bytes().unwrap(), await_it(second.bytes_future()).unwrap())
        })
    });
    assert_eq!(thread.join().unwrap(), (b"x".to_vec(), b"x".to_vec()));
}
