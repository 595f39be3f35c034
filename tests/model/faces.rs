//! The library as the programs use it: each act is one call of its public interface, and what comes of it is seen.

use std::future::poll_fn;
use std::io::{self, BufRead, Read, Write};
use std::pin::Pin;
use std::rc::Rc;

use futures_util::{AsyncBufReadExt, AsyncReadExt, AsyncWrite};
use network::socket::Framing;
use network::{Error, Reason, Socket};

use crate::model::{Event, Face, Side, Told, content};
use crate::program::{Act, TO_THE_END};
use crate::world::{SCRIPTED, World};

/// The lines as frames.
const LINES: Framing = Framing::until(b'\n');

/// More than anything that is ever sent.
const ALL: usize = 64 << 20;

const BIG: usize = 70_000;

/// How an error is told. `None` for those that are no end: nothing is there yet, or there is no room.
fn told(error: &Error) -> Option<Told> {
    match error {
        Error::NotReady { .. } | Error::TimedOut { .. } | Error::QueueFull { .. } | Error::Unsupported(_) => None,
        Error::Closed { .. } => Some(Told::Closed),
        Error::Reset { .. } => Some(Told::Reset),
        Error::Truncated { .. } => Some(Told::CutOff),
        Error::LineTooLong { .. } | Error::FrameTooLong { .. } => Some(Told::TooLong),
        Error::Other(error) if error.to_string() == SCRIPTED => Some(Told::Own),
        other => Some(Told::Other(other.to_string())),
    }
}

fn told_io(error: &io::Error) -> Option<Told> {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => told(error),
        None => Some(Told::Other(error.to_string())),
    }
}

fn reason(reason: &Reason) -> Told {
    match reason {
        Reason::Remote => Told::Remote,
        Reason::Local => Told::Local,
        Reason::Failed(Error::Closed { .. }) => Told::Broken,
        Reason::Failed(error) => told(error).unwrap_or_else(|| Told::Other(error.to_string())),
        other => Told::Other(other.to_string()),
    }
}

/// What is sent next, looked at when it is taken: others may have sent before.
struct Next(Rc<World>, Side, usize);

impl AsRef<[u8]> for Next {
    fn as_ref(&self) -> &[u8] {
        self.0.next(self.1, self.2)
    }
}

impl World {
    /// The next part of what a side sends.
    pub fn next(&self, side: Side, count: usize) -> &'static [u8] {
        let rest = &content(side)[self.model.borrow().accepted(side)..];
        &rest[..count.min(rest.len())]
    }

    pub fn accepted(&self, side: Side, count: usize) {
        if count > 0 {
            self.see(side, &Event::Accepted(count));
        }
    }

    pub fn got(&self, side: Side, face: Face, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.see(side, &Event::Got(face, bytes));
        }
    }

    fn got_line(&self, side: Side, face: Face, line: &[u8]) {
        self.see(side, &Event::Got(face, &[line, b"\n"].concat()));
    }

    fn tell(&self, side: Side, face: Face, told: Option<Told>) {
        if let Some(told) = told.filter(|_| !self.end(side).broken.get()) {
            let open = self.is_open_by_any_handle(side);
            self.see(side, &Event::Told(face, told, open));
        }
    }

    fn is_open_by_any_handle(&self, side: Side) -> bool {
        let weak = self.end(side).weak.borrow();
        weak.as_ref().and_then(network::socket::WeakSocket::upgrade).is_some_and(|socket| socket.is_open())
    }

    // ---- what a program does ----

    pub fn act(self: &Rc<Self>, side: Side, act: Act) {
        match act {
            Act::Send(_)
            | Act::Sendline
            | Act::Sendframe
            | Act::SendSome(_)
            | Act::StdWrite(_)
            | Act::Flush
            | Act::FlushAsync
            | Act::SendFuture(_)
            | Act::FlushFuture
            | Act::AsyncWrite(_)
            | Act::AsyncClose
            | Act::ShutdownWrite => self.send(side, act),
            Act::Read
            | Act::Readlines
            | Act::ReadlinesBytes
            | Act::Readframes
            | Act::Rawread(_)
            | Act::Unread
            | Act::Pause
            | Act::Resume => {
                self.subscribe(side, act);
            }
            Act::Recv(_)
            | Act::RecvInto(_)
            | Act::RecvLine
            | Act::RecvFrame
            | Act::RecvExact(_)
            | Act::RecvUntil
            | Act::RecvToEnd
            | Act::StdRead(_)
            | Act::BufRead(_) => self.ask(side, act),
            Act::RecvFuture(_)
            | Act::RecvExactFuture(_)
            | Act::RecvLineFuture
            | Act::RecvFrameFuture
            | Act::Lines(_)
            | Act::Frames(_)
            | Act::Chunks(_)
            | Act::AsyncRead(_)
            | Act::Stream(_) => self.wait(side, act),
            Act::DropTasks => self.drop_tasks(side),
            Act::DisconnectCb | Act::UnsetDisconnectCb | Act::EndCb | Act::DrainCb | Act::UnsetDrainCb => {
                self.watch(side, act);
            }
            Act::Close | Act::Abort | Act::Drop => self.end_it(side, act),
            Act::RawWrite(_) | Act::RawRead(_) | Act::RawShutdown | Act::RawClose | Act::RawReset => {
                self.act_raw(side, act);
            }
            Act::Cut | Act::Break => self.break_below(side, act),
        }
    }

    // ---- sending ----

    fn send(self: &Rc<Self>, side: Side, act: Act) {
        match act {
            Act::Send(count) => {
                let bytes = self.next(side, count);
                let sent = self.call(side, |socket| socket.send(bytes));
                self.sent(side, Face::Send, bytes.len(), sent);
            }
            Act::Sendline | Act::Sendframe => {
                let rest = self.next(side, 10_000);
                let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return };
                let line = std::str::from_utf8(&rest[..end]).unwrap();
                let sent = self.call(side, |socket| match act {
                    Act::Sendframe => socket.sendframe(LINES, line),
                    _ => socket.sendline(line),
                });
                self.sent(side, Face::Send, end + 1, sent);
            }
            Act::SendSome(count) => {
                let bytes = self.next(side, count);
                match self.call(side, |socket| socket.send_some(bytes)) {
                    Some(Ok(count)) => self.accepted(side, count),
                    Some(Err(error)) => self.tell(side, Face::SendSome, told(&error)),
                    None => {}
                }
            }
            Act::StdWrite(count) => {
                let bytes = self.next(side, count);
                match self.call(side, |mut socket| socket.write(bytes)) {
                    Some(Ok(count)) => self.accepted(side, count),
                    Some(Err(error)) => self.tell(side, Face::StdWrite, told_io(&error)),
                    None => {}
                }
            }
            Act::Flush => {
                let flushed = self.call(side, Socket::flush);
                self.is_flushed(side, Face::Flush, flushed.as_ref());
                self.sent(side, Face::Flush, 0, flushed);
            }
            Act::FlushAsync => {
                let world = self.clone();
                self.call(side, |socket| {
                    socket.flush_async(move |result| {
                        let within_call = world.is_within_call();
                        world.see(side, &Event::Called { face: Face::FlushAsync, within_call, is_set: true });
                        world.sent(side, Face::FlushAsync, 0, Some(result));
                    });
                });
            }
            Act::ShutdownWrite => {
                let was_open = self.is_open(side);
                let shut = self.call(side, Socket::shutdown_write);
                if was_open && matches!(shut, Some(Ok(()))) {
                    self.see(side, &Event::ShutdownWrite);
                }
                self.sent(side, Face::ShutdownWrite, 0, shut);
            }
            _ => self.send_awaiting(side, act),
        }
    }

    fn sent(&self, side: Side, face: Face, count: usize, result: Option<network::Result>) {
        match result {
            Some(Ok(())) => self.accepted(side, count),
            Some(Err(error)) => self.tell(side, face, told(&error)),
            None => {}
        }
    }

    fn is_flushed(&self, side: Side, face: Face, result: Option<&network::Result>) {
        let queued = self.call(side, Socket::queued);
        if let (Some(Ok(())), Some(queued)) = (result, queued) {
            self.model.borrow_mut().flushed(side, face, queued);
        }
    }

    fn send_awaiting(self: &Rc<Self>, side: Side, act: Act) {
        let Some(socket) = self.call(side, Socket::clone) else { return };
        let world = self.clone();
        self.spawn(side, false, async move {
            match act {
                Act::SendFuture(count) => {
                    // More than that goes in pieces, between which others may send: that has tests of its own.
                    let count = count.min(world.send_limit);
                    let next = Next(world.clone(), side, count);
                    // Nothing is sent between its last look and this.
                    let sent = socket.send_future(next).await;
                    let count = world.next(side, count).len();
                    world.sent(side, Face::SendFuture, count, Some(sent));
                }
                Act::FlushFuture => {
                    let flushed = socket.flush_future().await;
                    world.is_flushed(side, Face::FlushFuture, Some(&flushed));
                    world.sent(side, Face::FlushFuture, 0, Some(flushed));
                }
                Act::AsyncWrite(count) => {
                    let mut writer = &socket;
                    let next = || world.next(side, count);
                    match poll_fn(|context| Pin::new(&mut writer).poll_write(context, next())).await {
                        Ok(count) => world.accepted(side, count),
                        Err(error) => world.tell(side, Face::AsyncWrite, told_io(&error)),
                    }
                }
                _ => {
                    let mut writer = &socket;
                    if socket.is_open() {
                        world.see(side, &Event::ShutdownWrite);
                    }
                    if let Err(error) = poll_fn(|context| Pin::new(&mut writer).poll_close(context)).await {
                        world.tell(side, Face::AsyncClose, told_io(&error));
                    }
                }
            }
        });
    }

    // ---- receiving by callback ----

    fn subscribe(self: &Rc<Self>, side: Side, act: Act) {
        let serial = self.next_serial();
        let end = self.end(side);
        if !matches!(act, Act::Unread | Act::Pause | Act::Resume) && self.is_open(side) {
            end.reader.set(serial);
            self.see(side, &Event::Reader);
        }
        let world = self.clone();
        let is_set = move |world: &World| world.end(side).reader.get() == serial;
        match act {
            Act::Read => {
                self.call(side, |socket| {
                    socket.read(move |_, data| {
                        world.called(side, Face::Read, is_set(&world), || world.got(side, Face::Read, data))
                    });
                });
            }
            Act::Readlines => {
                self.call(side, |socket| {
                    socket.readlines(move |_, line| {
                        let seen = || world.got_line(side, Face::Readlines, line.as_bytes());
                        world.called(side, Face::Readlines, is_set(&world), seen)
                    });
                });
            }
            Act::ReadlinesBytes => {
                self.call(side, |socket| {
                    socket.readlines_bytes(move |_, line| {
                        let seen = || world.got_line(side, Face::ReadlinesBytes, line);
                        world.called(side, Face::ReadlinesBytes, is_set(&world), seen)
                    });
                });
            }
            Act::Readframes => {
                self.call(side, |socket| {
                    socket.readframes(LINES, move |_, line| {
                        let seen = || world.got_line(side, Face::Readframes, line);
                        world.called(side, Face::Readframes, is_set(&world), seen)
                    });
                });
            }
            Act::Rawread(count) => {
                let left = self.call(side, |socket| {
                    socket.rawread(move |_| {
                        // At the end there is no time for crumbs.
                        let count = if world.ending.get() { BIG } else { count };
                        world.called(side, Face::Rawread, is_set(&world), || world.ask(side, Act::Recv(count)))
                    })
                });
                self.got(side, Face::Rawread, &left.unwrap_or_default());
            }
            Act::Unread => {
                if let Some(left) = self.call(side, Socket::unread) {
                    end.reader.set(0);
                    self.got(side, Face::Unread, &left);
                }
            }
            Act::Pause => {
                if self.call(side, Socket::pause).is_some() {
                    self.see(side, &Event::Paused(true));
                }
            }
            _ => {
                if self.call(side, Socket::resume).is_some() {
                    self.see(side, &Event::Paused(false));
                }
            }
        }
    }

    fn watch(self: &Rc<Self>, side: Side, act: Act) {
        let serial = self.next_serial();
        let world = self.clone();
        let end = self.end(side);
        match act {
            Act::DisconnectCb => {
                let set = self.call(side, |socket| {
                    world.end(side).disconnect.set(serial);
                    let world = world.clone();
                    socket.disconnect_cb(move |_, disconnect| {
                        let is_set = world.end(side).disconnect.replace(0) == serial;
                        let seen = || {
                            world.got(side, Face::DisconnectCb, &disconnect.leftover);
                            world.tell(side, Face::DisconnectCb, Some(reason(&disconnect.reason)));
                        };
                        // Nobody takes an error from it.
                        let _ = world.called(side, Face::DisconnectCb, is_set, seen);
                    });
                });
                if set.is_some() {
                    self.see(side, &Event::DisconnectCb(true));
                }
            }
            Act::UnsetDisconnectCb => {
                let unset = self.call(side, Socket::unset_disconnect_cb);
                if unset.is_some() {
                    end.disconnect.set(0);
                    self.see(side, &Event::DisconnectCb(false));
                }
            }
            Act::EndCb if self.is_open(side) => {
                end.end.set(serial);
                end.half_open.set(true);
                self.see(side, &Event::HalfOpen);
                self.call(side, |socket| {
                    socket.half_close_cb(move |_| {
                        let is_set = world.end(side).end.replace(0) == serial;
                        let result = world.called(side, Face::EndCb, is_set, || {});
                        if world.ending.get() {
                            world.act(side, Act::ShutdownWrite);
                        }
                        result
                    });
                });
            }
            Act::DrainCb if self.is_open(side) => {
                end.drain.set(serial);
                self.call(side, |socket| {
                    socket.drain_cb(move |_| {
                        let is_set = world.end(side).drain.get() == serial;
                        world.called(side, Face::DrainCb, is_set, || {})
                    });
                });
            }
            Act::UnsetDrainCb => {
                end.drain.set(0);
                self.call(side, Socket::unset_drain_cb);
            }
            _ => {}
        }
    }

    // ---- receiving by asking ----

    fn ask(self: &Rc<Self>, side: Side, act: Act) {
        let (face, received) = match act {
            Act::Recv(count) => (Face::Recv, self.call(side, |socket| socket.recv(count))),
            Act::RecvExact(count) => (Face::RecvExact, self.call(side, |socket| socket.recv_exact(count))),
            Act::RecvInto(count) => {
                let into = |socket: &Socket| {
                    let mut space = vec![0; count];
                    let got = socket.recv_into(&mut space);
                    got.map(|count| space[..count].to_vec())
                };
                (Face::RecvInto, self.call(side, into))
            }
            Act::RecvLine => {
                let line = self.call(side, Socket::recv_line);
                return self.asked_for_line(side, Face::RecvLine, line.map(|line| line.map(String::into_bytes)));
            }
            Act::RecvFrame => {
                let line = self.call(side, |socket| socket.recv_frame(LINES));
                return self.asked_for_line(side, Face::RecvFrame, line);
            }
            Act::RecvUntil => {
                let line = self.call(side, |socket| socket.recv_until("\n"));
                return self.asked_for_line(side, Face::RecvUntil, line);
            }
            Act::RecvToEnd => {
                let all = self.call(side, |socket| socket.recv_to_end(ALL));
                let is_all = matches!(all, Some(Ok(_)));
                self.asked(side, Face::RecvToEnd, all);
                return if is_all {
                    self.tell(side, Face::RecvToEnd, Some(Told::Closed))
                };
            }
            Act::StdRead(count) => {
                let mut space = vec![0; count];
                let got = self.call(side, |mut socket| Read::read(&mut socket, &mut space));
                return match got {
                    Some(Ok(0)) => self.tell(side, Face::StdRead, Some(Told::Closed)),
                    Some(Ok(count)) => self.got(side, Face::StdRead, &space[..count]),
                    Some(Err(error)) => self.tell(side, Face::StdRead, told_io(&error)),
                    None => {}
                };
            }
            Act::BufRead(count) => return self.look_and_consume(side, count),
            _ => return,
        };
        self.asked(side, face, received);
    }

    fn asked(&self, side: Side, face: Face, received: Option<network::Result<Vec<u8>>>) {
        match received {
            Some(Ok(bytes)) => self.got(side, face, &bytes),
            Some(Err(error)) => self.tell(side, face, told(&error)),
            None => {}
        }
    }

    fn asked_for_line(&self, side: Side, face: Face, line: Option<network::Result<Vec<u8>>>) {
        match line {
            Some(Ok(line)) => self.got_line(side, face, &line),
            other => self.asked(side, face, other),
        }
    }

    fn look_and_consume(&self, side: Side, most: usize) {
        let looked = self.call(side, |socket| {
            let mut reader = socket.reader();
            let bytes = reader.fill_buf().map(|bytes| bytes[..most.min(bytes.len())].to_vec());
            reader.consume(bytes.as_ref().map_or(0, Vec::len));
            bytes
        });
        match looked {
            Some(Ok(bytes)) if bytes.is_empty() => self.tell(side, Face::BufRead, Some(Told::Closed)),
            Some(Ok(bytes)) => self.got(side, Face::BufRead, &bytes),
            Some(Err(error)) => self.tell(side, Face::BufRead, told_io(&error)),
            None => {}
        }
    }

    // ---- receiving by awaiting ----

    fn wait(self: &Rc<Self>, side: Side, act: Act) {
        if let Act::Stream(count) = act {
            return self.wait_for_stream(side, count);
        }
        let Some(socket) = self.call(side, Socket::clone) else { return };
        let world = self.clone();
        let reads = matches!(act, Act::Lines(TO_THE_END) | Act::Frames(TO_THE_END) | Act::Chunks(TO_THE_END));
        self.spawn(side, reads, async move {
            match act {
                Act::RecvFuture(count) => {
                    let received = socket.recv_future(count).await;
                    world.asked(side, Face::RecvFuture, Some(received));
                }
                Act::RecvExactFuture(count) => {
                    let received = socket.recv_exact_future(count).await;
                    world.asked(side, Face::RecvExactFuture, Some(received));
                }
                Act::RecvLineFuture => {
                    let line = socket.recv_line_future().await.map(String::into_bytes);
                    world.asked_for_line(side, Face::RecvLineFuture, Some(line));
                }
                Act::RecvFrameFuture => {
                    let line = socket.recv_frame_future(LINES).await;
                    world.asked_for_line(side, Face::RecvFrameFuture, Some(line));
                }
                Act::Frames(count) => world.wait_for_frames(side, socket, count).await,
                Act::Lines(count) => world.wait_for_lines(side, socket, count).await,
                Act::Chunks(count) => world.wait_for_chunks(side, socket, count).await,
                Act::AsyncRead(count) => {
                    let mut space = vec![0; count];
                    let got = AsyncReadExt::read(&mut &socket, &mut space).await;
                    world.awaited(side, Face::AsyncRead, got.map(|count| &space[..count]));
                }
                _ => {}
            }
        });
    }

    /// Nothing at all is the end.
    fn awaited(&self, side: Side, face: Face, got: io::Result<&[u8]>) {
        match got {
            Ok([]) => self.tell(side, face, Some(Told::Closed)),
            Ok(bytes) => self.got(side, face, bytes),
            Err(error) => self.tell(side, face, told_io(&error)),
        }
    }

    async fn wait_for_lines(&self, side: Side, socket: Socket, count: usize) {
        let mut lines = socket.lines();
        drop(socket);
        for _ in 0..count {
            match lines.next().await {
                Some(Ok(line)) => self.got_line(side, Face::Lines, line.as_bytes()),
                Some(Err(error)) => return self.tell(side, Face::Lines, told(&error)),
                None => return self.tell(side, Face::Lines, Some(Told::Closed)),
            }
        }
    }

    async fn wait_for_frames(&self, side: Side, socket: Socket, count: usize) {
        let mut frames = socket.frames(LINES);
        drop(socket);
        for turn in 0..count {
            let next = match turn % 2 {
                0 => frames.next().await,
                _ => frames.next_slice().await.map(|frame| frame.map(<[u8]>::to_vec)),
            };
            match next {
                Some(Ok(line)) => self.got_line(side, Face::Frames, &line),
                Some(Err(error)) => return self.tell(side, Face::Frames, told(&error)),
                None => return self.tell(side, Face::Frames, Some(Told::Closed)),
            }
        }
    }

    async fn wait_for_chunks(&self, side: Side, socket: Socket, count: usize) {
        let mut chunks = socket.chunks(1000);
        drop(socket);
        for _ in 0..count {
            match chunks.next().await {
                Some(Ok(chunk)) => self.got(side, Face::Chunks, &chunk),
                Some(Err(error)) => return self.tell(side, Face::Chunks, told(&error)),
                None => return self.tell(side, Face::Chunks, Some(Told::Closed)),
            }
        }
    }

    fn wait_for_stream(self: &Rc<Self>, side: Side, most: usize) {
        let open = self.is_open(side);
        let Some(mut stream) = self.call(side, |socket| socket.clone().into_stream()) else { return };
        if open {
            self.see(side, &Event::HalfOpen);
            self.end(side).end.set(0);
            self.end(side).half_open.set(true);
        }
        let world = self.clone();
        self.spawn(side, false, async move {
            let got = stream.fill_buf().await.map(|bytes| &bytes[..most.min(bytes.len())]);
            let count = got.as_ref().map_or(0, |bytes| bytes.len());
            world.awaited(side, Face::Stream, got);
            stream.consume_unpin(count);
        });
    }

    // ---- the end ----

    fn end_it(self: &Rc<Self>, side: Side, act: Act) {
        let end = self.end(side);
        let open = self.is_open(side);
        match act {
            Act::Close => {
                if open {
                    self.see(side, &Event::Close);
                }
                let left = self.call(side, Socket::close);
                self.got(side, Face::Close, &left.unwrap_or_default());
            }
            Act::Abort => {
                if let Some(resets) = self.call(side, |socket| open && self.is_unread(socket)) {
                    self.see(side, &Event::Abort { open, resets });
                }
                let left = self.call(side, Socket::abort);
                self.got(side, Face::Close, &left.unwrap_or_default());
            }
            _ => {
                let Some(socket) = end.socket.take() else { return };
                let outer = self.set_within_call(true);
                drop(socket);
                self.set_within_call(outer);
                // Its reader, its tasks and a callback that is running keep it open.
                let kept = self.is_open_by_any_handle(side);
                self.see(side, &Event::Drop { open, kept });
            }
        }
    }
}
