//! `--reconnect`: joins standard input and output to one connection after the other, until the input ends.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

use network::{Address, Error, Link, Socket, link::State, socket::SocketBuilder};

use super::{MARK, pump};

/// Input that comes while there is no connection waits for the next one; data on its way to one that ends is lost.
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
    let waiting = Rc::<RefCell<Vec<u8>>>::default();
    hold(&terminal, &waiting);
    let (down, gave_up) = ((terminal.clone(), has_ended.clone(), waiting.clone(), done.clone()), done.clone());
    let (joined, is_last, kept) = (terminal.clone(), has_ended.clone(), waiting.clone());
    let link = Link::builder()
        .socket(builder)
        .down_cb(move |link, told| {
            let (terminal, has_ended, waiting, done) = &down;
            hold(terminal, waiting);
            if has_ended.get() && told.was_up.is_some() {
                let done = done.clone();
                return terminal.flush_async(move |_| done(Ok(())));
            }
            // The last one is told at the end of this program.
            if link.state() != State::Over {
                eprintln!("netcat: {}", super::words::in_options(&told.to_string()));
            }
        })
        .gave_up_cb(move |_, error| gave_up(Err(error)))
        .start(address.clone(), move |peer| {
            greet(peer);
            peer.send(kept.take())?;
            pump(peer, &joined, Rc::new(|_| Ok(())));
            pump(&joined, peer, Rc::new(|_| Ok(())));
            joined.resume();
            if is_last.get() { peer.shutdown_write() } else { Ok(()) }
        })?;
    let (weak, ended) = (link.downgrade(), done.clone());
    terminal.half_close_cb(move |_| {
        has_ended.set(true);
        match weak.upgrade().and_then(|link| link.socket()) {
            // The end of this connection is awaited. What comes until then is still written.
            Some(peer) => peer.shutdown_write(),
            // The next one gets what waits, and its end is awaited.
            None if !waiting.borrow().is_empty() => Ok(()),
            None => {
                ended(Err(Error::other(format!("the input has ended without a connection to {address}"))));
                Ok(())
            }
        }
    });
    // The reader of our output has gone.
    terminal.disconnect_cb(move |_, _| done(Ok(())));
    network::fgloop();
    terminal.unset_disconnect_cb();
    link.close();
    Rc::into_inner(outcome).and_then(OnceCell::into_inner).unwrap_or(Ok(()))
}

/// Keeps input for the next connection. Of more than that, the rest waits in the terminal.
fn hold(terminal: &Socket, waiting: &Rc<RefCell<Vec<u8>>>) {
    let waiting = waiting.clone();
    terminal.read(move |terminal, data| {
        waiting.borrow_mut().extend_from_slice(data);
        if waiting.borrow().len() >= MARK {
            terminal.pause();
        }
        Ok(())
    });
    terminal.resume();
}
