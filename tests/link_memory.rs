//! The memory of links that are up, counted by the allocator of this program. It has one test, so that nobody else allocates.

#![allow(unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::*;
use network::link::State;
use network::{Link, Server, Socket};

struct Counting;

thread_local! {
    static IN_USE: Cell<isize> = const { Cell::new(0) };
}

fn add(bytes: isize) {
    // At the end of a thread there is nobody to count.
    let _ = IN_USE.try_with(|in_use| in_use.set(in_use.get() + bytes));
}

// SAFETY: all calls go to the system's allocator, as they come.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: the caller keeps to the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        // SAFETY: the caller keeps to the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The memory that each of many takes.
fn bytes_each<T>(make: impl Fn() -> T, is_ready: impl Fn(&T) -> bool) -> isize {
    const COUNT: isize = 256;
    let mut all = Vec::with_capacity(COUNT as usize);
    // What comes with the first use.
    for _ in 0..8 {
        all.push(make());
    }
    until(|| all.iter().all(&is_ready));
    network::fgloop_for(std::time::Duration::from_millis(20));
    all.clear();
    network::fgloop_for(std::time::Duration::from_millis(20));
    let before = IN_USE.get();
    for _ in 0..COUNT {
        all.push(make());
    }
    until(|| all.iter().all(&is_ready));
    network::fgloop_for(std::time::Duration::from_millis(20));
    (IN_USE.get() - before) / COUNT
}

#[test]
fn a_link_that_is_up_takes_little_more_than_its_socket() {
    on_own_context(|| {
        // Its connections are on another thread, which is not counted.
        let server = Server::builder().tls(false).address("127.0.0.1").threads(1, || |_| Ok(())).listen(0).unwrap();
        let address = format!("tcp://127.0.0.1:{}", server.port());
        let socket = || {
            let place = std::rc::Rc::new(std::cell::RefCell::new(None));
            let own = place.clone();
            Socket::connect_async(&*address, gio::Cancellable::NONE, move |result| drop(own.replace(result.ok())));
            place
        };
        let sockets = bytes_each(socket, |place| place.borrow().is_some());
        let link = || Link::new(&*address, |_| Ok(())).unwrap();
        let links = bytes_each(link, |link| link.state() == State::Up);
        println!("{sockets} bytes of a socket, {links} of a link");
        assert!(links - sockets <= 600, "{sockets} bytes of a socket, {links} of a link");
    });
}
