//! `netcat --udp`: what is read from standard input goes out in datagrams, and what comes in datagrams is written to
//! standard output. Nobody tells the end of datagrams: it is over half a second after the input's end and the last one.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

use network::{Error, Reason, Socket, UdpSocket};

use super::{MARK, PAUSE, tell_places};

/// The most of the input that goes into one datagram, in bytes.
const PORTION: usize = 8 << 10;

pub fn connect(address: &str) -> network::Result {
    network::mainloop::set_signal_handling(false);
    let socket = UdpSocket::builder().broadcast(true).bind(0)?;
    socket.connect(address)?;
    join(socket, &[])
}

/// With `echo`, sends each datagram back, until it is interrupted. Else whoever comes first is the peer.
pub fn listen(address: &str, echo: bool, verbose: bool) -> network::Result {
    let socket = UdpSocket::bind(address)?;
    if verbose {
        tell_places([socket.local()]);
    }
    let first = Rc::new(OnceCell::new());
    let place = first.clone();
    socket.read(move |socket, data, from| {
        if echo {
            return socket.send_to(data, from);
        }
        socket.unread();
        socket.connect(from)?;
        let _ = place.set(data.to_vec());
        network::endloop();
        Ok(())
    });
    network::fgloop();
    first.get().map_or(Ok(()), |data| join(socket, data))
}

/// The peer, and standard input and output as a socket of their own.
struct Join {
    socket: UdpSocket,
    terminal: Socket,
    /// Something has come or gone since this was last looked at.
    moved: Cell<bool>,
    outcome: RefCell<Option<network::Result>>,
}

fn join(socket: UdpSocket, first: &[u8]) -> network::Result {
    let (input, output) = (io::stdin().as_fd().try_clone_to_owned()?, io::stdout().as_fd().try_clone_to_owned()?);
    let terminal = Socket::builder().read_size(PORTION).wrap(input, output)?;
    terminal.send(first)?;
    let me = Rc::new(Join { socket, terminal, moved: Cell::new(false), outcome: RefCell::default() });
    let it = me.clone();
    me.socket.error_cb(move |_, error| it.end(Err(error)));
    let it = me.clone();
    me.terminal.half_close_cb(move |_| {
        it.await_pause();
        Ok(())
    });
    let it = me.clone();
    me.terminal.disconnect_cb(move |_, end| match end.reason {
        // Nobody reads our output any more.
        Reason::Failed(Error::Closed { .. }) => it.end(Ok(())),
        Reason::Failed(error) => it.end(Err(error)),
        _ => {}
    });
    me.clone().receive();
    me.clone().send();
    while me.outcome.borrow().is_none() {
        network::fgloop();
    }
    // Whoever has closed our output does not want the rest.
    let _ = me.terminal.flush();
    me.socket.close();
    me.terminal.abort();
    me.outcome.take().unwrap_or(Ok(()))
}

impl Join {
    fn end(&self, outcome: network::Result) {
        self.outcome.borrow_mut().get_or_insert(outcome);
        network::endloop();
    }

    /// Writes what comes. While the output is slow the system keeps what it has room for.
    fn receive(self: Rc<Self>) {
        let me = self.clone();
        self.socket.read(move |socket, data, _| {
            me.moved.set(true);
            me.terminal.send(data)?;
            if me.terminal.queued() > MARK {
                socket.unread();
                let me = me.clone();
                me.clone().terminal.flush_async(move |_| me.receive());
            }
            Ok(())
        });
    }

    /// Sends what is read, and waits for room where there is none.
    fn send(self: Rc<Self>) {
        let me = self.clone();
        self.terminal.read(move |terminal, data| {
            me.moved.set(true);
            match me.socket.send(data) {
                Err(Error::NotReady { .. }) => {
                    let (me, mut rest) = (me.clone(), data.to_vec());
                    rest.extend(terminal.unread());
                    glib::spawn_future_local(async move {
                        for portion in rest.chunks(PORTION) {
                            if let Err(error) = me.socket.send_future(portion).await {
                                return me.end(Err(error));
                            }
                        }
                        me.send();
                    });
                }
                Err(error) => me.end(Err(error)),
                Ok(()) => {}
            }
            Ok(())
        });
    }

    fn await_pause(self: Rc<Self>) {
        self.moved.set(false);
        glib::timeout_add_local_once(PAUSE, move || match self.moved.get() {
            true => self.await_pause(),
            false => self.end(Ok(())),
        });
    }
}
