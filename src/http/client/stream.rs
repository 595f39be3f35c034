//! The body of a response on its way: timeouts, limits, decompression, and what becomes of the connection.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::body::{Body, Bytes, Incoming};

#[cfg(feature = "gzip")]
use super::decode::Decoder;
use super::exchange::Deadline;
use super::handle::Settings;
use super::pool::Lease;
use super::url::Url;
use crate::engine::{Engine, Sleep, UserFuture, before};
use crate::error::{Error, Operation, Result};

/// The most that is read of a body that nobody wants, and the time for it. Then it is cheaper to connect anew. Meanwhile the
/// connection has its place in the pool, for which other requests may wait.
const UNWANTED: u64 = 64 << 10;
const UNWANTED_TIME: Duration = Duration::from_millis(250);

/// The time that a connection has to become ready again after an exchange.
const SETTLING: Duration = Duration::from_secs(2);

/// The kinds of limits to the time for the next piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Silence,
    Whole,
    Slow,
}

/// The body of a response.
pub(super) struct Stream {
    incoming: Incoming,
    /// `None` once it has come to its end.
    lease: Option<Lease>,
    url: Rc<Url>,
    silence: Option<Duration>,
    deadline: Deadline,
    /// At least so many bytes in such a time.
    speed: Option<(u64, Duration)>,
    /// The bytes since the speed was looked at, and the time for which they were awaited.
    window: (u64, Duration),
    /// The wait for the next piece.
    waiting: Option<(Instant, Sleep, Wait)>,
    limit: Option<u64>,
    /// Bytes as they came.
    received: u64,
    #[cfg(feature = "gzip")]
    decoder: Option<Decoder>,
}

impl Stream {
    pub(super) fn new(
        incoming: Incoming,
        lease: Lease,
        settings: &Settings,
        url: &Rc<Url>,
        deadline: Deadline,
    ) -> Self {
        let finite = |limit: &Duration| *limit < Duration::MAX;
        let mut stream = Stream {
            incoming,
            lease: Some(lease),
            url: url.clone(),
            silence: settings.idle_timeout.filter(finite),
            deadline,
            speed: settings.min_speed.filter(|(_, time)| finite(time)),
            window: (0, Duration::ZERO),
            waiting: None,
            limit: settings.max_download,
            received: 0,
            #[cfg(feature = "gzip")]
            decoder: None,
        };
        if stream.incoming.is_end_stream() {
            stream.settle();
        }
        stream
    }

    #[cfg(feature = "gzip")]
    pub(super) fn decode(&mut self, decoder: Decoder) {
        self.decoder = Some(decoder);
    }

    /// Returns the length as the server tells it.
    pub(super) fn length(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    /// Takes the limit away that is for streams: the whole body has another one.
    pub(super) fn set_limit(&mut self, limit: Option<u64>) {
        self.limit = limit;
    }

    /// Returns whether nothing more comes of it.
    pub(super) fn is_over(&self) -> bool {
        #[cfg(feature = "gzip")]
        if self.decoder.is_some() {
            return false;
        }
        self.lease.is_none()
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// The exchange is over: the connection is for the next one, or waits a little to be.
    fn settle(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        let Some(connection) = lease.connection() else { return };
        if connection.is_ready() {
            lease.done();
        } else if connection.traffic.is_sent() {
            settle_later(lease);
        }
    }

    /// Returns the next piece. `None` at the end.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        #[cfg(feature = "gzip")]
        if self.decoder.is_some() {
            return self.poll_decoded(context);
        }
        self.poll_raw(context)
    }

    #[cfg(feature = "gzip")]
    fn poll_decoded(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        while let Some(decoder) = &mut self.decoder {
            if let Some(piece) = decoder.next().map_err(|problem| self.broken(problem)).transpose() {
                return Poll::Ready(Some(piece));
            }
            match std::task::ready!(self.poll_raw(context)) {
                Some(Ok(piece)) => {
                    if let Some(decoder) = &mut self.decoder {
                        decoder.give(piece);
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    let rest = self.decoder.take().map_or(Ok(None), Decoder::end);
                    return Poll::Ready(rest.map_err(|problem| self.broken(problem)).transpose());
                }
            }
        }
        Poll::Ready(None)
    }

    #[cfg(feature = "gzip")]
    fn broken(&mut self, problem: super::decode::Problem) -> Error {
        self.lease = None;
        problem.error(self.url.to_string())
    }

    /// Returns the next piece as it comes. After an error, the connection is closed.
    fn poll_raw(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        let polled = self.poll_piece(context);
        if let Poll::Ready(Some(Err(_))) = polled {
            self.lease = None;
        }
        polled
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        loop {
            let frame = match Pin::new(&mut self.incoming).poll_frame(context) {
                Poll::Pending => return self.wait(context).map(|error| Some(Err(error))),
                Poll::Ready(frame) => frame,
            };
            if let Some((since, ..)) = self.waiting.take() {
                self.window.1 += since.elapsed();
            }
            let Some(frame) = frame else {
                self.settle();
                return Poll::Ready(None);
            };
            let piece = match (frame, &self.lease) {
                (Ok(frame), _) => match frame.into_data() {
                    Ok(piece) if !piece.is_empty() => piece,
                    // Trailers.
                    _ => continue,
                },
                (Err(error), Some(lease)) => {
                    let closed = || Error::Closed { peer: self.url.origin.to_string() };
                    return Poll::Ready(Some(Err(lease.connection().map_or_else(closed, |it| it.error(&error)))));
                }
                (Err(_), None) => return Poll::Ready(Some(Err(Error::Closed { peer: self.url.origin.to_string() }))),
            };
            self.received += piece.len() as u64;
            self.window.0 += piece.len() as u64;
            if let Err(error) = self.check_speed().and_then(|()| self.check_limit()) {
                return Poll::Ready(Some(Err(error)));
            }
            if self.incoming.is_end_stream() {
                self.settle();
            }
            return Poll::Ready(Some(Ok(piece)));
        }
    }

    fn check_limit(&self) -> Result {
        match self.limit {
            Some(limit) if self.received > limit => {
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                Err(Error::LimitExceeded { peer: self.url.to_string(), limit })
            }
            _ => Ok(()),
        }
    }

    fn check_speed(&mut self) -> Result {
        let Some((bytes, time)) = self.speed.filter(|(_, time)| self.window.1 >= *time) else { return Ok(()) };
        let is_slow = self.window.0 < bytes;
        self.window = (0, Duration::ZERO);
        if is_slow { Err(self.late(Wait::Slow, time)) } else { Ok(()) }
    }

    fn late(&self, wait: Wait, limit: Duration) -> Error {
        match wait {
            Wait::Whole => self.deadline.passed(&self.url),
            Wait::Silence | Wait::Slow => {
                Error::TimedOut { operation: Operation::Traffic, address: self.url.to_string(), limit }
            }
        }
    }

    /// Nothing is there: waits for the limit that comes first.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Error> {
        if self.waiting.is_none() {
            let limits = [
                (self.silence, Wait::Silence),
                (self.deadline.left(), Wait::Whole),
                (self.speed.map(|(_, time)| time.saturating_sub(self.window.1)), Wait::Slow),
            ];
            let first =
                limits.into_iter().filter_map(|(limit, kind)| Some((limit?, kind))).min_by_key(|(limit, _)| *limit);
            let Some((limit, kind)) = first else { return Poll::Pending };
            self.waiting = Some((Instant::now(), Sleep::limit(limit), kind));
        }
        let Some((since, sleep, kind)) = &mut self.waiting else { return Poll::Pending };
        if Pin::new(sleep).poll(context).is_pending() {
            return Poll::Pending;
        }
        let (since, kind) = (*since, *kind);
        self.waiting = None;
        self.window.1 += since.elapsed();
        if kind == Wait::Slow {
            return match self.check_speed() {
                Err(error) => Poll::Ready(error),
                Ok(()) => self.wait(context),
            };
        }
        let limit = self.silence.unwrap_or_default();
        Poll::Ready(self.late(kind, limit))
    }

    /// Reads the rest away if it is short, so that the connection can be used again.
    pub(super) async fn pass_over(mut self) {
        if !self.is_worth_reading() {
            return;
        }
        let limit = self.received + UNWANTED;
        let read = async {
            while let Some(Ok(_)) = poll_fn(|context| self.poll_raw(context)).await {
                if self.received > limit {
                    return;
                }
            }
        };
        before(Sleep::limit(UNWANTED_TIME), read).await;
    }

    fn is_worth_reading(&self) -> bool {
        self.lease.is_some() && self.length().is_none_or(|length| length <= UNWANTED)
    }

    /// The same for a body that nobody waits for. A long one is given up at once.
    pub(super) fn pass_over_later(self, engine: &Rc<Engine>) {
        if self.is_worth_reading() {
            engine.spawn(Rc::new(UserFuture::new(self.pass_over())));
        }
    }
}

/// Waits until the connection can take another request, so that it is not closed for nothing.
fn settle_later(lease: Lease) {
    let engine = lease.engine();
    let settled = async move {
        let ready = poll_fn(|context| lease.connection().map_or(Poll::Ready(false), |it| it.poll_ready(context)));
        if before(Sleep::limit(SETTLING), ready).await == Some(true) {
            lease.done();
        }
    };
    engine.spawn(Rc::new(UserFuture::new(settled)));
}
