//! `--reconnect`: joins standard input and output to one connection after the other, until the input ends.

use std::cell::{Cell, OnceCell};
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

use network::{Address, Link, Socket, socket::SocketBuilder};

use super::pump;

/// Input typed while there is no connection waits in the terminal; data on its way to one that ends is lost.
pub fn connect(builder: SocketBuilder, address: Address, greet: impl Fn(&Socket) + 'static) -> network::Result {
    let (input, output) = (io::stdin().as_fd().try_clone_to_owned()?, io::stdout().as_fd().try_clone_to_owned()?);
    let terminal = Socket::wrap(input, output)?;
    let outcome = Rc::new(OnceCell::new());
    let done = {
        let outcome = outcome.clone();
        move |result| {
            let _ = outcome.set(result);
            network::endloop();
        }
    };
    let has_ended = Rc::new(Cell::new(false));
    let (down, gave_up) = ((terminal.clone(), has_ended.clone(), done.clone()), done.clone());
    let (joined, is_last) = (terminal.clone(), has_ended.clone());
    let link = Link::builder()
        .socket(builder)
        .down_cb(move |_, told| {
            let (terminal, has_ended, done) = &down;
            terminal.pause();
            if has_ended.get() && told.was_up.is_some() {
                let done = done.clone();
                return terminal.flush_async(move |_| done(Ok(())));
            }
            eprintln!("netcat: {}", super::words::in_options(&told.to_string()));
        })
        .gave_up_cb(move |_, error| gave_up(Err(error)))
        .start(address, move |peer| {
            greet(peer);
            pump(peer, &joined, Rc::new(|_| Ok(())));
            pump(&joined, peer, Rc::new(|_| Ok(())));
            joined.resume();
            if is_last.get() { peer.shutdown_write() } else { Ok(()) }
        })?;
    let weak = link.downgrade();
    terminal.half_close_cb(move |_| {
        // The end of this connection, or of the next one, is awaited. What comes until then is still written.
        has_ended.set(true);
        weak.upgrade().and_then(|link| link.socket()).map_or(Ok(()), |peer| peer.shutdown_write())
    });
    // The reader of our output has gone.
    terminal.disconnect_cb(move |_, _| done(Ok(())));
    network::fgloop();
    terminal.unset_disconnect_cb();
    link.close();
    Rc::into_inner(outcome).and_then(OnceCell::into_inner).unwrap_or(Ok(()))
}
