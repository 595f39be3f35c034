//! `wrap` with two descriptors of different kinds: each side follows its own rules.

mod common;

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use common::{noise, on_own_context, run_loop, until};
use network::{Error, Reason, Socket};

/// An input that epoll watches by edges, beside an output that it does not: a full read does not mean that it is empty.
#[test]
fn an_input_that_does_not_block_is_read_to_the_end_beside_an_output_that_does() {
    on_own_context(|| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let null = File::options().write(true).open("/dev/null").unwrap();
        let sent = noise(1 << 20, 1);
        let writer = std::thread::spawn({
            let sent = sent.clone();
            move || theirs.write_all(&sent)
        });
        let received = Rc::new(RefCell::new(Vec::new()));
        let socket = Socket::wrap(ours, null).unwrap();
        socket.read({
            let received = received.clone();
            move |_, data| {
                received.borrow_mut().extend_from_slice(data);
                Ok(())
            }
        });
        socket.disconnect_cb(|_, _| network::endloop());
        run_loop();
        writer.join().unwrap().unwrap();
        assert!(*received.borrow() == sent, "{} of {} bytes", received.borrow().len(), sent.len());
    });
}

/// An error of the input is not one of the output.
#[test]
fn a_reset_of_the_input_is_told_as_a_reset() {
    on_own_context(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        (&ours).write_all(b"unread").unwrap();
        theirs.read_exact(&mut [0]).unwrap();
        ours.set_nonblocking(true).unwrap();
        let (_reader, writer) = std::io::pipe().unwrap();
        let socket = Socket::wrap(ours, writer).unwrap();
        socket.read(|_, _| Ok(()));
        let reset = Rc::new(Cell::new(false));
        socket.disconnect_cb({
            let reset = reset.clone();
            move |_, end| {
                reset.set(matches!(end.reason, Reason::Failed(Error::Reset { .. })));
                eprintln!("{}", end.reason);
                network::endloop();
            }
        });
        // With the rest unread, the system resets the connection.
        drop(theirs);
        run_loop();
        assert!(reset.get());
    });
}

/// The end of the output's reader ends the pair, with nothing to write.
#[test]
fn it_ends_when_nobody_reads_the_output() {
    on_own_context(|| {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let socket = Socket::wrap(ours, writer).unwrap();
        socket.read(|_, _| Ok(()));
        let closed = Rc::new(Cell::new(false));
        socket.disconnect_cb({
            let closed = closed.clone();
            move |_, end| {
                closed.set(matches!(end.reason, Reason::Failed(Error::Closed { .. })));
                network::endloop();
            }
        });
        drop(reader);
        run_loop();
        assert!(closed.get());
    });
}

/// Turns of the loop until it has nothing more to do.
fn turns() -> usize {
    (0..1000).take_while(|_| network::iteration(false)).count()
}

/// After the end of the input the loop waits in peace, though the descriptor goes on telling that it is at its end.
#[test]
fn an_input_at_its_end_wakes_nobody_while_the_output_lives_on() {
    for null in [true, false] {
        on_own_context(|| {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(writer);
            let input = if null { File::open("/dev/null").unwrap().into() } else { std::os::fd::OwnedFd::from(reader) };
            let (mut output, ours) = std::io::pipe().unwrap();
            let socket = Socket::wrap(input, ours).unwrap();
            socket.read(|_, _| Ok(()));
            let ended = Rc::new(Cell::new(false));
            socket.half_close_cb({
                let ended = ended.clone();
                move |_| {
                    ended.set(true);
                    Ok(())
                }
            });
            until(|| ended.get());
            assert!(turns() < 20, "null: {null}");
            socket.sendline("still there").unwrap();
            let mut line = [0; 12];
            output.read_exact(&mut line).unwrap();
            assert_eq!(&line, b"still there\n");

            // Nor while it is closed and waits for a slow reader.
            socket.send(noise(1 << 20, 2)).unwrap();
            socket.close();
            assert!(turns() < 20, "null: {null}, closed");
            socket.abort();
        });
    }
}
