//! The task of one connection: runs hyper, minds the time, and passes the connection on when it switches protocols.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;

use super::core::Core;
use super::io::GuardedIo;
use super::service::Service;
use super::settings::DISCARD_TIME;
use super::visit::{Deadline, Limit, Visit};
use crate::conn::Socket;
use crate::engine::{Sleep, UserFuture};
use crate::error::Result;
use crate::log::{self, Level};

/// hyper's own limit on a head is not to be met before ours.
const SLACK: usize = 64 << 10;

pub(super) fn start(core: &Rc<Core>, socket: Socket) {
    let visit = Visit::new(core, socket);
    core.visits.add(&visit);
    let engine = visit.engine.clone();
    // A client that has shut down its sending half gets its reply all the same.
    visit.socket.conn().set_on_end(Some(Box::new(|_| Ok(()))));
    let socket = visit.socket.clone();
    let key = engine.spawn(Rc::new(UserFuture::new(serve(visit.clone()))));
    visit.task.set(Some(key));
    drop(visit);
    // The client is gone: whatever still runs for it is dropped.
    let weak = Rc::downgrade(&engine);
    socket.disconnect_cb(move |socket, end| {
        if log::is_wanted(Level::Debug) {
            let peer = socket.remote();
            log::debug("end").peer(&peer).say(format_args!("HTTP connection to {peer} ended: {}", end.reason));
        }
        if let Some(engine) = weak.upgrade() {
            engine.drop_task(key);
        }
    });
}

/// The end of the work on a connection.
enum End {
    Done,
    Late(Limit),
    Upgrade,
}

/// Tells those who wait for replies that none will come any more.
struct Finish(Rc<Visit>);

impl Drop for Finish {
    fn drop(&mut self) {
        self.0.finish();
    }
}

async fn serve(visit: Rc<Visit>) {
    let _finish = Finish(visit.clone());
    let head = visit.core.settings.head;
    let io = GuardedIo::new(visit.clone());
    let mut connection = http1::Builder::new()
        .half_close(true)
        .max_headers(head.fields)
        .max_header_size(head.head.saturating_add(SLACK))
        .max_buf_size(head.head.saturating_add(SLACK).max(256 << 10))
        .header_read_timeout(None)
        .serve_connection(io, Service(visit.clone()));
    let mut alarm = Alarm::default();
    let end = poll_fn(|context| {
        visit.set_waker(context.waker());
        loop {
            if let Poll::Ready(result) = connection.poll_without_shutdown(context) {
                let is_upgrade = result.is_ok() && visit.upgrade.borrow().is_some();
                return Poll::Ready(if is_upgrade { End::Upgrade } else { End::Done });
            }
            if !visit.poll_discard(context) {
                break;
            }
        }
        visit.poll_deadlines(&mut alarm, context).map(End::Late)
    })
    .await;
    match end {
        End::Done => {
            drop(connection);
            if visit.is_overlong.get() {
                // It counts anew once everything is sent.
                visit.socket.set_linger(DISCARD_TIME / 2);
            }
            visit.socket.close();
        }
        // Its queue would not go out either.
        End::Late(Limit::Write) => {
            visit.socket.abort();
        }
        End::Late(_) => {
            drop(connection);
            visit.socket.close();
        }
        End::Upgrade => {
            // The gate has let nothing through behind the head: what has come since is still with the socket.
            drop(connection.into_parts());
            let upgrade = visit.upgrade.take();
            let socket = visit.socket.clone();
            drop(visit);
            socket.unset_disconnect_cb();
            socket.conn().set_on_end(None);
            if let Some(upgrade) = upgrade {
                upgrade(socket);
            }
        }
    }
}

/// The one timer of a connection. It may ring before a deadline, never after one.
#[derive(Default)]
struct Alarm {
    timer: Option<(Duration, Pin<Box<Sleep>>)>,
}

impl Alarm {
    /// Makes it ring at that time or before. Ready if that time has come.
    fn poll(&mut self, visit: &Visit, at: Duration, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let (rings, timer) = match &mut self.timer {
                Some((rings, timer)) if *rings <= at => (*rings, timer),
                timer => {
                    let left = at.saturating_sub(visit.engine.loop_time());
                    let sleep = Box::pin(Sleep::start(&visit.engine, left));
                    let (rings, timer) = timer.insert((at, sleep));
                    (*rings, timer)
                }
            };
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.timer = None;
            if rings >= at || visit.engine.loop_time() >= at {
                return Poll::Ready(());
            }
        }
    }
}

impl Visit {
    /// Reads unwanted data away. Returns whether hyper has to look anew, because that is over.
    fn poll_discard(&self, context: &mut Context<'_>) -> bool {
        let Some(mut discard) = self.discard.take() else { return false };
        let is_late = self
            .deadlines
            .read
            .get()
            .is_some_and(|deadline| deadline.of == Limit::Discard && deadline.at <= self.engine.loop_time());
        if !is_late && discard.poll(context).is_pending() {
            self.discard.replace(Some(discard));
            return false;
        }
        self.is_overlong.set(discard.is_overlong());
        self.got_input();
        true
    }

    /// Ready when a limit in time has passed and the connection is to end for it.
    fn poll_deadlines(&self, alarm: &mut Alarm, context: &mut Context<'_>) -> Poll<Limit> {
        loop {
            let deadlines = [self.deadlines.read.get(), self.deadlines.write.get()];
            let Some(next) = deadlines.into_iter().flatten().min_by_key(|deadline| deadline.at) else {
                return Poll::Pending;
            };
            if alarm.poll(self, next.at, context).is_pending() {
                return Poll::Pending;
            }
            match next.of {
                Limit::Idle | Limit::Write if self.has_progress(next) => {}
                // The gate and `poll_discard` answer for these.
                Limit::Head | Limit::Discard => {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                of => return Poll::Ready(of),
            }
        }
    }

    /// Returns whether the peer has taken some of what is queued since the limit began, and goes on then.
    fn has_progress(&self, deadline: Deadline) -> bool {
        let (before, queued) = (self.deadlines.queued.get(), self.socket.queued());
        let progress = match deadline.of {
            // The end of the last reply may be on its way. The first look only notes how much that is.
            Limit::Idle => queued > 0 && (before == 0 || queued < before),
            _ => queued < before,
        };
        self.deadlines.queued.set(queued);
        if progress {
            self.deadlines.read.set(self.deadlines.read.get().filter(|read| *read != deadline));
            self.deadlines.write.set(self.deadlines.write.get().filter(|write| *write != deadline));
            match deadline.of {
                Limit::Idle => self.await_input(Limit::Idle),
                _ => self.await_room(),
            }
        }
        progress
    }
}

/// Starts a connection from the client callback of a listener.
pub(super) fn on_client(core: Rc<Core>) -> impl FnMut(Socket) -> Result + 'static {
    move |socket| core.welcome(socket)
}
