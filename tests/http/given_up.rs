//! Exchanges that are given up: nothing of them stays.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use gio::prelude::*;
use network::Error;
use network::http::RequestBuilder;

use super::common::{TempDir, await_it, noise, on_own_context, until, until_on_threads};
use super::hostile::plain;
use super::scripted::{Server, response};

/// Returns how many file descriptors this process has: of a process with one test.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn alone(name: &str) -> bool {
    if std::env::var_os("NETWORK_ALONE").is_some() {
        return true;
    }
    let mut alone = super::common::command(std::env::current_exe().unwrap(), ["--exact", name]);
    super::common::run(alone.env("NETWORK_ALONE", "1"), "").assert_clean();
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

#[test]
fn many_requests_and_resets_among_them() {
    on_own_context(|| {
        // Every 50th connection is reset when it gets its second request.
        let server = Server::new(|mut peer| {
            while let Some(request) = peer.request() {
                let number = request.split(' ').nth(1).unwrap()[1..].to_owned();
                if number.parse::<usize>().unwrap() % 100 == 99 && !request.contains("POST") {
                    // A stale connection, as far as the client can see.
                    return if peer.number % 2 == 0 { peer.reset() } else { peer.end() };
                }
                peer.ok(&number);
            }
        });
        let client = plain().build();
        let ask = |number: usize| {
            let client = client.clone();
            let url = server.url(&format!("/{number}"));
            async move { client.get(url).send_future().await?.text_future().await }
        };
        let mut lost = 0;
        for batch in 0..30 {
            let all = (0..100).map(|number| ask(batch * 100 + number));
            for (number, result) in await_it(futures_util::future::join_all(all)).into_iter().enumerate() {
                match result {
                    Ok(text) => assert_eq!(text, (batch * 100 + number).to_string()),
                    Err(Error::Closed { .. } | Error::Reset { .. }) if number == 99 => lost += 1,
                    Err(error) => panic!("{number}: {error}"),
                }
            }
        }
        assert_eq!(lost, 30, "each of them fails twice, and none else");
        let posted = server.seen().iter().filter(|request| request.contains(" /99 ")).count();
        assert_eq!(posted, 2, "once more, and not for ever");
    });
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
